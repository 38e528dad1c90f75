"""Measures an application's writes beside a run: python -m benchmarks.application [--quick]

A writer inserts into payments while nothing runs, while this tool computes 31 dates with 0, 2 and 4 readers, and, as
controls, while the plain client runs INSERT ... SELECT files for the same dates under READ COMMITTED and under
REPEATABLE READ.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections.abc import Callable
from statistics import median

from benchmarks.bench import LAST_DAY, Bench, connect, main, parser_of, size_of, start_of, with_game
from demo.server import Server
from src.dates import date_range
from src.metric_file.file import Mode

DATES = 31
READERS = (0, 2, 4)
IDLE_SECONDS = 3.0
WRITE_PAUSE = 0.005  # seconds between two writes of the application
REPEATABLE_READ = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ;\n"


def measure(server: Server, args: argparse.Namespace) -> None:
    """Print the median and the 99th percentile of the writes in each situation."""
    start = start_of(DATES)
    bench = with_game(server, size_of(args))
    bench.seed([start])
    script = bench.script(Mode.INCREMENTAL, [(day,) for day in date_range(start, LAST_DAY)])
    commands = {
        **{f"this tool runs {DATES} dates, {readers} readers": bench.tool(str(start), str(LAST_DAY), readers=readers)
           for readers in READERS},
        "the same as INSERT ... SELECT, READ COMMITTED": bench.client(script),
        "the same as INSERT ... SELECT, REPEATABLE READ": bench.client(script, bench.session + REPEATABLE_READ),
    }
    times: dict[str, list[float]] = {"idle": [], **{name: [] for name in commands}}
    for _ in range(args.rounds):
        times["idle"] += write_while(bench, lambda: time.sleep(IDLE_SECONDS))
        for name, command in commands.items():
            bench.reset(start)
            times[name] += write_while(bench, lambda command=command: bench.run(command))  # type: ignore[misc]
    bench.execute("DELETE FROM payments WHERE amount = 0")
    print(f"| {args.rounds} rounds | writes | median | p99 | longest |\n|---|---|---|---|---|")
    for name, each in times.items():
        figures = (median(each), sorted(each)[len(each) * 99 // 100], max(each))
        print(f"| {name} | {len(each):,} | {' | '.join(f'{seconds * 1000:.2f} ms' for seconds in figures)} |")


def write_while(bench: Bench, action: Callable[[], object]) -> list[float]:
    """Insert payments into the dates of the run until `action` ends; return the seconds that each took."""
    done = threading.Event()
    times: list[float] = []
    writer = threading.Thread(target=_write, args=(bench, done, times))
    writer.start()
    try:
        action()
    finally:
        done.set()
        writer.join()
    return times


def _write(bench: Bench, done: threading.Event, times: list[float]) -> None:
    rng = random.Random(1)
    with connect(bench.server, bench.database) as connection, connection.cursor() as cursor:
        while not done.wait(WRITE_PAUSE):
            moment = f"{start_of(1 + rng.randrange(DATES))} {rng.randrange(24):02}:00:00"
            clock = time.perf_counter()
            cursor.execute(f"INSERT INTO payments (user_id, amount, paid_at) VALUES (1, 0, '{moment}')")
            times.append(time.perf_counter() - clock)


if __name__ == "__main__":
    sys.exit(main(parser_of(__doc__).parse_args(), measure))
