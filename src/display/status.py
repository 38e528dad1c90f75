"""What is known of each metric, from its files and from the tables: for --status, the probe, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from src.dates import ONE_DAY, spans
from src.display.repairs import repair_lines
from src.metric_file.file import MetricFile, Mode
from src.sql_loader import Catalog
from src.storage.store import LOOK_BACK_DAYS, MetricStore, Status, by_metric
from src.wording import count, listed


@dataclass(frozen=True)
class MetricState:
    """A metric that the nightly run computes, and its rows; or rows that no file writes."""

    name: str
    file: MetricFile | None
    stored: Status | None  # None: no row yet
    missing: Sequence[date]  # dates of any age, to yesterday
    not_final: Sequence[date]  # dates that have ended, of any age
    future: Sequence[date]  # dates after today: the clock was wrong once
    sql_changed: bool  # since the newest row was written
    file_errors: Sequence[str] = field(default=())

    def problems(self, today: date, max_age: int | None) -> list[str]:
        """Return what a probe must report, in words; the age counts only where `max_age` is given."""
        found = [f"file error: {error}" for error in self.file_errors]
        if self.file is None:
            return found
        newest = self.stored.newest_final if self.stored else None
        if max_age is not None and (newest is None or (today - newest).days > max_age):
            old = f"newest final row {newest}, more than {count(max_age, 'day')} old"
            none = f"no final row in {LOOK_BACK_DAYS} days" if self.stored else "no final row"
            found.append(old if newest else none)
        if self.missing:
            found.append(f"missing: {_some(self.missing)}")
        if self.not_final:
            found.append(f"not final: {_some(self.not_final)}")
        if self.stored and self.stored.last_status == "failed":
            found.append("last run failed")
        return found

    def remarks(self, today: date, max_age: int | None) -> list[str]:
        """Return the problems, and what is worth knowing besides."""
        found = self.problems(today, max_age)
        if self.file is None:
            found.append("no file writes it")
        elif self.stored is None and "no final row" not in found:
            found.append("no row yet")
        if self.future:
            found.append(f"rows of future dates: {_some(self.future)}")
        return found + (["SQL changed since"] if self.sql_changed else [])


def states(store: MetricStore, catalog: Catalog, today: date, errors: Mapping[str, Sequence[str]]) -> list[MetricState]:
    """Return the state of each metric in run order, then of those without a file; `errors` are by path of a file."""
    files = {file.name: file for file in catalog.in_mode(Mode.INCREMENTAL) if not file.is_helper}
    names = [*files, *sorted(store.names() - files.keys())]
    stored = store.status(names, today)
    missing = by_metric(store.missing(files, today))
    not_final = by_metric(store.not_final(files, today))
    future = by_metric(store.future_dates(today))
    # A helper with an error stops the night of every metric.
    helpers = [error for file in catalog.files if file.is_helper for error in errors.get(file.path, ())]
    found = []
    for name in names:
        wrote = stored[name].fingerprint if name in stored else None
        sql_changed = name in files and wrote is not None and wrote not in catalog.fingerprints(name)
        own_files = (file for file in catalog.files_of(name) if not file.is_helper)
        file_errors = helpers + [error for file in own_files for error in errors.get(file.path, ())]
        found.append(MetricState(name, files.get(name), stored.get(name), missing[name], not_final[name], future[name],
                                 sql_changed, file_errors))  # fmt: skip
    return found


def repair_commands(some: Sequence[MetricState], all_of_them: Sequence[MetricState], most: int | None) -> list[str]:
    """Return a line for each range of dates on which some metrics must run again, with its command."""
    names = [state.name for state in all_of_them if state.file]
    missing = [(state.name, day) for state in some for day in state.missing]
    not_final = [(state.name, day) for state in some for day in state.not_final]
    return repair_lines("missing", missing, names, most) + repair_lines("not final", not_final, names, most)


def in_words(found: Sequence[MetricState], today: date) -> tuple[str, bool]:
    """Return the state of all metrics in one line, and whether all is well."""
    wanted = [state for state in found if state.file]
    bad = [state.name for state in wanted if state.problems(today, None)]
    newest = {state.name: state.stored.newest_final for state in wanted if state.stored and state.stored.newest_final}
    if bad:
        return f"Problems with {len(bad)} of {count(len(wanted), 'metric')}: {listed(bad)}", False
    if not newest:
        return f"No metric has a final row of the last {LOOK_BACK_DAYS} days", False
    oldest, total = min(newest.values()), count(len(wanted), "metric")
    if oldest < today - ONE_DAY:
        return f"The newest final rows are of {oldest}: did the nightly run fail?", False
    if len(newest) < len(wanted):
        without = [state.name for state in wanted if state.name not in newest]
        return f"{len(newest)} of {total} final to {oldest}; no final row: {listed(without)}", False
    return f"{'All ' if len(wanted) > 1 else ''}{total} final to {oldest}", True


def _some(days: Sequence[date]) -> str:
    parts = spans(days).split(", ")
    return ", ".join(parts[:3]) + (f" and {len(parts) - 3} more ranges" if len(parts) > 3 else "")
