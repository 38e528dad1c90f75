"""What a person or cron sees: the log file, the lines of the console, the progress bar, the end of a run."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from src.changes import Change
from src.dates import spans
from src.errors import DateError
from src.metric_runner import BatchResult, Verdict
from src.plan import Call, command_line, metric_options, repairs
from src.store import Place
from src.wording import count, listed, printable

LOG_BYTES = 5_000_000
LOG_FILES = 5
SHOWN_CHANGES = 5
SHOWN_REPAIRS = 3
log = logging.getLogger("bi_metrics")


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
        """Move the progress bar on, by as many as `done` where it is a number, if there is a bar."""
        if self._bar is not None:
            self._bar.update(done if isinstance(done, int) else 1)

    def result(self, result: BatchResult, matters: bool = False) -> None:
        """Print the line of a batch, and the final rows that it changed; with `matters` also if quiet."""
        if result.error is not None:
            return self.say(f"{result.batch.label}  failed")
        if self._verbose:
            for done in result.steps:
                self.say(f"  {done.step.label}  {done.step.file.path}  {done.milliseconds} ms")
        counts = Counter(change.kind for change in result.changes)
        kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("new", "changed", "unchanged") if counts[kind])
        dates = len(result.batch.dates)
        on = f" on {dates:,} dates" if dates > 1 else ""
        line = f"{result.batch.label}  {count(len(result.batch.names), 'metric')}{on}: {kinds or 'no rows'}"
        if result.unmarked:
            line += f"; {count(result.unmarked, 'later row')} to be computed again"
        if result.open_from:
            line += f"; not final: {result.open_from} has not ended"
        changed = [change for change in result.changes if change.kind == "changed" and change.was_final]
        self.say(f"{line}  ({result.milliseconds / 1000:.2f} s)", matters or bool(changed))
        for change in changed[:SHOWN_CHANGES]:
            self.say(f"    {change}", True)
        if len(changed) > SHOWN_CHANGES:
            self.say(f"    and {len(changed) - SHOWN_CHANGES:,} more; bi_metric_runs.changes has all", True)

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
            self.say(
                f"{count(len(verdict.moved), 'row')} could not be compared: the source changed meanwhile "
                f"({', '.join(sorted({name for name, _ in verdict.moved}))}). Run the command again.", True
            )
        same = verdict.compared - len(verdict.different) - len(verdict.moved)
        self.say(f"Both ways compared, nothing kept: {same:,} equal, {len(verdict.different):,} different.")


class RunSummary:
    """Adds up the results of a run without holding them: a range may be long."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.dates: Sequence[date] = ()  # that the run is for: once they are set, there is something to resume
        self._ended: list[date] = []  # committed or failed
        self.failed: list[date] = []
        self.changes: list[Change] = []  # of rows that were final
        self.first_error: str = ""
        self.partly_stored = False
        self.missing: list[Place] = []
        self.not_final: list[Place] = []
        self.has_unmarked = False  # the last batch has made rows of other dates due

    def add(self, result: BatchResult) -> None:
        self._ended += result.batch.dates
        if result.error is not None:
            self.failed += result.batch.dates
            self.fail(result.error)
        self.has_unmarked = bool(result.unmarked)
        self.changes += [change for change in result.changes if change.kind == "changed" and change.was_final]

    def fail(self, error: Exception) -> None:
        """Note an error; the first is the one that is told."""
        self.first_error = self.first_error or str(error)
        self.partly_stored |= isinstance(error, DateError) and error.partly_stored

    @property
    def committed(self) -> list[date]:
        return sorted(set(self._ended) - set(self.failed))

    @property
    def resume(self) -> str:
        """The command that runs what failed or was not tried; empty where there is nothing left."""
        left = {*self.dates, *self.failed} - set(self.committed)
        if not left:
            return ""
        # What is due, the next night finds by itself.
        return command_line([] if self._call.is_night else sorted(left), *self._call.options)

    def stopped(self) -> str:
        """Return what was committed or failed, and the command that runs the rest."""
        if self.failed and (self._call.keep_going or self._call.is_night):
            return f"Failed: {spans(sorted(self.failed))}. Run them again with: {self.resume}"
        said = [f"Committed {spans(self.committed)}."] if self.committed else []
        if self.partly_stored:
            said.append("The date in progress may be stored all the same.")
        return f"{' '.join(said) or 'Nothing was committed.'} Resume with: {self.resume}"

    def as_dict(self) -> dict[str, Any]:
        """Return what the run did, for --json and METRICS_ON_END."""
        return {
            "committed": self.committed,
            "failed": sorted(self.failed),
            "error": self.first_error,
            "changed": [{"metric": c.metric, "metric_date": c.metric_date, "detail": c.detail} for c in self.changes],
            "missing": _as_ranges(self.missing),
            "not_final": _as_ranges(self.not_final),
            "resume": self.resume,
        }


def _as_ranges(places: Sequence[Place]) -> list[dict[str, Any]]:
    return [{"start": dates[0], "end": dates[-1], "metrics": metrics} for dates, metrics in repairs(places)]


def repair_lines(
    what: str, places: Sequence[Place], names: Sequence[str], most: int | None = SHOWN_REPAIRS
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


def write_line(text: str, stream: Any = None) -> None:
    """Print a line. A reader who has left, as `| head` does, or a full disk stops no metric."""
    stream = stream or sys.stdout
    if stream is None:  # closed before the start
        return
    try:
        print(printable(text, keep="\n"), file=stream, flush=True)
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # else the exit would fail once more


def configure_log(path: Path | None) -> Console:
    """Send the log to `path` if there is one, and warnings and errors to stderr; return what keeps the warnings.

    A log that cannot be written warns on stderr and stops nothing.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # file names may be anything
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers.clear()
    console = Console()
    log.addHandler(console)
    if path is not None:
        try:
            path.parent.mkdir(exist_ok=True)
            log.addHandler(_LogFile(path))
        except OSError as error:
            log.warning("cannot write the log %s (%s); the metrics run without it", path.name, error)
    return console


def set_log_level(level: str) -> None:
    """Let the log file begin at a level; warnings reach the console at any."""
    for handler in log.handlers:
        if isinstance(handler, _LogFile):
            handler.setLevel(level)
    log.setLevel(min(logging.getLevelName(level), logging.WARNING))


class Console(logging.Handler):
    """Warnings and errors, on stderr; the warnings are kept. What is said of single files stays in the log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == log.name and record.exc_info is None:
            if record.levelno == logging.WARNING:
                self.warnings.append(record.getMessage())
            kind = "Error" if record.levelno >= logging.ERROR else "Warning"
            write_line(f"{kind}: {record.getMessage()}", sys.stderr)


class _LogFile(logging.handlers.RotatingFileHandler):
    def __init__(self, path: Path) -> None:
        super().__init__(
            path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", errors="backslashreplace"
        )
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return printable(text if record.exc_info else text.replace("\n", " | "), keep="\n")

    def _open(self) -> Any:
        mode = 0o640  # the log names tables and shows numbers
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors,
                    opener=lambda path, flags: os.open(path, flags, mode))  # fmt: skip

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, the name is logging's
        log.removeHandler(self)
        log.warning("cannot write the log (%s); the metrics go on without it", sys.exc_info()[1])


def table(rows: Sequence[Sequence[str]], fit: bool = False) -> str:
    """Return rows in columns; the first row is the head. With `fit`, lines are cut at the width of a terminal."""
    rows = [[printable(cell, keep="\n") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if fit and sys.stdout is not None and sys.stdout.isatty():
        most = shutil.get_terminal_size().columns
        lines = [line if len(line) <= most else line[: most - 3] + "..." for line in lines]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def as_json(value: Any, indent: int | None = 2) -> str:
    # All but ASCII is escaped by the rules of JSON, so that write_line() finds nothing to escape by its own.
    return json.dumps(value, indent=indent, default=str).replace("\x7f", r"\u007f")
