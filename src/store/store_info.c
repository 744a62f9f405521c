/* SPDX-License-Identifier: Apache-2.0
 *
 * store_info.c -- durability calls and statistics.
 */
#include "store/store_internal.h"

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
        stats->key_count += km__hash_count(map->index);
        stats->index_bytes += km__hash_bytes(map->index);
        for (uint32_t i = 0; i < HASH_PARTITION_COUNT; i++)
            stats->live_bytes += atomic_load_explicit(&map->live_bytes[i], memory_order_relaxed);
    }
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
    all.log_bytes = log.log_bytes;
    all.segment_count = log.segment_count;
    all.disk_bytes = log.disk_bytes;
    all.memory_bytes = log.memory_bytes;
    all.mapped_bytes = log.mapped_bytes;
    all.head = log.head;
    all.tail = log.tail;
    all.flushed = log.flushed;
    all.durable = log.durable;
    all.sync_count = log.sync_count;
    all.wait_count = log.wait_count;
    all.wait_longest_ns = log.wait_longest_ns;
    all.recovered_records = store->recovered_records;
    all.recovered_ns = store->recovered_ns;
    all.torn_bytes = store->torn_bytes;
    all.failed = km__log_writable(store->log) == KM_E_FAILED;
    memcpy(stats, &all, stats->struct_size < sizeof(all) ? stats->struct_size : sizeof(all));
    return KM_OK;
}
