"""Which files of a batch run, for which of its dates, in which order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import groupby

from src.dates import span
from src.metric_file.file import MetricFile, Mode
from src.metric_file.parameters import Parameters
from src.metric_file.step import Step
from src.running.plan import Batch
from src.running.readers import DATES_AHEAD
from src.sql_loader import Catalog
from src.storage.store import Before

log = logging.getLogger("bi_metrics")


class Steps:
    """The executions of batches of `catalog`. `has_ended` tells whether a date was over at a moment."""

    def __init__(self, catalog: Catalog, parameters: Parameters, has_ended: Callable[[date, int], bool]) -> None:
        self._catalog = catalog
        self._parameters = parameters
        self._has_ended = has_ended
        self._expected: Sequence[Batch] = ()
        self._places: dict[tuple[date, ...], int] = {}  # of the batches in `_expected`, by their dates

    def of(self, batch: Batch, before: Before) -> Iterator[Step]:
        """Yield the executions of a batch: a set-based file once for all dates, any other once for each.

        A helper that is only needed is left out on dates on which its cell is current. A work table has no dates, so it
        and the files that read it run date by date: the work table is filled for a date, then each of them runs.
        """
        work_files = {file.name: file for file in batch.files if file.is_work_table}
        filled: dict[str, date] = {}  # work table -> the date that it holds

        def work_tables_of(file: MetricFile) -> tuple[str, ...]:
            names = self._catalog.work_tables_of(file.name)
            return tuple(name for name in work_files if name in names)

        files = [file for file in batch.files if not self._runs_for_its_dependents(file)]
        for tables, group in groupby(files, key=work_tables_of):
            if not tables:
                for file in group:
                    yield from self._of_file(file, batch, before, batch.dates_of[file.name])
                continue
            dependents = list(group)
            for day in sorted({day for file in dependents for day in batch.dates_of[file.name]}):
                for name in tables:
                    if filled.get(name) != day:
                        yield Step(work_files[name], (day,), self._parameters)
                        filled[name] = day
                for file in dependents:
                    if day in batch.dates_of[file.name]:
                        yield from self._of_file(file, batch, before, [day])

    def _runs_for_its_dependents(self, file: MetricFile) -> bool:
        """Tell whether a file is a work table that some file reads."""
        return file.is_work_table and bool(self._catalog.dependents_of_work_table(file.name))

    def _of_file(self, file: MetricFile, batch: Batch, before: Before, dates: Sequence[date]) -> Iterator[Step]:
        if file.name in batch.if_needed:
            dates = [day for day in dates if before.is_needed(file.name, day)]
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

    def expect(self, batches: Sequence[Batch]) -> None:
        """Let `ahead` know which batches will run, in this order."""
        self._expected = batches
        self._places = {batch.dates: place for place, batch in enumerate(batches)}

    def ahead(self, batch: Batch, before: Before, may_run: Callable[[MetricFile], bool]) -> Iterator[Step]:
        """Yield executions of the next dates that have ended, even if an initial file may take the place of one."""
        days = 0
        for place in range(self._places.get(batch.dates, len(self._expected)) + 1, len(self._expected)):
            each = self._expected[place]
            if not self._has_ended(each.dates[-1], before.moment):
                continue
            days += len(each.dates)
            if days > DATES_AHEAD:
                return
            for file in reversed(each.files):
                if may_run(file):
                    yield from self._executions(file, each.dates_of[file.name])

    def bases(self, batch: Batch) -> dict[str, date]:
        """Return the cells on which incremental files would build: those of the periods before."""
        names = self._catalog.initial_files.keys() if batch.mode is Mode.INCREMENTAL else ()
        return {name: self._catalog.period(name).row_before(dates[0])
                for name, dates in batch.dates_of.items() if name in names and dates}  # fmt: skip

    def _may_build_on(self, file: MetricFile, day: date, before: Before) -> bool:
        """Tell whether the cell of the period before is current and of the present definition."""
        base = file.period.row_before(day)
        return before.is_current(file.name, base) and not self.is_redefined(file.name, base, before)

    def is_redefined(self, name: str, day: date, before: Before) -> bool:
        """Tell whether another definition than the present one has computed a cell."""
        return before.state(name, day).definition not in (None, self._catalog.definition(name))
