"""A Galera cluster of three private MariaDB nodes on 127.0.0.1, behind a haproxy that sends everybody to one writer.

galera-4, haproxy and the scripts for state transfer come from the machine's own release into .local/engines/galera.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import pymysql

from demo.server import PORTS, Install, Server, ServerError, is_free, system_mariadb
from tests.engines import ENGINES, debian_sources, unpack

ACCOUNT = "metrics"
NODES = 3
WAIT_SECONDS = 30.0
PACKAGES = ("galera-4", "haproxy", "mariadb-server")
# Short timeouts: a dead node is left out after about 2 seconds instead of 5.
TIMEOUTS = "evs.suspect_timeout=PT2S;evs.inactive_timeout=PT4S;evs.inactive_check_period=PT0.5S;"
TIMEOUTS += "evs.keepalive_period=PT0.5S"
SETTINGS = (
    "--wsrep-on=ON",
    "--wsrep-sst-method=rsync",
    "--binlog-format=ROW",
    "--innodb-autoinc-lock-mode=2",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-buffer-pool-size=128M",
)
ACCOUNTS = (
    f"CREATE USER '{ACCOUNT}'@'127.0.0.1'",
    f"GRANT ALL ON *.* TO '{ACCOUNT}'@'127.0.0.1' WITH GRANT OPTION",
    "CREATE USER 'haproxy'@'127.0.0.1'",
)
# A node without quorum logs people in and then refuses their queries: only a query shows it.
CHECK = (
    "SELECT CONCAT('ready-', variable_value) FROM information_schema.global_status WHERE variable_name='wsrep_ready'"
)
# Without the stick table new sessions would go back to the first node once it is up again: two writers at a time.
PROXY = """
global
    log stdout format raw local0
defaults
    mode tcp
    log global
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    option redispatch 1
listen writer
    bind 127.0.0.1:{port}
    stick-table type ip size 1
    stick on dst
    option tcp-check
    tcp-check connect
    tcp-check expect string mysql_native_password
    tcp-check send-binary {login}
    tcp-check expect binary 0700000200
    tcp-check send-binary {query}
    tcp-check expect string ready-ON
    tcp-check send-binary 0100000001
    default-server check inter 500ms fall 2 rise 2 on-marked-down shutdown-sessions
"""


class Node:
    """One member of the cluster; `server` is its process."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def start(self, *options: str) -> None:
        """Start, or come back after a stop or a kill; returns when the node takes writes."""
        try:
            self.server.start(*options)
        except ServerError as error:
            # Seen now and then on a busy machine, and gone at the second try.
            if "schedparams" not in str(error):
                raise
            self.server.start(*options)
        wait_for(f"{self.server.folder.name} synced", lambda: self.status("wsrep_local_state_comment") == "Synced")

    def stop(self) -> None:
        """Leave the cluster in good order."""
        self.server.stop()

    def kill(self) -> None:
        """End it with SIGKILL; the others notice after about 2 seconds."""
        self.server.kill()

    def is_running(self) -> bool:
        """Whether its process lives."""
        return self.server.is_running()

    def connect(self) -> pymysql.Connection[pymysql.cursors.Cursor]:
        """Return a connection of root, past the proxy, with autocommit."""
        return pymysql.connect(unix_socket=self.server.socket, user="root", autocommit=True, ssl_disabled=True)

    def status(self, name: str) -> str:
        """Return one value of SHOW STATUS, such as wsrep_cluster_status: it is answered outside a quorum too.

        Empty where the node, which is just coming back, hangs up.
        """
        try:
            with self.connect() as connection, connection.cursor() as cursor:
                cursor.execute("SHOW STATUS LIKE %s", (name,))
                row = cursor.fetchone()
        except pymysql.err.OperationalError:
            return ""
        return str(row[1]) if row else ""

    def execute(self, *statements: str) -> None:
        """Run statements as root on this node."""
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


class Cluster:
    """Three nodes and a proxy in a new folder below /tmp, which stop() removes. Usable with `with`.

    At `proxy_port` of 127.0.0.1 the account `metrics` has all rights and no password.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        """`options` go to every node, for example --wsrep-sync-wait=1."""
        tree = fetch()
        # As root the nodes run as nobody, because rsync's state transfer fails as root: a folder that nobody can reach.
        self._user = "nobody" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="galera-", dir="/tmp"))
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self.proxy_port = 0
        self._tree = self._within_reach(tree)
        self._proxy: subprocess.Popen[bytes] | None = None
        self._nodes = self._make_nodes(options)

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def proxy_log(self) -> Path:
        """haproxy's log, where every node that goes and comes has a line."""
        return self.folder / "haproxy.log"

    def node(self, index: int) -> Node:
        """Return a node: 0 is the first writer, 1 and 2 are its backups in this order."""
        return self._nodes[index]

    def writer(self) -> Node:
        """Return the node that serves connections through the proxy now."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT @@port")
            row = cursor.fetchone()
        return next(node for node in self._nodes if row and node.server.port == row[0])

    def connect(self) -> pymysql.Connection[pymysql.cursors.Cursor]:
        """Return a connection of `metrics` through the proxy, with autocommit."""
        port = self.proxy_port
        return pymysql.connect(host="127.0.0.1", port=port, user=ACCOUNT, autocommit=True, ssl_disabled=True)

    def start(self) -> None:
        """Start all nodes and the proxy; returns when a connection through the proxy works."""
        first, *others = self._nodes
        first.start("--wsrep-new-cluster")
        first.execute(*ACCOUNTS)
        for node in others:
            node.start()
        self._start_proxy()

    def stop(self) -> None:
        """Stop everything, the writer last, and remove the folder."""
        if self._proxy is not None:
            self._proxy.terminate()
            self._proxy.wait()
            self._proxy = None
        for node in reversed(self._nodes):
            node.stop()
        shutil.rmtree(self.folder)

    def recover(self) -> None:
        """Bring all three back after the quorum was lost, as an operator would, from the node that knows most."""
        running = [node for node in self._nodes if node.is_running()]
        if not running:
            self._bootstrap(max(self._nodes, key=self._position))
        elif all(node.status("wsrep_cluster_status") != "Primary" for node in running):
            running[0].execute("SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'")
        for node in self._nodes:
            node.start()

    def _within_reach(self, tree: Path) -> Path:
        """The tree under a path without blanks, which break the state transfer script."""
        programs = self.folder / "programs"
        if self._user is None or all(folder.stat().st_mode & 0o001 for folder in (tree, *tree.parents)):
            programs.symlink_to(tree)
            return programs
        # A parent folder is closed to the user of the nodes: a copy.
        shutil.copytree(tree, programs, symlinks=True)
        programs.chmod(0o755)
        return programs

    def _bootstrap(self, node: Node) -> None:
        state = node.server.data / "grastate.dat"
        state.write_text(state.read_text().replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))
        # The saved view of the old cluster would make it wait for the others.
        (node.server.data / "gvwstate.dat").unlink(missing_ok=True)
        node.start("--wsrep-new-cluster")

    def _position(self, node: Node) -> int:
        """The number of the last transaction that a stopped node has."""
        own = [f"--datadir={node.server.data}", f"--tmpdir={node.server.scratch}", f"--socket={node.server.socket}"]
        only_look = ["--wsrep-recover", "--skip-networking"]
        command = [*node.server.install.command, *own, *node.server.options, *only_look]
        done = subprocess.run(command, capture_output=True, text=True, user=self._user, cwd=self.folder, check=False)
        found = re.findall(r"Recovered position:? *\S*:(-?\d+)", done.stderr + done.stdout)
        return int(found[-1]) if found else -1

    def _make_nodes(self, options: Sequence[str]) -> list[Node]:
        install = galera_install(self._tree)
        ports = free_ports(3 * NODES)
        group, ist, sst = ports[:NODES], ports[NODES : 2 * NODES], ports[2 * NODES :]
        members = ",".join(f"127.0.0.1:{port}" for port in group)
        nodes = []
        for index in range(NODES):
            network = f"gmcast.listen_addr=tcp://127.0.0.1:{group[index]};ist.recv_addr=127.0.0.1:{ist[index]}"
            own = [
                f"--wsrep-provider={library(self._tree)}",
                f"--wsrep-cluster-address=gcomm://{members}",
                f"--wsrep-node-name=node{index}",
                "--wsrep-node-address=127.0.0.1",
                f"--wsrep-sst-receive-address=127.0.0.1:{sst[index]}",
                f"--wsrep-provider-options={network};{TIMEOUTS}",
            ]
            folder = self.folder / f"node{index}"
            nodes.append(Node(Server(folder, install, [*SETTINGS, *own, *options], tcp=True, user=self._user)))
        return nodes

    def _start_proxy(self) -> None:
        program = shutil.which("haproxy", path=search_path(self._tree))
        [self.proxy_port] = free_ports(1)
        text = PROXY.format(port=self.proxy_port, login=login_packet("haproxy").hex(), query=query_packet(CHECK).hex())
        for index, node in enumerate(self._nodes):
            text += f"    server node{index} 127.0.0.1:{node.server.port}{' backup' if index else ''}\n"
        settings = self.folder / "haproxy.cfg"
        settings.write_text(text)
        with self.proxy_log.open("ab") as log:
            command = [*environment(self._tree), str(program), "-db", "-f", str(settings)]
            self._proxy = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=self._user)
        wait_for("the proxy", self._serves)

    def _serves(self) -> bool:
        try:
            self.connect().close()
        except pymysql.err.OperationalError:
            return False
        return True


def fetch() -> Path:
    """Return the folder with galera, haproxy and the state transfer scripts, and fetch it first if it is not here."""
    tree = ENGINES / "galera"
    if not tree.is_dir():
        lines = [source.line(suite) for source in debian_sources() for suite in source.suites]
        unpack(tree, PACKAGES, lines, status=Path("/var/lib/dpkg/status"))
    return tree


def galera_install(tree: Path) -> Install:
    """Return the system's MariaDB, started so that it finds the scripts and programs of the tree."""
    system = system_mariadb()
    return replace(system, command=(*environment(tree), *system.command))


def environment(tree: Path) -> list[str]:
    """Return the prefix of a command that needs the tree's programs and libraries."""
    libraries = ":".join(str(path) for path in tree.glob("usr/lib/*-linux-gnu*"))
    return ["/usr/bin/env", f"PATH={search_path(tree)}", f"LD_LIBRARY_PATH={libraries}"]


def search_path(tree: Path) -> str:
    """Return PATH with the tree's programs first."""
    own = [str(tree / "usr/bin"), str(tree / "usr/sbin")]
    return ":".join([*own, os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def library(tree: Path) -> Path:
    """Return galera's library."""
    return next(path for path in sorted(tree.glob("usr/lib/**/libgalera_smm.so")))


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 on which nobody listens."""
    ports: set[int] = set()
    while len(ports) < count:
        port = random.choice(PORTS)
        if is_free(port):
            ports.add(port)
    return list(ports)


def login_packet(account: str) -> bytes:
    """The answer to MariaDB's greeting of an account without a password; then it holds nothing that changes."""
    long_password, protocol_41, secure_connection, utf8 = 0x1, 0x200, 0x8000, 33
    flags = (long_password | protocol_41 | secure_connection).to_bytes(4, "little")
    body = flags + (1 << 24).to_bytes(4, "little") + bytes([utf8]) + bytes(23) + account.encode() + b"\0" + b"\0"
    return len(body).to_bytes(3, "little") + b"\x01" + body


def query_packet(sql: str) -> bytes:
    """A COM_QUERY packet."""
    body = b"\x03" + sql.encode()
    return len(body).to_bytes(3, "little") + b"\0" + body


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; ServerError after 30 seconds."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise ServerError(f"waited {WAIT_SECONDS:.0f} seconds in vain for {what}")
        time.sleep(0.05)
