"""The header of a metric file: the comments such as `-- Description: ...` above its first statement."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from src.metric_file.text import SPACE, Statement, Token, place, read

_HEADER_LINE = re.compile(r"(?i)--[ \t]+(Metric|Description|Data Type|Empty|Check|Reads|Allow)[ \t]*:[ \t\r]*")


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


def header_lines(text: str, tokens: Iterable[Token]) -> Iterator[HeaderLine]:
    """Yield the header lines: the comments above the first code token that start with a known key."""
    for token in tokens:
        if token.kind not in SPACE:
            return
        match = _HEADER_LINE.match(token.text)
        if match:
            value = token.text[match.end() :].rstrip(" \t\r")
            yield HeaderLine(match[1].lower(), value, *place(text, token.offset + match.end()))
