"""Random metrics and random histories on a real server, and the promises about cells (docs/design.md, "Final").

Beside each row the test keeps what its file read when it wrote the row: rows of bi_metrics, rows of helpers' tables and
days of the source, taken inside the run's own transaction just before the statement. The promises:

- fresh: what a current row has read is still as it was read; absence counts;
- settled: nothing that a final row has read, directly or through others, is due: after each transaction of a night,
  and at the end of each run;
- no loss: a run computes no current cell that it was not asked for; the due dates of a night ask for none;
- first: the first transaction of a night gives yesterday's rows of all that does not fail;
- progress: a night has at most 2 + lookback + 31 transactions, times 1 + the metrics that fail; nights end what is due,
  except cells that fail and their dependents of the same date;
- mended: once each date whose source has changed was run again, nights leave every row of the dates that they mend as
  a full computation gives it, and final, or waiting for a cell that is due.

The source only grows or is purged, and each event has an amount of its own, so that a changed date always shows in its
row: late data that leave the row of their own date as it was can be seen by no rule.
"""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields, replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any, TypeAlias
from unittest.mock import patch

import run_metrics
from config.database import Settings, load_settings
from src.db_manager import DatabaseManager
from src.errors import MetricsError, StatementError
from src.running.plan import RunArguments
from src.server.interruption import Interruption
from tests.conftest import Database

START = date(2025, 3, 10)  # the day on which each history begins
OLDEST = START - timedelta(days=30)  # the source and every sum begin here
ONE_DAY = timedelta(days=1)
ALL = 9999  # days back: every earlier date
LIMIT = 1_000_003  # sums over rows stay below it, so that no chain of metrics leaves BIGINT
MOST_METRICS = 6
MOST_NIGHTS = 8  # after which only what fails may be due
EVERY_METRIC = tuple(f"m{n}" for n in range(20))  # m13 is m3 under a new name
HELPER_TABLES = [f"t_h{n}" for n in range(MOST_METRICS)]
OTHER_TABLES = [*HELPER_TABLES, *(f"t_w{n}" for n in range(MOST_METRICS))]

SOURCE = f"""
CREATE TABLE events (id BIGINT AUTO_INCREMENT PRIMARY KEY, day DATE NOT NULL, amount BIGINT NOT NULL, KEY (day));
CREATE TABLE fails (metric INT NOT NULL, since DATE NOT NULL, until DATE NOT NULL, zero INT NOT NULL DEFAULT 0);
{"".join(f"CREATE TABLE {table} (day DATE PRIMARY KEY, n BIGINT NOT NULL);" for table in OTHER_TABLES)}
CREATE VIEW helper_rows AS {" UNION ALL ".join(f"SELECT '{t[2:]}' AS name, day, n FROM {t}" for t in HELPER_TABLES)};
"""
AMOUNTS = "SELECT day, SUM(amount) FROM events GROUP BY day"
ROWS = "SELECT metrics, metric_date, value_list FROM bi_metrics"
HELPER_ROWS = "SELECT name, day, n FROM helper_rows"
# A row without a state counts as reopened; a state without a row, as missing.
STATES = """
SELECT m.metrics, m.metric_date, IF(COALESCE(s.state, 'missing') = 'missing', 'reopened', s.state) FROM bi_metrics m
LEFT JOIN bi_metric_state s ON s.metric = m.metrics AND s.metric_date = m.metric_date
UNION ALL SELECT metric, metric_date, state FROM bi_metric_state WHERE is_helper AND state <> 'missing'
"""
CURRENT = ("waiting", "final")

Cell: TypeAlias = "tuple[str, date]"
Content: TypeAlias = "int | str | None"  # a row's number; a text if the row holds none; None if there is no row


# --- metrics ----------------------------------------------------------------------------------------------------------


class _Brief:
    """Shows the fields of a dataclass that are not as usual."""

    def __str__(self) -> str:
        there = ((field, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return ", ".join(f"{field.name}: {value}" for field, value in there if value != field.default)


@dataclass(frozen=True)
class Formula(_Brief):
    """What a file computes for a date: sums over days of the source and over rows of others."""

    source: int | None = None  # the date and so many days before it
    reads: tuple[str, ...] = ()  # names; "*" is every other metric
    first: int = 0  # their rows, from so many days back
    last: int = 0  # to so many
    own: bool = False  # and the own row of the day before
    modulus: int = LIMIT  # of the sum over rows; 3 makes rows that stay the same though what they read changed
    factor: int = 1

    def cells(self, name: str, day: date) -> list[Cell]:
        """Return the cells that it reads."""
        names = [other for other in EVERY_METRIC if other != name] if "*" in self.reads else self.reads
        own = [(name, day - ONE_DAY)] if self.own else []
        return own + [(other, of) for other in names for of in _days(day, self.first, self.last)]

    def days(self, day: date) -> list[date]:
        """Return the days of the source that it looks at."""
        return [] if self.source is None else _days(day, self.source)

    def value(self, name: str, day: date, rows: Mapping[Cell, Content], source: Mapping[date, int]) -> int:
        """Compute the number, as the SQL does."""
        numbers = {cell: number for cell in self.cells(name, day) if isinstance(number := rows[cell], int)}
        own = numbers.pop((name, day - ONE_DAY), 0)
        total = own + self.factor * sum(numbers.values())
        of_source = self.factor * sum(source.get(of, 0) for of in self.days(day))
        return total % self.modulus + LIMIT * of_source if self.reads else own + of_source

    def sql(self, name: str) -> str:
        """Return the SQL expression of the number for the date d.day."""

        def total(number: str, table: str, where: str, column: str, first: int, last: int) -> str:
            period = f"{column} BETWEEN d.day - INTERVAL {first} DAY AND d.day - INTERVAL {last} DAY"
            return f"COALESCE((SELECT SUM({number}) FROM {table} b WHERE {where}{period}), 0)"

        def rows(name: str, which: str, first: int, last: int) -> str:
            if name[0] == "h":
                return total("b.n", f"t_{name}", "", "b.day", first, last)
            number, where = "CAST(JSON_EXTRACT(b.value_list, '$.n') AS SIGNED)", f"b.metrics {which} AND "
            return total(number, "bi_metrics", where, "b.metric_date", first, last)

        terms = [rows(name, f"= '{name}'", 1, 1)] if self.own else ["0"]
        for other in self.reads:
            which = f"<> '{name}'" if other == "*" else f"IN ('{other}')"
            terms.append(f"{self.factor} * {rows(other, which, self.first, self.last)}")
        number = " + ".join(terms)
        of_source = "0"
        if self.source is not None:
            of_source = f"{self.factor} * {total('b.amount', 'events', '', 'b.day', self.source, 0)}"
        return f"MOD({number}, {self.modulus}) + {LIMIT} * {of_source}" if self.reads else f"{number} + {of_source}"


@dataclass(frozen=True)
class Metric(_Brief):
    """A metric (m3), a helper with dates (h3) or a work table (w3), and its files; the number is its place in the run.

    With `initial` there are two files, one for dates and an initial one; else one file serves both.
    """

    name: str
    formula: Formula
    initial: Formula | None = None
    form: str = ""  # select or insert; of a helper, delete (and insert) or upsert
    is_set_based: bool = False
    is_early: bool = False  # runs before what it reads
    copies: str = ""  # the work table that holds the number; the formula is then that of the work table

    @property
    def reads(self) -> set[str]:
        """The names that it reads directly."""
        found = {*self.formula.reads, *(self.initial or self.formula).reads, *[self.copies] * bool(self.copies)}
        found |= {*EVERY_METRIC} if "*" in found else set()
        return found - {"*"} | ({self.name} if self.formula.own else set())

    def files(self) -> Iterator[tuple[str, str, Formula, str]]:
        """Yield folder, file name, formula and text of each file."""
        file = f"{int(self.name[1:]) % 10 + 1:02}_{self.name}.sql"
        yield "incremental/" if self.initial else "", file, self.formula, self._text(self.formula)
        if self.initial:
            yield "initial/", file, self.initial, self._text(self.initial)

    def _text(self, formula: Formula) -> str:
        name, table = self.name, f"t_{self.name}"
        form = self.form or {"m": "select", "h": "delete", "w": "work"}[name[0]]
        head = f"-- Description: {formula}\n" + "-- Data Type: card\n" * (name[0] == "m")
        head += "-- Reads: *\n" * ("*" in formula.reads) + "-- Allow: reads-later-metric\n" * self.is_early
        number = f"{formula.factor} * (SELECT w.n FROM t_{self.copies} w)" if self.copies else formula.sql(name)
        # Two rows in `fails` make the subquery an error.
        fails = f"SELECT f.zero FROM fails f WHERE f.metric = {name[1:]} AND d.day BETWEEN f.since AND f.until"
        dates, period = "(SELECT DATE(%(metric_date)s) AS day) d", "= %(metric_date)s"
        if self.is_set_based:
            dates = "JSON_TABLE(%(dates)s, '$[*]' COLUMNS (day DATE PATH '$')) d"
            period = "BETWEEN %(start_date)s AND %(metric_date)s"
        rows = f"SELECT d.day AS metric_date, CAST({number} + COALESCE(({fails}), 0) AS SIGNED) AS n\nFROM {dates}"
        insert = f"INSERT INTO {table} (day, n) SELECT q.metric_date, q.n FROM (\n{rows}\n) q"
        return head + {
            "select": rows,
            "insert": "INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)\n"
                      f"SELECT '{name}', 'card', JSON_ARRAY('n'), JSON_OBJECT('n', q.n), q.metric_date "
                      f"FROM (\n{rows}\n) q\n"
                      "ON DUPLICATE KEY UPDATE f_list = VALUES(f_list), value_list = VALUES(value_list)",
            "upsert": f"{insert}\nON DUPLICATE KEY UPDATE n = VALUES(n)",
            "delete": f"DELETE FROM {table} WHERE day {period};\n{insert}",
            "work": f"DELETE FROM {table};\n{insert}",
        }[form] + ";\n"  # fmt: skip


def _days(day: date, first: int, last: int = 0) -> list[date]:
    """Return the dates from `first` to `last` days back."""
    oldest, newest = max(day - timedelta(days=first), OLDEST), day - timedelta(days=last)
    return [oldest + timedelta(days=n) for n in range((newest - oldest).days + 1)]


def snapshot(name: str) -> Metric:
    return Metric(name, Formula(source=0))


def window(name: str, back: int) -> Metric:
    return Metric(name, Formula(source=back))


def cumulative(name: str, *others: str) -> Metric:
    """A metric that adds the date's source, or rows of others, to its own row of the day before."""
    if others:
        return Metric(name, Formula(reads=others, own=True), Formula(reads=others, first=ALL))
    return Metric(name, Formula(source=0, own=True), Formula(source=ALL))


def derived(name: str, *others: str, first: int = 0, modulus: int = LIMIT) -> Metric:
    """A metric made of others' rows of the date and of `first` days before it; "*": of every other metric."""
    return Metric(name, Formula(reads=others, first=first, modulus=modulus))


def early(name: str, *others: str, first: int = 3) -> Metric:
    """A metric that runs before the others and is made of their rows of earlier dates."""
    return Metric(name, Formula(reads=others, first=first, last=1), is_early=True)


def copied(name: str, work: Metric) -> Metric:
    """A metric whose number is that of a work table."""
    return Metric(name, work.formula, copies=work.name)


# --- histories --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lost:
    """A connection that is lost at a COMMIT of a run; without a retry the run ends there, as if it were killed."""

    skip: int  # COMMITs of the run before it
    after: bool  # the server has committed, and only its reply is lost
    is_retried: bool


@dataclass(frozen=True)
class History:
    """Metrics, settings, and what happens: each step names a method of World and its arguments."""

    metrics: tuple[Metric, ...]
    steps: tuple[tuple[Any, ...], ...]
    lookback: int = 0
    mend_days: int = 92
    on_failure: str = "date"

    def simpler(self) -> Iterator[History]:
        """Yield histories in which something is left out."""
        for size in (len(self.steps) // 2, 3, 1):
            for start in range(len(self.steps) - size + 1):
                yield replace(self, steps=self.steps[:start] + self.steps[start + size :])
        for metric in self.metrics:
            rest = tuple(each for each in self.metrics if each != metric)
            if rest and not any(metric.name in each.reads for each in rest):
                steps = tuple(step for step in self.steps if f"'{metric.name}'" not in repr(step))
                yield replace(self, metrics=rest, steps=steps)
            for change in ({"form": ""}, {"is_set_based": False}, {"initial": None} if not metric.formula.own else {}):
                changed = tuple(replace(each, **change) if each == metric else each for each in self.metrics)
                yield replace(self, metrics=changed)
        for n, (name, *arguments) in enumerate(self.steps):
            if len(arguments) > {"night": 0, "dates": 1, "initial": 2}.get(name, 9):
                yield replace(self, steps=(*self.steps[:n], (name, *arguments[:-1]), *self.steps[n + 1 :]))
        yield replace(self, lookback=0, mend_days=92, on_failure="date")

    def __str__(self) -> str:
        steps = [f"world.{name}({', '.join(map(repr, arguments))})" for name, *arguments in self.steps]
        settings = f"lookback {self.lookback}, mend {self.mend_days} days, on failure: {self.on_failure}"
        return "\n  ".join(["History:", *map(str, self.metrics), settings, *steps])


def random_metrics(dice: Random) -> tuple[Metric, ...]:
    """Return up to six metrics, helpers and work tables; each reads others before it or, if it is early, after it."""
    names = [f"{dice.choice('mmmmmhhw')}{n}" for n in range(dice.randint(1, MOST_METRICS))]
    made: dict[str, Metric] = {}
    for n, name in enumerate(names):
        is_metric, is_work = name[0] == "m", name[0] == "w"
        before, after = ([x for x in part if x[0] != "w"] for part in (names[:n], names[n + 1 :]))
        works = [metric for metric in made.values() if metric.name[0] == "w"]
        is_early = bool(after) and not is_work and dice.random() < 0.2
        some = after if is_early else before
        others = tuple(dice.sample(some, min(len(some), dice.randint(int(is_early), 2))))
        if is_metric and name == names[-1] and dice.random() < 0.3:
            others = ("*",)
        # A helper that looks back at the source for days would not be reopened by late data.
        source = None if others and dice.random() < 0.7 else dice.choice([0, 0, 1, 2]) * (name[0] != "h")
        first = dice.randint(int(is_early), 3)
        modulus = dice.choice([LIMIT, LIMIT, 3])
        metric = Metric(name, Formula(source, others, first, int(is_early), modulus=modulus), is_early=is_early)
        if works and is_metric and dice.random() < 0.5:
            metric = copied(name, works[-1])
        elif not is_early and not is_work and "*" not in others and dice.random() < 0.25:
            metric = cumulative(name, *others)
        elif not is_work and dice.random() < 0.2:
            metric = replace(metric, initial=metric.formula)
        reads = {each.name: each.reads - {each.name} for each in (*made.values(), metric)}
        if name in closure(reads, name):  # what an early metric reads must not read it
            metric = snapshot(name)
        form = dice.choice({"m": ["select", "insert"], "h": ["delete", "upsert"], "w": ["work"]}[name[0]])
        made[name] = replace(metric, form=form, is_set_based=not (is_work or metric.copies) and dice.random() < 0.5)
    return tuple(made.values())


def closure(reads: Mapping[str, Collection[str]], name: str) -> set[str]:
    """Return all names that one reads, directly or through others; itself only if it does."""
    found, new = set[str](), {*reads.get(name, ())}
    while new:
        found |= new
        new = {other for each in new for other in reads.get(each, ())} - found
    return found


def random_step(dice: Random, names: Sequence[str]) -> tuple[Any, ...]:
    """Return anything that may happen; nights, late data and named dates most often."""
    often = {"night": 6, "late": 4, "dates": 4, "initial": 2, "fail": 2, "switch": 2, "repair": 1, "purge": 1,
             "redefine": 1}  # fmt: skip
    kind = dice.choices(list(often), list(often.values()))[0]
    name, back = dice.choice(names), dice.randint(0, 9)
    only = tuple(dice.choices(names, k=dice.randint(1, 2))) if dice.random() < 0.25 else ()
    lost = None
    if dice.random() < 0.15:
        lost = Lost(dice.randint(0, 3), after=dice.random() < 0.5, is_retried=dice.random() < 0.5)
    return kind, *{
        "night": (dice.choice([1, 1, 1, 2, 2, 3, 5, 0]), only, lost), "late": (back,), "purge": (back,),
        "dates": (back, dice.choice([1, 1, 2, 4, 6]), only, lost), "initial": (back, dice.randint(1, 6), only, lost),
        "fail": (name, back // 3, dice.random() < 0.3), "repair": (), "redefine": (name, dice.randint(1, 3)),
        "switch": (name, dice.choice(["disabled", "deleted", "renamed"])),
    }[kind]  # fmt: skip


def random_history(number: int) -> History:
    """Return the history with this number."""
    dice = Random(number)
    metrics = random_metrics(dice)
    names = [metric.name for metric in metrics]
    steps = tuple(random_step(dice, names) for _ in range(dice.randint(3, 25)))
    mend_days, on_failure = dice.choice([92, 92, 8, 5]), dice.choice(["date", "metric"])
    return History(metrics, steps, dice.randint(0, 2), mend_days, on_failure)


# --- a world in which a history happens -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What a file read when it wrote a row."""

    metric: Metric  # its definition
    formula: Formula  # of the file that ran
    rows: Mapping[Cell, Content]
    source: Mapping[date, int]
    moment: int  # seconds since the epoch


class Untrue(AssertionError):  # noqa: N818, it is a finding
    """A promise does not hold; the text tells the history up to there."""


class World:
    """A simulated clock, the source, the metric files, and runs of the command within this process."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.root = folder
        self.runs = self.commits = self.rows_checked = 0  # figures over all histories
        database.execute(SOURCE)

    def begin(
        self, metrics: Sequence[Metric], lookback: int = 1, mend_days: int = 92, on_failure: str = "date"
    ) -> None:
        """Empty everything and write the files of the metrics."""
        self.today, self.lookback, self.mend_days, self.on_failure = START, lookback, mend_days, on_failure
        self.names = {metric.name: metric.name for metric in metrics}  # and the name that it has now
        self.metrics: dict[str, Metric] = {}
        self.missing: dict[str, str] = {}  # the metrics whose file is "disabled" or "deleted"
        self.files: dict[str, tuple[Metric, Formula]] = {}
        self.journal: dict[Cell, Seen] = {}
        self.broken: list[tuple[str, date, date]] = []
        self.purged = OLDEST  # the first day of the source that was never purged
        self.lost: Lost | None = None
        self.story = [*map(str, metrics), f"lookback {lookback}, mend {mend_days} days, on failure: {on_failure}"]
        self._events = self._minutes = 0
        shutil.rmtree(self.root / "sql", ignore_errors=True)
        for mode in ("initial", "incremental"):
            (self.root / "sql" / mode).mkdir(parents=True)
        self.settings: Settings = load_settings(self.root, {
            **self.database.env, "METRICS_TIMEZONE": "UTC", "METRICS_LOOKBACK_DAYS": str(lookback),
            "METRICS_MEND_DAYS": str(mend_days), "METRICS_ON_FAILURE": on_failure,
            "METRICS_READERS": "0",  # _Watched sees one connection
        })  # fmt: skip
        tables = ["events", "fails", "bi_metrics", "bi_metric_state", "bi_metric_changes", *OTHER_TABLES]
        self.database.execute("; ".join(f"DELETE FROM {table}" for table in tables))
        for metric in metrics:
            self.put(metric)

    # --- what happens; a metric is given by its first name, a date by how many days back it is ------------------------

    def put(self, metric: Metric, how: str = "there") -> None:
        """Write the files of a metric, or let them be disabled (_name.sql) or deleted."""
        for folder, file, formula, text in metric.files():
            for name in (file, f"_{file}"):
                (self.root / "sql" / folder / name).unlink(missing_ok=True)
            if how != "deleted":
                (self.root / "sql" / folder / ("_" * (how == "disabled") + file)).write_text(text)
            self.files[f"sql/{folder}{file}"] = metric, formula
        self.metrics[metric.name] = metric
        self.missing.pop(metric.name, None)
        self.missing |= {metric.name: how} if how != "there" else {}
        self.tell(f"the file of {metric.name} is {how}")

    def switch(self, first_name: str, how: str) -> None:
        """Let a metric be disabled, deleted or renamed; or, if its file is not there, put it back."""
        name = self.names[first_name]
        # SQL that names a metric with neither a file nor rows is refused. A work table has no rows to keep.
        has_rows = any(cell[0] == name for cell in self.contents())
        if name[0] == "w" or name in self.missing:
            self.put(self.metrics[name])
        elif not has_rows or (how == "renamed" and name[0] == "h"):
            self.put(self.metrics[name], "disabled")
        elif how != "renamed":
            self.put(self.metrics[name], how)
        else:
            self.put(self.metrics[name], "deleted")
            new = f"m{(int(name[1:]) + 10) % 20}"
            self.put(replace(self.metrics[name], name=new))
            self.names[first_name] = new

    def redefine(self, first_name: str, factor: int) -> None:
        """Change the SQL of a metric: it multiplies by another number."""
        name = self.names[first_name]
        old = self.metrics[name]
        initial = old.initial and replace(old.initial, factor=factor)
        if name[0] != "w" and not old.copies and name not in self.missing:
            self.put(replace(old, formula=replace(old.formula, factor=factor), initial=initial))
            self.tell(f"{name} is multiplied by {factor}")

    def late(self, back: int) -> None:
        """Let an event arrive late."""
        self._insert(self.day(back))
        self.tell(f"an event of {self.day(back)} arrives")

    def _insert(self, day: date) -> None:
        if day >= self.purged:
            self.database.execute(f"INSERT INTO events (day, amount) VALUES ('{day}', {2 ** (self._events % 38)})")
            self._events += 1

    def purge(self, keep: int) -> None:
        """Delete the events before so many days ago."""
        self.purged = max(self.purged, self.day(keep))
        self.database.execute(f"DELETE FROM events WHERE day < '{self.purged}'")
        self.tell(f"events before {self.purged} are deleted")

    def fail(self, first_name: str, back: int, for_good: bool = False) -> None:
        """From now on let a metric fail on a date, or on it and all later ones."""
        name, since = self.names[first_name], self.day(back)
        until = date(2099, 1, 1) if for_good else since
        self.broken.append((name, since, until))
        row = f"({name[1:]}, '{since}', '{until}')"
        self.database.execute(f"INSERT INTO fails (metric, since, until) VALUES {row}, {row}")
        self.tell(f"{name} fails from {since} to {until}")

    def repair(self) -> None:
        self.broken.clear()
        self.database.execute("DELETE FROM fails")
        self.tell("nothing fails any more")

    def night(self, days: int = 1, only: Collection[str] = (), lost: Lost | None = None) -> int:
        """Let days pass and run without dates; more than one day is a missed night, none a second run."""
        for _ in range(days):
            self._insert(self.today)
            self.today += ONE_DAY
            self._minutes = 0
        return self.run(RunArguments(), only, lost)

    def dates(self, back: int, length: int = 1, only: Collection[str] = (), lost: Lost | None = None) -> int:
        """Run `length` dates that end so many days back."""
        words = str(self.day(back + length - 1)), str(self.day(back))
        return self.run(RunArguments(dates=words), only, lost)

    def initial(self, back: int, length: int, only: Collection[str] = (), lost: Lost | None = None) -> int:
        """Load `length` dates that end so many days back."""
        words = str(self.day(back + length - 1)), str(self.day(back))
        return self.run(RunArguments(dates=words, initial=True), only, lost)

    def run(self, call: RunArguments, only: Collection[str] = (), lost: Lost | None = None) -> int:
        """Run the command to its end and return its exit code; a failure without a reason is Untrue."""
        if not self.nightly:
            return run_metrics.NOTHING_TRIED
        chosen = sorted({self.names[first_name] for first_name in only} & {*self.nightly})
        retries = call.retries if lost is None or lost.is_retried else 0
        call = replace(call, metric=tuple(chosen), retries=retries, wait=20, quiet=True)
        self.lost, self._minutes, self.runs = lost, self._minutes + 1, self.runs + 1
        self.is_night, self.asked = call.is_night, {*chosen} or {*self.nightly}
        self.ran: list[tuple[date, list[str]]] = []  # first date and names of each transaction that was committed
        self.turns: list[date] = []  # the first date of each transaction, once for all its tries
        self.transactions, self._is_new_turn, self.is_again = 0, True, False
        words = [*call.dates, *["--initial"] * call.initial, *(f"--metric {name}" for name in chosen)]
        self.tell(" ".join(["run_metrics.py", *words]))
        code, said = self._run(call)
        loss = f", the {'reply to a COMMIT' if lost.after else 'connection'} was lost" if lost and not self.lost else ""
        ran = "; ".join(f"{day} {' '.join(names)}" for day, names in self.ran)
        self.story[-1] += f": exit {code}{loss}: {ran or 'nothing'}"
        # MySQL's EXPLAIN meets the error of a metric that fails too, so a range may not even start.
        if code != run_metrics.OK and not self.broken and not (loss and not retries):
            raise self.untrue(f"the run failed for no reason: {said}")
        most = (2 + self.lookback + 31) * (1 + len({name for name, _, _ in self.broken})) + bool(loss)
        if self.is_night and self.transactions > most:
            raise self.untrue(f"no progress: a night of {self.transactions} transactions, more than {most}")
        if code != run_metrics.NOTHING_TRIED and not loss:
            self.require_settled()
        return code

    def _run(self, call: RunArguments) -> tuple[int, str]:
        said = io.StringIO()
        logging.disable(logging.CRITICAL)
        try:
            with (
                patch.object(run_metrics, "DatabaseManager", lambda *args: _Watched(self, *args)),
                redirect_stdout(said), redirect_stderr(said),
            ):  # fmt: skip
                run = run_metrics.Run(call, self.settings, _Impatient(), self.today)
                try:
                    return run.start(), said.getvalue()
                finally:
                    run.database.close()
        except MetricsError as error:
            return run_metrics.NOTHING_TRIED, str(error)
        finally:
            logging.disable(logging.NOTSET)

    def live(self, history: History) -> None:
        """Let a history happen, then mend; Untrue if a promise does not hold."""
        self.begin(history.metrics, history.lookback, history.mend_days, history.on_failure)
        for name, *arguments in history.steps:
            getattr(self, name)(*arguments)
        self.mend()

    def counterexample(self, history: History) -> str:
        """Let a history happen; return the story of the simplest one that breaks a promise, empty if none does."""
        said, simpler = "", iter([history])
        while candidate := next(simpler, None):
            try:
                self.live(candidate)
            except Untrue as error:
                said, simpler = f"{error}\n{candidate}", filter(candidate.__ne__, candidate.simpler())
        return said

    # --- what is there ------------------------------------------------------------------------------------------------

    def day(self, back: int) -> date:
        return self.today - timedelta(days=back)

    @property
    def moment(self) -> int:
        """The simulated time: an hour after midnight, and a minute more for each run of the day."""
        return _midnight(self.today) + 3600 + 60 * self._minutes

    @property
    def nightly(self) -> list[str]:
        """The metrics, and the helpers with dates, whose file is there."""
        return [name for name in self.metrics if name not in self.missing and name[0] != "w"]

    def contents(self) -> dict[Cell, Content]:
        """Return the number of each row of bi_metrics and of the helpers' tables, seen by a second connection."""
        return contents_of(self.database.rows(ROWS), self.database.rows(HELPER_ROWS))

    def amounts(self) -> dict[date, int]:
        return {day: int(amount) for day, amount in self.database.rows(AMOUNTS)}

    def states(self) -> dict[Cell, str]:
        """Return the state of each row, and of each helper's cell, that there is."""
        return {(name, day): state for name, day, state in self.database.rows(STATES)}

    def state(self, name: str, back: int) -> str:
        return self.states().get((name, self.day(back)), "missing")

    def numbers(self, name: str) -> list[Content]:
        """Return the numbers of a name by date, without today's."""
        return [n for (other, day), n in sorted(self.contents().items()) if other == name and day < self.today]

    def due(self) -> list[Cell]:
        """Return what nights must compute: what is open, reopened, or missing after a first row."""
        states, found = self.states(), []
        for name in sorted(self.nightly):
            first = min((day for other, day in states if other == name), default=self.today)
            for day in _days(self.today, self.mend_days, 1):
                if day >= first and states.get((name, day)) not in CURRENT:
                    found.append((name, day))
        return found

    def inputs(self, name: str) -> set[str]:
        """Return all names that one reads, directly or through others.

        What a deleted metric has read is not known, nor that a table was filled by a deleted helper.
        """
        deleted = {other for other, how in self.missing.items() if how == "deleted"}
        helpers = {other for other in deleted if other[0] == "h"}
        reads = {other: metric.reads - helpers for other, metric in self.metrics.items()}
        return closure(reads | {other: {*reads} for other in deleted}, name)

    def is_stuck(self, cell: Cell) -> bool:
        """Tell whether a cell fails, or depends on one of its date that fails; yesterday may be all or nothing."""
        names = {cell[0], *self.inputs(cell[0])}
        if cell[1] == self.day(1) and self.on_failure == "date":
            names = {*self.metrics}
        return any(name in names and since <= cell[1] <= until for name, since, until in self.broken)

    # --- the promises -------------------------------------------------------------------------------------------------

    def began(self, day: date) -> None:
        """Note that a transaction runs its first file."""
        self.transactions += 1
        if (self._is_new_turn and not self.is_again) or self.turns[-1:] != [day]:
            self.turns.append(day)
        self._is_new_turn = False

    def committed(self, written: Mapping[Cell, Seen], before: Mapping[Cell, str]) -> None:
        """Look at everything after a COMMIT; `before` are the states when the transaction began."""
        self.commits += 1
        is_again, self.is_again = self.is_again, False
        self.journal.update(written)
        self.require_fresh()
        if not written:
            return
        day, yesterday = min(day for _, day in written), self.day(1)
        self.ran.append((day, list(dict.fromkeys(name for name, _ in written))))
        self._is_new_turn = True
        if self.is_night:  # a date by hand that is before the first row makes gaps, which the end of the run notes
            self.require_settled()
        is_due_date = self.is_night and (day < self.day(1 + self.lookback) or self.turns.count(day) > 1)
        for cell in written:
            if before.get(cell) in CURRENT and (is_due_date or cell[0] not in self.asked) and not is_again:
                raise self.untrue(f"loss: {_shown(cell)} was computed, though it was current and nobody asked for it")
        for name in self.asked.intersection(self.nightly) if self.is_night and len(self.turns) == 1 else ():
            if (name, yesterday) not in written and not self.is_stuck((name, yesterday)):
                raise self.untrue(f"not first: the night's first transaction left out {_shown((name, yesterday))}")

    def require_fresh(self) -> None:
        """What a current row of today's definition has read is still so, and each row is what its file computes."""
        contents, states = self.contents(), self.states()
        for cell, content in contents.items():
            seen = self.journal[cell]
            if content != (computed := seen.formula.value(*cell, seen.rows, seen.source)):
                raise self.untrue(f"{_shown(cell)} is {content}, and from what it read follows {computed}")
            if states.get(cell) not in CURRENT or seen.metric != self.metrics[cell[0]]:
                continue
            self.rows_checked += 1
            if seen.moment < _midnight(cell[1] + ONE_DAY):
                raise self.untrue(f"{_shown(cell)} is current, and was computed before its day had ended")
            for read, was in seen.rows.items():
                if contents.get(read) != was:
                    raise self.untrue(f"not fresh: {_shown(cell)} is current, and it has read {_shown(read)} as {was}, "
                                      f"which is {contents.get(read)} now")  # fmt: skip

    def require_settled(self) -> None:
        """Nothing that a final row has read, directly or through others, is due."""
        due, states = {*self.due()}, self.states()
        below: dict[Cell, Cell | None] = {}  # what is due among what a cell has read

        def due_below(cell: Cell) -> Cell | None:
            if cell not in below:
                below[cell] = None
                is_known = cell in states and not (cell[0][0] == "h" and self.missing.get(cell[0]) == "deleted")
                read = self.journal[cell].rows if is_known else ()
                below[cell] = next(filter(None, (each if each in due else due_below(each) for each in read)), None)
            return below[cell]

        for cell, state in states.items() if due else ():
            if state == "final" and (found := due_below(cell)):
                raise self.untrue(f"not settled: {_shown(cell)} is final over {_shown(found)}, which is due")

    def mend(self) -> None:
        """Put all files back, run each date again whose source has changed, then nights; Untrue if that leaves any."""
        self.tell("-- the mend")
        for name in {*self.missing}.intersection(self.names.values()):
            self.put(self.metrics[name])
        for _ in range(1 + bool(self.broken)):
            for day in self.changed_dates():
                self.dates((self.today - day).days)
            self.run_until_nothing_is_due()
            self.require_final()
            if self.broken:
                self.repair()
        if self.purged == OLDEST:
            self.require_full_computation()

    def changed_dates(self) -> list[date]:
        """Return the dates whose source is not as some row has read it, other than by a purge."""
        amounts, contents = self.amounts(), self.contents()
        read = {item for cell in contents for item in self.journal[cell].source.items()}
        return sorted({day for day, was in read if self.purged <= day < self.today and amounts.get(day, 0) != was})

    def run_until_nothing_is_due(self) -> None:
        """Run nights until only stuck cells are due; Untrue if that does not end."""
        for _ in range(MOST_NIGHTS):
            self.night(0)
            if all(map(self.is_stuck, self.due())):
                return
        raise self.untrue(f"no progress: still due: {', '.join(map(_shown, self.due()))}")

    def require_final(self) -> None:
        """Every row is due, or waits for a due cell, or is final."""
        due = self.due()
        for (name, day), state in self.states().items():
            if name in self.nightly and day < self.today and state in CURRENT:
                reasons = [cell for cell in due if cell[0] in self.inputs(name) and cell[1] <= day]
                if (state == "waiting") != bool(reasons):
                    why = ", ".join(map(_shown, reasons)) or "nothing that it reads"
                    raise self.untrue(f"not mended: {_shown((name, day))} is {state}, and {why} is due")

    def require_full_computation(self) -> None:
        """Each row of today's definition, of the dates that nights mend, is as a computation of all gives it."""
        contents, amounts, oldest = self.contents(), self.amounts(), self.day(self.mend_days)
        right: dict[Cell, Content] = {}

        def computed(cell: Cell) -> Content:
            name, day = cell
            if cell not in right:
                right[cell] = contents.get(cell)
                is_mended = cell in contents and name in self.nightly and oldest <= day < self.today
                if is_mended and self.journal[cell].metric == self.metrics[name]:
                    formula = self.metrics[name].initial or self.metrics[name].formula
                    rows = {each: computed(each) for each in formula.cells(name, day)}
                    right[cell] = formula.value(name, day, rows, amounts)
            return right[cell]

        for cell, content in sorted(contents.items()):
            if computed(cell) != content:
                raise self.untrue(f"not mended: {_shown(cell)} is {content}; computed anew it is {computed(cell)}")

    def tell(self, what: str) -> None:
        self.story.append(f"{self.today}  {what}")

    def untrue(self, what: str) -> Untrue:
        return Untrue("\n".join([what, *(f"    {line}" for line in self.story)]))


# --- a connection that takes notes ------------------------------------------------------------------------------------

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
        self._before: dict[Cell, str] = {}

    def connect(self) -> None:
        super().connect()
        super().execute(f"SET timestamp = {self._world.moment}")

    def execute(self, sql: str, args: Any = None) -> int:
        if sql.startswith("SAVEPOINT"):
            self._written = {}
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
        metric, formula = self._world.files[tag[1]]
        first = date.fromisoformat(tag[2])
        last = date.fromisoformat(tag[3]) if tag[3] else first
        if not self._written:
            self._before = self._world.states()
            self._world.began(first)
        contents = contents_of(self.query(ROWS), self.query(HELPER_ROWS))
        amounts = {day: int(amount) for day, amount in self.query(AMOUNTS)}
        for day in _days(last, (last - first).days):
            rows = {cell: contents.get(cell) for cell in formula.cells(metric.name, day)}
            source = {of: amounts.get(of, 0) for of in formula.days(day)}
            seen = Seen(metric, formula, rows, source, self._world.moment)
            if metric.copies:  # the work table has read it
                work = self._written[metric.copies, day]
                seen = replace(seen, rows=work.rows, source=work.source)
            self._written[metric.name, day] = seen

    def _end(self, statement: str) -> None:
        lost = self._world.lost if statement == "COMMIT" else None
        self._commits += statement == "COMMIT"
        loses_now = lost is not None and self._commits > lost.skip
        if lost and loses_now and not lost.after:
            self._lose()
        super()._end(statement)
        if statement == "COMMIT":
            cells = {cell: seen for cell, seen in self._written.items() if cell[0][0] != "w"}
            self._world.committed(cells, self._before)
        if loses_now:
            self._lose()

    def _lose(self) -> None:
        self._world.lost, self._world.is_again = None, True
        self.close()
        raise StatementError(2013, "the reply to COMMIT was lost: (2013) Lost connection to server during query")


def contents_of(rows: Collection[tuple[Any, ...]], helper_rows: Collection[tuple[Any, ...]]) -> dict[Cell, Content]:
    """Return the number that each row holds, or the text if it holds none."""
    found: dict[Cell, Content] = {(name, day): int(n) for name, day, n in helper_rows}
    for name, day, text in rows:
        value = json.loads(text)
        found[name, day] = value["n"] if isinstance(value, dict) else str(value)
    return found


def _shown(cell: Cell) -> str:
    return f"{cell[0]} of {cell[1]}"


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp())
