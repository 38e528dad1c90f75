"""A file as the packet that is sent: bound, guarded by a savepoint, and located in errors."""

from __future__ import annotations

from datetime import date

import pytest

from src.packet import RELEASE, SAVEPOINT, SHOW_WARNINGS, Packet, Step, disable_hint, span
from src.sql_loader import Metric
from src.sql_text import parse

DAYS = (date(2025, 1, 30), date(2025, 1, 31), date(2025, 2, 1))
TEXT = """\
-- Metric: m
-- Check: SELECT 1 FROM t WHERE d = %(metric_date)s

SET @x := 1;

INSERT INTO bi_metrics
SELECT %(metric_date)s,
       @x;
"""


def packet(text: str = TEXT, path: str = "sql/m.sql", dates: tuple[date, ...] = DAYS) -> Packet:
    return Packet(Step(Metric("m", "initial", path, None, False, parse(text)), dates), {"cutoff_date": "'2024-01-01'"})


def test_the_metric_date_is_the_last_and_all_dates_are_an_array() -> None:
    bound = packet("SELECT %(start_date)s, %(metric_date)s, %(dates)s, %(cutoff_date)s").bound
    assert bound == [
        "/* bi_metrics sql/m.sql 2025-01-30 to 2025-02-01 */ SELECT '2025-01-30', '2025-02-01', "
        "'[\"2025-01-30\",\"2025-01-31\",\"2025-02-01\"]', '2024-01-01'"
    ]


def test_a_file_stands_between_savepoints_and_warnings_are_asked_for_after_what_may_warn() -> None:
    sent = packet().guarded
    assert [sql.split("*/ ")[-1].split("\n")[0] for sql, _ in sent] == [
        SAVEPOINT, "SET @x := 1", "INSERT INTO bi_metrics", SHOW_WARNINGS, RELEASE,
    ]  # fmt: skip
    assert [statement and statement.number for _, statement in sent] == [None, 1, 2, None, None]


def test_an_error_is_placed_in_the_file_by_the_servers_line_in_the_statement() -> None:
    assert packet().locate(2, "(1054) Unknown column") == "sql/m.sql:6: statement 2 of 2"
    assert packet().locate(2, "(1064) ... near '@x' at line 3") == "sql/m.sql:8: statement 2 of 2"
    assert packet().locate(4, "(1305) SAVEPOINT metric does not exist") == "sql/m.sql"


@pytest.mark.parametrize("name", ["a*/b.sql", "a/*b.sql", "a\nb.sql", "a\udcffb.sql", "a\0b.sql"])
def test_no_file_name_ends_the_comment_that_carries_it(name: str) -> None:
    (sent,) = packet("SELECT 1", f"sql/{name}", DAYS[:1]).bound
    assert sent.endswith("b.sql 2025-01-30 */ SELECT 1")
    assert (sent.count("*/"), sent.count("/*"), sent.isprintable()) == (1, 1, True)


def test_a_check_is_bound_for_one_date() -> None:
    each = packet()
    (check,) = each.step.metric.header.checks
    assert each.check(check, DAYS[1]) == "SELECT 1 FROM t WHERE d = '2025-01-31'"


def test_dates_and_hints_are_said_in_few_words() -> None:
    assert (span(DAYS[:1]), span(DAYS)) == ("2025-01-30", "2025-01-30 to 2025-02-01")
    assert disable_hint("sql/initial/03_x.sql") == "To run without this metric: rename it to _03_x.sql"
