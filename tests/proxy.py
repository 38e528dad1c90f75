"""A proxy in front of a server's unix socket that cuts the line or rewrites what the client sends; a fake server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

BYTES = 1 << 16
CLIENT_SSL = 0x800
WITHIN_SECONDS = 0.15  # how long the server works on a statement before a cut within it


@dataclass
class Cut:
    """Cut the line once, where the client sends `text` for the first time after `skip` times.

    `moment`: "before" the server sees the text, "within" its work on it, or "after" its reply, which the client misses.
    With "silent" the line stays, and the client waits for the reply in vain.
    """

    text: bytes
    moment: str
    skip: int = 0
    done: int = 0

    def wants(self, data: bytes) -> bool:
        """Return whether to cut where the client sends `data`."""
        if self.done or self.text not in data:
            return False
        self.skip -= 1
        return self.skip < 0


@dataclass
class Proxy:
    """Listens on the unix socket `path` while its `with` block lasts."""

    path: Path
    upstream: str  # the server's socket
    cut: Cut | None = None
    rewrite: Callable[[bytes], bytes] = field(default=lambda data: data)

    def __enter__(self) -> Proxy:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self.upstream)
            line = _Line(client, server)
            replies = threading.Thread(target=line.pass_replies, daemon=True)
            replies.start()
            while not line.is_cut and (data := client.recv(BYTES)):
                line.send(self.rewrite(data), self.cut)
            line.end()
            replies.join()


class _Line:
    """One client's connection to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server
        self._moment = ""
        self.is_cut = False

    def send(self, data: bytes, cut: Cut | None) -> None:
        if cut is None or not cut.wants(data):
            self._server.sendall(data)
            return
        cut.done += 1
        self._moment = cut.moment
        if cut.moment != "before":
            self._server.sendall(data)
        if cut.moment == "within":
            time.sleep(WITHIN_SECONDS)
        if cut.moment in ("before", "within"):
            self.end()

    def pass_replies(self) -> None:
        with suppress(OSError):
            while (data := self._server.recv(BYTES)) and self._moment != "after":
                if self._moment != "silent":
                    self._client.sendall(data)
        self.end()

    def end(self) -> None:
        """Close both ends; the server may be still at work on what it got."""
        self.is_cut = True
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@dataclass
class FakeServer:
    """Listens on a port of `host` while its `with` block lasts, and has a `talk` with each client.

    The connections stay open afterwards. What `talk` returns is kept.
    """

    talk: Callable[[socket.socket], bytes | None]
    heard: list[bytes | None] = field(default_factory=list)
    connections: int = 0
    host: str = "127.0.0.1"

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> FakeServer:
        self._listener = socket.create_server((self.host, 0))
        self._talks = threading.Thread(target=self._accept, daemon=True)
        self._talks.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._talks.join(5)  # what the client said last is not heard yet

    def _accept(self) -> None:
        ends = []
        with suppress(OSError):
            while True:
                ends.append(self._listener.accept()[0])
                self.connections += 1
                with suppress(OSError):
                    self.heard.append(self.talk(ends[-1]))


def own_address() -> str:
    """Return an address of this machine that is no loopback address; empty if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("203.0.113.1", 9))  # sends nothing
        return str(probe.getsockname()[0])
    return ""


def greeting(more_capabilities: int = 0, method: bytes = b"mysql_native_password") -> bytes:
    """Return the first packet of a server of protocol 10 that names a method of authentication."""
    capabilities = 0x0008_A201 | more_capabilities  # long password, protocol 41, secure connection, plugin auth
    body = b"\x0a9.9.9-fake\0" + b"\x07\0\0\0" + b"8 bytes.\0" + (capabilities & 0xFFFF).to_bytes(2, "little")
    body += b"\x2d\x02\0" + (capabilities >> 16).to_bytes(2, "little") + b"\x15" + b"\0" * 10 + b"twelve bytes\0"
    return packet(body + method + b"\0", 0)


def packet(body: bytes, number: int) -> bytes:
    return len(body).to_bytes(3, "little") + bytes([number]) + body
