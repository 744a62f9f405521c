/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed_sim.c -- sealed tables on the simulated machine: how many reads, how much memory,
 * what every failing call and every flipped bit comes to.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

#include "sealed/sealed_internal.h"
#include "test_sealed_util.h"

#define TABLE_PATH "t/table"

static struct os *machine;

static int make_machine(void **state)
{
    (void)state;
    machine = km__sim_create(harness_seed());
    CHECK_STATUS(machine->ops->create_dir(machine, "t"), KM_OK);
    return 0;
}

static int destroy_machine(void **state)
{
    (void)state;
    CHECK(km__sim_open_count(machine) == 0);
    CHECK(km__sim_allocated_bytes(machine) == 0);
    km__sim_destroy(machine);
    return 0;
}

static km_status build(const struct sealed_look *look, uint64_t count, uint64_t stride,
                       km_error *error)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;
    km_status rc;

    options.keys = look->keys;
    options.memory_max = KM_SEALED_MEMORY_MIN;
    rc = km__sealed_builder_open(machine, TABLE_PATH, &options, &builder, error);
    if (rc)
        return rc;
    for (uint64_t i = 0; !rc && i < count; i++) {
        uint64_t number = i * stride % count;
        km_u64_key key = km_u64_key_from(number);
        uint8_t value[100];
        if (look->keys == KM_SEALED_U64) {
            harness_fill(value, sizeof(value), number);
            rc = km_sealed_builder_add(builder, km_bytes_of(key.bytes, 8),
                                       km_bytes_of(value, sizeof(value)));
        } else {
            rc = sealed_add_number(builder, NULL, look, number, 0);
        }
    }
    return km_sealed_builder_finish(builder, error);
}

static km_sealed *open_sim(int no_mapping)
{
    km_sealed_options options = KM_SEALED_OPTIONS_INIT;
    km_sealed *table = NULL;
    km_error error = {0};

    options.no_mapping = no_mapping;
    CHECK_MSG(km__sealed_open(machine, TABLE_PATH, &options, &table, &error) == KM_OK, "%s",
              error.message);
    return table;
}

static void count_path(void *context, const char *path, uint64_t size)
{
    (void)path;
    (void)size;
    (*(int *)context)++;
}

static int file_count(void)
{
    int count = 0;

    km__sim_list_paths(machine, count_path, &count);
    return count;
}

/* ---- reads ------------------------------------------------------------------------------- */

#define COUNT UINT64_C(20000)

static void a_get_reads_once_and_an_absent_key_almost_never(void **state)
{
    const uint64_t absent_count = 20000;
    km_buffer value = KM_BUFFER_INIT;
    km_sealed *table;
    uint64_t before;

    (void)state;
    CHECK_STATUS(build(&sealed_looks[0], COUNT, 1, NULL), KM_OK);
    table = open_sim(1);
    before = km__sim_call_count(machine, SIM_READ);
    for (uint64_t i = 0; i < 500; i++)
        CHECK_STATUS(km_sealed_get_number(table, i * 37 % COUNT, &value), KM_OK);
    CHECK(km__sim_call_count(machine, SIM_READ) - before == 500);
    before = km__sim_call_count(machine, SIM_READ);
    for (uint64_t i = 0; i < absent_count; i++)
        CHECK_STATUS(km_sealed_get_number(table, COUNT + i * 1000003, &value), KM_NOT_FOUND);
    CHECK(km__sim_call_count(machine, SIM_READ) - before < absent_count / 100);
    CHECK(km__sim_call_count(machine, SIM_READ) > before); /* the count counts */
    km_sealed_close(table);
    table = open_sim(0);
    before = km__sim_call_count(machine, SIM_READ);
    CHECK_STATUS(km_sealed_get_number(table, 5, &value), KM_OK);
    CHECK(km__sim_call_count(machine, SIM_READ) == before); /* through the mapping */
    km_sealed_close(table);
    km_buffer_free(&value);
}

static void neighbours_are_read_together(void **state)
{
    km_bytes keys[1000], values[1000];
    km_u64_key bytes[1000];
    km_buffer memory = KM_BUFFER_INIT;
    uint64_t before;
    km_sealed *table;
    size_t found;

    (void)state;
    CHECK_STATUS(build(&sealed_looks[0], COUNT, 1, NULL), KM_OK);
    for (uint64_t i = 0; i < 1000; i++) {
        bytes[i] = km_u64_key_from(3000 + i * 7 % 1000);
        keys[i] = km_bytes_of(bytes[i].bytes, 8);
    }
    for (int no_mapping = 0; no_mapping < 2; no_mapping++) {
        table = open_sim(no_mapping);
        before = km__sim_call_count(machine, SIM_READ);
        CHECK_STATUS(km_sealed_get_many(table, keys, 1000, &memory, values, &found), KM_OK);
        CHECK(found == 1000);
        CHECK(km__sim_call_count(machine, SIM_READ) - before == 1);
        km_sealed_close(table);
    }
    km_buffer_free(&memory);
}

static void a_walk_reads_large_pieces(void **state)
{
    for (int reverse = 0; reverse < 2; reverse++) {
        km_sealed_cursor_options options = KM_SEALED_CURSOR_OPTIONS_INIT;
        km_sealed_cursor *cursor = NULL;
        uint64_t before, bytes = 0;
        km_sealed *table;
        km_bytes value;
        (void)state;
        CHECK_STATUS(build(&sealed_looks[0], COUNT, 1, NULL), KM_OK);
        table = open_sim(0);
        options.reverse = reverse;
        before = km__sim_call_count(machine, SIM_READ);
        CHECK_STATUS(km_sealed_cursor_open(table, &options, &cursor), KM_OK);
        while (km_sealed_cursor_next(cursor, NULL, &value) == KM_OK)
            bytes += value.size;
        CHECK(bytes == COUNT * 100);
        CHECK(km__sim_call_count(machine, SIM_READ) - before < 5 + bytes / (200 << 10));
        km_sealed_cursor_close(cursor);
        km_sealed_close(table);
    }
}

static void input_in_order_is_written_once(void **state)
{
    uint64_t read_count, write_count;

    (void)state;
    read_count = km__sim_call_count(machine, SIM_READ);
    CHECK_STATUS(build(&sealed_looks[0], 50000, 1, NULL), KM_OK);
    CHECK(km__sim_call_count(machine, SIM_READ) == read_count); /* nothing was merged */
    CHECK(km__sim_call_count(machine, SIM_CREATE_FILE) == 1);
    write_count = km__sim_call_count(machine, SIM_WRITE);
    CHECK(write_count < 12); /* 5.5 MB, in pieces of 1 MiB */
}

/* Records that the memory of a build has no room for. */
static void large_records_in_order_are_written_once(void **state)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;
    size_t size = KM_SEALED_MEMORY_MIN;
    uint8_t *value = malloc(size);
    uint64_t read_count = km__sim_call_count(machine, SIM_READ);
    km_buffer found = KM_BUFFER_INIT;
    km_sealed *table;

    (void)state;
    CHECK(value != NULL);
    options.keys = KM_SEALED_U64;
    options.memory_max = KM_SEALED_MEMORY_MIN;
    CHECK_STATUS(km__sealed_builder_open(machine, TABLE_PATH, &options, &builder, NULL), KM_OK);
    for (uint64_t i = 0; i < 20; i++) {
        harness_fill(value, size, i);
        CHECK_STATUS(km_sealed_builder_add_number(builder, i, km_bytes_of(value, size)), KM_OK);
    }
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
    CHECK(km__sim_call_count(machine, SIM_READ) == read_count);
    CHECK(km__sim_call_count(machine, SIM_CREATE_FILE) == 1);
    table = open_sim(1);
    CHECK(km_sealed_count(table) == 20);
    CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
    CHECK_STATUS(km_sealed_get_number(table, 19, &found), KM_OK);
    CHECK(sealed_bytes_equal(km_bytes_of(found.data, found.size), value, size));
    km_sealed_close(table);
    km_buffer_free(&found);
    free(value);
}

/* ---- disk -------------------------------------------------------------------------------- */

static uint64_t largest_disk;

static void note_disk(void *context, uint64_t step)
{
    uint64_t bytes = km__sim_total_bytes(machine);

    (void)context;
    (void)step;
    largest_disk = bytes > largest_disk ? bytes : largest_disk;
}

/* In no order, with little memory: several merges, one after the other; large records too, of which
 * few can be merged at once. */
static void a_build_takes_the_disk_twice_at_most(void **state)
{
    static const struct {
        uint64_t count;
        size_t size;
    } cases[] = {{100000, 100}, {20, 1 << 20}};

    (void)state;
    for (size_t c = 0; c < 2; c++) {
        km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
        km_sealed_builder *builder = NULL;
        uint8_t *value = malloc(cases[c].size);
        uint64_t data = cases[c].count * (8 + cases[c].size);
        km_sealed *table;
        CHECK(value != NULL);
        harness_fill(value, cases[c].size, c);
        options.keys = KM_SEALED_U64;
        options.memory_max = KM_SEALED_MEMORY_MIN;
        (void)km__sim_delete_path(machine, TABLE_PATH);
        largest_disk = 0;
        km__sim_on_step(machine, note_disk, NULL);
        CHECK_STATUS(km__sealed_builder_open(machine, TABLE_PATH, &options, &builder, NULL), KM_OK);
        for (uint64_t i = 0; i < cases[c].count; i++)
            CHECK_STATUS(km_sealed_builder_add_number(builder, i * 7919 % cases[c].count,
                                                      km_bytes_of(value, cases[c].size)),
                         KM_OK);
        CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
        km__sim_on_step(machine, NULL, NULL);
        CHECK_MSG(largest_disk < data / 10 * 23, "%llu for %llu", (unsigned long long)largest_disk,
                  (unsigned long long)data);
        CHECK(largest_disk > data / 10 * 19); /* it was noted */
        table = open_sim(1);
        CHECK(km_sealed_count(table) == cases[c].count);
        CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
        km_sealed_close(table);
        free(value);
    }
}

/* ---- memory ------------------------------------------------------------------------------ */

static void an_open_table_takes_two_bytes_a_key_at_most(void **state)
{
    static const struct sealed_look text = {"text, 100", KM_SEALED_BYTES, 1, 100, 1, 0};
    const struct sealed_look *const looks[] = {&sealed_looks[0], &text};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        km_sealed_info info = {.struct_size = sizeof(info)};
        uint64_t before = km__sim_allocated_bytes(machine);
        km_sealed *table;
        CHECK_STATUS(build(looks[i], 40000, 7, NULL), KM_OK);
        table = open_sim(0);
        CHECK_STATUS(km_sealed_get_info(table, &info), KM_OK);
        CHECK(km__sim_allocated_bytes(machine) - before < 2 * info.count);
        CHECK(info.memory_bytes < 2 * info.count);
        CHECK(info.file_bytes * 100 < (info.key_bytes + info.value_bytes) * 106);
        km_sealed_close(table);
    }
}

static uint64_t largest_use;

static int note_memory(void *context, uint64_t done, uint64_t total)
{
    uint64_t use = km__sim_allocated_bytes(machine);

    (void)context;
    (void)done;
    (void)total;
    largest_use = use > largest_use ? use : largest_use;
    return 0;
}

/* 20 times as much data as memory, in random order: several merges, one after the other. */
static void a_build_keeps_to_its_memory(void **state)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    const struct sealed_look *look = &sealed_looks[0];
    struct sealed_model model = {0};
    km_sealed_builder *builder = NULL;
    km_sealed *table;

    (void)state;
    options.keys = look->keys;
    options.memory_max = KM_SEALED_MEMORY_MIN;
    options.progress = note_memory;
    largest_use = 0;
    CHECK_STATUS(km__sealed_builder_open(machine, TABLE_PATH, &options, &builder, NULL), KM_OK);
    for (uint64_t i = 0; i < 200000; i++)
        CHECK_STATUS(sealed_add_number(builder, &model, look, i % 150000, i), KM_OK);
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
    CHECK(largest_use > KM_SEALED_MEMORY_MIN); /* it was noted */
    CHECK(largest_use < KM_SEALED_MEMORY_MIN + ((uint64_t)3 << 20));
    sealed_model_seal(&model);
    CHECK(model.count == 150000);
    table = open_sim(0);
    sealed_check_all(table, &model);
    CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
    km_sealed_close(table);
    sealed_model_free(&model);
    CHECK(file_count() == 1);
}

/* ---- failures ---------------------------------------------------------------------------- */

/* A table of one generation of the value at number 0, read whole. */
static uint64_t count_of_table(void)
{
    km_sealed *table = open_sim(1);
    uint64_t count = km_sealed_count(table);

    CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
    km_sealed_close(table);
    return count;
}

/* Each failing call ends the build with its error, and leaves the old table or, where the last sync
 * of the folder failed, the new one. */
static void each_failing_call_leaves_a_whole_table(void **state)
{
    static const uint64_t strides[] = {1, 7919};
    uint64_t failures = 0;

    (void)state;
    for (size_t s = 0; s < 2; s++) {
        for (uint64_t nth = 1;; nth++) {
            km_error error = {0};
            uint64_t count;
            km_status rc;
            CHECK_STATUS(build(&sealed_looks[0], 100, 1, NULL), KM_OK);
            km__sim_fail_call(machine, SIM_ANY, nth, KM_E_IO, EIO);
            rc = build(&sealed_looks[0], 30000, strides[s], &error);
            km__sim_clear_faults(machine);
            count = count_of_table();
            CHECK(rc ? rc == error.status : count == 30000);
            CHECK(rc == KM_OK || rc == KM_E_IO);
            CHECK(count == 100 || count == 30000);
            failures += rc != KM_OK;
            CHECK_STATUS(build(&sealed_looks[0], 50, 1, NULL), KM_OK); /* sweeps */
            CHECK(file_count() == 1);
            if (rc == KM_OK && nth > 60)
                break;
        }
    }
    CHECK(failures > 30);
}

static void a_build_without_memory_ends_cleanly(void **state)
{
    uint64_t nth = 1;

    (void)state;
    for (;; nth++) {
        km_error error = {0};
        uint64_t before = km__sim_allocation_count(machine);
        km_status rc;
        km__sim_fail_allocation(machine, nth);
        rc = build(&sealed_looks[0], 30000, 7919, &error);
        km__sim_fail_allocation(machine, 0);
        CHECK(rc == KM_OK || (rc == KM_E_NO_MEMORY && error.status == rc));
        CHECK(file_count() == (rc == KM_OK));
        (void)km__sim_delete_path(machine, TABLE_PATH);
        if (km__sim_allocation_count(machine) - before < nth)
            break;
    }
    CHECK(nth > 20);
}

static void a_reader_without_memory_ends_cleanly(void **state)
{
    km_bytes keys[2] = {{"12345678", 8}, {"87654321", 8}}, values[2];

    (void)state;
    CHECK_STATUS(build(&sealed_looks[0], 30000, 1, NULL), KM_OK);
    for (uint64_t nth = 1; nth < 30; nth++) {
        km_sealed *table = NULL;
        km_sealed_cursor *cursor = NULL;
        km_buffer memory = KM_BUFFER_INIT;
        km_status rc;
        km__sim_fail_allocation(machine, nth);
        rc = km__sealed_open(machine, TABLE_PATH, NULL, &table, NULL);
        if (!rc)
            rc = km_sealed_cursor_open(table, NULL, &cursor);
        for (int i = 0; !rc && i < 1000; i++)
            rc = km_sealed_cursor_next(cursor, NULL, NULL);
        if (!rc)
            rc = km_sealed_get_many(table, keys, 2, &memory, values, NULL);
        if (!rc)
            rc = km_sealed_verify(table, NULL, NULL, NULL);
        CHECK(rc == KM_OK || rc == KM_E_NO_MEMORY);
        CHECK(rc != KM_OK || nth > 8);
        km__sim_fail_allocation(machine, 0);
        km_sealed_cursor_close(cursor);
        km_sealed_close(table);
        km_buffer_free(&memory);
    }
}

static void a_full_disk_is_said_so(void **state)
{
    km_error error = {0};

    (void)state;
    CHECK_STATUS(build(&sealed_looks[0], 100, 1, NULL), KM_OK);
    km__sim_set_capacity(machine, (uint64_t)2 << 20);
    CHECK_STATUS(build(&sealed_looks[0], 60000, 7919, &error), KM_E_FULL);
    CHECK(error.status == KM_E_FULL);
    km__sim_set_capacity(machine, 0);
    CHECK(count_of_table() == 100);
    CHECK(file_count() == 1);
}

static void a_folder_that_cannot_be_written_to_is_noticed_at_once(void **state)
{
    km_sealed_builder *builder = NULL;
    km_error error = {0};

    (void)state;
    km__sim_fail_from(machine, SIM_CREATE_FILE, 1, KM_E_IO, EACCES);
    CHECK_STATUS(km__sealed_builder_open(machine, TABLE_PATH, NULL, &builder, &error), KM_E_IO);
    CHECK(error.status == KM_E_IO && error.os_error == EACCES);
    km__sim_clear_faults(machine);
}

static void a_failed_build_stays_failed(void **state)
{
    km_sealed_builder *builder = NULL;
    km_error error = {0};
    km_status rc = KM_OK;

    (void)state;
    CHECK_STATUS(km__sealed_builder_open(machine, TABLE_PATH, NULL, &builder, NULL), KM_OK);
    km__sim_fail_call(machine, SIM_WRITE, 1, KM_E_FULL, ENOSPC);
    for (uint64_t i = 0; !rc && i < 1000000; i++)
        rc = sealed_add_number(builder, NULL, &sealed_looks[0], i, 0);
    CHECK_STATUS(rc, KM_E_FULL);
    CHECK_STATUS(km_sealed_builder_add(builder, km_bytes_of("k", 1), km_bytes_of("v", 1)),
                 KM_E_FULL);
    CHECK_STATUS(km_sealed_builder_add_next(builder, km_bytes_of("v", 1), NULL), KM_E_FULL);
    CHECK_STATUS(km_sealed_builder_finish(builder, &error), KM_E_FULL);
    CHECK(error.os_error == ENOSPC);
    CHECK(file_count() == 0);
}

static void a_failing_read_is_an_error(void **state)
{
    km_buffer value = KM_BUFFER_INIT;
    km_sealed_cursor *cursor = NULL;
    km_sealed *table;

    (void)state;
    CHECK_STATUS(build(&sealed_looks[0], 1000, 1, NULL), KM_OK);
    table = open_sim(1);
    km__sim_fail_call(machine, SIM_READ, 1, KM_E_IO, EIO);
    CHECK_STATUS(km_sealed_get_number(table, 7, &value), KM_E_IO);
    CHECK_STATUS(km_sealed_get_number(table, 7, &value), KM_OK);
    CHECK_STATUS(km_sealed_cursor_open(table, NULL, &cursor), KM_OK);
    km__sim_fail_call(machine, SIM_READ, 1, KM_E_IO, EIO);
    CHECK_STATUS(km_sealed_cursor_next(cursor, NULL, NULL), KM_E_IO);
    for (int i = 0; i < 1000; i++)
        CHECK_STATUS(km_sealed_cursor_next(cursor, NULL, NULL), KM_OK);
    CHECK_STATUS(km_sealed_cursor_next(cursor, NULL, NULL), KM_END);
    km_sealed_cursor_close(cursor);
    km_sealed_close(table);
    km_buffer_free(&value);
}

/* ---- damage ------------------------------------------------------------------------------ */

#define SMALL_COUNT 70u /* two blocks */

/* 1 if all is right, 0 if an error was met; anything else fails the test. */
static int get_many_damaged(const km_sealed *table, const struct sealed_model *model)
{
    km_bytes keys[SMALL_COUNT], values[SMALL_COUNT];
    km_buffer memory = KM_BUFFER_INIT;
    size_t found = 0;
    km_status rc;

    for (size_t i = 0; i < model->count; i++)
        keys[i] = sealed_record_key(&model->records[i]);
    rc = km_sealed_get_many(table, keys, model->count, &memory, values, &found);
    CHECK(rc == KM_OK || rc == KM_E_CORRUPT);
    CHECK(rc != KM_OK || found == model->count);
    for (size_t i = 0; rc == KM_OK && i < model->count; i++)
        CHECK(sealed_bytes_equal(values[i], model->records[i].value, model->records[i].value_size));
    km_buffer_free(&memory);
    return rc == KM_OK;
}

/* The same of all ways of reading; *out_verified: whether verify found nothing. */
static int read_damaged(const struct sealed_model *model, int *out_verified)
{
    km_sealed_options options = KM_SEALED_OPTIONS_INIT;
    km_sealed_cursor *cursor = NULL;
    km_buffer value = KM_BUFFER_INIT;
    km_sealed *table = NULL;
    km_bytes key, found;
    int is_right = 1;
    size_t i = 0;

    options.no_mapping = 1;
    *out_verified = 0;
    if (km__sealed_open(machine, TABLE_PATH, &options, &table, NULL) != KM_OK)
        return 0;
    *out_verified = km_sealed_verify(table, NULL, NULL, NULL) == KM_OK;
    is_right &= get_many_damaged(table, model);
    for (i = 0; i < model->count; i += 3) {
        const struct sealed_record *record = &model->records[i];
        km_status rc = km_sealed_get(table, sealed_record_key(record), &value);
        CHECK(rc == KM_OK || rc == KM_E_CORRUPT);
        is_right &= rc == KM_OK;
        CHECK(rc != KM_OK || sealed_bytes_equal(km_bytes_of(value.data, value.size), record->value,
                                                record->value_size));
    }
    CHECK_STATUS(km_sealed_cursor_open(table, NULL, &cursor), KM_OK);
    for (i = 0; i < model->count && km_sealed_cursor_next(cursor, &key, &found) == KM_OK; i++) {
        const struct sealed_record *record = &model->records[i];
        CHECK(sealed_bytes_equal(key, record->key, record->key_size));
        CHECK(sealed_bytes_equal(found, record->value, record->value_size));
    }
    is_right &= i == model->count;
    km_sealed_cursor_close(cursor);
    km_sealed_close(table);
    km_buffer_free(&value);
    return is_right;
}

static void small_table(struct sealed_model *model, const struct sealed_look *look)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;

    options.keys = look->keys;
    if (look->value_repeats) {
        options.compression = KM_SEALED_ZSTD;
        options.block_size = 2 * SEALED_PAGE;
    }
    CHECK_STATUS(km__sealed_builder_open(machine, TABLE_PATH, &options, &builder, NULL), KM_OK);
    for (uint64_t i = 0; i < SMALL_COUNT; i++)
        CHECK_STATUS(sealed_add_number(builder, model, look, i, 0), KM_OK);
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
    sealed_model_seal(model);
}

/* Of what is used every bit, or one in some, and fewer of the zeros between. */
static void flip_bits(const struct sealed_model *model, uint64_t one_in)
{
    struct harness_random random = harness_stream(one_in);
    uint64_t undone = 0, harmless = 0;
    uint8_t *bytes = NULL;
    size_t size = 0;
    int verified;

    CHECK(read_damaged(model, &verified) && verified);
    CHECK(km__sim_read_path(machine, TABLE_PATH, &bytes, &size) == 0);
    for (uint64_t bit = 0; bit < 8 * (uint64_t)size; bit++) {
        uint64_t step = (bytes[bit / 8] ? 1 : 61) * (bit / 8 % SEALED_PAGE < 16 ? 1 : one_in);
        if (harness_below(&random, step) != 0)
            continue;
        CHECK(km__sim_flip_bit(machine, TABLE_PATH, bit) == 0);
        harmless += (uint64_t)read_damaged(model, &verified);
        CHECK_MSG(!verified, "bit %llu is not verified", (unsigned long long)bit);
        CHECK(km__sim_flip_bit(machine, TABLE_PATH, bit) == 0);
        undone++;
    }
    /* harmless: zeros behind the values of a block, and behind the index */
    CHECK(undone > 500 && harmless < undone / 10);
    free(bytes);
}

static void each_flipped_bit_is_an_error_or_harmless(void **state)
{
    static const size_t looks[] = {0, 5, 7};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct sealed_model model = {0};
        if (sealed_looks[looks[i]].value_repeats && !km__sealed_pack_exists())
            continue;
        small_table(&model, &sealed_looks[looks[i]]);
        flip_bits(&model, 1);
        sealed_model_free(&model);
    }
}

/* Keys so long that few of them fill a group; their blocks are compressed to a page each. */
static void build_groups(struct sealed_model *model)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;
    km_sealed_info info = {.struct_size = sizeof(info)};
    static uint8_t key[14000];
    km_sealed *table;

    options.compression = KM_SEALED_ZSTD;
    options.block_size = SEALED_PAGE;
    CHECK_STATUS(km__sealed_builder_open(machine, TABLE_PATH, &options, &builder, NULL), KM_OK);
    memset(key, 0, sizeof(key)); /* bits of zeros are flipped more rarely */
    for (uint8_t i = 0; i < 30; i++) {
        uint8_t value[3000] = {i, 1};
        key[sizeof(key) - 1] = i;
        CHECK_STATUS(km_sealed_builder_add(builder, km_bytes_of(key, sizeof(key)),
                                           km_bytes_of(value, sizeof(value))),
                     KM_OK);
        sealed_model_add(model, km_bytes_of(key, sizeof(key)), km_bytes_of(value, sizeof(value)));
    }
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
    table = open_sim(1);
    CHECK_STATUS(km_sealed_get_info(table, &info), KM_OK);
    CHECK(info.block_count > 5 && table->group_count > 1);
    CHECK(table->footer.index_offset < (info.block_count + 2) * SEALED_PAGE);
    km_sealed_close(table);
}

static void flipped_bits_of_many_groups_are_found(void **state)
{
    struct sealed_model model = {0};

    (void)state;
    if (!km__sealed_pack_exists())
        skip();
    build_groups(&model);
    flip_bits(&model, 997);
    sealed_model_free(&model);
}

static void a_table_cut_short_or_extended_is_refused(void **state)
{
    struct sealed_model model = {0};
    uint8_t *bytes = NULL;
    size_t size = 0;

    (void)state;
    small_table(&model, &sealed_looks[0]);
    CHECK(km__sim_read_path(machine, TABLE_PATH, &bytes, &size) == 0);
    for (size_t cut = 0; cut <= size + 8192; cut += 512) {
        km_sealed *table = NULL;
        km_status rc;
        CHECK(km__sim_truncate_path(machine, TABLE_PATH, cut) == 0);
        rc = km__sealed_open(machine, TABLE_PATH, NULL, &table, NULL);
        if (cut == size)
            CHECK_STATUS(rc, KM_OK);
        else
            CHECK(rc == KM_E_CORRUPT || rc == KM_E_NOT_A_STORE);
        km_sealed_close(table);
        CHECK(km__sim_truncate_path(machine, TABLE_PATH, 0) == 0);
        CHECK(km__sim_overwrite_path(machine, TABLE_PATH, 0, bytes, size) == 0);
    }
    free(bytes);
    sealed_model_free(&model);
}

/* A page of another table, or of another place, does not pass for this one's. */
static void swapped_pages_are_found(void **state)
{
    struct sealed_model model = {0}, other = {0};
    uint8_t *bytes = NULL, *other_bytes = NULL;
    size_t size = 0, other_size = 0;
    int verified;

    (void)state;
    small_table(&other, &sealed_looks[0]);
    CHECK(km__sim_read_path(machine, TABLE_PATH, &other_bytes, &other_size) == 0);
    small_table(&model, &sealed_looks[0]); /* the same records, another id */
    CHECK(km__sim_read_path(machine, TABLE_PATH, &bytes, &size) == 0);
    CHECK(size == other_size);
    for (size_t page = 0; page < size / SEALED_PAGE; page++) {
        uint64_t at = page * SEALED_PAGE;
        for (size_t from = 0; from < size / SEALED_PAGE; from++) {
            CHECK(km__sim_overwrite_path(machine, TABLE_PATH, at, other_bytes + from * SEALED_PAGE,
                                         SEALED_PAGE) == 0);
            (void)read_damaged(&model, &verified);
            CHECK(!verified);
            if (from == page)
                continue;
            CHECK(km__sim_overwrite_path(machine, TABLE_PATH, at, bytes + from * SEALED_PAGE,
                                         SEALED_PAGE) == 0);
            (void)read_damaged(&model, &verified);
            CHECK(!verified);
        }
        CHECK(km__sim_overwrite_path(machine, TABLE_PATH, at, bytes + at, SEALED_PAGE) == 0);
    }
    CHECK(read_damaged(&model, &verified) && verified);
    free(bytes);
    free(other_bytes);
    sealed_model_free(&model);
    sealed_model_free(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup_teardown(name, make_machine, destroy_machine)
        CASE(a_get_reads_once_and_an_absent_key_almost_never),
        CASE(neighbours_are_read_together),
        CASE(a_walk_reads_large_pieces),
        CASE(input_in_order_is_written_once),
        CASE(large_records_in_order_are_written_once),
        CASE(a_build_takes_the_disk_twice_at_most),
        CASE(an_open_table_takes_two_bytes_a_key_at_most),
        CASE(a_build_keeps_to_its_memory),
        CASE(each_failing_call_leaves_a_whole_table),
        CASE(a_build_without_memory_ends_cleanly),
        CASE(a_reader_without_memory_ends_cleanly),
        CASE(a_full_disk_is_said_so),
        CASE(a_folder_that_cannot_be_written_to_is_noticed_at_once),
        CASE(a_failed_build_stays_failed),
        CASE(a_failing_read_is_an_error),
        CASE(each_flipped_bit_is_an_error_or_harmless),
        CASE(flipped_bits_of_many_groups_are_found),
        CASE(a_table_cut_short_or_extended_is_refused),
        CASE(swapped_pages_are_found),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
