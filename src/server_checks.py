"""What the server says of metric files before they run. EXPLAIN reads and writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date

from src.db_manager import TRANSIENT, DatabaseManager
from src.errors import StatementError
from src.packet import Packet, Step
from src.sql_checks import Problem
from src.sql_loader import Metric
from src.sql_text import Statement, literal, literals, unquoted


def ask_server(
    database: DatabaseManager, files: Iterable[Metric], parameters: Mapping[str, str], dates: Sequence[date]
) -> list[Problem]:
    """EXPLAIN every statement that writes rows, bound for `dates`, and look at the engines of the tables written.

    `parameters` are those of the settings. Raises DatabaseError only where the connection fails.
    """
    files = list(files)
    bound = literals(parameters)
    problems = list(wrong_engines(database, files))
    for file in files:
        packet = Packet(Step(file, tuple(dates) if file.mode == "initial" else tuple(dates[-1:])), bound)
        problems += _explain(database, packet)
    return sorted(problems)


def wrong_engines(database: DatabaseManager, files: Iterable[Metric]) -> Iterator[Problem]:
    """Yield an error for each statement that writes a table which cannot roll back."""
    writers = [(file, s) for file in files for s in file.statements if s.table and not s.writes_metrics]
    own = {(file.path, name) for file, _ in writers for name in _temporary_tables(file)}
    writers = [(file, s) for file, s in writers if (file.path, (s.table or "").lower()) not in own]
    if not writers:
        return
    wanted = {(s.schema or database.name, s.table or "") for _, s in writers}
    rows = database.query(
        "SELECT t.table_schema, t.table_name, t.engine FROM information_schema.tables t "
        "JOIN information_schema.engines e ON e.engine = t.engine WHERE COALESCE(e.transactions, 'NO') <> 'YES' "
        f"AND ({' OR '.join(f'(t.table_schema = {literal(a)} AND t.table_name = {literal(b)})' for a, b in wanted)})"
    )
    engines = {(row[0].lower(), row[1].lower()): row[2] for row in rows}
    for file, statement in writers:
        engine = engines.get(((statement.schema or database.name).lower(), (statement.table or "").lower()))
        if engine:
            message = f"{statement.table} is in engine {engine}, which cannot roll back; make it ENGINE = InnoDB"
            yield Problem(file.path, statement.line, statement.column, "error", "cannot-roll-back", message)


def _explain(database: DatabaseManager, packet: Packet) -> Iterator[Problem]:
    path = packet.step.metric.path
    made = _temporary_tables(packet.step.metric)
    for sql, statement in packet.guarded:
        if statement is None or statement.writer < 0:
            continue
        if _reads_what_the_file_makes(statement, made):
            message = "not explained: it reads a temporary table or a variable that the file itself makes"
            yield Problem(path, statement.line, statement.column, "note", "not-explained", message)
            continue
        try:
            database.query(f"EXPLAIN {sql}")
        except StatementError as error:
            if error.code in TRANSIENT:
                raise
            line = packet.line_of(statement, str(error))
            column = statement.column if line == statement.line else 1
            yield Problem(path, line, column, "error", "explain", str(error))


def _temporary_tables(file: Metric) -> set[str]:
    made: set[str] = set()
    for statement in file.statements:
        if statement.words[:3] == ("CREATE", "TEMPORARY", "TABLE"):
            names = [token for token in statement.code[3:7] if token.text.upper() not in ("IF", "NOT", "EXISTS")]
            made.update(unquoted(token).lower() for token in names[:1])
    return made


def _reads_what_the_file_makes(statement: Statement, made: set[str]) -> bool:
    return any(
        (token.kind == "variable" and not token.text.startswith("@@"))
        or (token.kind in ("word", "name") and unquoted(token).lower() in made)
        for token in statement.code
    )
