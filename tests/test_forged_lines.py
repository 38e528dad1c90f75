"""No value of the data begins a line of its own in what the commands print, which cron mails to people."""

from __future__ import annotations

import json
from datetime import date, timedelta

import pytest

from src.display.log import table, write_line
from tests.conftest import Project, metric_sql

DAY = str(date.today() - timedelta(days=1))
FORGED = "\nError: forged"
SQL = r"'\nError: forged\r\n\033[2J'"  # the same as a string of SQL
CONTROL = "x\nError: forged\rError: forged\x1b[2J\u2028Error: forged\x85Error: forged\x0bError: forged"
LINES = metric_sql("m").replace("JSON_OBJECT('n', 1)", r"""'{"a":\n1}'""")  # MariaDB keeps JSON as it is written


def honest(text: str) -> None:
    """Fail for a line that data began, and for a control character."""
    assert not any(line.startswith(("Error: forged", "1}")) for line in text.splitlines()), text
    assert all(line.isprintable() for line in text.split("\n")), repr(text)


def test_a_check_that_fails_shows_its_rows_on_one_line(project: Project) -> None:
    project.write("m.sql", metric_sql("m", header=f"-- Check: SELECT {SQL}, CHAR(10, 27, 7 USING utf8mb4)"))
    result = project.run(DAY)
    assert result.returncode == 1
    assert "check failed" in result.stderr
    honest(result.stdout + result.stderr)
    assert json.loads(project.run(DAY, "--json", "--quiet").stdout)["error"].isprintable()


def test_keys_and_values_that_change_stay_on_their_line(project: Project) -> None:
    def write(value: str) -> None:
        changed = f"JSON_OBJECT(CONCAT('k', {SQL}), {value})"
        project.write("m.sql", metric_sql("m").replace("JSON_OBJECT('n', 1)", changed))

    write("1")
    assert project.run(DAY).returncode == 0
    write(f"CONCAT('v', {SQL})")
    for words in ([DAY, "--dry-run"], [DAY]):
        result = project.run(*words)
        assert "forged" in result.stdout
        honest(result.stdout + result.stderr)


def test_json_that_holds_lines_stays_on_one(project: Project) -> None:
    project.write("m.sql", LINES)
    result = project.run(DAY, "--dry-run")
    assert (result.returncode, result.stderr) == (0, "")
    assert "1 new" in result.stdout
    honest(result.stdout)


def test_names_of_rows_and_files_stay_on_their_line(project: Project) -> None:
    project.write(f"a{FORGED}.sql", metric_sql("m"))  # an error, for the name is not in it
    project.write(f"b{FORGED}\x1b.sql", "-- Description: d\n\x1b\nSELECT 1 AS n, %(metric_date)s AS d")
    project.database.execute(
        "INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date) "
        f"VALUES (CONCAT('c', {SQL}), 'card', '[]', '1', '{DAY}')"
    )
    for words in ([], ["--check"], ["--check", "--offline"], ["--status"], ["--status", "--max-age", "1"]):
        result = project.list(*words)
        assert "forged" in result.stdout, words
        honest(result.stdout + result.stderr)
    for words in ([DAY], [DAY, "--json"]):
        result = project.run(*words)
        assert "forged" in result.stdout + result.stderr
        honest(result.stdout + result.stderr)


def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_line(CONTROL)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    honest(printed)


def test_a_table_has_a_line_for_each_row() -> None:
    text = table([["head"], [CONTROL], ["x"]])
    assert len(text.splitlines()) == 4
    honest(text)
