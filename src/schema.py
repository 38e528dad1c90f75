"""Applies sql/schema.sql to the database of the settings: python -m src.schema."""

from __future__ import annotations

import sys

from config.database import ROOT, load_settings
from src.db_manager import DatabaseManager
from src.errors import MetricsError
from src.sql_text import parse


def apply_schema() -> str:
    """Create the tables that are missing, and return where. Existing tables and rows stay as they are."""
    settings = load_settings()
    script = parse((ROOT / "sql" / "schema.sql").read_text(encoding="utf-8"))
    database = DatabaseManager(settings)
    database.connect()
    try:
        database.run([statement.text for statement in script.statements])
    finally:
        database.close()
    return settings.where


if __name__ == "__main__":
    try:
        print(f"sql/schema.sql is applied to {apply_schema()}")
    except MetricsError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
