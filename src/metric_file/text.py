"""Reads MySQL text: tokens, statements, parameters. What the SQL means is for the server to say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import NamedTuple

from src.errors import MetricsError

METRICS_TABLE = "bi_metrics"
OUR_TABLES = (METRICS_TABLE, "bi_metric_state", "bi_metric_changes", "bi_metric_headers")
TABLES_OF_THE_RUN = frozenset(OUR_TABLES) - {METRICS_TABLE}
WRITERS = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE"})

_TOKEN = re.compile(
    r"""
    (?P<blank>      [ \t\r\n\f\v]+ )
  | (?P<number>     (?<!\.) [0-9]+ (?: \.[0-9]* (?:[eE][+-]?[0-9]+)? | [eE][+-]?[0-9]+ )  # 1.5OR 2 is 1.5 OR 2
                  | (?<![\w$`]) \.[0-9]+ (?:[eE][+-]?[0-9]+)? )
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
  | (?P<null>       \\N )
  | (?P<operator>   <=>|->>|[<>!:]=|<>|<<|>>|->|&&|\|\||. )
    """,
    re.DOTALL | re.VERBOSE,
)
SPACE = frozenset({"blank", "comment"})
_DOUBLED = frozenset({"percent", "string", "name"})  # where %% stands for %
UPSERT = ("ON", "DUPLICATE", "KEY", "UPDATE")
BEFORE_TABLE = {"LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "QUICK", "IGNORE", "INTO", "IF", "NOT", "EXISTS"}
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
        if self.kind == "word":
            return self.text.lower()
        return unquoted(self).lower() if self.kind == "name" else ""


class Table(NamedTuple):
    """A table as a statement names it, unquoted; `schema` is empty if none is named."""

    schema: str
    name: str

    def is_same(self, other: Table) -> bool:
        """Tell whether both names may mean one table: a name without a schema may be of any."""
        schemas = {self.schema.lower(), other.schema.lower()} - {""}
        return self.name.lower() == other.name.lower() and len(schemas) < 2

    def lower(self) -> Table:
        return Table(self.schema.lower(), self.name.lower())

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


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
            elif not in_hint and token.kind not in SPACE:
                code.append(token)
        return tuple(code)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The texts of `code`, words in upper case, and an empty one at the end: words[i + 1] is always there."""
        return (*(token.text.upper() if token.kind == "word" else token.text for token in self.code), "")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of `code`, each as Token.name gives it, and an empty one at the end."""
        return (*(token.name for token in self.code), "")

    @cached_property
    def assigned(self) -> tuple[int, ...]:
        """The indexes in `code` of the @variables behind INTO and before `:=`."""
        found, into = [], False
        for i, token in enumerate(self.code):
            if token.kind != "variable":
                into = self.words[i] == "INTO" or (into and self.words[i] == ",")
            elif into or self.words[i + 1] == ":=":
                found.append(i)
        return tuple(found)

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
        """The main verb in upper case, such as INSERT; another token if the statement starts with no word."""
        return self.words[self.verb_at]

    @property
    def is_query(self) -> bool:
        """Whether this is a SELECT that returns rows."""
        return self.verb == "SELECT" and "INTO" not in self.words

    @cached_property
    def target_at(self) -> int | None:
        """The index in `code` of the name of the table that is written, or created as a temporary table."""
        words, at = self.words, self.verb_at
        if self.verb == "CREATE" and "TEMPORARY" in words[1:4] and "TABLE" in words[1:5]:
            at = words.index("TABLE")
        elif self.verb == "DELETE" and "FROM" in words[at:]:
            at = words.index("FROM", at)
        elif self.verb not in WRITERS:
            return None
        at += 1
        while words[at] in BEFORE_TABLE:
            at += 1
        if words[at + 1 : at + 2] == (".",) and at + 2 < len(self.code):
            at += 2
        return at if at < len(self.code) and self.names[at] else None

    @cached_property
    def target(self) -> Table | None:
        """The table that is written, or created as a temporary table."""
        at = self.target_at
        return None if at is None else table_at(self.code, at)

    @property
    def empties_its_table(self) -> bool:
        """Whether this is a DELETE of all rows: without WHERE, or with one such as WHERE TRUE or WHERE 1 = 1."""
        if self.verb != "DELETE" or self.target_at is None:
            return False
        words = {token.text.upper() for token in self.code[self.target_at + 1 :] if token.name}
        return words <= {"WHERE", "TRUE", "1"}

    @property
    def writes_metrics(self) -> bool:
        """Whether this is an INSERT into bi_metrics."""
        return self.verb == "INSERT" and self.target is not None and self.target.name.lower() == METRICS_TABLE

    @property
    def temporary_table(self) -> str | None:
        """The name in CREATE TEMPORARY TABLE, unquoted."""
        return self.target.name if self.verb == "CREATE" and self.target else None

    @cached_property
    def template(self) -> str:
        """The text for Python's % operator, all but its parameters escaped."""
        parts = []
        for token in self.tokens:
            text = token.text.replace("%%", "%") if token.kind in _DOUBLED else token.text
            parts.append(text if token.kind == "parameter" else text.replace("%", "%%"))
        return "".join(parts)


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


def table_at(code: Sequence[Token], at: int) -> Table:
    """Return the table whose name stands at an index, with the schema before it."""
    schema = unquoted(code[at - 2]) if at > 1 and code[at - 1].text == "." else ""
    return Table(schema, unquoted(code[at]))


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


def phrase_at(words: tuple[str, ...], phrase: tuple[str, ...]) -> int | None:
    """Return the index of the first of some words that follow each other; None if they do not."""
    if phrase[0] not in words:
        return None
    return next((i for i in range(len(words)) if words[i : i + len(phrase)] == phrase), None)


def items(tokens: Iterable[Token]) -> list[list[Token]]:
    """Return what commas separate outside of parentheses, up to a closing parenthesis that nothing has opened."""
    found: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text == "(") - (token.text == ")")
        if depth < 0:
            break
        if token.text == "," and depth == 0:
            found.append([])
        else:
            found[-1].append(token)
    return found


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


def quoted(name: str) -> str:
    """Return a name of a table, a view or a column as a statement takes it, whatever characters it has."""
    return "`" + name.replace("`", "``") + "`"


def bind(statement: Statement, values: Mapping[str, str]) -> str:
    """Return the SQL with each %(name)s replaced by its literal from `values` and %% by %; comments stay.

    Raises MetricsError if a name has no value.
    """
    try:
        return statement.template % values
    except KeyError as missing:
        raise MetricsError(f"no value for %({missing.args[0]})s") from None
