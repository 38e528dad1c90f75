#!/usr/bin/env python3
"""Run the metrics of a date, of a range of dates, or the first load of the history."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby
from types import FrameType

from config.database import ROOT, Settings, load_settings
from src.command import CommandParser, not_negative, positive
from src.dates import ONE_DAY, business_zone, date_range, parse_date, today_in
from src.db_manager import DatabaseManager
from src.errors import DatabaseError, DateError, LockedError, MetricFileError, MetricsError, UsageError
from src.metric_runner import DateResult, MetricRunner, Options, Work
from src.packet import span
from src.reporting import Reporter, as_json, configure_log, log
from src.selection import check_files, select
from src.sql_loader import Catalog, Metric, load_catalog
from src.store import MetricStore

OK, A_DATE_FAILED, NOTHING_TRIED, LOCKED, DIFFERS = 0, 1, 2, 3, 4
CATCH_UP_DAYS = 31

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
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@dataclass
class Done:
    """What a run has behind it, for its last lines."""

    works: Sequence[Work]
    committed: list[DateResult] = field(default_factory=list)
    failed: list[Work] = field(default_factory=list)

    @property
    def remaining(self) -> Sequence[Work]:
        return self.works[len(self.committed) + len(self.failed) :]


class Run:
    """One call of the command: what was asked for, and the words for what came of it."""

    def __init__(self, args: argparse.Namespace, settings: Settings, reporter: Reporter) -> None:
        self.args = args
        self.settings = settings
        self.reporter = reporter
        self.zone = business_zone(settings.metrics_timezone)
        self.today = today_in(self.zone)
        self.mode = "initial" if args.initial else "incremental"
        self.catalog: Catalog = load_catalog(ROOT / "sql")
        self.files: tuple[Metric, ...] = select(self.catalog, self.mode, args.metric)
        self.database = DatabaseManager(settings)
        self.store = MetricStore(self.database, self.zone)
        options = Options(args.retries, args.wait, args.keep_going)
        self.runner = MetricRunner(self.database, self.catalog, self.files, settings.parameters, self.zone, options)
        self.done = Done(())

    def start(self) -> int:
        """Check everything that can be checked, then run. Returns the exit code."""
        dates = None if self.args.catch_up else dates_asked_for(self.args, self.settings, self.today)
        twins = self.catalog.initial_twins() if self.mode == "incremental" else {}
        to_check = [*self.files, *(twins[file.name] for file in self.files if file.name in twins)]
        check_files(self.catalog, to_check, self.settings)
        self.runner.open()
        self.store.require_schema()
        dates = dates or self._dates_to_catch_up()
        if not dates:
            self.reporter.say("Nothing to catch up: every metric has its row of that date.")
            return OK
        self._ask_server(to_check, dates)
        self.done.works = works_of(self.mode, dates, self.args.chunk)
        return self._rehearse() if self.args.dry_run else self._run()

    def stop(self, error: BaseException) -> None:
        """Say what was committed and how to go on, after a failure or a signal."""
        log.error("%s", error)
        if not self.done.works:
            return
        committed = _spans([result.work for result in self.done.committed])
        lines = [f"Committed {committed}." if committed else "Nothing was committed."]
        if self.args.dry_run:
            lines = ["A dry run keeps nothing."]
        elif self.done.remaining:
            lines.append(f"Resume with: {self._command(self.done.remaining)}")
        print(" ".join(lines), file=sys.stderr)
        log.info("%s", " ".join(lines))

    # --- the dates ----------------------------------------------------------------------------------------------------

    def _dates_to_catch_up(self) -> list[date]:
        end = last_date(self.args, self.today)
        newest = self.store.status([file.name for file in self.files if not file.is_helper])
        if not newest:
            raise UsageError("--catch-up: no metric has a row yet; load the history: python run_metrics.py --initial")
        # A newest row that is provisional holds a part of its day, so its date runs again.
        start = min(status.newest + ONE_DAY if status.newest_is_final else status.newest for status in newest.values())
        if start > end:
            return []
        dates = date_range(start, end)
        if len(dates) > CATCH_UP_DAYS:
            raise UsageError(
                f"--catch-up would run {len(dates)} dates, more than {CATCH_UP_DAYS}; "
                f"if that is meant, run: {self._command([Work(self.mode, tuple(dates))])}"
            )
        self.reporter.say(f"Catching up {span(dates)}: {_count(len(dates), 'date')}.")
        return dates

    def _ask_server(self, files: Sequence[Metric], dates: Sequence[date]) -> None:
        """Let the server judge the files of a range first, so that day 1 of 300 does not die at file 40."""
        from src.server_checks import ask_server, wrong_engines

        if len(dates) > 1 and (self.args.dates or self.args.last or self.args.catch_up or self.args.initial):
            problems = ask_server(self.database, files, self.settings.parameters, dates)
        else:
            problems = list(wrong_engines(self.database, files))
        errors = [str(problem) for problem in problems if problem.severity == "error"]
        if errors:
            raise MetricFileError(errors)

    # --- running ------------------------------------------------------------------------------------------------------

    def _run(self) -> int:
        clock = time.monotonic()
        works = self.done.works
        if self.mode == "initial":
            self.reporter.say(self._announcement(works))
        try:
            for result in self.reporter.follow(self.runner.run(works), len(works)):
                if result.error is None:
                    self.done.committed.append(result)
                else:
                    self.done.failed.append(result.work)
                    log.error("%s", result.error)
        except DateError as error:
            self.stop(error)
            return A_DATE_FAILED
        self._last_lines(time.monotonic() - clock)
        return A_DATE_FAILED if self.done.failed else OK

    def _rehearse(self) -> int:
        try:
            results = self.runner.rehearse(self.done.works)
        except DateError as error:
            self.stop(error)
            return A_DATE_FAILED
        changes = [change for result in results for change in result.changes]
        if self.args.json:
            print(as_json([change.__dict__ for change in changes]))
        else:
            self.reporter.rehearsal(results)
        return DIFFERS if any(change.was_final and change.kind == "changed" for change in changes) else OK

    def _announcement(self, works: Sequence[Work]) -> str:
        dates = sum(len(work.dates) for work in works)
        each_date = sum(file.mode == "both" for file in self.files)
        return (
            f"Initial load of {span([works[0].dates[0], works[-1].dates[-1]])}: {_count(dates, 'date')}, "
            f"{_count(len(self.files), 'metric')} ({each_date} of them a date at a time), "
            f"{_count(len(works), 'transaction')}."
        )

    def _last_lines(self, seconds: float) -> None:
        """Say what changed, what failed, which dates are missing, and which rows are now out of date."""
        changed = [c for result in self.done.committed for c in result.changes if c.kind == "changed"]
        dates = sum(len(result.work.dates) for result in self.done.committed)
        summary = f"{_count(dates, 'date')}: " + (
            f"{_count(len({c.metric for c in changed}), 'metric')} changed on "
            f"{_count(len({c.metric_date for c in changed}), 'date')}" if changed else "no final row changed"
        )  # fmt: skip
        log.info("run %s: %s; %.1f s", self.runner.run_id, summary, seconds)
        if changed or len(self.done.works) > 1:
            self.reporter.say(f"{summary}.")
        if self.done.failed:
            failed = _spans(self.done.failed)
            print(f"Failed: {failed}. Resume with: {self._command(self.done.failed)}", file=sys.stderr)
        try:
            self._say_holes()
            self._say_later_rows()
        except DatabaseError as error:
            log.warning("could not look for holes: %s", error)

    def _say_holes(self) -> None:
        names = [file.name for file in self.files if not file.is_helper]
        holes = self.store.holes(names, self.today)
        if holes:
            shown = ", ".join(f"{hole.metric} {span([hole.start, hole.end])}" for hole in holes[:3])
            more = f" and {len(holes) - 3} more" if len(holes) > 3 else ""
            first, last = min(hole.start for hole in holes), max(hole.end for hole in holes)
            command = _command_line([first, last], _metric_options(sorted({hole.metric for hole in holes})))
            log.warning("dates are missing: %s%s. Fill them with: %s", shown, more, command)

    def _say_later_rows(self) -> None:
        touched = [result.work.dates[-1] for result in self.done.committed if result.touched]
        chained = [name for name in self.catalog.initial_twins() if name in {file.name for file in self.files}]
        ran_until = max((result.work.dates[-1] for result in self.done.committed), default=self.today)
        later = self.store.later(chained, ran_until) if touched and chained else None
        if later:
            log.warning(
                "rows from %s to %s build on the dates just run. Refresh them with: %s",
                *later, _command_line(later, _metric_options(sorted(chained))),
            )  # fmt: skip

    def _command(self, works: Sequence[Work]) -> str:
        """Return the command that runs these works as this call would, dates first."""
        args = self.args
        options = [f"--{name}" for name in ("initial", "keep_going", "quiet", "verbose") if getattr(args, name)]
        options = [option.replace("_", "-") for option in options]
        options += _metric_options(args.metric)
        options += ["--chunk", args.chunk] if args.chunk else []
        options += ["--retries", str(args.retries)] if args.retries != Options.retries else []
        options += ["--wait", f"{args.wait:g}"] if args.wait else []
        return _command_line([works[0].dates[0], works[-1].dates[-1]], options)


def dates_asked_for(args: argparse.Namespace, settings: Settings, today: date) -> list[date]:
    """Return the dates of the command line, ascending. Raises UsageError."""
    given = [parse_date(text, today) for text in args.dates]
    if args.initial:
        end = given[-1] if given else today
        start = given[0] if len(given) == 2 else settings.metrics_history_start or end
        return date_range(start, end)
    if args.last:
        end = last_date(args, today)
        return date_range(end - (args.last - 1) * ONE_DAY, end)
    if not given:
        # At 01:00 today's row is an hour old and yesterday's was provisional until now: both run, the older first.
        return [today - ONE_DAY, today]
    return date_range(given[0], given[-1])


def last_date(args: argparse.Namespace, today: date) -> date:
    return parse_date(args.dates[0], today) if args.dates else today


def works_of(mode: str, dates: Sequence[date], chunk: str | None) -> list[Work]:
    """Return the transactions: one a date; an initial load is one in all, or one a month."""
    if mode == "incremental":
        return [Work(mode, (day,)) for day in dates]
    if chunk is None:
        return [Work(mode, tuple(dates))]
    return [Work(mode, tuple(days)) for _, days in groupby(dates, key=lambda day: (day.year, day.month))]


def _command_line(ends: Sequence[date], options: Sequence[str]) -> str:
    days = [str(ends[0])] if ends[0] == ends[-1] else [str(ends[0]), str(ends[-1])]
    return shlex.join(["python", "run_metrics.py", *days, *options])


def _metric_options(names: Iterable[str]) -> list[str]:
    return [word for name in names for word in ("--metric", name)]


def _spans(works: Sequence[Work]) -> str:
    """Return the dates of works as "2025-01-01 to 2025-01-03, 2025-01-05"."""
    dates = sorted(day for work in works for day in work.dates)
    runs = [list(days) for _, days in groupby(dates, key=lambda day: day.toordinal() - dates.index(day))]
    return ", ".join(span(days) for days in runs)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


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
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # the first one is enough; what follows is short
    raise Interrupted(number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = parse_arguments(argv)
    configure_log(ROOT / "logs" / "metrics.log", "INFO", args.quiet)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise_interrupted)
    run: Run | None = None
    try:
        settings = load_settings()
        log.setLevel(settings.log_level)
        run = Run(args, settings, Reporter(args.quiet or args.json, args.verbose))
        return run.start()
    except MetricFileError as error:
        for problem in error.problems:
            log.error("%s", problem)
        return NOTHING_TRIED
    except LockedError as error:
        log.error("%s", error)
        return LOCKED
    except MetricsError as error:
        log.error("%s", error)
        return NOTHING_TRIED
    except Interrupted as signal_seen:
        if run is None:
            return signal_seen.exit_code
        run.database.kill_lost_session()
        run.stop(signal_seen)
        return signal_seen.exit_code
    finally:
        if run is not None:
            run.database.close()


if __name__ == "__main__":
    sys.exit(main())
