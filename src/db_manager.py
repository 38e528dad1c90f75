"""The only module that talks to MySQL: one connection, packets of statements, one transaction at a time, the lock."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pymysql
from pymysql.constants import CLIENT

from config.database import GROUP_CONCAT_BYTES, Settings
from src.errors import DatabaseError, LockedError, SettingsError, StatementError
from src.sql_text import literal

log = logging.getLogger("bi_metrics")

# Errors after which the same work may succeed on a new connection: every way of losing the server, and lock wait,
# deadlock, snapshot conflict, a node that is not ready, read-only (a fail-over), too many connections.
LOST = frozenset({0, 1053, 1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031})
TRANSIENT = LOST | {1020, 1040, 1047, 1180, 1205, 1213, 1290, 1836}
UNKNOWN_TIME_ZONE = 1298
OLDEST_DRIVER = (1, 2)
LOCK_SLICE_SECONDS = 10  # of a longer wait, so that no socket timeout cuts it
GRACE_SECONDS = 15  # a server that does not even report its own limit is given up after this
CONNECT_TIMEOUT_SECONDS = 10
_SQL_MODES_DROPPED = {"ANSI_QUOTES", "NO_BACKSLASH_ESCAPES"} | {  # the second set switches ANSI_QUOTES on again
    "ANSI", "DB2", "MAXDB", "MSSQL", "ORACLE", "POSTGRESQL"}  # fmt: skip
_TAG = re.compile(r"/\* bi_metrics (.*?) \*/")

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Result:
    """What the server said to one statement. `written` counts rows, unchanged ones included (CLIENT.FOUND_ROWS)."""

    written: int
    warnings: int
    rows: tuple[Row, ...]


class DatabaseManager:
    """A connection that knows how to come back: connect() again after a loss, then lock()."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: pymysql.Connection[Any] | None = None
        self._lost_id = 0  # a session of ours that may still be at work in the server
        self._expired = False
        self._limit = 0.0  # seconds a statement may take; 0: none
        self.connection_id = 0
        self.is_mariadb = False

    @property
    def name(self) -> str:
        return self._settings.db_name

    def connect(self) -> None:
        """Open a new connection and prepare its session; an old one is closed. Raises DatabaseError."""
        self.close()
        self._settings.require_database()
        self._connection = self._open()
        self._expired = False
        self._limit = 0.0
        self._prepare_session()

    def close(self) -> None:
        """Close the connection. Never raises: nothing is committed by closing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(pymysql.err.Error):
                connection.close()

    def query(self, sql: str) -> tuple[Row, ...]:
        """Run one statement that returns rows."""
        return self.run([sql])[0].rows

    def run(self, statements: Sequence[str], exactly: bool = True) -> list[Result]:
        """Send statements as one packet and return a result for each; with exactly=False, all that come.

        Raises StatementError for the first that fails; the server drops those after it.
        """
        results: list[Result] = []
        try:
            cursor = self._live().cursor()
            with self._limited() as restart_clock:
                cursor.execute(";\n".join(statements))
                while True:
                    results.append(Result(_written(cursor), cursor.warning_count, tuple(cursor.fetchall())))
                    restart_clock()
                    # execute() raises for the first statement only; the others report here.
                    if not cursor.nextset():
                        break
        except pymysql.err.Error as error:
            raise StatementError(len(results), *self._cause(error)) from error
        except BaseException:  # a signal between two replies: the server works on, and its answers would mix us up
            self.close()
            raise
        if self._expired:
            raise StatementError(len(results) - 1, *self._limit_error())
        if exactly and len(results) != len(statements):
            raise StatementError(0, -1, f"the server answered {len(results)} results to {len(statements)} statements")
        return results

    def stream(self, sql: str) -> Iterator[Row]:
        """Run one statement and yield its rows as they arrive, holding none."""
        try:
            with self._live().cursor(pymysql.cursors.SSCursor) as cursor:
                cursor.execute(sql)
                yield from cursor
        except pymysql.err.Error as error:
            raise DatabaseError(*self._cause(error)) from error

    @contextmanager
    def transaction(self, keep: bool = True) -> Iterator[None]:
        """Commit when the block ends, or roll back with keep=False; on any exception roll back and re-raise."""
        self.run(["START TRANSACTION"])
        try:
            yield
            self._end("COMMIT" if keep else "ROLLBACK")
        except BaseException:
            self._roll_back()
            raise

    def is_lost(self) -> bool:
        """Return whether the connection is gone, and with it the transaction."""
        return self._connection is None or not self._connection.open

    def kill_lost_session(self) -> None:
        """Stop what a session that we left is still doing in the server. Never raises: the server ends it in time."""
        if self.is_lost() and self.connection_id:
            self._lost_id = self.connection_id
            with suppress(DatabaseError):
                self.connect()
                self._kill_if_ours()

    # --- one run at a time --------------------------------------------------------------------------------------------

    def lock(self, wait_seconds: float = 0) -> None:
        """Take the lock of this database, waiting at most `wait_seconds`. Raises LockedError where another run has it.

        The server frees it when the connection ends, however it ends.
        """
        deadline = time.monotonic() + wait_seconds
        try:
            if self._lost_id and self._kill_if_ours():
                deadline = max(deadline, time.monotonic() + 60)  # its rollback may take a while
            while not self._get_lock(max(0.0, min(LOCK_SLICE_SECONDS, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    raise LockedError(self._holder())
        except DatabaseError as error:
            if error.code in TRANSIENT:
                raise
            log.warning("this server has no GET_LOCK (%s); make sure that no two runs overlap", error)
        self._lost_id = 0

    def _get_lock(self, seconds: float) -> bool:
        return bool(self.query(f"SELECT GET_LOCK('{self._lock_name}', {seconds:.1f})")[0][0])

    @property
    def _lock_name(self) -> str:
        # Names are server-wide and 64 characters at most: a readable start, then a hash that tells schemas apart.
        readable = re.sub(r"[^A-Za-z0-9_]", "_", self.name)[:30]
        return f"bi_metrics:{readable}:{hashlib.sha256(self.name.encode()).hexdigest()[:16]}"

    def _kill_if_ours(self) -> bool:
        """Kill the session that we lost, if it provably is ours: behind a proxy its id may be a stranger's."""
        holder = self.query(f"SELECT IS_USED_LOCK('{self._lock_name}')")[0][0]
        if holder is None or holder != self._lost_id:
            return False
        with suppress(DatabaseError):  # it may have ended by itself meanwhile
            self.run([f"KILL {self._lost_id}"])
        log.info("killed our lost session %s, which was still at work", self._lost_id)
        return True

    def _holder(self) -> str:
        holder = self.query(f"SELECT IS_USED_LOCK('{self._lock_name}')")[0][0]
        if holder is None:
            return "another run held the lock until just now; start again"
        seen = next((row for row in self.query("SHOW FULL PROCESSLIST") if row[0] == holder), None)
        host = f" from {seen[2] or 'this host'}" if seen else ""
        tag = _TAG.search(str(seen[7])) if seen else None
        work = f", at work on {tag[1]}" if tag else ""
        return (
            f"another run is at work on database {self.name}: connection {holder}{host}{work}. Wait for it with "
            "--wait SECONDS; if its process is gone, the server frees the lock when the statement ends, "
            f"or at once with: KILL {holder}"
        )

    # --- connection and session ---------------------------------------------------------------------------------------

    def _live(self) -> pymysql.Connection[Any]:
        if self._connection is None:
            raise pymysql.err.InterfaceError(0, "")
        return self._connection

    def _open(self) -> pymysql.Connection[Any]:
        settings = self._settings
        if pymysql.VERSION < OLDEST_DRIVER:
            found = pymysql.VERSION_STRING
            raise DatabaseError(-1, f"PyMySQL {found} may ignore DB_SSL_MODE=required; pip install -r requirements.txt")
        # A socket is safe by itself: a TLS context would cost 50 ms and add nothing.
        address: dict[str, Any] = {"unix_socket": settings.db_socket, "ssl_disabled": True}
        if not settings.db_socket:
            address = {"host": settings.db_host, "port": settings.db_port, **_tls(settings)}
        try:
            connection = pymysql.connect(
                **address, user=settings.db_user, password=settings.db_password.encode(), database=settings.db_name,
                charset="utf8mb4", autocommit=False, client_flag=CLIENT.MULTI_STATEMENTS | CLIENT.FOUND_ROWS,
                connect_timeout=CONNECT_TIMEOUT_SECONDS, read_timeout=CONNECT_TIMEOUT_SECONDS,
            )  # fmt: skip
        except pymysql.err.Error as error:
            raise self._connection_error(*_code_and_text(error)) from None
        except RuntimeError as error:
            if "cryptography" not in str(error):
                raise
            raise self._connection_error(2061, _NEEDS_CRYPTOGRAPHY) from None
        # The driver's timeout guards the handshake (a stopped server accepts and says nothing); statements may be slow.
        limit = settings.metric_timeout_seconds
        connection._read_timeout = limit + GRACE_SECONDS if limit else None  # type: ignore[attr-defined]
        return connection

    def _connection_error(self, code: int, text: str) -> DatabaseError:
        if code in LOST and ("SSL" in text or "CERTIFICATE" in text.upper()):
            code, text = 2026, f"{text}; look at DB_SSL_MODE and DB_SSL_CA"
        return DatabaseError(code, f"cannot connect to {self._settings.where}: ({code}) {text}")

    def _prepare_session(self) -> None:
        """Give every session the same rules, whatever the server's defaults are (README, "The session")."""
        version, self.connection_id, sql_mode, collation = self.query(
            "SELECT VERSION(), CONNECTION_ID(), @@sql_mode, @@collation_database"
        )[0]
        self.is_mariadb = "mariadb" in version.lower()
        try:
            self.run(self._session_statements(sql_mode, collation))
        except StatementError as error:
            if error.code != UNKNOWN_TIME_ZONE:
                raise
            hint = "write an offset such as +08:00; names need the server's zone tables"
            raise DatabaseError(error.code, f"DB_TIME_ZONE={self._settings.db_time_zone}: {hint}") from error

    def _session_statements(self, sql_mode: str, collation: str) -> list[str]:
        modes = [mode for mode in sql_mode.split(",") if mode and mode not in _SQL_MODES_DROPPED]
        if "STRICT_TRANS_TABLES" not in modes:
            modes.append("STRICT_TRANS_TABLES")
        recursion = "max_recursive_iterations" if self.is_mariadb else "cte_max_recursion_depth"
        statements = [
            # REPEATABLE READ would make the game's own writes wait for an INSERT ... SELECT.
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            # MariaDB cuts JSON_ARRAYAGG at group_concat_max_len, and recursive CTEs after 1,000 rounds.
            f"SET SESSION group_concat_max_len = {GROUP_CONCAT_BYTES}, {recursion} = 1000000",
            f"SET SESSION sql_mode = '{','.join(modes)}'",
            # Groups of a long history stay in memory: at the default 16 MB a ranking of a year takes twice as long.
            "SET SESSION tmp_table_size = 67108864, max_heap_table_size = 67108864",
        ]
        if collation.startswith("utf8mb4"):  # comparing a user variable with a column could raise 1267
            statements.append(f"SET SESSION collation_connection = '{collation}'")
        if self._settings.db_time_zone:
            statements.append(f"SET SESSION time_zone = {literal(self._settings.db_time_zone)}")
        return statements

    # --- the end of a transaction -------------------------------------------------------------------------------------

    def _end(self, statement: str) -> None:
        try:
            self.run([statement])
        except DatabaseError as error:
            if error.code in LOST:
                raise DatabaseError(error.code, f"the reply to {statement} was lost: {error}") from error
            raise
        except BaseException:
            if statement == "COMMIT":
                log.warning("interrupted before the reply to COMMIT came: the date in hand may be committed")
            raise

    def _roll_back(self) -> None:
        """Roll back without ever hiding the error that led here; a connection that cannot is closed."""
        if self._connection is None or not self._connection.open:
            return  # the server rolls back what a closed connection leaves behind
        try:
            self._connection.rollback()
        except (pymysql.err.Error, OSError) as error:
            log.debug("rollback on a broken connection: %s", error)
            self.close()

    # --- the statement limit ------------------------------------------------------------------------------------------

    def limit_statements(self) -> None:
        """Put METRIC_TIMEOUT_SECONDS into force; call it after lock(), which may wait longer."""
        self._limit = self._settings.metric_timeout_seconds
        if self._limit and self.is_mariadb:
            self.run([f"SET SESSION max_statement_time = {self._limit:g}"])

    @contextmanager
    def _limited(self) -> Iterator[Any]:
        """Watch each statement of a packet where the server cannot: MySQL limits SELECT alone."""
        if not self._limit or self.is_mariadb:
            yield lambda: None
            return
        watchdog = _Watchdog(self._limit, self._stop_session)
        watchdog.restart()
        try:
            yield watchdog.restart
        finally:
            watchdog.cancel()

    def _stop_session(self) -> None:
        """Called by the watchdog's thread. KILL QUERY could be answered with OK and the packet go on; KILL cannot."""
        self._expired = True
        with suppress(DatabaseError), _second_connection(self) as second:
            second.run([f"KILL {self.connection_id}"])

    def _limit_error(self) -> tuple[int, str]:
        seconds = self._settings.metric_timeout_seconds
        return 1969, f"stopped after {seconds:g} s (METRIC_TIMEOUT_SECONDS); make it faster or raise the limit"

    def _cause(self, error: pymysql.err.Error) -> tuple[int, str]:
        code, text = _code_and_text(error)
        if code in LOST:
            self._lost_id = self.connection_id
        if self._expired or code == 1969:
            return self._limit_error()
        return code, f"({code}) {text}"


class _Watchdog:
    """Calls `bark` once, from a thread of its own, when `seconds` pass without a restart."""

    def __init__(self, seconds: float, bark: Any) -> None:
        self._seconds, self._bark = seconds, bark
        self._timer: threading.Timer | None = None

    def restart(self) -> None:
        self.cancel()
        self._timer = threading.Timer(self._seconds, self._bark)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


@contextmanager
def _second_connection(manager: DatabaseManager) -> Iterator[DatabaseManager]:
    second = DatabaseManager(manager._settings)
    second.connect()
    try:
        yield second
    finally:
        second.close()


_NEEDS_CRYPTOGRAPHY = (
    "caching_sha2_password over TCP without TLS needs one more package; "
    "set DB_SSL_MODE=required, or run: pip install cryptography"
)


def _written(cursor: Any) -> int:
    """Count the rows of an upsert: affected rows count a changed one twice, "Records: 1  Duplicates: 1" does not."""
    records = re.search(rb"[0-9]+", cursor._result.message) if cursor._result.message else None
    return int(records[0]) if records and cursor.rowcount else int(cursor.rowcount > 0)


def _code_and_text(error: pymysql.err.Error) -> tuple[int, str]:
    if len(error.args) >= 2 and isinstance(error.args[0], int):
        return error.args[0], str(error.args[1]) or "the connection is closed"
    return 0, str(error) or "the connection is closed"


def _tls(settings: Settings) -> dict[str, Any]:
    """Return the driver's arguments for DB_SSL_MODE, over TCP."""
    mode = settings.db_ssl_mode
    if mode == "disabled":
        return {"ssl_disabled": True}
    if mode == "preferred" and not settings.db_ssl_cert:
        return {}  # the driver's default: TLS where the server offers it, unverified
    import ssl

    for name in ("db_ssl_ca", "db_ssl_cert", "db_ssl_key"):
        _require_readable(name.upper(), getattr(settings, name))
    try:
        context = ssl.create_default_context(cafile=settings.db_ssl_ca or None)
        if settings.db_ssl_cert:  # an empty password, for else a locked key would be asked for on the terminal
            context.load_cert_chain(settings.db_ssl_cert, settings.db_ssl_key or None, password="")
    except ssl.SSLError as error:
        raise SettingsError(f"DB_SSL_CA, DB_SSL_CERT and DB_SSL_KEY do not hold what they should: {error}") from None
    # Python 3.13 refuses certificates as MySQL makes them, and as most in-house authorities do.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = mode == "verify-identity"
    context.verify_mode = ssl.CERT_REQUIRED if mode.startswith("verify") else ssl.CERT_NONE
    return {"ssl": context}


def _require_readable(name: str, path: str) -> None:
    try:
        if path:
            open(path, "rb").close()
    except OSError as error:
        raise SettingsError(f"{name}={path}: cannot read it: {error.strerror}") from None
