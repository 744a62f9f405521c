/* SPDX-License-Identifier: Apache-2.0
 *
 * store_follow.c -- a store opened for reading beside the process that writes it.
 *
 * The follower maps the same segments, has an index of its own, and applies what the writer appends
 * within some milliseconds. It holds a shared lock on a byte of LOCK that tells the writer to write
 * to the files without delay; the writer never waits for it.
 *
 * I1. Records are applied in log order by one thread, each under its key's lock, as a writer would.
 * I2. A segment is let go when the writer's MARKS has a later head, everything that was durable
 *     then is applied, and no node waits in an image: then no reference leads to it.
 * I3. What cannot be followed any more makes every read an error: never a silent standstill.
 */
#include "store/store_tables.h"

#define FOLLOW_LOCK_BYTE (OS_LOCK_SIZE + 4096u)
#define FOLLOW_LOCK_BYTES 4096u
#define FOLLOW_INTERVAL_NS UINT64_C(2000000)
#define FOLLOW_THOROUGH_ROUNDS 16u /* without anything new */
#define FOLLOW_MARKS_ROUNDS 32u
#define FOLLOW_LOST_NS UINT64_C(3000000000)
#define FOLLOW_PASSED_NS UINT64_C(300000000) /* the head is beyond, and nothing new is found */

/* ---- presence ---------------------------------------------------------------------------- */

km_status km__follow_announce(struct km_store *store)
{
    return store->os->ops->lock_range(store->lock_file, FOLLOW_LOCK_BYTE, OS_LOCK_SHARED);
}

int km__follow_is_watched(const struct km_store *store)
{
    return store->lock_file &&
           store->os->ops->is_range_locked(store->lock_file, FOLLOW_LOCK_BYTE, FOLLOW_LOCK_BYTES);
}

/* ---- applying ---------------------------------------------------------------------------- */

static km_status apply_created(struct km_store *store, const struct record *record,
                               const uint8_t *value, uint64_t position)
{
    struct map_birth birth = {record->map, (km_map_kind)value[0],
                              km_bytes_of(value + record->value_size, record->key_size), position};
    km_map *map;
    km_status rc;

    if (store->by_id[record->map])
        return KM_OK; /* the catalogue had it already */
    km__mutex_lock(&store->catalogue_lock);
    rc = km__maps_add(store, &birth, &map);
    km__mutex_unlock(&store->catalogue_lock);
    return rc;
}

static km_status apply_to_map(km_map *map, const struct record *record, uint64_t position)
{
    int is_drop = record->kind == RECORD_MAP_DROPPED;

    if (!is_drop && km__tables_of(map))
        return KM_E_TOO_OLD; /* I3: it has none any more */
    km__mutex_lock(&map->store->catalogue_lock);
    km__maps_lock_partitions(map);
    if (is_drop) /* release: pairs with check_readable() */
        atomic_store_explicit(&map->dropped, 1, memory_order_release);
    km__empty_map(map);
    km__maps_unlock_partitions(map);
    if (is_drop && !map->dropped_position) {
        map->dropped_position = position;
        km__maps_remove_name(map);
    }
    km__mutex_unlock(&map->store->catalogue_lock);
    return KM_OK;
}

static km_status apply_removed_range(km_map *map, uint64_t position)
{
    struct log_record record;
    struct key_range range;
    uint64_t count;
    km_status rc;

    if (!km__log_record_at(map->store->view, km__log_ref(position), &record) || !map->tree ||
        km__range_of_record(&record, &range))
        return KM_E_CORRUPT;
    if (km__tables_of(map))
        return KM_E_TOO_OLD; /* I3: it has none any more */
    km__maps_lock_partitions(map);
    rc = km__remove_range(map, &range, 0, 1, &count);
    km__maps_unlock_partitions(map);
    return rc;
}

/* Whether a record can only be of a map that has had its tables attached, or detached, since this
 * store was opened: then what is known here of the map is wrong (I3). */
static int is_of_other_tables(const km_map *map, const struct record *record, uint64_t hash,
                              km_bytes key)
{
    struct found before;

    if (!km__tables_of(map))
        return record->kind == RECORD_PUT && record->expiry == RECORD_EXPIRY_HIDES &&
               !(record->flags & RECORD_RELOCATED);
    return record->kind == RECORD_DELETE && km__find_in_map(map, hash, key, &before) == KM_OK &&
           km__is_hiding(&before.record);
}

static km_status apply_key(km_map *map, const struct log_item *item)
{
    const struct record *record = &item->record;
    const uint8_t *value = item->bytes + km__record_payload_offset(record->flags);
    km_bytes key = {value + record->value_size, record->key_size};
    uint64_t hash = km__hash_key(&map->store->secret, key.data, key.size);
    struct logged logged = {map, hash, km__log_ref(item->position),
                            km__record_size(record->flags, record->value_size, record->key_size),
                            record->kind};
    struct mutex *lock = km__hash_partition_lock(map->index, km__hash_partition(hash));
    km_status rc;

    km__mutex_lock(lock);
    rc = km__load_locked(map, hash);
    if (!rc && is_of_other_tables(map, record, hash, key))
        rc = KM_E_TOO_OLD;
    if (!rc)
        rc = km__apply_record(&logged);
    km__mutex_unlock(lock);
    if (rc != KM_WOULD_BLOCK)
        return rc;
    rc = km__mend_index(map->store); /* the log as far as it was read; then this record */
    return rc ? rc : apply_key(map, item);
}

static km_status apply_followed(void *context, const struct record *record, const uint8_t *bytes,
                                uint64_t position)
{
    struct km_store *store = context;
    struct log_item item = {*record, bytes, position, 0};
    const uint8_t *value = bytes + km__record_payload_offset(record->flags);
    km_map *map = store->by_id[record->map];
    km_status rc;

    if (record->kind == RECORD_MARK || record->kind == RECORD_PADDING)
        return KM_OK;
    if (record->kind == RECORD_MAP_CREATED)
        return apply_created(store, record, value, position);
    if (!map)
        return KM_E_CORRUPT;
    km__epoch_enter();
    if (record->kind == RECORD_PUT || record->kind == RECORD_DELETE)
        rc = apply_key(map, &item);
    else if (record->kind == RECORD_RANGE_DELETED)
        rc = apply_removed_range(map, position);
    else
        rc = apply_to_map(map, record, position);
    km__epoch_leave();
    return rc;
}

/* ---- rounds ------------------------------------------------------------------------------ */

/* See how far the writer is, and let go of what it has left behind. */
static km_status look_at_marks(struct km_store *store, uint64_t now_ns)
{
    struct follower *follower = &store->follower;
    uint64_t complete = km__log_complete(store->log), patience_ns = FOLLOW_LOST_NS;
    struct marks marks = {.head = UINT64_MAX}; /* gone, if MARKS can never be read again */
    int is_read = km__load_marks(store, &marks, NULL) == KM_OK;
    int is_behind = !is_read || !km__log_follow_has(store->log, marks.durable);

    if (!is_behind || complete != follower->seen_complete) {
        follower->seen_complete = complete;
        follower->seen_ns = now_ns;
    }
    if (!is_behind && !store->image.mapping)
        km__log_follow_head(store->log, km__position_number(marks.head), marks.durable);
    if (is_read && marks.head > complete)
        patience_ns = FOLLOW_PASSED_NS;
    if (!is_behind || now_ns - follower->seen_ns < patience_ns)
        return KM_OK;
    /* what is durable lies in the files: it is gone, or it is damaged */
    return marks.head > complete ? KM_E_TOO_OLD : KM_E_CORRUPT;
}

static void lose(struct km_store *store, km_status rc)
{
    /* pairs with km__store_broken() */
    atomic_store_explicit(&store->broken, rc, memory_order_release);
    if (store->options.log)
        store->options.log(store->options.log_context, KM_LOG_ERROR,
                           "the store cannot be followed any more: close it and open it again");
}

km_status km__follow_some(struct km_store *store, int *out_moved)
{
    struct follower *follower = &store->follower;
    uint64_t now_ns = store->os->ops->now_ns(store->os);
    int is_thorough = follower->idle_rounds >= FOLLOW_THOROUGH_ROUNDS;
    km_status rc = km__log_follow(store->log, apply_followed, store, is_thorough, out_moved);

    follower->idle_rounds = *out_moved || is_thorough ? 0 : follower->idle_rounds + 1;
    if (!rc && ++follower->rounds % FOLLOW_MARKS_ROUNDS == 0)
        rc = look_at_marks(store, now_ns);
    if (rc == KM_E_CORRUPT || rc == KM_E_TOO_OLD || rc == KM_E_VERSION)
        lose(store, rc); /* the others are tried again: what was visited twice does no harm */
    return rc;
}

static void run_follower(void *context)
{
    struct km_store *store = context;
    struct follower *follower = &store->follower;
    int moved;

    /* acquire: pairs with km__follower_stop() */
    while (!atomic_load_explicit(&follower->stopping, memory_order_acquire)) {
        uint32_t ticket = km__eventcount_prepare(&follower->event);

        moved = 0;
        if (km__store_broken(store) == KM_OK)
            km__ignore(km__follow_some(store, &moved), "told to every reader");
        if (moved || !km__image_load_some(store, 64)) {
            km__eventcount_cancel(&follower->event);
            continue;
        }
        if (follower->idle_rounds == 0)
            km__tidy_orders(store);
        km__eventcount_wait(&follower->event, ticket, FOLLOW_INTERVAL_NS);
    }
}

km_status km__follower_start(struct km_store *store)
{
    struct follower *follower = &store->follower;
    km_status rc = km__thread_start(&follower->thread, "km-follower", run_follower, store);

    follower->has_thread = rc == KM_OK;
    return rc;
}

void km__follower_stop(struct km_store *store)
{
    struct follower *follower = &store->follower;

    /* pairs with run_follower() */
    atomic_store_explicit(&follower->stopping, 1, memory_order_release);
    km__eventcount_notify(&follower->event);
    if (follower->has_thread)
        km__thread_join(&follower->thread);
    follower->has_thread = 0;
}
