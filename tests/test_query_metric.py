"""Metrics written as a SELECT: what is stored on every engine, and what is refused with place, cause and next step."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.conftest import Project

DAY = "2025-01-15"
WEEKLY = """\
-- Metric: weekly_active_users
-- Description: Users active in the seven days that end on the metric date
-- Data Type: card
SELECT COUNT(DISTINCT user_id) AS users
FROM user_activity
WHERE happened_at >= %(metric_date)s - INTERVAL 6 DAY AND happened_at < %(metric_date)s + INTERVAL 1 DAY
"""
WEEKLY_SET_BASED = """\
-- Metric: weekly_active_users
-- Description: Users active in the seven days that end on the metric date
-- Empty: {"users": 0}
WITH RECURSIVE asked AS (
    SELECT DATE(%(start_date)s) AS day UNION ALL SELECT day + INTERVAL 1 DAY FROM asked WHERE day < %(metric_date)s
)
SELECT asked.day AS Metric_Date, COUNT(DISTINCT user_id) AS users
FROM asked
JOIN user_activity ON happened_at >= asked.day - INTERVAL 6 DAY AND happened_at < asked.day + INTERVAL 1 DAY
GROUP BY asked.day
"""
TYPES = """\
SELECT CAST('12345678901234567890.1234567891' AS DECIMAL(38,10)) AS exact, CAST(518666.90 AS DECIMAL(20,2)) AS money,
       CAST(18446744073709551615 AS UNSIGNED) AS big, CAST(-5 AS SIGNED) AS small, CAST(0.5 AS DOUBLE) AS ratio,
       DATE('2025-01-02') AS day, CAST('2025-01-02 03:04:05.000006' AS DATETIME(6)) AS moment,
       CAST('-100:59:59.5' AS TIME(1)) AS span, NULL AS nothing, b'101' + 0 AS number, bits, kind,
       '🎲 "quoted" \\\\ it''s' AS `with space`, JSON_OBJECT('a', 1) AS doc, 1 = 1 AS yes
FROM typed WHERE %(metric_date)s IS NOT NULL"""
EXPECTED = {
    "exact": Decimal("12345678901234567890.1234567891"), "money": Decimal("518666.90"), "big": 2**64 - 1, "small": -5,
    "ratio": Decimal("0.5"), "day": "2025-01-02", "moment": "2025-01-02 03:04:05.000006", "span": "-100:59:59.500000",
    "nothing": None, "number": 5, "bits": 5, "kind": "b", "with space": '🎲 "quoted" \\ it\'s', "doc": '{"a": 1}',
    "yes": 1,
}  # fmt: skip


def stored(project: Project) -> dict[tuple[str, str], Any]:
    """Return the values by metric and date, with Decimal numbers."""
    return {(name, day): json.loads(text, parse_float=Decimal) for name, day, text in project.database.metrics()}


def activity(project: Project, *days: date | str) -> None:
    project.database.execute("CREATE TABLE IF NOT EXISTS user_activity (user_id INT, happened_at DATETIME)")
    for number, day in enumerate(days):
        project.database.execute(f"INSERT INTO user_activity VALUES ({number % 3}, '{day} 12:00:00')")


def test_a_select_dropped_in_has_its_rows_after_last_30_and_runs_again_without_a_change(project: Project) -> None:
    activity(project, *(date.today() - timedelta(days=n) for n in range(1, 9)))
    project.write("weekly_active_users.sql", WEEKLY)
    result = project.run("--last", "30")
    assert (result.returncode, result.stderr) == (0, "")
    rows = stored(project)
    assert len(rows) == 30
    assert rows["weekly_active_users", str(date.today() - timedelta(days=1))] == {"users": 3}
    kinds = project.database.rows("SELECT DISTINCT data_type, CAST(f_list AS CHAR) FROM bi_metrics")
    assert kinds == [("card", '["users"]')]
    again = project.run("--last", "30")
    assert again.returncode == 0
    assert again.stdout.count("1 metric: 1 unchanged") == 30


def test_a_set_based_select_fills_90_dates_with_one_execution_and_both_ways_are_equal(project: Project) -> None:
    start, end = "2025-01-01", "2025-03-31"
    activity(project, "2024-12-30", "2025-01-01", "2025-01-05", "2025-02-10", "2025-03-30")
    project.write("weekly_active_users.sql", WEEKLY_SET_BASED)
    assert "set-based" in project.list().stdout
    result = project.run("--initial", start, end)
    assert result.returncode == 0, result.stderr
    assert project.log().count("sql/weekly_active_users.sql: start") == 1
    at_once = stored(project)
    assert len(at_once) == 90
    assert at_once["weekly_active_users", "2025-01-20"] == {"users": 0}
    verified = project.run("--verify", start, end)
    assert (verified.returncode, verified.stdout) == (0, "Both ways compared, nothing kept: 90 equal, 0 different.\n")
    project.write("weekly_active_users.sql", WEEKLY)
    assert project.run(start, end).returncode == 0
    assert stored(project) == at_once


def test_every_type_is_stored_alike_on_every_engine(project: Project) -> None:
    project.database.execute("CREATE TABLE typed (bits BIT(4), kind ENUM('a', 'b')); INSERT INTO typed VALUES (5, 'b')")
    project.write("card.sql", TYPES)
    project.write("list.sql", f"-- Data Type: ranking\n{TYPES} UNION ALL {TYPES}")
    result = project.run(DAY)
    assert result.returncode == 0, result.stderr
    assert stored(project) == {("card", DAY): EXPECTED, ("list", DAY): [EXPECTED, EXPECTED]}
    fields = project.database.rows("SELECT f_list FROM bi_metrics WHERE metrics = 'card'")[0][0]
    assert json.loads(fields) == list(EXPECTED)


def test_rows_keep_the_order_of_the_select_and_no_rows_are_an_empty_list(project: Project) -> None:
    numbers = "SELECT 3 AS n, 'c' AS t UNION ALL SELECT 1, 'a' UNION ALL SELECT 2, 'b'"
    some = f"SELECT n, t FROM ({numbers}) x WHERE %(metric_date)s = '{DAY}' ORDER BY n DESC"
    project.write("line.sql", f"-- Data Type: timeseries\n{some}")
    assert project.run(DAY, "2025-01-16").returncode == 0
    assert stored(project) == {
        ("line", DAY): [{"n": 3, "t": "c"}, {"n": 2, "t": "b"}, {"n": 1, "t": "a"}], ("line", "2025-01-16"): [],
    }  # fmt: skip


def test_variables_and_temporary_tables_come_before_the_select_and_never_leak_into_another_date(
    project: Project,
) -> None:
    project.write("1_other.sql", "SET @n = 99; SELECT @n + 0 AS n, %(metric_date)s AS day")
    project.write("2_sum.sql", (
        "CREATE TEMPORARY TABLE IF NOT EXISTS days (d DATE);\nINSERT INTO days VALUES (%(metric_date)s);\n"
        "SELECT DAY(d) INTO @n FROM days WHERE d > '2025-01-15';\n"
        "SELECT COUNT(*) AS days, CAST(@n AS SIGNED) AS n FROM days;"
    ))  # fmt: skip
    result = project.run("2025-01-15", "2025-01-17")
    assert result.returncode == 0, result.stderr
    found = [value for (name, _), value in stored(project).items() if name == "sum"]
    assert found == [{"days": 1, "n": None}, {"days": 1, "n": 16}, {"days": 1, "n": 17}]


@pytest.mark.parametrize(("header", "value"), [("-- Empty: ok", None), ('-- Empty: {"n": 0}', {"n": 0})])
def test_an_empty_date_gets_the_value_of_its_header_line(project: Project, header: str, value: Any) -> None:
    project.write("m.sql", f"{header}\nSELECT 1 AS n FROM DUAL WHERE %(metric_date)s < '2025-01-16'")
    assert project.run(DAY, "2025-01-16").returncode == 0
    assert stored(project) == {("m", DAY): {"n": 1}, ("m", "2025-01-16"): value}


ONE = "SELECT 1 AS n, %(metric_date)s AS day"
THREE = f"{ONE} UNION ALL {ONE} UNION ALL {ONE}"
SET_BASED = "SELECT {} AS metric_date, 1 AS n WHERE %(start_date)s IS NOT NULL AND %(metric_date)s IS NOT NULL"
BAD = [
    (f"-- Data Type: card\n\n{THREE}", 3, "3 rows for 2025-01-15, and a card has one; aggregate, or add the"),
    ("SELECT 1 AS n FROM DUAL WHERE %(metric_date)s IS NULL", 1, "no row for 2025-01-15; if that is expected, add the"),
    ("\nSELECT 1 AS n, %(start_date)s AS day", 2, "a set-based SELECT needs a column metric_date"),
    (SET_BASED.format("DATE('2025-01-14')"), 1, "a row is of 2025-01-14, which is not among the dates asked for"),
    (SET_BASED.format("NULL"), 1, "the column metric_date holds None, which is not a date"),
    (SET_BASED.format("'soon'"), 1, "the column metric_date holds 'soon', which is not a date"),
    (SET_BASED.format("TIMESTAMP('2025-01-15 12:00:00')"), 1, "which is not a date"),
    (f"{SET_BASED} UNION ALL {SET_BASED}".replace("{}", "%(start_date)s"), 1, "2 rows for 2025-01-15"),
    ("SELECT 1 AS n, %(metric_date)s - INTERVAL 1 DAY AS metric_date", 1, "a row is of 2025-01-14"),
    ("SELECT %(metric_date)s AS metric_date", 1, "the SELECT has no column to store; select the number"),
    ("SELECT 1 AS n, 2 AS n, %(metric_date)s AS day", 1, "two columns are named n; rename one of them with AS"),
    ("SELECT 1 AS n, %(metric_date)s AS metric_date, 2 AS Metric_Date", 1, "two columns are named metric_date"),
    ("SELECT CAST(123456789012 AS DECIMAL(10,2)) AS n, %(metric_date)s AS day", 1, "(1264) Out of range"),
    ("SELECT CAST('null' AS SIGNED) + 5 AS n, %(metric_date)s AS day", 1, "(1292) Truncated incorrect"),
    ("SELECT UNHEX('FF00') AS raw, %(metric_date)s AS day", 1, "the column raw is binary, which JSON cannot hold"),
    (
        "-- Data Type: ranking\nWITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 100001)\n"
        "SELECT n FROM t WHERE %(metric_date)s IS NOT NULL", 2, "more than 100,000 rows for 2025-01-15",
    ),
    (f"SELECT 1 AS `{'x' * 65}`, %(metric_date)s AS day", 1, "has 65 characters, more than 64"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "cause"), BAD, ids=[cause[:40] for _, _, cause in BAD])
def test_rows_that_are_no_metric_are_one_line_with_the_place_and_the_date_is_rolled_back(
    project: Project, text: str, line: int, cause: str
) -> None:
    project.write("1_good.sql", ONE)
    project.write("2_bad.sql", text)
    result = project.run(DAY, "--retries", "0")
    assert result.returncode == 1
    error = result.stderr.splitlines()[0]
    assert error.startswith(f"Error: {DAY}: sql/2_bad.sql:{line}: statement 1 of 1: "), error
    assert cause in error
    assert "To run without this metric: rename sql/2_bad.sql to _2_bad.sql" in error
    assert project.database.metrics() == []


def test_the_day_bounds_are_the_utc_moments_of_the_metric_date_in_its_time_zone(project: Project) -> None:
    project.database.execute("CREATE TABLE events (at DATETIME)")
    # New York, 2025-03-09: the day of 23 hours starts at 05:00 UTC and ends at 04:00 UTC.
    project.database.execute("INSERT INTO events VALUES ('2025-03-09 04:59:59'), ('2025-03-09 05:00:00'), "
                             "('2025-03-10 03:59:59'), ('2025-03-10 04:00:00')")  # fmt: skip
    project.env["METRICS_TIMEZONE"] = "America/New_York"
    project.write("m.sql", "SELECT COUNT(*) AS n FROM events WHERE at >= %(day_start_utc)s AND at < %(day_end_utc)s")
    assert project.run("2025-03-08", "2025-03-10").returncode == 0
    assert [value["n"] for value in stored(project).values()] == [1, 2, 1]


def test_a_helper_that_ends_with_a_select_is_warned_of_and_its_rows_are_dropped(project: Project) -> None:
    project.database.execute("CREATE TABLE helper (n INT PRIMARY KEY)")
    fill = "INSERT INTO helper VALUES (1) ON DUPLICATE KEY UPDATE n = 1;\nSELECT 5;\n"
    project.write("1_fill.sql", f"-- Metric: fill\n-- Description: x\n{fill}")
    project.write("2_m.sql", "SELECT COUNT(*) AS n FROM helper WHERE %(metric_date)s IS NOT NULL")
    assert project.run(DAY).returncode == 0
    assert "sql/1_fill.sql:4:1: warning: unread-rows" in project.list().stdout
    assert stored(project) == {("m", DAY): {"n": 1}}
