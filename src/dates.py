"""Metric dates: what a person types, what "today" is, when a date starts and ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from itertools import groupby

from src.errors import SettingsError, UsageError

OLDEST_DATE = date(1000, 1, 1)  # that a DATE column can hold
ONE_DAY = timedelta(days=1)


def business_zone(name: str) -> tzinfo | None:
    """Return the time zone of an IANA name; None, the machine's own, if the name is empty."""
    if not name:
        return None
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SettingsError(
            f"METRICS_TIMEZONE={name}: no such time zone here; use an IANA name such as Asia/Taipei (package tzdata)"
        ) from None


def today_in(zone: tzinfo | None) -> date:
    return datetime.now(zone).date()


def parse_date(text: str, today: date) -> date:
    """Return the date that `text` names: YYYY-MM-DD, 'today' or 'yesterday'. Future dates are refused."""
    if text in ("today", "yesterday"):
        return today if text == "today" else today - ONE_DAY
    if not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise UsageError(f"{text!r} is not a date; write YYYY-MM-DD, 'yesterday' or 'today'")
    try:
        parsed = date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text} is not a date: {error}") from None
    if parsed < OLDEST_DATE:
        raise UsageError(f"{text} is before {OLDEST_DATE}, the first date that MySQL can store")
    if parsed > today:
        raise UsageError(f"{text} is in the future; today is {today} (METRICS_TIMEZONE decides)")
    return parsed


def date_range(start: date, end: date) -> list[date]:
    """Return every date from start to end, both included, ascending."""
    if start > end:
        raise UsageError(f"the range starts on {start}, after its end {end}; write the earlier date first")
    return [start + timedelta(days=n) for n in range((end - start).days + 1)]


def day_start(day: date, zone: tzinfo | None) -> int:
    """Return the moment at which `day` starts in `zone`, in seconds since the epoch."""
    if day == date.min:
        zone = timezone.utc  # east of it, the day starts in the year 0, which a datetime cannot hold
    return int(datetime.combine(day, time(), zone).timestamp())


def day_end(day: date, zone: tzinfo | None) -> int:
    """Return the moment at which `day` has ended in `zone`, in seconds since the epoch."""
    return day_start(day + ONE_DAY if day < date.max else day, zone)


def day_at(moment: int, zone: tzinfo | None) -> date:
    """Return the date in `zone` at a moment, in seconds since the epoch."""
    return datetime.fromtimestamp(moment, zone).date()


def utc_text(moment: int) -> str:
    """Return a moment, in seconds since the epoch, as the text of a DATETIME in UTC."""
    return datetime.fromtimestamp(moment, timezone.utc).replace(tzinfo=None).isoformat(" ")


def span(dates: Sequence[date]) -> str:
    """Return "2025-01-15", or "2025-01-01 to 2025-01-31" for more than one date."""
    return str(dates[0]) if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"


def ranges(dates: Iterable[date]) -> list[list[date]]:
    """Group ascending dates into runs without gaps."""
    grouped = groupby(enumerate(dates), key=lambda pair: pair[1].toordinal() - pair[0])
    return [[day for _, day in run] for _, run in grouped]


def spans(dates: Iterable[date]) -> str:
    """Return ascending dates as "2025-01-01 to 2025-01-03, 2025-01-05"."""
    return ", ".join(span(run) for run in ranges(dates))
