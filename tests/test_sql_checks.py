"""Every rule on files that break it, and on files that look as if they did."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from src.metric_file.checks import RULES, Problem, _Rules, check_catalog, placement_problems
from src.metric_file.parameters import DATE_PARAMETERS, Parameters
from src.sql_loader import load_catalog

HEADER = "-- Metric: x\n-- Description: what it means\n-- Data Type: card\n"
UPSERT = (
    "INSERT INTO bi_metrics (metrics, value_list, metric_date)\n"
    "SELECT 'x', JSON_OBJECT('n', COUNT(*)), %(metric_date)s FROM users ON DUPLICATE KEY UPDATE value_list = d.v;\n"
)
SET_BASED = UPSERT.replace("(metric_date)s FROM users", "(start_date)s FROM bi_metrics d WHERE d.metrics = 'a'")
QUERY = "SELECT COUNT(*) AS n FROM users WHERE created_at < %(day_end_utc)s\n"
TOTAL = "SELECT %(metric_date)s AS d, value_list FROM bi_metrics WHERE metrics = 'x'"  # built on its own rows
Found = list[tuple[str, int, int]]


def problems(folder: Path, files: dict[str, str], stored: Collection[str] | None = None) -> list[Problem]:
    """Write files below sql/ and return what is wrong with them; `stored` are the metrics that have rows."""
    for name, text in files.items():
        path = folder / "sql" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    catalog = load_catalog(folder / "sql")
    catalog = replace(catalog, stored=None if stored is None else frozenset(stored))
    return check_catalog(catalog, catalog.files, ["cutoff_date"], "game")


def found(folder: Path, text: str, file: str = "01_x.sql") -> Found:
    return [(problem.rule, problem.line, problem.column) for problem in problems(folder, {file: text})]


def around(statement: str) -> str:
    """A good file with one more statement, on line 7 after blank lines and comments that hold quotes and a ;"""
    return f"{HEADER}\n/* it's ; */ # it's\r\n-- don't ;\n{statement};\n{UPSERT}"


IN_STATEMENTS: list[tuple[str, str, int]] = [
    # rule, statement (its first line is line 7), column
    ("unterminated", 'SELECT "it\\"s', 8),
    ("unterminated", "SELECT `abc", 8),
    ("unterminated", "SELECT 1 /* abc", 10),
    ("unterminated", "SELECT 1 /*!80000 + 1", 10),
    ("unknown-parameter", "SET @d = %(metrc_date)s", 10),
    ("unknown-parameter", "SET @d = /* %(zzz)s */ %(zzz)s", 24),
    ("quoted-parameter", "SET @d = '%(metric_date)s'", 11),
    ("quoted-parameter", "SET @d = '100%%, %(metrc_date)s'", 18),
    ("quoted-parameter", "SELECT `%%%(dates)s`", 11),
    ("unset-variable", "SELECT @a", 8),
    ("unset-variable", "SET @a = 1, @b = @c + @a", 18),
    ("unset-variable", "SELECT 1 INTO @a; SELECT @A, @b", 30),
    ("unset-variable", "SELECT @a = 1", 8),
    ("unset-variable", "SET @a = 1, @b = @a", 18),
    ("unset-variable", "SET @a := 1, @b := IF(@A > 0, 1, 2)", 23),
    ("unset-variable", "SET @a = @a + 1", 10),
    ("unset-variable", "SET @b = @a, @a = 1", 10),
    ("reads-the-clock", "SET @d = CURDATE()", 10),
    ("reads-the-clock", "SET @d := DATE(DATE_SUB(NOW(), INTERVAL 1 DAY))", 25),
    ("reads-the-clock", "SET @d := NOW()", 11),
    ("reads-the-clock", "SET @updated_at = NOW()", 19),
    ("reads-the-clock", "SET @d = (SELECT CURDATE())", 18),
    ("reads-the-clock", "SELECT CURRENT_DATE INTO @d", 8),
    ("reads-the-clock", "SELECT 1, DATE(NOW()) AS d FROM t", 16),
    ("reads-the-clock", "SELECT COALESCE(a, NOW(), b), 1 FROM t", 20),
    ("reads-the-clock", "SELECT UNIX_TIMESTAMP() - 1, 2", 8),
    ("reads-the-clock", "SELECT 1, RAND() * 2, UUID()", 11),
    ("reads-the-clock", "SELECT 1, NOW() - INTERVAL 1 DAY", 11),
    ("reads-the-clock", "DELETE FROM t WHERE created_at < NOW()", 34),
    ("reads-the-clock", "SELECT 1 FROM t WHERE updated_at = NOW()", 36),
    ("reads-the-clock", "SELECT 1 FROM t WHERE day IN (1, CURDATE())", 34),
    ("reads-the-clock", "SELECT 1 FROM t WHERE d BETWEEN 1 AND CURRENT_TIMESTAMP", 39),
    ("reads-the-clock", "UPDATE t SET t.updated_at = NOW(6), day = LOCALTIME", 43),
]
IN_STATEMENTS += [
    ("comment-needs-blank", "--Step 1", 1),
    ("comment-needs-blank", "-----------", 1),
    ("comment-needs-blank", "--1. The source", 1),
    ("comment-needs-blank", "--\N{NO-BREAK SPACE}The source", 1),
    ("comment-needs-blank", "SET @a = 1;--The source", 12),
    ("between-midnight", "DO (SELECT 1 FROM t WHERE a BETWEEN %(dates)s AND %(metric_date)s + INTERVAL 1 DAY)", 29),
    ("between-midnight", "DELETE FROM h WHERE at between @d AND DATE_ADD(@d, interval 1 day) AND n = 1", 24),
    ("between-midnight", "DO (SELECT 1 FROM t WHERE a BETWEEN %(day_start_utc)s AND %(day_end_utc)s GROUP BY a)", 29),
    ("between-midnight", "DO IF(a BETWEEN 1 AND 2, 3, a BETWEEN d - INTERVAL 6 DAY AND (d) + INTERVAL 1 DAY)", 31),
    ("changes-source", "DELETE FROM payments WHERE id = 1", 1),
    ("changes-source", "WITH q AS (SELECT 1) UPDATE game.`users` SET seen = 1", 22),
    ("changes-source", "DELETE p FROM game.payments AS p", 1),
]
REFUSED = [
    # statement, column, a part of the message
    ("CREATE TABLE t (a INT)", 1, "CREATE is refused: it commits; create lasting tables outside"),
    ("CREATE TABLE IF NOT EXISTS t (a INT)", 1, "make it TEMPORARY"),
    ("CREATE TEMPORARY SEQUENCE s", 1, "it commits"),
    ("CREATE OR REPLACE VIEW v AS SELECT 1", 1, "it commits"),
    ("/* x */ DROP TABLE t", 9, "DROP is refused"),
    ("ALTER TABLE t ADD COLUMN b INT", 1, "it commits"),
    ("truncate t", 1, "TRUNCATE is refused: it commits; write DELETE FROM"),
    ("CALL refresh()", 1, "CALL is refused: a procedure can commit; write its statements here"),
    ("START TRANSACTION", 1, "the run owns the transaction; remove it"),
    ("begin", 1, "the run owns the transaction"),
    ("COMMIT AND CHAIN", 1, "the run owns the transaction"),
    ("RELEASE SAVEPOINT a", 1, "the run owns the transaction"),
    ("LOCK TABLES t WRITE", 1, "the run owns the transaction"),
    ("EXECUTE IMMEDIATE 'COMMIT'", 1, "plain statements"),
    ("PREPARE p FROM 'COMMIT'", 1, "plain statements"),
    ("BACKUP STAGE START", 1, "BACKUP is refused"),
    ("GRANT SELECT ON t TO u", 1, "GRANT is refused"),
    ("ANALYZE TABLE t", 1, "ANALYZE is refused"),
    ("FLUSH TABLES", 1, "FLUSH is refused"),
    ("KILL 5", 1, "KILL is refused"),
    ("SHUTDOWN", 1, "SHUTDOWN is refused"),
    ("LOAD DATA INFILE 'f' INTO TABLE t", 1, "LOAD is refused"),
    ("IF 1 THEN SELECT 1", 1, "IF is refused"),
    ("VALUES ROW(1)", 1, "VALUES is refused: write it as a SELECT"),
    ("(TABLE t)", 2, "TABLE is refused: write it as a SELECT"),
    ("WITH q AS (SELECT 1) (SELECT * FROM q)", 1, "WITH is refused: write the SELECT that ends it without parentheses"),
    ("DELIMITER //", 1, "it is a command of the mysql client; remove it"),
    ("source other.sql", 1, "it is a command of the mysql client"),
    ("SELECT 1 \\G", 10, r"a backslash as in \G is for the mysql client"),
    ("\\. other.sql", 1, "for the mysql client"),
    ("USE other", 1, "USE would hold for every later file; write schema.table"),
    ("SET NAMES latin1", 5, "only SET @variable is allowed"),
    ("SET autocommit = 1", 5, "only SET @variable is allowed"),
    ("SET @@session.autocommit = 1", 5, "only SET @variable is allowed"),
    ("SET @@`autocommit` = 1", 5, "only SET @variable is allowed"),
    ("SET @a = 1, SESSION sql_mode = ''", 13, "only SET @variable is allowed"),
    ("SET @a := (SELECT 1, 2), foreign_key_checks = ON", 26, "only SET @variable is allowed"),
    ("SET STATEMENT max_statement_time = 1 FOR COMMIT", 5, "only SET @variable is allowed"),
    ("SET TRANSACTION READ ONLY", 5, "only SET @variable is allowed"),
    ("SET PASSWORD = 'a'", 5, "only SET @variable is allowed"),
    ("SET @ = 1", 5, "only SET @variable is allowed"),
    ("SET", 1, "only SET @variable is allowed"),
    ("/*!50000 DROP */ TABLE t", 10, "some servers run the comment"),
    ("SELECT 1 INTO OUTFILE '/tmp/x'", 10, "cannot be rolled back; a plain SELECT is enough"),
    ("SELECT 1 INTO /* x */ DUMPFILE '/tmp/x'", 10, "cannot be rolled back"),
    ("SELECT a FROM t for update", 17, "FOR UPDATE is refused: the application would wait"),
    ("SELECT SUBSTR(a FROM 1 FOR 2) FROM t FOR SHARE", 38, "a plain SELECT is enough"),
    ("SELECT a FROM t LOCK IN SHARE MODE", 17, "a plain SELECT is enough"),
    ("SET @n = ROW_COUNT()", 10, "ROW_COUNT: it may tell of another file's statement, or of one of the run; count"),
    ("SELECT found_rows ( )", 8, "FOUND_ROWS: it may tell of another file's statement"),
    ("SET @n = LAST_INSERT_ID()", 10, "LAST_INSERT_ID: it may tell of another file's statement, or of one of the run"),
    ("SELECT 1 FROM t WHERE id = `Last_Insert_ID`(5)", 28, "read the id by a query"),
    ("SET @n = @@identity", 10, "IDENTITY: it may tell of another file's statement"),
    ("SET @n = 1 + @@session.last_insert_id", 14, "LAST_INSERT_ID: it may tell of another file's statement"),
    ("SET @n = @@Local.`insert_id`", 10, "INSERT_ID: it may tell of another file's statement"),
    ("SELECT @@warning_count INTO @n", 8, "WARNING_COUNT: it may tell of another file's statement"),
    ("SELECT @@error_count INTO @n", 8, "ERROR_COUNT: it may tell of another file's statement"),
    ("SET @n = NEXTVAL(s)", 10, "a sequence cannot be rolled back, and a second run of a date would get other"),
    ("SET @n = (SELECT NEXT VALUE FOR s)", 18, "NEXT: a sequence cannot be rolled back"),
    ("SET @n = PREVIOUS VALUE FOR game.s", 10, "PREVIOUS: a sequence cannot be rolled back"),
    ("SET @n = lastval(s)", 10, "a sequence cannot be rolled back"),
    ("DO SETVAL(s, 5)", 4, "SETVAL: a sequence cannot be rolled back"),
    ("INSERT INTO t VALUES (1) RETURNING a", 26, "RETURNING hides from the run how many rows were written"),
    ("DO GET_LOCK('a', 1)", 4, "the run relies on a lock of its own"),
    ("SELECT 1, `release_lock`('a')", 11, "the run relies on a lock of its own"),
    ("DO RELEASE_ALL_LOCKS()", 4, "the run relies on a lock of its own"),
    ("DELETE FROM bi_metrics WHERE metrics = 'x'", 13, "write its row by INSERT ... ON DUPLICATE KEY UPDATE"),
    ("UPDATE t JOIN game.`BI_Metrics` b SET t.a = 1", 20, "into a temporary table"),
    ("REPLACE INTO bi_metrics (metrics) VALUES ('x')", 14, "write its row by INSERT"),
    ("REPLACE INTO bi_metric_state VALUES (1)", 14, "bi_metric_state: the run alone writes this table"),
    ("DELETE FROM game.`BI_Metric_Changes` WHERE id = 1", 18, "the run alone writes this table"),
    ("UPDATE t JOIN bi_metric_state s SET t.a = 1", 15, "the run alone writes this table"),
    ("DELETE h, g FROM h JOIN g USING (d)", 11, "writes another table than the first that it names; write one DELETE"),
    ("DELETE g.* FROM game.h AS a JOIN g USING (d)", 8, "write one DELETE for each table, that one first behind FROM"),
    ("DELETE FROM h, g USING h JOIN g ON h.d = g.d", 16, "writes another table than the first that it names"),
    ("UPDATE h JOIN g USING (d) SET h.n = 1, g.n = 2", 40, "writes another table than the first that it names"),
    ("UPDATE h JOIN g USING (d) SET n = 1", 31, "say which one this changes"),
    ("UPDATE h, g SET h.n = 1, k = 2 WHERE h.d = g.d", 26, "say which one this changes"),
    ("UPDATE game.h AS a, g SET g.n = a.n", 27, "write one UPDATE for each table, that one first"),
    ("CREATE TEMPORARY TABLE game.`bi_metrics` (a INT)", 1, "would hide the real one"),
    ("CREATE TEMPORARY TABLE IF NOT EXISTS bi_metric_state (a INT)", 1, "would hide the real one"),
]


NOT_OF_THE_DATE = ("the DELETE does not choose the rows of the date: write WHERE day = %(metric_date)s, or no WHERE if "
                   "the table holds one date at a time")  # fmt: skip
ALSO_LATER = "the DELETE also takes the rows of later dates: write WHERE day = %(metric_date)s"


@pytest.mark.parametrize(
    ("rest", "fault"),
    [
        ("", ""),
        ("WHERE 1 = 1", ""),
        ("WHERE day = %(metric_date)s", ""),
        ("WHERE %(metric_date)s = day AND kind = 'a'", ""),
        ("WHERE day <=> DATE(%(day_start_utc)s)", ""),
        ("WHERE day IN (%(metric_date)s)", ""),
        ("WHERE day BETWEEN %(metric_date)s - INTERVAL 6 DAY AND %(metric_date)s", ""),
        ("WHERE %(metric_date)s BETWEEN first AND last", ""),
        ("WHERE at >= %(day_start_utc)s AND at < %(day_end_utc)s", ""),
        ("WHERE %(day_start_utc)s <= at AND %(day_end_utc)s > at", ""),
        ("WHERE day = @day", ""),
        ("WHERE FIND_IN_SET(day, %(dates)s)", ""),
        ("WHERE kind < 3 AND FIND_IN_SET(day, %(dates)s)", ""),
        ("WHERE IF(n > 3, DATE(%(metric_date)s), day)", ""),
        ("WHERE NOT DATEDIFF(day, %(metric_date)s)", ""),
        ("WHERE ABS(DATEDIFF(day, %(metric_date)s)) < 1", ""),
        ("WHERE at LIKE CONCAT(%(metric_date)s, '%%')", ""),
        ("WHERE user_id IN (SELECT user_id FROM changed)", ""),
        ("WHERE user_id IN (SELECT user_id FROM changed LIMIT 10)", ""),
        ("USING h JOIN changed USING (user_id)", ""),
        ("USING h JOIN JSON_TABLE(%(dates)s, '$[*]' COLUMNS (d DATE PATH '$')) AS j ON j.d = h.day", ""),
        ("USING h, changed AS c WHERE c.user_id = h.user_id", ""),
        ("WHERE id > 0", NOT_OF_THE_DATE),
        ("WHERE id IS NOT NULL", NOT_OF_THE_DATE),
        ("WHERE id IN (1, 2)", NOT_OF_THE_DATE),
        ("WHERE day > '1000-01-01'", NOT_OF_THE_DATE),
        ("WHERE day <> %(metric_date)s", NOT_OF_THE_DATE),
        ("WHERE day NOT IN (%(metric_date)s)", NOT_OF_THE_DATE),
        ("WHERE day < %(metric_date)s - INTERVAL 90 DAY", NOT_OF_THE_DATE),
        ("WHERE day < DATE_SUB(%(metric_date)s, INTERVAL 90 DAY)", NOT_OF_THE_DATE),
        ("WHERE day <= %(metric_date)s AND day <> %(metric_date)s", NOT_OF_THE_DATE),
        ("WHERE day >= %(metric_date)s", ALSO_LATER),
        ("WHERE %(day_end_utc)s <= at", ALSO_LATER),
        ("WHERE day = %(metric_date)s LIMIT 1000", NOT_OF_THE_DATE),
        ("LIMIT 1000", NOT_OF_THE_DATE),
    ],
)
def test_a_delete_that_leaves_rows_of_the_date_or_takes_those_of_later_ones_helps_no_plain_insert(
    rest: str, fault: str, tmp_path: Path
) -> None:
    text = f"-- Description: d\nDELETE FROM h {rest};\nINSERT INTO h SELECT n, %(metric_date)s FROM s"
    told = [each for each in problems(tmp_path, {"x.sql": text}) if each.rule == "not-idempotent"]
    message = f"a date that is run again must replace its rows and no others; {fault}"
    assert [(each.line, each.column, each.message) for each in told] == ([(3, 1, message)] if fault else [])
    upsert = f"{text} ON DUPLICATE KEY UPDATE n = VALUES(n)"  # which needs no DELETE
    assert not [each for each in problems(tmp_path, {"x.sql": upsert}) if each.rule == "not-idempotent"]


@pytest.mark.parametrize(("rule", "statement", "column"), IN_STATEMENTS)
def test_a_fault_is_found_at_its_line_and_column(rule: str, statement: str, column: int, tmp_path: Path) -> None:
    assert (rule, 7, column) in found(tmp_path, around(statement))


@pytest.mark.parametrize(("statement", "column", "message"), REFUSED)
def test_what_a_file_must_not_do_is_refused_with_what_to_do_instead(
    statement: str, column: int, message: str, tmp_path: Path
) -> None:
    refused = [p for p in problems(tmp_path, {"x.sql": around(statement)}) if p.rule == "forbidden-statement"]
    assert [(p.line, p.column) for p in refused] == [(7, column)]
    assert message in refused[0].message


FINE = [
    "REPLACE INTO h SELECT 1; DELETE h FROM game.h JOIN g USING (d); DELETE a.* FROM h AS a, g WHERE a.d = g.d",
    "REPLACE INTO h SELECT 1; DELETE FROM h USING h JOIN g ON h.d = g.d; DELETE QUICK FROM h ORDER BY a, b LIMIT 1",
    "REPLACE INTO h SELECT 1; UPDATE h a JOIN g USING (d) SET a.n = g.n, a.k = IF(g.n = 1, 2, 3) WHERE g.n IN (1, 2)",
    "REPLACE INTO h SELECT 1; UPDATE game.h, g SET game.h.n = g.n, h.k = (SELECT MAX(x) FROM t), `h`.`z` = 1",
    "SELECT 'it''s; -- no', \"a\\\"b;\", `a``;b`, 1 */*all*/ 2, 1--1 INTO @a, @b, @c, @d, @e",
    "DO 1 /*!80000 + 1 */ # don't\n",
    "DO (SELECT 1 FROM t WHERE a LIKE '5%' OR a LIKE '%(draft)s' OR a LIKE '%%(dates)s') -- 100 % of %(unknown)s\n",
    "DO REPLACE(a, 'b', 'c') + TRUNCATE(1.5, 1) + (SELECT t.begin + `commit` FROM t)",
    "CREATE TEMPORARY TABLE a AS SELECT 1 AS b",
    "CREATE /*!40000 TEMPORARY */ TABLE a (updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP)",
    "CREATE OR REPLACE TEMPORARY TABLE a (b INT); INSERT INTO a SELECT 1; DROP TEMPORARY TABLE IF EXISTS a, b",
    "WITH a AS (SELECT 1) SELECT * FROM a INTO @x",
    "USE game; USE `game`",
    "SHOW TABLES; EXPLAIN SELECT 1; DESCRIBE t; DESC t",
    "SET @autocommit := 1, @now = 2, @names = (SELECT a FROM b LIMIT 1), @x = IF(1, 2, 3), @y = @@time_zone",
    "SELECT @@autocommit, \\N INTO @a, @b",
    "DO (SELECT t.last_insert_id + nextval + identity + `row_count` + t.value FROM t)",
    "SELECT @n := @n + 1 AS n FROM t",
    "DELETE FROM game.helper WHERE a = %(dates)s; INSERT INTO Helper TABLE t; INSERT IGNORE INTO helper VALUES (1)",
    "INSERT INTO helper SELECT 1, 'wait FOR UPDATE here' FROM t ON DUPLICATE KEY UPDATE a = 1",
    "REPLACE INTO helper VALUES (1)",
    "DELETE h FROM game.helper AS h WHERE day = %(metric_date)s; WITH q AS (SELECT 1) DELETE FROM helper; "
    "REPLACE INTO HELPER VALUES (1)",
    "CREATE TEMPORARY TABLE t SELECT 1 AS n; DELETE FROM t WHERE n = 1; UPDATE t SET n = 2",
    "REPLACE INTO game.`helper` SELECT 1; UPDATE helper SET n = 2",
    "SET @a = 1; SET @a = 2, @b = @a; SET @c = (SELECT @d := 1) + @a",
    "SELECT 1\n--1 INTO @a; SELECT 1\n  --(2) INTO @b; DO '\n--text', 1 -- x\n /*\n--text */; #\n-- text\n--\n--\ttext",
    "DO (SELECT 1 FROM t WHERE at BETWEEN d AND d + INTERVAL 1 DAY - INTERVAL 1 SECOND AND n BETWEEN 1 AND 2)",
    "DO (SELECT SUM(n) OVER (ORDER BY d RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW) FROM t)",
    "DO (SELECT 1 FROM t WHERE d BETWEEN a + INTERVAL 1 DAY AND b OR e = b + INTERVAL 1 DAY)",
    "INSERT INTO helper (a, created_at) SELECT 1, NOW() FROM b ON DUPLICATE KEY UPDATE updated_at = NOW(), a = 1",
    "REPLACE INTO helper (a, created_at) VALUES (1, NOW()), (2, CURRENT_TIMESTAMP)",
    "INSERT INTO h VALUES (1, 2) ON DUPLICATE KEY UPDATE a = VALUES(a), h.`updated_at` = CURRENT_TIMESTAMP()",
    "REPLACE INTO t SELECT 1; UPDATE t SET updated_at = CURRENT_TIMESTAMP, created_at = NOW(6) WHERE a = 1",
    "CREATE TEMPORARY TABLE h SELECT NOW(3) AS created_at, CURRENT_TIMESTAMP updated_at, UUID(), a FROM t",
    "CREATE TEMPORARY TABLE h WITH q AS (SELECT a, NOW() AS created_at FROM t) SELECT * FROM q",
    "DO (SELECT UNIX_TIMESTAMP(played_at) + t.current_date + a.uuid + rand FROM t)",
    "",
]


@pytest.mark.parametrize("statement", FINE)
def test_a_legitimate_statement_raises_no_alarm(statement: str, tmp_path: Path) -> None:
    assert found(tmp_path, around(statement)) == []


WHOLE_FILES: list[tuple[str, str, Found]] = [
    # file, text, problems
    ("x.sql", f"{HEADER}\n-- nothing; here\n;;", [("empty-file", 1, 1)]),
    ("x.sql", f"{HEADER}-- Empty: ok\n-- Check: SELECT 1", [("empty-file", 1, 1)]),
    ("x.sql", f"{HEADER}{UPSERT}-- empty: ok\n", [("header", 6, 1)]),
    ("x.sql", f"{HEADER}{UPSERT}\n-- it's\nDO 'abc;", [("unterminated", 8, 4)]),
    ("x.sql", f"{HEADER}\n-- caf\udce9\n\n{UPSERT}", [("not-utf8", 5, 7)]),
    ("x\udce9.sql", "-- Description: d\n\nDO %(metric_date)s", [("not-utf8", 1, 1)]),
    ("x.sql", "\ufeff" + HEADER + UPSERT.replace("\n", "\r\n"), []),
    # the date
    ("x.sql", HEADER + UPSERT.replace("%(metric_date)s", "1"), [("missing-metric-date", 4, 1)]),
    ("x.sql", f"{HEADER}\nSET @a = 1;\n\nSELECT 1 AS n -- %(metric_date)s", [("missing-metric-date", 7, 1)]),
    ("x.sql", HEADER + UPSERT.replace("(metric_date)s", "(day_start_utc)s"), []),
    ("x.sql", HEADER + UPSERT.replace("(metric_date)s", "(dates)s"), []),
    ("incremental/x.sql", HEADER + UPSERT.replace("(metric_date)s", "(start_date)s"), []),
    ("x.sql", HEADER + "SET @d = %(metric_date)s; SELECT @d AS n", []),
    ("x.sql", HEADER + UPSERT.replace("(metric_date)s", "(metrc_date)s"), [("unknown-parameter", 5, 41)]),
    ("x.sql", HEADER + "SELECT DATE '%(metric_date)s' AS n", [("quoted-parameter", 4, 14)]),
    # helpers
    ("x.sql", "-- Description: d\nSET @d = 1;\nREPLACE INTO h SELECT 1", [("helper-without-date", 3, 1)]),
    ("x.sql", "-- Description: d\n-- Allow: helper-without-date\nREPLACE INTO h SELECT 1", []),
    ("x.sql", "-- Description: d\nREPLACE INTO h SELECT %(day_end_utc)s", []),
    ("x.sql", "-- Description: d\nREPLACE INTO h SELECT %(metrc_date)s", [("unknown-parameter", 2, 23)]),
    ("x.sql", "-- Description: d\nDELETE FROM h; INSERT INTO h SELECT 1", []),
    ("x.sql", "-- Description: d\nDELETE FROM h WHERE a = %(dates)s; INSERT INTO h SELECT 1", []),
    ("x.sql", "-- Description: d\nDELETE FROM g WHERE a = %(dates)s; INSERT h TABLE t",
     [("changes-source", 2, 1), ("not-idempotent", 2, 36)]),
    ("x.sql", "-- Description: d\nINSERT IGNORE INTO h SELECT %(dates)s;\nDELETE FROM h", [("not-idempotent", 2, 1)]),
    ("x.sql", "-- Description: d\nINSERT INTO h SELECT %(dates)s ON DUPLICATE KEY UPDATE n = n + 1",
     [("not-idempotent", 2, 56)]),
    ("x.sql", "-- Description: d\nREPLACE INTO h SELECT %(dates)s, n FROM h", [("no-initial-file", 2, 41)]),
    ("initial/x.sql", "-- Description: d\nREPLACE INTO h SELECT %(dates)s, n FROM h", [("no-initial-file", 2, 41)]),
    ("x.sql", "-- Description: d\nDELETE FROM h WHERE d IN (SELECT %(dates)s FROM h); REPLACE INTO h SELECT 1", []),
    ("x.sql", "-- Description: d\nDELETE FROM h; INSERT INTO h SELECT 1; INSERT INTO h SELECT n FROM h", []),
    ("x.sql", "-- Description: d\nREPLACE INTO h SELECT %(metric_date)s, k, COUNT(*) FROM s GROUP BY day, k",
     [("keeps-old-rows", 2, 1)]),
    ("x.sql", "-- Description: d\nINSERT INTO h SELECT %(metric_date)s, k, COUNT(*) FROM s GROUP BY 1, 2 ON DUPLICATE "
     "KEY UPDATE n = VALUES(n), k = VALUES(k)", [("keeps-old-rows", 2, 1)]),
    ("x.sql", "-- Description: d\nREPLACE INTO h SELECT day, COUNT(*) FROM s WHERE day = %(dates)s GROUP BY day", []),
    ("x.sql", "-- Description: d\nINSERT INTO h SELECT day, COUNT(*) FROM s WHERE day = %(metric_date)s "
     "GROUP BY day ON DUPLICATE KEY UPDATE n = VALUES(n), k = VALUES(k)", []),
    ("x.sql", "-- Description: d\nDELETE FROM h WHERE d = %(dates)s; "
     "REPLACE INTO h SELECT d, k FROM s GROUP BY 1, 2", []),
    ("x.sql", "-- Description: d\nDELETE FROM h WHERE id > 0; REPLACE INTO h SELECT %(metric_date)s, 1",
     [("deletes-other-dates", 2, 1)]),
    ("x.sql", "-- Description: d\nDELETE FROM h WHERE day < %(metric_date)s - INTERVAL 7 DAY; DELETE FROM h "
     "WHERE day = %(metric_date)s; INSERT INTO h SELECT %(metric_date)s, 1", [("deletes-other-dates", 2, 1)]),
    # the INSERT
    ("x.sql", HEADER + UPSERT.replace("ON DUPLICATE", "-- ON DUPLICATE"), [("not-idempotent", 4, 1)]),
    ("x.sql", HEADER + UPSERT.replace("ON D", "WHERE a = ' ON DUPLICATE KEY UPDATE ' -- "), [("not-idempotent", 4, 1)]),
    ("x.sql", f"{HEADER}\n{UPSERT}".replace("INSERT", "INSERT IGNORE"), [("not-idempotent", 5, 8)]),
    # MariaDB stores the last row's value in every row of such an INSERT, where the rows are there already.
    ("x.sql", HEADER + SET_BASED, [("not-idempotent", 5, 96)]),
    ("x.sql", HEADER + SET_BASED.replace("d.v;", "VALUES(value_list);"), []),
    ("x.sql", HEADER + SET_BASED.replace("bi_metrics d", "users d"), []),
    ("x.sql", f"{HEADER}\n{UPSERT}{UPSERT}", [("forbidden-statement", 7, 1)]),
    ("x.sql", HEADER + UPSERT.replace("'x'", "'y'"), [("own-name", 4, 1)]),
    ("x.sql", HEADER + "SET @n = 'x'; " + UPSERT.replace("'x'", "@n"), []),
    ("x.sql", HEADER + UPSERT.replace("'x'", '"x"'), []),
    ("50%_x.sql", HEADER.replace("x\n", "50%_x\n") + UPSERT.replace("'x'", "'50%%_x'"), []),
    (f"{'n' * 100}.sql", f"-- Description: d\n{QUERY}", []),
    (f"{'n' * 101}.sql", f"-- Description: d\n{QUERY}", [("own-name", 1, 1)]),
    ("x .sql", f"-- Description: d\n{QUERY}", [("own-name", 1, 1)]),
    ("-x.sql", f"-- Description: d\n{QUERY}", [("own-name", 1, 1)]),
    # the header
    ("x.sql", f"\n{UPSERT}", [("header", 1, 1), ("header", 1, 1)]),
    ("x.sql", QUERY, [("header", 1, 1)]),
    ("x.sql", f"-- Description: d\n{QUERY}", []),
    ("x.sql", HEADER.replace("-- Metric: ", "\n--  Metric:   y") + UPSERT, [("header", 2, 15)]),
    ("x.sql", HEADER.replace("card", " pie") + UPSERT, [("header", 3, 16)]),
    ("x.sql", f"{HEADER}-- Empty: OK\n{QUERY}", []),
    ("x.sql", f'{HEADER}-- Empty: {{"users": 0}}\n{QUERY}', []),
    ("x.sql", f"{HEADER}-- Empty: {{users: 0}}\n{QUERY}", [("header", 4, 11)]),
    ("x.sql", f"{HEADER}-- Empty: NaN\n{QUERY}", [("header", 4, 11)]),
    ("x.sql", f"{HEADER}-- Empty:\n{QUERY}", [("header", 4, 10)]),
    ("x.sql", f"{HEADER}-- Read: y\n{QUERY}", [("header", 4, 10)]),
    ("x.sql", f"{HEADER}-- Dimensions: country\n{QUERY}", [("header", 4, 16)]),
    ("x.sql", f"{HEADER.replace('card', 'ranking')}-- Title: X, the best\n-- Dimensions: country\n{QUERY}", []),
    ("x.sql", f"{HEADER}-- Reads: x, y\n{QUERY}", [("no-initial-file", 4, 11)]),
    ("x.sql", f"{HEADER}-- Reads: *\n{QUERY}", []),
    # what it reads
    ("x.sql", f"{HEADER}{QUERY} AND n IN (SELECT n\nFROM bi_metrics)", [("reads-unclear", 6, 6)]),
    ("x.sql", f"{HEADER}-- Reads: a\n{QUERY} AND n IN (SELECT n\nFROM bi_metrics)", []),
    ("x.sql", f"{HEADER}-- Check: SELECT 1 FROM bi_metrics\n{UPSERT}", []),
    ("x.sql", f"{HEADER}-- Allow: nonsense, not-utf8, header\n{QUERY}", []),  # it silences itself
    ("x.sql", f"{HEADER}-- Allow: nonsense, not-utf8\n{QUERY}", [("header", 4, 11), ("header", 4, 11)]),
    ("x.sql", f"{HEADER}-- Allow: full-scan, reads-later-metric\n{QUERY}", []),
    ("x.sql", f"{HEADER}-- Allow: reads-the-clock\nSET @a = CURDATE();{UPSERT}", []),
    ("x.sql", f"{HEADER}-- Allow: forbidden-statement\nDROP TABLE t;\n{UPSERT}",
     [("header", 4, 11), ("forbidden-statement", 5, 1)]),
    # checks
    ("x.sql", f"{HEADER}-- Check:  SELECT 1 FROM t WHERE a > %(metric_date)s;\n{UPSERT}", []),
    ("x.sql", f"{HEADER}-- Check: WITH a AS (SELECT 1) SELECT * FROM a\n{UPSERT}", []),
    ("x.sql", f"{HEADER}\n--\n-- Check:  SELECT %(metrc_date)s\n{UPSERT}", [("unknown-parameter", 6, 19)]),
    ("x.sql", f"{HEADER}-- Check:  SELECT 1, 'a\n{UPSERT}", [("unterminated", 4, 22)]),
    ("x.sql", f"{HEADER}-- Check: SELECT 1 FROM t WHERE a = CURDATE()\n{UPSERT}", [("reads-the-clock", 4, 37)]),
    ("x.sql", f"{HEADER}-- Check: SELECT @a\nSET @a = 1;{UPSERT}", [("unset-variable", 4, 18)]),
    ("x.sql", f"{HEADER}-- Check: SELECT 1 FOR UPDATE\n{UPSERT}", [("forbidden-statement", 4, 20)]),
    ("x.sql", f"{HEADER}-- Check: DELETE FROM t\n{UPSERT}", [("bad-check", 4, 11)]),
    ("x.sql", f"{HEADER}-- Check: SELECT 1 INTO @a\n{UPSERT}", [("bad-check", 4, 11)]),
    ("x.sql", f"{HEADER}-- Check: SELECT 1; SELECT 2\n{UPSERT}", [("bad-check", 4, 11)]),
    ("x.sql", f"{HEADER}-- Check:\n{UPSERT}", [("bad-check", 4, 10)]),
    # rows that nobody reads
    ("x.sql", f"{HEADER}{UPSERT}\nSELECT 1", [("unread-rows", 7, 1)]),
    ("x.sql", "-- Description: d\n\nREPLACE INTO h SELECT %(dates)s; (SELECT 1);", [("unread-rows", 3, 34)]),
    ("x.sql", f"{HEADER}CREATE TEMPORARY TABLE h (a INT); INSERT INTO h SELECT 1;\n{QUERY}", []),
    ("x.sql", f"{HEADER}{UPSERT}\nSELECT 1 INTO @a", []),
    ("x.sql", f"{HEADER}SELECT @n := MAX(id) FROM users;\nSELECT @n AS n, %(metric_date)s AS d", []),
    ("x.sql", f"{HEADER}{UPSERT}\nSELECT @n := 1", []),
    ("x.sql", f"{HEADER}SELECT @n := %(metric_date)s;\nSET @a = 1", [("unread-rows", 4, 1)]),
    # comments and SETs
    ("x.sql", f"--Description: d\n\n{QUERY}", [("comment-needs-blank", 1, 1), ("header", 1, 1)]),
    ("x.sql", f"{HEADER}SELECT 1 AS n\n    --the source\nFROM users WHERE a < %(day_end_utc)s",
     [("comment-needs-blank", 5, 5)]),
    ("x.sql", f"{HEADER}SELECT 1 AS n\n-------\nFROM users WHERE a < %(day_end_utc)s",
     [("unnamed-column", 4, 8), ("comment-needs-blank", 5, 1)]),
    # writes
    ("x.sql", "-- Description: d\n-- Allow: changes-source\nDELETE FROM old WHERE d < %(metric_date)s", []),
    ("x.sql", f"{HEADER}-- Check: SELECT 1 FROM t WHERE at BETWEEN @@a AND %(day_end_utc)s\n{UPSERT}",
     [("between-midnight", 4, 36)]),
    # numbers that are built on themselves
    ("incremental/x.sql", f"{HEADER}\n{TOTAL}", [("no-initial-file", 5, 73)]),
    ("initial/x.sql", f"{HEADER}\n{TOTAL}", [("no-initial-file", 5, 73)]),
    ("x.sql", f"{HEADER}\n{TOTAL}", [("no-initial-file", 5, 73)]),
    ("_x.sql", f"{HEADER}\n{TOTAL}", []),
    ("x.sql", f"{HEADER}-- Check: SELECT 1 FROM bi_metrics WHERE metrics = 'x'\n{UPSERT}", []),
]  # fmt: skip


@pytest.mark.parametrize(("file", "text", "expected"), WHOLE_FILES)
def test_a_whole_file_has_these_problems(file: str, text: str, expected: Found, tmp_path: Path) -> None:
    assert found(tmp_path, text, file) == expected


UNNAMED = [
    "COUNT(*)", "1", "1.5", "NULL", "TRUE", "%(metric_date)s", "'x'", "@a", "@a := b", "-a", "NOT a", "a IS NULL",
    "(a)", "a AND b", "a + b", "t.a + t.b", "a DIV b", "a LIKE 'x'", "a->'$.b'", "a COLLATE utf8mb4_bin",
    "DATE '2025-01-01'", "_latin1 'x'", "CASE WHEN a THEN 1 END", "d + INTERVAL 1 DAY", "SUM(a) OVER w",
    "SUM(a) OVER (ORDER BY b)", "(SELECT 1 AS n)", "CAST(a AS SIGNED)", "EXTRACT(DAY FROM a)", "COUNT(*) + 1",
]  # fmt: skip
NAMED = [
    "a", "`a b`", "t.a", "game.t.`c d`", "*", "t.*", "COUNT(*) AS n", "COUNT(*) n", "COUNT(*) 'n'", "COUNT(*) `n`",
    "COUNT(*) AS 'n'", "CASE WHEN a THEN 1 END c", "%(metric_date)s d", "5 n", "t.a b", "CAST(a AS SIGNED) AS day",
    "date d", "d + INTERVAL 1 DAY AS next", "d + INTERVAL 1 DAY next", "(SELECT COUNT(*) FROM b) AS n", "@a n",
    "IF(a, 1, 2) `end`", "JSON_OBJECT('a', COUNT(*)) AS v",
]  # fmt: skip
FIELDS = [(item, False) for item in UNNAMED] + [(item, True) for item in NAMED]
AROUND = "-- Description: d\nWITH q AS (SELECT 1, 2)\nSELECT {}\nFROM t WHERE d = %(metric_date)s UNION SELECT 1, 2"


@pytest.mark.parametrize(("item", "is_named"), FIELDS)
def test_a_field_without_a_name_of_its_own_is_a_warning(item: str, is_named: bool, tmp_path: Path) -> None:
    for items, column in (item, 8), (f"DISTINCT {item}", 17), (f"a, {item}, b", 11):
        unnamed = [p for p in problems(tmp_path, {"x.sql": AROUND.format(items)}) if p.rule == "unnamed-column"]
        assert [(p.line, p.column, p.severity) for p in unnamed] == [] if is_named else [(3, column, "warning")]


def test_the_name_that_a_field_would_get_is_in_the_message(tmp_path: Path) -> None:
    text = "-- Description: d\nSELECT COUNT( DISTINCT a ) FROM t WHERE d = %(metric_date)s"
    assert [problem.message for problem in problems(tmp_path, {"x.sql": text})] == [
        "the field would be named COUNT( DISTINCT a ); name it with AS"
    ]


@pytest.mark.parametrize("text", [UPSERT.replace("SELECT 'x'", "SELECT 'x', 1 + 1"), "REPLACE INTO h SELECT COUNT(*)"])
def test_only_the_columns_of_a_select_metric_need_names(text: str, tmp_path: Path) -> None:
    assert "unnamed-column" not in [problem.rule for problem in problems(tmp_path, {"x.sql": text})]


@pytest.mark.parametrize(
    ("text", "severities"),
    [
        (HEADER.replace("card", "pie") + QUERY, ["error"]),
        (HEADER.replace("card", "pie") + UPSERT, ["warning"]),
        (f"{HEADER}-- Empty: nothing\n{UPSERT}", ["error"]),
        (f"{HEADER}-- Empty: nothing\n-- Allow: header\n{QUERY}", ["error"]),
        (f"{HEADER.replace('card', 'pie')}-- Allow: header\n{UPSERT}", []),
    ],
)
def test_a_header_that_the_run_cannot_use_is_an_error(text: str, severities: list[str], tmp_path: Path) -> None:
    assert [problem.severity for problem in problems(tmp_path, {"x.sql": text})] == severities


def test_a_metric_twice_in_one_mode_names_both_files(tmp_path: Path) -> None:
    text = HEADER + UPSERT
    upper = text.replace("'x'", "'X'").replace(": x", ": X")
    files = {"incremental/01_x.sql": text, "X.sql": upper, "_x.sql": text, "01_y.txt": ""}
    first, second = problems(tmp_path, files)
    assert (first.file, first.rule) == ("sql/X.sql", "duplicate-metric")
    assert "sql/X.sql and sql/incremental/01_x.sql both define" in first.message
    assert (second.file, second.rule) == ("sql/incremental/01_x.sql", "duplicate-metric")


def test_a_disabled_file_and_the_other_mode_are_no_duplicates(tmp_path: Path) -> None:
    text = HEADER + UPSERT
    files = {"incremental/01_x.sql": text, "initial/x.sql": text, "incremental/_01_x.sql": text}
    assert problems(tmp_path, files) == []


def test_an_initial_file_lets_a_metric_build_on_its_own_rows(tmp_path: Path) -> None:
    files = {"incremental/x.sql": HEADER + TOTAL, "initial/9_x.sql": HEADER + QUERY}
    assert problems(tmp_path, files) == []
    (tmp_path / "sql/initial/9_x.sql").rename(tmp_path / "sql/initial/_x.sql")
    (problem,) = problems(tmp_path, {})
    assert problem.message == (
        "the metric is built on its own earlier rows; add sql/initial/x.sql that computes it from the source"
    )


def test_a_helper_is_no_initial_file(tmp_path: Path) -> None:
    files = {"incremental/x.sql": HEADER + TOTAL, "initial/x.sql": "-- Description: d\nREPLACE INTO h SELECT 1"}
    found = problems(tmp_path, files)
    assert [(problem.file, problem.rule) for problem in found] == [
        ("sql/incremental/x.sql", "no-initial-file"),
        ("sql/initial/x.sql", "metric-became-helper"),
        ("sql/initial/x.sql", "helper-without-date"),
    ]
    assert found[1].message == (
        "sql/initial/x.sql is a helper and sql/incremental/x.sql a metric, both named x; rename one of them"
    )


def test_a_number_built_on_itself_that_stands_in_both_modes_is_told_where_to_go(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, {"x.sql": HEADER + TOTAL})
    assert "move it to sql/incremental/ and add sql/initial/x.sql that computes it from the source" in problem.message


READER = f"-- Description: d\n\n{QUERY.rstrip()} AND n > (SELECT n FROM bi_metrics WHERE metrics = 'x')"


@pytest.mark.parametrize(
    ("reader", "read", "places"),
    [
        ("1_r.sql", "2_x.sql", [(3, 118)]),
        ("r.sql", "x.sql", [(3, 118)]),
        ("1_r.sql", "incremental/2_x.sql", [(3, 118)]),
        ("initial/1_r.sql", "2_x.sql", [(3, 118)]),
        ("2_r.sql", "1_x.sql", []),
        ("r.sql", "9_x.sql", []),
        ("initial/1_r.sql", "incremental/2_x.sql", []),
        ("_1_r.sql", "2_x.sql", []),
        ("1_r.sql", "_2_x.sql", []),
    ],
)
def test_a_metric_must_run_after_what_it_reads(
    reader: str, read: str, places: list[tuple[int, int]], tmp_path: Path
) -> None:
    found = [p for p in problems(tmp_path, {reader: READER, read: HEADER + QUERY}) if p.rule == "reads-later-metric"]
    assert [(p.line, p.column) for p in found] == places
    assert all(f"reads x, which sql/{read} computes later; give that file a smaller number" in p.message for p in found)


def test_a_file_that_declares_to_read_all_runs_last_unless_it_is_allowed_to_run_earlier(tmp_path: Path) -> None:
    text = "-- Description: d\n-- Reads: *\nSELECT COUNT(*) AS n FROM bi_metrics WHERE metric_date = %(metric_date)s"
    others = {"2_a.sql": f"-- Description: d\n{QUERY}", "3_b.sql": f"-- Description: d\n{QUERY}"}
    (problem,) = problems(tmp_path, {"1_r.sql": text, **others})
    assert (problem.rule, problem.severity, problem.line) == ("reads-later-metric", "error", 2)
    assert "reads a (and 1 more), which sql/2_a.sql computes later; " in problem.message
    assert problems(tmp_path, {"1_r.sql": f"-- Allow: reads-later-metric\n{text}"}) == []


def test_a_reads_line_counts_as_reading(tmp_path: Path) -> None:
    text = f"-- Description: d\n-- Reads: x\n{QUERY.replace('users', 'a_view')}"
    (problem,) = problems(tmp_path, {"1_r.sql": text, "2_x.sql": HEADER + QUERY})
    assert problem.rule == "reads-later-metric"


def test_what_reads_a_helper_runs_after_it_and_a_helper_after_what_it_reads(tmp_path: Path) -> None:
    fill = (
        "-- Description: d\nINSERT INTO h SELECT n FROM bi_metrics WHERE metrics = 'a' AND d = %(metric_date)s "
        "ON DUPLICATE KEY UPDATE n = VALUES(n)"
    )
    texts = {"3_a.sql": f"-- Description: d\n{QUERY}", "2_fill.sql": fill,
             "1_r.sql": "-- Description: d\nSELECT n FROM h WHERE d = %(metric_date)s"}  # fmt: skip
    found = problems(tmp_path, texts)
    assert [(problem.file, problem.rule, problem.line, problem.column) for problem in found] == [
        ("sql/1_r.sql", "reads-later-metric", 2, 15), ("sql/2_fill.sql", "reads-later-metric", 2, 56),
    ]  # fmt: skip


def test_an_initial_file_must_run_after_what_it_reads_at_its_incremental_files_place_too(tmp_path: Path) -> None:
    initial = "-- Description: d\nSELECT SUM(n) AS n FROM bi_metrics WHERE metrics = 'daily' AND d <= %(metric_date)s"
    files = {"50_daily.sql": f"-- Description: d\n{QUERY}", "incremental/10_x.sql": HEADER + TOTAL,
             "initial/90_x.sql": initial}  # fmt: skip
    (problem,) = problems(tmp_path, files)
    assert (problem.file, problem.rule, problem.line, problem.column) == (
        "sql/initial/90_x.sql", "reads-later-metric", 2, 52,
    )  # fmt: skip
    assert problem.message.startswith(
        "reads daily, which sql/50_daily.sql computes later at night, when this runs in place of "
        "sql/incremental/10_x.sql; give that file a smaller number"
    )
    (tmp_path / "sql/50_daily.sql").rename(tmp_path / "sql/05_daily.sql")
    assert problems(tmp_path, {}) == []


def test_what_is_unclear_is_told_with_the_line_that_says_it(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, {"x.sql": f"-- Description: d\n{QUERY} AND n = (SELECT 1 FROM bi_metrics m)"})
    assert problem.message == (
        "it is unclear which metrics this reads: no metrics = 'name' in its WHERE or ON that always holds; say "
        "metrics = 'name' for each table of metrics, or declare the names in the header: -- Reads: a, b"
    )


def test_a_name_with_neither_file_nor_rows_is_an_error_and_one_with_rows_alone_a_warning(tmp_path: Path) -> None:
    read = "metrics IN ('usres', 'gone', 'off', 'users')"
    text = f"-- Description: d\nSELECT %(metric_date)s AS n FROM bi_metrics WHERE {read}"
    fine = f"-- Description: d\n{QUERY}"
    files = {"9_x.sql": text, "1_users.sql": fine, "_off.sql": fine, "8_y.sql": f"-- Reads: zzz\n{fine}"}
    assert problems(tmp_path, files) == []  # nobody has asked the server
    found = problems(tmp_path, {}, stored=["gone", "users"])
    assert [(each.file, each.line, each.column, each.severity, each.rule) for each in found] == [
        ("sql/8_y.sql", 1, 11, "error", "reads-no-metric"), ("sql/9_x.sql", 2, 63, "error", "reads-no-metric"),
        ("sql/9_x.sql", 2, 72, "warning", "reads-no-metric"),
    ]  # fmt: skip
    assert "reads the metric zzz, which has neither a file nor a row; correct its name" in found[0].message
    assert "reads the metric usres, which has neither a file nor a row; did you mean users?" in found[1].message
    assert "reads the metric gone, which has rows but no file: no run computes it any more" in found[2].message
    silenced = problems(tmp_path, {"9_x.sql": f"-- Allow: reads-no-metric\n{text}"}, stored=["gone", "users"])
    assert [problem.severity for problem in silenced] == ["error", "error"]


def test_a_metric_with_rows_whose_file_has_become_a_helper_is_an_error(tmp_path: Path) -> None:
    text = f"-- Description: d\n{QUERY};\nREPLACE INTO log VALUES (%(metric_date)s)"
    files = {"x.sql": text, "y.sql": "-- Description: d\nSELECT %(dates)s INTO @a", "z.sql": "-- nothing"}
    assert {problem.rule for problem in problems(tmp_path, files)} == {"empty-file", "header"}
    found = [p for p in problems(tmp_path, {}, stored=["x", "y", "z"]) if p.rule == "metric-became-helper"]
    assert [(problem.file, problem.line, problem.column, problem.message) for problem in found] == [
        ("sql/x.sql", 4, 1, "the metric x has rows, and this file no longer writes it: it writes log; "
         "move that to a file of its own, or rename this file"),
        ("sql/y.sql", 2, 1, "the metric y has rows, and this file no longer writes it: no SELECT ends it; "
         "move that to a file of its own, or rename this file"),
    ]  # fmt: skip


def test_a_helper_that_reads_its_own_table_starts_from_an_initial_file(tmp_path: Path) -> None:
    files = {"incremental/h.sql": "-- Description: d\nREPLACE INTO h SELECT n + 1 FROM h WHERE d < %(metric_date)s"}
    (problem,) = problems(tmp_path, files)
    assert problem.message == (
        "the helper is built on its own earlier rows; add sql/initial/h.sql that computes it from the source"
    )
    assert (
        problems(tmp_path, {"initial/h.sql": "-- Description: d\nREPLACE INTO h SELECT 1 FROM t WHERE d = %(dates)s"})
        == []
    )


def test_a_set_based_file_must_not_read_a_work_table(tmp_path: Path) -> None:
    work = "-- Description: d\nDELETE FROM w; INSERT INTO w SELECT 1 WHERE %(metric_date)s"
    files = {"1_w.sql": work, "2_set.sql": "-- Description: d\nSELECT %(dates)s AS n FROM w",
             "3_date.sql": "-- Description: d\nSELECT %(metric_date)s AS n FROM w"}  # fmt: skip
    (problem,) = problems(tmp_path, files)
    assert (problem.file, problem.rule, problem.line, problem.column) == ("sql/2_set.sql", "work-table", 2, 28)
    assert problem.message == (
        "w empties this table for each date, a set-based file runs once; make this file per date, or give the "
        "helper dates"
    )


def test_a_table_that_is_emptied_beside_lasting_rows_is_for_its_own_file(tmp_path: Path) -> None:
    both = "-- Description: d\nDELETE FROM w; INSERT INTO w SELECT 1; REPLACE INTO h SELECT %(metric_date)s FROM w"
    files = {"incremental/1_h.sql": both, "initial/1_h.sql": both.removesuffix(" FROM w"),
             "2_fine.sql": "-- Description: d\nSELECT %(dates)s AS n FROM h"}  # fmt: skip
    found = problems(tmp_path, files)
    assert [problem.rule for problem in found] == []
    found = problems(tmp_path, {"2_fine.sql": "-- Description: d\nSELECT %(metric_date)s AS n FROM h, w"})
    assert [(problem.file, problem.rule) for problem in found] == [("sql/2_fine.sql", "work-table")]
    assert "h empties this table and writes others too, so it need not run" in found[0].message
    dated = "-- Description: d\nREPLACE INTO w SELECT %(metric_date)s; REPLACE INTO h SELECT 1"
    assert problems(tmp_path, {"incremental/1_h.sql": dated}) == []


ASSIGNMENTS = [
    # what stands behind ON DUPLICATE KEY UPDATE, the column that is added to itself
    ("n = VALUES(n), k = 1", ""),
    ("n = n + VALUES(n)", "n"),
    ("a = 1, h.`N` = VALUES(n) + `n`", "`N`"),
    ("n = h.n - 1", "n"),
    ("n = game.h.n + 1", "n"),
    ("n = d.n + 1, k = VALUES(n) + 1", ""),
    ("n = CONCAT(n, VALUES(n))", "n"),
    ("n = JSON_MERGE_PATCH(n, VALUES(n))", "n"),
    ("n = (n + VALUES(n))", "n"),
    ("n = IF(VALUES(n) > 0, n + 1, n)", "n"),
    ("n = VALUES(n) + 1, k = VALUES(k) / VALUES(n)", ""),
    ("n = IFNULL(n, 0) + VALUES(n)", "n"),
    ("n = VALUES(n) + COALESCE(h.n, 0)", "n"),
    ("n = IF(VALUES(n) > 0, IFNULL(n, 0), VALUES(n))", ""),
    ("n = CONCAT('x', IFNULL(n, ''))", "n"),
    ("n = LEAST(n, VALUES(n)), k = GREATEST(VALUES(k), h.k)", ""),
    ("n = COALESCE(VALUES(n), n), k = IF(k <> VALUES(k), VALUES(k), k)", ""),
    ("n = CASE WHEN VALUES(n) > n AND 1 THEN VALUES(n) ELSE n END", ""),
    ("n = n", ""),
    ("n = (SELECT MAX(n) + 1 FROM t), k = 2", ""),
    ("n = 1 = n, k = k + 1", "k"),
]


@pytest.mark.parametrize(("assignments", "column"), ASSIGNMENTS)
def test_a_column_that_is_added_to_itself_is_not_idempotent(assignments: str, column: str, tmp_path: Path) -> None:
    text = f"-- Description: d\nINSERT INTO game.h SELECT %(dates)s ON DUPLICATE KEY UPDATE {assignments}"
    found = [problem for problem in problems(tmp_path, {"x.sql": text}) if problem.rule == "not-idempotent"]
    assert [f"{column} is added to what is there" in problem.message for problem in found] == [True] * bool(column)
    emptied = text.replace("INSERT", "DELETE FROM h WHERE d = %(dates)s; INSERT", 1)
    assert problems(tmp_path, {"x.sql": emptied}) == []


def test_a_metric_that_is_added_to_itself_is_not_idempotent_either(tmp_path: Path) -> None:
    text = HEADER + UPSERT.replace("d.v;", "JSON_MERGE_PATCH(value_list, VALUES(value_list));")
    assert found(tmp_path, text) == [("not-idempotent", 5, 92)]


RANKED = "-- Description: d\n{} FROM t WHERE d = %(metric_date)s {}"
TIED = [
    ("SELECT g, COUNT(*) AS n", "GROUP BY g ORDER BY n DESC LIMIT 10", "n"),
    ("SELECT g, COUNT(*) AS `n`", "GROUP BY g ORDER BY N LIMIT 10", "N"),
    ("SELECT SQL_NO_CACHE g, COALESCE(SUM(a), 0) n", "GROUP BY g HAVING n > 1 ORDER BY `n` DESC LIMIT 5, 10", "`n`"),
    ("SELECT g, COUNT(*) AS n", "GROUP BY g ORDER BY COUNT(*) DESC LIMIT 10", "COUNT ( * )"),
    ("SELECT g, COUNT(*) AS n", "GROUP BY g ORDER BY SUM(a) DESC LIMIT 10", "SUM ( a )"),
    ("SELECT g, COUNT(*) AS n", "GROUP BY g ORDER BY 2 DESC LIMIT 1", "2"),
    ("SELECT g, ROUND(AVG(a), 2) AS n", "GROUP BY g ORDER BY n ASC LIMIT 10 OFFSET 5", "n"),
    ("WITH q AS (SELECT 1) SELECT g, MAX(a) AS n", "GROUP BY g ORDER BY n DESC LIMIT 3", "n"),
    ("SELECT COUNT(*) AS c FROM (SELECT g, COUNT(*) AS n FROM u GROUP BY g ORDER BY n LIMIT 2) q JOIN r", "", "n"),
]
NOT_TIED = [
    ("SELECT g, COUNT(*) AS n", "GROUP BY g ORDER BY n DESC, g LIMIT 10"),
    ("SELECT g, COUNT(*) AS n", "GROUP BY g ORDER BY g LIMIT 10"),
    ("SELECT g, COUNT(*) AS n", "GROUP BY g ORDER BY 1 LIMIT 10"),
    ("SELECT g, COUNT(*) AS n", "GROUP BY g ORDER BY n DESC"),
    ("SELECT g, COUNT(*) AS n", "GROUP BY g LIMIT 10"),
    ("SELECT COUNT(*) AS n", "GROUP BY g ORDER BY n DESC LIMIT 1"),  # whichever it is, the number is the same
    ("SELECT %(metric_date)s AS d, 'x' AS k, COUNT(*) AS n", "GROUP BY g ORDER BY n DESC LIMIT 1"),
    ("SELECT g, a", "ORDER BY a DESC LIMIT 1"),
    ("SELECT COUNT(*) AS n", "ORDER BY n LIMIT 1"),
    ("SELECT g, (SELECT COUNT(*) FROM u) AS n", "GROUP BY g ORDER BY n LIMIT 1"),
    ("SELECT g, ROW_NUMBER() OVER (ORDER BY COUNT(*)) AS n", "GROUP BY g ORDER BY n LIMIT 1"),
    ("SELECT g, COUNT(*) AS n", "GROUP BY g UNION SELECT 1, 2 FROM u ORDER BY n LIMIT 1"),
    ("SELECT g, COUNT(*) AS n", "GROUP BY g ORDER BY LIMIT"),
    ("SELECT g, COUNT(*) AS n", "GROUP BY g ORDER BY 9 LIMIT 1"),
]


@pytest.mark.parametrize(("columns", "behind", "by"), [*TIED, *((*each, "") for each in NOT_TIED)])
def test_a_limit_that_cuts_through_equal_numbers_is_a_warning(
    columns: str, behind: str, by: str, tmp_path: Path
) -> None:
    files = {"x.sql": RANKED.format(columns, behind)}
    found = [each for each in problems(tmp_path, files) if each.rule == "limit-over-ties"]
    assert [(each.severity, each.message.split(" stay ")[0]) for each in found] == [
        ("warning", f"which of equal {by}")
    ] * bool(by)


NEARLY = ["Read", "read", "Raeds", "Chek", "Checks", "Data-Type", "data_type", "DataType", "Data  Type", "Alow",
          "Allows", "Tag", "Units", "Titel", "Dimension", "Owners",
          "Emtpy", "Discription", "Metrics", "Metirc"]  # fmt: skip
PROSE = """
-- Note: the cutoff is inclusive|-- Notes: none|-- Example: 2025-01-15 has 12|-- TODO: drop this in March|-- FIXME: slow
-- Owner: Ann|-- Author: Bob|-- Source: payments|-- Sources: payments, users|-- See: https://example.com/wiki
-- Ticket: BI-17|-- Created: 2025-01-15|-- Changed: 2025-02-01|-- Updated: 2025-03-01|-- Version: 2
-- Checked by: Ann|-- Checked: 2025-01-15 by Ann|-- Check it with: SELECT 1|-- Reading: the table twice is slow
-- Reader: the weekly report|-- Ready: since January|-- Leads: people who asked|-- Heads: one per team|-- Threads: 4
-- Read by: the dashboards|-- Reads from: payments|-- Reason: finance asked|-- Allowed: negative sums|-- Warning: slow
-- Type: card|-- Date: 2025-01-15|-- Data: payments of the shop|-- Data from: the shop|-- Dates: business days
-- Unit: EUR|-- Metric name: arpu|-- Meaning: see above|-- Formula: revenue / users|-- Empty days: none|-- Name: arpu
-- Usage: see the docs|-- Schedule: nightly|-- Params: cutoff_date|-- Returns: one row|-- Step 1: users|-- Window: 30 d
"""


@pytest.mark.parametrize("key", NEARLY)
def test_a_header_key_that_is_nearly_ours_is_an_error(key: str, tmp_path: Path) -> None:
    found = [
        p for p in problems(tmp_path, {"x.sql": f"-- Description: d\n-- {key} : a\n{QUERY}"}) if p.rule == "header"
    ]
    assert [(problem.line, problem.column, problem.severity) for problem in found] == [(2, 7 + len(key), "error")]
    assert "is none of ours; did you mean " in found[0].message


def test_prose_above_the_sql_is_no_header_line(tmp_path: Path) -> None:
    comments = [comment for line in PROSE.split("\n") for comment in line.split("|") if comment]
    assert len(comments) > 45
    assert found(tmp_path, "\n".join(["-- Description: d", *comments, QUERY])) == []


MESSAGES = [
    ("DO %(metrc_date)s", "unknown parameter %(metrc_date)s; did you mean %(metric_date)s?"),
    ("DO %(CUTOFF_DATE)s", "did you mean %(cutoff_date)s?"),
    ("DO %(zzz)s", "known: as_of, cutoff_date, dates, day_end_utc, day_start_utc, metric_date, period_start, "),
    ("DO %(zzz)s", "METRIC_PARAM_<NAME> in .env adds one"),
    ("DO CURDATE()", "CURDATE gives another value when a past date is run again; use %(metric_date)s"),
    (f"DO @{'long' * 90}", "longlon... is read here and set nowhere"),
]


@pytest.mark.parametrize(("statement", "message"), MESSAGES)
def test_a_message_shows_the_repair(statement: str, message: str, tmp_path: Path) -> None:
    assert message in problems(tmp_path, {"x.sql": around(statement)})[0].message


def test_a_variable_that_is_never_set_is_reported_once(tmp_path: Path) -> None:
    assert found(tmp_path, around("DO @a + @A; DO @a")) == [("unset-variable", 7, 4)]


def test_use_without_a_known_database_is_refused(tmp_path: Path) -> None:
    problems(tmp_path, {"x.sql": f"-- Description: d\nUSE game;\n{QUERY}"})
    catalog = load_catalog(tmp_path / "sql")
    assert [problem.rule for problem in check_catalog(catalog, catalog.files, [])] == ["forbidden-statement"]


def test_the_listing_names_files_that_miss_a_run(tmp_path: Path) -> None:
    problems(
        tmp_path,
        {
            "both.sql": QUERY, "initial/two.sql": QUERY, "incremental/two.sql": QUERY, "initial/helper.sql": "DO 1",
            "initial/first.sql": QUERY, "initial/meant.sql": f"-- Allow: misplaced\n{QUERY}",
            "incremental/next.sql": QUERY, "old/a.sql": QUERY, "initial/deeper/b.sql": "",
        },
    )  # fmt: skip
    for name in ("gone.sql", ".#first.sql"):  # the second is what an editor keeps while the file is open
        (tmp_path / "sql" / name).symlink_to("nowhere")
    found = placement_problems(load_catalog(tmp_path / "sql"), tmp_path / "sql")
    assert (found[0].file, found[0].message) == ("sql/gone.sql", "a link to nothing; repair it, or remove it")
    found = found[1:]
    assert [(problem.file, problem.severity, problem.rule) for problem in found] == [
        ("sql/incremental/next.sql", "warning", "misplaced"),
        ("sql/initial/deeper/b.sql", "warning", "misplaced"),
        ("sql/initial/first.sql", "warning", "misplaced"),
        ("sql/old/a.sql", "warning", "misplaced"),
    ]
    assert "does not run in --initial; add it to sql/initial/" in found[0].message
    assert "no run looks into this folder; move it to sql/, sql/incremental/ or sql/initial/" in found[1].message
    assert "never runs at night; add it to sql/incremental/" in found[2].message


def test_a_problem_is_one_safe_line() -> None:
    problem = Problem("sql/a\x1b.sql", 3, 9, "error", "unterminated", "a\nb\udc80")
    assert str(problem) == r"sql/a\x1b.sql:3:9: error: unterminated: a\nb\udc80"


def test_problems_are_sorted_by_file_line_and_column(tmp_path: Path) -> None:
    bad = f"-- Description: d\nDO %(a)s + %(b)s;\nCOMMIT;{QUERY}"
    places = [(p.file, p.line, p.column) for p in problems(tmp_path, {"b.sql": bad, "a.sql": bad})]
    assert places == [(file, *at) for file in ("sql/a.sql", "sql/b.sql") for at in ((2, 4), (2, 12), (3, 1))]


def test_what_reads_a_number_that_matures_is_complete_no_sooner(tmp_path: Path) -> None:
    header = "-- Description: what it means\n-- Data Type: card\n"
    reader = "SELECT value_list AS v FROM bi_metrics WHERE metrics = 'late' AND metric_date = %(metric_date)s"
    files = {"1_late.sql": f"-- Final After: 3 days\n{header}{QUERY}", "2_r.sql": f"{header}{reader}"}
    (problem,) = problems(tmp_path, files)
    assert (problem.rule, problem.severity, problem.file) == ("reads-immature", "warning", "sql/2_r.sql")
    assert "reads late, whose numbers mature for 3 days" in problem.message
    files["2_r.sql"] = f"-- Final After: 3 days\n{header}{reader}"
    assert problems(tmp_path, files) == []


@pytest.mark.parametrize(("own", "other", "is_warned"), [
    ("day", "week", True), ("month", "week", True), ("week", "month", True), ("7 days", "month", True),
    ("week", "day", False), ("year", "month", False), ("quarter", "month", False), ("week", "week", False),
    ("month", "3 days", False), ("week", "week from sunday", True),
])  # fmt: skip
def test_a_row_that_comes_after_its_reader_is_warned_of(
    own: str, other: str, is_warned: bool, tmp_path: Path
) -> None:
    files = {"1_w.sql": f"-- Description: d\n-- Period: {other}\nSELECT %(metric_date)s AS n",
             "2_r.sql": f"-- Description: d\n-- Period: {own}\nSELECT COUNT(*) AS n FROM bi_metrics "
                        "WHERE metrics = 'w' AND metric_date = %(metric_date)s"}  # fmt: skip
    found = [(each.rule, each.file, each.severity) for each in problems(tmp_path, files)]
    assert found == [("reads-another-period", "sql/2_r.sql", "warning")] * is_warned


def test_a_work_table_has_the_period_of_its_reader(tmp_path: Path) -> None:
    files = {"1_h.sql": "-- Description: d\nDELETE FROM work; INSERT INTO work SELECT %(metric_date)s",
             "2_r.sql": "-- Description: d\n-- Period: week\nSELECT COUNT(*) AS n FROM work"}  # fmt: skip
    found = [(each.rule, each.file, each.severity) for each in problems(tmp_path, files)]
    assert found == [("reads-another-period", "sql/2_r.sql", "error")]


def test_every_rule_has_a_failing_file_here_and_says_why() -> None:
    broken = {rule for rule, _, _ in IN_STATEMENTS} | {rule for *_, each in WHOLE_FILES for rule, _, _ in each}
    elsewhere = {
        "duplicate-metric",
        "reads-later-metric",
        "reads-immature",
        "reads-another-period",
        "misplaced",
        "reads-no-metric",
        "metric-became-helper",
        "work-table",
        "period",
        "utc-window",
        "unnamed-column",
        "limit-over-ties",
    }  # their files are in tests of their own
    of_the_server = {"explain", "full-scan", "cannot-roll-back", "no-primary-key", "unknown-time-zone", "hides-a-table"}
    assert set(RULES) - broken - elsewhere == of_the_server
    reasons = [rule.__doc__ for name, rule in vars(_Rules).items() if name.replace("_", "-") in RULES]
    assert len(reasons) == len(RULES) - 7  # the others are judged in functions of their own
    assert all(why and why.endswith(".") for why in reasons)


def test_the_rules_know_the_parameters_that_a_step_has() -> None:
    assert set(Parameters({}, None).literals([date(2025, 1, 15)])) == DATE_PARAMETERS
