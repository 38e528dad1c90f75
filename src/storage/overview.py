"""What is known of every cell, for --status, the probe and the page. Reads only; a run may be at work meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

from src.dates import ONE_DAY
from src.db_manager import DatabaseManager, Row
from src.metric_file.period import DAY, Nightly, Period
from src.storage.changes import StoredRow, differences
from src.storage.store import Remark

STATES = ("missing", "open", "reopened", "waiting", "final")


class Sum(NamedTuple):
    """What the state table holds of one name, in one pass over all of it."""

    is_helper: bool
    first: date
    newest: date
    number: int
    definitions: frozenset[str]  # the first and the last by text: two if there are several
    has_failed: bool  # the last try of some cell
    has_remarks: bool


@dataclass(frozen=True)
class Failure:
    """Why the last try of a cell failed."""

    metric_date: date
    failed_at: str  # UTC
    error: str


@dataclass
class CellsOf:
    """The cells of one metric or helper to today. `first` is the first row, or the first cell of a helper."""

    name: str
    is_helper: bool
    period: Period = DAY
    first: date | None = None
    newest: date | None = None
    newest_final: date | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    missing: list[date] = field(default_factory=list)  # to yesterday, of any age
    reopened: list[date] = field(default_factory=list)  # open or reopened, to yesterday, of any age
    waiting: list[date] = field(default_factory=list)
    older_sql: list[date] = field(default_factory=list)  # final, and of another definition than the present one
    future: list[date] = field(default_factory=list)  # dates after today: a clock was wrong once
    warnings: list[Remark] = field(default_factory=list)  # of what is stored, newest first
    accepted: list[Remark] = field(default_factory=list)  # what checks found in it, newest first
    failure: Failure | None = None  # of the cell that is not current and whose last try failed last
    computed_at: str | None = None  # of the newest date, in UTC
    milliseconds: int | None = None

    final_after: int = 0  # days after the end of a period for which its number is not complete

    def put(self, day: date, state: str, today: date) -> None:
        """Count a cell, and list a date whose number could be final and is not.

        A row of another period than the present one, which no file computes any more, may lie where no period ends.
        """
        self.counts[state] += 1
        if day + self.final_after * ONE_DAY < today and state != "final" and self.period.is_end(day):
            {"missing": self.missing, "waiting": self.waiting}.get(state, self.reopened).append(day)


@dataclass(frozen=True)
class Correction:
    """A value that was replaced after it had been final."""

    metric: str
    metric_date: date
    old_value: str
    new_value: str

    @property
    def detail(self) -> str:
        """What differs: old -> new."""
        old, new = (StoredRow("", "[]", value) for value in (self.old_value, self.new_value))
        return differences(old, new)


class Overview:
    """Answers what is stored as of `today`."""

    def __init__(self, database: DatabaseManager, today: date) -> None:
        self._db = database
        self._today = today

    def cells(self, definitions: Mapping[str, str], nightly: Mapping[str, Nightly]) -> dict[str, CellsOf]:
        """Return the cells of every name that has rows or states.

        `definitions` are the present ones, and `nightly` is what nights compute, both by name.
        """
        sums = {
            name: Sum(bool(is_helper), first, newest, number, frozenset({low, high} - {None}), failed is not None,
                      bool(has_remarks))
            for name, is_helper, first, newest, number, low, high, failed, has_remarks in self._db.query(
                "SELECT metric, MAX(is_helper), MIN(metric_date), MAX(metric_date), COUNT(*), MIN(definition), "
                "MAX(definition), MAX(failed_at), "
                "MAX(COALESCE(warning, accepted) IS NOT NULL) FROM bi_metric_state GROUP BY metric"
            )
        }
        rows = {row[0]: row[1:] for row in self._db.query(
            "SELECT metrics, MIN(metric_date), MAX(metric_date), COUNT(*) FROM bi_metrics GROUP BY metrics"
        )}  # fmt: skip
        not_final: dict[str, dict[date, str]] = {}
        for name, day, state in self._db.query(
            "SELECT metric, metric_date, state FROM bi_metric_state WHERE state <> 'final' ORDER BY metric_date"
        ):
            not_final.setdefault(name, {})[day] = state
        found = {}
        for name in sorted(sums.keys() | rows):
            of_night = nightly.get(name, Nightly())
            is_helper = name not in rows and sums[name].is_helper
            found[name] = cells = CellsOf(name, is_helper, of_night.period, final_after=of_night.final_after)
            states = not_final.get(name, {})
            if not self._fill(cells, states, sums.get(name), rows.get(name)):
                self._look_closer(cells)
        self._list_older_sql(found, definitions, sums)
        self._explain(found, [name for name, each in sums.items() if each.has_failed])
        self._add_remarks(found, [name for name, each in sums.items() if each.has_remarks])
        self._tell_newest(found)
        return found

    def corrections(self, names: Collection[str], since: date) -> list[Correction]:
        """Return the values of dates from `since` on that were replaced after they had been final, newest first."""
        found = self._db.query(
            "SELECT metric, metric_date, old_value, new_value FROM bi_metric_changes "
            "WHERE metric IN %s AND metric_date >= %s ORDER BY id DESC", (tuple(names) or ("",), since),
        )  # fmt: skip
        return [Correction(*row) for row in found]

    def _fill(self, cells: CellsOf, states: Mapping[date, str], states_sum: Sum | None, rows: Row | None) -> bool:
        """Fill in the cells if each period since the first row has a state and each row its own; else return False."""
        if states_sum is None:
            return False
        missing = sum(state == "missing" for state in states.values())
        first, newest, running = states_sum.first, states_sum.newest, cells.period.end_of(self._today)
        ends = cells.period.ends(first, newest)
        if newest > running or states_sum.number != len(ends) or states.get(first) == "missing":
            return False
        if newest < cells.period.row_before(running):
            return False
        if rows is not None and (rows[0] != first or rows[1] > running or rows[2] != states_sum.number - missing):
            return False
        if rows is None and not states_sum.is_helper:
            return False
        cells.first = first
        cells.newest = next(day for day in reversed(ends) if states.get(day) != "missing")
        cells.newest_final = next((day for day in reversed(ends) if day not in states), None)
        for day, state in states.items():
            cells.put(day, state, self._today)
        cells.counts["final"] = states_sum.number - len(states)
        return True

    def _look_closer(self, cells: CellsOf) -> None:
        """Find out date by date: a row without a state counts as reopened, a state without its row as missing."""
        states: dict[date, str] = dict(self._db.query(
            "SELECT metric_date, state FROM bi_metric_state WHERE metric = %s", (cells.name,)
        ))  # fmt: skip
        if not cells.is_helper:
            rows = self._db.query("SELECT metric_date FROM bi_metrics WHERE metrics = %s", (cells.name,))
            states = {day: states.get(day, "reopened") for (day,) in rows}
        running = cells.period.end_of(self._today)
        there = sorted(day for day, state in states.items() if state != "missing")
        cells.future = [day for day in there if day > running]
        there = [day for day in there if day <= running]
        if not there:
            return
        cells.first, cells.newest = there[0], there[-1]
        cells.newest_final = max((day for day in there if states[day] == "final"), default=None)
        for day in sorted({*cells.period.ends(cells.first, running), *there}):
            state = states.get(day, "missing")
            if day < self._today or state != "missing":
                cells.put(day, state, self._today)

    def _list_older_sql(
        self, found: Mapping[str, CellsOf], definitions: Mapping[str, str], sums: Mapping[str, Sum]
    ) -> None:
        older = {name: present for name, present in definitions.items()
                 if name in sums and sums[name].definitions - {present}}  # fmt: skip
        if older:
            for name, day, definition in self._db.query(
                "SELECT metric, metric_date, definition FROM bi_metric_state WHERE metric IN %s AND state = 'final' "
                "AND definition IS NOT NULL ORDER BY 1, 2", (tuple(older),),
            ):  # fmt: skip
                if definition != older[name]:
                    found[name].older_sql.append(day)

    def _explain(self, found: Mapping[str, CellsOf], names: Sequence[str]) -> None:
        """Add the newest error of each name whose cell is not current; of a current one the value is right."""
        if names:
            for name, day, error, failed_at in self._db.query(
                "SELECT metric, metric_date, error, CAST(failed_at AS CHAR) FROM bi_metric_state "
                "WHERE metric IN %s AND failed_at IS NOT NULL ORDER BY failed_at, metric_date", (tuple(names),),
            ):  # fmt: skip
                if not self._is_current(found[name], day):
                    found[name].failure = Failure(day, failed_at, error)

    def _add_remarks(self, found: Mapping[str, CellsOf], names: Sequence[str]) -> None:
        """Add what is warned of, and what is accepted."""
        if names:
            for name, day, warning, accepted in self._db.query(
                "SELECT metric, metric_date, COALESCE(warning, ''), COALESCE(accepted, '') FROM bi_metric_state "
                "WHERE metric IN %s AND COALESCE(warning, accepted) IS NOT NULL ORDER BY metric_date DESC",
                (tuple(names),),
            ):
                found[name].warnings += [Remark(name, day, text) for text in warning.splitlines()]
                found[name].accepted += [Remark(name, day, text) for text in accepted.splitlines()]

    def _is_current(self, cells: CellsOf, day: date) -> bool:
        is_past = cells.first is not None and cells.first <= day < self._today
        return is_past and day not in cells.missing and day not in cells.reopened

    def _tell_newest(self, found: Mapping[str, CellsOf]) -> None:
        """Add when the newest cell of each name was computed."""
        newest = tuple((name, cells.newest) for name, cells in found.items() if cells.newest)
        if newest:
            for name, computed_at, milliseconds in self._db.query(
                "SELECT metric, CAST(computed_at AS CHAR), milliseconds FROM bi_metric_state "
                "WHERE (metric, metric_date) IN %s", (newest,),
            ):  # fmt: skip
                found[name].computed_at, found[name].milliseconds = computed_at, milliseconds
