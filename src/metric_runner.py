"""Runs metrics: the files of a batch of dates in one transaction, batches one after the other, again after a fault."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import PurePosixPath
from random import uniform
from shlex import quote
from typing import TypeVar

from src.dates import ONE_DAY, span
from src.db_manager import DatabaseManager, Row
from src.errors import DatabaseError, DateError, LockedError, StatementError
from src.metric_file.file import Kind, MetricFile, Mode
from src.metric_file.header import HeaderLine
from src.metric_file.step import Parameters, Step
from src.metric_file.text import Statement
from src.running.finality import outdated
from src.running.select_rows import QueryError, as_sql, values_of
from src.server.codes import LOCK_GONE, TRANSIENT
from src.sql_loader import Catalog
from src.storage.changes import Change, StoredRow, compare, differences
from src.storage.store import BLANK, Cell, MetricStore, Record, State
from src.wording import count

log = logging.getLogger("bi_metrics")
sql_log = logging.getLogger("bi_metrics.sql")  # to the log file only: one line per date would flood cron's mail

# MySQL's warning for VALUES(column), the only form every server reads; the note of DROP TEMPORARY TABLE IF EXISTS.
HARMLESS_WARNINGS = (1287, 1051)
CUT_VALUES = frozenset({1260, 1264, 1265, 1292, 1366, 1406})  # warnings of a SELECT, errors of a strict INSERT
REFUSES_A_VALUE = frozenset({1048, 1644, 3819, 4025})
CHECKS_PER_QUERY = 100
LONGEST_PAUSE_SECONDS = 15.0
ROWS_SHOWN = 3  # of a check that failed
SQL_SHOWN = 80  # characters of it: a metric file may be a link to anything

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """What one transaction fills: one date, or in an initial load all dates of a chunk."""

    mode: Mode
    dates: tuple[date, ...]  # ascending, without gaps
    files: tuple[MetricFile, ...]  # in run order

    @property
    def label(self) -> str:
        return span(self.dates)

    @cached_property
    def names(self) -> list[str]:
        """The metrics whose rows the batch writes, in run order."""
        return list(dict.fromkeys(file.name for file in self.files if not file.is_helper))


@dataclass(frozen=True)
class StepResult:
    """What one execution of a file did."""

    step: Step
    milliseconds: int


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch. `error` is set where it failed and the run went on."""

    batch: Batch
    steps: tuple[StepResult, ...] = ()
    changes: tuple[Change, ...] = ()  # one per row written
    open_from: date | None = None  # the first date that had not ended when the transaction began
    unmarked: int = 0  # rows that were final and are not any more, because what they read has changed
    milliseconds: int = 0
    error: DateError | None = None


@dataclass(frozen=True)
class Verdict:
    """What a comparison of both ways found."""

    compared: int  # rows
    different: tuple[Change, ...]  # detail: at once -> date by date
    moved: tuple[Cell, ...]  # rows whose source changed meanwhile: nothing can be said of them


@dataclass(frozen=True)
class Options:
    """How to run. `retries` are further tries of a batch after a passing error; `wait` for the lock is in seconds."""

    retries: int = 3
    wait: float = 0
    keep_going: bool = False


class MetricRunner:
    """Executes batches of files of `catalog` on one connection."""

    def __init__(
        self, database: DatabaseManager, store: MetricStore, catalog: Catalog, parameters: Parameters, options: Options
    ) -> None:
        self.run_id = os.urandom(8).hex()
        self.on_step: Callable[[StepResult], object] = lambda result: None  # told before the COMMIT
        self._db = database
        self._store = store
        self._catalog = catalog
        self._parameters = parameters
        self._options = options
        self._last_filled: date | None = None
        self._unmarked: set[Cell] = set()  # rows that were final when this run began

    def open(self, prepare: Callable[[], object]) -> None:
        """Connect, take the lock and do `prepare`, tried as often as a batch. Raises DatabaseError, LockedError."""

        self.with_retries(prepare, "to connect")
        without_file = self.with_retries(self._store.names, "to connect") - self._catalog.names
        self._catalog = replace(self._catalog, without_file=without_file)

    def run(self, batches: Iterable[Batch]) -> Iterator[BatchResult]:
        """Run each batch in a transaction of its own and yield its result after its COMMIT has returned.

        A batch that fails has left nothing behind; its result holds the error. The first ends the run, but with
        keep_going only a lost connection does: the other dates would wait for it in vain.
        """
        for batch in batches:
            try:
                yield self.with_retries(lambda: self._transaction([batch], True)[0], batch.label)  # noqa: B023
            except (DateError, DatabaseError, LockedError) as error:
                failed = error if isinstance(error, DateError) else DateError(f"{batch.label}: {error}")
                self._record_failure(batch, failed)
                yield BatchResult(batch, error=failed)
                if not self._options.keep_going or self._db.is_lost():
                    return

    def dry_run(self, batches: Sequence[Batch]) -> list[BatchResult]:
        """Run all batches in one transaction, roll it back, and return what would have changed. Nothing stays."""
        return self.with_retries(lambda: self._transaction(batches, False), "the dry run")

    def verify(self, at_once: Batch, by_date: Sequence[MetricFile]) -> Verdict:
        """Compute all dates of `at_once`, then each date from the one before it by the files `by_date`, and compare.

        The first date is computed by initial files both times: what came late before it is no fault of a file. The
        transaction is rolled back.
        """

        def both_ways() -> Verdict:
            dates, names = at_once.dates, frozenset(at_once.names)
            with self._db.transaction(keep=False):
                first = self._rows_of(at_once)
                for day in dates:
                    batch = Batch(Mode.INCREMENTAL, (day,), tuple(by_date))
                    self._fill(batch, False, final_before=names if day > dates[0] else frozenset())
                second = {(name, day): row for name, day, row in self._store.rows(names, dates)}
                found = {place: text for place, row in first.items() if (text := differences(row, second[place]))}
                # A difference counts only where the first way still says the same: else the source has changed.
                files = tuple(file for file in at_once.files if not file.is_helper)
                again = self._rows_of(replace(at_once, files=files)) if found else first
                moved = [place for place in found if differences(first[place], again[place])]
                different = tuple(
                    Change(*place, "different", False, text) for place, text in found.items() if place not in moved
                )
                return Verdict(len(first), different, tuple(moved))

        return self.with_retries(both_ways, "the comparison")

    def _rows_of(self, batch: Batch) -> dict[Cell, StoredRow]:
        self._fill(batch, False)
        return {(name, day): row for name, day, row in self._store.rows(batch.names, batch.dates)}

    # --- again after a passing error ----------------------------------------------------------------------------------

    def with_retries(self, action: Callable[[], T], what: str) -> T:
        """Do all of `action` again after a passing error, each time on a new connection."""
        first: DateError | DatabaseError | None = None
        for pause in [*_pauses(self._options.retries), None]:
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
            self._db.run_lock.take(self._options.wait)
            self._db.limit_statements()

    # --- one transaction ----------------------------------------------------------------------------------------------

    def _transaction(self, batches: Sequence[Batch], keep: bool) -> list[BatchResult]:
        try:
            with self._db.transaction(keep):
                return [self._fill(batch, keep) for batch in batches]
        except (DateError, StatementError) as error:
            self._last_filled = None
            label = span((*batches[0].dates[:1], *batches[-1].dates[-1:]))
            said = str(error) if isinstance(error, DateError) else f"{label}: {error}"
            left = self._db.left_behind
            message = f"{said}. Beware: {left}" if left else said
            raise DateError(message, error.code, getattr(error, "path", ""), bool(left)) from error

    def _fill(self, batch: Batch, keep: bool, final_before: frozenset[str] | None = None) -> BatchResult:
        """Compute the rows of a batch in the open transaction, and verify each: nothing is taken on trust.

        The rows that are there are blanked first, so that one which was not computed shows; what the files then left
        is read back and compared with what was there.
        """
        clock = time.monotonic()
        before = self._store.state(batch.names, batch.dates)
        if not before.holds_lock:
            raise DateError(f"{batch.label}: the lock of this run is gone; was it a file or a proxy?", LOCK_GONE)
        if before.rows:
            self._blank(batch)
        if final_before is None:
            final_before = before.final_before - self._of_other_sql(batch, before.final_before)
        results: list[StepResult] = []
        for step in self.steps(batch, final_before):
            results.append(self._execute(step, before))
            self.on_step(results[-1])
        changes = self._verify(batch, before, results)
        self._ask_checks([result.step for result in results])
        unmarked = self._store.unmark(outdated(self._catalog, batch.names, batch.dates[-1], before.newest, changes))
        self._unmarked.update(unmarked)
        if keep:
            self._record(before, results, changes)
        self._last_filled = batch.dates[-1]
        open_from = next((day for day in batch.dates if not self._store.is_final(day, before.moment)), None)
        return BatchResult(batch, tuple(results), tuple(changes), open_from, len(unmarked), _milliseconds(clock))

    def steps(self, batch: Batch, final_before: frozenset[str]) -> Iterator[Step]:
        """Yield the executions of a batch: a set-based file once for all dates, any other once for each.

        For single dates, a metric with an initial file runs it where its row of the day before is missing or not final
        (`final_before` names those that are): there is nothing to build on.
        """
        for file in batch.files:
            initial = self._catalog.initial_files.get(file.name)
            if batch.mode is Mode.INCREMENTAL and initial and not file.is_helper and file.name not in final_before:
                log.info("%s %s: no final row on the day before, so %s runs", batch.label, file.name, initial.path)
                file = initial
            if file.is_set_based:
                yield Step(file, batch.dates, self._parameters)
            else:
                yield from (Step(file, (day,), self._parameters) for day in batch.dates)

    def _of_other_sql(self, batch: Batch, final_before: frozenset[str]) -> set[str]:
        """Return the metrics whose row of the day before another version of their SQL, or of their parameters, wrote.

        To build on such a row would carry the old definition on for ever.
        """
        day_before = batch.dates[0] - ONE_DAY
        names = [name for name in batch.names if name in final_before and name in self._catalog.reads[name]]
        if batch.mode is not Mode.INCREMENTAL or not names or day_before == self._last_filled:
            return set()
        wrote = self._store.fingerprints([(name, day_before) for name in names])
        other = {name for name in names if name in wrote and wrote[name] not in self._catalog.fingerprints(name)}
        if other:
            log.warning(
                "%s: the SQL or the parameters of %s have changed since %s, so the initial file runs; load the dates "
                "before again with: python run_metrics.py --initial START END%s", batch.label, ", ".join(sorted(other)),
                day_before, "".join(f" --metric {quote(name)}" for name in sorted(other)),
            )  # fmt: skip
        return other

    def _blank(self, batch: Batch) -> None:
        try:
            self._store.blank(batch.names, batch.dates)
        except StatementError as error:
            if error.code not in REFUSES_A_VALUE:
                raise
            raise DateError(
                f'{batch.label}: bi_metrics refuses "{BLANK}", which every run writes before it computes a row: '
                f"{error}; let the CHECK or the trigger allow a JSON string",
                error.code,
            ) from error

    # --- one file -----------------------------------------------------------------------------------------------------

    def _execute(self, step: Step, before: State) -> StepResult:
        clock = time.monotonic()
        log.info("%s %s: start", step.label, step.file.path)
        for sql in step.cleanup:
            self._db.execute(sql)
        affected = 0
        query = step.file.statements[-1] if step.file.kind is Kind.SELECT else None
        for statement, sql in zip(step.file.statements, step.statements, strict=True):
            try:
                if statement is query:
                    self._store_rows_of(step, sql)
                    continue
                wrote = self._db.execute(sql)
            except (StatementError, QueryError) as error:
                raise self._file_error(step, statement, error) from error
            if statement.writes_metrics:
                affected += wrote
            if self._db.warnings:
                _log_warnings(step, self._db.query("SHOW WARNINGS"))
        if step.file.kind is Kind.INSERT:
            self._refuse_other_rows(step, affected, before)
            self._store_empty(step)
        milliseconds = _milliseconds(clock)
        log.info("%s %s: %s ms", step.label, step.file.path, milliseconds)
        return StepResult(step, milliseconds)

    def _store_rows_of(self, step: Step, sql: str) -> None:
        """Store what a SELECT returns as the rows of its metric."""
        with self._db.select(sql) as (columns, rows):
            fields, values = values_of(step, columns, rows)
        if self._db.warnings:
            warnings = self._db.query("SHOW WARNINGS")
            _log_warnings(step, warnings)
            for _, code, text in warnings:
                if code in CUT_VALUES:
                    raise QueryError(f"({code}) {text}; an INSERT would refuse such a value, so this does too")
        expressions = {day: as_sql(value) for day, value in values.items()}
        self._store.write(step.file.name, step.file.data_type, as_sql(fields)[1][0], expressions)

    def _refuse_other_rows(self, step: Step, affected: int, before: State) -> None:
        """Raise DateError where an INSERT has written more rows than those of its metric and dates.

        An upsert counts 1 for a new row and 2 for one that was there: it was blank, so it changed.
        """
        there = sum((step.file.name, day) in before.rows for day in step.dates)
        if affected > len(step.dates) + there:
            raise DateError(
                f"{step.label}: {step.file.path}: wrote {affected - there} rows for {count(len(step.dates), 'date')}; "
                f"it may write only its own metric's row, one per date. {self._disable_hint(step.file)}",
                path=step.file.path,
            )

    def _store_empty(self, step: Step) -> None:
        """Store the value of `-- Empty:` for each date without a row."""
        file = step.file
        if file.empty_value is not None:
            rows = self._store.rows([file.name], step.dates)
            computed = {day for _, day, row in rows if row.value_list != f'"{BLANK}"'}
            values = {day: ("%s", [file.empty_value]) for day in step.dates if day not in computed}
            self._store.write(file.name, file.data_type or "card", "[]", values)

    def _file_error(self, step: Step, statement: Statement, error: StatementError | QueryError) -> DateError:
        code = error.code if isinstance(error, StatementError) else -1
        message = f"{step.label}: {step.place(statement, str(error))}: {error}"
        if code in TRANSIENT:
            return DateError(message, code, step.file.path)
        return DateError(f"{message}. {self._disable_hint(step.file)}", code, step.file.path)

    def _disable_hint(self, file: MetricFile) -> str:
        paths = [each.path for each in self._catalog.files_of(file.name)]
        names = " and ".join(f"_{name}" for name in dict.fromkeys(PurePosixPath(path).name for path in paths))
        return f"To run without this metric: rename {' and '.join(paths)} to {names}"

    # --- what must hold before COMMIT ---------------------------------------------------------------------------------

    def _verify(self, batch: Batch, before: State, results: Sequence[StepResult]) -> list[Change]:
        """Read every row back. Raises DateError for one that is absent or was not computed."""
        changes: dict[Cell, Change] = {}
        stamped = True
        for name, day, row in self._store.rows(batch.names, batch.dates):
            if BLANK not in row.value_list:
                old = before.rows.get((name, day))
                was_final = old is not None and self._store.is_final(day, old.updated)
                was_final |= (name, day) in self._unmarked
                if old is not None and BLANK in old.value_list:  # left by a statement that ended its transaction
                    old = None
                changes[name, day] = compare(name, day, old, row, was_final)
            stamped &= row.updated == before.stamp
        for name in batch.names:
            missing = [day for day in batch.dates if (name, day) not in changes]
            if missing:
                step = next(result.step for result in reversed(results) if result.step.file.name == name)
                self._refuse_missing(step, missing)
        if not stamped:
            self._store.set_updated(batch.names, batch.dates, before.stamp)
        for change in changes.values():
            if change.kind == "changed" and change.was_final:
                log.info("%s", change)
        return list(changes.values())

    def _refuse_missing(self, step: Step, missing: Sequence[date]) -> None:
        file = step.file
        if file.is_set_based and len(step.dates) > 1:
            what = f"no row for {len(missing)} of {len(step.dates)} dates, the first {missing[0]}; it must fill all"
        else:
            what = f"no row of '{file.name}' for {missing[0]}; check what it writes to metrics and metric_date"
        raise DateError(
            f"{span(missing[:1])}: {file.path}: wrote {what}, or add the header line `-- Empty: ok`. "
            f"{self._disable_hint(file)}",
            path=file.path,
        )

    def _ask_checks(self, steps: Sequence[Step]) -> None:
        """Ask every `-- Check:` for each date; a row that comes back raises DateError."""
        queries = [
            (step, check, step.check(check, day))
            for step in steps for day in step.dates for check in step.file.script.checks
        ]  # fmt: skip
        for start in range(0, len(queries), CHECKS_PER_QUERY):
            part = queries[start : start + CHECKS_PER_QUERY]
            if self._some_may_fail([sql for _, _, sql in part]):
                for query in part:
                    self._ask_check(*query)

    def _some_may_fail(self, queries: Sequence[str]) -> bool:
        """Ask many checks in one query; true where one returns a row, or where they do not run like this."""
        try:
            return any(self._db.query("SELECT " + ", ".join(f"EXISTS (\n{sql}\n)" for sql in queries))[0])
        except StatementError as error:
            if error.code in TRANSIENT:
                raise
            return True

    def _ask_check(self, step: Step, check: HeaderLine, sql: str) -> None:
        place = f"{step.label}: {step.file.path}:{check.line}"
        try:
            rows = self._db.query(sql)
        except StatementError as error:
            raise DateError(f"{place}: check: {error}", error.code, step.file.path) from error
        if rows:
            text = sql if len(sql) <= SQL_SHOWN else f"{sql[:SQL_SHOWN]}..."
            shown = "; ".join(", ".join(map(str, row)) for row in rows[:ROWS_SHOWN])
            message = f"{place}: check failed: {text} returned {count(len(rows), 'row')}: {shown}"
            raise DateError(f"{message}. {self._disable_hint(step.file)}", path=step.file.path)

    # --- what the batch means for other rows --------------------------------------------------------------------------

    def _record(self, before: State, results: Sequence[StepResult], changes: Sequence[Change]) -> None:
        said = {(c.metric, c.metric_date): c.detail for c in changes if c.was_final and c.detail}
        self._store.record([
            self._record_of(result.step.file, day, "ok", 1 - result.step.file.is_helper, result.milliseconds,
                            self._store.is_final(day, before.moment), said.get((result.step.file.name, day)))
            for result in results for day in result.step.dates
        ])  # fmt: skip

    def _record_failure(self, batch: Batch, error: DateError) -> None:
        """Note a failure in bi_metric_runs, apart from what was rolled back, and never in the way of the failure.

        Rows that a statement which ended the transaction has left behind must not look final.
        """
        file = next((file for file in self._catalog.files if file.path == error.path), None)
        if error.code in TRANSIENT or not (file or error.partly_stored):
            return
        day, said = batch.dates[-1], str(error)
        records = [self._record_of(file, day, "failed", 0, 0, False, error=said)] if file else []
        try:
            self._connect_if_lost()
            with self._db.transaction():
                if error.partly_stored:
                    self._store.unmark([(name, batch.dates[0], batch.dates[-1]) for name in batch.names])
                self._store.record(records)
        except (DatabaseError, LockedError) as second:
            log.warning("could not record the failure in bi_metric_runs: %s", second)

    def _record_of(
        self, file: MetricFile, day: date, status: str, rows: int, milliseconds: int, is_final: bool,
        changes: str | None = None, error: str | None = None,
    ) -> Record:  # fmt: skip
        mode = file.mode.value if file.mode else "both"
        return Record(
            self.run_id, file.name, day, mode, file.path, file.fingerprint, rows, milliseconds, status, is_final,
            changes, error,
        )  # fmt: skip


def _log_warnings(step: Step, rows: Iterable[Row]) -> None:
    for level, code, message in rows:
        if code not in HARMLESS_WARNINGS:
            sql_log.warning("%s %s: the server's %s %s: %s", step.label, step.file.path, level.lower(), code, message)


def _with_first_cause(first: DateError | DatabaseError, last: DateError | DatabaseError) -> DateError | DatabaseError:
    """Return the last error; where the first try ended otherwise, its cause comes first."""
    if str(first) == str(last):
        return last
    message = f"{first}. The last try: {last}"
    if isinstance(first, DateError) or isinstance(last, DateError):
        partly_stored = getattr(first, "partly_stored", False) or getattr(last, "partly_stored", False)
        return DateError(message, last.code, getattr(last, "path", "") or getattr(first, "path", ""), partly_stored)
    return DatabaseError(last.code, message)


def _pauses(retries: int) -> list[float]:
    """Return the pauses between tries in seconds: growing, and spread so that two runs do not meet again."""
    return [min(3.0 ** min(attempt, 3), LONGEST_PAUSE_SECONDS) * uniform(0.7, 1.3) for attempt in range(retries)]


def _milliseconds(clock: float) -> int:
    return round((time.monotonic() - clock) * 1000)
