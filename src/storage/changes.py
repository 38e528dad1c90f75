"""Compares rows of bi_metrics as JSON values, so that a key's order or a trailing zero is no difference."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from src.errors import UNREADABLE_JSON

SHOWN = 5  # differences of one row that are spelled out
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class StoredRow:
    """What a row of bi_metrics holds."""

    data_type: str
    f_list: str  # JSON text
    value_list: str  # JSON text


@dataclass(frozen=True, slots=True)
class Change:
    """What a run did to one row. `detail`: "old -> new" of a changed row, the value of a new one, else empty."""

    metric: str
    metric_date: date
    kind: str  # "new", "changed" or "unchanged"
    was_final: bool  # before, or until something that it had read changed
    detail: str

    def __str__(self) -> str:
        return f"{self.metric_date} {self.metric}: {self.kind}{' ' + self.detail if self.detail else ''}"


def compare(metric: str, day: date, old: StoredRow | None, new: StoredRow, was_final: bool) -> Change:
    """Return what became of the row of `metric` on `day`."""
    if old is None:
        return Change(metric, day, "new", False, _cut(new.value_list))
    detail = differences(old, new)
    return Change(metric, day, "changed" if detail else "unchanged", was_final, detail)


def differences(old: StoredRow, new: StoredRow) -> str:
    """Return what differs, compact; empty if both hold the same values."""
    return shortened([*differing(old, new).values()])


def shortened(found: Sequence[str]) -> str:
    rest = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + rest


def differing(old: StoredRow, new: StoredRow) -> dict[str, str]:
    """Return each value that differs, as "place: old -> new" by its place; a place is a path such as .title."""
    found: dict[str, str] = {}
    for place, before, after in (("", old.value_list, new.value_list), ("f_list", old.f_list, new.f_list)):
        if before != after:
            found |= _differences(place, _parse(before), _parse(after))
    if old.data_type != new.data_type:
        found["data_type"] = f"data_type: {old.data_type} -> {new.data_type}"
    return found


def _parse(text: str) -> Any:
    """Return the value of a JSON text; the text itself if Python cannot read it."""
    try:
        return _loads(text)
    except UNREADABLE_JSON:
        return text


def is_readable(text: str) -> bool:
    """Tell whether every reader understands a JSON text, which MariaDB takes, and all of them the same."""
    try:
        _loads(text, _refuse_doubles)
    except UNREADABLE_JSON:
        return False
    return True


def _loads(text: str, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=_integer, object_pairs_hook=pairs_hook or _object)


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 4000 else Decimal(digits)  # Python refuses to read longer ones


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice: one reader takes the first value, another the last")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; a key that stands twice, which MariaDB keeps, gets a name of its own."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        while key in found:
            key += " (again)"
        found[key] = value
    return found


def _differences(place: str, old: Any, new: Any) -> Iterator[tuple[str, str]]:
    if isinstance(old, dict | list) and type(old) is type(new):
        before, after = _members(old), _members(new)
        for key in before | after:
            yield from _differences(place + key, before.get(key, _ABSENT), after.get(key, _ABSENT))
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        name = place.removeprefix(".")
        yield place, f"{name + ': ' if name else ''}{_show(old)} -> {_show(new)}"


def _members(value: dict[str, Any] | list[Any]) -> dict[str, Any]:
    """Return what an object or an array holds, by the text that names its place."""
    if isinstance(value, dict):
        return {f".{key}": item for key, item in value.items()}
    return {f"[{index}]": item for index, item in enumerate(value)}


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False, default=str)
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
