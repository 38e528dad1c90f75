"""What one relies on night after night: dry runs, audits, changes, mending, the state, the records, the log."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import pytest

from config.database import load_settings
from src.db_manager import DatabaseManager
from src.display import log as log_file
from tests.conftest import Project, metric_sql
from tests.workload import at_work, slow, wait_until

FIRST, LAST = "2025-01-01", "2025-01-10"
TODAY = date.today()
TOTAL_INITIAL = """\
-- Metric: total
-- Description: Everything that was paid so far
-- Data Type: card
INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
WITH RECURSIVE days AS (SELECT DATE(%(start_date)s) AS d UNION ALL
  SELECT d + INTERVAL 1 DAY FROM days WHERE d < %(metric_date)s)
SELECT 'total', 'card', JSON_ARRAY('n'),
       JSON_OBJECT('n', (SELECT COALESCE(SUM(amount), 0) FROM payments WHERE day <= d)), d FROM days
ON DUPLICATE KEY UPDATE value_list = VALUES(value_list);
"""
PAID = "(SELECT COALESCE(SUM(amount), 0) FROM payments WHERE day = %(metric_date)s)"
BEFORE = (
    "(SELECT CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.n')) AS DECIMAL(20,2)) FROM bi_metrics "
    "WHERE metrics = 'total' AND metric_date = %(metric_date)s - INTERVAL 1 DAY)"
)
LATE = "INSERT INTO payments VALUES ('2025-01-03', 5.00)"
DAYS = [str(TODAY - timedelta(days=n)) for n in range(40)]  # DAYS[1] is yesterday


@pytest.fixture
def nightly(project: Project) -> Project:
    """Two metrics, one of them cumulative, and ten days of payments: 1.10, 2.10, ... 10.10."""
    values = ", ".join(f"('2025-01-{n:02}', {n}.10)" for n in range(1, 11))
    project.database.execute("CREATE TABLE payments (day DATE, amount DECIMAL(10,2))")
    project.database.execute(f"INSERT INTO payments VALUES {values}")
    project.write("01_paid.sql", metric_sql("paid", PAID))
    project.write("incremental/02_total.sql", metric_sql("total", f"{BEFORE} + {PAID}"))
    project.write("initial/02_total.sql", TOTAL_INITIAL)
    return project


@pytest.fixture
def stored(nightly: Project) -> Project:
    """The same with its ten dates stored."""
    result = nightly.run(FIRST, LAST)
    assert result.returncode == 0, result.stderr
    return nightly


def everything(project: Project) -> list[tuple[object, ...]]:
    rows = project.database.rows("SELECT * FROM bi_metrics ORDER BY id")
    rows += project.database.rows("SELECT * FROM bi_metric_state ORDER BY metric, metric_date")
    return rows + project.database.rows("SELECT * FROM bi_metric_changes ORDER BY id")


def printed_command(text: str, words: str) -> list[str]:
    """Return the arguments of the command that follows `words`."""
    found = re.search(rf"{words}: python run_metrics\.py (.*)", text)
    assert found, text
    return shlex.split(found[1])


def pay(project: Project, day: str, amount: str = "1.00") -> None:
    project.database.execute(f"INSERT INTO payments VALUES ('{day}', {amount})")


def forget(project: Project, day: str, metric: str = "%") -> None:
    """Take away the rows of a date, as if its night had been missed."""
    project.database.execute(f"DELETE FROM bi_metrics WHERE metric_date = '{day}' AND metrics LIKE '{metric}'")


def reopen(project: Project, day: str, metric: str = "%") -> None:
    """Let the cells of a date be computed before it had ended."""
    project.database.execute(f"UPDATE bi_metric_state SET state = 'open' WHERE metric_date = '{day}' "
                             f"AND metric LIKE '{metric}'")  # fmt: skip


# --- dry runs ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_what_is_new_and_keeps_nothing(nightly: Project) -> None:
    result = nightly.run(FIRST, "2025-01-02", "--dry-run")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        '2025-01-01  new        paid  {"n": 1.10}', '2025-01-01  new        total  {"n": 1.10}',
        '2025-01-02  new        paid  {"n": 2.10}', '2025-01-02  new        total  {"n": 3.20}',
        "Dry run, nothing kept: 4 new, 0 changed (0 of them final before), 0 unchanged.",
    ]  # fmt: skip
    assert everything(nightly) == []


def test_a_dry_run_shows_old_and_new_values_and_exits_4(stored: Project) -> None:
    before = everything(stored)
    same = stored.run(FIRST, LAST, "--dry-run")
    assert same.returncode == 0
    assert same.stdout == "Dry run, nothing kept: 0 new, 0 changed (0 of them final before), 20 unchanged.\n"
    stored.database.execute(LATE)
    result = stored.run("2025-01-02", "2025-01-03", "--dry-run")
    assert result.returncode == 4
    assert result.stdout.splitlines() == [
        "2025-01-03  changed    paid  n: 3.10 -> 8.10",
        "2025-01-03  changed    total  n: 6.30 -> 11.30",
        "Dry run, nothing kept: 0 new, 2 changed (2 of them final before), 2 unchanged.",
    ]
    assert "2025-01-02  unchanged  paid\n" in stored.run("2025-01-02", "2025-01-03", "--dry-run", "--verbose").stdout
    found = json.loads(stored.run("2025-01-03", "--dry-run", "--json").stdout)
    assert found[0] == {
        "metric": "paid", "metric_date": "2025-01-03", "kind": "changed", "was_final": True, "detail": "n: 3.10 -> 8.10"
    }  # fmt: skip
    assert everything(stored) == before


def test_a_row_that_was_final_when_a_run_began_counts_as_final_all_through_it(stored: Project) -> None:
    stored.database.execute(LATE)
    dates = ("2025-01-02", "2025-01-04")
    assert "3 changed (3 of them final before), 3 unchanged." in stored.run(*dates, "--dry-run").stdout
    assert "    2025-01-04 total: changed n: 10.40 -> 15.40\n" in stored.run(*dates).stdout


def test_a_dry_run_that_fails_names_the_file_and_exits_1(stored: Project) -> None:
    before = everything(stored)
    stored.write("03_bad.sql", metric_sql("bad", where="FROM payments WHERE day < %(metric_date)s AND amount > 99"))
    result = stored.run(FIRST, "2025-01-02", "--dry-run")
    assert result.returncode == 1
    assert re.search(r"^Error: 2025-01-01: sql/03_bad\.sql: wrote no row of 'bad'", result.stderr)
    assert everything(stored) == before


def test_a_row_that_is_not_final_and_differs_is_no_reason_for_exit_4(stored: Project) -> None:
    stored.database.execute(LATE)
    reopen(stored, "2025-01-03")
    result = stored.run("2025-01-03", "--dry-run")
    assert result.returncode == 0
    assert "2 changed (0 of them final before)" in result.stdout


def test_a_dry_run_of_the_night_shows_the_due_dates_too(nightly: Project) -> None:
    assert nightly.run(DAYS[5], DAYS[1]).returncode == 0
    forget(nightly, DAYS[3])
    before = everything(nightly)
    result = nightly.run("--dry-run")
    assert result.returncode == 0
    shown = [line.split()[:3] for line in result.stdout.splitlines()[:-1]]
    assert shown == [[day, "new", name] for day in (DAYS[0], DAYS[3]) for name in ("paid", "total")]
    assert everything(nightly) == before


def test_the_audit_finds_late_data_and_the_same_command_repairs_it(stored: Project) -> None:
    audit = ("--initial", FIRST, LAST)
    assert stored.run(*audit, "--dry-run").returncode == 0
    stored.database.execute(LATE)
    assert stored.run("2025-01-05", "--metric", "total", "--dry-run").returncode == 0, "it builds on the stored row"
    before = everything(stored)
    found = stored.run(*audit, "--dry-run")
    assert found.returncode == 4
    assert "2025-01-10  changed    total  n: 56.00 -> 61.00\n" in found.stdout
    assert "0 new, 9 changed (9 of them final before), 11 unchanged." in found.stdout
    assert everything(stored) == before
    repaired = stored.run(*audit)
    assert repaired.returncode == 0
    assert "2025-01-01 to 2025-01-10  2 metrics on 10 dates: 9 changed, 11 unchanged" in repaired.stdout
    assert "    2025-01-03 paid: changed n: 3.10 -> 8.10\n" in repaired.stdout
    assert "    and 4 more; bi_metric_changes has all\n" in repaired.stdout
    assert "2025-01-10 total: changed n: 56.00 -> 61.00" in stored.log()
    assert stored.run(*audit, "--dry-run").returncode == 0
    changes = "SELECT metric, old_value, new_value FROM bi_metric_changes WHERE metric_date = '2025-01-03'"
    assert sorted(stored.database.rows(changes)) == [
        ("paid", '{"n": 3.10}', '{"n": 8.10}'), ("total", '{"n": 6.30}', '{"n": 11.30}')
    ]  # fmt: skip


# --- what a run says at its end ---------------------------------------------------------------------------------------


def test_what_a_run_changed_in_final_rows_is_said_logged_and_kept(stored: Project) -> None:
    assert stored.run("2025-01-03").stdout.count("\n") == 1, "nothing changed, so nothing is said of it"
    stored.database.execute(LATE)
    result = stored.run("2025-01-02", "2025-01-03", "--quiet")
    assert [line.split("  (")[0] for line in result.stdout.splitlines()] == [
        "2025-01-03  2 metrics: 2 changed; 14 later rows to be computed again",
        "    2025-01-03 paid: changed n: 3.10 -> 8.10",
        "    2025-01-03 total: changed n: 6.30 -> 11.30",
    ]
    assert "2025-01-03 paid: changed n: 3.10 -> 8.10" in stored.log()
    query = "SELECT old_value, new_value FROM bi_metric_changes WHERE metric = 'paid'"
    assert stored.database.rows(query) == [('{"n": 3.10}', '{"n": 8.10}')]
    refresh = printed_command(result.stderr, "too old for nights: 2025-01-04 to 2025-01-10 of .*Run")
    assert refresh == ["2025-01-04", "2025-01-10"]
    assert stored.run(*refresh).returncode == 0
    assert stored.run("--initial", FIRST, LAST, "--dry-run").returncode == 0


def test_missing_dates_are_said_with_the_command_that_fills_them(nightly: Project) -> None:
    assert nightly.run(DAYS[6], DAYS[5]).returncode == 0
    result = nightly.run(DAYS[1])
    assert f"Warning: missing: {DAYS[4]} to {DAYS[2]} of paid, total. Run: " in result.stderr
    fill = printed_command(result.stderr, f"missing: {DAYS[4]} to {DAYS[2]} of .*Run")
    assert fill == [DAYS[4], DAYS[2]]
    assert nightly.list("--status").stdout.count(f"missing: {DAYS[4]} to {DAYS[2]}") == 3, "a row each, and the command"
    assert "missing" not in nightly.run(*fill).stderr
    assert [row[1] for row in nightly.database.metrics()][::2] == DAYS[6:0:-1]
    for day in (DAYS[5], DAYS[3]):  # dates far apart are no range
        forget(nightly, day, "paid")
    said = nightly.run(DAYS[1]).stderr
    for day in (DAYS[5], DAYS[3]):
        assert printed_command(said, f"missing: {day} of paid. Run") == [day, "--metric", "paid"]


def test_what_lies_before_the_history_is_told_with_the_setting_and_not_with_a_command_that_is_refused(
    nightly: Project,
) -> None:
    assert nightly.run(DAYS[6], DAYS[3]).returncode == 0
    forget(nightly, DAYS[5], "paid")
    reopen(nightly, DAYS[4], "paid")
    nightly.write("01_paid.sql", metric_sql("paid", f"{PAID} + 0"))
    nightly.env["METRICS_HISTORY_START"] = DAYS[3]
    for said in (nightly.run(DAYS[3]).stderr, nightly.list("--status").stdout):
        assert "of older SQL" in said
        for day in (DAYS[6], DAYS[5], DAYS[4]):
            refused = f"Runs before METRICS_HISTORY_START={DAYS[3]} are refused: set it to {day} or earlier, then run: "
            assert f"{day} of paid. {refused}python run_metrics.py " in said
        for then, words in re.findall(r"(then run: )?python run_metrics\.py (.*)", said):
            start = DAYS[6] if then else DAYS[3]
            dry = nightly.run(*shlex.split(words), "--dry-run", env={"METRICS_HISTORY_START": start})
            assert dry.returncode != 2


def test_the_status_shows_every_range_and_a_run_the_first_ones(nightly: Project) -> None:
    assert nightly.run(DAYS[9], DAYS[1]).returncode == 0
    gaps = DAYS[8:1:-2]
    for day in gaps:
        forget(nightly, day, "paid")
    said = nightly.run(DAYS[1]).stderr
    assert said.count("of paid. Run: ") == 3
    assert "missing: 1 more ranges; list_metrics.py --status shows all" in said
    status = nightly.list("--status").stdout
    assert re.findall(r"^missing: (\S+) of paid. Run: ", status, re.MULTILINE) == gaps


def test_an_error_in_the_file_of_a_helper_is_its_problem(nightly: Project) -> None:
    assert nightly.run(DAYS[1]).returncode == 0
    nightly.write("00_helper.sql", "-- Description: fills a table\nDELETE FROM payments WHERE day = @unset")
    probe = nightly.list("--status", "--max-age", "1")
    assert (probe.returncode, probe.stdout.count("file error: sql/00_helper.sql:2:")) == (1, 1)


def test_a_row_that_is_not_final_is_said_with_the_command_that_computes_it_again(nightly: Project) -> None:
    assert nightly.run(DAYS[4], DAYS[1]).stderr == ""
    reopen(nightly, DAYS[3])
    for metrics, options in (("paid, total", []), ("total", ["--metric", "total"])):
        result = nightly.run(DAYS[1], "--quiet")
        assert result.stderr.startswith(f"Warning: to be computed again: {DAYS[3]} of {metrics}. Run: ")
        assert f"  to be computed again: {DAYS[3]}" in nightly.list("--status").stdout
        again = printed_command(result.stderr, "Run")
        assert again == [DAYS[3], *options]
        assert nightly.run(DAYS[3], "--metric", metrics.split(", ")[0]).returncode == 0
    assert nightly.run(DAYS[1], "--quiet").stderr == ""


def test_keep_going_runs_the_others_and_lists_the_failed_dates(nightly: Project) -> None:
    picky = "FROM payments WHERE day = %(metric_date)s AND amount NOT IN (3.10, 4.10, 7.10)"
    path = nightly.write("03_picky.sql", metric_sql("picky", where=picky))
    result = nightly.run(FIRST, LAST, "--keep-going")
    assert result.returncode == 1
    assert "2025-01-03  failed\n" in result.stdout
    assert "Failed: 2025-01-03 to 2025-01-04, 2025-01-07. Run them again with: " in result.stderr
    assert result.stderr.count("wrote no row") == 3
    dates = "SELECT COUNT(*), COUNT(DISTINCT metric_date) FROM bi_metrics"
    assert nightly.database.rows(dates) == [(21, 7)]
    assert "2025-01-05 total: no row to build on before it" in nightly.log()
    failed = "SELECT metric, metric_date FROM bi_metric_state WHERE failed_at IS NOT NULL ORDER BY metric_date"
    assert [(row[0], row[1].day) for row in nightly.database.rows(failed)] == [("picky", 3), ("picky", 4), ("picky", 7)]
    path.unlink()
    commands = result.stderr.partition("Run them again with: ")[2].splitlines()[0].split(" && ")
    assert [command.split()[2:] for command in commands] == [
        ["2025-01-03", "2025-01-04", "--keep-going"], ["2025-01-07", "--keep-going"]
    ]  # fmt: skip
    for command in commands:
        assert nightly.run(*command.split()[2:]).returncode == 0
    assert nightly.run("--initial", FIRST, LAST, "--dry-run").returncode == 0


# --- the nightly run --------------------------------------------------------------------------------------------------


def dates_of(output: str) -> list[str]:
    """Return the date of each line of a run's output that tells of one."""
    return [line[:10] for line in output.splitlines() if line.startswith("20")]


def test_the_night_runs_yesterday_and_today_then_looks_back_then_mends_what_is_due(nightly: Project) -> None:
    assert nightly.run(DAYS[9], DAYS[1]).returncode == 0
    forget(nightly, DAYS[7])
    reopen(nightly, DAYS[4])
    night = nightly.run()
    assert (night.returncode, night.stderr) == (0, "")
    # What a filled date reopens is computed again, though only yesterday, today and the lookback compute it unasked.
    assert dates_of(night.stdout) == [DAYS[1], DAYS[0], DAYS[2], *DAYS[7:0:-1]]
    assert dates_of(nightly.run().stdout) == [DAYS[1], DAYS[0], DAYS[2]]
    # A correction: its date is run by hand, and the night computes what was built on it.
    pay(nightly, DAYS[5])
    assert nightly.run(DAYS[5]).stderr.count("to be computed again") == 1
    quiet = nightly.run("--quiet")
    assert set(dates_of(quiet.stdout)) == {*DAYS[1:5]}, "mended dates are said"
    assert quiet.stderr == ""
    assert nightly.run("--initial", DAYS[9], DAYS[0], "--dry-run").returncode == 0


def test_a_night_mends_at_most_31_dates_and_names_what_remains(nightly: Project) -> None:
    nightly.env |= {"METRICS_LOOKBACK_DAYS": "0"}
    assert nightly.run(DAYS[39], "--quiet").returncode == 0
    assert nightly.run(DAYS[1]).returncode == 0
    night = nightly.run()
    assert night.returncode == 0
    assert dates_of(night.stdout) == [DAYS[1], DAYS[0], *DAYS[38:7:-1]]
    assert printed_command(night.stderr, f"missing: {DAYS[7]} to {DAYS[2]} of paid, total. Run") == [DAYS[7], DAYS[2]]
    rest = nightly.run()
    assert dates_of(rest.stdout) == [DAYS[1], DAYS[0], *DAYS[7:0:-1]]
    assert rest.stderr == ""


def test_a_new_metric_is_not_backfilled_by_the_night(nightly: Project) -> None:
    assert nightly.run(DAYS[6], DAYS[1]).returncode == 0
    nightly.write("09_fresh.sql", metric_sql("fresh"))
    forget(nightly, DAYS[4])
    assert nightly.run().returncode == 0
    fresh = [row[1] for row in nightly.database.metrics() if row[0] == "fresh"]
    assert fresh == [DAYS[1], DAYS[0]]
    assert len(dates_of(nightly.run().stdout)) == 3


def test_a_due_date_goes_on_without_what_fails_on_it(nightly: Project) -> None:
    assert nightly.run(DAYS[6], DAYS[1]).returncode == 0
    nightly.write("03_picky.sql", metric_sql("picky", where=f"WHERE %(metric_date)s NOT IN ('{DAYS[5]}')"))
    assert nightly.run(DAYS[6], "--metric", "picky").returncode == 0
    for day in (DAYS[5], DAYS[3]):
        forget(nightly, day)
    night = nightly.run()
    assert night.returncode == 1
    assert f"{DAYS[5]}  2 metrics: 2 new; without picky" in night.stdout
    assert f"Failed: picky on {DAYS[5]}. Run them again with: python run_metrics.py\n" in night.stderr
    stored = {(row[0], row[1]) for row in nightly.database.metrics()}
    assert {(name, day) for name in ("paid", "total", "picky") for day in DAYS[:7]} - stored == {("picky", DAYS[5])}
    assert f"Warning: missing: {DAYS[5]} of picky. Run: " in night.stderr


def test_nights_leave_alone_what_is_older_than_92_days(nightly: Project) -> None:
    old, older = str(TODAY - timedelta(days=200)), str(TODAY - timedelta(days=201))
    assert nightly.run(older, old, "--metric", "paid").returncode == 0
    reopen(nightly, old)
    night = nightly.run("--metric", "paid")
    look_back = [str(TODAY - timedelta(days=n)) for n in range(92, 61, -1)]
    assert dates_of(night.stdout) == [DAYS[1], DAYS[0], DAYS[2], *look_back]


# --- both ways, the same rows -----------------------------------------------------------------------------------------

WINDOW = """\
-- Description: Paid in the three days that end on the date
SELECT CAST(COALESCE(SUM(amount), 0) AS DECIMAL(20,2)) AS n FROM payments
WHERE day BETWEEN %(metric_date)s - INTERVAL {days} DAY AND %(metric_date)s
"""
WINDOW_AT_ONCE = """\
-- Description: Paid in the three days that end on the date
WITH RECURSIVE days AS (SELECT DATE(%(start_date)s) AS d UNION ALL
  SELECT d + INTERVAL 1 DAY FROM days WHERE d < %(metric_date)s)
SELECT d AS metric_date, (SELECT CAST(COALESCE(SUM(amount), 0) AS DECIMAL(20,2)) FROM payments
                          WHERE day BETWEEN d - INTERVAL 2 DAY AND d) AS n FROM days
"""
DRIFT = """\
-- Description: A total kept as a float
SELECT (SELECT CAST(JSON_EXTRACT(value_list, '$.n') AS DOUBLE) FROM bi_metrics
        WHERE metrics = 'drift' AND metric_date = %(metric_date)s - INTERVAL 1 DAY) + 0.1e0 AS n
"""
DRIFT_AT_ONCE = """\
-- Description: A total kept as a float
SELECT DATEDIFF(%(metric_date)s, '2024-12-31') * 0.1e0 AS n
"""
TIES = """\
-- Description: The best player, without a rule for a draw
SELECT id FROM players WHERE joined <= %(metric_date)s ORDER BY points DESC{} LIMIT 1
"""


def test_verify_says_that_lawful_files_agree_and_stores_nothing(stored: Project) -> None:
    stored.write("initial/04_window.sql", WINDOW_AT_ONCE)
    stored.write("incremental/04_window.sql", WINDOW.format(days=2))
    stored.database.execute("INSERT INTO payments VALUES ('2024-12-30', 7.00)")  # late, before START
    before = everything(stored)
    result = stored.run("--verify", "2025-01-02", LAST)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "Both ways compared, nothing kept: 27 equal, 0 different.\n"
    found = json.loads(stored.run("--verify", "2025-01-02", LAST, "--metric", "total", "--json").stdout)
    assert found == {"compared": 9, "different": [], "source_changed": []}
    assert everything(stored) == before


FAULTS_OF_ONE_WAY = {
    "a window off by a day": ("window", WINDOW_AT_ONCE, WINDOW.format(days=3), "2025-01-05", "n: 12.30 -> 14.40"),
    "a float that drifts": ("drift", DRIFT_AT_ONCE, DRIFT, "2025-01-06", "n: 0.6000000000000001 -> 0.6"),
    "a forgotten tie-breaker": ("ties", TIES.format(", id"), TIES.format(", id DESC"), "2025-01-02", "id: 1 -> 9"),
}


@pytest.mark.parametrize("fault", FAULTS_OF_ONE_WAY)
def test_verify_finds_an_incremental_file_that_computes_something_else(stored: Project, fault: str) -> None:
    name, at_once, by_date, day, detail = FAULTS_OF_ONE_WAY[fault]
    stored.database.execute(
        "CREATE TABLE players (id INT, points INT, joined DATE);"
        "INSERT INTO players VALUES (1, 5, '2024-01-01'), (2, 3, '2024-01-01'), (9, 5, '2024-01-01')"
    )
    stored.write(f"initial/05_{name}.sql", at_once)
    stored.write(f"incremental/05_{name}.sql", by_date)
    before = everything(stored)
    result = stored.run("--verify", FIRST, LAST)
    assert result.returncode == 4, result.stderr + result.stdout
    assert f"{day}  {name}  at once -> date by date: {detail}" in result.stdout, result.stdout
    assert f"{FIRST}  " not in result.stdout, "START itself is computed by the initial file in both ways"
    found = json.loads(stored.run("--verify", FIRST, LAST, "--json").stdout)
    assert {each["metric"] for each in found["different"]} == {name}
    assert everything(stored) == before


def test_verify_says_that_the_source_changed_and_blames_no_file(nightly: Project) -> None:
    wait = " + (SELECT SLEEP(IF(%(metric_date)s = '2025-01-05', 2, 0)))"
    nightly.write("incremental/02_total.sql", metric_sql("total", f"{BEFORE} + {PAID}{wait}"))
    run = nightly.start("run_metrics.py", "--verify", FIRST, LAST)
    wait_until(lambda: at_work(nightly.database, "incremental/02_total.sql 2025-01-05"))
    pay(nightly, LAST)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (1, "")
    assert out.splitlines() == [
        "2 rows could not be compared: computing them twice gave two values (paid, total). Run the command again; if "
        "that repeats, the SQL gives another value each time.",
        "Both ways compared, nothing kept: 18 equal, 0 different.",
    ]
    nightly.write("incremental/02_total.sql", metric_sql("total", f"{BEFORE} + {PAID}"))
    assert nightly.run("--verify", FIRST, LAST).returncode == 0


def test_verify_without_a_metric_that_has_both_ways_is_refused(project: Project) -> None:
    project.write("incremental/m.sql", metric_sql("m"))
    project.write("initial/n.sql", metric_sql("n"))
    result = project.run("--verify", FIRST, LAST)
    assert result.returncode == 2
    assert "Error: --verify: no metric can be computed both at once and date by date" in result.stderr


# --- the state --------------------------------------------------------------------------------------------------------


def test_the_status_shows_what_is_final_what_is_due_and_why(nightly: Project) -> None:
    days = DAYS[4::-1]
    assert nightly.run(days[0], days[3]).returncode == 0
    assert nightly.run(days[4], "--metric", "total").returncode == 0
    nightly.write("05_never.sql", metric_sql("never"))
    nightly.database.execute("INSERT INTO bi_metrics (metrics, f_list, value_list, metric_date) "
                             f"VALUES ('gone', '[]', '{{}}', '{days[0]}')")  # fmt: skip
    head, _, paid, total, never, not_yet, gone, why, summary = nightly.list("--status").stdout.splitlines()
    assert re.split(r"  +", head) == ["Metric", "Newest", "Final to", "Final", "Waiting", "Due", "ms"]
    assert re.fullmatch(rf"paid +{days[3]} +{days[3]} +4 +0 +0 +\d+", paid)
    assert re.fullmatch(rf"total +{days[4]} +{days[3]} +4 +0 +0 +\d+", total)
    assert re.fullmatch(r"never +- +- +0 +0 +0 +-", never)
    assert not_yet == "    no row yet"
    assert re.fullmatch(rf"gone +{days[0]} +- .*", gone)
    assert why == f"    no file of the night computes it, and it has rows to {days[0]}"
    assert summary == "Problems with 1 of 4 metrics: gone."
    before = everything(nightly)
    probe = nightly.list("--status", "--max-age", "1", "--json")
    names = [state["name"] for state in json.loads(probe.stdout)["metrics"]]
    assert (probe.returncode, names) == (1, ["never", "gone"])
    (nightly.folder / "sql" / "05_never.sql").unlink()
    nightly.database.execute("DELETE FROM bi_metrics WHERE metrics = 'gone'")
    assert nightly.list("--status", "--max-age", "1").returncode == 0
    states = json.loads(nightly.list("--status", "--max-age", "0", "--json").stdout)["metrics"]
    assert [state["problems"] for state in states] == [[f"newest final row {days[3]}, more than 0 days old"]] * 2
    assert {"first", "newest", "newest_final", "states", "missing", "reopened", "waiting", "due", "older_sql",
            "failure", "computed_at", "milliseconds", "file", "is_helper", "period",
            "period_start"} <= states[0].keys()  # fmt: skip
    assert everything(nightly)[0] == before[0]


@pytest.mark.parametrize("day", ["0000-00-00", "0999-12-31"])
def test_a_row_before_the_first_date_of_mysql_is_told_with_the_statement_that_removes_it(
    nightly: Project, day: str
) -> None:
    assert nightly.run(DAYS[3]).returncode == 0
    nightly.database.execute(
        "SET sql_mode = ''; INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date) "
        f"VALUES ('paid', 'card', '[]', 'null', '{day}'); SET sql_mode = DEFAULT"
    )
    error = (f"Error: bi_metrics has a row of paid whose metric_date is {day}, before 1000-01-01, the first date that "
             "MySQL holds; correct it, or run: DELETE FROM bi_metrics WHERE metric_date < '1000-01-01'\n")  # fmt: skip
    for said in (nightly.run(), nightly.run(DAYS[3]), nightly.list("--status"), nightly.list("--html", "page.html")):
        assert (said.returncode, said.stderr) == (2, error)
    nightly.database.execute(error.partition("run: ")[2])
    assert nightly.run().returncode == 0


def test_the_status_says_that_a_run_is_in_progress(nightly: Project) -> None:
    assert "A run is in progress" not in nightly.list("--status").stdout
    assert json.loads(nightly.list("--status", "--json").stdout)["run_in_progress"] is False
    with contextmanager(locked)(nightly):
        assert "A run is in progress.\n" in nightly.list("--status").stdout
        assert json.loads(nightly.list("--status", "--json").stdout)["run_in_progress"] is True


def break_a_file(project: Project) -> None:
    project.write("01_paid.sql", metric_sql("paid", "@nothing"))


def fail_a_run(project: Project) -> None:
    project.write("01_paid.sql", metric_sql("paid", where="FROM nowhere"))
    forget(project, DAYS[1], "paid")
    assert project.run(DAYS[1]).returncode == 1
    project.write("01_paid.sql", metric_sql("paid", PAID))


def a_row_of_the_future(project: Project) -> None:
    project.database.execute(f"UPDATE bi_metrics SET metric_date = '2099-01-01', updated_at = '2037-01-01' "
                             f"WHERE metrics = 'paid' AND metric_date = '{DAYS[1]}'")  # fmt: skip


PROBLEMS: dict[str, tuple[Callable[[Project], object], str]] = {
    "a missing date": (lambda p: forget(p, DAYS[3], "paid"), f"missing: {DAYS[3]}"),
    "a row of an unfinished day": (lambda p: reopen(p, DAYS[3], "paid"), f"to be computed again: {DAYS[3]}"),
    "an old row": (lambda p: forget(p, DAYS[1], "paid"), f"newest final row {DAYS[2]}, more than 1 day old"),
    "a failed run": (fail_a_run, f"the last try of {DAYS[1]} failed: sql/01_paid.sql:5:"),
    "a faulty file": (break_a_file, "file error: sql/01_paid.sql:6:"),
    "a date ahead of the clock": (a_row_of_the_future, f"newest final row {DAYS[2]}, more than 1 day old"),
}  # fmt: skip


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_probe_fails_and_prints_just_the_metrics_with_a_problem(nightly: Project, problem: str) -> None:
    assert nightly.run(DAYS[5], DAYS[1]).returncode == 0
    well = nightly.list("--status", "--max-age", "1")
    assert (well.returncode, well.stdout) == (0, "")
    cause, words = PROBLEMS[problem]
    cause(nightly)
    probe = nightly.list("--status", "--max-age", "1")
    assert probe.returncode == 1
    assert words in probe.stdout
    assert [line.split()[0] for line in probe.stdout.splitlines()[2:3]] == ["paid"]
    assert not re.search(r"^total ", probe.stdout, re.MULTILINE)


def test_older_sql_is_blind_to_comments_and_blanks(stored: Project) -> None:
    text = metric_sql("paid", PAID)
    same = text.replace("SELECT 'paid'", "SELECT   /* x */ 'paid'").replace("\n", "\r\n")
    stored.write("01_paid.sql", f"-- Written by: somebody\r\n{same}")
    assert "older SQL" not in stored.list("--status").stdout
    stored.write("01_paid.sql", metric_sql("paid", f"{PAID} + 0"))
    state = stored.list("--status").stdout
    of_paid, of_total = state.split("\ntotal ")
    assert f"\n    of older SQL: {FIRST} to {LAST}" in of_paid
    assert "\n    of older SQL" not in of_total
    assert stored.run(FIRST, LAST).returncode == 0
    assert "older SQL" not in stored.list("--status").stdout


# --- the states -------------------------------------------------------------------------------------------------------


def test_every_cell_has_a_state(nightly: Project) -> None:
    nightly.run(FIRST, "2025-01-02")
    nightly.run(str(TODAY))
    nightly.write("03_long.sql", metric_sql("long", header="-- Check: SELECT REPEAT('é', 3000)"))
    failed = nightly.run("2025-01-03")
    assert failed.returncode == 1
    rows = nightly.database.rows(
        "SELECT metric, metric_date, file, state, is_helper, run_id, definition, error FROM bi_metric_state "
        "WHERE file IS NOT NULL OR error IS NOT NULL ORDER BY metric_date, metric"
    )
    assert [(row[0], str(row[1]), *row[2:5]) for row in rows] == [
        ("paid", FIRST, "sql/01_paid.sql", "final", 0),
        ("total", FIRST, "sql/initial/02_total.sql", "final", 0),
        ("paid", "2025-01-02", "sql/01_paid.sql", "final", 0),
        ("total", "2025-01-02", "sql/incremental/02_total.sql", "final", 0),
        ("long", "2025-01-03", None, "missing", 0),
        ("paid", str(TODAY), "sql/01_paid.sql", "open", 0),
        ("total", str(TODAY), "sql/initial/02_total.sql", "open", 0),
    ]
    assert len({row[5] for row in rows} - {None}) == 2
    assert all(re.fullmatch("[0-9a-f]{16}", row[6]) for row in rows if row[2])
    (error,) = (row[7] for row in rows if row[7])
    assert len(error) == 1000
    assert "éé" in error
    assert error[:60] in failed.stderr


def test_a_reason_that_cannot_be_kept_is_told_all_the_same(nightly: Project) -> None:
    nightly.database.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON bi_metric_state FOR EACH ROW BEGIN IF NEW.error IS NOT NULL THEN "
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF; END"
    )
    nightly.write("03_bad.sql", metric_sql("bad", where="FROM nowhere"))
    result = nightly.run(FIRST)
    assert result.returncode == 1
    assert "Error: 2025-01-01: sql/03_bad.sql:5: statement 1 of 1: (1146)" in result.stderr
    assert "Warning: could not keep the reason in bi_metric_state: (1644) refused" in result.stderr
    assert everything(nightly) == []


# --- for cron ---------------------------------------------------------------------------------------------------------


def locked(project: Project) -> Iterator[None]:
    manager = DatabaseManager(load_settings(project.folder, project.environment()))
    manager.connect()
    manager.run_lock.take()
    yield
    manager.close()


def a_late_payment(project: Project) -> Iterator[None]:
    pay(project, DAYS[3])
    yield


def a_bad_file(project: Project) -> Iterator[None]:
    project.write("03_bad.sql", metric_sql("bad", where=f"WHERE %(metric_date)s < '{DAYS[2]}'"))
    yield


def nothing(project: Project) -> Iterator[None]:
    yield


ENDS: dict[str, tuple[Callable[[Project], Iterator[None]], list[str], int, dict[str, object]]] = {
    "ok": (a_late_payment, [DAYS[3], DAYS[2]], 0, {
        "committed": [DAYS[3], DAYS[2]], "failed": [], "error": "", "resume": "", "missing": [],
        "changed": [{"metric": "paid", "metric_date": DAYS[3], "detail": "n: 0.00 -> 1.00"},
                    {"metric": "total", "metric_date": DAYS[3], "detail": "n: 56.00 -> 57.00"},
                    {"metric": "total", "metric_date": DAYS[2], "detail": "n: 56.00 -> 57.00"}],
        "reopened": [{"start": DAYS[1], "end": DAYS[1], "metrics": ["paid", "total"]}]}),
    "failed": (a_bad_file, [DAYS[3], DAYS[1], "--quiet"], 1, {
        "committed": [DAYS[3]], "failed": [DAYS[2]], "resume": f"python run_metrics.py {DAYS[2]} {DAYS[1]} --quiet"}),
    "failed, going on": (a_bad_file, [DAYS[3], DAYS[2], "--keep-going"], 1, {
        "committed": [DAYS[3]], "failed": [DAYS[2]], "resume": f"python run_metrics.py {DAYS[2]} --keep-going"}),
    "locked": (locked, [DAYS[1]], 3, {"committed": [], "failed": []}),
    "not-started": (nothing, [DAYS[1], "--metric", "nope"], 2, {"committed": [], "failed": [], "run_id": None}),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_the_outcome_is_the_last_line_of_json_and_reaches_the_command_of_the_end(
    nightly: Project, tmp_path: Path, end: str
) -> None:
    assert nightly.run(DAYS[4], DAYS[1]).returncode == 0
    cause, words, code, expected = ENDS[end]
    status, said = end.split(",")[0], tmp_path / "said"
    variables = "$METRICS_STATUS|$METRICS_EXIT_CODE|$METRICS_ERROR|$METRICS_RESUME"
    nightly.env["METRICS_ON_END"] = f"cat > {said}.json; printf '%s' \"{variables}\" > {said}; echo told"
    with contextmanager(cause)(nightly):
        result = nightly.run(*words, "--json")
    outcome = json.loads(result.stdout.splitlines()[-1].replace("n: 0 ->", "n: 0.00 ->"))  # as MySQL has it
    assert outcome == json.loads(said.with_suffix(".json").read_text().replace("n: 0 ->", "n: 0.00 ->"))
    assert (result.returncode, outcome["exit_code"], outcome["status"]) == (code, code, status)
    assert {name: outcome[name] for name in expected} == expected
    assert outcome["command"] == ["run_metrics.py", *words, "--json"]
    assert (outcome["error"] in result.stderr, bool(outcome["error"])) == (True, code != 0)
    assert said.read_text().split("|") == [status, str(code), outcome["error"], outcome["resume"]]
    assert {"run_id", "version", "seconds", "warnings"} <= outcome.keys()
    assert all(text in result.stderr for text in outcome["warnings"])
    assert "METRICS_ON_END: told" in nightly.log()


def test_a_dry_run_tells_no_command_of_its_end_and_a_failing_command_is_a_warning(nightly: Project) -> None:
    nightly.env["METRICS_ON_END"] = "echo out of order; exit 7"
    assert nightly.run(DAYS[1], "--dry-run").stderr == ""
    assert nightly.run("--verify", FIRST, LAST).stderr == ""
    result = nightly.run(DAYS[1])
    assert result.returncode == 0
    assert result.stderr == "Warning: METRICS_ON_END failed with exit code 7; logs/metrics.log has what it printed\n"
    assert "METRICS_ON_END: out of order" in nightly.log()


def test_the_log_may_be_a_pipe_as_behind_a_link_to_stdout(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.log")
    reader = os.open(tmp_path / "metrics.log", os.O_RDONLY | os.O_NONBLOCK)
    log_file.configure_log(tmp_path / "metrics.log")
    for number in range(3):
        log_file.log.info("line %d", number)
    log_file.log.handlers.clear()
    assert [line.split(" INFO ")[1] for line in os.read(reader, 10_000).decode().splitlines()] == [
        "line 0", "line 1", "line 2"
    ]  # fmt: skip
    os.close(reader)


def test_the_log_rotates_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "LOG_BYTES", 3_000)
    log_file.configure_log(tmp_path / "logs" / "metrics.log")
    for number in range(1_000):
        log_file.log.info("line %d", number)
    log_file.log.handlers.clear()
    logs = sorted((tmp_path / "logs").iterdir())
    assert [path.name for path in logs] == ["metrics.log", *(f"metrics.log.{n}" for n in range(1, 6))]
    assert all(path.stat().st_size < 3_100 and path.stat().st_mode & 0o777 <= 0o640 for path in logs)
    assert logs[0].read_text().endswith("INFO line 999\n")


@pytest.mark.parametrize("redirect", [">/dev/full", ">&-", "2>&-", "2>/dev/full", ">&- 2>&-", "| head -0"])
def test_output_that_cannot_be_written_stops_no_metric_and_the_log_has_the_resume_line(
    nightly: Project, redirect: str
) -> None:
    nightly.install()
    nightly.write("09_bad.sql", f"SELECT 1 AS n FROM payments WHERE day = %(metric_date)s AND day < '{LAST}'")
    command = shlex.join([sys.executable, str(nightly.folder / "run_metrics.py"), "2025-01-09", LAST])
    done = subprocess.run(["bash", "-c", f"{command} {redirect}"], env=nightly.environment(), text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == (0 if "head" in redirect else 1)
    assert "Traceback" not in done.stdout + done.stderr
    assert [row[1] for row in nightly.database.metrics()] == ["2025-01-09"] * 3
    assert "Committed 2025-01-09. Resume with: python run_metrics.py 2025-01-10" in nightly.log()


@pytest.mark.parametrize("obstacle", ["a file in place of the folder", "a folder in place of the file", "a full disk"])
def test_a_log_that_cannot_be_written_warns_and_the_metrics_run(nightly: Project, obstacle: str) -> None:
    logs = nightly.folder / "logs"
    if obstacle == "a file in place of the folder":
        logs.write_text("")
    elif obstacle == "a folder in place of the file":
        (logs / "metrics.log").mkdir(parents=True)
    else:
        logs.mkdir()
        (logs / "metrics.log").symlink_to("/dev/full")
    result = nightly.run(DAYS[1])
    assert result.returncode == 0
    assert re.fullmatch(r"Warning: cannot write the log .*\n", result.stderr)
    assert len(nightly.database.metrics()) == 2


def test_the_password_is_nowhere_to_be_seen(nightly: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    password = "Pa55-w0rd%s'\\"
    account = f"keeper_{nightly.database.name}"
    quoted = password.replace("\\", "\\\\").replace("'", "''")
    nightly.database.execute(f"CREATE USER {account}@localhost IDENTIFIED BY '{quoted}'; "
                             f"GRANT ALL ON {nightly.database.name}.* TO {account}@localhost")  # fmt: skip
    env = {**nightly.database.env, "DB_USER": account, "DB_PASSWORD": password, "LOG_LEVEL": "DEBUG"}
    env = {name: env[name] for name in ("DB_SOCKET", "DB_NAME", "DB_USER", "DB_PASSWORD", "LOG_LEVEL")}
    said = []
    slow(nightly, 3_000)
    run = nightly.start("run_metrics.py", FIRST, env=env)
    wait_until(lambda: "03_slow" in str(nightly.database.rows("SHOW FULL PROCESSLIST")))
    said.append(Path(f"/proc/{run.pid}/cmdline").read_bytes().decode())
    said += run.communicate(timeout=60)
    assert run.returncode == 0
    wrong = nightly.run(FIRST, env={**env, "DB_PASSWORD": f"{password}x"})
    assert wrong.returncode == 2
    assert "(1045)" in wrong.stderr
    nightly.write("03_slow.sql", metric_sql("slow", where="FROM nowhere"))
    assert nightly.run(FIRST, env=env).returncode == 1
    said += [wrong.stdout, wrong.stderr]
    monkeypatch.setattr("src.db_manager.CautiousConnection", lambda **arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError) as ours:
        DatabaseManager(load_settings(nightly.folder, env)).connect()
    said += traceback.format_exception(ours.value)
    said.append(nightly.log())
    assert all(password not in text and "Pa55" not in text for text in said)
    nightly.database.execute(f"DROP USER {account}@localhost")
