"""Reading MySQL text: nothing lost, nothing misread, and no text that makes it slow."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import MetricsError
from src.metric_file.file import parse
from src.metric_file.header import HeaderLine
from src.metric_file.text import Statement, Token, bind, literal, outermost, place, read, unquoted

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


def text_of(statement: Statement) -> str:
    return "".join(token.text for token in statement.tokens)


def only(text: str) -> Statement:
    (statement,) = parse(text).statements
    return statement


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
        assert "\n".join(lines)[statement.column - 1 :].startswith(text_of(statement))
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
        ("@x:=@@a.b<=>1", ["variable @x", "operator :=", "setting @@a.b", "operator <=>", "word 1"]),
        ("%%%(a)s%(b c)s", ["percent %%", "parameter %(a)s", "operator %", "operator (", "word b", "word c"]),
    ],
)
def test_text_is_cut_as_the_server_cuts_it(text: str, expected: list[str]) -> None:
    assert [f"{kind} {part}" for kind, part in kinds(text)][: len(expected)] == expected


def test_statements_lose_the_comments_around_them_and_keep_those_within() -> None:
    script = parse("-- a ;\n\n  SELECT 1 -- b ;\n , 2 /* c */ ;;\r\n # d\r\n; SELECT ';' ; -- e")
    assert [(text_of(s), s.number, s.line, s.column) for s in script.statements] == [
        ("SELECT 1 -- b ;\n , 2", 1, 3, 3),
        ("SELECT ';'", 2, 6, 3),
    ]


@pytest.mark.parametrize(
    ("text", "verb", "target", "writes_metrics"),
    [
        ("insert into Bi_Metrics values (1)", "INSERT", ("", "Bi_Metrics"), True),
        ("INSERT bi_metrics SET a = 1", "INSERT", ("", "bi_metrics"), True),
        ("INSERT LOW_PRIORITY IGNORE game . `bi_metrics` SET a = 1", "INSERT", ("game", "bi_metrics"), True),
        ("/*!80000 INSERT */ /* x */ INTO bi_metrics VALUES (1)", "INSERT", ("", "bi_metrics"), True),
        ("INSERT /*+ NO_MERGE(d) */ INTO t SELECT * FROM bi_metrics", "INSERT", ("", "t"), False),
        ("REPLACE DELAYED bi_metrics VALUES (1)", "REPLACE", ("", "bi_metrics"), False),
        ("UPDATE LOW_PRIORITY IGNORE bi_metrics SET a = 1", "UPDATE", ("", "bi_metrics"), False),
        ("DELETE FROM bi_metrics", "DELETE", ("", "bi_metrics"), False),
        ("DELETE QUICK h FROM game.helper AS h", "DELETE", ("game", "helper"), False),
        ("WITH a AS (SELECT 1) UPDATE t SET b = 1", "UPDATE", ("", "t"), False),
        ("WITH RECURSIVE a (n) AS (SELECT 1), b AS (DELETE 1) SELECT REPLACE(a, 1, 2)", "SELECT", None, False),
        ("WITH a AS (SELECT 1) DELETE FROM `t``x`", "DELETE", ("", "t`x"), False),
        ("((SELECT 1) UNION (SELECT 2))", "SELECT", None, False),
        ("SELECT 1 INTO @a", "SELECT", None, False),
        ("SET @a = (SELECT 1)", "SET", None, False),
        ("(((", "(", None, False),
        ("WITH", "WITH", None, False),
        ("INSERT", "INSERT", None, False),
        ("INSERT INTO 'x'", "INSERT", None, False),
        ("DELETE a FROM", "DELETE", None, False),
        ("UPDATE a.", "UPDATE", ("", "a"), False),
        ("\\G", "\\", None, False),
    ],
)
def test_a_statement_knows_its_main_verb_and_the_table_it_writes(
    text: str, verb: str, target: tuple[str, str] | None, writes_metrics: bool
) -> None:
    statement = only(text)
    assert (statement.verb, statement.target, statement.writes_metrics) == (verb, target, writes_metrics)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CREATE TEMPORARY TABLE a (b INT)", "a"),
        ("create temporary table if not exists `game` . `a``b` SELECT 1", "a`b"),
        ("CREATE OR REPLACE TEMPORARY TABLE a LIKE b", "a"),
        ("CREATE /*!40000 TEMPORARY */ TABLE /* x */ a (b INT)", "a"),
        ("CREATE TABLE a (temporary INT)", None),
        ("CREATE TEMPORARY SEQUENCE a", None),
        ("DROP TEMPORARY TABLE a", None),
        ("CREATE TEMPORARY TABLE", None),
    ],
)
def test_a_statement_knows_the_temporary_table_it_creates(text: str, name: str | None) -> None:
    assert only(text).temporary_table == name


def test_words_that_stand_in_no_parentheses_are_found() -> None:
    words = ("a", "(", "b", "(", "c", ")", ")", "d", ")", "e")
    assert [words[i] for i in outermost(words)] == ["a", "d", "e"]


@pytest.mark.parametrize(
    ("kind", "text", "meant"),
    [
        ("word", "users", "users"),
        ("name", "`a``b`", "a`b"),
        ("string", "'it''s'", "it's"),
        ("string", '"a""b' + r"\'" + 'c"', "a\"b'c"),
        ("string", r"'a\'b\\c\nd\%e\qf\0'", "a'b\\c\nd\\%eqf\0"),
    ],
)
def test_quotes_are_taken_off_as_the_server_does(kind: str, text: str, meant: str) -> None:
    assert unquoted(Token(kind, text, 0)) == meant


def test_a_name_is_the_same_in_any_case_and_with_or_without_its_quotes() -> None:
    assert [token.name for token in read("Users`Us``ers`'users'@users(") if token.name] == ["users", "us`ers"]


@pytest.mark.parametrize(
    ("text", "is_query"),
    [("(SELECT 1)", True), ("SELECT 1 INTO @a", False), ("SET @a = (SELECT 1)", False), ("SELECT 'INTO'", True)],
)
def test_a_query_is_a_select_that_returns_rows(text: str, is_query: bool) -> None:
    assert only(text).is_query == is_query


@given(st.text())
def test_a_literal_without_its_quotes_is_the_value(value: str) -> None:
    assert unquoted(Token("string", literal(value), 0)) == value


def test_the_header_is_what_stands_above_the_code() -> None:
    script = parse(
        "# title\r\n-- metric: a\r\n--  Description : b: c\r\n-- Owner: d\n\n-- Data Type: card\n-- Empty: ok\n"
        "--   Check:  SELECT %(a)s, ';' ; \n-- Check: SELECT 2\n-- Reads: a ,b\n-- Allow: e, f\n-- Allow: g,\n"
        "--Empty: no\nSELECT %(b)s; -- Metric: z\n"
    )
    assert script.header[:2] == (HeaderLine("metric", "a", 2, 12), HeaderLine("description", "b: c", 3, 19))
    assert [script.header_value(key) for key in ("metric", "description", "data type", "empty")] == [
        "a", "b: c", "card", "ok",
    ]  # fmt: skip
    assert [(check.value, check.line, check.column) for check in script.checks] == [
        ("SELECT %(a)s, ';' ;", 8, 14), ("SELECT 2", 9, 11),
    ]  # fmt: skip
    assert script.header_list("reads") == ("a", "b")
    assert script.header_list("allow") == ("e", "f", "g")
    assert script.parameters == {"b"}


def test_a_text_of_comments_and_hints_alone_has_no_statement() -> None:
    assert parse("/* a */; /*+ b */ ; -- c\n;").statements == ()


def test_a_file_without_header_has_an_empty_one() -> None:
    assert parse("SELECT 1; -- Metric: z").header == ()


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
    assert bind(HeaderLine("check", "SELECT %(d)s, '5%%' ; ", 1, 1).statement, {"d": "'x'"}) == "SELECT 'x', '5%'"


def test_a_name_without_a_value_is_named() -> None:
    with pytest.raises(MetricsError, match=r"no value for %\(d\)s"):
        bind(parse("SELECT %(d)s").statements[0], {})


def test_a_literal_escapes_what_could_end_it() -> None:
    assert literal("a'b\"c\\d\0e\nf\rg\x1ah") == r"""'a\'b\"c\\d\0e\nf\rg\Zh'"""


def test_places_count_characters_and_end_lines_at_newlines() -> None:
    assert place("é\r\n\u2028ab", 0) == (1, 1)
    assert place("é\r\n\u2028ab", 5) == (2, 3)
