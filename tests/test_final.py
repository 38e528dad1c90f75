"""A final row is never built on what has changed since, and whatever happened, nights mend it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from demo.server import Server
from src.running.plan import RunArguments
from tests.conftest import ROOT, Database, connect, run_script
from tests.histories import (
    START,
    History,
    Metric,
    Shape,
    Untrue,
    World,
    cumulative,
    cumulative_of,
    derived,
    early,
    histories,
    snapshot,
    window,
)

pytestmark = pytest.mark.slow

NAME = "histories"


def march(day: int) -> date:
    return date(2025, 3, day)


@pytest.fixture(scope="module")
def one_world(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world for all tests of this module; each begins it anew."""
    connection = connect(server)
    run_script(connection, f"CREATE DATABASE {NAME} CHARACTER SET utf8mb4; USE {NAME};")
    run_script(connection, (ROOT / "sql" / "schema.sql").read_text())
    yield World(Database(server, NAME, connection), tmp_path_factory.mktemp("world"))
    run_script(connection, f"DROP DATABASE {NAME}")
    connection.close()


@pytest.fixture
def world(one_world: World) -> World:
    return one_world


def test_after_any_history_final_rows_are_fresh_and_the_rest_is_mended(one_world: World) -> None:
    @seed(9)
    @settings(
        max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink], report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    @given(histories(least=4, most=18))
    def each(history: History) -> None:
        one_world.live(history)

    each()


# --- histories that search has found: each refutes a simpler rule -----------------------------------------------------


def test_a_half_day_that_is_run_late_makes_the_sums_over_it_due(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0", 2)])
    world.night()  # the 10th, and the 11th as far as it has come
    world.fail("m0", march(11))
    world.night(2)  # so the half day stays
    assert world.due() == [("m0", march(11)), ("m1", march(11))]
    world.repair()
    world.dates(march(11))
    assert world.due() == [("m0", march(12)), ("m1", march(12))]  # the sum ran before its middle day was whole
    world.mend()


def test_a_night_after_a_missed_one_leaves_nothing_due(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0", 2), cumulative("m2")])
    world.night()
    world.night(2)
    assert world.due() == []
    assert world.numbers("m0") == [1, 2, 4]
    assert world.numbers("m1") == [1, 3, 7]
    assert world.numbers("m2") == [1, 3, 7]


def test_a_missing_date_that_is_filled_makes_the_next_cumulative_row_due(world: World) -> None:
    world.begin([cumulative("m0")])
    world.night()
    world.fail("m0", march(12))
    world.night(3)  # the 13th comes from the initial file, for the 12th is missing
    world.event(march(12))
    world.repair()
    assert world.due() == [("m0", march(12))]
    world.dates(march(12))
    assert world.due() == [("m0", march(13))]
    world.run(RunArguments())
    assert world.due() == []
    assert world.numbers("m0") == [1, 3, 4 + 3 + 16, 8 + 4 + 3 + 16]
    world.mend()


def test_a_missing_date_that_is_filled_makes_the_sums_over_it_due(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0", 2)])
    world.night()
    world.fail("m0", march(12))
    world.night(3)
    world.event(march(12))
    world.repair()
    world.dates(march(12))
    assert ("m1", march(13)) in world.due()
    world.mend()


def test_a_missing_date_that_is_filled_makes_the_window_over_it_due(world: World) -> None:
    world.begin([window("m0", 1)])
    world.night()
    world.event(march(9))
    world.dates(march(9))
    assert world.due() == [("m0", march(10))]


def test_late_data_make_the_window_of_the_next_date_due(world: World) -> None:
    world.begin([window("m0", 1)])
    world.night()
    world.night()
    world.event(march(10))
    world.dates(march(10))
    assert world.due() == [("m0", march(11))]
    world.mend()


def test_a_row_that_is_filled_later_makes_the_row_built_without_it_due(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0", 0)])
    world.night(1, "m1")
    assert world.due() == []
    world.dates(march(10), None, "m0")
    assert world.due() == [("m1", march(10))]
    world.mend()


def test_what_reads_only_through_others_is_due_too(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0", 0, 3), derived("m2", "m1", 2), derived("m3", "m2", 0)])
    world.night()
    world.night()
    world.event(march(10))
    world.dates(march(10), None, "m0")
    assert world.due() == [
        ("m0", march(11)), *(("m" + name, march(day)) for name in "123" for day in (10, 11))
    ]  # fmt: skip
    world.mend()


def test_two_nights_missed_in_a_row_are_filled_by_the_next(world: World) -> None:
    world.begin([snapshot("m0"), cumulative("m1"), derived("m2", "m1", 2)])
    world.night()
    world.night(3)
    assert world.due() == []
    assert world.numbers("m0") == [1, 2, 4, 8]
    assert world.numbers("m1") == [1, 3, 7, 15]
    world.mend()


def test_a_metric_added_while_an_old_date_is_due_is_not_backfilled(world: World) -> None:
    world.begin([snapshot("m0")])
    world.night()
    world.fail("m0", march(11))
    world.night(2)
    world.add(derived("m1", "m0", 0))
    world.repair()
    world.night()
    assert world.due() == []
    assert [day for name, day in world.table() if name == "m1"] == [march(13), march(14)]
    world.mend()


@pytest.mark.parametrize("metric", [cumulative("m1"), window("m1", 2), derived("m1", "m0", 2)], ids=str)
def test_a_metric_that_was_away_when_a_date_was_run_is_mended_when_it_is_back(world: World, metric: Metric) -> None:
    world.begin([snapshot("m0"), metric])
    world.night()
    world.night()
    world.remove("m1")
    world.event(march(10))
    world.dates(march(10))
    world.put_back("m1")
    assert [place for place in world.due() if place[0] == "m1"] == [("m1", march(10)), ("m1", march(11))]
    world.night()
    assert world.due() == []
    world.mend()


def test_what_runs_before_what_it_reads_is_right_at_night(world: World) -> None:
    world.begin([early("m0", "m1", 2), snapshot("m1")])
    world.night()
    world.night(2)
    assert world.due() == []
    assert world.numbers("m0") == [0, 1, 3]
    world.event(march(10))
    world.dates(march(10))
    world.mend()


@pytest.mark.parametrize("shape", [Shape(), Shape(is_set_based=True)], ids=str)
def test_what_runs_before_what_it_reads_is_due_after_an_initial_load(world: World, shape: Shape) -> None:
    world.begin([replace(early("m0", "m1", 1), shape=shape), snapshot("m1")])
    world.pass_days(4)
    world.initial(march(10), march(13))
    assert world.due() == [("m0", march(11)), ("m0", march(12)), ("m0", march(13))]
    world.night()
    assert world.due() == []
    assert world.numbers("m0") == [0, 1, 2, 4, 8]
    world.mend()


def test_what_runs_before_what_it_reads_is_due_after_a_second_initial_load(world: World) -> None:
    world.begin([early("m0", "m1", 1), snapshot("m1")])
    world.pass_days(3)
    world.initial(march(10), march(12))
    world.run(RunArguments())
    world.initial(march(10), march(12))  # m1 stays the same, but m0 has seen its rows while they were blank
    assert world.due() == [("m0", march(11)), ("m0", march(12))]
    world.mend()


def test_a_removed_metric_whose_last_row_is_a_half_day_keeps_no_night_busy(world: World) -> None:
    world.begin([snapshot("m0"), cumulative_of("m1", "m0")])
    world.night()
    world.remove("m1")
    world.night()
    runs = world.commits
    world.night()
    assert world.commits == runs + 2  # yesterday and today
    world.put_back("m1")
    world.night()
    assert world.due() == []
    world.mend()


# --- the test itself ----------------------------------------------------------------------------------------------


def test_the_promises_are_really_looked_at(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0", 0)])
    world.night()
    world.database.execute("UPDATE bi_metrics SET value_list = '{\"n\": 7}' WHERE metrics = 'm0'")
    with pytest.raises(Untrue, match="m0 of 2025-03-10 is 7, and from what it read follows 1"):
        world.require_fresh()
    world.begin([snapshot("m0"), derived("m1", "m0", 0)])
    world.night()
    seen = world.journal["m1", START]
    world.journal["m1", START] = replace(seen, rows={("m0", START): 1, ("m0", START - timedelta(days=1)): 0})
    with pytest.raises(Untrue, match="it has read m0 of 2025-03-09 as 0, which is absent now"):
        world.require_fresh()
