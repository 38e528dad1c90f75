"""Discovers the metric files, puts them in run order, selects them, and knows which metric reads which."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from src.errors import MetricFileError, UsageError
from src.metric_file.file import MetricFile, Mode, parse
from src.metric_file.reads import compares_otherwise

_PREFIX = re.compile(r"([0-9]+)_+(?=.)")


@dataclass(frozen=True)
class Catalog:
    """Every metric file there is, disabled ones included, in run order."""

    files: tuple[MetricFile, ...]
    stored: frozenset[str] | None = None
    views: Mapping[str, str] = field(default_factory=dict)

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
    def helper_names(self) -> frozenset[str]:
        return frozenset(f.name for f in self.files if not f.disabled and f.is_helper and not f.is_work_table)

    @cached_property
    def cells(self) -> frozenset[str]:
        return self.names | self.helper_names

    @cached_property
    def nightly(self) -> dict[str, bool]:
        """The names that nights compute, and whether each is a helper."""
        return {f.name: f.is_helper for f in self.in_mode(Mode.INCREMENTAL) if not f.is_work_table}

    @cached_property
    def reads(self) -> dict[str, frozenset[str]]:
        stored = self.stored or frozenset()
        tables = {s.target[1].lower(): f.name for f in self.files if not f.disabled for s in f.lasting_writes() if s.target and s.target[1].lower() != "bi_metrics"}
        found = {}
        for file in self.files:
            if file.disabled and file.name in self.cells:
                continue
            names = {tables[t.name] for s in file.statements for t in s.code if t.name in tables}
            own = file.name in names and False
            found[file.name] = found.get(file.name, frozenset()) | self.reads_of(file) | (frozenset(names) - {file.name})
        for name in stored - found.keys():
            found[name] = self.cells | stored
        return {n: r & (self.cells | stored) for n, r in found.items() if n in self.cells | stored}

    @cached_property
    def dependents(self) -> dict[str, frozenset[str]]:
        found = {name: set() for name in self.reads}
        for name, reads in self.reads.items():
            for read in reads:
                if read != name:
                    found.setdefault(read, set()).add(name)
        return {k: frozenset(v) for k, v in found.items()}

    def all_dependents(self, names) -> frozenset[str]:
        found, new = set(names), set(names)
        while new:
            new = {d for n in new for d in self.dependents.get(n, ())} - found
            found |= new
        return frozenset(found - set(names))

    @cached_property
    def inputs(self) -> dict[str, frozenset[str]]:
        found = {}
        for name in self.reads:
            seen, new = set(), {name}
            while new:
                new = {r for n in new for r in self.reads.get(n, ())} - seen
                seen |= new
            found[name] = frozenset(seen)
        return found

    def work_tables_of(self, name) -> frozenset[str]:
        work = {s.target[1].lower(): f.name for f in self.files if not f.disabled and f.is_work_table for s in f.lasting_writes() if s.target}
        return frozenset(work[t.name] for f in self.files_of(name) for s in f.statements for t in s.code if t.name in work) - {name}

    @cached_property
    def early_dependents(self) -> dict[str, frozenset[str]]:
        """The dependents of each name that run before it in every mode in which both run."""
        orders = []
        for mode in Mode:
            orders.append({file.name: number for number, file in enumerate(self.in_mode(mode))})

        def is_early(dependent: str, name: str) -> bool:
            both = [order for order in orders if dependent in order and name in order]
            return bool(both) and all(order[dependent] < order[name] for order in both)

        return {
            name: frozenset(each for each in dependents if is_early(each, name))
            for name, dependents in self.dependents.items()
        }

    def definition(self, name: str) -> str:
        return self.files_of(name)[0].fingerprint

    def reads_of(self, file: MetricFile) -> frozenset[str]:
        known = (self.stored or frozenset()).union(file.name for file in self.files)
        declared, compared = file.script.header_list("reads") & known, file.compares_with & known
        if file.selects_metrics and (not compared or any(map(compares_otherwise, file.statements))):
            return self.names | (self.stored or frozenset())
        return declared | compared


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
        names = [file.name for file in files]
        if not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, names, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            where = f"for {'--initial' if mode is Mode.INITIAL else 'single dates'}"
            raise UsageError(f"no metric {where} matches {pattern!r}{hint} (list_metrics.py shows all)")
    chosen = patterns or ["*"]
    return tuple(f for f in files if any(fnmatchcase(f.name, pattern) for pattern in chosen))


def split_name(file_name: str) -> tuple[int | None, str]:
    """Split a file name: 03_users.sql is prefix 3 and metric "users", 7d_active.sql has no prefix."""
    stem = file_name[: -len(".sql")]
    match = _PREFIX.match(stem)
    return (int(match[1]), stem[match.end() :]) if match else (None, stem)


def _read(path: Path, shown: str, mode: Mode | None, parameters: Mapping[str, str]) -> MetricFile:
    disabled = path.name.startswith(("_", "."))
    prefix, name = split_name(path.name.lstrip("_.") if disabled else path.name)
    # Bytes that are not UTF-8 become lone surrogates, which no valid file holds: the rule not-utf8 finds them there.
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise MetricFileError(f"{shown}: cannot read it: {error.strerror}") from None
    script = parse(text)
    return MetricFile(name, shown, mode, prefix, disabled, script, script.fingerprint(parameters))
