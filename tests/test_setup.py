"""setup.sh in a fresh copy of the project whose path has a space, with nothing assumed but python3 and mariadbd."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.conftest import ROOT, Database, metric_sql, shipped_sql

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("once")]

NOT_COPIED = (
    ".git",
    ".local",
    ".venv",
    ".env",
    "logs",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "tests",
    "benchmarks",
)
# What pip may need to reach its registry.
PASSED_ON = (
    "PATH",
    "HOME",
    "TZ",
    "LANG",
    "PIP_",
    "HTTP_",
    "HTTPS_",
    "NO_PROXY",
    "http",
    "no_proxy",
    "SSL_CERT",
    "REQUESTS_",
)


@dataclass(frozen=True)
class Copy:
    """A copy of the project."""

    folder: Path

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of the copy, named by its path there, from another folder."""
        kept = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        return subprocess.run(
            [str(self.folder / command[0]), *command[1:]], cwd="/", env={**kept, **(env or {})},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the copy's own Python on one of its scripts."""
        return self.run(".venv/bin/python", str(self.folder / words[0]), *words[1:])

    def demo(self, command: str) -> None:
        words = [str(self.folder / ".venv/bin/python"), "-m", "demo", command]
        subprocess.run(words, cwd=self.folder, capture_output=True, check=True, timeout=60)

    @property
    def env_file(self) -> Path:
        return self.folder / ".env"


def copy_to(folder: Path) -> Copy:
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED, "sql"))
    for path in shipped_sql():
        (folder / "sql" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / "sql" / path, folder / "sql" / path)
    (folder / "logs").mkdir()
    return Copy(folder)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy after a plain ./setup.sh, shared by the tests of this file."""
    made = copy_to(tmp_path_factory.mktemp("setup") / "a project & its space")
    done = made.run("setup.sh")
    assert done.returncode == 0, done.stderr
    assert "==> making the virtual environment .venv" in done.stdout
    assert "==> installing the packages of requirements.txt" in done.stdout
    assert "==> wrote .env" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("==> Next: fill in .env, create the tables with ./setup.sh --schema")
    return made


def test_a_plain_set_up_leaves_all_that_a_run_needs_and_a_second_one_changes_nothing(copy: Copy) -> None:
    assert copy.env_file.read_text() == (ROOT / ".env.example").read_text()
    assert stat.S_IMODE(copy.env_file.stat().st_mode) == 0o600
    listed = copy.python("list_metrics.py")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count(".sql") == len(nightly_files(copy.folder))

    copy.env_file.write_text("DB_NAME=mine\n")
    venv = (copy.folder / ".venv/pyvenv.cfg").stat()
    again = copy.run("setup.sh")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines()[0].startswith("==> Next: ")
    assert (copy.folder / ".venv/pyvenv.cfg").stat().st_mtime_ns == venv.st_mtime_ns
    assert copy.env_file.read_text() == "DB_NAME=mine\n"


def nightly_files(folder: Path) -> list[Path]:
    """Return the metric files that the nightly run executes."""
    return [file for place in (".", "incremental") for file in (folder / "sql" / place).glob("[0-9]*.sql")]


@pytest.mark.parametrize("command", ["run_metrics.py", "list_metrics.py"])
def test_a_command_started_by_a_python_without_the_packages_goes_on_in_the_virtual_environment(
    copy: Copy, tmp_path: Path, command: str
) -> None:
    bare = [sys.executable, "-S"]
    there = subprocess.run([*bare, str(copy.folder / command), "--help"], capture_output=True, text=True, check=False)
    assert (there.returncode, there.stderr) == (0, "")
    assert f"usage: {command}" in there.stdout

    without = copy_to(tmp_path / "no environment").folder / command
    missing = subprocess.run([*bare, str(without)], capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == (
        "Error: the package PyMySQL is missing; run ./setup.sh, or: pip install -r requirements.txt\n"
    )


def test_help_says_how_long_the_demo_and_the_tests_take() -> None:
    done = Copy(ROOT).run("setup.sh", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    told = dict(re.findall(r" (--[a-z-]+) (.*?)(?= --|$)", " ".join(done.stdout.split())))
    for option, unit in (("--demo", "seconds"), ("--test", "minutes"), ("--test-all", "minutes")):
        assert re.search(rf": about \d+ {unit}", told[option]), option


@pytest.mark.parametrize("words", [["--unknown"], ["--demo", "--test"], ["demo"]])
def test_an_unknown_option_is_refused_before_anything_is_made(tmp_path: Path, words: list[str]) -> None:
    shutil.copy2(ROOT / "setup.sh", tmp_path / "setup.sh")
    done = Copy(tmp_path).run("setup.sh", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: ./setup.sh [--schema |" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["setup.sh"]


def test_a_step_that_takes_long_says_so_every_two_seconds_and_keeps_its_exit_code() -> None:
    function = re.findall(r"^with_clock\(\) \{.*?^\}", (ROOT / "setup.sh").read_text(), re.MULTILINE | re.DOTALL)[0]
    script = f"set -euo pipefail; {function}\nwith_clock sleep 4.5; with_clock bash -c 'exit 7' || echo code $?"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("    2 s\n    4 s\ncode 7\n", "")


def test_schema_applies_the_tables_with_the_settings_of_the_environment_and_keeps_their_rows(
    copy: Copy, database: Database
) -> None:
    database.execute("DROP TABLE bi_metrics, bi_metric_state, bi_metric_changes, bi_metric_headers")
    applied = copy.run("setup.sh", "--schema", env=database.env)
    assert applied.returncode == 0, applied.stderr
    assert f"sql/schema.sql is applied to {database.server.socket} as user root" in applied.stdout
    columns = "metrics, f_list, value_list, metric_date"
    database.execute(f"INSERT INTO bi_metrics ({columns}) VALUES ('m', '[]', '1', '2025-01-15')")
    assert copy.run("setup.sh", "--schema", env=database.env).returncode == 0
    assert database.metrics() == [("m", "2025-01-15", "1")]
    there = ["cards", "catalog", "changes", "headers", "items", "state"]
    assert [row[0] for row in database.rows("SHOW TABLES")] == [*(f"bi_metric_{name}" for name in there), "bi_metrics"]

    wrong = copy.run("setup.sh", "--schema", env={**database.env, "DB_NAME": "nowhere"})
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("Error: ")
    assert "nowhere" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1


def test_views_writes_a_view_for_each_metric_with_a_row(copy: Copy, database: Database) -> None:
    columns = "metrics, f_list, value_list, metric_date"
    row = """('total_revenue', '["revenue"]', '{"revenue": 1}', '2025-01-15')"""
    database.execute(f"INSERT INTO bi_metrics ({columns}) VALUES {row}")
    written = copy.run("setup.sh", "--views", env=database.env)
    assert (written.returncode, written.stderr) == (0, "")
    assert "created v_total_revenue (metric_date, revenue, is_final)\n" in written.stdout
    assert database.rows("SELECT revenue FROM v_total_revenue") == [(1,)]
    wrong = copy.run("setup.sh", "--views", env={**database.env, "DB_NAME": "nowhere"})
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)


def test_demo_leaves_an_env_that_points_elsewhere_alone_and_stops(copy: Copy) -> None:
    copy.env_file.write_text("DB_HOST=db.example.com\nDB_SOCKET=/somewhere/else\n")
    refused = copy.run("setup.sh", "--demo")
    assert refused.returncode == 1
    assert "there is a .env that points elsewhere, and it stays as it is" in refused.stderr
    assert copy.env_file.read_text() == "DB_HOST=db.example.com\nDB_SOCKET=/somewhere/else\n"
    assert not (copy.folder / ".local").exists()


@pytest.fixture
def demo(copy: Copy) -> Iterator[Copy]:
    shutil.copy2(ROOT / ".env.example", copy.env_file)  # as a plain ./setup.sh leaves it: the demo may replace it
    copy.env_file.chmod(0o600)
    yield copy
    copy.demo("stop")
    shutil.rmtree(copy.folder / ".local")


def test_the_ci_example_checks_and_tests_the_metrics_of_a_team(demo: Copy, tmp_path: Path) -> None:
    example = (ROOT / "docs" / "ci-example.yml").read_text()
    script = textwrap.dedent(example.partition("run: |\n")[2]).replace("cd bi-metrics-etl", 'cd "$TOOL"')
    team = demo.folder.parent / "our-metrics"
    (team / "tests").mkdir(parents=True)
    (team / "schema.sql").write_text("CREATE OR REPLACE TABLE visits (day DATE NOT NULL, pages INT NOT NULL)")
    metric = "-- Description: Visits of the date\nSELECT COUNT(*) AS visits FROM visits WHERE day = %(metric_date)s\n"
    test = "-- Test: visits\n-- Expect 2025-01-15: {\"visits\": 1}\nINSERT INTO visits (day) VALUES (20250115);\n"
    stubs = {"sudo": "exit 0", "mariadb": 'exec .venv/bin/python -m demo sql "$(cat)"'}
    for name, line in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TOOL": str(demo.folder)}

    def run(metric: str, test: str) -> subprocess.CompletedProcess[str]:
        (team / "visits.sql").write_text(metric)
        (team / "tests" / "visits.sql").write_text(test)
        words = ["bash", "-e", "-c", script]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    done = run(metric, test)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 file checked: 0 errors" in done.stdout
    assert done.stdout.endswith("1 test: 1 passed, 0 failed.\ndemo database: stopped\n")

    done = run(metric, test.replace(": 1}", ": 2}"))
    assert (done.returncode, "expected" in done.stdout) == (1, True)
    done = run(metric.replace("FROM visits", "FROM visit"), test)
    assert (done.returncode, "visit' doesn't exist" in done.stdout) == (1, True), "a server checks the files"


def test_demo_ends_with_rows_on_screen_and_a_file_dropped_in_runs(demo: Copy) -> None:
    done = demo.run("setup.sh", "--demo")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(r"500,000 plays of 20,000 users, 180 days up to today \d\d:00\n", done.stdout)
    assert "\n  game_plays    500,000 rows\n" in done.stdout
    page = demo.folder / ".local/demo/page.html"
    assert done.stdout.splitlines()[-1] == f"==> The metrics as a page, for a browser: {page}"
    assert "total_revenue" in page.read_text()
    shown = done.stdout.split("the newest complete rows:\n")[1]
    for name in ("total_revenue", "plays_by_hour", "top_100_games_played", "weekly_active_users", "monthly_revenue"):
        assert any(line.startswith(name) and "{" in line for line in shown.splitlines()), shown
    assert stat.S_IMODE(demo.env_file.stat().st_mode) == 0o600

    with demo_rows(demo) as rows:
        counts = [rows(f"SELECT COUNT(*) FROM {table}")[0][0] for table in ("users", "games", "game_plays")]
        assert counts == [20_000, 500, 500_000]
        future = "SELECT COUNT(*) FROM game_plays WHERE played_at > NOW()"
        assert rows(future) == [(0,)]
        metrics = len(nightly_files(demo.folder))
        of_days = "metrics NOT IN ('weekly_active_users', 'monthly_revenue')"
        of_rows = f"SELECT COUNT(*), COUNT(DISTINCT metric_date) FROM bi_metrics WHERE {of_days}"
        assert rows(of_rows) == [((metrics - 2) * 90, 90)]
        stored = "SELECT metrics, metric_date, value_list FROM bi_metrics ORDER BY metrics, metric_date"
        before = rows(stored)
        for _ in range(2):
            assert demo.python("run_metrics.py").returncode == 0
            assert rows(stored) == before

        file = demo.folder / "sql" / "90_dropped_in.sql"
        file.write_text(metric_sql("dropped_in", value="COUNT(*)", where="FROM games"))
        assert "dropped_in  " in demo.python("list_metrics.py").stdout
        assert demo.python("run_metrics.py").returncode == 0
        fresh = rows("SELECT value_list FROM bi_metrics WHERE metrics = 'dropped_in'")
        assert [json.loads(value) for (value,) in fresh] == [{"n": 500}] * 2


@contextmanager
def demo_rows(demo: Copy) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    """Yield a function that asks the copy's demo database, found by its .env."""
    settings = dict(line.split("=", 1) for line in demo.env_file.read_text().splitlines() if "=" in line[:40])
    connection = pymysql.connect(
        unix_socket=settings["DB_SOCKET"], user=settings["DB_USER"], database=settings["DB_NAME"], autocommit=True
    )

    def rows(sql: str) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    with connection:
        yield rows
