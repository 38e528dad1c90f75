#!/usr/bin/env python3
"""Compute metrics for the night, for one date, for a range of dates, or for the whole history."""

from __future__ import annotations

from src.cli import SIGNALS, VERSION, CommandParser, at_least, exit_on_signals, on_signals, use_own_packages

if __name__ == "__main__":
    use_own_packages(__file__)
    exit_on_signals()

import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import date

from config.database import ROOT, Settings, load_settings, on_end_command
from src.dates import ONE_DAY, business_zone, day_at, span, today_in
from src.db_manager import DatabaseManager
from src.display.log import as_json, configure_log, log, set_log_level, write_line, write_text
from src.display.on_end import run_on_end
from src.display.repairs import repair_lines
from src.display.reporting import Reporter, RunSummary
from src.errors import DatabaseError, DateError, Interrupted, LockedError, MetricFileError, MetricsError, UsageError
from src.metric_file.checks import Problem, check_catalog
from src.metric_file.file import MetricFile, Mode
from src.metric_file.server_checks import ask_server, wrong_engines
from src.metric_file.step import Parameters, Step
from src.metric_runner import Batch, MetricRunner, Options
from src.running.plan import DUE_DATES_PER_NIGHT, RunArguments, batches_of, dates_asked_for, due_batches
from src.server.interruption import Interruption
from src.sql_loader import load_catalog, select
from src.storage.store import LOOK_BACK_DAYS, MetricStore
from src.wording import count

OK, A_DATE_FAILED, NOTHING_TRIED, LOCKED, DIFFERS = 0, 1, 2, 3, 4
STATUSES = {OK: "ok", A_DATE_FAILED: "failed", NOTHING_TRIED: "not-started", LOCKED: "locked"}
CLOCK_SECONDS = 300  # by which this machine's clock may differ from the server's without a warning

EXAMPLES = """\
examples:
  python run_metrics.py                            the line for cron: what is due, yesterday, then today
  python run_metrics.py 2025-01-15                 one date
  python run_metrics.py 2025-01-01 2025-01-31      a range, both ends included
  python run_metrics.py yesterday --metric 'total_*'
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
        self, call: RunArguments, settings: Settings, interruption: Interruption, today: date | None = None
    ) -> None:
        self.call = call
        self.settings = settings
        self.reporter = Reporter(call.quiet or call.json, call.verbose)
        self.zone = business_zone(settings.metrics_timezone)
        self.today = today or today_in(self.zone)
        self.parameters = Parameters(settings.parameters, self.zone)
        self.catalog = load_catalog(settings.metrics_dir, self.parameters.fingerprinted())
        self.files = select(self.catalog, call.mode, call.metric)
        self.names = [file.name for file in self.files if not file.is_helper]
        self.database = DatabaseManager(settings, interruption)
        self.store = MetricStore(self.database, self.zone)
        options = Options(call.retries, call.wait, call.keep_going or call.is_night)
        self.runner = MetricRunner(self.database, self.store, self.catalog, self.parameters, options)
        self.summary = RunSummary(call)

    def start(self) -> int:
        """Check everything that can be checked, then run. Returns the exit code."""
        self.settings.require_database()
        history_start = self.settings.metrics_history_start
        dates = dates_asked_for(self.call, history_start, self.today)
        files = self._files_that_may_run()
        problems = check_catalog(self.catalog, files, self.settings.parameters.keys(), self.settings.db_name)
        _refuse(problems)
        for problem in problems:  # warnings, which list_metrics.py prints
            log.getChild("sql").warning("%s", problem)
        if history_start and dates[0] < history_start:
            log.warning("%s is before METRICS_HISTORY_START=%s; if that is a slip, delete its rows: docs/operations.md",
                        dates[0], history_start)  # fmt: skip
        self.runner.open(lambda: self._prepare(files, dates))
        if self.call.is_night:
            dates = [self.today - ONE_DAY, self.today]
        try:
            if self.call.verify:
                return self._verify(dates)
            if self.call.dry_run:
                return self._dry_run(dates)
        except (DateError, DatabaseError) as error:
            log.error("%s", error)
            return A_DATE_FAILED
        return self._run(dates)

    def _files_that_may_run(self) -> list[MetricFile]:
        """Return the files selected, and the initial files that may take their place or that run besides."""
        initial = self.catalog.initial_files
        others = [initial[name] for name in self.names if name in initial]
        if self.call.verify:
            others += select(self.catalog, Mode.INITIAL, self.call.metric)
        return list(dict.fromkeys([*self.files, *others]))

    def _prepare(self, files: Sequence[MetricFile], dates: Sequence[date]) -> None:
        """Ask the server what must be known before the first date: its tables, its clock, what it says of the files."""
        self.store.require_schema()
        moment = self.store.moment()
        server_today, ahead = day_at(moment, self.zone), time.time() - moment
        if self.call.is_night and server_today == self.today - ONE_DAY:
            self.today = server_today  # at midnight the server's clock may be a little behind
        elif dates[-1] > server_today:
            raise UsageError(f"{dates[-1]} has not begun yet: by the server's clock it is still {server_today}")
        if abs(ahead) > CLOCK_SECONDS:
            way = "ahead of" if ahead > 0 else "behind"
            log.warning("this machine's clock is %.0f s %s the server's; correct one of them", abs(ahead), way)
        _refuse(wrong_engines(self.database, files))
        if len(dates) > 1 and not self.call.is_night:  # so that day 1 of 300 does not die at file 40
            steps = [Step(f, tuple(dates) if f.is_set_based else (dates[-1],), self.parameters) for f in files]
            _refuse(ask_server(self.database, steps)[0])

    def _run(self, dates: Sequence[date]) -> int:
        clock, yesterday = time.monotonic(), dates[0]
        summary = self.summary
        summary.dates = dates
        causes: set[str] = set()  # of failed dates: a broken file fails each of 33 dates alike
        at_once = self.call.initial and not self.call.chunk
        if self.call.initial:
            self._announce(dates, len(list(self._batches(dates))))
        total = sum(1 if file.is_set_based else len(dates) for file in self.files) if at_once else len(dates)
        with self.reporter.progress(0 if self.call.is_night else total, "file" if at_once else "date"):
            if at_once:
                self.runner.on_step = self.reporter.tick
            for result in self.runner.run(self._batches(dates)):
                summary.add(result)
                if result.error is not None:
                    cause = str(result.error).partition(": ")[2]
                    (log if cause not in causes else log.getChild("sql")).error("%s", result.error)
                    causes.add(cause)
                if not at_once:
                    self.reporter.tick(len(result.batch.dates))
                self.reporter.result(result, self.call.is_night and result.batch.dates[0] < yesterday)
        changed = f"{count(len(summary.changes), 'final row')} changed" if summary.changes else "no final row changed"
        log.info("run %s: %s: %s; %.1f s", self.runner.run_id, count(len(summary.committed), "date"), changed,
                 time.monotonic() - clock)  # fmt: skip
        self.say_stopped()
        if not self.database.is_lost():
            self._say_what_is_due()
        return A_DATE_FAILED if summary.failed else OK

    def _batches(self, dates: Sequence[date]) -> Iterator[Batch]:
        """Yield the transactions; those of a night begin with at most 31 due dates, the oldest first."""
        due = self._due() if self.call.is_night else []
        for _ in range(DUE_DATES_PER_NIGHT):
            if not due:
                break
            batch = due.pop(0)
            yield batch
            if self.summary.has_unmarked:
                due = [each for each in self._due() if each.dates > batch.dates]
        yield from batches_of(self.call, self.files, dates)

    def _due(self) -> list[Batch]:
        return self.runner.with_retries(lambda: due_batches(self.store, self.files, self.today), "to ask what is due")

    def _announce(self, dates: Sequence[date], transactions: int) -> None:
        per_date = sum(not file.is_set_based for file in self.files)
        self.reporter.say(
            f"Initial load of {span(dates)}: {count(len(dates), 'date')}, {count(len(self.files), 'file')}, "
            f"{per_date} of them once per date; {count(transactions, 'transaction')}."
        )
        if self.settings.metrics_history_start is None and len(self.call.dates) < 2:
            self.reporter.say(
                "METRICS_HISTORY_START is not set, so one date is loaded. For more: "
                f"python run_metrics.py --initial 2024-01-01 {dates[0]}"
            )

    def _dry_run(self, dates: Sequence[date]) -> int:
        results = self.runner.dry_run(list(self._batches(dates)))
        changes = [change for result in results for change in result.changes]
        if self.call.json:
            write_text(as_json([asdict(change) for change in changes]))
        else:
            self.reporter.dry_run(changes)
        return DIFFERS if any(change.was_final and change.kind == "changed" for change in changes) else OK

    def _verify(self, dates: Sequence[date]) -> int:
        at_once = select(self.catalog, Mode.INITIAL, self.call.metric)
        both = {file.name for file in at_once} & set(self.names)
        if not both:
            raise UsageError("--verify: no metric can be computed both at once and date by date")
        at_once = tuple(file for file in at_once if file.is_helper or file.name in both)
        by_date = [file for file in self.files if not file.is_helper and file.name in both]
        verdict = self.runner.verify(Batch(Mode.INITIAL, tuple(dates), at_once), by_date)
        if self.call.json:
            moved = [{"metric": name, "metric_date": day} for name, day in verdict.moved]
            different = [asdict(change) for change in verdict.different]
            write_text(as_json({"compared": verdict.compared, "different": different, "source_changed": moved}))
        else:
            self.reporter.verdict(verdict)
        if len(verdict.moved) == verdict.compared:
            return A_DATE_FAILED  # nothing could be compared
        return DIFFERS if verdict.different else OK

    def interrupted(self, error: Interrupted) -> None:
        """Stop what the server still does for us, and say what was committed."""
        left = self.database.left_behind
        log.error("%s", f"{error}. Beware: {left}" if left else error)
        self.summary.fail(error)
        self.summary.partly_stored |= bool(left)
        self.say_stopped()
        self.database.interruption = Interruption()  # which no signal reaches: the first one is enough
        self.database.kill_lost_session()

    def say_stopped(self) -> None:
        """Say what was committed, and the command that runs the rest."""
        if self.summary.resume:
            log.info("%s", self.summary.stopped())
            write_line(self.summary.stopped(), sys.stderr)

    def _say_what_is_due(self) -> None:
        """Name the dates that are missing and the rows that are not final, with the commands that repair them."""
        summary, since = self.summary, self.today - LOOK_BACK_DAYS * ONE_DAY
        try:
            summary.missing = self.store.missing(self.names, self.today, since)
            summary.not_final = self.store.not_final(self.names, self.today)
        except DatabaseError as error:
            log.warning("could not look for missing dates: %s", error)
            return
        every = [file.name for file in self.catalog.in_mode(Mode.INCREMENTAL) if not file.is_helper]
        what = "not final though the day has ended"
        for line in repair_lines("missing", summary.missing, every) + repair_lines(what, summary.not_final, every):
            log.warning("%s", line)


def _refuse(problems: Iterable[Problem]) -> None:
    """Raise MetricFileError with all errors among the problems at once."""
    errors = [str(problem) for problem in problems if problem.severity == "error"]
    if errors:
        raise MetricFileError("\n".join(errors))


def parse_arguments(argv: Sequence[str]) -> RunArguments:
    """Return the command line as a RunArguments. Raises UsageError for one that makes no sense."""
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
        "--retries", type=at_least(0), default=Options.retries, metavar="N",
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
    call = RunArguments(**{**words, "dates": tuple(words["dates"]), "metric": tuple(words["metric"])})
    _refuse_conflicts(parser, call)
    return call


def _refuse_conflicts(parser: CommandParser, call: RunArguments) -> None:
    kinds = [name for name in ("initial", "last", "verify") if getattr(call, name)]
    if len(kinds) > 1:
        parser.error(" and ".join(f"--{kind}" for kind in kinds) + " exclude each other")
    most = 1 if call.last else 2
    if len(call.dates) > most:
        parser.error(f"{len(call.dates)} dates given; at most {most} make sense here")
    if call.verify and len(set(call.dates)) != 2:
        parser.error("--verify needs two dates, START and END: the first is computed by the initial file both times")
    if call.verify and call.dry_run:
        parser.error("--verify and --dry-run exclude each other: neither stores anything")
    if call.chunk and not call.initial:
        parser.error("--chunk goes with --initial")
    if call.chunk and call.dry_run:
        parser.error("--chunk and --dry-run exclude each other: a dry run is one transaction")
    if call.quiet and call.verbose:
        parser.error("--quiet and --verbose exclude each other")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    clock, words = time.monotonic(), list(sys.argv[1:] if argv is None else argv)
    call, run, interruption = RunArguments(), None, Interruption()
    summary = RunSummary(call)
    console = configure_log(ROOT / "logs" / "metrics.log")
    interruption.listen()
    on_signals(lambda number, frame: None)  # a handler all the same: SIG_IGN would be inherited by METRICS_ON_END
    try:
        call = parse_arguments(words)
        log.info("%s", " ".join(["run_metrics.py", *words]))
        settings = load_settings()
        set_log_level(settings.log_level)
        for text in settings.warnings:
            log.warning("%s", text)
        run = Run(call, settings, interruption)
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
    except Exception as error:  # a fault of this program: whoever is told of the end of runs must hear of it
        traceback.print_exc()
        log.critical("a fault of this program", exc_info=True)
        summary.fail(error)
        exit_code = A_DATE_FAILED
    if run is not None:
        run.database.close()
    if not (call.dry_run or call.verify):
        run_id, seconds = run.runner.run_id if run is not None else None, round(time.monotonic() - clock, 3)
        outcome = {"run_id": run_id, "version": VERSION, "command": ["run_metrics.py", *words],
                   "status": STATUSES.get(exit_code, "interrupted"), "exit_code": exit_code, "seconds": seconds,
                   **summary.as_dict(), "warnings": console.warnings}  # fmt: skip
        run_on_end(on_end_command(), outcome)
        if call.json:
            write_line(as_json(outcome, indent=None))
    return exit_code


if __name__ == "__main__":
    code = main()
    for number in SIGNALS:  # Python restores the default handlers at exit, and a late signal would change the exit code
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)
