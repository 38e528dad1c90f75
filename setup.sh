#!/usr/bin/env bash
# Sets the project up. Safe to run again: what is there stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'END'
Usage: ./setup.sh [--schema | --views | --demo | --test | --test-all]

  (nothing)    virtual environment in .venv, packages, .env from .env.example: about 10 seconds
  --schema     apply sql/schema.sql to the database of .env; existing rows stay
  --views      write a view for each metric, v_NAME, with its fields as columns; remove those of metrics that are gone
  --demo       start an embedded database with a made-up game backend, load 90 days of metrics, run today, make a page
               of them: about 25 seconds, longer where MariaDB must be installed first
  --test       install what the tests need, a browser included, and run them on MariaDB: about 8 minutes
  --test-all   the same on MySQL, on MariaDB 11.8, on a cluster, and on other versions of Python and PyMySQL:
               about 40 minutes
END
}

say() { printf '==> %s\n' "$*"; }
die() { printf 'Error: %s\n' "$*" >&2; exit 1; }

# with_clock COMMAND...: run it, and print the time every two seconds, so that nobody takes it for stuck.
with_clock() {
    local code=0 ticker
    # $$ is this script, also within the subshell: when it ends, so does the loop.
    (seconds=0; while sleep 2 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do echo "    $((seconds += 2)) s"; done) &
    ticker=$!
    "$@" || code=$?
    kill "$ticker"
    wait "$ticker" 2>/dev/null || true
    return "$code"
}

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# install_packages COMMAND-IT-BRINGS PACKAGE...: with apt where that is allowed, else name the command.
install_packages() {
    local what=$1
    shift
    may_install || die "$what is missing; install it with: sudo apt-get install -y --no-install-recommends $*"
    say "installing $* with apt"
    with_clock run_apt "$@" || die "apt could not install $*; what it said is in logs/setup.log"
}

run_apt() {
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } \
        >logs/setup.log 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.10 or later is needed; name it with PYTHON=/path/to/python3 ./setup.sh"
}

run_venv() { "$1" -m venv --clear .venv >/dev/null 2>&1; }

make_venv() {
    [ -x .venv/bin/python ] && .venv/bin/python -c 'import pip' 2>/dev/null && return
    local python
    python=$(find_python)
    say "making the virtual environment .venv with $("$python" --version)"
    with_clock run_venv "$python" && return
    install_packages "the venv module of $python" python3-venv
    "$python" -m venv --clear .venv || die "$python cannot make a virtual environment"
}

# install_requirements FILE: only when it changed since the last time.
install_requirements() {
    local wanted stamp=.venv/installed-$1
    wanted=$(cat requirements.txt "$1")
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
    say "installing the packages of $1"
    with_clock .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1" || die "pip could not install $1"
    printf '%s' "$wanted" >"$stamp"
}

need_mariadb() {
    PATH=$PATH:/usr/sbin command -v mariadbd >/dev/null || install_packages mariadbd mariadb-server-core
}

# The browser that tests/test_page.py drives. Older versions of Debian know the whole chromium only.
need_browser() {
    command -v chromium-headless-shell chromium chrome-headless-shell >/dev/null && return
    if may_install; then apt-get update -qq >logs/setup.log 2>&1 || true; fi
    if [ -n "$(apt-cache search --names-only '^chromium-headless-shell$' 2>/dev/null)" ]; then
        install_packages chromium-headless-shell chromium-headless-shell
    else
        install_packages chromium chromium
    fi
}

write_env() {
    (umask 077 && cat >.env)
    say "wrote .env"
}

apply_schema() {
    .venv/bin/python -m src.storage.schema
}

demo() {
    local socket page=$PWD/.local/demo/page.html
    socket=$(.venv/bin/python -m demo socket)
    # An untouched copy of the example holds nothing of the user's.
    if [ -f .env ] && ! cmp -s .env .env.example && ! grep -qxF "DB_SOCKET=$socket" .env; then
        die "there is a .env that points elsewhere, and it stays as it is; move it away first: mv .env .env.mine"
    fi
    need_mariadb
    say "starting MariaDB in .local/demo"
    with_clock .venv/bin/python -m demo start
    if [ ! -f .env ] || cmp -s .env .env.example; then
        sed -e "s|^DB_SOCKET=.*|DB_SOCKET=$(printf '%s' "$socket" | sed 's/[&|\\]/\\&/g')|" \
            -e 's/^DB_HOST=.*/DB_HOST=/' \
            -e 's/^DB_USER=.*/DB_USER=metrics/' -e 's/^DB_NAME=.*/DB_NAME=game/' \
            -e "s/^METRICS_HISTORY_START=.*/METRICS_HISTORY_START=$(date -d '-89 days' +%F)/" .env.example | write_env
    fi
    say "filling it"
    .venv/bin/python -m demo load
    apply_schema
    say "python run_metrics.py --initial"
    with_clock .venv/bin/python run_metrics.py --initial
    say "python run_metrics.py"
    .venv/bin/python run_metrics.py
    say "SELECT metrics, metric_date, value_list FROM bi_metrics, the newest complete rows:"
    .venv/bin/python -m demo show
    say "python list_metrics.py --status"
    .venv/bin/python list_metrics.py --status
    say "python list_metrics.py --html .local/demo/page.html"
    .venv/bin/python list_metrics.py --html "$page" >/dev/null || page=""
    say "Done. Query the database with .venv/bin/python -m demo sql 'SELECT ...'," \
        "stop it with .venv/bin/python -m demo stop"
    [ -z "$page" ] || say "The metrics as a page, for a browser: $page"
}

# test_on ENGINE [pytest arguments]
test_on() {
    local engine=$1
    shift
    say "tests on $engine"
    .venv/bin/python -m pytest -q --engine "$engine" "$@"
}

# test_with PYTHON PYMYSQL: the tests of the program's core, in an environment of their own.
test_with() {
    local version folder
    version=$("$1" -c 'import sys; print("{}.{}".format(*sys.version_info))')
    folder=$PWD/.local/versions/$version-$2
    say "tests on Python $version with PyMySQL $2"
    "$1" -m venv "$folder"
    { sed "s/^PyMySQL==.*/PyMySQL==$2/" requirements.txt; grep -E '^(pytest|hypothesis)' requirements-dev.txt; } \
        >"$folder/requirements.txt"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$folder/requirements.txt"
    "$folder/bin/python" -m pytest -q -p no:cacheprovider tests/test_{run_metrics,accounts,tls}.py
}

# The oldest Python of PATH with the oldest PyMySQL, the others with the pinned one.
test_versions() {
    local version pymysql=1.2.0 # 1.1 goes on without TLS if DB_SSL_MODE requires it and the server has none
    for version in 3.10 3.11 3.12 3.13 3.14; do
        if ! "python$version" -c '' 2>/dev/null; then
            say "Python $version is not tested: there is no python$version on PATH"
            continue
        fi
        test_with "python$version" "$pymysql"
        pymysql=$(sed -n 's/^PyMySQL==//p' requirements.txt)
    done
}

main() {
    [ $# -le 1 ] || { usage >&2; exit 2; }
    case "${1:-}" in
        -h | --help) usage; return ;;
        "" | --schema | --views | --demo | --test | --test-all) ;;
        *) printf 'Error: unknown option %s\n' "$1" >&2; usage >&2; exit 2 ;;
    esac
    make_venv
    install_requirements requirements.txt
    case "${1:-}" in
        "")
            [ -f .env ] || write_env <.env.example
            say "Next: fill in .env, create the tables with ./setup.sh --schema, then run:" \
                "python3 list_metrics.py --check; python3 run_metrics.py"
            ;;
        --schema) apply_schema ;;
        --views) .venv/bin/python -m src.flat_views ;;
        --demo) demo ;;
        --test | --test-all)
            install_requirements requirements-dev.txt
            need_mariadb
            command -v openssl >/dev/null || install_packages openssl openssl
            need_browser
            test_on mariadb --ignore tests/cluster
            [ "$1" = --test ] && return
            .venv/bin/python -m tests.engines fetch mysql
            test_on mysql --ignore tests/cluster
            .venv/bin/python -m tests.engines fetch mariadb-11.8
            test_on mariadb-11.8 --ignore tests/cluster
            test_on mariadb -n 0 tests/cluster # one process, which prints the cluster's figures
            test_versions
            ;;
    esac
}

main "$@"
