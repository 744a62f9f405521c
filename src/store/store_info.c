/* SPDX-License-Identifier: Apache-2.0
 *
 * store_info.c -- durability calls and statistics.
 */
#include "store/store_tables.h"
#include "store/store_view.h"

km_status km_wait_durable(km_store *store, km_position position)
{
    uint64_t complete;

    if (km__store_is_forked(store))
        return KM_E_FORKED;
    complete = km__log_complete(store->log);
    if (position >= complete && position)
        return KM_E_INVALID;
    if (km__log_durable(store->log) > position && position)
        return KM_OK;
    if (km__epoch_ongoing())
        return KM_WOULD_BLOCK;
    return km__log_wait_durable(store->log, position ? position + 1 : complete);
}

km_position km_durable_position(const km_store *store)
{
    return km__store_is_forked(store) ? 0 : km__log_durable(store->log);
}

km_status km_durable_fd(km_store *store, int *out_fd)
{
    return km__store_is_forked(store) ? KM_E_FORKED : km__log_durable_fd(store->log, out_fd);
}

static void add_map_stats(struct km_store *store, km_stats *stats)
{
    for (uint32_t id = 0; id < km__maps_id_count(store); id++) {
        const km_map *map = km__maps_by_id(store, (uint16_t)id);

        if (!map || atomic_load_explicit(&map->dropped, memory_order_acquire))
            continue; /* pairs with mark_dropped() */
        stats->map_count++;
        stats->key_count += km__map_count(map);
        stats->index_bytes += km__map_index_bytes(map);
        stats->live_bytes += km__map_weight(map);
        km__tables_add_stats(map, stats);
    }
}

static void add_snapshot_stats(struct km_store *store, km_stats *stats)
{
    struct snapshots *snapshots = &store->snapshots;
    uint64_t now_ns = store->os->ops->now_ns(store->os);

    km__mutex_lock(&snapshots->lock);
    stats->snapshot_count = atomic_load_explicit(&snapshots->count, memory_order_relaxed);
    if (snapshots->oldest)
        stats->snapshot_age_ms = (now_ns - snapshots->oldest->taken_ns) / 1000000;
    stats->snapshot_bytes = km__views_bytes(store);
    km__mutex_unlock(&snapshots->lock);
    stats->expired_count = atomic_load_explicit(&store->expired_count, memory_order_relaxed);
}

static void add_log_stats(const struct log_stats *log, km_stats *stats)
{
    stats->log_bytes = log->log_bytes;
    stats->segment_count = log->segment_count;
    stats->disk_bytes = log->disk_bytes;
    stats->memory_bytes = log->memory_bytes;
    stats->mapped_bytes = log->mapped_bytes;
    stats->head = log->head;
    stats->tail = log->tail;
    stats->flushed = log->flushed;
    stats->durable = log->durable;
    stats->sync_count = log->sync_count;
    stats->wait_count = log->wait_count;
    stats->wait_longest_ns = log->wait_longest_ns;
    stats->pinned_bytes = log->pinned_bytes;
    stats->freed_segments = log->freed_segments;
}

/* relaxed throughout: figures, no data behind them */
static void add_upkeep_stats(struct km_store *store, km_stats *stats)
{
    uint64_t emptied;

    if (stats->log_bytes > stats->live_bytes)
        stats->dead_bytes = stats->log_bytes - stats->live_bytes;
    emptied = km__emptied_bytes(store);
    stats->emptied_bytes = emptied < stats->log_bytes ? emptied : stats->log_bytes;
    stats->compacted_bytes = atomic_load_explicit(&store->compactor.moved_bytes,
                                                  memory_order_relaxed);
    stats->image_count = atomic_load_explicit(&store->image.count, memory_order_relaxed);
    stats->image_bytes = atomic_load_explicit(&store->image.bytes, memory_order_relaxed);
    stats->disk_bytes += stats->image_bytes;
    stats->replay_bytes = store->dir ? km__replay_bytes(store) : 0;
    stats->scrubbed_bytes = atomic_load_explicit(&store->scrubbed_bytes, memory_order_relaxed);
    stats->is_follower = (uint64_t)store->is_follower;
    stats->damage_count = atomic_load_explicit(&store->damage_count, memory_order_relaxed);
}

km_status km_store_stats(km_store *store, km_stats *stats)
{
    struct log_stats log;
    km_stats all = {0};

    if (km__store_is_forked(store))
        return KM_E_FORKED;
    if (stats->struct_size < sizeof(stats->struct_size) || stats->struct_size > 4096)
        return KM_E_INVALID;
    km__log_stats(store->log, &log);
    all.struct_size = stats->struct_size;
    add_map_stats(store, &all);
    add_log_stats(&log, &all);
    add_upkeep_stats(store, &all);
    add_snapshot_stats(store, &all);
    all.recovered_records = store->recovered_records;
    all.recovered_ns = store->recovered_ns;
    all.torn_bytes = store->torn_bytes;
    all.failed = km__log_writable(store->log) == KM_E_FAILED;
    memcpy(stats, &all, stats->struct_size < sizeof(all) ? stats->struct_size : sizeof(all));
    return KM_OK;
}
