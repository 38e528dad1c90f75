"""Makes the page of `list_metrics.py --html`: the numbers of every metric in one file that makes no request."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from decimal import localcontext
from pathlib import Path
from typing import Any

from src.dates import ONE_DAY, date_range
from src.display.charts import RowOfPage, Series, View, draw, strip
from src.display.repairs import SHOWN_REPAIRS
from src.display.status import MetricState, in_words, repair_commands
from src.display.values import EXACT, brief, exact
from src.metric_file.file import MetricFile
from src.metric_file.period import DAY, Period
from src.sql_loader import Catalog
from src.storage.overview import Correction, Overview
from src.storage.store import MetricStore
from src.wording import count

_DATE = re.compile(r"(?<!\d)\d{4}-\d\d-\d\d(?!\d)", re.ASCII)
TOP = 10  # rows of a ranking that are not folded
STRIP_DAYS = 92
FEWEST_DATES = 5  # of a line of weeks, months, quarters or years
# Of a line; of days, as many as are asked for. Odd, so that the label in the middle is that of the middle.
DATES = {"week": 53, "month": 25, "quarter": 13, "year": 11}
MOST_LATE = 35 * ONE_DAY  # a value that is older is not compared with that of a year before


@dataclass(frozen=True)
class MetricPage:
    """What the page shows of one metric."""

    state: MetricState
    file: MetricFile  # of the night; its header says how the metric is shown
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
    others: Sequence[MetricState] = ()  # with a problem, and not shown: helpers, and metrics without a file


def page_of(
    store: MetricStore, overview: Overview, found: Sequence[MetricState], catalog: Catalog, database: str, today: date,
    days: int, history_start: date | None,
) -> Page:  # fmt: skip
    """Return the page of all metrics in `found` that have a file; its lines end today and have `days` dates."""
    metrics: dict[str, MetricPage] = {}
    for state in found:
        if state.file and not state.file.is_helper:
            metrics[state.name] = MetricPage(
                state,
                state.file,
                sql={file.path: file.script.text for file in catalog.files_of(state.name)},
                reads=sorted(catalog.reads.get(state.name, ())),
                rows={},
                corrections=[],
            )  # fmt: skip
    spans = {name: (_since(metric.file.period, today, days), metric.file.period.end_of(today))
             for name, metric in metrics.items()}  # fmt: skip
    since = min((first for first, _ in spans.values()), default=today)
    final = store.final_cells(since)
    for name, day, row in store.rows_between(spans):
        metrics[name].rows[day] = RowOfPage(row.value_list, (name, day) in final, row.f_list)
    for correction in overview.corrections(metrics, since):
        metrics[correction.metric].corrections.append(correction)
    words, is_well = in_words(found, today, by_title=True)
    return Page(
        database=database, moment=store.clock(), today=today, days=days, state=words,
        commands=repair_commands(found, found, history_start, SHOWN_REPAIRS), is_well=is_well,
        metrics=list(metrics.values()),
        others=[state for state in found if state.name not in metrics and state.problems(today, None)],
    )  # fmt: skip


def render(page: Page) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"csp_hash": _csp_hash, "count": count, "brief": brief, "exact": exact, "dated": _dated}
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    dates = date_range(page.today - (page.days - 1) * ONE_DAY, page.today)
    monday = dates[0] - dates[0].weekday() * ONE_DAY
    with localcontext(EXACT):
        html = template.render(
            page=page, groups=_groups(page.metrics, [_view(metric, page) for metric in page.metrics]),
            first=dates[0], weeks=date_range(monday, page.today), top=TOP,
            anchors={metric.state.name: f"m{number}" for number, metric in enumerate(page.metrics, 1)},
            troubled=[state for state in (*(metric.state for metric in page.metrics), *page.others)
                      if state.problems(page.today, None)],
        )  # fmt: skip
    html = html.replace("\n<", "<")  # 20 line ends per card; those of SQL and of the script stay, as no line has a tag
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


def _dated(text: str) -> Any:
    """Return a text for HTML in which no line ends within a date."""
    from markupsafe import Markup, escape

    return Markup(_DATE.sub(r"<time>\g<0></time>", str(escape(text))))


def _csp_hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _since(period: Period, today: date, days: int) -> date:
    """Return the first date whose row the page may need: of the line, or a year before the value shown."""
    if period == DAY:
        return today - (max(days, STRIP_DAYS) + 7) * ONE_DAY  # the first week is shown whole
    return min(_axis(period, today, max(days, STRIP_DAYS) + 7)[0], period.year_before(period.end_of(today - MOST_LATE)))


def _axis(period: Period, today: date, days: int) -> list[date]:
    """Return the dates of a line, the last one that of the period that runs."""
    dates = [period.end_of(today)]
    while len(dates) < DATES.get(period.unit, days):
        dates.append(period.row_before(dates[-1]))
    return dates[::-1]


def _view(metric: MetricPage, page: Page) -> View:
    """Return a metric, the date it is shown on, what is drawn of it, and the states of its last dates."""
    revised = {correction.metric_date for correction in metric.corrections}
    period = metric.file.period
    dates = _axis(period, page.today, page.days)
    if period.unit != "day":  # a year of weeks is much for a metric that began last month
        with_rows = sum(day >= min(metric.rows, default=day) for day in dates)
        dates = dates[-(max(with_rows, FEWEST_DATES) | 1) :]  # odd
    warnings: dict[date, list[str]] = {}
    for each in metric.state.cells.warnings:
        warnings.setdefault(each.metric_date, []).append(each.text)
    series = Series(metric.rows, period, dates, frozenset(metric.state.cells.missing), revised, warnings)
    last = date_range(page.today - (STRIP_DAYS - 1) * ONE_DAY, page.today) if period.unit == "day" else dates
    shown, label = series.shown, ""
    if shown:
        is_running = shown > page.today or (shown == page.today and not series.is_final(shown))
        label = f"{shown:%a %d %b %Y}" if period == DAY else period.label(shown, page.today if is_running else None)
    newest_ended = period.row_before(period.end_of(page.today - metric.file.final_after * ONE_DAY))
    return {"metric": metric, "shown": shown, "label": label, "is_late": shown is not None and shown < newest_ended,
            "dates": dates, "strip_dates": len(last), "strip": strip(series, last),
            **draw(series, metric.file.data_type, metric.file.dimensions)}  # fmt: skip


def _groups(metrics: Iterable[MetricPage], views: Iterable[View]) -> list[tuple[str, Collection[View]]]:
    """Return the views by the first tag of their metrics, in run order; those without a tag last, under ""."""
    groups: dict[str, list[View]] = {}
    for metric, view in zip(metrics, views, strict=True):
        groups.setdefault(next(iter(metric.file.tags), ""), []).append(view)
    return sorted(groups.items(), key=lambda group: not group[0])
