/* SPDX-License-Identifier: Apache-2.0
 *
 * sorted_image.c -- a sorted tree leaf by leaf: out of one, and into one.
 *
 * An export goes on where the last leaf ended, at that leaf's high fence. If leaves were joined in
 * between, the next one begins before: then only its entries from there on are copied.
 *
 * A tree is built from the bottom: each level collects the nodes below it until there are enough
 * for a node of its own. A level holds a few nodes back, so that the last node of it has company.
 */
#include "index/sorted_tree_internal.h"

/* Children that a node is built of, and how many are held back then. */
#define SORTED_BUILD_CHILDREN 44u
#define SORTED_BUILD_KEPT 4u

/* ---- export */

/* Copy the entries of a leaf from `first` on. */
static void copy_entries(uint64_t link, uint64_t word, uint32_t first,
                         struct sorted_image_leaf *out)
{
    const struct sorted_leaf *leaf = km__sorted_node(link);

    for (uint32_t i = first; i < km__sorted_word_count(word); i++) {
        uint32_t slot = km__sorted_word_slot(word, i);
        uint64_t ref = km__sorted_load_ref(leaf, slot);

        if (ref & SORTED_PENDING)
            continue;
        out->heads[out->count] = km__sorted_load_head(leaf, slot);
        out->refs[out->count++] = ref;
    }
}

/* The leaf where `key`, the fence that the walk has come to, belongs. */
static km_status export_leaf(const struct sorted_tree *tree, const struct sorted_path *path,
                             km_bytes key, struct sorted_image_leaf *out,
                             struct sorted_view *out_high)
{
    uint32_t index = path->depth > 0 ? path->steps[path->depth - 1].index : 0;
    struct sorted_view low = km__sorted_low_fence(path, path->depth, index);
    struct sorted_view fence = km__sorted_view_of(key.data, key.size);
    uint64_t word = km__sorted_load_word(km__sorted_node(path->link));
    struct sorted_place place = {0};
    km_status rc = KM_OK;

    if (km__sorted_view_compare(&low, &fence) != 0)
        rc = km__sorted_search(tree, path->link, word, key, &place);
    if (rc)
        return rc;
    copy_entries(path->link, word, place.position, out);
    out->skip = km__sorted_skip(path->link);
    *out_high = km__sorted_high_fence(path, path->depth, index);
    return KM_OK;
}

km_status km__sorted_export_next(const struct sorted_tree *tree, struct sorted_walk *walk,
                                 struct sorted_image_leaf *out, km_bytes *out_fence, int *out_end)
{
    km_bytes key = {walk->high.bytes, walk->high.size}; /* the fence that the walk has come to */
    struct sorted_view high = {0};
    struct sorted_path path;
    struct sorted_fence spare;
    km_status rc = KM_OK;

    *out_end = 1;
    km__sorted_descend_path(tree, key, &path);
    if (walk->is_over || (!walk->has_begun && !path.link))
        return KM_OK;
    *out_end = 0;
    out->count = 0;
    out->skip = 0;
    out->low_fence_size = (uint32_t)key.size;
    if (path.link) { /* else the tree was cleared: an empty leaf covers the rest */
        rc = export_leaf(tree, &path, key, out, &high);
        if (rc == KM_OK)
            rc = km__sorted_store_fence(tree->allocator, &walk->low, &high);
    }
    if (rc)
        return rc;
    spare = walk->low;
    walk->low = walk->high;
    walk->high = spare;
    walk->has_begun = 1;
    walk->is_over = high.size == 0;
    *out_fence = key;
    return KM_OK;
}

void km__sorted_walk_fini(const struct sorted_tree *tree, struct sorted_walk *walk)
{
    km__release(tree->allocator, walk->low.bytes, walk->low.capacity);
    km__release(tree->allocator, walk->high.bytes, walk->high.capacity);
    memset(walk, 0, sizeof(*walk));
}

/* ---- building */

struct build_child { /* a node that waits for its parent */
    uint64_t link;
    uint8_t *fence; /* its low one; NULL if it is empty */
    uint32_t fence_size;
};

struct build_level { /* children of nodes of this level + 1 */
    uint32_t count;
    struct build_child children[SORTED_BUILD_CHILDREN];
};

struct sorted_builder {
    struct sorted_tree *tree;
    uint64_t count; /* of entries */
    uint32_t level_count;
    struct sorted_parts parts; /* of the node that is being made */
    struct build_level levels[SORTED_LEVEL_MAX + 1];
};

static struct sorted_view view_of_child(const struct build_child *child)
{
    return km__sorted_view_of(child->fence, child->fence_size);
}

static void release_fence(struct sorted_builder *builder, struct build_child *child)
{
    km__release(builder->tree->allocator, child->fence, child->fence_size);
    child->fence = NULL;
}

/* Make a node of the first `count` children of a level, and a child of it for the next level; its
 * high fence is that of the child behind them, or open. */
static km_status close_node(struct sorted_builder *builder, uint32_t level, uint32_t count,
                            struct build_child *out_child)
{
    struct build_level *from = &builder->levels[level];
    struct sorted_parts *parts = &builder->parts;
    struct sorted_view fences[2] = {view_of_child(&from->children[0]), {0}};
    uint64_t link;

    if (count < from->count)
        fences[1] = view_of_child(&from->children[count]);
    parts->count = count;
    parts->level = level + 1;
    for (uint32_t i = 0; i < count; i++) {
        parts->parts[i].link = from->children[i].link;
        parts->parts[i].separator = view_of_child(&from->children[i]);
    }
    link = km__sorted_new_inner(builder->tree, parts, 0, count, fences);
    if (!link)
        return KM_E_NO_MEMORY;
    *out_child = from->children[0];
    out_child->link = link;
    for (uint32_t i = 1; i < count; i++)
        release_fence(builder, &from->children[i]);
    from->count -= count;
    memmove(from->children, &from->children[count], from->count * sizeof(from->children[0]));
    return KM_OK;
}

/* Whether a level has children for a node and some to keep. */
static int is_level_full(const struct build_level *level)
{
    size_t size = 0;

    if (level->count == SORTED_BUILD_CHILDREN)
        return 1;
    if (level->count < SORTED_CHILDREN_ENOUGH + SORTED_BUILD_KEPT)
        return 0;
    for (uint32_t i = 0; i < level->count; i++)
        size += level->children[i].fence_size;
    return size > 2 * SORTED_TAILS_MAX;
}

/* Append a child, which is the builder's from now on. Levels above take what becomes full. */
static km_status append_child(struct sorted_builder *builder, uint32_t number,
                              struct build_child child)
{
    for (;;) { /* ends: a level is full after several others of the one below */
        struct build_level *level = &builder->levels[number];
        km_status rc;

        KM_ASSERT(number < SORTED_LEVEL_MAX);
        if (builder->level_count <= number)
            builder->level_count = number + 1;
        level->children[level->count++] = child;
        if (!is_level_full(level))
            return KM_OK;
        rc = close_node(builder, number, level->count - SORTED_BUILD_KEPT, &child);
        if (rc)
            return rc;
        number++;
    }
}

km_status km__sorted_build_begin(struct sorted_tree *tree, struct sorted_builder **out_builder)
{
    struct sorted_builder *builder = km__allocate(tree->allocator, sizeof(*builder));

    KM_ASSERT(!km__sorted_load_link(&tree->root));
    if (!builder)
        return KM_E_NO_MEMORY;
    builder->tree = tree;
    *out_builder = builder;
    return KM_OK;
}

static int is_leaf_sound(const struct sorted_image_leaf *leaf, km_bytes fence)
{
    if (leaf->count > SORTED_LEAF_ENTRIES || leaf->low_fence_size != fence.size ||
        fence.size > KM_KEY_SIZE_MAX || leaf->skip > fence.size)
        return 0;
    for (uint32_t i = 0; i < leaf->count; i++) {
        if (leaf->refs[i] == 0 || (leaf->refs[i] & SORTED_PENDING))
            return 0;
        if (i > 0 && leaf->heads[i - 1] > leaf->heads[i])
            return 0;
    }
    return 1;
}

/* Whether a fence may end the last leaf: it is above that leaf's own, and both share what the leaf
 * skips. The first leaf has nothing before it, and an empty fence. */
static int is_next_fence(const struct sorted_builder *builder, km_bytes fence)
{
    const struct build_level *level = &builder->levels[0];
    struct sorted_view view = km__sorted_view_of(fence.data, fence.size);
    struct sorted_view last;

    if (level->count == 0)
        return fence.size == 0;
    last = view_of_child(&level->children[level->count - 1]);
    return km__sorted_view_compare(&last, &view) < 0 &&
           km__sorted_skip(level->children[level->count - 1].link) <=
               km__sorted_view_common(&last, &view);
}

static struct sorted_leaf *make_image_leaf(struct sorted_tree *tree,
                                           const struct sorted_image_leaf *image)
{
    struct sorted_leaf *leaf = km__sorted_new_leaf(tree);
    struct sorted_items items;

    if (!leaf)
        return NULL;
    items.count = image->count;
    memcpy(items.heads, image->heads, image->count * sizeof(items.heads[0]));
    memcpy(items.refs, image->refs, image->count * sizeof(items.refs[0]));
    km__sorted_fill_leaf(leaf, &items, 0, items.count);
    return leaf;
}

km_status km__sorted_build_add(struct sorted_builder *builder, const struct sorted_image_leaf *leaf,
                               km_bytes fence)
{
    struct build_child child = {0, NULL, (uint32_t)fence.size};
    struct sorted_tree *tree = builder->tree;
    struct sorted_leaf *made;

    if (!is_leaf_sound(leaf, fence) || !is_next_fence(builder, fence))
        return KM_E_CORRUPT;
    if (fence.size > 0) {
        child.fence = km__allocate(tree->allocator, fence.size);
        if (!child.fence)
            return KM_E_NO_MEMORY;
        memcpy(child.fence, fence.data, fence.size);
    }
    made = make_image_leaf(tree, leaf);
    if (!made) {
        release_fence(builder, &child);
        return KM_E_NO_MEMORY;
    }
    child.link = km__sorted_link(made, 0, leaf->skip);
    builder->count += leaf->count;
    return append_child(builder, 0, child);
}

/* Make nodes of all that waits; the root is left. */
static km_status close_levels(struct sorted_builder *builder, uint64_t *out_root)
{
    for (uint32_t i = 0; i < builder->level_count; i++) { /* level_count grows meanwhile, by one */
        struct build_level *level = &builder->levels[i];
        struct build_child child;
        km_status rc;

        if (i + 1 == builder->level_count && level->count == 1)
            *out_root = level->children[0].link;
        if (i + 1 == builder->level_count && level->count == 1)
            break;
        rc = close_node(builder, i, level->count, &child);
        if (rc == KM_OK)
            rc = append_child(builder, i + 1, child);
        if (rc)
            return rc;
    }
    return KM_OK;
}

km_status km__sorted_build_end(struct sorted_builder *builder, uint64_t weight)
{
    const struct build_level *leaves = &builder->levels[0];
    struct sorted_tree *tree = builder->tree;
    uint64_t root = 0;
    km_status rc = KM_OK;

    if (leaves->count > 0 && km__sorted_skip(leaves->children[leaves->count - 1].link) != 0)
        rc = KM_E_CORRUPT; /* nothing bounds the last one */
    if (rc == KM_OK)
        rc = close_levels(builder, &root);
    if (rc == KM_OK) {
        km__sorted_store_link(&tree->root, root);
        if (root)
            builder->levels[builder->level_count - 1].children[0].link = 0; /* it is the tree's */
        atomic_store_explicit(&tree->shards[0].count, builder->count, memory_order_relaxed);
        atomic_store_explicit(&tree->shards[0].weight, weight, memory_order_relaxed);
    }
    km__sorted_build_abort(builder);
    return rc;
}

void km__sorted_build_abort(struct sorted_builder *builder)
{
    if (!builder)
        return;
    for (uint32_t i = 0; i < builder->level_count; i++) {
        struct build_level *level = &builder->levels[i];

        for (uint32_t j = 0; j < level->count; j++) {
            release_fence(builder, &level->children[j]);
            km__sorted_free_all(builder->tree, level->children[j].link);
        }
    }
    km__release(builder->tree->allocator, builder, sizeof(*builder));
}
