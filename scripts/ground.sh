#!/bin/sh
# What run, check, test and bench need, on a machine that has only Python, make and git; then the thing itself.
#
#   scripts/ground.sh run | check | bench | mutate | test [pytest's arguments]
#
# WITHOUT="chromium bubblewrap" leaves out the tests that need those, by name. WORKERS says how many tests run
# at once (0: one after another, in one process).
set -eu
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
TOOLS=.tools
PYTHON=.venv/bin/python
# The project's own environment is meant, whatever the shell has activated.
unset VIRTUAL_ENV UV_PROJECT_ENVIRONMENT PYTHONHOME PYTHONPATH

note() { printf '%s\n' "$*" >&2; }
fail() { note "$@"; exit 1; }
works() { "$@" --version >/dev/null 2>&1; }

# The first of these that runs: a pyenv shim may stand for a version that is not there.
any_python() {
    for candidate in python3 python /usr/bin/python3 /usr/local/bin/python3; do
        if works "$candidate"; then echo "$candidate"; return; fi
    done
    fail "No Python that runs was found (tried python3 and python)."
}

own_uv() {
    for found in "$TOOLS/uv/bin/uv" "$TOOLS/uv-files/bin/uv"; do
        if works "$found"; then echo "$found"; return; fi
    done
    return 1
}

install_uv() {
    python=$(any_python)
    note "Installing uv $UV_VERSION out of PyPI into $TOOLS/ ..."
    if "$python" -m venv "$TOOLS/uv" >/dev/null 2>&1 \
        && "$TOOLS/uv/bin/python" -m pip install -q --disable-pip-version-check "uv==$UV_VERSION" >&2; then
        return
    fi
    rm -rf "$TOOLS/uv"
    if works "$python" -m pip \
        && "$python" -m pip install -q --disable-pip-version-check --target "$TOOLS/uv-files" "uv==$UV_VERSION" >&2; then
        return
    fi
    return 1
}

# Debian's python3 comes without venv and pip.
ensure_uv() {
    if own_uv >/dev/null || install_uv; then return; fi
    debian_packages python3-venv || true
    install_uv || fail "uv could not be installed: see https://docs.astral.sh/uv/ and try again."
}

sync_with() {
    if [ "$1" = uv ]; then works uv || return 1; fi
    "$1" sync --frozen $SYNC_OPTIONS </dev/null >&2
}

# run keeps what is there for the tests; the others want everything.
sync() {
    if [ "$VERB" = run ]; then SYNC_OPTIONS="--no-dev --inexact"; else SYNC_OPTIONS=""; fi
    if sync_with uv; then return; fi
    ensure_uv
    sync_with "$(own_uv)" || fail "uv could not install the packages; see above."
}

# Install them where root has apt, else name the one command.
debian_packages() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        note "Installing $* with apt ..."
        if { [ -n "${APT_UPDATED:-}" ] || apt-get update -qq </dev/null >&2; } \
            && DEBIAN_FRONTEND=noninteractive \
                apt-get install -qq -y --no-install-recommends "$@" </dev/null >&2; then
            APT_UPDATED=yes
            return
        fi
        APT_UPDATED=yes
    fi
    note "Missing: $*. To install:  sudo apt-get update && sudo apt-get install -y $*"
    return 1
}

has_bubblewrap() { command -v bwrap >/dev/null 2>&1; }
has_chromium() { [ -x /usr/bin/chromium ]; }
left_out() { case " ${WITHOUT:-} " in *" $1 "*) return 0 ;; esac; return 1; }

packages_for_run() {
    has_bubblewrap || debian_packages bubblewrap \
        || note "Going on without bubblewrap: conversations get a weaker sandbox."
}

packages_for_tests() {
    missing=
    for package in bubblewrap chromium; do
        if left_out "$package" || "has_$package"; then continue; fi
        missing="$missing $package"
    done
    if [ -n "$missing" ]; then
        # shellcheck disable=SC2086 # a list of names
        debian_packages $missing \
            || fail "Or leave their tests out by name:  make test WITHOUT=\"${missing# }\""
    fi
}

marks_left_out() {
    marks=
    for name in ${WITHOUT:-}; do
        case $name in
            chromium | bubblewrap) marks="$marks${marks:+ and }not needs_$name" ;;
            *) fail "WITHOUT takes chromium and bubblewrap, not $name." ;;
        esac
    done
    echo "$marks"
}

check() {
    .venv/bin/ruff check
    .venv/bin/ruff format --check
    .venv/bin/mypy
    .venv/bin/lint-imports
    "$PYTHON" -m tests.django_checks
}

VERB=${1:-}
[ $# -gt 0 ] && shift
case $VERB in
    run)
        sync
        packages_for_run
        exec "$PYTHON" manage.py up
        ;;
    check)
        sync
        check
        ;;
    test)
        marks=$(marks_left_out)
        sync
        packages_for_tests
        # Each worker has servers of its own; who runs what is said in tests/shifts.py. Tests wait more than they
        # work: three workers keep two cores busy.
        exec "$PYTHON" -m pytest -n "${WORKERS:-3}" ${marks:+-m "$marks"} "$@"
        ;;
    mutate)
        sync
        packages_for_tests
        exec "$PYTHON" -m tests.mutate "$@"
        ;;
    bench)
        sync
        packages_for_run
        exec "$PYTHON" -m tests.bench "$@"
        ;;
    *) fail "usage: scripts/ground.sh run | check | test | mutate | bench" ;;
esac
