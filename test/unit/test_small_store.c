/* SPDX-License-Identifier: Apache-2.0
 *
 * test_small_store.c -- small stores stay small: on disk, in memory, and in time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/harness_util.h"

#define MIB (UINT64_C(1) << 20)

static char path[HARNESS_PATH_SIZE];

static int make_folder(void **state)
{
    (void)state;
    harness_make_folder(path);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    harness_remove(path);
    return 0;
}

/* Anonymous memory of this process that is resident. */
static uint64_t resident_bytes(void)
{
    unsigned long size = 0, resident = 0, shared = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    CHECK(file && fscanf(file, "%lu %lu %lu", &size, &resident, &shared) == 3);
    fclose(file);
    return (uint64_t)(resident - shared) * 4096;
}

static void check_disk(const char *what, uint64_t limit)
{
    uint64_t bytes = harness_disk_bytes(path);

    printf("%s: %llu KiB on disk\n", what, (unsigned long long)bytes / 1024);
    CHECK(bytes > 0 && bytes < limit);
}

static void put_many(km_map *map, uint64_t count, size_t value_size)
{
    uint8_t value[256];

    for (uint64_t key = 0; key < count; key++) {
        harness_value_fill(value, value_size, key, 1);
        CHECK_STATUS(km_put_u64(map, key, km_bytes_of(value, value_size), NULL), KM_OK);
    }
}

static void a_new_store_takes_less_than_a_mebibyte(void **state)
{
    km_store *store = harness_open(path, NULL);

    (void)state;
    check_disk("new, open", MIB);
    put_many(harness_map(store, "map"), 10, 40);
    check_disk("10 records, open", MIB);
    harness_close(store);
    check_disk("10 records, closed", MIB);
}

static void ten_thousand_records_take_less_than_four_mebibytes(void **state)
{
    km_stats stats = {.struct_size = sizeof(stats)};
    km_store *store = harness_open(path, NULL);

    (void)state;
    put_many(harness_map(store, "map"), 10000, 52); /* 60 bytes with the key */
    check_disk("10,000 records, open", 4 * MIB);
    CHECK_STATUS(km_store_stats(store, &stats), KM_OK);
    CHECK(stats.live_bytes < 1 * MIB && stats.index_bytes < 1 * MIB &&
          stats.memory_bytes < 4 * MIB);
    harness_close(store);
    check_disk("10,000 records, closed", 4 * MIB);
}

static void overwriting_and_reopening_a_small_store_keeps_it_small(void **state)
{
    (void)state;
    for (int round = 0; round < 50; round++) {
        km_store *store = harness_open(path, NULL);

        put_many(harness_map(store, "map"), 5, 40);
        harness_close(store);
    }
    check_disk("50 sessions", MIB);
}

static void opening_a_small_store_is_fast(void **state)
{
    km_store *store = harness_open(path, NULL);
    uint64_t best = UINT64_MAX;

    (void)state;
    put_many(harness_map(store, "map"), 10000, 52);
    harness_close(store);
    for (int round = 0; round < 20; round++) {
        uint64_t begin = harness_now_ns(), took;

        store = harness_open(path, NULL);
        CHECK_STATUS(km_get_u64(harness_map(store, "map"), 7, NULL), KM_OK);
        harness_close(store);
        took = harness_now_ns() - begin;
        best = took < best ? took : best;
    }
    printf("open, get, close: %llu us at best\n", (unsigned long long)best / 1000);
    CHECK(best < UINT64_C(100000000)); /* far more than it takes: machines differ */
}

static void check_maps(km_store *store, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        km_buffer buffer = KM_BUFFER_INIT;
        char name[32];
        km_map *map = NULL;

        snprintf(name, sizeof(name), "map %llu", (unsigned long long)i);
        CHECK_STATUS(km_map_open(store, km_bytes_of_string(name), &map), KM_OK);
        CHECK(km_count(map) == 3);
        for (uint64_t key = i; key < i + 3; key++) {
            CHECK_STATUS(km_get_u64(map, key, &buffer), KM_OK);
            CHECK(harness_value_version(km_bytes_of(buffer.data, buffer.size), key) == i);
        }
        km_buffer_free(&buffer);
    }
}

static void a_thousand_maps_stay_within_bounds(void **state)
{
    uint64_t before = resident_bytes(), after;
    km_stats stats = {.struct_size = sizeof(stats)};
    km_store *store = harness_open(path, NULL);
    uint8_t value[40];

    (void)state;
    for (uint64_t i = 0; i < 1000; i++) {
        char name[32];
        km_map *map;

        snprintf(name, sizeof(name), "map %llu", (unsigned long long)i);
        map = harness_map(store, name);
        for (uint64_t key = i; key < i + 3; key++) {
            harness_value_fill(value, sizeof(value), key, i);
            CHECK_STATUS(km_put_u64(map, key, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
        }
    }
    check_maps(store, 1000);
    after = resident_bytes();
    CHECK_STATUS(km_store_stats(store, &stats), KM_OK);
    printf("1,000 maps: %llu KiB resident, %llu KiB of indexes\n",
           (unsigned long long)(after - before) / 1024,
           (unsigned long long)stats.index_bytes / 1024);
    CHECK(after - before < 128 * MIB && stats.map_count == 1000);
    check_disk("1,000 maps", 4 * MIB);
    harness_close(store);
    store = harness_open(path, NULL);
    check_maps(store, 1000);
    harness_close(store);
}

/* Maps that were dropped give their memory back, and their number is not used up by names. */
static void maps_made_and_dropped_leave_little(void **state)
{
    km_store *store = harness_open(path, NULL);
    uint64_t before = 0;

    (void)state;
    for (int round = 0; round < 2000; round++) {
        km_map *map = harness_map(store, "temporary");

        CHECK_STATUS(km_put_u64(map, 1, km_bytes_of_string("x"), NULL), KM_OK);
        CHECK_STATUS(km_map_drop(map), KM_OK);
        if (round == 200)
            before = resident_bytes();
    }
    printf("1,800 dropped maps: %lld KiB\n",
           ((long long)resident_bytes() - (long long)before) / 1024);
    CHECK(resident_bytes() < before + 128 * MIB);
    harness_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_new_store_takes_less_than_a_mebibyte, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(ten_thousand_records_take_less_than_four_mebibytes,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(overwriting_and_reopening_a_small_store_keeps_it_small,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(opening_a_small_store_is_fast, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_thousand_maps_stay_within_bounds, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(maps_made_and_dropped_leave_little, make_folder,
                                        remove_folder),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
