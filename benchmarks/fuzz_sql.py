"""Runs random and mutated texts through the reader, the binder and the rules: python -m benchmarks.fuzz_sql [N] [SEED]

A text that makes one of them raise or lose a character is printed with its seed; the slowest one is timed.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace
from pathlib import Path

from src.metric_file.checks import check_catalog
from src.metric_file.file import MetricFile, Mode, parse
from src.metric_file.server_checks import _may_have_a_key, _zones
from src.metric_file.text import bind, literal, read
from src.sql_loader import Catalog

SQL = Path(__file__).resolve().parent.parent / "sql"
FRAGMENTS = r"""
    '' ' " "" ` `` \ \' ; -- # /* */ /*! /*!80000 /*M! /*+ %% % %(a)s %(metric_date)s %(dates)s ( ) , . = + - @ @@
    @x SELECT INSERT INTO bi_metrics metrics REPLACE UPDATE DELETE FROM JOIN ON WITH SET STATEMENT autocommit SESSION
    VALUES AS DATE( CAST( JSON_EXTRACT( SUM( NOW() CURDATE() UUID( CURRENT_TIMESTAMP created_at = BETWEEN AND WHERE a b
    DUPLICATE KEY 'x' IN ( LIKE := INTO OUTFILE FOR NOT USE
    CONVERT_TZ( INTERVAL 1 DAY %(day_end_utc)s CASE END NULL -- -
    bi_metric_cards metrics = 'y' m.metrics OR XOR || && CASE END INTERVAL DAY LEFT RIGHT NATURAL USING v f( GROUP
    GET_LOCK( UNION TABLE CREATE TEMPORARY TABLE DROP \G DELIMITER é 0 1.5
    ORDER BY HAVING LIMIT EXCEPT ALL { OJ"""
PIECES = [
    *FRAGMENTS.split(),
    *[
        "\n",
        "\r\n",
        "\x00",
        "\x1b",
        "\udce9",
        "\u2028",
        "-- Metric: x\n",
        "-- Check: SELECT 1\n",
        "-- Allow: header\n",
        "-- Reads: x, y\n",
        "-- Empty: {\n",
        "-- Data Type: pie\n",
    ],
]


def made_up(rng: random.Random, shipped: list[str]) -> str:
    kind = rng.randrange(4)
    if kind == 0:
        return "".join(chr(rng.randrange(1, 0x300)) for _ in range(rng.randrange(200)))
    if kind == 1:
        return rng.choice(["", " "]).join(rng.choices(PIECES, k=rng.randrange(60)))
    return mutated(rng, rng.choice(shipped), changes=rng.randrange(1, 6))


def mutated(rng: random.Random, text: str, changes: int) -> str:
    for _ in range(changes):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice([0, 0, 1, 5, 200]))
        text = text[:start] + rng.choice([rng.choice(PIECES), "", text[:end][-20:]]) + text[end:]
    return text


def one(text: str, mode: Mode | None) -> None:
    assert "".join(token.text for token in read(text)) == text
    script = parse(text)
    file = MetricFile("x", "sql/x.sql", mode, None, False, script)
    other = MetricFile("y", "sql/y.sql", None, 1, False, parse("SELECT 1"))
    catalog = Catalog((file, other))
    views = {"v": text, "f()": "", "a": "SELECT 1 FROM v, y"}
    catalog = replace(catalog, stored=frozenset({"x", "z"}) if len(text) % 2 else None, behind_sql=views)
    for problem in check_catalog(catalog, catalog.files, ["cutoff_date"], "game"):
        assert "\n" not in str(problem)
        assert str(problem).isprintable()
        assert 1 <= problem.line <= text.count("\n") + 1
        assert problem.column >= 1
    assert (
        catalog.reads.keys()
        == catalog.dependents.keys()
        == catalog.inputs.keys()
        == catalog.known - catalog.work_tables
    )
    assert catalog.names | catalog.helper_names | catalog.work_tables == {"x", "y"}
    assert len(catalog.definition("x")) == 16
    use(file)


def use(file: MetricFile) -> None:
    script = file.script
    statements = (*script.statements, *(check.statement for check in script.checks))
    values = {t.text[2:-2]: literal(t.text) for s in statements for t in s.tokens if t.kind == "parameter"}
    for statement in script.statements:
        sent, text = bind(statement, values), "".join(token.text for token in statement.tokens)
        assert "%" in text or sent == text
        assert all(isinstance(offset, int) for _, offset in _zones(statement, {}))
        assert _may_have_a_key(statement) in (True, False)
    for check in script.checks:
        bind(check.statement, values)
    assert file.is_helper or script.statements
    assert file.temporary_tables.isdisjoint({""})


def main(count: int, seed: int) -> int:
    shipped = [path.read_text("utf-8") for path in sorted(SQL.rglob("*.sql"))]
    slowest, started = 0.0, time.perf_counter()
    for number in range(count):
        rng = random.Random(seed * 1_000_003 + number)
        text = made_up(rng, shipped)
        before = time.perf_counter()
        try:
            one(text, rng.choice([None, *Mode]))
        except Exception:
            print(f"seed {seed}, text {number}: {text!r}")
            raise
        slowest = max(slowest, time.perf_counter() - before)
    seconds = time.perf_counter() - started
    print(f"seed {seed}: {count} texts in {seconds:.0f} s, the slowest {slowest * 1000:.0f} ms, none failed")
    return 0


if __name__ == "__main__":
    count, seed, *_ = [*map(int, sys.argv[1:]), *(200_000, 1)[len(sys.argv) - 1 :]]
    sys.exit(main(count, seed))
