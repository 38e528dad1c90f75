"""Settings from .env and the environment: how they are read, which one wins, and what a wrong one says."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from config.database import Settings, load_settings, on_end_command
from src.errors import SettingsError
from tests.conftest import ROOT


def settings(folder: Path, text: str | None = None, environ: dict[str, str] | None = None) -> Settings:
    if text is not None:
        (folder / ".env").write_text(text)
    return load_settings(folder, environ or {})


def refusal(folder: Path, text: str | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        settings(folder, text, environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- how .env is read -------------------------------------------------------------------------------------------------


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert (found.db_port, found.db_ssl_mode, found.log_level, found.metric_timeout_seconds) == (
        3306, "preferred", "INFO", 0,
    )  # fmt: skip
    assert (found.metrics_history_start, found.parameters, found.warnings) == (None, {}, ())
    assert (found.metrics_dir, found.metrics_on_end) == (tmp_path / "sql", "")


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("DB_PASSWORD=plain", "plain"),
        ("DB_PASSWORD =  blanks around  ", "blanks around"),
        ("DB_PASSWORD=' blanks kept '", " blanks kept "),
        ('DB_PASSWORD=" blanks kept "', " blanks kept "),
        ("DB_PASSWORD=with # a comment", "with"),
        ("DB_PASSWORD=with#no comment", "with#no comment"),
        ("DB_PASSWORD=#none either", "#none either"),
        ("DB_PASSWORD='kept # here' # and a comment", "kept # here"),
        ("DB_PASSWORD=a$HOME${DB_USER}$$", "a$HOME${DB_USER}$$"),
        ("DB_PASSWORD='a$HOME${DB_USER}'", "a$HOME${DB_USER}"),
        ("DB_PASSWORD=\"a$HOME${DB_USER}\"", "a$HOME${DB_USER}"),
        (r"DB_PASSWORD='it\'s'", "it's"),
        ("DB_PASSWORD=two=signs", "two=signs"),
        ("DB_PASSWORD=", ""),
        ("export DB_PASSWORD=exported", "exported"),
        ("# DB_PASSWORD=commented", ""),
        ("DB_PASSWORD=first\nDB_PASSWORD=last", "last"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_line_of_env_is_read_as_it_is_documented(tmp_path: Path, line: str, password: str, end: str) -> None:
    (tmp_path / ".env").write_bytes(f"\ufeffDB_USER=me\n{line}{end}".encode())
    (tmp_path / ".env").chmod(0o600)
    found = load_settings(tmp_path, {})
    assert (found.db_user, found.db_password, found.warnings) == ("me", password, ())


@pytest.mark.parametrize(
    "line",
    ['DB_SSL_MODE="required', "DB_PASSWORD='secret", "DB_PASSWORD='secret' more", "DB_SSL_MODE secret", "DB_PASSWORD"],
)
def test_a_line_that_cannot_be_parsed_is_an_error_with_its_number_and_without_its_text(
    tmp_path: Path, line: str
) -> None:
    text = f"\n# a comment\n\nDB_USER='me'\n\n{line}\nDB_NAME=\"game\"\n"
    assert refusal(tmp_path, text) == ".env, line 6: must be NAME=value; close each quote that it opens"


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"DB_USER=\xff\n")
    assert refusal(tmp_path).startswith(f"cannot read {tmp_path}/.env: 'utf-8' codec can't decode")
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    assert refusal(tmp_path) == f"cannot read {tmp_path}/.env: [Errno 21] Is a directory: '{tmp_path}/.env'"


def test_the_example_file_holds_every_setting_and_is_read_without_a_warning(tmp_path: Path) -> None:
    example = (ROOT / ".env.example").read_text()
    (tmp_path / "sql").mkdir()
    found = settings(tmp_path, example)
    assert found.warnings == ()
    names = {line.split("=")[0] for line in example.splitlines() if line and not line.startswith("#")}
    in_code = {name.upper() for name in Settings.__dataclass_fields__}
    assert names == in_code - {"PARAMETERS", "WARNINGS", "IS_FIRST_CONTACT"} | {"METRIC_PARAM_CUTOFF_DATE"}


# --- what the values mean ---------------------------------------------------------------------------------------------


def test_the_environment_wins_over_env_also_where_it_sets_an_empty_value(tmp_path: Path) -> None:
    text = "DB_HOST=from_file\nDB_USER=from_file\nDB_NAME=from_file\nMETRIC_PARAM_A=from_file\n"
    found = settings(tmp_path, text, {"DB_USER": "real", "DB_NAME": "", "METRIC_PARAM_A": "real"})
    assert (found.db_host, found.db_user, found.db_name) == ("from_file", "real", "")
    assert found.parameters == {"a": "real"}


def test_each_type_of_setting_is_read(tmp_path: Path) -> None:
    text = (
        "METRICS_HISTORY_START=2024-01-01\nMETRIC_TIMEOUT_SECONDS=1.5\nLOG_LEVEL=debug\nDB_SSL_MODE=Verify-CA\n"
        "DB_PORT=3307\nMETRICS_ON_END='echo \"$METRICS_STATUS\"'\nMETRIC_PARAM_Cutoff_Date=2024-01-01\n"
    )
    found = settings(tmp_path, text)
    assert (found.metrics_history_start, found.metric_timeout_seconds) == (date(2024, 1, 1), 1.5)
    assert (found.log_level, found.db_ssl_mode, found.db_port) == ("DEBUG", "verify-ca", 3307)
    assert (found.metrics_on_end, found.parameters) == ('echo "$METRICS_STATUS"', {"cutoff_date": "2024-01-01"})


@pytest.mark.parametrize("absolute", [False, True])
def test_the_folder_of_the_metrics_is_relative_to_that_of_env(tmp_path: Path, absolute: bool) -> None:
    folder = tmp_path / "of our team" / "metrics"
    folder.mkdir(parents=True)
    found = settings(tmp_path, f"METRICS_DIR={folder if absolute else 'of our team/metrics'}\n")
    assert found.metrics_dir == folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("DB_PORT=x", "must be a number from 1 to 65535"),
        ("DB_PORT=0", "must be a number from 1 to 65535"),
        ("DB_PORT=65536", "must be a number from 1 to 65535"),
        ("DB_PORT=3306.5", "must be a number from 1 to 65535"),
        ("DB_PORT=nan", "must be a number from 1 to 65535"),
        ("DB_PORT=1e3", "must be a number from 1 to 65535"),
        ("METRIC_TIMEOUT_SECONDS=-1", "must be a number from 0 to 1000000"),
        ("METRIC_TIMEOUT_SECONDS=inf", "must be a number from 0 to 1000000"),
        ("DB_SSL_MODE=on", "must be one of disabled, preferred, required, verify-ca, verify-identity"),
        ("LOG_LEVEL=LOUD", "must be one of DEBUG, INFO, WARNING, ERROR"),
        ("METRICS_HISTORY_START=2025-02-30", "must be a date as YYYY-MM-DD"),
        ("METRICS_HISTORY_START=20250131", "must be a date as YYYY-MM-DD"),
        ("METRICS_HISTORY_START=2025-W05-5", "must be a date as YYYY-MM-DD"),
        ("METRICS_HISTORY_START=yesterday", "must be a date as YYYY-MM-DD"),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_it_must_be(tmp_path: Path, line: str, message: str) -> None:
    assert refusal(tmp_path, f"\n{line}\n") == f"{line} (in .env, line 2): {message}"
    name, value = line.split("=")
    assert refusal(tmp_path, None, {name: value}) == f"{line} (in the environment): {message}"


def test_a_folder_of_metrics_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for value in ("nowhere", "file"):
        assert refusal(tmp_path, f"METRICS_DIR={value}\n") == (
            f"METRICS_DIR={value} (in .env, line 1): must be a folder that exists; there is none at {tmp_path}/{value}"
        )


@pytest.mark.parametrize("name", ["METRIC_DATE", "start_date", "dates", "DAY_START_UTC", "Day_End_UTC"])
def test_a_parameter_that_every_run_sets_is_refused(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path, f"METRIC_PARAM_{name}=2025-01-15\n") == (
        f"METRIC_PARAM_{name} (in .env, line 1): every run sets %({name.lower()})s itself; choose another name"
    )


@pytest.mark.parametrize("value", ["", "   ", "''", "# later"])
def test_a_parameter_without_a_value_is_refused(tmp_path: Path, value: str) -> None:
    end = "is empty: give it a value or remove it"
    assert refusal(tmp_path, f"METRIC_PARAM_A= {value}\n") == f"METRIC_PARAM_A (in .env, line 1) {end}"
    assert refusal(tmp_path, "METRIC_PARAM_A=1\n", {"METRIC_PARAM_A": ""}).startswith(
        "METRIC_PARAM_A (in the environment) is empty"
    )


# --- the connection ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "environ", "places"),
    [
        ("DB_HOST=h\nDB_SOCKET=/s\n", {}, ("in .env, line 1", "in .env, line 2")),
        ("", {"DB_HOST": "h", "DB_SOCKET": "/s"}, ("in the environment",) * 2),
        ("DB_HOST=a\nDB_SOCKET=/a\n", {"DB_HOST": "h", "DB_SOCKET": "/s"}, ("in the environment",) * 2),
    ],
)
def test_a_host_and_a_socket_are_an_error(
    tmp_path: Path, text: str, environ: dict[str, str], places: tuple[str, str]
) -> None:
    assert refusal(tmp_path, text, environ) == (
        f"DB_HOST ({places[0]}) and DB_SOCKET ({places[1]}) are both set: empty one of them "
        "(after the demo, empty DB_SOCKET)"
    )


@pytest.mark.parametrize(
    ("text", "environ", "address"),
    [
        ("DB_HOST=h\nDB_SOCKET=\n", {}, ("h", "")),
        ("DB_HOST=h\n", {"DB_SOCKET": "/s"}, ("", "/s")),
        ("DB_SOCKET=/s\n", {"DB_HOST": "h"}, ("h", "")),
        ("DB_HOST=h\nDB_SOCKET=/a\n", {"DB_SOCKET": "/s"}, ("", "/s")),
        ("DB_HOST=h\n", {"DB_SOCKET": ""}, ("h", "")),
        ("DB_HOST=h\nDB_SOCKET=/s\n", {"DB_HOST": ""}, ("", "/s")),
    ],
)
def test_an_address_of_the_environment_replaces_the_other_kind_in_env(
    tmp_path: Path, text: str, environ: dict[str, str], address: tuple[str, str]
) -> None:
    found = settings(tmp_path, text, environ)
    assert (found.db_host, found.db_socket) == address


def test_without_any_settings_the_first_thing_said_is_how_to_make_them(tmp_path: Path) -> None:
    first = "there is no .env yet: cp .env.example .env, then fill in DB_HOST, DB_USER and DB_NAME"
    with pytest.raises(SettingsError, match=f"^{re.escape(first)}$"):
        settings(tmp_path, None, {"LOG_LEVEL": "INFO"}).require_database()


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ({"DB_USER": "u", "DB_NAME": "n"}, "DB_HOST (or DB_SOCKET)"),
        ({"DB_HOST": "h", "DB_NAME": "n"}, "DB_USER"),
        ({"DB_SOCKET": "/s", "DB_USER": "u"}, "DB_NAME"),
        ({"DB_HOST": " ", "DB_SOCKET": ""}, "DB_HOST (or DB_SOCKET)"),
    ],
)
def test_a_setting_that_a_connection_needs_is_missed_by_name(
    tmp_path: Path, values: dict[str, str], missing: str
) -> None:
    message = f"^{re.escape(missing)} is not set: set it in .env or in the environment$"
    with pytest.raises(SettingsError, match=message):
        settings(tmp_path, None, values).require_database()
    with pytest.raises(SettingsError, match=message):
        settings(tmp_path, "".join(f"{name}={value}\n" for name, value in values.items())).require_database()


def test_no_text_holds_the_password_or_the_command_of_the_end(tmp_path: Path) -> None:
    found = settings(tmp_path, "DB_PASSWORD=secret_1\nMETRICS_ON_END=secret_2\nDB_HOST=h\nDB_USER=u\nDB_NAME=n\n")
    assert "secret" not in repr(found)
    assert found.where == "h:3306 as user u, database n"


@pytest.mark.parametrize(
    ("text", "environ", "command"),
    [
        ("METRICS_ON_END=notify\nDB_PORT=x\n", {}, "notify"),
        ("METRICS_ON_END=notify\nDB_PORT=x\n", {"METRICS_ON_END": "other"}, "other"),
        ("METRICS_ON_END=notify\nDB_PORT='x\n", {}, ""),
        ("DB_PORT='x\n", {"METRICS_ON_END": "other"}, "other"),
    ],
)
def test_the_command_of_the_end_is_known_where_another_setting_is_wrong(
    tmp_path: Path, text: str, environ: dict[str, str], command: str
) -> None:
    refusal(tmp_path, text, environ)
    assert on_end_command(tmp_path, environ) == command


# --- warnings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mode", "warned"),
    [
        ("DB_PASSWORD=x\n", 0o644, True),
        ("DB_PASSWORD=x\n", 0o640, False),
        ("DB_PASSWORD=\n", 0o644, False),
        ("DB_USER=x\n", 0o644, False),
    ],
)
def test_a_password_that_everybody_may_read_is_warned_of(tmp_path: Path, text: str, mode: int, warned: bool) -> None:
    (tmp_path / ".env").write_text(text)
    (tmp_path / ".env").chmod(mode)
    warning = ".env holds a password and everybody may read it; run: chmod 600 .env"
    assert load_settings(tmp_path, {"DB_PASSWORD": "also_here"}).warnings == ((warning,) if warned else ())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("DB_PASSWROD", "did you mean DB_PASSWORD?"),
        ("db_host", "did you mean DB_HOST?"),
        ("LOG_LEVLE", "did you mean LOG_LEVEL?"),
        ("METRICS_TIMEOUT_SECONDS", "did you mean METRIC_TIMEOUT_SECONDS?"),
        ("METRIC_PARAMS_A", "did you mean METRIC_PARAM_NAME?"),
        ("METRIC_PARAM_CUT-OFF", "did you mean METRIC_PARAM_NAME?"),
        ("DB_DATABASE", ".env.example lists the settings"),
    ],
)
def test_a_name_that_looks_like_a_setting_is_warned_of_with_the_nearest(tmp_path: Path, name: str, hint: str) -> None:
    found = settings(tmp_path, f"DB_USER=x\n{name}=secret\n")
    assert found.warnings == (f"{name} (in .env, line 2) is not a setting; {hint}",)


def test_of_the_environment_only_names_that_start_with_metric_are_looked_at(tmp_path: Path) -> None:
    environ = {"DB_PASS": "of another program", "LOG_FORMAT": "json", "METRICS_DIRR": "sql", "METRIC_PARAM_A": "1"}
    given_to_on_end = {"METRICS_STATUS": "ok", "METRICS_EXIT_CODE": "0", "METRICS_ERROR": "", "METRICS_RESUME": ""}
    found = settings(tmp_path, "OTHER=1\n", {**environ, **given_to_on_end})
    assert found.warnings == ("METRICS_DIRR (in the environment) is not a setting; did you mean METRICS_DIR?",)
