"""A scratch database on the same server: empty copies of some tables, for a test of a metric, dropped at its end."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

from config.database import Settings
from src.db_manager import DatabaseManager
from src.errors import SettingsError, StatementError
from src.metric_file.text import METRICS_TABLE, quoted
from src.server.codes import NO_RIGHT_TO_DATABASE
from src.server.interruption import Interruption
from src.storage.schema import create_tables

MADE = "test_[0-9]{14}_[0-9a-f]{8}"  # behind DB_NAME and _: when it was made, in UTC by the server's clock
LONGEST_NAME = 64
KEPT_HOURS = 1  # what a killed process has left is dropped after this


@contextmanager
def scratch_database(
    real: DatabaseManager, settings: Settings, tables: Collection[str], interruption: Interruption
) -> Iterator[DatabaseManager]:
    """Yield a connection to a new database with our own tables and empty copies of `tables` (names in lower case).

    A view becomes a table. The database is dropped however the block ends; a statement that still runs is killed first.
    `real` is a connection to DB_NAME that no signal ends. Raises SettingsError if the account may not create it.
    """
    name = _create(real)
    database = DatabaseManager(replace(settings, db_name=name), interruption)
    try:
        database.connect()
        database.run_lock.take()  # by which a session that is lost can be found and killed
        _copy(real, database, tables)
        create_tables(database)
        database.limit_statements()
        yield database
    finally:
        database.interruption = Interruption()  # which no signal reaches
        database.kill_lost_session()
        database.close()
        real.execute(f"DROP DATABASE IF EXISTS {quoted(name)}")


def drop_old_ones(real: DatabaseManager) -> None:
    """Drop the scratch databases that killed processes have left behind."""
    made = re.compile(f"{re.escape(_prefix(real))}{MADE}")
    oldest = real.query(f"SELECT DATE_FORMAT(UTC_TIMESTAMP() - INTERVAL {KEPT_HOURS} HOUR, '%Y%m%d%H%i%s')")[0][0]
    for (name,) in real.query("SELECT schema_name FROM information_schema.schemata"):
        if made.fullmatch(name) and name.split("_")[-2] < oldest:
            real.execute(f"DROP DATABASE IF EXISTS {quoted(name)}")


def schemas(real: DatabaseManager) -> frozenset[str]:
    """Return the databases that the account can see, in lower case."""
    return frozenset(name.lower() for (name,) in real.query("SELECT schema_name FROM information_schema.schemata"))


def _prefix(real: DatabaseManager) -> str:
    return real.server_name[: LONGEST_NAME - len("_test_00000000000000_00000000")] + "_"


def _create(real: DatabaseManager) -> str:
    """Create an empty database with the character set of the real one, and return its name."""
    now, charset, collation, account = real.query(
        "SELECT DATE_FORMAT(UTC_TIMESTAMP(), '%Y%m%d%H%i%s'), @@character_set_database, @@collation_database, "
        "CURRENT_USER()"
    )[0]
    name = f"{_prefix(real)}test_{now}_{secrets.token_hex(4)}"
    try:
        real.execute(f"CREATE DATABASE {quoted(name)} CHARACTER SET {charset} COLLATE {collation}")
    except StatementError as error:
        if error.code != NO_RIGHT_TO_DATABASE:
            raise
        pattern = re.sub(r"([_%\\])", r"\\\1", f"{_prefix(real)}test_") + "%"
        user, _, host = account.rpartition("@")
        raise SettingsError(
            "the account may not create the database that tests run in; an administrator can allow it: "
            f"GRANT ALL ON {quoted(pattern)}.* TO '{user}'@'{host}'"
        ) from None
    return name


def _copy(real: DatabaseManager, database: DatabaseManager, tables: Collection[str]) -> None:
    """Copy the definitions of tables, with their keys but without foreign keys and triggers; of a view its columns."""
    found = real.query(
        "SELECT table_name, table_type, engine, create_options FROM information_schema.tables "
        "WHERE table_schema = DATABASE() AND LOWER(table_name) IN %s", ([METRICS_TABLE, *tables],),
    )  # fmt: skip
    for name, kind, engine, options in found:
        table, source = quoted(name), f"{quoted(real.name)}.{quoted(name)}"
        if kind == "VIEW" or str(engine).lower() != "innodb":  # a copy of a FEDERATED table would write to its rows
            database.execute(f"CREATE TABLE {table} ENGINE = InnoDB AS SELECT * FROM {source} LIMIT 0")
            continue
        database.execute(f"CREATE TABLE {table} LIKE {source}")
        if "partitioned" in str(options):  # a given row may be older than every partition
            database.execute(f"ALTER TABLE {table} REMOVE PARTITIONING")
