"""What is wrong with metric files: rules by name, each problem with its file, line and column. Needs no database."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from src.sql_loader import Catalog, Metric
from src.sql_rules import ERROR, RULES, WARNING
from src.sql_text import Script, Statement, Token, header_lines, parameter_name, parse, places, unquoted

DATA_TYPES = ("card", "timeseries", "ranking")
LONGEST_NAME = 100  # characters of bi_metrics.metrics
DATE_PARAMETERS = frozenset({"metric_date", "start_date", "dates"})
_INITIAL_ONLY = frozenset({"start_date", "dates"})


@dataclass(frozen=True, order=True)
class Problem:
    """One fault at one place. `line` and `column` count from 1, in characters; `severity` is "error" or "warning"."""

    file: str
    line: int
    column: int
    severity: str
    rule: str
    message: str

    def __str__(self) -> str:
        return _printable(f"{self.file}:{self.line}:{self.column}: {self.severity}: {self.rule}: {self.message}")


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


class _Finding(NamedTuple):
    offset: int
    rule: str
    message: str
    severity: str = ""  # where it is not the rule's


_Findings = Iterator[_Finding]


class _Names:
    """The parameters that a file of a mode may use."""

    def __init__(self, mode: str, parameters: Collection[str]) -> None:
        self.known = {"metric_date", *parameters} | (_INITIAL_ONLY if mode == "initial" else set())
        self._nearest: dict[str, str] = {}

    def nearest(self, name: str) -> str:
        """Return the known name that is meant by this one; empty where none is near."""
        if name not in self._nearest:
            from difflib import get_close_matches

            self._nearest[name] = (get_close_matches(name.lower(), sorted(self.known), 1) or [""])[0]
        return self._nearest[name]

    def unknown(self, name: str) -> str:
        if name in _INITIAL_ONLY:
            return f"only files in sql/initial have %({name})s"
        near = self.nearest(name)
        if near:
            return f"unknown parameter %({_cut(name)})s; did you mean %({near})s?"
        known = ", ".join(f"%({known})s" for known in sorted(self.known))
        return (
            f"unknown parameter %({_cut(name)})s; there is {known}; METRIC_PARAM_{_cut(name.upper())} in .env adds it"
        )


def check_catalog(catalog: Catalog, files: Iterable[Metric], parameters: Collection[str]) -> list[Problem]:
    """Return the problems of `files`, sorted by file, line and column; duplicates are looked for in the whole catalog.

    `parameters` are the names that the settings define, in lower case.
    """
    names = {mode: _Names(mode, parameters) for mode in ("initial", "incremental", "both")}
    namesakes: dict[str, list[Metric]] = {}
    for metric in catalog.files:
        if not metric.disabled:
            namesakes.setdefault(metric.name.casefold(), []).append(metric)
    twins = catalog.initial_twins()
    problems: list[Problem] = []
    for metric in files:
        found = [*_duplicate(metric, namesakes), *_file_findings(metric, names[metric.mode], metric.name in twins)]
        problems += _placed(metric, found)
        problems += _check_line_problems(metric, names[metric.mode])
    return sorted(problems)


def _placed(metric: Metric, found: list[_Finding]) -> Iterator[Problem]:
    found = sorted(finding for finding in found if not _allowed(metric, finding))
    at = places(metric.script.text, (finding.offset for finding in found))
    for finding, (line, column) in zip(found, at, strict=True):
        yield Problem(metric.path, line, column, _severity(finding), finding.rule, finding.message)


def _check_line_problems(metric: Metric, names: _Names) -> Iterator[Problem]:
    for check in metric.header.checks:
        script = parse(check.sql)
        for finding in (*_script_findings(script, names), *_bad_check(script)):
            if not _allowed(metric, finding):
                column = check.column + finding.offset
                yield Problem(metric.path, check.line, column, _severity(finding), finding.rule, finding.message)


def _severity(finding: _Finding) -> str:
    return finding.severity or RULES[finding.rule].severity


def _allowed(metric: Metric, finding: _Finding) -> bool:
    return finding.rule in metric.header.allow and _severity(finding) == WARNING


# Rules about a whole file


def _file_findings(metric: Metric, names: _Names, has_twin: bool) -> _Findings:
    if not metric.statements:
        yield _Finding(0, "empty-file", "no statement in this file")
    if len(metric.name) > LONGEST_NAME:
        message = f"the name has {len(metric.name)} characters, the column metrics holds {LONGEST_NAME}; shorten it"
        yield _Finding(0, "name-mismatch", message, ERROR)
    yield from _not_utf8(metric)
    yield from _header(metric)
    yield from _missing_date(metric, names)
    yield from _helpers(metric.statements)
    yield from _script_findings(metric.script, names)
    for statement in metric.statements:
        if statement.writes_metrics:
            yield from _not_idempotent(statement)
            yield from _name_mismatch(statement, metric.name, ERROR if has_twin else WARNING)


def _script_findings(script: Script, names: _Names) -> _Findings:
    """The rules that hold for a file and for a check alike."""
    yield from _unterminated(script)
    yield from _parameters(script, names)
    for statement in script.statements:
        yield from _forbidden(statement)
        yield from _by_layout(statement)


def _duplicate(metric: Metric, namesakes: Mapping[str, list[Metric]]) -> _Findings:
    if metric.disabled:
        return
    for other in namesakes.get(metric.name.casefold(), []):
        if other.path != metric.path and (metric.mode == other.mode or "both" in (metric.mode, other.mode)):
            yield _Finding(
                0, "duplicate-metric", f"{other.path} defines the metric {other.name} too; rename one of them"
            )
            return


def _not_utf8(metric: Metric) -> _Findings:
    text = metric.script.text
    if not metric.path.isascii() and re.search("[\udc80-\udcff]", metric.path):
        yield _Finding(0, "not-utf8", "the file's name is not UTF-8; rename the file")
    bad = None if text.isascii() else re.search("[\udc80-\udcff]", text)
    if bad:
        yield _Finding(
            bad.start(), "not-utf8", f"byte 0x{ord(bad[0]) - 0xDC00:02x} is not UTF-8; save the file as UTF-8"
        )


def _header(metric: Metric) -> _Findings:
    header = metric.header
    wanted = {
        "Metric": header.metric,
        "Description": header.description,
        "Data Type": header.data_type or metric.is_helper,
    }
    missing = [f"`-- {key}:`" for key, value in wanted.items() if not value]
    if missing:
        yield _Finding(0, "no-header", f"the header lacks {', '.join(missing)}")
    for key, value, offset in header_lines(metric.script.tokens):
        if key == "data type" and value and value.lower() not in DATA_TYPES:
            yield _Finding(offset, "unknown-data-type", f"{_cut(value)} is none of {', '.join(DATA_TYPES)}")
        if key == "allow":
            yield from _allow_line(value, offset)


def _allow_line(value: str, offset: int) -> _Findings:
    for name in filter(None, (part.strip() for part in value.split(","))):
        if name not in RULES:
            yield _Finding(offset, "unknown-rule", f"there is no rule {_cut(name)}")
        elif RULES[name].severity == ERROR:
            yield _Finding(offset, "unknown-rule", f"{name} is an error, which `-- Allow:` does not silence")


def _missing_date(metric: Metric, names: _Names) -> _Findings:
    writer = next((statement for statement in metric.statements if statement.writes_metrics), None)
    if writer is None or not DATE_PARAMETERS.isdisjoint(_code_parameters(writer)):
        return
    # A misspelt or quoted date is reported as that, once.
    used = {name for _, name, _ in _uses(metric.script)}
    if not used & DATE_PARAMETERS and not any(names.nearest(name) in DATE_PARAMETERS for name in used - names.known):
        message = "the file writes bi_metrics without %(metric_date)s, so every date gets the same row"
        yield _Finding(writer.tokens[0].offset, "missing-metric-date", message)


def _code_parameters(statement: Statement) -> Iterator[str]:
    return (parameter_name(token) for token in statement.code if token.kind == "parameter")


def _helpers(statements: tuple[Statement, ...]) -> _Findings:
    safe: set[str] = set()  # emptied, or temporary
    for statement in statements:
        table = (statement.table or "").lower()
        if statement.verb == "CREATE" and "TEMPORARY" in statement.words[:4]:
            safe |= _created(statement)
        elif table and statement.words[statement.writer] == "DELETE":
            safe.add(table)
        elif _adds_rows(statement) and not statement.writes_metrics and table not in safe:
            message = (
                f"a second run doubles the rows of {_cut(table)}; DELETE them first or add ON DUPLICATE KEY UPDATE"
            )
            yield _Finding(statement.code[statement.writer].offset, "helper-not-idempotent", message)


def _created(statement: Statement) -> set[str]:
    """Return the name in CREATE TEMPORARY TABLE [IF NOT EXISTS] [schema.]name."""
    at = statement.words.index("TABLE") + 1 if "TABLE" in statement.words else len(statement.words)
    at += 3 * (statement.words[at : at + 3] == ("IF", "NOT", "EXISTS"))
    at += 2 * (statement.words[at + 1 : at + 2] == (".",))
    return {unquoted(token).lower() for token in statement.code[at : at + 1]}


def _adds_rows(statement: Statement) -> bool:
    """True for a plain INSERT: nothing in it keeps a second run from adding the same rows again."""
    if not statement.table or statement.words[statement.writer] != "INSERT":
        return False
    guarded = "IGNORE" in statement.words or _phrase(statement.words, "NOT", "EXISTS")
    return not guarded and not _phrase(statement.words, "ON", "DUPLICATE", "KEY", "UPDATE")


def _not_idempotent(statement: Statement) -> _Findings:
    words, writer = statement.words, statement.writer
    if words[writer] == "REPLACE":
        message = "REPLACE deletes the row and writes a new one; write INSERT ... ON DUPLICATE KEY UPDATE"
        yield _Finding(statement.code[writer].offset, "not-idempotent", message)
    elif words[writer] == "INSERT" and "IGNORE" in words[writer : writer + 3]:
        message = "INSERT IGNORE keeps the old row and hides errors; write INSERT ... ON DUPLICATE KEY UPDATE"
        offset = statement.code[words.index("IGNORE", writer)].offset
        yield _Finding(offset, "not-idempotent", message)
    elif words[writer] == "INSERT" and not _phrase(words, "ON", "DUPLICATE", "KEY", "UPDATE"):
        message = "a second run of the date fails on its own row; add ON DUPLICATE KEY UPDATE"
        yield _Finding(statement.code[writer].offset, "not-idempotent", message)


def _bad_check(script: Script) -> _Findings:
    if len(script.statements) != 1 or script.statements[0].verb not in ("SELECT", "WITH") or script.statements[0].table:
        yield _Finding(0, "bad-check", "a check is one SELECT on one line; each row it returns is a fault")


# Rules about text


def _unterminated(script: Script) -> _Findings:
    opened: Token | None = None
    runs_to_the_end = script.tokens[-1:] and script.tokens[-1].kind == "unterminated"
    for token in script.tokens if runs_to_the_end or "/*" in script.text else ():
        if token.kind == "open":
            opened = token
        elif token.kind == "close":
            opened = None
        elif token.kind == "unterminated":
            what = "comment" if token.text.startswith("/*") else f"quote {token.text[0]}"
            yield _Finding(token.offset, "unterminated", f"the {what} that starts here is never closed")
        elif token.kind == "end" and opened:
            yield _never_closed(opened)
            opened = None
    if opened:
        yield _never_closed(opened)


def _never_closed(opened: Token) -> _Finding:
    message = f"the comment {opened.text} that starts here is not closed before the statement ends"
    return _Finding(opened.offset, "unterminated", message)


_IN_QUOTES = re.compile(r"%%|%\(([0-9A-Za-z_]+)\)s")


def _uses(script: Script) -> Iterator[tuple[int, str, bool]]:
    """Yield (offset, name, is it inside quotes) of each parameter."""
    for token in [token for token in script.tokens if "%" in token.text]:
        if token.kind == "parameter":
            yield token.offset, parameter_name(token), False
        elif token.kind in ("string", "name"):
            for match in _IN_QUOTES.finditer(token.text):
                if match[1]:
                    yield token.offset + match.start(), match[1], True


def _parameters(script: Script, names: _Names) -> _Findings:
    for offset, name, quoted in _uses(script):
        if not quoted and name not in names.known:
            yield _Finding(offset, "unknown-parameter", names.unknown(name))
        # LIKE '%(foo)s' may be meant as it stands; a known or nearly known name hardly.
        elif quoted and (name in names.known or name in _INITIAL_ONLY or names.nearest(name)):
            message = f"%({_cut(name)})s inside quotes; it brings its own, so remove these or use CONCAT"
            yield _Finding(offset, "quoted-parameter", message)


# Rules about statements by their first words

_TRANSACTION = _set_of("BEGIN COMMIT ROLLBACK SAVEPOINT RELEASE LOCK UNLOCK XA")
_COMMITS = _set_of(
    "ALTER TRUNCATE RENAME GRANT REVOKE OPTIMIZE CHECK CHECKSUM REPAIR FLUSH RESET INSTALL UNINSTALL CACHE CHANGE "
    "START STOP IMPORT"
)
_CLIENT = _set_of("DELIMITER SOURCE TEE NOTEE PAGER NOPAGER PROMPT REHASH EXIT QUIT EGO GO CONNECT SYSTEM")
_BLOCKS = _set_of("IF CASE WHILE LOOP REPEAT FOR DECLARE END ELSE ELSEIF")
_SCOPES = _set_of("GLOBAL SESSION LOCAL PERSIST PERSIST_ONLY")


def _forbidden(statement: Statement) -> _Findings:
    verb, words, offset = statement.verb, statement.words, statement.code[0].offset
    if verb == "SET":
        yield from _set(statement)
    elif verb in _TRANSACTION or words[:2] == ("START", "TRANSACTION"):
        yield _Finding(offset, "transaction-control", f"{verb} is for the run alone; remove it")
    elif _commits(verb, words):
        yield _Finding(offset, "implicit-commit", f"{' '.join(words[:2])} commits the transaction of the date")
    elif verb in _CLIENT:
        yield _Finding(offset, "client-command", f"{verb} is a command of the mysql client; remove it")
    elif verb == "USE":
        yield _Finding(offset, "changes-session", "USE would hold for every file after this one; write schema.table")
    elif verb in _BLOCKS:
        yield _Finding(offset, "compound-statement", f"{verb} ... belongs to a block; write plain statements")
    if "\\" in words:
        yield from _backslash(statement)


def _commits(verb: str, words: tuple[str, ...]) -> bool:
    if verb == "CREATE":
        return words[1:2] != ("TEMPORARY",) and words[1:4] != ("OR", "REPLACE", "TEMPORARY")
    if verb == "DROP":
        return words[1:2] not in (("TEMPORARY",), ("PREPARE",))
    if verb == "ANALYZE":  # MariaDB's ANALYZE SELECT only explains
        return "TABLE" in words[1:3] or "TABLES" in words[1:3]
    return verb in _COMMITS or words[:2] == ("LOAD", "INDEX")


def _backslash(statement: Statement) -> _Findings:
    r"""A backslash outside quotes is the client's, as in \G; but \N is an old way to write NULL."""
    for token, after in zip(statement.code, (*statement.words[1:], ""), strict=True):
        if token.text == "\\" and after != "N":
            yield _Finding(
                token.offset, "client-command", f"\\{_cut(after)} is a command of the mysql client; remove it"
            )
            return


def _set(statement: Statement) -> _Findings:
    words = statement.words
    if words[1:2] == ("PASSWORD",):
        yield _Finding(statement.code[0].offset, "implicit-commit", "SET PASSWORD commits the transaction of the date")
    elif words[1:2] != ("STATEMENT",):  # MariaDB's SET STATEMENT ... FOR ends with its statement
        for item in _items(words, 1, stops=()):
            yield from _assignment(statement, item)


def _assignment(statement: Statement, item: range) -> _Findings:
    """Judge one `name = value` of a SET: only user variables stay within the file."""
    words = statement.words
    first = statement.code[item.start]
    name_at = item.start + (words[item.start] in _SCOPES and len(item) > 1)
    name = statement.code[name_at]
    if name.kind == "variable" and not name.text.startswith("@@"):
        return
    last = _column_end(words, name_at + (name.text == "@@"))
    setting = unquoted(statement.code[min(last, item.stop - 1)]).rpartition(".")[2].lstrip("@").lower()
    if setting in ("transaction", "autocommit"):
        message = f"SET {setting} is for the run alone; remove it"
        yield _Finding(first.offset, "transaction-control", message)
    else:
        message = f"SET {_cut(setting)} would hold for every file after this one; only SET @variable is fine"
        yield _Finding(first.offset, "changes-session", message)


# Rules about the layout of a statement: its clauses and parentheses

_CLAUSES = {
    "SELECT": "select",
    "FROM": "from",
    "JOIN": "from",
    "WHERE": "where",
    "ON": "where",
    "HAVING": "tail",
    "GROUP": "tail",
    "ORDER": "tail",
    "LIMIT": "tail",
    "SET": "assign",
    "DUPLICATE": "assign",
}
_AFTER_FROM = frozenset({"from", "where", "tail"})
_CLOCKS = _set_of(
    "CURDATE CURRENT_DATE CURTIME CURRENT_TIME SYSDATE UTC_DATE UTC_TIME UTC_TIMESTAMP UNIX_TIMESTAMP RAND UUID "
    "UUID_SHORT"
)
_NOW = _set_of("NOW CURRENT_TIMESTAMP LOCALTIME LOCALTIMESTAMP")
_WITHOUT_PARENTHESES = _set_of(
    "CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP LOCALTIME LOCALTIMESTAMP UTC_DATE UTC_TIME UTC_TIMESTAMP"
)
_COMPARISONS = frozenset({"=", "<=>", "<", ">", "<=", ">=", "BETWEEN", "IN"})
_OPERATORS = _COMPARISONS | frozenset({"<>", "!=", ":=", "+", "-", "*", "/", "DIV", "MOD", "AND", "OR", "LIKE", "NOT"})
_STAMPS = frozenset({"created_at", "updated_at"})
_DAY_FUNCTIONS = frozenset({"DATE", "CAST", "CONVERT"})
_DATE_FUNCTIONS = _DAY_FUNCTIONS | _set_of("DATE_FORMAT TO_DAYS YEAR YEARWEEK LAST_DAY UNIX_TIMESTAMP")
_MIRROR = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_HALF_OPEN = {
    "=": "{c} >= {x} AND {c} < {x} + INTERVAL 1 DAY",
    ">=": "{c} >= {x}",
    ">": "{c} >= {x} + INTERVAL 1 DAY",
    "<": "{c} < {x}",
    "<=": "{c} < {x} + INTERVAL 1 DAY",
}
_JSON_READS = frozenset({"JSON_EXTRACT", "JSON_VALUE"})
_EXACT = frozenset({"DECIMAL", "SIGNED", "UNSIGNED", "NUMERIC", "INTEGER", "INT"})
_TRANSPARENT = frozenset({"JSON_UNQUOTE", "COALESCE", "IFNULL", "NULLIF", "CAST", "CONVERT"})
_LOOKED_AT = 30  # tokens or parentheses around a place; keeps the time linear in whatever text


class _Layout:
    """The clause that each word of a statement stands in, and its parentheses."""

    def __init__(self, statement: Statement) -> None:
        self.code, self.words = statement.code, statement.words
        self.clauses: list[str] = []
        self.opener: list[int] = []  # index of the parenthesis around each word; -1 for none
        self.closing: dict[int, int] = {}
        clause, stack = "", [(-1, "")]
        for i, word in enumerate(self.words):
            if word in _CLAUSES and self.word(i - 1) != "." and self.word(i + 1) != "UPDATE":
                clause = _CLAUSES[word]
            if word == ")" and len(stack) > 1:
                opener, clause = stack.pop()
                self.closing[opener] = i
            self.clauses.append(clause)
            self.opener.append(stack[-1][0])
            if word == "(":
                stack.append((i, clause))

    def word(self, i: int) -> str:
        return self.words[i] if 0 <= i < len(self.words) else ""

    def name(self, i: int) -> str:
        """The word or quoted name at i, in lower case; empty for anything else."""
        in_range = 0 <= i < len(self.code) and self.code[i].kind in ("word", "name")
        return unquoted(self.code[i]).lower() if in_range else ""

    def call_end(self, i: int) -> int:
        """The index of the last token of a call that starts at i: its closing parenthesis, or i for a bare word."""
        return self.closing.get(i + 1, len(self.words)) if self.word(i + 1) == "(" else i


_LAYOUT_WORDS = _CLOCKS | _NOW | _DATE_FUNCTIONS | _JSON_READS


def _by_layout(statement: Statement) -> _Findings:
    if _LAYOUT_WORDS.isdisjoint(statement.words):
        return
    layout = _Layout(statement)
    for i, word in enumerate(statement.words):
        if word not in _LAYOUT_WORDS or layout.word(i - 1) == ".":
            continue
        if word in _CLOCKS or word in _NOW:
            yield from _clock(layout, i)
        if word in _DATE_FUNCTIONS and layout.clauses[i] == "where":
            yield from _function_on_column(layout, i)
        if word in _JSON_READS and _is_added(layout, i):
            message = f"{word} is a float when added; write CAST(JSON_UNQUOTE({word}(...)) AS DECIMAL(20,2))"
            yield _Finding(layout.code[i].offset, "float-from-json", message)


def _clock(layout: _Layout, i: int) -> _Findings:
    word, end = layout.words[i], layout.call_end(i)
    is_call = (
        word in _WITHOUT_PARENTHESES if end == i else layout.word(i - 1) not in ("INTO", "TABLE", "JOIN", "UPDATE")
    )
    converts = word == "UNIX_TIMESTAMP" and end > i + 2
    if not is_call or converts:
        return
    beside = layout.word(i - 1) in _OPERATORS or layout.word(end + 1) in _OPERATORS
    if word in _CLOCKS or ((beside or layout.clauses[i] in _AFTER_FROM) and not _is_stamp(layout, i)):
        message = f"{word} gives a past date that is run again another value; use %(metric_date)s"
        yield _Finding(layout.code[i].offset, "reads-the-clock", message)


def _is_stamp(layout: _Layout, i: int) -> bool:
    """True for the value of `updated_at = NOW()` as an assignment; as a condition it is none."""
    return layout.word(i - 1) == "=" and layout.clauses[i] == "assign" and layout.name(i - 2) in _STAMPS


def _function_on_column(layout: _Layout, i: int) -> _Findings:
    word, end = layout.words[i], layout.call_end(i)
    last = _column_end(layout.words, i + 2)
    if end <= i + 2 or not layout.name(i + 2) or layout.word(i + 2).isdigit():
        return
    if layout.word(last + 1) not in (")", ",", "AS") or (
        word in ("CAST", "CONVERT") and layout.word(end - 1) != "DATE"
    ):
        return
    operator, value = _compared(layout, i, end)
    if operator:
        column = "".join(token.text for token in layout.code[i + 2 : last + 1])
        form = _HALF_OPEN.get(operator if word in _DAY_FUNCTIONS else "=", _HALF_OPEN["="])
        message = f"{word}({_cut(column)}) keeps MySQL from the index; write {form.format(c=_cut(column), x=value)}"
        yield _Finding(layout.code[i].offset, "function-on-column", message)


def _compared(layout: _Layout, i: int, end: int) -> tuple[str, str]:
    """Return the operator and the value that a call from i to end is compared with; empty where that is a column."""
    after, before = layout.word(end + 1), layout.word(i - 1)
    if after in _COMPARISONS:
        value = _value(layout, end + 2)
        return (after, value) if value else ("", "")
    if before in _COMPARISONS and i > 1 and layout.code[i - 2].kind in ("parameter", "variable", "string"):
        return _MIRROR.get(before, before), _cut(layout.code[i - 2].text)
    return "", ""


def _value(layout: _Layout, start: int) -> str:
    """Return the text of a value that holds no column, shortened to %(metric_date)s where it is a longer one."""
    start += layout.word(start) == "("
    depth = 0
    for i in range(start, min(start + _LOOKED_AT, len(layout.code))):
        token, word = layout.code[i], layout.words[i]
        depth += (word == "(") - (word == ")")
        if depth < 0 or word in _CLAUSES or (depth == 0 and word in ("AND", "OR")):
            return ""
        if token.kind in ("parameter", "variable") or (i == start and (token.kind == "string" or word.isdigit())):
            return _cut(token.text) if i == start and not word.isdigit() else "%(metric_date)s"
    return ""


def _is_added(layout: _Layout, i: int) -> bool:
    """True for a call that is added, subtracted or summed without a CAST to an exact type around it."""
    start, end = i, layout.call_end(i)
    if "RETURNING" in layout.words[max(i, end - 8) : end]:
        return False
    for _ in range(_LOOKED_AT):
        if layout.word(start - 1) in ("+", "-") or layout.word(end + 1) in ("+", "-"):
            return True
        opener = layout.opener[start]
        function = layout.word(opener - 1) if layout.name(opener - 1) else ""
        if opener < 0 or function == "SUM":
            return opener >= 0
        end = layout.closing.get(opener, len(layout.words))
        if function in ("CAST", "CONVERT") and not _EXACT.isdisjoint(layout.words[max(start, end - 8) : end]):
            return False
        if function and function not in _TRANSPARENT and function not in _CLAUSES:
            return False
        start = opener - (function in _TRANSPARENT)
    return False


# The name that an INSERT writes

_LIST_ENDS = frozenset({"FROM", "UNION", "ON", "SELECT", "WHERE", "LIMIT"})


def _name_mismatch(statement: Statement, name: str, severity: str) -> _Findings:
    for token in _written_names(statement):
        written = unquoted(token)
        if written != name:
            message = f"the file writes the metric '{_cut(written)}', its name is '{_cut(name)}'"
            yield _Finding(token.offset, "name-mismatch", message, severity)


def _written_names(statement: Statement) -> Iterator[Token]:
    """Yield the string literals that an INSERT writes to the column metrics; other values cannot be judged here."""
    words = statement.words
    start = next((i for i in range(statement.writer, len(words)) if words[i] in ("(", "SELECT", "VALUES", "SET")), 0)
    if not start or words[statement.writer] == "UPDATE":
        return
    if words[start] == "SET":
        for item in _items(words, start + 1):
            if _is_metrics(statement.code[item.start]) and words[item.start + 1 : item.start + 2] == ("=",):
                yield from _literal(statement, range(item.start + 2, item.start + 3), {})
        return
    columns = list(_items(words, start + 1))
    position = next((n for n, item in enumerate(columns) if _is_metrics(statement.code[item.start])), -1)
    if words[start] == "(" and position >= 0:
        aliases = dict(_aliased_literals(statement))
        for values in _rows(words, columns[-1].stop + 1):
            item = next((item for n, item in enumerate(values) if n == position), range(0))
            yield from _literal(statement, item, aliases)


def _is_metrics(token: Token) -> bool:
    return unquoted(token).lower() == "metrics"


def _rows(words: tuple[str, ...], start: int) -> Iterator[Iterator[range]]:
    """Yield the items of each row of VALUES and of each SELECT from `start` on, those in parentheses aside."""
    depth = 0
    in_values = words[start : start + 1] in (("VALUES",), ("VALUE",))
    for i in range(start, len(words)):
        if depth == 0 and words[i] == "ON" and in_values:
            return
        if depth == 0 and ((words[i] == "(" and in_values) or words[i] == "SELECT"):
            yield _items(words, i + 1 + (words[i + 1 : i + 2] in (("DISTINCT",), ("ALL",))))
        depth += (words[i] == "(") - (words[i] == ")")


def _literal(statement: Statement, item: range, aliases: Mapping[str, Token]) -> Iterator[Token]:
    code = statement.code[item.start : item.stop]
    if code and code[0].kind == "string" and (len(code) == 1 or code[1].kind in ("word", "name")):
        yield code[0]
    elif code and code[-1].kind in ("word", "name") and len(code) in (1, 3):
        found = aliases.get(unquoted(code[-1]).lower())
        if found:
            yield found


def _aliased_literals(statement: Statement) -> Iterator[tuple[str, Token]]:
    """Yield (alias, literal) of each `'literal' AS alias`."""
    for i, word in enumerate(statement.words[1:-1], start=1):
        if word == "AS" and statement.code[i - 1].kind == "string":
            yield unquoted(statement.code[i + 1]).lower(), statement.code[i - 1]


# Small helpers


def _items(words: tuple[str, ...], start: int, stops: Collection[str] = _LIST_ENDS) -> Iterator[range]:
    """Yield the index range of each item of the list that starts at `start`; it ends at its ) or at one of `stops`."""
    depth, first = 0, start
    for i in range(start, len(words)):
        word = words[i]
        if depth == 0 and (word in (",", ")") or word in stops):
            if i > first:
                yield range(first, i)
            first = i + 1
            if word != ",":
                return
        depth += (word == "(") - (word == ")")
    if len(words) > first:
        yield range(first, len(words))


def _column_end(words: tuple[str, ...], start: int) -> int:
    """Return the index of the last part of a dotted name that starts at `start`."""
    while words[start + 1 : start + 2] == (".",):
        start += 2
    return start


def _phrase(words: tuple[str, ...], *phrase: str) -> bool:
    """True where the words of a phrase follow each other outside parentheses, or anywhere for a shorter one."""
    starts = (i for i, word in enumerate(words) if word == phrase[0])
    return any(words[i : i + len(phrase)] == phrase for i in starts)


def _cut(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
