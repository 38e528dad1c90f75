"""A file bound for its dates: the SQL that is sent, what is cleaned up before it, and places in errors."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from src.metric_file.file import MetricFile, Mode, parse
from src.metric_file.parameters import Parameters
from src.metric_file.step import Step
from src.sql_loader import Catalog

DAYS = (date(2025, 1, 30), date(2025, 1, 31), date(2025, 2, 1))
TEXT = """\
-- Metric: m
-- Check: SELECT 1 FROM t WHERE d = %(metric_date)s AND e = %(start_date)s


SET @x := 1;

-- it's ;
INSERT INTO bi_metrics
SELECT %(metric_date)s,

       @x;
"""


def step(text: str = TEXT, path: str = "sql/m.sql", dates: tuple[date, ...] = DAYS, zone: str = "UTC") -> Step:
    file = MetricFile("m", path, Mode.INITIAL, None, False, parse(text))
    return Step(file, dates, Parameters({"cutoff_date": "2024-01-01", "owner": "it's"}, ZoneInfo(zone)))


def test_a_file_is_bound_for_its_first_and_last_date_and_the_settings() -> None:
    bound = step("SELECT %(start_date)s, %(metric_date)s, %(dates)s, %(cutoff_date)s, %(owner)s; SELECT 100 %% 7")
    assert bound.statements == [
        "/* bi_metrics sql/m.sql 2025-01-30 to 2025-02-01 */ SELECT '2025-01-30', '2025-02-01', "
        r"""'["2025-01-30","2025-01-31","2025-02-01"]', '2024-01-01', 'it\'s'""",
        "/* bi_metrics sql/m.sql 2025-01-30 to 2025-02-01 */ SELECT 100 % 7",
    ]


def test_a_single_date_is_named_once() -> None:
    bound = step("SELECT %(dates)s", dates=DAYS[:1])
    assert bound.label == "2025-01-30"
    assert bound.statements == ["/* bi_metrics sql/m.sql 2025-01-30 */ SELECT '[\"2025-01-30\"]'"]


@pytest.mark.parametrize("name", ["a*/b.sql", "a/*b.sql", "a\nb.sql", "a\udcffb.sql", "a\0b.sql", "*/*/b.sql"])
def test_no_file_name_ends_the_comment_that_carries_it(name: str) -> None:
    (sent,) = step("SELECT 1", f"sql/{name}", DAYS[:1]).statements
    assert sent.endswith("b.sql 2025-01-30 */ SELECT 1")
    assert (sent.count("*/"), sent.count("/*"), sent.isprintable()) == (1, 1, True)


def test_tables_and_variables_of_an_earlier_execution_are_gone_before_the_next() -> None:
    text = (
        "CREATE TEMPORARY TABLE IF NOT EXISTS `B``c` SELECT @y; CREATE TEMPORARY TABLE a (n INT);\n"
        "SET @x := @y + @@sql_select_limit"
    )
    assert step(text).cleanup([]) == ["DROP TEMPORARY TABLE IF EXISTS `B``c`, `a`", "SET @x = NULL, @y = NULL"]
    assert step("SELECT 1").cleanup([]) == []


def test_an_error_is_placed_by_the_servers_line_within_the_statement() -> None:
    bound = step()
    first, second = bound.file.statements
    assert bound.place(first, "(1054) Unknown column") == "sql/m.sql:5: statement 1 of 2"
    assert bound.place(second, "(1054) Unknown column") == "sql/m.sql:8: statement 2 of 2"
    assert bound.place(second, "(1064) ... near '@x' at line 4") == "sql/m.sql:11: statement 2 of 2"


def test_a_check_is_bound_for_one_date() -> None:
    bound = step()
    (check,) = bound.file.script.checks
    assert bound.check(check, DAYS[1]) == "SELECT 1 FROM t WHERE d = '2025-01-31' AND e = '2025-01-31'"


def bounds(zone: str, *dates: date) -> list[str]:
    values = Parameters({}, ZoneInfo(zone)).literals(dates)
    return [values["day_start_utc"].strip("'"), values["day_end_utc"].strip("'")]


def in_zone(utc: str, zone: str) -> datetime:
    return datetime.fromisoformat(utc).replace(tzinfo=timezone.utc).astimezone(ZoneInfo(zone))


@pytest.mark.parametrize("zone", ["America/New_York", "America/Havana", "Asia/Taipei", "Australia/Lord_Howe"])
def test_day_bounds_in_utc_hold_every_moment_of_each_date_of_a_year(zone: str) -> None:
    year = [date(2025, 1, 1) + timedelta(days=n) for n in range(365)]
    ends = [bounds(zone, day) for day in year]
    assert all(end == start for (_, end), (start, _) in pairwise(ends))
    second = timedelta(seconds=1)
    for day, (start, end) in zip(year, ends, strict=True):
        first, last = in_zone(start, zone), datetime.fromisoformat(end) - second
        before = datetime.fromisoformat(start) - second
        assert first.date() == day
        assert in_zone(str(last), zone).date() == day
        assert in_zone(str(before), zone).date() == day - timedelta(days=1)


def test_days_of_23_and_25_hours_have_their_bounds() -> None:
    assert bounds("America/New_York", date(2025, 1, 15)) == ["2025-01-15 05:00:00", "2025-01-16 05:00:00"]
    assert bounds("America/New_York", date(2025, 3, 9)) == ["2025-03-09 05:00:00", "2025-03-10 04:00:00"]
    assert bounds("America/New_York", date(2025, 11, 2)) == ["2025-11-02 04:00:00", "2025-11-03 05:00:00"]
    # In Havana the clocks change at midnight: this date starts at 01:00, and one in autumn has 00:30 twice.
    assert bounds("America/Havana", date(2025, 3, 9)) == ["2025-03-09 05:00:00", "2025-03-10 04:00:00"]
    assert bounds("America/Havana", date(2025, 11, 2)) == ["2025-11-02 04:00:00", "2025-11-03 05:00:00"]


def test_a_set_based_file_gets_the_start_of_the_first_and_the_end_of_the_last_date() -> None:
    assert bounds("Asia/Taipei", *DAYS) == ["2025-01-29 16:00:00", "2025-02-01 16:00:00"]


def test_the_definition_of_a_metric_covers_the_zone_of_day_bounds() -> None:
    file = MetricFile("x", "sql/x.sql", None, None, False, parse("SELECT %(day_start_utc)s"))
    values = (Parameters({}, ZoneInfo(zone)).fingerprinted() for zone in ("UTC", "Asia/Taipei"))
    assert len({Catalog((file,), each).definition("x") for each in values}) == 2
