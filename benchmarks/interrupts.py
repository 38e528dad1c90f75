"""The long run of interrupts: SIGINT, SIGTERM and SIGHUP in every kind of moment, and what is left after each.

python -m benchmarks.interrupts [--engine mariadb|mysql|mariadb-11.8] [--count 300] [--seed N]
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults import make_project
from tests.engines import INSTALLS
from tests.test_interrupts import KINDS, SIGNALS, Interrupts, over_tls
from tests.test_tls import tls_server
from tests.workload import Workload, resume

DAYS = 20


@dataclass
class Figures:
    """What came of it, by kind of moment and signal."""

    count: Counter[tuple[str, str]] = field(default_factory=Counter)
    right: Counter[tuple[str, str]] = field(default_factory=Counter)
    finished: Counter[tuple[str, str]] = field(default_factory=Counter)  # the command that it printed did the rest
    resumed: Counter[tuple[str, str]] = field(default_factory=Counter)
    in_part: int = 0  # dates stored in part
    slowest: dict[tuple[str, str], float] = field(default_factory=dict)


class InterruptRun:
    """Interrupts one run after the other, until each kind and signal has had its share."""

    def __init__(self, work: Workload, folder: Path, seed: int) -> None:
        self.work = work
        self.interrupts = Interrupts(work, folder, random.Random(seed), over_tls(work.database))
        self.figures = Figures()

    def once(self, kind: str, number: signal.Signals) -> None:
        """Interrupt one run and look; a run that ended before its signal is done again."""
        for _ in range(20):
            self.work.clear()
            try:
                done = self.interrupts.interrupt(kind, number)
            except AssertionError as error:
                print(f"{kind}, {number.name}: {error}", flush=True)
                self.figures.in_part += 1
                return
            if done is not None:
                break
        else:
            raise SystemExit(f"{kind}: no run was interrupted")
        key = (kind, number.name)
        faults = done.faults()
        self.figures.count[key] += 1
        self.figures.right[key] += not faults
        self.figures.slowest[key] = max(self.figures.slowest.get(key, 0), done.seconds)
        if faults:
            print(f"{kind}, {number.name}: {'; '.join(faults)}", flush=True)
        if "Resume with" in done.stderr:
            finished = resume(self.work.project, done.stderr)
            self.figures.resumed[key] += 1
            self.figures.finished[key] += finished.returncode == 0 and self.work.rows() == self.interrupts.expected

    def report(self) -> bool:
        """Print the closing table; whether all is well."""
        figures = self.figures
        print("\n| moment | signal | count | ended right | slowest, s |\n|---|---|---|---|---|")
        for kind, name in sorted(figures.count):
            key = (kind, name)
            print(f"| {kind} | {name} | {figures.count[key]} | {figures.right[key]} | {figures.slowest[key]:.2f} |")
        total, right = sum(figures.count.values()), sum(figures.right.values())
        resumed, finished = sum(figures.resumed.values()), sum(figures.finished.values())
        print(f"\n{total} interrupts, {right} ended right, slowest {max(figures.slowest.values()):.2f} s")
        print(f"dates stored in part: {figures.in_part}; the printed command finished {finished} of {resumed} runs")
        return right == total and finished == resumed and not figures.in_part


def main() -> int:
    """Interrupt runs; 0 when each ended as it must."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=INSTALLS, default="mariadb")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="interrupts-"))
    try:
        with tls_server(folder, args.engine) as server:
            print(f"{server.install.name} {server.install.version}, seed {args.seed}", flush=True)
            runs = InterruptRun(Workload(make_project(folder / "project", server), DAYS), folder, args.seed)
            print(f"an undisturbed run of {DAYS} dates takes {runs.interrupts.seconds:.1f} s", flush=True)
            moments = [(kind, number) for kind in KINDS for number in SIGNALS]
            for turn in range(args.count):
                runs.once(*moments[turn % len(moments)])
            return 0 if runs.report() else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
