/* SPDX-License-Identifier: Apache-2.0
 *
 * image_plan.h -- for tests: whole images of random content, written through the encoders and read
 * as a store would.
 */
#ifndef KM_TEST_UNIT_IMAGE_PLAN_H
#define KM_TEST_UNIT_IMAGE_PLAN_H

#include "format/image.h"
#include "unit/image_format_util.h"

/* ---- a reader, as a store would be -------------------------------------------------------- */

static inline const uint8_t *image_nodes(const struct file *file, const struct image_header *header)
{
    struct image_table parts;

    assert_int_equal(km__image_table_locate(header, &parts), KM_OK);
    return file->bytes + header->table_offset + parts.nodes_offset;
}

/* Where the reading is: the next data, and the number of what they belong to. */
struct reading {
    const struct file *file;
    struct image_table parts;
    const uint8_t *table, *data;
    uint64_t number;
};

static inline int has_sum(struct reading *reading, uint64_t size, uint32_t checksum)
{
    uint32_t sum = km__image_chunk_sum(reading->data, size, reading->number);

    reading->data += size;
    reading->number++;
    return sum == checksum;
}

static inline km_status read_lines(struct reading *reading, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        struct image_node node;

        assert_int_equal(km__image_node_decode(reading->table + reading->parts.nodes_offset +
                                                   i * IMAGE_NODE_SIZE,
                                               &node),
                         KM_OK);
        if (!has_sum(reading, km__image_lines_size(&node), node.checksum))
            return KM_E_CORRUPT;
    }
    return KM_OK;
}

static inline km_status read_orders(struct reading *reading, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        struct image_order_chunk chunk;

        assert_int_equal(
            km__image_order_chunk_decode(
                reading->table + reading->parts.orders_offset + i * IMAGE_CHUNK_SIZE, &chunk),
            KM_OK);
        if (!has_sum(reading, km__image_order_size(&chunk), chunk.checksum))
            return KM_E_CORRUPT;
    }
    return KM_OK;
}

static inline km_status read_leaves(const uint8_t *data, const struct image_leaf_chunk *chunk)
{
    uint8_t *copy = copy_bytes(data, chunk->size);
    size_t at = 0;
    km_status rc = KM_OK;

    for (uint32_t i = 0; !rc && i < chunk->leaf_count; i++) {
        struct image_leaf leaf;
        size_t size = 0;

        rc = km__image_leaf_decode(copy + at, chunk->size - at, &leaf, &size);
        at += size;
    }
    free(copy);
    return !rc && at != chunk->size ? KM_E_CORRUPT : rc;
}

static inline km_status read_leaf_chunks(struct reading *reading, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *data = reading->data;
        struct image_leaf_chunk chunk;
        km_status rc;

        assert_int_equal(km__image_leaf_chunk_decode(reading->table + reading->parts.leaves_offset +
                                                         i * IMAGE_CHUNK_SIZE,
                                                     &chunk),
                         KM_OK);
        if (!has_sum(reading, chunk.size, chunk.checksum))
            return KM_E_CORRUPT;
        rc = read_leaves(data, &chunk);
        if (rc)
            return rc;
    }
    return KM_OK;
}

static inline km_status read_data(const struct file *file, const struct image_header *header)
{
    struct reading reading = {.file = file,
                              .table = file->bytes + header->table_offset,
                              .data = file->bytes + IMAGE_HEADER_SIZE};
    km_status rc;

    assert_int_equal(km__image_table_locate(header, &reading.parts), KM_OK);
    rc = read_lines(&reading, header->node_count);
    if (!rc)
        rc = read_orders(&reading, header->order_chunk_count);
    return rc ? rc : read_leaf_chunks(&reading, header->leaf_chunk_count);
}

/* The whole of an image, but for the fill between data and table, which nobody looks at. */
static inline km_status read_image(const struct file *file, struct image_header *out)
{
    km_status rc = km__image_header_decode(file->bytes, out);
    uint8_t *table;

    if (rc)
        return rc;
    if (file->size != km__image_file_size(out))
        return KM_E_CORRUPT;
    table = copy_bytes(file->bytes + out->table_offset, out->table_size);
    rc = km__image_table_check(out, table);
    free(table);
    return rc ? rc : read_data(file, out);
}

/* ---- writers ----------------------------------------------------------------------------- */

/* An image with its maps, nodes and chunks, not yet in bytes. */
struct image_plan {
    struct image_header header;
    struct catalogue_entry maps[8];
    struct image_counts counts[8];
    struct image_node nodes[64];
    struct image_order_chunk orders[8];
    struct image_leaf_chunk leaves[8]; /* of sizes that the writing decides */
};

/* Nodes that tile a partition: split some of them, then lay them out. */
static inline size_t plan_partition(struct image_node *nodes, uint8_t partition)
{
    uint64_t prefix = 0;
    size_t count = 0;

    do {
        struct image_node *node = &nodes[count++];
        uint32_t depth = count > 6 ? 0 : (uint32_t)random_below(4);

        while (depth < 64 && (prefix << depth) != 0)
            depth++; /* as deep as where it begins wants it */
        node->prefix = prefix;
        node->depth = (uint8_t)depth;
        node->partition = partition;
        node->line_bits = (uint8_t)random_below(3);
        node->tag_bits = (uint8_t)random_below(17);
        node->weight = random_u64();
        node->count = (uint32_t)random_below((8u << node->line_bits) + 1);
        node->flagged_count = (uint32_t)random_below((1u << node->line_bits) + 1);
        prefix += depth ? UINT64_C(1) << (64 - depth) : 0;
    } while (prefix != 0);
    return count;
}

static inline void plan_nodes(struct image_plan *plan, uint32_t map_index)
{
    struct image_header *header = &plan->header;

    for (uint8_t partition = 0; partition < 48; partition += 17) {
        size_t count = plan_partition(&plan->nodes[header->node_count], partition);

        plan->counts[map_index].node_count += count;
        header->node_count += count;
    }
}

static inline void plan_order(struct image_plan *plan, uint32_t map_index)
{
    struct image_counts *counts = &plan->counts[map_index];

    for (int i = 0; i < 4; i++) {
        struct image_order_chunk *chunk = &plan->orders[plan->header.order_chunk_count++];

        chunk->first_ordinal = counts->next_ordinal + random_below(3);
        chunk->slot_count = (uint32_t)(1 + random_below(60));
        counts->next_ordinal = chunk->first_ordinal + chunk->slot_count;
        counts->order_chunk_count++;
    }
}

/* A map of each kind. */
static inline void plan_image(struct image_plan *plan)
{
    struct image_header *header = &plan->header;

    memset(plan, 0, sizeof(*plan));
    random_fill(header->store_id, STORE_ID_SIZE);
    header->layout_version = IMAGE_LAYOUT_VERSION;
    header->head_number = 90;
    header->position = AT(100, 4104);
    header->durable = AT(101, 4096);
    header->hash_sample = random_u64();
    header->next_map_id = 60;
    header->map_count = 3;
    for (uint32_t i = 0; i < 3; i++) {
        plan->maps[i] = make_entry((uint16_t)(i * 20 + random_below(20)), 0);
        plan->maps[i].kind = (uint8_t)(i == 0 ? KM_INSERTION : i == 1 ? KM_SORTED : KM_HASH);
        plan->counts[i].has_expiry = (uint8_t)random_below(2);
    }
    plan_nodes(plan, 0);
    plan_nodes(plan, 2);
    plan_order(plan, 0);
    plan->counts[0].next_ordinal += random_below(2);
    plan->counts[1].weight = random_u64();
    plan->counts[1].leaf_chunk_count = 3;
    header->leaf_chunk_count = 3;
    for (int i = 0; i < 3; i++)
        plan->leaves[i].leaf_count = (uint32_t)(1 + random_below(5));
}

static inline void finish_image(struct file *file, struct image_header *header)
{
    const uint8_t *table = file->bytes + header->table_offset;

    header->table_size = file->size - header->table_offset;
    header->table_checksum = km__crc32c(0, table, header->table_size);
    km__image_header_encode(header, file->bytes);
}

static inline struct image_leaf some_leaf(void)
{
    struct image_leaf leaf = {.count = (uint32_t)random_below(15),
                              .skip = (uint32_t)random_below(65536),
                              .fence_size = (uint32_t)random_below(100),
                              .fence = some_name};

    for (uint32_t i = 0; i < leaf.count; i++) {
        leaf.heads[i] = (i ? leaf.heads[i - 1] : 0) + (random_u64() >> 5) * random_below(2);
        leaf.refs[i] = 1 + random_below((UINT64_C(1) << 43) - 1);
    }
    return leaf;
}

static inline uint8_t *write_leaves(struct image_leaf_chunk *chunk, uint8_t *at, uint64_t number)
{
    uint8_t *begin = at;

    for (uint32_t i = 0; i < chunk->leaf_count; i++) {
        struct image_leaf leaf = some_leaf();

        at += km__image_leaf_encode(&leaf, at);
    }
    chunk->size = (uint32_t)(at - begin);
    chunk->checksum = km__image_chunk_sum(begin, chunk->size, number);
    return at;
}

/* Returns where the data end. */
static inline uint8_t *write_data(struct image_plan *plan, uint8_t *at)
{
    const struct image_header *header = &plan->header;
    uint64_t number = 0;

    for (uint64_t i = 0; i < header->node_count; i++, number++) {
        uint64_t size = km__image_lines_size(&plan->nodes[i]);

        random_fill(at, size);
        plan->nodes[i].checksum = km__image_lines_sum(at, size, number);
        at += size;
    }
    for (uint64_t i = 0; i < header->order_chunk_count; i++, number++) {
        uint64_t size = km__image_order_size(&plan->orders[i]);

        random_fill(at, size);
        plan->orders[i].checksum = km__image_chunk_sum(at, size, number);
        at += size;
    }
    for (uint64_t i = 0; i < header->leaf_chunk_count; i++, number++)
        at = write_leaves(&plan->leaves[i], at, number);
    return at;
}

static inline uint8_t *write_table(const struct image_plan *plan, uint8_t *at)
{
    const struct image_header *header = &plan->header;

    for (uint32_t i = 0; i < header->map_count; i++)
        at += km__catalogue_entry_encode(&plan->maps[i], at);
    for (uint32_t i = 0; i < header->map_count; i++, at += IMAGE_COUNTS_SIZE)
        km__image_counts_encode(&plan->counts[i], at);
    for (uint64_t i = 0; i < header->node_count; i++, at += IMAGE_NODE_SIZE)
        km__image_node_encode(&plan->nodes[i], at);
    for (uint64_t i = 0; i < header->order_chunk_count; i++, at += IMAGE_CHUNK_SIZE)
        km__image_order_chunk_encode(&plan->orders[i], at);
    for (uint64_t i = 0; i < header->leaf_chunk_count; i++, at += IMAGE_CHUNK_SIZE)
        km__image_leaf_chunk_encode(&plan->leaves[i], at);
    return at;
}

static inline void write_image(struct file *file, struct image_plan *plan)
{
    uint8_t *at;

    memset(file, 0, sizeof(*file));
    at = write_data(plan, file->bytes + IMAGE_HEADER_SIZE);
    plan->header.table_offset = km__round_up((uint64_t)(at - file->bytes), 4096);
    at = write_table(plan, file->bytes + plan->header.table_offset);
    file->size = (size_t)(at - file->bytes);
    assert_true(file->size <= sizeof(file->bytes));
    finish_image(file, &plan->header);
}

static inline uint64_t end_of_data(const struct image_plan *plan)
{
    uint64_t end = IMAGE_HEADER_SIZE;

    for (uint64_t i = 0; i < plan->header.node_count; i++)
        end += km__image_lines_size(&plan->nodes[i]);
    for (uint64_t i = 0; i < plan->header.order_chunk_count; i++)
        end += km__image_order_size(&plan->orders[i]);
    for (uint64_t i = 0; i < plan->header.leaf_chunk_count; i++)
        end += plan->leaves[i].size;
    return end;
}

#endif
