"""Reads a value_list, and writes its values for people: with every digit, for a headline, for an axis."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any

from src.errors import UNREADABLE_JSON

LONGEST = 200  # characters of a text that are shown
MOST_DECIMALS = 20  # shown at most at the end of an axis
# Holds every DECIMAL of MySQL. Nothing traps: what is out of range becomes Infinity or NaN, and is then not drawn.
EXACT = Context(prec=80, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
IDENTITY = re.compile(r"(^|_)id$", re.IGNORECASE)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?", re.ASCII)  # 007 is not a number
_DECODER = json.JSONDecoder(parse_int=Decimal, parse_float=Decimal, parse_constant=str)
Item = dict[str, Any]  # an object of value_list


@dataclass(frozen=True)
class Line:
    """The values of a card on one date, or one item of a timeseries or ranking."""

    metric: str
    metric_date: date
    is_final: bool
    item: int | None  # from 1; None: of a card
    values: Item


def lines_of(metric: str, day: date, is_final: bool, value_list: str, f_list: str) -> Iterator[Line]:
    """Yield the lines of a row, the values in the order of f_list; an empty array has none."""
    items = items_of(value_list)
    is_array = isinstance(parse_value(value_list), list)
    names = names_of(f_list, items)
    for place, item in enumerate(items if is_array else items or [{}], start=1):
        values = {name: item[name] for name in names if name in item}
        yield Line(metric, day, is_final, place if is_array else None, values)


def plain(value: Any) -> str:
    """Return a value for a spreadsheet: a number with all its digits and no comma, nothing for null."""
    if value is None:
        return ""
    return str(value) if isinstance(value, str | Decimal) else json.dumps(value, default=str, ensure_ascii=False)


def parse_value(text: str) -> Any:
    """Return the value of a JSON text, its numbers as Decimal; the text itself if it is no JSON."""
    try:
        return _DECODER.decode(text)
    except UNREADABLE_JSON:
        return text


def items_of(text: str) -> list[Item]:
    """Return the objects of a value_list: one of a card, each item of an array, none of null."""
    value = parse_value(text)
    found = value if isinstance(value, list) else [] if value is None else [value]
    return [each if isinstance(each, dict) else {} if each is None else {"value": each} for each in found]


def names_of(f_list: str, items: Iterable[Item]) -> list[str]:
    """Return the fields of the items in the order of f_list, a JSON text; MySQL sorts the keys of value_list."""
    found = dict.fromkeys(name for item in items for name in item)
    return sorted(found, key=lambda name: f_list.find(f'"{name}"'))


def number_of(value: Any) -> Decimal | None:
    """Return a number, also one in quotes, which is how MariaDB stores a bare @variable; None for all else."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return Decimal(value)
    return value if isinstance(value, Decimal) and value.is_finite() else None


def exact(value: Any) -> str:
    """Return a JSON value as text: every digit of what MySQL can hold as DECIMAL, an exponent for a longer number."""
    if isinstance(value, Decimal):
        return f"{+value:,f}" if -40 < value.adjusted() < 70 else f"{value:.20E}"
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def brief(value: Any) -> str:
    """Return a value for a headline: two decimals, or three digits below 1, or an exponent if it is too long."""
    number = number_of(value)
    if number is None:
        return "no value" if value is None else exact(value)
    size = number.adjusted() if number else 0
    if not -7 < size < 21:
        return f"{number:.4E}"
    places = max(2, 2 - size)
    text = exact(number)
    return text if len(text.partition(".")[2]) <= places else f"{number:,.{places}f}"


def ends_of(low: Decimal, high: Decimal) -> tuple[str, str]:
    """Return the ends of an axis as 3.30 and 5.54, 0 and 2,408, or 0.98M and 1.35M.

    Both have one unit and as many decimals: three digits of the larger, or more if they would look the same.
    """
    size = max((end.adjusted() for end in (low, high) if end), default=0)
    if not -5 < size < 15:
        texts = f"{low:.4E}", f"{high:.4E}"
        return texts[0] if low else "0", texts[1] if high else "0"
    thousands = size // 3 if size > 3 else 0
    places = max(0, 2 - size + 3 * thousands)
    for more in range(MOST_DECIMALS):
        texts = f"{low.scaleb(-3 * thousands):,.{places + more}f}", f"{high.scaleb(-3 * thousands):,.{places + more}f}"
        if texts[0] != texts[1] or low == high:
            break
    while "." in texts[0] and all(text[-1] in "0." for text in texts):
        texts = texts[0][:-1], texts[1][:-1]
    unit = ("", "K", "M", "B", "T")[thousands]
    return texts[0] + unit if low else "0", texts[1] + unit if high else "0"
