"""Nothing leaks from one file to the next, and what the server warns of is not stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import Project, metric_sql
from tests.test_run_metrics import server_default

DAY, DAYS = "2025-01-15", ("2025-01-14", "2025-01-16")
ORDERS = """
CREATE TABLE orders (id INT PRIMARY KEY, day DATE NOT NULL, amount DECIMAL(10,2));
INSERT INTO orders VALUES (1, '2025-01-14', 5), (2, '2025-01-15', 7), (3, '2025-01-16', 11);
CREATE TABLE work_orders LIKE orders;
CREATE TABLE more_orders LIKE orders;
"""
WORK = """-- Description: Helper: the orders of the day
DELETE FROM work_orders;
INSERT INTO work_orders SELECT * FROM orders WHERE day = %(metric_date)s;
"""
REVENUE = """-- Description: Revenue of the day, from the work table
SELECT COALESCE(SUM(amount), 0) AS revenue FROM work_orders
"""


def select(sql: str, header: str = "") -> str:
    return f"-- Description: Made for a test\n{header}\n{sql}\n"


def values(project: Project, name: str) -> list[Any]:
    """Return the values of a metric by date."""
    rows = project.database.rows(f"SELECT value_list FROM bi_metrics WHERE metrics = '{name}' ORDER BY metric_date")
    return [value for (text,) in rows for value in json.loads(text).values()]


# --- temporary tables and variables end with their file ---------------------------------------------------------------


def test_a_temporary_table_of_another_file_is_not_there(project: Project) -> None:
    project.write("1_makes.sql", select("CREATE TEMPORARY TABLE day_orders SELECT DATE(%(metric_date)s) AS day;\n"
                  "SELECT COUNT(*) AS n FROM day_orders"))  # fmt: skip
    project.write("2_reads.sql", select("SELECT COUNT(*) AS n, %(metric_date)s AS day FROM day_orders"))
    for words in ([DAY], ["--initial", *DAYS], [DAY, "--dry-run"]):
        result = project.run(*words)
        assert result.returncode != 0
        assert "day_orders' doesn't exist" in result.stderr
    assert project.database.metrics() == []


def test_a_temporary_table_ends_with_its_file_however_its_name_is_written(project: Project) -> None:
    project.database.execute(ORDERS)
    made = "CREATE TEMPORARY TABLE IF NOT EXISTS `Day Orders` SELECT * FROM orders WHERE day = %(metric_date)s;\n"
    project.write("1_m.sql", select(made + "SELECT SUM(amount) AS n FROM `Day Orders`"))
    project.write("2_k.sql", select(made.replace("=", "<=") + "SELECT SUM(amount) AS n FROM `Day Orders`"))
    for words in (DAYS, ("--initial", *DAYS)):
        assert project.run(*words).returncode == 0
        assert (values(project, "m"), values(project, "k")) == ([5, 7, 11], [5, 12, 23])


def test_a_temporary_table_of_another_database_is_refused(project: Project) -> None:
    made = "CREATE TEMPORARY TABLE other.t SELECT 1 AS id;\nSELECT COUNT(*) AS n, %(metric_date)s AS d FROM other.t"
    project.write("m.sql", select(made))
    refused = project.run(DAY)
    assert refused.returncode == 2
    assert "error: forbidden-statement: a temporary table of another database would stay" in refused.stderr
    project.write("m.sql", select(made.replace("other.", f"{project.database.name}.")))
    assert project.run(DAY).returncode == 0


def test_a_temporary_table_with_the_name_of_a_real_one_is_refused(project: Project) -> None:
    project.database.execute("CREATE TABLE users (id INT); INSERT INTO users VALUES (1), (2)")
    project.write("users_seen.sql", select("CREATE TEMPORARY TABLE Users SELECT * FROM users LIMIT 1;\n"
                  "SELECT COUNT(*) AS n, %(metric_date)s AS day FROM users"))  # fmt: skip
    for result in (project.run(DAY), project.list("--check")):
        assert "error: hides-a-table: the temporary table users would hide the table" in result.stderr + result.stdout
        assert result.returncode in (1, 2)


def test_a_check_sees_no_temporary_table(project: Project) -> None:
    project.write("m.sql", select("CREATE TEMPORARY TABLE found SELECT DATE(%(metric_date)s) AS day;\n"
                  "SELECT COUNT(*) AS n FROM found", "-- Check: SELECT 1 FROM found"))  # fmt: skip
    result = project.run(DAY)
    assert result.returncode == 1
    assert "found' doesn't exist" in result.stderr


# --- work tables ------------------------------------------------------------------------------------------------------


@pytest.fixture
def work(project: Project) -> Project:
    """A work table, a set-based file between it and the metric that reads it, and a second reader."""
    project.database.execute(ORDERS)
    project.write("05_work_orders.sql", WORK)
    project.write("07_per_day.sql", select("SELECT day AS metric_date, COUNT(*) AS n FROM orders WHERE day BETWEEN "
                  "%(start_date)s AND %(metric_date)s GROUP BY day"))  # fmt: skip
    project.write("10_revenue.sql", REVENUE)
    project.write("20_biggest.sql", select("SELECT MAX(amount) AS amount FROM work_orders"))
    return project


@pytest.mark.parametrize("words", [DAYS, ("--initial", *DAYS), ("--initial", *DAYS, "--chunk", "month")])
def test_a_work_table_and_what_reads_it_run_date_by_date(work: Project, words: tuple[str, ...]) -> None:
    result = work.run(*words)
    assert result.returncode == 0, result.stderr
    assert [values(work, name) for name in ("revenue", "biggest", "per_day")] == [[5, 7, 11], [5, 7, 11], [1, 1, 1]]
    assert work.database.rows("SELECT DISTINCT metric FROM bi_metric_state ORDER BY 1") == [
        ("biggest",), ("per_day",), ("revenue",)
    ]  # fmt: skip
    verified = work.run("--verify", *DAYS)
    assert verified.stdout == "Both ways compared, nothing kept: 9 equal, 0 different.\n", verified.stderr


def test_a_work_table_runs_for_the_metric_that_needs_it_and_for_no_other(work: Project) -> None:
    assert work.run(DAY, "--metric", "per_day").returncode == 0
    assert work.database.rows("SELECT COUNT(*) FROM work_orders") == [(0,)]
    assert work.run(DAY, "--metric", "biggest").returncode == 0
    assert (values(work, "biggest"), values(work, "revenue")) == ([7], [])


def test_a_work_table_that_fails_is_the_failure_of_what_reads_it(work: Project) -> None:
    work.write("05_work_orders.sql", WORK.replace("FROM orders", "FROM nowhere"))
    result = work.run(DAY, env={"METRICS_ON_FAILURE": "metric"})
    assert result.returncode == 1
    assert (values(work, "per_day"), values(work, "revenue")) == ([1], [])
    failed = work.database.rows("SELECT metric FROM bi_metric_state WHERE error LIKE '%nowhere%' ORDER BY 1")
    assert failed == [("biggest",), ("revenue",)]


# --- warnings ---------------------------------------------------------------------------------------------------------

WARNED = {
    "text as a number": ("SELECT CAST('12abc' AS SIGNED) AS n", None),
    "a date that is none": ("SELECT STR_TO_DATE('15/01/2025', '%%Y-%%m-%%d') AS n", None),
    "UNHEX of no hexadecimal text": ("SELECT HEX(UNHEX('xyz')) AS n", "mysql"),
    "a date out of range": ("SELECT DATE_ADD('9999-12-31', INTERVAL 1 DAY) AS n", None),
    "a text over max_allowed_packet": ("SELECT LENGTH(REPEAT('x', @@max_allowed_packet + 1)) AS n", None),
    "a division by zero": ("SELECT 7 / (LENGTH(%(metric_date)s) - 10) AS n", None),
    "a logarithm of a negative number": ("SELECT LN(-LENGTH(%(metric_date)s)) AS n", None),
    "characters that are lost": ("SELECT CONVERT(CONVERT(x'F09F8E89' USING utf8mb4) USING latin1) AS n", "mariadb"),
    "a cut GROUP_CONCAT": ("SELECT LENGTH(GROUP_CONCAT(REPEAT('x', 40000000))) AS n FROM (SELECT 1 UNION SELECT 2) t",
                           None),
}  # fmt: skip


@pytest.mark.parametrize("warned", WARNED)
@pytest.mark.parametrize("form", ["SELECT", "SET @x", "INTO @x", "behind many"])
def test_what_the_server_warns_of_is_not_stored(project: Project, engine: str, warned: str, form: str) -> None:
    sql, only = WARNED[warned]
    if only and not engine.startswith(only):
        pytest.skip(f"no warning, or an error, on this engine: only on {only}")
    date = "-- %(metric_date)s\n" if "metric_date" in sql else ""
    stored = "SELECT 1 AS n, %(metric_date)s AS day"
    text = {
        "SELECT": sql.replace(" AS n", " AS n, %(metric_date)s AS day", 1),
        "SET @x": f"SET @x = ({sql.replace(' AS n', '', 1)});\n{stored}, @x AS x",
        "INTO @x": f"{sql.replace(' AS n', ' INTO @x', 1) if ' FROM ' not in sql else sql + ' INTO @x'};\n"
                   f"{stored}, @x AS x",
        "behind many": "SELECT n, v, %(metric_date)s AS day FROM (SELECT SUM(CAST(CONCAT(t, 'x') AS SIGNED)) AS v FROM "
                       f"JSON_TABLE('{list(range(100))}', '$[*]' COLUMNS (t VARCHAR(9) PATH '$')) j) q, ({sql}) r",
    }[form]  # fmt: skip
    project.write("m.sql", select(date + text))
    result = project.run(DAY)
    assert (result.returncode, project.database.metrics()) == (1, []), result.stdout + result.stderr
    assert "correct" in result.stderr
    project.write("m.sql", select(date + text, "-- Allow: warnings"))
    assert project.run(DAY).returncode == 0


def test_notes_and_deprecations_fail_nothing(project: Project) -> None:
    text = metric_sql("m").replace("value_list = d.v", "value_list = VALUES(value_list)")
    project.write("m.sql", text.replace("INSERT", "DROP TEMPORARY TABLE IF EXISTS never;\nINSERT", 1))
    assert project.run(DAY).returncode == 0


# --- INSERT metrics ---------------------------------------------------------------------------------------------------


def test_a_title_like_the_blank_is_a_title(project: Project) -> None:
    project.write("title.sql", metric_sql("title", "'not computed yet'"))
    for _ in range(2):
        assert project.run(DAY).returncode == 0
    assert values(project, "title") == ["not computed yet"]


@pytest.mark.parametrize("empty", ["", "-- Empty: ok"])
def test_a_row_of_another_date_is_refused(project: Project, empty: str) -> None:
    good = metric_sql("m", "DAY(%(metric_date)s)", empty)
    project.write("m.sql", good)
    assert project.run(*DAYS).returncode == 0
    project.write("m.sql", good.replace("d.v, %(metric_date)s FROM", "d.v, %(metric_date)s - INTERVAL 1 DAY FROM"))
    result = project.run(DAYS[1])
    assert result.returncode == 1
    assert "sql/m.sql: wrote" in result.stderr
    assert values(project, "m") == [14, 15, 16]


def test_a_data_type_other_than_the_header_s_is_refused(project: Project) -> None:
    project.write("m.sql", metric_sql("m").replace("-- Data Type: card", "-- Data Type: ranking"))
    result = project.run(DAY)
    assert result.returncode == 1
    assert "sql/m.sql: wrote data_type card, and its header says ranking; add data_type = VALUES" in result.stderr


def test_an_upsert_that_renews_value_list_alone_is_enough_until_its_sql_changes(project: Project) -> None:
    alone = metric_sql("m", "DAY(%(metric_date)s)").replace(", f_list = VALUES(f_list)", "")
    project.write("m.sql", alone)
    for _ in range(2):
        assert project.run(DAY).returncode == 0
    changed = alone.replace("DAY(", "-DAY(", 1)
    project.write("m.sql", changed)
    result = project.run(DAY)
    assert result.returncode == 1
    assert "does not renew f_list; add f_list = VALUES(f_list) to ON DUPLICATE KEY UPDATE" in result.stderr
    assert values(project, "m") == [15]
    renewed = "value_list = d.v, f_list = VALUES(f_list)"
    project.write("m.sql", changed.replace("value_list = d.v", renewed))
    assert project.run(DAY).returncode == 0
    assert values(project, "m") == [-15]


@pytest.mark.parametrize("text", [r'{"n": "C:\\x"}', '{"n": 1.}'])
def test_json_that_not_every_reader_takes_is_refused_and_old_text_is_compared_as_text(
    project: Project, engine: str, text: str
) -> None:
    bad = metric_sql("m").replace("JSON_OBJECT('n', 1)", f"'{text}'")
    project.write("m.sql", bad)
    result = project.run(DAY)
    assert result.returncode == 1
    assert "sql/m.sql" in result.stderr
    assert project.database.metrics() == []
    if engine == "mysql":
        return  # it stores no such text
    project.database.execute(f"INSERT INTO bi_metrics (metrics, f_list, value_list, metric_date) VALUES "
                             f"('m', '[\"n\"]', '{text}', '{DAY}')")  # fmt: skip
    project.write("m.sql", metric_sql("m", "7"))
    assert project.run(DAY).returncode == 0
    assert values(project, "m") == [7]
    assert project.list("--html", str(project.folder / "page.html")).returncode == 0


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_runs_the_helpers_of_each_way(project: Project) -> None:
    project.database.execute("CREATE TABLE events (day DATE); CREATE TABLE per_day (day DATE PRIMARY KEY, n INT); "
                             "INSERT INTO events VALUES ('2025-01-14'), ('2025-01-15'), ('2025-01-16')")  # fmt: skip
    fill = (
        "REPLACE INTO per_day SELECT day, {} FROM events WHERE day BETWEEN %(start_date)s AND %(metric_date)s "
        "GROUP BY day"
    )
    project.write("initial/05_fill.sql", select(fill.format("COUNT(*)")))
    project.write("incremental/05_fill.sql", select(fill.format("2 * COUNT(*)")))
    project.write("10_events.sql", select("SELECT n FROM per_day WHERE day = %(metric_date)s"))
    found = project.run("--verify", *DAYS)
    assert found.returncode == 4, found.stdout + found.stderr
    assert "2025-01-15  events  at once -> date by date: n: 1 -> 2" in found.stdout
    assert project.database.rows("SELECT COUNT(*) FROM per_day") == [(0,)]


def test_verify_judges_value_by_value_and_says_what_cannot_be_compared(project: Project) -> None:
    project.write("initial/m.sql", select("SELECT 1 AS a, UUID_SHORT() AS b, %(metric_date)s AS day"))
    project.write("incremental/m.sql", select("SELECT 1 AS a, UUID_SHORT() AS b, %(metric_date)s AS day"))
    unsure = project.run("--verify", *DAYS)
    assert unsure.returncode == 1
    assert "3 rows could not be compared" in unsure.stdout
    project.write("incremental/m.sql", select("SELECT 2 AS a, UUID_SHORT() AS b, %(metric_date)s AS day"))
    found = project.run("--verify", *DAYS)
    assert found.returncode == 4
    assert "2025-01-16  m  at once -> date by date: a: 1 -> 2\n" in found.stdout


@pytest.mark.parametrize("changes", [
    "UPDATE work_orders SET amount = amount * 100 WHERE day = %(metric_date)s",
    "REPLACE INTO work_orders SELECT id + 100, day, amount * 10 FROM orders WHERE day = %(metric_date)s",
])  # fmt: skip
def test_a_work_table_that_another_file_writes_is_refused(project: Project, changes: str) -> None:
    project.database.execute(ORDERS)
    project.write("1_work.sql", WORK)
    project.write("2_more.sql", select(changes, "-- Allow: changes-source"))
    project.write("3_revenue.sql", REVENUE)
    refused = project.run(DAY)
    assert refused.returncode == 2
    assert "sql/2_more.sql:3:1: error: work-table: work empties and fills this table before each" in refused.stderr


def test_warnings_behind_as_many_notes_as_the_server_counts_are_seen(project: Project, engine: str) -> None:
    digits = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4)"
    joined = " CROSS JOIN ".join(f"{digits} AS t{n}" for n in range(7))  # 78,125 rows
    project.database.execute("CREATE TABLE big (id INT AUTO_INCREMENT PRIMARY KEY, t VARCHAR(9) NOT NULL)")
    project.database.execute(f"INSERT INTO big (t) SELECT '7 ' FROM {joined}; INSERT INTO big (t) VALUES ('1,000')")
    project.write("m.sql", select("SELECT SUM(CAST(t AS SIGNED)) AS n, %(metric_date)s AS d FROM big"))
    failed = project.run(DAY)
    assert failed.returncode == 1, failed.stdout
    assert "the server has more warnings than it shows" in failed.stderr or "(1292)" in failed.stderr


def test_a_division_by_zero_fails_whatever_the_server_s_sql_mode_is(project: Project) -> None:
    with server_default(project.database, "sql_mode", ""), server_default(project.database, "sql_auto_is_null", 1):
        project.write("m.sql", select("SELECT COALESCE(7 / (LENGTH(%(metric_date)s) - 10), 0) AS n"))
        failed = project.run(DAY)
    assert failed.returncode == 1
    assert "(1365) Division by" in failed.stderr
