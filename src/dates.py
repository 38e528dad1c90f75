"""Metric dates: what a person types, what "today" is, when a date is over."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, tzinfo

from src.errors import SettingsError, UsageError

_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FIRST = date(1970, 1, 3)
ONE_DAY = timedelta(days=1)


def business_zone(name: str) -> tzinfo | None:
    """Return the time zone of an IANA name; None, the machine's own, where the name is empty."""
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
    if not _ISO.fullmatch(text):
        raise UsageError(f"{text!r} is not a date; write YYYY-MM-DD, 'yesterday' or 'today'")
    try:
        parsed = date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text} is not a date: {error}") from None
    if parsed < _FIRST:
        raise UsageError(f"{text} is before {_FIRST}, the first date that a TIMESTAMP column can tell from others")
    if parsed > today:
        raise UsageError(f"{text} is in the future; today is {today} (METRICS_TIMEZONE decides)")
    return parsed


def date_range(start: date, end: date) -> list[date]:
    """Return every date from start to end, both included, ascending."""
    if start > end:
        raise UsageError(f"the range starts on {start}, after its end {end}; write the earlier date first")
    return [start + timedelta(days=n) for n in range((end - start).days + 1)]


def day_end(day: date, zone: tzinfo | None) -> int:
    """Return the moment at which `day` is over in `zone`, in seconds since the epoch."""
    midnight = datetime.combine(day + ONE_DAY, time(), zone)
    return int(midnight.timestamp())
