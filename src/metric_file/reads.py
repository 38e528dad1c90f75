"""What a file reads of bi_metrics, by its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from src.metric_file.text import METRICS_TABLE, Statement, Token, unquoted

_NO_FUNCTIONS = {"WHERE", "AND", "OR", "XOR", "ON", "USING", "HAVING", "WHEN", "IN", "BY", "SELECT", "VALUES"}
_OTHER_COMPARISONS = frozenset({"LIKE", "REGEXP", "RLIKE", "NOT", "BETWEEN", "<>", "!=", "<", ">", "<=", ">="})
METRICS_VIEWS = frozenset({METRICS_TABLE, "bi_metric_cards", "bi_metric_items"})


def compared_literals(statement: Statement) -> Iterator[str]:
    words, inside_in = statement.words, 0
    for i, token in enumerate(statement.code):
        if words[i] == "(" and (inside_in or (words[i - 1] == "IN" and words[i - 2] != "NOT")):
            inside_in += 1
        elif words[i] == ")" and inside_in:
            inside_in -= 1
        elif token.kind == "string" and (inside_in or not {"=", "<=>"}.isdisjoint((words[i - 1], words[i + 1]))):
            yield unquoted(token)


def mentions(statement: Statement) -> int:
    """Return how often a statement names bi_metrics or a view to read from it: not as its target or in table.column."""
    words, target = statement.words, statement.target
    found = sum(token.name in METRICS_VIEWS and words[i + 1] != "." for i, token in enumerate(statement.code))
    return found - (target is not None and target[1].lower() == METRICS_TABLE)


def compares_otherwise(statement: Statement) -> bool:
    """Tell whether rows are chosen by more than `metrics = 'name'`, IN ('name', ...), or a join of this column."""
    words, nothing = statement.words, [Token("", "", 0)] * 3
    bare = [token for i, token in enumerate(statement.code) if "." not in (token.text, words[i + 1])]  # of m.metrics
    code = [*nothing, *bare, *nothing]
    for i, token in enumerate(code):
        if token.name != "metrics":
            continue
        left, before, after, right = code[i - 2], code[i - 1].text.upper(), code[i + 1].text.upper(), code[i + 2]
        is_name = right.kind in ("string", "variable") or right.name in ("metrics", "values")
        if (after in ("=", "<=>") and not is_name) or not _OTHER_COMPARISONS.isdisjoint((before, after)):
            return True
        if after == "IN" and not _are_names(code[i + 3 :]):
            return True
        if before in ("=", "<=>") and left.kind != "string" and left.name != "metrics":
            return True
        if before == "(" and left.name not in ("", METRICS_TABLE) and left.text.upper() not in _NO_FUNCTIONS:
            return True  # a function of the name; what follows bi_metrics are the columns of an INSERT
    # Where the table is named more often than the column, some of it is read whole.
    select = next((i for i, token in enumerate(code) if token.name == "select"), 0)  # behind an INSERT's columns
    uses = sum(code[i].name == "metrics" and code[i - 1].text.upper() != "AS" for i in range(select, len(code)))
    return uses < mentions(statement)


def _are_names(code: Sequence[Token]) -> bool:
    """Tell whether only string literals stand before the next closing parenthesis."""
    items = takewhile(lambda token: token.text != ")", code)
    return all(token.kind == "string" or token.text == "," for token in items)
