"""What many teams write: a connection a date, cursor.execute() a file, one commit. The benchmark's second side."""

from __future__ import annotations

import os
import sys
from datetime import date, timedelta
from pathlib import Path

import pymysql


def main(folder: Path, start: date, end: date) -> None:
    """Run the incremental files below `folder` for every date from `start` to `end`, both included."""
    files = [*folder.glob("[0-9]*.sql"), *(folder / "incremental").glob("*.sql")]
    queries = [path.read_text() for path in sorted(files, key=lambda path: path.name)]
    day = start
    while day <= end:
        connection = pymysql.connect(
            unix_socket=os.environ["DB_SOCKET"], user=os.environ["DB_USER"], database=os.environ["DB_NAME"]
        )
        with connection, connection.cursor() as cursor:
            for query in queries:
                cursor.execute(query, {"metric_date": day, "cutoff_date": os.environ["METRIC_PARAM_CUTOFF_DATE"]})
            connection.commit()
        day += timedelta(days=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), date.fromisoformat(sys.argv[2]), date.fromisoformat(sys.argv[3]))
