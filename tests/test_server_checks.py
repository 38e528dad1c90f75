"""What the server says of metric files before they run: EXPLAIN, tables read whole, engines that cannot roll back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from config.database import load_settings
from src.db_manager import DatabaseManager
from src.metric_file.file import MetricFile, parse
from src.metric_file.parameters import Parameters
from src.metric_file.server_checks import (
    _full_scans,
    ask_server,
    keyless_temporary_tables,
    named_zones,
    tables_without_a_date,
    with_what_is_behind,
    wrong_engines,
)
from src.metric_file.step import Step, line_of
from src.sql_loader import load_catalog
from tests.conftest import Project, connect, metric_sql, own_server, run_script
from tests.engines import install
from tests.test_run_metrics import connected, server_default

TABLES = f"""
CREATE TABLE big (id INT AUTO_INCREMENT PRIMARY KEY, at DATETIME, user_id INT, KEY (at));
INSERT INTO big (at, user_id) VALUES ('2025-01-01 12:00:00', 1);
{"INSERT INTO big (at, user_id) SELECT at + INTERVAL id DAY, user_id + 1 FROM big;" * 8}
CREATE TABLE helper (day DATE, n INT) ENGINE = MyISAM;
CREATE TABLE lasting (day DATE PRIMARY KEY, n INT);
"""
MANY_ROWS = f"""
{"INSERT INTO big (at, user_id) SELECT at, user_id + 1 FROM big;" * 10}
ANALYZE TABLE big;
"""
# MariaDB reads such a range with a rowid filter, and its plan then says `rows = '504 (19%)'`.
CARDS = """
CREATE TABLE payments (id INT PRIMARY KEY, at DATETIME NOT NULL, method INT NOT NULL, note CHAR(100) NOT NULL,
    KEY (at), KEY (method));
INSERT INTO payments WITH RECURSIVE d AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM d WHERE n < 999)
SELECT a.n * 4 + b.n, '2025-01-01' + INTERVAL (a.n * 4 + b.n) * 20 MINUTE, MOD(a.n * 4 + b.n, 5), 'paid'
FROM d AS a JOIN d AS b ON b.n < 4;
ANALYZE TABLE payments;
"""


@pytest.fixture
def asked(project: Project) -> Project:
    """A project whose database has a table with an index on a time; of 256 rows, and after MANY_ROWS of 262,144."""
    project.database.execute(TABLES)
    return project


def problems(project: Project) -> tuple[list[str], int]:
    """Return what the server says of all files, and how many statements were left out."""
    catalog = load_catalog(project.folder / "sql")
    database = DatabaseManager(load_settings(project.folder, project.environment()))
    database.connect()
    try:
        steps = [Step(file, (date(2025, 1, 15),), Parameters({}, None)) for file in catalog.files]
        found, left_out = ask_server(database, steps)
        return [str(problem) for problem in (*found, *wrong_engines(database, catalog.files, catalog))], left_out
    finally:
        database.close()


def test_errors_of_every_kind_of_statement_and_of_checks_have_file_and_line(asked: Project) -> None:
    asked.write("1_a.sql", "-- Check: SELECT 1 FROM nowhere\n\nSELECT nope\n\nFROM big WHERE at = %(metric_date)s")
    asked.write("2_b.sql", "\nUPDATE lasting SET m = 1 WHERE day = %(metric_date)s;\n\n\nSELECT\n1 FROM nothing")
    asked.write("3_c.sql", metric_sql("c", "1", where="\n\nFROM big WHERE missing = 1"))
    found, left_out = problems(asked)
    assert left_out == 0
    start = [line.split(" ")[0] + line.split(": ")[3][:6] for line in found]
    assert start == ["sql/1_a.sql:1:11:(1146)", "sql/1_a.sql:3:1:(1054)", "sql/2_b.sql:2:1:(1054)",
                     "sql/2_b.sql:5:1:(1146)", "sql/3_c.sql:5:1:(1054)"], found  # fmt: skip
    assert all(": error: explain: " in line for line in found)


def test_a_table_read_whole_is_a_warning_and_a_range_of_its_index_is_none(asked: Project) -> None:
    asked.database.execute(MANY_ROWS)
    count = "SELECT COUNT(DISTINCT user_id) AS users FROM big AS b WHERE {}"
    asked.write("1_wrapped.sql", count.format("DATE_FORMAT(b.at, '%%Y-%%m-%%d') = %(metric_date)s"))
    asked.write("2_range.sql", count.format("b.at >= %(metric_date)s AND b.at < %(metric_date)s + INTERVAL 1 DAY"))
    asked.write("3_variable.sql", "SET @u = 5;\n" + count.format("b.user_id = @u AND %(metric_date)s IS NOT NULL"))
    found, left_out = problems(asked)
    assert [line.split(": ")[0] for line in found] == ["sql/1_wrapped.sql:1:1", "sql/3_variable.sql:2:1"], found
    assert all(": warning: full-scan: " in line and "big" in line for line in found)
    assert left_out == 0


def test_a_plan_with_a_rowid_filter_stops_no_run(project: Project) -> None:
    project.database.execute(CARDS)
    project.write("by_card.sql", "SELECT COUNT(*) AS n FROM payments WHERE at >= %(metric_date)s - INTERVAL 6 DAY "
                  "AND at < %(metric_date)s + INTERVAL 1 DAY AND method = 4")  # fmt: skip
    for words in (["2025-01-14", "2025-01-16"], ["--initial", "2025-01-14", "2025-01-16"]):
        result = project.run(*words)
        assert result.returncode == 0, result.stderr
    assert project.database.metrics()[-1] == ("by_card", "2025-01-16", '{"n": 101}')


LARGE = {"table": "big", "type": "ALL", "rows": 262144}


@pytest.mark.parametrize(
    ("row", "warns"),
    [
        (LARGE, True),
        (LARGE | {"type": "index"}, True),
        (LARGE | {"rows": "262144"}, True),
        (LARGE | {"rows": "262144 (5%)"}, True),
        (LARGE | {"rows": "3344 (5%)"}, False),
        (LARGE | {"type": "range|filter", "rows": "262144 (5%)"}, False),
        (LARGE | {"rows": "many"}, False),
        (LARGE | {"rows": ""}, False),
        (LARGE | {"rows": "9" * 10_000}, True),
        (LARGE | {"rows": None}, False),
        (LARGE | {"type": None}, False),
        (LARGE | {"table": None}, False),
        ({"EXPLAIN": "-> Table scan on big  (rows=262144)"}, False),
        ({}, False),
    ],
)
def test_a_plan_that_cannot_be_read_is_no_advice(row: dict[str, Any], warns: bool) -> None:
    script = parse("SELECT 1 FROM big")
    file = MetricFile("x", "sql/x.sql", None, None, False, script)
    assert bool(list(_full_scans(file, script.statements[0], [row]))) == warns


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("(1064) near 'FORM t' at line 2", 4),
        ("(1064) near 'say \\'at line 900\\'' at line 3", 5),
        ("(1064) near 'at line 900' in Zeile 2", 3),
        ("(1064) near 'x' at line 99999999999", 3),
        ("(1064) near 'x' at line \u0663", 3),
        ("(1054) Unknown column 'at line 2' in 'field list'", 3),
        ("", 3),
    ],
)
def test_the_line_of_an_error_is_one_of_the_file(message: str, line: int) -> None:
    statement = parse("\n\nSELECT 1,\n2,\n3\nFROM t").statements[0]
    assert line_of(statement, message) == line


def test_what_reads_a_temporary_table_is_left_out_and_counted(asked: Project) -> None:
    asked.write("1_make.sql", "CREATE TEMPORARY TABLE found SELECT 1 AS n;\nSELECT n, %(metric_date)s AS d FROM found")
    asked.write("2_use.sql", "-- Check: SELECT 1 FROM found\nSELECT COUNT(*) AS n, %(metric_date)s AS d FROM found")
    assert problems(asked) == ([], 3)


def test_a_view_that_the_account_may_not_explain_is_left_out_and_counted(asked: Project) -> None:
    database = asked.database
    account = f"{database.name}_viewer"
    database.execute(
        f"CREATE VIEW seen AS SELECT * FROM lasting; CREATE USER {account}; "
        f"GRANT SELECT ON {database.name}.seen TO {account}; GRANT SELECT ON {database.name}.bi_metrics TO {account}"
    )
    asked.write("1_view.sql", "SELECT COUNT(*) AS n FROM seen WHERE day = %(metric_date)s")
    asked.env["DB_USER"] = account
    found, left_out = problems(asked)
    database.execute(f"DROP USER {account}")
    assert (found, left_out) == ([], 1)


def test_a_table_that_cannot_roll_back_is_an_error_where_it_is_written(asked: Project) -> None:
    asked.write("1_helper.sql", "DELETE FROM lasting WHERE day = %(metric_date)s;\n\n"
                "INSERT INTO helper SELECT %(metric_date)s, 1")  # fmt: skip
    asked.write("2_reader.sql", "SELECT COUNT(*) AS n FROM helper WHERE day = %(metric_date)s")
    (found,), _ = problems(asked)
    assert found.startswith("sql/1_helper.sql:3:1: error: cannot-roll-back: ")
    assert "MyISAM" in found
    assert "ENGINE = InnoDB" in found


@pytest.mark.parametrize(
    ("writes", "behind"), [("UPDATE joined", True), ("UPDATE {}.joined", True), ("UPDATE {}.helper", False)]
)
def test_a_table_that_cannot_roll_back_is_named_once_and_with_the_view_before_it(
    asked: Project, writes: str, behind: bool
) -> None:
    here = asked.database.name
    asked.database.execute("CREATE VIEW joined AS SELECT l.day, l.n, h.n AS m FROM lasting AS l JOIN helper AS h "
                           "ON l.day = h.day")  # fmt: skip
    update = f"{writes.format(here)} SET n = 1 WHERE day = %(metric_date)s"
    both = f"{update};\n{update.replace(f'{here}.', '')}"
    asked.write("1_fills.sql", f"-- Description: d\n-- Allow: changes-source\n{both}")
    (found,) = (line for line in asked.list("--check").stdout.splitlines() if "cannot-roll-back" in line)
    assert found.startswith("sql/1_fills.sql:3:1: error: cannot-roll-back: helper is in engine MyISAM, ")
    told = "; it is behind joined: if that only reads it, write the other table without joined"
    assert found.endswith("run ALTER TABLE helper ENGINE = InnoDB" + told * behind)


def definitions(project: Project) -> Mapping[str, str]:
    """Return what the server says of the views and functions that the files name."""
    catalog = load_catalog(project.folder / "sql")
    database = DatabaseManager(load_settings(project.folder, project.environment()))
    database.connect()
    try:
        return with_what_is_behind(database, catalog).behind_sql
    finally:
        database.close()


VIEWS = """
CREATE TABLE orders (day DATE PRIMARY KEY, n INT);
CREATE VIEW counted AS SELECT metrics FROM bi_metrics;
CREATE FUNCTION doubled(n INT) RETURNS INT READS SQL DATA RETURN n * (SELECT COUNT(*) FROM counted);
CREATE VIEW inner_view AS SELECT day, doubled(n) AS n FROM orders;
CREATE VIEW Best AS SELECT day, n FROM inner_view;
CREATE VIEW not_named AS SELECT metrics FROM bi_metrics;
"""


def test_the_views_and_functions_that_files_name_are_found_through_each_other(project: Project) -> None:
    database = project.database
    database.execute(VIEWS)
    project.write("a.sql", "SELECT MAX(n) AS n FROM best JOIN orders WHERE day = %(metric_date)s")
    found = definitions(project)
    here = database.name
    assert found.keys() == {"best", f"{here}.inner_view", f"{here}.doubled()", f"{here}.counted"}
    assert "inner_view" in found["best"]
    assert found[f"{here}.doubled()"].startswith("RETURN n * (SELECT COUNT(*) FROM counted)")
    account = f"{here}_blind"
    database.execute(f"CREATE USER {account}; GRANT SELECT, EXECUTE ON {here}.* TO {account}")
    project.env["DB_USER"] = account
    project.write("b.sql", "SELECT Doubled (1) AS n FROM inner_view WHERE day = %(metric_date)s")
    assert definitions(project) == {"best": "", "inner_view": "", "doubled()": ""}
    database.execute(f"DROP USER {account}")


def test_a_view_of_another_database_is_found_where_a_file_names_that(project: Project) -> None:
    here, other = project.database.name, f"{project.database.name}_Reports"
    project.database.execute(
        f"CREATE DATABASE {other}; CREATE VIEW {other}.Numbers AS SELECT metrics FROM {here}.bi_metrics; "
        f"CREATE VIEW {other}.users AS SELECT 1 AS id"
    )
    project.write("a.sql", f"SELECT COUNT(*) AS n FROM {other}.Numbers JOIN users WHERE %(metric_date)s")
    found = definitions(project)
    project.database.execute(f"DROP DATABASE {other}")
    assert found.keys() == {f"{other.lower()}.numbers"}
    assert "bi_metrics" in found[f"{other.lower()}.numbers"]


def test_a_file_that_names_no_view_finds_none(project: Project) -> None:
    project.write("a.sql", "SELECT 1 AS n, %(metric_date)s AS d")
    assert definitions(project) == {}


READS_METRICS = "(IN unused INT) SELECT COUNT(*) FROM bi_metrics"


def test_a_view_is_looked_into_though_a_procedure_has_its_name(project: Project) -> None:
    project.database.execute("CREATE VIEW totals AS SELECT metrics FROM bi_metrics; "
                             "CREATE PROCEDURE totals() DO 1")  # fmt: skip
    project.write("a.sql", "-- Description: d\nSELECT COUNT(*) AS n, %(metric_date)s AS d FROM totals")
    refused = project.run("2025-01-15")
    assert refused.returncode == 2
    assert "reads-unclear: it is unclear which metrics this reads: totals reads bi_metrics" in refused.stderr


@pytest.mark.parametrize("hidden", [False, True])
def test_a_procedure_with_the_name_of_a_table_is_behind_no_file(project: Project, hidden: bool) -> None:
    account, here = f"{project.database.name}_blind", project.database.name
    project.database.execute(
        f"CREATE TABLE daily (day DATE PRIMARY KEY, n INT); CREATE PROCEDURE daily{READS_METRICS}; "
        f"CREATE PROCEDURE `sum`{READS_METRICS}; "
        "CREATE TABLE noted (day DATE); CREATE TRIGGER noting AFTER INSERT ON noted FOR EACH ROW "
        "INSERT INTO daily (day, n) VALUES (NEW.day, 1) ON DUPLICATE KEY UPDATE n = 1; "
        f"CREATE USER {account}; GRANT SELECT, INSERT, UPDATE, DELETE, EXECUTE, TRIGGER ON {here}.* TO {account}"
    )
    insert = "INSERT INTO {} (day) VALUES (%(metric_date)s)"
    project.write("1_fills.sql", f"-- Description: d\n{insert.format('daily')} ON DUPLICATE KEY UPDATE n = n")
    project.write("2_a.sql", "-- Description: d\nSELECT SUM(n) AS n FROM daily WHERE day = %(metric_date)s")
    project.write("3_notes.sql", f"-- Description: d\n{insert.format('noted')}")
    if hidden:
        project.env["DB_USER"] = account
    found = project.list("--check")
    project.database.execute(f"DROP USER {account}")
    assert "reads-unclear" not in found.stdout, found.stdout


def test_a_procedure_that_code_calls_is_looked_into(project: Project) -> None:
    here = project.database.name
    project.database.execute(
        f"CREATE PROCEDURE counts{READS_METRICS}; CREATE FUNCTION counted() RETURNS INT READS SQL DATA "
        f"BEGIN CALL {here}.counts(1); RETURN 1; END; CREATE VIEW best AS SELECT counted() AS n"
    )
    project.write("a.sql", "SELECT n, %(metric_date)s AS d FROM best")
    assert f"{here}.procedure counts" in definitions(project)
    assert f"{here}.procedure counts reads bi_metrics" in project.run("2025-01-15").stderr


# --- what the server has to know, or requires -------------------------------------------------------------------------

ZONES = "SELECT CONVERT_TZ(at, {}) AS n, %(metric_date)s AS d FROM big LIMIT 1"
SET_ZONES = "SET @zone = 'Mars/Set', @twice = 'Mars/1'; SET @twice = 'Mars/2'; " + (
    "SET @selected = 'Mars/3', @assigned = ''; SELECT 1, 'UTC' INTO @one, @Selected; SELECT @assigned := 'UTC';"
)
LOAD = "load its zone tables (mysql_tzinfo_to_sql, mariadb-tzinfo-to-sql), or use %(day_start_utc)s"
TELL_UTC = """
INSERT INTO mysql.time_zone_name VALUES ('UTC', 1000); INSERT INTO mysql.time_zone VALUES (1000, 'N');
INSERT INTO mysql.time_zone_transition_type VALUES (1000, 0, 0, 0, 'UTC');
"""


def of_folder(project: Project, ask: Any, **env: str) -> list[str]:
    catalog = load_catalog(project.folder / "sql")
    with connected(project, **env) as database:
        return [str(problem) for problem in ask(database, catalog.files)]


def zones_of(project: Project, **env: str) -> list[str]:
    """Return what named_zones() finds, with a parameter %(own_zone)s and what is behind the views."""
    catalog = load_catalog(project.folder / "sql")
    with connected(project, **env) as database:
        catalog = with_what_is_behind(database, catalog)
        files = [file for file in catalog.files if not file.disabled]
        return [str(each) for each in named_zones(database, files, {"own_zone": "Mars/Own"}, catalog)]


@pytest.mark.parametrize(
    ("arguments", "unknown"),
    [
        ("'+00:00', '+08:00'", []),
        ("'SYSTEM', '-5:30'", []),
        ("'+00:00', '+15:00'", ["+15:00"]),
        ("'UTC', \"Mars/Base\"", ["UTC", "Mars/Base"]),
        ("'Mars/Base', 'Mars/Base'", ["Mars/Base"]),
        ("'+00:00', 'It''s'", ["It's"]),
        ("zone, IF(zone = 'Mars/Base', 'UTC', zone)", []),
        ("@@session.time_zone, %(zone)s", []),
        ("'+00:00', %(own_zone)s", ["Mars/Own"]),
        ("'+00:00', N'Mars/Base'", ["Mars/Base"]),
        ("_utf8mb4'Mars/Base', '+00:00'", ["Mars/Base"]),
        ("'+00:00', CONCAT('Mars', '/', %(own_zone)s)", ["Mars/Mars/Own"]),
        ("COALESCE(NULL, 'Mars/Base'), '+00:00'", []),
        ("'+00:00', 'Mars' '/Base'", ["Mars/Base"]),
        ("'+00:00', @zone", ["Mars/Set"]),
        ("'+00:00', @twice", []),
        ("'+00:00', @selected", []),
        ("'+00:00', @assigned", []),
        ("'+00:00', COALESCE(_zone, 'Mars/Base')", []),
        ("'+00:00', COALESCE(N, 'Mars/Base')", []),
        ("zone, CONVERT_TZ('Mars/Base', '+00:00', '+00:00')", []),
        ("'+00:00', '+00:00'), CONVERT_TZ(at, 'Mars/Base', '+00:00'", ["Mars/Base"]),
    ],
)
def test_a_zone_that_the_server_does_not_know_is_an_error(project: Project, arguments: str, unknown: list[str]) -> None:
    project.write("zones.sql", f"{SET_ZONES}\n{ZONES.format(arguments)}")
    found = zones_of(project)
    assert [line.split("'", 1)[1].split("', so")[0] for line in found] == unknown, found
    for line in found:
        assert line.startswith("sql/zones.sql:2:")
        assert ": error: unknown-time-zone: the server does not know the time zone '" in line
        assert line.endswith("correct the offset" if "+15:00" in unknown else LOAD), line


ZONES_BEHIND = """
CREATE TABLE logins (at DATETIME);
CREATE VIEW local AS SELECT CONVERT_TZ(at, '+00:00', 'Mars/Base') AS at FROM logins;
CREATE VIEW over_local AS SELECT at FROM local;
CREATE FUNCTION shifted(at DATETIME) RETURNS DATETIME NO SQL RETURN CONVERT_TZ(at, '+00:00', 'Mars/Moon');
CREATE TRIGGER shift BEFORE INSERT ON logins FOR EACH ROW SET NEW.at = CONVERT_TZ(NEW.at, 'Mars/Sea', '+00:00');
"""
SHIFT_METRICS = """
CREATE TRIGGER shift_metrics BEFORE INSERT ON bi_metrics FOR EACH ROW SET @at = CONVERT_TZ(NOW(), '+00:00', 'Mars/Sky')
"""


@pytest.mark.parametrize(
    ("sql", "at", "behind", "zone"),
    [
        ("SELECT COUNT(at) AS n, %(metric_date)s AS d FROM local", "2:50", "local", "Mars/Base"),
        ("SELECT COUNT(at) AS n, %(metric_date)s AS d FROM over_local", "2:50", ".local", "Mars/Base"),
        ("SELECT shifted(%(metric_date)s) AS n", "2:8", "shifted()", "Mars/Moon"),
        ("DELETE FROM logins;\nINSERT INTO logins VALUES (%(metric_date)s)", "2:1", "trigger of logins", "Mars/Sea"),
        ("DO 1;\nSELECT 1 AS n, %(metric_date)s AS d", "3:1", "trigger of bi_metrics", "Mars/Sky"),
        ("-- Check: SELECT 1 FROM local WHERE at IS NULL\nSELECT 1 AS n, %(metric_date)s AS d", "2:25", "local",
         "Mars/Base"),
    ],
)  # fmt: skip
def test_a_zone_in_a_view_is_asked_for_where_a_file_uses_it(
    project: Project, sql: str, at: str, behind: str, zone: str
) -> None:
    project.database.execute(ZONES_BEHIND + (SHIFT_METRICS if "Sky" in zone else ""))
    file = project.write("a.sql", f"-- Description: d\n{sql}")
    (found,) = zones_of(project)
    assert found.startswith(f"sql/a.sql:{at}: error: unknown-time-zone: ")
    assert f"{behind}: the server does not know the time zone '{zone}'" in found
    refused = project.run("2025-01-15")
    assert (refused.returncode, "unknown-time-zone" in refused.stderr) == (2, True)
    project.database.execute("DROP TRIGGER IF EXISTS shift_metrics")
    file.rename(file.with_name("_a.sql"))
    project.write("b.sql", "-- Description: d\nSELECT 1 AS n, %(metric_date)s AS d")
    assert zones_of(project) == []
    assert project.run("2025-01-15").returncode == 0


def test_a_misspelt_zone_is_told_from_zone_tables_that_are_empty(
    project: Project, engine: str, tmp_path: Path
) -> None:
    project.write("a.sql", "-- Check:  SELECT 1 FROM big WHERE CONVERT_TZ(at, 'Utc', '+00:00') IS NULL\n\n"
                  + ZONES.format("'UTC', 'Europe/Berlni'"))  # fmt: skip
    places = [line.split(" ")[0] for line in zones_of(project)]
    assert places == ["sql/a.sql:1:51:", "sql/a.sql:3:23:", "sql/a.sql:3:30:"]
    with own_server(install(engine), tmp_path / "server") as server:  # for a server never forgets a zone
        with connect(server, "mysql") as connection:
            run_script(connection, TELL_UTC + f"CREATE DATABASE {project.database.name};")
        found = zones_of(project, DB_SOCKET=server.socket)
    message = "the server does not know the time zone 'Europe/Berlni', so CONVERT_TZ gives NULL; correct the name"
    assert found == [f"sql/a.sql:3:30: error: unknown-time-zone: {message}"]


MEMORY = " ENGINE = MEMORY"


@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        ("CREATE TEMPORARY TABLE t (n INT)", True),
        ("CREATE TEMPORARY TABLE t AS SELECT 1 AS n FROM big WHERE 'a' LIKE 'b'", True),
        ("CREATE TEMPORARY TABLE IF NOT EXISTS t (n INT, KEY (n))" + MEMORY, True),
        ("CREATE TEMPORARY TABLE t (n INT) SELECT id AS n FROM big FORCE INDEX FOR JOIN (PRIMARY)", True),
        ("CREATE TEMPORARY TABLE t WITH q AS (SELECT 1 AS n) SELECT n FROM q", True),
        ("CREATE TEMPORARY TABLE t (PRIMARY KEY (n)) SELECT 1 AS n", False),
        ("CREATE TEMPORARY TABLE t (n INT KEY)", False),
        ("CREATE TEMPORARY TABLE t (n INT NOT NULL UNIQUE)", False),
        ("CREATE TEMPORARY TABLE t (n SERIAL)", False),
        ("CREATE TEMPORARY TABLE t LIKE keyed", False),
    ],
)
def test_a_temporary_table_without_a_key_is_an_error_where_the_server_requires_one(
    project: Project, engine: str, statement: str, refused: bool
) -> None:
    project.database.execute("CREATE TABLE big (id INT PRIMARY KEY); CREATE TABLE keyed (id INT PRIMARY KEY)")
    text = f"DO 1;\n{statement};\nSELECT COUNT(*) AS n, %(metric_date)s AS d FROM t"
    project.write("t.sql", text)
    assert of_folder(project, keyless_temporary_tables) == []
    if engine != "mysql":
        return  # MariaDB has no such setting
    with server_default(project.database, "sql_require_primary_key", 1):
        found = of_folder(project, keyless_temporary_tables)
        result = project.run("yesterday")
        with server_default(project.database, "sql_generate_invisible_primary_key", 1):
            project.write("t.sql", text.replace(MEMORY, ""))  # it helps InnoDB alone
            assert of_folder(project, keyless_temporary_tables) == []
            assert project.run("yesterday").returncode == 0
    assert ("no-primary-key" in result.stderr) == refused, result.stderr
    assert [line.split(" CREATE TEMP")[0] for line in found] == refused * [
        "sql/t.sql:2:1: error: no-primary-key: this server refuses a table without a primary key; write"
    ]


def test_the_command_asks_for_zones_and_keys(project: Project) -> None:
    project.write("zones.sql", "-- Description: d\nSELECT CONVERT_TZ(%(metric_date)s, 'UTC', '+00:00') AS n")
    checked = project.list("--check")
    assert (checked.returncode, checked.stderr) == (1, "")
    assert "sql/zones.sql:2:36: error: unknown-time-zone: " in checked.stdout


@pytest.mark.parametrize(("columns", "what"), [
    ("user_id INT PRIMARY KEY, last_day DATE", "a unique key without a date (user_id)"),
    ("id INT AUTO_INCREMENT PRIMARY KEY, n INT", "no column of a date"),
    ("name VARCHAR(9), day DATE, PRIMARY KEY (name, day), UNIQUE KEY (name)", "a unique key without a date (name)"),
    ("day DATE, n INT", ""), ("day DATE, k INT, PRIMARY KEY (k, day)", ""),
    ("id INT AUTO_INCREMENT PRIMARY KEY, at TIMESTAMP", ""),
])  # fmt: skip
def test_a_helpers_table_that_cannot_hold_several_dates_is_warned_of(
    project: Project, columns: str, what: str
) -> None:
    project.database.execute(f"CREATE TABLE seen ({columns})")
    project.write("a.sql", "-- Description: d\nREPLACE INTO seen SELECT 1, %(metric_date)s")
    found = of_folder(project, tables_without_a_date)
    assert [line.split("the table seen has ")[1].split(", so")[0] for line in found] == ([what] if what else [])
    project.write("a.sql", "-- Description: d\nDELETE FROM seen; INSERT INTO seen SELECT 1, %(metric_date)s")
    assert of_folder(project, tables_without_a_date) == []
