"""Reading MySQL text: nothing lost, nothing misread, and no text that makes it slow."""

from __future__ import annotations

import datetime
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import MetricsError
from src.sql_text import Check, Header, Script, bind, literal, parse, place, read

# Pieces that mean something to the reader, so that random texts reach its corners.
FRAGMENTS = r"""
    '' ' " "" ` `` \ \' ; -- # /* */ /*! /*!80000 /*M! /*+ /*/ */* %% % %(a)s %(metric_date)s ( ) , . = + - @ @@ @x
    SELECT INSERT INTO bi_metrics REPLACE DELETE FROM WITH SET autocommit VALUES metrics AS DATE( NOW() CAST( 'x' 0 1.5
    JSON_EXTRACT( ON DUPLICATE KEY UPDATE CREATE TEMPORARY TABLE é"""
PIECES = [
    *FRAGMENTS.split(),
    *[" ", "\n", "\r\n", "\x00", "\udce9", "--\n", "-- Metric:", "-- Check: "],
]
texts = st.one_of(st.text(), *(st.lists(st.sampled_from(PIECES)).map(glue.join) for glue in ("", " ")))


def kinds(text: str) -> list[tuple[str, str]]:
    return [(token.kind, token.text) for token in read(text) if token.kind != "blank"]


@given(texts)
def test_the_tokens_joined_are_the_text(text: str) -> None:
    tokens = read(text)
    assert "".join(token.text for token in tokens) == text
    assert all(text.startswith(token.text, token.offset) for token in tokens)


@given(texts)
def test_a_statement_stands_where_it_says(text: str) -> None:
    for number, statement in enumerate(parse(text).statements, start=1):
        lines = text.split("\n")[statement.line - 1 :]
        assert "\n".join(lines)[statement.column - 1 :].startswith(statement.text)
        assert statement.number == number
        assert (statement.line, statement.column) == place(text, statement.tokens[0].offset)


@given(texts)
def test_binding_changes_nothing_but_double_percents(text: str) -> None:
    for statement in parse(text.replace("%(", "( ")).statements:
        kept = ("comment", "unterminated")
        parts = (t.text if t.kind in kept else t.text.replace("%%", "%") for t in statement.tokens)
        assert bind(statement, {}) == "".join(parts)


@given(st.text())
def test_a_literal_is_one_string_whatever_it_holds(value: str) -> None:
    quoted = literal(value)
    (token,) = read(quoted)
    assert token.kind == "string"
    assert "\n" not in quoted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a--b", ["word a", "operator -", "operator -", "word b"]),
        ("a--\tb\nc", ["word a", "comment --\tb", "word c"]),
        ("a--", ["word a", "comment --"]),
        ("#a\r\nb", ["comment #a\r", "word b"]),
        ("/**/a/*/*/", ["comment /**/", "word a", "comment /*/*/"]),
        ("/*!80000 a*/", ["open /*!80000", "word a", "close */"]),
        ("/*M!100100 '*/' */b", ["open /*M!100100", "string '*/'", "close */", "word b"]),
        ("/*! a /* b */ */", ["open /*!", "word a", "comment /* b */", "close */"]),
        ("/*! a; */", ["open /*!", "word a", "end ;", "operator *", "operator /"]),
        ("*/*a*/b", ["operator *", "comment /*a*/", "word b"]),
        (r"'a\'b''c'd", [r"string 'a\'b''c'", "word d"]),
        (r'"a\\"b', [r'string "a\\"', "word b"]),
        (r"`a\`b", [r"name `a\`", "word b"]),
        ("`a``b`", ["name `a``b`"]),
        ("'''", ["unterminated '''"]),
        ("a/* b", ["word a", "unterminated /* b"]),
        ("@x:=@@a.b<=>1", ["variable @x", "operator :=", "variable @@a.b", "operator <=>", "word 1"]),
        ("%%%(a)s%(b c)s", ["percent %%", "parameter %(a)s", "operator %", "operator (", "word b", "word c"]),
    ],
)
def test_text_is_cut_as_the_server_cuts_it(text: str, expected: list[str]) -> None:
    assert [f"{kind} {part}" for kind, part in kinds(text)][: len(expected)] == expected


def test_statements_lose_the_comments_around_them_and_keep_those_within() -> None:
    script = parse("-- a ;\n\n  SELECT 1 -- b ;\n , 2 /* c */ ;;\r\n # d\r\n; SELECT ';' ; -- e")
    assert [(s.text, s.number, s.line, s.column) for s in script.statements] == [
        ("SELECT 1 -- b ;\n , 2", 1, 3, 3),
        ("SELECT ';'", 2, 6, 3),
    ]


@pytest.mark.parametrize(
    ("text", "verb", "schema", "table", "writes"),
    [
        ("insert into Bi_Metrics values (1)", "INSERT", None, "Bi_Metrics", True),
        ("INSERT LOW_PRIORITY IGNORE game . `bi_metrics` SET a = 1", "INSERT", "game", "bi_metrics", True),
        ("/*!80000 REPLACE */ /* x */ bi_metrics VALUES (1)", "REPLACE", None, "bi_metrics", True),
        ("INSERT /*+ NO_MERGE(d) */ INTO t SELECT * FROM bi_metrics", "INSERT", None, "t", False),
        ("UPDATE bi_metrics SET a = 1", "UPDATE", None, "bi_metrics", True),
        ("DELETE FROM bi_metrics", "DELETE", None, "bi_metrics", False),
        ("DELETE h FROM game.helper AS h", "DELETE", "game", "helper", False),
        ("WITH a AS (SELECT 1) UPDATE t SET b = 1", "WITH", None, "t", False),
        ("WITH a AS (SELECT 1) SELECT REPLACE(a, 1, 2)", "WITH", None, None, False),
        ("SET STATEMENT a = 1 FOR INSERT INTO bi_metrics SELECT 1", "SET", None, "bi_metrics", True),
        ("(SELECT 1)", "SELECT", None, None, False),
        ("INSERT", "INSERT", None, None, False),
        ("DELETE a FROM", "DELETE", None, "a", False),
    ],
)
def test_a_statement_knows_the_table_it_writes(
    text: str, verb: str, schema: str | None, table: str | None, writes: bool
) -> None:
    (statement,) = parse(text).statements
    assert (statement.verb, statement.schema, statement.table, statement.writes_metrics) == (
        verb,
        schema,
        table,
        writes,
    )


def test_the_header_is_what_stands_above_the_code() -> None:
    script = parse(
        "# title\r\n-- metric: a\r\n--  Description : b: c\r\n-- Owner: d\n\n-- Data Type: card\n-- Empty: ok\n"
        "--   Check:  SELECT %(a)s, ';' ; \n-- Check: SELECT 2\n-- Allow: e, f\n-- Allow: g\n"
        "SELECT %(b)s; -- Metric: z\n"
    )
    checks = (Check("SELECT %(a)s, ';'", 8, 14), Check("SELECT 2", 9, 11))
    assert script.header == Header("a", "b: c", "card", True, checks, frozenset("efg"))
    assert script.parameters == {"a", "b"}


def test_a_text_of_comments_and_hints_alone_has_no_statement() -> None:
    assert parse("/* a */; /*+ b */ ; -- c\n;").statements == ()


def test_a_file_without_header_has_an_empty_one() -> None:
    assert parse("SELECT 1; -- Metric: z").header == Header(None, None, None, False, (), frozenset())


def test_binding_fills_code_and_leaves_comments_and_other_percents() -> None:
    text = "SELECT %(d)s, '100%%', a %% 2, LIKE 'a%', DATE_FORMAT(b, '%Y-%m') -- %(d)s %%\n/* 5% %(x)s */ /*! %(d)s */"
    (statement,) = parse(text).statements
    assert bind(statement, {"d": literal(datetime.date(2025, 1, 15))}) == (
        "SELECT '2025-01-15', '100%', a % 2, LIKE 'a%', DATE_FORMAT(b, '%Y-%m') -- %(d)s %%\n"
        "/* 5% %(x)s */ /*! '2025-01-15' */"
    )


def test_binding_takes_percents_from_left_to_right() -> None:
    (statement,) = parse("SELECT %%(d)s, %%%(d)s, '%%%'").statements
    assert bind(statement, {"d": "1"}) == "SELECT %(d)s, %1, '%%'"


def test_a_check_is_bound_like_a_statement() -> None:
    assert bind(Check("SELECT %(d)s, '5%%'", 1, 1), {"d": "'x'"}) == "SELECT 'x', '5%'"


def test_a_name_without_a_value_is_named() -> None:
    with pytest.raises(MetricsError, match=r"no value for %\(d\)s"):
        bind(parse("SELECT %(d)s").statements[0], {})


def test_a_literal_escapes_what_could_end_it() -> None:
    assert literal("a'b\"c\\d\0e\nf\rg\x1ah") == r"""'a\'b\"c\\d\0e\nf\rg\Zh'"""


def test_the_fingerprint_sees_code_only() -> None:
    first = parse("-- a\nSELECT 'a b' , x;\nSELECT 2")
    same = parse("SELECT   'a b',x /* c */ ;\r\n;SELECT 2; -- d")
    assert first.fingerprint == same.fingerprint
    assert len(first.fingerprint) == 16
    assert parse("SELECT 'a\r\nb'").fingerprint == parse("SELECT 'a\nb'").fingerprint
    others = ["SELECT 'a  b', x; SELECT 2", "SELECT 'a b', X; SELECT 2", "SELECT 'a b', x; SELECT 3"]
    assert len({first.fingerprint, *(parse(text).fingerprint for text in others)}) == 4


def test_places_count_characters_and_end_lines_at_newlines() -> None:
    assert place("é\r\n\u2028ab", 0) == (1, 1)
    assert place("é\r\n\u2028ab", 5) == (2, 3)


def everything(script: Script) -> None:
    """Compute all that a script computes on demand."""
    assert isinstance(script.parameters, frozenset)
    assert script.fingerprint
    assert all(statement.code and statement.table != " " for statement in script.statements)


@pytest.mark.parametrize(
    "piece",
    [*PIECES, "'\\", "''\\", "a;", "DELETE a FROM a ", "WITH a ", "-- Check: \n", "%(", "/*!*/", "-- Metric:   "],
)
def test_a_text_ten_times_as_long_takes_about_ten_times_as_long(piece: str) -> None:
    def seconds(size: int) -> float:
        text = piece * (size // len(piece)) + "x"
        started = time.process_time()
        everything(parse(text))
        return time.process_time() - started

    # Quadratic work would take a hundred times as long; the constant covers the noise of short times.
    assert seconds(200_000) < 40 * min(seconds(20_000) for _ in range(3)) + 0.2
