"""The long fault run: kills runs in every way at many moments; looks for lost rows and dates stored in part after each.

python -m benchmarks.faults [--engine mariadb|mysql|mariadb-11.8] [--kills 240] [--pairs 50] [--seed N]
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pymysql

from demo.server import Server
from tests.conftest import ROOT, Database, Project, connect, run_script
from tests.engines import INSTALLS, install
from tests.proxy import Cut, Proxy
from tests.workload import FIRST, Workload, log_has, reported, sessions, wait_until

DAYS = 20
FILES = ("01_day_users.sql", "02_users.sql", "03_busy.sql", "04_total.sql", "05_last.sql")
KINDS = ("kill -9 of the run", "SIGTERM", "Ctrl-C", "KILL of its connection", "a statement's line cut",
         "a COMMIT's line cut", "kill -9 of the server")  # fmt: skip
SIGNALS = {"kill -9 of the run": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}


@dataclass
class Figures:
    """What came of it, by kind of fault."""

    kills: Counter[str] = field(default_factory=Counter)
    in_the_middle: Counter[str] = field(default_factory=Counter)  # the run was at work on a date
    survived: Counter[str] = field(default_factory=Counter)  # in the end the table was that of an undisturbed run
    rows_lost: int = 0  # of dates that the run had said to have committed
    dates_in_part: int = 0


class FaultRun:
    """A server, a project with real work, and the faults."""

    def __init__(self, folder: Path, engine: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.server = Server(folder / "server", install(engine), ("--innodb-buffer-pool-size=128M",))
        self.server.start()
        self.work = Workload(make_project(folder / "project", self.server), DAYS)
        self.proxy = folder / "proxy.sock"
        self.expected, self.seconds = self.work.undisturbed()
        self.figures = Figures()

    def disturb(self, kind: str) -> None:
        """Start a run, let the fault happen, look at the tables, finish the run, and compare."""
        cut = self._cut(kind)
        self.proxy.unlink(missing_ok=True)
        with Proxy(self.proxy, self.server.socket, cut) as proxy:
            env = {"DB_SOCKET": str(proxy.path)} if cut else {}
            run = self.work.project.start("run_metrics.py", *self.work.range, env=env)
            if cut is None:
                self._wait_for_a_moment(run)
                self._note_the_middle(kind, run)
                self._strike(kind, run)
            out, err = run.communicate(timeout=120)
        self.figures.kills[kind] += 1
        if cut is not None:
            self.figures.in_the_middle[kind] += cut.done
        self._look(out)
        self._finish(kind, run.returncode, err)

    def _cut(self, kind: str) -> Cut | None:
        moment = self.random.choice(("before", "within", "after"))
        if kind == "a COMMIT's line cut":
            return Cut(b"\x03COMMIT", moment, skip=self.random.randrange(DAYS))
        if kind == "a statement's line cut":
            return Cut(f"{self.random.choice(FILES)} {self._day()}".encode(), moment)
        return None

    def _wait_for_a_moment(self, run: Any) -> None:
        """Wait until the run is somewhere in a date, or, one time in eight, on its way there."""
        if self.random.random() < 1 / 8:
            time.sleep(self.random.random() * 0.4)
            return
        text = f"{self._day()} sql/{self.random.choice(FILES[::2])}: start"
        wait_until(lambda: log_has(self.work.project, text) or run.poll() is not None)
        time.sleep(self.random.random() * self.seconds / DAYS / 2)

    def _day(self) -> date:
        return FIRST + timedelta(days=self.random.randrange(DAYS))

    def _note_the_middle(self, kind: str, run: Any) -> None:
        self.figures.in_the_middle[kind] += run.poll() is None and log_has(self.work.project, "start")

    def _strike(self, kind: str, run: Any) -> None:
        if kind in SIGNALS:
            run.send_signal(SIGNALS[kind])
        elif kind == "KILL of its connection":
            for number, _ in sessions(self.work.database):
                kill_session(self.work.database, number)
        else:
            self.server.kill()
            self.server.start()
            self.work.database.connection.connect()
            self.work.database.connection.select_db(self.work.database.name)

    def _look(self, out: str) -> None:
        try:
            stored = set(self.work.whole_dates())
        except AssertionError as error:
            print(f"IN PART: {error}")
            self.figures.dates_in_part += 1
            return
        lost = set(reported(out)) - stored
        if lost:
            print(f"LOST: {sorted(lost)}")
        self.figures.rows_lost += len(lost) * self.work.metrics_a_date

    def _finish(self, kind: str, code: int, err: str) -> None:
        """Run what is left: after a signal the next run does it, after anything else the run itself has."""
        if kind in SIGNALS:
            again = self.work.project.run(*self.work.range, "--wait", "60")
            code, err = again.returncode, again.stderr
        same = code == 0 and self.work.rows() == self.expected
        self.figures.survived[kind] += same
        if not same:
            print(f"NOT SURVIVED: {kind}: exit {code}: {err}")
        self.work.clear()

    def pair(self) -> bool:
        """Start two runs together; whether one ran, the other ran after it or was refused, and the rows are right."""
        both = [self.work.project.start("run_metrics.py", *self.work.range) for _ in range(2)]
        errors = [run.communicate(timeout=120)[1] for run in both]
        codes = sorted(run.returncode for run in both)
        good = codes in ([0, 0], [0, 3]) and self.work.rows() == self.expected
        if not good:
            print(f"PAIR: exits {codes}: {errors}")
        self.work.clear()
        return good

    def report(self, pairs: int, good: int) -> bool:
        """Print the closing figures; whether all is well."""
        figures, total = self.figures, sum(self.figures.kills.values())
        print("\n| fault | kills | in the middle of a run | survived |\n|---|---|---|---|")
        for kind in figures.kills:
            print(f"| {kind} | {figures.kills[kind]} | {figures.in_the_middle[kind]} | {figures.survived[kind]} |")
        survived, middle = sum(figures.survived.values()), sum(figures.in_the_middle.values())
        print(f"\n{total} kills, {middle} of them in the middle of a run; {survived} faults survived; "
              f"rows lost: {figures.rows_lost}; dates stored in part: {figures.dates_in_part}; "
              f"two runs started together: {good} of {pairs} times right")  # fmt: skip
        return survived == total and good == pairs and figures.rows_lost == figures.dates_in_part == 0


def kill_session(database: Database, number: int) -> None:
    """KILL a session that may have ended."""
    try:
        database.execute(f"KILL {number}")
    except pymysql.err.OperationalError as error:
        if error.args[0] != 1094:  # unknown thread
            raise


def make_project(folder: Path, server: Server) -> Project:
    """Return a project with an empty sql folder, on a new database."""
    folder.mkdir()
    for name in ("initial", "incremental"):
        (folder / "sql" / name).mkdir(parents=True)
    connection = connect(server)
    run_script(connection, "CREATE DATABASE faults CHARACTER SET utf8mb4; USE faults;")
    run_script(connection, (ROOT / "sql" / "schema.sql").read_text())
    return Project(folder, Database(server, "faults", connection))


def main() -> int:
    """Run all faults; 0 when nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=INSTALLS, default="mariadb")
    parser.add_argument("--kills", type=int, default=240)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # behind an & it is ignored, in the runs too
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    print(f"{args.engine} {install(args.engine).version}, seed {args.seed}", flush=True)
    try:
        faults = FaultRun(folder, args.engine, args.seed)
        try:
            print(f"an undisturbed run of {DAYS} dates takes {faults.seconds:.1f} s", flush=True)
            for number in range(args.kills):
                faults.disturb(KINDS[number % len(KINDS)])
            good = sum(faults.pair() for _ in range(args.pairs))
            return 0 if faults.report(args.pairs, good) else 1
        finally:
            faults.server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.TimeoutExpired as error:
        sys.exit(f"a run did not end: {error}")
