"""TLS and passwords over TCP: each DB_SSL_MODE against a server whose certificate a test authority signed."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from config.database import load_settings
from demo.server import Server
from src.db_manager import DatabaseManager
from src.errors import DatabaseError
from src.server.codes import TRANSIENT
from tests.conftest import ROOT, Project, connect, metric_sql, own_server, run_script
from tests.engines import install
from tests.proxy import BYTES, CLIENT_SSL, FakeServer, greeting, own_address, packet
from tests.workload import wait_until

pytestmark = pytest.mark.slow

SECRET = "se'cret %s"
ACCOUNTS = """
CREATE DATABASE tls CHARACTER SET utf8mb4;
CREATE USER 'anyhow'@'127.0.0.1';
CREATE USER 'encrypted'@'127.0.0.1' REQUIRE SSL;
CREATE USER 'known'@'127.0.0.1' REQUIRE X509;
GRANT ALL ON tls.* TO 'anyhow'@'127.0.0.1';
GRANT ALL ON tls.* TO 'encrypted'@'127.0.0.1';
GRANT ALL ON tls.* TO 'known'@'127.0.0.1';
USE tls;
"""


@dataclass(frozen=True)
class Authority:
    """A certificate authority in `folder`; its certificate is `path`."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def found(self) -> None:
        self._openssl(f"req -x509 {_new_key(self.name)} -days 2 -out {self.name}.pem -subj /CN={self.name}")

    def sign(self, owner: str, alternative_name: str) -> None:
        """Make OWNER.pem and OWNER-key.pem, a certificate of this authority."""
        (self.folder / "extensions").write_text(f"subjectAltName={alternative_name}\n")
        self._openssl(f"req {_new_key(owner)} -out {owner}.csr -subj /CN={owner}")
        self._openssl(
            f"x509 -req -in {owner}.csr -CA {self.name}.pem -CAkey {self.name}-key.pem -CAcreateserial -days 2 "
            f"-extfile extensions -out {owner}.pem"
        )

    def _openssl(self, words: str) -> None:
        subprocess.run(["openssl", *words.split()], cwd=self.folder, check=True, capture_output=True)


def _new_key(owner: str) -> str:
    return f"-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {owner}-key.pem"


def make_certificates(folder: Path) -> None:
    """Make an authority, a server and a client that it signed, and an authority that nobody asked."""
    authority = Authority(folder, "authority")
    authority.found()
    authority.sign("server", "DNS:localhost")
    authority.sign("client", "DNS:client")
    Authority(folder, "stranger").found()


@contextmanager
def tls_server(folder: Path, engine: str) -> Iterator[Server]:
    """Run a server on a port, with certificates of its own in `folder`."""
    make_certificates(folder)
    files = {"ca": "authority", "cert": "server", "key": "server-key"}
    options = [f"--ssl-{name}={folder / file}.pem" for name, file in files.items()]
    options.append("--bind-address=0.0.0.0")  # so that a test can come from what looks like another host
    with own_server(install(engine), folder / "server", *options, tcp=True) as server:
        yield server


@dataclass(frozen=True)
class Target:
    """A server on 127.0.0.1 with the certificates in `folder`; its own is for the host name localhost alone."""

    server: Server
    folder: Path

    def env(self, mode: str, **more: str) -> dict[str, str]:
        """Return the settings of an account that may do without TLS, over TCP; `more` changes them."""
        where = {"DB_SOCKET": "", "DB_HOST": "127.0.0.1", "DB_PORT": str(self.server.port), "DB_NAME": "tls"}
        return {**where, "DB_USER": "anyhow", "DB_SSL_MODE": mode, "DB_SSL_CA": self.pem("authority"), **more}

    def pem(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")


@pytest.fixture(scope="module")
def target(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("tls")
    with tls_server(folder, engine) as server:
        with connect(server, ssl_disabled=True) as connection:
            run_script(connection, ACCOUNTS + (ROOT / "sql" / "schema.sql").read_text())
        yield Target(server, folder)


@pytest.fixture
def runs(project: Project, target: Target) -> Project:
    """A project with a metric that says whether its connection is encrypted."""
    schema = "information_schema" if target.server.install.name == "MariaDB" else "performance_schema"
    cipher = f"(SELECT variable_value FROM {schema}.session_status WHERE variable_name = 'Ssl_cipher')"
    project.write("encrypted.sql", metric_sql("encrypted", f"IF({cipher} = '', 'no', 'yes')"))
    return project


def _encrypted(target: Target, result: CompletedProcess[str]) -> str:
    """Return what the run's metric said, "yes" or "no"; AssertionError where the run failed."""
    assert (result.returncode, result.stderr) == (0, "")
    with connect(target.server, "tls", ssl_disabled=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.n')) FROM bi_metrics")
        [(answer,)] = cursor.fetchall()
        cursor.execute("DELETE FROM bi_metrics")
    return str(answer)


def _refusal(result: CompletedProcess[str]) -> str:
    """Return the one line that a run said which never began and was not tried again."""
    assert (result.returncode, result.stdout) == (2, ""), result
    [line] = result.stderr.splitlines()
    assert "Error: cannot connect to " in line
    return line


@pytest.mark.parametrize(
    ("mode", "encrypted"),
    [("disabled", "no"), ("preferred", "yes"), ("required", "yes"), ("verify-ca", "yes"), ("verify-identity", "yes")],
)
def test_every_mode_works_against_a_server_with_the_certificate_it_asks_for(
    runs: Project, target: Target, mode: str, encrypted: str
) -> None:
    assert _encrypted(target, runs.run("yesterday", env=target.env(mode, DB_HOST="localhost"))) == encrypted


def test_a_socket_never_uses_tls_whatever_the_mode(runs: Project, target: Target) -> None:
    env = target.env("verify-identity", DB_SSL_CA="/no/such/file", DB_USER="root")
    in_socket = {"DB_HOST": "", "DB_SOCKET": target.server.socket}
    assert _encrypted(target, runs.run("yesterday", env={**env, **in_socket})) == "no"


def test_modes_that_do_not_verify_take_any_certificate(runs: Project, target: Target) -> None:
    for mode in ("preferred", "required"):
        env = target.env(mode, DB_SSL_CA=target.pem("stranger"), DB_USER="encrypted")
        assert _encrypted(target, runs.run("yesterday", env=env)) == "yes"


def test_a_wrong_authority_is_refused_in_one_line(runs: Project, target: Target) -> None:
    for mode in ("verify-ca", "verify-identity"):
        env = target.env(mode, DB_SSL_CA=target.pem("stranger"), DB_HOST="localhost")
        line = _refusal(runs.run("yesterday", env=env))
        assert "CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate" in line
        assert "look at DB_SSL_MODE and DB_SSL_CA" in line
    unknown = _refusal(runs.run("yesterday", env=target.env("verify-ca", DB_SSL_CA="")))
    assert "certificate verify failed" in unknown


def test_a_wrong_host_name_is_refused_by_verify_identity_alone(runs: Project, target: Target) -> None:
    line = _refusal(runs.run("yesterday", env=target.env("verify-identity")))
    assert "certificate is not valid for '127.0.0.1'" in line
    assert _encrypted(target, runs.run("yesterday", env=target.env("verify-ca"))) == "yes"


def test_a_certificate_file_that_cannot_be_read_is_named(runs: Project, target: Target) -> None:
    for name in ("DB_SSL_CA", "DB_SSL_CERT", "DB_SSL_KEY"):
        good = {"DB_SSL_CERT": target.pem("client"), "DB_SSL_KEY": target.pem("client-key")}
        result = runs.run("yesterday", env=target.env("required", **{**good, name: "/no/such/file.pem"}))
        assert (result.returncode, result.stdout) == (2, "")
        [line] = result.stderr.splitlines()
        assert f"Error: {name}=/no/such/file.pem: cannot read it: No such file or directory" in line


def test_a_file_that_holds_something_else_is_refused_in_one_line(runs: Project, target: Target) -> None:
    swapped = {"DB_SSL_CERT": target.pem("client-key"), "DB_SSL_KEY": target.pem("client")}
    for wrong in (swapped, {"DB_SSL_CA": target.pem("client-key")}):
        result = runs.run("yesterday", env=target.env("required", **wrong))
        assert (result.returncode, result.stdout) == (2, "")
        [line] = result.stderr.splitlines()
        assert "DB_SSL_CA, DB_SSL_CERT and DB_SSL_KEY do not hold what they should" in line


def test_a_client_certificate_opens_an_account_that_requires_one(runs: Project, target: Target) -> None:
    certificate = {"DB_SSL_CERT": target.pem("client"), "DB_SSL_KEY": target.pem("client-key")}
    assert "(1045) Access denied" in _refusal(runs.run("yesterday", env=target.env("required", DB_USER="known")))
    for mode in ("preferred", "verify-ca"):
        env = target.env(mode, DB_USER="known", **certificate)
        assert _encrypted(target, runs.run("yesterday", env=env)) == "yes"


def test_an_account_that_requires_tls_refuses_a_plain_connection(runs: Project, target: Target) -> None:
    line = _refusal(runs.run("yesterday", env=target.env("disabled", DB_USER="encrypted")))
    assert "Access denied for user 'encrypted'" in line


def test_a_server_without_tls_gets_no_password_from_required_and_a_plain_connection_from_preferred(
    runs: Project, target: Target
) -> None:
    target.server.stop()
    target.server.start("--skip-ssl" if target.server.install.name == "MariaDB" else "--tls-version=")
    try:
        for mode in ("required", "verify-ca", "verify-identity"):
            assert "SSL is required but the server doesn't support it" in _refusal(
                runs.run("yesterday", env=target.env(mode, DB_HOST="localhost"))
            )
        assert _encrypted(target, runs.run("yesterday", env=target.env("preferred"))) == "no"
    finally:
        target.server.stop()
        target.server.start()


def _new_account(target: Target, name: str, *hosts: str) -> dict[str, str]:
    """Create an account of caching_sha2_password that has never logged in, and return its settings over plain TCP."""
    with connect(target.server, ssl_disabled=True) as connection, connection.cursor() as cursor:
        for host in hosts or ("127.0.0.1", "localhost"):
            account = f"{name}@'{host}'"
            cursor.execute(f"CREATE USER {account} IDENTIFIED WITH caching_sha2_password BY %s", [SECRET])
            cursor.execute(f"GRANT ALL ON tls.* TO {account}")
    return target.env("disabled", DB_USER=name, DB_PASSWORD=SECRET)


@pytest.fixture
def sha2(target: Target) -> Target:
    if target.server.install.name != "MySQL":
        pytest.skip(f"{target.server.install.name} {target.server.install.version} has no caching_sha2_password")
    return target


def test_caching_sha2_password_over_plain_tcp_names_the_setting_that_helps(runs: Project, sha2: Target) -> None:
    env = _new_account(sha2, "plain")
    line = _refusal(runs.run("yesterday", env=env))
    assert "caching_sha2_password over TCP needs TLS; set DB_SSL_MODE=required, or verify-ca" in line
    assert SECRET not in line
    # The server keeps what a first login has proved, until it restarts; then plain TCP does without the package.
    assert _encrypted(sha2, runs.run("yesterday", env={**env, "DB_SSL_MODE": "required"})) == "yes"
    assert _encrypted(sha2, runs.run("yesterday", env=env)) == "no"


def test_caching_sha2_password_over_a_socket(runs: Project, sha2: Target) -> None:
    env = {**_new_account(sha2, "local"), "DB_HOST": "", "DB_SOCKET": sha2.server.socket}
    assert _encrypted(sha2, runs.run("yesterday", env=env)) == "no"


def test_caching_sha2_password_with_tls(runs: Project, sha2: Target) -> None:
    env = {**_new_account(sha2, "remote"), "DB_SSL_MODE": "verify-identity", "DB_HOST": "localhost"}
    # With --skip-name-resolve the account is of 127.0.0.1, whatever name the client used.
    assert _encrypted(sha2, runs.run("yesterday", env=env)) == "yes"


def test_a_wrong_password_is_refused_and_never_shown(runs: Project, target: Target) -> None:
    for env in (target.env("required"), {"DB_SOCKET": target.server.socket, "DB_USER": "root", "DB_NAME": "tls"}):
        result = runs.run("yesterday", env={**env, "DB_PASSWORD": "wrong-pass"})
        assert "(1045) Access denied" in _refusal(result)
        assert "wrong-pass" not in result.stderr + runs.log()


def _rogue(
    target: Target, *replies: bytes, greets: bytes = b"mysql_native_password", host: str = "127.0.0.1"
) -> FakeServer:
    """Return a server that sends these replies in the course of a login, over TLS if the client wants to."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(target.pem("server"), target.pem("server-key"))

    def talk(end: socket.socket) -> bytes:
        end.settimeout(10)
        end.sendall(greeting(CLIENT_SSL, greets))
        heard, number = b"", 2
        with suppress(OSError):  # the client has left
            heard = end.recv(36)  # capabilities and more, without a name: a wish for TLS
            if int.from_bytes(heard[4:8], "little") & CLIENT_SSL:
                end, heard, number = context.wrap_socket(end, server_side=True), b"", 3
            heard += end.recv(BYTES)
            for reply in replies:
                end.sendall(packet(reply, number))
                if reply != QUICK:  # it needs no answer
                    heard += end.recv(BYTES)
                number += 1 if reply == QUICK else 2
        end.close()
        return heard

    return FakeServer(talk, host=host)


def _switch(method: bytes, data: bytes = b"twenty bytes of salt\0") -> bytes:
    return b"\xfe" + method + b"\0" + data


def _heard(server: FakeServer) -> bytes:
    """Return what the one client of a rogue server said after the greeting."""
    wait_until(lambda: server.heard)
    [heard] = server.heard
    assert heard is not None
    return heard


@pytest.fixture
def elsewhere() -> str:
    """An address of this machine that looks like another host's."""
    return own_address() or pytest.skip("this machine has no address but loopback ones")


CLEAR = [_switch(b"mysql_clear_password", b"")]
DIALOG = [_switch(b"dialog", b"\x04Password: ")]
LOGGED_IN = b"\0\0\0\2\0\0\0"
QUICK, FULL, KEY = b"\x01\x03", b"\x01\x04", b"\x01-----BEGIN PUBLIC KEY-----\n"
# name of the method in the greeting, what the server says next, how the message calls what it asks for
STRANGERS = {
    "in clear": (b"mysql_native_password", CLEAR, "mysql_clear_password"),
    "by a dialog": (b"mysql_native_password", DIALOG, "dialog"),
    "by an old method": (b"mysql_native_password", [_switch(b"mysql_old_password")], "mysql_old_password"),
    "by a new method": (b"mysql_native_password", [_switch(b"from_tomorrow")], "from_tomorrow"),
    "sha256 from the start": (b"sha256_password", [KEY], "sha256_password"),
    "sha256 after a switch": (b"caching_sha2_password", [_switch(b"sha256_password"), KEY], "sha256_password"),
    "in full from the start": (b"caching_sha2_password", [FULL, KEY], "full authentication of caching_sha2_password"),
    "in full after a switch": (b"mysql_native_password", [_switch(b"caching_sha2_password"), FULL, KEY],
                               "full authentication of caching_sha2_password"),
}  # fmt: skip


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("mode", ["disabled", "preferred", "required"])
def test_a_server_that_anybody_may_be_does_not_get_the_password(
    target: Target, tmp_path: Path, elsewhere: str, mode: str, stranger: str
) -> None:
    greets, replies, asks_for = STRANGERS[stranger]
    with _rogue(target, *replies, greets=greets, host=elsewhere) as server:
        env = target.env(mode, DB_HOST=elsewhere, DB_PORT=str(server.port), DB_PASSWORD=SECRET)
        with closing(DatabaseManager(load_settings(tmp_path, env))) as manager, pytest.raises(DatabaseError) as caught:
            manager.connect()
        heard = _heard(server)
    assert str(caught.value).endswith(
        f"(2059) the server asks for the password itself ({asks_for}), and without a verified certificate it may be "
        "anybody's; set DB_SSL_MODE=verify-ca or verify-identity"
    )
    assert caught.value.code not in TRANSIENT
    # After the server's wish nothing comes: neither the password nor a wish for its key.
    assert SECRET.encode() not in heard
    assert not heard.endswith((b"\x01\0\0\x03\x02", b"\x01\0\0\x04\x02", b"\x01\0\0\x05\x02", b"\1"))


@pytest.mark.parametrize("stranger", ["in clear", "by a dialog"])
@pytest.mark.parametrize("mode", ["disabled", "preferred", "required"])
def test_even_a_program_on_this_host_does_not_get_the_password_in_clear(
    runs: Project, target: Target, mode: str, stranger: str
) -> None:
    greets, replies, asks_for = STRANGERS[stranger]
    with _rogue(target, *replies, greets=greets) as server:
        env = target.env(mode, DB_PORT=str(server.port), DB_PASSWORD=SECRET)
        line = _refusal(runs.run("yesterday", env=env))
        assert SECRET.encode() not in _heard(server)
    assert f"the server asks for the password itself ({asks_for})" in line


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("stranger", ["sha256 from the start", "sha256 after a switch", "in full from the start"])
def test_a_server_on_this_host_may_ask_for_the_password_within_tls(
    runs: Project, target: Target, host: str, stranger: str
) -> None:
    greets, replies, _ = STRANGERS[stranger]
    with _rogue(target, *replies, greets=greets) as server:
        env = target.env("preferred", DB_HOST=host, DB_PORT=str(server.port), DB_PASSWORD=SECRET)
        runs.start("run_metrics.py", "yesterday", "--retries", "0", env=env).communicate(timeout=60)
        assert SECRET.encode() in _heard(server)


@pytest.mark.parametrize("mode", ["disabled", "preferred", "required"])
@pytest.mark.parametrize(
    ("greets", "replies"),
    [
        (b"mysql_native_password", []),
        (b"caching_sha2_password", [QUICK]),
        (b"mysql_native_password", [_switch(b"caching_sha2_password"), QUICK]),
        (b"caching_sha2_password", [_switch(b"mysql_native_password")]),
    ],
)
def test_what_only_proves_the_password_works_with_any_server(
    target: Target, tmp_path: Path, elsewhere: str, mode: str, greets: bytes, replies: list[bytes]
) -> None:
    with _rogue(target, *replies, LOGGED_IN, greets=greets, host=elsewhere) as server:
        env = target.env(mode, DB_HOST=elsewhere, DB_PORT=str(server.port), DB_PASSWORD=SECRET)
        manager = DatabaseManager(load_settings(tmp_path, env))
        with closing(manager), pytest.raises(DatabaseError, match="Lost connection"):
            manager.connect()
        assert b"SET NAMES" in _heard(server)  # the first statement after the login


def test_full_authentication_with_another_host_needs_a_verified_certificate_and_the_fast_path_none(
    runs: Project, sha2: Target, elsewhere: str
) -> None:
    account = {**_new_account(sha2, "far", elsewhere), "DB_HOST": elsewhere, "DB_SSL_CA": sha2.pem("authority")}
    for mode in ("preferred", "required"):
        line = _refusal(runs.run("yesterday", env={**account, "DB_SSL_MODE": mode}))
        assert "(full authentication of caching_sha2_password)" in line
    for mode in ("verify-ca", "preferred"):  # the server keeps what the first of them has proved
        assert _encrypted(sha2, runs.run("yesterday", env={**account, "DB_SSL_MODE": mode})) == "yes"


def test_a_password_of_mariadb_works_with_another_host(runs: Project, target: Target, elsewhere: str) -> None:
    if target.server.install.name == "MySQL":
        pytest.skip("MySQL 9 has no mysql_native_password")
    with connect(target.server, ssl_disabled=True) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE USER native@%s IDENTIFIED BY %s", [elsewhere, SECRET])
        cursor.execute("GRANT ALL ON tls.* TO native@%s", [elsewhere])
    env = target.env("preferred", DB_HOST=elsewhere, DB_USER="native", DB_PASSWORD=SECRET)
    assert _encrypted(target, runs.run("yesterday", env=env)) == "yes"


OTHER_LANGUAGE = "(2012) no MySQL or MariaDB server answers like this ("


@pytest.mark.parametrize(
    ("replies", "says"),
    [
        ([_switch(b"mysql_old_password")], OTHER_LANGUAGE),
        ([_switch(b"client_ed25519")], "(2061) client_ed25519 needs a package more: pip install PyNaCl"),
        ([b""], OTHER_LANGUAGE),
        ([_switch(b"not \xff ascii")], OTHER_LANGUAGE),
    ],
)
def test_an_answer_that_the_driver_trips_over_is_one_line(
    runs: Project, target: Target, replies: list[bytes], says: str
) -> None:
    with _rogue(target, *replies) as server:
        env = target.env("preferred", DB_PORT=str(server.port), DB_PASSWORD=SECRET)
        assert says in _refusal(runs.run("yesterday", env=env))


@pytest.mark.parametrize(
    "hello", [b"SSH-2.0-OpenSSH_9.2\r\n", packet(b"", 0), packet(b"\x0a", 0), packet(b"\x0aMaxScale\0" + b"\0" * 40, 0)]
)
def test_a_server_that_speaks_another_language_is_named(target: Target, tmp_path: Path, hello: bytes) -> None:
    def talk(end: socket.socket) -> None:
        end.sendall(hello)
        end.shutdown(socket.SHUT_RDWR)

    with FakeServer(talk) as server, pytest.raises(DatabaseError, match=r"cannot connect to 127.0.0.1:\d+ as user"):
        DatabaseManager(load_settings(tmp_path, target.env("disabled", DB_PORT=str(server.port)))).connect()


def test_a_server_with_a_verified_certificate_may_ask_for_the_password(runs: Project, target: Target) -> None:
    with _rogue(target, *CLEAR) as server:
        env = target.env("verify-identity", DB_HOST="localhost", DB_PORT=str(server.port), DB_PASSWORD=SECRET)
        runs.start("run_metrics.py", "yesterday", "--retries", "0", env=env).communicate(timeout=60)
        assert SECRET.encode() in _heard(server)


@pytest.mark.parametrize(
    ("code", "tries"), [(1040, 2), (1047, 2), (1045, 1), (1049, 1), (1129, 1), (1130, 1), (1226, 1), (1251, 1)]
)
def test_the_first_connection_is_tried_again_only_after_what_may_pass(
    runs: Project, target: Target, code: int, tries: int
) -> None:
    refusal = packet(b"\xff" + code.to_bytes(2, "little") + b"made for a test", 0)

    def refuse(end: socket.socket) -> None:
        end.sendall(refusal)
        end.shutdown(socket.SHUT_RDWR)

    with FakeServer(refuse) as server:
        result = runs.run("yesterday", "--retries", "1", env=target.env("disabled", DB_PORT=str(server.port)))
    assert (result.returncode, server.connections) == (2, tries)
    assert f"({code}) made for a test" in result.stderr.splitlines()[-1]
    assert ("trying to connect again in" in result.stderr) == (tries == 2)


@pytest.mark.parametrize(("why", "passes"), [(socket.EAI_NONAME, False), (socket.EAI_AGAIN, True)])
def test_a_host_that_does_not_exist_is_not_tried_again(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: int, passes: bool
) -> None:
    def fail(*words: object, **more: object) -> None:
        raise socket.gaierror(why, "made for a test")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(DatabaseError, match=r"cannot connect to .* made for a test") as caught:
        DatabaseManager(load_settings(tmp_path, target.env("disabled", DB_PASSWORD=""))).connect()
    assert (caught.value.code in TRANSIENT) == passes
