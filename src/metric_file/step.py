"""One execution of one metric file for its dates: the SQL exactly as it is sent. Knows no database."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, tzinfo
from functools import cached_property

from src.dates import day_end, day_start, span, utc_text
from src.metric_file.file import MetricFile
from src.metric_file.header import HeaderLine
from src.metric_file.period import DAY, Period
from src.metric_file.text import Statement, bind, literal

_UNSAFE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|\*/|/\*")


@dataclass(frozen=True)
class Parameters:
    """What metric files may use as %(name)s: the settings' own values by name, and what follows from the dates."""

    own: Mapping[str, str]
    zone: tzinfo | None
    today: date | None = None  # the last day that has begun; None: every date has

    def literals(self, dates: Sequence[date], period: Period = DAY) -> dict[str, str]:
        """Return every parameter as an SQL literal for some ascending ends of periods, the last of them metric_date."""
        periods = period.parameters(dates, self.zone)
        as_of = min(dates[-1], self.today) if self.today else dates[-1]
        return {
            **{name: literal(value) for name, value in self.own.items()},
            "metric_date": literal(dates[-1]),
            "dates": "'[\"" + '","'.join(map(str, dates)) + "\"]'",
            "day_start_utc": literal(utc_text(day_start(dates[0], self.zone))),
            "day_end_utc": literal(utc_text(day_end(dates[-1], self.zone))),
            "as_of": literal(as_of),
            **{name: literal(value) for name, value in periods.items()},
        }

    def fingerprinted(self) -> dict[str, str]:
        """Return the values whose change makes a file compute something else."""
        in_zone = ("day_start_utc", "day_end_utc", "period_start_utc", "periods")
        return {**self.own, **dict.fromkeys(in_zone, str(self.zone))}


@dataclass(frozen=True)
class Step:
    """One execution of one file. `dates` are ascending ends of its periods without a gap; a per-date file has one."""

    file: MetricFile
    dates: tuple[date, ...]
    parameters: Parameters

    @property
    def label(self) -> str:
        return span(self.dates)

    @cached_property
    def statements(self) -> list[str]:
        """The statements of the file, ready to send: a comment names file and dates in the server's process list."""
        tag = f"/* bi_metrics {_UNSAFE.sub('?', self.file.path)} {self.label} */ "
        values = self.parameters.literals(self.dates, self.file.period)
        return [tag + bind(statement, values) for statement in self.file.statements]

    @property
    def cleanup(self) -> list[str]:
        """What is sent first, so that nothing is left of an earlier execution on this connection."""
        sent = []
        made = {each.temporary_table for each in self.file.statements if each.temporary_table}
        if tables := sorted(made):  # as they are written: most servers tell `Day` from `day`
            names = ", ".join(f"`{name.replace('`', '``')}`" for name in tables)
            sent.append(f"DROP TEMPORARY TABLE IF EXISTS {names}")
        if variables := sorted(self.file.variables):
            sent.append("SET " + ", ".join(f"{name} = NULL" for name in variables))
        return sent

    def check(self, check: HeaderLine, day: date) -> str:
        """Return a `-- Check:` query bound for one date."""
        return bind(check.statement, self.parameters.literals([day], self.file.period))

    def place(self, statement: Statement, message: str) -> str:
        """Return "file:line: statement 2 of 3" for a statement, by the server's message about it."""
        count = len(self.file.statements)
        return f"{self.file.path}:{line_of(statement, message)}: statement {statement.number} of {count}"


def line_of(statement: Statement, message: str) -> int:
    """Return the file's line that an error message means; the server counts from the statement.

    A message that ends otherwise, as in another language, means the statement's first line.
    """
    match = re.search(r"at line ([0-9]{1,9})$", message)
    below = int(match[1]) - 1 if match else 0
    lines = sum(token.text.count("\n") for token in statement.tokens)
    return statement.line + (below if 0 <= below <= lines else 0)
