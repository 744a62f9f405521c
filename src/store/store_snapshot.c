/* SPDX-License-Identifier: Apache-2.0
 *
 * store_snapshot.c -- take snapshots, read single keys of them, let them go; store_view.c has how
 * they are kept.
 *
 * I1. A snapshot's position is the log's end, taken while no change is between its preparation and
 *     its publication. Records below it may still be written by compaction: copies, which change
 *     nothing.
 * I2. Its pin is taken in the same moment: what the log holds then, and later, stays.
 */
#include "store/store_view.h"

void km__snapshots_init(struct km_store *store)
{
    km__gate_init(&store->snapshots.gate);
    km__mutex_init(&store->snapshots.lock);
    km__mutex_init(&store->snapshots.fold_lock);
}

void km__snapshots_fini(struct km_store *store)
{
    km__mutex_fini(&store->snapshots.fold_lock);
    km__mutex_fini(&store->snapshots.lock);
    km__gate_fini(&store->snapshots.gate);
}

/* ---- the list ---------------------------------------------------------------------------- */

/* With the gate closed and the lock held. */
static void set_current(struct snapshots *snapshots)
{
    /* release: pairs with km__view_save() */
    atomic_store_explicit(&snapshots->current, snapshots->newest, memory_order_release);
}

static km_status enter_snapshot(struct km_snapshot *snapshot)
{
    struct km_store *store = snapshot->store;
    struct snapshots *snapshots = &store->snapshots;
    km_status rc = KM_OK;

    km__gate_close(&snapshots->gate);
    km__mutex_lock(&snapshots->lock);
    /* relaxed: changed under the lock */
    if (atomic_load_explicit(&snapshots->count, memory_order_relaxed) == SNAPSHOT_COUNT_MAX) {
        rc = KM_E_LIMIT;
    } else {
        snapshot->position = km__log_tail(store->log);
        km__log_pin(store->log, &snapshot->pin);
        snapshot->older = snapshots->newest;
        if (snapshots->newest)
            snapshots->newest->newer = snapshot;
        else
            snapshots->oldest = snapshot;
        snapshots->newest = snapshot;
        atomic_fetch_add_explicit(&snapshots->count, 1, memory_order_relaxed);
        set_current(snapshots);
    }
    km__mutex_unlock(&snapshots->lock);
    km__gate_open(&snapshots->gate);
    return rc;
}

static void leave_snapshot(struct km_snapshot *snapshot)
{
    struct snapshots *snapshots = &snapshot->store->snapshots;

    km__gate_close(&snapshots->gate);
    km__mutex_lock(&snapshots->lock);
    if (snapshot->older)
        snapshot->older->newer = snapshot->newer;
    else
        snapshots->oldest = snapshot->newer;
    if (snapshot->newer)
        snapshot->newer->older = snapshot->older;
    else
        snapshots->newest = snapshot->older;
    atomic_fetch_sub_explicit(&snapshots->count, 1, memory_order_relaxed);
    set_current(snapshots);
    km__mutex_unlock(&snapshots->lock);
    km__gate_open(&snapshots->gate);
}

km_status km_snapshot_open(km_store *store, km_snapshot **out_snapshot)
{
    struct km_snapshot *snapshot;
    km_status rc;

    if (km__store_is_forked(store))
        return KM_E_FORKED;
    if (km__store_broken(store))
        return km__store_broken(store);
    if (store->is_follower)
        return KM_E_UNSUPPORTED;
    if (km__epoch_ongoing())
        return KM_WOULD_BLOCK;
    snapshot = km__allocate(store->allocator, sizeof(*snapshot));
    if (!snapshot)
        return KM_E_NO_MEMORY;
    snapshot->store = store;
    snapshot->taken_ms = store->os->ops->wall_ms(store->os);
    snapshot->taken_ns = store->os->ops->now_ns(store->os);
    rc = enter_snapshot(snapshot);
    if (rc) {
        km__release(store->allocator, snapshot, sizeof(*snapshot));
        return rc;
    }
    *out_snapshot = snapshot;
    return KM_OK;
}

/* The views that only the snapshot needed, which has left the list. */
static void drop_views(const struct km_snapshot *snapshot)
{
    struct km_store *store = snapshot->store;
    struct snapshots *snapshots = &store->snapshots;
    uint64_t oldest;

    km__views_lock(store);
    km__mutex_lock(&snapshots->lock);
    oldest = snapshots->oldest ? snapshots->oldest->position : UINT64_MAX;
    km__views_release(store, oldest);
    km__mutex_unlock(&snapshots->lock);
    if (oldest < snapshot->position)
        km__views_fold_small(store);
    km__views_unlock(store);
}

void km_snapshot_close(km_snapshot *snapshot)
{
    struct km_store *store;

    if (!snapshot)
        return;
    store = snapshot->store;
    if (!km__store_is_forked(store)) {
        leave_snapshot(snapshot);
        drop_views(snapshot);
        km__log_unpin(store->log, &snapshot->pin);
    }
    km__release(store->allocator, snapshot, sizeof(*snapshot));
}

/* ---- what is in it ----------------------------------------------------------------------- */

km_status km_snapshot_describe(const km_snapshot *snapshot, km_snapshot_info *info)
{
    struct km_store *store = snapshot->store;
    km_snapshot_info filled = {0};

    if (km__store_is_forked(store))
        return KM_E_FORKED;
    if (info->struct_size < sizeof(*info))
        return KM_E_INVALID;
    filled.struct_size = info->struct_size;
    filled.position = snapshot->position;
    filled.taken_ms = snapshot->taken_ms;
    for (uint32_t id = 0; id < km__maps_id_count(store); id++) {
        const km_map *map = km__maps_by_id(store, (uint16_t)id);

        if (!map || !km__snapshot_has_map(snapshot, map))
            continue;
        filled.map_count++;
        filled.key_count += km__count_in_snapshot(snapshot, map);
        filled.live_bytes += km__weight_in_snapshot(snapshot, map);
    }
    km__mutex_lock(&store->snapshots.lock);
    filled.memory_bytes = km__views_bytes(store);
    km__mutex_unlock(&store->snapshots.lock);
    *info = filled;
    return KM_OK;
}

km_status km_snapshot_map_list(km_snapshot *snapshot,
                               int (*visit)(void *context, km_map *map, const km_map_info *info),
                               void *context)
{
    struct km_store *store = snapshot->store;

    if (km__store_is_forked(store))
        return KM_E_FORKED;
    for (uint32_t id = 0; id < km__maps_id_count(store); id++) { /* ids grow with time */
        km_map *map = km__maps_by_id(store, (uint16_t)id);
        km_map_info info;

        if (!map || !km__snapshot_has_map(snapshot, map))
            continue;
        info.name = km_bytes_of(map->name, map->name_size);
        info.kind = map->kind;
        info.count = km__count_in_snapshot(snapshot, map);
        if (visit(context, map, &info))
            return KM_STOPPED;
    }
    return KM_OK;
}

uint64_t km_snapshot_count(const km_snapshot *snapshot, const km_map *map)
{
    if (km__store_is_forked(snapshot->store) || map->store != snapshot->store)
        return 0;
    return km__count_in_snapshot(snapshot, map);
}

static km_status check_snapshot_read(const struct km_snapshot *snapshot, const km_map *map,
                                     km_bytes key)
{
    if (km__store_is_forked(snapshot->store))
        return KM_E_FORKED;
    if (km__store_broken(snapshot->store))
        return km__store_broken(snapshot->store);
    if (map->store != snapshot->store || !km__snapshot_has_map(snapshot, map) ||
        key.size > KM_KEY_SIZE_MAX || (!key.data && key.size))
        return KM_E_INVALID;
    return KM_OK;
}

km_status km_snapshot_get(km_snapshot *snapshot, km_map *map, km_bytes key, km_buffer *value,
                          km_key_info *out_info)
{
    struct km_store *store = snapshot->store;
    struct found found;
    uint64_t hash;
    km_status rc = check_snapshot_read(snapshot, map, key);

    if (rc)
        return rc;
    hash = km__hash_key(&store->secret, key.data, key.size);
    km__epoch_enter();
    rc = km__find_in_snapshot(snapshot, map, hash, key, &found);
    if (rc == KM_NOT_FOUND)
        rc = km__find_below(map, key, km__tables_of(map), &found); /* the snapshot keeps them */
    else if (!rc && km__is_expired(store, &found.record))
        rc = KM_NOT_FOUND;
    if (!rc)
        rc = km__copy_to_buffer(value, found.record.value, found.record.value_size);
    if (!rc && out_info)
        km__fill_info(store, found.ref, &found.record, out_info);
    km__epoch_leave();
    return rc;
}
