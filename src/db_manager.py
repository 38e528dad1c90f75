"""The only module that talks to MySQL: one connection and its session, one statement at a time."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pymysql
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions
from pymysql.cursors import Cursor, SSCursor

from config.database import GROUP_CONCAT_BYTES, Settings
from src.errors import DatabaseError, Interrupted, MetricsError, SettingsError, StatementError
from src.server.codes import (
    LOST,
    NEEDS_A_RIGHT,
    NO_SAVEPOINT,
    NOT_OF_A_SESSION,
    OVER_THE_LIMIT,
    TRANSIENT,
    UNKNOWN_HOST,
    UNKNOWN_TIME_ZONE,
    meaning,
)
from src.server.interruption import Interruption
from src.server.login import CautiousConnection, Peer, is_this_host
from src.server.run_lock import RunLock
from src.server.tls import driver_arguments

log = logging.getLogger("bi_metrics")

OLDEST_DRIVER = (1, 2)
ALL_ROWS = 18_446_744_073_709_551_615
GRACE_SECONDS = 15  # a server that does not even report its own limit is given up after this
CONNECT_TIMEOUT_SECONDS = 10
# The second set would switch ANSI_QUOTES on again.
_SQL_MODES_DROPPED = {"ANSI_QUOTES", "NO_BACKSLASH_ESCAPES"} | {
    "ANSI", "DB2", "MAXDB", "MSSQL", "ORACLE", "POSTGRESQL"}  # fmt: skip
_CONVERSIONS: dict[Any, Any] = {**conversions, FIELD_TYPE.BIT: lambda value: int.from_bytes(value, "big")}
_GRANTS = "the account lacks a right: see the GRANT statements in docs/operations.md"
_PRIMARY = "a read-only server takes no rows: name the primary in DB_HOST"
_COLLATION = "give one side the other's collation, such as a.name = b.name COLLATE utf8mb4_unicode_ci"
_PRIMARY_KEY = "give the table a primary key, such as CREATE TEMPORARY TABLE t (PRIMARY KEY (id)) SELECT ..."
_CURES = {
    1045: "check DB_USER and DB_PASSWORD",
    1049: "check DB_NAME",
    2003: "check DB_HOST and DB_PORT, and that the server runs",
    2005: "check DB_HOST",
    1044: _GRANTS,
    1142: _GRANTS,
    1370: "the account lacks EXECUTE, or there is no such function",
    1153: "raise max_allowed_packet on the server",
    1173: _PRIMARY_KEY,
    1267: _COLLATION,
    1270: _COLLATION,
    1271: _COLLATION,
    1290: _PRIMARY,
    1665: "the server writes its binary log as statements, which READ COMMITTED does not allow: "
    "SET GLOBAL binlog_format = 'ROW' (or MIXED)",
    1792: _PRIMARY,
    1836: _PRIMARY,
    3750: _PRIMARY_KEY,
}

# What SHOW VARIABLES has of the last statement and the time.
_MOVE_BY_THEMSELVES = {"timestamp", "identity", "last_insert_id", "insert_id", "rand_seed1", "rand_seed2",
                       "warning_count", "error_count", "statement_id", "in_transaction", "last_gtid"}  # fmt: skip

Row = tuple[Any, ...]


class DatabaseManager:
    """A connection that knows how to come back: connect() again after a loss, then run_lock.take()."""

    def __init__(self, settings: Settings, interruption: Interruption | None = None, lock_name: str = "") -> None:
        self._settings = settings
        self.name = settings.db_name
        self.interruption = interruption or Interruption()
        self._connection: pymysql.Connection[Any] | None = None
        self.server_name = ""  # the database's name as the server compares it
        self.run_lock = RunLock(self, lock_name)
        self.may_be_stored = ""
        self.warnings = 0  # of the last statement
        self._largest = 1_000_000  # bytes of a statement
        self._limit = 0.0  # seconds a statement may take; 0: no limit
        self.connection_id = 0
        self.is_mariadb = False

    # --- statements ---------------------------------------------------------------------------------------------------

    def query(self, sql: str, args: Any = None) -> tuple[Row, ...]:
        """Return the rows of one statement. With `args` the driver binds each %s; a % of the SQL is then written %%."""
        with self._cursor(Cursor) as cursor:
            cursor.execute(sql, args)
            self.warnings = cursor.warning_count
            return tuple(cursor.fetchall())

    def execute(self, sql: str, args: Any = None) -> int:
        """Run one statement; return the rows it counts as affected. Rows that it returns are read and dropped."""
        with self._cursor(SSCursor) as cursor:
            text = cursor.mogrify(sql, args)
            if len(text) * 4 > self._largest and len(text.encode()) > self._largest:  # the server would hang up
                raise pymysql.err.OperationalError(1153, f"the statement is larger than {self._largest:,} bytes")
            affected = int(cursor.execute(text))
            if cursor.description is not None:
                affected = 0
                while cursor.fetchone() is not None:
                    pass
            self.warnings = cursor.warning_count
            return affected

    @contextmanager
    def select(self, sql: str, args: Any = None) -> Iterator[tuple[list[str], Iterator[Row]]]:
        """Run a query; yield its column names, and its rows as they arrive. A block that raises ends the connection."""
        with self._cursor(SSCursor) as cursor:
            cursor.execute(sql, args)
            yield [column[0] for column in cursor.description or ()], iter(cursor.fetchone, None)
            self.warnings = cursor.warning_count

    @contextmanager
    def _cursor(self, kind: type[Cursor]) -> Iterator[Any]:
        """Turn what the driver raises into StatementError, or Interrupted if a signal was the reason."""
        self.interruption.check()
        clock, cursor = time.monotonic(), None
        try:
            if self._connection is None:
                raise pymysql.err.InterfaceError(0, "")
            cursor = self._connection.cursor(kind)
            yield cursor
        except pymysql.err.Error as error:
            _forget_rows(cursor)
            self.interruption.check()
            raise self._statement_error(*_code_and_text(error), time.monotonic() - clock) from error
        except BaseException:  # unread rows would be taken for the reply to the next query
            _forget_rows(cursor)
            self.close()
            raise

    def _statement_error(self, code: int, text: str, seconds: float) -> StatementError:
        limit = self._limit
        if limit and seconds >= limit and code in OVER_THE_LIMIT | LOST:
            self.kill_lost_session()  # it connects, which takes the limit away
            text = f"stopped after {limit:g} s (METRIC_TIMEOUT_SECONDS); make it faster or raise the limit"
            return StatementError(1969, text)
        if code in OVER_THE_LIMIT:
            text += "; the limit is the server's own (max_statement_time or max_execution_time)"
        cure = f"; {_CURES[code]}" if code in _CURES else ""
        return StatementError(meaning(code, text), f"({code}) {' '.join(text.split())}{cure}")

    @contextmanager
    def leaving_nothing(self, cleanup: Sequence[str], runs_code: bool) -> Iterator[None]:
        """Run the statements of `cleanup` before the block and behind it, also if it fails, and keep the settings."""
        with self.keeping_settings(runs_code):
            for sql in cleanup:
                self.execute(sql)
            try:
                yield
            except MetricsError:
                self._clean_up_after_failure(cleanup)
                raise
            for sql in cleanup:
                self.execute(sql)

    def _clean_up_after_failure(self, cleanup: Sequence[str]) -> None:
        """Never raises: a connection that cannot be cleaned up is closed."""
        try:
            for sql in cleanup if not self.is_lost() else ():
                self.execute(sql)
        except StatementError as error:
            log.debug("what a file left could not be removed: %s", error)
            self.close()

    @contextmanager
    def keeping_settings(self, runs_code: bool) -> Iterator[None]:
        """Put every setting of the session back to what it was when the block ends, also if it fails.

        Does nothing unless the block `runs_code`: stored functions or triggers, which may SET them. A session whose
        settings cannot be restored is closed.
        """
        if not runs_code:
            yield
            return
        before = self._settings_of_session()
        self.execute("SET SESSION last_insert_id = 0")  # else a function would see the id of another file's INSERT
        try:
            yield
        finally:
            if not self.is_lost():
                self._restore(before)

    def _settings_of_session(self) -> dict[str, str]:
        return {name: value for name, value in self.query("SHOW SESSION VARIABLES") if name not in _MOVE_BY_THEMSELVES}

    def _restore(self, before: Mapping[str, str]) -> None:
        try:
            self.execute("SET SESSION sql_select_limit = %s", [ALL_ROWS])  # else the server may show a part of them
            now = self._settings_of_session()
            for name, value in sorted(before.items() - now.items()):  # a character_set_... resets its collation_...
                is_number = re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value)
                try:
                    self.execute(f"SET SESSION {name} = %s", [float(value) if "." in value else int(value)]
                                 if is_number else [value])  # fmt: skip
                except StatementError as error:
                    if error.code in NOT_OF_A_SESSION:  # others have changed it, such as gtid_binlog_pos by a COMMIT
                        continue
                    raise
                log.info("a stored function or a trigger has set %s = %s; it is %s again", name, now.get(name), value)
            self.execute("SET timestamp = DEFAULT")  # else NOW() would stand still
        except StatementError as error:
            log.warning("the settings of the session could not be restored, so it is closed: %s", error)
            self.close()

    # --- a transaction ------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, keep: bool = True, may_end: bool = True) -> Iterator[None]:
        """Commit when the block ends, or roll back with keep=False; on any exception roll back and re-raise.

        Autocommit is off, so the first statement starts it. If a statement of the block `may_end` it, the first one is
        SAVEPOINT, with a random name. If that is gone at the end, a statement has ended the transaction: StatementError
        1305. After an error `may_be_stored` says what may have been stored, or is "".
        """
        savepoint = f"bi_{os.urandom(8).hex()}"
        self.may_be_stored = ""
        is_guarded = may_end
        try:
            if is_guarded:
                self.execute(f"SAVEPOINT {savepoint}")
            yield
            if is_guarded:
                self.execute(f"RELEASE SAVEPOINT {savepoint}")
                is_guarded = False
            self._end("COMMIT" if keep else "ROLLBACK")
        except BaseException as error:
            if is_guarded and getattr(error, "code", None) not in TRANSIENT and self._is_gone(savepoint):
                self.may_be_stored = "a statement has ended the transaction, so a part of the date may be stored"
            self.roll_back()
            raise

    def _is_gone(self, savepoint: str) -> bool:
        """After an error: tell whether the transaction has ended. A DDL that fails commits too."""
        try:
            if not self.is_lost():
                self.execute(f"RELEASE SAVEPOINT {savepoint}")
        except (DatabaseError, Interrupted) as error:
            return isinstance(error, DatabaseError) and error.code == NO_SAVEPOINT
        return False

    def _end(self, statement: str) -> None:
        try:
            self.execute(statement)
        except (DatabaseError, Interrupted) as error:
            if statement == "COMMIT" and (isinstance(error, Interrupted) or error.code in LOST or self.is_lost()):
                self.may_be_stored = "the reply to COMMIT did not come, so the date may be stored"
            if isinstance(error, DatabaseError) and self.is_lost():  # also if METRIC_TIMEOUT_SECONDS has ended it
                raise StatementError(2013, f"the reply to {statement} was lost: {error}") from error
            raise

    def roll_back(self) -> None:
        """Roll back without ever hiding the error that led here; a connection that cannot is closed."""
        try:
            if self._connection is not None and self._connection.open:
                self._connection.rollback()
        except (pymysql.err.Error, OSError) as error:  # the server rolls back what a closed connection leaves behind
            log.debug("rollback on a broken connection: %s", error)
            self.close()

    # --- connection and session ---------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open a new connection and prepare its session; an old one is closed. Raises DatabaseError."""
        self.close()
        self._settings.require_database()
        if pymysql.VERSION < OLDEST_DRIVER:
            found = pymysql.VERSION_STRING
            raise DatabaseError(-1, f"PyMySQL {found} may ignore DB_SSL_MODE=required; pip install -r requirements.txt")
        self._limit = 0.0
        try:
            self._connection = self._open()
        except pymysql.err.Error as error:
            self.interruption.check()
            raise self._connection_error(*_code_and_text(error)) from None
        except DatabaseError as error:  # of the login
            raise self._connection_error(error.code, str(error)) from None
        self._prepare_session()

    def _open(self) -> pymysql.Connection[Any]:
        """Connect over a socket of our own, which a signal can end at any moment."""
        settings = self._settings
        # A unix socket is safe by itself: a TLS context would cost 50 ms and add nothing.
        secured = {"ssl_disabled": True} if settings.db_socket else driver_arguments(settings)
        connection = CautiousConnection(
            **secured, host=settings.db_host or "localhost", user=settings.db_user, conv=_CONVERSIONS,
            password=settings.db_password.encode(), database=settings.db_name, charset="utf8mb4", autocommit=False,
            connect_timeout=CONNECT_TIMEOUT_SECONDS, read_timeout=CONNECT_TIMEOUT_SECONDS, defer_connect=True,
        )  # fmt: skip
        connection._secure = bool(settings.db_socket)  # type: ignore[attr-defined]  # the driver sets it for its own
        try:
            line = self._dial()
            connection.peer = self._peer(line)
        except (OSError, UnicodeError) as error:  # the latter: a host name that cannot be one
            never = isinstance(error, UnicodeError) or (
                isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN
            )
            raise pymysql.err.OperationalError(UNKNOWN_HOST if never else 2003, str(error)) from None
        connection.connect(line)
        return connection

    def _dial(self) -> socket.socket:
        """Return a connected socket. Raises OSError, that of the last address of the host."""
        settings = self._settings
        if settings.db_socket:
            return self._connected(socket.AF_UNIX, settings.db_socket)
        failure = OSError()
        for family, _, _, _, address in socket.getaddrinfo(settings.db_host, settings.db_port, type=socket.SOCK_STREAM):
            try:
                return self._connected(family, address)
            except OSError as error:
                failure = error
        raise failure

    def _peer(self, line: socket.socket) -> Peer:
        if self._settings.db_socket or self._settings.db_ssl_mode.startswith("verify"):
            return Peer.KNOWN
        return Peer.THIS_HOST if is_this_host(line) else Peer.ANYBODY

    def _connected(self, family: int, address: Any) -> socket.socket:
        line = socket.socket(family)
        self.interruption.watch(line)  # before it connects: a host that does not answer is waited for
        self.interruption.check()
        line.settimeout(CONNECT_TIMEOUT_SECONDS)
        line.connect(address)
        if family != socket.AF_UNIX:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return line

    def close(self) -> None:
        """Close the connection. Never raises: nothing is committed by closing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(pymysql.err.Error):
                connection.close()
        self.interruption.watch(None)  # with the copy open, the server would not see that we have gone

    def is_lost(self) -> bool:
        """Return whether the connection is gone, and with it the transaction."""
        return self._connection is None or not self._connection.open

    def kill_lost_session(self) -> None:
        """Stop what a session that we left is still doing in the server. Never raises: the server ends it in time."""
        if self.is_lost() and self.run_lock.was_asked_for():
            with suppress(DatabaseError, SettingsError):
                self.connect()
                self.run_lock.kill_lost_session()
            self.close()

    def limit_statements(self) -> None:
        """Put METRIC_TIMEOUT_SECONDS into force; call it after taking the lock, which may wait longer.

        MariaDB limits statements itself. MySQL limits SELECT alone, so there the driver gives up and the session is
        killed. Without the setting nothing is limited.
        """
        self._limit = self._settings.metric_timeout_seconds
        if self._limit and self.is_mariadb:
            self.execute(f"SET SESSION max_statement_time = {self._limit:g}")
        self._set_read_timeout((self._limit + GRACE_SECONDS * self.is_mariadb) if self._limit else None)

    def _set_read_timeout(self, seconds: float | None) -> None:
        if self._connection is not None:
            self._connection._read_timeout = seconds  # type: ignore[attr-defined]  # the driver reads it at each read

    def _prepare_session(self) -> None:
        """Give every session the same rules, whatever the server's defaults are (docs/operations.md)."""
        self.execute("ROLLBACK")  # a pool may hand out somebody's open transaction, which ours would commit
        # Only MariaDB reads what stands in /*M! */. Its version may be any text: a server option changes it.
        is_mariadb, self.connection_id, self._largest, sql_mode, collation, self.server_name = self.query(
            "SELECT /*M! 1 + */ 0, CONNECTION_ID(), @@max_allowed_packet, @@sql_mode, @@collation_database, "
            "IF(@@lower_case_table_names = 0, DATABASE(), LOWER(DATABASE()))"
        )[0]
        self.is_mariadb = bool(is_mariadb)
        try:
            # REPEATABLE READ would make the game's own writes wait for an INSERT ... SELECT.
            self.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            names, values = zip(*self._session_variables(sql_mode, collation).items(), strict=True)
            self.execute("SET SESSION " + ", ".join(f"{name} = %s" for name in names), values)
            self._show_all_warnings()
        except StatementError as error:
            if error.code != UNKNOWN_TIME_ZONE:
                raise
            hint = "write an offset such as +08:00; names need the server's zone tables"
            raise DatabaseError(error.code, f"DB_TIME_ZONE={self._settings.db_time_zone}: {hint}") from error
        self._set_read_timeout(None)  # it guarded the handshake; from here on statements may be slow

    def _show_all_warnings(self) -> None:
        """Let SHOW WARNINGS show every warning. MySQL allows that only with a right that the account need not have."""
        try:
            self.execute("SET SESSION max_error_count = 65535")
        except StatementError as error:
            if error.code != NEEDS_A_RIGHT:
                raise

    def _session_variables(self, sql_mode: str, collation: str) -> dict[str, Any]:
        modes = [mode for mode in sql_mode.split(",") if mode and mode not in _SQL_MODES_DROPPED]
        variables: dict[str, Any] = {
            "sql_mode": ",".join([*modes, "STRICT_TRANS_TABLES", "ERROR_FOR_DIVISION_BY_ZERO"]),
            # MariaDB cuts JSON_ARRAYAGG at group_concat_max_len, and recursive CTEs after 1,000 rounds.
            "group_concat_max_len": GROUP_CONCAT_BYTES,
            ("max_recursive_iterations" if self.is_mariadb else "cte_max_recursion_depth"): 1_000_000,
            # Groups of a long history stay in memory: at the default 16 MB a ranking of a year takes twice as long.
            "tmp_table_size": 67_108_864,
            "max_heap_table_size": 67_108_864,
            "completion_type": 0,
            "sql_select_limit": ALL_ROWS,
            "sql_big_selects": 1,
            "sql_auto_is_null": 0,
            "default_week_format": 0,
            "div_precision_increment": 4,
            "lc_time_names": "en_US",
        }
        if collation.startswith("utf8mb4"):  # comparing a user variable with a column could raise 1267
            variables["collation_connection"] = collation
        if self._settings.db_time_zone:
            variables["time_zone"] = self._settings.db_time_zone
        return variables

    def _connection_error(self, code: int, text: str) -> DatabaseError:
        if code in LOST and ("SSL" in text or "CERTIFICATE" in text.upper()):
            code, text = 2026, f"{text}; look at DB_SSL_MODE and DB_SSL_CA"
        if self._settings.db_socket and code == 2003:
            text += "; no server listens on this socket: start it (that of the demo: .venv/bin/python -m demo start)"
        elif code in _CURES:
            text += f"; {_CURES[code]}"
        text = " ".join(text.split())
        return DatabaseError(meaning(code, text), f"cannot connect to {self._settings.where}: ({code}) {text}")


def _forget_rows(cursor: Any) -> None:
    """Keep a cursor on a connection that is gone from reading its remaining rows when it is destroyed."""
    if cursor is not None and cursor._result is not None:
        cursor._result.unbuffered_active = False


def _code_and_text(error: pymysql.err.Error) -> tuple[int, str]:
    if len(error.args) >= 2 and isinstance(error.args[0], int):
        return error.args[0], str(error.args[1]) or "the connection is closed"
    return 0, str(error) or "the connection is closed"
