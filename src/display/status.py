"""What is known of each metric and helper, in words: for --status, the probe, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from src.dates import ONE_DAY
from src.display.repairs import older_sql_lines, repair_lines
from src.metric_file.file import MetricFile, Mode
from src.metric_file.period import DAY
from src.sql_loader import Catalog
from src.storage.overview import CellsOf, Overview
from src.storage.store import MetricStore, Remark
from src.wording import count, listed

RECENT_PERIODS, SHOWN_REMARKS = 7, 3  # of the warnings that are told
VANISHED_DAYS = 92  # for how long a name that no file computes any more is missed


@dataclass(frozen=True)
class MetricState:
    """A metric or helper that the nightly run computes, and its cells; or rows that no file computes."""

    name: str
    file: MetricFile | None  # None: no file of the night computes it
    cells: CellsOf
    mended_since: date  # nights leave older cells alone
    is_vanished: bool = False
    file_errors: Sequence[str] = field(default=())

    @property
    def due(self) -> list[date]:
        """The dates that a night must compute."""
        return sorted(day for day in (*self.cells.missing, *self.cells.reopened) if day >= self.mended_since)

    @property
    def frozen(self) -> list[date]:
        """The dates that would be due if they were not too old for nights."""
        return sorted(day for day in (*self.cells.missing, *self.cells.reopened) if day < self.mended_since)

    def problems(self, today: date, max_age: int | None) -> list[str]:
        """Return what a probe must report, in words; the age counts only if `max_age` is given."""
        found = [f"file error: {error}" for error in self.file_errors]
        cells = self.cells
        if self.is_vanished:
            found.append(f"no file of the night computes it, and it has rows to {cells.newest}")
        if self.file is None:
            return found
        if max_age is not None and self._is_old(today, max_age):
            old = f"newest final row {self._label(cells.newest_final)}, more than {count(max_age, 'day')} old"
            found.append(old if cells.newest_final else "no final row")
        for what, days in (("missing", cells.missing), ("to be computed again", cells.reopened)):
            if recent := [day for day in days if day >= self.mended_since]:
                found.append(f"{what}: {self._some(recent)}")
        if cells.failure:
            day, error = cells.failure.metric_date, cells.failure.error
            found.append(f"the last try of {self._label(day)} failed: {error.removeprefix(f'{day}: ')}")
        return found

    def _is_old(self, today: date, max_age: int) -> bool:
        """Tell whether the newest period that could be final `max_age` days ago is not."""
        cells, period = self.cells, self.cells.period
        complete = today - (max_age + cells.final_after) * ONE_DAY
        wanted = complete if period.is_end(complete) else period.row_before(period.end_of(complete))
        if cells.newest_final is None:
            return cells.first is None or cells.first <= wanted or period == DAY
        return cells.newest_final < wanted and (cells.first or wanted) <= wanted

    def _label(self, day: date | None) -> str:
        return self.cells.period.label(day) if day else "-"

    def _some(self, ends: Sequence[date]) -> str:
        """Return ends of periods as ranges, the first three of them."""
        runs = self.cells.period.runs(ends)
        parts = [self._label(run[0]) if len(run) == 1 else f"{self._label(run[0])} to {self._label(run[-1])}"
                 for run in runs[:3]]  # fmt: skip
        return ", ".join(parts) + (f" and {len(runs) - 3} more ranges" if len(runs) > 3 else "")

    def remarks(self, today: date, max_age: int | None) -> list[str]:
        """Return the problems, and what is worth knowing besides."""
        found = self.problems(today, max_age)
        if self.file is None and not self.is_vanished:
            found.append("no file of the night computes it")
        elif self.cells.first is None and "no final row" not in found:
            found.append("no row yet")
        if self.cells.waiting:
            found.append(f"waiting for what is due: {self._some(self.cells.waiting)}")
        if self.frozen:
            found.append(f"too old for nights: {self._some(self.frozen)}")
        if self.cells.older_sql:
            found.append(f"of older SQL: {self._some(self.cells.older_sql)}")
        if self.cells.future:
            found.append(f"rows of future dates: {self._some(self.cells.future)}")
        found += self._recent("warning of", self.cells.warnings, today)
        return found + self._recent("accepted", self.cells.accepted, today)

    def _recent(self, what: str, remarks: Sequence[Remark], today: date) -> list[str]:
        """Return the remarks of the last periods in words, the newest three of them."""
        since = self.cells.period.end_of(today)
        for _ in range(RECENT_PERIODS):
            since = self.cells.period.row_before(since)
        recent = [each for each in remarks if each.metric_date >= since]
        found = [f"{what} {self._label(each.metric_date)}: {each.text}" for each in recent[:SHOWN_REMARKS]]
        return found + ([f"and {len(recent) - SHOWN_REMARKS} more"] if recent[SHOWN_REMARKS:] else [])


def states(
    overview: Overview, catalog: Catalog, today: date, mended_since: date, errors: Mapping[str, Sequence[str]]
) -> list[MetricState]:
    """Return the state of each name in run order, then of those without a file; `errors` are by path of a file."""
    files = {file.name: file for file in catalog.in_mode(Mode.INCREMENTAL) if file.name in catalog.nightly}
    found = overview.cells({name: catalog.definition(name) for name in files}, catalog.nightly)
    states = []
    for name in [*files, *(name for name in found if name not in files)]:
        cells = found.get(name) or CellsOf(name, name in catalog.helper_names, catalog.period(name))
        is_vanished = name not in files and name not in catalog.ended and _is_recent(cells.newest, today)
        paths = [file.path for each in (name, *catalog.work_tables_of(name)) for file in catalog.files_of(each)]
        file_errors = [error for path in paths for error in errors.get(path, ())]
        states.append(MetricState(name, files.get(name), cells, mended_since, is_vanished, file_errors))
    return states


def vanished(store: MetricStore, catalog: Catalog, today: date) -> dict[str, date]:
    """Return the newest date of each name with recent cells that no file of the night computes, unless it has ended."""
    known = catalog.nightly.keys() | catalog.ended
    newest = {name: last for name, (_, last) in store.spans().items()}
    newest |= store.newest_helper_dates(store.computed() - known)
    return {name: day for name, day in newest.items() if name not in known and _is_recent(day, today)}


def _is_recent(day: date | None, today: date) -> bool:
    return day is not None and day >= today - timedelta(days=VANISHED_DAYS)


def repair_commands(
    some: Sequence[MetricState], all_of_them: Sequence[MetricState], history_start: date | None, most: int | None
) -> list[str]:
    """Return a line for each range of dates on which some names must run again, with its command."""
    names = {state.name: state.cells.period for state in all_of_them if state.file}
    lines = []
    for what, cells in (
        ("missing", [(s.name, day) for s in some if s.file for day in s.cells.missing]),
        ("to be computed again", [(s.name, day) for s in some if s.file for day in s.cells.reopened]),
    ):
        lines += repair_lines(what, cells, names, history_start, most)
    older_sql = [(s.name, day) for s in some if s.file for day in s.cells.older_sql]
    return lines + older_sql_lines(older_sql, history_start, most)


def in_words(found: Sequence[MetricState], today: date, by_title: bool = False) -> tuple[str, bool]:
    """Return the state of all metrics in one line, and whether all is well; they are named by title or by name."""

    def named(some: Sequence[MetricState]) -> str:
        return listed([state.file.title if by_title and state.file else state.name for state in some])

    wanted = [state for state in found if state.file or state.is_vanished]
    bad = [state for state in wanted if state.problems(today, None)]
    newest = {state.name: state.cells.newest_final for state in wanted if state.cells.newest_final}
    if bad:
        return f"Problems with {len(bad)} of {count(len(wanted), 'metric')}: {named(bad)}", False
    if not newest:
        return "No metric has a final row", False
    daily = [newest[state.name] for state in wanted if state.name in newest and state.cells.period == DAY]
    oldest, total = min(daily or newest.values()), count(len(wanted), "metric")
    if oldest < today - ONE_DAY and daily:
        return f"The newest final rows are of {oldest}: did the nightly run fail?", False
    without = [state for state in wanted if state.name not in newest and state.cells.period == DAY]
    if without:
        return f"{len(newest)} of {total} final to {oldest}; no final row: {named(without)}", False
    return f"{'All ' if len(wanted) > 1 else ''}{total} final to {oldest}", True
