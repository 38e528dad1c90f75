"""Measures what readers are worth when the server waits: python -m benchmarks.readers [--quick]

One date of 150 SELECT metrics that sleep, with 0, 1, 2, 4 and 8 readers, against the sum of what they sleep.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from statistics import median

from benchmarks.bench import LAST_DAY, main, parser_of, size_of, with_game
from demo.server import Server

METRICS = 150
READERS = (0, 1, 2, 4, 8)
SECONDS, QUICK_SECONDS = 0.2, 0.02
SLEEPER = "SELECT SLEEP({0}) AS slept, DAY(%(metric_date)s) AS n\n"


def measure(server: Server, args: argparse.Namespace) -> None:
    """Print the time with each number of readers, and its share of what the metrics sleep together."""
    seconds = QUICK_SECONDS if args.quick else SECONDS
    bench = with_game(server, size_of(args))
    folder = bench.project / "sql"
    shutil.rmtree(folder)
    folder.mkdir()
    for number in range(METRICS):
        (folder / f"sleeper_{number:03}.sql").write_text(SLEEPER.format(seconds))
    times: dict[int, list[float]] = {readers: [] for readers in READERS}
    for number in range(args.rounds):
        for readers in READERS[number % len(READERS) :] + READERS[: number % len(READERS)]:
            bench.reset(None)
            times[readers].append(bench.run(bench.tool(str(LAST_DAY), readers=readers)).seconds)
    bench.make_project()
    print(f"| readers | {METRICS} metrics of SLEEP({seconds}) | over their sum | lowest to highest | rounds |")
    print("|---|---|---|---|---|")
    for readers, each in times.items():
        ratios = [took / (METRICS * seconds) for took in each]
        print(f"| {readers} | {median(each):.2f} s | {median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} "
              f"| {len(each)} |")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(parser_of(__doc__).parse_args(), measure))
