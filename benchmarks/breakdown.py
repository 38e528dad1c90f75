"""Shows where this tool's time goes: python -m benchmarks.breakdown [--quick]

For a range of dates, one transaction each, and for a year at once: the time spent waiting for the server, by kind of
statement, and the client's own work, by package.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping

from benchmarks.bench import HOME, ROOT, Command, main, parser_of, size_of, start_of, with_game
from demo.server import Server

RUNS = {"31 dates": (31, ()), "365 dates at once": (365, ("--initial",))}


def measure(server: Server, args: argparse.Namespace) -> None:
    """Profile both runs and print a table for each."""
    bench = with_game(server, size_of(args))
    for name, (dates, options) in RUNS.items():
        start = start_of(dates)
        bench.seed([start])
        bench.reset(None if options else start)
        outcome = HOME / "profile.json"
        words = list(bench.tool(*options, str(start), str(start_of(1))).words)
        bench.run(Command([words[0], str(ROOT / "benchmarks" / "profiled.py"), str(outcome), *words[1:]]))
        noted = json.loads(outcome.read_text())
        print_shares(f"{name}: waiting for the server", noted["waited"])
        print_shares(f"{name}: the client's own work, under cProfile", noted["worked"])


def print_shares(title: str, seconds: Mapping[str, float]) -> None:
    print(f"| {title} | time | share |\n|---|---|---|")
    total = sum(seconds.values())
    for name, each in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"| {name} | {each * 1000:,.1f} ms | {each / total:.0%} |")
    print(f"| together | {total * 1000:,.0f} ms | |\n", flush=True)


if __name__ == "__main__":
    sys.exit(main(parser_of(__doc__).parse_args(), measure))
