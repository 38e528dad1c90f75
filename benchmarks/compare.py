"""Measures this tool beside the plain client and a usual script: python -m benchmarks.compare [--quick]

One transaction per date for 1, 31 and 365 dates, then the longest of these histories at once, then the memory over
10,000 dates. The sides take turns, every side must leave the same rows, and medians are printed as Markdown.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from statistics import median

from benchmarks.bench import (
    CLIENT_SIDE,
    LAST_DAY,
    SCRIPT_SIDE,
    TOOL_SIDE,
    Bench,
    Cost,
    main,
    middle,
    parser_of,
    ratios,
    size_of,
    start_of,
    with_game,
)
from demo.server import Server
from src.metric_file.file import Mode
from src.sql_loader import load_catalog

PARTS = ("dates", "bulk", "memory")
ROUNDS_OF_ONE_DATE = 15  # it is short, and its start-up is the larger part
TRIVIAL = """\
-- Metric: trivial
SELECT DAY(%(metric_date)s) AS n
"""


def measure(server: Server, args: argparse.Namespace) -> None:
    """Run the chosen parts and print a table for each."""
    bench = with_game(server, size_of(args))
    bench.seed([start_of(count) for count in args.counts])
    by_date: list[Cost] = []
    if "dates" in args.parts:
        by_date = print_dates(bench, args.counts, args.rounds)
    if "bulk" in args.parts:
        print_bulk(bench, args.counts[-1], args.rounds, by_date)
    if "memory" in args.parts:
        print_memory(bench)


def print_dates(bench: Bench, counts: Sequence[int], rounds: int) -> list[Cost]:
    """Measure each number of dates; return the plain client's costs of the largest."""
    print("| dates | side | time | x plain client | x usual script | server CPU | client CPU | both, x plain client "
          "| memory | rounds |\n|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    tool: dict[int, Cost] = {}
    by_date: list[Cost] = []
    for count in counts:
        start = start_of(count)
        turns = max(rounds, ROUNDS_OF_ONE_DATE) if count == 1 else rounds
        costs, _ = bench.take_turns(bench.sides(start), start, turns)
        by_date = costs[CLIENT_SIDE]
        print_costs(f"{count:,}", costs, (CLIENT_SIDE, SCRIPT_SIDE))
        tool[count] = middle(costs[TOOL_SIDE])
    bench.print_agreement()
    few, many = counts[0], counts[-1]
    if few < many:
        files = len(load_catalog(bench.project / "sql").in_mode(Mode.INCREMENTAL))
        each = (tool[many].cpu - tool[few].cpu) / (many - few) / files * 1000
        print(f"\nThis tool's CPU for each execution of a file, start-up aside: {each:.2f} ms.")
    return by_date


def print_bulk(bench: Bench, count: int, rounds: int, by_date: Sequence[Cost]) -> None:
    """Measure the initial files in both clients, and against one transaction per date in the plain client."""
    bench.compared = 0
    costs, _ = bench.take_turns(bench.bulk_sides(start_of(count)), None, rounds)
    print("\n| dates at once | side | time | x plain client | server CPU | client CPU | both, x plain client "
          "| memory | rounds |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    print_costs(f"{count:,}", costs, (CLIENT_SIDE,))
    bench.print_agreement()
    if by_date:
        base = middle(by_date)
        for side, each in costs.items():
            cost = middle(each)
            cpu = (cost.server_cpu + cost.cpu) / (base.server_cpu + base.cpu)
            over = f"{cost.seconds / base.seconds:.2f}, by the CPU of both {cpu:.2f}"
            print(f"\nAt once in {side}, over date by date in the plain client: {over}.")
    print_files_of_the_load(bench, count)


def print_files_of_the_load(bench: Bench, count: int) -> None:
    """Load once more with this tool, and print what it spent on each file by its own records."""
    bench.reset(None)
    seconds = bench.run(bench.bulk_sides(start_of(count))[TOOL_SIDE]).seconds
    print("\n| file of the initial load | executions | time in this tool | share |\n|---|---|---|---|")
    found = []
    for file in load_catalog(bench.project / "sql").in_mode(Mode.INITIAL):
        times = [row[0] for row in bench.query(f"SELECT milliseconds FROM bi_metric_state WHERE file = '{file.path}'")]
        # One execution of a set-based file has a record for each of its dates.
        found.append((max(times), 1, file.path) if file.is_set_based else (sum(times), len(times), file.path))
    total = round(seconds * 1000)
    found.append((total - sum(milliseconds for milliseconds, _, _ in found), 1, "the rest: start, checks, comparison"))
    for milliseconds, executions, path in sorted(found, reverse=True):
        print(f"| {path} | {executions} | {milliseconds:,} ms | {milliseconds / total:.0%} |")


def print_costs(title: str, costs: dict[str, list[Cost]], bases: Sequence[str]) -> None:
    """Print a line for each side; the CPU of client and server together hardly depends on what else is running."""
    plain = middle(costs[CLIENT_SIDE])
    for side, each in costs.items():
        cost = middle(each)
        both = (cost.server_cpu + cost.cpu) / (plain.server_cpu + plain.cpu)
        against = " | ".join(ratios(each, costs[base]) for base in bases)
        memory = f"{cost.memory:.0f} MB" if cost.memory >= 1 else "-"  # it ended before anybody could look
        usage = f"{cost.server_cpu:.3f} s | {cost.cpu:.2f} s | {both:.2f} | {memory} | {len(each)}"
        print(f"| {title} | {side} | {cost.seconds:.3f} s | {against} | {usage} |", flush=True)


def print_memory(bench: Bench) -> None:
    """Measure 100 and 10,000 dates of one trivial metric: the memory must not grow with the dates."""
    shutil.rmtree(bench.project / "sql")
    (bench.project / "sql").mkdir()
    (bench.project / "sql" / "trivial.sql").write_text(TRIVIAL)
    print("\n| one trivial metric | time | per date | client CPU per date | memory |\n|---|---|---|---|---|")
    for count in (100, 10_000):
        costs = []
        for _ in range(3):
            bench.reset(None)
            costs.append(bench.run(bench.tool(str(start_of(count)), str(LAST_DAY))))
        cost = middle(costs)
        each = f"{cost.seconds / count * 1000:.2f} ms | {cost.cpu / count * 1000:.2f} ms"
        memory = median(cost.memory for cost in costs)
        print(f"| {count:,} dates | {cost.seconds:.2f} s | {each} | {memory:.1f} MB |", flush=True)
    bench.make_project()


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--dates", default="1,31,365", metavar="N,N", help="how many dates (default: %(default)s)")
    parser.add_argument(
        "--parts", default=",".join(PARTS), metavar="PART,PART", help="what to measure (default: %(default)s)"
    )
    args = parser.parse_args()
    args.counts = sorted({int(word) for word in args.dates.split(",")})
    args.parts = args.parts.split(",")
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return args


if __name__ == "__main__":
    sys.exit(main(parse_arguments(), measure))
