"""What takes the mark of being final from a row: docs/design.md, "Final", has the reasons.

A row is final when its date had ended as it was computed, and nothing that it read has changed since. Which metric
reads which is known by name from the SQL; how far back a file looks is not, so no window of dates is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from src.dates import ONE_DAY
from src.sql_loader import Catalog
from src.storage.changes import Change


def outdated(
    catalog: Catalog, ran: Sequence[str], last: date, newest: date | None, changes: Sequence[Change]
) -> list[tuple[str, date, date]]:
    """Return metric, first and last date of the rows that were computed from what a transaction has changed.

    The transaction ran the metrics `ran`, in this order, for dates up to `last`; `newest` is the newest date in the
    table. For each metric whose row of a date has another value now, or was missing:

    1. Its own later rows. After a date that was missing only the next one; what changes there takes the rest along.
    2. Of each metric that reads it, directly or through others, all later rows; those that the transaction has written
       too where the reader ran before, and also the row of the date itself where the reader did not run.

    Of several dates, a reader that ran before has read blanked rows: its rows go even where nothing has changed.
    """
    newest = max(newest or last, last)
    order = {name: number for number, name in enumerate(ran)}
    since: dict[str, date] = {}  # metric -> the date from which its rows are outdated
    next_ones: list[tuple[str, date, date]] = []

    def outdate(name: str, day: date) -> None:
        if day <= newest:
            since[name] = min(since.get(name, day), day)

    by_metric: dict[str, list[Change]] = {}
    for change in sorted(changes, key=lambda change: change.metric_date):
        by_metric.setdefault(change.metric, []).append(change)
    for name, all_of in by_metric.items():
        found = [change for change in all_of if change.kind != "unchanged"]
        if any(change.kind == "changed" for change in found):
            outdate(name, last + ONE_DAY)
        elif found and found[-1].metric_date == last < newest:
            next_ones.append((name, last + ONE_DAY, last + ONE_DAY))
        for reader in catalog.readers[name]:
            if reader in order and order[reader] < order[name]:
                if found or len(all_of) > 1:  # of several dates it has read rows that were blank, or of before
                    outdate(reader, all_of[0].metric_date + ONE_DAY)
            elif found:
                outdate(reader, last + ONE_DAY if reader in order else found[0].metric_date)
    return [(name, day, date.max) for name, day in sorted(since.items())] + next_ones
