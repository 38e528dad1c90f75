"""Tells a command of the user's how a run ended: METRICS_ON_END."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Mapping

LIMIT_SECONDS = 30.0
_LONGEST = 10_000  # characters: Linux refuses a variable of 128 KiB, and a log is no place for more
log = logging.getLogger("bi_metrics")
_file_log = logging.getLogger("bi_metrics.sql")


def run_on_end(command: str, outcome: Mapping[str, object], seconds: float = LIMIT_SECONDS) -> None:
    """Run the shell command with the outcome as one line of JSON on its stdin; nothing where `command` is empty.

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
    """Return what went wrong, empty where nothing did, and what the command printed."""
    import subprocess

    env: dict[str, str | bytes] = {name: value for name, value in os.environ.items() if name != "DB_PASSWORD"}
    for name in ("status", "exit_code", "error", "resume"):
        text = "" if outcome.get(name) is None else str(outcome[name])[:_LONGEST].replace("\0", " ")
        env[f"METRICS_{name.upper()}"] = text.encode(errors="backslashreplace")  # whatever the locale, it must arrive
    with subprocess.Popen(
        ["sh", "-c", command], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(json.dumps(outcome, default=str).encode() + b"\n", timeout=seconds)
        except subprocess.TimeoutExpired as late:
            os.killpg(process.pid, signal.SIGKILL)
            return f"was stopped after {seconds:g} seconds", (late.output or b"").decode(errors="replace")
    code = process.returncode
    how = f"failed with exit code {code}" if code > 0 else f"was ended by signal {-code}"
    return how if code else "", output.decode(errors="replace")
