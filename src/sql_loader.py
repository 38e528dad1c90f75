"""Discovers the metric files, puts them in run order, selects them, and knows which metric reads which."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import takewhile
from pathlib import Path

from src.errors import MetricFileError, UsageError
from src.sql_text import METRICS_TABLE, Script, Statement, Token, parse, unquoted

METRICS_VIEWS = frozenset({METRICS_TABLE, "bi_metric_cards", "bi_metric_items"})
_OTHER_COMPARISONS = frozenset({"LIKE", "REGEXP", "RLIKE", "NOT", "BETWEEN", "<>", "!=", "<", ">", "<=", ">="})
_NO_FUNCTIONS = {"WHERE", "AND", "OR", "XOR", "ON", "USING", "HAVING", "WHEN", "IN", "BY", "SELECT", "VALUES"}
_PREFIX = re.compile(r"([0-9]+)_+(?=.)")


class Mode(Enum):
    """What a run fills: single dates, each building on the one before, or the history. The value is the folder."""

    DATES = "incremental"
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
    fingerprint: str = ""  # of the SQL and of the settings' parameters it uses

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
        return any(token.text in ("%(start_date)s", "%(dates)s") for token in self.script.tokens)

    @property
    def description(self) -> str:
        return self.script.header_value("description")

    @property
    def data_type(self) -> str:
        """The header's data type in lower case; `card` for a SELECT without one, else empty."""
        return self.script.header_value("data type").lower() or ("card" if self.kind is Kind.SELECT else "")

    @property
    def empty_value(self) -> str | None:
        """The JSON text that a date without a row gets, from `-- Empty:`; None where there is no such line."""
        value = self.script.header_value("empty")
        return "null" if value.lower() == "ok" else value or None

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
            if statement.target and statement.target[1].lower() not in self.temporary_tables:
                yield statement

    @cached_property
    def selects_metrics(self) -> bool:
        """Whether the SQL names bi_metrics, or a view of it, other than as the table it writes or in table.column."""
        return any(map(_mentions, self.statements))

    @cached_property
    def compares_with(self) -> frozenset[str]:
        """The string literals that stand beside = or within IN (...) in a file that selects from bi_metrics."""
        if not self.selects_metrics:
            return frozenset()
        return frozenset(text for statement in self.statements for text in _compared_literals(statement))


@dataclass(frozen=True)
class Catalog:
    """Every metric file there is, disabled ones included, in run order."""

    files: tuple[MetricFile, ...]
    without_file: frozenset[str] = frozenset()  # metrics that have rows and no file: they may have read anything

    def in_mode(self, mode: Mode) -> tuple[MetricFile, ...]:
        """Return the files that a run of this mode executes, in run order."""
        return tuple(file for file in self.files if not file.disabled and file.mode in (None, mode))

    def files_of(self, name: str) -> list[MetricFile]:
        """Return the files of a name, without the disabled ones."""
        return [file for file in self.files if file.name == name and not file.disabled]

    @cached_property
    def initial_files(self) -> dict[str, MetricFile]:
        """The initial file of each metric that also has an incremental one, by name; helpers are left out."""
        nightly = {f.name for f in self.in_mode(Mode.DATES) if f.mode is Mode.DATES and not f.is_helper}
        initial = (f for f in self.in_mode(Mode.INITIAL) if f.mode is Mode.INITIAL and not f.is_helper)
        return {f.name: f for f in initial if f.name in nightly}

    @cached_property
    def names(self) -> frozenset[str]:
        """The metrics that some file writes."""
        return frozenset(file.name for file in self.files if not file.disabled and not file.is_helper)

    @cached_property
    def reads(self) -> dict[str, frozenset[str]]:
        """What each metric reads, by name, itself included where it does: the union over its files."""
        found = dict.fromkeys(self.without_file, self.names | self.without_file)
        for file in self.files:
            if file.name in self.names and not file.disabled:
                found[file.name] = found.get(file.name, frozenset()) | self.reads_of(file)
        return found

    def fingerprints(self, name: str) -> frozenset[str]:
        """Return the fingerprints of a metric's files."""
        return frozenset(file.fingerprint for file in self.files_of(name))

    def reads_of(self, file: MetricFile) -> frozenset[str]:
        """Return the metrics that a file reads: those it compares with, and those of its `-- Reads:` line.

        SQL that selects from bi_metrics and compares with no known name, or with more than names, reads every metric.
        """
        known = self.without_file.union(file.name for file in self.files)
        declared, compared = file.script.header_list("reads") & known, file.compares_with & known
        if file.selects_metrics and (not compared or any(map(_compares_otherwise, file.statements))):
            return self.names | self.without_file
        return declared | compared

    @cached_property
    def readers(self) -> dict[str, frozenset[str]]:
        """The other metrics that read each metric, directly or through others, by name."""
        readers = {}
        for name in self.reads:
            found, new = {name}, {name}
            while new:
                new = {reader for reader, read in self.reads.items() if not read.isdisjoint(new)} - found
                found |= new
            readers[name] = frozenset(found - {name})
        return readers


def load_catalog(folder: Path, parameters: Mapping[str, str] | None = None) -> Catalog:
    """Read every metric file straight in `folder`, in its initial/ and its incremental/.

    `parameters` are values that fingerprints cover. A file that is broken is in the catalog all the same;
    src.sql_checks tells what is wrong with it. Raises MetricFileError for one that cannot be read at all.
    """
    files = []
    for below, mode in ((folder, None), *((folder / mode.value, mode) for mode in Mode)):
        try:
            found = [path for path in below.iterdir() if path.suffix.lower() == ".sql"] if below.is_dir() else []
        except OSError as error:
            raise MetricFileError(f"{below.name}: cannot read this folder: {error.strerror}") from None
        for path in found:
            # A FIFO, a dangling link or an editor's lock file must not stop a night.
            if path.name != "schema.sql" and path.is_file():
                files.append(_read(path, f"{folder.name}/{path.relative_to(folder)}", mode, parameters or {}))
    # Prefixed files first, by number; then the others; by name within.
    files.sort(key=lambda file: (file.prefix is None, file.prefix or 0, file.name, file.path))
    return Catalog(tuple(files))


def select(catalog: Catalog, mode: Mode, patterns: Sequence[str]) -> tuple[MetricFile, ...]:
    """Return the files of a mode whose metric matches one of the shell patterns, in run order; without patterns, all.

    Helpers are always among them: a metric may read what they fill. Raises UsageError where a pattern matches nothing,
    or there is nothing at all.
    """
    files = catalog.in_mode(mode)
    if not files:
        raise UsageError("there are no metric files in the folder of METRICS_DIR (default: sql/); see docs/metrics.md")
    for pattern in patterns:
        names = [file.name for file in files if not file.is_helper]
        if not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, names, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            where = f"for {'--initial' if mode is Mode.INITIAL else 'single dates'}"
            raise UsageError(f"no metric {where} matches {pattern!r}{hint} (list_metrics.py shows all)")
    chosen = patterns or ["*"]
    return tuple(f for f in files if f.is_helper or any(fnmatchcase(f.name, pattern) for pattern in chosen))


def split_name(file_name: str) -> tuple[int | None, str]:
    """Split a file name: 03_users.sql is prefix 3 and metric "users", 7d_active.sql has no prefix."""
    stem = file_name[: -len(".sql")]
    match = _PREFIX.match(stem)
    return (int(match[1]), stem[match.end() :]) if match else (None, stem)


def _read(path: Path, shown: str, mode: Mode | None, parameters: Mapping[str, str]) -> MetricFile:
    disabled = path.name.startswith(("_", "."))
    prefix, name = split_name(path.name.lstrip("_.") if disabled else path.name)
    # Bytes that are not UTF-8 become lone surrogates, which no valid file holds: the rule not-utf8 finds them there.
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise MetricFileError(f"{shown}: cannot read it: {error.strerror}") from None
    script = parse(text)
    return MetricFile(name, shown, mode, prefix, disabled, script, script.fingerprint(parameters))


def _compared_literals(statement: Statement) -> Iterator[str]:
    words, inside_in = statement.words, 0
    for i, token in enumerate(statement.code):
        if words[i] == "(" and (inside_in or (words[i - 1] == "IN" and words[i - 2] != "NOT")):
            inside_in += 1
        elif words[i] == ")" and inside_in:
            inside_in -= 1
        elif token.kind == "string" and (inside_in or not {"=", "<=>"}.isdisjoint((words[i - 1], words[i + 1]))):
            yield unquoted(token)


def _mentions(statement: Statement) -> int:
    """Return how often a statement names bi_metrics or a view to read from it: not as its target or in table.column."""
    words, target = statement.words, statement.target
    found = sum(token.name in METRICS_VIEWS and words[i + 1] != "." for i, token in enumerate(statement.code))
    return found - (target is not None and target[1].lower() == METRICS_TABLE)


def _compares_otherwise(statement: Statement) -> bool:
    """Tell whether rows are chosen by more than `metrics = 'name'`, IN ('name', ...), or a join of this column."""
    words, nothing = statement.words, [Token("", "", 0)] * 3
    bare = [token for i, token in enumerate(statement.code) if "." not in (token.text, words[i + 1])]  # of m.metrics
    code = [*nothing, *bare, *nothing]
    for i, token in enumerate(code):
        if token.name != "metrics":
            continue
        left, before, after, right = code[i - 2], code[i - 1].text.upper(), code[i + 1].text.upper(), code[i + 2]
        is_name = right.kind in ("string", "variable") or right.name in ("metrics", "values")
        if (after in ("=", "<=>") and not is_name) or not _OTHER_COMPARISONS.isdisjoint((before, after)):
            return True
        if after == "IN" and not _are_names(code[i + 3 :]):
            return True
        if before in ("=", "<=>") and left.kind != "string" and left.name != "metrics":
            return True
        if before == "(" and left.name not in ("", METRICS_TABLE) and left.text.upper() not in _NO_FUNCTIONS:
            return True  # a function of the name; what follows bi_metrics are the columns of an INSERT
    # Where the table is named more often than the column, some of it is read whole.
    select = next((i for i, token in enumerate(code) if token.name == "select"), 0)  # behind an INSERT's columns
    uses = sum(code[i].name == "metrics" and code[i - 1].text.upper() != "AS" for i in range(select, len(code)))
    return uses < _mentions(statement)


def _are_names(code: Sequence[Token]) -> bool:
    """Tell whether only string literals stand before the next closing parenthesis."""
    items = takewhile(lambda token: token.text != ")", code)
    return all(token.kind == "string" or token.text == "," for token in items)
