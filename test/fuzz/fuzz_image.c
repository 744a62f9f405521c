/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_image.c -- the decoders of MAPS and index.image: headers, entries, nodes, chunks, leaves,
 * tables.
 *
 * Input: a byte that says how to complete the rest (bit 0: an image, else MAPS; bit 1: right magic
 * and version; bit 2: right checksum of the header; bit 3: right size and checksum of the table,
 * and for an image the offset that goes with its nodes and chunks; bit 4: the rest is what differs,
 * by exclusive or, from a sound file); 88 bytes that lie in the header from the first field of its
 * own on; all that follows is the table.
 *
 * P1. Any bytes get an answer, and nothing outside of them is read (they lie in memory of their
 * own). P2. What decodes encodes to the same bytes, unless it has compatible features. P3. The
 * output is written on KM_OK only. P4. What the check of a table lets pass can be walked by its
 * header's counts, and ends where the table does.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "format/catalogue.h"
#include "format/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIZE 4096u
#define FIELDS 40u
#define FIELDS_SIZE 88u
#define TABLE_ROOM 512u /* for that of the sound file */

enum how {
    AN_IMAGE = 1,
    COMPLETE_HEAD = 2,
    COMPLETE_CHECKSUM = 4,
    COMPLETE_TABLE = 8,
    FROM_SOUND = 16
};

static void check_untouched(const void *out, size_t size)
{
    for (size_t i = 0; i < size; i++)
        KM_ASSERT(((const uint8_t *)out)[i] == 0x5a);
}

static void check_same(const uint8_t *header, const uint8_t *again)
{
    KM_ASSERT(km__load32(header + 16) != 0 || memcmp(again, header, SIZE) == 0);
}

/* ---- parts on their own ------------------------------------------------------------------ */

/* P1 to P3 for an entry; returns its size, or 0. */
static size_t check_entry(const uint8_t *bytes, size_t available, struct catalogue_entry *out)
{
    uint8_t again[CATALOGUE_ENTRY_SIZE_MAX];
    size_t size = 0;

    memset(out, 0x5a, sizeof(*out));
    if (km__catalogue_entry_decode(bytes, available, out, &size) != KM_OK) {
        check_untouched(out, sizeof(*out));
        KM_ASSERT(size == 0);
        return 0;
    }
    KM_ASSERT(size <= available && size <= sizeof(again));
    KM_ASSERT(km__catalogue_entry_encode(out, again) == size);
    KM_ASSERT(memcmp(again, bytes, size) == 0);
    return size;
}

static int check_node(const uint8_t *bytes, struct image_node *out)
{
    uint8_t again[IMAGE_NODE_SIZE];

    memset(out, 0x5a, sizeof(*out));
    if (km__image_node_decode(bytes, out) != KM_OK) {
        check_untouched(out, sizeof(*out));
        return 0;
    }
    km__image_node_encode(out, again);
    KM_ASSERT(memcmp(again, bytes, sizeof(again)) == 0);
    return 1;
}

static int check_counts(const uint8_t *bytes, struct image_counts *out)
{
    uint8_t again[IMAGE_COUNTS_SIZE];

    memset(out, 0x5a, sizeof(*out));
    if (km__image_counts_decode(bytes, out) != KM_OK) {
        check_untouched(out, sizeof(*out));
        return 0;
    }
    km__image_counts_encode(out, again);
    KM_ASSERT(memcmp(again, bytes, sizeof(again)) == 0);
    return 1;
}

static int check_order_chunk(const uint8_t *bytes, struct image_order_chunk *out)
{
    uint8_t again[IMAGE_CHUNK_SIZE];

    memset(out, 0x5a, sizeof(*out));
    if (km__image_order_chunk_decode(bytes, out) != KM_OK) {
        check_untouched(out, sizeof(*out));
        return 0;
    }
    km__image_order_chunk_encode(out, again);
    KM_ASSERT(memcmp(again, bytes, sizeof(again)) == 0);
    return 1;
}

static int check_leaf_chunk(const uint8_t *bytes, struct image_leaf_chunk *out)
{
    uint8_t again[IMAGE_CHUNK_SIZE];

    memset(out, 0x5a, sizeof(*out));
    if (km__image_leaf_chunk_decode(bytes, out) != KM_OK) {
        check_untouched(out, sizeof(*out));
        return 0;
    }
    km__image_leaf_chunk_encode(out, again);
    KM_ASSERT(memcmp(again, bytes, sizeof(again)) == 0);
    return 1;
}

/* Leaf after leaf, as far as they go. */
static void check_leaves(const uint8_t *bytes, size_t available)
{
    for (;;) { /* ends: leaves have a size */
        static uint8_t again[IMAGE_LEAF_SIZE_MAX];
        struct image_leaf leaf;
        size_t size = 0;

        memset(&leaf, 0x5a, sizeof(leaf));
        if (km__image_leaf_decode(bytes, available, &leaf, &size) != KM_OK) {
            check_untouched(&leaf, sizeof(leaf));
            KM_ASSERT(size == 0);
            return;
        }
        KM_ASSERT(size >= IMAGE_LEAF_HEADER_SIZE && size <= available && size <= sizeof(again));
        KM_ASSERT(km__image_leaf_encode(&leaf, again) == size);
        KM_ASSERT(memcmp(again, bytes, size) == 0);
        bytes += size;
        available -= size;
    }
}

/* ---- tables ------------------------------------------------------------------------------ */

/* P4 for entries. */
static void walk_entries(const uint8_t *bytes, size_t size, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct catalogue_entry entry;
        size_t entry_size = check_entry(bytes, size, &entry);

        KM_ASSERT(entry_size != 0);
        bytes += entry_size;
        size -= entry_size;
    }
    KM_ASSERT(size == 0);
}

/* Where the data end, by the table. */
static uint64_t walk_chunks(const struct image_header *header, const uint8_t *table,
                            const struct image_table *parts, uint64_t end)
{
    for (uint64_t i = 0; i < header->node_count; i++) {
        struct image_node node;

        KM_ASSERT(check_node(table + parts->nodes_offset + i * IMAGE_NODE_SIZE, &node));
        end += km__image_lines_size(&node);
    }
    for (uint64_t i = 0; i < header->order_chunk_count; i++) {
        struct image_order_chunk chunk;

        KM_ASSERT(check_order_chunk(table + parts->orders_offset + i * IMAGE_CHUNK_SIZE, &chunk));
        end += km__image_order_size(&chunk);
    }
    for (uint64_t i = 0; i < header->leaf_chunk_count; i++) {
        struct image_leaf_chunk chunk;

        KM_ASSERT(check_leaf_chunk(table + parts->leaves_offset + i * IMAGE_CHUNK_SIZE, &chunk));
        end += chunk.size;
    }
    return end;
}

static void walk_image_table(const struct image_header *header, const uint8_t *table)
{
    uint64_t data_end, node_count = 0, order_chunk_count = 0, leaf_chunk_count = 0;
    struct image_table parts;

    KM_ASSERT(km__image_table_locate(header, &parts) == KM_OK);
    walk_entries(table, (size_t)parts.maps_size, header->map_count);
    for (uint32_t i = 0; i < header->map_count; i++) {
        struct image_counts counts;

        KM_ASSERT(
            check_counts(table + parts.counts_offset + (size_t)i * IMAGE_COUNTS_SIZE, &counts));
        node_count += counts.node_count;
        order_chunk_count += counts.order_chunk_count;
        leaf_chunk_count += counts.leaf_chunk_count;
    }
    KM_ASSERT(node_count == header->node_count);
    KM_ASSERT(order_chunk_count == header->order_chunk_count);
    KM_ASSERT(leaf_chunk_count == header->leaf_chunk_count);
    KM_ASSERT(parts.leaves_offset + leaf_chunk_count * IMAGE_CHUNK_SIZE == header->table_size);
    data_end = walk_chunks(header, table, &parts, IMAGE_HEADER_SIZE);
    KM_ASSERT(data_end <= header->table_offset && header->table_offset - data_end < SIZE);
}

/* The table alone, in memory of its own; NULL if there are fewer bytes: a file that is too short.
 */
static uint8_t *copy_table(const uint8_t *bytes, size_t size, uint64_t table_size)
{
    uint8_t *table;

    if (table_size > size)
        return NULL;
    table = malloc(table_size ? (size_t)table_size : 1);
    KM_ASSERT(table != NULL);
    if (table_size)
        memcpy(table, bytes, (size_t)table_size);
    return table;
}

/* ---- files ------------------------------------------------------------------------------- */

static void check_maps(const uint8_t *header, const uint8_t *bytes, size_t size)
{
    struct catalogue_header out;
    uint8_t again[SIZE], *table;
    km_status rc;

    memset(&out, 0x5a, sizeof(out));
    rc = km__catalogue_header_decode(header, &out);
    if (rc) {
        KM_ASSERT(rc == KM_E_CORRUPT || rc == KM_E_VERSION);
        check_untouched(&out, sizeof(out));
        return;
    }
    km__catalogue_header_encode(&out, again);
    check_same(header, again);
    KM_ASSERT(out.table_size <= (uint64_t)KM_MAP_COUNT_MAX * CATALOGUE_ENTRY_SIZE_MAX);
    table = copy_table(bytes, size, out.table_size);
    if (table && km__catalogue_table_check(&out, table) == KM_OK)
        walk_entries(table, (size_t)out.table_size, out.map_count);
    free(table);
}

static void check_image(const uint8_t *header, const uint8_t *bytes, size_t size)
{
    struct image_header out;
    uint8_t again[SIZE], *table;
    km_status rc;

    memset(&out, 0x5a, sizeof(out));
    rc = km__image_header_decode(header, &out);
    if (rc) {
        KM_ASSERT(rc == KM_E_CORRUPT || rc == KM_E_VERSION);
        check_untouched(&out, sizeof(out));
        return;
    }
    km__image_header_encode(&out, again);
    check_same(header, again);
    if (out.layout_version == IMAGE_LAYOUT_VERSION)
        KM_ASSERT(km__image_file_size(&out) >= out.table_offset);
    table = copy_table(bytes, size, out.table_size);
    if (table && km__image_table_check(&out, table) == KM_OK)
        walk_image_table(&out, table);
    free(table);
}

/* ---- completing -------------------------------------------------------------------------- */

/* Where the data would end of which the last parts of the table tell, as many as there are. */
static uint64_t data_end_of(const uint8_t *header, const uint8_t *table, size_t size)
{
    uint64_t counts[3] = {km__load64(header + 120), km__load64(header + 112),
                          km__load64(header + 80)}; /* FORMAT.md, 12 */
    uint64_t end = IMAGE_HEADER_SIZE;

    for (int part = 0; part < 3; part++) {
        size_t entry_size = part == 2 ? IMAGE_NODE_SIZE : IMAGE_CHUNK_SIZE;

        for (uint64_t i = 0; i < counts[part] && size >= entry_size; i++, size -= entry_size) {
            const uint8_t *entry = table + size - entry_size;
            uint8_t line_bits = part == 2 ? entry[30] : 0;

            end += part == 0   ? km__load32(entry)
                   : part == 1 ? (uint64_t)km__load32(entry + 8) * 8
                               : (uint64_t)IMAGE_LINE_SIZE
                                     << (line_bits <= IMAGE_LINE_BITS_MAX ? line_bits : 0);
        }
    }
    return end;
}

static void complete_table(uint8_t how, uint8_t *p, const uint8_t *table, size_t size)
{
    uint32_t checksum = km__crc32c(0, table, size);

    if (how & AN_IMAGE) {
        km__store64(p + 88, km__round_up(data_end_of(p, table, size), SIZE));
        km__store64(p + 96, size);
        km__store32(p + 104, checksum);
    } else {
        km__store64(p + 56, size);
        km__store32(p + 64, checksum);
    }
}

static void complete(uint8_t how, uint8_t *p, const uint8_t *table, size_t size)
{
    if (how & COMPLETE_HEAD) {
        memcpy(p, how & AN_IMAGE ? "KMIMAGE1" : "KMMAPSF1", 8);
        km__store32(p + 8, FORMAT_VERSION);
    }
    if (how & COMPLETE_TABLE)
        complete_table(how, p, table, size);
    if (how & COMPLETE_CHECKSUM) {
        km__store32(p + 20, 0);
        km__store32(p + 20, km__crc32c(0, p, SIZE));
    }
}

/* ---- a sound file ------------------------------------------------------------------------ */

static size_t put_entries(uint8_t *table)
{
    static const struct catalogue_entry entries[] = {
        {0, KM_HASH, 5, UINT64_C(1) << 32 | SIZE, 0, (const uint8_t *)"fruit"},
        {1, KM_INSERTION, 5, UINT64_C(2) << 32 | SIZE, 0, (const uint8_t *)"queue"},
        {2, KM_SORTED, 9, UINT64_C(3) << 32 | SIZE, 0, (const uint8_t *)"old fruit"},
    };
    size_t size = 0;

    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++)
        size += km__catalogue_entry_encode(&entries[i], table + size);
    return size;
}

static size_t put_sound_maps(uint8_t *header, uint8_t *table)
{
    struct catalogue_header maps = {.position = UINT64_C(9) << 32 | SIZE, .next_map_id = 3};

    maps.map_count = 3;
    maps.table_size = put_entries(table);
    km__catalogue_header_encode(&maps, header);
    return (size_t)maps.table_size;
}

static size_t put_sound_image(uint8_t *header, uint8_t *table)
{
    static const struct image_node nodes[] = {
        {.partition = 1, .depth = 1, .count = 8, .flagged_count = 1, .tag_bits = 16},
        {.partition = 1, .depth = 1, .prefix = UINT64_C(1) << 63, .line_bits = 2, .tag_bits = 14},
        {.partition = 47, .weight = 24, .count = 1, .tag_bits = 16},
    };
    static const struct image_counts counts[] = {
        {.node_count = 2, .has_expiry = 1},
        {.node_count = 1, .order_chunk_count = 2, .next_ordinal = 40},
        {.leaf_chunk_count = 2, .weight = 24},
    };
    static const struct image_order_chunk orders[] = {{3, 9, 1}, {30, 10, 2}};
    static const struct image_leaf_chunk leaves[] = {{4000, 20, 3}, {8, 1, 4}};
    struct image_header image = {.layout_version = 2, .head_number = 7, .next_map_id = 3};
    size_t at = put_entries(table);

    for (size_t i = 0; i < 3; i++, at += IMAGE_COUNTS_SIZE)
        km__image_counts_encode(&counts[i], table + at);
    for (size_t i = 0; i < 3; i++, at += IMAGE_NODE_SIZE)
        km__image_node_encode(&nodes[i], table + at);
    for (size_t i = 0; i < 2; i++, at += IMAGE_CHUNK_SIZE)
        km__image_order_chunk_encode(&orders[i], table + at);
    for (size_t i = 0; i < 2; i++, at += IMAGE_CHUNK_SIZE)
        km__image_leaf_chunk_encode(&leaves[i], table + at);
    image.position = UINT64_C(9) << 32 | SIZE;
    image.durable = image.position + 64;
    image.map_count = 3;
    image.node_count = 3;
    image.order_chunk_count = 2;
    image.leaf_chunk_count = 2;
    image.table_offset = UINT64_C(3) * SIZE;
    image.table_size = at;
    km__image_header_encode(&image, header);
    return at;
}

/* The header's bytes come at p, the table's in memory that the caller frees. */
static uint8_t *build(uint8_t how, uint8_t *p, const uint8_t *data, size_t *inout_size)
{
    size_t fields_size = *inout_size < FIELDS_SIZE ? *inout_size : FIELDS_SIZE;
    size_t size = *inout_size - fields_size; /* of the input's table */
    uint8_t *table = calloc(1, size + TABLE_ROOM);
    size_t table_size = size;

    KM_ASSERT(table != NULL);
    if (how & FROM_SOUND) {
        size_t sound_size = how & AN_IMAGE ? put_sound_image(p, table) : put_sound_maps(p, table);

        KM_ASSERT(sound_size <= TABLE_ROOM);
        table_size = size > sound_size ? size : sound_size;
    }
    for (size_t i = 0; i < fields_size; i++)
        p[FIELDS + i] ^= data[i];
    for (size_t i = 0; i < size; i++)
        table[i] ^= data[fields_size + i];
    *inout_size = table_size;
    return table;
}

static void check_parts(const uint8_t *data, size_t size)
{
    struct catalogue_entry entry;
    struct image_node node;
    struct image_counts counts;
    struct image_order_chunk order;
    struct image_leaf_chunk leaves;

    (void)check_entry(data, size, &entry);
    check_leaves(data, size);
    if (size >= IMAGE_CHUNK_SIZE) {
        (void)check_order_chunk(data, &order);
        (void)check_leaf_chunk(data, &leaves);
    }
    if (size >= IMAGE_NODE_SIZE)
        (void)check_node(data, &node);
    if (size >= IMAGE_COUNTS_SIZE)
        (void)check_counts(data, &counts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t how = size ? data[0] : 0;
    size_t table_size = size ? size - 1 : 0;
    uint8_t *p = calloc(1, SIZE), *table;

    KM_ASSERT(p != NULL);
    table = build(how, p, data + (size != 0), &table_size);
    complete(how, p, table, table_size);
    if (how & AN_IMAGE)
        check_image(p, table, table_size);
    else
        check_maps(p, table, table_size);
    if (size) /* the input's own memory ends where it does */
        check_parts(data, size);
    free(table);
    free(p);
    return 0;
}
