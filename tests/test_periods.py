"""Weeks, months and windows through the commands: by nights of a clock that moves, by a range, and at once."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from io import StringIO
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

import pytest

import run_metrics
from config.database import load_settings
from demo import game
from demo.server import Server
from src.db_manager import DatabaseManager
from src.display.status import states
from src.metric_file.parameters import Parameters
from src.server.interruption import Interruption
from src.sql_loader import load_catalog
from src.storage.overview import Overview
from src.storage.store import MetricStore
from tests.conftest import ROOT, Database, Project, connect, metric_sql, new_database
from tests.test_period_patterns import CHANGES, GAME, LAST

DAY = timedelta(days=1)
SHIPPED = [ROOT / "sql" / "35_weekly_active_users.sql", ROOT / "sql" / "65_monthly_revenue.sql"]
PATTERNS = [*sorted((ROOT / "tests" / "periods").glob("*.sql")), *SHIPPED]
EVENTS = "SELECT COUNT(*) AS events FROM events WHERE day BETWEEN %(period_start)s AND %(metric_date)s\n"


@dataclass
class Clock:
    """A project whose commands run at one o'clock in the morning of a date, for the server, too."""

    project: Project
    zone: str = "UTC"
    today: date = date(2026, 3, 1)
    said: str = ""

    def run(self, *words: str) -> int:
        """Run run_metrics.py and return its exit code; `said` is what it printed."""
        at_one = datetime(self.today.year, self.today.month, self.today.day, 1, tzinfo=ZoneInfo(self.zone))

        class Clocked(DatabaseManager):
            def connect(self) -> None:
                super().connect()
                self.execute(f"SET timestamp = {int(at_one.timestamp())}")

        out = StringIO()
        handler = logging.StreamHandler(out)
        logging.getLogger("bi_metrics").addHandler(handler)
        with patch.object(run_metrics, "DatabaseManager", Clocked), redirect_stdout(out), redirect_stderr(out):
            arguments = run_metrics.parse_arguments(list(words))
            run = run_metrics.Run(arguments, self.settings, Interruption(), self.today)
            try:
                code = run.start()
            finally:
                run.database.close()
                logging.getLogger("bi_metrics").removeHandler(handler)
        self.said = out.getvalue()
        return code

    @property
    def settings(self) -> Any:
        return load_settings(self.project.folder, self.project.environment({"METRICS_TIMEZONE": self.zone}))

    def nights(self, last: date) -> None:
        """Let days pass to `last`, with a run of each night."""
        while self.today < last:
            self.today += DAY
            assert self.run() == 0, self.said

    def rows(self, final: bool = True) -> dict[tuple[str, date], Any]:
        """Return the values that are final, or all of them."""
        found = self.project.database.rows(
            "SELECT m.metrics, m.metric_date, m.value_list FROM bi_metrics m JOIN bi_metric_state s ON s.metric = "
            "m.metrics AND s.metric_date = m.metric_date" + " WHERE s.state = 'final'" * final
        )
        return {(name, day): json.loads(text) for name, day, text in found}

    def cell(self, name: str, day: str) -> str:
        """Return the state of a cell; "none" if it has none."""
        rows = self.project.database.rows(
            f"SELECT state FROM bi_metric_state WHERE metric = '{name}' AND metric_date = '{day}'"
        )
        return str(rows[0][0]) if rows else "none"

    def problems(self, max_age: int = 1) -> dict[str, list[str]]:
        """Return what the probe would report, by name."""
        settings = self.settings
        parameters = Parameters(settings.parameters, ZoneInfo(self.zone), self.today)
        catalog = load_catalog(settings.metrics_dir, parameters.fingerprinted())
        with closing(DatabaseManager(settings)) as database:
            database.connect()
            found = states(Overview(database, self.today), catalog, self.today, self.today - 92 * DAY, {})
        problems = {state.name: state.problems(self.today, max_age) for state in found}
        return {name: said for name, said in problems.items() if said}


def write(project: Project, name: str, period: str, sql: str, more: str = "") -> None:
    project.write(f"{name}.sql", f"-- Description: Made for a test\n-- Period: {period}\n{more}{sql}")


@pytest.fixture
def clock(project: Project) -> Clock:
    """Events on each day of 2026, as many as the day of the month, and a clock on Wednesday 4 March."""
    project.database.execute(
        "CREATE TABLE events (day DATE NOT NULL, n INT NOT NULL); INSERT INTO events WITH RECURSIVE d AS "
        "(SELECT DATE('2026-01-01') AS day UNION ALL SELECT day + INTERVAL 1 DAY FROM d WHERE day < '2026-12-31'), "
        "k AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM k WHERE n < 31) SELECT day, n FROM d JOIN k ON n <= DAY(day)"
    )
    return Clock(project, today=date(2026, 3, 4))


# --- the patterns of the docs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(server: Server) -> Iterator[str]:
    """The name of a database with a game of more than a year."""
    moments = [datetime(d.year, d.month, d.day) + n * timedelta(minutes=30) for d in CHANGES for n in range(-300, 348)]
    plays = ", ".join(f"({10_000 + n}, 1, '{moment}', 60)" for n, moment in enumerate(moments))
    with new_database(server, "period_runs") as made:
        game.load(made.connection, LAST, GAME)
        made.execute(f"INSERT INTO game_plays (user_id, game_id, played_at, duration_seconds) VALUES {plays}")
        yield made.name


@pytest.mark.slow
@pytest.mark.parametrize(("start", "end"), [
    (date(2026, 3, 15), date(2026, 4, 8)), (date(2026, 10, 12), date(2026, 11, 4)),
    (date(2026, 12, 18), date(2027, 1, 12)),
])  # fmt: skip
def test_the_patterns_are_the_same_by_nights_by_a_range_and_at_once(
    source: str, project: Project, start: date, end: date
) -> None:
    database = Database(project.database.server, source, connect(project.database.server, source))
    database.execute("DELETE FROM bi_metrics; DELETE FROM bi_metric_state")
    project.database = database
    for file in PATTERNS:
        project.write(file.name, file.read_text())
    clock = Clock(project, "Europe/Berlin", start)
    clock.nights(end)
    by_night = clock.rows()
    assert clock.problems() == {}
    assert len({name for name, _ in by_night}) == len(PATTERNS)
    for words in ([str(start), str(end - DAY)], ["--initial", str(start), str(end - DAY)]):
        database.execute("DELETE FROM bi_metrics; DELETE FROM bi_metric_state")
        assert clock.run(*words) == 0, clock.said
        again = clock.rows()
        assert {cell: again[cell] for cell in by_night if cell[1] >= start} == {
            cell: value for cell, value in by_night.items() if cell[1] >= start
        }  # fmt: skip
    with database.connection.cursor() as cursor:
        cursor.execute("SELECT user_id, happened_at FROM user_activity")
        active = {(at.isocalendar()[:2], user) for user, at in cursor.fetchall()}
        cursor.execute("SELECT user_id, amount, paid_at FROM payments")
        payments = [(user, amount) for user, amount, at in cursor.fetchall() if (at.year, at.month) == (
            (end - DAY).replace(day=1) - DAY).timetuple()[:2]]  # fmt: skip
    for (name, day), value in by_night.items():
        if name == "weekly_active_users":
            assert value == {"active_users": sum(week == day.isocalendar()[:2] for week, _ in active)}
        elif name == "monthly_revenue" and day == (end - DAY).replace(day=1) - DAY:
            expected = {"revenue": float(sum(amount for _, amount in payments)), "payments": len(payments),
                        "paying_users": len({user for user, _ in payments})}  # fmt: skip
            assert value == expected
    database.connection.close()


# --- which dates a period runs on -------------------------------------------------------------------------------------


def test_a_week_runs_on_its_end_and_while_it_runs_after_today(clock: Clock) -> None:
    write(clock.project, "week", "week", EVENTS)
    write(clock.project, "month", "month", EVENTS)
    write(clock.project, "whole", "week", EVENTS, "-- Running: no\n")
    write(clock.project, "seven", "7 days", EVENTS)
    clock.nights(date(2026, 3, 10))  # a Tuesday
    assert [day for name, day in clock.rows(final=False) if name == "week"] == [date(2026, 3, 8), date(2026, 3, 15)]
    assert [day for name, day in clock.rows(final=False) if name == "whole"] == [date(2026, 3, 8)]
    assert clock.rows()["week", date(2026, 3, 8)] == {"events": sum(range(2, 9))}
    assert clock.rows(final=False)["month", date(2026, 3, 31)] == {"events": sum(range(1, 32))}
    assert clock.cell("month", "2026-03-31") == clock.cell("week", "2026-03-15") == "open"
    assert clock.rows()["seven", date(2026, 3, 9)] == {"events": sum(range(3, 10))}
    assert clock.problems() == {}
    clock.nights(date(2026, 3, 16))
    assert clock.cell("week", "2026-03-15") == "final"
    assert clock.problems() == {}


def test_a_range_runs_the_periods_that_end_in_it_and_an_initial_load_to_today_the_running_one(clock: Clock) -> None:
    write(clock.project, "week", "week", EVENTS)
    assert clock.run("2026-02-16", "2026-03-03") == 0
    assert [str(day) for _, day in clock.rows(final=False)] == ["2026-02-22", "2026-03-01"]
    assert clock.run("--initial", "2026-02-16", "2026-03-03") == 0
    assert [str(day) for _, day in clock.rows(final=False)] == ["2026-02-22", "2026-03-01"]
    assert clock.run("--initial", "2026-02-16", "today", "--chunk", "month") == 0
    assert [str(day) for _, day in clock.rows(final=False)] == ["2026-02-22", "2026-03-01", "2026-03-08"]
    assert clock.run("2026-02-17", "2026-02-18", "--dry-run") == 0
    assert "0 new, 0 changed" in clock.said


def test_dates_on_which_no_period_ends_are_no_lines_of_a_range(clock: Clock) -> None:
    write(clock.project, "w", "week", EVENTS)
    clock.today = date(2026, 3, 3)
    assert clock.run("2026-02-10", "2026-02-23") == 0
    assert re.findall(r"^(\S+)  ", clock.said, re.MULTILINE) == ["2026-02-15", "2026-02-22"]
    assert clock.run("2026-02-24") == 0
    assert "2026-02-24  nothing to compute: no period of w ends there" in clock.said


def test_a_missing_week_is_due_and_its_command_names_its_end(clock: Clock) -> None:
    write(clock.project, "week", "week", EVENTS)
    assert clock.run("2026-02-02", "2026-03-03") == 0
    clock.project.database.execute("DELETE FROM bi_metrics WHERE metric_date IN ('2026-02-15', '2026-02-22')")
    found = clock.problems(9)
    assert found == {"week": ["missing: week to Sun 15 Feb 2026 to week to Sun 22 Feb 2026"]}
    assert clock.run("2026-03-03") == 0
    assert "missing: week to Sun 15 Feb 2026 to week to Sun 22 Feb 2026 of week. Run: " in clock.said
    words = clock.said.split("run_metrics.py ")[1].split("\n")[0].split()
    assert words == ["2026-02-15", "2026-02-22"]
    assert clock.run(*words) == 0
    assert clock.problems(9) == {"week": ["to be computed again: week to Sun 01 Mar 2026"]}
    clock.project.database.execute("DELETE FROM bi_metrics WHERE metric_date = '2026-02-15'")
    assert clock.run() == 0
    assert clock.cell("week", "2026-02-15") == "final"
    assert clock.problems(9) == {}


def test_a_row_where_no_period_ends_any_more_is_no_problem_and_not_due(clock: Clock) -> None:
    clock.project.write("m.sql", "-- Description: x\n" + EVENTS)
    clock.nights(date(2026, 3, 6))
    write(clock.project, "m", "week", EVENTS)
    clock.nights(date(2026, 3, 10))
    assert clock.cell("m", "2026-03-06") == "open"
    assert "2026-03-06" not in clock.said
    assert clock.problems() == {}
    with closing(DatabaseManager(clock.settings)) as database:
        database.connect()
        store = MetricStore(database, ZoneInfo(clock.zone), mend_days=1)
        assert store.too_old(load_catalog(clock.settings.metrics_dir).nightly, clock.today) == []


# --- what reopens a period --------------------------------------------------------------------------------------------


def test_a_date_by_hand_reopens_the_periods_that_hold_it_and_end_later(clock: Clock) -> None:
    write(clock.project, "week", "week", EVENTS)
    write(clock.project, "seven", "7 days", EVENTS)
    clock.project.write("daily.sql", "-- Description: x\n" + EVENTS)
    assert clock.run("2026-02-16", "2026-03-03") == 0
    clock.project.database.execute("INSERT INTO events VALUES ('2026-02-18', 99)")
    assert clock.run("2026-02-18") == 0
    assert clock.cell("week", "2026-02-22") == "reopened"
    assert [clock.cell("seven", f"2026-02-{n}") for n in (17, 18, 19, 24, 25)] == [
        "final", "final", "reopened", "reopened", "reopened"
    ]  # fmt: skip
    clock.nights(date(2026, 3, 5))
    assert clock.rows()["week", date(2026, 2, 22)] == {"events": sum(range(16, 23)) + 1}
    assert clock.rows()["seven", date(2026, 2, 24)] == {"events": sum(range(18, 25)) + 1}
    assert clock.problems() == {}


def test_a_date_looked_back_at_reopens_its_week_only_if_a_value_changed(clock: Clock) -> None:
    write(clock.project, "week", "week", EVENTS)
    clock.project.write("daily.sql", "-- Description: x\n" + EVENTS)
    clock.nights(date(2026, 3, 10))  # the lookback is at Sunday the 8th
    computed = "SELECT computed_at FROM bi_metric_state WHERE metric = 'week' AND metric_date = '2026-03-08'"
    assert clock.cell("week", "2026-03-08") == "final"
    before = clock.project.database.rows(computed)
    clock.nights(date(2026, 3, 11))
    assert clock.project.database.rows(computed) == before
    write(clock.project, "week", "week from wednesday", EVENTS)  # to Tuesday the 10th
    clock.project.database.execute(
        "DELETE FROM bi_metrics WHERE metrics = 'week'; DELETE FROM bi_metric_state WHERE metric = 'week'; "
        "INSERT INTO events VALUES ('2026-03-10', 99), ('2026-03-09', 99)"
    )
    assert clock.run("2026-03-10", "--metric", "week") == 0
    clock.project.database.execute("INSERT INTO events VALUES ('2026-03-09', 98)")
    assert clock.run() == 0  # looks back at the 9th, finds another value, and computes the week that holds it again
    assert clock.rows()["week", date(2026, 3, 10)] == {"events": sum(range(4, 11)) + 3}


def test_a_week_follows_the_daily_rows_that_it_reads(clock: Clock) -> None:
    clock.project.write("10_daily.sql", "-- Description: x\n" + EVENTS)
    write(
        clock.project, "20_week", "week",
        "SELECT SUM(CAST(JSON_EXTRACT(value_list, '$.events') AS SIGNED)) AS events FROM bi_metrics "
        "WHERE metrics = 'daily' AND metric_date BETWEEN %(period_start)s AND %(metric_date)s\n",
    )  # fmt: skip
    clock.nights(date(2026, 3, 16))
    assert clock.rows()["week", date(2026, 3, 15)] == {"events": sum(range(9, 16))}
    clock.project.database.execute("INSERT INTO events VALUES ('2026-03-11', 99)")
    assert clock.run("2026-03-11", "--metric", "daily") == 0
    assert clock.cell("week", "2026-03-15") == "reopened"
    clock.nights(date(2026, 3, 17))
    assert clock.rows()["week", date(2026, 3, 15)] == {"events": sum(range(9, 16)) + 1}
    assert clock.problems() == {}


# --- numbers that mature, and that build on the period before ---------------------------------------------------------


def test_a_number_that_matures_stays_open_and_is_computed_once_more_after(clock: Clock) -> None:
    clock.project.write("ripe.sql", "-- Description: x\n-- Final After: 3 days\n" + EVENTS)
    clock.nights(date(2026, 3, 8))
    assert [clock.cell("ripe", f"2026-03-0{n}") for n in (4, 5, 6, 7)] == ["final", "open", "open", "open"]
    assert clock.problems() == {}
    clock.project.database.execute("INSERT INTO events VALUES ('2026-03-05', 99)")
    clock.nights(date(2026, 3, 9))
    assert clock.rows()["ripe", date(2026, 3, 5)] == {"events": 6}
    assert clock.cell("ripe", "2026-03-05") == "final"


def test_a_cumulative_month_builds_on_the_month_before(clock: Clock) -> None:
    month = "SELECT COUNT(*) FROM events WHERE day BETWEEN %(period_start)s AND %(metric_date)s"
    write(
        clock.project, "incremental/total", "month",
        f"SELECT CAST(JSON_EXTRACT(value_list, '$.events') AS SIGNED) + ({month}) AS events FROM bi_metrics "
        "WHERE metrics = 'total' AND metric_date = %(period_start)s - INTERVAL 1 DAY\n",
    )  # fmt: skip
    write(clock.project, "initial/total", "month", "SELECT COUNT(*) AS events FROM events WHERE day <= %(metric_date)s")
    clock.today = date(2026, 6, 2)
    assert clock.run("2026-02-01", "2026-06-01") == 0
    files = clock.project.database.rows("SELECT file FROM bi_metric_state WHERE file IS NOT NULL ORDER BY metric_date")
    assert files == [("sql/initial/total.sql",), *[("sql/incremental/total.sql",)] * 3]
    assert clock.run("--verify", "2026-02-01", "2026-06-01") == 0, clock.said
    assert "4 equal, 0 different" in clock.said


def test_a_window_builds_on_the_row_of_the_day_before(clock: Clock) -> None:
    comes, goes = (f"(SELECT COUNT(*) FROM events WHERE day = {day})"
                   for day in ("%(metric_date)s", "%(period_start)s - INTERVAL 1 DAY"))  # fmt: skip
    write(
        clock.project, "incremental/seven", "7 days",
        f"SELECT CAST(JSON_EXTRACT(value_list, '$.events') AS SIGNED) + {comes} - {goes} AS events FROM bi_metrics "
        "WHERE metrics = 'seven' AND metric_date = %(metric_date)s - INTERVAL 1 DAY\n",
    )  # fmt: skip
    write(clock.project, "initial/seven", "7 days", EVENTS)
    assert clock.run("2026-02-26", "2026-03-03") == 0
    files = clock.project.database.rows("SELECT file FROM bi_metric_state WHERE file IS NOT NULL ORDER BY metric_date")
    assert files == [("sql/initial/seven.sql",), *[("sql/incremental/seven.sql",)] * 5]
    assert clock.rows()["seven", date(2026, 3, 3)] == {"events": 25 + 26 + 27 + 28 + 1 + 2 + 3}


# --- files ------------------------------------------------------------------------------------------------------------


def test_an_insert_writes_the_end_of_its_period(clock: Clock) -> None:
    count = "(SELECT COUNT(*) FROM events WHERE day BETWEEN %(period_start)s AND %(metric_date)s)"
    clock.project.write("week.sql", metric_sql("week", count, "-- Period: week"))
    clock.nights(date(2026, 3, 9))
    assert clock.rows()["week", date(2026, 3, 8)] == {"n": sum(range(2, 9))}


def test_a_row_of_no_period_s_end_names_the_end_of_its_own(clock: Clock) -> None:
    write(clock.project, "week", "week", "SELECT day AS metric_date, COUNT(*) AS n FROM events WHERE day BETWEEN "
          "%(start_date)s AND %(metric_date)s GROUP BY day\n")  # fmt: skip
    assert clock.run("--initial", "2026-02-16", "2026-03-03") == 1
    said = r"a row is of 2026-0\d-\d\d, not the last day of a week; its period ends on 2026-0\d-\d\d\."
    assert re.search(said, clock.said)


@pytest.mark.parametrize("text", ["fortnight", "week from", "month from 29", "0 days", "weekly"])
def test_another_period_is_an_error_that_lists_them(project: Project, text: str) -> None:
    write(project, "week", text, EVENTS)
    result = project.list("--check", "--offline")
    assert result.returncode == 1
    assert f"error: header: '{text}' is none of day, week, week from sunday, month, month from 26" in result.stdout


def test_both_files_of_a_metric_have_the_same_period_and_utc_windows_are_warned_of(project: Project) -> None:
    write(project, "initial/m", "week", EVENTS)
    write(project, "incremental/m", "month", EVENTS)
    project.write("seven.sql", "-- Description: x\nSELECT COUNT(*) AS n FROM events WHERE at >= %(day_start_utc)s - "
                  "INTERVAL 6 DAY AND at < %(day_end_utc)s\n")  # fmt: skip
    result = project.list("--check", "--offline")
    assert "sql/initial/m.sql:1:1: error: period: sql/initial/m.sql has the period week and " in result.stdout
    assert "sql/seven.sql:2:46: warning: utc-window: %(day_start_utc)s with an INTERVAL is an hour off" in result.stdout


@pytest.mark.parametrize("window", [
    "DATE_SUB(%(day_start_utc)s, INTERVAL 6 DAY)", "adddate (%(day_end_utc)s, -7)",
    "%(day_start_utc)s - INTERVAL 24 HOUR", "%(day_start_utc)s - INTERVAL '168' HOUR",
    "%(day_end_utc)s - INTERVAL 10080 MINUTE", "DATE_SUB(%(day_start_utc)s, INTERVAL 86400 SECOND)",
])  # fmt: skip
def test_a_window_in_utc_that_a_function_makes_is_warned_of(project: Project, window: str) -> None:
    project.write("seven.sql", f"-- Description: x\nSELECT COUNT(*) AS n FROM events WHERE at >= {window}\n")
    assert "warning: utc-window: " in project.list("--check", "--offline").stdout


@pytest.mark.parametrize("bound", [
    "%(day_end_utc)s - INTERVAL 1 SECOND", "DATE_SUB(%(day_end_utc)s, INTERVAL 1 MICROSECOND)",
    "%(day_end_utc)s + INTERVAL 23 HOUR", "%(day_end_utc)s + INTERVAL 90 MINUTE",
])  # fmt: skip
def test_a_bound_in_utc_moved_by_less_than_a_day_is_right_whatever_the_clocks_do(project: Project, bound: str) -> None:
    window = f"at BETWEEN %(day_start_utc)s AND {bound}"
    project.write("a.sql", f"-- Description: x\nSELECT COUNT(*) AS n FROM events WHERE {window}\n")
    assert "utc-window" not in project.list("--check", "--offline").stdout


# --- rows of another period -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--initial"], ["--initial", "--chunk", "month"]])
@pytest.mark.parametrize("form", ["INSERT", "INSERT with -- Empty", "SELECT"])
def test_rows_that_a_metric_had_by_day_stay_as_they_are_when_its_period_becomes_a_week(
    clock: Clock, words: list[str], form: str
) -> None:
    clock.project.write("m.sql", metric_sql("m"))
    assert clock.run("2026-02-01", "2026-02-15") == 0
    by_day = clock.project.database.metrics()
    if form == "SELECT":  # a float is read back, and its data type is another one
        write(clock.project, "m", "week", "SELECT 2e0 AS n WHERE %(metric_date)s > ''", "-- Data Type: timeseries\n")
    else:
        header = "-- Period: week" + "\n-- Empty: {}" * ("Empty" in form)
        clock.project.write("m.sql", metric_sql("m", "2", header))
    assert clock.run(*words, "2026-02-01", "2026-02-15") == 0, clock.said
    same = {row for row in by_day if row in clock.project.database.metrics()}
    assert [day for _, day, _ in by_day if day not in {day for _, day, _ in same}] == [
        "2026-02-01", "2026-02-08", "2026-02-15"]  # fmt: skip


@pytest.mark.parametrize("running", ["", "-- Running: no\n"])
def test_a_night_on_which_no_period_ends_has_nothing_to_resume(clock: Clock, running: str) -> None:
    write(clock.project, "w", "week", EVENTS, running)
    clock.nights(date(2026, 3, 5))
    assert "Resume with" not in clock.said
