"""The header of a metric file: the comments such as `-- Description: ...` above its first statement."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

from src.metric_file.text import SPACE, Statement, Token, place, read

KEYS = ("metric", "description", "title", "unit", "owner", "tags", "dimensions", "data type", "empty", "check", "reads",
        "allow", "period", "running", "final after", "check (ended)", "warn", "usual")  # fmt: skip
DATA_TYPES = ("card", "timeseries", "ranking")
QUERIES = ("check", "check (ended)", "warn")  # those of KEYS whose value is a SELECT
_COMMENT_MARKS = re.compile(r"^(--|#|/\*)\s*|\s*(\*/)?$")
_HEADER_LINE = re.compile(r"--[ \t]+([A-Za-z][A-Za-z_ -]*?)[ \t]*(\([A-Za-z ]*\))?[ \t]*:[ \t\r]*")


@dataclass(frozen=True)
class HeaderLine:
    """A line such as `-- Check: SELECT ...` at the top of a file; `key` is lower case, the place is the value's."""

    key: str
    value: str
    line: int
    column: int

    @property
    def is_warning(self) -> bool:
        """Whether the rows of the query are told, and the date is stored all the same."""
        return self.key == "warn"

    @property
    def is_for_ended(self) -> bool:
        """Whether the query is asked only of dates, or periods, that are over."""
        return self.key != "check"

    @cached_property
    def statement(self) -> Statement:
        """The value without its comments as a statement, which a check or a warning is."""
        text = "".join(" " * len(token.text) if token.kind == "comment" else token.text for token in read(self.value))
        return Statement(tuple(read(text.rstrip("; \t"))), 1, self.line, self.column)

    @property
    def comment(self) -> str:
        """The texts of the comments in a query, in which its author says what a row of it means."""
        comments = (token.text for token in read(self.value) if token.kind == "comment")
        return " ".join(filter(None, (_COMMENT_MARKS.sub("", text) for text in comments)))


def header_lines(text: str, tokens: Iterable[Token]) -> Iterator[HeaderLine]:
    """Yield the comments above the first code token that look like `-- Key: value`, whatever the key is."""
    for token in tokens:
        if token.kind not in SPACE:
            return
        match = _HEADER_LINE.match(token.text)
        if match:
            value = token.text[match.end() :].rstrip(" \t\r")
            key = f"{match[1]} {match[2] or ''}".rstrip().lower()
            yield HeaderLine(key, value, *place(text, token.offset + match.end()))


def nearest_key(key: str) -> str:
    """Return the key of ours that a key is a slip of, such as `read` of `reads`; "" for ours and for ordinary words."""
    if key in KEYS:
        return ""
    if key.startswith(("check (", "warn (")):
        return "check (ended)" if key.startswith("check") else "warn"
    near = get_close_matches(key, KEYS, 1, 0.85) or [each for each in KEYS if sorted(each) == sorted(key)]
    return near[0] if near else ""
