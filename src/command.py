"""What both commands share on their command lines."""

from __future__ import annotations

import argparse
from typing import NoReturn

USAGE_ERROR = 2


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, name: str, description: str | None, examples: str) -> None:
        super().__init__(
            prog=name,
            description=description,
            epilog=examples,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"Error: {message}; see python {self.prog} --help\n")


def positive(text: str) -> int:
    """Return a number from 1, or raise what argparse reports."""
    number = not_negative(text)
    if number == 0:
        raise argparse.ArgumentTypeError("write a number from 1")
    return number


def not_negative(text: str) -> int:
    """Return a number from 0, or raise what argparse reports."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 99999")
    return int(text)
