"""The demo: a made-up game that is always the same, its private server, and a program that knows nothing of either."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import zoneinfo
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pymysql
import pytest

from config.database import load_settings
from demo import game, zones
from demo.__main__ import _line
from demo.server import ACCOUNT, LONGEST_SOCKET, end_process
from tests.conftest import ROOT, Database

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("once")]

LAST_DAY = date(2025, 3, 16)  # a Sunday


# --- the game ---------------------------------------------------------------------------------------------------------


def checksums(database: Database) -> list[tuple[Any, ...]]:
    return database.rows(f"CHECKSUM TABLE {', '.join(game.TABLES)}")


def test_the_same_day_and_seed_give_the_same_rows_and_another_seed_gives_others(database: Database) -> None:
    game.load(database.connection, LAST_DAY, game.TINY)
    first = checksums(database)
    game.load(database.connection, LAST_DAY, game.TINY)
    assert checksums(database) == first
    game.load(database.connection, LAST_DAY, game.TINY, seed=2)
    other = checksums(database)
    assert {name for (name, a), (_, b) in zip(first, other, strict=True) if a != b} == {
        f"{database.name}.{table}" for table in game.TABLES if table != "games"
    }


def test_the_game_has_its_size_quiet_days_a_weekly_rhythm_and_favourites(database: Database) -> None:
    size = game.Size(users=400, games=60, days=84, plays=20_000)
    seen: dict[str, int] = {}

    def watch(table: str, rows: Iterable[str]) -> list[str]:
        made = list(rows)
        seen[table] = len(made)
        return made

    game.load(database.connection, LAST_DAY, size, watch=watch)
    counts = {table: database.rows(f"SELECT COUNT(*) FROM {table}")[0][0] for table in game.TABLES}
    assert counts == {"users": 400, "games": 60, "game_plays": 20_000, "user_activity": 12_000, "payments": 1_000}
    assert counts == seen, "what was watched is what was stored"

    plays = dict(database.rows("SELECT DATE(played_at), COUNT(*) FROM game_plays GROUP BY 1"))
    paid = {row[0] for row in database.rows("SELECT DISTINCT DATE(paid_at) FROM payments")}
    assert max(plays) == LAST_DAY
    assert len(plays) == 82, "two of the days have no event at all"
    assert len(plays.keys() - paid) == 5, "on some days nobody pays"
    sundays = [count for day, count in plays.items() if day.weekday() == 6]
    tuesdays = [count for day, count in plays.items() if day.weekday() == 1]
    assert sum(sundays) / len(sundays) > 1.5 * sum(tuesdays) / len(tuesdays)
    assert min(plays.values()) < 0.1 * max(plays.values())

    by_game = sorted(
        (row[0] for row in database.rows("SELECT COUNT(*) FROM game_plays GROUP BY game_id")), reverse=True
    )
    assert sum(by_game[:6]) > 0.25 * size.plays, "a tenth of the games has more than a quarter of the plays"


def test_nobody_plays_before_signing_up_and_the_edges_of_a_day_are_there(database: Database) -> None:
    game.load(database.connection, LAST_DAY, game.TINY)
    for table, at in (("game_plays", "played_at"), ("user_activity", "happened_at"), ("payments", "paid_at")):
        users_then = f"LEFT JOIN users u ON u.id = e.user_id AND {at} > created_at WHERE u.id IS NULL"
        assert database.rows(f"SELECT COUNT(*) FROM {table} e {users_then}") == [(0,)], table
    edges = "SELECT COUNT(*) FROM game_plays WHERE TIME(played_at) IN ('00:00:00', '23:59:59')"
    assert database.rows(edges)[0][0] > game.TINY.days


def test_the_last_day_has_events_up_to_the_hour_and_no_total_changes(database: Database) -> None:
    newest = (
        "SELECT GREATEST(MAX(created_at), (SELECT MAX(played_at) FROM game_plays), "
        "(SELECT MAX(happened_at) FROM user_activity), (SELECT MAX(paid_at) FROM payments)) FROM users"
    )
    size = game.Size(users=300, games=20, days=100, plays=20_000)
    today = f"SELECT COUNT(*) FROM game_plays WHERE played_at >= '{LAST_DAY}'"
    seen = []
    for hours, last in ((0, "2025-03-15 23:59:59"), (9, "2025-03-16 08:59:59"), (24, "2025-03-16 23:59:59")):
        game.load(database.connection, LAST_DAY, size, hours=hours)
        assert str(database.rows(newest)[0][0]) == last
        assert database.rows("SELECT COUNT(*) FROM game_plays") == [(20_000,)]
        assert database.rows("SELECT COUNT(*) FROM users") == [(300,)]
        seen.append(database.rows(today)[0][0])
    assert seen[0] == 0
    assert seen[1] / seen[2] == pytest.approx((9 / 24) ** 2, rel=0.05), "no more by 9:00 than a whole day has by then"


# --- its server -------------------------------------------------------------------------------------------------------


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Path]:
    """A copy of the demo in a folder whose path is too long for a socket; its server is stopped afterwards."""
    folder = tmp_path / ("a long path " * 12) / "project"
    shutil.copytree(ROOT / "demo", folder / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    yield folder
    run(folder, "stop")


def run(folder: Path, *words: str, python: Sequence[str] = (sys.executable,)) -> subprocess.CompletedProcess[str]:
    command = [*python, "-m", "demo", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_start_stop_and_status_can_be_repeated_and_the_path_may_be_long(demo: Path) -> None:
    assert (run(demo, "status").returncode, run(demo, "status").stdout) == (1, "demo database: stopped\n")
    assert run(demo, "stop").returncode == 0
    place = demo / ".local" / "demo"

    started = run(demo, "start")
    assert started.returncode == 0, started.stderr
    pid, socket = (place / "pid").read_text(), Path(run(demo, "socket").stdout.strip())
    assert started.stdout == f"demo database: running, socket {socket}\n"
    assert len(str(place / "server.sock")) > LONGEST_SOCKET >= len(str(socket))
    assert [mode(place), mode(socket.parent)] == [0o700, 0o700]
    assert run(demo, "start").returncode == 0
    assert (place / "pid").read_text() == pid, "it ran already"
    assert (run(demo, "status").returncode, run(demo, "status").stdout) == (0, started.stdout)
    assert not listens_on_tcp(int(pid))

    assert run(demo, "stop").returncode == 0
    assert not cmdline(int(pid))
    assert not socket.parent.exists()
    assert run(demo, "stop").returncode == 0
    assert run(demo, "status").returncode == 1


def cmdline(pid: int) -> str:
    """Return the command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""


def listens_on_tcp(pid: int) -> bool:
    """Tell whether the process has a TCP socket that listens."""
    own = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
    lines = [
        line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()
    ]
    return any(line[3] == "0A" and f"socket:[{line[9]}]" in own for line in lines[1:])


def test_a_pid_that_has_become_a_strangers_is_left_alone(demo: Path) -> None:
    assert run(demo, "start").returncode == 0
    pid_file = demo / ".local" / "demo" / "pid"
    assert end_process(int(pid_file.read_text()), signal.SIGKILL)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        pid_file.write_text(str(stranger.pid))
        assert run(demo, "status").returncode == 1
        assert run(demo, "start").returncode == 0
        assert int(pid_file.read_text()) != stranger.pid
        assert run(demo, "stop").returncode == 0
        pid_file.write_text(str(stranger.pid))
        assert run(demo, "stop").returncode == 0
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("words", [[], ["restart"], ["sql"], ["sql", "SELECT", "1"], ["start", "now"]])
def test_a_wrong_command_is_one_line_and_exit_code_2(demo: Path, words: list[str]) -> None:
    wrong = run(demo, *words)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == (
        "Usage: python -m demo start|stop|status|socket|server|load|show, or: python -m demo sql 'SELECT ...'\n"
    )


def test_server_prints_the_settings_that_connect_to_an_empty_database(demo: Path) -> None:
    printed = run(demo, "server")
    assert (printed.returncode, printed.stderr) == (0, "")
    (demo / ".env").write_text(printed.stdout)
    settings = load_settings(demo, {})
    assert settings.warnings == ()
    with pymysql.connect(
        unix_socket=settings.db_socket, user=settings.db_user, password=settings.db_password, database=settings.db_name
    ) as connection, connection.cursor() as cursor:  # fmt: skip
        assert cursor.execute("SHOW TABLES") == 0
        cursor.execute("CREATE TABLE visits (day DATE)")
    assert run(demo, "server").stdout == printed.stdout, "it runs already"


def test_the_server_knows_every_time_zone_of_the_machine(demo: Path) -> None:
    assert run(demo, "start").returncode == 0
    moments = [datetime(1970, 6, 1), datetime(1999, 12, 31, 23), datetime(2025, 3, 30, 1), datetime(2036, 7, 1)]
    wrong = []
    socket = run(demo, "socket").stdout.strip()
    with pymysql.connect(unix_socket=socket, user=ACCOUNT) as connection, connection.cursor() as cursor:
        names = sorted(zoneinfo.available_timezones())
        assert len(names) > 300
        for name in names:
            for moment in moments:
                cursor.execute("SELECT CONVERT_TZ(%s, '+00:00', %s)", (moment, name))
                there = moment.replace(tzinfo=timezone.utc).astimezone(zoneinfo.ZoneInfo(name)).replace(tzinfo=None)
                if cursor.fetchone() != (there,):
                    wrong.append((name, moment))
    assert wrong == []


def test_a_machine_without_zone_files_is_told_what_it_lacks(demo: Path) -> None:
    program = "import sys, zoneinfo; from demo.__main__ import main; zoneinfo.reset_tzpath([]); main(['start'])"
    blocked = "import sys; sys.modules['tzdata'] = None; "
    done = subprocess.run([sys.executable, "-c", blocked + program], cwd=demo, capture_output=True, text=True)
    assert done.stdout.startswith("demo database: running")
    assert done.stderr == (
        "demo database: this machine has no time zone files (package tzdata), so CONVERT_TZ knows no names\n"
    )
    assert "NULL" in run(demo, "sql", "SELECT CONVERT_TZ(NOW(), '+00:00', 'Europe/Berlin')").stdout
    assert run(demo, "start").stderr == "", "once they are there"
    assert "NULL" not in run(demo, "sql", "SELECT CONVERT_TZ(NOW(), '+00:00', 'Europe/Berlin')").stdout


def test_a_zone_file_that_leaves_out_the_coming_years_is_not_taken(tmp_path: Path) -> None:
    whole = (Path(zoneinfo.TZPATH[0]) / "Europe" / "Berlin").read_bytes()
    zone = zones.read(whole)
    assert zone is not None
    assert zone.kinds[zone.changes[-1][1]] == (3600, 0, "CET")
    # As `zic -b slim` writes it: no 32-bit half, and two changes alone before the rule for all later years.
    rule = b"CET-1CEST,M3.5.0,M10.5.0/3"
    first = zones.HEADER.pack(b"TZif", 0, 0, 0, 0, 1, 4) + struct.pack(">lBB", 3600, 0, 0) + b"CET\0"
    second = zones.HEADER.pack(b"TZif", 0, 0, 0, 1, 1, 4) + struct.pack(">qBlBB", 828_234_000, 0, 3600, 0, 0) + b"CET\0"
    assert zones.read(first + second + b"\n" + rule + b"\n") is None
    assert zones.read(first + second + b"\nCET-1\n") == zones.Zone(((3600, 0, "CET"),), ((828_234_000, 0),))


def test_a_load_that_takes_long_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("demo.__main__.SECONDS_BETWEEN_LINES", 0.0)
    assert list(_line("plays", map(str, range(2_500)))) == list(map(str, range(2_500)))
    assert capsys.readouterr().out == (
        "  plays           1,000 rows so far\n  plays           2,000 rows so far\n  plays           2,500 rows\n"
    )


# --- its client -------------------------------------------------------------------------------------------------------


def test_sql_prints_rows_as_a_table_and_errors_as_one_line(demo: Path) -> None:
    stopped = run(demo, "sql", "SELECT 1")
    assert (stopped.returncode, stopped.stdout) == (1, "")
    assert stopped.stderr == "Error: the demo database is stopped; start it with: python -m demo start\n"
    assert run(demo, "start").returncode == 0

    def printed(statement: str) -> str:
        done = run(demo, "sql", statement)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    values = "NULL AS n, x'00ff' AS b, 'é\n\x1b[1m%s' AS t, 1.50 AS d, DATE '2025-01-15' AS day"
    assert printed(f"SELECT {values} UNION ALL SELECT 12345, '', 'x', NULL, NULL;") == (
        "n      b       t             d     day\n"
        "-      -       -             -     ---\n"
        "NULL   0x00ff  é\\n\\x1b[1m%s  1.50  2025-01-15\n"
        "12345  0x      x             NULL  NULL\n"
    )
    assert printed("CREATE TABLE t (id INT) AS SELECT 1 AS id") == "1 row changed\n"
    assert printed("INSERT INTO t VALUES (2), (3)") == "2 rows changed\n"
    assert printed("SELECT id FROM t WHERE id > 1") == "id\n--\n2\n3\n"
    assert printed("SELECT id FROM t WHERE id > 9") == "id\n--\n"
    for statement, message in (("SELECT * FROM nowhere", "(1146) Table"), ("SELEC\n1", "(1064) "), ("", "(1065) ")):
        failed = run(demo, "sql", statement)
        assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
        assert failed.stderr.startswith(f"Error: {message}")


def test_show_prints_values_of_any_type(demo: Path) -> None:
    assert run(demo, "start").returncode == 0
    assert run(demo, "show").stderr == "Error: (1146) Table 'game.bi_metrics' doesn't exist\n"
    columns = "id INT AUTO_INCREMENT PRIMARY KEY, metrics VARCHAR(100), metric_date DATE, value_list {}"
    for column, value, shown in (
        ("JSON", "NULL", "NULL"),
        ("JSON", "'{\"n\": 1}'", '{"n": 1}'),
        ("JSON", "JSON_QUOTE(REPEAT('x', 100))", '"' + "x" * 76 + "..."),
        ("DECIMAL(5,2)", "1.5", "1.50"),
        ("BLOB", "x'ff'", "0xff"),
    ):
        assert run(demo, "sql", f"CREATE OR REPLACE TABLE bi_metrics ({columns.format(column)})").returncode == 0
        assert run(demo, "show").stdout == "", "there is nothing yet"
        later = "(CURDATE() + INTERVAL 1 DAY)"
        rows = f"('m', '2025-01-13', {value}), ('m', '2025-01-14', {value}), ('m', CURDATE(), 0), ('m', {later}, 0)"
        assert run(demo, "sql", f"INSERT INTO bi_metrics (metrics, metric_date, value_list) VALUES {rows}").stderr == ""
        assert run(demo, "show").stdout == f"m  2025-01-14  {shown}\n"


def test_without_the_packages_the_server_can_be_stopped_and_the_client_says_what_is_missing(demo: Path) -> None:
    bare = (sys.executable, "-S")
    missing = run(demo, "sql", "SELECT 1", python=bare)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "Error: the package pymysql is missing; run ./setup.sh and use .venv/bin/python\n"
    assert run(demo, "stop", python=bare).returncode == 0


# --- what the program may know ----------------------------------------------------------------------------------------

PROGRAM = [
    ROOT / "run_metrics.py",
    ROOT / "list_metrics.py",
    *(ROOT / "config").glob("*.py"),
    *(ROOT / "src").rglob("*.py"),
]


def imports(file: Path) -> set[str]:
    """Return every module that a file imports anywhere in it, by full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def users_of(*modules: str) -> set[str]:
    """Return the files of the program that import one of the modules or a part of one."""
    return {
        str(file.relative_to(ROOT))
        for file in PROGRAM
        for name in imports(file)
        if any(name == module or name.startswith(f"{module}.") for module in modules)
    }


def test_the_program_knows_neither_the_demo_nor_the_tests() -> None:
    assert len(PROGRAM) > 15
    assert users_of("demo", "tests", "benchmarks", "pytest") == set()
    assert users_of("run_metrics", "list_metrics") == set()


def test_only_db_manager_and_its_login_import_pymysql() -> None:
    assert users_of("pymysql", "MySQLdb") == {"src/db_manager.py", "src/server/login.py"}
    assert users_of("src.server.login") == {"src/db_manager.py"}


def test_only_config_reads_settings_from_the_environment() -> None:
    names = ("environ", "environb", "getenv", "getenvb", "putenv", "unsetenv")
    readers = users_of(*(f"os.{name}" for name in names), "dotenv")
    for file in PROGRAM:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in names:
                readers.add(str(file.relative_to(ROOT)))
    # The command of METRICS_ON_END inherits the environment; a command notes there that .venv's Python took over.
    others = {"src/display/on_end.py", "src/cli.py"}
    assert readers - others == {"config/database.py"}
