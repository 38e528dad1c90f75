"""The metrics that ship: equal in both modes on every date, right to the cent and to the last tie, on an index."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pymysql
import pytest

from config.database import load_settings
from demo import game
from run_metrics import Run, parse_arguments
from src.metric_file.file import Mode
from src.server.interruption import Interruption
from src.sql_loader import load_catalog
from tests.brute_force import expected, read_game
from tests.conftest import ROOT, Database, Project, run_script

pytestmark = pytest.mark.slow

METRICS = (
    "total_users_after_cutoff", "total_revenue", "daily_active_users", "plays_by_hour", "new_users_last_60d",
    "revenue_last_30d", "top_100_games_played", "arpu_last_30d",
)  # fmt: skip
Rows = dict[tuple[str, date], Any]  # (metric, date) -> (data type, fields, values)
CHAINED = 4  # of them have both files, an initial and an incremental one
EVENTS = {"users": "created_at", "game_plays": "played_at", "user_activity": "happened_at", "payments": "paid_at"}
DAY = timedelta(days=1)
CUTOFF = date(2024, 9, 20)  # within the dates of the law: the first of them have no user after it
LAST_DAY = date(2025, 6, 30)
# Over 100 games, so that the ranking is cut, and few plays, so that many games tie.
GAME = game.Size(users=600, games=120, days=300, plays=12_000)
SMALL = game.Size(users=300, games=110, days=70, plays=6_000)


@pytest.fixture
def shipped(project: Project) -> Project:
    """The project with the sql folder that ships; each test loads the game it needs."""
    project.write_shipped(of_days_alone=True)  # those of weeks and months are in test_periods.py
    project.env = {"METRIC_PARAM_CUTOFF_DATE": str(CUTOFF), "METRICS_TIMEZONE": "UTC", "DB_TIME_ZONE": "+00:00"}
    return project


def load(project: Project, size: game.Size, last_day: date = LAST_DAY) -> None:
    """Load a game, and plays of a game that is not in the table of games: no ranking may show it."""
    game.load(project.database.connection, last_day, size)
    project.database.execute(
        "INSERT INTO game_plays (user_id, game_id, played_at, duration_seconds) "
        f"SELECT 1, 9999, '{last_day - 9 * DAY} 12:00:00', 60 FROM games"
    )


def ok(project: Project, *words: object) -> str:
    """Run run_metrics.py, which must succeed and warn of nothing but the dates since these; returns what it printed."""
    result = project.run(*map(str, words))
    said = [line for line in result.stderr.splitlines() if not line.startswith("Warning: missing: ")]
    assert (result.returncode, said) == (0, [])
    return result.stdout


def stored(database: Database) -> Rows:
    """Return data type, fields and values of every row by metric and date; JSON parsed with Decimal numbers."""

    def parse(text: str) -> Any:
        return json.loads(text, parse_float=Decimal)

    rows = database.rows("SELECT metrics, metric_date, data_type, f_list, value_list FROM bi_metrics")
    return {(name, day): (kind, parse(fields), parse(values)) for name, day, kind, fields, values in rows}


def values(rows: Rows, day: date) -> dict[str, Any]:
    """Return the values of a date by metric."""
    return {name: rows[name, day][2] for name in METRICS}


def dates(first: date, last: date) -> list[date]:
    return [first + n * DAY for n in range((last - first).days + 1)]


# --- the law: for every date, initial and incremental write equal rows ------------------------------------------------


def test_on_365_dates_both_modes_write_equal_rows_and_they_are_right(shipped: Project) -> None:
    load(shipped, GAME)
    # From before the first play to when the last windows have emptied.
    asked = dates(date(2024, 8, 5), date(2025, 8, 4))
    assert len(asked) == 365
    ok(shipped, "--initial", asked[0], asked[-1])
    initial = stored(shipped.database)
    assert initial.keys() == {(name, day) for name in METRICS for day in asked}
    source = read_game(shipped.database.connection)
    for day in [*asked[::11], CUTOFF - DAY, CUTOFF, LAST_DAY]:
        assert values(initial, day) == expected(source, day, CUTOFF), day
    assert initial["arpu_last_30d", asked[0]][2] == {"arpu": None}
    assert initial["top_100_games_played", asked[-1]][2] == []
    assert len(initial["top_100_games_played", LAST_DAY][2]) == 100

    shipped.database.execute("DELETE FROM bi_metrics; DELETE FROM bi_metric_state")
    ok(shipped, asked[0], asked[-1])
    assert stored(shipped.database) == initial
    # The first date had nothing to build on; all others must have built on the row before, or nothing was compared.
    chained = shipped.database.rows("SELECT COUNT(*) FROM bi_metric_state WHERE file LIKE '%incremental/%'")
    assert chained == [(CHAINED * 364,)]


def test_an_initial_load_of_1200_dates_is_right_and_incremental_runs_within_it_change_nothing(shipped: Project) -> None:
    load(shipped, game.Size(users=1_500, games=40, days=1_150, plays=15_000))
    asked = dates(LAST_DAY - 1_199 * DAY, LAST_DAY)
    assert "1,200 dates, 8 files" in ok(shipped, "--initial", asked[0], asked[-1])
    initial = stored(shipped.database)
    assert initial.keys() == {(name, day) for name in METRICS for day in asked}
    source = read_game(shipped.database.connection)
    for day in [*asked[::133], asked[-1]]:
        assert values(initial, day) == expected(source, day, CUTOFF), day

    for day in (asked[1], asked[600], asked[-2]):
        run = shipped.run(str(day), str(day + DAY))
        assert run.returncode == 0, run.stderr
        assert "8 metrics: 8 unchanged" in run.stdout
    assert stored(shipped.database) == initial
    chained = shipped.database.rows("SELECT COUNT(*) FROM bi_metric_state WHERE file LIKE '%incremental/%'")
    assert chained == [(CHAINED * 6,)]


# --- nights of cron, by a server whose clock is set -------------------------------------------------------------------


@dataclass
class Nights:
    """A game whose events arrive while the server's clock goes on, and the nightly run at that clock."""

    project: Project
    now: datetime = datetime.min

    def at(self, day: date, clock: time) -> None:
        """Set the server's clock, in UTC, for every connection to come, and let all events before it arrive."""
        before, self.now = self.now, datetime.combine(day, clock)
        seconds = int(self.now.replace(tzinfo=timezone.utc).timestamp())
        arrivals = (
            f"INSERT INTO {table} SELECT * FROM all_{table} WHERE {at} >= '{before}' AND {at} < '{self.now}';"
            for table, at in EVENTS.items()
        )
        self.project.database.execute(f"SET GLOBAL init_connect = 'SET timestamp = {seconds}';" + "".join(arrivals))

    def run(self, *words: str) -> None:
        """Run run_metrics.py as on the date of this clock; without words it is the nightly run of cron."""
        settings = load_settings(self.project.folder, self.project.environment())
        run = Run(parse_arguments(list(words)), settings, Interruption(), self.now.date())
        try:
            assert run.start() == 0
        finally:
            run.database.close()

    def truth(self, day: date) -> dict[str, Any]:
        """Return the values of a date by brute force, from the events that have arrived."""
        return expected(read_game(self.project.database.connection), day, CUTOFF)


FIRST = date(2025, 2, 20)  # the nights cross the end of a month


@pytest.fixture
def nights(shipped: Project) -> Iterator[Nights]:
    """Nights after an initial load on the afternoon of FIRST; nothing has arrived that was not yet played then."""
    database = shipped.database
    load(shipped, SMALL, last_day=date(2025, 3, 20))
    for table in EVENTS:
        database.execute(f"RENAME TABLE {table} TO all_{table}; CREATE TABLE {table} LIKE all_{table}")
    # The server runs init_connect for accounts that may not do everything.
    account = f"{database.name}@localhost"
    database.execute(f"CREATE USER {account}; GRANT ALL ON {database.name}.* TO {account}; SET time_zone = '+00:00'")
    shipped.env["DB_USER"] = database.name
    simulated = Nights(shipped, datetime(2000, 1, 1))
    try:
        simulated.at(FIRST, time(14))
        simulated.run("--initial", str(FIRST - 9 * DAY), str(FIRST))
        yield simulated
    finally:
        run_script(database.connection, f"SET GLOBAL init_connect = ''; DROP USER {account}")


def test_20_nights_of_cron_with_events_arriving_all_day_equal_the_initial_load_at_the_end(nights: Nights) -> None:
    database = nights.project.database
    provisional: Rows = {}
    asked = dates(FIRST - 9 * DAY, FIRST + 20 * DAY)
    for day in asked[10:]:
        nights.at(day, time(1))
        nights.run()
        provisional |= {(name, day): row for (name, at), row in stored(database).items() if at == day}
    by_night = stored(database)
    assert by_night.keys() == {(name, day) for name in METRICS for day in asked}
    assert values(by_night, asked[-1]) == nights.truth(asked[-1])
    assert values(by_night, asked[-2]) == nights.truth(asked[-2])
    # The clock was really set, a row at 01:00 really held less than its day, and every night built on the one before.
    written = database.rows(
        "SELECT metric_date, MIN(updated_at), MAX(updated_at) FROM bi_metrics GROUP BY 1 ORDER BY 1"
    )
    at_one = [datetime.combine(min(day + 2 * DAY, asked[-1]), time(1)) for day in asked[9:]]  # looked back at once
    assert written[9:] == [(day, at, at) for day, at in zip(asked[9:], at_one, strict=True)]
    assert sum(by_night[key] != row for key, row in provisional.items()) > 100
    rebuilt = f"SELECT COUNT(*) FROM bi_metric_state WHERE file LIKE '%initial/%' AND metric_date > '{FIRST}'"
    assert database.rows(rebuilt) == [(0,)]

    database.execute("DELETE FROM bi_metrics")
    nights.run("--initial", str(asked[0]), str(asked[-1]))
    assert stored(database) == by_night


def test_the_night_after_one_that_was_left_out_mends_it(nights: Nights) -> None:
    database = nights.project.database
    for night in (1, 2):
        nights.at(FIRST + night * DAY, time(1))
        nights.run()
    left, missed, today = (FIRST + night * DAY for night in (2, 3, 4))
    nights.at(today, time(1))
    assert values(stored(database), left) != nights.truth(left), "it holds an hour of its day, or nothing was tested"
    nights.run()
    rows = stored(database)
    for day in (left, missed, today):
        assert values(rows, day) == nights.truth(day), day
    modes = database.rows(
        "SELECT metric_date, COUNT(*) FROM bi_metric_state "
        f"WHERE file LIKE '%incremental/%' AND metric_date >= '{missed}' "
        "GROUP BY 1 ORDER BY 1"
    )
    assert {day for day, number in modes if number} == {missed, today}


def test_the_law_holds_for_what_ships_on_90_dates(shipped: Project) -> None:
    load(shipped, SMALL)
    asked = [str(LAST_DAY - 89 * DAY), str(LAST_DAY)]
    verified = shipped.run("--verify", *asked)
    assert (verified.returncode, verified.stdout.splitlines()[-1]) == (
        0, "Both ways compared, nothing kept: 720 equal, 0 different."
    ), verified.stdout  # fmt: skip
    assert stored(shipped.database) == {}
    for path, good, fault in (
        ("incremental/50_new_users_last_60d.sql", "INTERVAL 60 DAY", "INTERVAL 59 DAY"),  # a window off by a day
        ("incremental/20_total_revenue.sql", "AS DECIMAL(20,2))", "AS DOUBLE) * 1.0000001"),  # a drifting float
        ("incremental/70_top_100_games_played.sql", "plays DESC, game_id", "plays DESC, title"),  # another tie-breaker
    ):
        file = shipped.folder / "sql" / path
        text = file.read_text()
        assert good in text
        file.write_text(text.replace(good, fault))
        name = path.removeprefix("incremental/")[3:].removesuffix(".sql")
        found = shipped.run("--verify", *asked)
        assert (found.returncode, f"  {name}  at once -> date by date: " in found.stdout) == (4, True), found.stderr
        file.write_text(text)
    assert stored(shipped.database) == {}


# --- corrected and late data ------------------------------------------------------------------------------------------


def test_a_correction_in_the_past_is_found_by_the_audit_and_repaired(shipped: Project) -> None:
    database = shipped.database
    load(shipped, SMALL)
    asked = [str(LAST_DAY - 49 * DAY), str(LAST_DAY)]
    ok(shipped, "--initial", *asked)
    before = stored(database)
    corrected = LAST_DAY - 20 * DAY
    database.execute(f"""
        UPDATE payments SET amount = amount + 0.01 WHERE paid_at >= '{corrected}' ORDER BY paid_at LIMIT 1;
        INSERT INTO users VALUES (100000, 'late', 'PL', '{corrected} 23:59:59');
        INSERT INTO user_activity (user_id, activity, happened_at) VALUES (100000, 'login', '{corrected} 23:59:59');
        INSERT INTO game_plays (user_id, game_id, played_at, duration_seconds)
            VALUES (100000, 1, '{corrected} 23:59:59', 60);
    """)
    audit = shipped.run("--initial", *asked, "--dry-run", "--json")
    assert audit.returncode == 4, audit.stderr
    changed = [change for change in json.loads(audit.stdout) if change["kind"] == "changed"]
    assert {change["metric"] for change in changed} == set(METRICS)
    assert min(change["metric_date"] for change in changed) == str(corrected)
    total = before["total_revenue", corrected][2]["revenue"]
    assert any(change["detail"] == f"revenue: {total} -> {total + Decimal('0.01')}" for change in changed)
    assert stored(database) == before, "a dry run keeps nothing"

    repair = ok(shipped, "--initial", *asked)
    assert "2025-06-10 revenue_last_30d: changed revenue: " in repair
    assert "more; bi_metric_changes has all" in repair
    assert shipped.run("--initial", *asked, "--dry-run").returncode == 0
    rows, source = stored(database), read_game(database.connection)
    for day in (corrected - DAY, corrected, corrected + DAY, LAST_DAY):
        assert values(rows, day) == expected(source, day, CUTOFF), day


# --- the checks that ship ---------------------------------------------------------------------------------------------

# The file whose check must find it, and what is planted: a text of the file and its replacement, or SQL.
STORED = f"UPDATE bi_metrics SET value_list = '{{}}' WHERE metric_date = '{LAST_DAY - DAY}' AND metrics = '{{}}'"
FAULTS = [
    ("incremental/10_total_users_after_cutoff.sql", "+ (SELECT COUNT", "- (SELECT COUNT"),
    ("incremental/20_total_revenue.sql", f"INSERT INTO payments VALUES (1000000, 1, -99999.99, '{LAST_DAY}')", ""),
    ("30_daily_active_users.sql", "COUNT(DISTINCT user_id)", "-COUNT(DISTINCT user_id)"),
    ("40_plays_by_hour.sql", "hour < 23", "hour < 22"),
    ("incremental/50_new_users_last_60d.sql", STORED.format('{"new_users": -90}', "new_users_last_60d"), ""),
    ("60_revenue_last_30d.sql", "CAST(revenue AS", "CAST(-1 - revenue AS"),
    ("incremental/70_top_100_games_played.sql", "LIMIT 100", "LIMIT 101"),
    ("incremental/70_top_100_games_played.sql", "ORDER BY plays DESC", "ORDER BY plays"),
    ("80_arpu_last_30d.sql", "ROUND(", "-1 - ROUND("),
]


def test_the_checks_that_ship_catch_a_planted_fault_and_nothing_of_the_date_stays(shipped: Project) -> None:
    database = shipped.database
    load(shipped, SMALL)
    ok(shipped, "--initial", LAST_DAY - 3 * DAY, LAST_DAY - DAY)
    database.execute("CREATE TABLE kept AS SELECT * FROM bi_metrics")
    database.execute("UPDATE bi_metric_state SET definition = NULL")  # else the initial files would run instead
    for path, planted, replacement in FAULTS:
        file = shipped.folder / "sql" / path
        good = file.read_text()
        if replacement:
            assert planted in good
            file.write_text(good.replace(planted, replacement))
        else:
            database.execute(planted)
        before = stored(database)
        run = shipped.run(str(LAST_DAY))
        assert run.returncode == 1, path
        assert f"{LAST_DAY}: sql/{path}:" in run.stderr
        assert "check failed: " in run.stderr
        assert stored(database) == before
        file.write_text(good)
        database.execute("DELETE FROM payments WHERE amount < 0; REPLACE INTO bi_metrics SELECT * FROM kept")
    ok(shipped, LAST_DAY)


# --- the files --------------------------------------------------------------------------------------------------------


def test_the_files_that_ship_pass_every_rule_and_say_the_same_in_both_modes(shipped: Project) -> None:
    load(shipped, game.TINY)
    checked = shipped.list("--check")
    assert (checked.returncode, checked.stdout) == (0, "12 files checked: 0 errors, 0 warnings.\n")
    catalog = load_catalog(shipped.folder / "sql")
    for mode in Mode:
        assert tuple(file.name for file in catalog.in_mode(mode)) == METRICS
    assert len(catalog.initial_files) == CHAINED
    for file in catalog.in_mode(Mode.INCREMENTAL):
        initial = catalog.initial_files.get(file.name, file)
        assert [check.value for check in initial.script.checks] == [check.value for check in file.script.checks] != []
        assert (initial.description, initial.data_type) == (file.description, file.data_type)
    words = {word for file in catalog.files for statement in file.statements for word in statement.words}
    assert not words & {"JSON_TABLE", "JSON_VALUE"}, "TiDB has neither"


def test_every_read_of_the_game_uses_a_range_of_an_index_and_an_initial_file_reads_a_table_once(
    shipped: Project,
) -> None:
    load(shipped, GAME)
    ok(shipped, "--initial", LAST_DAY - DAY)  # without the row to build on, MySQL's plan would read nothing at all
    shipped.database.execute(f"ANALYZE TABLE {', '.join(EVENTS)}")
    ranges = 0
    for name, mode in itertools.product(METRICS[:-1], ([], ["--initial"])):  # the last reads bi_metrics alone
        printed = shipped.list("--sql", name, str(LAST_DAY), *mode)
        assert printed.returncode == 0, printed.stderr
        limit, statement = printed.stdout.split("\n", 1)
        shipped.database.execute(limit)  # MySQL's EXPLAIN works out a part of the query
        plan = [row for row in explain(shipped.database, statement) if row["table"] in EVENTS]
        if mode:
            assert len({row["table"] for row in plan}) == len(plan), f"{name} reads a table twice"
        for row in plan:
            # All payments there ever were go into the first total: no range leaves any out.
            whole = (name, mode) == ("total_revenue", ["--initial"])
            assert row["type"] == "range" or (whole and row["type"] == "index"), (name, mode, row)
            assert row["key"], (name, mode, row)
            ranges += not whole
    assert ranges == 14


def explain(database: Database, sql: str) -> list[dict[str, Any]]:
    """Return the rows of EXPLAIN, in the form that MariaDB and MySQL share."""
    with database.connection.cursor(pymysql.cursors.DictCursor) as cursor:
        cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL {sql}")
        return list(cursor.fetchall())


# --- the schema -------------------------------------------------------------------------------------------------------


def test_the_schema_applied_again_keeps_the_rows_and_the_timestamps_follow_their_rules(database: Database) -> None:
    columns = "metrics, f_list, value_list, metric_date"
    database.execute(
        f"SET timestamp = 1000000; INSERT INTO bi_metrics ({columns}) VALUES ('m', '[]', '1', '2025-01-15')"
    )
    database.execute((ROOT / "sql" / "schema.sql").read_text())
    times = "SELECT data_type, UNIX_TIMESTAMP(created_at), UNIX_TIMESTAMP(updated_at) FROM bi_metrics"
    assert database.rows(times) == [("card", 1_000_000, 1_000_000)]
    database.execute("SET timestamp = 2000000; UPDATE bi_metrics SET value_list = '2'")
    assert database.rows(times) == [("card", 1_000_000, 2_000_000)]
    database.execute(
        f"SET timestamp = 3000000; INSERT INTO bi_metrics ({columns}) VALUES ('m', '[]', '3', '2025-01-15') "
        "ON DUPLICATE KEY UPDATE value_list = '3'"
    )
    assert database.rows(times) == [("card", 1_000_000, 3_000_000)]
    with pytest.raises(pymysql.err.IntegrityError, match="Duplicate entry"):
        database.execute(f"INSERT INTO bi_metrics ({columns}) VALUES ('m', '[]', '4', '2025-01-15')")
