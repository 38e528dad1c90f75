"""Tests of metrics: given rows, the expected row, in a scratch database that is gone afterwards."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from config.database import load_settings
from demo import game
from src.db_manager import DatabaseManager
from src.metric_file.given import load_tests, read_test
from src.metric_file.text import OUR_TABLES
from src.server.interruption import Interruption
from src.storage.scratch import scratch_database
from tests.conftest import ROOT, Database, Project
from tests.workload import wait_until

REVENUE = """\
-- Test: total_revenue
-- Description: a payment at midnight belongs to the day that begins
-- Expect 2025-01-14: {"revenue": 10.00}
-- Expect 2025-01-15: {"revenue": 30.00}
INSERT INTO payments (user_id, amount, paid_at) VALUES
  (1, 10.00, '2025-01-14 23:59:59'), (2, 20.00, '2025-01-15 00:00:00'), (3, 5.00, '2025-01-16 00:00:00');
"""
PLAYS = """\
-- Description: Games started on the metric date
SELECT COUNT(*) AS plays FROM game_plays
WHERE played_at >= %(metric_date)s AND played_at < %(metric_date)s + INTERVAL 1 DAY
"""
PLAYED = "INSERT INTO game_plays (played_at) VALUES ('2025-01-15'), ('2025-01-15 12:00:00'), ('2025-01-16');"


@pytest.fixture
def shop(project: Project) -> Project:
    """A project with the tables of the game, empty, and no metric."""
    project.env = {"METRIC_PARAM_CUTOFF_DATE": "2024-01-01"}
    game._create_tables(project.database.connection)
    return project


@pytest.fixture
def revenue(shop: Project) -> Project:
    """The shipped metric total_revenue, which has two files, and its test."""
    shop.write_shipped()
    for path in (shop.folder / "sql" / "tests").iterdir():
        path.unlink()
    shop.write("tests/x.sql", REVENUE)
    return shop


def scratch(database: Database) -> list[str]:
    """Return the scratch databases that are there."""
    return [name for (name,) in database.rows("SHOW DATABASES") if name.startswith(f"{database.name}_test_")]


def failures(project: Project, *words: str) -> list[str]:
    """Run tests of which one fails, and return what is printed of it."""
    done = project.list("--test", *words)
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    assert scratch(project.database) == []
    return [line for line in done.stdout.splitlines()[:-1] if not line.startswith("ok ")]


def passes(project: Project, *words: str) -> None:
    done = project.list("--test", *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert scratch(project.database) == []


def replace_in(project: Project, path: str, old: str, new: str) -> None:
    text = (project.folder / "sql" / path).read_text()
    assert old in text
    project.write(path, text.replace(old, new))


# --- green and red ----------------------------------------------------------------------------------------------------


def test_every_shipped_metric_has_a_test_and_passes_it(shop: Project) -> None:
    shop.write_shipped()
    done = shop.list("--test")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    tested = {test.metric for test in load_tests(shop.folder / "sql")}
    listed = shop.list("--json")
    assert all(f'"metric": "{name}"' in listed.stdout for name in tested)
    assert listed.stdout.count('"metric": ') == len(tested)
    assert "misplaced" not in shop.list("--check", "--offline").stdout


def test_the_patterns_of_periods_pass_their_tests(shop: Project) -> None:
    folder = ROOT / "tests" / "periods"
    shop.env |= {"METRICS_DIR": str(folder), "METRICS_TIMEZONE": "Asia/Taipei"}
    done = shop.list("--test")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    tested = {test.metric for test in load_tests(folder)}
    assert tested == {path.stem for path in folder.glob("*.sql")}


def test_a_test_that_passes_is_a_line_and_leaves_no_row_and_no_database(revenue: Project) -> None:
    done = revenue.list("--test")
    assert done.stdout.splitlines() == [
        "ok sql/tests/x.sql: a payment at midnight belongs to the day that begins",
        "1 test: 1 passed, 0 failed.",
    ]
    assert revenue.database.metrics() == []
    assert revenue.database.rows("SELECT COUNT(*) FROM payments") == [(0,)]
    assert scratch(revenue.database) == []


def test_a_wrong_number_is_a_line_with_file_date_and_both_values(revenue: Project) -> None:
    replace_in(revenue, "incremental/20_total_revenue.sql", "paid_at < %", "paid_at <= %")
    assert failures(revenue) == [
        'sql/tests/x.sql:4: 2025-01-15: expected {"revenue": 30.00}, got {"revenue": 35.00} (date by date)'
    ]
    replace_in(revenue, "incremental/20_total_revenue.sql", "paid_at <= %", "paid_at < %")
    replace_in(revenue, "initial/20_total_revenue.sql", "SUM(amount)", "SUM(amount) + 1")
    assert failures(revenue)[-1] == (
        'sql/tests/x.sql:4: 2025-01-15: expected {"revenue": 30.00}, got {"revenue": 32.00} (at once)'
    )
    replace_in(revenue, "initial/20_total_revenue.sql", "SUM(amount) + 1", "SUM(amount)")
    replace_in(revenue, "tests/x.sql", "10.00}", "11.00}")
    assert failures(revenue)[0] == (
        'sql/tests/x.sql:3: 2025-01-14: expected {"revenue": 11.00}, got {"revenue": 10.00} (date by date and at once)'
    )


def test_numbers_are_compared_exactly_and_keys_in_any_order(shop: Project) -> None:
    number = "12345678901234567.10"
    shop.write("m.sql", f"SELECT {number} AS a, 'x' AS b, %(metric_date)s IS NULL AS c")
    shop.write("tests/m.sql", f'-- Test: m\n-- Expect 2025-01-15: {{"b": "x", "c": 0, "a": {number}0}}')
    passes(shop)
    for wrong in ("12345678901234567.11", "12345678901234568", f'"{number}"'):
        shop.write("tests/m.sql", f'-- Test: m\n-- Expect 2025-01-15: {{"a": {wrong}, "b": "x", "c": 0}}')
        assert len(failures(shop)) == 1, wrong


def test_of_long_rows_only_what_differs_is_shown(shop: Project) -> None:
    shop.write("m.sql", "-- Data Type: ranking\nSELECT REPEAT('y', 300) AS y, %(metric_date)s AS d")
    row = f'[{{"y": "{"y" * 300}", "d": "2025-01-16"}}]'
    shop.write("tests/m.sql", f"-- Test: m\n-- Expect 2025-01-15: {row}")
    assert failures(shop) == [
        'sql/tests/m.sql:2: 2025-01-15: expected -> got: [0].d: "2025-01-16" -> "2025-01-15" (date by date)'
    ]


def test_no_row_is_expected_by_none(shop: Project) -> None:
    shop.write("plays.sql", PLAYS)
    shop.write("tests/a.sql", "-- Test: plays\n-- Expect 2025-01-15: none\n" + PLAYED)
    found = failures(shop)
    assert found == ['sql/tests/a.sql:2: 2025-01-15: expected none, got {"plays": 2} (date by date)']


# --- how a test is run ------------------------------------------------------------------------------------------------


def test_today_is_the_day_after_the_last_expect_also_in_the_future(shop: Project) -> None:
    header = "-- Allow: reads-the-clock\n"
    shop.write("today.sql", f"{header}SELECT CURDATE() AS today, DATE(NOW()) AS now, %(metric_date)s AS d")
    shop.write("initial/n.sql", "SELECT 1 AS n, %(metric_date)s AS d")
    own = "(SELECT COUNT(*) FROM bi_metrics WHERE metrics = 'n' AND metric_date < %(metric_date)s)"
    shop.write("incremental/n.sql", f"SELECT 1 + {own} AS n, %(metric_date)s AS d")
    for year in (2019, 2036):
        row = f'{{"today": "{year}-03-01", "now": "{year}-03-01", "d": "{year}-02-28"}}'
        if year == 2036:
            row = row.replace("02-28", "02-29")
        day = row[-12:-2]
        shop.write("tests/today.sql", f"-- Test: today\n-- Expect {day}: {row}")
        passes(shop, "today")
    expected = "".join(f'-- Expect 2036-02-0{n}: {{"n": {n}, "d": "2036-02-0{n}"}}\n' for n in (1, 2, 3))
    shop.write("tests/n.sql", f"-- Test: n\n{expected}")
    assert [line.rpartition(" (")[2] for line in failures(shop, "n")] == ["at once)"] * 2


def test_from_computes_earlier_dates_too(shop: Project) -> None:
    shop.write("daily.sql", PLAYS)
    shop.write("total.sql", "SELECT COUNT(*) AS dates FROM bi_metrics WHERE metrics = 'daily' "
                            "AND metric_date <= %(metric_date)s")  # fmt: skip
    for start, dates in (("", 1), ("-- From: 2025-01-13\n", 3)):
        shop.write("tests/t.sql", f'-- Test: total\n{start}-- Expect 2025-01-15: {{"dates": {dates}}}\n')
        passes(shop)


def test_a_parameter_is_that_of_the_test_else_that_of_the_settings(shop: Project) -> None:
    shop.write("c.sql", "SELECT %(cutoff_date)s AS c, %(other)s AS o, %(metric_date)s IS NULL AS n")
    row = '{"c": "2024-01-01", "o": "x y", "n": 0}'
    shop.write("tests/c.sql", f"-- Test: c\n-- Expect 2025-01-15: {row}\n")
    assert "unknown-parameter" in failures(shop)[0]
    shop.write("tests/c.sql", f"-- Test: c\n-- Param: other = x y\n-- Expect 2025-01-15: {row}\n")
    passes(shop)
    replace_in(shop, "tests/c.sql", "Param: other = x y", "Param: cutoff_date=2020-02-02\n-- Param: other=x y")
    replace_in(shop, "tests/c.sql", "2024-01-01", "2020-02-02")
    passes(shop)


def test_columns_left_out_get_their_default_or_the_zero_of_their_type(shop: Project) -> None:
    shop.database.execute(
        "CREATE TABLE wide (id INT PRIMARY KEY AUTO_INCREMENT, at DATETIME NOT NULL, n DECIMAL(9,2) NOT NULL, "
        "t TEXT NOT NULL, kind ENUM('a', 'b') NOT NULL, j JSON NOT NULL, d INT NOT NULL DEFAULT 7, nothing INT NULL, "
        "made INT GENERATED ALWAYS AS (d + 1) STORED, parent INT NOT NULL, FOREIGN KEY (parent) REFERENCES wide (id))"
    )
    shop.write("w.sql", "SELECT id, n, t, kind, d, nothing, made, parent FROM wide WHERE at = %(metric_date)s")
    row = '{"id": 1, "n": 0.00, "t": "", "kind": "a", "d": 7, "nothing": null, "made": 8, "parent": 0}'
    given = "INSERT INTO wide (at) VALUES ('2025-01-15'), ('2025-01-16');"
    shop.write("tests/w.sql", f"-- Test: w\n-- Expect 2025-01-15: {row}\n{given}")
    passes(shop)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("INSERT INTO game_plays (played_at)\nVALUES ('2025-02-30')", "t.sql:3: ("),
        ("INSERT INTO game_plays\n(played) VALUES (1)", "t.sql:3: (1054) Unknown column"),
        ("INSERT INTO game_plays (user_id) VALUES (-1)", "t.sql:3: (1264)"),
        ("INSERT INTO no_such_table VALUES (1)", "t.sql:3: (1146)"),
        ("INSERT INTO game_plays (user_id) VALUES (%(no)s)", "t.sql:3: no value for %(no)s"),
    ],
)
def test_a_given_row_that_the_server_does_not_take_as_it_is_fails_at_its_line(
    shop: Project, given: str, says: str
) -> None:
    shop.write("plays.sql", PLAYS)
    shop.write("tests/t.sql", '-- Test: plays\n-- Expect 2025-01-15: {"plays": 0}\n' + given)
    found = failures(shop)
    assert len(found) == 1
    assert f"sql/tests/{says}" in found[0]


def test_what_a_metric_reads_is_computed_too_and_helpers_keep_their_keys(shop: Project) -> None:
    shop.database.execute("CREATE TABLE per_day (day DATE PRIMARY KEY, plays INT NOT NULL);"
                          "CREATE TABLE work (plays INT NOT NULL)")  # fmt: skip
    shop.write("1_helper.sql", "INSERT INTO per_day (day, plays) SELECT %(metric_date)s, COUNT(*) FROM game_plays "
               "WHERE DATE(played_at) = %(metric_date)s ON DUPLICATE KEY UPDATE plays = VALUES(plays)")  # fmt: skip
    shop.write("2_work.sql", "DELETE FROM work; INSERT INTO work SELECT plays FROM per_day "
                             "WHERE day = %(metric_date)s")  # fmt: skip
    shop.write("3_plays.sql", "SELECT plays FROM work WHERE %(metric_date)s > '1'")
    shop.write("4_double.sql", "SELECT 2 * SUM(value) AS plays FROM bi_metric_cards WHERE metrics = 'plays' "
                               "AND metric_date = %(metric_date)s")  # fmt: skip
    shop.write("5_not_asked_for.sql", "SELECT no_such_column FROM work WHERE %(metric_date)s > '1'")
    shop.write("tests/double.sql", f'-- Test: double\n-- Expect 2025-01-15: {{"plays": 4}}\n'
               f'-- Expect 2025-01-16: {{"plays": 2}}\n{PLAYED}')  # fmt: skip
    passes(shop)
    shop.write("tests/helper.sql", '-- Test: helper\n-- Expect 2025-01-15: {"plays": 4}\n')
    assert failures(shop) == [
        "sql/tests/helper.sql:1: helper is a helper, which has no row; test a metric that reads it: "
        "double, not_asked_for, plays"
    ]


def test_a_view_is_a_table_to_fill_and_a_partition_keeps_no_row_out(shop: Project) -> None:
    shop.database.execute(
        "CREATE TABLE hits (at DATE NOT NULL, n INT NOT NULL) "
        "PARTITION BY RANGE (YEAR(at)) (PARTITION p VALUES LESS THAN (2010));"
        "CREATE VIEW good_hits AS SELECT at, n FROM hits WHERE n > 0"
    )
    shop.write("h.sql", "SELECT (SELECT COUNT(*) FROM hits WHERE at = %(metric_date)s) AS hits, COUNT(*) AS good "
                        "FROM good_hits WHERE at = %(metric_date)s")  # fmt: skip
    rows = "INSERT INTO hits (at) VALUES ('2025-01-15'); INSERT INTO good_hits (at) VALUES ('2025-01-15'), (20250115)"
    shop.write("tests/h.sql", f'-- Test: h\n-- Expect 2025-01-15: {{"hits": 1, "good": 2}}\n{rows};')
    passes(shop)


def test_a_copy_is_in_a_database_like_the_real_one_and_never_leads_to_rows_elsewhere(shop: Project) -> None:
    shop.database.execute(
        f"ALTER DATABASE {shop.database.name} COLLATE utf8mb4_unicode_ci;"
        "CREATE TABLE hits (n INT NOT NULL PRIMARY KEY) ENGINE = MyISAM;"
        "CREATE TABLE all_hits (n INT NOT NULL) ENGINE = MERGE UNION = (hits) INSERT_METHOD = LAST;"
        "ALTER TABLE bi_metrics ADD COLUMN own INT NOT NULL DEFAULT 3; INSERT INTO hits VALUES (1)"
    )
    settings = load_settings(shop.folder, shop.environment())
    with closing(DatabaseManager(settings)) as real:
        real.connect()
        with scratch_database(real, settings, {"hits", "all_hits", "games"}, Interruption()) as copy:
            copy.execute("INSERT INTO all_hits VALUES (5)")
            copy.execute("COMMIT")
            engines = copy.query("SELECT table_name, engine FROM information_schema.tables "
                                 "WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'")  # fmt: skip
            assert copy.query("SELECT @@collation_database") == (("utf8mb4_unicode_ci",),)
            assert copy.query("SELECT own FROM bi_metrics") == ()
    assert dict(engines) == dict.fromkeys(("all_hits", "games", "hits", *OUR_TABLES), "InnoDB")
    assert shop.database.rows("SELECT n FROM hits") == [(1,)]


def test_the_tables_of_a_check_are_there_too(shop: Project) -> None:
    shop.write("plays.sql", f"-- Check: SELECT id FROM users WHERE created_at > %(metric_date)s\n{PLAYS}")
    shop.write("tests/p.sql", f'-- Test: plays\n-- Expect 2025-01-15: {{"plays": 2}}\n{PLAYED}')
    passes(shop)


def test_rows_of_a_metric_without_a_file_can_be_given(shop: Project) -> None:
    shop.write("m.sql", "SELECT COUNT(*) AS n FROM bi_metrics WHERE metrics = 'old' "
                        "AND metric_date = %(metric_date)s")  # fmt: skip
    shop.write("tests/m.sql", '-- Test: m\n-- Expect 2025-01-15: {"n": 1}\n'
               "INSERT INTO bi_metrics (metrics, value_list, f_list, metric_date) VALUES "
               "('old', '1', '[]', '2025-01-15');")  # fmt: skip
    passes(shop)


def test_a_row_is_expected_on_the_last_day_of_a_period(shop: Project) -> None:
    shop.write("daily.sql", PLAYS)
    plays = "SUM(JSON_EXTRACT(value_list, '$.plays'))"
    shop.write("weekly.sql", f"-- Period: week\nSELECT {plays} AS plays FROM bi_metrics "
               "WHERE metrics = 'daily' AND metric_date BETWEEN %(period_start)s AND %(as_of)s")  # fmt: skip
    header = '-- Test: weekly\n-- From: 2025-01-13\n-- Expect 2025-01-18: none\n-- Expect 2025-01-19: {"plays": 3}\n'
    shop.write("tests/w.sql", header + PLAYED)
    passes(shop)
    replace_in(shop, "tests/w.sql", "18: none", '18: {"plays": 3}')
    assert failures(shop) == [
        "sql/tests/w.sql:3: 2025-01-18 is not the last day of a period of weekly; its period ends on 2025-01-19"
    ]


# --- what cannot be tested --------------------------------------------------------------------------------------------


def test_a_metric_that_names_a_schema_cannot_be_tested(shop: Project) -> None:
    name = shop.database.name
    texts = [PLAYS.replace("FROM game_plays", f"FROM `{name.upper()}`.game_plays"), f"USE {name};\n{PLAYS}",
             PLAYS.replace("COUNT(*)", f"{name}.f(1)")]  # fmt: skip
    for text in texts:
        shop.write("plays.sql", text)
        shop.write("tests/p.sql", f'-- Test: plays\n-- Expect 2025-01-15: {{"plays": 2}}\n{PLAYED}')
        found = failures(shop)
        assert len(found) == 1
        assert "sql/tests/p.sql:1: cannot run: the statement at sql/plays.sql:" in found[0]
    shop.write("plays.sql", PLAYS.replace("COUNT(*)", "COUNT(EXTRACT(DAY FROM game_plays.played_at))"))
    passes(shop)
    shop.write("tests/p.sql", f'-- Test: plays\n-- Expect 2025-01-15: {{"plays": 2}}\nDELETE FROM {name}.game_plays')
    assert "the statement at sql/tests/p.sql:3 names a schema" in failures(shop)[0]


def test_a_file_with_an_error_or_a_statement_that_fails_is_named(shop: Project) -> None:
    shop.write("plays.sql", PLAYS.replace("COUNT(*)", "COUNT(x)"))
    shop.write("tests/p.sql", f'-- Test: plays\n-- Expect 2025-01-15: {{"plays": 2}}\n{PLAYED}')
    assert "sql/plays.sql:2: statement 1 of 1: (1054) Unknown column" in failures(shop)[0]
    shop.write("plays.sql", f"COMMIT;\n{PLAYS}")
    assert "sql/plays.sql:1:1: error: forbidden-statement" in failures(shop)[0]
    shop.write("plays.sql", PLAYS)
    replace_in(shop, "tests/p.sql", "Test: plays", "Test: play")
    assert failures(shop) == ["sql/tests/p.sql:1: no metric is named 'play'; did you mean plays?"]


def test_a_check_that_fails_fails_the_test(revenue: Project) -> None:
    replace_in(revenue, "tests/x.sql", "(2, 20.00", "(2, -20.00")
    fell = ('check failed: found value_list = {"revenue": -10.00}, fell_from = {"revenue": 10.00} '
            "(SELECT today.value_list, day_before.value_list AS fell_from FROM bi_metrics AS t...)")  # fmt: skip
    assert failures(revenue) == [
        f"sql/tests/x.sql:4: 2025-01-15: sql/incremental/20_total_revenue.sql:7: {fell} (date by date)",
        f"sql/tests/x.sql:1: 2025-01-14 to 2025-01-15: sql/initial/20_total_revenue.sql:7: {fell} (at once)",
    ]


def test_the_error_of_a_test_gives_no_advice_for_a_run(shop: Project) -> None:
    shop.write("tests/p.sql", f"-- Test: plays\n-- Expect 2025-01-14: none\n-- Expect 2025-01-15: {{}}\n{PLAYED}")
    found = "sql/plays.sql:1: check failed: found plays = 2 (SELECT 2 AS plays WHERE '2025-01-15' = '2025-01-15')"
    shop.write("plays.sql", f"-- Check: SELECT 2 AS plays WHERE %(metric_date)s = '2025-01-15'\n{PLAYS}")
    assert failures(shop) == [f"sql/tests/p.sql:3: 2025-01-15: {found} (date by date)"]
    for wrong in ("SELECT nope, %(metric_date)s", "SELECT 1 AS n FROM game_plays WHERE %(metric_date)s = ''"):
        shop.write("plays.sql", f"-- Description: x\n{wrong}")
        [line] = failures(shop)
        assert line.startswith("sql/tests/p.sql:2: 2025-01-14: sql/plays.sql")
        assert "rename" not in line


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-- Expct 2025-01-15: 1", "did you mean `-- Expect DATE: JSON`?"),
        ("-- Expect: 1", "did you mean `-- Expect DATE: JSON`?"),
        ("-- Parm: a=b", "did you mean `-- Param:`?"),
        ("-- Expect 2025-1-15: 1", "'2025-1-15' is not a date"),
        ("-- Expect 2025-02-30: 1", "day is out of range for month"),
        ("-- Expect 2025-01-15: {users: 1}", "neither JSON nor none"),
        ("-- Expect 2025-01-14: 2", "a second Expect for 2025-01-14"),
        ("-- From: 2025-01-15", "From 2025-01-15 is after the first Expect, 2025-01-14"),
        ("-- Param: metric_date=1", "name=value"),
        ("-- Param: a", "name=value"),
        ("SELECT 1;", "SELECT: the rows of a test are given by INSERT"),
        ("CREATE TABLE x (i INT);", "CREATE: the rows of a test are given by INSERT"),
    ],
)
def test_a_slip_in_a_test_is_an_error_with_its_place(once: None, line: str, says: str) -> None:
    found = read_test("sql/tests/x.sql", f"-- Test: m\n-- Expect 2025-01-14: 1\n-- a note: 1\n{line}\n").problems
    assert len(found) == 1
    assert found[0].startswith(("sql/tests/x.sql:4: ", "sql/tests/x.sql:1: From"))
    assert says in found[0]


def test_a_test_says_which_metric_and_what_it_expects(once: None) -> None:
    assert len(read_test("x", "-- Description: nothing").problems) == 2


# --- the command ------------------------------------------------------------------------------------------------------


def test_names_choose_tests_and_one_without_a_test_is_refused(revenue: Project) -> None:
    revenue.write("tests/broken.sql", "-- Test: arpu_last_30d")
    passes(revenue, "total_revenue")
    passes(revenue, "total_*")
    done = revenue.list("--test", "total_revenu")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no test is for 'total_revenu'; did you mean total_revenue?" in done.stderr
    assert failures(revenue) == ['sql/tests/broken.sql:1: no line such as `-- Expect 2025-01-15: {"users": 2}`']


def test_without_a_test_nothing_can_run(shop: Project) -> None:
    done = shop.list("--test")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there are no tests" in done.stderr


@pytest.fixture
def account(revenue: Project) -> Iterator[Project]:
    """The project with an account that may only read the database."""
    name = revenue.database.name
    revenue.database.execute(f"CREATE USER 'tester'@'%'; GRANT SELECT ON {name}.* TO 'tester'@'%'")
    revenue.env["DB_USER"] = "tester"
    yield revenue
    revenue.database.execute("DROP USER 'tester'@'%'")


def test_an_account_without_the_right_is_told_the_grant_and_with_it_reads_the_database_only(account: Project) -> None:
    done = account.list("--test")
    assert (done.returncode, done.stdout) == (2, "")
    grant = done.stderr.partition("an administrator can allow it: ")[2].strip()
    escaped = account.database.name.replace("_", r"\_")
    assert grant == rf"GRANT ALL ON `{escaped}\_test\_%`.* TO 'tester'@'%'"
    account.database.execute(grant)
    passes(account)


# --- dropped whatever happens -----------------------------------------------------------------------------------------


def start_slow(project: Project, expression: str) -> Any:
    """Start a test that takes long, in a process of its own, and wait until it computes."""
    project.write("slow.sql", f"SELECT {expression} AS n, %(metric_date)s AS d")
    games = ", ".join(f"({n})" for n in range(60))
    project.write("tests/slow.sql", f"-- Test: slow\n-- Expect 2025-01-15: none\nINSERT INTO games (id) VALUES {games}")
    process = project.start("list_metrics.py", "--test", "slow")
    wait_until(lambda: computing(project.database))
    return process


def computing(database: Database) -> bool:
    return any(" AS n" in str(row[7]) for row in database.rows("SHOW FULL PROCESSLIST"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_kills_the_statement_and_drops_the_database(shop: Project, number: signal.Signals) -> None:
    # MySQL multiplies the numbers of rows if it may; with a condition it must count.
    joined = "games a, games b, games c, games d, games e, games f WHERE a.id + b.id + c.id + d.id + e.id + f.id >= 0"
    process = start_slow(shop, f"(SELECT COUNT(*) FROM {joined})")
    assert len(scratch(shop.database)) == 1
    clock = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - clock < 10
    assert (process.returncode, out, err) == (128 + number, "", f"Error: interrupted by {number.name}\n")
    assert scratch(shop.database) == []
    assert not computing(shop.database)


@pytest.mark.slow
def test_a_statement_over_the_limit_is_killed_and_the_next_test_runs(shop: Project) -> None:
    shop.env["METRIC_TIMEOUT_SECONDS"] = "1"
    shop.write("a.sql", "SELECT SLEEP(60) AS n, %(metric_date)s AS d")
    shop.write("tests/a.sql", "-- Test: a\n-- Expect 2025-01-15: none")
    shop.write("plays.sql", PLAYS)
    shop.write("tests/p.sql", f'-- Test: plays\n-- Expect 2025-01-15: {{"plays": 2}}\n{PLAYED}')
    found = failures(shop)
    assert len(found) == 1
    assert "stopped after 1 s (METRIC_TIMEOUT_SECONDS)" in found[0]
    assert not computing(shop.database)


@pytest.mark.slow
def test_what_a_killed_process_leaves_is_dropped_by_the_next_call_after_an_hour(revenue: Project) -> None:
    process = start_slow(revenue, "SLEEP(2)")
    process.kill()
    process.communicate()
    [left] = scratch(revenue.database)
    assert revenue.list("--test", "total_revenue").returncode == 0
    assert scratch(revenue.database) == [left], "another process may still be at work in it"
    name = revenue.database.name
    made = int(time.time())
    others = {}
    for hours in (0.9, 1.1):
        at = time.strftime("%Y%m%d%H%M%S", time.gmtime(made - hours * 3600))
        others[hours] = f"{name}_test_{at}_0123abcd"
    not_ours = [f"{name}_test_old", f"{name}_test_20200101000000_mine", f"other_{others[1.1]}"]
    for each in [*others.values(), *not_ours]:
        revenue.database.execute(f"CREATE DATABASE {each}")
    assert revenue.list("--test", "total_revenue").returncode == 0
    there = {row[0] for row in revenue.database.rows("SHOW DATABASES")}
    assert {others[0.9], left, *not_ours} <= there
    assert others[1.1] not in there
    for each in (others[0.9], left, *not_ours):
        revenue.database.execute(f"DROP DATABASE {each}")
