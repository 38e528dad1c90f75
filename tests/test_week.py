"""A week of cron as a team lives it: what is mailed, what the probe says, what METRICS_ON_END gets, night by night."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from tests.conftest import Project

pytestmark = pytest.mark.slow

BEFORE = "CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.total')) AS DECIMAL(20,2))"
PAID = "SELECT COALESCE(SUM(amount), 0.00) FROM payments WHERE day"
FILES = {
    "10_paid.sql": f"SELECT ({PAID} = %(metric_date)s) AS paid",
    "incremental/20_total.sql": f"SELECT {BEFORE} + ({PAID} = %(metric_date)s) AS total FROM bi_metrics "
    "WHERE metrics = 'total' AND metric_date = %(metric_date)s - INTERVAL 1 DAY",
    "initial/20_total.sql": f"SELECT ({PAID} <= %(metric_date)s) AS total",
}


def day(ago: int) -> date:
    """Return the date so many days before today, in UTC."""
    return datetime.now(timezone.utc).date() - timedelta(days=ago)


@dataclass
class Night:
    """What came of a line of the crontab."""

    exit_code: int
    mail: str  # what cron would send: everything the line printed
    outcome: dict[str, Any]  # what METRICS_ON_END got on its standard input


@dataclass
class Cron:
    """A project that only its .env tells where the database is, with the line of the crontab and the probe."""

    project: Project

    def run(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command with the environment that cron gives: nothing but a short PATH."""
        return subprocess.run(
            [sys.executable, command, *words], cwd=self.project.folder, env={"PATH": "/usr/bin:/bin"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip

    def night(self, *words: str) -> Night:
        """The line `python run_metrics.py --quiet`; without --quiet where there are words."""
        done = self.run("run_metrics.py", *(words or ["--quiet"]))
        return Night(done.returncode, done.stdout, json.loads((self.project.folder / "outcome").read_text()))

    def probe(self) -> tuple[int, str]:
        """What the monitor asks."""
        done = self.run("list_metrics.py", "--status", "--max-age", "1")
        return done.returncode, done.stdout

    def a_day_passes(self) -> None:
        """Everything there is becomes a day older; then there are payments of the new day."""
        self.project.database.execute(
            "UPDATE bi_metrics SET metric_date = metric_date - INTERVAL 1 DAY ORDER BY metric_date; "
            "UPDATE bi_metric_state SET metric_date = metric_date - INTERVAL 1 DAY ORDER BY metric_date; "
            f"UPDATE payments SET day = day - INTERVAL 1 DAY; INSERT INTO payments VALUES ('{day(0)}', 10.00)"
        )


@pytest.fixture
def cron(project: Project) -> Cron:
    """A team's project on its first evening."""
    project.install()
    project.database.execute(f"CREATE TABLE payments (day DATE, amount DECIMAL(10,2)); "
                             f"INSERT INTO payments VALUES ('{day(1)}', 10.00), ('{day(0)}', 10.00)")  # fmt: skip
    for path, text in FILES.items():
        project.write(path, text)
    hook = 'test "$METRICS_STATUS" != "" && cat > outcome'
    lines = {**project.database.env, "METRICS_TIMEZONE": "UTC", "METRICS_ON_END": f"'{hook}'"}
    (project.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    return Cron(project)


def totals(project: Project) -> dict[str, str]:
    rows = project.database.rows(
        "SELECT CAST(metric_date AS CHAR), JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.total')) FROM bi_metrics "
        "WHERE metrics = 'total'"
    )
    return dict(rows)


def test_a_week_of_cron_nothing_wrong_is_silent_and_nothing_right_makes_noise(cron: Cron) -> None:
    project = cron.project
    # A good night.
    good = cron.night()
    assert (good.exit_code, good.mail, cron.probe()) == (0, "", (0, ""))
    assert (good.outcome["status"], good.outcome["committed"]) == ("ok", [str(day(1)), str(day(0))])

    # A night that fails: the mail has place, cause and next step; the hook has the same; the probe sees it.
    cron.a_day_passes()
    project.database.execute("RENAME TABLE payments TO moved")
    failed = cron.night()
    assert failed.exit_code == 1
    assert f"Error: {day(1)}: sql/10_paid.sql:1: statement 1 of 1: (1146)" in failed.mail
    again = "Run them again with: python run_metrics.py --quiet\n"
    assert f"Failed: {day(2)} to {day(0)}. {again}" in failed.mail
    assert failed.outcome["status"] == "failed"
    assert failed.outcome["failed"] == [str(day(2)), str(day(1)), str(day(0))]
    assert failed.outcome["error"] in failed.mail
    assert failed.outcome["resume"] == "python run_metrics.py --quiet"
    code, said = cron.probe()
    assert code == 1
    assert "failed" in said
    assert "(1146)" in said
    assert "newest final row" in said
    project.database.execute("RENAME TABLE moved TO payments")

    # Two nights without cron: nobody is mailed, so the probe must tell.
    cron.a_day_passes()
    cron.a_day_passes()
    code, said = cron.probe()
    assert code == 1
    assert f"missing: {day(2)} to {day(1)} of paid, total. Run: python run_metrics.py {day(2)} {day(1)}\n" in said

    # The next night mends them, says which, and all is well.
    mended = cron.night()
    assert mended.exit_code == 0
    assert [line.split("  ")[0] for line in mended.mail.splitlines()] == [str(day(2))]  # day(3) is the same
    assert mended.outcome["committed"] == [str(day(n)) for n in (3, 2, 1, 0)]
    assert cron.probe() == (0, "")

    # A correction in the past, run by hand: what it changed is said, and what must be computed again.
    cron.a_day_passes()
    assert (cron.night().mail, cron.probe()) == ("", (0, ""))
    project.database.execute(f"INSERT INTO payments VALUES ('{day(4)}', 0.50)")
    by_hand = cron.night(str(day(4)))
    assert by_hand.exit_code == 0
    assert f"    {day(4)} paid: changed paid: 10.00 -> 10.50\n" in by_hand.mail
    assert f"    {day(4)} total: changed total: 20.00 -> 20.50\n" in by_hand.mail
    assert [change["detail"] for change in by_hand.outcome["changed"]] == [
        "paid: 10.00 -> 10.50", "total: 20.00 -> 20.50",
    ]  # fmt: skip
    not_final = f"to be computed again: {day(3)} to {day(1)} of paid, total. Run: "
    assert f"Warning: {not_final}python run_metrics.py {day(3)} {day(1)}\n" in by_hand.mail
    assert by_hand.outcome["reopened"] == [{"start": str(day(3)), "end": str(day(1)), "metrics": ["paid", "total"]}]
    assert cron.probe()[0] == 1

    # The recovery: the night computes them again and says what it mended.
    recovered = cron.night()
    assert recovered.exit_code == 0
    assert recovered.mail.count("2 metrics: 1 changed, 1 unchanged") == 3
    assert cron.probe() == (0, "")
    assert list(totals(project).values())[-5:] == ["20.50", "30.50", "40.50", "50.50", "60.50"]
    cron.a_day_passes()
    assert (cron.night().mail, cron.probe()) == ("", (0, ""))


def test_a_run_that_could_not_start_or_was_locked_out_reaches_the_hook(cron: Cron) -> None:
    database = cron.project.database
    broken = cron.project.write("30_broken.sql", "SELECT 'never closed")
    refused = cron.night()
    assert (refused.exit_code, refused.outcome["status"]) == (2, "not-started")
    assert "sql/30_broken.sql:1:8: error: unterminated" in refused.mail
    assert "sql/30_broken.sql" in refused.outcome["error"]
    assert "sql/30_broken.sql" in cron.probe()[1]
    broken.unlink()
    other = cron.project.write("30_slow.sql", "SELECT SLEEP(3) AS n, %(metric_date)s AS day")
    first = cron.project.start("run_metrics.py", str(day(1)))
    while not database.rows("SELECT 1 FROM information_schema.processlist WHERE info LIKE '%30_slow.sql %SLEEP%' "
                            "AND id <> CONNECTION_ID()"):  # fmt: skip
        assert first.poll() is None
    locked = cron.night()
    assert (locked.exit_code, locked.outcome["status"]) == (3, "locked")
    assert "another run is in progress" in locked.outcome["error"]
    first.communicate(timeout=30)
    other.unlink()
