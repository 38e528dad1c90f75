"""Errors a user can act on. Their text is one line: the place, the cause, the next step."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from datetime import date
from decimal import InvalidOperation

from src.wording import printable

# What Python raises for JSON that MariaDB takes, such as {"n": 1.} and {"n": 1e9999999999999999999}.
UNREADABLE_JSON = (ValueError, RecursionError, InvalidOperation)


class MetricsError(Exception):
    """Base of every error that is a fact about the user's files, settings or server, not a fault of this program."""


class UsageError(MetricsError):
    """The command line asks for something that cannot be done."""


class SettingsError(MetricsError):
    """A setting is missing or wrong."""


class MetricFileError(MetricsError):
    """Metric files that must not run: one line for each problem."""


class DatabaseError(MetricsError):
    """What the server or the connection said. `code` is MySQL's error number, 0 if the driver gave none."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class StatementError(DatabaseError):
    """The server refused a statement, or the connection was lost while it ran."""


class LockedError(MetricsError):
    """Another run holds the lock of this database."""


class DateError(MetricsError):
    """A date failed and was rolled back.

    `code` is MySQL's error number if the server gave one, else -1. `name` is the metric or helper at fault, and `dates`
    those that its file was run for; both are empty if no file is at fault. `partly_stored`: a statement ended the
    transaction, or the reply to COMMIT was lost. `fact` is the message without its `advice`, which is for a run alone.
    """

    def __init__(
        self, fact: str, code: int = -1, name: str = "", dates: Sequence[date] = (), partly_stored: bool = False,
        advice: str = "",
    ) -> None:  # fmt: skip
        self.fact = printable(fact)  # the rows of a check may hold anything
        super().__init__(f"{self.fact}. {printable(advice)}" if advice else self.fact)
        self.code = code
        self.name = name
        self.dates = dates
        self.partly_stored = partly_stored


class Interrupted(Exception):  # noqa: N818, as KeyboardInterrupt
    """A signal asked the run to stop; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number
