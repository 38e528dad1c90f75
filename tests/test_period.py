"""Periods: what the header may say, which days a row covers, how it is called, and what its SQL is given."""

from __future__ import annotations

import json
from calendar import monthrange
from collections import Counter
from datetime import date, datetime, timedelta, timezone
from itertools import groupby, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import MetricFileError
from src.metric_file.period import (
    DAY,
    MOST_DAYS,
    WEEKDAYS,
    Period,
    parse_final_after,
    parse_period,
    parse_running,
)

pytestmark = pytest.mark.usefixtures("once")

CALENDAR = [
    "week", *(f"week from {name}" for name in WEEKDAYS), "month", *(f"month from {n}" for n in range(1, 29)),
    "quarter", "year",
]  # fmt: skip
calendar_periods = st.sampled_from(CALENDAR).map(parse_period)
windows = st.one_of(st.integers(1, 400), st.integers(1, MOST_DAYS)).map(lambda n: parse_period(f"{n} days"))
periods = st.one_of(calendar_periods, windows)
# The ends of the calendar come up as often as what lies between.
dates = st.one_of(st.dates(), st.dates(max_value=date(2, 3, 1)), st.dates(min_value=date(9998, 11, 1)))


def days(first: str, last: str) -> list[date]:
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    return [start + timedelta(days=n) for n in range((end - start).days + 1)]


# --- the header -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("day", Period("day", 1)),
        ("1 day", DAY),
        ("1 days", DAY),
        ("week", Period("week", 1)),
        ("week from monday", Period("week", 1)),
        ("  Week\tFROM   Sunday ", Period("week", 7)),
        ("month", Period("month", 1)),
        ("month from 1", Period("month", 1)),
        ("MONTH from 26", Period("month", 26)),
        ("month from 28", Period("month", 28)),
        ("quarter", Period("quarter", 1)),
        ("Year", Period("year", 1)),
        ("7 days", Period("day", 7)),
        ("99999 days", Period("day", MOST_DAYS)),
    ],
)
def test_a_period_is_read_from_the_header(text: str, expected: Period) -> None:
    assert parse_period(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "weekly", "weeks", "7", "0 days", "-7 days", "07.5 days", "7days", "seven days", "100000 days",
        "9" * 5000 + " days", "\u0667 days", "\u00b2 days", "2 weeks", "month from 0", "month from 29", "month from",
        "month from 026", "month from sunday", "week from 1", "week from sun", "quarter from 2", "year from april",
        "day from monday", "1 day 2", "hour",
    ],
)  # fmt: skip
def test_anything_else_is_an_error_that_lists_what_a_period_may_be(text: str) -> None:
    with pytest.raises(MetricFileError) as raised:
        parse_period(text)
    assert str(raised.value) == (
        f"{text[:60]!r} is none of day, week, week from sunday, month, month from 26 (1 to 28), quarter, year, "
        "7 days (1 to 99999)"
    )


@given(periods)
def test_the_text_of_a_period_reads_back(period: Period) -> None:
    assert parse_period(str(period)) == period


def test_the_text_of_a_period_is_its_shortest_form() -> None:
    written = ["week from monday", "month from 1", "1 days", "7 day", "WEEK from Sunday", "month from 26", "quarter"]
    shortest = ["week", "month", "day", "7 days", "week from sunday", "month from 26", "quarter"]
    assert [str(parse_period(text)) for text in written] == shortest


def test_final_after_is_a_number_of_days() -> None:
    assert [parse_final_after(text) for text in ("1 day", "2 days", " 10  DAYS ")] == [1, 2, 10]
    for text in ("", "2", "0 days", "-1 days", "two days", "2 weeks", "2.5 days", "9" * 5000 + " days"):
        with pytest.raises(MetricFileError, match=r" is not a number of days; write for example 2 days \(1 to 99999\)"):
            parse_final_after(text)


def test_running_is_yes_or_no() -> None:
    assert [parse_running(text) for text in ("yes", "no", " NO ")] == [True, False, False]
    for text in ("", "never", "0", "no, never"):
        with pytest.raises(MetricFileError, match="is neither yes nor no; write no if the number needs the whole per"):
            parse_running(text)


# --- which days a row covers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "day", "start", "end"),
    [
        ("day", "2026-11-22", "2026-11-22", "2026-11-22"),
        ("week", "2026-11-22", "2026-11-16", "2026-11-22"),
        ("week", "2026-11-16", "2026-11-16", "2026-11-22"),
        ("week", "2027-01-01", "2026-12-28", "2027-01-03"),  # ISO week 53 of 2026
        ("week", "2024-12-30", "2024-12-30", "2025-01-05"),  # ISO week 1 of 2025
        ("week from sunday", "2026-11-22", "2026-11-22", "2026-11-28"),
        ("week from sunday", "2026-11-21", "2026-11-15", "2026-11-21"),
        ("week from saturday", "2027-01-01", "2026-12-26", "2027-01-01"),
        ("month", "2024-02-01", "2024-02-01", "2024-02-29"),
        ("month", "2100-02-28", "2100-02-01", "2100-02-28"),  # no leap year
        ("month from 26", "2026-03-25", "2026-02-26", "2026-03-25"),
        ("month from 26", "2026-02-26", "2026-02-26", "2026-03-25"),
        ("month from 26", "2024-02-29", "2024-02-26", "2024-03-25"),
        ("month from 26", "2026-12-31", "2026-12-26", "2027-01-25"),
        ("month from 28", "2025-02-27", "2025-01-28", "2025-02-27"),
        ("quarter", "2026-11-22", "2026-10-01", "2026-12-31"),
        ("quarter", "2024-02-29", "2024-01-01", "2024-03-31"),
        ("year", "2026-11-22", "2026-01-01", "2026-12-31"),
        ("7 days", "2026-01-03", "2025-12-28", "2026-01-03"),
        ("30 days", "2024-03-01", "2024-02-01", "2024-03-01"),
    ],
)
def test_the_first_and_the_last_day_of_a_period(text: str, day: str, start: str, end: str) -> None:
    period, inside = parse_period(text), date.fromisoformat(day)
    assert (str(period.start_of(inside)), str(period.end_of(inside))) == (start, end)


def one_by_one(text: str, first: date, last: date) -> list[list[date]]:
    """Return the whole periods from first to last, made day by day with the standard library's own calendar."""
    kind, _, start = text.partition(" from ")

    def key(day: date) -> Any:
        if kind == "week":
            iso_week = day.isocalendar()[:2]
            return (day.toordinal() - 1 - WEEKDAYS.index(start)) // 7 if start else iso_week  # day 1 was a Monday
        if kind == "month":
            if day.day >= int(start or 1):
                return day.year, day.month
            before = day.replace(day=1) - timedelta(days=1)
            return before.year, before.month
        return (day.year, -(-day.month // 3)) if kind == "quarter" else day.year

    whole = [list(group) for _, group in groupby(days(str(first), str(last)), key)]
    return whole[1:-1]  # the first and the last one may be cut


@pytest.mark.parametrize("text", CALENDAR)
def test_forty_years_are_split_as_the_standard_library_splits_them(text: str) -> None:
    period, expected = parse_period(text), one_by_one(text, date(1999, 1, 1), date(2041, 12, 31))
    for inside in expected:
        assert {period.start_of(day) for day in inside} == {inside[0]}
        assert {period.end_of(day) for day in inside} == {inside[-1]}
        assert [day for day in inside if period.is_end(day)] == [inside[-1]]
    ends = period.ends(expected[0][0], expected[-1][-1])
    assert ends == [inside[-1] for inside in expected]
    assert [period.before(end) for end in ends[1:]] == ends[:-1] == [period.row_before(end) for end in ends[1:]]


def test_a_week_is_the_iso_week_and_year_of_its_last_day() -> None:
    for end in parse_period("week").ends(date(2000, 1, 1), date(2040, 12, 31)):
        assert end == date.fromisocalendar(*end.isocalendar()[:2], 7)


def test_a_month_ends_on_the_last_day_that_the_calendar_prints() -> None:
    expected = [date(y, m, monthrange(y, m)[1]) for y in range(1995, 2105) for m in range(1, 13)]
    assert parse_period("month").ends(date(1995, 1, 1), date(2104, 12, 31)) == expected


@given(calendar_periods, dates)
def test_every_day_lies_in_exactly_one_period_of_the_calendar(period: Period, day: date) -> None:
    start, end = period.start_of(day), period.end_of(day)
    assert start <= day <= end
    assert (period.start_of(start), period.end_of(start)) == (start, end) == (period.start_of(end), period.end_of(end))
    assert period.ends(start, end) == [end] == period.ends_containing(day)
    assert period.covers(end, day)
    if start > date.min:
        assert period.before(end) == period.row_before(end) == start - timedelta(days=1)
        assert period.is_end(start - timedelta(days=1))
        assert not period.covers(end, start - timedelta(days=1))
    if end < date.max:
        assert period.start_of(end + timedelta(days=1)) == end + timedelta(days=1)
        assert not period.covers(end, end + timedelta(days=1))


@given(st.integers(1, 400), st.dates(date(1950, 1, 1), date(2100, 1, 1)))
def test_a_window_ends_every_day_and_covers_its_number_of_days(number: int, day: date) -> None:
    window = parse_period(f"{number} days")
    start = window.start_of(day)
    assert ((day - start).days + 1, window.end_of(day), window.is_end(day)) == (number, day, True)
    assert window.ends(start, day) == days(str(start), str(day))
    assert window.row_before(day) == day - timedelta(days=1)
    assert window.before(day) == start - timedelta(days=1)
    near = days(str(day - timedelta(days=2)), str(day + timedelta(days=number + 2)))
    assert window.ends_containing(day) == [end for end in near if window.covers(end, day)]
    assert len(window.ends_containing(day)) == number


def test_no_period_ends_within_dates_that_hold_none() -> None:
    assert parse_period("year").ends(date(2026, 1, 1), date(2026, 12, 30)) == []
    assert parse_period("day").ends(date(2026, 1, 2), date(2026, 1, 1)) == []


@pytest.mark.parametrize(
    ("text", "end", "expected"),
    [
        ("day", "2026-11-22", "2025-11-23"),  # Sundays, both
        ("30 days", "2026-11-22", "2025-11-23"),
        ("week", "2026-11-22", "2025-11-23"),  # ISO week 47
        ("week", "2027-01-03", "2026-01-04"),  # week 53 of 2026 and week 1: 2025 had no week 53
        ("week from sunday", "2026-11-21", "2025-11-22"),
        ("month", "2025-02-28", "2024-02-29"),
        ("month", "2024-02-29", "2023-02-28"),
        ("month", "2026-10-31", "2025-10-31"),
        ("month from 26", "2026-11-25", "2025-11-25"),
        ("month from 28", "2024-02-27", "2023-02-27"),
        ("quarter", "2026-06-30", "2025-06-30"),
        ("year", "2024-12-31", "2023-12-31"),
    ],
)
def test_the_same_period_a_year_ago(text: str, end: str, expected: str) -> None:
    assert str(parse_period(text).year_before(date.fromisoformat(end))) == expected


@given(periods, st.dates(date(2, 3, 1), date(9999, 10, 1)))
def test_a_year_ago_ends_a_period_too(period: Period, day: date) -> None:
    end = period.end_of(day)
    before = period.year_before(end)
    assert period.is_end(before)
    assert 363 <= (end - before).days <= 366
    if period.unit in ("day", "week"):
        assert before.weekday() == end.weekday()


@given(periods, dates, st.sampled_from(["Asia/Taipei", "America/New_York", "Pacific/Apia", "UTC", ""]))
def test_nothing_fails_at_the_ends_of_the_calendar(period: Period, day: date, name: str) -> None:
    zone = ZoneInfo(name) if name else None
    end = period.end_of(day)
    assert period.start_of(end) <= period.end_of(end) == end
    assert period.before(end) <= period.row_before(end) <= end
    assert period.year_before(end) <= end
    assert period.ends_containing(day)[0] == end
    assert period.ends(day, day) == [day] * period.is_end(day)
    assert period.label(end)
    assert json.loads(period.parameters([end], zone)["periods"])[0]["metric_date"] == str(end)


# --- how it is called -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "end", "ended", "running"),  # running up to two days before the end
    [
        ("day", "2026-11-22", "2026-11-22", "2026-11-22"),
        ("week", "2026-11-22", "week to Sun 22 Nov 2026", "week to Fri 20 Nov 2026"),
        ("week from sunday", "2027-01-02", "week to Sat 02 Jan 2027", "week to Thu 31 Dec 2026"),
        ("month", "2026-10-31", "October 2026", "month to 29 Oct 2026"),
        ("month from 26", "2026-11-25", "month to 25 Nov 2026", "month to 23 Nov 2026"),
        ("quarter", "2026-12-31", "Q4 2026", "quarter to 29 Dec 2026"),
        ("quarter", "2026-03-31", "Q1 2026", "quarter to 29 Mar 2026"),
        ("year", "2026-12-31", "2026", "year to 29 Dec 2026"),
        ("7 days", "2026-11-22", "7 days to 22 Nov 2026", "7 days to 20 Nov 2026"),
    ],
)
def test_a_period_is_called_by_its_name_and_a_running_one_by_its_last_day_so_far(
    text: str, end: str, ended: str, running: str
) -> None:
    period, last = parse_period(text), date.fromisoformat(end)
    assert period.label(last) == ended
    assert period.label(last, last - timedelta(days=2)) == running
    assert period.label(last, last + timedelta(days=9)) == period.label(last, last), "no further than its end"


@pytest.mark.parametrize("text", [*CALENDAR, "day", "7 days", "365 days"])
def test_no_two_periods_are_called_the_same(text: str) -> None:
    period = parse_period(text)
    ends = period.ends(date(1998, 1, 1), date(2032, 12, 31))
    assert len({period.label(end) for end in ends}) == len(ends) > 30


# --- what the SQL is given --------------------------------------------------------------------------------------------


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def one_start(text: str, end: str, zone: str) -> tuple[str, str]:
    values = parse_period(text).parameters([date.fromisoformat(end)], ZoneInfo(zone))
    return values["period_start"], values["period_start_utc"]


@pytest.mark.parametrize(
    ("text", "end", "zone", "start", "start_utc"),
    [
        ("week", "2026-03-29", "Europe/Berlin", "2026-03-23", "2026-03-22 23:00:00"),  # summer time starts on its end
        ("week", "2026-04-05", "Europe/Berlin", "2026-03-30", "2026-03-29 22:00:00"),
        ("week", "2026-10-25", "Europe/Berlin", "2026-10-19", "2026-10-18 22:00:00"),  # and ends on this one's
        ("7 days", "2026-10-28", "Europe/Berlin", "2026-10-22", "2026-10-21 22:00:00"),
        ("month", "2026-11-30", "America/New_York", "2026-11-01", "2026-11-01 04:00:00"),  # the day of the change
        ("month from 26", "2026-03-25", "America/New_York", "2026-02-26", "2026-02-26 05:00:00"),
        ("week from sunday", "2026-03-14", "America/New_York", "2026-03-08", "2026-03-08 05:00:00"),
        ("year", "2026-12-31", "Asia/Taipei", "2026-01-01", "2025-12-31 16:00:00"),
        ("week", "2012-01-01", "Pacific/Apia", "2011-12-26", "2011-12-26 10:00:00"),  # 30 December was skipped
        ("month", "2012-01-31", "Pacific/Apia", "2012-01-01", "2011-12-31 10:00:00"),
    ],
)
def test_the_start_of_a_period_in_utc_knows_the_clock(
    text: str, end: str, zone: str, start: str, start_utc: str
) -> None:
    assert one_start(text, end, zone) == (start, start_utc)


def test_the_day_that_samoa_skipped_starts_and_ends_at_one_moment() -> None:
    starts = [one_start("day", f"2011-12-{day}", "Pacific/Apia")[1] for day in (29, 30, 31)]
    assert starts == ["2011-12-29 10:00:00", "2011-12-30 10:00:00", "2011-12-30 10:00:00"]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Taipei", "Pacific/Apia"])
@pytest.mark.parametrize("text", ["day", "week", "month", "month from 26"])
def test_the_periods_of_years_join_in_utc_without_gap_or_overlap(text: str, zone: str) -> None:
    period = parse_period(text)
    ends = period.ends(date(2010, 12, 1), date(2027, 2, 1))
    values = period.parameters(ends, ZoneInfo(zone))
    found = json.loads(values["periods"])
    assert [each["metric_date"] for each in found] == [str(end) for end in ends]
    assert [before["day_end_utc"] for before in found][:-1] == [after["period_start_utc"] for after in found][1:]
    first = found[0]
    named = {name: values[name] for name in ("start_date", "period_start", "period_start_utc")}
    assert named == {"start_date": first["period_start"], **{k: first[k] for k in ("period_start", "period_start_utc")}}
    extra: Counter[float] = Counter()  # hours by which periods are longer than their days of 24
    for each, after in pairwise(found):
        length = date.fromisoformat(each["metric_date"]) - date.fromisoformat(each["period_start"]) + timedelta(days=1)
        extra[(utc(after["period_start_utc"]) - utc(each["period_start_utc"]) - length).total_seconds() / 3600] += 1
        local = utc(each["period_start_utc"]).astimezone(ZoneInfo(zone))
        assert f"{local:%Y-%m-%d %H:%M}" in (f"{each['period_start']} 00:00", "2011-12-31 00:00")
    changes = {
        "Europe/Berlin": {-1: 16, 1: 16},
        "America/New_York": {-1: 16, 1: 16},
        "Asia/Taipei": {},
        "Pacific/Apia": {-24: 1, -1: 10, 1: 11},  # a day skipped; summer time until 2021
    }
    assert {hours: times for hours, times in extra.items() if hours} == changes[zone]
