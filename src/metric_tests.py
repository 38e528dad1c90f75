"""Runs tests of metrics: given rows in a scratch database, computed as a run computes them, compared with the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, tzinfo
from difflib import get_close_matches
from fnmatch import fnmatchcase

from config.database import Settings
from src.dates import ONE_DAY, day_start
from src.db_manager import DatabaseManager
from src.errors import DatabaseError, DateError, MetricsError, UsageError
from src.metric_file.checks import check_catalog
from src.metric_file.file import MetricFile, Mode
from src.metric_file.given import Given, names_a_schema
from src.metric_file.reads import METRICS_VIEWS, reads_of
from src.metric_file.step import Parameters, line_of
from src.metric_file.text import Statement, bind
from src.metric_runner import MetricRunner, RunBatch
from src.running.plan import Batch, batch_of
from src.server.interruption import Interruption
from src.sql_loader import Catalog
from src.storage.changes import StoredRow, differences
from src.storage.scratch import schemas, scratch_database
from src.storage.store import MetricStore

LONGEST_SHOWN = 200  # characters of two rows that differ; of longer ones only what differs is shown
OMITTED = 1364  # the warning that a column without a default was left out
Ways = Mapping[str, Sequence[Batch]]  # "date by date", "at once"


def select_tests(tests: Sequence[Given], patterns: Sequence[str]) -> list[Given]:
    """Return the tests of the metrics whose name matches a shell pattern; without patterns, all.

    Raises UsageError if a pattern matches nothing, or if there is nothing at all.
    """
    if not tests:
        raise UsageError("there are no tests: no .sql file lies in tests/ below METRICS_DIR; see docs/metrics.md")
    for pattern in patterns:
        if not any(fnmatchcase(test.metric, pattern) for test in tests):
            near = get_close_matches(pattern, [test.metric for test in tests], 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"no test is for {pattern!r}{hint} (the line `-- Test: NAME` of a test decides)")
    return [test for test in tests if not patterns or any(fnmatchcase(test.metric, each) for each in patterns)]


@dataclass(frozen=True)
class Tester:
    """Runs tests one by one, each in a database of its own. `real` is connected to DB_NAME, and only read."""

    settings: Settings
    catalog: Catalog
    zone: tzinfo | None
    real: DatabaseManager
    interruption: Interruption

    def failures(self, test: Given) -> list[str]:
        """Run a test; return a line for each way in which it failed. Raises MetricsError if nothing can run."""
        if test.problems:
            return list(test.problems)
        # What a view or a function of the real database reads is no matter: the test gives the rows of a view.
        catalog = replace(self.catalog, stored=frozenset(), computed=frozenset(), views={})
        if test.metric not in catalog.names:
            return [f"{test.path}:1: {_not_a_metric(catalog, test.metric)}"]
        names = {test.metric} | (catalog.inputs[test.metric] & catalog.cells)
        wanted = names.union(*(catalog.work_tables_of(name) for name in names))
        files = [file for name in sorted(wanted) for file in catalog.files_of(name)]
        parameters = Parameters({**self.settings.parameters, **test.parameters}, self.zone)
        if found := self._problems(test, catalog, files, parameters):
            return found
        run = _Run(test, catalog, parameters, _ways(test, catalog, names))
        with scratch_database(self.real, self.settings, _tables(test, files), self.interruption) as database:
            store = MetricStore(database, self.zone, self.settings.metrics_mend_days)
            lines = run.failures(database, store)
            return [line.replace(f"{database.name}.", f"{self.real.name}.") for line in lines]

    def _problems(
        self, test: Given, catalog: Catalog, files: Sequence[MetricFile], parameters: Parameters
    ) -> list[str]:
        """Return why the test, or a file that it runs, cannot run: it must not leave its database, or it is broken."""
        known = schemas(self.real)
        parts = [(test.path, test.statements), *((file.path, _statements(file)) for file in files)]
        for path, statements in parts:
            if statement := names_a_schema(statements, known):
                what = "names a schema, so it would leave the database that the test runs in"
                return [f"{test.path}:1: cannot run: the statement at {path}:{statement.line} {what}"]
        problems = check_catalog(catalog, files, parameters.own.keys())
        return [f"{test.path}:1: {problem}" for problem in problems if problem.severity == "error"]


@dataclass(frozen=True)
class _Run:
    """One test in its scratch database."""

    test: Given
    catalog: Catalog
    parameters: Parameters
    ways: Ways

    def failures(self, database: DatabaseManager, store: MetricStore) -> list[str]:
        test = self.test
        try:
            self._give_rows(database)
        except MetricsError as error:
            return [str(error)]
        runner = MetricRunner(database, store, retries=0, wait=0)
        runner.open(self.catalog, self.parameters, self._today)
        found: dict[str, list[str]] = {}  # what is wrong, and in which ways
        for way, batches in self.ways.items():
            try:
                rows = self._computed(runner, database, store, batches)
            except (DateError, DatabaseError) as error:
                lines = [f"{test.path}:1: {error}"]
            else:
                lines = [*_differing(test, rows)]
            for line in lines:
                found.setdefault(line, []).append(way)
        return [f"{line} ({' and '.join(ways)})" for line, ways in found.items()]

    @property
    def _today(self) -> date:
        return self.test.dates[-1] + ONE_DAY

    def _give_rows(self, database: DatabaseManager) -> None:
        """Insert the given rows. Columns left out get their default or the zero of their type, as without strict mode.

        Raises MetricsError with the place.
        """
        values = self.parameters.literals(self.test.dates)
        strict = database.query("SELECT @@sql_mode")[0][0]
        checks = ", check_constraint_checks = {}" if database.is_mariadb else ""  # for JSON it has one: '' is none
        with database.transaction():
            database.execute(f"SET SESSION sql_mode = ''{checks.format(0)}")
            for statement in self.test.statements:
                try:
                    database.execute(bind(statement, values))
                except MetricsError as error:
                    raise self._error(statement, str(error)) from error
                for level, code, text in database.query("SHOW WARNINGS") if database.warnings else ():
                    if code != OMITTED and level != "Note":
                        raise self._error(statement, f"({code}) {text}")
            database.execute(f"SET SESSION sql_mode = %s{checks.format(1)}", (strict,))

    def _error(self, statement: Statement, message: str) -> MetricsError:
        return MetricsError(f"{self.test.path}:{line_of(statement, message)}: {message}")

    def _computed(
        self, runner: MetricRunner, database: DatabaseManager, store: MetricStore, batches: Sequence[Batch]
    ) -> dict[date, StoredRow]:
        """Return the rows of the metric as some batches compute them; all is rolled back."""
        noon = day_start(self._today, self.parameters.zone) + 12 * 3600
        rows: dict[date, StoredRow] = {}

        def work(run: RunBatch) -> None:
            database.execute(f"SET SESSION timestamp = {noon}")  # so that every date has ended, by the server too
            for batch in batches:
                run(batch)
            rows.update((day, row) for _, day, row in store.rows([self.test.metric], self.test.dates))

        runner.dry_run(work)
        return rows


def _ways(test: Given, catalog: Catalog, names: set[str]) -> Ways:
    """Return the batches of each way to compute a metric: date by date, and at once if that is another way."""
    found: dict[str, Sequence[Batch]] = {}
    if any(file.name == test.metric for file in catalog.in_mode(Mode.INCREMENTAL)):
        found["date by date"] = [batch_of(catalog, Mode.INCREMENTAL, [day], names) for day in test.dates]
    at_once = [file for file in catalog.in_mode(Mode.INITIAL) if file.name == test.metric]
    if any(file.mode or file.is_set_based for file in at_once):
        found["at once"] = [batch_of(catalog, Mode.INITIAL, test.dates, names)]
    return found


def _tables(test: Given, files: Iterable[MetricFile]) -> set[str]:
    """Return the tables that a test and the files it runs name, in lower case; more than there are."""
    statements = [*test.statements, *(statement for file in files for statement in _statements(file))]
    named = [*reads_of(statements).tables, *(each.target for each in statements if each.target)]
    return {table.name.lower() for table in named} - METRICS_VIEWS


def _statements(file: MetricFile) -> list[Statement]:
    return [*file.statements, *(check.statement for check in file.script.checks)]


def _not_a_metric(catalog: Catalog, name: str) -> str:
    if catalog.files_of(name):
        readers = ", ".join(sorted(catalog.all_dependents([name]) & catalog.names)) or "none does yet"
        return f"{name} is a helper, which has no row; test a metric that reads it: {readers}"
    near = get_close_matches(name, sorted(catalog.names), 1, 0.4)
    return f"no metric is named {name!r}" + (f"; did you mean {near[0]}?" if near else "")


def _differing(test: Given, rows: Mapping[date, StoredRow]) -> Iterable[str]:
    """Yield a line for each date on which the row is not the expected one."""
    for each in test.expectations:
        row = rows.get(each.day)
        got = row.value_list if row else "none"
        if "none" in (each.value, got):
            differs = "" if got == each.value else "whole"
        else:
            differs = differences(StoredRow("", "", each.value), StoredRow("", "", got))
        if differs:
            is_short = len(each.value) + len(got) <= LONGEST_SHOWN or differs == "whole"
            what = f"expected {each.value}, got {got}" if is_short else f"expected -> got: {differs}"
            yield f"{test.path}:{each.line}: {each.day}: {what}"
