#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# run_fuzz.sh -- run fuzz targets one after the other.
#
#   run_fuzz.sh SECONDS CORPUS_DIR PROGRAM...
#
# Each target has a corpus of its own under CORPUS_DIR, which lasts, and starts from the files in
# test/fuzz/seeds/NAME, if any. What makes a target fail is kept under CORPUS_DIR too.
set -u
cd "$(dirname "$0")/.." || exit 1
seconds=$1
corpora=$2
shift 2
passed=0
failed=0

for program in "$@"; do
    name=$(basename "$program")
    corpus=$corpora/$name
    mkdir -p "$corpus"
    seeds=()
    [ -d "test/fuzz/seeds/${name#fuzz_}" ] && seeds=("test/fuzz/seeds/${name#fuzz_}")
    echo "== $name, $seconds s"
    if timeout -k 10 $((seconds + 120)) "$program" -max_total_time="$seconds" -timeout=20 \
        -print_final_stats=1 -artifact_prefix="$corpus-" "$corpus" ${seeds[@]+"${seeds[@]}"} \
        >"$corpus.log" 2>&1 </dev/null; then
        passed=$((passed + 1))
        grep -E 'stat::number_of_executed_units|^[0-9]+ (runs|inputs)' "$corpus.log" ||
            tail -1 "$corpus.log"
    else
        failed=$((failed + 1))
        tail -60 "$corpus.log"
        echo "FAILED: $name; the input is beside $corpus"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
