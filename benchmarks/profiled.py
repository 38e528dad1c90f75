"""Runs a command of this tool and notes where its time goes: python profiled.py OUTCOME SCRIPT [WORD ...]

A process of its own for benchmarks/breakdown.py. OUTCOME gets, as JSON, the seconds waited for the server by kind of
statement, and the seconds of the client's own work by package, as cProfile sees them: which makes many small functions
look more expensive than they are.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import re
import runpy
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import pymysql.connections

KINDS = {  # how this tool's own statements begin
    "SAVEPOINT, RELEASE, COMMIT": ("SAVEPOINT", "RELEASE", "COMMIT"),
    "what was stored": ("SELECT UNIX_TIMESTAMP(), ", "SELECT metric, metric_date, state, definition"),
    "blank": ("UPDATE bi_metrics SET value_list",),
    "rows of SELECT files stored": ("INSERT INTO bi_metrics",),
    "rows read back": ("SELECT metrics, metric_date, data_type",),
    "checks": ("SELECT EXISTS",),
    "states stored": ("INSERT INTO bi_metric_state",),
    "reopen and settle": ("SELECT metric, metric_date", "UPDATE bi_metric_state", "SELECT metrics, MIN"),
    "EXPLAIN": ("EXPLAIN",),
}
READERS = "readers, meanwhile"
FILE = re.compile(r"/\* bi_metrics (\S+)")
PACKAGES = {"pymysql": "the driver", "logging": "the log", "json": "JSON", "importlib": "imports"}


class Connection(pymysql.connections.Connection):
    """The driver's connection, which notes how long it waits for each kind of statement."""

    waited: ClassVar[defaultdict[str, float]] = defaultdict(float)
    kind = "connect"

    def _execute_command(self, command: int, sql: Any) -> None:
        self.kind = kind_of(sql if isinstance(sql, str) else bytes(sql).decode(errors="replace"))
        super()._execute_command(command, sql)  # type: ignore[misc]

    def _read_bytes(self, size: int) -> bytes:
        clock = time.perf_counter()
        try:
            return super()._read_bytes(size)  # type: ignore[misc, no-any-return]
        finally:
            kind = self.kind if threading.current_thread() is threading.main_thread() else READERS
            self.waited[kind] += time.perf_counter() - clock


def kind_of(sql: str) -> str:
    """Return the metric file that a statement is of, or what it is for."""
    if match := FILE.match(sql):
        return match[1]
    return next((kind for kind, beginnings in KINDS.items() if sql.startswith(beginnings)), "before and after dates")


def package_of(path: str, project: Path) -> str:
    if str(project) in path:
        return "this program"
    return next((name for part, name in PACKAGES.items() if part in path), "the rest of Python")


def by_package(profile: cProfile.Profile, project: Path) -> dict[str, float]:
    """Return the seconds spent in each package; what is built in counts for the package that calls it."""
    found: defaultdict[str, float] = defaultdict(float)
    for (path, _, name), (_, _, seconds, _, callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if "recv" in name:
            continue  # that is the server's time
        if path != "~":
            found[package_of(path, project)] += seconds
        for (caller, _, _), (_, _, part, _) in callers.items() if path == "~" else ():
            found[package_of(caller, project)] += part
    return found


def main(outcome: Path, script: Path) -> None:
    for place, name in ((pymysql.connections, "Connection"), (pymysql, "Connection"), (pymysql, "connect")):
        setattr(place, name, Connection)
    sys.argv = [str(script), *sys.argv[3:]]
    sys.path.insert(0, str(script.parent))
    profile = cProfile.Profile()
    try:
        profile.runcall(runpy.run_path, str(script), run_name="__main__")
    finally:
        noted = {"waited": Connection.waited, "worked": by_package(profile, script.parent)}
        outcome.write_text(json.dumps(noted))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
