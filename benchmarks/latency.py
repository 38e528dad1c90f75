"""Measures 31 dates over a line that adds 1 and 5 ms to each round trip: python -m benchmarks.latency [--quick]

A proxy between client and server holds back every packet of the client that waits for a reply. It also counts them:
how many a date takes, and how many of these are not statements of the metric files. --log prints those of one date.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field

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
BEGINNINGS = (b"\x03START TRANSACTION", b"\x03SAVEPOINT")


@dataclass
class Line:
    """What passes from the client to the server: each packet waits `delay` seconds, and is noted."""

    delay: float = 0.0
    packets: list[tuple[float, bytes]] = field(default_factory=list)  # when, and how it begins
    _unfinished: bytes = b""

    def pass_on(self, data: bytes) -> bytes:
        """Return the data after the delay of each packet that ends with it."""
        self._unfinished += data
        while len(self._unfinished) >= 4 and len(self._unfinished) >= 4 + (size := self._size()):
            packet, self._unfinished = self._unfinished[4 : 4 + size], self._unfinished[4 + size :]
            if packet != QUIT:
                self.packets.append((time.perf_counter(), packet[:400]))
                time.sleep(self.delay)
        return data

    def _size(self) -> int:
        return int.from_bytes(self._unfinished[:3], "little")


@dataclass(frozen=True)
class Trips:
    """The round trips of one run: those before its first transaction, those of its dates, and those after."""

    before: int
    dates: list[tuple[float, bytes]]
    after: int

    @property
    def per_date(self) -> float:
        return len(self.dates) / DATES


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
    line.packets.clear()
    bench.run(command)
    texts = [text for _, text in line.packets]
    first = next((i for i, text in enumerate(texts) if text.startswith(BEGINNINGS)), 0)  # the script logs in per date
    last = max(i for i, text in enumerate(texts) if text == b"\x03COMMIT")
    return Trips(first, line.packets[first : last + 1], len(texts) - last - 1)


def print_trips(bench: Bench, found: dict[str, Trips]) -> None:
    statements = sum(len(file.statements) for file in load_catalog(bench.project / "sql").in_mode(Mode.INCREMENTAL))
    print(f"\n| round trips | per date | of these beyond the files' {statements} statements | before | after |")
    print("|---|---|---|---|---|")
    for side, trips in found.items():
        each = f"{trips.per_date:.1f} | {trips.per_date - statements:.1f}"
        print(f"| {side} | {each} | {trips.before} | {trips.after} |")


def print_log(trips: Trips) -> None:
    """Print each round trip of the last date, with the milliseconds until the next one began."""
    first = max(i for i, (_, text) in enumerate(trips.dates) if text.startswith(BEGINNINGS))
    print()
    for (moment, text), (next_one, _) in zip(trips.dates[first:], trips.dates[first + 1 :], strict=False):
        print(f"{(next_one - moment) * 1000:7.2f} ms  {' '.join(text[1:].decode(errors='replace').split())[:200]}")


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--log", action="store_true", help="print the round trips of this tool's last date")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(parse_arguments(), measure))
