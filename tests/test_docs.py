"""README and docs are true: commands and SQL run as written, nothing is left out, links resolve."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import list_metrics
import run_metrics
from config.database import load_settings
from demo import game
from src.cli import VERSION
from src.display.on_end import run_on_end
from src.flat_views import write_views
from src.metric_file.checks import RULES
from tests.conftest import ROOT, Project, as_in_a_process, run_script

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page: page.read_text() for page in [*PAGES, ROOT / "CHANGELOG.md"]}
ALL = "\n".join(TEXTS[page] for page in PAGES)
MOST_LINES = 170  # of the README
LONGEST_LINE = 120

# Lines of bash blocks that no test here runs, by how they start, and why.
NOT_RUN = {
    "./setup.sh": "tests/test_setup.py runs it, in a copy",
    "DB_USER=admin DB_PASSWORD=... ./setup.sh --schema": "the same",
    "nano .env": "an editor",
    "mkdir ../our-metrics": "a folder outside of the project",
    "git pull": "there is nothing to pull from",
}
PRIVATE_WORDS = re.compile(
    r"\b(packets?|twins?|holes|half days?|the law|begun|patiently|rehearse\w*|provisional|row a metric|line a file)\b",
    re.IGNORECASE,
)
MACHINE = re.compile(r"/(work|tmp|root|home)/|pypi|localhost:\d", re.IGNORECASE)
PLACEHOLDERS = {"START": "2025-01-01", "END": "2025-01-31", "DATE": "2025-01-15", "NAME": "total_revenue"}
PATHS = ("/opt/bi-metrics-etl", "/path/to/bi_metrics_etl", "/path/to/project")

# From the README that the project was created from: its commands, its metric with the demo's column, its cron lines.
ORIGINAL_COMMANDS = [
    "python list_metrics.py",
    "python list_metrics.py --initial",
    "python run_metrics.py --initial",
    "python run_metrics.py --initial 2024-12-31",
    "python run_metrics.py",
    "python run_metrics.py 2025-01-15",
    "python run_metrics.py 2025-01-01 2025-01-31",
]
ORIGINAL_METRIC = """\
-- Metric: daily_active_users
-- Description: Count of unique users active on a given date
-- Data Type: card

INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date, created_at)
SELECT 
    'daily_active_users' AS metrics,
    'card' AS data_type,
    JSON_OBJECT() AS f_list,
    JSON_OBJECT('count', COUNT(DISTINCT user_id)) AS value_list,
    %(metric_date)s AS metric_date,
    NOW() AS created_at
FROM user_activity
WHERE DATE(happened_at) = %(metric_date)s
ON DUPLICATE KEY UPDATE 
    value_list = VALUES(value_list),
    updated_at = NOW();
"""  # noqa: W291
ORIGINAL_QUERIES = """\
SELECT DISTINCT metrics FROM bi_metrics ORDER BY metrics;
SELECT * FROM bi_metrics WHERE metrics = 'your_metric_name' ORDER BY metric_date DESC LIMIT 10;
"""
ORIGINAL_CRON = [
    "0 1 * * * cd /path/to/bi_metrics_etl && /usr/bin/python3 run_metrics.py >> logs/cron.log 2>&1",
    "0 1 * * * cd /path/to/project && python3 run_metrics.py >> logs/cron.log 2>&1",
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[page], re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Return the lines of the page's bash blocks as words, without comments and `> FILE`."""
    lines = [re.sub(r" > \w+\.csv$", "", line) for block in blocks(page, "bash") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def metric_files(page: Path) -> dict[str, str]:
    """Return path below sql/ and text of each metric file that the page shows."""
    found = {}
    for block in blocks(page, "sql"):
        if match := re.match(r"-- (?:sql/(.+\.sql)|Metric: (\w+))\n", block):
            found[match[1] or f"{match[2]}.sql"] = block
    return found


def prose(page: Path) -> list[tuple[int, str]]:
    """Return number and text of the lines outside of code blocks and tables."""
    found, inside = [], False
    for number, line in enumerate(TEXTS[page].splitlines(), start=1):
        inside ^= line.startswith("```")
        if not (inside or line.startswith(("```", "|"))):
            found.append((number, line))
    return found


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def shipped(project: Project) -> Project:
    """The project as it is shipped, on a small game, with a .env and a .venv, as a crontab finds it."""
    project.write_shipped()
    game.load(project.database.connection, date.today(), game.TINY)
    parameters = {"METRIC_PARAM_CUTOFF_DATE": "2024-01-01", "METRIC_PARAM_TOP": "10"}
    project.env = {**parameters, "METRICS_HISTORY_START": "2024-12-01"}
    lines = [f"{name}='{value}'\n" for name, value in {**project.database.env, **project.env}.items()]
    (project.folder / ".env").write_text("".join(lines))
    (project.folder / ".venv").symlink_to(sys.prefix)
    (project.folder / "logs").mkdir()
    return project


def write_metric_files(project: Project, page: Path) -> list[str]:
    """Write what the page and the README show, helper tables first; return the names of the metrics."""
    for block in blocks(page, "sql"):
        if block.startswith("CREATE TABLE"):
            project.database.execute(block)
    files = metric_files(README) | metric_files(page)
    for path, text in files.items():
        project.write(path, text)
    return sorted({re.sub(r"^(\d+_)?(.*)\.sql$", r"\2", Path(path).name) for path in files})


def run_command(project: Project, words: list[str]) -> None:
    """Run a line of a bash block as written; fails unless it is one that works."""
    if words[:4] == [".venv/bin/python", "-m", "demo", "sql"]:
        assert project.database.rows(words[4]), words
        return
    command = project.run if words[1] == "run_metrics.py" else project.list
    # As written, and soon done: a whole history would be two years of a game that has 100 days.
    start = date.today() - timedelta(days=20)
    result = command(*words[2:], env={"METRICS_HISTORY_START": str(start)} if words[2:] == ["--initial"] else None)
    may_find = "--max-age" in words  # a problem of the history that other lines have left
    assert result.returncode in ((0, 1) if may_find else (0,)), f"{words}: {result.stdout}{result.stderr}"


# --- what is shown runs -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=named)
def test_every_command_works_as_written(shipped: Project, page: Path) -> None:
    runnable = [words for words in commands(page) if not " ".join(words).startswith(tuple(NOT_RUN))]
    write_metric_files(shipped, page)
    for words in runnable:
        assert words[0] in ("python", ".venv/bin/python"), f"{named(page)}: {words} is neither run nor in NOT_RUN"
        run_command(shipped, words)


def test_the_list_of_what_is_not_run_holds_nothing_else() -> None:
    lines = [" ".join(words) for page in PAGES for words in commands(page)]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []
    assert any(line.startswith("python ") for line in lines)


def test_every_command_in_the_prose_makes_sense() -> None:
    found = re.findall(r"`(?:python|\.venv/bin/python) (run|list)_metrics\.py([^`|]*)`", re.sub(r"\n\s*", " ", ALL))
    assert found
    for name, rest in found:
        words = [PLACEHOLDERS.get(word, word) for word in shlex.split(rest)]
        {"run": run_metrics, "list": list_metrics}[name].parse_arguments(words)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if metric_files(page)], ids=named)
def test_every_metric_file_passes_every_rule_and_computes_the_same_both_ways(shipped: Project, page: Path) -> None:
    names = write_metric_files(shipped, page)
    checked = shipped.list("--check").stdout
    assert checked.endswith(" 0 errors, 0 warnings.\n"), checked
    tested = shipped.list("--test")
    assert tested.returncode == 0, tested.stdout
    today = date.today()
    loaded = shipped.run("--initial", str(today - timedelta(days=60)), str(today - timedelta(days=4)))
    assert loaded.returncode == 0, loaded.stderr
    night = shipped.run()
    # Of a game this small, some days are odd.
    odd = ("sql/paying_users", " % of the usual ")
    told = [line for line in night.stderr.splitlines() if not any(words in line for words in odd)]
    assert (night.returncode, told) == (0, []), night.stderr
    stored = {name for name, _, value in shipped.database.metrics() if value not in ("{}", "[]")}
    assert {name for name in names if name != "game_plays_per_day"} <= stored
    compared = shipped.run("--verify", str(today - timedelta(days=20)), str(today - timedelta(days=10)))
    assert compared.returncode == 0, compared.stdout


def test_the_test_of_a_metric_is_red_and_green_as_shown(shipped: Project) -> None:
    page = ROOT / "docs" / "metrics.md"
    write_metric_files(shipped, page)
    shown = re.findall(r"\n\$ python list_metrics.py --test paying_users_by_week\n(.*?)```", TEXTS[page], re.DOTALL)
    path, right = "paying_users_by_week.sql", "paid_at < %(metric_date)s + INTERVAL 1 DAY"
    text = metric_files(README)[path]
    wrong = re.findall("With `(paid_at .*?)` in `sql/paying_users_by_week.sql`", TEXTS[page])
    assert right in text
    for condition, code, output in zip([*wrong, right], (1, 0), shown, strict=True):
        shipped.write(path, text.replace(right, condition))
        done = shipped.list("--test", "paying_users_by_week")
        assert (done.returncode, done.stdout, done.stderr) == (code, output, "")


def write_flat_views(project: Project) -> None:
    with as_in_a_process(project.environment()):
        write_views(project.folder)


def test_the_file_that_replaces_a_script_stores_the_rows_of_the_script(shipped: Project) -> None:
    page = ROOT / "docs" / "metrics.md"
    script = next(block for block in blocks(page, "sql") if block.startswith("SET @last_week"))
    run_script(shipped.database.connection, script)
    (name, week, value), *others = shipped.database.metrics()
    assert (others, name, json.loads(value)["payers"] > 0) == ([], "payers_of_the_week", True)
    shipped.write("payers_of_the_week.sql", metric_files(page)["payers_of_the_week.sql"])
    compared = shipped.run(
        "--initial", week, week, "--metric", name, "--dry-run", env={"METRICS_TIMEZONE": "Asia/Taipei"}
    )
    assert (compared.returncode, compared.stderr) == (0, "")
    assert compared.stdout.endswith("Dry run, nothing kept: 0 new, 0 changed (0 of them final before), 1 unchanged.\n")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sql")], ids=named)
def test_every_query_runs(shipped: Project, page: Path) -> None:
    assert shipped.run("--last", "2").returncode == 0
    write_flat_views(shipped)
    database = shipped.database
    for block in blocks(page, "sql"):
        if "%(" in block or "-- Test: " in block:
            continue  # a metric file, or the test of one
        sql = re.sub(r"\$__timeFilter\(\w+\)|\{\{day\}\}", "CURDATE()", block)
        sql = sql.replace("{{metric}}", "'total_revenue'").replace("[[", "").replace("]]", "")
        sql = re.sub(r"\bgame\.(?=\*|bi_)", f"{database.name}.", sql)
        for statement in filter(str.strip, re.split(r";(?: *--[^\n]*)?\n", f"{sql.rstrip()};\n")):
            run_script(database.connection, statement)
    run_script(database.connection, "DROP USER IF EXISTS 'bi_metrics'@'%', 'dashboards'@'%'")


def test_the_queries_for_bi_tools_find_rows(shipped: Project) -> None:
    assert shipped.run("--last", "3").returncode == 0
    write_flat_views(shipped)
    found = [block for block in blocks(ROOT / "docs" / "dashboards.md", "sql") if block.startswith("SELECT")]
    assert found
    for block in found:
        sql = block.replace("$__timeFilter(metric_date)", "TRUE").replace("{{metric}}", "'total_revenue'")
        assert shipped.database.rows(re.sub(r"\[\[.*\]\]", "", sql)), sql


def cron_lines() -> Iterator[str]:
    for page in PAGES:
        for block in blocks(page, "cron"):
            yield from (line for line in block.splitlines() if not re.match(r"[A-Z_]+=", line))
    yield from ORIGINAL_CRON


@pytest.mark.slow
def test_every_cron_line_works_with_the_environment_that_cron_gives(shipped: Project, tmp_path: Path) -> None:
    shipped.install()
    lines = list(dict.fromkeys(cron_lines()))
    assert lines
    today = date.today()
    assert shipped.run("--initial", str(today - timedelta(days=40)), str(today)).returncode == 0
    for line in lines:
        match = re.fullmatch(r"(?:[\d*]+ ){4}[\d*]+ +(cd .*)", line)
        assert match, line
        assert "%" not in match[1].replace(r"\%", ""), f"cron ends the command at the % of {line}"
        command = match[1].replace(r"\%", "%").replace("/srv/metrics", shlex.quote(str(tmp_path)))
        for path in PATHS:
            command = command.replace(path, shlex.quote(str(shipped.folder)))
        done = subprocess.run(["sh", "-c", command], env={"PATH": "/usr/bin:/bin"}, text=True, capture_output=True)
        assert (done.returncode, done.stderr) == (0, ""), f"{line}: {done.stdout}{done.stderr}"
        if "--quiet" in line or "--max-age" in line:
            assert done.stdout == "", f"a good night makes noise: {line}"
    assert (tmp_path / "index.html").stat().st_size > 10_000
    assert "failed" not in (shipped.folder / "logs" / "cron.log").read_text()


@pytest.mark.slow
def test_what_the_first_readme_showed_works_as_written(shipped: Project) -> None:
    (shipped.folder / "sql" / "30_daily_active_users.sql").unlink()
    shipped.write("daily_active_users.sql", ORIGINAL_METRIC)
    assert " 0 errors, " in shipped.list("--check").stdout
    for line in ORIGINAL_COMMANDS:
        run_command(shipped, shlex.split(line))
    shipped.database.execute(ORIGINAL_QUERIES)
    yesterday = date.today() - timedelta(days=1)
    active = f"SELECT COUNT(DISTINCT user_id) FROM user_activity WHERE DATE(happened_at) = '{yesterday}'"
    stored = {(name, day): value for name, day, value in shipped.database.metrics()}
    assert json.loads(stored["daily_active_users", str(yesterday)]) == {"count": shipped.database.rows(active)[0][0]}
    assert ("daily_active_users", "2025-01-15") in stored


def test_the_examples_of_the_hook_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    for name in ("curl", "mail"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\n[ {name} = curl ] || cat >> {tmp_path}/said\necho "$0 $@" >> {tmp_path}/said\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    lines = [line for block in blocks(ROOT / "docs" / "operations.md", "env") for line in block.splitlines()]
    example = re.findall(r"^# (METRICS_ON_END=.+)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert (len(lines), len(example)) == (3, 1)
    for line in [*lines, *example]:
        (tmp_path / ".env").write_text(f"{line}\n")
        settings = load_settings(tmp_path, {})
        assert settings.warnings == ()
        if settings.metrics_on_end.startswith("/opt/"):
            continue  # the script below
        run_on_end(settings.metrics_on_end, {"status": "failed", "exit_code": 1, "error": "it's broken", "resume": "r"})
    said = (tmp_path / "said").read_text()
    assert "ping.example.com/your-id/1" in said
    assert said.count("it's broken") == 2
    assert said.count("metrics failed") == 2


def test_the_script_for_a_chat_sends_json(tmp_path: Path) -> None:
    script = next(block for block in blocks(ROOT / "docs" / "operations.md", "python") if block.startswith("#!"))
    got: list[Any] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Chat) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sent = script.replace("https://chat.example.com/hook", f"http://127.0.0.1:{server.server_port}/")
        changed = [{"metric": "m", "metric_date": "d", "detail": "1 -> 2"}]
        warned = [{"metric": "m", "metric_date": "d", "warning": "n is 1"}]
        outcome = {"status": "failed", "error": 'a "b"', "changed": changed, "warned": warned}
        done = subprocess.run([sys.executable, "-c", sent], input=json.dumps(outcome), text=True, capture_output=True)
        server.shutdown()
    assert (done.returncode, done.stderr) == (0, "")
    assert got == [{"text": 'metrics failed a "b"\nd m: 1 -> 2\nd m: n is 1'}]


def test_python_and_ini_blocks_can_be_read() -> None:
    found = [block for page in PAGES for block in blocks(page, "python")]
    for block in found:
        compile(block, "docs", "exec")
    units = [block for page in PAGES for block in blocks(page, "ini")]
    for block in units:
        configparser.ConfigParser(strict=False, interpolation=None).read_string(block)
    assert (len(found), len(units)) == (3, 2)


# --- nothing is left out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [run_metrics, list_metrics])
def test_every_option_is_in_the_docs(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        module.parse_arguments(["--help"])
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", capsys.readouterr().out))
    assert options
    assert [option for option in options if not re.search(rf"{option}\b", ALL)] == []


def test_every_option_of_setup_is_in_the_docs() -> None:
    options = re.findall(r"^  (--[a-z-]+)", (ROOT / "setup.sh").read_text(), re.MULTILINE)
    assert options
    assert [option for option in options if f"./setup.sh {option}" not in ALL] == []


def test_every_setting_is_in_the_docs_and_read() -> None:
    names = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert [name for name in names if not re.search(rf"\b{name}\b", ALL)] == []
    known = {name.upper() for name in load_settings(ROOT / "tests", {}).__dataclass_fields__}
    assert names - {"METRIC_PARAM_CUTOFF_DATE"} <= known


def test_every_rule_is_in_the_docs_with_its_severity_its_reason_and_its_repair() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (error|warning) \| (.+) \| (.+) \|$", ALL, re.MULTILINE)
    assert {name: severity for name, severity, _, _ in rows} == RULES


def test_every_message_in_the_troubleshooting_is_one_that_the_program_says() -> None:
    files = [*ROOT.glob("*_metrics.py"), *(ROOT / "src").rglob("*.py"), *(ROOT / "config").glob("*.py")]
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(file.read_text() for file in files))
    text = TEXTS[ROOT / "docs" / "operations.md"].split("\n## Troubleshooting\n")[1].split("\n## ")[0]
    # Of "cannot connect to ...: (1045) Access denied" the server says the last part, and values stand for others.
    said = [re.sub(r"\(\d+\).*", "", quoted) for quoted in re.findall(r"^\| `(.+?)`", text, re.MULTILINE)]
    parts = [part.strip() for each in said for part in re.split(r"\.\.\.|[\d:'\"]|%\S*", each) if len(part.strip()) > 6]
    assert parts
    assert [part for part in parts if part not in source] == []


def test_every_name_that_the_design_mentions_exists() -> None:
    text = TEXTS[ROOT / "docs" / "design.md"]
    files = [*ROOT.glob("*_metrics.py"), *(ROOT / "src").rglob("*.py"), *(ROOT / "config").glob("*.py")]
    source = "\n".join(file.read_text() for file in files)
    functions = set(re.findall(r"`(?:\w+\.)?(\w+)\(\)`", text))
    assert functions
    assert [name for name in functions if not re.search(rf"def {name}\(", source)] == []
    constants = set(re.findall(r"`(_?[A-Z]+(?:_[A-Z]+)+|TRANSIENT)`", text))
    assert [name for name in constants if not re.search(rf"^{name}\b", source, re.MULTILINE)] == []
    paths = set(re.findall(r"\b(?:src|config|tests|benchmarks|sql|\.ci)/[\w./]*\w", text))
    assert [path for path in paths if not (ROOT / path).exists()] == []
    house = text.split("## The house")[1].split("## ")[0]
    assert [file.name for file in files if file.name != "__init__.py" and file.name not in house] == []


# --- the text itself --------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    heads = [re.match(r"#+ (.+)", line) for _, line in prose(page)]
    return {re.sub(r"[^\w -]", "", head[1].lower()).replace(" ", "-") for head in heads if head}


def test_every_link_leads_somewhere() -> None:
    broken = []
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{named(page)}: {target}")
    assert broken == []


def test_the_readme_is_short_and_no_line_of_prose_is_long() -> None:
    assert len(TEXTS[README].splitlines()) <= MOST_LINES
    long = [f"{named(page)}:{number}" for page in TEXTS for number, line in prose(page)
            if len(line) > LONGEST_LINE and not line.startswith("![")]  # fmt: skip
    assert long == []


def test_the_words_are_plain_and_nothing_of_a_machine_is_in_them() -> None:
    for page, text in TEXTS.items():
        for pattern in (PRIVATE_WORDS, MACHINE):
            found = pattern.search(text)
            assert found is None, f"{named(page)}: {found and found[0]}"


def test_version_and_dependencies_are_the_same_everywhere() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r'^version = "(.+)"$', project, re.MULTILINE) == [VERSION]
    assert re.findall(r"^## (\S+)$", TEXTS[ROOT / "CHANGELOG.md"], re.MULTILINE)[0] == VERSION
    listed = re.search(r"^dependencies = \[.*?\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert listed
    assert re.findall(r'"(.+?)"', listed[1]) == (ROOT / "requirements.txt").read_text().split()


def test_the_picture_is_there_and_small() -> None:
    picture = (ROOT / "docs" / "page.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 300_000
