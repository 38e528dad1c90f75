"""A private server for the session, a database for each test, and a project folder that commands run in."""

from __future__ import annotations

import io
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pymysql
import pytest
from pymysql.constants import CLIENT

import list_metrics
import run_metrics
from demo.server import Install, Server
from src.cli import SIGNALS
from src.errors import UsageError
from tests.engines import INSTALLS, install
from tests.reaper import reaper

ROOT = Path(__file__).resolve().parent.parent
# Nothing in a test outlives the machine, so no write needs to reach the disk.
FAST = {
    "MariaDB": ("--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=256M", "--debug-no-sync"),
    "MySQL": ("--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=256M", "--innodb-doublewrite=0",
              "--innodb-flush-method=nosync"),
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
    """A running private server, shared by all tests of a process; one that hurts its server has an own_server()."""
    with own_server(install(engine), tmp_path_factory.mktemp("server")) as running:
        yield running


@contextmanager
def own_server(chosen: Install, folder: Path, *options: str, tcp: bool = False) -> Iterator[Server]:
    """Run a server in the folder while the block lasts."""
    running = Server(folder, chosen, (*FAST[chosen.name], *options), tcp=tcp)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    chosen = install(terminalreporter.config.getoption("--engine"))
    passed = len(terminalreporter.stats.get("passed", []))
    terminalreporter.write_line(f"engine: {chosen.name} {chosen.version}: {passed} passed")


def connect(
    server: Server, database: str | None = None, user: str = "root", *, ssl_disabled: bool = True, **more: Any
) -> Any:
    """Open a plain connection that commits at once: the second pair of eyes.

    It reads no certificates, which would take four times as long as to connect.
    """
    return pymysql.connect(
        unix_socket=server.socket, user=user, database=database, autocommit=True, charset="utf8mb4",
        client_flag=CLIENT.MULTI_STATEMENTS, ssl_disabled=ssl_disabled, **more,
    )  # fmt: skip


def shipped_sql() -> list[str]:
    """Return the paths below sql/ of the files that git tracks, so that a metric of one's own there fails no test.

    Without git, as in an unpacked archive, all files are returned.
    """
    if (ROOT / ".git").exists() and shutil.which("git"):
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT / "sql", capture_output=True, text=True, check=False)
        if done.stdout:
            return done.stdout.strip("\0").split("\0")
    return sorted(str(path.relative_to(ROOT / "sql")) for path in (ROOT / "sql").rglob("*.sql"))


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
    with new_database(server, f"test_{next(_numbers)}") as made:
        yield made


@pytest.fixture
def blind_to_case(engine: str, tmp_path: Path) -> Iterator[Database]:
    """A database of a server that takes `Revenue` and `revenue` for the same name of a table."""
    chosen = install(engine)
    # A part of the command: MySQL wants it also when the data directory is made.
    chosen = replace(chosen, command=(*chosen.command, "--lower-case-table-names=1"))
    with own_server(chosen, tmp_path / "blind") as server, new_database(server, "game") as made:
        yield made


@contextmanager
def new_database(server: Server, name: str) -> Iterator[Database]:
    """Make a database with the schema, and drop it when the block ends."""
    with connect(server) as connection:
        run_script(connection, f"CREATE DATABASE {name} CHARACTER SET utf8mb4; USE {name};")
        run_script(connection, (ROOT / "sql" / "schema.sql").read_text())
        yield Database(server, name, connection)
        run_script(connection, f"DROP DATABASE IF EXISTS {name}")


Main = Callable[[Sequence[str], Path], int]
Result = subprocess.CompletedProcess[str]
LOG = logging.getLogger("bi_metrics")


@contextmanager
def as_in_a_process(environment: Mapping[str, str]) -> Iterator[None]:
    """Lend a command what it would have to itself as a process: it may change it, and all is as before afterwards."""
    on_signal = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGPIPE)}
    folder, logged, level, propagate = Path.cwd(), LOG.handlers[:], LOG.level, LOG.propagate
    try:
        with patch.dict(os.environ, environment, clear=True):
            time.tzset()
            os.chdir("/")  # as under cron: no command may need its own folder
            yield
    finally:
        time.tzset()
        os.chdir(folder)
        if (wakeup := signal.set_wakeup_fd(-1)) != -1:
            os.close(wakeup)  # ends the thread of Interruption.listen()
        for number, disposition in on_signal.items():
            signal.signal(number, disposition)
        for handler in LOG.handlers:
            handler.close()
        LOG.handlers[:], LOG.propagate = logged, propagate
        LOG.setLevel(level)


@dataclass
class Project:
    """A folder with settings, log and sql/, which the test fills; the commands run on it."""

    folder: Path
    database: Database
    env: dict[str, str] = field(default_factory=dict)

    def write(self, path: str, text: str) -> Path:
        """Write a file below sql/."""
        file = self.folder / "sql" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
        return file

    def write_shipped(self, of_days_alone: bool = False) -> None:
        """Write the metric files that ship; `of_days_alone` leaves out those of weeks and months."""
        for path in shipped_sql():
            text = (ROOT / "sql" / path).read_text()
            if not (of_days_alone and "-- Period:" in text):
                self.write(path, text)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return a clean environment: of the caller's, only what a program needs to start."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TZ") if name in os.environ}
        return {**kept, "PYTHONUTF8": "1", **self.database.env, **self.env, **(more or {})}

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> Result:
        """Call main() of run_metrics.py. The tests whose subject is the process use start() or run_process()."""
        return self._call(run_metrics.main, words, env)

    def list(self, *words: str, env: Mapping[str, str] | None = None) -> Result:
        """Call main() of list_metrics.py."""
        return self._call(list_metrics.main, words, env)

    def run_process(self, *words: str, env: Mapping[str, str] | None = None) -> Result:
        """Run run_metrics.py in a process of its own, to its end."""
        process = self.start("run_metrics.py", *words, env=env)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(
        self, script: str, *words: str, env: Mapping[str, str] | None = None,
        signals: signal.Handlers = signal.SIG_DFL, **more: Any,
    ) -> Any:  # fmt: skip
        """Start a command in the background, from another folder, as cron does.

        The signals are as `signals` says, whatever a nohup or an & in front of the tests has made of them.
        """

        def dispose() -> None:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signals)

        self.install()
        return subprocess.Popen(
            [sys.executable, str(self.folder / script), *words], env=self.environment(env), cwd="/", text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=dispose, **more,
        )  # fmt: skip

    def install(self) -> None:
        """Copy the commands into the folder, once; only a process needs them there."""
        for name in ("src", "config"):
            if not (self.folder / name).exists():
                shutil.copytree(ROOT / name, self.folder / name)
        for name in ("run_metrics.py", "list_metrics.py"):
            if not (self.folder / name).exists():
                shutil.copy2(ROOT / name, self.folder / name)

    def log(self) -> str:
        return (self.folder / "logs" / "metrics.log").read_text()

    def _call(self, main: Main, words: Sequence[str], env: Mapping[str, str] | None) -> Result:
        out, err = io.StringIO(), io.StringIO()
        with as_in_a_process(self.environment(env)), redirect_stdout(out), redirect_stderr(err):
            try:
                code = main(words, self.folder)
            except SystemExit as exit:  # --help, --version
                code = int(exit.code or 0)
        if code == 128 + signal.SIGINT:
            raise KeyboardInterrupt  # Ctrl-C is meant for pytest; the tests of signals use start()
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


@pytest.fixture
def project(database: Database, tmp_path: Path) -> Project:
    """A project with an empty sql folder; its commands use the test's database."""
    folder = tmp_path / "project"
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
ON DUPLICATE KEY UPDATE value_list = d.v, f_list = VALUES(f_list);
"""


def refusal(parse: Callable[[list[str]], object], words: list[str]) -> str:
    """Return what a command line that makes no sense is told: one line."""
    with pytest.raises(UsageError) as raised:
        parse(words)
    assert "\n" not in str(raised.value)
    return str(raised.value)
