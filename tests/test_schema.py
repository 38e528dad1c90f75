"""The tables and views of sql/schema.sql: what a dashboard reads, by which index, and how older tables are upgraded."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pymysql
import pytest

from tests.conftest import ROOT, Database, Project, connect, metric_sql
from tests.workload import wait_until

DAY = "2025-01-15"
MARK = 86_400  # version 2 set updated_at to this moment when a row had to be computed again
VIEWS = ["bi_metric_cards", "bi_metric_items"]  # of values
EVERY_VIEW = [*VIEWS, "bi_metric_catalog"]
TABLES = ["bi_metric_changes", "bi_metric_headers", "bi_metric_state", "bi_metrics"]
ROWS = [
    ("users", "card", '{"total": 2412, "share": 0.5, "note": "up", "none": null, "a \\"b\\" c": -1}'),
    ("revenue", "card", '{"revenue": 518666.90}'),
    ("nested", "card", '{"object": {"a": [1]}, "array": [1, 2], "yes": true, "digits": "12"}'),
    ("empty", "card", "null"),
    ("blank", "card", '"not computed yet"'),
    ("top", "ranking", '[{"title": "Café \\"X\\"", "plays": 7}, {"title": null, "plays": 5}]'),
    ("scalars", "ranking", '[1, null, "a", [2]]'),
    ("nobody", "ranking", "[]"),
]

# What version 2.0.0 created, word for word but for the comments.
VERSION_2 = """
CREATE TABLE bi_metrics (
    id          BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    metrics     VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,
    data_type   VARCHAR(50) NOT NULL DEFAULT 'card',
    f_list      JSON NOT NULL,
    value_list  JSON NOT NULL,
    metric_date DATE NOT NULL,
    created_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (id),
    UNIQUE KEY uq_metric_date (metrics, metric_date),
    KEY idx_state (metric_date, metrics, updated_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
CREATE TABLE bi_metric_runs (
    id           BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    run_id       CHAR(16) CHARACTER SET ascii NOT NULL,
    metric       VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,
    metric_date  DATE NOT NULL,
    mode         VARCHAR(20) NOT NULL,
    file         VARCHAR(255) NOT NULL,
    fingerprint  CHAR(16) CHARACTER SET ascii NOT NULL,
    row_count    INT UNSIGNED NOT NULL,
    milliseconds INT UNSIGNED NOT NULL,
    status       VARCHAR(10) NOT NULL,
    is_final     BOOLEAN NOT NULL,
    changes      TEXT NULL,
    error        VARCHAR(1000) NULL,
    created_at   TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (id),
    KEY idx_metric_date (metric, metric_date),
    KEY idx_created_at (created_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
CREATE SQL SECURITY INVOKER VIEW bi_metric_cards AS
SELECT m.metrics, m.metric_date, k.field,
    CASE WHEN JSON_TYPE(JSON_EXTRACT(m.value_list, CONCAT('$.', JSON_QUOTE(k.field))))
              IN ('INTEGER', 'UNSIGNED INTEGER', 'DECIMAL', 'DOUBLE')
         THEN CAST(JSON_UNQUOTE(JSON_EXTRACT(m.value_list, CONCAT('$.', JSON_QUOTE(k.field)))) AS DECIMAL(38,10))
    END AS value,
    m.updated_at >= m.metric_date + INTERVAL 1 DAY AS is_final, m.updated_at
FROM bi_metrics AS m
JOIN JSON_TABLE(JSON_KEYS(m.value_list), '$[*]' COLUMNS (field VARCHAR(256) PATH '$')) AS k;
"""
NEW_COLUMNS = [("accepted",), ("warning", "accepted")]  # of bi_metric_state, that may be missing
NOT_USED = "bi_metric_runs is not used any more; to remove it and its history: DROP TABLE bi_metric_runs"


def is_mariadb(database: Database) -> bool:
    return "MariaDB" in str(database.rows("SELECT VERSION()")[0][0])


def insert(database: Database, *rows: tuple[str, str, str], day: str = DAY) -> None:
    """Insert rows of metric, data type and value."""
    with database.connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date) "
            f"VALUES (%s, %s, '[]', %s, '{day}')",
            rows,
        )


@pytest.fixture
def filled(database: Database) -> Database:
    """A database with a row of every kind."""
    insert(database, *ROWS)
    return database


# --- the views --------------------------------------------------------------------------------------------------------


def test_the_view_of_cards_has_a_row_per_field_with_its_number_and_its_text(filled: Database) -> None:
    rows = filled.rows("SELECT metrics, field, value, value_text FROM bi_metric_cards ORDER BY metrics, field")
    assert [(*row[:3], str(row[3]).rstrip("0").rstrip(".") if row[2] else row[3]) for row in rows] == [
        ("nested", "array", None, "[1, 2]"), ("nested", "digits", None, "12"),
        ("nested", "object", None, '{"a": [1]}'), ("nested", "yes", None, "true"),
        ("revenue", "revenue", Decimal("518666.90"), "518666.9"), ("users", 'a "b" c', -1, "-1"),
        ("users", "none", None, None), ("users", "note", None, "up"), ("users", "share", Decimal("0.5"), "0.5"),
        ("users", "total", 2412, "2412"),
    ]  # fmt: skip


def test_the_view_of_items_has_a_row_per_field_of_each_item(filled: Database) -> None:
    rows = filled.rows("SELECT metrics, item, field, value, value_text FROM bi_metric_items ORDER BY item, field")
    assert rows == [
        ("top", 1, "plays", 7, "7"), ("top", 1, "title", None, 'Café "X"'), ("top", 2, "plays", 5, "5"),
        ("top", 2, "title", None, None),
    ]  # fmt: skip


NINES = "9" * 45
NUMBERS = {  # the SQL of a JSON number -> its value in the views
    "-0.0": "0",
    "1e-30": "0",
    "CAST('0.000000000123456789' AS DECIMAL(38,18))": "0.000000000123456789",
    "CAST('0.123456789012345678901234567890' AS DECIMAL(60,30))": "0.12345678901234567890",
    "1e30": "1" + "0" * 30,
    "-1e44": "-1" + "0" * 44,
    "1e45": None,
    "1e60": None,
    "-1e300": None,
    "CAST('123456789012345678901234567890' AS DECIMAL(38,0))": "123456789012345678901234567890",
    "CAST('12345678901234567890123456789012345678901234567890' AS DECIMAL(65,0))": None,
    f"CAST('{NINES}' AS DECIMAL(65,0))": NINES,
    f"CAST('{NINES}.9' AS DECIMAL(65,1))": None,
    f"CAST('-{NINES[1:]}.999999999999999999999' AS DECIMAL(65,21))": "-1" + "0" * 44,
    "-9223372036854775808": "-9223372036854775808",
    "18446744073709551615": "18446744073709551615",
}
ONES = "0." + "1" * 400
TOO_BIG_FOR_A_DOUBLE = ("1e400", "1" * 400)
TEXTS = {  # the text of a JSON number, which MariaDB keeps as it is -> its value in the views
    **dict.fromkeys(TOO_BIG_FOR_A_DOUBLE),
    "12345678901234567890123456789012345678901234567890": None,
    ONES: "0." + "1" * 20,
    "1e-400": "0",
    "5e-324": "0",
    "123E+2": "12300",
    "12.5e-1": "1.25",
    f"{NINES}.{NINES}": None,
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_the_number_or_null_if_it_does_not_fit(database: Database, view: str) -> None:
    for number, made in enumerate(NUMBERS):
        value = f"JSON_OBJECT('n', {made})"
        database.execute(
            "INSERT INTO bi_metrics (metrics, f_list, value_list, metric_date) "
            f"SELECT '{number:03}', '[]', {value if view == 'bi_metric_cards' else f'JSON_ARRAY({value})'}, '{DAY}'"
        )
    assert values_in(database, view) == as_decimals(NUMBERS.values())


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_reads_every_text_of_a_number_that_the_server_keeps(database: Database, view: str) -> None:
    keeps_text = is_mariadb(database)  # MySQL keeps a DOUBLE, and refuses what is none
    texts = {text: value for text, value in TEXTS.items() if keeps_text or text not in TOO_BIG_FOR_A_DOUBLE}
    for number, text in enumerate(texts):
        document = f'{{"n": {text}}}'
        insert(database, (f"{number:03}", "", document if view == "bi_metric_cards" else f"[{document}]"))
    if not keeps_text:
        texts[ONES] = "0.1111111111111111"
    assert values_in(database, view) == as_decimals(texts.values())


def as_decimals(texts: Iterable[str | None]) -> list[Decimal | None]:
    return [None if text is None else Decimal(text) for text in texts]


def values_in(database: Database, view: str) -> list[Decimal | None]:
    """Return the values of a view. Fails if the server warns, or refuses to copy them into a table."""
    rows = database.rows(f"SELECT value FROM {view} ORDER BY metrics")
    assert database.rows("SHOW WARNINGS") == []
    database.execute(f"SET sql_mode = 'TRADITIONAL'; CREATE TABLE copied AS SELECT * FROM {view}; DROP TABLE copied")
    return [row[0] for row in rows]


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_tells_the_state_alike_in_every_time_zone(filled: Database, view: str) -> None:
    assert filled.rows(f"SELECT DISTINCT state, is_final FROM {view}") == [("reopened", 0)]  # no state is stored
    for state in ("open", "reopened", "waiting", "final"):
        filled.execute(
            "REPLACE INTO bi_metric_state (metric, metric_date, state) "
            f"SELECT metrics, metric_date, '{state}' FROM bi_metrics"
        )
        for zone in ("-12:00", "+13:00"):
            filled.execute(f"SET time_zone = '{zone}'")
            assert filled.rows(f"SELECT DISTINCT state, is_final FROM {view}") == [(state, state == "final")]


@pytest.mark.parametrize("client", ["utf8mb4", "latin1"])
def test_names_of_fields_are_whole_in_a_database_of_another_character_set(database: Database, client: str) -> None:
    names = ["收入", "😀", "Café", 'a"b\\c', "a.b[0]", "", "k" * 300]
    document = ", ".join(f'"{name}": {number}'.replace("\\", "\\\\").replace('a"b', 'a\\"b')
                         for number, name in enumerate(names))  # fmt: skip
    database.execute(
        f"DROP DATABASE {database.name}; CREATE DATABASE {database.name} CHARACTER SET latin1; USE {database.name}; "
        f"SET NAMES {client}"
    )
    database.execute((ROOT / "sql" / "schema.sql").read_text())
    database.execute("SET NAMES utf8mb4")
    insert(database, ("card", "card", f"{{{document}}}"), ("items", "ranking", f"[{{{document}}}]"))
    for view in VIEWS:
        rows = database.rows(f"SELECT field, value, value_text FROM {view} ORDER BY value")
        assert rows == [(name[:256], number, str(number)) for number, name in enumerate(names)]
        assert len(database.rows(f"SELECT metrics FROM {view} WHERE field = '收入'")) == 1


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("where", "key", "most"),
    [
        ("metrics = 'm7' AND metric_date BETWEEN '2025-01-02' AND '2025-01-05'", "uq_metric_date", 10),
        ("metrics = 'm7' AND metric_date = '2025-01-02' AND field = 'n' AND is_final", "uq_metric_date", 1),
        ("metric_date = '2025-01-02'", "idx_metric_date", 100),
    ],
)
def test_a_metric_and_its_dates_reach_their_keys_through_a_view(
    filled: Database, view: str, where: str, key: str, most: int
) -> None:
    values = ", ".join(f"('m{n % 40}', '[]', '{{}}', '2025-01-01' + INTERVAL {n // 40} DAY)" for n in range(4000))
    filled.execute(
        f"INSERT INTO bi_metrics (metrics, f_list, value_list, metric_date) VALUES {values}; "
        "INSERT INTO bi_metric_state (metric, metric_date, state) "
        "SELECT metrics, metric_date, 'final' FROM bi_metrics; "
        "ANALYZE TABLE bi_metrics; ANALYZE TABLE bi_metric_state"
    )
    with filled.connection.cursor(pymysql.cursors.DictCursor) as cursor:
        cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL SELECT * FROM {view} WHERE {where}")
        plan: dict[str, Any] = {row["table"]: row for row in cursor.fetchall()}
    assert (plan["m"]["key"], int(plan["m"]["rows"]) <= most) == (key, True), plan
    assert (plan["s"]["key"], int(plan["s"]["rows"])) == ("PRIMARY", 1), plan


# --- ./setup.sh --schema ----------------------------------------------------------------------------------------------


def command(project: Project, env: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of Popen for what ./setup.sh --schema runs."""
    return {
        "args": [sys.executable, "-m", "src.storage.schema"], "cwd": ROOT, "text": True,
        "env": project.environment({"DB_HOST": "", **env}),
    }  # fmt: skip


def apply(project: Project, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**command(project, env), capture_output=True, check=False)


def said(project: Project, **env: str) -> list[str]:
    """Apply the schema and return the lines that it says, but for the last one."""
    applied = apply(project, **env)
    assert (applied.returncode, applied.stderr) == (0, "")
    *lines, last = applied.stdout.splitlines()
    assert last.startswith("sql/schema.sql is applied to ")
    return lines


@contextmanager
def account(database: Database, rights: str) -> Iterator[str]:
    """Make an account with these rights on the database."""
    name = f"{database.name}_plain"
    database.execute(f"CREATE USER {name}; GRANT {rights} ON {database.name}.* TO {name}")
    try:
        yield name
    finally:
        database.execute(f"DROP USER {name}")


def drop_everything(database: Database) -> None:
    database.execute(f"DROP VIEW {', '.join(EVERY_VIEW)}; DROP TABLE {', '.join(TABLES)}")


def test_an_empty_database_gets_the_tables_and_views_once(project: Project) -> None:
    drop_everything(project.database)
    next_step = "bi_metrics is empty; load the history next: python run_metrics.py --initial START END"
    created = sorted([*TABLES, *EVERY_VIEW])
    assert said(project) == [*(f"created {name}" for name in created), next_step]
    assert said(project) == ["nothing had to change", next_step]


def test_an_account_without_views_gets_the_tables_and_a_line_for_each_view(project: Project) -> None:
    database = project.database
    drop_everything(database)
    with account(database, "SELECT, INSERT, UPDATE, CREATE, ALTER, INDEX") as plain:
        lines = said(project, DB_USER=plain)
    denied = "(1142) CREATE VIEW command denied to user"
    refused = [line.partition(denied)[0] for line in lines if denied in line]
    assert refused == [f"without the view {view}: " for view in EVERY_VIEW]
    assert [row[0] for row in database.rows("SHOW TABLES")] == TABLES


def test_an_account_that_may_not_create_tables_is_told_so_in_one_line(project: Project) -> None:
    drop_everything(project.database)
    with account(project.database, "SELECT, INSERT, UPDATE") as plain:
        refused = apply(project, DB_USER=plain)
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (2, "", 1)
    assert refused.stderr.startswith("Error: (1142) CREATE command denied to user")


def test_a_unique_key_on_an_expression_disturbs_no_run(project: Project) -> None:
    if is_mariadb(project.database):
        pytest.skip("MariaDB has no keys on expressions")
    project.database.execute("ALTER TABLE bi_metrics ADD UNIQUE KEY by_text ((CONCAT(metrics, metric_date)))")
    project.write("m.sql", metric_sql("m"))
    assert project.run(DAY).returncode == 0


# --- upgrades ---------------------------------------------------------------------------------------------------------


# Around both changes of the clock in Europe and in America.
DATES = [date(2025, 3, 8), date(2025, 3, 9), date(2025, 3, 29), date(2025, 3, 30), date(2025, 3, 31),
         date(2025, 10, 25), date(2025, 10, 26), date(2025, 10, 27), date(2025, 11, 2)]  # fmt: skip
OFFSETS = [-3600, -1, 0, 1, 3600]  # seconds from the end of a date to the computation
MADE_AT = 1_760_000_000  # created_at of the old rows, in seconds since the epoch
ZONES = {
    "Taipei": {"METRICS_TIMEZONE": "Asia/Taipei"},
    "Berlin": {"METRICS_TIMEZONE": "Europe/Berlin", "DB_TIME_ZONE": "-10:00"},
    "New York": {"METRICS_TIMEZONE": "America/New_York", "DB_TIME_ZONE": "+08:00"},
    "the machine's": {"METRICS_TIMEZONE": "", "TZ": "Europe/Berlin"},
}


def end_of(day: date, zone: str) -> int:
    """Return the moment at which a date ended for version 2, in seconds since the epoch."""
    return int(datetime.combine(day + timedelta(days=1), time(), ZoneInfo(zone)).timestamp())


@pytest.fixture
def version_2(project: Project) -> Project:
    """The project on the tables of version 2, empty."""
    drop_everything(project.database)
    project.database.execute(VERSION_2)
    return project


def insert_old(database: Database, metric: str, day: date, updated: int, created: int = MADE_AT) -> None:
    with database.connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO bi_metrics (metrics, f_list, value_list, metric_date, created_at, updated_at) "
            "VALUES (%s, '[\"n\"]', '{\"n\": 1.50}', %s, FROM_UNIXTIME(%s), FROM_UNIXTIME(%s))",
            (metric, day, created, updated),
        )


def insert_run(
    database: Database, metric: str, day: date, created: int, *, ok: bool = True, rows: int = 1, final: bool = True
) -> None:
    with database.connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO bi_metric_runs (metric, metric_date, row_count, status, is_final, created_at, "
            "run_id, mode, file, fingerprint, milliseconds) "
            "VALUES (%s, %s, %s, %s, %s, FROM_UNIXTIME(%s), 'r', 'both', 'f', 'p', 1)",
            (metric, day, rows, "ok" if ok else "failed", final, created),
        )


def metric_rows(database: Database) -> list[tuple[Any, ...]]:
    """Return bi_metrics with its times in seconds since the epoch, by metric and date."""
    return database.rows(
        "SELECT metrics, metric_date, data_type, f_list, value_list, id, UNIX_TIMESTAMP(created_at), "
        "UNIX_TIMESTAMP(updated_at) FROM bi_metrics ORDER BY metrics, metric_date"
    )


def states(database: Database) -> dict[tuple[str, date], str]:
    return {(row[0], row[1]): row[2] for row in database.rows("SELECT metric, metric_date, state FROM bi_metric_state")}


def everything(database: Database) -> list[Any]:
    names = [row[0] for row in database.rows("SHOW TABLES")]
    tables = [name for name in names if name not in EVERY_VIEW]
    return [database.rows(f"SHOW CREATE TABLE {name}") for name in names] + [
        database.rows(f"SELECT * FROM {name} ORDER BY 1, 2, 3") for name in tables
    ]


@pytest.mark.parametrize("env", ZONES.values(), ids=ZONES)
def test_an_upgrade_keeps_what_is_final_and_every_value(version_2: Project, env: dict[str, str]) -> None:
    database = version_2.database
    zone = env["METRICS_TIMEZONE"] or env["TZ"]
    expected = {}
    for day in DATES:
        for offset in OFFSETS:
            insert_old(database, f"m{offset}", day, end_of(day, zone) + offset)
            expected[f"m{offset}", day] = "final" if offset >= 0 else "open"
        insert_old(database, "marked", day, MARK)
        expected["marked", day] = "reopened"
    today = datetime.now(ZoneInfo(zone)).date()
    for day in (today, today + timedelta(days=400)):
        insert_old(database, "m0", day, int(datetime.now().timestamp()))
        insert_old(database, "marked", day, MARK)
        expected["m0", day] = expected["marked", day] = "open"
    before = metric_rows(database)
    lines = said(version_2, **env)
    assert states(database) == expected
    # The marked rows get a time; nothing else changes.
    assert metric_rows(database) == [(*row[:7], MADE_AT if row[7] == MARK else row[7]) for row in before]
    number = len(DATES)
    decided = f"METRICS_TIMEZONE={zone}" if env["METRICS_TIMEZONE"] else "this machine's time zone"
    assert lines == [
        *(f"created {name}" for name in sorted({*TABLES, *EVERY_VIEW} - {"bi_metrics", "bi_metric_cards"})),
        "replaced bi_metric_cards",
        f"stored the states of the rows of bi_metrics by updated_at and {decided}: {3 * number} final, "
        f"{number} reopened, {2 * number + 4} open",
        f"set updated_at of the rows marked 1970-01-02 to their newest run, or created_at: {number + 2}",
        "changed the indexes of bi_metrics: ADD KEY idx_metric_date (metric_date), DROP KEY idx_state", NOT_USED,
    ]  # fmt: skip
    after = everything(database)
    assert said(version_2, **env) == ["nothing had to change", NOT_USED]
    assert everything(database) == after


def test_an_upgrade_needs_no_more_rights_than_the_docs_name(version_2: Project) -> None:
    rights = ["SELECT", "CREATE", "CREATE VIEW", "DROP", "INSERT", "UPDATE", "ALTER"]
    insert_old(version_2.database, "m", DATES[0], MARK)
    with account(version_2.database, ", ".join(rights)) as administrator:
        lines = said(version_2, DB_USER=administrator)
    assert [line for line in lines if "view" in line] == []
    assert states(version_2.database) == {("m", DATES[0]): "reopened"}


def test_an_upgrade_knows_when_each_row_was_computed_and_nothing_more(version_2: Project) -> None:
    database, day = version_2.database, DATES[0]
    insert_old(database, "plain", day, MADE_AT + 1)
    for metric in ("with_run", "without_run"):
        insert_old(database, metric, day, MARK)
    for created, ok in ((MADE_AT + 2, True), (MADE_AT + 3, True), (MADE_AT + 4, False)):
        insert_run(database, "with_run", day, created, ok=ok)
    insert_run(database, "with_run", DATES[1], MADE_AT + 5)
    said(version_2, METRICS_TIMEZONE="Asia/Taipei")
    computed = {"plain": MADE_AT + 1, "with_run": MADE_AT + 3, "without_run": MADE_AT}
    assert {row[0]: row[7] for row in metric_rows(database)} == computed
    assert database.rows("SELECT * FROM bi_metric_state ORDER BY metric") == [
        (metric, day, 0, "final" if metric == "plain" else "reopened", None,
         datetime.fromtimestamp(moment, timezone.utc).replace(tzinfo=None), *[None] * 7)
        for metric, moment in computed.items()
    ]  # fmt: skip


def test_an_upgrade_stores_the_states_of_helpers_by_their_newest_runs(version_2: Project) -> None:
    database = version_2.database
    insert_old(database, "metric", DATES[0], MADE_AT)
    insert_run(database, "metric", DATES[0], MADE_AT)
    insert_run(database, "metric", DATES[1], MADE_AT, rows=0)  # version 1 counted rows; this one was deleted
    insert_run(database, "deleted", DATES[0], MADE_AT)
    insert_run(database, "helper", DATES[0], MADE_AT, rows=0, final=False)
    insert_run(database, "helper", DATES[0], MADE_AT + 1, rows=0)
    insert_run(database, "helper", DATES[0], MADE_AT + 2, rows=0, final=False, ok=False)
    insert_run(database, "helper", DATES[1], MADE_AT, rows=0)
    insert_run(database, "helper", DATES[1], MADE_AT + 1, rows=0, final=False)
    insert_run(database, "helper", DATES[2], MADE_AT, rows=0, final=False, ok=False)
    lines = said(version_2, METRICS_TIMEZONE="UTC")
    helpers = "SELECT metric, metric_date, state, computed_at FROM bi_metric_state WHERE is_helper"
    computed = datetime.fromtimestamp(MADE_AT + 1, timezone.utc).replace(tzinfo=None)
    assert database.rows(f"{helpers} ORDER BY 1, 2") == [
        ("helper", DATES[0], "final", computed), ("helper", DATES[1], "open", computed)
    ]  # fmt: skip
    assert "stored the states of the helpers by their newest runs in bi_metric_runs: 1 final, 1 open" in lines


def test_the_tables_of_version_1_are_upgraded_too_and_equal_new_ones(project: Project) -> None:
    database = project.database
    new = [create_table(database, name) for name in TABLES]
    drop_everything(database)
    database.execute(VERSION_2)
    database.execute(
        "DROP VIEW bi_metric_cards; DROP TABLE bi_metric_runs; "
        "ALTER TABLE bi_metrics DROP KEY idx_state, ADD KEY idx_metric_date (metric_date)"
    )
    insert_old(database, "late", DATES[0], MADE_AT)
    insert_old(database, "early", DATES[0], end_of(DATES[0], "Asia/Taipei") - 1)
    lines = said(project, METRICS_TIMEZONE="Asia/Taipei")
    assert states(database) == {("late", DATES[0]): "final", ("early", DATES[0]): "open"}
    assert lines[-1:] == [
        "stored the states of the rows of bi_metrics by updated_at and METRICS_TIMEZONE=Asia/Taipei: 1 final, 1 open"
    ]
    assert [create_table(database, name) for name in TABLES] == new


def create_table(database: Database, name: str) -> set[str]:
    """Return the lines of a CREATE TABLE statement, without the next id."""
    text = re.sub(r" AUTO_INCREMENT=\d+", "", database.rows(f"SHOW CREATE TABLE {name}")[0][1])
    return {line.rstrip(",") for line in text.splitlines()}


def test_states_that_are_there_are_not_made_again(project: Project) -> None:
    database = project.database
    insert(database, ("m", "card", "{}"), ("restored", "card", "{}"))
    database.execute(f"INSERT INTO bi_metric_state (metric, metric_date, state) VALUES ('m', '{DAY}', 'waiting')")
    assert said(project) == ["nothing had to change"]
    assert states(database) == {("m", date.fromisoformat(DAY)): "waiting"}


def test_a_state_table_of_an_earlier_3_0_0_gets_its_new_columns(project: Project) -> None:
    database = project.database
    new = create_table(database, "bi_metric_state")
    insert(database, ("m", "card", "{}"))
    database.execute(f"INSERT INTO bi_metric_state (metric, metric_date, state) VALUES ('m', '{DAY}', 'final')")
    for columns in NEW_COLUMNS:
        database.execute(f"ALTER TABLE bi_metric_state {', '.join(f'DROP COLUMN {name}' for name in columns)}")
        assert said(project) == [f"added to bi_metric_state: {', '.join(columns)}"]
        assert said(project) == ["nothing had to change"]
        assert create_table(database, "bi_metric_state") == new
    database.execute("ALTER TABLE bi_metric_state DROP KEY idx_state_date")
    assert said(project) == ["changed the indexes of bi_metric_state: ADD KEY idx_state_date (state, metric_date)"]
    assert (said(project), create_table(database, "bi_metric_state")) == (["nothing had to change"], new)
    assert states(database) == {("m", date.fromisoformat(DAY)): "final"}


def test_an_upgrade_that_was_killed_is_completed_by_the_next_one(version_2: Project) -> None:
    database, day = version_2.database, DATES[0]
    insert_old(database, "final", day, MADE_AT)
    insert_old(database, "marked", day, MARK)
    with connect(database.server, database.name) as holder:
        holder.begin()
        holder.cursor().execute("SELECT * FROM bi_metrics WHERE metrics = 'marked' FOR UPDATE")
        killed = subprocess.Popen(**command(version_2, {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_until(lambda: "UPDATE bi_metrics" in str(sessions(database)) or killed.poll() is not None)
        beside = apply(version_2)
        killed.kill()
        killed.communicate()
        assert (states(database), "bi_metric_state" in str(database.rows("SHOW TABLES"))) == ({}, True)
    assert (beside.returncode, beside.stdout, beside.stderr) == (
        2, "", f"Error: a run is in progress on database {database.name}; when it has ended, "
        "start ./setup.sh --schema again\n",
    )  # fmt: skip
    wait_until(lambda: len(sessions(database)) == 1)
    lines = said(version_2)
    assert [line.split(" of ")[0] for line in lines] == [
        "stored the states", "set updated_at", "changed the indexes", NOT_USED
    ]  # fmt: skip
    assert states(database) == {("final", day): "final", ("marked", day): "reopened"}


def sessions(database: Database) -> list[str]:
    """Return what the sessions on the database are doing, this one included."""
    return [str(row[7]) for row in database.rows("SHOW FULL PROCESSLIST") if row[3] == database.name]
