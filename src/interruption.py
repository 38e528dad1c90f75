"""Stops a run when a signal arrives: SIGINT, SIGTERM, SIGHUP."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from types import FrameType

from src.errors import Interrupted


class Interruption:
    """What a signal handler may touch. `number` is the signal that arrived, 0 for none.

    Nothing is raised in the handler: it could be swallowed by a destructor. It ends the connection under the statement
    that runs, and whoever waits for the reply asks check().
    """

    def __init__(self) -> None:
        self.number = 0
        self._line: socket.socket | None = None

    def arrive(self, number: int, frame: FrameType | None = None) -> None:
        """The signal handler."""
        self.number = number
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def watch(self, line: socket.socket | None) -> None:
        """From now on, a signal ends this connection; a copy is kept, for the driver may close or wrap its own."""
        before, self._line = self._line, line and socket.socket(fileno=os.dup(line.fileno()))
        if before is not None:
            before.close()

    def check(self) -> None:
        """Raise Interrupted where a signal has arrived."""
        if self.number:
            raise Interrupted(self.number)

    def sleep(self, seconds: float) -> None:
        """Sleep in slices, so that a signal ends it."""
        end = time.monotonic() + seconds
        while (rest := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(rest, 0.2))
