"""What is wrong with metric files: one function for each rule, with its words beside it. Needs no database."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Literal

from src.errors import MetricFileError
from src.metric_file.file import TESTS, Kind, MetricFile, Mode, Script, parse
from src.metric_file.header import DATA_TYPES, HeaderLine, nearest_key
from src.metric_file.parameters import DATE_PARAMETERS
from src.metric_file.period import Period, parse_final_after, parse_period, parse_running
from src.metric_file.text import (
    BEFORE_TABLE,
    METRICS_TABLE,
    OUR_TABLES,
    TABLES_OF_THE_RUN,
    UPSERT,
    WRITERS,
    Statement,
    Table,
    Token,
    items,
    outermost,
    phrase_at,
    place,
    unquoted,
)
from src.metric_file.usual import parse_usual
from src.sql_loader import EVERY_METRIC, Catalog
from src.wording import count, printable

Severity = Literal["error", "warning"]

LONGEST_NAME = 100  # characters of bi_metrics.metrics
_HEADER_VALUES: dict[str, Callable[[str], object]] = {
    "period": parse_period, "running": parse_running, "final after": parse_final_after, "usual": parse_usual
}  # fmt: skip
ALLOWED_ERRORS = ("reads-later-metric", "warnings")  # the latter are the server's, of what a file computes
_DECIDING_LINE = re.compile(
    r"(?i)--[ \t]+(Check([ \t]*\(ended\))?|Warn|Usual|Reads|Empty|Allow|Period|Running|Final After)[ \t]*:"
)
_PARAMETER = re.compile(r"(?<!%)(?:%%)*%\(([0-9A-Za-z_]+)\)s")
_ALLOWED = WRITERS | {"SELECT", "SET", "DO", "SHOW", "EXPLAIN", "DESCRIBE", "DESC", "USE"}
_TEMPORARY = ("CREATE TEMPORARY TABLE ", "CREATE OR REPLACE TEMPORARY TABLE ", "DROP TEMPORARY TABLE ")
_INSTEAD = {
    "BEGIN COMMIT ROLLBACK START SAVEPOINT RELEASE XA LOCK UNLOCK": "the run owns the transaction; remove it",
    "CREATE DROP ALTER RENAME": "it commits; create lasting tables outside, or make it TEMPORARY",
    "TRUNCATE": "it commits; write DELETE FROM",
    "CALL": "a procedure can commit; write its statements here",
    "VALUES TABLE": "write it as a SELECT",
    "WITH": "write the SELECT that ends it without parentheses around it",
    "DELIMITER SOURCE TEE PAGER PROMPT EXIT QUIT": "it is a command of the mysql client; remove it",
}
_PHRASES = ("INTO OUTFILE", "INTO DUMPFILE", "FOR UPDATE", "FOR SHARE", "LOCK IN SHARE MODE")
# Functions and settings that tell of the statement before, which may be another file's, or of the run.
_OF_LAST = {
    "row_count": "count the rows by a query", "found_rows": "count the rows by a query",
    "last_insert_id": "read the id by a query", "identity": "read the id by a query",
    "insert_id": "read the id by a query", "warning_count": "remove it", "error_count": "remove it",
}  # fmt: skip
_SEQUENCES = ("nextval", "lastval", "setval")
_RANKING = ("SELECT", "FROM", "GROUP", "ORDER", "LIMIT")  # words of a query that ranks
_MOVES_A_DATE = frozenset({"DATE_ADD", "DATE_SUB", "ADDDATE", "SUBDATE"})
# Units of less than a day, and how many make one: a bound that is moved by fewer means no other day.
_PER_DAY = {"MICROSECOND": 86_400_000_000, "SECOND": 86_400, "MINUTE": 1_440, "HOUR": 24}
_CONSTANTS = ("string", "number", "parameter")  # kinds of tokens
_AGGREGATES = frozenset({"COUNT", "SUM", "AVG", "MIN", "MAX"})
_CALLED_CLOCKS = frozenset({"NOW", "SYSDATE", "CURDATE", "CURTIME", "UNIX_TIMESTAMP", "RAND", "UUID", "UUID_SHORT"})
_CLOCKS = _CALLED_CLOCKS | {"CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP",
                            "UTC_DATE", "UTC_TIME", "UTC_TIMESTAMP"}  # fmt: skip
_CHOOSING = frozenset({"LEAST", "GREATEST", "COALESCE", "IFNULL", "NULLIF", "IF"})
_CHOICES = frozenset({"", ",", "(", ")", "=", "<=>", "<>", "!=", "<", ">", "<=", ">=", "IS", "AND", "OR",
                      "WHEN", "THEN", "ELSE", "END"})  # fmt: skip
_ASSIGNS = (("=",), (":=",))
_BEFORE_ITEMS = {"ALL", "DISTINCT", "DISTINCTROW", "HIGH_PRIORITY", "STRAIGHT_JOIN", "SQL_NO_CACHE", "SQL_CACHE",
                 "SQL_BIG_RESULT", "SQL_SMALL_RESULT", "SQL_BUFFER_RESULT", "SQL_CALC_FOUND_ROWS"}  # fmt: skip
_AFTER_ITEMS = {"FROM", "INTO", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "UNION", "EXCEPT", "INTERSECT", "FOR", ""}
_AFTER_A_TERM = _AFTER_ITEMS | {"AND", "OR", "XOR", "&&", "||", ",", "THEN", "WHEN", "ELSE", "END", "AS", "ON", "JOIN",
                                "LEFT", "RIGHT", "INNER", "CROSS", "WINDOW", "IS"}  # fmt: skip
_BEFORE_AN_OPERAND = {"AND", "OR", "XOR", "NOT", "LIKE", "RLIKE", "REGEXP", "IN", "IS", "DIV", "MOD", "BETWEEN",
                      "BINARY", "COLLATE", "ESCAPE", "OVER", "INTERVAL"}  # fmt: skip
# Operators that choose rows on one side of a date, each with the one that says the same if its operands change places.
_SIDES = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_UNEQUAL = {"<>", "!=", "NOT IN"}
_COMPARES = {"=", "<=>", "IN", "BETWEEN", "<>", "!=", *_SIDES}
_TERM_ENDS = {"WHERE", "AND", "OR", "XOR", "&&", "||", ",", ")"}
_AFTER_GROUPS = {"HAVING", "WINDOW", "ORDER", "LIMIT", "ON", "AS", "UNION"}
_NO_NAMES = {"END", "NULL", "TRUE", "FALSE", "UNKNOWN"}
_ITEM_ENDS = ("", ",", ")", "FROM")  # what may follow an item of a SELECT or of VALUES


@dataclass(frozen=True, order=True)
class Problem:
    """One fault at one place. `line` and `column` count from 1, in characters."""

    file: str
    line: int
    column: int
    severity: Severity
    rule: str
    message: str

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}:{self.column}: {self.severity}: {self.rule}: {self.message}"
        return printable(text)


_Where = int | Token | HeaderLine  # a number is an offset in the text
# Where and what; with True it is an error, whatever the severity of the rule is.
_Found = Iterator[tuple[_Where, str] | tuple[_Where, str, bool]]


def check_catalog(
    catalog: Catalog, files: Iterable[MetricFile], parameters: Collection[str], database: str = ""
) -> list[Problem]:
    """Return the problems of `files`, sorted by file, line and column; they are compared with the whole catalog.

    `parameters` are the names that the settings define, in lower case; `database` is DB_NAME, which USE may name.
    """
    known = DATE_PARAMETERS | frozenset(parameters)
    found: list[Problem] = []
    for file in files:
        allowed = file.script.header_list("allow")
        for check in (None, *file.script.checks):
            rules = _Rules(file, parse(check.value) if check else file.script, check, catalog, known, database)
            for name in _FOR_CHECKS if check else _FOR_FILES:
                for where, message, *is_error in getattr(rules, name.replace("-", "_"))():
                    severity: Severity = "error" if any(is_error) else RULES[name]
                    if name not in allowed or (severity == "error" and name != "reads-later-metric"):
                        found.append(Problem(file.path, *rules._place(where), severity, name, message))
    return sorted(found)


def placement_problems(catalog: Catalog, folder: Path) -> list[Problem]:
    """Return a warning, `misplaced`, for each file that misses a run because of the folder it is in."""
    root, looked_into = folder.name, {folder, folder / TESTS, *(folder / mode.value for mode in Mode)}
    found = []
    for path in folder.rglob("*.[sS][qQ][lL]"):
        if path.parent not in looked_into or not (path.exists() or path.name.startswith(".")):  # an editor's lock
            cure = f"no run looks into this folder; move it to {root}/, {root}/incremental/ or {root}/initial/"
            message = cure if path.exists() else "a link to nothing; repair it, or remove it"
            found.append((f"{root}/{path.relative_to(folder)}", message))
    there = {mode: {each.name for each in catalog.in_mode(mode)} for mode in Mode}
    for file in catalog.files:
        other = Mode.INCREMENTAL if file.mode is Mode.INITIAL else Mode.INITIAL
        allowed = file.disabled or file.is_helper or "misplaced" in file.script.header_list("allow")
        if file.mode and file.name not in there[other] and not allowed:
            cost = "never runs at night" if other is Mode.INCREMENTAL else "does not run in --initial"
            cure = f"add it to {root}/{other.value}/ as well, or move it to {root}/ for both"
            found.append((file.path, f"the metric {cost}; {cure}"))
    return sorted(Problem(path, 1, 1, "warning", "misplaced", message) for path, message in found)


@dataclass(frozen=True)
class _Rules:
    """The rules, for a file or for one of its checks. Their docstrings say why they are there."""

    file: MetricFile
    script: Script  # of the file, or of the check
    check: HeaderLine | None
    catalog: Catalog
    parameters: frozenset[str]
    database: str

    def _place(self, where: _Where) -> tuple[int, int]:
        if isinstance(where, HeaderLine):
            return where.line, where.column
        offset = where.offset if isinstance(where, Token) else where
        return (self.check.line, self.check.column + offset) if self.check else place(self.script.text, offset)

    def unterminated(self) -> _Found:
        """A quote or a comment that is never closed swallows the rest of the file."""
        opened: Token | None = None
        for token in (*self.script.tokens, Token("end", ";", 0)):
            if token.kind == "unterminated":
                what = "comment" if token.text.startswith("/*") else f"quote {token.text[0]}"
                yield token, f"the {what} that starts here is never closed"
            elif token.kind == "end" and opened:
                yield opened, f"the comment {opened.text} is not closed before its statement ends"
            if token.kind in ("open", "close", "end"):
                opened = token if token.kind == "open" else None

    def empty_file(self) -> _Found:
        """A file without a statement computes nothing."""
        if not self.file.statements:
            yield 0, "no statement in this file; write the metric, or start its name with _ to disable it"

    def not_utf8(self) -> _Found:
        """Bytes that are not UTF-8 reach the database as other characters than the author saw."""
        if re.search("[\udc80-\udcff]", self.file.path):
            yield 0, "the file's name is not UTF-8; rename the file"
        if bad := re.search("[\udc80-\udcff]", self.script.text):
            yield bad.start(), f"byte 0x{ord(bad[0]) - 0xDC00:02x} is not UTF-8; save the file as UTF-8"

    def unknown_parameter(self) -> _Found:
        """A parameter without a value cannot be sent."""
        for token in self.script.tokens:
            if token.kind == "parameter" and (name := token.text[2:-2]) not in self.parameters:
                near, known = _nearest(name, self.parameters), ", ".join(sorted(self.parameters))
                hint = f"did you mean %({near})s?" if near else f"known: {known}; METRIC_PARAM_<NAME> in .env adds one"
                yield token, f"unknown parameter %({_cut(name)})s; {hint}"

    def quoted_parameter(self) -> _Found:
        """A parameter becomes a quoted literal, so inside quotes it is text and no value."""
        for token in self.script.tokens:
            for match in _PARAMETER.finditer(token.text) if token.kind in ("string", "name") else ():
                if _nearest(match[1], self.parameters):  # LIKE '%(foo)s' may be meant as it stands
                    cure = "it is replaced by a quoted value; remove the quotes, or use CONCAT"
                    yield token.offset + match.start(1) - 2, f"%({_cut(match[1])})s must not be in quotes: {cure}"

    def missing_metric_date(self) -> _Found:
        """A metric that does not depend on its date gets the same value for every date."""
        has_date = self._names_a_date() or self.catalog.work_tables_of(self.file.name)  # which holds those of the date
        if not self.file.is_helper and not has_date:
            yield _row_maker(self.file), "every date would get the same value; use %(metric_date)s"

    def helper_without_date(self) -> _Found:
        """A helper that names no date fills its table with the same rows whatever date it runs for."""
        file = self.file
        if file.is_helper and file.statements and not file.is_work_table and not self._names_a_date():
            cure = "use %(metric_date)s, or empty the table first if it holds the rows of one date alone"
            yield _row_maker(file), f"this helper names no date, so a past date gets today's rows; {cure}"

    def own_name(self) -> _Found:
        """A row is found by the metric's name: an INSERT must write its file's own, and the column must hold it."""
        name = self.file.name
        if len(name) > LONGEST_NAME:
            yield 0, f"the name has {len(name)} characters, bi_metrics holds {LONGEST_NAME}; shorten it"
        if name.startswith("-"):
            yield 0, "the name begins with -, and the commands would take it for an option; rename the file"
        if name.endswith(" "):
            yield 0, "the name ends with a blank, and the server compares names without it; rename the file"
        if self.file.kind is Kind.INSERT and not self._literal(name):
            message = f"the string '{_cut(name)}' is nowhere in this file; write it to the column metrics"
            yield _row_maker(self.file), message

    def not_idempotent(self) -> _Found:
        """A date that is run again must replace its rows: INSERT fails or doubles them, INSERT IGNORE keeps the old."""
        emptied: list[Table] = []  # of the rows of the date
        faults: list[tuple[Table, str]] = []  # of the DELETEs of other rows, such as old ones
        reads = self.file.reads
        is_set_based_on_metrics = self.file.is_set_based and (reads.metrics or reads.unclear)
        for statement in self.file.lasting_writes():
            words, at, target = statement.words, statement.verb_at, statement.target
            update = phrase_at(words, UPSERT)
            if statement.verb == "DELETE" and target:
                if fault := _fault_of_delete(statement):
                    faults.append((target, fault))
                else:
                    emptied.append(target)
            elif statement.verb != "INSERT" or target is None or any(map(target.is_same, emptied)):
                continue
            elif statement.writes_metrics and "IGNORE" in words[at : at + 3]:
                message = "INSERT IGNORE keeps the old row; write INSERT ... ON DUPLICATE KEY UPDATE"
                yield statement.code[words.index("IGNORE", at)], message
            elif update is None and statement.writes_metrics:
                yield statement.code[at], "a date that is run again would fail; add ON DUPLICATE KEY UPDATE"
            elif update is None:
                cure = f"DELETE its rows from {_cut(target.name)} first, or add ON DUPLICATE KEY UPDATE"
                cure = next((fault for table, fault in faults if target.is_same(table)), cure)
                message = f"a date that is run again must replace its rows and no others; {cure}"
                yield statement.code[at], message
            elif added := _added_to_itself(statement, update + len(UPSERT)):
                message = f"{_cut(added.text)} is added to what is there, once more whenever a date is run again"
                yield added, f"{message}; write {_cut(added.text)} = VALUES({_cut(added.text)})"
            elif statement.writes_metrics and is_set_based_on_metrics and "VALUES" not in words[update:]:
                message = "MariaDB may store another date's value here; write value_list = VALUES(value_list)"
                yield statement.code[update], message

    def keeps_old_rows(self) -> _Found:
        """REPLACE and an upsert leave the rows that the source gave for the date before and gives no more."""
        emptied: list[Table] = []
        for statement in self.file.lasting_writes() if self.file.is_helper else ():
            target = statement.target
            if statement.verb == "DELETE" and target and not _fault_of_delete(statement):
                emptied.append(target)
            elif target and not any(map(target.is_same, emptied)) and _number_of_groups(statement) > 1:
                cure = f"DELETE FROM {_cut(target.name)} WHERE day = %(metric_date)s first"
                yield statement.code[statement.verb_at], f"a group that the source gives no more keeps its row; {cure}"

    def deletes_other_dates(self) -> _Found:
        """An initial load runs a helper for all of its dates before what reads it, so their rows must stay."""
        writes = [*self.file.lasting_writes()] if self.file.is_helper else []
        filled = [each.target for each in writes if each.target and each.verb != "DELETE"]
        for statement in writes:
            target = statement.target if statement.verb == "DELETE" and _fault_of_delete(statement) else None
            if target and any(map(target.is_same, filled)):
                cure = "delete old rows outside of the metric files, and before an INSERT those of the date, or all"
                yield statement.code[statement.verb_at], f"rows of other dates are gone before they are read; {cure}"

    def metric_became_helper(self) -> _Found:
        """A metric whose file writes no row of it any more would end without a word."""
        file, name = self.file, _cut(self.file.name)
        other = next((each for each in self.catalog.files_of(file.name) if not each.is_helper), None)
        if not file.is_helper or not file.statements:
            return
        if other:
            yield 0, f"{file.path} is a helper and {other.path} a metric, both named {name}; rename one of them"
        elif file.name in (self.catalog.stored or ()):
            written = next((s for s in file.lasting_writes() if s.target), None)
            why = f"it writes {_cut(written.target.name)}" if written and written.target else "no SELECT ends it"
            cure = "move that to a file of its own, or rename this file"
            at = written.code[0] if written else _row_maker(file)
            yield at, f"the metric {name} has rows, and this file no longer writes it: {why}; {cure}"

    def duplicate_metric(self) -> _Found:
        """Two files of one name that run in the same mode overwrite each other's rows."""
        for other in self.catalog.same_name(self.file):
            if other.mode == self.file.mode or None in (other.mode, self.file.mode):
                cure = "rename one of them, or start its name with _ to disable it"
                yield 0, f"{self.file.path} and {other.path} both define {_cut(other.name)}; {cure}"
                return

    def no_initial_file(self) -> _Found:
        """A number that is built on itself must also be computable from the source: else it cannot start or heal."""
        file, root = self.file, self.file.path.partition("/")[0]
        own = (self.catalog.helpers_read(file) if file.is_helper else self._metrics_named()).get(file.name)
        files = self.catalog.files_of(file.name)
        can_start = any(each.mode is Mode.INITIAL and each.is_helper == file.is_helper for each in files)
        is_fine = file.disabled or file.name in self.catalog.work_tables
        if own is None or is_fine or (can_start and file.mode is Mode.INCREMENTAL):
            return
        if file.is_helper and any(statement.is_query and own in statement.code for statement in file.statements):
            return  # it looks at its table and builds nothing
        what = "helper" if file.is_helper else "metric"
        cure = f"add {root}/initial/{_cut(file.name)}.sql that computes it from the source"
        if file.mode is Mode.INITIAL:
            cure = "an initial file computes it from the source alone"
        elif file.mode is None:
            cure = f"move it to {root}/incremental/ and {cure}"
        yield own, f"the {what} is built on its own earlier rows; {cure}"

    def period(self) -> _Found:
        """The rows of a metric lie on the ends of its periods, so all files of its name have the same period."""
        for other in self.catalog.files_of(self.file.name):
            mine, theirs = (
                (file.period, file.final_after, file.has_running_row) for file in (self.file, other)
            )
            if mine != theirs and not self.file.disabled:
                yield 0, (f"{self.file.path} has the period {mine[0]} and {other.path} has {theirs[0]}; give both the "
                          "same lines -- Period:, -- Running: and -- Final After:")  # fmt: skip
                return

    def utc_window(self) -> _Found:
        """Days before a bound in UTC are an hour off around a change of the clocks."""
        for statement in self.script.statements:
            for i, token in enumerate(statement.code[:-1]):
                words = statement.words
                is_moved = words[i + 1] in ("-", "+") or words[max(i - 2, 0)] in _MOVES_A_DATE
                is_by_days = is_moved and not _is_less_than_a_day(words[i + 1 : i + 6])
                if token.text in ("%(day_start_utc)s", "%(day_end_utc)s") and is_by_days:
                    cure = "write -- Period: 7 days and %(period_start_utc)s"
                    yield token, f"{token.text} with an INTERVAL is an hour off when the clocks change; {cure}"

    def reads_unclear(self) -> _Found:
        """A row is final as long as what it read has not changed, so the run must know what a file reads."""
        for token, why in self.catalog.unclear(self.file):
            cure = "declare the names in the header: -- Reads: a, b"
            if (token, why) in self.file.reads.unclear:  # else the file's own text is clear
                cure = f"say metrics = 'name' for each table of metrics, or {cure}"
            yield token, f"it is unclear which metrics this reads: {why}; {cure}"

    def reads_no_metric(self) -> _Found:
        """A name with neither a file nor a row is misspelled; one with rows but no file is never computed again."""
        catalog, stored = self.catalog, self.catalog.stored
        for name, where in self._metrics_named().items() if stored is not None else ():
            if name in (stored or ()) and name not in catalog.by_name:
                yield where, f"reads the metric {_cut(name)}, which has rows but no file: no run computes it any more"
            elif name not in catalog.known and name != EVERY_METRIC:
                near = _nearest(name, catalog.known)
                cure = f"did you mean {_cut(near)}?" if near else "correct its name"
                yield where, f"reads the metric {_cut(name)}, which has neither a file nor a row; {cure}", True

    def reads_later_metric(self) -> _Found:
        """A file that runs before what it reads finds that one's rows of the date missing, or of an earlier run."""
        file, catalog = self.file, self.catalog
        read = {**self._metrics_named(), **catalog.helpers_read(file)}
        if EVERY_METRIC in read:
            read = {**dict.fromkeys(catalog.every_metric, read[EVERY_METRIC]), **read}
        modes = [mode for mode in Mode if file.mode in (None, mode) and not file.disabled]
        if catalog.initial_files.get(file.name) is file:  # at night it may run at the place of the incremental file
            modes.append(Mode.INCREMENTAL)
        for mode in modes:
            files, position = catalog.in_mode(mode), catalog.positions[mode]
            own = position[file.name]
            later = sorted((position[name], name) for name in read.keys() & position.keys() if position[name] > own)
            if later:
                at, name = later[0]
                more = f" (and {len(later) - 1} more)" if later[1:] else ""
                path = files[own].path
                when = "" if path == file.path else f" at night, when this runs in place of {path}"
                cure = "give that file a smaller number, or allow this rule if earlier dates are meant"
                yield read[name], f"reads {_cut(name)}{more}, which {files[at].path} computes later{when}; {cure}"
                return

    def reads_immature(self) -> _Found:
        """What is built on a number that still matures changes with it, so it is complete no sooner."""
        for name, where in {**self._metrics_named(), **self.catalog.helpers_read(self.file)}.items():
            days = self.catalog.final_after(name)
            if days > self.file.final_after:
                yield where, (f"reads {_cut(name)}, whose numbers mature for {count(days, 'day')}, and would be final "
                              f"before them; add the header line -- Final After: {count(days, 'day')}")  # fmt: skip

    def reads_another_period(self) -> _Found:
        """A row of a period is computed at its end, after the rows of the shorter periods that it covers."""
        own, catalog = self.file.period, self.catalog
        for name, where in {**self._metrics_named(), **catalog.helpers_read(self.file)}.items():
            other = catalog.period(name)
            if name in catalog.work_tables and other != own:
                holds = f"reads the work table of {_cut(name)}, which holds the rows of one {other}"
                yield where, f"{holds}, and this file is of a {own}; give both the same -- Period:", True
            elif not _ends_with(own, other):
                cure = "read what that is made of; if an earlier row is meant: -- Allow: reads-another-period"
                yield where, f"reads {_cut(name)}, whose row of a {other} comes after this file's {own}; {cure}"

    def work_table(self) -> _Found:
        """A table that a helper empties holds the rows of one date, so what reads it runs right after the helper."""
        catalog = self.catalog
        for table, token in catalog.tables_read(self.file):
            for name in catalog.writers_of(table):
                nightly = [each for each in catalog.files_of(name) if each.mode is not Mode.INITIAL]
                is_emptied = any(table.is_same(other) for each in nightly for other in each.emptied_tables)
                if name in catalog.work_tables and self.file.is_set_based:
                    cure = "make this file per date, or give the helper dates"
                    yield token, f"{_cut(name)} empties this table for each date, a set-based file runs once; {cure}"
                elif name in catalog.cells - {self.file.name} and is_emptied:
                    cure = "fill this table in a helper of its own"
                    yield token, f"{_cut(name)} empties this table and writes others too, so it need not run; {cure}"
        for statement in self.file.lasting_writes():
            writers = catalog.writers_of(statement.target) if statement.target else ()
            for name in catalog.work_tables.intersection(writers) - {self.file.name}:
                emptied = [table for each in catalog.files_of(name) for table in each.emptied_tables]
                if not (statement.target and any(map(statement.target.is_same, emptied))):
                    continue  # a trigger or a foreign key of that one writes it
                why = "empties and fills this table before each file that reads it"
                yield statement.code[0], f"{_cut(name)} {why}, and what this writes would be lost; write it there"

    def bad_check(self) -> _Found:
        """A `-- Check:` or `-- Warn:` line is one query, and each row that it returns is a fault."""
        found = self.script.statements
        if self.check and (len(found) != 1 or not found[0].is_query):
            what = "a warning" if self.check.is_warning else "a check"
            yield 0, f"{what} is one SELECT on one line; each row that it returns is a fault"

    def forbidden_statement(self) -> _Found:
        """A file does what belongs to the transaction of its date and leaves nothing behind for other files."""
        inserts = 0
        for statement in self.script.statements:
            inserts += statement.writes_metrics
            refused = next(_refusals(statement, self.database), None)
            if refused:
                yield statement.code[min(refused[0], len(statement.code) - 1)], refused[1]
            elif statement.writes_metrics and inserts > 1:
                yield statement.code[0], "a second INSERT into bi_metrics; write it in a file of its own"

    def unset_variable(self) -> _Found:
        """A @variable that the file does not set is NULL: nothing is left of what another file set."""
        read: dict[str, Token] = {}
        known: set[str] = set()
        for statement in self.script.statements:
            targets = _set_targets(statement)
            for i, token in enumerate(statement.code):
                if token.kind == "variable":
                    name = token.text.lower()
                    read.setdefault(name, token)
                    if name in targets.values() and name not in known and i not in targets:
                        why = "is still NULL here, as a SET computes all its values first"
                        yield token, f"{_cut(token.text)} {why}; set it before, in a SET of its own"
                    elif i not in targets and i in statement.assigned:
                        known.add(name)
            known.update(targets.values())
        for token in (read[name] for name in read.keys() - known):
            yield token, f"{_cut(token.text)} is read here and set nowhere; set it, or correct its name"

    def reads_the_clock(self) -> _Found:
        """A past date that is computed again would get today's value."""
        for statement in self.script.statements:
            words, lists = statement.words, [True]  # for each open parenthesis: do items of a SELECT or VALUES follow?
            for i, word in enumerate(words):
                if word == "(":
                    lists.append(words[i + 1] == "SELECT" or words[i - 1] in ("VALUES", "VALUE", ","))
                elif word == ")" and lists[1:]:
                    lists.pop()
                elif word in _CLOCKS and not _is_harmless_clock(words, i, lists[-1]):
                    message = f"{word} gives another value when a past date is run again; use %(metric_date)s"
                    yield statement.code[i], message

    def unread_rows(self) -> _Found:
        """The rows of a SELECT are stored only if the file itself writes no table."""
        written, last = next(self.file.lasting_writes(), None), self.file.statements[-1:]
        if written and written.target and last[0].is_query and ":=" not in last[0].words:
            why = f"these rows are dropped, because the file writes {_cut(written.target.name)}"
            yield last[0].code[0], f"{why}; remove the SELECT, or make it a metric file of its own"
        queries = [s for s in self.file.statements if s.is_query]
        if queries and not written and not last[0].is_query:
            yield queries[-1].code[0], "nothing of this file is stored: make the SELECT its last statement", True
        unread = [query for query in queries[:-1] if ":=" not in query.words]  # which sets variables
        if unread and not written and last[0].is_query:
            yield unread[0].code[0], "only the rows of the last SELECT are stored; remove this one"

    def unnamed_column(self) -> _Found:
        """A column of a SELECT metric becomes a field, which would have the text of its expression as its name."""
        for item in _select_list(self.file.statements[-1]) if self.file.kind is Kind.SELECT else ():
            if not _has_a_name(item):
                text = self.script.text[item[0].offset : item[-1].offset + len(item[-1].text)]
                yield item[0], f"the field would be named {_cut(text)}; name it with AS"

    def between_midnight(self) -> _Found:
        """BETWEEN takes its upper end along, so an event at midnight would count for two days."""
        for statement in self.script.statements:
            words = statement.words
            for i in (i for i, word in enumerate(words) if word == "BETWEEN"):
                upper = _upper_end(words, i)
                adds_a_day = upper[-4:] == ["+", "INTERVAL", "1", "DAY"]
                adds_a_day |= upper[:1] in (["DATE_ADD"], ["ADDDATE"]) and upper[-4:] == ["INTERVAL", "1", "DAY", ")"]
                if adds_a_day or upper == ["%(day_end_utc)s"]:
                    cure = "write at >= ... AND at < ... for a time; for a DATE, allow this rule"
                    yield statement.code[i], f"BETWEEN takes midnight of the next day along; {cure}"

    def limit_over_ties(self) -> _Found:
        """If a LIMIT cuts through equal numbers, another run of the same date may take other rows."""
        for statement in self.script.statements:
            for i, by in _limits_over_ties(statement):
                cure = "add a column that tells them apart, such as that of GROUP BY, to ORDER BY"
                yield statement.code[i], f"which of equal {_cut(by)} stay within this LIMIT is left to chance; {cure}"

    def changes_source(self) -> _Found:
        """Rows that the file has not written belong to somebody else, who would miss them."""
        filled = {s.target[1].lower() for s in self.file.statements if s.target and s.verb in ("INSERT", "REPLACE")}
        for statement in self.file.lasting_writes():
            table = statement.target[1] if statement.target else ""
            if statement.verb in ("UPDATE", "DELETE") and table.lower() not in filled | {METRICS_TABLE}:
                why = f"{statement.verb} of {_cut(table)}, which this file does not fill"
                yield statement.code[statement.verb_at], f"{why}; are these rows its own? Then allow this rule"

    def comment_needs_blank(self) -> _Found:
        """Two dashes begin a comment only before a blank; without it, the server reads what follows as SQL."""
        operators = {token.offset for token in self.script.tokens if token.kind == "operator"}
        starts = {statement.tokens[0].offset for statement in self.script.statements}
        for match in re.finditer(r"(?m)(?:^|;)[^\S\n]*--(?![\x00-\x20\x7f]|\Z)", self.script.text):
            at = match.end() - 2
            # Within a statement, --1 may be the number that is taken away from what stands before.
            is_text = at in starts or re.match(r"[^\W\d]|[-=*#]", self.script.text[match.end() :])
            if at in operators and is_text:
                yield at, "two dashes begin a comment only before a blank; write `-- ` here"

    def header(self) -> _Found:
        """The header tells people, the listing and the run what the number means."""
        file, types = self.file, ", ".join(DATA_TYPES)
        if not file.description:
            yield 0, "no `-- Description:` line; say in one line what the number means"
        if file.kind is Kind.INSERT and not file.data_type:
            yield 0, f"no `-- Data Type:` line; write one of {types}"
        first = next((statement.tokens[0].offset for statement in self.script.statements), len(self.script.text))
        for token in self.script.tokens:
            if token.kind == "comment" and token.offset > first and _DECIDING_LINE.match(token.text):
                yield token, "a header line below the first statement has no effect; move it to the top"
        for line in self.script.header:
            key, value = line.key, line.value
            if near := nearest_key(key):
                yield line, f"the key {_cut(key)} is none of ours; did you mean {near.title()}?", True
            elif key in ("warning", "warnings") and re.match(r"(?i)(SELECT|WITH)\b", value):
                yield line, f"the key {key} is none of ours; did you mean Warn?", True
            elif key == "metric" and value != file.name:
                is_other = value in self.catalog.names
                what = "another metric has this name: a copy?" if is_other else "the file has another name;"
                yield line, f"{what} write {_cut(file.name)} here, or rename the file", is_other
            elif key == "data type" and value and value.lower() not in DATA_TYPES:
                yield line, f"{_cut(value)} is none of {types}", file.kind is Kind.SELECT
            elif key == "dimensions" and file.data_type == "card":
                yield line, "a card has one value per date and no dimensions; make it a ranking, or remove this line"
            elif said := _refused(_HEADER_VALUES[key], value) if key in _HEADER_VALUES else "":
                yield line, said, True
            elif key == "usual":
                yield from ((line, said, True) for said in self._wrong_usual(parse_usual(value).field))
            elif key == "empty" and value.lower() != "ok" and not _is_json(value):
                yield line, 'neither ok nor JSON; write for example `-- Empty: {"users": 0}`', True
            for name in filter(None, map(str.strip, value.split(","))):
                may_be_allowed = name in ALLOWED_ERRORS or RULES.get(name) == "warning"
                if key == "allow" and not may_be_allowed:
                    yield line, f"{_cut(name)} is not a rule that can be allowed; correct or remove it"

    def _wrong_usual(self, field: str) -> Iterator[str]:
        """Yield what is wrong with a `-- Usual:` line of a field, or of all if it is ""."""
        file, fields = self.file, _fields(self.file)
        if file.is_helper or file.data_type == "ranking":
            what = "helper" if file.is_helper else "ranking"
            yield f"a {what} has no number that could be compared with those before it; remove this line"
        elif [usual.field for usual in file.usual].count(field) > 1:
            yield f"two lines for {_cut(field) or 'all fields'}; remove one of them"
        elif field and fields and field not in fields:
            near = get_close_matches(field, fields, 1, 0.4)
            cure = f"did you mean {_cut(near[0])}?" if near else f"there are {_cut(', '.join(fields))}"
            yield f"the SELECT has no field {_cut(field)}; {cure}"

    def _metrics_named(self) -> dict[str, HeaderLine | Token]:
        """Return the metrics that the file says it reads, with the place: those of its header, else of its text."""
        lines = [line for line in self.file.script.header if line.key == "reads"]
        declared = {name.strip(): line for line in reversed(lines) for name in line.value.split(",") if name.strip()}
        return {**(declared or self.file.reads.metrics)}

    def _names_a_date(self) -> bool:
        """Tell whether the code names a parameter of the date; one that is misspelled or in quotes counts."""
        tokens = (token for statement in self.file.statements for token in statement.code if "%(" in token.text)
        names = {name for token in tokens for name in _PARAMETER.findall(token.text)}
        return any(_nearest(name, self.parameters) in DATE_PARAMETERS for name in names)

    def _literal(self, text: str) -> Token | None:
        """Return the first string literal of this text in the file."""
        strings = (token for s in self.file.statements for token in s.code if token.kind == "string")
        return next((token for token in strings if unquoted(token).replace("%%", "%") == text), None)


def _refusals(statement: Statement, database: str) -> Iterator[tuple[int, str]]:
    """Yield a message, and its index in the code, for each thing that is not on the list of allowed statements."""
    words, verb = statement.words, statement.verb
    written_at = statement.target_at if verb in WRITERS else None
    if statement.tokens[0].text.startswith(("/*!", "/*M!")):
        yield 0, "some servers run the comment that the statement starts with, some do not; write it without"
    for i, (token, name) in enumerate(zip(statement.code, statement.names, strict=False)):
        if token.text == "\\":
            yield i, r"a backslash as in \G is for the mysql client; end the statement with ; alone"
        elif name in ("get_lock", "release_lock", "release_all_locks"):
            yield i, f"{words[i]}: the run relies on a lock of its own; remove it"
        elif (words[i + 1] == "(" or token.kind == "setting") and (named := _setting(statement, i)) in _OF_LAST:
            why = "it may tell of another file's statement, or of one of the run"
            yield i, f"{named.upper()}: {why}; {_OF_LAST[named]}"
        elif (name in _SEQUENCES and words[i + 1] == "(") or (words[i + 1] == "VALUE" and words[i + 2] == "FOR"):
            yield i, f"{words[i]}: a sequence cannot be rolled back, and a second run of a date would get other numbers"
        elif name == METRICS_TABLE and verb in ("UPDATE", "DELETE", "REPLACE"):
            read = "copy what you read from it into a temporary table"
            yield i, f"{verb} with bi_metrics; write its row by INSERT ... ON DUPLICATE KEY UPDATE, and {read}"
        elif name in TABLES_OF_THE_RUN and (verb in ("UPDATE", "DELETE") or i == written_at):
            yield i, f"{name}: the run alone writes this table; remove the statement"
    if (other := _other_table_written(statement)) is not None:
        yield other, _refusal_of_other_table(statement, other)
    is_comment = words[:2] == ("-", "-")  # for the rule comment-needs-blank
    if verb not in _ALLOWED and not is_comment and not " ".join(words[:6]).startswith(_TEMPORARY):
        default = "write what it does as plain statements that read and write rows"
        instead = next((text for verbs, text in _INSTEAD.items() if verb in verbs.split()), default)
        yield statement.verb_at, f"{_cut(verb)} is refused: {instead}"
    if verb == "USE" and [unquoted(token) for token in statement.code[1:]] != [database]:
        yield 0, "USE would hold for every later file; write schema.table"
    for i in (0, *(i for i in outermost(words) if words[i] == ",")) if verb == "SET" else ():
        if not re.match("@[^@]", words[i + 1]):
            yield i + 1, "only SET @variable is allowed, as a setting would hold for every later file; remove it"
    if (statement.temporary_table or "").lower() in OUR_TABLES:
        yield 0, f"a temporary table named {statement.temporary_table} would hide the real one; rename it"
    if statement.temporary_table and statement.target and statement.target.schema not in ("", database):
        yield 0, "a temporary table of another database would stay for later files; write its name alone"
    for i in outermost(words) if verb in WRITERS else ():
        if words[i] == "RETURNING":
            yield i, "RETURNING hides from the run how many rows were written; remove it"
    for phrase in _PHRASES:
        if (at := phrase_at(words, tuple(phrase.split()))) is not None:
            why = "a file cannot be rolled back" if "INTO" in phrase else "the application would wait for the date"
            yield at, f"{phrase} is refused: {why}; a plain SELECT is enough"


def _other_table_written(statement: Statement) -> int | None:
    """Return where an UPDATE or DELETE says that it writes another table than its target; None if it does not."""
    code, words, first = statement.code, statement.words, statement.target_at
    if statement.verb not in ("UPDATE", "DELETE") or first is None:
        return None
    alias = first + 1 + (words[first + 1] == "AS")
    own = {code[first].name, code[alias].name if alias < len(code) else ""}
    places = [i for i in outermost(words) if i > statement.verb_at]
    ends = [i for i in places if words[i] in ("WHERE", "ORDER", "LIMIT")] or [len(code)]
    if statement.verb == "UPDATE":
        start = next((i for i in places if words[i] == "SET"), len(code))
        starts = [i + 1 for i in places if start <= i < ends[0] and (i == start or words[i] == ",")]
        named = {i: i + 2 * (words[i + 3 : i + 4] == (".",)) for i in starts if words[i + 1 : i + 2] == (".",)}
        is_joined = words[first - 1] == "(" or {",", "JOIN", "STRAIGHT_JOIN"} & {words[i] for i in places if i < start}
        return next((i for i in starts if (code[named[i]].name not in own if i in named else is_joined)), None)
    start = next((i for i in places if words[i] == "FROM"), len(code))
    for i in range(statement.verb_at + 1, start):  # DELETE a, b.* FROM
        is_table = code[i].name and words[i] not in BEFORE_TABLE and words[i + 1] in (",", "FROM", ".")
        if is_table and not (words[i + 1] == "." and words[i + 2] != "*") and code[i].name not in own:
            return i
    using = next((i for i in places if words[i] == "USING" and words[i + 1] != "("), 0)
    return next((i + 1 for i in places if start < i < using and words[i] == ","), None)


def _refusal_of_other_table(statement: Statement, at: int) -> str:
    """Return why the statement must not write what it names at an index, and what to write instead."""
    words, verb = statement.words, statement.verb
    if verb == "UPDATE" and words[at + 1] != ".":
        return f"of several tables, say which one this changes: write its name or alias before {words[at]}"
    cure = f"write one {verb} for each table, that one first{' behind FROM' if verb == 'DELETE' else ''}"
    return f"this writes another table than the first that it names; {cure}"


def _setting(statement: Statement, i: int) -> str:
    """Return in lower case the name at an index: of a function, or of a @@setting without its scope."""
    token = statement.code[i]
    if token.kind != "setting":
        return token.name
    name = token.text[2:].rpartition(".")[2].lower()
    return name or (statement.code[i + 1].name if i + 1 < len(statement.code) else "")  # @@session.`name`


def _is_harmless_clock(words: tuple[str, ...], i: int, in_list: bool) -> bool:
    """Tell whether this is one of several items of a SELECT or of VALUES, a row's own time, or no clock at all."""
    before, end = words[i - 1], i + 1
    if before in (".", "DEFAULT", "UPDATE") or (words[i] in _CALLED_CLOCKS and words[end] != "("):
        return True  # a column: its name, or the value it has by itself
    if words[i] == "UNIX_TIMESTAMP" and words[i + 2] != ")":
        return True  # it converts its argument
    if words[end] == "(" and ")" in words[i : i + 4]:
        end = words.index(")", i) + 1
    if before == "=" and words[i - 2].strip("`").lower() in ("created_at", "updated_at"):
        at = i - 3 - 2 * (words[i - 3] == ".")
        return words[at] in ("SET", "UPDATE", ",") and words[end] in ("", ",", "WHERE")
    end += words[end] == "AS"
    end += words[end] not in _ITEM_ENDS  # an alias
    # If the clock is all that is selected, its value is used elsewhere, as in SET @d = (SELECT CURDATE()).
    several = before in (",", "(") or (before in ("SELECT", "DISTINCT") and words[end] == ",")
    return in_list and several and words[end] in _ITEM_ENDS


def _is_less_than_a_day(words: Sequence[str]) -> bool:
    """Tell whether an INTERVAL among these words has a unit of less than a day, and no number that makes one."""
    unit = next((i for i, word in enumerate(words) if word in _PER_DAY), 0)
    number = words[unit - 1].strip("'\"")
    return unit > 0 and not (number.isdecimal() and float(number) >= _PER_DAY[words[unit]])


def _set_targets(statement: Statement) -> dict[int, str]:
    """Return the @variables that a SET gives a value, in lower case, by their index in the code."""
    words = statement.words
    places = (i + 1 for i in (0, *(i for i in outermost(words) if words[i] == ",")) if words[i + 2 :][:1] in _ASSIGNS)
    return {i: statement.code[i].text.lower() for i in places if statement.verb == "SET"}


def _upper_end(words: tuple[str, ...], between: int) -> list[str]:
    """Return the words of the upper end of a BETWEEN, which is at this index."""
    depth = start = 0
    for i in range(between + 1, len(words)):
        depth += (words[i] == "(") - (words[i] == ")")
        if depth < 0 or (start and depth == 0 and words[i] in _AFTER_A_TERM):
            return list(words[start:i]) if start else []
        if words[i] == "AND" and depth == 0:
            start = i + 1
    return []


def _select_list(query: Statement) -> list[list[Token]]:
    """Return the items that a SELECT returns."""
    words, start = query.words, query.verb_at + 1
    while words[start] in _BEFORE_ITEMS:
        start += 1
    end = next((i for i in outermost(words[start:]) if words[start + i] in _AFTER_ITEMS), len(words))
    return [item for item in items(query.code[start : start + end]) if item]


def _limits_over_ties(statement: Statement) -> Iterator[tuple[int, str]]:
    """Yield each LIMIT behind GROUP BY and ORDER BY of one aggregate alone, as an index, and that aggregate's text.

    It is harmless if no other column is selected: equal numbers are equal rows.
    """
    code = statement.code
    for block in _blocks(statement.words):
        words = [statement.words[i] for i in block]
        places = [words.index(word) if words.count(word) == 1 else -1 for word in _RANKING]
        if -1 in places or places != sorted(places) or words[places[3] + 1] != "BY":
            continue
        select, end, _, order, limit = places
        while words[select + 1] in _BEFORE_ITEMS:
            select += 1
        columns = items(code[block[select] + 1 : block[end]])
        by = [*code[block[order + 1] + 1 : block[limit]]]
        by = by[:-1] if by[-1:] and by[-1].text.upper() in ("ASC", "DESC") else by
        if len(items(by)) != 1 or not by:
            continue
        is_place = len(by) == 1 and by[0].text.isdecimal() and 0 < int(by[0].text) <= len(columns)
        column = columns[int(by[0].text) - 1] if is_place else next(
            (each for each in columns if [t.name for t in by] == [_alias(each)] or each[: len(by)] == by), by
        )  # fmt: skip
        others = [each for each in columns if each != column and each[:1] and each[0].kind not in _CONSTANTS]
        if _is_aggregate(column) and others:
            yield block[limit], " ".join(token.text for token in by)


def _is_aggregate(item: list[Token]) -> bool:
    names = [token.text.upper() for token in item]
    return "OVER" not in names and "SELECT" not in names and any(
        name in _AGGREGATES and names[i + 1 : i + 2] == ["("] for i, name in enumerate(names)
    )  # fmt: skip


def _alias(item: list[Token]) -> str:
    return unquoted(item[-1]).lower() if item else ""


def _blocks(words: Sequence[str]) -> list[list[int]]:
    """Return the indexes of the words that stand directly in the statement, and in each pair of parentheses."""
    around: list[list[int]] = [[]]
    found = [around[0]]
    for i, word in enumerate(words):
        if word == ")" and len(around) > 1:
            around.pop()
        around[-1].append(i)
        if word == "(":
            around.append([])
            found.append(around[-1])
    return found


def _has_a_name(item: list[Token]) -> bool:
    """Tell whether an item of a SELECT is a column, `*`, or has an alias."""
    words = [token.text.upper() if token.kind == "word" else token.text for token in item]
    last, before = item[-1], words[-2] if words[1:] else ""
    if words[-1] in _NO_NAMES or words[-1][0].isdigit() or last.kind not in ("word", "name", "string"):
        return words[-1] == "*" and before in ("", ".")
    if "AS" in (words[i] for i in outermost(words)):
        return True
    if last.kind != "string" and set(words[1::2]) <= {"."}:
        return True
    is_operand = before in _BEFORE_AN_OPERAND or (item[-2].kind == "operator" and before != ")") if before else True
    is_unit = words[-3:-2] == ["INTERVAL"]
    is_typed = last.kind == "string" and (before in ("DATE", "TIME", "TIMESTAMP", "N", "X", "B") or before[:1] == "_")
    return not (is_operand or is_unit or is_typed)


def _fields(file: MetricFile) -> list[str]:
    """Return the fields of a SELECT metric; none if its text does not say them all, as `*` does not."""
    found = _select_list(file.statements[-1]) if file.kind is Kind.SELECT else []
    if not all(_has_a_name(item) and item[-1].text != "*" for item in found):
        return []
    names = [unquoted(item[-1]).replace("%%", "%") for item in found]
    return [name for name in names if name.lower() != "metric_date"]


@lru_cache
def _ends_with(period: Period, other: Period) -> bool:
    """Tell whether one of the other periods ends whenever this one ends."""
    return all(map(other.is_end, period.ends(date(2024, 1, 1), date(2026, 12, 31))))


@lru_cache(maxsize=1000)
def _nearest(name: str, known: frozenset[str]) -> str:
    """Return the known name that this one means: itself if it is known, "" if none is near."""
    return name if name in known else (get_close_matches(name.lower(), sorted(known), 1, 0.65) or [""])[0]


def _row_maker(file: MetricFile) -> Token:
    """Return the first token of the statement that makes the metric's row."""
    return next((s for s in file.statements if s.writes_metrics), file.statements[-1]).code[0]


def _number_of_groups(statement: Statement) -> int:
    """Return how many items GROUP BY has, outside of parentheses."""
    words, places = statement.words, [*outermost(statement.words)]
    start = next((i + 2 for i in places if words[i : i + 2] == ("GROUP", "BY")), None)
    if start is None:
        return 0
    end = next((i for i in places if i > start and words[i] in _AFTER_GROUPS), len(words))
    return len(items(statement.code[start:end]))


def _fault_of_delete(statement: Statement) -> str:
    """Return why a DELETE is known to choose other rows than those of the run's dates; "" if it may choose them."""
    code, words, outer = statement.code, statement.words, [statement.words[i] for i in outermost(statement.words)]
    if "LIMIT" not in outer:
        if statement.empties_its_table or "," in outer or {"SELECT", "TABLE", "JOIN", "STRAIGHT_JOIN"} & set(words):
            return ""  # of all rows, or of those that another table names
        dates = [i for i, token in enumerate(code) if token.kind == "variable" or _is_date_parameter(token)]
        operators = {_operator_beside(words, i) for i in dates} - _UNEQUAL
        if operators and operators <= {">", ">="}:
            return "the DELETE also takes the rows of later dates: write WHERE day = %(metric_date)s"
        if not operators <= {"<", "<="}:
            return ""
    return ("the DELETE does not choose the rows of the date: write WHERE day = %(metric_date)s, or no WHERE if the "
            "table holds one date at a time")  # fmt: skip


def _is_date_parameter(token: Token) -> bool:
    return token.kind == "parameter" and token.text[2:-2].lower() in DATE_PARAMETERS


def _operator_beside(words: tuple[str, ...], i: int) -> str:
    """Return what compares with the word at an index, as if it stood on the right; else any other word."""
    stops = _COMPARES | _TERM_ENDS
    before = next((j for j in range(i - 1, -1, -1) if words[j] in stops), 0)
    if words[before] in _COMPARES:
        return f"NOT {words[before]}" if words[before - 1] == "NOT" else words[before]
    after = next((word for word in words[i + 1 :] if word in stops), "")
    return _SIDES.get(after, after)


def _added_to_itself(statement: Statement, start: int) -> Token | None:
    """Return the first column of the list behind UPDATE that is computed from itself, as in n = n + VALUES(n).

    One that is only compared or chosen, as in n = LEAST(n, VALUES(n)), comes out the same again; one that is chosen and
    then added to, as in n = IFNULL(n, 0) + VALUES(n), does not.
    """
    code, words = statement.code, statement.words
    opened: list[int] = []  # the parentheses around the place
    column: Token | None = None
    for i in range(start, len(code)):
        if words[i] == "(":
            opened.append(i)
        elif words[i] == ")" and opened:
            opened.pop()
        elif words[i] == "," and not opened:
            column = None
        elif words[i] == "=" and not opened and column is None:
            column = code[i - 1]
        elif column and code[i].name == column.name and words[i + 1] != ".":
            if any(words[at + 1] == "SELECT" or words[at - 1] in ("VALUES", "VALUE") for at in opened):
                continue  # the column of another table, or the new value
            qualified = words[i - 1] == "."
            is_own = not qualified or (statement.target and code[i - 2].name == statement.target.name.lower())
            if is_own and not _is_chosen(words, i - 2 if qualified else i, i, opened):
                return column
    return None


def _is_chosen(words: Sequence[str], first: int, last: int, opened: Sequence[int]) -> bool:
    """Tell whether the words from `first` to `last`, and the calls around them, are compared or chosen as they are."""
    for at in reversed(opened):
        if not {words[first - 1], words[last + 1]} <= _CHOICES or words[at - 1] not in _CHOOSING:
            return False
        first, last = at - 1, _closing(words, at)
    return {words[first - 1], words[last + 1]} <= _CHOICES


def _closing(words: Sequence[str], opening: int) -> int:
    """Return the index of the parenthesis that closes another one, or of the last word."""
    depth = 0
    for i in range(opening, len(words) - 1):
        depth += (words[i] == "(") - (words[i] == ")")
        if depth == 0:
            return i
    return len(words) - 2


def _refused(read: Callable[[str], object], value: str) -> str:
    """Return why a header line's value is refused; "" if it is not."""
    try:
        read(value)
    except MetricFileError as error:
        return str(error)
    return ""


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=int)  # which refuses NaN
    except (ValueError, RecursionError):
        return False
    return True


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."


_FOR_FILES = tuple(
    name.replace("_", "-") for name, rule in vars(_Rules).items() if callable(rule) and not name.startswith("_")
)
_FOR_CHECKS = ("unterminated", "unknown-parameter", "quoted-parameter", "bad-check", "forbidden-statement",
               "unset-variable", "reads-the-clock", "between-midnight")  # fmt: skip
# Those of server_checks.py and of placement_problems().
_ELSEWHERE = ("explain", "cannot-roll-back", "hides-a-table", "no-primary-key", "unknown-time-zone", "full-scan",
              "misplaced")  # fmt: skip
_WARNINGS = {"helper-without-date", "utc-window", "reads-no-metric", "reads-the-clock", "unread-rows", "unnamed-column",
             "between-midnight", "limit-over-ties", "changes-source", "reads-immature", "reads-another-period",
             "keeps-old-rows", "deletes-other-dates",
             "header", "full-scan", "misplaced"}  # fmt: skip
RULES: dict[str, Severity] = {name: "warning" if name in _WARNINGS else "error" for name in (*_FOR_FILES, *_ELSEWHERE)}
