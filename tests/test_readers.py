"""Readers change no value: what they may not compute runs on the connection that writes; their faults are a file's."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymysql.cursors import Cursor

from config.database import load_settings
from demo import game
from src.db_manager import DatabaseManager
from src.metric_file.parameters import Parameters
from src.metric_file.step import Step
from src.running import readers as readers_module
from src.running.readers import Readers
from src.server.interruption import Interruption
from src.sql_loader import Catalog, load_catalog
from src.storage.store import MetricStore
from tests.conftest import Database, Project, connect, metric_sql
from tests.proxy import Proxy
from tests.test_tls import tls_server  # noqa: F401
from tests.workload import at_work, log_has, sessions, wait_until

DAY, DAYS = "2025-01-15", ("2025-01-13", "2025-01-18")
SOURCE = """
CREATE TABLE plays (day DATE NOT NULL, user_id INT NOT NULL, amount DECIMAL(12,4), score DOUBLE, note VARCHAR(40),
                    KEY (day));
CREATE TABLE counts (day DATE NOT NULL PRIMARY KEY, n INT NOT NULL);
CREATE VIEW all_counts AS SELECT day, n FROM counts;
CREATE VIEW all_plays AS SELECT day, user_id, amount FROM plays;
CREATE FUNCTION n_of(d DATE) RETURNS INT READS SQL DATA RETURN (SELECT n FROM counts WHERE day = d);
"""
COUNTS = """-- Description: Helper: the plays of each day
INSERT INTO counts SELECT DATE(%(metric_date)s), COUNT(*) FROM plays WHERE day = %(metric_date)s
ON DUPLICATE KEY UPDATE n = VALUES(n);
"""
OF_DAY = "WHERE day = %(metric_date)s"
ROWS = "SELECT metrics, metric_date, data_type, f_list, value_list FROM bi_metrics ORDER BY metrics, metric_date"


def select(sql: str, header: str = "") -> str:
    return f"-- Description: Made for a test\n{header}\n{sql}\n"


def slow(seconds: float, header: str = "") -> str:
    """Return a SELECT file that takes some time."""
    return select(f"SELECT SLEEP({seconds}) AS n, DAY(%(metric_date)s) AS d", header)


def fill(database: Database, rows: int = 400, seed: int = 1) -> None:
    rng = random.Random(seed)
    notes = ("x", "it's", 'a "b"', "ü\\n", "", "1e3")
    values = []
    for _ in range(rows):
        day = date(2025, 1, 10) + timedelta(days=rng.randrange(10))
        amount = rng.choice(("NULL", f"{rng.uniform(-9, 999):.4f}", "0.0001", "5"))
        score = rng.choice(("NULL", repr(rng.random()), repr(rng.uniform(-1e9, 1e18)), "0.1e0", "1e-7"))
        note = "'" + rng.choice(notes).replace("\\", "\\\\").replace("'", "''") + "'"
        values.append(f"('{day}', {rng.randrange(40)}, {amount}, {score}, {note})")
    database.execute(f"INSERT INTO plays VALUES {', '.join(values)}")


@pytest.fixture
def plays(project: Project) -> Project:
    if project.database.rows("SELECT @@log_bin")[0][0]:
        project.database.execute("SET GLOBAL log_bin_trust_function_creators = 1")
    project.database.execute(SOURCE)
    fill(project.database)
    project.env = {"METRICS_READERS": "2"}
    return project


def stored(project: Project) -> list[tuple[Any, ...]]:
    return project.database.rows(ROWS)


def clear(project: Project) -> None:
    for table in ("bi_metrics", "bi_metric_state", "bi_metric_changes", "counts"):
        project.database.execute(f"DELETE FROM {table}")


def values(project: Project, name: str) -> list[Any]:
    """Return the values of a metric by date."""
    return [json.loads(row[4]) for row in stored(project) if row[0] == name]


def read_ahead(project: Project) -> set[str]:
    """Return the files that a reader has computed in the runs so far."""
    lines = [line.split() for line in project.log().splitlines() if line.endswith(" by a reader")]
    return {line[-6].removeprefix("sql/").removesuffix(":") for line in lines}


def ok(project: Project, *words: str, **env: str) -> str:
    result = project.run(*words, env=env)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


# --- readers change no value ------------------------------------------------------------------------------------------

FORMS = (
    f"SELECT COUNT(*) AS n, SUM(amount) AS amount, AVG(amount) AS a FROM plays {OF_DAY}",
    f"SELECT SUM(score) AS score, MAX(score) AS top, MIN(note) AS note FROM plays {OF_DAY}",
    f"SELECT COUNT(DISTINCT user_id) AS users, %(metric_date)s AS day, MAX(day) AS d FROM plays {OF_DAY}",
    f"WITH q AS (SELECT user_id, SUM(amount) AS a FROM plays {OF_DAY} GROUP BY user_id) SELECT COUNT(*) n FROM q",
    f"SELECT COUNT(*) AS n FROM all_plays {OF_DAY}",
    f"SELECT SUM(n) AS n FROM counts {OF_DAY}",
    f"SELECT SUM(n) AS n FROM all_counts {OF_DAY}",
    "SELECT n_of(%(metric_date)s) AS n",
    f"SET @n := (SELECT COUNT(*) FROM plays {OF_DAY});\nSELECT @n AS n",
    f"CREATE TEMPORARY TABLE some_plays AS SELECT * FROM plays {OF_DAY};\nSELECT COUNT(*) AS n FROM some_plays",
)
LISTS = (
    f"SELECT user_id, SUM(amount) AS amount FROM plays {OF_DAY} GROUP BY user_id ORDER BY 2 DESC, 1 LIMIT 5",
    f"SELECT note, COUNT(*) AS n, AVG(score) AS score FROM plays {OF_DAY} GROUP BY note ORDER BY note",
)
SETS = (
    "SELECT day AS metric_date, COUNT(*) AS n, SUM(amount) AS a FROM plays "
    "WHERE day BETWEEN %(start_date)s AND %(metric_date)s GROUP BY day",
    "SELECT day AS metric_date, SUM(n) AS n FROM counts WHERE day BETWEEN %(start_date)s AND %(metric_date)s "
    "GROUP BY day",
)


def write_random_folder(project: Project, rng: random.Random) -> None:
    """Write metric files of many kinds, some of which read a metric or a helper's table of the same date."""
    project.write("10_counts.sql", COUNTS)
    names: list[str] = []
    for number in range(rng.randrange(6, 14)):
        name, kind = f"m{number}", rng.randrange(8)
        if kind < 4:
            text = select(rng.choice(FORMS), "-- Empty: ok")
        elif kind == 4:
            text = select(rng.choice(LISTS), "-- Data Type: ranking")
        elif kind == 5:
            text = select(rng.choice(SETS), "-- Empty: ok")
        elif kind == 6 and names:
            of = rng.choice(names)
            text = select("SELECT MAX(value_list) AS was FROM bi_metrics WHERE metric_date = %(metric_date)s "
                          f"AND metrics = '{of}'")  # fmt: skip
        else:
            text = metric_sql(name, "COUNT(*)", where=f"FROM plays {OF_DAY}")
        project.write(f"{20 + number}_{name}.sql", text)
        names.append(name)


@pytest.mark.parametrize("seed", range(6))
def test_random_folders_store_equal_rows_with_any_number_of_readers(plays: Project, seed: int) -> None:
    write_random_folder(plays, random.Random(seed))
    _same_rows_with_any_number_of_readers(plays)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 46))
def test_more_random_folders_store_equal_rows_with_any_number_of_readers(plays: Project, seed: int) -> None:
    write_random_folder(plays, random.Random(seed))
    _same_rows_with_any_number_of_readers(plays)


def _same_rows_with_any_number_of_readers(project: Project) -> None:
    for words in (DAYS, ("--initial", *DAYS)):
        found = []
        for count in ("0", "1", "3"):
            clear(project)
            ok(project, *words, METRICS_READERS=count)
            found.append(stored(project))
        assert len(found[0]) >= 6 * 6
        assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_the_shipped_metrics_store_equal_rows_with_any_number_of_readers(project: Project) -> None:
    project.write_shipped()
    project.env = {"METRICS_TIMEZONE": "UTC", "DB_TIME_ZONE": "+00:00", "METRIC_PARAM_CUTOFF_DATE": "2024-12-20"}
    game.load(project.database.connection, date(2025, 1, 31), game.Size(users=300, games=110, days=40, plays=6_000))
    for words in (("2025-01-10", "2025-01-25"), ("--initial", "2025-01-10", "2025-01-25")):
        found = []
        for count in ("0", "1", "3"):
            project.database.execute("DELETE FROM bi_metrics; DELETE FROM bi_metric_state")
            ok(project, *words, METRICS_READERS=count)
            found.append(stored(project))
        assert len(found[0]) >= 8 * 16
        assert found[0] == found[1] == found[2]


def test_files_of_one_plain_select_run_on_readers_and_no_others(plays: Project) -> None:
    plays.write("01_counts.sql", COUNTS)
    plays.write("02_slow.sql", metric_sql("slow", "SLEEP(0.5)"))  # meanwhile the readers take what they may
    plain = [FORMS[0], FORMS[1], FORMS[3], "SELECT DAY(%(metric_date)s) AS n"]
    for number, text in enumerate([*plain, *FORMS[4:], "SELECT CONNECTION_ID() AS n, %(metric_date)s AS d",
                                   "SELECT @@pseudo_thread_id AS n, %(metric_date)s AS d"], start=10):  # fmt: skip
        plays.write(f"{number}_m{number}.sql", select(text))
    plays.write("90_reads.sql", select("SELECT value_list AS n FROM bi_metrics WHERE metrics = 'm10' "
                                       "AND metric_date = %(metric_date)s"))  # fmt: skip
    plays.write("91_declared.sql", select("SELECT DAY(%(metric_date)s) AS n", "-- Reads: counts"))
    ok(plays, DAY)
    assert read_ahead(plays) == {f"{number}_m{number}.sql" for number in range(10, 10 + len(plain))}


def test_without_readers_there_is_one_connection(plays: Project) -> None:
    plays.write("1_slow.sql", metric_sql("slow", "SLEEP(0.1)"))
    for number in range(2, 6):
        plays.write(f"{number}_m{number}.sql", select(FORMS[0]))
    before = _connections(plays)
    ok(plays, DAY, METRICS_READERS="0")
    assert _connections(plays) == before + 1
    assert read_ahead(plays) == set()


def _connections(project: Project) -> int:
    return int(project.database.rows("SHOW GLOBAL STATUS LIKE 'Connections'")[0][1])


def test_a_dry_run_uses_readers_and_a_comparison_of_both_ways_does_not(plays: Project) -> None:
    plays.write("1_slow.sql", metric_sql("slow", "SLEEP(0.1)"))
    for number in range(2, 6):
        plays.write(f"{number}_m{number}.sql", select(FORMS[0]))
    ok(plays, "--verify", *DAYS)
    assert read_ahead(plays) == set()
    ok(plays, DAY, "--dry-run")
    assert read_ahead(plays) != set()
    assert stored(plays) == []


# --- what the connection that writes sees, and others do not ----------------------------------------------------------


@pytest.fixture
def helped(plays: Project) -> Project:
    """A helper that writes and then takes its time, so that a reader would have looked before its COMMIT."""
    plays.write("01_counts.sql", COUNTS)
    plays.write("02_slow.sql", metric_sql("slow", "SLEEP(0.3)"))
    return plays


@pytest.mark.parametrize("sql", [f"SELECT SUM(n) AS n FROM counts {OF_DAY}", f"SELECT n FROM all_counts {OF_DAY}",
                                 "SELECT n_of(%(metric_date)s) AS n", "SELECT n FROM `COUNTS` AS c WHERE c.day = "
                                 "%(metric_date)s"])  # fmt: skip
def test_a_file_sees_the_uncommitted_row_of_a_helper(helped: Project, sql: str) -> None:
    if "COUNTS" in sql and helped.database.rows("SELECT @@lower_case_table_names")[0][0] == 0:
        sql = sql.replace("COUNTS", "counts")
    helped.write("03_reads.sql", select(sql))
    helped.write("04_plain.sql", select(FORMS[0]))
    ok(helped, DAY)
    [(number,)] = helped.database.rows(f"SELECT COUNT(*) FROM plays WHERE day = '{DAY}'")
    assert [int(value["n"]) for value in values(helped, "reads")] == [number]
    assert "03_reads.sql" not in read_ahead(helped)


def test_a_view_of_another_schema_is_not_read_ahead(helped: Project) -> None:
    other = f"{helped.database.name}_other"
    helped.database.execute(f"CREATE DATABASE {other}; CREATE VIEW {other}.hidden AS SELECT day, n "
                            f"FROM {helped.database.name}.counts")  # fmt: skip
    try:
        helped.write("03_reads.sql", select(f"SELECT SUM(n) AS n FROM {other}.hidden {OF_DAY}", "-- Reads: counts"))
        helped.write("04_again.sql", select(f"SELECT SUM(n) AS n FROM {other}.hidden {OF_DAY}"))
        ok(helped, DAY)
    finally:
        helped.database.execute(f"DROP DATABASE {other}")
    assert read_ahead(helped).isdisjoint({"03_reads.sql", "04_again.sql"})
    [(number,)] = helped.database.rows(f"SELECT COUNT(*) FROM plays WHERE day = '{DAY}'")
    assert values(helped, "reads") == values(helped, "again") == [{"n": number}]


def test_a_table_that_a_stored_function_of_another_file_writes_is_not_read_ahead(plays: Project) -> None:
    plays.database.execute("CREATE TABLE noted (day DATE); CREATE FUNCTION note_it(d DATE) RETURNS INT MODIFIES SQL "
                           "DATA BEGIN INSERT INTO noted VALUES (d); RETURN 1; END")  # fmt: skip
    plays.write("1_notes.sql", select("SELECT note_it(%(metric_date)s) AS n"))
    plays.write("2_slow.sql", metric_sql("slow", "SLEEP(0.3)"))
    plays.write("3_noted.sql", select(f"SELECT COUNT(*) AS n FROM noted {OF_DAY}"))
    plays.write("4_plain.sql", select(FORMS[0]))
    ok(plays, DAY)
    assert values(plays, "noted") == [{"n": 1}]


# --- midnight ---------------------------------------------------------------------------------------------------------


@contextmanager
def at_readers(project: Project, ended: set[date]) -> Iterator[tuple[Readers, DatabaseManager, Catalog]]:
    """Readers beside a connection; a date has ended at moment 1 if it is in `ended`, and at moment 2 always."""
    settings = load_settings(project.folder, project.environment())
    database = DatabaseManager(settings, Interruption())
    database.connect()
    database.run_lock.take()
    readers = Readers(database, settings, 2, lambda day, moment, after: moment > 1 or day in ended)
    catalog = load_catalog(project.folder / "sql")
    readers.open(catalog)
    try:
        yield readers, database, catalog
    finally:
        readers.close()
        database.close()


def steps(catalog: Catalog, *days: date) -> list[Step]:
    return [Step(file, (day,), Parameters({}, None)) for file in catalog.files for day in days]


def ask_and_wait(readers: Readers, now: list[Step], ahead: list[Step], moment: int) -> None:
    """Let the readers compute all of it."""
    readers.ask(now, ahead, moment)
    wait_until(lambda: not readers._waiting and len(readers._done) == len(readers._asked))


@pytest.fixture
def uuids(plays: Project) -> Project:
    """Files whose value is another one each time."""
    for number in range(4):
        plays.write(f"{number}_m.sql", select("SELECT UUID() AS n, %(metric_date)s AS d"))
    return plays


YESTERDAY, TODAY = date(2025, 1, 14), date(2025, 1, 15)


def text_of(found: Any) -> str:
    [value] = found.selected.values.values()
    return str(value.text)


def test_a_date_that_has_not_ended_is_not_read_ahead(uuids: Project) -> None:
    with at_readers(uuids, ended={YESTERDAY}) as (readers, _, catalog):
        ahead = steps(catalog, YESTERDAY, TODAY)
        ask_and_wait(readers, [], ahead, 1)
        assert [readers.take(step) is not None for step in ahead] == [True, False] * 4


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> list[set[date]]:
    """For each date that runs, in order: the dates that readers are to compute."""
    found: list[set[date]] = []
    ask = Readers.ask

    def noted(self: Readers, *args: Any) -> None:
        ask(self, *args)
        with self._changed:
            found.append({day for _, dates in (*self._asked, *self._waiting) for day in dates})

    monkeypatch.setattr(Readers, "ask", noted)
    return found


def test_a_night_reads_the_lookback_dates_ahead_and_never_today(plays: Project, wanted: list[set[date]]) -> None:
    today = date.today()
    yesterday, *back = (today - timedelta(days=number) for number in range(1, 5))
    plays.write("1_a.sql", select(FORMS[0]))
    plays.env |= {"METRICS_LOOKBACK_DAYS": "3", "METRICS_TIMEZONE": "UTC"}
    ok(plays, str(back[-1]))  # a first row
    wanted.clear()
    ok(plays)
    assert wanted[:5] == [{yesterday, *back}, {today, *back}, {*back}, {*back[:2]}, {back[0]}]


def test_a_range_reads_four_dates_ahead(plays: Project, wanted: list[set[date]]) -> None:
    plays.write("1_a.sql", select(FORMS[0]))
    plays.write("2_b.sql", select(FORMS[1]))
    ok(plays, *DAYS)
    assert [len(each) for each in wanted] == [5, 5, 4, 3, 2, 1]


def test_a_value_whose_select_began_before_its_date_ended_does_not_become_final(uuids: Project) -> None:
    with at_readers(uuids, ended={YESTERDAY}) as (readers, _, catalog):
        now = steps(catalog, YESTERDAY, TODAY)
        readers.ask(now, [], 1)
        wait_until(lambda: len(readers._done) == 8)
        old = {key: text_of(found) for key, found in readers._done.items()}
        readers.ask(now, [], 2)  # the date is tried again, after midnight
        wait_until(lambda: len(readers._done) == 8)
        new = {key: text_of(found) for key, found in readers._done.items()}
    assert {dates[0] for (_, dates), text in new.items() if text != old[_, dates]} == {TODAY}


def test_a_select_that_still_runs_when_its_date_is_tried_again_after_midnight_is_forgotten(plays: Project) -> None:
    for number in range(2):
        plays.write(f"{number}_m.sql", select("SELECT SLEEP(0.5) AS s, UUID() AS n, %(metric_date)s AS d"))
    with at_readers(plays, ended=set()) as (readers, _, catalog):
        now = [*steps(catalog, TODAY), *steps(catalog, TODAY)[:1]]
        readers.ask(now, [], 1)
        wait_until(lambda: readers._asked)
        [(key, first)] = readers._asked.items()
        readers.ask(now, [], 2)
        assert key not in readers._asked
        readers.done(first, ValueError("of the first try"))
        assert key not in readers._done
        wait_until(lambda: key in readers._asked)
        readers.done(first, ValueError("of the first try"))
        assert key not in readers._done


def test_a_value_that_was_read_ahead_counts_as_computed_when_it_was_read(plays: Project) -> None:
    plays.write("1_slow.sql", metric_sql("slow", "SLEEP(1.2)"))
    plays.write("2_fast.sql", select("SELECT CAST(UTC_TIMESTAMP() AS CHAR) AS at, %(metric_date)s AS day"))
    ok(plays, "2025-01-13", "2025-01-15")
    found = plays.database.rows(
        "SELECT CAST(computed_at AS CHAR), JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.at')) FROM bi_metric_state "
        "JOIN bi_metrics USING (metric_date) WHERE metric = 'fast' AND metrics = 'fast'"
    )
    assert len(found) == 3
    assert all(computed_at <= read_at for computed_at, read_at in found), found


# --- a retry ----------------------------------------------------------------------------------------------------------


def test_a_retry_throws_away_what_was_computed_and_takes_new_sessions(uuids: Project) -> None:
    with at_readers(uuids, ended={YESTERDAY}) as (readers, database, catalog):
        now = steps(catalog, YESTERDAY)
        readers.ask(now, [], 1)
        wait_until(lambda: len(readers._done) == 4)
        old = {text_of(found) for found in readers._done.values()}
        threads = list(readers._readers)
        database.connect()
        readers.ask(now, [], 1)
        wait_until(lambda: len(readers._done) == 4)
        assert old.isdisjoint(text_of(found) for found in readers._done.values())
        assert not any(thread.is_alive() for thread in threads)
        wait_until(lambda: len(sessions(uuids.database)) == 3)


def test_what_is_asked_for_twice_is_computed_once(uuids: Project) -> None:
    with at_readers(uuids, ended={YESTERDAY}) as (readers, _, catalog):
        ahead = steps(catalog, YESTERDAY)
        ask_and_wait(readers, [], ahead, 1)
        done = dict(readers._done)
        ask_and_wait(readers, ahead, [], 1)
        assert readers._done == done
        assert len(done) == 4


def test_a_reader_that_waits_lets_tables_be_altered(plays: Project) -> None:
    for number in range(4):
        plays.write(f"{number}_m.sql", select(FORMS[0]))
    with at_readers(plays, ended={YESTERDAY}) as (readers, _, catalog):
        readers.ask(steps(catalog, YESTERDAY), [], 1)
        wait_until(lambda: len(readers._done) == 4)
        time.sleep(0.1)
        plays.database.execute("SET lock_wait_timeout = 2; ALTER TABLE plays ADD COLUMN one_more INT")


def test_readers_pause_while_they_hold_many_bytes(uuids: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "MOST_BYTES_AHEAD", 100)
    with at_readers(uuids, ended={YESTERDAY}) as (readers, _, catalog):
        now = steps(catalog, YESTERDAY)
        readers.ask(now, [], 1)
        wait_until(lambda: len(readers._done) >= 2)
        time.sleep(0.2)
        assert 2 <= len(readers._done) <= 3
        assert readers._size == sum(len(text_of(found)) + 2 for found in readers._done.values())
        for step in now:
            readers.take(step)
        assert readers._size == 0


# --- faults of a file -------------------------------------------------------------------------------------------------


@pytest.fixture
def behind(plays: Project) -> Project:
    """A slow file; the one that a test writes behind it runs on a reader meanwhile."""
    plays.write("1_slow.sql", metric_sql("slow", "SLEEP(0.5)"))
    return plays


@pytest.mark.parametrize(("sql", "error"), [
    ("SELECT CAST('abc' AS SIGNED) + DAY(%(metric_date)s) AS n", "(1292) Truncated incorrect INTEGER value: 'abc'"),
    ("SELECT 1 / 0 + DAY(%(metric_date)s) AS n", "(1365) Division by 0"),
    ("SELECT nothing FROM plays WHERE day = %(metric_date)s", "(1054) Unknown column 'nothing'"),
    ("SELECT note AS n FROM plays WHERE day = %(metric_date)s", "rows for 2025-01-15, and a card has one"),
])  # fmt: skip
def test_an_error_of_a_reader_is_the_file_s_at_its_place(behind: Project, sql: str, error: str) -> None:
    behind.write("2_wrong.sql", select(sql))
    behind.write("3_good.sql", select(FORMS[0]))
    results = [behind.run(DAY, env={"METRICS_READERS": count}) for count in ("0", "2")]
    assert [result.returncode for result in results] == [1, 1]
    assert error in results[1].stderr
    assert results[0].stderr == results[1].stderr
    assert "sql/2_wrong.sql" in results[1].stderr
    assert stored(behind) == []
    wait_until(lambda: not sessions(behind.database), 3)  # the server takes a moment to end one


def test_a_warning_that_a_header_allows_is_stored_by_a_reader(behind: Project) -> None:
    behind.write("2_m.sql", select("SELECT CAST('7x' AS SIGNED) + 0 * DAY(%(metric_date)s) AS n", "-- Allow: warnings"))
    ok(behind, DAY)
    assert values(behind, "m") == [{"n": 7}]
    assert read_ahead(behind) == {"2_m.sql"}
    assert "Truncated incorrect INTEGER value" in behind.log()


def test_a_date_that_goes_on_without_what_failed_stores_the_rest(behind: Project) -> None:
    behind.write("2_wrong.sql", select("SELECT CAST(note AS SIGNED) + DAY(%(metric_date)s) AS n FROM plays LIMIT 1"))
    behind.write("3_good.sql", select(FORMS[0]))
    result = behind.run(DAYS[0], "2025-01-14", env={"METRICS_ON_FAILURE": "metric"})
    assert result.returncode == 1
    assert [row[0] for row in stored(behind)] == ["good"] * 2 + ["slow"] * 2


@pytest.mark.slow
def test_a_statement_over_the_limit_fails_its_file_and_ends_in_the_server(behind: Project) -> None:
    behind.write("2_long.sql", slow(20))
    result = behind.run(DAY, env={"METRIC_TIMEOUT_SECONDS": "1"})
    assert result.returncode == 1
    assert "sql/2_long.sql:3: statement 1 of 1: stopped after 1 s (METRIC_TIMEOUT_SECONDS)" in result.stderr
    wait_until(lambda: not sessions(behind.database), 3)


# --- faults of a connection -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_reader_that_is_killed_costs_a_file_no_value(plays: Project) -> None:
    plays.write("1_slow.sql", metric_sql("slow", "SLEEP(1.5)"))
    plays.write("2_long.sql", slow(1.5))
    for number in range(3, 7):
        plays.write(f"{number}_m{number}.sql", select(FORMS[0]))
    run = plays.start("run_metrics.py", DAY)
    wait_until(lambda: at_work(plays.database, "2_long"))
    [number] = at_work(plays.database, "2_long")
    plays.database.execute(f"KILL {number}")
    _, err = run.communicate(timeout=30)
    assert run.returncode == 0, err
    assert "again in" not in err  # the date was not tried twice
    assert len(stored(plays)) == 6
    wait_until(lambda: not sessions(plays.database), 3)


@pytest.mark.slow
def test_a_run_whose_writer_is_killed_tries_the_date_again_with_new_readers(plays: Project) -> None:
    plays.write("1_slow.sql", metric_sql("slow", "SLEEP(1.5)"))
    for number in range(2, 6):
        plays.write(f"{number}_m{number}.sql", select("SELECT UUID() AS n, %(metric_date)s AS d"))
    run = plays.start("run_metrics.py", DAY)
    wait_until(lambda: at_work(plays.database, "1_slow"))
    time.sleep(0.5)  # the readers are done with the others
    before = {number for number, _ in sessions(plays.database)}
    [writer] = at_work(plays.database, "1_slow")
    plays.database.execute(f"KILL {writer}")
    wait_until(lambda: at_work(plays.database, "1_slow") not in ([], [writer]))
    time.sleep(0.3)
    assert before.isdisjoint(number for number, _ in sessions(plays.database))
    _, err = run.communicate(timeout=30)
    assert run.returncode == 0, err
    assert "again in" in err
    assert len(stored(plays)) == 5
    wait_until(lambda: not sessions(plays.database), 3)


def test_an_account_with_few_connections_has_fewer_readers_and_one_warning(plays: Project) -> None:
    user = f"few_{plays.database.name}"
    plays.database.execute(f"CREATE USER {user}@localhost WITH MAX_USER_CONNECTIONS 2")
    plays.database.execute(f"GRANT ALL ON {plays.database.name}.* TO {user}@localhost")
    plays.write("01_slow.sql", metric_sql("slow", "SLEEP(0.5)"))
    for number in range(2, 9):
        plays.write(f"0{number}_m{number}.sql", select(FORMS[0]))
    try:
        said = ok(plays, DAY, DB_USER=user, METRICS_READERS="4")
    finally:
        plays.database.execute(f"DROP USER {user}@localhost")
    assert said.count("fewer readers than METRICS_READERS=4") == 1
    assert "(1226)" in said
    assert len(stored(plays)) == 8
    assert read_ahead(plays) != set()


@pytest.mark.slow
def test_a_full_server_leaves_fewer_readers_and_every_row(plays: Project) -> None:
    user = f"plain_{plays.database.name}"
    plays.database.execute(f"CREATE USER {user}@localhost; GRANT ALL ON {plays.database.name}.* TO {user}@localhost")
    plays.write("01_slow.sql", metric_sql("slow", "SLEEP(0.5)"))
    for number in range(2, 9):
        plays.write(f"0{number}_m{number}.sql", select(FORMS[0]))
    [(before,)] = plays.database.rows("SELECT @@max_connections")
    plays.database.execute("SET GLOBAL max_connections = 12")
    others = []
    try:
        while _threads(plays) < 11:  # one is left, for the connection that writes
            others.append(connect(plays.database.server))
        said = ok(plays, DAY, DB_USER=user)
    finally:
        for other in others:
            other.close()
        plays.database.execute(f"SET GLOBAL max_connections = {before}; DROP USER {user}@localhost")
    assert said.count("fewer readers") == 1
    assert "(1040)" in said
    assert len(stored(plays)) == 8


def _threads(project: Project) -> int:
    return int(project.database.rows("SHOW GLOBAL STATUS LIKE 'Threads_connected'")[0][1])


def test_a_reader_that_lands_on_another_server_is_not_used(plays: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "_SERVER", "SELECT CONNECTION_ID()")  # as if each connection had its own
    plays.write("1_slow.sql", metric_sql("slow", "SLEEP(0.3)"))
    for number in range(2, 6):
        plays.write(f"{number}_m{number}.sql", select(FORMS[0]))
    said = ok(plays, DAY)
    assert said.count("a connection came to another server") == 1
    assert read_ahead(plays) == set()
    assert len(stored(plays)) == 5


# --- signals ----------------------------------------------------------------------------------------------------------

MOMENTS = {  # the first file, the two that readers take, and how many statements run then
    "all are at work": (metric_sql("first", "SLEEP(20)"), slow(20), 3),
    "the writer waits for a reader": (select("SELECT DAY(%(metric_date)s) AS n"), slow(20), 2),
    "the readers wait": (metric_sql("first", "SLEEP(20)"), select(FORMS[0]), 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_a_run_and_every_reader_within_a_second(
    plays: Project, moment: str, number: signal.Signals
) -> None:
    first, others, busy = MOMENTS[moment]
    plays.write("1_first.sql", first)
    for name in "23":
        plays.write(f"{name}_m{name}.sql", others)
    run = plays.start("run_metrics.py", DAY)
    wait_until(lambda: len(at_work(plays.database)) == busy)
    time.sleep(0.2)
    clock = time.monotonic()
    run.send_signal(number)
    _, err = run.communicate(timeout=30)
    seconds = time.monotonic() - clock
    wait_until(lambda: not sessions(plays.database), 2)
    assert run.returncode == 128 + number, err
    assert "Traceback" not in err
    assert seconds < 3  # an idle machine needs 0.2
    assert stored(plays) == []


def _sent(project: Project, text: str) -> bool:
    """Tell whether the server is at work on a statement that holds `text`."""
    return any(text in statement for _, statement in sessions(project.database))


CHECKED = select("SELECT DAY(%(metric_date)s) AS n", "-- Check: SELECT 1 FROM (SELECT SLEEP(20) AS s) AS q WHERE s > 0")
LATER_SLOW = select("SELECT IF(%(metric_date)s > '2025-01-13', SLEEP(20), 0) AS n")
WRITING_MOMENTS = {  # the first file, the others, and what the server is then at work on
    "a check runs": (CHECKED, select(FORMS[0]), "SELECT EXISTS"),
    "rows are stored": (select("SELECT DAY(%(metric_date)s) AS n"), select(FORMS[0]), "INSERT INTO bi_metrics "),
    "later dates are computed": (metric_sql("first", "SLEEP(20)"), LATER_SLOW, "m3.sql 2025-01-14"),
    "a reader holds an error": (metric_sql("first", "SLEEP(20)"), select(f"SELECT no FROM plays {OF_DAY}"), "1_first"),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", WRITING_MOMENTS)
def test_a_signal_ends_a_run_and_every_reader_also_when(plays: Project, moment: str) -> None:
    first, others, statement = WRITING_MOMENTS[moment]
    plays.write("1_first.sql", first)
    for name in "23":
        plays.write(f"{name}_m{name}.sql", others)
    with connect(plays.database.server, plays.database.name) as other, other.cursor() as cursor:
        if moment == "rows are stored":  # they wait for a row that another transaction has written
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO bi_metrics (metrics, f_list, value_list, metric_date) "
                           "VALUES ('first', '[]', '1', '2025-01-13')")  # fmt: skip
        run = plays.start("run_metrics.py", *DAYS)
        wait_until(lambda: _sent(plays, statement))
        time.sleep(0.2)
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate(timeout=30)
        wait_until(lambda: not _sent(plays, "bi_metrics"), 3)
    assert run.returncode == 143, err
    assert "Traceback" not in err
    wait_until(lambda: not sessions(plays.database), 3)
    assert stored(plays) == []


@pytest.mark.slow
def test_a_signal_ends_a_run_whose_readers_still_connect(plays: Project, tmp_path: Path) -> None:
    plays.write("1_first.sql", slow(20))
    for name in "234":
        plays.write(f"{name}_m{name}.sql", slow(20))

    asked: list[bytes] = []

    def slow_for_readers(data: bytes) -> bytes:
        if b"@@hostname" in data:
            asked.append(data)
            time.sleep(5 * (len(asked) > 1))  # the first is the connection that writes
        return data

    with Proxy(tmp_path / "p.sock", plays.database.server.socket, rewrite=slow_for_readers) as proxy:
        run = plays.start("run_metrics.py", DAY, env={"DB_SOCKET": str(proxy.path)})
        wait_until(lambda: len(asked) > 1)
        clock = time.monotonic()
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate(timeout=30)
    assert time.monotonic() - clock < 3
    assert run.returncode == 143, err
    wait_until(lambda: not sessions(plays.database), 10)  # the proxy holds back two of them for 5 s


@pytest.mark.slow
def test_signals_at_random_moments_leave_no_session_and_no_part_of_a_date(plays: Project) -> None:
    for number in range(6):
        plays.write(f"{number}_m{number}.sql", slow(0.03))
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(12):
        clear(plays)
        (plays.folder / "logs" / "metrics.log").unlink(missing_ok=True)
        run = plays.start("run_metrics.py", *DAYS)
        wait_until(lambda: run.poll() is not None or log_has(plays, "start"))  # noqa: B023
        time.sleep(rng.random() * 0.5)
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate(timeout=30)
        assert run.returncode in (0, 143), err
        assert "Traceback" not in err
        wait_until(lambda: not sessions(plays.database), 3)
        counts = plays.database.rows("SELECT COUNT(*) FROM bi_metrics GROUP BY metric_date")
        assert {count for (count,) in counts} <= {6}


def test_a_date_that_fails_stops_what_readers_compute_ahead(plays: Project) -> None:
    plays.write("1_first.sql", metric_sql("first", "SLEEP(0.5) + nothing"))
    for name in "2345":
        plays.write(f"{name}_m{name}.sql", slow(20))
    clock = time.monotonic()
    result = plays.run(DAY)
    assert result.returncode == 1
    assert time.monotonic() - clock < 10
    wait_until(lambda: not sessions(plays.database), 3)


# --- fewer trips ------------------------------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that were sent to write, and to read back, rows."""
    found: list[str] = []
    execute, rows = DatabaseManager.execute, MetricStore.rows

    def noted(self: DatabaseManager, sql: str, args: Any = None) -> int:
        if sql.startswith("INSERT INTO bi_metrics "):
            found.append("write")
        return execute(self, sql, args)

    def read(self: MetricStore, dates_of: Any) -> Any:
        found.append(f"read {', '.join(name for name, dates in dates_of.items() if dates)}")
        return rows(self, dates_of)

    monkeypatch.setattr(DatabaseManager, "execute", noted)
    monkeypatch.setattr(MetricStore, "rows", read)
    return found


def test_the_rows_of_many_select_metrics_go_in_one_statement(plays: Project, sent: list[str]) -> None:
    for number in range(8):
        plays.write(f"{number}_m{number}.sql", select(FORMS[0]))
    ok(plays, DAY)
    assert sent == ["write"]


def test_the_rows_are_sent_before_a_file_that_reads_one_of_them(plays: Project, sent: list[str]) -> None:
    plays.write("1_a.sql", select(FORMS[0]))
    plays.write("2_b.sql", select(FORMS[0]))
    plays.write("3_of_b.sql", select("SELECT JSON_EXTRACT(value_list, '$.n') AS n FROM bi_metrics WHERE "
                                     "metrics = 'b' AND metric_date = %(metric_date)s"))  # fmt: skip
    plays.write("4_of_a.sql", select("SELECT JSON_EXTRACT(value_list, '$.n') AS n FROM bi_metrics WHERE "
                                     "metrics = 'a' AND metric_date = %(metric_date)s"))  # fmt: skip
    plays.write("5_insert.sql", metric_sql("insert"))
    ok(plays, DAY)
    assert sent == ["write", "write", "read insert"]
    [a] = values(plays, "a")
    assert values(plays, "of_a") == values(plays, "of_b") == [{"n": str(a["n"])}]


def test_the_rows_wait_for_an_insert_metric_that_reads_none_of_them(plays: Project, sent: list[str]) -> None:
    plays.write("1_a.sql", select(FORMS[0]))
    plays.write("2_insert.sql", metric_sql("insert"))
    plays.write("3_b.sql", select(FORMS[0]))
    of_a = "FROM bi_metrics WHERE metrics = 'a' AND metric_date = %(metric_date)s"
    plays.write("4_of_a.sql", metric_sql("of_a", "JSON_EXTRACT(value_list, '$.n')", where=of_a))
    plays.write("5_c.sql", select(FORMS[0]))
    ok(plays, DAY)
    assert sent == ["write", "write", "read insert, of_a"]
    assert values(plays, "of_a") == [{"n": value["n"]} for value in values(plays, "a")]


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The beginnings of the statements that were sent."""
    found: list[str] = []
    execute = Cursor.execute

    def noted(self: Any, sql: str, args: Any = None) -> int:
        found.append(" ".join(sql.split()[:2]))
        return int(execute(self, sql, args))

    monkeypatch.setattr(Cursor, "execute", noted)
    return found


def of_the_last_date(trips: list[str]) -> list[str]:
    """Return what was sent after the COMMIT of the last date but one, up to the last, without the files' statements."""
    commits = [i for i, sql in enumerate(trips) if sql == "COMMIT"][:6]  # a run has others after its six dates
    return [sql for sql in trips[commits[-2] + 1 : commits[-1] + 1] if sql != "/* bi_metrics"]


def test_a_date_of_select_metrics_takes_six_round_trips_beside_the_files(plays: Project, trips: list[str]) -> None:
    for number in range(8):
        check = f"-- Check: SELECT 1 FROM bi_metrics WHERE metrics = 'm{number}' AND metric_date > %(metric_date)s"
        plays.write(f"{number}_m{number}.sql", select(FORMS[0], check))
    ok(plays, *DAYS, METRICS_READERS="0", METRICS_MEND_DAYS="1")
    assert of_the_last_date(trips) == ["SELECT UNIX_TIMESTAMP(),", "INSERT INTO", "SELECT EXISTS", "INSERT INTO",
                                       "SELECT metric,", "COMMIT"]  # fmt: skip


@pytest.mark.parametrize(("files", "is_guarded"), [
    ({"m.sql": select(FORMS[0])}, False),
    ({"incremental/m.sql": select(FORMS[0]), "initial/m.sql": metric_sql("m")}, True),
    ({"m.sql": select(FORMS[8])}, True),
    ({"m.sql": select(FORMS[0]), "counts.sql": COUNTS}, True),
])  # fmt: skip
def test_a_savepoint_stands_around_all_but_selects(
    plays: Project, trips: list[str], files: dict[str, str], is_guarded: bool
) -> None:
    for name, text in files.items():
        plays.write(name, text)
    ok(plays, *DAYS)
    assert any(sql.startswith("SAVEPOINT") for sql in of_the_last_date(trips)) == is_guarded


@pytest.mark.parametrize("statement", ["COMMIT", "ALTER TABLE counts ADD COLUMN more INT", "START TRANSACTION",
                                       "TRUNCATE counts"])  # fmt: skip
def test_a_stored_function_in_a_select_cannot_end_the_transaction(plays: Project, statement: str) -> None:
    plays.database.execute(f"CREATE PROCEDURE ends_it() BEGIN {statement}; END; CREATE FUNCTION ends(d DATE) RETURNS "
                           "INT MODIFIES SQL DATA BEGIN CALL ends_it(); RETURN 1; END")  # fmt: skip
    plays.write("1_good.sql", select(FORMS[0]))
    plays.write("2_reads.sql", select("SELECT value_list AS n FROM bi_metrics WHERE metrics = 'good' "
                                      "AND metric_date = %(metric_date)s"))  # fmt: skip
    plays.write("3_ends.sql", select("SELECT ends(%(metric_date)s) AS n"))
    result = plays.run(DAY)
    assert result.returncode == 1
    assert "sql/3_ends.sql:3: statement 1 of 1: (" in result.stderr
    assert stored(plays) == []


def test_only_rows_that_the_server_may_store_otherwise_are_read_back(plays: Project, sent: list[str]) -> None:
    plays.write("1_exact.sql", select(FORMS[0]))
    plays.write("2_double.sql", select(FORMS[1]))
    ok(plays, DAY)
    assert sent == ["write", "read double"]


@pytest.mark.parametrize("form", [*FORMS[:4], *LISTS])
def test_a_row_that_is_not_read_back_is_compared_as_it_would_be(
    plays: Project, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plays.write("m.sql", select(form, "-- Data Type: ranking" if form in LISTS else ""))

    def outcomes() -> list[list[tuple[str, Any, Any]]]:
        """Return what is new, what is unchanged when nothing has changed, and what is changed when something has."""
        found = []
        clear(plays)
        plays.database.execute("DELETE FROM plays")
        fill(plays.database)
        for step in range(3):
            if step == 2:
                plays.database.execute("UPDATE plays SET amount = amount + 1, score = -score, user_id = user_id + 1, "
                                       f"note = CONCAT(note, 'y') WHERE day = '{DAY}' LIMIT 20")  # fmt: skip
            out = plays.run(DAY, "--dry-run", "--json").stdout
            ok(plays, DAY)
            changes = plays.database.rows("SELECT old_value, new_value FROM bi_metric_changes")
            parsed = [tuple(map(json.loads, row)) for row in changes]
            found.append([(each["kind"], _detail(each), parsed) for each in json.loads(out)])
        return found

    quick = outcomes()
    monkeypatch.setattr("src.running.select_rows._is_exact", lambda value: False)
    assert quick == outcomes()
    assert [each[0][0] for each in quick][:2] == ["new", "unchanged"]


def _detail(change: dict[str, Any]) -> Any:
    """Return the detail; that of a new row as a value, as the order of keys is the server's, unless it is cut."""
    detail = change["detail"]
    if change["kind"] == "new":
        return "cut" if detail.endswith("...") else json.loads(detail)
    return detail


def test_a_row_that_the_table_refuses_is_an_error_of_its_file(plays: Project) -> None:
    plays.database.execute("ALTER TABLE bi_metrics ADD CONSTRAINT no_b CHECK (metrics <> 'b')")
    for name in "abc":
        plays.write(f"{name}.sql", select(FORMS[0]))
    result = plays.run(DAY)
    assert result.returncode == 1
    assert "sql/b.sql:3: statement 1 of 1: (" in result.stderr
    assert "no_b" in result.stderr
    assert stored(plays) == []
