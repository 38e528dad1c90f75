"""Usual values: what a `-- Usual:` line says, and whether a number is far from those before it. Knows no database."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, localcontext
from typing import Any

from src.errors import UNREADABLE_JSON, MetricFileError
from src.metric_file.period import DAY, WEEKDAYS, Period

NUMBER_BEFORE, FEWEST = 8, 5  # values that one is compared with, and how few say nothing
LARGEST = 65  # digits of a DECIMAL; other numbers are left out
_EXACT = Context(prec=200)  # holds the sum of 100,000 DECIMALs and its product with a percentage
_LINE = re.compile(r"(?:(.+?)\s+)?(\d{1,9}(?:\.\d{1,9})?)\s*%\s+to\s+(\d{1,9}(?:\.\d{1,9})?)\s*%", re.ASCII | re.I)
_OF_A_FIELD = re.compile(  # the texts of unusual(), of which the table may have cut the end
    r"(.+) is (?:-?[0-9.]+(?: in all)?, -?[0-9]+ % of the usual -?[0-9.]+ \(median of |"
    r"no number of the row, and -- Usual names it$)"
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)  # in quotes, which is how MariaDB stores a bare @variable
Numbers = Mapping[str, Decimal | None]  # by field; None: null


@dataclass(frozen=True)
class Usual:
    """How far the number of a field may be from the median of those before it, in percent of that."""

    field: str  # "": of every field that has no line of its own
    low: Decimal
    high: Decimal

    def __str__(self) -> str:
        return f"{self.low} % to {self.high} %"


def parse_usual(text: str) -> Usual:
    """Return what a `-- Usual:` line says. Raises MetricFileError."""
    match = _LINE.fullmatch(text.strip())
    if not match:
        raise MetricFileError(f"{text[:60]!r} is no range; write for example 50% to 200%, or revenue 50% to 200%")
    low, high = Decimal(match[2]), Decimal(match[3])
    if low >= high:
        raise MetricFileError(f"{text[:60]!r} is no range: {low} is not less than {high}")
    return Usual(match[1] or "", low, high)


def dates_before(end: date, period: Period) -> list[date]:
    """Return the dates that one is compared with: the weekdays of the eight weeks before, or the eight periods before.

    Of `7 days` these are the periods that share no day with it, nor with each other.
    """
    if period == DAY:
        period = Period("day", 7)
    found = [period.before(end)]
    while len(found) < NUMBER_BEFORE:
        found.append(period.before(found[-1]))
    return found


def numbers_of(value_list: str) -> Numbers | None:
    """Return the numbers of a value_list by field; of an array the sums of its items. None if it holds no object."""
    try:
        value = json.loads(value_list, parse_int=Decimal, parse_float=Decimal, parse_constant=str)
    except UNREADABLE_JSON:
        return None
    objects = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
    found: dict[str, Decimal | None] = {}
    with localcontext(_EXACT):
        for item in objects:
            for field, each in item.items():
                number = _number(each)
                if number is not None:
                    found[field] = number + (found.get(field) or 0)
                elif each is None:
                    found.setdefault(field, None)
    return found if objects else None


def unusual(
    lines: Sequence[Usual], numbers: Numbers, before: Sequence[Numbers], period: Period, end: date, in_all: bool
) -> Iterator[str]:
    """Yield what is unusual about the numbers of a date, in a line for each field.

    `before` are those of dates_before(), as far as there are any. With fewer than five numbers, or a median of 0,
    nothing can be said. `in_all`: the numbers are sums of items.
    """
    named = {line.field: line for line in lines}
    for field in sorted({*numbers, *named} - {""}):  # servers keep the keys of JSON in orders of their own
        line = named.get(field) or named.get("")
        if line and field not in numbers:
            yield f"{field} is no number of the row, and -- Usual names it"
        number = numbers.get(field)
        earlier = sorted(each for found in before if (each := found.get(field)) is not None)
        if line and number is not None and len(earlier) >= FEWEST:
            with localcontext(_EXACT):
                said = _compared(line, number, (earlier[(len(earlier) - 1) // 2] + earlier[len(earlier) // 2]) / 2)
            if said:
                of = f"median of {len(earlier)} {_noun(period, end)}"
                yield f"{field} is {number:f}{' in all' if in_all else ''}, {said} ({of}); allowed: {line}"


def field_of(text: str) -> str:
    """Return the field that a text of unusual() is about; "" for any other text."""
    match = _OF_A_FIELD.match(text)
    return match[1] if match else ""


def _compared(line: Usual, number: Decimal, median: Decimal) -> str:
    """Return how far a number is from the median; "" if that is usual, or if nothing can be said."""
    ends = sorted((line.low * median, line.high * median))  # a median may be negative
    if not median or ends[0] <= 100 * number <= ends[1]:
        return ""
    exact = 100 * number / median
    percent = round(exact)
    if line.low <= percent <= line.high:  # a number just outside must not look as if it were within
        percent = int(exact.to_integral_value(ROUND_FLOOR if exact < line.low else ROUND_CEILING))
    return f"{percent} % of the usual {median:f}"


def _noun(period: Period, end: date) -> str:
    if period == DAY:
        return f"{WEEKDAYS[end.weekday()].title()}s"
    return "periods" if period.unit == "day" else f"{period.unit}s"


def _number(value: Any) -> Decimal | None:
    if isinstance(value, str) and len(value) <= LARGEST + 2 and _NUMBER.fullmatch(value):
        value = Decimal(value)
    if not isinstance(value, Decimal) or not value.is_finite():
        return None
    return value if len(value.as_tuple().digits) <= LARGEST and abs(value.adjusted()) <= LARGEST else None
