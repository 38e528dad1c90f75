"""What the tests themselves stand on: a command called in process leaves no trace."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from tests.conftest import Project, metric_sql
from tests.workload import wait_until


def surroundings() -> tuple[object, ...]:
    """Return all that a command may change in its process, but for its open files."""
    logger = logging.getLogger("bi_metrics")
    return (
        dict(os.environ), Path.cwd(), sys.stdout, sys.stderr, [signal.getsignal(n) for n in signal.valid_signals()],
        logger.handlers[:], logger.level, logger.propagate,
    )  # fmt: skip


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_command_called_in_process_leaves_everything_as_it_was(project: Project) -> None:
    project.write("m.sql", metric_sql("m"))
    threads, before, files = threading.active_count(), surroundings(), open_files()
    assert project.run("2025-01-15", env={"LOG_LEVEL": "DEBUG", "METRICS_ON_END": "true"}).returncode == 0
    assert project.run("2025-01-15", env={"DB_PORT": "x"}).returncode == 2
    assert project.list("--status").returncode == 0
    assert project.list("--help").stdout.startswith("usage: list_metrics.py")
    # Fewer are fine: a thread or a socket of the test before may have been closing when this one began.
    wait_until(lambda: threading.active_count() <= threads)  # those that wait for signals end by themselves
    assert surroundings() == before
    assert open_files() <= files
