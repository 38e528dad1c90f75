"""Errors a user can act on. Their text is one line: the place, the cause, the next step."""

from __future__ import annotations

from collections.abc import Sequence


class MetricsError(Exception):
    """Base of every error that is a fact about the user's files, settings or server, not a fault of this program."""


class UsageError(MetricsError):
    """The command line asks for something that cannot be done."""


class SettingsError(MetricsError):
    """A setting is missing or wrong."""


class MetricFileError(MetricsError):
    """Metric files that must not run. `problems` holds one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class DatabaseError(MetricsError):
    """What the server or the connection said. `code` is MySQL's error number, 0 where the driver gave none."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class StatementError(DatabaseError):
    """A statement of a packet failed; `index` counts from 0 within the packet. Later ones did not run."""

    def __init__(self, index: int, code: int, message: str) -> None:
        super().__init__(code, message)
        self.index = index


class SchemaError(MetricsError):
    """bi_metrics or bi_metric_runs is missing or not as sql/schema.sql makes it."""


class LockedError(MetricsError):
    """Another run holds the lock of this database."""


class DateError(MetricsError):
    """A date failed and was rolled back. `code` is MySQL's error number where the server gave one, else -1.

    `path` is the metric file at fault, empty where there is none.
    """

    def __init__(self, message: str, code: int = -1, path: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.path = path
