"""The tables and views of sql/schema.sql: what a dashboard reads, by which index, and who may do without."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import Any

import pymysql
import pytest

from tests.conftest import ROOT, Database, Project, metric_sql

ROWS = [
    ("users", "card", '{"total": 2412, "share": 0.5, "note": "up", "none": null, "a \\"b\\" c": -1}', "2025-01-15"),
    ("revenue", "card", '{"revenue": 518666.90}', "2025-01-15"),
    ("empty", "card", "null", "2025-01-15"),
    ("blank", "card", '"not computed yet"', "2025-01-15"),
    ("top", "ranking", '[{"title": "Café \\"X\\"", "plays": 7}, {"title": null, "plays": 5}]', "2025-01-15"),
    ("nobody", "ranking", "[]", "2025-01-15"),
]


@pytest.fixture
def filled(database: Database) -> Database:
    """A database with a row of every kind."""
    with database.connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date) "
            "VALUES (%s, %s, '[]', %s, %s)",
            ROWS,
        )
    return database


def test_the_view_of_cards_has_a_row_per_field_with_its_number(filled: Database) -> None:
    rows = filled.rows("SELECT metrics, field, value, is_final FROM bi_metric_cards ORDER BY metrics, field")
    assert [row[:3] for row in rows] == [
        ("revenue", "revenue", Decimal("518666.90")), ("users", 'a "b" c', -1), ("users", "none", None),
        ("users", "note", None), ("users", "share", Decimal("0.5")), ("users", "total", 2412),
    ]  # fmt: skip
    assert {row[3] for row in rows} == {1}
    # The mark of a row that is not final is before the end of its date in every time zone.
    filled.execute("UPDATE bi_metrics SET updated_at = FROM_UNIXTIME(86400)")
    for zone in ("-12:00", "+13:00"):
        filled.execute(f"SET time_zone = '{zone}'")
        assert filled.rows("SELECT DISTINCT is_final FROM bi_metric_cards") == [(0,)]


def test_the_view_of_items_has_a_row_per_field_of_each_item(filled: Database) -> None:
    rows = filled.rows("SELECT metrics, item, field, value, value_text FROM bi_metric_items ORDER BY item, field")
    assert [(*row[:4], None if row[4] == "null" else row[4]) for row in rows] == [
        ("top", 1, "plays", 7, "7"), ("top", 1, "title", None, 'Café "X"'), ("top", 2, "plays", 5, "5"),
        ("top", 2, "title", None, None),
    ]  # fmt: skip


@pytest.mark.parametrize("view", ["bi_metric_cards", "bi_metric_items"])
def test_a_metric_and_its_dates_reach_the_unique_key_through_a_view(filled: Database, view: str) -> None:
    values = ", ".join(f"('m{n % 40}', '[]', '{{}}', '2025-01-01' + INTERVAL {n // 40} DAY)" for n in range(4000))
    filled.execute(f"INSERT INTO bi_metrics (metrics, f_list, value_list, metric_date) VALUES {values}; "
                   "ANALYZE TABLE bi_metrics")  # fmt: skip
    with filled.connection.cursor(pymysql.cursors.DictCursor) as cursor:
        cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL SELECT * FROM {view} "
                       "WHERE metrics = 'm7' AND metric_date BETWEEN '2025-01-02' AND '2025-01-05'")  # fmt: skip
        plan: dict[str, Any] = next(row for row in cursor.fetchall() if row["table"] == "m")
    assert (plan["type"], plan["key"], int(plan["rows"]) < 10) == ("range", "uq_metric_date", True), plan


def apply(project: Project, **env: str) -> subprocess.CompletedProcess[str]:
    """Apply the schema as ./setup.sh --schema does."""
    return subprocess.run(
        [sys.executable, "-m", "src.storage.schema"], cwd=ROOT, env=project.environment({"DB_HOST": "", **env}),
        text=True, capture_output=True, check=False,
    )  # fmt: skip


def test_an_account_without_views_gets_the_tables_and_a_line_for_each_view(project: Project) -> None:
    database = project.database
    account = f"{database.name}_plain"
    database.execute(
        f"DROP VIEW bi_metric_cards, bi_metric_items; DROP TABLE bi_metrics, bi_metric_runs; CREATE USER {account}; "
        f"GRANT SELECT, INSERT, UPDATE, CREATE, ALTER, INDEX ON {database.name}.* TO {account}"
    )
    applied = apply(project, DB_USER=account)
    database.execute(f"DROP USER {account}")
    assert applied.returncode == 0, applied.stderr
    first, second, empty, last = applied.stdout.splitlines()
    assert empty.startswith("bi_metrics is empty; load the history next: python run_metrics.py --initial")
    assert first.startswith("without the view bi_metric_cards: (1142) CREATE VIEW command denied"), first
    assert second.startswith("without the view bi_metric_items: (1142)")
    assert last.startswith("sql/schema.sql is applied to ")
    assert [row[0] for row in database.rows("SHOW TABLES")] == ["bi_metric_runs", "bi_metrics"]


def test_tables_of_the_first_version_get_the_index_and_keep_their_rows(project: Project) -> None:
    database = project.database
    database.execute(
        "ALTER TABLE bi_metrics DROP KEY idx_state, ADD KEY idx_metric_date (metric_date); "
        "INSERT INTO bi_metrics (metrics, f_list, value_list, metric_date) VALUES ('m', '[]', '1', '2025-01-15')"
    )
    assert apply(project).stdout.splitlines()[0] == "added the index idx_state to bi_metrics"
    assert len(apply(project).stdout.splitlines()) == 1
    assert database.metrics() == [("m", "2025-01-15", "1")]


def test_a_unique_key_on_an_expression_disturbs_no_run(project: Project) -> None:
    if "MariaDB" in project.database.rows("SELECT VERSION()")[0][0]:
        pytest.skip("MariaDB has no keys on expressions")
    project.database.execute("ALTER TABLE bi_metrics ADD UNIQUE KEY by_text ((CONCAT(metrics, metric_date)))")
    project.write("m.sql", metric_sql("m"))
    assert project.run("2025-01-15").returncode == 0
