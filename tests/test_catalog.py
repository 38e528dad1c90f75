"""bi_metric_catalog: what dashboards learn of each metric, from the headers of the files and from what is stored."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from tests.conftest import Project, connect, metric_sql, run_script

YESTERDAY = date.today() - timedelta(days=1)
HEADER = "-- Title: Money made\n-- Unit: EUR\n-- Owner: ann@example.com\n-- Tags: Money, weekly"
COLUMNS = "metric, title, description, data_type, unit, owner, tags, period"


def described(project: Project) -> list[tuple[str, ...]]:
    return project.database.rows(f"SELECT {COLUMNS} FROM bi_metric_catalog ORDER BY metric")


def test_the_catalog_has_the_header_the_fields_and_the_states_of_each_metric(project: Project) -> None:
    project.write("m.sql", metric_sql("m", header=HEADER))
    week = "-- Description: A week\n-- Period: week\n-- Data Type: ranking\n"
    project.write("w.sql", f"{week}SELECT 1 AS b, %(metric_date)s AS a")
    project.write("later.sql", "-- Description: No row yet\nSELECT 1 AS n")
    project.write("h.sql", "-- Description: A helper\nDELETE FROM filled;\nINSERT INTO filled SELECT 1;\n")
    project.database.execute("CREATE TABLE filled (n INT)")
    assert project.run("2025-01-05", "--metric", "m", "--metric", "w").returncode == 0
    assert described(project) == [
        ("later", "later", "No row yet", "card", "", "", "", "day"),
        ("m", "Money made", "Made for a test", "card", "EUR", "ann@example.com", "money, weekly", "day"),
        ("w", "w", "A week", "ranking", "", "", "", "week"),
    ]
    assert project.run("2025-01-06", "2025-01-09", "--metric", "m").returncode == 0
    project.database.execute(
        "DELETE FROM bi_metric_state WHERE state = 'missing';"  # recent dates without a row
        "UPDATE bi_metric_state SET state = DAY(metric_date) - 5 WHERE metric_date >= '2025-01-06'"  # of an ENUM
    )
    columns = "fields, newest_final, missing, open, reopened, waiting, final"
    assert project.database.rows(f"SELECT {columns} FROM bi_metric_catalog ORDER BY metric") == [
        (None, None, 0, 0, 0, 0, 0), ('["n"]', date(2025, 1, 5), 1, 1, 1, 1, 1),
        ('["b", "a"]', date(2025, 1, 5), 0, 0, 0, 0, 1),
    ]  # fmt: skip


def test_a_run_writes_only_the_headers_that_have_changed(project: Project) -> None:
    for name in ("a", "b"):
        project.write(f"{name}.sql", metric_sql(name))
    assert project.run(str(YESTERDAY)).returncode == 0
    project.database.execute("UPDATE bi_metric_headers SET owner = 'by hand' WHERE metric = 'a'")
    project.database.execute(
        "CREATE TRIGGER i BEFORE INSERT ON bi_metric_headers FOR EACH ROW "
        "SET @refused = (SELECT NEW.metric WHERE NEW.metric <> 'a' UNION ALL SELECT 1 WHERE NEW.metric <> 'a')"
    )  # two rows where one must be: an error for every row but that of a
    assert project.run(str(YESTERDAY)).stderr == ""
    assert [row[5] for row in described(project)] == ["", ""]
    project.database.execute("DROP TRIGGER i")
    with connect(project.database.server, project.database.name) as locked:
        run_script(locked, "LOCK TABLES bi_metric_headers READ")  # a write would wait for it
        assert project.run(str(YESTERDAY), env={"METRIC_TIMEOUT_SECONDS": "5"}).stderr == ""


@pytest.mark.parametrize("words", [["--dry-run"], ["--verify"]])
def test_what_stores_nothing_does_not_fill_the_catalog(project: Project, words: list[str]) -> None:
    project.write("m.sql", metric_sql("m"))
    dates = ["2025-01-14", "2025-01-15"]
    assert project.run(*dates, *words).returncode == 0
    assert described(project) == []


def test_a_metric_without_a_file_stays_in_the_catalog_while_it_has_rows(project: Project) -> None:
    file = project.write("gone.sql", metric_sql("gone", header=HEADER))
    project.write("m.sql", metric_sql("m"))
    project.database.execute(
        "INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date) "
        "VALUES ('older', 'timeseries', '[]', '[]', '2025-01-15')"
    )
    assert project.run("2025-01-15").returncode == 0
    file.unlink()
    assert project.run("2025-01-15").returncode == 0
    assert [row[:2] for row in described(project)] == [("gone", "Money made"), ("m", "m"), ("older", "older")]
    assert described(project)[2][3] == "timeseries"
    project.database.execute("DELETE FROM bi_metrics WHERE metrics <> 'm'")
    assert project.run("2025-01-15").returncode == 0
    assert [row[0] for row in described(project)] == ["m"]


def test_a_header_that_is_too_long_or_not_utf8_ends_no_run(project: Project) -> None:
    project.write("long.sql", metric_sql("long", header=f"-- Title: {'é' * 300}"))
    broken = metric_sql("broken", header="-- Owner: caf\xe9").encode("latin-1")
    (project.folder / "sql" / "broken.sql").write_bytes(broken)
    project.write(f"{'n' * 101}.sql", metric_sql("n"))
    done = project.run("2025-01-15", "--metric", "long")
    assert (done.returncode, "header" in done.stderr) == (0, False)
    assert [(row[0], row[1], row[5]) for row in described(project)] == [
        ("broken", "broken", r"caf\udce9"), ("long", "é" * 255, "")
    ]  # fmt: skip


def test_a_run_without_the_right_to_write_the_catalog_stores_its_numbers_and_warns(project: Project) -> None:
    project.write("m.sql", metric_sql("m"))
    name, account = project.database.name, f"{project.database.name}_plain"
    project.database.execute(
        f"CREATE USER {account}; GRANT SELECT ON {name}.* TO {account}; "
        f"GRANT INSERT, UPDATE ON {name}.bi_metrics TO {account}; "
        f"GRANT INSERT, UPDATE, DELETE ON {name}.bi_metric_state TO {account}"
    )
    try:
        done = project.run("2025-01-15", env={"DB_USER": account})
    finally:
        project.database.execute(f"DROP USER {account}")
    assert (done.returncode, len(project.database.metrics())) == (0, 1)
    assert done.stderr.startswith("Warning: could not store what the headers of the metric files say")
    assert "(1142) INSERT" in done.stderr


def test_a_metric_file_does_not_read_the_catalog_unnoticed(project: Project) -> None:
    project.write("m.sql", "-- Description: x\nSELECT COUNT(*) AS n FROM bi_metric_catalog")
    assert "reads-unclear" in project.list("--check").stdout
