"""Tests of metrics: given rows, the expected row, in a scratch database that is gone afterwards."""

from __future__ import annotations

import pytest

from demo import game
from tests.conftest import Project


@pytest.fixture
def shop(project: Project) -> Project:
    """A project with the metrics and tests that ship, on the empty tables of the game."""
    project.write_shipped()
    project.env = {"METRIC_PARAM_CUTOFF_DATE": "2024-01-01"}
    game._create_tables(project.database.connection)
    return project


def test_first(shop: Project) -> None:
    done = shop.list("--test")
    print(done.stdout, done.stderr)
    assert done.returncode == 0
