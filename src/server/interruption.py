"""Stops a run when a signal arrives: SIGINT, SIGTERM, SIGHUP."""

from __future__ import annotations

import signal
import socket
import threading
import time
from contextlib import suppress

from src.errors import Interrupted


class Interruption:
    """The signal that has arrived, `number`, 0 for none; and the connection that it ends.

    Nothing is done in a signal handler. What it raises could be swallowed by a destructor, and it runs only between two
    steps of the interpreter: after a signal just before the wait for a reply, not until the reply is there. So a thread
    ends the connection under the statement that runs, and code that waits for a reply calls check().
    """

    def __init__(self) -> None:
        self.number = 0
        self._line: socket.socket | None = None

    def listen(self) -> None:
        """From now on, every signal that has a handler arrives here."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)  # gets each signal's number at once
        threading.Thread(target=self._hear, args=(reader,), daemon=True).start()

    def _hear(self, reader: socket.socket) -> None:
        while number := reader.recv(1):
            self.stop(number[0])

    def stop(self, number: int) -> None:
        """Act as if the signal `number` had arrived. Any thread may call this."""
        self.number = number
        if (line := self._line) is not None:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def watch(self, line: socket.socket | None) -> None:
        """From now on, a signal ends this connection; a copy is kept, for the driver may close or wrap its own."""
        before, self._line = self._line, line and line.dup()
        if before is not None:
            before.close()

    def check(self) -> None:
        """Raise Interrupted if a signal has arrived."""
        if self.number:
            raise Interrupted(self.number)

    def sleep(self, seconds: float) -> None:
        """Sleep in slices, so that a signal ends it."""
        end = time.monotonic() + seconds
        while (rest := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(rest, 0.2))
