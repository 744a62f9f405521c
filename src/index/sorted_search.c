/* SPDX-License-Identifier: Apache-2.0
 *
 * sorted_search.c -- the way from the root to a key.
 *
 * A node's lines are brought into the cache all at once, so that a lookup waits once for each level
 * that is not there, and once for the record. Heads tell nearly all keys apart; where several are
 * equal, records are read, by halving the run of them.
 *
 * A key that belongs in a node begins with the bytes that the node's skip leaves out: both fences
 * do, and it lies between them.
 */
#include "index/sorted_tree_internal.h"

/* Lines of a lowest inner node that are fetched at once: all but the sizes. */
#define SORTED_INNER_LINES 14u

/* ---- inner nodes */

static void prefetch_inner(const void *node)
{
    const uint8_t *line = node;

    for (uint32_t i = 0; i < SORTED_INNER_LINES; i++)
        KM_PREFETCH(line + (size_t)i * KM_CACHE_LINE);
}

/* Below, equal to or above 0: a key against separator i, which has the same prefix and head. */
static int compare_tails(const struct sorted_inner *inner, uint32_t i, km_bytes key)
{
    size_t size = km__sorted_sizes(inner)[i];
    size_t head_end = inner->prefix_size + (size_t)SORTED_HEAD_SIZE;
    size_t end = size < key.size ? size : key.size;
    int order = 0;

    /* a shorter one is followed by zeros where the other goes on with zeros: it is a prefix */
    if (end > head_end)
        order = memcmp((const uint8_t *)key.data + head_end, km__sorted_tail(inner, i),
                       end - head_end);
    return order ? order : (key.size > size) - (key.size < size);
}

/* How many separators are at or below the key; `high` are if those of its head are. */
static KM_NOINLINE uint32_t child_of_run_slow(const struct sorted_inner *inner, uint32_t high,
                                              km_bytes key)
{
    uint64_t head = inner->heads[high - 1];
    uint32_t low = high - 1;

    while (low > 0 && inner->heads[low - 1] == head) /* ends: at the first separator */
        low--;
    while (low < high) { /* ends: the run is halved */
        uint32_t middle = (low + high) / 2;
        if (compare_tails(inner, middle, key) >= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Below, equal to or above 0: the first bytes of a key against the prefix, of which both share
 * `skip`. A key that is shorter and equal so far has a head of zeros, and its size will tell. */
static int compare_prefix(const struct sorted_inner *inner, uint32_t skip, km_bytes key)
{
    size_t size = inner->prefix_size < key.size ? inner->prefix_size : key.size;

    if (size <= skip)
        return 0;
    return memcmp((const uint8_t *)key.data + skip, km__sorted_prefix(inner) + skip, size - skip);
}

uint32_t km__sorted_child(const struct sorted_inner *inner, uint32_t skip, km_bytes key)
{
    const uint64_t *heads = inner->heads;
    uint32_t size = inner->count - 1u;
    uint32_t low = 0;
    uint64_t head;

    if (inner->prefix_size > skip) {
        int order = compare_prefix(inner, skip, key);
        if (order != 0)
            return order < 0 ? 0 : size;
    }
    head = km__sorted_head(key.data, key.size, inner->prefix_size);
    while (size > 1) { /* ends: the rest is halved; without branches that could be guessed wrong */
        uint32_t half = size / 2;
        low += half & (0 - (uint32_t)(heads[low + half - 1] <= head));
        size -= half;
    }
    low += heads[low] <= head;
    if (KM_UNLIKELY(low > 0 && heads[low - 1] == head))
        low = child_of_run_slow(inner, low, key);
    return low;
}

uint64_t km__sorted_descend(const struct sorted_tree *tree, km_bytes key)
{
    uint64_t link = km__sorted_load_link(&tree->root);

    while (km__sorted_level(link) > 0) { /* ends: levels fall */
        const struct sorted_inner *inner = km__sorted_node(link);
        uint32_t child = km__sorted_child(inner, km__sorted_skip(link), key);

        link = km__sorted_load_link(&km__sorted_links(inner)[child]);
        if (km__sorted_level(link) == 1)
            prefetch_inner(km__sorted_node(link));
    }
    return link;
}

void km__sorted_descend_path(const struct sorted_tree *tree, km_bytes key,
                             struct sorted_path *out_path)
{
    uint64_t link = km__sorted_load_link(&tree->root);

    out_path->depth = 0;
    while (km__sorted_level(link) > 0) { /* ends: levels fall */
        const struct sorted_inner *inner = km__sorted_node(link);
        struct sorted_step *step = &out_path->steps[out_path->depth++];

        step->node = inner;
        step->skip = km__sorted_skip(link);
        step->index = km__sorted_child(inner, step->skip, key);
        link = km__sorted_load_link(&km__sorted_links(inner)[step->index]);
        if (km__sorted_level(link) == 1)
            prefetch_inner(km__sorted_node(link));
    }
    out_path->link = link;
}

void km__sorted_prefetch(const struct sorted_tree *tree, km_bytes key)
{
    uint64_t link = km__sorted_descend(tree, key);

    if (link)
        km__sorted_prefetch_leaf(link);
}

/* ---- fences */

struct sorted_view km__sorted_low_fence(const struct sorted_path *path, uint32_t depth,
                                        uint32_t index)
{
    for (uint32_t i = depth; i > 0; i--) { /* upwards, until there is a separator */
        if (index > 0)
            return km__sorted_separator(path->steps[i - 1].node, index - 1);
        index = i > 1 ? path->steps[i - 2].index : 0;
    }
    return km__sorted_view_of(NULL, 0);
}

struct sorted_view km__sorted_high_fence(const struct sorted_path *path, uint32_t depth,
                                         uint32_t index)
{
    for (uint32_t i = depth; i > 0; i--) { /* upwards, until there is a separator */
        if (index + 1 < path->steps[i - 1].node->count)
            return km__sorted_separator(path->steps[i - 1].node, index);
        index = i > 1 ? path->steps[i - 2].index : 0;
    }
    return km__sorted_view_of(NULL, 0);
}

/* ---- leaves */

km_status km__sorted_entry_key(const struct sorted_tree *tree, uint64_t ref, km_bytes *out_key)
{
    if (ref & SORTED_PENDING) {
        const struct sorted_pending *pending = km__sorted_pending_of(ref);
        out_key->data = pending->key;
        out_key->size = pending->key_size;
        return KM_OK;
    }
    return tree->source.key(tree->source.context, ref, out_key);
}

/* Below, equal to or above 0: an entry's key against one that it shares `skip` bytes with. */
static km_status compare_entry(const struct sorted_tree *tree, uint64_t ref, uint32_t skip,
                               km_bytes key, int *out_order)
{
    km_bytes own;
    size_t end;
    int order = 0;
    km_status rc = km__sorted_entry_key(tree, ref, &own);

    if (rc)
        return rc;
    end = own.size < key.size ? own.size : key.size;
    if (end > skip)
        order = memcmp((const uint8_t *)own.data + skip, (const uint8_t *)key.data + skip,
                       end - skip);
    *out_order = order ? order : (own.size > key.size) - (own.size < key.size);
    return KM_OK;
}

struct entry_run { /* positions of the entries that have the key's head */
    uint32_t first;
    uint32_t end;
};

static inline struct entry_run find_run(const struct sorted_leaf *leaf, uint64_t word,
                                        uint64_t head)
{
    uint32_t count = km__sorted_word_count(word);
    struct entry_run run = {0, 0};

    for (uint32_t i = 0; i < count; i++) {
        uint64_t other = km__sorted_load_head(leaf, km__sorted_word_slot(word, i));
        run.first += other < head;
        run.end += other <= head;
    }
    return run;
}

/* The first entry from `position` on, before `end`, that is not pending: its reference; 0 if there
 * is none. */
static uint64_t settled_ref(const struct sorted_leaf *leaf, uint64_t word, uint32_t end,
                            uint32_t *inout_position)
{
    for (uint32_t i = *inout_position; i < end; i++) {
        uint64_t ref = km__sorted_load_ref(leaf, km__sorted_word_slot(word, i));
        *inout_position = i;
        if (!(ref & SORTED_PENDING))
            return ref;
    }
    return 0;
}

/* Find the key in a run, by halving it; pending entries are neither found nor in the way. */
static km_status search_run(const struct sorted_tree *tree, uint64_t link, uint64_t word,
                            km_bytes key, struct entry_run run, struct sorted_place *out)
{
    const struct sorted_leaf *leaf = km__sorted_node(link);

    while (run.first < run.end && !out->is_found) { /* ends: the run becomes shorter */
        uint32_t middle = (run.first + run.end) / 2;
        uint32_t at = middle;
        uint64_t ref = settled_ref(leaf, word, run.end, &at);
        int order = 1;
        km_status rc = ref ? compare_entry(tree, ref, km__sorted_skip(link), key, &order) : KM_OK;

        if (rc)
            return rc;
        if (order == 0) {
            out->is_found = 1;
            out->ref = ref;
            run.first = at;
        } else if (order < 0) {
            run.first = at + 1;
        } else {
            run.end = middle;
        }
    }
    out->position = run.first;
    return KM_OK;
}

km_status km__sorted_search(const struct sorted_tree *tree, uint64_t link, uint64_t word,
                            km_bytes key, struct sorted_place *out)
{
    struct entry_run run;

    out->head = km__sorted_head(key.data, key.size, km__sorted_skip(link));
    out->is_found = 0;
    run = find_run(km__sorted_node(link), word, out->head);
    out->position = run.first;
    if (KM_UNLIKELY(run.first == run.end))
        return KM_OK;
    return search_run(tree, link, word, key, run, out);
}

km_status km__sorted_search_latched(const struct sorted_tree *tree, uint64_t link, km_bytes key,
                                    struct sorted_place *out)
{
    const struct sorted_leaf *leaf = km__sorted_node(link);
    uint64_t word = km__sorted_load_word(leaf);
    struct entry_run run;
    /* in ascending order the key comes last: then the others need not be read */
    int is_first_guess = 1;

    out->head = km__sorted_head(key.data, key.size, km__sorted_skip(link));
    out->is_found = 0;
    run = find_run(leaf, word, out->head);
    while (run.first < run.end) { /* ends: the run becomes shorter */
        uint32_t at = is_first_guess ? run.end - 1 : (run.first + run.end) / 2;
        uint64_t ref = km__sorted_load_ref(leaf, km__sorted_word_slot(word, at));
        int order = 0;
        km_status rc = compare_entry(tree, ref, km__sorted_skip(link), key, &order);

        if (rc)
            return rc;
        if (order == 0)
            return KM_E_CORRUPT; /* the caller has looked for the key and not found it */
        is_first_guess = 0;
        if (order < 0)
            run.first = at + 1;
        else
            run.end = at;
    }
    out->position = run.first;
    return KM_OK;
}

km_status km__sorted_find(const struct sorted_tree *tree, km_bytes key, uint64_t *out_ref)
{
    uint64_t link = km__sorted_descend(tree, key);
    struct sorted_place place;
    km_status rc;

    if (!link)
        return KM_NOT_FOUND;
    km__sorted_prefetch_leaf(link);
    rc = km__sorted_search(tree, link, km__sorted_load_word(km__sorted_node(link)), key, &place);
    if (rc)
        return rc;
    if (!place.is_found)
        return KM_NOT_FOUND;
    *out_ref = place.ref;
    return KM_OK;
}

/* ---- many at once */

struct group_search {
    uint64_t links[SORTED_GROUP_MAX];
    uint64_t words[SORTED_GROUP_MAX];
};

/* Go down one level with all keys; what they come to is being fetched then. */
static void descend_group(struct group_search *group, const km_bytes *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t link = group->links[i];
        const struct sorted_inner *inner = km__sorted_node(link);
        uint32_t child = km__sorted_child(inner, km__sorted_skip(link), keys[i]);

        group->links[i] = km__sorted_load_link(&km__sorted_links(inner)[child]);
        if (km__sorted_level(group->links[i]) > 0)
            prefetch_inner(km__sorted_node(group->links[i]));
        else
            km__sorted_prefetch_leaf(group->links[i]);
    }
}

/* Begin to fetch the records that may be the keys'. */
static void fetch_records(const struct sorted_tree *tree, struct group_search *group,
                          const km_bytes *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct sorted_leaf *leaf = km__sorted_node(group->links[i]);
        uint64_t head = km__sorted_head(keys[i].data, keys[i].size,
                                        km__sorted_skip(group->links[i]));
        struct entry_run run;
        uint64_t ref;

        group->words[i] = km__sorted_load_word(leaf);
        run = find_run(leaf, group->words[i], head);
        run.first = (run.first + run.end) / 2;
        ref = settled_ref(leaf, group->words[i], run.end, &run.first);
        if (ref)
            tree->source.prefetch(tree->source.context, ref);
    }
}

void km__sorted_find_many(const struct sorted_tree *tree, const km_bytes *keys, size_t count,
                          uint64_t *out_refs, km_status *out_statuses)
{
    uint64_t root = km__sorted_load_link(&tree->root);
    struct group_search group;

    KM_ASSERT(count <= SORTED_GROUP_MAX);
    for (size_t i = 0; i < count; i++) {
        group.links[i] = root;
        out_statuses[i] = KM_NOT_FOUND;
    }
    if (!root)
        return;
    for (uint32_t level = km__sorted_level(root); level > 0; level--)
        descend_group(&group, keys, count);
    fetch_records(tree, &group, keys, count);
    for (size_t i = 0; i < count; i++) {
        struct sorted_place place;
        km_status rc = km__sorted_search(tree, group.links[i], group.words[i], keys[i], &place);

        if (rc == KM_OK && place.is_found)
            out_refs[i] = place.ref;
        if (rc || place.is_found)
            out_statuses[i] = rc;
    }
}
