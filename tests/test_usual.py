"""`-- Usual:` lines: what is unusual, by hand, by a plain computation, and by every way to run a date."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.db_manager import DatabaseManager
from src.display.charts import Series
from src.errors import MetricFileError
from src.metric_file.checks import check_catalog
from src.metric_file.period import DAY, Period, parse_period
from src.metric_file.usual import Usual, dates_before, field_of, numbers_of, parse_usual, unusual
from src.sql_loader import load_catalog
from tests.conftest import Database, Project, metric_sql
from tests.test_warnings import states, today, told

MONDAY = date(2025, 3, 3)


def said(usual: str, number: Any, *before: Any, period: Period = DAY, end: date = MONDAY) -> list[str]:
    """Return what is unusual about the field n of a card, by its value and those before it as JSON."""
    values = [numbers_of(f'{{"n": {each}}}') for each in (number, *before)]
    earlier = [each for each in values[1:] if each]
    return list(unusual([parse_usual(usual)], values[0] or {}, earlier, period, end, in_all=False))


# --- by hand ----------------------------------------------------------------------------------------------------------

LINES = {"50% to 200%": ("", "50", "200"), "revenue 50 % to 200 %": ("revenue", "50", "200"),
         " daily users  99.5% TO 100.5%": ("daily users", "99.5", "100.5"), "0% to 130%": ("", "0", "130")}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_line_names_a_field_or_all_and_its_range(line: str) -> None:
    field, low, high = LINES[line]
    assert parse_usual(line) == Usual(field, Decimal(low), Decimal(high))


@pytest.mark.parametrize("line", ["", "revenue", "50 to 200", "50%-200%", "200% to 50%", "50% to 50%", "-5% to 20%",
                                  "a50% to 9%", "50% to 200% of it", "50%", "x% to 200%", "1e2% to 200%"])
def test_what_is_no_range_is_refused(line: str) -> None:
    with pytest.raises(MetricFileError, match=" is no range"):
        parse_usual(line)


def test_a_day_is_compared_with_its_weekday_and_a_period_with_those_before_it() -> None:
    assert dates_before(MONDAY, DAY) == [MONDAY - timedelta(days=7 * n) for n in range(1, 9)]
    assert dates_before(MONDAY, parse_period("7 days")) == dates_before(MONDAY, DAY)
    assert dates_before(date(2025, 3, 31), parse_period("month"))[:3] == [
        date(2025, 2, 28), date(2025, 1, 31), date(2024, 12, 31)
    ]  # fmt: skip
    assert [str(day) for day in dates_before(date(2025, 12, 31), parse_period("year"))][-1] == "2017-12-31"
    assert len(dates_before(date(1000, 1, 1), parse_period("99999 days"))) == 8


CASES = [
    ("12.00", ["50.10"] * 8, "n is 12.00, 24 % of the usual 50.10 (median of 8 Mondays)"),
    ("501", [50, 51, 49, 50, 50], "n is 501, 1002 % of the usual 50 (median of 5 Mondays)"),
    ("0", [1, 2, 3, 4, 5, 6], "n is 0, 0 % of the usual 3.5 (median of 6 Mondays)"),
    ("-7", [7] * 5, "n is -7, -100 % of the usual 7 (median of 5 Mondays)"),
    ("-3", [-7] * 5, "n is -3, 43 % of the usual -7 (median of 5 Mondays)"),
    ("49.99", [100] * 5, "n is 49.99, 49 % of the usual 100 (median of 5 Mondays)"),
    ("200.01", [100] * 5, "n is 200.01, 201 % of the usual 100 (median of 5 Mondays)"),
    ('"12.00"', ['"50.10"'] * 5, "n is 12.00, 24 % of the usual 50.10 (median of 5 Mondays)"),
    ("50", [100] * 5, ""), ("200", [100] * 5, ""), ("-50", [-100] * 5, ""),  # the ends belong to it
    ("1", [100] * 4, ""), ("1", [100] * 4 + ["null"] * 4, ""),  # too few
    ("9", [0] * 5, ""), ("0", [0] * 8, ""), ("9", [0, 0, 0, 0, 0, 5, 5, 5], ""),  # no percentage of 0
    ("null", [100] * 8, ""), ("1e400", [1] * 8, ""), ("1", ["1e999999999"] * 8, ""), ("NaN", [1] * 8, ""),
    ('"n/a"', [1] * 8, ""), ("true", [5] * 8, ""), ("[1]", [5] * 8, ""),
]  # fmt: skip


@pytest.mark.parametrize(("number", "before", "expected"), CASES)
def test_a_number_outside_the_range_of_the_median_is_told_with_both_numbers(
    number: str, before: list[Any], expected: str
) -> None:
    allowed = "; allowed: 50 % to 200 %"
    assert said("50% to 200%", number, *before) == ([expected + allowed] if expected else [])


@pytest.mark.parametrize(("period", "noun"), [
    ("day", "Sundays"), ("week", "weeks"), ("month from 26", "months"), ("quarter", "quarters"), ("year", "years"),
    ("30 days", "periods"),
])  # fmt: skip
def test_what_a_number_is_compared_with_has_a_name(period: str, noun: str) -> None:
    [line] = said("50% to 200%", 1, *[9] * 5, period=parse_period(period), end=date(2025, 3, 2))
    assert f"(median of 5 {noun})" in line


def test_a_line_of_a_field_goes_before_that_of_all_and_a_field_that_is_not_there_is_told() -> None:
    lines = [parse_usual("50% to 200%"), parse_usual("a 0% to 900%"), parse_usual("gone 1% to 2%")]
    numbers = numbers_of('{"a": 1, "b": 1, "text": "x"}') or {}
    before = [numbers_of('{"a": 5, "b": 5}') or {}] * 5
    assert list(unusual(lines, numbers, before, DAY, MONDAY, in_all=False)) == [
        "b is 1, 20 % of the usual 5 (median of 5 Mondays); allowed: 50 % to 200 %",
        "gone is no number of the row, and -- Usual names it",
    ]


def test_the_numbers_of_a_timeseries_are_the_sums_of_its_items() -> None:
    text = '[{"hour": 0, "plays": 1.50, "x": null}, {"hour": 1, "plays": 2.25, "y": null}, {"y": 3}, 5, "a"]'
    assert numbers_of(text) == {"hour": 1, "plays": Decimal("3.75"), "x": None, "y": 3}
    for nothing in ("null", "[]", "5", '"not computed yet"', "[1, 2]", "{", "[" * 99999):
        assert numbers_of(nothing) is None
    long = "0." + "1" * 60
    assert numbers_of(f'[{{"n": {long}}}, {{"n": {"9" * 60}}}]') == {"n": Decimal("9" * 60 + long[1:])}


# --- by a plain computation -------------------------------------------------------------------------------------------


def is_unusual(number: Decimal | None, before: list[Decimal | None], low: Fraction, high: Fraction) -> bool:
    """The same by whole fractions and the median of the standard library."""
    known = [Fraction(each) for each in before if each is not None]
    if number is None or len(known) < 5 or median(known) == 0:
        return False
    share = Fraction(number) / median(known) * 100
    return not low <= share <= high


numbers = st.none() | st.decimals(-(10**12), 10**12, places=4) | st.integers(-3, 3).map(Decimal)
percents = st.decimals(0, 500, places=2)


@given(numbers, st.lists(numbers, max_size=8), percents, percents)
def test_what_is_unusual_equals_a_plain_computation(
    number: Decimal | None, before: list[Decimal | None], low: Decimal, high: Decimal
) -> None:
    low, high = sorted((low, high + 501 * (low == high)))
    texts = ["null" if each is None else f"{each:f}" for each in (number, *before)]
    found = said(f"n {low}% to {high}%", *texts)
    assert {field_of(text) for text in found} <= {"n"}
    assert bool(found) == is_unusual(number, before, Fraction(low), Fraction(high))
    if found:
        percent = int(found[0].split(", ")[1].split(" %")[0])
        assert not low <= percent <= high


DAYS = [date(2025, 1, 1) + timedelta(days=n) for n in range(100)]
SOURCE = "SELECT revenue, users FROM sold WHERE day = %(metric_date)s"


def fill(database: Database, values: Mapping[date, tuple[Decimal | None, int]]) -> None:
    database.execute("CREATE TABLE IF NOT EXISTS sold (day DATE PRIMARY KEY, revenue DECIMAL(20,2), users INT); "
                     "DELETE FROM sold")  # fmt: skip
    with database.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO sold VALUES (%s, %s, %s)", [(day, *value) for day, value in values.items()])


@pytest.mark.parametrize("seed", range(4))
def test_at_once_and_date_by_date_warn_of_what_a_plain_computation_finds(project: Project, seed: int) -> None:
    rng = random.Random(seed)
    values: dict[date, tuple[Decimal | None, int]] = {}
    for day in DAYS:
        if rng.random() < 0.9:
            size = (2 if day.weekday() > 4 else 1) * rng.choice((1, 1, 1, 1, 1, 0, 3, -1)) * rng.uniform(60, 140)
            values[day] = Decimal(f"{size:.2f}") if rng.random() < 0.95 else None, rng.randint(0, 4)
    fill(project.database, values)
    header = "-- Description: x\n-- Empty: ok\n-- Usual: 60% to 150%\n-- Usual: users 10% to 190%"
    project.write("m.sql", f"{header}\n{SOURCE}")
    expected: dict[str, list[str]] = {}
    ranges = {"revenue": (Fraction(60), Fraction(150)), "users": (Fraction(10), Fraction(190))}

    def number(field: str, day: date) -> Decimal | None:
        found = values.get(day, (None, None))[field == "users"]
        return None if found is None else Decimal(found)

    for day in DAYS:
        for field, (low, high) in ranges.items():
            earlier = [number(field, day - timedelta(days=7 * n)) for n in range(1, 9)]
            if is_unusual(number(field, day), earlier, low, high):
                expected.setdefault(str(day), []).append(field)
    assert len(expected) > 5
    found = []
    for words in (["--initial", DAYS[0], DAYS[-1]], ["--initial", DAYS[0], DAYS[-1], "--chunk", "month"],
                  [DAYS[0], DAYS[-1]]):  # fmt: skip
        project.database.execute("DELETE FROM bi_metrics; DELETE FROM bi_metric_state")
        assert project.run(*map(str, words)).returncode == 0
        warned = {day: text for (_, day), text in states(project.database).items() if text}
        assert {day: [line.split(" is ")[0] for line in text.split("\n")] for day, text in warned.items()} == expected
        found.append(warned)
    assert found[0] == found[1] == found[2]


ALL_FIELDS = {"a", "n", "a is n", "a n"}


@pytest.mark.parametrize(("text", "fields"), [
    ("n is 0.5, 5 % of the usual -10.0 (median of 8 weeks); allowed: 50 % to 200 %", {"n"}),
    ("a is n is 3 in all, -100 % of the usual 3 (median of 5 Mondays); allowed: 50 % to 200 %", {"a is n"}),
    ("a n is no number of the row, and -- Usual names it", {"a n"}),
    ("a n is no number of the row, and -- Usual names it: found 1 (sql/m.sql:2: SELECT 1)", ALL_FIELDS),
    ("below 50 % of the usual: n = 3 (sql/m.sql:2: SELECT n /* below 50 % of the usual */)", ALL_FIELDS),
])  # fmt: skip
def test_the_page_marks_the_field_of_an_unusual_number_and_all_fields_for_any_other_warning(
    text: str, fields: set[str]
) -> None:
    series = Series({}, DAY, [MONDAY], (), (), {MONDAY: [text]})
    assert {field for field in ALL_FIELDS if series.is_warned_of(field, MONDAY)} == fields


# --- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sold(project: Project) -> Project:
    """A project for which "today" is that of UTC."""
    project.env["METRICS_TIMEZONE"] = "UTC"
    return project


def test_a_halved_day_is_told_and_stored(sold: Project) -> None:
    days = [today() - timedelta(days=back) for back in range(60, -1, -1)]
    fill(sold.database, {day: (Decimal("50.10"), 7) for day in days})
    sold.write("m.sql", f"-- Description: x\n-- Usual: revenue 50% to 200%\n{SOURCE}")
    assert told(sold.run("--initial", str(days[0]), str(days[-1])).stderr) == []
    sold.database.execute(f"UPDATE sold SET revenue = 12 WHERE day >= '{days[-2]}'")
    night = sold.run("--quiet")
    weekday = f"{days[-2]:%A}s"
    expected = f"revenue is 12.00, 24 % of the usual 50.10 (median of 8 {weekday}); allowed: 50 % to 200 %"
    assert (night.returncode, told(night.stderr)) == (0, [f"Warning: {days[-2]} m: {expected}"])
    assert {day: text for (_, day), text in states(sold.database).items() if text} == {str(days[-2]): expected}
    [state] = json.loads(sold.list("--status", "--json").stdout)["metrics"]
    assert [each["text"] for each in state["warnings"]] == [expected]


def test_an_insert_a_timeseries_and_a_week_are_compared_too(sold: Project) -> None:
    days = [date(2025, 1, 6) + timedelta(days=n) for n in range(70)]
    fill(sold.database, {day: (Decimal(1), 1 if day == days[-1] else 10) for day in days})
    sold.write("card.sql", metric_sql("card", "users", "-- Usual: 50% to 200%",
                                     where="FROM sold WHERE day = %(metric_date)s"))  # fmt: skip
    sold.write("series.sql", "-- Description: x\n-- Data Type: timeseries\n-- Usual: users 50% to 200%\n"
              "SELECT 'a' AS part, users FROM sold WHERE day = %(metric_date)s UNION ALL "
              "SELECT 'b', users FROM sold WHERE day = %(metric_date)s")  # fmt: skip
    sold.write("week.sql", "-- Description: x\n-- Period: week\n-- Usual: users 90% to 110%\n"
              "SELECT SUM(users) AS users FROM sold WHERE day > %(metric_date)s - INTERVAL 7 DAY "
              "AND day <= %(metric_date)s")  # fmt: skip
    assert sold.run("--initial", str(days[0]), str(days[-1])).returncode == 0
    last = str(days[-1])
    assert {cell: text.split(";")[0] for cell, text in states(sold.database).items() if text} == {
        ("card", last): "n is 1, 10 % of the usual 10 (median of 8 Sundays)",
        ("series", last): "users is 2 in all, 10 % of the usual 20 (median of 8 Sundays)",
        ("week", last): "users is 61, 87 % of the usual 70 (median of 8 weeks)",
    }


def test_a_field_that_the_row_has_not_is_a_warning_and_a_null_row_is_none(sold: Project) -> None:
    sold.write("m.sql", metric_sql("m", header="-- Usual: gone 50% to 200%"))
    sold.write("empty.sql", "-- Description: x\n-- Empty: ok\n-- Usual: n 50% to 200%\n"
              "SELECT 1 AS n FROM sold WHERE day = %(metric_date)s")  # fmt: skip
    fill(sold.database, {})
    line = "gone is no number of the row, and -- Usual names it"
    assert told(sold.run("2025-01-15").stderr) == [f"Warning: 2025-01-15 m: {line}"]
    assert states(sold.database) == {("m", "2025-01-15"): line, ("empty", "2025-01-15"): None}


def test_the_rows_before_cost_one_query_for_a_batch_and_none_without_the_header(
    sold: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    select = DatabaseManager.select

    def noted(self: DatabaseManager, sql: str, args: Any = None) -> Any:
        sent.append(sql)
        return select(self, sql, args)

    monkeypatch.setattr(DatabaseManager, "select", noted)
    fill(sold.database, {day: (Decimal(1), 10) for day in DAYS})
    counts = []
    for header, words in (("-- Title: x", ["2025-01-15"]), ("-- Usual: 50% to 200%", ["2025-01-15"]),
                          ("-- Title: x", ["--initial", "2025-01-01", "2025-03-31"]),
                          ("-- Usual: 50% to 200%", ["--initial", "2025-01-01", "2025-03-31"])):  # fmt: skip
        for name in "abc":
            sold.write(f"{name}.sql", f"-- Description: x\n{header}\n{SOURCE}")
        sold.write("week.sql", f"-- Description: x\n{header}\n-- Period: week\n{SOURCE}")
        sold.database.execute("DELETE FROM bi_metrics; DELETE FROM bi_metric_state")
        sent.clear()
        assert sold.run(*words).returncode == 0
        counts.append(len(sent))
    assert [counts[1] - counts[0], counts[3] - counts[2]] == [1, 1]


# --- the header -------------------------------------------------------------------------------------------------------

BODY = "SELECT 1 AS revenue, 2 AS `paying users`, %(metric_date)s AS day\n"
BAD = [
    ("-- Usual: often", BODY, "'often' is no range; write for example 50% to 200%, or revenue 50% to 200%"),
    ("-- Usual: 200% to 50%", BODY, "'200% to 50%' is no range: 200 is not less than 50"),
    ("-- Data Type: ranking\n-- Usual: 50% to 200%", BODY, "a ranking has no number that could be compared"),
    ("-- Usual: 50% to 200%", "REPLACE INTO t SELECT %(metric_date)s", "a helper has no number that could be compared"),
    ("-- Usual: revenu 50% to 200%", BODY, "the SELECT has no field revenu; did you mean revenue?"),
    ("-- Usual: zzz 50% to 200%", BODY, "the SELECT has no field zzz; there are revenue, paying users, day"),
    ("-- Usual: 5% to 20%\n-- Usual: 50% to 200%", BODY, "two lines for all fields; remove one of them"),
    ("-- Usuall: 5% to 20%", BODY, "the key usuall is none of ours; did you mean Usual?"),
]
GOOD = [
    ("-- Usual: 50% to 200%\n-- Usual: paying users 1% to 900%", BODY),
    ("-- Data Type: timeseries\n-- Usual: revenue 50% to 200%", BODY),
    ("-- Usual: any 50% to 200%", "SELECT * FROM t WHERE d = %(metric_date)s"),
    ("-- Usual: n 50% to 200%", "WITH a AS (SELECT 1 AS x) SELECT 1 AS n FROM a WHERE %(metric_date)s UNION SELECT 2"),
    ("-- Usually: 50% to 200%", BODY),
]


def header_problems(project: Project, header: str, sql: str) -> list[str]:
    project.write("m.sql", f"-- Description: x\n{header}\n{sql}\n")
    catalog = load_catalog(project.folder / "sql")
    found = check_catalog(catalog, catalog.files, [])
    assert {(each.rule, each.severity) for each in found} <= {("header", "error")}
    return [each.message for each in found]


@pytest.mark.parametrize(("header", "sql", "message"), BAD)
def test_a_wrong_line_is_an_error(project: Project, header: str, sql: str, message: str) -> None:
    assert message in header_problems(project, header, sql)[0]


@pytest.mark.parametrize(("header", "sql"), GOOD)
def test_a_right_line_is_no_problem(project: Project, header: str, sql: str) -> None:
    assert header_problems(project, header, sql) == []
