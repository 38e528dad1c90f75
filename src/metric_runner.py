"""Runs batches: each in a transaction of its own, again after a passing error, and again without what failed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from random import uniform
from typing import TypeVar

from src.db_manager import DatabaseManager
from src.errors import DatabaseError, DateError, LockedError, StatementError
from src.metric_file.file import MetricFile, Mode
from src.metric_file.parameters import Parameters
from src.running.compute import BatchResult, Computation
from src.running.plan import Batch
from src.running.readers import Readers
from src.server.codes import TRANSIENT
from src.sql_loader import Catalog
from src.storage.changes import Change, StoredRow, differing, shortened
from src.storage.store import Cell, MetricStore

log = logging.getLogger("bi_metrics")

LONGEST_PAUSE_SECONDS = 15.0

T = TypeVar("T")
RunBatch = Callable[[Batch], BatchResult]


@dataclass(frozen=True)
class Verdict:
    """What a comparison of both ways found."""

    compared: int  # rows
    different: tuple[Change, ...]  # detail: at once -> date by date
    moved: tuple[Cell, ...]  # rows whose source changed meanwhile: nothing can be said of them


class MetricRunner:
    """Executes batches on one connection. `retries` are further tries after a passing error; `wait` is in seconds."""

    def __init__(self, database: DatabaseManager, store: MetricStore, retries: int, wait: float) -> None:
        self.run_id = os.urandom(8).hex()
        self._db = database
        self._store = store
        self._retries = retries
        self._wait = wait

    def open(self, catalog: Catalog, parameters: Parameters, today: date, readers: Readers) -> None:
        """Use `catalog` for the batches, and `today` to decide what is due."""
        self._catalog = catalog
        readers.open(catalog)
        self._computation = Computation(self._db, self._store, catalog, parameters, today, self.run_id, readers)
        self._is_reconciled = False

    def expect(self, batches: Sequence[Batch]) -> None:
        """Let readers compute files of these batches, which run in this order, while earlier ones run."""
        self._computation.expect(batches)

    def run(self, batch: Batch) -> BatchResult:
        """Run a batch in a transaction of its own, and return its result after its COMMIT has returned.

        A batch that fails has left nothing behind but the reason, in the state of the cell at fault; the result holds
        the error. A batch that goes on is run again at once without the name at fault and all that depends on it.
        """
        left_out: list[DateError] = []
        all_names = frozenset(batch.names)
        while True:
            try:
                result = self.with_retries(lambda: self._transaction(batch), batch.label)  # noqa: B023
                return replace(result, left_out=tuple(left_out), not_run=all_names.difference(batch.names))
            except (DateError, DatabaseError, LockedError) as error:
                failed = error if isinstance(error, DateError) else DateError(f"{batch.label}: {error}")
                self._keep_reason(batch, failed)
            failed_names = {failed.name, *self._catalog.dependents_of_work_table(failed.name)}
            rest = batch.without({*failed_names, *self._catalog.all_dependents(failed_names)})
            may_go_on = batch.goes_on and failed.name and rest.files and failed.code not in TRANSIENT
            if not may_go_on or self._db.is_lost():  # _keep_reason() has tried to connect again
                return BatchResult(batch, left_out=tuple(left_out), not_run=all_names, error=failed)
            log.info("%s runs again without %s and what depends on it", batch.label, failed.name)
            left_out.append(failed)
            batch = rest

    def reconcile(self) -> None:
        """Bring the states in line with the rows, unless a batch of this run has done so."""
        if not self._is_reconciled:
            with self._db.transaction(may_end=False):
                self._computation.reconcile()
            self._is_reconciled = True

    def note_gaps(self) -> None:
        """Mark the dates between a new first row and the rows after it as missing."""
        with self._db.transaction(may_end=False):
            self._computation.note_gaps()

    def dry_run(self, work: Callable[[RunBatch], object]) -> list[BatchResult]:
        """Let `work` run batches in one transaction, roll it back, and return what would have changed."""

        def once() -> list[BatchResult]:
            results: list[BatchResult] = []

            def run(batch: Batch) -> BatchResult:
                results.append(self._computation.compute(batch))
                return results[-1]

            def everything() -> None:
                self._computation.reconcile()
                self._is_reconciled = True  # else a night would do it in a transaction of its own
                work(run)

            self._in_transaction(everything, "dry run", keep=False)
            self._is_reconciled = False
            return results

        return self.with_retries(once, "the dry run")

    def verify(self, at_once: Batch, by_date: Sequence[MetricFile]) -> Verdict:
        """Compute all dates of `at_once`, then each date from the one before it by the files `by_date`, and compare.

        Each way starts from what is stored, runs its own helpers, and is rolled back. Initial files compute the first
        date both times, because data that came late before it are no fault of a file. If values differ, the first way
        runs again: a value that it does not give twice cannot be compared, since its source has changed or it is never
        the same.
        """
        days = [Batch(Mode.INCREMENTAL, (day,), tuple(by_date)) for day in at_once.dates]

        def both_ways() -> Verdict:
            at_once_rows, by_date_rows = self._rows_of([at_once], at_once), self._rows_of(days, at_once)
            differences = {cell: differing(row, by_date_rows[cell]) for cell, row in at_once_rows.items()}
            again = self._rows_of([at_once], at_once) if any(differences.values()) else at_once_rows
            different, moved = [], []
            for cell, values in differences.items():
                unsure = differing(at_once_rows[cell], again[cell]).keys()
                if sure := [text for place, text in values.items() if place not in unsure]:
                    different.append(Change(*cell, "different", False, shortened(sure)))
                elif values:
                    moved.append(cell)
            return Verdict(len(at_once_rows), tuple(different), tuple(moved))

        return self.with_retries(both_ways, "the comparison")

    def _rows_of(self, batches: Sequence[Batch], of: Batch) -> Mapping[Cell, StoredRow]:
        """Run `batches`, return the rows that they give the cells of `of`, and roll back."""

        def work() -> dict[Cell, StoredRow]:
            for batch in batches:
                starts = {name for name, dates in batch.dates_of.items() if dates[:1] == of.dates_of.get(name, [])[:1]}
                self._computation.compute(batch, starts_anew=starts)
            rows = self._store.rows({name: of.dates_of[name] for name in of.metrics})
            return {(name, day): row for name, day, row in rows}

        return self._in_transaction(work, "the comparison", keep=False)

    # --- again after a passing error ----------------------------------------------------------------------------------

    def with_retries(self, action: Callable[[], T], what: str) -> T:
        """Run `action`; after a passing error, run all of it again on a new connection."""
        first: DateError | DatabaseError | None = None
        for pause in [*_pauses(self._retries), None]:
            try:
                self._connect_if_lost()
                return action()
            except (DateError, DatabaseError) as error:
                first = first or error
                if error.code not in TRANSIENT or pause is None:
                    raise _with_first_cause(first, error) from error
                self._db.close()
                log.warning("%s; trying %s again in %.1f s", error, what, pause)
                self._db.interruption.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _connect_if_lost(self) -> None:
        if self._db.is_lost():
            self._db.connect()
            self._db.run_lock.take(self._wait)
            self._db.limit_statements()

    def _transaction(self, batch: Batch) -> BatchResult:
        """Run a batch; the first that commits also brings the states in line with the rows."""

        def work() -> BatchResult:
            if not self._is_reconciled:
                self._computation.reconcile()
            return self._computation.compute(batch)

        result = self._in_transaction(work, batch.label, keep=True, may_end=not self._only_selects(batch))
        self._is_reconciled = True
        return result

    def _only_selects(self, batch: Batch) -> bool:
        """Tell whether the files of a batch send SELECTs alone: not even a stored function in one can commit."""
        files = [file for name in batch.dates_of for file in self._catalog.files_of(name)]
        return all(statement.is_query for file in files for statement in file.statements)

    def _in_transaction(self, work: Callable[[], T], label: str, keep: bool, may_end: bool = True) -> T:
        """Run `work` in a transaction; an error becomes a DateError that says what may have been stored."""
        try:
            with self._db.transaction(keep, may_end):
                return work()
        except (DateError, StatementError) as error:
            self._computation.forget()
            left = self._db.may_be_stored
            if isinstance(error, DateError) and not left:
                raise
            failed = error if isinstance(error, DateError) else DateError(f"{label}: {error}", error.code)
            message = f"{failed}. Beware: {left}" if left else str(failed)
            raise DateError(message, failed.code, failed.name, failed.dates, bool(left)) from error

    def _keep_reason(self, batch: Batch, error: DateError) -> None:
        """Store why cells failed, in a transaction of its own; if that fails too, warn: the first failure matters more.

        If a statement ended the transaction, rows of the batch may be stored in part: none of them stays current.
        """
        if error.code in TRANSIENT or not (error.name or error.partly_stored):
            return
        # A work table has no cells: what depends on it has failed.
        dependents = self._catalog.dependents_of_work_table(error.name)
        names = [error.name] if error.name in self._catalog.cells else dependents.intersection(batch.names)
        cells = [(name, day, name in self._catalog.helper_names) for name in names for day in error.dates[-1:]]
        try:
            self._connect_if_lost()
            with self._db.transaction(may_end=False):
                if error.partly_stored:
                    self._store.reopen([(name, batch.dates[0], batch.dates[-1]) for name in batch.names])
                self._store.fail(cells, str(error), self._store.moment())
        except (DatabaseError, LockedError) as second:
            log.warning("could not keep the reason in bi_metric_state: %s", second)


def _with_first_cause(first: DateError | DatabaseError, last: DateError | DatabaseError) -> DateError | DatabaseError:
    """Return the last error, after the first one if they differ."""
    if str(first) == str(last):
        return last
    message = f"{first}. The last try: {last}"
    dates = [error for error in (last, first) if isinstance(error, DateError)]
    if not dates:
        return DatabaseError(last.code, message)
    named = next((error for error in dates if error.name), dates[0])
    return DateError(message, last.code, named.name, named.dates, any(error.partly_stored for error in dates))


def _pauses(retries: int) -> list[float]:
    """Return the pauses between tries in seconds: growing, and spread so that two runs do not meet again."""
    return [min(3.0 ** min(attempt, 3), LONGEST_PAUSE_SECONDS) * uniform(0.7, 1.3) for attempt in range(retries)]

