"""Ends the servers of a test run, however the run ended: python -m tests.reaper FOLDER

It waits for the end of its standard input, a pipe that only the test run holds open.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def reaper(folder: Path) -> Iterator[None]:
    """While the block lasts, a process of its own waits to end the servers of `folder`."""
    command = [sys.executable, "-m", "tests.reaper", str(folder)]
    # In a session of its own: Ctrl-C in a terminal goes to everything that was started there.
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True):
        yield  # leaving the block closes the pipe, and waits


def servers_below(folder: Path) -> Iterator[int]:
    """Yield the process ids of the servers with data below `folder`, and of a proxy with its settings there."""
    data, settings = os.fsencode(f"--datadir={folder}/"), os.fsencode(f"{folder}/haproxy.cfg")
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            words = (process / "cmdline").read_bytes().split(b"\0")
            if settings in words or any(word.startswith(data) for word in words):
                yield int(process.name)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    for pid in servers_below(Path(sys.argv[1])):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
