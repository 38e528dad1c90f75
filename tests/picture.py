"""Takes docs/page.png, the picture of the README: python -m tests.picture

A private server gets the demo's game and 90 days of its metrics, and the tests' browser opens the page of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

import pymysql
from playwright.sync_api import ViewportSize, sync_playwright

from demo import game
from demo.server import ROOT, Server, system_mariadb

PICTURE = ROOT / "docs" / "page.png"
WIDTH, HEIGHT = 1200, 1345  # pixels of the picture
SCALE = 0.75  # of the page on it, which shows three columns then
MOST_BYTES = 300_000
BROWSERS = ("chromium-headless-shell", "chromium", "chrome-headless-shell")
COMMANDS = (["run_metrics.py", "--initial", "--quiet"], ["run_metrics.py", "--quiet"])


def make_page(server: Server, page: Path) -> None:
    """Fill the server with the game and its metrics, and write their page."""
    today = date.today()
    with pymysql.connect(unix_socket=server.socket, user="root", ssl_disabled=True) as connection:
        connection.cursor().execute("CREATE DATABASE game CHARACTER SET utf8mb4")
        connection.select_db("game")
        game.load(connection, today)
    settings = {
        "DB_SOCKET": server.socket, "DB_HOST": "", "DB_USER": "root", "DB_PASSWORD": "", "DB_NAME": "game",
        "METRICS_DIR": str(ROOT / "sql"), "METRICS_HISTORY_START": str(today - timedelta(days=120)),
        "METRIC_PARAM_CUTOFF_DATE": "2024-01-01", "METRICS_ON_END": "",
    }  # fmt: skip
    for words in (["-m", "src.storage.schema"], *COMMANDS, ["list_metrics.py", "--html", str(page)]):
        subprocess.run([sys.executable, *words], cwd=ROOT, env={**os.environ, **settings}, check=True)


def take(page: Path, picture: Path) -> None:
    """Write the top of the page as a PNG."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("Error: no browser; install it with: apt-get install --no-install-recommends chromium-headless-shell")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        seen: ViewportSize = {"width": round(WIDTH / SCALE), "height": round(HEIGHT / SCALE)}
        window = running.new_page(viewport=seen, device_scale_factor=SCALE, color_scheme="light")
        window.goto(page.as_uri())
        window.screenshot(path=picture)
        running.close()


def main() -> int:
    """Take the picture; 1 where it is too large for a README."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "server", system_mariadb())
        server.start()
        try:
            make_page(server, Path(folder) / "page.html")
            take(Path(folder) / "page.html", PICTURE)
        finally:
            server.stop()
    size = PICTURE.stat().st_size
    print(f"{PICTURE.relative_to(ROOT)}: {WIDTH} x {HEIGHT} pixels, {size:,} bytes")
    return int(size > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
