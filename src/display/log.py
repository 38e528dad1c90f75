"""The log file, and what reaches a terminal: warnings and errors on stderr, lines and tables on stdout."""

from __future__ import annotations

import csv
import io
import json
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from src.errors import SettingsError
from src.wording import printable

LOG_BYTES = 5_000_000
LOG_FILES = 5
log = logging.getLogger("bi_metrics")


def write_line(text: str, stream: Any = None) -> None:
    """Print one line: no value of the data in it can begin another, or act on a terminal."""
    _write(printable(text), stream or sys.stdout)


def write_text(text: str) -> None:
    """Print what table() and as_json() return, which may be several lines."""
    _write(printable(text, keep="\n"), sys.stdout)


def write_csv(rows: Iterable[Sequence[str]]) -> None:
    """Print rows as CSV. Raises SettingsError if that fails: a part of a file must not be taken for all of it."""
    try:
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the exit would fail once more
        raise SettingsError(f"--csv: cannot write it: {error.strerror or error}") from None


def _write(text: str, stream: Any) -> None:
    """Print a text. Never raises: a closed pipe or a full disk must not stop the run."""
    if stream is None:  # closed before the start
        return
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # else the exit would fail once more


def configure_log(path: Path | None) -> Console:
    """Send the log to `path` if there is one, and warnings and errors to stderr; return what keeps the warnings.

    A log that cannot be written warns on stderr and stops nothing.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not None, as after >&-, and no StringIO of a test
            stream.reconfigure(errors="backslashreplace")  # file names may be anything
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
    """Warnings and errors, on stderr; the warnings are kept. Records of bi_metrics.sql go to the log file only."""

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

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802, the name is logging's
        # logging's own would format each line twice, and ask twice whether the file is one.
        stream = self.stream  # a pipe, as behind a link to /dev/stdout, has no size
        return stream is not None and stream.seekable() and stream.tell() >= self.maxBytes

    def _open(self) -> Any:
        mode = 0o640  # the log names tables and shows numbers
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors,
                    opener=lambda path, flags: os.open(path, flags, mode))  # fmt: skip

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, the name is logging's
        log.removeHandler(self)
        log.warning("cannot write the log (%s); the metrics go on without it", sys.exc_info()[1])


def table(rows: Sequence[Sequence[str]], fit: bool = False) -> str:
    """Return rows in columns; the first row is the head. With `fit`, lines are cut at the width of a terminal."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if fit and sys.stdout is not None and sys.stdout.isatty():
        import shutil

        most = shutil.get_terminal_size().columns
        lines = [line if len(line) <= most else line[: most - 3] + "..." for line in lines]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def as_json(value: Any, indent: int | None = 2) -> str:
    # All but ASCII is escaped by the rules of JSON, so that write_text() finds nothing to escape by its own.
    return json.dumps(value, indent=indent, default=str).replace("\x7f", r"\u007f")
