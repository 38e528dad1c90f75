"""What a file reads: the short list of what is plain, everything else, tables of helpers, and what views hide."""

from __future__ import annotations

import pytest

from demo.server import Server
from src.metric_file.file import parse
from src.metric_file.reads import Reads, closure, reads_behind, reads_of
from src.metric_file.text import Table
from tests.conftest import connect
from tests.random_queries import judged, prepare

M = "SELECT 1 FROM bi_metrics"


def reads(text: str) -> Reads:
    return reads_of(parse(text).statements)


PLAIN = [
    # SQL, the metrics it reads
    ("SELECT 1 FROM users WHERE name = 'a'", ""),
    (f"{M} WHERE metrics = 'a'", "a"),
    (f"{M} WHERE 'a' = metrics", "a"),
    (f'{M} WHERE metrics = "a"', "a"),
    (f"{M} WHERE metrics IN ('a', \"b\")", "a b"),
    (f"{M} WHERE `metrics` in ('a')", "a"),
    (f"{M} WHERE METRICS = 'a' AND metric_date = %(metric_date)s", "a"),
    (f"{M} WHERE metric_date = %(metric_date)s && metrics = 'a'", "a"),
    (f"{M} WHERE metrics = 'a' AND metrics IN ('a', 'b')", "a b"),
    (f"{M} WHERE metrics = 'it''s'", "it's"),
    (f"{M} WHERE metrics = 'it\\'s'", "it's"),
    (f"{M} WHERE metrics = '50%%_off'", "50%_off"),
    (f"{M} WHERE metrics = '50%_off'", "50%_off"),
    (f"{M} WHERE metrics /* or 'b' */ = -- or 'b'\n 'a' # or 'b'\n", "a"),
    ("select 1 from `bi_metrics` where bi_metrics.metrics='a'", "a"),
    ("SELECT 1 FROM game.bi_metrics WHERE metrics = 'a'", "a"),
    ("SELECT 1 FROM `game`.`bi_metrics` AS `m` WHERE `m`.`metrics` = 'a'", "a"),
    (f"{M} m WHERE m.metrics = 'a'", "a"),
    (f"{M} AS m WHERE 'a' = m.metrics", "a"),
    (f"{M} AS m WHERE m.metrics IN ('a', 'b') AND m.metric_date > '2025-01-01'", "a b"),
    (f"{M} USE INDEX (uq_metric_date) WHERE metrics = 'a'", "a"),
    (f"{M} m FORCE INDEX FOR ORDER BY (i) WHERE m.metrics = 'a'", "a"),
    # parentheses
    (f"{M} WHERE (metrics = 'a')", "a"),
    (f"{M} WHERE ((metrics = 'a' AND metric_date = '2025-01-01')) AND 1", "a"),
    (f"{M} WHERE (1 OR 2) AND (('a' = (metrics)) OR 1) AND metrics = 'b'", "b"),
    (f"{M} WHERE metric_date BETWEEN '2025-01-01' AND '2025-01-02' AND metrics = 'a'", "a"),
    (f"{M} WHERE metric_date BETWEEN %(start_date)s - INTERVAL 6 DAY AND %(metric_date)s AND metrics = 'a'", "a"),
    (f"{M} WHERE d NOT BETWEEN (SELECT 1) AND (2 AND 3) AND metrics = 'a'", "a"),
    (f"{M} WHERE NOT data_type = 'card' AND metrics = 'a'", "a"),
    (f"{M} WHERE metric_date = (CASE WHEN 1 AND 0 OR 1 THEN 2 END) AND metrics = 'a'", "a"),
    (f"{M} WHERE metrics = 'a' GROUP BY metrics HAVING COUNT(*) > 1 ORDER BY metrics DESC LIMIT 1", "a"),
    (f"{M} WHERE metrics = 'a' WINDOW w AS (PARTITION BY metrics)", "a"),
    (f"{M} WHERE metrics = 'a' INTO @x", "a"),
    ("SELECT @x := n FROM bi_metrics WHERE metrics = 'a'", "a"),
    ("SELECT LAG(n) OVER (PARTITION BY metrics ORDER BY metric_date) INTO @x FROM bi_metrics WHERE metrics = 'a'", "a"),
    ("SELECT /*+ MAX_EXECUTION_TIME(1000) */ 1 FROM bi_metrics WHERE metrics = 'a'", "a"),
    ("SELECT SQL_NO_CACHE DISTINCT metrics AS m FROM bi_metrics WHERE metrics = 'a'", "a"),
    # several tables
    (f"{M} JOIN users u ON (u.id = 1 OR 1 = 0) WHERE metrics = 'a'", "a"),
    (f"{M} m, users u WHERE m.metrics = 'a'", "a"),
    ("SELECT 1 FROM users u, bi_metrics WHERE metrics = 'a'", "a"),
    (f"{M} a JOIN bi_metrics b ON b.metric_date = a.metric_date WHERE a.metrics = 'a' AND b.metrics = 'b'", "a b"),
    (f"{M} a, bi_metrics AS b WHERE b.metrics = 'b' AND a.metrics = 'a'", "a b"),
    (f"{M} AS a JOIN bi_metrics b USING (metric_date) WHERE a.metrics = 'a' AND b.metrics IN ('b')", "a b"),
    (f"{M} JOIN calendar USING (metric_date) WHERE metrics = 'a'", "a"),
    ("SELECT 1 FROM users JOIN bi_metrics ON bi_metrics.metrics = 'a' AND 1", "a"),
    ("SELECT 1 FROM users u LEFT JOIN bi_metrics AS m ON m.metrics = 'a' AND m.metric_date = u.d", "a"),
    ("SELECT 1 FROM users u LEFT OUTER JOIN bi_metrics m ON u.d = 1 AND 'a' = m.metrics LEFT JOIN t ON 1", "a"),
    ("SELECT 1 FROM users u RIGHT JOIN bi_metrics m ON u.d = m.metric_date WHERE m.metrics = 'a'", "a"),
    ("SELECT 1 FROM u JOIN (t JOIN s ON 1) ON 1 CROSS JOIN bi_metrics m ON m.metrics = 'a' INNER JOIN v ON 1", "a"),
    ("SELECT 1 FROM u LEFT JOIN t LEFT JOIN bi_metrics m ON m.metrics = 'a' ON t.i = u.i", "a"),
    ("SELECT 1 FROM u STRAIGHT_JOIN bi_metrics m ON m.metrics = 'a'", "a"),
    (f"{M} m JOIN JSON_TABLE(m.value_list, '$[*]' COLUMNS (n INT PATH '$.n')) AS j WHERE m.metrics = 'a'", "a"),
    (f"{M}, JSON_TABLE(value_list, '$[*]' COLUMNS (n INT PATH '$.n')) AS j WHERE metrics = 'a'", "a"),
    ("SELECT 1 FROM bi_metric_cards WHERE metrics = 'a'", "a"),
    ("SELECT 1 FROM bi_metric_items i JOIN bi_metric_cards c ON c.metrics = 'b' WHERE i.metrics = 'a'", "a b"),
    # blocks
    (f"{M} WHERE metrics = 'a' UNION ALL {M} WHERE metrics = 'b' ORDER BY 1", "a b"),
    (f"({M} WHERE metrics = 'a') UNION ({M} WHERE metrics = 'b') LIMIT 1", "a b"),
    (f"{M} WHERE metrics = 'a' EXCEPT SELECT 1 FROM users INTERSECT {M} WHERE metrics = 'b'", "a b"),
    ("SELECT (SELECT n FROM bi_metrics WHERE metrics = 'a') / (SELECT n FROM bi_metrics WHERE metrics = 'b')", "a b"),
    ("SELECT 1 FROM { OJ bi_metrics m LEFT JOIN t ON 1 } WHERE m.metrics = 'a'", "a"),
    ("SELECT 1 FROM (SELECT n FROM bi_metrics WHERE metrics = 'a') AS x, LATERAL (SELECT 2) y", "a"),
    ("WITH q AS (SELECT n FROM bi_metrics WHERE metrics = 'a') SELECT 1 FROM q x JOIN q y ON x.n = 1 OR y.n = 2", "a"),
    ("WITH q (metrics) AS (SELECT n FROM bi_metrics WHERE metrics = 'a') SELECT 1 FROM q WHERE metrics = 'b'", "a"),
    (
        "WITH RECURSIVE q AS (SELECT n FROM bi_metrics WHERE metrics = 'a' UNION ALL SELECT q.n FROM q "
        f"JOIN bi_metrics m ON m.metrics = 'b') {M} WHERE metrics = 'c'",
        "a b c",
    ),
    ("SELECT 1 FROM users WHERE EXISTS (SELECT 1 FROM bi_metrics m WHERE m.metrics = 'a' AND m.d = users.d)", "a"),
    ("SELECT 1 FROM users WHERE NOT EXISTS (SELECT 1 FROM bi_metrics WHERE metrics = 'a') OR 1", "a"),
    ("SELECT 1 FROM users WHERE id IN (SELECT n FROM bi_metrics WHERE metrics = 'a' AND id IN (1, 2))", "a"),
    ("SELECT 1 FROM bi_metrics m WHERE m.metrics = 'a' AND n > (SELECT 1 FROM bi_metrics WHERE metrics = 'b')", "a b"),
    # other statements
    ("SET @n = (SELECT n FROM bi_metrics WHERE metrics = 'a')", "a"),
    ("DO (SELECT 1 FROM bi_metrics WHERE metrics = 'a')", "a"),
    ("CREATE TEMPORARY TABLE t AS SELECT * FROM bi_metrics WHERE metrics = 'b'; SELECT 'a' AS c FROM t", "b"),
    ("INSERT INTO bi_metrics (metrics) SELECT 'x' FROM users WHERE name = 'a'", ""),
    ("INSERT INTO game.bi_metrics (metrics) VALUES ('x')", ""),
    ("INSERT INTO bi_metrics (metrics) SELECT 'x' FROM users ON DUPLICATE KEY UPDATE f = bi_metrics.f", ""),
    ("INSERT INTO bi_metrics SELECT 'x' FROM bi_metrics WHERE metrics = 'a' ON DUPLICATE KEY UPDATE n = 1", "a"),
    ("INSERT INTO bi_metrics SELECT 'x', (SELECT 1 FROM bi_metrics WHERE metrics = 'x')", "x"),
    ("INSERT INTO h SELECT 1 ON DUPLICATE KEY UPDATE n = (SELECT n FROM bi_metrics WHERE metrics = 'a')", "a"),
    ("INSERT INTO bi_metrics WITH d AS (SELECT n FROM bi_metrics m WHERE m.metrics = 'a') SELECT 'x' FROM d", "a"),
    ("DELETE FROM h WHERE day IN (SELECT day FROM bi_metric_cards WHERE metrics = 'a')", "a"),
    # names that only look like ours or like keywords
    ("SELECT 1.FROM bi_metrics WHERE 1.5AND metrics = 'a'", "a"),
    ("SELECT 1e3FROM bi_metrics 7d WHERE 7d.metrics = 'a' AND 7d.1e5x = 1", "a"),
    ("SELECT 'FROM bi_metrics', \"bi_metrics\" -- bi_metrics\n /* FROM bi_metrics */", ""),
    ("SELECT my_bi_metrics, bi_metrics2 FROM bi_metrics_old", ""),
    ("SELECT t.from, t.where, `select` FROM bi_metrics t WHERE t.metrics = 'a'", "a"),
    (f"{M} m JOIN u ON u.group = m.on AND u.where = 1 WHERE m.metrics = 'a' AND u.order = 1", "a"),
    (f"{M} AS `where` WHERE `where`.metrics = 'a'", "a"),
    ("-- Check: SELECT 1 FROM bi_metrics\nSELECT 1", ""),
]

OR = "an OR that is not in parentheses"
ASSIGNED = "a := behind FROM"
NOT_FROM = "it is not named in the FROM of a SELECT"
NO_TERM = "metrics = 'name' in its WHERE or ON"
MAYBE_CODE = "some servers run the /*! */ comment"
OF_THE_RUN = "the run writes it for every metric"
UNCLEAR = [
    # SQL, why
    ("SELECT COUNT(*) FROM bi_metric_state WHERE metric = 'a'", OF_THE_RUN),
    ("SELECT 1 FROM users JOIN game.`BI_Metric_Changes` c ON c.metric = 'a'", OF_THE_RUN),
    (M, NO_TERM),
    (f"{M} WHERE metric_date = %(metric_date)s", NO_TERM),
    (f"{M} WHERE metrics = 'a' OR data_type = 'card'", OR),
    (f"{M} WHERE metrics = 'a' || 1", OR),
    (f"{M} WHERE metrics = 'a' AND n = 1 XOR 1", OR),
    *((f"{M} WHERE metrics = 'a' AND {number}OR 1", OR) for number in ("1.", "1.5", ".5", "1e5", "1.5E-3", "\\N")),
    (f"{M} WHERE n 1.5BETWEEN 0 AND metrics = 'a'", NO_TERM),
    (f"{M} WHERE (metrics = 'a' OR metrics = 'b')", NO_TERM),
    (f"{M} WHERE (metrics = 'a' AND 1 OR 1) AND 1", NO_TERM),
    (f"{M} JOIN users u ON u.id = 1 OR 1 = 0 WHERE metrics = 'a'", OR),
    (f"{M} WHERE NOT metrics = 'a'", NO_TERM),
    (f"{M} WHERE NOT (metrics = 'a')", NO_TERM),
    (f"{M} WHERE !(metrics = 'a')", NO_TERM),
    (f"{M} WHERE metrics <> 'a'", NO_TERM),
    (f"{M} WHERE metrics != 'a'", NO_TERM),
    (f"{M} WHERE metrics <=> 'a'", NO_TERM),
    (f"{M} WHERE metrics >= 'a'", NO_TERM),
    (f"{M} WHERE metrics NOT IN ('a')", NO_TERM),
    (f"{M} WHERE metrics LIKE 'a'", NO_TERM),
    (f"{M} WHERE metrics REGEXP '^a$'", NO_TERM),
    (f"{M} WHERE metrics BETWEEN 'a' AND 'a'", NO_TERM),
    (f"{M} WHERE metrics = @name", NO_TERM),
    (f"SET @n = 'a'; {M} WHERE metrics = @n", NO_TERM),
    (f"{M} WHERE metrics = %(name)s", NO_TERM),
    (f"{M} WHERE metrics = 'a' 'b'", NO_TERM),
    (f"{M} WHERE metrics = _utf8mb4'a'", NO_TERM),
    (f"{M} WHERE metrics = N'a'", NO_TERM),
    (f"{M} WHERE metrics = 'a' COLLATE utf8mb4_general_ci", NO_TERM),
    (f"{M} WHERE BINARY metrics = 'a'", NO_TERM),
    (f"{M} WHERE metrics = CONCAT('a', '')", NO_TERM),
    (f"{M} WHERE LOWER(metrics) = 'a'", NO_TERM),
    (f"{M} WHERE metrics = 'a' IS FALSE", NO_TERM),
    (f"{M} WHERE metrics = 'a' = 0", NO_TERM),
    (f"{M} WHERE 0 = (metrics = 'a')", NO_TERM),
    (f"{M} WHERE 'a' = metrics = 0", NO_TERM),
    (f"{M} WHERE metrics = data_type", NO_TERM),
    (f"{M} WHERE 'metrics' = 'a'", NO_TERM),
    (f"{M} WHERE 'a' = \"metrics\"", NO_TERM),
    (f"{M} WHERE (metrics, 1) = ('a', 1)", NO_TERM),
    (f"{M} WHERE (metrics, 1) IN (('a', 1), ('b', 1))", NO_TERM),
    (f"{M} WHERE metrics IN ('a', @b)", NO_TERM),
    (f"{M} WHERE metrics IN ('a', %(b)s)", NO_TERM),
    (f"{M} WHERE metrics IN ('a', CONCAT('b', ''))", NO_TERM),
    (f"{M} WHERE metrics IN ('a' 'b')", NO_TERM),
    (f"{M} WHERE metrics IN (SELECT name FROM parts)", NO_TERM),
    (f"{M} WHERE metrics = ANY (SELECT 'a')", NO_TERM),
    (f"{M} WHERE metrics IN ('a') IS NULL", NO_TERM),
    (f"{M} WHERE metric_date BETWEEN '2025-01-01' AND metrics = 'a'", NO_TERM),
    (f"{M} WHERE n BETWEEN 1 AND 2 = n BETWEEN 0 AND metrics = 'a'", NO_TERM),
    (f"{M} WHERE metric_date > '2025-01-01' - INTERVAL 1 AND metrics = 'a' AND 1 DAY", NO_TERM),
    (f"{M} WHERE CASE WHEN 1 AND metrics = 'a' AND 1 THEN 0 ELSE 1 END", NO_TERM),
    ("SELECT SUM(CASE WHEN metrics = 'a' THEN n END) FROM bi_metrics WHERE metric_date = 1", NO_TERM),
    ("SELECT SUM(IF(metrics = 'a', n, 0)) FROM bi_metrics", NO_TERM),
    (f"{M} WHERE 0 = {{x 1 AND metrics = 'a' AND 1}}", NO_TERM),
    (f"{M} WHERE 0 = @x := 1 AND metrics = 'a' AND 1", ASSIGNED),
    (f"{M} JOIN u ON (@n := @n + n) WHERE metrics = 'a'", ASSIGNED),
    (f"{M} HAVING metrics = 'a'", NO_TERM),
    (f"{M} WHERE n = 1 HAVING n > 1 AND metrics = 'a'", NO_TERM),
    (f"{M} WHERE n = 1 QUALIFY ROW_NUMBER() OVER () = 1 AND metrics = 'a'", NO_TERM),
    (f"{M} GROUP BY metrics = 'a' ORDER BY metrics = 'a'", NO_TERM),
    (f"{M} FOR SYSTEM_TIME ALL WHERE m.metrics = 'a'", NO_TERM),
    # whose condition is it
    (f"{M}, bi_metrics m WHERE metrics = 'a'", "no bi_metrics.metrics = 'name' in its WHERE or ON"),
    (f"{M} m JOIN bi_metrics y ON y.metrics = m.metrics AND m.metrics = 'a'", "no m.metrics = 'name'"),
    (f"{M} m, bi_metrics y WHERE m.metrics = 'a'", "no y.metrics = 'name'"),
    (f"{M} m, bi_metrics M WHERE m.metrics = 'a'", "no M.metrics = 'name'"),
    (f"{M} m WHERE bi_metrics.metrics = 'a'", NO_TERM),
    (f"{M} m WHERE game.m.metrics = 'a'", NO_TERM),
    ("SELECT 1 FROM BI_METRICS WHERE bi_metrics.metrics = 'a'", NO_TERM),
    (f"{M} m JOIN bi_metrics y USING (metrics, metric_date) WHERE m.metrics = 'a'", "no y.metrics = 'name'"),
    ("SELECT 1 FROM parts JOIN bi_metrics USING (metrics)", NO_TERM),
    ("SELECT 1 FROM parts JOIN bi_metrics USING (d, `metrics`) WHERE metrics = 'a'", NO_TERM),
    ("SELECT 1 FROM parts NATURAL JOIN bi_metrics WHERE metrics = 'a'", NO_TERM),
    ("SELECT 1 FROM parts NATURAL LEFT JOIN bi_metrics", NO_TERM),
    ("SELECT 1 FROM parts p JOIN bi_metrics m ON m.metrics = p.part", NO_TERM),
    ("SELECT 1 FROM u RIGHT JOIN bi_metrics m ON m.metrics = 'a'", NO_TERM),
    ("SELECT 1 FROM u RIGHT OUTER JOIN bi_metrics m ON m.metrics = 'a'", NO_TERM),
    ("SELECT 1 FROM u FULL OUTER JOIN bi_metrics m ON m.metrics = 'a'", NO_TERM),
    (f"{M} m LEFT JOIN u ON m.metrics = 'a'", NO_TERM),
    (f"{M} m LEFT JOIN u ON u.where AND m.metrics = 'a'", NO_TERM),
    ("SELECT 1 FROM t LEFT JOIN bi_metrics m LEFT JOIN u ON u.i = m.i ON m.metrics = 'a'", NO_TERM),
    ("SELECT 1 FROM u JOIN bi_metrics m ON u.d = m.d JOIN t ON m.metrics = 'a'", NO_TERM),
    ("SELECT 1 FROM u JOIN bi_metrics m USING (d) LEFT JOIN t ON m.metrics = 'a'", NO_TERM),
    ("SELECT 1 FROM u JOIN bi_metrics m ON m.metrics = 'a' AND LEFT(u.x, 1) = 'b' OR 1", OR),
    ("SELECT 1 FROM u JOIN bi_metrics m ON m.metrics = 'a' AND NEXT VALUE FOR s OR 1", OR),
    (f"{M} WHERE metrics = 'a' AND window = 1 OR 1", OR),
    ("INSERT INTO h SELECT 1 FROM u JOIN bi_metrics ON DUPLICATE KEY UPDATE n = 1 AND metrics = 'a'", NO_TERM),
    ("INSERT INTO h SELECT 1 FROM bi_metrics WHERE n = 1 ON DUPLICATE KEY UPDATE n = 1 AND metrics = 'a'", NO_TERM),
    # blocks
    (f"{M} WHERE metrics = 'a' UNION {M}", NO_TERM),
    (f"({M}) UNION {M} WHERE metrics = 'a'", NO_TERM),
    ("SELECT * FROM (SELECT * FROM bi_metrics) AS x WHERE metrics = 'a'", NO_TERM),
    ("WITH q AS (SELECT * FROM bi_metrics) SELECT 1 FROM q JOIN q r ON r.metrics = 'b' WHERE q.metrics = 'a'", NO_TERM),
    ("SELECT 1, (SELECT COUNT(*) FROM bi_metrics) FROM bi_metrics m WHERE m.metrics = 'a'", NO_TERM),
    ("SELECT 1 FROM bi_metrics m WHERE EXISTS (SELECT 1 FROM t WHERE m.metrics = 'a')", NO_TERM),
    (f"{M} m WHERE m.metrics = 'a' AND EXISTS (SELECT 1 FROM bi_metrics n WHERE m.metrics = 'b')", NO_TERM),
    ("SELECT 1 FROM u WHERE metrics IN (SELECT metrics FROM bi_metrics)", NO_TERM),
    # where it is not a table of a SELECT's FROM
    ("SELECT 1 FROM (bi_metrics m) WHERE m.metrics = 'a'", NOT_FROM),
    ("SELECT 1 FROM u JOIN (t JOIN bi_metrics m ON m.metrics = 'a') ON 1", NOT_FROM),
    ("SELECT 1 FROM (SELECT n FROM bi_metrics WHERE metrics = 'a' OR 1) x WHERE metrics = 'a'", OR),
    ("INSERT INTO h TABLE bi_metrics", NOT_FROM),
    ("SELECT 1 WHERE 1 IN (TABLE bi_metrics)", NOT_FROM),
    ("CREATE TEMPORARY TABLE t LIKE bi_metrics", NOT_FROM),
    ("SHOW COLUMNS FROM bi_metrics", NOT_FROM),
    ("DESCRIBE bi_metrics", NOT_FROM),
    ("SELECT bi_metrics FROM t WHERE metrics = 'a'", NOT_FROM),
    ("SELECT t.bi_metrics FROM t WHERE metrics = 'a'", NOT_FROM),
    ("SELECT 1 FROM t AS bi_metrics WHERE bi_metrics.metrics = 'a'", NOT_FROM),
    ("SELECT 1 FROM t bi_metrics WHERE bi_metrics.metrics = 'a'", NOT_FROM),
    ("WITH bi_metrics AS (SELECT 1) SELECT 1", NOT_FROM),
    ("SELECT 1 FROM t WHERE metrics = 'a' ORDER BY 1, bi_metrics", NOT_FROM),
    ("UPDATE h JOIN bi_metric_cards c ON c.metrics = 'a' SET h.n = 1", NOT_FROM),
    ("DELETE h FROM h JOIN bi_metric_items i ON i.metrics = 'a'", NOT_FROM),
    (f"{M} WHERE metrics = 'a' SELECT 2 FROM t", NOT_FROM),
    # code that only some servers run
    (f"{M} WHERE 1 /*!80000 AND metrics = 'a' */", MAYBE_CODE),
    ("SELECT 1 /*M! FROM bi_metrics WHERE metrics = 'a' */", MAYBE_CODE),
    (f"{M} WHERE metrics = 'a' /*! OR 1 */", MAYBE_CODE),
]  # fmt: skip


@pytest.mark.parametrize(("text", "names"), PLAIN)
def test_what_is_plain_is_read_by_name(text: str, names: str) -> None:
    found = reads(text)
    assert found.unclear == []
    assert found.metrics.keys() == ({names} if "'" in names else set(names.split()))


@pytest.mark.parametrize(("text", "why"), UNCLEAR)
def test_everything_else_is_unclear_and_says_why(text: str, why: str) -> None:
    reasons = [each.why for each in reads(text).unclear]
    assert any(why in each for each in reasons), reasons


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"SELECT 2;\n{M}\nWHERE metrics = 'a'\n  OR 1", "OR"),
        (f"{M} m, bi_metric_cards WHERE m.metrics = 'a'", "bi_metric_cards"),
        ("SELECT 1, (SELECT COUNT(*) FROM bi_metrics) FROM bi_metrics WHERE metrics = 'a'", "bi_metrics"),
    ],
)
def test_the_place_of_what_is_unclear_is_its_own(text: str, place: str) -> None:
    (unclear,) = reads(text).unclear
    assert (unclear.token.text, unclear.token.offset) == (place, text.index(place))


def test_a_name_has_the_place_of_its_first_literal() -> None:
    text = f"SELECT 'a'; {M} WHERE metrics = 'a'; {M} WHERE metrics = 'a'"
    assert reads(text).metrics["a"].offset == len("SELECT 'a'; " + M + " WHERE metrics = ")


@pytest.mark.parametrize(
    "text", ["UPDATE bi_metrics SET n = 1", "DELETE FROM bi_metrics", "REPLACE bi_metrics SELECT 1"]
)
def test_what_another_rule_refuses_is_not_called_unclear_as_well(text: str) -> None:
    assert reads(text).unclear == []


def test_other_metrics_make_no_difference_to_a_plain_query(server: Server) -> None:
    connection = connect(server)
    prepare(connection, "plain")
    found = list(judged(connection, "plain", seed=1, count=5000))
    connection.close()
    assert len(found) > 500
    assert [text for text, is_right in found if not is_right] == []


# --- tables and functions ---------------------------------------------------------------------------------------------

TABLES = [
    # SQL, tables that it reads
    ("SELECT plays FROM daily AS plays, game.b, (SELECT 1 FROM c) d JOIN e ON e.x = f.y, g", "daily game.b c e g"),
    ("SELECT a, b FROM t WHERE a IN (SELECT x FROM `U`) GROUP BY c, d ORDER BY e, f LIMIT 1, 2", "t u"),
    ("SELECT 1 FROM (a JOIN b ON a.i = b.i), ((c, d)) LEFT JOIN (e) ON 1", "a b c d e"),
    ("SELECT 1 FROM a LEFT JOIN b USING (i, j), c STRAIGHT_JOIN d NATURAL JOIN `e`", "a b c d e"),
    ("SELECT 1 FROM a USE INDEX FOR ORDER BY (i, j), b PARTITION (p0, p1), LATERAL (SELECT 1 FROM c) x", "a b c"),
    ("SELECT 1 FROM { OJ a LEFT OUTER JOIN b ON 1 }", "a b"),
    ("SELECT 1.FROM a WHERE 1 IN (SELECT 1.5e0FROM 7d) UNION SELECT .5FROM b", "a 7d b"),
    ("TABLE t; INSERT INTO h TABLE u; SELECT 1 WHERE 1 IN (TABLE v)", "t u v"),
    ("INSERT INTO h (a, b) SELECT a, b FROM t ON DUPLICATE KEY UPDATE a = VALUES(a), b = 1, c = 2", "t"),
    ("INSERT INTO h SELECT 1 FROM h", "h"),
    ("INSERT h SET a = 1, b = (SELECT 1 FROM u), c = 2", "u"),
    ("DELETE FROM h WHERE day IN (SELECT day FROM h)", ""),
    ("DELETE h FROM game.h JOIN t ON 1", "t"),
    ("DELETE FROM h USING h JOIN t", "t"),
    ("UPDATE h JOIN t ON 1 SET h.a = 1, h.b = 2 WHERE 1 IN (SELECT 1 FROM u)", "t u"),
    ("UPDATE h, t SET h.a = t.a, b = 2", "t"),
    ("WITH q AS (SELECT 1 FROM a) SELECT 1 FROM q", "a q"),
    ("SELECT a FROM t UNION ALL SELECT b, c FROM u INTO @x, @y", "t u"),
    ("SELECT a.t, u.b, c FROM `order` o, `a``b`", "order a`b"),
    ("CREATE TEMPORARY TABLE t SELECT 1 FROM a; DROP TEMPORARY TABLE t", "a t"),
    ("SET @a = (SELECT 1 FROM a), @b = 2", "a"),
    ("SELECT 1 FROM JSON_TABLE('[]', '$' COLUMNS (a INT PATH '$.a')) j, t", "json_table t"),
]


@pytest.mark.parametrize(("text", "expected"), TABLES)
def test_the_tables_that_are_read_are_those_where_a_table_stands_but_not_the_target(text: str, expected: str) -> None:
    assert list(map(str, reads(text).tables)) == expected.split()


def test_functions_are_names_before_a_parenthesis() -> None:
    found = reads("SELECT game.`F1` (1), COUNT(*), f2 FROM t").functions
    assert found.keys() == {Table("game", "f1"), Table("", "count")}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("", "H"), ("", "h"), True), (("game", "h"), ("", "h"), True), (("Game", "h"), ("game", "h"), True),
        (("game", "h"), ("other", "h"), False), (("", "h"), ("", "h2"), False),
    ],
)  # fmt: skip
def test_a_table_without_a_schema_may_be_of_any(one: tuple[str, str], other: tuple[str, str], same: bool) -> None:
    assert Table(*one).is_same(Table(*other)) is same


# --- views and stored functions ---------------------------------------------------------------------------------------


def test_a_view_reads_what_the_views_and_functions_in_it_read() -> None:
    behind = reads_behind({
        "plain": "select `game`.`t`.`a` AS `a` from `game`.`t`",
        "direct": "select `game`.`bi_metrics`.`n` AS `n` from `game`.`bi_metrics` where metrics = 'a'",
        "cards": "select 1 from `game`.`bi_metric_cards`",
        "bi_metric_cards": "select 1 from `game`.`bi_metrics`",
        "over": "select 1 from (`game`.`plain` join `game`.`direct` on(1))", "game.direct": "select 1 from bi_metrics",
        "game.bi_metric_cards": "select 1 from `game`.`bi_metrics`", "game.plain": "select 1 from `game`.`t`",
        "f()": "BEGIN DECLARE n INT; SELECT MAX(a) INTO n FROM u; RETURN g(n) + 1; END",
        "g()": "RETURN (SELECT COUNT(*) FROM `plain`)",
        "ansi()": 'RETURN (SELECT COUNT(*) FROM "bi_metrics")',
        "other.f()": "RETURN (SELECT 1 FROM v)", "other.v": "select 1 from `game`.`bi_metrics`",
        "v": "select 1 from `t`",
        "secret": "",
        "over_secret": "select 1 from `game`.`secret`", "game.secret": "",
        "round": "select 1 from around", "around": "select 1 from round, h",
    })  # fmt: skip
    assert {name: each.hides for name, each in behind.items() if each.hides} == {
        "direct": "direct reads bi_metrics", "cards": "cards reads bi_metrics", "over": "game.direct reads bi_metrics",
        "game.direct": "game.direct reads bi_metrics", "other.f()": "other.v reads bi_metrics",
        "other.v": "other.v reads bi_metrics",
        "ansi()": "ansi() reads bi_metrics", "secret": "this account may not read the definition of secret",
        "over_secret": "this account may not read the definition of game.secret",
        "game.secret": "this account may not read the definition of game.secret",
    }  # fmt: skip
    assert behind["f()"].tables == {Table("", "u"), Table("", "plain"), Table("game", "t")}
    assert behind["round"].tables == behind["around"].tables == {Table("", name) for name in ("round", "around", "h")}


@pytest.mark.parametrize(
    ("body", "written"),
    [
        ("UPDATE a JOIN b ON a.id = b.id SET y = 9", "a b"),
        ("UPDATE a, b SET a.x = 1, y = 9 WHERE a.id = b.id", "a b"),
        ("UPDATE a JOIN b ON a.id = b.id SET b.y = 9", "b"),
        ("UPDATE a AS q JOIN b ON q.id = b.id SET q.x = 9", "a"),
        ("UPDATE game.a JOIN game.b ON a.id = b.id SET game.b.y = 9", "game.b"),
        ("UPDATE (a JOIN b ON a.id = b.id) SET b.y = IF(b.y = 1, 2, 3)", "b"),
        ("UPDATE IGNORE (a JOIN b ON a.id = b.id) SET y = 9", "a b"),
        ("UPDATE a JOIN (SELECT id FROM c) AS b ON a.id = b.id SET x = (SELECT MAX(n) FROM d)", "a"),
        ("UPDATE a SET x = 9, y = 2 WHERE id IN (SELECT id FROM b) ORDER BY id, x LIMIT 1", "a"),
        ("UPDATE `A` SET x = 9", "a"),
        ("DELETE b FROM (a JOIN b ON a.id = b.id)", "b"),
        ("DELETE FROM a WHERE id IN (SELECT id FROM b)", "a"),
        ("INSERT INTO a (id, x) SELECT id, y FROM b ON DUPLICATE KEY UPDATE x = 1, id = 2", "a"),
        ("SELECT x INTO @x FROM b FOR UPDATE", ""),
    ],
)
def test_code_writes_the_tables_that_a_column_of_set_may_be_of(body: str, written: str) -> None:
    behind = reads_behind({"f()": f"BEGIN {body}; RETURN 1; END"})
    assert " ".join(sorted(map(str, behind["f()"].written))) == written


def test_a_closure_holds_where_it_began_only_if_a_way_leads_back() -> None:
    graph = {"a": ["b"], "b": ["c"], "c": ["b"], "d": ["d"]}
    assert [closure([name], graph) for name in "abcdx"] == [{"b", "c"}, {"b", "c"}, {"b", "c"}, {"d"}, set()]
