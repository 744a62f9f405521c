/* SPDX-License-Identifier: Apache-2.0
 *
 * test_catalogue_format.c -- the bytes of MAPS: header, entries, table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "format/catalogue.h"
#include "unit/image_format_util.h"

static void maps_keep_every_field(void **state)
{
    struct catalogue_entry entries[20], out_entry;
    struct catalogue_header header, out;
    static struct file file;

    (void)state;
    for (uint32_t count = 0; count <= 20; count++) {
        const uint8_t *at = file.bytes + CATALOGUE_HEADER_SIZE;

        header = some_catalogue_header();
        for (uint32_t i = 0; i < count; i++)
            entries[i] = make_entry((uint16_t)(i * 50 + random_below(50)), 1);
        make_maps(&file, &header, entries, count);
        assert_int_equal(read_maps(&file, &out), KM_OK);
        assert_memory_equal(out.store_id, header.store_id, STORE_ID_SIZE);
        assert_true(out.position == header.position);
        assert_int_equal(out.map_count, count);
        assert_int_equal(out.next_map_id, 1000);
        for (uint32_t i = 0; i < count; i++) {
            size_t left = file.size - (size_t)(at - file.bytes), size;

            assert_int_equal(km__catalogue_entry_decode(at, left, &out_entry, &size), KM_OK);
            assert_int_equal(size, km__catalogue_entry_size(entries[i].name_size));
            assert_int_equal(out_entry.id, entries[i].id);
            assert_int_equal(out_entry.kind, entries[i].kind);
            assert_true(out_entry.created == entries[i].created);
            assert_true(out_entry.dropped == entries[i].dropped);
            assert_int_equal(out_entry.name_size, entries[i].name_size);
            assert_memory_equal(out_entry.name, some_name, entries[i].name_size);
            at += size;
        }
    }
}

static void any_flipped_bit_of_maps_is_damage(void **state)
{
    struct catalogue_header header = some_catalogue_header();
    struct catalogue_entry entries[3];
    static struct file file;

    (void)state;
    for (uint16_t i = 0; i < 3; i++)
        entries[i] = make_entry((uint16_t)(i * 7), 1);
    make_maps(&file, &header, entries, 3);
    for (size_t bit = 0; bit < file.size * 8; bit++) {
        file.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (read_maps(&file, &header) != KM_E_CORRUPT)
            fail_msg("bit %zu of byte %zu", bit % 8, bit / 8);
        file.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(read_maps(&file, &header), KM_OK);
}

static void other_sizes_are_damage(void **state)
{
    struct catalogue_header header = some_catalogue_header();
    struct catalogue_entry entry = make_entry(0, 0);
    static struct file file;

    (void)state;
    make_maps(&file, &header, &entry, 1);
    for (size_t size = CATALOGUE_HEADER_SIZE; size < file.size + 64; size++) {
        struct file *cut = &file;
        size_t whole = file.size;

        cut->size = size;
        assert_int_equal(read_maps(cut, &header), size == whole ? KM_OK : KM_E_CORRUPT);
        cut->size = whole;
    }
}

static void map_headers_have_limits(void **state)
{
    struct catalogue_header base = {
        .position = AT(9, 4096), .map_count = 2, .next_map_id = 2, .table_size = 64};
    static const struct field_case cases[] = {
        {40, 8, 0, KM_E_CORRUPT},
        {40, 8, AT(0, 4096), KM_E_CORRUPT},
        {40, 8, AT(9, 4088), KM_E_CORRUPT},
        {40, 8, AT(9, 4100), KM_E_CORRUPT},
        {40, 8, AT(UINT32_MAX, SEGMENT_SIZE_MAX), KM_OK},
        {40, 8, AT(9, SEGMENT_SIZE_MAX + 8), KM_E_CORRUPT},
        {48, 4, 3, KM_E_CORRUPT}, /* more than ids */
        {48, 4, UINT32_MAX, KM_E_CORRUPT},
        {48, 4, 1, KM_OK},
        {48, 4, 0, KM_E_CORRUPT}, /* nobody's 64 bytes */
        {52, 4, 1, KM_E_CORRUPT},
        {52, 4, 65535, KM_OK},
        {52, 4, 65536, KM_E_CORRUPT},
        {52, 4, UINT32_MAX, KM_E_CORRUPT},
        {56, 8, 56, KM_E_CORRUPT},
        {56, 8, 60, KM_E_CORRUPT},
        {56, 8, 68, KM_E_CORRUPT},
        {56, 8, 560, KM_OK},
        {56, 8, 568, KM_E_CORRUPT},
        {56, 8, UINT64_MAX - 7, KM_E_CORRUPT},
        {56, 8, UINT64_C(1) << 63, KM_E_CORRUPT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct catalogue_header out;
        uint8_t bytes[HEADER];

        km__catalogue_header_encode(&base, bytes);
        store_field(bytes, &cases[i]);
        seal_header(bytes);
        if (km__catalogue_header_decode(bytes, &out) != cases[i].status)
            fail_msg("case %zu", i);
    }
}

static void entries_have_limits(void **state)
{
    struct catalogue_entry base = {
        .id = 7, .kind = 1, .name_size = 5, .created = AT(3, 4096), .name = some_name};
    static const struct field_case cases[] = {
        {0, 2, 0, KM_OK},
        {0, 2, 65534, KM_OK},
        {0, 2, 65535, KM_E_CORRUPT},
        {2, 1, 0, KM_E_CORRUPT},
        {2, 1, 3, KM_OK},
        {2, 1, 4, KM_E_CORRUPT},
        {3, 1, 1, KM_E_CORRUPT},
        {4, 2, 0, KM_E_CORRUPT},
        {4, 2, 4, KM_E_CORRUPT}, /* its fifth byte would be padding */
        {4, 2, 8, KM_OK},
        {4, 2, 9, KM_E_CORRUPT}, /* longer than what is there */
        {4, 2, 255, KM_E_CORRUPT},
        {4, 2, 256 + 5, KM_E_CORRUPT},
        {6, 2, 1, KM_E_CORRUPT},
        {6, 2, 0x100, KM_E_CORRUPT},
        {8, 8, 0, KM_E_CORRUPT},
        {8, 8, AT(3, 4100), KM_E_CORRUPT},
        {16, 8, AT(3, 4096), KM_E_CORRUPT},
        {16, 8, AT(3, 4104), KM_OK},
        {16, 8, AT(3, 4108), KM_E_CORRUPT},
        {16, 8, AT(2, 4096), KM_E_CORRUPT},
        {29, 1, 1, KM_E_CORRUPT}, /* padding */
        {31, 1, 1, KM_E_CORRUPT},
    };
    struct catalogue_entry out;
    uint8_t bytes[32];
    size_t size;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(km__catalogue_entry_encode(&base, bytes), 32);
        store_field(bytes, &cases[i]);
        if (km__catalogue_entry_decode(bytes, 32, &out, &size) != cases[i].status)
            fail_msg("case %zu", i);
    }
    km__catalogue_entry_encode(&base, bytes);
    for (size_t available = 0; available < 32; available++) {
        uint8_t *cut = copy_bytes(bytes, available);

        assert_int_equal(km__catalogue_entry_decode(cut, available, &out, &size), KM_E_CORRUPT);
        free(cut);
    }
}

static void map_entries_agree_with_their_header(void **state)
{
    struct catalogue_entry entries[3] = {
        {.id = 3, .kind = 1, .name_size = 1, .created = AT(1, 4096), .name = some_name},
        {.id = 4, .kind = 1, .name_size = 9, .created = AT(2, 4096), .name = some_name},
        {.id = 9, .kind = 1, .name_size = 8, .created = AT(3, 4096), .name = some_name},
    };
    struct catalogue_header header = {.position = AT(4, 4096), .next_map_id = 10}, out;
    static struct file file;

    (void)state;
    make_maps(&file, &header, entries, 3);
    assert_int_equal(read_maps(&file, &out), KM_OK);
    header.next_map_id = 9; /* the last id was never given out */
    make_maps(&file, &header, entries, 3);
    assert_int_equal(read_maps(&file, &out), KM_E_CORRUPT);
    header.next_map_id = 10;
    header.position = AT(3, 4096); /* the last map is not of before the position */
    make_maps(&file, &header, entries, 3);
    assert_int_equal(read_maps(&file, &out), KM_E_CORRUPT);
    header.position = AT(4, 4096);
    entries[0].dropped = AT(4, 4096);
    make_maps(&file, &header, entries, 3);
    assert_int_equal(read_maps(&file, &out), KM_E_CORRUPT);
    entries[0].dropped = 0;
    entries[1].id = 3; /* twice */
    make_maps(&file, &header, entries, 3);
    assert_int_equal(read_maps(&file, &out), KM_E_CORRUPT);
    entries[1].id = 2; /* not in order */
    make_maps(&file, &header, entries, 3);
    assert_int_equal(read_maps(&file, &out), KM_E_CORRUPT);
}

static void entries_are_as_many_as_the_header_says(void **state)
{
    struct catalogue_entry entries[3] = {make_entry(1, 0), make_entry(2, 0), make_entry(3, 0)};
    struct catalogue_header header = some_catalogue_header(), out;
    static struct file file;

    (void)state;
    for (uint8_t i = 0; i < 3; i++)
        entries[i].name_size = 200;
    make_maps(&file, &header, entries, 3);
    header.map_count = 4; /* so many could be in the table, but are not */
    finish_maps(&file, &header);
    assert_int_equal(read_maps(&file, &out), KM_E_CORRUPT);
    entries[2].name_size = 20;
    make_maps(&file, &header, entries, 3);
    header.map_count = 2;
    finish_maps(&file, &header);
    assert_int_equal(read_maps(&file, &out), KM_E_CORRUPT);
}

static void the_example_of_maps_holds(void **state)
{
    static const struct catalogue_entry entries[] = {
        {0, KM_HASH, 5, AT(1, 0x1000), 0, (const uint8_t *)"fruit"},
        {2, KM_HASH, 9, AT(0x1e, 0x1240), AT(0x29, 0x3fe8), (const uint8_t *)"old fruit"},
    };
    struct catalogue_header header = {.position = AT(0x2a, 0x1000), .next_map_id = 3};
    static struct file file, expected;

    (void)state;
    count_up(header.store_id, STORE_ID_SIZE, 0);
    make_maps(&file, &header, entries, 2);
    read_block(FORMAT_MD, "maps", &expected);
    assert_int_equal(file.size, expected.size);
    assert_memory_equal(file.bytes, expected.bytes, file.size);
    assert_int_equal(read_maps(&expected, &header), KM_OK);
}

static void maps_of_version_1_are_read(void **state)
{
    struct catalogue_header header;
    struct catalogue_entry entry;
    static struct file file;
    const uint8_t *at = file.bytes + CATALOGUE_HEADER_SIZE;
    size_t size;

    (void)state;
    read_block(GOLDEN, "maps", &file);
    assert_int_equal(read_maps(&file, &header), KM_OK);
    assert_true(header.position == AT(0xffffffffu, 0x80100000u));
    assert_int_equal(header.map_count, 3);
    assert_int_equal(header.next_map_id, 65535);
    assert_int_equal(km__catalogue_entry_decode(at, 32, &entry, &size), KM_OK);
    assert_int_equal(entry.kind, 1);
    at += size;
    assert_int_equal(km__catalogue_entry_decode(at, 32, &entry, &size), KM_OK);
    assert_int_equal(entry.id, 300);
    assert_int_equal(entry.kind, 2);
    assert_true(entry.created == AT(7, 0x80100000u));
    assert_true(entry.dropped == AT(8, 4096));
    at += size;
    assert_int_equal(km__catalogue_entry_decode(at, 280, &entry, &size), KM_OK);
    assert_int_equal(size, CATALOGUE_ENTRY_SIZE_MAX);
    assert_int_equal(entry.id, 65534);
    assert_int_equal(entry.name_size, 255);
    assert_int_equal(entry.name[254], 255);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_keep_every_field),
        cmocka_unit_test(any_flipped_bit_of_maps_is_damage),
        cmocka_unit_test(other_sizes_are_damage),
        cmocka_unit_test(map_headers_have_limits),
        cmocka_unit_test(entries_have_limits),
        cmocka_unit_test(map_entries_agree_with_their_header),
        cmocka_unit_test(entries_are_as_many_as_the_header_says),
        cmocka_unit_test(the_example_of_maps_holds),
        cmocka_unit_test(maps_of_version_1_are_read),
    };

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
