"""Metric dates: what a person may type, what a range holds, when a date ends."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from src.dates import (
    business_zone,
    date_range,
    day_at,
    day_end,
    day_start,
    parse_date,
    ranges,
    span,
    spans,
    today_in,
    utc_text,
)
from src.errors import SettingsError, UsageError

TODAY = date(2025, 3, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-01-15", date(2025, 1, 15)),
        ("2024-02-29", date(2024, 2, 29)),
        ("today", TODAY),
        ("yesterday", date(2025, 2, 28)),
        ("2025-03-01", TODAY),
    ],
)
def test_a_date_is_an_iso_date_or_one_of_two_words(text: str, expected: date) -> None:
    assert parse_date(text, TODAY) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2025-02-30", "2025-02-30 is not a date: day"),
        ("2025-13-01", "2025-13-01 is not a date: month"),
        ("0000-01-01", "0000-01-01 is not a date: year"),
        ("20250115", "'20250115' is not a date; write YYYY-MM-DD"),
        ("2025-1-5", "'2025-1-5' is not a date; write"),
        ("2025-W03-1", "'2025-W03-1' is not a date; write"),
        ("2025-01-15T00", "is not a date; write"),
        ("\u0662\u0660\u0662\u0665-\u0660\u0661-\u0661\u0665", "is not a date; write"),
        ("2025-01-15\n", r"'2025-01-15\\n' is not a date; write"),
        ("tomorrow", "'tomorrow' is not a date; write"),
        ("", "'' is not a date; write"),
        ("0999-12-31", "0999-12-31 is before 1000-01-01, the first date"),
        ("0001-01-01", "0001-01-01 is before 1000-01-01"),
        ("2025-03-02", "2025-03-02 is in the future; today is 2025-03-01"),
    ],
)
def test_anything_else_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_date(text, TODAY)


def test_a_range_holds_both_ends_and_must_not_end_before_it_starts() -> None:
    assert date_range(date(2024, 2, 28), date(2024, 3, 1)) == [date(2024, 2, 28), date(2024, 2, 29), date(2024, 3, 1)]
    assert date_range(TODAY, TODAY) == [TODAY]
    with pytest.raises(UsageError, match="the range starts on 2025-03-01, after its end 2025-02-28; write the earlier"):
        date_range(TODAY, TODAY - timedelta(days=1))


@pytest.mark.parametrize(
    ("day", "zone", "expected"),
    [
        (date(2025, 1, 15), "Asia/Taipei", datetime(2025, 1, 15, 16, tzinfo=timezone.utc)),
        (date(2025, 1, 15), "America/New_York", datetime(2025, 1, 16, 5, tzinfo=timezone.utc)),
        (date(2025, 3, 29), "Europe/Berlin", datetime(2025, 3, 29, 23, tzinfo=timezone.utc)),
        (date(2025, 3, 30), "Europe/Berlin", datetime(2025, 3, 30, 22, tzinfo=timezone.utc)),  # a day of 23 hours
    ],
)
def test_a_day_ends_at_midnight_of_its_zone_and_the_next_one_starts_there(
    day: date, zone: str, expected: datetime
) -> None:
    end = day_end(day, ZoneInfo(zone))
    assert (end, day_start(day + timedelta(days=1), ZoneInfo(zone))) == (expected.timestamp(), expected.timestamp())
    assert [day_at(end + n, ZoneInfo(zone)) for n in (-1, 0)] == [day, day + timedelta(days=1)]
    assert utc_text(end) == f"{expected:%Y-%m-%d %H:%M:%S}"


@pytest.mark.parametrize("zone", ["America/New_York", "America/Havana", "Asia/Taipei", "Pacific/Apia"])
def test_the_days_of_years_join_without_gap_or_overlap(zone: str) -> None:
    days = date_range(date(2010, 12, 30), date(2026, 1, 1))
    starts = [day_start(day, ZoneInfo(zone)) for day in days]
    assert [day_end(day, ZoneInfo(zone)) for day in days[:-1]] == starts[1:]
    lengths = {(after - before) // 3600 for before, after in pairwise(starts)}
    assert lengths <= {0, 23, 24, 25}, "Samoa left out a day in 2011; else only the clocks change"


@pytest.mark.parametrize(
    ("day", "zone", "expected"),
    [
        (date(999, 1, 1), "UTC", "0999-01-01 00:00:00"),
        (date(1, 1, 1), "Asia/Taipei", "0001-01-01 00:00:00"),  # in Taipei it starts in the year 0
        (date(9999, 12, 31), "America/New_York", "9999-12-31 05:00:00"),
    ],
)
def test_days_of_any_year_have_a_start_in_utc(day: date, zone: str, expected: str) -> None:
    assert utc_text(day_start(day, ZoneInfo(zone))) == expected
    assert day_start(date.min, None) <= day_start(day, None)


def test_dates_are_said_as_ranges() -> None:
    days = [date(2025, 1, n) for n in (1, 2, 3, 5, 31)] + [date(2025, 2, 1)]
    assert [len(run) for run in ranges(days)] == [3, 1, 2]
    assert spans(days) == "2025-01-01 to 2025-01-03, 2025-01-05, 2025-01-31 to 2025-02-01"
    assert (spans([]), spans(days[:1]), span(days)) == ("", "2025-01-01", "2025-01-01 to 2025-02-01")


def test_today_is_the_zones_own_day() -> None:
    days = {today_in(ZoneInfo("Etc/GMT+12")), today_in(ZoneInfo("Etc/GMT-14"))}  # 26 hours apart: never the same
    assert len(days) == 2
    assert business_zone("") is None


@pytest.mark.parametrize("name", ["Asia/Taipeh", "../../etc/passwd", "/etc/localtime", "Europe"])
def test_an_unknown_time_zone_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=f"METRICS_TIMEZONE={name}: no such time zone"):
        business_zone(name)
