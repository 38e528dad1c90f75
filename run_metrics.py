#!/usr/bin/env python3
"""Compute metrics for the night, for one date, for a range of dates, or for the whole history."""

from __future__ import annotations

from src.cli import SIGNALS, VERSION, CommandParser, at_least, exit_on_signals, on_signals, use_own_packages

if __name__ == "__main__":
    use_own_packages(__file__, "PyMySQL", "python-dotenv", "tqdm")
    exit_on_signals()

import signal
import sys
import time
import traceback
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from datetime import date
from difflib import get_close_matches
from pathlib import Path

from config.database import ROOT, Settings, load_settings, on_end_command
from src.dates import ONE_DAY, business_zone, day_at, span, today_in
from src.db_manager import DatabaseManager
from src.display.log import as_json, configure_log, log, set_log_level, write_line, write_text
from src.display.on_end import run_on_end
from src.display.repairs import older_sql_lines, repair_lines, vanished_lines
from src.display.reporting import Reporter, RunSummary
from src.display.status import vanished
from src.errors import DatabaseError, DateError, Interrupted, LockedError, MetricFileError, MetricsError, UsageError
from src.metric_file.checks import Problem, check_catalog
from src.metric_file.file import MetricFile, Mode
from src.metric_file.parameters import Parameters
from src.metric_file.server_checks import ask_server, problems_of, with_what_is_behind
from src.metric_file.step import Step
from src.metric_runner import MetricRunner, RunBatch
from src.running.compute import BatchResult
from src.running.plan import (
    DUE_DATES_PER_NIGHT,
    RETRIES,
    Batch,
    RunArguments,
    batch_of,
    chunks,
    dates_asked_for,
    due_batch,
    lookback_batches,
    running_batches,
)
from src.running.readers import Readers
from src.server.interruption import Interruption
from src.sql_loader import load_catalog, select
from src.storage.store import DueCell, MetricStore
from src.wording import count, listed

OK, A_DATE_FAILED, NOTHING_TRIED, LOCKED, DIFFERS = 0, 1, 2, 3, 4
STATUSES = {OK: "ok", A_DATE_FAILED: "failed", NOTHING_TRIED: "not-started", LOCKED: "locked"}
SHOWN_WARNINGS = 10  # of one transaction
CLOCK_SECONDS = 300  # by which this machine's clock may differ from the server's without a warning

EXAMPLES = """\
examples:
  python run_metrics.py                            the line for cron: yesterday, today, then what is due
  python run_metrics.py 2025-01-15                 one date
  python run_metrics.py 2025-01-01 2025-01-31      a range, both ends included
  python run_metrics.py yesterday --metric 'total_*'
  python run_metrics.py 2025-01-15 --accept NAME   store what its checks refuse, because the number is right
  python run_metrics.py --last 7                   the 7 dates that end today
  python run_metrics.py --initial                  the history, from METRICS_HISTORY_START to today, at once
  python run_metrics.py --initial 2024-12-31       the history up to a date
  python run_metrics.py --initial 2025-01-01 2025-12-31 --chunk month
  python run_metrics.py --initial 2025-01-01 2025-01-31 --dry-run    compare what is stored with the source
  python run_metrics.py --verify 2025-01-01 2025-01-31               compare both ways of computing, store nothing

exit codes: 0 all committed, 1 a date failed, 2 nothing was tried, 3 another run is in progress,
4 stored rows, or the two ways, differ (--dry-run, --verify), 129, 130 and 143 interrupted
"""


class Run:
    """One call of the command. `today` is the date in METRICS_TIMEZONE."""

    def __init__(
        self, arguments: RunArguments, settings: Settings, interruption: Interruption, today: date | None = None
    ) -> None:
        self.arguments = arguments
        self.settings = settings
        self.reporter = Reporter(arguments.quiet or arguments.json, arguments.verbose)
        self.zone = business_zone(settings.metrics_timezone)
        self.today = today or today_in(self.zone)
        self.parameters = Parameters(settings.parameters, self.zone)
        self.catalog = load_catalog(settings.metrics_dir, self.parameters.fingerprinted())
        self.files = select(self.catalog, arguments.mode, arguments.metric)
        self.names = list(dict.fromkeys(file.name for file in self.files))
        self.database = DatabaseManager(settings, interruption)
        self.store = MetricStore(self.database, self.zone, settings.metrics_mend_days)
        self.runner = MetricRunner(self.database, self.store, arguments.retries, arguments.wait)
        readers = 0 if arguments.verify else settings.metrics_readers
        self.readers = Readers(self.database, settings, readers, self.store.has_ended)
        self.summary = RunSummary(arguments, {file.name: file.owner for file in self.catalog.files if file.owner})

    def start(self) -> int:
        """Check everything that can be checked, then run. Returns the exit code."""
        self.settings.require_database()
        history_start = self.settings.metrics_history_start
        dates = dates_asked_for(self.arguments, history_start, self.today)
        self._check_accept(dates[0])
        self.runner.with_retries(lambda: self._prepare(dates), "to connect")
        if self.arguments.is_night:
            dates = [self.today - ONE_DAY, self.today]
        self.parameters = replace(self.parameters, today=self.today)
        self.runner.open(self.catalog, self.parameters, self.today, self.readers)
        with closing(self.readers):
            try:
                if self.arguments.verify:
                    return self._verify(dates)
                if self.arguments.dry_run:
                    return self._dry_run(dates)
            except (DateError, DatabaseError) as error:
                log.error("%s", error)
                return A_DATE_FAILED
            return self._run(dates)

    # --- before the first date ----------------------------------------------------------------------------------------

    def _check_files(self) -> None:
        """Apply the rules to the files that may run. Raises MetricFileError with all errors at once."""
        problems = check_catalog(
            self.catalog, self._files_that_may_run(), self.settings.parameters.keys(), self.settings.db_name
        )
        _refuse(problems)
        for problem in problems:  # warnings, which list_metrics.py prints
            log.getChild("sql").warning("%s", problem)

    def _check_accept(self, day: date) -> None:
        """Raise UsageError for a name of --accept that has no row, or no rows of a helper, on the date."""
        for name in self.arguments.accept:
            if name not in self._batch([day]).names:
                period = self.catalog.period(name)
                near = get_close_matches(name, self.names, 1, 0.4)
                hint = f"; did you mean {near[0]}?" if near and name not in self.names else ""
                hint = f"; its {period} ends on {period.end_of(day)}" if not period.is_end(day) else hint
                raise UsageError(f"--accept {name}: no metric or helper of this name runs on {day}{hint}")

    def _files_that_may_run(self) -> list[MetricFile]:
        """Return the files selected, those that they need, and the initial files that may take their place."""
        files = self._files_of(self.arguments.mode, self.names)
        if self.arguments.verify:
            at_once = select(self.catalog, Mode.INITIAL, self.arguments.metric)
            files += self._files_of(Mode.INITIAL, [file.name for file in at_once])
        initial = self.catalog.initial_files
        return list(dict.fromkeys([*files, *(initial[file.name] for file in files if file.name in initial)]))

    def _files_of(self, mode: Mode, names: Collection[str]) -> list[MetricFile]:
        """Return the files of names and of what they need."""
        needed = self.catalog.with_work_tables(self.catalog.helpers_needed(names).union(names))
        return [file for file in self.catalog.in_mode(mode) if file.name in needed]

    def _prepare(self, dates: Sequence[date]) -> None:
        """Ask the server what must be known before the first date: its tables, its clock, what it says of the files."""
        self.store.require_schema()
        moment = self.store.moment()
        server_today, ahead = day_at(moment, self.zone), time.time() - moment
        if abs(server_today - self.today) > ONE_DAY:
            raise UsageError(f"by this machine's clock today is {self.today}, by the server's {server_today}; "
                             "correct the wrong one (METRICS_TIMEZONE decides)")  # fmt: skip
        if self.arguments.is_night and server_today == self.today - ONE_DAY:
            self.today = server_today  # at midnight the server's clock may be a little behind
        elif dates[-1] > server_today:
            raise UsageError(f"{dates[-1]} has not begun yet: by the server's clock it is still {server_today}")
        if abs(ahead) > CLOCK_SECONDS:
            way = "ahead of" if ahead > 0 else "behind"
            log.warning("this machine's clock is %.0f s %s the server's; correct one of them", abs(ahead), way)
        known = replace(self.catalog, stored=self.store.names(), computed=self.store.computed())
        self.catalog = with_what_is_behind(self.database, known)
        self._check_files()
        not_run = self.catalog.names - (self.catalog.stored or frozenset()) - set(self.names)
        for name in self.names:
            if absent := sorted(not_run & self.catalog.reads.get(name, frozenset())):
                log.warning("%s reads %s, which has no row yet: run that first, or together", name, listed(absent))
        files = self._files_that_may_run()
        _refuse(problems_of(self.database, files, self.catalog, self.settings.parameters))
        if len(dates) > 1 and not self.arguments.is_night:  # so that day 1 of 300 does not die at file 40
            steps = [Step(f, tuple(dates) if f.is_set_based else (dates[-1],), self.parameters) for f in files]
            # To plan a query, the server may call its functions.
            runs_code = any(self.catalog.runs_code(file) or self.catalog.checks_run_code(file) for file in files)
            with self.database.keeping_settings(runs_code):
                found, _ = ask_server(self.database, steps)
            _refuse(found)

    # --- the dates ----------------------------------------------------------------------------------------------------

    def _run(self, dates: Sequence[date]) -> int:
        clock, summary = time.monotonic(), self.summary
        summary.dates = dates
        at_once = self.arguments.initial and not self.arguments.chunk
        if self.arguments.initial:
            self._announce(dates)
        with self.reporter.progress(0 if self.arguments.is_night or at_once else len(dates), "date"):
            if self.arguments.is_night:
                self._night(self._run_batch)
            else:
                self._named_dates(dates, self._run_batch)
        changed = f"{count(len(summary.changes), 'final row')} changed" if summary.changes else "no final row changed"
        log.info("run %s: %s: %s; %.1f s", self.runner.run_id, count(len(summary.committed), "date"), changed,
                 time.monotonic() - clock)  # fmt: skip
        self.say_stopped()
        if not self.database.is_lost():
            self._describe_metrics()
            self._say_what_is_left()
        return A_DATE_FAILED if summary.has_failed else OK

    def _run_batch(self, batch: Batch) -> BatchResult:
        """Run a batch and tell how it ended."""
        result = self._without_repeated(self.runner.run(batch))
        for error in (*result.left_out, *([result.error] if result.error else ())):
            # A broken file fails 33 dates with the same words: print them once.
            (log if self.summary.is_new(error) else log.getChild("sql")).error("%s", error)
        self._tell_warnings(result)
        self.summary.add(result)
        self.reporter.tick(len(batch.dates))
        is_mended = self.arguments.is_night and batch.dates[-1] < self.today - ONE_DAY
        self.reporter.result(result, is_mended and any(change.kind != "unchanged" for change in result.changes))
        self._tell_accepted(result)
        return result

    def _without_repeated(self, result: BatchResult) -> BatchResult:
        """Return the result of a night without the warnings that an earlier run has told; who names a date gets all."""
        if not self.arguments.is_night:
            return result
        return replace(result, warnings=tuple(each for each in result.warnings if each not in result.repeated))

    def _tell_warnings(self, result: BatchResult) -> None:
        """Tell each warning once: a night may compute a date more than once."""
        warnings = [each for each in result.warnings if each not in self.summary.warned]
        for warning in warnings[:SHOWN_WARNINGS]:
            log.warning("%s", warning)
        if more := len(warnings[SHOWN_WARNINGS:]):
            log.warning("%s: %s more of these; list_metrics.py --status --json has all", result.batch.label, more)
        for each in result.unsure[:SHOWN_WARNINGS]:  # a night computes those rows itself, and asks again
            (log.info if self.arguments.is_night else log.warning)(
                "%s; rows before it must be computed again, and then this one, whose check is asked again", each
            )

    def _tell_accepted(self, result: BatchResult) -> None:
        """Tell what became of the names of --accept, and which values that are accepted already have changed."""
        changed = {(change.metric, change.metric_date) for change in result.changes if change.kind == "changed"}
        for each in result.accepted:
            if each.metric not in self.arguments.accept and (each.metric, each.metric_date) in changed:
                log.warning("%s %s: its value has changed, and what was accepted before still fails: %s",
                            each.metric_date, each.metric, each.text)  # fmt: skip
        for name in () if result.error else self.arguments.accept:
            found = [each for each in result.accepted if each.metric == name]
            for each in found:
                self.reporter.say(f"{each.metric_date} {name}: accepted: {each.text}", True)
            if not found and name not in result.not_run:
                self.reporter.say(f"{result.batch.label} {name}: no check failed; there was nothing to accept", True)

    def _named_dates(self, dates: Sequence[date], run: RunBatch) -> None:
        """Run the dates; the first that fails ends the run, unless --keep-going is given."""
        batches = [self._batch(days) for days in chunks(self.arguments, dates)]
        if not any(batch.files for batch in batches):
            self.reporter.say(f"{span(dates)}  nothing to compute: no period of {listed(self.names)} ends there")
        self.runner.expect(batches)
        for batch in batches:
            result = run(batch)
            if (result.error and not self.arguments.keep_going) or self.database.is_lost():
                return

    def _night(self, run: RunBatch) -> None:
        """Run yesterday, today and the periods that run, then look back, then compute what is due and nothing else."""
        yesterday = self.today - ONE_DAY
        left_out: set[tuple[str, date]] = set()
        tried: set[date] = set()

        def done(batch: Batch, is_due: bool = False) -> bool:
            """Run a batch, note what failed, and tell whether the night can go on."""
            result = run(batch)
            if is_due:  # else it is due now, and comes after the rows that its checks wait for
                left_out.update((each.metric, each.metric_date) for each in result.unsure)
            day = batch.dates[-1]
            if result.error or (result.left_out and day != yesterday):
                tried.add(day)
            left_out.update((name, day) for name in result.not_run)
            return not self.database.is_lost()

        goes_on = self.settings.metrics_on_failure == "metric"
        days = [batch_of(self.catalog, Mode.INCREMENTAL, [day], self.names, goes_on, today=self.today)
                for day in (yesterday, self.today)]  # fmt: skip
        first = self.runner.with_retries(lambda: self.store.first_dates(self.catalog.nightly), "to ask for first rows")
        lookback = self.settings.metrics_lookback_days
        batches = [batch for batch in days if batch.files]
        batches += running_batches(self.catalog, self.names, self.today, goes_on)
        self.summary.dates = [batch.dates[-1] for batch in batches]
        batches += lookback_batches(self.catalog, self.names, self.today, lookback, first)
        self.runner.expect(batches)
        for batch in batches:
            if not done(batch):
                return
        mended: set[date] = set()
        for _ in range(DUE_DATES_PER_NIGHT):
            due = due_batch(self.catalog, self._due(), left_out, tried, mended)
            if due is None or not done(due, is_due=True):
                return
            mended.update(due.dates)

    def _batch(self, days: Sequence[date]) -> Batch:
        goes_on = self.settings.metrics_on_failure == "metric"
        with_running = self.arguments.initial and days[-1] == self.today
        batch = batch_of(self.catalog, self.arguments.mode, days, self.names, goes_on, with_running, self.today)
        return replace(batch, looks_again=frozenset(self.catalog.periods).intersection(self.names),
                       accepts=frozenset(self.arguments.accept))  # fmt: skip

    def _due(self) -> list[DueCell]:
        """Return the due cells of the names that this run is for."""

        def ask() -> list[DueCell]:
            self.runner.reconcile()  # not done yet if yesterday and today have failed
            return self.store.due(self.catalog.nightly, self.today)

        due = self.runner.with_retries(ask, "to ask what is due")
        names = set(self.names)
        return [cell for cell in due if cell.name in names]

    def _announce(self, dates: Sequence[date]) -> None:
        per_date = sum(not file.is_set_based for file in self.files)
        transactions = len(list(chunks(self.arguments, dates)))
        self.reporter.say(
            f"Initial load of {span(dates)}: {count(len(dates), 'date')}, {count(len(self.files), 'file')}, "
            f"{per_date} of them once per date; {count(transactions, 'transaction')}."
        )
        if self.settings.metrics_history_start is None and len(self.arguments.dates) < 2:
            self.reporter.say(
                "METRICS_HISTORY_START is not set, so one date is loaded. For more: "
                f"python run_metrics.py --initial 2024-01-01 {dates[0]}"
            )

    # --- without storing anything -------------------------------------------------------------------------------------

    def _dry_run(self, dates: Sequence[date]) -> int:
        def work(run: RunBatch) -> None:
            if self.arguments.is_night:
                self._night(run)
            else:
                self._named_dates(dates, run)

        results = self.runner.dry_run(work)
        for result in map(self._without_repeated, results):
            self._tell_warnings(result)
            self._tell_accepted(result)
        changes = [change for result in results for change in result.changes]
        if self.arguments.json:
            write_text(as_json([asdict(change) for change in changes]))
        else:
            self.reporter.dry_run(changes)
        return DIFFERS if any(change.was_final and change.kind == "changed" for change in changes) else OK

    def _verify(self, dates: Sequence[date]) -> int:
        at_once = select(self.catalog, Mode.INITIAL, self.arguments.metric)
        both = {file.name for file in at_once if not file.is_helper} & set(self.names)
        if not both:
            raise UsageError("--verify: no metric can be computed both at once and date by date")
        first = batch_of(self.catalog, Mode.INITIAL, dates, both, today=self.today)
        by_date = batch_of(self.catalog, Mode.INCREMENTAL, dates, both)
        verdict = self.runner.verify(replace(first, if_needed=frozenset()), by_date.files)
        if self.arguments.json:
            moved = [{"metric": name, "metric_date": day} for name, day in verdict.moved]
            different = [asdict(change) for change in verdict.different]
            write_text(as_json({"compared": verdict.compared, "different": different, "source_changed": moved}))
        else:
            self.reporter.verdict(verdict)
        if verdict.different:
            return DIFFERS
        return A_DATE_FAILED if verdict.moved else OK  # something could not be compared

    # --- the end ------------------------------------------------------------------------------------------------------

    def interrupted(self, error: Interrupted) -> None:
        """Stop what the server still does for us, and say what was committed."""
        left = self.database.may_be_stored
        log.error("%s", f"{error}. Beware: {left}" if left else error)
        self.summary.fail(error)
        self.summary.partly_stored |= bool(left)
        self.say_stopped()
        self.database.interruption = Interruption()  # no further signal reaches it: the first is enough
        self.database.kill_lost_session()

    def say_stopped(self) -> None:
        """Say what was committed, and the command that runs the rest."""
        if self.summary.resume:
            log.info("%s", self.summary.stopped())
            write_line(self.summary.stopped(), sys.stderr)

    def _describe_metrics(self) -> None:
        """Let bi_metric_catalog say what the headers of the metric files say."""
        try:
            self.store.describe(self.catalog.describing_files, self.catalog.stored or ())
        except DatabaseError as error:
            log.warning("could not store what the headers of the metric files say in bi_metric_headers: %s", error)

    def _say_what_is_left(self) -> None:
        """Print which cells are due, which metrics have lost their file, and which rows older SQL has computed."""
        summary, catalog = self.summary, self.catalog
        try:
            if not self.arguments.is_night:  # the dates may lie before the first row, with a gap between
                self.runner.note_gaps()
            due = self.store.due(catalog.nightly, self.today)
            summary.missing = [(cell.name, cell.day) for cell in due if cell.is_missing]
            summary.reopened = [(cell.name, cell.day) for cell in due if not cell.is_missing]
            if summary.has_reopened:
                summary.too_old = self.store.too_old(catalog.nightly, self.today)
            summary.vanished = vanished(self.store, catalog, self.today)
            redefined = {name: catalog.definition(name) for name in sorted(summary.redefined)}
            summary.older_sql = self.store.older_sql(redefined) if redefined else []
        except DatabaseError as error:
            log.warning("could not look for what is due: %s", error)
            return
        periods = {name: each.period for name, each in catalog.nightly.items()}
        summary.periods = periods
        start = self.settings.metrics_history_start
        for line in (
            *repair_lines("missing", summary.missing, periods, start),
            *repair_lines("to be computed again", summary.reopened, periods, start),
            *repair_lines("reopened, and too old for nights", summary.too_old, periods, start),
            *vanished_lines(summary.vanished, catalog.dependents),
            *older_sql_lines(summary.older_sql, start),
        ):
            log.warning("%s", line)


def _refuse(problems: Iterable[Problem]) -> None:
    """Raise MetricFileError with all errors among the problems at once."""
    errors = [str(problem) for problem in problems if problem.severity == "error"]
    if errors:
        raise MetricFileError("\n".join(errors))


def parse_arguments(argv: Sequence[str]) -> RunArguments:
    """Return the command line. Raises UsageError for one that makes no sense."""
    parser = CommandParser("run_metrics.py", __doc__, EXAMPLES)
    parser.add_argument(
        "dates", nargs="*", metavar="DATE", help="YYYY-MM-DD, 'yesterday' or 'today'; two are a range, with both ends"
    )
    parser.add_argument(
        "--initial", action="store_true", help="load the history at once with the initial files, from START "
        "(default: METRICS_HISTORY_START) to END (default: today)"
    )
    parser.add_argument("--chunk", choices=["month"], help="split an initial load into one transaction per month")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME",
        help="run only this metric (may be repeated; * and ? are wildcards)",
    )
    parser.add_argument("--last", type=at_least(1), metavar="N", help="the N dates that end with DATE (default: today)")
    parser.add_argument(
        "--accept", action="append", default=[], metavar="NAME",
        help="with one date: store it though checks of this metric or helper fail, and keep what they found in its "
        "state (may be repeated)",
    )
    parser.add_argument("--keep-going", action="store_true", help="go on with the other dates after one fails")
    parser.add_argument(
        "--dry-run", action="store_true", help="run everything in one transaction, show what would change, and roll "
        "back. It takes locks and time like a real run. Incremental files build on stored rows, so late or corrected "
        "data shows only with --initial START END --dry-run"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compute START to END both ways, at once and date by date, and compare; "
        "nothing is stored"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON, on the last line")
    parser.add_argument(
        "--retries", type=at_least(0), default=RETRIES, metavar="N",
        help="further tries of a date after a lost connection, a deadlock or the like (default: %(default)s)",
    )
    parser.add_argument(
        "--wait", type=at_least(0), default=0, metavar="SECONDS",
        help="wait up to SECONDS for another run to end (default: exit 3 at once)",
    )
    parser.add_argument("--quiet", action="store_true", help="print only failures, dates to repair and what changed")
    parser.add_argument("--verbose", action="store_true", help="print each file with its time")
    parser.add_argument("--version", action="version", version=VERSION)
    words = vars(parser.parse_intermixed_args(argv))
    lists = {name: tuple(words[name]) for name in ("dates", "metric", "accept")}
    arguments = RunArguments(**{**words, **lists})
    _refuse_conflicts(parser, arguments)
    return arguments


def _refuse_conflicts(parser: CommandParser, arguments: RunArguments) -> None:
    kinds = [name for name in ("initial", "last", "verify") if getattr(arguments, name)]
    if len(kinds) > 1:
        parser.error(" and ".join(f"--{kind}" for kind in kinds) + " exclude each other")
    most = 1 if arguments.last else 2
    if len(arguments.dates) > most:
        parser.error(f"{len(arguments.dates)} dates given; at most {most} make sense here")
    if arguments.verify and len(set(arguments.dates)) != 2:
        parser.error("--verify needs two dates, START and END: the first is computed by the initial file both times")
    if arguments.verify and arguments.dry_run:
        parser.error("--verify and --dry-run exclude each other: neither stores anything")
    if arguments.chunk and not arguments.initial:
        parser.error("--chunk goes with --initial")
    if arguments.chunk and arguments.dry_run:
        parser.error("--chunk and --dry-run exclude each other: a dry run is one transaction")
    is_one_date = len(set(arguments.dates)) == 1 and not arguments.last
    if arguments.accept and not (is_one_date and (len(arguments.dates) == 2 or not arguments.initial)):
        parser.error("--accept takes one named date: a person has looked at its number")
    if arguments.quiet and arguments.verbose:
        parser.error("--quiet and --verbose exclude each other")


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command on the project in the folder `root`, and return its exit code."""
    clock, words = time.monotonic(), list(sys.argv[1:] if argv is None else argv)
    arguments, run, interruption = RunArguments(), None, Interruption()
    summary = RunSummary(arguments)
    where = {"database": "", "host": ""}
    console = configure_log(root / "logs" / "metrics.log")
    interruption.listen()
    on_signals(lambda number, frame: None)  # not SIG_IGN, which METRICS_ON_END would inherit
    try:
        arguments = parse_arguments(words)
        settings = load_settings(root)
        where = {"database": settings.db_name, "host": settings.host}
        log.info("%s on %s at %s", " ".join(["run_metrics.py", *words]), settings.db_name, settings.host)
        set_log_level(settings.log_level)
        for text in settings.warnings:
            log.warning("%s", text)
        run = Run(arguments, settings, interruption)
        summary = run.summary
        exit_code = run.start()
        interruption.check()
    except Interrupted as error:
        if run is not None:
            run.interrupted(error)
        exit_code = 128 + error.number
    except MetricsError as error:
        for line in str(error).splitlines():
            log.error("%s", line)
        summary.fail(error)
        exit_code = LOCKED if isinstance(error, LockedError) else NOTHING_TRIED
        if run is not None and summary.committed:
            exit_code = A_DATE_FAILED
            run.say_stopped()
    except Exception as error:  # a fault of this program: METRICS_ON_END must hear of it, too
        traceback.print_exc()
        log.critical("a fault of this program", exc_info=True)
        summary.fail(error)
        exit_code = A_DATE_FAILED
    if run is not None:
        run.database.close()
    if not (arguments.dry_run or arguments.verify):
        run_id, seconds = run.runner.run_id if run is not None else None, round(time.monotonic() - clock, 3)
        outcome = {"run_id": run_id, "version": VERSION, "command": ["run_metrics.py", *words],
                   **where, "status": STATUSES.get(exit_code, "interrupted"), "exit_code": exit_code,
                   "seconds": seconds, **summary.as_dict(), "warnings": console.warnings}  # fmt: skip
        run_on_end(on_end_command(root), outcome)
        if arguments.json:
            write_line(as_json(outcome, indent=None))
    return exit_code


if __name__ == "__main__":
    code = main()
    for number in SIGNALS:  # Python restores the default handlers at exit, and a late signal would change the exit code
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)
