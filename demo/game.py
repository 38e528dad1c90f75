"""A made-up game backend: the five tables that the shipped metrics read, filled with believable numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymysql.connections import Connection

TABLES = {
    "users": """
        id INT UNSIGNED NOT NULL PRIMARY KEY,
        name VARCHAR(50) NOT NULL,
        country CHAR(2) NOT NULL,
        created_at DATETIME NOT NULL,
        KEY (created_at)""",
    "games": """
        id INT UNSIGNED NOT NULL PRIMARY KEY,
        title VARCHAR(100) NOT NULL,
        genre VARCHAR(30) NOT NULL""",
    "game_plays": """
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        user_id INT UNSIGNED NOT NULL,
        game_id INT UNSIGNED NOT NULL,
        played_at DATETIME NOT NULL,
        duration_seconds INT UNSIGNED NOT NULL,
        KEY (played_at, game_id)""",
    "user_activity": """
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        user_id INT UNSIGNED NOT NULL,
        activity VARCHAR(20) NOT NULL,
        happened_at DATETIME NOT NULL,
        KEY (happened_at, user_id)""",
    "payments": """
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        user_id INT UNSIGNED NOT NULL,
        amount DECIMAL(10,2) NOT NULL,
        paid_at DATETIME NOT NULL,
        KEY (paid_at, user_id, amount)""",
}

ACTIVITIES = ("login", "play", "play", "chat", "invite", "purchase")
COUNTRIES = ("US", "BR", "DE", "IN", "JP", "PL", "NG", "ID")
GENRES = ("puzzle", "racing", "strategy", "role-playing", "sports", "shooter", "cards", "simulation")
# Quotes and accents on purpose: titles go through SQL and JSON.
ADJECTIVES = ("Lost", "Iron", "Dragon's", "Tiny", "Last", "Silent", "Café", "Neon", "Royal", "Wild", '"Mad"', "Frozen")
NOUNS = ("Kingdom", "Raiders", "Garden", "Circuit", "Odyssey", "Harbour", "Legends", "Mañana", "Empire", "Puzzle")
CENTS = (99, 199, 199, 499, 499, 999, 1230, 1999, 4999, 9999)

Watch = Callable[[str, Iterable[str]], Iterable[str]]
BATCH_ROWS = 10_000
OLD_USERS_DAYS = 400  # sign-ups reach this many days back before the first day
WEEK = (0.80, 0.75, 0.80, 0.85, 1.10, 1.50, 1.40)  # Monday to Sunday


@dataclass(frozen=True)
class Size:
    """How much to make. `days` end with the last day; the counts of other events follow from `plays`."""

    users: int
    games: int
    days: int
    plays: int

    @property
    def activities(self) -> int:
        return self.plays * 3 // 5

    @property
    def payments(self) -> int:
        return self.plays // 20


TINY = Size(users=300, games=20, days=100, plays=5_000)
DEMO = Size(users=20_000, games=500, days=180, plays=500_000)
BENCHMARK = Size(users=200_000, games=2_000, days=1_095, plays=3_000_000)


@dataclass(frozen=True)
class _Day:
    """How many events a day has, and how many users there are when it begins."""

    date: date
    hours: int  # that have events: 24, or fewer on the last day
    users: int
    plays: int
    activities: int
    payments: int


def load(
    connection: Connection[Any],
    last_day: date,
    size: Size = DEMO,
    seed: int = 1,
    hours: int = 24,
    watch: Watch = lambda table, rows: rows,
) -> None:
    """Drop, create and fill the five tables of the game; the same arguments always give the same rows.

    Commits as it goes. Besides busy and quiet days there are days without payments and days without anything.
    `hours`: how much of the last day is over; the rest of it has no events yet.
    `watch` gets each table's name and rows, and yields those rows: for showing progress.
    """
    _create_tables(connection)
    sign_ups = _sign_ups(last_day, size, hours)
    days = _days(last_day, size, sign_ups, hours)
    tables = {
        "users (id, name, country, created_at)": _users(_rng(seed, "users"), sign_ups, hours),
        "games (id, title, genre)": _games(connection, size.games),
        "game_plays (user_id, game_id, played_at, duration_seconds)": _plays(_rng(seed, "plays"), days, size.games),
        "user_activity (user_id, activity, happened_at)": _activities(_rng(seed, "activities"), days),
        "payments (user_id, amount, paid_at)": _payments(_rng(seed, "payments"), days),
    }
    for target, rows in tables.items():
        _insert(connection, target, watch(target.split()[0], rows))


def _create_tables(connection: Connection[Any]) -> None:
    with connection.cursor() as cursor:
        for table, columns in TABLES.items():
            cursor.execute(f"DROP TABLE IF EXISTS {table}")
            cursor.execute(f"CREATE TABLE {table} ({columns}) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4")


def _insert(connection: Connection[Any], target: str, rows: Iterable[str]) -> None:
    """Insert rows given as SQL text, one transaction per batch."""
    stream = iter(rows)
    with connection.cursor() as cursor:
        while batch := ",".join(islice(stream, BATCH_ROWS)):
            cursor.execute(f"INSERT INTO {target} VALUES {batch}")
            connection.commit()


def _rng(seed: int, table: str) -> random.Random:
    """A generator for each table, so that a change to one leaves the others as they are."""
    return random.Random(f"{seed} {table}")


def _sign_ups(last_day: date, size: Size, hours: int) -> dict[date, int]:
    days = [last_day - timedelta(days=n) for n in reversed(range(size.days + OLD_USERS_DAYS))]
    weights = [0.0 if day.toordinal() % 23 == 3 else WEEK[day.weekday()] for day in days]
    weights[-1] *= _share_until(hours)
    return dict(zip(days, _share_out(size.users, weights), strict=True))


def _days(last_day: date, size: Size, sign_ups: dict[date, int], hours: int) -> list[_Day]:
    dates = [last_day - timedelta(days=n) for n in reversed(range(size.days))]
    busy = [_busyness(n, day) for n, day in enumerate(dates)]
    busy[-1] *= _share_until(hours)
    paying = [0.0 if n % 19 == 5 else weight for n, weight in enumerate(busy)]
    totals = dict(zip(sign_ups, accumulate(sign_ups.values()), strict=True))
    return [
        _Day(day, hours if day == last_day else 24, totals[day - timedelta(days=1)], *counts)
        for day, *counts in zip(
            dates,
            _share_out(size.plays, busy),
            _share_out(size.activities, busy),
            _share_out(size.payments, paying),
            strict=True,
        )
    ]


def _busyness(n: int, day: date) -> float:
    """The weight of day number n: slow growth, a weekly rhythm, a few quiet days, and now and then nothing at all."""
    if n % 53 == 11:
        return 0.0
    return WEEK[day.weekday()] * (1 + n / 1000) * (0.05 if n % 31 == 17 else 1)


def _share_out(total: int, weights: list[float]) -> list[int]:
    """Split `total` by weight into whole numbers that add up to it."""
    scale = total / sum(weights)
    marks = [round(mark * scale) for mark in accumulate(weights)]
    return [mark - before for before, mark in zip([0, *marks], marks, strict=False)]


def _share_until(hours: int) -> float:
    """The share of a day's events that lie in its first hours; see _moments."""
    return (hours / 24) ** 2


def _users(rng: random.Random, sign_ups: dict[date, int], hours: int) -> Iterator[str]:
    """Users in the order in which they signed up: whoever exists on a day has a small id."""
    last_day = max(sign_ups)
    moments = (
        moment
        for day, count in sign_ups.items()
        for moment in sorted(_moments(rng, day, count, hours if day == last_day else 24))
    )
    for user, moment in enumerate(moments, start=1):
        yield f"({user},'player{user}','{rng.choice(COUNTRIES)}','{moment}')"


def _games(connection: Connection[Any], count: int) -> Iterator[str]:
    for n in range(count):
        series, kind = divmod(n, len(ADJECTIVES) * len(NOUNS))
        adjective, noun = divmod(kind, len(NOUNS))
        title = f"{ADJECTIVES[adjective]} {NOUNS[noun]}" + (f" {series + 1}" if series else "")
        yield f"({n + 1},{connection.escape(title)},'{GENRES[n % len(GENRES)]}')"


def _plays(rng: random.Random, days: list[_Day], games: int) -> Iterator[str]:
    by_popularity = rng.sample(range(1, games + 1), games)
    for day in days:
        for moment in _moments(rng, day.date, day.plays, day.hours):
            game = by_popularity[int(games * rng.random() ** 2)]
            yield f"({_user(rng, day)},{game},'{moment}',{30 + int(7_170 * rng.random())})"


def _activities(rng: random.Random, days: list[_Day]) -> Iterator[str]:
    for day in days:
        for moment in _moments(rng, day.date, day.activities, day.hours):
            yield f"({_user(rng, day)},'{rng.choice(ACTIVITIES)}','{moment}')"


def _payments(rng: random.Random, days: list[_Day]) -> Iterator[str]:
    for day in days:
        for moment in _moments(rng, day.date, day.payments, day.hours):
            euros, cents = divmod(rng.choice(CENTS), 100)
            yield f"({_user(rng, day)},{euros}.{cents:02},'{moment}')"


def _user(rng: random.Random, day: _Day) -> int:
    """A user who signed up before the day; a few of them do most of everything."""
    return 1 + int(day.users * rng.random() ** 2)


def _moments(rng: random.Random, day: date, count: int, hours: int) -> Iterator[str]:
    """Yield times in the first hours of a day, late ones more often; the first is 0:00:00, the second the last one."""
    seconds = hours * 3600
    edges = (0, seconds - 1) if count > 2 else ()
    others = (int(seconds * max(rng.random(), rng.random())) for _ in range(count - len(edges)))
    for second in (*edges, *others):
        yield f"{day} {second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
