"""Nothing leaks from one file to the next, and what the server warns of is not stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import Project, metric_sql
from tests.test_run_metrics import connected, server_default

DAY, DAYS = "2025-01-15", ("2025-01-14", "2025-01-16")
ORDERS = """
CREATE TABLE orders (id INT PRIMARY KEY, day DATE NOT NULL, amount DECIMAL(10,2));
INSERT INTO orders VALUES (1, '2025-01-14', 5), (2, '2025-01-15', 7), (3, '2025-01-16', 11);
CREATE TABLE work_orders LIKE orders;
CREATE TABLE more_orders LIKE orders;
"""
WORK = """-- Description: Helper: the orders of the day
DELETE FROM work_orders;
INSERT INTO work_orders SELECT * FROM orders WHERE day = %(metric_date)s;
"""
REVENUE = """-- Description: Revenue of the day, from the work table
SELECT COALESCE(SUM(amount), 0) AS revenue FROM work_orders
"""


def select(sql: str, header: str = "") -> str:
    return f"-- Description: Made for a test\n{header}\n{sql}\n"


def values(project: Project, name: str) -> list[Any]:
    """Return the values of a metric by date."""
    rows = project.database.rows(f"SELECT value_list FROM bi_metrics WHERE metrics = '{name}' ORDER BY metric_date")
    return [value for (text,) in rows for value in json.loads(text).values()]


# --- temporary tables and variables end with their file ---------------------------------------------------------------


def test_a_temporary_table_of_another_file_is_not_there(project: Project) -> None:
    project.write("1_makes.sql", select("CREATE TEMPORARY TABLE day_orders SELECT DATE(%(metric_date)s) AS day;\n"
                  "SELECT COUNT(*) AS n FROM day_orders"))  # fmt: skip
    project.write("2_reads.sql", select("SELECT COUNT(*) AS n, %(metric_date)s AS day FROM day_orders"))
    for words in ([DAY], ["--initial", *DAYS], [DAY, "--dry-run"]):
        result = project.run(*words)
        assert result.returncode != 0
        assert "day_orders' doesn't exist" in result.stderr
    assert project.database.metrics() == []


def test_a_temporary_table_ends_with_its_file_however_its_name_is_written(project: Project) -> None:
    project.database.execute(ORDERS)
    made = "CREATE TEMPORARY TABLE IF NOT EXISTS `Day Orders` SELECT * FROM orders WHERE day = %(metric_date)s;\n"
    project.write("1_m.sql", select(made + "SELECT SUM(amount) AS n FROM `Day Orders`"))
    project.write("2_k.sql", select(made.replace("=", "<=") + "SELECT SUM(amount) AS n FROM `Day Orders`"))
    for words in (DAYS, ("--initial", *DAYS)):
        assert project.run(*words).returncode == 0
        assert (values(project, "m"), values(project, "k")) == ([5, 7, 11], [5, 12, 23])


def test_a_temporary_table_of_another_database_is_refused(project: Project) -> None:
    made = "CREATE TEMPORARY TABLE other.t SELECT 1 AS id;\nSELECT COUNT(*) AS n, %(metric_date)s AS d FROM other.t"
    project.write("m.sql", select(made))
    refused = project.run(DAY)
    assert refused.returncode == 2
    assert "error: forbidden-statement: a temporary table of another database would stay" in refused.stderr
    project.write("m.sql", select(made.replace("other.", f"{project.database.name}.")))
    assert project.run(DAY).returncode == 0


def test_a_temporary_table_with_the_name_of_a_real_one_is_refused(project: Project) -> None:
    project.database.execute("CREATE TABLE users (id INT); INSERT INTO users VALUES (1), (2)")
    project.write("users_seen.sql", select("CREATE TEMPORARY TABLE Users SELECT * FROM users LIMIT 1;\n"
                  "SELECT COUNT(*) AS n, %(metric_date)s AS day FROM users"))  # fmt: skip
    for result in (project.run(DAY), project.list("--check")):
        assert "error: hides-a-table: the temporary table users would hide the table" in result.stderr + result.stdout
        assert result.returncode in (1, 2)


FAILS = {
    "an error of the server": "SELECT nope FROM day_orders",
    "a warning": "SELECT CAST('12abc' AS SIGNED) AS n FROM day_orders",
    "two rows of a card": "SELECT 1 AS n UNION SELECT 2 FROM day_orders",
    "a row of another metric": "INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date) SELECT "
    "'other', 'card', '[\"n\"]', '{}', '2025-01-15' FROM day_orders -- '1_makes' \n"
    "ON DUPLICATE KEY UPDATE value_list = VALUES(value_list)",
}


@pytest.mark.parametrize("fails", FAILS)
@pytest.mark.parametrize("words", [[DAY], ["--initial", *DAYS], [*DAYS, "--keep-going"]])
def test_a_temporary_table_ends_with_a_file_that_fails(project: Project, fails: str, words: list[str]) -> None:
    made = "CREATE TEMPORARY TABLE day_orders SELECT DATE(%(metric_date)s) AS day;\nDO 'makes';\n"
    project.write("1_makes.sql", select(made + FAILS[fails], "-- Data Type: card"))
    project.write("2_reads.sql", select("SELECT COUNT(*) AS n, %(metric_date)s AS day FROM day_orders"))
    project.write("3_good.sql", select("SELECT 1 AS n, %(metric_date)s AS day"))
    result = project.run(*words, env={"METRICS_ON_FAILURE": "metric"})
    assert result.returncode == 1
    assert "sql/2_reads.sql:3: statement 1 of 1" in result.stderr
    assert {name for name, _, _ in project.database.metrics()} == {"good"}


def test_a_check_sees_no_temporary_table(project: Project) -> None:
    project.write("m.sql", select("CREATE TEMPORARY TABLE found SELECT DATE(%(metric_date)s) AS day;\n"
                  "SELECT COUNT(*) AS n FROM found", "-- Check: SELECT 1 FROM found"))  # fmt: skip
    result = project.run(DAY)
    assert result.returncode == 1
    assert "found' doesn't exist" in result.stderr


# --- stored functions and triggers ------------------------------------------------------------------------------------

SETS = """
CREATE FUNCTION odd(n INT) RETURNS INT DETERMINISTIC BEGIN
    SET SESSION div_precision_increment = 0, default_week_format = 3; SET time_zone = '-11:00', @seen = 5;
    SET timestamp = 1000000000;
    CREATE TEMPORARY TABLE IF NOT EXISTS `Seen` (n INT); INSERT INTO `Seen` VALUES (1);
    RETURN n;
END;
CREATE FUNCTION through(n INT) RETURNS INT DETERMINISTIC RETURN odd(n);
CREATE FUNCTION seen() RETURNS INT DETERMINISTIC RETURN @seen;
CREATE VIEW odd_view AS SELECT through(7) AS n;
CREATE TABLE kept (day DATE PRIMARY KEY, n INT);
CREATE TRIGGER odd_kept BEFORE INSERT ON kept FOR EACH ROW SET NEW.n = odd(NEW.n);
"""
CALLS = {
    "a function": "SELECT odd(7) AS n, %(metric_date)s AS day",
    "a function of a function": "SELECT through(7) AS n, %(metric_date)s AS day",
    "a function in SET": "SET @a = odd(7);\nSELECT @a AS n, %(metric_date)s AS day",
    "a view": "SELECT n, %(metric_date)s AS day FROM odd_view",
    "a trigger": "REPLACE INTO kept (day, n) VALUES (%(metric_date)s, 7)",
    "a function that fails": "SELECT odd(7) AS n, %(metric_date)s AS day UNION SELECT odd(8), 1",
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("words", [[DAY], DAYS, ["--initial", *DAYS]])
def test_what_a_stored_function_or_a_trigger_sets_ends_with_the_file(
    project: Project, engine: str, call: str, words: list[str]
) -> None:
    project.database.execute(SETS)
    project.write("1_calls.sql", select(CALLS[call]))
    project.write("2_after.sql", select("SELECT 1 / 3 AS third, WEEK('2025-01-05') AS week, @@time_zone AS zone, "
                  "seen() AS seen, YEAR(NOW()) > 2001 AS now, %(metric_date)s AS day"))  # fmt: skip
    result = project.run(*words, env={"METRICS_ON_FAILURE": "metric", "DB_TIME_ZONE": "+00:00"})
    assert result.returncode == ("fails" in call), result.stderr
    right = {"third": 0.3333, "week": 1, "zone": "+00:00", "seen": None, "now": 1}
    rows = [json.loads(text) for name, _, text in project.database.metrics() if name == "after"]
    assert len(rows) == (1 if words == [DAY] else 3)
    assert [{key: row[key] for key in right} for row in rows] == [right] * len(rows)


@pytest.mark.parametrize("words", [DAYS, [*DAYS, "--keep-going"]])
@pytest.mark.parametrize("check", ["SELECT 1 FROM kept WHERE odd(n) > 5", "SELECT 1 FROM odd_view WHERE n < 5"])
def test_what_a_function_of_a_check_sets_ends_with_the_checks(
    project: Project, check: str, words: list[str]
) -> None:
    project.database.execute(SETS.partition("CREATE TRIGGER")[0] + "INSERT INTO kept VALUES ('2025-01-15', 6)")
    project.write("1_m.sql", select("SELECT 1 / 3 AS third, %(metric_date)s AS day", f"-- Check: {check}"))
    result = project.run(*words, env={"DB_TIME_ZONE": "+00:00"})
    assert result.returncode == (1 if "kept" in check else 0)
    assert ("check failed" in result.stderr) == ("kept" in check)
    assert all(json.loads(text)["third"] == 0.3333 for _, _, text in project.database.metrics())
    if "kept" in check:
        return
    assert len(project.database.metrics()) == 3


NAMES = "@@character_set_client, @@character_set_connection, @@character_set_results, @@collation_connection"
LIMITS = "@@sql_select_limit, @@sql_mode, @@foreign_key_checks, @@group_concat_max_len"


@pytest.mark.parametrize(
    ("sets", "of"),
    [
        ("SET NAMES latin1", NAMES),
        ("SET SESSION sql_select_limit = 1, sql_mode = '', foreign_key_checks = 0, group_concat_max_len = 4", LIMITS),
    ],
)
def test_settings_that_hide_or_change_others_are_put_back(project: Project, sets: str, of: str) -> None:
    project.database.execute(f"CREATE FUNCTION odd(n INT) RETURNS INT DETERMINISTIC BEGIN {sets}; RETURN n; END")
    asks = select(f"SELECT CONCAT_WS(' ', {of}) AS said, %(metric_date)s > '' AS day")
    project.write("1_before.sql", asks)
    project.write("2_calls.sql", select("SELECT odd(7) AS n, %(metric_date)s AS day"))
    project.write("3_after.sql", asks)
    result = project.run(*DAYS)
    assert (result.returncode, result.stderr.count("settings of the session")) == (0, 0), result.stderr
    assert len({value for name, _, value in project.database.metrics() if name != "calls"}) == 1


def test_a_global_setting_that_changes_while_a_file_runs_fails_nothing(project: Project) -> None:
    """A server that writes a binary log moves gtid_binlog_pos with every COMMIT of anybody."""
    sleeps = "CREATE FUNCTION sleeps(n INT) RETURNS INT DETERMINISTIC BEGIN DO SLEEP(0.5); RETURN n; END"
    project.database.execute(sleeps)
    project.write("m.sql", select("SELECT sleeps(7) AS n, %(metric_date)s AS day"))
    [(was,)] = project.database.rows("SELECT @@GLOBAL.slow_launch_time")
    run = project.start("run_metrics.py", DAY, "--retries", "0")
    while not project.database.rows("SELECT 1 FROM information_schema.processlist WHERE state = 'User sleep'"):
        assert run.poll() is None
    try:
        project.database.execute(f"SET GLOBAL slow_launch_time = {was + 1}")
        out, err = run.communicate(timeout=60)
    finally:
        project.database.execute(f"SET GLOBAL slow_launch_time = {was}")
    assert (run.returncode, "settings of the session" in err) == (0, False), out + err


def test_a_temporary_table_of_a_stored_function_ends_with_the_file(project: Project) -> None:
    project.database.execute(SETS)
    project.write("1_calls.sql", select(CALLS["a function"]))
    project.write("2_reads.sql", select("SELECT COUNT(*) AS n, %(metric_date)s AS day FROM Seen"))
    result = project.run(DAY)
    assert result.returncode == 1
    assert "Seen' doesn't exist" in result.stderr


SEEN = """
CREATE TABLE kept (day DATE PRIMARY KEY);
CREATE FUNCTION notes(n INT) RETURNS INT DETERMINISTIC BEGIN
    CREATE TEMPORARY TABLE IF NOT EXISTS `Seen` (n INT); SET @noted = n; RETURN n;
END;
CREATE FUNCTION seen() RETURNS INT DETERMINISTIC RETURN COALESCE(@seen, @noted);
"""
ON_METRICS = """
CREATE TRIGGER odd_metrics BEFORE {} ON bi_metrics FOR EACH ROW
    BEGIN SET SESSION div_precision_increment = 0; SET time_zone = '-11:00', @seen = notes(5); END;
"""
ASKS = "SELECT 1 / 3 AS third, @@time_zone AS zone, seen() AS seen, %(metric_date)s AS day"


@pytest.mark.parametrize("when", ["INSERT", "UPDATE"])
@pytest.mark.parametrize("words", [[DAY], DAYS, ["--initial", *DAYS], [*DAYS, "--dry-run"], ["--verify", *DAYS]])
def test_what_a_trigger_on_bi_metrics_sets_ends_with_its_statement(
    project: Project, when: str, words: list[str]
) -> None:
    project.database.execute(SEEN)
    project.write("1_select.sql", select("SELECT 1 AS n, %(metric_date)s AS day"))
    project.write("2_helper.sql", select("REPLACE INTO kept VALUES (%(metric_date)s)"))  # the rows are sent before it
    project.write("3_after.sql", select(ASKS))
    project.write("4_insert.sql", metric_sql("insert"))
    project.write("5_last.sql", select(ASKS))
    utc = {"DB_TIME_ZONE": "+00:00"}
    assert project.run(*DAYS, env=utc).returncode == 0
    right = project.database.metrics()
    project.database.execute(ON_METRICS.format(when))
    result = project.run(*words, env=utc)
    assert (result.returncode, project.database.metrics()) == (0, right), result.stdout + result.stderr


@pytest.mark.parametrize("metric", [select("SELECT 1 AS n, %(metric_date)s AS day"), metric_sql("made")])
def test_a_temporary_table_of_a_trigger_on_bi_metrics_ends_with_its_statement(project: Project, metric: str) -> None:
    project.database.execute(SEEN + ON_METRICS.format("INSERT"))
    project.write("1_made.sql", metric)
    project.write("2_helper.sql", select("REPLACE INTO kept VALUES (%(metric_date)s)"))
    project.write("3_reads.sql", select("SELECT COUNT(*) AS n, %(metric_date)s AS day FROM Seen"))
    assert "Seen' doesn't exist" in project.run(DAY).stderr


@pytest.mark.parametrize("words", [DAYS, ["--initial", *DAYS]])
def test_what_a_function_of_a_check_sets_is_not_there_for_the_next_check(project: Project, words: list[str]) -> None:
    project.database.execute(SEEN)
    project.write("1_m.sql", select("SELECT 1 AS n, %(metric_date)s AS day", "-- Check: SELECT 1 WHERE notes(5) = 7"))
    project.write("2_k.sql", select("SELECT 1 AS n, %(metric_date)s AS day", "-- Check: SELECT 1 WHERE seen() = 5"))
    result = project.run(*words)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("words", [DAYS, ("--initial", *DAYS)])
def test_a_function_does_not_see_the_last_insert_of_another_file(project: Project, words: tuple[str, ...]) -> None:
    project.database.execute("CREATE TABLE ids (id INT AUTO_INCREMENT PRIMARY KEY, day DATE UNIQUE)")
    project.database.execute("CREATE FUNCTION last_id() RETURNS INT READS SQL DATA RETURN LAST_INSERT_ID()")
    fill = "DELETE FROM ids WHERE day = %(metric_date)s;\nINSERT INTO ids (day) VALUES (%(metric_date)s)"
    project.write("1_ids.sql", select(fill))
    project.write("2_m.sql", select("SELECT last_id() AS n, DAY(%(metric_date)s) * 0 AS zero"))
    assert project.run(*words).returncode == 0
    assert values(project, "m") == [0] * 6


WRITES = """
CREATE TABLE kept (day DATE PRIMARY KEY, n INT); CREATE TABLE noted (day DATE PRIMARY KEY, n INT);
CREATE TRIGGER note_kept AFTER INSERT ON kept FOR EACH ROW
    INSERT INTO noted VALUES (NEW.day, NEW.n) ON DUPLICATE KEY UPDATE n = VALUES(n);
CREATE FUNCTION note(noted_day DATE, k INT) RETURNS INT MODIFIES SQL DATA BEGIN
    REPLACE INTO noted SELECT noted_day, k; UPDATE noted SET n = n + 0; RETURN k;
END;
CREATE PROCEDURE note_it(noted_day DATE, k INT) REPLACE INTO noted VALUES (noted_day, k);
CREATE FUNCTION calls_note(noted_day DATE, k INT) RETURNS INT MODIFIES SQL DATA BEGIN
    CALL note_it(noted_day, k); RETURN k;
END;
CREATE FUNCTION keep(kept_day DATE, k INT) RETURNS INT MODIFIES SQL DATA BEGIN
    REPLACE INTO kept VALUES (kept_day, k); RETURN k;
END;
CREATE FUNCTION moves(moved_day DATE, k INT) RETURNS INT MODIFIES SQL DATA BEGIN
    INSERT IGNORE INTO kept VALUES (moved_day, 1);
    UPDATE kept AS a JOIN others AS b ON b.day = a.day SET a.n = 2, b.n = k WHERE a.day = moved_day; RETURN k;
END;
CREATE FUNCTION drops(moved_day DATE, k INT) RETURNS INT MODIFIES SQL DATA BEGIN
    DELETE b FROM source AS a JOIN others AS b WHERE b.day = moved_day AND b.n < 7; RETURN k;
END;
CREATE TABLE others (day DATE, n INT); INSERT INTO others VALUES ('2025-01-15', 0), ('2025-01-15', 7);
CREATE VIEW noted_view AS SELECT day, n FROM noted; CREATE VIEW kept_view AS SELECT day, n FROM kept;
CREATE TABLE parent (day DATE PRIMARY KEY, n INT);
CREATE TRIGGER note_parent AFTER INSERT ON parent FOR EACH ROW REPLACE INTO kept VALUES (NEW.day, NEW.n);
CREATE TABLE source (n INT); INSERT INTO source VALUES (7);
"""
WRITERS = {
    "a trigger": "REPLACE INTO kept SELECT %(metric_date)s, n FROM source",
    "a function": "SELECT note(%(metric_date)s, n) AS n FROM source",
    "a function in a helper": "REPLACE INTO kept SELECT %(metric_date)s, note(%(metric_date)s, n) FROM source",
    "a procedure of a function": "SELECT calls_note(%(metric_date)s, n) AS n FROM source",
    "an UPDATE of joined tables": "SELECT moves(%(metric_date)s, n) AS n FROM source",
    "a DELETE of joined tables": "SELECT drops(%(metric_date)s, n) AS n FROM source",
    "a view": "REPLACE INTO noted_view SELECT %(metric_date)s, n FROM source",
    "a trigger behind a view": "REPLACE INTO kept_view SELECT %(metric_date)s, n FROM source",
    "a trigger behind a trigger": "REPLACE INTO parent SELECT %(metric_date)s, n FROM source",
    "a trigger behind a function": "SELECT keep(%(metric_date)s, n) AS n FROM source",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_a_file_writes_through_something_else_is_written_by_it(project: Project, writer: str) -> None:
    project.database.execute(WRITES)
    project.write("5_writes.sql", select(WRITERS[writer]))
    read = f"SELECT MIN(n) AS n FROM {'others' if 'joined' in writer else 'noted'} WHERE day = %(metric_date)s"
    early = project.write("2_reads.sql", select(read))
    refused = project.run(DAY)
    assert refused.returncode == 2
    assert "error: reads-later-metric: reads writes, which sql/5_writes.sql computes later" in refused.stderr
    early.rename(early.with_name("7_reads.sql"))
    assert project.run(DAY, env={"METRICS_READERS": "2"}).returncode == 0
    assert values(project, "reads") == [7]
    project.database.execute("UPDATE source SET n = 8")
    assert project.run(DAY, "--metric", "writes").returncode == 0
    states = dict(project.database.rows("SELECT metric, state FROM bi_metric_state WHERE metric_date = '2025-01-15'"))
    assert states["reads"] == "reopened"


FAMILY = """
CREATE TABLE parent (day DATE PRIMARY KEY, n INT) ENGINE = InnoDB;
CREATE TABLE child (day DATE, n INT, UNIQUE (day), FOREIGN KEY (day) REFERENCES parent (day) ON {}) ENGINE = InnoDB;
CREATE TABLE grandchild (day DATE, n INT, FOREIGN KEY (day) REFERENCES child (day) ON {}) ENGINE = InnoDB;
CREATE FUNCTION gone(parent_day DATE) RETURNS INT MODIFIES SQL DATA BEGIN
    DELETE FROM parent WHERE day = parent_day; RETURN 1;
END;
CREATE VIEW parents AS SELECT day, n FROM parent;
INSERT INTO parent VALUES ('2025-01-14', 1), ('2025-01-15', 2), ('2025-01-16', 3);
INSERT INTO child SELECT * FROM parent; INSERT INTO grandchild SELECT * FROM parent;
"""
DELETES = "DELETE FROM parent WHERE day = %(metric_date)s"
MOVES = "UPDATE parent SET day = day + INTERVAL n YEAR WHERE day = %(metric_date)s"
MOVES_DUPLICATE = (
    "INSERT INTO parent VALUES (%(metric_date)s, 7) ON DUPLICATE KEY UPDATE n = parent.n, "
    "parent.Day = DATE(%(metric_date)s) + INTERVAL parent.n YEAR"
)
KEYS = {
    "delete": ("DELETE CASCADE", DELETES),
    "set null": ("DELETE SET NULL", DELETES),
    "replace": ("DELETE CASCADE", "REPLACE INTO parent VALUES (%(metric_date)s, 5)"),
    "update": ("UPDATE CASCADE", MOVES),
    "update of a duplicate": ("UPDATE CASCADE", MOVES_DUPLICATE),
    "update to null": ("UPDATE SET NULL", MOVES),
    "a view": ("DELETE CASCADE", "DELETE FROM parents WHERE day = %(metric_date)s"),
    "a function": ("DELETE CASCADE", "SELECT gone(%(metric_date)s) AS n"),
}


@pytest.mark.parametrize("words", [DAYS, ("--initial", *DAYS)])
def test_a_temporary_table_within_a_function_makes_no_dependents(project: Project, words: tuple[str, ...]) -> None:
    project.database.execute("CREATE FUNCTION counted() RETURNS INT DETERMINISTIC BEGIN CREATE TEMPORARY TABLE IF NOT "
                             "EXISTS Own (n INT); INSERT INTO Own VALUES (1); RETURN (SELECT COUNT(*) FROM Own); END")
    for name in ("a", "b"):
        project.write(f"{name}.sql", select("SELECT counted() AS n, %(metric_date)s > '' AS d",
                      "-- Check: SELECT 1 FROM DUAL WHERE counted() <> 1"))  # fmt: skip
    result = project.run(*words)
    assert (result.returncode, values(project, "a"), values(project, "b")) == (0, [1] * 6, [1] * 6), result.stderr


def test_what_reads_a_table_that_a_trigger_on_bi_metrics_writes_declares_the_metrics(project: Project) -> None:
    project.database.execute("CREATE TABLE noted (name VARCHAR(100), day DATE, PRIMARY KEY (name, day)); "
                             "CREATE TRIGGER note BEFORE INSERT ON bi_metrics FOR EACH ROW "
                             "REPLACE INTO noted VALUES (NEW.metrics, NEW.metric_date)")  # fmt: skip
    project.write("1_a.sql", select("SELECT 1 AS n, %(metric_date)s > '' AS d"))
    reads = "SELECT COUNT(*) AS n FROM noted WHERE day = %(metric_date)s AND name <> 'reads'"
    project.write("2_reads.sql", select(reads))
    refused = project.run(*DAYS)
    assert refused.returncode == 2
    why = "reads-unclear: it is unclear which metrics this reads: a trigger on bi_metrics writes it"
    assert f"{why}; declare the names in the header: -- Reads: a, b\n" in refused.stderr
    project.write("2_reads.sql", select(reads, "-- Reads: a"))
    assert project.run(*DAYS, env={"METRICS_READERS": "2"}).returncode == 0
    assert values(project, "reads") == [1, 1, 1]


BEHIND = {
    "a trigger": ("sql/m.sql:4", "REPLACE INTO kept SELECT %(metric_date)s, n FROM source"),
    "a function": ("sql/m.sql:3", "SELECT note(%(metric_date)s, n) AS n FROM source"),
    "a view": ("sql/m.sql:4", "REPLACE INTO noted_view SELECT %(metric_date)s, n FROM source"),
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("words", [[DAY], [DAY, "--dry-run"], ["--verify", *DAYS]])
def test_a_table_that_cannot_roll_back_is_refused_behind_something_else(
    project: Project, behind: str, words: list[str]
) -> None:
    project.database.execute(f"{WRITES} ALTER TABLE noted ENGINE = MyISAM")
    place, sql = BEHIND[behind]
    project.write("m.sql", select(f"DO 1;\n{sql}" if "REPLACE" in sql else sql))
    project.write("n.sql", select("SELECT DAY(%(metric_date)s) AS n"))
    for result in (project.run(*words), project.list("--check")):
        assert result.returncode in (1, 2)
        assert f"{place}:1: error: cannot-roll-back: noted is in engine MyISAM" in result.stdout + result.stderr
    assert project.database.rows("SELECT * FROM noted") == []


@pytest.mark.parametrize("read", ["child", "grandchild"])
@pytest.mark.parametrize("key", KEYS)
def test_what_a_foreign_key_changes_is_written_by_the_file(
    project: Project, engine: str, key: str, read: str
) -> None:
    rule, writes = KEYS[key]
    keeps = key == "replace" and engine == "mysql"  # which replaces such a row without deleting it
    project.database.execute(FAMILY.format(rule, "UPDATE CASCADE" if "NULL" in rule else rule))
    project.write("5_writes.sql", select(writes, "-- Allow: changes-source"))
    reads = [project.write(f"2_reads{n}.sql", select(f"SELECT COUNT(day) AS n FROM {read} WHERE day <= "
             "DATE(%(metric_date)s)")) for n in range(5)]  # fmt: skip
    refused = project.run(DAY)
    assert refused.returncode == 2
    assert "error: reads-later-metric: reads writes, which sql/5_writes.sql computes later" in refused.stderr
    for file in reads:
        file.rename(file.with_name(f"7{file.name[1:]}"))
    assert project.run(*DAYS, env={"METRICS_READERS": "2"}).returncode == 0
    assert [values(project, f"reads{n}") for n in range(5)] == [[1, 2, 3] if keeps else [0, 0, 0]] * 5
    project.database.execute("INSERT INTO parent VALUES ('2025-01-15', 5) ON DUPLICATE KEY UPDATE n = 7")
    assert project.run(DAY, "--metric", "writes").returncode == 0
    states = dict(project.database.rows("SELECT metric, state FROM bi_metric_state WHERE metric_date = '2025-01-15'"))
    assert states["reads0"] == "reopened"


@pytest.mark.parametrize(
    ("rule", "writes"),
    [
        ("DELETE RESTRICT", "DELETE FROM parent WHERE day = %(metric_date)s - INTERVAL 9 DAY"),
        ("DELETE CASCADE", "UPDATE parent SET n = 7 WHERE day = %(metric_date)s"),
        ("UPDATE CASCADE", "DELETE FROM parent WHERE day = %(metric_date)s - INTERVAL 9 DAY"),
        ("UPDATE CASCADE", "INSERT INTO parent VALUES (%(metric_date)s, 7) ON DUPLICATE KEY UPDATE n = 7"),
        ("DELETE CASCADE", MOVES_DUPLICATE.replace("n YEAR", "n * 0 YEAR")),
    ],
)
def test_a_foreign_key_that_changes_nothing_makes_no_dependent(project: Project, rule: str, writes: str) -> None:
    project.database.execute(FAMILY.format(rule, rule))
    project.write("2_reads.sql", select("SELECT COUNT(day) AS n FROM child WHERE day <= %(metric_date)s"))
    project.write("5_writes.sql", select(writes, "-- Allow: changes-source"))
    assert project.run(*DAYS).returncode == 0
    assert values(project, "reads") == [1, 2, 3]


@pytest.mark.parametrize("words", [DAYS, ("--initial", *DAYS)])
def test_work_tables_with_a_foreign_key_between_them_run(project: Project, words: tuple[str, ...]) -> None:
    project.database.execute(FAMILY.format("DELETE CASCADE", "DELETE CASCADE") + ORDERS)
    fill = "DELETE FROM {0};\nINSERT INTO {0} SELECT day, {2} FROM {1} WHERE day = %(metric_date)s"
    project.write("1_parents.sql", select(fill.format("parent", "orders", "amount")))
    project.write("2_children.sql", select(fill.format("child", "parent", "n")))
    project.write("3_reads.sql", select("SELECT SUM(n) AS n FROM child"))
    result = project.run(*words)
    assert (result.returncode, values(project, "reads")) == (0, [5, 7, 11]), result.stderr


# --- work tables ------------------------------------------------------------------------------------------------------


@pytest.fixture
def work(project: Project) -> Project:
    """A work table, a set-based file between it and the metric that reads it, and a second reader."""
    project.database.execute(ORDERS)
    project.write("05_work_orders.sql", WORK)
    project.write("07_per_day.sql", select("SELECT day AS metric_date, COUNT(*) AS n FROM orders WHERE day BETWEEN "
                  "%(start_date)s AND %(metric_date)s GROUP BY day"))  # fmt: skip
    project.write("10_revenue.sql", REVENUE)
    project.write("20_biggest.sql", select("SELECT MAX(amount) AS amount FROM work_orders"))
    return project


@pytest.mark.parametrize("words", [DAYS, ("--initial", *DAYS), ("--initial", *DAYS, "--chunk", "month")])
def test_a_work_table_and_what_reads_it_run_date_by_date(work: Project, words: tuple[str, ...]) -> None:
    result = work.run(*words)
    assert result.returncode == 0, result.stderr
    assert [values(work, name) for name in ("revenue", "biggest", "per_day")] == [[5, 7, 11], [5, 7, 11], [1, 1, 1]]
    assert work.database.rows("SELECT DISTINCT metric FROM bi_metric_state ORDER BY 1") == [
        ("biggest",), ("per_day",), ("revenue",)
    ]  # fmt: skip
    verified = work.run("--verify", *DAYS)
    assert verified.stdout == "Both ways compared, nothing kept: 9 equal, 0 different.\n", verified.stderr


def test_a_work_table_runs_for_the_metric_that_needs_it_and_for_no_other(work: Project) -> None:
    assert work.run(DAY, "--metric", "per_day").returncode == 0
    assert work.database.rows("SELECT COUNT(*) FROM work_orders") == [(0,)]
    assert work.run(DAY, "--metric", "biggest").returncode == 0
    assert (values(work, "biggest"), values(work, "revenue")) == ([7], [])


def test_a_work_table_that_fails_is_the_failure_of_what_reads_it(work: Project) -> None:
    work.write("05_work_orders.sql", WORK.replace("FROM orders", "FROM nowhere"))
    result = work.run(DAY, env={"METRICS_ON_FAILURE": "metric"})
    assert result.returncode == 1
    assert (values(work, "per_day"), values(work, "revenue")) == ([1], [])
    failed = work.database.rows("SELECT metric FROM bi_metric_state WHERE error LIKE '%nowhere%' ORDER BY 1")
    assert failed == [("biggest",), ("revenue",)]


# --- warnings ---------------------------------------------------------------------------------------------------------

WARNED = {
    "text as a number": ("SELECT CAST('12abc' AS SIGNED) AS n", None),
    "a date that is none": ("SELECT STR_TO_DATE('15/01/2025', '%%Y-%%m-%%d') AS n", None),
    "UNHEX of no hexadecimal text": ("SELECT HEX(UNHEX('xyz')) AS n", "mysql"),
    "a date out of range": ("SELECT DATE_ADD('9999-12-31', INTERVAL 1 DAY) AS n", None),
    "a text over max_allowed_packet": ("SELECT LENGTH(REPEAT('x', @@max_allowed_packet + 1)) AS n", None),
    "a division by zero": ("SELECT 7 / (LENGTH(%(metric_date)s) - 10) AS n", None),
    "a logarithm of a negative number": ("SELECT LN(-LENGTH(%(metric_date)s)) AS n", None),
    "characters that are lost": ("SELECT CONVERT(CONVERT(x'F09F8E89' USING utf8mb4) USING latin1) AS n", "mariadb"),
    "JSON that is broken": ("SELECT JSON_EXTRACT('{\"a\":1', '$.a') AS n", "mariadb"),
    "JSON with a wrong character": ("SELECT JSON_VALUE('{\"a\" 1}', '$.a') AS n", "mysql"),
    "a JSON value that is no number": ("SELECT CAST(JSON_EXTRACT('{\"a\":\"x\"}', '$.a') AS SIGNED) AS n", None),
    "an address that is none": ("SELECT INET_ATON('12.abc') AS n", "mysql"),
    "a number that a DECIMAL cannot hold": ("SELECT CAST(1e100 AS DECIMAL(20,2)) AS n", None),
    "a number that an integer cannot hold": ("SELECT CAST(1e30 AS SIGNED) AS n", "mariadb"),
    "a negative number as an unsigned one": ("SELECT CAST(-LENGTH(%(metric_date)s) AS UNSIGNED) AS n", "mariadb"),
    "a text as a smaller DECIMAL": ("SELECT CAST('12345.6' AS DECIMAL(4,1)) AS n", None),
    "a time that is none": ("SELECT CAST('25:99:99' AS TIME) AS n", None),
    "a cut CHAR": ("SELECT CAST('abcdef' AS CHAR(3)) AS n", None),
    "a text compared with a number": ("SELECT '7x' = LENGTH(%(metric_date)s) AS n", None),
    "a cut GROUP_CONCAT": ("SELECT LENGTH(GROUP_CONCAT(REPEAT('x', 40000000))) AS n FROM (SELECT 1 UNION SELECT 2) t",
                           None),
}  # fmt: skip


@pytest.mark.parametrize("warned", WARNED)
@pytest.mark.parametrize("form", ["SELECT", "SET @x", "INTO @x", "behind many"])
def test_what_the_server_warns_of_is_not_stored(project: Project, engine: str, warned: str, form: str) -> None:
    sql, only = WARNED[warned]
    if only and not engine.startswith(only):
        pytest.skip(f"no warning, or an error, on this engine: only on {only}")
    date = "-- %(metric_date)s\n" if "metric_date" in sql else ""
    stored = "SELECT 1 AS n, %(metric_date)s AS day"
    text = {
        "SELECT": sql.replace(" AS n", " AS n, %(metric_date)s AS day", 1),
        "SET @x": f"SET @x = ({sql.replace(' AS n', '', 1)});\n{stored}, @x AS x",
        "INTO @x": f"{sql.replace(' AS n', ' INTO @x', 1) if ' FROM ' not in sql else sql + ' INTO @x'};\n"
                   f"{stored}, @x AS x",
        "behind many": "SELECT n, v, %(metric_date)s AS day FROM (SELECT SUM(CAST(CONCAT(t, 'x') AS SIGNED)) AS v FROM "
                       f"JSON_TABLE('{list(range(100))}', '$[*]' COLUMNS (t VARCHAR(9) PATH '$')) j) q, ({sql}) r",
    }[form]  # fmt: skip
    project.write("m.sql", select(date + text))
    result = project.run(DAY)
    assert (result.returncode, project.database.metrics()) == (1, []), result.stdout + result.stderr
    assert "correct" in result.stderr
    project.write("m.sql", select(date + text, "-- Allow: warnings"))
    assert project.run(DAY).returncode == 0


def test_a_note_that_a_key_cannot_be_used_fails_no_file(project: Project, engine: str) -> None:
    if not engine.startswith("mariadb"):
        pytest.skip("only MariaDB has such notes")
    project.database.execute("CREATE TABLE codes (code VARCHAR(9) PRIMARY KEY); INSERT INTO codes VALUES ('1'), ('2'); "
                             "SET GLOBAL note_verbosity = 'basic,unusable_keys,explain'")  # fmt: skip
    try:
        project.write("m.sql", select("SELECT COUNT(*) AS n FROM codes WHERE code = 1 AND %(metric_date)s > ''"))
        result = project.run(DAY)
    finally:
        project.database.execute("SET GLOBAL note_verbosity = DEFAULT")
    assert (result.returncode, values(project, "m")) == (0, [1]), result.stderr


WAYS = [[DAY], list(DAYS), ["--initial", *DAYS], ["--initial", *DAYS, "--chunk", "month"], [DAY, "--dry-run"],
        ["--verify", *DAYS]]  # fmt: skip
IN_FILES = {
    "SELECT": "SELECT {} AS n, %(metric_date)s AS day FROM texts",
    "set-based": "SELECT day AS metric_date, {} AS n FROM texts, JSON_TABLE(%(dates)s, '$[*]' COLUMNS (day DATE PATH "
    "'$')) AS asked",
    "INSERT": "INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date) SELECT 'm', 'card', "
    "'[\"n\"]', JSON_OBJECT('n', {}), %(metric_date)s FROM texts ON DUPLICATE KEY UPDATE value_list = "
    "VALUES(value_list), f_list = VALUES(f_list)",
    "helper": "REPLACE INTO kept SELECT %(metric_date)s, {} FROM texts",
    "temporary table": "CREATE TEMPORARY TABLE t SELECT {} AS n FROM texts;\n"
    "SELECT COUNT(*) AS n, %(metric_date)s AS day FROM t",
    "WHERE": "SELECT COUNT(*) AS n, %(metric_date)s AS day FROM texts WHERE {} > 5",
}
VALUES = ["CAST(t AS SIGNED)", "STR_TO_DATE(t, '%%Y-%%m-%%d')", "7 / LENGTH(nothing)", "t + 0",
          "CAST(t AS DECIMAL(20,2))", "CAST(t AS DOUBLE)", "CAST(t AS DATE)", "LN(LENGTH(nothing))"]  # fmt: skip

NO_WARNING = ["t + 0", "CAST(t AS DECIMAL(20,2))", "CAST(t AS DOUBLE)"]  # of MariaDB, as the next test shows


def test_where_a_server_does_not_warn_is_in_the_docs(project: Project, engine: str) -> None:
    """If one of these warns one day, or fails, the sentence in docs/metrics.md can go."""
    project.database.execute("CREATE TABLE texts (t VARCHAR(9), d DATE); INSERT INTO texts VALUES ('12abc', NULL); "
                             "CREATE TABLE kept (v LONGTEXT)")  # fmt: skip
    silent = {
        "mariadb": ["JSON_VALUE('no json', '$.a')", "SUM(DISTINCT t)", "JSON_EXTRACT('{\"a\": \"x\"}', '$.a') + 1",
                    "d = '2025-02-30'"],
        "mysql": ["CAST(SUBSTR(t, 1, 4) AS DECIMAL(20,2))",
                  "CAST(1e30 AS SIGNED)", "CAST(-1 AS UNSIGNED)", "UNIX_TIMESTAMP('9060-01-01')",
                  "(SELECT n FROM JSON_TABLE('[{\"n\":\"x\"}]', '$[*]' COLUMNS (n INT PATH '$.n')) AS j)"],
    }  # fmt: skip
    statements = [f"SELECT {value} FROM texts" for value in silent[engine.partition("-")[0]]]
    if engine != "mysql":
        statements += [f"INSERT INTO kept (v) SELECT {value} FROM texts" for value in NO_WARNING]
    with connected(project) as database:
        for statement in statements:
            database.execute(statement)
            assert database.warnings == 0, statement


@pytest.mark.parametrize("words", WAYS)
@pytest.mark.parametrize("form", IN_FILES)
def test_whatever_the_form_and_the_way_nothing_is_stored_of_what_the_server_warns_of(
    project: Project, engine: str, form: str, words: list[str]
) -> None:
    project.database.execute("CREATE TABLE texts (t VARCHAR(9), nothing VARCHAR(9)); INSERT INTO texts VALUES "
                             "('12abc', ''); CREATE TABLE kept (day DATE PRIMARY KEY, n VARCHAR(50))")  # fmt: skip
    silent = NO_WARNING if form == "INSERT" and engine != "mysql" else ()
    for value in [each for each in VALUES if each not in silent] if words == [DAY] else VALUES[:2]:
        project.write("1_m.sql", select(IN_FILES[form].format(value), "-- Data Type: card"))
        project.write("2_sums.sql", select("SELECT COUNT(*) AS n FROM kept WHERE day = %(metric_date)s"))
        result = project.run(*words)
        assert result.returncode == 1, f"{value}: {result.stdout}{result.stderr}"
        assert "sql/1_m.sql" in result.stderr
    assert project.database.metrics() == []


CHECKS = {
    "text as a number": "SELECT 1 FROM t WHERE CAST(name AS SIGNED) > 50",
    "a JSON null": "SELECT 1 FROM t WHERE CAST(JSON_UNQUOTE(JSON_EXTRACT(value, '$.n')) AS SIGNED) > 50",
    "a division by zero": "SELECT 1 FROM t WHERE 100 / n > 50 AND day <= %(metric_date)s",
    "a date that is none": "SELECT 1 FROM t WHERE STR_TO_DATE(name, '%%Y-%%m-%%d') > day",
    "a logarithm of zero": "SELECT 1 FROM t WHERE LN(n) > 50",
    "behind a check that is fine": "SELECT 1 FROM t WHERE n > 50\n-- Check: SELECT 1 FROM t WHERE LN(n) > 50",
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("words", [[DAY], ["--initial", *DAYS], [DAY, "--dry-run"]])
def test_a_check_that_the_server_warns_of_has_not_looked(project: Project, check: str, words: list[str]) -> None:
    project.database.execute("CREATE TABLE t (day DATE, n INT, name VARCHAR(9), value JSON); "
                             "INSERT INTO t VALUES ('2025-01-14', 0, '12abc', '{\"n\": null}')")  # fmt: skip
    header = f"-- Check: {CHECKS[check]}"
    project.write("m.sql", select("SELECT 1 AS n, %(metric_date)s AS day", header))
    failed = project.run(*words)
    assert (failed.returncode, project.database.metrics()) == (1, []), failed.stdout + failed.stderr
    line = 3 if "behind" in check else 2
    assert f"sql/m.sql:{line}: check: (" in failed.stderr
    assert "correct the value, or add the header line `-- Allow: warnings`" in failed.stderr
    project.write("m.sql", select("SELECT 1 AS n, %(metric_date)s AS day", f"{header}\n-- Allow: warnings"))
    assert project.run(*words).returncode == 0


def test_a_check_with_rows_and_a_warning_tells_its_rows(project: Project) -> None:
    header = "-- Check: SELECT 'fell', CAST('12abc' AS SIGNED)"
    project.write("m.sql", select("SELECT 1 AS n, %(metric_date)s AS day", header))
    assert "found fell, 12 (" in project.run(DAY).stderr


def test_notes_and_deprecations_fail_nothing(project: Project) -> None:
    text = metric_sql("m").replace("value_list = d.v", "value_list = VALUES(value_list)")
    project.write("m.sql", text.replace("INSERT", "DROP TEMPORARY TABLE IF EXISTS never;\nINSERT", 1))
    assert project.run(DAY).returncode == 0


# --- INSERT metrics ---------------------------------------------------------------------------------------------------


def test_a_title_like_the_blank_is_a_title(project: Project) -> None:
    project.write("title.sql", metric_sql("title", "'not computed yet'"))
    for _ in range(2):
        assert project.run(DAY).returncode == 0
    assert values(project, "title") == ["not computed yet"]


@pytest.mark.parametrize("empty", ["", "-- Empty: ok"])
def test_a_row_of_another_date_is_refused(project: Project, empty: str) -> None:
    good = metric_sql("m", "DAY(%(metric_date)s)", empty)
    project.write("m.sql", good)
    assert project.run(*DAYS).returncode == 0
    project.write("m.sql", good.replace("d.v, %(metric_date)s FROM", "d.v, %(metric_date)s - INTERVAL 1 DAY FROM"))
    result = project.run(DAYS[1])
    assert result.returncode == 1
    assert "sql/m.sql: wrote" in result.stderr
    assert values(project, "m") == [14, 15, 16]


def test_a_data_type_other_than_the_header_s_is_refused(project: Project) -> None:
    project.write("m.sql", metric_sql("m").replace("-- Data Type: card", "-- Data Type: ranking"))
    result = project.run(DAY)
    assert result.returncode == 1
    assert "sql/m.sql: wrote data_type card, and its header says ranking; add data_type = VALUES" in result.stderr


def test_an_upsert_that_renews_value_list_alone_is_enough_until_its_sql_changes(project: Project) -> None:
    alone = metric_sql("m", "DAY(%(metric_date)s)").replace(", f_list = VALUES(f_list)", "")
    project.write("m.sql", alone)
    for _ in range(2):
        assert project.run(DAY).returncode == 0
    changed = alone.replace("DAY(", "-DAY(", 1)
    project.write("m.sql", changed)
    result = project.run(DAY)
    assert result.returncode == 1
    assert "does not renew f_list; add f_list = VALUES(f_list) to ON DUPLICATE KEY UPDATE" in result.stderr
    assert values(project, "m") == [15]
    renewed = "value_list = d.v, f_list = VALUES(f_list)"
    project.write("m.sql", changed.replace("value_list = d.v", renewed))
    assert project.run(DAY).returncode == 0
    assert values(project, "m") == [-15]


@pytest.mark.parametrize("text", [r'{"n": "C:\\x"}', '{"n": 1.}'])
def test_json_that_not_every_reader_takes_is_refused_and_old_text_is_compared_as_text(
    project: Project, engine: str, text: str
) -> None:
    bad = metric_sql("m").replace("JSON_OBJECT('n', 1)", f"'{text}'")
    project.write("m.sql", bad)
    result = project.run(DAY)
    assert result.returncode == 1
    assert "sql/m.sql" in result.stderr
    assert project.database.metrics() == []
    if engine == "mysql":
        return  # it stores no such text
    project.database.execute(f"INSERT INTO bi_metrics (metrics, f_list, value_list, metric_date) VALUES "
                             f"('m', '[\"n\"]', '{text}', '{DAY}')")  # fmt: skip
    project.write("m.sql", metric_sql("m", "7"))
    assert project.run(DAY).returncode == 0
    assert values(project, "m") == [7]
    assert project.list("--html", str(project.folder / "page.html")).returncode == 0


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_runs_the_helpers_of_each_way(project: Project) -> None:
    project.database.execute("CREATE TABLE events (day DATE); CREATE TABLE per_day (day DATE PRIMARY KEY, n INT); "
                             "INSERT INTO events VALUES ('2025-01-14'), ('2025-01-15'), ('2025-01-16')")  # fmt: skip
    fill = (
        "REPLACE INTO per_day SELECT day, {} FROM events WHERE day BETWEEN %(start_date)s AND %(metric_date)s "
        "GROUP BY day"
    )
    project.write("initial/05_fill.sql", select(fill.format("COUNT(*)")))
    project.write("incremental/05_fill.sql", select(fill.format("2 * COUNT(*)")))
    project.write("10_events.sql", select("SELECT n FROM per_day WHERE day = %(metric_date)s"))
    found = project.run("--verify", *DAYS)
    assert found.returncode == 4, found.stdout + found.stderr
    assert "2025-01-15  events  at once -> date by date: n: 1 -> 2" in found.stdout
    assert project.database.rows("SELECT COUNT(*) FROM per_day") == [(0,)]


def test_verify_judges_value_by_value_and_says_what_cannot_be_compared(project: Project) -> None:
    project.write("initial/m.sql", select("SELECT 1 AS a, UUID_SHORT() AS b, %(metric_date)s AS day"))
    project.write("incremental/m.sql", select("SELECT 1 AS a, UUID_SHORT() AS b, %(metric_date)s AS day"))
    unsure = project.run("--verify", *DAYS)
    assert unsure.returncode == 1
    assert "3 rows could not be compared: computing them twice gave two values (m). Run " in unsure.stdout
    project.write("incremental/m.sql", select("SELECT 2 AS a, UUID_SHORT() AS b, %(metric_date)s AS day"))
    found = project.run("--verify", *DAYS)
    assert found.returncode == 4
    assert "2025-01-16  m  at once -> date by date: a: 1 -> 2\n" in found.stdout


@pytest.mark.parametrize("incremental", ["20", "60"])
def test_a_right_pair_of_which_the_initial_file_stands_elsewhere_is_no_difference(
    project: Project, incremental: str
) -> None:
    """On the first date the initial file runs in the place of the incremental one, as it does in a night."""
    row = "FROM bi_metrics WHERE metrics = '{}' AND metric_date {} %(metric_date)s{}"
    number = "CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.n')) AS SIGNED)"
    so_far = row.format("total", "=", " - INTERVAL 1 DAY")
    project.write("10_daily.sql", select("SELECT DAY(%(metric_date)s) AS n"))
    project.write("initial/90_total.sql", select(f"SELECT SUM({number}) AS n {row.format('daily', '<=', '')}"))
    project.write(f"incremental/{incremental}_total.sql", select(
        f"SELECT (SELECT {number} {row.format('daily', '=', '')}) + (SELECT {number} {so_far}) AS n"
    ))  # fmt: skip
    assert project.run(*DAYS).returncode == 0
    found = project.run("--verify", *DAYS)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "6 equal" in found.stdout


@pytest.mark.parametrize("changes", [
    "UPDATE work_orders SET amount = amount * 100 WHERE day = %(metric_date)s",
    "REPLACE INTO work_orders SELECT id + 100, day, amount * 10 FROM orders WHERE day = %(metric_date)s",
])  # fmt: skip
def test_a_work_table_that_another_file_writes_is_refused(project: Project, changes: str) -> None:
    project.database.execute(ORDERS)
    project.write("1_work.sql", WORK)
    project.write("2_more.sql", select(changes, "-- Allow: changes-source"))
    project.write("3_revenue.sql", REVENUE)
    refused = project.run(DAY)
    assert refused.returncode == 2
    assert "sql/2_more.sql:3:1: error: work-table: work empties and fills this table before each" in refused.stderr


def test_warnings_behind_as_many_notes_as_the_server_counts_are_seen(project: Project, engine: str) -> None:
    digits = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4)"
    joined = " CROSS JOIN ".join(f"{digits} AS t{n}" for n in range(7))  # 78,125 rows
    project.database.execute("CREATE TABLE big (id INT AUTO_INCREMENT PRIMARY KEY, t VARCHAR(9) NOT NULL)")
    project.database.execute(f"INSERT INTO big (t) SELECT '7 ' FROM {joined}; INSERT INTO big (t) VALUES ('1,000')")
    project.write("m.sql", select("SELECT SUM(CAST(t AS SIGNED)) AS n, %(metric_date)s AS d FROM big"))
    failed = project.run(DAY)
    assert failed.returncode == 1, failed.stdout
    assert "the server has more warnings than it shows" in failed.stderr or "(1292)" in failed.stderr


def test_a_division_by_zero_fails_whatever_the_server_s_sql_mode_is(project: Project) -> None:
    with server_default(project.database, "sql_mode", ""), server_default(project.database, "sql_auto_is_null", 1):
        project.write("m.sql", select("SELECT COALESCE(7 / (LENGTH(%(metric_date)s) - 10), 0) AS n"))
        failed = project.run(DAY)
    assert failed.returncode == 1
    assert "(1365) Division by" in failed.stderr
