"""Random metrics and random histories on a real server, and the two promises about rows that are final.

Beside each row the test keeps what its file read when it wrote the row: the rows of bi_metrics and the days of the
source, taken inside the run's own transaction just before the statement. Then

- fresh: at every point of every history, what a final row has read is still as it was read;
- mended: once each date whose source has changed was run again, nights (or the commands that a run prints) leave
  nothing due, and the table equals a full load of an empty one.

The source only grows, and each late event has an amount of its own, so that a changed date always shows in its row:
late data that leave the row of their own date as it was can be seen by no rule (docs/design.md, "Final").
"""

from __future__ import annotations

import io
import json
import logging
import re
import shlex
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

from hypothesis import strategies as st

import run_metrics
from config.database import Settings, load_settings
from src.db_manager import DatabaseManager
from src.display.repairs import repair_lines
from src.errors import MetricsError, StatementError
from src.running.plan import RunArguments
from src.server.interruption import Interruption
from tests.conftest import Database

START = date(2025, 3, 10)  # the day on which each history begins
ALL = 9999  # days back: every earlier date
LIMIT = 1_000_003  # sums over rows stay below it, so that no chain of four leaves BIGINT
MOST_NIGHTS = 6  # after which nothing may be due, where no date fails
ONE_DAY = timedelta(days=1)

SOURCE = """
CREATE TABLE events (id BIGINT AUTO_INCREMENT PRIMARY KEY, day DATE NOT NULL, amount BIGINT NOT NULL, KEY (day));
CREATE TABLE fails (metric INT NOT NULL, day DATE NOT NULL, zero INT NOT NULL DEFAULT 0);
CREATE VIEW metric_rows AS SELECT metrics, metric_date, value_list FROM bi_metrics;
"""
EMPTY = "DELETE FROM events; DELETE FROM fails; DELETE FROM bi_metrics; DELETE FROM bi_metric_runs"

Cell: TypeAlias = "tuple[str, date]"
Content: TypeAlias = "int | str | None"  # a row's number; a text where a row holds none; None where there is no row


# --- metrics ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Formula:
    """What a file computes for a date: sums over days of the source and over rows of bi_metrics."""

    source: int | None = None  # the date and so many days before it
    rows: tuple[str, int, int] | None = None  # a metric, and its rows from so many to so many days back
    own: bool = False  # and the metric's own row of the day before
    modulus: int = 0  # of the sum over rows; small ones make rows that stay the same though what they read changed

    def places(self, name: str, day: date) -> list[Cell]:
        """Return the rows that it reads; ALL reaches back to a month before the first history."""
        found = [(name, day - ONE_DAY)] if self.own else []
        if self.rows:
            metric, first, last = self.rows
            oldest = max(day - timedelta(days=first), START - timedelta(days=30))
            newest = day - timedelta(days=last)
            found += [(metric, oldest + timedelta(days=n)) for n in range((newest - oldest).days + 1)]
        return found

    def days(self, day: date) -> list[date]:
        """Return the days of the source that it looks at."""
        if self.source is None:
            return []
        return [day - timedelta(days=n) for n in range(min(self.source, (day - START).days + 30) + 1)]

    def value(self, seen: Seen) -> int:
        """Compute the number from what was read, as the SQL does."""
        rows = sum(content for content in seen.rows.values() if isinstance(content, int))
        return (rows % self.modulus if self.modulus else rows) + sum(seen.source.values()) * self._scale

    def sql(self, name: str, day: str, table: str) -> str:
        """Return the SQL expression of the number for the date `day`; `table` is where rows are read."""
        number = "CAST(JSON_EXTRACT(b.value_list, '$.n') AS SIGNED)"
        parts = []
        if self.rows:
            metric, first, last = self.rows
            between = f"{day} - INTERVAL {first} DAY AND {day} - INTERVAL {last} DAY"
            parts.append(f"COALESCE((SELECT SUM({number}) FROM {table} b WHERE b.metrics = '{metric}' "
                         f"AND b.metric_date BETWEEN {between}), 0)")  # fmt: skip
        if self.own:
            parts.append(f"COALESCE((SELECT {number} FROM bi_metrics b WHERE b.metrics = '{name}' "
                         f"AND b.metric_date = {day} - INTERVAL 1 DAY), 0)")  # fmt: skip
        rows = " + ".join(parts)
        parts = [f"MOD({rows}, {self.modulus})" if self.modulus else rows] if parts else []
        if self.source is not None:
            parts.append(f"{self._scale} * COALESCE((SELECT SUM(e.amount) FROM events e "
                         f"WHERE e.day BETWEEN {day} - INTERVAL {self.source} DAY AND {day}), 0)")  # fmt: skip
        # Two rows in `fails` make the subquery an error. A number, for a name would be read as a row's.
        parts.append(f"COALESCE((SELECT f.zero FROM fails f WHERE f.metric = {name[1:]} AND f.day = {day}), 0)")
        return f"CAST({' + '.join(parts)} AS SIGNED)"

    @property
    def _scale(self) -> int:
        return LIMIT if self.rows and self.modulus else 1


@dataclass(frozen=True)
class Shape:
    """How a file is written."""

    is_select: bool = True
    is_set_based: bool = False

    def __str__(self) -> str:
        return f"{'set-based' if self.is_set_based else 'per-date'} {'SELECT' if self.is_select else 'INSERT'}"


@dataclass(frozen=True)
class Metric:
    """A metric and its files: one straight in sql/, or one for dates and an initial one."""

    name: str
    words: str
    formula: Formula
    shape: Shape = Shape()
    initial: Formula | None = None  # where it is built on itself: what the initial file computes instead
    initial_shape: Shape | None = None  # with it, or with `initial`, there are two files
    is_early: bool = False  # runs before what it reads
    by_view: bool = False  # reads rows through a view, which its header declares
    is_late: bool = False  # is added in the course of the history

    def __str__(self) -> str:
        shape = str(self.shape)
        if self.has_both:
            shape += f", {self.initial_shape or self.shape} as initial file"
        more = " through a view" * self.by_view + ", added later" * self.is_late
        return f"{self.name}: {self.words}{more} ({shape})"

    @property
    def has_both(self) -> bool:
        return self.initial is not None or self.initial_shape is not None

    @property
    def read_names(self) -> set[str]:
        return {formula.rows[0] for formula in (self.formula, self.initial) if formula and formula.rows}

    @property
    def file_name(self) -> str:
        return f"{int(self.name[1:]) + 1:02}_{self.name}.sql"

    def files(self) -> Iterator[tuple[str, Formula, str]]:
        """Yield path below sql/, formula and text of each file."""
        if not self.has_both:
            yield self.file_name, self.formula, self._text(self.formula, self.shape)
            return
        yield f"incremental/{self.file_name}", self.formula, self._text(self.formula, self.shape)
        initial = self.initial or self.formula
        yield f"initial/{self.file_name}", initial, self._text(initial, self.initial_shape or self.shape)

    def _text(self, formula: Formula, shape: Shape) -> str:
        table = "metric_rows" if self.by_view and formula.rows else "bi_metrics"
        head = f"-- Metric: {self.name}\n-- Description: {self.words}\n-- Data Type: card\n"
        if table == "metric_rows" and formula.rows:
            head += f"-- Reads: {formula.rows[0]}\n"
        if self.is_early:
            head += "-- Allow: reads-later-metric\n"
        number = formula.sql(self.name, "d.day", table)
        dates = "(SELECT DATE(%(metric_date)s) AS day) d"
        if shape.is_set_based:
            dates = "JSON_TABLE(%(dates)s, '$[*]' COLUMNS (day DATE PATH '$')) d"
        if shape.is_select:
            return f"{head}SELECT {'d.day AS metric_date, ' * shape.is_set_based}{number} AS n\nFROM {dates};\n"
        return (
            f"{head}INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)\n"
            f"SELECT '{self.name}', 'card', JSON_ARRAY('n'), q.v, q.day\n"
            f"FROM (SELECT JSON_OBJECT('n', {number}) AS v, d.day FROM {dates}) q\n"
            "ON DUPLICATE KEY UPDATE value_list = VALUES(value_list);\n"
        )


def snapshot(name: str) -> Metric:
    return Metric(name, "the source on the date", Formula(source=0))


def window(name: str, back: int) -> Metric:
    return Metric(name, f"the source on the date and {back} days before", Formula(source=back))


def cumulative(name: str) -> Metric:
    return Metric(name, "cumulative", Formula(source=0, own=True), initial=Formula(source=ALL))


def cumulative_of(name: str, other: str) -> Metric:
    return Metric(
        name, f"cumulative over {other}", Formula(rows=(other, 0, 0), own=True, modulus=LIMIT),
        initial=Formula(rows=(other, ALL, 0), modulus=LIMIT),
    )  # fmt: skip


def derived(name: str, other: str, first: int, modulus: int = LIMIT) -> Metric:
    """A metric made of another one's rows of the date and of `first` days before it."""
    what = f"{other} of the date" if not first else f"{other}'s last {first + 1} rows"
    coarse = f" modulo {modulus}" if modulus != LIMIT else ""
    return Metric(name, f"{what}{coarse}", Formula(rows=(other, first, 0), modulus=modulus))


def mixed(name: str, other: str, first: int) -> Metric:
    """A metric made of the source on the date and of another one's rows."""
    what = f"the source on the date, and {other}'s last {first + 1} rows"
    return Metric(name, what, Formula(source=0, rows=(other, first, 0), modulus=LIMIT))


def early(name: str, other: str, first: int = 3) -> Metric:
    """A metric that runs before the other one and is made of its rows of earlier dates."""
    words = f"{other}'s rows from {first} to 1 days back, and it runs before {other}"
    return Metric(name, words, Formula(rows=(other, first, 1), modulus=LIMIT), is_early=True)


# --- histories --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lost:
    """A connection that is lost at a COMMIT of a run."""

    skip: int  # COMMITs of the run before it
    after: bool  # the server has committed, and only its reply is lost
    is_retried: bool


@dataclass(frozen=True)
class Night:
    """`days` pass, then a run without dates; more than one day is a missed night, none a second run."""

    days: int = 1
    only: tuple[int, ...] = ()
    lost: Lost | None = None


@dataclass(frozen=True)
class Late:
    """An event of the source that is so many days late."""

    back: int


@dataclass(frozen=True)
class Dates:
    """A run of named dates: `length` of them that end so many days back."""

    back: int
    length: int = 1
    only: tuple[int, ...] = ()
    keep_going: bool = False
    lost: Lost | None = None


@dataclass(frozen=True)
class Initial:
    """An initial load of `length` dates that end so many days back."""

    back: int
    length: int
    only: tuple[int, ...] = ()
    lost: Lost | None = None


@dataclass(frozen=True)
class Break:
    """From now on a metric fails on a date."""

    metric: int
    back: int


@dataclass(frozen=True)
class Repair:
    """Nothing fails any more."""


@dataclass(frozen=True)
class Switch:
    """A metric is added; or, where it is there, removed; or, where it was removed, put back."""

    metric: int


Event: TypeAlias = "Night | Late | Dates | Initial | Break | Repair | Switch"


@dataclass(frozen=True)
class History:
    """Metrics, and what happens to them."""

    metrics: tuple[Metric, ...]
    events: tuple[Event, ...]
    by_commands: bool = False  # what is due in the end is mended by the commands that a run prints, not by nights

    def __repr__(self) -> str:
        lines = [*map(str, self.metrics), *map(repr, self.events)]
        return "\n  ".join(["History:", *lines, "mended by commands" if self.by_commands else "mended by nights"])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Let hypothesis print the lines and not every field."""
        printer.text(repr(self))


def shapes() -> st.SearchStrategy[Shape]:
    return st.builds(Shape, st.sampled_from([True, False]), st.booleans())


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Metric, ...]:
    """Draw up to five metrics; one reads another that runs before it, or, where it is early, after it."""
    count = draw(st.integers(1, 5))
    metrics: dict[int, Metric] = {}
    reads: dict[int, int] = {}
    for n in range(count):
        name = f"m{n}"
        kinds = ["snapshot", "window", "cumulative"]
        kinds += ["derived", "rows", "cumulative of", "mixed"] if n else []
        kinds += ["early"] if n + 1 < count else []
        kind = draw(st.sampled_from(kinds))
        if kind == "snapshot":
            made = snapshot(name)
        elif kind == "window":
            made = window(name, draw(st.integers(1, 3)))
        elif kind == "cumulative":
            made = cumulative(name)
        elif kind == "early":
            reads[n] = draw(st.integers(n + 1, count - 1))
            made = early(name, f"m{reads[n]}", draw(st.integers(1, 3)))
        else:
            # No circles: what an early metric reads must not read it.
            reads[n] = draw(st.integers(0, n - 1))
            if _reaches(reads, n, n):
                del reads[n]
                made = snapshot(name)
            else:
                other = f"m{reads[n]}"
                modulus = draw(st.sampled_from([LIMIT, LIMIT, 3]))
                made = {
                    "derived": derived(name, other, 0, modulus), "rows": derived(name, other, 2, modulus),
                    "cumulative of": cumulative_of(name, other), "mixed": mixed(name, other, 2),
                }[kind]  # fmt: skip
        two_files = made.initial is not None or draw(st.integers(0, 3)) == 3
        metrics[n] = replace(
            made, shape=draw(shapes()), initial_shape=draw(shapes()) if two_files else None,
            by_view=made.formula.rows is not None and draw(st.integers(0, 3)) == 3,
            is_late=draw(st.integers(0, 4)) == 4,
        )  # fmt: skip
    return tuple(metrics.values())


def _reaches(reads: dict[int, int], start: int, goal: int) -> bool:
    at = reads.get(start)
    while at is not None and at != goal:
        at = reads.get(at)
    return at is not None


KINDS: list[type] = [*[Night] * 6, *[Late] * 4, *[Dates] * 4, *[Initial, Break, Switch] * 2, Repair]


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Anything that may happen; nights, late data and named dates most often."""
    kind = draw(st.sampled_from(KINDS))
    back, metric = st.integers(0, 6), st.integers(0, 4)
    if kind is Late:
        return Late(draw(back))
    if kind is Break:
        return Break(draw(metric), draw(st.integers(0, 3)))
    if kind is Repair:
        return Repair()
    if kind is Switch:
        return Switch(draw(metric))
    only: tuple[int, ...] = ()
    if draw(st.integers(0, 3)) == 3:
        only = tuple(draw(st.lists(metric, min_size=1, max_size=2)))
    lost = None
    if draw(st.integers(0, 5)) == 5:
        lost = Lost(draw(st.integers(0, 2)), draw(st.booleans()), draw(st.booleans()))
    if kind is Night:
        return Night(draw(st.sampled_from([1, 1, 1, 2, 2, 3, 0])), only, lost)
    if kind is Initial:
        return Initial(draw(back), draw(st.integers(1, 6)), only, lost)
    return Dates(draw(back), draw(st.sampled_from([1, 1, 1, 2, 4])), only, draw(st.booleans()), lost)


@st.composite
def histories(draw: st.DrawFn, least: int = 6, most: int = 25) -> History:
    """Draw metrics and from `least` to `most` events."""
    happens = draw(st.lists(events(), min_size=least, max_size=most))
    return History(draw(graphs()), tuple(happens), draw(st.booleans()))


# --- a world in which a history happens -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What a file read when it wrote a row."""

    formula: Formula
    rows: dict[Cell, Content]
    source: dict[date, int]
    moment: int  # seconds since the epoch


@dataclass(frozen=True)
class Row:
    """A row of bi_metrics; final where it was computed after its date had ended (UTC)."""

    content: Content
    updated: int
    is_final: bool


class Untrue(AssertionError):  # noqa: N818, it is a finding
    """A promise does not hold; the text tells the history up to there."""

    history: History | None = None


class World:
    """A simulated clock, the source, the metric files, and runs of the command within this process."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.root = folder
        self.settings: Settings = load_settings(folder, {**database.env, "METRICS_TIMEZONE": "UTC"})
        self.runs = self.commits = self.rows_checked = 0  # figures over all histories
        database.execute(SOURCE)

    def begin(self, metrics: Sequence[Metric]) -> None:
        """Empty everything and write the files of the metrics that are not added later."""
        self.today = START
        self.metrics = {metric.name: metric for metric in metrics}
        self.there: set[str] = set()
        self.removed: set[str] = set()
        self.broken: set[Cell] = set()
        self.journal: dict[Cell, Seen] = {}
        self.late: set[date] = set()
        self.story = [*map(str, metrics)]
        self.lost: Lost | None = None
        self._named: list[str] = []  # what the last run said is due, with its commands
        self._formulas: dict[str, Formula] = {}
        self._events = self._minutes = 0
        self.database.execute(EMPTY)
        shutil.rmtree(self.root / "sql", ignore_errors=True)
        for mode in ("initial", "incremental"):
            (self.root / "sql" / mode).mkdir(parents=True)
        for metric in metrics:
            if not metric.is_late or any(metric.name in other.read_names for other in metrics):
                self.add(metric)
            if metric.is_late and metric.name in self.there:  # SQL that names an unknown metric reads every metric
                self._disable(metric.name)

    # --- what happens -------------------------------------------------------------------------------------------------

    def add(self, metric: Metric) -> None:
        """Write the files of a metric."""
        self.metrics[metric.name] = metric
        self.there.add(metric.name)
        for path, formula, text in metric.files():
            (self.root / "sql" / path).write_text(text)
            self._formulas[f"sql/{path}"] = formula

    def remove(self, name: str) -> None:
        self._disable(name)
        self.tell(f"{name} is removed")

    def _disable(self, name: str) -> None:
        self._rename(name, "", "_")
        self.there.remove(name)
        self.removed.add(name)

    def put_back(self, name: str) -> None:
        self._rename(name, "_", "")
        self.there.add(name)
        self.removed.remove(name)
        self.tell(f"{name} is put back")

    def _rename(self, name: str, before: str, after: str) -> None:
        for path, _, _ in self.metrics[name].files():
            file = self.root / "sql" / path
            file.with_name(before + file.name).rename(file.with_name(after + file.name))

    def pass_days(self, count: int = 1) -> None:
        """Let days pass; each ends with an event of its own."""
        for _ in range(count):
            self._insert(self.today)
            self.today += ONE_DAY
            self._minutes = 0

    def event(self, day: date) -> None:
        """Let an event arrive late."""
        self.late.add(day)
        self._insert(day)
        self.tell(f"an event of {day} arrives")

    def _insert(self, day: date) -> None:
        self.database.execute(f"INSERT INTO events (day, amount) VALUES ('{day}', {2 ** (self._events % 38)})")
        self._events += 1

    def fail(self, name: str, day: date) -> None:
        """From now on let a metric fail on a date."""
        self.broken.add((name, day))
        self.database.execute(f"INSERT INTO fails (metric, day) VALUES ({name[1:]}, '{day}'), ({name[1:]}, '{day}')")
        self.tell(f"{name} fails on {day} from now on")

    def repair(self) -> None:
        self.broken.clear()
        self.database.execute("DELETE FROM fails")
        self.tell("nothing fails any more")

    def night(self, days: int = 1, *only: str, lost: Lost | None = None) -> int:
        """Let days pass and run without dates."""
        if days > 1:
            self.tell(f"{days - 1} night{'s' if days > 2 else ''} without a run")
        self.pass_days(days)
        return self.run(RunArguments(metric=only), lost)

    def dates(self, first: date, last: date | None = None, *only: str, keep_going: bool = False) -> int:
        """Run named dates."""
        return self.run(RunArguments(dates=_words(first, last), metric=only, keep_going=keep_going))

    def initial(self, first: date, last: date, *only: str) -> int:
        """Load a range."""
        return self.run(RunArguments(dates=(str(first), str(last)), initial=True, metric=only))

    def run(self, call: RunArguments, lost: Lost | None = None) -> int:
        """Run the command to its end and return its exit code; a failure without a reason is Untrue."""
        self.lost, self._minutes, self.runs = lost, self._minutes + 1, self.runs + 1
        retries = call.retries if lost is None or lost.is_retried else 0
        call = replace(call, retries=retries, wait=20, quiet=True)
        self._named = []
        error: MetricsError | None = None
        code = run_metrics.NOTHING_TRIED
        self.tell(_command(call))
        with self._in_this_process() as said:
            try:
                run = run_metrics.Run(call, self.settings, _Impatient(), self.today)
                try:
                    code = run.start()
                    for what in (run.summary.missing, run.summary.not_final):
                        self._named += repair_lines("due", what, run.names)
                finally:
                    run.database.close()
            except MetricsError as found:
                error = found
        loss = f"; the {'reply to a COMMIT' if lost.after else 'connection'} was lost" if lost and not self.lost else ""
        self.story[-1] += f": exit {code}{loss}"
        allowed = {run_metrics.OK}
        if self.broken:  # MySQL's EXPLAIN meets the error too, so a range may not even start
            allowed |= {run_metrics.A_DATE_FAILED, run_metrics.NOTHING_TRIED}
        if loss and not retries:
            allowed.add(run_metrics.A_DATE_FAILED)
        if self.there and code not in allowed:
            raise self.untrue(f"the run failed for no reason: {error or said.getvalue()}")
        return code

    @contextmanager
    def _in_this_process(self) -> Iterator[io.StringIO]:
        said = io.StringIO()
        logging.disable(logging.CRITICAL)
        try:
            with (
                patch.object(run_metrics, "DatabaseManager", lambda *args: _Watched(self, *args)),
                redirect_stdout(said), redirect_stderr(said),
            ):  # fmt: skip
                yield said
        finally:
            logging.disable(logging.NOTSET)

    @property
    def moment(self) -> int:
        """The simulated time: an hour after midnight, and a minute more for each run of the day."""
        midnight = datetime(self.today.year, self.today.month, self.today.day, tzinfo=timezone.utc)
        return int(midnight.timestamp()) + 3600 + 60 * self._minutes

    # --- what is there ------------------------------------------------------------------------------------------------

    def table(self) -> dict[Cell, Row]:
        """Return every row of bi_metrics, seen by a second connection."""
        query = "SELECT metrics, metric_date, value_list, UNIX_TIMESTAMP(updated_at) FROM bi_metrics"
        return {
            (name, day): Row(content_of(text), updated, updated >= _end_of(day))
            for name, day, text, updated in self.database.rows(query)
        }

    def source(self) -> dict[date, int]:
        return {day: int(amount) for day, amount in self.database.rows(SOURCE_BY_DAY)}

    def due(self) -> list[Cell]:
        """Return the rows of metrics with a file that are missing or not final though their date has ended."""
        rows, found = self.table(), []
        for name in sorted(self.there):
            days = [day for metric, day in rows if metric == name and day < self.today]
            for n in range((self.today - min(days)).days) if days else ():
                day = min(days) + timedelta(days=n)
                if (name, day) not in rows or not rows[name, day].is_final:
                    found.append((name, day))
        return found

    def numbers(self, name: str) -> list[Content]:
        """Return the numbers of a metric by date, without today's."""
        rows = sorted(self.table().items())
        return [row.content for (metric, day), row in rows if metric == name and day < self.today]

    # --- the promises -------------------------------------------------------------------------------------------------

    def committed(self, written: dict[Cell, Seen]) -> None:
        """Note what a transaction has written, and look at every row."""
        self.journal.update(written)
        self.commits += 1
        self.require_fresh()

    def require_fresh(self) -> None:
        """Invariant 1: what a final row has read is still as it was read. Each row is what its file computes."""
        rows = self.table()
        for (name, day), row in rows.items():
            seen = self.journal[name, day]
            if row.content != seen.formula.value(seen):
                raise self.untrue(f"{name} of {day} is {row.content}, and from what it read follows "
                                  f"{seen.formula.value(seen)}")  # fmt: skip
            if not row.is_final:
                continue
            self.rows_checked += 1
            if seen.moment < _end_of(day):
                raise self.untrue(f"{name} of {day} is final, and was computed before its day had ended")
            for (read, of), was in seen.rows.items():
                now = rows[read, of].content if (read, of) in rows else None
                if now != was:
                    raise self.untrue(f"not fresh: {name} of {day} is final, and it has read {read} of {of} as "
                                      f"{_shown(was)}, which is {_shown(now)} now")  # fmt: skip

    def mend(self, by_commands: bool = False) -> None:
        """Run each date again whose source has changed since, then until nothing is due; load all anew and compare."""
        if self.broken:
            self.repair()
        for name in sorted(self.removed):
            self.put_back(name)
        if not self.there:
            return
        self.tell("-- the mend")
        for day in self.changed_dates():
            self.dates(day)
        self.run_until_nothing_is_due(by_commands)
        start = self._fill()
        self.run_until_nothing_is_due(by_commands)
        self._compare_with_full_load(start)

    def changed_dates(self) -> list[date]:
        """Return the dates before today whose source has changed since one of their rows was computed."""
        source, rows = self.source(), self.table()
        return sorted({
            day for (name, day), seen in self.journal.items()
            if (name, day) in rows and day < self.today and seen.source.get(day, 0) != source.get(day, 0)
            and seen.formula.source is not None
        })  # fmt: skip

    def run_until_nothing_is_due(self, by_commands: bool = False) -> None:
        """Run nights, or what a run says is to be run, until nothing is due; Untrue where that does not end."""
        for _ in range(MOST_NIGHTS * (5 if by_commands else 1)):
            if not self.due():
                return
            commands = re.findall(r"python run_metrics\.py [^&]+", " && ".join(self._named)) if by_commands else []
            for command in commands or ["python run_metrics.py"]:
                self.run(run_metrics.parse_arguments(shlex.split(command)[2:]))
        raise self.untrue(f"still due: {', '.join(f'{name} of {day}' for name, day in self.due())}")

    def _fill(self) -> date:
        """Give each metric a row on each date, from the first that has a row or late data; return that date."""
        rows = self.table()
        start = min([day for _, day in rows] + sorted(self.late) + [self.today])
        for n in range((self.today - start).days):
            day = start + timedelta(days=n)
            missing = [name for name in sorted(self.there) if (name, day) not in rows]
            if missing:
                self.dates(day, None, *missing)
        return start

    def _compare_with_full_load(self, start: date) -> None:
        """Invariant 2: the table equals a full load of an empty one, and the nights after it."""
        mended = self.table()
        self.database.execute("DELETE FROM bi_metrics; DELETE FROM bi_metric_runs")
        self.journal.clear()
        self.initial(start, self.today)
        self.run_until_nothing_is_due()
        for place, row in self.table().items():
            if place[1] < self.today and place in mended and row.content != mended[place].content:
                name, day = place
                raise self.untrue(f"not mended: {name} of {day} is {mended[place].content}; loaded anew it is "
                                  f"{row.content}")  # fmt: skip
            if place[1] < self.today and place not in mended:
                raise self.untrue(f"{place[0]} has no row for {place[1]}")

    def tell(self, what: str) -> None:
        self.story.append(f"{self.today}  {what}")

    def untrue(self, what: str) -> Untrue:
        return Untrue("\n".join([what, *(f"    {line}" for line in self.story)]))

    # --- a history ----------------------------------------------------------------------------------------------------

    def live(self, history: History) -> None:
        """Let a history happen; Untrue where a promise does not hold."""
        try:
            self.begin(history.metrics)
            for event in history.events:
                self._happen(event)
            self.mend(history.by_commands)
        except Untrue as error:
            error.history = history
            raise

    def _happen(self, event: Event) -> None:
        if isinstance(event, Night):
            self.night(event.days, *self._names(event.only), lost=event.lost)
        elif isinstance(event, Late):
            self.event(self._back(event.back))
        elif isinstance(event, (Dates, Initial)):
            last = self._back(event.back)
            words = _words(last - timedelta(days=event.length - 1), last)
            keep_going = isinstance(event, Dates) and event.keep_going
            call = RunArguments(dates=words, initial=isinstance(event, Initial), metric=self._names(event.only),
                        keep_going=keep_going)  # fmt: skip
            if self.there:
                self.run(call, event.lost)
        elif isinstance(event, Break):
            self.fail(self._name(event.metric), self._back(event.back))
        elif isinstance(event, Repair):
            self.repair()
        else:
            name = self._name(event.metric)
            if name in self.removed:
                self.put_back(name)
            elif name in self.there:
                self.remove(name)
            else:
                self.add(self.metrics[name])
                self.tell(f"{name} is added")

    def _back(self, days: int) -> date:
        return self.today - timedelta(days=days)

    def _name(self, number: int) -> str:
        return f"m{number % len(self.metrics)}"

    def _names(self, numbers: Collection[int]) -> tuple[str, ...]:
        return tuple(sorted({self._name(number) for number in numbers} & self.there))


SOURCE_BY_DAY = "SELECT day, SUM(amount) FROM events GROUP BY day"
_TAG = re.compile(r"/\* bi_metrics (\S+) (\S+?)(?: to (\S+))? \*/ ")


class _Impatient(Interruption):
    """Waits for nothing between two tries."""

    def sleep(self, seconds: float) -> None:
        self.check()


class _Watched(DatabaseManager):
    """A real connection with a simulated clock, which notes what each file is about to read."""

    def __init__(self, world: World, settings: Settings, interruption: Interruption) -> None:
        super().__init__(settings, interruption)
        self._world = world
        self._commits = 0
        self._written: dict[Cell, Seen] = {}

    def connect(self) -> None:
        super().connect()
        super().execute(f"SET timestamp = {self._world.moment}")

    def execute(self, sql: str, args: Any = None) -> int:
        if sql.startswith("SAVEPOINT"):
            self._written.clear()
        self._note(sql)
        return super().execute(sql, args)

    def select(self, sql: str, args: Any = None) -> Any:
        self._note(sql)
        return super().select(sql, args)

    def _note(self, sql: str) -> None:
        """Before a file's statement, within its transaction: note what it will read for each of its dates."""
        tag = _TAG.match(sql)
        if not tag:
            return
        formula = self._world._formulas[tag[1]]
        name = tag[1].rpartition("_")[2].removesuffix(".sql")
        first = date.fromisoformat(tag[2])
        last = date.fromisoformat(tag[3]) if tag[3] else first
        rows: dict[Cell, Content] = {}
        if formula.rows or formula.own:
            found = self.query("SELECT metrics, metric_date, value_list FROM bi_metrics")
            rows = {(metric, day): content_of(text) for metric, day, text in found}
        source: dict[date, int] = {}
        if formula.source is not None:
            source = {day: int(amount) for day, amount in self.query(SOURCE_BY_DAY)}
        for n in range((last - first).days + 1):
            day = first + timedelta(days=n)
            self._written[name, day] = Seen(
                formula, {place: rows.get(place) for place in formula.places(name, day)},
                {of: source.get(of, 0) for of in formula.days(day)}, self._world.moment,
            )  # fmt: skip

    def _end(self, statement: str) -> None:
        lost = self._world.lost if statement == "COMMIT" else None
        self._commits += statement == "COMMIT"
        loses_now = lost is not None and self._commits > lost.skip
        if lost and loses_now and not lost.after:
            self._lose()
        super()._end(statement)
        if statement == "COMMIT":
            self._world.committed(self._written)
        if loses_now:
            self._lose()

    def _lose(self) -> None:
        self._world.lost = None
        self.close()
        raise StatementError(2013, "the reply to COMMIT was lost: (2013) Lost connection to server during query")


def content_of(text: str) -> Content:
    """Return the number that a value_list holds, or the text where it holds none."""
    value = json.loads(text)
    return value["n"] if isinstance(value, dict) else str(value)


def _shown(content: Content) -> str:
    return "absent" if content is None else str(content)


def _words(first: date, last: date | None) -> tuple[str, ...]:
    return (str(first),) if last in (None, first) else (str(first), str(last))


def _command(call: RunArguments) -> str:
    words = ["run_metrics.py", *call.dates, *(["--initial"] if call.initial else [])]
    words += ["--keep-going"] if call.keep_going else []
    return " ".join([*words, *(f"--metric {name}" for name in call.metric)])


def _end_of(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp()) + 86_400
