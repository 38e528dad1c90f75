"""The metric files of tests/periods, bound by hand: the same as plain Python, on every period of a year and more.

The year holds both changes of the clocks, ISO week 53 and the turn of the year.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from demo import game
from demo.server import Server
from src.dates import day_end, day_start, utc_text
from src.metric_file.file import parse
from src.metric_file.period import parse_period
from src.metric_file.text import bind, literal
from tests.conftest import ROOT, connect, run_script

FOLDER = ROOT / "tests" / "periods"
DAY = timedelta(days=1)
FIRST, LAST = date(2026, 1, 1), date(2027, 2, 10)  # 2026 has 53 ISO weeks
GAME = game.Size(users=3_000, games=10, days=430, plays=8_000)
CHANGES = [date(2026, 3, 8), date(2026, 3, 29), date(2026, 10, 25), date(2026, 11, 1), date(2026, 12, 31)]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def source(server: Server) -> Iterator[Any]:
    """A connection to a game; around each change of the clocks a player of his own starts one every half hour."""
    connection = connect(server)
    run_script(connection, "CREATE DATABASE period_patterns CHARACTER SET utf8mb4; USE period_patterns;")
    run_script(connection, "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES,ONLY_FULL_GROUP_BY')")
    game.load(connection, LAST, GAME)
    moments = [datetime(d.year, d.month, d.day) + n * timedelta(minutes=30) for d in CHANGES for n in range(-300, 348)]
    plays = ", ".join(f"({10_000 + n}, 1, '{moment}', 60)" for n, moment in enumerate(moments))
    run_script(connection, f"INSERT INTO game_plays (user_id, game_id, played_at, duration_seconds) VALUES {plays}")
    yield connection
    run_script(connection, "DROP DATABASE period_patterns")
    connection.close()


def rows(connection: Any, sql: str) -> Rows:
    """Return the rows of a query by column; a warning fails."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        names = [column[0] for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        cursor.execute("SHOW WARNINGS")
        assert cursor.fetchall() == ()
    return found


def ends(name: str, first: date = FIRST, last: date = LAST) -> list[date]:
    header = (FOLDER / f"{name}.sql").read_text().split("-- Period: ")[1].splitlines()[0]
    return parse_period(header).ends(first, last)


def compute(connection: Any, name: str, dates: Sequence[date], as_of: date = LAST, zone: str = "UTC") -> Rows:
    """Return the rows of a metric file for some periods, as a run binds them on the day `as_of`."""
    script, where = parse((FOLDER / f"{name}.sql").read_text()), ZoneInfo(zone)
    period = parse_period(script.text.split("-- Period: ")[1].splitlines()[0])
    values = {
        "metric_date": str(dates[-1]),
        "as_of": str(min(dates[-1], as_of)),
        "dates": json.dumps([str(day) for day in dates]),
        "day_start_utc": utc_text(day_start(dates[0], where)),
        "day_end_utc": utc_text(day_end(dates[-1], where)),
        **period.parameters(dates, where),
    }
    [statement] = script.statements
    return rows(connection, bind(statement, {name: literal(value) for name, value in values.items()}))


def money(values: Any) -> Decimal:
    return sum(values, Decimal("0.00"))


def rounded(value: Decimal, digits: str) -> Decimal:
    return value.quantize(Decimal(digits), ROUND_HALF_UP)


def test_weekly_active_users_are_those_of_the_iso_week(source: Any) -> None:
    activities = [(at.isocalendar()[:2], each) for each, at in read(source, "user_id, happened_at", "user_activity")]
    weeks = ends("active_users_by_week")
    assert len(weeks) == 58
    for end in weeks:
        year, week = end.isocalendar()[:2]
        users = {user for key, user in activities if key == (year, week)}
        expected = {"active_users": len(users), "iso_week": f"{year}-W{week:02}"}
        assert compute(source, "active_users_by_week", [end]) == [expected]
    assert date(2027, 1, 3) in weeks, "the week that lies in both years"


def test_monthly_revenue_runs_to_date(source: Any) -> None:
    payments = read(source, "amount, paid_at", "payments")
    for today in day_by_day():
        end = parse_period("month").end_of(today)
        revenue = money(
            amount for amount, at in payments if at.date().replace(day=1) == end.replace(day=1) and at.date() <= today
        )
        expected = {"revenue": revenue, "revenue_per_day": rounded(revenue / today.day, "0.01")}
        assert compute(source, "revenue_by_month", [end], as_of=today) == [expected]


def test_a_running_month_is_compared_with_the_same_days_of_the_month_before(source: Any) -> None:
    payments = read(source, "amount, paid_at", "payments")

    def until(year: int, month: int, day: int) -> Decimal:
        return money(amount for amount, at in payments if (at.year, at.month) == (year, month) and at.day <= day)

    for today in day_by_day():
        end = parse_period("month").end_of(today)
        year, month = (today.year, today.month - 1) if today.month > 1 else (today.year - 1, 12)
        revenue, before = (
            until(today.year, today.month, today.day),
            until(year, month, 31 if today == end else today.day),
        )
        change = rounded(100 * (revenue - before) / before, "0.1") if before else None
        expected = {"revenue": revenue, "month_before": before, "change_percent": change}
        assert compute(source, "revenue_month_over_month", [end], as_of=today) == [expected]


def test_cohorts_are_the_users_who_signed_up_in_each_of_nine_weeks(source: Any) -> None:
    users = read(source, "id, created_at", "users")
    activities = read(source, "user_id, happened_at", "user_activity")
    some_active = 0
    for end in ends("weekly_retention"):
        active = {user for user, at in activities if at.isocalendar()[:2] == end.isocalendar()[:2]}
        expected = []
        for weeks in range(9):
            monday = end - timedelta(days=6 + 7 * weeks)
            cohort = {user for user, at in users if at.isocalendar()[:2] == monday.isocalendar()[:2]}
            if cohort:
                share = rounded(Decimal(100 * len(cohort & active)) / len(cohort), "0.1")
                counts = {"users": len(cohort), "active_users": len(cohort & active), "active_percent": share}
                expected.append({"signed_up_from": monday, "weeks": weeks, **counts})
            some_active += bool(cohort & active)
        assert compute(source, "weekly_retention", [end]) == expected
    assert some_active > 150


def test_a_fiscal_month_starts_on_the_26th_for_all_months_at_once_and_one_by_one(source: Any) -> None:
    payments = read(source, "amount, paid_at", "payments")
    months = ends("revenue_by_fiscal_month")
    assert [str(end) for end in months[:3]] == ["2026-01-25", "2026-02-25", "2026-03-25"]
    expected = []
    for end in months:
        start = (end.replace(day=1) - DAY).replace(day=26)
        amounts = [amount for amount, at in payments if start <= at.date() <= end]
        expected.append({"metric_date": end, "payments": len(amounts), "revenue": money(amounts)})
    by_date = {row["metric_date"]: row for row in compute(source, "revenue_by_fiscal_month", months)}
    assert [by_date[end] for end in months] == expected
    assert [compute(source, "revenue_by_fiscal_month", [end])[0] for end in months] == expected
    nothing = {"metric_date": date(2019, 1, 25), "payments": 0, "revenue": Decimal("0.00")}
    assert compute(source, "revenue_by_fiscal_month", [date(2019, 1, 25)]) == [nothing]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Taipei", "UTC"])
def test_seven_rolling_days_of_a_utc_column_start_and_end_at_midnight_of_the_zone(source: Any, zone: str) -> None:
    plays = read(source, "user_id, played_at", "game_plays")
    local = [(user, at.replace(tzinfo=timezone.utc).astimezone(ZoneInfo(zone)).date()) for user, at in plays]
    for change in CHANGES:
        for end in ends("players_7d", change - DAY, change + timedelta(days=8)):
            players = {user for user, day in local if end - timedelta(days=6) <= day <= end}
            assert compute(source, "players_7d", [end], zone=zone) == [{"players": len(players)}]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_the_json_array_of_periods_holds_their_bounds_in_utc(source: Any, zone: str) -> None:
    weeks = parse_period("week").ends(FIRST, LAST)
    values = parse_period("week").parameters(weeks, ZoneInfo(zone))
    sql = f"""
        SELECT asked.metric_date, asked.period_start, COUNT(DISTINCT user_id) AS players
        FROM JSON_TABLE({literal(values["periods"])}, '$[*]' COLUMNS (
            metric_date DATE PATH '$.metric_date', period_start DATE PATH '$.period_start',
            starts DATETIME PATH '$.period_start_utc', ends DATETIME PATH '$.day_end_utc')) AS asked
        LEFT JOIN game_plays ON played_at >= asked.starts AND played_at < asked.ends
        GROUP BY asked.metric_date, asked.period_start ORDER BY asked.metric_date"""
    plays = read(source, "user_id, played_at", "game_plays")
    local = [(user, at.replace(tzinfo=timezone.utc).astimezone(ZoneInfo(zone)).isocalendar()[:2]) for user, at in plays]
    expected = [
        {"metric_date": end, "period_start": end - 6 * DAY,
         "players": len({user for user, week in local if week == end.isocalendar()[:2]})}
        for end in weeks
    ]  # fmt: skip
    assert rows(source, sql) == expected


def day_by_day() -> list[date]:
    return [FIRST + n * DAY for n in range((LAST - FIRST).days + 1)]


def read(connection: Any, columns: str, table: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM {table}")
        return cursor.fetchall()
