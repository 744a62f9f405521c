/* SPDX-License-Identifier: Apache-2.0
 *
 * test_seal.c -- km_seal and km_load_sealed: maps become tables, and tables go into maps.
 *
 * S1. A table has what the map has, or had in the snapshot, and nothing else; whatever changes
 *     meanwhile.
 * S2. If it fails nothing appears, and what was there stays.
 * S3. A map that a table is loaded into has all of its records, and what else it had. What is there
 *     after a stop, or an error, is a beginning of the table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>

#include "unit/test_attach_util.h"

#define KIND_COUNT 3u
#define LARGE_SIZE (3u << 20)

static const km_map_kind all_kinds[KIND_COUNT] = {KM_HASH, KM_INSERTION, KM_SORTED};

static km_map *map_of_kind(const char *name, km_map_kind kind)
{
    km_map *map = NULL;

    CHECK_STATUS(km_map_open_or_create(world.store, km_bytes_of_string(name), kind, &map), KM_OK);
    return map;
}

static const char *path_of(const char *name)
{
    static char path[HARNESS_PATH_SIZE];

    world_path(path, name);
    return path;
}

static km_sealed *open_table(const char *name)
{
    km_sealed *table = NULL;

    CHECK_STATUS(km__sealed_open(world.os, path_of(name), NULL, &table, NULL), KM_OK);
    return table;
}

/* A map and a table hold the same; the map is not in the order of a table. */
static void check_same(const km_sealed *table, km_map *map, km_snapshot *snapshot)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;
    km_buffer buffer = KM_BUFFER_INIT;
    km_bytes key, value;
    uint64_t count = 0;
    km_status rc;

    options.snapshot = snapshot;
    CHECK_STATUS(km_cursor_open(map, &options, &cursor), KM_OK);
    for (; (rc = km_cursor_next(cursor, &key, &value)) == KM_OK; count++) {
        CHECK_STATUS(km_sealed_get(table, key, &buffer), KM_OK);
        CHECK(buffer.size == value.size &&
              (value.size == 0 || memcmp(buffer.data, value.data, value.size) == 0));
    }
    CHECK_STATUS(rc, KM_END);
    CHECK_MSG(count == km_sealed_count(table), "%llu keys, and %llu in the table",
              (unsigned long long)count, (unsigned long long)km_sealed_count(table));
    km_cursor_close(cursor);
    km_buffer_free(&buffer);
}

/* Keys and values from nothing to the largest, in an order of their own. */
static void fill(km_map *map)
{
    uint8_t *bytes = malloc(LARGE_SIZE);

    CHECK(bytes != NULL);
    harness_fill(bytes, LARGE_SIZE, 5);
    for (uint32_t i = 0; i < 3000; i++)
        put(map, i * 7919 % 3000, "own");
    for (uint32_t i = 0; i < 3000; i += 10)
        del(map, i);
    CHECK_STATUS(km_put(map, km_bytes_of("", 0), key_of(1), NULL), KM_OK);
    CHECK_STATUS(km_put(map, key_of(9001), km_bytes_of("", 0), NULL), KM_OK);
    CHECK_STATUS(km_put(map, km_bytes_of(bytes, KM_KEY_SIZE_MAX), key_of(2), NULL), KM_OK);
    CHECK_STATUS(km_put(map, key_of(9002), km_bytes_of(bytes, LARGE_SIZE), NULL), KM_OK);
    CHECK_STATUS(km_put(map, key_of(9003), km_bytes_of(bytes, 300000), NULL), KM_OK);
    CHECK_STATUS(km_put(map, key_of(9004), km_bytes_of(bytes, 200000), NULL), KM_OK);
    CHECK_STATUS(km_put(map, key_of(9005), km_bytes_of(bytes, 200000), NULL), KM_OK);
    free(bytes);
}

static void seal(km_map *map, km_snapshot *snapshot, const char *name)
{
    km_error error = {KM_OK, 0, 0, "", ""};
    km_status rc = km_seal(map, snapshot, path_of(name), NULL, &error);

    CHECK_MSG(rc == KM_OK, "km_seal: %s: %s", km_status_name(rc), error.message);
}

static int is_there(const char *name)
{
    return access(path_of(name), F_OK) == 0;
}

/* ---- seal: S1 ------------------------------------------------------------------------------ */

static void maps_of_every_kind_go_round(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < KIND_COUNT * KIND_COUNT; i++) {
        km_map_kind from = all_kinds[i / KIND_COUNT], to = all_kinds[i % KIND_COUNT];
        char name[TEXT_SIZE];
        km_sealed *table;
        km_map *map;

        snprintf(name, sizeof(name), "from %u", (unsigned)from);
        map = map_of_kind(name, from);
        if (km_count(map) == 0)
            fill(map);
        seal(map, NULL, "whole.table");
        table = open_table("whole.table");
        check_same(table, map, NULL);
        snprintf(name, sizeof(name), "from %u to %u", (unsigned)from, (unsigned)to);
        map = map_of_kind(name, to);
        CHECK_STATUS(km_load_sealed(map, table, NULL, NULL), KM_OK);
        check_same(table, map, NULL);
        CHECK_STATUS(km_load_sealed(map, table, NULL, NULL), KM_OK); /* over itself */
        check_same(table, map, NULL);
        km_sealed_close(table);
    }
}

static void stores_in_memory_are_sealed_too(void **state)
{
    km_sealed *table;

    (void)state;
    harness_close(world.store);
    world.is_in_memory = 1;
    open_world_store(KM_OPEN_OR_CREATE);
    fill(world.maps[0]);
    seal(world.maps[0], NULL, "memory.table");
    table = open_table("memory.table");
    check_same(table, world.maps[0], NULL);
    CHECK_STATUS(km_load_sealed(world.maps[1], table, NULL, NULL), KM_OK);
    check_same(table, world.maps[1], NULL);
    km_sealed_close(table);
}

static void an_empty_map_is_an_empty_table(void **state)
{
    km_sealed *table;

    (void)state;
    seal(world.maps[0], NULL, "empty.table");
    table = open_table("empty.table");
    CHECK(km_sealed_count(table) == 0);
    CHECK_STATUS(km_load_sealed(world.maps[1], table, NULL, NULL), KM_OK);
    CHECK(km_count(world.maps[1]) == 0);
    km_sealed_close(table);
    attach(world.maps[1], path_of("empty.table"));
    check_count(world.maps[1], 0);
}

static void what_has_expired_is_left_out(void **state)
{
    km_write write = KM_WRITE_INIT;
    km_sealed *table;

    (void)state;
    put(world.maps[1], 1, "own");
    write.ttl_ms = 1000;
    CHECK_STATUS(km_put(world.maps[1], key_of(2), key_of(2), &write), KM_OK);
    write.ttl_ms = 100000;
    CHECK_STATUS(km_put(world.maps[1], key_of(3), key_of(3), &write), KM_OK);
    km__sim_advance(world.os, 2 * SECOND_NS);
    seal(world.maps[1], NULL, "rest.table");
    table = open_table("rest.table");
    CHECK(km_sealed_count(table) == 2);
    CHECK_STATUS(km_sealed_contains(table, key_of(2)), KM_NOT_FOUND);
    CHECK_STATUS(km_sealed_contains(table, key_of(3)), KM_OK);
    km_sealed_close(table);
}

/* A map and its tables become one, which takes their place. */
static void attached_tables_are_sealed_with_the_map(void **state)
{
    (void)state;
    attach_to_all("low", 0, 100);
    attach_to_all("high", 50, 200);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        km_map *map = world.maps[i];
        km_sealed *table;

        for (uint32_t key = 0; key < 300; key += 10)
            put(map, key, "own");
        for (uint32_t key = 5; key < 200; key += 10)
            del(map, key);
        check_count(map, 190);
        seal(map, NULL, "joined.table");
        table = open_table("joined.table");
        check_same(table, map, NULL);
        km_sealed_close(table);
        CHECK_STATUS(km_detach_sealed(map, NULL), KM_OK);
        CHECK_STATUS(km_map_clear(map), KM_OK);
        attach(map, "joined.table");
        check_key(map, 0, "own");
        check_key(map, 5, NULL);
        check_key(map, 6, "low");
        check_key(map, 56, "high");
        check_count(map, 190);
    }
}

static _Atomic int is_sealed;

static void *change_beside(void *context)
{
    km_map *map = context;

    for (uint32_t i = 0; !atomic_load_explicit(&is_sealed, memory_order_acquire); i++) {
        CHECK_STATUS(km_put(map, km_bytes_of(&i, 4), km_bytes_of(&i, 4), NULL), KM_OK);
        if (i % 3 == 0)
            CHECK(km_del(map, km_bytes_of(&i, 4), NULL) >= KM_OK); /* a clear may come between */
    }
    return NULL;
}

static void a_snapshot_is_sealed_as_it_was(void **state)
{
    km_snapshot *snapshot = NULL;
    pthread_t thread;

    (void)state;
    harness_close(world.store);
    world.store = harness_open(world.path, NULL); /* with its threads */
    for (uint32_t i = 0; i < KIND_COUNT; i++) {
        km_map *map = map_of_kind("a map", all_kinds[i]);
        km_sealed *table;

        fill(map);
        CHECK_STATUS(km_snapshot_open(world.store, &snapshot), KM_OK);
        atomic_store_explicit(&is_sealed, 0, memory_order_release); /* flag alone */
        CHECK(pthread_create(&thread, NULL, change_beside, map) == 0);
        CHECK_STATUS(km_map_clear(map), KM_OK);
        seal(map, NULL, "now.table"); /* some moment of it */
        seal(map, snapshot, "then.table");
        atomic_store_explicit(&is_sealed, 1, memory_order_release); /* flag alone */
        CHECK(pthread_join(thread, NULL) == 0);
        table = open_table("then.table");
        CHECK(km_sealed_count(table) == 2707);
        check_same(table, map, snapshot);
        km_sealed_close(table);
        table = open_table("now.table");
        CHECK_STATUS(km_sealed_contains(table, key_of(9002)), KM_NOT_FOUND);
        km_sealed_close(table);
        km_snapshot_close(snapshot);
        CHECK_STATUS(km_map_drop(map), KM_OK);
    }
}

static void keys_may_be_numbers(void **state)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_error error = {KM_OK, 0, 0, "", ""};
    km_buffer value = KM_BUFFER_INIT;
    km_sealed *table;

    (void)state;
    options.keys = KM_SEALED_U64;
    for (uint64_t i = 0; i < 1000; i++)
        CHECK_STATUS(km_put_u64(world.maps[0], i * i, km_bytes_of(&i, 8), NULL), KM_OK);
    CHECK_STATUS(km_seal(world.maps[0], NULL, path_of("numbers.table"), &options, NULL), KM_OK);
    table = open_table("numbers.table");
    CHECK_STATUS(km_sealed_get_number(table, 49, &value), KM_OK);
    CHECK(value.size == 8 && *(uint64_t *)value.data == 7);
    check_same(table, world.maps[0], NULL);
    km_sealed_close(table);
    km_buffer_free(&value);
    CHECK_STATUS(km_put(world.maps[0], km_bytes_of("four", 4), key_of(1), NULL), KM_OK);
    CHECK_STATUS(km_seal(world.maps[0], NULL, path_of("other.table"), &options, &error),
                 KM_E_INVALID);
    CHECK(strstr(error.message, "width") && !is_there("other.table"));
    options.keys = KM_SEALED_U8; /* what is there stays */
    CHECK_STATUS(km_seal(world.maps[0], NULL, path_of("numbers.table"), &options, NULL),
                 KM_E_INVALID);
    table = open_table("numbers.table");
    CHECK(km_sealed_count(table) == 1000);
    km_sealed_close(table);
}

/* ---- seal: S2 ------------------------------------------------------------------------------ */

static int stop_at(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    (void)total_bytes;
    return done_bytes >= *(const uint64_t *)context;
}

static uint32_t files_in_folder(void)
{
    DIR *dir = opendir(world.folder);
    uint32_t count = 0;

    CHECK(dir != NULL);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void who_stops_it_finds_nothing(void **state)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    uint64_t limit = 100000;
    km_error error = {KM_OK, 0, 0, "", ""};
    uint32_t files;

    (void)state;
    fill(world.maps[1]);
    options.progress = stop_at;
    options.progress_context = &limit;
    files = files_in_folder();
    CHECK_STATUS(km_seal(world.maps[1], NULL, path_of("stopped.table"), &options, &error),
                 KM_STOPPED);
    CHECK(error.status == KM_STOPPED && strstr(error.message, "callback")); /* the build's own */
    CHECK(!is_there("stopped.table") && files_in_folder() == files);
}

static void paths_that_cannot_be_are_told(void **state)
{
    km_error error = {KM_OK, 0, 0, "", ""};
    km_snapshot *snapshot = NULL;
    km_store *other = NULL;
    uint32_t files = files_in_folder();

    (void)state;
    put(world.maps[0], 1, "own");
    CHECK_STATUS(km_seal(world.maps[0], NULL, path_of("nowhere/x.table"), NULL, &error),
                 KM_NOT_FOUND);
    CHECK(error.status == KM_NOT_FOUND && error.message[0]);
    CHECK_STATUS(km_seal(world.maps[0], NULL, world.path, NULL, &error), KM_E_INVALID);
    CHECK(error.status == KM_E_INVALID && error.message[0]);
    CHECK_STATUS(km_open_memory(NULL, &other, NULL), KM_OK);
    CHECK_STATUS(km_snapshot_open(other, &snapshot), KM_OK);
    CHECK_STATUS(km_seal(world.maps[0], snapshot, path_of("x.table"), NULL, &error),
                 KM_E_INVALID); /* of another store */
    CHECK(error.status == KM_E_INVALID && !strstr(error.message, "width"));
    km_snapshot_close(snapshot);
    harness_close(other);
    CHECK_STATUS(km_map_drop(world.maps[0]), KM_OK);
    CHECK_STATUS(km_seal(world.maps[0], NULL, path_of("x.table"), NULL, &error), KM_E_DROPPED);
    CHECK(files_in_folder() == files);
}

static int has_file(struct os *os, const char *path)
{
    uint8_t *bytes = NULL;
    size_t size;
    int found = km__sim_read_path(os, path, &bytes, &size) == 0;

    if (found)
        free(bytes);
    return found;
}

/* Whichever call of the machine, or allocation, fails. */
static void what_fails_leaves_nothing(void **state)
{
    km_error error = {KM_OK, 0, 0, "", ""};
    uint64_t calls;

    (void)state;
    for (uint32_t key = 0; key < 2000; key++)
        put(world.maps[1], key, "own");
    calls = km__sim_call_count(world.os, SIM_ANY);
    seal(world.maps[1], NULL, "whole.table");
    calls = km__sim_call_count(world.os, SIM_ANY) - calls;
    for (uint64_t n = 1; n <= calls; n++) {
        km_status rc;

        km__sim_fail_call(world.os, SIM_ANY, n, KM_E_FULL, 28);
        rc = km_seal(world.maps[1], NULL, "part.table", NULL, &error);
        km__sim_clear_faults(world.os);
        CHECK(rc == KM_OK || (rc < 0 && error.status == rc && error.message[0]));
        if (has_file(world.os, "part.table")) { /* what failed did no harm, or was the last step */
            km_sealed *table = open_table("part.table");

            check_same(table, world.maps[1], NULL);
            km_sealed_close(table);
            CHECK(km__sim_delete_path(world.os, "part.table") == 0);
        } else {
            CHECK(rc != KM_OK);
        }
    }
    for (uint64_t n = 1;; n++) {
        km_status rc;

        km__sim_fail_allocation(world.os, n);
        rc = km_seal(world.maps[1], NULL, "part.table", NULL, &error);
        km__sim_fail_allocation(world.os, 0);
        CHECK(has_file(world.os, "part.table") == (rc == KM_OK));
        if (rc == KM_OK)
            break;
        CHECK_STATUS(rc, KM_E_NO_MEMORY);
    }
}

/* ---- load: S3 ------------------------------------------------------------------------------ */

static void what_a_map_has_besides_stays(void **state)
{
    (void)state;
    build("table", 100, 200);
    for (uint32_t i = 0; i < KIND_COUNT; i++) {
        km_map *map = map_of_kind(i == 0 ? "a" : i == 1 ? "b" : "c", all_kinds[i]);
        km_sealed *table = open_table("table.table");

        for (uint32_t key = 0; key < 150; key++)
            put(map, key, "own");
        CHECK_STATUS(km_load_sealed(map, table, NULL, NULL), KM_OK);
        check_keys(map, 0, 100, "own");
        check_keys(map, 100, 200, "table");
        check_count(map, 200);
        km_sealed_close(table);
    }
}

/* Into a map over a table that has some of the keys, hidden or not. */
static void what_is_loaded_goes_before_tables(void **state)
{
    (void)state;
    attach_to_all("under", 0, 150);
    build("table", 100, 200);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        km_sealed *table = open_table("table.table");

        for (uint32_t key = 50; key < 120; key++)
            del(world.maps[i], key);
        CHECK_STATUS(km_load_sealed(world.maps[i], table, NULL, NULL), KM_OK);
        check_keys(world.maps[i], 0, 50, "under");
        check_keys(world.maps[i], 50, 100, NULL);
        check_keys(world.maps[i], 100, 200, "table");
        check_count(world.maps[i], 150);
        km_sealed_close(table);
    }
}

struct load_watch {
    uint64_t calls, stop_at, last, total;
};

static int watch_load(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    struct load_watch *watch = context;

    CHECK(done_bytes >= watch->last && done_bytes <= total_bytes);
    CHECK(!watch->total || total_bytes == watch->total);
    watch->last = done_bytes;
    watch->total = total_bytes;
    return ++watch->calls == watch->stop_at;
}

static void who_stops_a_load_has_its_beginning(void **state)
{
    struct load_watch watch = {0, 3, 0, 0};
    km_sealed *table;
    uint32_t count;

    (void)state;
    build("table", 0, 60000);
    table = open_table("table.table");
    CHECK_STATUS(km_load_sealed(world.maps[1], table, watch_load, &watch), KM_STOPPED);
    count = (uint32_t)km_count(world.maps[1]);
    CHECK(watch.calls == 3 && count > 0 && count < 60000);
    check_keys(world.maps[1], 0, count, "table");
    check_count(world.maps[1], count);
    watch = (struct load_watch){0, 0, 0, 0};
    CHECK_STATUS(km_load_sealed(world.maps[1], table, watch_load, &watch), KM_OK);
    CHECK(watch.calls > 3 && watch.last == watch.total);
    check_count(world.maps[1], 60000);
    km_sealed_close(table);
}

/* Of small records batches are small enough, whatever the store takes. */
static void small_batches_are_enough(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    km_sealed *table;

    (void)state;
    build("table", 0, 20000);
    harness_close(world.store);
    options.batch_size_max = 64u << 10;
    world.store = harness_open(world.path, &options);
    world.maps[0] = harness_map(world.store, world_names[0]);
    table = open_table("table.table");
    CHECK_STATUS(km_load_sealed(world.maps[0], table, NULL, NULL), KM_OK);
    check_count(world.maps[0], 20000);
    km_sealed_close(table);
}

static void a_store_for_reading_takes_nothing(void **state)
{
    km_sealed *table;

    (void)state;
    build("table", 0, 10);
    table = open_table("table.table");
    put(world.maps[0], 1, "own");
    harness_close(world.store);
    CHECK_STATUS(try_open(KM_OPEN_READ_ONLY, &world.store, NULL), KM_OK);
    CHECK_STATUS(km_map_open(world.store, km_bytes_of_string("hash"), &world.maps[0]), KM_OK);
    CHECK_STATUS(km_load_sealed(world.maps[0], table, NULL, NULL), KM_E_READ_ONLY);
    km_sealed_close(table);
    seal(world.maps[0], NULL, "read.table"); /* it can be sealed */
    table = open_table("read.table");
    check_same(table, world.maps[0], NULL);
    km_sealed_close(table);
}

#define ON_SIM(name) cmocka_unit_test_setup_teardown(name, open_sim, close_world)
#define ON_DISK(name) cmocka_unit_test_setup_teardown(name, open_real, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DISK(maps_of_every_kind_go_round),
        ON_DISK(stores_in_memory_are_sealed_too),
        ON_SIM(an_empty_map_is_an_empty_table),
        ON_SIM(what_has_expired_is_left_out),
        ON_SIM(attached_tables_are_sealed_with_the_map),
        ON_DISK(a_snapshot_is_sealed_as_it_was),
        ON_DISK(keys_may_be_numbers),
        ON_DISK(who_stops_it_finds_nothing),
        ON_DISK(paths_that_cannot_be_are_told),
        ON_SIM(what_fails_leaves_nothing),
        ON_SIM(what_a_map_has_besides_stays),
        ON_SIM(what_is_loaded_goes_before_tables),
        ON_DISK(who_stops_a_load_has_its_beginning),
        ON_DISK(small_batches_are_enough),
        ON_DISK(a_store_for_reading_takes_nothing),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
