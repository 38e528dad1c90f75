"""Compares rows of bi_metrics as JSON values, so that a key's order or a trailing zero is no difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

SHOWN = 5  # differences of one row that are spelt out


@dataclass(frozen=True)
class StoredRow:
    """What a row of bi_metrics holds. `is_final`: it was written after its date was over."""

    data_type: str
    f_list: str  # JSON text
    value_list: str  # JSON text
    is_final: bool


@dataclass(frozen=True)
class Change:
    """What a run did to one row. `detail` is "old -> new" for a changed row, else empty."""

    metric: str
    metric_date: date
    kind: str  # "new", "changed" or "unchanged"
    was_final: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.metric_date} {self.metric}: {self.kind}{' ' + self.detail if self.detail else ''}"


def compare(metric: str, day: date, old: StoredRow | None, new: StoredRow) -> Change:
    """Return what became of the row of `metric` on `day`."""
    if old is None:
        return Change(metric, day, "new", False, "")
    detail = _describe(old, new)
    return Change(metric, day, "changed" if detail else "unchanged", old.is_final, detail)


def _describe(old: StoredRow, new: StoredRow) -> str:
    """Return what differs, compact; empty where both hold the same values."""
    found = _json_differences("", old.value_list, new.value_list)
    found += _json_differences("f_list", old.f_list, new.f_list)
    if old.data_type != new.data_type:
        found.append(f"data_type: {old.data_type} -> {new.data_type}")
    rest = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + rest


def _json_differences(place: str, old: str, new: str) -> list[str]:
    if old == new:
        return []
    return list(_differences(place, _parse(old), _parse(new)))


def _parse(text: str) -> Any:
    import json  # only where texts differ, which in most runs none do

    return json.loads(text, parse_float=Decimal)


def _differences(place: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(f"{place}.{key}" if place else key, old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            yield from _differences(f"{place}[{index}]", _item(old, index), _item(new, index))
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield f"{place + ': ' if place else ''}{_show(old)} -> {_show(new)}"


_ABSENT = object()


def _item(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else _ABSENT


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    import json

    text = str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
