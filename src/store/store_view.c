/* SPDX-License-Identifier: Apache-2.0
 *
 * store_view.c -- copy on write, key by key: what open snapshots keep of maps that go on changing.
 *
 * A change that supersedes a record older than the newest open snapshot saves its reference in the
 * map's newest view, before it is logged. So a snapshot costs nothing when it is taken, a change of
 * a key costs one more entry in an index, once, and the indexes themselves know of no snapshots.
 *
 * A reader of snapshot S at position P looks in the map's index first and then at the views, newest
 * first, down to the oldest that is not older than S. A record whose version is below P is the one
 * that S has: of all records of a key that can be met, no other has a version below P and is later
 * than it. If there is none, S does not have the key.
 *
 * I1. A change passes the gate from before it saves until it is published, and a snapshot is taken
 *     with the gate closed: so every record below P was published then, and whoever supersedes one
 *     later sees the snapshot.
 * I2. Who finds in the map's index that a record was superseded, finds it in the views afterwards:
 *     it was saved before.
 * I3. A view holds the map's count of the snapshot: it is made before the first change since.
 * I4. Views are in the order of their snapshots, and a view is kept until no snapshot is open that
 *     is older than, or as old as, its own. To save once serves all of these.
 *     A view that only older snapshots need is folded into the next older one (store_view_fold.c).
 * I5. An emptied map's indexes are handed to the view as they are, once for a snapshot: what the
 *     map holds afterwards is younger than the snapshot.
 * I6. What views lead to stays in the log: each snapshot pins it.
 *
 * A change that fails after it has saved leaves an entry that is true all the same: the snapshot's
 * record of the key.
 */
#include "store/store_view.h"

#include "sync/thread.h"

/* ---- graves ------------------------------------------------------------------------------ */

static km_status grave_key(void *context, uint64_t ref, km_bytes *out_key)
{
    const struct grave *grave = (const struct grave *)(uintptr_t)ref;

    (void)context;
    *out_key = km_bytes_of(grave->key, sizeof(grave->key));
    return KM_OK;
}

static void prefetch_grave(void *context, uint64_t ref)
{
    (void)context;
    KM_PREFETCH((const void *)(uintptr_t)ref);
}

/* After the tree that leads to them. */
static void release_graves(struct map_view *view)
{
    const struct allocator *allocator = view->store->allocator;
    /* relaxed: nobody adds any more */
    struct grave *grave = atomic_load_explicit(&view->last_grave, memory_order_relaxed);

    while (grave) { /* ends: the list does */
        struct grave *next = grave->next;

        km__release(allocator, grave, sizeof(*grave));
        grave = next;
    }
}

static void list_grave(struct map_view *view, struct grave *grave)
{
    /* relaxed, and release for who would walk the list: that is only release_graves() */
    grave->next = atomic_load_explicit(&view->last_grave, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&view->last_grave, &grave->next, grave,
                                                  memory_order_release, memory_order_relaxed))
        ; /* ends: another thread's came between */
    /* relaxed: a figure */
    atomic_fetch_add_explicit(&view->grave_count, 1, memory_order_relaxed);
}

static km_status dig_grave(struct map_view *view, uint32_t shard, const struct found *found)
{
    const struct allocator *allocator = view->store->allocator;
    struct sorted_pending pending;
    struct grave *grave = km__allocate(allocator, sizeof(*grave));
    uint64_t there;
    km_status rc;

    if (!grave)
        return KM_E_NO_MEMORY;
    grave->ordinal = km__ordinal_of(&found->record);
    grave->ref = found->ref;
    for (int i = 0; i < 8; i++)
        grave->key[i] = (uint8_t)(grave->ordinal >> (56 - 8 * i));
    pending.key = grave->key;
    pending.key_size = sizeof(grave->key);
    rc = km__sorted_find(view->graves, km_bytes_of(grave->key, sizeof(grave->key)), &there);
    if (rc == KM_NOT_FOUND) {
        rc = km__sorted_reserve(view->graves, &pending);
        if (!rc) {
            km__sorted_fill(view->graves, shard, &pending, (uint64_t)(uintptr_t)grave, 0);
            list_grave(view, grave);
            return KM_OK;
        }
    }
    km__release(allocator, grave, sizeof(*grave)); /* it is there of an earlier attempt, or not */
    return rc;
}

/* ---- making and ending views -------------------------------------------------------------- */

void km__body_destroy(struct map_body *body)
{
    km__hash_index_destroy(body->index);
    km__order_destroy(body->order);
    km__sorted_destroy(body->tree);
}

void km__view_destroy(struct map_view *view)
{
    km__sorted_destroy(view->graves);
    release_graves(view);
    km__sorted_destroy(view->saved_sorted);
    km__hash_index_destroy(view->saved);
    km__body_destroy(&view->frozen);
    km__release(view->store->allocator, view, sizeof(*view));
}

static void destroy_retired_view(void *context, struct retired *retired)
{
    (void)context;
    km__view_destroy((struct map_view *)(void *)retired);
}

static km_status create_indexes_of_view(struct map_view *view, const km_map *map)
{
    struct km_store *store = map->store;
    km_status rc;

    if (map->tree)
        return km__sorted_create(store->allocator, store->pool, &store->reclaimer,
                                 &store->sorted_source, &view->saved_sorted);
    rc = km__hash_index_create(store->allocator, store->pool, &store->reclaimer, &view->saved);
    if (!rc && map->order) {
        view->grave_source.key = grave_key;
        view->grave_source.prefetch = prefetch_grave;
        rc = km__sorted_create(store->allocator, store->pool, &store->reclaimer,
                               &view->grave_source, &view->graves);
    }
    return rc;
}

static km_status create_view(km_map *map, const struct km_snapshot *snapshot,
                             struct map_view **out_view)
{
    struct km_store *store = map->store;
    struct map_view *view = km__allocate(store->allocator, sizeof(*view));
    km_status rc;

    if (!view)
        return KM_E_NO_MEMORY;
    view->store = store;
    view->position = snapshot->position;
    view->count = km__map_count(map); /* I3 */
    view->weight = km__map_weight(map);
    rc = create_indexes_of_view(view, map);
    if (rc) {
        km__view_destroy(view);
        return rc;
    }
    /* relaxed: changed under snapshots.lock, which is held */
    atomic_init(&view->older, atomic_load_explicit(&map->newest_view, memory_order_relaxed));
    /* release: pairs with km__view_first(): its fields */
    atomic_store_explicit(&map->newest_view, view, memory_order_release);
    *out_view = view;
    return KM_OK;
}

/* The view where what the newest open snapshot needs is saved; it is made if need be. */
static km_status take_view(km_map *map, const struct km_snapshot *snapshot,
                           struct map_view **out_view)
{
    struct snapshots *snapshots = &map->store->snapshots;
    /* acquire: pairs with create_view() */
    struct map_view *view = atomic_load_explicit(&map->newest_view, memory_order_acquire);
    km_status rc = KM_OK;

    if (KM_UNLIKELY(!view || view->position < snapshot->position)) {
        km__mutex_lock(&snapshots->lock);
        /* relaxed: changed under the lock */
        view = atomic_load_explicit(&map->newest_view, memory_order_relaxed);
        if (!view || view->position < snapshot->position)
            rc = create_view(map, snapshot, &view);
        km__mutex_unlock(&snapshots->lock);
    }
    *out_view = view;
    return rc;
}

static void retire_views(struct km_store *store, struct map_view *view)
{
    while (view) { /* ends: the list does */
        /* relaxed: under snapshots.lock */
        struct map_view *older = atomic_load_explicit(&view->older, memory_order_relaxed);

        km__retire(&store->reclaimer, &view->retired, destroy_retired_view, NULL);
        view = older;
    }
}

void km__views_release(struct km_store *store, uint64_t position)
{
    for (uint32_t id = 0; id < km__maps_id_count(store); id++) {
        km_map *map = km__maps_by_id(store, (uint16_t)id);
        _Atomic(struct map_view *) *link = map ? &map->newest_view : NULL;
        struct map_view *view;

        if (!map)
            continue;
        /* relaxed: under snapshots.lock */
        view = atomic_load_explicit(link, memory_order_relaxed);
        while (view && view->position >= position) { /* ends: the list does */
            link = &view->older;
            view = atomic_load_explicit(link, memory_order_relaxed);
        }
        atomic_store_explicit(link, NULL, memory_order_relaxed); /* nothing behind it to publish */
        retire_views(store, view);
    }
}

static uint64_t bytes_of_body(const struct map_body *body)
{
    return (body->index ? km__hash_bytes(body->index) : 0) +
           (body->order ? km__order_bytes(body->order) : 0) +
           (body->tree ? km__sorted_bytes(body->tree) : 0);
}

static uint64_t bytes_of_view(const struct map_view *view)
{
    uint64_t bytes = sizeof(*view) + bytes_of_body(&view->frozen);

    bytes += view->saved ? km__hash_bytes(view->saved) : 0;
    bytes += view->saved_sorted ? km__sorted_bytes(view->saved_sorted) : 0;
    bytes += view->graves ? km__sorted_bytes(view->graves) : 0;
    /* relaxed: a figure */
    return bytes +
           sizeof(struct grave) * atomic_load_explicit(&view->grave_count, memory_order_relaxed);
}

uint64_t km__views_bytes(struct km_store *store)
{
    uint64_t bytes = 0;

    for (uint32_t id = 0; id < km__maps_id_count(store); id++) {
        const km_map *map = km__maps_by_id(store, (uint16_t)id);
        const struct map_view *view = NULL;

        if (map) /* relaxed: under snapshots.lock */
            view = atomic_load_explicit(&map->newest_view, memory_order_relaxed);
        while (view) { /* ends: the list does */
            bytes += bytes_of_view(view);
            view = atomic_load_explicit(&view->older, memory_order_relaxed);
        }
    }
    return bytes;
}

/* ---- saving ------------------------------------------------------------------------------ */

static km_status save_in_hash(struct map_view *view, uint64_t hash, const struct found *found)
{
    struct hash_probe probe;
    uint64_t ref = km__hash_first(view->saved, hash, &probe);

    while (ref && ref != found->ref)
        ref = km__hash_next(&probe);
    /* straight with the reference: who sees it early learns nothing that is not so */
    return ref ? KM_OK : km__hash_reserve(view->saved, hash, found->ref, &view->store->source);
}

static km_status save_in_tree(struct map_view *view, uint32_t shard, const struct found *found)
{
    struct sorted_pending pending = {found->record.key, found->record.key_size};
    uint64_t there;
    km_status rc = km__sorted_find(view->saved_sorted,
                                   km_bytes_of(found->record.key, found->record.key_size), &there);

    if (rc != KM_NOT_FOUND)
        return rc;
    rc = km__sorted_reserve(view->saved_sorted, &pending);
    if (!rc)
        km__sorted_fill(view->saved_sorted, shard, &pending, found->ref, 0);
    return rc;
}

static uint64_t hash_of_found(const struct map_view *view, const struct found *found)
{
    return km__hash_key(&view->store->secret, found->record.key, found->record.key_size);
}

km_status km__view_enter(struct map_view *view, const struct found *found)
{
    uint64_t hash = hash_of_found(view, found);

    return view->saved_sorted ? save_in_tree(view, km__hash_partition(hash), found)
                              : save_in_hash(view, hash, found);
}

km_status km__view_dig(struct map_view *view, const struct found *found)
{
    return dig_grave(view, km__hash_partition(hash_of_found(view, found)), found);
}

/* A key leaves that was overwritten since the snapshot: if it had this ordinal then, who walks over
 * the snapshot must come to it all the same. */
static km_status dig_grave_of_saved(struct map_view *view, const km_map *map, uint64_t hash,
                                    const struct km_snapshot *snapshot, const struct found *found)
{
    struct found saved;
    km_status rc = km__find_saved(snapshot, map, hash,
                                  km_bytes_of(found->record.key, found->record.key_size), &saved);

    if (rc == KM_NOT_FOUND)
        return KM_OK;
    if (!rc && km__ordinal_of(&saved.record) == km__ordinal_of(&found->record))
        rc = dig_grave(view, km__hash_partition(hash), &saved);
    return rc;
}

KM_NOINLINE km_status km__view_save_slow(km_map *map, uint64_t hash, const struct found *found,
                                         int is_leaving)
{
    struct km_store *store = map->store;
    /* acquire: as in km__view_save(); inside the gate it stays */
    const struct km_snapshot *snapshot = atomic_load_explicit(&store->snapshots.current,
                                                              memory_order_acquire);
    struct map_view *view;
    km_status rc = snapshot ? take_view(map, snapshot, &view) : KM_OK;

    if (rc || !snapshot || !found->ref)
        return rc;
    if (km__version_of(store->view, found->ref, &found->record) >= snapshot->position)
        return is_leaving && map->order ? dig_grave_of_saved(view, map, hash, snapshot, found)
                                        : KM_OK;
    if (map->tree)
        return save_in_tree(view, km__hash_partition(hash), found);
    rc = save_in_hash(view, hash, found);
    if (!rc && is_leaving && map->order)
        rc = dig_grave(view, km__hash_partition(hash), found);
    return rc;
}

/* ---- emptying a map ----------------------------------------------------------------------- */

static km_status create_body(const km_map *map, struct map_body *body)
{
    struct km_store *store = map->store;
    km_status rc = KM_OK;

    if (!map->tree && !body->index)
        rc = km__hash_index_create(store->allocator, store->pool, &store->reclaimer, &body->index);
    if (!rc && map->order && !body->order)
        rc = km__order_create(store->allocator, store->pool, &store->reclaimer, &body->order);
    if (!rc && map->tree && !body->tree)
        rc = km__sorted_create(store->allocator, store->pool, &store->reclaimer,
                               &store->sorted_source, &body->tree);
    return rc;
}

/* Whether the view is still to get what the map holds. */
static int is_view_live(const struct map_view *view)
{
    /* relaxed: changed with all partitions locked, which are */
    return atomic_load_explicit(&view->freeze, memory_order_relaxed) == VIEW_LIVE;
}

km_status km__view_prepare_freeze(km_map *map)
{
    /* acquire: as in km__view_save() */
    const struct km_snapshot *snapshot = atomic_load_explicit(&map->store->snapshots.current,
                                                              memory_order_acquire);
    struct map_view *view;
    km_status rc;

    if (!snapshot)
        return KM_OK;
    rc = take_view(map, snapshot, &view);
    if (rc || !is_view_live(view))
        return rc;
    if (km__hash_not_loaded_count(map->index))
        return KM_WOULD_BLOCK; /* an image has what is to be kept: see km__map_change() */
    km__mutex_lock(&map->store->snapshots.lock); /* statistics look at it */
    rc = create_body(map, &view->frozen);
    km__mutex_unlock(&map->store->snapshots.lock);
    return rc;
}

void km__view_freeze(km_map *map)
{
    const struct km_snapshot *snapshot = atomic_load_explicit(&map->store->snapshots.current,
                                                              memory_order_acquire);
    /* relaxed: made by the preparation, by this thread or under the lock */
    struct map_view *view = atomic_load_explicit(&map->newest_view, memory_order_relaxed);

    if (snapshot && is_view_live(view)) {
        /* release, both: pairs with km__body_of() */
        atomic_store_explicit(&view->freeze, VIEW_FREEZING, memory_order_release);
        if (map->tree)
            km__sorted_move_all(map->tree, view->frozen.tree);
        else
            km__hash_adopt(view->frozen.index, map->index);
        if (map->order)
            km__order_move_all(map->order, view->frozen.order);
        atomic_store_explicit(&view->freeze, VIEW_FROZEN, memory_order_release);
    }
    km__empty_map(map);
}

/* ---- reading ----------------------------------------------------------------------------- */

int km__snapshot_has_map(const struct km_snapshot *snapshot, const km_map *map)
{
    /* relaxed: a map that is just being dropped is in every open snapshot that has it */
    uint64_t dropped = atomic_load_explicit(&map->dropped_position, memory_order_relaxed);

    return map->created < snapshot->position && (dropped == 0 || dropped >= snapshot->position);
}

static struct map_view *view_if_of(struct map_view *view, const struct km_snapshot *snapshot)
{
    return view && view->position >= snapshot->position ? view : NULL;
}

struct map_view *km__view_first(const km_map *map, const struct km_snapshot *snapshot)
{
    /* acquire: pairs with create_view() */
    return view_if_of(atomic_load_explicit(&map->newest_view, memory_order_acquire), snapshot);
}

struct map_view *km__view_next(const struct map_view *view, const struct km_snapshot *snapshot)
{
    /* acquire: as above */
    return view_if_of(atomic_load_explicit(&view->older, memory_order_acquire), snapshot);
}

/* The oldest view at or after the snapshot; NULL: the map is as it was. */
static struct map_view *nearest_view(const km_map *map, const struct km_snapshot *snapshot)
{
    struct map_view *nearest = NULL;

    for (struct map_view *view = km__view_first(map, snapshot); view;
         view = km__view_next(view, snapshot))
        nearest = view;
    return nearest;
}

struct map_body km__body_of(const km_map *map, const struct km_snapshot *snapshot)
{
    struct map_body body = {map->index, map->order, map->tree};
    const struct map_view *frozen = NULL;

    for (const struct map_view *view = km__view_first(map, snapshot); view;
         view = km__view_next(view, snapshot)) {
        /* acquire: pairs with km__view_freeze() */
        if (atomic_load_explicit(&view->freeze, memory_order_acquire) != VIEW_LIVE)
            frozen = view; /* the oldest counts: what came after it is younger than the snapshot */
    }
    if (!frozen)
        return body;
    /* ends: between the two there are some stores. Acquire: as above */
    while (atomic_load_explicit(&frozen->freeze, memory_order_acquire) == VIEW_FREEZING)
        km__thread_pause();
    return frozen->frozen;
}

int km__body_is_live(const km_map *map, const struct map_body *body)
{
    return map->tree ? body->tree == map->tree : body->index == map->index;
}

static km_status find_in_body(const struct km_store *store, const struct map_body *body,
                              uint64_t hash, km_bytes key, struct found *out)
{
    return body->tree ? km__find_sorted(store, body->tree, key, out)
                      : km__find(store, body->index, hash, key, out);
}

static int is_before(const struct km_snapshot *snapshot, const struct found *found)
{
    return km__version_of(snapshot->store->view, found->ref, &found->record) < snapshot->position;
}

km_status km__find_saved(const struct km_snapshot *snapshot, const km_map *map, uint64_t hash,
                         km_bytes key, struct found *out)
{
    for (const struct map_view *view = km__view_first(map, snapshot); view;
         view = km__view_next(view, snapshot)) {
        km_status rc = map->tree ? km__find_sorted(map->store, view->saved_sorted, key, out)
                                 : km__find(map->store, view->saved, hash, key, out);

        if (rc == KM_OK && is_before(snapshot, out))
            return KM_OK;
        if (rc && rc != KM_NOT_FOUND)
            return rc;
    }
    out->ref = 0;
    return KM_NOT_FOUND;
}

km_status km__find_in_snapshot(const struct km_snapshot *snapshot, const km_map *map, uint64_t hash,
                               km_bytes key, struct found *out)
{
    struct map_body body, again = km__body_of(map, snapshot);
    km_status rc;

    do { /* ends: a snapshot's map is emptied once */
        body = again;
        rc = find_in_body(map->store, &body, hash, key, out);
        if (rc == KM_OK && is_before(snapshot, out))
            return KM_OK;
        if (rc && rc != KM_NOT_FOUND)
            return rc;
        again = km__body_of(map, snapshot); /* it may have been emptied while it was looked at */
    } while (km__body_is_live(map, &body) != km__body_is_live(map, &again));
    return km__find_saved(snapshot, map, hash, key, out);
}

static uint64_t figure_in_snapshot(const struct km_snapshot *snapshot, const km_map *map,
                                   int is_weight)
{
    struct snapshots *snapshots = &snapshot->store->snapshots;
    const struct map_view *view;
    uint64_t figure;

    if (!km__snapshot_has_map(snapshot, map))
        return 0;
    km__epoch_enter();
    km__mutex_lock(&snapshots->lock); /* no view is made meanwhile, so no figure changes: I3 */
    view = nearest_view(map, snapshot);
    if (view)
        figure = is_weight ? view->weight : view->count;
    else
        figure = is_weight ? km__map_weight(map) : km__map_count(map);
    km__mutex_unlock(&snapshots->lock);
    km__epoch_leave();
    return figure;
}

uint64_t km__count_in_snapshot(const struct km_snapshot *snapshot, const km_map *map)
{
    return figure_in_snapshot(snapshot, map, 0);
}

uint64_t km__weight_in_snapshot(const struct km_snapshot *snapshot, const km_map *map)
{
    return figure_in_snapshot(snapshot, map, 1);
}
