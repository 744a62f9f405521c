# SPDX-License-Identifier: Apache-2.0
#
# cases_sealed.sh -- sealed tables: from text and from maps, read as stores are, back into maps, and
# under maps. Part of test_cli.sh, whose functions it uses, and of which it needs the file `words`.

mkdir sealed || exit 1
# Nothing but the tables named is in the folder: no table that should not be there, and no litter.
only() { # NAME TABLE...
    local name=$1
    shift
    is "$name" "$(ls -A sealed | tr '\n' ' ')" "${*:+$* }"
}
# seal NAME CODE OPTIONS... TABLE: seal the file `input`.
seal() {
    local name=$1 expected=$2
    shift 2
    code "$name" "$expected" seal --input input - "$@"
}

# ---- help and usage ----------------------------------------------------------------------------

for verb in seal unseal attach detach; do
    code "help_of_$verb" 0 $verb --help
    has "help_of_${verb}_shows_usage" "^usage: keepmap $verb"
done
code help_lists_sealed_tables 0 --help
has help_says_what_may_be_a_table 'sealed'
printf 'k\tv\n' >input
error seal_without_a_table 2 seal -
error seal_with_too_much 2 seal - sealed/t more
error memory_that_is_too_small 2 seal --memory 1000K - sealed/t
error memory_that_is_no_size 2 seal --memory lots - sealed/t
error block_size_of_no_pages 2 seal --block-size 5000 - sealed/t
error block_size_that_is_too_large 2 seal --block-size 128K - sealed/t
error block_size_of_nothing 2 seal --block-size 0 - sealed/t
error unknown_keys 2 seal --keys u24 - sealed/t
error bytes_are_not_numbered 2 seal --number --keys bytes - sealed/t
error level_of_nothing 2 seal --compress= - sealed/t
error level_beyond_the_last 2 seal --compress=20 - sealed/t
error level_below_the_first 2 seal --compress=-8 - sealed/t
error level_zero 2 seal --compress=0 - sealed/t
error unknown_format_to_seal 2 seal --format xml - sealed/t
error progress_and_quiet 2 seal --progress --quiet - sealed/t
error input_and_a_store 2 seal --input input none sealed/t
error format_and_a_store 2 seal --format tsv none sealed/t
error number_and_a_store 2 seal --number none sealed/t
error seal_of_a_missing_store 3 seal none sealed/t
error seal_of_missing_input 3 seal --input none - sealed/t
error seal_below_a_missing_folder 3 seal --input input - no/such/table
error seal_onto_a_folder 2 seal --input input - sealed
error unseal_of_nothing 3 unseal none new.store
error unseal_of_a_folder 3 unseal sealed new.store
error unseal_of_another_file 3 unseal input new.store
says other_files_are_no_tables 'no sealed table'
error attach_to_a_missing_store 3 attach none input
error detach_without_a_name 2 detach none
error detach_from_a_missing_store 3 detach --map m none
[ -e new.store ] && bad refused_unseal_creates_nothing || ok refused_unseal_creates_nothing
only usage_errors_seal_nothing

# ---- the words of a dictionary -----------------------------------------------------------------

shuf --random-source=words words | awk '{ print $0 "\t" length($0) }' >input
awk '{ print $0 "\t" length($0) }' words >expected.tsv
seal words_are_sealed 0 sealed/words
says seal_tells_the_count "^keepmap: sealed $(wc -l <words) keys in .* bytes$"
only nothing_else_is_left words
"$tool" scan sealed/words >out 2>err
same sealed_scan_is_in_byte_order expected.tsv out
"$tool" dump sealed/words >out 2>err
same sealed_dump_has_all expected.tsv out
tac words >expected
"$tool" scan --keys --reverse sealed/words >out 2>err
same sealed_reverse_scan expected out
prints sealed_count "$(wc -l <words)"$'\n' count sealed/words
middle=$(sed -n 50000p words)
later=$(sed -n 50100p words)
start=${middle:0:3}
awk -v p="$start" 'index($0, p) == 1' expected.tsv >begun
"$tool" scan --prefix "$start" sealed/words >out 2>err
same sealed_prefix_scan begun out
prints sealed_prefix_count "$(wc -l <begun)"$'\n' count --prefix "$start" sealed/words
sed -n 50000,50099p words >hundred
"$tool" scan --keys --from "$middle" --to "$later" sealed/words >out 2>err
same sealed_range_has_its_begin_and_not_its_end hundred out
tac hundred | head -n 7 >expected
"$tool" scan --keys --from "$middle" --to "$later" --reverse --limit 7 sealed/words >out 2>err
same sealed_reverse_range_with_a_limit expected out
prints sealed_range_count $'100\n' count --from "$middle" --to "$later" sealed/words
prints sealed_count_of_an_empty_range $'0\n' count --from "$later" --to "$middle" sealed/words
prints sealed_scan_of_no_such_prefix '' scan --prefix $'\x01' sealed/words
prints sealed_get "${#middle}" get sealed/words "$middle"
prints sealed_get_as_json "{\"k\":\"$middle\",\"v\":\"${#middle}\"}"$'\n' \
    get --format json sealed/words "$middle"
error sealed_get_of_a_missing_key 1 get sealed/words 'no such word'
code quiet_sealed_get 1 get -q sealed/words 'no such word'
is quiet_sealed_get_says_nothing "$(cat err)" ''
error sealed_get_of_a_key_that_is_too_long 2 get sealed/words "0$key_max"
code sealed_stat 0 stat sealed/words
has sealed_stat_counts "^key_count: $(wc -l <words)$"
has sealed_stat_has_the_kind_of_keys '^keys: bytes$'
has sealed_stat_has_the_size "^file_bytes: $(stat -c %s sealed/words)$"
code sealed_stat_as_json 0 stat --format json sealed/words
is sealed_stat_json_is_an_object "$(sed 's/^{"keys":"bytes",.*,"created_ms":[0-9]*}$/yes/' out)" yes
code sealed_verify 0 verify sealed/words
has sealed_verify_counts_records "^records: $(wc -l <words)$"
has sealed_verify_counts_damage '^damaged: 0$'
if "$tool" scan sealed/words 2>err | head -n 1 >/dev/null; [ "${PIPESTATUS[0]}" -eq 141 ]; then
    ok sealed_scan_ends_with_its_reader
else bad sealed_scan_ends_with_its_reader; fi
ln -s words sealed/link
prints links_are_followed "$(wc -l <words)"$'\n' count sealed/link
rm sealed/link
if [ -w /dev/full ]; then
    for verb in "get sealed/words $middle" "scan sealed/words" "dump sealed/words" \
        "count sealed/words" "stat sealed/words" "verify sealed/words"; do
        "$tool" $verb >/dev/full 2>err
        is "sealed_${verb%% *}_on_a_full_disk" $? 3
    done
fi

# ---- little memory, blocks, compression --------------------------------------------------------

shuf --random-source=words words |
    awk '{ v = $0; while (length(v) < 60) v = v $0; print $0 "\t" v }' >input
LC_ALL=C sort -t $'\t' -k 1,1 input >expected.tsv
seal sorted_on_disk 0 --memory 1M sealed/disk
"$tool" dump sealed/disk >out 2>err
same sorted_on_disk_is_in_order expected.tsv out
seal large_blocks 0 --block-size 64K sealed/blocks
"$tool" stat sealed/blocks >out 2>err
has block_size_is_kept '^block_size: 65536$'
"$tool" dump sealed/blocks >out 2>err
same large_blocks_have_all expected.tsv out
"$tool" seal -q --compress=7 --input input - sealed/small 2>err
case $? in
0)
    "$tool" stat sealed/small >out 2>err
    has compression_is_told '^compression: zstd$'
    "$tool" dump sealed/small >out 2>err
    same compressed_has_all expected.tsv out
    if [ "$(stat -c %s sealed/small)" -lt "$(($(stat -c %s sealed/disk) / 2))" ]; then
        ok compressed_is_smaller
    else bad compressed_is_smaller "$(ls -l sealed)"; fi
    code compressed_is_whole 0 verify sealed/small
    ;;
*) skip compressed_has_all "$(cat err)" ;;
esac
rm -f sealed/*

# ---- formats -----------------------------------------------------------------------------------

printf 'b\\x00\t1\\n\na\t\xff\n\t\nb\\x00\t2\n' >input
seal escaped_tsv 0 -x --from tsv sealed/t
prints last_of_equal_keys_counts 2 get -x sealed/t 'b\x00'
prints sealed_empty_key '' get sealed/t ''
prints sealed_scan_is_escaped $'\t\na\t\\xff\nb\\x00\t2\n' scan sealed/t
prints sealed_get_in_hex $'ff\n' get --format hex sealed/t a
"$tool" seal -q -x --format tsv - sealed/stdin <input 2>err
is stdin_is_sealed $? 0
"$tool" dump sealed/stdin >out
"$tool" dump sealed/t >expected
same stdin_is_as_a_file expected out
seal plain_tsv 0 sealed/plain
prints plain_tsv_keeps_every_byte 2 get sealed/plain 'b\x00'
rm -f sealed/*
printf '{"kind":"sorted"}\n{"k":"b","v64":"/w=="}\n{"v":"x","k64":"AA=="}\n' >input
seal json_is_sealed 0 sealed/json
prints sealed_json_dump $'{"kind":"sorted"}\n{"k":"\\u0000","v":"x"}\n{"k":"b","v64":"/w=="}\n' \
    dump --to json sealed/json
seal jsonl_is_json 0 --format jsonl sealed/jsonl
for format in tsv json mdb; do
    "$tool" dump --to $format sealed/json >dumped
    rm -rf back.store
    "$tool" load -q -x --input dumped back.store
    "$tool" dump --to json back.store >out
    "$tool" dump --to json sealed/json >expected
    if [ $format = tsv ]; then sed -i 1d expected; fi # it tells no kind
    same "sealed_dump_as_${format}_loads" expected out
    "$tool" seal -q -x --input dumped - sealed/$format.again 2>err
    "$tool" dump --to json sealed/$format.again >out
    "$tool" dump --to json sealed/json >expected
    same "sealed_round_trip_by_$format" expected out
done
seal mdb_is_no_json 2 --from mdb sealed/none
rm -f sealed/*
printf '%s\n' 'VERSION=3' 'format=print' 'type=btree' 'HEADER=END' ' a\00b' ' x\\y z' \
    'DATA=END' >input
seal mdb_is_sealed 0 sealed/mdb
prints sealed_mdb_value 'x\y z' get -x sealed/mdb 'a\x00b'
if command -v mdb_load >/dev/null; then
    mkdir sealed.env
    awk 'NR < 500 { print $0 "\t" NR }' words >input
    seal some_words_are_sealed 0 sealed/some
    "$tool" dump --to mdb sealed/some | mdb_load sealed.env 2>err
    is mdb_load_takes_a_sealed_dump $? 0
    mdb_dump -s main sealed.env | "$tool" seal -q - sealed/back 2>err
    is mdb_dump_is_sealed $? 0
    "$tool" dump sealed/some >expected
    "$tool" dump sealed/back >out
    same sealed_round_trip_through_lmdb expected out
else
    skip mdb_load_takes_a_sealed_dump "no mdb_load"
fi
rm -f sealed/*
printf '{"m":"a","k":"1","v":""}\n{"m":"b","kind":"hash"}\n{"m":"b","k":"2","v":""}\n' >input
seal second_map_is_refused 2 sealed/t
says second_map_has_its_line "input:2: map 'b' is a second one"
seal map_is_chosen 0 --map b sealed/t
prints chosen_map_is_sealed $'2\t\n' scan sealed/t
past=1000
future=$((($(date +%s) + 3600) * 1000))
printf '{"k":"past","v":"","expires":%s}\n{"k":"future","v":"","expires":%s}\n' $past $future >input
seal expiries_are_sealed 0 --replace sealed/t
says seal_tells_what_had_expired '1 records had expired'
says seal_tells_what_will_expire '1 records have an expiry'
prints what_had_expired_is_not_sealed $'future\t\n' scan sealed/t
: >input
seal nothing_is_sealed 0 --replace sealed/t
prints table_of_nothing $'0\n' count sealed/t
prints scan_of_a_table_of_nothing '' scan sealed/t
code table_of_nothing_is_whole 0 verify sealed/t
error get_from_a_table_of_nothing 1 get sealed/t k
rm -f sealed/*

# ---- keys that are numbers ---------------------------------------------------------------------

for keys in u8 u16 u32 u64; do
    seq 200 | shuf --random-source=words | awk '{ print $1 "\tv" $1 }' >input
    seal "keys_of_$keys" 0 --keys $keys sealed/$keys
    "$tool" stat sealed/$keys >out
    has "stat_tells_$keys" "^keys: $keys$"
    seq 200 | awk '{ print $1 "\tv" $1 }' >expected
    "$tool" scan sealed/$keys >out
    same "${keys}_are_in_order_of_numbers" expected out
    prints "${keys}_are_found" v9 get sealed/$keys 9
    prints "${keys}_are_written_in_one_way" $'{"k":"9","v":"v9"}\n' \
        get --format json sealed/$keys 009
    prints "range_of_$keys" $'100\n99\n98\n' scan --keys --from 98 --to 101 --reverse sealed/$keys
    prints "open_range_of_$keys" $'1\n' count --from 200 --to 99999999999999999999 sealed/$keys
    prints "range_beyond_$keys" '' scan --from 99999999999999999999 sealed/$keys
    error "missing_number_of_$keys" 1 get sealed/$keys 201
    error "number_beyond_$keys" 1 get sealed/$keys 99999999999999999999
done
error text_is_no_number 2 get sealed/u16 x
says text_is_no_number_tells_the_keys 'numbers, u16 in decimal'
error empty_text_is_no_number 2 get sealed/u16 ''
error negative_number 2 get -- sealed/u16 -1
error number_with_a_space 2 get sealed/u16 '1 '
error from_that_is_no_number 2 scan --from x sealed/u16
error to_that_is_no_number 2 count --to x sealed/u16
error numbers_have_no_prefix 2 scan --prefix 1 sealed/u16
"$tool" dump sealed/u32 >numbers.tsv
for format in tsv json mdb; do
    "$tool" dump --to $format sealed/u32 |
        "$tool" seal -q -x --keys u32 - sealed/again.$format 2>err
    "$tool" dump sealed/again.$format >out
    same "numbers_survive_$format" numbers.tsv out
done
rm -f sealed/*
printf '255\ta\n256\tb\n' >input
seal number_that_is_too_large 2 --keys u8 sealed/t
says too_large_number_has_its_line "input:2: key '256' is over 255"
seal larger_keys_take_it 0 --keys u16 sealed/t
printf '18446744073709551615\tmost\n0\tleast\n' >input
seal all_of_64_bits 0 --replace --keys u64 sealed/t
prints most_of_64_bits most get sealed/t 18446744073709551615
prints range_to_the_most $'18446744073709551615\n' scan --keys --from 1 sealed/t
printf '18446744073709551616\tmore\n' >input
seal more_than_64_bits 2 --replace --keys u64 sealed/t
for text in x '' -1 1.5 ' 1' 0x1; do
    printf '1\ta\n%s\tb\n' "$text" >input
    seal "key_'$text'_is_no_number" 2 --replace --keys u32 sealed/t
    says "key_'$text'_has_its_line" 'input:2: key .* is no decimal number'
done
prints refused_input_replaces_nothing least get sealed/t 0
printf 'a\tb\n\nc' >input
seal values_are_numbered 0 --replace --number sealed/t
prints numbered_values $'0\ta\\tb\n1\t\n2\tc\n' scan sealed/t
"$tool" stat sealed/t >out
has numbers_are_u64_by_default '^keys: u64$'
printf '{"v":"a"}\n{"v64":"/w=="}\n' >input
seal json_values_are_numbered 0 --replace --number --keys u8 sealed/t
prints numbered_json_values $'0\ta\n1\t\\xff\n' scan sealed/t
printf '{"v":"a"}\n{"k":"k","v":"b"}\n' >input
seal numbered_json_has_no_keys 2 --replace --number sealed/t
says numbered_json_key_has_its_line 'input:2: a key, where --number gives the keys'
printf '%s\n' 'VERSION=3' 'format=print' 'type=recno' 'keys=0' 'HEADER=END' ' a' ' b' \
    'DATA=END' >input
seal mdb_values_are_numbered 0 --replace --number sealed/t
prints numbered_mdb_values $'0\ta\n1\tb\n' scan sealed/t
rm -rf l
error mdb_without_keys_is_not_loaded 2 load --input input l
sed -i '/^keys=0/d' input
seal numbered_mdb_has_no_keys 2 --replace --number sealed/t
seq 256 >input
seal numbers_up_to_the_last 0 --replace --number --keys u8 sealed/t
prints last_number_is_found 256 get sealed/t 255
error number_behind_the_last 1 get sealed/t 511
prints range_from_behind_the_last '' scan --from 511 sealed/t
prints range_to_behind_the_last $'256\n' count --to 256 sealed/t
prints range_to_the_last $'255\n' count --to 255 sealed/t
seq 257 >input
seal numbers_that_run_out 2 --replace --number --keys u8 sealed/t
says number_that_ran_out_has_its_line 'input:257: no number is left'
prints numbers_that_ran_out_replace_nothing 256 get sealed/t 255
only refused_input_leaves_nothing t
rm -f sealed/*

# ---- what is refused, and what is replaced -----------------------------------------------------

bad_text() { # NAME LINE TEXT: text with printf's escapes, refused at that line
    printf "$3" >input
    seal "$1" 2 -x sealed/t
    says "${1}_has_its_line" "^keepmap: input:$2: .*; no table was written$"
    only "${1}_publishes_nothing"
}
bad_text sealed_tsv_without_tab 3 'a\t1\nb\t2\nc 3\nd\t4\n'
bad_text sealed_bad_escape 1 'a\\q\tv\n'
bad_text sealed_bad_json 2 '{"k":"a","v":"b"}\n{"k":"a"}\n'
bad_text sealed_empty_json_line 2 '{"k":"a","v":"b"}\n\n'
bad_text sealed_cut_mdb 4 'VERSION=3\nformat=print\nHEADER=END\n k\n'
{ printf 'k\tv\n'; printf '%065536d\tv\n' 0; } >input
seal sealed_long_key 2 sealed/t
says sealed_long_key_has_its_line 'input:2: a key of 65536 bytes'
error sealed_input_that_is_a_folder 3 seal --input . - sealed/t
only unread_input_seals_nothing

printf 'k\told\n' >input
seal a_table 0 sealed/t
printf 'k\tnew\n' >input
seal table_that_is_there_is_kept 2 sealed/t
says table_that_is_there_is_told '--replace'
prints kept_table_is_as_it_was old get sealed/t k
seal table_is_replaced 0 --replace sealed/t
prints replaced_table_is_new new get sealed/t k
cp input sealed/text
seal other_files_are_not_replaced 2 --replace sealed/text
same other_file_is_as_it_was input sealed/text
ln -s t sealed/link
seal links_are_not_replaced 2 --replace sealed/link
rm sealed/text sealed/link
for verb in "set sealed/t k v" "del sealed/t k" "pop sealed/t" "cas sealed/t k 0 v" \
    "incr sealed/t k" "append sealed/t k v" "create sealed/t" "drop --map main sealed/t" \
    "load --input input sealed/t"; do
    error "sealed_tables_are_not_changed_by_${verb%% *}" 2 $verb
    says "${verb%% *}_tells_that_tables_cannot_be_changed" 'a sealed table, which cannot be changed'
done
for verb in "list sealed/t" "index sealed/t 0" "compact sealed/t" "backup sealed/t new.store" \
    "restore sealed/t new.store" "salvage sealed/t new.store" "scrub sealed/t" "watch sealed/t" \
    "follow sealed/t" "top sealed/t" "diff sealed/t sealed/t" "seal sealed/t new.store" \
    "attach sealed/t sealed/t" "detach --map m sealed/t"; do
    error "sealed_tables_are_nothing_for_${verb%% *}" 2 $verb
    says "${verb%% *}_tells_what_is_for_tables" 'verify, dump and unseal are for those'
done
[ -e new.store ] && bad refused_verbs_create_nothing || ok refused_verbs_create_nothing
error sealed_tables_have_no_map 2 get --map main sealed/t k
error sealed_tables_have_no_maps 2 dump --all --to json sealed/t
error sealed_tables_have_no_versions 2 get --version sealed/t k
error sealed_tables_have_no_expiries 2 get --info sealed/t k
error sealed_tables_are_not_closed 2 stat --closed sealed/t
prints refused_verbs_change_nothing new get sealed/t k
error plain_file_is_no_table 3 count plain
says plain_file_is_no_table_tells_both 'no sealed table; and a store is a folder'
rm -f sealed/*

# ---- signals, progress -------------------------------------------------------------------------

# interrupted NAME SIGNAL CODE: a signal while the end of the input is waited for, and a part of the
# table is written.
awk '{ printf "%s\t%060d\n", $0, NR }' words >half
interrupted() {
    "$tool" seal --progress - sealed/t <fifo >out 2>err &
    background=$!
    exec 3>fifo
    cat half >&3
    for i in $(seq 500); do
        [ -n "$(ls -A sealed)" ] && break
        sleep 0.01
    done
    is "${1}_when_a_part_is_written" "$(ls -A sealed | grep -c '^t\..*\.sealing$')" 1
    kill -"$2" $background
    for i in $(seq 1000); do # it must end by the signal, not with its input
        kill -0 $background 2>/dev/null || break
        sleep 0.01
    done
    if kill -0 $background 2>/dev/null; then bad "${1}_at_once"; else ok "${1}_at_once"; fi
    exec 3>&-
    wait $background 2>/dev/null
    is "$1" $? "$3"
    background=
}
for signal in INT TERM HUP; do
    interrupted seal_ends_by_sig$signal $signal 3
    says "sig${signal}_is_told" 'stopped by a signal'
    only "sig${signal}_leaves_no_table_and_no_litter"
done
interrupted killed_seal KILL 137
if [ -e sealed/t ]; then bad killed_seal_has_no_table; else ok killed_seal_has_no_table; fi
printf 'k\tv\n' >input
seal seal_after_a_kill 0 --progress sealed/t
says progress_is_a_line 'sealing \[.*\] .* MiB/s$'
only next_seal_removes_the_litter t
cat input | "$tool" seal --progress --replace - sealed/t >out 2>err
says progress_of_a_pipe_has_no_total '^sealing [0-9.]* MiB  [0-9]* MiB/s$'
seal no_progress_where_there_is_no_terminal 0 --replace sealed/t
is nothing_but_the_report "$(grep -vc '^keepmap: sealed ' err)" 0
seal quiet_seal 0 -q --replace sealed/t
is quiet_seal_is_quiet "$(cat out err)" ''
if script -qec true /dev/null >/dev/null 2>&1 </dev/null; then
    script -qec "'$tool' seal --progress --replace --input input - sealed/t" /dev/null \
        </dev/null >out
    is progress_on_a_terminal_is_removed \
        "$(grep -c $'\r\e\\[Ksealing \\[.*MiB/s\r\e\\[Kkeepmap: ' out)" 1
else
    skip progress_on_a_terminal_is_removed "no script(1)"
fi
rm -f sealed/*

# ---- damage and full disks ---------------------------------------------------------------------

awk 'BEGIN { for (i = 1; i <= 2000; i++) printf "key %d\tthe value number %d.\n", i, i }' >input
seal table_to_damage 0 sealed/t
cp sealed/t whole.table
place=$(grep -abo 'the value number 1000\.' sealed/t | head -n 1)
printf X | dd of=sealed/t bs=1 seek=$((${place%%:*} + 4)) conv=notrunc 2>err
error damaged_value_is_not_returned 4 get sealed/t 'key 1000'
says damaged_table_says_what_to_do 'verify. shows where'
prints other_values_are_returned 'the value number 999.' get sealed/t 'key 999'
code damaged_table_is_not_dumped 4 dump sealed/t
code sealed_verify_finds_damage 4 verify sealed/t
has sealed_verify_tells_the_place '(offset [0-9]*)$'
has sealed_verify_counts_the_damage '^damaged: 1$'
says sealed_verify_says_what_to_do 'is damaged: build it again'
error damaged_table_is_not_unsealed 4 unseal sealed/t damaged.unsealed
cp whole.table sealed/t
truncate -s -4096 sealed/t
for verb in "get sealed/t k" "scan sealed/t" "count sealed/t" "stat sealed/t" "dump sealed/t" \
    "unseal sealed/t new.store"; do
    error "cut_table_is_found_by_${verb%% *}" 4 $verb
done
code cut_table_is_found_by_verify 4 verify sealed/t
has cut_table_is_a_finding '^damaged: 1$'
[ -e new.store ] && bad damaged_table_creates_no_store || ok damaged_table_creates_no_store
for offset in 20 3000; do
    cp whole.table sealed/t
    printf X | dd of=sealed/t bs=1 seek=$offset conv=notrunc 2>err
    "$tool" count sealed/t >out 2>err
    is "damaged_header_at_${offset}_is_an_error" $? 4
done
: >sealed/t
error empty_file_is_no_table 3 count sealed/t
rm -f sealed/*
if mount -t tmpfs -o size=1m none small 2>/dev/null; then
    awk '{ printf "%s\t%060d\n", $0, NR }' words >input
    code sealing_onto_a_full_disk 3 seal --input input - small/t
    says full_disk_is_told_by_seal 'full'
    is full_disk_has_no_litter "$(ls -A small)" ''
    umount small
else
    skip sealing_onto_a_full_disk "cannot mount a small file system"
fi
(
    trap '' XFSZ
    ulimit -f 2
    "$tool" seal --input input - sealed/t 2>err
)
is refused_table_is_an_error $? 3
only refused_table_is_not_there

# ---- from maps to tables and back --------------------------------------------------------------

for kind in hash insertion sorted; do
    rm -rf to.seal unsealed
    shuf --random-source=words -n 3000 words | awk '{ print $0 "\t" NR }' >input
    "$tool" load -q --kind $kind --map m --input input to.seal
    code "seal_of_a_$kind" 0 seal --map m to.seal sealed/$kind
    says "seal_of_a_${kind}_tells_the_count" 'sealed 3000 keys'
    sort input >expected
    "$tool" dump sealed/$kind >out
    same "sealed_${kind}_has_all" expected out
    code "unseal_of_a_$kind" 0 unseal --kind $kind --map again sealed/$kind unsealed
    says "unseal_of_a_${kind}_tells_the_count" 'loaded 3000 records'
    sorted_dump --map again unsealed >out
    same "unsealed_${kind}_has_all" expected out
    prints "unsealed_${kind}_is_of_its_kind" "again"$'\t'"$kind"$'\t'"3000"$'\n' list unsealed
done
error seal_of_a_missing_map 1 seal --map nothing to.seal sealed/none
error seal_of_a_map_onto_a_table 2 seal --map m to.seal sealed/hash
code seal_of_a_map_replaces 0 seal -q --replace --map m to.seal sealed/hash
code unseal_makes_a_sorted_map 0 unseal -q sealed/hash unsealed
"$tool" list unsealed >out
has unsealed_map_is_sorted '^main.sorted.3000$'
"$tool" set unsealed "$(head -n 1 input | cut -f 1)" other
"$tool" set unsealed 'not in the table' kept
code unseal_into_a_map 0 unseal sealed/hash unsealed
prints unseal_keeps_other_keys kept get unsealed 'not in the table'
prints unseal_overwrites 1 get unsealed "$(head -n 1 input | cut -f 1)"
code unseal_into_a_map_of_another_kind 0 unseal --map again sealed/hash unsealed
error unseal_into_a_map_not_of_that_kind 2 unseal --kind hash --map again sealed/hash unsealed
"$tool" set -x --map binary to.seal '\x00\x00\x00\x07' seven
"$tool" set -x --map binary to.seal '\x00\x00\x01\x00' many
code seal_of_keys_that_are_numbers 0 seal --keys u32 --map binary to.seal sealed/u32
prints numbers_of_a_map $'7\tseven\n256\tmany\n' scan sealed/u32
code unseal_of_numbers 0 unseal -q --map numbers sealed/u32 unsealed
prints unsealed_numbers_are_their_bytes many get -x --map numbers unsealed '\x00\x00\x01\x00'
error seal_of_keys_that_are_none 2 seal --keys u32 --map m to.seal sealed/none
says keys_that_are_none_are_told 'not of 4 bytes, as --keys u32 wants them'
printf '7\tseven\n' >input
"$tool" load -q --map text --input input to.seal
"$tool" dump --map text to.seal | "$tool" seal -q -x --keys u32 - sealed/text
prints decimal_text_is_sealed_by_a_dump seven get sealed/text 007
"$tool" set --ttl 1ms --map ttl to.seal gone v
"$tool" set --ttl 1h --map ttl to.seal stays v
sleep 0.01
code seal_of_a_map_with_expiries 0 seal -q --map ttl to.seal sealed/ttl
prints expired_keys_are_not_sealed $'stays\tv\n' scan sealed/ttl
writer_begins to.seal
put beside 1
code seal_beside_a_writer 0 seal -q to.seal sealed/beside
prints seal_beside_a_writer_sees_it 1 get sealed/beside beside
error unseal_into_a_locked_store 3 unseal sealed/beside to.seal
writer_ends
is no_litter_of_maps "$(ls -A sealed | grep -c sealing)" 0

# ---- tables under maps ---------------------------------------------------------------------------

rm -rf cold sealed/*
awk 'NR <= 1000 { print $0 "\told" }' words >input
seal cold_table 0 sealed/cold
code map_for_a_table 0 create --kind sorted --map m cold
code stat_without_tables 0 stat --format json cold
has stat_json_has_no_tables ',"attached":\[\]}$'
error attach_of_a_missing_table 3 attach --map m cold none
error attach_of_a_store 3 attach --map m cold to.seal
error attach_of_another_file 3 attach --map m cold plain
error attach_to_a_missing_map 1 attach --map other cold sealed/cold
"$tool" create --map insertion cold
error attach_to_an_insertion_map 2 attach --map insertion cold sealed/cold
says attach_tells_which_kinds '--kind sorted or hash'
"$tool" seal -q --compress --input input - sealed/small 2>err &&
    error attach_of_a_compressed_table 3 attach --map m cold sealed/small
"$tool" create --kind hash --map h cold
code attach_under_a_hash_map 0 attach --map h cold sealed/cold
ln -s cold sealed/link
code attach_works 0 attach --map m cold sealed/link
rm sealed/cold sealed/link
first=$(head -n 1 words)
second=$(sed -n 2p words)
prints attached_keys_are_found old get --map m cold "$first"
prints attached_keys_are_counted $'1000\n' count --map m cold
code attached_key_is_set 0 set --map m cold "$first" new
code attached_key_is_deleted 0 del --map m cold "$second"
prints map_goes_before_its_table new get --map m cold "$first"
error deleted_key_of_a_table_is_gone 1 get --map m cold "$second"
prints count_over_a_table $'999\n' count --map m cold
sed -n "1s/\$/\tnew/p; 3,1000s/\$/\told/p" words >expected
"$tool" scan --map m cold >out 2>err
same scan_over_a_table expected out
code stat_of_attached 0 stat cold
has stat_counts_tables '^attached_count: 2$'
has stat_lists_tables $'^attached: m\t[^\t]*\t1000\t[0-9]*\t[0-9]*$'
code stat_of_attached_as_json 0 stat --format json cold
has stat_json_lists_tables \
    ',"attached":\[{"map":"m","name":"[^"]*","key_count":1000,.*},{"map":"h",.*}\]}$'
code store_with_a_table_is_whole 0 verify cold
code seal_over_a_table 0 seal -q --map m cold sealed/both
"$tool" dump sealed/both >out
same sealed_with_its_table expected out
error detach_from_a_missing_map 1 detach --map other cold
error detach_where_nothing_is 1 detach --map insertion cold
code detach_works 0 detach --map m cold
prints detached_keys_are_gone $'1\n' count --map m cold
prints own_keys_stay new get --map m cold "$first"
code stat_of_detached 0 stat cold
is detached_tables_are_not_listed "$(grep -c '^attached: m' out)" 0
