"""Which cells a command line means, and in which transactions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from itertools import groupby

from src.dates import OLDEST_DATE, ONE_DAY, date_range, parse_date, span
from src.errors import UsageError
from src.metric_file.file import MetricFile, Mode
from src.metric_file.period import DAY
from src.sql_loader import Catalog
from src.storage.store import DueCell

DUE_DATES_PER_NIGHT = 31
RETRIES = 3


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
    retries: int = RETRIES
    wait: int = 0
    accept: tuple[str, ...] = ()
    quiet: bool = False
    verbose: bool = False

    @property
    def mode(self) -> Mode:
        return Mode.INITIAL if self.initial else Mode.INCREMENTAL

    @property
    def is_night(self) -> bool:
        """Whether this is the nightly run: no dates are named."""
        return not (self.dates or self.initial or self.last or self.verify)


@dataclass(frozen=True)
class Batch:
    """What one transaction computes: some files on one date, or in an initial load on all dates of a chunk.

    A file runs on those of the dates that end one of its periods.
    """

    mode: Mode
    dates: tuple[date, ...]  # ascending, without gaps
    files: tuple[MetricFile, ...]  # in run order
    if_needed: frozenset[str] = frozenset()  # helpers that run only on dates on which their cell is not current
    goes_on: bool = False  # without what fails and its dependents
    with_running: bool = False  # and the period of each file that runs on the last date
    looks_again: frozenset[str] = frozenset()  # names whose later periods hold these dates: the source was looked at
    if_changed: bool = False  # they are reopened only if a value has changed
    accepts: frozenset[str] = frozenset()  # names whose checks may fail
    today: date = date.max  # a file with `-- Running: no` runs on dates before it only

    @property
    def label(self) -> str:
        return span(self.dates)

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics whose rows the batch writes, in run order."""
        return list(dict.fromkeys(file.name for file in self.files if not file.is_helper))

    @cached_property
    def helpers(self) -> list[str]:
        """The helpers with cells, in run order."""
        helpers = (file.name for file in self.files if file.is_helper and not file.is_work_table)
        return list(dict.fromkeys(helpers))

    @property
    def names(self) -> list[str]:
        """The names with cells."""
        return [*self.metrics, *self.helpers]

    @cached_property
    def dates_of(self) -> dict[str, list[date]]:
        """The dates on which each name runs."""
        return {file.name: self._dates_of(file) for file in self.files}

    def _dates_of(self, file: MetricFile) -> list[date]:
        ends = [*self.dates] if file.period == DAY else file.period.ends(self.dates[0], self.dates[-1])
        if not file.has_running_row:
            return [day for day in ends if day < self.today]
        running = file.period.end_of(self.dates[-1])
        return [*ends, running] if self.with_running and running not in ends else ends

    def without(self, names: Collection[str]) -> Batch:
        """Return the batch without the files of some names."""
        return replace(self, files=tuple(file for file in self.files if file.name not in names))


def dates_asked_for(arguments: RunArguments, history_start: date | None, today: date) -> list[date]:
    """Return the dates of the command line, ascending; for the nightly run yesterday and today. Raises UsageError."""
    given = [parse_date(text, today) for text in arguments.dates]
    # At 01:00 today's row covers one hour: fine to look at, not to build on. Yesterday's is final from now on.
    start, end = (given[0], given[-1]) if given else (today - ONE_DAY, today)
    if arguments.initial and len(given) < 2:
        start = history_start or end
        if start > end:
            raise UsageError(f"METRICS_HISTORY_START={start} is after {end}; name START and END both")
    if arguments.last:
        start = date.fromordinal(max(OLDEST_DATE.toordinal(), end.toordinal() - arguments.last + 1))
    if history_start and start < history_start and not arguments.is_night:
        raise UsageError(f"{start} is before METRICS_HISTORY_START={history_start}; for older dates set that earlier")
    return date_range(start, end)


def batch_of(
    catalog: Catalog, mode: Mode, dates: Sequence[date], names: Collection[str], goes_on: bool = False,
    with_running: bool = False, today: date = date.max,
) -> Batch:  # fmt: skip
    """Return the batch of the names that have the end of a period within the dates, and of what they need.

    They need the work tables and, on dates on which their cells are not current, the helpers that they read.
    """
    every = Batch(mode, tuple(dates), catalog.in_mode(mode), with_running=with_running, today=today)
    chosen = frozenset(name for name in names if every.dates_of.get(name))
    needed = frozenset(name for name in catalog.helpers_needed(chosen) - chosen if every.dates_of.get(name))
    wanted = catalog.with_work_tables(chosen | needed)
    files = tuple(file for file in every.files if file.name in wanted)
    return replace(every, files=files, if_needed=needed, goes_on=goes_on)


def chunks(arguments: RunArguments, dates: Sequence[date]) -> Iterator[Sequence[date]]:
    """Yield the dates of each transaction: one date; an initial load is one in all, or one per month."""
    if not arguments.initial:
        yield from ([day] for day in dates)
    elif arguments.chunk:
        for _, days in groupby(dates, key=lambda day: (day.year, day.month)):
            yield list(days)
    else:
        yield dates


def lookback_batches(
    catalog: Catalog, names: Collection[str], today: date, days: int, first: Mapping[str, date]
) -> Iterator[Batch]:
    """Yield the dates before yesterday that a night looks at again: transactions and events may come late.

    A date leaves out the names without a row on or before it: a new metric must not be backfilled by accident.
    """
    for back in range(days + 1, 1, -1):
        day = today - back * ONE_DAY
        some = [name for name in names if first.get(name, today) <= day]
        batch = batch_of(catalog, Mode.INCREMENTAL, [day], some, goes_on=True)
        if batch.files:
            yield replace(batch, looks_again=frozenset(catalog.periods).intersection(names), if_changed=True)


def running_batches(catalog: Catalog, names: Collection[str], today: date, goes_on: bool) -> Iterator[Batch]:
    """Yield the periods that run and do not end today, a transaction for those that end together."""
    ends: dict[date, list[str]] = {}
    for name, period in catalog.periods.items():
        file = catalog.by_name[name][0]
        if name in names and name in catalog.nightly and file.has_running_row and not period.is_end(today):
            ends.setdefault(period.end_of(today), []).append(name)
    for end, some in sorted(ends.items()):
        yield batch_of(catalog, Mode.INCREMENTAL, [end], some, goes_on, today=today)


def due_batch(
    catalog: Catalog, due: Sequence[DueCell], left_out: Collection[tuple[str, date]], tried: Collection[date],
    done: Collection[date],
) -> Batch | None:  # fmt: skip
    """Return the next date with cells that are due, and nothing else of that date; None if there is none.

    A date that has not failed comes first, then the one whose last try is longest ago; among equals the oldest. Dates
    that are `done` tonight, and due again, come last: each hole that is filled before them reopens them once more.
    `left_out` are cells, and `tried` dates, that failed tonight.
    """
    by_date: dict[date, list[DueCell]] = {}
    for cell in due:
        if cell.day not in tried and (cell.name, cell.day) not in left_out:
            by_date.setdefault(cell.day, []).append(cell)
    if not by_date:
        return None
    day = min(by_date, key=lambda day: (day in done, max(cell.failed_at for cell in by_date[day]), day))
    return batch_of(catalog, Mode.INCREMENTAL, [day], [cell.name for cell in by_date[day]], goes_on=True)
