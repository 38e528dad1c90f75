"""Measures what grows with the history: python -m benchmarks.growth [--quick] [--chart FILE]

First the events: the same newest days after 1, 4 and 16 times the history, by file, in the server's own time. Then the
rows: 150 trivial metrics after 1,825 stored dates and a million records of runs, against a new and an empty table.
Writes both as a chart, docs/growth.svg.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from math import log10
from pathlib import Path
from statistics import median

from benchmarks.bench import (
    HOME,
    LAST_DAY,
    ROOT,
    Bench,
    BenchmarkError,
    Cost,
    connect,
    main,
    middle,
    parser_of,
    ratios,
    size_of,
    start_of,
    with_game,
)
from demo.game import TABLES
from demo.server import Server
from src.dates import date_range
from src.sql_loader import load_catalog

FACTORS = (1, 4, 16)
DAYS = 182  # of the shortest history: much longer than the longest window, which is 60 days
ONE_OF = 3  # of so many events of the game
DATES = 7  # of a run
EVENTS = {
    "users": ("created_at", "name, country"),
    "game_plays": ("played_at", "user_id, game_id, duration_seconds"),
    "user_activity": ("happened_at", "user_id, activity"),
    "payments": ("paid_at", "user_id, amount"),
}
# Every statement with its time in microseconds; the comment in front of a file's statements names the file.
LOG_ALL = "SET GLOBAL log_output = 'TABLE'; SET GLOBAL long_query_time = 0; SET GLOBAL slow_query_log = 1;"
LOG_NONE = "SET GLOBAL slow_query_log = 0; SET GLOBAL long_query_time = 10;"
TAG = re.compile(r"/\* bi_metrics (\S+) ")
OWN = "the program's own statements"
ALL = "all together"

METRICS = 150
STORED_DATES = 1_825
NEW_DATES = 93  # as many as a night looks back, and the page shows
MENDED = (40, 10)  # days ago; 31 dates
EMPTY, NEW, FULL = "empty table", f"{NEW_DATES} dates", f"{STORED_DATES:,} dates"
TRIVIAL_SELECT = "-- Metric: {0}\nSELECT DAY(%(metric_date)s) AS n\n"
TRIVIAL_INSERT = """\
-- Metric: {0}
-- Data Type: card
INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date)
VALUES ('{0}', 'card', JSON_ARRAY('n'), JSON_OBJECT('n', DAY(%(metric_date)s)), %(metric_date)s)
ON DUPLICATE KEY UPDATE value_list = VALUES(value_list);
"""

Lines = dict[str, list[float]]  # by name: a number for each label of the x axis


def measure(server: Server, args: argparse.Namespace) -> None:
    """Print both tables and write the chart."""
    events = print_events(server, args)
    rows = print_rows(server, args.rounds)
    args.chart.parent.mkdir(exist_ok=True)
    args.chart.write_text(chart([
        Panel("One date, by the history of events", "ms in the server", [f"{n} x" for n in FACTORS], events),
        Panel(f"{METRICS} metrics, by the dates stored", "seconds", [NEW, FULL], rows),
    ]), "utf-8")  # fmt: skip
    print(f"\nThe chart is {args.chart}.")


# --- events -----------------------------------------------------------------------------------------------------------


def print_events(server: Server, args: argparse.Namespace) -> Lines:
    """Measure the newest dates after each history; return the milliseconds of one date by file."""
    game = with_game(server, size_of(args))
    benches = {factor: with_history(game, factor) for factor in FACTORS}
    times: dict[int, list[dict[str, float]]] = {factor: [] for factor in FACTORS}
    game.execute(LOG_ALL)
    for number in range(args.rounds + 1):
        for factor, bench in benches.items():
            bench.reset(start_of(DATES))
            game.execute("TRUNCATE mysql.slow_log")
            bench.run(bench.tool(str(start_of(DATES)), str(LAST_DAY)))
            if number:  # the first round warms the caches
                times[factor].append(server_times(bench))
    game.execute(LOG_NONE)
    print(f"| one date, ms in the server | {' | '.join(f'{n} x history' for n in FACTORS)} | 16 x over 1 x |")
    print(f"|---|{'---|' * len(FACTORS)}---|")
    lines = {}
    for name in sorted(times[1][0]):
        found = {factor: [each[name] for each in rounds] for factor, rounds in times.items()}
        lines[name.rpartition("/")[2]] = middles = [median(found[factor]) for factor in FACTORS]
        ratio = median(most / least for most, least in zip(found[16], found[1], strict=True))
        print(f"| {name} | {' | '.join(f'{milliseconds:.2f}' for milliseconds in middles)} | {ratio:.2f} |")
    return lines


def with_history(game: Bench, factor: int) -> Bench:
    """Return a database whose history is that many copies of the game's last days; made where it is not there yet."""
    name = f"{game.database}_times_{factor}"
    game.execute(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4")
    bench = Bench(game.server, name)
    if not bench.query("SHOW TABLES LIKE 'complete'"):
        print(f"Making {factor} times {DAYS} days, once ...", file=sys.stderr)
        bench.execute("".join(
            f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} LIKE {game.database}.{table};" for table in TABLES
        ) + f"INSERT INTO games SELECT * FROM {game.database}.games")  # fmt: skip
        for copy in reversed(range(factor)):  # the oldest first, as it would have come
            for table, (moment, columns) in EVENTS.items():
                # A user has an id of his own in each copy; events get theirs from the table.
                number = f"id + {(factor - copy) * 1_000_000}, " if table == "users" else ""
                bench.execute(
                    f"INSERT INTO {table} ({'id, ' if number else ''}{moment}, {columns}) "
                    f"SELECT {number}{moment} - INTERVAL {copy * DAYS} DAY, {columns} FROM {game.database}.{table} "
                    f"WHERE {moment} >= '{start_of(DAYS)}' AND id % {ONE_OF} = 0 ORDER BY {moment}"
                )
        bench.execute(f"ANALYZE TABLE {', '.join(TABLES)}; CREATE TABLE complete (id INT);")
    bench.prepare()
    bench.seed([start_of(DATES)])
    return bench


def server_times(bench: Bench) -> dict[str, float]:
    """Return the milliseconds of one date that the server spent on each file, by its own log of the last run."""
    found: Counter[str] = Counter()
    logged = "SELECT CONVERT(sql_text USING utf8mb4), query_time FROM mysql.slow_log"
    for text, seconds in bench.query(f"{logged} WHERE db = '{bench.database}'"):
        if text.startswith("EXPLAIN"):  # asked once per run
            continue
        file = match[1] if (match := TAG.match(text)) else OWN
        for name in (file, ALL):
            found[name] += seconds.total_seconds() * 1000 / DATES
    return dict(found)


# --- rows -------------------------------------------------------------------------------------------------------------


class Nights(Bench):
    """A database with rows of trivial metrics and the records of the runs that wrote them."""

    def __init__(self, server: Server, dates: int) -> None:
        with connect(server) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS nights_{dates} CHARACTER SET utf8mb4")
        super().__init__(server, f"nights_{dates}")
        self.project = HOME / "nights"
        self.dates = dates
        self.today = date.today()

    @property
    def settings(self) -> dict[str, str]:
        return super().settings | {"METRICS_MEND_DAYS": "92"}  # the default

    def make_project(self) -> None:
        super().make_project()
        folder = self.project / "sql"
        shutil.rmtree(folder)
        folder.mkdir()
        for number in range(METRICS):
            name = f"metric_{number:03}"
            (folder / f"{name}.sql").write_text((TRIVIAL_SELECT, TRIVIAL_INSERT)[number % 2].format(name))

    def fill(self) -> None:
        """Make the rows of all dates, each computed after its date had ended, and their states."""
        self.prepare()
        files = load_catalog(self.project / "sql").files
        metrics = ", ".join(f"('{file.name}', '{file.path}')" for file in files)
        days = ", ".join(f"('{self.today - timedelta(days=n)}')" for n in range(1, self.dates + 1)) or "(NULL)"
        self.execute(
            "DROP TABLE IF EXISTS metrics, days; CREATE TABLE days (day DATE); "
            "CREATE TABLE metrics (name VARCHAR(100), file VARCHAR(255)); "
            f"INSERT INTO metrics VALUES {metrics}; INSERT INTO days VALUES {days};"
        )
        self.add_rows(self.dates)
        self.execute("ANALYZE TABLE bi_metrics, bi_metric_state;")

    def add_rows(self, days_ago: int) -> None:
        self.execute(
            "INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date, created_at, updated_at) "
            "SELECT name, 'card', JSON_ARRAY('n'), JSON_OBJECT('n', DAY(day)), day, day, day + INTERVAL 25 HOUR "
            f"FROM days CROSS JOIN metrics WHERE day >= '{self.today - timedelta(days=days_ago)}' ORDER BY day, name; "
            "INSERT INTO bi_metric_state (metric, metric_date, state, computed_at, milliseconds, file) "
            "SELECT name, day, 'final', day + INTERVAL 25 HOUR, 1, file FROM days CROSS JOIN metrics "
            f"WHERE day >= '{self.today - timedelta(days=days_ago)}' ORDER BY day, name"
        )

    def restore(self, without: Sequence[date] = ()) -> None:
        """Undo what runs did: yesterday's rows are from yesterday, today has none, nor have the dates `without`."""
        yesterday = self.today - timedelta(days=1)
        since = MENDED[0] + 1
        for table in ("bi_metrics", "bi_metric_state"):
            self.execute(f"DELETE FROM {table} WHERE metric_date >= '{self.today - timedelta(days=since)}'")
        self.add_rows(since)
        self.execute(f"UPDATE bi_metric_state SET state = 'open' WHERE metric_date = '{yesterday}'")
        for day in without:
            self.execute(f"DELETE FROM bi_metrics WHERE metric_date = '{day}'")


def print_rows(server: Server, rounds: int) -> Lines:
    """Measure nights, --status and --html; return the seconds of each on a new and on the full table."""
    nights = {name: Nights(server, dates) for name, dates in ((EMPTY, 0), (NEW, NEW_DATES), (FULL, STORED_DATES))}
    for each in nights.values():
        each.fill()
    stored = [f"{each.query('SELECT COUNT(*) FROM bi_metric_state')[0][0]:,}" for each in nights.values()]
    print(f"\n{METRICS} metrics; states: {', '.join(stored)}.\n")
    print(f"| {METRICS} metrics | {EMPTY} | {NEW} | {FULL} | over empty | over {NEW} | rounds |")
    print("|---|---|---|---|---|---|---|")
    today = nights[FULL].today
    gap = date_range(today - timedelta(days=MENDED[0]), today - timedelta(days=MENDED[1]))
    page = str(HOME / "page.html")
    cases: dict[str, tuple[list[str], list[date], list[str]]] = {
        "a night": (["run_metrics.py"], [], list(nights)),
        f"a night that mends {len(gap)} dates": (["run_metrics.py"], gap, [NEW, FULL]),
        "--status": (["list_metrics.py", "--status"], [], [NEW, FULL]),
        "--html": (["list_metrics.py", "--html", page], [], [NEW, FULL]),
    }
    lines = {}
    for title, (words, without, tables) in cases.items():
        costs: dict[str, list[Cost]] = {name: [] for name in tables}
        for number in range(rounds):
            for name in tables[number % len(tables) :] + tables[: number % len(tables)]:
                bench = nights[name]
                bench.restore(without)
                costs[name].append(bench.run(bench.tool(*words[1:], command=words[0])))
                if words[0] == "run_metrics.py":
                    refuse_gaps(bench)
        lines[title] = [middle(costs[name]).seconds for name in (NEW, FULL)]
        seconds = (f"{middle(costs[name]).seconds:.3f} s" if name in costs else "-" for name in nights)
        over = (ratios(costs[FULL], costs[name]) if name in costs else "-" for name in (EMPTY, NEW))
        print(f"| {title} | {' | '.join(seconds)} | {' | '.join(over)} | {rounds} |", flush=True)
    return lines


def refuse_gaps(bench: Nights) -> None:
    """Raise BenchmarkError where a night has left a date without its rows."""
    dates = bench.dates + 1 if bench.dates else 2
    rows = bench.query("SELECT COUNT(*) FROM bi_metrics")[0][0]
    if rows != dates * METRICS:
        raise BenchmarkError(f"a night in {bench.database} left {rows:,} rows instead of {dates * METRICS:,}")


# --- the chart --------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 520, 420  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 50, 250, 60, 40  # the right holds the names
COLOURS = ("#0b5fa5", "#c4501b", "#2e7d32", "#8e24aa", "#00838f", "#ad1457", "#5d4037", "#455a64")
LABEL_HEIGHT = 15


@dataclass(frozen=True)
class Panel:
    """Lines over labels, with a logarithmic y axis."""

    title: str
    unit: str
    labels: Sequence[str]
    lines: Mapping[str, Sequence[float]]


def chart(panels: Sequence[Panel]) -> str:
    """Return the panels side by side as SVG."""
    parts = [f'<g transform="translate({WIDTH * n} 0)">{_panel(panel)}</g>' for n, panel in enumerate(panels)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(panels)} {HEIGHT}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts) + "\n</svg>\n"
    )  # fmt: skip


def _panel(panel: Panel) -> str:
    values = [value for line in panel.lines.values() for value in line]
    low, high = 10.0 ** int(log10(min(values)) - 1), max(values) * 1.2
    inner_height, inner_width = HEIGHT - TOP - BOTTOM, WIDTH - LEFT - RIGHT

    def x(at: int) -> float:
        return LEFT + inner_width * at / (len(panel.labels) - 1)

    def y(value: float) -> float:
        return TOP + inner_height * (1 - log10(value / low) / log10(high / low))

    parts = [f'<text x="{LEFT}" y="24" font-size="15">{escape(panel.title)}</text>',
             f'<text x="{LEFT}" y="42" fill="#555">{escape(panel.unit)}, logarithmic</text>']  # fmt: skip
    mark = low
    while mark <= high:
        parts.append(f'<path d="M{LEFT} {y(mark):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(mark) + 4:.1f}" text-anchor="end" fill="#555">{mark:g}</text>')
        mark *= 10
    for at, label in enumerate(panel.labels):
        parts.append(f'<text x="{x(at):.1f}" y="{HEIGHT - 15}" text-anchor="middle">{escape(label)}</text>')
    below = float(TOP - LABEL_HEIGHT)
    ordered = sorted(panel.lines.items(), key=lambda line: -line[1][-1])
    for number, (name, line) in enumerate(ordered):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in enumerate(line))
        below = max(y(line[-1]) + 4, below + LABEL_HEIGHT)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        words = escape(f"{name}: {line[-1] / line[0]:.2f}")
        parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{below:.1f}" fill="{colour}">{words}</text>')
    return "\n".join(parts)


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--chart", type=Path, default=ROOT / "docs" / "growth.svg", metavar="FILE",
                        help="where to write the chart (default: docs/growth.svg)")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(parse_arguments(), measure))
