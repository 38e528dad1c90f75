"""Settings, read once from the environment and .env. Nothing else in the project reads the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from src.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent
GROUP_CONCAT_BYTES = 67_108_864  # MariaDB cuts JSON_ARRAYAGG there too
SSL_MODES = ("disabled", "preferred", "required", "verify-ca", "verify-identity")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_PARAMETER = re.compile(r"METRIC_PARAM_([A-Za-z_][A-Za-z0-9_]*)")
_DIGITS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_OWN_PARAMETERS = ("metric_date", "start_date", "dates")


@dataclass(frozen=True)
class Settings:
    """Every setting; the names are those of .env in lower case. The password stays out of repr()."""

    db_host: str
    db_port: int
    db_socket: str
    db_user: str
    db_password: str = field(repr=False)
    db_name: str
    db_time_zone: str
    db_ssl_mode: str
    db_ssl_ca: str
    db_ssl_cert: str
    db_ssl_key: str
    metrics_timezone: str
    metrics_history_start: date | None
    metric_timeout_seconds: float  # 0: no limit
    log_level: str
    parameters: Mapping[str, str]  # METRIC_PARAM_CUTOFF_DATE=x is {"cutoff_date": "x"}
    readable_by_others: bool  # .env is, and holds a password

    def require_database(self) -> None:
        """Raise SettingsError where a setting that a connection needs is missing."""
        if not self.db_host and not self.db_socket:
            raise _missing("DB_HOST (or DB_SOCKET)")
        for name in ("DB_USER", "DB_NAME"):
            if not getattr(self, name.lower()):
                raise _missing(name)

    @property
    def where(self) -> str:
        """Name the server for a message: place, user and database, never the password."""
        place = self.db_socket or f"{self.db_host}:{self.db_port}"
        return f"{place} as user {self.db_user}, database {self.db_name}"


def load_settings(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings below `root`; the real environment wins over .env, also where it sets an empty value."""
    env_file = root / ".env"
    values = {**_read_env_file(env_file), **environ}

    def get(name: str, default: str = "") -> str:
        return values.get(name, default).strip()

    return Settings(
        db_host=get("DB_HOST"),
        db_port=int(_number("DB_PORT", get("DB_PORT") or "3306", 1, 65535)),
        db_socket=get("DB_SOCKET"),
        db_user=get("DB_USER"),
        db_password=values.get("DB_PASSWORD", ""),
        db_name=get("DB_NAME"),
        db_time_zone=get("DB_TIME_ZONE"),
        db_ssl_mode=_one_of("DB_SSL_MODE", get("DB_SSL_MODE").lower() or "preferred", SSL_MODES),
        db_ssl_ca=get("DB_SSL_CA"),
        db_ssl_cert=get("DB_SSL_CERT"),
        db_ssl_key=get("DB_SSL_KEY"),
        metrics_timezone=get("METRICS_TIMEZONE"),
        metrics_history_start=_date("METRICS_HISTORY_START", get("METRICS_HISTORY_START")),
        metric_timeout_seconds=_number("METRIC_TIMEOUT_SECONDS", get("METRIC_TIMEOUT_SECONDS") or "0", 0, 1_000_000),
        log_level=_one_of("LOG_LEVEL", get("LOG_LEVEL").upper() or "INFO", LOG_LEVELS),
        parameters=_parameters(values),
        readable_by_others=bool(values.get("DB_PASSWORD")) and _readable_by_others(env_file),
    )


def _read_env_file(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    from dotenv import dotenv_values

    try:
        found = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path.name}: {error}") from None
    return {name: value for name, value in found.items() if value is not None}


def _parameters(values: Mapping[str, str]) -> dict[str, str]:
    matches = ((_PARAMETER.fullmatch(name), value) for name, value in values.items())
    found = {match[1].lower(): value for match, value in matches if match}
    for name in _OWN_PARAMETERS:
        if name in found:
            raise SettingsError(f"METRIC_PARAM_{name.upper()}: every run sets %({name})s itself; choose another name")
    return found


def _number(name: str, text: str, low: int, high: int) -> float:
    value = float(text) if _DIGITS.fullmatch(text) else -1
    if not low <= value <= high or (name == "DB_PORT" and value % 1):
        raise SettingsError(f"{name}={text}: write a number from {low} to {high} (in .env or the environment)")
    return value


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise SettingsError(f"{name}={value}: choose one of {', '.join(choices)} (in .env or the environment)")
    return value


def _date(name: str, text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise SettingsError(f"{name}={text}: write a date as YYYY-MM-DD (in .env or the environment)") from None


def _readable_by_others(path: Path) -> bool:
    return path.exists() and bool(path.stat().st_mode & 0o004)


def _missing(name: str) -> SettingsError:
    hint = "" if (ROOT / ".env").exists() else " (there is no .env yet: cp .env.example .env)"
    return SettingsError(f"{name} is not set; set it in .env or in the environment{hint}")
