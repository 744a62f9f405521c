/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed.c -- sealed tables against an obvious model: what goes in, in any order, comes out,
 * by every way of reading.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sealed/sealed_internal.h"
#include "test_sealed_util.h"

static char folder[HARNESS_PATH_SIZE];
static char path[HARNESS_PATH_SIZE];

static km_sealed_compression compression; /* of what is built next */
static uint64_t cache_size;               /* of what is opened next */

enum input_order { IN_ORDER, ALMOST_IN_ORDER, ANY_ORDER, INPUT_ORDER_COUNT };

/* ---- building ---------------------------------------------------------------------------- */

static km_sealed_builder *open_builder(km_sealed_keys keys, uint64_t memory_max)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;
    km_error error = {0};

    options.keys = keys;
    options.memory_max = memory_max;
    options.compression = compression;
    CHECK_MSG(km_sealed_builder_open(path, &options, &builder, &error) == KM_OK, "%s",
              error.message);
    return builder;
}

static void finish(km_sealed_builder *builder)
{
    km_error error = {0};

    CHECK_MSG(km_sealed_builder_finish(builder, &error) == KM_OK, "%s", error.message);
}

static km_sealed *open_table(int no_mapping)
{
    km_sealed_options options = KM_SEALED_OPTIONS_INIT;
    km_sealed *table = NULL;
    km_error error = {0};

    options.no_mapping = no_mapping;
    options.cache_size = cache_size;
    CHECK_MSG(km_sealed_open(path, &options, &table, &error) == KM_OK, "%s", error.message);
    return table;
}

static int compare_numbers_by_key(const void *a, const void *b, void *context)
{
    const struct sealed_look *look = context;
    uint8_t p[4096], q[4096];
    size_t p_size = sealed_key(look, *(const uint64_t *)a, p);
    size_t q_size = sealed_key(look, *(const uint64_t *)b, q);

    return sealed_compare_keys(km_bytes_of(p, p_size), km_bytes_of(q, q_size));
}

/* Numbers below `below`, in an order of their keys, with repetitions. */
static uint64_t *make_numbers(struct harness_random *random, const struct sealed_look *look,
                              size_t count, uint64_t below, enum input_order order)
{
    uint64_t *numbers = malloc((count + 1) * sizeof(*numbers));

    CHECK(numbers != NULL);
    for (size_t i = 0; i < count; i++)
        numbers[i] = harness_below(random, below);
    if (order != ANY_ORDER)
        qsort_r(numbers, count, sizeof(*numbers), compare_numbers_by_key, (void *)(uintptr_t)look);
    if (order == ALMOST_IN_ORDER && count > 1) {
        size_t at = harness_below(random, count - 1);
        uint64_t moved = numbers[at];
        numbers[at] = numbers[count - 1];
        numbers[count - 1] = moved;
    }
    return numbers;
}

static void build_from(const struct sealed_look *look, const uint64_t *numbers, size_t count,
                       struct sealed_model *model)
{
    km_sealed_builder *builder = open_builder(look->keys, KM_SEALED_MEMORY_MIN);

    for (size_t i = 0; i < count; i++)
        CHECK_STATUS(sealed_add_number(builder, model, look, numbers[i], i), KM_OK);
    finish(builder);
    sealed_model_seal(model);
}

/* ---- comparing --------------------------------------------------------------------------- */

/* A key of the model, one beside it, or any. */
static size_t random_key(struct harness_random *random, const struct sealed_look *look,
                         const struct sealed_model *model, uint8_t key[4096])
{
    uint64_t kind = harness_below(random, 4);
    size_t size;

    if (kind == 0 || model->count == 0)
        return sealed_key(look, harness_next(random), key);
    size = sealed_key(look, harness_below(random, 100000), key);
    if (kind == 1)
        return size;
    const struct sealed_record *record = &model->records[harness_below(random, model->count)];
    size = record->key_size;
    memcpy(key, record->key, size);
    if (kind == 2 || size == 0)
        return size;
    if (look->keys == KM_SEALED_BYTES && harness_below(random, 2))
        return harness_below(random, size); /* what it begins with */
    key[harness_below(random, size)] ^= (uint8_t)(1u << harness_below(random, 8));
    return size;
}

static void check_gets(const km_sealed *table, const struct sealed_look *look,
                       const struct sealed_model *model, struct harness_random *random)
{
    km_buffer value = KM_BUFFER_INIT;
    uint8_t key[4096];

    for (int i = 0; i < 2000; i++) {
        km_bytes wanted = km_bytes_of(key, random_key(random, look, model, key));
        size_t rank;
        int is_there = sealed_model_has(model, wanted, &rank);
        CHECK_STATUS(km_sealed_get(table, wanted, &value), is_there ? KM_OK : KM_NOT_FOUND);
        CHECK_STATUS(km_sealed_contains(table, wanted), is_there ? KM_OK : KM_NOT_FOUND);
        if (is_there)
            CHECK(sealed_bytes_equal(km_bytes_of(value.data, value.size),
                                     model->records[rank].value, model->records[rank].value_size));
    }
    km_buffer_free(&value);
}

static void check_get_many(const km_sealed *table, const struct sealed_look *look,
                           const struct sealed_model *model, struct harness_random *random)
{
    size_t count = harness_below(random, 600);
    uint8_t(*bytes)[4096] = malloc((count + 1) * sizeof(*bytes));
    km_bytes *keys = malloc((count + 1) * sizeof(*keys));
    km_bytes *values = malloc((count + 1) * sizeof(*values));
    km_buffer memory = KM_BUFFER_INIT;
    size_t found = 77, expected = 0, rank;

    CHECK(bytes && keys && values);
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && harness_below(random, 10) == 0)
            keys[i] = keys[harness_below(random, i)]; /* a repetition */
        else
            keys[i] = km_bytes_of(bytes[i], random_key(random, look, model, bytes[i]));
    }
    CHECK_STATUS(km_sealed_get_many(table, keys, count, &memory, values, &found), KM_OK);
    for (size_t i = 0; i < count; i++) {
        int is_there = sealed_model_has(model, keys[i], &rank);
        expected += (size_t)is_there;
        CHECK((values[i].data != NULL) == is_there);
        if (is_there)
            CHECK(sealed_bytes_equal(values[i], model->records[rank].value,
                                     model->records[rank].value_size));
    }
    CHECK(found == expected);
    km_buffer_free(&memory);
    free(bytes);
    free(keys);
    free(values);
}

static int begins_with(km_bytes key, km_bytes prefix)
{
    return key.size >= prefix.size && memcmp(key.data, prefix.data, prefix.size) == 0;
}

/* Where a range begins and ends, by looking at each record. */
static void range_of(const struct sealed_model *model, const km_range *range, size_t *out_begin,
                     size_t *out_end)
{
    size_t begin = model->count, end = 0;

    for (size_t i = 0; i < model->count; i++) {
        km_bytes key = sealed_record_key(&model->records[i]);
        if (range->from.data && sealed_compare_keys(key, range->from) < 0)
            continue;
        if (range->to.data && sealed_compare_keys(key, range->to) >= 0)
            continue;
        if (range->prefix.size && !begins_with(key, range->prefix))
            continue;
        begin = i < begin ? i : begin;
        end = i + 1;
    }
    *out_begin = begin < end ? begin : 0;
    *out_end = begin < end ? end : 0;
}

/* Steps back and forth, with seeks. `at` counts from the front, as the cursor's own does. */
static void walk_range(km_sealed_cursor *cursor, const struct sealed_look *look,
                       const struct sealed_model *model, struct harness_random *random,
                       const size_t range[2], int reverse)
{
    size_t at = reverse ? range[1] : range[0];
    uint8_t seek_key[4096];
    km_bytes key, value;

    for (int i = 0; i < 60; i++) {
        int forward = harness_below(random, 4) != 0;
        int up = forward != reverse;
        size_t rank = up ? at : at - 1;
        km_status expected = at == range[up ? 1 : 0] ? KM_END : KM_OK;
        CHECK_STATUS(forward ? km_sealed_cursor_next(cursor, &key, &value)
                             : km_sealed_cursor_previous(cursor, &key, &value),
                     expected);
        if (expected == KM_OK) {
            CHECK(sealed_bytes_equal(key, model->records[rank].key, model->records[rank].key_size));
            CHECK(sealed_bytes_equal(value, model->records[rank].value,
                                     model->records[rank].value_size));
            at = up ? at + 1 : at - 1;
        }
        if (harness_below(random, 16) == 0) {
            size_t size = random_key(random, look, model, seek_key);
            int is_there = sealed_model_has(model, km_bytes_of(seek_key, size), &at);
            CHECK_STATUS(km_sealed_cursor_seek(cursor, km_bytes_of(seek_key, size)), KM_OK);
            at += (size_t)(reverse && is_there);
            at = at < range[0] ? range[0] : at > range[1] ? range[1] : at;
        }
    }
}

static void check_cursors(const km_sealed *table, const struct sealed_look *look,
                          const struct sealed_model *model, struct harness_random *random)
{
    for (int i = 0; i < 40; i++) {
        km_sealed_cursor_options options = KM_SEALED_CURSOR_OPTIONS_INIT;
        km_sealed_cursor *cursor = NULL;
        uint8_t from[4096], to[4096], prefix[4096];
        uint64_t parts = harness_below(random, 8);
        size_t range[2];
        if (parts & 1)
            options.range.from = km_bytes_of(from, random_key(random, look, model, from));
        if (parts & 2)
            options.range.to = km_bytes_of(to, random_key(random, look, model, to));
        if (parts & 4) {
            size_t size = random_key(random, look, model, prefix);
            options.range.prefix = km_bytes_of(prefix, harness_below(random, size + 1));
            if (options.range.prefix.size && harness_below(random, 8) == 0)
                prefix[options.range.prefix.size - 1] = 0xff;
        }
        options.reverse = (int)harness_below(random, 2);
        range_of(model, &options.range, &range[0], &range[1]);
        CHECK_STATUS(km_sealed_cursor_open(table, &options, &cursor), KM_OK);
        CHECK(km_sealed_cursor_count(cursor) == range[1] - range[0]);
        if (range[0] < range[1])
            walk_range(cursor, look, model, random, range, options.reverse);
        else
            CHECK_STATUS(km_sealed_cursor_next(cursor, NULL, NULL), KM_END);
        km_sealed_cursor_close(cursor);
    }
}

static void check_table(const struct sealed_look *look, const struct sealed_model *model,
                        struct harness_random *random, int no_mapping)
{
    km_sealed *table = open_table(no_mapping);
    km_sealed_info info = {.struct_size = sizeof(info)};

    sealed_check_all(table, model);
    check_gets(table, look, model, random);
    check_get_many(table, look, model, random);
    check_cursors(table, look, model, random);
    CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
    CHECK_STATUS(km_sealed_get_info(table, &info), KM_OK);
    CHECK(info.count == model->count && info.keys == look->keys);
    CHECK(info.compression == compression);
    km_sealed_close(table);
}

/* ---- cases ------------------------------------------------------------------------------- */

static void what_goes_in_comes_out(void **state)
{
    (void)state;
    for (size_t i = 0; i < SEALED_LOOK_COUNT; i++) {
        for (int order = IN_ORDER; order < INPUT_ORDER_COUNT; order++) {
            const struct sealed_look *look = &sealed_looks[i];
            struct harness_random random = harness_stream(i * 16 + (uint64_t)order);
            struct sealed_model model = {0};
            /* enough for several runs of a build with little memory, where records are large */
            uint64_t below = look->keys == KM_SEALED_U8 ? 256 : 60000;
            size_t count = harness_scaled(1 + harness_below(&random, 12000));
            uint64_t *numbers = make_numbers(&random, look, count, below, (enum input_order)order);
            if (km__sealed_pack_exists())
                compression = (km_sealed_compression)harness_below(&random, 2);
            cache_size = harness_below(&random, 2) ? KM_SEALED_CACHE_SIZE_MIN : 0;
            build_from(look, numbers, count, &model);
            check_table(look, &model, &random, (int)harness_below(&random, 2));
            compression = KM_SEALED_PLAIN;
            cache_size = 0;
            sealed_model_free(&model);
            free(numbers);
        }
    }
}

static void tables_of_none_and_of_one(void **state)
{
    km_bytes sizes[] = {{"", 0}, {"k", 1}};
    struct sealed_model model = {0};
    struct harness_random random = harness_stream(1000);
    const struct sealed_look *look = &sealed_looks[4];

    (void)state;
    finish(open_builder(KM_SEALED_BYTES, 0));
    check_table(look, &model, &random, 0);
    for (size_t i = 0; i < 4; i++) {
        km_sealed_builder *builder = open_builder(KM_SEALED_BYTES, 0);
        CHECK_STATUS(km_sealed_builder_add(builder, sizes[i % 2], sizes[i / 2]), KM_OK);
        finish(builder);
        sealed_model_add(&model, sizes[i % 2], sizes[i / 2]);
        check_table(look, &model, &random, (int)(i % 2));
        sealed_model_free(&model);
    }
}

/* The last record of equal keys, wherever they meet: in memory, in a stream, in two runs. */
static void of_equal_keys_the_last_counts(void **state)
{
    static const uint32_t gaps[] = {0, 1, 30000};
    const struct sealed_look *look = &sealed_looks[0];

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        km_sealed_builder *builder = open_builder(look->keys, KM_SEALED_MEMORY_MIN);
        struct sealed_model model = {0};
        km_sealed *table;
        for (uint64_t n = 0; n < 40000; n++) {
            CHECK_STATUS(sealed_add_number(builder, &model, look, n, 1), KM_OK);
            if (n >= gaps[i] && n % 3 == 0)
                CHECK_STATUS(sealed_add_number(builder, &model, look, n - gaps[i], 2), KM_OK);
        }
        finish(builder);
        sealed_model_seal(&model);
        table = open_table(0);
        sealed_check_all(table, &model);
        km_sealed_close(table);
        sealed_model_free(&model);
    }
}

/* A record that replaces the last one may be larger than what its block has room for. */
static void a_replacement_may_be_of_any_size(void **state)
{
    struct harness_random random = harness_stream(2000);
    km_sealed_builder *builder = open_builder(KM_SEALED_U64, KM_SEALED_MEMORY_MIN);
    struct sealed_model model = {0};
    uint8_t value[8000];
    km_sealed *table;

    (void)state;
    harness_fill(value, sizeof(value), 5);
    for (uint64_t n = 0; n < 3000; n++) {
        km_u64_key key = km_u64_key_from(n * 1000);
        uint64_t times = 1 + harness_below(&random, 3);
        for (uint64_t i = 0; i < times; i++) {
            uint64_t limit = harness_below(&random, 5) ? 200 : sizeof(value);
            km_bytes bytes = km_bytes_of(value, harness_below(&random, limit));
            CHECK_STATUS(km_sealed_builder_add_number(builder, n * 1000, bytes), KM_OK);
            sealed_model_add(&model, km_bytes_of(key.bytes, 8), bytes);
        }
    }
    finish(builder);
    sealed_model_seal(&model);
    table = open_table(0);
    sealed_check_all(table, &model);
    CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
    km_sealed_close(table);
    sealed_model_free(&model);
}

/* Larger than a block, than what a run's buffer takes, than the memory of the build. */
static void values_may_be_large(void **state)
{
    static const size_t sizes[] = {3000000, 70000, 65536, 65000, 4096, 0, 1500000};
    struct sealed_model model = {0};
    km_sealed_builder *builder = open_builder(KM_SEALED_BYTES, KM_SEALED_MEMORY_MIN);
    uint8_t *value = malloc(3000000);
    uint8_t key[4];
    km_sealed *table;

    (void)state;
    CHECK(value != NULL);
    for (uint32_t i = 0; i < 40; i++) {
        km_bytes bytes = km_bytes_of(value, sizes[i % 7]);
        harness_fill(value, bytes.size, i);
        km__store32(key, (uint32_t)sealed_mix(i % 35));
        CHECK_STATUS(km_sealed_builder_add(builder, km_bytes_of(key, 4), bytes), KM_OK);
        sealed_model_add(&model, km_bytes_of(key, 4), bytes);
    }
    finish(builder);
    sealed_model_seal(&model);
    for (int no_mapping = 0; no_mapping < 2; no_mapping++) {
        table = open_table(no_mapping);
        sealed_check_all(table, &model);
        CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
        km_sealed_close(table);
    }
    sealed_model_free(&model);
    free(value);
}

/* The largest keys, which differ in their last bytes: separators as long as they can be. */
static void keys_may_be_long(void **state)
{
    struct sealed_model model = {0};
    km_sealed_builder *builder = open_builder(KM_SEALED_BYTES, KM_SEALED_MEMORY_MIN);
    uint8_t *key = calloc(1, KM_KEY_SIZE_MAX + 1);
    uint8_t value[3000] = {1};
    km_sealed *table;

    (void)state;
    CHECK(key != NULL);
    for (uint32_t i = 0; i < 100; i++) {
        km_bytes bytes = km_bytes_of(key, i % 5 ? KM_KEY_SIZE_MAX : KM_KEY_SIZE_MAX - i);
        key[KM_KEY_SIZE_MAX - 2] = (uint8_t)(sealed_mix(i) % 61);
        key[i % 4 ? 5 : KM_KEY_SIZE_MAX - 1] = (uint8_t)i;
        CHECK_STATUS(km_sealed_builder_add(builder, bytes, km_bytes_of(value, i * 30)), KM_OK);
        sealed_model_add(&model, bytes, km_bytes_of(value, i * 30));
    }
    CHECK_STATUS(km_sealed_builder_add(builder, km_bytes_of(key, KM_KEY_SIZE_MAX + 1),
                                       km_bytes_of(value, 1)),
                 KM_E_TOO_BIG);
    finish(builder);
    sealed_model_seal(&model);
    table = open_table(0);
    sealed_check_all(table, &model);
    CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
    CHECK_STATUS(km_sealed_contains(table, km_bytes_of(key, KM_KEY_SIZE_MAX + 1)), KM_E_INVALID);
    km_sealed_close(table);
    sealed_model_free(&model);
    free(key);
}

static void numbers_are_keys_of_their_width(void **state)
{
    static const km_sealed_keys widths[] = {KM_SEALED_U8, KM_SEALED_U16, KM_SEALED_U32,
                                            KM_SEALED_U64};
    km_buffer value = KM_BUFFER_INIT;

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        uint32_t bits = 8 * (uint32_t)widths[i];
        uint64_t last = bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;
        km_sealed_builder *builder = open_builder(widths[i], 0);
        km_sealed_cursor *cursor = NULL;
        km_sealed *table;
        km_bytes key;
        CHECK_STATUS(km_sealed_builder_add_number(builder, last, km_bytes_of("last", 4)), KM_OK);
        CHECK_STATUS(km_sealed_builder_add_number(builder, 3, km_bytes_of("3", 1)), KM_OK);
        CHECK_STATUS(
            km_sealed_builder_add(builder, km_bytes_of("123456789", 9), key = (km_bytes){NULL, 0}),
            KM_E_INVALID);
        if (last != UINT64_MAX)
            CHECK_STATUS(km_sealed_builder_add_number(builder, last + 1, km_bytes_of("", 0)),
                         KM_E_INVALID);
        finish(builder);
        table = open_table(0);
        CHECK_STATUS(km_sealed_get_number(table, last, &value), KM_OK);
        CHECK(value.size == 4 && memcmp(value.data, "last", 4) == 0);
        CHECK_STATUS(km_sealed_get_number(table, 4, &value), KM_NOT_FOUND);
        if (last != UINT64_MAX)
            CHECK_STATUS(km_sealed_get_number(table, last + 4, &value), KM_NOT_FOUND);
        CHECK_STATUS(km_sealed_get(table, km_bytes_of("123456789", 9), &value), KM_E_INVALID);
        CHECK_STATUS(km_sealed_cursor_open(table, NULL, &cursor), KM_OK);
        CHECK_STATUS(km_sealed_cursor_next(cursor, &key, NULL), KM_OK);
        CHECK(km_sealed_number(key) == 3);
        CHECK_STATUS(km_sealed_cursor_next(cursor, &key, NULL), KM_OK);
        CHECK(km_sealed_number(key) == last);
        km_sealed_cursor_close(cursor);
        km_sealed_close(table);
    }
    km_buffer_free(&value);
}

static void numbering_is_automatic(void **state)
{
    km_sealed_builder *builder = open_builder(KM_SEALED_U8, 0);
    km_buffer value = KM_BUFFER_INIT;
    km_sealed *table;
    uint64_t number;

    (void)state;
    for (uint64_t i = 0; i < 256; i++) {
        CHECK_STATUS(km_sealed_builder_add_next(builder, km_bytes_of(&i, 8), &number), KM_OK);
        CHECK(number == i);
    }
    CHECK_STATUS(km_sealed_builder_add_next(builder, km_bytes_of(&number, 8), NULL), KM_E_INVALID);
    finish(builder);
    table = open_table(0);
    CHECK(km_sealed_count(table) == 256);
    for (uint64_t i = 0; i < 256; i++) {
        CHECK_STATUS(km_sealed_get_number(table, i, &value), KM_OK);
        CHECK(value.size == 8 && memcmp(value.data, &i, 8) == 0);
    }
    km_sealed_close(table);
    km_buffer_free(&value);
    builder = open_builder(KM_SEALED_BYTES, 0);
    CHECK_STATUS(km_sealed_builder_add_next(builder, km_bytes_of("v", 1), NULL), KM_E_INVALID);
    km_sealed_builder_abort(builder);
}

/* ---- callbacks --------------------------------------------------------------------------- */

struct source {
    uint32_t given;
    uint32_t count;
    int code; /* at the end */
    uint8_t key[4];
};

static int next_of_source(void *context, km_bytes *out_key, km_bytes *out_value)
{
    struct source *source = context;

    if (source->given == source->count)
        return source->code;
    km__store32(source->key, (uint32_t)sealed_mix(source->given++));
    *out_key = km_bytes_of(source->key, 4);
    *out_value = km_bytes_of("value", 5);
    return 0;
}

static int count_name(void *context, const char *name)
{
    (void)name;
    (*(int *)context)++;
    return KM_OK;
}

static int names_in_folder(void)
{
    struct os *os = km__os_linux();
    struct os_dir *dir = NULL;
    int count = 0;

    CHECK_STATUS(os->ops->open_dir(os, folder, &dir), KM_OK);
    CHECK_STATUS(os->ops->list(dir, (km_status(*)(void *, const char *))count_name, &count), KM_OK);
    os->ops->close_dir(dir);
    return count;
}

static void an_error_of_the_source_comes_back(void **state)
{
    struct source whole = {.count = 20000, .code = KM_END};
    struct source broken = {.count = 20000, .code = -12345};
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed *table;

    (void)state;
    options.memory_max = KM_SEALED_MEMORY_MIN;
    (void)unlink(path);
    CHECK(km_sealed_build(path, &options, next_of_source, &broken, NULL) == -12345);
    CHECK(names_in_folder() == 0);
    CHECK(km_sealed_build(path, &options, next_of_source, &whole, NULL) == KM_OK);
    broken.given = 0;
    CHECK(km_sealed_build(path, &options, next_of_source, &broken, NULL) == -12345);
    CHECK(names_in_folder() == 1);
    options.keys = KM_SEALED_U64; /* 4 bytes are not */
    whole.given = 0;
    CHECK(km_sealed_build(path, &options, next_of_source, &whole, NULL) == KM_E_INVALID);
    CHECK(names_in_folder() == 1);
    table = open_table(0);
    CHECK(km_sealed_count(table) == 20000);
    km_sealed_close(table);
}

struct stop {
    uint64_t calls, stop_at;
    uint64_t merge_calls, last_done;
};

static int stop_at_call(void *context, uint64_t done, uint64_t total)
{
    struct stop *stop = context;

    if (total) {
        CHECK(done <= total && done >= stop->last_done);
        stop->last_done = done;
        stop->merge_calls++;
    }
    return ++stop->calls == stop->stop_at;
}

static void progress_is_told_and_may_stop(void **state)
{
    const struct sealed_look *look = &sealed_looks[0];
    uint64_t calls = 0;

    (void)state;
    (void)unlink(path);
    for (uint64_t stop_at = 0; stop_at <= calls; stop_at++) {
        struct stop stop = {.stop_at = stop_at};
        km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
        km_sealed_builder *builder = NULL;
        km_error error = {0};
        km_status rc = KM_OK;
        options.keys = look->keys;
        options.memory_max = KM_SEALED_MEMORY_MIN;
        options.progress = stop_at_call;
        options.progress_context = &stop;
        CHECK_STATUS(km_sealed_builder_open(path, &options, &builder, NULL), KM_OK);
        for (uint64_t n = 0; !rc && n < 40000; n++)
            rc = sealed_add_number(builder, NULL, look, n, 0);
        CHECK(rc == KM_OK || (rc == KM_STOPPED && stop_at > 0));
        rc = km_sealed_builder_finish(builder, &error);
        CHECK_STATUS(rc, stop_at ? KM_STOPPED : KM_OK);
        CHECK(stop_at == 0 || error.status == KM_STOPPED);
        CHECK(names_in_folder() == (stop_at ? 0 : 1));
        if (stop_at == 0) {
            calls = stop.calls;
            CHECK(stop.merge_calls >= 3 && calls > stop.merge_calls + 3);
            (void)unlink(path);
        }
    }
}

/* ---- what is read back --------------------------------------------------------------------- */

/* A bit of each read that a merge makes is flipped, one build after the other. */
static uint64_t reads_to_flip;

static km_status read_flipped(struct os_file *file, uint64_t offset, void *buffer, size_t size)
{
    km_status rc = km__os_linux()->ops->read_at(file, offset, buffer, size);

    if (reads_to_flip > 0 && --reads_to_flip == 0)
        ((uint8_t *)buffer)[sealed_mix(offset + size) % size] ^= 4;
    return rc;
}

static km_status build_on(struct os *os, uint64_t count)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;

    options.keys = KM_SEALED_U64;
    options.memory_max = KM_SEALED_MEMORY_MIN;
    CHECK_STATUS(km__sealed_builder_open(os, path, &options, &builder, NULL), KM_OK);
    for (uint64_t i = 0; i < count; i++)
        CHECK_STATUS(sealed_add_number(builder, NULL, &sealed_looks[0], i, 0), KM_OK);
    return km_sealed_builder_finish(builder, NULL);
}

static void what_a_merge_reads_is_checked(void **state)
{
    struct os_ops ops = *km__os_linux()->ops;
    struct os os = *km__os_linux();
    uint64_t corrupt = 0, nth = 0;

    (void)state;
    ops.read_at = read_flipped;
    os.ops = &ops;
    for (;;) {
        km_status rc;
        reads_to_flip = ++nth;
        rc = build_on(&os, 20000);
        CHECK(rc == KM_OK || rc == KM_E_CORRUPT);
        if (rc == KM_OK) { /* a zero behind a block, or there are not so many reads */
            km_sealed *table = open_table(0);
            CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
            CHECK(km_sealed_count(table) == 20000);
            km_sealed_close(table);
        }
        corrupt += rc == KM_E_CORRUPT;
        if (reads_to_flip > 0)
            break;
    }
    reads_to_flip = 0;
    CHECK_MSG(nth > 4 && corrupt >= nth - 3, "%llu of %llu", (unsigned long long)corrupt,
              (unsigned long long)nth);
}

/* ---- arguments --------------------------------------------------------------------------- */

static void arguments_outside_their_limits_are_refused(void **state)
{
    static const char *const bad_paths[] = {"", "/", "x/", "..", "./."};
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;
    km_sealed *table = NULL;
    char long_name[400];
    km_error error;

    (void)state;
    for (size_t i = 0; i < sizeof(bad_paths) / sizeof(bad_paths[0]); i++) {
        CHECK_STATUS(km_sealed_builder_open(bad_paths[i], NULL, &builder, &error), KM_E_INVALID);
        CHECK_STATUS(km_sealed_open(bad_paths[i], NULL, &table, &error), KM_E_INVALID);
    }
    memset(long_name, 'n', sizeof(long_name));
    long_name[250] = '\0';
    CHECK_STATUS(km_sealed_builder_open(long_name, NULL, &builder, &error), KM_E_INVALID);
    CHECK_STATUS(km_sealed_builder_open("/no/such/folder", NULL, &builder, &error), KM_NOT_FOUND);
    CHECK(error.status == KM_NOT_FOUND && error.message[0] != '\0');
    CHECK_STATUS(km_sealed_open("/no/such/folder", NULL, &table, NULL), KM_NOT_FOUND);
    options.keys = (km_sealed_keys)3;
    CHECK_STATUS(km_sealed_builder_open(path, &options, &builder, NULL), KM_E_INVALID);
    options.keys = KM_SEALED_BYTES;
    options.memory_max = 1000;
    CHECK_STATUS(km_sealed_builder_open(path, &options, &builder, NULL), KM_E_INVALID);
    options.memory_max = 0;
    options.block_size = 5000;
    CHECK_STATUS(km_sealed_builder_open(path, &options, &builder, NULL), KM_E_INVALID);
    CHECK_STATUS(km_sealed_open(folder, NULL, &table, NULL), KM_E_INVALID);
}

static void what_is_no_table_is_refused(void **state)
{
    struct os *os = km__os_linux();
    uint8_t bytes[9000] = {'K', 'M'};
    static const size_t sizes[] = {0, 1, 8, 4096, 9000};

    (void)state;
    for (size_t i = 0; i < 5; i++) {
        struct os_dir *dir = NULL;
        struct os_file *file = NULL;
        km_sealed *table = NULL;
        (void)unlink(path);
        CHECK_STATUS(os->ops->open_dir(os, folder, &dir), KM_OK);
        CHECK_STATUS(os->ops->open_file(dir, "table", OS_CREATE_NEW, &file), KM_OK);
        CHECK_STATUS(os->ops->write_at(file, 0, bytes, sizes[i]), KM_OK);
        os->ops->close_file(file);
        os->ops->close_dir(dir);
        CHECK_STATUS(km_sealed_open(path, NULL, &table, NULL), KM_E_NOT_A_STORE);
    }
    (void)unlink(path);
}

/* ---- replacing while reading ------------------------------------------------------------- */

#define GENERATION_KEYS 3000u

static void build_generation(uint64_t generation)
{
    km_sealed_builder *builder = open_builder(KM_SEALED_U64, KM_SEALED_MEMORY_MIN);
    uint8_t value[64];

    for (uint64_t i = 0; i < GENERATION_KEYS; i++) {
        uint64_t number = generation % 2 ? i : GENERATION_KEYS - 1 - i;
        harness_value_fill(value, sizeof(value), number, generation);
        CHECK_STATUS(km_sealed_builder_add_number(builder, number, km_bytes_of(value, 64)), KM_OK);
    }
    finish(builder);
}

/* Every answer of an open table is of one generation; returned is which. */
static uint64_t check_generation(const km_sealed *table, struct harness_random *random)
{
    km_sealed_cursor *cursor = NULL;
    km_buffer value = KM_BUFFER_INIT;
    km_bytes key, found;
    uint64_t generation;

    CHECK_STATUS(km_sealed_get_number(table, 0, &value), KM_OK);
    generation = harness_value_version(km_bytes_of(value.data, value.size), 0);
    for (int i = 0; i < 50; i++) {
        uint64_t number = harness_below(random, GENERATION_KEYS);
        CHECK_STATUS(km_sealed_get_number(table, number, &value), KM_OK);
        CHECK(harness_value_version(km_bytes_of(value.data, value.size), number) == generation);
    }
    CHECK_STATUS(km_sealed_cursor_open(table, NULL, &cursor), KM_OK);
    for (uint64_t number = 0; number < GENERATION_KEYS; number++) {
        CHECK_STATUS(km_sealed_cursor_next(cursor, &key, &found), KM_OK);
        CHECK(harness_value_version(found, number) == generation);
    }
    km_sealed_cursor_close(cursor);
    km_buffer_free(&value);
    return generation;
}

static void a_replaced_table_stays_readable(void **state)
{
    struct harness_random random = harness_stream(3000);
    km_sealed *old, *mapped, *young;

    (void)state;
    build_generation(1);
    old = open_table(1);
    mapped = open_table(0);
    build_generation(2);
    young = open_table(0);
    CHECK(check_generation(old, &random) == 1);
    CHECK(check_generation(mapped, &random) == 1);
    CHECK(check_generation(young, &random) == 2);
    km_sealed_close(old);
    km_sealed_close(mapped);
    km_sealed_close(young);
}

static atomic_int stop_readers;

static void *read_generations(void *context)
{
    struct harness_random random = harness_stream(4000 + (uint64_t)(uintptr_t)context);
    uint64_t last = 0;

    do {
        km_sealed *table = open_table((int)harness_below(&random, 2));
        uint64_t generation = check_generation(table, &random);
        CHECK(generation >= last);
        last = generation;
        km_sealed_close(table);
    } while (!atomic_load(&stop_readers));
    return NULL;
}

static void read_in_threads(void)
{
    pthread_t threads[4];

    for (uintptr_t i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, read_generations, (void *)i) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

static void *read_in_background(void *context)
{
    (void)context;
    read_in_threads();
    return NULL;
}

/* 2 processes with 4 readers each, while a third thing builds generations one after the other. */
static void readers_see_whole_generations(void **state)
{
    pthread_t readers;
    int status = 0;
    pid_t child;
    int ends[2];

    (void)state;
    build_generation(1);
    CHECK(pipe(ends) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char byte;
        close(ends[1]);
        CHECK(pthread_create(&readers, NULL, read_in_background, NULL) == 0);
        (void)!read(ends[0], &byte, 1); /* until the parent is done, or gone */
        atomic_store(&stop_readers, 1);
        pthread_join(readers, NULL);
        _exit(0);
    }
    close(ends[0]);
    CHECK(pthread_create(&readers, NULL, read_in_background, NULL) == 0);
    for (uint64_t generation = 2; generation < 2 + harness_scaled(60); generation++)
        build_generation(generation);
    atomic_store(&stop_readers, 1);
    pthread_join(readers, NULL);
    close(ends[1]);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(names_in_folder() == 1);
}

/* One open table, many threads. */
static void *read_shared(void *context)
{
    struct harness_random random = harness_stream(5000 + harness_now_ns() % 100);

    for (int i = 0; i < 20; i++)
        CHECK(check_generation(context, &random) == 7);
    return NULL;
}

static void threads_share_a_table(void **state)
{
    pthread_t threads[4];
    km_sealed *table;

    (void)state;
    build_generation(7);
    table = open_table(0);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, read_shared, table) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    km_sealed_close(table);
}

/* Two builds of one table at once: each publishes a whole one, the last one stays. */
static void builds_of_one_table_do_not_disturb_each_other(void **state)
{
    km_sealed_builder *first = open_builder(KM_SEALED_U64, 0);
    km_sealed_builder *second;
    km_sealed *table;

    (void)state;
    for (uint64_t i = 0; i < 30000; i++) /* enough for a file of its own */
        CHECK_STATUS(
            km_sealed_builder_add_number(first, i, km_bytes_of("the first ..........", 20)), KM_OK);
    for (uint64_t i = 0; i < 30000; i++)
        CHECK_STATUS(
            km_sealed_builder_add_number(first, i + 30000, km_bytes_of("the first ..........", 20)),
            KM_OK);
    second = open_builder(KM_SEALED_U64, 0); /* sweeps, but not what the first has */
    CHECK_STATUS(km_sealed_builder_add_number(second, 5, km_bytes_of("second", 6)), KM_OK);
    finish(second);
    table = open_table(0);
    CHECK(km_sealed_count(table) == 1);
    km_sealed_close(table);
    finish(first);
    table = open_table(0);
    CHECK(km_sealed_count(table) == 60000);
    CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
    km_sealed_close(table);
    CHECK(names_in_folder() == 1);
}

/* A child of the process that opened a table reads on. */
static void a_child_reads_an_open_table(void **state)
{
    struct harness_random random = harness_stream(6000);
    km_sealed *table;
    int status = 0;
    pid_t child;

    (void)state;
    build_generation(3);
    table = open_table(0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(check_generation(table, &random) == 3 ? 0 : 1);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    km_sealed_close(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readers_see_whole_generations), /* first: it forks */
        cmocka_unit_test(a_child_reads_an_open_table),
        cmocka_unit_test(what_goes_in_comes_out),
        cmocka_unit_test(tables_of_none_and_of_one),
        cmocka_unit_test(of_equal_keys_the_last_counts),
        cmocka_unit_test(a_replacement_may_be_of_any_size),
        cmocka_unit_test(values_may_be_large),
        cmocka_unit_test(keys_may_be_long),
        cmocka_unit_test(numbers_are_keys_of_their_width),
        cmocka_unit_test(numbering_is_automatic),
        cmocka_unit_test(an_error_of_the_source_comes_back),
        cmocka_unit_test(progress_is_told_and_may_stop),
        cmocka_unit_test(what_a_merge_reads_is_checked),
        cmocka_unit_test(arguments_outside_their_limits_are_refused),
        cmocka_unit_test(what_is_no_table_is_refused),
        cmocka_unit_test(a_replaced_table_stays_readable),
        cmocka_unit_test(threads_share_a_table),
        cmocka_unit_test(builds_of_one_table_do_not_disturb_each_other),
    };

    harness_begin();
    harness_make_folder(folder);
    harness_path(path, folder, "table");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
