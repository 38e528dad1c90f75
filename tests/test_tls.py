"""TLS and passwords over TCP: each DB_SSL_MODE against a server whose certificate a test authority signed."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from config.database import load_settings
from demo.server import Server
from src.db_manager import DatabaseManager
from src.errors import DatabaseError
from src.server.codes import TRANSIENT
from tests.conftest import FAST, ROOT, Project, connect, metric_sql, run_script
from tests.engines import install
from tests.proxy import BYTES, CLIENT_SSL, FakeServer, greeting, packet

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
    chosen = install(engine)
    server = Server(folder / "server", chosen, [*FAST[chosen.name], *options], tcp=True)
    server.start()
    try:
        yield server
    finally:
        server.stop()


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


def _new_account(target: Target, name: str) -> dict[str, str]:
    """Create an account of caching_sha2_password that has never logged in, and return its settings over plain TCP."""
    with connect(target.server, ssl_disabled=True) as connection, connection.cursor() as cursor:
        for host in ("127.0.0.1", "localhost"):
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


def _rogue(target: Target, plugin: bytes, data: bytes) -> FakeServer:
    """Return a server that asks for the password by another authentication method, over TLS if the client wants to."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(target.pem("server"), target.pem("server-key"))

    def talk(end: socket.socket) -> bytes:
        end.settimeout(10)
        end.sendall(greeting(CLIENT_SSL))
        answer = end.recv(36)  # capabilities and more, without a name: a wish for TLS
        if int.from_bytes(answer[4:8], "little") & CLIENT_SSL:
            end = context.wrap_socket(end, server_side=True)
            answer = b""
        number = 3 if not answer else 2
        answer += end.recv(BYTES)
        end.sendall(packet(b"\xfe" + plugin + b"\0" + data, number))
        return answer + end.recv(BYTES)

    return FakeServer(talk)


@pytest.mark.parametrize(("plugin", "data"), [(b"mysql_clear_password", b""), (b"dialog", b"\x04Password: ")])
@pytest.mark.parametrize("mode", ["disabled", "preferred", "required"])
def test_a_server_that_anybody_may_be_does_not_get_the_password(
    runs: Project, target: Target, mode: str, plugin: bytes, data: bytes
) -> None:
    with _rogue(target, plugin, data) as server:
        env = target.env(mode, DB_PORT=str(server.port), DB_PASSWORD=SECRET)
        line = _refusal(runs.run("yesterday", env=env))
    assert "the server asks for the password in clear text; set DB_SSL_MODE=verify-ca or verify-identity" in line
    assert [SECRET.encode() in (heard or b"") for heard in server.heard] == [False]  # asked once


def test_a_server_with_a_verified_certificate_may_ask_for_the_password(runs: Project, target: Target) -> None:
    with _rogue(target, b"mysql_clear_password", b"") as server:
        env = target.env("verify-identity", DB_HOST="localhost", DB_PORT=str(server.port), DB_PASSWORD=SECRET)
        runs.start("run_metrics.py", "yesterday", "--retries", "0", env=env).communicate(timeout=60)
    assert [SECRET.encode() in (heard or b"") for heard in server.heard] == [True]


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
