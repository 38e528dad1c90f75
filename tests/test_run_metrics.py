"""The nightly command on a real server: what it commits, what it refuses, what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pymysql
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.database import load_settings
from run_metrics import parse_arguments
from src.db_manager import DatabaseManager
from src.errors import StatementError
from src.metric_file.checks import check_catalog
from src.metric_file.file import MetricFile, parse
from src.metric_file.text import bind, literal
from src.sql_loader import Catalog, split_name
from tests.conftest import Database, Project, metric_sql, refusal

DAY = "2025-01-15"


def names(database: Database) -> list[tuple[str, str]]:
    """Return metric and date of every row."""
    return [row[:2] for row in database.metrics()]


def today() -> date:
    return datetime.now(timezone.utc).date()


def errors(result: subprocess.CompletedProcess[str]) -> str:
    """Return stderr without the line that an old date brings: its metric has no row from there to yesterday."""
    return "".join(line for line in result.stderr.splitlines(True) if not line.startswith("Warning: missing: "))


@contextmanager
def server_on(database: Database, day: date) -> Iterator[dict[str, str]]:
    """Yield the settings of an account for which it is noon of `day` on the server."""
    noon = int(datetime(day.year, day.month, day.day, 12, tzinfo=timezone.utc).timestamp())
    with account(database, "") as user, server_default(database, "init_connect", f"SET SESSION timestamp = {noon}"):
        yield {"DB_USER": user, "METRICS_TIMEZONE": "UTC"}


# --- files and their order --------------------------------------------------------------------------------------------


def test_a_file_dropped_in_is_run_for_the_date_and_twice_leaves_the_same_rows(project: Project) -> None:
    project.write("incremental/01_first.sql", metric_sql("first", "7"))
    for _ in range(2):
        result = project.run(DAY)
        assert (result.returncode, errors(result)) == (0, "")
        assert project.database.metrics() == [("first", DAY, '{"n": 7}')]
    states = project.database.rows("SELECT metric, CAST(metric_date AS CHAR), state FROM bi_metric_state LIMIT 1")
    assert states == [("first", DAY, "final")]


def test_files_run_by_number_and_disabled_ones_and_other_modes_do_not(project: Project) -> None:
    other = ("_1_off.sql", "initial/2_i.sql")
    for path in ("100____last.sql", "10_b.sql", "incremental/9_c.sql", "no_prefix.sql", *other):
        project.write(path, metric_sql(split_name(path.rpartition("/")[2])[1].lstrip("_1")))
    assert project.run(DAY).returncode == 0
    in_log = [line.split()[4].removesuffix(":") for line in project.log().splitlines() if line.endswith("start")]
    assert in_log == ["sql/incremental/9_c.sql", "sql/10_b.sql", "sql/100____last.sql", "sql/no_prefix.sql"]


HOSTILE = [
    "with space", "it's \"quoted\"", "100%s %(metric_date)s %", "naïve_指標_🎲", "a;b -- c", "#`x`\\", "new\nline",
]  # fmt: skip


def test_hostile_file_names_work(project: Project) -> None:
    for number, name in enumerate([*HOSTILE, "fails_100%s\n"]):
        text = metric_sql("m", "nope" if name.startswith("fails") else "1")
        project.write(f"{number}_{name}.sql", text.replace("'m'", literal(name).replace("%", "%%")))
    failed = project.run(DAY)
    assert failed.returncode == 1
    assert "sql/7_fails_100%s" in failed.stderr
    (project.folder / "sql" / "7_fails_100%s\n.sql").unlink()
    result = project.run(DAY, "--metric", "*")
    assert (result.returncode, errors(result)) == (0, "")
    assert sorted(name for name, _ in names(project.database)) == sorted(HOSTILE)


def test_a_file_name_that_is_not_utf8_is_refused(project: Project) -> None:
    file = project.write("m.sql", metric_sql("m"))
    file.rename(file.with_name("m\udcff.sql"))
    for result in (project.run_process(DAY), project.list("--check", "--offline")):
        assert result.returncode in (1, 2)
        assert "not-utf8: the file's name is not UTF-8; rename the file" in result.stdout + result.stderr
        assert "Traceback" not in result.stderr


def test_what_is_no_regular_file_stops_no_run(project: Project) -> None:
    project.write("m.sql", metric_sql("m"))
    os.mkfifo(project.folder / "sql" / "pipe.sql")
    (project.folder / "sql" / ".#m.sql").symlink_to("somebody@host.1234:5678")
    (project.folder / "sql" / "folder.sql").mkdir()
    assert project.run(DAY).returncode == 0
    assert names(project.database) == [("m", DAY)]


def test_a_name_that_the_column_cannot_hold_is_refused(project: Project) -> None:
    long = project.write(f"1_{'é' * 101}.sql", metric_sql("short"))
    result = project.run(DAY)
    assert result.returncode == 2
    assert "own-name: the name has 101 characters, bi_metrics holds 100; shorten it" in result.stderr
    long.unlink()
    project.write(f"1_{'é' * 100}.sql", metric_sql("é" * 100))
    assert project.run(DAY).returncode == 0


def test_a_helper_runs_with_all_and_also_with_a_single_metric_that_may_read_it(project: Project) -> None:
    project.database.execute("CREATE TABLE helper (n INT)")
    fill = "DELETE FROM helper;\nINSERT INTO helper SELECT 5;\n"
    project.write("1_fill.sql", f"-- Metric: fill\n-- Description: x\n{fill}")
    project.write("2_total.sql", metric_sql("total", "(SELECT COALESCE(SUM(n), 0) FROM helper)"))
    project.write("3_other.sql", metric_sql("other"))
    assert project.run(DAY, "--metric", "tot*").returncode == 0
    assert project.database.metrics() == [("total", DAY, '{"n": 5}')]
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
    assert (result.returncode, errors(result)) == (0, "")
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
        assert "To run without this metric: rename sql/three.sql to _three.sql" in failed.stderr


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
    lines = [line.split(" ") for line in result.stderr.splitlines()]
    assert {line[1] + line[3] for line in lines} >= {
        "sql/1_good.sql:1:1:duplicate-metric:",
        "sql/2_empty.sql:1:1:empty-file:",
        "sql/3_quote.sql:10:8:unterminated:",
        "sql/4_comment.sql:8:1:unterminated:",
        "sql/5_latin.sql:9:7:not-utf8:",
        "sql/incremental/good.sql:1:1:duplicate-metric:",
    }
    assert all(line[:1] + line[2:3] == ["Error:", "error:"] for line in lines)
    assert "sql/1_good.sql and sql/incremental/good.sql both define good" in result.stderr
    assert "byte 0xe9 is not UTF-8" in result.stderr
    assert project.database.metrics() == []


def test_a_range_is_explained_before_its_first_date(project: Project) -> None:
    project.write("1_good.sql", metric_sql("good"))
    project.write("2_bad.sql", metric_sql("bad", where="\nFROM bi_metrics WHERE metrics = 'good' AND nope = 1"))
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
    (["2999-01-01"], "2999-01-01 is in the future; today is 20"),
    (["--metric", "totl", DAY], "no metric for single dates matches 'totl'; did you mean total?"),
    (["--metric", "total", "--metric", "x*", DAY], "no metric for single dates matches 'x*'"),
    (["--metric", "x", "--initial"], "no metric for --initial matches 'x'"),
]
PARSER_ERRORS = [
    (["2025-01-01", "2025-01-02", "2025-01-03"], "3 dates given; at most 2"),
    (["--init"], "unrecognized arguments: --init"),
    (["--last", "0"], "argument --last: "),
    (["--last", "100000"], "argument --last: "),
    (["--last", "2", "2025-01-01", "2025-01-02"], "2 dates given; at most 1"),
    (["--last", "2", "--initial"], "--initial and --last exclude each other"),
    (["--chunk", "month"], "--chunk goes with --initial"),
    (["--initial", "--chunk", "month", "--dry-run"], "--chunk and --dry-run exclude each other"),
    (["--verify", "2025-01-01"], "--verify needs two dates, START and END"),
    (["--verify", "2025-01-01", "2025-01-02", "--dry-run"], "--verify and --dry-run exclude each other"),
    (["--verify", "2025-01-01", "2025-01-02", "--initial"], "--initial and --verify exclude each other"),
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
def test_words_that_make_no_sense_together_are_one_line(words: list[str], message: str) -> None:
    assert message in refusal(parse_arguments, words)


def test_an_empty_sql_folder_is_an_error(project: Project) -> None:
    project.write("_off.sql", metric_sql("off"))
    project.write("initial/other_mode.sql", metric_sql("other_mode"))
    result = project.run(DAY)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "Error: there are no metric files in the folder of METRICS_DIR" in result.stderr


def test_a_date_that_has_not_begun_by_the_servers_clock_is_refused(project: Project) -> None:
    project.write("m.sql", metric_sql("m"))
    behind = today() - timedelta(days=1)
    with server_on(project.database, behind) as env:
        result = project.run(str(today()), env=env)
        assert (result.returncode, result.stdout) == (2, "")
        assert f"Error: {today()} has not begun yet: by the server's clock it is still {behind}" in result.stderr
        earlier = project.run(DAY, env=env)
    assert earlier.returncode == 0
    assert "Warning: this machine's clock is " in earlier.stderr
    assert names(project.database) == [("m", DAY)]


@pytest.mark.parametrize("days", [-10, -2, 2, 40])
def test_a_server_whose_clock_is_days_off_stops_the_run(project: Project, days: int) -> None:
    project.write("m.sql", metric_sql("m"))
    other = today() + timedelta(days=days)
    with server_on(project.database, other) as env:
        for words in ([], [DAY]):
            result = project.run(*words, env=env)
            assert result.returncode == 2
            assert f"by this machine's clock today is {today()}, by the server's {other}; correct" in result.stderr
    assert names(project.database) == []


def test_without_a_date_yesterday_runs_and_then_today(project: Project) -> None:
    project.env["METRICS_TIMEZONE"] = "UTC"
    project.write("m.sql", metric_sql("m"))
    result = project.run()
    assert (result.returncode, result.stderr) == (0, "")
    dates = [str(today() - timedelta(days=1)), str(today())]
    assert names(project.database) == [("m", day) for day in dates]
    yesterday, this_day = result.stdout.splitlines()
    assert re.fullmatch(rf"{dates[0]}  1 metric: 1 new  \(\d+\.\d\d s\)", yesterday)
    assert re.fullmatch(rf"{dates[1]}  1 metric: 1 new; not final: {dates[1]} has not ended  \(.*\)", this_day)
    states = project.database.rows("SELECT state FROM bi_metric_state ORDER BY metric_date")
    assert states == [("final",), ("open",)]


def test_dates_have_words_and_last_counts_back_from_one(project: Project) -> None:
    project.env["METRICS_TIMEZONE"] = "UTC"
    project.write("m.sql", metric_sql("m"))
    ago = [str(today() - timedelta(days=n)) for n in range(3)]
    for words, dates in (
        (["yesterday"], ago[1:2]), (["yesterday", "today"], ago[1::-1]), (["--last", "3"], ago[::-1]),
        (["--last", "2", "2025-01-01"], ["2024-12-31", "2025-01-01"]),
    ):  # fmt: skip
        project.database.execute("DELETE FROM bi_metrics")
        assert project.run(*words).returncode == 0
        assert [day for _, day in names(project.database)] == dates


ALL_DATES = """\
-- Metric: {name}
-- Description: A row for each date
-- Data Type: card
INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH RECURSIVE days AS (SELECT DATE(%(start_date)s) AS d UNION ALL
  SELECT d + INTERVAL 1 DAY FROM days WHERE d < %(metric_date)s)
SELECT '{name}', 'card', JSON_ARRAY('n'), JSON_OBJECT('n', DATEDIFF(d, %(start_date)s)), d FROM days {where}
ON DUPLICATE KEY UPDATE value_list = VALUES(value_list);
"""


def test_the_initial_load_fills_every_date_whichever_way_its_files_are_written(project: Project) -> None:
    project.write("initial/1_history.sql", ALL_DATES.format(name="history", where=""))
    project.write("initial/2_per_date.sql", metric_sql("per_date", "%(metric_date)s"))
    project.write("3_both.sql", ALL_DATES.format(name="both", where=""))
    project.write("incremental/4_other.sql", metric_sql("other"))
    as_of = project.run("--initial", "2024-12-31")
    assert (as_of.returncode, errors(as_of)) == (0, "")
    counted = "Initial load of 2024-12-31: 1 date, 3 files, 1 of them once per date; 1 transaction."
    assert as_of.stdout.splitlines()[0] == counted
    assert names(project.database) == [(name, "2024-12-31") for name in ("both", "history", "per_date")]
    project.database.execute("DELETE FROM bi_metrics; DELETE FROM bi_metric_state")
    assert project.run("2025-01-01", "--initial", "2025-01-03").returncode == 0
    days = ["2025-01-01", "2025-01-02", "2025-01-03"]
    assert project.database.metrics() == [
        row for n, day in enumerate(days) for row in (
            ("both", day, f'{{"n": {n}}}'), ("history", day, f'{{"n": {n}}}'), ("per_date", day, f'{{"n": "{day}"}}'))
    ]  # fmt: skip
    once = (
        "SELECT file, COUNT(DISTINCT milliseconds), COUNT(*) FROM bi_metric_state WHERE file IS NOT NULL "
        "GROUP BY file ORDER BY file"
    )
    assert [row[2] for row in project.database.rows(once)] == [3, 3, 3]
    assert "METRICS_HISTORY_START is not set, so one date is loaded. For more: " in project.run("--initial").stdout
    project.database.execute("DELETE FROM bi_metrics")
    more = {"METRICS_HISTORY_START": str(today() - timedelta(days=3)), "METRICS_TIMEZONE": "UTC"}
    assert project.run("--initial", env=more).returncode == 0
    history = [day for name, day in names(project.database) if name == "history"]
    assert history == [str(today() - timedelta(days=n)) for n in (3, 2, 1, 0)]
    for early in ([DAY], [DAY, "today"], ["--last", "5"], ["--initial", DAY, "today"]):
        refused = project.run(*early, env=more)
        assert refused.returncode == 2
        assert re.search(rf" is before METRICS_HISTORY_START={history[0]}; for older dates set that", refused.stderr)
    assert project.run("--last", "4", env=more).returncode == 0
    assert project.run(env={**more, "METRICS_HISTORY_START": str(today())}).returncode == 0  # a night is no slip


def test_chunks_of_an_initial_load_are_committed_month_by_month(project: Project) -> None:
    project.write("1_both.sql", ALL_DATES.format(name="both", where=""))
    project.write("2_odd.sql", metric_sql("odd", where="WHERE %(metric_date)s <> '2025-02-02'"))
    result = project.run("--initial", "2025-01-30", "2025-03-02", "--chunk", "month")
    assert result.returncode == 1
    assert "2025-01-30 to 2025-01-31  2 metrics on 2 dates: 4 new" in result.stdout
    assert names(project.database) == [(name, f"2025-01-{n}") for n in (30, 31) for name in ("both", "odd")]
    resume = "Resume with: python run_metrics.py 2025-02-01 2025-03-02 --initial --chunk month"
    assert f"Committed 2025-01-30 to 2025-01-31. {resume}" in result.stderr
    one_left = project.run("--initial", "2025-01-31", "2025-02-02", "--chunk", "month")
    assert "Resume with: python run_metrics.py 2025-02-01 2025-02-02 --initial --chunk month" in one_left.stderr
    the_last = project.run("--initial", "2025-02-02", "2025-02-02")
    # One date alone would mean the history up to it.
    assert "Resume with: python run_metrics.py 2025-02-02 2025-02-02 --initial" in the_last.stderr


REFUSALS = {
    "a CHECK": "ALTER TABLE bi_metrics ADD CONSTRAINT objects CHECK (JSON_TYPE(value_list) <> 'STRING')",
    "a trigger": "CREATE TRIGGER objects BEFORE UPDATE ON bi_metrics FOR EACH ROW IF NEW.value_list LIKE '\"not%' THEN "
    "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no text, please'; END IF",
}


@pytest.mark.parametrize("refusal_by", REFUSALS)
def test_a_check_or_trigger_that_refuses_the_blank_is_named(project: Project, refusal_by: str) -> None:
    project.database.execute(REFUSALS[refusal_by])
    project.write("m.sql", metric_sql("m"))
    assert project.run(DAY).returncode == 0
    before = project.database.rows("SELECT * FROM bi_metrics")
    result = project.run(DAY)
    assert result.returncode == 1
    assert f'Error: {DAY}: bi_metrics refuses "not computed yet ...", which every run writes before it' in result.stderr
    assert re.search(r"\((3819|4025|1644)\) .*(objects|no text, please)", result.stderr)
    assert project.database.rows("SELECT * FROM bi_metrics") == before


def test_help_shows_examples_and_exit_codes(project: Project) -> None:
    shown = project.run("--help").stdout
    assert "python run_metrics.py 2025-01-01 2025-01-31" in shown
    assert "exit codes: 0 all committed" in shown


def test_quiet_prints_nothing_and_verbose_each_file(project: Project) -> None:
    project.write("m.sql", metric_sql("m"))
    quiet = project.run(DAY, "--quiet")
    assert (quiet.returncode, quiet.stdout) == (0, "")
    assert re.search(rf"^  {DAY}  sql/m\.sql  \d+ ms$", project.run(DAY, "--verbose").stdout, re.MULTILINE)


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
            ({**secret, "DB_NAME": ""}, "DB_NAME is not set: set it in .env or in the environment"),
            ({**secret, "DB_SOCKET": "", "DB_HOST": ""}, "DB_HOST (or DB_SOCKET) is not set: set it"),
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


def test_commands_work_from_a_path_with_spaces_with_an_env_file_alone(project: Project, tmp_path: Path) -> None:
    project.write("m.sql", metric_sql("m", "%(from_file)s"))
    folder = tmp_path / "a path with 'quotes' and spaces"
    project.install()
    shutil.copytree(project.folder, folder)
    with account(project.database, "p@ss $HOME #1") as user:
        own = {"DB_USER": user, "DB_PASSWORD": "'p@ss $HOME #1'", "METRIC_PARAM_FROM_FILE": "x"}
        lines = {**project.database.env, **own}
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        (folder / ".env").chmod(0o600)
        done = subprocess.run(
            [sys.executable, folder / "run_metrics.py", DAY], capture_output=True, text=True, check=False, env={},
            cwd=tmp_path,
        )  # fmt: skip
        assert (done.returncode, errors(done)) == (0, "")
    assert project.database.metrics() == [("m", DAY, '{"n": "x"}')]


WITHOUT_JINJA2 = """
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "jinja2" else find(name)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_run_needs_no_package_of_the_page(project: Project) -> None:
    project.write("m.sql", metric_sql("m"))
    project.install()
    for command, words, code in (("run_metrics.py", [DAY], 0), ("list_metrics.py", [], 2)):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_JINJA2, str(project.folder / command), *words], capture_output=True,
            text=True, check=False, env=project.environment(), cwd=project.folder,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
    assert done.stderr == "Error: the package Jinja2 is missing; run ./setup.sh, or: pip install -r requirements.txt\n"


SCHEMA_FAULTS = [
    ("DROP TABLE bi_metric_state", "has no table bi_metric_state; run: ./setup.sh --schema"),
    ("DROP TABLE bi_metric_changes", "has no table bi_metric_changes; run: ./setup.sh --schema"),
    ("DROP TABLE bi_metric_headers", "has no table bi_metric_headers; run: ./setup.sh --schema"),
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


def test_a_commit_that_the_server_refuses_has_left_nothing_behind(project: Project) -> None:
    with connected(project) as manager:
        manager._end = lambda statement: manager.execute("COMMIT NEVER")  # type: ignore[method-assign, assignment]
        with pytest.raises(StatementError, match="NEVER"), manager.transaction():
            manager.execute("DO 1")
        assert manager.may_be_stored == ""


@contextmanager
def server_default(database: Database, variable: str, value: str | int) -> Iterator[None]:
    """Change a default of the server for a while."""
    ((before,),) = database.rows(f"SELECT @@GLOBAL.{variable}")

    def change(to: str | int) -> None:
        database.execute(f"SET GLOBAL {variable} = {literal(to) if isinstance(to, str) else to}")

    change(value)
    try:
        yield
    finally:
        change(before)


def test_the_session_has_the_same_rules_whatever_the_servers_defaults(project: Project) -> None:
    database = project.database
    with (
        server_default(database, "sql_mode", "ANSI,NO_BACKSLASH_ESCAPES"),
        server_default(database, "completion_type", "CHAIN"), server_default(database, "sql_select_limit", 1),
    ):  # fmt: skip
        with connected(project, DB_TIME_ZONE="+08:00") as manager:
            isolation = "tx_isolation" if manager.is_mariadb else "transaction_isolation"
            ((sql_mode, level, autocommit, zone, charset, collation, completion),) = manager.query(
                f"SELECT @@sql_mode, @@{isolation}, @@autocommit, @@time_zone, @@character_set_client, "
                "@@collation_connection = @@collation_database, @@completion_type"
            )
            assert (level, autocommit, zone, charset, collation) == ("READ-COMMITTED", 0, "+08:00", "utf8mb4", 1)
            assert completion == "NO_CHAIN"
            modes = set(sql_mode.split(","))
            assert "STRICT_TRANS_TABLES" in modes
            assert not modes & {"ANSI", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES"}
            assert "PIPES_AS_CONCAT" in modes  # the server's other choices stay
            numbers = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
            assert len(manager.query(numbers + "SELECT i FROM n")) == 3000
            ((long,),) = manager.query(numbers + "SELECT JSON_LENGTH(JSON_ARRAYAGG(REPEAT('x', 1000))) FROM n")
            assert long == 3000
        project.write("m.sql", metric_sql("m", "CONCAT(\"a string\", '\\n')"))
        assert project.run(DAY).returncode == 0
    assert database.metrics() == [("m", DAY, '{"n": "a string\\n"}')]


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
    states = project.database.rows("SELECT metric, state, error FROM bi_metric_state WHERE metric_date = '2025-01-02'")
    assert [row[:2] for row in states] == [("m3", "missing")]
    assert "(1242)" in states[0][2]


def test_a_range_stops_at_the_first_failed_date_and_the_printed_command_resumes_it(project: Project) -> None:
    five_files(project, "2025-01-03")
    options = ["--metric", "m[1-4 ]", "--metric", "m5", "--retries", "1"]
    result = project.run("2025-01-01", "2025-01-05", *options)
    assert result.returncode == 1
    assert names(project.database) == all_five("2025-01-01", "2025-01-02")
    assert "Committed 2025-01-01 to 2025-01-02. Resume with: " in result.stderr
    command = shlex.split(result.stderr.partition("Resume with: ")[2].splitlines()[0])
    assert command == ["python", "run_metrics.py", "2025-01-03", "2025-01-05", *options]
    project.database.execute("DELETE FROM fails")
    assert project.run(*command[2:]).returncode == 0
    assert names(project.database) == all_five(*(f"2025-01-0{n}" for n in range(1, 6)))


def test_a_metric_that_writes_no_row_fails_its_date(project: Project) -> None:
    project.write("1_m.sql", metric_sql("m"))
    project.write("2_none.sql", metric_sql("none", where="FROM bi_metrics WHERE metrics = 'm' AND 1 = 0"))
    result = project.run(DAY)
    assert result.returncode == 1
    assert f"Error: {DAY}: sql/2_none.sql: wrote no row of 'none' for {DAY}; check what " in result.stderr
    assert "or add the header line `-- Empty: ok`. To run without this metric: rename sql/2_none.sql" in result.stderr
    assert project.database.metrics() == []


@pytest.mark.parametrize(("empty", "expected"), [("ok", "null"), ('{"n": 0}', '{"n": 0}')])
def test_empty_gives_a_date_without_a_row_its_value_and_replaces_an_old_one(
    project: Project, empty: str, expected: str
) -> None:
    where, days = "FROM source WHERE day = %(metric_date)s", [f"2025-01-1{n}" for n in range(4)]
    project.database.execute(f"CREATE TABLE source (day DATE, n INT); INSERT INTO source VALUES ('{days[1]}', 7)")
    header = f"-- Empty: {empty}"
    project.write("may'be.sql", metric_sql("may'be", "n", header, where=where).replace("'may'be'", "'may''be'"))
    by_day = "FROM source WHERE day BETWEEN %(start_date)s AND %(metric_date)s"
    project.write("rows.sql", f"-- Description: x\n{header}\nSELECT day AS metric_date, n {by_day}")
    for words in (days[:1] + days[3:], ["--initial", days[0], days[3]]):
        assert project.run(*words).returncode == 0
        for name in ("may'be", "rows"):
            values = [row[2] for row in project.database.metrics() if row[0] == name]
            assert values == [expected, '{"n": 7}', expected, expected]
    project.database.execute("DELETE FROM source")
    changed = project.run(days[1])
    assert f"{days[1]}  2 metrics: 2 changed" in changed.stdout
    assert [row[2] for row in project.database.metrics()] == [expected] * 8
    assert project.run(days[2]).stdout.startswith(f"{days[2]}  2 metrics: 2 unchanged")
    states = json.loads(project.list("--status", "--json").stdout)["metrics"]
    assert [state["missing"][0] for state in states] == ["2025-01-14"] * 2


def test_a_check_that_returns_rows_rolls_the_date_back_and_shows_the_first_three(project: Project) -> None:
    project.database.execute("CREATE TABLE odd (n INT); INSERT INTO odd VALUES (11), (22), (33), (44)")
    check = "-- Check: SELECT n, 'x' FROM odd WHERE %(metric_date)s >= '2025-01-02' ORDER BY n"
    fine = "-- Check: SELECT 1 FROM bi_metrics WHERE metrics = 'later' AND metric_date = %(metric_date)s LIMIT 0"
    project.write("1_m.sql", metric_sql("m", header=f"{fine}\n{check}"))
    project.write("2_later.sql", metric_sql("later"))
    result = project.run("2025-01-01", "2025-01-03")
    assert result.returncode == 1
    assert (
        "Error: 2025-01-02: sql/1_m.sql:5: check failed: found n = 11, x; n = 22, x; n = 33, x; and 1 more row "
        "(SELECT n, 'x' FROM odd WHERE '2025-01-02' >= '2025-01-02' ORDER BY n). If the number is right: "
        "python run_metrics.py 2025-01-02 --accept m; else mend the file or the data\n"
    ) in result.stderr
    assert names(project.database) == [("later", "2025-01-01"), ("m", "2025-01-01")]
    project.write("1_m.sql", metric_sql("m", header="\n-- Check: SELECT nope FROM odd"))
    assert "sql/1_m.sql:5: check: (1054)" in project.run(DAY).stderr


def test_a_check_sees_the_rows_of_all_files_of_its_date(project: Project) -> None:
    check = "-- Check: SELECT COUNT(*) FROM bi_metrics WHERE metric_date = %(metric_date)s HAVING COUNT(*) <> 2"
    project.write("1_m.sql", metric_sql("m", header=check))
    project.write("2_later.sql", metric_sql("later"))
    assert project.run(DAY).returncode == 0


def test_allowed_warnings_of_the_server_are_in_the_log_and_cut_data_is_an_error(project: Project) -> None:
    text = metric_sql("m", header="-- Allow: warnings").replace("INSERT", "SELECT CAST('12abc' AS SIGNED);\nINSERT", 1)
    project.write("m.sql", text.replace("value_list = d.v", "value_list = VALUES(value_list)"))
    result = project.run(DAY)
    assert (result.returncode, errors(result)) == (0, "")
    warnings = [line for line in project.log().splitlines() if " WARNING 2025" in line]
    assert len(warnings) == 1  # MySQL's 1287 about VALUES() is not among them
    assert f"{DAY} sql/m.sql: the server's warning 1292: Truncated incorrect" in warnings[0]
    project.write("m.sql", metric_sql("m").replace("'card'", "REPEAT('x', 51)"))
    cut = project.run(DAY)
    assert (cut.returncode, "(1406) Data too long for column 'data_type'" in cut.stderr) == (1, True)


# --- final and not final ----------------------------------------------------------------------------------------------

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


def test_the_initial_file_runs_if_there_is_nothing_current_to_build_on(project: Project) -> None:
    project.write("initial/total.sql", INITIAL)
    project.write("incremental/total.sql", INCREMENTAL)
    assert project.run("2025-01-10", "2025-01-12").returncode == 0  # a new metric starts by itself
    values = [row[1:] for row in project.database.metrics()]
    assert values == [("2025-01-10", '{"n": 100}'), ("2025-01-11", '{"n": 101}'), ("2025-01-12", '{"n": 102}')]
    files = project.database.rows("SELECT file FROM bi_metric_state WHERE file IS NOT NULL ORDER BY metric_date")
    assert files == [("sql/initial/total.sql",), *[("sql/incremental/total.sql",)] * 2]
    for state, expected in (("open", 100), ("reopened", 100), ("waiting", 103), ("final", 103)):
        project.database.execute(f"UPDATE bi_metric_state SET state = '{state}' WHERE metric_date = '2025-01-12'")
        assert project.run("2025-01-13").returncode == 0
        assert project.database.metrics()[-1] == ("total", "2025-01-13", f'{{"n": {expected}}}'), state
    assert "2025-01-13 total: no row to build on before it, so sql/initial/total.sql runs" in project.log()


def test_the_times_of_a_row_tell_when_it_was_made_and_when_it_was_last_computed(project: Project) -> None:
    project.write("m.sql", metric_sql("m"))
    assert project.run(DAY).returncode == 0
    age = "SELECT ABS(TIMESTAMPDIFF(SECOND, updated_at, NOW())) < 60, created_at FROM bi_metrics"
    assert project.database.rows(age)[0][0] == 1
    # The number is the same, so the server itself would leave the row alone, and it would never be final.
    for updated in (f"'{DAY} 12:00:00'", "NOW() + INTERVAL 1 DAY"):
        project.database.execute(f"UPDATE bi_metrics SET created_at = '{DAY} 01:00:00', updated_at = {updated}")
        assert project.run(DAY).returncode == 0
        assert project.database.rows(age) == [(1, datetime(2025, 1, 15, 1))]


# --- what a file may do -----------------------------------------------------------------------------------------------


def test_what_does_not_commit_raises_no_alarm(project: Project) -> None:
    project.database.execute("CREATE TABLE lasting (n INT, m INT)")
    legitimate = """
        SET @x := 1; CREATE TEMPORARY TABLE mine (n INT); INSERT INTO mine VALUES (1);
        CREATE TEMPORARY TABLE IF NOT EXISTS two SELECT * FROM mine; DELETE FROM lasting; UPDATE mine SET n = 2;
        INSERT INTO lasting SELECT n, n FROM mine; WITH q AS (SELECT 1 AS one) SELECT one FROM q;
        EXPLAIN SELECT * FROM mine; SHOW TABLES; DO @x; DROP TEMPORARY TABLE IF EXISTS two, three;
    """
    project.write("m.sql", metric_sql("m") + f"USE {project.database.name};" + legitimate)
    for _ in range(2):  # each date, and each run, finds the temporary tables gone
        result = project.run("2025-01-15", "2025-01-16")
        assert result.returncode == 0, result.stderr
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


def results_of(connection: Any, text: str) -> tuple[int, int | None]:
    """Return how many statements are sent, and how many results the server returns: None where one fails.

    What the rules refuse is not sent.
    """
    metric = MetricFile("m", "sql/m.sql", None, None, False, parse(text))
    if any(problem.rule == "unterminated" for problem in check_catalog(Catalog((metric,)), [metric], ())):
        return 0, None
    sent = [bind(statement, {}) for statement in metric.statements]
    returned = 0
    with connection.cursor() as cursor:
        try:
            more = cursor.execute(";\n".join(sent)) is not None if sent else None
            while more:
                returned, more = returned + 1, cursor.nextset()
        except (pymysql.err.Error, ValueError):
            return len(sent), None
    return len(sent), returned


def test_the_server_returns_a_result_for_each_statement_that_the_reader_sees(database: Database) -> None:
    connection = database.connection
    for text, expected in ODD_TEXTS:
        sent, returned = results_of(connection, text)
        assert returned is None or sent == returned, text
        assert expected is None or expected == sent == returned, text

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.sampled_from(PARTS), max_size=6).map(";".join))
    def every_good_text(text: str) -> None:
        sent, returned = results_of(connection, text)
        assert sent == returned

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.sampled_from([*PARTS, *BITS]), max_size=8).map("".join))
    def every_text(text: str) -> None:
        sent, returned = results_of(connection, text)
        assert returned in (sent, None)

    every_good_text()
    every_text()
