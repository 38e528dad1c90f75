"""The figures of the cluster's tests, printed when they end."""

from __future__ import annotations

from typing import Any

figures: list[str] = []  # first what was tested, then a line for each fault


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in figures:
        terminalreporter.write_line(f"cluster: {line}")
