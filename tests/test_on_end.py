"""METRICS_ON_END, with real shell commands: what it is given, and that nothing it does hurts the run."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from config.database import load_settings
from src.display.on_end import run_on_end
from tests.conftest import ROOT
from tests.workload import wait_until

OUTCOME = {
    "status": "failed",
    "exit_code": 1,
    "error": 'sql/10_a.sql:3: it\'s "broken" $HOME\nsecond line é',
    "resume": "python run_metrics.py 2025-01-15 2025-01-31",
    "dates": ["2025-01-14"],
}
Run = Callable[..., list[tuple[str, str]]]

pytestmark = pytest.mark.usefixtures("once")


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command, and return what was logged: the logger's last word and the text."""
    monkeypatch.setattr(logging.getLogger("bi_metrics"), "propagate", True)  # a command's own set-up turns it off
    caplog.set_level(logging.INFO, logger="bi_metrics")

    def run_and_read(command: str, outcome: dict[str, object] = OUTCOME, **more: float) -> list[tuple[str, str]]:
        caplog.clear()
        run_on_end(command, outcome, **more)
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    return run_and_read


def test_the_outcome_is_one_line_of_json_on_stdin_and_four_variables(run: Run, tmp_path: Path) -> None:
    names = ("METRICS_STATUS", "METRICS_EXIT_CODE", "METRICS_ERROR", "METRICS_RESUME")
    writes = [f'printf %s "${name}" >{name}' for name in names]
    assert run("; ".join([f"cd {shlex.quote(str(tmp_path))}", "cat >json", *writes])) == []
    text = (tmp_path / "json").read_text()
    assert (json.loads(text), text.count("\n"), text[-1]) == (OUTCOME, 1, "\n")
    assert [(tmp_path / name).read_text() for name in names] == ["failed", "1", OUTCOME["error"], OUTCOME["resume"]]


def test_what_a_good_run_leaves_out_is_empty(run: Run) -> None:
    outcome = {"status": "ok", "exit_code": 0, "error": None, "resume": None}
    said = run('echo "$METRICS_STATUS,$METRICS_EXIT_CODE,$METRICS_ERROR,$METRICS_RESUME."; cat', outcome)
    assert said == [("INFO", "METRICS_ON_END: ok,0,,."), ("INFO", f"METRICS_ON_END: {json.dumps(outcome)}")]


def test_the_callers_environment_is_passed_on_without_the_password(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "secret")
    monkeypatch.setenv("OF_THE_CALLER", "is there")
    said = run('echo "$OF_THE_CALLER"; env')
    assert said[0] == ("INFO", "METRICS_ON_END: is there")
    assert not any("secret" in text for _, text in said)
    assert os.environ["DB_PASSWORD"] == "secret"


def test_output_goes_to_the_file_log_alone(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    assert run("echo out; echo err >&2") == [("INFO", "METRICS_ON_END: out"), ("INFO", "METRICS_ON_END: err")]
    assert {record.name for record in caplog.records} == {"bi_metrics.sql"}


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("exit 7", "failed with exit code 7"),
        ("echo sorry; exit 1", "failed with exit code 1; logs/metrics.log has what it printed"),
        ("no_such_command 2>/dev/null", "failed with exit code 127"),
        ("syntax ( error", "failed with exit code 2; logs/metrics.log has what it printed"),
        ("kill -KILL $$", "was ended by signal 9"),
    ],
)
def test_a_failure_is_one_warning(run: Run, caplog: pytest.LogCaptureFixture, command: str, problem: str) -> None:
    assert run(command)[-1] == ("WARNING", f"METRICS_ON_END {problem}")
    assert caplog.records[-1].name == "bi_metrics"


def test_no_message_holds_the_text_of_the_command(run: Run) -> None:
    assert not any("token" in text for _, text in run("true token; exit 1"))
    assert not any("token" in text for _, text in run("true token\0"))


@pytest.mark.parametrize("command", ["true", "sleep 0.1", "exec <&-; sleep 0.1", "exec >&- 2>&-", "read line; exit"])
def test_a_command_that_does_not_read_its_stdin_breaks_nothing(run: Run, command: str) -> None:
    assert run(command, {**OUTCOME, "changes": ["x" * 100] * 20_000}) == []


def test_after_its_time_the_command_is_killed_with_all_that_it_started(run: Run, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    begin = time.monotonic()
    said = run(f"echo begun; sleep 60 & echo $! $$ >{shlex.quote(str(pids))}; trap '' TERM; wait", seconds=0.5)
    assert time.monotonic() - begin < 10
    assert said == [
        ("INFO", "METRICS_ON_END: begun"),
        ("WARNING", "METRICS_ON_END was stopped after 0.5 seconds; logs/metrics.log has what it printed"),
    ]
    for pid in pids.read_text().split():
        assert is_gone(pid), pid


def is_gone(pid: str) -> bool:
    """Tell whether a process has ended, at the latest a second from now."""
    for _ in range(100):
        try:
            if re.search(r"\) Z ", Path(f"/proc/{pid}/stat").read_text()):
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_a_job_that_lets_go_of_the_output_may_go_on(run: Run, tmp_path: Path) -> None:
    done = tmp_path / "done"
    assert run(f"(sleep 0.5; touch {shlex.quote(str(done))}) >/dev/null 2>&1 &", seconds=20) == []
    assert not done.exists()
    wait_until(done.exists)


@pytest.mark.parametrize("error", ["x" * 3_000_000, "a\0b", "\udcff", "\ud800 日本"])
def test_any_text_of_an_error_reaches_the_command(run: Run, error: str) -> None:
    said = run('[ -n "$METRICS_ERROR" ] && cat >/dev/null && echo reached', {**OUTCOME, "error": error})
    assert said == [("INFO", "METRICS_ON_END: reached")]


def test_what_the_command_prints_need_not_be_text_and_is_cut(run: Run) -> None:
    assert run(r"printf '\377\n'") == [("INFO", "METRICS_ON_END: \ufffd")]
    assert sum(len(text) for _, text in run("yes | head -c 1000000")) < 200_000


def test_output_without_an_end_is_read_and_not_held(tmp_path: Path) -> None:
    """In a process of its own, so that its memory tells; the command must not be ended by a closed pipe."""
    done = tmp_path / "done"
    command = f"yes | head -c 300000000 && touch {shlex.quote(str(done))}"
    code = (
        "import resource; from src.display.on_end import run_on_end;"
        f"before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; run_on_end({command!r}, {{}});"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert done.exists()
    assert int(grown) < 5_000  # kilobytes


@pytest.mark.parametrize("command", ["cat", "sleep 0.2; cat", "head -c 1", "cat | cat", "cat >/dev/null; echo x"])
def test_a_long_outcome_reaches_a_command_that_prints_while_it_reads(run: Run, command: str) -> None:
    outcome = {**OUTCOME, "changes": ["x" * 100] * 20_000}
    said = "\n".join(text for _, text in run(command, outcome, seconds=10))
    assert said.startswith(("METRICS_ON_END: {", "METRICS_ON_END: x"))


def test_what_was_printed_before_the_time_was_up_is_logged(run: Run) -> None:
    begin = time.monotonic()
    said = run("echo begun; exec >&- 2>&-; sleep 60", seconds=0.5)
    assert time.monotonic() - begin < 10
    assert [text.split(";")[0].removeprefix("METRICS_ON_END") for _, text in said] == [
        ": begun", " was stopped after 0.5 seconds",
    ]  # fmt: skip


def test_what_a_command_leaves_behind_with_its_output_is_killed_too(run: Run, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    said = run(f"sleep 60 & echo $! >{shlex.quote(str(pid))}; echo done", seconds=0.5)
    assert [kind for kind, _ in said] == ["INFO", "WARNING"]
    assert is_gone(pid.read_text().strip())


def test_control_characters_of_an_error_reach_the_command_spelt_out(run: Run) -> None:
    said = run('printf %s "$METRICS_ERROR"', {**OUTCOME, "error": "a\x1b[2Jb\tc\nd"})
    assert said == [("INFO", r"METRICS_ON_END: a\x1b[2Jb\tc"), ("INFO", "METRICS_ON_END: d")]


def test_without_a_shell_the_run_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("true") == [("WARNING", "METRICS_ON_END could not be run: [Errno 2] No such file or directory: 'sh'")]


def test_no_command_does_nothing(run: Run) -> None:
    assert run("") == []


def test_the_example_of_env_example_works_as_written(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    example = re.search(r"^# (METRICS_ON_END=.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert example is not None
    (tmp_path / ".env").write_text(example[1])
    mail = tmp_path / "mail"
    mail.write_text(f'#!/bin/sh\n(echo "$@"; cat) >{shlex.quote(str(tmp_path))}/sent\n')
    mail.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    command = load_settings(tmp_path, {}).metrics_on_end
    assert run(command, {**OUTCOME, "status": "ok"}) == []
    assert not (tmp_path / "sent").exists()
    assert run(command) == []
    assert (tmp_path / "sent").read_text() == f"-s metrics failed me@my.org\n{OUTCOME['error']}\n"
