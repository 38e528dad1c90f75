"""What a file reads: the metrics that its text names, and the tables and functions that it uses.

Of the ways to choose a metric's rows only a few are taken, those that a reader sees at once. All others are unclear.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from src.metric_file.text import (
    BEFORE_TABLE,
    METRICS_TABLE,
    SPACE,
    TABLES_OF_THE_RUN,
    WRITERS,
    Statement,
    Table,
    Token,
    items,
    outermost,
    read,
    table_at,
    unquoted,
)

METRICS_VIEWS = frozenset({METRICS_TABLE, "bi_metric_cards", "bi_metric_items", "bi_metric_catalog"})
_OURS = METRICS_VIEWS | TABLES_OF_THE_RUN
_REFUSED = ("UPDATE", "DELETE", "REPLACE")  # the rule forbidden-statement refuses them with bi_metrics

_SET_OPERATORS = {"UNION", "EXCEPT", "INTERSECT"}
_AFTER_SET_OPERATOR = {"SELECT", "ALL", "DISTINCT", "(", "VALUES", "TABLE", "WITH"}
_JOINS = {"JOIN", "STRAIGHT_JOIN"}
_JOIN_KINDS = {"INNER", "CROSS", "LEFT", "RIGHT", "OUTER", "NATURAL", "FULL"}
_KEEPS_ALL_ROWS = {"RIGHT", "NATURAL", "FULL"}  # joins whose ON does not choose the rows of the table behind JOIN
_ENDS = {"WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "INTO", "WINDOW", "QUALIFY", "FOR", "LOCK", "FETCH", "OFFSET",
         "PROCEDURE", "RETURNING"}  # fmt: skip
_CONDITION_ENDS = _ENDS | _JOINS | {"ON", "USING", ","}
_NO_ALIAS = _CONDITION_ENDS | _JOIN_KINDS | {"USE", "FORCE", "IGNORE", "PARTITION", ""}
_AND = ("AND", "&&")
_OR = {"OR", "XOR", "||"}
_NOT_IN_TERMS = _OR | {"SELECT", "CASE", "{"}  # an AND inside CASE ... END or {x ...} separates no terms
_UNITS = ("MICROSECOND", "SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR")

_TABLES_FOLLOW = {"FROM", "UPDATE", *_JOINS}  # and more of them behind each comma
_NO_TABLES_FOLLOW = {"SELECT", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "SET", "VALUES"}
_BEFORE_COLUMNS = {"INTO", "INSERT", "REPLACE", "IGNORE", "DELAYED", "LOW_PRIORITY", "TABLE"}  # of INSERT INTO t (n)
_BEFORE_TABLES = BEFORE_TABLE | {"LATERAL", "OJ"}


class Unclear(NamedTuple):
    """A place where the text does not say plainly which metrics are read, and why."""

    token: Token
    why: str


@dataclass(frozen=True)
class Reads:
    """What some statements read: each name with the token that shows it first."""

    metrics: dict[str, Token] = field(default_factory=dict)
    unclear: list[Unclear] = field(default_factory=list)
    tables: dict[Table, Token] = field(default_factory=dict)  # in lower case; one that is written is not among them
    updated: dict[Table, Token] = field(default_factory=dict)  # by an UPDATE, which needs rows that are there
    functions: dict[Table, Token] = field(default_factory=dict)  # in lower case, with those of the server

    def code_names(self, temporary_tables: Collection[str] = ()) -> dict[str, Token]:
        """Return the names by which definitions are found: any table may be a view, any function a stored one."""
        views = {str(table): token for table, token in self.tables.items() if table.name not in temporary_tables}
        return {**views, **{function_of(function): token for function, token in self.functions.items()}}


def reads_of(statements: Iterable[Statement]) -> Reads:
    """Return what statements read. Never raises, whatever the text is."""
    found = Reads()
    for statement in statements:
        code, words = statement.code, statement.words
        in_table_place = set(tables(code, words))
        if statement.verb == "UPDATE" and statement.target_at is not None:
            found.updated.setdefault(table_at(code, statement.target_at).lower(), code[statement.target_at])
        for i, token in enumerate(code):
            if i in in_table_place and i != statement.target_at:
                table = table_at(code, i)
                if statement.verb != "DELETE" or statement.target is None or not table.is_same(statement.target):
                    found.tables.setdefault(table.lower(), token)
                if statement.names[i] in TABLES_OF_THE_RUN:
                    found.unclear.append(Unclear(token, "the run writes it for every metric"))
            if words[i + 1] == "(" and statement.names[i] and i != statement.target_at:
                found.functions.setdefault(table_at(code, i).lower(), token)
        mentions = [i for i in _mentions(statement) if statement.verb not in _REFUSED or code[i].name != METRICS_TABLE]
        if mentions:
            query = _Query(statement, in_table_place, mentions)
            for i in mentions:
                names, unclear = query.names_at(i)
                for name, token in names.items():
                    found.metrics.setdefault(name, token)
                found.unclear.extend(unclear)
    return found


class Behind(NamedTuple):
    """What a view, a stored function or a trigger reads and leaves behind, itself or through others."""

    hides: str  # why it hides which metrics are read, or ""
    tables: set[Table]  # names in lower case
    is_code: bool  # more than views: it may change the session
    variables: set[str]  # that it names
    temporary_tables: set[Table]  # that it creates
    written: set[Table]  # in lower case
    reached: list[str]  # the definitions that it consists of, itself first


class ForeignKey(NamedTuple):
    """A column of a foreign key by which rows of `child` change along with those of `parent`; names in lower case."""

    parent: Table
    child: Table
    on_delete: bool
    on_update: bool
    column: str  # of the parent; a key of several columns is there once for each, "" is one that may not be seen


class Named(NamedTuple):
    """What a definition names, in lower case."""

    tables: set[Table]
    functions: set[Table]
    procedures: set[Table]

    @property
    def keys(self) -> set[str]:
        return {*map(str, self.tables), *map(function_of, self.functions), *map(procedure_of, self.procedures)}


def named_in(name: str, definition: str) -> Named:
    """Return what the definition of a view, a routine or a trigger names."""
    statement = Statement(tuple(read(definition)), 1, 1, 1)
    code, words = statement.code, statement.words
    schema = name.rpartition(".")[0]  # of names that have none
    functions, procedures = [], []
    for i, token in enumerate(code):
        before = words[i - 3 if words[i - 1] == "." else i - 1]
        if before == "CALL" and token.name and words[i + 1] != ".":
            procedures.append(i)
        elif words[i + 1] == "(" and token.name and before not in _BEFORE_COLUMNS:
            functions.append(i)

    def found(places: Iterable[int]) -> set[Table]:
        names = (table_at(code, i).lower() for i in places)
        return {Table(each.schema or schema, each.name) for each in names}

    return Named(found(tables(code, words)), found(functions), found(procedures))


def reads_behind(definitions: Mapping[str, str]) -> dict[str, Behind]:
    """Return what views, routines and triggers read, by name as in `definitions`; one that is "" is unreadable."""
    ours = {name for name in definitions if name.rpartition(".")[2] in METRICS_VIEWS}  # they are read by name
    named = {name: named_in(name, definitions[name]) for name in definitions.keys() - ours}
    written = {name: set(_written_tables(name, read(definitions[name]))) for name in named}
    for some in written.values():  # through a view
        some |= set().union(*(named[str(table)].tables for table in some if str(table) in named))
    inner = {name: named.keys() & {*named[name].keys, *map(trigger_of, written[name])} for name in named}
    reasons = {}
    for name in named:
        if not definitions[name].strip():
            reasons[name] = f"this account may not read the definition of {name}"
        elif found := _OURS.intersection(unquoted(token).lower() for token in read(definitions[name])):
            reasons[name] = f"{name} reads {METRICS_TABLE if found & METRICS_VIEWS else min(found)}"
    behind = {}
    for name in named:
        reached = [name, *sorted(closure([name], inner) - {name})]
        hides = next((reasons[each] for each in reached if each in reasons), "")
        tokens = {each: read(definitions[each]) for each in reached}
        temporary = {table for each in reached for table in _temporary_tables(each, tokens[each])}
        own = {table.lower() for table in temporary}
        behind[name] = Behind(
            hides,
            {table for each in reached for table in named[each].tables} - own,
            any(not definitions[each].lstrip(" (").lower().startswith(("select", "with")) for each in reached),
            {token.text for each in reached for token in tokens[each] if token.kind == "variable"},
            temporary,
            {table for each in reached for table in written[each]} - own,
            reached,
        )
    return behind


def function_of(table: Table) -> str:
    """Return the name under which definitions have a stored function: a view may have the same name."""
    return f"{table}()"


def procedure_of(table: Table) -> str:
    """Return the name under which definitions have a stored procedure."""
    return str(Table(table.schema, f"procedure {table.name}"))


def trigger_of(table: Table) -> str:
    """Return the name under which definitions have the triggers of a table."""
    return str(Table(table.schema, f"trigger of {table.name}"))


def _written_tables(name: str, tokens: Iterable[Token]) -> Iterator[Table]:
    """Yield the tables that a definition writes, or more, in lower case."""
    code = [token for token in tokens if token.kind not in SPACE]
    for i, token in enumerate(code):
        is_part = token.name == "update" and code[i - 1].name in ("key", "for")  # ON DUPLICATE KEY UPDATE, FOR UPDATE
        if token.text.upper() in WRITERS and not is_part:
            statement = Statement((*takewhile(lambda each: each.kind != "end", code[i:]),), 1, 1, 1)
            for at in _places_written(statement):
                table = table_at(statement.code, at)
                yield Table(table.schema or name.rpartition(".")[0], table.name).lower()


def _places_written(statement: Statement) -> Iterator[int]:
    """Yield the index in the code of the name of each table that a statement writes.

    Of joined tables, SET a.x, b.y writes a and b, as does DELETE a, b. If a column of SET names no table, all count.
    """
    code, words = statement.code, statement.words
    end = len(code)
    written: set[str] = set()
    if statement.verb == "UPDATE":
        end = next((i for i in outermost(words[:-1]) if words[i] == "SET"), end)
        for item in items(code[end + 1 :]):
            column = list(takewhile(lambda token: token.text != "=", item))
            written.add(column[-3].name if len(column) > 2 else "")
    elif statement.verb == "DELETE":
        before = "USING" if words[1] == "FROM" else "FROM"
        written = {code[i].name for i in takewhile(lambda i: words[i] != before, outermost(words[:-1]))} - {""}
    found = []
    for i in sorted(set(tables(code, words)).intersection(_outside_of_queries(words[:end]))):
        alias = i + 1 + (words[i + 1] == "AS")
        names = {code[i].name, *(token.name for token in code[alias : alias + 1])}
        if "" in written or not written.isdisjoint(names):
            found.append(i)
    if found:
        yield from found
    elif statement.target_at is not None:
        yield statement.target_at


def _outside_of_queries(words: Sequence[str]) -> Iterator[int]:
    """Yield the indexes of the words that stand in no SELECT in parentheses."""
    around = [False]
    for i, word in enumerate(words):
        if word == "(":
            around.append(around[-1] or words[i + 1 : i + 2] in (("SELECT",), ("WITH",)))
        elif word == ")" and len(around) > 1:
            around.pop()
        elif not around[-1]:
            yield i


def _temporary_tables(name: str, tokens: Iterable[Token]) -> Iterator[Table]:
    """Yield the temporary tables that a definition creates, as it writes their names."""
    code = [token for token in tokens if token.kind not in SPACE]
    words = [token.text.upper() for token in code] + [""]
    for i, word in enumerate(words):
        at = i + 2
        while words[i : i + 2] == ["TEMPORARY", "TABLE"] and words[at] in BEFORE_TABLE:
            at += 1
        if word == "TEMPORARY" and words[i + 1] == "TABLE" and at < len(code):
            at += 2 * (words[at + 1] == ".")
            if at < len(code) and code[at].name:
                table = table_at(code, at)
                yield Table(table.schema or name.rpartition(".")[0], table.name)


def closure(start: Iterable[str], graph: Mapping[str, Collection[str]]) -> set[str]:
    """Return what is reached from some names in a graph; one of these names only if a way leads back to it."""
    found: set[str] = set()
    new = set(start)
    while new and len(found) < len(graph):  # in a graph that is dense the first step finds all
        new = set().union(*(graph.get(name, ()) for name in new)) - found
        found |= new
    return found


def _mentions(statement: Statement) -> Iterator[int]:
    """Yield where a statement names bi_metrics or a view of it: not as the target of its INSERT or in table.column."""
    for i, name in enumerate(statement.names):
        is_table = name in METRICS_VIEWS and statement.words[i + 1] != "."
        if is_table and not (i == statement.target_at and statement.writes_metrics):
            yield i


def tables(code: Sequence[Token], words: Sequence[str]) -> Iterator[int]:
    """Yield the index of each name that stands where a table stands: behind FROM, JOIN, UPDATE, TABLE or their comma.

    It yields too much rather than too little: the column of EXTRACT(DAY FROM day), the name that a WITH gives.
    """
    around: list[bool] = []
    listed = expected = False  # does a table follow a comma; does one follow here
    for i, token in enumerate(code):
        word = words[i] if words[i - 1] != "." else ""  # behind a dot every word is a name
        if word == "(":
            around.append(listed)
            listed = expected
        elif word == ")":
            listed, expected = bool(around) and around.pop(), False
        elif word == ",":
            expected = listed
        elif word == "USING":
            expected = words[i + 1] != "("  # DELETE FROM a USING a JOIN b
        elif word in _NO_TABLES_FOLLOW or (word == "UPDATE" and words[i - 1] == "KEY"):
            if words[i - 1] != "FOR":  # USE INDEX FOR ORDER BY
                listed = expected = False
        elif word in _TABLES_FOLLOW:
            listed = expected = True
        elif word == "TABLE":
            expected = True
        elif expected and token.name and words[i + 1] != "." and word not in _BEFORE_TABLES:
            yield i
            expected = False


class _Query:
    """A statement that reads metrics, split into its blocks: each SELECT, and what stands in each parenthesis."""

    def __init__(self, statement: Statement, in_table_place: set[int], mentions: list[int]) -> None:
        self.code, self.words = statement.code, statement.words
        self.in_table_place = in_table_place
        self.mentions = mentions
        self.has_conditional_code = any(t.kind == "open" and t.text != "/*+" for t in statement.tokens)
        self.inside: dict[int, list[int]] = {}  # by the index of a parenthesis
        self.block_of: list[list[int]] = []  # for each token the tokens of its block; an inner block is "(" and ")"
        around: list[list[int]] = [[]]
        for i, word in enumerate(self.words[:-1]):
            if word == ")" and len(around) > 1:
                around.pop()
            elif word in _SET_OPERATORS and self.words[i + 1] in _AFTER_SET_OPERATOR:
                around[-1] = []
            around[-1].append(i)
            self.block_of.append(around[-1])
            if word == "(":
                around.append([])
                self.inside[i] = around[-1]

    def names_at(self, i: int) -> tuple[dict[str, Token], list[Unclear]]:
        """Return the metrics that the table at an index is held to; if that is not plain, none and why."""
        block = self.block_of[i]
        words = [self.words[j] if self.words[j - 1] != "." else "" for j in block]
        at = block.index(i)
        heads = [p for p, word in enumerate(words) if word in ("SELECT", "FROM")]
        if [words[p] for p in heads] != ["SELECT", "FROM"] or heads[1] > at or i not in self.in_table_place:
            return {}, [Unclear(self.code[i], "it is not named in the FROM of a SELECT")]
        if self.has_conditional_code:
            return {}, [Unclear(self.code[i], "some servers run the /*! */ comment of its statement, some do not")]
        if either := [j for j in block[heads[1] :] if self.words[j] in _OR]:
            return {}, [Unclear(self.code[either[0]], "an OR that is not in parentheses")]
        if ":=" in self.words[block[heads[1]] : block[-1]]:  # it takes an AND behind it, and may see every row
            return {}, [Unclear(self.code[i], "a := behind FROM")]
        owner = self._names_of_table(block, words, at)
        names: dict[str, Token] = {}
        for condition in self._conditions(block, words, at):
            for term in self._terms(condition):
                names |= self._compared(term, owner)
        column = "metrics" if "" in owner else f"{owner[0]}.metrics"
        why = f"no {column} = 'name' in its WHERE or ON that always holds"
        return names, [] if names else [Unclear(self.code[i], why)]

    def _names_of_table(self, block: list[int], words: list[str], at: int) -> list[str]:
        """Return what may stand before the dot of its columns; "" if the column alone can be no other table's."""
        alias = at + 1 + (words[at + 1 : at + 2] == ["AS"])
        has_alias = alias < len(block) and words[alias] not in _NO_ALIAS and bool(self.code[block[alias]].name)
        merged = "NATURAL" in words or any(
            word == "USING" and any(self.code[j].name == "metrics" for j in self.inside.get(block[p] + 1, ()))
            for p, word in enumerate(words)
        )
        is_only_one = sum(self.block_of[j] is block for j in self.mentions) == 1 and not merged
        return [unquoted(self.code[block[alias if has_alias else at]]), *([""] if is_only_one else [])]

    def _conditions(self, block: list[int], words: list[str], at: int) -> Iterator[list[int]]:
        """Yield the conditions that each row of the table meets: the WHERE of its block, and the ON of its own JOIN."""

        def end(start: int) -> int:
            return next((p for p in range(start, len(words)) if words[p] in _CONDITION_ENDS), len(words))

        if words.count("WHERE") == 1 and "WHERE" in words[at:]:
            where = words.index("WHERE") + 1
            yield block[where : end(where)]
        join = at - (3 if words[at - 1] == "." else 1)
        on = end(at + 1)
        is_own = words[on : on + 1] == ["ON"] and words[on + 1 : on + 2] != ["DUPLICATE"]
        if is_own and words[join] in _JOINS and _KEEPS_ALL_ROWS.isdisjoint(words[join - 2 : join]):
            last = end(on + 1)
            while words[last - 1] in _JOIN_KINDS:  # of the next JOIN
                last -= 1
            yield block[on + 1 : last]

    def _terms(self, condition: list[int]) -> Iterator[list[int]]:
        """Yield the terms that all hold: those of the outermost AND. Parentheses around one make no difference."""
        todo = [condition]
        while todo:
            part = todo.pop()
            if not _NOT_IN_TERMS.isdisjoint(self.words[i] for i in part):
                continue
            terms: list[list[int]] = [[]]
            betweens, in_interval = 0, False  # their AND separates no terms
            for i in part:
                word = self.words[i]
                betweens += word == "BETWEEN"
                in_interval = word == "INTERVAL" or (in_interval and not word.endswith(_UNITS))
                if word in _AND and not betweens and not in_interval:
                    terms.append([])
                    continue
                betweens -= word in _AND and not in_interval
                terms[-1].append(i)
            for term in terms:
                if len(term) == 2 and term[0] in self.inside:
                    todo.append(self.inside[term[0]])
                else:
                    yield term

    def _compared(self, term: list[int], owner: list[str]) -> dict[str, Token]:
        """Return the names of a term such as metrics = 'x', 'x' = m.metrics or metrics IN ('x', 'y'); else none."""
        tokens = [self.code[i] for i in term]
        if len(tokens) > 2 and tokens[0].kind == "string" and tokens[1].text == "=":
            tokens = [*tokens[2:], tokens[1], tokens[0]]
        qualifier = ""
        if len(tokens) > 2 and tokens[1].text == "." and tokens[0].name:
            qualifier, tokens = unquoted(tokens[0]), tokens[2:]
        if len(tokens) < 3 or tokens[0].name != "metrics" or qualifier not in owner:
            return {}
        literals: list[Token] = []
        if len(tokens) == 3 and tokens[1].text == "=":
            literals = tokens[2:]
        elif len(tokens) == 4 and tokens[1].text.upper() == "IN" and term[-2] in self.inside:
            inner = [self.code[i] for i in self.inside[term[-2]]]
            if all(token.text == "," for token in inner[1::2]):
                literals = inner[::2]
        if not all(token.kind == "string" for token in literals):
            return {}
        return {unquoted(token).replace("%%", "%"): token for token in literals}
