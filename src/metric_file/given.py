"""A test of a metric, from tests/ below the folder of metric files: given rows, and the expected row of some dates."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from pathlib import Path

from src.dates import date_range
from src.errors import MetricFileError
from src.metric_file.file import TESTS, parse
from src.metric_file.parameters import DATE_PARAMETERS
from src.metric_file.reads import reads_of
from src.metric_file.text import SPACE, WRITERS, Statement, Token, place

KEYS = ("test", "description", "expect", "param", "from")
_LINE = re.compile(r"--[ \t]+([A-Za-z]+)[ \t]*([^:\n]*?)[ \t]*:[ \t]*([^\r\n]*)")
_PARAMETER = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*(.+)")


@dataclass(frozen=True)
class Expectation:
    """The row that a metric must have on a date, as JSON text; "none" if it must have none."""

    day: date
    value: str
    line: int


@dataclass(frozen=True)
class Given:
    """One test. `problems` are lines that say what is wrong with the file: such a test cannot run."""

    path: str  # starts with the folder of metric files: the way messages name it
    metric: str
    description: str
    expectations: tuple[Expectation, ...]
    parameters: Mapping[str, str]
    dates: tuple[date, ...]  # that are computed, ascending, without gaps
    statements: tuple[Statement, ...]
    problems: tuple[str, ...]


def load_tests(folder: Path) -> list[Given]:
    """Read every test in tests/ below `folder`, in the order of their names. Raises MetricFileError."""
    below = folder / TESTS
    try:
        paths = sorted(path for path in below.glob("*.sql") if path.is_file() and not path.name.startswith(("_", ".")))
        return [read_test(f"{folder.name}/{TESTS}/{path.name}", path.read_text("utf-8-sig")) for path in paths]
    except (OSError, UnicodeDecodeError) as error:
        raise MetricFileError(f"{folder.name}/{TESTS}: cannot read its files: {error}") from None


def read_test(path: str, text: str) -> Given:
    """Return a test. Never raises: what is wrong with it is in its `problems`."""
    script = parse(text)
    problems: list[str] = []
    values = {"test": "", "description": ""}
    expected: dict[date, Expectation] = {}
    parameters: dict[str, str] = {}
    start: date | None = None
    for token in script.tokens:
        if token.kind not in SPACE:
            break
        line = place(text, token.offset)[0]
        try:
            key, argument, value = _header_line(token)
            if key == "expect":
                day = _date(argument)
                if day in expected:
                    raise ValueError(f"a second Expect for {day}")
                expected[day] = Expectation(day, _row(value), line)
            elif key == "from":
                start = _date(value)
            elif key == "param":
                parameters |= _parameter(value)
            elif key:
                values[key] = value
        except ValueError as error:
            problems.append(f"{path}:{line}: {error}")
    for statement in script.statements:
        if statement.verb not in WRITERS:
            problems.append(f"{path}:{statement.line}: {statement.verb}: the rows of a test are given by INSERT, "
                            "REPLACE, UPDATE or DELETE alone")  # fmt: skip
    if not values["test"]:
        problems.append(f"{path}:1: no line `-- Test: NAME` says which metric it tests")
    if not expected:
        problems.append(f'{path}:1: no line such as `-- Expect 2025-01-15: {{"users": 2}}`')
    first = min(expected, default=date.max)
    if start and start > first:
        problems.append(f"{path}:1: From {start} is after the first Expect, {first}")
    dates = () if problems else date_range(start or first, max(expected))
    in_order = tuple(sorted(expected.values(), key=lambda each: each.day))
    return Given(path, values["test"], values["description"], in_order, parameters, tuple(dates), script.statements,
                 tuple(problems))  # fmt: skip


def names_a_schema(statements: Iterable[Statement], schemas: Collection[str]) -> Statement | None:
    """Return the first statement that leaves the session's database: USE, or a table or function of another schema.

    `schemas` are those of the server, in lower case: in `EXTRACT(DAY FROM p.paid_at)` p is none.
    """
    for statement in statements:
        code, words = statement.code, statement.words
        tables = [*reads_of([statement]).tables, *([statement.target] if statement.target else [])]
        named = {table.schema.lower() for table in tables}
        named |= {code[i - 2].name for i in range(2, len(code)) if words[i - 1] == "." and words[i + 1] == "("}
        if statement.verb == "USE" or not named.isdisjoint(schemas):
            return statement
    return None


def _header_line(token: Token) -> tuple[str, str, str]:
    """Return key, argument and value of a comment such as `-- Expect 2025-01-15: none`; key "" for any other comment.

    Raises ValueError for a misspelled line, which would silently leave an expectation out.
    """
    match = _LINE.match(token.text)
    if not match:
        return "", "", ""
    key, argument, value = match[1].lower(), match[2], match[3].strip()
    if key in KEYS and bool(argument) == (key == "expect"):
        return key, argument, value
    near = get_close_matches(key, KEYS, 1, 0.7)
    if near and (not argument or re.match("[0-9]", argument)):
        wanted = "`-- Expect DATE: JSON`" if near[0] == "expect" else f"`-- {near[0].title()}:`"
        raise ValueError(f"`{match[0].partition(':')[0]}:`: did you mean {wanted}?")
    return "", "", ""


def _date(text: str) -> date:
    if not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError(f"{text!r} is not a date; write YYYY-MM-DD")
    return date.fromisoformat(text)


def _row(value: str) -> str:
    if value.lower() == "none":
        return "none"
    try:
        json.loads(value)
    except ValueError as error:
        raise ValueError(f"Expect is neither JSON nor none: {error}") from None
    return value


def _parameter(value: str) -> dict[str, str]:
    match = _PARAMETER.fullmatch(value)
    if not match or match[1].lower() in DATE_PARAMETERS:
        raise ValueError(f"`{value}`: write a parameter of METRIC_PARAM_<NAME> as name=value")
    return {match[1].lower(): match[2].strip()}
