"""The session of a run: its variables whatever the server's defaults are, and what the server says in its own words."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest

from config.database import load_settings
from src.db_manager import DatabaseManager
from src.errors import DatabaseError, LockedError
from src.server.codes import TRANSIENT
from tests.conftest import Project, connect, own_server, run_script
from tests.engines import install
from tests.proxy import FakeServer, Proxy, packet
from tests.test_run_metrics import connected, server_default

# variable, a default of the server that changes what metrics compute, the value that every run has
VARIABLES: list[tuple[str, str | int, str | int]] = [
    ("sql_big_selects", 0, 1),
    ("default_week_format", 3, 0),
    ("div_precision_increment", 0, 4),
    ("lc_time_names", "de_DE", "en_US"),
    ("max_error_count", 0, 65535),
]


def test_no_default_of_the_server_changes_what_a_file_computes(project: Project) -> None:
    with ExitStack() as defaults:
        for variable, odd, _ in VARIABLES:
            defaults.enter_context(server_default(project.database, variable, odd))
        with connected(project) as manager:
            (found,) = manager.query("SELECT " + ", ".join(f"@@SESSION.{name}" for name, _, _ in VARIABLES))
            assert found == tuple(value for _, _, value in VARIABLES)
            (computed,) = manager.query("SELECT WEEK('2025-01-05'), CAST(1 / 3 AS CHAR), DAYNAME('2025-01-05')")
            assert computed == (1, "0.3333", "Sunday")


def test_an_account_without_rights_over_variables_connects(project: Project) -> None:
    database = project.database
    account = f"{database.name}_plain"
    database.execute(f"CREATE USER {account}; GRANT SELECT ON {database.name}.* TO {account}")
    with connected(project, DB_USER=account) as manager:
        assert manager.query("SELECT @@SESSION.div_precision_increment") == ((4,),)
    database.execute(f"DROP USER {account}")


def test_a_mariadb_under_another_version_is_known_all_the_same(project: Project, tmp_path: Path, engine: str) -> None:
    if engine == "mysql":
        pytest.skip("only MariaDB can report another version")
    with own_server(install(engine), tmp_path / "server", "--version=8.0.36") as server:
        with connect(server) as connection:
            run_script(connection, f"CREATE DATABASE {project.database.name} CHARACTER SET utf8mb4")
        with connected(project, DB_SOCKET=server.socket) as manager:
            assert manager.query("SELECT VERSION()") == (("8.0.36",),)
            assert manager.is_mariadb


@pytest.mark.parametrize(
    ("asked_instead", "says"),
    [
        ("SHOW FULL PROCESSLIST", " from localhost. Wait for it"),
        ("SELECT * FROM nowhere", ". Wait for it"),
        ("SELECT 1 AS unrelated", ". Wait for it"),
        ("SELECT {session} Id", " from this host. Wait for it"),
    ],
)
def test_a_lock_is_reported_also_when_the_process_list_cannot_be_read(
    project: Project, tmp_path: Path, asked_instead: str, says: str
) -> None:
    def rewrite(data: bytes) -> bytes:
        instead = asked_instead.format(session=first.connection_id).ljust(len("SHOW FULL PROCESSLIST"))
        return data.replace(b"SHOW FULL PROCESSLIST", instead.encode())

    proxy = tmp_path / "proxy"
    with connected(project) as first, Proxy(proxy, project.database.server.socket, rewrite=rewrite):
        first.run_lock.take()
        message = f"another run is in progress on database .*: connection {first.connection_id}{says}"
        with connected(project, DB_SOCKET=str(proxy)) as second, pytest.raises(LockedError, match=message):
            second.run_lock.take()


@pytest.mark.parametrize(
    ("statement", "query", "columns", "row"),
    [
        ("SET @a = 1, @b = @a", "SELECT @a AS a, @b AS b", ["a", "b"], (1, None)),
        ("SET @a := 1, @b := @a + 1", "SELECT @a AS a, @b AS b", ["a", "b"], (1, None)),
        ("SET @d = '2025-01-02'", "SELECT @d BETWEEN '2025-01-01' AND '2025-01-01' + INTERVAL 1 DAY AS n", ["n"], (1,)),
        ("DO 1", "SELECT COUNT(*), 1 + 1", ["COUNT(*)", "1 + 1"], (1, 2)),
        ("DO 1", "SELECT 5\n--1 AS n", ["n"], (6,)),
    ],
)
def test_what_the_rules_warn_of_is_what_the_server_does(
    project: Project, statement: str, query: str, columns: list[str], row: tuple[Any, ...]
) -> None:
    with connected(project) as manager:
        manager.execute(statement)
        with manager.select(query) as (names, rows):
            assert (names, list(rows)) == (columns, [row])


def test_a_statement_that_returns_no_table_has_no_columns_and_no_rows(project: Project) -> None:
    with connected(project) as manager, manager.select("DO 1") as (columns, rows):
        assert (columns, list(rows)) == ([], [])


SECONDS = "TIMESTAMPDIFF(SECOND, '1970-01-01', {})"
FLOATS = "CREATE TABLE prices (price FLOAT); INSERT INTO prices VALUES (19.99), (0.10), (0.20), (1662.99)"


@pytest.mark.parametrize(
    ("expression", "mariadb", "mysql"),
    [
        ("MAX(ROUND(100 * 12 / 107, 2))", "11.21", "11.22"),
        ("MAX(ROUND(100.000000 * 12 / 107, 2))", "11.21", "11.21"),
        ("SUM(price)", "1683.2799900099635", "1683.2799900099635"),
        ("SUM(CAST(price AS DECIMAL(20,2)))", "1683.28", "1683.28"),
        ("MAX('9' > '10')", "1", "1"),
        ("MAX(CAST('9' AS SIGNED) > CAST('10' AS SIGNED))", "0", "0"),
    ],
)
def test_what_the_docs_say_of_numbers_is_true(
    project: Project, engine: str, expression: str, mariadb: str, mysql: str
) -> None:
    project.database.execute(FLOATS)
    with connected(project) as manager:
        ((value,),) = manager.query(f"SELECT {expression} FROM prices")
        assert str(value) == (mysql if engine == "mysql" else mariadb)
        with pytest.raises(DatabaseError, match=r"\(1064\)"):
            manager.query("SELECT price FROM prices LIMIT '2'")


@pytest.mark.parametrize(
    ("zone", "column", "first", "last", "found"),
    [
        ("+00:00", "happened", "%(day_start_utc)s", "%(day_end_utc)s", [1, 1]),
        ("+05:00", "at", SECONDS.format("%(day_start_utc)s"), SECONDS.format("%(day_end_utc)s"), [1, 1]),
        ("+01:00", "happened", "%(metric_date)s", "%(metric_date)s + INTERVAL 1 DAY", [1, 0]),  # no recipe
    ],
)
def test_the_recipes_for_times_count_half_past_midnight_of_berlin_in_winter_and_in_summer(
    project: Project, zone: str, column: str, first: str, last: str, found: list[int]
) -> None:
    moments = ("2025-01-14 23:30", "2025-06-30 22:30")
    rows = ", ".join(f"('{text}', {SECONDS.format(repr(text))})" for text in moments)
    project.database.execute(
        "SET time_zone = '+00:00'; CREATE TABLE events (happened TIMESTAMP NULL, at BIGINT NOT NULL);"
        f"INSERT INTO events VALUES {rows}"
    )
    where = f"WHERE {column} >= {first} AND {column} < {last}"
    project.write("events.sql", f"-- Description: d\nSELECT COUNT(*) AS n FROM events {where}")
    for day in ("2025-01-15", "2025-07-01"):
        assert project.run(day, env={"METRICS_TIMEZONE": "Europe/Berlin", "DB_TIME_ZONE": zone}).returncode == 0
    assert [value for _, _, value in project.database.metrics()] == [f'{{"n": {n}}}' for n in found]


# --- what may pass ----------------------------------------------------------------------------------------------------

RESOURCE = "User 'bi' has exceeded the '{}' resource (current value: 1)"


@pytest.mark.parametrize(
    ("code", "text", "passes"),
    [
        (1226, RESOURCE.format("max_user_connections"), True),
        (1226, RESOURCE.format("max_connections_per_hour"), False),
        (1226, RESOURCE.format("max_queries_per_hour"), False),
        (1203, "User bi already has more than 'max_user_connections' active connections", True),
        (1040, "Too many connections", True),
        (1158, "Got an error reading communication packets", True),
        (1159, "Got timeout reading communication packets", True),
        (1160, "Got an error writing communication packets", True),
        (1161, "Got timeout writing communication packets", True),
        (3032, "The server is currently in offline mode", True),
        (3101, "Plugin instructed the server to rollback the current transaction.", True),
        (3168, "Server isn't available", True),
        (9001, "Max connect timeout reached while reaching hostgroup 0 after 10000ms", True),
        (1045, "Access denied for user 'max_user_connections'@'localhost'", False),
        (1044, "Access denied", False),
    ],
)
def test_an_error_that_passes_is_known_by_its_code(tmp_path: Path, code: int, text: str, passes: bool) -> None:
    def refuse(end: socket.socket) -> None:
        end.sendall(packet(b"\xff" + code.to_bytes(2, "little") + text.encode(), 0))

    with FakeServer(refuse) as server:
        env = {"DB_HOST": "127.0.0.1", "DB_PORT": str(server.port), "DB_USER": "bi", "DB_NAME": "x"}
        manager = DatabaseManager(load_settings(tmp_path, {**env, "DB_SSL_MODE": "disabled"}))
        with pytest.raises(DatabaseError) as caught:
            manager.connect()
    assert (caught.value.code in TRANSIENT) == passes
    assert f"({code}) {text}" in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "says", "passes"),
    [
        ("MAX_USER_CONNECTIONS", r"\(1226\) .*max_user_connections", True),
        ("MAX_CONNECTIONS_PER_HOUR", r"\(1226\) .*max_connections_per_hour", False),
    ],
)
def test_a_limit_of_the_accounts_connections_passes_and_one_per_hour_does_not(
    project: Project, limit: str, says: str, passes: bool
) -> None:
    database = project.database
    account = f"{database.name}_limited"
    database.execute(f"CREATE USER {account} WITH {limit} 1; GRANT SELECT ON {database.name}.* TO {account}")
    with connected(project, DB_USER=account), pytest.raises(DatabaseError, match=says) as caught:
        DatabaseManager(load_settings(project.folder, project.environment({"DB_USER": account}))).connect()
    database.execute(f"DROP USER {account}")
    assert (caught.value.code in TRANSIENT) == passes


# --- what cures it ----------------------------------------------------------------------------------------------------

COLLATIONS = """
CREATE TABLE a (name VARCHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_swedish_ci);
CREATE TABLE b (name VARCHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci);
CREATE TABLE c (name VARCHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci);
"""
WITH_COLLATE = "such as a.name = b.name COLLATE utf8mb4_unicode_ci"
PRIMARY_KEY = "CREATE TEMPORARY TABLE t (PRIMARY KEY (id)) SELECT"


@pytest.mark.parametrize(
    ("prepare", "statement", "code", "cure"),
    [
        ("SET SESSION TRANSACTION READ ONLY", "INSERT INTO a VALUES ('x')", 1792, "name the primary in DB_HOST"),
        ("DO 1", "CREATE TEMPORARY TABLE t (n INT)", 1173, PRIMARY_KEY),
        ("DO 1", "CREATE TEMPORARY TABLE t SELECT 1 AS n", 1173, PRIMARY_KEY),
        ("DO 1", "SELECT 1 FROM a JOIN b ON a.name = b.name", 1267, WITH_COLLATE),
        ("DO 1", "SELECT 1 FROM a, b, c WHERE a.name BETWEEN b.name AND c.name", 1270, WITH_COLLATE),
        ("DO 1", "SELECT 1 FROM a, b, c WHERE a.name IN (b.name, c.name, a.name)", 1271, WITH_COLLATE),
        ("SET SESSION sql_require_primary_key = 1", "CREATE TEMPORARY TABLE t (n INT)", 3750, PRIMARY_KEY),
    ],
)  # fmt: skip
def test_an_error_that_a_person_can_cure_says_how(
    project: Project, engine: str, prepare: str, statement: str, code: int, cure: str
) -> None:
    if (code == 3750 and engine != "mysql") or (code == 1173 and engine == "mysql"):
        pytest.skip("an error of the other engine")
    project.database.execute(COLLATIONS)
    forced = server_default(project.database, "innodb_force_primary_key", 1) if code == 1173 else nullcontext()
    with forced, connected(project) as manager:
        manager.execute(prepare)
        with pytest.raises(DatabaseError, match=rf"^\({code}\) .*; .*{re.escape(cure)}"):
            manager.execute(statement)
