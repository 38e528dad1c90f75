"""Which files a command means, and whether they may run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from config.database import Settings
from src.errors import MetricFileError, UsageError
from src.sql_checks import Problem, check_catalog
from src.sql_loader import Catalog, Metric

log = logging.getLogger("bi_metrics.sql")  # to the log file only: the listing shows warnings too


def select(catalog: Catalog, mode: str, patterns: Sequence[str]) -> tuple[Metric, ...]:
    """Return the files of a mode whose metric matches one of the shell patterns, in run order; without patterns, all.

    Raises UsageError where a pattern matches nothing, or there is nothing at all.
    """
    files = catalog.in_mode(mode)
    if not files:
        raise UsageError(f"no metric files: put one into sql/ or sql/{mode}/ (README, Adding a metric)")
    for pattern in patterns:
        if not any(fnmatchcase(file.name, pattern) for file in files):
            import difflib

            near = difflib.get_close_matches(pattern, [file.name for file in files], n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"no metric of the {mode} mode matches {pattern!r}{hint} (list_metrics.py shows all)")
    if not patterns:
        return files
    return tuple(file for file in files if any(fnmatchcase(file.name, pattern) for pattern in patterns))


def check_files(catalog: Catalog, files: Iterable[Metric], settings: Settings) -> list[Problem]:
    """Return the warnings on these files, and note them in the log. Raises MetricFileError with all errors at once."""
    problems = check_catalog(catalog, list(files), settings.parameters.keys())
    errors = [str(problem) for problem in problems if problem.severity == "error"]
    if errors:
        raise MetricFileError(errors)
    for problem in problems:
        log.warning("%s", problem)
    return problems
