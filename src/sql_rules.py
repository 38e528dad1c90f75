"""The rules of metric files, in words: why each is there and how to repair what it finds. README has the same."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Rule:
    """Why a rule is there and how to repair what it finds, a sentence each."""

    severity: str
    why: str
    repair: str


RULES: dict[str, Rule] = {
    "unterminated": Rule(
        ERROR,
        "A quote or a comment that is never closed swallows the rest of the file.",
        "Close it where it should end.",
    ),
    "empty-file": Rule(
        ERROR,
        "A file without a statement computes nothing.",
        "Write the metric, or start the file name with _ to disable it.",
    ),
    "not-utf8": Rule(
        ERROR,
        "Bytes that are not UTF-8 reach the database as other characters than the author saw.",
        "Save the file as UTF-8.",
    ),
    "unknown-parameter": Rule(
        ERROR,
        "A parameter without a value cannot be sent.",
        "Correct its name, or define it in .env as METRIC_PARAM_<NAME>.",
    ),
    "quoted-parameter": Rule(
        ERROR,
        "A parameter becomes a quoted literal, so inside quotes it would not be a value.",
        "Remove the quotes around it, or use CONCAT.",
    ),
    "missing-metric-date": Rule(
        ERROR,
        "A metric that does not depend on its date writes the same row, or today's, for every date.",
        "Use %(metric_date)s, or in an initial file %(start_date)s or %(dates)s.",
    ),
    "not-idempotent": Rule(
        ERROR,
        "A date that is run again must replace its own row: a plain INSERT fails, REPLACE makes a new row of it, "
        "INSERT IGNORE keeps the old value and hides errors.",
        "Write INSERT INTO bi_metrics ... ON DUPLICATE KEY UPDATE.",
    ),
    "implicit-commit": Rule(
        ERROR,
        "The statement commits the transaction, so the date would no longer be all or nothing.",
        "Create lasting tables in sql/schema.sql; in a file use CREATE and DROP TEMPORARY TABLE, and DELETE.",
    ),
    "transaction-control": Rule(
        ERROR,
        "The run owns the transaction of a date; a file that begins, ends or locks breaks it.",
        "Remove the statement.",
    ),
    "client-command": Rule(
        ERROR,
        "The command belongs to the mysql client; the server does not know it.",
        "Remove it; statements end with ; here.",
    ),
    "changes-session": Rule(
        ERROR,
        "A setting of the session would change every file that runs after this one.",
        "Remove the statement; user variables (SET @x := ...) are fine.",
    ),
    "compound-statement": Rule(
        ERROR,
        "A block such as IF ... END IF holds statements of its own, and a file is split at each ;.",
        "Write it as plain statements, with CASE or IF() inside them.",
    ),
    "bad-check": Rule(
        ERROR,
        "A `-- Check:` line is one query whose rows are faults.",
        "Write one SELECT on one line.",
    ),
    "duplicate-metric": Rule(
        ERROR,
        "Two files of one metric in one mode overwrite each other's rows.",
        "Rename one of them, or start its name with _ to disable it.",
    ),
    "name-mismatch": Rule(
        WARNING,
        "The run finds yesterday's row by the metric's name; so this is an error where a metric has both files.",
        "Write the file's name, without prefix and .sql, to the column metrics.",
    ),
    "reads-the-clock": Rule(
        WARNING,
        "A past date that is computed again would get today's value.",
        "Use %(metric_date)s.",
    ),
    "function-on-column": Rule(
        WARNING,
        "A function around a column keeps MySQL from its index, 320 times slower in our measure.",
        "Compare the column itself with a half-open range.",
    ),
    "no-header": Rule(
        WARNING,
        "The header tells the next person, and the listing, what the number means.",
        "Start the file with `-- Metric:`, `-- Description:` and `-- Data Type:`.",
    ),
    "unknown-data-type": Rule(
        WARNING,
        "Readers of bi_metrics know card, timeseries and ranking.",
        "Use one of the three.",
    ),
    "helper-not-idempotent": Rule(
        WARNING,
        "A plain INSERT into a lasting helper table doubles its rows when a date is run again.",
        "DELETE the date's rows first, or add ON DUPLICATE KEY UPDATE.",
    ),
    "float-from-json": Rule(
        WARNING,
        "A number from JSON is a float when added, and cents drift.",
        "Write CAST(JSON_UNQUOTE(JSON_EXTRACT(...)) AS DECIMAL(20,2)); AS UNSIGNED for a count.",
    ),
    "unknown-rule": Rule(
        WARNING,
        "`-- Allow:` silences warnings by their names, and errors never.",
        "Correct the name, or remove it.",
    ),
}
