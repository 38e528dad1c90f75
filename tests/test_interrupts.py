"""SIGINT, SIGTERM and SIGHUP at any moment: the run ends at once with its exit code, and its work in the server too.

benchmarks/interrupts.py does the same some hundred times.
"""

from __future__ import annotations

import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from config.database import load_settings
from demo.server import Server
from src.db_manager import DatabaseManager
from tests.conftest import Database, Project, metric_sql
from tests.proxy import CLIENT_SSL, Cut, FakeServer, Proxy, greeting
from tests.test_tls import tls_server
from tests.workload import Workload, log_has, resume, sessions, slow, wait_until

pytestmark = pytest.mark.slow

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ENDS_WITHIN_SECONDS = 3.0  # an idle machine needs 0.3
DATE = "2025-01-01"


@dataclass
class Interrupt:
    """What came of one interrupt."""

    number: signal.Signals
    code: int
    seconds: float  # from the signal to the end of the process
    orphans: list[tuple[int, str]]  # sessions that were still there some seconds later
    stdout: str
    stderr: str

    def faults(self) -> list[str]:
        """Return what is not as it must be."""
        found = []
        if self.code != 128 + self.number:
            found.append(f"exit code {self.code} after {self.number.name}")
        if self.seconds > ENDS_WITHIN_SECONDS:
            found.append(f"ended after {self.seconds:.1f} s")
        if self.orphans:
            found.append(f"still running in the server: {self.orphans}")
        if "Traceback" in self.stderr or "Exception ignored" in self.stderr:
            found.append("a traceback")
        return [*found, self.stderr] if found else []


@dataclass
class Interrupts:
    """Starts runs of `work` and interrupts each in a moment of one of the KINDS; looks at the server afterwards."""

    work: Workload
    folder: Path  # for sockets
    random: random.Random
    tcp: dict[str, str]  # the settings of a connection with TLS
    expected: list[tuple[Any, ...]] = field(default_factory=list)  # rows of an undisturbed run
    seconds: float = 0  # that such a run takes

    def __post_init__(self) -> None:
        self.expected, self.seconds = self.work.undisturbed()

    def interrupt(self, kind: str, number: signal.Signals) -> Interrupt | None:
        """Do it once; None where the run ended before the signal. AssertionError where a date is stored in part."""
        with ExitStack() as stack:
            run = stack.enter_context(KINDS[kind](self))
            if run.poll() is not None:
                return self._ended(run)
            clock = time.monotonic()
            run.send_signal(number)
            out, err = run.communicate(timeout=60)
            seconds = time.monotonic() - clock
        if run.returncode == 0 and self.work.rows() == self.expected:
            return None  # it was at its very end
        with suppress(AssertionError):
            wait_until(lambda: not sessions(self.work.database), 3)
        self.work.whole_dates()
        return Interrupt(number, run.returncode, seconds, sessions(self.work.database), out, err)

    @staticmethod
    def _ended(run: Any) -> None:
        _, err = run.communicate()
        assert run.returncode == 0, err

    def start(self, *words: str, env: dict[str, str] | None = None) -> Any:
        words = (*self.work.range, *words)
        return self.work.project.start("run_metrics.py", *words, env=env)

    # --- the kinds: each yields a run when the moment for its signal has come -----------------------------------------

    @contextmanager
    def the_start(self) -> Iterator[Any]:
        """Before it connects, from the moment that the script's first lines have run."""
        run = self.start()
        wait_until(lambda: catches(run, signal.SIGHUP), pause=0.0005)
        time.sleep(self.random.random() * 0.2)
        yield run

    @contextmanager
    def a_statement(self, env: dict[str, str] | None = None) -> Iterator[Any]:
        """Anywhere in a run."""
        run = self.start(env=env)
        wait_until(lambda: run.poll() is not None or log_has(self.work.project, "start"), pause=0.001)
        time.sleep(self.random.random() * (self.seconds - 0.2) * 0.95)
        yield run

    def a_statement_with_tls(self) -> Any:
        return self.a_statement(self.tcp)

    @contextmanager
    def a_lock_wait(self) -> Iterator[Any]:
        """While another run holds the lock."""
        project = self.work.project
        other = DatabaseManager(load_settings(project.folder, project.environment()))
        other.connect()
        other.run_lock.take()
        try:
            run = self.start("--wait", "60")
            wait_until(lambda: any("GET_LOCK" in text for _, text in sessions(self.work.database)))
            time.sleep(self.random.random())
            yield run
        finally:
            other.close()

    @contextmanager
    def a_retry_pause(self) -> Iterator[Any]:
        """Between two tries, in a second without a connection."""
        cut = Cut(self.random.choice((b"03_busy.sql", b"\x03COMMIT", b"RELEASE SAVEPOINT")), "before")
        with Proxy(self._socket(), self.work.database.server.socket, cut) as proxy:
            run = self.start(env={"DB_SOCKET": str(proxy.path)})
            wait_until(lambda: log_has(self.work.project, "again in"))
            time.sleep(self.random.random() * 0.5)
            yield run

    @contextmanager
    def a_connect(self) -> Iterator[Any]:
        """To a listener that accepts and says nothing."""
        with FakeServer(lambda end: None) as server:
            yield self._connecting(server)

    @contextmanager
    def a_connect_with_tls(self) -> Iterator[Any]:
        """To a server that offers TLS and then says nothing."""
        with FakeServer(lambda end: end.sendall(greeting(CLIENT_SSL))) as server:
            yield self._connecting(server)

    @contextmanager
    def a_connect_that_nobody_accepts(self) -> Iterator[Any]:
        """To a listener whose queue is full: the first packet gets no answer."""
        with full_listener() as port:
            before = in_syn_sent(port)
            run = self.start(env=at_port(port))
            wait_until(lambda: run.poll() is not None or in_syn_sent(port) > before)
            time.sleep(self.random.random())
            yield run

    def _connecting(self, server: FakeServer) -> Any:
        run = self.start(env=at_port(server.port))
        wait_until(lambda: server.connections)
        time.sleep(self.random.random())
        return run

    def _socket(self) -> Path:
        path = self.folder / "p.sock"
        path.unlink(missing_ok=True)
        return path


KINDS: dict[str, Callable[[Interrupts], Any]] = {
    "start": Interrupts.the_start,
    "run": Interrupts.a_statement,
    "run, TLS": Interrupts.a_statement_with_tls,
    "lock wait": Interrupts.a_lock_wait,
    "retry pause": Interrupts.a_retry_pause,
    "connect": Interrupts.a_connect,
    "connect, TLS": Interrupts.a_connect_with_tls,
    "connect, no answer": Interrupts.a_connect_that_nobody_accepts,
}


def at_port(port: int) -> dict[str, str]:
    return {"DB_SOCKET": "", "DB_HOST": "127.0.0.1", "DB_PORT": str(port), "DB_SSL_MODE": "preferred"}


def catches(run: Any, number: signal.Signals) -> bool:
    """Return whether a process has a handler for the signal."""
    try:
        status = Path(f"/proc/{run.pid}/status").read_text()
    except OSError:
        return True
    [mask] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")] or ["0"]
    return bool(int(mask, 16) >> (number - 1) & 1)


def in_syn_sent(port: int) -> int:
    """Return how many connections to the port wait for their first answer."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)


@contextmanager
def full_listener() -> Iterator[int]:
    """A listener that accepts nothing and whose queue is full; yields its port."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def own_server(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with TLS on a port."""
    with tls_server(tmp_path_factory.mktemp("interrupts"), engine) as running:
        yield running


@pytest.fixture
def server(own_server: Server) -> Server:
    return own_server


@pytest.fixture
def interrupts(project: Project, tmp_path: Path) -> Interrupts:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    return Interrupts(Workload(project, days=8), tmp_path, random.Random(seed), over_tls(project.database))


def over_tls(database: Database) -> dict[str, str]:
    """Return the settings of an account that needs TLS, at the port of the database's server."""
    database.execute(
        "CREATE USER IF NOT EXISTS 'tls'@'127.0.0.1' REQUIRE SSL; GRANT ALL ON *.* TO 'tls'@'127.0.0.1'"
    )
    return {**at_port(database.server.port or 0), "DB_USER": "tls", "DB_SSL_MODE": "required"}


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_ends_a_run_wherever_it_is(interrupts: Interrupts, kind: str, number: signal.Signals) -> None:
    done = interrupts.interrupt(kind, number)
    if done is None:
        return
    assert done.faults() == []
    if kind != "start":
        assert f"Error: interrupted by {number.name}" in done.stderr


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_the_command_it_prints_finishes_what_a_signal_has_interrupted(
    interrupts: Interrupts, number: signal.Signals
) -> None:
    done = interrupts.interrupt("run", number)
    if done is not None:
        # The signal may come when a COMMIT is done and not yet noted: then that date runs twice.
        assert "Nothing was committed." not in done.stderr or len(interrupts.work.whole_dates()) <= 1
        if "Resume with: " not in done.stderr:  # the signal came before the first date
            assert interrupts.work.whole_dates() == []
            return
        finished = resume(interrupts.work.project, done.stderr)
        assert finished.returncode == 0, finished.stderr
    assert interrupts.work.rows() == interrupts.expected


def test_a_signal_stops_a_long_statement_in_the_server_at_once(project: Project) -> None:
    slow(project, 100_000)  # about ten seconds
    project.write("01_first.sql", metric_sql("first"))
    run = project.start("run_metrics.py", DATE)
    wait_until(lambda: any("03_slow" in text for _, text in sessions(project.database)))
    clock = time.monotonic()
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=30)
    wait_until(lambda: not sessions(project.database), 3)
    assert time.monotonic() - clock < 4
    assert run.returncode == 143
    assert f"Nothing was committed. Resume with: python run_metrics.py {DATE}" in err
    assert project.database.metrics() == []


def test_a_signal_that_comes_just_before_the_wait_for_a_reply_ends_the_run(project: Project, tmp_path: Path) -> None:
    # The interpreter then knows of the signal, but runs no handler until the reply is there. A signal that another
    # thread receives leaves the main thread in just that state.
    slow(project, 300_000)  # about half a minute
    now = tmp_path / "now"
    script = tmp_path / "with_thread.py"
    script.write_text(f"""\
import signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, {str(project.folder)!r})
import run_metrics

def deliver():
    while not Path({str(now)!r}).exists():
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

threading.Thread(target=deliver, daemon=True).start()
sys.exit(run_metrics.main([{DATE!r}]))
""")
    run = project.start(str(script))
    wait_until(lambda: any("03_slow" in text for _, text in sessions(project.database)))
    now.touch()
    try:
        _, err = run.communicate(timeout=10)
    finally:
        run.kill()
    assert run.returncode == 143
    assert "interrupted by SIGTERM" in err
    wait_until(lambda: not sessions(project.database), 3)


def test_under_nohup_a_hangup_stops_nothing(interrupts: Interrupts) -> None:
    words = interrupts.work.range
    run = interrupts.work.project.start("run_metrics.py", *words, signals=signal.SIG_IGN)
    wait_until(lambda: log_has(interrupts.work.project, "start"))
    for _ in range(3):
        run.send_signal(signal.SIGHUP)
        time.sleep(0.1)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert interrupts.work.rows() == interrupts.expected
    assert "interrupted" not in interrupts.work.project.log()


def test_a_second_signal_does_not_keep_the_first_from_ending_the_run(interrupts: Interrupts) -> None:
    run = interrupts.start()
    wait_until(lambda: log_has(interrupts.work.project, "start"))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with suppress(ProcessLookupError):
            run.send_signal(number)
        time.sleep(0.02)
    _, err = run.communicate(timeout=30)
    assert "Traceback" not in err
    assert run.returncode in (143, 130, 129), err
    wait_until(lambda: not sessions(interrupts.work.database), 3)
    interrupts.work.whole_dates()
