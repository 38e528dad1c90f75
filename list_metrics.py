#!/usr/bin/env python3
"""List the metrics in run order, check their files, print their SQL, show what is stored. Changes nothing."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from config.database import GROUP_CONCAT_BYTES, ROOT, Settings, load_settings
from src.command import CommandParser, not_negative
from src.dates import ONE_DAY, business_zone, parse_date, today_in
from src.errors import DatabaseError, MetricsError, SettingsError
from src.packet import Packet, Step, span
from src.reporting import as_json, configure_log, log, table
from src.selection import select
from src.sql_checks import Problem, check_catalog
from src.sql_loader import Catalog, Metric, load_catalog
from src.sql_text import literals

if TYPE_CHECKING:
    from src.store import MetricStore

OK, PROBLEMS, NOTHING_DONE = 0, 1, 2

EXAMPLES = """\
examples:
  python list_metrics.py                          what the nightly run executes, in order
  python list_metrics.py --initial                what the initial load executes
  python list_metrics.py --check                  every rule on every file, and EXPLAIN where a database is reachable
  python list_metrics.py --check --offline        the same without a database
  python list_metrics.py --sql total_revenue 2025-01-15    the statements as they are sent
  python list_metrics.py --status                 first and newest date, holes, last run
  python list_metrics.py --status --max-age 2     the same as a probe: exit 1 where a metric is older

exit codes: 0 all well, 1 a file has an error or a metric is too old, 2 the question could not be answered
"""


def list_files(catalog: Catalog, mode: str, settings: Settings, json: bool) -> int:
    """Print the files of a mode in run order, the disabled ones too; 1 where a file has an error."""
    files = select(catalog, mode, [])
    shown = [file for file in catalog.files if file in files or (file.disabled and file.mode in ("both", mode))]
    problems = check_catalog(catalog, files, settings.parameters)
    rows = _rows(shown, problems)
    if json:
        keys = ("number", "metric", "data_type", "description", "file")
        print(as_json([dict(zip(keys, row, strict=True)) for row in rows]))
    else:
        print(table([("#", "Metric", "Data type", "Description", "File"), *rows]))
        for problem in problems:
            if problem.severity != "error":
                print(problem)
    return _exit_code(problems)


def _rows(files: Sequence[Metric], problems: Sequence[Problem]) -> list[tuple[str, ...]]:
    errors: dict[str, Problem] = {}
    for problem in problems:
        if problem.severity == "error":
            errors.setdefault(problem.file, problem)
    rows: list[tuple[str, ...]] = []
    number = 0
    for file in files:
        number += not file.disabled
        kind = "disabled" if file.disabled else "helper" if file.is_helper else file.header.data_type or "-"
        said = str(errors[file.path]) if file.path in errors else file.header.description or ""
        rows.append(("-" if file.disabled else str(number), file.name, kind, said, file.path))
    return rows


def check(catalog: Catalog, settings: Settings, offline: bool, json: bool) -> int:
    """Print every problem of every file as file:line:column, sorted; 1 where one is an error."""
    files = [file for file in catalog.files if not file.disabled]
    problems = check_catalog(catalog, files, settings.parameters)
    broken = {problem.file for problem in problems if problem.severity == "error"}
    if not offline:
        problems = sorted(problems + _ask_server([file for file in files if file.path not in broken], settings))
    if json:
        print(as_json([problem.__dict__ for problem in problems]))
        return _exit_code(problems)
    for problem in problems:
        print(problem)
    counts = {kind: sum(problem.severity == kind for problem in problems) for kind in ("error", "warning")}
    print(f"{len(files)} files checked: {counts['error']} errors, {counts['warning']} warnings.")
    return _exit_code(problems)


def _ask_server(files: Sequence[Metric], settings: Settings) -> list[Problem]:
    from src.db_manager import DatabaseManager
    from src.server_checks import ask_server

    database = DatabaseManager(settings)
    try:
        database.connect()
    except (DatabaseError, SettingsError) as error:
        log.warning("the database was not asked: %s", error)
        return []
    try:
        yesterday = today_in(business_zone(settings.metrics_timezone)) - ONE_DAY
        return ask_server(database, files, settings.parameters, [yesterday])
    finally:
        database.close()


def _exit_code(problems: Sequence[Problem]) -> int:
    return PROBLEMS if any(problem.severity == "error" for problem in problems) else OK


def print_sql(catalog: Catalog, mode: str, settings: Settings, words: Sequence[str]) -> int:
    """Print the statements of a metric exactly as they are sent for a date, to pipe into the mysql client."""
    today = today_in(business_zone(settings.metrics_timezone))
    day = parse_date(words[1], today) if len(words) == 2 else today - ONE_DAY
    parameters = literals(settings.parameters)
    files = select(catalog, mode, words[:1])
    print(f"SET SESSION group_concat_max_len = {GROUP_CONCAT_BYTES};  -- as in a run: the default would cut JSON")
    for file in files:
        for statement in Packet(Step(file, (day,)), parameters).bound:
            print(f"{statement};")
    return OK


def show_status(catalog: Catalog, settings: Settings, max_age: int | None, json: bool) -> int:
    """Print what is stored of each metric; 1 where one is older than `max_age` days, or has no row at all then."""
    from src.db_manager import DatabaseManager
    from src.store import MetricStore

    zone = business_zone(settings.metrics_timezone)
    today = today_in(zone)
    database = DatabaseManager(settings)
    database.connect()
    try:
        store = MetricStore(database, zone)
        store.require_schema()
        files = [file for file in select(catalog, "incremental", []) if not file.is_helper]
        states = _states(store, files, catalog, today, max_age)
    finally:
        database.close()
    print(as_json(states) if json else _status_table(states))
    return PROBLEMS if any(state["too_old"] for state in states) else OK


def _states(
    store: MetricStore, files: Sequence[Metric], catalog: Catalog, today: date, max_age: int | None
) -> list[dict[str, object]]:
    """Return what is known of each metric; dates as date, times by the server's clock."""
    names = [file.name for file in files]
    found = store.status(names)
    holes, half_days = store.holes(names, today)
    prints: dict[str, set[str]] = {}
    for file in catalog.files:
        if not file.disabled:
            prints.setdefault(file.name, set()).add(file.script.fingerprint)
    states: list[dict[str, object]] = []
    for name in names:
        status = found.get(name)
        too_old = max_age is not None and (status is None or (today - status.newest).days > max_age)
        state: dict[str, object] = {"metric": name, "too_old": too_old}
        if status is not None:
            state |= status.__dict__
            state["holes"] = [span([hole.start, hole.end]) for hole in holes if hole.metric == name]
            state["half_days"] = [str(hole.start) for hole in half_days if hole.metric == name]
            state["sql_changed"] = bool(status.fingerprint) and status.fingerprint not in prints[name]
        states.append(state)
    return states


def _status_table(states: Sequence[dict[str, object]]) -> str:
    head = ("Metric", "First", "Newest", "Rows", "State", "Last run", "ms", "Remarks")
    return table([head, *(_status_row(state) for state in states)])


def _status_row(state: dict[str, object]) -> tuple[str, ...]:
    if "rows" not in state:
        return (str(state["metric"]), "-", "-", "0", "-", "-", "-", "no row yet")
    remarks = ["TOO OLD"] if state["too_old"] else []
    for key, said in (("holes", "holes"), ("half_days", "a part of the day")):
        dates = state[key]
        assert isinstance(dates, list)
        remarks += [f"{said}: {', '.join(dates[:3])}{' ...' if len(dates) > 3 else ''}"] if dates else []
    remarks += ["SQL changed since"] if state["sql_changed"] else []
    remarks += [f"last run {state['last_status']}"] if state["last_status"] == "failed" else []
    final = "final" if state["newest_is_final"] else "provisional"
    cells = [state[key] for key in ("metric", "first", "newest", "rows")] + [final]
    cells += [state["last_run"] or "-", "-" if state["last_milliseconds"] is None else state["last_milliseconds"]]
    return (*map(str, cells), "; ".join(remarks))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser("list_metrics.py", __doc__, EXAMPLES)
    add = parser.add_argument
    add("--initial", action="store_true", help="the files of the initial load instead of the nightly run's")
    add("--check", action="store_true", help="every rule on every file, and EXPLAIN where a database is reachable")
    add("--offline", action="store_true", help="with --check: leave the database out")
    add("--sql", nargs="+", metavar=("NAME", "DATE"), help="print a metric's SQL as sent for DATE (default: yesterday)")
    add("--status", action="store_true", help="what is stored of each metric: dates, holes, the last run")
    add("--max-age", type=not_negative, metavar="DAYS", help="with --status: exit 1 where the newest row is older")
    add("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    if sum(map(bool, (args.check, args.sql, args.status))) > 1:
        parser.error("--check, --sql and --status exclude each other")
    if args.offline and not args.check:
        parser.error("--offline goes with --check")
    if args.max_age is not None and not args.status:
        parser.error("--max-age goes with --status")
    if args.sql and (len(args.sql) > 2 or args.json):
        parser.error("--sql takes a NAME and at most one DATE, and no --json")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = parse_arguments(argv)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # piped into head, it ends without a word
    configure_log(None)
    mode = "initial" if args.initial else "incremental"
    try:
        settings = load_settings()
        catalog = load_catalog(ROOT / "sql")
        if args.check:
            return check(catalog, settings, args.offline, args.json)
        if args.sql:
            return print_sql(catalog, mode, settings, args.sql)
        if args.status:
            return show_status(catalog, settings, args.max_age, args.json)
        return list_files(catalog, mode, settings, args.json)
    except MetricsError as error:
        log.error("%s", error)
        return NOTHING_DONE


if __name__ == "__main__":
    sys.exit(main())
