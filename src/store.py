"""What is stored: every query on bi_metrics and bi_metric_runs that is the program's own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, tzinfo

from src.changes import StoredRow
from src.dates import ONE_DAY, date_range, day_end
from src.db_manager import DatabaseManager, Row
from src.errors import SchemaError
from src.sql_text import literal

HOLE_DAYS = 92  # how far back holes are looked for
REPAIR = "run: ./setup.sh --schema"
_RECORDS_A_STATEMENT = 1000
_WIDTHS = {"file": 255, "changes": 60_000, "error": 1000}  # characters of the columns of bi_metric_runs


@dataclass(frozen=True)
class Snapshot:
    """What was stored when a transaction began, at `moment` (seconds since the epoch, by the server's clock)."""

    moment: int
    rows: dict[tuple[str, date], StoredRow]
    final_before: frozenset[str]  # metrics with a final row on the day before


@dataclass(frozen=True)
class Record:
    """A row of bi_metric_runs: what one run did to one metric on one date."""

    run_id: str
    metric: str
    metric_date: date
    mode: str  # the mode of the file that ran
    file: str
    fingerprint: str
    row_count: int
    milliseconds: int  # of the file's execution, which may have filled more dates
    status: str  # "ok" or "failed"
    is_final: bool
    changes: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Hole:
    """Dates at which a metric has no row, or one of a part of its day; both ends included."""

    metric: str
    start: date
    end: date


@dataclass(frozen=True)
class Status:
    """The rows of a metric and the last time it ran."""

    first: date
    newest: date
    rows: int
    newest_is_final: bool
    fingerprint: str | None = None  # of the SQL that last wrote the newest row
    last_run: str | None = None  # by the server's clock
    last_milliseconds: int | None = None
    last_status: str | None = None


class MetricStore:
    """Reads and marks rows of the two metric tables. `zone` decides when a date is over."""

    def __init__(self, database: DatabaseManager, zone: tzinfo | None) -> None:
        self._db = database
        self._zone = zone

    # --- before a run -------------------------------------------------------------------------------------------------

    def require_schema(self) -> None:
        """Raise SchemaError unless both tables are there and bi_metrics can roll back and upsert."""
        engines, keys = self._db.run([
            "SELECT table_name, engine FROM information_schema.tables "
            "WHERE table_schema = DATABASE() AND table_name IN ('bi_metrics', 'bi_metric_runs')",
            "SELECT index_name, column_name, sub_part FROM information_schema.statistics "
            "WHERE table_schema = DATABASE() AND table_name = 'bi_metrics' AND non_unique = 0 ORDER BY seq_in_index",
        ])  # fmt: skip
        found = {row[0].lower(): row[1] for row in engines.rows}
        for table in ("bi_metrics", "bi_metric_runs"):
            if table not in found:
                raise SchemaError(f"database {self._db.name} has no table {table}; {REPAIR}")
            if str(found[table]).lower() != "innodb":
                raise SchemaError(
                    f"table {table} is in engine {found[table]}, which cannot roll back; "
                    f"run: ALTER TABLE {table} ENGINE = InnoDB"
                )
        unique: dict[str, set[Row]] = {}
        for index, column, part in keys.rows:
            unique.setdefault(index, set()).add((column.lower(), part))
        if {("metrics", None), ("metric_date", None)} not in unique.values():
            raise SchemaError(
                "table bi_metrics has no unique key on (metrics, metric_date), so rows would double; "
                "run: ALTER TABLE bi_metrics ADD UNIQUE KEY uq_metric_date (metrics, metric_date)"
            )

    # --- within a transaction -----------------------------------------------------------------------------------------

    def snapshot(self, names: Collection[str], dates: Sequence[date], ask_final: Collection[str]) -> Snapshot:
        """Ask in one packet for the time, the rows of `names`, and which of `ask_final` are final on the day before."""
        queries = ["SELECT UNIX_TIMESTAMP()", _rows_of(names, dates)]
        if ask_final:
            previous = dates[0] - ONE_DAY
            queries.append(
                f"SELECT metrics FROM bi_metrics WHERE metrics IN ({_listed(ask_final)}) "
                f"AND metric_date = '{previous}' AND UNIX_TIMESTAMP(updated_at) >= {day_end(previous, self._zone)}"
            )
        answers = [result.rows for result in self._db.run(queries)]
        return Snapshot(
            int(answers[0][0][0]),
            {(row[0], row[1]): self._stored_row(row) for row in answers[1]},
            frozenset(row[0] for row in answers[2]) if ask_final else frozenset(),
        )

    def rows(self, names: Collection[str], dates: Sequence[date]) -> Iterator[tuple[str, date, StoredRow]]:
        """Yield metric, date and row by date, holding none of them."""
        for row in self._db.stream(_rows_of(names, dates) + " ORDER BY metric_date, metrics"):
            yield row[0], row[1], self._stored_row(row)

    def missing(self, name: str, dates: Sequence[date]) -> list[date]:
        """Return those of `dates` for which the metric has no row."""
        query = f"SELECT metric_date FROM bi_metrics WHERE metrics = {literal(name)} AND {between(dates)}"
        found = self._db.query(query)
        return sorted(set(dates) - {row[0] for row in found})

    def stamp(self, names: Collection[str], dates: Sequence[date], moment: int, open_from: date | None) -> None:
        """Make updated_at tell when the numbers were computed: at `moment`, when the transaction began.

        The server leaves it alone where an upsert changes nothing; and a statement that starts after midnight would
        make final what an earlier one read before.
        """
        at = f"FROM_UNIXTIME({moment})"
        too_late = f" OR (updated_at > {at} AND metric_date >= '{open_from}')" if open_from else ""
        self._db.run([
            f"UPDATE bi_metrics SET updated_at = {at} "
            f"WHERE metrics IN ({_listed(names)}) AND {between(dates)} AND (updated_at < {at}{too_late})"
        ])  # fmt: skip

    def record(self, records: Iterable[Record]) -> None:
        """Insert rows into bi_metric_runs, within the transaction that is open."""
        rows = [_values(record) for record in records]
        columns = ", ".join(Record.__dataclass_fields__)
        for start in range(0, len(rows), _RECORDS_A_STATEMENT):
            part = ",\n".join(rows[start : start + _RECORDS_A_STATEMENT])
            self._db.run([f"INSERT INTO bi_metric_runs ({columns}) VALUES\n{part}"])

    def _stored_row(self, row: Row) -> StoredRow:
        return StoredRow(row[2], row[3], row[4], is_final=(row[5] or 0) >= day_end(row[1], self._zone))

    # --- across dates -------------------------------------------------------------------------------------------------

    def later(self, names: Collection[str], day: date) -> tuple[date, date] | None:
        """Return the first and the last date after `day` that has a row of one of the metrics."""
        first, last = self._db.query(
            "SELECT MIN(metric_date), MAX(metric_date) FROM bi_metrics "
            f"WHERE metrics IN ({_listed(names)}) AND metric_date > '{day}'"
        )[0]
        return (first, last) if first else None

    def holes(self, names: Collection[str], today: date) -> tuple[list[Hole], list[Hole]]:
        """Return, of the last 92 days, by metric and date: dates that are missing between others, and half days.

        A half day is over, but its row was computed before: it holds a part of the day.
        """
        missing, half = self._db.run([self._missing_dates(names, today), self._half_days(names, today)])
        return (
            [Hole(name, before + ONE_DAY, after - ONE_DAY) for name, before, after in missing.rows],
            [Hole(name, day, day) for name, day in half.rows],
        )

    def _missing_dates(self, names: Collection[str], today: date) -> str:
        return (
            "SELECT metrics, metric_date, following FROM (SELECT metrics, metric_date, "
            "LEAD(metric_date) OVER (PARTITION BY metrics ORDER BY metric_date) AS following FROM bi_metrics "
            f"WHERE metrics IN ({_listed(names)}) AND metric_date >= '{today - HOLE_DAYS * ONE_DAY}') dates "
            "WHERE following > metric_date + INTERVAL 1 DAY ORDER BY metrics, metric_date"
        )

    def _half_days(self, names: Collection[str], today: date) -> str:
        days = date_range(today - HOLE_DAYS * ONE_DAY, today - ONE_DAY)
        ends = ", ".join(f'["{day}", {day_end(day, self._zone)}]' for day in days)
        return (
            f"SELECT m.metrics, m.metric_date FROM JSON_TABLE('[{ends}]', '$[*]' "
            "COLUMNS (day DATE PATH '$[0]', ends BIGINT PATH '$[1]')) d JOIN bi_metrics m ON m.metric_date = d.day "
            f"WHERE m.metrics IN ({_listed(names)}) AND UNIX_TIMESTAMP(m.updated_at) < d.ends ORDER BY 1, 2"
        )

    def status(self, names: Collection[str]) -> dict[str, Status]:
        """Return the state of each metric that has rows."""
        spans = self._db.query(
            "SELECT s.metrics, s.first, s.newest, s.number, UNIX_TIMESTAMP(m.updated_at) FROM (SELECT metrics, "
            "MIN(metric_date) AS first, MAX(metric_date) AS newest, COUNT(*) AS number FROM bi_metrics "
            f"WHERE metrics IN ({_listed(names)}) GROUP BY metrics) s "
            "JOIN bi_metrics m ON m.metrics = s.metrics AND m.metric_date = s.newest"
        )
        return {
            name: Status(first, newest, number, updated >= day_end(newest, self._zone), *self._last_run(name, newest))
            for name, first, newest, number, updated in spans
        }

    def _last_run(self, name: str, newest: date) -> tuple[str | None, str | None, int | None, str | None]:
        """Return the fingerprint behind the newest row, and start, milliseconds and status of the metric's last run."""
        wrote, last = self._db.run([
            f"SELECT fingerprint FROM bi_metric_runs WHERE metric = {literal(name)} AND metric_date = '{newest}' "
            "AND status = 'ok' ORDER BY id DESC LIMIT 1",
            "SELECT created_at, milliseconds, status FROM bi_metric_runs WHERE id = "
            f"(SELECT MAX(id) FROM bi_metric_runs WHERE metric = {literal(name)})",
        ])  # fmt: skip
        fingerprint = wrote.rows[0][0] if wrote.rows else None
        when, milliseconds, status = last.rows[0] if last.rows else (None, None, None)
        return fingerprint, str(when) if when else None, milliseconds, status


def between(dates: Sequence[date]) -> str:
    return f"metric_date BETWEEN '{dates[0]}' AND '{dates[-1]}'"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(literal(name) for name in names)


def _rows_of(names: Collection[str], dates: Sequence[date]) -> str:
    return (
        "SELECT metrics, metric_date, data_type, f_list, value_list, UNIX_TIMESTAMP(updated_at) FROM bi_metrics "
        f"WHERE metrics IN ({_listed(names)}) AND {between(dates)}"
    )


def _values(record: Record) -> str:
    """Return a record as "(..., ...)"; what is longer than its column is cut, which strict mode would refuse."""
    values = []
    for name in Record.__dataclass_fields__:
        value = getattr(record, name)
        if isinstance(value, (bool, int)):
            values.append(str(int(value)))
        elif value is None:
            values.append("NULL")
        else:
            values.append(literal(str(value)[: _WIDTHS.get(name)]))
    return f"({', '.join(values)})"
