"""A metric file as the packet that is sent for its dates. Knows no database."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import PurePosixPath

from src.sql_loader import Metric
from src.sql_text import Check, Statement, bind, literal

SAVEPOINT = "SAVEPOINT metric"
RELEASE = "RELEASE SAVEPOINT metric"
SHOW_WARNINGS = "SHOW WARNINGS"
_SERVER_LINE = re.compile(r"at line (\d+)")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|\*/|/\*")


@dataclass(frozen=True)
class Step:
    """One execution of one file. Its metric date is the last of `dates`, which ascend without gaps."""

    metric: Metric
    dates: tuple[date, ...]

    @property
    def label(self) -> str:
        return span(self.dates)


@dataclass(frozen=True)
class Packet:
    """The statements of a step, bound. `parameters` are the settings' own, as ready SQL literals."""

    step: Step
    parameters: Mapping[str, str]
    ask_warnings: bool = True

    @cached_property
    def bound(self) -> list[str]:
        """Each statement of the file, ready to send, with a comment for the server's process list."""
        values = self._values(self.step.dates)
        tag = _tag(self.step)
        return [tag + bind(statement, values) for statement in self.step.metric.statements]

    @cached_property
    def guarded(self) -> list[tuple[str, Statement | None]]:
        """The bound statements between savepoints; a RELEASE that fails tells that a statement ended the transaction.

        RELEASE also clears the warnings, so they are asked for before, where they are wanted.
        """
        packet: list[tuple[str, Statement | None]] = [(_tag(self.step) + SAVEPOINT, None)]
        for sql, statement in zip(self.bound, self.step.metric.statements, strict=True):
            packet.append((sql, statement))
            if self.ask_warnings and statement.verb != "SET":
                packet.append((SHOW_WARNINGS, None))
        return [*packet, (RELEASE, None)]

    def check(self, check: Check, day: date) -> str:
        """Return a `-- Check:` query bound for one date."""
        return bind(check, self._values((day,)))

    def locate(self, index: int, message: str) -> str:
        """Return "file:line: statement 2 of 3" for the statement at `index` of `guarded`, by the server's message."""
        statement = self.guarded[index][1]
        if statement is None:
            return self.step.metric.path
        line = self.line_of(statement, message)
        return f"{self.step.metric.path}:{line}: statement {statement.number} of {len(self.step.metric.statements)}"

    @staticmethod
    def line_of(statement: Statement, message: str) -> int:
        """Return the file's line that an error message means; the server counts from the statement."""
        match = _SERVER_LINE.search(message)
        return statement.line + (int(match[1]) - 1 if match else 0)

    def _values(self, dates: Sequence[date]) -> dict[str, str]:
        return {
            **self.parameters,
            "metric_date": literal(dates[-1]),
            "start_date": literal(dates[0]),
            "dates": "'[\"" + '","'.join(map(str, dates)) + "\"]'",
        }


def span(dates: Sequence[date]) -> str:
    """Return "2025-01-15", or "2025-01-01 to 2025-01-31" for more than one date."""
    return str(dates[0]) if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"


def disable_hint(path: str) -> str:
    return f"To run without this metric: rename it to _{PurePosixPath(path).name}"


def _tag(step: Step) -> str:
    return f"/* bi_metrics {_UNSAFE.sub('?', step.metric.path)} {step.label} */ "
