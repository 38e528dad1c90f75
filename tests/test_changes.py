"""Comparing stored rows: by value, not by text, and said in a few words."""

from __future__ import annotations

from datetime import date

import pytest

from src.display.values import parse_value
from src.metric_file.usual import numbers_of
from src.storage.changes import StoredRow, compare, differences, is_readable

DAY = date(2025, 1, 15)


def row(value: str, fields: str = '["n"]', data_type: str = "card") -> StoredRow:
    return StoredRow(data_type, fields, value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}'),
        ('{"a": 12.30}', '{"a": 12.3}'),
        ('{"a": 1.0}', '{"a": 1}'),
        ('{"a": "\\u00e9"}', '{"a": "é"}'),
        ('[{"a": null}]', '[ {"a":null} ]'),
    ],
)
def test_the_same_values_written_otherwise_are_unchanged(old: str, new: str) -> None:
    assert differences(row(old), row(new)) == ""
    change = compare("m", DAY, row(old), row(new), was_final=True)
    assert (change.kind, change.was_final, change.detail) == ("unchanged", True, "")


@pytest.mark.parametrize(
    ("old", "new", "detail"),
    [
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 3}', "b: 2 -> 3"),
        ('{"a": 12.30}', '{"a": 12.31}', "a: 12.30 -> 12.31"),
        # As floats these two are equal.
        ('{"a": 0.1}', '{"a": 0.1000000000000000055511151231257827}', "a: 0.1 -> 0.1000000000000000055511151231257827"),
        ('{"a": "1"}', '{"a": 1}', 'a: "1" -> 1'),
        ('{"a": true}', '{"a": 1}', "a: true -> 1"),
        ('{"a": null}', "{}", "a: null -> nothing"),
        ("{}", '{"a": {"b": "é"}}', 'a: nothing -> {"b": "é"}'),
        ('[{"h": 0, "n": 1}, {"h": 1, "n": 2}]', '[{"h": 0, "n": 1}, {"h": 1, "n": 5}]', "[1].n: 2 -> 5"),
        ("[1, 2]", "[1]", "[1]: 2 -> nothing"),
        ("1", "[1]", "1 -> [1]"),
        # MariaDB keeps a key that stands twice, and MySQL its last value.
        ('{"a": 1, "a": 2}', '{"a": 2}', "a: 1 -> 2; a (again): 2 -> nothing"),
    ],
)
def test_only_what_differs_is_shown(old: str, new: str, detail: str) -> None:
    change = compare("m", DAY, row(old), row(new), was_final=True)
    assert (change.kind, change.detail, str(change)) == ("changed", detail, f"2025-01-15 m: changed {detail}")


def test_a_new_row_was_never_final_and_a_changed_one_says_whether_it_was() -> None:
    new = compare("m", DAY, None, row("{}"), was_final=False)
    assert (new.kind, new.was_final, new.detail, str(new)) == ("new", False, "{}", "2025-01-15 m: new {}")
    assert [compare("m", DAY, row("1"), row("2"), was).was_final for was in (True, False)] == [True, False]


def test_other_columns_count_too() -> None:
    assert differences(row("1"), row("1", '["k"]', "ranking")) == 'f_list[0]: "n" -> "k"; data_type: card -> ranking'


def test_many_differences_are_counted_and_long_values_are_cut() -> None:
    many = differences(row("[1,2,3,4,5,6,7]"), row("[0,0,0,0,0,0,0]"))
    assert many.endswith("[4]: 5 -> 0; and 2 more")
    assert len(differences(row('"x"'), row(f'"{"y" * 500}"'))) < 100


def test_json_with_a_key_twice_is_not_read_the_same_by_all() -> None:
    assert not is_readable('{"n": 1, "n": 2}')
    assert is_readable('[{"n": 1}, {"n": 2}]')


@pytest.mark.parametrize("text", ['{"n": 1e9999999999999999999}', '{"n": 1e-9999999999999999999}', '{"n": 1.}'])
def test_json_that_python_cannot_read_is_compared_as_text(text: str) -> None:
    assert not is_readable(text)
    assert differences(row(text), row(text)) == ""
    assert differences(row(text), row('{"n": 1}')) != ""
    assert parse_value(text) == text
    assert numbers_of(text) is None
