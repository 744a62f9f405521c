/* SPDX-License-Identifier: Apache-2.0
 *
 * store_expire.c -- delete keys that have expired.
 *
 * To everybody else an expired key is not there from the moment on when it expires. Here its record
 * and its entry in the index go, a little at a time: compaction deletes what has expired instead of
 * moving it, and the keeper's thread goes round the maps in which a key with an expiry was ever
 * seen.
 *
 * I1. An expired key is deleted by a logged delete of the very version that was found expired: a
 *     put that comes between is left alone, followers and watches learn of it, and it stays deleted
 *     whatever the clock says after a restart.
 * I2. Nothing is waited for, here: where a delete would have to wait it is left for the next round.
 */
#include "store/store_tables.h"

#define EXPIRE_ENTRIES 4096u /* looked at in one call, about */
#define EXPIRE_SLICE_NS UINT64_C(500000)
#define EXPIRE_REST 32u /* times what a call took: records may not be in memory */
#define EXPIRE_ROUND_NS UINT64_C(1000000000) /* from the begin of one round to that of the next */
#define EXPIRE_GROUP 64u
#define EXPIRE_RECORD_SIZE 4096u /* of a delete, about: to be waited for */
#define EXPIRE_REFS (HASH_NODE_LINES_MAX * 8u)

_Static_assert(EXPIRE_REFS >= SORTED_LEAF_ENTRIES, "a leaf fits");

km_status km__expire_key(km_map *map, km_bytes key, uint64_t version)
{
    km_bytes none = {NULL, 0};
    km_write write = KM_WRITE_INIT;
    struct change change;
    km_status rc;

    write.durability = KM_DURABLE_PROCESS; /* nobody waits for it */
    km__change_init(&change, map, RECORD_DELETE, key, none);
    change.condition = KM_IF_VERSION;
    change.expected = version;
    change.is_of_expired = 1;
    rc = km__change_key(&change, &write);
    if (!rc) /* relaxed: a figure */
        atomic_fetch_add_explicit(&map->store->expired_count, 1, memory_order_relaxed);
    return rc;
}

/* ---- a node or leaf ---------------------------------------------------------------------- */

struct expire_portion {
    uint64_t refs[EXPIRE_REFS];
    size_t count;
    int is_end; /* of the map */
};

static km_status read_portion(struct expire_place *place, km_map *map,
                              struct expire_portion *portion)
{
    struct sorted_image_leaf leaf;
    km_bytes fence;
    km_status rc;

    portion->count = 0;
    portion->is_end = 0;
    if (!map->tree)
        return km__hash_walk_next(map->index, &place->walk, portion->refs, &portion->count,
                                  &portion->is_end);
    rc = km__sorted_export_next(map->tree, &place->leaves, &leaf, &fence, &portion->is_end);
    if (rc || portion->is_end)
        return rc;
    portion->count = leaf.count;
    memcpy(portion->refs, leaf.refs, leaf.count * sizeof(*leaf.refs));
    return KM_OK;
}

/* KM_WOULD_BLOCK: a delete would have to wait. */
static km_status expire_ref(km_map *map, uint64_t ref)
{
    struct km_store *store = map->store;
    struct log_record record;
    km_status rc;

    if (ref >= LOG_PLACEHOLDER_BASE || !km__log_record_at(store->view, ref, &record) ||
        !(record.flags & RECORD_HAS_EXPIRY) || km__record_of(store, ref, &record) ||
        !km__is_expired(store, &record))
        return KM_OK; /* damage is for those who want the record */
    if (km__is_hiding(&record) && km__hides_stay(map))
        return KM_OK;
    rc = km__expire_key(map, km_bytes_of(record.key, record.key_size),
                        km__version_of(store->view, ref, &record));
    return rc == KM_WOULD_BLOCK || rc < 0 ? rc : KM_OK;
}

/* The references stay good: the log is pinned. Inside epochs, so that nothing waits: I2. */
static km_status expire_portion(km_map *map, const struct expire_portion *portion)
{
    const struct log_view *view = map->store->view;
    km_status rc = KM_OK;

    for (size_t begin = 0; !rc && begin < portion->count; begin += EXPIRE_GROUP) {
        size_t end = begin + EXPIRE_GROUP < portion->count ? begin + EXPIRE_GROUP : portion->count;

        km__epoch_enter();
        for (size_t i = begin; i < end; i++)
            km__log_prefetch(view, portion->refs[i]);
        for (size_t i = begin; !rc && i < end; i++)
            rc = expire_ref(map, portion->refs[i]);
        km__epoch_leave();
    }
    return rc;
}

km_status km__expire_map(km_map *map)
{
    struct km_store *store = map->store;
    struct expire_portion *portion = km__allocate(store->allocator, sizeof(*portion));
    struct expire_place place = {0};
    struct log_pin pin;
    km_status rc = portion ? KM_OK : KM_E_NO_MEMORY;

    km__log_pin(store->log, &pin);
    while (!rc && !portion->is_end) { /* ends: it goes on through the map */
        km__epoch_enter();
        rc = read_portion(&place, map, portion);
        km__epoch_leave();
        while (!rc && (rc = expire_portion(map, portion)) == KM_WOULD_BLOCK)
            rc = km__wait_room(store, EXPIRE_RECORD_SIZE, LOG_CLASS_DELETE);
    }
    if (map->tree)
        km__sorted_walk_fini(map->tree, &place.leaves);
    km__log_unpin(store->log, &pin);
    km__release(store->allocator, portion, sizeof(*portion));
    return rc;
}

/* ---- rounds ------------------------------------------------------------------------------ */

static int has_expiring(const km_map *map)
{
    /* relaxed, both: what is missed now is seen in the next round */
    return map && atomic_load_explicit(&map->has_expiry, memory_order_relaxed) &&
           !atomic_load_explicit(&map->dropped, memory_order_relaxed);
}

static void leave_map(struct km_store *store)
{
    struct expire_place *place = &store->expire_place;
    km_map *map = km__maps_by_id(store, (uint16_t)place->map_id);

    if (map && map->tree)
        km__sorted_walk_fini(map->tree, &place->leaves);
    memset(&place->walk, 0, sizeof(place->walk));
    place->map_id++;
}

/* The map to go on with; NULL: the round is over. */
static km_map *find_expiring(struct km_store *store)
{
    struct expire_place *place = &store->expire_place;

    while (place->map_id < km__maps_id_count(store)) { /* ends: it grows */
        km_map *map = km__maps_by_id(store, (uint16_t)place->map_id);

        if (has_expiring(map))
            return map;
        leave_map(store);
    }
    return NULL;
}

static km_status expire_next(struct km_store *store, km_map *map, struct expire_portion *portion)
{
    struct log_pin pin;
    km_status rc;

    km__log_pin(store->log, &pin);
    km__epoch_enter();
    rc = read_portion(&store->expire_place, map, portion);
    km__epoch_leave();
    if (rc || portion->is_end)
        leave_map(store);
    if (!rc)
        rc = expire_portion(map, portion);
    km__log_unpin(store->log, &pin);
    return rc;
}

/* Until the slice is over, the round, or a delete would have to wait. */
static void expire_slice(struct km_store *store, uint64_t begin_ns)
{
    const struct os_ops *ops = store->os->ops;
    struct expire_portion *portion = NULL;
    uint64_t looked_at = 0;
    km_status rc = KM_OK;

    while (!rc && looked_at < EXPIRE_ENTRIES &&
           ops->now_ns(store->os) - begin_ns < EXPIRE_SLICE_NS) { /* ends: it looks on */
        km_map *map = find_expiring(store);

        if (!map) {
            store->expire_place.has_begun = 0;
            break;
        }
        if (!portion)
            portion = km__allocate(store->allocator, sizeof(*portion));
        if (!portion)
            return;
        rc = expire_next(store, map, portion);
        looked_at += portion->count + 1;
    }
    km__release(store->allocator, portion, sizeof(*portion));
}

void km__expire_some(struct km_store *store)
{
    struct expire_place *place = &store->expire_place;
    uint64_t begin_ns = store->os->ops->now_ns(store->os), end_ns;

    if (km__check_writable(store) || begin_ns < place->not_before_ns)
        return;
    if (!place->has_begun) {
        place->has_begun = 1;
        place->map_id = 0;
        place->begun_ns = begin_ns;
    }
    expire_slice(store, begin_ns);
    end_ns = store->os->ops->now_ns(store->os);
    place->not_before_ns = end_ns + EXPIRE_REST * (end_ns - begin_ns);
    if (!place->has_begun && place->not_before_ns < place->begun_ns + EXPIRE_ROUND_NS)
        place->not_before_ns = place->begun_ns + EXPIRE_ROUND_NS;
}

void km__expire_fini(struct km_store *store)
{
    if (store->by_id)
        leave_map(store);
}
