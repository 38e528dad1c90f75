"""Reads MySQL text: tokens, statements, the header, parameters. What the SQL means is for the server to say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple

from src.errors import MetricsError

METRICS_TABLE = "bi_metrics"
WRITERS = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE"})

_TOKEN = re.compile(
    r"""
    (?P<blank>      [ \t\r\n\f\v]+ )
  | (?P<word>       [\w$]+ )
  | (?P<comment>    --(?=[\x00-\x20\x7f]|\Z)[^\n]* | \#[^\n]* | /\*(?!M?!|\+).*?\*/ )  # two dashes need a blank behind
  | (?P<open>       /\*(?:M?!(?:[0-9]{5,6})?|\+) )  # the server executes what is inside; a hint is /*+
  | (?P<close>      \*/ )
  | (?P<string>     '[^'\\]*(?:(?:\\.|'')[^'\\]*)*'(?!') | "[^"\\]*(?:(?:\\.|"")[^"\\]*)*"(?!") )
  | (?P<name>       `[^`]*(?:``[^`]*)*`(?!`) )
  | (?P<unterminated> (?:['"`]|/\*).* )
  | (?P<variable>   @(?:`[^`]*`|'[^'\\]*'|"[^"\\]*"|[\w$.]+) )
  | (?P<setting>    @@[\w$.]* )
  | (?P<parameter>  %\([0-9A-Za-z_]+\)s )
  | (?P<percent>    %% )
  | (?P<end>        ; )
  | (?P<operator>   <=>|->>|[<>!:]=|<>|<<|>>|->|&&|\|\||. )
    """,
    re.DOTALL | re.VERBOSE,
)
_SPACE = frozenset({"blank", "comment"})
_DOUBLED = frozenset({"percent", "string", "name"})  # where %% stands for %
_HEADER_LINE = re.compile(r"(?i)--[ \t]+(Metric|Description|Data Type|Empty|Check|Reads|Allow)[ \t]*:[ \t\r]*")
_BEFORE_TABLE = {"LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "QUICK", "IGNORE", "INTO", "IF", "NOT", "EXISTS"}
_ESCAPES = str.maketrans({"\0": r"\0", "\n": r"\n", "\r": r"\r", "\x1a": r"\Z", "\\": r"\\", "'": r"\'", '"': r"\""})
_UNESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": r"\%", "_": r"\_"}


class Token(NamedTuple):
    """A piece of the text. `kind` is a group of _TOKEN; `offset` counts characters from 0."""

    kind: str
    text: str
    offset: int

    @property
    def name(self) -> str:
        """The name, in lower case, that a word or a quoted name stands for; empty for any other token."""
        return unquoted(self).lower() if self.kind in ("word", "name") else ""


@dataclass(frozen=True)
class Statement:
    """A statement from its first to its last code token: comments and blanks within are kept, those around are gone."""

    tokens: tuple[Token, ...]
    number: int  # from 1 in the file; empty statements do not count
    line: int  # of the first token, from 1
    column: int

    @cached_property
    def code(self) -> tuple[Token, ...]:
        """What the server acts on: no blanks, comments or hints, and what is in /*! */ without its marks."""
        code, in_hint = [], False
        for token in self.tokens:
            if token.kind in ("open", "close"):
                in_hint = token.text == "/*+"
            elif not in_hint and token.kind not in _SPACE:
                code.append(token)
        return tuple(code)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The texts of `code`, words in upper case, and an empty one at the end: words[i + 1] is always there."""
        return (*(token.text.upper() if token.kind == "word" else token.text for token in self.code), "")

    @cached_property
    def verb_at(self) -> int:
        """The index in `code` of the main verb: `WITH q AS (...) DELETE` is a DELETE, `(SELECT 1)` a SELECT."""
        first = next((i for i, word in enumerate(self.words) if word not in ("(", "")), 0)
        if self.words[first] != "WITH":
            return first
        verbs = (i for i in outermost(self.words) if self.words[i] in WRITERS or self.words[i] == "SELECT")
        return next(verbs, first)

    @property
    def verb(self) -> str:
        """The main verb in upper case, such as INSERT; another token where the statement starts with no word."""
        return self.words[self.verb_at]

    @property
    def is_query(self) -> bool:
        """Whether this is a SELECT that returns rows."""
        return self.verb == "SELECT" and "INTO" not in self.words

    @cached_property
    def target(self) -> tuple[str, str] | None:
        """Schema ("" where none is named) and table that are written, or created as a temporary table, unquoted."""
        words, at = self.words, self.verb_at
        if self.verb == "CREATE" and "TEMPORARY" in words[1:4] and "TABLE" in words[1:5]:
            at = words.index("TABLE")
        elif self.verb == "DELETE" and "FROM" in words[at:]:
            at = words.index("FROM", at)
        elif self.verb not in WRITERS:
            return None
        at += 1
        while words[at] in _BEFORE_TABLE:
            at += 1
        names = self.code[at : at + 3 : 2]
        if not names or not names[0].name:
            return None
        if words[at + 1] == "." and len(names) == 2:
            return unquoted(names[0]), unquoted(names[1])
        return "", unquoted(names[0])

    @property
    def writes_metrics(self) -> bool:
        """Whether this is an INSERT into bi_metrics."""
        return self.verb == "INSERT" and self.target is not None and self.target[1].lower() == METRICS_TABLE

    @property
    def temporary_table(self) -> str | None:
        """The name in CREATE TEMPORARY TABLE, unquoted."""
        return self.target[1] if self.verb == "CREATE" and self.target else None

    @cached_property
    def template(self) -> str:
        """The text for Python's % operator, all but its parameters escaped."""
        parts = []
        for token in self.tokens:
            text = token.text.replace("%%", "%") if token.kind in _DOUBLED else token.text
            parts.append(text if token.kind == "parameter" else text.replace("%", "%%"))
        return "".join(parts)


@dataclass(frozen=True)
class HeaderLine:
    """A line such as `-- Check: SELECT ...` at the top of a file; `key` is lower case, the place is the value's."""

    key: str
    value: str
    line: int
    column: int

    @cached_property
    def statement(self) -> Statement:
        """The value as a statement, which a check is."""
        return Statement(tuple(read(self.value.rstrip("; \t"))), 1, self.line, self.column)


@dataclass(frozen=True)
class Script:
    """The text of one file, read."""

    text: str
    tokens: tuple[Token, ...]
    statements: tuple[Statement, ...]
    header: tuple[HeaderLine, ...]

    def header_value(self, key: str) -> str:
        """Return the value of the first header line with this key (lower case); empty where there is none."""
        return next((line.value for line in self.header if line.key == key), "")

    def header_list(self, key: str) -> frozenset[str]:
        """Return the comma-separated words of all header lines with this key."""
        words = (word.strip() for line in self.header if line.key == key for word in line.value.split(","))
        return frozenset(filter(None, words))

    @property
    def checks(self) -> tuple[HeaderLine, ...]:
        return tuple(line for line in self.header if line.key == "check")

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of all %(name)s in code and in checks, known or not."""
        statements = (*self.statements, *(check.statement for check in self.checks))
        return frozenset(token.text[2:-2] for s in statements for token in s.tokens if token.kind == "parameter")

    def fingerprint(self, values: Mapping[str, str]) -> str:
        """Return 16 hex digits of the code and of those `values` it uses; comments and whitespace do not count."""
        code = ["\0".join(token.text for token in s.tokens if token.kind not in _SPACE) for s in self.statements]
        code += [f"{name}={values[name]}" for name in sorted(self.parameters & values.keys())]
        text = "\0;\0".join(code).replace("\r\n", "\n")
        return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read(text: str) -> list[Token]:
    """Return the tokens of a text. Joined they are the text again, whatever it is; never raises."""
    tokens: list[Token] = []
    offset, inside = 0, False
    while offset < len(text):
        match = _TOKEN.match(text, offset)
        assert match is not None  # the last kind takes any character
        kind, piece = match.lastgroup or "", match.group()
        if kind == "close" and not inside:  # a star and a slash, as in SELECT */*all*/
            kind, piece = "operator", "*"
        if kind in ("open", "close", "end"):  # the server starts each statement afresh
            inside = kind == "open"
        tokens.append(Token(kind, piece, offset))
        offset += len(piece)
    return tokens


def parse(text: str) -> Script:
    """Read a whole file. Never raises: what is wrong with it is for src.sql_checks to say."""
    tokens = read(text)
    statements: list[Statement] = []
    start = 0
    for stop in [i for i, token in enumerate(tokens) if token.kind == "end"] + [len(tokens)]:
        code = [i for i in range(start, stop) if tokens[i].kind not in _SPACE]
        if code:
            at = place(text, tokens[code[0]].offset)
            statement = Statement(tuple(tokens[code[0] : code[-1] + 1]), len(statements) + 1, *at)
            if statement.code:
                statements.append(statement)
        start = stop + 1
    return Script(text, tuple(tokens), tuple(statements), tuple(_header(text, tokens)))


def place(text: str, offset: int) -> tuple[int, int]:
    """Return line and column of an offset, both from 1, in characters."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def outermost(words: Iterable[str]) -> Iterator[int]:
    """Yield the indexes of the words that stand in no parentheses."""
    depth = 0
    for i, word in enumerate(words):
        depth += (word == "(") - (word == ")")
        if depth <= 0 and word != ")":
            yield i


def unquoted(token: Token) -> str:
    """Return what a word, a quoted name or a string literal stands for."""
    if token.kind not in ("name", "string"):
        return token.text
    quote, inner = token.text[0], token.text[1:-1]
    if token.kind == "name":
        return inner.replace("``", "`")

    def meaning(escape: re.Match[str]) -> str:
        return _UNESCAPES.get(escape[1], escape[1]) if escape[1] else quote

    return re.sub(rf"\\(.)|{quote}{quote}", meaning, inner, flags=re.DOTALL)


def literal(value: str | date) -> str:
    """Return a value as a MySQL string literal, for a session without NO_BACKSLASH_ESCAPES."""
    return f"'{str(value).translate(_ESCAPES)}'"


def bind(sql: Statement | HeaderLine, values: Mapping[str, str]) -> str:
    """Return the SQL with each %(name)s replaced by its literal from `values` and %% by %; comments stay.

    Raises MetricsError where a name has no value.
    """
    statement = sql.statement if isinstance(sql, HeaderLine) else sql
    try:
        return statement.template % values
    except KeyError as missing:
        raise MetricsError(f"no value for %({missing.args[0]})s") from None


def _header(text: str, tokens: Iterable[Token]) -> Iterator[HeaderLine]:
    """Yield the header lines: the comments above the first code token that start with a known key."""
    for token in tokens:
        if token.kind not in _SPACE:
            return
        match = _HEADER_LINE.match(token.text)
        if match:
            value = token.text[match.end() :].rstrip(" \t\r")
            yield HeaderLine(match[1].lower(), value, *place(text, token.offset + match.end()))
