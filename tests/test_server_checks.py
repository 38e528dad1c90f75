"""What the server says of metric files before they run: EXPLAIN, tables read whole, engines that cannot roll back."""

from __future__ import annotations

from datetime import date

import pytest

from config.database import load_settings
from src.db_manager import DatabaseManager
from src.metric_file.server_checks import ask_server, views_and_functions, wrong_engines
from src.metric_file.step import Parameters, Step
from src.sql_loader import load_catalog
from tests.conftest import Project, metric_sql

TABLES = f"""
CREATE TABLE big (id INT AUTO_INCREMENT PRIMARY KEY, at DATETIME, user_id INT, KEY (at));
INSERT INTO big (at, user_id) VALUES ('2025-01-01 12:00:00', 1);
{"INSERT INTO big (at, user_id) SELECT at + INTERVAL id DAY, user_id + 1 FROM big;" * 8}
CREATE TABLE helper (day DATE, n INT) ENGINE = MyISAM;
CREATE TABLE lasting (day DATE PRIMARY KEY, n INT);
"""
MANY_ROWS = f"""
{"INSERT INTO big (at, user_id) SELECT at, user_id + 1 FROM big;" * 10}
ANALYZE TABLE big;
"""


@pytest.fixture
def asked(project: Project) -> Project:
    """A project whose database has a table with an index on a time; of 256 rows, and after MANY_ROWS of 262,144."""
    project.database.execute(TABLES)
    return project


def problems(project: Project) -> tuple[list[str], int]:
    """Return what the server says of all files, and how many statements were left out."""
    catalog = load_catalog(project.folder / "sql")
    database = DatabaseManager(load_settings(project.folder, project.environment()))
    database.connect()
    try:
        steps = [Step(file, (date(2025, 1, 15),), Parameters({}, None)) for file in catalog.files]
        found, left_out = ask_server(database, steps)
        return [str(problem) for problem in (*found, *wrong_engines(database, catalog.files))], left_out
    finally:
        database.close()


def test_errors_of_every_kind_of_statement_and_of_checks_have_file_and_line(asked: Project) -> None:
    asked.write("1_a.sql", "-- Check: SELECT 1 FROM nowhere\n\nSELECT nope\n\nFROM big WHERE at = %(metric_date)s")
    asked.write("2_b.sql", "\nUPDATE lasting SET m = 1 WHERE day = %(metric_date)s;\n\n\nSELECT\n1 FROM nothing")
    asked.write("3_c.sql", metric_sql("c", "1", where="\n\nFROM big WHERE missing = 1"))
    found, left_out = problems(asked)
    assert left_out == 0
    start = [line.split(" ")[0] + line.split(": ")[3][:6] for line in found]
    assert start == ["sql/1_a.sql:1:11:(1146)", "sql/1_a.sql:3:1:(1054)", "sql/2_b.sql:2:1:(1054)",
                     "sql/2_b.sql:5:1:(1146)", "sql/3_c.sql:5:1:(1054)"], found  # fmt: skip
    assert all(": error: explain: " in line for line in found)


def test_a_table_read_whole_is_a_warning_and_a_range_of_its_index_is_none(asked: Project) -> None:
    asked.database.execute(MANY_ROWS)
    count = "SELECT COUNT(DISTINCT user_id) AS users FROM big AS b WHERE {}"
    asked.write("1_wrapped.sql", count.format("DATE_FORMAT(b.at, '%%Y-%%m-%%d') = %(metric_date)s"))
    asked.write("2_range.sql", count.format("b.at >= %(metric_date)s AND b.at < %(metric_date)s + INTERVAL 1 DAY"))
    asked.write("3_variable.sql", "SET @u = 5;\n" + count.format("b.user_id = @u AND %(metric_date)s IS NOT NULL"))
    found, left_out = problems(asked)
    assert [line.split(": ")[0] for line in found] == ["sql/1_wrapped.sql:1:1", "sql/3_variable.sql:2:1"], found
    assert all(": warning: full-scan: " in line and "big" in line for line in found)
    assert left_out == 0


def test_what_reads_a_temporary_table_is_left_out_and_counted(asked: Project) -> None:
    asked.write("1_make.sql", "CREATE TEMPORARY TABLE found SELECT 1 AS n;\nSELECT n, %(metric_date)s AS d FROM found")
    asked.write("2_use.sql", "-- Check: SELECT 1 FROM found\nSELECT COUNT(*) AS n, %(metric_date)s AS d FROM found")
    assert problems(asked) == ([], 3)


def test_a_view_that_the_account_may_not_explain_is_left_out_and_counted(asked: Project) -> None:
    database = asked.database
    account = f"{database.name}_viewer"
    database.execute(
        f"CREATE VIEW seen AS SELECT * FROM lasting; CREATE USER {account}; "
        f"GRANT SELECT ON {database.name}.seen TO {account}; GRANT SELECT ON {database.name}.bi_metrics TO {account}"
    )
    asked.write("1_view.sql", "SELECT COUNT(*) AS n FROM seen WHERE day = %(metric_date)s")
    asked.env["DB_USER"] = account
    found, left_out = problems(asked)
    database.execute(f"DROP USER {account}")
    assert (found, left_out) == ([], 1)


def test_a_table_that_cannot_roll_back_is_an_error_where_it_is_written(asked: Project) -> None:
    asked.write("1_helper.sql", "DELETE FROM lasting WHERE day = %(metric_date)s;\n\n"
                "INSERT INTO helper SELECT %(metric_date)s, 1")  # fmt: skip
    asked.write("2_reader.sql", "SELECT COUNT(*) AS n FROM helper WHERE day = %(metric_date)s")
    (found,), _ = problems(asked)
    assert found.startswith("sql/1_helper.sql:3:1: error: cannot-roll-back: ")
    assert "MyISAM" in found
    assert "ENGINE = InnoDB" in found


def definitions(project: Project) -> dict[str, str]:
    """Return what the server says of the views and functions that the files name."""
    catalog = load_catalog(project.folder / "sql")
    database = DatabaseManager(load_settings(project.folder, project.environment()))
    database.connect()
    try:
        return views_and_functions(database, catalog)
    finally:
        database.close()


VIEWS = """
CREATE TABLE orders (day DATE PRIMARY KEY, n INT);
CREATE VIEW counted AS SELECT metrics FROM bi_metrics;
CREATE FUNCTION doubled(n INT) RETURNS INT READS SQL DATA RETURN n * (SELECT COUNT(*) FROM counted);
CREATE VIEW inner_view AS SELECT day, doubled(n) AS n FROM orders;
CREATE VIEW Best AS SELECT day, n FROM inner_view;
CREATE VIEW not_named AS SELECT metrics FROM bi_metrics;
"""


def test_the_views_and_functions_that_files_name_are_found_through_each_other(project: Project) -> None:
    database = project.database
    database.execute(VIEWS)
    project.write("a.sql", "SELECT MAX(n) AS n FROM best JOIN orders WHERE day = %(metric_date)s")
    found = definitions(project)
    here = database.name
    assert found.keys() == {"best", f"{here}.inner_view", f"{here}.doubled", f"{here}.counted"}
    assert "inner_view" in found["best"]
    assert found[f"{here}.doubled"].startswith("RETURN n * (SELECT COUNT(*) FROM counted)")
    account = f"{here}_blind"
    database.execute(f"CREATE USER {account}; GRANT SELECT, EXECUTE ON {here}.* TO {account}")
    project.env["DB_USER"] = account
    project.write("b.sql", "SELECT Doubled (1) AS n FROM inner_view WHERE day = %(metric_date)s")
    assert definitions(project) == {"best": "", "inner_view": "", "doubled": ""}
    database.execute(f"DROP USER {account}")


def test_a_view_of_another_database_is_found_where_a_file_names_that(project: Project) -> None:
    here, other = project.database.name, f"{project.database.name}_Reports"
    project.database.execute(
        f"CREATE DATABASE {other}; CREATE VIEW {other}.Numbers AS SELECT metrics FROM {here}.bi_metrics; "
        f"CREATE VIEW {other}.users AS SELECT 1 AS id"
    )
    project.write("a.sql", f"SELECT COUNT(*) AS n FROM {other}.Numbers JOIN users WHERE %(metric_date)s")
    found = definitions(project)
    project.database.execute(f"DROP DATABASE {other}")
    assert found.keys() == {f"{other.lower()}.numbers"}
    assert "bi_metrics" in found[f"{other.lower()}.numbers"]


def test_a_file_that_names_no_view_finds_none(project: Project) -> None:
    project.write("a.sql", "SELECT 1 AS n, %(metric_date)s AS d")
    assert definitions(project) == {}
