"""The nightly command on a real server: what it commits, what it refuses, what it says."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.database import load_settings
from run_metrics import parse_arguments
from src.db_manager import DatabaseManager
from src.errors import DateError, StatementError
from src.metric_runner import MetricRunner, Options, Work
from src.sql_checks import check_catalog
from src.sql_loader import Catalog, Metric, load_catalog
from src.sql_text import literal, parse
from tests.conftest import Database, Project, metric_sql, refusal

DAY = "2025-01-15"


def names(database: Database) -> list[tuple[str, str]]:
    """Return metric and date of every row."""
    return [row[:2] for row in database.metrics()]


def today() -> date:
    return datetime.now(timezone.utc).date()


# --- files and their order --------------------------------------------------------------------------------------------


def test_a_file_dropped_in_is_run_for_the_date_and_twice_leaves_the_same_rows(project: Project) -> None:
    project.write("incremental/01_first.sql", metric_sql("first", "7"))
    for _ in range(2):
        result = project.run(DAY)
        assert (result.returncode, result.stderr) == (0, "")
        assert project.database.metrics() == [("first", DAY, '{"n": 7}')]
    # The second run wrote the row again, and an unchanged row counts as written.
    runs = project.database.rows("SELECT metric, CAST(metric_date AS CHAR), row_count, status FROM bi_metric_runs")
    assert runs == [("first", DAY, 1, "ok")] * 2


def test_files_run_by_number_and_disabled_ones_and_other_modes_do_not(project: Project) -> None:
    other = ("_1_off.sql", "initial/2_i.sql")
    for path in ("100____last.sql", "10_b.sql", "incremental/9_c.sql", "no_prefix.sql", *other):
        project.write(path, metric_sql(path.rpartition("_")[2].removesuffix(".sql")))
    assert project.run(DAY).returncode == 0
    files = [row[0] for row in project.database.rows("SELECT file FROM bi_metric_runs ORDER BY id")]
    assert files == ["sql/incremental/9_c.sql", "sql/10_b.sql", "sql/100____last.sql", "sql/no_prefix.sql"]
    in_log = [line.split()[4] for line in project.log().splitlines() if line.endswith("start")]
    assert [path.removesuffix(":") for path in in_log] == files


HOSTILE = [
    "with space", "it's \"quoted\"", "100%s %(metric_date)s %", "naïve_指標_🎲", "a;b -- c", "#`x`\\", "new\nline",
]  # fmt: skip


def test_hostile_file_names_work(project: Project) -> None:
    for number, name in enumerate(HOSTILE):
        project.write(f"{number}_{name}.sql", metric_sql("m").replace("'m'", literal(name).replace("%", "%%")))
    project.write("9_fails_100%s\n.sql", metric_sql("m", "nope"))
    failed = project.run(DAY)
    assert failed.returncode == 1
    assert "sql/9_fails_100%s" in failed.stderr
    (project.folder / "sql" / "9_fails_100%s\n.sql").unlink()
    result = project.run(DAY, "--metric", "*")
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(name for name, _ in names(project.database)) == sorted(HOSTILE)


def test_a_file_name_that_is_not_utf8_is_refused(project: Project) -> None:
    file = project.write("m.sql", metric_sql("m"))
    file.rename(file.with_name("m\udcff.sql"))
    for result in (project.run(DAY), project.list("--check", "--offline")):
        assert result.returncode in (1, 2)
        assert "not-utf8: the file's name is not UTF-8; rename the file" in result.stdout + result.stderr
        assert "Traceback" not in result.stderr


def test_a_name_that_the_column_cannot_hold_is_refused(project: Project) -> None:
    long = project.write(f"1_{'é' * 101}.sql", metric_sql("short"))
    result = project.run(DAY)
    assert result.returncode == 2
    assert "name-mismatch: the name has 101 characters, the column metrics holds 100; shorten it" in result.stderr
    long.unlink()
    project.write(f"1_{'é' * 100}.sql", metric_sql("é" * 100))
    assert project.run(DAY).returncode == 0


def test_a_helper_runs_with_all_but_is_not_pulled_in_by_metric(project: Project) -> None:
    project.database.execute("CREATE TABLE helper (n INT)")
    fill = "DELETE FROM helper;\nINSERT INTO helper SELECT 5;\n"
    project.write("1_fill.sql", f"-- Metric: fill\n-- Description: x\n{fill}")
    project.write("2_total.sql", metric_sql("total", "(SELECT COALESCE(SUM(n), 0) FROM helper)"))
    project.write("3_other.sql", metric_sql("other"))
    assert project.run(DAY, "--metric", "tot*").returncode == 0
    assert project.database.metrics() == [("total", DAY, '{"n": 0}')]
    assert project.run(DAY).returncode == 0
    assert project.database.metrics() == [("other", DAY, '{"n": 1}'), ("total", DAY, '{"n": 5}')]


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_percent_signs_are_safe_everywhere(project: Project) -> None:
    project.database.execute("CREATE TABLE words (w VARCHAR(20)); INSERT INTO words VALUES ('abc'), ('xyz'), ('50%')")
    project.env["METRIC_PARAM_CUTOFF_DATE"] = "it's; -- \\ 50%%"
    value = """
        CONCAT_WS('|', DATE_FORMAT(%(metric_date)s, '%Y-%m'), DATE_FORMAT(%(metric_date)s, '%%Y-%%m'),
        (SELECT COUNT(*) FROM words WHERE w LIKE 'a%'), -- 5% of base, and %(base)s
        (SELECT COUNT(*) FROM words WHERE w LIKE '%\\%'), 7 % 4, 7 %% 4, /* 100%s */ %(cutoff_date)s)"""
    project.write("m.sql", metric_sql("m", value, "-- about 5% of base, %(nothing)s"))
    result = project.run(DAY)
    assert (result.returncode, result.stderr) == (0, "")
    ((_, _, stored),) = project.database.metrics()
    assert json.loads(stored)["n"] == "2025-01|2025-01|1|1|3|3|it's; -- \\ 50%%"


THREE = """\
-- Metric: three
-- Description: Three statements
-- Data Type: card

SET @plays := 40;

SET @plays := @plays + 2;
INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
SELECT 'three', 'card', JSON_ARRAY('n'),
       JSON_OBJECT('n', CAST(@plays AS UNSIGNED)),

       %(metric_date)s
ON DUPLICATE KEY UPDATE value_list = VALUES(value_list);
"""


def test_three_statements_work_and_an_error_in_the_third_is_reported_as_the_third(project: Project) -> None:
    project.write("three.sql", THREE)
    assert project.run(DAY).returncode == 0
    assert project.database.metrics() == [("three", DAY, '{"n": 42}')]
    for fault, line, code in (("'card' 1", 9, 1064), ("nope", 8, 1054)):
        project.write("three.sql", THREE.replace("'card'", fault))
        failed = project.run(DAY)
        assert failed.returncode == 1
        assert f"Error: {DAY}: sql/three.sql:{line}: statement 3 of 3: ({code})" in failed.stderr
        assert "To run without this metric: rename it to _three.sql" in failed.stderr


def test_a_byte_order_mark_and_windows_line_ends_are_fine(project: Project) -> None:
    text = metric_sql("m", where="\n\nFROM nope").replace("\n", "\r\n")
    project.write("m.sql", "\ufeff" + text)
    assert f"{DAY}: sql/m.sql:5: statement 1 of 1: (1146)" in project.run(DAY).stderr
    project.write("m.sql", "\ufeff" + text.replace("FROM nope", ""))
    assert project.run(DAY).returncode == 0
    assert names(project.database) == [("m", DAY)]


def test_all_problems_of_all_files_are_named_before_the_first_date(project: Project) -> None:
    project.write("1_good.sql", metric_sql("good"))
    project.write("2_empty.sql", "")
    project.write("3_quote.sql", metric_sql("quote") + "\n\nSELECT 'and so on;\n")
    project.write("4_comment.sql", metric_sql("comment") + "/* and so on\n")
    project.write("5_latin.sql", "x").write_bytes(metric_sql("latin").encode() + b"\n-- caf\xe9\n")
    project.write("incremental/good.sql", metric_sql("good"))
    result = project.run("2025-01-01", "2025-01-31")
    assert (result.returncode, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert [line.split(" ")[1] + line.split(" ")[3] for line in lines] == [
        "sql/1_good.sql:1:1:duplicate-metric:",
        "sql/2_empty.sql:1:1:empty-file:",
        "sql/3_quote.sql:10:8:unterminated:",
        "sql/4_comment.sql:8:1:unterminated:",
        "sql/5_latin.sql:9:7:not-utf8:",
        "sql/incremental/good.sql:1:1:duplicate-metric:",
    ]
    assert "sql/incremental/good.sql defines the metric good too" in lines[0]
    assert "byte 0xe9 is not UTF-8" in lines[4]
    assert project.database.metrics() == []


def test_a_range_is_explained_before_its_first_date(project: Project) -> None:
    project.write("1_good.sql", metric_sql("good"))
    project.write("2_bad.sql", metric_sql("bad", where="\nFROM bi_metrics WHERE nope = 1"))
    one = project.run(DAY)
    assert (one.returncode, "(1054)" in one.stderr) == (1, True)
    many = project.run("2025-01-01", "2025-01-31")
    assert many.returncode == 2
    assert many.stderr.startswith("Error: sql/2_bad.sql:5:1: error: explain: (1054) Unknown column 'nope'")
    assert project.database.metrics() == []
    assert project.run("2025-01-01", "2025-01-31", "--metric", "good").returncode == 0
    assert len(project.database.metrics()) == 31


# --- what a person may ask for ----------------------------------------------------------------------------------------

USAGE_ERRORS = [
    (["--mode", "x"], "unrecognized arguments: --mode"),
    (["15.01.2025"], "'15.01.2025' is not a date; write YYYY-MM-DD"),
    (["2025-02-30"], "2025-02-30 is not a date"),
    (["2025-01-31", "2025-01-01"], "the range starts on 2025-01-31, after its end 2025-01-01"),
    (["2999-01-01"], "2999-01-01 is in the future; today is 20"),
    (["--metric", "totl", DAY], "no metric of the incremental mode matches 'totl'; did you mean total?"),
    (["--metric", "total", "--metric", "x*", DAY], "no metric of the incremental mode matches 'x*'"),
]
PARSER_ERRORS = [
    (["2025-01-01", "2025-01-02", "2025-01-03"], "3 dates given; at most 2"),
    (["--init"], "unrecognized arguments: --init"),
    (["--metric"], "--metric: expected one argument"),
    (["--last", "0"], "write a number from 1"),
    (["--last", "2", "2025-01-01", "2025-01-02"], "2 dates given; at most 1"),
    (["--last", "2", "--initial"], "--initial and --last exclude each other"),
    (["--chunk", "month"], "--chunk goes with --initial"),
    (["--retries", "-1"], "argument --retries: "),
    (["--json"], "--json goes with --dry-run"),
    (["--quiet", "--verbose"], "--quiet and --verbose exclude each other"),
]


def test_a_usage_error_is_one_line_and_nothing_runs(project: Project) -> None:
    project.write("total.sql", metric_sql("total"))
    for words, message in USAGE_ERRORS:
        result = project.run(*words)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), words
        assert result.stderr.startswith("Error: ")
        assert message in result.stderr
    assert project.database.metrics() == []


@pytest.mark.parametrize(("words", "message"), PARSER_ERRORS)
def test_words_that_make_no_sense_together_are_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in refusal(parse_arguments, words, capsys)


def test_an_empty_sql_folder_is_an_error(project: Project) -> None:
    project.write("_off.sql", metric_sql("off"))
    project.write("initial/other_mode.sql", metric_sql("other_mode"))
    result = project.run(DAY)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "Error: no metric files: put one into sql/ or sql/incremental/" in result.stderr


def test_without_a_date_yesterday_runs_and_then_today(project: Project) -> None:
    project.env["METRICS_TIMEZONE"] = "UTC"
    project.write("m.sql", metric_sql("m"))
    result = project.run()
    assert (result.returncode, result.stderr) == (0, "")
    dates = [str(today() - timedelta(days=1)), str(today())]
    assert names(project.database) == [("m", day) for day in dates]
    yesterday, this_day = result.stdout.splitlines()[:2]
    assert (yesterday.split()[0], this_day.split()[0]) == tuple(dates)
    assert "provisional" not in yesterday
    assert this_day.endswith(f"provisional: {dates[1]} is not over")
    assert project.database.rows("SELECT is_final FROM bi_metric_runs ORDER BY id") == [(1,), (0,)]


def test_yesterday_and_today_are_words_for_dates(project: Project) -> None:
    project.env["METRICS_TIMEZONE"] = "UTC"
    project.write("m.sql", metric_sql("m"))
    assert project.run("yesterday").returncode == 0
    assert names(project.database) == [("m", str(today() - timedelta(days=1)))]
    assert project.run("yesterday", "today").returncode == 0
    assert len(project.database.metrics()) == 2


ALL_DATES = """\
-- Metric: {name}
-- Description: A row for each date
-- Data Type: card
INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
SELECT '{name}', 'card', JSON_ARRAY('n'), d.v, d.d
FROM (SELECT j.d, JSON_OBJECT('n', DATEDIFF(j.d, %(start_date)s)) AS v
      FROM JSON_TABLE(%(dates)s, '$[*]' COLUMNS (d DATE PATH '$')) j {where}) d
ON DUPLICATE KEY UPDATE value_list = d.v;
"""


def test_the_initial_load_takes_its_dates_from_the_words_and_the_history_start(project: Project) -> None:
    project.write("initial/1_history.sql", ALL_DATES.format(name="history", where=""))
    project.write("initial/2_as_of.sql", metric_sql("as_of"))
    project.write("3_snapshot.sql", metric_sql("snapshot"))
    project.write("incremental/4_other.sql", metric_sql("other"))
    as_of = project.run("--initial", "2024-12-31")
    assert (as_of.returncode, as_of.stderr) == (0, "")
    counted = "Initial load of 2024-12-31: 1 date, 3 files, 1 of them run once a date; 1 transaction."
    assert as_of.stdout.splitlines()[0] == counted
    assert names(project.database) == [(name, "2024-12-31") for name in ("as_of", "history", "snapshot")]
    project.database.execute("DELETE FROM bi_metrics")
    assert project.run("2025-01-01", "--initial", "2025-01-03").returncode == 0
    assert [("history", f"2025-01-0{n}", f'{{"n": {n - 1}}}') for n in (1, 2, 3)] == [
        row for row in project.database.metrics() if row[0] == "history"
    ]
    assert names(project.database).count(("as_of", "2025-01-03")) == 1
    assert len(project.database.metrics()) == 7
    project.database.execute("DELETE FROM bi_metrics")
    more = {"METRICS_HISTORY_START": str(today() - timedelta(days=3)), "METRICS_TIMEZONE": "UTC"}
    assert project.run("--initial", env=more).returncode == 0
    history = [day for name, day in names(project.database) if name == "history"]
    assert history == [str(today() - timedelta(days=n)) for n in (3, 2, 1, 0)]


def test_an_initial_load_that_leaves_out_a_date_keeps_nothing(project: Project) -> None:
    project.write("1_snapshot.sql", metric_sql("snapshot"))
    project.write("initial/2_gap.sql", ALL_DATES.format(name="gap", where="WHERE j.d <> '2025-01-02'"))
    result = project.run("--initial", "2025-01-01", "2025-01-04")
    assert result.returncode == 1
    assert "sql/initial/2_gap.sql: wrote no row for 1 of 4 dates, the first 2025-01-02" in result.stderr
    assert "Nothing was committed. Resume with: python run_metrics.py 2025-01-01 2025-01-04 --initial" in result.stderr
    assert project.database.metrics() == []


def test_help_shows_examples_and_exit_codes(project: Project) -> None:
    shown = project.run("--help").stdout
    assert "python run_metrics.py 2025-01-01 2025-01-31" in shown
    assert "exit codes: 0 all committed" in shown


def test_quiet_prints_nothing_and_verbose_each_file(project: Project) -> None:
    project.write("m.sql", metric_sql("m"))
    quiet = project.run(DAY, "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert f"  {DAY}  sql/m.sql  1 rows" in project.run(DAY, "--verbose").stdout


# --- settings and the connection --------------------------------------------------------------------------------------


@contextmanager
def account(database: Database, password: str) -> Iterator[str]:
    """Yield an account with a password and all rights on the database."""
    name = f"{database.name}_user"
    database.execute(f"CREATE USER {name}@localhost IDENTIFIED BY '{password}'")
    database.execute(f"GRANT ALL ON {database.name}.* TO {name}@localhost")
    yield name
    database.execute(f"DROP USER {name}@localhost")


def test_a_setting_or_server_that_is_wrong_is_one_line_without_the_password(project: Project) -> None:
    project.write("m.sql", metric_sql("m"))
    nowhere = {"DB_SOCKET": "", "DB_HOST": "127.0.0.1", "DB_PORT": "1"}
    with account(project.database, "right_secret") as user:
        database = project.database.name
        secret = {"DB_PASSWORD": "wrong_secret"}
        faults = [
            ({**secret, "DB_NAME": ""}, "DB_NAME is not set; set it in .env or in the environment (there is no .env"),
            ({**secret, "DB_SOCKET": "", "DB_HOST": ""}, "DB_HOST (or DB_SOCKET) is not set"),
            ({**secret, "DB_USER": user}, f"as user {user}, database {database}: (1045) Access denied"),
            ({**secret, **nowhere}, f"cannot connect to 127.0.0.1:1 as user root, database {database}: (2003)"),
            ({"DB_NAME": "no_such"}, "database no_such: (1049) Unknown database"),
            ({"METRICS_TIMEZONE": "Mars"}, "METRICS_TIMEZONE=Mars: no such time zone"),
            ({"DB_TIME_ZONE": "Mars/Crater"}, "DB_TIME_ZONE=Mars/Crater: write an offset such as +08:00"),
        ]
        for env, message in faults:
            result = project.run(DAY, "--retries", "0", env=env)
            assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
            assert message in result.stderr
            assert "wrong_secret" not in result.stderr + project.log()
    assert project.database.metrics() == []


def test_commands_work_from_another_directory_and_a_path_with_spaces_with_an_env_file_alone(
    project: Project, tmp_path: Path
) -> None:
    project.write("m.sql", metric_sql("m", "%(from_file)s"))
    folder = tmp_path / "a path with 'quotes' and spaces"
    shutil.copytree(project.folder, folder)
    with account(project.database, "p@ss $HOME #1") as user:
        own = {"DB_USER": user, "DB_PASSWORD": "'p@ss $HOME #1'", "METRIC_PARAM_FROM_FILE": "x"}
        lines = {**project.database.env, **own}
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        for mode, warning in ((0o644, "Warning: .env holds a password and everybody may read it"), (0o600, "")):
            (folder / ".env").chmod(mode)
            done = subprocess.run(
                [sys.executable, folder / "run_metrics.py", DAY], capture_output=True, text=True, check=False, env={},
                cwd=tmp_path,
            )  # fmt: skip
            assert (done.returncode, done.stderr[: len(warning)]) == (0, warning)
            assert bool(done.stderr) == bool(warning)
    assert project.database.metrics() == [("m", DAY, '{"n": "x"}')]


SCHEMA_FAULTS = [
    ("DROP TABLE bi_metric_runs", "has no table bi_metric_runs; run: ./setup.sh --schema"),
    ("DROP TABLE bi_metrics", "has no table bi_metrics; run: ./setup.sh --schema"),
    ("ALTER TABLE bi_metrics ENGINE = MyISAM", "run: ALTER TABLE bi_metrics ENGINE = InnoDB"),
    (
        "ALTER TABLE bi_metrics DROP KEY uq_metric_date",
        "run: ALTER TABLE bi_metrics ADD UNIQUE KEY uq_metric_date (metrics, metric_date)",
    ),
    (
        "ALTER TABLE bi_metrics DROP KEY uq_metric_date, ADD UNIQUE KEY part (metrics(10), metric_date)",
        "has no unique key on (metrics, metric_date)",
    ),
]


@pytest.mark.parametrize(("fault", "repair"), SCHEMA_FAULTS)
def test_tables_that_are_not_as_they_must_be_stop_the_run_with_the_repair(
    project: Project, fault: str, repair: str
) -> None:
    project.write("m.sql", metric_sql("m"))
    project.database.execute(fault)
    result = project.run(DAY)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert repair in result.stderr
    if "ALTER TABLE" in repair:
        project.database.execute(repair.removeprefix("run: "))
        assert project.run(DAY).returncode == 0


# --- the session ------------------------------------------------------------------------------------------------------


@contextmanager
def connected(project: Project, **env: str) -> Iterator[DatabaseManager]:
    manager = DatabaseManager(load_settings(project.folder, project.environment(env)))
    manager.connect()
    try:
        yield manager
    finally:
        manager.close()


@contextmanager
def server_default(database: Database, variable: str, value: str) -> Iterator[None]:
    """Change a default of the server for a while."""
    ((before,),) = database.rows(f"SELECT @@GLOBAL.{variable}")
    database.execute(f"SET GLOBAL {variable} = {literal(value)}")
    try:
        yield
    finally:
        database.execute(f"SET GLOBAL {variable} = {literal(before)}")


def test_the_session_has_the_same_rules_whatever_the_servers_defaults(project: Project) -> None:
    with server_default(project.database, "sql_mode", "ANSI,NO_BACKSLASH_ESCAPES"):
        with connected(project, DB_TIME_ZONE="+08:00") as manager:
            isolation = "tx_isolation" if manager.is_mariadb else "transaction_isolation"
            ((sql_mode, level, autocommit, zone, charset, collation),) = manager.query(
                f"SELECT @@sql_mode, @@{isolation}, @@autocommit, @@time_zone, @@character_set_client, "
                "@@collation_connection = @@collation_database"
            )
            assert (level, autocommit, zone, charset, collation) == ("READ-COMMITTED", 0, "+08:00", "utf8mb4", 1)
            modes = set(sql_mode.split(","))
            assert "STRICT_TRANS_TABLES" in modes
            assert not modes & {"ANSI", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES"}
            assert "PIPES_AS_CONCAT" in modes  # the server's other choices stay
            numbers = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
            assert manager.query(numbers + "SELECT COUNT(*) FROM n") == ((3000,),)
            ((long,),) = manager.query(numbers + "SELECT JSON_LENGTH(JSON_ARRAYAGG(REPEAT('x', 1000))) FROM n")
            assert long == 3000
        project.write("m.sql", metric_sql("m", 'CONCAT("a string", \'\\n\')'))
        assert project.run(DAY).returncode == 0
    assert project.database.metrics() == [("m", DAY, '{"n": "a string\\n"}')]


def test_the_time_zone_decides_what_a_day_is_on_a_timestamp_column(project: Project) -> None:
    project.database.execute(
        "SET time_zone = '+00:00'; CREATE TABLE events (happened TIMESTAMP NULL);"
        f"INSERT INTO events VALUES ('{DAY} 15:59:59'), ('{DAY} 16:00:00'), ('{DAY} 20:00:00')"
    )
    within = "FROM events WHERE happened >= %(metric_date)s AND happened < %(metric_date)s + INTERVAL 1 DAY"
    project.write("m.sql", metric_sql("m", "COUNT(*)", where=within))
    found = []
    for zone in ("+00:00", "+08:00"):
        assert project.run(DAY, env={"DB_TIME_ZONE": zone}).returncode == 0
        found += project.database.metrics()
    assert [row[2] for row in found] == ['{"n": 3}', '{"n": 1}']


# --- all or nothing ---------------------------------------------------------------------------------------------------

FAILS_ONCE = "(SELECT 1 FROM fails WHERE d = %(metric_date)s)"


def five_files(project: Project, bad_day: str) -> None:
    """Write five files; the third fails on `bad_day`, at run time alone."""
    project.database.execute(f"CREATE TABLE fails (d DATE); INSERT INTO fails VALUES ('{bad_day}'), ('{bad_day}')")
    for number in range(1, 6):
        project.write(f"0{number}_m{number}.sql", metric_sql(f"m{number}", FAILS_ONCE if number == 3 else "1"))


def all_five(*days: str) -> list[tuple[str, str]]:
    return [(f"m{number}", day) for day in days for number in range(1, 6)]


def test_a_failed_date_does_not_leak_into_the_next_on_the_same_connection(project: Project) -> None:
    five_files(project, "2025-01-02")
    result = project.run("2025-01-01", "2025-01-03", "--keep-going")
    assert result.returncode == 1
    assert "Error: 2025-01-02: sql/03_m3.sql:5: statement 1 of 1: (1242)" in result.stderr
    assert "Failed: 2025-01-02. Run them again with: python run_metrics.py 2025-01-02 --keep-going" in result.stderr
    assert names(project.database) == all_five("2025-01-01", "2025-01-03")
    runs = project.database.rows("SELECT metric, status, error FROM bi_metric_runs WHERE metric_date = '2025-01-02'")
    assert [row[:2] for row in runs] == [("m3", "failed")]
    assert "(1242)" in runs[0][2]


def test_a_range_stops_at_the_first_failed_date_and_the_printed_command_resumes_it(project: Project) -> None:
    five_files(project, "2025-01-03")
    options = ["--metric", "m[1-4 ]", "--metric", "m5", "--retries", "1"]
    result = project.run("2025-01-01", "2025-01-05", *options)
    assert result.returncode == 1
    assert names(project.database) == all_five("2025-01-01", "2025-01-02")
    assert "Committed 2025-01-01 to 2025-01-02. Resume with: " in result.stderr
    command = shlex.split(result.stderr.partition("Resume with: ")[2])
    assert command == ["python", "run_metrics.py", "2025-01-03", "2025-01-05", *options]
    project.database.execute("DELETE FROM fails")
    assert project.run(*command[2:]).returncode == 0
    assert names(project.database) == all_five(*(f"2025-01-0{n}" for n in range(1, 6)))


def test_a_metric_that_writes_no_row_fails_its_date(project: Project) -> None:
    project.write("1_m.sql", metric_sql("m"))
    project.write("2_none.sql", metric_sql("none", where="FROM bi_metrics WHERE metrics = 'nothing'"))
    result = project.run(DAY)
    assert result.returncode == 1
    assert f"{DAY}: sql/2_none.sql: wrote no row; if that may be, add the header line `-- Empty: ok`" in result.stderr
    assert project.database.metrics() == []


def test_empty_is_ok_where_the_header_says_so_but_an_old_row_must_go_first(project: Project) -> None:
    maybe = metric_sql("may'be", header="-- Empty: ok", where="FROM source").replace("'may'be'", "'may''be'")
    project.database.execute("CREATE TABLE source (n INT)")
    project.write("may'be.sql", maybe)
    project.write("other.sql", metric_sql("other"))
    assert project.run(DAY).returncode == 0
    assert names(project.database) == [("other", DAY)]
    project.database.execute("INSERT INTO source VALUES (1)")
    assert project.run(DAY).returncode == 0
    project.database.execute("DELETE FROM source")
    left = project.run(DAY)
    assert left.returncode == 1
    assert "sql/may'be.sql: wrote no row, but an older run left one, which is now wrong; remove" in left.stderr
    delete = left.stderr.partition("remove it with: ")[2].splitlines()[0]
    assert delete.startswith("DELETE FROM bi_metrics WHERE metrics = 'may\\'be' AND metric_date BETWEEN")
    project.database.execute(delete)
    assert project.run(DAY).returncode == 0
    assert names(project.database) == [("other", DAY)]


def test_a_check_that_returns_rows_rolls_the_date_back_and_shows_the_first_three(project: Project) -> None:
    project.database.execute("CREATE TABLE odd (n INT); INSERT INTO odd VALUES (11), (22), (33), (44)")
    check = "-- Check: SELECT n, 'x' FROM odd WHERE %(metric_date)s >= '2025-01-02' ORDER BY n"
    fine = "-- Check: SELECT 1 FROM bi_metrics WHERE metrics = 'later' AND metric_date = %(metric_date)s LIMIT 0"
    project.write("1_m.sql", metric_sql("m", header=f"{fine}\n{check}"))
    project.write("2_later.sql", metric_sql("later"))
    result = project.run("2025-01-01", "2025-01-03")
    assert result.returncode == 1
    assert (
        "Error: 2025-01-02: sql/1_m.sql:5: check failed: SELECT n, 'x' FROM odd WHERE '2025-01-02' >= '2025-01-02' "
        "ORDER BY n returned 4 rows: 11, x; 22, x; 33, x. To run without"
    ) in result.stderr
    assert names(project.database) == [("later", "2025-01-01"), ("m", "2025-01-01")]
    project.write("1_m.sql", metric_sql("m", header="\n-- Check: SELECT nope FROM odd"))
    assert "sql/1_m.sql:5: check: (1054)" in project.run(DAY).stderr


def test_a_check_sees_the_rows_of_all_files_of_its_date(project: Project) -> None:
    check = "-- Check: SELECT COUNT(*) FROM bi_metrics WHERE metric_date = %(metric_date)s HAVING COUNT(*) <> 2"
    project.write("1_m.sql", metric_sql("m", header=check))
    project.write("2_later.sql", metric_sql("later"))
    assert project.run(DAY).returncode == 0


def test_warnings_of_the_server_are_in_the_log_and_cut_data_is_an_error(project: Project) -> None:
    text = metric_sql("m").replace("INSERT", "SELECT CAST('12abc' AS SIGNED);\nINSERT", 1)
    project.write("m.sql", text.replace("value_list = d.v", "value_list = VALUES(value_list)"))
    result = project.run(DAY)
    assert result.returncode == 0
    warnings = [line for line in project.log().splitlines() if " WARNING " in line]
    assert len(warnings) == 1  # MySQL's 1287 about VALUES() is not among them
    assert f"{DAY} sql/m.sql: the server's warning 1292: Truncated incorrect" in warnings[0]
    project.write("m.sql", metric_sql("m").replace("'card'", "REPEAT('x', 51)"))
    cut = project.run(DAY)
    assert (cut.returncode, "(1406) Data too long for column 'data_type'" in cut.stderr) == (1, True)


# --- provisional and final --------------------------------------------------------------------------------------------

INITIAL = metric_sql("total", "100")
INCREMENTAL = """\
-- Metric: total
-- Description: Yesterday's row and one more
-- Data Type: card
INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
SELECT d.metrics, d.data_type, d.f_list, d.v, %(metric_date)s
FROM (SELECT metrics, data_type, f_list,
             JSON_OBJECT('n', 1 + CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.n')) AS UNSIGNED)) AS v
      FROM bi_metrics WHERE metrics = 'total' AND metric_date = %(metric_date)s - INTERVAL 1 DAY) d
ON DUPLICATE KEY UPDATE value_list = d.v;
"""


def test_the_initial_file_runs_where_there_is_nothing_final_to_build_on(project: Project) -> None:
    project.write("initial/total.sql", INITIAL)
    project.write("incremental/total.sql", INCREMENTAL)
    assert project.run("2025-01-10", "2025-01-12").returncode == 0  # a new metric starts by itself
    values = [row[1:] for row in project.database.metrics()]
    assert values == [("2025-01-10", '{"n": 100}'), ("2025-01-11", '{"n": 101}'), ("2025-01-12", '{"n": 102}')]
    files = project.database.rows("SELECT file, mode FROM bi_metric_runs ORDER BY id")
    assert files == [("sql/initial/total.sql", "initial"), *[("sql/incremental/total.sql", "incremental")] * 2]
    # The row of the 12th becomes provisional: written a second before its day was over.
    zone = {"METRICS_TIMEZONE": "Asia/Taipei"}
    for written, expected in (("2025-01-12 15:59:59", 100), ("2025-01-12 16:00:00", 103)):
        project.database.execute(
            f"SET time_zone = '+00:00'; UPDATE bi_metrics SET updated_at = '{written}' WHERE metric_date = '2025-01-12'"
        )
        assert project.run("2025-01-13", env=zone).returncode == 0
        assert project.database.metrics()[-1] == ("total", "2025-01-13", f'{{"n": {expected}}}')
    assert "2025-01-13 total: no final row on the day before, so sql/initial/total.sql fills it" in project.log()


def test_the_times_of_a_row_tell_when_it_was_made_and_when_it_was_last_computed(project: Project) -> None:
    project.write("m.sql", metric_sql("m"))
    assert project.run(DAY).returncode == 0
    age = "SELECT ABS(TIMESTAMPDIFF(SECOND, updated_at, NOW())) < 60, created_at FROM bi_metrics"
    assert project.database.rows(age)[0][0] == 1
    project.database.execute(f"UPDATE bi_metrics SET created_at = '{DAY} 01:00:00', updated_at = '{DAY} 12:00:00'")
    # The number is the same, so the server itself would leave the row alone, and it would stay provisional.
    assert project.run(DAY).returncode == 0
    assert project.database.rows(age) == [(1, datetime(2025, 1, 15, 1))]
    project.database.execute("UPDATE bi_metrics SET updated_at = NOW() + INTERVAL 1 DAY")
    assert project.run(DAY).returncode == 0
    assert project.database.rows("SELECT updated_at > NOW() FROM bi_metrics") == [(1,)]


# --- the savepoint guard ----------------------------------------------------------------------------------------------

TABLES = """
CREATE TABLE lasting (n INT, m INT, KEY old_key (m)) ENGINE = InnoDB;
CREATE PROCEDURE commits() BEGIN COMMIT; INSERT INTO lasting VALUES (1, 1); END;
CREATE PROCEDURE behaves() BEGIN INSERT INTO lasting VALUES (1, 1); SELECT 1; SELECT 2; END;
"""
ENDS_THE_TRANSACTION = [
    "CREATE TABLE fresh (n INT)",
    "CREATE TABLE IF NOT EXISTS lasting (n INT)",
    "CREATE TABLE fresh AS SELECT 1 AS n",
    "DROP TABLE lasting",
    "DROP TABLE IF EXISTS nope",
    "ALTER TABLE lasting ADD COLUMN more INT",
    "RENAME TABLE lasting TO renamed",
    "TRUNCATE TABLE lasting",
    "TRUNCATE lasting",
    "CREATE INDEX fresh ON lasting (n)",
    "DROP INDEX old_key ON lasting",
    "CREATE VIEW fresh AS SELECT 1 AS n",
    "CREATE OR REPLACE VIEW fresh AS SELECT 1 AS n",
    "DROP VIEW IF EXISTS nope",
    "CREATE DATABASE IF NOT EXISTS {database}",
    "DROP DATABASE IF EXISTS no_such_database",
    "CREATE USER IF NOT EXISTS root@localhost",
    "DROP USER IF EXISTS nobody@localhost",
    "GRANT SELECT ON {database}.* TO root@localhost",
    "CREATE PROCEDURE fresh() DO 0",
    "DROP PROCEDURE commits",
    "CREATE TRIGGER fresh BEFORE INSERT ON lasting FOR EACH ROW SET @x = 1",
    "ANALYZE TABLE lasting",
    "OPTIMIZE TABLE lasting",
    "LOCK TABLES lasting WRITE",
    "FLUSH TABLES",
    "START TRANSACTION",
    "BEGIN",
    "COMMIT",
    "COMMIT AND CHAIN",
    "ROLLBACK",
    "SET autocommit = 1",
    "SET SESSION autocommit = ON",
    "CREATE TEMPORARY TABLE mine (n INT); ALTER TABLE mine ADD COLUMN more INT",
    "CREATE TEMPORARY TABLE mine (n INT); CREATE INDEX fresh ON mine (n)",
    "CREATE TEMPORARY TABLE mine (n INT); TRUNCATE TABLE mine",
    "CREATE TEMPORARY TABLE mine (n INT); DROP TABLE mine",
    "/*!50000 COMMIT */",
]  # fmt: skip


@contextmanager
def unchecked_runner(project: Project) -> Iterator[MetricRunner]:
    """Yield a runner on the project's files, with every rule of sql_checks switched off."""
    settings_ = load_settings(project.folder, project.environment())
    database = DatabaseManager(settings_)
    catalog = load_catalog(project.folder / "sql")
    files = catalog.in_mode("incremental")
    runner = MetricRunner(database, catalog, files, settings_.parameters, None, Options(retries=0))
    runner.open(lambda: None)
    try:
        yield runner
    finally:
        database.close()


def run_unchecked(project: Project, *days: str) -> None:
    with unchecked_runner(project) as runner:
        works = [Work("incremental", (date.fromisoformat(day),)) for day in days]
        assert len(list(runner.run(works))) == len(works)


def rules_broken(project: Project) -> list[tuple[str, int]]:
    catalog = load_catalog(project.folder / "sql")
    return [(each.rule, each.line) for each in check_catalog(catalog, catalog.files, ()) if each.severity == "error"]


@pytest.mark.parametrize("statement", ENDS_THE_TRANSACTION)
def test_a_statement_that_ends_the_transaction_is_refused_and_the_guard_catches_it_too(
    project: Project, statement: str
) -> None:
    project.database.execute(TABLES)
    statement = statement.format(database=project.database.name)
    project.write("m.sql", metric_sql("m") + f"\n/* */ {statement};\n")
    rules = rules_broken(project)
    assert [(rule in ("implicit-commit", "transaction-control"), line) for rule, line in rules] == [(True, 9)]
    with pytest.raises(DateError, match=r"2025-01-15: sql/m\.sql: a statement of this file ended the transaction"):
        run_unchecked(project, DAY)


def test_a_procedure_that_commits_is_caught_and_one_that_behaves_is_not(project: Project) -> None:
    project.database.execute(TABLES)
    project.write("m.sql", metric_sql("m") + "CALL behaves();\n")
    assert project.run(DAY).returncode == 0
    project.write("m.sql", metric_sql("m") + "CALL commits();\n")
    result = project.run("2025-01-16")
    assert result.returncode == 1
    assert "sql/m.sql: a statement of this file ended the transaction, so what ran before it may be" in result.stderr
    project.write("m.sql", metric_sql("m") + "CALL behaves();\nCALL nope();\n")
    assert "sql/m.sql:9: statement 3 of 3: (1305) PROCEDURE" in project.run("2025-01-17").stderr


def test_a_ddl_that_fails_has_committed_all_the_same_and_the_error_says_so(project: Project) -> None:
    project.database.execute(TABLES)
    project.write("m.sql", metric_sql("m") + "CREATE TABLE lasting (n INT);\n")
    with pytest.raises(DateError, match=r"\(1050\) .* A statement also ended the transaction: what ran before it"):
        run_unchecked(project, DAY)
    assert names(project.database) == [("m", DAY)]


def test_what_does_not_commit_raises_no_alarm(project: Project) -> None:
    project.database.execute(TABLES)
    legitimate = """
        SET @x := 1; CREATE TEMPORARY TABLE mine (n INT); INSERT INTO mine VALUES (1);
        CREATE TEMPORARY TABLE IF NOT EXISTS two SELECT * FROM mine; DELETE FROM lasting; UPDATE mine SET n = 2;
        INSERT INTO lasting SELECT n, n FROM mine; SELECT GET_LOCK('t', 0); SELECT RELEASE_LOCK('t');
        EXPLAIN SELECT * FROM mine; DO 1; DROP TEMPORARY TABLE mine; DROP TEMPORARY TABLE IF EXISTS two, three;
        SELECT * FROM lasting WHERE n > 5;
    """
    project.write("m.sql", metric_sql("m") + legitimate)
    assert rules_broken(project) == []
    assert project.run("2025-01-15", "2025-01-16").returncode == 0
    assert project.database.rows("SELECT n FROM lasting") == [(2,)]


# --- the reader and the server agree ----------------------------------------------------------------------------------

ODD_TEXTS = [
    ("SELECT 1", 1),
    ("SELECT 1;", 1),
    (";;SELECT 1;;\n;SELECT 2;;", 2),
    ("SELECT ';', \";\", '\\';', ''';', \"\\\";\" AS `;`", 1),
    ("SELECT 1 -- ; '\n; # ; \"\nSELECT 2 /* ; ' */; -- end ;", 2),
    ("/*! SELECT 1; */ SELECT 2", None),
    ("/*!50000 SELECT */ 1; SELECT /*+ MAX_EXECUTION_TIME(1000) */ 2;", 2),
    ("/* a */;/**/ ; # b\n", 0),
    ("SELECT 1--1; SELECT 5 --\t;\n;SELECT 6", 3),
    ("SELECT 1 --;", None),
    ("SELECT 'a' 'b;', N'c;', _utf8mb4'd;', X'41', b'1'; SELECT 2", 2),
    ("SELECT '\\\\'; SELECT '\\\\\\''; SELECT 'é;🎲'; SELECT `a``;` FROM (SELECT 1 AS `a``;`) t", 4),
    ("DO 0; SET @a := ';'; SELECT @a, @`b;`, @'c;', @\"d;\"", 3),
    ("SELECT 1 /* /* ; */; SELECT 2", 2),
    ("SELECT */* ; */ FROM (SELECT 1) t; SELECT 2", 2),
    ("\ufeff", None),
    ("SELECT 1;\x00", None),
    ("(SELECT 1); ((SELECT 2))", 2),
    ("SELECT 3 /*!99999 + 1; */ ; SELECT 4", None),
    ("SELECT '%', '%%'; SELECT 7 % 4", 2),
    ("SELECT 1\r;\r\nSELECT 2\f;\v", 2),
]
PARTS = [
    "SELECT 1", "SELECT ';'", 'SELECT ";\\""', "SELECT `;` FROM (SELECT 1 AS `;`) t", "/*! SELECT 2 */", "DO 0",
    "SELECT /* ; */ 3", "SET @a := ';'", "SELECT 1 -- ;\n + 1", "SELECT 1 # '\n", "SELECT 1 --1", "(SELECT 2)", "", " ",
    "/* ; */", "-- ;\n", "# `\n", "SELECT '\\\\'", "SELECT ''';'''", "SELECT 1 /*!50000 + 1 */", "/*+ */",
]  # fmt: skip
BITS = ["'", '"', "`", "\\", "/*", "*/", "--", "#", "\n", ";", "/*!", "@", "%"]


def results_of(manager: DatabaseManager, text: str) -> tuple[int, int | None]:
    """Return how many statements are sent, and how many results the server returns: None where one fails.

    What the rules refuse is not sent.
    """
    metric = Metric("m", "both", "sql/m.sql", None, False, parse(text))
    if any(problem.rule == "unterminated" for problem in check_catalog(Catalog((metric,)), [metric], ())):
        return 0, None
    statements = [statement.text for statement in metric.statements]
    if not statements:
        return 0, 0
    try:
        return len(statements), len(manager.run(statements, exactly=False))
    except StatementError:
        return len(statements), None


def test_the_server_returns_a_result_for_each_statement_that_the_reader_sees(project: Project) -> None:
    with connected(project) as manager:
        for text, expected in ODD_TEXTS:
            sent, returned = results_of(manager, text)
            assert returned is None or sent == returned, text
            assert expected is None or expected == sent == returned, text

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.sampled_from(PARTS), max_size=6).map(";".join))
        def every_good_text(text: str) -> None:
            sent, returned = results_of(manager, text)
            assert sent == returned

        @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.sampled_from([*PARTS, *BITS]), max_size=8).map("".join))
        def every_text(text: str) -> None:
            sent, returned = results_of(manager, text)
            assert returned in (sent, None)

        every_good_text()
        every_text()
