"""What is asked of the rows of a batch before COMMIT: its `-- Check:`, `-- Warn:` and `-- Usual:` lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from src.db_manager import DatabaseManager, Row
from src.errors import DateError, StatementError
from src.metric_file.file import MetricFile, Mode
from src.metric_file.header import HeaderLine
from src.metric_file.step import Step, statements_that_forget
from src.metric_file.usual import dates_before, numbers_of, unusual
from src.running.plan import Batch
from src.running.server_warnings import QueryError, refuse_warnings
from src.server.codes import TRANSIENT
from src.sql_loader import Catalog
from src.storage.store import Before, Cell, MetricStore, Remark
from src.wording import count, printable

CHECKS_PER_QUERY = 100
ROWS_SHOWN = 3  # of a check or a warning that found some
SQL_SHOWN = 80  # characters of it: a metric file may be a link to anything
_PLAIN_NAME = re.compile(r"[^\W\d]\w*")  # of a column: that of an expression without AS is its SQL

_Query = tuple[Step, HeaderLine, date, str]  # of a check on a date, and its SQL


@dataclass
class Found:
    """What was found about cells that are stored all the same."""

    warnings: dict[Cell, list[str]] = field(default_factory=dict)
    accepted: dict[Cell, list[str]] = field(default_factory=dict)  # by checks that may fail
    unsure: dict[Cell, list[str]] = field(default_factory=dict)  # by checks that may have looked at rows that are due


class RowChecks:
    """Asks the lines of `catalog`. `today` decides which dates can be accepted as they are."""

    def __init__(self, database: DatabaseManager, store: MetricStore, catalog: Catalog, today: date) -> None:
        self._db = database
        self._store = store
        self._catalog = catalog
        self._today = today

    def ask(self, steps: Sequence[Step], batch: Batch, before: Before) -> Found:
        """Ask every `-- Check:`, `-- Warn:` and `-- Usual:` line for each date, and return what they find.

        Raises DateError for a row that a check returns, unless the cell is accepted as it is, or the check must be
        asked again when earlier rows have been computed.
        """
        found = Found()
        self._ask_checks(steps, batch, before, found)
        self._look_for_unusual(steps, before, found)
        return found

    def _ask_checks(self, steps: Sequence[Step], batch: Batch, before: Before, found: Found) -> None:
        queries: list[_Query] = []
        of_code: list[_Query] = []
        for step in steps:
            some = of_code if self._catalog.checks_run_code(step.file) else queries
            some += [
                (step, check, day, step.check(check, day)) for day in step.dates for check in step.file.script.checks
                if not check.is_for_ended or self._store.has_ended(day, before.moment, step.file.final_after)
            ]  # fmt: skip
        for query in of_code:  # by itself: it may leave something for the next one
            file = query[0].file
            with self._db.leaving_nothing(statements_that_forget(self._catalog.behind_checks(file)), runs_code=True):
                self._ask_check(batch, before, found, *query)
        for start in range(0, len(queries), CHECKS_PER_QUERY):
            part = queries[start : start + CHECKS_PER_QUERY]
            for query, may_fail in zip(part, self._that_may_fail([sql for *_, sql in part]), strict=True):
                if may_fail or "ROLLUP" in query[1].statement.words:  # MariaDB's EXISTS loses rows of ROLLUP with LIMIT
                    self._ask_check(batch, before, found, *query)

    def _that_may_fail(self, queries: Sequence[str]) -> Sequence[bool]:
        """Ask many checks in one query; true for each that returns a row.

        True for all if the server warns of one, or if they do not run like this.
        """
        try:
            answers = self._db.query("SELECT " + ", ".join(f"EXISTS (\n{sql}\n)" for sql in queries))[0]
            return [bool(answer) or self._db.warnings > 0 for answer in answers]
        except StatementError as error:
            if error.code in TRANSIENT:
                raise
            return [True] * len(queries)

    def _ask_check(
        self, batch: Batch, before: Before, found: Found, step: Step, check: HeaderLine, day: date, sql: str
    ) -> None:
        file, place = step.file, f"{step.file.path}:{check.line}"
        label = f"{step.label}: {place}"
        try:
            with self._db.select(sql) as (columns, found_rows):
                rows = list(found_rows)
        except StatementError as error:
            raise DateError(f"{label}: {check.key}: {error}", error.code, file.name, step.dates) from error
        if not rows:
            try:  # a comparison with a value that was cut, or became NULL, finds nothing
                refuse_warnings(self._db, step)
            except QueryError as error:
                raise DateError(f"{label}: {check.key}: {error}", -1, file.name, step.dates) from error
            return
        text = sql.strip()
        text = text if len(text) <= SQL_SHOWN else f"{text[:SQL_SHOWN]}..."
        what = _in_words(check, columns, rows)
        names = self._names_with_cells(file, batch)
        notes = found.warnings if check.is_warning else found.accepted
        if not check.is_warning and not all(self._may_fail(name, day, batch, before) for name in names):
            notes = found.unsure
        if notes is found.unsure and not self._follows_what_is_due(names, batch):
            raise DateError(f"{label}: check failed: {what} ({text})", -1, file.name, step.dates,
                            advice=self._cure(names, day, batch))  # fmt: skip
        for name in names:
            notes.setdefault((name, day), []).append(printable(f"{what} ({place}: {text})"))

    def _may_fail(self, name: str, day: date, batch: Batch, before: Before) -> bool:
        """Tell whether the checks of a cell may fail: this run accepts it, or one of the same definition has."""
        known = before.state(name, day)
        return name in batch.accepts or (known.is_accepted and known.definition == self._catalog.definition(name))

    def _follows_what_is_due(self, names: Sequence[str], batch: Batch) -> bool:
        """Tell whether rows before the batch, of some names or of what they read, must be computed again.

        A check that compares with such a row, as with the total of the day before, may fail although its own is right.
        """
        read = set(names).union(*(self._catalog.inputs.get(name, ()) for name in names))
        due = self._store.due(self._catalog.nightly, self._today)
        return any(cell.name in read and cell.day < batch.dates[0] and not cell.is_missing for cell in due)

    def _names_with_cells(self, file: MetricFile, batch: Batch) -> list[str]:
        """Return the name of a file; if it is a work table, which has no cells, the names that read it."""
        dependents = self._catalog.dependents_of_work_table(file.name)
        return [name for name in batch.names if name in dependents] or [file.name]

    def _look_for_unusual(self, steps: Sequence[Step], before: Before, found: Found) -> None:
        """Note each number that is far from those before it, as far as `-- Usual:` lines ask for it."""
        files = {(step.file.name, day): step.file for step in steps if step.file.usual for day in step.dates
                 if self._store.has_ended(day, before.moment, step.file.final_after)}  # fmt: skip
        needed: dict[str, set[date]] = {}
        for (name, day), file in files.items():
            needed.setdefault(name, set()).update([day, *dates_before(day, file.period)])
        rows = self._store.rows({name: sorted(days) for name, days in needed.items()}) if needed else ()
        numbers = {(name, day): numbers_of(row.value_list) for name, day, row in rows}
        for (name, day), file in files.items():
            if (own := numbers.get((name, day))) is not None:
                days = dates_before(day, file.period)
                others = [number for each in days if (number := numbers.get((name, each)))]
                texts = unusual(file.usual, own, others, file.period, day, in_all=file.data_type == "timeseries")
                found.warnings.setdefault((name, day), []).extend(map(printable, texts))

    def _cure(self, names: Sequence[str], day: date, batch: Batch) -> str:
        """Return what to do about a check that fails; a period that ends in the future cannot be accepted."""
        if day > self._today or not self._catalog.cells.issuperset(names):
            return "Mend the file or the data"
        words = [f"--initial {day} {day}" if batch.mode is Mode.INITIAL else str(day)]
        words += [f"--accept {shlex.quote(name)}" for name in sorted({*names, *batch.accepts})]
        return f"If the number is right: python run_metrics.py {' '.join(words)}; else mend the file or the data"


def _in_words(check: HeaderLine, columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Return what a query has found, for a reader who knows no SQL: the comment in it, and its first rows."""
    shown = "; ".join(", ".join(map(_named, columns, row)) for row in rows[:ROWS_SHOWN])
    more = f"; and {count(len(rows) - ROWS_SHOWN, 'more row')}" if rows[ROWS_SHOWN:] else ""
    return f"{check.comment}: {shown}{more}" if check.comment else f"found {shown}{more}"


def _named(column: str, value: object) -> str:
    text = "null" if value is None else str(value)
    return f"{column} = {text}" if _PLAIN_NAME.fullmatch(column) and column != text else text


def remarks(found: Mapping[Cell, Sequence[str]]) -> Iterator[Remark]:
    """Yield a remark for each text, by date and name."""
    for (name, day), texts in sorted(found.items(), key=lambda item: item[0][::-1]):
        yield from (Remark(name, day, text) for text in dict.fromkeys(texts))  # a work table is asked more than once


def lines(found: Mapping[Cell, Sequence[str]], name: str, day: date) -> str | None:
    """Return the texts of a cell, one per line; None if there are none."""
    return "\n".join(dict.fromkeys(found.get((name, day), ()))) or None
