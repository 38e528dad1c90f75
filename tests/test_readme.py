"""The README is true: its commands run, its example passes every rule, and nothing is left out."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from datetime import date

import pytest

from config.database import load_settings
from demo import game
from src.sql_rules import RULES
from tests.conftest import ROOT, Project

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> Iterator[str]:
    for match in re.finditer(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        yield match[1]


@pytest.fixture
def shipped(project: Project) -> Project:
    """The project as it is shipped, on a small game."""
    shutil.copytree(ROOT / "sql", project.folder / "sql", dirs_exist_ok=True)
    game.load(project.database.connection, date.today(), game.TINY)
    project.env = {"METRIC_PARAM_CUTOFF_DATE": "2024-01-01", "METRICS_HISTORY_START": "2024-12-01"}
    return project


def test_every_command_of_the_readme_works_as_written(shipped: Project) -> None:
    commands = [
        shlex.split(line, comments=True)
        for block in blocks("bash") for line in block.splitlines() if line.startswith("python ")
    ]  # fmt: skip
    assert len(commands) > 20
    for words in commands:
        run = shipped.run if words[1] == "run_metrics.py" else shipped.list
        result = run(*words[2:])
        assert result.returncode == 0, f"{words}: {result.stderr or result.stdout}"


def test_the_example_file_of_the_readme_passes_every_rule_and_runs(shipped: Project) -> None:
    example = next(block for block in blocks("sql") if block.startswith("-- Metric:"))
    name = example.split("\n")[0].removeprefix("-- Metric: ")
    shipped.write(f"{name}.sql", example)
    checked = shipped.list("--check")
    assert checked.stdout.splitlines()[-1].endswith("0 errors, 0 warnings."), checked.stdout
    assert shipped.run("--last", "3", "--metric", name).returncode == 0
    assert len(shipped.database.metrics()) == 3


def test_the_queries_of_the_readme_run(shipped: Project) -> None:
    assert shipped.run().returncode == 0
    viewing = next(block for block in blocks("sql") if block.startswith("-- one metric over time"))
    for query in re.split(r";\n+", viewing):
        if query.strip():
            assert shipped.database.rows(query) or "changes" in query, query


@pytest.mark.parametrize("command", ["run_metrics.py", "list_metrics.py"])
def test_every_option_of_help_is_in_the_readme(project: Project, command: str) -> None:
    shown = (project.run if command == "run_metrics.py" else project.list)("--help").stdout
    for option in set(re.findall(r"--[a-z-]+", shown)) - {"--help"}:
        assert option in README, option


def test_every_option_of_setup_is_in_the_readme() -> None:
    for option in set(re.findall(r"^  (--[a-z-]+)", (ROOT / "setup.sh").read_text(), re.MULTILINE)):
        assert f"./setup.sh {option}" in README, option


def test_every_rule_is_in_the_readme_with_its_reason_and_repair() -> None:
    for name, rule in RULES.items():
        line = next((line for line in README.splitlines() if line.startswith(f"| `{name}` |")), "")
        assert rule.why in line, name
        assert rule.repair in line, name


def test_every_setting_is_in_the_example_file_and_read() -> None:
    names = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    known = {name.upper() for name in load_settings(ROOT / "tests", {}).__dataclass_fields__ if name[0] in "dml"}
    assert names == known | {"METRIC_PARAM_CUTOFF_DATE"}
