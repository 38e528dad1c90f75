"""Every rule on a file that breaks it and on files that look as if they did."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.sql_checks import Problem, check_catalog
from src.sql_loader import load_catalog
from src.sql_rules import RULES

HEADER = "-- Metric: x\n-- Description: what it means\n-- Data Type: card\n"
UPSERT = (
    "INSERT INTO bi_metrics (metrics, value_list, metric_date)\n"
    "SELECT 'x', JSON_OBJECT('n', COUNT(*)), %(metric_date)s FROM users ON DUPLICATE KEY UPDATE value_list = d.v;\n"
)
Found = list[tuple[str, int, int]]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))


def problems(folder: Path, files: dict[str, str]) -> list[Problem]:
    write(folder, files)
    catalog = load_catalog(folder)
    return check_catalog(catalog, catalog.files, ["cutoff_date"])


def found(folder: Path, text: str, file: str = "incremental/01_x.sql") -> Found:
    return [(problem.rule, problem.line, problem.column) for problem in problems(folder, {file: text})]


def broken(statement: str) -> str:
    """A good file with one more statement, on line 7 after blank lines and comments that hold quotes and a ;"""
    return f"{HEADER}\n/* it's ; */ # it's\r\n-- don't ;\n{statement};\n{UPSERT}"


IN_STATEMENTS: list[tuple[str, str, int]] = [
    # rule, statement (its first line is line 7), column
    ("unterminated", 'SELECT "it\\"s', 8),
    ("unterminated", "SELECT `abc", 8),
    ("unterminated", "SELECT 1 /* abc", 10),
    ("unterminated", "SELECT 1 /*!80000 + 1", 10),
    ("unknown-parameter", "SET @d = %(metrc_date)s", 10),
    ("unknown-parameter", "SET @d = /* %(metric_date)s */ %(start_date)s", 32),
    ("quoted-parameter", "SET @d = '%(metric_date)s'", 11),
    ("quoted-parameter", "SET @d = '100%%, %(metrc_date)s'", 18),
    ("not-idempotent", "INSERT INTO bi_metrics (metrics) VALUES ('x')", 1),
    ("not-idempotent", "INSERT INTO game.`bi_metrics` (metrics) SELECT 'x'", 1),
    ("not-idempotent", "REPLACE INTO bi_metrics (metrics) VALUES ('x')", 1),
    ("not-idempotent", "INSERT IGNORE INTO bi_metrics (metrics) VALUES ('x')", 8),
    ("implicit-commit", "CREATE TABLE t (a INT)", 1),
    ("implicit-commit", "CREATE TABLE IF NOT EXISTS t (a INT)", 1),
    ("implicit-commit", "/* x */ DROP TABLE t", 9),
    ("implicit-commit", "/*!50000 DROP */ TABLE t", 10),
    ("implicit-commit", "DROP TABLE IF EXISTS t", 1),
    ("implicit-commit", "ALTER TABLE t ADD COLUMN b INT", 1),
    ("implicit-commit", "CREATE INDEX i ON t (a)", 1),
    ("implicit-commit", "CREATE OR REPLACE VIEW v AS SELECT 1", 1),
    ("implicit-commit", "CREATE DATABASE d", 1),
    ("implicit-commit", "CREATE USER u", 1),
    ("implicit-commit", "CREATE PROCEDURE p() SELECT 1", 1),
    ("implicit-commit", "TRUNCATE t", 1),
    ("implicit-commit", "RENAME TABLE a TO b", 1),
    ("implicit-commit", "GRANT SELECT ON t TO u", 1),
    ("implicit-commit", "REVOKE SELECT ON t FROM u", 1),
    ("implicit-commit", "ANALYZE TABLE t", 1),
    ("implicit-commit", "analyze local table t", 1),
    ("implicit-commit", "OPTIMIZE TABLE t", 1),
    ("implicit-commit", "CHECK TABLE t", 1),
    ("implicit-commit", "REPAIR TABLE t", 1),
    ("implicit-commit", "FLUSH TABLES", 1),
    ("implicit-commit", "CACHE INDEX t IN c", 1),
    ("implicit-commit", "LOAD INDEX INTO CACHE t", 1),
    ("implicit-commit", "SET PASSWORD = 'a'", 1),
    ("implicit-commit", "START SLAVE", 1),
    ("transaction-control", "START TRANSACTION", 1),
    ("transaction-control", "begin", 1),
    ("transaction-control", "COMMIT AND CHAIN", 1),
    ("transaction-control", "ROLLBACK TO SAVEPOINT a", 1),
    ("transaction-control", "SAVEPOINT a", 1),
    ("transaction-control", "RELEASE SAVEPOINT a", 1),
    ("transaction-control", "XA START 'a'", 1),
    ("transaction-control", "SET autocommit = 1", 5),
    ("transaction-control", "SET @a = 1, autocommit = 1", 13),
    ("transaction-control", "SET @@autocommit = 1", 5),
    ("transaction-control", "SET @@session.autocommit = 1", 5),
    ("transaction-control", "SET @@`autocommit` = 1", 5),
    ("transaction-control", "SET SESSION `autocommit` = 1", 5),
    ("transaction-control", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", 5),
    ("transaction-control", "SET SESSION TRANSACTION READ ONLY", 5),
    ("transaction-control", "LOCK TABLES t WRITE", 1),
    ("transaction-control", "UNLOCK TABLES", 1),
    ("client-command", "DELIMITER //", 1),
    ("client-command", "source other.sql", 1),
    ("client-command", "SELECT 1 \\G", 10),
    ("client-command", "\\. other.sql", 1),
    ("changes-session", "USE game", 1),
    ("changes-session", "SET NAMES latin1", 5),
    ("changes-session", "SET CHARACTER SET latin1", 5),
    ("changes-session", "SET GLOBAL max_connections = 1", 5),
    ("changes-session", "SET SESSION sql_mode = ''", 5),
    ("changes-session", "SET LOCAL sql_mode = ''", 5),
    ("changes-session", "SET @@sql_mode = ''", 5),
    ("changes-session", "SET @a := (SELECT 1, 2), foreign_key_checks = ON", 26),
    ("changes-session", "SET unique_checks = ON, @a = 1", 5),
    ("compound-statement", "IF 1 THEN SELECT 1", 1),
    ("reads-the-clock", "SET @d = CURDATE()", 10),
    ("reads-the-clock", "SELECT CURRENT_DATE", 8),
    ("reads-the-clock", "SELECT UUID(), 1", 8),
    ("reads-the-clock", "SELECT UNIX_TIMESTAMP()", 8),
    ("reads-the-clock", "DELETE FROM t WHERE created_at < NOW()", 34),
    ("reads-the-clock", "SELECT NOW() - INTERVAL 1 DAY", 8),
    ("reads-the-clock", "SELECT 1 FROM t WHERE updated_at = NOW()", 36),
    ("reads-the-clock", "SELECT 1 FROM t WHERE d BETWEEN 1 AND CURRENT_TIMESTAMP", 39),
    ("reads-the-clock", "UPDATE t SET updated_at = NOW(), day = NOW()", 40),
    ("function-on-column", "SELECT 1 FROM t WHERE DATE(played_at) = %(metric_date)s", 23),
    ("function-on-column", "SELECT 1 FROM t WHERE a = 1 AND DATE( p.`played_at` ) BETWEEN %(metric_date)s AND 2", 33),
    ("function-on-column", "SELECT 1 FROM t WHERE %(metric_date)s = DATE(played_at)", 41),
    ("function-on-column", "SELECT 1 FROM t WHERE CAST(played_at AS DATE) >= '2025-01-01'", 23),
    ("function-on-column", "SELECT 1 FROM t WHERE DATE_FORMAT(played_at, '%Y') = YEAR(%(metric_date)s)", 23),
    ("function-on-column", "SELECT 1 FROM t JOIN u ON DATE(u.at) <= @d", 27),
    ("helper-not-idempotent", "INSERT INTO helper SELECT 1", 1),
    ("float-from-json", "SELECT JSON_EXTRACT(v, '$.r') + 1 FROM b", 8),
    ("float-from-json", "SELECT 1 + COALESCE(JSON_UNQUOTE(JSON_EXTRACT(v, '$.r')), 0) FROM b", 34),
    ("float-from-json", "SELECT SUM(JSON_VALUE(v, '$.r')) FROM b", 12),
    ("float-from-json", "SELECT (SELECT JSON_VALUE(v, '$.r') FROM b) - 1", 16),
    ("name-mismatch", UPSERT.replace("'x'", "'y'").rstrip(";\n").replace("\n", " "), 66),
]


@pytest.mark.parametrize(("rule", "statement", "column"), IN_STATEMENTS)
def test_a_faulty_statement_is_found_at_its_line_and_column(
    rule: str, statement: str, column: int, tmp_path: Path
) -> None:
    first = found(tmp_path, broken(statement))[0]
    assert first == (rule, 7, column)


FINE = [
    "SELECT 'it''s; -- no', \"a\\\"b;\", `a``;b`, 1 */*all*/ 2, 1--1",
    "/*!80000 SELECT 1 */ # don't",
    "SELECT 1 FROM t WHERE a LIKE '5%' OR a LIKE '%(draft)s' -- 100 % of %(unknown)s",
    "SELECT REPLACE(a, 'b', 'c'), t.begin, `commit`, TRUNCATE(1.5, 1) FROM t",
    "CREATE TEMPORARY TABLE a AS SELECT 1",
    "CREATE /*!40000 TEMPORARY */ TABLE a (updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP)",
    "CREATE OR REPLACE TEMPORARY TABLE a (b INT)",
    "DROP TEMPORARY TABLE IF EXISTS a",
    "DROP PREPARE p",
    "ANALYZE SELECT 1",
    "WITH a AS (SELECT 1) SELECT * FROM a",
    "SET @autocommit := 1, @now = 2, @`sql_mode` = (SELECT a FROM b), @names = 3",
    "SET STATEMENT max_statement_time = 1 FOR SELECT 1",
    "SELECT @@autocommit, \\N",
    "INSERT INTO helper SELECT 1 ON DUPLICATE KEY UPDATE a = 1",
    "INSERT IGNORE INTO helper VALUES (1)",
    "REPLACE INTO helper VALUES (1)",
    "INSERT INTO helper SELECT 1 FROM a WHERE NOT EXISTS (SELECT 1 FROM helper)",
    "DELETE FROM helper; INSERT INTO helper SELECT 1",
    "DELETE h FROM game.helper AS h WHERE a = 1; INSERT INTO `Helper` SELECT 1",
    "CREATE TEMPORARY TABLE IF NOT EXISTS game.a (b INT); INSERT INTO a SELECT 1",
    "INSERT INTO helper (a, created_at) SELECT 1, NOW() FROM b ON DUPLICATE KEY UPDATE updated_at = NOW(), a = 1",
    "UPDATE t SET updated_at = CURRENT_TIMESTAMP, created_at = NOW(6) WHERE a = 1",
    "SELECT NOW() AS created_at, CURRENT_TIMESTAMP updated_at, UNIX_TIMESTAMP(played_at), t.current_date FROM t",
    "SELECT a.uuid, rand FROM t a",
    "SELECT DATE(played_at), DATE(played_at) = %(metric_date)s FROM t GROUP BY DATE(played_at)",
    "SELECT 1 FROM t WHERE a = DATE(%(metric_date)s) AND b < DATE_FORMAT(%(metric_date)s, '%Y-%m-01')",
    "SELECT 1 FROM t JOIN u ON DATE(t.a) = u.b WHERE DATE(t.a) = DATE(u.b + INTERVAL 1 DAY)",
    "SELECT 1 FROM t WHERE CAST(a AS CHAR) = '1'",
    "SELECT CAST(JSON_UNQUOTE(JSON_EXTRACT(v, '$.r')) AS DECIMAL(20,2)) + 1, JSON_EXTRACT(v, '$.r') FROM b",
    "SELECT 1 + JSON_VALUE(v, '$.r' RETURNING DECIMAL(20,2)), CAST(COALESCE(JSON_VALUE(v, '$.n'), 0) AS UNSIGNED) + 1",
    "INSERT INTO bi_metrics SET metrics = 'x', metric_date = %(metric_date)s ON DUPLICATE KEY UPDATE value_list = 1",
    "INSERT INTO bi_metrics (metrics) SELECT d.name FROM (SELECT 'x' AS name) d ON DUPLICATE KEY UPDATE value_list = 1",
    "WITH a AS (SELECT 1) UPDATE bi_metrics SET value_list = 1",
    "CALL something()",
    "",
]


@pytest.mark.parametrize("statement", FINE)
def test_a_legitimate_statement_raises_no_alarm(statement: str, tmp_path: Path) -> None:
    assert found(tmp_path, broken(statement)) == []


WHOLE_FILES: list[tuple[str, str, Found]] = [
    # file, text, problems
    ("incremental/x.sql", f"{HEADER}\n-- nothing; here\n;;", [("empty-file", 1, 1)]),
    ("incremental/x.sql", f"{HEADER}{UPSERT}\n-- it's\nSELECT 1, 'abc;", [("unterminated", 8, 11)]),
    ("incremental/x.sql", f"{HEADER}\n-- caf\udce9\n\n{UPSERT}", [("not-utf8", 5, 7)]),
    ("incremental/x.sql", f"\n{UPSERT}", [("no-header", 1, 1)]),
    ("incremental/x.sql", f"-- Metric: x\n{UPSERT}", [("no-header", 1, 1)]),
    ("incremental/x.sql", HEADER.replace("card", " pie") + UPSERT, [("unknown-data-type", 3, 16)]),
    ("incremental/x.sql", HEADER + UPSERT.replace("%(metric_date)s", "1"), [("missing-metric-date", 4, 1)]),
    ("initial/x.sql", HEADER + UPSERT.replace("metric_date)", "dates)"), []),
    ("initial/x.sql", HEADER + UPSERT.replace("metric_date)", "start_date)"), []),
    ("x.sql", HEADER + UPSERT.replace("metric_date)", "dates)"), [("unknown-parameter", 5, 41)]),
    ("x.sql", HEADER + UPSERT.replace("COUNT(*)", "%(cutoff_date)s"), []),
    ("x.sql", HEADER + UPSERT.replace("%(metric", "%(metrc"), [("unknown-parameter", 5, 41)]),
    ("x.sql", f"{HEADER}-- Check:  SELECT 1 FROM t WHERE a > %(metric_date)s;\n{UPSERT}", []),
    ("x.sql", f"{HEADER}\n--\n-- Check:  SELECT %(metrc_date)s\n{UPSERT}", [("unknown-parameter", 6, 19)]),
    ("x.sql", f"{HEADER}-- Check:  SELECT 1, 'a\n{UPSERT}", [("unterminated", 4, 22)]),
    ("x.sql", f"{HEADER}-- Check: DELETE FROM t\n{UPSERT}", [("bad-check", 4, 11)]),
    ("x.sql", f"{HEADER}-- Check: SELECT 1; SELECT 2\n{UPSERT}", [("bad-check", 4, 11)]),
    ("x.sql", f"{HEADER}-- Check:\n{UPSERT}", [("bad-check", 4, 10)]),
    ("x.sql", f"{HEADER}-- Allow: reads-the-clock\nSELECT CURDATE();{UPSERT}", []),
    ("x.sql", f"{HEADER}-- Allow: not-utf8, nonsense\n{UPSERT}", [("unknown-rule", 4, 11), ("unknown-rule", 4, 11)]),
    ("x.sql", "-- Metric: h\n-- Description: fills a helper\nREPLACE INTO helper SELECT 1", []),
    ("x.sql", "\ufeff" + HEADER + UPSERT.replace("\n", "\r\n"), []),
]


@pytest.mark.parametrize(("file", "text", "expected"), WHOLE_FILES)
def test_a_whole_file_has_these_problems(file: str, text: str, expected: Found, tmp_path: Path) -> None:
    assert found(tmp_path, text, file) == expected


def test_allow_never_silences_an_error(tmp_path: Path) -> None:
    text = f"{HEADER}-- Allow: implicit-commit\nDROP TABLE t;\n{UPSERT}"
    assert ("implicit-commit", 5, 1) in found(tmp_path, text)


def test_a_metric_twice_in_one_mode_names_both_files(tmp_path: Path) -> None:
    text = HEADER + UPSERT
    upper = text.replace("'x'", "'X'")
    first, second = problems(tmp_path, {"incremental/01_x.sql": text, "X.sql": upper, "_x.sql": text, "01_y.txt": ""})
    assert (first.file, first.rule) == ("sql/X.sql", "duplicate-metric")
    assert "sql/incremental/01_x.sql" in first.message
    assert (second.file, second.rule) == ("sql/incremental/01_x.sql", "duplicate-metric")


def test_a_disabled_file_and_the_other_mode_are_no_duplicates(tmp_path: Path) -> None:
    text = HEADER + UPSERT
    files = {"incremental/01_x.sql": text, "initial/x.sql": text, "incremental/_01_x.sql": text}
    assert problems(tmp_path, files) == []


@pytest.mark.parametrize(("twin", "severity"), [("initial/02_x.sql", "error"), ("initial/02_z.sql", "warning")])
def test_a_wrong_name_is_an_error_where_the_metric_has_both_files(twin: str, severity: str, tmp_path: Path) -> None:
    good = HEADER + UPSERT.replace("'x'", "'z'" if "z" in twin else "'x'")
    wrong = HEADER + UPSERT.replace("'x'", "'y'")
    (problem,) = problems(tmp_path, {twin: good, "incremental/01_x.sql": wrong})
    assert (problem.rule, problem.severity, problem.line, problem.column) == ("name-mismatch", severity, 5, 8)


MESSAGES = [
    ("SELECT %(metrc_date)s", "unknown parameter %(metrc_date)s; did you mean %(metric_date)s?"),
    ("SELECT %(CUTOFF_DATE)s", "did you mean %(cutoff_date)s?"),
    ("SELECT %(zzz)s", "there is %(cutoff_date)s, %(metric_date)s; METRIC_PARAM_ZZZ in .env adds it"),
    ("SELECT %(dates)s", "only files in sql/initial have %(dates)s"),
    (
        "SELECT 1 FROM t WHERE DATE(p.played_at) = %(metric_date)s",
        "write p.played_at >= %(metric_date)s AND p.played_at < %(metric_date)s + INTERVAL 1 DAY",
    ),
    ("SELECT 1 FROM t WHERE DATE(a) <= @d", "write a < @d + INTERVAL 1 DAY"),
    ("SELECT 1 FROM t WHERE @d <= DATE(a)", "write a >= @d"),
]


@pytest.mark.parametrize(("statement", "message"), MESSAGES)
def test_a_message_shows_the_repair(statement: str, message: str, tmp_path: Path) -> None:
    assert message in problems(tmp_path, {"x.sql": broken(statement)})[0].message


def test_a_problem_is_one_safe_line() -> None:
    problem = Problem("sql/a\x1b.sql", 3, 9, "error", "unterminated", "a\nb\udc80")
    assert str(problem) == r"sql/a\x1b.sql:3:9: error: unterminated: a\nb\udc80"


def test_problems_are_sorted_by_file_line_and_column(tmp_path: Path) -> None:
    bad = HEADER + "SELECT %(a)s, %(b)s;\nCOMMIT;" + UPSERT
    result = problems(tmp_path, {"b.sql": bad.replace("'x'", "'b'"), "a.sql": bad.replace("'x'", "'a'")})
    places = [(problem.file, problem.line, problem.column) for problem in result]
    assert places == sorted(places)
    assert len(places) == 6


def test_every_rule_has_a_failing_file_here() -> None:
    broken_here = {rule for rule, _, _ in IN_STATEMENTS} | {rule for _, _, list_ in WHOLE_FILES for rule, _, _ in list_}
    assert set(RULES) - broken_here == {"duplicate-metric"}


def test_every_rule_says_why_and_how_to_repair() -> None:
    assert all(rule.why.endswith(".") and rule.repair.endswith(".") for rule in RULES.values())
