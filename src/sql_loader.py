"""Discovers the metric files below sql/ and puts them in run order."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from src.errors import MetricFileError
from src.sql_text import Header, Script, Statement, parse

SCHEMA_FILE = "schema.sql"
# Folder below sql/ -> the mode of its files. A file straight in sql/ serves both modes.
FOLDERS = {"": "both", "initial": "initial", "incremental": "incremental"}
_PREFIX = re.compile(r"([0-9]+)_+(?=.)")


@dataclass(frozen=True)
class Metric:
    """A metric file. `path` is relative to the project root, with slashes: the way every message names it."""

    name: str
    mode: str  # "initial", "incremental" or "both"
    path: str
    prefix: int | None
    disabled: bool
    script: Script

    @property
    def header(self) -> Header:
        return self.script.header

    @property
    def statements(self) -> tuple[Statement, ...]:
        return self.script.statements

    @property
    def is_helper(self) -> bool:
        """True for a file that fills other tables and not bi_metrics."""
        return not any(statement.writes_metrics for statement in self.statements)

    @property
    def order(self) -> tuple[bool, int, str, str]:
        """Prefixed files first, by number; then the others; by name within."""
        return (self.prefix is None, self.prefix or 0, self.name, self.path)


@dataclass(frozen=True)
class Catalog:
    """Every metric file there is, disabled ones included, in run order."""

    files: tuple[Metric, ...]

    def in_mode(self, mode: str) -> tuple[Metric, ...]:
        """Return the files that a run of this mode executes, in run order."""
        return tuple(m for m in self.files if not m.disabled and m.mode in ("both", mode))

    def initial_twins(self) -> dict[str, Metric]:
        """Return the initial file of each metric that has both an initial and an incremental file, by name."""
        both = {m.name for m in self.in_mode("incremental")} & {m.name for m in self.in_mode("initial")}
        return {m.name: m for m in self.files if m.name in both and m.mode == "initial" and not m.disabled}


def load_catalog(sql_dir: Path) -> Catalog:
    """Read every metric file below `sql_dir`.

    A file that is broken is in the catalog all the same; src.sql_checks tells what is wrong with it. Raises
    MetricFileError for one that cannot be read at all.
    """
    gc.disable()  # a third of the time would go into walking tokens that all stay
    try:
        files = [_read(path, mode) for folder, mode in FOLDERS.items() for path in _sql_files(sql_dir / folder)]
    finally:
        gc.freeze()
        gc.enable()
    return Catalog(tuple(sorted(files, key=lambda metric: metric.order)))


def split_name(file_name: str) -> tuple[int | None, str]:
    """Split a file name into prefix and metric name: '03_users.sql' -> (3, 'users').

    >>> split_name("64_0.2_AI_matches_daily.sql")
    (64, '0.2_AI_matches_daily')
    >>> split_name("7d_active.sql")
    (None, '7d_active')
    """
    stem = file_name[: -len(".sql")]
    match = _PREFIX.match(stem)
    return (int(match[1]), stem[match.end() :]) if match else (None, stem)


def _sql_files(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(".sql") and entry.name != SCHEMA_FILE and not entry.is_dir():
                yield folder / entry.name


def _read(path: Path, mode: str) -> Metric:
    disabled = path.name.startswith(("_", "."))
    prefix, name = split_name(path.name.lstrip("_.") if disabled else path.name)
    folder = "sql" if mode == "both" else f"sql/{mode}"
    # Bytes that are not UTF-8 become lone surrogates, which no valid file holds: the rule not-utf8 finds them there.
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise MetricFileError([f"{folder}/{path.name}: cannot read it: {error.strerror}"]) from None
    return Metric(name, mode, f"{folder}/{path.name}", prefix, disabled, parse(text))
