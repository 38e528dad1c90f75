"""What the server says of metric files before they run. EXPLAIN reads and writes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from src.db_manager import DatabaseManager
from src.errors import StatementError
from src.metric_file.checks import Problem
from src.metric_file.file import MetricFile, Mode
from src.metric_file.reads import ForeignKey, function_of, named_in, procedure_of, reads_behind, trigger_of
from src.metric_file.step import Step, line_of
from src.metric_file.text import METRICS_TABLE, WRITERS, Statement, Table, Token, items, literal, place, read, unquoted
from src.server.codes import CANNOT_EXPLAIN, TRANSIENT
from src.sql_loader import Catalog

LARGE_TABLE_ROWS = 100_000  # a table that is estimated larger should not be read whole for every date
# By the function that gives the key of what is found: the queries for a schema and names in lower case.
_CODE: dict[Callable[[Table], str], str] = {
    str: "SELECT table_name, view_definition FROM information_schema.views "
         "WHERE table_schema = %s AND LOWER(table_name) IN %s",
    function_of: "SELECT routine_name, routine_definition FROM information_schema.routines "
                 "WHERE routine_schema = %s AND LOWER(routine_name) IN %s AND routine_type = 'FUNCTION'",
    procedure_of: "SELECT routine_name, routine_definition FROM information_schema.routines "
                  "WHERE routine_schema = %s AND LOWER(routine_name) IN %s AND routine_type = 'PROCEDURE'",
    # Those that this account may see; a table may have several.
    trigger_of: "SELECT event_object_table, action_statement FROM information_schema.triggers "
                "WHERE event_object_schema = %s AND LOWER(event_object_table) IN %s",
}  # fmt: skip

_FOREIGN_KEYS = (
    "SELECT LOWER(r.unique_constraint_schema), LOWER(r.referenced_table_name), LOWER(r.constraint_schema), "
    "LOWER(r.table_name), r.delete_rule IN ('CASCADE', 'SET NULL'), r.update_rule IN ('CASCADE', 'SET NULL'), "
    "LOWER(k.referenced_column_name) FROM information_schema.referential_constraints AS r "
    "LEFT JOIN information_schema.key_column_usage AS k ON k.table_schema = %s "
    "AND k.table_name = r.table_name AND k.constraint_name = r.constraint_name WHERE r.constraint_schema = %s"
)


def ask_server(database: DatabaseManager, steps: Sequence[Step]) -> tuple[list[Problem], int]:
    """EXPLAIN the statements that read or write rows, and the checks, of steps in run order.

    Returns the problems, sorted, and how many statements could not be explained for no fault of theirs: they need
    another account, or a temporary table. Raises DatabaseError if the connection or the server fails.
    """
    problems: list[Problem] = []
    left_out = 0
    temporary: set[str] = set()
    for step in steps:
        temporary |= step.file.temporary_tables
        for sql, part in _explainable(step):
            try:
                with database.select(f"EXPLAIN FORMAT=TRADITIONAL {sql}") as (columns, rows):
                    plan = [dict(zip(columns, row, strict=True)) for row in rows]
            except StatementError as error:
                if error.code in TRANSIENT:
                    raise
                if error.code in CANNOT_EXPLAIN or any(token.name in temporary for token in part.code):
                    left_out += 1
                else:
                    line = line_of(part, str(error))
                    column = part.column if line == part.line else 1
                    problems.append(Problem(step.file.path, line, column, "error", "explain", str(error)))
            else:
                problems += _full_scans(step.file, part, plan)
    return sorted(problems), left_out


def problems_of(
    database: DatabaseManager, files: Sequence[MetricFile], catalog: Catalog, parameters: Mapping[str, str]
) -> list[Problem]:
    """Return what is wrong with files by the tables, time zones and settings of the server, sorted."""
    return sorted([
        *wrong_engines(database, files, catalog),
        *named_zones(database, files, parameters, catalog),
        *hidden_tables(database, files),
        *keyless_temporary_tables(database, files),
    ])  # fmt: skip


def wrong_engines(database: DatabaseManager, files: Iterable[MetricFile], catalog: Catalog) -> list[Problem]:
    """Return an error for each table that a file writes, by itself or through something else, and cannot roll back."""
    here = database.name.lower()
    writers = [(file, {Table(each.schema or here, each.name) for each in catalog.every_table_written(file)})
               for file in files]  # fmt: skip
    writers = [(file, tables) for file, tables in writers if tables]
    if not writers:
        return []
    rows = database.query(
        "SELECT t.table_schema, t.table_name, t.engine FROM information_schema.tables AS t "
        "JOIN information_schema.engines AS e ON e.engine = t.engine WHERE COALESCE(e.transactions, 'NO') <> 'YES' "
        "AND t.table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')"
    )
    found = {Table(schema, name).lower(): (name, engine) for schema, name, engine in rows}
    problems = []
    for file, tables in writers:
        first: dict[Table, Statement] = {}
        for table, statement in catalog.written_by(file):
            first.setdefault(Table(table.schema or here, table.name), statement)
        other = next((s for s in file.lasting_writes() if not s.writes_metrics), file.statements[0])
        for table in tables & found.keys():
            (name, engine), statement = found[table], first.get(table, other)
            message = f"{name} is in engine {engine}, which cannot roll back; run ALTER TABLE {name} ENGINE = InnoDB"
            if table in first and statement.target and statement.target.name.lower() != table.name:
                view = statement.target.name
                message += f"; it is behind {view}: if that only reads it, write the other table without {view}"
            problems.append(Problem(file.path, statement.line, statement.column, "error", "cannot-roll-back", message))
    return sorted(problems)


def with_what_is_behind(database: DatabaseManager, catalog: Catalog) -> Catalog:
    """Return the catalog with what the server knows of the names in its files."""
    schemas = _schemas(database)
    catalog = replace(catalog, behind_sql=code_behind(database, catalog, schemas))
    return replace(catalog, foreign_keys=foreign_keys(database, catalog, schemas))


def code_behind(database: DatabaseManager, catalog: Catalog, schemas: Mapping[str, str]) -> dict[str, str]:
    """Return the definition of each view and routine that a file, or one of them, names, and of triggers.

    Keys are names in lower case, with a schema if one is named, as str(), function_of() and the like give them; "" is a
    definition that this account may not read. The triggers are those of bi_metrics, and of the tables that files, or
    what is found, write.
    """
    written = {table for file in catalog.files for table, _ in catalog.written_by(file)}
    reads = [each for file in catalog.files for each in (file.reads, file.reads_of_checks)]
    wanted: dict[Callable[[Table], str], set[Table]] = {
        str: written.union(*(each.tables for each in reads)),
        function_of: set().union(*(each.functions for each in reads)),
        trigger_of: written | {Table("", METRICS_TABLE)},
    }
    definitions: dict[str, str] = {}
    asked: set[str] = set()
    while any(wanted.values()):
        for key, tables in wanted.items():
            asked.update(map(key, tables))
            for schema in {each.schema for each in tables} & schemas.keys():
                among = sorted(each.name for each in tables if each.schema == schema)
                for name, definition in database.query(_CODE[key], (schemas[schema], among)):
                    found = key(Table(schema, name.lower()))
                    before = f"{definitions[found]};" if found in definitions else ""
                    definitions[found] = before + (definition or "")
        behind = reads_behind(definitions)
        inside = [named_in(name, definition) for name, definition in definitions.items()]
        written = written.union(*(each.written for each in behind.values()))
        through = set().union(*(behind[str(table)].tables for table in written if str(table) in behind))
        wanted = {
            str: written.union(*(named.tables for named in inside)),
            function_of: set().union(*(named.functions for named in inside)),
            procedure_of: set().union(*(named.procedures for named in inside)),
            trigger_of: written | through,  # to write a view fires the triggers of the tables behind it
        }
        wanted = {key: {each for each in tables if key(each) not in asked} for key, tables in wanted.items()}
    return definitions


def foreign_keys(database: DatabaseManager, catalog: Catalog, schemas: Mapping[str, str]) -> frozenset[ForeignKey]:
    """Return the foreign keys that change rows along with those that files, or the code that they run, write.

    They are looked for in the databases of these tables, and are those that this account may see.
    """
    written = set().union(*(catalog.every_table_written(file) for file in catalog.files))
    keys = set()
    for schema in {table.schema for table in written} & schemas.keys():
        for row in database.query(_FOREIGN_KEYS, (schemas[schema], schemas[schema])):
            keys.add(ForeignKey(Table(*row[:2]), Table(*row[2:4]), bool(row[4]), bool(row[5]), row[6] or ""))
    return frozenset(key for key in keys if key.on_delete or key.on_update)


def _schemas(database: DatabaseManager) -> dict[str, str]:
    """Return the names of all schemas by those in lower case; "" is the database of the settings.

    Only a name as the server spells it is looked up in information_schema without opening every table there is.
    """
    names = {name.lower(): name for (name,) in database.query("SELECT schema_name FROM information_schema.schemata")}
    return {**names, "": database.server_name}


def hidden_tables(database: DatabaseManager, files: Iterable[MetricFile]) -> list[Problem]:
    """Return an error for each temporary table that would hide a table of the same name from its file."""
    made = [(file, statement, statement.temporary_table.lower())
            for file in files for statement in file.statements if statement.temporary_table]  # fmt: skip
    if not made:
        return []
    rows = database.query(
        "SELECT LOWER(table_name) FROM information_schema.tables WHERE table_schema = DATABASE() "
        "AND LOWER(table_name) IN %s AND table_type <> 'TEMPORARY'", (tuple({name for _, _, name in made}),),
    )  # fmt: skip
    found = []
    for file, statement, name in made:
        if (name,) in rows:
            message = f"the temporary table {name} would hide the table of this name from the file; rename it"
            found.append(Problem(file.path, statement.line, statement.column, "error", "hides-a-table", message))
    return sorted(found)


def named_zones(
    database: DatabaseManager, files: Iterable[MetricFile], parameters: Mapping[str, str], catalog: Catalog
) -> list[Problem]:
    """Return an error for each zone that a CONVERT_TZ names and the server does not know: the result would be NULL.

    `parameters` are the values of the settings. What is behind the views, functions and triggers counts where a file
    uses them.
    """
    # Of a file, a definition that it uses or "", and an expression that gives a zone.
    places: dict[tuple[str, str, str], tuple[int, int]] = {}
    behind = {
        name: {zone for zone, _ in _zones(Statement(tuple(read(definition)), 1, 1, 1), {})}
        for name, definition in catalog.behind_sql.items()
    }
    for file in files:
        known = {f"%({name})s": literal(value) for name, value in parameters.items()}
        known |= _constant_variables(file.statements, known)
        for statement in file.statements:
            for zone, offset in _zones(statement, known):
                places.setdefault((file.path, "", zone), place(file.script.text, offset))
        for check in file.script.checks:
            for zone, offset in _zones(check.statement, known):
                places.setdefault((file.path, "", zone), (check.line, check.column + offset))
        for name, at in catalog.definitions_used(file):
            for zone in behind[name]:
                places.setdefault((file.path, f"{name}: ", zone), at)
    if not places:
        return []
    zones = sorted({zone for _, _, zone in places} | {"'UTC'"})  # which every set of zone tables has
    ask = ", ".join(f"{zone}, CONVERT_TZ('2025-01-01', '+00:00', {zone}) IS NULL" for zone in zones)
    answers = database.query(f"SELECT {ask}")[0]
    unknown = {zone: answers[2 * n] for n, zone in enumerate(zones) if answers[2 * n + 1]}
    load = "load its zone tables (mysql_tzinfo_to_sql, mariadb-tzinfo-to-sql), or use %(day_start_utc)s"
    cure = load if "'UTC'" in unknown else "correct the name"
    return sorted(
        Problem(
            path, *at, "error", "unknown-time-zone", f"{name}the server does not know the time zone '{unknown[zone]}', "
            f"so CONVERT_TZ gives NULL; {'correct the offset' if str(unknown[zone])[:1] in ('+', '-') else cure}",
        )
        for (path, name, zone), at in places.items() if zone in unknown
    )  # fmt: skip


def _zones(statement: Statement, known: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Yield each zone that a CONVERT_TZ gives by constants, as an expression, and its place in the text."""
    for i, word in enumerate(statement.words):
        if word == "CONVERT_TZ" and statement.words[i + 1] == "(":
            for argument in items(statement.code[i + 2 :])[1:]:
                if zone := _constant(argument, known):
                    yield zone, argument[0].offset


def _constant_variables(statements: Iterable[Statement], known: Mapping[str, str]) -> dict[str, str]:
    """Return the expression of each @variable that one SET, and nothing else in the file, gives a constant."""
    found: dict[str, list[str]] = {}
    for statement in statements:
        set_items = items(statement.code[1:]) if statement.verb == "SET" else []
        for item in set_items:
            if len(item) > 2 and item[0].kind == "variable":
                found.setdefault(item[0].text.lower(), []).append(_constant(item[2:], known))
        starts = [item[0] for item in set_items if item]
        for token in (statement.code[i] for i in statement.assigned):
            if token not in starts:
                found.setdefault(token.text.lower(), []).append("")
    return {name: values[0] for name, values in found.items() if len(values) == 1 and values[0]}


def _constant(tokens: Sequence[Token], known: Mapping[str, str]) -> str:
    """Return an expression of strings, and of parameters and variables that are `known`, as SQL; "" for any other."""
    parts = []
    for i, token in enumerate(tokens):
        is_before_string = [each.kind for each in tokens[i + 1 : i + 2]] == ["string"]
        is_marked = token.text.upper() == "N" or token.text.startswith("_")  # N'Europe/Berlin', _utf8mb4'Europe/Berlin'
        if (value := known.get(token.text.lower())) is not None:
            parts.append(value)
        elif token.kind == "string" or token.text.upper() in ("CONCAT", "COALESCE", "(", ")", ","):
            parts.append(token.text.replace("%%", "%"))
        elif not (is_marked and is_before_string):
            return ""
    return " ".join(parts)


def keyless_temporary_tables(database: DatabaseManager, files: Iterable[MetricFile]) -> list[Problem]:
    """Return an error for each temporary table without a primary key, if the server refuses such tables."""
    keyless = [(f, s) for f in files for s in f.statements if s.temporary_table and not _may_have_a_key(s)]
    if not keyless:
        return []
    names = "('sql_require_primary_key', 'sql_generate_invisible_primary_key')"  # of MySQL alone
    settings: dict[str, str] = dict(database.query(f"SHOW VARIABLES WHERE variable_name IN {names}"))
    if settings.get("sql_require_primary_key") != "ON" or settings.get("sql_generate_invisible_primary_key") == "ON":
        return []
    message = (
        "this server refuses a table without a primary key; write CREATE TEMPORARY TABLE ... (PRIMARY KEY (...)) SELECT"
    )
    return sorted(Problem(f.path, s.line, s.column, "error", "no-primary-key", message) for f, s in keyless)


def _may_have_a_key(statement: Statement) -> bool:
    """Tell whether what stands before the SELECT of a CREATE TABLE can make a primary key."""
    words = list(takewhile(lambda word: word not in ("SELECT", "WITH"), statement.words))
    is_column_key = any(word == "KEY" and words[i - 1] not in ("(", ",") for i, word in enumerate(words))
    return is_column_key or not {"UNIQUE", "SERIAL", "LIKE"}.isdisjoint(words)


def _explainable(step: Step) -> Iterator[tuple[str, Statement]]:
    for statement, sql in zip(step.file.statements, step.statements, strict=True):
        if statement.verb in WRITERS | {"SELECT", "WITH"}:
            yield sql, statement
    for check in step.file.script.checks:
        yield step.check(check, step.dates[-1]), check.statement


def _full_scans(file: MetricFile, part: Statement, plan: list[dict[str, Any]]) -> Iterator[Problem]:
    """Yield a warning for each large table that the plan reads from end to end; an initial file is meant to.

    A plan that cannot be read gives no warning, for advice must not stop a run.
    """
    if file.mode is Mode.INITIAL or "full-scan" in file.script.header_list("allow"):
        return
    for row in plan:
        table, rows = str(row.get("table") or "<none>"), _rows_of_plan(row.get("rows"))
        if row.get("type") in ("ALL", "index") and rows > LARGE_TABLE_ROWS and not table.startswith("<"):
            message = (
                f"reads all of {_table_of(part, table)} (about {rows:,} rows) for every date; add an index on the "
                "column that WHERE compares, or compare the bare column with a half-open range"
            )
            yield Problem(file.path, part.line, part.column, "warning", "full-scan", message)


def _rows_of_plan(estimate: object) -> int:
    """Return the estimate of a plan as a number; 0 if there is none that can be read."""
    digits = re.match("[0-9]{1,20}", str(estimate))  # with a rowid filter, MariaDB says '334 (5%)'
    return int(digits[0]) if digits else 0


def _table_of(statement: Statement, alias: str) -> str:
    """Return the table that FROM or JOIN gives this alias, as the plan shows only that; else the alias itself."""
    words = statement.words
    for i, token in enumerate(statement.code):
        if i > 2 and token.kind in ("word", "name") and unquoted(token) == alias:
            at = i - 2 if words[i - 1] == "AS" else i - 1
            before = at - 3 if words[at - 1] == "." else at - 1
            if words[before] in ("FROM", "JOIN") and statement.code[at].name:
                return f"{unquoted(statement.code[at])} AS {alias}"
    return alias


def tables_without_a_date(database: DatabaseManager, files: Iterable[MetricFile]) -> list[Problem]:
    """Return a warning for each table that a helper fills and that cannot hold the rows of several dates.

    It has no column of a date, or a unique key without one: there the row of a date replaces that of another.
    """
    targets = [
        (file, statement, statement.target.name)
        for file in files if file.is_helper and "helper-without-date" not in file.script.header_list("allow")
        for statement in file.lasting_writes()
        if statement.verb != "DELETE" and statement.target and statement.target.schema in ("", database.name)
        and not any(map(statement.target.is_same, file.emptied_tables))
    ]  # fmt: skip
    if not targets:
        return []
    dated = "MAX(c.data_type IN ('date', 'datetime', 'timestamp'))"
    of_table = "table_schema = DATABASE() AND LOWER(c.table_name) IN %s"
    names = tuple({name.lower() for *_, name in targets})
    tables: dict[str, int] = dict(database.query(
        f"SELECT LOWER(c.table_name), {dated} FROM information_schema.columns AS c "
        f"WHERE c.{of_table} GROUP BY 1", (names,),
    ))  # fmt: skip
    keys = database.query(
        f"SELECT LOWER(c.table_name), GROUP_CONCAT(c.column_name ORDER BY k.seq_in_index) "
        "FROM information_schema.statistics AS k JOIN information_schema.columns AS c "
        "ON c.table_schema = k.table_schema AND c.table_name = k.table_name AND c.column_name = k.column_name "
        f"WHERE k.non_unique = 0 AND c.{of_table} GROUP BY 1, k.index_name "
        f"HAVING {dated} = 0 AND MAX(c.extra LIKE '%%auto_increment%%') = 0 ORDER BY 1, 2", (names,),
    )  # fmt: skip
    undated = {**{name: "no column of a date" for name, has_date in tables.items() if not has_date},
               **{name: f"a unique key without a date ({columns})" for name, columns in keys}}  # fmt: skip
    cure = "put the date into its key, or empty the table first if it holds one date at a time"
    return sorted({
        Problem(file.path, statement.line, statement.column, "warning", "helper-without-date",
                f"the table {name} has {undated[name.lower()]}, so other dates read what the last one left; {cure}")
        for file, statement, name in targets if name.lower() in undated
    })  # fmt: skip
