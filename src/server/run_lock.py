"""One run at a time: a GET_LOCK of the database's name, which the server frees when its connection ends."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from typing import TYPE_CHECKING, Any

from src.errors import DatabaseError, LockedError, StatementError
from src.server.codes import NO_SUCH_FUNCTION, OVER_THE_LIMIT, QUERY_KILLED, TRANSIENT

if TYPE_CHECKING:
    from src.db_manager import DatabaseManager

log = logging.getLogger("bi_metrics")

LOCK_SLICE_SECONDS = 10  # a long wait is split into slices, shorter than socket timeouts
MOMENT_SECONDS = 1  # for which the session of a run that has just ended may still hold the lock
ROLLBACK_SECONDS = 60  # how long the rollback of a killed session may keep the lock
_TAG = re.compile(r"/\* bi_metrics (.*?) \*/")


class RunLock:
    """The lock of the runs on one database, taken and asked for on its connection.

    With a name of its own it locks nothing that others ask for, but shows which session is ours.
    """

    def __init__(self, database: DatabaseManager, own_name: str = "") -> None:
        self._db = database
        self._own_name = own_name
        self._session = 0  # our session that asked for the lock last: it may be lost, and still hold it
        self.is_held = False

    @property
    def _name(self) -> str:
        if self._own_name:
            return self._own_name
        # Names of locks are server-wide and 64 characters at most: a readable start, then a hash that tells them apart.
        database = self._db.server_name
        readable = re.sub(r"[^A-Za-z0-9_]", "_", database)[:30]
        return f"bi_metrics:{readable}:{hashlib.sha256(database.encode()).hexdigest()[:16]}"

    @property
    def is_ours(self) -> str:
        """An SQL expression that is 1 while this connection holds the lock, or while the server has no locks."""
        held = self.is_held and self._session == self._db.connection_id
        return f"IS_USED_LOCK('{self._name}') = CONNECTION_ID()" if held else "1"

    def take(self, wait_seconds: float = 0) -> None:
        """Take the lock, waiting at most `wait_seconds`, or a moment. Raises LockedError if another run has it.

        A server without GET_LOCK is warned of.
        """
        deadline = time.monotonic() + max(wait_seconds, MOMENT_SECONDS)
        if self._session and self.kill_lost_session():
            deadline = max(deadline, time.monotonic() + ROLLBACK_SECONDS)
        self._session, self.is_held = self._db.connection_id, False
        while not self._get_lock(max(0.0, min(LOCK_SLICE_SECONDS, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                holder = self._holder()
                self._db.close()  # without the lock nothing may run on this connection
                raise LockedError(holder)

    def is_taken(self) -> bool:
        """Tell whether some session holds the lock. A server without GET_LOCK has none."""
        try:
            return self._db.query(f"SELECT IS_USED_LOCK('{self._name}')")[0][0] is not None
        except DatabaseError as error:
            if error.code not in NO_SUCH_FUNCTION:
                raise
            return False

    def was_asked_for(self) -> bool:
        return self._session != 0

    def kill_lost_session(self) -> bool:
        """Kill our lost session if it still holds the lock, and tell whether it does.

        Only if it holds our lock: behind a proxy the id may be another client's, or this very session's.
        """
        ours = False
        try:
            holder = self._db.query(f"SELECT IS_USED_LOCK('{self._name}')")[0][0]
            ours = holder == self._session != self._db.connection_id
            if ours:
                self._db.execute(f"KILL {self._session}")
                log.info("killed our lost session %s, which was still running", self._session)
        except DatabaseError as error:  # it has ended by itself meanwhile, or there are no locks
            if error.code in TRANSIENT:
                raise
        return ours

    def _get_lock(self, seconds: float) -> bool:
        try:
            self.is_held = bool(self._db.query(f"SELECT GET_LOCK('{self._name}', {seconds:.1f})")[0][0])
        except DatabaseError as error:
            if error.code in OVER_THE_LIMIT | {QUERY_KILLED}:  # a limit of the server's ended the wait, not the lock
                return False
            if error.code not in NO_SUCH_FUNCTION:
                raise
            log.warning("this server has no GET_LOCK (%s); make sure that no two runs overlap", error)
            return True
        return self.is_held

    def _holder(self) -> str:
        holder = self._db.query(f"SELECT IS_USED_LOCK('{self._name}')")[0][0]
        if holder is None:
            return "another run held the lock until just now; start again"
        seen = self._in_process_list(holder)
        host = f" from {seen.get('Host') or 'this host'}" if seen else ""
        tag = _TAG.search(str(seen.get("Info")))
        work = f", running {tag[1]}" if tag else ""
        return (
            f"another run is in progress on database {self._db.name}: connection {holder}{host}{work}. Wait for it "
            "with --wait SECONDS; if its process is gone, the server frees the lock when the statement ends, "
            f"or at once with: KILL {holder}"
        )

    def _in_process_list(self, session: int) -> dict[str, Any]:
        """Return what the process list says of a session, by column; nothing if the list cannot be read."""
        try:
            with self._db.select("SHOW FULL PROCESSLIST") as (columns, rows):
                sessions = [dict(zip(columns, row, strict=True)) for row in rows]
        except StatementError as error:
            if error.code in TRANSIENT:
                raise
            return {}
        return next((each for each in sessions if each.get("Id") == session), {})
