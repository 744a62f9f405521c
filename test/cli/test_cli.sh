#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# test_cli.sh TOOL -- what a user of the keepmap tool can meet: every verb, format and exit code.
#
# Prints a line for each case, and how many passed; exits with 1 if any failed. What a case ran and
# said is printed where it failed. Cases that need another program are skipped, and say so.
set -u
export LC_ALL=C

tool=${1:?usage: test_cli.sh TOOL}
case $tool in /*) ;; *) tool=$PWD/$tool ;; esac
[ -x "$tool" ] || { echo "no tool at $tool" >&2; exit 1; }

work=$(mktemp -d) || exit 1
background=
finish() {
    [ -n "$background" ] && kill -9 $background 2>/dev/null
    umount "$work/small" 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT
cd "$work" || exit 1

passed=0
failed=0
ok() { passed=$((passed + 1)); echo "ok $1"; }
bad() {
    failed=$((failed + 1))
    echo "FAIL $1"
    shift
    [ $# -gt 0 ] && printf '    %s\n' "$@"
    [ -s err ] && sed 's/^/    stderr: /' err | head -5
}
skip() { echo "ok $1 # skipped: $2"; }

# code NAME EXPECTED ARGUMENTS...: run the tool; stdout goes to `out`, stderr to `err`.
code() {
    local name=$1 expected=$2
    shift 2
    "$tool" "$@" >out 2>err </dev/null
    local got=$?
    if [ $got -eq "$expected" ]; then ok "$name"; else
        bad "$name" "exit code $got, expected $expected" "keepmap $(printf %.300s "$*")"
    fi
}
# error NAME EXPECTED ARGUMENTS...: the same, and stderr holds one line that names the tool.
error() {
    local name=$1
    code "$@"
    if [ "$(wc -l <err)" -eq 1 ] && grep -q '^keepmap: ' err; then ok "${name}_tells_in_one_line"
    else bad "${name}_tells_in_one_line" "$(head -3 err)"; fi
}
# prints NAME TEXT ARGUMENTS...: exit code 0, and stdout is exactly TEXT.
prints() {
    local name=$1 expected=$2
    shift 2
    "$tool" "$@" >out 2>err </dev/null
    local got=$?
    printf %s "$expected" >expected
    if [ $got -eq 0 ] && cmp -s out expected; then ok "$name"; else
        bad "$name" "exit code $got, output: $(head -c 200 out | tr '\0' '?')"
    fi
}
says() { # NAME PATTERN: stderr of the last run holds it
    if grep -q -- "$2" err; then ok "$1"; else bad "$1" "stderr lacks: $2"; fi
}
has() { # NAME PATTERN: stdout of the last run holds it
    if grep -q -- "$2" out; then ok "$1"; else bad "$1" "stdout lacks: $2"; fi
}
same() { # NAME FILE FILE
    if cmp -s "$2" "$3"; then ok "$1"; else bad "$1" "$2 and $3 differ"; fi
}
is() { # NAME GOT EXPECTED
    if [ "$2" = "$3" ]; then ok "$1"; else bad "$1" "got '$2', expected '$3'"; fi
}
lines_reach() { # FILE COUNT: wait until the file has so many lines, at most 20 seconds
    local i
    for i in $(seq 2000); do
        [ -f "$1" ] && [ "$(wc -l <"$1")" -ge "$2" ] && return 0
        sleep 0.01
    done
    return 1
}

# ---- help and usage ---------------------------------------------------------------------------

code help_works 0 --help
has help_lists_verbs salvage
code version_works 0 --version
has version_names_the_tool '^keepmap [0-9]'
for verb in set get del count list load dump stat verify salvage bench; do
    code "help_of_$verb" 0 $verb --help
    has "help_of_${verb}_shows_usage" "^usage: keepmap $verb"
done
error no_verb 2
error unknown_verb 2 frobnicate s
error unknown_option 2 get --frobnicate s k
error option_of_another_verb 2 get --batch 3 s k
error missing_argument 2 get s
error excess_argument 2 get s k more
error option_without_its_value 2 get s k --map
error bad_durability 2 set --durable never s k v
error bad_format 2 get --format xml s k
error format_that_the_verb_lacks 2 stat --format hex s
error bad_number 2 load --batch 0 s
error empty_map_name 2 get --map '' s k
error long_map_name 2 set --map "$(printf '%0256d' 0)" s k v
error control_bytes_in_a_verb 2 $'a\e[31mb'
if grep -q $'\e' err; then bad messages_are_escaped; else ok messages_are_escaped; fi
[ -e s ] && bad usage_errors_create_nothing || ok usage_errors_create_nothing

# ---- one record --------------------------------------------------------------------------------

code set_creates_store_and_map 0 set s key value
prints get_gives_the_bytes_alone value get s key
code set_overwrites 0 set s key other
prints overwritten_value_is_read other get s key
code set_with_power_durability 0 set --durable power s key third
prints value_is_there third get s key
error get_of_a_missing_key 1 get s nothing
code quiet_get_of_a_missing_key 1 get -q s nothing
is quiet_says_nothing "$(cat err)" ""
error get_from_a_missing_map 1 get --map other s key
code empty_value 0 set s empty ''
prints empty_value_is_a_value '' get s empty
code empty_key 0 set s '' nameless
prints empty_key_is_a_key nameless get s ''
prints count_counts $'3\n' count s
code del_deletes 0 del s key
error deleted_key_is_gone 1 get s key
error del_of_a_missing_key 1 del s key
error del_from_a_missing_map 1 del --map other s key
prints count_after_del $'2\n' count s
error count_of_a_missing_map 1 count --map other s
code arguments_after_dashes 0 set -- s -k -v
prints dashes_work_for_get -v get s -- -k
code options_may_follow 0 set s k v --map second
prints map_is_apart v get -m second s k

printf 'a\0b\nc' >value
"$tool" set s stdin - <value 2>err && ok value_from_stdin || bad value_from_stdin
"$tool" get s stdin >out 2>err
same value_from_stdin_is_exact value out
for i in $(seq 0 255); do printf "\\x$(printf %02x "$i")"; done >all_bytes
"$tool" set s all - <all_bytes 2>err
"$tool" get s all >out 2>err
same all_bytes_in_a_value all_bytes out
head -c 5242880 /dev/urandom >big
"$tool" set s big - <big 2>err && ok big_value_is_set || bad big_value_is_set
"$tool" get s big >out 2>err
same big_value_is_exact big out

code escaped_key_and_value 0 set -x s 'k\x00\t\n\\' 'v\xff'
prints escaped_key_is_found $'v\xff' get s -x 'k\x00\x09\x0a\x5c'
prints hex_format $'76ff\n' get -x --format hex s 'k\x00\t\n\\'
prints json_format $'{"k":"k\\u0000\\t\\n\\\\","v64":"dv8="}\n' get -x --format json s 'k\x00\t\n\\'
prints raw_format $'v\xff' get -x --format raw s 'k\x00\t\n\\'
prints backslash_is_plain_without_x '' set s 'a\x41' plain
prints backslash_key_is_read plain get s 'a\x41'
error bad_escape_in_a_key 2 get -x s 'a\q'
error short_escape 2 get -x s 'a\x4'
error bad_escape_in_a_value 2 set -x s k 'a\'
error bad_escape_in_a_map_name 2 set -x --map '\y' s k v
code escaped_map_name 0 set -x --map 'm\x00\xff' s k v
prints escaped_map_is_found v get -x --map 'm\x00\xff' s k
key_max=$(printf '%065535d' 0)
code longest_key 0 set s "$key_max" long
prints longest_key_is_found long get s "$key_max"
error too_long_key 2 set s "0$key_max" long

prints list_shows_maps $'main\thash\t9\nsecond\thash\t1\nm\\x00\\xff\thash\t1\n' list s
code list_as_json 0 list --format json s
has list_json_has_the_count '^{"map":"main","kind":"hash","count":9}$'
has list_json_encodes_names '^{"map64":"bQD/",'
code stat_works 0 stat s
has stat_shows_keys '^key_count: 11$'
code stat_as_json 0 stat --format json s
has stat_json_shows_keys '"key_count":11,'
is stat_json_is_one_line "$(wc -l <out)" 1
code verify_finds_no_damage 0 verify s
has verify_counts_damage '^damaged: 0$'

# ---- output ------------------------------------------------------------------------------------

if [ -w /dev/full ]; then
    "$tool" get s all >/dev/full 2>err
    is full_stdout_is_an_error $? 3
    says full_stdout_is_told 'cannot write the output'
    "$tool" dump s >/dev/full 2>err
    is full_stdout_stops_a_dump $? 3
fi
"$tool" get s all >&- 2>err
is closed_stdout_is_an_error $? 3
"$tool" dump s 2>err | head -c 1 >/dev/null
is broken_pipe_ends_by_sigpipe "${PIPESTATUS[0]}" 141
is broken_pipe_is_quiet "$(cat err)" ""
if script -qec true /dev/null >/dev/null 2>&1 </dev/null; then
    on_terminal() { script -qec "$tool $*" /dev/null </dev/null | tr -d '\r'; }
    "$tool" set -x s term 'a\x1b[31m\xff\\b' 2>err
    is terminal_output_is_escaped "$(on_terminal get s term)" 'a\x1b[31m\xff\\b'
    is raw_is_raw_on_a_terminal "$(on_terminal get --format raw s term)" $'a\e[31m\xff\\b'
    code del_term 0 del s term
else
    skip terminal_output_is_escaped "no script(1)"
fi

# ---- round trips -------------------------------------------------------------------------------

sorted_dump() { "$tool" dump "$@" 2>err | sort; }
sorted_dump s >dump.tsv
is dump_has_every_record "$(wc -l <dump.tsv)" 9
"$tool" dump s 2>err | "$tool" load -x --from tsv t.tsv 2>err
is tsv_load_succeeds $? 0
says load_tells_the_count 'loaded 9 records'
"$tool" dump --to json s 2>err | "$tool" load t.json 2>err
is json_load_succeeds $? 0
"$tool" dump --to mdb s 2>err | "$tool" load t.mdb 2>err
is mdb_load_succeeds $? 0
for format in tsv json mdb; do
    sorted_dump t.$format >again.$format
    same "round_trip_by_$format" dump.tsv again.$format
done
"$tool" get t.json big >out 2>err
same big_value_survives_json big out
"$tool" dump --all --to json s 2>err | "$tool" load all.json 2>err
is whole_store_by_json "$("$tool" list all.json | sort)" "$("$tool" list s | sort)"
code only_json_names_such_a_map 2 dump --all --to mdb s
says dump_names_the_map 'm.x00.xff'
code tsv_names_no_maps 2 dump --all s
code dump_of_a_missing_map 1 dump --map nothing s
code quiet_load 0 load -q --input dump.tsv -x quiet
is quiet_load_is_quiet "$(cat err)" ""
: >nothing
code load_of_nothing_makes_the_map 0 load --input nothing nothing.s
prints loaded_nothing $'0\n' count nothing.s
code dump_of_an_empty_map 0 dump nothing.s
is dump_of_nothing_is_empty "$(cat out)" ""

printf '%s\n' 'VERSION=3' 'format=print' 'database=one' 'type=btree' 'mapsize=1048576' \
    'HEADER=END' ' a\00b' ' x\\y z' ' ' ' ' 'DATA=END' 'VERSION=3' 'format=bytevalue' \
    'database=two' 'type=hash' 'HEADER=END' ' 6B' ' 76fF' 'DATA=END' >two.mdb
code mdb_with_two_databases 0 load --input two.mdb two
prints mdb_print_format 'x\y z' get -x --map one two 'a\x00b'
prints mdb_empty_key_and_value '' get --map one two ''
prints mdb_bytevalue_format $'v\xff' get --map two two k
code mdb_into_one_map 0 load --map only --input two.mdb two
prints map_option_goes_before_names $'3\n' count --map only two
code mdb_of_all_maps 0 dump --all --to mdb two
cp out two.dump
code mdb_of_all_maps_loads 0 load --input two.dump two.again
prints all_maps_are_back $'one\thash\t2\ntwo\thash\t1\nonly\thash\t3\n' list two.again

if command -v mdb_load >/dev/null && command -v mdb_dump >/dev/null; then
    printf 'plain\ttext\nodd \\x00\\xff\\n\\t\tvalue \\x00\\x80\nempty\t\n' >input
    "$tool" load -q -x --input input lmdb 2>err
    "$tool" set lmdb big - <big
    mkdir lmdb.env
    "$tool" dump --to mdb lmdb 2>err | mdb_load lmdb.env 2>err
    is mdb_load_takes_our_dump $? 0
    mdb_dump -s main lmdb.env >from.mdb
    code mdb_dump_is_loaded 0 load --input from.mdb lmdb.back
    sorted_dump lmdb >expected
    sorted_dump lmdb.back >out
    same round_trip_through_lmdb expected out
    mkdir print.env # -p of some versions does not escape backslashes: a store without them
    "$tool" set -x print 'odd \x00\xff\n\t' 'value \x00\x80'
    "$tool" dump --to mdb print 2>err | mdb_load print.env 2>err
    mdb_dump -p -s main print.env >from.mdb
    code mdb_dump_p_is_loaded 0 load --input from.mdb lmdb.print
    "$tool" get -x lmdb.print 'odd \x00\xff\n\t' >out 2>err
    printf 'value \0\x80' >expected
    same print_format_of_lmdb expected out
else
    skip round_trip_through_lmdb "no mdb_load"
fi

# ---- input that is read and input that is refused ------------------------------------------------

load_line() { # NAME CODE OPTIONS TEXT: load text with printf's escapes
    local name=$1 expected=$2 options=$3
    printf "$4" >input
    rm -rf l
    code "$name" "$expected" load $options --input input l
}
load_line tsv_without_newline 0 "" 'k\tv'
prints tsv_last_line_counts v get l k
load_line tsv_is_plain_by_default 0 "" 'k\\n\tv\t\\x41\r\n'
prints tsv_keeps_every_byte $'v\t\\x41\r' get l 'k\n'
load_line tsv_empty_fields 0 "" '\t\n'
prints tsv_empty_key '' get l ''
load_line tsv_without_tab 2 "" 'a\t1\nb\t2\nc 3\nd\t4\n'
says bad_line_has_its_number 'input:3: '
says what_came_before_is_told '2 records before it are loaded'
prints lines_before_stay 2 get l b
code lines_after_are_not_loaded 1 get l d
load_line tsv_bad_escape 2 -x 'a\\q\tv\n'
load_line json_by_its_first_byte 0 "" '{"k":"a","v":"b"}\n{ "v64" : "/w==" , "k64" : "" }\n'
prints json_members_in_any_order $'\xff' get l ''
load_line json_escapes 0 "" \
    '{"k":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9","v":"\\uD83D\\uDE00\\u20ac"}'
prints json_escapes_are_decoded $'\xf0\x9f\x98\x80\xe2\x82\xac' get -x l \
    '"\\/\x08\x0c\n\x0d\t\xc3\xa9'
load_line json_lone_surrogate 2 "" '{"k":"\\ud83d","v":""}'
load_line json_lone_low_surrogate 2 "" '{"k":"\\ude00","v":""}'
load_line json_half_pair 2 "" '{"k":"\\ud83d\\u0041","v":""}'
load_line json_short_escape 2 "" '{"k":"\\u12","v":""}'
load_line json_bad_escape 2 "" '{"k":"\\x41","v":""}'
load_line json_control_byte 2 "--from json" '{"k":"a\tb","v":""}'
load_line json_bad_utf8 2 "" '{"k":"\xff","v":""}'
load_line json_long_utf8 2 "" '{"k":"\xc0\x80","v":""}'
load_line json_long_utf8_of_three 2 "" '{"k":"\xe0\x80\x80","v":""}'
load_line json_long_utf8_of_four 2 "" '{"k":"\xf0\x80\x80\x80","v":""}'
load_line json_surrogate_in_utf8 2 "" '{"k":"\xed\xa0\x80","v":""}'
load_line json_above_unicode 2 "" '{"k":"\xf4\x90\x80\x80","v":""}'
load_line json_member_twice 2 "" '{"k":"a","k":"b","v":""}'
load_line json_key_in_two_forms 2 "" '{"k":"a","k64":"","v":""}'
load_line json_unknown_member 2 "" '{"k":"a","v":"","x":"y"}'
load_line json_without_value 2 "" '{"k":"a"}'
load_line json_without_key 2 "" '{"v":"a"}'
load_line json_number 2 "" '{"k":1,"v":""}'
load_line json_open_string 2 "" '{"k":"a'
load_line json_text_behind 2 "" '{"k":"a","v":""} x'
load_line json_comma_behind 2 "" '{"k":"a","v":"",}'
load_line json_bad_base64 2 "" '{"k64":"a","v":""}'
load_line json_loose_base64 2 "" '{"k64":"/x==","v":""}'
load_line json_loose_base64_of_two 2 "" '{"k64":"//9=","v":""}'
load_line json_inner_padding 2 "" '{"k64":"/w==/w==","v":""}'
load_line json_empty_line 2 "" '{"k":"a","v":""}\n\n'
says json_bad_line_has_its_number 'input:2: '
load_line json_map 0 "" '{"m":"x","k":"a","v":"1"}\n{"k":"a","v":"2"}\n'
prints json_names_a_map 1 get --map x l a
prints json_without_a_name_goes_to_main 2 get l a
h='VERSION=3\nformat=bytevalue\nHEADER=END\n'
load_line mdb_without_database_goes_to_main 0 "" "$h 6b\n 76\nDATA=END\n"
prints mdb_main v get l k
load_line mdb_cut_short 2 "" "$h 6b\n 76\n"
load_line mdb_key_without_value 2 "" "$h 6b\nDATA=END\n"
load_line mdb_odd_digits 2 "" "$h 6\n 76\nDATA=END\n"
load_line mdb_bad_digit 2 "" "$h 6g\n 76\nDATA=END\n"
load_line mdb_no_space 2 "" "$h""6b\n 76\nDATA=END\n"
load_line mdb_other_version 2 "" 'VERSION=2\n'
load_line mdb_cut_header 2 "" 'VERSION=3\nformat=print\n'
load_line mdb_duplicates 2 "" 'VERSION=3\nformat=print\ndupsort=1\nHEADER=END\n'
load_line mdb_recno 2 "" 'VERSION=3\nformat=print\ntype=recno\nHEADER=END\n'
load_line mdb_bad_escape 2 "" 'VERSION=3\nformat=print\nHEADER=END\n a\\q\n v\nDATA=END\n'
load_line mdb_text_behind 2 "" "${h}DATA=END\nmore\n"
{ printf 'k\tv\n'; printf '%065536d\tv\n' 0; } >input
rm -rf l
error key_too_long_in_input 2 load --input input l
says long_key_has_its_line 'input:2: '
error input_that_is_not_there 3 load --input nowhere l
error input_that_is_a_folder 3 load --input . l

seq 1 1000 | awk '{printf "%d\tvalue %d\n", $1, $1}' >thousand
code acks_are_printed 0 load --batch 100 --ack --input thousand acks
is acks_count_records "$(tr '\n' ' ' <out)" "100 200 300 400 500 600 700 800 900 1000 "
prints all_were_loaded $'1000\n' count acks
# The first line ends where the tool's first read does, its newline begins the second.
for size in 262141 262142 262143; do
    { printf 'k\t'; head -c $size /dev/zero | tr '\0' x; printf '\nb\tv\n'; } >input
    rm -rf l
    code "line_of_${size}_ends_well" 0 load --from tsv --input input l
    is "value_of_${size}_is_whole" "$("$tool" get l k | wc -c)" $size
    prints "line_after_${size}_is_read" v get l b
done

awk 'BEGIN { for (i = 0; i < 200000; i++) printf "\\x5c\\\\"; }' >backslashes
{ printf 'b\t'; cat backslashes; echo; } >input
code line_of_escapes_only 0 load -x --input input esc
is escapes_are_decoded "$("$tool" get esc b | wc -c)" 400000
"$tool" dump esc >out 2>err
is escapes_are_written "$(wc -c <out)" 800003

# ---- stores that cannot be opened ----------------------------------------------------------------

for verb in "get nowhere k" "del nowhere k" "count nowhere" "list nowhere" "dump nowhere" \
    "stat nowhere" "verify nowhere" "salvage nowhere new"; do
    error "missing_store_${verb%% *}" 3 $verb
done
[ -e nowhere ] && bad reading_creates_nothing || ok reading_creates_nothing
mkdir folder && echo text >folder/file
for verb in "get folder k" "count folder" "verify folder" "salvage folder new"; do
    error "folder_that_is_no_store_${verb%% *}" 3 $verb
done
is folder_is_untouched "$(ls -A folder)" file
echo text >plain
error store_that_is_a_file 3 get plain k
error store_below_a_missing_folder 3 set no/such/folder k v

mkfifo fifo
"$tool" load --batch 1 --ack held <fifo >held.acks 2>held.err &
background=$!
exec 3>fifo
printf 'k\tv\n' >&3
if lines_reach held.acks 1; then ok ack_comes_while_input_is_open; else
    bad ack_comes_while_input_is_open "$(cat held.err)"
fi
error locked_store_is_not_written 3 set held k w
error locked_store_is_not_read 3 get held k
says lock_names_the_process "$background"
exec 3>&-
wait $background
is load_ends_with_its_input $? 0
background=
prints unlocked_store_is_read v get held k

# ---- kill -9 -------------------------------------------------------------------------------------

for round in 1 2 3; do
    rm -f kill.acks
    awk -v r=$round 'BEGIN { for (i = 1; i <= 2000000; i++) printf "%d.%d\tvalue %d\n", r, i, i }' |
        exec "$tool" load -q --batch 1 --ack killed >kill.acks 2>err &
    background=$!
    lines_reach kill.acks $((round * 500)) || bad "kill_${round}_acknowledges"
    # The job's last process is the tool: $! of a pipeline, replaced by exec.
    kill -9 $background 2>/dev/null
    wait $background 2>/dev/null
    is "kill_${round}_hit_the_tool" $? 137
    background=
    acked=$(grep -c '' kill.acks)
    "$tool" dump killed 2>err | awk -F'\t' -v r=$round -v n="$acked" '
        { split($1, part, "."); if (part[1] == r && $2 == "value " part[2]) seen[part[2]] = 1 }
        END { for (i = 1; i <= n; i++) if (!(i in seen)) missing++; print missing + 0 }' >missing
    is "kill_${round}_loses_nothing_acknowledged" "$(cat missing)" 0
    code "kill_${round}_leaves_no_damage" 0 verify killed
done

# The store was closed in order, and the kill comes before anything reaches a segment's file.
for round in 1 2 3; do
    "$tool" set clean "before $round" v 2>err
    rm -f clean.acks
    "$tool" load -q --batch 1 --ack clean <fifo >clean.acks 2>err &
    background=$!
    exec 3>fifo
    printf 'after %d\tv\n' $round >&3
    lines_reach clean.acks 1 || bad "kill_${round}_after_a_clean_close_acknowledges"
    kill -9 $background
    wait $background 2>/dev/null
    exec 3>&-
    background=
    prints "kill_${round}_after_a_clean_close_loses_nothing" v get clean "after $round"
    prints "kill_${round}_after_a_clean_close_keeps_the_old" v get clean "before $round"
done

# ---- damage --------------------------------------------------------------------------------------

awk 'BEGIN { for (i = 1; i <= 2000; i++) printf "key %d\tthe value number %d.\n", i, i }' >records
code store_to_damage 0 load --durable power --input records damaged
cp -r damaged whole
place=$(grep -Habo 'the value number 1000\.' damaged/log/* | head -1)
file=${place%%:*}
offset=${place#*:}
offset=${offset%%:*}
printf 'X' | dd of="$file" bs=1 seek=$((offset + 4)) conv=notrunc 2>err
error damage_is_found_by_get 4 get damaged 'key 1000'
code damage_is_found_by_verify 4 verify damaged
has verify_names_the_file "$(basename "$file")"
says verify_says_what_to_do salvage
error damage_is_found_by_set 4 set damaged k v
code salvage_copies 0 salvage damaged saved
has salvage_counts 'copied: 1999'
prints salvaged_before 'the value number 999.' get saved 'key 999'
prints salvaged_after 'the value number 1001.' get saved 'key 1001'
code damaged_record_is_not_salvaged 1 get saved 'key 1000'
code salvaged_store_is_whole 0 verify saved
error salvage_into_a_store 2 salvage damaged whole
prints that_store_is_unchanged $'2000\n' count whole
code damaged_store_is_unchanged 4 verify damaged

# ---- limits of the disk --------------------------------------------------------------------------

# A file system of 4 MiB, where it may be mounted; and a limit below the smallest store's files.
mkdir small
if mount -t tmpfs -o size=4m none small 2>/dev/null; then
    awk 'BEGIN { v = sprintf("%01000d", 0); for (i = 1; i <= 20000; i++) print i "\t" v }' |
        "$tool" load --ack small/full >full.acks 2>err
    is full_disk_is_an_error "${PIPESTATUS[1]}" 3
    says full_disk_is_told 'keepmap: '
    acked=$(tail -n 1 full.acks)
    "$tool" dump small/full 2>err | cut -f1 | sort -n >full.keys
    found=$(awk -v n="${acked:-0}" '$1 <= n' full.keys | wc -l)
    is full_disk_keeps_what_was_acknowledged "$found" "${acked:-0}"
    code full_disk_store_is_whole 0 verify small/full
    umount small
else
    skip full_disk_is_an_error "cannot mount a small file system"
fi
(
    trap '' XFSZ
    ulimit -f 50
    "$tool" set limited k v 2>err
)
is refused_writes_are_an_error $? 3
says refused_writes_are_told '^keepmap: '

# ---- bench ---------------------------------------------------------------------------------------

code bench_works 0 bench --count 3000 --value-size 5 --threads 2 b
has bench_checks_its_answers 'every answer was right'
error bench_refuses_its_map 2 bench --count 10 b
prints bench_leaves_its_map $'3000\n' count --map bench b

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
