"""A current row is as it would be computed now, a final row stands on nothing that is due, and nights mend the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date

import pytest

import run_metrics
from demo.server import Server
from tests.conftest import new_database
from tests.histories import Untrue, World
from tests.random_histories import (
    ALL,
    LIMIT,
    START,
    Cell,
    Formula,
    Lost,
    Metric,
    copied,
    cumulative,
    of,
    random_history,
    snapshot,
)

pytestmark = pytest.mark.slow

NAME = "histories"


def march(day: int) -> date:
    return date(2025, 3, day)


def cells(name: str, *days: int) -> list[Cell]:
    return [(name, march(day)) for day in days]


def window(name: str, back: int) -> Metric:
    return Metric(name, Formula(source=back))


def derived(name: str, *others: str, first: int = 0, modulus: int = LIMIT) -> Metric:
    """A metric made of others' rows of the period and of `first` days before it; "*": of every other metric."""
    return Metric(name, Formula(reads=others, first=first, modulus=modulus))


def early(name: str, *others: str, first: int = 3) -> Metric:
    """A metric that runs before the others and is made of their rows of earlier dates."""
    return Metric(name, Formula(reads=others, first=first, last=1))


@pytest.fixture(scope="module")
def one_world(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world for all tests of this module; each begins it anew, on the 10th of March."""
    with new_database(server, NAME) as database:
        yield World(database, tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(one_world: World) -> World:
    return one_world


@pytest.mark.parametrize("numbers", [range(start, start + 6) for start in range(0, 36, 6)], ids=str)
def test_random_histories_keep_every_promise(world: World, numbers: range) -> None:
    for number in numbers:
        assert not (story := world.counterexample(random_history(number))), story


# --- each weaker rule, and the shortest history that breaks it --------------------------------------------------------


def test_rows_above_a_cell_that_fails_for_good_wait_and_are_not_computed_every_night(world: World) -> None:
    world.begin([cumulative("m0")], lookback=0)
    world.night()
    world.fail("m0", back=0)
    for _ in range(4):
        world.night()
    assert world.ran == [(march(14), ["m0"]), (march(15), ["m0"])]
    assert world.transactions == 3  # and one try of the 11th
    assert [world.state("m0", back) for back in (4, 3, 2, 1)] == ["open", "waiting", "waiting", "waiting"]


def test_a_row_over_a_hole_is_not_final(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0", first=1)], lookback=0)
    world.dates(4)
    world.night(1, ["m1"])
    assert world.due()[:2] == [*cells("m0", 7), *cells("m0", 8)]
    assert world.state("m1", 1) == "waiting"


def test_a_row_over_a_cell_that_failed_is_not_final(world: World) -> None:
    world.begin([cumulative("m0")], lookback=0)
    world.night()
    world.fail("m0", back=0)
    world.night()
    world.night()
    assert world.state("m0", 1) == "waiting"
    world.repair()
    world.night()
    assert world.state("m0", 2) == "final"


def test_a_final_row_waits_again_when_something_below_what_it_read_is_reopened(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0", modulus=3), derived("m2", "m1")])
    for _ in range(3):
        world.night()
    assert world.state("m2", 2) == "final"
    world.late(2)
    world.dates(2, 1, ["m0"])
    assert (world.state("m1", 2), world.state("m2", 2)) == ("reopened", "waiting")
    world.mend()


@pytest.mark.parametrize("metric", [cumulative("m0"), window("m0", 3), cumulative("h0")], ids=str)
def test_a_change_reopens_the_later_rows_of_the_metric(world: World, metric: Metric) -> None:
    world.begin([metric])
    world.night()
    world.night()
    world.late(2)
    world.dates(2)
    assert world.due() == cells(metric.name, 11)
    world.mend()


def test_a_filled_hole_reopens_all_later_rows(world: World) -> None:
    world.begin([cumulative("m0")], mend_days=5)
    world.dates(8)
    world.night()
    world.late(7)
    world.dates(7)  # the row of the next date is missing, and too old for a night to fill
    assert world.due() == cells("m0", 6, 7, 8, 9, 10)
    world.mend()


def test_a_change_reopens_the_dependents_row_of_the_same_date(world: World) -> None:
    world.begin([early("m0", "m1", first=1), snapshot("m1"), derived("m2", "m0")], lookback=0)
    world.late(4)
    world.late(3)
    world.initial(3, 2)
    assert world.due()[0] == ("m0", march(7))  # it ran before the row of the 6th was there
    world.night(0)
    assert [names for day, names in world.ran if day == march(7)] == [["m0"], ["m2"]]
    assert world.numbers("m2")[:2] == [0, 1]


def test_a_row_that_was_not_final_reopens_what_was_computed_from_it(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0", first=3)], lookback=0)
    world.night()  # the 11th as far as it has come
    world.night(3)  # the 13th is computed first
    assert world.due() == []
    assert world.numbers("m1") == [1, 3, 7, 15]


def test_an_initial_load_reopens_what_ran_before_what_it_reads_though_nothing_changed(world: World) -> None:
    world.begin([early("m0", "m1", first=1), replace(snapshot("m1"), form="insert")])
    world.late(4)
    world.late(3)
    world.initial(3, 2)
    world.night(0)
    assert world.due() == []
    world.initial(3, 2)  # m1 stays the same, but m0 has seen its rows while they were blank
    assert world.due()[0] == ("m0", march(7))
    world.mend()


@pytest.mark.parametrize("how", ["disabled", "deleted"])
@pytest.mark.parametrize("dependent", [derived("m1", "m0"), window("m1", 2), derived("h1", "m0")], ids=str)
def test_what_changes_while_a_file_is_away_is_due_when_it_is_back(world: World, dependent: Metric, how: str) -> None:
    world.begin([snapshot("m0"), dependent])
    world.night()
    world.night()
    world.switch(dependent.name, how)
    world.late(2)
    world.dates(2)
    world.switch(dependent.name, "there")
    assert (dependent.name, march(10)) in world.due() or dependent.formula.source
    world.mend()


def test_a_hole_behind_a_helpers_new_first_date_keeps_what_reads_it_waiting(world: World) -> None:
    formula = Formula(source=1, reads=("h4",), first=2, last=1)
    world.begin([snapshot("m1"), Metric("m3", formula, initial=formula), snapshot("h4")])
    world.switch("h4", "disabled")
    world.dates(4)
    world.fail("m1", 2, for_good=True)
    world.night(2, (), Lost(skip=2, after=True, is_retried=True))
    world.initial(4, 3)
    world.mend()  # a night computes the 9th first, whose 8th the helper lacks, then the 7th, its new first date


def test_a_due_date_computes_nothing_that_is_current(world: World) -> None:
    world.begin([window("m0", 2), snapshot("m1")], lookback=0)
    for back in (6, 5, 4, 3, 2, 1):
        world.late(back)
    world.initial(1, 6)
    world.purge(1)
    before = world.numbers("m1")
    world.dates(4, 1, ["m0"])
    assert world.due() == cells("m0", 7, 8, 9)
    world.night(0)
    assert world.due() == []
    assert world.numbers("m1") == before == [1, 2, 4, 8, 16, 32]


def test_a_due_date_leaves_out_the_dependents_of_what_came_out_the_same(world: World) -> None:
    world.begin([early("m0", "m1", first=1), replace(snapshot("m1"), form="insert"), derived("m2", "m0")], lookback=0)
    world.initial(3, 2)
    world.night(0)
    world.initial(3, 2)
    assert (world.state("m0", 3), world.state("m2", 3)) == ("reopened", "waiting")
    world.night(0)
    assert [names for day, names in world.ran if day == march(7)] == [["m0"]]
    assert world.state("m2", 3) == "final"


def test_dates_that_failed_come_after_those_that_did_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_metrics, "DUE_DATES_PER_NIGHT", 2)
    world.begin([snapshot("m0")], lookback=0)
    world.dates(9)
    world.fail("m0", 8)
    world.fail("m0", 7)
    world.night(0)
    assert [day for day, _ in world.ran] == [march(9), march(10)]
    world.night(0)
    assert [day for day, _ in world.ran] == [march(9), march(10), march(4), march(5)]


def test_of_dates_that_failed_each_gets_its_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_metrics, "DUE_DATES_PER_NIGHT", 2)
    world.begin([snapshot("m0")], lookback=0)
    world.dates(9)
    world.dates(1, 5)
    for back in (8, 7, 6):
        world.fail("m0", back)
    for _ in range(3):
        world.night(0)
    world.repair()
    world.fail("m0", 8)
    world.fail("m0", 7)  # which are older
    world.night(0)
    assert world.state("m0", 6) == "final"


def test_rows_that_filled_holes_reopen_are_computed_when_the_holes_are_filled(world: World) -> None:
    world.begin([snapshot("h1"), derived("m2", "h1", first=1)], lookback=0)
    world.dates(15)
    world.fail("h1", 14, for_good=True)
    world.night(1)
    world.night(8)  # seven missed nights: their dates have not failed, and so come first
    world.repair()
    world.night(0)
    assert world.due() == []


def test_a_date_that_failed_tonight_is_not_taken_again_tonight(world: World) -> None:
    world.begin([snapshot("m0"), cumulative("m1")], lookback=0)
    world.dates(6)
    world.fail("m1", 5)
    world.night(0)
    world.repair()
    world.fail("m0", 3)
    world.late(4)
    world.dates(4)  # reopens the 7th, on which m0 fails
    world.night(0)  # the 5th comes last, and reopens the 7th once more
    days = [day.day for day, _ in world.ran]
    assert (days.index(7) < days.index(5), days.count(7), days.count(8)) == (True, 1, 2)
    assert world.state("m1", 3) == "reopened"


def test_what_failed_yesterday_is_not_tried_again_tonight(world: World) -> None:
    world.begin([snapshot("m0"), snapshot("m1")], lookback=0, on_failure="metric")
    world.dates(1)
    world.fail("m0", 0)
    world.night()
    assert world.transactions == 3  # the 10th, again without m0, and the 11th


@pytest.mark.parametrize(("lookback", "nights"), [(0, 3), (2, 2)], ids=["due", "lookback"])
def test_a_date_that_is_repaired_goes_without_what_fails(world: World, lookback: int, nights: int) -> None:
    world.begin([snapshot("m0"), snapshot("m1"), derived("m2", "m0")], lookback=lookback)
    world.night()
    world.fail("m0", 0)
    world.night(nights)
    assert world.due() == [*cells("m0", 11), *cells("m2", 11)]
    assert world.state("m1", nights) == "final"


def test_yesterday_is_computed_once_however_much_is_due(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_metrics, "DUE_DATES_PER_NIGHT", 2)
    world.begin([cumulative("m0")], lookback=0)
    world.dates(9)
    world.night(0)
    assert [day for day, _ in world.ran] == [march(9), march(10), march(2), march(3)]


def test_a_new_definition_does_not_build_on_a_row_of_the_old_one(world: World) -> None:
    world.begin([cumulative("m0")], lookback=0)
    world.night()
    world.redefine("m0", 2)
    world.night()
    assert world.numbers("m0") == [1, 2 * (1 + 2)]
    old, new, newest = world.database.rows("SELECT definition FROM bi_metric_state ORDER BY metric_date")
    assert old != new == newest


def test_what_reads_itself_does_not_build_on_a_row_that_is_not_current(world: World) -> None:
    world.begin([cumulative("m0")], mend_days=3)
    world.dates(1, 6)
    world.late(6)
    world.dates(6)
    world.night(0)
    assert world.state("m0", 4) == "reopened"  # and too old for a night to mend
    assert world.numbers("m0") == [1, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("name", ["m0", "h0"])
def test_the_first_row_of_what_reads_itself_comes_from_the_initial_file(world: World, name: str) -> None:
    world.begin([cumulative(name)])
    world.late(3)
    world.night()
    assert world.numbers(name) == [1 + 2]


def test_an_initial_file_must_not_stand_before_what_it_reads_at_its_incremental_place(world: World) -> None:
    total = Metric("m0", Formula(source=0, own=True), Formula(reads=("m1",), first=ALL))
    world.begin([total, snapshot("m1")])
    initial = world.root / "sql" / "initial"
    (initial / "01_m0.sql").rename(initial / "09_m0.sql")  # in an initial load it would run late enough
    with pytest.raises(Untrue, match="error: reads-later-metric"):
        world.night()


# --- the night --------------------------------------------------------------------------------------------------------


def test_a_night_runs_yesterday_and_today_then_looks_back_then_mends(world: World) -> None:
    world.begin([snapshot("m0")], lookback=2)
    world.night()
    world.night(5)
    assert [day.day for day, _ in world.ran[:6]] == [15, 16, 13, 14, 11, 12]


def test_what_is_older_than_a_night_mends_stays_and_keeps_nobody_waiting(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0", first=9)], lookback=0, mend_days=5)
    world.dates(9)
    world.night(0)
    assert min(day for day, _ in world.ran) == march(5)
    assert world.state("m0", 6) == "missing"
    assert world.state("m1", 1) == "final"


def test_what_has_become_too_old_to_be_mended_waits_no_more(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0"), derived("m2", "m1")], lookback=0, mend_days=3)
    world.night()
    world.late(1)
    world.dates(1, 1, ["m0"])
    assert (world.state("m1", 1), world.state("m2", 1)) == ("reopened", "waiting")
    world.night(6)
    assert (world.state("m1", 7), world.state("m2", 7)) == ("reopened", "final")


def test_what_failed_before_it_had_a_row_is_not_due(world: World) -> None:
    world.begin([snapshot("m0"), snapshot("m1")], lookback=0, on_failure="metric")
    world.fail("m1", 1, for_good=True)
    world.night(0)
    world.night()
    assert world.transactions == 4  # yesterday and today, each again without m1


def test_a_row_whose_state_is_lost_counts_as_reopened(world: World) -> None:
    world.begin([snapshot("m0")])
    world.dates(1, 4)
    of_the_7th = "FROM bi_metric_state WHERE metric_date = '2025-03-07'"
    world.database.execute(f"DELETE {of_the_7th}")
    world.dates(1)
    assert world.database.rows(f"SELECT state {of_the_7th}") == [("reopened",)]


@pytest.mark.parametrize(("on_failure", "ran"), [("date", []), ("metric", [(march(10), ["m1"])])])
def test_a_failure_takes_the_date_or_the_metric_and_its_dependents(
    world: World, on_failure: str, ran: list[tuple[date, list[str]]]
) -> None:
    metrics = [snapshot("m0"), snapshot("m1"), derived("m2", "m0"), derived("m3", "m2")]
    world.begin(metrics, lookback=0, on_failure=on_failure)
    world.fail("m0", back=0)
    world.night()
    assert world.ran == [*ran, (march(11), ["m0", "m1", "m2", "m3"])]


def test_a_helper_runs_for_a_metric_only_if_it_is_not_current(world: World) -> None:
    world.begin([snapshot("h0"), snapshot("w1"), derived("m2", "h0"), copied("m3", snapshot("w1"))])
    world.dates(2, 1, ["m2", "m3"])
    assert world.ran == [(march(8), ["h0", "m2", "m3"])]
    world.dates(2, 1, ["m2"])
    assert world.ran == [(march(8), ["m2"])]


def test_a_work_table_is_filled_for_each_date_of_a_load(world: World) -> None:
    world.begin([snapshot("w0"), copied("m1", snapshot("w0"))])
    world.late(3)
    world.late(2)
    world.initial(2, 2)
    assert world.numbers("m1") == [1, 2]


def test_a_helper_that_ran_on_some_dates_of_a_load_is_reopened_on_the_others(world: World) -> None:
    world.begin([snapshot("m0"), derived("h1", "m0"), derived("m2", "h1")])
    world.dates(3)
    world.late(3)
    world.initial(2, 2, ["m0", "m2"])
    assert world.state("h1", 3) == "reopened"


def test_a_helper_that_does_not_read_itself_keeps_its_later_cells(world: World) -> None:
    world.begin([snapshot("h0"), derived("m1", "h0")])
    world.dates(3, 2)
    world.dates(4, 1, ["h0"])
    assert (world.state("h0", 3), world.state("m1", 3)) == ("final", "reopened")


@pytest.mark.parametrize(("form", "state"), [("upsert", "final"), ("delete", "reopened")])
def test_an_upsert_that_changes_nothing_reopens_nothing(world: World, form: str, state: str) -> None:
    world.begin([replace(snapshot("h0"), form=form), derived("m1", "h0")])
    world.dates(3, 2)
    world.dates(3, 1, ["h0"])
    assert world.state("m1", 3) == state


# --- periods ----------------------------------------------------------------------------------------------------------


def test_what_runs_before_the_days_it_reads_saw_those_of_its_first_period_blank(world: World) -> None:
    world.begin([of("week", early("m0", "m1")), replace(snapshot("m1"), form="insert")], start=march(12))
    world.initial(1, 7)
    world.night(0)
    assert world.due() == []
    world.initial(1, 7)  # m1 stays the same, but m0 has seen its rows while they were blank
    assert world.due() == cells("m0", 9)
    world.mend()


def test_a_date_by_hand_or_one_that_has_changed_reopens_the_weeks_that_hold_it(world: World) -> None:
    world.begin([snapshot("m0"), of("week", snapshot("m1"))], start=march(11))
    world.dates(1, 9)
    world.dates(3)  # Saturday
    assert world.due() == cells("m1", 9)
    world.night(0)
    world.night(0)
    assert [day for day, names in world.ran if "m1" in names] == [march(16), march(9)]  # and not twice
    world.begin([snapshot("m0"), of("week from wednesday", snapshot("m1"))], lookback=2, start=march(12))
    world.dates(1, 7)
    world.late(3)
    world.night(0)  # finds another value of the 9th, and computes the week to the 11th once more
    assert [day for day, names in world.ran if "m1" in names] == [march(11), march(18), march(11)]
    world.night(0)
    assert [day for day, names in world.ran if "m1" in names] == [march(11), march(18)]


def test_a_date_by_hand_reopens_every_window_that_holds_it_though_its_own_row_stays_the_same(world: World) -> None:
    world.begin([of("4 days", snapshot("m0"))])
    world.dates(1, 9)
    world.dates(6)
    assert world.due() == cells("m0", 5, 6, 7)


def test_a_week_without_a_running_row_has_none_on_its_last_day(world: World) -> None:
    world.begin([replace(of("week", snapshot("m0")), has_running_row=False), snapshot("m1")], start=march(9))
    world.night(0)
    assert world.ran == [(march(8), ["m1"]), (march(9), ["m1"])]
    world.dates(0, 8)
    world.initial(0, 8)
    assert [day for name, day in world.contents if name == "m0"] == [march(2)]
    world.night()
    assert world.state("m0", 1) == "final"


def test_a_helper_without_a_running_row_does_not_run_for_the_running_row_of_a_metric(world: World) -> None:
    helper = replace(of("week", snapshot("h0")), has_running_row=False)
    world.begin([helper, of("week", derived("m1", "h0"))], start=march(12))
    world.night(0)
    assert world.ran == [(march(16), ["m1"])]


def test_a_row_that_matures_is_computed_once_more_and_not_every_night(world: World) -> None:
    world.begin([replace(snapshot("m0"), final_after=2), derived("m1", "m0")], lookback=0)
    for _ in range(5):
        world.night()
    assert [(day.day, names) for day, names in world.ran] == [(14, ["m0", "m1"]), (15, ["m0", "m1"]), (12, ["m0"])]
    assert [world.state("m0", back) for back in (1, 2, 3)] == ["open", "open", "final"]
    world.late(3)
    world.dates(3)
    assert (world.numbers("m0")[2], world.state("m1", 3)) == (4 + 32, "final")


def test_a_row_where_no_period_ends_any_more_keeps_nobody_waiting(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0")], start=march(12))
    world.night()
    world.put(of("week", snapshot("m0")))
    world.night()
    assert world.database.rows("SELECT state FROM bi_metric_state WHERE metric = 'm0' AND metric_date = '2025-03-13'")
    assert world.state("m0", 1) == "open"
    assert world.state("m1", 1) == "final"
    assert world.due() == []


def test_the_ends_of_another_period_are_missing_beside_as_many_rows_of_the_one_before(world: World) -> None:
    world.begin([of("week", snapshot("m0"))], start=march(13))
    world.dates(1, 14)
    world.put(of("week from thursday", snapshot("m0")))
    world.night(0)
    assert [world.state("m0", back) for back in (1, 8, 15)] == ["final", "final", "missing"]


# --- histories that search has found ----------------------------------------------------------------------------------


def test_a_night_in_which_yesterday_and_today_fail_still_mends(world: World) -> None:
    world.begin([snapshot("m0")], lookback=0)
    world.dates(5)
    world.fail("m0", 1, for_good=True)
    world.night(0)
    assert world.due() == cells("m0", 9)


def test_a_night_in_which_all_fails_lets_rows_over_a_new_hole_wait(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0")])
    world.dates(4)
    world.switch("m0", "deleted")
    world.dates(1, 3)
    world.switch("m0", "there")
    world.fail("m0", 3, for_good=True)
    assert world.state("m1", 3) == "final"
    world.night(0)
    assert world.ran == []
    assert world.state("m1", 3) == "waiting"


def test_a_date_before_the_first_row_lets_rows_over_the_gap_wait(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0"), derived("m2", "m1")])
    world.dates(3, 3, ["m1", "m2"])
    world.dates(2, 1, ["m0"])
    world.switch("m1", "disabled")
    world.dates(7, 1, ["m0"])
    assert world.due()[:4] == cells("m0", 4, 5, 6, 7)
    assert world.state("m2", 5) == "waiting"


def test_a_half_day_that_is_run_late_makes_the_sums_over_it_due(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0", first=2)])
    world.night()  # the 10th, and the 11th as far as it has come
    world.fail("m0", 0)
    world.night(2)  # so the half day stays
    assert world.due() == [*cells("m0", 11), *cells("m1", 11)]
    assert world.state("m1", 1) == "waiting"
    world.repair()
    world.dates(2)
    assert world.due() == [*cells("m0", 12), *cells("m1", 12)]
    world.mend()


def test_a_night_after_missed_ones_leaves_nothing_due(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0", first=2), cumulative("m2"), derived("h3", "m2", first=2)])
    world.night()
    world.night(3)
    assert world.due() == []
    assert world.numbers("m0") == [1, 2, 4, 8]
    assert world.numbers("m1") == [1, 3, 7, 14]
    assert world.numbers("m2") == [1, 3, 7, 15]
    assert world.numbers("h3") == [1, 4, 11, 25]


def test_a_missing_date_that_is_filled_reopens_what_was_built_without_it(world: World) -> None:
    world.begin([cumulative("m0"), derived("m1", "m0", first=2)], lookback=0)
    world.night()
    world.fail("m0", 1)
    world.fail("m0", 0)
    world.night(2)  # the 12th comes from the initial file, for the 11th is missing
    world.late(2)
    world.repair()
    world.dates(2)
    assert world.due() == [*cells("m0", 12), *cells("m1", 12)]
    world.mend()


def test_what_runs_before_what_it_reads_is_right_at_night(world: World) -> None:
    world.begin([early("m0", "m1", first=2), snapshot("m1")])
    world.night()
    world.night(2)
    assert world.due() == []
    assert world.numbers("m0") == [0, 1, 3]
    world.late(2)
    world.dates(3)
    world.mend()


def test_a_metric_added_while_an_old_date_is_due_is_not_backfilled(world: World) -> None:
    world.begin([snapshot("m0"), derived("m1", "m0")])
    world.switch("m1", "disabled")
    world.night()
    world.fail("m0", 0)
    world.night(2)
    world.switch("m1", "there")
    world.repair()
    world.night()
    assert world.due() == []
    assert sorted(day for name, day in world.contents if name == "m1") == [march(13), march(14)]
    world.mend()


def test_a_removed_metric_whose_last_row_is_a_half_day_keeps_no_night_busy(world: World) -> None:
    world.begin([snapshot("m0"), cumulative("m1", "m0")], lookback=0)
    world.night()
    world.switch("m1", "deleted")
    world.night()
    world.night()
    assert world.transactions == 2
    world.switch("m1", "there")
    world.night()
    assert world.due() == []
    world.mend()


# --- the test itself --------------------------------------------------------------------------------------------------


def test_the_promises_are_really_looked_at(world: World) -> None:
    two = [snapshot("m0"), derived("m1", "m0")]
    world.begin(two)
    world.night()
    world.database.execute("UPDATE bi_metrics SET value_list = '{\"n\": 7}' WHERE metrics = 'm0'")
    world.look()
    with pytest.raises(Untrue, match="m0 of 2025-03-10 is 7, and from what it read follows 1"):
        world.require_fresh()
    world.begin(two)
    world.night()
    world.database.execute(f"UPDATE bi_metric_state SET state = 'reopened' WHERE metric_date = '{START}'"
                           " AND metric = 'm0'")  # fmt: skip
    world.look()
    with pytest.raises(Untrue, match="m1 of 2025-03-10 is final over m0 of 2025-03-10, which is due"):
        world.require_settled()
    world.begin(two)
    world.night()
    world.late(1)
    with pytest.raises(Untrue, match="m0 of 2025-03-10 is 1; computed anew it is 3"):
        world.require_full_computation()
    seen = world.journal["m1", START]
    world.journal["m1", START] = replace(seen, rows={**seen.rows, ("m0", march(9)): 0})
    with pytest.raises(Untrue, match="it has read m0 of 2025-03-09 as 0, which is None now"):
        world.require_fresh()
