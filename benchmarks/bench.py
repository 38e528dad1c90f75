"""What the benchmarks share: a private server with a made-up game, the sides that compute its metrics, and tables.

The sides are the plain client, a usual PyMySQL script, and this tool with and without readers. Everything lies below
.local/benchmark, and the game is made once. The ten metrics are the shipped ones of a day and benchmarks/metrics/;
where those are SELECT files, the other two sides run the INSERT that a careful team would write by hand, from
benchmarks/metrics/plain/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import pymysql
from pymysql.constants import CLIENT

from config.database import load_settings
from demo import game
from demo.server import Server, ServerError
from src.dates import date_range
from src.db_manager import DatabaseManager
from src.metric_file.file import Kind, Mode
from src.metric_file.parameters import Parameters
from src.metric_file.period import DAY
from src.metric_file.step import Step
from src.metric_file.text import literal
from src.sql_loader import load_catalog
from tests.engines import INSTALLS, install

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".local" / "benchmark"
METRICS = ROOT / "benchmarks" / "metrics"
PLAIN = METRICS / "plain"
LAST_DAY = date(2025, 12, 31)
CUTOFF = "2024-01-01"
TENTH = game.Size(users=20_000, games=200, days=1_095, plays=300_000)
CLIENT_SIDE, SCRIPT_SIDE, TOOL_SIDE = "plain client, one script", "usual PyMySQL script", "this tool"
ALONE_SIDE = "this tool, no readers"
CLIENT_PACKAGE = "mariadb-client-core"
APT_COMMAND = f"apt-get install -y --no-install-recommends {CLIENT_PACKAGE}"
# MySQL cuts GROUP_CONCAT at 1,024 bytes; the usual script does not set up its session.
SERVER_OPTIONS = ("--innodb-buffer-pool-size=1G", "--group-concat-max-len=67108864")
COPY = (
    "INSERT INTO {} (metrics, data_type, f_list, value_list, metric_date) "
    "SELECT metrics, data_type, f_list, value_list, metric_date FROM {}"
)

Row = tuple[str, Any, Any]  # data type, names of the fields, value
Rows = dict[tuple[str, date], Row]  # by metric and date


class BenchmarkError(Exception):
    """Something is missing, a side failed, or the sides left different rows: the numbers would mean nothing."""


@dataclass(frozen=True)
class Cost:
    """What one process took: seconds on the clock, of the server's CPU and of its own, and its peak memory in MB."""

    seconds: float
    server_cpu: float
    cpu: float
    memory: float


@dataclass(frozen=True)
class Command:
    """A side's process; `script` is the text that it reads from standard input, `readers` is METRICS_READERS."""

    words: Sequence[str]
    script: str = ""
    readers: int | None = None  # the default


class Recorder(DatabaseManager):
    """The tool's own connection, which notes how it sets up its session."""

    session = ""

    def execute(self, sql: str, args: Any = None) -> int:
        if sql.startswith("SET SESSION"):
            values = (literal(value) if isinstance(value, str) else str(value) for value in args or ())
            self.session += sql % tuple(values) + ";\n"
        return super().execute(sql, args)


class Bench:
    """A database with the game in it, the folders of both sides' metrics, and the command of each side."""

    def __init__(self, server: Server, database: str) -> None:
        self.server = server
        self.database = database
        self.connection = connect(server, database)
        self.client_program = plain_client()
        self.project = HOME / "project"  # of the tool: commands, metric files, .env
        self.plain = HOME / "plain"  # INSERT files of the other sides
        self.socket = server.socket  # latency.py puts its proxy in between
        self.session = ""  # the statements with which the tool prepares its session
        self.compared = 0  # times that the rows were found equal

    def prepare(self) -> None:
        """Make empty metric tables and both folders."""
        self.execute("DROP TABLE IF EXISTS bi_metrics, bi_metric_state, bi_metric_changes, bi_metric_headers;")
        self.execute((ROOT / "sql" / "schema.sql").read_text())
        self.make_project()
        recorder = Recorder(load_settings(self.project, self.env))
        recorder.connect()
        recorder.close()
        self.session = recorder.session

    @property
    def settings(self) -> dict[str, str]:
        """What the tool's .env holds; the usual script gets it in its environment."""
        return {
            "DB_SOCKET": self.socket,
            "DB_USER": "root",
            "DB_NAME": self.database,
            "METRIC_PARAM_CUTOFF_DATE": CUTOFF,
            "METRICS_MEND_DAYS": "1",  # else all dates since LAST_DAY would be due, and looked at with each date
        }

    @property
    def env(self) -> dict[str, str]:
        return {name: os.environ[name] for name in ("PATH", "HOME", "TZ") if name in os.environ} | self.settings

    def make_project(self) -> None:
        """Copy the commands with the ten metrics, and the INSERT files that do the same."""
        shutil.rmtree(self.project, ignore_errors=True)
        shutil.rmtree(self.plain, ignore_errors=True)
        for name in ("src", "config", "sql"):
            shutil.copytree(ROOT / name, self.project / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("run_metrics.py", "list_metrics.py"):
            shutil.copy2(ROOT / name, self.project)
        shutil.copytree(METRICS, self.project / "sql", ignore=shutil.ignore_patterns("plain"), dirs_exist_ok=True)
        for file in load_catalog(self.project / "sql").files:
            if file.period != DAY:  # the other sides know no weeks and months
                (self.project / file.path).unlink()
        (self.project / ".env").write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))
        shutil.copytree(PLAIN, self.plain)
        ours = load_catalog(self.project / "sql")
        for file in ours.files:
            if file.kind is Kind.INSERT:
                shutil.copy2(self.project / file.path, self.plain / file.path.removeprefix("sql/"))
        theirs = load_catalog(self.plain)
        for mode in Mode:
            names = {file.name for file in ours.in_mode(mode)} ^ {file.name for file in theirs.in_mode(mode)}
            if names:
                raise BenchmarkError(f"{PLAIN / mode.value} does not fit the SELECT files: {', '.join(sorted(names))}")

    # --- the three sides ----------------------------------------------------------------------------------------------

    def sides(self, start: date) -> dict[str, Command]:
        """Return the commands that compute every date from `start` to the last day, one transaction per date."""
        script = self.script(Mode.INCREMENTAL, [(day,) for day in date_range(start, LAST_DAY)])
        usual = [sys.executable, str(ROOT / "benchmarks" / "usual_script.py"), str(self.plain)]
        return {
            CLIENT_SIDE: self.client(script),
            SCRIPT_SIDE: Command([*usual, str(start), str(LAST_DAY)]),
            TOOL_SIDE: self.tool(str(start), str(LAST_DAY)),
            ALONE_SIDE: self.tool(str(start), str(LAST_DAY), readers=0),
        }

    def bulk_sides(self, start: date) -> dict[str, Command]:
        """Return the commands that compute all these dates with the initial files, in one transaction."""
        script = self.script(Mode.INITIAL, [tuple(date_range(start, LAST_DAY))])
        words = ("--initial", str(start), str(LAST_DAY))
        return {
            CLIENT_SIDE: self.client(script),
            TOOL_SIDE: self.tool(*words),
            ALONE_SIDE: self.tool(*words, readers=0),
        }

    def client(self, script: str, session: str | None = None) -> Command:
        """Return the plain client with the tool's session: else settings would be compared, and not programs."""
        words = [self.client_program, "--no-defaults", f"--socket={self.socket}", "--user=root"]
        words += ["--default-character-set=utf8mb4", self.database]
        return Command(words, (self.session if session is None else session) + script)

    def tool(self, *words: str, command: str = "run_metrics.py", readers: int | None = None) -> Command:
        return Command([sys.executable, str(self.project / command), *words], readers=readers)

    def script(self, mode: Mode, transactions: Sequence[tuple[date, ...]]) -> str:
        """Return the INSERT files as a script, without any of the tool's checks and bookkeeping."""
        lines = []
        for dates in transactions:
            lines += ["START TRANSACTION;", *self._statements(mode, dates), "COMMIT;"]
        return "\n".join(lines)

    def _statements(self, mode: Mode, dates: tuple[date, ...]) -> Iterator[str]:
        parameters = Parameters({"cutoff_date": CUTOFF}, None)
        for file in load_catalog(self.plain).in_mode(mode):
            for some in [dates] if file.is_set_based else [(day,) for day in dates]:
                yield from (f"{sql};" for sql in Step(file, some, parameters).statements)

    # --- running and looking ------------------------------------------------------------------------------------------

    def run(self, command: Command, exit_codes: Sequence[int] = (0,)) -> Cost:
        """Run a side's process to its end. Raises BenchmarkError where it fails."""
        with tempfile.TemporaryFile("w+") as script, tempfile.TemporaryFile("w+") as output:
            script.write(command.script)
            script.flush()
            script.seek(0)
            env = self.env if command.readers is None else self.env | {"METRICS_READERS": str(command.readers)}
            server_cpu, clock = self._server_cpu(), time.perf_counter()
            process = subprocess.Popen(command.words, stdin=script, stdout=output, stderr=output, env=env)
            with _peak_memory(process.pid) as memory:
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                seconds = time.perf_counter() - clock
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode not in exit_codes:
                output.seek(0)
                words = " ".join(command.words[:4])
                raise BenchmarkError(f"{words} ended with {process.returncode}: {output.read()[-2000:]}")
        server_cpu = self._server_cpu() - server_cpu
        return Cost(seconds, server_cpu, usage.ru_utime + usage.ru_stime, max(memory, default=0) / 1024)

    def _server_cpu(self) -> float:
        """Return the seconds of CPU that the server has used; other processes of the machine do not move it."""
        # The kernel's number for the CPU clock of another process, as clock_getcpuclockid(3) makes it.
        return time.clock_gettime((~(self.server.pid or 0) << 3) | 2)

    def execute(self, sql: str) -> None:
        """Run statements that are separated by semicolons."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            while cursor.nextset():
                pass

    def query(self, sql: str) -> Sequence[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return tuple(cursor.fetchall())

    def reset(self, start: date | None) -> None:
        """Empty the tables; with `start`, leave the rows of the day before it, on which incremental files build."""
        self.execute("TRUNCATE bi_metrics; TRUNCATE bi_metric_state; TRUNCATE bi_metric_changes;")
        if start is not None:
            self.execute(COPY.format("bi_metrics", "seed") + f" WHERE metric_date = '{start - timedelta(days=1)}'")
            self.execute("INSERT INTO bi_metric_state (metric, metric_date, state) "
                         "SELECT metrics, metric_date, 'final' FROM bi_metrics")  # fmt: skip

    def seed(self, starts: Sequence[date]) -> None:
        """Keep the rows of the day before each of `starts`, computed once."""
        self.execute("DROP TABLE IF EXISTS seed; CREATE TABLE seed LIKE bi_metrics;")
        for start in starts:
            self.reset(None)
            self.run(self.client(self.script(Mode.INITIAL, [(start - timedelta(days=1),)])))
            self.execute(COPY.format("seed", "bi_metrics"))

    def rows(self) -> Rows:
        """Return every stored row, its JSON as values with Decimal."""
        found = self.query("SELECT metrics, metric_date, data_type, f_list, value_list FROM bi_metrics")
        return {(row[0], row[1]): (row[2], _parsed(row[3]), _parsed(row[4])) for row in found}

    def take_turns(
        self, sides: dict[str, Command], seed: date | None, rounds: int, expected: Rows | None = None
    ) -> tuple[dict[str, list[Cost]], Rows]:
        """Run the sides in turns, each round from another one on; return the costs and the rows that all of them left.

        Raises BenchmarkError where one leaves other rows than the others, or than `expected`.
        """
        costs: dict[str, list[Cost]] = {side: [] for side in sides}
        names = list(sides)
        for number in range(rounds):
            for side in names[number % len(names) :] + names[: number % len(names)]:
                self.reset(seed)
                costs[side].append(self.run(sides[side]))
                left = self.rows()
                expected = expected or left
                _refuse_difference(side, expected, left)
                self.compared += 1
        return costs, expected or {}

    def print_agreement(self) -> None:
        """Say that every run left the same rows; where one had not, there would be no table."""
        print(f"\nAll sides left the same rows: compared as JSON with Decimal after each of {self.compared} runs.")


def plain_client() -> str:
    """Return the path of the plain client. Raises BenchmarkError with the command that installs it."""
    for name in ("mariadb", "mysql"):
        if path := shutil.which(name):
            return path
    raise BenchmarkError(f"neither mariadb nor mysql is installed; as root: {APT_COMMAND}")


@contextmanager
def _peak_memory(pid: int) -> Iterator[list[int]]:
    """Collect the peak memory of a process, in KB, until the block ends."""
    # Not ru_maxrss: a child inherits the peak of the process that started it, and this one is large.
    seen: list[int] = []
    done = threading.Event()
    watcher = threading.Thread(target=_watch_memory, args=(pid, seen, done))
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def _watch_memory(pid: int, seen: list[int], done: threading.Event) -> None:
    while not done.wait(0.01):
        status = Path(f"/proc/{pid}/status").read_text()
        if "VmHWM:" in status:  # not once it has ended
            seen.append(int(status.partition("VmHWM:")[2].split()[0]))


def _parsed(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def _refuse_difference(side: str, expected: Rows, left: Rows) -> None:
    if left == expected:
        return
    keys = sorted(key for key in {*expected, *left} if expected.get(key) != left.get(key))
    raise BenchmarkError(
        f"{side} left other rows: {len(keys)} differ, the first {keys[0][0]} of {keys[0][1]}: "
        f"{str(expected.get(keys[0]))[:200]} and {str(left.get(keys[0]))[:200]}"
    )


# --- the server and the game ------------------------------------------------------------------------------------------


def connect(server: Server, database: str | None = None) -> Any:
    return pymysql.connect(
        unix_socket=server.socket, user="root", database=database, charset="utf8mb4", autocommit=True,
        ssl_disabled=True, client_flag=CLIENT.MULTI_STATEMENTS,
    )  # fmt: skip


def with_game(server: Server, size: game.Size) -> Bench:
    """Return the database of this size, made where it is not there yet."""
    name = f"game_{size.plays}"
    with connect(server) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4")
    bench = Bench(server, name)
    if not bench.query("SHOW TABLES LIKE 'complete'"):
        print(f"Making {size.plays:,} plays, once ...", file=sys.stderr)
        game.load(bench.connection, LAST_DAY, size)
        bench.execute(f"ANALYZE TABLE {', '.join(game.TABLES)}; CREATE TABLE complete (id INT);")
    bench.prepare()
    return bench


def start_of(dates: int) -> date:
    """Return the first of so many dates that end with the last day."""
    return LAST_DAY - timedelta(days=dates - 1)


# --- numbers ----------------------------------------------------------------------------------------------------------


def middle(costs: Sequence[Cost]) -> Cost:
    """Return the median of each number."""
    return Cost(*(median(numbers) for numbers in zip(*(astuple(cost) for cost in costs), strict=True)))


def ratios(costs: Sequence[Cost], base: Sequence[Cost]) -> str:
    """Return the median of the rounds' ratios and their range; a round's runs shared the machine's mood."""
    found = sorted(cost.seconds / other.seconds for cost, other in zip(costs, base, strict=True))
    return f"{median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


# --- the command lines ------------------------------------------------------------------------------------------------


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each side (default: %(default)s)")
    parser.add_argument("--engine", choices=INSTALLS, default="mariadb", help="the server (default: %(default)s)")
    return parser


def size_of(args: argparse.Namespace) -> game.Size:
    return TENTH if args.quick else game.BENCHMARK


def main(args: argparse.Namespace, measure: Callable[[Server, argparse.Namespace], None]) -> int:
    """Start the server, measure, stop the server. Returns the exit code: 1 a side failed, 2 something is missing."""
    try:
        plain_client()
        server = Server(HOME / args.engine, install(args.engine), SERVER_OPTIONS)
        if server.is_running():
            raise BenchmarkError(f"another benchmark is using {server.folder}; wait for it to end")
        server.start()
    except (BenchmarkError, ServerError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    try:
        print(f"{headline(server, size_of(args))}\n", flush=True)
        measure(server, args)
        print(f"\nLoad at the end: {os.getloadavg()[0]:.1f}.")
    except BenchmarkError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    finally:
        server.stop()
    return 0


def headline(server: Server, size: game.Size) -> str:
    """Return what a reader of the tables must know: date, versions, machine, load, data."""
    return (
        f"{date.today()}, {server.install.name} {server.install.version}, Python {platform.python_version()}, "
        f"PyMySQL {pymysql.VERSION_STRING}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} at the start), "
        f"{size.plays:,} plays; medians; x: median of the rounds' ratios (lowest to highest)."
    )
