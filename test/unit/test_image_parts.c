/* SPDX-License-Identifier: Apache-2.0
 *
 * test_image_parts.c -- the parts of index.image on their own: limits of the header, nodes, chunks
 * and leaves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "unit/image_plan.h"

/* ---- limits ------------------------------------------------------------------------------ */

static const struct field_case header_cases[] = {
    {40, 4, 0, KM_E_CORRUPT},
    {40, 4, 1, KM_OK},
    {40, 4, 3, KM_OK},
    {40, 4, UINT32_MAX, KM_OK},
    {44, 4, 0, KM_E_CORRUPT},
    {44, 4, 1, KM_OK},
    {44, 4, 9, KM_OK},
    {44, 4, 10, KM_E_CORRUPT},
    {44, 4, UINT32_MAX, KM_E_CORRUPT},
    {48, 8, 0, KM_E_CORRUPT},
    {48, 8, AT(4, 4096), KM_E_CORRUPT}, /* below the head */
    {48, 8, AT(5, 4096), KM_OK},
    {48, 8, AT(9, 4100), KM_E_CORRUPT},
    {48, 8, AT(10, 4104), KM_E_CORRUPT}, /* above durable */
    {56, 8, 0, KM_E_CORRUPT},
    {56, 8, AT(9, 4096), KM_OK},
    {56, 8, AT(8, 4096), KM_E_CORRUPT},
    {56, 8, AT(10, 4100), KM_E_CORRUPT},
    {56, 8, AT(5 + 16383, 4096), KM_OK},
    {56, 8, AT(5 + 16384, 4096), KM_OK}, /* numbers may be skipped */
    {56, 8, UINT64_MAX, KM_E_CORRUPT},
    {64, 8, UINT64_MAX, KM_OK},
    {72, 4, 0, KM_E_CORRUPT},
    {72, 4, 65535, KM_OK},
    {72, 4, 65536, KM_E_CORRUPT},
    {76, 4, 0, KM_E_CORRUPT},
    {76, 4, 2, KM_E_CORRUPT}, /* the table is too small for two */
    {76, 4, UINT32_MAX, KM_E_CORRUPT},
    {80, 8, 3, KM_E_CORRUPT}, /* of nodes, the same */
    {80, 8, 1, KM_OK},        /* a longer name */
    {80, 8, UINT64_C(1) << 32, KM_E_CORRUPT},
    {80, 8, (UINT64_C(1) << 32) + 1, KM_E_CORRUPT},
    {80, 8, UINT64_C(1) << 59, KM_E_CORRUPT}, /* times 32 it is 0 */
    {80, 8, UINT64_MAX, KM_E_CORRUPT},
    {88, 8, 4096, KM_E_CORRUPT}, /* no room for the lines */
    {88, 8, 8200, KM_E_CORRUPT},
    {88, 8, UINT64_C(1) << 50, KM_OK},
    {88, 8, (UINT64_C(1) << 50) + 4096, KM_E_CORRUPT},
    {88, 8, UINT64_MAX - 4095, KM_E_CORRUPT},
    {96, 8, 0, KM_E_CORRUPT},
    {96, 8, 200, KM_E_CORRUPT},
    {96, 8, 212, KM_E_CORRUPT},
    {96, 8, 280 + 48 + 128, KM_OK},
    {96, 8, 288 + 48 + 128, KM_E_CORRUPT},
    {96, 8, UINT64_MAX - 7, KM_E_CORRUPT},
    {108, 4, 1, KM_E_CORRUPT},
    {112, 8, 1, KM_OK}, /* longer names */
    {112, 8, 3, KM_E_CORRUPT},
    {112, 8, UINT64_C(1) << 32, KM_E_CORRUPT},
    {112, 8, (UINT64_C(1) << 32) + 1, KM_E_CORRUPT},
    {112, 8, UINT64_C(1) << 60, KM_E_CORRUPT}, /* times 16 it is 0 */
    {112, 8, UINT64_MAX, KM_E_CORRUPT},
    {120, 8, 1, KM_OK},
    {120, 8, 3, KM_E_CORRUPT},
    {120, 8, (UINT64_C(1) << 32) + 1, KM_E_CORRUPT},
    {120, 8, UINT64_C(1) << 60, KM_E_CORRUPT},
    {120, 8, UINT64_MAX, KM_E_CORRUPT},
};

static void image_headers_have_limits(void **state)
{
    struct image_header base = {.layout_version = 2,
                                .head_number = 5,
                                .position = AT(9, 4096),
                                .durable = AT(10, 4096),
                                .next_map_id = 2,
                                .map_count = 1,
                                .node_count = 2,
                                .order_chunk_count = 2,
                                .leaf_chunk_count = 2,
                                .table_offset = 8192,
                                .table_size = 32 + 48 + 64 + 32 + 32};

    (void)state;
    for (size_t i = 0; i < sizeof(header_cases) / sizeof(header_cases[0]); i++) {
        struct image_header out;
        uint8_t bytes[HEADER];

        km__image_header_encode(&base, bytes);
        store_field(bytes, &header_cases[i]);
        seal_header(bytes);
        if (km__image_header_decode(bytes, &out) != header_cases[i].status)
            fail_msg("case %zu", i);
    }
}

/* Where one field alone would not do. */
static void image_parts_fit_the_table(void **state)
{
    struct image_header header = {.table_offset = 8192, .map_count = 1, .table_size = 80}, out;
    struct image_table parts;
    uint8_t bytes[HEADER];

    (void)state;
    assert_int_equal(km__image_table_locate(&header, &parts), KM_OK);
    assert_int_equal(parts.maps_size, 32);
    assert_int_equal(parts.counts_offset, 32);
    assert_int_equal(parts.nodes_offset, 80);
    assert_int_equal(parts.orders_offset, 80);
    assert_int_equal(parts.leaves_offset, 80);
    header.table_size = 32 + 48 + 2 * 32 + 3 * 16 + 4 * 16;
    header.node_count = 2;
    header.order_chunk_count = 3;
    header.leaf_chunk_count = 4;
    assert_int_equal(km__image_table_locate(&header, &parts), KM_OK);
    assert_int_equal(parts.nodes_offset, 80);
    assert_int_equal(parts.orders_offset, 144);
    assert_int_equal(parts.leaves_offset, 192);
    header.order_chunk_count = 0;
    header.leaf_chunk_count = 0;
    header.table_size = 80;
    header.node_count = UINT64_C(1) << 59; /* times 32, and times 64, it is 0 */
    assert_int_equal(km__image_table_locate(&header, &parts), KM_E_CORRUPT);
    header.node_count = 0;
    header.map_count = UINT32_MAX;
    assert_int_equal(km__image_table_locate(&header, &parts), KM_E_CORRUPT);
    header = (struct image_header){.layout_version = 2,
                                   .head_number = 1,
                                   .position = AT(1, 4096),
                                   .durable = AT(1, 4096),
                                   .table_offset = 8192};
    km__image_header_encode(&header, bytes);
    assert_int_equal(km__image_header_decode(bytes, &out), KM_OK);
    for (size_t at = 80; at <= 120; at += at == 80 ? 32 : 8) { /* nodes, or chunks, of no map */
        km__store64(bytes + at, 2);
        km__store64(bytes + 96, at == 80 ? 64 : 32);
        seal_header(bytes);
        assert_int_equal(km__image_header_decode(bytes, &out), KM_E_CORRUPT);
        km__store64(bytes + at, 0);
    }
}

static void nodes_have_limits(void **state)
{
    struct image_node base = {
        .prefix = UINT64_C(5) << 61, .depth = 3, .line_bits = 2, .count = 32, .flagged_count = 4};
    static const struct field_case cases[] = {
        {0, 8, 0, KM_OK},
        {0, 8, UINT64_C(7) << 61, KM_OK},
        {0, 8, UINT64_C(1) << 60, KM_E_CORRUPT},
        {0, 8, 1, KM_E_CORRUPT},
        {8, 8, UINT64_MAX, KM_OK},
        {16, 4, 33, KM_E_CORRUPT},
        {16, 4, UINT32_MAX, KM_E_CORRUPT},
        {20, 4, 5, KM_E_CORRUPT},
        {20, 4, UINT32_MAX, KM_E_CORRUPT},
        {28, 1, 47, KM_OK},
        {28, 1, 48, KM_E_CORRUPT},
        {28, 1, 255, KM_E_CORRUPT},
        {29, 1, 2, KM_E_CORRUPT}, /* the prefix has 3 bits */
        {29, 1, 28, KM_OK},
        {29, 1, 29, KM_E_CORRUPT},
        {29, 1, 67, KM_E_CORRUPT},
        {30, 1, 1, KM_E_CORRUPT}, /* too small for its counts */
        {30, 1, 9, KM_OK},
        {30, 1, 10, KM_E_CORRUPT},
        {30, 1, 34, KM_E_CORRUPT},
        {31, 1, 16, KM_OK},
        {31, 1, 17, KM_E_CORRUPT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct image_node out;
        uint8_t bytes[IMAGE_NODE_SIZE];

        km__image_node_encode(&base, bytes);
        store_field(bytes, &cases[i]);
        if (km__image_node_decode(bytes, &out) != cases[i].status)
            fail_msg("case %zu", i);
    }
}

static void counts_have_limits(void **state)
{
    struct image_counts base = {.node_count = 1, .next_ordinal = 5};
    static const struct field_case cases[] = {
        {0, 8, UINT64_C(1) << 32, KM_OK},  {0, 8, (UINT64_C(1) << 32) + 1, KM_E_CORRUPT},
        {8, 8, UINT64_C(1) << 32, KM_OK},  {8, 8, (UINT64_C(1) << 32) + 1, KM_E_CORRUPT},
        {16, 8, UINT64_C(1) << 32, KM_OK}, {16, 8, (UINT64_C(1) << 32) + 1, KM_E_CORRUPT},
        {24, 8, UINT64_C(1) << 63, KM_OK}, {24, 8, (UINT64_C(1) << 63) + 1, KM_E_CORRUPT},
        {32, 8, UINT64_MAX, KM_OK},        {40, 1, 1, KM_OK},
        {40, 1, 2, KM_E_CORRUPT},          {41, 1, 1, KM_E_CORRUPT},
        {47, 1, 128, KM_E_CORRUPT},        {0, 8, UINT64_MAX, KM_E_CORRUPT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct image_counts out;
        uint8_t bytes[IMAGE_COUNTS_SIZE];

        km__image_counts_encode(&base, bytes);
        store_field(bytes, &cases[i]);
        if (km__image_counts_decode(bytes, &out) != cases[i].status)
            fail_msg("case %zu", i);
    }
}

static void chunks_have_limits(void **state)
{
    static const struct field_case order_cases[] = {
        {0, 8, UINT64_C(1) << 62, KM_OK},
        {0, 8, (UINT64_C(1) << 63) - 9, KM_OK},
        {0, 8, (UINT64_C(1) << 63) - 8, KM_E_CORRUPT},
        {0, 8, UINT64_MAX - 4, KM_E_CORRUPT},
        {8, 4, 0, KM_E_CORRUPT},
        {8, 4, 8192, KM_OK},
        {8, 4, 8193, KM_E_CORRUPT},
        {8, 4, UINT32_MAX, KM_E_CORRUPT},
    };
    static const struct field_case leaf_cases[] = {
        {0, 4, 0, KM_E_CORRUPT},
        {0, 4, 8, KM_E_CORRUPT},
        {0, 4, 16, KM_OK},
        {0, 4, 20, KM_E_CORRUPT},
        {0, 4, 65536, KM_OK},
        {0, 4, 65544, KM_E_CORRUPT},
        {4, 4, 0, KM_E_CORRUPT},
        {4, 4, 32, KM_OK},
        {4, 4, 33, KM_E_CORRUPT},
        {4, 4, 1, KM_OK},
        {4, 4, UINT32_MAX, KM_E_CORRUPT},
        {12, 4, 1, KM_E_CORRUPT},
        {4, 4, 1u << 29, KM_E_CORRUPT}, /* times 8 it is 0 */
    };
    struct image_leaf_chunk large = {.size = IMAGE_LEAF_SIZE_MAX, .leaf_count = 1}, leaves;
    struct image_order_chunk chunk = {.first_ordinal = 3, .slot_count = 9}, order;
    uint8_t bytes[IMAGE_CHUNK_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof(order_cases) / sizeof(order_cases[0]); i++) {
        km__image_order_chunk_encode(&chunk, bytes);
        store_field(bytes, &order_cases[i]);
        if (km__image_order_chunk_decode(bytes, &order) != order_cases[i].status)
            fail_msg("order case %zu", i);
    }
    for (size_t i = 0; i < sizeof(leaf_cases) / sizeof(leaf_cases[0]); i++) {
        struct image_leaf_chunk small = {.size = 256, .leaf_count = 2};

        km__image_leaf_chunk_encode(&small, bytes);
        store_field(bytes, &leaf_cases[i]);
        if (km__image_leaf_chunk_decode(bytes, &leaves) != leaf_cases[i].status)
            fail_msg("leaf case %zu", i);
    }
    km__image_leaf_chunk_encode(&large, bytes);
    assert_int_equal(km__image_leaf_chunk_decode(bytes, &leaves), KM_OK);
    km__store32(bytes, IMAGE_LEAF_SIZE_MAX + 8);
    assert_int_equal(km__image_leaf_chunk_decode(bytes, &leaves), KM_E_CORRUPT);
}

/* Of a leaf of two entries, with a fence of 5 bytes. */
static void leaves_have_limits(void **state)
{
    static const struct field_case cases[] = {
        {0, 2, 1, KM_E_CORRUPT}, /* then a head is read as a reference: too large */
        {0, 2, 3, KM_E_CORRUPT}, /* beyond the end */
        {0, 2, 15, KM_E_CORRUPT},
        {0, 2, 65535, KM_E_CORRUPT},
        {2, 2, 65535, KM_OK},
        {4, 2, 4, KM_E_CORRUPT}, /* a byte of the fence lies in the padding */
        {4, 2, 8, KM_OK},
        {4, 2, 9, KM_E_CORRUPT},
        {4, 2, 65535, KM_E_CORRUPT},
        {6, 2, 1, KM_E_CORRUPT},
        {13, 1, 1, KM_E_CORRUPT},
        {15, 1, 255, KM_E_CORRUPT},
        {16, 8, (UINT64_C(1) << 50) + 7, KM_OK},
        {16, 8, (UINT64_C(1) << 50) + 8, KM_E_CORRUPT}, /* above the second */
        {24, 8, UINT64_C(1) << 50, KM_OK},
        {24, 8, UINT64_MAX, KM_OK},
        {32, 8, 0, KM_E_CORRUPT},
        {32, 8, (UINT64_C(1) << 43) - 1, KM_OK},
        {32, 8, UINT64_C(1) << 43, KM_E_CORRUPT},
        {40, 8, 0, KM_E_CORRUPT},
        {40, 8, UINT64_MAX, KM_E_CORRUPT},
    };
    struct image_leaf leaf = {.heads = {UINT64_C(1) << 50, (UINT64_C(1) << 50) + 7},
                              .refs = {77, 78},
                              .count = 2,
                              .fence_size = 5,
                              .fence = (const uint8_t *)"fence"};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct image_leaf out;
        uint8_t bytes[48];
        size_t size;

        assert_int_equal(km__image_leaf_encode(&leaf, bytes), sizeof(bytes));
        store_field(bytes, &cases[i]);
        if (km__image_leaf_decode(bytes, sizeof(bytes), &out, &size) != cases[i].status)
            fail_msg("case %zu", i);
    }
}

static void a_cut_leaf_is_corrupt(void **state)
{
    uint8_t bytes[400];

    (void)state;
    for (int i = 0; i < 500; i++) {
        struct image_leaf leaf = some_leaf(), out;
        size_t size = km__image_leaf_encode(&leaf, bytes), cut = random_below(size), out_size = 7;
        uint8_t *part = copy_bytes(bytes, cut);

        assert_int_equal(km__image_leaf_decode(part, cut, &out, &out_size), KM_E_CORRUPT);
        assert_int_equal(out_size, 7);
        free(part);
    }
}

static void the_largest_leaf_is_as_large_as_it_says(void **state)
{
    static uint8_t bytes[IMAGE_LEAF_SIZE_MAX], fence[65535];
    struct image_leaf leaf = {.count = 14, .fence_size = 65535, .fence = fence}, out;
    size_t size = 0;

    (void)state;
    memset(fence, 7, sizeof(fence));
    for (uint32_t i = 0; i < 14; i++)
        leaf.refs[i] = i + 1;
    assert_int_equal(km__image_leaf_encode(&leaf, bytes), IMAGE_LEAF_SIZE_MAX);
    assert_int_equal(km__image_leaf_decode(bytes, sizeof(bytes), &out, &size), KM_OK);
    assert_int_equal(size, IMAGE_LEAF_SIZE_MAX);
    assert_int_equal(out.fence[65534], 7);
}

/* ---- leaves ------------------------------------------------------------------------------ */

static void leaves_keep_every_field(void **state)
{
    static uint8_t bytes[IMAGE_LEAF_SIZE_MAX];

    (void)state;
    for (int round = 0; round < 2000; round++) {
        struct image_leaf leaf = some_leaf(), out;
        size_t size = km__image_leaf_encode(&leaf, bytes), out_size = 0;
        uint8_t *copy = copy_bytes(bytes, size);

        assert_int_equal(km__image_leaf_decode(copy, size, &out, &out_size), KM_OK);
        assert_int_equal(out_size, size);
        assert_int_equal(out.count, leaf.count);
        assert_int_equal(out.skip, leaf.skip);
        assert_int_equal(out.fence_size, leaf.fence_size);
        assert_memory_equal(out.fence, leaf.fence, leaf.fence_size);
        assert_memory_equal(out.heads, leaf.heads, leaf.count * 8);
        assert_memory_equal(out.refs, leaf.refs, leaf.count * 8);
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaves_keep_every_field),
        cmocka_unit_test(image_headers_have_limits),
        cmocka_unit_test(image_parts_fit_the_table),
        cmocka_unit_test(nodes_have_limits),
        cmocka_unit_test(counts_have_limits),
        cmocka_unit_test(chunks_have_limits),
        cmocka_unit_test(leaves_have_limits),
        cmocka_unit_test(a_cut_leaf_is_corrupt),
        cmocka_unit_test(the_largest_leaf_is_as_large_as_it_says),
    };

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
