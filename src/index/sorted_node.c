/* SPDX-License-Identifier: Apache-2.0
 *
 * sorted_node.c -- nodes of the sorted tree: their memory, and how they are filled.
 *
 * Leaves and most inner nodes come from the pool. An inner node of long separators may be larger
 * than the pool's largest block: then it has pages of its own. What was retired is freed when the
 * tree itself may be gone already: a node knows what that takes.
 */
#include "index/sorted_tree_internal.h"

#include "index/node_pool.h"

#define SORTED_PAGE 4096u

/* ---- memory */

static void account_nodes(struct sorted_tree *tree, uint64_t added, uint64_t removed)
{
    /* relaxed: a number, no data behind it */
    atomic_fetch_add_explicit(&tree->bytes, added - removed, memory_order_relaxed);
}

static size_t node_size(uint64_t link)
{
    const struct sorted_inner *inner = km__sorted_node(link);

    return km__sorted_level(link) == 0 ? SORTED_LEAF_SIZE : inner->memory_size;
}

static void release_inner(struct node_pool *pool, struct sorted_inner *inner)
{
    if (inner->memory_size <= NODE_POOL_BLOCK_MAX)
        km__node_pool_release(pool, inner, inner->memory_size);
    else
        km__unmap_pages(inner->allocator, inner, inner->memory_size);
}

static void release_node(struct node_pool *pool, uint64_t link)
{
    if (km__sorted_level(link) == 0)
        km__node_pool_release(pool, km__sorted_node(link), SORTED_LEAF_SIZE);
    else
        release_inner(pool, km__sorted_node(link));
}

/* Release a node with all below it; returns their bytes. */
static uint64_t release_all(struct node_pool *pool, uint64_t root)
{
    uint64_t links[SORTED_LEVEL_MAX + 1];
    uint32_t next[SORTED_LEVEL_MAX + 1] = {0};
    uint64_t bytes = 0;
    uint32_t depth = 0;

    links[0] = root;
    for (;;) { /* ends: each turn enters a node or releases one */
        const struct sorted_inner *inner = km__sorted_node(links[depth]);

        if (km__sorted_level(links[depth]) > 0 && next[depth] < inner->count) {
            links[depth + 1] = km__sorted_load_link(&km__sorted_links(inner)[next[depth]++]);
            next[++depth] = 0;
            continue;
        }
        bytes += node_size(links[depth]);
        release_node(pool, links[depth]);
        if (depth-- == 0)
            return bytes;
    }
}

static void free_retired_leaf(void *context, struct retired *retired)
{
    km__node_pool_release(context, retired, SORTED_LEAF_SIZE);
}

static void free_retired_inner(void *context, struct retired *retired)
{
    release_inner(context, (struct sorted_inner *)(void *)retired);
}

static void free_retired_tree(void *context, struct retired *retired)
{
    const struct sorted_inner *inner = (const struct sorted_inner *)(const void *)retired;

    release_all(context, km__sorted_link(inner, inner->level, 0));
}

static size_t bytes_below(uint64_t root)
{
    uint64_t links[SORTED_LEVEL_MAX + 1];
    uint32_t next[SORTED_LEVEL_MAX + 1] = {0};
    uint64_t bytes = node_size(root);
    uint32_t depth = 0;

    links[0] = root;
    for (;;) { /* ends: each turn takes another child, or goes up */
        const struct sorted_inner *inner = km__sorted_node(links[depth]);
        uint64_t child;

        if (km__sorted_level(links[depth]) == 0 || next[depth] == inner->count) {
            if (depth-- == 0)
                return bytes;
            continue;
        }
        child = km__sorted_load_link(&km__sorted_links(inner)[next[depth]++]);
        if (km__sorted_level(child) == 0) {
            bytes += SORTED_LEAF_SIZE;
            continue;
        }
        bytes += node_size(child);
        links[++depth] = child;
        next[depth] = 0;
    }
}

void km__sorted_free_node(struct sorted_tree *tree, uint64_t link)
{
    if (!link)
        return;
    account_nodes(tree, 0, node_size(link));
    release_node(tree->pool, link);
}

void km__sorted_free_all(struct sorted_tree *tree, uint64_t link)
{
    if (link)
        account_nodes(tree, 0, release_all(tree->pool, link));
}

void km__sorted_retire_node(struct sorted_tree *tree, uint64_t link)
{
    account_nodes(tree, 0, node_size(link));
    km__retire(tree->reclaimer, km__sorted_node(link),
               km__sorted_level(link) == 0 ? free_retired_leaf : free_retired_inner, tree->pool);
}

void km__sorted_retire_all(struct sorted_tree *tree, uint64_t link)
{
    account_nodes(tree, 0, bytes_below(link));
    km__retire(tree->reclaimer, km__sorted_node(link),
               km__sorted_level(link) == 0 ? free_retired_leaf : free_retired_tree, tree->pool);
}

/* ---- leaves */

struct sorted_leaf *km__sorted_new_leaf(struct sorted_tree *tree)
{
    struct sorted_leaf *leaf = km__node_pool_allocate(tree->pool, SORTED_LEAF_SIZE);

    if (leaf)
        account_nodes(tree, SORTED_LEAF_SIZE, 0);
    return leaf;
}

void km__sorted_fill_leaf(struct sorted_leaf *leaf, const struct sorted_items *items,
                          uint32_t first, uint32_t end)
{
    uint32_t count = end - first;

    KM_ASSERT(first <= end && count <= SORTED_LEAF_ENTRIES);
    for (uint32_t i = 0; i < count; i++) { /* relaxed: the link to the leaf publishes it */
        atomic_store_explicit(&leaf->heads[i], items->heads[first + i], memory_order_relaxed);
        atomic_store_explicit(&leaf->refs[i], items->refs[first + i], memory_order_relaxed);
    }
    km__sorted_store_word(leaf, km__sorted_first_word(count));
}

/* ---- inner nodes */

/* What all separators of the parts from `first` up to `end` begin with: they ascend. */
static uint32_t prefix_of_parts(const struct sorted_parts *parts, uint32_t first, uint32_t end)
{
    return km__sorted_view_common(&parts->parts[first + 1].separator,
                                  &parts->parts[end - 1].separator);
}

static size_t tail_size(const struct sorted_view *separator, uint32_t prefix_size)
{
    size_t head_end = (size_t)prefix_size + SORTED_HEAD_SIZE;

    return separator->size > head_end ? separator->size - head_end : 0;
}

size_t km__sorted_tails_size(const struct sorted_parts *parts, uint32_t first, uint32_t end)
{
    uint32_t prefix_size = prefix_of_parts(parts, first, end);
    size_t size = prefix_size;

    for (uint32_t i = first + 1; i < end; i++)
        size += tail_size(&parts->parts[i].separator, prefix_size);
    return size;
}

/* `tails_size` is that of prefix and tails. */
static struct sorted_inner *create_inner(struct sorted_tree *tree, uint32_t count,
                                         uint32_t prefix_size, size_t tails_size)
{
    int has_tails = tails_size > prefix_size;
    size_t each = sizeof(uint64_t) + sizeof(uint16_t) + (has_tails ? sizeof(uint32_t) : 0);
    size_t size = sizeof(struct sorted_inner) + count * sizeof(uint64_t) + (count - 1) * each;
    size_t block_size = NODE_POOL_BLOCK_MIN;
    struct sorted_inner *inner;

    size += tails_size;
    while (block_size < size && block_size < NODE_POOL_BLOCK_MAX) /* ends: at the largest block */
        block_size *= 2;
    if (block_size < size)
        block_size = km__round_up(size, SORTED_PAGE);
    if (block_size <= NODE_POOL_BLOCK_MAX)
        inner = km__node_pool_allocate(tree->pool, block_size);
    else
        inner = km__map_pages(tree->allocator, block_size);
    if (!inner)
        return NULL;
    inner->allocator = tree->allocator;
    inner->memory_size = (uint32_t)block_size;
    inner->prefix_size = (uint16_t)prefix_size;
    inner->count = (uint8_t)count;
    inner->has_tails = has_tails != 0;
    account_nodes(tree, block_size, 0);
    return inner;
}

/* Set separator i, and its tail at `offset`; returns where the next one goes. */
static uint32_t set_separator(struct sorted_inner *inner, uint32_t i,
                              const struct sorted_view *separator, uint32_t offset)
{
    uint32_t size = (uint32_t)tail_size(separator, inner->prefix_size);

    inner->heads[i] = km__sorted_view_head(separator, inner->prefix_size);
    km__sorted_sizes(inner)[i] = (uint16_t)separator->size;
    if (!inner->has_tails)
        return 0;
    km__sorted_tail_offsets(inner)[i] = offset;
    if (size > 0)
        km__sorted_view_copy(separator, separator->size - size, separator->size,
                             km__sorted_tail(inner, i));
    return offset + size;
}

uint64_t km__sorted_new_inner(struct sorted_tree *tree, const struct sorted_parts *parts,
                              uint32_t first, uint32_t end, const struct sorted_view fences[2])
{
    uint32_t prefix_size = prefix_of_parts(parts, first, end);
    uint32_t offset = prefix_size;
    struct sorted_inner *inner;
    _Atomic uint64_t *links;

    KM_ASSERT(end - first >= 2 && end - first <= SORTED_CHILDREN_MAX);
    KM_ASSERT(parts->level <= SORTED_LEVEL_MAX);
    inner = create_inner(tree, end - first, prefix_size, km__sorted_tails_size(parts, first, end));
    if (!inner)
        return 0;
    inner->level = (uint8_t)parts->level;
    km__sorted_view_copy(&parts->parts[first + 1].separator, 0, prefix_size,
                         km__sorted_prefix(inner));
    links = km__sorted_links(inner);
    for (uint32_t i = 0; i < inner->count; i++) {
        const struct sorted_part *part = &parts->parts[first + i];

        if (i > 0)
            offset = set_separator(inner, i - 1, &part->separator, offset);
        /* relaxed: the link to the node publishes it */
        atomic_store_explicit(&links[i], part->link, memory_order_relaxed);
    }
    return km__sorted_link(inner, parts->level, km__sorted_view_common(&fences[0], &fences[1]));
}
