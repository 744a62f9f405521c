/* SPDX-License-Identifier: Apache-2.0
 *
 * store_cursor_walk.c -- a cursor's walk through the indexes of a map, one kind after the other.
 *
 * Each step begins where the last one ended: after an ordinal, after a key, at a node of the hash
 * space. So what other threads do in between neither repeats nor loses a key that stays.
 */
#include "store/store_cursor_internal.h"

int km__cursor_compare(km_bytes a, km_bytes b)
{
    size_t shorter = a.size < b.size ? a.size : b.size;
    int result = shorter ? memcmp(a.data, b.data, shorter) : 0;

    return result ? result : (a.size > b.size) - (a.size < b.size);
}

void km__cursor_prefetch(const km_cursor *cursor, const uint64_t *refs, size_t count)
{
    for (size_t i = 0; i < count; i++)
        km__log_prefetch(cursor->map->store->view, refs[i]);
}

/* Walks downwards find the last key first. */
static void reverse_refs(struct cursor_batch *batch)
{
    for (size_t i = 0; i < batch->count / 2; i++) {
        uint64_t ref = batch->refs[i];

        batch->refs[i] = batch->refs[batch->count - 1 - i];
        batch->refs[batch->count - 1 - i] = ref;
    }
}

/* ---- KM_SORTED --------------------------------------------------------------------------- */

int km__cursor_bound(const km_cursor *cursor, enum cursor_way way, struct sorted_bound *out)
{
    const struct cursor_edge *edge = way == CURSOR_UP ? &cursor->high : &cursor->low;
    enum cursor_place open = way == CURSOR_UP ? CURSOR_FIRST : CURSOR_LAST;
    enum cursor_place beside = way == CURSOR_UP ? CURSOR_BEFORE : CURSOR_AFTER;

    out->key = km_bytes_of(edge->key.data ? edge->key.data : "", edge->key.size);
    out->is_set = edge->place != open;
    out->is_exclusive = edge->place != beside;
    return edge->place == open || edge->place == CURSOR_BEFORE || edge->place == CURSOR_AFTER;
}

int km__cursor_is_beyond(const km_cursor *cursor, enum cursor_way way, km_bytes key)
{
    const struct key_range *range = &cursor->range;

    if (way == CURSOR_UP)
        return range->to.is_set && km__cursor_compare(key, range->to.key) >= 0;
    return range->from.is_set && km__cursor_compare(key, range->from.key) < 0;
}

km_status km__cursor_end_at(km_cursor *cursor, enum cursor_way way, km_bytes key)
{
    cursor->far.place = way == CURSOR_UP ? CURSOR_AFTER : CURSOR_BEFORE;
    return km__copy_to_buffer(&cursor->far.key, key.data, key.size);
}

/* Drop what the walk found beyond the range. Damaged records at its end are left for the next
 * step: nobody knows their keys. */
static km_status trim_to_range(km_cursor *cursor, enum cursor_way way)
{
    const struct km_store *store = cursor->map->store;
    struct cursor_batch *spare = &cursor->spare;
    struct log_record record;
    km_status rc, result = KM_END;

    if (cursor->range.to.is_set || cursor->range.from.is_set)
        km__cursor_prefetch(cursor, spare->refs, spare->count);
    for (; spare->count; spare->count--) {
        rc = km__record_of(store, spare->refs[spare->count - 1], &record);
        if (!rc && !km__cursor_is_beyond(cursor, way, km__cursor_key_of(&record)))
            return km__cursor_end_at(cursor, way, km__cursor_key_of(&record));
        if (rc)
            result = rc;
    }
    return result;
}

static km_status walk_tree(km_cursor *cursor, enum cursor_way way, const struct sorted_tree *tree)
{
    struct cursor_batch *spare = &cursor->spare;
    struct sorted_bound bound;
    km_status rc;

    if (!km__cursor_bound(cursor, way, &bound))
        return KM_END;
    if (way == CURSOR_UP)
        rc = km__sorted_read_range(tree, bound, cursor->range.to, spare->refs, cursor->group_max,
                                   &spare->count);
    else
        rc = km__sorted_read_down(tree, bound, spare->refs, cursor->group_max, &spare->count);
    if (!rc)
        rc = trim_to_range(cursor, way);
    if (!rc && way == CURSOR_DOWN)
        reverse_refs(spare);
    return rc;
}

/* ---- KM_INSERTION ------------------------------------------------------------------------ */

static km_status walk_order(km_cursor *cursor, enum cursor_way way,
                            const struct insertion_order *order)
{
    struct cursor_batch *spare = &cursor->spare;
    struct order_entry entries[CURSOR_GROUP];
    size_t count = 0;

    if (way == CURSOR_UP)
        count = km__order_read_up(order, cursor->high.ordinal, entries, cursor->group_max);
    else if (cursor->low.ordinal)
        count = km__order_read_down(order, cursor->low.ordinal - 1, entries, cursor->group_max);
    if (count == 0)
        return KM_END;
    spare->count = count;
    for (size_t i = 0; i < count; i++)
        spare->refs[way == CURSOR_UP ? i : count - 1 - i] = entries[i].ref;
    cursor->far.ordinal = entries[count - 1].ordinal + (way == CURSOR_UP);
    return KM_OK;
}

/* ---- KM_HASH ----------------------------------------------------------------------------- */

int km__cursor_compare_walks(const struct hash_walk *a, const struct hash_walk *b)
{
    if (a->partition != b->partition)
        return a->partition < b->partition ? -1 : 1;
    return (a->prefix > b->prefix) - (a->prefix < b->prefix);
}

static int is_in_stretch(const struct cursor_stretch *stretch, uint64_t hash)
{
    struct hash_walk place = {.partition = km__hash_partition(hash),
                              .prefix = km__hash_own_bits(hash)};

    return km__cursor_compare_walks(&place, &stretch->begin) >= 0 &&
           km__cursor_compare_walks(&place, &stretch->end) < 0;
}

void km__cursor_keep_stretch(const km_cursor *cursor, const struct cursor_stretch *stretch,
                             struct cursor_batch *batch, size_t first)
{
    const struct km_store *store = cursor->map->store;
    struct log_record record;
    size_t count = first;

    km__cursor_prefetch(cursor, batch->refs + first, batch->count - first);
    for (size_t i = first; i < batch->count; i++) {
        km_status rc = KM_NOT_FOUND;

        if (batch->refs[i] < LOG_PLACEHOLDER_BASE)
            rc = km__record_of(store, batch->refs[i], &record);
        if (!rc &&
            !is_in_stretch(stretch, km__hash_key(&store->secret, record.key, record.key_size)))
            rc = KM_NOT_FOUND;
        if (rc != KM_NOT_FOUND)
            batch->refs[count++] = batch->refs[i];
    }
    batch->count = count;
}

/* A node that begins before the walk does is of an index that was built anew: its first keys were
 * met in another node. */
km_status km__cursor_read_node(km_cursor *cursor, struct hash_index *index,
                               struct cursor_stretch *stretch, int *out_end)
{
    struct cursor_batch *spare = &cursor->spare;
    km_status rc;

    stretch->end = stretch->begin;
    rc = km__hash_walk_next(index, &stretch->end, spare->refs, &spare->count, out_end);
    if (!rc && (stretch->begin.prefix & (UINT64_MAX >> stretch->end.depth)))
        km__cursor_keep_stretch(cursor, stretch, spare, 0);
    return rc;
}

static km_status walk_hash(km_cursor *cursor, struct hash_index *index)
{
    struct cursor_stretch stretch = {.begin = cursor->high.walk};
    int is_end = 0;
    km_status rc = km__cursor_read_node(cursor, index, &stretch, &is_end);

    cursor->far.walk = stretch.end;
    return rc == KM_OK && is_end ? KM_END : rc;
}

/* ---- any --------------------------------------------------------------------------------- */

km_status km__cursor_walk_body(km_cursor *cursor, enum cursor_way way, const struct map_body *body)
{
    if (body->tree)
        return walk_tree(cursor, way, body->tree);
    return body->order ? walk_order(cursor, way, body->order) : walk_hash(cursor, body->index);
}

km_status km__cursor_walk(km_cursor *cursor, enum cursor_way way)
{
    struct map_body body = {cursor->map->index, cursor->map->order, cursor->map->tree};

    return km__cursor_walk_body(cursor, way, &body);
}
