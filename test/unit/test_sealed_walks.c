/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed_walks.c -- what walks over a sealed table read of its file, and keys that lie in what
 * an earlier call returned.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>

#include "sealed/sealed_internal.h"
#include "test_sealed_util.h"

#define COUNT UINT64_C(20000)
#define PAGE ((uint64_t)SEALED_PAGE)

static char folder[HARNESS_PATH_SIZE];
static char path[HARNESS_PATH_SIZE];

static struct os_ops counting_ops;
static struct os counting;
static uint64_t bytes_read;

static km_status counted_read(struct os_file *file, uint64_t offset, void *buffer, size_t size)
{
    bytes_read += size;
    return km__os_linux()->ops->read_at(file, offset, buffer, size);
}

/* A key is 8 bytes, big-endian; a value has in its middle the key of another record, far away. */
#define KEY_IN_VALUE 40

static uint64_t after(uint64_t number)
{
    return (number * 7919 + 13) % COUNT;
}

static void build(km_sealed_compression compression, uint32_t block_size)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;

    options.compression = compression;
    options.block_size = block_size;
    CHECK_STATUS(km_sealed_builder_open(path, &options, &builder, NULL), KM_OK);
    for (uint64_t i = 0; i < COUNT; i++) {
        km_u64_key key = km_u64_key_from(i), next = km_u64_key_from(after(i));
        uint8_t value[100] = {0};
        memcpy(value + KEY_IN_VALUE, next.bytes, 8);
        harness_fill(value, compression == KM_SEALED_PLAIN ? KEY_IN_VALUE : 8, i);
        CHECK_STATUS(km_sealed_builder_add(builder, km_bytes_of(key.bytes, 8),
                                           km_bytes_of(value, sizeof(value))),
                     KM_OK);
    }
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
}

static km_sealed *open_table(int no_mapping, uint64_t cache_size)
{
    km_sealed_options options = KM_SEALED_OPTIONS_INIT;
    km_sealed *table = NULL;

    options.no_mapping = no_mapping;
    options.cache_size = cache_size;
    CHECK_STATUS(km__sealed_open(&counting, path, &options, &table, NULL), KM_OK);
    return table;
}

static km_sealed_cursor *open_cursor(const km_sealed *table, const km_range *range, int reverse)
{
    km_sealed_cursor_options options = KM_SEALED_CURSOR_OPTIONS_INIT;
    km_sealed_cursor *cursor = NULL;

    if (range)
        options.range = *range;
    options.reverse = reverse;
    CHECK_STATUS(km_sealed_cursor_open(table, &options, &cursor), KM_OK);
    return cursor;
}

/* ---- what is read ------------------------------------------------------------------------ */

static void a_seek_and_a_step_read_one_block(void **state)
{
    struct harness_random random = harness_stream(1);
    km_sealed *table;

    (void)state;
    build(KM_SEALED_PLAIN, 0);
    table = open_table(1, 0);
    for (int reverse = 0; reverse < 2; reverse++) {
        km_sealed_cursor *cursor = open_cursor(table, NULL, reverse);
        km_bytes found;
        for (uint64_t i = 0; i < COUNT; i++) /* it has walked far */
            CHECK_STATUS(km_sealed_cursor_next(cursor, NULL, NULL), KM_OK);
        bytes_read = 0;
        for (int i = 0; i < 300; i++) {
            uint64_t number = harness_below(&random, COUNT);
            km_u64_key key = km_u64_key_from(number);
            CHECK_STATUS(km_sealed_cursor_seek(cursor, km_bytes_of(key.bytes, 8)), KM_OK);
            CHECK_STATUS(km_sealed_cursor_next(cursor, &found, NULL), KM_OK);
            CHECK(km_sealed_number(found) == number);
        }
        CHECK_MSG(bytes_read <= 300 * PAGE, "%llu", (unsigned long long)bytes_read);
        CHECK(bytes_read > 200 * PAGE); /* it was counted */
        km_sealed_cursor_close(cursor);
    }
    km_sealed_close(table);
}

/* The blocks that a range has, and one for each end, to find it. */
static void a_short_range_reads_little_more_than_it_holds(void **state)
{
    struct harness_random random = harness_stream(2);
    km_sealed *table;

    (void)state;
    build(KM_SEALED_PLAIN, 0);
    table = open_table(0, 0);
    for (int i = 0; i < 200; i++) {
        uint64_t size = 1 + harness_below(&random, 300);
        uint64_t start = harness_below(&random, COUNT - size);
        km_u64_key from = km_u64_key_from(start), to = km_u64_key_from(start + size);
        km_range range = {{from.bytes, 8}, {to.bytes, 8}, {NULL, 0}};
        struct sealed_place first, last;
        km_sealed_cursor *cursor;
        uint64_t seen = 0;
        bytes_read = 0;
        cursor = open_cursor(table, &range, i % 2);
        while (km_sealed_cursor_next(cursor, NULL, NULL) == KM_OK)
            seen++;
        km_sealed_cursor_close(cursor);
        CHECK(seen == size);
        km__sealed_place_of_record(table, start, &first);
        km__sealed_place_of_record(table, start + size - 1, &last);
        CHECK_MSG(bytes_read <= last.offset + last.size - first.offset + 2 * PAGE, "%llu of %llu",
                  (unsigned long long)bytes_read, (unsigned long long)(last.offset - first.offset));
    }
    km_sealed_close(table);
}

static void a_long_walk_reads_each_block_once(void **state)
{
    km_sealed *table;

    (void)state;
    build(KM_SEALED_PLAIN, 0);
    table = open_table(0, 0);
    for (int reverse = 0; reverse < 2; reverse++) {
        km_sealed_cursor *cursor = open_cursor(table, NULL, reverse);
        bytes_read = 0;
        while (km_sealed_cursor_next(cursor, NULL, NULL) == KM_OK)
            continue;
        km_sealed_cursor_close(cursor);
        /* where a piece ends in a block, the rest of it is read again */
        CHECK(bytes_read <= table->footer.index_offset + 40 * PAGE);
        CHECK(bytes_read >= table->footer.index_offset - PAGE);
    }
    km_sealed_close(table);
}

/* At the edge of what a long walk has read. */
static void steps_to_and_fro_read_little(void **state)
{
    (void)state;
    build(KM_SEALED_PLAIN, 0);
    for (int reverse = 0; reverse < 2; reverse++) {
        km_sealed *table = open_table(0, 0);
        km_sealed_cursor *cursor = open_cursor(table, NULL, reverse);
        uint64_t before = 0;
        for (uint64_t i = 0; i < COUNT / 2 || bytes_read == before; i++) {
            before = bytes_read;
            CHECK_STATUS(km_sealed_cursor_next(cursor, NULL, NULL), KM_OK);
        }
        bytes_read = 0;
        for (int i = 0; i < 50; i++) {
            for (int k = 0; k < 50; k++)
                CHECK_STATUS(km_sealed_cursor_previous(cursor, NULL, NULL), KM_OK);
            for (int k = 0; k < 50; k++)
                CHECK_STATUS(km_sealed_cursor_next(cursor, NULL, NULL), KM_OK);
        }
        CHECK_MSG(bytes_read <= 50 * 12 * PAGE, "%llu", (unsigned long long)bytes_read);
        CHECK(bytes_read > 0);
        km_sealed_cursor_close(cursor);
        km_sealed_close(table);
    }
}

/* A block that does not lie beside what was read before is read alone: here the range is given by
 * its prefix too, which is looked up last. */
static void a_walk_that_begins_elsewhere_reads_one_block(void **state)
{
    km_u64_key from = km_u64_key_from(COUNT / 2);
    km_range range = {{from.bytes, 8}, {NULL, 0}, {from.bytes, 5}};
    km_sealed_cursor *cursor;
    km_sealed *table;

    (void)state;
    build(KM_SEALED_PLAIN, 0);
    table = open_table(0, 0);
    bytes_read = 0;
    cursor = open_cursor(table, &range, 0);
    CHECK(bytes_read == 3 * PAGE); /* where it begins, by key and by prefix, and where it ends */
    CHECK_STATUS(km_sealed_cursor_next(cursor, NULL, NULL), KM_OK);
    CHECK(bytes_read == 4 * PAGE);
    km_sealed_cursor_close(cursor);
    km_sealed_close(table);
}

/* ---- keys in what was returned ----------------------------------------------------------- */

static const struct {
    km_sealed_compression compression;
    uint32_t block_size;
    int no_mapping;
    uint64_t cache_size;
} ways[] = {{KM_SEALED_PLAIN, 0, 0, 0},     {KM_SEALED_PLAIN, 0, 1, 0},
            {KM_SEALED_PLAIN, 16384, 0, 0}, {KM_SEALED_PLAIN, 0, 1, KM_SEALED_CACHE_SIZE_MIN},
            {KM_SEALED_ZSTD, 0, 0, 0},      {KM_SEALED_ZSTD, 0, 0, KM_SEALED_CACHE_SIZE_MIN}};
#define WAY_COUNT (sizeof(ways) / sizeof(ways[0]))

static km_sealed *open_way(size_t way)
{
    if (ways[way].compression != KM_SEALED_PLAIN && !km__sealed_pack_exists())
        return NULL;
    build(ways[way].compression, ways[way].block_size);
    return open_table(ways[way].no_mapping, ways[way].cache_size);
}

static km_bytes key_in(const void *value)
{
    return km_bytes_of((const uint8_t *)value + KEY_IN_VALUE, 8);
}

static void a_value_can_be_the_next_key(void **state)
{
    (void)state;
    for (size_t way = 0; way < WAY_COUNT; way++) {
        km_sealed *table = open_way(way);
        km_buffer value = KM_BUFFER_INIT;
        km_u64_key key = km_u64_key_from(5);
        uint64_t number = 5;
        if (!table)
            continue;
        CHECK_STATUS(km_sealed_get(table, km_bytes_of(key.bytes, 8), &value), KM_OK);
        for (int i = 0; i < 1000; i++) {
            number = after(number);
            CHECK(value.size == 100 && km_sealed_number(key_in(value.data)) == number);
            CHECK_STATUS(km_sealed_get(table, key_in(value.data), &value), KM_OK);
        }
        km_buffer_free(&value);
        km_sealed_close(table);
    }
}

static void a_cursor_seeks_to_what_it_returned(void **state)
{
    (void)state;
    for (size_t way = 0; way < WAY_COUNT; way++) {
        km_sealed *table = open_way(way);
        km_sealed_cursor *cursor;
        km_bytes key, value;
        uint64_t number = 0;
        if (!table)
            continue;
        cursor = open_cursor(table, NULL, 0);
        CHECK_STATUS(km_sealed_cursor_next(cursor, &key, &value), KM_OK);
        for (int i = 0; i < 1000; i++) {
            number = after(number);
            CHECK_STATUS(km_sealed_cursor_seek(cursor, key_in(value.data)), KM_OK);
            CHECK_STATUS(km_sealed_cursor_next(cursor, &key, &value), KM_OK);
            CHECK(km_sealed_number(key) == number);
            CHECK_STATUS(km_sealed_cursor_seek(cursor, key), KM_OK);
            CHECK_STATUS(km_sealed_cursor_next(cursor, &key, &value), KM_OK);
            CHECK(km_sealed_number(key) == number);
        }
        km_sealed_cursor_close(cursor);
        km_sealed_close(table);
    }
}

/* The value where it lies in the mapping, and the same by a get. */
static void values_in_the_mapping_are_those_of_gets(void **state)
{
    static const uint32_t block_sizes[] = {4096, 16384};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        km_buffer value = KM_BUFFER_INIT;
        km_sealed *table;
        km_bytes found;
        build(KM_SEALED_PLAIN, block_sizes[i]);
        table = open_table(0, 0);
        CHECK(km__sealed_is_plainly_mapped(table));
        for (uint64_t number = 0; number < COUNT + 500; number++) {
            km_u64_key key = km_u64_key_from(number);
            km_bytes wanted = km_bytes_of(key.bytes, 8);
            km_status rc = km_sealed_get(table, wanted, &value);
            CHECK_STATUS(rc, number < COUNT ? KM_OK : KM_NOT_FOUND);
            CHECK_STATUS(km__sealed_find_mapped(table, wanted, &found), rc);
            CHECK(rc || sealed_bytes_equal(found, value.data, value.size));
        }
        CHECK_STATUS(km__sealed_find_mapped(table, km_bytes_of(NULL, 8), &found), KM_NOT_FOUND);
        km_buffer_free(&value);
        km_sealed_close(table);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_seek_and_a_step_read_one_block),
        cmocka_unit_test(a_short_range_reads_little_more_than_it_holds),
        cmocka_unit_test(a_long_walk_reads_each_block_once),
        cmocka_unit_test(steps_to_and_fro_read_little),
        cmocka_unit_test(a_walk_that_begins_elsewhere_reads_one_block),
        cmocka_unit_test(a_value_can_be_the_next_key),
        cmocka_unit_test(a_cursor_seeks_to_what_it_returned),
        cmocka_unit_test(values_in_the_mapping_are_those_of_gets),
    };

    harness_begin();
    harness_make_folder(folder);
    harness_path(path, folder, "table");
    counting = *km__os_linux();
    counting_ops = *counting.ops;
    counting_ops.read_at = counted_read;
    counting.ops = &counting_ops;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
