/* SPDX-License-Identifier: Apache-2.0
 *
 * image.c -- encode, decode and verify the header and the table of index.image.
 *
 * I1. What is encoded decodes to the same; what decodes encodes to the same bytes, unless the
 *     header has compatible features that this version does not know.
 * I2. Of a header that decoded, no sum or product of its fields overflows, table_size is bounded by
 *     map_count and node_count, and table_offset by node_count from below: nothing asks for more
 *     memory than the file has bytes, if its size is held against km__image_file_size() first.
 * I3. The nodes of a table that passed the check lie one behind the other from IMAGE_HEADER_SIZE up
 *     to the fill before the table, and tile each partition that has any.
 */
#include "format/image.h"

#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "format/catalogue.h"
#include "format/structure.h"

#define IMAGE_LAYOUT 40
#define IMAGE_HEAD_NUMBER 44
#define IMAGE_POSITION 48
#define IMAGE_DURABLE 56
#define IMAGE_HASH_SAMPLE 64
#define IMAGE_NEXT_MAP_ID 72
#define IMAGE_MAP_COUNT 76
#define IMAGE_NODE_COUNT 80
#define IMAGE_TABLE_OFFSET 88
#define IMAGE_TABLE_SIZE 96
#define IMAGE_TABLE_CHECKSUM 104
#define IMAGE_USED 108

#define IMAGE_NODE_PREFIX 0
#define IMAGE_NODE_WEIGHT 8
#define IMAGE_NODE_COUNT_FIELD 16
#define IMAGE_NODE_FLAGGED_COUNT 20
#define IMAGE_NODE_CHECKSUM 24
#define IMAGE_NODE_PARTITION 28
#define IMAGE_NODE_DEPTH 29
#define IMAGE_NODE_LINE_BITS 30
#define IMAGE_NODE_TAG_BITS 31

/* Above what IMAGE_NODE_COUNT_MAX nodes of the largest size take. */
#define IMAGE_TABLE_OFFSET_MAX (UINT64_C(1) << 48)

_Static_assert(IMAGE_HEADER_SIZE == STRUCTURE_SIZE, "all structures are of one size");
_Static_assert(IMAGE_TABLE_OFFSET_MAX >=
                   IMAGE_HEADER_SIZE + IMAGE_TABLE_ALIGNMENT +
                       IMAGE_NODE_COUNT_MAX * ((uint64_t)IMAGE_LINE_SIZE << IMAGE_LINE_BITS_MAX),
               "an image of the largest size can be described");

static const char image_magic[] = "KMIMAGE1";

/* ---- the header -------------------------------------------------------------------------- */

static int image_positions_are_sane(const struct image_header *header)
{
    uint32_t durable_number = km__position_number(header->durable);

    if (!km__position_is_record(header->position) || !km__position_is_record(header->durable) ||
        header->durable < header->position)
        return 0;
    if (header->head_number == 0 || header->head_number > km__position_number(header->position))
        return 0;
    return durable_number - header->head_number < IMAGE_SEGMENT_COUNT_MAX;
}

static int image_counts_are_sane(const struct image_header *header)
{
    return header->next_map_id <= KM_MAP_COUNT_MAX && header->map_count <= header->next_map_id &&
           header->node_count <= IMAGE_NODE_COUNT_MAX &&
           (header->map_count != 0 || header->node_count == 0);
}

static int image_header_is_sane(const struct image_header *header)
{
    struct image_table table;

    return header->layout_version != 0 && image_positions_are_sane(header) &&
           image_counts_are_sane(header) && km__image_table_locate(header, &table) == KM_OK;
}

void km__image_header_encode(const struct image_header *header, uint8_t bytes[IMAGE_HEADER_SIZE])
{
    KM_ASSERT(image_header_is_sane(header));
    km__structure_begin(bytes, image_magic, header->store_id);
    km__store32(bytes + IMAGE_LAYOUT, header->layout_version);
    km__store32(bytes + IMAGE_HEAD_NUMBER, header->head_number);
    km__store64(bytes + IMAGE_POSITION, header->position);
    km__store64(bytes + IMAGE_DURABLE, header->durable);
    km__store64(bytes + IMAGE_HASH_SAMPLE, header->hash_sample);
    km__store32(bytes + IMAGE_NEXT_MAP_ID, header->next_map_id);
    km__store32(bytes + IMAGE_MAP_COUNT, header->map_count);
    km__store64(bytes + IMAGE_NODE_COUNT, header->node_count);
    km__store64(bytes + IMAGE_TABLE_OFFSET, header->table_offset);
    km__store64(bytes + IMAGE_TABLE_SIZE, header->table_size);
    km__store32(bytes + IMAGE_TABLE_CHECKSUM, header->table_checksum);
    km__structure_end(bytes);
}

km_status km__image_header_decode(const uint8_t bytes[IMAGE_HEADER_SIZE], struct image_header *out)
{
    km_status rc = km__structure_check(bytes, image_magic, IMAGE_USED);
    struct image_header header;

    if (rc)
        return rc;
    memcpy(header.store_id, bytes + STRUCTURE_STORE_ID, STORE_ID_SIZE);
    header.layout_version = km__load32(bytes + IMAGE_LAYOUT);
    header.head_number = km__load32(bytes + IMAGE_HEAD_NUMBER);
    header.position = km__load64(bytes + IMAGE_POSITION);
    header.durable = km__load64(bytes + IMAGE_DURABLE);
    header.hash_sample = km__load64(bytes + IMAGE_HASH_SAMPLE);
    header.next_map_id = km__load32(bytes + IMAGE_NEXT_MAP_ID);
    header.map_count = km__load32(bytes + IMAGE_MAP_COUNT);
    header.node_count = km__load64(bytes + IMAGE_NODE_COUNT);
    header.table_offset = km__load64(bytes + IMAGE_TABLE_OFFSET);
    header.table_size = km__load64(bytes + IMAGE_TABLE_SIZE);
    header.table_checksum = km__load32(bytes + IMAGE_TABLE_CHECKSUM);
    if (!image_header_is_sane(&header))
        return KM_E_CORRUPT;
    *out = header;
    return KM_OK;
}

uint64_t km__image_hash_sample(const struct hash_secret *secret)
{
    /* XXH3 has a way of its own for each of these ranges of sizes */
    static const size_t sizes[] = {3, 8, 16, 100, 200, 256};
    uint8_t key[256];
    uint64_t sample = 0;

    for (size_t i = 0; i < sizeof(key); i++)
        key[i] = (uint8_t)i;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        sample ^= km__hash_key(secret, key, sizes[i]);
    return sample;
}

/* ---- nodes ------------------------------------------------------------------------------- */

static int image_node_is_sane(const struct image_node *node)
{
    if (node->partition >= IMAGE_PARTITION_COUNT || node->depth > IMAGE_DEPTH_MAX ||
        node->line_bits > IMAGE_LINE_BITS_MAX || node->tag_bits > IMAGE_TAG_BITS_MAX)
        return 0;
    return (node->prefix << node->depth) == 0 &&
           node->count <= IMAGE_LINE_SLOTS << node->line_bits &&
           node->flagged_count <= 1u << node->line_bits;
}

void km__image_node_encode(const struct image_node *node, uint8_t bytes[IMAGE_NODE_SIZE])
{
    KM_ASSERT(image_node_is_sane(node));
    km__store64(bytes + IMAGE_NODE_PREFIX, node->prefix);
    km__store64(bytes + IMAGE_NODE_WEIGHT, node->weight);
    km__store32(bytes + IMAGE_NODE_COUNT_FIELD, node->count);
    km__store32(bytes + IMAGE_NODE_FLAGGED_COUNT, node->flagged_count);
    km__store32(bytes + IMAGE_NODE_CHECKSUM, node->checksum);
    bytes[IMAGE_NODE_PARTITION] = node->partition;
    bytes[IMAGE_NODE_DEPTH] = node->depth;
    bytes[IMAGE_NODE_LINE_BITS] = node->line_bits;
    bytes[IMAGE_NODE_TAG_BITS] = node->tag_bits;
}

km_status km__image_node_decode(const uint8_t bytes[IMAGE_NODE_SIZE], struct image_node *out)
{
    struct image_node node;

    node.prefix = km__load64(bytes + IMAGE_NODE_PREFIX);
    node.weight = km__load64(bytes + IMAGE_NODE_WEIGHT);
    node.count = km__load32(bytes + IMAGE_NODE_COUNT_FIELD);
    node.flagged_count = km__load32(bytes + IMAGE_NODE_FLAGGED_COUNT);
    node.checksum = km__load32(bytes + IMAGE_NODE_CHECKSUM);
    node.partition = bytes[IMAGE_NODE_PARTITION];
    node.depth = bytes[IMAGE_NODE_DEPTH];
    node.line_bits = bytes[IMAGE_NODE_LINE_BITS];
    node.tag_bits = bytes[IMAGE_NODE_TAG_BITS];
    if (!image_node_is_sane(&node))
        return KM_E_CORRUPT;
    *out = node;
    return KM_OK;
}

uint32_t km__image_lines_sum(const uint8_t *lines, uint64_t size, uint64_t node_number)
{
    uint8_t number[8];

    km__store64(number, node_number); /* so that the lines of two nodes cannot change places */
    return km__crc32c(km__crc32c(0, lines, (size_t)size), number, sizeof(number));
}

/* ---- the table --------------------------------------------------------------------------- */

km_status km__image_table_locate(const struct image_header *header, struct image_table *out)
{
    uint64_t nodes_size, counts_size, rest_size;

    if (header->map_count > KM_MAP_COUNT_MAX || header->node_count > IMAGE_NODE_COUNT_MAX)
        return KM_E_CORRUPT;
    nodes_size = header->node_count * IMAGE_NODE_SIZE; /* 2^37 at most */
    counts_size = (uint64_t)header->map_count * IMAGE_COUNT_SIZE;
    if (header->table_offset % IMAGE_TABLE_ALIGNMENT != 0 ||
        header->table_offset > IMAGE_TABLE_OFFSET_MAX ||
        header->table_offset < IMAGE_HEADER_SIZE + header->node_count * IMAGE_LINE_SIZE ||
        header->table_size < nodes_size + counts_size)
        return KM_E_CORRUPT;
    rest_size = header->table_size - nodes_size - counts_size;
    if (rest_size % CATALOGUE_ENTRY_ALIGNMENT != 0 ||
        rest_size < (uint64_t)header->map_count * CATALOGUE_ENTRY_SIZE_MIN ||
        rest_size > (uint64_t)header->map_count * CATALOGUE_ENTRY_SIZE_MAX)
        return KM_E_CORRUPT;
    out->maps_size = rest_size;
    out->counts_offset = rest_size;
    out->nodes_offset = rest_size + counts_size;
    return KM_OK;
}

static km_status check_image_maps(const struct image_header *header, const uint8_t *entries,
                                  uint64_t size)
{
    struct catalogue_bounds bounds = {header->position, header->map_count, header->next_map_id};
    km_status rc = km__catalogue_entries_check(entries, size, &bounds);

    while (rc == KM_OK && size > 0) { /* ends: each turn takes an entry of those just checked */
        struct catalogue_entry entry;
        size_t entry_size = 0;

        rc = km__catalogue_entry_decode(entries, (size_t)size, &entry, &entry_size);
        if (rc == KM_OK && entry.dropped != 0)
            rc = KM_E_CORRUPT;
        entries += entry_size;
        size -= entry_size;
    }
    return rc;
}

/* Check the nodes of one map, and add up the sizes of their lines. */
static km_status check_image_nodes(const uint8_t *bytes, uint64_t count, uint64_t *inout_lines_size)
{
    uint64_t prefix = 0; /* of the next node; 0: it begins a partition */
    int partition = -1;

    for (uint64_t i = 0; i < count; i++) {
        struct image_node node;
        km_status rc = km__image_node_decode(bytes + i * IMAGE_NODE_SIZE, &node);

        if (rc)
            return rc;
        if (node.prefix != prefix ||
            (prefix == 0 ? node.partition <= partition : node.partition != partition))
            return KM_E_CORRUPT;
        partition = node.partition;
        if (node.depth != 0) /* a node of depth 0 is its whole partition */
            prefix += UINT64_C(1) << (64 - node.depth); /* 0 once the partition is tiled */
        *inout_lines_size += km__image_lines_size(&node);
    }
    return prefix == 0 ? KM_OK : KM_E_CORRUPT;
}

km_status km__image_table_check(const struct image_header *header, const uint8_t *table)
{
    uint64_t lines_size = 0;
    uint64_t node_count = header->node_count; /* still to come */
    const uint8_t *nodes;
    struct image_table parts;
    km_status rc;

    if (header->layout_version != IMAGE_LAYOUT_VERSION)
        return KM_E_VERSION;
    if (!image_header_is_sane(header) || km__image_table_locate(header, &parts) != KM_OK ||
        km__crc32c(0, table, (size_t)header->table_size) != header->table_checksum)
        return KM_E_CORRUPT;
    rc = check_image_maps(header, table, parts.maps_size);
    nodes = table + parts.nodes_offset;
    for (uint32_t i = 0; i < header->map_count && rc == KM_OK; i++) {
        uint64_t count = km__load64(table + parts.counts_offset + (uint64_t)i * IMAGE_COUNT_SIZE);

        if (count > node_count)
            return KM_E_CORRUPT;
        rc = check_image_nodes(nodes, count, &lines_size);
        nodes += count * IMAGE_NODE_SIZE;
        node_count -= count;
    }
    if (rc)
        return rc;
    if (node_count != 0 ||
        header->table_offset != km__round_up(IMAGE_HEADER_SIZE + lines_size, IMAGE_TABLE_ALIGNMENT))
        return KM_E_CORRUPT;
    return KM_OK;
}
