"""Runs metrics: the files of a date in one transaction, the dates of a range one after the other."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, tzinfo
from typing import TypeVar

from src.changes import Change, compare
from src.dates import ONE_DAY, day_end
from src.db_manager import TRANSIENT, DatabaseManager, Result, Row
from src.errors import DatabaseError, DateError, StatementError
from src.packet import RELEASE, SHOW_WARNINGS, Packet, Step, disable_hint, span
from src.sql_loader import Catalog, Metric
from src.sql_text import Check, literal, literals
from src.store import MetricStore, Record, Snapshot, between

log = logging.getLogger("bi_metrics")
sql_log = logging.getLogger("bi_metrics.sql")  # to the log file only: a line a date would flood cron's mail

NO_SAVEPOINT = 1305
# MySQL's warning for VALUES(column), the only form every server reads; the note of DROP TEMPORARY TABLE IF EXISTS.
HARMLESS_WARNINGS = (1287, 1051)
CHECKS_A_QUERY = 100
LONGEST_PAUSE_SECONDS = 15.0
ROWS_SHOWN = 3  # of a check that failed

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """What one transaction fills: one date, or in mode "initial" all dates of a chunk at once."""

    mode: str  # "incremental" or "initial"
    dates: tuple[date, ...]  # ascending, without gaps

    @property
    def label(self) -> str:
        return span(self.dates)


@dataclass(frozen=True)
class MetricResult:
    """What one execution of a file did. `rows` counts what it wrote into bi_metrics, unchanged rows included."""

    step: Step
    rows: int
    milliseconds: int


@dataclass(frozen=True)
class DateResult:
    """What became of the dates of a work. `error` is set where they failed and the run went on."""

    work: Work
    metrics: tuple[MetricResult, ...] = ()
    changes: tuple[Change, ...] = ()  # of rows that were final before; in a rehearsal, of all rows
    open_from: date | None = None  # the first date that was not over when it began: its rows are provisional
    touched: bool = False  # a row was not there or provisional before, or changed
    milliseconds: int = 0
    error: DateError | None = None


@dataclass(frozen=True)
class Options:
    """How to run. `retries` counts further tries of a date after a passing error; `wait` for the lock is in seconds."""

    retries: int = 3
    wait: float = 0
    keep_going: bool = False


@dataclass
class _Begun:
    """A work's transaction from the inside: when it began, and what was stored then."""

    work: Work
    before: Snapshot
    final_before: frozenset[str]  # metrics with a final row on the day before
    open_from: date | None
    results: list[MetricResult] = field(default_factory=list)

    def is_final(self, day: date) -> bool:
        return self.open_from is None or day < self.open_from

    @property
    def written(self) -> list[str]:
        """The metrics that wrote rows, in run order."""
        return list(dict.fromkeys(result.step.metric.name for result in self.results if result.rows))


class MetricRunner:
    """Executes `files` of `catalog` on one connection; `parameters` are those of the settings."""

    def __init__(
        self,
        database: DatabaseManager,
        catalog: Catalog,
        files: Sequence[Metric],
        parameters: Mapping[str, str],
        zone: tzinfo | None,
        options: Options,
    ) -> None:
        self.run_id = os.urandom(8).hex()
        self.on_step: Callable[[MetricResult], object] = lambda result: None  # told before the COMMIT
        self._db = database
        self._store = MetricStore(database, zone)
        self._files = files
        self._names = [file.name for file in files]
        self._all_files = catalog.files
        self._twins = catalog.initial_twins()
        self._parameters = literals(parameters)
        self._zone = zone
        self._options = options
        self._without_warnings: set[str] = set()  # paths of files whose last execution had none
        self._final: tuple[date, frozenset[str]] | None = None  # what this run knows to be final, on which date

    def open(self, prepare: Callable[[], T]) -> T:
        """Connect, take the lock and do `prepare`, with the same tries as a date. Raises DatabaseError, LockedError."""
        return self._patiently(prepare, "to connect")

    def run(self, works: Iterable[Work]) -> Iterator[DateResult]:
        """Run each work in a transaction of its own and yield its result after its COMMIT has returned.

        A work that fails has left nothing behind. The first raises DateError; with keep_going it is yielded as the
        result's error, and the others run.
        """
        for work in works:
            try:
                yield self._run_one(work)
            except DateError as error:
                self._final = None
                self._record_failure(work, error)
                if not self._options.keep_going:
                    raise
                yield DateResult(work, error=error)
            except DatabaseError as error:  # no connection at all: the other dates would only wait for it in vain
                raise DateError(f"{work.label}: {error}", error.code) from error

    def rehearse(self, works: Sequence[Work]) -> list[DateResult]:
        """Run all works in one transaction, roll it back, and return what would have changed. Nothing stays."""
        return self._patiently(lambda: self._transaction(works, keep=False), "the rehearsal")

    # --- once more after a passing error ------------------------------------------------------------------------------

    def _run_one(self, work: Work) -> DateResult:
        return self._patiently(lambda: self._transaction([work], keep=True)[0], work.label)

    def _patiently(self, action: Callable[[], T], what: str) -> T:
        """Do all of `action` again after a passing error, on a new connection where the old one is lost."""
        first: DateError | DatabaseError | None = None
        for pause in [*_pauses(self._options.retries), None]:
            try:
                self._connect_if_lost()
                return action()
            except (DateError, DatabaseError) as error:
                first = first or error
                if error.code not in TRANSIENT or pause is None:
                    raise _after_tries(first, error) from error
                log.warning("%s; trying %s again in %.1f s", error, what, pause)
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _connect_if_lost(self) -> None:
        if self._db.is_lost():
            self._final = None
            self._db.connect()
            self._db.lock(self._options.wait)
            self._db.limit_statements()

    # --- one transaction ----------------------------------------------------------------------------------------------

    def _transaction(self, works: Sequence[Work], keep: bool) -> list[DateResult]:
        try:
            with self._db.transaction(keep):
                return [self._work(work, keep) for work in works]
        except DatabaseError as error:
            raise DateError(f"{span(works[0].dates[:1] + works[-1].dates[-1:])}: {error}", error.code) from error

    def _work(self, work: Work, keep: bool) -> DateResult:
        clock = time.monotonic()
        begun = self._begin(work)
        for step in self._plan(begun):
            begun.results.append(self._execute(step))
            self.on_step(begun.results[-1])
        self._refuse_gaps(begun)
        self._check(begun)
        if begun.written:
            self._store.stamp(begun.written, work.dates, begun.before.moment, begun.open_from)
        changes = self._changes(begun, everything=not keep)
        if keep:
            self._record(begun, changes)
        last = work.dates[-1]
        self._final = (last, frozenset(begun.written) if begun.is_final(last) else frozenset())
        touched = _touched(begun, changes)
        return DateResult(work, tuple(begun.results), changes, begun.open_from, touched, _milliseconds(clock))

    def _begin(self, work: Work) -> _Begun:
        """Note what is stored, and what is final on the day before: asked once a run, then remembered."""
        known = self._final[1] if self._final and self._final[0] == work.dates[0] - ONE_DAY else None
        ask = self._twins if known is None and work.mode == "incremental" else ()
        before = self._store.snapshot(self._names, work.dates, ask)
        still_open = [day for day in work.dates[-2:] if day_end(day, self._zone) > before.moment]
        return _Begun(
            work, before, known if known is not None else before.final_before, still_open[0] if still_open else None
        )

    def _plan(self, begun: _Begun) -> Iterator[Step]:
        work = begun.work
        for file in self._files:
            if work.mode == "incremental":
                yield Step(self._file_for(file, begun), work.dates)
            elif file.mode == "both":
                yield from (Step(file, (day,)) for day in work.dates)
            elif file.script.parameters & {"start_date", "dates"}:
                yield Step(file, work.dates)
            else:
                yield Step(file, work.dates[-1:])

    def _file_for(self, file: Metric, begun: _Begun) -> Metric:
        """Return the initial file in place of an incremental one that has nothing final to build on."""
        twin = self._twins.get(file.name)
        if twin is None or file.mode != "incremental" or file.name in begun.final_before:
            return file
        log.info("%s %s: no final row on the day before, so %s fills it", begun.work.label, file.name, twin.path)
        return twin

    # --- one file -----------------------------------------------------------------------------------------------------

    def _execute(self, step: Step) -> MetricResult:
        clock = time.monotonic()
        log.info("%s %s: start", step.label, step.metric.path)
        packet = Packet(step, self._parameters, ask_warnings=step.metric.path not in self._without_warnings)
        try:
            results = self._send(packet)
        except StatementError as error:
            raise self._file_error(packet, error) from error
        rows = 0
        for (sql, statement), result in zip(packet.guarded, results, strict=True):
            if sql == SHOW_WARNINGS:
                _log_warnings(step, result.rows)
            elif statement is not None and statement.writes_metrics:
                rows += result.written
        self._note_warnings(packet, sum(result.warnings for result in results))
        milliseconds = _milliseconds(clock)
        log.info("%s %s: %s rows, %s ms", step.label, step.metric.path, rows, milliseconds)
        return MetricResult(step, rows, milliseconds)

    def _note_warnings(self, packet: Packet, count: int) -> None:
        """Ask for warnings with a file's first date and while it has some: to ask each time costs a tenth of a date."""
        path = packet.step.metric.path
        if not count:
            self._without_warnings.add(path)
        elif not packet.ask_warnings:
            self._without_warnings.discard(path)
            sql_log.warning("%s %s: %s warnings of the server; a run of this date alone names them",
                            packet.step.label, path, count)  # fmt: skip

    def _send(self, packet: Packet) -> list[Result]:
        statements = [sql for sql, _ in packet.guarded]
        if all(statement.verb != "CALL" for statement in packet.step.metric.statements):
            return self._db.run(statements)
        # A procedure returns any number of results, so each statement goes alone: else its number would be wrong.
        results: list[Result] = []
        for sql in statements:
            try:
                results.append(self._db.run([sql], exactly=False)[-1])
            except StatementError as error:
                raise StatementError(len(results), error.code, str(error)) from error
        return results

    def _file_error(self, packet: Packet, error: StatementError) -> DateError:
        step = packet.step
        message = f"{step.label}: {packet.locate(error.index, str(error))}: {error}"
        if packet.guarded[error.index][0] == RELEASE and error.code == NO_SAVEPOINT:
            message = (
                f"{step.label}: {step.metric.path}: a statement of this file ended the transaction, so what ran before "
                "it may be stored already; remove the COMMIT, the DDL or the procedure that does it "
                "(list_metrics.py --check), then run the date again"
            )
        elif error.code not in TRANSIENT:
            if self._transaction_ended():
                message += ". A statement also ended the transaction: what ran before it may be stored already"
            message += f". {disable_hint(step.metric.path)}"
        return DateError(message, error.code, step.metric.path)

    def _transaction_ended(self) -> bool:
        """After an error: tell whether the savepoint is gone. A DDL that fails has committed all the same."""
        if self._db.is_lost():
            return False
        try:
            self._db.run([RELEASE])
        except DatabaseError as error:
            return error.code == NO_SAVEPOINT
        return False

    # --- what must hold before COMMIT ---------------------------------------------------------------------------------

    def _refuse_gaps(self, begun: _Begun) -> None:
        """Raise DateError for a metric that did not write a row for every date it was to fill."""
        for result in begun.results:
            metric = result.step.metric
            if metric.is_helper or result.rows >= len(result.step.dates) == 1:
                continue
            if metric.header.empty_ok:
                self._refuse_leftover(begun, result)
            elif not result.rows:
                raise DateError(
                    f"{result.step.label}: {metric.path}: wrote no row; if that may be, add the header line "
                    f"`-- Empty: ok`. {disable_hint(metric.path)}",
                    path=metric.path,
                )
            else:
                self._refuse_missing_dates(result.step)

    def _refuse_leftover(self, begun: _Begun, result: MetricResult) -> None:
        metric = result.step.metric
        old = [day for day in result.step.dates if (metric.name, day) in begun.before.rows]
        if old and not result.rows:
            raise DateError(
                f"{result.step.label}: {metric.path}: wrote no row, but an older run left one, which is now wrong; "
                f"remove it with: DELETE FROM bi_metrics WHERE metrics = {literal(metric.name)} AND {between(old)}",
                path=metric.path,
            )

    def _refuse_missing_dates(self, step: Step) -> None:
        missing = self._store.missing(step.metric.name, step.dates)
        if missing:
            raise DateError(
                f"{step.label}: {step.metric.path}: wrote no row for {len(missing)} of {len(step.dates)} dates, the "
                f"first {missing[0]}; it must fill all of %(dates)s, or have the header line `-- Empty: ok`",
                path=step.metric.path,
            )

    def _check(self, begun: _Begun) -> None:
        """Ask every `-- Check:` for each date; a row that comes back raises DateError."""
        queries = []
        for step in (result.step for result in begun.results):
            packet = Packet(step, self._parameters)
            queries += [(step, c, packet.check(c, day)) for day in step.dates for c in step.metric.header.checks]
        for start in range(0, len(queries), CHECKS_A_QUERY):
            part = queries[start : start + CHECKS_A_QUERY]
            if self._some_may_fail([sql for _, _, sql in part]):
                for query in part:
                    self._check_alone(*query)

    def _some_may_fail(self, queries: Sequence[str]) -> bool:
        """Ask many checks in one query; true where one returns a row, or where they do not run like this."""
        try:
            return any(self._db.query("SELECT " + ", ".join(f"EXISTS (\n{sql}\n)" for sql in queries))[0])
        except StatementError as error:
            if error.code in TRANSIENT:
                raise
            return True

    def _check_alone(self, step: Step, check: Check, sql: str) -> None:
        place = f"{step.label}: {step.metric.path}:{check.line}"
        try:
            rows = self._db.query(sql)
        except StatementError as error:
            raise DateError(f"{place}: check: {error}", error.code, step.metric.path) from error
        if rows:
            message = f"{place}: check failed: {sql} returned {_shown(rows)}. {disable_hint(step.metric.path)}"
            raise DateError(message, path=step.metric.path)

    # --- what is said of the rows -------------------------------------------------------------------------------------

    def _changes(self, begun: _Begun, everything: bool) -> tuple[Change, ...]:
        """Compare the rows with those stored before; a real run compares only what was final."""
        if not everything and not any(row.is_final for row in begun.before.rows.values()):
            return ()
        changes = []
        for name, day, new in self._store.rows(self._names, begun.work.dates):
            old = begun.before.rows.get((name, day))
            if everything or (old is not None and old.is_final):
                changes.append(compare(name, day, old, new))
        for change in changes:
            if change.kind == "changed":
                log.info("%s", change)
        return tuple(changes)

    def _record(self, begun: _Begun, changes: Sequence[Change]) -> None:
        said = {(change.metric, change.metric_date): change.detail for change in changes if change.detail}
        self._store.record(
            self._record_of(result.step.metric, day, "ok", result.rows if len(result.step.dates) == 1 else 1,
                            result.milliseconds, begun.is_final(day), said.get((result.step.metric.name, day)))
            for result in begun.results for day in result.step.dates
        )  # fmt: skip

    def _record_failure(self, work: Work, error: DateError) -> None:
        """Note a failure in bi_metric_runs, apart from what was rolled back, and never in the way of the failure."""
        metric = next((file for file in self._all_files if file.path == error.path), None)
        if metric is None or self._db.is_lost():
            return
        record = self._record_of(metric, work.dates[-1], "failed", 0, 0, False, error=str(error))
        try:
            with self._db.transaction():
                self._store.record([record])
        except DatabaseError as second:
            log.warning("could not note the failure in bi_metric_runs: %s", second)

    def _record_of(
        self, metric: Metric, day: date, status: str, rows: int, milliseconds: int, is_final: bool,
        changes: str | None = None, error: str | None = None,
    ) -> Record:  # fmt: skip
        return Record(
            self.run_id, metric.name, day, metric.mode, metric.path, metric.script.fingerprint, rows, milliseconds,
            status, is_final, changes, error,
        )  # fmt: skip


def _touched(begun: _Begun, changes: Sequence[Change]) -> bool:
    """Tell whether rows that build on these dates may now be out of date."""
    expected = sum(len(result.step.dates) for result in begun.results if not result.step.metric.is_helper)
    were_final = sum(row.is_final for row in begun.before.rows.values())
    return were_final < expected or any(change.kind == "changed" for change in changes)


def _log_warnings(step: Step, rows: Iterable[Row]) -> None:
    for level, code, message in rows:
        if code not in HARMLESS_WARNINGS:
            sql_log.warning("%s %s: the server's %s %s: %s", step.label, step.metric.path, level.lower(), code, message)


def _after_tries(first: DateError | DatabaseError, last: DateError | DatabaseError) -> DateError | DatabaseError:
    """Return the first cause; where later tries ended otherwise, the last one is added."""
    if str(first) == str(last):
        return first
    message = f"{first}. The last try: {last}"
    if isinstance(first, DateError):
        return DateError(message, first.code, first.path)
    return DatabaseError(first.code, message)


def _pauses(retries: int) -> list[float]:
    """Return the pauses between tries in seconds: growing, and spread so that two runs do not meet again."""
    from random import uniform as spread

    return [min(3.0**attempt, LONGEST_PAUSE_SECONDS) * spread(0.7, 1.3) for attempt in range(retries)]


def _shown(rows: Sequence[Row]) -> str:
    shown = "; ".join(", ".join(str(value) for value in row) for row in rows[:ROWS_SHOWN])
    return f"{len(rows)} row{'s' if len(rows) != 1 else ''}: {shown}"


def _milliseconds(clock: float) -> int:
    return round((time.monotonic() - clock) * 1000)
