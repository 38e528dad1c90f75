"""The commands that a message prints: which dates must run again, and how."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date

from src.dates import date_range, ranges, span
from src.metric_file.period import DAY, Period
from src.running.plan import RETRIES, RunArguments
from src.storage.store import Cell, by_name
from src.wording import listed

SHOWN_REPAIRS = 3


def command_line(dates: Sequence[date], *options: str) -> str:
    """Return the command that runs the dates; if they are not one range, one command per range."""
    commands = []
    for run in ranges(dates):
        # With --initial, one date alone would mean the history up to it.
        days = [str(run[0])] if len(run) == 1 and "--initial" not in options else [str(run[0]), str(run[-1])]
        commands.append(shlex.join(["python", "run_metrics.py", *days, *options]))
    return " && ".join(commands) or shlex.join(["python", "run_metrics.py", *options])


def options_of(arguments: RunArguments) -> list[str]:
    """Return the options that a printed command repeats."""
    words = [f"--{name.replace('_', '-')}" for name in ("initial", "keep_going", "quiet", "verbose")
             if getattr(arguments, name)]  # fmt: skip
    words += metric_options(arguments.metric)
    words += [word for name in arguments.accept for word in ("--accept", name)]
    words += ["--chunk", arguments.chunk] if arguments.chunk else []
    words += ["--retries", str(arguments.retries)] if arguments.retries != RETRIES else []
    return words + (["--wait", str(arguments.wait)] if arguments.wait else [])


def metric_options(names: Iterable[str]) -> list[str]:
    return [word for name in names for word in ("--metric", name)]


def repairs(cells: Iterable[Cell], periods: Mapping[str, Period]) -> list[tuple[list[date], list[str]]]:
    """Group cells that must run again: ranges of dates, each with the names it is right for, oldest first.

    `periods` are those of the names. A name must not run on a date on which only another one is missing: it may be
    younger.
    """
    grouped: dict[tuple[date, ...], list[str]] = {}
    for name, days in by_name(cells).items():
        for run in periods.get(name, DAY).runs(sorted(set(days))):
            grouped.setdefault(tuple(run), []).append(name)
    return [(list(run), sorted(names)) for run, names in sorted(grouped.items())]


def repair_lines(
    what: str, cells: Sequence[Cell], names: Mapping[str, Period], history_start: date | None,
    most: int | None = SHOWN_REPAIRS,
) -> list[str]:  # fmt: skip
    """Return a line per range of dates that must run again, with its command; `names` are those of a night."""
    lines = []
    found = repairs(cells, names)
    for dates, some in found[:most]:
        options = [] if set(some) >= set(names) else metric_options(some)
        period = names.get(some[0], DAY)
        labels = [period.label(day) for day in dict.fromkeys((dates[0], dates[-1]))]
        days = dates if period == DAY else date_range(dates[0], dates[-1])  # one range, which ends with the last one
        cure = f"{_too_early(dates[0], history_start) or 'Run'}: {command_line(days, *options)}"
        lines.append(f"{what}: {' to '.join(labels)} of {listed(some)}. {cure}")
    if len(found) > len(lines):
        lines.append(f"{what}: {len(found) - len(lines)} more ranges; list_metrics.py --status shows all")
    return lines


def _too_early(first: date, history_start: date | None) -> str:
    """Return why commands from this date on are refused, and what to set first; "" if they are not."""
    if history_start is None or first >= history_start:
        return ""
    return f"Runs before METRICS_HISTORY_START={history_start} are refused: set it to {first} or earlier, then run"


def vanished_lines(vanished: Mapping[str, date], dependents: Mapping[str, Collection[str]]) -> list[str]:
    """Return a line for each name that no file of the night computes any more, with its newest date."""
    lines = []
    for name, newest in sorted(vanished.items()):
        if others := sorted(dependents.get(name, ())):
            cure = f"what reads it ({listed(others)}) lacks its new rows: put its file back, or disable that as well"
        else:
            cure = f"put its file back, disable it as _{name}.sql, or delete its rows"
        lines.append(f"{name} has rows to {newest} and no file of the night computes it: {cure}")
    return lines


def older_sql_lines(cells: Sequence[Cell], history_start: date | None, most: int | None = SHOWN_REPAIRS) -> list[str]:
    """Return a line per range of dates that older SQL has computed, with the command that computes them again."""
    grouped: dict[tuple[date, date], list[str]] = {}
    for name, days in by_name(cells).items():
        grouped.setdefault((min(days), max(days)), []).append(name)
    found = sorted(grouped.items())
    lines = []
    for dates, names in found[:most]:
        command = shlex.join(["python", "run_metrics.py", "--initial", *map(str, dates), *metric_options(names)])
        cure = f"{_too_early(dates[0], history_start) or 'To compute them again'}: {command}"
        lines.append(f"of older SQL: {span(dates)} of {listed(names)}. {cure}")
    if len(found) > len(lines):
        lines.append(f"of older SQL: {len(found) - len(lines)} more ranges; list_metrics.py --status shows all")
    return lines
