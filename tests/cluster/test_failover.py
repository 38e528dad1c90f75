"""A recovery range through a proxy while nodes of a Galera cluster are killed, stopped and come back."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from demo import game
from tests.cluster.conftest import figures
from tests.cluster.galera import ACCOUNT, Cluster, wait_for
from tests.conftest import ROOT, Database, Project, connect, run_script
from tests.proxy import Proxy
from tests.reaper import reaper

pytestmark = pytest.mark.slow

LAST = date.today() - timedelta(days=1)  # so that no date after it is missing
FIRST = LAST - timedelta(days=59)
DATES = [str(FIRST + timedelta(days=n)) for n in range(60)]
METRICS = 8
FAULT_AT = 20  # dates that are committed when the fault begins

Rows = dict[tuple[str, str], Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes behind a proxy, with the demo game."""
    running = Cluster()
    with reaper(running.folder), running:
        node = running.node(0)
        with connect(node.server) as connection:
            run_script(connection, "CREATE DATABASE game CHARACTER SET utf8mb4")
            connection.select_db("game")
            game.load(connection, LAST, game.TINY)
            run_script(connection, (ROOT / "sql" / "schema.sql").read_text())
        figures.append(f"Galera 26.{node.status('wsrep_provider_version').split('(')[0]}, 3 nodes behind haproxy")
        yield running


@pytest.fixture
def database(cluster: Cluster) -> Database:
    """The cluster's database without a metric, in the place of the private server of other tests."""
    with cluster.connect() as connection:
        for table in ("bi_metrics", "bi_metric_state", "bi_metric_changes"):
            connection.cursor().execute(f"DELETE FROM game.{table}")
    return Database(cluster.node(0).server, "game", None)


@pytest.fixture
def shipped(project: Project, cluster: Cluster) -> Project:
    """The shipped metrics; commands go through the proxy."""
    project.write_shipped(of_days_alone=True)
    project.env = {
        "DB_SOCKET": "", "DB_HOST": "127.0.0.1", "DB_PORT": str(cluster.proxy_port), "DB_USER": ACCOUNT,
        "METRIC_PARAM_CUTOFF_DATE": str(FIRST - timedelta(days=100)),
    }  # fmt: skip
    return project


def stored(cluster: Cluster, index: int) -> Rows:
    """Return every metric row of a node as parsed JSON, after it has applied all that is committed elsewhere."""
    with cluster.node(index).connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION wsrep_sync_wait = 1")
        cursor.execute("SELECT metrics, metric_date, data_type, f_list, value_list FROM game.bi_metrics")
        found = cursor.fetchall()
    return {(row[0], str(row[1])): (row[2], *(json.loads(v, parse_float=Decimal) for v in row[3:])) for row in found}


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Rows]:
    """What an initial load of the dates writes, once known."""
    return {}


def expected(shipped: Project, cluster: Cluster, known: dict[str, Rows]) -> Rows:
    """Return the rows of an initial load of all dates, and leave none."""
    if not known:
        loaded = shipped.run("--initial", DATES[0], DATES[-1])
        assert (loaded.returncode, loaded.stderr) == (0, "")
        known["rows"] = stored(cluster, 0)
        cluster.node(0).execute("DELETE FROM game.bi_metrics", "DELETE FROM game.bi_metric_state")
    assert len(known["rows"]) == len(DATES) * METRICS
    return known["rows"]


@dataclass
class Disturbed:
    """A range that is read while it runs; `fault` begins in another thread when 20 dates are committed."""

    project: Project
    fault: Callable[[], None]
    committed: list[str] = field(default_factory=list)  # as printed
    gap: float = 0  # seconds between two date lines at most
    errors: str = ""

    def run(self) -> int:
        """Return the exit code, after the end of the run and of the fault."""
        process = self.project.start("run_metrics.py", DATES[0], DATES[-1], "--retries", "12")
        fault = threading.Thread(target=self.fault)
        errors = threading.Thread(target=self._read_errors, args=[process.stderr])
        errors.start()
        clock = 0.0
        for line in process.stdout:
            self.gap = max(self.gap, time.monotonic() - clock) if clock else 0
            clock = time.monotonic()
            self.committed += re.findall(r"^(\d{4}-\d\d-\d\d)  \d+ metrics", line)
            if len(self.committed) == FAULT_AT:
                fault.start()
        for each in (fault, errors):
            each.join()
        return int(process.wait())

    def _read_errors(self, stream: Any) -> None:
        self.errors = stream.read()


def kill_writer(cluster: Cluster) -> None:
    cluster.writer().kill()


def stop_writer(cluster: Cluster) -> None:
    cluster.writer().stop()


def lose_two_of_three_for_a_while(cluster: Cluster) -> None:
    """Kill two nodes; the third has no quorum. Once it has noticed they start again, as machines do after a reboot."""
    nodes = [cluster.node(index) for index in range(3)]
    left = cluster.writer()
    others = [node for node in nodes if node is not left]
    for node in others:
        node.kill()
    wait_for("the loss of the quorum", lambda: left.status("wsrep_cluster_status") != "Primary")
    starts = [threading.Thread(target=node.start) for node in others]
    for start in starts:
        start.start()
    for start in starts:
        start.join()


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("kill -9 of the writer", kill_writer),
        ("clean stop of the writer", stop_writer),
        ("kill -9 of two of three, which start again", lose_two_of_three_for_a_while),
    ],
)
def test_a_range_survives(
    shipped: Project, cluster: Cluster, undisturbed: dict[str, Rows], name: str, fault: Callable[[Cluster], None]
) -> None:
    wanted = expected(shipped, cluster, undisturbed)
    range_ = Disturbed(shipped, lambda: fault(cluster))
    assert range_.run() == 0, range_.errors
    for index in range(3):
        cluster.node(index).start()  # those that are down
    assert range_.committed == DATES
    for index in range(3):
        assert stored(cluster, index) == wanted
    # While the writer goes, a reader may already come to the next node; then it is not used.
    said = [line for line in range_.errors.splitlines() if not line.startswith("Warning: fewer readers than ")]
    assert said
    tries = [re.search(r"^Warning: .*; trying (\S+) again in \d+\.\d s$", line) for line in said]
    assert all(found and found[1] in DATES for found in tries), range_.errors
    print(f"\n{name}:\n{range_.errors}")
    figures.append(f"{name}: {range_.gap:.1f} s of interruption, {len(said)} tries more, 0 of {len(wanted)} rows lost")


def test_conflicting_commits_on_two_nodes_are_tried_again(shipped: Project, cluster: Cluster, tmp_path: Path) -> None:
    assert shipped.run(DATES[0]).returncode == 0
    wanted = stored(cluster, 0)
    conflicts: list[bytes] = []

    def conflict_before_commit(data: bytes) -> bytes:
        if data[4:] == b"\x03COMMIT" and not conflicts:
            conflicts.append(data)
            cluster.node(1).execute("UPDATE game.bi_metrics SET value_list = '{}' WHERE metrics = 'total_revenue'")
        return data

    with Proxy(tmp_path / "proxy", cluster.node(0).server.socket, rewrite=conflict_before_commit) as proxy:
        result = shipped.run(DATES[0], env={"DB_HOST": "", "DB_SOCKET": str(proxy.path), "DB_USER": "root"})
    assert conflicts, result.stderr
    assert result.returncode == 0, result.stderr
    assert re.match(rf"Warning: {DATES[0]}: \(1213\) .*; trying {DATES[0]} again in ", result.stderr)
    assert [stored(cluster, index) for index in range(3)] == [wanted] * 3
