/* SPDX-License-Identifier: Apache-2.0
 *
 * sorted_read.c -- walks over the sorted tree, up and down, and counts of ranges.
 *
 * A walk descends once and then goes from child to child by the path it took, and never looks back
 * at the root: the nodes that it keeps to may be replaced meanwhile, but what lay below a node when
 * it was replaced, it leads to for ever. Their separators tile the keys, and a key that is there
 * all the time stays between its fences, so the walk meets it once. The leaves ahead are fetched
 * into the cache some steps before they are read.
 */
#include "index/sorted_tree_internal.h"

/* Leaves that are fetched ahead. */
#define SORTED_AHEAD_MAX 4u

struct leaf_walk {
    struct sorted_path path;
    struct sorted_bound end; /* upwards: all from it on is left out */
    uint32_t ahead_max;
};

/* ---- steps */

static void init_walk(struct leaf_walk *walk, size_t entry_count)
{
    size_t leaf_count = entry_count / (SORTED_LEAF_ENTRIES / 2);

    walk->path.depth = 0;
    walk->end.is_set = 0;
    walk->ahead_max = leaf_count < SORTED_AHEAD_MAX ? (uint32_t)leaf_count : SORTED_AHEAD_MAX;
}

static struct sorted_step *enter_node(struct leaf_walk *walk, uint64_t link)
{
    uint32_t depth = walk->path.depth++;
    struct sorted_step *step = &walk->path.steps[depth];
    const struct sorted_step *above = depth > 0 ? step - 1 : NULL;

    step->node = km__sorted_node(link);
    step->skip = km__sorted_skip(link);
    step->index = 0;
    step->last = step->node->count - 1u;
    step->is_edge = walk->end.is_set && (!above || (above->is_edge && above->index == above->last));
    if (step->is_edge)
        step->last = km__sorted_child(step->node, step->skip, walk->end.key);
    return step;
}

static uint64_t link_at(const struct sorted_step *step, uint32_t index)
{
    return km__sorted_load_link(&km__sorted_links(step->node)[index]);
}

static void fetch_up(const struct leaf_walk *walk, const struct sorted_step *step, uint32_t first)
{
    for (uint32_t i = first; i <= walk->ahead_max && step->index + i <= step->last; i++)
        km__sorted_prefetch_leaf(link_at(step, step->index + i));
}

static void fetch_down(const struct leaf_walk *walk, const struct sorted_step *step, uint32_t first)
{
    for (uint32_t i = first; i <= walk->ahead_max && i <= step->index; i++)
        km__sorted_prefetch_leaf(link_at(step, step->index - i));
}

/* Go down to the leaf where an upward walk begins, or its first one below `link`. */
static uint64_t descend_up(struct leaf_walk *walk, uint64_t link, struct sorted_bound from)
{
    struct sorted_step *step = NULL;

    while (km__sorted_level(link) > 0) { /* ends: levels fall */
        step = enter_node(walk, link);
        if (from.is_set)
            step->index = km__sorted_child(step->node, step->skip, from.key);
        link = link_at(step, step->index);
    }
    if (link)
        km__sorted_prefetch_leaf(link);
    if (step)
        fetch_up(walk, step, 1);
    return link;
}

static uint64_t descend_down(struct leaf_walk *walk, uint64_t link, struct sorted_bound from)
{
    struct sorted_step *step = NULL;

    while (km__sorted_level(link) > 0) { /* ends: levels fall */
        step = enter_node(walk, link);
        step->index = step->last;
        if (from.is_set)
            step->index = km__sorted_child(step->node, step->skip, from.key);
        link = link_at(step, step->index);
    }
    if (link)
        km__sorted_prefetch_leaf(link);
    if (step)
        fetch_down(walk, step, 1);
    return link;
}

/* The next leaf; 0 after the last. */
static uint64_t next_up(struct leaf_walk *walk)
{
    static const struct sorted_bound open = {0};
    struct sorted_path *path = &walk->path;

    while (path->depth > 0) { /* ends: above the root */
        struct sorted_step *step = &path->steps[path->depth - 1];

        if (step->index < step->last) {
            uint64_t link = link_at(step, ++step->index);
            if (km__sorted_level(link) > 0)
                return descend_up(walk, link, open);
            fetch_up(walk, step, walk->ahead_max);
            return link;
        }
        path->depth--;
    }
    return 0;
}

static uint64_t next_down(struct leaf_walk *walk)
{
    static const struct sorted_bound open = {0};
    struct sorted_path *path = &walk->path;

    while (path->depth > 0) { /* ends: above the root */
        struct sorted_step *step = &path->steps[path->depth - 1];

        if (step->index > 0) {
            uint64_t link = link_at(step, --step->index);
            if (km__sorted_level(link) > 0)
                return descend_down(walk, link, open);
            fetch_down(walk, step, walk->ahead_max);
            return link;
        }
        path->depth--;
    }
    return 0;
}

/* ---- bounds */

/* Where in a leaf a bound lies: 0 to its number of entries. */
static km_status position_of_bound(const struct sorted_tree *tree, uint64_t link, uint64_t word,
                                   struct sorted_bound bound, uint32_t *out_position)
{
    struct sorted_place place;
    km_status rc = km__sorted_search(tree, link, word, bound.key, &place);

    if (rc == KM_OK)
        *out_position = place.position + (place.is_found && bound.is_exclusive);
    return rc;
}

/* Whether the end of a walk belongs in the leaf where it is. */
static int is_at_end(const struct leaf_walk *walk)
{
    const struct sorted_step *step = walk->path.steps;

    if (walk->path.depth == 0)
        return walk->end.is_set;
    step += walk->path.depth - 1;
    return step->is_edge && step->index == step->last;
}

static int is_empty_range(struct sorted_bound from, struct sorted_bound to)
{
    struct sorted_view low = km__sorted_view_of(from.key.data, from.key.size);
    struct sorted_view high = km__sorted_view_of(to.key.data, to.key.size);

    return from.is_set && to.is_set && km__sorted_view_compare(&low, &high) >= 0;
}

/* ---- entries */

struct entry_list {
    uint64_t *refs;
    size_t max;
    size_t count;
};

static void append_ref(struct entry_list *list, const struct sorted_leaf *leaf, uint32_t slot)
{
    uint64_t ref = km__sorted_load_ref(leaf, slot);

    if (!(ref & SORTED_PENDING))
        list->refs[list->count++] = ref;
}

static void append_up(struct entry_list *list, const struct sorted_leaf *leaf, uint64_t word,
                      uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end && list->count < list->max; i++)
        append_ref(list, leaf, km__sorted_word_slot(word, i));
}

static void append_down(struct entry_list *list, const struct sorted_leaf *leaf, uint64_t word,
                        uint32_t end)
{
    for (uint32_t i = end; i > 0 && list->count < list->max; i--)
        append_ref(list, leaf, km__sorted_word_slot(word, i - 1));
}

km_status km__sorted_read_range(const struct sorted_tree *tree, struct sorted_bound from,
                                struct sorted_bound to, uint64_t *refs, size_t max,
                                size_t *out_count)
{
    struct entry_list list = {refs, max, 0};
    int is_first = from.is_set;
    struct leaf_walk walk;
    uint64_t link;

    KM_ASSERT(max >= SORTED_LEAF_ENTRIES);
    init_walk(&walk, max);
    walk.end = to;
    walk.end.is_exclusive = 0;
    link = is_empty_range(from, to) ? 0
                                    : descend_up(&walk, km__sorted_load_link(&tree->root), from);
    while (link) { /* ends: after the last leaf */
        const struct sorted_leaf *leaf = km__sorted_node(link);
        uint64_t word = km__sorted_load_word(leaf);
        uint32_t first = 0;
        uint32_t end = km__sorted_word_count(word);
        km_status rc = KM_OK;

        if (is_first)
            rc = position_of_bound(tree, link, word, from, &first);
        if (rc == KM_OK && is_at_end(&walk))
            rc = position_of_bound(tree, link, word, walk.end, &end);
        if (rc)
            return rc;
        append_up(&list, leaf, word, first, end);
        is_first = 0;
        link = list.count < list.max ? next_up(&walk) : 0;
    }
    *out_count = list.count;
    return KM_OK;
}

km_status km__sorted_read_up(const struct sorted_tree *tree, struct sorted_bound from,
                             uint64_t *refs, size_t max, size_t *out_count)
{
    static const struct sorted_bound open = {0};

    return km__sorted_read_range(tree, from, open, refs, max, out_count);
}

km_status km__sorted_read_down(const struct sorted_tree *tree, struct sorted_bound from,
                               uint64_t *refs, size_t max, size_t *out_count)
{
    struct entry_list list = {refs, max, 0};
    struct leaf_walk walk;
    uint64_t link;

    KM_ASSERT(max >= SORTED_LEAF_ENTRIES);
    init_walk(&walk, max);
    link = descend_down(&walk, km__sorted_load_link(&tree->root), from);
    if (link && from.is_set) {
        uint64_t word = km__sorted_load_word(km__sorted_node(link));
        struct sorted_place place;
        km_status rc = km__sorted_search(tree, link, word, from.key, &place);

        if (rc)
            return rc;
        append_down(&list, km__sorted_node(link), word,
                    place.position + (place.is_found && !from.is_exclusive));
        link = next_down(&walk);
    }
    while (link && list.count < list.max) { /* ends: after the last leaf */
        const struct sorted_leaf *leaf = km__sorted_node(link);
        uint64_t word = km__sorted_load_word(leaf);
        append_down(&list, leaf, word, km__sorted_word_count(word));
        if (list.count < list.max)
            link = next_down(&walk);
    }
    *out_count = list.count;
    return KM_OK;
}

/* ---- counts */

static uint64_t count_entries(const struct sorted_leaf *leaf, uint64_t word, uint32_t first,
                              uint32_t end)
{
    uint64_t count = 0;

    for (uint32_t i = first; i < end; i++)
        count += !(km__sorted_load_ref(leaf, km__sorted_word_slot(word, i)) & SORTED_PENDING);
    return count;
}

km_status km__sorted_count_range(const struct sorted_tree *tree, struct sorted_bound from,
                                 struct sorted_bound to, uint64_t *out_count)
{
    uint64_t count = 0;
    int is_first = from.is_set;
    struct leaf_walk walk;
    uint64_t link;

    init_walk(&walk, SIZE_MAX);
    walk.end = to;
    walk.end.is_exclusive = 0;
    link = is_empty_range(from, to) ? 0
                                    : descend_up(&walk, km__sorted_load_link(&tree->root), from);
    while (link) { /* ends: after the last leaf */
        const struct sorted_leaf *leaf = km__sorted_node(link);
        uint64_t word = km__sorted_load_word(leaf);
        uint32_t first = 0;
        uint32_t end = km__sorted_word_count(word);
        km_status rc = KM_OK;

        if (is_first)
            rc = position_of_bound(tree, link, word, from, &first);
        if (rc == KM_OK && is_at_end(&walk))
            rc = position_of_bound(tree, link, word, walk.end, &end);
        if (rc)
            return rc;
        count += count_entries(leaf, word, first, end);
        is_first = 0;
        link = next_up(&walk);
    }
    *out_count = count;
    return KM_OK;
}
