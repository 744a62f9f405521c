/* SPDX-License-Identifier: Apache-2.0
 *
 * store_change.c -- put and del: one change, one record.
 *
 * The order inside the partition's lock: find, make room in the index, take room in the log, write
 * the record, point the index at it. So for each key the order of records is the order in which
 * they became visible; and nothing after the taking of room can fail or wait.
 */
#include "store/store_internal.h"

/* ---- shared with batches ----------------------------------------------------------------- */

km_status km__check_sizes(km_bytes key, km_bytes value)
{
    if ((!key.data && key.size) || (!value.data && value.size))
        return KM_E_INVALID;
    return key.size > KM_KEY_SIZE_MAX || value.size > KM_VALUE_SIZE_MAX ? KM_E_TOO_BIG : KM_OK;
}

km_status km__check_writable(const struct km_store *store)
{
    if (km__store_broken(store))
        return km__store_broken(store);
    return km__store_is_forked(store) ? KM_E_FORKED : km__log_writable(store->log);
}

km_durability km__effective_durability(const struct km_store *store, const km_write *write)
{
    return write && write->durability ? write->durability : store->durability;
}

void km__change_init(struct change *change, km_map *map, uint8_t kind, km_bytes key, km_bytes value)
{
    change->map = map;
    change->kind = kind;
    change->key = key.data;
    change->key_size = (uint16_t)key.size;
    change->value = value.data;
    change->value_size = (uint32_t)value.size;
    change->hash = km__hash_key(&map->store->secret, key.data, key.size);
    change->log_size = km__record_size(0, change->value_size, change->key_size);
    change->payload_crc = 0;
    change->has_placeholder = 0;
    change->is_superseded = 0;
}

void km__change_sum(struct change *change)
{
    change->payload_crc = km__record_payload_crc(change->value, change->value_size, change->key,
                                                 change->key_size);
}

uint64_t km__write_change(struct km_store *store, const struct log_space *space, uint64_t offset,
                          const struct change *change, uint8_t flags)
{
    struct log_payload payload = {change->value, change->key, change->payload_crc};
    struct record record = {0};

    record.kind = change->kind;
    record.flags = flags;
    record.map = change->map->id;
    record.key_size = change->key_size;
    record.value_size = change->value_size;
    return km__log_write_record(store->log, space, offset, &record, &payload);
}

static uint64_t log_size_of(const struct log_record *record)
{
    return km__record_size(record->flags, record->value_size, record->key_size);
}

void km__note_found(struct change *change, const struct found *found)
{
    change->old_ref = found->ref;
    change->old_size = found->ref ? log_size_of(&found->record) : 0;
}

void km__publish_change(const struct change *change, uint64_t placeholder, uint64_t position)
{
    struct hash_index *index = change->map->index;
    uint64_t old_ref = change->old_ref;

    if (change->kind == RECORD_PUT) {
        km__hash_replace(index, change->hash, old_ref ? old_ref : placeholder,
                         km__log_ref(position), (int64_t)(change->log_size - change->old_size));
    } else if (old_ref) {
        km__hash_remove(index, change->hash, old_ref, change->old_size);
    }
}

/* ---- room -------------------------------------------------------------------------------- */

km_status km__wait_room(struct km_store *store, uint64_t size, enum log_class class)
{
    km_status rc = KM_OK;

    /* relaxed: who sees it late finds the damage by itself */
    if (KM_UNLIKELY(atomic_load_explicit(&store->image.is_damaged, memory_order_relaxed)))
        km__ignore(km__mend_index(store), "who touches a damaged node gets the error");
    if (!rc)
        rc = km__log_wait_space(store->log, size, class);
    if (rc == KM_E_FULL)
        rc = km__compact_for_room(store);
    return rc;
}

/* ---- one change -------------------------------------------------------------------------- */

struct single {
    struct change change;
    struct log_space space;
    struct found found;
    km_buffer *previous;
};

/* With the partition locked: everything that can fail. */
static km_status prepare_single(struct km_store *store, struct single *single)
{
    struct change *change = &single->change;
    km_bytes key = {change->key, change->key_size};
    km_status rc;

    if (atomic_load_explicit(&change->map->dropped, memory_order_relaxed))
        return KM_E_DROPPED; /* relaxed: set under this lock */
    rc = km__load_locked(change->map, change->hash);
    if (rc)
        return rc;
    rc = km__find(store, change->map->index, change->hash, key, &single->found);
    if (rc && (rc != KM_NOT_FOUND || change->kind == RECORD_DELETE))
        return rc;
    km__note_found(change, &single->found);
    if (rc == KM_OK && single->previous)
        rc = km__buffer_reserve(single->previous, single->found.record.value_size);
    else if (rc == KM_NOT_FOUND)
        rc = km__hash_reserve(change->map->index, change->hash, km__placeholder(0), &store->source);
    if (rc)
        return rc;
    rc = km__log_reserve(store->log, change->log_size,
                         change->kind == RECORD_DELETE ? LOG_CLASS_DELETE : LOG_CLASS_PUT,
                         &single->space);
    if (rc && !single->found.ref)
        km__hash_remove(change->map->index, change->hash, km__placeholder(0), 0);
    return rc;
}

static void copy_previous(const struct single *single)
{
    if (!single->previous)
        return;
    single->previous->size = single->found.ref ? single->found.record.value_size : 0;
    if (single->previous->size)
        memcpy(single->previous->data, single->found.record.value, single->previous->size);
}

static km_status try_single(struct km_store *store, struct single *single)
{
    struct change *change = &single->change;
    struct mutex *lock = km__hash_partition_lock(change->map->index,
                                                 km__hash_partition(change->hash));
    km_status rc;

    km__epoch_enter();
    km__hash_prefetch(change->map->index, change->hash);
    km__change_sum(change); /* while the line of the index is on its way */
    km__mutex_lock(lock);
    rc = prepare_single(store, single);
    if (!rc) {
        km__write_change(store, &single->space, 0, change, 0);
        km__publish_change(change, km__placeholder(0), single->space.position);
    }
    km__mutex_unlock(lock);
    if (!rc) {
        km__log_finish(store->log, &single->space);
        copy_previous(single); /* still inside the epoch: the old record stays where it is */
    }
    km__epoch_leave();
    return rc;
}

static KM_NOINLINE km_status change_large(struct km_store *store, struct single *single)
{
    uint64_t position = 0;
    int existed = 0;
    km_status rc;

    if (single->change.kind == RECORD_DELETE) {
        km_bytes key = {single->change.key, single->change.key_size};

        rc = km_contains(single->change.map, key);
        if (rc)
            return rc; /* not there: no need to make a segment for it */
    }
    if (km__epoch_ongoing())
        return KM_WOULD_BLOCK; /* it writes to its file first */
    km__change_sum(&single->change);
    rc = km__commit_unit(store, &single->change, 1, single->previous, &existed, &position);
    single->found.ref = (uint64_t)existed;
    single->space.position = position;
    return rc;
}

static km_status change_single(struct km_store *store, struct single *single)
{
    uint64_t size = single->change.log_size;
    enum log_class class = single->change.kind == RECORD_DELETE ? LOG_CLASS_DELETE : LOG_CLASS_PUT;
    km_status rc;

    for (;;) { /* ends when there is room, or none to be had */
        if (km__log_is_large(store->log, size))
            return change_large(store, single);
        rc = try_single(store, single);
        if (KM_LIKELY(rc != KM_WOULD_BLOCK) || km__epoch_ongoing())
            return rc;
        rc = km__wait_room(store, size, class);
        if (rc)
            return rc;
    }
}

/* The previous value is put into a buffer while value and key are still needed. */
static int overlaps(const km_buffer *buffer, km_bytes bytes)
{
    uintptr_t begin = (uintptr_t)buffer->data, from = (uintptr_t)bytes.data;

    return bytes.size && buffer->capacity && from < begin + buffer->capacity &&
           begin < from + bytes.size;
}

km_status km__check_write(const km_write *write, km_bytes key, km_bytes value)
{
    if (!write)
        return KM_OK;
    if (write->struct_size < sizeof(km_write) || (int)write->durability < KM_DURABLE_DEFAULT ||
        write->durability > KM_DURABLE_POWER)
        return KM_E_INVALID;
    if (write->previous && (overlaps(write->previous, key) || overlaps(write->previous, value)))
        return KM_E_INVALID;
    return KM_OK;
}

static km_status change_key(km_map *map, uint8_t kind, km_bytes key, km_bytes value,
                            km_write *write)
{
    struct km_store *store = map->store;
    struct single single;
    km_durability durability;
    km_status rc = km__check_sizes(key, value);

    if (!rc)
        rc = km__check_write(write, key, value);
    if (!rc)
        rc = km__check_writable(store);
    if (rc)
        return rc;
    durability = km__effective_durability(store, write);
    if (durability == KM_DURABLE_POWER && km__epoch_ongoing())
        return KM_WOULD_BLOCK;
    km__change_init(&single.change, map, kind, key, value);
    single.previous = write ? write->previous : NULL;
    rc = change_single(store, &single);
    if (!rc && durability == KM_DURABLE_POWER)
        rc = km__log_wait_durable(store->log, single.space.position + 1);
    if (!rc && write) {
        write->existed = single.found.ref != 0;
        write->position = single.space.position;
    }
    return rc;
}

km_status km_put(km_map *map, km_bytes key, km_bytes value, km_write *write)
{
    return change_key(map, RECORD_PUT, key, value, write);
}

km_status km_del(km_map *map, km_bytes key, km_write *write)
{
    km_bytes none = {NULL, 0};

    return change_key(map, RECORD_DELETE, key, none, write);
}
