"""What both commands share on their command lines."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from src.errors import UsageError

VERSION = "3.0.0"
USAGE_ERROR = 2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MODULES = {"PyMySQL": "pymysql", "python-dotenv": "dotenv", "tqdm": "tqdm", "Jinja2": "jinja2"}
_RESTARTED = "BI_METRICS_RESTARTED"


def use_own_packages(script: str, *packages: str) -> None:
    """Run the script again with .venv's Python if this one lacks a package; without .venv, exit with one line.

    Call it before the imports that need the packages.
    """
    missing = [package for package in packages if importlib.util.find_spec(_MODULES[package]) is None]
    python = os.path.join(os.path.dirname(os.path.realpath(script)), ".venv", "bin", "python")
    restarted = os.environ.pop(_RESTARTED, "")  # popped: METRICS_ON_END may start a command again
    if missing and not restarted and os.access(python, os.X_OK):
        os.execve(python, [python, *sys.argv], {**os.environ, _RESTARTED: "1"})
    if missing:
        hint = "run ./setup.sh, or: pip install -r requirements.txt"
        sys.stderr.write(f"Error: the package {missing[0]} is missing; {hint}\n")
        sys.exit(USAGE_ERROR)


def exit_on_signals() -> None:
    """Let a signal end the process with its exit code and no traceback; during the imports."""
    on_signals(lambda number, frame: os._exit(128 + number))


def on_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    """Handle each of SIGNALS by `handler`, but for those that are ignored, as under nohup."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are UsageError, one line."""

    def __init__(self, name: str, description: str | None, examples: str) -> None:
        super().__init__(
            prog=name,
            description=description,
            epilog=examples,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of ending the process: METRICS_ON_END must hear of it."""
        raise UsageError(f"{message}; see python {self.prog} --help")


def at_least(least: int) -> Callable[[str], int]:
    """Return an argparse type: an integer, `least` or more."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) >= least):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to 99999")
        return int(text)

    return number
