/* SPDX-License-Identifier: Apache-2.0
 *
 * sorted_check.c -- what sorted_tree.c promises of the tree, looked at.
 *
 * Leaf by leaf, from fence to fence; an inner node is looked at when the first leaf below it is.
 * Each function returns 0 or the number of an invariant that does not hold.
 */
#include "index/sorted_tree_internal.h"

struct tree_check {
    const struct sorted_tree *tree;
    struct sorted_path path; /* of the low fence of a leaf */
    km_bytes fence;
    uint64_t bytes;
    uint64_t count;
};

static int is_within(const struct sorted_view *view, const struct sorted_view fences[2])
{
    return km__sorted_view_compare(&fences[0], view) <= 0 &&
           (fences[1].size == 0 || km__sorted_view_compare(view, &fences[1]) < 0);
}

/* I2 for one node. */
static int check_separators(const struct sorted_step *step, const struct sorted_view fences[2])
{
    struct sorted_view last = fences[0];
    struct sorted_view first;

    for (uint32_t i = 0; i + 1 < step->node->count; i++) {
        struct sorted_view view = km__sorted_separator(step->node, i);

        if (view.size < step->node->prefix_size || !is_within(&view, fences))
            return 2;
        if (km__sorted_view_compare(&last, &view) >= 0)
            return 2;
        if (view.size < view.skip + SORTED_HEAD_SIZE &&
            view.head << 8 * (view.size - view.skip) != 0)
            return 2;
        last = view;
    }
    first = km__sorted_separator(step->node, 0);
    return km__sorted_view_common(&first, &last) == step->node->prefix_size ? 0 : 2;
}

/* The node at step `depth` of the path. */
static int check_inner(struct tree_check *check, uint32_t depth)
{
    const struct sorted_step *step = &check->path.steps[depth];
    const struct sorted_inner *inner = step->node;
    uint32_t index = depth > 0 ? step[-1].index : 0;
    struct sorted_view fences[2];

    fences[0] = km__sorted_low_fence(&check->path, depth, index);
    fences[1] = km__sorted_high_fence(&check->path, depth, index);
    check->bytes += inner->memory_size;
    if (inner->count < 2 || inner->count > SORTED_CHILDREN_MAX ||
        inner->level != check->path.depth - depth)
        return 1;
    for (uint32_t i = 0; i < inner->count; i++) {
        uint64_t link = km__sorted_load_link(&km__sorted_links(inner)[i]);
        if (!km__sorted_node(link) || km__sorted_level(link) != inner->level - 1u)
            return 1;
    }
    if (step->skip != km__sorted_view_common(&fences[0], &fences[1]))
        return 3;
    return check_separators(step, fences);
}

/* I4. */
static int check_word(uint64_t word)
{
    uint32_t seen = 0;

    if (km__sorted_word_used(word) == SORTED_DEAD ||
        km__sorted_word_count(word) > km__sorted_word_used(word))
        return 4;
    for (uint32_t i = 0; i < km__sorted_word_count(word); i++) {
        uint32_t slot = km__sorted_word_slot(word, i);
        if (slot >= km__sorted_word_used(word) || (seen & 1u << slot))
            return 4;
        seen |= 1u << slot;
    }
    return 0;
}

/* I5 and I6 for the entries of a leaf. */
static int check_leaf_entries(struct tree_check *check, const struct sorted_view fences[2])
{
    const struct sorted_leaf *leaf = km__sorted_node(check->path.link);
    uint64_t word = km__sorted_load_word(leaf);
    uint32_t skip = km__sorted_skip(check->path.link);
    struct sorted_view last = {0};

    for (uint32_t i = 0; i < km__sorted_word_count(word); i++) {
        uint32_t slot = km__sorted_word_slot(word, i);
        uint64_t ref = km__sorted_load_ref(leaf, slot);
        struct sorted_view view;
        km_bytes key;

        if (ref == 0)
            return 6;
        check->count += !(ref & SORTED_PENDING);
        if (km__sorted_entry_key(check->tree, ref, &key) != KM_OK || key.size < skip)
            return 5;
        view = km__sorted_view_of(key.data, key.size);
        if (!is_within(&view, fences) || (i > 0 && km__sorted_view_compare(&last, &view) >= 0) ||
            km__sorted_head(key.data, key.size, skip) != km__sorted_load_head(leaf, slot))
            return 5;
        last = view;
    }
    return 0;
}

/* The leaf that begins at check->fence, and the inner nodes that do. */
static int check_leaf(struct tree_check *check, struct sorted_view *out_high)
{
    uint32_t depth = check->path.depth;
    uint32_t index = depth > 0 ? check->path.steps[depth - 1].index : 0;
    struct sorted_view fence = km__sorted_view_of(check->fence.data, check->fence.size);
    struct sorted_view fences[2];
    int broken = 0;

    for (uint32_t i = depth; i > 0 && !broken; i--) {
        if (check->path.steps[i - 1].index > 0)
            break;
        broken = check_inner(check, i - 1);
    }
    if (broken)
        return broken;
    fences[0] = km__sorted_low_fence(&check->path, depth, index);
    fences[1] = km__sorted_high_fence(&check->path, depth, index);
    if (km__sorted_view_compare(&fences[0], &fence) != 0)
        return 2;
    if (km__sorted_skip(check->path.link) > km__sorted_view_common(&fences[0], &fences[1]))
        return 3;
    check->bytes += SORTED_LEAF_SIZE;
    broken = check_word(km__sorted_load_word(km__sorted_node(check->path.link)));
    if (broken)
        return broken;
    *out_high = fences[1];
    return check_leaf_entries(check, fences);
}

int km__sorted_check(struct sorted_tree *tree)
{
    struct sorted_fence fences[2] = {{0}, {0}};
    struct sorted_view high = {0};
    struct tree_check check;
    uint32_t turn = 0;
    int broken = 0;

    check.tree = tree;
    check.bytes = SORTED_TREE_SIZE;
    check.count = 0;
    do { /* ends: fences ascend, or I2 is broken */
        check.fence.data = fences[turn].bytes;
        check.fence.size = fences[turn].size;
        km__sorted_descend_path(tree, check.fence, &check.path);
        if (check.path.link)
            broken = check_leaf(&check, &high);
        turn ^= 1;
        if (!broken && km__sorted_store_fence(tree->allocator, &fences[turn], &high) != KM_OK)
            broken = 7;
    } while (!broken && high.size > 0);
    if (!broken && check.count != km__sorted_count(tree))
        broken = 6;
    if (!broken && check.bytes != km__sorted_bytes(tree))
        broken = 7;
    for (uint32_t i = 0; i < 2; i++)
        km__release(tree->allocator, fences[i].bytes, fences[i].capacity);
    return broken;
}
