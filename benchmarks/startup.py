"""Reads and checks 1,000 made-up files of 3 KB: python -m benchmarks.startup [FILES]. The bound is 1.5 s for 1,000."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from src.sql_checks import check_catalog
from src.sql_loader import load_catalog

SQL = Path(__file__).resolve().parent.parent / "sql"
SIZE = 3_000  # bytes of a file


def write_files(folder: Path, count: int) -> None:
    """Write copies of the shipped incremental files under other names, each filled up to SIZE with its own queries."""
    shipped = sorted((SQL / "incremental").glob("*.sql"))
    (folder / "incremental").mkdir()
    for number in range(count):
        source = shipped[number % len(shipped)]
        name = f"metric_{number}"
        text = source.read_text("utf-8").replace(source.stem.partition("_")[2], name)
        more = (
            "\n-- Before the total, its parts: each country by itself.\nCREATE TEMPORARY TABLE part_{} AS\n"
            "SELECT country, COUNT(*) AS users FROM users WHERE created_at < %(metric_date)s GROUP BY country;\n"
        )
        parts = (more.format(part) for part in range(max(0, (SIZE - len(text)) // len(more) + 1)))
        (folder / "incremental" / f"{number:04}_{name}.sql").write_text(text + "".join(parts), "utf-8")


def measure(folder: Path) -> str:
    started = time.perf_counter()
    catalog = load_catalog(folder)
    read = time.perf_counter()
    problems = check_catalog(catalog, catalog.files, ["cutoff_date"])
    checked = time.perf_counter()
    return (
        f"read {read - started:.2f} s, checked {checked - read:.2f} s, together {checked - started:.2f} s, "
        f"{len(problems)} problems"
    )


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_files(folder, count)
        size = sum(path.stat().st_size for path in folder.rglob("*.sql"))
        print(f"{count} files of {size / count:,.0f} bytes")
        for _ in range(5):
            print(measure(folder))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
