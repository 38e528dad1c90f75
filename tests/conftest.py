"""A private server for the session, a database for each test, and a project folder that commands run in."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT

from demo.server import Server
from src.errors import UsageError
from tests.engines import INSTALLS, install
from tests.reaper import reaper

ROOT = Path(__file__).resolve().parent.parent
# Nothing in a test outlives the machine, so no write needs to reach the disk.
FAST = {
    "MariaDB": ("--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=256M"),
    "MySQL": ("--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=256M", "--innodb-doublewrite=0"),
}
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", choices=INSTALLS, default="mariadb", help="the server that the tests run on")


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> str:
    """The name of the engine under test: mariadb, mysql or mariadb-11.8."""
    return str(request.config.getoption("--engine"))


@pytest.fixture(scope="module")
def once(engine: str) -> None:
    """Let a module run on one engine only: what it tests knows no server."""
    if engine != "mariadb":
        pytest.skip("does not depend on the engine: it runs with --engine mariadb")


@pytest.fixture(scope="session", autouse=True)
def _no_server_outlives_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with reaper(tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(scope="session")
def server(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running private server, shared by all tests; tests that hurt their server start one of their own."""
    chosen = install(engine)
    running = Server(tmp_path_factory.mktemp("server"), chosen, FAST[chosen.name])
    running.start()
    yield running
    running.stop()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    chosen = install(terminalreporter.config.getoption("--engine"))
    passed = len(terminalreporter.stats.get("passed", []))
    terminalreporter.write_line(f"engine: {chosen.name} {chosen.version}: {passed} passed")


def connect(server: Server, database: str | None = None, user: str = "root", **more: Any) -> Any:
    """Open a plain connection that commits at once: the second pair of eyes."""
    return pymysql.connect(
        unix_socket=server.socket, user=user, database=database, autocommit=True, charset="utf8mb4",
        client_flag=CLIENT.MULTI_STATEMENTS, **more,
    )  # fmt: skip


def run_script(connection: Any, script: str) -> None:
    """Run all statements of a script; raises for the first that fails."""
    with connection.cursor() as cursor:
        cursor.execute(script)
        while cursor.nextset():
            pass


@dataclass
class Database:
    """A database with the schema applied, looked at through a connection of its own."""

    server: Server
    name: str
    connection: Any

    @property
    def env(self) -> dict[str, str]:
        """The settings that point a command here."""
        return {"DB_SOCKET": self.server.socket, "DB_USER": "root", "DB_PASSWORD": "", "DB_NAME": self.name}

    def execute(self, sql: str) -> None:
        run_script(self.connection, sql)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def metrics(self) -> list[tuple[str, str, str]]:
        """Return metric, date and value_list of every row, in order of date and name."""
        query = "SELECT metrics, metric_date, value_list FROM bi_metrics ORDER BY metric_date, metrics"
        return [(str(row[0]), str(row[1]), str(row[2])) for row in self.rows(query)]


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """An own database for the test, gone afterwards."""
    name = f"test_{next(_numbers)}"
    connection = connect(server)
    run_script(connection, f"CREATE DATABASE {name} CHARACTER SET utf8mb4; USE {name};")
    run_script(connection, (ROOT / "sql" / "schema.sql").read_text())
    yield Database(server, name, connection)
    run_script(connection, f"DROP DATABASE IF EXISTS {name}")
    connection.close()


@dataclass
class Project:
    """A copy of the commands beside a sql folder that the test fills."""

    folder: Path
    database: Database
    env: dict[str, str] = field(default_factory=dict)

    def write(self, path: str, text: str) -> Path:
        """Write a file below sql/."""
        file = self.folder / "sql" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
        return file

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return a clean environment: of the caller's, only what a program needs to start."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TZ") if name in os.environ}
        return {**kept, "PYTHONUTF8": "1", **self.database.env, **self.env, **(more or {})}

    def start(self, script: str, *words: str, env: Mapping[str, str] | None = None, **more: Any) -> Any:
        """Start a command in the background, from another folder, as cron does."""
        return subprocess.Popen(
            [sys.executable, str(self.folder / script), *words], env=self.environment(env), cwd="/", text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
        )  # fmt: skip

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run run_metrics.py to its end."""
        return self._finish(self.start("run_metrics.py", *words, env=env))

    def list(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run list_metrics.py to its end."""
        return self._finish(self.start("list_metrics.py", *words, env=env))

    def log(self) -> str:
        return (self.folder / "logs" / "metrics.log").read_text()

    @staticmethod
    def _finish(process: Any) -> subprocess.CompletedProcess[str]:
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def project(database: Database, tmp_path: Path) -> Project:
    """A project with an empty sql folder; its commands use the test's database."""
    folder = tmp_path / "project"
    for name in ("src", "config"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("run_metrics.py", "list_metrics.py"):
        shutil.copy2(ROOT / name, folder / name)
    for name in ("initial", "incremental"):
        (folder / "sql" / name).mkdir(parents=True)
    shutil.copy2(ROOT / "sql" / "schema.sql", folder / "sql" / "schema.sql")
    return Project(folder, database)


def metric_sql(name: str, value: str = "1", header: str = "", *, where: str = "") -> str:
    """Return a metric file that writes one card row; `value` is a SQL expression, `where` a WHERE clause."""
    return f"""\
-- Metric: {name}
-- Description: Made for a test
-- Data Type: card
{header}
INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
SELECT '{name}', 'card', JSON_ARRAY('n'), d.v, %(metric_date)s FROM (SELECT JSON_OBJECT('n', {value}) AS v {where}) d
ON DUPLICATE KEY UPDATE value_list = d.v;
"""


def refusal(parse: Callable[[list[str]], object], words: list[str]) -> str:
    """Return what a command line that makes no sense is told: one line."""
    with pytest.raises(UsageError) as raised:
        parse(words)
    assert "\n" not in str(raised.value)
    return str(raised.value)
