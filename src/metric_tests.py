"""Runs tests of metrics: given rows in a scratch database, computed as a run computes them, compared with the file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
from src.metric_file.parameters import Parameters
from src.metric_file.reads import METRICS_VIEWS, reads_of
from src.metric_file.step import line_of
from src.metric_file.text import Statement, bind
from src.metric_runner import MetricRunner, RunBatch
from src.running.plan import Batch, batch_of
from src.running.readers import Readers
from src.server.codes import NO_DEFAULT
from src.server.interruption import Interruption
from src.sql_loader import Catalog
from src.storage.changes import StoredRow, differences
from src.storage.scratch import schemas, scratch_database
from src.storage.store import MetricStore

LONGEST_SHOWN = 200  # characters of two rows that differ; of longer ones only what differs is shown


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


class Tester:
    """Runs tests one by one, each in a database of its own. `real` is connected to DB_NAME, which is only read.

    `catalog` holds the files alone, and knows neither the rows nor the views of DB_NAME.
    """

    def __init__(
        self, settings: Settings, catalog: Catalog, zone: tzinfo | None, real: DatabaseManager,
        interruption: Interruption,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._catalog = catalog
        self._zone = zone
        self._real = real
        self._schemas = schemas(real)
        self._interruption = interruption

    def failures(self, test: Given) -> list[str]:
        """Run a test; return a line for each fault. Raises MetricsError if no test can run."""
        catalog = self._catalog
        if test.problems:
            return list(test.problems)
        if test.metric not in catalog.names:
            return [f"{test.path}:1: {_not_a_metric(catalog, test.metric)}"]
        names = {test.metric} | (catalog.inputs[test.metric] & catalog.cells)
        wanted = names.union(*(catalog.work_tables_of(name) for name in names))
        files = [file for name in sorted(wanted) for file in catalog.files_of(name)]
        own = {**self._settings.parameters, **test.parameters}
        parameters = Parameters(own, self._zone, test.dates[-1] + ONE_DAY)  # today is the day after the last Expect
        if problems := self._problems(test, files, parameters):
            return problems
        with scratch_database(self._real, self._settings, _tables(test, files), self._interruption) as database:
            try:
                _give_rows(database, test, parameters)
            except MetricsError as error:
                lines = [str(error)]
            else:
                lines = self._differences(database, test, parameters, names)
            return [line.replace(f"{database.name}.", f"{self._real.name}.") for line in lines]

    def _problems(self, test: Given, files: Sequence[MetricFile], parameters: Parameters) -> list[str]:
        """Return why a test cannot run: it expects an impossible row, would leave its database, or breaks a rule."""
        period = self._catalog.period(test.metric)
        for each in test.expectations:
            if each.value != "none" and not period.is_end(each.day):
                what = f"is not the last day of a period of {test.metric}; its period ends on {period.end_of(each.day)}"
                return [f"{test.path}:{each.line}: {each.day} {what}"]
        for path, statements in [(test.path, test.statements), *((file.path, _statements(file)) for file in files)]:
            if statement := names_a_schema(statements, self._schemas):
                what = "names a schema, so it would leave the database that the test runs in"
                return [f"{test.path}:1: cannot run: the statement at {path}:{statement.line} {what}"]
        problems = check_catalog(self._catalog, files, parameters.own.keys())
        return [f"{test.path}:1: {problem}" for problem in problems if problem.severity == "error"]

    def _differences(
        self, database: DatabaseManager, test: Given, parameters: Parameters, names: Collection[str]
    ) -> list[str]:
        """Compute the metric in each way, as a run does, and return what is not as expected; all is rolled back."""
        today = test.dates[-1] + ONE_DAY
        ends = self._catalog.period(test.metric).ends(test.dates[0], test.dates[-1])
        noon = day_start(today, self._zone) + 12 * 3600
        store = MetricStore(database, self._zone, self._settings.metrics_mend_days)
        runner = MetricRunner(database, store, retries=0, wait=0)
        runner.open(self._catalog, parameters, today, Readers(database, self._settings, 0, store.has_ended))
        found: dict[str, list[str]] = {}  # what is wrong, and in which ways
        for way, batches in _ways(self._catalog, test, names).items():
            rows: dict[date, StoredRow] = {}

            def work(run: RunBatch) -> None:
                database.execute(f"SET SESSION timestamp = {noon}")  # by the server's clock too, every date has ended
                for batch in batches:  # noqa: B023
                    run(batch)
                rows.update((day, row) for _, day, row in store.rows({test.metric: ends}))  # noqa: B023

            try:
                runner.dry_run(work)
                lines = list(_compare(test, rows))
            except DateError as error:  # its advice is for a run
                lines = [f"{test.path}:{_line_of(test, error.dates)}: {error.fact}"]
            except DatabaseError as error:
                lines = [f"{test.path}:1: {error}"]
            for line in lines:
                found.setdefault(line, []).append(way)
        return [f"{line} ({' and '.join(ways)})" for line, ways in found.items()]


def _give_rows(database: DatabaseManager, test: Given, parameters: Parameters) -> None:
    """Execute the statements of a test. A column that is left out gets its default, or the zero of its type.

    Raises MetricsError, with the place, for one that the server refuses or would change.
    """
    values = parameters.literals(test.dates)
    strict = database.query("SELECT @@sql_mode")[0][0]
    checks = ", check_constraint_checks = {}" if database.is_mariadb else ""  # a JSON column has one: '' is no JSON
    with database.transaction():
        database.execute(f"SET SESSION sql_mode = ''{checks.format(0)}")
        for statement in test.statements:
            try:
                database.execute(bind(statement, values))
                warned = database.query("SHOW WARNINGS") if database.warnings else ()
                wrong = [f"({code}) {text}" for level, code, text in warned if code != NO_DEFAULT and level != "Note"]
                if wrong:
                    raise MetricsError(wrong[0])
            except MetricsError as error:
                raise MetricsError(f"{test.path}:{line_of(statement, str(error))}: {error}") from error
        database.execute(f"SET SESSION sql_mode = %s{checks.format(1)}", (strict,))


def _ways(catalog: Catalog, test: Given, names: Collection[str]) -> dict[str, list[Batch]]:
    """Return the batches of each way to compute a metric: date by date, and at once if that is another way."""
    found: dict[str, list[Batch]] = {}
    if any(file.name == test.metric for file in catalog.in_mode(Mode.INCREMENTAL)):
        batches = [batch_of(catalog, Mode.INCREMENTAL, [day], names) for day in test.dates]
        found["date by date"] = [batch for batch in batches if batch.files]
    at_once = [file for file in catalog.in_mode(Mode.INITIAL) if file.name == test.metric]
    if any(file.mode or file.is_set_based for file in at_once):
        found["at once"] = [batch_of(catalog, Mode.INITIAL, test.dates, names)]
    return found


def _tables(test: Given, files: Iterable[MetricFile]) -> set[str]:
    """Return the tables that a test and the files it runs name, in lower case; some of the names may be no tables."""
    statements = [*test.statements, *(statement for file in files for statement in _statements(file))]
    named = [*reads_of(statements).tables, *(each.target for each in statements if each.target)]
    return {table.name.lower() for table in named} - METRICS_VIEWS


def _statements(file: MetricFile) -> list[Statement]:
    return [*file.statements, *(check.statement for check in file.script.checks)]


def _not_a_metric(catalog: Catalog, name: str) -> str:
    if catalog.files_of(name):
        readers = (catalog.all_dependents([name]) | catalog.dependents_of_work_table(name)) & catalog.names
        listed = ", ".join(sorted(readers)) or "none does yet"
        return f"{name} is a helper, which has no row; test a metric that reads it: {listed}"
    near = get_close_matches(name, sorted(catalog.names), 1, 0.4)
    return f"no metric is named {name!r}" + (f"; did you mean {near[0]}?" if near else "")


def _line_of(test: Given, dates: Sequence[date]) -> int:
    """Return the line that expects the row of a date; 1 for several dates, and for one without such a line."""
    return next((each.line for each in test.expectations if [each.day] == [*dates]), 1)


def _compare(test: Given, rows: Mapping[date, StoredRow]) -> Iterator[str]:
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
