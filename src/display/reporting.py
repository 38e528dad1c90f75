"""What a person or cron sees: the log file, the lines of the console, the progress bar, the end of a run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

from src.dates import spans
from src.display.log import write_line
from src.display.repairs import command_line, options_of, repairs
from src.errors import DateError
from src.metric_file.period import Period
from src.metric_runner import Verdict
from src.running.compute import BatchResult
from src.running.plan import RunArguments
from src.storage.changes import Change
from src.storage.store import Cell, Remark
from src.wording import count, listed

SHOWN_CHANGES = 5


class Reporter:
    """Prints for a person: with `quiet` only what matters, with `verbose` each file, a progress bar on a terminal."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet = quiet
        self._verbose = verbose
        self._bar: Any = None

    def say(self, text: str, even_if_quiet: bool = False) -> None:
        """Print a line, above the progress bar if there is one."""
        if self._quiet and not even_if_quiet:
            return
        if self._bar is None:
            return write_line(text)
        with self._bar.external_write_mode(sys.stdout):
            write_line(text)

    @contextmanager
    def progress(self, total: int, unit: str) -> Iterator[None]:
        """Show a progress bar on a terminal while the block runs and tick() is called `total` times."""
        if total > 1 and not self._quiet and sys.stdout is not None and sys.stdout.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=unit, file=sys.stdout, dynamic_ncols=True)
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.close()
                self._bar = None

    def tick(self, done: object = None) -> None:
        """Move the progress bar on, if there is one: by `done` if that is a number, else by one."""
        if self._bar is not None:
            self._bar.update(done if isinstance(done, int) else 1)

    def result(self, result: BatchResult, even_if_quiet: bool = False) -> None:
        """Print the line of a batch, and the final rows that it changed; also if quiet with `even_if_quiet`."""
        if result.error is not None:
            return self.say(f"{result.batch.label}  failed")
        if not result.batch.files:  # no period ends there
            return None
        if self._verbose:
            for done in result.steps:
                self.say(f"  {done.step.label}  {done.step.file.path}  {done.milliseconds} ms")
        counts = Counter(change.kind for change in result.changes)
        kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("new", "changed", "unchanged") if counts[kind])
        dates = len(result.batch.dates)
        on = f" on {dates:,} dates" if dates > 1 else ""
        metrics, helpers = result.batch.metrics, result.batch.helpers
        what = count(len(metrics), "metric") if metrics or not helpers else count(len(helpers), "helper")
        line = f"{result.batch.label}  {what}{on}" + (f": {kinds or 'no rows'}" if metrics else "")
        if result.not_run:
            line += f"; without {listed(sorted(result.not_run))}"
        if result.reopened_count:
            line += f"; {count(result.reopened_count, 'later row')} to be computed again"
        if result.open_from:
            line += f"; not final: {result.open_from} has not ended"
        changed = [change for change in result.changes if change.kind == "changed" and change.was_final]
        self.say(f"{line}  ({result.milliseconds / 1000:.2f} s)", even_if_quiet or bool(changed))
        for change in changed[:SHOWN_CHANGES]:
            self.say(f"    {change}", True)
        if len(changed) > SHOWN_CHANGES:
            self.say(f"    and {len(changed) - SHOWN_CHANGES:,} more; bi_metric_changes has all", True)

    def dry_run(self, changes: Sequence[Change]) -> None:
        """Print what a dry run found new or changed, one line per metric per date, and the counts."""
        for change in changes:
            if self._verbose or change.kind != "unchanged":
                text = f"{change.metric_date}  {change.kind:9}  {change.metric}  {change.detail}"
                self.say(text.rstrip(), change.kind == "changed" and change.was_final)
        final = sum(change.kind == "changed" and change.was_final for change in changes)
        counts = Counter(change.kind for change in changes)
        self.say(
            f"Dry run, nothing kept: {counts['new']:,} new, {counts['changed']:,} changed ({final:,} of them final "
            f"before), {counts['unchanged']:,} unchanged."
        )

    def verdict(self, verdict: Verdict) -> None:
        """Print what the comparison of both ways found: at once -> date by date."""
        for change in verdict.different:
            self.say(f"{change.metric_date}  {change.metric}  at once -> date by date: {change.detail}", True)
        if verdict.moved:
            moved, names = count(len(verdict.moved), "row"), ", ".join(sorted({name for name, _ in verdict.moved}))
            self.say(f"{moved} could not be compared: computing them twice gave two values ({names}). Run the command "
                     "again; if that repeats, the SQL gives another value each time.", True)  # fmt: skip
        same = verdict.compared - len(verdict.different) - len(verdict.moved)
        self.say(f"Both ways compared, nothing kept: {same:,} equal, {len(verdict.different):,} different.")


class RunSummary:
    """Adds up the results of a run without holding them: a range may be long."""

    def __init__(self, arguments: RunArguments, owners: Mapping[str, str] | None = None) -> None:
        self._arguments = arguments
        self._owners = owners or {}  # by metric
        self.dates: Sequence[date] = ()  # that the run is for: once they are set, there is something to resume
        self._ended: list[date] = []  # committed or failed
        self.failed: list[date] = []
        self.failed_cells: list[tuple[str, date, str]] = []  # name, date and error of what was left out of its batch
        self._without_some: set[date] = set()  # dates of these batches
        self.changes: list[Change] = []  # of rows that were final
        self.warned: dict[Remark, None] = {}
        self.accepted: dict[Remark, None] = {}
        self.redefined: set[str] = set()  # names whose SQL has changed since their last cell
        self.first_error: str = ""
        self.partly_stored = False
        self.missing: list[Cell] = []
        self.reopened: list[Cell] = []
        self.has_reopened = False  # cells, by this run
        self.too_old: list[Cell] = []  # reopened cells that nights leave alone
        self.vanished: Mapping[str, date] = {}
        self.older_sql: list[Cell] = []
        self.periods: Mapping[str, Period] = {}  # of the names
        self._causes: set[str] = set()

    def add(self, result: BatchResult) -> None:
        self._ended += result.batch.dates
        for error in result.left_out:
            self.failed_cells += [(error.name, day, str(error)) for day in error.dates[-1:]]
            self._without_some.update(result.batch.dates)
            self.fail(error)
        if result.error is not None:
            self.failed += result.batch.dates
            self.fail(result.error)
        self.warned |= dict.fromkeys(result.warnings)
        self.accepted |= dict.fromkeys(result.accepted)
        self.redefined |= result.redefined
        self.has_reopened |= bool(result.reopened_count)
        self.changes += [change for change in result.changes if change.kind == "changed" and change.was_final]

    def fail(self, error: Exception) -> None:
        """Note an error; the first one is reported."""
        self.first_error = self.first_error or str(error)
        self.partly_stored |= isinstance(error, DateError) and error.partly_stored

    def is_new(self, error: DateError) -> bool:
        """Tell whether no other date has failed with the same words."""
        cause = str(error).partition(": ")[2]
        is_new = cause not in self._causes
        self._causes.add(cause)
        return is_new

    @property
    def has_failed(self) -> bool:
        return bool(self.failed or self.failed_cells)

    @property
    def committed(self) -> list[date]:
        return sorted(set(self._ended) - set(self.failed))

    @property
    def resume(self) -> str:
        """The command that runs what failed or was not tried; empty if there is nothing left."""
        left = {*self.dates, *self.failed, *self._without_some}
        left -= set(self.committed) - self._without_some
        if not left:
            return ""
        # The next night finds by itself what is due.
        return command_line([] if self._arguments.is_night else sorted(left), *options_of(self._arguments))

    def stopped(self) -> str:
        """Return what was committed or failed, and the command that runs the rest."""
        if self.failed_cells and not self.failed:
            names = sorted({name for name, _, _ in self.failed_cells})
            return f"Failed: {listed(names)} on {spans(sorted(self._without_some))}. Run them again with: {self.resume}"
        if self.failed and (self._arguments.keep_going or self._arguments.is_night):
            return f"Failed: {spans(sorted(set(self.failed)))}. Run them again with: {self.resume}"
        said = [f"Committed {spans(self.committed)}."] if self.committed else []
        if self.partly_stored:
            said.append("The date in progress may be stored all the same.")
        return f"{' '.join(said) or 'Nothing was committed.'} Resume with: {self.resume}"

    def as_dict(self) -> dict[str, Any]:
        """Return what the run did, for --json and METRICS_ON_END."""
        return {
            "committed": self.committed,
            "failed": sorted(set(self.failed)),
            "failed_cells": [{"metric": name, "metric_date": day, "error": text, "owner": self._owners.get(name, "")}
                             for name, day, text in self.failed_cells],
            "error": self.first_error,
            "changed": [{"metric": c.metric, "metric_date": c.metric_date, "detail": c.detail} for c in self.changes],
            "warned": [{"metric": each.metric, "metric_date": each.metric_date, "warning": each.text,
                        "owner": self._owners.get(each.metric, "")} for each in self.warned],
            "accepted": [{"metric": each.metric, "metric_date": each.metric_date, "found": each.text}
                         for each in self.accepted],
            "missing": self._as_ranges(self.missing),
            "reopened": self._as_ranges(self.reopened),
            "too_old_for_nights": self._as_ranges(self.too_old),
            "vanished": dict(self.vanished),
            "older_sql": self._as_ranges(self.older_sql),
            "resume": self.resume,
        }  # fmt: skip

    def _as_ranges(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        found = repairs(cells, self.periods)
        return [{"start": dates[0], "end": dates[-1], "metrics": metrics} for dates, metrics in found]
