"""The embedded demo database: python -m demo start|stop|status|socket|load|show."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import date

from demo.server import ACCOUNT, DATABASE, ServerError, demo_server


def start() -> int:
    """Start the server; nothing to do when it runs."""
    server = demo_server()
    server.start()
    print(f"demo database: running, socket {server.socket}")
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
    """Fill the database with the made-up game up to today, anew; starts the server when it does not run."""
    import pymysql  # Only here: the other commands do not need it, and work before it is installed.

    from demo import game

    server = demo_server()
    server.start()
    with pymysql.connect(unix_socket=server.socket, user=ACCOUNT, database=DATABASE, ssl_disabled=True) as connection:
        game.load(connection, date.today())
    print(f"demo database: {game.DEMO.plays:,} plays of {game.DEMO.users:,} users, {game.DEMO.days} days up to today")
    return 0


def show() -> int:
    """Print the newest complete rows of bi_metrics, as a dashboard would read them."""
    import pymysql

    query = (
        "SELECT metrics, metric_date, value_list FROM bi_metrics WHERE metric_date = "
        "(SELECT MAX(metric_date) FROM bi_metrics) - INTERVAL 1 DAY ORDER BY id"
    )
    socket_path = demo_server().socket
    connection = pymysql.connect(unix_socket=socket_path, user=ACCOUNT, database=DATABASE, ssl_disabled=True)
    with connection, connection.cursor() as cursor:
        cursor.execute(query)
        for name, day, values in cursor.fetchall():
            print(f"{name:26}  {day}  {values if len(values) <= 80 else values[:77] + '...'}")
    return 0


COMMANDS: dict[str, Callable[[], int]] = {
    command.__name__: command for command in (start, stop, status, socket, load, show)
}


def main(arguments: list[str]) -> int:
    """Run one command; 2 for a wrong one, 1 when it failed."""
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        print(f"Usage: python -m demo {'|'.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[arguments[0]]()
    except (ServerError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
