"""Measures what starting costs, without a server: python -m benchmarks.startup [--files N]

The modules that both commands import before their first query, by -X importtime, summed by package; and how long
1,000 made-up files of 3 KB take to read and check: the bound is 1.5 s for 1,000.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median

from src.metric_file.checks import check_catalog
from src.sql_loader import load_catalog

ROOT = Path(__file__).resolve().parent.parent
SIZE = 3_000  # bytes of a file
SHOWN_PACKAGES = 14
# A command that cannot connect has imported everything that it needs before its first query, and ends there.
NO_SERVER = {"DB_SOCKET": "/nonexistent/bi_metrics.sock", "DB_HOST": "", "DB_USER": "root", "DB_NAME": "none",
             "METRIC_PARAM_CUTOFF_DATE": "2024-01-01"}  # fmt: skip
COMMANDS = {
    "run_metrics.py": ["run_metrics.py", "2025-12-31", "--retries", "0"],
    "list_metrics.py --status": ["list_metrics.py", "--status"],
}
CANNOT_CONNECT = 2
PROGRAMS = {
    "bare Python": ["-c", ""],
    "Python and PyMySQL": ["-c", "import pymysql"],
    "run_metrics.py --help": ["run_metrics.py", "--help"],
}


def print_startup(folder: Path, rounds: int) -> None:
    """Print the time to the first query, and the imports within it by package."""
    print("| start-up | time |\n|---|---|")
    for name, words in (PROGRAMS | COMMANDS).items():
        what = f"{name}, to its first query" if name in COMMANDS else name
        print(f"| {what} | {median(run(folder, words)[0] for _ in range(rounds)) * 1000:.0f} ms |")
    tables = {name: imports(folder, words, rounds) for name, words in COMMANDS.items()}
    packages = [package for package, _ in tables["run_metrics.py"].most_common(SHOWN_PACKAGES)]
    print(f"\n| imports before the first query | {' | '.join(tables)} |\n|---|---|---|")
    for package in packages:
        print(f"| {package} | {' | '.join(f'{table[package] / 1000:.1f} ms' for table in tables.values())} |")
    others = (sum(table.values()) - sum(table[package] for package in packages) for table in tables.values())
    print(f"| all others | {' | '.join(f'{microseconds / 1000:.1f} ms' for microseconds in others)} |")
    print(f"| together | {' | '.join(f'{sum(table.values()) / 1000:.1f} ms' for table in tables.values())} |")


def imports(folder: Path, words: Sequence[str], rounds: int) -> Counter[str]:
    """Return the microseconds that each package takes to import by itself: the median of several starts."""
    tables = [_imports(run(folder, ["-X", "importtime", *words])[1]) for _ in range(rounds)]
    packages = {package for table in tables for package in table}
    return Counter({package: round(median(table[package] for table in tables)) for package in packages})


def _imports(text: str) -> Counter[str]:
    packages: Counter[str] = Counter()
    for line in text.splitlines():
        fields = line.removeprefix("import time:").split("|")
        if len(fields) == 3 and fields[0].strip().isdigit():
            module = fields[2].strip()
            # Our own modules one by one, others by package.
            packages[module if module.startswith("src.") else module.partition(".")[0]] += int(fields[0])
    return packages


def run(folder: Path, words: Sequence[str]) -> tuple[float, str]:
    """Return the seconds that a start took, and what it wrote to stderr."""
    env = {name: os.environ[name] for name in ("PATH", "HOME", "TZ") if name in os.environ} | NO_SERVER
    clock = time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - clock
    if done.returncode not in (0, CANNOT_CONNECT):
        sys.exit(f"Error: {' '.join(words)} ended with {done.returncode}: {done.stderr[-1000:]}")
    return seconds, done.stderr


def make_project(folder: Path) -> None:
    """Copy both commands with the shipped metrics and a .env, as on a real machine; its log stays in the copy."""
    for name in ("src", "config", "sql"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("run_metrics.py", "list_metrics.py"):
        shutil.copy2(ROOT / name, folder)
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in NO_SERVER.items()))


def write_files(folder: Path, count: int) -> None:
    """Write copies of shipped files under other names, each filled up to SIZE with queries of its own."""
    shipped = sorted((ROOT / "sql").glob("[3-6]*.sql"))
    (folder / "incremental").mkdir()
    for number in range(count):
        source = shipped[number % len(shipped)]
        name = f"metric_{number}"
        text = source.read_text("utf-8").replace(source.stem.partition("_")[2], name)
        more = (
            "\n-- Before the total, its parts: each country by itself.\nCREATE TEMPORARY TABLE part_{} AS\n"
            "SELECT country, COUNT(*) AS users FROM users WHERE created_at < %(metric_date)s GROUP BY country;\n"
        )
        # In front, for a SELECT file must end with its SELECT.
        header, _, sql = text.partition("\n\n")
        parts = (more.format(part) for part in range(max(0, (SIZE - len(text)) // len(more) + 1)))
        (folder / "incremental" / f"{number:04}_{name}.sql").write_text(f"{header}\n{''.join(parts)}\n{sql}", "utf-8")


def print_reading(folder: Path, rounds: int, count: int) -> None:
    """Print how long many files take to read and check."""
    write_files(folder, count)
    size = sum(path.stat().st_size for path in folder.rglob("*.sql"))
    times = []
    for _ in range(rounds):
        clock = time.perf_counter()
        catalog = load_catalog(folder)
        read = time.perf_counter()
        problems = check_catalog(catalog, catalog.files, ["cutoff_date"])
        times.append((read - clock, time.perf_counter() - read))
    reads, checks = (median(each) for each in zip(*times, strict=True))
    print(f"\n| {count:,} files of {size / count:,.0f} bytes | time |\n|---|---|")
    print(f"| read | {reads:.2f} s |\n| checked, {len(problems):,} problems | {checks:.2f} s |")
    print(f"| together | {reads + checks:.2f} s |")


def main() -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000, metavar="N", help="made-up files (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="starts of each (default: %(default)s)")
    args = parser.parse_args()
    load = f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} at the start)"
    print(f"{date.today()}, Python {platform.python_version()}, {load}; medians.\n")
    with tempfile.TemporaryDirectory() as project, tempfile.TemporaryDirectory() as folder:
        make_project(Path(project))
        print_startup(Path(project), args.rounds)
        print_reading(Path(folder), args.rounds, args.files)
    return 0


if __name__ == "__main__":
    sys.exit(main())
