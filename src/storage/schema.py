"""Applies sql/schema.sql to the database of the settings, and upgrades tables: python -m src.storage.schema."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from config.database import ROOT, load_settings
from src.dates import business_zone, day_end, utc_text
from src.db_manager import DatabaseManager, Row
from src.errors import LockedError, MetricsError, StatementError
from src.metric_file.file import parse
from src.server.codes import TRANSIENT

OLD_INDEX = "idx_state"  # of bi_metrics in version 2; it holds updated_at
# Added since, by table, in the order of sql/schema.sql.
ADDED_INDEXES = {"bi_metrics": ("idx_metric_date", "metric_date"),
                 "bi_metric_state": ("idx_state_date", "state, metric_date")}  # fmt: skip
# To bi_metric_state, in the order of sql/schema.sql.
ADDED_COLUMNS = {"warning": "VARCHAR(1000) NULL", "accepted": "VARCHAR(1000) NULL"}
# Until version 2, updated_at also told which rows were final, and this value marked those to be computed again.
MARK = "1970-01-02 00:00:00"
# bi_metric_runs was the log of version 2, with a row for each run of a file on a date.
NEWEST_RUN = (
    "(SELECT MAX(r.created_at) FROM bi_metric_runs AS r "
    "WHERE r.metric = m.metrics AND r.metric_date = m.metric_date AND r.status = 'ok')"
)


def apply_schema() -> list[str]:
    """Create what is missing, upgrade the tables of versions 1 and 2, and return a line for each thing done.

    Values stay as they are. Each step looks at what is there, so a call that was killed is completed by the next one.
    A server or an account without views gets the tables all the same.
    """
    settings = load_settings()
    # In UTC a TIMESTAMP can be copied to a DATETIME and compared with a text.
    with closing(DatabaseManager(replace(settings, db_time_zone="+00:00"))) as database:
        database.connect()
        _keep_runs_out(database)
        done = create_tables(database) + _add_columns(database)
        is_empty = not database.query("SELECT 1 FROM bi_metrics LIMIT 1")
        if not is_empty and not database.query("SELECT 1 FROM bi_metric_state LIMIT 1"):
            done += _store_states(database, settings.metrics_timezone)
        done += _change_indexes(database)
        has_runs = "bi_metric_runs" in _objects(database)
    done = done or ["nothing had to change"]
    if has_runs:
        done.append("bi_metric_runs is not used any more; to remove it and its history: DROP TABLE bi_metric_runs")
    if is_empty:
        done.append("bi_metrics is empty; load the history next: python run_metrics.py --initial START END")
    return [*done, f"sql/schema.sql is applied to {settings.where}"]


def _keep_runs_out(database: DatabaseManager) -> None:
    """Take the lock of the runs. A run of version 2 could change a row after its state has been stored."""
    try:
        database.run_lock.take()
    except LockedError:
        what = f"a run is in progress on database {database.name}"
        raise LockedError(f"{what}; when it has ended, start ./setup.sh --schema again") from None


def create_tables(database: DatabaseManager) -> list[str]:
    """Run the statements of sql/schema.sql and return what they created or replaced."""
    before = _objects(database)
    refused = []
    for statement in parse((ROOT / "sql" / "schema.sql").read_text(encoding="utf-8")).statements:
        try:
            database.execute("".join(token.text for token in statement.tokens))
        except StatementError as error:
            if "VIEW" not in statement.words[:8] or error.code in TRANSIENT:
                raise
            view = statement.words[statement.words.index("VIEW") + 1].lower()
            what = f"left the view {view} as it was" if view in before else f"without the view {view}"
            refused.append(f"{what}: {error}")
    after = sorted(_objects(database).items())
    created = [f"created {name}" for name, _ in after if name not in before]
    replaced = [f"replaced {name}" for name, definition in after if before.get(name, definition) != definition]
    return [*created, *replaced, *refused]


def _objects(database: DatabaseManager) -> dict[str, str]:
    """Return the tables and views that are ours, with the definitions of the views."""
    return dict(database.query(
        "SELECT LOWER(t.table_name), COALESCE(v.view_definition, '') FROM information_schema.tables AS t "
        "LEFT JOIN information_schema.views AS v ON v.table_schema = t.table_schema AND v.table_name = t.table_name "
        "WHERE t.table_schema = DATABASE() AND t.table_name LIKE 'bi\\_metric%'"
    ))  # fmt: skip


def _add_columns(database: DatabaseManager) -> list[str]:
    """Add the columns that bi_metric_state lacks because an earlier 3.0.0 created it."""
    found = database.query(
        "SELECT LOWER(column_name) FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND table_name = 'bi_metric_state'"
    )
    added = [name for name in ADDED_COLUMNS if (name,) not in found]
    if added:
        columns = ", ".join(f"ADD COLUMN {name} {ADDED_COLUMNS[name]}" for name in added)
        database.execute(f"ALTER TABLE bi_metric_state {columns}")
    return [f"added to bi_metric_state: {', '.join(added)}"] if added else []


def _store_states(database: DatabaseManager, zone_name: str) -> list[str]:
    """Store the state of each row of bi_metrics and of each run of a helper, as versions 1 and 2 left them.

    Rows with the MARK get the time of their newest run, or created_at, as updated_at. All of it is one transaction.
    """
    zone = business_zone(zone_name)
    has_runs = "bi_metric_runs" in _objects(database)
    made_at = f"COALESCE({NEWEST_RUN}, m.created_at)" if has_runs else "m.created_at"
    with database.transaction():
        for (day,) in database.query("SELECT DISTINCT metric_date FROM bi_metrics ORDER BY metric_date"):
            end = utc_text(day_end(day, zone))
            database.execute(
                "INSERT INTO bi_metric_state (metric, metric_date, state, computed_at) "
                "SELECT m.metrics, m.metric_date, CASE WHEN NOW() < %(end)s THEN 'open' "
                "WHEN m.updated_at = %(mark)s THEN 'reopened' WHEN m.updated_at >= %(end)s THEN 'final' ELSE 'open' "
                f"END, IF(m.updated_at = %(mark)s, {made_at}, m.updated_at) "
                "FROM bi_metrics AS m WHERE m.metric_date = %(day)s",
                {"day": day, "end": end, "mark": MARK},
            )
        marked = database.execute(
            "UPDATE bi_metrics AS m "
            "JOIN bi_metric_state AS s ON s.metric = m.metrics AND s.metric_date = m.metric_date "
            "SET m.updated_at = s.computed_at WHERE m.updated_at = %s",
            (MARK,),
        )
        if has_runs:  # row_count is 0 for a helper and 1 for a metric
            database.execute(
                "INSERT INTO bi_metric_state (metric, metric_date, is_helper, state, computed_at) "
                "SELECT r.metric, r.metric_date, 1, IF(r.is_final, 'final', 'open'), r.created_at "
                "FROM bi_metric_runs AS r JOIN (SELECT MAX(id) AS id FROM bi_metric_runs "
                "WHERE status = 'ok' AND row_count = 0 AND metric NOT IN (SELECT metrics FROM bi_metrics) "
                "GROUP BY metric, metric_date) AS newest ON newest.id = r.id"
            )
        stored = database.query("SELECT is_helper, state, COUNT(*) FROM bi_metric_state GROUP BY 1, 2 ORDER BY 2 DESC")
    ended = f"METRICS_TIMEZONE={zone_name}" if zone_name else "this machine's time zone"
    said = [f"stored the states of the rows of bi_metrics by updated_at and {ended}: {_counts(stored, 0)}"]
    if _counts(stored, 1):
        said.append(f"stored the states of the helpers by their newest runs in bi_metric_runs: {_counts(stored, 1)}")
    if marked:
        said.append(f"set updated_at of the rows marked 1970-01-02 to their newest run, or created_at: {marked:,}")
    return said


def _counts(stored: Sequence[Row], is_helper: int) -> str:
    return ", ".join(f"{number:,} {state}" for helper, state, number in stored if helper == is_helper)


def _change_indexes(database: DatabaseManager) -> list[str]:
    """Give the tables of earlier versions the indexes of sql/schema.sql."""
    done = []
    for table, (name, columns) in ADDED_INDEXES.items():
        found = database.query(
            "SELECT DISTINCT LOWER(index_name) FROM information_schema.statistics "
            "WHERE table_schema = DATABASE() AND table_name = %s", (table,),
        )  # fmt: skip
        changes = [] if (name,) in found else [f"ADD KEY {name} ({columns})"]
        changes += [f"DROP KEY {OLD_INDEX}"] if (OLD_INDEX,) in found else []
        if changes:
            database.execute(f"ALTER TABLE {table} {', '.join(changes)}")
            done.append(f"changed the indexes of {table}: {', '.join(changes)}")
    return done


if __name__ == "__main__":
    try:
        print("\n".join(apply_schema()))
    except MetricsError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
