"""Makes the page of `list_metrics.py --html`: the numbers of every metric in one file that makes no request."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from pathlib import Path
from typing import Any

from src.dates import ONE_DAY, date_range, ranges
from src.display.repairs import SHOWN_REPAIRS
from src.display.status import MetricState, in_words, repair_commands
from src.sql_loader import Catalog
from src.storage.overview import Correction, Overview
from src.storage.store import MetricStore
from src.wording import count

TOP = 10  # rows of a ranking that are not folded
LONGEST = 200  # characters of a text that are shown
HEIGHT = 100  # units of a chart, from the top down: whole ones are finer than a pixel and keep the paths short
ONE_WEEK = 7 * ONE_DAY
STRIP_DAYS = 92
# Holds every DECIMAL of MySQL. Nothing traps: what is out of range becomes Infinity or NaN, and is then not drawn.
EXACT = Context(prec=80, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?", re.ASCII)  # 007 is not a number
IDENTITY = re.compile(r"(^|_)id$", re.IGNORECASE)
DECODER = json.JSONDecoder(parse_int=Decimal, parse_float=Decimal, parse_constant=str)
Item = dict[str, Any]  # an object of value_list
View = dict[str, Any]  # what the template shows of a metric, of a field, a chart or a table


@dataclass(frozen=True)
class RowOfPage:
    """The row of a metric on one date."""

    value: str  # the JSON text of value_list, whatever it holds
    is_final: bool
    fields: str = "[]"  # the JSON text of f_list, which keeps the order; MySQL sorts the keys of value_list


@dataclass(frozen=True)
class MetricPage:
    """What the page shows of one metric."""

    state: MetricState
    description: str
    data_type: str  # timeseries or ranking; any other is drawn as a card
    sql: Mapping[str, str]  # the text of each file, by path
    reads: Sequence[str]  # names of metrics
    rows: dict[date, RowOfPage]  # to today: at least the dates of the page and the last STRIP_DAYS
    corrections: list[Correction]  # of the same dates, newest first


@dataclass(frozen=True)
class Page:
    """Everything the page shows."""

    database: str
    moment: str  # when the page was made
    today: date
    days: int  # dates of a line, today included
    state: str  # in words
    commands: Sequence[str]  # what repairs it
    is_well: bool
    metrics: Sequence[MetricPage]  # in run order


def page_of(
    store: MetricStore, overview: Overview, found: Sequence[MetricState], catalog: Catalog, database: str, today: date,
    days: int,
) -> Page:  # fmt: skip
    """Return the page of all metrics that have a file; its lines end today and have `days` dates."""
    shown = [state for state in found if state.file and not state.file.is_helper]
    metrics: dict[str, MetricPage] = {}
    for state in shown:
        if state.file:
            metrics[state.name] = MetricPage(
                state,
                description=state.file.description,
                data_type=state.file.data_type,
                sql={file.path: file.script.text for file in catalog.files_of(state.name)},
                reads=sorted(catalog.reads.get(state.name, ())),
                rows={},
                corrections=[],
            )  # fmt: skip
    since = today - (max(days, STRIP_DAYS) + 7) * ONE_DAY  # the first week is shown whole
    final = store.final_cells(since)
    for name, day, row in store.rows({name: [since, catalog.period(name).end_of(today)] for name in metrics}):
        metrics[name].rows[day] = RowOfPage(row.value_list, (name, day) in final, row.f_list)
    for correction in overview.corrections(metrics, since):
        metrics[correction.metric].corrections.append(correction)
    words, is_well = in_words(found, today)
    return Page(
        database=database, moment=store.clock(), today=today, days=days, state=words,
        commands=repair_commands(found, found, SHOWN_REPAIRS), is_well=is_well, metrics=list(metrics.values()),
    )  # fmt: skip


def render(page: Page) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"csp_hash": _csp_hash, "count": count, "brief": _brief, "exact": _exact}
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    order = {"timeseries": 1, "ranking": 2}  # after the cards
    with localcontext(EXACT):
        views = [_view(metric, page) for metric in sorted(page.metrics, key=lambda m: order.get(m.data_type, 0))]
        first = page.today - (page.days - 1) * ONE_DAY
        monday = first - first.weekday() * ONE_DAY
        anchors = {metric.state.name: f"m{number}" for number, metric in enumerate(page.metrics, 1)}
        html = template.render(
            page=page, views=views, dates=date_range(monday, page.today), anchors=anchors, top=TOP, strip=STRIP_DAYS
        )
    # JSON may hold half of a surrogate pair, which no file can: it is shown as its escape.
    return html.encode("utf-8", "backslashreplace").decode("utf-8")


def write(page: Page, path: Path) -> None:
    """Write the page to `path`; a reader sees the old file or the new one, and a failure leaves the old one.

    A page that is there keeps its mode, and its owner where that is allowed; a new one gets what the umask leaves.
    Raises FileExistsError for a link, as somebody else may have made it, and for all that is no regular file.
    """
    old = path.lstat() if path.exists() or path.is_symlink() else None
    if old and stat.S_ISLNK(old.st_mode):
        raise FileExistsError(f"{path} is a link; name the file that it leads to")
    if old and not stat.S_ISREG(old.st_mode):
        raise FileExistsError(f"{path} is not a regular file")  # os.replace would put a file in place of /dev/null
    html = render(page)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".page-") as folder:
        new = Path(folder, path.name)
        new.write_bytes(html.encode())
        if old:
            with suppress(PermissionError):
                os.chown(new, old.st_uid, old.st_gid)
            new.chmod(old.st_mode & 0o777)
        new.replace(path)


def _csp_hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _view(metric: MetricPage, page: Page) -> View:
    """Return a metric and what is drawn of it: its newest final row, or where there is none, its newest."""
    rows = metric.rows
    shown = max(rows, key=lambda day: (rows[day].is_final, day), default=None)
    view: View = {"metric": metric, "shown": shown, "strip": _strip(metric, page.today)}
    view |= {"fields": [], "charts": [], "numbers": None, "ranking": None}
    if shown is None:
        return view
    if metric.data_type not in ("timeseries", "ranking"):
        return view | {"fields": list(_card(metric, page, shown))}
    items, day_before, week_before = (
        _items(rows[day].value) if day in rows else [] for day in (shown, shown - ONE_DAY, shown - ONE_WEEK)
    )
    names = _names(rows[shown], items)
    if not names:
        return view
    if metric.data_type == "ranking":
        return view | {"ranking": _ranking(names, items, week_before)}
    return view | _timeseries(names, items, day_before)


def _strip(metric: MetricPage, today: date) -> list[tuple[str, int, str]]:
    """Return each state of the last dates: its name, how many dates have it, and their squares as an SVG path."""
    dates = date_range(today - (STRIP_DAYS - 1) * ONE_DAY, today)
    days_in = {
        "final": {day for day, row in metric.rows.items() if row.is_final},
        "not final": {day for day, row in metric.rows.items() if not row.is_final},
        "missing": set(metric.state.cells.missing),
        "revised": {each.metric_date for each in metric.corrections},
    }
    strip = []
    for name, days in days_in.items():
        shown = [day for day in dates if day in days]
        path = "".join(f"M{(run[0] - dates[0]).days} 0h{len(run)}" for run in ranges(shown))
        strip.append((name, len(shown), path))
    return strip


def _card(metric: MetricPage, page: Page, shown: date) -> Iterator[View]:
    """Yield the fields of a card, with their lines over the dates of the page."""
    rows = metric.rows
    dates = date_range(page.today - (page.days - 1) * ONE_DAY, page.today)
    objects = {day: _object(_parse(rows[day].value)) for day in sorted(rows, reverse=True)}
    named = objects[shown] or next(filter(None, objects.values()), {})
    for name in _names(rows[shown], [named]):
        values = {day: found[name] for day, found in objects.items() if name in found}
        numbers = {day: number for day, value in values.items() if (number := _number(value)) is not None}
        changes = []
        for day, against in ((shown - ONE_DAY, "on the day before"), (shown - ONE_WEEK, "on the week before")):
            if shown in numbers:
                note = " (not final)" if day in rows and not rows[day].is_final else ""
                changes.append((*_change(numbers[shown], numbers.get(day)), against + note))
        texts = {day: _exact(value) + ("" if rows[day].is_final else "*") for day, value in values.items()}
        texts |= dict.fromkeys(metric.state.cells.missing, "missing")
        chart = _line(name, dates, numbers, rows, shown)
        yield {"name": name, "value": values.get(shown), "changes": changes, "chart": chart, "texts": texts}


def _change(number: Decimal, before: Decimal | None) -> tuple[str, str]:
    """Return the direction of a change, and the change in words."""
    if before is None:
        return "", "no value"
    if number == before:
        return "same", "no change"
    difference = number - before
    percent = 100 * difference / abs(before)
    share = f" ({percent:+,.1f}%)" if 0.05 <= abs(percent) < 10_000 else ""
    return "up" if difference > 0 else "down", _brief(abs(difference)) + share


def _line(
    name: str, dates: Sequence[date], numbers: Mapping[date, Decimal], rows: Mapping[date, RowOfPage], shown: date
) -> View | None:
    """Return a line that is dashed from and to each date that is not final; None without a number."""
    inside = {x: numbers[day] for x, day in enumerate(dates) if day in numbers}
    if not inside:
        return None
    low, high = min(inside.values()), max(inside.values())
    heights = {x: _height(number, low, high) for x, number in inside.items()}
    solid = {x: y for x, y in heights.items() if rows[dates[x]].is_final}
    near = {x + step for x in heights.keys() - solid.keys() for step in (-1, 0, 1)}
    dashed = {x: y for x, y in heights.items() if x in near}
    dot = {x: y for x, y in heights.items() if dates[x] == shown}
    paths = {"b": _path(dashed), "f": _path(solid), "d": _path(dot)}
    labels = [f"{day}" for day in dates]
    return {"name": name, "alt": _alt(name, labels, inside), "labels": labels, "low": low, "high": high, "paths": paths}


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


def _height(number: Decimal, low: Decimal, high: Decimal) -> int:
    """Return how far below the top `number` is drawn; in the middle where the range is nothing or beyond reach."""
    share = (high - number) / (high - low)
    return round(share * HEIGHT) if share.is_finite() else HEIGHT // 2


def _alt(name: str, labels: Sequence[str], numbers: Mapping[int, Decimal]) -> str:
    lowest, highest = min(numbers, key=numbers.__getitem__), max(numbers, key=numbers.__getitem__)
    return (
        f"{name}, {len(numbers)} of {len(labels)} values from {labels[0]} to {labels[-1]}: lowest "
        f"{_brief(numbers[lowest])} ({labels[lowest]}), highest {_brief(numbers[highest])} ({labels[highest]})"
    )


def _timeseries(names: list[str], items: list[Item], before: list[Item]) -> View:
    """Return the bars of each field that holds numbers, and all values beside those of the day before."""
    if len(names) == 1:
        names, items, before = ["#", *names], _numbered(items), _numbered(before)
    label, *fields = names
    labels = [_exact(item.get(label)) for item in items]
    earlier = {_exact(item.get(label)): item for item in before}
    if earlier.keys().isdisjoint(labels):  # such as hours with their date: compared by their place
        earlier = dict(zip(labels, before, strict=False))
    pairs = [(item, earlier.get(text, {})) for text, item in zip(labels, items, strict=True)]
    charts = [chart for name in fields if (chart := _bars(name, labels, pairs))]
    head = [label, *(text for name in fields for text in (name, "day before"))]
    rows = [[item.get(label), *(each.get(name, "") for name in fields for each in (item, old))] for item, old in pairs]
    return {"charts": charts, "numbers": {"head": head, "rows": rows, "moves": []}}


def _bars(name: str, labels: Sequence[str], pairs: Sequence[tuple[Item, Item]]) -> View | None:
    """Return the bars of a date, and behind them those of the day before; None without a number."""
    front, back = (
        {x: number for x, pair in enumerate(pairs) if (number := _number(pair[side].get(name))) is not None}
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
    return {"name": name, "alt": _alt(name, labels, front), "labels": labels, "low": low, "high": high, "paths": paths}


def _ranking(names: list[str], items: list[Item], week_before: list[Item]) -> View:
    """Return the rows of a ranking, with their movement against a week ago where rows can be told apart."""
    keys = [name for name in names if IDENTITY.search(name)]
    keys = keys or [name for name in names if isinstance(items[0].get(name), str)]
    places = {repr([item.get(key) for key in keys]): place for place, item in enumerate(week_before, 1)}
    moves = []
    for place, item in enumerate(items, 1):
        was = places.get(repr([item.get(key) for key in keys]))
        if was is None or was == place:
            moves.append(("new", "new") if was is None else ("same", "same"))
        else:
            moves.append(("up" if was > place else "down", f"{abs(was - place):,}"))
    if not any(all(item.get(name) == place for place, item in enumerate(items, 1)) for name in names):
        names, items = ["#", *names], _numbered(items)
    rows = [[item.get(name, "") for name in names] for item in items]
    return {"head": names, "rows": rows, "moves": moves if places and keys else []}


def _numbered(items: Iterable[Item]) -> list[Item]:
    return [{"#": Decimal(place)} | item for place, item in enumerate(items, 1)]


def _items(text: str) -> list[Item]:
    """Return the objects of a value_list; a number that names something becomes text, which is not grouped."""
    value = _parse(text)
    items = [_object(each) for each in (value if isinstance(value, list) else [] if value is None else [value])]
    for item in items:
        item |= {name: f"{item[name]}" for name in item if IDENTITY.search(name) and isinstance(item[name], Decimal)}
    return items


def _names(row: RowOfPage, items: Iterable[Item]) -> list[str]:
    """Return the fields of the items, in the order of the row's f_list."""
    found = dict.fromkeys(name for item in items for name in item)
    return sorted(found, key=lambda name: row.fields.find(f'"{name}"'))


def _parse(text: str) -> Any:
    """Return the value of a JSON text, its numbers as Decimal; the text itself where it is no JSON."""
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        return text


def _object(value: Any) -> Item:
    return value if isinstance(value, dict) else {} if value is None else {"value": value}


def _number(value: Any) -> Decimal | None:
    """Return a number, also one in quotes, which is how MariaDB stores a bare @variable."""
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return Decimal(value)
    return value if isinstance(value, Decimal) and value.is_finite() else None


def _exact(value: Any) -> str:
    """Return a JSON value as text: every digit of what MySQL can hold as DECIMAL, an exponent for a longer number."""
    if isinstance(value, Decimal):
        return f"{+value:,f}" if -40 < value.adjusted() < 70 else f"{value:.20E}"
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _brief(value: Any) -> str:
    """Return a value for a headline: two decimals, or three digits below 1, or an exponent if it is too long."""
    number = _number(value)
    if number is None:
        return "no value" if value is None else _exact(value)
    size = number.adjusted() if number else 0
    if not -7 < size < 21:
        return f"{number:.4E}"
    places = max(2, 2 - size)
    text = _exact(number)
    return text if len(text.partition(".")[2]) <= places else f"{number:,.{places}f}"
