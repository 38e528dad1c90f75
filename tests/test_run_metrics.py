"""The nightly command on a real server: what it commits, what it refuses, what it says."""

from __future__ import annotations

from tests.conftest import Project, metric_sql


def test_a_file_dropped_in_is_run_for_the_date(project: Project) -> None:
    project.write("incremental/01_first.sql", metric_sql("first", "7"))
    result = project.run("2025-01-15")
    assert (result.returncode, result.stderr) == (0, "")
    assert project.database.metrics() == [("first", "2025-01-15", '{"n": 7}')]


def test_a_failed_date_does_not_leak_into_the_next(project: Project) -> None:
    for number in range(1, 6):
        project.write(f"0{number}_m{number}.sql", metric_sql(f"m{number}"))
    project.write("03_m3.sql", metric_sql("m3", where="FROM fails"))
    failed = project.run("2025-01-01")
    assert failed.returncode == 1
    assert "2025-01-01: sql/03_m3.sql:5: statement 1 of 1: (1146)" in failed.stderr
    assert project.database.metrics() == []
    project.database.execute("CREATE TABLE fails (n INT); INSERT INTO fails VALUES (1)")
    assert project.run("2025-01-02").returncode == 0
    assert [row[:2] for row in project.database.metrics()] == [(f"m{n}", "2025-01-02") for n in range(1, 6)]
