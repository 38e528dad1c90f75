"""One batch in the open transaction: run its files, look at every row, store what follows for other cells."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import date
from itertools import groupby
from pathlib import PurePosixPath

from src.dates import ONE_DAY, span
from src.db_manager import DatabaseManager
from src.errors import DateError, StatementError
from src.metric_file.file import Kind, MetricFile, Mode
from src.metric_file.header import HeaderLine
from src.metric_file.parameters import Parameters
from src.metric_file.step import Step
from src.metric_file.text import Statement
from src.metric_file.usual import dates_before, numbers_of, unusual
from src.running.finality import Written, reopened
from src.running.plan import Batch
from src.running.readers import DATES_AHEAD, Readers
from src.running.select_rows import Selected, run_select
from src.running.server_warnings import QueryError, refuse_warnings
from src.server.codes import LOCK_GONE, REFUSES_A_VALUE, TRANSIENT
from src.sql_loader import Catalog
from src.storage.changes import Change, StoredRow, compare, is_readable
from src.storage.store import BLANK, BLANK_ROW, Before, Cell, Computed, MetricStore, NewRow, Remark, Replaced
from src.wording import count, printable

log = logging.getLogger("bi_metrics")

CHECKS_PER_QUERY = 100
MOST_BYTES_UNSENT = 1_000_000  # of rows of SELECT metrics
ROWS_SHOWN = 3  # of a check or a warning that found some
SQL_SHOWN = 80  # characters of it: a metric file may be a link to anything


@dataclass(frozen=True)
class StepResult:
    """What one execution of a file did."""

    step: Step
    milliseconds: int
    rows_of_metrics: int  # that the server counts as written, of an INSERT metric
    has_written: bool  # a table other than bi_metrics, by the server's count of rows


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch. `error` is set if it failed as a whole and the run went on."""

    batch: Batch
    steps: tuple[StepResult, ...] = ()
    changes: tuple[Change, ...] = ()  # one per row written
    open_from: date | None = None  # the first date that had not ended when the transaction began
    reopened: int = 0  # cells of other dates or metrics that were current, and must be computed again
    warnings: tuple[Remark, ...] = ()  # of dates that are stored all the same
    accepted: tuple[Remark, ...] = ()  # what checks found that may fail
    redefined: frozenset[str] = frozenset()  # names whose first cell of a new definition this is
    milliseconds: int = 0
    left_out: tuple[DateError, ...] = ()  # why names, and what depends on them, were left out
    not_run: frozenset[str] = frozenset()  # names that failed or were left out
    error: DateError | None = None


class Computation:
    """Computes batches of `catalog` in transactions that its caller opens and ends. `today` decides what is due."""

    def __init__(
        self, database: DatabaseManager, store: MetricStore, catalog: Catalog, parameters: Parameters, today: date,
        run_id: str, readers: Readers,
    ) -> None:  # fmt: skip
        self._db = database
        self._store = store
        self._catalog = catalog
        self._parameters = parameters
        self._today = today
        self._run_id = run_id
        self._readers = readers
        self._expected: Sequence[Batch] = ()
        self._places: dict[tuple[date, ...], int] = {}  # of the batches in `_expected`, by their dates
        self._unsent: list[tuple[Step, NewRow]] = []  # rows of SELECT metrics, which go in one statement
        self._unsent_names: set[str] = set()  # of their metrics
        self._unsent_size = 0  # about how many bytes
        self._changes: dict[Cell, Change] = {}
        self._replaced: list[Replaced] = []
        self._warnings: dict[Cell, list[str]] = {}
        self._accepted: dict[Cell, list[str]] = {}
        self._blank_text = f"{BLANK} {os.urandom(8).hex()}"

    def compute(self, batch: Batch, starts_anew: Collection[str] = ()) -> BatchResult:
        """Compute the cells of a batch, and read back each row.

        The names of `starts_anew` build on no row of the period before. Raises DateError, which names the file at
        fault, and StatementError.
        """
        clock = time.monotonic()
        metrics, helpers = ({name: batch.dates_of[name] for name in names} for names in (batch.metrics, batch.helpers))
        before = self._store.before(metrics, helpers, self._bases(batch))
        if not before.holds_lock:
            raise DateError(f"{batch.label}: this run lost its lock: a file released it, or a proxy switched sessions",
                            LOCK_GONE)  # fmt: skip
        if starts_anew:
            bases = {cell for cell in self._bases(batch).items() if cell[0] in starts_anew}
            before = replace(before, states={cell: known for cell, known in before.states.items() if cell not in bases})
        self._unsent, self._unsent_names, self._unsent_size = [], set(), 0
        self._changes, self._replaced, self._warnings, self._accepted = {}, [], {}, {}
        steps = list(self.steps(batch, before))
        self._readers.ask(steps, self._steps_ahead(batch, before), before.moment)
        self._blank(batch, before)
        results = [self._execute(step, before) for step in steps]
        self._send_rows()
        changes = self._read_back(batch, before, results)
        checks_run_code = any(self._catalog.checks_run_code(file) for file in batch.files)
        with self._db.keeping_settings() if checks_run_code else nullcontext():
            self._ask_checks([result.step for result in results], batch, before)
        self._look_for_unusual([result.step for result in results], before)
        computed = self._computed(results)
        redefined = self._redefined(batch, before, computed)
        self._store.write_states(computed, before.moment, self._run_id)
        newest = max(before.newest, batch.dates[-1])
        ranges = [each for each in self._reopened(batch, before, results, changes) if each[1] <= newest]
        number_reopened = self._store.reopen(ranges)
        self._settle()
        open_from = min((c.day for c in computed if not self._store.has_ended(c.day, before.moment)), default=None)
        return BatchResult(
            batch, tuple(results), tuple(changes), open_from, number_reopened, tuple(_remarks(self._warnings)),
            tuple(_remarks(self._accepted)), redefined, round((time.monotonic() - clock) * 1000),
        )  # fmt: skip

    def expect(self, batches: Sequence[Batch]) -> None:
        """Let readers compute files of these batches, which run in this order, while earlier ones run."""
        self._expected = batches
        self._places = {batch.dates: place for place, batch in enumerate(batches)}

    def reconcile(self) -> None:
        """Bring the states in line with the rows, whatever was done by hand since the last run."""
        self._store.reconcile(self._catalog.nightly, self._today)
        self._settle()

    def note_gaps(self) -> None:
        """Mark the dates between a new first row and the rows after it as missing; what may have read them waits."""
        self._store.add_missing(self._catalog.nightly, self._today)
        self._settle()

    def _settle(self) -> None:
        self._store.settle(self._catalog.inputs, self._catalog.nightly, self._today)

    # --- which files run, for which dates -----------------------------------------------------------------------------

    def steps(self, batch: Batch, before: Before) -> Iterator[Step]:
        """Yield the executions of a batch: a set-based file once for all dates, any other once for each.

        A helper that is only needed is left out on dates on which its cell is current. A work table has no dates, so it
        and the files that read it run date by date: the work table is filled for a date, then each of them runs.
        """
        work_files = {file.name: file for file in batch.files if file.is_work_table}
        filled: dict[str, date] = {}  # work table -> the date that it holds

        def work_tables_of(file: MetricFile) -> tuple[str, ...]:
            names = self._catalog.work_tables_of(file.name)
            return tuple(name for name in work_files if name in names)

        files = [file for file in batch.files if not self._is_run_for_its_readers(file)]
        for tables, group in groupby(files, key=work_tables_of):
            if not tables:
                for file in group:
                    yield from self._steps_of(file, batch, before, batch.dates_of[file.name])
                continue
            readers = list(group)
            for day in sorted({day for file in readers for day in batch.dates_of[file.name]}):
                for name in tables:
                    if filled.get(name) != day:
                        yield Step(work_files[name], (day,), self._parameters)
                        filled[name] = day
                for file in readers:
                    if day in batch.dates_of[file.name]:
                        yield from self._steps_of(file, batch, before, [day])

    def _is_run_for_its_readers(self, file: MetricFile) -> bool:
        """Tell whether a file is a work table that some file reads."""
        return file.is_work_table and bool(self._catalog.readers_of_work_table(file.name))

    def _steps_of(self, file: MetricFile, batch: Batch, before: Before, dates: Sequence[date]) -> Iterator[Step]:
        if file.name in batch.if_needed:
            dates = [day for day in dates if not before.is_current(file.name, day)]
        initial = self._catalog.initial_files.get(file.name)
        if batch.mode is Mode.INCREMENTAL and initial and dates and not self._may_build_on(file, dates[0], before):
            log.info("%s %s: no row to build on before it, so %s runs", span(dates), file.name, initial.path)
            file = initial
        yield from self._executions(file, dates)

    def _executions(self, file: MetricFile, dates: Sequence[date]) -> Iterator[Step]:
        if not file.is_set_based:
            yield from (Step(file, (day,), self._parameters) for day in dates)
            return
        for run in file.period.runs(dates):
            yield Step(file, tuple(run), self._parameters)

    def _steps_ahead(self, batch: Batch, before: Before) -> Iterator[Step]:
        """Yield executions of the next dates that have ended, even if an initial file may take the place of one."""
        days = 0
        for place in range(self._places.get(batch.dates, len(self._expected)) + 1, len(self._expected)):
            each = self._expected[place]
            if not self._store.has_ended(each.dates[-1], before.moment):
                continue
            days += len(each.dates)
            if days > DATES_AHEAD:
                return
            for file in reversed(each.files):
                if self._readers.may_run(file):
                    yield from self._executions(file, each.dates_of[file.name])

    def _bases(self, batch: Batch) -> dict[str, date]:
        """Return the cells on which incremental files would build: those of the periods before."""
        names = self._catalog.initial_files.keys() if batch.mode is Mode.INCREMENTAL else ()
        return {name: self._catalog.period(name).row_before(dates[0])
                for name, dates in batch.dates_of.items() if name in names and dates}  # fmt: skip

    def _may_build_on(self, file: MetricFile, day: date, before: Before) -> bool:
        """Tell whether the cell of the period before is current and of the present definition."""
        base = file.period.row_before(day)
        return before.is_current(file.name, base) and not self._is_redefined(file.name, base, before)

    def _is_redefined(self, name: str, day: date, before: Before) -> bool:
        return before.state(name, day).definition not in (None, self._catalog.definition(name))

    # --- one file -----------------------------------------------------------------------------------------------------

    def _blank(self, batch: Batch, before: Before) -> None:
        """Overwrite the rows of INSERT metrics: one that is still blank when its file has run was not computed.

        If their SQL has changed, f_list must be renewed as well. Else an upsert of value_list alone is enough.
        """
        names = {file.name for file in batch.files if file.kind is Kind.INSERT}.intersection(n for n, _ in before.rows)
        changed = {name for name, day in before.rows if name in names and self._is_redefined(name, day, before)}
        try:
            for some, with_fields in ((names - changed, False), (changed, True)):
                if some:
                    rows = {name: batch.dates_of[name] for name in sorted(some)}
                    self._store.blank(rows, self._blank_text, with_fields)
        except StatementError as error:
            if error.code not in REFUSES_A_VALUE:
                raise
            raise DateError(
                f'{batch.label}: bi_metrics refuses "{BLANK} ...", which every run writes before it computes a row: '
                f"{error}; let the CHECK or the trigger allow a JSON string",
                error.code,
            ) from error

    def _execute(self, step: Step, before: Before) -> StepResult:
        clock = time.monotonic()
        log.info("%s %s: start", step.label, step.file.path)
        if self._may_read_unsent(step.file):
            self._send_rows()
        with self._leaving_nothing(step):
            rows_of_metrics, rows_of_others, milliseconds = self._execute_statements(step, before)
        by_whom = " by a reader" if milliseconds else ""
        milliseconds = milliseconds or round((time.monotonic() - clock) * 1000)
        log.info("%s %s: %s ms%s", step.label, step.file.path, milliseconds, by_whom)
        has_written = rows_of_others > 0 or self._catalog.functions_write(step.file)
        return StepResult(step, milliseconds, rows_of_metrics, has_written)

    @contextmanager
    def _leaving_nothing(self, step: Step) -> Iterator[None]:
        """Let a step leave nothing for the next one, also if it fails: tables, variables, settings of the session."""
        cleanup = step.cleanup(self._catalog.behind(step.file))
        with self._db.keeping_settings() if self._catalog.runs_code(step.file) else nullcontext():
            for sql in cleanup:
                self._db.execute(sql)
            try:
                yield
            except DateError:
                self._clean_up_after_failure(cleanup)
                raise
            for sql in cleanup:
                self._db.execute(sql)

    def _clean_up_after_failure(self, cleanup: Sequence[str]) -> None:
        """Never raises: a connection that cannot be cleaned up is closed."""
        try:
            for sql in cleanup if not self._db.is_lost() else ():
                self._db.execute(sql)
        except StatementError as error:
            log.debug("what a file left could not be removed: %s", error)
            self._db.close()

    def _execute_statements(self, step: Step, before: Before) -> tuple[int, int, int]:
        """Return the rows that were written, of bi_metrics and of other tables, and a reader's milliseconds, or 0."""
        milliseconds = 0
        rows_of_metrics = rows_of_others = 0
        query = step.file.statements[-1] if step.file.kind is Kind.SELECT else None
        lasting = {statement.number for statement in step.file.lasting_writes()}
        for statement, sql in zip(step.file.statements, step.statements, strict=True):
            try:
                if statement is query:
                    ahead = self._readers.take(step)
                    self._keep_rows(step, before, ahead.selected if ahead else run_select(self._db, step, sql))
                    milliseconds = ahead.milliseconds if ahead else 0
                    continue
                wrote = self._db.execute(sql)
                refuse_warnings(self._db, step)
            except (StatementError, QueryError) as error:
                raise self._file_error(step, statement, error) from error
            if statement.writes_metrics:
                rows_of_metrics += wrote
            elif statement.number in lasting:
                rows_of_others += wrote
        if step.file.kind is Kind.INSERT and step.file.empty_value is not None:
            self._fill_empty(step, rows_of_metrics, before)
            rows_of_metrics = 0
        return rows_of_metrics, rows_of_others, milliseconds

    def _keep_rows(self, step: Step, before: Before, selected: Selected) -> None:
        """Queue the rows of a SELECT, to be sent with others; compare those that the server stores unchanged."""
        name, data_type = step.file.name, step.file.data_type
        for day, value in selected.values.items():
            row = NewRow(name, day, data_type, selected.f_list, value.expression, value.args)
            self._unsent.append((step, row))
            if value.is_exact:
                self._compare(name, day, StoredRow(data_type, selected.f_list, value.text), before)
        self._unsent_names.add(name)
        self._unsent_size += selected.size
        if self._unsent_size > MOST_BYTES_UNSENT:
            self._send_rows()

    def _may_read_unsent(self, file: MetricFile) -> bool:
        """Tell whether a file may read rows that have not been sent yet; a helper's table may have triggers that do."""
        if not self._unsent or file.is_helper:
            return bool(self._unsent)
        return not self._catalog.reads_by_path[file.path].isdisjoint(self._unsent_names)

    def _send_rows(self) -> None:
        """Write the rows that have not been sent yet; if the server refuses them together, each by itself.

        One by one, an error belongs to one file, and a statement that was too large succeeds in parts.
        """
        unsent, self._unsent, self._unsent_names, self._unsent_size = self._unsent, [], set(), 0
        try:
            self._store.write(row for _, row in unsent)
        except StatementError as refused:
            if refused.code in TRANSIENT:
                raise
            for step, row in unsent:
                try:
                    self._store.write([row])
                except StatementError as error:
                    raise self._file_error(step, step.file.statements[-1], error) from error

    def _fill_empty(self, step: Step, rows_of_metrics: int, before: Before) -> None:
        """Store the value of `-- Empty:` for each date on which an INSERT metric has no row."""
        file = step.file
        computed = self._store.computed_dates(file.name, step.dates, self._blank_text)
        self._refuse_other_rows(step, rows_of_metrics, computed, before)
        data_type, empty = file.data_type or "card", [file.empty_value]
        self._store.write(NewRow(file.name, day, data_type, "[]", "%s", empty)
                          for day in step.dates if day not in computed)  # fmt: skip

    def _refuse_other_rows(self, step: Step, rows_of_metrics: int, computed: Collection[date], before: Before) -> None:
        """Refuse rows of other metrics or dates than those that a step has computed.

        An upsert counts 1 for a new row and 2 for one that was there: it was blank, so it changed.
        """
        name = step.file.name
        more = rows_of_metrics - sum(1 + ((name, day) in before.rows) for day in computed)
        if more > 0:
            wrote = f"wrote {more} more rows than those of '{name}' for {step.label}"
            raise self._refusal(step.file, step.dates, f"{wrote}; it may write only its own metric's row, one per date")

    # --- what must hold before COMMIT ---------------------------------------------------------------------------------

    def _read_back(self, batch: Batch, before: Before, results: Sequence[StepResult]) -> list[Change]:
        """Read every row that is not compared yet, and keep final values that were replaced.

        Raises DateError for a row that was not computed.
        """
        files = {result.step.file.name: result.step.file for result in results}
        unknown = {name: [day for day in batch.dates_of[name] if (name, day) not in self._changes]
                   for name in batch.metrics}  # fmt: skip
        for name, day, row in self._store.rows(unknown) if any(unknown.values()) else ():
            if self._blank_text in row.value_list or (name, day) in self._changes:
                continue
            file = files[name]
            if self._blank_text in row.f_list:
                raise self._refusal(file, [day], "its SQL has changed, and it does not renew f_list; "
                                    "add f_list = VALUES(f_list) to ON DUPLICATE KEY UPDATE")  # fmt: skip
            if file.data_type and row.data_type != file.data_type:
                raise self._refusal(file, [day], f"wrote data_type {row.data_type}, and its header says "
                                    f"{file.data_type}; add data_type = VALUES(data_type) to ON DUPLICATE KEY UPDATE, "
                                    "or correct one of them")  # fmt: skip
            change = self._compare(name, day, row, before)
            if change.kind != "unchanged" and not (is_readable(row.value_list) and is_readable(row.f_list)):
                raise self._refusal(file, [day], "wrote JSON that not every reader takes, such as a backslash before x "
                                    "or a number that ends with a point; build it with JSON_OBJECT()")  # fmt: skip
        for result in results:
            computed = [day for day in result.step.dates if (result.step.file.name, day) in self._changes]
            self._refuse_other_rows(result.step, result.rows_of_metrics, computed, before)
        for name in batch.metrics:
            missing = [day for day in batch.dates_of[name] if (name, day) not in self._changes]
            if missing:
                raise self._refuse_missing(files[name], batch.dates_of[name], missing)
        self._store.keep_replaced(self._replaced, before.moment, self._run_id)
        return sorted(self._changes.values(), key=lambda change: (change.metric_date, change.metric))

    def _compare(self, name: str, day: date, row: StoredRow, before: Before) -> Change:
        """Compare a row with the one before; note the change, and the old value if it was final."""
        old = before.rows.get((name, day))
        if old is not None and BLANK_ROW.fullmatch(old.value_list):  # left by a file that ended its transaction
            old = None
        was_final = before.state(name, day).state in ("final", "reopened")
        change = self._changes[name, day] = compare(name, day, old, row, was_final)
        if old and change.kind == "changed" and was_final:
            self._replaced.append(Replaced(name, day, old.value_list, row.value_list))
            log.info("%s", change)
        return change

    def _refuse_missing(self, file: MetricFile, dates: Sequence[date], missing: Sequence[date]) -> DateError:
        if file.is_set_based and len(dates) > 1:
            what = f"no row for {len(missing)} of {len(dates)} dates, the first {missing[0]}; it must fill all"
        else:
            what = f"no row of '{file.name}' for {missing[0]}; check what it writes to metrics and metric_date"
        return self._refusal(file, missing[:1], f"wrote {what}, or add the header line `-- Empty: ok`")

    def _ask_checks(self, steps: Sequence[Step], batch: Batch, before: Before) -> None:
        """Ask every `-- Check:` and `-- Warn:` for each date, and note what they find.

        Raises DateError for a row that a check returns, unless the cell is accepted as it is.
        """
        queries = [
            (step, check, day, step.check(check, day))
            for step in steps for day in step.dates for check in step.file.script.checks
            if not check.is_for_ended or self._store.has_ended(day, before.moment, step.file.final_after)
        ]  # fmt: skip
        for start in range(0, len(queries), CHECKS_PER_QUERY):
            part = queries[start : start + CHECKS_PER_QUERY]
            for query, may_fail in zip(part, self._that_may_fail([sql for *_, sql in part]), strict=True):
                if may_fail:
                    self._ask_check(batch, before, *query)

    def _that_may_fail(self, queries: Sequence[str]) -> Sequence[bool]:
        """Ask many checks in one query; true for each that returns a row.

        True for all if the server warns of one, or if they do not run like this.
        """
        try:
            found = self._db.query("SELECT " + ", ".join(f"EXISTS (\n{sql}\n)" for sql in queries))[0]
            return [bool(each) or self._db.warnings > 0 for each in found]
        except StatementError as error:
            if error.code in TRANSIENT:
                raise
            return [True] * len(queries)

    def _ask_check(
        self, batch: Batch, before: Before, step: Step, check: HeaderLine, day: date, sql: str
    ) -> None:  # fmt: skip
        file, place = step.file, f"{step.file.path}:{check.line}"
        label = f"{step.label}: {place}"
        try:
            rows = self._db.query(sql)
        except StatementError as error:
            raise DateError(f"{label}: {check.key}: {error}", error.code, file.name, step.dates) from error
        if not rows:
            try:  # a comparison with a value that was cut, or became NULL, finds nothing
                refuse_warnings(self._db, step)
            except QueryError as error:
                raise DateError(f"{label}: {check.key}: {error}", -1, file.name, step.dates) from error
            return
        text = sql if len(sql) <= SQL_SHOWN else f"{sql[:SQL_SHOWN]}..."
        shown = "; ".join(", ".join(map(str, row)) for row in rows[:ROWS_SHOWN])
        found = f"{text} returned {count(len(rows), 'row')}: {shown}"
        names = self._names_with_cells(file, batch)
        if not check.is_warning and not all(self._may_fail(name, day, batch, before) for name in names):
            cures = f"{self._accept_hint(names, day, batch)}{self._disable_hint(file)}"
            raise DateError(f"{label}: check failed: {found}. {cures}", -1, file.name, step.dates)
        notes = self._warnings if check.is_warning else self._accepted
        for name in names:
            notes.setdefault((name, day), []).append(printable(f"{place}: {found}"))

    def _may_fail(self, name: str, day: date, batch: Batch, before: Before) -> bool:
        """Tell whether the checks of a cell may fail: this run accepts it, or one of the same definition has."""
        known = before.state(name, day)
        return name in batch.accepts or (known.is_accepted and known.definition == self._catalog.definition(name))

    def _names_with_cells(self, file: MetricFile, batch: Batch) -> list[str]:
        """Return the name of a file; if it is a work table, which has no cells, the names that read it."""
        readers = self._catalog.readers_of_work_table(file.name)
        return [name for name in batch.names if name in readers] or [file.name]

    def _look_for_unusual(self, steps: Sequence[Step], before: Before) -> None:
        """Note each number that is far from those before it, as far as `-- Usual:` lines ask for it."""
        files = {(step.file.name, day): step.file for step in steps if step.file.usual for day in step.dates
                 if self._store.has_ended(day, before.moment, step.file.final_after)}  # fmt: skip
        needed: dict[str, set[date]] = {}
        for (name, day), file in files.items():
            needed.setdefault(name, set()).update([day, *dates_before(day, file.period)])
        numbers = {cell: numbers_of(value) for cell, value in self._store.values(needed)} if needed else {}
        for (name, day), file in files.items():
            if (own := numbers.get((name, day))) is not None:
                days = dates_before(day, file.period)
                others = [found for each in days if (found := numbers.get((name, each)))]
                texts = unusual(file.usual, own, others, file.period, day, in_all=file.data_type == "timeseries")
                self._warnings.setdefault((name, day), []).extend(map(printable, texts))

    # --- what follows for this cell and for others --------------------------------------------------------------------

    def _computed(self, results: Sequence[StepResult]) -> list[Computed]:
        return [
            Computed(file.name, day, file.is_helper, self._catalog.definition(file.name), result.milliseconds,
                     file.path, file.final_after, _lines(self._warnings, file.name, day),
                     _lines(self._accepted, file.name, day))
            for result in results if not (file := result.step.file).is_work_table for day in result.step.dates
        ]  # fmt: skip

    def _redefined(self, batch: Batch, before: Before, computed: Sequence[Computed]) -> frozenset[str]:
        """Return the names that had cells of other definitions only."""
        present = {cell.name: cell.definition for cell in computed}
        others = {name for (name, _), known in before.states.items()
                  if known.definition and known.definition != present.get(name, known.definition)}  # fmt: skip
        if not others:
            return frozenset()
        stored = self._store.definitions(others)
        return frozenset(name for name in others if present[name] not in stored[name])

    def _reopened(
        self, batch: Batch, before: Before, results: Sequence[StepResult], changes: Sequence[Change]
    ) -> list[tuple[str, date, date]]:
        """Return the cells that were computed from what this transaction has changed."""
        changed: dict[str, list[date]] = {}
        computed: dict[str, int] = {}  # how many dates of each name
        for change in changes:
            if change.kind != "unchanged":
                changed.setdefault(change.metric, []).append(change.metric_date)
        for result in results:
            name, dates = result.step.file.name, result.step.dates
            if result.step.file.is_work_table:
                continue
            computed[name] = computed.get(name, 0) + len(dates)
            if result.has_written:
                changed.setdefault(name, []).extend(dates)
            elif result.step.file.is_helper:
                new = [day for day in dates if before.state(name, day).state == "missing"]
                changed.setdefault(name, []).extend(new)
        partly = frozenset(name for name, dates in computed.items() if dates < len(batch.dates_of[name]))
        changed = {name: days for name, days in changed.items() if days}
        catalog = self._catalog
        found = []
        if computed:
            written = Written(batch.dates_of, list(computed), partly, changed)
            found = reopened(written, catalog.dependents, catalog.reads, catalog.early_dependents, catalog.helper_names)
        return found + self._later_periods(batch, any(change.kind == "changed" for change in changes))

    def _later_periods(self, batch: Batch, has_changed: bool) -> list[tuple[str, date, date]]:
        """Return the cells of periods that hold the last date of the batch and end later, if its source was looked at.

        A file that looks back at the source has read what it held then, so they must be computed again.
        """
        last = batch.dates[-1]
        if batch.if_changed and not has_changed:
            return []
        ends = {name: self._catalog.period(name).ends_containing(last)[-1] for name in sorted(batch.looks_again)}
        return [(name, last + ONE_DAY, end) for name, end in ends.items() if end > last]

    # --- errors of a file ---------------------------------------------------------------------------------------------

    def _file_error(self, step: Step, statement: Statement, error: StatementError | QueryError) -> DateError:
        code = error.code if isinstance(error, StatementError) else -1
        message = f"{step.label}: {step.place(statement, str(error))}: {error}"
        if code not in TRANSIENT:
            message = f"{message}. {self._disable_hint(step.file)}"
        return DateError(message, code, step.file.name, step.dates)

    def _refusal(self, file: MetricFile, dates: Sequence[date], what: str) -> DateError:
        return DateError(f"{span(dates)}: {file.path}: {what}. {self._disable_hint(file)}", -1, file.name, dates)

    def _accept_hint(self, names: Sequence[str], day: date, batch: Batch) -> str:
        """Return the command that stores cells as they are; "" for a period that ends in the future."""
        if day > self._today or not self._catalog.cells.issuperset(names):
            return ""
        options = shlex.join(word for name in sorted({*names, *batch.accepts}) for word in ("--accept", name))
        return f"If the number is right: python run_metrics.py {day} {options}. "

    def _disable_hint(self, file: MetricFile) -> str:
        paths = [each.path for each in self._catalog.files_of(file.name)]
        names = " and ".join(f"_{name}" for name in dict.fromkeys(PurePosixPath(path).name for path in paths))
        return f"To run without this metric: rename {' and '.join(paths)} to {names}"


def _remarks(found: Mapping[Cell, Sequence[str]]) -> Iterator[Remark]:
    """Yield a remark for each text, by date and name."""
    for (name, day), texts in sorted(found.items(), key=lambda item: item[0][::-1]):
        yield from (Remark(name, day, text) for text in dict.fromkeys(texts))  # a work table is asked more than once


def _lines(found: Mapping[Cell, Sequence[str]], name: str, day: date) -> str | None:
    return "\n".join(dict.fromkeys(found.get((name, day), ()))) or None
