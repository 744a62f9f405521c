#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# try.sh [TOOL] -- a short tour of keepmap on data that every Debian system has.
#
# TOOL is the path of the keepmap tool; else $KEEPMAP; else ./build/keepmap. Works in a temporary
# folder and leaves nothing behind. Exits with 1, loudly, if anything is not as it should be.
set -u -o pipefail
export LC_ALL=C.UTF-8

keepmap=${1:-${KEEPMAP:-./build/keepmap}}
case $keepmap in /*) ;; *) keepmap=$PWD/$keepmap ;; esac
[ -x "$keepmap" ] || { echo "try.sh: no tool at $keepmap: run \`make\` first" >&2; exit 1; }

work=$(mktemp -d) || exit 1
writer=
finish() {
    [ -n "$writer" ] && kill -9 "$writer" 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT
cd "$work" || exit 1

title() { printf '\n== %s\n\n' "$*"; }
fail() {
    printf '\n!!! FAILED: %s\n' "$*" >&2
    exit 1
}
# Show a command as a reader would type it, and run it; only the tool's own folder is left out.
run() {
    printf '$ keepmap %s\n' "$*"
    "$keepmap" "$@" 2>&1 | sed 's/^/  /' || fail "exit code ${PIPESTATUS[0]} of: keepmap $*"
}
# The same for an output of which the first lines are enough.
run_cut() {
    local lines=$1
    shift
    printf '$ keepmap %s\n' "$*"
    "$keepmap" "$@" >output || fail "exit code $? of: keepmap $*"
    cut -c 1-76 output | head -n "$lines" | sed 's/^/  /'
    [ "$(wc -l <output)" -gt "$lines" ] && echo "  ..."
}

# Paragraphs of a package index as escaped TSV: the package's name, and all of its paragraph. Stray
# control bytes are left out, so that the text is what `keepmap dump` would write, byte for byte.
paragraphs_to_tsv() {
    iconv -f UTF-8 -t UTF-8 -c | tr -d '\000-\010\013-\037\177' | awk 'BEGIN { RS = ""; FS = "\n" }
        /^Package: / {
            name = substr($1, 10)
            gsub(/\\/, "\\\\\\\\"); gsub(/\t/, "\\t"); gsub(/\n/, "\\n")
            printf "%s\t%s\n", name, $0
        }'
}

echo "keepmap keeps maps from keys to values in a folder. This tour fills two of them, reads"
echo "them, and kills a writer in the middle of its work to see what is left."

# ---- two maps ---------------------------------------------------------------------------------

title "A map of packages: name -> what the package index says about it"
command -v apt-cache >/dev/null && apt-cache dumpavail 2>/dev/null | paragraphs_to_tsv >packages.tsv
if [ -s packages.tsv ]; then
    echo "The data: $(wc -l <packages.tsv) paragraphs of \`apt-cache dumpavail\`," \
        "$(du -h packages.tsv | cut -f1)."
elif [ -s /var/lib/dpkg/status ]; then
    paragraphs_to_tsv </var/lib/dpkg/status >packages.tsv
    echo "No package index here (\`apt-get update\` fetches it): the tour takes the" \
        "$(wc -l <packages.tsv)"
    echo "installed packages of /var/lib/dpkg/status instead."
else
    seq 1 50000 | awk '{ printf "package-%d\tPackage: package-%d\\nNumber: %d\n", $1, $1, $1 }' \
        >packages.tsv
    echo "No Debian packages here: the tour makes up $(wc -l <packages.tsv)."
fi
echo
run load store --map packages --escaped --input packages.tsv

title "A map of words: word -> its number, as JSON lines"
if [ -s /usr/share/dict/words ]; then
    words=/usr/share/dict/words
else
    cut -f 1 packages.tsv >words
    words=words
    echo "No /usr/share/dict/words (package wamerican): the names of the packages stand in."
    echo
fi
awk '{ gsub(/\\/, "\\\\"); gsub(/"/, "\\\""); printf "{\"k\":\"%s\",\"v\":\"%d\"}\n", $0, NR }' \
    "$words" >words.jsonl
head -n 1 words.jsonl | sed 's/^/  /'
echo
run load store --map words --input words.jsonl

title "What is in the store"
run list store
run count store --map words

title "Lookups"
package=$(grep -m 1 -o '^bash'$'\t' packages.tsv | tr -d '\t')
package=${package:-$(head -n 1 packages.tsv | cut -f 1)}
word=$(sed -n 4711p "$words")
word=${word:-$(head -n 1 "$words")}
run_cut 5 get store --map packages "$package"
run_cut 1 get store --map words "$word"
run_cut 1 get store --map words "$word" --format json
printf '$ keepmap get store --map words no-such-word\n'
"$keepmap" get store --map words no-such-word 2>missing
[ $? -eq 1 ] || fail "a missing key has to exit with 1"
echo "  $(cat missing) (exit code 1)"

title "Is it all there? The map is written out again and compared with what went in"
"$keepmap" dump store --map packages | sort >after || fail "dump"
# Of a package that is listed twice the last paragraph counts, as in the map.
awk -F'\t' '{ last[$1] = $0 } END { for (name in last) print last[name] }' packages.tsv |
    sort >before
cmp before after || fail "what comes out is not what went in"
echo "  $(wc -l <after) records, every byte the same."
echo
run_cut 20 stat store

# ---- kill -9 ----------------------------------------------------------------------------------

title "kill -9 in the middle of writing"
echo "A process puts numbered records, one by one, and writes down each number once the put was"
echo "acknowledged. It is killed with kill -9 while it works."
echo
echo "$ numbered_records | keepmap load store --map numbers --batch 1 --ack >acknowledged &"
numbered_records() {
    awk 'BEGIN { for (i = 1; ; i++) printf "record %d\tvalue %d of this run\n", i, i }' 2>/dev/null
}
numbered_records |
    exec "$keepmap" load store --map numbers --batch 1 --ack --quiet >acknowledged 2>writer.err &
writer=$!
for _ in $(seq 1000); do
    [ "$(wc -l <acknowledged)" -ge 20000 ] && break
    kill -0 "$writer" 2>/dev/null || fail "the writer ended by itself: $(cat writer.err)"
    sleep 0.01
done
echo "$ kill -9 \$!"
kill -9 "$writer" || fail "there was nothing to kill"
wait "$writer" 2>/dev/null
status=$?
writer=
[ $status -eq 137 ] || fail "the writer was to die by kill -9, but exited with $status"
acknowledged=$(grep -c '' acknowledged)
[ "$acknowledged" -gt 0 ] || fail "nothing was acknowledged"
[ "$(tail -n 1 acknowledged)" = "$acknowledged" ] || fail "acknowledged numbers are not 1, 2, 3..."
echo "  killed after $acknowledged acknowledged records"
echo
run count store --map numbers
"$keepmap" dump store --map numbers | sort >found || fail "dump after kill -9"
awk -v n="$acknowledged" 'BEGIN {
    for (i = 1; i <= n; i++) printf "record %d\tvalue %d of this run\n", i, i }' | sort >promised
comm -23 promised found >lost
[ -s lost ] && fail "$(wc -l <lost) acknowledged records are lost, the first: $(head -n 1 lost)"
comm -13 promised found >extra
[ "$(wc -l <extra)" -le 1 ] || fail "$(wc -l <extra) records more than the one under way"
echo "  all $acknowledged acknowledged records are there, with their values;" \
    "under way and kept: $(wc -l <extra)"

title "And is the store whole?"
run verify store

title "Done"
echo "Next: keepmap --help, man ./docs/keepmap.1, examples/ and include/keepmap/keepmap.h."
