/* SPDX-License-Identifier: Apache-2.0
 *
 * store_cursor_snapshot.c -- a cursor's walk over a map as it is in a snapshot: what the map's body
 * holds is merged with what views have saved.
 *
 * An entry belongs to the snapshot if its version is below the snapshot's position. One step reads
 * a stretch of the body, then the same stretch of every view.
 *
 * I1. The body comes first: what is missing there, or too young, is in the views afterwards
 *     (store_view.c, I2). If the body was emptied while it was read, it is read again where its
 *     contents are now.
 * I2. Of an ordered map each source is read from where the walk stands, some entries of it. The
 *     step ends at the nearest of their last ones: as far as that all sources are known.
 * I3. In a KM_INSERTION map a key keeps its ordinal as long as it is there. One that was
 *     overwritten is found at its ordinal in the body, one that was deleted by its grave; in both
 *     cases the record of the snapshot is among those that views have saved, under the key.
 * I4. In a KM_HASH map the stretch is that of a node of the body, in terms of the hash.
 * I5. A record can be met twice, in the body and in views; at two places if it was moved. It is
 *     taken once then.
 */
#include "store/store_cursor_internal.h"

#include <stdlib.h>

/* Whether the record at a reference belongs to the snapshot. A record lies at its version, or
 * behind it if it was moved: most need not be looked at. KM_OK, KM_NOT_FOUND, KM_E_CORRUPT. */
static km_status judge_version(const km_cursor *cursor, uint64_t ref)
{
    const struct km_store *store = cursor->map->store;
    uint64_t position = cursor->snapshot->position;
    struct log_record record;
    km_status rc;

    if (ref >= LOG_PLACEHOLDER_BASE)
        return KM_NOT_FOUND;
    if (km__log_position_of(store->view, ref) < position)
        return KM_OK;
    rc = km__record_of(store, ref, &record);
    if (!rc && km__version_of(store->view, ref, &record) >= position)
        rc = KM_NOT_FOUND;
    return rc;
}

/* Leave those of the snapshot, of the references from `first` on; damaged ones stay, to be told of
 * when they are decoded. */
static void filter_refs(const km_cursor *cursor, struct cursor_batch *batch, size_t first)
{
    size_t count = first;

    for (size_t i = first; i < batch->count; i++) {
        if (judge_version(cursor, batch->refs[i]) != KM_NOT_FOUND)
            batch->refs[count++] = batch->refs[i];
    }
    batch->count = count;
}

static int has_views(const km_cursor *cursor)
{
    return km__view_first(cursor->map, cursor->snapshot) != NULL;
}

/* ---- merging ----------------------------------------------------------------------------- */

struct merge_entry {
    uint64_t ref;
    uint64_t ordinal; /* of a KM_INSERTION map */
    km_bytes key;     /* of a KM_SORTED map; valid in the read section */
};

/* Entries in the order of the walk. */
struct merge_run {
    struct merge_entry entries[CURSOR_GROUP];
    size_t count;
};

struct merge {
    km_cursor *cursor;
    enum cursor_way way;
    struct merge_run merged;
    struct merge_entry limit; /* up to here, included, all sources are known (I2) */
    int has_limit;            /* 0: to the end */
};

static int compare_entries(const struct merge *merge, const struct merge_entry *a,
                           const struct merge_entry *b)
{
    int result = merge->cursor->map->tree ? km__cursor_compare(a->key, b->key)
                                          : (a->ordinal > b->ordinal) - (a->ordinal < b->ordinal);

    return merge->way == CURSOR_UP ? result : -result;
}

static void note_limit(struct merge *merge, const struct merge_entry *entry)
{
    if (!merge->has_limit || compare_entries(merge, entry, &merge->limit) < 0)
        merge->limit = *entry;
    merge->has_limit = 1;
}

static void merge_in(struct merge *merge, const struct merge_run *run)
{
    const struct merge_run *merged = &merge->merged;
    struct merge_run out;
    size_t i = 0, j = 0;

    if (run->count == 0)
        return;
    out.count = 0;
    while (out.count < CURSOR_GROUP && (i < merged->count || j < run->count)) {
        int order = i == merged->count ? 1 : -1;

        if (i < merged->count && j < run->count)
            order = compare_entries(merge, &merged->entries[i], &run->entries[j]);
        out.entries[out.count++] = order <= 0 ? merged->entries[i] : run->entries[j];
        i += order <= 0;
        j += order >= 0; /* equal ones are the same record (I5) */
    }
    if (i < merged->count || j < run->count)
        note_limit(merge, &out.entries[out.count - 1]);
    merge->merged = out;
}

/* ---- KM_SORTED --------------------------------------------------------------------------- */

static km_status take_from_tree(struct merge *merge, const uint64_t *refs, size_t count,
                                struct merge_run *run)
{
    const km_cursor *cursor = merge->cursor;
    const struct km_store *store = cursor->map->store;
    struct merge_entry entry = {0};
    struct log_record record;

    km__cursor_prefetch(cursor, refs, count);
    for (size_t i = 0; i < count; i++) {
        km_status rc = km__record_of(store, refs[i], &record);

        if (rc && i == 0)
            return rc;
        if (rc)
            break; /* it begins the next step */
        if (km__cursor_is_beyond(cursor, merge->way, km__cursor_key_of(&record)))
            return KM_OK; /* no limit: this source has no more in the range */
        entry.ref = refs[i];
        entry.key = km__cursor_key_of(&record);
        if (km__version_of(store->view, refs[i], &record) < cursor->snapshot->position)
            run->entries[run->count++] = entry;
    }
    if (count)
        note_limit(merge, &entry);
    return KM_OK;
}

static km_status merge_tree(struct merge *merge, const struct sorted_tree *tree)
{
    struct merge_run run;
    uint64_t refs[CURSOR_GROUP];
    struct sorted_bound bound;
    size_t count = 0;
    km_status rc;

    if (!km__cursor_bound(merge->cursor, merge->way, &bound))
        return KM_OK;
    if (merge->way == CURSOR_UP)
        rc = km__sorted_read_up(tree, bound, refs, CURSOR_GROUP, &count);
    else
        rc = km__sorted_read_down(tree, bound, refs, CURSOR_GROUP, &count);
    run.count = 0;
    if (!rc)
        rc = take_from_tree(merge, refs, count, &run);
    if (!rc)
        merge_in(merge, &run);
    return rc;
}

/* ---- KM_INSERTION ------------------------------------------------------------------------ */

/* The record that the snapshot has of a key whose present one, or last one, is too young (I3): 0
 * if it has none at this ordinal. A damaged one is returned as it is, to be told of later. */
static uint64_t older_at_ordinal(const km_cursor *cursor, uint64_t ordinal, uint64_t ref)
{
    const km_map *map = cursor->map;
    struct log_record record;
    struct found found;
    km_status rc = km__record_of(map->store, ref, &record);

    if (!rc) {
        uint64_t hash = km__hash_key(&map->store->secret, record.key, record.key_size);

        rc = km__find_saved(cursor->snapshot, map, hash, km__cursor_key_of(&record), &found);
    }
    if (rc)
        return rc == KM_NOT_FOUND ? 0 : ref;
    return km__ordinal_of(&found.record) == ordinal ? found.ref : 0;
}

static void take_at_ordinal(struct merge *merge, uint64_t ordinal, uint64_t ref,
                            struct merge_run *run)
{
    struct merge_entry entry = {ref, ordinal, {NULL, 0}};

    if (ref >= LOG_PLACEHOLDER_BASE)
        return;
    if (judge_version(merge->cursor, ref) == KM_NOT_FOUND)
        entry.ref = older_at_ordinal(merge->cursor, ordinal, ref);
    if (entry.ref)
        run->entries[run->count++] = entry;
}

static void merge_order(struct merge *merge, const struct insertion_order *order)
{
    const km_cursor *cursor = merge->cursor;
    struct order_entry entries[CURSOR_GROUP];
    struct merge_entry last = {0};
    struct merge_run run;
    size_t count = 0;

    if (merge->way == CURSOR_UP)
        count = km__order_read_up(order, cursor->high.ordinal, entries, CURSOR_GROUP);
    else if (cursor->low.ordinal)
        count = km__order_read_down(order, cursor->low.ordinal - 1, entries, CURSOR_GROUP);
    for (size_t i = 0; i < count; i++)
        km__log_prefetch(cursor->map->store->view, entries[i].ref);
    run.count = 0;
    for (size_t i = 0; i < count; i++)
        take_at_ordinal(merge, entries[i].ordinal, entries[i].ref, &run);
    if (count) {
        last.ordinal = entries[count - 1].ordinal;
        note_limit(merge, &last);
    }
    merge_in(merge, &run);
}

static km_status merge_graves(struct merge *merge, const struct sorted_tree *graves)
{
    const km_cursor *cursor = merge->cursor;
    uint64_t ordinal = merge->way == CURSOR_UP ? cursor->high.ordinal : cursor->low.ordinal;
    uint64_t refs[CURSOR_GROUP];
    struct merge_entry last = {0};
    struct merge_run run;
    struct sorted_bound bound;
    uint8_t key[8];
    size_t count = 0;
    km_status rc;

    for (int i = 0; i < 8; i++)
        key[i] = (uint8_t)(ordinal >> (56 - 8 * i));
    bound.key = km_bytes_of(key, sizeof(key));
    bound.is_set = 1;
    bound.is_exclusive = merge->way == CURSOR_DOWN;
    if (merge->way == CURSOR_UP)
        rc = km__sorted_read_up(graves, bound, refs, CURSOR_GROUP, &count);
    else
        rc = km__sorted_read_down(graves, bound, refs, CURSOR_GROUP, &count);
    run.count = 0;
    for (size_t i = 0; !rc && i < count; i++) {
        const struct grave *grave = (const struct grave *)(uintptr_t)refs[i];

        take_at_ordinal(merge, grave->ordinal, grave->ref, &run);
        last.ordinal = grave->ordinal;
    }
    if (rc)
        return rc;
    if (count)
        note_limit(merge, &last);
    merge_in(merge, &run);
    return KM_OK;
}

/* ---- ordered maps ------------------------------------------------------------------------ */

/* The body, then the views (I1). */
static km_status merge_sources(struct merge *merge)
{
    const km_map *map = merge->cursor->map;
    const struct km_snapshot *snapshot = merge->cursor->snapshot;
    struct map_body body, again = km__body_of(map, snapshot);
    km_status rc = KM_OK;

    do { /* ends: a snapshot's map is emptied once */
        body = again;
        merge->merged.count = 0;
        merge->has_limit = 0;
        if (body.tree)
            rc = merge_tree(merge, body.tree);
        else
            merge_order(merge, body.order);
        again = km__body_of(map, snapshot);
    } while (km__body_is_live(map, &body) != km__body_is_live(map, &again));
    for (const struct map_view *view = km__view_first(map, snapshot); view && !rc;
         view = km__view_next(view, snapshot))
        rc = map->tree ? merge_tree(merge, view->saved_sorted) : merge_graves(merge, view->graves);
    return rc;
}

/* Behind everything that there is that way: it stays so, as it is a snapshot. */
static void end_at_end(struct merge *merge)
{
    struct cursor_edge *far = &merge->cursor->far;

    far->ordinal = merge->way == CURSOR_UP ? UINT64_MAX : 0;
    far->place = merge->way == CURSOR_UP ? CURSOR_LAST : CURSOR_FIRST;
    far->key.size = 0;
}

/* Let what was merged, up to the limit, be what the walk has found. */
static km_status end_merge(struct merge *merge)
{
    struct merge_run *merged = &merge->merged;
    struct cursor_batch *spare = &merge->cursor->spare;

    while (merge->has_limit && merged->count &&
           compare_entries(merge, &merged->entries[merged->count - 1], &merge->limit) > 0)
        merged->count--;
    spare->count = merged->count;
    for (size_t i = 0; i < merged->count; i++)
        spare->refs[merge->way == CURSOR_UP ? i : merged->count - 1 - i] = merged->entries[i].ref;
    if (!merge->has_limit) {
        end_at_end(merge);
        return merged->count ? KM_OK : KM_END;
    }
    merge->cursor->far.ordinal = merge->limit.ordinal + (merge->way == CURSOR_UP);
    return merge->cursor->map->tree ? km__cursor_end_at(merge->cursor, merge->way, merge->limit.key)
                                    : KM_OK;
}

/* No view: the map is as it was, but for keys that are new. KM_CONFLICT: there is one meanwhile. */
static km_status walk_unchanged(km_cursor *cursor, enum cursor_way way)
{
    struct map_body body = {cursor->map->index, cursor->map->order, cursor->map->tree};
    km_status rc = km__cursor_walk_body(cursor, way, &body);

    if (has_views(cursor))
        return KM_CONFLICT;
    if (!rc)
        filter_refs(cursor, &cursor->spare, 0);
    return rc;
}

static km_status walk_merged(km_cursor *cursor, enum cursor_way way)
{
    struct merge merge;
    km_status rc = has_views(cursor) ? KM_CONFLICT : walk_unchanged(cursor, way);

    if (rc != KM_CONFLICT)
        return rc;
    merge.cursor = cursor;
    merge.way = way;
    rc = merge_sources(&merge);
    return rc ? rc : end_merge(&merge);
}

/* ---- KM_HASH ----------------------------------------------------------------------------- */

/* The body's next node, and how far it reaches. */
static km_status read_body_node(km_cursor *cursor, struct cursor_stretch *stretch)
{
    const km_map *map = cursor->map;
    struct map_body body, again = km__body_of(map, cursor->snapshot);
    int is_end = 0;
    km_status rc;

    do { /* ends: a snapshot's map is emptied once */
        body = again;
        rc = km__cursor_read_node(cursor, body.index, stretch, &is_end);
        again = km__body_of(map, cursor->snapshot);
    } while (km__body_is_live(map, &body) != km__body_is_live(map, &again));
    if (!rc && is_end) { /* what is left was empty at last; not so, maybe, in the snapshot */
        stretch->end.partition = HASH_PARTITION_COUNT;
        stretch->end.prefix = 0;
    }
    return rc;
}

static km_status grow_batch(const km_cursor *cursor, struct cursor_batch *batch, size_t capacity)
{
    const struct allocator *allocator = cursor->map->store->allocator;
    uint64_t *refs;

    if (capacity <= batch->capacity)
        return KM_OK;
    if (capacity < 2 * batch->capacity)
        capacity = 2 * batch->capacity;
    refs = km__allocate(allocator, capacity * sizeof(*refs));
    if (!refs)
        return KM_E_NO_MEMORY;
    memcpy(refs, batch->refs, batch->count * sizeof(*refs));
    km__release(allocator, batch->refs, batch->capacity * sizeof(*refs));
    batch->refs = refs;
    batch->capacity = capacity;
    return KM_OK;
}

/* Append what a view has saved in the stretch. */
static km_status add_saved(km_cursor *cursor, const struct cursor_stretch *stretch,
                           struct hash_index *saved)
{
    struct cursor_batch *spare = &cursor->spare;
    struct hash_walk walk = stretch->begin;
    int is_end = 0;

    while (!is_end &&
           km__cursor_compare_walks(&walk, &stretch->end) < 0) { /* ends: the walk moves on */
        size_t first = spare->count, added = 0;
        km_status rc = grow_batch(cursor, spare, first + CURSOR_NODE);

        if (!rc)
            rc = km__hash_walk_next(saved, &walk, spare->refs + first, &added, &is_end);
        if (rc)
            return rc;
        spare->count += added;
        filter_refs(cursor, spare, first);
        km__cursor_keep_stretch(cursor, stretch, spare, first);
    }
    return KM_OK;
}

struct versioned_ref {
    uint64_t version; /* 0: of a damaged record */
    uint64_t ref;
};

static int compare_versions(const void *a, const void *b)
{
    uint64_t x = ((const struct versioned_ref *)a)->version;
    uint64_t y = ((const struct versioned_ref *)b)->version;

    return (x > y) - (x < y);
}

/* Drop what was met twice (I5). */
static km_status drop_doubles(km_cursor *cursor)
{
    const struct km_store *store = cursor->map->store;
    struct cursor_batch *spare = &cursor->spare;
    size_t size = spare->count * sizeof(struct versioned_ref), count = 0;
    struct versioned_ref *pairs = km__allocate(store->allocator, size);
    struct log_record record;

    if (!pairs)
        return KM_E_NO_MEMORY;
    km__cursor_prefetch(cursor, spare->refs, spare->count);
    for (size_t i = 0; i < spare->count; i++) {
        pairs[i].ref = spare->refs[i];
        if (km__record_of(store, pairs[i].ref, &record) == KM_OK)
            pairs[i].version = km__version_of(store->view, pairs[i].ref, &record);
    }
    qsort(pairs, spare->count, sizeof(*pairs), compare_versions);
    for (size_t i = 0; i < spare->count; i++) {
        if (i == 0 || pairs[i].version == 0 || pairs[i].version != pairs[i - 1].version)
            spare->refs[count++] = pairs[i].ref;
    }
    spare->count = count;
    km__release(store->allocator, pairs, size);
    return KM_OK;
}

static km_status walk_stretch(km_cursor *cursor)
{
    struct cursor_stretch stretch = {.begin = cursor->high.walk};
    size_t body_count;
    km_status rc;

    if (stretch.begin.partition == HASH_PARTITION_COUNT)
        return KM_END;
    rc = read_body_node(cursor, &stretch);
    if (rc)
        return rc;
    filter_refs(cursor, &cursor->spare, 0);
    body_count = cursor->spare.count;
    for (const struct map_view *view = km__view_first(cursor->map, cursor->snapshot); view && !rc;
         view = km__view_next(view, cursor->snapshot))
        rc = add_saved(cursor, &stretch, view->saved);
    if (!rc && cursor->spare.count > body_count)
        rc = drop_doubles(cursor);
    cursor->far.walk = stretch.end;
    return rc;
}

km_status km__cursor_walk_snapshot(km_cursor *cursor, enum cursor_way way)
{
    return cursor->map->kind == KM_HASH ? walk_stretch(cursor) : walk_merged(cursor, way);
}
