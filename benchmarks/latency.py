"""Measures 31 dates over a line that adds 1 and 5 ms to each round trip: python -m benchmarks.latency [--quick]

A proxy between client and server holds back every packet of the client that waits for a reply. It also counts them:
how many a date takes on the connection that writes, and how many of these are not statements of the metric files.
--log prints those of one date.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.bench import (
    CLIENT_SIDE,
    HOME,
    TOOL_SIDE,
    Bench,
    Command,
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
from tests.proxy import Proxy

DATES = 31
DELAYS = (0, 1, 5)  # ms per round trip
QUIT = b"\x01"  # the only command without a reply
COMMIT = b"\x03COMMIT"
OF_A_FILE = b"\x03/* bi_metrics sql/"

Packet = tuple[float, bytes]  # when it was sent, and how it begins


class Line:
    """What passes from clients to the server: each packet waits `delay` seconds, and is noted."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.connections: list[list[Packet]] = []
        self._own = threading.local()  # the proxy has a thread for each connection

    def pass_on(self, data: bytes) -> bytes:
        """Return the data after the delay of each packet that ends with it."""
        if not hasattr(self._own, "packets"):
            self._own.packets, self._own.unfinished = [], b""
            self.connections.append(self._own.packets)
        rest = self._own.unfinished + data
        while len(rest) >= 4 and len(rest) >= 4 + (size := int.from_bytes(rest[:3], "little")):
            packet, rest = rest[4 : 4 + size], rest[4 + size :]
            if packet != QUIT:
                self._own.packets.append((time.perf_counter(), packet[:400]))
                time.sleep(self.delay)
        self._own.unfinished = rest
        return data


@dataclass(frozen=True)
class Trips:
    """The round trips of one run on the connections that write: one, but the usual script has one for each date."""

    before: float  # the first date
    per_date: float
    of_files: float  # of these; 0 if the statements do not tell their files
    after: int  # the last date
    last_date: Sequence[Packet]


def measure(server: Server, args: argparse.Namespace) -> None:
    """Print the time at each delay and the number of round trips of each side."""
    line = Line()
    start = start_of(DATES)
    bench = with_game(server, size_of(args))
    bench.seed([start])
    path = HOME / "line.sock"
    path.unlink(missing_ok=True)
    with Proxy(path, server.socket, rewrite=line.pass_on):
        bench.socket = str(path)
        bench.make_project()
        sides = bench.sides(start)
        print(f"| delay | side | time of {DATES} dates | x plain client | rounds |\n|---|---|---|---|---|")
        for delay in DELAYS:
            line.delay = delay / 1000
            costs, _ = bench.take_turns(sides, start, args.rounds)
            for side, each in costs.items():
                times = f"{middle(each).seconds:.3f} s | {ratios(each, costs[CLIENT_SIDE])} | {len(each)}"
                print(f"| {delay} ms | {side} | {times} |", flush=True)
        bench.print_agreement()
        line.delay = 0
        found = {side: trips_of(bench, line, command) for side, command in sides.items()}
    print_trips(bench, found)
    if args.log:
        print_log(found[TOOL_SIDE])


def trips_of(bench: Bench, line: Line, command: Command) -> Trips:
    """Run a side once more and return its round trips."""
    bench.reset(start_of(DATES))
    line.connections.clear()
    bench.run(command)
    writers = [packets for packets in line.connections if any(text == COMMIT for _, text in packets)]
    if len(writers) > 1:
        each = sum(map(len, writers)) / DATES
        return Trips(0, each, 0, 0, writers[-1])
    [packets] = writers
    commits = [i for i, (_, text) in enumerate(packets) if text == COMMIT][:DATES]  # a run has others after its dates
    dates = packets[commits[0] + 1 : commits[-1] + 1]
    of_files = sum(text.startswith(OF_A_FILE) for _, text in dates) / (DATES - 1)
    each = len(dates) / (DATES - 1)
    after = len(packets) - commits[-1] - 1
    return Trips(commits[0] + 1 - each, each, of_files, after, packets[commits[-2] + 1 : commits[-1] + 2])


def print_trips(bench: Bench, found: dict[str, Trips]) -> None:
    statements = sum(len(file.statements) for file in load_catalog(bench.project / "sql").in_mode(Mode.INCREMENTAL))
    print("\n| round trips of the connection that writes | per date | of files | beyond these | before | after |")
    print("|---|---|---|---|---|---|")
    for side, trips in found.items():
        of_files = trips.of_files or statements
        each = f"{trips.per_date:.1f} | {of_files:.1f} | {trips.per_date - of_files:.1f}"
        print(f"| {side} | {each} | {trips.before:.0f} | {trips.after} |")


def print_log(trips: Trips) -> None:
    """Print each round trip of the last date, with the milliseconds until the next one began."""
    print()
    for (moment, text), (next_one, _) in zip(trips.last_date, trips.last_date[1:], strict=False):
        print(f"{(next_one - moment) * 1000:7.2f} ms  {' '.join(text[1:].decode(errors='replace').split())[:200]}")


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--log", action="store_true", help="print the round trips of this tool's last date")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(parse_arguments(), measure))
