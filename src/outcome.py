"""What a run has behind it, and the words for it: what was committed, how to resume, what to look at next."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from datetime import date

from src.metric_runner import DateResult
from src.packet import span
from src.plan import command_line, metric_options, options_of, spans
from src.store import Hole

SHOWN_HOLES = 3


class Outcome:
    """Adds up the results of a run over `dates` without holding them: a range may be long."""

    def __init__(self, args: argparse.Namespace, dates: Sequence[date]) -> None:
        self._args = args
        self._dates = dates
        self._ended = 0  # dates committed or failed, from the first
        self._changed_metrics: set[str] = set()
        self._changed_dates: set[date] = set()
        self.failed: list[date] = []
        self.touched = False  # rows that build on these dates may be out of date

    def add(self, result: DateResult) -> None:
        self._ended += len(result.work.dates)
        if result.error is not None:
            self.failed += result.work.dates
        self.touched |= result.touched
        for change in result.changes:
            if change.kind == "changed":
                self._changed_metrics.add(change.metric)
                self._changed_dates.add(change.metric_date)

    @property
    def committed(self) -> list[date]:
        return [day for day in self._dates[: self._ended] if day not in self.failed]

    def stopped(self) -> str:
        """Return what was committed and the command that resumes, for a run that ended early."""
        committed = spans(self.committed)
        said = f"Committed {committed}." if committed else "Nothing was committed."
        remaining = self._dates[self._ended :]
        return f"{said} Resume with: {command_line(remaining, *options_of(self._args))}" if remaining else said

    def failures(self) -> str:
        """Return the failed dates of a run that went on, and the command that runs them again."""
        command = command_line(self.failed, *options_of(self._args))
        return f"Failed: {spans(self.failed)}. Run them again with: {command}"

    def summary(self) -> str:
        """Return "31 dates: 2 metrics changed on 3 dates", of rows that were final before."""
        changed = "no final row changed"
        if self._changed_dates:
            metrics = count(len(self._changed_metrics), "metric")
            changed = f"{metrics} changed on {count(len(self._changed_dates), 'date')}"
        return f"{count(len(self.committed), 'date')}: {changed}"

    @property
    def has_dates(self) -> bool:
        return bool(self._dates)

    @property
    def is_worth_a_line(self) -> bool:
        return len(self._dates) > 1 or bool(self._changed_dates)


def holes_line(what: str, holes: Sequence[Hole]) -> str:
    """Return the line on dates that need to run, with the command that does it."""
    shown = ", ".join(f"{hole.metric} {span([hole.start, hole.end])}" for hole in holes[:SHOWN_HOLES])
    more = f" and {len(holes) - SHOWN_HOLES} more" if len(holes) > SHOWN_HOLES else ""
    ends = [min(hole.start for hole in holes), max(hole.end for hole in holes)]
    command = command_line(ends, *metric_options(sorted({hole.metric for hole in holes})))
    return f"{what}: {shown}{more}. Run them with: {command}"


def later_line(later: tuple[date, date], names: Collection[str]) -> str:
    """Return the line on rows that build on the dates just run, with the command that refreshes them."""
    command = command_line(later, *metric_options(sorted(names)))
    return f"rows of {span(later)} build on the dates just run. Refresh them with: {command}"


def count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
