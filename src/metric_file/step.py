"""One execution of one metric file for its dates: the SQL exactly as it is sent. Knows no database."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date
from functools import cached_property

from src.dates import span
from src.metric_file.file import MetricFile
from src.metric_file.header import HeaderLine
from src.metric_file.parameters import Parameters
from src.metric_file.reads import Behind
from src.metric_file.text import Statement, Table, bind, quoted

_UNSAFE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|\*/|/\*")


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

    def cleanup(self, behind: Iterable[Behind]) -> list[str]:
        """Return the statements after which nothing stays of the file, and of what is behind the names that it uses."""
        tables = {Table("", each.temporary_table) for each in self.file.statements if each.temporary_table}
        return statements_that_forget(behind, tables, self.file.variables)

    def check(self, check: HeaderLine, day: date) -> str:
        """Return a `-- Check:` query bound for one date."""
        return bind(check.statement, self.parameters.literals([day], self.file.period))

    def place(self, statement: Statement, message: str) -> str:
        """Return "file:line: statement 2 of 3" for a statement, by the server's message about it."""
        count = len(self.file.statements)
        return f"{self.file.path}:{line_of(statement, message)}: statement {statement.number} of {count}"


def statements_that_forget(
    behind: Iterable[Behind], tables: Collection[Table] = (), variables: Collection[str] = ()
) -> list[str]:
    """Return the statements that drop temporary tables and reset @variables: those named, and those of `behind`."""
    behind = [*behind]
    sent = []
    # The names are sent as they are written: most servers tell `Day` from `day`.
    if all_tables := sorted(set(tables).union(*(each.temporary_tables for each in behind))):
        names = (".".join(quoted(part) for part in table if part) for table in all_tables)
        sent.append(f"DROP TEMPORARY TABLE IF EXISTS {', '.join(names)}")
    if all_variables := sorted(set(variables).union(*(each.variables for each in behind))):
        sent.append("SET " + ", ".join(f"{name} = NULL" for name in all_variables))
    return sent


def line_of(statement: Statement, message: str) -> int:
    """Return the file's line that an error message means; the server counts from the statement.

    A message that ends otherwise, as in another language, means the statement's first line.
    """
    match = re.search(r"at line ([0-9]{1,9})$", message)
    below = int(match[1]) - 1 if match else 0
    lines = sum(token.text.count("\n") for token in statement.tokens)
    return statement.line + (below if 0 <= below <= lines else 0)
