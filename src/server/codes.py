"""Error numbers of MySQL and MariaDB, by what they mean for a run."""

from __future__ import annotations

# Errors after which the same work may succeed on a new connection: every way of losing the server; a lock wait, a
# deadlock, a snapshot conflict, a node that is not ready or is offline, a server that is read-only for a while, a
# proxy without a free server (9001 of ProxySQL), too many connections.
LOST = frozenset({0, 1053, 1158, 1159, 1160, 1161, 1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031})
LOCK_GONE = -2  # our own code: the lock is no longer held by this connection
TOO_MANY_OF_ACCOUNT = -3  # our own code: 1226 for max_user_connections; any other limit of an account lasts an hour
TRANSIENT = LOST | {
    LOCK_GONE, TOO_MANY_OF_ACCOUNT, 1020, 1040, 1047, 1180, 1203, 1205, 1213, 1290, 1836, 3032, 3101, 3168, 9001,
}  # fmt: skip
NO_SAVEPOINT = 1305
NO_RIGHT_TO_DATABASE = 1044
NO_SUCH_FUNCTION = frozenset({1128, 1305, 1370})  # 1370: an account without EXECUTE is not told more
OVER_THE_LIMIT = frozenset({1969, 3024})
QUERY_KILLED = 1317
UNKNOWN_TIME_ZONE = 1298
UNKNOWN_HOST = 2005
NEEDS_A_RIGHT = 1227
NOT_OF_A_SESSION = frozenset({1229, 1238})  # a variable that is global or read-only
REFUSES_A_VALUE = frozenset({1048, 1644, 3819, 4025})  # NOT NULL, a trigger's SIGNAL, a CHECK
CANNOT_EXPLAIN = frozenset({1345, 1815})  # a view of tables the account may not read; on MySQL an INSERT into a view
NO_DEFAULT = 1364  # a warning: a column without a default was left out


def meaning(code: int, text: str) -> int:
    """Return the code that callers decide by: the server's own, or ours if only its text says what it means."""
    return TOO_MANY_OF_ACCOUNT if code == 1226 and "max_user_connections" in text else code
