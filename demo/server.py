"""A private MariaDB or MySQL server in a folder: no system service, and no port unless asked for."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATABASE = "game"
ACCOUNT = "metrics"
APT_COMMAND = "apt-get install -y --no-install-recommends mariadb-server-core"

START_SECONDS = 30.0
STOP_SECONDS = 60.0
# The kernel cuts unix socket paths at 107 bytes.
LONGEST_SOCKET = 100
# From 32768 up a port can be the source port of any client.
PORTS = range(20000, 32768)
SYSTEM_SQL = (
    "system_tables.sql",
    "performance_tables.sql",
    "system_tables_data.sql",
    "maria_add_gis_sp_bootstrap.sql",
    "sys_schema.sql",
)


class ServerError(Exception):
    """A private server could not be found, started or stopped; one line with the cause."""


@dataclass(frozen=True)
class Install:
    """A server program on disk and how to make a new data directory with it."""

    name: str  # "MariaDB" or "MySQL"
    version: str  # such as "10.11.19"
    command: tuple[str, ...]  # program and the options it always needs, `--no-defaults` first
    bootstrap: tuple[str, ...]  # the options that make a new data directory
    bootstrap_files: tuple[Path, ...] = ()  # SQL that fills it, read from standard input


def system_mariadb() -> Install:
    """Return the installed mariadb-server-core; ServerError names the apt command if there is none."""
    program = shutil.which("mariadbd", path=os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin")
    if program is None:
        raise ServerError(f"mariadbd is not installed; as root: {APT_COMMAND}")
    return mariadb(("--no-defaults",), program=(program,), share=Path(program).resolve().parents[1] / "share" / "mysql")


def mariadb(options: Sequence[str], program: Sequence[str], share: Path) -> Install:
    """Describe a MariaDB whose SQL for new data directories lies in `share`."""
    # MariaDB 11 renamed the files from mysql_* to mariadb_*.
    files = [path for name in SYSTEM_SQL for path in sorted(share.glob(f"*{name}")) if "test" not in path.name]
    if len(files) != len(SYSTEM_SQL):
        raise ServerError(f"the files for a new MariaDB data directory are not in {share}; as root: {APT_COMMAND}")
    return Install("MariaDB", version(program), (*program, *options), ("--bootstrap",), tuple(files))


def version(program: Sequence[str]) -> str:
    """Return the version a server program reports; ServerError when it does not run."""
    try:
        done = subprocess.run([*program, "--no-defaults", "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ServerError(f"{program[-1]} does not run: {error}") from error
    found = re.search(r"Ver (\d+\.\d+\.\d+)", done.stdout)
    if found is None:
        raise ServerError(f"{program[-1]} does not run: {' '.join((done.stdout + done.stderr).split())[:300]}")
    return found[1]


class Server:
    """A server whose data, log, socket and pid file lie in `folder` (mode 700).

    It outlives the process that started it, and any later Server on the same folder finds it again. Root may connect
    over the socket without a password; who may enter the folder may do everything. With `tcp` it also listens on
    127.0.0.1, where host names are not resolved: accounts are 'name'@'127.0.0.1' or 'name'@'%'.
    """

    def __init__(
        self,
        folder: Path,
        install: Install | None = None,
        options: Sequence[str] = (),
        *,
        tcp: bool = False,
        init_sql: Sequence[str] = (),
        user: str | None = None,
    ) -> None:
        """`init_sql`: statements the server runs at each start. `user`: run as this system user (only root can)."""
        self.folder = folder.absolute()
        self.options = tuple(options)
        self._install = install
        self._tcp = tcp
        self._init_sql = tuple(init_sql)
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def install(self) -> Install:
        """The program; looked for when first needed, so that a running server can be used or stopped without it."""
        if self._install is None:
            self._install = system_mariadb()
        return self._install

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    @property
    def scratch(self) -> Path:
        """The folder for temporary tables and nothing else: a server deletes all that it finds there when it starts."""
        return self.folder / "tmp"

    @property
    def log(self) -> Path:
        """The server's error log, all starts one after the other."""
        return self.folder / "server.log"

    @property
    def socket(self) -> str:
        """Path of the unix socket; below /tmp if the folder's own path is too long for one."""
        path = str(self.folder / "server.sock")
        if len(os.fsencode(path)) <= LONGEST_SOCKET:
            return path
        # Not tempfile.gettempdir(): TMPDIR differs between a shell and cron, and the path must not.
        return f"/tmp/server-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}/server.sock"

    @property
    def pid(self) -> int | None:
        """The running server's process id; None also if the number in the file now belongs to another process."""
        try:
            pid = int((self.folder / "pid").read_text())
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(f"--datadir={self.data}") in arguments else None

    @property
    def port(self) -> int | None:
        """The port on 127.0.0.1, kept across restarts unless somebody took it; None without tcp or before a start."""
        try:
            return int((self.folder / "port").read_text()) if self._tcp else None
        except FileNotFoundError:
            return None

    def is_running(self) -> bool:
        """Whether the process lives."""
        if self._process is not None:
            self._process.poll()
        return self.pid is not None

    def start(self, *extra: str) -> None:
        """Start unless it runs, and return when it accepts connections. Options in `extra` count for this start only.

        Raises ServerError with the log's errors when it does not come up in 30 seconds; then no process is left behind.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.scratch.mkdir(exist_ok=True)
        for folder in (self.folder, self.scratch):
            self._hand_over(folder)
        with self._locked():
            if not self.is_running():
                self._make_data()
                self._make_socket_folder()
                self._launch_on_a_free_port(extra)

    def stop(self) -> None:
        """Shut down cleanly and wait for the end; nothing to do when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self._end(signal.SIGKILL)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep two starts of the same folder apart."""
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _hand_over(self, path: Path) -> None:
        if self._user is not None:
            shutil.chown(path, self._user)

    def _base(self, data: Path) -> list[str]:
        root = ["--user=root"] if os.geteuid() == 0 and self._user is None else []
        return [*self.install.command, *root, f"--datadir={data}", f"--tmpdir={self.scratch}"]

    def _make_data(self) -> None:
        """Build the data directory under another name, and rename it: under its own name it is always complete."""
        if self.data.exists():
            return
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        self._hand_over(unfinished)
        begin = self._log_size()
        # The server's bootstrap reader ends a statement at the end of a line only.
        sql = [b"CREATE DATABASE mysql;\nUSE mysql;\n", *(path.read_bytes() for path in self.install.bootstrap_files)]
        with self.log.open("ab") as log:
            done = subprocess.run(
                [*self._base(unfinished), *self.install.bootstrap],
                input=b"\n".join(sql) if self.install.bootstrap_files else b"",
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self.folder,
                check=False,
            )
        if done.returncode != 0:
            raise ServerError(f"{self.install.name} could not make {self.data}: {self._log_errors(begin)}")
        unfinished.rename(self.data)

    def _make_socket_folder(self) -> None:
        folder = Path(self.socket).parent
        if folder == self.folder:
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        self._hand_over(folder)
        # Anybody may write to /tmp: a link, or a folder of another user, would be a trap.
        if folder.is_symlink() or folder.stat().st_uid not in (os.geteuid(), self.folder.stat().st_uid):
            raise ServerError(f"{folder} belongs to somebody else; remove it")
        folder.chmod(0o700)

    def _launch_on_a_free_port(self, extra: Sequence[str]) -> None:
        for attempt in range(5):
            network = ["--skip-networking"]
            if self._tcp:
                port = self._choose_port()
                network = ["--bind-address=127.0.0.1", f"--port={port}", "--skip-name-resolve"]
            begin = self._log_size()
            if self._launch([*network, *self.options, *extra]):
                return
            errors = self._log_errors(begin)
            if "ddress already in use" not in errors or not self._tcp or attempt == 4:
                raise ServerError(f"{self.install.name} did not start: {errors} (see {self.log})")

    def _choose_port(self) -> int:
        port = self.port
        while port is None or not is_free(port):
            port = random.choice(PORTS)
        (self.folder / "port").write_text(str(port))
        return port

    def _launch(self, options: Sequence[str]) -> bool:
        """Start the process and wait until it accepts connections; if it does not, end it and return False."""
        init = self.folder / "init.sql"
        init.write_text("".join(f"{statement};\n" for statement in self._init_sql))
        self._hand_over(init)
        own = [f"--socket={self.socket}", f"--init-file={init}", *options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._base(self.data), *own],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self.folder,
                start_new_session=True,
            )
        (self.folder / "pid").write_text(str(self._process.pid))
        if self._wait_until_ready(self._process):
            return True
        self._process.kill()
        self._process.wait()
        return False

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> bool:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and process.poll() is None:
            if greets(self.socket):
                return True
            time.sleep(0.02)
        return False

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _log_errors(self, begin: int) -> str:
        """The first errors of the log from byte `begin` on, or its last lines, as one line."""
        lines = [line for line in self.log.read_bytes()[begin:].decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "ERROR" in line][:3] or lines[-3:] or ["it wrote nothing to its log"]
        return " | ".join(" ".join(line.split()) for line in errors)

    def _end(self, how: signal.Signals) -> None:
        pid = self.pid
        if pid is not None and not end_process(pid, how):
            raise ServerError(f"process {pid} did not stop in {STOP_SECONDS:.0f} seconds (see {self.log})")
        self.is_running()
        (self.folder / "pid").unlink(missing_ok=True)
        if Path(self.socket).parent != self.folder:
            shutil.rmtree(Path(self.socket).parent, ignore_errors=True)


def end_process(pid: int, how: signal.Signals) -> bool:
    """Send the signal and wait; return whether the process ended in time."""
    # A killed server's /proc/PID/cmdline is empty a while before its last thread has closed files and sockets; a
    # pidfd tells the real end, and cannot hit another process that got the same number.
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        signal.pidfd_send_signal(handle, how)
        return bool(select.select([handle], [], [], STOP_SECONDS)[0])
    finally:
        os.close(handle)


def is_free(port: int) -> bool:
    """Whether nobody listens on the port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def greets(path: str) -> bool:
    """Whether a server on this unix socket sends its greeting; it listens earlier than it answers."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
            packet = probe.recv(5)
        except OSError:
            return False
    # Three bytes of length, a number, and then the protocol version, 10; an error packet has 255 there.
    return packet[4:] == b"\x0a"


def demo_server() -> Server:
    """The demo's server below .local/demo: database `game`, account `metrics` without a password, socket only."""
    init_sql = (
        f"CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4",
        f"CREATE USER IF NOT EXISTS '{ACCOUNT}'@'localhost'",
        f"GRANT ALL ON {DATABASE}.* TO '{ACCOUNT}'@'localhost'",
        f"GRANT ALL ON `{DATABASE}\\_test\\_%`.* TO '{ACCOUNT}'@'localhost'",  # of list_metrics.py --test
    )
    return Server(ROOT / ".local" / "demo", options=("--innodb-buffer-pool-size=256M",), init_sql=init_sql)
