"""Metrics with real work to disturb, and what must hold of their rows whatever happened."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from subprocess import CompletedProcess
from typing import Any

from tests.conftest import Database, Project, metric_sql

FIRST = date(2025, 1, 1)
NUMBERS = 1000  # rows of the table that cross joins get their work from
ROWS = "metrics, metric_date, data_type, f_list, value_list"
NUMBERS_TABLE = f"""
CREATE TABLE numbers (n INT NOT NULL PRIMARY KEY);
INSERT INTO numbers VALUES {", ".join(f"({n})" for n in range(NUMBERS))};
"""
SOURCE = f"""{NUMBERS_TABLE}
CREATE TABLE plays (day DATE NOT NULL, user_id INT NOT NULL, KEY (day));
INSERT INTO plays SELECT '{FIRST}' + INTERVAL n % 100 DAY, n * 7 % 90 FROM numbers;
CREATE TABLE day_users (day DATE NOT NULL PRIMARY KEY, users INT NOT NULL, load_sum BIGINT NOT NULL);
"""
HELPER = """\
-- Metric: day_users
-- Description: Fills a helper table, with a temporary table on the way
SET @day := DATE(%(metric_date)s);
CREATE TEMPORARY TABLE found AS SELECT COUNT(DISTINCT user_id) AS users FROM plays WHERE day = @day;
INSERT INTO day_users SELECT @day, f.users, w.s FROM found f,
  (SELECT SUM((a.n * b.n + DAY(@day)) % 7) AS s FROM numbers a JOIN numbers b ON b.n < {width}) w
ON DUPLICATE KEY UPDATE users = f.users, load_sum = w.s;
DROP TEMPORARY TABLE found;
"""
TOTAL = "SELECT CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.n')) AS SIGNED) FROM bi_metrics"


_UNDISTURBED: dict[tuple[int, int], tuple[list[tuple[Any, ...]], float]] = {}  # by days and width: runs once a session


def busy(width: int) -> str:
    """Return an expression that costs the server NUMBERS * width rows of a cross join, and depends on the date."""
    work = "SELECT SUM((a.n * b.n + DAY(%(metric_date)s)) % 7) FROM numbers a JOIN numbers b"
    factor, rest = divmod(width, NUMBERS)
    more = f" JOIN numbers c ON c.n < {factor}" if factor else ""
    return f"({work}{f' ON b.n < {rest}' if not factor else ''}{more})"


def slow(project: Project, width: int) -> None:
    """Write a metric whose one statement is `busy(width)`."""
    if not project.database.rows("SHOW TABLES LIKE 'numbers'"):
        project.database.execute(NUMBERS_TABLE)
    project.write("03_slow.sql", metric_sql("slow", busy(width)))


def wait_until(holds: Callable[[], Any], seconds: float = 30, pause: float = 0.01) -> None:
    """Return when `holds` is true; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(pause)


@dataclass
class Workload:
    """A project with five files on some dates: a helper, three cards, and a cumulative metric with an initial file."""

    project: Project
    days: int
    width: int = 100

    def __post_init__(self) -> None:
        self.database.execute(SOURCE)
        self.project.write("01_day_users.sql", HELPER.replace("{width}", str(self.width)))
        self.project.write("02_users.sql", metric_sql("users", "MAX(users)", where="FROM day_users WHERE day = "
                           "%(metric_date)s HAVING COUNT(*) = 1"))  # fmt: skip
        self.project.write("03_busy.sql", metric_sql("busy", busy(self.width)))
        before = f"({TOTAL} WHERE metrics = 'total' AND metric_date = %(metric_date)s - INTERVAL 1 DAY)"
        today = "(SELECT COUNT(*) FROM plays WHERE day = %(metric_date)s)"
        self.project.write("incremental/04_total.sql", metric_sql("total", f"{before} + {today}"))
        until = "(SELECT COUNT(*) FROM plays WHERE day <= %(metric_date)s)"
        self.project.write("initial/04_total.sql", metric_sql("total", until))
        self.project.write("05_last.sql", metric_sql("last", busy(self.width)))

    @property
    def database(self) -> Database:
        return self.project.database

    @property
    def range(self) -> tuple[str, str]:
        return str(FIRST), str(FIRST + timedelta(days=self.days - 1))

    @property
    def metrics_a_date(self) -> int:
        return 4

    def rows(self) -> list[tuple[Any, ...]]:
        """Return every metric row and every helper row."""
        found = self.database.rows(f"SELECT {ROWS} FROM bi_metrics ORDER BY metric_date, metrics")
        return found + self.database.rows("SELECT * FROM day_users ORDER BY day")

    def clear(self) -> None:
        self.database.execute("DELETE FROM bi_metrics; DELETE FROM bi_metric_state; DELETE FROM day_users")
        (self.project.folder / "logs" / "metrics.log").unlink(missing_ok=True)

    def undisturbed(self) -> tuple[list[tuple[Any, ...]], float]:
        """Return the rows of a run of all dates in peace and the seconds it took; it leaves nothing."""
        key = (self.days, self.width)
        if key not in _UNDISTURBED:
            _UNDISTURBED[key] = self._run_in_peace()
        return _UNDISTURBED[key]

    def _run_in_peace(self) -> tuple[list[tuple[Any, ...]], float]:
        clock = time.monotonic()
        result = self.project.run(*self.range)
        seconds = time.monotonic() - clock
        assert result.returncode == 0, result.stderr
        rows = self.rows()
        assert len(rows) == self.days * (self.metrics_a_date + 1)
        self.clear()
        return rows, seconds

    def whole_dates(self) -> list[str]:
        """Return the dates that are stored; AssertionError where one is stored in part."""
        counts = self.database.rows(
            "SELECT d.day, (SELECT COUNT(*) FROM bi_metrics m WHERE m.metric_date = d.day), "
            "(SELECT COUNT(*) FROM day_users u WHERE u.day = d.day), (SELECT COUNT(*) FROM bi_metric_state s WHERE "
            "s.metric_date = d.day AND s.computed_at IS NOT NULL) FROM (SELECT metric_date AS day FROM bi_metrics "
            "UNION SELECT day FROM day_users "
            "UNION SELECT metric_date FROM bi_metric_state WHERE computed_at IS NOT NULL) d ORDER BY day"
        )
        for day, metrics, helpers, states in counts:
            whole = (metrics, helpers, states) == (self.metrics_a_date, 1, self.metrics_a_date + 1)
            assert whole, f"{day} is stored in part: {metrics} metrics, {helpers} helper rows, {states} states"
        return [str(row[0]) for row in counts]


def reported(output: str) -> list[str]:
    """Return the dates that a run said to have committed."""
    return re.findall(r"^(\d{4}-\d\d-\d\d)  \d+ metrics", output, re.MULTILINE)


def resume(project: Project, stderr: str) -> CompletedProcess[str]:
    """Run the command that a run printed to go on with."""
    found = re.search(r"Resume with: python run_metrics\.py (.*)", stderr)
    assert found, stderr
    return project.run(*shlex.split(found[1]), "--wait", "60")


def sessions(database: Database) -> list[tuple[int, str]]:
    """Return id and statement of the sessions of runs in this database."""
    rows = database.rows(
        "SELECT id, info FROM information_schema.processlist "
        f"WHERE db = '{database.name}' AND id <> CONNECTION_ID() AND command <> 'Killed'"
    )
    return [(int(number), str(statement or "")) for number, statement in rows]


def at_work(database: Database, file: str = "bi_metrics sql/") -> list[int]:
    """Return the sessions whose statement is of a metric file."""
    return [number for number, statement in sessions(database) if file in statement]


def log_has(project: Project, text: str) -> bool:
    """Return whether the log is there and holds `text`."""
    return (project.folder / "logs" / "metrics.log").exists() and text in project.log()
