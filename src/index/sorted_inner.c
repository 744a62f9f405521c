/* SPDX-License-Identifier: Apache-2.0
 *
 * sorted_inner.c -- carry a change of a node's children upwards until one link says it all.
 *
 * An inner node with another number of children is a new node: a change of its children becomes a
 * change of its parent's, and so on, up to where one child takes the place of one, or to the root.
 * The store of that link is the moment at which everything becomes visible; all memory is there by
 * then, and what it puts aside is retired after it.
 *
 * Readers may go on in a node that was replaced: none of its links changes any more, so it leads to
 * what lay below it when it was. Each leaf that they reach by it was, at some moment since they
 * began, the one where the keys between its fences belong.
 *
 * A full node is cut in two where a separator is short, near the middle; or near the end where keys
 * come in ascending order, so that it stays nearly full. One with few children is joined with its
 * neighbour if both fit easily; one with a single child shares its neighbour's.
 */
#include "index/sorted_tree_internal.h"

#define SORTED_CHILDREN_FEW 12u
#define SORTED_JOIN_CHILDREN_MAX 40u
#define SORTED_JOIN_TAILS_MAX (SORTED_TAILS_MAX / 2)
/* How far from the middle a short separator is looked for. */
#define SORTED_CUT_WINDOW 4u

/* What a change makes and puts aside: two nodes of each level at most, and a root. */
struct change_log {
    uint64_t made[2 * SORTED_LEVEL_MAX + 1];
    uint64_t replaced[2 * SORTED_LEVEL_MAX];
    uint32_t made_count;
    uint32_t replaced_count;
};

/* A change on its way up. */
struct climb {
    struct sorted_tree *tree;
    const struct sorted_path *path;
    struct sorted_change
        change; /* of the children of the path's step `depth` - 1; 0: of the root */
    uint32_t depth;
    struct change_log log;
    struct sorted_parts parts;
};

/* ---- gathering */

static const struct sorted_step *step_of(const struct climb *climb, uint32_t depth)
{
    KM_DEBUG_ASSERT(depth > 0 && depth <= climb->path->depth);
    return &climb->path->steps[depth - 1];
}

static void append_children(struct sorted_parts *parts, const struct sorted_inner *inner)
{
    for (uint32_t i = 0; i < inner->count; i++) {
        struct sorted_part *part = &parts->parts[parts->count++];

        part->link = km__sorted_load_link(&km__sorted_links(inner)[i]);
        if (i > 0)
            part->separator = km__sorted_separator(inner, i - 1);
    }
}

/* Append the children of the path's node, changed. */
static void append_changed(struct climb *climb)
{
    const struct sorted_step *step = step_of(climb, climb->depth);
    const struct sorted_change *change = &climb->change;
    struct sorted_parts *parts = &climb->parts;
    struct sorted_part *at = &parts->parts[parts->count + change->first];
    uint32_t rest = step->node->count - change->first - change->removed;

    append_children(parts, step->node);
    memmove(at + change->count, at + change->removed, rest * sizeof(*at));
    parts->count += change->count - change->removed;
    for (uint32_t i = 0; i < change->count; i++)
        at[i].link = change->links[i];
    if (change->count == 2)
        at[1].separator = change->middle;
}

/* Gather the children of the path's node, changed, and those of the child `other` of its parent,
 * which is next to it. */
static void gather_pair(struct climb *climb, uint32_t other)
{
    const struct sorted_step *above = step_of(climb, climb->depth - 1);
    uint64_t link = km__sorted_load_link(&km__sorted_links(above->node)[other]);
    struct sorted_parts *parts = &climb->parts;
    uint32_t left = other < above->index ? other : above->index;
    uint32_t boundary = 0;

    parts->count = 0;
    for (uint32_t i = left; i <= left + 1; i++) {
        boundary = parts->count;
        if (i == other)
            append_children(parts, km__sorted_node(link));
        else
            append_changed(climb);
    }
    parts->parts[boundary].separator = km__sorted_separator(above->node, left);
}

/* ---- making */

static km_status make_node(struct climb *climb, uint32_t first, uint32_t end,
                           const struct sorted_view fences[2], uint64_t *out_link)
{
    *out_link = km__sorted_new_inner(climb->tree, &climb->parts, first, end, fences);
    if (!*out_link)
        return KM_E_NO_MEMORY;
    climb->log.made[climb->log.made_count++] = *out_link;
    return KM_OK;
}

/* Where to cut the parts in two, both of which get two of them at least. */
static uint32_t find_cut(const struct climb *climb)
{
    const struct sorted_parts *parts = &climb->parts;
    uint32_t middle = parts->count / 2;
    uint32_t best = middle;

    if (climb->change.is_ascending && climb->change.first + climb->change.count == parts->count &&
        parts->count - 2 <= SORTED_CHILDREN_MAX)
        return parts->count - 2;
    if (parts->count < 4 * SORTED_CUT_WINDOW)
        return middle;
    for (uint32_t i = middle - SORTED_CUT_WINDOW; i <= middle + SORTED_CUT_WINDOW; i++) {
        int is_fit = i <= SORTED_CHILDREN_MAX && parts->count - i <= SORTED_CHILDREN_MAX;
        if (is_fit && parts->parts[i].separator.size < parts->parts[best].separator.size)
            best = i;
    }
    return best;
}

/* Make one node of the parts, or two if `is_cut`, and the change that enters them above. */
static km_status make_nodes(struct climb *climb, const struct sorted_view fences[2], int is_cut)
{
    struct sorted_change *change = &climb->change;
    struct sorted_view left[2] = {fences[0], fences[1]};
    struct sorted_view right[2] = {fences[0], fences[1]};
    uint32_t count = climb->parts.count;
    uint32_t cut = count;
    km_status rc;

    if (is_cut) {
        cut = find_cut(climb);
        left[1] = right[0] = climb->parts.parts[cut].separator;
    }
    rc = make_node(climb, 0, cut, left, &change->links[0]);
    if (rc == KM_OK && is_cut)
        rc = make_node(climb, cut, count, right, &change->links[1]);
    change->count = is_cut ? 2 : 1;
    change->middle = right[0];
    return rc;
}

/* ---- one level */

static int is_overfull(const struct climb *climb)
{
    const struct sorted_parts *parts = &climb->parts;

    return parts->count > SORTED_CHILDREN_MAX ||
           (parts->count > SORTED_CHILDREN_ENOUGH &&
            km__sorted_tails_size(parts, 0, parts->count) > SORTED_TAILS_MAX);
}

static uint32_t child_count(const struct sorted_inner *parent, uint32_t index)
{
    uint64_t link = km__sorted_load_link(&km__sorted_links(parent)[index]);

    return ((const struct sorted_inner *)km__sorted_node(link))->count;
}

/* The neighbour to join a node with: the one with fewer children. */
static uint32_t choose_neighbour(const struct sorted_inner *parent, uint32_t index)
{
    if (index == 0)
        return 1;
    if (index == parent->count - 1u)
        return index - 1;
    return child_count(parent, index - 1) < child_count(parent, index + 1) ? index - 1 : index + 1;
}

static void fences_of(const struct climb *climb, uint32_t first, uint32_t last,
                      struct sorted_view out_fences[2])
{
    out_fences[0] = km__sorted_low_fence(climb->path, climb->depth - 1, first);
    out_fences[1] = km__sorted_high_fence(climb->path, climb->depth - 1, last);
}

/* Join the node, which has few children, with a neighbour, or share with it if the node has only
 * one. KM_NOT_FOUND: it is better left alone. */
static km_status join_nodes(struct climb *climb)
{
    const struct sorted_step *above = step_of(climb, climb->depth - 1);
    const struct sorted_parts *parts = &climb->parts;
    uint32_t own_count = parts->count;
    uint32_t other = choose_neighbour(above->node, above->index);
    uint32_t left = other < above->index ? other : above->index;
    struct sorted_view fences[2];
    int fits;

    if (own_count > 1 && own_count + child_count(above->node, other) > SORTED_JOIN_CHILDREN_MAX)
        return KM_NOT_FOUND;
    gather_pair(climb, other);
    fences_of(climb, left, left + 1, fences);
    fits = parts->count <= SORTED_CHILDREN_ENOUGH ||
           (parts->count <= SORTED_JOIN_CHILDREN_MAX &&
            km__sorted_tails_size(parts, 0, parts->count) <= SORTED_JOIN_TAILS_MAX);
    if (!fits && own_count > 1)
        return KM_NOT_FOUND;
    climb->change.is_ascending = 0;
    climb->change.first = left;
    climb->change.removed = 2;
    climb->log.replaced[climb->log.replaced_count++] = km__sorted_load_link(
        &km__sorted_links(above->node)[other]);
    return make_nodes(climb, fences, !fits);
}

/* Make one node, or two, of the children of the path's. */
static km_status remake_node(struct climb *climb)
{
    struct sorted_view fences[2];
    uint32_t index = climb->depth > 1 ? step_of(climb, climb->depth - 1)->index : 0;
    int is_cut;
    km_status rc;

    climb->parts.count = 0;
    append_changed(climb);
    is_cut = is_overfull(climb);
    fences_of(climb, index, index, fences);
    rc = make_nodes(climb, fences, is_cut);
    climb->change.first = index; /* not before: where to cut depends on where the change was */
    climb->change.removed = 1;
    return rc;
}

/* Turn the change of a node's children into one of its parent's. */
static km_status climb_level(struct climb *climb)
{
    const struct sorted_step *step = step_of(climb, climb->depth);
    uint32_t count = step->node->count + climb->change.count - climb->change.removed;
    struct sorted_change change = climb->change;
    km_status rc = KM_NOT_FOUND;

    climb->parts.level = step->node->level;
    climb->parts.count = count;
    climb->log.replaced[climb->log.replaced_count++] = km__sorted_link(
        step->node, step->node->level, step->skip);
    if (climb->depth == 1 && count == 1) {
        climb->change.first = 0;
        climb->change.removed = 1;
        return KM_OK; /* its only child is the root */
    }
    if (climb->depth > 1 && count < SORTED_CHILDREN_FEW)
        rc = join_nodes(climb);
    if (rc == KM_NOT_FOUND) {
        climb->change = change;
        rc = remake_node(climb);
    }
    return rc;
}

static km_status make_root(struct climb *climb)
{
    const struct sorted_view open[2] = {{0}, {0}};
    struct sorted_change *change = &climb->change;
    struct sorted_parts *parts = &climb->parts;
    km_status rc;

    parts->level = km__sorted_level(change->links[0]) + 1;
    parts->count = 2;
    parts->parts[0].link = change->links[0];
    parts->parts[1].link = change->links[1];
    parts->parts[1].separator = change->middle;
    rc = make_node(climb, 0, 2, open, &change->links[0]);
    change->count = 1;
    return rc;
}

/* ---- the whole way */

/* Climb until one child takes the place of one, and make all visible. */
static km_status climb_up(struct climb *climb)
{
    struct sorted_change *change = &climb->change;
    _Atomic uint64_t *place = &climb->tree->root;
    km_status rc = KM_OK;

    while (climb->depth > 0 && (change->removed != 1 || change->count != 1)) {
        rc = climb_level(climb);
        if (rc)
            return rc;
        climb->depth--; /* ends: at the root */
    }
    if (climb->depth == 0 && change->count == 2)
        rc = make_root(climb);
    if (rc)
        return rc;
    if (climb->depth > 0)
        place = &km__sorted_links(step_of(climb, climb->depth)->node)[change->first];
    km__sorted_store_link(place, change->links[0]);
    return KM_OK;
}

km_status km__sorted_apply(struct sorted_tree *tree, const struct sorted_path *path,
                           const struct sorted_change *change)
{
    struct climb climb;
    struct change_log *log = &climb.log;
    km_status rc;

    climb.tree = tree;
    climb.path = path;
    climb.change = *change;
    climb.depth = path->depth;
    log->made_count = log->replaced_count = 0;
    rc = climb_up(&climb);
    for (uint32_t i = 0; rc != KM_OK && i < log->made_count; i++)
        km__sorted_free_node(tree, log->made[i]);
    for (uint32_t i = 0; rc == KM_OK && i < log->replaced_count; i++)
        km__sorted_retire_node(tree, log->replaced[i]);
    return rc;
}
