"""What is stored: every query on bi_metrics and bi_metric_runs that is the program's own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta, tzinfo
from functools import lru_cache
from typing import Any

from src.dates import ONE_DAY, date_range, day_end
from src.db_manager import DatabaseManager
from src.errors import MetricsError
from src.storage.changes import StoredRow

BLANK = "not computed yet"
NOT_FINAL = 86_400  # updated_at of a row that is not final: 1970-01-02 UTC, before the end of every metric date
LOOK_BACK_DAYS = 92  # how far back a night looks for missing dates
REPAIR = "run: ./setup.sh --schema"
_RECORDS_PER_STATEMENT = 1000
_BYTES_PER_STATEMENT = 4_000_000  # of rows to insert; max_allowed_packet is 16 MB or more
_ROW = "metrics, metric_date, data_type, f_list, value_list, UNIX_TIMESTAMP(updated_at)"
_FOR_DATES = "metrics IN %s AND metric_date BETWEEN %s AND %s"

Cell = tuple[str, date]  # a metric and one of its dates


@dataclass(frozen=True)
class State:
    """What was stored when a transaction began, at `moment` (seconds since the epoch, by the server's clock)."""

    moment: int
    stamp: int  # what updated_at of the rows written must be: the moment, as far as the session's time zone can say it
    holds_lock: bool
    newest: date | None  # the newest metric date in the table
    rows: dict[Cell, StoredRow]
    final_before: frozenset[str]  # metrics with a final row on the day before the first date


@dataclass(frozen=True)
class Record:
    """A row of bi_metric_runs: what one run did to one metric on one date."""

    run_id: str
    metric: str
    metric_date: date
    mode: str  # "initial" or "incremental"
    file: str
    fingerprint: str
    row_count: int
    milliseconds: int  # of the file's execution, which may have filled more dates
    status: str  # "ok" or "failed"
    is_final: bool
    changes: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Status:
    """The rows of a metric and the last time it ran."""

    first: date
    newest: date
    newest_final: date | None  # of the last 92 days
    rows: int
    fingerprint: str | None = None  # of the SQL that last wrote the newest row
    last_run: str | None = None  # by the server's clock
    last_milliseconds: int | None = None
    last_status: str | None = None
    last_error: str | None = None


@dataclass(frozen=True)
class Edit:
    """A run that changed a row which was final."""

    metric: str
    metric_date: date
    detail: str  # old -> new


class MetricStore:
    """Reads and marks rows of the two metric tables. `zone` decides when a date has ended."""

    def __init__(self, database: DatabaseManager, zone: tzinfo | None) -> None:
        self._db = database
        self._zone = zone
        self._day_end = lru_cache(4096)(lambda day: day_end(day, zone))

    def is_final(self, day: date, updated: int) -> bool:
        """Tell whether a row of `day` whose updated_at is `updated` was computed after the date had ended."""
        return updated >= self._day_end(day)

    # --- before a run -------------------------------------------------------------------------------------------------

    def require_schema(self) -> None:
        """Raise MetricsError unless both tables are there and bi_metrics can roll back and upsert."""
        found: dict[str, str] = dict(self._db.query(
            "SELECT LOWER(table_name), engine FROM information_schema.tables "
            "WHERE table_schema = DATABASE() AND table_name IN ('bi_metrics', 'bi_metric_runs')"
        ))  # fmt: skip
        for table in ("bi_metrics", "bi_metric_runs"):
            if table not in found:
                raise MetricsError(f"database {self._db.name} has no table {table}; {REPAIR}")
            if str(found[table]).lower() != "innodb":
                raise MetricsError(
                    f"table {table} is in engine {found[table]}, which cannot roll back; "
                    f"run: ALTER TABLE {table} ENGINE = InnoDB"
                )
        unique = self._db.query(
            "SELECT GROUP_CONCAT(LOWER(column_name) ORDER BY seq_in_index), MAX(sub_part) "
            "FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name = 'bi_metrics' "
            "AND non_unique = 0 GROUP BY index_name"
        )
        if not {("metrics,metric_date", None), ("metric_date,metrics", None)} & set(unique):
            raise MetricsError(
                "table bi_metrics has no unique key on (metrics, metric_date), so rows would double; "
                "run: ALTER TABLE bi_metrics ADD UNIQUE KEY uq_metric_date (metrics, metric_date)"
            )

    def clock(self) -> str:
        """Return the server's time as the tables show times."""
        return str(self._db.query("SELECT CAST(NOW() AS CHAR)")[0][0])

    def moment(self) -> int:
        """Return the server's time in seconds since the epoch."""
        return int(self._db.query("SELECT UNIX_TIMESTAMP()")[0][0])

    def names(self) -> frozenset[str]:
        """Return every metric that has a row."""
        return frozenset(row[0] for row in self._db.query("SELECT DISTINCT metrics FROM bi_metrics"))

    # --- within a transaction -----------------------------------------------------------------------------------------

    def state(self, names: Collection[str], dates: Sequence[date]) -> State:
        """Ask in one query for the time, the lock, the rows of `names`, and what is final on the day before."""
        day_before = dates[0] - ONE_DAY
        found = self._db.query(
            f"SELECT UNIX_TIMESTAMP(), UNIX_TIMESTAMP(FROM_UNIXTIME(UNIX_TIMESTAMP())), {self._db.run_lock.is_ours}, "
            "(SELECT MAX(metric_date) FROM bi_metrics), m.metrics, m.metric_date, m.data_type, m.f_list, "
            "IF(m.metric_date = %s, '', m.value_list), UNIX_TIMESTAMP(m.updated_at) "
            f"FROM (SELECT 1 AS one) AS always LEFT JOIN bi_metrics AS m ON m.{_FOR_DATES}",
            (day_before, _some(names), day_before, dates[-1]),
        )
        moment, back, newest = int(found[0][0]), int(found[0][1]), found[0][3]
        rows = {(row[4], row[5]): StoredRow(*row[6:]) for row in found if row[4] is not None}
        return State(
            moment=moment,
            # In the repeated hour of autumn a moment may come back as the hour after it: then take the hour before.
            stamp=back if back <= moment else moment - 3600,
            holds_lock=bool(found[0][2]),
            newest=newest,
            rows={place: row for place, row in rows.items() if place[1] != day_before},
            final_before=frozenset(
                name for (name, day), row in rows.items() if day == day_before and self.is_final(day, row.updated)
            ),
        )

    def blank(self, names: Collection[str], dates: Sequence[date]) -> None:
        """Replace the values of the rows by a text that no metric computes, and take the mark of being final."""
        self._db.execute(
            f"UPDATE bi_metrics SET value_list = %s, updated_at = FROM_UNIXTIME(%s) WHERE {_FOR_DATES}",
            (f'"{BLANK}"', NOT_FINAL, _some(names), dates[0], dates[-1]),
        )

    def rows(self, names: Collection[str], dates: Sequence[date]) -> Iterator[tuple[str, date, StoredRow]]:
        """Yield metric, date and row by date, holding none of them."""
        query = f"SELECT {_ROW} FROM bi_metrics WHERE {_FOR_DATES} ORDER BY metric_date, metrics"
        with self._db.select(query, (_some(names), dates[0], dates[-1])) as (_, rows):
            for row in rows:
                yield row[0], row[1], StoredRow(*row[2:])

    def write(self, name: str, data_type: str, f_list: str, values: Mapping[date, tuple[str, list[Any]]]) -> None:
        """Upsert a metric's row for each date; a value is an SQL expression with its arguments."""
        rows: list[str] = []
        args: list[Any] = []
        size = 0
        for day, (expression, more) in values.items():
            rows.append(f"(%s, %s, %s, {expression}, %s)")
            args += [name, data_type, f_list, *more, day]
            size += len(expression) + sum(len(arg) for arg in more if isinstance(arg, str))
            if size > _BYTES_PER_STATEMENT:
                self._upsert(rows, args)
                rows, args, size = [], [], 0
        if rows:
            self._upsert(rows, args)

    def _upsert(self, rows: Sequence[str], args: Sequence[Any]) -> None:
        self._db.execute(
            f"INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date) VALUES {', '.join(rows)} "
            "ON DUPLICATE KEY UPDATE data_type = VALUES(data_type), f_list = VALUES(f_list), "
            "value_list = VALUES(value_list)",
            args,
        )

    def set_updated(self, names: Collection[str], dates: Sequence[date], stamp: int) -> None:
        """Make updated_at tell when the numbers were computed: when the transaction began.

        A statement that starts after midnight would make final what an earlier one read before.
        """
        self._db.execute(
            f"UPDATE bi_metrics SET updated_at = FROM_UNIXTIME(%s) WHERE {_FOR_DATES}",
            (stamp, _some(names), dates[0], dates[-1]),
        )

    def unmark(self, ranges: Sequence[tuple[str, date, date]]) -> list[Cell]:
        """Take the mark of being final from the rows of metrics between two dates each; return those that had it."""
        if not ranges:
            return []
        places = " OR ".join(["(metrics = %s AND metric_date BETWEEN %s AND %s)"] * len(ranges))
        where = f"updated_at <> FROM_UNIXTIME(%s) AND ({places})"
        args = (NOT_FINAL, *(value for each in ranges for value in each))
        query = f"SELECT metrics, metric_date, UNIX_TIMESTAMP(updated_at) FROM bi_metrics WHERE {where}"
        found = self._db.query(query, args)
        if found:
            self._db.execute(f"UPDATE bi_metrics SET updated_at = FROM_UNIXTIME(%s) WHERE {where}", (NOT_FINAL, *args))
        return [(name, day) for name, day, updated in found if self.is_final(day, updated)]

    def record(self, records: Sequence[Record]) -> None:
        """Insert rows into bi_metric_runs, within the transaction that is open."""
        columns = [field.name for field in fields(Record)]
        cut = {"changes": "LEFT(%s, 15000)", "error": "LEFT(%s, 1000)"}  # characters: strict mode refuses longer ones
        values = f"({', '.join(cut.get(column, '%s') for column in columns)})"
        for start in range(0, len(records), _RECORDS_PER_STATEMENT):
            part = records[start : start + _RECORDS_PER_STATEMENT]
            self._db.execute(
                f"INSERT INTO bi_metric_runs ({', '.join(columns)}) VALUES {', '.join([values] * len(part))}",
                [value for record in part for value in vars(record).values()],
            )

    # --- across dates -------------------------------------------------------------------------------------------------

    def first_dates(self, names: Collection[str]) -> dict[str, date]:
        """Return the date of the first row of each metric that has one."""
        query = "SELECT metrics, MIN(metric_date) FROM bi_metrics WHERE metrics IN %s GROUP BY metrics"
        return dict(self._db.query(query, (_some(names),)))

    def missing(self, names: Collection[str], today: date, since: date | None = None) -> list[Cell]:
        """Return the dates to yesterday without a row: from a metric's first row, or its last one before `since`."""
        yesterday = today - ONE_DAY
        starts = {name: day for name, day in self.first_dates(names).items() if day <= yesterday}
        if since is not None and starts:
            last = self._db.query(
                "SELECT metrics, MAX(metric_date) FROM bi_metrics WHERE metrics IN %s AND metric_date < %s GROUP BY 1",
                (_some(starts), since),
            )
            starts |= {name: day + ONE_DAY for name, day in last}
        if not starts:
            return []
        counts: dict[str, int] = dict(self._db.query(
            f"SELECT metrics, COUNT(*) FROM bi_metrics WHERE {_FOR_DATES} GROUP BY metrics",
            (_some(starts), min(starts.values()), yesterday),
        ))  # fmt: skip
        gaps = [name for name, start in starts.items() if counts.get(name, 0) <= (yesterday - start).days]
        if not gaps:
            return []
        stored = set(self._db.query(
            f"SELECT metrics, metric_date FROM bi_metrics WHERE {_FOR_DATES}",
            (_some(gaps), min(starts[name] for name in gaps), yesterday),
        ))  # fmt: skip
        return [(name, day) for name in sorted(gaps) for day in date_range(starts[name], yesterday)
                if (name, day) not in stored]  # fmt: skip

    def not_final(self, names: Collection[str], today: date) -> list[Cell]:
        """Return the rows of dates before today that are not final, at any age, by metric and date."""
        found = self._db.query(
            "SELECT metrics, metric_date, UNIX_TIMESTAMP(updated_at) FROM bi_metrics WHERE metric_date < %s "
            # Days since 1970, for the end of the date in UTC; then the zone's offset, at its lowest.
            "AND UNIX_TIMESTAMP(updated_at) < (TO_DAYS(metric_date) - 719527) * 86400 - %s ORDER BY 1, 2",
            (today, _lowest_offset(self._zone)),
        )
        wanted = set(names)
        return [(name, day) for name, day, updated in found if name in wanted and not self.is_final(day, updated)]

    def status(self, names: Collection[str], today: date) -> dict[str, Status]:
        """Return the state of each metric that has rows; rows of dates after today do not count."""
        spans = self._db.query(
            "SELECT metrics, MIN(metric_date), MAX(metric_date), COUNT(*) FROM bi_metrics "
            "WHERE metrics IN %s AND metric_date <= %s GROUP BY metrics",
            (_some(names), today),
        )
        newest_final: dict[str, date] = {}
        for name, day, updated in self._db.query(
            f"SELECT metrics, metric_date, UNIX_TIMESTAMP(updated_at) FROM bi_metrics WHERE {_FOR_DATES} ORDER BY 2",
            (_some(names), today - LOOK_BACK_DAYS * ONE_DAY, today),
        ):
            if self.is_final(day, updated):
                newest_final[name] = day
        wrote = self.fingerprints([(name, newest) for name, _, newest, _ in spans])
        last_runs = {row[0]: row[1:] for row in self._db.query(
            "SELECT r.metric, CAST(r.created_at AS CHAR), r.milliseconds, r.status, r.error FROM bi_metric_runs AS r "
            "JOIN (SELECT MAX(id) AS id FROM bi_metric_runs WHERE metric IN %s GROUP BY metric) AS last USING (id)",
            (_some(names),),
        )}  # fmt: skip
        return {
            name: Status(first, newest, newest_final.get(name), rows, wrote.get(name), *last_runs.get(name, ()))
            for name, first, newest, rows in spans
        }

    def fingerprints(self, places: Iterable[Cell]) -> dict[str, str]:
        """Return the fingerprint of the SQL that last wrote the row of each place, by metric."""
        return dict(self._db.query(
            "SELECT metric, fingerprint FROM bi_metric_runs "
            "WHERE (metric, metric_date) IN %s AND status = 'ok' ORDER BY id",
            (tuple(places) or (("", date.min),),),
        ))  # fmt: skip

    def edits(self, names: Collection[str], since: date) -> list[Edit]:
        """Return the changes of final rows of dates from `since` on, the newest first."""
        found = self._db.query(
            "SELECT metric, metric_date, changes FROM bi_metric_runs "
            "WHERE metric IN %s AND metric_date >= %s AND changes IS NOT NULL ORDER BY id DESC",
            (_some(names), since),
        )
        return [Edit(*row) for row in found]

    def future_dates(self, today: date) -> list[Cell]:
        """Return the rows of dates after today."""
        query = "SELECT metrics, metric_date FROM bi_metrics WHERE metric_date > %s ORDER BY 1, 2"
        return [(name, day) for name, day in self._db.query(query, (today,))]


def by_metric(places: Iterable[Cell]) -> dict[str, list[date]]:
    """Return the dates of each metric, in their order; a metric without any has an empty list."""
    found: dict[str, list[date]] = defaultdict(list)
    for name, day in places:
        found[name].append(day)
    return found


def _some(names: Iterable[str]) -> tuple[str, ...]:
    """Return names for IN (...), which must not be empty."""
    return tuple(names) or ("",)


@lru_cache
def _lowest_offset(zone: tzinfo | None) -> int:
    """Return the lowest offset from UTC that the zone has at a midnight since 1970, in seconds."""
    days = (date(1970, 1, 4) + timedelta(days=28 * n) for n in range(13 * 68))
    return min((day.toordinal() - 719_162) * 86_400 - day_end(day, zone) for day in days)
