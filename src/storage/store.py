"""What is stored: every query of our own on bi_metrics and the tables beside it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, tzinfo
from functools import lru_cache
from typing import Any, Literal

from src.dates import OLDEST_DATE, ONE_DAY, day_end, utc_text
from src.db_manager import DatabaseManager
from src.errors import MetricsError
from src.metric_file.checks import LONGEST_NAME
from src.metric_file.file import MetricFile
from src.metric_file.period import Nightly
from src.metric_file.text import OUR_TABLES
from src.storage.changes import StoredRow

Cell = tuple[str, date]  # a metric or a helper, and one of its dates
DatesOf = Mapping[str, Sequence[date]]  # names, each with ascending dates
State = Literal["missing", "open", "reopened", "waiting", "final"]
CURRENT = frozenset({"waiting", "final"})  # computing such a cell now gives the same
BLANK = "not computed yet"  # and a random token: what a row of an INSERT metric holds until its file has run
BLANK_ROW = re.compile(rf'"{BLANK} [0-9a-f]{{16}}"')
REPAIR = "run: ./setup.sh --schema"
# The columns of bi_metric_headers behind the name, and how many characters each holds.
HEADER_COLUMNS = {"title": 255, "description": 1000, "data_type": 50, "unit": 255, "owner": 255, "tags": 255,
                  "period": 50}  # fmt: skip
NEWEST_COLUMN = "accepted"  # of bi_metric_state: if it is there, all others are
LONGEST_TEXT = 1000  # characters of bi_metric_state.error, warning and accepted
_ROWS_PER_STATEMENT = 1000
_BYTES_PER_STATEMENT = 4_000_000  # of rows to insert; max_allowed_packet is 16 MB or more
_STATES_FOR_DATES = "metric IN %s AND metric_date BETWEEN %s AND %s"


@dataclass(frozen=True)
class CellState:
    """What bi_metric_state knows of a cell."""

    state: State
    definition: str | None = None  # of the SQL that computed it; None: unknown
    is_accepted: bool = False  # its checks may fail
    is_maturing: bool = False  # of a helper: open, and computed when its date had ended
    warning: str = ""  # a line for each


MISSING = CellState("missing")


@dataclass(frozen=True)
class Before:
    """What was stored when a transaction began, at `moment` (seconds since the epoch, by the server's clock)."""

    moment: int
    holds_lock: bool
    newest: date  # the last date that has a cell
    rows: Mapping[Cell, StoredRow]  # of the batch's dates
    states: Mapping[Cell, CellState]  # of the batch's dates and of the bases: the periods before them

    def state(self, name: str, day: date) -> CellState:
        return self.states.get((name, day), MISSING)

    def is_current(self, name: str, day: date) -> bool:
        return self.state(name, day).state in CURRENT

    def is_needed(self, name: str, day: date) -> bool:
        """Tell whether a helper must run before what reads it; while it matures, it is as good as it can be."""
        return not self.is_current(name, day) and not self.state(name, day).is_maturing


@dataclass(frozen=True)
class Computed:
    """A cell that a transaction has computed."""

    name: str
    day: date
    is_helper: bool
    definition: str
    moment: int  # as of which it counts as computed
    milliseconds: int  # of the file's execution, which may have filled more dates
    file: str
    final_after: int  # days after its date for which its number is not complete
    warning: str | None = None  # a line for each
    accepted: str | None = None  # of the checks that failed, a line for each
    is_unsure: bool = False  # a check must be asked again


@dataclass(frozen=True)
class DueCell:
    """A cell that a night must compute."""

    name: str
    day: date
    is_missing: bool
    failed_at: str  # when its last try failed, in UTC; empty if it did not fail


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row of bi_metrics to be written; its value is an SQL expression with its arguments."""

    metric: str
    metric_date: date
    data_type: str
    f_list: str
    expression: str
    args: Sequence[Any]


@dataclass(frozen=True)
class Remark:
    """What was found about the number of a cell, in one line."""

    metric: str
    metric_date: date
    text: str

    def __str__(self) -> str:
        return f"{self.metric_date} {self.metric}: {self.text}"


@dataclass(frozen=True)
class Replaced:
    """A value that a run replaced after it had been final; both are whole JSON texts."""

    metric: str
    metric_date: date
    old_value: str
    new_value: str


class MetricStore:
    """Reads and writes rows and states. `zone` decides when a date has ended, `mend_days` how far back nights mend."""

    def __init__(self, database: DatabaseManager, zone: tzinfo | None, mend_days: int) -> None:
        self._db = database
        self._mend_days = mend_days
        self._day_end = lru_cache(4096)(lambda day: day_end(day, zone))

    def has_ended(self, day: date, moment: int, after: int = 0) -> bool:
        """Tell whether a date, and so many days after it, were over at a moment, in seconds since the epoch."""
        return moment >= self._day_end(date.fromordinal(min(day.toordinal() + after, date.max.toordinal())))

    def mended_since(self, today: date) -> date:
        """Return the oldest date that a night mends."""
        return date.fromordinal(max(1, today.toordinal() - self._mend_days))

    # --- before a run -------------------------------------------------------------------------------------------------

    def require_schema(self) -> None:
        """Raise MetricsError unless the tables are there and can roll back, and bi_metrics can upsert."""
        found: dict[str, str] = dict(self._db.query(
            "SELECT LOWER(table_name), engine FROM information_schema.tables "
            "WHERE table_schema = DATABASE() AND table_name IN %s", (OUR_TABLES,),
        ))  # fmt: skip
        for table in OUR_TABLES:
            if table not in found:
                raise MetricsError(f"database {self._db.name} has no table {table}; {REPAIR}")
            if str(found[table]).lower() != "innodb":
                raise MetricsError(
                    f"table {table} is in engine {found[table]}, which cannot roll back; "
                    f"run: ALTER TABLE {table} ENGINE = InnoDB"
                )
        wrong = self._db.query(
            "SELECT NULL, NULL FROM (SELECT 1 FROM bi_metrics LIMIT 1) AS some "
            "WHERE NOT EXISTS (SELECT 1 FROM bi_metric_state) "
            "AND NOT EXISTS (SELECT 1 FROM information_schema.statistics WHERE table_schema = DATABASE() "
            "AND table_name = 'bi_metrics' AND index_name = 'idx_metric_date') "
            "UNION ALL SELECT NULL, NULL FROM (SELECT 1 AS one) AS always "
            "WHERE NOT EXISTS (SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE() "
            "AND table_name = 'bi_metric_state' AND column_name = %s) "
            "UNION ALL (SELECT metrics, CAST(metric_date AS CHAR) FROM bi_metrics WHERE metric_date < %s "
            "ORDER BY metric_date LIMIT 1)",
            (NEWEST_COLUMN, OLDEST_DATE),
        )  # fmt: skip
        if (None, None) in wrong:  # a run would store some states, and the upgrade would take them for all
            raise MetricsError(f"the upgrade of the tables of an older version is not complete; {REPAIR}")
        if wrong:
            raise MetricsError(
                f"bi_metrics has a row of {wrong[0][0]} whose metric_date is {wrong[0][1]}, before {OLDEST_DATE}, the "
                "first date that MySQL holds; correct it, or run: "
                f"DELETE FROM bi_metrics WHERE metric_date < '{OLDEST_DATE}'"
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

    def computed(self) -> frozenset[str]:
        """Return every metric and helper that has a state."""
        return frozenset(row[0] for row in self._db.query("SELECT DISTINCT metric FROM bi_metric_state"))

    # --- rows, within a transaction -----------------------------------------------------------------------------------

    def before(self, metrics: DatesOf, helpers: DatesOf, bases: Mapping[str, date]) -> Before:
        """Ask for the time, the lock, the rows of `metrics`, and the states of both and of the cells `bases`.

        A row without a state, inserted by hand, counts as reopened; the state of a row that is gone, as missing.
        """
        with_bases = {name: [bases[name], *dates] if name in bases else dates
                      for name, dates in {**metrics, **helpers}.items()}  # fmt: skip
        where, args = _where("m.metrics", "m.metric_date", {name: with_bases[name] for name in metrics})
        found = self._db.query(
            f"SELECT UNIX_TIMESTAMP(), {self._db.run_lock.is_ours}, newest, m.metrics, m.metric_date, m.data_type, "
            "m.f_list, m.value_list, s.state, s.definition, s.accepted IS NOT NULL, COALESCE(s.warning, '') "
            "FROM (SELECT MAX(metric_date) AS newest FROM bi_metric_state) AS always "
            f"LEFT JOIN bi_metrics AS m ON {where} "
            "LEFT JOIN bi_metric_state AS s ON s.metric = m.metrics AND s.metric_date = m.metric_date",
            args,
        )
        rows, states = {}, {}
        for name, day, data_type, f_list, value_list, state, definition, accepted, warning in (r[3:] for r in found):
            if name is not None:
                states[name, day] = CellState(state or "reopened", definition, bool(accepted), warning=warning)
                if day != bases.get(name):
                    rows[name, day] = StoredRow(data_type, f_list, value_list)
        if helpers:
            where, args = _where("metric", "metric_date", {name: with_bases[name] for name in helpers})
            for name, day, state, definition, accepted, warning, computed in self._db.query(
                "SELECT metric, metric_date, state, definition, accepted IS NOT NULL, COALESCE(warning, ''), "
                f"TIMESTAMPDIFF(SECOND, '1970-01-01', computed_at) FROM bi_metric_state WHERE {where}", args,
            ):  # fmt: skip
                is_maturing = state == "open" and computed is not None and self.has_ended(day, computed)
                states[name, day] = CellState(state, definition, bool(accepted), is_maturing, warning)
        moment, holds_lock, newest = found[0][:3]
        return Before(int(moment), bool(holds_lock), newest or date.min, rows, states)

    def blank(self, rows: DatesOf, text: str, with_fields: bool) -> None:
        """Replace the values of the rows, and `with_fields` their f_list, by `text`, which no metric computes."""
        where, args = _where("metrics", "metric_date", rows)
        self._db.execute(
            f"UPDATE bi_metrics SET {'f_list = %s, ' * with_fields}value_list = %s WHERE {where}",
            (*[f'"{text}"'] * (1 + with_fields), *args),
        )

    def computed_dates(self, name: str, dates: Sequence[date], blank: str) -> set[date]:
        """Return the dates on which a metric has a row that is not blank."""
        where, args = _where("metrics", "metric_date", {name: dates})
        query = f"SELECT metric_date FROM bi_metrics WHERE {where} AND JSON_UNQUOTE(value_list) <> %s"
        return {day for (day,) in self._db.query(query, (*args, blank))}

    def rows(self, rows: DatesOf) -> Iterator[tuple[str, date, StoredRow]]:
        """Yield metric, date and row by date, holding none of them."""
        yield from self._rows(*_where("metrics", "metric_date", rows))

    def rows_between(self, spans: Mapping[str, tuple[date, date]]) -> Iterator[tuple[str, date, StoredRow]]:
        """Yield the rows of each name from its first to its last date, as rows() does."""
        same: dict[tuple[date, date], list[str]] = {}
        for name, span in spans.items():
            same.setdefault(span, []).append(name)
        where = " OR ".join(["(metrics IN %s AND metric_date BETWEEN %s AND %s)"] * len(same)) or "FALSE"
        yield from self._rows(where, [value for span, names in same.items() for value in (tuple(names), *span)])

    def _rows(self, where: str, args: Sequence[Any]) -> Iterator[tuple[str, date, StoredRow]]:
        query = (
            f"SELECT metrics, metric_date, data_type, f_list, value_list FROM bi_metrics WHERE {where} "
            "ORDER BY metric_date, metrics"
        )
        with self._db.select(query, args) as (_, found):
            for row in found:
                yield row[0], row[1], StoredRow(*row[2:])

    def write(self, new: Iterable[NewRow]) -> None:
        """Upsert rows, in as few statements as their size allows."""
        rows: list[str] = []
        args: list[Any] = []
        size = 0
        for row in new:
            rows.append(f"(%s, %s, %s, {row.expression}, %s)")
            args += [row.metric, row.data_type, row.f_list, *row.args, row.metric_date]
            size += len(row.f_list) + len(row.expression) + sum(len(arg) for arg in row.args if isinstance(arg, str))
            if size > _BYTES_PER_STATEMENT:
                self._upsert(rows, args)
                rows, args, size = [], [], 0
        if rows:
            self._upsert(rows, args)

    def _upsert(self, rows: Sequence[str], args: Sequence[Any]) -> None:
        self._db.execute(
            f"INSERT INTO bi_metrics (metrics, data_type, f_list, value_list, metric_date) VALUES {', '.join(rows)} "
            "ON DUPLICATE KEY UPDATE data_type = VALUES(data_type), f_list = VALUES(f_list), "
            "value_list = VALUES(value_list), updated_at = NOW()",
            args,
        )

    # --- states, within a transaction ---------------------------------------------------------------------------------

    def write_states(self, cells: Sequence[Computed], run_id: str) -> None:
        """Store the states of cells: final if their number was complete when they were computed, else open.

        A cell that is unsure is reopened: to be computed again when what is due before it has been computed.
        """
        for part in _parts(cells):
            values = []
            for c in part:
                state = "open"
                if self.has_ended(c.day, c.moment, c.final_after):
                    state = "reopened" if c.is_unsure else "final"
                at = utc_text(c.moment)
                values.append((c.name, c.day, c.is_helper, state, c.definition, at, c.milliseconds, c.file, run_id,
                               _cut(c.warning), _cut(c.accepted)))  # fmt: skip
            self._db.execute(
                "INSERT INTO bi_metric_state (metric, metric_date, is_helper, state, definition, computed_at, "
                f"milliseconds, file, run_id, warning, accepted) VALUES {', '.join(['%s'] * len(values))} "
                "ON DUPLICATE KEY UPDATE "
                "is_helper = VALUES(is_helper), state = VALUES(state), definition = VALUES(definition), "
                "computed_at = VALUES(computed_at), milliseconds = VALUES(milliseconds), file = VALUES(file), "
                "run_id = VALUES(run_id), warning = VALUES(warning), accepted = VALUES(accepted), "
                "error = NULL, failed_at = NULL",
                values,
            )

    def reopen(self, ranges: Sequence[tuple[str, date, date]]) -> int:
        """Reopen the current cells of names between two dates each; return how many those were."""
        number = 0
        for part in _parts(ranges):
            places = " OR ".join(["(metric = %s AND metric_date BETWEEN %s AND %s)"] * len(part))
            number += self._db.execute(
                f"UPDATE bi_metric_state SET state = 'reopened' WHERE state IN ('waiting', 'final') AND ({places})",
                [value for each in part for value in each],
            )
        return number

    def settle(self, inputs: Mapping[str, frozenset[str]], nightly: Mapping[str, Nightly], today: date) -> None:
        """Make current cells waiting if something that they may have read is due, else final; computes nothing.

        `inputs` names what each metric or helper reads, directly or through others.
        """
        not_final = self._not_final(self.mended_since(today))
        oldest: dict[str, date] = {}
        for cell in self._due_of(not_final, nightly, today):
            oldest[cell.name] = min(cell.day, oldest.get(cell.name, cell.day))
        waits = {name: min(oldest[read] for read in reads & oldest.keys())
                 for name, reads in inputs.items() if not reads.isdisjoint(oldest)}  # fmt: skip
        promoted = [(name, day) for name, day, state, _ in not_final
                    if state == "waiting" and (name not in waits or day < waits[name])]  # fmt: skip
        self._set_state(promoted, "final")
        for some in _parts(list(waits.items())):
            places = " OR ".join(["(metric = %s AND metric_date >= %s)"] * len(some))
            self._db.execute(
                f"UPDATE bi_metric_state SET state = 'waiting' WHERE state = 'final' AND ({places})",
                [value for each in some for value in each],
            )

    def fail(self, cells: Sequence[tuple[str, date, bool]], error: str, moment: int) -> None:
        """Store why the last try of cells (name, date, is it a helper) failed; their state stays as it was."""
        for part in _parts(cells):
            values = [(*cell, "missing", _cut(error), utc_text(moment)) for cell in part]
            self._db.execute(
                "INSERT INTO bi_metric_state (metric, metric_date, is_helper, state, error, failed_at) "
                f"VALUES {', '.join(['%s'] * len(values))} "
                "ON DUPLICATE KEY UPDATE error = VALUES(error), failed_at = VALUES(failed_at)",
                values,
            )

    def keep_replaced(self, replaced: Sequence[Replaced], moment: int, run_id: str) -> None:
        """Keep the values that were replaced after they had been final."""
        at, args, size = utc_text(moment), [], 0
        for each in replaced:
            args.append((each.metric, each.metric_date, at, run_id, each.old_value, each.new_value))
            size += len(each.old_value) + len(each.new_value)
            if size > _BYTES_PER_STATEMENT:
                self._insert_replaced(args)
                args, size = [], 0
        if args:
            self._insert_replaced(args)

    def _insert_replaced(self, args: Sequence[tuple[Any, ...]]) -> None:
        self._db.execute(
            "INSERT INTO bi_metric_changes (metric, metric_date, changed_at, run_id, old_value, new_value) "
            f"VALUES {', '.join(['%s'] * len(args))}", args,
        )  # fmt: skip

    def reconcile(self, nightly: Mapping[str, Nightly], today: date) -> None:
        """Bring the states of the dates that nights mend in line with the rows, whatever was done by hand.

        `nightly` is what nights compute, by name. A row without a state becomes reopened. A state whose row is gone
        becomes missing, and so does each end of a period without either after a first row. What lies before the first
        row, as a retention job leaves it, is deleted.
        """
        since = self.mended_since(today)
        self._db.execute(
            "INSERT INTO bi_metric_state (metric, metric_date, state) SELECT m.metrics, m.metric_date, 'reopened' "
            "FROM bi_metrics AS m LEFT JOIN bi_metric_state AS s ON s.metric = m.metrics "
            "AND s.metric_date = m.metric_date WHERE m.metric_date >= %s AND s.metric IS NULL",
            (since,),
        )
        gone = self._db.query(
            "SELECT s.metric, s.metric_date FROM bi_metric_state AS s LEFT JOIN bi_metrics AS m "
            "ON m.metrics = s.metric AND m.metric_date = s.metric_date "
            "WHERE s.metric_date >= %s AND s.state <> 'missing' AND NOT s.is_helper AND m.metrics IS NULL",
            (since,),
        )
        self._set_state(gone, "missing")
        spans = self.spans()
        for name, first in self._db.query("SELECT metric, MIN(metric_date) FROM bi_metric_state GROUP BY metric"):
            if name in spans and first < spans[name][0]:
                self._db.execute(
                    "DELETE FROM bi_metric_state WHERE metric = %s AND metric_date < %s", (name, spans[name][0])
                )
        # What is too old to be mended keeps nothing waiting any more.
        old = self._db.query(
            "SELECT metric, metric_date FROM bi_metric_state WHERE state = 'waiting' AND metric_date < %s", (since,)
        )
        self._set_state(old, "final")
        self.add_missing(nightly, today)

    def _set_state(self, cells: Sequence[Cell], state: State) -> None:
        for part in _parts(cells):
            self._db.execute("UPDATE bi_metric_state SET state = %s WHERE (metric, metric_date) IN %s", (state, part))

    def add_missing(self, nightly: Mapping[str, Nightly], today: date) -> None:
        """Mark each end of a period that lies after a first row and has no state as missing."""
        for part in _parts(self.gaps(nightly, today, self.mended_since(today))):
            values = [(name, day, nightly[name].is_helper, "missing") for name, day in part]
            self._db.execute(
                f"INSERT INTO bi_metric_state (metric, metric_date, is_helper, state) "
                f"VALUES {', '.join(['%s'] * len(values))}", values,
            )  # fmt: skip

    # --- headers, in a transaction of its own -------------------------------------------------------------------------

    def describe(self, files: Mapping[str, MetricFile], stored: Collection[str]) -> None:
        """Store what the headers of metrics say; if nothing has changed, nothing is written.

        A metric of `stored`, which has rows, keeps what its file said last; one without file and rows is forgotten.
        """
        columns = ", ".join(HEADER_COLUMNS)
        known = {row[0]: row for row in self._db.query(f"SELECT metric, {columns} FROM bi_metric_headers")}
        said = {name: (name, *_header(file)) for name, file in files.items() if len(name) <= LONGEST_NAME}
        said |= {name: (name, name, "", "", "", "", "", "") for name in set(stored) - said.keys() - known.keys()}
        changed = [row for name, row in said.items() if known.get(name) != row]
        gone = known.keys() - said.keys() - set(stored)
        if not changed and not gone:
            return
        with self._db.transaction():
            for part in _parts(changed):
                self._db.execute(
                    f"INSERT INTO bi_metric_headers (metric, {columns}) VALUES {', '.join(['%s'] * len(part))} "
                    f"ON DUPLICATE KEY UPDATE {', '.join(f'{name} = VALUES({name})' for name in HEADER_COLUMNS)}", part,
                )  # fmt: skip
            if gone:
                self._db.execute("DELETE FROM bi_metric_headers WHERE metric IN %s", (tuple(gone),))

    # --- across dates -------------------------------------------------------------------------------------------------

    def spans(self) -> dict[str, tuple[date, date]]:
        """Return the dates of the first and of the newest row of each metric."""
        query = "SELECT metrics, MIN(metric_date), MAX(metric_date) FROM bi_metrics GROUP BY metrics"
        return {name: (first, newest) for name, first, newest in self._db.query(query)}

    def first_dates(self, names: Mapping[str, Nightly]) -> dict[str, date]:
        """Return the date of the first row of each metric, and of the first cell of each helper, that has one."""
        found = {name: first for name, (first, _) in self.spans().items() if name in names}
        if helpers := [name for name, each in names.items() if each.is_helper]:
            found |= dict(self._db.query(
                "SELECT metric, MIN(metric_date) FROM bi_metric_state "
                "WHERE metric IN %s AND state <> 'missing' GROUP BY metric", (helpers,),
            ))  # fmt: skip
        return found

    def gaps(self, names: Mapping[str, Nightly], today: date, since: date) -> list[Cell]:
        """Return the ends of periods from `since` to yesterday without a state though their name has an earlier row."""
        yesterday = today - ONE_DAY
        starts = {name: max(day, since) for name, day in self.first_dates(names).items() if day <= yesterday}
        counts: dict[str, int] = dict(self._db.query(
            "SELECT metric, COUNT(*) FROM bi_metric_state WHERE metric_date BETWEEN %s AND %s GROUP BY metric",
            (since, yesterday),
        ))  # fmt: skip
        ends = {name: names[name].period.ends(start, yesterday) for name, start in starts.items()}
        # Rows of another period than the present one may lie between its ends: there the number says nothing.
        some = [name for name in starts if names[name].period.unit != "day" or counts.get(name, 0) < len(ends[name])]
        if not some:
            return []
        known = set(self._db.query(
            f"SELECT metric, metric_date FROM bi_metric_state WHERE {_STATES_FOR_DATES}",
            (_some(some), min(starts[name] for name in some), yesterday),
        ))  # fmt: skip
        return [(name, day) for name in sorted(some) for day in ends[name] if (name, day) not in known]

    def due(self, nightly: Mapping[str, Nightly], today: date) -> list[DueCell]:
        """Return the cells that a night must compute, by date: open, reopened, or missing after a first row.

        A row of another period than the present one may lie where no period ends: no file computes it any more.
        """
        return self._due_of(self._not_final(self.mended_since(today)), nightly, today)

    def _not_final(self, since: date) -> Sequence[tuple[str, date, State, str]]:
        """Return the cells from a date on that are not final, by date, with the time of their last failure.

        A cell that is missing counts if its metric has an earlier row, or its helper an earlier cell.
        """
        return self._db.query(
            "SELECT metric, metric_date, state, COALESCE(CAST(failed_at AS CHAR), '') FROM bi_metric_state AS s "
            "WHERE metric_date >= %s AND state <> 'final' AND (state <> 'missing' OR IF(is_helper, "
            "EXISTS (SELECT 1 FROM bi_metric_state AS earlier WHERE earlier.metric = s.metric "
            "AND earlier.metric_date < s.metric_date AND earlier.state <> 'missing'), "
            "EXISTS (SELECT 1 FROM bi_metrics AS earlier WHERE earlier.metrics = s.metric "
            "AND earlier.metric_date < s.metric_date))) ORDER BY metric_date", (since,),
        )  # fmt: skip

    def _due_of(
        self, not_final: Sequence[tuple[str, date, State, str]], nightly: Mapping[str, Nightly], today: date
    ) -> list[DueCell]:
        return [
            DueCell(name, day, state == "missing", failed_at) for name, day, state, failed_at in not_final
            if name in nightly and state != "waiting" and day + nightly[name].final_after * ONE_DAY < today
            and nightly[name].period.is_end(day)
        ]  # fmt: skip

    def too_old(self, nightly: Mapping[str, Nightly], today: date) -> list[Cell]:
        """Return the reopened and open cells that nights leave alone, because their dates are too old."""
        found = self._db.query(
            "SELECT metric, metric_date FROM bi_metric_state WHERE metric_date < %s AND state IN ('open', 'reopened') "
            "ORDER BY 1, 2", (self.mended_since(today),),
        )  # fmt: skip
        return [(name, day) for name, day in found if name in nightly and nightly[name].period.is_end(day)]

    def newest_helper_dates(self, names: Collection[str]) -> dict[str, date]:
        """Return the newest date of each helper among some names that has a cell."""
        return dict(self._db.query(
            "SELECT metric, MAX(metric_date) FROM bi_metric_state "
            "WHERE metric IN %s AND is_helper AND state <> 'missing' GROUP BY metric", (_some(names),),
        ))  # fmt: skip

    def final_cells(self, since: date) -> set[Cell]:
        """Return the final cells of dates from `since` on."""
        query = "SELECT metric, metric_date FROM bi_metric_state WHERE metric_date >= %s AND state = 'final'"
        return {(name, day) for name, day in self._db.query(query, (since,))}

    def older_sql(self, definitions: Mapping[str, str]) -> list[Cell]:
        """Return the final cells that another definition than the present one computed, by name and date."""
        known = self._db.query(
            "SELECT DISTINCT metric, definition FROM bi_metric_state WHERE metric IN %s AND definition IS NOT NULL",
            (_some(definitions),),
        )
        older = [(name, text) for name, text in known if text != definitions[name]]
        if not older:
            return []
        return list(self._db.query(
            "SELECT metric, metric_date FROM bi_metric_state WHERE (metric, definition) IN %s AND state = 'final' "
            "ORDER BY 1, 2", (older,),
        ))  # fmt: skip

    def definitions_before(self, names: Collection[str], day: date) -> Sequence[tuple[str, str]]:
        """Return, for some names, the definition that computed the newest cell before a date; a gap has none."""
        return self._db.query(
            "SELECT s.metric, s.definition FROM bi_metric_state AS s JOIN (SELECT metric, MAX(metric_date) AS newest "
            "FROM bi_metric_state WHERE metric IN %s AND metric_date < %s GROUP BY metric) AS n "
            "ON n.metric = s.metric AND n.newest = s.metric_date WHERE s.definition IS NOT NULL", (_some(names), day),
        )  # fmt: skip


def _header(file: MetricFile) -> tuple[str, ...]:
    """Return what a file's header says, by HEADER_COLUMNS, cut to what they hold. It need not be in UTF-8."""
    values = (file.title, file.description, file.data_type, file.unit, file.owner, ", ".join(file.tags),
              str(file.period))  # fmt: skip
    texts = (value.encode("utf-8", "backslashreplace").decode() for value in values)
    return tuple(text[:most] for text, most in zip(texts, HEADER_COLUMNS.values(), strict=True))


def by_name(cells: Iterable[Cell]) -> dict[str, list[date]]:
    """Return the dates of each name, in their order; a name without any has an empty list."""
    found: dict[str, list[date]] = defaultdict(list)
    for name, day in cells:
        found[name].append(day)
    return found


def _where(name: str, day: str, dates_of: DatesOf) -> tuple[str, list[Any]]:
    """Return a condition that holds for the dates of each name, with its arguments."""
    same: dict[tuple[date, ...], list[str]] = {}
    for each, dates in dates_of.items():
        if dates:
            same.setdefault(tuple(dates), []).append(each)
    terms, args = [], []
    for dates, names in same.items():
        has_gaps = (dates[-1] - dates[0]).days >= len(dates)  # ends of weeks: rows of other dates may lie between them
        terms.append(f"({name} IN %s AND {day} {'IN %s' if has_gaps else 'BETWEEN %s AND %s'})")
        args += [tuple(names), *([dates] if has_gaps else [dates[0], dates[-1]])]
    return " OR ".join(terms) or "FALSE", args


def _cut(text: str | None) -> str | None:
    return text and text[:LONGEST_TEXT]


def _some(names: Iterable[str]) -> tuple[str, ...]:
    """Return names for IN (...), which must not be empty."""
    return tuple(names) or ("",)


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _ROWS_PER_STATEMENT):
        yield items[start : start + _ROWS_PER_STATEMENT]
