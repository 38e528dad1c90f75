"""Discovers the metric files, puts them in run order, selects them, and knows which metric or helper reads which."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from hashlib import sha256
from itertools import takewhile
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from src.errors import MetricFileError, UsageError
from src.metric_file.file import Kind, MetricFile, Mode, parse
from src.metric_file.period import DAY, Nightly, Period
from src.metric_file.reads import Behind, ForeignKey, Unclear, closure, reads_behind, reads_of, trigger_of
from src.metric_file.text import METRICS_TABLE, SPACE, UPSERT, Statement, Table, Token, items, phrase_at, place

EVERY_METRIC = "*"  # in `-- Reads:`
_PREFIX = re.compile(r"([0-9]+)_+(?=.)")


@dataclass(frozen=True)
class Catalog:
    """Every metric file there is, disabled ones included, in run order, and which name reads which.

    A name is that of a metric or of a helper. A *cell* is one of them on one date; a helper that empties its table,
    a work table, has none.
    """

    files: tuple[MetricFile, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)  # the values that definitions cover
    stored: frozenset[str] | None = None  # the metrics that have rows; None: nobody has asked the server
    computed: frozenset[str] = frozenset()  # the metrics and helpers that have cells
    behind_sql: Mapping[str, str] = field(default_factory=dict)  # what code_behind() has found
    foreign_keys: Collection[ForeignKey] = ()  # those of the tables that files write

    # --- files and names ----------------------------------------------------------------------------------------------

    def in_mode(self, mode: Mode) -> tuple[MetricFile, ...]:
        """Return the files that a run of this mode executes, in run order."""
        return self._in_mode[mode]

    @cached_property
    def _in_mode(self) -> dict[Mode, tuple[MetricFile, ...]]:
        enabled = [file for file in self.files if not file.disabled]
        return {mode: tuple(file for file in enabled if file.mode in (None, mode)) for mode in Mode}

    @cached_property
    def positions(self) -> dict[Mode, dict[str, int]]:
        """For each mode the position of each name in `in_mode`."""
        return {mode: {file.name: i for i, file in enumerate(files)} for mode, files in self._in_mode.items()}

    @cached_property
    def by_name(self) -> dict[str, list[MetricFile]]:
        """The files of each name: the enabled ones, or if there is none, the disabled ones."""
        found: dict[str, list[MetricFile]] = {}
        for file in sorted(self.files, key=lambda file: file.disabled):
            files = found.setdefault(file.name, [])
            if not file.disabled or all(other.disabled for other in files):
                files.append(file)
        return found

    def files_of(self, name: str) -> list[MetricFile]:
        """Return the files of a name, without the disabled ones."""
        return [file for file in self.by_name.get(name, ()) if not file.disabled]

    def same_name(self, file: MetricFile) -> list[MetricFile]:
        """Return the other enabled files whose name differs in upper and lower case alone, or not at all."""
        files = () if file.disabled else self._by_folded_name[file.name.casefold()]
        return [other for other in files if other.path != file.path]

    @cached_property
    def _by_folded_name(self) -> dict[str, list[MetricFile]]:
        found: dict[str, list[MetricFile]] = {}
        for file in self.files:
            if not file.disabled:
                found.setdefault(file.name.casefold(), []).append(file)
        return found

    @cached_property
    def initial_files(self) -> dict[str, MetricFile]:
        """The initial file of each name with cells that also has an incremental one."""
        nightly = {file.name for file in self.in_mode(Mode.INCREMENTAL) if file.mode is Mode.INCREMENTAL}
        initial = (file for file in self.in_mode(Mode.INITIAL) if file.mode is Mode.INITIAL)
        return {file.name: file for file in initial if file.name in nightly & self.cells}

    @cached_property
    def names(self) -> frozenset[str]:
        """The metrics that some enabled file writes."""
        return frozenset(file.name for file in self.files if not file.disabled and not file.is_helper)

    @cached_property
    def describing_files(self) -> dict[str, MetricFile]:
        """The file of each of `names` whose header describes it: the night's, or else that of the initial load."""
        in_order = [*self.in_mode(Mode.INITIAL), *self.in_mode(Mode.INCREMENTAL)]
        return {file.name: file for file in in_order if file.name in self.names and not file.is_helper}

    @cached_property
    def work_tables(self) -> frozenset[str]:
        """The helpers without cells: each file of theirs empties its table before it fills it."""
        return frozenset(name for name, files in self.by_name.items() if all(file.is_work_table for file in files))

    @cached_property
    def helper_names(self) -> frozenset[str]:
        """The enabled helpers that have cells."""
        return frozenset(file.name for file in self.files if not file.disabled) - self.names - self.work_tables

    @cached_property
    def cells(self) -> frozenset[str]:
        """The metrics and helpers that have cells and an enabled file."""
        return self.names | self.helper_names

    @cached_property
    def nightly(self) -> dict[str, Nightly]:
        """Those of `cells` that a night runs, in run order."""
        files = (file for file in self.in_mode(Mode.INCREMENTAL) if file.name in self.cells)
        return {file.name: Nightly(file.is_helper, file.period, file.final_after) for file in files}

    def period(self, name: str) -> Period:
        """Return the period of a name's rows; a day for a name without a file."""
        return self.by_name[name][0].period if name in self.by_name else DAY

    @cached_property
    def periods(self) -> dict[str, Period]:
        """The period of each of `cells` whose rows are not of a day."""
        return {name: self.period(name) for name in sorted(self.cells) if self.period(name) != DAY}

    def final_after(self, name: str) -> int:
        """Return how many days after the end of its period a number of a name is complete."""
        return self.by_name[name][0].final_after if name in self.by_name else 0

    def definition(self, name: str) -> str:
        """Return 16 hex digits of what the enabled files of a name compute; comments and blanks do not count."""
        if name not in self._definitions:
            parts: list[str] = []
            used: set[str] = set()
            for file in sorted(self.files_of(name), key=lambda file: file.path):
                parts += [file.mode.value if file.mode else "", file.data_type, file.empty_value or ""]
                parts += [str(file.period)] if file.period != DAY else []
                for statement in file.statements:
                    parts += [*(token.text for token in statement.tokens if token.kind not in SPACE), ";"]
                used |= file.script.parameters
            parts += [f"{each}={self.parameters[each]}" for each in sorted(used & self.parameters.keys())]
            text = "\0".join(parts).replace("\r\n", "\n")
            self._definitions[name] = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self._definitions[name]

    @cached_property
    def _definitions(self) -> dict[str, str]:
        return {}

    # --- what a file reads --------------------------------------------------------------------------------------------

    def reads_of(self, file: MetricFile) -> frozenset[str]:
        """Return the metrics, helpers and work tables that a file reads; names without a file or a row are left out.

        The metrics are those of its `-- Reads:` line, else of its text. A helper is read by naming a table of it.
        """
        names = self.every_metric if self.reads_everything(file) else file.declared_reads or file.reads.metrics.keys()
        return (self.known & names) | self.helpers_read(file).keys()

    @cached_property
    def reads_by_path(self) -> dict[str, frozenset[str]]:
        """What reads_of() returns for each file."""
        return {file.path: self.reads_of(file) for file in self.files}

    def reads_everything(self, file: MetricFile) -> bool:
        """Tell whether a file may read every metric: its header says so, or nothing says which."""
        return EVERY_METRIC in file.declared_reads or bool(self.unclear(file))

    def unclear(self, file: MetricFile) -> list[Unclear]:
        """Return the places that hide which metrics a file reads; none if its `-- Reads:` line says it."""
        if file.declared_reads:
            return []
        hidden = [Unclear(token, self._behind[name].hides) for name, token in self._code_of(file)]
        noted = [table for each in self.behind_metrics for table in each.written]
        through = [Unclear(token, f"a trigger on {METRICS_TABLE} writes it")
                   for table, token in self.tables_read(file) if any(map(table.is_same, noted))]  # fmt: skip
        return [*file.reads.unclear, *(each for each in hidden if each.why), *through]

    def helpers_read(self, file: MetricFile) -> dict[str, Token]:
        """Return the names whose files write a table that a file reads, and where it first names such a table."""
        found: dict[str, Token] = {}
        # A function that writes a table and reads it makes its file no reader of itself.
        kept_inside = {(table, token) for name, token in self._code_of(file) for table in self._behind[name].written}
        for table, token in self.tables_read(file):
            for name in self.writers_of(table):
                if name != file.name or (table, token) not in kept_inside:
                    found.setdefault(name, token)
        for table, token in file.reads.updated.items():
            for name in self.writers_of(table):
                if name != file.name:
                    found.setdefault(name, token)
        return found

    def tables_read(self, file: MetricFile) -> list[tuple[Table, Token]]:
        """Return the tables that a file reads, also through views, and where; own temporary tables are left out."""
        own = [each for each in file.reads.tables.items() if each[0].name not in file.temporary_tables]
        return own + [(table, token) for name, token in self._code_of(file) for table in self._behind[name].tables]

    def writers_of(self, table: Table) -> list[str]:
        """Return the names whose files write a lasting table."""
        return [name for name, written in self._writers.get(table.name.lower(), ()) if written.is_same(table)]

    def _code_of(self, file: MetricFile) -> list[tuple[str, Token]]:
        """Return the names in `behind_sql` of what a file names or fires, and where."""
        if not self._behind:
            return []
        triggers = [(trigger_of(table), statement.code[0]) for table, statement in self.written_by(file)]
        named = file.reads.code_names(file.temporary_tables).items()
        return [(name, token) for name, token in [*named, *triggers] if name in self._behind]

    def written_by(self, file: MetricFile) -> Iterator[tuple[Table, Statement]]:
        """Yield the lasting tables, but bi_metrics, that the statements of a file write, also through views."""
        for statement in file.lasting_writes():
            if statement.target and not statement.writes_metrics:
                target = statement.target.lower()
                through = self._behind[str(target)].tables if str(target) in self._behind else ()
                yield from ((table, statement) for table in (target, *through))

    def every_table_written(self, file: MetricFile) -> set[Table]:
        """Return the lasting tables, but bi_metrics, that a file writes: also by functions, triggers, foreign keys."""
        found = {table for name, _ in self._code_of(file) for table in self._behind[name].written}
        changed = self._changed_by_keys(found)
        for table, statement in self.written_by(file):
            found.add(table)
            if statement.verb != "INSERT":
                changed |= self._changed_by_keys([table], statement.verb != "UPDATE", statement.verb != "DELETE")
            elif columns := _columns_updated(statement):
                is_itself = statement.target and statement.target.lower() == table  # a view may rename its columns
                changed |= self._changed_by_keys([table], deletes=False, columns=columns if is_itself else None)
        while changed - found:
            found |= changed
            changed = self._changed_by_keys(changed)
        return found

    def _changed_by_keys(
        self, tables: Iterable[Table], deletes: bool = True, updates: bool = True, columns: set[str] | None = None
    ) -> set[Table]:
        """Return the tables that foreign keys change when rows of some tables are deleted, or some columns updated."""
        return {
            key.child for table in tables for key in self.foreign_keys
            if key.parent.is_same(table) and (columns is None or key.column in {"", *columns})
            and ((deletes and key.on_delete) or (updates and key.on_update))
        }  # fmt: skip

    def behind(self, file: MetricFile) -> list[Behind]:
        """Return what is behind the views and stored functions that a file uses, and the triggers that it fires."""
        on_metrics = self.behind_metrics if file.kind is Kind.INSERT else []
        return [*(self._behind[name] for name, _ in self._code_of(file)), *on_metrics]

    @cached_property
    def behind_metrics(self) -> list[Behind]:
        """What is behind the triggers on bi_metrics; none if there are none."""
        found = self._behind.get(trigger_of(Table("", METRICS_TABLE)))
        return [found] if found else []

    def definitions_used(self, file: MetricFile) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield the name in `behind_sql` of each definition that a file or its checks use, and line and column."""
        used = [(self._behind[name], place(file.script.text, token.offset)) for name, token in self._code_of(file)]
        for statement in () if file.is_helper else file.statements[-1:]:
            used += [(each, (statement.line, statement.column)) for each in self.behind_metrics]
        for check in file.script.checks if self._behind else ():
            names = reads_of([check.statement]).code_names().items()
            used += [(self._behind[name], (check.line, check.column + token.offset))
                     for name, token in names if name in self._behind]  # fmt: skip
        for behind, at in used:
            yield from ((name, at) for name in behind.reached)

    def runs_code(self, file: MetricFile) -> bool:
        """Tell whether a stored function or a trigger is known to run with a file: it may change the session."""
        return any(each.is_code for each in self.behind(file))

    def functions_write(self, file: MetricFile) -> bool:
        """Tell whether stored functions that a file calls may write a table."""
        if not self._behind:
            return False
        return any(self._behind[name].written for name in self._behind.keys() & file.reads.code_names())

    def behind_checks(self, file: MetricFile) -> list[Behind]:
        """Return what is behind the views and stored functions that the checks of a file use."""
        return [self._behind[name] for name in sorted(self._behind.keys() & file.reads_of_checks.code_names())]

    def checks_run_code(self, file: MetricFile) -> bool:
        """Tell whether a stored function is known to run with the checks of a file."""
        return any(each.is_code for each in self.behind_checks(file))

    @cached_property
    def _behind(self) -> dict[str, Behind]:
        return reads_behind(self.behind_sql)

    @cached_property
    def _writers(self) -> dict[str, list[tuple[str, Table]]]:
        """By the lower-case name of a lasting table: the names whose files write it, and how they name it."""
        found: dict[str, list[tuple[str, Table]]] = {}
        for name, files in self.by_name.items():
            for table in set[Table]().union(*map(self.every_table_written, files)):
                found.setdefault(table.name.lower(), []).append((name, table))
        return found

    @cached_property
    def known(self) -> frozenset[str]:
        """Every name that has a file, also a disabled one, or rows, or cells."""
        return frozenset(self.by_name) | (self.stored or frozenset()) | self.computed

    @cached_property
    def every_metric(self) -> frozenset[str]:
        """Those that are metrics: what `-- Reads: *` means."""
        helpers = {name for name, files in self.by_name.items() if all(file.is_helper for file in files)}
        return self.known - (helpers - (self.stored or frozenset()))

    # --- which name reads which ---------------------------------------------------------------------------------------

    @cached_property
    def _direct(self) -> dict[str, frozenset[str]]:
        """What each name that has a file reads, work tables among it: the union over its files."""
        found = self.by_name.items()
        return {name: frozenset[str]().union(*(self.reads_of(file) for file in files)) for name, files in found}

    @cached_property
    def reads(self) -> dict[str, frozenset[str]]:
        """What each metric and helper reads, itself included if it reads itself; not through others but work tables.

        The rows of a name without a file may have been computed from anything. A disabled file counts by its text.
        """
        everything = self.known - self.work_tables
        found = {}
        for name in everything:
            parts = [self._direct.get(each, everything) for each in (name, *self.work_tables_of(name))]
            found[name] = frozenset().union(*parts) - self.work_tables
        return found

    def helpers_needed(self, names: Iterable[str]) -> frozenset[str]:
        """Return the helpers with cells that some names read, also through other helpers."""
        return frozenset(closure(names, self._helpers_read))

    @cached_property
    def _helpers_read(self) -> dict[str, frozenset[str]]:
        return {name: read & self.helper_names for name, read in self.reads.items()}

    def work_tables_of(self, name: str) -> frozenset[str]:
        """Return the work tables that a name reads, also through other work tables."""
        return frozenset(closure([name], self._work_tables_read))

    def with_work_tables(self, names: Collection[str]) -> frozenset[str]:
        """Return some names, and the work tables that they read."""
        return frozenset(names).union(*map(self.work_tables_of, names))

    def dependents_of_work_table(self, name: str) -> frozenset[str]:
        """Return the names with cells that read a work table; none if the name is not one of a work table."""
        return frozenset(each for each in self.cells if name in self.work_tables_of(each))

    def disable_hint(self, name: str) -> str:
        """Return how to run without a metric or helper, in words."""
        paths = [file.path for file in self.files_of(name)]
        names = " and ".join(f"_{each}" for each in dict.fromkeys(PurePosixPath(path).name for path in paths))
        return f"To run without this metric: rename {' and '.join(paths)} to {names}"

    @cached_property
    def _work_tables_read(self) -> dict[str, frozenset[str]]:
        return {name: read & self.work_tables for name, read in self._direct.items()}

    @cached_property
    def dependents(self) -> dict[str, frozenset[str]]:
        """The others that read each metric and helper, directly."""
        found: dict[str, set[str]] = {name: set() for name in self.reads}
        for name, read in self.reads.items():
            for each in read - {name}:
                found[each].add(name)
        return {name: frozenset(others) for name, others in found.items()}

    @cached_property
    def ended(self) -> frozenset[str]:
        """The names that may go without new rows: their file is disabled, and no file of the night reads them."""
        disabled = {file.name for file in self.files if file.disabled} - self.nightly.keys()
        return frozenset(name for name in disabled if not self.nightly.keys() & self.dependents.get(name, ()))

    def all_dependents(self, names: Iterable[str]) -> frozenset[str]:
        """Return what reads some names, directly or through others, without these names."""
        given = frozenset(names)
        return frozenset(closure(given, self.dependents)) - given

    @cached_property
    def early_dependents(self) -> dict[str, frozenset[str]]:
        """The dependents of each name that run before it in every mode in which both run."""

        def is_early(dependent: str, name: str) -> bool:
            both = [order for order in self.positions.values() if dependent in order and name in order]
            return bool(both) and all(order[dependent] < order[name] for order in both)

        return {
            name: frozenset(each for each in dependents if is_early(each, name))
            for name, dependents in self.dependents.items()
        }

    @cached_property
    def inputs(self) -> dict[str, frozenset[str]]:
        """What each metric and helper reads, directly or through others; itself only if a way leads back to it."""
        return {name: frozenset(closure([name], self.reads)) for name in self.reads}


def load_catalog(folder: Path, parameters: Mapping[str, str] | None = None) -> Catalog:
    """Read every metric file straight in `folder`, in its initial/ and its incremental/.

    `parameters` are the values that definitions cover. A file that is broken is in the catalog all the same;
    src.metric_file.checks tells what is wrong with it. Raises MetricFileError for one that cannot be read at all.
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
                files.append(_read(path, f"{folder.name}/{path.relative_to(folder)}", mode))
    # Prefixed files first, by number; then the others; among equals by name.
    files.sort(key=lambda file: (file.prefix is None, file.prefix or 0, file.name, file.path))
    return Catalog(tuple(files), parameters or {})


def select(catalog: Catalog, mode: Mode, patterns: Sequence[str]) -> tuple[MetricFile, ...]:
    """Return the files of a mode whose name matches one of the shell patterns, in run order; without patterns, all.

    Raises UsageError if a pattern matches nothing, or if there is nothing at all.
    """
    files = catalog.in_mode(mode)
    if not files:
        raise UsageError("there are no metric files in the folder of METRICS_DIR (default: sql/); see docs/metrics.md")
    names = {file.name for file in files}
    where = f"for {'--initial' if mode is Mode.INITIAL else 'single dates'}"
    chosen = matching(names, patterns, where) if patterns else names
    return tuple(file for file in files if file.name in chosen)


def matching(names: Collection[str], patterns: Iterable[str], which: str) -> set[str]:
    """Return the names that match a shell pattern. Raises UsageError if one matches nothing; `which` tells of what."""
    chosen: set[str] = set()
    for pattern in (normalize("NFC", each) for each in patterns):
        matched = {name for name in names if name == pattern} or {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            near = get_close_matches(pattern, sorted(names), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"no metric {which} matches {pattern!r}{hint} (list_metrics.py shows all)")
        chosen |= matched
    return chosen


def split_name(file_name: str) -> tuple[int | None, str]:
    """Split a file name: 03_users.sql is prefix 3 and metric "users", 7d_active.sql has no prefix."""
    stem = file_name[: -len(".sql")]
    match = _PREFIX.match(stem)
    return (int(match[1]), stem[match.end() :]) if match else (None, stem)


def _columns_updated(statement: Statement) -> set[str]:
    """Return the columns, in lower case, that ON DUPLICATE KEY UPDATE sets; none if it is not there."""
    start = phrase_at(statement.words, UPSERT)
    found = set()
    for item in items(statement.code[start + len(UPSERT) :]) if start is not None else ():
        before = list(takewhile(lambda token: token.text != "=", item))
        found |= {before[-1].name} if before else set()
    return found


def _read(path: Path, shown: str, mode: Mode | None) -> MetricFile:
    disabled = path.name.startswith(("_", "."))
    prefix, name = split_name(path.name.lstrip("_.") if disabled else path.name)
    # macOS takes accents apart, and a literal of SQL has them whole. Bytes that are not UTF-8 could not be sent.
    name = normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
    # Bytes that are not UTF-8 become lone surrogates, which no valid file holds: the rule not-utf8 finds them there.
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise MetricFileError(f"{shown}: cannot read it: {error.strerror}") from None
    return MetricFile(name, shown, mode, prefix, disabled, parse(text))
