"""The main tests on other Pythons and on the oldest PyMySQL: python -m tests.versions [PYTHON ...].

Without arguments it takes each python3.10, python3.11 ... that is on PATH. Their packages go into .local/versions.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".local" / "versions"
OLDEST_PYMYSQL = "1.2.0"  # 1.1 goes on without TLS where DB_SSL_MODE requires it and the server has none
KNOWN = [f"3.{minor}" for minor in range(10, 15)]
OWN = f"3.{sys.version_info.minor}"
TESTS = [f"tests/test_{name}.py" for name in ("run_metrics", "accounts", "tls")]
VERSION = "import sys; print('{}.{}'.format(*sys.version_info))"


def pythons(programs: Sequence[str]) -> dict[str, str]:
    """Return version -> program of those that run, this one among them, oldest first."""
    found = {OWN: sys.executable}
    for program in filter(shutil.which, programs):
        done = subprocess.run([program, "-c", VERSION], text=True, capture_output=True, check=False)
        if re.fullmatch(r"3\.\d+\n", done.stdout):
            found.setdefault(done.stdout.strip(), program)
    return dict(sorted(found.items(), key=lambda each: int(each[0].split(".")[1])))


def requirements(pymysql: str) -> list[str]:
    """Return what the tests need, with this PyMySQL, or the pinned one for an empty text."""
    lines = "".join((ROOT / name).read_text() for name in ("requirements.txt", "requirements-dev.txt")).splitlines()
    wanted = [line for line in lines if re.match("PyMySQL|python-dotenv|tqdm|pytest|hypothesis", line)]
    return [f"PyMySQL=={pymysql}" if pymysql and line.startswith("PyMySQL") else line for line in wanted]


def test(version: str, program: str, pymysql: str) -> bool:
    """Run the main tests in an environment of their own and print a line; whether they passed."""
    packages = requirements(pymysql)
    folder = ENVIRONMENTS / f"{version}-{packages[0]}"
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    tests = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    for command in ([program, "-m", "venv", str(folder)], install, tests):
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
        if done.returncode != 0:
            print(f"{done.stdout}{done.stderr}versions: Python {version} with {packages[0]}: FAILED", flush=True)
            return False
    print(f"versions: Python {version} with {packages[0]}: {done.stdout.splitlines()[-1]}", flush=True)
    return True


def main(programs: Sequence[str]) -> int:
    """Test the oldest Python with the oldest PyMySQL, and the others with the pinned one; 1 when a test failed."""
    found = pythons(programs or [f"python{version}" for version in KNOWN])
    missing = [version for version in KNOWN if version not in found]
    if missing:
        print(f"versions: not on PATH, so not tested: Python {', '.join(missing)}", flush=True)
    oldest, *others = found
    results = [test(oldest, found[oldest], OLDEST_PYMYSQL)]
    # The Python that runs this has run all tests with the pinned PyMySQL already.
    results += [test(version, found[version], "") for version in others if version != OWN]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
