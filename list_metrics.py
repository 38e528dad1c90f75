#!/usr/bin/env python3
"""List the metrics in run order, check their files, print their SQL, show what is stored. Changes no data."""

from __future__ import annotations

from src.cli import VERSION, CommandParser, at_least, exit_on_signals, use_own_packages

if __name__ == "__main__":
    use_own_packages(__file__)
    exit_on_signals()

import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from config.database import GROUP_CONCAT_BYTES, Settings, load_settings
from src.dates import ONE_DAY, business_zone, parse_date, today_in
from src.db_manager import DatabaseManager
from src.display.log import as_json, configure_log, log, table, write_line, write_text
from src.display.status import in_words, repair_commands, states
from src.errors import DatabaseError, MetricsError, SettingsError
from src.metric_file.checks import Problem, check_catalog, placement_problems
from src.metric_file.file import MetricFile, Mode
from src.metric_file.server_checks import ask_server, keyless_temporary_tables, named_zones, wrong_engines
from src.metric_file.step import Parameters, Step
from src.sql_loader import load_catalog, select
from src.storage.store import MetricStore
from src.wording import count

OK, PROBLEMS, NOTHING_DONE = 0, 1, 2

EXAMPLES = """\
examples:
  python list_metrics.py                          what the nightly run executes, in order
  python list_metrics.py --initial                what the initial load executes
  python list_metrics.py --check                  every rule on every file, and EXPLAIN by the server
  python list_metrics.py --check --offline        the same without a database
  python list_metrics.py --sql total_revenue 2025-01-15    the statements as they are sent
  python list_metrics.py --status                 dates, rows, what is missing or not final, the last run
  python list_metrics.py --status --max-age 1     as a probe: only metrics with a problem, exit 1 if there is one
  python list_metrics.py --html page.html         the numbers as a page

exit codes: 0 all well, 1 a file has an error or a metric a problem, 2 the question could not be answered
"""


@dataclass(frozen=True)
class ListArguments:
    """The command line of list_metrics.py; each field is an option of that name."""

    initial: bool = False
    check: bool = False
    offline: bool = False
    sql: Sequence[str] | None = None
    status: bool = False
    max_age: int | None = None
    html: str | None = None
    days: int = 90
    json: bool = False


class Listing:
    """One call of the command."""

    def __init__(self, call: ListArguments, settings: Settings) -> None:
        self.call = call
        self.settings = settings
        self.mode = Mode.INITIAL if call.initial else Mode.INCREMENTAL
        self.zone = business_zone(settings.metrics_timezone)
        self.today = today_in(self.zone)
        self.parameters = Parameters(settings.parameters, self.zone)
        self.catalog = load_catalog(settings.metrics_dir, self.parameters.fingerprinted())

    def _problems(self, files: Sequence[MetricFile]) -> list[Problem]:
        found = check_catalog(self.catalog, files, self.settings.parameters.keys(), self.settings.db_name)
        return sorted(found + placement_problems(self.catalog, self.settings.metrics_dir))

    def files(self) -> int:
        """Print the files of a mode in run order, the disabled ones too, and their problems below."""
        files = select(self.catalog, self.mode, [])
        shown = [f for f in self.catalog.files if f in files or (f.disabled and f.mode in (None, self.mode))]
        problems = self._problems(files)
        head = ("#", "Metric", "Type", "Runs", "Reads", "File", "Description")
        rows = []
        for file in shown:
            kind = "disabled" if file.disabled else "helper" if file.is_helper else file.data_type or "-"
            number = "-" if file.disabled else str(files.index(file) + 1)
            reads = ", ".join(sorted(self.catalog.reads_of(file))) or "-"
            runs = "set-based" if file.is_set_based else "per date"
            rows.append((number, file.name, kind, runs, reads, file.path, file.description))
        if self.call.json:
            keys = ("number", "metric", "data_type", "runs", "reads", "file", "description")
            write_text(as_json([dict(zip(keys, row, strict=True)) for row in rows]))
        else:
            write_text(table([head, *rows], fit=True))
            for problem in problems:
                write_line(str(problem))
        return _exit_code(problems)

    def check(self) -> int:
        """Print every problem of every file as file:line:column, sorted; 1 where one is an error."""
        files = [file for file in self.catalog.files if not file.disabled]
        problems, left_out = self._problems(files), 0
        if not self.call.offline:
            broken = {problem.file for problem in problems if problem.severity == "error"}
            sound = [file for file in files if file.path not in broken]
            steps = [Step(file, (self.today - ONE_DAY,), self.parameters) for file in sound]
            with closing(self._connected()) as database:
                found, left_out = ask_server(database, steps)
                for ask in (wrong_engines, named_zones, keyless_temporary_tables):
                    found += ask(database, sound)
                problems = sorted([*problems, *found])
        if self.call.json:
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

    def print_sql(self, words: Sequence[str]) -> int:
        """Print the statements of a metric exactly as they are sent for a date, to pipe into the mysql client."""
        day = parse_date(words[1], self.today) if len(words) == 2 else self.today - ONE_DAY
        files = select(self.catalog, self.mode, words[:1])
        write_line(f"SET SESSION group_concat_max_len = {GROUP_CONCAT_BYTES};  -- as in a run: the default cuts JSON")
        for file in files:
            for statement in Step(file, (day,), self.parameters).statements:
                print(f"{statement};")  # not write_line(), which would escape a tab
        return OK

    def status(self) -> int:
        """Print what is stored of each metric; with --max-age only those with a problem, and 1 where there is one."""
        max_age = self.call.max_age
        with closing(self._connected()) as database:
            found = states(MetricStore(database, self.zone), self.catalog, self.today, self._errors_by_path())
        bad = [state for state in found if state.problems(self.today, max_age)]
        shown = found if max_age is None else bad
        if self.call.json:
            keys = ("name", "missing", "not_final", "future", "sql_changed", "file_errors")
            write_text(as_json([
                {key: getattr(state, key) for key in keys} | {"file": state.file.path if state.file else None}
                | (asdict(state.stored) if state.stored else {}) | {"problems": state.problems(self.today, max_age)}
                for state in shown
            ]))  # fmt: skip
        elif shown:
            head = ("Metric", "First", "Newest", "Newest final", "Rows", "Last run", "ms", "Remarks")
            rows = []
            for state in shown:
                known = state.stored
                cells = (known.first, known.newest, known.newest_final, f"{known.rows:,}", known.last_run,
                         known.last_milliseconds) if known else (None,) * 6  # fmt: skip
                remarks = "; ".join(state.remarks(self.today, max_age))
                rows.append((state.name, *("-" if cell is None else str(cell) for cell in cells), remarks))
            write_text(table([head, *rows]))
        if not self.call.json:
            if max_age is None:
                write_line(f"{in_words(found, self.today)[0]}.")
            for line in repair_commands(shown, found, None):
                write_line(line)
        return PROBLEMS if max_age is not None and bad else OK

    def html(self, file: str) -> int:
        """Write the numbers of the last days as a page that needs nothing else."""
        from src.display.page import page_of, write

        with closing(self._connected()) as database:
            page = page_of(MetricStore(database, self.zone), self.catalog, self.settings, self.today, self.call.days,
                           self._errors_by_path())  # fmt: skip
        try:
            write(page, Path(file))
        except OSError as error:
            raise SettingsError(f"--html {file}: cannot write it: {error.strerror or error}") from None
        write_line(f"{page.state}. The page is {file}")
        return OK

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
            hint = "; to check without it: --check --offline" if self.call.check else ""
            raise DatabaseError(error.code, f"{error}{hint}") from None
        MetricStore(database, self.zone).require_schema()
        return database


def _exit_code(problems: Sequence[Problem]) -> int:
    return PROBLEMS if any(problem.severity == "error" for problem in problems) else OK


def parse_arguments(argv: Sequence[str] | None) -> ListArguments:
    """Return the command line as a ListArguments. Raises UsageError for one that makes no sense."""
    parser = CommandParser("list_metrics.py", __doc__, EXAMPLES)
    parser.add_argument("--initial", action="store_true", help="the files of the initial load instead of the night's")
    parser.add_argument("--check", action="store_true", help="every rule on every file, and EXPLAIN by the server")
    parser.add_argument("--offline", action="store_true", help="with --check: do not connect")
    parser.add_argument(
        "--sql", nargs="+", metavar=("NAME", "DATE"), help="its SQL as sent for DATE (default: yesterday)"
    )
    parser.add_argument("--status", action="store_true", help="what is stored of each metric, and its problems")
    parser.add_argument(
        "--max-age", type=at_least(0), metavar="DAYS", help="with --status: only the metrics with a problem; exit 1 "
        "where the newest final row is older, a date is missing or not final, or the last run failed"
    )
    parser.add_argument("--html", metavar="FILE", help="write the numbers as one page that needs nothing else")
    parser.add_argument("--days", type=at_least(1), default=90, help="with --html: dates per chart (default: 90)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--version", action="version", version=VERSION)
    call = ListArguments(**vars(parser.parse_args(argv)))
    if sum(map(bool, (call.check, call.sql, call.status, call.html))) > 1:
        parser.error("--check, --sql, --status and --html exclude each other")
    if call.offline and not call.check:
        parser.error("--offline goes with --check")
    if call.max_age is not None and not call.status:
        parser.error("--max-age goes with --status")
    if call.sql and (len(call.sql) > 2 or call.json):
        parser.error("--sql takes a NAME and at most one DATE, and no --json")
    return call


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # piped into head, it ends without a word
    configure_log(None)
    try:
        call = parse_arguments(argv)
        settings = load_settings()
        for text in settings.warnings:
            log.warning("%s", text)
        listing = Listing(call, settings)
        if call.check:
            return listing.check()
        if call.sql:
            return listing.print_sql(call.sql)
        if call.status:
            return listing.status()
        if call.html:
            return listing.html(call.html)
        return listing.files()
    except MetricsError as error:
        for line in str(error).splitlines():
            log.error("%s", line)
        return NOTHING_DONE


if __name__ == "__main__":
    sys.exit(main())
