/* SPDX-License-Identifier: Apache-2.0
 *
 * store_view_fold.c -- fold the views of closed snapshots into older ones.
 *
 * A view of a closed snapshot serves the older ones that are open. Where one of these stays open
 * for long and many short ones come and go, every map would get a view for each of them. So a view
 * V that has become needless is folded into the next older one, W: what W lacks of it is entered in
 * W, then V leaves the list.
 *
 * I1. V is folded if it is not the newest, if there is a W, and if no snapshot is open with a
 *     position in (W, V]: then V serves only snapshots at or below W. Nothing changes that: a new
 *     snapshot is younger than the newest view, which is younger than V. An oldest view stays, and
 *     serves them. To fold V into a newer view would be wrong: its snapshots would get V's records.
 * I2. A saved record with a version below W's position is entered in W if W has none of the key: no
 *     change displaced it before V's time, so W's snapshot and older ones have it, or a younger
 *     one's version tells them that they have not. If W has the key, W's record is what they have.
 *     A record with a version from W's position on is in none of them: it is dropped.
 * I3. A grave is dug in W if the key was at its ordinal in any of these snapshots: its record has a
 *     version below W's position, or the newest record that W and older views have saved of the key
 *     has this ordinal. Keys get new ordinals each time they come back, so older ones have others.
 * I4. A frozen body is W's if W is not frozen: W's snapshot had the map as it was emptied later. If
 *     W is frozen, V's body is younger than W's snapshot, and of no use. V's pointers to it stay,
 *     for readers that have come to V.
 * I5. Only the newest view is changed by others. One that was it once has no writer any more: they
 *     were inside the gate, which was closed since for a newer snapshot. W is the folder's alone.
 * I6. V leaves the list when all of it is in W. Who meets both meets records twice, and takes them
 *     once (store_cursor_snapshot.c, I5).
 * I7. Who folds, or retires views, holds fold_lock. It is given back after some hundred entries,
 *     and V remembers how far it was folded. What was entered in W is true there, whatever becomes
 *     of V. Nothing is folded into a view that is to be folded itself: so what V remembers stays
 *     true, also when it was W that was folded meanwhile.
 * I8. The records are in the log: an open snapshot's pin has them (store_view.c, I6), or the pin of
 *     one that is being closed, which waits for fold_lock first.
 */
#include "store/store_view.h"

#define FOLD_NODE (HASH_NODE_LINES_MAX * 8u)
#define FOLD_SHARE 500u       /* entries, about, between two that may have the lock */
#define FOLD_VIEW_COST 20u    /* entries that the end of a view counts for */
#define FOLD_CLOSE_VIEW 1000u /* entries of a view that km_snapshot_close() folds */
#define FOLD_CLOSE_ALL 4000u  /* entries of all views it folds */
#define FOLD_PAUSES 1000u     /* for who waits for the lock: tens of microseconds */

struct fold {
    struct km_store *store;
    km_map *map;
    struct map_view *from, *into;
    uint64_t *refs;   /* FOLD_NODE of them */
    uint64_t entries; /* that were gone through */
};

/* ---- which ------------------------------------------------------------------------------- */

static uint64_t entries_of_view(const struct map_view *view)
{
    uint64_t count = view->saved ? km__hash_count(view->saved)
                                 : km__sorted_count(view->saved_sorted);

    return count + (view->graves ? km__sorted_count(view->graves) : 0);
}

/* Relaxed, here and below: changed under snapshots.lock, or with fold_lock held, as it is. */
static struct map_view *older_view(const struct map_view *view)
{
    return atomic_load_explicit(&view->older, memory_order_relaxed);
}

/* The oldest of a run of views that can be folded (I1, I7) and have `entries_max` entries at most;
 * NULL: none. With snapshots.lock. */
static struct map_view *choose_view(const km_map *map, uint64_t entries_max)
{
    const struct km_snapshot *snapshot = map->store->snapshots.newest;
    struct map_view *view = atomic_load_explicit(&map->newest_view, memory_order_relaxed);
    struct map_view *candidate = NULL, *chosen = NULL;

    view = view ? older_view(view) : NULL;
    for (; view; view = older_view(view)) {
        const struct map_view *into = older_view(view);

        while (snapshot && snapshot->position > view->position) /* ends: the list does */
            snapshot = snapshot->older;
        if (into && !view->fold.is_stuck && !(snapshot && snapshot->position > into->position)) {
            candidate = view;
            continue;
        }
        if (candidate && entries_of_view(candidate) <= entries_max)
            chosen = candidate;
        candidate = NULL;
    }
    return chosen;
}

/* ---- entries ----------------------------------------------------------------------------- */

static int is_before_view(const struct map_view *view, const struct found *found)
{
    return km__version_of(view->store->view, found->ref, &found->record) < view->position;
}

static km_status find_in_view(const struct map_view *view, const struct found *like,
                              struct found *out)
{
    const struct km_store *store = view->store;
    km_bytes key = km_bytes_of(like->record.key, like->record.key_size);

    if (view->saved_sorted)
        return km__find_sorted(store, view->saved_sorted, key, out);
    return km__find(store, view->saved, km__hash_key(&store->secret, key.data, key.size), key, out);
}

/* I2. */
static km_status fold_saved(const struct fold *fold, const struct found *saved)
{
    struct found there;
    km_status rc;

    if (!is_before_view(fold->into, saved))
        return KM_OK;
    rc = find_in_view(fold->into, saved, &there);
    return rc == KM_NOT_FOUND ? km__view_enter(fold->into, saved) : rc;
}

/* I3. */
static km_status fold_grave(const struct fold *fold, const struct found *buried)
{
    const struct map_view *view = fold->into;
    struct found there;
    km_status rc = KM_NOT_FOUND;

    if (is_before_view(view, buried))
        return km__view_dig(fold->into, buried);
    for (; view && rc == KM_NOT_FOUND; view = older_view(view))
        rc = find_in_view(view, buried, &there);
    if (rc)
        return rc == KM_NOT_FOUND ? KM_OK : rc;
    return km__ordinal_of(&there.record) == km__ordinal_of(&buried->record)
               ? km__view_dig(fold->into, buried)
               : KM_OK;
}

/* The next entries of a tree; none: it is over. */
static km_status read_entries(const struct fold *fold, const struct sorted_tree *tree,
                              const struct sorted_source *source, struct view_fold *place,
                              size_t *out_count)
{
    struct sorted_bound from = {.is_set = place->last != 0, .is_exclusive = 1};
    km_status rc = KM_OK;

    if (place->last)
        rc = source->key(source->context, place->last, &from.key);
    if (!rc)
        rc = km__sorted_read_up(tree, from, fold->refs, FOLD_SHARE, out_count);
    if (rc)
        return rc;
    if (*out_count)
        place->last = fold->refs[*out_count - 1];
    return KM_OK;
}

/* The same of what V has saved, or of its graves; where there are no more, the next stage is. */
static km_status read_stage(const struct fold *fold, struct view_fold *place, size_t *out_count)
{
    const struct map_view *from = fold->from;
    int is_over = 0;
    km_status rc;

    *out_count = 0;
    if (place->stage == FOLD_SAVED && from->saved) {
        rc = km__hash_walk_next(from->saved, &place->walk, fold->refs, out_count, &is_over);
    } else {
        rc = place->stage == FOLD_SAVED
                 ? read_entries(fold, from->saved_sorted, &fold->store->sorted_source, place,
                                out_count)
                 : read_entries(fold, from->graves, &from->grave_source, place, out_count);
        is_over = *out_count == 0;
    }
    if (!rc && is_over) {
        place->stage = place->stage == FOLD_SAVED && from->graves ? FOLD_GRAVES : FOLD_DONE;
        place->last = 0;
    }
    return rc;
}

static km_status fold_entry(const struct fold *fold, enum view_fold_stage stage, uint64_t entry)
{
    struct found found;
    km_status rc;

    found.ref = stage == FOLD_SAVED ? entry : ((const struct grave *)(uintptr_t)entry)->ref;
    rc = km__record_of(fold->store, found.ref, &found.record);
    if (rc)
        return rc;
    return stage == FOLD_SAVED ? fold_saved(fold, &found) : fold_grave(fold, &found);
}

/* A node, or so many entries, in one read section. */
static km_status fold_some(struct fold *fold)
{
    struct view_fold *place = &fold->from->fold;
    struct view_fold next = *place;
    size_t count = 0;
    km_status rc;

    km__epoch_enter();
    rc = read_stage(fold, &next, &count);
    for (size_t i = 0; i < count && !rc; i++)
        rc = fold_entry(fold, place->stage, fold->refs[i]);
    km__epoch_leave();
    if (!rc)
        *place = next;
    fold->entries += count;
    return rc;
}

/* ---- the end of a view ------------------------------------------------------------------- */

static void destroy_folded_view(void *context, struct retired *retired)
{
    struct map_view *view = (struct map_view *)(void *)retired;

    (void)context;
    if (view->fold.is_handed_over)
        view->frozen = (struct map_body){NULL, NULL, NULL};
    km__view_destroy(view);
}

/* I4. *out_unused is what W had in its place, which nobody has looked at. */
static void hand_over_body(struct fold *fold, struct map_body *out_unused)
{
    struct map_view *from = fold->from, *into = fold->into;

    /* acquire: pairs with km__view_freeze(): the body */
    if (atomic_load_explicit(&from->freeze, memory_order_acquire) != VIEW_FROZEN ||
        atomic_load_explicit(&into->freeze, memory_order_acquire) != VIEW_LIVE)
        return;
    *out_unused = into->frozen;
    into->frozen = from->frozen;
    from->fold.is_handed_over = 1;
    /* release: pairs with km__body_of(): the body */
    atomic_store_explicit(&into->freeze, VIEW_FROZEN, memory_order_release);
}

static void end_fold(struct fold *fold)
{
    struct snapshots *snapshots = &fold->store->snapshots;
    struct map_body unused = {NULL, NULL, NULL};
    struct map_view *newer;

    km__mutex_lock(&snapshots->lock);
    hand_over_body(fold, &unused);
    newer = atomic_load_explicit(&fold->map->newest_view, memory_order_relaxed);
    while (older_view(newer) != fold->from) /* ends: it is in the list, and not the first */
        newer = older_view(newer);
    /* release: pairs with km__view_next(): what was entered in W */
    atomic_store_explicit(&newer->older, fold->into, memory_order_release);
    km__mutex_unlock(&snapshots->lock);
    km__body_destroy(&unused);
    km__retire(&fold->store->reclaimer, &fold->from->retired, destroy_folded_view, NULL);
    fold->entries += FOLD_VIEW_COST;
}

/* ---- rounds ------------------------------------------------------------------------------ */

/* Some entries of a map's view; 0: there is nothing to do, or no memory to do it. With fold_lock.
 */
static int fold_share(struct fold *fold, uint64_t entries_max)
{
    struct snapshots *snapshots = &fold->store->snapshots;
    uint64_t end = fold->entries + FOLD_SHARE;
    km_status rc = KM_OK;

    km__mutex_lock(&snapshots->lock);
    fold->from = choose_view(fold->map, entries_max);
    km__mutex_unlock(&snapshots->lock);
    if (!fold->from)
        return 0;
    fold->into = older_view(fold->from);
    while (!rc && fold->from->fold.stage != FOLD_DONE && fold->entries < end)
        rc = fold_some(fold); /* ends: the walk does */
    if (rc && rc != KM_E_NO_MEMORY)
        fold->from->fold.is_stuck = 1; /* a damaged record: V stays, and others may end in it */
    else if (!rc && fold->from->fold.stage == FOLD_DONE)
        end_fold(fold);
    return rc != KM_E_NO_MEMORY;
}

static int begin_folds(struct km_store *store, struct fold *fold)
{
    *fold = (struct fold){.store = store};
    fold->refs = km__allocate(store->allocator, FOLD_NODE * sizeof(*fold->refs));
    return fold->refs != NULL;
}

static void end_folds(struct fold *fold)
{
    km__release(fold->store->allocator, fold->refs, FOLD_NODE * sizeof(*fold->refs));
}

void km__views_fold_small(struct km_store *store)
{
    struct fold fold;

    if (!begin_folds(store, &fold))
        return; /* the keeper's thread tries again */
    for (uint32_t id = 0; id < km__maps_id_count(store) && fold.entries < FOLD_CLOSE_ALL; id++) {
        fold.map = km__maps_by_id(store, (uint16_t)id);
        while (fold.map && fold.entries < FOLD_CLOSE_ALL && fold_share(&fold, FOLD_CLOSE_VIEW))
            ; /* ends: there are fewer views, or fewer entries left to fold */
    }
    end_folds(&fold);
}

/* Relaxed, all of them: no data behind it. */
void km__views_lock(struct km_store *store)
{
    struct snapshots *snapshots = &store->snapshots;

    atomic_fetch_add_explicit(&snapshots->fold_waiting, 1, memory_order_relaxed);
    km__mutex_lock(&snapshots->fold_lock);
    atomic_fetch_sub_explicit(&snapshots->fold_waiting, 1, memory_order_relaxed);
}

void km__views_unlock(struct km_store *store)
{
    km__mutex_unlock(&store->snapshots.fold_lock);
}

static void let_others_pass(const struct snapshots *snapshots)
{
    for (uint32_t i = 0; i < FOLD_PAUSES; i++) {
        if (!atomic_load_explicit(&snapshots->fold_waiting, memory_order_relaxed))
            return;
        km__thread_pause();
    }
}

static void fold_map(struct fold *fold)
{
    struct snapshots *snapshots = &fold->store->snapshots;
    int is_more = 1;

    while (is_more) { /* ends: as km__views_fold_small() */
        km__mutex_lock(&snapshots->fold_lock);
        is_more = fold_share(fold, UINT64_MAX);
        km__mutex_unlock(&snapshots->fold_lock);
        let_others_pass(snapshots);
    }
}

void km__views_fold(struct km_store *store)
{
    struct fold fold;

    /* relaxed: a figure; where none is open, or only one, nothing can be folded, or hardly */
    if (!atomic_load_explicit(&store->snapshots.count, memory_order_relaxed) ||
        !begin_folds(store, &fold))
        return;
    for (uint32_t id = 0; id < km__maps_id_count(store); id++) {
        fold.map = km__maps_by_id(store, (uint16_t)id);
        if (fold.map)
            fold_map(&fold);
    }
    end_folds(&fold);
}
