"""A proxy in front of a server's unix socket that cuts the line or rewrites what the client sends."""

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
