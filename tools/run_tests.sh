#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# run_tests.sh -- run test programs side by side and add up what they report.
#
#   run_tests.sh PROGRAM...     an argument may hold arguments of the program, after spaces
#
# Prints a line for each program, the output of those that failed, and at the end, alone on a line,
# "N passed, N failed". A program counts as failed, beside the cases it reports, if it crashes,
# exits non-zero without a failed case, takes longer than TEST_TIMEOUT (300) seconds, reports no
# case, or is not there. Environment: JOBS; BUILD_FAILED=1 counts one failure for a build that
# was not complete.
set -u
export LC_ALL=C

# What the output of a program says: passed, failed, skipped. cmocka's lines, and those of shell
# tests ("3 passed, 1 failed", the last one counts).
count_cases() {
    awk '
        /^\[  PASSED  \] [0-9]+ test/ { passed += $4; seen = 1 }
        /^\[  FAILED  \] .*[0-9]+ test\(s\), listed below/ {
            sub(/ test\(s\), listed below.*/, ""); sub(/.* /, ""); failed += $0; seen = 1
        }
        /^\[  SKIPPED \] .*[0-9]+ test\(s\), listed below/ {
            sub(/ test\(s\), listed below.*/, ""); sub(/.* /, ""); skipped += $0; seen = 1
        }
        /^[0-9]+ passed, [0-9]+ failed$/ { shell_passed = $1; shell_failed = $3; seen = 1 }
        END { print passed + shell_passed, failed + shell_failed, skipped + 0, seen + 0 }' "$1"
}

# Why a run counts as failed beyond its cases; nothing if it does not.
verdict() {
    local status=$1 passed=$2 failed=$3 skipped=$4 seen=$5
    case $status in
    124 | 137) echo "timed out" ;;
    127) echo "not there, or not built" ;;
    *)
        if [ "$status" -gt 128 ]; then
            echo "killed by signal $((status - 128))"
        elif [ "$seen" -eq 0 ]; then
            echo "no summary, exit status $status"
        elif [ $((passed + failed + skipped)) -eq 0 ]; then
            echo "no cases"
        elif [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
            echo "exit status $status without a failed case"
        elif [ "$status" -eq 0 ] && [ "$failed" -ne 0 ]; then
            echo "exit status 0 in spite of failed cases"
        fi
        ;;
    esac
}

# Worker: run program number $1 and leave its numbers and output under $results.
run_one() {
    local number=$1 started ended status passed failed skipped seen why seconds mark pid
    local -a program
    read -ra program <<<"$2"
    local log=$results/$number.log
    started=$(date +%s%N)
    mkdir "$results/$number.tmp"
    # In the background, so that an interrupt reaches this shell, and through it timeout.
    TMPDIR=$results/$number.tmp timeout -k 10 "${TEST_TIMEOUT:-300}" "${program[@]}" \
        >"$log" 2>&1 </dev/null &
    pid=$!
    trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM
    wait "$pid"
    status=$?
    ended=$(date +%s%N)
    rm -rf "$results/$number.tmp"
    read -r passed failed skipped seen < <(count_cases "$log")
    why=$(verdict "$status" "$passed" "$failed" "$skipped" "$seen")
    [ -n "$why" ] && failed=$((failed + 1))
    seconds=$(((ended - started) / 100000000))
    mark=ok
    [ "$failed" -gt 0 ] && mark=FAILED
    [ "$skipped" -gt 0 ] && why="$skipped skipped${why:+; $why}"
    printf '%-6s %5d passed %3d failed %4d.%d s  %s%s\n' "$mark" "$passed" "$failed" \
        $((seconds / 10)) $((seconds % 10)) "${program[0]}" "${why:+  ($why)}"
    echo "$passed $failed ${program[0]}" >"$results/$number.result"
}

if [ "${1:-}" = --one ]; then
    results=$2
    run_one "$3" "$4"
    exit 0
fi

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
trap 'exit 130' INT TERM

number=0
for program in "$@"; do
    number=$((number + 1))
    printf '%s\0%s\0' "$number" "$program"
done | xargs -0 -r -n 2 -P "${JOBS:-$(nproc)}" "$0" --one "$results"

passed=0
failed=0
for number in $(seq 1 $#); do
    result=$results/$number.result
    if [ ! -f "$result" ]; then
        failed=$((failed + 1))
        continue
    fi
    read -r p f name <"$result"
    passed=$((passed + p))
    failed=$((failed + f))
    if [ "$f" -gt 0 ]; then
        printf '\n---- output of %s ----\n' "$name"
        cat "$results/$number.log"
    fi
done
if [ -n "${BUILD_FAILED:-}" ]; then
    printf '\nThe build is not complete: see above.\n'
    failed=$((failed + 1))
fi
echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
