"""Which dates a command line means, in which transactions, and the command line that means given dates."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from itertools import groupby

from src.dates import ONE_DAY, date_range, parse_date
from src.errors import UsageError
from src.metric_runner import Options, Work
from src.packet import span
from src.store import Status

CATCH_UP_DAYS = 31


def dates_asked_for(args: argparse.Namespace, history_start: date | None, today: date) -> list[date]:
    """Return the dates of the command line, ascending. Raises UsageError."""
    given = [parse_date(text, today) for text in args.dates]
    if args.initial:
        end = given[-1] if given else today
        if len(given) < 2 and history_start and history_start > end:
            raise UsageError(f"METRICS_HISTORY_START={history_start} is after {end}; name START and END both")
        return date_range(given[0] if len(given) == 2 else history_start or end, end)
    if args.last:
        end = given[0] if given else today
        return date_range(end - (args.last - 1) * ONE_DAY, end)
    if not given:
        # At 01:00 today's row is an hour old and yesterday's was provisional until now: both run, the older first.
        return [today - ONE_DAY, today]
    return date_range(given[0], given[-1])


def dates_to_catch_up(args: argparse.Namespace, stored: Iterable[Status], today: date) -> list[date]:
    """Return the dates since the oldest of the newest rows; none where nothing is missing. Raises UsageError."""
    end = parse_date(args.dates[0], today) if args.dates else today
    # A newest row that is provisional holds a part of its day, so its date runs again.
    starts = [status.newest + ONE_DAY if status.newest_is_final else status.newest for status in stored]
    if not starts:
        raise UsageError("--catch-up: no metric has a row yet; load the history: python run_metrics.py --initial")
    if min(starts) > end:
        return []
    dates = date_range(min(starts), end)
    if len(dates) > CATCH_UP_DAYS:
        command = command_line(dates, *options_of(args))
        raise UsageError(
            f"--catch-up would run {len(dates)} dates, more than {CATCH_UP_DAYS}; if that is meant, run: {command}"
        )
    return dates


def works_of(args: argparse.Namespace, dates: Sequence[date]) -> Iterator[Work]:
    """Yield the transactions: one a date; an initial load is one in all, or one a month."""
    if not args.initial:
        yield from (Work("incremental", (day,)) for day in dates)
    elif args.chunk:
        yield from (Work("initial", tuple(days)) for _, days in groupby(dates, key=_month))
    else:
        yield Work("initial", tuple(dates))


def count_works(args: argparse.Namespace, dates: Sequence[date]) -> int:
    if not args.initial:
        return len(dates)
    return len({_month(day) for day in dates}) if args.chunk else 1


def command_line(dates: Sequence[date], *options: str) -> str:
    """Return the command that runs the dates from the first to the last, dates first."""
    days = [str(dates[0])] if dates[0] == dates[-1] else [str(dates[0]), str(dates[-1])]
    import shlex

    return shlex.join(["python", "run_metrics.py", *days, *options])


def options_of(args: argparse.Namespace) -> list[str]:
    """Return the options of a call, those aside that only choose its dates."""
    flags = ("initial", "keep_going", "quiet", "verbose")
    options = [f"--{name.replace('_', '-')}" for name in flags if getattr(args, name)]
    options += metric_options(args.metric)
    options += ["--chunk", args.chunk] if args.chunk else []
    options += ["--retries", str(args.retries)] if args.retries != Options.retries else []
    options += ["--wait", str(args.wait)] if args.wait else []
    return options


def metric_options(names: Iterable[str]) -> list[str]:
    return [word for name in names for word in ("--metric", name)]


def spans(dates: Iterable[date]) -> str:
    """Return ascending dates as "2025-01-01 to 2025-01-03, 2025-01-05"."""
    runs = groupby(enumerate(dates), key=lambda pair: pair[1].toordinal() - pair[0])
    return ", ".join(span([day for _, day in days]) for _, days in runs)


def _month(day: date) -> tuple[int, int]:
    return day.year, day.month
