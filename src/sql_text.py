"""Reads MySQL text: tokens, statements, parameters, the header. Judges by tokens and leaves SQL to the server."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from src.errors import MetricsError

METRICS_TABLE = "bi_metrics"

# A letter is anything but the ASCII that is none: a class of what lies beyond ASCII would take 10 ms to compile.
_NO_LETTER = r"\x00-#%-/:-@\[-^`{-\x7f"
_KINDS = {
    "blank": r"[ \t\r\n\f\v]+",
    "word": rf"[^{_NO_LETTER}]+",
    # Two dashes are a comment only before a blank, a control character or the end of the text.
    "comment": r"--(?=[\x00-\x20\x7f]|\Z)[^\n]*|\#[^\n]*|/\*(?!M?!|\+).*?\*/",
    "open": r"/\*(?:M?!(?:[0-9]{5,6})?|\+)",
    "string": r"""'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'(?!')|"[^"\\]*(?:(?:\\.|"")[^"\\]*)*"(?!")""",
    "name": r"`[^`]*(?:``[^`]*)*`(?!`)",
    "unterminated": r"(?:['\"`]|/\*).*",
    "variable": rf"@@?(?:[^{_NO_LETTER}]|\.)*",
    "parameter": r"%\([0-9A-Za-z_]+\)s",
    "percent": r"%%",
    "end": r";",
    "close": r"\*/",
    "operator": r"<=>|->>|[<>!:]=|<>|<<|>>|->|&&|\|\||.",
}


def _pattern(kinds: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?P<{kind}>{_KINDS[kind]})" for kind in kinds), re.DOTALL)


# Only after /*! or /*+ does */ close something; elsewhere it is a star and a slash, as in SELECT */*all*/.
_INSIDE = _pattern(_KINDS)
_OUTSIDE = _pattern(kind for kind in _KINDS if kind != "close")
_SPACE = frozenset({"blank", "comment"})
_MARKS = frozenset({"open", "close"})
_DOUBLED = frozenset({"percent", "string", "name"})  # where %% stands for %

_HEADER_LINE = re.compile(r"--[ \t]+(Metric|Description|Data Type|Empty|Check|Allow)[ \t]*:", re.IGNORECASE)
_WRITERS = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE"})
_MODIFIERS = frozenset({"LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "QUICK", "IGNORE"})
_ESCAPES = str.maketrans({"\0": r"\0", "\n": r"\n", "\r": r"\r", "\x1a": r"\Z", "\\": r"\\", "'": r"\'", '"': r"\""})
_UNESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": r"\%", "_": r"\_"}


class Token(NamedTuple):
    """A piece of the text. `offset` counts characters from 0. Kinds: the keys of _KINDS."""

    kind: str
    text: str
    offset: int


@dataclass(frozen=True)
class Statement:
    """A statement from its first to its last code token: comments and blanks within are kept, those around are gone."""

    tokens: tuple[Token, ...]
    number: int  # from 1 in the file; empty statements do not count
    line: int  # of the first token, from 1
    column: int

    @property
    def text(self) -> str:
        return _join(self.tokens)

    @cached_property
    def code(self) -> tuple[Token, ...]:
        """What the server acts on: no blanks, comments or optimizer hints, and what is in /*! */ without its marks."""
        return tuple(_code(self.tokens))

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The texts of `code`, with the words, and nothing else, in upper case."""
        return tuple(token.text.upper() if token.kind == "word" else token.text for token in self.code)

    @cached_property
    def verb(self) -> str:
        """The first word, such as INSERT or SET; empty where the statement starts with something else."""
        first = next((token for token in self.code if token.text != "("), None)
        return first.text.upper() if first and first.kind == "word" else ""

    @cached_property
    def pieces(self) -> tuple[tuple[str, str], ...]:
        """The text cut at its parameters, for bind()."""
        return _cut_at_parameters(self.tokens)

    @property
    def schema(self) -> str | None:
        return self._target[0]

    @property
    def table(self) -> str | None:
        """The table that an INSERT, REPLACE, UPDATE or DELETE writes, unquoted; None for other statements."""
        return self._target[1]

    @property
    def writes_metrics(self) -> bool:
        return (self.table or "").lower() == METRICS_TABLE and self.words[self.writer] != "DELETE"

    @cached_property
    def writer(self) -> int:
        """The index in `code` of the INSERT, REPLACE, UPDATE or DELETE that this statement is; -1 for others."""
        if self.verb in _WRITERS:
            return self.words.index(self.verb)
        if self.verb == "WITH" or self.words[:2] == ("SET", "STATEMENT"):
            verbs = (i for i in outermost(self.words) if self.words[i] in _WRITERS or self.words[i] == "SELECT")
            first = next(verbs, -1)
            return first if self.words[first] in _WRITERS else -1
        return -1

    @cached_property
    def _target(self) -> tuple[str | None, str | None]:
        if self.writer < 0:
            return None, None
        at = self.writer + 1
        while self.words[at : at + 1] and self.words[at] in _MODIFIERS:
            at += 1
        if self.words[at : at + 1] in (("INTO",), ("FROM",)):
            return self._table_at(at + 1)
        schema, table = self._table_at(at)
        return self._behind_alias(table) if self.words[self.writer] == "DELETE" and table else (schema, table)

    def _table_at(self, at: int) -> tuple[str | None, str | None]:
        parts = [unquoted(token) for token in self.code[at : at + 3 : 2] if token.kind in ("word", "name")]
        if self.words[at + 1 : at + 2] == (".",) and len(parts) == 2:
            return parts[0], parts[1]
        return None, parts[0] if parts and self.code[at].kind in ("word", "name") else None

    def _behind_alias(self, alias: str) -> tuple[str | None, str | None]:
        """Return the table of `DELETE alias FROM table AS alias`."""
        start = self.words.index("FROM") + 1 if "FROM" in self.words else len(self.code)
        for at in range(start + 1, len(self.code)):
            if self.code[at].kind in ("word", "name") and unquoted(self.code[at]) == alias:
                name = at - 2 if self.words[at - 1] == "AS" else at - 1
                if self.code[name].kind in ("word", "name"):
                    return self._table_at(name - 2 if self.words[name - 1] == "." else name)
        return None, alias


@dataclass(frozen=True)
class Check:
    """A `-- Check: SELECT ...` line of a header; line and column are where its SQL starts."""

    sql: str
    line: int
    column: int

    @cached_property
    def pieces(self) -> tuple[tuple[str, str], ...]:
        """The SQL cut at its parameters, for bind()."""
        return _cut_at_parameters(read(self.sql))


@dataclass(frozen=True)
class Header:
    """What the comment lines at the top of a file say; None where a line is missing."""

    metric: str | None
    description: str | None
    data_type: str | None
    empty_ok: bool
    checks: tuple[Check, ...]
    allow: frozenset[str]


@dataclass(frozen=True)
class Script:
    """The text of one file, read."""

    text: str
    tokens: tuple[Token, ...]
    statements: tuple[Statement, ...]
    header: Header

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of all %(name)s in code and in checks, known or not."""
        in_checks = (token for check in self.header.checks for token in read(check.sql))
        tokens = (*self.tokens, *in_checks)
        return frozenset(parameter_name(token) for token in tokens if token.kind == "parameter")

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that stay the same when only comments, blanks or line ends change."""
        from hashlib import sha256

        code = ((token.text for token in s.tokens if token.kind not in _SPACE) for s in self.statements)
        text = "\0;\0".join("\0".join(texts) for texts in code).replace("\r\n", "\n")
        return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read(text: str) -> list[Token]:
    """Return the tokens of a text. Joined they are the text again, whatever it is; never raises."""
    tokens: list[Token] = []
    offset, inside = 0, False
    new = tuple.__new__  # Token(...) goes through Python once more: a quarter of all the time here
    while offset < len(text):
        for match in (_INSIDE if inside else _OUTSIDE).finditer(text, offset):
            kind = match.lastgroup or ""
            tokens.append(new(Token, (kind, match.group(), match.start())))
            # A statement end also ends the inside: the server starts each statement afresh.
            if kind == "open" or (inside and kind in ("close", "end")):
                break
        offset = match.end()
        inside = kind == "open"
    return tokens


def parse(text: str) -> Script:
    """Read a whole file. Never raises: what is wrong with it is for src.sql_checks to say."""
    tokens = read(text)
    return Script(text, tuple(tokens), tuple(_statements(text, tokens)), _header(text, tokens))


def place(text: str, offset: int) -> tuple[int, int]:
    """Return line and column of an offset, both from 1, in characters."""
    return next(places(text, [offset]))


def places(text: str, offsets: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield line and column for each of some ascending offsets, in one pass over the text."""
    line, line_start, seen = 1, 0, 0
    for offset in offsets:
        newlines = text.count("\n", seen, offset)
        if newlines:
            line += newlines
            line_start = text.rindex("\n", seen, offset) + 1
        seen = offset
        yield line, offset - line_start + 1


def header_lines(tokens: Iterable[Token]) -> Iterator[tuple[str, str, int]]:
    """Yield (key in lower case, value, offset of the value) of the header lines above the first code token."""
    for token in tokens:
        if token.kind not in _SPACE:
            return
        match = _HEADER_LINE.match(token.text)
        if match:
            value = token.text[match.end() :]
            indent = len(value) - len(value.lstrip(" \t\r"))
            yield match[1].lower(), value.strip(" \t\r"), token.offset + match.end() + indent


def outermost(words: Iterable[str]) -> Iterator[int]:
    """Yield the indexes of the words that stand in no parentheses."""
    depth = 0
    for i, word in enumerate(words):
        if word == "(":
            depth += 1
        elif word == ")":
            depth -= 1
        elif depth <= 0:
            yield i


def parameter_name(token: Token) -> str:
    return token.text[2:-2]


def unquoted(token: Token) -> str:
    """Return what a word, a quoted name or a string literal stands for."""
    if token.kind == "name":
        return token.text[1:-1].replace("``", "`")
    if token.kind == "string":
        quote = token.text[0]
        return re.sub(rf"\\(.)|{quote}{quote}", lambda m: _unescaped(m[1], quote), token.text[1:-1], flags=re.DOTALL)
    return token.text


def literal(value: str | datetime.date) -> str:
    """Return a value as a MySQL string literal, for a session without NO_BACKSLASH_ESCAPES."""
    text = value if isinstance(value, str) else value.isoformat()
    return f"'{text.translate(_ESCAPES)}'"


def literals(values: Mapping[str, str]) -> dict[str, str]:
    """Return values by name, such as the parameters of the settings, as bind() wants them."""
    return {name: literal(value) for name, value in values.items()}


def bind(sql: Statement | Check, values: Mapping[str, str]) -> str:
    """Return the SQL with each %(name)s replaced by its literal from `values` and %% by %; comments stay.

    Raises MetricsError where a name has no value.
    """
    try:
        return "".join([text + values[name] if name else text for text, name in sql.pieces])
    except KeyError as missing:
        raise MetricsError(f"no value for %({missing.args[0]})s") from None


def _cut_at_parameters(tokens: Iterable[Token]) -> tuple[tuple[str, str], ...]:
    """Return pairs of a text and the name of the parameter behind it; the last has none."""
    pieces: list[tuple[str, str]] = []
    texts: list[str] = []
    for token in tokens:
        if token.kind == "parameter":
            pieces.append(("".join(texts), parameter_name(token)))
            texts = []
        else:
            texts.append(token.text.replace("%%", "%") if token.kind in _DOUBLED else token.text)
    return (*pieces, ("".join(texts), ""))


def _join(tokens: Iterable[Token]) -> str:
    return "".join(token.text for token in tokens)


def _unescaped(escaped: str | None, quote: str) -> str:
    return quote if escaped is None else _UNESCAPES.get(escaped, escaped)


def _statements(text: str, tokens: list[Token]) -> Iterator[Statement]:
    bodies = list(_bodies(tokens))
    starts = places(text, (body[0].offset for body in bodies))
    for number, (body, (line, column)) in enumerate(zip(bodies, starts, strict=True), start=1):
        yield Statement(body, number, line, column)


def _bodies(tokens: list[Token]) -> Iterator[tuple[Token, ...]]:
    ends = [i for i, token in enumerate(tokens) if token.kind == "end"]
    for start, end in zip([0, *(i + 1 for i in ends)], [*ends, len(tokens)], strict=True):
        while start < end and tokens[start].kind in _SPACE:
            start += 1
        while start < end and tokens[end - 1].kind in _SPACE:
            end -= 1
        body = tuple(tokens[start:end])
        if any(True for _ in _code(body)):
            yield body


def _code(tokens: Iterable[Token]) -> Iterator[Token]:
    hint = False
    for token in tokens:
        if token.kind in _MARKS:
            hint = token.text == "/*+"
        elif not hint and token.kind not in _SPACE:
            yield token


def _header(text: str, tokens: list[Token]) -> Header:
    lines = list(header_lines(tokens))
    first = {key: value for key, value, _ in reversed(lines)}
    checks = [(value, offset) for key, value, offset in lines if key == "check"]
    starts = places(text, (offset for _, offset in checks))
    return Header(
        metric=first.get("metric"),
        description=first.get("description"),
        data_type=first.get("data type"),
        empty_ok=first.get("empty", "").lower() == "ok",
        checks=tuple(Check(sql.rstrip("; \t"), *at) for (sql, _), at in zip(checks, starts, strict=True)),
        allow=frozenset(name.strip() for key, value, _ in lines if key == "allow" for name in value.split(",")),
    )
