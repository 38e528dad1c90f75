"""What is wrong with a number and what is only odd: checks, warnings, usual values, on a real server."""

from __future__ import annotations

import json
import re
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from run_metrics import parse_arguments
from src.db_manager import DatabaseManager
from src.metric_file.checks import Problem, check_catalog
from src.sql_loader import load_catalog
from tests.conftest import Database, Project, metric_sql, refusal

DAY = "2025-01-15"
ODD = "SELECT n, 'x' FROM odd WHERE %(metric_date)s >= '2025-01-15' ORDER BY n"
ASKED = "SELECT n, 'x' FROM odd WHERE '2025-01-15' >= '2025-01-15' ORDER BY n"


def card(header: str = "", value: str = "1", where: str = "") -> str:
    return f"-- Description: x\n{header}\nSELECT {value} AS n, %(metric_date)s AS day {where}\n"


def today() -> date:
    return datetime.now(timezone.utc).date()


def states(database: Database, columns: str = "warning") -> dict[tuple[str, str], Any]:
    """Return columns of each cell that was tried; those that an old date leaves missing are left out."""
    tried = "state <> 'missing' OR error IS NOT NULL"
    rows = database.rows(f"SELECT metric, metric_date, {columns} FROM bi_metric_state WHERE {tried}")
    return {(row[0], str(row[1])): row[2] if len(row) == 3 else row[2:] for row in rows}


def told(stderr: str) -> list[str]:
    """Return the lines of stderr but that of the dates which an old date leaves missing."""
    return [line for line in stderr.splitlines() if not line.startswith("Warning: missing: ")]


@pytest.fixture
def odd(project: Project) -> Project:
    """A project with a table that holds something odd, for which "today" is that of UTC."""
    project.env["METRICS_TIMEZONE"] = "UTC"
    project.database.execute("CREATE TABLE odd (n INT); INSERT INTO odd VALUES (1), (2)")
    return project


# --- warnings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--quiet"]])
def test_a_warning_is_told_and_the_row_is_stored_all_the_same(odd: Project, words: list[str]) -> None:
    odd.write("m.sql", card(f"-- Warn: {ODD}"))
    result = odd.run(DAY, *words)
    assert result.returncode == 0
    assert told(result.stderr) == [f"Warning: {DAY} m: found n = 1, x; n = 2, x (sql/m.sql:2: {ASKED})"]
    assert states(odd.database, "state, error, warning") == {
        ("m", DAY): ("final", None, f"found n = 1, x; n = 2, x (sql/m.sql:2: {ASKED})")
    }
    odd.database.execute("DELETE FROM odd")
    assert told(odd.run(DAY).stderr) == []
    assert states(odd.database) == {("m", DAY): None}


def test_a_warning_is_in_the_json_of_the_run_and_of_the_hook(odd: Project) -> None:
    odd.write("m.sql", card(f"-- Owner: Ann\n-- Warn: {ODD}"))
    odd.env["METRICS_ON_END"] = f"cat > {odd.folder}/told"
    result = json.loads(odd.run(DAY, "--json").stdout)
    found = f"found n = 1, x; n = 2, x (sql/m.sql:3: {ASKED})"
    expected = {"metric": "m", "metric_date": DAY, "warning": found, "owner": "Ann"}
    assert result["warned"] == [expected]
    assert (result["status"], f"{DAY} m: {found}" in result["warnings"]) == ("ok", True)
    assert json.loads((odd.folder / "told").read_text())["warned"] == [expected]


def test_a_night_that_computes_a_date_twice_tells_its_warning_once(odd: Project) -> None:
    odd.write("m.sql", card("-- Warn: SELECT 1"))
    assert odd.run("--last", "4").returncode == 0
    odd.write("m.sql", card("-- Warn: SELECT 1", value="2"))
    night = odd.run("--json", "--quiet", env={"METRICS_LOOKBACK_DAYS": "2"})
    days = [str(today() - timedelta(days=back)) for back in (1, 3, 2)]
    assert odd.log().count(f"{days[0]} sql/m.sql: start") == 3  # the first run, and twice the night
    assert [line.split()[1] for line in told(night.stderr) if "found" in line] == days
    assert [each["metric_date"] for each in json.loads(night.stdout.splitlines()[-1])["warned"]] == days


def test_a_night_tells_a_warning_again_only_if_its_words_or_the_value_have_changed(odd: Project) -> None:
    def mail_of(value: str, *warnings: str) -> list[str]:
        odd.write("m.sql", card("\n".join(f"-- Warn: {each}" for each in warnings), value))
        night = odd.run("--json", "--quiet")
        lines = [line.split("m: ")[1] for line in told(night.stderr) if day in line]
        assert [each["warning"] for each in json.loads(night.stdout.splitlines()[-1])["warned"]
                if each["metric_date"] == day] == lines  # fmt: skip
        assert states(odd.database)["m", day] is not None
        return lines

    day, one, long = str(today() - timedelta(days=2)), "found 1 (sql/m.sql:2: SELECT 1)", "REPEAT('x', 2000)"
    odd.write("m.sql", card())
    assert odd.run("--last", "3").returncode == 0
    assert mail_of("1", "SELECT 1") == [one]
    assert mail_of("1", "SELECT 1") == []
    assert mail_of("1", "SELECT 1", "SELECT 2") == ["found 2 (sql/m.sql:3: SELECT 2)"]
    assert mail_of("2", "SELECT 1") == [one]
    assert mail_of("2", "SELECT 1") == []
    assert len(mail_of("2", f"SELECT {long}")) == 1
    assert mail_of("2", f"SELECT {long}") == []  # the table holds less than what was told
    assert mail_of("2", f"SELECT {long}", "SELECT 3") == ["found 3 (sql/m.sql:3: SELECT 3)"]
    assert odd.run(day).stderr.count("found xxx") == 1  # whoever names a date wants to see it


def test_several_warnings_of_a_cell_are_told_one_by_one_and_checks_beside_them_still_fail(odd: Project) -> None:
    odd.write("m.sql", card("-- Warn: SELECT 1\n-- Warn: SELECT 0 LIMIT 0\n-- Warn: SELECT 'a\\nb'"))
    lines = ["found 1 (sql/m.sql:2: SELECT 1)", "found a\\nb (sql/m.sql:4: SELECT 'a\\nb')"]
    assert told(odd.run(DAY).stderr) == [f"Warning: {DAY} m: {line}" for line in lines]
    assert states(odd.database)["m", DAY] == "\n".join(lines)
    odd.write("m.sql", card("-- Warn: SELECT 1\n-- Check: SELECT 2"))
    failed = odd.run(DAY)
    assert (failed.returncode, told(failed.stderr)[0].split("check failed: ")[0]) == (1, f"Error: {DAY}: sql/m.sql:3: ")


def test_what_is_only_for_ended_dates_is_not_asked_of_today(odd: Project) -> None:
    odd.write("m.sql", card("-- Warn: SELECT 1\n-- Check (ended): SELECT 2"))
    assert odd.run("today").returncode == 0
    assert states(odd.database, "state, warning") == {("m", str(today())): ("open", None)}
    failed = odd.run("yesterday")
    assert failed.returncode == 1
    assert "m.sql:3: check failed: found 2 (SELECT 2). If the number is right: " in failed.stderr


def test_a_number_that_matures_is_asked_when_it_is_complete(odd: Project) -> None:
    odd.write("m.sql", card("-- Final After: 2 days\n-- Warn: SELECT 1"))
    for back in range(4):
        assert odd.run(str(today() - timedelta(days=back))).returncode == 0
    warned = [warning is not None for _, warning in sorted(states(odd.database).items())]
    assert warned == [True, False, False, False]


def test_a_week_is_warned_of_when_it_has_ended(odd: Project) -> None:
    odd.write("m.sql", card("-- Period: week\n-- Warn: SELECT 1"))
    assert odd.run("--last", "8").returncode == 0
    assert odd.run().returncode == 0
    ended = {day: warning is not None for (_, day), warning in states(odd.database).items()}
    assert len(ended) == 2
    assert all(is_warned == (date.fromisoformat(day) < today()) for day, is_warned in ended.items())


def test_a_warning_of_a_helper_is_its_own_and_that_of_a_work_table_is_of_what_reads_it(odd: Project) -> None:
    odd.database.execute("CREATE TABLE kept (day DATE PRIMARY KEY, n INT); CREATE TABLE work (n INT)")
    odd.write("1_kept.sql", "-- Description: x\n-- Warn: SELECT 1\n"
              "REPLACE INTO kept VALUES (%(metric_date)s, 1)")  # fmt: skip
    odd.write("2_work.sql", "-- Description: x\n-- Warn: SELECT 2\nDELETE FROM work;\n"
              "INSERT INTO work SELECT n FROM kept WHERE day = %(metric_date)s")  # fmt: skip
    odd.write("3_a.sql", card(where="FROM work", value="MAX(n)"))
    odd.write("4_b.sql", card())
    assert odd.run(DAY).returncode == 0
    kept, work = "found 1 (sql/1_kept.sql:2: SELECT 1)", "found 2 (sql/2_work.sql:2: SELECT 2)"
    assert states(odd.database) == {("kept", DAY): kept, ("a", DAY): work, ("b", DAY): None}


def test_a_warning_that_the_server_refuses_fails_its_date(odd: Project) -> None:
    odd.write("m.sql", card("-- Warn: SELECT nope FROM odd"))
    result = odd.run(DAY)
    assert result.returncode == 1
    assert f"{DAY}: sql/m.sql:2: warn: (1054)" in result.stderr
    assert states(odd.database, "state") == {("m", DAY): "missing"}


@pytest.mark.parametrize(("query", "words"), [
    ("/* no payment in the evening */ SELECT MAX(n) AS newest FROM odd", "no payment in the evening: newest = 2"),
    ("SELECT MAX(n) AS newest FROM odd -- 50 % late", "50 % late: newest = 2"),
    ("SELECT NULL AS why, n + 0, n FROM odd # rows", "rows: why = null, 1, n = 1; why = null, 2, n = 2"),
    ("SELECT '-- no comment' AS what", "found what = -- no comment"),
    ("SELECT a.n, b.n > 0 FROM odd AS a, odd AS b ORDER BY 1", "found n = 1, 1; n = 1, 1; n = 2, 1; and 1 more row"),
])  # fmt: skip
def test_a_warning_begins_with_its_comment_and_what_it_found_and_ends_with_its_sql(
    odd: Project, query: str, words: str
) -> None:
    odd.write("m.sql", card(f"-- Warn: {query}"))
    [line] = told(odd.run(DAY).stderr)
    start, _, sql = line.partition(" (sql/m.sql:2: SELECT ")
    assert start == f"Warning: {DAY} m: {words}"
    assert "%" not in sql
    odd.write("m.sql", card(f"-- Check: {query}"))
    assert f"sql/m.sql:2: check failed: {words} (SELECT {sql}. If the number is right: " in odd.run(DAY).stderr


@pytest.mark.parametrize("key", ["Warn", "Check (ended)"])
def test_a_query_that_the_server_warns_of_and_that_finds_nothing_fails_its_date(odd: Project, key: str) -> None:
    odd.write("m.sql", card(f"-- Warn: SELECT 1 LIMIT 0\n-- {key}: SELECT 1 FROM odd WHERE n > CAST('9x' AS SIGNED)"))
    result = odd.run(DAY)
    assert result.returncode == 1
    assert f"{DAY}: sql/m.sql:3: {key.lower()}: (1292) Truncated incorrect INTEGER value: '9x'" in result.stderr


def test_a_long_load_tells_ten_warnings_and_stores_all(odd: Project) -> None:
    odd.write("m.sql", card("-- Warn: SELECT 1"))
    result = odd.run("--initial", "2025-01-01", "2025-01-31", "--json")
    lines = [line for line in told(result.stderr) if "to be computed" not in line]
    assert lines[9:] == [
        "Warning: 2025-01-10 m: found 1 (sql/m.sql:2: SELECT 1)",
        "Warning: 2025-01-01 to 2025-01-31: 21 more of these; list_metrics.py --status --json has all",
    ]
    assert len(json.loads(result.stdout)["warned"]) == 31
    assert None not in states(odd.database).values()


def test_a_dry_run_tells_what_it_would_warn_of(odd: Project) -> None:
    odd.write("m.sql", card("-- Warn: SELECT 1"))
    result = odd.run(DAY, "--dry-run")
    assert (result.returncode, "m: found 1 (sql/m.sql:2: SELECT 1)" in result.stderr) == (0, True)
    assert states(odd.database) == {}


def test_the_status_tells_the_newest_warnings_of_the_last_seven_periods(odd: Project) -> None:
    odd.write("m.sql", card("-- Warn: SELECT 1"))
    assert odd.run("--last", "20").returncode == 0
    status = odd.list("--status").stdout
    days = [str(today() - timedelta(days=back)) for back in range(1, 20)]
    lines = [f"    warning of {day}: found 1 (sql/m.sql:2: SELECT 1)" for day in days[:3]]
    assert "\n".join([*lines, "    and 4 more"]) in status
    assert "All" not in status
    assert "1 metric final to " in status
    [state] = json.loads(odd.list("--status", "--json").stdout)["metrics"]
    assert [each["metric_date"] for each in state["warnings"]] == days
    assert state["problems"] == []
    assert odd.list("--status", "--max-age", "1").returncode == 0


def test_warnings_cost_no_trip_more_than_checks_and_only_what_finds_something_is_asked_again(
    odd: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    cursor = DatabaseManager._cursor

    def noted(self: DatabaseManager, kind: type) -> Any:
        sent.append(kind.__name__)
        return cursor(self, kind)

    monkeypatch.setattr(DatabaseManager, "_cursor", noted)
    trips = []
    for header in ("", "", "-- Check: SELECT 1 LIMIT 0", "-- Check: SELECT 1 LIMIT 0\n-- Warn: SELECT 2 LIMIT 0",
                   "-- Check: SELECT 1 LIMIT 0\n-- Check: SELECT 3 LIMIT 0\n-- Warn: SELECT 2"):  # fmt: skip
        odd.write("m.sql", card(header))
        sent.clear()
        assert odd.run(DAY).returncode == 0
        trips.append(len(sent))
    # The first run of a file stores its header.
    assert [number - trips[1] for number in trips[1:]] == [0, 1, 1, 2]


# --- the header -------------------------------------------------------------------------------------------------------


def problems(project: Project, text: str) -> list[Problem]:
    project.write("m.sql", text)
    catalog = load_catalog(project.folder / "sql")
    return check_catalog(catalog, catalog.files, [])


GOOD = ["-- Warn: SELECT 1", "-- warn : WITH a AS (SELECT 1) SELECT * FROM a;", "-- Check (ended): SELECT 1",
        "-- Check(Ended) : SELECT 1", "-- Warning: slow", "-- Warning: selected users only", "-- Note (old): SELECT 1",
        "-- Usually: SELECT 1"]  # fmt: skip
BAD = [
    ("-- Warn: DELETE FROM t", "bad-check", 10, "a warning is one SELECT on one line"),
    ("-- Check (ended): ", "bad-check", 19, "a check is one SELECT on one line"),
    ("-- Warn:  SELECT 'a", "unterminated", 18, "the quote ' that starts here is never closed"),
    ("-- Warn: SELECT %(nope)s", "unknown-parameter", 17, "unknown parameter %(nope)s"),
    ("-- Check (ended): SELECT CURDATE()", "reads-the-clock", 26, "CURDATE gives another value"),
    ("-- Check (end): SELECT 1", "header", 17, "the key check (end) is none of ours; did you mean Check (Ended)?"),
    ("-- Check (final): SELECT 1", "header", 19, "did you mean Check (Ended)?"),
    ("-- Warn (ended): SELECT 1", "header", 18, "the key warn (ended) is none of ours; did you mean Warn?"),
    ("-- Warns: SELECT 1", "header", 11, "did you mean Warn?"),
    ("-- Warning: SELECT 1", "header", 13, "did you mean Warn?"),
]


@pytest.mark.parametrize("header", GOOD)
def test_a_good_header_is_no_problem(project: Project, header: str) -> None:
    assert problems(project, card(header)) == []


@pytest.mark.parametrize(("header", "rule", "column", "message"), BAD)
def test_a_bad_header_is_a_problem_at_its_place(
    project: Project, header: str, rule: str, column: int, message: str
) -> None:
    [found] = problems(project, card(header))
    assert (found.line, found.column, found.rule) == (2, column, rule)
    assert message in found.message


@pytest.mark.parametrize("header", ["-- Warn: SELECT 1", "-- Check (ended): SELECT 1"])
def test_a_header_below_the_sql_is_told(project: Project, header: str) -> None:
    [found] = problems(project, f"{card()}{header}\n")
    assert (found.rule, "move it to the top" in found.message) == ("header", True)


def test_the_server_is_asked_about_a_warning_before_a_range(odd: Project) -> None:
    odd.write("m.sql", card("-- Warn: SELECT nope FROM odd"))
    assert "sql/m.sql:2:10: error: explain: (1054)" in odd.list("--check").stdout
    assert odd.run("2025-01-01", "2025-01-02").returncode == 2


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_state_table_without_the_new_columns_stops_a_run_until_it_is_upgraded(odd: Project) -> None:
    odd.database.execute("ALTER TABLE bi_metric_state DROP COLUMN accepted")
    odd.write("m.sql", metric_sql("m"))
    refused = odd.run(DAY)
    assert refused.returncode == 2
    assert "the upgrade of the tables of an older version is not complete; run: ./setup.sh --schema" in refused.stderr


# --- accepted ---------------------------------------------------------------------------------------------------------

BAD_NUMBER = ("-- Check: SELECT value_list FROM bi_metrics WHERE metrics = 'm' AND metric_date = %(metric_date)s "
              "AND JSON_EXTRACT(value_list, '$.n') > 5")  # fmt: skip


def write_m(project: Project, value: int, header: str = BAD_NUMBER) -> None:
    project.database.execute(f"CREATE TABLE IF NOT EXISTS source (n INT); DELETE FROM source; "
                             f"INSERT INTO source VALUES ({value})")  # fmt: skip
    project.write("m.sql", f"-- Description: x\n{header}\nSELECT n FROM source WHERE %(metric_date)s > ''\n")


def found_in(value: int) -> str:
    return (f'found value_list = {{"n": {value}}} (sql/m.sql:2: SELECT value_list FROM bi_metrics '
            "WHERE metrics = 'm' AND metric_date = '2025-01...)")  # fmt: skip


def test_a_check_that_fails_is_told_with_the_command_that_accepts_it_and_that_stores_it(odd: Project) -> None:
    write_m(odd, 9)
    failed = odd.run(DAY)
    line = next(line for line in failed.stderr.splitlines() if "check failed" in line)
    command = f"python run_metrics.py {DAY} --accept m"
    assert line.endswith(f"'2025-01...). If the number is right: {command}; else mend the file or the data")
    accepted = odd.run(*command.split()[2:], "--quiet")
    assert (accepted.returncode, accepted.stdout) == (0, f"{DAY} m: accepted: {found_in(9)}\n")
    assert states(odd.database, "state, error, accepted") == {("m", DAY): ("final", None, found_in(9))}
    assert odd.database.metrics() == [("m", DAY, '{"n": 9}')]


@pytest.mark.parametrize("has_incremental", [False, True])
def test_the_command_of_an_initial_load_accepts_what_the_initial_file_computes(
    odd: Project, has_incremental: bool
) -> None:
    """The incremental file may be another one, without this check, or there may be none."""
    odd.write("initial/m.sql", card("-- Check: SELECT 1 WHERE %(metric_date)s > ''"))
    if has_incremental:
        odd.write("incremental/m.sql", card())
    failed = odd.run("--initial", "2025-01-15", "2025-01-16", "--chunk", "month")
    command = f"python run_metrics.py --initial {DAY} {DAY} --accept m"
    assert f"If the number is right: {command}; else" in failed.stderr
    assert odd.run(*command.split()[2:]).returncode == 0
    assert odd.run("--initial", DAY, DAY).returncode == 0


def test_later_runs_of_an_accepted_cell_accept_it_until_no_check_fails(odd: Project) -> None:
    write_m(odd, 9)
    assert odd.run(DAY, "--accept", "m").returncode == 0
    write_m(odd, 8)
    for words in ([DAY], ["--initial", DAY, DAY], [DAY, "--dry-run"]):
        again = odd.run(*words)
        assert (again.returncode, "accepted" in again.stdout) == (0, False), again.stderr
    assert states(odd.database, "accepted") == {("m", DAY): found_in(8)}
    assert json.loads(odd.run(DAY, "--json").stdout)["accepted"] == [
        {"metric": "m", "metric_date": DAY, "found": found_in(8)}
    ]
    assert odd.run("2025-01-16").returncode == 1
    write_m(odd, 1)
    assert odd.run(DAY).returncode == 0
    assert states(odd.database, "accepted")["m", DAY] is None
    write_m(odd, 9)
    assert odd.run(DAY).returncode == 1


def test_an_accepted_value_that_changes_and_still_fails_is_told(odd: Project) -> None:
    write_m(odd, 9)
    assert odd.run(DAY, "--accept", "m").returncode == 0
    assert "accepted" not in odd.run(DAY).stderr
    write_m(odd, 900)
    line = f"Warning: {DAY} m: its value has changed, and what was accepted before still fails: {found_in(900)}"
    assert told(odd.run(DAY, "--quiet").stderr) == [line]
    assert told(odd.run(DAY, "--quiet").stderr) == []
    write_m(odd, 9000)
    assert "its value has changed" not in odd.run(DAY, "--accept", "m").stderr


def test_a_night_looks_again_at_an_accepted_date_and_mends_it(odd: Project) -> None:
    write_m(odd, 1)
    days = [str(today() - timedelta(days=back)) for back in range(4)]
    assert odd.run("--last", "4").returncode == 0
    write_m(odd, 9, BAD_NUMBER + f" AND metric_date IN ('{days[2]}', '{days[3]}')")
    assert odd.run(days[2], "--accept", "m").returncode == 0
    assert odd.run(days[3], "--accept", "m").returncode == 0
    odd.database.execute(f"UPDATE bi_metric_state SET state = 'reopened' WHERE metric_date = '{days[3]}'")
    night = odd.run("--quiet")
    assert (night.returncode, night.stderr) == (0, "")
    final = states(odd.database, "state, accepted IS NOT NULL")
    assert [final["m", day] for day in days] == [("open", 0), ("final", 0), ("final", 1), ("final", 1)]


def test_what_is_accepted_is_forgotten_when_the_definition_changes(odd: Project) -> None:
    write_m(odd, 9)
    assert odd.run(DAY, "--accept", "m").returncode == 0
    odd.write("m.sql", (odd.folder / "sql" / "m.sql").read_text().replace("SELECT n", "SELECT n + 0 AS n"))
    failed = odd.run(DAY)
    assert (failed.returncode, "check failed" in failed.stderr) == (1, True)
    assert odd.database.metrics() == [("m", DAY, '{"n": 9}')]


def test_accept_holds_for_the_named_metric_alone_and_may_be_repeated(odd: Project) -> None:
    for name in "ab":
        odd.write(f"{name}.sql", card("-- Check: SELECT 1"))
    failed = odd.run(DAY, "--accept", "a")
    assert failed.returncode == 1
    command = f"python run_metrics.py {DAY} --accept a --accept b"
    assert f"sql/b.sql:2: check failed: found 1 (SELECT 1). If the number is right: {command}; else" in failed.stderr
    assert f"Resume with: python run_metrics.py {DAY} --accept a\n" in failed.stderr
    assert odd.run(*command.split()[2:]).returncode == 0
    assert states(odd.database, "accepted IS NOT NULL") == {("a", DAY): 1, ("b", DAY): 1}


def test_accept_says_if_there_was_nothing_to_accept(odd: Project) -> None:
    write_m(odd, 1)
    result = odd.run(DAY, "--accept", "m", "--quiet")
    assert (result.returncode, result.stdout) == (0, f"{DAY} m: no check failed; there was nothing to accept\n")
    assert states(odd.database, "accepted") == {("m", DAY): None}


def test_the_checks_of_a_helper_and_of_a_work_table_can_be_accepted(odd: Project) -> None:
    odd.database.execute("CREATE TABLE kept (day DATE PRIMARY KEY, n INT); CREATE TABLE work (n INT)")
    odd.write("1_kept.sql", "-- Description: x\n-- Check: SELECT 1\n"
              "REPLACE INTO kept VALUES (%(metric_date)s, 1)")  # fmt: skip
    odd.write("2_work.sql", "-- Description: x\n-- Check: SELECT 2\nDELETE FROM work;\n"
              "INSERT INTO work SELECT n FROM kept WHERE day = %(metric_date)s")  # fmt: skip
    odd.write("3_a.sql", card(where="FROM work", value="MAX(n)"))
    words = [DAY]
    for name in ("kept", "a"):
        command = f"python run_metrics.py {' '.join([*words, '--accept', name])}"
        failed = odd.run(*words)
        assert failed.returncode == 1
        assert sorted(command.split()) == sorted(failed.stderr.split("is right: ")[1].split("; ")[0].split())
        words += ["--accept", name]
    assert odd.run(*words).returncode == 0
    assert states(odd.database, "accepted") == {
        ("kept", DAY): "found 1 (sql/1_kept.sql:2: SELECT 1)",
        ("a", DAY): "found 2 (sql/2_work.sql:2: SELECT 2)",
    }


def test_a_work_table_that_nothing_reads_still_fails_by_its_checks_and_tells_its_warnings(odd: Project) -> None:
    odd.database.execute("CREATE TABLE work (n INT)")
    fill = "DELETE FROM work;\nINSERT INTO work SELECT %(metric_date)s > ''"
    odd.write("m.sql", card())
    odd.write("work.sql", f"-- Description: x\n-- Warn: SELECT 2\n{fill}")
    assert told(odd.run(DAY).stderr) == [f"Warning: {DAY} work: found 2 (sql/work.sql:2: SELECT 2)"]
    odd.write("work.sql", f"-- Description: x\n-- Check: SELECT 2\n{fill}")
    failed = odd.run(DAY)
    assert failed.returncode == 1
    assert failed.stderr.count("check failed: found 2 (SELECT 2). Mend the file or the data\n") == 1


def test_the_period_that_runs_names_no_command_for_a_date_in_the_future(odd: Project) -> None:
    odd.write("m.sql", card("-- Period: year\n-- Check: SELECT 1"))
    odd.write("day.sql", card())
    failed = odd.run()
    assert failed.returncode == 1
    assert failed.stderr.count("check failed: found 1 (SELECT 1). Mend the file or the data\n") == 1


def test_the_status_tells_what_is_accepted(odd: Project) -> None:
    odd.write("m.sql", card("-- Check: SELECT 1"))
    yesterday = str(today() - timedelta(days=1))
    assert odd.run("yesterday", "--accept", "m").returncode == 0
    assert f"    accepted {yesterday}: found 1 (sql/m.sql:2: SELECT 1)\n" in odd.list("--status").stdout
    for back in (7, 8, 100):  # seven dates before today are told, a page tells the same, and JSON tells all
        assert odd.run(str(today() - timedelta(days=back)), "--accept", "m").returncode == 0
    told_of = [str(today() - timedelta(days=back)) for back in (1, 7, 8, 100)]
    assert re.findall("    accepted (.*?): ", odd.list("--status").stdout) == told_of[:2]
    page = odd.folder / "page.html"
    assert odd.list("--html", str(page)).returncode == 0
    assert [day for day in told_of if f"accepted {day}: " in re.sub("<.*?>", "", page.read_text())] == told_of[:2]
    [state] = json.loads(odd.list("--status", "--json").stdout)["metrics"]
    assert [(each["metric_date"], each["text"]) for each in state["accepted"]] == [
        (day, "found 1 (sql/m.sql:2: SELECT 1)") for day in told_of
    ]


@pytest.mark.parametrize("words", [
    "", "2025-01-01 2025-01-02", "--initial", "--initial 2025-01-01", "--last 1", "--last 1 2025-01-01",
    "--verify 2025-01-01 2025-01-02",
])  # fmt: skip
def test_accept_is_for_one_named_date(words: str) -> None:
    expected = "--accept takes one named date: a person has looked at its number; see python run_metrics.py --help"
    assert refusal(parse_arguments, [*words.split(), "--accept", "m"]) == expected


def test_accept_refuses_a_name_that_does_not_run_on_the_date(odd: Project) -> None:
    odd.write("weekly.sql", card("-- Period: week"))
    odd.write("daily.sql", card())
    for name, hint in (("weekly", "; its week ends on 2025-01-19"), ("dayly", "; did you mean daily?"), ("zzz", "")):
        refused = odd.run(DAY, "--accept", name)
        assert (refused.returncode, refused.stderr) == (
            2, f"Error: --accept {name}: no metric or helper of this name runs on {DAY}{hint}\n"
        )  # fmt: skip
    assert odd.run("2025-01-19", "--accept", "weekly").returncode == 0


def test_a_check_whose_row_exists_does_not_see_on_every_server_is_asked_by_itself(project: Project) -> None:
    project.database.execute("CREATE TABLE odd (n INT); INSERT INTO odd VALUES (1), (1)")
    check = "SELECT n, COUNT(*) FROM odd WHERE %(metric_date)s GROUP BY n WITH ROLLUP LIMIT 1 OFFSET 1"
    project.write("m.sql", card(f"-- Check: {check}"))
    failed = project.run(DAY)
    assert failed.returncode == 1
    assert "check failed" in failed.stderr
