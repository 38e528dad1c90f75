"""./setup.sh --views: a view for each metric, whose columns are its fields, and no other view is touched."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pymysql
import pytest

from demo import game
from src.errors import UsageError
from src.flat_views import column_names, write_views
from tests.conftest import Database, Project, as_in_a_process, connect, metric_sql, run_script

DAY = "2025-01-15"
LAST_DAY = date(2025, 6, 30)


def said(project: Project) -> list[str]:
    """Write the views and return what is said, without the last line, which names the database."""
    with as_in_a_process(project.environment()):
        *lines, last = write_views(project.folder)
    assert last.startswith("the views of ")
    return lines


def names(project: Project) -> list[str]:
    """Return the tables and views named v_..."""
    return [row[0] for row in project.database.rows("SHOW TABLES LIKE 'v\\_%'")]


def rows(project: Project, view: str, order: str = "metric_date") -> list[dict[str, Any]]:
    with project.database.connection.cursor(pymysql.cursors.DictCursor) as cursor:
        cursor.execute(f"SELECT * FROM `{view.replace('`', '``')}` ORDER BY {order}")
        return list(cursor.fetchall())


def store(project: Project, name: str, value: str, kind: str = "card", fields: str = "[]", day: str = DAY) -> None:
    """Let a metric have a file and, on a date, a row of this value."""
    project.write(f"{name}.sql", metric_sql(name))
    with project.database.connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date) VALUES (%s, %s, %s, %s, %s)",
            (name, kind, fields, value, day),
        )


@pytest.mark.slow
def test_the_views_of_the_shipped_metrics_hold_what_values_prints(project: Project) -> None:
    project.write_shipped()
    project.env = {"METRIC_PARAM_CUTOFF_DATE": "2025-04-01", "METRICS_TIMEZONE": "UTC", "DB_TIME_ZONE": "+00:00"}
    game.load(project.database.connection, LAST_DAY, game.TINY)
    assert project.run("--initial", "2025-06-01", str(LAST_DAY)).returncode == 0
    printed = json.loads(project.list("--values", "*", "2025-06-01", str(LAST_DAY), "--json").stdout)
    metrics = sorted({line["metric"] for line in printed})
    assert len(metrics) == 10
    assert [line.split(" ")[1] for line in said(project)] == names(project) == [f"v_{name}" for name in metrics]
    for name in metrics:
        lines = [line for line in printed if line["metric"] == name]
        is_ranking = name == "top_100_games_played"
        found = rows(project, f"v_{name}", "metric_date, position" if is_ranking else "metric_date")
        fields = list(lines[0]["values"])
        assert list(found[0]) == ["metric_date", *(["position"] if is_ranking else []), *fields, "is_final"]
        expected = [
            (line["metric_date"], *([line["item"]] if is_ranking else []),
             *(None if text is None or field == "title" else Decimal(text) for field, text in line["values"].items()),
             *([line["values"]["title"]] if is_ranking else []), line["is_final"])
            for line in lines
        ]  # fmt: skip
        stored = [
            (str(row["metric_date"]), *([row["position"]] if is_ranking else []),
             *(None if field == "title" else row[field] for field in fields),
             *([row["title"]] if is_ranking else []), bool(row["is_final"]))
            for row in found
        ]  # fmt: skip
        if name == "plays_by_hour":  # the items of a date have no order in its view
            expected, stored = sorted(expected), sorted(stored)
        assert stored == expected, name


def test_a_card_a_timeseries_and_a_ranking_have_the_columns_of_their_fields(project: Project) -> None:
    store(project, "card", '{"b": 1, "a": 12.50}', fields='["a", "b"]')
    store(project, "series", '[{"hour": 0, "plays": 5}, {"hour": 1}]', "timeseries", '["hour", "plays"]')
    store(project, "top", '[{"title": "Café \\"X\\"", "n": 7}, {"title": null, "n": 5}]', "ranking", '["title", "n"]')
    store(project, "nobody", "[]", "ranking", '["title"]')
    final = f"('top', '{DAY}', 'final')"
    project.database.execute(f"INSERT INTO bi_metric_state (metric, metric_date, state) VALUES {final}")
    assert said(project) == [
        "created v_card (metric_date, a, b, is_final)",
        "created v_nobody (metric_date, position, title, is_final)",
        "created v_series (metric_date, hour, plays, is_final)",
        "created v_top (metric_date, position, title, n, is_final)",
    ]
    day = date.fromisoformat(DAY)
    assert [tuple(row.values()) for row in rows(project, "v_card")] == [(day, Decimal("12.50"), 1, 0)]
    assert [tuple(row.values()) for row in rows(project, "v_series", "hour")] == [(day, 0, 5, 0), (day, 1, None, 0)]
    assert [tuple(row.values()) for row in rows(project, "v_top", "position")] == [
        (day, 1, 'Café "X"', 7, 1), (day, 2, None, 5, 1)
    ]  # fmt: skip
    assert rows(project, "v_nobody") == []
    types = dict(project.database.rows(
        "SELECT column_name, column_type FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND table_name = 'v_top'"
    ))  # fmt: skip
    assert (types["metric_date"], types["n"], types["title"]) == ("date", "decimal(65,20)", "longtext")


def test_a_column_is_a_number_unless_the_newest_rows_hold_a_text_and_what_does_not_fit_is_null(
    project: Project,
) -> None:
    values = ['{"n": 1e60, "t": 5}', '{"n": null, "t": "up"}', '{"n": 0.5, "t": true}', '{"n": 2}', '{"n": -1e3}']
    for number, value in enumerate(values, start=1):
        store(project, "m", value, fields='["n", "t"]', day=f"2025-02-0{number}")
    store(project, "m", '{"n": "n/a", "t": 5}', day="2024-12-01")  # one of the newest 31 rows, still
    store(project, "old", '{"n": "n/a"}', day="2024-12-01")
    for number in range(31):
        store(project, "old", f'{{"n": {number}}}', fields='["n"]', day=f"2025-01-{number + 1:02}")
    said(project)
    found = [(row["n"], row["t"]) for row in rows(project, "v_m")]
    assert found == [("n/a", "5"), (found[1][0], "5"), (None, "up"), ("0.5", "true"), ("2", None), (found[5][0], None)]
    assert [float(text) for text, _ in found[1::4]] == [1e60, -1000]
    assert [row["n"] for row in rows(project, "v_old")] == [None, *range(31)]
    project.database.execute("DELETE FROM bi_metrics WHERE metric_date = '2024-12-01'")
    assert said(project) == ["replaced v_m (metric_date, n, t, is_final)"]
    assert [row["n"] for row in rows(project, "v_m")] == [None, None, Decimal("0.5"), 2, -1000]
    project.database.execute("SET sql_mode = 'TRADITIONAL'; CREATE TABLE copied AS SELECT * FROM v_m")


def test_a_field_that_the_server_does_not_find_is_told(project: Project) -> None:
    store(project, "m", '{"-x": 5, "y": 6}', fields='["-x", "y"]')
    done = said(project)
    if len(done) == 1:
        assert (done, rows(project, "v_m")[0]["-x"]) == (["created v_m (metric_date, -x, y, is_final)"], 5)
        return
    lacks = "without the field -x in v_m: this server finds no field whose name begins with -; rename it"
    assert done == ["created v_m (metric_date, y, is_final)", lacks]
    assert said(project) == [lacks]
    assert [[*row] for row in rows(project, "v_m")] == [["metric_date", "y", "is_final"]]


def test_a_view_is_renewed_when_its_columns_change_and_only_then(project: Project) -> None:
    store(project, "m", '{"n": 1}', fields='["n"]')
    assert said(project) == ["created v_m (metric_date, n, is_final)"]
    with connect(project.database.server, project.database.name) as dashboard:
        dashboard.begin()
        dashboard.cursor().execute("SELECT * FROM v_m")  # a change of the view would wait for its end
        assert said(project) == ["nothing had to change"]
    store(project, "m", '{"n": 1, "more": 2}', fields='["n", "more"]', day="2025-01-16")
    assert said(project) == ["replaced v_m (metric_date, n, more, is_final)"]
    store(project, "m", "null", day="2025-01-17")  # a row without any field tells nothing
    assert said(project) == ["nothing had to change"]
    assert [row["more"] for row in rows(project, "v_m")] == [None, 2, None]


def test_only_views_of_its_own_are_replaced_or_removed(project: Project) -> None:
    store(project, "m", '{"n": 1}', fields='["n"]')
    store(project, "gone", '{"n": 1}', fields='["n"]')
    for taken in ("table", "view"):
        store(project, taken, '{"n": 1}', fields='["n"]')
    project.database.execute("CREATE TABLE v_table (n INT); CREATE VIEW v_view AS SELECT * FROM bi_metrics")
    assert [line for line in said(project) if "without" in line] == [
        "without v_table: there is a table of this name, or a view whose definition this account may not read "
        "(SHOW VIEW)", "without v_view: there is a view of this name that ./setup.sh --views has not made",
    ]  # fmt: skip
    copied = project.database.rows("SHOW CREATE VIEW v_m")[0][1].replace("VIEW `v_m`", "VIEW `v_copy`")
    run_script(project.database.connection, copied)
    project.database.execute("CREATE VIEW v_above AS SELECT * FROM v_gone")
    (project.folder / "sql" / "gone.sql").unlink()
    assert said(project)[-1] == "removed v_gone: there is no file of this metric any more"
    assert names(project) == ["v_above", "v_copy", "v_m", "v_table", "v_view"]
    assert [name for name, _, _ in project.database.metrics()] == ["gone", "m", "table", "view"]
    (project.folder / "sql" / "m.sql").rename(project.folder / "sql" / "_m.sql")  # disabled: it may come back
    assert "v_m" not in "".join(said(project))
    assert "v_m" in names(project)


def test_a_metric_without_a_row_or_with_a_name_that_is_too_long_is_told(project: Project) -> None:
    store(project, "n" * 62, '{"n": 1}')
    store(project, "n" * 63, '{"n": 1}')
    project.write("new.sql", metric_sql("new"))
    project.write("helper.sql", "-- Description: no metric\nDELETE FROM bi_metric_changes WHERE id = 0")
    assert said(project) == [
        "without v_new: new has no row yet",
        f"created v_{'n' * 62} (metric_date, n, is_final)",
        f"without v_{'n' * 63}: the name has 65 characters, and a server takes 64",
    ]


@pytest.mark.parametrize("name", ["it's 100% `new`", "café größe 收入", 'a"b\\c', "a.b-c%s", "[x] /* y */ -- z"])
def test_any_name_of_a_metric_and_of_a_field_is_a_view_and_a_column(project: Project, name: str) -> None:
    store(project, name.replace("/", "\u2215"), json.dumps({name: 1, "metric_date": 2}, ensure_ascii=False))
    view = f"v_{name}".replace("/", "\u2215")
    assert [line.partition(" (")[0] for line in said(project)] == [f"created {view}"]
    [row] = rows(project, view)
    assert {row[name], row["metric_date_2"]} == {1, 2}
    assert said(project) == ["nothing had to change"]
    (project.folder / "sql" / f"{view[2:]}.sql").rename(project.folder / "sql" / "other.sql")
    assert said(project)[-1].startswith(f"removed {view}: ")


def test_a_name_that_a_server_does_not_take_costs_only_its_own_view(project: Project) -> None:
    store(project, "😀", '{"n": 1}')
    store(project, "m", '{"😀": 1}')
    done = said(project)
    assert [line.partition(":")[0] for line in done] == ["created v_m (metric_date, ?, is_final)", "without v_😀"]
    assert done[1].endswith("a server takes no character beyond U+FFFF in a name")


@pytest.mark.slow
def test_names_that_differ_in_case_alone_are_one_view_on_a_server_that_is_blind_to_it(
    project: Project, blind_to_case: Database
) -> None:
    project.database = blind_to_case
    for name in ("Revenue", "revenue", "Users"):
        store(project, name, '{"n": 1}')
    told = "without v_revenue: this server does not tell it from the view of Revenue"
    created = [f"created v_{name} (metric_date, n, is_final)" for name in ("revenue", "users")]
    assert said(project) == [*created, told]
    assert said(project) == [told]


def test_every_column_has_a_name_of_its_own() -> None:
    fields = ["Position", "n", "N", "", "x" * 70, "x" * 65, "blank ", "IS_FINAL", "n_2"]
    named = column_names(fields, ["metric_date", "position", "is_final"])
    assert named == ["Position_2", "n", "N_2", "field", "x" * 64, "x" * 56 + "_2", "blank", "IS_FINAL_2", "n_2_2"]


def test_it_needs_the_rights_that_the_docs_name_and_leaves_a_view_that_it_may_not_read(project: Project) -> None:
    store(project, "m", '{"n": 1}', fields='["n"]')
    name = project.database.name
    project.database.execute(
        f"CREATE USER {name}_admin; GRANT SELECT, CREATE VIEW, SHOW VIEW, DROP ON {name}.* TO {name}_admin; "
        f"CREATE USER {name}_blind; GRANT SELECT, CREATE VIEW, DROP ON {name}.* TO {name}_blind"
    )
    try:
        project.env["DB_USER"] = f"{name}_admin"
        assert said(project) == ["created v_m (metric_date, n, is_final)"]
        project.env["DB_USER"] = f"{name}_blind"
        assert [line[:40] for line in said(project)] == ["without v_m: there is a table of this name,"[:40]]
        project.env["DB_USER"] = f"{name}_admin"
        project.write("x.sql", metric_sql("x"))
        (project.folder / "sql" / "m.sql").unlink()
        assert said(project)[-1].startswith("removed v_m: ")
    finally:
        project.database.execute(f"DROP USER {name}_admin, {name}_blind")


def test_no_view_is_touched_without_a_metric_file(project: Project) -> None:
    store(project, "m", '{"n": 1}')
    said(project)
    (project.folder / "sql" / "m.sql").unlink()
    with pytest.raises(UsageError, match="no view was touched: there are no metric files"):
        said(project)
    assert names(project) == ["v_m"]


def test_a_view_reaches_the_key_of_its_metric_and_dates(project: Project) -> None:
    store(project, "m7", '{"n": 1}', "ranking", day="2024-01-01")
    values = ", ".join(f"('m{n % 40}', '[]', '{{}}', '2025-01-01' + INTERVAL {n // 40} DAY)" for n in range(4000))
    project.database.execute(
        f"INSERT INTO bi_metrics (metrics, f_list, value_list, metric_date) VALUES {values}; ANALYZE TABLE bi_metrics"
    )
    said(project)
    with project.database.connection.cursor(pymysql.cursors.DictCursor) as cursor:
        cursor.execute("EXPLAIN FORMAT=TRADITIONAL SELECT * FROM v_m7 WHERE metric_date BETWEEN 20250102 AND 20250105")
        plan: dict[str, Any] = {row["table"]: row for row in cursor.fetchall()}
    assert (plan["m"]["key"], int(plan["m"]["rows"]) <= 10) == ("uq_metric_date", True), plan
