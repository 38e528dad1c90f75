"""A test run that is stopped in whatever way leaves no server behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.reaper import servers_below
from tests.workload import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("once")]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_servers_end_with_the_run(tmp_path: Path, how: signal.Signals) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "pytest", "-q", f"--basetemp={folder}", "tests/test_schema.py"]
    run = subprocess.Popen([*command, "-p", "no:cacheprovider"], cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_until((folder / "server0" / "pid").exists)
    run.send_signal(how)
    run.wait(30)
    wait_until(lambda: not list(servers_below(folder)))
