#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# deps.sh -- install what the named groups need and the machine lacks, from Debian packages.
#
#   deps.sh GROUP...     groups: build test try lint
#
# Does nothing, and asks no network, if all is there. An optional package that cannot be had is
# reported once and never fails the run.
set -u
cd "$(dirname "$0")/.." || exit 1

stamps=build/.deps # one file for each optional package that could not be had
missing=()
optional=()

has_command() { command -v "$1" >/dev/null 2>&1; }

has_package() { has_command dpkg && dpkg -s "$1" 2>/dev/null | grep -q '^Status: .* installed$'; }

has_header() {
    local compiler=${CC:-gcc}
    has_command "${compiler%% *}" || compiler=cc
    has_command "${compiler%% *}" || return 1
    printf '%b' "$2#include <$1>\n" | $compiler -E -x c - >/dev/null 2>&1
}

# need PACKAGE TEST...: note the package if the test fails.
need() {
    local package=$1
    shift
    "$@" || missing+=("$package")
}

want() {
    local package=$1
    shift
    "$@" || [ -e "$stamps/$package" ] || optional+=("$package")
}

group_build() {
    need gcc has_command "${CC:-gcc}"
    need libc6-dev has_header stdio.h ''
    need make has_command make
    need pkg-config has_command pkg-config
    need libxxhash-dev has_header xxhash.h ''
    need liburcu-dev has_header urcu-bp.h ''
    want liburing-dev has_header liburing.h ''
    want libzstd-dev has_header zstd.h ''
}

group_test() {
    need libcmocka-dev has_header cmocka.h \
        '#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <setjmp.h>\n'
    need g++ has_command g++
    need protobuf-c-compiler has_command "${PROTOC_C:-protoc-c}"
    need libprotobuf-c-dev has_header protobuf-c/protobuf-c.h ''
    want lmdb-utils has_command mdb_dump
    want libuv1-dev has_header uv.h ''
    want wamerican test -e /usr/share/dict/words
}

group_try() { want wamerican test -e /usr/share/dict/words; }

group_lint() {
    need python3 has_command python3
    want clang-format has_command clang-format
}

for group in "$@"; do
    case $group in
    build | test | try | lint) "group_$group" ;;
    *)
        echo "deps.sh: no group '$group'; there are: build test try lint" >&2
        exit 2
        ;;
    esac
done

[ ${#missing[@]} -eq 0 ] && [ ${#optional[@]} -eq 0 ] && exit 0

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n)

can_install() {
    has_command apt-get || return 1
    [ "$(id -u)" -eq 0 ] && return 0
    has_command sudo || return 1
    [ -t 0 ] && as_root=(sudo) && return 0
    sudo -n true 2>/dev/null
}

if ! can_install; then
    if [ ${#missing[@]} -gt 0 ]; then
        echo "Keepmap needs these packages (Debian names), which I cannot install without apt" >&2
        echo "and root or sudo: ${missing[*]}" >&2
        exit 1
    fi
    mkdir -p "$stamps" && touch "${optional[@]/#/$stamps/}"
    echo "Not there, and optional: ${optional[*]}"
    exit 0
fi

apt_install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
        --no-install-recommends "$@" </dev/null
}

all=("${missing[@]}" "${optional[@]}")
log=$(mktemp)
trap 'rm -f "$log"' EXIT
readarray -t all < <(printf '%s\n' "${all[@]}" | sort -u)
echo "Installing: ${all[*]}"
# The lists of packages may be old or absent: bring them up to date, but try the old ones if that
# fails.
"${as_root[@]}" apt-get update -q >"$log" 2>&1 </dev/null

if [ ${#missing[@]} -gt 0 ] && ! apt_install "${missing[@]}" >>"$log" 2>&1; then
    cat "$log" >&2
    echo "deps.sh: could not install: ${missing[*]}" >&2
    exit 1
fi
for package in ${optional[@]+"${optional[@]}"}; do
    apt_install "$package" >>"$log" 2>&1 && continue
    has_package "$package" && continue
    mkdir -p "$stamps" && touch "$stamps/$package"
    echo "Not available, and optional: $package"
done
exit 0
