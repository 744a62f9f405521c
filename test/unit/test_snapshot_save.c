/* SPDX-License-Identifier: Apache-2.0
 *
 * test_snapshot_save.c -- km_snapshot_save, of stores in folders and in memory.
 *
 * S1. What was saved is a store with the maps of the snapshot, their keys, values, times to live
 *     and orders, and nothing else: whatever happened to the store since.
 * S2. Neither of the two ever shows what happens to the other.
 * S3. At the path there is nothing, or a whole store; what lay there before stays.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "harness/harness_util.h"

#define HOUR_MS UINT64_C(3600000)
#define MAP_COUNT 3u
#define VALUE_SIZE 500u

static const km_map_kind kinds[MAP_COUNT] = {KM_HASH, KM_INSERTION, KM_SORTED};
static const char *const names[MAP_COUNT] = {"hash", "insertion", "sorted"};

static struct {
    char folder[HARNESS_PATH_SIZE];
    char path[HARNESS_PATH_SIZE]; /* of the store */
    char saved[HARNESS_PATH_SIZE];
    km_store *store;
    km_map *maps[MAP_COUNT];
} fixture;

static void create_maps(void)
{
    for (unsigned i = 0; i < MAP_COUNT; i++)
        CHECK_STATUS(km_map_open_or_create(fixture.store, km_bytes_of_string(names[i]), kinds[i],
                                           &fixture.maps[i]),
                     KM_OK);
}

static int open_fixture(void **state)
{
    (void)state;
    harness_make_fast_folder(fixture.folder);
    harness_path(fixture.path, fixture.folder, "store");
    harness_path(fixture.saved, fixture.folder, "saved");
    return 0;
}

static int close_fixture(void **state)
{
    (void)state;
    harness_remove(fixture.folder);
    return 0;
}

static void open_store(int is_in_memory)
{
    if (is_in_memory)
        CHECK_STATUS(km_open_memory(NULL, &fixture.store, NULL), KM_OK);
    else
        fixture.store = harness_open(fixture.path, NULL);
    create_maps();
}

static void put(unsigned map, uint64_t key, uint64_t version, uint64_t ttl_ms)
{
    uint8_t value[VALUE_SIZE];
    km_write write = KM_WRITE_INIT;

    write.ttl_ms = ttl_ms;
    harness_value_fill(value, sizeof(value), key, version);
    CHECK_STATUS(km_put_u64(fixture.maps[map], key, km_bytes_of(value, sizeof(value)), &write),
                 KM_OK);
}

/* Keys in an order of their own, some deleted and put again, some with a time to live. */
static void fill(uint64_t count, uint64_t version)
{
    for (unsigned map = 0; map < MAP_COUNT; map++) {
        for (uint64_t i = 0; i < count; i++)
            put(map, i * 7919 % count, version, i % 5 ? 0 : HOUR_MS);
        for (uint64_t i = 0; i < count; i += 3)
            CHECK_STATUS(km_del_u64(fixture.maps[map], i, NULL), KM_OK);
        for (uint64_t i = 0; i < count; i += 9)
            put(map, i, version, 0);
    }
}

/* ---- what a store holds ------------------------------------------------------------------ */

struct summary {
    uint64_t map_count, key_count;
    uint64_t hash; /* of all maps, keys, values, times, and orders */
    km_snapshot *snapshot;
    km_store *store;
};

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;

    for (size_t i = 0; i < size; i++)
        hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static uint64_t sum_up_map(km_map *map, km_map_kind kind, km_snapshot *snapshot,
                           uint64_t *key_count)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;
    km_bytes key, value;
    uint64_t hash = 0;

    options.snapshot = snapshot;
    CHECK_STATUS(km_cursor_open(map, &options, &cursor), KM_OK);
    while (km_cursor_next(cursor, &key, &value) == KM_OK) {
        uint64_t one = kind == KM_HASH ? 0 : hash; /* the order counts, if there is one */
        km_key_info info;

        CHECK_STATUS(km_cursor_info(cursor, &info), KM_OK);
        one = hash_bytes(one, key.data, key.size);
        one = hash_bytes(one, value.data, value.size);
        one = hash_bytes(one, &info.expires_ms, sizeof(info.expires_ms));
        hash = kind == KM_HASH ? hash + one : one;
        ++*key_count;
    }
    km_cursor_close(cursor);
    return hash;
}

static int add_map(void *context, km_map *map, const km_map_info *info)
{
    struct summary *summary = context;
    uint64_t count = 0, hash = sum_up_map(map, info->kind, summary->snapshot, &count);

    CHECK(info->count == count);
    summary->map_count++;
    summary->key_count += count;
    summary->hash = hash_bytes(summary->hash ^ hash, info->name.data, info->name.size) +
                    (uint64_t)info->kind;
    return 0;
}

static int add_listed_map(void *context, const km_map_info *info)
{
    struct summary *summary = context;
    km_map *map = NULL;

    CHECK_STATUS(km_map_open(summary->store, info->name, &map), KM_OK);
    return add_map(context, map, info);
}

static struct summary sum_up_snapshot(km_snapshot *snapshot)
{
    struct summary summary = {.snapshot = snapshot};

    CHECK_STATUS(km_snapshot_map_list(snapshot, add_map, &summary), KM_OK);
    return summary;
}

static struct summary sum_up_store(const char *path, km_open_mode mode)
{
    km_options options = KM_OPTIONS_INIT;
    struct summary summary = {.snapshot = NULL};

    options.mode = mode;
    summary.store = harness_open(path, &options);
    CHECK_STATUS(km_map_list(summary.store, add_listed_map, &summary), KM_OK);
    harness_close(summary.store);
    return summary;
}

static void check_saved(const char *path, const struct summary *expected)
{
    km_error error = {0};
    km_status rc = km_verify(path, NULL, NULL, NULL, &error);

    CHECK_MSG(rc == KM_OK, "km_verify: %s: %s: %s", km_status_name(rc), error.file, error.message);
    for (int mode = 0; mode < 2; mode++) {
        struct summary found = sum_up_store(path, mode ? KM_OPEN_EXISTING : KM_OPEN_READ_ONLY);

        CHECK_MSG(found.map_count == expected->map_count &&
                      found.key_count == expected->key_count && found.hash == expected->hash,
                  "%llu maps, %llu keys; not %llu maps, %llu keys",
                  (unsigned long long)found.map_count, (unsigned long long)found.key_count,
                  (unsigned long long)expected->map_count, (unsigned long long)expected->key_count);
    }
}

static void save(km_snapshot *snapshot, const char *path)
{
    km_error error = {0};
    km_status rc = km_snapshot_save(snapshot, path, NULL, NULL, &error);

    CHECK_MSG(rc == KM_OK, "km_snapshot_save: %s in %s: %s", km_status_name(rc), error.file,
              error.message);
}

static int is_there(const char *path)
{
    struct stat status;

    return lstat(path, &status) == 0;
}

static void check_nothing_left(void)
{
    char beside[HARNESS_PATH_SIZE + 16];

    snprintf(beside, sizeof(beside), "%s.new-backup", fixture.saved);
    CHECK(!is_there(fixture.saved) && !is_there(beside));
}

/* ---- contents: S1, S2 -------------------------------------------------------------------- */

static void change_everything(void)
{
    km_map *map = NULL;

    fill(600, 2);
    CHECK_STATUS(km_map_clear(fixture.maps[0]), KM_OK);
    CHECK_STATUS(km_map_drop(fixture.maps[2]), KM_OK);
    CHECK_STATUS(km_map_create(fixture.store, km_bytes_of_string("later"), KM_SORTED, &map), KM_OK);
    CHECK_STATUS(km_put_u64(map, 1, km_bytes_of_string("later"), NULL), KM_OK);
    CHECK_STATUS(km_map_create(fixture.store, km_bytes_of_string("sorted"), KM_HASH, &map), KM_OK);
    CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
}

static void a_saved_snapshot_has_what_the_snapshot_has(void **state)
{
    (void)state;
    for (int is_in_memory = 0; is_in_memory < 2; is_in_memory++) {
        km_snapshot *snapshot = NULL;
        struct summary expected;

        open_store(is_in_memory);
        fill(500, 1);
        CHECK_STATUS(km_snapshot_open(fixture.store, &snapshot), KM_OK);
        expected = sum_up_snapshot(snapshot);
        CHECK(expected.map_count == MAP_COUNT && expected.key_count > 900);
        change_everything();
        save(snapshot, fixture.saved);
        check_saved(fixture.saved, &expected);
        CHECK(sum_up_snapshot(snapshot).hash == expected.hash);
        km_snapshot_close(snapshot);
        harness_close(fixture.store);
        check_saved(fixture.saved, &expected); /* the store has let its segments go */
        harness_remove(fixture.saved);
    }
}

/* The maps' own records have left the log, and one map was dropped in it before the snapshot. */
static void maps_from_before_the_head_are_saved(void **state)
{
    km_snapshot *snapshot = NULL;
    struct summary expected;
    km_map *map = NULL;

    (void)state;
    open_store(0);
    CHECK_STATUS(km_map_create(fixture.store, km_bytes_of_string("gone"), KM_SORTED, &map), KM_OK);
    fill(200, 1);
    CHECK_STATUS(km_put_u64(map, 1, km_bytes_of_string("gone"), NULL), KM_OK);
    CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
    harness_close(fixture.store);
    open_store(0);
    CHECK_STATUS(km_map_open(fixture.store, km_bytes_of_string("gone"), &map), KM_OK);
    CHECK_STATUS(km_put_u64(map, 2, km_bytes_of_string("gone"), NULL), KM_OK);
    CHECK_STATUS(km_map_drop(map), KM_OK);
    CHECK_STATUS(km_snapshot_open(fixture.store, &snapshot), KM_OK);
    expected = sum_up_snapshot(snapshot);
    CHECK(expected.map_count == MAP_COUNT);
    change_everything();
    CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
    save(snapshot, fixture.saved);
    check_saved(fixture.saved, &expected);
    km_snapshot_close(snapshot);
    harness_close(fixture.store);
}

/* An id that is free in the snapshot, and given out since, must not come from a record. */
static void a_saved_store_goes_on_by_itself(void **state)
{
    (void)state;
    for (int is_in_memory = 0; is_in_memory < 2; is_in_memory++) {
        km_snapshot *snapshot = NULL;
        struct summary expected;
        km_store *store;
        km_map *map = NULL;

        open_store(is_in_memory);
        fill(100, 1);
        CHECK_STATUS(km_snapshot_open(fixture.store, &snapshot), KM_OK);
        expected = sum_up_snapshot(snapshot);
        change_everything();
        save(snapshot, fixture.saved);
        store = harness_open(fixture.saved, NULL);
        CHECK_STATUS(km_map_create(store, km_bytes_of_string("own"), KM_HASH, &map), KM_OK);
        CHECK_STATUS(km_put_u64(map, 1, km_bytes_of_string("own"), NULL), KM_OK);
        CHECK_STATUS(km_map_open(store, km_bytes_of_string("sorted"), &map), KM_OK);
        CHECK_STATUS(km_map_clear(map), KM_OK);
        CHECK_STATUS(km_compact(store, NULL, NULL, NULL), KM_OK);
        harness_close(store);
        CHECK_STATUS(km_verify(fixture.saved, NULL, NULL, NULL, NULL), KM_OK);
        CHECK(sum_up_snapshot(snapshot).hash == expected.hash);
        km_snapshot_close(snapshot);
        harness_close(fixture.store);
        harness_remove(fixture.saved);
    }
}

static void several_snapshots_are_saved_each_as_it_is(void **state)
{
    km_snapshot *snapshots[4];
    struct summary expected[4];

    (void)state;
    open_store(0);
    for (uint64_t i = 0; i < 4; i++) {
        fill(150 + 50 * i, i + 1);
        CHECK_STATUS(km_snapshot_open(fixture.store, &snapshots[i]), KM_OK);
        expected[i] = sum_up_snapshot(snapshots[i]);
    }
    change_everything();
    for (unsigned i = 4; i-- > 0;) {
        save(snapshots[i], fixture.saved);
        check_saved(fixture.saved, &expected[i]);
        harness_remove(fixture.saved);
        km_snapshot_close(snapshots[i]);
    }
    harness_close(fixture.store);
}

/* Full segments take no room of their own. */
static void full_segments_are_linked(void **state)
{
    km_snapshot *snapshot = NULL;
    unsigned shared = 0;

    (void)state;
    open_store(0);
    fill(800, 1);
    CHECK_STATUS(km_snapshot_open(fixture.store, &snapshot), KM_OK);
    fill(800, 2);
    save(snapshot, fixture.saved);
    for (unsigned number = 1; number < 20; number++) {
        char name[64], path[HARNESS_PATH_SIZE];
        struct stat status;

        snprintf(name, sizeof(name), "log/%08x.segment", number);
        harness_path(path, fixture.saved, name);
        shared += stat(path, &status) == 0 && status.st_nlink == 2;
    }
    CHECK(shared >= 3);
    km_snapshot_close(snapshot);
    harness_close(fixture.store);
}

static void an_empty_store_is_saved(void **state)
{
    (void)state;
    for (int is_in_memory = 0; is_in_memory < 2; is_in_memory++) {
        km_snapshot *snapshot = NULL;
        struct summary expected;

        if (is_in_memory)
            CHECK_STATUS(km_open_memory(NULL, &fixture.store, NULL), KM_OK);
        else
            fixture.store = harness_open(fixture.path, NULL);
        CHECK_STATUS(km_snapshot_open(fixture.store, &snapshot), KM_OK);
        expected = sum_up_snapshot(snapshot);
        create_maps();
        save(snapshot, fixture.saved);
        check_saved(fixture.saved, &expected);
        km_snapshot_close(snapshot);
        harness_close(fixture.store);
        harness_remove(fixture.saved);
    }
}

static void a_store_that_is_open_for_reading_is_saved(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    km_snapshot *snapshot = NULL;
    struct summary expected;

    (void)state;
    open_store(0);
    fill(300, 1);
    harness_close(fixture.store);
    options.mode = KM_OPEN_READ_ONLY;
    fixture.store = harness_open(fixture.path, &options);
    CHECK_STATUS(km_snapshot_open(fixture.store, &snapshot), KM_OK);
    expected = sum_up_snapshot(snapshot);
    save(snapshot, fixture.saved);
    check_saved(fixture.saved, &expected);
    km_snapshot_close(snapshot);
    harness_close(fixture.store);
}

/* ---- refusals: S3 ------------------------------------------------------------------------ */

struct stop {
    uint64_t calls, last, total;
    uint64_t stop_at;
};

static int maybe_stop(void *context, uint64_t done, uint64_t total)
{
    struct stop *stop = context;

    CHECK(done >= stop->last && (stop->total == 0 || total == stop->total));
    stop->last = done;
    stop->total = total;
    return stop->calls++ == stop->stop_at;
}

static void stopped_it_leaves_nothing(void **state)
{
    (void)state;
    for (int is_in_memory = 0; is_in_memory < 2; is_in_memory++) {
        km_snapshot *snapshot = NULL;
        km_error error = {0};
        struct stop never = {0, 0, 0, UINT64_MAX};

        open_store(is_in_memory);
        fill(1500, 1);
        CHECK_STATUS(km_snapshot_open(fixture.store, &snapshot), KM_OK);
        for (uint64_t at = 0; at < 2; at++) {
            struct stop stop = {0, 0, 0, at};

            CHECK_STATUS(km_snapshot_save(snapshot, fixture.saved, maybe_stop, &stop, &error),
                         KM_STOPPED);
            CHECK(error.status == KM_STOPPED);
            check_nothing_left();
        }
        CHECK_STATUS(km_snapshot_save(snapshot, fixture.saved, maybe_stop, &never, &error), KM_OK);
        CHECK(never.calls > 2 && never.last <= never.total && never.last > never.total / 2);
        km_snapshot_close(snapshot);
        harness_close(fixture.store);
        harness_remove(fixture.saved);
    }
}

static void what_is_there_stays(void **state)
{
    char path[HARNESS_PATH_SIZE];

    (void)state;
    CHECK(mkdir(fixture.saved, 0700) == 0);
    for (int is_in_memory = 0; is_in_memory < 2; is_in_memory++) {
        km_snapshot *snapshot = NULL;
        km_reader *reader = NULL;
        km_error error = {0};

        open_store(is_in_memory);
        fill(10, 1);
        CHECK_STATUS(km_snapshot_open(fixture.store, &snapshot), KM_OK);
        CHECK_STATUS(km_snapshot_save(snapshot, fixture.saved, NULL, NULL, &error), KM_EXISTS);
        CHECK(error.status == KM_EXISTS && error.message[0]);
        CHECK_STATUS(km_snapshot_save(snapshot, "", NULL, NULL, NULL), KM_E_INVALID);
        harness_path(path, fixture.folder, "nowhere/saved");
        CHECK_STATUS(km_snapshot_save(snapshot, path, NULL, NULL, NULL), KM_E_INVALID);
        CHECK_STATUS(km_read_begin(fixture.store, &reader), KM_OK);
        harness_path(path, fixture.folder, "other");
        CHECK_STATUS(km_snapshot_save(snapshot, path, NULL, NULL, NULL), KM_WOULD_BLOCK);
        km_read_end(reader);
        CHECK(!is_there(path));
        km_snapshot_close(snapshot);
        harness_close(fixture.store);
    }
    CHECK(rmdir(fixture.saved) == 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_fixture, close_fixture)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CASE(a_saved_snapshot_has_what_the_snapshot_has),
        CASE(maps_from_before_the_head_are_saved),
        CASE(a_saved_store_goes_on_by_itself),
        CASE(several_snapshots_are_saved_each_as_it_is),
        CASE(full_segments_are_linked),
        CASE(an_empty_store_is_saved),
        CASE(a_store_that_is_open_for_reading_is_saved),
        CASE(stopped_it_leaves_nothing),
        CASE(what_is_there_stays),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
