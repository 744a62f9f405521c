/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed_util.h -- what the tests of sealed tables share: records that numbers determine, an
 * obvious model of a table, and the comparison of a table with it.
 */
#ifndef KM_TEST_UNIT_TEST_SEALED_UTIL_H
#define KM_TEST_UNIT_TEST_SEALED_UTIL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/sealed_format.h"
#include "harness/harness_util.h"
#include "sealed/sealed.h"
#include "sim/sim.h"

/* How keys look, and how large values are. */
struct sealed_look {
    const char *name;
    km_sealed_keys keys;
    uint32_t key_style;      /* of bytes: 0 random ones, 1 text that shares much, 2 long ones */
    uint32_t value_size_max; /* 0: always empty */
    int value_is_fixed;
    int value_repeats; /* what its first bytes are: it can be compressed */
};

static const struct sealed_look sealed_looks[] = {
    {"u64, 100 bytes", KM_SEALED_U64, 0, 100, 1, 0},
    {"u32, varied", KM_SEALED_U32, 0, 300, 0, 0},
    {"u16, empty", KM_SEALED_U16, 0, 0, 1, 0},
    {"u8, 1000 bytes", KM_SEALED_U8, 0, 1000, 1, 0},
    {"bytes, small", KM_SEALED_BYTES, 0, 20, 0, 0},
    {"text, varied", KM_SEALED_BYTES, 1, 200, 0, 0},
    {"long keys, large", KM_SEALED_BYTES, 2, 9000, 0, 0},
    {"text, repeated", KM_SEALED_BYTES, 1, 400, 0, 1},
};
#define SEALED_LOOK_COUNT (sizeof(sealed_looks) / sizeof(sealed_looks[0]))

struct sealed_record {
    uint8_t *key;
    size_t key_size;
    uint64_t order; /* when it was added: of equal keys the last one counts */
    uint8_t *value;
    size_t value_size;
};

struct sealed_model {
    struct sealed_record *records; /* once it is sealed: in the order of keys, without equal ones */
    size_t count, capacity;
};

static inline uint64_t sealed_mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* The key that a number stands for. */
static inline size_t sealed_key(const struct sealed_look *look, uint64_t number, uint8_t key[4096])
{
    km_u64_key big = km_u64_key_from(look->keys == KM_SEALED_U64 ? sealed_mix(number) : number);
    uint64_t hash = sealed_mix(number + 77);
    size_t width = (size_t)look->keys;

    if (width) {
        memcpy(key, big.bytes + (8 - width), width);
        return width;
    }
    switch (look->key_style) {
    case 0: memcpy(key, &hash, 8); return number % 9; /* few short ones, the empty one too */
    case 1:
        return (size_t)snprintf((char *)key, 64, "user:%02u:%06llu", (unsigned)(number % 3),
                                (unsigned long long)(hash % 1000000));
    default:
        memset(key, 'k', 700);
        memcpy(key + 700, big.bytes, 8);
        memset(key + 708, (int)(number % 3), number % 600);
        return 708 + number % 600;
    }
}

static inline void sealed_model_add(struct sealed_model *model, km_bytes key, km_bytes value)
{
    struct sealed_record *record;

    if (model->count == model->capacity) {
        model->capacity = model->capacity ? 2 * model->capacity : 64;
        model->records = realloc(model->records, model->capacity * sizeof(*model->records));
        CHECK(model->records != NULL);
    }
    record = &model->records[model->count];
    record->key = malloc(key.size + 1);
    record->value = malloc(value.size + 1);
    CHECK(record->key != NULL && record->value != NULL);
    if (key.size)
        memcpy(record->key, key.data, key.size);
    if (value.size)
        memcpy(record->value, value.data, value.size);
    record->key_size = key.size;
    record->value_size = value.size;
    record->order = model->count++;
}

static inline km_bytes sealed_record_key(const struct sealed_record *record)
{
    return km_bytes_of(record->key, record->key_size);
}

static inline int sealed_compare_keys(km_bytes a, km_bytes b)
{
    size_t size = a.size < b.size ? a.size : b.size;
    int order = size ? memcmp(a.data, b.data, size) : 0;

    return order ? order : (a.size > b.size) - (a.size < b.size);
}

static inline int sealed_compare_records(const void *a, const void *b)
{
    const struct sealed_record *p = a;
    const struct sealed_record *q = b;
    int order = sealed_compare_keys(sealed_record_key(p), sealed_record_key(q));

    return order ? order : (p->order > q->order) - (p->order < q->order);
}

static inline void sealed_record_free(struct sealed_record *record)
{
    free(record->key);
    free(record->value);
}

/* Into the order of keys; of equal ones the last stays. */
static inline void sealed_model_seal(struct sealed_model *model)
{
    size_t kept = 0;

    if (model->count == 0)
        return;
    qsort(model->records, model->count, sizeof(*model->records), sealed_compare_records);
    for (size_t i = 0; i < model->count; i++) {
        if (i + 1 < model->count &&
            sealed_compare_keys(sealed_record_key(&model->records[i]),
                                sealed_record_key(&model->records[i + 1])) == 0)
            sealed_record_free(&model->records[i]);
        else
            model->records[kept++] = model->records[i];
    }
    model->count = kept;
}

static inline void sealed_model_free(struct sealed_model *model)
{
    for (size_t i = 0; i < model->count; i++)
        sealed_record_free(&model->records[i]);
    free(model->records);
    memset(model, 0, sizeof(*model));
}

/* The index of the first record that is not before a key. */
static inline size_t sealed_model_rank(const struct sealed_model *model, km_bytes key)
{
    size_t low = 0, high = model->count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (sealed_compare_keys(sealed_record_key(&model->records[middle]), key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static inline int sealed_model_has(const struct sealed_model *model, km_bytes key, size_t *out_rank)
{
    size_t rank = sealed_model_rank(model, key);

    *out_rank = rank;
    return rank < model->count &&
           sealed_compare_keys(sealed_record_key(&model->records[rank]), key) == 0;
}

/* `size` bytes that a number determines, and that compress well. */
static inline void sealed_fill_repeated(uint8_t *bytes, size_t size, uint64_t number)
{
    size_t first = size < 24 ? size : 24;

    harness_fill(bytes, first, number);
    for (size_t i = first; i < size; i++)
        bytes[i] = bytes[i - first];
}

/* Add the record of a number to a builder and a model. */
static inline km_status sealed_add_number(km_sealed_builder *builder, struct sealed_model *model,
                                          const struct sealed_look *look, uint64_t number,
                                          uint64_t version)
{
    uint8_t key[4096];
    size_t key_size = sealed_key(look, number, key);
    uint64_t hash = sealed_mix(number * 31 + version);
    size_t value_size = look->value_is_fixed ? look->value_size_max
                                             : (size_t)(hash % (look->value_size_max + 1));
    uint8_t *value = malloc(value_size + 1);
    km_status rc;

    CHECK(value != NULL);
    if (look->value_repeats)
        sealed_fill_repeated(value, value_size, hash);
    else
        harness_fill(value, value_size, hash);
    rc = km_sealed_builder_add(builder, km_bytes_of(key, key_size), km_bytes_of(value, value_size));
    if (model && !rc)
        sealed_model_add(model, km_bytes_of(key, key_size), km_bytes_of(value, value_size));
    free(value);
    return rc;
}

static inline int sealed_bytes_equal(km_bytes bytes, const uint8_t *data, size_t size)
{
    return bytes.size == size && (size == 0 || memcmp(bytes.data, data, size) == 0);
}

/* Every record of the model, by a walk and by a get; nothing else. */
static inline void sealed_check_all(const km_sealed *table, const struct sealed_model *model)
{
    km_sealed_cursor *cursor = NULL;
    km_buffer value = KM_BUFFER_INIT;
    km_bytes key, found;

    CHECK(km_sealed_count(table) == model->count);
    CHECK_STATUS(km_sealed_cursor_open(table, NULL, &cursor), KM_OK);
    for (size_t i = 0; i < model->count; i++) {
        const struct sealed_record *record = &model->records[i];
        CHECK_STATUS(km_sealed_cursor_next(cursor, &key, &found), KM_OK);
        CHECK(sealed_bytes_equal(key, record->key, record->key_size));
        CHECK(sealed_bytes_equal(found, record->value, record->value_size));
        CHECK_STATUS(km_sealed_get(table, key, &value), KM_OK);
        CHECK(sealed_bytes_equal(km_bytes_of(value.data, value.size), record->value,
                                 record->value_size));
    }
    CHECK_STATUS(km_sealed_cursor_next(cursor, &key, &found), KM_END);
    km_sealed_cursor_close(cursor);
    km_buffer_free(&value);
}

#endif
