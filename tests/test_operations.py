"""What one relies on night after night: dry runs, audits, changes, catching up, the state, the records, the log."""

from __future__ import annotations

import json
import re
import shlex
from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.conftest import Project, metric_sql
from tests.workload import slow, wait_until

FIRST, LAST = "2025-01-01", "2025-01-10"
TODAY = date.today()
TOTAL_INITIAL = """\
-- Metric: total
-- Description: Everything that was paid so far
-- Data Type: card
INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
SELECT 'total', 'card', JSON_ARRAY('n'), d.v, d.day FROM (
  SELECT x.day, JSON_OBJECT('n', (SELECT COALESCE(SUM(amount), 0) FROM payments WHERE day <= x.day)) AS v
  FROM JSON_TABLE(%(dates)s, '$[*]' COLUMNS (day DATE PATH '$')) x) d
ON DUPLICATE KEY UPDATE value_list = d.v;
"""
PAID = "(SELECT COALESCE(SUM(amount), 0) FROM payments WHERE day = %(metric_date)s)"
BEFORE = (
    "(SELECT CAST(JSON_UNQUOTE(JSON_EXTRACT(value_list, '$.n')) AS DECIMAL(20,2)) FROM bi_metrics "
    "WHERE metrics = 'total' AND metric_date = %(metric_date)s - INTERVAL 1 DAY)"
)
LATE = "INSERT INTO payments VALUES ('2025-01-03', 5.00)"


@pytest.fixture
def nightly(project: Project) -> Project:
    """Two metrics, one of them cumulative, and ten days of payments: 1.10, 2.10, ... 10.10."""
    values = ", ".join(f"('2025-01-{n:02}', {n}.10)" for n in range(1, 11))
    project.database.execute("CREATE TABLE payments (day DATE, amount DECIMAL(10,2))")
    project.database.execute(f"INSERT INTO payments VALUES {values}")
    project.write("01_paid.sql", metric_sql("paid", PAID))
    project.write("incremental/02_total.sql", metric_sql("total", f"{BEFORE} + {PAID}"))
    project.write("initial/02_total.sql", TOTAL_INITIAL)
    return project


@pytest.fixture
def stored(nightly: Project) -> Project:
    """The same with its ten dates stored."""
    result = nightly.run(FIRST, LAST)
    assert (result.returncode, result.stderr) == (0, "")
    return nightly


def everything(project: Project) -> list[tuple[object, ...]]:
    rows = project.database.rows("SELECT * FROM bi_metrics ORDER BY id")
    return rows + project.database.rows("SELECT * FROM bi_metric_runs ORDER BY id")


def printed_command(text: str, words: str) -> list[str]:
    """Return the arguments of the command that follows `words`."""
    found = re.search(rf"{words}: python run_metrics\.py (.*)", text)
    assert found, text
    return shlex.split(found[1])


# --- dry runs ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_what_is_new_and_keeps_nothing(nightly: Project) -> None:
    result = nightly.run(FIRST, "2025-01-02", "--dry-run")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "2025-01-01  new        paid", "2025-01-01  new        total",
        "2025-01-02  new        paid", "2025-01-02  new        total",
        "Dry run, nothing kept: 4 new, 0 changed (0 of them final before), 0 unchanged.",
    ]  # fmt: skip
    assert everything(nightly) == []


def test_a_dry_run_shows_old_and_new_values_and_exits_4(stored: Project) -> None:
    before = everything(stored)
    same = stored.run(FIRST, LAST, "--dry-run")
    assert same.returncode == 0
    assert "0 new, 0 changed (0 of them final before), 20 unchanged." in same.stdout
    stored.database.execute(LATE)
    result = stored.run("2025-01-02", "2025-01-04", "--dry-run")
    assert result.returncode == 4
    assert "2025-01-02  unchanged  paid\n" in result.stdout
    assert "2025-01-03  changed    paid  n: 3.10 -> 8.10\n" in result.stdout
    assert "2025-01-04  changed    total  n: 10.40 -> 15.40\n" in result.stdout
    assert "0 new, 3 changed (3 of them final before), 3 unchanged." in result.stdout
    found = json.loads(stored.run("2025-01-03", "--dry-run", "--json").stdout)
    assert found[0] == {
        "metric": "paid", "metric_date": "2025-01-03", "kind": "changed", "was_final": True, "detail": "n: 3.10 -> 8.10"
    }  # fmt: skip
    assert everything(stored) == before


def test_a_dry_run_that_fails_names_the_file_and_exits_1(stored: Project) -> None:
    before = everything(stored)
    stored.write("03_bad.sql", metric_sql("bad", where="FROM payments WHERE day < %(metric_date)s AND amount > 99"))
    result = stored.run(FIRST, "2025-01-02", "--dry-run")
    assert result.returncode == 1
    assert re.search(r"^Error: 2025-01-01: sql/03_bad\.sql: wrote no row", result.stderr)
    assert everything(stored) == before


def test_a_provisional_row_that_differs_is_no_reason_for_exit_4(stored: Project) -> None:
    stored.database.execute(f"{LATE}; UPDATE bi_metrics SET updated_at = '2025-01-03 12:00:00' "
                            "WHERE metric_date = '2025-01-03'")  # fmt: skip
    result = stored.run("2025-01-03", "--dry-run")
    assert result.returncode == 0
    assert "2 changed (0 of them final before)" in result.stdout


def test_the_audit_finds_late_data_and_the_same_command_repairs_it(stored: Project) -> None:
    audit = ("--initial", FIRST, LAST)
    assert stored.run(*audit, "--dry-run").returncode == 0
    stored.database.execute(LATE)
    assert stored.run("2025-01-05", "--metric", "total", "--dry-run").returncode == 0, "it builds on the stored row"
    before = everything(stored)
    found = stored.run(*audit, "--dry-run")
    assert found.returncode == 4
    assert "2025-01-10  changed    total  n: 56.00 -> 61.00\n" in found.stdout
    assert "0 new, 9 changed (9 of them final before), 11 unchanged." in found.stdout
    assert everything(stored) == before
    repaired = stored.run(*audit)
    assert repaired.returncode == 0
    assert repaired.stdout.endswith("10 dates: 2 metrics changed on 8 dates.\n")
    assert "2025-01-10 total: changed n: 56.00 -> 61.00" in stored.log()
    assert stored.run(*audit, "--dry-run").returncode == 0
    changes = "SELECT metric, changes FROM bi_metric_runs WHERE metric_date = '2025-01-03' AND changes IS NOT NULL"
    assert sorted(stored.database.rows(changes)) == [("paid", "n: 3.10 -> 8.10"), ("total", "n: 6.30 -> 11.30")]


# --- what a run says at its end ---------------------------------------------------------------------------------------


def test_what_a_run_changed_in_final_rows_is_said_logged_and_kept(stored: Project) -> None:
    assert stored.run("2025-01-03").stdout.count("\n") == 1, "nothing changed, so nothing is said of it"
    stored.database.execute(LATE)
    result = stored.run("2025-01-02", "2025-01-04")
    assert "3 dates: 2 metrics changed on 2 dates." in result.stdout
    assert "2025-01-03 paid: changed n: 3.10 -> 8.10" in stored.log()
    query = "SELECT changes FROM bi_metric_runs WHERE metric = 'paid' AND metric_date = '2025-01-03' ORDER BY id"
    assert [row[0] for row in stored.database.rows(query)] == [None, None, "n: 3.10 -> 8.10"]
    refresh = printed_command(result.stderr, "Warning: rows of 2025-01-05 to 2025-01-10 build on .*Refresh them with")
    assert refresh == ["2025-01-05", "2025-01-10", "--metric", "total"]
    assert stored.run(*refresh).returncode == 0
    assert stored.run("--initial", FIRST, LAST, "--dry-run").returncode == 0


def test_missing_dates_are_said_with_the_command_that_fills_them(nightly: Project) -> None:
    days = [str(TODAY - timedelta(days=n)) for n in range(6, 0, -1)]
    assert nightly.run(days[0]).stderr == ""
    result = nightly.run(days[4])
    fill = printed_command(result.stderr, f"dates are missing: paid {days[1]} to {days[3]}, total .*Run them with")
    assert fill == [days[1], days[3], "--metric", "paid", "--metric", "total"]
    assert nightly.list("--status").stdout.count(f"holes: {days[1]} to {days[3]}") == 2
    assert "dates are missing" not in nightly.run(*fill).stderr
    assert [row[1] for row in nightly.database.metrics()][::2] == days[:5]


def test_a_row_that_holds_a_part_of_its_day_is_said_with_the_command_that_computes_it_again(nightly: Project) -> None:
    days = [str(TODAY - timedelta(days=n)) for n in range(4, 0, -1)]
    assert nightly.run(days[0], days[3]).stderr == ""
    nightly.database.execute(f"UPDATE bi_metrics SET updated_at = '{days[1]} 01:00' WHERE metric_date = '{days[1]}'")
    result = nightly.run(days[3])
    again = printed_command(result.stderr, f"rows hold a part of their day: paid {days[1]}, total .*Run them with")
    assert again == [days[1], "--metric", "paid", "--metric", "total"]
    assert nightly.list("--status").stdout.count(f"a part of the day: {days[1]}") == 2
    assert nightly.run(*again).returncode == 0
    assert nightly.run(days[3]).stderr == ""


def test_rows_of_a_part_of_their_day_are_said_with_the_command_that_computes_them_again(nightly: Project) -> None:
    days = [str(TODAY - timedelta(days=n)) for n in range(3, 0, -1)]
    assert nightly.run(days[0], days[2]).stderr == ""
    nightly.database.execute(f"UPDATE bi_metrics SET updated_at = '{days[1]} 12:00:00' "
                             f"WHERE metrics = 'paid' AND metric_date = '{days[1]}'")  # fmt: skip
    result = nightly.run(days[2])
    again = printed_command(result.stderr, f"rows hold a part of their day: paid {days[1]}. Run them with")
    assert again == [days[1], "--metric", "paid"]
    assert nightly.run(*again).stderr == ""


def test_keep_going_runs_the_others_and_lists_the_failed_dates(nightly: Project) -> None:
    picky = "FROM payments WHERE day = %(metric_date)s AND amount NOT IN (3.10, 4.10, 7.10)"
    path = nightly.write("03_picky.sql", metric_sql("picky", where=picky))
    result = nightly.run(FIRST, LAST, "--keep-going")
    assert result.returncode == 1
    assert "2025-01-03  failed\n" in result.stdout
    again = printed_command(result.stderr, "Failed: 2025-01-03 to 2025-01-04, 2025-01-07. Run them again with")
    assert again == ["2025-01-03", "2025-01-07", "--keep-going"]
    assert result.stderr.count("wrote no row") == 3
    dates = "SELECT COUNT(*), COUNT(DISTINCT metric_date) FROM bi_metrics"
    assert nightly.database.rows(dates) == [(21, 7)]
    assert "2025-01-05 total: no final row on the day before" in nightly.log()
    failed = "SELECT metric, metric_date FROM bi_metric_runs WHERE status = 'failed' ORDER BY metric_date"
    assert [(row[0], row[1].day) for row in nightly.database.rows(failed)] == [("picky", 3), ("picky", 4), ("picky", 7)]
    path.unlink()
    assert nightly.run(*again).returncode == 0
    assert nightly.run("--initial", FIRST, LAST, "--dry-run").returncode == 0


# --- which dates ------------------------------------------------------------------------------------------------------


def test_catch_up_runs_from_the_oldest_of_the_newest_rows(stored: Project) -> None:
    stored.database.execute("DELETE FROM bi_metrics WHERE metrics = 'paid' AND metric_date > '2025-01-08'")
    stored.write("09_fresh.sql", metric_sql("fresh"))
    result = stored.run("--catch-up", "2025-01-12")
    assert result.returncode == 0, result.stderr
    lines = [line[:21] for line in result.stdout.splitlines()[:5]]
    assert result.stdout.startswith("Catching up 2025-01-09 to 2025-01-12: 4 dates.\n")
    assert lines[1:] == [f"2025-01-{n:02}  3 metrics"[:21] for n in range(9, 13)]
    nothing = stored.run("--catch-up", "2025-01-12")
    assert (nothing.returncode, nothing.stdout) == (0, "Nothing to catch up: every metric has the row of that date.\n")
    stored.database.execute("UPDATE bi_metrics SET updated_at = '2025-01-12 13:00:00' WHERE metric_date = '2025-01-12'")
    assert stored.run("--catch-up", "2025-01-12").stdout.startswith("Catching up 2025-01-12: 1 date.\n")


def test_catch_up_refuses_more_than_31_dates_and_a_database_without_rows(stored: Project) -> None:
    before = everything(stored)
    result = stored.run("--catch-up", "2025-02-11", "--wait", "5")
    assert result.returncode == 2
    assert "--catch-up would run 32 dates, more than 31" in result.stderr
    assert printed_command(result.stderr, "if that is meant, run") == ["2025-01-11", "2025-02-11", "--wait", "5"]
    assert everything(stored) == before
    stored.database.execute("DELETE FROM bi_metrics")
    empty = stored.run("--catch-up")
    assert empty.returncode == 2
    assert "no metric has a row yet; load the history: python run_metrics.py --initial" in empty.stderr


def test_last_runs_the_dates_that_end_on_a_date_or_today(nightly: Project) -> None:
    assert nightly.run("--last", "3", LAST).returncode == 0
    assert nightly.run("--last", "2").returncode == 0
    days = ["2025-01-08", "2025-01-09", "2025-01-10", str(TODAY - timedelta(days=1)), str(TODAY)]
    assert [row[1] for row in nightly.database.metrics()][::2] == days


# --- the state --------------------------------------------------------------------------------------------------------


def test_the_status_shows_dates_rows_last_run_and_remarks(nightly: Project) -> None:
    days = [str(TODAY - timedelta(days=n)) for n in range(4, -1, -1)]
    assert nightly.run(days[0], days[3]).returncode == 0
    assert nightly.run(days[4], "--metric", "total").returncode == 0
    nightly.write("05_never.sql", metric_sql("never"))
    text = nightly.list("--status").stdout
    head, _, paid, total, never = text.splitlines()
    assert re.split(r"  +", head) == ["Metric", "First", "Newest", "Rows", "State", "Last run", "ms", "Remarks"]
    now = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\d+"
    assert re.fullmatch(rf"paid +{days[0]} +{days[3]} +4 +final +{now}", paid)
    assert re.fullmatch(rf"total +{days[0]} +{days[4]} +5 +provisional +{now}", total)
    assert re.fullmatch(r"never +- +- +0 +- +- +- +no row yet", never)
    before = everything(nightly)
    assert nightly.list("--status", "--max-age", "1").returncode == 1, "one has no row"
    (nightly.folder / "sql" / "05_never.sql").unlink()
    assert nightly.list("--status", "--max-age", "1").returncode == 0
    probe = nightly.list("--status", "--max-age", "0", "--json")
    assert probe.returncode == 1
    states = json.loads(probe.stdout)
    assert [(state["metric"], state["too_old"]) for state in states] == [("paid", True), ("total", False)]
    assert {"first", "newest", "rows", "newest_is_final", "holes", "last_run", "last_milliseconds",
            "sql_changed"} <= states[0].keys()  # fmt: skip
    assert everything(nightly) == before


def test_sql_changed_since_is_blind_to_comments_and_blanks(stored: Project) -> None:
    text = metric_sql("paid", PAID)
    same = text.replace("SELECT 'paid'", "SELECT   /* x */ 'paid'").replace("\n", "\r\n")
    stored.write("01_paid.sql", f"-- Owner: somebody\r\n{same}")
    assert "SQL changed since" not in stored.list("--status").stdout
    stored.write("01_paid.sql", metric_sql("paid", f"{PAID} + 0"))
    state = stored.list("--status").stdout
    assert re.search(r"^paid .*SQL changed since$", state, re.MULTILINE)
    assert not re.search(r"^total .*SQL changed since", state, re.MULTILINE)
    assert stored.run(LAST).returncode == 0
    assert "SQL changed since" not in stored.list("--status").stdout


# --- the records ------------------------------------------------------------------------------------------------------


def test_every_file_of_every_date_is_recorded(nightly: Project) -> None:
    nightly.run(FIRST, "2025-01-02")
    nightly.run(str(TODAY))
    nightly.write("03_long.sql", metric_sql("long", header="-- Check: SELECT REPEAT('é', 3000)"))
    failed = nightly.run("2025-01-03")
    assert failed.returncode == 1
    rows = nightly.database.rows(
        "SELECT run_id, metric, metric_date, mode, file, fingerprint, row_count, status, is_final, error "
        "FROM bi_metric_runs ORDER BY id"
    )
    assert [(row[1], str(row[2]), row[3], row[4], row[6], row[7], row[8]) for row in rows] == [
        ("paid", FIRST, "both", "sql/01_paid.sql", 1, "ok", 1),
        ("total", FIRST, "initial", "sql/initial/02_total.sql", 1, "ok", 1),
        ("paid", "2025-01-02", "both", "sql/01_paid.sql", 1, "ok", 1),
        ("total", "2025-01-02", "incremental", "sql/incremental/02_total.sql", 1, "ok", 1),
        ("paid", str(TODAY), "both", "sql/01_paid.sql", 1, "ok", 0),
        ("total", str(TODAY), "initial", "sql/initial/02_total.sql", 1, "ok", 0),
        ("long", "2025-01-03", "both", "sql/03_long.sql", 0, "failed", 0),
    ]
    assert len({row[0] for row in rows}) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", row[0]) and re.fullmatch("[0-9a-f]{16}", row[5]) for row in rows)
    assert len(rows[-1][9]) == 1000
    assert "éé" in rows[-1][9]
    assert rows[-1][9][:60] in failed.stderr


def test_a_failure_that_cannot_be_recorded_is_told_all_the_same(nightly: Project) -> None:
    nightly.database.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON bi_metric_runs FOR EACH ROW BEGIN IF NEW.status = 'failed' THEN "
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF; END"
    )
    nightly.write("03_bad.sql", metric_sql("bad", where="FROM nowhere"))
    result = nightly.run(FIRST)
    assert result.returncode == 1
    assert "Error: 2025-01-01: sql/03_bad.sql:5: statement 1 of 1: (1146)" in result.stderr
    assert "Warning: could not note the failure in bi_metric_runs: (1644) refused" in result.stderr
    assert everything(nightly) == []


# --- for cron ---------------------------------------------------------------------------------------------------------


def test_the_log_rotates_by_size(nightly: Project) -> None:
    reporting = nightly.folder / "src" / "reporting.py"
    reporting.write_text(re.sub(r"(?m)^LOG_BYTES = .*", "LOG_BYTES = 3_000", reporting.read_text()))
    assert nightly.run("2025-01-01", "2025-02-28", "--quiet").stdout == ""
    logs = sorted((nightly.folder / "logs").iterdir())
    assert [path.name for path in logs] == ["metrics.log", *(f"metrics.log.{n}" for n in range(1, 6))]
    assert all(path.stat().st_size <= 3_000 + 200 for path in logs), "a file ends with the line that fills it"
    assert "2025-02-28 sql/incremental/02_total.sql: 1 rows, " in "".join(path.read_text() for path in logs)


@pytest.mark.parametrize("obstacle", ["a file in place of the folder", "a folder in place of the file", "a full disk"])
def test_a_log_that_cannot_be_written_warns_and_the_metrics_run(nightly: Project, obstacle: str) -> None:
    logs = nightly.folder / "logs"
    if obstacle == "a file in place of the folder":
        logs.write_text("")
    elif obstacle == "a folder in place of the file":
        (logs / "metrics.log").mkdir(parents=True)
    else:
        logs.mkdir()
        (logs / "metrics.log").symlink_to("/dev/full")
    result = nightly.run(FIRST)
    assert result.returncode == 0
    assert re.fullmatch(r"Warning: cannot write the log .*\n", result.stderr)
    assert len(nightly.database.metrics()) == 2


def test_the_password_is_nowhere_to_be_seen(nightly: Project, tmp_path: Path) -> None:
    password = "Pa55-w0rd%s'\\"
    account = f"keeper_{nightly.database.name}"
    quoted = password.replace("\\", "\\\\").replace("'", "''")
    nightly.database.execute(f"CREATE USER {account}@localhost IDENTIFIED BY '{quoted}'; "
                             f"GRANT ALL ON {nightly.database.name}.* TO {account}@localhost")  # fmt: skip
    env = {**nightly.database.env, "DB_USER": account, "DB_PASSWORD": password, "LOG_LEVEL": "DEBUG"}
    env = {name: env[name] for name in ("DB_SOCKET", "DB_NAME", "DB_USER", "DB_PASSWORD", "LOG_LEVEL")}
    said = []
    slow(nightly, 3_000)
    run = nightly.start("run_metrics.py", FIRST, env=env)
    wait_until(lambda: "03_slow" in str(nightly.database.rows("SHOW FULL PROCESSLIST")))
    said.append(Path(f"/proc/{run.pid}/cmdline").read_bytes().decode())
    said += run.communicate(timeout=60)
    assert run.returncode == 0
    wrong = nightly.run(FIRST, env={**env, "DB_PASSWORD": f"{password}x"})
    assert wrong.returncode == 2
    assert "(1045)" in wrong.stderr
    nightly.write("03_slow.sql", metric_sql("slow", where="FROM nowhere"))
    assert nightly.run(FIRST, env=env).returncode == 1
    manager = nightly.folder / "src" / "db_manager.py"
    connecting = "            connection = pymysql.connect("
    manager.write_text(manager.read_text().replace(connecting, f"            raise TypeError('ours')\n{connecting}"))
    ours = nightly.run(FIRST, env=env)
    assert "Traceback" in ours.stderr
    assert "TypeError: ours" in ours.stderr
    for result in (wrong, ours):
        said += [result.stdout, result.stderr]
    said.append(nightly.log())
    assert all(password not in text and "Pa55" not in text for text in said)
    nightly.database.execute(f"DROP USER {account}@localhost")
