"""How messages spell numbers, lists of names, and text that a terminal must not act on."""

from __future__ import annotations

from collections.abc import Sequence


def count(number: int, what: str) -> str:
    """Return "1 row" or "2,000 rows"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names joined by commas, the first ones and a count if there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def printable(text: str, keep: str = "") -> str:
    """Return a text whose control characters and escape sequences are spelt out; the characters `keep` stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
