/* SPDX-License-Identifier: Apache-2.0
 *
 * test_mmap_state_store.c -- the abilities of LaminarDB's MmapStateStore: sorted keys, scans by
 * prefix and range, snapshots to go back to, and the same store in memory alone.
 */
#include "seeds/seed.h"

/* ---- put, get, delete ---------------------------------------------------------------------- */

static void put_get_delete_contains_len_clear(void **state)
{
    (void)state;
    CHECK(km_count(seed.map) == 0);
    seed_put_all("b=2 a=1 c=3");
    seed_check("b", "2");
    CHECK_STATUS(km_contains(seed.map, text("c")), KM_OK);
    CHECK(km_count(seed.map) == 3);
    seed_del("c");
    CHECK_STATUS(km_contains(seed.map, text("c")), KM_NOT_FOUND);
    seed_put("a", "11");
    seed_check_all("a=11 b=2");
    CHECK_STATUS(km_map_clear(seed.map), KM_OK);
    CHECK(km_count(seed.map) == 0);
    seed_check_all("");
}

static void get_ref_reads_a_value_where_it_lies(void **state)
{
    km_reader *reader;
    km_bytes value;

    (void)state;
    seed_put_all("a=1");
    CHECK_STATUS(km_read_begin(seed.store, &reader), KM_OK);
    CHECK_STATUS(km_get_ref(reader, seed.map, text("a"), &value), KM_OK);
    CHECK_STATUS(km_get_ref(reader, seed.map, text("b"), &(km_bytes){NULL, 0}), KM_NOT_FOUND);
    seed_put("a", "2");
    CHECK(value.size == 1 && memcmp(value.data, "1", 1) == 0);
    km_read_end(reader);
}

static void get_or_insert_returns_what_is_there_afterwards(void **state)
{
    km_buffer value = KM_BUFFER_INIT;

    (void)state;
    CHECK_STATUS(km_get_or_insert(seed.map, text("a"), text("default"), &value, NULL), KM_OK);
    CHECK(seed_is(&value, "default"));
    CHECK_STATUS(km_get_or_insert(seed.map, text("a"), text("other"), &value, NULL), KM_OK);
    CHECK(seed_is(&value, "default"));
    seed_check_all("a=default");
    km_buffer_free(&value);
}

/* Puts "first" if there is nothing, then "more", then deletes. */
static km_update_verdict next_state(void *context, const km_bytes *old_value,
                                    const km_key_info *old_info, km_bytes *new_value)
{
    (void)context;
    (void)old_info;
    if (old_value && old_value->size == 4)
        return KM_UPDATE_DELETE;
    *new_value = text(old_value ? "more" : "first");
    return KM_UPDATE_PUT;
}

static void update_puts_or_deletes_by_the_present_value(void **state)
{
    (void)state;
    CHECK_STATUS(km_update(seed.map, text("a"), next_state, NULL, NULL), KM_OK);
    seed_check("a", "first");
    CHECK_STATUS(km_update(seed.map, text("a"), next_state, NULL, NULL), KM_OK);
    seed_check("a", "more");
    CHECK_STATUS(km_update(seed.map, text("a"), next_state, NULL, NULL), KM_OK);
    seed_check("a", NULL);
}

static void typed_counters(void **state)
{
    int64_t sum = 0;

    (void)state;
    CHECK_STATUS(km_increment(seed.map, text("count"), 40, &sum, NULL), KM_OK);
    CHECK_STATUS(km_increment(seed.map, text("count"), 2, &sum, NULL), KM_OK);
    CHECK(sum == 42);
    seed_reopen(NULL);
    CHECK_STATUS(km_increment(seed.map, text("count"), -43, &sum, NULL), KM_OK);
    CHECK(sum == -1);
    seed_put("word", "no number");
    CHECK_STATUS(km_increment(seed.map, text("word"), 1, &sum, NULL), KM_E_INVALID);
    seed_check("word", "no number");
}

/* ---- scans --------------------------------------------------------------------------------- */

static void check_prefix(const char *prefix, const char *expected)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;

    options.range.prefix = text(prefix);
    seed_check_walk(&options, expected);
}

static void prefix_scan_gives_keys_in_order(void **state)
{
    (void)state;
    seed_put_all("user:2=b user:1=a user:10=c users=d use=e item:1=f");
    check_prefix("user:", "user:1=a user:10=c user:2=b");
    check_prefix("user:1", "user:1=a user:10=c");
    check_prefix("user", "user:1=a user:10=c user:2=b users=d");
    check_prefix("x", "");
    check_prefix("", "item:1=f use=e user:1=a user:10=c user:2=b users=d");
    seed_reopen(NULL);
    check_prefix("user:", "user:1=a user:10=c user:2=b");
}

/* Prefixes without a successor of the same length: 0xff bytes at their end. */
static void prefix_scan_at_the_end_of_the_keys(void **state)
{
    (void)state;
    seed_put_all("a\xff=1 a\xff\xff=2 a\xff\xff\x01=3 b=4 \xff=5 \xff\xff=6");
    check_prefix("a\xff", "a\xff=1 a\xff\xff=2 a\xff\xff\x01=3");
    check_prefix("a\xff\xff", "a\xff\xff=2 a\xff\xff\x01=3");
    check_prefix("\xff", "\xff=5 \xff\xff=6");
    check_prefix("\xff\xff", "\xff\xff=6");
}

static void check_range(const char *from, const char *to, const char *expected)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    uint64_t count = 0, expected_count = 0;

    options.range.from = from ? text(from) : km_bytes_of(NULL, 0);
    options.range.to = to ? text(to) : km_bytes_of(NULL, 0);
    seed_check_walk(&options, expected);
    for (const char *at = expected; *at; at++)
        expected_count += *at == '=';
    CHECK_STATUS(km_count_range(seed.map, &options.range, &count), KM_OK);
    CHECK(count == expected_count);
}

static void range_scan_has_an_exclusive_end(void **state)
{
    (void)state;
    seed_put_all("d=4 b=2 a=1 c=3");
    check_range("b", "d", "b=2 c=3");
    check_range("b", "b", "");
    check_range("c", "b", "");
    check_range("aa", "cc", "b=2 c=3"); /* the ends need not be there */
    check_range(NULL, "c", "a=1 b=2");
    check_range("c", NULL, "c=3 d=4");
    check_range(NULL, NULL, "a=1 b=2 c=3 d=4");
    check_range("x", "z", "");
}

static void scans_go_backwards_too(void **state)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;

    (void)state;
    seed_put_all("a=1 b=2 c=3 d=4");
    options.reverse = 1;
    seed_check_walk(&options, "d=4 c=3 b=2 a=1");
    options.range.from = text("b");
    options.range.to = text("d");
    seed_check_walk(&options, "c=3 b=2");
}

/* ---- snapshots ----------------------------------------------------------------------------- */

static void a_snapshot_keeps_the_state(void **state)
{
    km_snapshot_info info = {.struct_size = sizeof(info)};
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_buffer value = KM_BUFFER_INIT;
    km_snapshot *snapshot;

    (void)state;
    seed_put_all("a=1 b=2");
    CHECK_STATUS(km_snapshot_open(seed.store, &snapshot), KM_OK);
    seed_put_all("a=11 c=3");
    seed_del("b");
    CHECK_STATUS(km_snapshot_get(snapshot, seed.map, text("b"), &value, NULL), KM_OK);
    CHECK(seed_is(&value, "2"));
    CHECK_STATUS(km_snapshot_get(snapshot, seed.map, text("c"), &value, NULL), KM_NOT_FOUND);
    options.snapshot = snapshot;
    seed_check_walk(&options, "a=1 b=2");
    seed_check_all("a=11 c=3");
    CHECK_STATUS(km_snapshot_describe(snapshot, &info), KM_OK);
    CHECK(info.key_count == 2 && km_snapshot_count(snapshot, seed.map) == 2); /* len */
    CHECK(info.live_bytes >= 4 && info.taken_ms > UINT64_C(1600000000000));   /* size, time */
    CHECK(seed_stats().snapshot_count == 1);
    km_snapshot_close(snapshot);
    km_buffer_free(&value);
}

/* To a folder that does not exist yet; it goes when the program ends. */
static void save_snapshot(char path[HARNESS_PATH_SIZE])
{
    char parent[HARNESS_PATH_SIZE];
    km_snapshot *snapshot;

    harness_make_folder(parent);
    harness_path(path, parent, "saved");
    CHECK_STATUS(km_snapshot_open(seed.store, &snapshot), KM_OK);
    CHECK_STATUS(km_snapshot_save(snapshot, path, NULL, NULL, NULL), KM_OK);
    km_snapshot_close(snapshot);
}

static void restore_brings_back_the_state_of_a_snapshot(void **state)
{
    char saved[HARNESS_PATH_SIZE];

    (void)state;
    seed_put_all("user:1=alice user:2=bob");
    save_snapshot(saved);
    seed_put_all("user:1=carol user:3=dave");
    seed_del("user:2");
    harness_close(seed.store);
    CHECK_STATUS(km_restore_in_place(saved, seed.path, NULL, NULL, NULL), KM_OK);
    seed_open(NULL);
    seed_check_all("user:1=alice user:2=bob");
    seed_put_all("user:4=erin");
    seed_reopen(NULL);
    seed_check_all("user:1=alice user:2=bob user:4=erin");
}

static void a_snapshot_is_kept_in_a_folder_and_is_a_store(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    char saved[HARNESS_PATH_SIZE];
    km_store *store = seed.store;
    km_map *map = seed.map;

    (void)state;
    seed_put_all("a=1 b=2");
    save_snapshot(saved);
    seed_put_all("a=3");
    options.mode = KM_OPEN_READ_ONLY;
    seed.store = harness_open(saved, &options);
    CHECK_STATUS(km_map_open(seed.store, text("seed"), &seed.map), KM_OK);
    seed_check_all("a=1 b=2");
    harness_close(seed.store);
    seed.store = store;
    seed.map = map;
    seed_check_all("a=3 b=2");
}

/* Puts and deletes, sorted as they come: "+key=value" and "-key". */
static int note_change(void *context, const km_change *change)
{
    char *out = context;
    size_t size = strlen(out);

    CHECK(change->kind == KM_CHANGE_PUT || change->kind == KM_CHANGE_DELETE);
    CHECK(change->map.size == 4 && memcmp(change->map.data, "seed", 4) == 0);
    if (change->kind == KM_CHANGE_PUT)
        CHECK_STATUS(km_put(seed.map, change->key, change->value, NULL), KM_OK);
    else
        CHECK_STATUS(km_del(seed.map, change->key, NULL), KM_OK);
    snprintf(out + size, SEED_WALK_SIZE - size, "%c%.*s ",
             change->kind == KM_CHANGE_PUT ? '+' : '-', (int)change->key.size,
             (const char *)change->key.data);
    return 0;
}

/* The changes between two snapshots, applied to the contents of the first, give the second. */
static void an_incremental_snapshot_lists_puts_and_deletes(void **state)
{
    char changes[SEED_WALK_SIZE] = "";
    km_snapshot *older, *newer;
    km_map *copy, *map = seed.map;

    (void)state;
    CHECK_STATUS(km_map_create(seed.store, text("copy"), KM_SORTED, &copy), KM_OK);
    seed_put_all("kept=1 changed=2 deleted=3");
    CHECK_STATUS(km_snapshot_open(seed.store, &older), KM_OK);
    seed_put_all("changed=4 new=5 passing=6 changed=7");
    seed_del("deleted");
    seed_del("passing");
    CHECK_STATUS(km_snapshot_open(seed.store, &newer), KM_OK);
    seed_put_all("later=8");
    seed.map = copy;
    seed_put_all("kept=1 changed=2 deleted=3"); /* the base */
    CHECK_STATUS(km_snapshot_changes(older, newer, map, note_change, changes), KM_OK);
    seed_check_all("changed=7 kept=1 new=5");
    CHECK(strstr(changes, "+changed ") && strstr(changes, "-deleted ") && strstr(changes, "+new "));
    CHECK(!strstr(changes, "kept") && !strstr(changes, "later"));
    CHECK(strlen(changes) == strlen("+changed -deleted +new "));
    km_snapshot_close(older);
    km_snapshot_close(newer);
    seed.map = map;
}

/* ---- size, memory, files ------------------------------------------------------------------- */

static void size_bytes_follows_the_contents(void **state)
{
    static char value[100000];
    uint64_t empty = seed_stats().live_bytes, full;

    (void)state;
    memset(value, 'v', sizeof(value));
    CHECK_STATUS(km_put(seed.map, text("a"), km_bytes_of(value, sizeof(value)), NULL), KM_OK);
    full = seed_stats().live_bytes;
    CHECK(full >= empty + sizeof(value) && full < empty + sizeof(value) + 100);
    seed_put("a", "small");
    CHECK(seed_stats().live_bytes < empty + 100);
    seed_del("a");
    CHECK(seed_stats().live_bytes == empty);
}

static void fragmentation_is_known_and_compaction_lowers_it(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    char value[500];
    km_stats before, after;

    (void)state;
    options.log_size_min = UINT64_C(1) << 40; /* not by itself */
    seed_reopen(&options);
    memset(value, 'v', sizeof(value));
    for (uint64_t i = 0; i < 20000; i++)
        CHECK_STATUS(km_put_u64(seed.map, i % 100, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
    before = seed_stats();
    CHECK(before.dead_bytes > 9 * (before.log_bytes / 10));
    CHECK_STATUS(km_compact(seed.store, NULL, NULL, NULL), KM_OK);
    after = seed_stats();
    CHECK(after.dead_bytes < before.dead_bytes / 10 && after.key_count == before.key_count);
}

static void in_memory_it_has_the_same_abilities(void **state)
{
    km_store *store = seed.store;
    km_map *map = seed.map;
    km_snapshot *snapshot;
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;

    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &seed.store, NULL), KM_OK);
    CHECK_STATUS(km_map_create(seed.store, text("seed"), KM_SORTED, &seed.map), KM_OK);
    seed_put_all("b:1=1 a=2 b:2=3 c=4");
    check_prefix("b:", "b:1=1 b:2=3");
    check_range("a", "b:2", "a=2 b:1=1");
    CHECK_STATUS(km_snapshot_open(seed.store, &snapshot), KM_OK);
    seed_del("a");
    options.snapshot = snapshot;
    seed_check_walk(&options, "a=2 b:1=1 b:2=3 c=4");
    seed_check_all("b:1=1 b:2=3 c=4");
    km_snapshot_close(snapshot);
    harness_close(seed.store);
    seed.store = store;
    seed.map = map;
    seed_check_all("");
}

static void put_numbers(void)
{
    for (uint64_t key = 0; key < 3000; key++)
        CHECK_STATUS(km_put_u64(seed.map, key * 7919 % 3000, text("v"), NULL), KM_OK);
}

/* Persistent mode: after a kill as after a flush and a close. */
static void on_disk_it_survives_restarts_in_order(void **state)
{
    km_cursor *cursor;
    km_bytes key;

    (void)state;
    seed_in_a_killed_process(NULL, put_numbers);
    for (int round = 0; round < 2; round++) {
        seed_open(NULL);
        CHECK_STATUS(km_cursor_open(seed.map, NULL, &cursor), KM_OK);
        for (uint64_t number = 0; number < 3000; number++) {
            CHECK_STATUS(km_cursor_next(cursor, &key, NULL), KM_OK);
            CHECK(km_u64_key_to(key.data) == number);
        }
        CHECK_STATUS(km_cursor_next(cursor, &key, NULL), KM_END);
        km_cursor_close(cursor);
        CHECK_STATUS(km_wait_durable(seed.store, 0), KM_OK); /* flush */
        if (round == 0)
            harness_close(seed.store);
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, seed_begin_sorted, seed_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(put_get_delete_contains_len_clear),
        CASE(get_ref_reads_a_value_where_it_lies),
        CASE(get_or_insert_returns_what_is_there_afterwards),
        CASE(update_puts_or_deletes_by_the_present_value),
        CASE(typed_counters),
        CASE(prefix_scan_gives_keys_in_order),
        CASE(prefix_scan_at_the_end_of_the_keys),
        CASE(range_scan_has_an_exclusive_end),
        CASE(scans_go_backwards_too),
        CASE(a_snapshot_keeps_the_state),
        CASE(restore_brings_back_the_state_of_a_snapshot),
        CASE(a_snapshot_is_kept_in_a_folder_and_is_a_store),
        CASE(an_incremental_snapshot_lists_puts_and_deletes),
        CASE(size_bytes_follows_the_contents),
        CASE(fragmentation_is_known_and_compaction_lowers_it),
        CASE(in_memory_it_has_the_same_abilities),
        CASE(on_disk_it_survives_restarts_in_order),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
