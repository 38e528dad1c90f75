"""What the shipped metrics must say, worked out in plain Python from the rows of the game: slow, simple, apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymysql.connections import Connection

CENT = Decimal("0.01")


@dataclass(frozen=True)
class Game:
    """The rows of the game backend, as far as the metrics look at them."""

    sign_ups: Sequence[datetime]
    titles: dict[int, str]
    plays: Sequence[tuple[int, datetime]]  # game id, played at
    activities: Sequence[tuple[int, datetime]]  # user id, happened at
    payments: Sequence[tuple[Decimal, datetime]]  # amount, paid at


def read_game(connection: Connection[Any]) -> Game:
    """Read all rows of the game tables; meant for small databases."""

    def rows(query: str) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    return Game(
        sign_ups=[created_at for (created_at,) in rows("SELECT created_at FROM users")],
        titles=dict(rows("SELECT id, title FROM games")),
        plays=rows("SELECT game_id, played_at FROM game_plays"),
        activities=rows("SELECT user_id, happened_at FROM user_activity"),
        payments=rows("SELECT amount, paid_at FROM payments"),
    )


def expected(game: Game, metric_date: date, cutoff: date) -> dict[str, Any]:
    """Return the value of each shipped metric on a date, by name; money is Decimal, as in JSON parsed with Decimal."""
    users = total_users_after_cutoff(game.sign_ups, metric_date, cutoff)
    revenue = revenue_last_30d(game.payments, metric_date)
    return {
        "total_users_after_cutoff": {"total_users": users},
        "total_revenue": {"revenue": total_revenue(game.payments, metric_date)},
        "daily_active_users": {"active_users": daily_active_users(game.activities, metric_date)},
        "plays_by_hour": plays_by_hour(game.plays, metric_date),
        "new_users_last_60d": {"new_users": new_users_last_60d(game.sign_ups, metric_date)},
        "revenue_last_30d": {"revenue": revenue},
        "top_100_games_played": top_100_games_played(game.plays, game.titles, metric_date),
        "arpu_last_30d": {"arpu": arpu(revenue, users)},
    }


def total_users_after_cutoff(sign_ups: Sequence[datetime], metric_date: date, cutoff: date) -> int:
    return sum(cutoff <= at.date() <= metric_date for at in sign_ups)


def total_revenue(payments: Sequence[tuple[Decimal, datetime]], metric_date: date) -> Decimal:
    return sum((amount for amount, at in payments if at.date() <= metric_date), Decimal("0.00"))


def daily_active_users(activities: Sequence[tuple[int, datetime]], metric_date: date) -> int:
    return len({user for user, at in activities if at.date() == metric_date})


def plays_by_hour(plays: Sequence[tuple[int, datetime]], metric_date: date) -> list[dict[str, int]]:
    counts = Counter(at.hour for _, at in plays if at.date() == metric_date)
    return [{"hour": hour, "plays": counts[hour]} for hour in range(24)]


def new_users_last_60d(sign_ups: Sequence[datetime], metric_date: date) -> int:
    return sum(_within(at, metric_date, days=60) for at in sign_ups)


def revenue_last_30d(payments: Sequence[tuple[Decimal, datetime]], metric_date: date) -> Decimal:
    return sum((amount for amount, at in payments if _within(at, metric_date, days=30)), Decimal("0.00"))


def top_100_games_played(
    plays: Sequence[tuple[int, datetime]], titles: dict[int, str], metric_date: date
) -> list[dict[str, Any]]:
    counts = Counter(game for game, at in plays if game in titles and _within(at, metric_date, days=30))
    most_played = sorted(counts, key=lambda game: (-counts[game], game))[:100]
    return [
        {"rank": rank, "game_id": game, "title": titles[game], "plays": counts[game]}
        for rank, game in enumerate(most_played, start=1)
    ]


def arpu(revenue: Decimal, users: int) -> Decimal | None:
    return (revenue / users).quantize(CENT, ROUND_HALF_UP) if users else None


def _within(at: datetime, metric_date: date, days: int) -> bool:
    """True if `at` lies in the `days` days that end with the metric date."""
    return metric_date - timedelta(days=days - 1) <= at.date() <= metric_date
