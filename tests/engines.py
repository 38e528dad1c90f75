"""More engines for the tests, fetched with apt into .local/engines; nothing is changed on the system.

python -m tests.engines fetch mysql|mariadb-11.8
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.server import ROOT, Install, ServerError, mariadb, system_mariadb, version

ENGINES = ROOT / ".local" / "engines"
SOURCES = Path("/etc/apt")
EMPTY = Path(os.devnull)
# name -> (Debian suite, package)
FETCHED = {"mysql": ("sid", "mysql-server-core"), "mariadb-11.8": ("trixie", "mariadb-server-core")}
INSTALLS = ("mariadb", *FETCHED)


@dataclass(frozen=True)
class Source:
    """One mirror of the machine's apt configuration."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str  # path of a keyring, or empty

    def line(self, suite: str) -> str:
        """The line of a sources.list for another suite on this mirror."""
        keyring = f"[signed-by={self.signed_by}] " if self.signed_by.startswith("/") else ""
        return f"deb {keyring}{self.uri} {suite} main\n"


def install(name: str) -> Install:
    """Return an engine of INSTALLS that is there; ServerError names the command that brings it."""
    if name == "mariadb":
        return system_mariadb()
    tree = ENGINES / name
    if not tree.is_dir():
        raise ServerError(f"{name} is not here; fetch it: python -m tests.engines fetch {name}")
    return _mysql_in(tree) if name == "mysql" else _mariadb_in(tree)


def fetch(name: str) -> Install:
    """Fetch an engine unless it is here, and return it. ServerError with the cause when it cannot be fetched."""
    suite, package = FETCHED[name]
    if not (ENGINES / name).is_dir():
        mirror = debian_sources()[0]
        # An empty status file: with the engine come its libraries, libc included.
        unpack(ENGINES / name, [package], [mirror.line(suite)], status=EMPTY)
    return install(name)


def debian_sources() -> list[Source]:
    """Return the machine's own Debian mirrors of its release, security and updates included, the main one first."""
    system = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE))
    code_name = system.get("VERSION_CODENAME", "sid")
    known = (code_name, "stable", "testing", "unstable", "sid")
    found = [source for source in _apt_sources() if "main" in source.components]
    main = [each for each in found if set(each.suites) & set(known) and each.uri.rstrip("/").endswith("/debian")]
    if system.get("ID") != "debian" or not main:
        raise ServerError(
            f"it comes from a Debian mirror, and {SOURCES} of this {system.get('ID', 'system')} names none"
        )
    return [*main, *(each for each in found if each not in main and f"{code_name}-security" in each.suites)]


def unpack(tree: Path, packages: Sequence[str], sources: Sequence[str], status: Path) -> None:
    """Download packages, and what they need that is not in the `status` file, and unpack all as `tree`, or nothing."""
    ENGINES.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{tree.name}.unfinished-", dir=ENGINES))
    try:
        _download(work, packages, "".join(sources), status)
        for package in sorted((work / "cache" / "archives").glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(work / "tree")])
        (work / "tree").chmod(0o755)
        if not tree.exists():
            (work / "tree").rename(tree)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(work: Path, packages: Sequence[str], sources: str, status: Path) -> None:
    (work / "sources.list").write_text(sources)
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    settings = {
        "Dir::State": work / "state",
        "Dir::State::status": status,
        "Dir::Cache": work / "cache",
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": EMPTY,
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": 2,
        "Debug::NoLocking": 1,
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
    _run([*apt, "update", "--error-on=any"])
    _run([*apt, "install", "--yes", "--download-only", "--no-install-recommends", "--reinstall", *packages])


def _apt_sources() -> Iterator[Source]:
    for path in sorted([SOURCES / "sources.list", *(SOURCES / "sources.list.d").glob("*")]):
        if path.suffix == ".sources":
            yield from _deb822(path.read_text())
        elif path.suffix == ".list" and path.is_file():
            yield from _one_line(path.read_text())


def _deb822(text: str) -> Iterator[Source]:
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        field = {name.lower(): value for name, value in re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.M)}
        if "deb" in field.get("types", "").split() and field.get("enabled", "yes") != "no":
            for uri in field.get("uris", "").split():
                suites, components = field.get("suites", "").split(), field.get("components", "").split()
                yield Source(uri, tuple(suites), tuple(components), field.get("signed-by", "").strip())


def _one_line(text: str) -> Iterator[Source]:
    for options, uri, suite, components in re.findall(r"^deb\s+(\[.*?\]\s+)?(\S+)\s+(\S+)[ \t]*(.*)$", text, re.M):
        keyring = re.search(r"signed-by=([^\s\]]+)", options)
        yield Source(uri, (suite,), tuple(components.split()), keyring[1] if keyring else "")


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ServerError(f"{command[0]} does not run: {error}") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).splitlines()
        errors = [line for line in lines if line.startswith("E:")] or lines
        raise ServerError(f"{command[0]} failed: {' '.join(errors)[:500]}")


def _program(tree: Path, path: str) -> list[str]:
    """Run a program with the tree's own C library, which is newer than the system's."""
    loader = [str(found) for found in sorted(tree.glob("usr/lib*/ld-linux-*.so.*"))]
    libraries = [*tree.glob("usr/lib/*-linux-gnu*"), tree / "usr/lib/mysql/private"]
    if not loader:
        raise ServerError(f"{tree} is not complete; remove it and fetch again")
    return [loader[0], "--library-path", ":".join(map(str, libraries)), str(tree / path)]


def _mysql_in(tree: Path) -> Install:
    program, share = _program(tree, "usr/sbin/mysqld"), tree / "usr/share/mysql"
    plugins = f"--plugin-dir={tree / 'usr/lib/mysql/plugin'}"
    folders = [f"--basedir={tree / 'usr'}", f"--lc-messages-dir={share}", f"--character-sets-dir={share / 'charsets'}"]
    options = ["--no-defaults", *folders, plugins, "--secure-file-priv=", "--mysqlx=OFF", "--disable-log-bin"]
    return Install("MySQL", version(program), (*program, *options), ("--initialize-insecure",))


def _mariadb_in(tree: Path) -> Install:
    program, share = _program(tree, "usr/sbin/mariadbd"), _mariadb_share(tree)
    plugins = f"--plugin-dir={tree / 'usr/lib/mysql/plugin'}"
    folders = [f"--basedir={tree / 'usr'}", f"--lc-messages-dir={share}", f"--character-sets-dir={share / 'charsets'}"]
    return mariadb(["--no-defaults", *folders, plugins], program, share)


def _mariadb_share(tree: Path) -> Path:
    return next((path for path in tree.glob("usr/share/m*/") if (path / "charsets").is_dir()), tree / "usr/share/mysql")


def main(arguments: list[str]) -> int:
    """Fetch one engine and print its version; 1 with the cause when that fails, 2 for a wrong command."""
    if len(arguments) != 2 or arguments[0] != "fetch" or arguments[1] not in FETCHED:
        print(f"Usage: python -m tests.engines fetch {'|'.join(FETCHED)}", file=sys.stderr)
        return 2
    try:
        if not (ENGINES / arguments[1]).is_dir():
            print(f"fetching {arguments[1]} into {ENGINES / arguments[1]}", flush=True)
        engine = fetch(arguments[1])
    except ServerError as error:
        print(f"Error: {arguments[1]} cannot be fetched: {error}", file=sys.stderr)
        return 1
    print(f"engine: {engine.name} {engine.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
