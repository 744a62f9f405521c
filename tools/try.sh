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
# The same for a command that has to print what is in a file.
run_same() {
    local lines=$1 expected=$2
    shift 2
    run_cut "$lines" "$@"
    cmp output "$expected" || fail "that is not what it has to print: keepmap $*"
}
# The same for a key that must not be there.
run_missing() {
    printf '$ keepmap %s\n' "$*"
    "$keepmap" "$@" >output 2>missing
    [ $? -eq 1 ] && [ ! -s output ] || fail "no exit code 1, as for a missing key: keepmap $*"
    echo "  $(cat missing) (exit code 1)"
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

echo "keepmap keeps maps from keys to values in a folder. This tour fills some of them, reads them"
echo "in order, goes back to a backup, and kills a writer in the middle of its work to see what is"
echo "left. The answers are checked."

# ---- two maps ---------------------------------------------------------------------------------

title "A map of packages: name -> what the package index says about it, in the order of the index"
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

title "A sorted map of words: word -> its number, as JSON lines"
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
run load store --map words --kind sorted --input words.jsonl
sort -u "$words" >words.sorted

title "What is in the store"
run list store
[ "$("$keepmap" count store --map words)" = "$(wc -l <words.sorted)" ] || fail "words are missing"

title "Lookups"
package=$(grep -m 1 -o '^bash'$'\t' packages.tsv | tr -d '\t')
package=${package:-$(head -n 1 packages.tsv | cut -f 1)}
word=$(sed -n 4711p "$words")
word=${word:-$(head -n 1 "$words")}
run_cut 5 get store --map packages "$package"
run_cut 1 get store --map words "$word"
run_cut 1 get store --map words "$word" --format json
run_missing get store --map words no-such-word

# ---- orders -----------------------------------------------------------------------------------

title "A sorted map has ranges and prefixes"
for prefix in keep "${word:0:3}" "${word:0:2}" "${word:0:1}" ""; do
    awk -v p="$prefix" 'index($0, p) == 1' words.sorted >begun
    [ "$(wc -l <begun)" -ge 3 ] && break
done
first=$(head -n 1 begun)
last=$(tail -n 1 begun)
run_same 6 begun scan store --map words --keys --prefix "$prefix"
head -n -1 begun >range
run_same 3 range scan store --map words --keys --from "$first" --to "$last"
wc -l <range >expected
run_same 1 expected count store --map words --from "$first" --to "$last"
tac words.sorted | head -n 3 >expected
run_same 3 expected scan store --map words --keys --reverse --limit 3

title "A map in insertion order (the default) has positions"
awk -F'\t' '!seen[$1]++ { print $1 }' packages.tsv >order
place=$(grep -n -x -F -m 1 -e "$package" order | cut -d : -f 1)
echo $((place - 1)) >expected
run_same 1 expected index store --map packages --of "$package"
run_cut 2 index store --map packages $((place - 1))
[ "$(cut -f 1 output)" = "$package" ] || fail "that is not $package"
head -n 3 order >expected
run_same 3 expected scan store --map packages --keys --limit 3
tail -n 1 order >expected
run_same 1 expected scan store --map packages --keys --reverse --limit 1

title "Counters, and keys that live for a while"
for i in 1 2 3; do
    echo $i >expected
    run_same 1 expected incr store --map visits index.html
done
run set store --map sessions --ttl 3s alice token
run_cut 3 get store --map sessions alice --info
expires_ms=$(sed -n 's/^expires_ms: //p' output)
[ "$expires_ms" -gt 0 ] || fail "the key does not say when it expires"

# ---- a backup ---------------------------------------------------------------------------------

title "A backup, what has changed since, and the way back"
run backup store monday
run set store --map words "$first" changed
run set store --map words keepmap-tour new
run del store --map words "$last"
printf '$ keepmap pop store --map packages >popped\n'
"$keepmap" pop store --map packages >popped || fail "pop"
[ "$(cut -f 1 popped)" = "$(head -n 1 order)" ] || fail "pop does not take the first package"
# Without the key that expires: it may be gone by now, which is a difference too.
differences() { grep -v -F $'\tsessions\t' output | sort; }
run_cut 9 diff store --since monday
{
    printf -- '-\t%s\t%s\t\n' packages "$(head -n 1 order)" words "$last"
    printf '%s\twords\t%s\t%s\n' + keepmap-tour new '~' "$first" changed
} | sort >expected
differences | cmp - expected || fail "that is not what has changed"
run restore --in-place monday store
run_cut 9 diff store --since monday
[ -z "$(differences)" ] || fail "the store is not what it was on monday"
run_missing get store --map words keepmap-tour

title "Is it all there? The map is written out again and compared with what went in"
"$keepmap" dump store --map packages | sort >after || fail "dump"
# Of a package that is listed twice the last paragraph counts, as in the map.
awk -F'\t' '{ last[$1] = $0 } END { for (name in last) print last[name] }' packages.tsv |
    sort >before
cmp before after || fail "what comes out is not what went in"
echo "  $(wc -l <after) records, every byte the same."
echo
run_cut 20 stat store

# ---- sealed tables ----------------------------------------------------------------------------

title "Cold data leaves memory: the map as a sealed table, and the table under a map"
run seal --quiet store packages.table --map packages
cut -f 1 before >names
package=$(shuf -n 1 --random-source=names names)
"$keepmap" get store --map packages "$package" >package_before
run_same 3 package_before get packages.table "$package"
run scan packages.table --keys --prefix lib --limit 3
run create store --map archive --kind sorted
run attach --map archive store packages.table
run del store --map archive "$package"
run_missing get store --map archive "$package"
wc -l <before | awk '{ print $1 - 1 }' >one_less
run_same 1 one_less count store --map archive
run detach --map archive store

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

title "And the key that was to live for three seconds?"
while [ "$(date +%s%3N)" -le "$expires_ms" ]; do sleep 0.1; done
run_missing get store --map sessions alice

title "And is the store whole?"
run verify store

title "Done"
echo "Next: keepmap --help, man ./docs/keepmap.1, examples/ and include/keepmap/keepmap.h."
