"""Faults for real: killed runs, cut lines, dead servers, locks, full disks. No date in part, no doubled run, no gap."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.server import Server
from tests.conftest import ROOT, Database, Project, connect, metric_sql, run_script
from tests.engines import install
from tests.proxy import Cut, Proxy
from tests.workload import NUMBERS_TABLE, Workload, at_work, busy, log_has, reported, resume, sessions, slow, wait_until

pytestmark = pytest.mark.slow

DATE = "2025-01-01"
NEXT = "2025-01-02"
TEN_SECONDS = 100_000  # width of a cross join that takes about so long
A_SECOND = 7_000  # and of one that takes about one


@pytest.fixture(scope="module")
def own_server(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server to hurt, and one that keeps what it has acknowledged."""
    hurt = Server(tmp_path_factory.mktemp("hurt"), install(engine), ("--innodb-buffer-pool-size=128M",))
    hurt.start()
    yield hurt
    hurt.stop()


@pytest.fixture
def server(own_server: Server) -> Server:
    """The server of this module, up again whatever the test before did."""
    own_server.start()
    return own_server


@pytest.fixture
def work(project: Project) -> Workload:
    return Workload(project, days=8)


@pytest.fixture
def few(project: Project) -> Workload:
    return Workload(project, days=3)


def moments(seconds: float, count: int) -> list[float]:
    """Return moments spread over a run that takes `seconds`."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    spread = random.Random(seed)
    return [0.25 + (seconds - 0.25) * (step + spread.random()) / count for step in range(count)]


# --- the run is killed ------------------------------------------------------------------------------------------------


def test_a_run_killed_at_any_moment_leaves_whole_dates_and_the_next_run_finishes(work: Workload) -> None:
    project = work.project
    expected, seconds = work.undisturbed()
    for moment in moments(seconds, 4):
        run = project.start("run_metrics.py", *work.range)
        time.sleep(moment)
        run.kill()
        out, err = run.communicate(timeout=30)
        assert run.returncode in (-signal.SIGKILL, 0), err
        assert "Error" not in err
        stored = work.whole_dates()
        finished = project.run(*work.range, "--wait", "60")
        assert finished.returncode == 0, finished.stderr
        assert set(reported(out)) | set(stored) <= set(work.whole_dates())
        assert work.rows() == expected
        work.clear()


def test_a_signal_during_commit_says_that_the_date_may_be_committed(few: Workload, tmp_path: Path) -> None:
    expected, _ = few.undisturbed()
    cut = Cut(b"\x03COMMIT", "silent", skip=1)
    with Proxy(tmp_path / "p.sock", few.database.server.socket, cut) as proxy:
        run = few.project.start("run_metrics.py", *few.range, env={"DB_SOCKET": str(proxy.path)})
        wait_until(lambda: cut.done and NEXT in few.whole_dates())
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate(timeout=30)
    assert run.returncode == 143
    assert "Error: interrupted by SIGTERM. Beware: the reply to COMMIT did not come, so the date may be stored\n" in err
    resume_with = f"Resume with: python run_metrics.py {NEXT} 2025-01-03\n"
    assert f"Committed {DATE}. The date in progress may be stored all the same. {resume_with}" in err
    assert resume(few.project, err).returncode == 0
    few.whole_dates()
    assert few.rows() == expected


def test_after_kill_9_the_next_run_waits_for_the_orphan_or_names_the_kill(project: Project) -> None:
    slow(project, 5 * A_SECOND)
    for way in ("wait", "kill"):
        run = project.start("run_metrics.py", DATE)
        wait_until(lambda: at_work(project.database, "03_slow"))
        run.kill()
        run.communicate()
        refused = project.run(DATE)
        assert refused.returncode == 3
        found = re.search(
            r"another run is in progress on database \w+: connection (\d+) from \S+, running sql/03_slow.sql "
            rf"{DATE}\. .*at once with: KILL (\d+)", refused.stderr,
        )  # fmt: skip
        assert found, refused.stderr
        assert [int(found[1])] == [int(found[2])] == at_work(project.database)
        if way == "kill":
            project.database.execute(f"KILL {found[2]}")
        assert project.run(DATE, *(["--wait", "60"] if way == "wait" else ["--wait", "2"])).returncode == 0
        assert len(project.database.metrics()) == 1


# --- the line is cut --------------------------------------------------------------------------------------------------


def test_a_run_whose_connection_is_killed_at_any_moment_carries_on(work: Workload) -> None:
    expected, seconds = work.undisturbed()
    for moment in moments(seconds - 0.3, 3):
        run = work.project.start("run_metrics.py", *work.range)
        wait_until(lambda: sessions(work.database))
        time.sleep(max(0.0, moment - 0.25))
        killed = sessions(work.database)
        for number, _ in killed:
            work.database.execute(f"KILL {number}")
        _, err = run.communicate(timeout=60)
        assert run.returncode == 0, err
        told = "again in" in err or "could not look for what is due" in err  # the latter: killed after the last date
        assert told == bool(killed), err
        work.whole_dates()
        assert work.rows() == expected
        work.clear()


CUTS = [(where, moment) for where in ("03_busy.sql 2025-01-02", "\x03COMMIT") for moment in ("before", "after")]
CUTS += [("GET_LOCK", "after"), ("EXPLAIN", "after"), ("SELECT UNIX_TIMESTAMP(), ", "after")]
CUTS += [("SAVEPOINT bi_", "after"), ("RELEASE SAVEPOINT", "after"), ("INSERT INTO bi_metric_state", "before")]


@pytest.mark.parametrize(("where", "moment"), CUTS)
def test_a_line_cut_there_repeats_the_whole_date(few: Workload, tmp_path: Path, where: str, moment: str) -> None:
    expected, _ = few.undisturbed()
    cut = Cut(where.encode(), moment)
    with Proxy(tmp_path / "p.sock", few.database.server.socket, cut) as proxy:
        result = few.project.run(*few.range, env={"DB_SOCKET": str(proxy.path)})
    assert (result.returncode, cut.done) == (0, 1), result.stderr
    assert "again in" in result.stderr
    assert ("the reply to COMMIT was lost" in result.stderr) == (where == "\x03COMMIT")
    few.whole_dates()
    assert few.rows() == expected


def test_a_commit_that_outlasts_the_statement_limit_is_a_lost_reply(few: Workload, tmp_path: Path) -> None:
    expected, _ = few.undisturbed()
    cut = Cut(b"\x03COMMIT", "silent")
    _short_of_grace(few.project)
    with Proxy(tmp_path / "p.sock", few.database.server.socket, cut) as proxy:
        env = {"DB_SOCKET": str(proxy.path), "METRIC_TIMEOUT_SECONDS": "1"}
        run = few.project.start("short_of_grace.py", *few.range, env=env)
        _, err = run.communicate(timeout=60)
    assert (run.returncode, cut.done) == (0, 1), err
    assert re.search(rf"Warning: {DATE}: the reply to COMMIT was lost: .*trying {DATE} again in", err), err
    few.whole_dates()
    assert few.rows() == expected


def test_a_lost_session_still_at_work_is_killed_and_the_date_repeated(few: Workload, tmp_path: Path) -> None:
    slow(few.project, 3 * A_SECOND)
    cut = Cut(b"03_slow.sql", "within")
    with Proxy(tmp_path / "p.sock", few.database.server.socket, cut) as proxy:
        run = few.project.start("run_metrics.py", NEXT, env={"DB_SOCKET": str(proxy.path)})
        _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert re.search(rf"Warning: {NEXT}: sql/03_slow\.sql:5: statement 1 of 1: \(2013\).* again in", err), err
    assert "killed our lost session" in few.project.log()


def test_the_last_error_names_the_first_cause_with_file_and_line(few: Workload, tmp_path: Path) -> None:
    slow(few.project, A_SECOND)
    cut = Cut(b"03_slow.sql", "within")
    with Proxy(tmp_path / "p.sock", few.database.server.socket, cut) as proxy:
        words = (NEXT, "--retries", "1")
        run = few.project.start("run_metrics.py", *words, env={"DB_SOCKET": str(proxy.path)})
        wait_until(lambda: cut.done)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 1
    assert reported(out) == few.whole_dates() == []
    assert re.search(r"Error: 2025-01-02: sql/03_slow\.sql:5: .*\(2013\) .*The last try: .*cannot connect", err), err
    assert f"Nothing was committed. Resume with: python run_metrics.py {NEXT} --retries 1" in err


# --- the server dies, stops, refuses ----------------------------------------------------------------------------------


def test_a_run_outlives_a_server_that_is_killed_and_started_again(work: Workload) -> None:
    expected, seconds = work.undisturbed()
    for moment in moments(seconds, 2):
        run = work.project.start("run_metrics.py", *work.range)
        time.sleep(moment)
        work.database.server.kill()
        work.database.server.start()
        out, err = run.communicate(timeout=60)
        assert run.returncode == 0, err
        reconnect(work.database)
        assert set(reported(out)) == set(work.whole_dates())
        assert work.rows() == expected
        work.clear()


def reconnect(database: Database) -> None:
    database.connection.connect()
    database.connection.select_db(database.name)


def test_the_first_connection_is_tried_again_then_exit_2(few: Workload) -> None:
    expected, _ = few.undisturbed()
    few.database.server.stop()
    refused = few.project.run(DATE, "--retries", "1")
    assert refused.returncode == 2
    assert "trying to connect again in" in refused.stderr
    assert re.search(r"^Error: cannot connect to .* as user root, database \w+: \(2003\)", refused.stderr, re.MULTILINE)
    run = few.project.start("run_metrics.py", *few.range)
    wait_until(lambda: few.project.log().count("trying to connect") == 2)
    few.database.server.start()
    _, err = run.communicate(timeout=60)
    reconnect(few.database)
    assert (run.returncode, few.rows()) == (0, expected), err


def _short_of_grace(project: Project) -> None:
    """Write a command like run_metrics.py that gives a server one second to report its own limit."""
    (project.folder / "short_of_grace.py").write_text(
        "import sys\nimport src.db_manager\nsrc.db_manager.GRACE_SECONDS = 1\n"
        "from run_metrics import main\nsys.exit(main())\n"
    )


def test_a_server_that_stops_answering_ends_the_run_and_leaves_no_date_in_part(work: Workload) -> None:
    _short_of_grace(work.project)
    expected, _ = work.undisturbed()
    pid = work.database.server.pid
    assert pid is not None
    words = (*work.range, "--retries", "0")
    run = work.project.start("short_of_grace.py", *words, env={"METRIC_TIMEOUT_SECONDS": "2"})
    wait_until(lambda: log_has(work.project, NEXT))
    os.kill(pid, signal.SIGSTOP)
    try:
        _, err = run.communicate(timeout=30)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert run.returncode == 1, err
    finished = resume(work.project, err)
    assert finished.returncode == 0, finished.stderr
    work.whole_dates()
    assert work.rows() == expected


def test_a_read_only_server_is_tried_again(few: Workload) -> None:
    expected, _ = few.undisturbed()
    few.database.execute(f"CREATE USER IF NOT EXISTS plain; GRANT ALL ON {few.database.name}.* TO plain")
    few.database.execute("SET GLOBAL read_only = 1")
    few.project.env["DB_USER"] = "plain"
    refused = few.project.run(DATE, "--retries", "0")
    assert refused.returncode == 1
    assert re.search(rf"Error: {DATE}: \(1290\)", refused.stderr)
    run = few.project.start("run_metrics.py", *few.range)
    wait_until(lambda: log_has(few.project, "again in"))
    few.database.execute("SET GLOBAL read_only = 0")
    _, err = run.communicate(timeout=60)
    assert (run.returncode, few.rows()) == (0, expected), err


@pytest.fixture
def small_disk(engine: str, tmp_path: Path) -> Iterator[Server]:
    """A server whose data lie on a file system of 256 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"root may not mount a small tmpfs here: {mounted.stderr.strip()}")
    redo = "--innodb-log-file-size=4M" if engine.startswith("mariadb") else "--innodb-redo-log-capacity=16M"
    server = Server(folder / "server", install(engine), ("--innodb-buffer-pool-size=32M", redo))
    try:
        server.start()
        yield server
        server.kill()
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_fails_the_date_and_leaves_nothing_of_it(project: Project, small_disk: Server) -> None:
    connection = connect(small_disk)
    run_script(connection, "CREATE DATABASE full CHARACTER SET utf8mb4; USE full;")
    run_script(connection, (ROOT / "sql" / "schema.sql").read_text())
    project.database = Database(small_disk, "full", connection)
    # Rows that fit into a page: MariaDB's InnoDB ends itself where a disk is full in the middle of a long value.
    project.database.execute("CREATE TABLE big (id INT AUTO_INCREMENT PRIMARY KEY, t VARCHAR(2000))")
    project.database.execute(NUMBERS_TABLE)
    fill = "INSERT INTO big (t) SELECT REPEAT('x', 2000) FROM numbers a JOIN numbers b ON b.n < 10"
    # Written round once, the redo log needs no more room.
    project.database.execute(f"CREATE TABLE round LIKE big; {fill.replace('big', 'round')}; DROP TABLE round")
    project.write("01_first.sql", metric_sql("first"))
    project.write("02_big.sql", "-- Metric: big\n-- Description: Fills the disk\nDELETE FROM big;\n"
                  f"{fill} WHERE %(metric_date)s IS NOT NULL")  # fmt: skip
    project.write("03_last.sql", metric_sql("last", "(SELECT COUNT(*) FROM big)"))
    filler = small_disk.folder.parent / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M"], capture_output=True, check=False)
    os.truncate(filler, filler.stat().st_size - (4 << 20))
    failed = project.run(DATE, "--retries", "0")
    assert failed.returncode == 1
    assert re.search(rf"Error: {DATE}: sql/02_big\.sql:4: statement 2 of 2: .*full", failed.stderr), failed.stderr
    assert project.database.metrics() == []
    filler.unlink()
    again = project.run(DATE)
    assert again.returncode == 0, again.stderr
    assert project.database.metrics() == [("first", DATE, '{"n": 1}'), ("last", DATE, '{"n": 10000}')]


def test_a_server_without_get_lock_is_warned_of_and_used(few: Workload, tmp_path: Path) -> None:
    expected, _ = few.undisturbed()
    socket = few.database.server.socket
    with Proxy(tmp_path / "p.sock", socket, rewrite=lambda data: data.replace(b"GET_LOCK(", b"GOT_LOCK(")) as proxy:
        result = few.project.run(*few.range, env={"DB_SOCKET": str(proxy.path)})
    assert result.returncode == 0
    assert "Warning: this server has no GET_LOCK" in result.stderr
    assert "make sure that no two runs overlap" in result.stderr
    assert few.rows() == expected


# --- other transactions -----------------------------------------------------------------------------------------------


def test_a_deadlock_repeats_the_whole_date(project: Project) -> None:
    database = project.database
    database.execute("CREATE TABLE pair (id INT PRIMARY KEY, n INT); INSERT INTO pair VALUES (1, 0), (2, 0)")
    database.execute("CREATE TABLE weight (id INT PRIMARY KEY); INSERT INTO weight VALUES (1), (2), (3), (4), (5), (6)")
    body = "UPDATE pair SET n = 1 WHERE id = 1;\nUPDATE pair SET n = 1 WHERE id = 2;\n"
    project.write("01_first.sql", metric_sql("first"))
    project.write("02_pair.sql", metric_sql("pair").replace("INSERT", body + "INSERT"))
    with connect(database.server, database.name) as other:
        # The server rolls back the transaction that has written less: make it the run's.
        run_script(other, "START TRANSACTION; DELETE FROM weight; UPDATE pair SET n = 2 WHERE id = 2")
        run = project.start("run_metrics.py", DATE)
        # The server answers from a copy, which it renews only when nobody asked for 0.1 s.
        waiting = "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
        wait_until(lambda: database.rows(waiting), pause=0.2)
        run_script(other, "UPDATE pair SET n = 2 WHERE id = 1; COMMIT")
    _, err = run.communicate(timeout=30)
    assert run.returncode == 0, err
    assert re.search(rf"Warning: {DATE}: sql/02_pair\.sql:6: statement 2 of 3: \(1213\).*trying {DATE} again in", err)
    assert [row[0] for row in database.metrics()] == ["first", "pair"]
    assert database.rows("SELECT n FROM pair") == [(1,), (1,)]


def test_a_lock_wait_repeats_the_whole_date(few: Workload) -> None:
    expected, _ = few.undisturbed()
    few.database.execute("SET GLOBAL innodb_lock_wait_timeout = 1")
    with connect(few.database.server, few.database.name) as other:
        run_script(other, "START TRANSACTION; INSERT INTO bi_metrics (metrics, f_list, value_list, metric_date) "
                          f"VALUES ('last', '[]', '{{}}', '{DATE}')")  # fmt: skip
        failed = few.project.run(*few.range, "--retries", "0")
        assert failed.returncode == 1
        assert re.search(rf"Error: {DATE}: sql/05_last\.sql:5: statement 1 of 1: \(1205\)", failed.stderr)
        assert few.whole_dates() == []
        run = few.project.start("run_metrics.py", *few.range)
        wait_until(lambda: log_has(few.project, "again in"))
        run_script(other, "ROLLBACK")
    _, err = run.communicate(timeout=30)
    few.database.execute("SET GLOBAL innodb_lock_wait_timeout = 50")
    assert run.returncode == 0, err
    assert few.rows() == expected


def test_of_two_runs_started_together_one_runs_and_the_other_runs_after_it_or_exits_3(few: Workload) -> None:
    expected, _ = few.undisturbed()
    for _ in range(8):
        both = [few.project.start("run_metrics.py", *few.range) for _ in range(2)]
        errors = [run.communicate(timeout=60)[1] for run in both]
        codes = sorted(run.returncode for run in both)
        assert codes in ([0, 0], [0, 3]), errors
        assert few.rows() == expected
        few.clear()


def test_a_second_run_is_refused_or_waits_and_another_database_is_free(project: Project) -> None:
    database = project.database
    slow(project, 5 * A_SECOND)
    with connect(database.server) as other:
        run_script(other, "DROP DATABASE IF EXISTS elsewhere; CREATE DATABASE elsewhere; USE elsewhere;")
        run_script(other, (ROOT / "sql" / "schema.sql").read_text())
        run_script(other, f"CREATE TABLE numbers AS SELECT n FROM {database.name}.numbers WHERE n < 2")
        first = project.start("run_metrics.py", DATE)
        wait_until(lambda: at_work(database))
        waiting = project.start("run_metrics.py", NEXT, "--wait", "60")
        clock = time.monotonic()
        refused = project.run(NEXT)
        assert (refused.returncode, refused.stdout) == (3, "")
        assert "Wait for it with --wait SECONDS" in refused.stderr
        assert project.run(NEXT, env={"DB_NAME": "elsewhere"}).returncode == 0
        assert time.monotonic() - clock < 4
        assert first.poll() is None
        run_script(other, "DROP DATABASE elsewhere")
    for run in (first, waiting):
        _, err = run.communicate(timeout=60)
        assert run.returncode == 0, err
    assert [row[1] for row in database.metrics()] == [DATE, NEXT]


# --- proxies and pools ------------------------------------------------------------------------------------------------


def test_a_run_whose_lock_is_gone_takes_it_again_and_repeats_the_date(project: Project, tmp_path: Path) -> None:
    harmless, release = b"DO 'aaaaaaaaaaaaaaaaa'", b"DO RELEASE_ALL_LOCKS()"
    released: list[bytes] = []

    def release_once(data: bytes) -> bytes:
        if harmless in data and not released:
            released.append(data)
            return data.replace(harmless, release)
        return data

    project.write("01_first.sql", harmless.decode() + ";\n" + metric_sql("first"))
    with Proxy(tmp_path / "p.sock", project.database.server.socket, rewrite=release_once) as proxy:
        result = project.run(DATE, NEXT, env={"DB_SOCKET": str(proxy.path)})
    assert (result.returncode, len(released)) == (0, 1)
    assert f"Warning: {NEXT}: this run lost its lock" in result.stderr
    assert f"trying {NEXT} again in" in result.stderr
    assert project.database.metrics() == [("first", day, '{"n": 1}') for day in (DATE, NEXT)]


def test_behind_a_proxy_that_spreads_statements_over_sessions_nothing_runs(project: Project, tmp_path: Path) -> None:
    other = b"= 4000000000000  "  # as long as what it replaces
    project.write("01_first.sql", metric_sql("first"))
    with Proxy(tmp_path / "p.sock", project.database.server.socket,
               rewrite=lambda data: data.replace(b"= CONNECTION_ID()", other)) as proxy:  # fmt: skip
        result = project.run(DATE, "--retries", "1", env={"DB_SOCKET": str(proxy.path)})
    assert result.returncode == 1
    assert f"Error: {DATE}: this run lost its lock" in result.stderr
    assert project.database.metrics() == []


def test_the_open_transaction_that_a_pool_hands_out_is_rolled_back(project: Project) -> None:
    database = project.database
    database.execute(
        f"CREATE TABLE theirs (n INT); CREATE USER IF NOT EXISTS pooled; GRANT ALL ON {database.name}.* TO pooled;"
        f"SET GLOBAL init_connect = 'SET autocommit = 0; INSERT INTO {database.name}.theirs VALUES (1)'"
    )
    try:
        project.write("01_first.sql", metric_sql("first"))
        result = project.run(DATE, env={"DB_USER": "pooled"})
    finally:
        database.execute("SET GLOBAL init_connect = ''")
    assert result.returncode == 0, result.stderr
    assert database.rows("SELECT n FROM theirs") == []
    assert len(database.metrics()) == 1


# --- the statement limit ----------------------------------------------------------------------------------------------


def test_the_statement_limit_stops_real_work_in_the_server(project: Project) -> None:
    slow(project, 1)
    work = busy(TEN_SECONDS).replace("c.n < 100", f"c.n < IF(%(metric_date)s = '{DATE}', 100, 0)")
    project.write("03_slow.sql", metric_sql("slow", f"COALESCE({work}, 0)"))
    project.write("01_first.sql", metric_sql("first"))
    over: list[bool] = []
    watch = threading.Thread(target=lambda: over.append(project.run_process(
        DATE, NEXT, "--keep-going", env={"METRIC_TIMEOUT_SECONDS": "1"}).returncode == 1))  # fmt: skip
    watch.start()
    wait_until(lambda: at_work(project.database, f"03_slow.sql {DATE}"))
    clock = time.monotonic()
    wait_until(lambda: not at_work(project.database, f"03_slow.sql {DATE}"))
    assert time.monotonic() - clock < 3
    watch.join(30)
    assert over == [True]
    limit = rf"{DATE}: sql/03_slow\.sql:5: statement 1 of 1: stopped after 1 s \(METRIC_TIMEOUT_SECONDS\)"
    assert re.search(limit, project.log())
    assert [row[:2] for row in project.database.metrics()] == [("first", NEXT), ("slow", NEXT)]
    assert "again in" not in project.log()
