"""Which dates a command line means, in which transactions, and the command line that means given dates."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby

from src.dates import FIRST_DATE, ONE_DAY, date_range, parse_date, ranges
from src.errors import UsageError
from src.metric_runner import Batch, Options
from src.sql_loader import MetricFile, Mode
from src.store import LOOK_BACK_DAYS, MetricStore, Place, by_metric

DUE_DATES_PER_NIGHT = 31


@dataclass(frozen=True)
class Call:
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
        return Mode.INITIAL if self.initial else Mode.DATES

    @property
    def is_night(self) -> bool:
        """Whether this is the nightly run: no dates are named."""
        return not (self.dates or self.initial or self.last or self.verify)

    @property
    def options(self) -> list[str]:
        """The options that a printed command repeats."""
        words = [f"--{name.replace('_', '-')}" for name in ("initial", "keep_going", "quiet", "verbose")
                 if getattr(self, name)]  # fmt: skip
        words += metric_options(self.metric)
        words += ["--chunk", self.chunk] if self.chunk else []
        words += ["--retries", str(self.retries)] if self.retries != Options.retries else []
        return words + (["--wait", str(self.wait)] if self.wait else [])


def dates_asked_for(call: Call, history_start: date | None, today: date) -> list[date]:
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


def batches_of(call: Call, files: Sequence[MetricFile], dates: Sequence[date]) -> Iterator[Batch]:
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
        due.append(Batch(Mode.DATES, (day,), tuple(some)))
    return due


def command_line(dates: Sequence[date], *options: str) -> str:
    """Return the command that runs the dates; where they are not one range, one command per range."""
    commands = []
    for run in ranges(dates):
        # With --initial, one date alone would mean the history up to it.
        days = [str(run[0])] if len(run) == 1 and "--initial" not in options else [str(run[0]), str(run[-1])]
        commands.append(shlex.join(["python", "run_metrics.py", *days, *options]))
    return " && ".join(commands) or shlex.join(["python", "run_metrics.py", *options])


def metric_options(names: Iterable[str]) -> list[str]:
    return [word for name in names for word in ("--metric", name)]


def repairs(places: Iterable[Place]) -> list[tuple[list[date], list[str]]]:
    """Group dates of metrics that must run again: ranges of dates, each with the metrics it is right for, oldest first.

    A metric must not run on a date on which only another one is missing: it may be younger.
    """
    grouped: dict[tuple[date, ...], list[str]] = {}
    for name, days in by_metric(places).items():
        for run in ranges(sorted(set(days))):
            grouped.setdefault(tuple(run), []).append(name)
    return [(list(run), sorted(names)) for run, names in sorted(grouped.items())]
