/* SPDX-License-Identifier: Apache-2.0
 *
 * test_attach_clear.c -- maps are cleared, and ranges deleted, beside a thread that attaches tables
 * to them.
 *
 * C1. A map is cleared before a table is attached, or not at all: what hides keys of the table
 *     stays, and the count is exact.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "harness/harness_util.h"

#define TABLE_COUNT 200u /* keys of the table */
#define CLEARED_COUNT 20u

struct clearing {
    km_store *store;
    km_map *map;
    _Atomic int is_over;
    _Atomic uint64_t cleared, refused;
};

static void pause_us(uint64_t us)
{
    struct timespec time = {0, (long)us * 1000};

    nanosleep(&time, NULL);
}

static void build_table(const char *path)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;

    options.keys = KM_SEALED_U64;
    CHECK_STATUS(km_sealed_builder_open(path, &options, &builder, NULL), KM_OK);
    for (uint64_t key = 0; key < TABLE_COUNT; key++)
        CHECK_STATUS(km_sealed_builder_add_number(builder, key, km_bytes_of("table", 5)), KM_OK);
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
}

/* Keys that the table has, too. */
static void put_clearable(struct clearing *clearing)
{
    km_batch *batch = NULL;

    CHECK_STATUS(km_batch_create(clearing->store, &batch), KM_OK);
    for (uint64_t i = 0; i < CLEARED_COUNT; i++) {
        km_u64_key key = km_u64_key_from(i);

        CHECK_STATUS(
            km_batch_put(batch, clearing->map, km_bytes_of(key.bytes, 8), km_bytes_of("x", 1)),
            KM_OK);
    }
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK);
    km_batch_destroy(batch);
}

static void *run_clearing(void *context)
{
    struct clearing *clearing = context;
    static const km_range all = {{NULL, 0}, {NULL, 0}, {NULL, 0}};

    for (uint64_t turn = 0; !atomic_load(&clearing->is_over); turn++) {
        km_status rc = KM_OK;

        put_clearable(clearing);
        while (!rc && !atomic_load(&clearing->is_over)) { /* ends when a table is there */
            rc = turn % 2 ? km_map_clear(clearing->map)
                          : km_del_range(clearing->map, &all, NULL, NULL);
            atomic_fetch_add(rc ? &clearing->refused : &clearing->cleared, 1);
            if (!rc)
                put_clearable(clearing);
        }
        CHECK(rc == KM_OK || rc == KM_E_UNSUPPORTED);
        pause_us(20);
    }
    return NULL;
}

/* With a table that has all keys: those that go and come again are counted once. */
static void check_clearing(struct clearing *clearing, uint64_t key)
{
    uint64_t count = 0;

    CHECK_STATUS(km_del_u64(clearing->map, key, NULL), KM_OK);
    for (int i = 0; i < 50; i++) { /* a change may be under way for a moment */
        count = km_count(clearing->map);
        if (count == TABLE_COUNT - 1)
            break;
        pause_us(20);
    }
    CHECK_MSG(count == TABLE_COUNT - 1, "a count of %llu, not %llu", (unsigned long long)count,
              (unsigned long long)TABLE_COUNT - 1);
    CHECK_STATUS(km_get_u64(clearing->map, key, NULL), KM_NOT_FOUND);
}

static void a_map_is_not_cleared_once_it_has_a_table(void **state)
{
    char folder[HARNESS_PATH_SIZE], store_path[HARNESS_PATH_SIZE], table_path[HARNESS_PATH_SIZE];
    struct clearing clearing = {.store = NULL};
    pthread_t thread;

    (void)state;
    harness_make_fast_folder(folder);
    harness_path(store_path, folder, "store");
    harness_path(table_path, folder, "table");
    build_table(table_path);
    clearing.store = harness_open(store_path, NULL);
    clearing.map = harness_map_of(clearing.store, "cleared", KM_SORTED);
    CHECK(pthread_create(&thread, NULL, run_clearing, &clearing) == 0);
    while (atomic_load(&clearing.cleared) == 0)
        pause_us(50);
    for (uint64_t turn = 0; turn < harness_scaled(300); turn++) {
        uint64_t key = CLEARED_COUNT + turn % (TABLE_COUNT - CLEARED_COUNT);

        CHECK_STATUS(km_attach_sealed(clearing.map, table_path, NULL), KM_OK);
        check_clearing(&clearing, key);
        CHECK_STATUS(km_detach_sealed(clearing.map, NULL), KM_OK);
    }
    atomic_store(&clearing.is_over, 1);
    pthread_join(thread, NULL);
    printf("%llu times cleared, %llu refused\n", (unsigned long long)clearing.cleared,
           (unsigned long long)clearing.refused);
    CHECK_STATUS(km_map_clear(clearing.map), KM_OK);
    CHECK(km_count(clearing.map) == 0);
    harness_close(clearing.store);
    harness_remove(folder);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_map_is_not_cleared_once_it_has_a_table),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
