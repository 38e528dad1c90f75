"""The commands that a message prints: which dates must run again, and how."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from datetime import date

from src.dates import ranges, spans
from src.metric_runner import Options
from src.running.plan import RunArguments
from src.storage.store import Cell, by_metric
from src.wording import listed

SHOWN_REPAIRS = 3


def command_line(dates: Sequence[date], *options: str) -> str:
    """Return the command that runs the dates; where they are not one range, one command per range."""
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
    words += ["--chunk", arguments.chunk] if arguments.chunk else []
    words += ["--retries", str(arguments.retries)] if arguments.retries != Options.retries else []
    return words + (["--wait", str(arguments.wait)] if arguments.wait else [])


def metric_options(names: Iterable[str]) -> list[str]:
    return [word for name in names for word in ("--metric", name)]


def repairs(places: Iterable[Cell]) -> list[tuple[list[date], list[str]]]:
    """Group dates of metrics that must run again: ranges of dates, each with the metrics it is right for, oldest first.

    A metric must not run on a date on which only another one is missing: it may be younger.
    """
    grouped: dict[tuple[date, ...], list[str]] = {}
    for name, days in by_metric(places).items():
        for run in ranges(sorted(set(days))):
            grouped.setdefault(tuple(run), []).append(name)
    return [(list(run), sorted(names)) for run, names in sorted(grouped.items())]


def repair_lines(
    what: str, places: Sequence[Cell], names: Sequence[str], most: int | None = SHOWN_REPAIRS
) -> list[str]:
    """Return a line per range of dates that must run again, with its command; `names` are the metrics of the run."""
    lines = []
    found = repairs(places)
    for dates, metrics in found[:most]:
        options = [] if set(metrics) >= set(names) else metric_options(metrics)
        lines.append(f"{what}: {spans(dates)} of {listed(metrics)}. Run: {command_line(dates, *options)}")
    if len(found) > len(lines):
        lines.append(f"{what}: {len(found) - len(lines)} more ranges; list_metrics.py --status shows all")
    return lines
