"""The HTML page in a real browser: what it shows, that it asks for nothing, and that hostile values stay text."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Locator, sync_playwright
from playwright.sync_api import Page as Tab

from src.display.charts import RowOfPage
from src.display.page import MetricPage, Page, render, write
from src.display.status import MetricState
from src.metric_file.file import MetricFile, parse
from src.metric_file.period import DAY
from src.storage.overview import CellsOf, Correction, Failure
from src.storage.store import Remark

pytestmark = pytest.mark.slow

TODAY = date(2026, 11, 24)
EVIL = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">" ]]> </style> &amp; \u202eabc\u200f'
LONG = "n" * 100
Open = Callable[..., Tab]


def day(back: int) -> date:
    return TODAY - timedelta(days=back)


def metric(
    name: str, data_type: str, values: Mapping[int, str], error: str | None = None, header: Sequence[str] = (),
    **more: Any,
) -> MetricPage:  # fmt: skip
    """A metric with a row for each number of days back, final unless it is of today or listed in reopened."""
    known: dict[str, Any] = {"missing": [], "reopened": [], "older_sql": [], "future": [], "warnings": [],
                             "accepted": []}  # fmt: skip
    known |= {key: more.pop(key) for key in known.keys() & more.keys()}
    failure = Failure(TODAY, "2026-11-24 02:10:07", error) if error else None
    cells = CellsOf(name, False, DAY, TODAY, TODAY, TODAY, failure=failure, computed_at="2026-11-24 02:10:07",
                    milliseconds=84, **known)  # fmt: skip
    lines = [f"-- {line}\n" for line in (*header, f"Description: What {name} counts", f"Data Type: {data_type}")]
    file = MetricFile(name, f"sql/{name}.sql", None, None, False, parse("".join(lines)))
    state = MetricState(name, file, cells, day(92), file_errors=more.pop("file_errors", ()))
    rows = {day(back): RowOfPage(value, back > 0 and day(back) not in cells.reopened) for back, value in values.items()}
    sql = {f"sql/{name}.sql": "SELECT 1\nFROM plays"}
    return replace(MetricPage(state, file, sql, (), rows, []), **more)


def page_of(*metrics: MetricPage, **more: Any) -> Page:
    return replace(Page("bi_demo", "2026-11-24 07:02 UTC", TODAY, 90, "All final", [], True, metrics), **more)


REVENUE = {back: f'{{"revenue": {1345187 - 2113 * back}.{back:02}}}' for back in range(100) if back not in (12, 13)}
ACTIVITY = {back: json.dumps({"daily": 2000 + 37 * (back % 7), "ratio": 0.1 + back / 7}) for back in range(100)}
HOURS = {back: json.dumps([{"hour": h, "plays": 900 + h * 71 - back} for h in range(24)]) for back in range(3)}
UNUSUAL = "daily is 12, 24 % of the usual 50 (median of 8 Mondays); allowed: 50 % to 200 %"
WARNINGS = [(1, UNUSUAL), (1, "gone is no number of the row, and -- Usual names it"), (30, UNUSUAL)]
WARNED = (20, "half of last week: value_list = {} (sql/total_revenue.sql:2: SELECT value_list FROM bi_metrics)")
TITLES = [f"Game {number}" for number in range(40)]
GAMES = {
    back: json.dumps([
        {"rank": place, "game_id": 1000 + TITLES.index(title), "title": title, "plays": 99000 - 1500 * place}
        for place, title in enumerate(titles, 1)
    ])
    for back, titles in ((1, [TITLES[2], *TITLES[:2], "Game 39", *TITLES[3:20]]), (8, TITLES[:30]))
}  # fmt: skip
HELPER = metric("fill", "", {}, file_errors=[EVIL])
HELPER = replace(HELPER, state=replace(HELPER.state, file=replace(HELPER.file, script=parse("DELETE FROM per_day"))))
REAL = page_of(
    metric("total_revenue", "card", REVENUE, missing=[day(13), day(12)], reopened=[day(5)],
           warnings=[Remark("total_revenue", day(WARNED[0]), WARNED[1])],
           corrections=[Correction("total_revenue", day(3), '{"revenue": 1338848.01}', '{"revenue": 1338848.03}')]),
    metric("user_activity", "card", ACTIVITY, reads=("total_revenue",), older_sql=[day(40), day(39)],
           warnings=[Remark("user_activity", day(back), text) for back, text in WARNINGS],
           accepted=[Remark("user_activity", day(4), "found 1 (sql/user_activity.sql:3: SELECT 1)")]),
    metric("plays_by_hour", "timeseries", HOURS),
    metric("top_games", "ranking", GAMES, error="40_top.sql:7: Unknown column (1054)"),
    state="1 metric failed", commands=("python run_metrics.py --metric top_games",), is_well=False,
    others=[HELPER.state],
)  # fmt: skip
HOSTILE = page_of(
    metric(LONG, "card", {1: json.dumps({EVIL: EVIL, LONG: "NaN", "d": "\ud800"}), 2: "null", 3: "[]", 4: "not JSON"},
           header=[f"{key}: {EVIL}" for key in ("Description", "Unit", "Owner", "Tags")], error=EVIL,
           file_errors=[EVIL], reads=[EVIL], sql={EVIL: EVIL},
           corrections=[Correction(LONG, TODAY, json.dumps({LONG: EVIL}), "{}")],
           warnings=[Remark(LONG, day(1), EVIL)], accepted=[Remark(LONG, day(1), EVIL)]),
    metric("numbers", "card", {1: '{"big": 12345678901234567890.1234567891, "huge": 1e400, "tiny": 1e-400, "beyond": '
           '1e99999999999999999999, "nan": NaN, "zero": 0.000, "far": 1e999999999, "long": ' + "9" * 5000 + "}",
           2: '{"big": 0, "huge": -1e400, "tiny": 0, "far": -9e999999999}'}),
    metric("deep", "card", {1: "[" * 100000}), metric("unknown", EVIL, {1: "5"}),
    metric("nothing", "card", {}), metric("null", "card", {1: "null"}), metric("empty", "ranking", {1: "[]"}),
    metric("odd", "timeseries", {1: '[null, 1, "x", {"a": [1, {"b": null}]}]', 2: "{}"}),
    metric("long_ranking", "ranking", {1: json.dumps([{"title": f"{EVIL} {n}", "n": n * n} for n in range(500)])}),
    metric("titled", "card", {1: "1"}, header=[f"Title: {EVIL}"]),
    metric("sliced", "ranking", {1: json.dumps([{EVIL: EVIL, "n": 7}, {EVIL: "b", "n": 9}])},
           header=[f"Dimensions: {EVIL}"]),
    database=EVIL, state=EVIL, commands=(EVIL,), moment=EVIL,
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium-headless-shell", "chromium", "chrome-headless-shell")
    found = next(filter(None, map(shutil.which, names)), None)
    assert found, "no browser for these tests: apt-get install --no-install-recommends chromium-headless-shell"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a page from disk; at the end of the test, nothing was requested and nothing was complained about."""
    complaints: list[str] = []
    requests: list[str] = []
    contexts: list[Any] = []

    def opened(page: Page, width: int = 1440, scheme: Any = "light", script: bool = True) -> Tab:
        write(page, tmp_path / "page.html")
        window: Any = {"width": width, "height": 900}
        context = browser.new_context(viewport=window, color_scheme=scheme, java_script_enabled=script)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(5000)
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append(dialog.message))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto((tmp_path / "page.html").as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert requests == [(tmp_path / "page.html").as_uri()] * len(contexts)


def test_a_year_of_150_metrics_is_no_large_file() -> None:
    values = {back: f'{{"revenue": {134518 - 211 * back}.{back % 90 + 10}}}' for back in range(380)}
    page = page_of(*(metric(f"metric_{number}", "card", values) for number in range(150)), days=365)
    assert len(render(page).encode()) < 1_600_000


def card(tab: Tab, name: str) -> Locator:
    return tab.locator("article").filter(has=tab.get_by_role("heading", name=name, exact=True))


def table(inside: Locator, number: int = 0) -> list[list[str]]:
    text_of_cells = "table => [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent))"
    rows: list[list[str]] = inside.locator("table").nth(number).evaluate(text_of_cells)
    return rows


def unfold(tab: Tab) -> None:
    tab.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")


@pytest.mark.parametrize("shot", ["real-360-light", "real-360-dark", "real-1440-light", "real-1440-dark",
                                  "hostile-360-dark", "hostile-1440-light"])  # fmt: skip
def test_page_fits_its_window_and_is_accessible(show: Open, shot: str) -> None:
    name, width, scheme = shot.split("-")
    tab = show({"real": REAL, "hostile": HOSTILE}[name], int(width), scheme)
    if folder := os.environ.get("PAGE_SHOTS"):
        tab.screenshot(path=Path(folder) / f"{shot}.png", full_page=True)
    assert tab.evaluate("document.documentElement.scrollWidth") <= int(width)
    unfold(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= int(width)
    found = Axe().run(tab)
    assert found.violations_count == 0, found.generate_report()


def test_a_card_shows_its_newest_final_value_with_its_changes(show: Open) -> None:
    shown = card(show(REAL), "total_revenue")
    assert shown.locator(".value").inner_text() == "1,343,074.01"
    assert "Mon 23 Nov 2026 · revenue" in shown.inner_text()
    changes = shown.locator(".changes li").all_inner_texts()
    assert changes == ["2,112.99 (+0.2%) vs the day before", "14,790.93 (+1.1%) vs a week before"]
    assert shown.locator(".changes b.up").count() == 2


def test_the_numbers_of_a_card_equal_its_rows(show: Open) -> None:
    shown = card(show(REAL), "total_revenue")
    found = {
        date.fromisoformat(monday) + timedelta(days=place): text
        for monday, *texts in table(shown) for place, text in enumerate(texts) if text
    }  # fmt: skip
    numbers = {at: Decimal(text.rstrip("*†‡").replace(",", "")) for at, text in found.items() if text != "missing"}
    stored = {day(back): json.loads(text, parse_float=Decimal)["revenue"] for back, text in REVENUE.items()}
    first = min(found)  # a week is shown whole
    assert day(90 + 6) < first <= day(89)
    assert numbers == {at: number for at, number in stored.items() if at >= first}
    assert [at for at, text in found.items() if text.endswith("*")] == [TODAY, day(5)]
    assert [at for at, text in found.items() if text.endswith("†")] == [day(3)]
    assert sorted(at for at, text in found.items() if text == "missing") == [day(13), day(12)]


def points(path: str | None) -> dict[int, int]:
    """Return the y of each x that the line of an SVG path goes through."""
    found: dict[int, int] = {}
    x = y = 0
    for command, first, second in re.findall(r"([Ml])(\d+) ?([+-]?\d+)", path or ""):
        steps, rise = (int(first), int(second)) if command == "l" else (0, 0)
        if command == "M":
            x, y = int(first), int(second)
        found |= {x + step: y + rise * step // (steps or 1) for step in range(steps + 1)}
        x, y = x + steps, y + rise
    return found


def test_a_line_and_a_strip_tell_what_is_reopened_revised_and_missing(show: Open) -> None:
    tab = show(REAL)
    unfold(tab)
    shown = card(tab, "total_revenue")
    final, dashed, dot = (points(shown.locator(f".plot .{part}").get_attribute("d")) for part in "fbd")
    assert [x for x in range(90) if x not in final] == [89 - 13, 89 - 12, 89 - 5, 89]
    assert [*dashed] == [89 - 6, 89 - 5, 89 - 4, 88, 89]  # into and out of what is not final
    assert dot == {88: final[88]}
    numbers = [Decimal(json.loads(REVENUE[89 - x], parse_float=str)["revenue"]) for x in final | dashed]
    low, high = min(numbers), max(numbers)
    assert [*(final | dashed).values()] == [round((high - number) / (high - low) * 100) for number in numbers]
    assert shown.locator(".plot .m").get_attribute("d") == f"M{89 - 13} 105v-9M{89 - 12} 105v-9"
    assert points(shown.locator(".plot .r").get_attribute("d")) == {86: final[86]}
    assert shown.locator(".legend li").all_inner_texts() == ["not final", "missing", "revised", "warning"]
    assert shown.locator(".ends span").all_inner_texts() == ["1.35M", "1.16M"]
    assert shown.locator(".dates bdi").all_inner_texts() == ["27 Aug", "11 Oct", "24 Nov"]
    assert shown.locator(".plot svg").get_attribute("aria-label") == (
        "revenue, 88 of 90 values from 2026-08-27 to 2026-11-24: lowest 1,157,130.89 (2026-08-27), "
        "highest 1,345,187.00 (2026-11-24)"
    )
    counts = shown.locator(".strip").inner_text()
    assert counts == "Last 92 dates: 88 final 2 not final 2 missing 1 revised"


def test_a_field_is_marked_where_a_warning_is_about_it_and_the_newest_are_told_on_the_card(show: Open) -> None:
    tab = show(REAL)
    unfold(tab)
    shown = card(tab, "user_activity")
    for name, place, backs in (("user_activity", 0, (30, 1)), ("user_activity", 1, ()), ("total_revenue", 0, (20,))):
        plot, numbers = card(tab, name).locator(".plot").nth(place), card(tab, name).locator("table.weeks").nth(place)
        line = points(plot.locator(".f").get_attribute("d"))
        for ring in plot.locator(".w, .wi").all():
            assert points(ring.get_attribute("d")) == {89 - back: line[89 - back] for back in backs}
        assert plot.locator(".w, .wi").count() == 2 * bool(backs)
        assert numbers.locator("td", has_text="‡").count() == len(backs)
    assert shown.locator(".legend").last.locator("li").all_inner_texts() == ["not final", "warning"]
    assert shown.locator(".problems li").all_inner_texts()[-3:] == [
        f"warning of {day(1)}: {UNUSUAL}", f"warning of {day(1)}: {WARNINGS[1][1]}",
        f"accepted {day(4)}: found 1 (sql/user_activity.sql:3: SELECT 1)",
    ]  # fmt: skip
    assert "troubled" not in str(shown.get_attribute("class"))


def test_a_timeseries_shows_its_items_beside_those_of_the_day_before(show: Open) -> None:
    shown = card(show(REAL), "plays_by_hour")
    assert table(shown) == [[f"{h}", f"{899 + h * 71:,}", f"{898 + h * 71:,}"] for h in range(24)]
    assert [(shown.locator(f".plot .{part}").get_attribute("d") or "").count("M") for part in "fb"] == [24, 24]
    assert shown.locator(".legend li").all_inner_texts() == ["Mon 23 Nov", "the day before"]
    assert shown.locator(".dates bdi").all_inner_texts() == ["0", "12", "23"]


COUNTRIES = ["US", "DE", "FR", "GB", "BR", "JP", "IN", "PL", "ES", "IT"]
TAGGED = page_of(
    metric("total", "card", REVENUE,
           header=["Title: Money in total", "Unit: EUR", "Owner: Ann", "Tags: money, weekly"]),
    metric("plain", "card", REVENUE),
    metric("logins", "card", {1: '{"logins": 5}', 2: '{"logins": 4}'}, header=["Tags: users"]),
    metric("by_country", "ranking", {back: json.dumps([
        {"country": name, "revenue": 1000 - 90 * place - back} for place, name in enumerate(COUNTRIES)
    ]) for back in range(90) if back != 4}, header=["Dimensions: country", "Tags: money", "Unit: EUR"]),
)  # fmt: skip


def test_metrics_stand_by_tag_in_run_order_with_title_and_unit(show: Open) -> None:
    tab = show(TAGGED)
    assert tab.locator("h2").all_inner_texts() == ["Money", "Users", "Other"]
    assert tab.locator("section").first.locator("h3").all_inner_texts() == ["Money in total", "by_country"]
    assert tab.locator("nav a").all_inner_texts() == ["Money (2)", "Users (1)", "Other (1)"]
    shown = card(tab, "Money in total")
    assert shown.locator(".value").inner_text() == "1,343,074.01 EUR"
    unfold(tab)
    assert "total\nOwner\nAnn\nTags\nmoney, weekly" in shown.locator("dl").inner_text()
    assert card(tab, "logins").locator(".changes li").all_inner_texts() == [
        "1 (+25.0%) vs the day before"
    ]  # a week before, it had no row at all
    tab.keyboard.type("/total ann weekly")
    assert tab.locator("h2:visible").all_inner_texts() == ["Money"]


def test_a_dimension_is_one_line_for_each_of_its_eight_largest_values(show: Open) -> None:
    tab = show(TAGGED)
    shown = card(tab, "by_country")
    legend = shown.locator(".legend li").all_inner_texts()
    assert legend == [*(f"{name} {999 - 90 * place:,}" for place, name in enumerate(COUNTRIES[:8])), "not final"]
    span = 90 * 7 + 89  # from 1,000 to the smallest value
    for place in range(8):
        line = points(shown.locator(f".plot .f.s{place}").get_attribute("d"))
        assert line == {89 - n: round((90 * place + n) / span * 100) for n in range(1, 90) if n != 4}, place
    unfold(tab)
    assert len(table(shown)) == 10
    assert shown.locator("caption").nth(1).inner_text() == "DE: revenue. * not final, † revised, ‡ warning"


SUNDAYS = {2 + 7 * week: 5000 - 11 * week for week in range(60)}
MONTHS = {date(2026 - (back + 1) // 12, 12 - (back + 1) % 12, 1) - timedelta(days=1): 900 - back for back in range(30)}
PERIODS = page_of(
    metric("weekly", "card", {-5: '{"n": 1}'} | {back: f'{{"n": {n}}}' for back, n in SUNDAYS.items()},
           header=["Period: week"], missing=[day(9)]),
    metric("monthly", "card", {(TODAY - end).days: f'{{"n": {n}}}' for end, n in MONTHS.items()},
           header=["Period: month"]),
    metric("young", "card", {2: '{"n": 1}', 9: '{"n": 2}'}, header=["Period: week"]),
    metric("mixed", "card", {1: '{"revenue": 5, "payers": 2}'}, header=["Unit: revenue EUR, share %"]),
    metric("window", "card", {back: f'{{"n": {back}}}' for back in range(20)}, header=["Period: 7 days"]),
)  # fmt: skip


def test_weeks_and_months_have_an_axis_and_comparisons_of_their_own(show: Open) -> None:
    tab = show(PERIODS)
    weekly, monthly, window = (card(tab, name) for name in ("weekly", "monthly", "window"))
    assert weekly.locator(".figures").inner_text().split("\n")[0] == "week to Sun 22 Nov 2026 · n"
    assert weekly.locator(".changes li").all_inner_texts() == [
        "11 (+0.2%) vs the week before", "572 (+12.9%) vs a year before"
    ]  # fmt: skip
    assert sorted(points(weekly.locator(".plot .f").get_attribute("d"))) == list(range(52))
    assert weekly.locator(".plot .m").get_attribute("d") == "M50 105v-9"
    assert weekly.locator(".dates bdi").all_inner_texts() == ["30 Nov 2025", "31 May", "29 Nov"]
    assert "October 2026" in monthly.locator(".figures").inner_text()
    assert "12 (+1.4%) vs a year before" in monthly.locator(".changes").inner_text()
    assert monthly.locator(".dates bdi").all_inner_texts() == ["Nov 2024", "Nov 2025", "Nov 2026"]
    assert "7 (-87.5%) vs the 7 days before" in window.locator(".changes").inner_text()
    assert card(tab, "young").locator(".dates bdi").first.inner_text() == "1 Nov"  # five weeks
    assert card(tab, "mixed").locator(".value").all_inner_texts() == ["5 EUR", "2"]
    assert tab.locator(".late").count() == 0
    unfold(tab)
    assert weekly.locator(".strip path.final").get_attribute("d") == "M0 0h52"  # a square for each week
    assert weekly.locator(".strip").inner_text() == "Last 53 weeks: 52 final 1 not final 1 missing"
    assert table(monthly)[:2] == [["2026-11-30", ""], ["2026-10-31", "900"]]
    chart = weekly.locator(".plot svg")
    chart.scroll_into_view_if_needed()
    tab.wait_for_timeout(300)
    at = chart.bounding_box()
    assert at
    tab.mouse.move(at["x"] + at["width"] * 49.5 / 53, at["y"] + 20)
    assert tab.locator("#tip").inner_text().split("\n") == ["Week to 2026-11-08", "4,978"]


def test_what_cannot_be_one_line_for_each_value_is_shown_as_without_dimensions(show: Open) -> None:
    twice = {1: json.dumps([{"country": "US", "os": "a", "n": 5}, {"country": "US", "os": "b", "n": 7}])}
    tab = show(page_of(
        metric("twice", "ranking", twice, header=["Dimensions: country"]),
        metric("no_such_field", "ranking", twice, header=["Dimensions: land"]),
        metric("both", "ranking", twice, header=["Dimensions: country, os"]),
    ))  # fmt: skip
    assert [card(tab, name).locator(".plot").count() for name in ("twice", "no_such_field", "both")] == [0, 0, 1]
    assert table(card(tab, "twice"))[1] == ["2", "US", "b", "7"]
    assert card(tab, "both").locator(".legend li").all_inner_texts() == ["US / b 7", "US / a 5"]


@pytest.mark.parametrize("name", ["total_revenue", "user_activity", "plays_by_hour"])
def test_the_pointer_on_a_chart_shows_the_date_and_the_values(show: Open, name: str) -> None:
    tab = show(REAL)
    chart = card(tab, name).locator(".plot svg").first
    chart.scroll_into_view_if_needed()
    tab.wait_for_timeout(300)  # until it has scrolled, which takes the pointer off
    at = chart.bounding_box()
    assert at
    x = {"total_revenue": 86.5 / 90, "user_activity": 86.5 / 90, "plays_by_hour": 5.5 / 24}[name]
    tab.mouse.move(at["x"] + at["width"] * x, at["y"] + 20)
    assert tab.locator("#tip").inner_text().split("\n") == {
        "total_revenue": ["Sat, 21 Nov 2026", "1,338,848.03 (revised)"],
        "user_activity": ["Sat, 21 Nov 2026", "daily: 2,111", f"ratio: {0.1 + 3 / 7}"],
        "plays_by_hour": ["hour: 5", "plays: 1,254", "the day before: 1,253"],
    }[name]
    tab.mouse.move(2, 2)
    assert not tab.locator("#tip").is_visible()


def test_a_row_of_cards_leaves_no_column_blank(show: Open) -> None:
    tab = show(TAGGED)
    boxes = [box for each in tab.locator("article").all() if (box := each.bounding_box())]
    ends = {round(box["x"] + box["width"]) for box in boxes if not any(
        other["y"] == box["y"] and other["x"] > box["x"] for other in boxes)}  # fmt: skip
    assert len(ends) == 1


def test_a_ranking_shows_ten_rows_with_their_movement_and_folds_the_rest(show: Open) -> None:
    shown = card(show(REAL), "top_games")
    assert table(shown)[:4] == [
        ["1", "1002", "Game 2", "97,500", "2"], ["2", "1000", "Game 0", "96,000", "1"],
        ["3", "1001", "Game 1", "94,500", "1"], ["4", "1039", "Game 39", "93,000", "new"],
    ]  # fmt: skip
    moves = shown.locator("table").first.locator(".up, .down").evaluate_all("all => all.map(e => e.className)")
    assert moves[:3] == ["up", "down", "down"]
    assert [len(table(shown, number)) for number in (0, 1)] == [10, 11]
    assert shown.get_by_text("11 more rows").is_visible()


def test_problems_and_what_repairs_them_are_named(show: Open) -> None:
    tab = show(REAL)
    summary, *problems = tab.locator(".state.ill").inner_text().split("\n")
    assert summary == "1 metric failed"
    assert problems[0] == "total_revenue: missing: 2026-11-11 to 2026-11-12; to be computed again: 2026-11-19"
    assert problems[2:] == [f"fill (helper): file error: {EVIL}", "What repairs it"]
    unfold(tab)
    assert tab.locator(".state code").all_inner_texts() == [*REAL.commands]
    assert card(tab, "total_revenue").locator(".problems").inner_text() == (
        "missing: 2026-11-11 to 2026-11-12\nto be computed again: 2026-11-19"
    )
    assert card(tab, "top_games").locator(".problems").inner_text() == (
        "the last try of 2026-11-24 failed: 40_top.sql:7: Unknown column (1054)"
    )
    assert card(tab, "user_activity").locator(".problems li").first.inner_text() == (
        "of older SQL: 2026-10-15 to 2026-10-16"
    )
    assert "Unknown column (1054)" in card(tab, "top_games").inner_text()
    assert "1338848.01 -> 1338848.03" in card(tab, "total_revenue").inner_text()


def test_a_long_problem_takes_two_lines_until_it_is_unfolded_and_leaves_the_chart_its_height(show: Open) -> None:
    long = "found n = 5 (sql/a.sql:3: SELECT " + "revenue, " * 60 + "FROM sales)"
    tab = show(page_of(metric("alone", "card", REVENUE, warnings=[Remark("alone", day(1), long)] * 3)), 1440)
    remark, plot = tab.locator(".problems li").first, tab.locator(".plot")
    assert remark.inner_text() == f"warning of {day(1)}: {long}"
    folded, height = remark.bounding_box(), plot.bounding_box()
    remark.locator("summary").click()
    unfolded = remark.bounding_box()
    assert folded
    assert unfolded
    assert height
    assert folded["height"] < 60 < unfolded["height"]
    assert 100 < height["height"] < 300


@pytest.mark.parametrize("width", [390, 320])
def test_no_line_ends_within_a_date(show: Open, width: int) -> None:
    """A date as people search for it, wherever it stands: one box per text of it, not two."""
    long = f"found {' and '.join(str(day(back)) for back in range(30))}"
    page = page_of(
        metric("a", "card", REVENUE, warnings=[Remark("a", day(1), long)], error=long,
               corrections=[Correction("a", day(3), f'{{"revenue": "{day(9)}"}}', f'{{"revenue": "{day(8)}"}}')]),
        metric("month", "card", REVENUE, header=["Period: month"]), metric("c", "card", {1: f'{{"since": "{long}"}}'}),
        metric("s", "ranking", {1: json.dumps([{"hour": f"{day(1)} 0{n}:00", "text": long} for n in range(3)])}),
        state=f"All final to {day(1)}", commands=(f"python run_metrics.py {day(5)} {day(4)} --metric a",),
    )  # fmt: skip
    tab = show(page, width)
    unfold(tab)
    broken = tab.evaluate("""() => {
      const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), range = new Range();
      let dates = 0;
      for (let node; (node = walker.nextNode());) {
        if (node.parentElement.closest("script, pre, .vh")) continue;
        for (const match of node.data.matchAll(/\\d{4}-\\d\\d-\\d\\d/g)) {
          range.setStart(node, match.index); range.setEnd(node, match.index + 10); dates++;
          if (new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1) found.push(match[0]);
        }
      }
      return [dates > 80, found];
    }""")
    assert broken == [True, []]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_on_paper_a_long_problem_is_whole(show: Open) -> None:
    tab = show(page_of(metric("a", "card", REVENUE, warnings=[Remark("a", day(1), "found " + "more, " * 60)])), 390)
    problem = tab.locator(".problems summary")
    is_cut = "summary => summary.scrollHeight > summary.clientHeight + 1"
    assert problem.evaluate(is_cut)
    tab.emulate_media(media="print")
    assert not problem.evaluate(is_cut)


def test_filter_leaves_the_metrics_that_hold_every_word_and_a_link_brings_back_the_others(show: Open) -> None:
    tab = show(REAL)
    tab.keyboard.type("/what activity")
    assert tab.locator("article:visible h2").all_inner_texts() == ["user_activity"]
    assert tab.locator("output").inner_text() == "1 of 4 shown"
    unfold(tab)
    card(tab, "user_activity").get_by_role("link", name="total_revenue").click()
    assert card(tab, "total_revenue").is_visible()


def test_page_is_complete_without_script(show: Open) -> None:
    with_script, without = show(REAL), show(REAL, script=False)
    assert without.locator("main").inner_text() == with_script.locator("main").inner_text()
    assert not without.get_by_role("search").is_visible()


def test_hostile_content_is_shown_as_text(show: Open) -> None:
    tab = show(HOSTILE)
    unfold(tab)
    assert tab.evaluate("[window.hacked, document.scripts.length, document.images.length]") == [None, 1, 0]
    long = card(tab, LONG)
    for place in ("h1", ".state b", ".state code", "pre"):
        assert tab.locator(place).first.text_content() == EVIL
    assert long.locator("header p").text_content() == EVIL
    assert (long.locator(".unit").first.text_content() or "").strip() == EVIL
    assert EVIL in long.locator("dl").inner_text()
    assert tab.get_by_role("heading", name=EVIL, exact=True).count() == 3  # the database, a tag, a title
    assert card(tab, "sliced").locator(".legend li").all_text_contents() == ["b 9", f"{EVIL} 7"]
    assert {EVIL, "NaN", "\\ud800"} <= set(card(tab, LONG).locator(".value bdi").all_text_contents())
    assert card(tab, "numbers").locator(".value").all_text_contents()[:7] == [
        "12,345,678,901,234,567,890.12", "1.0000E+400", "1.0000E-400", "NaN", "NaN", "0.00", "1.0000E+999999999",
    ]  # fmt: skip
    assert "12,345,678,901,234,567,890.1234567891" in table(card(tab, "numbers"))[0]
    assert len(table(card(tab, "long_ranking"), 1)) == 490
    badges = (f"file error: {EVIL}\nthe last try of 2026-11-24 failed: {EVIL}\nwarning of {day(1)}: {EVIL}\n"
              f"accepted {day(1)}: {EVIL}")  # fmt: skip
    assert card(tab, LONG).locator(".problems").inner_text() == badges
    assert all("No value to show" in card(tab, name).inner_text() for name in ("null", "empty", "nothing"))


def test_write_replaces_the_page_whole_and_a_failure_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write(REAL, path)
    assert (path.read_text(encoding="utf-8"), path.stat().st_mode & 0o777) == (render(REAL), 0o644)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))  # the disk is full after 5,000 bytes
    try:
        with pytest.raises(OSError, match="File too large"):
            write(HOSTILE, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text(encoding="utf-8") == render(REAL)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="not a regular file"):
        write(REAL, tmp_path / "pipe")
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "pipe"]
