#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# mutations.sh -- break the engine on purpose, and see that the tests notice.
#
#   mutations.sh [NAME...]     default: all of tools/mutations/NAME.patch
#
# A patch is a small unified diff (paths a/... b/...) whose first lines are comments:
#     # Why this breaks a promise, for a reader.
#     # caught-by: test/crash/test_crash_core
# caught-by names test programs (several, separated by spaces); one of them must fail. Before
# anything is broken those programs must pass, else their failing would prove nothing.
# Prints "caught NAME" or "MISSED NAME" and at the end "N caught, N missed".
set -u
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C
limit=${MUTATION_TIMEOUT:-120} # seconds for each test program
jobs=$(nproc)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
caught=0
missed=0

miss() {
    missed=$((missed + 1))
    echo "MISSED $1: $2"
}

build() { make -C "$work/tree" --no-print-directory -j"$jobs" "$@" >"$work/build.log" 2>&1; }

# run PROGRAM: as run_tests.sh would, from the top of the copy.
run() {
    (
        cd "$work/tree" || exit 1
        mkdir -p "$work/tmp"
        TMPDIR=$work/tmp timeout -k 10 "$limit" "build/$1" >"$work/run.log" 2>&1 </dev/null
    )
    local status=$?
    rm -rf "$work/tmp"
    return $status
}

caught_by() { sed -n 's/^# *caught-by: *//p' "$1"; }

# The programs that pass unbroken; built and run once each.
declare -A sound
is_sound() {
    if [ -z "${sound[$1]:-}" ]; then
        sound[$1]=no
        build "build/$1" && run "$1" && sound[$1]=yes
    fi
    [ "${sound[$1]}" = yes ]
}

# Whether one of the programs fails on the broken tree. A mutation that does not compile proves
# nothing and is an error of the patch.
try_patch() {
    local name=$1 tests=$2 test
    for test in $tests; do
        if ! build "build/$test"; then
            miss "$name" "does not build: $(grep -m 1 error "$work/build.log")"
            return
        fi
        if ! run "$test"; then
            caught=$((caught + 1))
            echo "caught $name ($test)"
            return
        fi
    done
    miss "$name" "$tests passed"
}

mutate() {
    local patch=$1 name tests test
    name=$(basename "$patch" .patch)
    tests=$(caught_by "$patch")
    [ -n "$tests" ] || { miss "$name" "has no line '# caught-by: test/...'"; return; }
    for test in $tests; do
        is_sound "$test" || { miss "$name" "$test fails without the mutation"; return; }
    done
    if ! patch -d "$work/tree" -p1 -s -f --dry-run <"$patch" >"$work/patch.log" 2>&1; then
        miss "$name" "no longer applies: $(head -1 "$work/patch.log")"
        return
    fi
    patch -d "$work/tree" -p1 -s -f <"$patch"
    try_patch "$name" "$tests"
    patch -d "$work/tree" -p1 -s -f -R <"$patch"
}

patches=()
if [ $# -gt 0 ]; then
    for name in "$@"; do patches+=("tools/mutations/$name.patch"); done
else
    for patch in tools/mutations/*.patch; do [ -f "$patch" ] && patches+=("$patch"); done
fi

mkdir "$work/tree"
for entry in Makefile keepmap.map keepmap.pc.in include src cli test tools examples docs; do
    [ -e "$entry" ] && cp -a "$entry" "$work/tree/"
done

for patch in ${patches[@]+"${patches[@]}"}; do
    if [ -f "$patch" ]; then
        mutate "$patch"
    else
        miss "$patch" "no such file"
    fi
done
echo "$caught caught, $missed missed"
[ "$missed" -eq 0 ]
