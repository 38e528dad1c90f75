"""Slips that once left a wrong or missing final number with exit code 0: each is refused, noticed, or mended."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from src.metric_file.checks import check_catalog
from src.metric_file.file import MetricFile, parse
from src.sql_loader import Catalog
from tests.conftest import Database, Project, connect, metric_sql, run_script
from tests.proxy import Cut, Proxy
from tests.workload import at_work, log_has, sessions, wait_until

pytestmark = pytest.mark.slow

TODAY = date.today()
DAYS = [str(TODAY - timedelta(days=n)) for n in range(15)]  # DAYS[1] is yesterday
DAY, BEFORE = DAYS[1], DAYS[2]
NO_RULES = """
import src.metric_file.checks
src.metric_file.checks.check_catalog = lambda *anything: []
import run_metrics
raise SystemExit(run_metrics.main())
"""
PAYMENTS = "CREATE TABLE payments (day DATE NOT NULL, amount INT NOT NULL);" + "".join(
    f"INSERT INTO payments VALUES ('{day}', {n});" for n, day in enumerate(DAYS, 1)
)
PAID = "(SELECT COALESCE(SUM(amount), 0) FROM payments WHERE day = %(metric_date)s)"
SO_FAR = "(SELECT COALESCE(SUM(amount), 0) FROM payments WHERE day <= {day})"
ROW_BEFORE = (
    "(SELECT CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.n')) AS SIGNED) FROM bi_metrics "
    "WHERE metrics = 'total' AND metric_date = %(metric_date)s - INTERVAL 1 DAY)"
)
TOTAL = metric_sql("total", f"COALESCE({ROW_BEFORE}, 0) + {PAID}")
TOTAL_PER_DATE = metric_sql("total", SO_FAR.format(day="%(metric_date)s"))
TOTAL_AT_ONCE = """\
-- Metric: total
-- Description: Everything that was paid so far
-- Data Type: card
INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
SELECT 'total', 'card', JSON_ARRAY('n'), JSON_OBJECT('n', (SELECT SUM(amount) FROM payments AS b WHERE b.day <= a.day)),
       a.day FROM (SELECT DISTINCT day FROM payments) AS a WHERE a.day <= %(metric_date)s AND a.day >= %(start_date)s
ON DUPLICATE KEY UPDATE value_list = VALUES(value_list), f_list = VALUES(f_list);
"""


def without_rules(project: Project, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command with every rule of sql_checks switched off: what it does then must be right as well."""
    project.install()
    return subprocess.run(
        [sys.executable, "-c", NO_RULES, *words], env=project.environment(), cwd=project.folder, capture_output=True,
        text=True, check=False, timeout=120,
    )  # fmt: skip


def half_day(project: Project, day: str, metric: str = "%", n: int = 0) -> None:
    """Make a row look as a run in the middle of its day left it."""
    project.database.execute(
        f"UPDATE bi_metrics SET value_list = JSON_OBJECT('n', {n}) "
        f"WHERE metric_date = '{day}' AND metrics LIKE '{metric}'; UPDATE bi_metric_state SET state = 'open' "
        f"WHERE metric_date = '{day}' AND metric LIKE '{metric}'"
    )


def totals(project: Project, metric: str = "total") -> dict[str, int]:
    query = f"SELECT metric_date, JSON_EXTRACT(value_list, '$.n') FROM bi_metrics WHERE metrics = '{metric}' ORDER BY 1"
    return {str(day): int(n) for day, n in project.database.rows(query)}


def right_totals(project: Project, *days: str) -> dict[str, int]:
    return {day: int(project.database.rows("SELECT " + SO_FAR.format(day=f"'{day}'"))[0][0]) for day in sorted(days)}


def everything(project: Project) -> list[tuple[Any, ...]]:
    return project.database.rows("SELECT * FROM bi_metrics ORDER BY metric_date, metrics")


# --- 1: what was written is looked at, not counted --------------------------------------------------------------------

SLIP, OLD = metric_sql("slip", "2"), metric_sql("old", "2")  # new and old: without a row before, and with one
TWO = ", 'old' AS m UNION ALL SELECT '{}', 'more') d\nON"
SLIPS = {
    "a copied file with the old literal": metric_sql("other", "2"),
    "one that names itself elsewhere": metric_sql("other", "2").replace("JSON_ARRAY('n')", "JSON_ARRAY('slip')"),
    "the day before": SLIP.replace("s FROM", "s - INTERVAL 1 DAY FROM"),
    "the day after": OLD.replace("s FROM", "s + INTERVAL 1 DAY FROM"),
    "today's date": SLIP.replace("%(metric_date)s FROM", "DATE(NOW()) FROM").replace("2)", "%(metric_date)s)"),
    "a DELETE of its own rows": SLIP + "DELETE FROM bi_metrics WHERE metrics = 'slip';",
    "a DELETE of other rows": "DELETE FROM bi_metrics WHERE metrics = 'other';\n" + SLIP,
    "another schema": SLIP.replace("INTO bi_metrics", "INTO {elsewhere}.bi_metrics"),
    "a temporary table of that name": "CREATE TEMPORARY TABLE bi_metrics LIKE {here}.bi_metrics;\n" + SLIP,
    "an upsert that forgets value_list": OLD.replace("value_list = d.v,", "data_type = 'card',"),
    "an upsert that appends": OLD.replace("= d.v,", "= JSON_ARRAY(bi_metrics.value_list, d.v),"),
    "more rows than its own": OLD.replace(") d\nON", TWO).replace("SELECT 'old'", "SELECT d.m"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_row_that_was_not_computed_fails_the_date_and_nothing_changes(project: Project, slip: str) -> None:
    database, elsewhere = project.database, f"{project.database.name}_elsewhere"
    database.execute(f"CREATE DATABASE {elsewhere}; CREATE TABLE {elsewhere}.bi_metrics LIKE bi_metrics")
    for name in ("old", "other"):
        project.write(f"{name}.sql", metric_sql(name))
    assert project.run(BEFORE, DAY).returncode == 0
    before = everything(project)
    text = SLIPS[slip].replace("{elsewhere}", elsewhere).replace("{here}", database.name)
    (project.folder / "sql" / "old.sql").unlink()
    project.write("old.sql" if "'old'" in text else "slip.sql", text)
    for result in (project.run(DAY), without_rules(project, DAY)):
        assert result.returncode in (1, 2), result.stdout
        assert re.search(r"sql/(old|slip|other)\.sql", result.stderr)
        assert everything(project) == before
        assert database.rows(f"SELECT * FROM {elsewhere}.bi_metrics") == []
    database.execute(f"DROP DATABASE {elsewhere}")


# --- 2, 3: an initial load fills exactly its dates --------------------------------------------------------------------


def test_an_initial_file_that_leaves_a_date_out_keeps_no_old_row_as_final(project: Project) -> None:
    project.database.execute(PAYMENTS)
    project.write("incremental/total.sql", TOTAL)
    project.write("initial/total.sql", TOTAL_AT_ONCE)
    load = ("--initial", DAYS[5], DAYS[1])
    assert project.run(*load).returncode == 0
    half_day(project, DAYS[3])
    before = everything(project)
    project.write("initial/total.sql", TOTAL_AT_ONCE.replace("WHERE a.day", f"WHERE a.day <> '{DAYS[3]}' AND a.day"))
    for words in (load, (*load, "--dry-run")):
        result = project.run(*words)
        assert result.returncode == 1
        assert f"sql/initial/total.sql: wrote no row for 1 of 5 dates, the first {DAYS[3]}" in result.stderr
        assert everything(project) == before
    project.write("initial/total.sql", TOTAL_AT_ONCE)
    assert project.run(*load).returncode == 0
    assert totals(project) == right_totals(project, *DAYS[1:6])


def test_an_initial_file_that_writes_dates_outside_the_range_is_refused(project: Project) -> None:
    project.database.execute(PAYMENTS)
    project.write("incremental/total.sql", TOTAL)
    project.write("initial/total.sql", TOTAL_AT_ONCE.replace("AND a.day >= %(start_date)s", "AND %(start_date)s > ''"))
    assert project.run("--initial", DAYS[14], DAYS[1]).returncode == 0
    project.database.execute(f"INSERT INTO payments VALUES ('{DAYS[13]}', 100)")
    before = everything(project)
    result = project.run("--initial", DAYS[3], DAYS[1])
    assert result.returncode == 1
    assert "sql/initial/total.sql: wrote " in result.stderr
    assert f" more rows than those of 'total' for {DAYS[3]} to {DAYS[1]}" in result.stderr
    assert everything(project) == before


def test_an_initial_load_computes_every_date_by_a_file_for_one_date(project: Project) -> None:
    project.database.execute(PAYMENTS)
    project.write("incremental/total.sql", TOTAL)
    project.write("initial/total.sql", TOTAL_PER_DATE)
    assert project.run(DAYS[5], DAYS[2]).returncode == 0
    for day in DAYS[2:5]:
        half_day(project, day)
    assert project.run("--initial", DAYS[5], DAYS[2]).returncode == 0
    assert totals(project) == right_totals(project, *DAYS[2:6])
    assert project.run(DAYS[1]).returncode == 0
    assert totals(project)[DAYS[1]] == right_totals(project, DAYS[1])[DAYS[1]]


# --- 4: a late payment reaches every row that was built on it ---------------------------------------------------------

LAST_3 = (
    "(SELECT SUM(JSON_EXTRACT(value_list, '$.n')) FROM bi_metrics WHERE metrics = 'paid' "
    "AND metric_date BETWEEN %(metric_date)s - INTERVAL 2 DAY AND %(metric_date)s)"
)


@pytest.mark.parametrize("how", ["aloud", "--quiet", "reply to COMMIT lost"])
def test_after_a_late_payment_its_date_and_a_night_make_every_row_right(
    project: Project, tmp_path: Path, how: str
) -> None:
    project.database.execute(PAYMENTS)
    project.write("1_paid.sql", metric_sql("paid", PAID))
    project.write("2_last_3.sql", metric_sql("last_3", f"CAST({LAST_3} AS SIGNED)"))
    assert project.run(DAYS[12], DAYS[1]).returncode == 0
    project.database.execute(f"INSERT INTO payments VALUES ('{DAYS[8]}', 100)")
    cut = Cut(b"COMMIT", "after") if how.startswith("reply") else None
    with Proxy(tmp_path / "p.sock", project.database.server.socket, cut) as proxy:
        words = ["--quiet"] if how == "--quiet" else []
        result = project.run(DAYS[8], *words, env={"DB_SOCKET": str(proxy.path)})
    assert result.returncode == 0, result.stderr
    assert cut is None or cut.done
    assert f"to be computed again: {DAYS[7]} to {DAYS[1]} of " in result.stderr
    assert project.run("--quiet").returncode == 0
    window = "SELECT SUM(amount) FROM payments WHERE day BETWEEN '{0}' - INTERVAL 2 DAY AND '{0}'"
    expected = {day: int(project.database.rows(window.format(day))[0][0]) for day in DAYS[10::-1]}
    assert {day: n for day, n in totals(project, "last_3").items() if day in expected} == expected
    assert project.run("--quiet").stderr == ""


# --- 5: a number that is built on itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["a half day", "a missed night"])
def test_a_metric_built_on_itself_needs_an_initial_file_and_then_starts_right_again(
    project: Project, trouble: str
) -> None:
    project.database.execute(PAYMENTS)
    project.write("incremental/total.sql", TOTAL)
    alone = project.run(DAYS[4])
    assert (alone.returncode, everything(project)) == (2, [])
    assert "no-initial-file: the metric is built on its own earlier rows; add sql/initial/total.sql" in alone.stderr
    project.write("initial/total.sql", TOTAL_PER_DATE)
    assert project.run(DAYS[4], DAYS[2]).returncode == 0
    if trouble == "a half day":
        half_day(project, DAYS[2], n=1)
    else:
        project.database.execute(f"DELETE FROM bi_metrics WHERE metric_date = '{DAYS[2]}'")
    assert project.run(DAYS[1]).returncode == 0
    assert totals(project)[DAYS[1]] == right_totals(project, DAYS[1])[DAYS[1]]
    assert project.run().returncode == 0
    assert totals(project) == right_totals(project, *DAYS[:5])


# --- 6: a helper with both files --------------------------------------------------------------------------------------


def test_a_helper_runs_its_incremental_file_on_dates_and_its_initial_file_in_the_load(project: Project) -> None:
    project.database.execute(f"{PAYMENTS} CREATE TABLE sums (day DATE NOT NULL PRIMARY KEY, amount INT NOT NULL)")
    fill = "-- Description: x\nREPLACE INTO sums SELECT day, SUM(amount) FROM payments WHERE day {} GROUP BY day"
    project.write("initial/1_fill.sql", fill.format("BETWEEN %(start_date)s AND %(metric_date)s"))
    project.write("incremental/1_fill.sql", fill.format("= %(metric_date)s"))
    project.write("2_sum.sql", metric_sql("sum", "(SELECT amount FROM sums WHERE day = %(metric_date)s)"))
    assert project.run("--initial", DAYS[6], DAYS[4]).returncode == 0
    for day in DAYS[3:0:-1]:
        result = project.run(day)
        assert result.returncode == 0, result.stderr
    ran = "SELECT file, COUNT(*) FROM bi_metric_state WHERE metric = 'fill' GROUP BY file ORDER BY file"
    assert project.database.rows(ran) == [("sql/incremental/1_fill.sql", 3), ("sql/initial/1_fill.sql", 3)]
    assert totals(project, "sum") == {day: DAYS.index(day) + 1 for day in DAYS[6:0:-1]}


# --- 7: temporary tables ----------------------------------------------------------------------------------------------

PEOPLE = "CREATE TABLE people (day DATE, name VARCHAR(9)); INSERT INTO people VALUES " + ", ".join(
    f"('{DAYS[n]}', '{name}')" for n, name in ((4, "a"), (3, "a"), (3, "b"), (2, "b"), (2, "c"))
)


@pytest.mark.parametrize("create", ["CREATE TEMPORARY TABLE", "CREATE TEMPORARY TABLE IF NOT EXISTS"])
def test_a_temporary_table_starts_afresh_on_each_date_and_in_each_try(project: Project, create: str) -> None:
    database = project.database
    database.execute(f"{PEOPLE}; CREATE TABLE counter (id INT PRIMARY KEY, n INT); INSERT INTO counter VALUES (1, 0)")
    text = f"{create} found AS SELECT DISTINCT name FROM people WHERE day = %(metric_date)s;\n"
    text += "UPDATE counter SET n = n + 1 WHERE id = 1;\n"
    project.write("people.sql", metric_sql("people", "(SELECT COUNT(*) FROM found)").replace("INSERT", f"{text}INSERT"))
    with waits_of_one_second(database), connect(database.server, database.name) as other:
        run_script(other, "START TRANSACTION; UPDATE counter SET n = 0")
        run = project.start("run_metrics.py", DAYS[4], DAYS[2])
        wait_until(lambda: log_has(project, "again in"))
        run_script(other, "ROLLBACK")
        _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert totals(project, "people") == {DAYS[4]: 1, DAYS[3]: 2, DAYS[2]: 2}
    assert database.rows("SELECT n FROM counter") == [(3,)]


@contextmanager
def waits_of_one_second(database: Database) -> Iterator[None]:
    database.execute("SET GLOBAL innodb_lock_wait_timeout = 1")
    try:
        yield
    finally:
        database.execute("SET GLOBAL innodb_lock_wait_timeout = 50")


# --- 8, 9: what a number depends on besides its date ------------------------------------------------------------------


@pytest.mark.parametrize(
    "clock",
    [
        "SET @y := DATE(DATE_SUB(NOW(), INTERVAL 1 DAY))", "SET @y = DATE(NOW())", "SELECT 1, DATE_FORMAT(NOW(), '%Y')",
        "SELECT COUNT(*), DATEDIFF(NOW(), '2020-01-01') AS n FROM payments",
        "SELECT COALESCE(MAX(created_at), NOW()), 2 FROM payments",
        "SELECT TIMESTAMPDIFF(DAY, created_at, NOW()) AS a, 1 FROM payments",
    ],
)  # fmt: skip
def test_a_clock_within_a_function_is_named_wherever_it_stands(project: Project, clock: str) -> None:
    project.write("m.sql", metric_sql("m", header=f"\n{clock};"))
    said = project.list("--check", "--offline").stdout
    assert f"sql/m.sql:5:{clock.index('NOW') + 1}: warning: reads-the-clock: " in said


def test_a_user_variable_of_an_earlier_file_is_refused_and_never_seen(project: Project) -> None:
    project.write("1_sets.sql", "SET @share := 5;\n" + metric_sql("sets", "(@share IS NULL) + 0"))
    project.write("2_reads.sql", metric_sql("reads", "(@SHARE IS NULL) + 0"))
    refused = project.run(DAY)
    assert (refused.returncode, everything(project)) == (2, [])
    assert "sql/2_reads.sql:6:" in refused.stderr
    assert "unset-variable: @SHARE is read here and set nowhere" in refused.stderr
    assert without_rules(project, BEFORE, DAY).returncode == 0
    assert [row[2] for row in project.database.metrics()] == ['{"n": 1}', '{"n": 0}'] * 2


def test_a_parameter_that_changed_shows_in_the_status_and_in_the_run_that_builds_on_old_rows(project: Project) -> None:
    project.database.execute(PAYMENTS)
    since = "AND day >= %(cutoff_date)s"
    project.write("incremental/total.sql", TOTAL.replace("WHERE day = ", f"WHERE 1 {since} AND day = "))
    project.write("initial/total.sql", TOTAL_PER_DATE.replace("WHERE day <= ", f"WHERE 1 {since} AND day <= "))
    project.write("plain.sql", metric_sql("plain"))
    old, new = ({"METRIC_PARAM_CUTOFF_DATE": day} for day in (DAYS[9], DAYS[6]))
    assert project.run(DAYS[9], DAYS[3], env=old).returncode == 0
    assert "of older SQL" not in project.list("--status", env=old).stdout
    status = project.list("--status", env=new).stdout
    assert status.count("\n    of older SQL: ") == 1
    assert "\n    of older SQL: " in status.split("\ntotal ")[1]
    result = project.run(DAYS[2], DAYS[1], env=new)
    command = f"python run_metrics.py --initial {DAYS[9]} {DAYS[3]} --metric total"
    warned = f"Warning: of older SQL: {DAYS[9]} to {DAYS[3]} of total. To compute them again: {command}\n"
    assert (result.returncode, result.stderr.count(warned)) == (0, 1)
    # From the first date on the total is that of the new parameter: nothing builds on the old one.
    files = f"SELECT file FROM bi_metric_state WHERE metric = 'total' AND metric_date > '{DAYS[3]}' ORDER BY 1 DESC"
    assert project.database.rows(files) == [("sql/initial/total.sql",), ("sql/incremental/total.sql",)]
    assert project.run(*command.split()[2:], env=new).returncode == 0
    assert "older SQL" not in project.run(DAYS[1], env=new).stderr
    assert "older SQL" not in project.list("--status", env=new).stdout


def test_after_a_date_that_failed_nothing_builds_on_its_row_of_the_old_parameter(project: Project) -> None:
    project.database.execute(PAYMENTS)
    since = "AND day >= %(cutoff_date)s"
    project.write("incremental/total.sql", TOTAL.replace("WHERE day = ", f"WHERE 1 {since} AND day = "))
    project.write("initial/total.sql", TOTAL_PER_DATE.replace("WHERE day <= ", f"WHERE 1 {since} AND day <= "))
    old, new = ({"METRIC_PARAM_CUTOFF_DATE": day} for day in (DAYS[9], DAYS[6]))
    assert project.run(DAYS[9], DAYS[2], env=old).returncode == 0
    project.write("picky.sql", metric_sql("picky", where=f"WHERE %(metric_date)s <> '{DAYS[2]}'"))
    assert project.run(DAYS[2], DAYS[1], "--keep-going", env=new).returncode == 1
    file = f"SELECT file FROM bi_metric_state WHERE metric = 'total' AND metric_date = '{DAYS[1]}'"
    assert project.database.rows(file) == [("sql/initial/total.sql",)]
    assert f"of older SQL: {DAYS[9]} to {DAYS[2]}" in project.list("--status", env=new).stdout


# --- 11: two runs at once ---------------------------------------------------------------------------------------------


@contextmanager
def run_in_progress(project: Project, *words: str) -> Iterator[Any]:
    """Yield a run that is stuck at a row which is locked until the block ends; it must then succeed."""
    database = project.database
    database.execute("CREATE TABLE gate (id INT PRIMARY KEY, n INT); INSERT INTO gate VALUES (1, 0)")
    project.write("1_gate.sql", "UPDATE gate SET n = n + 1 WHERE id = 1;\n" + metric_sql("gate"))
    with connect(database.server, database.name) as other:
        run_script(other, "START TRANSACTION; UPDATE gate SET n = n")
        run_script(other, "UPDATE gate SET n = 5")
        first = project.start("run_metrics.py", DAY)
        wait_until(lambda: at_work(database, "1_gate.sql"))
        yield first
        assert first.poll() is None
        run_script(other, "ROLLBACK")
        assert first.communicate(timeout=60)[1].count("Error") == 0
    assert first.returncode == 0


@pytest.mark.parametrize("end", ["the server's limit", "KILL QUERY"])
def test_a_wait_for_the_lock_that_is_ended_lets_no_second_run_in(project: Project, engine: str, end: str) -> None:
    database, limit = project.database, "max_execution_time" if engine == "mysql" else "max_statement_time"
    with run_in_progress(project):
        gate = at_work(database, "1_gate.sql")
        database.execute(f"SET GLOBAL {limit} = {0 if end == 'KILL QUERY' else 500 if engine == 'mysql' else 0.5}")
        second = project.start("run_metrics.py", BEFORE, "--wait", "60")
        database.execute("DO SLEEP(1.5)")
        for number in [number for number, text in sessions(database) if "GET_LOCK" in text and end == "KILL QUERY"]:
            database.execute(f"KILL QUERY {number}")
        database.execute(f"DO SLEEP(1); SET GLOBAL {limit} = 0")
        assert at_work(database) == gate
        assert everything(project) == []
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert [row[1] for row in database.metrics()] == [BEFORE, DAY]
    runs = project.database.rows("SELECT metric_date FROM bi_metrics ORDER BY updated_at")
    assert [str(row[0]) for row in runs] == [DAY, BEFORE]


def test_a_database_named_in_another_case_is_the_same_on_a_server_that_is_blind_to_it(
    project: Project, blind_to_case: Database
) -> None:
    project.database = blind_to_case
    with run_in_progress(project):
        second = project.run(BEFORE, env={"DB_NAME": "GAME"})
        assert (second.returncode, second.stdout) == (3, "")
        assert "Error: another run is in progress on database GAME" in second.stderr


@pytest.mark.parametrize(
    "release", ["SELECT RELEASE_ALL_LOCKS()", "DO release_all_locks/**/()", "/*!50000 DO RELEASE_ALL_LOCKS() */"]
)
def test_a_file_that_gives_the_lock_back_is_refused_and_noticed(project: Project, release: str) -> None:
    project.write("m.sql", f"{release};\n{metric_sql('m')}")
    refused = project.run(DAY)
    assert refused.returncode == 2
    assert "sql/m.sql:1:" in refused.stderr
    assert "forbidden-statement: " in refused.stderr
    noticed = without_rules(project, BEFORE, DAY, "--retries", "0")
    assert noticed.returncode == 1
    assert f"Error: {DAY}: this run lost its lock" in noticed.stderr
    assert [row[1] for row in project.database.metrics()] == [BEFORE]


# --- 12: what a file may not do ---------------------------------------------------------------------------------------

TABLES = """
CREATE TABLE lasting (n INT, m INT, KEY old_key (m)) ENGINE = InnoDB;
CREATE PROCEDURE commits() BEGIN COMMIT; INSERT INTO lasting VALUES (1, 1); END;
"""
FORBIDDEN = """\
EXECUTE IMMEDIATE 'COMMIT'; PREPARE p FROM 'COMMIT'; EXECUTE p; DEALLOCATE PREPARE p; BACKUP STAGE START;
SET STATEMENT max_statement_time = 1 FOR COMMIT; CLONE LOCAL DATA DIRECTORY = '/tmp/x'; KILL 5; SHUTDOWN; RESTART;
LOAD DATA INFILE '/x' INTO TABLE lasting; LOAD XML INFILE '/x' INTO TABLE lasting; CALL commits();
HANDLER lasting OPEN; DO GET_LOCK('x', 0); INSTALL PLUGIN x SONAME 'x'; CHANGE MASTER TO MASTER_HOST = 'x';
PURGE BINARY LOGS TO 'x'; RESET MASTER; BINLOG 'x'; XA START 'x'; SAVEPOINT x; RELEASE SAVEPOINT x; ROLLBACK TO x;
SELECT 1 INTO OUTFILE '/x'; SELECT 1 INTO DUMPFILE '/x'; SELECT n FROM lasting FOR UPDATE; VALUES (1); TABLE lasting;
SELECT n FROM lasting LOCK IN SHARE MODE; SET GLOBAL sort_buffer_size = 1; SET NAMES latin1; SET @x = 1, autocommit = 1;
SET @@session.sql_mode = ''; SET SESSION TRANSACTION READ ONLY; SET PASSWORD = 'x'; USE mysql; USE {database}x;
CREATE TABLE fresh (n INT); CREATE TABLE IF NOT EXISTS lasting (n INT); CREATE TABLE fresh AS SELECT 1 AS n;
DROP TABLE lasting; DROP TABLE IF EXISTS nope; ALTER TABLE lasting ADD COLUMN more INT; TRUNCATE TABLE lasting;
TRUNCATE lasting; RENAME TABLE lasting TO renamed; CREATE INDEX fresh ON lasting (n); DROP INDEX old_key ON lasting;
CREATE VIEW fresh AS SELECT 1 AS n; CREATE OR REPLACE VIEW fresh AS SELECT 1 AS n; DROP VIEW IF EXISTS nope;
CREATE DATABASE IF NOT EXISTS {database}; DROP DATABASE IF EXISTS nope; CREATE USER IF NOT EXISTS root@localhost;
DROP USER IF EXISTS nobody@localhost; GRANT SELECT ON {database}.* TO root@localhost; CREATE PROCEDURE fresh() DO 0;
DROP PROCEDURE commits; CREATE TRIGGER t BEFORE INSERT ON lasting FOR EACH ROW SET @x = 1; ANALYZE TABLE lasting;
OPTIMIZE TABLE lasting; LOCK TABLES lasting WRITE; UNLOCK TABLES; FLUSH TABLES; START TRANSACTION; BEGIN; COMMIT;
COMMIT AND CHAIN; ROLLBACK; SET autocommit = 1; SET SESSION autocommit = ON; /*!50000 COMMIT */; /*M! COMMIT */;
WITH q AS (SELECT 1) DELETE FROM bi_metrics; UPDATE bi_metrics SET value_list = '1'; REPLACE INTO bi_metrics SELECT 1;
DELETE b FROM lasting AS l JOIN bi_metrics AS b ON b.id = l.n; INSERT INTO bi_metrics SELECT 1; DROP TABLE mine;
CREATE TEMPORARY TABLE `BI_Metrics` (n INT); CREATE TEMPORARY TABLE bi_metric_state (n INT); TRUNCATE TABLE mine;
ALTER TABLE mine ADD COLUMN more INT; CREATE INDEX fresh ON mine (n)"""


def test_what_ends_the_transaction_or_stays_behind_is_refused_in_every_form() -> None:
    for number, statement in enumerate(FORBIDDEN.replace("\n", " ").split("; ")):
        text = metric_sql("m") + f"\n/* */ {statement.strip()};\n"
        file = MetricFile("m", f"sql/m{number}.sql", None, None, False, parse(text))
        found = check_catalog(Catalog((file,)), [file], (), "game")
        wanted = {"forbidden-statement", "not-idempotent"} if statement.startswith("INSERT INTO bi") else None
        rules = {problem.rule for problem in found if problem.severity == "error" and problem.line == 9}
        assert "forbidden-statement" in rules, statement
        assert wanted is None or rules == wanted, statement


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT", "ROLLBACK", "START TRANSACTION", "SET autocommit = 1", "TRUNCATE TABLE lasting", "CALL commits()",
        "PREPARE p FROM 'COMMIT'; EXECUTE p", "EXECUTE IMMEDIATE 'COMMIT'", "CREATE TABLE lasting (n INT)",
        "CREATE TABLE fresh (n INT)", "COMMIT; SELECT (SELECT 1 UNION SELECT 2)", "/*!50000 COMMIT */",
        "LOCK TABLES lasting WRITE", "COMMIT; DELETE FROM bi_metrics",
    ],
)  # fmt: skip
def test_after_the_transaction_was_ended_a_run_never_says_that_nothing_was_committed(
    project: Project, engine: str, statement: str
) -> None:
    if engine == "mysql" and statement.startswith("EXECUTE IMMEDIATE"):
        pytest.skip("MySQL has no EXECUTE IMMEDIATE")
    project.database.execute(TABLES)
    project.write("1_first.sql", metric_sql("first"))
    project.write("2_ends.sql", metric_sql("ends") + f"{statement};\n")
    project.write("3_last.sql", metric_sql("last"))
    result = without_rules(project, BEFORE, DAY)
    assert result.returncode == 1
    assert f"Error: {BEFORE}: " in result.stderr
    assert "may be stored" in result.stderr
    assert "Nothing was committed" not in result.stderr + project.log()
    assert DAY not in [row[1] for row in project.database.metrics()]
    project.write("2_ends.sql", metric_sql("ends"))
    assert project.run(BEFORE, DAY).returncode == 0
    assert len(project.database.metrics()) == 6
