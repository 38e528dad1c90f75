"""Periods: the days that one row covers, as the header says in `-- Period:`. Knows no database.

A period is named by its last day, which is the metric_date of its row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, tzinfo

from src.dates import ONE_DAY, day_end, day_start, utc_text
from src.errors import MetricFileError

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MOST_DAYS = 99_999
PERIODS = f"day, week, week from sunday, month, month from 26 (1 to 28), quarter, year, 7 days (1 to {MOST_DAYS})"
_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_AFTER_LAST = date.max.toordinal() + 1


@dataclass(frozen=True)
class Period:
    """The days of one row.

    Periods of the calendar (week, month, quarter, year) follow each other without gap or overlap. `N days` is a window
    that ends every day, so its periods overlap; a day is the window of one. What would lie before the year 1 or after
    9999 is cut off: every method returns a date.
    """

    unit: str = "day"  # or week, month, quarter, year: also the noun for counts of rows, "3 weeks"
    number: int = 1  # of a day: how many; of a week: the weekday it starts on, 1 is Monday; else the day of the month

    def __str__(self) -> str:
        """Return the header's text in its shortest form: "week", "month from 26", "7 days"."""
        if self.number == 1:
            return self.unit
        if self.unit == "day":
            return f"{self.number} days"
        return f"{self.unit} from {WEEKDAYS[self.number - 1] if self.unit == 'week' else self.number}"

    def start_of(self, day: date) -> date:
        """Return the first day of the period that contains `day`; of `N days`, of the one that ends on it."""
        return _date(self._bounds(day)[0])

    def end_of(self, day: date) -> date:
        """Return the last day of the period that contains `day`; of `N days`, the day itself."""
        return _date(self._bounds(day)[1])

    def is_end(self, day: date) -> bool:
        return self.end_of(day) == day

    def ends(self, first: date, last: date) -> list[date]:
        """Return the ends within the dates first to last, both included, ascending."""
        if self.unit == "day":
            return list(map(date.fromordinal, range(first.toordinal(), last.toordinal() + 1)))
        found = []
        end = self.end_of(first)
        while end <= last:
            found.append(end)
            if end == date.max:
                break
            end = self.end_of(end + ONE_DAY)
        return found

    def runs(self, ends: Sequence[date]) -> list[list[date]]:
        """Group ascending ends into runs in which each follows the one before."""
        found: list[list[date]] = []
        for end in ends:
            if found and self.row_before(end) == found[-1][-1]:
                found[-1].append(end)
            else:
                found.append([end])
        return found

    def ends_containing(self, day: date) -> list[date]:
        """Return the ends of all periods that contain `day`, ascending: one, or N of `N days`."""
        if self.unit != "day":
            return [self.end_of(day)]
        number = day.toordinal()
        return [date.fromordinal(n) for n in range(number, min(number + self.number, _AFTER_LAST))]

    def covers(self, end: date, day: date) -> bool:
        """Whether `day` lies in the period that ends on `end`."""
        return self.start_of(end) <= day <= end

    def before(self, end: date) -> date:
        """Return the end of the last period that shares no day with this one: what a number is compared with.

        Of `7 days` it lies 7 days back. Compared with the row of the day before, six days would be the same.
        """
        return _date(self._bounds(end)[0] - 1)

    def row_before(self, end: date) -> date:
        """Return the end before this one: where the row lies on which an incremental file builds.

        Of `7 days` it lies 1 day back, unlike `before`: a rolling sum adds the day that enters to the row of the day
        before, and takes off the one that leaves.
        """
        return _date(end.toordinal() - 1) if self.unit == "day" else self.before(end)

    def year_before(self, end: date) -> date:
        """Return the end of the same period a year ago.

        Of days and weeks it lies 52 weeks back, which keeps the weekday, and is there for week 53, too.
        """
        if self.unit not in _MONTHS:
            return _date(end.toordinal() - 364)
        return self.end_of(end.replace(year=max(end.year - 1, 1), day=min(end.day, 28)))

    def label(self, end: date, running_to: date | None = None) -> str:
        """Return the period in words, different for each: "October 2026", "week to Sun 22 Nov 2026".

        While it runs, `running_to` is its last day so far: "month to 20 Oct 2026". A day is "2026-11-22".
        """
        if self == DAY:
            return str(end)
        if running_to is None and self.number == 1 and self.unit in _MONTHS:
            return {"month": f"{end:%B %Y}", "quarter": f"Q{end.month // 3} {end:%Y}", "year": f"{end:%Y}"}[self.unit]
        last = min(end, running_to or end)
        if self.unit == "week":
            return f"week to {last:%a %d %b %Y}"
        return f"{self if self.unit == 'day' else self.unit} to {last:%d %b %Y}"

    def parameters(self, ends: Sequence[date], zone: tzinfo | None) -> dict[str, str]:
        """Return the values of the parameters that follow from the period, for some ascending ends.

        Of several periods, `start_date` and `period_start` are the first day of the first one.
        """
        each = []
        for end in ends:
            start = self.start_of(end)
            each.append(
                {
                    "metric_date": str(end),
                    "period_start": str(start),
                    "period_start_utc": utc_text(day_start(start, zone)),
                    "day_end_utc": utc_text(day_end(end, zone)),
                }
            )
        return {
            "start_date": each[0]["period_start"],
            "period_start": each[0]["period_start"],
            "period_start_utc": each[0]["period_start_utc"],
            "periods": json.dumps(each, separators=(",", ":")),
        }

    def _bounds(self, day: date) -> tuple[int, int]:
        """Return the day numbers of the first and the last day of the period that contains `day`."""
        number = day.toordinal()
        if self.unit == "day":
            return number - self.number + 1, number
        if self.unit == "week":
            first = number - (day.isoweekday() - self.number) % 7
            return first, first + 6
        months = _MONTHS[self.unit]
        month = day.year * 12 + day.month - 1 - (day.day < self.number)
        first_month = month - month % months
        return _day_number(first_month, self.number), _day_number(first_month + months, self.number) - 1


DAY = Period()


@dataclass(frozen=True)
class Nightly:
    """What a night computes of a name: `final_after` days after the end of a period its number is complete."""

    is_helper: bool = False
    period: Period = DAY
    final_after: int = 0


def parse_period(text: str) -> Period:
    """Return the period that a `-- Period:` line names. Raises MetricFileError, which lists what it may be."""
    match text.lower().split():
        case ["day" | "week" | "month" | "quarter" | "year" as unit]:
            return Period(unit)
        case ["week", "from", weekday] if weekday in WEEKDAYS:
            return Period("week", WEEKDAYS.index(weekday) + 1)
        case ["month", "from", number] if _number(number, 28):
            return Period("month", int(number))
        case [number, "day" | "days"] if _number(number, MOST_DAYS):
            return Period("day", int(number))
    raise MetricFileError(f"{text[:60]!r} is none of {PERIODS}")


def parse_final_after(text: str) -> int:
    """Return the number of days of a `-- Final After: 2 days` line. Raises MetricFileError for anything else."""
    match text.lower().split():
        case [number, "day" | "days"] if _number(number, MOST_DAYS):
            return int(number)
    raise MetricFileError(f"{text[:60]!r} is not a number of days; write for example 2 days (1 to {MOST_DAYS})")


def parse_running(text: str) -> bool:
    """Return whether a `-- Running:` line wants a row while the period runs. Raises MetricFileError."""
    answers = {"yes": True, "no": False}
    if (answer := text.strip().lower()) in answers:
        return answers[answer]
    raise MetricFileError(f"{text[:60]!r} is neither yes nor no; write no if the number needs the whole period")


def _number(text: str, most: int) -> int:
    """Return the whole number from 1 to `most` that the text is, else 0."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(most)) else 0
    return number if number <= most else 0


def _date(number: int) -> date:
    """Return the date of a day number; of one beyond the calendar its first or last date."""
    return date.fromordinal(max(1, min(number, _AFTER_LAST - 1)))


def _day_number(month: int, day: int) -> int:
    """Return the number of a day in a month, which is counted from January of the year 0."""
    year, month_of_year = divmod(month, 12)
    if 1 <= year <= 9999:
        return date(year, month_of_year + 1, day).toordinal()
    return 1 if year < 1 else _AFTER_LAST
