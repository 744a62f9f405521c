/* SPDX-License-Identifier: Apache-2.0
 *
 * image.c -- encode, decode and verify the header and the table of index.image.
 *
 * I1. What is encoded decodes to the same; what decodes encodes to the same bytes, unless the
 *     header has compatible features that this version does not know.
 * I2. Of a header that decoded and has our layout, no sum or product of its fields overflows,
 *     table_size is bounded by the counts, and table_offset by them from below: nothing asks for
 *     more memory than the file has bytes, if its size is held against km__image_file_size() first.
 * I3. The nodes of a table that passed the check, and then the data of its chunks, lie one behind
 *     the other from IMAGE_HEADER_SIZE up to the fill before the table. Nodes tile each partition
 *     that has any; order chunks of a map ascend.
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
#define IMAGE_RESERVED 108
#define IMAGE_ORDER_CHUNK_COUNT 112
#define IMAGE_LEAF_CHUNK_COUNT 120
#define IMAGE_USED 128

#define IMAGE_NODE_PREFIX 0
#define IMAGE_NODE_WEIGHT 8
#define IMAGE_NODE_COUNT_FIELD 16
#define IMAGE_NODE_FLAGGED_COUNT 20
#define IMAGE_NODE_CHECKSUM 24
#define IMAGE_NODE_PARTITION 28
#define IMAGE_NODE_DEPTH 29
#define IMAGE_NODE_LINE_BITS 30
#define IMAGE_NODE_TAG_BITS 31

#define IMAGE_COUNTS_NODES 0
#define IMAGE_COUNTS_ORDER_CHUNKS 8
#define IMAGE_COUNTS_LEAF_CHUNKS 16
#define IMAGE_COUNTS_NEXT_ORDINAL 24
#define IMAGE_COUNTS_WEIGHT 32
#define IMAGE_COUNTS_HAS_EXPIRY 40
#define IMAGE_COUNTS_ZERO 41

#define IMAGE_ORDER_FIRST 0
#define IMAGE_ORDER_SLOT_COUNT 8
#define IMAGE_ORDER_CHECKSUM 12

#define IMAGE_LEAVES_SIZE 0
#define IMAGE_LEAVES_COUNT 4
#define IMAGE_LEAVES_CHECKSUM 8
#define IMAGE_LEAVES_ZERO 12

#define IMAGE_LEAF_COUNT 0
#define IMAGE_LEAF_SKIP 2
#define IMAGE_LEAF_FENCE_SIZE 4
#define IMAGE_LEAF_ZERO 6

/* Above what nodes and chunks take, as many as can be and of the largest size. */
#define IMAGE_TABLE_OFFSET_MAX (UINT64_C(1) << 50)

_Static_assert(IMAGE_HEADER_SIZE == STRUCTURE_SIZE, "all structures are of one size");
_Static_assert(IMAGE_TABLE_OFFSET_MAX >=
                   IMAGE_HEADER_SIZE + IMAGE_TABLE_ALIGNMENT +
                       IMAGE_NODE_COUNT_MAX * ((uint64_t)IMAGE_LINE_SIZE << IMAGE_LINE_BITS_MAX) +
                       IMAGE_CHUNK_COUNT_MAX * (IMAGE_ORDER_SLOTS_MAX * 8 + IMAGE_LEAF_SIZE_MAX),
               "an image of the largest size can be described");

static const char image_magic[] = "KMIMAGE1";

/* ---- the header -------------------------------------------------------------------------- */

static int image_positions_are_sane(const struct image_header *header)
{
    if (!km__position_is_record(header->position) || !km__position_is_record(header->durable) ||
        header->durable < header->position)
        return 0;
    return header->head_number != 0 && header->head_number <= km__position_number(header->position);
}

static int image_counts_are_sane(const struct image_header *header)
{
    struct image_table table;

    return header->next_map_id <= KM_MAP_COUNT_MAX && header->map_count <= header->next_map_id &&
           (header->map_count != 0 || (header->node_count == 0 && header->order_chunk_count == 0 &&
                                       header->leaf_chunk_count == 0)) &&
           km__image_table_locate(header, &table) == KM_OK;
}

static int image_header_is_sane(const struct image_header *header)
{
    if (header->layout_version == 0 || !image_positions_are_sane(header))
        return 0;
    return header->layout_version != IMAGE_LAYOUT_VERSION || image_counts_are_sane(header);
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
    km__store64(bytes + IMAGE_ORDER_CHUNK_COUNT, header->order_chunk_count);
    km__store64(bytes + IMAGE_LEAF_CHUNK_COUNT, header->leaf_chunk_count);
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
    header.order_chunk_count = km__load64(bytes + IMAGE_ORDER_CHUNK_COUNT);
    header.leaf_chunk_count = km__load64(bytes + IMAGE_LEAF_CHUNK_COUNT);
    if (!image_header_is_sane(&header) || km__load32(bytes + IMAGE_RESERVED) != 0)
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

/* ---- what maps have ---------------------------------------------------------------------- */

static int map_counts_are_sane(const struct image_counts *counts)
{
    return counts->node_count <= IMAGE_NODE_COUNT_MAX &&
           counts->order_chunk_count <= IMAGE_CHUNK_COUNT_MAX &&
           counts->leaf_chunk_count <= IMAGE_CHUNK_COUNT_MAX &&
           counts->next_ordinal <= IMAGE_ORDINAL_MAX && counts->has_expiry <= 1;
}

void km__image_counts_encode(const struct image_counts *counts, uint8_t bytes[IMAGE_COUNTS_SIZE])
{
    KM_ASSERT(map_counts_are_sane(counts));
    memset(bytes, 0, IMAGE_COUNTS_SIZE);
    km__store64(bytes + IMAGE_COUNTS_NODES, counts->node_count);
    km__store64(bytes + IMAGE_COUNTS_ORDER_CHUNKS, counts->order_chunk_count);
    km__store64(bytes + IMAGE_COUNTS_LEAF_CHUNKS, counts->leaf_chunk_count);
    km__store64(bytes + IMAGE_COUNTS_NEXT_ORDINAL, counts->next_ordinal);
    km__store64(bytes + IMAGE_COUNTS_WEIGHT, counts->weight);
    bytes[IMAGE_COUNTS_HAS_EXPIRY] = counts->has_expiry;
}

km_status km__image_counts_decode(const uint8_t bytes[IMAGE_COUNTS_SIZE], struct image_counts *out)
{
    struct image_counts counts = {
        .node_count = km__load64(bytes + IMAGE_COUNTS_NODES),
        .order_chunk_count = km__load64(bytes + IMAGE_COUNTS_ORDER_CHUNKS),
        .leaf_chunk_count = km__load64(bytes + IMAGE_COUNTS_LEAF_CHUNKS),
        .next_ordinal = km__load64(bytes + IMAGE_COUNTS_NEXT_ORDINAL),
        .weight = km__load64(bytes + IMAGE_COUNTS_WEIGHT),
        .has_expiry = bytes[IMAGE_COUNTS_HAS_EXPIRY],
    };

    if (!map_counts_are_sane(&counts) ||
        !km__structure_is_zero(bytes + IMAGE_COUNTS_ZERO, IMAGE_COUNTS_SIZE - IMAGE_COUNTS_ZERO))
        return KM_E_CORRUPT;
    *out = counts;
    return KM_OK;
}

/* ---- chunks ------------------------------------------------------------------------------ */

static int order_chunk_is_sane(const struct image_order_chunk *chunk)
{
    return chunk->slot_count != 0 && chunk->slot_count <= IMAGE_ORDER_SLOTS_MAX &&
           chunk->first_ordinal <= IMAGE_ORDINAL_MAX - chunk->slot_count;
}

void km__image_order_chunk_encode(const struct image_order_chunk *chunk,
                                  uint8_t bytes[IMAGE_CHUNK_SIZE])
{
    KM_ASSERT(order_chunk_is_sane(chunk));
    km__store64(bytes + IMAGE_ORDER_FIRST, chunk->first_ordinal);
    km__store32(bytes + IMAGE_ORDER_SLOT_COUNT, chunk->slot_count);
    km__store32(bytes + IMAGE_ORDER_CHECKSUM, chunk->checksum);
}

km_status km__image_order_chunk_decode(const uint8_t bytes[IMAGE_CHUNK_SIZE],
                                       struct image_order_chunk *out)
{
    struct image_order_chunk chunk = {
        .first_ordinal = km__load64(bytes + IMAGE_ORDER_FIRST),
        .slot_count = km__load32(bytes + IMAGE_ORDER_SLOT_COUNT),
        .checksum = km__load32(bytes + IMAGE_ORDER_CHECKSUM),
    };

    if (!order_chunk_is_sane(&chunk))
        return KM_E_CORRUPT;
    *out = chunk;
    return KM_OK;
}

static int leaf_chunk_is_sane(const struct image_leaf_chunk *chunk)
{
    return chunk->size % 8 == 0 && chunk->leaf_count != 0 &&
           (uint64_t)chunk->leaf_count * IMAGE_LEAF_HEADER_SIZE <= chunk->size &&
           chunk->size <=
               (chunk->leaf_count == 1 ? IMAGE_LEAF_SIZE_MAX : IMAGE_LEAF_CHUNK_SIZE_MAX);
}

void km__image_leaf_chunk_encode(const struct image_leaf_chunk *chunk,
                                 uint8_t bytes[IMAGE_CHUNK_SIZE])
{
    KM_ASSERT(leaf_chunk_is_sane(chunk));
    km__store32(bytes + IMAGE_LEAVES_SIZE, chunk->size);
    km__store32(bytes + IMAGE_LEAVES_COUNT, chunk->leaf_count);
    km__store32(bytes + IMAGE_LEAVES_CHECKSUM, chunk->checksum);
    km__store32(bytes + IMAGE_LEAVES_ZERO, 0);
}

km_status km__image_leaf_chunk_decode(const uint8_t bytes[IMAGE_CHUNK_SIZE],
                                      struct image_leaf_chunk *out)
{
    struct image_leaf_chunk chunk = {
        .size = km__load32(bytes + IMAGE_LEAVES_SIZE),
        .leaf_count = km__load32(bytes + IMAGE_LEAVES_COUNT),
        .checksum = km__load32(bytes + IMAGE_LEAVES_CHECKSUM),
    };

    if (!leaf_chunk_is_sane(&chunk) || km__load32(bytes + IMAGE_LEAVES_ZERO) != 0)
        return KM_E_CORRUPT;
    *out = chunk;
    return KM_OK;
}

/* ---- leaves ------------------------------------------------------------------------------ */

static int image_leaf_is_sane(const struct image_leaf *leaf)
{
    if (leaf->count > IMAGE_LEAF_ENTRIES_MAX || leaf->skip > KM_KEY_SIZE_MAX ||
        leaf->fence_size > KM_KEY_SIZE_MAX)
        return 0;
    for (uint32_t i = 0; i < leaf->count; i++) {
        if (leaf->refs[i] == 0 || leaf->refs[i] >> IMAGE_REF_BITS != 0 ||
            (i > 0 && leaf->heads[i] < leaf->heads[i - 1]))
            return 0;
    }
    return 1;
}

size_t km__image_leaf_encode(const struct image_leaf *leaf, uint8_t *to)
{
    size_t size = (size_t)km__image_leaf_size(leaf->count, leaf->fence_size);
    uint8_t *heads = to + size - leaf->count * 16u;

    KM_ASSERT(image_leaf_is_sane(leaf));
    memset(to, 0, (size_t)(heads - to));
    km__store16(to + IMAGE_LEAF_COUNT, (uint16_t)leaf->count);
    km__store16(to + IMAGE_LEAF_SKIP, (uint16_t)leaf->skip);
    km__store16(to + IMAGE_LEAF_FENCE_SIZE, (uint16_t)leaf->fence_size);
    if (leaf->fence_size)
        memcpy(to + IMAGE_LEAF_HEADER_SIZE, leaf->fence, leaf->fence_size);
    for (uint32_t i = 0; i < leaf->count; i++) {
        km__store64(heads + 8u * i, leaf->heads[i]);
        km__store64(heads + 8u * (leaf->count + i), leaf->refs[i]);
    }
    return size;
}

km_status km__image_leaf_decode(const uint8_t *bytes, size_t available, struct image_leaf *out,
                                size_t *out_size)
{
    struct image_leaf leaf;
    const uint8_t *heads;
    size_t size, fence_end;

    if (available < IMAGE_LEAF_HEADER_SIZE)
        return KM_E_CORRUPT;
    leaf.count = km__load16(bytes + IMAGE_LEAF_COUNT);
    leaf.skip = km__load16(bytes + IMAGE_LEAF_SKIP);
    leaf.fence_size = km__load16(bytes + IMAGE_LEAF_FENCE_SIZE);
    leaf.fence = bytes + IMAGE_LEAF_HEADER_SIZE;
    size = (size_t)km__image_leaf_size(leaf.count, leaf.fence_size);
    if (leaf.count > IMAGE_LEAF_ENTRIES_MAX || size > available)
        return KM_E_CORRUPT;
    heads = bytes + size - leaf.count * 16u;
    for (uint32_t i = 0; i < leaf.count; i++) {
        leaf.heads[i] = km__load64(heads + 8u * i);
        leaf.refs[i] = km__load64(heads + 8u * (leaf.count + i));
    }
    fence_end = IMAGE_LEAF_HEADER_SIZE + leaf.fence_size;
    if (!image_leaf_is_sane(&leaf) || km__load16(bytes + IMAGE_LEAF_ZERO) != 0 ||
        !km__structure_is_zero(bytes + fence_end, (size_t)(heads - bytes) - fence_end))
        return KM_E_CORRUPT;
    memcpy(out, &leaf, sizeof(leaf));
    *out_size = size;
    return KM_OK;
}

/* ---- the table --------------------------------------------------------------------------- */

km_status km__image_table_locate(const struct image_header *header, struct image_table *out)
{
    uint64_t nodes_size, orders_size, counts_size, fixed_size, maps_size;

    if (header->map_count > KM_MAP_COUNT_MAX || header->node_count > IMAGE_NODE_COUNT_MAX ||
        header->order_chunk_count > IMAGE_CHUNK_COUNT_MAX ||
        header->leaf_chunk_count > IMAGE_CHUNK_COUNT_MAX)
        return KM_E_CORRUPT;
    nodes_size = header->node_count * IMAGE_NODE_SIZE; /* 2^37 at most */
    orders_size = header->order_chunk_count * IMAGE_CHUNK_SIZE;
    counts_size = (uint64_t)header->map_count * IMAGE_COUNTS_SIZE;
    fixed_size = nodes_size + orders_size + counts_size +
                 header->leaf_chunk_count * IMAGE_CHUNK_SIZE;
    if (header->table_offset % IMAGE_TABLE_ALIGNMENT != 0 ||
        header->table_offset > IMAGE_TABLE_OFFSET_MAX ||
        header->table_offset < IMAGE_HEADER_SIZE + header->node_count * IMAGE_LINE_SIZE +
                                   (header->order_chunk_count + header->leaf_chunk_count) * 8 ||
        header->table_size < fixed_size)
        return KM_E_CORRUPT;
    maps_size = header->table_size - fixed_size;
    if (maps_size % CATALOGUE_ENTRY_ALIGNMENT != 0 ||
        maps_size < (uint64_t)header->map_count * CATALOGUE_ENTRY_SIZE_MIN ||
        maps_size > (uint64_t)header->map_count * CATALOGUE_ENTRY_SIZE_MAX)
        return KM_E_CORRUPT;
    out->maps_size = maps_size;
    out->counts_offset = maps_size;
    out->nodes_offset = out->counts_offset + counts_size;
    out->orders_offset = out->nodes_offset + nodes_size;
    out->leaves_offset = out->orders_offset + orders_size;
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

/* Check the nodes of one map, and add up the sizes of their lines; and so for chunks below. */
static km_status check_image_nodes(const uint8_t *bytes, uint64_t count, uint64_t *inout_data_size)
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
        *inout_data_size += km__image_lines_size(&node);
    }
    return prefix == 0 ? KM_OK : KM_E_CORRUPT;
}

static km_status check_order_chunks(const uint8_t *bytes, const struct image_counts *counts,
                                    uint64_t *inout_data_size)
{
    uint64_t end = 0; /* of the chunk before */

    for (uint64_t i = 0; i < counts->order_chunk_count; i++) {
        struct image_order_chunk chunk;
        km_status rc = km__image_order_chunk_decode(bytes + i * IMAGE_CHUNK_SIZE, &chunk);

        if (rc)
            return rc;
        if (chunk.first_ordinal < end)
            return KM_E_CORRUPT;
        end = chunk.first_ordinal + chunk.slot_count;
        *inout_data_size += km__image_order_size(&chunk);
    }
    return end <= counts->next_ordinal ? KM_OK : KM_E_CORRUPT;
}

static km_status check_leaf_chunks(const uint8_t *bytes, uint64_t count, uint64_t *inout_data_size)
{
    for (uint64_t i = 0; i < count; i++) {
        struct image_leaf_chunk chunk;
        km_status rc = km__image_leaf_chunk_decode(bytes + i * IMAGE_CHUNK_SIZE, &chunk);

        if (rc)
            return rc;
        *inout_data_size += chunk.size;
    }
    return KM_OK;
}

/* A map has what its kind has. */
static int counts_fit_kind(const struct image_counts *counts, uint8_t kind)
{
    if (kind != KM_INSERTION && (counts->order_chunk_count != 0 || counts->next_ordinal != 0))
        return 0;
    if (kind == KM_SORTED)
        return counts->node_count == 0;
    return counts->leaf_chunk_count == 0 && counts->weight == 0;
}

/* A walk over the maps of a table, with how much of each list is still to come. */
struct table_walk {
    const uint8_t *entries, *counts, *nodes, *orders, *leaves;
    uint64_t entries_size, node_count, order_chunk_count, leaf_chunk_count;
    uint64_t data_size;
};

static km_status check_next_map(struct table_walk *walk)
{
    struct image_counts counts;
    struct catalogue_entry entry;
    size_t entry_size = 0;
    km_status rc = km__catalogue_entry_decode(walk->entries, (size_t)walk->entries_size, &entry,
                                              &entry_size);

    if (!rc)
        rc = km__image_counts_decode(walk->counts, &counts);
    if (rc)
        return rc;
    if (counts.node_count > walk->node_count ||
        counts.order_chunk_count > walk->order_chunk_count ||
        counts.leaf_chunk_count > walk->leaf_chunk_count || !counts_fit_kind(&counts, entry.kind))
        return KM_E_CORRUPT;
    rc = check_image_nodes(walk->nodes, counts.node_count, &walk->data_size);
    if (!rc)
        rc = check_order_chunks(walk->orders, &counts, &walk->data_size);
    if (!rc)
        rc = check_leaf_chunks(walk->leaves, counts.leaf_chunk_count, &walk->data_size);
    walk->entries += entry_size;
    walk->entries_size -= entry_size;
    walk->counts += IMAGE_COUNTS_SIZE;
    walk->nodes += counts.node_count * IMAGE_NODE_SIZE;
    walk->node_count -= counts.node_count;
    walk->orders += counts.order_chunk_count * IMAGE_CHUNK_SIZE;
    walk->order_chunk_count -= counts.order_chunk_count;
    walk->leaves += counts.leaf_chunk_count * IMAGE_CHUNK_SIZE;
    walk->leaf_chunk_count -= counts.leaf_chunk_count;
    return rc;
}

km_status km__image_table_check(const struct image_header *header, const uint8_t *table)
{
    struct table_walk walk = {.entries = table,
                              .node_count = header->node_count,
                              .order_chunk_count = header->order_chunk_count,
                              .leaf_chunk_count = header->leaf_chunk_count};
    struct image_table parts;
    km_status rc;

    if (header->layout_version != IMAGE_LAYOUT_VERSION)
        return KM_E_VERSION;
    if (!image_header_is_sane(header) || km__image_table_locate(header, &parts) != KM_OK ||
        km__crc32c(0, table, (size_t)header->table_size) != header->table_checksum)
        return KM_E_CORRUPT;
    walk.entries_size = parts.maps_size;
    walk.counts = table + parts.counts_offset;
    walk.nodes = table + parts.nodes_offset;
    walk.orders = table + parts.orders_offset;
    walk.leaves = table + parts.leaves_offset;
    rc = check_image_maps(header, table, parts.maps_size);
    for (uint32_t i = 0; i < header->map_count && rc == KM_OK; i++)
        rc = check_next_map(&walk);
    if (rc)
        return rc;
    if (walk.node_count != 0 || walk.order_chunk_count != 0 || walk.leaf_chunk_count != 0 ||
        header->table_offset !=
            km__round_up(IMAGE_HEADER_SIZE + walk.data_size, IMAGE_TABLE_ALIGNMENT))
        return KM_E_CORRUPT;
    return KM_OK;
}
