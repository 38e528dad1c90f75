"""The long search for a history that breaks a promise about cells: random metrics, random steps, real servers.

python -m benchmarks.histories [--engine mariadb|mysql|mariadb-11.8] [--count 2000] [--first N] [--processes N]

tests/histories.py tells what must hold. A counterexample is made simpler and printed as a story; the exit code is then
1. Each history has a number: `--first 1234 --count 1` lets one happen again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from tests.conftest import new_database, own_server
from tests.engines import INSTALLS, install
from tests.histories import World
from tests.random_histories import random_history


@contextmanager
def world(engine: str) -> Iterator[World]:
    """A world on a server of its own, both gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="histories-"))
    (folder / "root").mkdir()
    chosen, cheap = install(engine), "--performance-schema=OFF"  # an eighth of MySQL's time
    try:
        with own_server(chosen, folder / "server", cheap) as server, new_database(server, "histories") as database:
            yield World(database, folder / "root")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def search(engine: str, numbers: Sequence[int]) -> tuple[Counter[str], str]:
    """Live the histories with some numbers; return figures, and the first counterexample, empty if there is none."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the server ends too
    figures, story = Counter[str](), ""
    with world(engine) as there:
        for number in numbers:
            history = random_history(number)
            figures.update(["histories", *(step[0] for step in history.steps)])
            if story := there.counterexample(history):
                print(f"history {number}: {story}\n", flush=True)
                break
        figures.update(runs=there.runs, commits=there.commits)
        figures["looks at a current row"] += there.rows_checked
    return figures, story


def main() -> int:
    """Search, and print figures; 1 if a counterexample was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=INSTALLS, default="mariadb")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first history")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    call = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the processes end too
    clock, chosen = time.monotonic(), install(call.engine)
    print(f"engine: {chosen.name} {chosen.version}", flush=True)
    numbers = range(call.first, call.first + call.count)
    shares = [(call.engine, numbers[n :: call.processes]) for n in range(call.processes)]
    with get_context("spawn").Pool(call.processes) as pool:
        results = pool.starmap(search, shares, chunksize=1)
        pool.close()
        pool.join()  # else the processes are stopped while they end
    figures = sum((each for each, _ in results), Counter[str]())
    print(f"{time.monotonic() - clock:,.0f} s: " + ", ".join(f"{n:,} {name}" for name, n in figures.most_common()))
    is_broken = any(story for _, story in results)
    print("A promise does not hold." if is_broken else "No counterexample.")
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main())
