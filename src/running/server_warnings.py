"""What the server warns of while it runs a metric file: a value that it could not keep fails the file."""

from __future__ import annotations

import logging

from src.db_manager import DatabaseManager
from src.errors import MetricsError
from src.metric_file.step import Step

sql_log = logging.getLogger("bi_metrics.sql")  # to the log file only: one line per date would flood cron's mail

# Warnings that tell of no value: deprecations, among them VALUES(column), the only form every server reads; what the
# optimizer did with a hint, or for want of memory; SELECT ... INTO @x of no row.
HARMLESS_WARNINGS = frozenset({1287, 1681, 3719, 3720, 3778, 1739, 3123, 3124, 3125, 3126, 3127, 3128, 3170, 1329})
# Notes are harmless as well, but for two of MariaDB: that a number does not fit the integer of a CAST.
UNKNOWN_ERROR, OVERFLOW = 1105, 1916  # the first stands for other notes too, as for a key that cannot be used
MOST_COUNTED = 65_535  # warnings that a server shows at most
WARNINGS = "warnings"  # in `-- Allow:`


class QueryError(MetricsError):
    """What a metric file has computed cannot be stored; the text says why and what to do."""


def refuse_warnings(database: DatabaseManager, step: Step) -> None:
    """Raise QueryError if the server warned of a value in the last statement; the log gets every warning.

    A SELECT warns of what a strict INSERT refuses: a value that was cut, or that became NULL or 0.
    """
    if not database.warnings:
        return
    number, found = database.warnings, database.query("SHOW WARNINGS")
    for level, code, text in found:
        if code in HARMLESS_WARNINGS or (level == "Note" and not _tells_of_a_cast(code, text)):
            continue
        sql_log.warning("%s %s: the server's %s %s: %s", step.label, step.file.path, level.lower(), code, text)
        if WARNINGS not in step.file.script.header_list("allow"):
            raise QueryError(f"({code}) {text}; correct the value, or add the header line `-- Allow: warnings`")
    is_all = len(found) == number < MOST_COUNTED  # the reply counts in 16 bits, so a larger number begins again at 0
    if not is_all and WARNINGS not in step.file.script.header_list("allow"):
        raise QueryError(f"the server has more warnings than it shows ({len(found):,}); correct what it warns of")


def _tells_of_a_cast(code: int, text: str) -> bool:
    return code == OVERFLOW or (code == UNKNOWN_ERROR and text.startswith("Cast to "))
