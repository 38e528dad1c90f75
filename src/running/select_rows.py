"""A metric written as a SELECT: its rows become the values of bi_metrics, the same on every engine."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from src.db_manager import DatabaseManager, Row
from src.metric_file.step import Step
from src.running.server_warnings import QueryError, refuse_warnings

MOST_ROWS = 100_000  # of one date
LARGEST_INTEGER = 2**63 - 1  # beyond 64 bits MySQL keeps a number in JSON as DOUBLE
LONGEST_NAME = 64  # characters of a column's name
DATE_COLUMN = "metric_date"
_PLAIN = frozenset({int, str, float, Decimal, type(None)})  # the types of values that JSON takes as they are


@dataclass(frozen=True, slots=True)
class Value:
    """A value of one date: an SQL expression with its arguments that gives it, and its JSON text."""

    expression: str
    args: list[Any]
    text: str
    is_exact: bool  # the server stores just this; of a float it may keep other digits


@dataclass(frozen=True)
class Selected:
    """What the SELECT of a step computed."""

    f_list: str  # JSON text
    values: dict[date, Value]

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return sum(len(value.text) + len(value.expression) for value in self.values.values())


def run_select(database: DatabaseManager, step: Step, sql: str) -> Selected:
    """Run the SELECT of a step. Raises QueryError for rows that are no metric, and for the server's warnings."""
    with database.select(sql) as (columns, rows):
        fields, values = values_of(step, columns, rows)
    refuse_warnings(database, step)
    return Selected(json.dumps(fields, ensure_ascii=False), {day: _as_value(each) for day, each in values.items()})


def values_of(step: Step, columns: Sequence[str], rows: Iterable[Row]) -> tuple[list[str], dict[date, Any]]:
    """Return the names of the fields, and the value of each date of the step: an object, an array, or None.

    A card's value is an object of its one row, that of a timeseries or ranking an array of objects. Raises QueryError.
    """
    fields = [name for name in columns if name.lower() != DATE_COLUMN]
    date_at = next((i for i, name in enumerate(columns) if name.lower() == DATE_COLUMN), None)
    _check_columns(step, columns, date_at)
    found: dict[Any, list[dict[str, Any]]] = {day: [] for day in step.dates}
    for row in rows:
        if date_at is None:
            items, values = found[step.dates[-1]], row
        else:
            items = found.get(row[date_at]) or found[_date_of(step, row[date_at], found)]
            values = row[:date_at] + row[date_at + 1 :]
        items.append({name: value if type(value) in _PLAIN else _plain(name, value)
                      for name, value in zip(fields, values, strict=True)})  # fmt: skip
        if len(items) > MOST_ROWS:
            day = step.dates[-1] if date_at is None else row[date_at]
            raise QueryError(f"more than {MOST_ROWS:,} rows for {day}; aggregate, or add a LIMIT")
    return fields, {day: _value(step, day, items) for day, items in found.items()}


def as_sql(value: Any) -> tuple[str, list[Any]]:
    """Return an SQL expression for a JSON value, with its arguments.

    JSON text with a DECIMAL in it would be read by MySQL as DOUBLE, so such values are built by JSON functions.
    """
    try:
        return "%s", [json.dumps(value, ensure_ascii=False)]
    except TypeError:  # json knows no Decimal
        args: list[Any] = []
        return _expression(value, args), args


def _as_value(value: Any) -> Value:
    expression, args = as_sql(value)
    text = args[0] if expression == "%s" and isinstance(args[0], str) else _text(value)
    return Value(expression, args, text, _is_exact(value))


def _text(value: Any) -> str:
    """Return the JSON text of a value with a DECIMAL in it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(key)}: {_text(item)}" for key, item in value.items()) + "}"
    return format(value, "f") if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


def _is_exact(value: Any) -> bool:
    """Tell whether every server stores each number of a value as it is."""
    if isinstance(value, list):
        return all(map(_is_exact, value))
    if isinstance(value, dict):
        return all(map(_is_exact, value.values()))
    return not isinstance(value, float) and not (isinstance(value, int) and abs(value) > LARGEST_INTEGER)


def _expression(value: Any, args: list[Any]) -> str:
    if isinstance(value, list):
        return f"JSON_ARRAY({', '.join(_expression(item, args) for item in value)})"
    if isinstance(value, dict):
        pairs = []
        for key, item in value.items():
            args.append(key)
            pairs.append(f"%s, {_expression(item, args)}")
        return f"JSON_OBJECT({', '.join(pairs)})"
    if isinstance(value, Decimal):
        args.append(str(value))
        return f"CAST(%s AS DECIMAL(65,{max(0, -int(value.as_tuple().exponent))}))"
    args.append(value)
    return "%s"


def _check_columns(step: Step, names: Sequence[str], date_at: int | None) -> None:
    names = [DATE_COLUMN if name.lower() == DATE_COLUMN else name for name in names]
    if set(names) <= {DATE_COLUMN}:
        raise QueryError("the SELECT has no column to store; select the number")
    for name in names:
        if names.count(name) > 1:
            raise QueryError(f"two columns are named {name}; rename one of them with AS")
        if len(name) > LONGEST_NAME:
            size = f"{len(name)} characters, more than {LONGEST_NAME}"
            raise QueryError(f"the column {name[:20]}... has {size}; rename it with AS")
    if step.file.is_set_based and date_at is None:
        raise QueryError(f"a set-based SELECT needs a column {DATE_COLUMN} that says which date a row belongs to")


def _date_of(step: Step, value: Any, days: Container[date]) -> date:
    """Return the date that a row is of, which must be one of `days`, those of the step."""
    day = value
    if isinstance(day, str):
        with suppress(ValueError):
            day = datetime.fromisoformat(day)
    if isinstance(day, datetime) and day.time() == time():
        day = day.date()
    if not isinstance(day, date) or isinstance(day, datetime):
        raise QueryError(f"the column {DATE_COLUMN} holds {value!r}, which is not a date; select DATE(...)")
    if day not in days:
        end = step.file.period.end_of(day)
        if end != day:
            raise QueryError(f"a row is of {day}, not the last day of a {step.file.period}; its period ends on {end}")
        raise QueryError(f"a row is of {day}, which is not among the dates asked for ({step.label}); look at the WHERE")
    return day


def _value(step: Step, day: date, items: list[dict[str, Any]]) -> Any:
    if not items and step.file.empty_value is not None:
        return json.loads(step.file.empty_value)
    if step.file.data_type != "card":
        return items
    if not items:
        raise QueryError(f"no row for {day}; if that is expected, add the header line `-- Empty: ok`")
    if len(items) > 1:
        raise QueryError(
            f"{len(items):,} rows for {day}, and a card has one; aggregate, or add the header line "
            "`-- Data Type: timeseries` or `-- Data Type: ranking`"
        )
    return items[0]


def _plain(name: str, value: Any) -> Any:
    """Return a value as JSON knows it: dates and times are ISO text, DECIMAL stays as it is."""
    if isinstance(value, bytes):
        raise QueryError(f"the column {name} is binary, which JSON cannot hold; use HEX() or CONVERT()")
    if isinstance(value, date):  # or a datetime
        return str(value)
    if isinstance(value, timedelta):
        return _time_text(value)
    return value


def _time_text(value: timedelta) -> str:
    """Return a TIME, which may be negative or over a day, as "-100:59:59.500000"."""
    micros = abs(value) // timedelta(microseconds=1)
    seconds, fraction = divmod(micros, 1_000_000)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{'-' if value < timedelta() else ''}{text}{f'.{fraction:06}' if fraction else ''}"
