/* SPDX-License-Identifier: Apache-2.0
 *
 * test_batch.c -- batches: all or nothing, the last change of a key wins, limits, reuse.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "harness/harness_util.h"

static struct {
    char path[HARNESS_PATH_SIZE];
    km_options options;
    km_store *store;
    km_map *map, *other;
    km_batch *batch;
} fixture;

static void open_store(void)
{
    fixture.store = harness_open(fixture.path, &fixture.options);
    fixture.map = harness_map(fixture.store, "map");
    fixture.other = harness_map(fixture.store, "other");
    CHECK_STATUS(km_batch_create(fixture.store, &fixture.batch), KM_OK);
}

static void reopen(void)
{
    km_batch_destroy(fixture.batch);
    harness_close(fixture.store);
    open_store();
}

static int open_fixture(void **state)
{
    static const km_options init = KM_OPTIONS_INIT;

    (void)state;
    harness_make_folder(fixture.path);
    fixture.options = init;
    open_store();
    return 0;
}

static int close_fixture(void **state)
{
    (void)state;
    km_batch_destroy(fixture.batch);
    harness_close(fixture.store);
    harness_remove(fixture.path);
    return 0;
}

static km_bytes text(const char *string)
{
    return km_bytes_of_string(string);
}

static void check_value(km_map *map, const char *key, const char *value)
{
    km_buffer buffer = KM_BUFFER_INIT;

    CHECK_STATUS(km_get(map, text(key), &buffer), value ? KM_OK : KM_NOT_FOUND);
    if (value)
        CHECK(buffer.size == strlen(value) && memcmp(buffer.data, value, buffer.size) == 0);
    km_buffer_free(&buffer);
}

static void put(km_map *map, const char *key, const char *value)
{
    CHECK_STATUS(km_batch_put(fixture.batch, map, text(key), text(value)), KM_OK);
}

static void del(km_map *map, const char *key)
{
    CHECK_STATUS(km_batch_del(fixture.batch, map, text(key)), KM_OK);
}

/* ---- cases ------------------------------------------------------------------------------- */

static void changes_are_seen_after_commit_only(void **state)
{
    km_write write = KM_WRITE_INIT;

    (void)state;
    CHECK_STATUS(km_put(fixture.other, text("old"), text("value"), NULL), KM_OK);
    put(fixture.map, "a", "1");
    put(fixture.other, "b", "2");
    del(fixture.other, "old");
    check_value(fixture.map, "a", NULL);
    check_value(fixture.other, "old", "value");
    write.existed = 7;
    CHECK_STATUS(km_batch_commit(fixture.batch, &write), KM_OK);
    CHECK(write.position > 0 && write.existed == 7);
    for (int round = 0; round < 2; round++) {
        check_value(fixture.map, "a", "1");
        check_value(fixture.other, "b", "2");
        check_value(fixture.other, "old", NULL);
        CHECK(km_count(fixture.map) == 1 && km_count(fixture.other) == 1);
        reopen();
    }
}

static void the_last_change_of_a_key_wins(void **state)
{
    (void)state;
    CHECK_STATUS(km_put(fixture.map, text("there"), text("0"), NULL), KM_OK);
    put(fixture.map, "a", "1");
    put(fixture.other, "a", "other");
    del(fixture.map, "a");
    put(fixture.map, "a", "2");
    put(fixture.map, "b", "1");
    del(fixture.map, "b");
    del(fixture.map, "there");
    put(fixture.map, "there", "1");
    put(fixture.map, "there", "2");
    del(fixture.map, "never");
    CHECK_STATUS(km_batch_commit(fixture.batch, NULL), KM_OK);
    for (int round = 0; round < 2; round++) {
        check_value(fixture.map, "a", "2");
        check_value(fixture.other, "a", "other");
        check_value(fixture.map, "b", NULL);
        check_value(fixture.map, "there", "2");
        check_value(fixture.map, "never", NULL);
        CHECK(km_count(fixture.map) == 2 && km_count(fixture.other) == 1);
        reopen();
    }
}

static void an_empty_batch_changes_nothing(void **state)
{
    km_stats before = {.struct_size = sizeof(before)}, after = {.struct_size = sizeof(after)};

    (void)state;
    CHECK_STATUS(km_store_stats(fixture.store, &before), KM_OK);
    CHECK_STATUS(km_batch_commit(fixture.batch, NULL), KM_OK);
    put(fixture.map, "a", "1");
    km_batch_clear(fixture.batch);
    CHECK_STATUS(km_batch_commit(fixture.batch, NULL), KM_OK);
    CHECK_STATUS(km_store_stats(fixture.store, &after), KM_OK);
    CHECK(before.tail == after.tail && km_count(fixture.map) == 0);
}

static void a_batch_can_be_used_again(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 300; i++) {
        km_u64_key key = km_u64_key_from(i);

        CHECK_STATUS(
            km_batch_put(fixture.batch, fixture.map, km_bytes_of(key.bytes, 8), text("value")),
            KM_OK);
        put(fixture.map, "same", i % 2 ? "odd" : "even");
        CHECK_STATUS(km_batch_commit(fixture.batch, NULL), KM_OK);
    }
    CHECK(km_count(fixture.map) == 301);
    check_value(fixture.map, "same", "odd");
}

/* A batch keeps its changes when a commit fails, and can be committed when the cause is gone. */
static void a_failed_commit_keeps_the_changes(void **state)
{
    km_buffer previous = KM_BUFFER_INIT;
    km_write write = KM_WRITE_INIT;
    km_reader *reader = NULL;

    (void)state;
    put(fixture.map, "a", "1");
    write.previous = &previous;
    CHECK_STATUS(km_batch_commit(fixture.batch, &write), KM_E_INVALID);
    write.previous = NULL;
    write.durability = KM_DURABLE_POWER;
    CHECK_STATUS(km_read_begin(fixture.store, &reader), KM_OK);
    CHECK_STATUS(km_batch_commit(fixture.batch, &write), KM_WOULD_BLOCK);
    km_read_end(reader);
    check_value(fixture.map, "a", NULL);
    CHECK_STATUS(km_batch_commit(fixture.batch, &write), KM_OK);
    check_value(fixture.map, "a", "1");
    CHECK(km_durable_position(fixture.store) > write.position);
}

static void one_dropped_map_stops_the_whole_batch(void **state)
{
    (void)state;
    put(fixture.map, "a", "1");
    put(fixture.other, "b", "2");
    CHECK_STATUS(km_map_drop(fixture.other), KM_OK);
    CHECK_STATUS(km_batch_commit(fixture.batch, NULL), KM_E_DROPPED);
    check_value(fixture.map, "a", NULL);
    CHECK(km_count(fixture.map) == 0);
    reopen();
    CHECK(km_count(fixture.map) == 0);
}

static void arguments_are_checked(void **state)
{
    km_store *memory = NULL;
    km_map *foreign;
    uint8_t *bytes = calloc(1, KM_KEY_SIZE_MAX + 1u);

    (void)state;
    CHECK(bytes);
    CHECK_STATUS(km_open_memory(NULL, &memory, NULL), KM_OK);
    foreign = harness_map(memory, "map");
    CHECK_STATUS(km_batch_put(fixture.batch, foreign, text("a"), text("1")), KM_E_INVALID);
    CHECK_STATUS(km_batch_del(fixture.batch, foreign, text("a")), KM_E_INVALID);
    CHECK_STATUS(km_batch_put(fixture.batch, fixture.map, km_bytes_of(NULL, 1), text("1")),
                 KM_E_INVALID);
    CHECK_STATUS(km_batch_put(fixture.batch, fixture.map, text("a"), km_bytes_of(NULL, 1)),
                 KM_E_INVALID);
    CHECK_STATUS(km_batch_put(fixture.batch, fixture.map, km_bytes_of(bytes, KM_KEY_SIZE_MAX + 1u),
                              text("1")),
                 KM_E_TOO_BIG);
    CHECK_STATUS(km_batch_del(fixture.batch, fixture.map, km_bytes_of(bytes, KM_KEY_SIZE_MAX + 1u)),
                 KM_E_TOO_BIG);
    put(fixture.map, "a", "1");
    CHECK_STATUS(km_batch_commit(fixture.batch, NULL), KM_OK);
    CHECK(km_count(fixture.map) == 1);
    harness_close(memory);
    free(bytes);
}

static uint64_t fill_batch(size_t value_size)
{
    uint8_t *value = calloc(1, value_size);
    uint64_t count = 0;
    km_status rc = KM_OK;

    CHECK(value);
    while (!rc) {
        km_u64_key key = km_u64_key_from(count);

        rc = km_batch_put(fixture.batch, fixture.map, km_bytes_of(key.bytes, 8),
                          km_bytes_of(value, value_size));
        count += rc == KM_OK;
    }
    CHECK_STATUS(rc, KM_E_TOO_BIG);
    free(value);
    return count;
}

static void the_size_is_limited(void **state)
{
    uint64_t count = fill_batch(1000);

    (void)state;
    CHECK(count > 8000 && count * 1024 <= 8u << 20);           /* the default limit */
    CHECK_STATUS(km_batch_commit(fixture.batch, NULL), KM_OK); /* what went in before is in it */
    CHECK(km_count(fixture.map) == count);
    fixture.options.batch_size_max = 100000;
    reopen();
    CHECK(km_count(fixture.map) == count);
    count = fill_batch(1000);
    CHECK(count > 80 && count * 1024 <= 100000);
}

static void a_large_batch_is_one_unit(void **state)
{
    uint64_t count;

    (void)state;
    fixture.options.batch_size_max = 64u << 20;
    reopen();
    for (int round = 0; round < 2; round++) {
        CHECK_STATUS(km_put(fixture.other, text("between"), text("x"), NULL), KM_OK);
        count = fill_batch(round ? 100 : 100000);
        CHECK_STATUS(km_batch_commit(fixture.batch, NULL), KM_OK);
    }
    CHECK(km_count(fixture.map) == count);
    reopen();
    CHECK(km_count(fixture.map) == count && km_count(fixture.other) == 1);
    for (uint64_t key = 0; key < count; key += 97)
        CHECK_STATUS(km_get_u64(fixture.map, key, NULL), KM_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(changes_are_seen_after_commit_only, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(the_last_change_of_a_key_wins, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(an_empty_batch_changes_nothing, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(a_batch_can_be_used_again, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(a_failed_commit_keeps_the_changes, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(one_dropped_map_stops_the_whole_batch, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(arguments_are_checked, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(the_size_is_limited, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(a_large_batch_is_one_unit, open_fixture, close_fixture),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
