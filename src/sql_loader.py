"""Discovers the metric files, puts them in run order, selects them, and knows which metric reads which."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from unicodedata import normalize

from src.errors import MetricFileError, UsageError
from src.metric_file.file import MetricFile, Mode, parse
from src.metric_file.reads import compares_otherwise

_PREFIX = re.compile(r"([0-9]+)_+(?=.)")


@dataclass(frozen=True)
class Catalog:
    """Every metric file there is, disabled ones included, in run order."""

    files: tuple[MetricFile, ...]
    without_file: frozenset[str] = frozenset()  # metrics that have rows and no file: they may have read anything

    def in_mode(self, mode: Mode) -> tuple[MetricFile, ...]:
        """Return the files that a run of this mode executes, in run order."""
        return tuple(file for file in self.files if not file.disabled and file.mode in (None, mode))

    def files_of(self, name: str) -> list[MetricFile]:
        """Return the files of a name, without the disabled ones."""
        return [file for file in self.files if file.name == name and not file.disabled]

    @cached_property
    def initial_files(self) -> dict[str, MetricFile]:
        """The initial file of each metric that also has an incremental one, by name; helpers are left out."""
        nightly = {f.name for f in self.in_mode(Mode.INCREMENTAL) if f.mode is Mode.INCREMENTAL and not f.is_helper}
        initial = (f for f in self.in_mode(Mode.INITIAL) if f.mode is Mode.INITIAL and not f.is_helper)
        return {f.name: f for f in initial if f.name in nightly}

    @cached_property
    def names(self) -> frozenset[str]:
        """The metrics that some file writes."""
        return frozenset(file.name for file in self.files if not file.disabled and not file.is_helper)

    @cached_property
    def reads(self) -> dict[str, frozenset[str]]:
        """What each metric reads, by name, itself included where it does: the union over its files."""
        found = dict.fromkeys(self.without_file, self.names | self.without_file)
        for file in self.files:
            if file.name in self.names and not file.disabled:
                found[file.name] = found.get(file.name, frozenset()) | self.reads_of(file)
        return found

    def fingerprints(self, name: str) -> frozenset[str]:
        """Return the fingerprints of a metric's files."""
        return frozenset(file.fingerprint for file in self.files_of(name))

    def reads_of(self, file: MetricFile) -> frozenset[str]:
        """Return the metrics that a file reads: those it compares with, and those of its `-- Reads:` line.

        SQL that selects from bi_metrics and compares with no known name, or with more than names, reads every metric.
        """
        known = self.without_file.union(file.name for file in self.files)
        declared, compared = file.script.header_list("reads") & known, file.compares_with & known
        if file.selects_metrics and (not compared or any(map(compares_otherwise, file.statements))):
            return self.names | self.without_file
        return declared | compared

    @cached_property
    def readers(self) -> dict[str, frozenset[str]]:
        """The other metrics that read each metric, directly or through others, by name."""
        readers = {}
        for name in self.reads:
            found, new = {name}, {name}
            while new:
                new = {reader for reader, read in self.reads.items() if not read.isdisjoint(new)} - found
                found |= new
            readers[name] = frozenset(found - {name})
        return readers


def load_catalog(folder: Path, parameters: Mapping[str, str] | None = None) -> Catalog:
    """Read every metric file straight in `folder`, in its initial/ and its incremental/.

    `parameters` are values that fingerprints cover. A file that is broken is in the catalog all the same;
    src.metric_file.checks tells what is wrong with it. Raises MetricFileError for one that cannot be read at all.
    """
    files = []
    for below, mode in ((folder, None), *((folder / mode.value, mode) for mode in Mode)):
        try:
            found = [path for path in below.iterdir() if path.suffix.lower() == ".sql"] if below.is_dir() else []
        except OSError as error:
            raise MetricFileError(f"{below.name}: cannot read this folder: {error.strerror}") from None
        for path in found:
            # A FIFO, a dangling link or an editor's lock file must not stop a night.
            if path.name != "schema.sql" and path.is_file():
                files.append(_read(path, f"{folder.name}/{path.relative_to(folder)}", mode, parameters or {}))
    # Prefixed files first, by number; then the others; by name within.
    files.sort(key=lambda file: (file.prefix is None, file.prefix or 0, file.name, file.path))
    return Catalog(tuple(files))


def select(catalog: Catalog, mode: Mode, patterns: Sequence[str]) -> tuple[MetricFile, ...]:
    """Return the files of a mode whose metric matches one of the shell patterns, in run order; without patterns, all.

    Helpers are always among them: a metric may read what they fill. Raises UsageError where a pattern matches nothing,
    or there is nothing at all.
    """
    files = catalog.in_mode(mode)
    if not files:
        raise UsageError("there are no metric files in the folder of METRICS_DIR (default: sql/); see docs/metrics.md")
    for pattern in patterns:
        names = [file.name for file in files if not file.is_helper]
        if not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, names, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            where = f"for {'--initial' if mode is Mode.INITIAL else 'single dates'}"
            raise UsageError(f"no metric {where} matches {pattern!r}{hint} (list_metrics.py shows all)")
    chosen = patterns or ["*"]
    return tuple(f for f in files if f.is_helper or any(fnmatchcase(f.name, pattern) for pattern in chosen))


def split_name(file_name: str) -> tuple[int | None, str]:
    """Split a file name: 03_users.sql is prefix 3 and metric "users", 7d_active.sql has no prefix."""
    stem = file_name[: -len(".sql")]
    match = _PREFIX.match(stem)
    return (int(match[1]), stem[match.end() :]) if match else (None, stem)


def _read(path: Path, shown: str, mode: Mode | None, parameters: Mapping[str, str]) -> MetricFile:
    disabled = path.name.startswith(("_", "."))
    prefix, name = split_name(path.name.lstrip("_.") if disabled else path.name)
    # macOS takes accents apart, and a literal of SQL has them whole. Bytes that are not UTF-8 could not be sent.
    name = normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
    # Bytes that are not UTF-8 become lone surrogates, which no valid file holds: the rule not-utf8 finds them there.
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise MetricFileError(f"{shown}: cannot read it: {error.strerror}") from None
    script = parse(text)
    return MetricFile(name, shown, mode, prefix, disabled, script, script.fingerprint(parameters))
