/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_grow.c -- build nodes anew: larger, in two, or just tidied up; and directories.
 *
 * A new node is filled from the slots of the old one: home and tag are consecutive bits of the
 * hash, so more lines or more depth take their bits from the top of the tag, which is then left
 * with fewer. When fewer than HASH_TAG_BITS_MIN would be left, the source is asked for the hashes.
 * Nobody sees a new node before its entries are set; whatever fails before that leaves no trace.
 *
 * Readers may go on in an old node while its entries are changed one by one, and after. It stays
 * as it was at the moment its rebuild began: the partition's lock is held from before the first
 * slot is copied until the last entry is set, and later changes go to the new nodes. A lookup that
 * uses the old node has read its entry before those changes, so it may count as earlier.
 */
#include "index/hash_index_internal.h"

#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "index/node_pool.h"

#define HASH_GROUP_COUNT 32u /* references the source is asked for at once */

/* A node in the making. */
struct hash_build {
    struct hash_node *node;
    uint32_t first_home; /* its slots are those of the old node whose homes are these */
    uint32_t home_count;
    uint32_t drop_bits;                /* how much deeper it is than the old one: 0 or 1 */
    int refresh;                       /* whether tags come from the source */
    uint8_t fill[HASH_NODE_LINES_MAX]; /* slots in use, which are the first ones of each line */
};

struct slot_group {
    size_t count;
    uint64_t refs[HASH_GROUP_COUNT];
    uint64_t bits[HASH_GROUP_COUNT]; /* see km__hash_slot_bits() */
};

/* ---- memory */

size_t km__hash_node_bytes(const struct hash_node *node)
{
    return HASH_NODE_SIZE + (node->lines ? (size_t)HASH_LINE_SIZE << node->line_bits : 0);
}

size_t km__hash_directory_bytes(uint32_t depth)
{
    size_t size = sizeof(struct hash_directory) + ((size_t)16 << depth);
    size_t block_size = NODE_POOL_BLOCK_MIN;

    if (size > NODE_POOL_BLOCK_MAX)
        return km__round_up(size, 4096);
    while (block_size < size) /* ends: size is at most the largest block */
        block_size *= 2;
    return block_size;
}

void km__hash_account(struct hash_index *index, size_t added, size_t removed)
{
    atomic_fetch_add_explicit(&index->bytes, (uint64_t)added - (uint64_t)removed,
                              memory_order_relaxed);
}

static struct hash_node *create_node(struct node_pool *pool, uint32_t depth, uint32_t line_bits,
                                     uint32_t tag_bits)
{
    struct hash_node *node = km__node_pool_allocate(pool, HASH_NODE_SIZE);

    if (!node)
        return NULL;
    node->lines = km__node_pool_allocate(pool, (size_t)HASH_LINE_SIZE << line_bits);
    if (!node->lines) {
        km__node_pool_release(pool, node, HASH_NODE_SIZE);
        return NULL;
    }
    KM_ASSERT(((uintptr_t)node->lines & ~HASH_ENTRY_ADDRESS_MASK) == 0);
    node->depth = (uint8_t)depth;
    node->line_bits = (uint8_t)line_bits;
    node->tag_bits = (uint8_t)tag_bits;
    return node;
}

static void free_node(struct node_pool *pool, struct hash_node *node)
{
    if (node->lines)
        km__node_pool_release(pool, node->lines, (size_t)HASH_LINE_SIZE << node->line_bits);
    km__node_pool_release(pool, node, HASH_NODE_SIZE);
}

static void free_retired_node(void *context, struct retired *retired)
{
    free_node(context, (struct hash_node *)(void *)retired);
}

/* `context` of a retired node or directory is the pool: the index may be gone by then. */
static void retire_node(struct hash_index *index, struct hash_node *node)
{
    km__retire(index->reclaimer, &node->retired, free_retired_node, index->pool);
}

struct hash_directory *km__hash_create_directory(struct hash_index *index, uint32_t depth)
{
    size_t size = km__hash_directory_bytes(depth);
    struct hash_directory *directory;

    if (size <= NODE_POOL_BLOCK_MAX)
        directory = km__node_pool_allocate(index->pool, size);
    else
        directory = km__map_pages(index->allocator, size);
    if (!directory)
        return NULL;
    directory->allocator = index->allocator;
    directory->depth = depth;
    return directory;
}

static void release_directory(struct node_pool *pool, struct hash_directory *directory)
{
    size_t size = km__hash_directory_bytes(directory->depth);

    if (size <= NODE_POOL_BLOCK_MAX)
        km__node_pool_release(pool, directory, size);
    else
        km__unmap_pages(directory->allocator, directory, size);
}

static void free_retired_directory(void *context, struct retired *retired)
{
    release_directory(context, (struct hash_directory *)(void *)retired);
}

static void retire_directory(struct hash_index *index, struct hash_directory *directory)
{
    km__retire(index->reclaimer, &directory->retired, free_retired_directory, index->pool);
}

/* ---- directories */

void km__hash_set_root(struct hash_index *index, uint32_t partition,
                       struct hash_directory *directory)
{
    uint64_t root = directory ? (uint64_t)(uintptr_t)directory | directory->depth : 0;

    /* pairs with km__hash_find_entry(): the directory's entries */
    atomic_store_explicit(&index->roots.words[partition], root, memory_order_release);
}

void km__hash_point_entries(struct hash_directory *directory, uint64_t own, struct hash_node *node)
{
    struct hash_node **nodes = km__hash_nodes(directory);
    uint32_t spare_bits = directory->depth - node->depth;
    size_t first = (size_t)km__hash_top_bits(own, node->depth) << spare_bits;
    uint64_t entry = km__hash_entry_of(node);

    for (size_t i = first; i < first + ((size_t)1 << spare_bits); i++) {
        nodes[i] = node;
        /* pairs with km__hash_find_entry(): the node's slots */
        atomic_store_explicit(&directory->entries[i], entry, memory_order_release);
    }
}

/*
 * A directory deepens only where hashes share their first bits. Random hashes need far fewer
 * entries than there are keys; a bound by their number keeps hashes that share many from taking
 * memory without end.
 */
static int may_double_directory(const struct hash_growth *growth, uint32_t depth)
{
    struct hash_partition *partition = &growth->index->partitions[growth->partition];
    /* relaxed: changed under the lock, which the caller holds */
    uint64_t count = atomic_load_explicit(&partition->count, memory_order_relaxed);

    return depth < HASH_DEPTH_MAX && (UINT64_C(2) << depth) <= HASH_DIRECTORY_SLACK + count;
}

/* A directory twice as large that leads where `small` leads. */
static struct hash_directory *create_double(struct hash_index *index, struct hash_directory *small)
{
    struct hash_directory *directory = km__hash_create_directory(index, small->depth + 1);
    struct hash_node **from = km__hash_nodes(small);
    struct hash_node **to;

    if (!directory)
        return NULL;
    to = km__hash_nodes(directory);
    for (size_t i = 0; i < (size_t)2 << small->depth; i++) {
        to[i] = from[i / 2];
        /* relaxed: km__hash_set_root() publishes it */
        atomic_store_explicit(&directory->entries[i], km__hash_entry_of(to[i]),
                              memory_order_relaxed);
    }
    return directory;
}

/* ---- filling a new node */

/* Put a reference where its bits, counted from behind the new node's depth, want it. KM_E_LIMIT if
 * no line near its home has room. */
static km_status place_slot(struct hash_build *build, uint64_t bits, uint64_t ref)
{
    struct hash_node *node = build->node;
    uint32_t line_mask = (1u << node->line_bits) - 1;
    uint32_t home = (uint32_t)km__hash_top_bits(bits, node->line_bits);
    uint64_t slot = km__hash_tag(bits, node->line_bits, node->tag_bits) | ref;
    uint32_t max = km__hash_displacement_max(node);

    for (uint32_t displacement = 0; displacement <= max; displacement++) {
        uint32_t at = (home + km__hash_line_offset(displacement)) & line_mask;
        _Atomic uint64_t *line = &node->lines[(size_t)at * HASH_LINE_SLOTS];
        uint64_t first;

        /* relaxed throughout: km__hash_point_entries() publishes the node */
        if (build->fill[at] < HASH_LINE_SLOTS) {
            atomic_store_explicit(&line[build->fill[at]], slot, memory_order_relaxed);
            build->fill[at]++;
            node->count++;
            return KM_OK;
        }
        first = atomic_load_explicit(&line[0], memory_order_relaxed);
        node->flagged_count += !(first & HASH_FLAG_BIT);
        atomic_store_explicit(&line[0], first | HASH_FLAG_BIT, memory_order_relaxed);
        slot += HASH_DISPLACEMENT_ONE;
    }
    return KM_E_LIMIT;
}

/* Put the whole hashes of a group in the place of what the slots knew of them. */
static km_status refresh_group(const struct hash_growth *growth, struct slot_group *group)
{
    const struct hash_node *old = growth->old;
    uint32_t known_bits = (uint32_t)old->line_bits + old->tag_bits;
    uint64_t hashes[HASH_GROUP_COUNT];
    km_status rc;

    KM_ASSERT(growth->source);
    rc = growth->source->hashes(growth->source->context, group->refs, group->count, hashes);
    if (rc)
        return rc;
    for (size_t i = 0; i < group->count; i++) {
        uint64_t own = km__hash_own_bits(hashes[i]);
        uint64_t bits = own << old->depth;

        /* a record that is not what it was when it was entered must not go elsewhere unnoticed */
        if (km__hash_partition(hashes[i]) != growth->partition ||
            km__hash_top_bits(own ^ growth->own, old->depth) != 0 ||
            km__hash_top_bits(bits ^ group->bits[i], known_bits) != 0)
            return KM_E_CORRUPT;
        group->bits[i] = bits;
    }
    return KM_OK;
}

static km_status flush_slots(const struct hash_growth *growth, struct hash_build *build,
                             struct slot_group *group)
{
    km_status rc = KM_OK;

    if (build->refresh && group->count > 0)
        rc = refresh_group(growth, group);
    for (size_t i = 0; i < group->count && rc == KM_OK; i++)
        rc = place_slot(build, group->bits[i] << build->drop_bits, group->refs[i]);
    group->count = 0;
    return rc;
}

/* Take over what lies in one line of the old node and belongs to the new one. */
static km_status copy_line(const struct hash_growth *growth, struct hash_build *build,
                           struct slot_group *group, uint32_t line)
{
    const struct hash_node *old = growth->old;
    uint32_t line_mask = (1u << old->line_bits) - 1;

    for (uint32_t i = 0; i < HASH_LINE_SLOTS; i++) {
        /* relaxed: stored under the lock, which the caller holds */
        uint64_t slot = atomic_load_explicit(&old->lines[(size_t)line * HASH_LINE_SLOTS + i],
                                             memory_order_relaxed);
        uint64_t bits = km__hash_slot_bits(old, line, slot);
        uint32_t home = (uint32_t)km__hash_top_bits(bits, old->line_bits);
        km_status rc;

        if (!(slot & HASH_REF_MASK) ||
            ((home - build->first_home) & line_mask) >= build->home_count)
            continue;
        group->refs[group->count] = slot & HASH_REF_MASK;
        group->bits[group->count] = bits;
        if (++group->count < HASH_GROUP_COUNT)
            continue;
        rc = flush_slots(growth, build, group);
        if (rc)
            return rc;
    }
    return KM_OK;
}

static km_status fill_node(const struct hash_growth *growth, struct hash_build *build)
{
    uint32_t line_count = 1u << growth->old->line_bits;
    uint32_t scan_count = build->home_count + km__hash_line_offset(HASH_DISPLACEMENT_MAX);
    struct slot_group group;

    group.count = 0;
    if (scan_count > line_count)
        scan_count = line_count;
    for (uint32_t i = 0; i < scan_count; i++) {
        uint32_t line = (build->first_home + i) & (line_count - 1);
        km_status rc = copy_line(growth, build, &group, line);
        if (rc)
            return rc;
    }
    return flush_slots(growth, build, &group);
}

/* Build a node of 2^line_bits lines. */
static km_status build_of_size(const struct hash_growth *growth, struct hash_build *build,
                               uint32_t line_bits)
{
    const struct hash_node *old = growth->old;
    uint32_t depth = old->depth + build->drop_bits;
    int tag_bits = (int)old->tag_bits + old->depth + old->line_bits - (int)(depth + line_bits);
    km_status rc;

    build->refresh = tag_bits < (int)HASH_TAG_BITS_MIN;
    if (build->refresh || tag_bits > (int)HASH_TAG_BITS)
        tag_bits = HASH_TAG_BITS;
    build->node = create_node(growth->index->pool, depth, line_bits, (uint32_t)tag_bits);
    if (!build->node)
        return KM_E_NO_MEMORY;
    memset(build->fill, 0, (size_t)1 << line_bits);
    rc = fill_node(growth, build);
    if (rc) {
        free_node(growth->index->pool, build->node);
        build->node = NULL;
    } else {
        build->node->flagged_at_build = build->node->flagged_count;
    }
    return rc;
}

/* Build the node with as few lines as hold its slots, from 2^line_bits on. */
static km_status build_node(const struct hash_growth *growth, struct hash_build *build,
                            uint32_t line_bits)
{
    km_status rc;

    do { /* ends: at the largest size */
        rc = build_of_size(growth, build, line_bits);
        line_bits++;
    } while (rc == KM_E_LIMIT && line_bits <= HASH_LINE_BITS_MAX);
    return rc;
}

/* ---- one step */

static km_status resize_node(const struct hash_growth *growth, uint32_t line_bits)
{
    struct hash_index *index = growth->index;
    struct hash_build build;
    km_status rc;

    build.first_home = 0;
    build.home_count = 1u << growth->old->line_bits;
    build.drop_bits = 0;
    rc = build_node(growth, &build, line_bits);
    if (rc)
        return rc;
    KM_ASSERT(build.node->count == growth->old->count);
    build.node->weight = growth->old->weight;
    km__hash_point_entries(km__hash_directory(index, growth->partition), growth->own, build.node);
    km__hash_account(index, km__hash_node_bytes(build.node), km__hash_node_bytes(growth->old));
    retire_node(index, growth->old);
    return KM_OK;
}

/* Build the half of a node whose next directory bit is `bit`. */
static km_status build_half(const struct hash_growth *growth, uint32_t bit,
                            struct hash_node **out_node)
{
    uint32_t expected_count = growth->old->count / 2 + 1;
    uint32_t line_bits = 0;
    struct hash_build build;
    km_status rc;

    /* at most 5/8 full: a half that had to grow again at once would have been built in vain */
    while (line_bits < HASH_LINE_BITS_MAX && expected_count > (5u << line_bits))
        line_bits++;
    build.home_count = 1u << (growth->old->line_bits - 1);
    build.first_home = bit * build.home_count;
    build.drop_bits = 1;
    rc = build_node(growth, &build, line_bits);
    if (rc == KM_OK)
        *out_node = build.node;
    return rc;
}

/* What a half of some count gets of the node's weight, the other half getting the rest. A weight is
 * signed here: as an estimate it may have come to be less than nothing. */
static uint64_t first_share(const struct hash_node *old, uint32_t count)
{
    int64_t whole = (int64_t)old->weight;
    int64_t old_count = (int64_t)old->count;

    KM_ASSERT(old_count > 0); /* it had become too full */
    /* in two steps, neither of which can overflow */
    return (uint64_t)(whole / old_count * count + whole % old_count * count / old_count);
}

/* Put two halves in the place of a node. `larger` is the directory to change to, or NULL. */
static void publish_halves(const struct hash_growth *growth, struct hash_node *halves[2],
                           struct hash_directory *larger)
{
    struct hash_index *index = growth->index;
    struct hash_directory *directory = km__hash_directory(index, growth->partition);
    uint64_t bit = (UINT64_C(1) << 63) >> growth->old->depth;

    KM_ASSERT(halves[0]->count + halves[1]->count == growth->old->count);
    halves[0]->weight = first_share(growth->old, halves[0]->count);
    halves[1]->weight = growth->old->weight - halves[0]->weight;
    km__hash_point_entries(larger ? larger : directory, growth->own & ~bit, halves[0]);
    km__hash_point_entries(larger ? larger : directory, growth->own | bit, halves[1]);
    km__hash_account(index, km__hash_node_bytes(halves[0]) + km__hash_node_bytes(halves[1]),
                     km__hash_node_bytes(growth->old));
    if (larger) {
        km__hash_set_root(index, growth->partition, larger);
        km__hash_account(index, km__hash_directory_bytes(larger->depth),
                         km__hash_directory_bytes(directory->depth));
        retire_directory(index, directory);
    }
    retire_node(index, growth->old);
}

static km_status split_node(const struct hash_growth *growth)
{
    struct hash_index *index = growth->index;
    struct hash_directory *directory = km__hash_directory(index, growth->partition);
    struct hash_directory *larger = NULL;
    struct hash_node *halves[2] = {NULL, NULL};
    int is_deepest = growth->old->depth == directory->depth;
    km_status rc;

    if (growth->old->line_bits == 0 ||
        (is_deepest && !may_double_directory(growth, directory->depth)))
        return KM_E_LIMIT;
    rc = build_half(growth, 0, &halves[0]);
    if (rc) goto out;
    rc = build_half(growth, 1, &halves[1]);
    if (rc) goto out;
    if (is_deepest) {
        larger = create_double(index, directory);
        rc = larger ? KM_OK : KM_E_NO_MEMORY;
        if (rc) goto out;
    }
    publish_halves(growth, halves, larger);
out:
    for (size_t i = 0; i < 2 && rc != KM_OK; i++) {
        if (halves[i])
            free_node(index->pool, halves[i]);
    }
    return rc;
}

/*
 * Hashes that share more bits than chance allows can be so crammed that they fit in no node of more
 * lines, where other homes' windows overlap. A split helps then: a half may have fewer lines, in
 * which they lie as they did, and takes their bits one by one all the same.
 */
km_status km__hash_grow(const struct hash_growth *growth)
{
    km_status rc = KM_E_LIMIT;

    if (growth->old->line_bits < HASH_LINE_BITS_MAX)
        rc = resize_node(growth, growth->old->line_bits + 1);
    return rc == KM_E_LIMIT ? split_node(growth) : rc;
}

km_status km__hash_rebuild(const struct hash_growth *growth)
{
    return resize_node(growth, growth->old->line_bits);
}

/* ---- the first and the last */

km_status km__hash_add_first_node(struct hash_index *index, uint32_t partition)
{
    struct hash_directory *directory = km__hash_create_directory(index, 0);
    struct hash_node *node;

    if (!directory)
        return KM_E_NO_MEMORY;
    node = create_node(index->pool, 0, 0, HASH_TAG_BITS);
    if (!node) {
        release_directory(index->pool, directory);
        return KM_E_NO_MEMORY;
    }
    km__hash_point_entries(directory, 0, node);
    km__hash_set_root(index, partition, directory);
    km__hash_account(index, km__hash_node_bytes(node) + km__hash_directory_bytes(0), 0);
    return KM_OK;
}

static size_t partition_bytes(struct hash_directory *directory)
{
    struct hash_node **nodes;
    size_t bytes, i = 0;

    if (!directory)
        return 0;
    nodes = km__hash_nodes(directory);
    bytes = km__hash_directory_bytes(directory->depth);
    while (i < (size_t)1 << directory->depth) { /* ends: each node has an entry or more */
        bytes += km__hash_node_bytes(nodes[i]);
        i += (size_t)1 << (directory->depth - nodes[i]->depth);
    }
    return bytes;
}

/* Retire a directory that no root leads to any more, with its nodes. */
static void retire_all(struct hash_index *index, struct hash_directory *directory)
{
    struct hash_node **nodes = km__hash_nodes(directory);
    size_t removed = km__hash_directory_bytes(directory->depth);
    size_t i = 0;

    while (i < (size_t)1 << directory->depth) { /* ends: each node has an entry or more */
        struct hash_node *node = nodes[i];
        i += (size_t)1 << (directory->depth - node->depth);
        removed += km__hash_node_bytes(node);
        retire_node(index, node);
    }
    retire_directory(index, directory);
    km__hash_account(index, 0, removed);
}

void km__hash_retire_partition(struct hash_index *index, uint32_t partition)
{
    struct hash_directory *directory = km__hash_directory(index, partition);

    if (!directory)
        return;
    km__hash_set_root(index, partition, NULL);
    retire_all(index, directory);
}

void km__hash_replace_partition(struct hash_index *index, uint32_t partition,
                                struct hash_index *from)
{
    struct hash_directory *old = km__hash_directory(index, partition);
    struct hash_directory *fresh = km__hash_directory(from, partition);
    size_t bytes = partition_bytes(fresh);

    km__hash_set_root(index, partition, fresh); /* readers see the old or the new, never nothing */
    km__hash_set_root(from, partition, NULL);
    km__hash_account(index, bytes, 0);
    km__hash_account(from, 0, bytes);
    if (old)
        retire_all(index, old);
}

void km__hash_free_directory(struct node_pool *pool, struct hash_directory *directory)
{
    struct hash_node **nodes = km__hash_nodes(directory);
    size_t i = 0;

    while (i < (size_t)1 << directory->depth) { /* ends: each node has an entry or more */
        struct hash_node *node = nodes[i];
        if (!node)
            break;
        i += (size_t)1 << (directory->depth - node->depth);
        free_node(pool, node);
    }
    release_directory(pool, directory);
}

void km__hash_free_partition(struct hash_index *index, uint32_t partition)
{
    struct hash_directory *directory = km__hash_directory(index, partition);

    if (directory)
        km__hash_free_directory(index->pool, directory);
}
