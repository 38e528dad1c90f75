"""Every cell - one metric or helper on one date - has a state of its own, and a night computes only what is due."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tests.conftest import Database, Project, metric_sql

UTC = {"METRICS_TIMEZONE": "UTC"}
DAYS = "WITH RECURSIVE d AS (SELECT {first} AS n UNION ALL SELECT n + 1 FROM d WHERE n < {last})"
REVENUE = """-- Description: Payments so far
SELECT COALESCE(SUM(amount), 0) AS revenue FROM payments WHERE day <= %(metric_date)s
"""
EVENTS = """-- Description: Events of the day
SELECT COUNT(*) AS events FROM events WHERE day = %(metric_date)s
"""
PER_DAY = """-- Description: Helper: plays per day, kept longer than the plays
DELETE FROM per_day WHERE day BETWEEN %(start_date)s AND %(metric_date)s;
INSERT INTO per_day SELECT day, COUNT(*) FROM plays WHERE day BETWEEN %(start_date)s AND %(metric_date)s GROUP BY day;
"""


@pytest.fixture
def here(project: Project) -> Project:
    """A project whose dates are of UTC."""
    project.env |= UTC
    project.database.execute("SET time_zone = '+00:00'")
    return project


def ago(days: int) -> str:
    return str(datetime.now(timezone.utc).date() - timedelta(days=days))


def table_of_days(database: Database, table: str, columns: str, value: str, first: int, last: int) -> None:
    """Create a table with a row for each day between so many days ago."""
    database.execute(
        f"CREATE TABLE {table} (day DATE NOT NULL, {columns}); INSERT INTO {table} "
        f"{DAYS.format(first=first, last=last)} SELECT UTC_DATE() - INTERVAL n DAY, {value} FROM d"
    )


def state(project: Project, name: str, day: str) -> str:
    rows = project.database.rows(
        f"SELECT state FROM bi_metric_state WHERE metric = '{name}' AND metric_date = '{day}'"
    )
    return str(rows[0][0]) if rows else "none"


def value(project: Project, name: str, day: str) -> Any:
    """Return the value_list of a row, parsed; None if there is no row."""
    rows = project.database.rows(
        f"SELECT value_list FROM bi_metrics WHERE metrics = '{name}' AND metric_date = '{day}'"
    )
    return json.loads(rows[0][0]) if rows else None


def ok(result: Any) -> Any:
    assert result.returncode == 0, result.stdout + result.stderr
    return result


# --- a repair computes what is due, and nothing else ------------------------------------------------------------------


def test_a_repair_of_one_metric_leaves_rows_alone_whose_source_was_purged(here: Project) -> None:
    table_of_days(here.database, "payments", "amount INT NOT NULL", "10", 1, 20)
    table_of_days(here.database, "events", "id INT NOT NULL", "1", 1, 20)
    here.write("10_revenue.sql", REVENUE)
    here.write("20_daily_events.sql", EVENTS)
    ok(here.run("--initial", ago(20), ago(1)))
    here.database.execute("DELETE FROM events WHERE day < UTC_DATE() - INTERVAL 10 DAY")
    here.database.execute("INSERT INTO payments VALUES (UTC_DATE() - INTERVAL 15 DAY, 5)")
    ok(here.run(ago(15), "--metric", "revenue"))
    assert state(here, "revenue", ago(14)) == "reopened"
    ok(here.run())
    assert [value(here, "daily_events", ago(n)) for n in (15, 14, 11)] == [{"events": 1}] * 3
    assert value(here, "revenue", ago(1)) == {"revenue": 205}
    assert state(here, "revenue", ago(1)) == "final"
    assert here.database.rows("SELECT COUNT(*) FROM bi_metric_changes WHERE metric = 'revenue'") == [(15,)]


def test_a_helper_that_is_current_is_not_computed_from_a_purged_source(here: Project) -> None:
    table_of_days(here.database, "payments", "amount INT NOT NULL", "10", 1, 20)
    table_of_days(here.database, "plays", "game INT NOT NULL", "1", 1, 20)
    here.database.execute("CREATE TABLE per_day (day DATE PRIMARY KEY, plays INT NOT NULL)")
    here.write("05_plays_per_day.sql", PER_DAY)
    here.write("10_revenue.sql", REVENUE)
    here.write("20_plays_30.sql", "-- Description: Plays of 30 days\nSELECT COALESCE(SUM(plays), 0) AS plays "
               "FROM per_day WHERE day > %(metric_date)s - INTERVAL 30 DAY AND day <= %(metric_date)s\n")  # fmt: skip
    ok(here.run("--initial", ago(20), ago(1)))
    here.database.execute("DELETE FROM plays WHERE day < UTC_DATE() - INTERVAL 10 DAY")
    here.database.execute("INSERT INTO payments VALUES (UTC_DATE() - INTERVAL 15 DAY, 5)")
    ok(here.run(ago(15), "--metric", "revenue"))
    ok(here.run(ago(15), "--metric", "plays_30"))  # its helper is current there
    ok(here.run())
    assert here.database.rows("SELECT COUNT(*) FROM per_day WHERE day < UTC_DATE()") == [(20,)]
    assert value(here, "plays_30", ago(1)) == {"plays": 20}


def test_yesterday_comes_first_and_one_broken_file_costs_only_its_own_numbers(here: Project) -> None:
    here.write("10_good.sql", metric_sql("good", "DAY(%(metric_date)s)"))
    here.write("20_bad.sql", metric_sql("bad", "DAY(%(metric_date)s)"))
    here.write("30_reader.sql", metric_sql("reader", "(SELECT JSON_EXTRACT(value_list, '$.n') FROM bi_metrics "
               "WHERE metrics = 'bad' AND metric_date = %(metric_date)s)"))  # fmt: skip
    ok(here.run(ago(6), ago(5)))
    failing = metric_sql("bad", "(SELECT n FROM nowhere WHERE n = %(metric_date)s)", "-- Owner: Ann, data team")
    here.write("20_bad.sql", failing)
    result = here.run(env={"METRICS_ON_FAILURE": "metric", "METRICS_ON_END": "cat"})
    assert result.returncode == 1
    told = json.loads(here.log().split("METRICS_ON_END: ")[1].split("\n")[0])["failed_cells"]
    assert {(each["metric"], each["owner"]) for each in told} == {("bad", "Ann, data team")}
    first = next(line for line in result.stdout.splitlines() if line.startswith("20"))
    assert first.startswith(f"{ago(1)}  1 metric: 1 new; without bad, reader"), result.stdout
    assert [state(here, "good", ago(n)) for n in (4, 3, 1)] == ["final"] * 3
    assert value(here, "bad", ago(1)) is None
    assert "nowhere" in here.database.rows("SELECT MAX(error) FROM bi_metric_state WHERE metric = 'bad'")[0][0]
    assert here.database.rows("SELECT COUNT(*) FROM bi_metric_state WHERE metric <> 'bad' AND error > ''") == [(0,)]
    probe = here.list("--status", "--max-age", "1")
    assert probe.returncode == 1
    assert "nowhere" in probe.stdout
    here.write("20_bad.sql", metric_sql("bad", "DAY(%(metric_date)s)"))
    ok(here.run())
    assert here.database.rows("SELECT COUNT(*) FROM bi_metric_state WHERE state <> 'final'") == [(3,)]  # today's
    assert here.list("--status", "--max-age", "1").returncode == 0


def test_a_date_is_all_or_nothing_by_default_and_the_next_night_goes_on_without_what_fails(here: Project) -> None:
    here.write("10_good.sql", metric_sql("good", "DAY(%(metric_date)s)"))
    here.write("20_bad.sql", metric_sql("bad", "DAY(%(metric_date)s)"))
    ok(here.run(ago(6), ago(2)))
    here.write("20_bad.sql", metric_sql("bad", "(SELECT n FROM nowhere WHERE n = %(metric_date)s)"))
    assert here.run().returncode == 1
    assert value(here, "good", ago(1)) is None
    assert state(here, "good", ago(2)) == "final"


def test_dates_that_always_fail_do_not_starve_the_others(here: Project) -> None:
    here.database.execute("CREATE TABLE broken (day DATE)")
    here.write("10_good.sql", metric_sql("good", "DAY(%(metric_date)s)"))
    here.write("20_bad.sql", metric_sql("bad", "IF((SELECT COUNT(*) FROM broken WHERE day = %(metric_date)s), "
               "(SELECT day FROM broken), 1)"))  # fmt: skip
    ok(here.run(ago(50), ago(1)))
    days = DAYS.format(first=15, last=49)
    here.database.execute(f"INSERT INTO broken {days} SELECT UTC_DATE() - INTERVAL n DAY FROM d")
    here.database.execute("DELETE FROM bi_metrics WHERE metrics = 'bad' AND metric_date < UTC_DATE() - INTERVAL 14 DAY "
                          "AND metric_date > UTC_DATE() - INTERVAL 50 DAY")  # fmt: skip
    here.run()
    here.database.execute("DELETE FROM bi_metrics WHERE metrics = 'good' AND metric_date = UTC_DATE() - INTERVAL 3 DAY")
    here.run()
    assert state(here, "good", ago(3)) == "final"


NOT_LESS = """-- Description: Payments so far
-- Check: SELECT 1 FROM bi_metrics AS a JOIN bi_metrics AS b ON b.metrics = a.metrics AND b.metric_date = a.metric_date - INTERVAL 1 DAY WHERE a.metrics = 'total' AND a.metric_date = %(metric_date)s AND JSON_VALUE(a.value_list, '$.total') + 0 < JSON_VALUE(b.value_list, '$.total') + 0
SELECT COALESCE(SUM(amount), 0) AS total FROM payments WHERE day <= %(metric_date)s
"""  # noqa: E501


@pytest.fixture
def corrected(here: Project) -> Project:
    """A total that must not fall, and a correction six days ago that makes all later ones smaller."""
    table_of_days(here.database, "payments", "amount INT NOT NULL", "10", 0, 20)
    here.database.execute("UPDATE payments SET amount = 100 WHERE day = UTC_DATE() - INTERVAL 6 DAY")
    here.write("total.sql", NOT_LESS)
    ok(here.run("--initial", ago(20), ago(1)))
    here.database.execute("UPDATE payments SET amount = 0 WHERE day = UTC_DATE() - INTERVAL 6 DAY")
    ok(here.run(ago(6)))
    return here


def test_a_check_that_compares_with_a_row_that_is_due_is_asked_again_behind_it(corrected: Project) -> None:
    """The night computes yesterday before the days of the correction, so its total is less than the day before's."""
    night = ok(corrected.run("--quiet"))
    assert "check" not in night.stderr
    assert [value(corrected, "total", ago(n)) for n in (3, 2, 1)] == [{"total": n} for n in (170, 180, 190)]
    assert [state(corrected, "total", ago(n)) for n in range(1, 7)] == ["final"] * 6
    assert corrected.list("--status", "--max-age", "1").returncode == 0


def test_a_check_that_still_fails_behind_it_fails(corrected: Project) -> None:
    corrected.database.execute("UPDATE payments SET amount = -50 WHERE day = UTC_DATE() - INTERVAL 1 DAY")
    night = corrected.run()
    assert night.returncode == 1
    assert night.stderr.count("check failed") == 1
    assert [state(corrected, "total", ago(n)) for n in (1, 2, 3)] == ["reopened", "final", "final"]
    assert corrected.run().returncode == 1


def test_a_date_by_hand_says_that_its_check_waits_for_rows_that_are_due(corrected: Project) -> None:
    by_hand = ok(corrected.run(ago(4)))
    assert "rows before it must be computed again, and then this one" in by_hand.stderr
    assert state(corrected, "total", ago(4)) == "reopened"


def test_a_metric_that_is_run_before_what_it_reads_says_so(here: Project) -> None:
    here.write("a.sql", metric_sql("a", "DAY(%(metric_date)s)"))
    read = "(SELECT COUNT(*) FROM bi_metrics WHERE metrics = 'a' AND metric_date = %(metric_date)s)"
    here.write("b.sql", f"-- Description: x\nSELECT {read} AS n")
    said = "b reads a, which has no row yet: run that first, or together"
    assert said in ok(here.run(ago(1), "--metric", "b")).stderr
    assert said not in ok(here.run(ago(1))).stderr
    assert said not in ok(here.run(ago(1), "--metric", "b")).stderr


# --- disabled files ---------------------------------------------------------------------------------------------------


def test_a_disabled_file_that_another_reads_is_told_each_night_until_that_one_is_disabled_too(here: Project) -> None:
    here.write("a.sql", metric_sql("a", "DAY(%(metric_date)s)"))
    read = "(SELECT COUNT(*) FROM bi_metrics WHERE metrics = 'a' AND metric_date = %(metric_date)s)"
    here.write("b.sql", f"-- Description: x\nSELECT {read} AS n")
    ok(here.run(ago(3), ago(1)))
    (here.folder / "sql" / "a.sql").rename(here.folder / "sql" / "_a.sql")
    told = f"a has rows to {ago(1)} and no file of the night computes it: what reads it (b) lacks its new rows"
    for _ in range(2):
        assert told in ok(here.run("--quiet")).stderr
    assert "no file of the night computes it" in here.list("--status", "--max-age", "1").stdout
    (here.folder / "sql" / "b.sql").rename(here.folder / "sql" / "_b.sql")
    here.write("c.sql", metric_sql("c", "1 + 0 * DAY(%(metric_date)s)"))
    assert "no file of the night" not in ok(here.run("--quiet")).stderr


def test_what_a_load_of_many_dates_left_out_is_resumed_for_all_of_them(here: Project) -> None:
    here.write("a.sql", metric_sql("a", "DAY(%(metric_date)s)"))
    here.write("b.sql", f"-- Description: x\n-- Check: SELECT 1 FROM bi_metrics WHERE metrics = 'b' AND metric_date = "
               f"%(metric_date)s AND metric_date = '{ago(4)}'\nSELECT DAY(%(metric_date)s) AS n")  # fmt: skip
    result = here.run("--initial", ago(6), ago(1), env={"METRICS_ON_FAILURE": "metric"})
    assert result.returncode == 1
    command = f"python run_metrics.py {ago(6)} {ago(1)} --initial"
    assert f"Failed: b on {ago(6)} to {ago(1)}. Run them again with: {command}" in result.stderr


# --- changed SQL ------------------------------------------------------------------------------------------------------


def test_rows_of_older_sql_are_told_until_they_are_computed_again(here: Project) -> None:
    here.write("a.sql", metric_sql("a", "1 + 0 * DAY(%(metric_date)s)"))
    ok(here.run(ago(6), ago(1)))
    here.write("a.sql", metric_sql("a", "2 + 0 * DAY(%(metric_date)s)"))
    first = ok(here.run("--quiet"))
    assert f"of older SQL: {ago(6)} to {ago(3)} of a." in first.stderr
    assert "of older SQL" not in ok(here.run("--quiet")).stderr  # once
    for _ in range(2):
        status = here.list("--status")
        assert f"of older SQL: {ago(6)} to {ago(3)}" in status.stdout
        assert f"python run_metrics.py --initial {ago(6)} {ago(3)} --metric a" in status.stdout
    ok(here.run("--initial", ago(6), ago(3), "--metric", "a"))
    assert "of older SQL" not in here.list("--status").stdout


def test_older_sql_is_told_also_if_the_first_rows_of_the_new_sql_had_no_row_before(here: Project) -> None:
    here.write("a.sql", metric_sql("a", "1 + 0 * DAY(%(metric_date)s)"))
    ok(here.run("--initial", ago(6), ago(2)))  # the night of yesterday did not run
    here.write("a.sql", metric_sql("a", "2 + 0 * DAY(%(metric_date)s)"))
    assert f"of older SQL: {ago(6)} to {ago(3)} of a." in ok(here.run("--quiet")).stderr
    assert "of older SQL" not in ok(here.run("--quiet")).stderr


def test_the_rows_that_a_reverted_deploy_has_left_are_told(here: Project) -> None:
    right, wrong = (metric_sql("a", f"{n} + 0 * DAY(%(metric_date)s)") for n in (1, 2))
    here.write("a.sql", right)
    ok(here.run(ago(9), ago(7)))
    here.write("a.sql", wrong)
    ok(here.run(ago(6), ago(1)))
    here.write("a.sql", right)
    assert f"of older SQL: {ago(6)} to {ago(3)} of a." in ok(here.run("--quiet")).stderr
    assert "of older SQL" not in ok(here.run("--quiet")).stderr


def test_a_change_of_the_initial_file_or_of_its_parameter_is_a_change(here: Project) -> None:
    here.env |= {"METRIC_PARAM_START": "0"}
    before = "(SELECT JSON_EXTRACT(value_list, '$.n') FROM bi_metrics WHERE metrics = 'a' AND metric_date = %(metric_date)s - INTERVAL 1 DAY)"  # noqa: E501
    here.write("incremental/a.sql", metric_sql("a", f"{before} + 1"))
    here.write("initial/a.sql", metric_sql("a", "%(start)s + DATEDIFF(%(metric_date)s, '2020-01-01')"))
    ok(here.run(ago(6), ago(1)))
    changed = here.list("--status", env={"METRIC_PARAM_START": "5"})
    assert f"of older SQL: {ago(6)} to {ago(1)} of a." in changed.stdout
    assert "of older SQL" not in here.list("--status").stdout


# --- views ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["+00:00", "+08:00", "-10:00"])
def test_a_row_is_final_for_a_reader_in_every_time_zone(here: Project, zone: str) -> None:
    here.write("a.sql", metric_sql("a", "DAY(%(metric_date)s)"))
    ok(here.run(ago(2), ago(0)))
    here.database.execute(f"SET time_zone = '{zone}'")
    rows = here.database.rows("SELECT metric_date, is_final FROM bi_metric_cards ORDER BY metric_date")
    assert [(str(day), is_final) for day, is_final in rows] == [(ago(2), 1), (ago(1), 1), (ago(0), 0)]


# --- helpers ----------------------------------------------------------------------------------------------------------


def test_missed_nights_of_helpers_heal_and_a_broken_helper_is_seen(here: Project) -> None:
    table_of_days(here.database, "events", "id INT NOT NULL", "1", 0, 9)
    here.database.execute("CREATE TABLE per_day (day DATE PRIMARY KEY, n INT NOT NULL); "
                          "CREATE TABLE per_week (day DATE PRIMARY KEY, n INT NOT NULL)")  # fmt: skip
    here.write("05_per_day.sql", "-- Description: Helper\nREPLACE INTO per_day SELECT %(metric_date)s, COUNT(*) "
               "FROM events WHERE day = %(metric_date)s;\n")  # fmt: skip
    here.write("06_per_week.sql", "-- Description: Helper\nREPLACE INTO per_week SELECT %(metric_date)s, SUM(n) FROM "
               "per_day WHERE day > %(metric_date)s - INTERVAL 7 DAY AND day <= %(metric_date)s;\n")  # fmt: skip
    ok(here.run(ago(7), ago(6)))
    probe = here.list("--status", "--max-age", "1")
    assert probe.returncode == 1
    assert "per_day" in probe.stdout
    ok(here.run())
    assert here.database.rows("SELECT COUNT(*), MIN(n), MAX(n) FROM per_day") == [(8, 1, 1)]
    assert here.database.rows("SELECT n FROM per_week WHERE day = UTC_DATE() - INTERVAL 1 DAY") == [(7,)]
    assert here.list("--status", "--max-age", "1").returncode == 0
    here.database.execute("ALTER TABLE per_day CHANGE COLUMN n total INT NOT NULL")
    assert here.run().returncode != 0
    broken = here.list("--status", "--max-age", "1")
    assert broken.returncode == 1
    assert "per_week" in broken.stdout


def test_what_else_reads_a_helper_is_reopened_when_it_is_computed_for_one_metric(here: Project) -> None:
    table_of_days(here.database, "plays", "game INT NOT NULL", "1", 1, 5)
    here.database.execute("CREATE TABLE per_day (day DATE PRIMARY KEY, plays INT NOT NULL)")
    here.write("05_plays_per_day.sql", PER_DAY)
    read = "(SELECT plays FROM per_day WHERE day = %(metric_date)s)"
    here.write("10_a.sql", metric_sql("a", read))
    here.write("20_b.sql", metric_sql("b", read))
    ok(here.run(ago(3), ago(2)))
    here.database.execute("INSERT INTO plays VALUES (UTC_DATE() - INTERVAL 2 DAY, 2)")
    ok(here.run(ago(2), "--metric", "plays_per_day"))
    assert state(here, "a", ago(2)) == state(here, "b", ago(2)) == "reopened"
    ok(here.run(ago(2), "--metric", "a"))
    assert (value(here, "a", ago(2)), value(here, "b", ago(2))) == ({"n": 2}, {"n": 1})
    assert (state(here, "a", ago(2)), state(here, "b", ago(2))) == ("final", "reopened")


def test_what_reads_a_helper_that_matures_is_repaired_once(here: Project) -> None:
    """Each repair ran the helper anew, which reopened the other reader of its date: 31 transactions, every night."""
    here.env |= {"METRICS_LOOKBACK_DAYS": "0"}
    table_of_days(here.database, "plays", "game INT NOT NULL", "1", 0, 9)
    here.database.execute("CREATE TABLE per_day (day DATE PRIMARY KEY, plays INT NOT NULL)")
    here.write("05_plays_per_day.sql", PER_DAY.replace("-- Desc", "-- Final After: 9 days\n-- Desc", 1))
    read = "(SELECT plays FROM per_day WHERE day = %(metric_date)s)"
    here.write("10_a.sql", metric_sql("a", read))
    here.write("20_b.sql", metric_sql("b", read))
    ok(here.run(ago(5), ago(1)))
    here.database.execute(f"DELETE FROM bi_metrics WHERE metrics = 'a' AND metric_date = '{ago(3)}'")
    night = ok(here.run())
    done = [line.split("  ")[0] for line in night.stdout.splitlines() if line[:2] == "20"]
    assert done == [ago(1), ago(0), ago(3), ago(2), ago(1)]  # the later rows of a have looked back, perhaps
    assert state(here, "a", ago(3)) == state(here, "b", ago(3)) == "final"
    assert state(here, "plays_per_day", ago(3)) == "open"


# --- silent nights ----------------------------------------------------------------------------------------------------


def test_a_metric_that_no_file_computes_any_more_is_told_every_night(here: Project) -> None:
    here.write("a.sql", metric_sql("a", "DAY(%(metric_date)s)"))
    file = here.write("b.sql", metric_sql("b", "DAY(%(metric_date)s)"))
    ok(here.run(ago(2), ago(1)))
    file.rename(file.with_suffix(".bak"))
    for _ in range(2):
        assert "b has rows to" in ok(here.run("--quiet")).stderr
    assert here.list("--status", "--max-age", "1").returncode == 1
    file.with_suffix(".bak").rename(file.with_name("_b.sql"))
    assert "b has rows to" not in ok(here.run("--quiet")).stderr
    assert here.list("--status", "--max-age", "1").returncode == 0


def test_a_metric_file_that_becomes_a_helper_is_refused(here: Project) -> None:
    here.database.execute("CREATE TABLE kept (day DATE PRIMARY KEY)")
    select = "SELECT DAY(%(metric_date)s) AS n"
    here.write("b.sql", f"-- Description: b\n{select}\n")
    ok(here.run(ago(1)))
    here.write("b.sql", f"-- Description: b\nREPLACE INTO kept VALUES (%(metric_date)s);\n{select}\n")
    result = here.run()
    assert result.returncode == 2
    assert "metric-became-helper" in result.stderr


# --- late data --------------------------------------------------------------------------------------------------------


def test_late_data_of_the_day_before_yesterday_are_found_by_the_night(here: Project) -> None:
    table_of_days(here.database, "events", "id INT NOT NULL", "1", 0, 9)
    here.write("daily_events.sql", EVENTS)
    ok(here.run(ago(4), ago(1)))
    here.database.execute("INSERT INTO events VALUES (UTC_DATE() - INTERVAL 2 DAY, 2)")
    result = ok(here.run("--quiet"))
    assert f"{ago(2)} daily_events: changed events: 1 -> 2" in result.stdout
    here.database.execute("INSERT INTO events VALUES (UTC_DATE() - INTERVAL 3 DAY, 2)")
    ok(here.run())
    assert value(here, "daily_events", ago(3)) == {"events": 1}  # no rule can see it
    ok(here.run(env={"METRICS_LOOKBACK_DAYS": "2"}))
    assert value(here, "daily_events", ago(3)) == {"events": 2}


# --- what was done by hand --------------------------------------------------------------------------------------------


def test_rows_that_are_deleted_or_inserted_by_hand_are_computed_by_the_night(here: Project) -> None:
    here.write("a.sql", metric_sql("a", "DAY(%(metric_date)s)"))
    ok(here.run(ago(6), ago(1)))
    here.database.execute(f"DELETE FROM bi_metrics WHERE metric_date = '{ago(4)}'")
    here.database.execute(f"DELETE FROM bi_metric_state WHERE metric_date = '{ago(3)}'")
    assert here.list("--status", "--max-age", "1").returncode == 1
    ok(here.run())
    assert [state(here, "a", ago(n)) for n in range(1, 7)] == ["final"] * 6
    assert value(here, "a", ago(4)) is not None


def test_rows_that_a_retention_job_deletes_are_not_missing(here: Project) -> None:
    here.write("a.sql", metric_sql("a", "DAY(%(metric_date)s)"))
    ok(here.run(ago(6), ago(1)))
    here.database.execute(f"DELETE FROM bi_metrics WHERE metric_date < '{ago(3)}'")
    assert here.list("--status", "--max-age", "1").returncode == 0
    ok(here.run())
    assert here.database.rows("SELECT MIN(metric_date) FROM bi_metrics") == [(datetime.fromisoformat(ago(3)).date(),)]
    assert here.database.rows(f"SELECT COUNT(*) FROM bi_metric_state WHERE metric_date < '{ago(3)}'") == [(0,)]


def test_cells_that_are_too_old_to_be_mended_are_named_and_left_alone(here: Project) -> None:
    here.env |= {"METRICS_MEND_DAYS": "5"}
    table_of_days(here.database, "payments", "amount INT NOT NULL", "10", 1, 20)
    here.write("revenue.sql", REVENUE)
    ok(here.run("--initial", ago(20), ago(1)))
    here.database.execute("INSERT INTO payments VALUES (UTC_DATE() - INTERVAL 15 DAY, 5)")
    ok(here.run(ago(15)))
    ok(here.run())
    assert [state(here, "revenue", ago(n)) for n in (14, 6, 5, 1)] == ["reopened", "reopened", "final", "final"]
    assert here.list("--status", "--max-age", "1").returncode == 0
    assert f"python run_metrics.py {ago(14)} {ago(6)}" in here.list("--status").stdout
