"""One batch in the open transaction: run its files, look at every row, store what follows for other cells."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import date

from src.dates import ONE_DAY, span
from src.db_manager import DatabaseManager
from src.errors import DateError, StatementError
from src.metric_file.file import Kind, MetricFile
from src.metric_file.parameters import Parameters
from src.metric_file.step import Step, statements_that_forget
from src.metric_file.text import Statement
from src.running.finality import Written, cells_to_reopen
from src.running.plan import Batch
from src.running.readers import Ahead, Readers
from src.running.row_checks import Found, RowChecks, lines, remarks
from src.running.select_rows import Selected, run_select
from src.running.server_warnings import QueryError, refuse_warnings
from src.running.steps import Steps
from src.server.codes import LOCK_GONE, REFUSES_A_VALUE, TRANSIENT
from src.sql_loader import Catalog
from src.storage.changes import Change, StoredRow, compare, is_readable
from src.storage.store import (
    BLANK,
    BLANK_ROW,
    LONGEST_TEXT,
    Before,
    Cell,
    Computed,
    MetricStore,
    NewRow,
    Remark,
    Replaced,
)

log = logging.getLogger("bi_metrics")

MOST_BYTES_UNSENT = 1_000_000  # of rows of SELECT metrics


@dataclass(frozen=True)
class StepResult:
    """What one execution of a file did."""

    step: Step
    moment: int  # as of which it counts as computed
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
    reopened_count: int = 0  # cells of other dates or metrics that were current, and must be computed again
    warnings: tuple[Remark, ...] = ()  # of dates that are stored all the same
    repeated: frozenset[Remark] = frozenset()  # warnings that were stored before, of values that have not changed
    accepted: tuple[Remark, ...] = ()  # what checks found that may fail
    unsure: tuple[Remark, ...] = ()  # what checks found over earlier rows that are due; they are asked again
    redefined: frozenset[str] = frozenset()  # names whose SQL has changed since their last cell
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
        self._steps = Steps(catalog, parameters, store.has_ended)
        self._row_checks = RowChecks(database, store, catalog, today)
        self._today = today
        self._run_id = run_id
        self._readers = readers
        self._unsent: list[tuple[Step, NewRow]] = []  # rows of SELECT metrics, which go in one statement
        self._unsent_names: set[str] = set()  # of their metrics
        self._unsent_size = 0  # about how many bytes
        self._changes: dict[Cell, Change] = {}
        self._replaced: list[Replaced] = []
        self._compared: set[str] = set()  # names whose definition was compared with that of an earlier cell
        self._blank_text = f"{BLANK} {os.urandom(8).hex()}"

    def compute(self, batch: Batch, starts_anew: Collection[str] = ()) -> BatchResult:
        """Compute the cells of a batch, and read back each row.

        The names of `starts_anew` build on no row of the period before. Raises DateError, which names the file at
        fault, and StatementError.
        """
        clock = time.monotonic()
        metrics, helpers = ({name: batch.dates_of[name] for name in names} for names in (batch.metrics, batch.helpers))
        before = self._store.before(metrics, helpers, self._steps.bases(batch))
        if not before.holds_lock:
            raise DateError(f"{batch.label}: this run lost its lock: a file released it, or a proxy switched sessions",
                            LOCK_GONE)  # fmt: skip
        if starts_anew:
            bases = {cell for cell in self._steps.bases(batch).items() if cell[0] in starts_anew}
            before = replace(before, states={cell: known for cell, known in before.states.items() if cell not in bases})
        self._unsent, self._unsent_names, self._unsent_size = [], set(), 0
        self._changes, self._replaced = {}, []
        steps = list(self._steps.of(batch, before))
        self._readers.ask(steps, self._steps.ahead(batch, before, self._readers.may_run), before.moment)
        self._blank(batch, before)
        results = [self._execute(step, before) for step in steps]
        self._send_rows()
        changes = self._read_back(batch, before, results)
        found = self._row_checks.ask(steps, batch, before)
        computed = self._computed(results, found)
        warnings = tuple(remarks(found.warnings))
        repeated = frozenset(each for each in warnings if self._is_repeated(each, before))
        redefined = self._redefined(batch, before, computed)
        self._store.write_states(computed, self._run_id)
        newest = max(before.newest, batch.dates[-1])
        ranges = [each for each in self._to_reopen(batch, before, results, changes) if each[1] <= newest]
        reopened_count = self._store.reopen(ranges)
        if self._has_an_earlier_helper(batch, computed, before):
            self._store.add_missing(self._catalog.nightly, self._today)
        self._settle()
        open_from = min((c.day for c in computed if not self._store.has_ended(c.day, before.moment)), default=None)
        return BatchResult(
            batch, tuple(results), tuple(changes), open_from, reopened_count, warnings, repeated,
            tuple(remarks(found.accepted)), tuple(remarks(found.unsure)), redefined,
            round((time.monotonic() - clock) * 1000),
        )  # fmt: skip

    def expect(self, batches: Sequence[Batch]) -> None:
        """Let readers compute files of these batches, which run in this order, while earlier ones run."""
        self._steps.expect(batches)

    def forget(self) -> None:
        """Forget what a transaction has found that was rolled back."""
        self._compared.clear()

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

    # --- one file -----------------------------------------------------------------------------------------------------

    def _blank(self, batch: Batch, before: Before) -> None:
        """Overwrite the rows of INSERT metrics: one that is still blank when its file has run was not computed.

        If their SQL has changed, f_list must be renewed as well. Else an upsert of value_list alone is enough.
        """
        names = {file.name for file in batch.files if file.kind is Kind.INSERT}.intersection(n for n, _ in before.rows)
        changed = {name for name, day in before.rows if name in names and self._steps.is_redefined(name, day, before)}
        try:
            with self._firing_triggers():
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
        behind = self._catalog.behind(step.file)
        with self._db.leaving_nothing(step.cleanup(behind), any(each.is_code for each in behind)):
            rows_of_metrics, rows_of_others, ahead = self._execute_statements(step, before)
        by_whom = " by a reader" if ahead else ""
        milliseconds = ahead.milliseconds if ahead else round((time.monotonic() - clock) * 1000)
        moment = ahead.moment if ahead else before.moment
        log.info("%s %s: %s ms%s", step.label, step.file.path, milliseconds, by_whom)
        has_written = rows_of_others > 0 or self._catalog.functions_write(step.file)
        return StepResult(step, moment, milliseconds, rows_of_metrics, has_written)

    def _execute_statements(self, step: Step, before: Before) -> tuple[int, int, Ahead | None]:
        """Return the rows that were written, of bi_metrics and of other tables, and what a reader computed, if any."""
        ahead: Ahead | None = None
        rows_of_metrics = rows_of_others = 0
        query = step.file.statements[-1] if step.file.kind is Kind.SELECT else None
        lasting = {statement.number for statement in step.file.lasting_writes()}
        for statement, sql in zip(step.file.statements, step.statements, strict=True):
            try:
                if statement is query:
                    ahead = self._readers.take(step)
                    self._keep_rows(step, before, ahead.selected if ahead else run_select(self._db, step, sql))
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
        return rows_of_metrics, rows_of_others, ahead

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
        with self._firing_triggers():
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

    def _firing_triggers(self) -> AbstractContextManager[None]:
        """Let triggers on bi_metrics leave nothing for the files."""
        behind = self._catalog.behind_metrics
        return self._db.leaving_nothing(statements_that_forget(behind), any(each.is_code for each in behind))

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
                what = "a backslash before x, a number that ends with a point, or a key twice"
                raise self._refusal(file, [day], f"wrote JSON that not every reader takes, such as {what}; "
                                    "build it with JSON_OBJECT()")  # fmt: skip
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

    # --- what follows for this cell and for others --------------------------------------------------------------------

    def _computed(self, results: Sequence[StepResult], found: Found) -> list[Computed]:
        return [
            Computed(file.name, day, file.is_helper, self._catalog.definition(file.name), result.moment,
                     result.milliseconds, file.path, file.final_after, lines(found.warnings, file.name, day),
                     lines(found.accepted, file.name, day), (file.name, day) in found.unsure)
            for result in results if not (file := result.step.file).is_work_table for day in result.step.dates
        ]  # fmt: skip

    def _is_repeated(self, warning: Remark, before: Before) -> bool:
        """Tell whether a cell had this warning already; the table may have cut its last one."""
        cell = warning.metric, warning.metric_date
        known, change = before.state(*cell).warning, self._changes.get(cell)
        if change and change.kind != "unchanged":
            return False
        texts = known.splitlines()
        return warning.text in texts or (len(known) == LONGEST_TEXT and warning.text.startswith(texts[-1]))

    def _redefined(self, batch: Batch, before: Before, computed: Sequence[Computed]) -> frozenset[str]:
        """Return the names of which another definition had computed a cell of the batch, or else the cell before it."""
        known: dict[str, set[str]] = defaultdict(set)
        for (name, _), state in before.states.items():
            if state.definition:
                known[name].add(state.definition)
        new = {cell.name for cell in computed} - known.keys() - self._compared
        for name, definition in self._store.definitions_before(new, batch.dates[0]) if new else ():
            known[name].add(definition)
        self._compared |= known.keys()
        return frozenset(cell.name for cell in computed if known[cell.name] - {cell.definition})

    def _has_an_earlier_helper(self, batch: Batch, computed: Sequence[Computed], before: Before) -> bool:
        """Tell whether a helper that due rows need has got a new first date: dates after that may be missing."""
        return any(cell.name in batch.if_needed and (cell.name, cell.day) not in before.states for cell in computed)

    def _to_reopen(
        self, batch: Batch, before: Before, results: Sequence[StepResult], changes: Sequence[Change]
    ) -> list[tuple[str, date, date]]:
        """Return the cells that were computed from what this transaction has changed: name, first and last date."""
        number_of_dates: Counter[str] = Counter()
        for result in results:
            if not result.step.file.is_work_table:
                number_of_dates[result.step.file.name] += len(result.step.dates)
        found = []
        if number_of_dates:
            partly = frozenset(name for name, number in number_of_dates.items() if number < len(batch.dates_of[name]))
            changed = self._changed_dates(before, results, changes)
            found = cells_to_reopen(
                Written(batch.dates_of, list(number_of_dates), partly, changed),
                self._catalog.dependents, self._catalog.reads, self._catalog.early_dependents,
                self._catalog.helper_names,
            )  # fmt: skip
        return found + self._later_periods(batch, any(change.kind == "changed" for change in changes))

    @staticmethod
    def _changed_dates(
        before: Before, results: Sequence[StepResult], changes: Sequence[Change]
    ) -> dict[str, list[date]]:
        """Return the dates on which a value of a metric or helper changed, or was missing."""
        changed: dict[str, list[date]] = defaultdict(list)
        for change in changes:
            if change.kind != "unchanged":
                changed[change.metric].append(change.metric_date)
        for result in results:
            file, dates = result.step.file, result.step.dates
            if not file.is_work_table and (result.has_written or file.is_helper):
                dates = dates if result.has_written else tuple(
                    day for day in dates if before.state(file.name, day).state == "missing"
                )  # fmt: skip
                changed[file.name] += dates
        return {name: days for name, days in changed.items() if days}

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
        advice = "" if code in TRANSIENT else self._catalog.disable_hint(step.file.name)
        return DateError(message, code, step.file.name, step.dates, advice=advice)

    def _refusal(self, file: MetricFile, dates: Sequence[date], what: str) -> DateError:
        message = f"{span(dates)}: {file.path}: {what}"
        return DateError(message, -1, file.name, dates, advice=self._catalog.disable_hint(file.name))
