/* SPDX-License-Identifier: Apache-2.0
 *
 * harness_check.c -- what must hold inside an open store, beside what its functions say.
 */
#include "harness/harness_check.h"

#include <stdio.h>
#include <stdlib.h>

#include "store/store_internal.h"

struct sums {
    uint64_t count, bytes;
};

static int bad_map(const km_map *map, const char *what)
{
    printf("map %u: %s\n", map->id, what);
    return -1;
}

/* A record that the index leads to: whole, and found again by its key. */
static int check_ref(km_map *map, uint64_t ref, struct sums *sums)
{
    const struct km_store *store = map->store;
    struct log_record record;
    struct found found;
    uint64_t hash;

    if (ref >= LOG_PLACEHOLDER_BASE)
        return bad_map(map, "a placeholder is left in its index");
    if (!km__log_record_at(store->view, ref, &record) ||
        !km__log_record_verify(store->view, ref, &record))
        return bad_map(map, "its index leads to a record that is damaged");
    hash = km__hash_key(&store->secret, record.key, record.key_size);
    if (km__find(store, map->index, hash, km_bytes_of(record.key, record.key_size), &found) ||
        found.ref != ref)
        return bad_map(map, "a record's key leads to another record");
    sums->count++;
    sums->bytes += km__record_size(record.flags, record.value_size, record.key_size);
    return 0;
}

static int walk_map(km_map *map, uint64_t *refs, struct sums *sums)
{
    struct hash_walk walk = {0};
    int is_end = 0, failed = 0;

    while (!failed && !is_end) {
        size_t count = 0;

        km__epoch_enter();
        if (km__hash_walk_next(map->index, &walk, refs, &count, &is_end))
            failed = bad_map(map, "its index cannot be walked");
        for (size_t i = 0; !failed && i < count; i++)
            failed = check_ref(map, refs[i], sums);
        km__epoch_leave();
    }
    return failed;
}

static int check_map(km_map *map, uint64_t *refs)
{
    struct sums sums = {0, 0};
    int rule;

    if (walk_map(map, refs, &sums))
        return -1;
    rule = km__hash_index_check(map->index, &map->store->source);
    if (rule) {
        printf("map %u: rule %d of its index does not hold\n", map->id, rule);
        return -1;
    }
    if (sums.count != km__hash_count(map->index))
        return bad_map(map, "its count is wrong");
    if (sums.bytes == km__hash_weight(map->index))
        return 0;
    printf("map %u: %llu live bytes, told are %llu\n", map->id, (unsigned long long)sums.bytes,
           (unsigned long long)km__hash_weight(map->index));
    return -1;
}

int harness_check_store(km_store *store)
{
    uint64_t *refs = malloc(HASH_NODE_LINES_MAX * 8 * sizeof(*refs));
    km_stats stats = {.struct_size = sizeof(stats)};
    int failed = 0;

    for (uint32_t id = 0; !failed && id < km__maps_id_count(store); id++) {
        km_map *map = km__maps_by_id(store, (uint16_t)id);

        if (map)
            failed = check_map(map, refs);
    }
    free(refs);
    if (failed || km_store_stats(store, &stats))
        return -1;
    if (stats.live_bytes <= stats.log_bytes && stats.head <= stats.tail &&
        stats.durable <= stats.tail)
        return 0;
    printf("the log: %llu bytes, %llu live, from %llx to %llx\n",
           (unsigned long long)stats.log_bytes, (unsigned long long)stats.live_bytes,
           (unsigned long long)stats.head, (unsigned long long)stats.tail);
    return -1;
}
