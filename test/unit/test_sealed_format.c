/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed_format.c -- the bytes of sealed tables: what is encoded decodes to the same, damage
 * is found, the examples of FORMAT.md, 14, are what is written.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/crc32c.h"
#include "test_sealed_util.h"

static const uint8_t example_id[SEALED_ID_SIZE] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                   8, 9, 10, 11, 12, 13, 14, 15};

/* ---- header and footer ------------------------------------------------------------------- */

static struct sealed_footer example_footer(void)
{
    struct sealed_footer footer = {.key_width = 8,
                                   .block_size = 4096,
                                   .created_ms = 1700000000000,
                                   .count = 100,
                                   .block_count = 3,
                                   .group_count = 1,
                                   .key_bytes = 800,
                                   .value_bytes = 10000,
                                   .index_offset = 4 * SEALED_PAGE,
                                   .index_size = 250};

    memcpy(footer.id, example_id, sizeof(footer.id));
    return footer;
}

#define EXAMPLE_SIZE (6 * (uint64_t)SEALED_PAGE)

static void a_footer_decodes_to_what_was_encoded(void **state)
{
    struct sealed_footer footer = example_footer(), out;
    uint8_t bytes[SEALED_PAGE], again[SEALED_PAGE];

    (void)state;
    km__sealed_footer_encode(&footer, bytes);
    CHECK_STATUS(km__sealed_footer_decode(bytes, EXAMPLE_SIZE, &out), KM_OK);
    km__sealed_footer_encode(&out, again);
    CHECK(memcmp(bytes, again, sizeof(bytes)) == 0);
    CHECK(out.count == 100 && out.index_size == 250 && out.key_width == 8);
    CHECK_STATUS(km__sealed_footer_decode(bytes, EXAMPLE_SIZE + SEALED_PAGE, &out), KM_E_CORRUPT);
}

static void each_bit_of_header_and_footer_counts(void **state)
{
    struct sealed_footer footer = example_footer();
    uint8_t bytes[SEALED_PAGE], id[SEALED_ID_SIZE];

    (void)state;
    km__sealed_footer_encode(&footer, bytes);
    for (size_t bit = 0; bit < 8 * sizeof(bytes); bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK_STATUS(km__sealed_footer_decode(bytes, EXAMPLE_SIZE, &footer), KM_E_CORRUPT);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    km__sealed_header_encode(example_id, bytes);
    CHECK(km__sealed_has_magic(bytes));
    for (size_t bit = 0; bit < 8 * sizeof(bytes); bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK_STATUS(km__sealed_header_decode(bytes, id), KM_E_CORRUPT);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CHECK_STATUS(km__sealed_header_decode(bytes, id), KM_OK);
    CHECK(memcmp(id, example_id, sizeof(id)) == 0);
}

static void sum_structure_anew(uint8_t *bytes)
{
    km__store32(bytes + 20, 0);
    km__store32(bytes + 20, km__crc32c(0, bytes, SEALED_PAGE));
}

/* A field of 4 or 8 bytes of a footer whose checksum is right. */
static km_status decode_footer_with(size_t offset, size_t size, uint64_t value)
{
    struct sealed_footer footer = example_footer();
    uint8_t bytes[SEALED_PAGE];

    km__sealed_footer_encode(&footer, bytes);
    if (size == 4)
        km__store32(bytes + offset, (uint32_t)value);
    else
        km__store64(bytes + offset, value);
    sum_structure_anew(bytes);
    return km__sealed_footer_decode(bytes, EXAMPLE_SIZE, &footer);
}

static void a_footer_of_the_future_is_refused_and_bad_fields_are_damage(void **state)
{
    static const struct {
        size_t offset, size;
        uint64_t value;
        km_status expected;
    } fields[] = {
        {8, 4, 2, KM_E_VERSION},
        {8, 4, 0, KM_E_CORRUPT},
        {12, 4, 1, KM_E_VERSION},
        {16, 4, 1, KM_OK},
        {40, 4, 3, KM_E_CORRUPT},
        {40, 4, 4, KM_OK},
        {44, 4, 0, KM_E_CORRUPT},
        {44, 4, 5000, KM_E_CORRUPT},
        {44, 4, 65536, KM_OK},
        {44, 4, 69632, KM_E_CORRUPT},
        {56, 8, 0, KM_E_CORRUPT},
        {56, 8, 2, KM_E_CORRUPT},
        {64, 8, 4, KM_E_CORRUPT},
        {64, 8, 0, KM_E_CORRUPT},
        {72, 8, 4, KM_E_CORRUPT},
        {72, 8, 0, KM_E_CORRUPT},
        {96, 8, 0, KM_E_CORRUPT},
        {96, 8, 4097, KM_E_CORRUPT},
        {96, 8, 5 * 4096, KM_E_CORRUPT},
        {104, 8, 5000, KM_E_CORRUPT},
        {104, 8, UINT64_MAX, KM_E_CORRUPT},
        {96, 8, UINT64_MAX - 4095, KM_E_CORRUPT},
        {104, 8, 23, KM_E_CORRUPT},
        {112, 4, 1, KM_OK},
        {112, 4, 2, KM_E_VERSION},
        {116, 4, 1, KM_E_CORRUPT},
        {120, 8, 1, KM_E_CORRUPT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        CHECK_MSG(decode_footer_with(fields[i].offset, fields[i].size, fields[i].value) ==
                      fields[i].expected,
                  "field %zu", i);
}

/* ---- blocks ------------------------------------------------------------------------------ */

struct example_block {
    uint8_t bytes[SEALED_BLOCK_SIZE_MAX];
    size_t size;
};

/* Records of a model, which has to fit. */
static void encode_block(const struct sealed_model *model, uint32_t seed, struct example_block *out)
{
    static uint32_t suffix_sizes[SEALED_BLOCK_RECORDS_MAX], value_sizes[SEALED_BLOCK_RECORDS_MAX];
    static uint8_t suffixes[SEALED_BLOCK_SIZE_MAX], values[SEALED_BLOCK_SIZE_MAX];
    const struct sealed_record *first = &model->records[0];
    const struct sealed_record *last = &model->records[model->count - 1];
    struct sealed_records records = {.prefix = first->key,
                                     .suffix_sizes = suffix_sizes,
                                     .suffixes = suffixes,
                                     .value_sizes = value_sizes,
                                     .values = values};
    struct sealed_shape *shape = &records.shape;
    size_t suffix_at = 0;

    shape->count = (uint32_t)model->count;
    shape->prefix_size = (uint32_t)km__sealed_common_prefix(sealed_record_key(first),
                                                            sealed_record_key(last));
    for (size_t i = 0; i < model->count; i++) {
        const struct sealed_record *record = &model->records[i];
        suffix_sizes[i] = (uint32_t)(record->key_size - shape->prefix_size);
        memcpy(suffixes + suffix_at, record->key + shape->prefix_size, suffix_sizes[i]);
        memcpy(values + shape->value_bytes, record->value, record->value_size);
        value_sizes[i] = (uint32_t)record->value_size;
        suffix_at += suffix_sizes[i];
        shape->key_bytes += record->key_size;
        shape->value_bytes += record->value_size;
        shape->keys_vary |= suffix_sizes[i] != suffix_sizes[0];
        shape->values_vary |= value_sizes[i] != value_sizes[0];
    }
    km__sealed_block_encode_head(&records, seed, out->bytes);
    memcpy(out->bytes + km__sealed_shape_head_size(shape), values, shape->value_bytes);
    out->size = km__sealed_shape_size(shape);
    while (out->size % SEALED_PAGE != 0)
        out->bytes[out->size++] = 0;
    CHECK(km__sealed_block_extent(out->bytes) == out->size);
}

static void make_records(struct sealed_model *model, const struct sealed_look *look, size_t count,
                         size_t value_size_max)
{
    uint8_t key[4096], value[4096];

    for (size_t i = 0; i < count; i++) {
        size_t key_size = sealed_key(look, i * 7, key);
        size_t value_size = look->value_is_fixed ? value_size_max : i * 31 % (value_size_max + 1);
        harness_fill(value, value_size, i);
        sealed_model_add(model, km_bytes_of(key, key_size), km_bytes_of(value, value_size));
    }
    sealed_model_seal(model);
}

static void check_block(const struct sealed_block *block, const struct sealed_model *model)
{
    km_bytes value;
    uint32_t index;

    CHECK(block->count == model->count);
    CHECK_STATUS(km__sealed_block_check_values(block), KM_OK);
    for (size_t i = 0; i < model->count; i++) {
        const struct sealed_record *record = &model->records[i];
        CHECK_STATUS(km__sealed_block_find(block, sealed_record_key(record), &index), KM_OK);
        CHECK(index == i);
        CHECK_STATUS(km__sealed_block_checked_value(block, index, &value), KM_OK);
        CHECK(sealed_bytes_equal(value, record->value, record->value_size));
    }
}

static void check_ranks(const struct sealed_block *block, const struct sealed_model *model)
{
    struct harness_random random = harness_stream(1);

    for (int i = 0; i < 500; i++) {
        uint8_t key[12];
        uint32_t index = 0;
        size_t rank, size = harness_below(&random, sizeof(key));
        int is_there;
        km__store64(key, harness_next(&random));
        if (harness_below(&random, 2) && model->records[0].key_size >= 4)
            memcpy(key, model->records[harness_below(&random, model->count)].key, 4);
        is_there = sealed_model_has(model, km_bytes_of(key, size), &rank);
        CHECK_STATUS(km__sealed_block_find(block, km_bytes_of(key, size), &index),
                     is_there ? KM_OK : KM_NOT_FOUND);
        CHECK(index == rank);
    }
}

static void a_block_decodes_to_what_was_encoded(void **state)
{
    static struct example_block example;

    (void)state;
    for (size_t i = 0; i < SEALED_LOOK_COUNT; i++) {
        for (size_t count = 1; count <= 40; count += 13) {
            struct sealed_model model = {0};
            struct sealed_block block;
            make_records(&model, &sealed_looks[i], count, 90);
            encode_block(&model, 77, &example);
            CHECK_STATUS(km__sealed_block_decode(example.bytes, example.size, 77, &block), KM_OK);
            CHECK_STATUS(
                km__sealed_block_check_order(&block, example.size, (uint32_t)sealed_looks[i].keys),
                KM_OK);
            check_block(&block, &model);
            check_ranks(&block, &model);
            CHECK_STATUS(km__sealed_block_decode(example.bytes, example.size, 78, &block),
                         KM_E_CORRUPT);
            sealed_model_free(&model);
        }
    }
}

/* Of a flipped bit the head, or the piece that it is in, knows. */
static void each_bit_of_a_block_counts(void **state)
{
    static struct example_block example;
    struct sealed_model model = {0};
    struct sealed_block block, found;

    (void)state;
    make_records(&model, &sealed_looks[5], 20, 120);
    encode_block(&model, 5, &example);
    CHECK_STATUS(km__sealed_block_decode(example.bytes, example.size, 5, &block), KM_OK);
    for (size_t bit = 0; bit < 8 * example.size; bit++) {
        const uint8_t *byte = example.bytes + bit / 8;
        km_status rc;
        example.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        rc = km__sealed_block_decode(example.bytes, example.size, 5, &found);
        CHECK((rc == KM_OK) == (byte >= block.values));
        if (rc == KM_OK && byte < block.end)
            CHECK_STATUS(km__sealed_block_check_values(&found), KM_E_CORRUPT);
        else if (rc == KM_OK)
            CHECK_STATUS(km__sealed_block_check_order(&found, example.size, 0), KM_E_CORRUPT);
        example.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    sealed_model_free(&model);
}

/* FORMAT.md, 14.3: keys "ab" and "abc" with values "1" and "22", in the first page after the header
 * of the table with the id 00 01 .. 0f. */
static void a_block_has_the_bytes_of_the_document(void **state)
{
    static const uint8_t expected[] = {
        0x07, 0x4c, 0x38, 0xb9, 0x27, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x02, 0x00,
        0x03, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x61, 0x62, 0x00, 0x00,
        0x01, 0x00, 0x01, 0x00, 0x03, 0x00, 0x63, 0xb1, 0xac, 0x10, 0xe2, 0x31, 0x32, 0x32};
    static struct example_block example;
    struct sealed_model model = {0};

    (void)state;
    sealed_model_add(&model, km_bytes_of("ab", 2), km_bytes_of("1", 1));
    sealed_model_add(&model, km_bytes_of("abc", 3), km_bytes_of("22", 2));
    encode_block(&model, km__sealed_block_seed(km__sealed_id_sum(example_id), SEALED_PAGE),
                 &example);
    for (size_t i = 0; i < sizeof(expected); i++)
        CHECK_MSG(example.bytes[i] == expected[i], "byte %zu is %02x", i, example.bytes[i]);
    sealed_model_free(&model);
}

/* ---- groups and filters ------------------------------------------------------------------ */

struct example_group {
    struct sealed_group_plan plan;
    uint8_t separators[4096];
    uint8_t filter[65536];
    uint8_t bytes[131072];
    size_t size;
};

/* Blocks of `records` records each; separator i is "key:" and i in 5 digits, cut to ascend. */
static void make_group(struct example_group *group, uint32_t count, uint32_t records)
{
    uint32_t end = 0;

    memset(group, 0, sizeof(*group));
    group->plan.count = count;
    group->plan.first_page = 9;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t start = km__sealed_filter_start(i * records, i);
        uint32_t size = km__sealed_filter_start((i + 1) * records, i + 1) - start;
        end += (uint32_t)snprintf((char *)group->separators + end, 32, "key:%05u", i * 10);
        group->plan.separator_ends[i] = end;
        group->plan.page_ends[i] = 2 * (i + 1);
        group->plan.record_ends[i] = (i + 1) * records;
        for (uint32_t k = 0; k < records; k++) {
            uint64_t hash = km__sealed_hash(&(uint64_t){(uint64_t)i << 32 | k}, 8);
            km__sealed_filter_add(group->filter + start, size, hash);
        }
    }
    group->plan.separators = group->separators;
    group->plan.filter = group->filter;
    group->size = km__sealed_group_size(&group->plan);
    CHECK(group->size > 0 && group->size <= sizeof(group->bytes));
    km__sealed_group_encode(&group->plan, 3, group->bytes);
}

static void a_group_finds_the_block_of_a_key(void **state)
{
    static struct example_group example;
    struct sealed_group group;
    char key[32];

    (void)state;
    for (uint32_t count = 1; count <= SEALED_GROUP_BLOCKS_MAX; count += 9) {
        make_group(&example, count, 38);
        CHECK_STATUS(km__sealed_group_decode(example.bytes, example.size, 3, &group), KM_OK);
        CHECK(group.size == example.size && group.first_page == 9);
        for (uint32_t i = 0; i < 10 * count + 20; i++) {
            int size = snprintf(key, sizeof(key), "key:%05u", i);
            uint32_t expected = i / 10 < count ? i / 10 : count - 1;
            CHECK(km__sealed_group_find(&group, km_bytes_of(key, (size_t)size)) == expected);
        }
        CHECK(km__sealed_group_find(&group, km_bytes_of("", 0)) == 0);
        CHECK(km__sealed_group_find(&group, km_bytes_of("ka", 2)) == 0);
        CHECK(km__sealed_group_find(&group, km_bytes_of("kez", 3)) == count - 1);
    }
}

static void each_bit_of_a_group_counts(void **state)
{
    static struct example_group example;
    struct sealed_group group;

    (void)state;
    make_group(&example, 7, 20);
    for (size_t bit = 0; bit < 8 * example.size; bit++) {
        example.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK_STATUS(km__sealed_group_decode(example.bytes, example.size, 3, &group), KM_E_CORRUPT);
        example.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CHECK_STATUS(km__sealed_group_decode(example.bytes, example.size - 1, 3, &group), KM_E_CORRUPT);
    CHECK_STATUS(km__sealed_group_decode(example.bytes, example.size, 3, &group), KM_OK);
}

/* The pages of a block are bounded by what it can hold. */
static void blocks_of_a_group_have_a_largest_size(void **state)
{
    /* of several records 64 KiB; of one the largest key and value: 24 + 65535 + 4 + 2^31 - 1 */
    static const struct {
        uint32_t records, pages_max;
    } cases[] = {{2, 16}, {38, 16}, {1, 524305}};
    static struct example_group example;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        for (uint32_t more = 0; more < 2; more++) {
            struct sealed_group group;
            make_group(&example, 3, cases[i].records);
            example.plan.page_ends[1] = example.plan.page_ends[0] + cases[i].pages_max + more;
            example.plan.page_ends[2] = example.plan.page_ends[1] + 1;
            km__sealed_group_encode(&example.plan, 3, example.bytes);
            CHECK_STATUS(km__sealed_group_decode(example.bytes, example.size, 3, &group),
                         more ? KM_E_CORRUPT : KM_OK);
        }
    }
}

/* No key of a block is missed, of others less than 1 in 100 pass, for blocks of any size. */
static void a_filter_passes_its_keys_and_few_others(void **state)
{
    static const uint32_t sizes[] = {1, 2, 38, 300, 3000};
    static struct example_group example;

    (void)state;
    for (size_t s = 0; s < 5; s++) {
        uint64_t passed = 0, tried = 0;
        make_group(&example, 4, sizes[s]);
        for (uint32_t i = 0; i < 4; i++) {
            struct sealed_group group;
            const uint8_t *filter;
            uint32_t size = 0;
            CHECK_STATUS(km__sealed_group_decode(example.bytes, example.size, 3, &group), KM_OK);
            filter = km__sealed_group_filter(&group, i, &size);
            for (uint64_t k = 0; k < sizes[s]; k++) {
                uint64_t number = (uint64_t)i << 32 | k;
                CHECK(km__sealed_filter_may_have(filter, size, km__sealed_hash(&number, 8)));
            }
            for (uint64_t k = 0; k < 50000; k++) {
                uint64_t number = (uint64_t)(i + 10) << 32 | k;
                passed += (uint64_t)km__sealed_filter_may_have(filter, size,
                                                               km__sealed_hash(&number, 8));
                tried++;
            }
        }
        CHECK_MSG(passed * 100 < tried, "%llu of %llu pass", (unsigned long long)passed,
                  (unsigned long long)tried);
    }
}

/* ---- keys -------------------------------------------------------------------------------- */

static void heads_and_prefixes_agree_with_bytes(void **state)
{
    struct harness_random random = harness_stream(2);

    (void)state;
    for (int i = 0; i < 20000; i++) {
        uint8_t a[24], b[24];
        km_bytes p = {a, harness_below(&random, 20)}, q = {b, harness_below(&random, 20)};
        size_t same = 0;
        int order;
        for (size_t k = 0; k < sizeof(a); k++) {
            a[k] = (uint8_t)(harness_below(&random, 8) ? 0 : harness_next(&random));
            b[k] = (uint8_t)(harness_below(&random, 8) ? a[k] : harness_next(&random));
        }
        order = sealed_compare_keys(p, q);
        while (same < p.size && same < q.size && a[same] == b[same])
            same++;
        CHECK(km__sealed_common_prefix(p, q) == same);
        CHECK((km__sealed_compare(p, q) < 0) == (order < 0));
        CHECK((km__sealed_compare(p, q) > 0) == (order > 0));
        if (km__sealed_head(a, p.size) < km__sealed_head(b, q.size))
            CHECK(order < 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_footer_decodes_to_what_was_encoded),
        cmocka_unit_test(each_bit_of_header_and_footer_counts),
        cmocka_unit_test(a_footer_of_the_future_is_refused_and_bad_fields_are_damage),
        cmocka_unit_test(a_block_decodes_to_what_was_encoded),
        cmocka_unit_test(each_bit_of_a_block_counts),
        cmocka_unit_test(a_block_has_the_bytes_of_the_document),
        cmocka_unit_test(a_group_finds_the_block_of_a_key),
        cmocka_unit_test(each_bit_of_a_group_counts),
        cmocka_unit_test(blocks_of_a_group_have_a_largest_size),
        cmocka_unit_test(a_filter_passes_its_keys_and_few_others),
        cmocka_unit_test(heads_and_prefixes_agree_with_bytes),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
