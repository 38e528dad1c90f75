"""Tells a command of the user's how a run ended: METRICS_ON_END."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from src.wording import printable

if TYPE_CHECKING:
    import subprocess

LIMIT_SECONDS = 30.0
_LONGEST = 10_000  # characters: Linux refuses a variable of 128 KiB, and a log is no place for more
_BYTES = 4 * _LONGEST  # of UTF-8
log = logging.getLogger("bi_metrics")
_file_log = logging.getLogger("bi_metrics.sql")


def run_on_end(command: str, outcome: Mapping[str, object], seconds: float = LIMIT_SECONDS) -> None:
    """Run the shell command with the outcome as one line of JSON on its stdin; nothing if `command` is empty.

    Whatever the command does, nothing is raised: its output goes to the log, its failure is a warning. After `seconds`
    it is killed with all that it started. The text of the command appears in no message: it may hold a secret.
    """
    if not command:
        return
    try:
        problem, output = _run(command, outcome, seconds)
    except (OSError, ValueError) as error:
        problem, output = f"could not be run: {error}", ""
    for line in output[:_LONGEST].splitlines():
        _file_log.info("METRICS_ON_END: %s", line)
    if problem:
        log.warning("METRICS_ON_END %s%s", problem, "; logs/metrics.log has what it printed" if output.strip() else "")


def _run(command: str, outcome: Mapping[str, object], seconds: float) -> tuple[str, str]:
    """Return what went wrong, "" if nothing did, and the beginning of what the command printed."""
    import subprocess

    env: dict[str, str | bytes] = {name: value for name, value in os.environ.items() if name != "DB_PASSWORD"}
    for name in ("status", "exit_code", "error", "resume"):
        text = "" if outcome.get(name) is None else str(outcome[name])[:_LONGEST]
        env[f"METRICS_{name.upper()}"] = printable(text, keep="\n").encode()  # whatever the locale, it must arrive
    line = json.dumps(outcome, default=str).encode() + b"\n"
    deadline = time.monotonic() + seconds
    with subprocess.Popen(
        ["sh", "-c", command], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:  # fmt: skip
        output, has_closed = _talk(process, line, deadline)
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()) if has_closed else 0)
        except subprocess.TimeoutExpired:
            has_closed = False
        if not has_closed:
            os.killpg(process.pid, signal.SIGKILL)
            return f"was stopped after {seconds:g} seconds", output
    how = f"failed with exit code {code}" if code > 0 else f"was ended by signal {-code}"
    return how if code else "", output


def _talk(process: subprocess.Popen[bytes], line: bytes, deadline: float) -> tuple[str, bool]:
    """Give the command its line, and read what it prints until all that it started have closed the output.

    Returns the beginning of the output, and whether the output ended before the time was up. What is longer than the
    log takes is read and dropped, because a closed pipe would end the command.
    """
    assert process.stdin
    assert process.stdout
    output, rest = b"", memoryview(line)
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as pipes:
        pipes.register(process.stdin, selectors.EVENT_WRITE)
        pipes.register(process.stdout, selectors.EVENT_READ)
        while pipes.get_map() and (seconds := deadline - time.monotonic()) > 0:
            for key, _ in pipes.select(seconds):
                if key.fileobj is process.stdout:
                    data = os.read(key.fd, 65536)
                    output += data[: _BYTES - len(output)]
                    is_done = not data
                else:
                    rest = rest[_write(key.fd, rest) :]
                    is_done = not rest
                if is_done:
                    pipes.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
        return output.decode(errors="replace"), not pipes.get_map()


def _write(pipe: int, data: memoryview) -> int:
    """Write what a pipe takes; return how much of `data` need not be written any more: all, if nobody reads."""
    try:
        return os.write(pipe, data)
    except BrokenPipeError:
        return len(data)
