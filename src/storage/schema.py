"""Applies sql/schema.sql to the database of the settings: python -m src.storage.schema."""

from __future__ import annotations

import sys
from contextlib import closing

from config.database import ROOT, load_settings
from src.db_manager import DatabaseManager
from src.errors import MetricsError, StatementError
from src.metric_file.file import parse
from src.server.codes import TRANSIENT

STATE_INDEX = "idx_state"


def apply_schema() -> list[str]:
    """Create the tables, the index and the views that are missing, and return what was done, a line each.

    Existing tables and rows stay as they are. A server or an account without views gets the tables all the same.
    """
    settings = load_settings()
    said = []
    with closing(DatabaseManager(settings)) as database:
        database.connect()
        for statement in parse((ROOT / "sql" / "schema.sql").read_text(encoding="utf-8")).statements:
            try:
                database.execute("".join(token.text for token in statement.tokens))
            except StatementError as error:
                if "VIEW" not in statement.words[:8] or error.code in TRANSIENT:
                    raise
                said.append(f"without the view {_view_name(statement.words)}: {error}")
        if not database.query(
            "SELECT 1 FROM information_schema.statistics WHERE table_schema = DATABASE() "
            "AND table_name = 'bi_metrics' AND index_name = %s", (STATE_INDEX,),
        ):  # fmt: skip
            database.execute(f"ALTER TABLE bi_metrics ADD KEY {STATE_INDEX} (metric_date, metrics, updated_at)")
            said.append(f"added the index {STATE_INDEX} to bi_metrics")
        if not database.query("SELECT 1 FROM bi_metrics LIMIT 1"):
            said.append("bi_metrics is empty; load the history next: python run_metrics.py --initial START END")
    return [*said, f"sql/schema.sql is applied to {settings.where}"]


def _view_name(words: tuple[str, ...]) -> str:
    return words[words.index("VIEW") + 1].lower()


if __name__ == "__main__":
    try:
        print("\n".join(apply_schema()))
    except MetricsError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
