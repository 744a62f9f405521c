# SPDX-License-Identifier: Apache-2.0
#
# cases_orders.sh -- the kinds of maps and what their order gives, changes that depend on what is
# there, expiry, differences of stores. Part of test_cli.sh, whose functions it uses.

# ---- help and usage ---------------------------------------------------------------------------

for verb in pop cas incr append create drop scan index diff; do
    code "help_of_$verb" 0 $verb --help
    has "help_of_${verb}_shows_usage" "^usage: keepmap $verb"
done
rm -rf none
error unknown_kind 2 create --kind heap none
error default_is_no_kind 2 create --kind default none
error ttl_without_a_unit 2 set --ttl 10 none k v
error ttl_of_nothing 2 set --ttl 0s none k v
error ttl_of_an_unknown_unit 2 set --ttl 3w none k v
error ttl_with_text_behind 2 set --ttl 3sx none k v
error negative_ttl 2 set --ttl=-3s none k v
error ttl_beyond_a_century 2 set --ttl 36501d none k v
error ttl_beyond_64_bits 2 set --ttl 18446744073709551616ms none k v
error ttl_that_wraps_around 2 set --ttl 18446744073709551615d none k v
error limit_of_nothing 2 scan --limit 0 none
error info_and_version 2 get --info --version none k
error cas_of_no_version 2 cas none k x v
error cas_of_a_negative_version 2 cas -- none k -1 v
error cas_of_an_empty_version 2 cas none k '' v
error cas_of_a_version_beyond_64_bits 2 cas none k 9223372036854775808 v
error incr_by_no_number 2 incr none k x
error incr_by_nothing 2 incr none k ''
error incr_by_a_sign 2 incr none k -
error incr_beyond_64_bits 2 incr none k 9223372036854775808
error index_without_a_position 2 index none
error index_with_both 2 index --of k none 3
error index_of_no_number 2 index none first
error del_of_nothing_given 2 del none
error del_of_a_key_and_a_range 2 del --prefix a none k
error drop_without_a_name 2 drop none
error diff_of_one_store 2 diff none
error diff_of_three_stores 2 diff --since none none none
error diff_since_nothing 2 diff --since '' none
error bad_escape_in_from 2 scan -x --from 'a\q' none
error bad_escape_in_to 2 scan -x --to 'a\' none
error bad_escape_in_of 2 index -x --of '\x4' none
error prefix_longer_than_a_key 2 scan --prefix "$(printf '%065536d' 0)" none
error reverse_is_no_option_of_count 2 count --reverse none
[ -e none ] && bad order_usage_errors_create_nothing || ok order_usage_errors_create_nothing
for verb in "pop none" "cas none k 7 v" "drop --map m none" "scan none" "index none 0" \
    "diff none none" "del --prefix a none"; do
    error "missing_store_${verb%% *}" 3 $verb
done
[ -e none ] && bad order_verbs_create_nothing || ok order_verbs_create_nothing

# ---- kinds ------------------------------------------------------------------------------------

code create_makes_a_map 0 create --kind sorted --map s kinds
code create_makes_another 0 create --kind hash --map h kinds
code create_makes_insertion_maps 0 create --map i kinds
code create_knows_its_default_by_name 0 create --kind insertion kinds
prints list_shows_kinds \
    $'s\tsorted\t0\nh\thash\t0\ni\tinsertion\t0\nmain\tinsertion\t0\n' list kinds
error create_of_what_is_there 2 create --kind sorted --map s kinds
code set_makes_a_map_of_a_kind 0 set --kind sorted --map s2 kinds k v
code set_into_a_map_of_that_kind 0 set --kind sorted --map s2 kinds k2 v
error set_into_a_map_of_another_kind 2 set --kind hash --map s2 kinds k3 v
says other_kind_is_named 'sorted, not hash'
error set_of_another_kind_changes_nothing 1 get --map s2 kinds k3
printf 'k\tv\n' >input
error load_into_a_map_of_another_kind 2 load --kind insertion --map s2 --input input kinds
code load_makes_a_map_of_a_kind 0 load -q --kind hash --map h2 --input input kinds
"$tool" list kinds >out
has load_made_it_of_that_kind '^h2.hash.1$'
code drop_drops 0 drop --map h2 kinds
error dropped_map_is_gone 1 get --map h2 kinds k
error drop_of_a_missing_map 1 drop --map h2 kinds
code dropped_name_is_free 0 create --kind sorted --map h2 kinds
"$tool" list --format json kinds >out
has list_json_has_kinds '"map":"h2","kind":"sorted","count":0'

# ---- scan of a sorted map: the words of a dictionary ---------------------------------------------

if [ -f /usr/share/dict/words ]; then
    sort -u /usr/share/dict/words | head -n 100000 >words
else
    awk 'BEGIN { for (i = 0; i < 100000; i++) print "w" (i * 7919 % 100003) "ing" }' |
        sort -u >words
fi
shuf --random-source=words words | awk '{ print $0 "\t" length($0) }' >shuffled
code words_are_loaded 0 load --kind sorted --input shuffled words.store
prints words_are_counted "$(wc -l <words)"$'\n' count words.store
"$tool" scan --keys words.store >out 2>err
same scan_is_in_byte_order words out
"$tool" dump words.store | cut -f 1 >out 2>err
same dump_of_a_sorted_map_is_in_byte_order words out
tac words >expected
"$tool" scan --keys --reverse words.store >out 2>err
same reverse_scan_is_the_other_way_round expected out
middle=$(sed -n 50000p words)
later=$(sed -n 50100p words)
start=${middle:0:3}
awk -v p="$start" 'index($0, p) == 1 { print $0 "\t" length($0) }' words >begun
"$tool" scan --prefix "$start" words.store >out 2>err
same prefix_scan_finds_all_and_no_more begun out
prints prefix_count "$(wc -l <begun)"$'\n' count --prefix "$start" words.store
sed -n 50000,50099p words >hundred
"$tool" scan --keys --from "$middle" --to "$later" words.store >out 2>err
same range_has_its_begin_and_not_its_end hundred out
prints range_count $'100\n' count --from "$middle" --to "$later" words.store
tac hundred >reversed
"$tool" scan --keys --from "$middle" --to "$later" --reverse words.store >out 2>err
same reverse_range reversed out
sed -n 50000,50004p words >expected
"$tool" scan --keys --from "$middle" --limit 5 words.store >out 2>err
same limit_ends_a_scan expected out
prints last_word "$(tail -n 1 words)"$'\n' scan --keys --reverse -n 1 words.store
prints scan_of_an_empty_range '' scan --from "$later" --to "$middle" words.store
prints count_of_an_empty_range $'0\n' count --from "$later" --to "$middle" words.store
prints scan_of_no_such_prefix '' scan --prefix $'\x01' words.store
prints prefix_and_range_both_hold "$middle"$'\n' scan --keys --from "$middle" \
    --to "$later" --prefix "$middle" --limit 1 words.store
sed -n '1,49999p' words >expected
"$tool" scan --keys --to "$middle" words.store >out 2>err
same range_without_a_begin expected out
prints range_delete_tells_its_count $'100\n' del --from "$middle" --to "$later" words.store
prints range_delete_of_nothing $'0\n' del --from "$middle" --to "$later" words.store
sed '50000,50099d' words >without
"$tool" scan --keys words.store >out 2>err
same range_delete_deletes_the_range_alone without out
gone=$("$tool" count --prefix "$start" words.store)
prints prefix_delete "$gone"$'\n' del --prefix "$start" words.store
prints prefix_is_gone $'0\n' count --prefix "$start" words.store
awk -v p="$start" 'index($0, p) != 1' without >words.left
"$tool" watch -q --after first --for 0 words.store >out 2>err
is watch_tells_of_ranges "$(grep '^range_deleted' out | cut -f 4,5 | head -n 1)" \
    "$(printf '%s\t%s' "$middle" "$later")"
code words_are_whole 0 verify words.store
"$tool" scan --keys words.store >out 2>err
same words_left_are_there words.left out
if "$tool" scan words.store 2>err | head -n 1 >/dev/null; [ "${PIPESTATUS[0]}" -eq 141 ]; then
    ok scan_ends_with_its_reader
else bad scan_ends_with_its_reader; fi

# ---- scan of other maps, and of odd keys ---------------------------------------------------------

printf '%s\n' 'b\t1' 'a\\x00\t2' 'a\t3' 'c\\xff\t4' '\t5' >input.text
printf "$(cat input.text)\n" >input
for kind in hash insertion sorted; do
    "$tool" load -q -x --kind $kind --input input odd.$kind
done
prints scan_in_insertion_order $'b\t1\na\\x00\t2\na\t3\nc\\xff\t4\n\t5\n' scan odd.insertion
prints scan_reverse_in_insertion_order \
    $'\nc\\xff\na\na\\x00\nb\n' scan --keys --reverse odd.insertion
prints scan_in_key_order $'\t5\na\t3\na\\x00\t2\nb\t1\nc\\xff\t4\n' scan odd.sorted
prints scan_as_json $'{"k":"a","v":"3"}\n{"k":"a\\u0000","v":"2"}\n' scan --format json \
    --prefix a odd.sorted
prints scan_keys_as_json $'{"k64":"Y/8="}\n' scan --format json --keys --from c odd.sorted
prints scan_as_tsv_by_name $'b\t1\n' scan --format tsv --prefix b odd.sorted
prints scan_of_a_hash_map_filters $'b\t1\n' scan --prefix b odd.hash
prints scan_of_an_insertion_map_filters $'a\\x00\t2\na\t3\n' scan --prefix a odd.insertion
prints filter_has_both_ends $'b\t1\na\\x00\t2\n' scan -x --from 'a\x00' --to 'c' odd.insertion
for kind in hash insertion sorted; do
    prints "count_with_a_prefix_$kind" $'2\n' count --prefix a odd.$kind
    prints "count_with_a_range_$kind" $'3\n' count --from a --to c odd.$kind
    prints "count_up_to_the_empty_key_$kind" $'0\n' count --to '' odd.$kind
    prints "count_from_the_empty_key_$kind" $'5\n' count --from '' odd.$kind
done
error reverse_of_a_hash_map 2 scan --reverse odd.hash
says reverse_of_a_hash_map_says_what_to_do 'insertion or sorted'
error range_delete_of_a_hash_map 2 del --prefix a odd.hash
error range_delete_of_an_insertion_map 2 del --from a odd.insertion
prints refused_range_delete_deletes_nothing $'5\n' count odd.insertion
prints escaped_range_delete $'1\n' del -x --from 'a\x00' --to 'a\x00\x00' odd.sorted
prints range_ends_before_a_key_that_is_there $'a\t3\n' scan --from a --to b odd.sorted
prints filter_ends_before_a_key_that_is_there $'a\\x00\t2\na\t3\n' scan --from a --to b \
    odd.insertion
prints everything_by_the_empty_prefix $'4\n' del --prefix '' odd.sorted
error scan_of_a_missing_map 1 scan --map nothing odd.sorted
error count_range_of_a_missing_map 1 count --prefix a --map nothing odd.sorted

# ---- index, pop -------------------------------------------------------------------------------

seq 10 | awk '{ print "k" $0 "\tv" $0 }' >input
code numbered 0 load -q --input input numbered
prints index_begins_with_the_first $'k1\tv1\n' index numbered 0
prints index_of_the_last $'k10\tv10\n' index numbered 9
prints index_from_the_end $'k10\tv10\n' index numbered -1
prints index_from_the_end_to_the_first $'k1\tv1\n' index numbered -10
prints index_behind_dashes $'k9\tv9\n' index -- numbered -2
error index_beyond_the_end 1 index numbered 10
error index_before_the_begin 1 index numbered -11
error index_far_before_the_begin 1 index numbered -9223372036854775808
error index_far_beyond_the_end 1 index numbered 9223372036854775807
prints index_of_a_key $'3\n' index --of k4 numbered
error index_of_a_missing_key 1 index --of k11 numbered
prints index_as_json $'{"k":"k2","v":"v2"}\n' index --format json numbered 1
code index_del 0 del numbered k2
code index_overwrite 0 set numbered k3 new
prints del_moves_those_behind $'k3\tnew\n' index numbered 1
prints overwriting_keeps_the_position $'1\n' index --of k3 numbered
code index_reinsert 0 set numbered k2 again
prints reinserting_appends $'9\n' index --of k2 numbered
error index_of_a_sorted_map 2 index odd.sorted 0
error index_of_a_hash_map 2 index --of b odd.hash
error index_from_the_end_of_a_hash_map 2 index odd.hash -1
prints pop_takes_the_first $'k1\tv1\n' pop numbered
prints pop_takes_the_last $'k2\tagain\n' pop --last numbered
prints pop_as_json $'{"k":"k3","v":"new"}\n' pop --format json numbered
prints popped_are_gone $'7\n' count numbered
for i in 4 5 6 7 8 9 10; do "$tool" pop numbered; done >out 2>err
is popped_in_order "$(cut -f 1 out | tr '\n' ' ')" 'k4 k5 k6 k7 k8 k9 k10 '
error pop_of_an_empty_map 1 pop numbered
error pop_of_a_hash_map 2 pop odd.hash
error pop_of_a_missing_map 1 pop --map nothing numbered
"$tool" load -q --kind sorted --input input sorted.queue
prints pop_of_a_sorted_map $'k1\tv1\n' pop sorted.queue
prints pop_last_of_a_sorted_map $'k9\tv9\n' pop --last sorted.queue

# ---- changes that depend on what is there --------------------------------------------------------

code set_if_absent_sets 0 set --if-absent cond k one
error set_if_absent_of_what_is_there 5 set --if-absent cond k two
code quiet_set_if_absent 5 set -q --if-absent cond k two
is quiet_conflict_is_quiet "$(cat err)" ""
prints conflict_changes_nothing one get cond k
code version_is_printed 0 get --version cond k
version=$(cat out)
code cas_with_the_version 0 cas cond k "$version" two
is cas_prints_the_new_version "$("$tool" get --version cond k)" "$(cat out)"
prints cas_sets two get cond k
error cas_with_an_old_version 5 cas cond k "$version" three
says conflict_tells_the_version "has version $("$tool" get --version cond k)"
prints refused_cas_changes_nothing two get cond k
error cas_of_a_key_that_is_there 5 cas cond k 0 three
error cas_of_an_absent_key_by_version 5 cas cond nothing "$version" three
code cas_inserts 0 cas cond new absent one
code cas_inserts_by_zero 0 cas cond new2 0 one
prints cas_inserted one get cond new
printf 'x\0y' | "$tool" cas cond stdin 0 - >out 2>err
printf 'x\0y' >expected
"$tool" get cond stdin >out
same cas_takes_stdin expected out
error cas_in_a_missing_map 1 cas --map nothing cond k 7 v
code cas_makes_a_map_for_what_is_absent 0 cas --kind sorted --map made cond k 0 v
code info_works 0 get --info cond k
is info_has_three_lines "$(cut -d: -f 1 out | tr '\n' ' ')" 'version expires_ms value_size '
has info_has_the_size '^value_size: 3$'
has info_of_a_key_that_stays '^expires_ms: 0$'
code info_as_json 0 get --info --format json cond k
has info_json '^{"version":[0-9]*,"expires_ms":0,"value_size":3}$'
error version_of_a_missing_key 1 get --version cond nothing

prints incr_begins_at_one $'1\n' incr cond n
prints incr_by_a_number $'42\n' incr cond n 41
prints incr_by_a_negative_number $'-8\n' incr cond n -50
prints incr_by_a_negative_number_behind_dashes $'-9\n' incr -- cond n -1
prints sum_is_text -9 get cond n
prints incr_to_the_largest $'9223372036854775807\n' incr cond max 9223372036854775807
error incr_beyond_the_largest 2 incr cond max
prints refused_incr_changes_nothing 9223372036854775807 get cond max
prints incr_to_the_smallest $'-9223372036854775808\n' incr cond min -9223372036854775808
error incr_below_the_smallest 2 incr cond min -1
prints smallest_is_read $'-9223372036854775807\n' incr cond min
for text in x '' ' 1' '1 ' 1.5 + - 0x10 99999999999999999999; do
    "$tool" set cond bad "$text"
    error "incr_of_'$text'" 2 incr cond bad
done
"$tool" set -x cond bad '1\x00'
error incr_of_a_nul 2 incr cond bad
code append_begins 0 append cond text abc
code append_appends 0 append -x cond text '\x00\n'
printf 'abc\0\n' >expected
"$tool" get cond text >out
same appended_bytes expected out
printf '!' | "$tool" append cond text -
is append_of_stdin "$("$tool" get cond text | tail -c 1)" '!'
code append_of_nothing 0 append cond text ''
is nothing_was_appended "$("$tool" get cond text | wc -c)" 6
code incr_in_a_map_of_a_kind 0 incr --kind hash --map counters cond hits
error append_into_another_kind 2 append --kind sorted --map counters cond hits 1

# ---- time to live -----------------------------------------------------------------------------

now=$(date +%s%3N)
code set_for_an_hour 0 set --ttl 1h ttl hour v
expires() { "$tool" get --info ttl "$1" | sed -n 's/^expires_ms: //p'; }
within() { # NAME NUMBER LEAST MOST
    if [ "$2" -ge "$3" ] && [ "$2" -le "$4" ]; then ok "$1"; else
        bad "$1" "$2 is not within $3 and $4"
    fi
}
within hour_is_an_hour "$(expires hour)" $((now + 3600000)) $((now + 3600000 + 60000))
code set_for_days 0 set --ttl 36500d ttl century v
within days_are_days "$(expires century)" $((now + 3153600000000)) $((now + 3153600060000))
code set_for_a_moment 0 set --ttl 1ms ttl moment v
code set_for_some_minutes 0 set --ttl 5m ttl minutes 1
until=$(expires minutes)
prints incr_of_what_expires $'2\n' incr ttl minutes
within incr_keeps_the_expiry "$(expires minutes)" $((until - 1000)) $((until + 1000))
code append_to_what_expires 0 append ttl minutes 3
within append_keeps_the_expiry "$(expires minutes)" $((until - 2000)) $((until + 2000))
code incr_with_a_new_ttl 0 incr --ttl 2h ttl minutes
within incr_takes_a_new_ttl "$(expires minutes)" $((now + 7200000)) $((now + 7260000))
code set_without_ttl 0 set ttl minutes 3
is plain_set_takes_the_expiry_away "$(expires minutes)" 0
sleep 0.02
error expired_key_is_not_there 1 get ttl moment
"$tool" scan --keys ttl >out
is expired_key_is_not_walked_over "$(tr '\n' ' ' <out)" 'hour century minutes '
code expired_key_is_absent 0 set --if-absent ttl moment again
seq 3 | awk '{ print "l" $0 "\tv" }' >input
code load_with_ttl 0 load -q --ttl 10m --input input ttl
within load_gives_a_ttl "$(expires l2)" $((now + 600000)) $((now + 660000))
code cas_with_ttl 0 cas --ttl 10m ttl cas 0 v
within cas_gives_a_ttl "$(expires cas)" $((now + 600000)) $((now + 660000))

# ---- dumps keep kinds, order and expiry ---------------------------------------------------------

"$tool" dump --to json ttl >dump.json
has_line() { if grep -q -- "$2" "$3"; then ok "$1"; else bad "$1" "$(head -3 "$3")"; fi; }
has_line json_has_the_expiry '^{"k":"hour","v":"v","expires":[0-9]*}$' dump.json
has_line json_begins_with_a_record '^{"k":"hour"' <(head -n 1 dump.json)
"$tool" load -q --input dump.json ttl.again
is expiry_survives_a_dump "$("$tool" get --format json ttl.again hour)" "$(grep hour dump.json)"
"$tool" dump --to json ttl.again >out
same insertion_order_survives_json dump.json out
printf '{"k":"past","v":"v","expires":1000}\n{"k":"future","v":"v","expires":%s}\n' \
    $((now + 3600000)) >input
code load_of_what_has_expired 0 load --input input past
says load_tells_what_had_expired '1 records had expired'
prints what_had_expired_is_left_out $'1\n' count past
code ttl_goes_before_the_input 0 load --ttl 1d --input input past
prints both_are_there $'2\n' count past
for kind in hash insertion sorted; do
    shuf --random-source=words -n 500 words | awk '{ print $0 "\t" NR }' |
        "$tool" load -q --kind $kind --map "$kind map" every
done
"$tool" create --kind sorted --map empty every
for format in json mdb; do
    "$tool" dump --all --to $format every >dump.all
    code "load_of_all_maps_by_$format" 0 load -q --input dump.all every.$format
    is "kinds_survive_$format" "$("$tool" list every.$format)" "$("$tool" list every)"
    for kind in insertion sorted; do
        "$tool" dump --map "$kind map" every >expected
        "$tool" dump --map "$kind map" every.$format >out
        same "${kind}_order_survives_$format" expected out
    done
    "$tool" dump --to $format --map 'sorted map' every >dump.one
    "$tool" load -q --map single --input dump.one single.$format
    has_line "kind_of_one_map_is_told_by_$format" sorted dump.one
    is "kind_of_one_map_survives_$format" "$("$tool" list single.$format)" $'single\tsorted\t500'
done
"$tool" dump --map 'insertion map' every | "$tool" load -q -x tsv.order
"$tool" dump --map 'insertion map' every >expected
"$tool" dump tsv.order >out
same insertion_order_survives_tsv expected out
code kind_option_goes_before_the_input 0 load -q --kind hash --map single --input dump.one other
"$tool" list other >out
has kind_of_the_option '^single.hash.500$'
code load_into_an_existing_kind 0 load --map 'insertion map' --input dump.one every.json
says load_tells_that_the_kind_stays 'stays insertion'
load_line json_kind_line 0 "" '{"kind":"sorted"}\n{"k":"b","v":""}\n{"k":"a","v":""}\n'
prints json_kind_is_taken $'main\tsorted\t2\n' list l
load_line json_kind_with_a_record 2 "" '{"kind":"sorted","k":"b","v":""}\n'
load_line json_unknown_kind 2 "" '{"kind":"heap"}\n'
load_line json_kind_twice 2 "" '{"kind":"hash","kind":"hash"}\n'
load_line json_kind_that_is_no_string 2 "" '{"kind":3}\n'
load_line json_expiry_that_is_no_number 2 "" '{"k":"a","v":"","expires":"soon"}\n'
load_line json_expiry_of_zero 2 "" '{"k":"a","v":"","expires":0}\n'
load_line json_negative_expiry 2 "" '{"k":"a","v":"","expires":-1}\n'
load_line json_expiry_beyond_64_bits 2 "" '{"k":"a","v":"","expires":99999999999999999999}\n'
load_line json_expiry_twice 2 "" '{"k":"a","v":"","expires":1,"expires":1}\n'
load_line json_name_without_a_record 2 "" '{"m":"a"}\n'
load_line mdb_kind 0 "" 'VERSION=3\nformat=print\nkind=sorted\nHEADER=END\nDATA=END\n'
prints mdb_kind_is_taken $'main\tsorted\t0\n' list l
load_line mdb_unknown_kind 2 "" 'VERSION=3\nformat=print\nkind=heap\nHEADER=END\n'
if command -v mdb_load >/dev/null; then
    mkdir kind.env
    "$tool" dump --to mdb --map 'sorted map' every | mdb_load kind.env 2>err
    is mdb_load_passes_over_kinds $? 0
else
    skip mdb_load_passes_over_kinds "no mdb_load"
fi

# ---- output that cannot be written ---------------------------------------------------------------

if [ -w /dev/full ]; then
    for verb in "scan cond" "index ttl 0" "get --version cond k" "incr cond n" "pop ttl" \
        "count --prefix k cond" "diff cond ttl"; do
        "$tool" $verb >/dev/full 2>err
        is "${verb%% *}_on_a_full_disk" $? 3
    done
fi

# ---- differences, and back to a backup -----------------------------------------------------------

for kind in hash insertion sorted; do
    rm -rf was is
    seq 1000 | awk '{ print "k" $0 "\tv" $0 }' | "$tool" load -q --kind $kind --map m was
    code "backup_before_${kind}_changes" 0 backup was "is"
    mv is old.$kind
    mv was new.$kind
    prints "${kind}_without_differences" '' diff old.$kind new.$kind
    "$tool" set --map m new.$kind k500 changed
    "$tool" set -x --map m new.$kind 'new\t' 'a\xff'
    "$tool" set -x --map m new.$kind k7 ''
    "$tool" del --map m new.$kind k12
    "$tool" del --map m new.$kind k1000
    "$tool" diff old.$kind new.$kind >diff.out 2>err
    is "diff_of_${kind}_succeeds" $? 0
    sort diff.out >out
    printf '%s\t%s\t%s\t%s\n' + m 'new\t' 'a\xff' - m k1000 '' - m k12 '' '~' m k500 changed \
        '~' m k7 '' | sort >expected
    same "diff_of_$kind" expected out
    "$tool" diff --since old.$kind new.$kind >out
    same "diff_since_of_$kind" diff.out out
    "$tool" diff --map m old.$kind new.$kind >out
    same "diff_of_one_map_of_$kind" diff.out out
    "$tool" diff new.$kind old.$kind | cut -f 1 | sort | tr '\n' ' ' >out
    is "diff_the_other_way_round_of_$kind" "$(cat out)" '+ + - ~ ~ '
done
"$tool" diff --format json old.sorted new.sorted >out
is diff_as_json "$(cat out)" '{"kind":"delete","m":"m","k":"k1000"}
{"kind":"delete","m":"m","k":"k12"}
{"kind":"put","m":"m","k":"k500","v":"changed","existed":true}
{"kind":"put","m":"m","k":"k7","v":"","existed":true}
{"kind":"put","m":"m","k":"new\t","v64":"Yf8=","existed":false}'
"$tool" drop --map m new.hash
"$tool" set --map other --kind sorted new.hash k v
prints store_does_not_differ_from_itself '' diff new.hash new.hash
prints diff_of_maps $'-map\tm\thash\n+map\tother\tsorted\n+\tother\tk\tv\n' diff old.hash new.hash
prints diff_of_maps_as_json \
    $'{"kind":"map_dropped","m":"m"}\n{"kind":"map_created","m":"other","map_kind":"sorted"}
{"kind":"put","m":"other","k":"k","v":"v","existed":false}\n' diff --format json old.hash new.hash
"$tool" diff old.hash old.sorted >out
is diff_of_kinds "$(head -n 2 out | tr '\t\n' '  ')" '-map m hash +map m sorted '
is diff_of_kinds_has_all_keys "$(grep -c '^+.m.k' out)" 1000
error diff_of_a_map_that_neither_has 1 diff --map nothing old.hash new.hash
error diff_of_a_missing_old_store 3 diff none new.hash
error diff_of_a_missing_new_store 3 diff old.hash none
writer_begins new.sorted
put beside 1
code diff_beside_a_writer 0 diff --map main old.sorted new.sorted
is diff_sees_the_writer "$(tail -n 1 out)" $'+\tmain\tbeside\t1'
error restore_in_place_beside_a_writer 3 restore --in-place old.sorted new.sorted
writer_ends

code restore_in_place 0 restore --in-place old.sorted new.sorted
prints restored_in_place '' diff old.sorted new.sorted
code restored_in_place_is_whole 0 verify new.sorted
code restored_in_place_is_written 0 set --map m new.sorted again v
is restored_in_place_shares_no_file "$(find new.sorted -type f -links +1)" ""
is restore_in_place_leaves_nothing_beside "$(ls -d new.sorted*)" new.sorted
error restore_in_place_of_no_backup 3 restore --in-place folder new.sorted
error restore_in_place_over_nothing 3 restore --in-place old.sorted none
[ -e none ] && bad restore_in_place_creates_nothing || ok restore_in_place_creates_nothing
prints refused_restore_changes_nothing v get --map m new.sorted again
code stat_has_snapshots 0 stat new.sorted
has stat_counts_snapshots '^snapshot_count: 0$'
has stat_counts_what_expired '^expired_count: '
