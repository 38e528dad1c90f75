#!/usr/bin/env python3
"""List the metrics in run order, check and test their files, print their SQL, show what is stored. Changes no data."""

from __future__ import annotations

from src.cli import VERSION, CommandParser, at_least, exit_on_signals, on_signals, use_own_packages

if __name__ == "__main__":
    use_own_packages(__file__, "PyMySQL", "python-dotenv", "Jinja2")
    exit_on_signals()

import re
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from config.database import GROUP_CONCAT_BYTES, ROOT, Settings, load_settings
from src.dates import ONE_DAY, business_zone, date_range, parse_date, today_in
from src.db_manager import DatabaseManager
from src.display.log import as_json, configure_log, log, table, write_csv, write_line, write_text
from src.display.status import MetricState, in_words, repair_commands, states
from src.display.values import lines_of, plain
from src.errors import DatabaseError, Interrupted, MetricsError, SettingsError, UsageError
from src.metric_file.checks import Problem, check_catalog, placement_problems
from src.metric_file.file import MetricFile, Mode
from src.metric_file.given import load_tests
from src.metric_file.parameters import Parameters
from src.metric_file.server_checks import ask_server, problems_of, tables_without_a_date, with_what_is_behind
from src.metric_file.step import Step
from src.metric_tests import Tester, select_tests
from src.running.plan import batch_of
from src.server.interruption import Interruption
from src.sql_loader import EVERY_METRIC, load_catalog, matching, select
from src.storage.overview import Overview
from src.storage.scratch import drop_old_ones
from src.storage.store import MetricStore
from src.wording import count, listed, printable

OK, PROBLEMS, NOTHING_DONE = 0, 1, 2

EXAMPLES = """\
examples:
  python list_metrics.py                          what the nightly run executes, in order
  python list_metrics.py --initial                what the initial load executes
  python list_metrics.py --check                  every rule on every file, and EXPLAIN by the server
  python list_metrics.py --check --offline        the same without a database
  python list_metrics.py --test                   the tests in tests/ below METRICS_DIR, in a scratch database
  python list_metrics.py --sql total_revenue 2025-01-15    the statements as they are sent
  python list_metrics.py --status                 what is final, what is due and why
  python list_metrics.py --status --max-age 1     as a probe: only metrics with a problem, exit 1 if there is one
  python list_metrics.py --html page.html         the numbers as a page
  python list_metrics.py --html money.html --tag money     the same of some metrics
  python list_metrics.py --values 'total_*' 2025-01-01 2025-01-31    the stored values, also with --csv or --json

exit codes: 0 all well, 1 a file has an error, a metric a problem, or a test failed, 2 the question could not be
answered; with --test also 129, 130 and 143: interrupted
"""


@dataclass(frozen=True)
class ListArguments:
    """The command line of list_metrics.py; each field is an option of that name."""

    initial: bool = False
    check: bool = False
    offline: bool = False
    test: Sequence[str] | None = None  # names; none of them: all tests
    sql: Sequence[str] | None = None
    status: bool = False
    max_age: int | None = None
    html: str | None = None
    metric: Sequence[str] = ()
    tag: Sequence[str] = ()
    values: Sequence[str] = ()
    csv: bool = False
    days: int = 90
    json: bool = False


class Listing:
    """One call of the command."""

    def __init__(self, arguments: ListArguments, settings: Settings) -> None:
        self.arguments = arguments
        self.settings = settings
        self.mode = Mode.INITIAL if arguments.initial else Mode.INCREMENTAL
        self.zone = business_zone(settings.metrics_timezone)
        self.today = today_in(self.zone)
        self.parameters = Parameters(settings.parameters, self.zone, self.today)
        self.catalog = load_catalog(settings.metrics_dir, self.parameters.fingerprinted())

    def _problems(self, files: Sequence[MetricFile]) -> list[Problem]:
        found = check_catalog(self.catalog, files, self.settings.parameters.keys(), self.settings.db_name)
        return sorted(found + placement_problems(self.catalog, self.settings.metrics_dir))

    def files(self) -> int:
        """Print the files of a mode in run order, the disabled ones too, and their problems below."""
        files = select(self.catalog, self.mode, [])
        shown = [file for file in self.catalog.files if file.mode in (None, self.mode)]
        numbers = {file.path: str(number) for number, file in enumerate(files, start=1)}
        problems = self._problems(files)
        head = ("#", "Metric", "Type", "Runs", "Reads", "File", "Description")
        rows = []
        for file in shown:
            kind = "disabled" if file.disabled else "helper" if file.is_helper else file.data_type or "-"
            all_of_them = {EVERY_METRIC, *self.catalog.helpers_read(file)}
            names = all_of_them if self.catalog.reads_everything(file) else self.catalog.reads_of(file)
            reads = ", ".join(sorted(names)) or "-"
            runs = "set-based" if file.is_set_based else "per date"
            rows.append((numbers.get(file.path, "-"), file.name, kind, runs, reads, file.path, file.description))
        if self.arguments.json:
            keys = ("number", "metric", "data_type", "runs", "reads", "file", "description")
            write_text(as_json([
                {**dict(zip(keys, row, strict=True)), "title": file.title, "unit": file.unit, "owner": file.owner,
                 "tags": file.tags, "dimensions": file.dimensions} for file, row in zip(shown, rows, strict=True)
            ]))  # fmt: skip
        else:
            write_text(table([head, *rows], fit=True))
            for problem in problems:
                write_line(str(problem))
        return _exit_code(problems)

    def check(self) -> int:
        """Print every problem of every file as file:line:column, sorted; return 1 if one is an error."""
        files = [file for file in self.catalog.files if not file.disabled]
        left_out = 0
        if self.arguments.offline:
            self.catalog = replace(self.catalog, stored=frozenset())
            problems = self._problems(files)
        else:
            with closing(self._connected()) as database:
                self._ask_what_is_stored(database)
                problems = self._problems(files)
                broken = {problem.file for problem in problems if problem.severity == "error"}
                sound = [file for file in files if file.path not in broken]
                steps = [Step(file, (self.today - ONE_DAY,), self.parameters) for file in sound]
                found, left_out = ask_server(database, steps)
                found += problems_of(database, sound, self.catalog, self.settings.parameters)
                found += tables_without_a_date(database, sound)
                problems = sorted([*problems, *found])
        if self.arguments.json:
            write_text(as_json([asdict(problem) for problem in problems]))
            return _exit_code(problems)
        for problem in problems:
            write_line(str(problem))
        if left_out:
            write_line(f"{count(left_out, 'statement')} could not be explained: a temporary table, a view, or a right.")
        errors = sum(problem.severity == "error" for problem in problems)
        write_line(f"{count(len(files), 'file')} checked: {count(errors, 'error')}, "
                   f"{count(len(problems) - errors, 'warning')}.")  # fmt: skip
        return _exit_code(problems)

    def test(self, patterns: Sequence[str]) -> int:
        """Run the tests of some metrics, or all, and print a line for each; 1 if one failed."""
        tests = select_tests(load_tests(self.settings.metrics_dir), patterns)
        interruption = Interruption()
        interruption.listen()
        on_signals(lambda number, frame: None)
        failed = 0
        with closing(DatabaseManager(self.settings)) as real:  # no signal ends it: it must drop the scratch databases
            real.connect()
            drop_old_ones(real)
            tester = Tester(self.settings, self.catalog, self.zone, real, interruption)
            for test in tests:
                failures = tester.failures(test)
                failed += bool(failures)
                for line in failures or [f"ok {test.path}: {test.description or test.metric}"]:
                    write_line(line)
        write_line(f"{count(len(tests), 'test')}: {len(tests) - failed:,} passed, {failed:,} failed.")
        return PROBLEMS if failed else OK

    def print_sql(self, words: Sequence[str]) -> int:
        """Print the statements of a metric, and of the helpers that it needs, exactly as they are sent for a date.

        They can be piped into the mysql client. A metric of a period is printed for the one that contains the date.
        """
        day = parse_date(words[1], self.today) if len(words) == 2 else self.today - ONE_DAY
        chosen = select(self.catalog, self.mode, words[:1])
        needed = batch_of(self.catalog, self.mode, [day], [file.name for file in chosen]).files
        files = [file for file in self.catalog.in_mode(self.mode) if file in chosen or file in needed]
        write_line(f"SET SESSION group_concat_max_len = {GROUP_CONCAT_BYTES};  -- as in a run: the default cuts JSON")
        for file in files:
            for statement in Step(file, (file.period.end_of(day),), self.parameters).statements:
                print(f"{statement};")  # not write_line(), which would escape a tab
        return OK

    def status(self) -> int:
        """Print what is stored of each metric; with --max-age only those with a problem, and 1 if there is one."""
        max_age = self.arguments.max_age
        with closing(self._connected()) as database:
            found = self._states(database)
            is_running = database.run_lock.is_taken()
        bad = [state for state in found if state.problems(self.today, max_age)]
        shown = found if max_age is None else bad
        repairs = repair_commands(shown, found, self.settings.metrics_history_start, None)
        if self.arguments.json:
            metrics = [self._as_dict(state) for state in shown]
            write_text(as_json({"run_in_progress": is_running, "metrics": metrics, "repairs": repairs}))
            return PROBLEMS if max_age is not None and bad else OK
        if shown:
            head = ("Metric", "Newest", "Final to", "Final", "Waiting", "Due", "ms")
            rows = []
            for state in shown:
                cells = state.cells
                known = (cells.newest, cells.newest_final, f"{cells.counts['final']:,}", f"{len(cells.waiting):,}",
                         f"{len(state.due):,}", cells.milliseconds)  # fmt: skip
                rows.append((state.name, *("-" if cell is None else str(cell) for cell in known)))
            lines = table([head, *rows]).split("\n")
            write_text("\n".join(lines[:2]))
            for state, line in zip(shown, lines[2:], strict=True):  # the remarks below the line: they may be long
                write_text("\n    ".join([line, *map(printable, state.remarks(self.today, max_age))]))
        if is_running:
            write_line("A run is in progress.")
        if max_age is None:
            write_line(f"{in_words(found, self.today)[0]}.")
        for line in repairs:
            write_line(line)
        return PROBLEMS if max_age is not None and bad else OK

    def _states(self, database: DatabaseManager) -> list[MetricState]:
        self._ask_what_is_stored(database)
        store = self._store(database)
        return states(Overview(database, self.today), self.catalog, self.today, store.mended_since(self.today),
                      self._errors_by_path())  # fmt: skip

    def _as_dict(self, state: MetricState) -> dict[str, Any]:
        cells = asdict(state.cells)
        counts, failure = cells.pop("counts"), cells.pop("failure")
        period, newest = state.cells.period, state.cells.newest
        cells |= {"period": str(period), "period_start": period.start_of(newest) if newest else None}
        return {
            **cells, "states": counts, "file": state.file.path if state.file else None,
            "owner": state.file.owner if state.file else "", "due": state.due,
            "too_old_for_nights": state.frozen, "vanished": state.is_vanished, "failure": failure,
            "file_errors": state.file_errors, "problems": state.problems(self.today, self.arguments.max_age),
        }  # fmt: skip

    def html(self, file: str) -> int:
        """Write the numbers of the last days as a page that needs nothing else."""
        from src.display.page import page_of, write

        with closing(self._connected()) as database:
            found = self._chosen(self._states(database))
            overview, name = Overview(database, self.today), self.settings.db_name
            page = page_of(
                self._store(database), overview, found, self.catalog, name, self.today, self.arguments.days,
                self.settings.metrics_history_start,
            )  # fmt: skip
        try:
            write(page, Path(file))
        except OSError as error:
            raise SettingsError(f"--html {file}: cannot write it: {error.strerror or error}") from None
        write_line(f"{page.state}. The page is {file}")
        return OK

    def _chosen(self, found: list[MetricState]) -> list[MetricState]:
        """Return the states of the metrics that --metric and --tag choose, and of the helpers that these read."""
        tags = {tag.lower() for tag in self.arguments.tag}
        if not tags and not self.arguments.metric:
            return found
        known = {tag for state in found if state.file for tag in state.file.tags}
        if unknown := sorted(tags - known):
            raise UsageError(f"no metric has the tag {unknown[0]}; there are: {', '.join(sorted(known)) or 'none'}")
        files = select(self.catalog, Mode.INCREMENTAL, self.arguments.metric)
        chosen = {file.name for file in files if not tags or tags & set(file.tags)}
        chosen |= {read for name in chosen & self.catalog.cells for read in self.catalog.inputs[name]
                   if read in self.catalog.helper_names}  # fmt: skip
        return [state for state in found if state.name in chosen]

    def values(self, words: Sequence[str]) -> int:
        """Print the stored values of metrics, one line for each date, or for each item of a timeseries or ranking."""
        dates = [parse_date(word, self.today) for word in words if _is_date(word)]
        since = self.today - (self.arguments.days - 1) * ONE_DAY
        start, end = (dates[0], dates[-1]) if dates else (since, self.today)
        date_range(start, end)

        def last_of(name: str) -> date:
            """Return the last date to look at: without START the period that runs has a row too, on its last day."""
            return end if dates else self.catalog.period(name).end_of(end)

        patterns = [name for word in words if not _is_date(word) for name in word.split(",") if name]
        with closing(self._connected()) as database:
            store = self._store(database)
            names = matching(sorted(store.names() | self.catalog.names), patterns, "that is stored or has a file")
            final = store.final_cells(start)
            lines = [line for name, day, row in store.rows_between({name: (start, last_of(name)) for name in names})
                     for line in lines_of(name, day, (name, day) in final, row.value_list, row.f_list)]  # fmt: skip
        lines.sort(key=lambda line: (line.metric, line.metric_date))
        if self.arguments.json:
            write_text(as_json([asdict(line) for line in lines]))
            return OK
        fields = list(dict.fromkeys(name for line in lines for name in line.values))
        rows = [
            [line.metric, str(line.metric_date), str(int(line.is_final)), str(line.item or ""),
             *(plain(line.values.get(name)) for name in fields)] for line in lines
        ]  # fmt: skip
        rows.insert(0, ["metric", "metric_date", "is_final", "item", *fields])
        if self.arguments.csv:
            write_csv(rows)
        elif lines:
            write_text(table(rows, fit=True))
        else:
            write_line(f"No value of {listed(sorted(names))} from {start} to {end}.")
        return OK

    def _ask_what_is_stored(self, database: DatabaseManager) -> None:
        known = replace(self.catalog, stored=self._store(database).names())
        self.catalog = with_what_is_behind(database, known)

    def _store(self, database: DatabaseManager) -> MetricStore:
        return MetricStore(database, self.zone, self.settings.metrics_mend_days)

    def _errors_by_path(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for problem in self._problems([file for file in self.catalog.files if not file.disabled]):
            if problem.severity == "error":
                found.setdefault(problem.file, []).append(str(problem))
        return found

    def _connected(self) -> DatabaseManager:
        database = DatabaseManager(self.settings)
        try:
            database.connect()
        except DatabaseError as error:
            hint = "; to check without it: --check --offline" if self.arguments.check else ""
            raise DatabaseError(error.code, f"{error}{hint}") from None
        try:
            self._store(database).require_schema()
        except MetricsError:
            database.close()
            raise
        return database


def _exit_code(problems: Sequence[Problem]) -> int:
    return PROBLEMS if any(problem.severity == "error" for problem in problems) else OK


def _is_date(word: str) -> bool:
    return word in ("today", "yesterday") or re.match(r"\d{4}-", word) is not None


def parse_arguments(argv: Sequence[str] | None) -> ListArguments:
    """Return the command line as a ListArguments. Raises UsageError for one that makes no sense."""
    parser = CommandParser("list_metrics.py", __doc__, EXAMPLES)
    parser.add_argument("--initial", action="store_true", help="the files of the initial load instead of the night's")
    parser.add_argument("--check", action="store_true", help="every rule on every file, and EXPLAIN by the server")
    parser.add_argument("--offline", action="store_true", help="with --check: do not connect")
    parser.add_argument(
        "--test", nargs="*", metavar="NAME", help="run the tests of these metrics (default: all), each in a database "
        "of its own, which is dropped"
    )
    parser.add_argument(
        "--sql", nargs="+", metavar=("NAME", "DATE"), help="its SQL as sent for DATE (default: yesterday)"
    )
    parser.add_argument("--status", action="store_true", help="what is stored of each metric, and its problems")
    parser.add_argument(
        "--max-age", type=at_least(0), metavar="DAYS", help="with --status: only the metrics with a problem; exit 1 "
        "if the newest final row is older, a date is missing or not final, or the last run failed"
    )
    parser.add_argument("--html", metavar="FILE", help="write the numbers as one page that needs nothing else")
    parser.add_argument("--metric", action="append", default=[], metavar="NAME",
                        help="with --html: only this metric, may be repeated; shell wildcards: 'total_*'")  # fmt: skip
    parser.add_argument("--tag", action="append", default=[], help="with --html: only metrics of this tag; repeatable")
    parser.add_argument("--values", nargs="+", action="extend", default=[], metavar=("NAME", "START"),
                        help="print the stored values of NAME, also 'a,b' or 'total_*', from START to END")  # fmt: skip
    parser.add_argument("--csv", action="store_true", help="with --values: print CSV")
    parser.add_argument("--days", type=at_least(1), default=90,
                        help="dates per chart of --html, and of --values without START (default: 90)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--version", action="version", version=VERSION)
    arguments = ListArguments(**vars(parser.parse_args(argv)))
    tests = arguments.test is not None
    answers = (arguments.check, tests, arguments.sql, arguments.status, arguments.html, arguments.values)
    if sum(map(bool, answers)) > 1:
        parser.error("--check, --test, --sql, --status, --html and --values exclude each other")
    if tests and (arguments.initial or arguments.json):
        parser.error("--test takes neither --initial nor --json")
    if (arguments.metric or arguments.tag) and not arguments.html:
        parser.error("--metric and --tag go with --html")
    if arguments.csv and (arguments.json or not arguments.values):
        parser.error("--csv goes with --values, and without --json")
    dates = [word for word in arguments.values if _is_date(word)]
    if arguments.values and (len(dates) > 2 or len(dates) == len(arguments.values)):
        parser.error("--values takes names, and at most a START and an END")
    if arguments.offline and not arguments.check:
        parser.error("--offline goes with --check")
    if arguments.max_age is not None and not arguments.status:
        parser.error("--max-age goes with --status")
    if arguments.sql and (len(arguments.sql) > 2 or arguments.json):
        parser.error("--sql takes a NAME and at most one DATE, and no --json")
    return arguments


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command on the project in the folder `root`, and return its exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # piped into head, it ends without a word
    configure_log(None)
    try:
        arguments = parse_arguments(argv)
        settings = load_settings(root)
        for text in settings.warnings:
            log.warning("%s", text)
        listing = Listing(arguments, settings)
        if arguments.check:
            return listing.check()
        if arguments.test is not None:
            return listing.test(arguments.test)
        if arguments.sql:
            return listing.print_sql(arguments.sql)
        if arguments.status:
            return listing.status()
        if arguments.html:
            return listing.html(arguments.html)
        if arguments.values:
            return listing.values(arguments.values)
        return listing.files()
    except Interrupted as error:
        log.error("%s", error)
        return 128 + error.number
    except MetricsError as error:
        for line in str(error).splitlines():
            log.error("%s", line)
        return NOTHING_DONE


if __name__ == "__main__":
    sys.exit(main())
