"""Which cells a transaction reopens: docs/design.md, "Final", has the rules and what breaks each weaker one.

Which metric or helper reads which is known by name. How far back a file looks is not known, so all later dates count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from src.dates import ONE_DAY


@dataclass(frozen=True)
class Written:
    """What a transaction wrote."""

    dates_of: Mapping[str, Sequence[date]]  # the ascending dates of each name that ran: ends of its periods
    ran: Sequence[str]  # metrics and helpers, in the order in which they ran
    partly: frozenset[str]  # those of them that were computed on some of the dates only
    changed: Mapping[str, Sequence[date]]  # the dates on which a value changed, or was missing


def cells_to_reopen(
    written: Written, dependents: Mapping[str, frozenset[str]], reads: Mapping[str, frozenset[str]],
    stands_before: Mapping[str, frozenset[str]], keeps_own: frozenset[str],
) -> list[tuple[str, date, date]]:  # fmt: skip
    """Return name, first and last date of the cells that must be computed again, if they are current.

    `dependents` and `reads` are direct. `stands_before` names, for each name, the dependents that run before it in
    every mode; they may read earlier dates only. `keeps_own` names the helpers, whose later cells do not follow from
    earlier ones unless they read their own table. For each name that has changed on a date:

    1. Its own later cells.
    2. Each dependent, from that date on. If the dependent ran after it here, only its later dates; if it stands before
       it, only the dates after that one.

    In a load of several dates, a dependent that ran before what it reads saw old rows or blanks: its cells of this load
    are reopened, but for those that end on the first date of what it reads, or before.
    """
    last = {name: written.dates_of[name][-1] for name in written.ran}
    place = {name: number for number, name in enumerate(written.ran)}
    since: dict[str, date] = {}

    def reopen(name: str, day: date) -> None:
        since[name] = min(since.get(name, day), day)

    for name, days in written.changed.items():
        if name not in keeps_own or name in reads[name]:
            reopen(name, last[name] + ONE_DAY)
        for dependent in dependents[name]:
            if place.get(dependent, -1) > place[name] and dependent not in written.partly:
                reopen(dependent, last[dependent] + ONE_DAY)
            elif dependent in stands_before[name]:
                reopen(dependent, min(days) + ONE_DAY)
            else:
                reopen(dependent, min(days))
    found = [(name, day, date.max) for name, day in sorted(since.items())]
    blank_since: dict[str, date] = {}
    for name in written.ran:
        first = written.dates_of[name][0]
        for dependent in dependents[name]:
            if place.get(dependent, place[name]) < place[name]:
                blank_since[dependent] = min(blank_since.get(dependent, first), first)
    return found + [(name, day + ONE_DAY, last[name]) for name, day in sorted(blank_since.items()) if day < last[name]]
