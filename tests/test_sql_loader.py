"""Discovery: which files are metrics, what they are, in which order they run, and which metric reads which."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from src.errors import MetricFileError, UsageError
from src.metric_file.file import Kind, MetricFile, Mode
from src.sql_loader import Catalog, load_catalog, select, split_name

INSERT = "INSERT INTO bi_metrics SELECT 1"
QUERY = "SELECT 1 AS n"


def catalog(folder: Path, files: dict[str, str] | list[str]) -> Catalog:
    """Write files below sql/ and load them; a list is one of names alone."""
    for name, text in files.items() if isinstance(files, dict) else dict.fromkeys(files, INSERT).items():
        path = folder / "sql" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return load_catalog(folder / "sql")


def paths(loaded: Catalog, mode: Mode = Mode.INCREMENTAL) -> list[str]:
    return [file.path for file in loaded.in_mode(mode)]


def one(folder: Path, text: str) -> MetricFile:
    (file,) = catalog(folder, {"x.sql": text}).files
    return file


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("03_users.sql", (3, "users")),
        ("100____last.sql", (100, "last")),
        ("64_0.2_AI_matches_daily.sql", (64, "0.2_AI_matches_daily")),
        ("7d_active.sql", (None, "7d_active")),
        ("users.SQL", (None, "users")),
        ("0_zero.sql", (0, "zero")),
        ("12.sql", (None, "12")),
        ("12_.sql", (None, "12_")),
        ("12__.sql", (12, "_")),
        ("٣_x.sql", (None, "٣_x")),
        ("1_2_x.sql", (1, "2_x")),
        ("a b;'%s\n.sql", (None, "a b;'%s\n")),
    ],
)
def test_a_prefix_is_digits_and_then_underscores(file_name: str, expected: tuple[int | None, str]) -> None:
    assert split_name(file_name) == expected


def test_prefixed_files_run_first_by_number_and_the_others_by_name(tmp_path: Path) -> None:
    loaded = catalog(
        tmp_path,
        [
            "b.sql", "a.sql", "incremental/10_ten.sql", "9_nine.sql", "incremental/100____last.sql",
            "09_also_nine.sql", "incremental/1_one.sql", "7d_active.sql", "initial/2_other_mode.sql",
        ],
    )  # fmt: skip
    assert paths(loaded) == [
        "sql/incremental/1_one.sql", "sql/09_also_nine.sql", "sql/9_nine.sql", "sql/incremental/10_ten.sql",
        "sql/incremental/100____last.sql", "sql/7d_active.sql", "sql/a.sql", "sql/b.sql",
    ]  # fmt: skip
    assert paths(loaded, Mode.INITIAL) == [
        "sql/initial/2_other_mode.sql", "sql/09_also_nine.sql", "sql/9_nine.sql", "sql/7d_active.sql", "sql/a.sql",
        "sql/b.sql",
    ]  # fmt: skip


def test_only_sql_files_of_the_three_folders_are_metrics(tmp_path: Path) -> None:
    names = ["schema.sql", "a.sql.bak", "notes.txt", "deeper/x.sql", "initial/deeper/y.sql", "UPPER.SQL", "sql"]
    loaded = catalog(tmp_path, names)
    (tmp_path / "sql/folder.sql").mkdir()
    assert paths(loaded) == ["sql/UPPER.SQL"]


def test_what_is_no_regular_file_does_not_stop_a_night(tmp_path: Path) -> None:
    catalog(tmp_path, ["a.sql", "target.txt"])
    os.mkfifo(tmp_path / "sql/fifo.sql")
    (tmp_path / "sql/dangling.sql").symlink_to("nowhere")
    (tmp_path / "sql/.#a.sql").symlink_to("somebody@host.1234:56")  # an editor's lock
    (tmp_path / "sql/link.sql").symlink_to("target.txt")
    found: list[str] = []
    looking = threading.Thread(target=lambda: found.extend(paths(load_catalog(tmp_path / "sql"))), daemon=True)
    looking.start()
    looking.join(10)  # whoever opens the FIFO waits for ever
    assert found == ["sql/a.sql", "sql/link.sql"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql/a.sql").touch()
    with pytest.raises(MetricFileError, match=r"^sql/a\.sql: cannot read it: Permission denied$"):
        load_catalog(tmp_path / "sql")


def test_a_name_that_starts_with_an_underscore_or_a_dot_is_disabled(tmp_path: Path) -> None:
    loaded = catalog(tmp_path, ["_03_off.sql", ".04_hidden.sql", "05_on.sql", "incremental/__off.sql"])
    assert paths(loaded) == ["sql/05_on.sql"]
    disabled = {file.path: file.name for file in loaded.files if file.disabled}
    assert disabled == {"sql/_03_off.sql": "off", "sql/.04_hidden.sql": "hidden", "sql/incremental/__off.sql": "off"}
    assert loaded.names == {"on"}


@pytest.mark.parametrize("name", ["a b.sql", "50%_off.sql", "it's.sql", "a`b;.sql", "-- x.sql", "a\nb.sql", "é.sql"])
def test_a_hostile_file_name_is_a_metric_name_like_any_other(name: str, tmp_path: Path) -> None:
    loaded = catalog(tmp_path, {f"incremental/01_{name}": QUERY})
    (file,) = loaded.files
    assert (file.name, file.path, file.prefix) == (name[:-4], f"sql/incremental/01_{name}", 1)
    assert select(loaded, Mode.INCREMENTAL, []) == (file,)


@pytest.mark.parametrize(("file", "name"), [("e\u0301.sql", "é"), ("é\udcff.sql", r"é\xff"), ("\udce9.sql", r"\xe9")])
def test_a_name_can_be_sent_and_has_its_accents_whole_whatever_the_file_system_made_of_it(
    file: str, name: str, tmp_path: Path
) -> None:
    (found,) = catalog(tmp_path, {f"01_{file}": QUERY}).files
    assert (found.name, found.path, found.prefix) == (name, f"sql/01_{file}", 1)


def test_initial_files_are_those_of_metrics_with_both_and_never_helpers(tmp_path: Path) -> None:
    metrics = ["initial/10_both.sql", "incremental/20_both.sql", "initial/only.sql", "a.sql", "initial/_off.sql"]
    helpers = ["initial/h.sql", "incremental/h.sql"]
    loaded = catalog(tmp_path, {**dict.fromkeys(metrics, INSERT), **dict.fromkeys(helpers, "DELETE FROM h")})
    assert {name: file.path for name, file in loaded.initial_files.items()} == {"both": "sql/initial/10_both.sql"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("SELECT 1 AS n", Kind.SELECT),
        ("WITH q AS (SELECT 1 AS n) SELECT n FROM q", Kind.SELECT),
        ("((SELECT 1 AS n))", Kind.SELECT),
        ("SELECT 1 UNION ALL SELECT 2", Kind.SELECT),
        ("SET @a = 1; CREATE TEMPORARY TABLE t (a INT); INSERT INTO t SELECT 1; SELECT a FROM T", Kind.SELECT),
        ("SELECT 1 INTO @a; SELECT @a AS n;", Kind.SELECT),
        ("SELECT 1 INTO @a", Kind.HELPER),
        ("WITH q AS (SELECT 1) DELETE FROM t", Kind.HELPER),
        ("SELECT 1; DELETE FROM t", Kind.HELPER),
        ("DELETE FROM t; SELECT 1", Kind.HELPER),
        ("SET @a = 1", Kind.HELPER),
        ("DELETE FROM h; INSERT INTO h SELECT * FROM bi_metrics", Kind.HELPER),
        ("UPDATE bi_metrics SET a = 1", Kind.HELPER),
        ("", Kind.HELPER),
        ("insert into game.`BI_metrics` SELECT 1", Kind.INSERT),
        ("INSERT INTO bi_metrics SELECT 1; SELECT 2", Kind.INSERT),
        ("INSERT INTO h SELECT 1; INSERT bi_metrics SET a = 1", Kind.INSERT),
    ],
)
def test_a_file_is_an_insert_a_select_or_a_helper(text: str, kind: Kind, tmp_path: Path) -> None:
    assert one(tmp_path, text).kind is kind


def test_a_file_is_set_based_by_the_parameters_in_its_code(tmp_path: Path) -> None:
    texts = {
        "a.sql": "SELECT %(dates)s", "b.sql": "SET @a = %(start_date)s; SELECT 1", "c.sql": "SELECT %(metric_date)s",
        "d.sql": "-- Check: SELECT %(start_date)s\n-- %(dates)s\nSELECT '%(dates)s', 1",
    }  # fmt: skip
    assert {file.name: file.is_set_based for file in catalog(tmp_path, texts).files} == {
        "a": True, "b": True, "c": False, "d": False,
    }  # fmt: skip


def test_a_file_knows_what_its_header_says(tmp_path: Path) -> None:
    texts = {
        "a.sql": "-- Description: what\n-- Data Type: Ranking\n-- Empty: OK\nSELECT 1",
        "b.sql": '-- Empty: {"n": 0}\nSELECT 1', "c.sql": INSERT, "d.sql": "-- Empty:\nDO 1",
    }  # fmt: skip
    said = {f.name: (f.description, f.data_type, f.empty_value) for f in catalog(tmp_path, texts).files}
    assert said == {
        "a": ("what", "ranking", "null"), "b": ("", "card", '{"n": 0}'), "c": ("", "", None), "d": ("", "", None),
    }  # fmt: skip


def test_a_file_knows_its_temporary_tables_and_variables(tmp_path: Path) -> None:
    file = one(
        tmp_path,
        "CREATE TEMPORARY TABLE IF NOT EXISTS game.`Tmp` (a INT); CREATE OR REPLACE TEMPORARY TABLE b SELECT @x;\n"
        "SET @x := @@sql_mode, @y.z = '@no'; -- @neither\nINSERT INTO tmp SELECT 1; REPLACE INTO lasting SELECT 2",
    )
    assert file.temporary_tables == {"tmp", "b"}
    assert file.variables == {"@x", "@y.z"}
    assert [statement.number for statement in file.lasting_writes()] == [5]


READS = [
    # SQL, what it reads of the metrics x (itself), a and b
    ("SELECT 1 FROM users WHERE name = 'a'", ""),
    ("SELECT 1 FROM bi_metrics WHERE metrics = 'a'", "a"),
    ("SELECT 1 FROM bi_metrics WHERE 'a' = metrics", "a"),
    ('SELECT 1 FROM bi_metrics WHERE metrics <=> "a"', "a"),
    ("SELECT 1 FROM bi_metrics WHERE metrics IN ('a', 'b')", "a b"),
    ("SELECT 1 FROM bi_metrics WHERE (metrics, 1) IN (('a', 1), ('b', 1))", "a b"),
    ("SELECT 1 FROM bi_metrics WHERE metrics = 'x'", "x"),
    ("SELECT 1 FROM game.bi_metrics AS m WHERE m.metrics = 'a'", "a"),
    ("SELECT 1 FROM `game`.`BI_METRICS` WHERE bi_metrics.metrics = 'b'", "b"),
    ("SELECT 1 FROM users JOIN bi_metrics ON bi_metrics.metrics = 'a' AND 1", "a"),
    ("SELECT 1 FROM bi_metrics", "x a b"),
    ("SELECT 1 FROM bi_metrics WHERE metrics = 'unknown'", "x a b"),
    ("SELECT 1 FROM bi_metrics WHERE metrics LIKE 'a%'", "x a b"),
    ("SELECT 1 FROM bi_metrics WHERE metrics = 'a' OR metrics NOT LIKE 'b%'", "x a b"),
    ("SELECT 1 FROM bi_metrics WHERE metrics REGEXP '^a' AND data_type = 'a'", "x a b"),
    ("SELECT 1 FROM bi_metrics WHERE metrics NOT IN ('a')", "x a b"),
    ("SELECT 1 FROM bi_metrics WHERE metrics <> 'a' AND data_type = 'a'", "x a b"),
    ("SELECT 1 FROM bi_metrics WHERE metrics = CONCAT('a', '')", "x a b"),
    ("SET @n = 'a'; SELECT 1 FROM bi_metrics WHERE metrics = @n", "a"),
    # more than names: every metric may be meant
    ("SELECT SUM(IF(metrics = 'a', 0, 1)) FROM bi_metrics WHERE LEFT(metrics, 1) = 'b'", "x a b"),
    ("SELECT 1 FROM bi_metrics WHERE NOT (metrics = 'a')", "x a b"),
    ("SELECT 1 FROM bi_metrics WHERE metrics = 'a' OR metrics > 'a'", "x a b"),
    ("SELECT 1 FROM bi_metrics WHERE metrics = 'a' OR 'a' < metrics", "x a b"),
    ("SELECT 1 FROM bi_metrics WHERE metrics IN ('a', CONCAT('b', ''))", "x a b"),
    ("SELECT COUNT(*), (SELECT COUNT(*) FROM bi_metrics) FROM bi_metrics m WHERE m.metrics = 'a'", "x a b"),
    ("INSERT INTO bi_metrics (f, metrics) SELECT 1, 'x' AS metrics FROM bi_metrics, bi_metrics m WHERE m.metrics = 'a'",
     "x a b"),
    ("SELECT 1 FROM parts JOIN bi_metrics m ON parts.part = m.metrics JOIN bi_metrics t ON t.metrics = 'a'", "x a b"),
    ("SELECT 1 FROM bi_metrics WHERE metrics = %(base)s OR metrics = 'a'", "x a b"),
    ("SELECT 1 FROM bi_metrics WHERE metrics = 'a' OR metrics IN (SELECT name FROM parts)", "x a b"),
    # names alone
    ("SELECT 1 FROM bi_metrics t JOIN bi_metrics y ON y.metrics = t.metrics AND t.metrics = 'a'", "a"),
    ("SELECT m.metrics AS name FROM bi_metrics m WHERE (m.metrics = 'a') GROUP BY metrics ORDER BY m.metrics", "a"),
    ("SELECT 1 FROM bi_metrics JOIN bi_metrics m USING (metric_date, metrics) WHERE m.metrics = 'a'", "a"),
    ("SELECT 1 FROM bi_metric_cards WHERE metrics = 'a'", "a"),
    ("SELECT 1 FROM bi_metric_items", "x a b"),
    ("CREATE TEMPORARY TABLE t SELECT * FROM bi_metrics WHERE metrics = 'b'; SELECT 'a' AS c FROM t", "b"),
    ("INSERT INTO bi_metrics (metrics) SELECT 'x' FROM users WHERE name = 'a'", ""),
    ("INSERT INTO bi_metrics (metrics) SELECT 'x' FROM users ON DUPLICATE KEY UPDATE f = bi_metrics.f", ""),
    ("INSERT INTO bi_metrics (metrics) SELECT 'x' FROM bi_metrics WHERE metrics = 'a'", "a"),
    ("INSERT INTO bi_metrics SELECT 'x', (SELECT 1 FROM bi_metrics WHERE metrics = 'x')", "x"),
    ("-- Check: SELECT 1 FROM bi_metrics WHERE metrics = 'a'\nSELECT 1", ""),
    ("-- Reads: a, b\nSELECT 1 FROM a_view", "a b"),
    ("-- Reads: a\n-- Reads: unknown\nSELECT 1 FROM a_view", "a"),
    ("-- Reads: b\nSELECT 1 FROM bi_metrics WHERE metrics = 'a'", "a b"),
]


@pytest.mark.parametrize(("text", "expected"), READS)
def test_what_a_metric_reads_is_known_from_its_text(text: str, expected: str, tmp_path: Path) -> None:
    loaded = catalog(tmp_path, {"x.sql": text, "a.sql": QUERY, "b.sql": QUERY})
    assert loaded.reads["x"] == frozenset(expected.split())


def test_a_metric_with_two_files_reads_what_either_of_them_reads(tmp_path: Path) -> None:
    reads = "SELECT 1 FROM bi_metrics WHERE metrics = "
    files = {"incremental/x.sql": f"{reads}'x'", "initial/x.sql": f"{reads}'a'", "_x.sql": f"{reads}'b'"}
    assert catalog(tmp_path, {**files, "a.sql": QUERY}).reads == {"x": {"x", "a"}, "a": frozenset()}


def test_readers_are_found_through_others(tmp_path: Path) -> None:
    reads = "SELECT 1 FROM bi_metrics WHERE metrics = "
    readers = {f"{name}.sql": f"{reads}'{read}'" for name, read in ("ba", "cb", "dd", "ec")}
    loaded = catalog(tmp_path, {"a.sql": QUERY, **readers})
    nobody = frozenset[str]()
    assert loaded.readers == {"a": {"b", "c", "e"}, "b": {"c", "e"}, "c": {"e"}, "d": nobody, "e": nobody}


def test_files_are_selected_by_shell_patterns_in_run_order(tmp_path: Path) -> None:
    loaded = catalog(tmp_path, ["2_users.sql", "1_plays.sql", "users_new.sql", "initial/users_old.sql"])
    assert [file.name for file in select(loaded, Mode.INCREMENTAL, [])] == ["plays", "users", "users_new"]
    chosen = select(loaded, Mode.INCREMENTAL, ["users*", "plays"])
    assert [file.name for file in chosen] == ["plays", "users", "users_new"]
    assert [file.name for file in select(loaded, Mode.INITIAL, ["*_old"])] == ["users_old"]


@pytest.mark.parametrize(
    ("mode", "pattern", "message"),
    [
        (Mode.INCREMENTAL, "usres", "no metric for single dates matches 'usres'; did you mean users"),
        (Mode.INCREMENTAL, "users_old", "no metric for single dates matches 'users_old'"),
        (Mode.INITIAL, "zzz", r"no metric for --initial matches 'zzz' \(list_metrics.py shows all\)"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(mode: Mode, pattern: str, message: str, tmp_path: Path) -> None:
    loaded = catalog(tmp_path, ["users.sql", "initial/users_old.sql"])
    with pytest.raises(UsageError, match=message):
        select(loaded, mode, ["users", pattern])


def test_a_byte_order_mark_is_no_part_of_the_text_and_broken_files_are_in_the_catalog(tmp_path: Path) -> None:
    texts = {"bom.sql": "\ufeff-- Metric: bom\r\nSELECT 1\r\n", "latin.sql": "SELECT '\udce9'", "nothing.sql": ""}
    bom, latin, nothing = catalog(tmp_path, texts).files
    assert (bom.script.header_value("metric"), bom.statements[0].line) == ("bom", 2)
    assert "\udce9" in latin.script.text
    assert nothing.statements == ()


def test_the_fingerprint_covers_the_settings_a_file_uses(tmp_path: Path) -> None:
    catalog(tmp_path, {"a.sql": "SELECT %(cutoff)s", "b.sql": "SELECT 1 -- %(cutoff)s"})
    old, new = (load_catalog(tmp_path / "sql", {"cutoff": day}) for day in ("2025-01-01", "2025-01-02"))
    assert [a.fingerprint == b.fingerprint for a, b in zip(old.files, new.files, strict=True)] == [False, True]


def test_no_folder_is_an_empty_catalog(tmp_path: Path) -> None:
    catalog(tmp_path, ["a.sql"])
    shutil.rmtree(tmp_path / "sql")
    empty = load_catalog(tmp_path / "sql")
    assert empty.files == ()
    with pytest.raises(UsageError, match="there are no metric files in the folder of METRICS_DIR"):
        select(empty, Mode.INITIAL, [])
