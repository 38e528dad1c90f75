"""A BI schema beside the game's, and an account that may do what the commands need and nothing else."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pymysql
import pytest

from demo import game
from demo.server import Server
from src.metric_file.text import OUR_TABLES
from tests.conftest import ROOT, Database, Project, connect, metric_sql, run_script, shipped_sql
from tests.proxy import Cut, Proxy
from tests.workload import wait_until

pytestmark = pytest.mark.slow

OPERATIONS, DASHBOARDS = ((ROOT / "docs" / name).read_text() for name in ("operations.md", "dashboards.md"))
GRANTS = re.search(r"<!-- grants -->\n```sql\n(.*?)```", OPERATIONS, re.DOTALL)
FOR_DASHBOARDS = re.search(r"```sql\n(CREATE USER 'dashboards'.*?)```", DASHBOARDS, re.DOTALL)
PASSWORD = "se'cret %s"
TODAY = date.today()
ACCOUNTS = {"game": "bi_metrics", "bi": "bi_beside"}  # schema of the metric tables -> account
FIRST = TODAY - timedelta(days=6)
HELD = metric_sql("held", "1")
TEMPORARY = """\
-- Metric: with_temporary_table
-- Description: Plays by way of a temporary table
-- Data Type: card
DROP TEMPORARY TABLE IF EXISTS found;
CREATE TEMPORARY TABLE found AS SELECT id FROM game.game_plays WHERE played_at >= %(metric_date)s
  AND played_at < %(metric_date)s + INTERVAL 1 DAY;
INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
SELECT 'with_temporary_table', 'card', JSON_ARRAY('n'), d.v, %(metric_date)s
FROM (SELECT JSON_OBJECT('n', COUNT(*)) AS v FROM found) d ON DUPLICATE KEY UPDATE value_list = d.v;
DROP TEMPORARY TABLE found;
"""


def grants(schema: str) -> list[str]:
    """Return the GRANT statements of the docs, for metric tables in `schema` instead of the game's own."""
    assert GRANTS, "docs/operations.md has no block of SQL after the line <!-- grants -->"
    lines = [re.sub(" *--.*", "", line).rstrip(";") for line in GRANTS[1].splitlines()]
    return [re.sub(r"game\.(?=bi_)|(?<=TEMPORARY TABLES ON )game\.", f"{schema}.", line) for line in lines]


@pytest.fixture(scope="module")
def schemas(server: Server) -> Iterator[Any]:
    """A connection of root to a server with the game's schema and a BI schema beside it.

    Both have the metric tables, and an account that may use them: bi_metrics has the grants of the docs word for word.
    """
    connection = connect(server)
    run_script(connection, "CREATE DATABASE game CHARACTER SET utf8mb4; CREATE DATABASE bi CHARACTER SET utf8mb4")
    connection.select_db("game")
    game.load(connection, TODAY, game.TINY)
    with connection.cursor() as cursor:
        for schema, account in ACCOUNTS.items():
            connection.select_db(schema)
            run_script(connection, (ROOT / "sql" / "schema.sql").read_text())
            cursor.execute(f"CREATE USER '{account}'@'%%' IDENTIFIED BY %s", [PASSWORD])
            for grant in grants(schema):
                cursor.execute(grant.replace("'bi_metrics'@", f"'{account}'@"))
    yield connection
    run_script(connection, "DROP DATABASE game; DROP DATABASE bi; DROP USER 'bi_metrics'@'%', 'bi_beside'@'%'")
    connection.close()


def _use(project: Project, server: Server, connection: Any, schema: str) -> Project:
    """Point the project at one of the schemas, empty, with its account and the shipped metrics of days."""
    connection.select_db(schema)
    run_script(connection, "".join(f"DELETE FROM {table};" for table in OUR_TABLES))
    project.database = Database(server, schema, connection)
    project.env = {
        "DB_USER": ACCOUNTS[schema], "DB_PASSWORD": PASSWORD, "METRICS_HISTORY_START": str(FIRST),
        "METRIC_PARAM_CUTOFF_DATE": str(FIRST - timedelta(days=30)),
    }  # fmt: skip
    tables = rf"\b(FROM|JOIN) ({'|'.join(game.TABLES)})\b"
    for path in shipped_sql():
        text = (ROOT / "sql" / path).read_text()
        if "-- Period:" in text or path.startswith("tests/"):
            continue  # how many rows there are would depend on today's weekday
        project.write(path, text if schema == "game" else re.sub(tables, r"\1 game.\2", text))
    project.write("90_with_temporary_table.sql", TEMPORARY)
    return project


@pytest.fixture
def bi(project: Project, server: Server, schemas: Any) -> Project:
    """The shipped metrics with schema.table names, in the BI schema beside the game's."""
    return _use(project, server, schemas, "bi")


def _ok(result: Any, code: int = 0) -> str:
    assert (result.returncode, result.stderr) == (code, "")
    return str(result.stdout)


def test_the_account_may_do_nothing_else(schemas: Any, server: Server) -> None:
    with connect(server, "bi", "bi_beside", password=PASSWORD) as own, own.cursor() as cursor:
        cursor.execute("SHOW GRANTS")
        granted = {re.sub(r"[`'\"]| IDENTIFIED BY .*", "", row[0]) for row in cursor.fetchall()}
        wanted = {line.replace("'bi_metrics'@'%'", "bi_beside@%") for line in grants("bi")}
        assert granted == {"GRANT USAGE ON *.* TO bi_beside@%", *wanted}
        for forbidden in (
            "DELETE FROM bi_metrics", "DROP TABLE bi_metric_state", "CREATE TABLE x (n INT)", "DELETE FROM game.users",
            "UPDATE game.users SET name = ''", "INSERT INTO game.games VALUES (1, '', '')", "SELECT * FROM mysql.user",
        ):  # fmt: skip
            with pytest.raises(pymysql.err.OperationalError, match=r"command denied to user 'bi_beside'"):
                cursor.execute(forbidden)


def test_the_account_for_dashboards_reads_the_views_and_their_definitions_and_nothing_else(
    schemas: Any, server: Server
) -> None:
    assert FOR_DASHBOARDS, "docs/dashboards.md has no block of SQL with the account for dashboards"
    run_script(schemas, FOR_DASHBOARDS[1])
    try:
        with connect(server, "game", "dashboards", password="choose-another-one") as own, own.cursor() as cursor:
            for view in ("bi_metric_cards", "bi_metric_items"):
                cursor.execute(f"SELECT * FROM {view} WHERE metrics = 'm' AND is_final")
                cursor.execute(f"SHOW CREATE VIEW {view}")  # SQLAlchemy asks for it
                assert "SQL SECURITY INVOKER" in cursor.fetchall()[0][1]
            cursor.execute("SELECT * FROM bi_metric_catalog")
            cursor.execute("SHOW CREATE VIEW bi_metric_catalog")
            for forbidden in ("SELECT * FROM users", "DELETE FROM bi_metric_state", "SELECT * FROM bi_metric_changes"):
                with pytest.raises(pymysql.err.OperationalError, match="command denied to user 'dashboards'"):
                    cursor.execute(forbidden)
    finally:
        run_script(schemas, "DROP USER 'dashboards'@'%'")


def test_every_command_runs_with_that_account_and_a_bi_schema_has_the_rows_of_the_game_s_own(
    project: Project, server: Server, schemas: Any
) -> None:
    rows = {schema: _rows_of_every_command(_use(project, server, schemas, schema)) for schema in ACCOUNTS}
    assert rows["bi"] == rows["game"]


def _rows_of_every_command(project: Project) -> list[tuple[str, str, str]]:
    """Run every command on the project and return what stands in bi_metrics at the end."""
    assert "0 errors" in _ok(project.list("--check"))
    assert f"Initial load of {FIRST} to {TODAY}: 7 dates, 9 " in _ok(project.run("--initial"))
    loaded = project.database.metrics()
    assert len(loaded) == 7 * 9
    assert "0 changed" in _ok(project.run("--initial", "--dry-run"))
    assert "0 changed" in _ok(project.run(str(FIRST + timedelta(days=1)), str(TODAY), "--dry-run"))
    project.database.execute(f"DELETE FROM bi_metrics WHERE metric_date > '{FIRST}'")
    early = project.run(str(FIRST), str(TODAY - timedelta(days=3)))
    assert (early.returncode, early.stderr.count("Warning: missing: ")) == (0, 1), early.stderr
    _ok(project.run())  # the night mends
    assert [row[:2] for row in project.database.metrics()] == [row[:2] for row in loaded]
    assert list(map(_parsed, project.database.metrics())) == list(map(_parsed, loaded))
    _ok(project.list("--status", "--max-age", "1"))
    assert f"{TODAY}  {TODAY - timedelta(days=1)}  6 " in _ok(project.list("--status"))
    return project.database.metrics()


def _parsed(row: tuple[str, str, str]) -> Any:
    return json.loads(row[2], parse_float=Decimal)


def test_a_file_that_needs_more_rights_fails_and_the_failure_is_noted(bi: Project) -> None:
    bi.write("05_delete.sql", metric_sql("delete") + "DELETE FROM game.users WHERE id < 0;\n")
    refused = bi.run(str(FIRST))
    assert refused.returncode == 1
    assert re.search(
        rf"^Error: {FIRST}: sql/05_delete\.sql:\d+: statement 2 of 2: \(1142\) DELETE command denied to user "
        "'bi_beside'.*; the account lacks a right: see the GRANT statements in ", refused.stderr, re.MULTILINE,
    )  # fmt: skip
    assert bi.database.metrics() == []
    failed = bi.database.rows("SELECT metric, metric_date, state, error FROM bi_metric_state")
    assert [row[:3] for row in failed] == [("delete", FIRST, "missing")]
    assert "DELETE command denied" in failed[0][3]


def test_a_schema_that_the_account_cannot_see_is_refused(bi: Project) -> None:
    refused = bi.run(env={"DB_NAME": "mysql"})
    assert refused.returncode == 2
    assert "Access denied for user 'bi_beside'" in refused.stderr


@dataclass
class Held:
    """A run of the file held.sql that waits for a row which the test holds."""

    bi: Project
    holder: Any

    def at_work(self) -> list[int]:
        """Return the sessions of the account that are at work on the file."""
        rows = self.bi.database.rows("SHOW FULL PROCESSLIST")
        mine = [row for row in rows if row[1] == "bi_beside" and row[4] != "Killed"]
        return [row[0] for row in mine if "sql/held.sql" in str(row[7])]

    def start(self, *words: str, env: dict[str, str] | None = None) -> tuple[Any, int]:
        """Start a run; return it and its session when it waits."""
        before = self.at_work()
        words = (str(FIRST), "--metric", "held", *words)
        process = self.bi.start("run_metrics.py", *words, env=env)
        wait_until(lambda: set(self.at_work()) - set(before) or process.poll() is not None)
        [session] = set(self.at_work()) - set(before)
        return process, session


@pytest.fixture
def held(bi: Project) -> Iterator[Held]:
    bi.write("held.sql", HELD)
    with connect(bi.database.server, "bi") as holder:
        holder.begin()
        holder.cursor().execute(
            "INSERT INTO bi_metrics (metrics, f_list, value_list, metric_date) VALUES ('held', '[]', '{}', %s)", [FIRST]
        )
        yield Held(bi, holder)


def test_a_second_run_is_told_who_holds_the_lock_and_at_which_file(held: Held) -> None:
    first, session = held.start()
    second = held.bi.run(str(FIRST), "--metric", "held")
    assert (second.returncode, second.stdout) == (3, "")
    assert (
        f"Error: another run is in progress on database bi: connection {session} from localhost, "
        f"running sql/held.sql {FIRST}. Wait for it with --wait SECONDS"
    ) in second.stderr
    held.holder.rollback()
    assert first.wait(30) == 0


def test_a_run_that_lost_its_line_kills_its_own_session_and_runs_the_date_again(held: Held, tmp_path: Path) -> None:
    cut = Cut(b"sql/held.sql", "within")  # the server is not told, and works on
    with Proxy(tmp_path / "proxy", held.bi.database.server.socket, cut) as proxy:
        process, session = held.start(env={"DB_SOCKET": str(proxy.path)})
        wait_until(lambda: held.at_work() not in ([], [session]) or process.poll() is not None)
        assert session not in held.at_work()
        held.holder.rollback()
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert f"trying {FIRST} again in " in err
    assert f"killed our lost session {session}, which was still running" in held.bi.log()
    assert f"{FIRST}  1 metric: 1 new" in out


def test_ctrl_c_leaves_no_session_at_work(held: Held) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        process, _ = held.start()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 128 + number
        assert "Nothing was committed." in err
        wait_until(lambda: not held.at_work(), 5)


def test_the_statement_limit_ends_a_file_with_that_account_too(held: Held) -> None:
    process, _ = held.start(env={"METRIC_TIMEOUT_SECONDS": "1.5"})
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "stopped after 1.5 s (METRIC_TIMEOUT_SECONDS)" in err
    wait_until(lambda: not held.at_work(), 5)
