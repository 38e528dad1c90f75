"""The long search for a history after which a final row is wrong: random metrics, random events, a real server.

python -m benchmarks.histories [--engine mariadb|mysql|mariadb-11.8] [--count 2000] [--seed N]

What must hold is told in tests/histories.py. A counterexample is shrunk and printed as a story; the exit code is 1.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from demo.server import Server
from tests.conftest import FAST, ROOT, Database, connect, run_script
from tests.engines import INSTALLS, install
from tests.histories import History, Untrue, World, histories


@contextmanager
def world(engine: str) -> Iterator[World]:
    """A world on a server of its own, both gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="histories-"))
    chosen = install(engine)
    server = Server(folder / "server", chosen, FAST[chosen.name])
    server.start()
    try:
        print(f"engine: {chosen.name} {chosen.version}", flush=True)
        connection = connect(server)
        run_script(connection, "CREATE DATABASE histories CHARACTER SET utf8mb4; USE histories;")
        run_script(connection, (ROOT / "sql" / "schema.sql").read_text())
        (folder / "root").mkdir()
        yield World(Database(server, "histories", connection), folder / "root")
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def search(there: World, count: int, number: int, happened: Counter[str]) -> str:
    """Live `count` random histories and return the story of the shortest that fails; empty where none does."""

    @seed(number)
    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink], report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    @given(histories())
    def each(history: History) -> None:
        happened["histories"] += 1
        happened.update(type(event).__name__ for event in history.events)
        there.live(history)

    try:
        each()
    except Untrue as error:
        return f"{error}\n\n{error.history!r}"
    return ""


def main() -> int:
    """Search, and print figures; 1 where a history was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=INSTALLS, default="mariadb")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    call = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the server ends too
    clock, happened = time.monotonic(), Counter[str]()
    with world(call.engine) as there:
        found = search(there, call.count, call.seed, happened)
    seconds = time.monotonic() - clock
    print(f"seed {call.seed}: {happened.pop('histories'):,} histories in {seconds:.0f} s: "
          + ", ".join(f"{number:,} {name}" for name, number in sorted(happened.items())))  # fmt: skip
    print(f"{there.runs:,} runs, {there.commits:,} transactions, {there.rows_checked:,} looks at a final row")
    print(found or "No counterexample.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
