"""Discovery: which files are metrics, what they are, in which order they run, and which metric reads which."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import MetricFileError, UsageError
from src.metric_file.file import Kind, MetricFile, Mode
from src.sql_loader import Catalog, load_catalog, matching, select, split_name

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


def test_initial_files_are_those_of_names_with_both_and_never_of_work_tables(tmp_path: Path) -> None:
    metrics = ["initial/10_both.sql", "incremental/20_both.sql", "initial/only.sql", "a.sql", "initial/_off.sql"]
    helpers, work = ["initial/h.sql", "incremental/h.sql"], ["initial/w.sql", "incremental/w.sql"]
    files = {**dict.fromkeys(metrics, INSERT), **dict.fromkeys(helpers, HELPER), **dict.fromkeys(work, WORK)}
    found = {name: file.path for name, file in catalog(tmp_path, files).initial_files.items()}
    assert found == {"both": "sql/initial/10_both.sql", "h": "sql/initial/h.sql"}


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


# --- who reads whom ---------------------------------------------------------------------------------------------------


def reading(*names: str) -> str:
    """A SELECT metric that reads some metrics."""
    return f"SELECT %(metric_date)s, 1 FROM bi_metrics WHERE metrics IN ({', '.join(map(repr, names))})"


HELPER = "REPLACE INTO h SELECT %(metric_date)s, 1"
WORK = "DELETE FROM w; INSERT INTO w SELECT * FROM t WHERE d = %(metric_date)s"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (reading("a", "b"), "a b"),
        (reading("x"), "x"),
        (reading("nobody"), ""),
        (reading("rows"), "rows"),
        (reading("off"), "off"),
        ("SELECT 1 FROM bi_metrics", "a b off rows x"),  # unclear
        ("-- Reads: *\nSELECT 1 FROM bi_metrics", "a b off rows x"),
        ("-- Reads: *, a\nSELECT 1 FROM h", "a b h off rows x"),
        ("-- Reads: a, nobody\nSELECT 1 FROM bi_metrics", "a"),
        (f"-- Reads: a\n-- Reads: rows\n{reading('b')}", "a rows"),  # in place of the text's
        (f"-- Reads:\n{reading('b')}", "b"),
        (f"-- Reads: a\n{reading('b')} AND 1 IN (SELECT 1 FROM h)", "a h"),
        ("-- Reads: h\nSELECT 1 FROM a_view", "h"),
        ("-- Check: SELECT 1 FROM bi_metrics, h\nSELECT 1", ""),
        ("SELECT 1 FROM h", "h"),
        ("SELECT 1 FROM game.`H` JOIN t", "h"),
        ("SELECT 1 FROM other.side", ""),
        ("SELECT 1 FROM game.side", "a"),
        ("SELECT h.a, h AS h FROM t", ""),
        ("CREATE TEMPORARY TABLE h (n INT); SELECT 1 FROM h", ""),
        ("SELECT 1 FROM w", "w"),
        ("UPDATE h SET n = 1; UPDATE x SET n = 2", "h"),  # what is updated was there before
        ("DELETE FROM h; REPLACE INTO h SELECT 1; INSERT INTO x SELECT 1", ""),
    ],
)
def test_a_file_reads_metrics_by_name_and_helpers_by_their_tables(text: str, expected: str, tmp_path: Path) -> None:
    side = "INSERT INTO game.side SELECT 1 ON DUPLICATE KEY UPDATE n = 1; INSERT INTO bi_metrics SELECT 1"
    others = {"a.sql": side, "b.sql": QUERY, "h.sql": HELPER, "w.sql": WORK, "_off.sql": QUERY, "_a.sql": QUERY}
    loaded = replace(catalog(tmp_path, {"x.sql": text, **others}), stored=frozenset({"rows", "a"}))
    (file,) = loaded.files_of("x")
    assert loaded.reads_of(file) == frozenset(expected.split())


def test_a_view_that_hides_what_it_reads_makes_a_file_unclear_and_one_over_a_helpers_table_reads_it(
    tmp_path: Path,
) -> None:
    texts = {"a.sql": QUERY, "h.sql": HELPER, "v.sql": "SELECT 1 FROM V1", "f.sql": "SELECT f(1) AS n",
             "o.sql": "SELECT 1 FROM game.over_h", "own.sql": "CREATE TEMPORARY TABLE v1 (n INT); SELECT 1 FROM v1",
             "said.sql": "-- Reads: a\nSELECT 1 FROM v1"}  # fmt: skip
    views = {"v1": "select 1 from `game`.`v2`", "game.v2": "select 1 from `game`.`bi_metrics`", "f()": "", "f1()": "",
             "game.over_h": "select 1 from `game`.`h`"}  # fmt: skip
    loaded = replace(catalog(tmp_path, texts), behind_sql=views)
    everything = frozenset({"a", "f", "o", "own", "said", "v"})
    assert loaded.reads == {
        "a": frozenset(), "h": frozenset(), "v": everything, "f": everything, "o": {"h"}, "own": frozenset(),
        "said": {"a"},
    }  # fmt: skip
    reasons = {file.name: [(each.token.text, each.why) for each in loaded.unclear(file)] for file in loaded.files}
    assert {name: found for name, found in reasons.items() if found} == {
        "v": [("V1", "game.v2 reads bi_metrics")], "f": [("f", "this account may not read the definition of f()")],
    }  # fmt: skip


def test_a_name_with_two_files_reads_what_either_of_them_reads_and_a_disabled_one_counts_alone(tmp_path: Path) -> None:
    files = {"incremental/x.sql": reading("x"), "initial/x.sql": reading("a"), "_x.sql": reading("b"),
             "_off.sql": reading("a"), "incremental/_off.sql": reading("b")}  # fmt: skip
    loaded = catalog(tmp_path, {**files, "a.sql": QUERY, "b.sql": QUERY})
    nothing = frozenset[str]()
    assert loaded.reads == {"x": {"x", "a"}, "a": nothing, "b": nothing, "off": {"a", "b"}}


def test_rows_without_a_file_count_as_reading_everything(tmp_path: Path) -> None:
    loaded = replace(
        catalog(tmp_path, {"a.sql": QUERY, "h.sql": HELPER, "w.sql": WORK}), stored=frozenset({"a", "gone"})
    )
    assert loaded.reads == {"a": frozenset(), "h": frozenset(), "gone": {"a", "h", "gone"}}
    assert loaded.dependents == {"a": {"gone"}, "h": {"gone"}, "gone": frozenset()}


def test_a_work_table_is_read_through_and_has_no_cells(tmp_path: Path) -> None:
    texts = {
        "a.sql": QUERY, "h.sql": HELPER, "w.sql": f"{WORK} AND 1 IN (SELECT 1 FROM bi_metrics WHERE metrics = 'a')",
        "w2.sql": "DELETE FROM w2; INSERT INTO w2 SELECT * FROM w, h, w2", "x.sql": "SELECT 1 FROM w2",
        "y.sql": "SELECT 1 FROM w", "initial/z.sql": WORK.replace(" w", " z"), "incremental/z.sql": HELPER,
    }  # fmt: skip
    loaded = catalog(tmp_path, texts)
    assert loaded.work_tables == {"w", "w2"}
    assert loaded.names == {"a", "x", "y"}
    assert loaded.helper_names == {"h", "z"}
    assert loaded.cells == {"a", "x", "y", "h", "z"}
    assert {name: set(read) for name, read in loaded.reads.items() if read} == {"x": {"a", "h", "z"}, "y": {"a"}}
    assert [loaded.work_tables_of(name) for name in ("x", "y", "a", "nobody")] == [
        {"w", "w2"}, {"w"}, frozenset(), frozenset(),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "is_work_table"),
    [
        ("DELETE FROM w; INSERT INTO w SELECT 1", True),
        ("DELETE FROM game.`W`; REPLACE INTO w SELECT 1", True),
        ("DELETE QUICK FROM w WHERE TRUE; INSERT INTO w SELECT 1; UPDATE w SET n = 1", True),
        ("DELETE FROM w WHERE 1 = 1; INSERT INTO w SELECT 1", True),
        ("DELETE FROM w WHERE d = %(metric_date)s; INSERT INTO w SELECT 1", False),
        ("DELETE FROM w LIMIT 5; INSERT INTO w SELECT 1", False),
        ("DELETE w FROM w JOIN t ON t.d = w.d; INSERT INTO w SELECT 1", False),
        ("INSERT INTO w SELECT 1; DELETE FROM w", False),
        ("DELETE FROM w", False),
        ("DELETE FROM w; INSERT INTO v SELECT 1", False),
        ("DELETE FROM w; DELETE FROM v; INSERT INTO v SELECT 1", False),
        ("DELETE FROM bi_metrics; INSERT INTO bi_metrics SELECT 1", False),
        ("DELETE FROM w; INSERT INTO w SELECT 1; REPLACE INTO h SELECT 1 FROM w", False),  # h keeps its rows
        ("CREATE TEMPORARY TABLE w (n INT); DELETE FROM w; INSERT INTO w SELECT 1", False),
        ("DELETE FROM w; INSERT INTO w SELECT 1; INSERT INTO bi_metrics SELECT 1 FROM w", False),
        (QUERY, False),
    ],
)
def test_a_helper_that_empties_all_it_fills_is_a_work_table(text: str, is_work_table: bool, tmp_path: Path) -> None:
    assert one(tmp_path, text).is_work_table is is_work_table


def test_dependents_and_inputs_are_found_directly_and_through_others(tmp_path: Path) -> None:
    readers = {f"{name}.sql": reading(read) for name, read in ("ba", "cb", "dd", "ec")}
    loaded = catalog(tmp_path, {"a.sql": QUERY, **readers, "f.sql": reading("g"), "g.sql": reading("f", "a")})
    nobody = frozenset[str]()
    assert loaded.dependents == {
        "a": {"b", "g"}, "b": {"c"}, "c": {"e"}, "d": nobody, "e": nobody, "f": {"g"}, "g": {"f"},
    }  # fmt: skip
    assert loaded.all_dependents(["a"]) == {"b", "c", "e", "f", "g"}
    assert loaded.all_dependents(["b", "f"]) == {"c", "e", "g"}
    assert loaded.all_dependents(["nobody"]) == nobody
    assert loaded.inputs == {
        "a": nobody, "b": {"a"}, "c": {"a", "b"}, "d": {"d"}, "e": {"a", "b", "c"}, "f": {"a", "f", "g"},
        "g": {"a", "f", "g"},
    }  # fmt: skip


def test_a_night_runs_the_names_that_have_a_file_for_single_dates(tmp_path: Path) -> None:
    loaded = catalog(tmp_path, {"a.sql": QUERY, "incremental/b.sql": QUERY, "initial/c.sql": QUERY, "w.sql": WORK,
                                "incremental/h.sql": HELPER, "initial/i.sql": HELPER, "_d.sql": QUERY})  # fmt: skip
    assert {name: each.is_helper for name, each in loaded.nightly.items()} == {"a": False, "b": False, "h": True}
    assert loaded.cells == {"a", "b", "c", "h", "i"}


# --- the definition ---------------------------------------------------------------------------------------------------


def definition(folder: Path, files: dict[str, str], **values: str) -> str:
    """Return the definition of x, whose files alone lie in a folder of their own."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        catalog(Path(own), files)
        return load_catalog(Path(own) / "sql", values).definition("x")


def test_the_definition_sees_code_type_and_empty_value_but_no_comment_or_path(tmp_path: Path) -> None:
    text = "-- a\nSELECT 'a b' , x;\nSELECT 2"
    first = definition(tmp_path, {"x.sql": text})
    assert re.fullmatch("[0-9a-f]{16}", first)
    same = {
        "5_x.sql": "-- Description: b\n-- Check: SELECT %(b)s\nSELECT   'a b',x /* c */ ;\r\n;SELECT 2; -- d",
        "_x.sql": "SELECT 3",
        "y.sql": "SELECT 4",
    }
    assert first == definition(tmp_path, same)
    assert definition(tmp_path, {"x.sql": "SELECT 'a\r\nb'"}) == definition(tmp_path, {"x.sql": "SELECT 'a\nb'"})
    others: list[dict[str, str]] = [
        {"x.sql": "SELECT 'a  b', x; SELECT 2"}, {"x.sql": "SELECT 'a b', X; SELECT 2"}, {"x.sql": text[:-1]},
        {"incremental/x.sql": text}, {"initial/x.sql": text}, {"x.sql": f"-- Data Type: ranking\n{text}"},
        {"x.sql": f"-- Empty: ok\n{text}"}, {"x.sql": f"-- Empty: 0\n{text}"}, {},
        {"incremental/x.sql": text, "initial/x.sql": text}, {"incremental/x.sql": text, "initial/x.sql": "SELECT 2"},
    ]  # fmt: skip
    assert len({first, *(definition(tmp_path, files) for files in others)}) == 12


def test_the_definition_covers_the_parameters_that_the_code_of_any_file_uses_and_no_others(tmp_path: Path) -> None:
    files = {"incremental/x.sql": "-- Check: SELECT %(c)s\nSELECT 1", "initial/x.sql": "SELECT %(a)s -- %(b)s"}
    first = definition(tmp_path, files, a="1", b="2", c="3")
    assert first == definition(tmp_path, files, a="1", b="3", c="4")
    assert first != definition(tmp_path, files, a="2", b="2", c="3")
    assert first != definition(tmp_path, files, b="2", c="3")


# --- which files run --------------------------------------------------------------------------------------------------


def test_files_are_selected_by_shell_patterns_in_run_order(tmp_path: Path) -> None:
    loaded = catalog(tmp_path, ["2_users.sql", "1_plays.sql", "users_new.sql", "initial/users_old.sql"])
    assert [file.name for file in select(loaded, Mode.INCREMENTAL, [])] == ["plays", "users", "users_new"]
    chosen = select(loaded, Mode.INCREMENTAL, ["users*", "plays"])
    assert [file.name for file in chosen] == ["plays", "users", "users_new"]
    assert [file.name for file in select(loaded, Mode.INITIAL, ["*_old"])] == ["users_old"]


def test_helpers_are_selected_by_their_names_and_not_otherwise(tmp_path: Path) -> None:
    loaded = catalog(tmp_path, {"1_h.sql": HELPER, "2_w.sql": WORK, "3_a.sql": "SELECT 1 FROM h, w"})
    chosen = [([file.name for file in select(loaded, Mode.INCREMENTAL, list(words))]) for words in ("", "a", "h", "wh")]
    assert chosen == [["h", "w", "a"], ["a"], ["h"], ["h", "w"]]


def test_a_name_is_taken_as_it_is_before_it_is_a_pattern() -> None:
    assert matching({"a[1]", "a1", "b"}, ["a[1]"], "here") == {"a[1]"}
    assert matching({"a1", "b"}, ["a[1]"], "here") == {"a1"}


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


def test_no_folder_is_an_empty_catalog(tmp_path: Path) -> None:
    catalog(tmp_path, ["a.sql"])
    shutil.rmtree(tmp_path / "sql")
    empty = load_catalog(tmp_path / "sql")
    assert empty.files == ()
    with pytest.raises(UsageError, match="there are no metric files in the folder of METRICS_DIR"):
        select(empty, Mode.INITIAL, [])
