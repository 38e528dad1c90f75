"""The listing command: what runs and in which order, what is wrong with a file, what is sent. It changes nothing."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from list_metrics import parse_arguments
from src.display.log import table
from tests.conftest import Project, connect, metric_sql, refusal, run_script

DAY = "2025-01-15"


def cells(listing: str) -> list[list[str]]:
    """Return the cells of a printed table, without its head."""
    return [re.split(r"\s{2,}", line) for line in listing.splitlines()[2:]]


def stored(project: Project) -> list[Any]:
    """Return what a command could have changed: every table with its rows."""
    tables = sorted(row[0] for row in project.database.rows("SHOW TABLES"))
    return [(table, project.database.rows(f"SELECT * FROM {table}")) for table in tables]


# --- the listing ------------------------------------------------------------------------------------------------------


def test_the_listing_shows_the_run_order_and_what_each_file_is_and_reads(project: Project) -> None:
    reads_nine = "(SELECT MAX(id) FROM bi_metrics WHERE metrics = 'nine')"
    project.write("incremental/10_ten.sql", metric_sql("ten", reads_nine))
    project.write("initial/10_ten.sql", metric_sql("ten", "%(start_date)s"))
    project.write("9_nine.sql", metric_sql("nine").replace("card", "ranking").replace("Made for a test", "The best"))
    project.write("100____last.sql", metric_sql("last", "(SELECT COUNT(*) FROM h)", "-- Reads: ten"))
    project.write("_05_off.sql", metric_sql("off"))
    project.write("no_prefix.sql", "-- Description: A query\n-- Reads: *\nSELECT %(start_date)s AS metric_date, 1 AS n")
    project.write("20_fill.sql", "-- Metric: fill\n-- Description: Fills h\nDELETE FROM h;\nINSERT INTO h SELECT 1;\n")
    done = project.list()
    assert (done.returncode, done.stderr) == (0, "")
    assert cells(done.stdout) == [
        ["-", "off", "disabled", "per date", "-", "sql/_05_off.sql", "Made for a test"],
        ["1", "nine", "ranking", "per date", "-", "sql/9_nine.sql", "The best"],
        ["2", "ten", "card", "per date", "nine", "sql/incremental/10_ten.sql", "Made for a test"],
        ["3", "fill", "helper", "per date", "-", "sql/20_fill.sql", "Fills h"],
        ["4", "last", "card", "per date", "fill, ten", "sql/100____last.sql", "Made for a test"],
        ["5", "no_prefix", "card", "set-based", "*", "sql/no_prefix.sql", "A query"],
    ]
    initial = json.loads(project.list("--initial", "--json").stdout)
    assert [(each["number"], each["file"], each["runs"]) for each in initial[:3]] == [
        ("-", "sql/_05_off.sql", "per date"), ("1", "sql/9_nine.sql", "per date"),
        ("2", "sql/initial/10_ten.sql", "set-based"),
    ]  # fmt: skip


def test_the_listing_as_json_has_what_the_header_says_to_people(project: Project) -> None:
    header = "-- Title: Money, in total\n-- Unit: EUR\n-- Owner: Ann\n-- Tags: Money, weekly\n-- Tags: money\n"
    project.write("1_a.sql", f"{header}-- Dimensions: country, platform\n{metric_sql('a')}")
    project.write("2_b.sql", metric_sql("b"))
    keys = ("title", "unit", "owner", "tags", "dimensions")
    assert [[each[key] for key in keys] for each in json.loads(project.list("--json").stdout)] == [
        ["Money, in total", "EUR", "Ann", ["money", "weekly"], ["country", "platform"]], ["b", "", "", [], []]
    ]  # fmt: skip


def test_on_a_terminal_the_table_fits_and_piped_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "A description that goes on and on " * 5 + "."
    rows = [("#", "Metric", "File", "Description"), ("1", "m", "sql/m.sql", long)]
    assert long in table(rows, fit=True)
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
    *_, line = table(rows, fit=True).splitlines()
    assert (len(line), line[:36], line[-3:]) == (70, "1  m       sql/m.sql  A description t"[:36], "...")
    assert long in table(rows)


def test_a_broken_file_stays_in_its_row_and_its_problem_is_below_the_table(project: Project) -> None:
    project.write("1_good.sql", metric_sql("good"))
    project.write("2_broken.sql", metric_sql("broken").replace("%(metric_date)s", "%(metrc_date)s"))
    done = project.list()
    assert done.returncode == 1
    good, broken, problem = cells(done.stdout)
    assert good[1:] == ["good", "card", "per date", "-", "sql/1_good.sql", "Made for a test"]
    assert broken[1:] == ["broken", "card", "per date", "-", "sql/2_broken.sql", "Made for a test"]
    assert problem[0].startswith("sql/2_broken.sql:6:48: error: unknown-parameter: ")
    assert "did you mean %(metric_date)s?" in problem[0]


def test_files_in_the_wrong_place_are_named(project: Project) -> None:
    project.write("good.sql", metric_sql("good"))
    project.write("incremental/old/a.sql", metric_sql("a"))
    project.write("initial/b.sql", metric_sql("b"))
    project.write("incremental/c.sql", metric_sql("c"))
    for words in ((), ("--check", "--offline")):
        done = project.list(*words)
        assert done.returncode == 0
        found = [line for line in done.stdout.splitlines() if ": warning: misplaced: " in line]
        assert [line.split(":")[0] for line in found] == [
            "sql/incremental/c.sql", "sql/incremental/old/a.sql", "sql/initial/b.sql"
        ]  # fmt: skip
        assert "does not run in --initial; add it to sql/initial/ as well, or move it to sql/ for both" in found[0]
        assert "no run looks into this folder" in found[1]
        assert "never runs at night" in found[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "x"], "unrecognized arguments: --mode x"),
        (["--max-age", "2"], "--max-age goes with --status"),
        (["--sql", "nope"], "no metric for single dates matches 'nope'"),
        (["--sql", "m", "2025-02-30"], "2025-02-30 is not a date"),
    ],
)
def test_a_question_that_has_no_answer_is_one_line_and_exit_code_2(
    project: Project, words: list[str], message: str
) -> None:
    project.write("m.sql", metric_sql("m"))
    done = project.list(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--offline"], "--offline goes with --check"),
        (["--status", "--max-age", "x"], "'x' is not a number"),
        (["--check", "--status"], "--check, --test, --sql, --status, --html and --values exclude each other"),
        (["--status", "--tag", "money"], "--metric and --tag go with --html"),
        (["--status", "--csv"], "--csv goes with --values, and without --json"),
        (["--values", "m", "--csv", "--json"], "--csv goes with --values, and without --json"),
        (["--values", DAY], "--values takes names, and at most a START and an END"),
        (["--values", "m", DAY, DAY, DAY], "--values takes names, and at most a START and an END"),
        (["--check", "--test"], "--check, --test, --sql, --status, --html and --values exclude each other"),
        (["--test", "--json"], "--test takes neither --initial nor --json"),
        (["--sql", "a", DAY, DAY], "--sql takes a NAME and at most one DATE"),
    ],
)
def test_words_that_make_no_sense_together_are_one_line(words: list[str], message: str) -> None:
    assert message in refusal(parse_arguments, words)


def test_an_empty_sql_folder_is_an_error(project: Project) -> None:
    for words in ((), ("--initial",)):
        done = project.list(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Error: there are no metric files in the folder of METRICS_DIR" in done.stderr


# --- --check ----------------------------------------------------------------------------------------------------------

FAULTS = {
    "1_column.sql": metric_sql("column", "nope"),
    "2_table.sql": metric_sql("table", where="FROM\n  no_such_table"),
    "3_function.sql": metric_sql("function", "no_such_function(1)"),
    "4_syntax.sql": metric_sql("syntax", where="\n\nFORM payments t"),
    "5_clock.sql": metric_sql("clock", "HOUR(CURTIME())"),
    "6_plain.sql": metric_sql("plain").replace("ON DUPLICATE KEY UPDATE value_list = d.v", ""),
    "7_good.sql": metric_sql("good"),
}


def test_check_prints_lines_as_a_compiler_does_and_finds_what_the_server_knows(project: Project) -> None:
    for path, text in FAULTS.items():
        project.write(path, text)
    project.database.execute("CREATE TABLE ahead (n INT)")
    before = stored(project)
    done = project.list("--check")
    assert done.returncode == 1
    *lines, summary = done.stdout.splitlines()
    assert lines == sorted(lines)
    found = [re.fullmatch(r"sql/(\S+?):(\d+):(\d+): (error|warning): (\S+): .+", line) for line in lines]
    assert [match and match.group(1, 2, 4, 5) for match in found] == [
        ("1_column.sql", "5", "error", "explain"),
        ("2_table.sql", "5", "error", "explain"),
        ("3_function.sql", "5", "error", "explain"),
        ("4_syntax.sql", "8", "error", "explain"),
        ("5_clock.sql", "6", "warning", "reads-the-clock"),
        ("6_plain.sql", "5", "error", "not-idempotent"),
    ]
    for line, words in zip(lines, ["(1054)", "(1146)", "no_such_function", "(1064)"], strict=False):
        assert words in line
    assert summary == "7 files checked: 5 errors, 1 warning."
    assert stored(project) == before
    as_json = json.loads(project.list("--check", "--json").stdout)
    assert [(each["file"], each["line"], each["severity"], each["rule"]) for each in as_json] == [
        (f"sql/{match[1]}", int(match[2]), match[4], match[5]) for match in found if match
    ]


def test_offline_leaves_the_database_out_and_without_it_a_server_that_is_down_is_an_error(project: Project) -> None:
    for path in ("1_column.sql", "5_clock.sql", "7_good.sql"):
        project.write(path, FAULTS[path])
    nowhere = {"DB_SOCKET": "/nowhere.sock"}
    offline = project.list("--check", "--offline", env=nowhere)
    assert (offline.returncode, offline.stderr) == (0, "")
    assert offline.stdout.splitlines()[-1] == "3 files checked: 0 errors, 1 warning."
    down = project.list("--check", env=nowhere)
    assert (down.returncode, down.stderr.count("\n")) == (2, 1)
    assert down.stderr.startswith("Error: cannot connect to /nowhere.sock as user root")
    assert down.stderr.endswith("; to check without it: --check --offline\n")


def test_check_knows_the_rows_and_the_views_and_offline_counts_no_rows(project: Project) -> None:
    project.write("1_a.sql", metric_sql("a"))
    reads = "-- Description: x\nSELECT %(metric_date)s AS d, COUNT(*) AS n FROM {} WHERE metrics = '{}'"
    project.write("2_row.sql", reads.format("bi_metrics", "gone"))
    project.write("3_view.sql", reads.format("my_view", "a"))
    project.database.execute(
        "INSERT INTO bi_metrics (metrics, f_list, value_list, metric_date) VALUES ('gone', '[]', '{}', '2025-01-01'); "
        "CREATE VIEW my_view AS SELECT metrics FROM bi_metrics"
    )
    found = [line.split(": ")[:3] for line in project.list("--check").stdout.splitlines()]
    assert found == [
        ["sql/2_row.sql:2:76", "warning", "reads-no-metric"], ["sql/3_view.sql:2:49", "error", "reads-unclear"],
        ["3 files checked", "1 error, 1 warning."],
    ]  # fmt: skip
    offline = [line.split(": ")[:3] for line in project.list("--check", "--offline").stdout.splitlines()]
    assert offline == [["sql/2_row.sql:2:76", "error", "reads-no-metric"], ["3 files checked", "1 error, 0 warnings."]]


def test_statements_on_the_files_own_temporary_tables_are_left_out_and_counted(project: Project) -> None:
    text = metric_sql("m", "(SELECT COUNT(*) FROM mine WHERE n < @x)").replace(
        "INSERT", "CREATE TEMPORARY TABLE mine (n INT);\nINSERT INTO mine VALUES (1);\nSET @x := 1;\nINSERT", 1
    )
    project.write("m.sql", text + "DROP TEMPORARY TABLE mine;\n")
    done = project.list("--check")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "2 statements could not be explained: a temporary table, a view, or a right.",
        "1 file checked: 0 errors, 0 warnings.",
    ]


def test_a_table_that_cannot_roll_back_is_an_error_and_no_run_begins(project: Project) -> None:
    project.database.execute("CREATE TABLE old (n INT) ENGINE = MyISAM; CREATE TABLE new (n INT) ENGINE = InnoDB")
    project.write("m.sql", metric_sql("m"))
    project.write(
        "h.sql", "-- Metric: h\n-- Description: x\n\nDELETE FROM new;\nINSERT INTO new SELECT 1;\n\nDELETE FROM old;\n"
    )
    done = project.list("--check")
    assert done.returncode == 1
    expected = "sql/h.sql:7:1: error: cannot-roll-back: old is in engine MyISAM, which cannot roll back; run ALTER"
    assert done.stdout.startswith(expected)
    run = project.run(DAY)
    assert run.returncode == 2
    assert run.stderr.startswith(f"Error: {expected}")
    assert project.database.metrics() == []


# --- --values and --html ----------------------------------------------------------------------------------------------

ROWS = """
    INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date) VALUES
    ('money', 'card', '["revenue", "a"]',
     JSON_OBJECT('a', NULL, 'revenue', CAST('12345678901234567890.10' AS DECIMAL(30, 2))), '2025-01-14'),
    ('money', 'card', '["revenue", "a"]', '{"a": "x,\\\\n\\\\"y", "revenue": 0}', '2025-01-15'),
    ('monthly', 'card', '[]', 'null', '2025-01-15'),
    ('top', 'ranking', '["game", "plays"]', '[{"game": "A", "plays": 9}, {"game": "B", "plays": [true]}]',
     '2025-01-15'),
    ('none', 'ranking', '[]', '[]', '2025-01-15');
    INSERT INTO bi_metric_state (metric, metric_date, state) VALUES ('money', '2025-01-14', 'final');
"""


def test_values_are_printed_flat_and_whole_as_a_table_csv_and_json(project: Project) -> None:
    project.database.execute(ROWS)
    done = project.list("--values", "mon*,top", "2025-01-01", DAY, "--csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(csv.reader(io.StringIO(done.stdout))) == [
        ["metric", "metric_date", "is_final", "item", "revenue", "a", "game", "plays"],
        ["money", "2025-01-14", "1", "", "12345678901234567890.10", "", "", ""],
        ["money", "2025-01-15", "0", "", "0", 'x,\n"y', "", ""],
        ["monthly", "2025-01-15", "0", "", "", "", "", ""],
        ["top", "2025-01-15", "0", "1", "", "", "A", "9"],
        ["top", "2025-01-15", "0", "2", "", "", "B", "[true]"],
    ]  # fmt: skip
    printed = project.list("--values", "money", "--values", "top", DAY)
    assert cells(printed.stdout)[0] == ["money", DAY, "0", "0", 'x,\\n"y']
    assert cells(printed.stdout)[1] == ["top", "2025-01-15", "0", "1", "A", "9"]
    found = json.loads(project.list("--values", "money", "top", DAY, "--json").stdout)
    assert [(each["metric"], each["item"], each["values"]) for each in found] == [
        ("money", None, {"revenue": "0", "a": 'x,\n"y'}), ("top", 1, {"game": "A", "plays": "9"}),
        ("top", 2, {"game": "B", "plays": [True]}),
    ]  # fmt: skip


def test_values_without_dates_show_the_period_that_runs_too(project: Project) -> None:
    project.write("y.sql", "-- Description: x\n-- Period: year\nSELECT YEAR(%(metric_date)s) AS y")
    assert project.run().returncode == 0
    year = date.today().year
    assert cells(project.list("--values", "y").stdout) == [["y", f"{year}-12-31", "0", str(year)]]


def test_csv_that_cannot_be_written_is_an_error_in_one_line(project: Project) -> None:
    project.database.execute(ROWS)
    project.install()
    words = [sys.executable, str(project.folder / "list_metrics.py"), "--values", "money", "2025-01-01", DAY, "--csv"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, env=project.environment(), stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (2, b"Error: --csv: cannot write it: No space left on device\n")


def test_values_of_nothing_are_told(project: Project) -> None:
    project.database.execute(ROWS)
    assert project.list("--values", "none", DAY).stdout == f"No value of none from {DAY} to {DAY}.\n"
    wrong = project.list("--values", "mony")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "no metric that is stored or has a file matches 'mony'; did you mean money?" in wrong.stderr


def test_the_page_compares_weeks_and_windows_of_days_with_a_year_before(project: Project) -> None:
    for name, period in (("weekly", "week"), ("window", "7 days")):
        project.write(f"{name}.sql", f"-- Description: x\n-- Period: {period}\nSELECT TO_DAYS(%(metric_date)s) AS n")
    start, page = date.today() - timedelta(days=400), project.folder / "page.html"
    project.env["METRICS_HISTORY_START"] = str(start)
    done = project.run("--initial", str(start), str(date.today()))
    assert done.returncode == 0, done.stderr
    assert project.list("--html", str(page)).returncode == 0
    assert page.read_text().count("364</b> vs a year before") == 2


def test_metric_and_tag_choose_the_cards_of_the_page_and_the_problems_that_it_tells(project: Project) -> None:
    project.write("1_a.sql", metric_sql("a", header="-- Tags: Money, weekly\n-- Reads: fill"))
    project.write("2_b.sql", metric_sql("b", header="-- Tags: money"))
    project.write("3_c.sql", metric_sql("c"))
    project.write("0_fill.sql", "-- Description: h\nDELETE FROM per_day WHERE d = %(metric_date)s; SELEC;")
    page = project.folder / "page.html"

    def titles(*words: str) -> list[str]:
        done = project.list("--html", str(page), *words)
        assert done.returncode == 0, done.stderr
        return re.findall('class="title">(.*?)<', page.read_text())

    assert titles() == ["a", "b", "c"]
    assert titles("--tag", "money") == ["a", "b"]
    assert "fill (helper)" in page.read_text()
    assert titles("--tag", "money", "--metric", "[bc]") == ["b"]
    assert "fill (helper)" not in page.read_text()
    assert titles("--metric", "a", "--metric", "c") == ["a", "c"]
    assert "no metric has the tag mony; there are: money, weekly" in project.list("--html", "x", "--tag", "mony").stderr


def test_the_page_names_what_has_a_problem_by_its_title_and_the_status_by_its_name(project: Project) -> None:
    project.write("a.sql", metric_sql("a", header="-- Title: Money"))
    project.write("b.sql", metric_sql("b"))
    page = project.folder / "page.html"
    assert "No metric has a final row" in project.list("--html", str(page)).stdout
    for back in (3, 1):
        assert project.run(str(date.today() - timedelta(days=back))).returncode == 0
    assert "Problems with 2 of 2 metrics: Money, b. The page is" in project.list("--html", str(page)).stdout
    assert "<b>Problems with 2 of 2 metrics: Money, b</b>" in page.read_text()
    assert "Problems with 2 of 2 metrics: a, b.\n" in project.list("--status").stdout


# --- --sql ------------------------------------------------------------------------------------------------------------

HARD = """\
-- Metric: hard
-- Description: Everything that binding can get wrong
-- Data Type: card
/* not ; the end */
SET @quoted := 'a;b''c\\'d"é🎲' /*! , @more := 1 */;
SET @cutoff := %(cutoff_date)s;; -- 5% of %(base)s
CREATE TEMPORARY TABLE `half;way` SELECT DATE_FORMAT(%(metric_date)s, '%Y-%m') AS a, '%%d' AS b, 7 % 4 AS c;
INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
SELECT 'hard', 'card', JSON_ARRAY('q'), d.v, %(metric_date)s
FROM (SELECT JSON_OBJECT('q', @quoted, 'p', @cutoff, 'a', a, 'b', b, 'c', c) AS v FROM `half;way`) d
ON DUPLICATE KEY UPDATE value_list = d.v;
DROP TEMPORARY TABLE `half;way`;
# the end
"""


def test_sql_piped_into_a_plain_connection_gives_the_same_rows_as_the_run(project: Project) -> None:
    project.write("hard.sql", HARD)
    project.env["METRIC_PARAM_CUTOFF_DATE"] = "20' OR '24"
    printed = project.list("--sql", "hard", DAY)
    assert (printed.returncode, printed.stderr) == (0, "")
    plain = connect(project.database.server, project.database.name)
    for statement in printed.stdout.removesuffix(";\n").split(";\n"):
        run_script(plain, statement)
    plain.close()
    by_hand = project.database.metrics()
    project.database.execute("DELETE FROM bi_metrics")
    assert project.run(DAY).returncode == 0
    assert project.database.metrics() == by_hand
    assert json.loads(by_hand[0][2]) == {"q": "a;b'c'd\"é🎲", "p": "20' OR '24", "a": "2025-01", "b": "%d", "c": 3}


def test_sql_and_json_leave_no_character_as_something_else(project: Project) -> None:
    text = "a\tb\u00a0c\u200d\x7f"
    project.write("m.sql", metric_sql("m", f"'{text}'").replace("Made for a test", text))
    assert f"JSON_OBJECT('n', '{text}')" in project.list("--sql", "m", DAY).stdout
    assert json.loads(project.list("--json").stdout)[0]["description"] == text


def test_a_reader_that_has_seen_enough_is_no_error(project: Project) -> None:
    project.write("m.sql", metric_sql("m", where="\n" * 200_000))
    listing = project.start("list_metrics.py", "--sql", "m")
    assert listing.stdout.readline().startswith("SET SESSION ")
    listing.stdout.close()
    assert listing.stderr.read() == ""
    listing.wait()


def test_sql_prints_the_file_of_the_mode_bound_for_the_date(project: Project) -> None:
    project.write("initial/m.sql", metric_sql("m", "%(start_date)s", "-- Initial"))
    project.write("incremental/m.sql", metric_sql("m", header="-- Incremental"))
    initial = project.list("--sql", "m", DAY, "--initial", env={"DB_SOCKET": "/nowhere.sock"}).stdout
    assert "JSON_OBJECT('n', '2025-01-15')" in initial
    limit, statement = initial.split("\n", 1)
    assert limit.startswith("SET SESSION group_concat_max_len = 67108864;")
    assert statement.startswith("/* bi_metrics sql/initial/m.sql 2025-01-15 */ INSERT INTO bi_metrics")
    incremental = project.list("--sql", "m", "yesterday").stdout
    assert incremental == project.list("--sql", "m").stdout
    assert "\n/* bi_metrics sql/incremental/m.sql 20" in incremental
    assert "%(" not in initial + incremental


@pytest.mark.parametrize("name", [b"caf\xe9.sql", b"incremental/\xff_\xfe.sql", b"initial/caf\xe9.sql"])
def test_a_file_name_that_is_not_utf8_is_a_problem_in_one_line_and_the_others_are_shown(
    project: Project, name: bytes
) -> None:
    project.write("fine.sql", metric_sql("fine"))
    Path(os.fsdecode(os.path.join(os.fsencode(project.folder / "sql"), name))).write_text(metric_sql("x"))
    problem = "not-utf8: the file's name is not UTF-8; rename the file"
    page = project.folder / "page.html"
    for words, code in ([], 1), (["--check"], 1), (["--status"], 0), (["--status", "--max-age", "1"], 1), (
        ["--html", str(page)], 0,
    ):  # fmt: skip
        if name.startswith(b"initial/") and not words:
            code = 0  # the listing is of the night's files
        result = project.list(*words)
        assert (result.returncode, result.stderr) == (code, ""), result
        if words[:1] in ([], ["--status"]):
            assert "\nfine " in result.stdout or " fine " in result.stdout
    assert problem in project.list("--check").stdout
    assert "fine" in page.read_text()
    result = project.run("yesterday")
    assert (result.returncode, problem in result.stderr) == ((0, False) if b"initial" in name else (2, True))


def test_a_name_that_macos_has_taken_apart_is_the_one_that_was_written(project: Project) -> None:
    taken_apart = unicodedata.normalize("NFD", "café_größe")
    assert taken_apart != "café_größe"
    project.write(f"10_{taken_apart}.sql", metric_sql("café_größe"))
    assert project.list("--check").stdout == "1 file checked: 0 errors, 0 warnings.\n"
    for name in ("café_größe", taken_apart):
        result = project.run(DAY, "--metric", name)
        assert result.returncode == 0, result.stderr
    assert project.database.metrics() == [("café_größe", DAY, '{"n": 1}')]
    project.write("20_café_größe.sql", metric_sql("café_größe"))
    assert "duplicate-metric" in project.list("--check").stdout
