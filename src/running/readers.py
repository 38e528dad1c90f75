"""Readers: further connections, a thread each, that compute SELECT metrics ahead of the connection that writes.

A file may run there only if it cannot see the difference: whatever it reads, no statement of the run has changed it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain

from config.database import Settings
from src.db_manager import DatabaseManager, Row
from src.errors import Interrupted, MetricsError, StatementError
from src.metric_file.file import Kind, MetricFile
from src.metric_file.reads import METRICS_VIEWS
from src.metric_file.step import Step
from src.metric_file.text import OUR_TABLES, WRITERS, Statement, read
from src.running.select_rows import Selected, run_select
from src.server.codes import TRANSIENT
from src.server.interruption import Interruption
from src.sql_loader import Catalog

log = logging.getLogger("bi_metrics")

DATES_AHEAD = 4
MOST_BYTES_AHEAD = 64_000_000
STOP_SECONDS = 10  # for which the end of a thread is waited for
# What these return depends on the connection.
SESSION_FUNCTIONS = frozenset({"connection_id", "last_insert_id", "row_count", "found_rows", "lastval"})
NO_TABLES = frozenset({"dual", "json_table"})  # names that may stand where a table stands
_SERVER = "SELECT @@server_id, @@hostname, @@port"

Key = tuple[str, tuple[date, ...]]  # a file's path, and the dates of a step
Asked = tuple[Step, int]  # and the server's time when it was asked for


@dataclass(frozen=True)
class Ahead:
    """What a reader has computed of a step."""

    selected: Selected
    milliseconds: int
    moment: int  # the server's time when it was asked for


class Readers:
    """Compute steps on up to `count` connections beside `database`, which must be connected.

    The thread that owns `database` calls every method. `has_ended` tells whether a date, and so many days after it,
    were over at a moment.
    """

    def __init__(
        self, database: DatabaseManager, settings: Settings, count: int, has_ended: Callable[[date, int, int], bool]
    ) -> None:
        self._db = database
        self._settings = settings
        self._count = count
        self._has_ended = has_ended
        self._catalog: Catalog | None = None
        self._paths: frozenset[str] | None = None  # of the files that may run here
        self._session = 0  # of `database`, that the readers stand beside
        self._readers: list[_Reader] = []
        # All below belongs to whoever holds `_changed`.
        self._changed = threading.Condition()
        self._waiting: dict[Key, Step] = {}
        self._asked: dict[Key, Asked] = {}  # those that run or are done
        self._done: dict[Key, Ahead | BaseException | None] = {}  # None: the connection was lost
        self._size = 0  # of the values in `_done`
        self._has_warned = False
        self._moment = 0

    def open(self, catalog: Catalog) -> None:
        """From now on, steps are of files of `catalog`."""
        self._catalog, self._paths = catalog, None

    def may_run(self, file: MetricFile) -> bool:
        """Tell whether a file may run on a reader."""
        return self._paths is not None and file.path in self._paths

    def ask(self, steps: Sequence[Step], ahead: Iterable[Step], moment: int) -> None:
        """Begin to compute those that may run here: of `steps`, and then of `ahead`, if their dates have ended.

        `moment` is the server's time in seconds since the epoch, when `steps` began. Whatever else was asked for
        before is forgotten.
        """
        if not self._count or self._catalog is None:
            return
        if self._session != self._db.connection_id:  # the first time, or after a retry
            self.close()
            self._session = self._db.connection_id
        if self._paths is None:
            self._paths = plain_files(self._catalog, self._db)
        # Readers begin at the end, where the writer comes last, but with what takes longest.
        now = [step for step in reversed(steps) if self.may_run(step.file)]
        now.sort(key=lambda step: not step.file.is_set_based)
        ended = (step for step in ahead if all(self._has_ended(day, moment, 0) for day in step.dates))
        wanted = {_key(step): step for step in chain(now, ended)}
        with self._changed:
            for key in [*self._asked]:
                # A value counts as computed when its SELECT began: it must not become final by a later clock.
                step = wanted.get(key)
                if step is None or self._complete(step, moment) != self._complete(step, self._asked[key][1]):
                    self._forget(key)
            self._waiting = {key: step for key, step in wanted.items() if key not in self._asked}
            self._moment = moment
            self._changed.notify_all()
        for_the_caller = len(now) == len(steps)  # if it has nothing else to do, one of them
        self._hire(min(self._count, len(self._waiting) - for_the_caller))

    def take(self, step: Step) -> Ahead | None:
        """Return what a reader has computed of a step, waiting for it if it has begun; None if nobody has.

        Raises what the reader raised.
        """
        key = _key(step)
        with self._changed:
            self._waiting.pop(key, None)  # not begun: the caller is as fast
            while key in self._asked and key not in self._done:
                self._db.interruption.check()
                self._changed.wait(0.1)
            found = self._done.get(key)
            self._forget(key)
            self._changed.notify_all()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """End every reader and what it does in the server, and throw away what was computed."""
        readers, self._readers = self._readers, []
        with self._changed:
            self._waiting.clear()
            for reader in readers:
                reader.is_stopped = True
                reader.database.interruption.stop(signal.SIGTERM)
            self._changed.notify_all()
        for reader in readers:
            reader.join(STOP_SECONDS)
        for reader in readers:
            if reader.is_cut:
                reader.database.interruption = Interruption()
                reader.database.kill_lost_session()
        with self._changed:
            self._asked.clear()
            self._done.clear()
            self._size = 0

    # --- for the threads ----------------------------------------------------------------------------------------------

    def next(self, reader: _Reader) -> Asked | None:
        """Wait for a step to compute; None if the reader is stopped."""
        with self._changed:
            while not reader.is_stopped:
                if self._waiting and self._size < MOST_BYTES_AHEAD:
                    key = next(iter(self._waiting))
                    asked = self._asked[key] = self._waiting.pop(key), self._moment
                    return asked
                self._changed.wait()
        return None

    def done(self, asked: Asked, result: Ahead | BaseException | None) -> None:
        """Keep the first result of a step, unless it is not wanted any more."""
        with self._changed:
            key = _key(asked[0])
            if self._asked.get(key) is asked and key not in self._done:
                self._done[key] = result
                self._size += result.selected.size if isinstance(result, Ahead) else 0
            self._changed.notify_all()

    # --- within -------------------------------------------------------------------------------------------------------

    def _complete(self, step: Step, moment: int) -> list[bool]:
        """Tell for each date of a step whether it was over, and whether its number was complete, at a moment."""
        return [self._has_ended(day, moment, after) for day in step.dates for after in (0, step.file.final_after)]

    def _forget(self, key: Key) -> None:
        self._asked.pop(key, None)
        found = self._done.pop(key, None)
        self._size -= found.selected.size if isinstance(found, Ahead) else 0

    def _hire(self, count: int) -> None:
        """Let there be at least `count` readers."""
        if count > len(self._readers):
            place = self._db.query(_SERVER)[0]
            for _ in range(count - len(self._readers)):
                reader = _Reader(self, self._settings, self._db, place)
                self._readers.append(reader)
                reader.start()

    def warn(self, why: str) -> None:
        """Say once that there are fewer readers than METRICS_READERS."""
        with self._changed:
            is_first, self._has_warned = not self._has_warned, True
        if is_first:
            log.warning("fewer readers than METRICS_READERS=%s: %s", self._count, why)


class _Reader(threading.Thread):
    """A connection and its thread. It ends when there is nothing more to do, or when it cannot connect."""

    def __init__(self, readers: Readers, settings: Settings, main: DatabaseManager, place: Row) -> None:
        super().__init__(daemon=True)
        # The lock shows which session is ours, so that no other one is killed.
        self.database = DatabaseManager(settings, Interruption(), f"bi_metrics reader {os.urandom(8).hex()}")
        self.is_stopped = False
        self.is_cut = False  # its session may still be at work in the server
        self._readers = readers
        self._has_locks = main.run_lock.is_held
        self._place = place

    def run(self) -> None:
        asked: Asked | None = None
        try:
            while self._connect_if_lost() and (asked := self._readers.next(self)) is not None:
                self._readers.done(asked, self._compute(*asked))
        except Interrupted:
            self.is_cut = True
        finally:
            if asked is not None:
                self._readers.done(asked, None)  # it may have failed in the middle: nobody must wait for it
            self.database.close()

    def _connect_if_lost(self) -> bool:
        """Connect, with the session of the main connection; tell whether this reader can be used."""
        if not self.database.is_lost():
            return True
        try:
            self.database.connect()
            place = self.database.query(_SERVER)[0]
            if place != self._place:  # a proxy that splits reads: a replica may lag behind
                self._readers.warn(f"a connection came to another server, {place}, not {self._place}")
                return False
            if self._has_locks:
                self.database.run_lock.take()
            self.database.limit_statements()
        except MetricsError as error:
            self._readers.warn(str(error))
            return False
        return True

    def _compute(self, step: Step, moment: int) -> Ahead | Exception | None:
        """Return what the SELECT of a step computed, or the error of the file; None if the connection failed."""
        clock = time.monotonic()
        result: Ahead | Exception | None
        try:
            selected = run_select(self.database, step, step.statements[0])
            result = Ahead(selected, max(1, round((time.monotonic() - clock) * 1000)), moment)
        except Interrupted:
            raise
        except Exception as error:  # take() raises it
            is_passing = isinstance(error, StatementError) and error.code in TRANSIENT
            result = None if is_passing else error
        self.database.roll_back()  # an open transaction would make ALTER TABLE wait
        return result


# --- which files may run on a reader ----------------------------------------------------------------------------------


def plain_files(catalog: Catalog, database: DatabaseManager) -> frozenset[str]:
    """Return the paths of the files that compute the same on any connection.

    Such a file is one SELECT, of base tables that no file writes; it reads no metric and no helper, and uses no view,
    no stored function, no @variable and nothing else that belongs to a session.
    """
    written = written_names(catalog)
    files = [file for file in catalog.files if not file.disabled and _is_plain(file, catalog, written)]
    tables = {file.path: _tables(file, database.name.lower()) for file in files}
    named = set().union(*tables.values())
    if not files or not named:
        return frozenset(tables)
    found = database.query(
        "SELECT LOWER(table_schema), LOWER(table_name), table_type FROM information_schema.tables "
        "WHERE LOWER(table_schema) IN %s AND LOWER(table_name) IN %s",
        (sorted({schema for schema, _ in named}), sorted({name for _, name in named})),
    )
    base = {(schema, name) for schema, name, kind in found if kind == "BASE TABLE"}
    base -= {(schema, name) for schema, name, kind in found if kind != "BASE TABLE"}
    return frozenset(path for path, each in tables.items() if each <= base)


def written_names(catalog: Catalog) -> frozenset[str]:
    """Return the names, in lower case, of all tables that a statement of a run may write, and perhaps of others."""
    written = {*OUR_TABLES, *METRICS_VIEWS}
    for file in catalog.files:
        written |= {table.name for table in catalog.every_table_written(file)} | file.temporary_tables
        for statement in file.statements:
            if statement.verb in ("UPDATE", "DELETE"):  # either may write more than one table
                written |= {token.name for token in statement.code}
    for text in catalog.behind_sql.values():  # a stored function may write
        names = {token.name for token in read(text)}
        if any(verb.lower() in names for verb in WRITERS):
            written |= names
    return frozenset(written - {""})


def _is_plain(file: MetricFile, catalog: Catalog, written: frozenset[str]) -> bool:
    if file.kind is not Kind.SELECT or len(file.statements) > 1:
        return False
    if file.declared_reads or catalog.reads_everything(file) or catalog.reads_of(file):
        return False
    statement, reads = file.statements[0], file.reads
    views = {name.rpartition(".")[2].removesuffix("()") for name in catalog.behind_sql}  # and routines
    return (
        (written | views).isdisjoint(table.name for table in reads.tables)
        and (SESSION_FUNCTIONS | views).isdisjoint(function.name for function in reads.functions)
        and not any(function.schema for function in reads.functions)
        and all(token.kind not in ("variable", "setting") for token in statement.code)
    )


def _tables(file: MetricFile, database: str) -> set[tuple[str, str]]:
    """Return schema and name of the tables that a SELECT file names, in lower case."""
    own = NO_TABLES.union(_common_table_names(file.statements[0]))
    tables = file.reads.tables
    return {(table.schema or database, table.name) for table in tables if table.schema or table.name not in own}


def _common_table_names(statement: Statement) -> Iterator[str]:
    """Yield the names that WITH gives to queries; that of a WINDOW comes with them."""
    code, words = statement.code, statement.words
    for i in range(1, len(words) - 2):
        if words[i] == "AS" and words[i + 1] == "(":
            at = i - 1
            if words[at] == ")":  # WITH name (column, column) AS (
                while at > 0 and words[at] != "(":
                    at -= 1
                at -= 1
            if at > 0 and words[at - 1] in ("WITH", "RECURSIVE", ","):
                yield code[at].name


def _key(step: Step) -> Key:
    return step.file.path, step.dates
