"""Writes a view for each metric, v_NAME, with its fields as columns: python -m src.flat_views."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

from config.database import ROOT, load_settings
from src.db_manager import DatabaseManager
from src.display.values import parse_value
from src.errors import MetricsError, StatementError, UsageError
from src.metric_file.text import quoted
from src.server.codes import TRANSIENT
from src.sql_loader import load_catalog
from src.storage.store import MetricStore
from src.wording import count, printable

LONGEST_NAME = 64  # characters of a view's or a column's name
ROWS_LOOKED_AT = 31  # the newest ones, by which a column is one of numbers or of texts
# As in sql/schema.sql: NULL for what is no number or does not fit, without a warning.
NUMBER = """CASE
        WHEN {0} REGEXP '^-?([0-9]{{1,45}}|[0-9]{{1,44}}[.][0-9]*)$'
            THEN CAST(JSON_UNQUOTE({0}) AS DECIMAL(65,20))
        WHEN {0} REGEXP '^-?[0-9]{{1,200}}([.][0-9]*)?([eE]([+]?[0-9]{{1,2}}|-[0-9]{{1,3}}))?$'
             AND ABS(JSON_UNQUOTE({0}) + 0e0) < 1e45
            THEN CAST(JSON_UNQUOTE({0}) AS DECIMAL(65,20))
    END"""
TEXT = "CASE WHEN JSON_TYPE({0}) <> 'NULL' THEN JSON_UNQUOTE({0}) END"


def write_views(root: Path = ROOT) -> list[str]:
    """Write the views whose columns have changed, remove those of metrics without a file, and return what was done.

    A table or view of such a name that this function did not make stays as it is.
    """
    settings = load_settings(root)
    catalog = load_catalog(settings.metrics_dir)
    names = sorted(name for name, files in catalog.by_name.items() if not all(file.is_helper for file in files))
    if not names:  # METRICS_DIR may be wrong, and every view would go
        raise UsageError("no view was touched: there are no metric files in the folder of METRICS_DIR (default: sql/)")
    with closing(DatabaseManager(settings)) as database:
        database.connect()
        MetricStore(database, None, 0).require_schema()
        done = _Views(database).write(names)
    return [*done, f"the views of {count(len(names), 'metric')} are in {settings.where}"]


class _Views:
    """The views of a database that are named v_..."""

    def __init__(self, database: DatabaseManager) -> None:
        self._db = database
        self._ignores_case = bool(database.query("SELECT @@lower_case_table_names")[0][0])
        # The tables, too, of which there is no definition.
        self._stored: dict[str, str] = dict(database.query(
            "SELECT t.table_name, COALESCE(v.view_definition, '') FROM information_schema.tables AS t "
            "LEFT JOIN information_schema.views AS v ON v.table_schema = t.table_schema "
            "AND v.table_name = t.table_name "
            "WHERE t.table_schema = DATABASE() AND t.table_name LIKE 'v\\_%' ORDER BY t.table_name"
        ))  # fmt: skip

    def write(self, names: Sequence[str]) -> list[str]:
        """Let there be a view for each of these metrics that has a row, and for no other; return what was done."""
        done: list[str] = []
        wanted: dict[str, str] = {}  # the name of each view -> its metric
        for name in names:
            view = f"v_{name}".lower() if self._ignores_case else f"v_{name}"
            problem = self._problem(view, wanted)
            done += [f"without {view}: {problem}"] if problem else self._write_one(name, view)
            wanted.setdefault(view, name)
        for view, definition in self._stored.items():
            if view not in wanted and _mark(view) in definition:
                self._db.execute(f"DROP VIEW {quoted(view)}")
                done.append(f"removed {view}: there is no file of this metric any more")
        return done or ["nothing had to change"]

    def _problem(self, view: str, wanted: Mapping[str, str]) -> str:
        """Return why a view cannot be, or ""."""
        if len(view) > LONGEST_NAME:
            return f"the name has {len(view)} characters, and a server takes {LONGEST_NAME}"
        if max(view) > "\uffff":  # MySQL would write a ? in its place
            return "a server takes no character beyond U+FFFF in a name"
        if view in wanted:
            return f"this server does not tell it from the view of {wanted[view]}"
        definition = self._stored.get(view)
        if definition == "":
            return "there is a table of this name, or a view whose definition this account may not read (SHOW VIEW)"
        if definition is not None and _mark(view) not in definition:
            return "there is a view of this name that ./setup.sh --views has not made"
        return ""

    def _write_one(self, name: str, view: str) -> list[str]:
        """Write the view of a metric unless it is there, and return what was done, and what could not be."""
        rows = self._db.query(
            "SELECT data_type, f_list, value_list FROM bi_metrics WHERE metrics = %s "
            f"ORDER BY metric_date DESC LIMIT {ROWS_LOOKED_AT}", (name,),
        )  # fmt: skip
        if not rows:
            return [f"without {view}: {name} has no row yet"]
        fields = fields_of([row[1:] for row in rows])
        not_found = self._not_found(fields)
        said = [f"without the field {field} in {view}: this server finds no field whose name begins with -; rename it"
                for field in not_found]  # fmt: skip
        query = _query(name, rows[0][0], {field: sql for field, sql in fields.items() if field not in not_found})
        alias = f"{_mark(view)} {query.digest}`"
        if alias in self._stored.get(view, ""):
            return said  # a needless CREATE OR REPLACE would wait for the queries of dashboards, and new ones for it
        try:
            self._db.execute(
                f"CREATE OR REPLACE SQL SECURITY INVOKER VIEW {_escaped(quoted(view))} AS {query.sql} AS "
                f"{_escaped(alias)}", query.args,
            )  # fmt: skip
        except StatementError as error:
            if error.code in TRANSIENT:
                raise
            return [f"without {view}: {error}"]
        return [f"{'replaced' if view in self._stored else 'created'} {view} ({', '.join(query.columns)})", *said]

    def _not_found(self, fields: Iterable[str]) -> list[str]:
        """Return the fields that this server's JSON functions do not find: on MariaDB, those that begin with a dash."""
        dashed = [field for field in fields if field.startswith("-")]
        found = self._db.query("SELECT JSON_EXTRACT('{\"-\": 1}', '$.\"-\"')") if dashed else ()
        return dashed if found == ((None,),) else []


@dataclass(frozen=True)
class _Query:
    """The query of a view, up to the alias of the inner one."""

    columns: Sequence[str]
    sql: str
    args: Sequence[str]

    @property
    def digest(self) -> str:
        return sha256("\0".join([self.sql, *self.args]).encode()).hexdigest()[:16]


def fields_of(rows: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the fields of the newest row that has some, each with NUMBER, or TEXT if it is one in some of these rows.

    `rows` are f_list and value_list, newest first. A field without any value is a number.
    """
    parsed = [(parse_value(f_list), list(_objects(value_list))) for f_list, value_list in rows]
    fields: dict[str, None] = {}
    for f_list, items in parsed:
        listed = f_list if isinstance(f_list, list) else []
        fields = dict.fromkeys([*listed, *(name for item in items for name in item)])
        if fields:
            break
    values = ((name, value) for _, items in parsed for item in items for name, value in item.items())
    texts = {name for name, value in values if value is not None and not isinstance(value, Decimal)}
    return {name: TEXT if name in texts else NUMBER for name in fields if isinstance(name, str)}


def _objects(value_list: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a value_list: that of a card, each of an array; what else there may be has no fields."""
    value = parse_value(value_list)
    yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict))


def _query(name: str, data_type: str, fields: Mapping[str, str]) -> _Query:
    """Return the query of a metric's view; `fields` are names, each with the expression of its column."""
    is_card = data_type == "card"
    own = ["metric_date", *(["position"] if data_type == "ranking" else []), "is_final"]
    inner = ["m.metric_date", *(["i.position"] if data_type == "ranking" else []),
             "COALESCE(s.state = 'final', FALSE) AS is_final"]  # fmt: skip
    inner += [f"JSON_EXTRACT({'m.value_list' if is_card else 'i.item'}, %s) AS f{n}" for n in range(len(fields))]
    columns = column_names(fields, own)
    outer = [f"{expression.format(f'f{n}')} AS {_escaped(quoted(column))}"
             for n, (column, expression) in enumerate(zip(columns, fields.values(), strict=True))]  # fmt: skip
    items = "JOIN JSON_TABLE(m.value_list, '$[*]' COLUMNS (position FOR ORDINALITY, item JSON PATH '$')) AS i "
    sql = (
        f"SELECT {', '.join([*own[:-1], *outer, own[-1]])} FROM (SELECT {', '.join(inner)} FROM bi_metrics AS m "
        "LEFT JOIN bi_metric_state AS s ON s.metric = m.metrics AND s.metric_date = m.metric_date "
        f"{'' if is_card else items}WHERE m.metrics = %s)"
    )
    paths = [f"$.{json.dumps(field, ensure_ascii=False)}" for field in fields]
    return _Query([*own[:-1], *columns, own[-1]], sql, [*paths, name])


def column_names(fields: Iterable[str], own: Iterable[str]) -> list[str]:
    """Return the name of each field's column, all of them different for a server, which ignores upper and lower case.

    A column's name has 64 characters at most, does not end with a blank, and has none beyond U+FFFF.
    """
    taken = {name.lower() for name in own}
    names = []
    for field in fields:
        start = re.sub("[^\u0001-\uffff]", "?", field)[:LONGEST_NAME].rstrip() or "field"
        name, number = start, 1
        while name.lower() in taken:
            number += 1
            name = f"{start[:56]}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def _mark(view: str) -> str:
    """Return how the alias of the inner query of a view begins if it was made here.

    A server drops the comments of a view and keeps its aliases. The copy of a view has the mark of another name.
    """
    return quoted(f"made by setup.sh --views as {view}:")[:-1]


def _escaped(sql: str) -> str:
    """Return a part of a statement that has arguments."""
    return sql.replace("%", "%%")


if __name__ == "__main__":
    try:
        print("\n".join(map(printable, write_views())))
    except MetricsError as error:
        print(f"Error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
