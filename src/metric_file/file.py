"""One metric file: its text, read, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TypeVar

from src.errors import MetricFileError
from src.metric_file.header import QUERIES, HeaderLine, header_lines
from src.metric_file.period import DAY, Period, parse_final_after, parse_period, parse_running
from src.metric_file.reads import Reads, reads_of
from src.metric_file.text import SPACE, Statement, Table, Token, place, read
from src.metric_file.usual import Usual, parse_usual

TESTS = "tests"  # the folder of the metrics' tests, below METRICS_DIR

T = TypeVar("T")


@dataclass(frozen=True)
class Script:
    """The text of one file, taken apart."""

    text: str
    tokens: tuple[Token, ...]
    statements: tuple[Statement, ...]
    header: tuple[HeaderLine, ...]

    def header_value(self, key: str) -> str:
        """Return the value of the first header line with this key (lower case); "" if there is none."""
        return next((line.value for line in self.header if line.key == key), "")

    def header_list(self, key: str) -> tuple[str, ...]:
        """Return the comma-separated words of all header lines with this key, each once, as they stand."""
        words = (word.strip() for line in self.header if line.key == key for word in line.value.split(","))
        return tuple(dict.fromkeys(filter(None, words)))

    @property
    def checks(self) -> tuple[HeaderLine, ...]:
        """The queries of the header: `-- Check:`, `-- Check (ended):` and `-- Warn:`."""
        return tuple(line for line in self.header if line.key in QUERIES)

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of all %(name)s in the code, known or not; checks are no part of it."""
        return frozenset(t.text[2:-2] for s in self.statements for t in s.tokens if t.kind == "parameter")


class Mode(Enum):
    """What a run fills: single dates, each building on the one before, or the history. The value is the folder."""

    INCREMENTAL = "incremental"
    INITIAL = "initial"


class Kind(Enum):
    """What a file does: INSERT into bi_metrics, be a SELECT whose rows are stored, or fill other tables."""

    INSERT = "insert"
    SELECT = "select"
    HELPER = "helper"


@dataclass(frozen=True)
class MetricFile:
    """A file below the folder of metric files. `path` starts with that folder's name: the way messages name it."""

    name: str
    path: str
    mode: Mode | None  # None: straight in the folder, for both modes
    prefix: int | None
    disabled: bool
    script: Script

    @property
    def statements(self) -> tuple[Statement, ...]:
        return self.script.statements

    @cached_property
    def kind(self) -> Kind:
        if any(statement.writes_metrics for statement in self.statements):
            return Kind.INSERT
        is_select = bool(self.statements) and self.statements[-1].is_query and not any(self.lasting_writes())
        return Kind.SELECT if is_select else Kind.HELPER

    @property
    def is_helper(self) -> bool:
        return self.kind is Kind.HELPER

    @cached_property
    def is_set_based(self) -> bool:
        """Whether the file computes all dates of a transaction in one execution."""
        return any(token.text in ("%(start_date)s", "%(dates)s", "%(periods)s") for token in self.script.tokens)

    @property
    def description(self) -> str:
        return self.script.header_value("description")

    @property
    def title(self) -> str:
        """What people call the metric; its name if the header has no title."""
        return self.script.header_value("title") or self.name

    @property
    def unit(self) -> str:
        return self.script.header_value("unit")

    def unit_of(self, name: str, fields: Collection[str]) -> str:
        """Return the unit of a field: of `-- Unit: revenue EUR, share %` its own, of `-- Unit: EUR` that of all."""
        parts = [part.partition(" ") for part in self.script.header_list("unit")]
        if any(field in fields and unit for field, _, unit in parts):
            return next((unit.strip() for field, _, unit in parts if field == name), "")
        return self.unit

    @property
    def owner(self) -> str:
        return self.script.header_value("owner")

    @property
    def tags(self) -> tuple[str, ...]:
        """The words of `-- Tags:` in lower case."""
        return tuple(dict.fromkeys(tag.lower() for tag in self.script.header_list("tags")))

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The columns that say what an item of a timeseries or ranking is about, from `-- Dimensions:`."""
        return self.script.header_list("dimensions")

    @property
    def data_type(self) -> str:
        """The header's data type in lower case; `card` for a SELECT without one, else empty."""
        return self.script.header_value("data type").lower() or ("card" if self.kind is Kind.SELECT else "")

    @property
    def empty_value(self) -> str | None:
        """The JSON text that a date without a row gets, from `-- Empty:`; None if there is no such line."""
        value = self.script.header_value("empty")
        return "null" if value.lower() == "ok" else value or None

    @cached_property
    def period(self) -> Period:
        """The days that a row covers, by `-- Period:`; a day if there is no such line, or a wrong one."""
        return _read_or(parse_period, self.script.header_value("period"), DAY)

    @cached_property
    def has_running_row(self) -> bool:
        """Whether the period that runs has a row too, by `-- Running:`."""
        return _read_or(parse_running, self.script.header_value("running"), True)

    @cached_property
    def final_after(self) -> int:
        """How many days after the end of its period a number is complete, by `-- Final After:`."""
        return _read_or(parse_final_after, self.script.header_value("final after"), 0)

    @cached_property
    def usual(self) -> tuple[Usual, ...]:
        """How far numbers may be from those before them, by `-- Usual:`; a wrong line is left out."""
        lines = (line.value for line in self.script.header if line.key == "usual")
        return tuple(usual for line in lines if (usual := _read_or(parse_usual, line, None)))

    @cached_property
    def temporary_tables(self) -> frozenset[str]:
        """Names of the temporary tables that the file creates, in lower case."""
        return frozenset(s.temporary_table.lower() for s in self.statements if s.temporary_table)

    @cached_property
    def variables(self) -> frozenset[str]:
        """The @variables that the file names, as written."""
        return frozenset(token.text for s in self.statements for token in s.code if token.kind == "variable")

    def lasting_writes(self) -> Iterator[Statement]:
        """Yield the statements that write a table which the file has not created itself as a temporary one."""
        for statement in self.statements:
            if statement.target and statement.target.name.lower() not in self.temporary_tables:
                yield statement

    @cached_property
    def emptied_tables(self) -> list[Table]:
        """The lasting tables that the file empties, by a DELETE that chooses no rows, and then fills."""
        emptied: list[Table] = []
        filled = []
        for statement in self.lasting_writes():
            target = statement.target
            if target and statement.empties_its_table:
                emptied.append(target)
            elif target and statement.verb in ("INSERT", "REPLACE"):
                filled += [table for table in emptied if table.is_same(target)]
        return filled

    @cached_property
    def is_work_table(self) -> bool:
        """Whether the file is a helper whose tables hold the rows of its last execution alone."""
        written = [statement.target for statement in self.lasting_writes() if statement.target]
        emptied = self.emptied_tables
        return self.is_helper and bool(emptied) and all(any(map(table.is_same, emptied)) for table in written)

    @cached_property
    def reads(self) -> Reads:
        """What the text reads; own temporary tables and the header's `-- Reads:` are not looked at."""
        return reads_of(self.statements)

    @cached_property
    def reads_of_checks(self) -> Reads:
        """What its checks read, which is no part of what the file reads."""
        return reads_of(check.statement for check in self.script.checks)

    @property
    def declared_reads(self) -> frozenset[str]:
        """The names of `-- Reads:`, which take the place of those in the text; `*` is every metric."""
        return frozenset(self.script.header_list("reads"))


def _read_or(read_value: Callable[[str], T], text: str, default: T) -> T:
    """Return what a header line says; the default if there is no line, or if the rule `header` refuses it."""
    try:
        return read_value(text) if text else default
    except MetricFileError:
        return default


def parse(text: str) -> Script:
    """Read a whole file. Never raises: what is wrong with it is for src.metric_file.checks to say."""
    tokens = read(text)
    statements: list[Statement] = []
    start = 0
    for stop in [i for i, token in enumerate(tokens) if token.kind == "end"] + [len(tokens)]:
        code = [i for i in range(start, stop) if tokens[i].kind not in SPACE]
        if code:
            at = place(text, tokens[code[0]].offset)
            statement = Statement(tuple(tokens[code[0] : code[-1] + 1]), len(statements) + 1, *at)
            if statement.code:
                statements.append(statement)
        start = stop + 1
    return Script(text, tuple(tokens), tuple(statements), tuple(header_lines(text, tokens)))
