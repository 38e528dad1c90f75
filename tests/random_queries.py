"""Random queries on bi_metrics, and the judge of what their text says: the rows of all other metrics change.

A query that is plain reads the metrics that it names and no other, so its result stays when the others are deleted or
have other values. Of odd SQL, the server is asked what it means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Any

import pymysql

from src.metric_file.file import parse
from src.metric_file.reads import reads_of
from tests.conftest import run_script

NAMES = ("a", "A", "b", "c")
OTHERS = ("kept", "deleted", "changed")  # what has become of the metrics that a query does not name
JOINS = ("JOIN", "LEFT JOIN", "RIGHT JOIN", "INNER JOIN", "STRAIGHT_JOIN", "LEFT OUTER JOIN", "RIGHT OUTER JOIN",
         "NATURAL JOIN", "NATURAL LEFT JOIN", "CROSS JOIN", ",")  # fmt: skip
SEPARATORS = ("AND",) * 30 + ("&&", "&&", "OR", "XOR", "||", "BETWEEN 0 AND", "IS NOT NULL AND", "= 1 AND", "AND NOT",
                              "AND 1.5OR", "AND .5XOR", "AND 1e0BETWEEN 0 AND")  # fmt: skip
LITERALS = ("'{}'",) * 30 + ('"{}"', "'{}' ''", "_utf8mb4'{}'", "('{}')", "@v", "CONCAT('{}', '')",
                             "'{}' COLLATE utf8mb4_general_ci")  # fmt: skip
COMPARISONS = ("{} = {}",) * 24 + (
    "{1} = {0}", "{} IN ({})", "{} IN ({}, 'b')", "({} = {})", "(({} IN ({})))", "{} <> {}", "{} LIKE {}", "{} <=> {}",
    "{} = {} IS TRUE", "{} = {} IS NULL", "NOT {} = {}", "!({} = {})", "{} = {} = 0", "1 = {} = {}", "{} NOT IN ({})",
    "({}, 1) = ({}, 1)", "{} = {} + 0", "{} IN (SELECT name FROM u)", "IF({} = {}, 1, 1)", "@x := {} = {}",
    "0 = {{x 1 AND {} = {} AND 1}}", "0 = @x := 1 AND {} = {}",
    "{} = {} BETWEEN 0 AND 1", "CASE WHEN 1 AND {} = {} AND 1 THEN 0 ELSE 1 END",
    "'2025-01-01' - INTERVAL 1 AND {} = {} AND 1 DAY",
)  # fmt: skip
TERMS = ("1", "(1 OR 0)", "1.AND 1", "{}.n > 0", "{}.metric_date BETWEEN '2025-01-01' AND '2025-01-03'",
         "{}.metric_date >= '2025-01-02' - INTERVAL 1 DAY", "NOT {}.n = 3", "(CASE WHEN {}.n > 3 THEN 1 ELSE 0 END)",
         "EXISTS (SELECT 1 FROM u WHERE u.k = 1 OR u.d = {}.metric_date)",
         "{}.n IN (SELECT n FROM bi_metrics x WHERE x.metrics = 'b')")  # fmt: skip


@dataclass
class Queries:
    """Makes one query after the other."""

    rng: Random
    aliases: int = 0

    def query(self) -> str:
        text, one_more = self.select(0), self.select(1)
        forms = ("{}",) * 8 + (
            "WITH q AS ({1}) SELECT COUNT(*) FROM q x JOIN q y", "SELECT COUNT(*) FROM t WHERE EXISTS ({})",
            "SELECT COUNT(*) FROM ({1}) z WHERE 'a' = 'a'", "WITH q AS ({1}) {0}", "{1} UNION ALL {1}",
        )  # fmt: skip
        return self.rng.choice(forms).format(text, one_more)

    def select(self, depth: int) -> str:
        tables, aliases = self.tables(depth)
        items = self.rng.choice(("COUNT(*) AS c", f"SUM({aliases[0]}.n) AS c", "COUNT(*) AS c, MIN(1) AS one"))
        text = f"SELECT {items if depth or self.rng.random() < 0.7 else '*'} FROM {tables}"
        if self.rng.random() < 0.85:
            text += f" WHERE {self.condition(aliases, 0)}"
        if self.rng.random() < 0.06:
            text += f" HAVING {self.condition(aliases[:1], 1)}"
        if depth < 2 and self.rng.random() < 0.06:
            text += f" {self.rng.choice(('UNION ALL', 'UNION', 'EXCEPT'))} {self.select(depth + 1)}"
        return text

    def tables(self, depth: int) -> tuple[str, list[str]]:
        """Return what follows FROM, and the names of the tables of metrics in it, at least one."""
        text, alias = self.metrics_table()
        aliases = [alias]
        for _ in range(self.rng.choice((0, 0, 0, 1, 1, 2))):
            join, kind = self.rng.choice(JOINS), self.rng.random()
            table, alias = self.metrics_table()
            if kind < 0.6:
                aliases.append(alias)
            elif kind < 0.85 or depth:
                table = f"t t{self.aliases}"
            else:
                table = f"({self.select(depth + 1)}) d{self.aliases}"
            on = self.rng.choice((
                f" ON {self.condition(aliases, 0)}", f" ON {self.condition(aliases[-1:], 0)}", " ON 1 = 1",
                " USING (metrics)", " USING (metric_date)",
            ))  # fmt: skip
            text, table = (table, text) if self.rng.random() < 0.3 else (text, table)
            text += f"{' ' * (join != ',')}{join} {table}{on if join[-4:] == 'JOIN' and 'NATURAL' not in join else ''}"
        return text, aliases

    def metrics_table(self) -> tuple[str, str]:
        self.aliases += 1
        table = self.rng.choice(("bi_metrics", "bi_metrics", "`bi_metrics`", "bi_metric_cards"))
        alias = self.rng.choice((f"m{self.aliases}", f"M{self.aliases}", f"m{self.aliases}", table.strip("`")))
        return (table if alias in table else f"{table} {self.rng.choice(('', 'AS '))}{alias}"), alias

    def condition(self, aliases: list[str], depth: int) -> str:
        terms = [self.comparison(alias) for alias in aliases if self.rng.random() < 0.85]
        terms += [self.rng.choice(TERMS).format(self.rng.choice(aliases)) for _ in range(self.rng.randrange(3))]
        if depth < 2 and self.rng.random() < 0.25:
            terms.append(f"{self.rng.choice(('', '', 'NOT '))}({self.condition(aliases, depth + 1)})")
        self.rng.shuffle(terms)
        text = terms.pop() if terms else "1"
        for term in terms:
            text += f" {self.rng.choice(SEPARATORS)} {term}"
        return text

    def comparison(self, alias: str) -> str:
        owner = self.rng.choice((f"{alias}.",) * 5 + ("", "", "bi_metrics.", f"`{alias}`."))
        column = self.rng.choice(("metrics", "metrics", "`metrics`", "METRICS"))
        literal = self.rng.choice(LITERALS).format(self.rng.choice(NAMES))
        return self.rng.choice(COMPARISONS).format(owner + column, literal)


def prepare(connection: Any, prefix: str) -> None:
    """Create a database for each set of names that a query may have, and for each fate of the other metrics."""
    for some in (set(chosen) for size in range(len(NAMES) + 1) for chosen in combinations(NAMES, size)):
        for fate in OTHERS:
            rows = []
            for number, name in enumerate(NAMES):
                n = number if name in some or fate == "kept" else 1000 + 7 * number
                if name in some or fate != "deleted":
                    rows += [f"({10 * number + day}, '{name}', {n + day}, '2025-01-0{day}')" for day in (1, 2, 3)]
            run_script(connection, f"""
                CREATE DATABASE {_database(prefix, some, fate)} COLLATE utf8mb4_general_ci;
                USE {_database(prefix, some, fate)};
                CREATE TABLE bi_metrics (id INT PRIMARY KEY, metrics VARCHAR(100) COLLATE utf8mb4_bin NOT NULL, n INT,
                                         metric_date DATE NOT NULL, UNIQUE KEY (metrics, metric_date));
                CREATE VIEW bi_metric_cards AS SELECT metrics, n, metric_date FROM bi_metrics;
                CREATE TABLE t (d DATE, k INT, metrics VARCHAR(100));
                CREATE TABLE u (d DATE, k INT, name VARCHAR(100));
                INSERT INTO t VALUES ('2025-01-01', 1, 'a'), ('2025-01-02', 2, 'B'), ('2025-01-03', 3, 'x');
                INSERT INTO u VALUES ('2025-01-01', 1, 'a'), ('2025-01-02', 5, 'b');
                {f"INSERT INTO bi_metrics VALUES {', '.join(rows)}" if rows else "DO 1"}""")


def judged(connection: Any, prefix: str, seed: int, count: int) -> Iterator[tuple[str, bool]]:
    """Yield those of `count` queries that are plain and run, and whether other metrics made no difference."""
    # MySQL 9.7 counts a row twice in a semi-join beside a LEFT JOIN, if its plan, which goes by row counts, says so.
    run_script(connection, "SET optimizer_switch = 'semijoin=off'")
    for number in range(count):
        text = Queries(Random(seed * 1_000_003 + number)).query()
        found = reads_of(parse(text).statements)
        if found.unclear:
            continue
        results = []
        with connection.cursor() as cursor:
            try:
                for fate in OTHERS:
                    cursor.execute(f"USE {_database(prefix, found.metrics.keys(), fate)}; SET @v = 'c', @x = NULL")
                    while cursor.nextset():
                        pass
                    cursor.execute(text)
                    results.append(sorted(map(repr, cursor.fetchall())))
            except pymysql.err.Error:
                continue  # no SQL, or none on this engine
        yield text, results == results[:1] * len(OTHERS)


def _database(prefix: str, names: Any, fate: str) -> str:
    return f"{prefix}_{''.join(str(int(name in names)) for name in NAMES)}_{fate}"
