"""Settings, read once from the environment and .env. Nothing else in the project reads settings from either."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from difflib import get_close_matches
from pathlib import Path

from src.errors import SettingsError
from src.metric_file.parameters import DATE_PARAMETERS

ROOT = Path(__file__).resolve().parent.parent
GROUP_CONCAT_BYTES = 67_108_864  # MariaDB cuts JSON_ARRAYAGG there too
SSL_MODES = ("disabled", "preferred", "required", "verify-ca", "verify-identity")
ON_FAILURE = ("date", "metric")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_PARAMETER = re.compile(r"METRIC_PARAM_([A-Za-z_][A-Za-z0-9_]*)")
_WHOLE = ("DB_PORT", "METRICS_LOOKBACK_DAYS", "METRICS_MEND_DAYS", "METRICS_READERS")
_DIGITS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
# METRICS_ON_END gets these, so that a command which it calls finds them in its environment.
_OUTCOME = ("METRICS_STATUS", "METRICS_EXIT_CODE", "METRICS_ERROR", "METRICS_RESUME")


@dataclass(frozen=True)
class Settings:
    """Every setting; the names are those of .env in lower case. The password stays out of repr()."""

    db_host: str  # empty if db_socket is set
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
    metrics_dir: Path
    metrics_timezone: str
    metrics_history_start: date | None
    metrics_lookback_days: int  # dates before yesterday that every night computes again
    metrics_mend_days: int  # how far back a night computes what is due
    metrics_on_failure: str  # "date" or "metric"
    metrics_readers: int  # further connections, which compute SELECT metrics ahead
    metrics_on_end: str = field(repr=False)  # a shell command, which may hold a secret, such as the address of a chat
    metric_timeout_seconds: float  # 0: no limit
    log_level: str
    parameters: Mapping[str, str]  # METRIC_PARAM_CUTOFF_DATE=x is {"cutoff_date": "x"}
    warnings: tuple[str, ...]  # one line each
    is_first_contact: bool  # there is no .env, and the environment sets no DB_ name

    def require_database(self) -> None:
        """Raise SettingsError if a setting that a connection needs is missing."""
        if self.is_first_contact:
            raise SettingsError("there is no .env yet: cp .env.example .env, then fill in DB_HOST, DB_USER and DB_NAME")
        address = ("DB_HOST (or DB_SOCKET)", self.db_host or self.db_socket)
        for name, value in (address, ("DB_USER", self.db_user), ("DB_NAME", self.db_name)):
            if not value:
                raise SettingsError(f"{name} is not set: set it in .env or in the environment")

    @property
    def host(self) -> str:
        """The server's host and port, or its socket."""
        return self.db_socket or f"{self.db_host}:{self.db_port}"

    @property
    def where(self) -> str:
        """Name the server for a message: place, user and database, never the password."""
        return f"{self.host} as user {self.db_user}, database {self.db_name}"


class _Values:
    """The values by name, and where each is set; the environment wins over .env, also with an empty value."""

    def __init__(self, env_file: Path, environ: Mapping[str, str]) -> None:
        self.lines, self.in_file = _read_env_file(env_file)
        self.environ = environ
        self.all = {**self.in_file, **environ}

    def get(self, name: str, default: str = "") -> str:
        return self.all.get(name, "").strip() or default

    def place(self, name: str) -> str:
        return "in the environment" if name in self.environ else f"in .env, line {self.lines[name]}"

    def wrong(self, name: str, must: str) -> SettingsError:
        return SettingsError(f"{name}={self.get(name)} ({self.place(name)}): must be {must}")

    def number(self, name: str, default: str, low: int, high: int) -> float:
        text = self.get(name, default)
        value = float(text) if _DIGITS.fullmatch(text) else -1
        if not low <= value <= high or (name in _WHOLE and value % 1):
            raise self.wrong(name, f"a number from {low} to {high}")
        return value

    def one_of(self, name: str, value: str, choices: tuple[str, ...]) -> str:
        if value not in choices:
            raise self.wrong(name, f"one of {', '.join(choices)}")
        return value

    def iso_date(self, name: str) -> date | None:
        text = self.get(name)
        try:
            day = date.fromisoformat(text) if text else None
        except ValueError:
            day = None
        if str(day or "") != text:  # Python 3.11 and later read 20250131 as well
            raise self.wrong(name, "a date as YYYY-MM-DD")
        return day

    def address(self) -> tuple[str, str]:
        """Return host and socket. One that the environment sets replaces the other one of .env."""
        host, socket = self.get("DB_HOST"), self.get("DB_SOCKET")
        if not host or not socket:
            return host, socket
        if ("DB_HOST" in self.environ) == ("DB_SOCKET" in self.environ):
            both = f"DB_HOST ({self.place('DB_HOST')}) and DB_SOCKET ({self.place('DB_SOCKET')}) are both set"
            raise SettingsError(f"{both}: empty one of them (after the demo, empty DB_SOCKET)")
        return (host, "") if "DB_HOST" in self.environ else ("", socket)

    def folder(self, name: str, root: Path, default: str) -> Path:
        path = root / self.get(name, default)
        if self.get(name) and not path.is_dir():
            raise self.wrong(name, f"a folder that exists; there is none at {path}")
        return path

    def parameters(self) -> dict[str, str]:
        found = {}
        for name, value in self.all.items():
            if not (match := _PARAMETER.fullmatch(name)):
                continue
            parameter, setting = match[1].lower(), f"{name} ({self.place(name)})"
            if parameter in DATE_PARAMETERS:
                raise SettingsError(f"{setting}: every run sets %({parameter})s itself; choose another name")
            if not value.strip():
                raise SettingsError(f"{setting} is empty: give it a value or remove it")
            found[parameter] = value
        return found

    def unknown(self) -> Iterator[str]:
        """Yield a warning for each name that looks like a setting and is none."""
        known = [item.name.upper() for item in fields(Settings) if item.name.startswith(("db_", "metric", "log_"))]
        ours = [name for name in self.in_file if name.upper().startswith(("DB_", "METRIC", "LOG_"))]
        ours += [name for name in self.environ if name.startswith("METRIC") and name not in _OUTCOME]
        for name in dict.fromkeys(ours):
            if name not in known and not _PARAMETER.fullmatch(name):
                near = get_close_matches(name.upper(), [*known, "METRIC_PARAM_NAME"], n=1)
                hint = f"did you mean {near[0]}?" if near else ".env.example lists the settings"
                yield f"{name} ({self.place(name)}) is not a setting; {hint}"


def load_settings(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings below `root`. Raises SettingsError for the first one that is wrong."""
    env_file = root / ".env"
    values = _Values(env_file, environ)
    host, socket = values.address()
    warnings = [*values.unknown()]
    if values.in_file.get("DB_PASSWORD") and env_file.stat().st_mode & 0o004:
        warnings.append(".env holds a password and everybody may read it; run: chmod 600 .env")
    return Settings(
        db_host=host,
        db_port=int(values.number("DB_PORT", "3306", 1, 65535)),
        db_socket=socket,
        db_user=values.get("DB_USER"),
        db_password=values.all.get("DB_PASSWORD", ""),
        db_name=values.get("DB_NAME"),
        db_time_zone=values.get("DB_TIME_ZONE"),
        db_ssl_mode=values.one_of("DB_SSL_MODE", values.get("DB_SSL_MODE", "preferred").lower(), SSL_MODES),
        db_ssl_ca=values.get("DB_SSL_CA"),
        db_ssl_cert=values.get("DB_SSL_CERT"),
        db_ssl_key=values.get("DB_SSL_KEY"),
        metrics_dir=values.folder("METRICS_DIR", root, "sql"),
        metrics_timezone=values.get("METRICS_TIMEZONE"),
        metrics_history_start=values.iso_date("METRICS_HISTORY_START"),
        metrics_lookback_days=int(values.number("METRICS_LOOKBACK_DAYS", "1", 0, 31)),
        metrics_mend_days=int(values.number("METRICS_MEND_DAYS", "92", 1, 3660)),
        metrics_on_failure=values.one_of("METRICS_ON_FAILURE", values.get("METRICS_ON_FAILURE", "date"), ON_FAILURE),
        metrics_readers=int(values.number("METRICS_READERS", "2", 0, 8)),
        metrics_on_end=values.get("METRICS_ON_END"),
        metric_timeout_seconds=values.number("METRIC_TIMEOUT_SECONDS", "0", 0, 1_000_000),
        log_level=values.one_of("LOG_LEVEL", values.get("LOG_LEVEL", "INFO").upper(), LOG_LEVELS),
        parameters=values.parameters(),
        warnings=tuple(warnings),
        is_first_contact=not env_file.exists() and not any(name.startswith("DB_") for name in environ),
    )


def on_end_command(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> str:
    """Return METRICS_ON_END even if another setting is wrong; if .env cannot be parsed, only the environment counts."""
    try:
        return _Values(root / ".env", environ).get("METRICS_ON_END")
    except SettingsError:
        return environ.get("METRICS_ON_END", "").strip()


def _read_env_file(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Return the line number and the value of each name; nothing if there is no file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}, {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from None
    from dotenv.parser import parse_stream

    lines: dict[str, int] = {}
    values: dict[str, str] = {}
    # Parse line by line: dotenv lets a quote that is not closed run on to the next quote, lines later.
    for number, line in enumerate(text.split("\n"), start=1):
        for found in parse_stream(io.StringIO(line)):
            if found.error or (found.key is not None and found.value is None):
                # The line itself stays out of the message: it may hold the password.
                raise SettingsError(f".env, line {number}: must be NAME=value; close each quote that it opens")
            if found.key is not None and found.value is not None:
                lines[found.key], values[found.key] = number, found.value
    return lines, values
