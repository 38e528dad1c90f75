"""What a person or cron sees: the log file, the lines of the console, the progress bar, tables."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from src.changes import Change
from src.metric_runner import DateResult, MetricResult

LOG_BYTES = 5_000_000
LOG_FILES = 5
log = logging.getLogger("bi_metrics")


class Reporter:
    """Prints for a person: nothing with `quiet`, each file with `verbose`, a progress bar on a terminal."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet = quiet
        self._verbose = verbose

    def say(self, text: str) -> None:
        """Print a line, unless quiet. A reader who has left, as `| head` does, stops no metric."""
        if self._quiet:
            return
        try:
            print(text, flush=True)
        except BrokenPipeError:
            self._quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the exit would fail once more

    def follow(self, results: Iterable[DateResult], total: int) -> Iterator[DateResult]:
        """Yield the results while showing each: as a progress bar on a terminal, else as a line."""
        if total < 2 or not self._on_terminal():
            for result in results:
                self._show(result)
                yield result
            return
        with self._bar(total, "date") as bar:
            for result in results:
                bar.set_description(result.work.label, refresh=False)
                bar.update()
                yield result

    def files(self, total: int, end: date) -> Callable[[MetricResult], object]:
        """Return a listener that shows the files of a load: a progress bar on a terminal, else a line a finished file.

        `total` counts the executions, `end` is the last date of the load.
        """
        if self._on_terminal():
            return self._ticks(total)
        rows: Counter[str] = Counter()

        def show(result: MetricResult) -> None:
            path = result.step.metric.path
            rows[path] += result.rows
            if result.step.dates[-1] == end:
                self.say(f"  {path}  {rows[path]} rows")

        return show

    def _ticks(self, total: int) -> Callable[[MetricResult], None]:
        bars: list[Any] = []

        def tick(result: MetricResult) -> None:
            bar = bars[0] if bars else self._bar(total, "file")  # made at the first file, below what is said before
            bars[:] = [bar]
            bar.update()
            if bar.n == total:
                bar.close()

        return tick

    def _on_terminal(self) -> bool:
        return sys.stdout.isatty() and not self._quiet

    @staticmethod
    def _bar(total: int, unit: str) -> Any:
        from tqdm import tqdm

        return tqdm(total=total, unit=unit, file=sys.stdout, dynamic_ncols=True)

    def rehearsal(self, changes: Sequence[Change]) -> None:
        """Print what a dry run found, a line a metric a date, and the count."""
        for change in changes:
            self.say(f"{change.metric_date}  {change.kind:9}  {change.metric}  {change.detail}".rstrip())
        counts = {kind: sum(change.kind == kind for change in changes) for kind in ("new", "changed", "unchanged")}
        final = sum(change.kind == "changed" and change.was_final for change in changes)
        self.say(
            f"Dry run, nothing kept: {counts['new']} new, {counts['changed']} changed ({final} of them final before), "
            f"{counts['unchanged']} unchanged."
        )

    def _show(self, result: DateResult) -> None:
        if result.error is not None:
            self.say(f"{result.work.label}  failed")
            return
        if self._verbose:
            for done in result.metrics:
                self.say(f"  {done.step.label}  {done.step.metric.path}  {done.rows} rows  {done.milliseconds} ms")
        names = len({done.step.metric.name for done in result.metrics})
        rows = sum(done.rows for done in result.metrics)
        provisional = f"  provisional: {result.open_from} is not over" if result.open_from else ""
        seconds = f"{result.milliseconds / 1000:.2f} s"
        self.say(f"{result.work.label}  {names} metric{'s' if names != 1 else ''}  {rows} rows  {seconds}{provisional}")


def configure_log(path: Path | None, quiet: bool = False) -> None:
    """Send the log to `path` if there is one, and warnings and errors to stderr; with `quiet`, errors alone.

    A log that cannot be written warns on stderr and stops nothing.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # file names may be anything
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line shows them
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers.clear()
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.ERROR if quiet else logging.WARNING)
    console.addFilter(lambda record: record.name == log.name)  # what is said of single files stays in the log
    console.setFormatter(_ConsoleFormatter())
    log.addHandler(console)
    if path is None:
        return
    try:
        path.parent.mkdir(exist_ok=True)
        log.addHandler(_LogFile(path))
    except OSError as error:
        log.warning("cannot write the log %s (%s); the metrics run without it", path.name, error)


class _LogFile(logging.handlers.RotatingFileHandler):
    def __init__(self, path: Path) -> None:
        super().__init__(
            path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", errors="backslashreplace"
        )
        self.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802, the name is logging's
        # The base class formats each record a second time and asks the disk what kind of file this is: 20 us a line.
        return bool(self.stream and self.stream.tell() >= self.maxBytes)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, the name is logging's
        log.removeHandler(self)
        log.warning("cannot write the log (%s); the metrics go on without it", sys.exc_info()[1])


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", " | ") if not record.exc_info else super().format(record)


class _ConsoleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{'Error' if record.levelno >= logging.ERROR else 'Warning'}: {record.getMessage()}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in columns; the first row is the head, the last column is not padded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[-1] = 0
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def as_json(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
