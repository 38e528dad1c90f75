#!/usr/bin/env python3
"""Run the metrics of a date, of a range of dates, or the first load of the history."""

from __future__ import annotations

import gc
import signal

if __name__ == "__main__":
    gc.disable()  # until the metric files are read: nothing that is loaded until then goes away
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main() takes over: no traceback for a Ctrl-C while we import

import argparse
import os
import sys
import time
from collections.abc import Sequence
from datetime import date
from types import FrameType

from config.database import ROOT, Settings, load_settings
from src.command import CommandParser, not_negative, positive
from src.dates import business_zone, today_in
from src.db_manager import DatabaseManager
from src.errors import DatabaseError, DateError, LockedError, MetricFileError, MetricsError
from src.metric_runner import MetricRunner, Options
from src.outcome import Outcome, count, holes_line, later_line
from src.packet import span
from src.plan import count_works, dates_asked_for, dates_to_catch_up, works_of
from src.reporting import Reporter, as_json, configure_log, log
from src.selection import check_files, select
from src.sql_loader import Metric, load_catalog
from src.store import MetricStore

OK, A_DATE_FAILED, NOTHING_TRIED, LOCKED, DIFFERS = 0, 1, 2, 3, 4

EXAMPLES = """\
examples:
  python run_metrics.py                            yesterday, then today (the line for cron)
  python run_metrics.py 2025-01-15                 one date
  python run_metrics.py 2025-01-01 2025-01-31      a range, both ends included
  python run_metrics.py yesterday --metric 'total_*'
  python run_metrics.py --last 7                   the 7 dates that end today
  python run_metrics.py --catch-up                 every date since the last one that is stored
  python run_metrics.py --initial                  the history, from METRICS_HISTORY_START to today, in one go
  python run_metrics.py --initial 2024-12-31       the history up to a date
  python run_metrics.py --initial 2025-01-01 2025-12-31 --chunk month
  python run_metrics.py --initial 2025-01-01 2025-01-31 --dry-run    compare what is stored with the source

exit codes: 0 all committed, 1 a date failed, 2 nothing was tried, 3 another run is at work,
4 a dry run found stored rows that differ, 130 and 143 interrupted
"""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Run:
    """One call of the command."""

    def __init__(self, args: argparse.Namespace, settings: Settings) -> None:
        self.args = args
        self.settings = settings
        self.reporter = Reporter(args.quiet or args.json, args.verbose)
        self.zone = business_zone(settings.metrics_timezone)
        self.today = today_in(self.zone)
        self.catalog = load_catalog(ROOT / "sql")
        self.files = select(self.catalog, "initial" if args.initial else "incremental", args.metric)
        self.names = [file.name for file in self.files if not file.is_helper]
        self.each_date = sum(file.mode == "both" for file in self.files)  # an initial load runs these once a date
        self.twins = {} if args.initial else self.catalog.initial_twins()
        self.database = DatabaseManager(settings)
        self.store = MetricStore(self.database, self.zone)
        self.outcome = Outcome(args, ())

    def start(self) -> int:
        """Check everything that can be checked, then run. Returns the exit code."""
        history_start = self.settings.metrics_history_start
        asked = [] if self.args.catch_up else dates_asked_for(self.args, history_start, self.today)
        to_check = [*self.files, *(self.twins[file.name] for file in self.files if file.name in self.twins)]
        check_files(self.catalog, to_check, self.settings)
        runner = self._runner(asked)
        dates = runner.open(lambda: self._prepare(asked, to_check))
        if not dates:
            self.reporter.say("Nothing to catch up: every metric has the row of that date.")
            return OK
        if self.args.catch_up:
            self.reporter.say(f"Catching up {span(dates)}: {count(len(dates), 'date')}.")
        if self.args.dry_run:
            return self._rehearse(runner, dates)
        return self._run(runner, dates)

    def _prepare(self, asked: list[date], files: Sequence[Metric]) -> list[date]:
        """Ask the server what must be known before the first date: its tables, the dates to catch up, the files."""
        self.store.require_schema()
        dates = asked or dates_to_catch_up(self.args, self.store.status(self.names).values(), self.today)
        if dates:
            self._ask_server(files, dates)
        return dates

    def interrupted(self, error: Interrupted) -> None:
        """Stop what the server still does for us, and say what was committed."""
        self.database.kill_lost_session()
        log.error("%s", error)
        self._say_stopped()

    def _runner(self, dates: Sequence[date]) -> MetricRunner:
        args = self.args
        options = Options(args.retries, args.wait, args.keep_going)
        runner = MetricRunner(self.database, self.catalog, self.files, self.settings.parameters, self.zone, options)
        if args.initial and len(dates) > 1 and not args.chunk:
            executions = len(self.files) - self.each_date + self.each_date * len(dates)
            runner.on_step = self.reporter.files(executions, dates[-1])
        return runner

    def _ask_server(self, files: Sequence[Metric], dates: Sequence[date]) -> None:
        """Let the server judge the files of a range first, so that day 1 of 300 does not die at file 40."""
        from src.server_checks import ask_server, wrong_engines

        args = self.args
        if len(dates) > 1 and (args.dates or args.last or args.catch_up or args.initial):
            problems = ask_server(self.database, files, self.settings.parameters, dates)
        else:
            problems = list(wrong_engines(self.database, files))
        errors = [str(problem) for problem in problems if problem.severity == "error"]
        if errors:
            raise MetricFileError(errors)

    def _run(self, runner: MetricRunner, dates: Sequence[date]) -> int:
        clock = time.monotonic()
        self.outcome = outcome = Outcome(self.args, dates)
        works = count_works(self.args, dates)
        if self.args.initial:
            self._announce(dates, works)
        try:
            for result in self.reporter.follow(runner.run(works_of(self.args, dates)), works):
                outcome.add(result)
                if result.error is not None:
                    log.error("%s", result.error)
        except (DateError, LockedError) as error:
            log.error("%s", error)
            self._say_stopped()
            return A_DATE_FAILED
        log.info("run %s: %s; %.1f s", runner.run_id, outcome.summary(), time.monotonic() - clock)
        self._say_what_follows()
        return A_DATE_FAILED if outcome.failed else OK

    def _rehearse(self, runner: MetricRunner, dates: Sequence[date]) -> int:
        try:
            results = runner.rehearse(list(works_of(self.args, dates)))
        except DateError as error:
            log.error("%s", error)
            return A_DATE_FAILED
        changes = [change for result in results for change in result.changes]
        if self.args.json:
            print(as_json([change.__dict__ for change in changes]))
        else:
            self.reporter.rehearsal(changes)
        return DIFFERS if any(change.was_final and change.kind == "changed" for change in changes) else OK

    def _announce(self, dates: Sequence[date], works: int) -> None:
        self.reporter.say(
            f"Initial load of {span(dates)}: {count(len(dates), 'date')}, {count(len(self.files), 'file')}, "
            f"{self.each_date} of them run once a date; {count(works, 'transaction')}."
        )

    def _say_stopped(self) -> None:
        if self.outcome.has_dates:
            log.info("%s", self.outcome.stopped())
            print(self.outcome.stopped(), file=sys.stderr)

    def _say_what_follows(self) -> None:
        """Say what changed, what failed, which dates are missing, and which rows are now out of date."""
        outcome = self.outcome
        if outcome.is_worth_a_line:
            self.reporter.say(f"{outcome.summary()}.")
        if outcome.failed:
            print(outcome.failures(), file=sys.stderr)
        chained = self.catalog.initial_twins().keys() & set(self.names)
        try:
            holes, half_days = self.store.holes(self.names, self.today) if self.names else ([], [])
            later = self.store.later(chained, outcome.committed[-1]) if chained and outcome.touched else None
        except DatabaseError as error:
            log.warning("could not look for missing dates: %s", error)
            return
        if holes:
            log.warning("%s", holes_line("dates are missing", holes))
        if half_days:
            log.warning("%s", holes_line("rows hold a part of their day", half_days))
        if later:
            log.warning("%s", later_line(later, chained))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser("run_metrics.py", __doc__, EXAMPLES)
    add = parser.add_argument
    add("dates", nargs="*", metavar="DATE", help="YYYY-MM-DD, 'yesterday' or 'today'; two are a range, both included")
    add("--initial", action="store_true", help="run sql/initial/: all dates up to DATE (default: today) at once, from "
        "the first of two dates or METRICS_HISTORY_START")  # fmt: skip
    add("--chunk", choices=["month"], help="split an initial load into a transaction a month")
    add("--metric", action="append", default=[], metavar="NAME", help="only this metric (repeatable; * and ? match)")
    add("--last", type=positive, metavar="N", help="the N dates up to DATE (default: today)")
    add("--catch-up", action="store_true", help="the dates since the last stored one, up to DATE (default: today)")
    add("--keep-going", action="store_true", help="after a failed date run the others too")
    add("--dry-run", action="store_true", help="run everything in one transaction and roll it back; shows what would "
        "change. It takes locks and time like a real run. Incremental files build on stored rows, so late or corrected "
        "data shows only with --initial START END --dry-run")  # fmt: skip
    add("--json", action="store_true", help="print the result of a dry run as JSON")
    add("--retries", type=not_negative, default=Options.retries, metavar="N",
        help="further tries of a date after a lost connection, a deadlock or the like (default: %(default)s)")
    add("--wait", type=not_negative, default=0, metavar="SECONDS",
        help="wait for another run to end (default: exit 3 at once)")  # fmt: skip
    add("--quiet", action="store_true", help="print nothing unless something is wrong")
    add("--verbose", action="store_true", help="print each file with its rows and time")
    args = parser.parse_intermixed_args(argv)
    _refuse_conflicts(parser, args)
    return args


def _refuse_conflicts(parser: CommandParser, args: argparse.Namespace) -> None:
    kinds = [name for name in ("initial", "last", "catch_up") if getattr(args, name)]
    if len(kinds) > 1:
        parser.error(" and ".join(f"--{kind.replace('_', '-')}" for kind in kinds) + " exclude each other")
    most = 1 if args.last or args.catch_up else 2
    if len(args.dates) > most:
        parser.error(f"{len(args.dates)} dates given; at most {most} make sense here")
    if args.chunk and not args.initial:
        parser.error("--chunk goes with --initial")
    if args.chunk and args.dry_run:
        parser.error("--chunk and --dry-run exclude each other: a dry run is one transaction")
    if args.json and not args.dry_run:
        parser.error("--json goes with --dry-run")
    if args.quiet and args.verbose:
        parser.error("--quiet and --verbose exclude each other")


def _raise_interrupted(number: int, frame: FrameType | None) -> None:
    _ignore_signals()  # the first one is enough
    raise Interrupted(number)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = parse_arguments(argv)
    configure_log(ROOT / "logs" / "metrics.log", args.quiet)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise_interrupted)
    run: Run | None = None
    try:
        settings = load_settings()
        log.setLevel(settings.log_level)
        if settings.readable_by_others:
            log.warning(".env holds a password and everybody may read it; run: chmod 600 .env")
        run = Run(args, settings)
        return run.start()
    except MetricFileError as error:
        for problem in error.problems:
            log.error("%s", problem)
        return NOTHING_TRIED
    except MetricsError as error:
        log.error("%s", error)
        return LOCKED if isinstance(error, LockedError) else NOTHING_TRIED
    except Interrupted as signal_seen:
        if run is not None:
            run.interrupted(signal_seen)
        return signal_seen.exit_code
    finally:
        _ignore_signals()  # what is left is short
        if run is not None:
            run.database.close()


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    os._exit(exit_code)  # nothing is left to do; to take the interpreter apart first costs 9 ms
