#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# test_cli.sh TOOL -- what a user of the keepmap tool can meet: every verb, format and exit code.
#
# Prints a line for each case, and how many passed; exits with 1 if any failed. What a case ran and
# said is printed where it failed. Cases that need another program are skipped, and say so. The
# files cases_*.sh beside it are parts of it.
set -u
export LC_ALL=C

tool=${1:?usage: test_cli.sh TOOL}
here=$(cd "$(dirname "$0")" && pwd)
case $tool in /*) ;; *) tool=$PWD/$tool ;; esac
[ -x "$tool" ] || { echo "no tool at $tool" >&2; exit 1; }

work=$(mktemp -d) || exit 1
background=
watcher=
finish() {
    [ -n "$background$watcher" ] && kill -9 $background $watcher 2>/dev/null
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
for verb in set get del count list load dump stat verify salvage scrub compact backup restore \
    watch follow top bench; do
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
error bad_position 2 watch --after 12x s
error position_beyond_64_bits 2 watch --after 18446744073709551616 s
error position_that_means_now 2 watch --after 18446744073709551615 s
error bad_escape_in_a_prefix 2 watch -x --prefix '\q' s
error prefix_longer_than_any_key 2 watch --prefix "$(printf '%065536d' 0)" s
error bad_seconds 2 watch --for 1.2.3 s
error seconds_with_too_many_digits 2 watch --for 0.1234 s
error negative_seconds 2 watch --for -1 s
error interval_of_nothing 2 top --interval 0 s
error bad_interval 2 follow --interval x s
error count_of_nothing 2 watch --count 0 s
error hex_is_no_format_of_watch 2 watch --format hex s
error tsv_is_no_format_of_stat 2 stat --format tsv s
error rate_of_nothing 2 scrub --rate 0 s
error rate_with_a_bad_suffix 2 scrub --rate 1T s
error rate_with_two_suffixes 2 scrub --rate 1MB s
error rate_beyond_64_bits 2 scrub --rate 99999999999999G s
error keep_of_nothing 2 backup --keep 0 s d
error keep_and_incremental 2 backup --keep 2 --incremental s d
error keep_and_previous 2 backup --keep 2 --previous b s d
error incremental_and_previous 2 backup --incremental --previous b s d
error empty_previous 2 backup --previous '' s d
error backup_without_a_place 2 backup s
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

prints list_shows_maps \
    $'main\tinsertion\t9\nsecond\tinsertion\t1\nm\\x00\\xff\tinsertion\t1\n' list s
code list_as_json 0 list --format json s
has list_json_has_the_count '^{"map":"main","kind":"insertion","count":9}$'
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
prints all_maps_are_back $'one\tinsertion\t2\ntwo\tinsertion\t1\nonly\tinsertion\t3\n' \
    list two.again

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
    "stat nowhere" "verify nowhere" "salvage nowhere new" "scrub nowhere" "compact nowhere" \
    "backup nowhere new" "restore nowhere new" "watch nowhere" "follow nowhere" "top nowhere"; do
    error "missing_store_${verb%% *}" 3 $verb
done
error missing_store_stat_closed 3 stat --closed nowhere
[ -e new ] && bad failing_creates_nothing || ok failing_creates_nothing
[ -e nowhere ] && bad reading_creates_nothing || ok reading_creates_nothing
mkdir folder && echo text >folder/file
for verb in "get folder k" "count folder" "verify folder" "salvage folder new" "stat folder" \
    "backup folder new" "restore folder new" "watch folder"; do
    error "folder_that_is_no_store_${verb%% *}" 3 $verb
done
is folder_is_untouched "$(ls -A folder)" file
echo text >plain
error store_that_is_a_file 3 get plain k
error store_below_a_missing_folder 3 set no/such/folder k v

# writer_begins STORE: a process that has the store open for writing and puts each line of
# descriptor 3; writer_ends closes it in order, writer_dies kills it.
mkfifo fifo
writer_begins() {
    rm -f writer.acks
    "$tool" load -q --batch 1 --ack "$1" <fifo >writer.acks 2>writer.err &
    background=$!
    exec 3>fifo
    acks=0
}
# put KEY VALUE: returns once it is acknowledged. The writer ends when nobody has descriptor 3 open.
put() {
    printf '%s\t%s\n' "$1" "$2" >&3
    acks=$((acks + 1))
    lines_reach writer.acks $acks || bad "put_of_$1_is_acknowledged" "$(cat writer.err)"
}
writer_ends() {
    exec 3>&-
    wait $background
    local result=$?
    background=
    return $result
}
writer_dies() {
    kill -9 $background
    wait $background 2>/dev/null
    exec 3>&-
    background=
}

writer_begins held
put k v
is ack_comes_while_input_is_open "$(cat writer.acks)" 1
error locked_store_is_not_written 3 set held k w
says lock_names_the_process "$background"
error locked_store_is_not_compacted 3 compact held
prints store_is_read_beside_its_writer v get held k
put later w
prints later_changes_are_read_too w get held later
writer_ends
is load_ends_with_its_input $? 0
prints unlocked_store_is_read v get held k

# ---- stat of open, closed and crashed stores -----------------------------------------------------

code closed_store_is_looked_at 0 stat --closed held
has closed_store_is_not_open '^is_open: 0$'
has closed_store_needs_no_recovery '^needs_recovery: 0$'
if grep -q key_count out; then bad closed_opens_nothing; else ok closed_opens_nothing; fi
prints closed_as_json "{$(sed 's/\(.*\): /"\1":/' out | paste -sd ,)}
" stat --closed --format json held
writer_begins held
put open k
prints open_store_is_open $'is_open: 1\n' stat --closed held
prints open_store_is_open_as_json $'{"is_open":1}\n' stat --closed --format json held
code stat_beside_a_writer 0 stat held
is stat_beside_a_writer_begins_with_that "$(head -1 out)" 'is_open: 1'
has stat_beside_a_writer_follows '^is_follower: 1$'
has stat_beside_a_writer_counts '^key_count: 3$'
writer_dies
code crashed_store_is_looked_at 0 stat --closed held
has crashed_store_is_not_open '^is_open: 0$'
has crashed_store_needs_recovery '^needs_recovery: 1$'
code crashed_store_has_statistics 0 stat held
has stat_tells_first_of_the_crash '^needs_recovery: 1$'
has stat_has_what_was_acknowledged '^key_count: 3$'
code stat_of_a_crashed_store_as_json 0 stat --format json held
has stat_json_of_a_crashed_store '^{"is_open":0,"needs_recovery":1,.*,"key_count":3,.*}$'
code recovering 0 set held k v
code recovered_store_is_looked_at 0 stat --closed held
has recovered_store_needs_no_recovery '^needs_recovery: 0$'

# ---- watch ---------------------------------------------------------------------------------------

code watch_store 0 set -x w 'one\t' 'a\\'
"$tool" set w two b
"$tool" del w two
"$tool" set --map other -x w 'two\xff' c
without_position() { cut -f 1,2,4,5 "$@"; }
told_position() { sed -n 's/.*--after \([0-9]*\)$/\1/p' err; }
code watch_from_the_first_on 0 watch --after first --for 0 w
is watch_prints_every_change "$(without_position out)" "$(printf '%s\t%s\t%s\t%s\n' \
    map_created main '' '' put main 'one\t' 'a\\' put main two b delete main two '' \
    map_created other '' '' put other 'two\xff' c)"
says watch_tells_where_to_go_on '^keepmap: to go on from here: --after [0-9]*$'
is watch_positions_grow "$(cut -f 3 out)" "$(cut -f 3 out | sort -nu)"
last=$(told_position)
third=$(sed -n 3p out | cut -f 3)
code watch_after_a_position 0 watch --after "$third" --for 0 w
is watch_goes_on_behind_it "$(without_position out | head -1)" "$(printf 'delete\tmain\ttwo\t')"
prints watch_after_the_end '' watch --after "$last" --for 0 w
prints watch_from_now '' watch --after now --for 0 w
prints quiet_watch '' watch -q --for 0.1 w
is quiet_watch_is_quiet "$(cat err)" ""
code watch_tsv_by_name 0 watch --after first --for 0 --format tsv --map other w
is watch_of_one_map "$(cut -f 1,2 out | tr '\t\n' '  ')" "map_created other put other "
code watch_a_prefix 0 watch --after first --for 0 --prefix tw w
is watch_prints_the_prefix_only "$(cut -f 1,4 out | grep -v ^map | tr '\t\n' '  ')" \
    'put two delete two put two\xff '
code watch_an_escaped_prefix 0 watch --after first --for 0 -x --prefix 'one\x09' w
is escaped_prefix_is_unescaped "$(grep -vc ^map out)" 1
code watch_counts 0 watch --after first --count 2 w
is watch_ends_after_its_count "$(wc -l <out)" 2
code watch_goes_on 0 watch --after "$(told_position)" --for 0 w
is nothing_is_missed_or_twice "$(wc -l <out)" 4
code watch_as_json 0 watch --after first --for 0 --format json w
is watch_json "$(sed 's/"position":[0-9]*/P/' out)" '{"kind":"map_created","m":"main",P}
{"kind":"put","m":"main",P,"k":"one\t","v":"a\\"}
{"kind":"put","m":"main",P,"k":"two","v":"b"}
{"kind":"delete","m":"main",P,"k":"two"}
{"kind":"map_created","m":"other",P}
{"kind":"put","m":"other",P,"k64":"dHdv/w==","v":"c"}'
printf 'x\t\ny\t\n' | "$tool" load -q --batch 2 batch
"$tool" watch -q --after first --for 0 --format json batch >out 2>err
is watch_json_tells_of_batches "$(sed -n 's/.*"k":"\(.\)".*,"more":true}$/\1/p' out)" x
error watch_of_a_missing_map 1 watch --map nothing --for 0 w
error watch_after_no_change 2 watch --after 99999999999999999 --for 0 w
begun=$(date +%s%N)
code watch_for_a_time 0 watch --for 0.3 w
took=$((($(date +%s%N) - begun) / 1000000))
if [ $took -ge 300 ] && [ $took -lt 10000 ]; then ok watch_ends_in_time; else
    bad watch_ends_in_time "$took ms"
fi
"$tool" watch --after first w 2>err | head -n 1 >out
is watch_ends_with_its_reader "${PIPESTATUS[0]}" 141
if [ -w /dev/full ]; then
    "$tool" watch --after first w >/dev/full 2>err
    is watch_on_a_full_disk $? 3
    if [ -n "$(told_position)" ]; then bad lost_changes_are_not_told_as_read; else
        ok lost_changes_are_not_told_as_read
    fi
fi

watching() { # ARGUMENTS...: a watch in the background
    : >watch.out
    "$tool" watch "$@" >watch.out 2>watch.err </dev/null 3>&- & # 3: see put()
    watcher=$!
}
watch_reaches() { # NAME COUNT
    if lines_reach watch.out "$2"; then ok "$1"; else
        bad "$1" "$(wc -l <watch.out) changes, not $2" "$(head -3 watch.err)"
    fi
}
watch_ends() { # NAME SIGNAL
    kill -"$2" $watcher
    wait $watcher
    is "$1" $? 0
    watcher=
    cp watch.err err
    says "${1}_tells_where_to_go_on" '--after [0-9]*$'
}
watching w
lines_reach watch.err 1
is watch_tells_that_nobody_writes "$(grep -c 'not open for writing' watch.err)" 1
code watch_keeps_no_writer_out 0 set w three d
watch_reaches watch_sees_a_later_writer 1
is it_sees_what_was_written "$(without_position watch.out)" "$(printf 'put\tmain\tthree\td')"
watch_ends watch_ends_by_sigint INT

writer_begins w
put before e
watching --after "$last" --map main w
watch_reaches watch_beside_a_writer_begins 2
put after 'f\'
watch_reaches watch_beside_a_writer_goes_on 3
is watch_beside_a_writer "$(without_position watch.out)" "$(printf '%s\t%s\t%s\t%s\n' \
    put main three d put main before e put main after 'f\\')"
watch_ends watch_beside_a_writer_ends_by_sigterm TERM
end=$(told_position)
for i in $(seq 500); do printf 'many %d\t%d\nother %d\t\n' $i $i $i; done >&3
watching --prefix many --after "$end" w
for i in $(seq 501 1000); do printf 'many %d\t%d\nother %d\t\n' $i $i $i; done >&3
watch_reaches watch_of_a_load_sees_all 1000
is watch_of_a_load_is_in_order "$(cut -f 5 watch.out | tr '\n' ' ')" "$(seq -s ' ' 1000) "
writer_ends
is writer_of_a_watched_store_ends $? 0
writer_begins w
put 'many more' g
watch_reaches watch_goes_on_with_the_next_writer 1001
is it_sees_what_the_next_one_writes "$(tail -1 watch.out | cut -f 4,5)" "$(printf 'many more\tg')"
writer_dies
code writer_after_a_crash 0 set w 'many, after a crash' h
watch_reaches watch_goes_on_after_a_crash 1002
watch_ends watch_ends_by_sighup HUP

# ---- follow and top ------------------------------------------------------------------------------

code follow_a_store_of_nobody 0 follow --count 2 --interval 0.05 w
says follow_tells_that_nobody_writes 'not open for writing'
is follow_tells_it_once "$(wc -l <err)" 1
is follow_prints_as_often_as_asked "$(grep -c '^key_count: ' out)" 2
is follow_separates_its_frames "$(grep -c '^$' out)" 1
code quiet_follow 0 follow -q --count 1 w
is quiet_follow_is_quiet "$(cat err)" ""
writer_begins w
put follow 1
code follow_a_writer 0 follow --count 2 --interval 0.05 --format json w
is follow_says_nothing_of_a_writer "$(cat err)" ""
is follow_json_has_a_line_each "$(grep -c '^{"map_count":2,.*"is_follower":1,.*}$' out)" 2
code top_into_a_pipe 0 top --count 2 --interval 0.3 w
is top_prints_as_often_as_asked "$(grep -c '^store  ' out)" 2
is top_separates_its_frames "$(grep -c '^$' out)" 1
has top_names_the_store "^store *'w', written by another process"
has top_shows_the_log '^log *\[[#=.~-]*\] .* segments$'
if grep -q $'\e' out; then bad top_into_a_pipe_is_plain; else ok top_into_a_pipe_is_plain; fi
: >out
"$tool" top --interval 0.05 w >out 2>err </dev/null 3>&- &
watcher=$!
lines_reach out 30 || bad top_goes_on
kill -INT $watcher
wait $watcher
is top_ends_by_sigint $? 0
watcher=
is top_says_nothing_else "$(cat err)" ""
writer_ends
code top_of_a_store_of_nobody 0 top --count 1 w
has top_tells_that_nobody_writes 'not open for writing elsewhere'
if script -qec true /dev/null >/dev/null 2>&1 </dev/null; then
    screen() { # COLUMNS ROWS COMMAND
        TERM=xterm script -qec "stty cols $1 rows $2; $3" /dev/null </dev/null | tr -d '\r' >out
    }
    screen 50 40 "'$tool' top --count 2 --interval 0.05 w"
    is top_hides_the_cursor "$(head -c 6 out)" $'\e[?25l'
    is top_shows_the_cursor_again "$(tail -c 6 out)" $'\e[?25h'
    is top_redraws_from_the_corner "$(grep -c $'\e\\[H' out)" 2
    is top_is_as_wide_as_the_terminal "$(sed 's/\x1b\[[?0-9]*[A-Za-z]//g' out |
        awk 'length > n { n = length } END { print n }')" 50
    screen 80 6 "'$tool' top --count 1 w"
    is top_is_lower_than_the_terminal "$(grep -c '  ' out)" 5
    screen 80 40 "timeout -s TERM 0.5 '$tool' top w"
    is top_shows_the_cursor_after_a_signal "$(tail -c 6 out)" $'\e[?25h'
    TERM=dumb script -qec "'$tool' top --count 1 w" /dev/null </dev/null >out
    if grep -q $'\e' out; then bad top_on_a_dumb_terminal_is_plain; else
        ok top_on_a_dumb_terminal_is_plain
    fi
else
    skip top_hides_the_cursor "no script(1)"
fi

# ---- backup and restore --------------------------------------------------------------------------

figure() { sed -n "s/^$1: //p" out; } # NAME: of the last run
positive() { # NAME FIGURE
    if [ "$(figure "$2")" -gt 0 ] 2>/dev/null; then ok "$1"; else bad "$1" "$(cat out)"; fi
}
awk 'BEGIN { v = sprintf("%0990d", 0); for (i = 1; i <= 3000; i++) print i "\t" v }' >records
code store_to_back_up 0 load --input records kept
sorted_dump kept >kept.tsv
code backup_works 0 backup kept first.backup
is backup_tells_its_path "$(figure backup)" first.backup
is backup_tells_its_position "$(figure position)" "$("$tool" stat kept | sed -n 's/^tail: //p')"
positive backup_links linked_bytes
code backup_is_whole 0 verify first.backup
sorted_dump first.backup >out
same backup_is_read_as_a_store kept.tsv out
error backup_into_what_is_there 2 backup kept first.backup
error backup_below_a_missing_folder 2 backup kept no/such/folder
code backup_by_copy 0 backup --copy kept copy.backup
is copy_links_nothing "$(figure linked_bytes)" 0
is copy_shares_no_file "$(find copy.backup -type f -links +1)" ""
code set_after_the_backup 0 set kept new value
code backup_with_previous 0 backup --previous copy.backup kept second.backup
positive backup_with_previous_links linked_bytes
if [ -n "$(find copy.backup/log -type f -links +1)" ]; then ok previous_is_linked; else
    bad previous_is_linked "$(ls -l copy.backup/log)"
fi
error previous_that_is_no_backup 2 backup --previous folder kept third.backup
code restore_works 0 restore first.backup restored
is restore_is_silent "$(cat out err)" ""
sorted_dump restored >out
same restored_is_as_it_was_backed_up kept.tsv out
code restored_is_whole 0 verify restored
code restored_is_written 0 set restored new other
is restored_shares_no_file "$(find restored -type f -links +1)" ""
code backup_is_whole_after_all 0 verify first.backup
error restore_into_what_is_there 2 restore first.backup restored
prints that_store_is_as_it_was other get restored new
"$tool" restore second.backup restored.second 2>err
prints later_backup_has_later_changes value get restored.second new

writer_begins kept
put beside 'a writer'
error backup_beside_a_writer 3 backup kept beside.backup
says backup_beside_a_writer_says_who_can 'has to make the backup'
[ -e beside.backup ] && bad refused_backup_leaves_nothing || ok refused_backup_leaves_nothing
writer_ends

stamp='[0-9]\{8\}T[0-9]\{6\}Z\(-[0-9]*\)\?'
code first_kept_backup 0 backup --keep 1 kept set
is kept_backup_is_named_by_its_time "$(ls set | grep -c "^$stamp\$")" 1
is kept_backup_is_told "$(figure backup)" "set/$(ls set)"
old=$(ls set)
"$tool" set kept newest 1
code second_kept_backup 0 backup --keep 1 kept set
is only_one_is_kept "$(ls set | wc -l)" 1
is the_old_one_is_removed "$(figure removed)" "$old"
positive kept_backups_share_files linked_bytes
code kept_backup_is_restored 0 restore "set/$(ls set)" restored.set
sorted_dump restored.set >out
sorted_dump kept >expected
same kept_backup_is_the_store expected out
code incremental_backup 0 backup --incremental kept set
code incremental_backup_again 0 backup --incremental kept set
is incremental_removes_none "$(ls set | wc -l)" 3
positive incremental_backups_share_files linked_bytes
for name in set/*; do
    "$tool" verify "$name" >/dev/null 2>err || bad incremental_backups_are_whole "$name"
done
error set_that_is_a_backup 2 backup --keep 2 kept first.backup
error set_below_a_missing_folder 3 backup --keep 2 kept no/such/set
error set_that_is_a_file 3 backup --keep 2 kept plain

# What is not ours stays: other names, links, folders that hold more, or no backup at all.
ours=$(ls -r set | head -1)
for name in 20200101T000000Z 20200105T000000Z 20200106T000000Z-12 20200108T000000Z \
    19990101T000000Z-1 20200103T000000; do cp -r first.backup set/$name; done
echo text >set/20200105T000000Z/notes
ln -s ../../../plain set/20200108T000000Z/log/00000abc.segment
mkdir set/20200102T000000Z outside
for name in 20200107T000000Z.removing 20200109T000000Z.new-backup; do
    mkdir -p set/$name/log
    touch set/$name/IDENTITY set/$name/log/0000000a.segment
done
flock set "$tool" backup --keep 2 kept set >out 2>err
is set_in_use_is_an_error $? 3
says set_in_use_is_told 'another backup'
cp -r first.backup outside/backup
ln -s ../outside/backup set/20200104T000000Z
code keep_removes_what_it_can 3 backup --keep 2 kept set
says backup_that_holds_more_is_told '20200105T000000Z is not removed: it holds more'
says backup_with_a_link_is_told '20200108T000000Z is not removed: it holds more'
is keep_leaves_what_is_not_ours "$(ls set | grep -vx "$ours" | head -n -1 | tr '\n' ' ')" \
    "19990101T000000Z-1 20200102T000000Z 20200103T000000 20200104T000000Z 20200105T000000Z \
20200108T000000Z "
is keep_keeps_the_newest "$(ls set | grep -cx "$ours")" 1
code link_is_not_followed 0 verify outside/backup
code foreign_backup_is_whole 0 verify set/20200105T000000Z

. "$here/cases_orders.sh"
. "$here/cases_sealed.sh"

# ---- compact -------------------------------------------------------------------------------------

for i in 1 2 3; do "$tool" load -q --input records turned; done
"$tool" load -q turned <<<$'a\tb'
sorted_dump turned >expected
code compact_works 0 compact turned
is compact_tells_four_figures "$(cut -d: -f 1 out | tr '\n' ' ')" \
    "log_bytes_before log_bytes_after disk_bytes_before disk_bytes_after "
if [ "$(figure log_bytes_after)" -lt "$(figure log_bytes_before)" ]; then ok compact_frees; else
    bad compact_frees "$(cat out)"
fi
sorted_dump turned >out
same compact_changes_nothing expected out
code compacted_is_whole 0 verify turned
error watch_of_what_was_compacted 1 watch --after first --for 0 turned
says watch_tells_where_the_log_begins 'the log begins at [0-9]*, .*dump the map'
code compact_as_json 0 compact --format json turned
has compact_json '^{"log_bytes_before":[0-9]*,.*"disk_bytes_after":[0-9]*}$'
error compact_creates_nothing 3 compact no.store

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
code scrub_finds_no_damage 0 scrub whole
has scrub_counts_damage '^damaged: 0$'
code scrub_at_a_rate 0 scrub --rate 100M whole
error scrub_finds_damage_of_a_small_store 4 scrub damaged
error backup_of_a_damaged_store 4 backup damaged damaged.backup
[ -e damaged.backup ] && bad backup_of_damage_leaves_nothing || ok backup_of_damage_leaves_nothing

# Large enough for an index image: opening it reads few of its records.
awk 'BEGIN { v = sprintf("%01000d", 0); for (i = 1; i <= 30000; i++) print i "\tnumber " i "."v }' |
    "$tool" load -q scrubbed
code scrub_of_many_segments 0 scrub scrubbed
place=$(grep -Habo 'number 500\.' scrubbed/log/* | head -1)
file=${place%%:*}
offset=${place#*:}
printf 'X' | dd of="$file" bs=1 seek=$((${offset%%:*} + 1)) conv=notrunc 2>err
code scrub_finds_a_flipped_byte 4 scrub scrubbed
has scrub_names_the_file "$(basename "$file")"
has scrub_counts_it '^damaged: [1-9]'
says scrub_says_what_to_do 'scrubbed is damaged: restore a backup'

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
