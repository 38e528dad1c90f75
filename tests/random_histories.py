"""Metrics and histories drawn at random: what a file computes, as SQL and as Python, and what may happen to it."""

from __future__ import annotations

from calendar import day_name
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, timedelta
from functools import lru_cache
from random import Random
from typing import Any, TypeAlias

START = date(2025, 3, 10)  # a Monday: the day on which a history begins, unless it says otherwise
EARLIEST_START = date(2024, 12, 20)
OLDEST = EARLIEST_START - timedelta(days=60)  # every sum begins here
ONE_DAY = timedelta(days=1)
ALL = 9999  # days back: every earlier date
LIMIT = 1_000_003  # sums over rows stay below it, so that no chain of metrics leaves BIGINT
MOST_METRICS = 6
EVERY_METRIC = tuple(f"m{n}" for n in range(20))  # m13 is m3 under a new name
DAY = "1 day"
PERIODS = ("week", "week from thursday", "month", "month from 26", "3 days", "7 days")

Cell: TypeAlias = "tuple[str, date]"
Content: TypeAlias = "int | str | None"  # a row's number; a text if the row holds none; None if there is no row


# Periods, by the calendar of the standard library: nothing here is shared with what is tested.
@lru_cache(10_000)
def period_of(day: date, period: str) -> tuple[date, ...]:
    """Return the days of the period that holds a date; of N days, those of the one that ends on it."""
    kind, _, start = period.partition(" from ")
    if kind[0].isdigit():
        return tuple(day - timedelta(days=n) for n in reversed(range(int(kind.split()[0]))))
    first = [*map(str.lower, day_name)].index(start or "monday") if kind == "week" else int(start or 1) - 1

    def which(each: date) -> tuple[int, ...]:
        moved = each - timedelta(days=first)
        return moved.isocalendar()[:2] if kind == "week" else moved.timetuple()[:2]

    return tuple(each for n in range(-31, 32) if which(each := day + timedelta(days=n)) == which(day))


def end_of(day: date, period: str) -> date:
    """Return the last day of the period that holds a date, by which its row is named."""
    return period_of(day, period)[-1]


def days_back(day: date, first: int, last: int = 0, period: str = DAY) -> list[date]:
    """Return the dates from `first` days before the period that ends on `day` to `last` days before that day."""
    oldest, newest = max(period_of(day, period)[0] - timedelta(days=first), OLDEST), day - timedelta(days=last)
    return [oldest + timedelta(days=n) for n in range((newest - oldest).days + 1)]


class _Brief:
    """Shows the fields of a dataclass that are not as usual."""

    def __str__(self) -> str:
        there = ((field, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return ", ".join(f"{field.name}: {value}" for field, value in there if value != field.default)


@dataclass(frozen=True)
class Formula(_Brief):
    """What a file computes for a period: sums over days of the source and over rows of others."""

    source: int | None = None  # the period and so many days before it
    reads: tuple[str, ...] = ()  # names; "*" is every other metric
    first: int = 0  # their rows, from so many days before the period
    last: int = 0  # to so many before its end; with 1 the file runs before what it reads
    own: bool = False  # and the own row of the period before
    modulus: int = LIMIT  # of the sum over rows; 3 makes rows that stay the same though what they read changed
    factor: int = 1
    period: str = DAY

    def before(self, day: date) -> date:
        """Return the date of the own row before the one of `day`; of N days it lies a day back."""
        return (day if self.period[0].isdigit() else period_of(day, self.period)[0]) - ONE_DAY

    def cells(self, name: str, day: date) -> list[Cell]:
        """Return the cells that it may read: of a name with longer periods, most of them are never there."""
        names = [other for other in EVERY_METRIC if other != name] if "*" in self.reads else self.reads
        dates = days_back(day, self.first, self.last, self.period) if names else []
        return [(name, self.before(day))] * self.own + [(other, of) for other in names for of in dates]

    def days(self, day: date) -> list[date]:
        """Return the days of the source that it looks at."""
        return [] if self.source is None else days_back(day, self.source, period=self.period)

    def value(self, name: str, day: date, rows: Mapping[Cell, Content], source: Mapping[date, int]) -> int:
        """Compute the number, as the SQL does."""
        numbers = {cell: number for cell in self.cells(name, day) if isinstance(number := rows[cell], int)}
        own = numbers.pop((name, self.before(day)), 0)
        total = own + self.factor * sum(numbers.values())
        of_source = self.factor * sum(source.get(of, 0) for of in self.days(day))
        return total % self.modulus + LIMIT * of_source if self.reads else own + of_source

    def sql(self, name: str) -> str:
        """Return the SQL expression of the number for the period from d.start to d.day."""

        def total(number: str, table: str, day: str, since: str, until: str) -> str:
            return f"COALESCE((SELECT SUM({number}) FROM {table} b WHERE {day} BETWEEN {since} DAY AND {until} DAY), 0)"

        def rows(other: str, which: str, since: str, until: str) -> str:
            if other[0] == "h":
                return total("b.n", f"t_{other}", "b.day", since, until)
            number = "CAST(JSON_EXTRACT(b.value_list, '$.n') AS SIGNED)"
            return total(number, "bi_metrics", f"b.metrics {which} AND b.metric_date", since, until)

        before = f"d.{'day' if self.period[0].isdigit() else 'start'} - INTERVAL 1"
        terms = [rows(name, f"= '{name}'", before, before)] if self.own else ["0"]
        for other in self.reads:
            which = f"<> '{name}'" if other == "*" else f"IN ('{other}')"
            number = rows(other, which, f"d.start - INTERVAL {self.first}", f"d.day - INTERVAL {self.last}")
            terms.append(f"{self.factor} * {number}")
        source = "0"
        if self.source is not None:
            source = total("b.amount", "events", "b.day", f"d.start - INTERVAL {self.source}", "d.day - INTERVAL 0")
        number, source = " + ".join(terms), f"{self.factor} * {source}"
        return f"MOD({number}, {self.modulus}) + {LIMIT} * {source}" if self.reads else f"{number} + {source}"


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
    copies: str = ""  # the work table that holds the number; the formula is then that of the work table
    has_running_row: bool = True
    final_after: int = 0

    @property
    def period(self) -> str:
        return self.formula.period

    @property
    def reads(self) -> set[str]:
        """The names that it reads directly."""
        found = {*self.formula.reads, *(self.initial or self.formula).reads, *[self.copies] * bool(self.copies)}
        found |= {*EVERY_METRIC} if "*" in found else set()
        return found - {"*"} | ({self.name} if self.formula.own else set())

    def files(self) -> Iterator[tuple[str, Formula, str]]:
        """Yield path, formula and text of each file."""
        file = f"{int(self.name[1:]) % 10 + 1:02}_{self.name}.sql"
        yield f"sql/{'incremental/' if self.initial else ''}{file}", self.formula, self._text(self.formula)
        if self.initial:
            yield f"sql/initial/{file}", self.initial, self._text(self.initial)

    def _text(self, formula: Formula) -> str:
        name, table = self.name, f"t_{self.name}"
        form = self.form or {"m": "select", "h": "delete", "w": "work"}[name[0]]
        head = f"-- Description: {formula}\n" + "-- Data Type: card\n" * (name[0] == "m")
        head += "-- Reads: *\n" * ("*" in formula.reads) + "-- Allow: reads-later-metric\n" * (formula.last > 0)
        head += f"-- Period: {self.period}\n" * (self.period != DAY) + "-- Running: no\n" * (not self.has_running_row)
        head += f"-- Final After: {self.final_after} days\n" * (self.final_after > 0)
        number = f"{formula.factor} * (SELECT w.n FROM t_{self.copies} w)" if self.copies else formula.sql(name)
        # Two rows in `fails` make the subquery an error.
        fails = f"SELECT f.zero FROM fails f WHERE f.metric = {name[1:]} AND d.day BETWEEN f.since AND f.until"
        dates = "(SELECT DATE(%(metric_date)s) AS day, DATE(%(period_start)s) AS start) d"
        if self.is_set_based:
            columns = "day DATE PATH '$.metric_date', start DATE PATH '$.period_start'"
            dates = f"JSON_TABLE(%(periods)s, '$[*]' COLUMNS ({columns})) d"
            if self.period == DAY:
                dates = "(SELECT day, day AS start FROM JSON_TABLE(%(dates)s, '$[*]' COLUMNS (day DATE PATH '$')) e) d"
        rows = f"SELECT d.day AS metric_date, CAST({number} + COALESCE(({fails}), 0) AS SIGNED) AS n\nFROM {dates}"
        insert = f"INSERT INTO {table} (day, n) SELECT q.metric_date, q.n FROM (\n{rows}\n) q"
        return head + {
            "select": rows,
            "insert": "INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)\n"
                      f"SELECT '{name}', 'card', JSON_ARRAY('n'), JSON_OBJECT('n', q.n), q.metric_date "
                      f"FROM (\n{rows}\n) q\n"
                      "ON DUPLICATE KEY UPDATE f_list = VALUES(f_list), value_list = VALUES(value_list)",
            "upsert": f"{insert}\nON DUPLICATE KEY UPDATE n = VALUES(n)",
            "delete": f"DELETE FROM {table} WHERE day IN (SELECT d.day FROM {dates});\n{insert}",
            "work": f"DELETE FROM {table};\n{insert}",
        }[form] + ";\n"  # fmt: skip


def snapshot(name: str) -> Metric:
    return Metric(name, Formula(source=0))


def cumulative(name: str, *others: str) -> Metric:
    """A metric that adds the date's source, or rows of others, to its own row of the day before."""
    if others:
        return Metric(name, Formula(reads=others, own=True), Formula(reads=others, first=ALL))
    return Metric(name, Formula(source=0, own=True), Formula(source=ALL))


def copied(name: str, work: Metric) -> Metric:
    """A metric whose number is that of a work table."""
    return Metric(name, work.formula, copies=work.name)


def of(period: str, metric: Metric) -> Metric:
    """The metric with rows of another period."""
    initial = metric.initial and replace(metric.initial, period=period)
    return replace(metric, formula=replace(metric.formula, period=period), initial=initial)


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
    lookback: int = 1
    mend_days: int = 92
    on_failure: str = "date"
    readers: int = 0
    start: date = START

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of World.begin() after the metrics."""
        return {field.name: getattr(self, field.name) for field in fields(self)[2:]}

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
            plain = replace(metric, form="", is_set_based=False, has_running_row=True, final_after=0)
            for other in (plain, replace(metric, form=""), replace(metric, is_set_based=False), of(DAY, metric)):
                yield replace(self, metrics=tuple(other if each == metric else each for each in self.metrics))
        for n, (name, *arguments) in enumerate(self.steps):
            if len(arguments) > {"night": 0, "dates": 1, "initial": 2}.get(name, 9):
                yield replace(self, steps=(*self.steps[:n], (name, *arguments[:-1]), *self.steps[n + 1 :]))
        yield from (replace(self, **{name: usual}) for name, usual in History((), ()).settings.items())

    def __str__(self) -> str:
        steps = [f"world.{name}({', '.join(map(repr, arguments))})" for name, *arguments in self.steps]
        settings = ", ".join(f"{key}={value!r}" for key, value in self.settings.items())
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
        pool = after if is_early else before
        others = tuple(dice.sample(pool, min(len(pool), dice.randint(int(is_early), 2))))
        if is_metric and name == names[-1] and dice.random() < 0.3:
            others = ("*",)
        # A helper that looks back at the source for days would not be reopened by late data.
        source = None if others and dice.random() < 0.7 else dice.choice([0, 0, 1, 2]) * (name[0] != "h")
        first, modulus = dice.randint(int(is_early), 3), dice.choice([LIMIT, LIMIT, 3])
        metric = Metric(name, Formula(source, others, first, int(is_early), modulus=modulus))
        if works and is_metric and dice.random() < 0.5:
            metric = copied(name, works[-1])
        elif not is_early and not is_work and "*" not in others and dice.random() < 0.25:
            metric = cumulative(name, *others)
        elif not is_work and dice.random() < 0.2:
            metric = replace(metric, initial=metric.formula)
        reads = {each.name: each.reads - {each.name} for each in (*made.values(), metric)}
        if name in closure(reads, name):  # what an early metric reads must not read it
            metric = snapshot(name)
        # Over windows of N days, which overlap, a sum of the row before is none of the source.
        if not metric.copies and dice.random() >= 0.6:
            metric = of(dice.choice(PERIODS[: 4 if metric.formula.own else 6]), metric)
        made[name] = replace(
            metric, is_set_based=not (is_work or metric.copies) and dice.random() < 0.5,
            form=dice.choice({"m": ["select", "insert"], "h": ["delete", "upsert"], "w": ["work"]}[name[0]]),
            has_running_row=is_work or dice.random() < 0.8, final_after=dice.choice([0, 0, 0, 0, 1, 3]) * (not is_work),
        )  # fmt: skip
    return tuple(made.values())


def closure(reads: Mapping[str, Collection[str]], name: str) -> set[str]:
    """Return all names that one reads, directly or through others; itself only if it does."""
    found = {*reads.get(name, ())}
    while new := {other for each in found for other in reads.get(each, ())} - found:
        found |= new
    return found


def random_step(dice: Random, names: Sequence[str]) -> tuple[Any, ...]:
    """Return anything that may happen; nights, late data and named dates most often."""
    kinds = ("night", "late", "dates", "initial", "fail", "switch", "repair", "purge", "redefine")
    kind = dice.choices(kinds, (6, 4, 4, 2, 2, 2, 1, 1, 1))[0]
    name, back = dice.choice(names), dice.randint(0, 9 if dice.random() < 0.9 else 35)
    only = tuple(dice.choices(names, k=dice.randint(1, 2))) if dice.random() < 0.25 else ()
    is_lost = dice.random() < 0.15
    lost = Lost(dice.randint(0, 3), dice.random() < 0.5, dice.random() < 0.5) if is_lost else None
    return kind, *{
        "night": (dice.choice([1, 1, 1, 2, 2, 3, 5, 9, 0]), only, lost), "late": (back,), "purge": (back,),
        "dates": (back, dice.choice([1, 1, 2, 4, 6, 12]), only, lost),
        "initial": (back, dice.choice([1, 2, 3, 4, 6, 32]), only, lost),
        "fail": (name, back // 3, dice.random() < 0.3), "repair": (), "redefine": (name, dice.randint(1, 3)),
        "switch": (name, dice.choice(["disabled", "deleted", "renamed"])),
    }[kind]  # fmt: skip


def random_history(number: int) -> History:
    """Return the history with this number."""
    dice = Random(number)
    metrics = random_metrics(dice)
    steps = tuple(random_step(dice, [each.name for each in metrics]) for _ in range(dice.randint(3, 25)))
    return History(
        metrics, steps, lookback=dice.randint(0, 2), mend_days=dice.choice([92, 92, 34, 8, 5]),
        on_failure=dice.choice(["date", "metric"]), readers=dice.choice([0, 1, 3]),
        start=EARLIEST_START + dice.randint(0, (START - EARLIEST_START).days) * ONE_DAY,
    )  # fmt: skip
