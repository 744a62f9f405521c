/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_image.c -- nodes that come from an image and are loaded when first touched; and the copying
 * of nodes for an image.
 *
 * I1. A node that is not loaded never changes its shape: whoever wants to change it loads it first.
 *     So its prefix is the image's, until it is loaded or its partition cleared.
 * I2. Lines are published whole and checked, or not at all.
 * I3. The nodes that an export copies from a partition tile it. Nodes only ever split, so where one
 *     ended another begins, then and later; once the partition has been cleared, nothing of it is
 *     looked at any more, and empty nodes as deep as the last one fill what is left.
 *
 * Why I3 does not look at what was entered after a clearing: such nodes may be wide, so they might
 * begin before the place where the last one ended; and all of it is in the log after the clearing
 * anyway. As deep as the last one, since a wide one may not begin there, and lest the directory be
 * out of proportion to the nodes.
 *
 * What an import takes is bounded by the table it is given, whatever the table says: of nodes by
 * their number, of directories see is_in_proportion().
 */
#include "index/hash_index_internal.h"

#include <string.h>

#include "base/assert.h"
#include "index/node_pool.h"

/* Entries of a directory for each of its nodes, which with random hashes need less than ten. */
#define HASH_IMPORT_ENTRIES_MAX 64u

_Static_assert(sizeof(_Atomic uint64_t) == sizeof(uint64_t), "a slot is filled as a plain number");

/* ---- loading; with the partition's lock held */

/* An image has no placeholders. */
static int has_placeholder(const uint64_t *slots, size_t slot_count)
{
    uint64_t all = 0;

    for (size_t i = 0; i < slot_count; i++)
        all |= slots[i];
    return (all & HASH_PLACEHOLDER_MIN) != 0;
}

/* Give a node its lines. What they hold is checked as far as the index itself can tell: a source
 * that is wrong must not make it look at lines that are not there, or miss what is. */
static km_status load_lines(const struct hash_index *index, struct hash_node *node)
{
    const struct hash_image_source *source = index->image_source;
    size_t size = (size_t)HASH_LINE_SIZE << node->line_bits;
    size_t slot_count = (size_t)HASH_LINE_SLOTS << node->line_bits;
    uint64_t *slots = km__node_pool_allocate(index->pool, size);
    km_status rc;

    if (!slots)
        return KM_E_NO_MEMORY;
    KM_ASSERT(((uintptr_t)slots & ~HASH_ENTRY_ADDRESS_MASK) == 0);
    rc = source->load(source->context, index->first_image_node + node->image_node, slots,
                      slot_count);
    node->lines = (_Atomic uint64_t *)(void *)slots;
    if (rc == KM_OK && (has_placeholder(slots, slot_count) || km__hash_check_slots(node) != 0))
        rc = KM_E_CORRUPT;
    if (rc) {
        node->lines = NULL;
        km__node_pool_release(index->pool, slots, size);
    }
    return rc;
}

km_status km__hash_load_slow(struct hash_index *index, uint32_t partition, uint64_t own)
{
    _Atomic uint32_t *not_loaded_count = &index->not_loaded_counts[partition];
    struct hash_node *node = km__hash_find_node(index, partition, own);
    km_status rc;

    if (!node || node->lines)
        return KM_OK;
    rc = load_lines(index, node);
    if (rc)
        return rc;
    km__hash_point_entries(km__hash_directory(index, partition), own, node);
    km__hash_account(index, (size_t)HASH_LINE_SIZE << node->line_bits, 0);
    /* no read-modify-write: all who store hold the lock. Release: pairs with
     * km__hash_not_loaded_count(): the lines are not read from the image any more */
    atomic_store_explicit(not_loaded_count,
                          atomic_load_explicit(not_loaded_count, memory_order_relaxed) - 1,
                          memory_order_release);
    return KM_OK;
}

/* ---- loading; without the lock */

km_status km__hash_load_at(struct hash_index *index, uint32_t partition, uint64_t own)
{
    struct mutex *lock = &index->partitions[partition].lock;
    km_status rc;

    km__mutex_lock(lock);
    rc = km__hash_load_slow(index, partition, own);
    km__mutex_unlock(lock);
    return rc;
}

km_status km__hash_load_unlocked(struct hash_index *index, uint64_t hash)
{
    return km__hash_load_at(index, km__hash_partition(hash), km__hash_own_bits(hash));
}

/* The entry where the walk is; 0 if nothing of its partition has to be loaded, from here on. */
static uint64_t entry_to_load(const struct hash_index *index, const struct hash_walk *walk)
{
    /* relaxed: 0 is final, and anything else only means to go on looking */
    if (atomic_load_explicit(&index->not_loaded_counts[walk->partition], memory_order_relaxed) == 0)
        return 0;
    return km__hash_find_entry(index, walk->partition, walk->prefix);
}

km_status km__hash_load_next(struct hash_index *index, struct hash_walk *walk, int *out_end)
{
    while (walk->partition < HASH_PARTITION_COUNT) { /* ends: each turn moves the walk on */
        uint64_t entry = entry_to_load(index, walk);
        km_status rc;

        if (entry == 0) {
            walk->prefix = 0;
            walk->partition++;
        } else if (km__hash_entry_is_loaded(entry)) {
            km__hash_walk_step(walk, km__hash_entry_depth(entry));
        } else {
            rc = km__hash_load_at(index, walk->partition, walk->prefix);
            if (rc)
                return rc;
            km__hash_walk_step(walk, km__hash_entry_depth(entry));
            *out_end = 0;
            return KM_OK;
        }
    }
    *out_end = 1;
    return KM_OK;
}

/* ---- import */

static int is_within_limits(const struct hash_image_node *node)
{
    return node->partition < HASH_PARTITION_COUNT && node->depth <= HASH_DEPTH_MAX &&
           node->line_bits <= HASH_LINE_BITS_MAX && node->tag_bits >= HASH_TAG_BITS_MIN &&
           node->tag_bits <= HASH_TAG_BITS && node->count <= HASH_LINE_SLOTS << node->line_bits &&
           node->flagged_count <= 1u << node->line_bits &&
           (node->prefix & (UINT64_MAX >> node->depth)) == 0;
}

/* How many of the nodes, from the first on, tile the first one's partition; 0 if they do not. */
static size_t count_tiles(const struct hash_image_node *nodes, size_t count, uint32_t *out_depth)
{
    uint64_t prefix = 0;

    *out_depth = 0;
    for (size_t i = 0; i < count; i++) {
        const struct hash_image_node *node = &nodes[i];

        if (!is_within_limits(node) || node->partition != nodes[0].partition ||
            node->prefix != prefix)
            return 0;
        if (node->depth > *out_depth)
            *out_depth = node->depth;
        prefix = km__hash_last_of(prefix, node->depth) + 1;
        if (prefix == 0)
            return i + 1;
    }
    return 0;
}

/* Bounds the memory that a few deep nodes could ask for: 1 KiB for each, and 64 KiB. */
static int is_in_proportion(uint32_t depth, size_t node_count)
{
    return (UINT64_C(1) << depth) <=
           HASH_DIRECTORY_SLACK + (uint64_t)node_count * HASH_IMPORT_ENTRIES_MAX;
}

static struct hash_node *create_unloaded(struct node_pool *pool, const struct hash_image_node *from,
                                         uint32_t image_node)
{
    struct hash_node *node = km__node_pool_allocate(pool, HASH_NODE_SIZE);

    if (!node)
        return NULL;
    node->weight = from->weight;
    node->count = from->count;
    node->flagged_count = from->flagged_count;
    node->flagged_at_build = from->flagged_count;
    node->image_node = image_node;
    node->depth = from->depth;
    node->line_bits = from->line_bits;
    node->tag_bits = from->tag_bits;
    return node;
}

/* Enter the nodes that tile a partition, the first of which is number image_node of the import. */
static km_status enter_tiles(struct hash_index *index, const struct hash_image_node *nodes,
                             size_t count, uint32_t depth, uint32_t image_node)
{
    struct hash_directory *directory = km__hash_create_directory(index, depth);
    uint32_t partition = nodes[0].partition;

    if (!directory)
        return KM_E_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        struct hash_node *node = create_unloaded(index->pool, &nodes[i], image_node + (uint32_t)i);

        if (!node) {
            km__hash_free_directory(index->pool, directory);
            return KM_E_NO_MEMORY;
        }
        km__hash_point_entries(directory, nodes[i].prefix, node);
    }
    for (size_t i = 0; i < count; i++)
        km__hash_add(index, partition, nodes[i].count, nodes[i].weight);
    /* relaxed: nobody else uses the index yet */
    atomic_store_explicit(&index->not_loaded_counts[partition], (uint32_t)count,
                          memory_order_relaxed);
    km__hash_account(index, count * HASH_NODE_SIZE + km__hash_directory_bytes(depth), 0);
    km__hash_set_root(index, partition, directory);
    return KM_OK;
}

km_status km__hash_import(struct hash_index *index, const struct hash_image_node *nodes,
                          size_t count, uint64_t first_image_node,
                          const struct hash_image_source *source)
{
    km_status rc = count > UINT32_MAX ? KM_E_CORRUPT : KM_OK;
    size_t i = 0;

    for (uint32_t p = 0; p < HASH_PARTITION_COUNT; p++)
        KM_ASSERT(!km__hash_directory(index, p));
    while (i < count && rc == KM_OK) { /* ends: each turn enters a node or more */
        uint32_t depth;
        size_t tile_count = count_tiles(&nodes[i], count - i, &depth);

        if (tile_count == 0 || !is_in_proportion(depth, tile_count) ||
            (i > 0 && nodes[i].partition <= nodes[i - 1].partition))
            rc = KM_E_CORRUPT;
        else
            rc = enter_tiles(index, &nodes[i], tile_count, depth, (uint32_t)i);
        i += tile_count;
    }
    for (uint32_t p = 0; p < HASH_PARTITION_COUNT && rc != KM_OK; p++)
        km__hash_clear_partition(index, p);
    index->image_source = source;
    index->first_image_node = first_image_node;
    return rc;
}

/* ---- export */

static void copy_slots(const struct hash_node *node, uint64_t *lines)
{
    size_t slot_count = (size_t)HASH_LINE_SLOTS << node->line_bits;

    for (size_t i = 0; i < slot_count; i++) /* relaxed: stored under the lock */
        lines[i] = atomic_load_explicit(&node->lines[i], memory_order_relaxed);
    KM_ASSERT(!has_placeholder(lines, slot_count)); /* no writer is inside the partition */
}

/* The next node of what is left of a partition that was cleared: I3. */
static void export_void(const struct hash_walk *walk, struct hash_image_node *out_node,
                        uint64_t *lines)
{
    memset(out_node, 0, sizeof(*out_node));
    out_node->prefix = walk->prefix;
    out_node->partition = (uint8_t)walk->partition;
    out_node->depth = (uint8_t)walk->depth;
    out_node->tag_bits = HASH_TAG_BITS;
    memset(lines, 0, HASH_LINE_SIZE);
}

static km_status export_node(struct hash_index *index, struct hash_walk *walk,
                             struct hash_image_node *out_node, uint64_t *lines)
{
    const struct hash_node *node = km__hash_find_node(index, walk->partition, walk->prefix);
    km_status rc = km__hash_load_slow(index, walk->partition, walk->prefix);

    if (rc)
        return rc;
    KM_ASSERT((walk->prefix & (UINT64_MAX >> node->depth)) == 0); /* it begins here: I3 */
    memset(out_node, 0, sizeof(*out_node));
    out_node->prefix = walk->prefix;
    out_node->weight = node->weight;
    out_node->count = node->count;
    out_node->flagged_count = node->flagged_count;
    out_node->partition = (uint8_t)walk->partition;
    out_node->depth = node->depth;
    out_node->line_bits = node->line_bits;
    out_node->tag_bits = node->tag_bits;
    copy_slots(node, lines);
    return KM_OK;
}

/* Export what comes next in the walk's partition, which is locked and not empty, or was not. */
static km_status export_tile(struct hash_index *index, struct hash_walk *walk,
                             struct hash_image_node *out_node, uint64_t *lines)
{
    uint32_t clear_count = index->clear_counts[walk->partition];
    km_status rc = KM_OK;

    if (walk->prefix == 0)
        walk->clear_count = clear_count;
    if (walk->clear_count != clear_count)
        export_void(walk, out_node, lines);
    else
        rc = export_node(index, walk, out_node, lines);
    if (rc)
        return rc;
    walk->depth = out_node->depth;
    km__hash_walk_step(walk, out_node->depth);
    return KM_OK;
}

km_status km__hash_export_next(struct hash_index *index, struct hash_walk *walk,
                               struct hash_image_node *out_node, uint64_t *lines, int *out_end)
{
    while (walk->partition < HASH_PARTITION_COUNT) { /* ends: each turn moves the walk on */
        struct mutex *lock = &index->partitions[walk->partition].lock;
        int is_empty;
        km_status rc = KM_OK;

        km__mutex_lock(lock);
        is_empty = walk->prefix == 0 && !km__hash_directory(index, walk->partition);
        if (is_empty)
            walk->partition++;
        else
            rc = export_tile(index, walk, out_node, lines);
        km__mutex_unlock(lock);
        if (rc)
            return rc;
        if (!is_empty) {
            *out_end = 0;
            return KM_OK;
        }
    }
    *out_end = 1;
    return KM_OK;
}
