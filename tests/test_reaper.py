"""A test run that is stopped in whatever way leaves no server behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.conftest import ROOT
from tests.reaper import servers_below
from tests.workload import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("once")]


@pytest.mark.parametrize(
    ("kill", "how"),
    [
        (os.killpg, signal.SIGINT),  # Ctrl-C: a terminal sends it to the workers too
        (os.killpg, signal.SIGTERM),
        (os.killpg, signal.SIGKILL),
        (os.kill, signal.SIGKILL),  # the workers are left behind
    ],
)
def test_the_servers_end_with_the_run(
    tmp_path_factory: pytest.TempPathFactory, kill: Callable[[int, int], None], how: signal.Signals
) -> None:
    folder = tmp_path_factory.mktemp("run")  # a short name: in a longer folder the sockets would lie elsewhere
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}"]
    run = subprocess.Popen(
        [*command, "tests/test_schema.py"], cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    )
    wait_until(lambda: len(list(folder.glob("popen-gw*/server0/pid"))) == 2)  # each worker has one
    kill(run.pid, how)
    run.wait(30)
    wait_until(lambda: not list(servers_below(folder)))
