"""The embedded demo database: python -m demo start|stop|status|socket|server|load|show, and sql 'SELECT ...'."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from demo import zones
from demo.server import ACCOUNT, DATABASE, Server, ServerError, demo_server

if TYPE_CHECKING:
    from pymysql.connections import Connection

USAGE = "Usage: python -m demo start|stop|status|socket|server|load|show, or: python -m demo sql 'SELECT ...'"
LONGEST_VALUE = 80  # characters that `show` prints of one
SECONDS_BETWEEN_LINES = 2.0


def start() -> int:
    """Start the server; nothing to do when it runs."""
    print(f"demo database: running, socket {_started().socket}")
    return 0


def server() -> int:
    """Start the server and print its settings, for .env or the environment."""
    print(f"DB_HOST=\nDB_SOCKET={_started().socket}\nDB_USER={ACCOUNT}\nDB_PASSWORD=\nDB_NAME={DATABASE}")
    return 0


def stop() -> int:
    """Stop the server; nothing to do when it does not run. The data stays."""
    demo_server().stop()
    print("demo database: stopped")
    return 0


def status() -> int:
    """Say whether the server runs; 0 when it does, else 1."""
    server = demo_server()
    running = server.is_running()
    print(f"demo database: running, socket {server.socket}" if running else "demo database: stopped")
    return 0 if running else 1


def socket() -> int:
    """Print the path of the server's socket, for .env."""
    print(demo_server().socket)
    return 0


def load() -> int:
    """Fill the database with the made-up game up to this hour, anew; starts the server when it does not run."""
    from demo import game

    now = datetime.now()
    with _connected(_started()) as connection:
        game.load(connection, now.date(), hours=now.hour, watch=_bar if sys.stdout.isatty() else _line)
    print(
        f"demo database: {game.DEMO.plays:,} plays of {game.DEMO.users:,} users, "
        f"{game.DEMO.days} days up to today {now.hour:02}:00"
    )
    return 0


def show() -> int:
    """Print the newest complete row of each metric, as a dashboard would read it."""
    shown = "SELECT metrics, metric_date, value_list FROM bi_metrics"
    newest = "SELECT metrics, MAX(metric_date) FROM bi_metrics WHERE metric_date < CURDATE() GROUP BY metrics"
    found = _execute(f"{shown} WHERE (metrics, metric_date) IN ({newest}) ORDER BY id")[1]
    rows = [[_text(value) for value in row] for row in found]
    _print_columns([[*row, value if len(value) <= LONGEST_VALUE else value[:77] + "..."] for *row, value in rows])
    return 0


def sql(statement: str) -> int:
    """Run one statement and print its rows as a table, or how many rows it changed."""
    names, rows = _execute(statement)
    if names:
        _print_columns([names, ["-" * len(name) for name in names], *([_text(value) for value in row] for row in rows)])
    return 0


def _started() -> Server:
    """Start the server unless it runs, and teach it the names of time zones unless it knows them."""
    server = demo_server()
    server.start()
    with _connected(server, user="root") as connection, connection.cursor() as cursor:
        if cursor.execute("SELECT 1 FROM mysql.time_zone_name LIMIT 1"):
            return server
        filled = [cursor.execute(statement) for statement in zones.statements()]
    if not filled:
        print(
            "demo database: this machine has no time zone files (package tzdata), so CONVERT_TZ knows no names",
            file=sys.stderr,
        )
    return server


@contextmanager
def _connected(server: Server, user: str = ACCOUNT) -> Iterator[Connection[Any]]:
    """Connect to the running server, and commit every statement; errors are ServerErrors of one line."""
    import pymysql  # Only here: the other commands do not need it, and work before it is installed.

    if not server.is_running():
        raise ServerError("the demo database is stopped; start it with: python -m demo start")
    try:
        with pymysql.connect(
            unix_socket=server.socket, user=user, database=DATABASE, ssl_disabled=True, autocommit=True
        ) as connection:
            yield connection
    except pymysql.MySQLError as error:
        raise ServerError(" ".join(f"({error.args[0]}) {error.args[-1]}".split())) from None


def _execute(statement: str) -> tuple[list[str], Sequence[Sequence[object]]]:
    """Return the column names and the rows; both are empty for a statement that returns no rows."""
    with _connected(demo_server()) as connection, connection.cursor() as cursor:
        changed = cursor.execute(statement)
        if cursor.description is None:
            print(f"{changed} row{'' if changed == 1 else 's'} changed")
            return [], ()
        return [column[0] for column in cursor.description], cursor.fetchall()


def _text(value: object) -> str:
    """Return a value on one line: NULL, bytes as 0x..., and control characters as escapes."""
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    text = "NULL" if value is None else str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns two blanks apart."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends this quietly
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _bar(table: str, rows: Iterable[str]) -> Iterable[str]:
    """Yield the rows below a counter on the terminal."""
    from tqdm import tqdm

    return tqdm(rows, desc=f"  {table:13}", unit=" rows", unit_scale=True, file=sys.stdout)


def _line(table: str, rows: Iterable[str]) -> Iterator[str]:
    """Yield the rows; print how many they are so far every two seconds, and how many they were."""
    count, printed = 0, time.monotonic()
    for row in rows:
        yield row
        count += 1
        if count % 1000 == 0 and time.monotonic() - printed >= SECONDS_BETWEEN_LINES:
            print(f"  {table:13} {count:>7,} rows so far", flush=True)
            printed = time.monotonic()
    print(f"  {table:13} {count:>7,} rows", flush=True)


COMMANDS: dict[str, Callable[..., int]] = {
    command.__name__: command for command in (start, stop, status, socket, server, load, show, sql)
}


def main(arguments: list[str]) -> int:
    """Run one command; 2 for a wrong one, 1 when it failed."""
    name, *rest = arguments or [""]
    if name not in COMMANDS or len(rest) != (name == "sql"):
        print(USAGE, file=sys.stderr)
        return 2
    try:
        return COMMANDS[name](*rest)
    except ModuleNotFoundError as error:
        print(f"Error: the package {error.name} is missing; run ./setup.sh and use .venv/bin/python", file=sys.stderr)
    except (ServerError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
