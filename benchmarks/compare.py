"""Measures this tool beside the plain client and a usual script: python benchmarks/compare.py [--quick]

Ten metrics (the shipped eight and benchmarks/metrics/) on a made-up game in a private server below .local/benchmark,
which is made once. The sides take turns, every side must leave the same rows, and medians are printed as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pymysql
from pymysql.constants import CLIENT

from config.database import Settings, load_settings
from demo import game
from demo.server import Server
from src.dates import date_range
from src.db_manager import DatabaseManager, Result
from src.packet import Packet, Step
from src.sql_loader import Catalog, load_catalog
from src.sql_text import literal

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".local" / "benchmark"
LAST_DAY = date(2025, 12, 31)
CUTOFF = "2024-01-01"
PARAMETERS = {"cutoff_date": literal(CUTOFF)}
TENTH = game.Size(users=20_000, games=200, days=1_095, plays=300_000)
PARTS = ("dates", "bulk", "writer", "memory", "startup")
QUICK_PARTS = ("dates", "bulk", "writer")
CLIENT_SIDE, SCRIPT_SIDE, TOOL_SIDE = "plain client, one script", "usual PyMySQL script", "this tool"
DEFAULT_SIDE = "plain client, default session"
COPY = (
    "INSERT INTO {} (metrics, data_type, f_list, value_list, metric_date) "
    "SELECT metrics, data_type, f_list, value_list, metric_date FROM {}"
)
WRITE_PAUSE = 0.005  # seconds between two writes of the application
ONE_ROW = """\
-- Metric: trivial
-- Data Type: card
INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
VALUES ('trivial', 'card', JSON_ARRAY('n'), JSON_OBJECT('n', 1), %(metric_date)s)
ON DUPLICATE KEY UPDATE value_list = VALUES(value_list);
"""


class BenchmarkError(Exception):
    """A side failed, or the sides left different rows: the numbers would mean nothing."""


@dataclass(frozen=True)
class Cost:
    """What one process took: seconds on the clock, of the server's CPU and of its own, and its peak memory in MB."""

    seconds: float
    server_cpu: float
    cpu: float
    memory: float


@dataclass(frozen=True)
class Command:
    """A side's process; `script` is the text it reads from standard input."""

    words: Sequence[str]
    script: str = ""


class Recorder(DatabaseManager):
    """The tool's own connection, which notes how it sets up its session."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.session: list[str] = []

    def run(self, statements: Sequence[str], exactly: bool = True) -> list[Result]:
        self.session += [sql for sql in statements if sql.startswith("SET SESSION")]
        return super().run(statements, exactly)


class Bench:
    """A database with the game in it, a project folder with the ten metrics, and the commands of each side."""

    def __init__(self, server: Server, database: str) -> None:
        self.server = server
        self.database = database
        self.connection = connect(server, database)
        self.project = HOME / "project"
        self.env = {name: os.environ[name] for name in ("PATH", "HOME", "TZ") if name in os.environ} | self.settings

    @property
    def settings(self) -> dict[str, str]:
        """What .env holds for the tool; the other sides get it in the environment."""
        return {
            "DB_SOCKET": self.server.socket,
            "DB_USER": "root",
            "DB_NAME": self.database,
            "METRIC_PARAM_CUTOFF_DATE": CUTOFF,
        }

    @property
    def catalog(self) -> Catalog:
        return load_catalog(self.project / "sql")

    def session(self) -> str:
        """Return the statements with which the tool prepares its session, as this version of it does."""
        recorder = Recorder(load_settings(self.project, self.settings))
        recorder.connect()
        recorder.close()
        return "".join(f"{sql};\n" for sql in recorder.session)

    # --- the three sides ----------------------------------------------------------------------------------------------

    def sides(self, start: date) -> dict[str, Command]:
        """Return the commands that compute every date from `start` to the last day, a transaction each."""
        script = self.script("incremental", [(day,) for day in date_range(start, LAST_DAY)])
        ends = (str(start), str(LAST_DAY))
        usual = str(Path(__file__).with_name("usual_script.py"))
        return {
            CLIENT_SIDE: self.client(script),
            SCRIPT_SIDE: Command([sys.executable, usual, str(self.project / "sql"), *ends]),
            TOOL_SIDE: self.tool(*ends),
        }

    def bulk_sides(self, start: date) -> dict[str, Command]:
        """Return the commands that compute all these dates with the set-based files, in one transaction."""
        script = self.script("initial", [tuple(date_range(start, LAST_DAY))])
        return {
            CLIENT_SIDE: self.client(script),
            DEFAULT_SIDE: self.client(script, session=""),
            TOOL_SIDE: self.tool("--initial", str(start), str(LAST_DAY)),
        }

    def client(self, script: str, session: str | None = None) -> Command:
        """Return the plain client with the tool's session: else the settings are compared, and not the programs."""
        words = ["mariadb", "--no-defaults", f"--socket={self.server.socket}", "--user=root"]
        words += ["--default-character-set=utf8mb4", self.database]
        return Command(words, (self.session() if session is None else session) + script)

    def tool(self, *words: str) -> Command:
        return Command([sys.executable, str(self.project / "run_metrics.py"), *words])

    def script(self, mode: str, transactions: Sequence[tuple[date, ...]]) -> str:
        """Return the statements that the tool sends, without its guards, checks and bookkeeping."""
        lines = []
        for dates in transactions:
            lines += ["START TRANSACTION;", *self._statements(mode, dates), "COMMIT;"]
        return "\n".join(lines)

    def _statements(self, mode: str, dates: tuple[date, ...]) -> Iterator[str]:
        for file in self.catalog.in_mode(mode):
            once = file.script.parameters & {"start_date", "dates"} or len(dates) == 1
            for step_dates in [dates] if once else [(day,) for day in dates]:
                yield from (f"{sql};" for sql in Packet(Step(file, step_dates), PARAMETERS).bound)

    # --- running and looking ------------------------------------------------------------------------------------------

    def run(self, command: Command) -> Cost:
        """Run a side's process to its end. Raises BenchmarkError where it fails."""
        with tempfile.TemporaryFile("w+") as script, tempfile.TemporaryFile("w+") as errors:
            script.write(command.script)
            script.flush()
            script.seek(0)
            server_cpu, clock = self.server_cpu(), time.perf_counter()
            process = subprocess.Popen(command.words, stdin=script, stdout=errors, stderr=errors, env=self.env)
            with peak_memory(process.pid) as memory:
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                seconds = time.perf_counter() - clock
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                errors.seek(0)
                raise BenchmarkError(f"{' '.join(command.words[:4])} ended with {process.returncode}: {errors.read()}")
        server_cpu = self.server_cpu() - server_cpu
        return Cost(seconds, server_cpu, usage.ru_utime + usage.ru_stime, max(memory, default=0) / 1024)

    def server_cpu(self) -> float:
        """Return the seconds of CPU that the server has used; other processes of the machine do not move it."""
        # The kernel's number for the CPU clock of another process, as clock_getcpuclockid(3) makes it.
        return time.clock_gettime((~(self.server.pid or 0) << 3) | 2)

    def execute(self, sql: str) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            while cursor.nextset():
                pass

    def reset(self, start: date | None) -> None:
        """Empty both tables; with `start`, leave the rows of the day before it, on which incremental files build."""
        self.execute("TRUNCATE bi_metrics; TRUNCATE bi_metric_runs;")
        if start is not None:
            self.execute(COPY.format("bi_metrics", "seed") + f" WHERE metric_date = '{before(start)}'")

    def seed(self, starts: Sequence[date]) -> None:
        """Keep the rows of the day before each of `starts`, computed once."""
        self.execute("DROP TABLE IF EXISTS seed; CREATE TABLE seed LIKE bi_metrics;")
        for start in starts:
            self.reset(None)
            self.run(self.client(self.script("initial", [(before(start),)])))
            self.execute(COPY.format("seed", "bi_metrics"))

    def rows(self) -> dict[tuple[str, date], tuple[str, Any, Any]]:
        """Return every stored row, its JSON as values."""
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT metrics, metric_date, data_type, f_list, value_list FROM bi_metrics")
            return {(row[0], row[1]): (row[2], parsed(row[3]), parsed(row[4])) for row in cursor}

    def make_project(self) -> None:
        """Copy the commands and the ten metrics, with settings in a .env as on a real machine."""
        shutil.rmtree(self.project, ignore_errors=True)
        for name in ("src", "config", "sql"):
            shutil.copytree(ROOT / name, self.project / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(Path(__file__).with_name("metrics"), self.project / "sql", dirs_exist_ok=True)
        shutil.copy2(ROOT / "run_metrics.py", self.project)
        (self.project / ".env").write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))


@contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
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


def connect(server: Server, database: str | None = None) -> Any:
    return pymysql.connect(
        unix_socket=server.socket, user="root", database=database, autocommit=True, ssl_disabled=True,
        client_flag=CLIENT.MULTI_STATEMENTS,
    )  # fmt: skip


def parsed(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def before(day: date) -> date:
    return day - timedelta(days=1)


def start_of(dates: int) -> date:
    return LAST_DAY - timedelta(days=dates - 1)


def made(server: Server, size: game.Size) -> Bench:
    """Return the database of this size, made where it is not there yet."""
    name = f"game_{size.plays}"
    with connect(server) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4")
    bench = Bench(server, name)
    with bench.connection.cursor() as cursor:
        if not cursor.execute("SHOW TABLES LIKE 'complete'"):
            print(f"Making {size.plays:,} plays, once ...", file=sys.stderr)
            game.load(bench.connection, LAST_DAY, size)
            bench.execute(f"ANALYZE TABLE {', '.join(game.TABLES)}; CREATE TABLE complete (id INT);")
    bench.execute("DROP TABLE IF EXISTS bi_metrics, bi_metric_runs;" + (ROOT / "sql" / "schema.sql").read_text())
    bench.make_project()
    return bench


# --- the parts --------------------------------------------------------------------------------------------------------


def take_turns(
    bench: Bench, sides: dict[str, Command], seed: date | None, rounds: int, expected: Any = None
) -> tuple[dict[str, list[Cost]], Any]:
    """Run the sides in turns, each round from another one on; return the costs and the rows that all of them left."""
    costs: dict[str, list[Cost]] = {side: [] for side in sides}
    names = list(sides)
    for number in range(rounds):
        for side in names[number % len(names) :] + names[: number % len(names)]:
            bench.reset(seed)
            costs[side].append(bench.run(sides[side]))
            left = bench.rows()
            expected = expected or left
            refuse_difference(side, expected, left)
    return costs, expected


def refuse_difference(side: str, expected: Any, left: Any) -> None:
    if left == expected:
        return
    keys = sorted(key for key in {*expected, *left} if expected.get(key) != left.get(key))
    raise BenchmarkError(
        f"{side} left other rows: {len(keys)} differ, the first {keys[0][0]} of {keys[0][1]}: "
        f"{str(expected.get(keys[0]))[:200]} and {str(left.get(keys[0]))[:200]}"
    )


def middle(costs: Sequence[Cost]) -> Cost:
    """Return the median of each number."""
    return Cost(*(median(numbers) for numbers in zip(*(astuple(cost) for cost in costs), strict=True)))


def ratios(costs: Sequence[Cost], base: Sequence[Cost]) -> str:
    """Return the median of the rounds' ratios and their range; a round's runs shared the machine's mood."""
    found = sorted(cost.seconds / other.seconds for cost, other in zip(costs, base, strict=True))
    return f"{median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


def print_costs(title: str, costs: dict[str, list[Cost]], base: Sequence[Cost]) -> None:
    for side, each in costs.items():
        cost = middle(each)
        times = f"{cost.seconds:.3f} s | {ratios(each, base)} | {cost.server_cpu:.3f} s | {cost.cpu:.2f} s"
        print(f"| {title} | {side} | {times} | {cost.memory:.0f} MB | {len(each)} |", flush=True)


def print_comparison(bench: Bench, args: argparse.Namespace) -> None:
    """Measure each number of dates a transaction a date, then the largest at once; all must leave the same rows."""
    print("| dates | side | time | x plain client | server CPU | client CPU | memory | rounds |")
    print("|---|---|---|---|---|---|---|---|")
    rows = None
    by_date: list[Cost] = []
    if "dates" in args.parts:
        for count in args.counts:
            start = start_of(count)
            turns = max(args.rounds, 9) if count == 1 else args.rounds
            costs, rows = take_turns(bench, bench.sides(start), start, turns)
            by_date = costs[CLIENT_SIDE]
            print_costs(f"{count:,}", costs, by_date)
    if "bulk" in args.parts:
        print_bulk(bench, args.counts[-1], args.rounds, rows, by_date)


def print_bulk(bench: Bench, count: int, rounds: int, rows: Any, by_date: Sequence[Cost]) -> None:
    """Measure the set-based files in both clients, against each other and against a transaction a date."""
    start = start_of(count)
    known = {key: row for key, row in rows.items() if key[1] >= start} if rows else None
    costs, _ = take_turns(bench, bench.bulk_sides(start), None, rounds, known)
    print_costs(f"{count:,} at once", costs, costs[CLIENT_SIDE])
    if by_date:
        against = {side: middle(each).seconds / middle(by_date).seconds for side, each in costs.items()}
        words = ", ".join(f"{side} {ratio:.2f}" for side, ratio in against.items())
        print(f"\nAll at once against the plain client a transaction a date: {words}.")


def print_writer(bench: Bench) -> None:
    """Measure how long an application's writes to payments take while nothing runs, and while the tool does."""
    start = start_of(31)
    bench.reset(start)
    idle = write_while(bench, lambda: time.sleep(3))
    busy = write_while(bench, lambda: bench.run(bench.tool(str(start), str(LAST_DAY))))
    bench.execute("DELETE FROM payments WHERE amount = 0")
    print("| an application's writes to payments | writes | median | p99 |")
    print("|---|---|---|---|")
    for name, times in (("idle", idle), ("during a run over 31 dates", busy)):
        p99 = sorted(times)[len(times) * 99 // 100] * 1000
        print(f"| {name} | {len(times)} | {median(times) * 1000:.2f} ms | {p99:.2f} ms |")


def write_while(bench: Bench, action: Callable[[], object]) -> list[float]:
    """Insert payments into the dates of the run until `action` ends; return the seconds that each took."""
    done = threading.Event()
    times: list[float] = []
    writer = threading.Thread(target=_write, args=(bench, done, times))
    writer.start()
    try:
        action()
    finally:
        done.set()
        writer.join()
    return times


def _write(bench: Bench, done: threading.Event, times: list[float]) -> None:
    rng = random.Random(1)
    with connect(bench.server, bench.database) as connection, connection.cursor() as cursor:
        while not done.wait(WRITE_PAUSE):
            moment = f"{start_of(1 + rng.randrange(31))} {rng.randrange(24):02}:00:00"
            clock = time.perf_counter()
            cursor.execute(f"INSERT INTO payments (user_id, amount, paid_at) VALUES (1, 0, '{moment}')")
            times.append(time.perf_counter() - clock)


def print_memory(bench: Bench) -> None:
    """Measure 100 and 10,000 dates of one trivial metric: the memory must not grow with the dates."""
    shutil.rmtree(bench.project / "sql")
    (bench.project / "sql").mkdir()
    (bench.project / "sql" / "trivial.sql").write_text(ONE_ROW)
    print("| one trivial metric | time | a date | client CPU | memory |")
    print("|---|---|---|---|---|")
    for count in (100, 10_000):
        bench.reset(None)
        cost = bench.run(bench.tool(str(start_of(count)), str(LAST_DAY)))
        each = f"{cost.seconds / count * 1000:.2f} ms"
        print(f"| {plural(count)} | {cost.seconds:.2f} s | {each} | {cost.cpu:.2f} s | {cost.memory:.1f} MB |")
    bench.make_project()


def print_startup(bench: Bench) -> None:
    """Measure what starting costs: the programs alone, and the imports of a run by package."""
    programs = {
        "plain client, `SELECT 1`": bench.client("SELECT 1;"),
        "bare Python": Command([sys.executable, "-c", ""]),
        "Python and PyMySQL": Command([sys.executable, "-c", "import pymysql"]),
        "run_metrics.py --help": bench.tool("--help"),
    }
    print("| start-up | time | memory |\n|---|---|---|")
    for name, command in programs.items():
        cost = middle([bench.run(command) for _ in range(15)])
        print(f"| {name} | {cost.seconds * 1000:.0f} ms | {cost.memory:.0f} MB |")
    print("\n| imports of a run | own time |\n|---|---|")
    for package, microseconds in imports(bench).most_common(12):
        print(f"| {package} | {microseconds / 1000:.1f} ms |")


def imports(bench: Bench) -> Counter[str]:
    """Return the microseconds that each top-level package takes to import in a run of one date."""
    bench.reset(LAST_DAY)
    words = [sys.executable, "-X", "importtime", *bench.tool(str(LAST_DAY)).words[1:]]
    done = subprocess.run(words, env=bench.env, capture_output=True, text=True, check=True)
    packages: Counter[str] = Counter()
    for line in done.stderr.splitlines():
        fields = line.removeprefix("import time:").split("|")
        if len(fields) == 3 and fields[0].strip().isdigit():
            packages[fields[2].strip().partition(".")[0]] += int(fields[0])
    return packages


# --- words ------------------------------------------------------------------------------------------------------------


def plural(dates: int) -> str:
    return f"{dates:,} date{'' if dates == 1 else 's'}"


def headline(server: Server, size: game.Size) -> str:
    return (
        f"{date.today()}, {server.install.name} {server.install.version}, Python {platform.python_version()}, "
        f"PyMySQL {pymysql.VERSION_STRING}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} at the start), "
        f"{size.plays:,} plays, ten metrics; medians; x: median of the rounds' ratios (lowest to highest)."
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="1 and 31 dates on a tenth of the data, in under two minutes")
    add("--rounds", type=int, default=3, metavar="N", help="how often each side runs (default: %(default)s)")
    add("--dates", metavar="N,N", help="how many dates, up to 365 (default: 1,31,365; with --quick 1,31)")
    add("--parts", metavar="PART,PART", help=f"of {', '.join(PARTS)} (default: all; with --quick the first three)")
    args = parser.parse_args()
    args.counts = sorted({int(word) for word in (args.dates or ("1,31" if args.quick else "1,31,365")).split(",")})
    args.parts = args.parts.split(",") if args.parts else list(QUICK_PARTS if args.quick else PARTS)
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return args


def measure(bench: Bench, args: argparse.Namespace) -> None:
    """Run the chosen parts and print a table for each."""
    bench.seed([start_of(count) for count in {*args.counts, 31}])
    if {"dates", "bulk"} & set(args.parts):
        print_comparison(bench, args)
    for part, action in (("writer", print_writer), ("memory", print_memory), ("startup", print_startup)):
        if part in args.parts:
            print()
            action(bench)
    print(f"\nLoad at the end: {os.getloadavg()[0]:.1f}.")


def main() -> int:
    """Start the server, measure, stop the server. Returns the exit code."""
    args = parse_arguments()
    size = TENTH if args.quick else game.BENCHMARK
    server = Server(HOME, options=("--innodb-buffer-pool-size=1G",))
    server.start()
    try:
        print(headline(server, size) + "\n")
        measure(made(server, size), args)
    except BenchmarkError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    finally:
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
