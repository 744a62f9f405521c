/* SPDX-License-Identifier: Apache-2.0
 *
 * sorted_leaf.c -- leaves in the place of others: rebuilt, cut in two, joined.
 *
 * A leaf that has used up its slots is rebuilt if enough of its entries have gone, else cut in two;
 * one that has few left is joined with a neighbour. The new leaves are filled under the latches of
 * the old ones, so an old one never changes after it was copied; it is marked dead before the latch
 * is let go, so a writer that waited for it looks for its leaf again. A pending entry is carried
 * over like any other.
 *
 * Where a leaf is cut: near the middle, between keys that differ early, so that separators are
 * short; but behind the new key where the two before it came in ascending order, and before what
 * was there if they came in descending order, so that leaves become full. Heads tell the separator,
 * mostly; records are read where heads are equal, and where the keys of a half share more bytes
 * than they did, so that their heads begin later.
 */
#include "index/sorted_tree_internal.h"

#include "index/node_pool.h"

/* Rebuilt with at most so many entries, a leaf has slots for a while. */
#define SORTED_REBUILD_MAX 10u
/* A leaf of so few is joined with its neighbour if they have no more than this together. */
#define SORTED_JOIN_MAX 10u
/* Cuts that are looked at, to both sides of the middle. */
#define SORTED_CUT_SLACK 2u

struct mutex *km__sorted_latch(struct sorted_tree *tree, const struct sorted_leaf *leaf)
{
    uintptr_t number = (uintptr_t)leaf / SORTED_LEAF_SIZE;

    return &tree->latches[(number ^ number / SORTED_LATCH_COUNT) % SORTED_LATCH_COUNT].mutex;
}

/* ---- items */

static void append_entries(struct sorted_items *items, const struct sorted_leaf *leaf)
{
    uint64_t word = km__sorted_load_word(leaf);

    for (uint32_t i = 0; i < km__sorted_word_count(word); i++) {
        uint32_t slot = km__sorted_word_slot(word, i);
        items->heads[items->count] = km__sorted_load_head(leaf, slot);
        items->refs[items->count++] = km__sorted_load_ref(leaf, slot);
    }
}

static void insert_item(struct sorted_items *items, const struct sorted_place *place, uint64_t ref)
{
    uint32_t at = place->position;
    uint32_t rest = items->count - at;

    memmove(&items->heads[at + 1], &items->heads[at], rest * sizeof(items->heads[0]));
    memmove(&items->refs[at + 1], &items->refs[at], rest * sizeof(items->refs[0]));
    items->heads[at] = place->head;
    items->refs[at] = ref;
    items->count++;
}

static void mark_dead(struct sorted_leaf *leaf)
{
    uint64_t word = km__sorted_load_word(leaf);

    km__sorted_store_word(leaf, word | (uint64_t)SORTED_DEAD << 60);
}

/* ---- cutting in two */

struct leaf_cut {
    struct sorted_tree *tree;
    km_bytes key;           /* the new one */
    uint32_t skip;          /* of the old leaf */
    struct sorted_view low; /* its fences */
    struct sorted_view high;
    struct sorted_view middle; /* the separator between the halves */
    struct sorted_items items; /* with the new one */
    uint32_t at;               /* items before it go to the left */
    int is_ascending;
};

/* How many bytes of two heads are equal. */
static uint32_t equal_head_bytes(uint64_t a, uint64_t b)
{
    uint32_t count = 0;

    while (count < SORTED_HEAD_SIZE && (a ^ b) >> (56 - 8 * count) == 0)
        count++;
    return count;
}

/* Whether the last two slots were used, in this order, for entries `position` and `position` + 1;
 * by `step` 1 upwards, -1 downwards. */
static int came_in_order(uint64_t word, uint32_t position, int step)
{
    uint32_t last = SORTED_LEAF_ENTRIES - 1;
    uint32_t upper = km__sorted_word_slot(word, position + 1);
    uint32_t lower = km__sorted_word_slot(word, position);

    return step > 0 ? upper == last && lower == last - 1 : lower == last && upper == last - 1;
}

/* `place` is that of the new key; the leaf of `word` has entries enough. */
static void choose_cut(struct leaf_cut *cut, uint64_t word, uint32_t position)
{
    uint32_t count = km__sorted_word_count(word);
    uint32_t middle = (count + 1) / 2;
    uint32_t best_equal = SORTED_HEAD_SIZE + 1;

    if (position >= 2 && came_in_order(word, position - 2, 1)) {
        cut->is_ascending = position == count;
        cut->at = position == count ? count : position + 1;
        return;
    }
    if (position + 2 <= count && came_in_order(word, position, -1)) {
        cut->at = position == 0 ? 1 : position;
        return;
    }
    for (uint32_t i = 0; i <= 2 * SORTED_CUT_SLACK; i++) { /* from the middle outwards */
        uint32_t at = middle + (i % 2 ? (i + 1) / 2 : 0 - i / 2);
        uint32_t equal = equal_head_bytes(cut->items.heads[at - 1], cut->items.heads[at]);
        if (equal < best_equal) {
            best_equal = equal;
            cut->at = at;
        }
    }
}

/* Find the separator of two keys of equal heads. The records may not be what they were. */
static km_status separate_keys(struct leaf_cut *cut, uint64_t left_ref, uint64_t right_ref)
{
    struct sorted_view left;
    struct sorted_view right;
    km_bytes left_key;
    km_bytes right_key;
    uint32_t common;
    km_status rc = km__sorted_entry_key(cut->tree, left_ref, &left_key);

    if (rc == KM_OK)
        rc = km__sorted_entry_key(cut->tree, right_ref, &right_key);
    if (rc)
        return rc;
    left = km__sorted_view_of(left_key.data, left_key.size);
    right = km__sorted_view_of(right_key.data, right_key.size);
    if (km__sorted_view_compare(&left, &right) >= 0)
        return KM_E_CORRUPT;
    common = km__sorted_view_common(&left, &right);
    cut->middle = km__sorted_view_of(right_key.data, common + 1);
    return KM_OK;
}

static km_status separate(struct leaf_cut *cut)
{
    const struct sorted_items *items = &cut->items;
    uint64_t right = items->heads[cut->at];
    uint32_t equal = equal_head_bytes(items->heads[cut->at - 1], right);
    km_status rc = KM_OK;

    if (equal == SORTED_HEAD_SIZE) {
        rc = separate_keys(cut, items->refs[cut->at - 1], items->refs[cut->at]);
    } else {
        /* the byte of the right one that is larger is not 0, so it is not padding */
        uint64_t rest = UINT64_MAX >> 8 * equal >> 8;
        cut->middle = (struct sorted_view){cut->key.data, NULL, right & ~rest, cut->skip,
                                           cut->skip + equal + 1};
    }
    if (rc)
        return rc;
    if (km__sorted_view_compare(&cut->low, &cut->middle) >= 0 ||
        (cut->high.size > 0 && km__sorted_view_compare(&cut->middle, &cut->high) >= 0))
        return KM_E_CORRUPT;
    return KM_OK;
}

/* Give the items from `first` up to `end` the heads that lie behind `skip` bytes. */
static km_status deepen_heads(struct leaf_cut *cut, uint32_t first, uint32_t end, uint32_t skip)
{
    const struct sorted_source *source = &cut->tree->source;
    struct sorted_items *items = &cut->items;

    if (skip == cut->skip)
        return KM_OK;
    for (uint32_t i = first; i < end; i++) {
        if (!(items->refs[i] & SORTED_PENDING))
            source->prefetch(source->context, items->refs[i]);
    }
    for (uint32_t i = first; i < end; i++) {
        km_bytes key;
        km_status rc = km__sorted_entry_key(cut->tree, items->refs[i], &key);

        if (rc)
            return rc;
        if (key.size < skip || km__sorted_head(key.data, key.size, cut->skip) != items->heads[i])
            return KM_E_CORRUPT; /* not the record that was entered */
        items->heads[i] = km__sorted_head(key.data, key.size, skip);
    }
    return KM_OK;
}

/* ---- growing; under the leaf's latch */

static uint32_t index_of_leaf(const struct sorted_path *path)
{
    return path->depth > 0 ? path->steps[path->depth - 1].index : 0;
}

/* A new leaf with the items from `first` up to `end` in a change's place `at`. */
static km_status make_leaf(struct sorted_tree *tree, const struct sorted_items *items,
                           uint32_t first, uint32_t end, uint32_t skip, uint64_t *out_link)
{
    struct sorted_leaf *leaf = km__sorted_new_leaf(tree);

    if (!leaf)
        return KM_E_NO_MEMORY;
    km__sorted_fill_leaf(leaf, items, first, end);
    *out_link = km__sorted_link(leaf, 0, skip);
    return KM_OK;
}

static km_status cut_leaf(struct leaf_cut *cut, uint64_t word, uint32_t position,
                          struct sorted_change *change)
{
    struct sorted_items *items = &cut->items;
    uint32_t left_skip;
    uint32_t right_skip;
    km_status rc;

    choose_cut(cut, word, position);
    rc = separate(cut);
    if (rc)
        return rc;
    left_skip = km__sorted_view_common(&cut->low, &cut->middle);
    right_skip = km__sorted_view_common(&cut->middle, &cut->high);
    rc = deepen_heads(cut, 0, cut->at, left_skip);
    if (rc == KM_OK)
        rc = deepen_heads(cut, cut->at, items->count, right_skip);
    if (rc == KM_OK)
        rc = make_leaf(cut->tree, items, 0, cut->at, left_skip, &change->links[0]);
    if (rc == KM_OK)
        rc = make_leaf(cut->tree, items, cut->at, items->count, right_skip, &change->links[1]);
    change->count = 2;
    change->middle = cut->middle;
    change->is_ascending = cut->is_ascending;
    return rc;
}

/* No link leads to these leaves any more. */
static void put_aside(struct sorted_tree *tree, const uint64_t *links, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        mark_dead(km__sorted_node(links[i]));
        km__sorted_retire_node(tree, links[i]);
    }
}

/* Make the leaf or leaves that take the place of one, with the new entry. */
static km_status prepare_growth(struct sorted_tree *tree, uint64_t link, km_bytes key,
                                const struct sorted_place *place, uint64_t ref,
                                struct sorted_change *change)
{
    const struct sorted_leaf *leaf = km__sorted_node(link);
    uint64_t word = km__sorted_load_word(leaf);
    struct sorted_path path;
    struct leaf_cut cut;

    km__sorted_descend_path(tree, key, &path);
    KM_ASSERT(path.link == link);
    cut.tree = tree;
    cut.key = key;
    cut.skip = km__sorted_skip(link);
    cut.low = km__sorted_low_fence(&path, path.depth, index_of_leaf(&path));
    cut.high = km__sorted_high_fence(&path, path.depth, index_of_leaf(&path));
    cut.is_ascending = 0;
    cut.items.count = 0;
    append_entries(&cut.items, leaf);
    insert_item(&cut.items, place, ref);
    if (km__sorted_word_count(word) > SORTED_REBUILD_MAX)
        return cut_leaf(&cut, word, place->position, change);
    change->count = 1;
    return make_leaf(tree, &cut.items, 0, cut.items.count, cut.skip, &change->links[0]);
}

/* A leaf's fences are what they were as long as it is not dead: so all but the change of inner
 * nodes, which may read records, is done without `shape`. */
km_status km__sorted_grow(struct sorted_tree *tree, uint64_t link, km_bytes key,
                          const struct sorted_place *place, uint64_t ref)
{
    struct sorted_change change = {0};
    struct sorted_path path;
    km_status rc = prepare_growth(tree, link, key, place, ref, &change);

    if (rc) goto out;
    km__mutex_lock(&tree->shape);
    km__sorted_descend_path(tree, key, &path);
    KM_ASSERT(path.link == link);
    change.first = index_of_leaf(&path);
    change.removed = 1;
    rc = km__sorted_apply(tree, &path, &change);
    km__mutex_unlock(&tree->shape);
    if (rc == KM_OK)
        put_aside(tree, &link, 1);
out:
    for (uint32_t i = 0; i < 2 && rc != KM_OK; i++)
        km__sorted_free_node(tree, change.links[i]);
    return rc;
}

km_status km__sorted_grow_root(struct sorted_tree *tree)
{
    km_status rc = KM_OK;

    km__mutex_lock(&tree->shape);
    if (!km__sorted_load_link(&tree->root)) { /* nobody else has been here meanwhile */
        struct sorted_leaf *leaf = km__sorted_new_leaf(tree);
        if (leaf)
            km__sorted_store_link(&tree->root, km__sorted_link(leaf, 0, 0));
        else
            rc = KM_E_NO_MEMORY;
    }
    km__mutex_unlock(&tree->shape);
    return rc;
}

/* ---- shrinking; under `shape` and the leaf's latch */

/* Two neighbours that are to be one: the children `left` and `left` + 1 of the path's last node. */
struct leaf_pair {
    struct sorted_tree *tree;
    const struct sorted_path *path;
    uint32_t left;
    uint64_t links[2];
};

/* The pair's entries as those of one leaf, whose skip is returned. */
static uint32_t join_entries(const struct leaf_pair *pair, struct sorted_items *items)
{
    uint32_t depth = pair->path->depth;
    struct sorted_view low = km__sorted_low_fence(pair->path, depth, pair->left);
    struct sorted_view high = km__sorted_high_fence(pair->path, depth, pair->left + 1);
    uint32_t skip = km__sorted_view_common(&low, &high);

    for (uint32_t i = 0; i < 2; i++) { /* one that came from an image may skip less than it could */
        uint32_t own_skip = km__sorted_skip(pair->links[i]);
        skip = own_skip < skip ? own_skip : skip;
    }
    items->count = 0;
    for (uint32_t i = 0; i < 2; i++) {
        struct sorted_view fence = km__sorted_low_fence(pair->path, depth, pair->left + i);
        uint32_t first = items->count;

        append_entries(items, km__sorted_node(pair->links[i]));
        for (uint32_t j = first; j < items->count; j++)
            items->heads[j] = km__sorted_widen_head(&fence, items->heads[j],
                                                    km__sorted_skip(pair->links[i]), skip);
    }
    return skip;
}

/* With both latches held. */
static int join_pair(const struct leaf_pair *pair)
{
    struct sorted_change change = {0};
    struct sorted_items items;
    uint32_t skip;
    km_status rc;

    skip = join_entries(pair, &items);
    change.first = pair->left;
    change.removed = 2;
    change.count = 1;
    rc = make_leaf(pair->tree, &items, 0, items.count, skip, &change.links[0]);
    if (rc == KM_OK)
        rc = km__sorted_apply(pair->tree, pair->path, &change);
    if (rc)
        km__sorted_free_node(pair->tree, change.links[0]);
    else
        put_aside(pair->tree, pair->links, 2);
    return rc == KM_OK;
}

static uint32_t entry_count(uint64_t link)
{
    return km__sorted_word_count(km__sorted_load_word(km__sorted_node(link)));
}

static int is_joinable(const struct leaf_pair *pair)
{
    uint32_t counts[2] = {entry_count(pair->links[0]), entry_count(pair->links[1])};

    return counts[0] == 0 || counts[1] == 0 || counts[0] + counts[1] <= SORTED_JOIN_MAX;
}

/* Join child `left` of the path's last node with the next one. One of both is latched; the other
 * is if nobody has it. 1 if it was done. */
static int try_join(struct sorted_tree *tree, const struct sorted_path *path, uint32_t left)
{
    const struct sorted_step *step = &path->steps[path->depth - 1];
    const _Atomic uint64_t *links = km__sorted_links(step->node);
    struct leaf_pair pair = {tree, path, left, {0, 0}};
    uint32_t other = left == step->index ? 1 : 0;
    struct mutex *latches[2];
    int is_done = 0;

    for (uint32_t i = 0; i < 2; i++) {
        pair.links[i] = km__sorted_load_link(&links[left + i]);
        latches[i] = km__sorted_latch(tree, km__sorted_node(pair.links[i]));
    }
    if (!is_joinable(&pair))
        return 0; /* as it looks without the latch; else it is looked at again */
    if (latches[0] == latches[1])
        return join_pair(&pair);
    if (!km__mutex_try_lock(latches[other]))
        return 0; /* who has it may wait for `shape` */
    if (is_joinable(&pair))
        is_done = join_pair(&pair);
    km__mutex_unlock(latches[other]);
    return is_done;
}

static void remove_root(struct sorted_tree *tree, uint64_t link)
{
    if (entry_count(link) > 0)
        return;
    km__sorted_store_link(&tree->root, 0);
    put_aside(tree, &link, 1);
}

void km__sorted_shrink(struct sorted_tree *tree, uint64_t link, km_bytes key)
{
    struct sorted_path path;

    km__mutex_lock(&tree->shape);
    km__sorted_descend_path(tree, key, &path);
    KM_ASSERT(path.link == link);
    if (path.depth == 0) {
        remove_root(tree, link);
    } else {
        const struct sorted_step *step = &path.steps[path.depth - 1];
        int is_done = 0;

        if (step->index + 1 < step->node->count)
            is_done = try_join(tree, &path, step->index);
        if (!is_done && step->index > 0)
            try_join(tree, &path, step->index - 1);
    }
    km__mutex_unlock(&tree->shape);
}
