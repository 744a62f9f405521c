/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_check.c -- verify the invariants that hash_index.c numbers.
 */
#include "index/hash_index_internal.h"

/* A check under way, in one node. */
struct hash_check {
    struct hash_index *index;
    const struct hash_source *source; /* may be NULL */
    const struct hash_node *node;
    uint64_t prefix; /* of the node, from the top of a u64 */
    uint32_t partition;
    uint64_t count;            /* of slots in use, in the partition so far */
    uint64_t weight;           /* in the partition so far, modulo 2^64 */
    uint64_t not_loaded_count; /* in the partition so far */
    uint64_t bytes;            /* of the index so far */
};

static uint64_t peek_slot(const struct hash_node *node, uint32_t line, uint32_t slot)
{
    /* relaxed: no writer is inside */
    return atomic_load_explicit(&node->lines[(size_t)line * HASH_LINE_SLOTS + slot],
                                memory_order_relaxed);
}

static int check_source(const struct hash_check *check, uint32_t line, uint64_t slot)
{
    const struct hash_node *node = check->node;
    uint32_t known_bits = (uint32_t)node->line_bits + node->tag_bits;
    uint64_t bits = km__hash_slot_bits(node, line, slot);
    uint64_t ref = slot & HASH_REF_MASK;
    uint64_t hash;
    uint64_t own;

    if (!check->source)
        return 0;
    if (check->source->hashes(check->source->context, &ref, 1, &hash) != KM_OK)
        return 7;
    own = km__hash_own_bits(hash);
    if (km__hash_partition(hash) != check->partition ||
        km__hash_top_bits(own ^ check->prefix, node->depth) != 0 ||
        km__hash_top_bits((own << node->depth) ^ bits, known_bits) != 0)
        return 7;
    return 0;
}

static int check_slot(const struct hash_check *check, uint32_t line, uint64_t slot)
{
    const struct hash_node *node = check->node;
    uint32_t displacement = (uint32_t)(slot >> 60) & HASH_DISPLACEMENT_MAX;
    uint32_t line_mask = (1u << node->line_bits) - 1;
    uint32_t home = line - km__hash_line_offset(displacement);

    if (displacement > km__hash_displacement_max(node))
        return 2;
    if ((slot >> HASH_REF_BITS) & (UINT64_C(0xffff) >> node->tag_bits))
        return 2;
    for (uint32_t i = 0; i < displacement; i++) {
        uint32_t passed = home + km__hash_line_offset(i);
        if (!(peek_slot(node, passed & line_mask, 0) & HASH_FLAG_BIT))
            return 3;
    }
    return check_source(check, line, slot);
}

static int check_line(const struct hash_check *check, uint32_t line, uint32_t *inout_count)
{
    int broken = 0;

    for (uint32_t i = 0; i < HASH_LINE_SLOTS && !broken; i++) {
        uint64_t slot = peek_slot(check->node, line, i);

        if (i > 0 && (slot & HASH_FLAG_BIT))
            return 3;
        if (!(slot & HASH_REF_MASK)) {
            if (slot & ~HASH_FLAG_BIT)
                return 2;
            continue;
        }
        ++*inout_count;
        broken = check_slot(check, line, slot);
    }
    return broken;
}

static int check_lines(const struct hash_check *check)
{
    const struct hash_node *node = check->node;
    uint32_t flagged_count = 0;
    uint32_t count = 0;
    int broken = 0;

    for (uint32_t line = 0; line < 1u << node->line_bits && !broken; line++) {
        broken = check_line(check, line, &count);
        flagged_count += (peek_slot(node, line, 0) & HASH_FLAG_BIT) != 0;
    }
    if (!broken && (count != node->count || flagged_count != node->flagged_count))
        broken = 4;
    return broken;
}

int km__hash_check_slots(const struct hash_node *node)
{
    struct hash_check check = {.node = node};

    return check_lines(&check);
}

static int check_node(struct hash_check *check)
{
    const struct hash_node *node = check->node;

    check->count += node->count;
    check->weight += node->weight;
    check->not_loaded_count += !node->lines;
    check->bytes += km__hash_node_bytes(node);
    return node->lines ? check_lines(check) : 0;
}

/* I1 for the node that begins at an entry. */
static int check_entries(struct hash_directory *directory, size_t first)
{
    struct hash_node **nodes = km__hash_nodes(directory);
    const struct hash_node *node = nodes[first];
    size_t entry_count;

    if (node->depth > directory->depth || node->line_bits > HASH_LINE_BITS_MAX)
        return 1;
    if (node->tag_bits < HASH_TAG_BITS_MIN || node->tag_bits > HASH_TAG_BITS)
        return 1;
    if (!node->lines && (node->count > HASH_LINE_SLOTS << node->line_bits ||
                         node->flagged_count > 1u << node->line_bits))
        return 4;
    entry_count = (size_t)1 << (directory->depth - node->depth);
    if (first % entry_count != 0)
        return 1;
    for (size_t i = first; i < first + entry_count; i++) {
        if (nodes[i] != node ||
            atomic_load_explicit(&directory->entries[i], memory_order_relaxed) !=
                km__hash_entry_of(node))
            return 1;
    }
    return 0;
}

/* I5; relaxed: no writer is inside. */
static int check_sums(const struct hash_check *check)
{
    const struct hash_partition *partition = &check->index->partitions[check->partition];
    const _Atomic uint32_t *not_loaded = &check->index->not_loaded_counts[check->partition];

    if (check->count != atomic_load_explicit(&partition->count, memory_order_relaxed) ||
        check->weight != atomic_load_explicit(&partition->weight, memory_order_relaxed) ||
        check->not_loaded_count != atomic_load_explicit(not_loaded, memory_order_relaxed))
        return 5;
    return 0;
}

static int check_partition(struct hash_check *check)
{
    struct hash_directory *directory = km__hash_directory(check->index, check->partition);
    size_t i = 0;
    int broken = 0;

    check->count = 0;
    check->weight = 0;
    check->not_loaded_count = 0;
    while (directory && i < (size_t)1 << directory->depth) { /* ends: each turn moves i on */
        broken = check_entries(directory, i);
        if (broken)
            return broken;
        check->node = km__hash_nodes(directory)[i];
        check->prefix = directory->depth ? (uint64_t)i << (64 - directory->depth) : 0;
        broken = check_node(check);
        if (broken)
            return broken;
        i += (size_t)1 << (directory->depth - check->node->depth);
    }
    if (directory)
        check->bytes += km__hash_directory_bytes(directory->depth);
    return check_sums(check);
}

int km__hash_index_check(struct hash_index *index, const struct hash_source *source)
{
    struct hash_check check = {.index = index, .source = source, .bytes = HASH_INDEX_SIZE};
    int broken = 0;

    while (check.partition < HASH_PARTITION_COUNT && !broken) {
        broken = check_partition(&check);
        check.partition++;
    }
    if (!broken && check.bytes != km__hash_bytes(index))
        broken = 6;
    return broken;
}
