"""Which dates a command line means, in which transactions, and the command line that means given dates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby

from src.dates import FIRST_DATE, ONE_DAY, date_range, parse_date
from src.errors import UsageError
from src.metric_file.file import MetricFile, Mode
from src.metric_runner import Batch, Options
from src.storage.store import LOOK_BACK_DAYS, MetricStore

DUE_DATES_PER_NIGHT = 31


@dataclass(frozen=True)
class RunArguments:
    """The command line of run_metrics.py; each field is an option of that name, `dates` are the words for dates."""

    dates: tuple[str, ...] = ()
    initial: bool = False
    chunk: str | None = None
    metric: tuple[str, ...] = ()
    last: int | None = None
    keep_going: bool = False
    dry_run: bool = False
    verify: bool = False
    json: bool = False
    retries: int = Options.retries
    wait: int = 0
    quiet: bool = False
    verbose: bool = False

    @property
    def mode(self) -> Mode:
        return Mode.INITIAL if self.initial else Mode.INCREMENTAL

    @property
    def is_night(self) -> bool:
        """Whether this is the nightly run: no dates are named."""
        return not (self.dates or self.initial or self.last or self.verify)


def dates_asked_for(call: RunArguments, history_start: date | None, today: date) -> list[date]:
    """Return the dates of the command line, ascending; for the nightly run yesterday and today. Raises UsageError."""
    given = [parse_date(text, today) for text in call.dates]
    # At 01:00 today's row is an hour old and yesterday's was not final until now: both run, the older first.
    start, end = (given[0], given[-1]) if given else (today - ONE_DAY, today)
    if call.initial and len(given) < 2:
        start = history_start or end
        if start > end:
            raise UsageError(f"METRICS_HISTORY_START={start} is after {end}; name START and END both")
    if call.last:
        start = date.fromordinal(max(1, end.toordinal() - call.last + 1))
    if start < FIRST_DATE:
        raise UsageError(f"{start} is before {FIRST_DATE}, the first date that can run")
    return date_range(start, end)


def batches_of(call: RunArguments, files: Sequence[MetricFile], dates: Sequence[date]) -> Iterator[Batch]:
    """Yield the transactions: one per date; an initial load is one in all, or one per month."""
    if not call.initial:
        yield from (Batch(call.mode, (day,), tuple(files)) for day in dates)
    elif call.chunk:
        for _, days in groupby(dates, key=lambda day: (day.year, day.month)):
            yield Batch(call.mode, tuple(days), tuple(files))
    else:
        yield Batch(call.mode, tuple(dates), tuple(files))


def due_batches(store: MetricStore, files: Sequence[MetricFile], today: date) -> list[Batch]:
    """Return the dates before yesterday that must run again: a row is not final, or one of 92 days is missing.

    A date leaves out the metrics without a row on or before it, for a new one must not be backfilled by accident.
    """
    names = [file.name for file in files if not file.is_helper]
    since, first = today - LOOK_BACK_DAYS * ONE_DAY, store.first_dates(names)
    days = {day for _, day in store.not_final(names, today)}
    days |= {day for _, day in store.missing(names, today, since) if day >= since}
    due = []
    for day in sorted(day for day in days if day < today - ONE_DAY):
        some = (file for file in files if file.is_helper or first.get(file.name, today) <= day)
        due.append(Batch(Mode.INCREMENTAL, (day,), tuple(some)))
    return due
