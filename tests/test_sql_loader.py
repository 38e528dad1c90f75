"""Discovery: which files are metrics, what they are called, and in which order they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.sql_loader import load_catalog, split_name

WRITES = b"INSERT INTO bi_metrics SELECT 1"


def fill(folder: Path, *paths: str) -> None:
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(WRITES)


def order(folder: Path, mode: str = "incremental") -> list[str]:
    return [metric.path for metric in load_catalog(folder).in_mode(mode)]


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
    ],
)
def test_a_prefix_is_digits_and_then_underscores(file_name: str, expected: tuple[int | None, str]) -> None:
    assert split_name(file_name) == expected


def test_prefixed_files_run_first_by_number_and_the_others_by_name(tmp_path: Path) -> None:
    fill(
        tmp_path, "b.sql", "a.sql", "incremental/10_ten.sql", "9_nine.sql", "incremental/100____last.sql",
        "09_also_nine.sql", "incremental/1_one.sql", "7d_active.sql", "initial/2_other_mode.sql",
    )  # fmt: skip
    assert order(tmp_path) == [
        "sql/incremental/1_one.sql", "sql/09_also_nine.sql", "sql/9_nine.sql", "sql/incremental/10_ten.sql",
        "sql/incremental/100____last.sql", "sql/7d_active.sql", "sql/a.sql", "sql/b.sql",
    ]  # fmt: skip
    assert order(tmp_path, "initial")[0] == "sql/initial/2_other_mode.sql"


def test_only_sql_files_of_the_three_folders_are_metrics(tmp_path: Path) -> None:
    fill(tmp_path, "schema.sql", "a.sql.bak", "notes.txt", "deeper/x.sql", "initial/deeper/y.sql", "UPPER.SQL", "sql")
    (tmp_path / "folder.sql").mkdir()
    assert order(tmp_path) == ["sql/UPPER.SQL"]


def test_a_name_that_starts_with_an_underscore_or_a_dot_is_disabled(tmp_path: Path) -> None:
    fill(tmp_path, "_03_off.sql", ".04_hidden.sql", "05_on.sql", "incremental/__off.sql")
    assert order(tmp_path) == ["sql/05_on.sql"]
    disabled = {metric.path: metric.name for metric in load_catalog(tmp_path).files if metric.disabled}
    assert disabled == {"sql/_03_off.sql": "off", "sql/.04_hidden.sql": "hidden", "sql/incremental/__off.sql": "off"}


def test_twins_are_the_initial_files_of_metrics_with_both(tmp_path: Path) -> None:
    fill(
        tmp_path, "initial/10_both.sql", "incremental/20_both.sql", "initial/only_initial.sql", "snapshot.sql",
        "initial/_off.sql", "incremental/off.sql",
    )  # fmt: skip
    twins = load_catalog(tmp_path).initial_twins()
    assert {name: metric.path for name, metric in twins.items()} == {"both": "sql/initial/10_both.sql"}


def test_a_file_that_does_not_write_bi_metrics_is_a_helper(tmp_path: Path) -> None:
    fill(tmp_path, "metric.sql")
    (tmp_path / "helper.sql").write_text("DELETE FROM helper; INSERT INTO helper SELECT * FROM bi_metrics")
    assert {metric.name: metric.is_helper for metric in load_catalog(tmp_path).files} == {
        "metric": False, "helper": True,
    }  # fmt: skip


def test_a_byte_order_mark_is_no_part_of_the_text_and_broken_files_are_in_the_catalog(tmp_path: Path) -> None:
    (tmp_path / "bom.sql").write_bytes(b"\xef\xbb\xbf-- Metric: bom\r\nSELECT 1\r\n")
    (tmp_path / "latin.sql").write_bytes(b"SELECT '\xe9'")
    (tmp_path / "nothing.sql").write_bytes(b"")
    bom, latin, nothing = load_catalog(tmp_path).files
    assert (bom.header.metric, bom.statements[0].text) == ("bom", "SELECT 1")
    assert "\udce9" in latin.script.text
    assert nothing.statements == ()


def test_no_folder_is_an_empty_catalog(tmp_path: Path) -> None:
    assert load_catalog(tmp_path / "none").files == ()
