"""What the page draws of a metric: figures, lines, bars and tables, as plain data for the template."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import groupby
from typing import Any

from src.dates import ONE_DAY
from src.display.values import IDENTITY, Item, brief, ends_of, exact, items_of, names_of, number_of
from src.metric_file.period import DAY, Period
from src.metric_file.usual import field_of

HEIGHT = 100  # units of a chart, from the top down: whole ones are finer than a pixel and keep the paths short
FLOOR = 105  # where a chart ends below its lowest value
MOST_LINES = 8  # of a dimension
ONE_WEEK = 7 * ONE_DAY
View = dict[str, Any]  # what the template shows of a metric, of a field, a chart or a table


@dataclass(frozen=True)
class RowOfPage:
    """The row of a metric on one date."""

    value: str  # the JSON text of value_list, whatever it holds
    is_final: bool
    fields: str = "[]"  # the JSON text of f_list


@dataclass(frozen=True)
class Series:
    """The rows of a metric, and what is known of its dates."""

    rows: Mapping[date, RowOfPage]
    period: Period
    dates: Sequence[date]  # of the time axis, ascending
    missing: Collection[date]
    revised: Collection[date]  # whose value was replaced after it had been final
    warnings: Mapping[date, Sequence[str]]

    @property
    def shown(self) -> date | None:
        """The date whose value stands on the page: the newest final one, else the newest."""
        return max(self.rows, key=lambda day: (self.rows[day].is_final, day), default=None)

    def compared_with(self, day: date) -> list[tuple[date, str]]:
        """Return the two dates whose values one is compared with, and their names."""
        if self.period == DAY:
            return [(day - ONE_DAY, "the day before"), (day - ONE_WEEK, "a week before")]
        name = str(self.period) if self.period.unit == "day" else self.period.unit
        return [(self.period.before(day), f"the {name} before"), (self.period.year_before(day), "a year before")]

    def is_final(self, day: date) -> bool:
        return self.rows[day].is_final

    def axis_label(self, day: date) -> str:
        if self.period.unit in ("month", "quarter", "year"):
            return f"{day:%b %Y}"
        return f"{day.day} {day:%b}" + ("" if day.year == self.dates[-1].year else f" {day.year}")

    def short_label(self, day: date) -> str:
        return f"{day:%a} {day.day} {day:%b}" if self.period == DAY else self.period.label(day)

    def is_warned_of(self, field: str, day: date) -> bool:
        """Whether a warning of the date is about a field: that of `-- Usual:` is about one, any other about all."""
        return any(field_of(text) in (field, "") for text in self.warnings.get(day, ()))

    def texts(self, field: str, values: Mapping[date, Any]) -> dict[date, str]:
        """Return each value of a field with every digit and with its marks, and the missing dates."""
        found = {}
        for day, value in values.items():
            marks = ("*", not self.is_final(day)), ("†", day in self.revised), ("‡", self.is_warned_of(field, day))
            found[day] = exact(value) + "".join(mark for mark, holds in marks if holds)
        return found | dict.fromkeys(self.missing, "missing")


def draw(series: Series, data_type: str, dimensions: Sequence[str]) -> View:
    """Return what is drawn of a metric.

    fields: the figures of a card. charts: what stands above the table. tables: numbers by date. numbers: items of a
    timeseries. ranking: the rows of a ranking.
    """
    view: View = {"names": [], "fields": [], "charts": [], "tables": [], "numbers": None, "ranking": None}
    shown = series.shown
    if shown is None:
        return view
    if data_type not in ("timeseries", "ranking"):
        fields = list(_card(series, shown))
        charts = [field["chart"] for field in fields if field["chart"]]
        if charts:  # the last legend stands for all
            charts[-1]["legend"] = list(dict.fromkeys(entry for chart in charts for entry in chart["legend"]))
        return view | {"names": [field["name"] for field in fields], "fields": fields, "tables": fields}
    (day_before, before), (week_before, _) = series.compared_with(shown)
    against = (week_before, "vs a week before") if series.period == DAY else (day_before, f"vs {before}")
    items, items_before, items_against = (
        _named_items(series.rows[day].value) if day in series.rows else [] for day in (shown, day_before, against[0])
    )
    names = names_of(series.rows[shown].fields, items)
    if not names:
        return view
    view["names"] = names
    if dimensions:
        view |= _by_dimension(series, shown, names, items, dimensions)
    if data_type == "ranking":
        return view | {"ranking": _ranking(names, items, items_against, against[1])}
    bars = _timeseries(names, items, items_before, series.short_label(shown), before)
    return view | bars | {"charts": view["charts"] or bars["charts"]}


def strip(series: Series, dates: Sequence[date]) -> list[tuple[str, int, str]]:
    """Return each state of some dates: its name, how many dates have it, and their squares as an SVG path."""
    days_in: dict[str, Collection[date]] = {
        "final": {day for day, row in series.rows.items() if row.is_final},
        "not final": {day for day, row in series.rows.items() if not row.is_final},
        "missing": set(series.missing),
        "revised": series.revised,
    }
    found = []
    for name, days in days_in.items():
        places = [place for place, day in enumerate(dates) if day in days]
        runs = groupby(enumerate(places), key=lambda pair: pair[1] - pair[0])  # of places that follow each other
        path = "".join(f"M{run[0][1]} 0h{len(run)}" for _, pairs in runs if (run := list(pairs)))
        found.append((name, len(places), path))
    return found


# --- cards ------------------------------------------------------------------------------------------------------------


def _card(series: Series, shown: date) -> Iterator[View]:
    """Yield the fields of a card, with their lines over the dates of the page."""
    rows = series.rows
    objects = {day: next(iter(items_of(rows[day].value)), {}) for day in sorted(rows, reverse=True)}
    named = objects[shown] or next(filter(None, objects.values()), {})
    for name in names_of(rows[shown].fields, [named]):
        values = {day: found[name] for day, found in objects.items() if name in found}
        numbers = {day: number for day, value in values.items() if (number := number_of(value)) is not None}
        changes = []
        for day, words in series.compared_with(shown):
            if shown in numbers and day >= min(rows):  # before its first row, no metric lacks a value
                note = " (not final)" if day in rows and not rows[day].is_final else ""
                changes.append((*_change(numbers[shown], numbers.get(day)), words + note))
        yield {"name": name, "measure": "", "value": values.get(shown), "changes": changes,
               "chart": _lines(name, series, {"": numbers}, shown), "texts": series.texts(name, values)}  # fmt: skip


def _change(number: Decimal, before: Decimal | None) -> tuple[str, str]:
    """Return the direction of a change, and the change in words; both empty without a value before."""
    if before is None:
        return "", ""
    if number == before:
        return "same", "no change"
    difference = number - before
    percent = 100 * difference / abs(before)
    share = f" ({percent:+,.1f}%)" if 0.05 <= abs(percent) < 10_000 else ""
    return "up" if difference > 0 else "down", brief(abs(difference)) + share


# --- lines ------------------------------------------------------------------------------------------------------------


def _lines(
    name: str, series: Series, lines: Mapping[str, Mapping[date, Decimal]], shown: date | None = None
) -> View | None:
    """Return lines on one time axis, dashed from and to each date that is not final; None without a number.

    One line has marks: its value of `shown`, the revised and the missing dates, and those with a warning.
    """
    dates = series.dates
    inside = {key: {x: numbers[day] for x, day in enumerate(dates) if day in numbers} for key, numbers in lines.items()}
    every = [number for numbers in inside.values() for number in numbers.values()]
    if not every:
        return None
    low, high = min(every), max(every)
    paths = {}
    first: dict[int, int] = {}
    for place, numbers in enumerate(inside.values()):
        heights = {x: _height(number, low, high) for x, number in numbers.items()}
        first = first or heights
        solid = {x: y for x, y in heights.items() if series.is_final(dates[x])}
        near = {x + step for x in heights.keys() - solid.keys() for step in (-1, 0, 1)}
        kind = f" s{place}" if len(lines) > 1 else ""
        paths["b" + kind] = _path({x: y for x, y in heights.items() if x in near})
        paths["f" + kind] = _path(solid)
    legend = [("b", "not final")] if any(path for key, path in paths.items() if key[0] == "b") else []
    if len(lines) == 1:
        warned = {x: y for x, y in first.items() if series.is_warned_of(name, dates[x])}
        revised = {x: first[x] for x in first if dates[x] in series.revised}
        missing = [x for x, day in enumerate(dates) if day in series.missing]
        paths["m"] = "".join(f"M{x} {FLOOR}v-9" for x in missing)
        paths["w"] = paths["wi"] = _dots(warned)  # a ring: a dot, and a smaller one within
        paths["r"] = _dots(revised)
        paths["d"] = _path({x: y for x, y in first.items() if dates[x] == shown})
        legend += [(key, text) for key, text in (("m", "missing"), ("r", "revised"), ("w", "warning")) if paths[key]]
    alt = _alt(name, [f"{day}" for day in dates], next(filter(None, inside.values())))
    labels = _three([series.axis_label(day) for day in dates])
    return {"kind": "line", "name": name, "measure": "", "alt": alt, "ends": ends_of(low, high), "paths": paths,
            "legend": legend, "number": len(dates), "labels": labels}  # fmt: skip


def _three(labels: Sequence[str]) -> list[str]:
    """Return the first, the middle and the last label, as far as there are three."""
    return [labels[0], labels[len(labels) // 2], labels[-1]] if len(labels) > 2 else list(labels)


def _path(points: Mapping[int, int]) -> str:
    """Return a line through points in the order of x; a missing x is a gap, and a point between two gaps is a dot."""
    path = ""
    last_x = last_y = 0
    for x, y in points.items():
        before, after = points.get(x - 1), points.get(x + 1)
        if before is None:
            path += f"M{x} {y}" if after is not None else f"M{x} {y}h0"
        elif after is not None and after - y == y - before:
            continue  # straight on
        else:
            path += f"l{x - last_x}{y - last_y:+}"
        last_x, last_y = x, y
    return path


def _dots(points: Mapping[int, int]) -> str:
    return "".join(f"M{x} {y}h0" for x, y in points.items())


def _height(number: Decimal, low: Decimal, high: Decimal) -> int:
    """Return how far below the top `number` is drawn; in the middle if the range is nothing or beyond reach."""
    share = (high - number) / (high - low)
    return round(share * HEIGHT) if share.is_finite() else HEIGHT // 2


def _alt(name: str, labels: Sequence[str], numbers: Mapping[int, Decimal]) -> str:
    lowest, highest = min(numbers, key=numbers.__getitem__), max(numbers, key=numbers.__getitem__)
    number = f"{len(numbers)} of {len(labels)}" if len(numbers) < len(labels) else len(numbers)
    return (
        f"{name}, {number} values from {labels[0]} to {labels[-1]}: lowest "
        f"{brief(numbers[lowest])} ({labels[lowest]}), highest {brief(numbers[highest])} ({labels[highest]})"
    )


# --- items ------------------------------------------------------------------------------------------------------------


def _by_dimension(
    series: Series, shown: date, names: Sequence[str], items: Sequence[Item], dimensions: Sequence[str]
) -> View:
    """Return a chart for each measure, with a line for each value of the dimensions, and their numbers by date.

    The lines are those of the largest values on the date shown. There are none if a dimension is no field, or if two
    items of a date share their value: which one to draw is not said.
    """
    if not set(dimensions) <= set(names):
        return {}
    by_date: dict[date, dict[str, Item]] = {}
    for day, row in series.rows.items():
        of_date = _named_items(row.value)
        by_date[day] = {" / ".join(exact(item.get(name)) for name in dimensions): item for item in of_date}
        if len(by_date[day]) < len(of_date):
            return {}
    charts, tables = [], []
    for name in names:
        sizes = {key: number for key, item in by_date[shown].items()
                 if (number := number_of(item.get(name))) is not None}  # fmt: skip
        if name in dimensions or IDENTITY.search(name) or not sizes or _is_place(name, items):
            continue
        lines = {}
        for key in sorted(sizes, key=sizes.__getitem__, reverse=True)[:MOST_LINES]:
            numbers = {day: number for day, found in by_date.items()
                       if (number := number_of(found.get(key, {}).get(name))) is not None}  # fmt: skip
            lines[key] = numbers
            tables.append({"name": key, "measure": name, "texts": series.texts(name, numbers)})
        if chart := _lines(name, series, lines):
            keys = [(f"f s{place}", f"{key} {brief(sizes[key])}") for place, key in enumerate(lines)]
            charts.append(chart | {"measure": name, "legend": (keys if len(keys) > 1 else []) + chart["legend"]})
    return {"charts": charts, "tables": tables}


def _timeseries(names: list[str], items: list[Item], before: list[Item], now_name: str, before_name: str) -> View:
    """Return the bars of each field that holds numbers, and all values beside those of the date before."""
    if len(names) == 1:
        names, items, before = ["#", *names], _numbered(items), _numbered(before)
    label, *fields = names
    labels = [exact(item.get(label)) for item in items]
    earlier = {exact(item.get(label)): item for item in before}
    if earlier.keys().isdisjoint(labels):  # such as hours with their date: compared by their place
        earlier = dict(zip(labels, before, strict=False))
    pairs = [(item, earlier.get(text, {})) for text, item in zip(labels, items, strict=True)]
    charts = [chart for name in fields if (chart := _bars(name, labels, pairs, now_name, before_name))]
    head = [label, *(text for name in fields for text in (name, before_name))]
    rows = [[item.get(label), *(each.get(name, "") for name in fields for each in (item, old))] for item, old in pairs]
    return {"charts": charts, "numbers": {"head": head, "rows": rows, "moves": []}}


def _bars(
    name: str, labels: Sequence[str], pairs: Sequence[tuple[Item, Item]], now_name: str, before_name: str
) -> View | None:
    """Return the bars of a date, and behind them those of the date before; None without a number."""
    front, back = (
        {x: number for x, pair in enumerate(pairs) if (number := number_of(pair[side].get(name))) is not None}
        for side in (0, 1)
    )
    if not front:
        return None
    ends = (Decimal(0), *front.values(), *back.values())
    low, high = min(ends), max(ends)
    zero = _height(Decimal(0), low, high)
    paths = {
        key: "".join(f"M{x} {zero}V{_height(number, low, high)}" for x, number in bars.items() if number)
        for key, bars in (("b", back), ("f", front))
    }
    legend = [("f", now_name)] + ([("b", before_name)] if back else [])
    return {"kind": "bars", "name": name, "measure": "", "alt": _alt(name, labels, front), "ends": ends_of(low, high),
            "paths": paths, "legend": legend, "number": len(labels), "labels": _three(labels)}  # fmt: skip


def _ranking(names: list[str], items: list[Item], before: list[Item], against: str) -> View:
    """Return the rows of a ranking, with their movement since an earlier date if rows can be told apart."""
    keys = [name for name in names if IDENTITY.search(name)]
    keys = keys or [name for name in names if isinstance(items[0].get(name), str)]
    places = {repr([item.get(key) for key in keys]): place for place, item in enumerate(before, 1)}
    moves = []
    for place, item in enumerate(items, 1):
        was = places.get(repr([item.get(key) for key in keys]))
        if was is None or was == place:
            moves.append(("new", "new") if was is None else ("same", "same"))
        else:
            moves.append(("up" if was > place else "down", f"{abs(was - place):,}"))
    if not any(_is_place(name, items) for name in names):
        names, items = ["#", *names], _numbered(items)
    rows = [[item.get(name, "") for name in names] for item in items]
    return {"head": names, "rows": rows, "moves": moves if places and keys else [], "against": against}


def _is_place(name: str, items: Sequence[Item]) -> bool:
    """Tell whether a field counts the items: 1, 2, 3."""
    return all(item.get(name) == place for place, item in enumerate(items, 1))


def _numbered(items: Iterable[Item]) -> list[Item]:
    return [{"#": Decimal(place)} | item for place, item in enumerate(items, 1)]


def _named_items(text: str) -> list[Item]:
    """Return the objects of a value_list; a number that names something becomes text, which is not grouped."""
    items = items_of(text)
    for item in items:
        item |= {name: f"{item[name]}" for name in item if IDENTITY.search(name) and isinstance(item[name], Decimal)}
    return items
