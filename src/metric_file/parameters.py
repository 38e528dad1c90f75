"""What metric files may use as %(name)s, and its values for some dates. Knows no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, tzinfo
from functools import lru_cache

from src.dates import day_end, day_start, utc_text
from src.metric_file.period import DAY, Period
from src.metric_file.text import literal

DATE_PARAMETERS = frozenset({  # set by every run
    "metric_date", "start_date", "dates", "day_start_utc", "day_end_utc", "period_start", "period_start_utc", "as_of",
    "periods",
})  # fmt: skip


@dataclass(frozen=True)
class Parameters:
    """What metric files may use as %(name)s: the settings' own values by name, and what follows from the dates."""

    own: Mapping[str, str]
    zone: tzinfo | None
    today: date | None = None  # the last day that has begun; None: every date has

    def literals(self, dates: Sequence[date], period: Period = DAY) -> Mapping[str, str]:
        """Return every parameter as an SQL literal for some ascending ends of periods, the last of them metric_date."""
        return _literals(tuple(self.own.items()), self.zone, self.today, tuple(dates), period)

    def fingerprinted(self) -> dict[str, str]:
        """Return the values that a definition covers: if one changes, a file that uses it computes something else."""
        in_zone = ("day_start_utc", "day_end_utc", "period_start_utc", "periods")
        return {**self.own, **dict.fromkeys(in_zone, str(self.zone))}


@lru_cache(512)  # the files and the checks of a date have the same
def _literals(
    own: Sequence[tuple[str, str]], zone: tzinfo | None, today: date | None, dates: Sequence[date], period: Period
) -> Mapping[str, str]:
    periods = period.parameters(dates, zone)
    as_of = min(dates[-1], today) if today else dates[-1]
    return {
        **{name: literal(value) for name, value in own},
        "metric_date": literal(dates[-1]),
        "dates": "'[\"" + '","'.join(map(str, dates)) + "\"]'",
        "day_start_utc": literal(utc_text(day_start(dates[0], zone))),
        "day_end_utc": literal(utc_text(day_end(dates[-1], zone))),
        "as_of": literal(as_of),
        **{name: literal(value) for name, value in periods.items()},
    }
