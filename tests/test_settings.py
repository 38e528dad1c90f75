"""Settings from .env and the environment: which one wins, and what a wrong one says."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from config.database import Settings, load_settings
from src.errors import SettingsError


def settings(folder: Path, text: str | None = None, environ: dict[str, str] | None = None) -> Settings:
    if text is not None:
        (folder / ".env").write_text(text)
    return load_settings(folder, environ or {})


def test_the_real_environment_wins_over_env_also_where_it_is_set_but_empty(tmp_path: Path) -> None:
    text = "DB_HOST=from_file\nDB_USER=from_file\nDB_SOCKET=/from/file\nMETRIC_PARAM_A=from_file\n"
    found = settings(tmp_path, text, {"DB_USER": "real", "DB_SOCKET": "", "METRIC_PARAM_A": ""})
    assert (found.db_host, found.db_user, found.db_socket) == ("from_file", "real", "")
    assert found.parameters == {"a": ""}


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert (found.db_port, found.db_ssl_mode, found.log_level, found.metric_timeout_seconds) == (
        3306, "preferred", "INFO", 0,
    )  # fmt: skip
    assert (found.metrics_history_start, found.parameters, found.readable_by_others) == (None, {}, False)


def test_values_are_taken_as_they_stand(tmp_path: Path) -> None:
    text = "DB_PASSWORD='a$HOME ${DB_USER} #b '\nDB_USER=me\nMETRIC_PARAM_Cutoff_Date=2024-01-01\nDB_NAME = game \n"
    found = settings(tmp_path, text)
    assert (found.db_password, found.db_name) == ("a$HOME ${DB_USER} #b ", "game")
    assert found.parameters == {"cutoff_date": "2024-01-01"}


def test_the_example_file_is_read_without_an_error() -> None:
    example = (Path(__file__).parents[1] / ".env.example").read_text()
    names = {line.split("=")[0] for line in example.splitlines() if line and not line.startswith("#")}
    in_code = {name.upper() for name in Settings.__dataclass_fields__} - {"PARAMETERS", "READABLE_BY_OTHERS"}
    assert names == in_code | {"METRIC_PARAM_CUTOFF_DATE"}


def test_each_type_of_setting_is_read(tmp_path: Path) -> None:
    text = "METRICS_HISTORY_START=2024-01-01\nMETRIC_TIMEOUT_SECONDS=1.5\nLOG_LEVEL=debug\nDB_SSL_MODE=Verify-CA\n"
    found = settings(tmp_path, text)
    assert (found.metrics_history_start, found.metric_timeout_seconds) == (date(2024, 1, 1), 1.5)
    assert (found.log_level, found.db_ssl_mode) == ("DEBUG", "verify-ca")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("DB_PORT=x", "DB_PORT=x: write a number from 1 to 65535"),
        ("DB_PORT=0", "DB_PORT=0: write a number from 1"),
        ("DB_PORT=nan", "DB_PORT=nan: write a number"),
        ("DB_SSL_MODE=on", "DB_SSL_MODE=on: choose one of disabled, preferred, required, verify-ca, verify-identity"),
        ("LOG_LEVEL=LOUD", "LOG_LEVEL=LOUD: choose one of DEBUG"),
        ("METRICS_HISTORY_START=2025-02-30", "METRICS_HISTORY_START=2025-02-30: write a date as YYYY-MM-DD"),
        ("METRIC_TIMEOUT_SECONDS=-1", "METRIC_TIMEOUT_SECONDS=-1: write a number from 0"),
        ("METRIC_PARAM_METRIC_DATE=x", "METRIC_PARAM_METRIC_DATE: every run sets %\\(metric_date\\)s itself"),
        ("METRIC_PARAM_dates=x", "METRIC_PARAM_DATES: every run sets"),
    ],
)
def test_a_wrong_setting_is_named_with_what_to_write(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(tmp_path, line + "\n")


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"DB_USER=\xff\n")
    with pytest.raises(SettingsError, match=r"cannot read \.env: "):
        load_settings(tmp_path, {})


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"DB_USER": "u", "DB_NAME": "n"}, r"DB_HOST \(or DB_SOCKET\)"),
        ({"DB_HOST": "h", "DB_NAME": "n"}, "DB_USER"),
        ({"DB_SOCKET": "s", "DB_USER": "u"}, "DB_NAME"),
    ],
)
def test_a_setting_that_a_connection_needs_is_missed_by_name(
    tmp_path: Path, environ: dict[str, str], name: str
) -> None:
    with pytest.raises(SettingsError, match=f"{name} is not set; set it in .env or in the environment"):
        settings(tmp_path, None, environ).require_database()


def test_the_password_is_in_no_text(tmp_path: Path) -> None:
    found = settings(tmp_path, "DB_PASSWORD=very_secret\nDB_HOST=h\nDB_USER=u\nDB_NAME=n\n")
    assert "very_secret" not in repr(found)
    assert found.where == "h:3306 as user u, database n"


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [("DB_PASSWORD=x\n", 0o644, True), ("DB_PASSWORD=x\n", 0o640, False), ("DB_PASSWORD=\n", 0o644, False)],
)
def test_a_password_that_everybody_may_read_is_noticed(tmp_path: Path, text: str, mode: int, expected: bool) -> None:
    (tmp_path / ".env").write_text(text)
    (tmp_path / ".env").chmod(mode)
    assert load_settings(tmp_path, {}).readable_by_others is expected
