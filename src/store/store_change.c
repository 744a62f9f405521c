/* SPDX-License-Identifier: Apache-2.0
 *
 * store_change.c -- put and del: one change, one record.
 *
 * The order inside the partition's lock: find, make room in the index, take room in the log, write
 * the record, point the index at it. So for each key the order of records is the order in which
 * they became visible; and nothing after the taking of room can fail or wait.
 */
#include "store/store_tables.h"

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
    static const struct change empty;

    *change = empty;
    change->map = map;
    change->kind = kind;
    change->flags = map->order && kind == RECORD_PUT ? RECORD_HAS_ORDINAL : 0;
    change->key = key.data;
    change->key_size = (uint16_t)key.size;
    change->value = value.data;
    change->value_size = (uint32_t)value.size;
    change->is_lone = 1;
    change->hash = km__hash_key(&map->store->secret, key.data, key.size);
    change->log_size = km__record_size(change->flags, change->value_size, change->key_size);
}

void km__change_expire(struct change *change, uint64_t expiry)
{
    change->expiry = expiry;
    change->flags = (uint8_t)(expiry ? change->flags | RECORD_HAS_EXPIRY
                                     : change->flags & ~RECORD_HAS_EXPIRY);
    change->log_size = km__record_size(change->flags, change->value_size, change->key_size);
}

uint64_t km__expiry_after(const struct km_store *store, uint64_t ttl_ms)
{
    uint64_t now_ms = ttl_ms ? km__store_clock(store) : 0;

    return now_ms + ttl_ms < now_ms ? UINT64_MAX : now_ms + ttl_ms;
}

void km__change_sum(struct change *change)
{
    change->payload_crc = km__record_payload_crc(change->value, change->value_size, change->key,
                                                 change->key_size);
}

uint64_t km__write_change(struct km_store *store, const struct log_space *space, uint64_t offset,
                          struct change *change, uint8_t flags)
{
    struct log_payload payload = {change->value, change->key, change->payload_crc};
    struct record record = {0};

    if (change->has_order_room) {
        change->ordinal = km__order_take(change->map->order);
        change->has_order_room = 0;
    }
    record.kind = change->kind;
    record.flags = (uint8_t)(change->flags | flags);
    record.map = change->map->id;
    record.key_size = change->key_size;
    record.value_size = change->value_size;
    record.ordinal = change->ordinal;
    record.expiry = change->expiry;
    return km__log_write_record(store->log, space, offset, &record, &payload);
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
    struct change *change;
    struct log_space space;
    struct found found;
    km_buffer *previous;
};

static enum log_class class_of(const struct change *change)
{
    return change->kind == RECORD_DELETE || change->is_hiding ? LOG_CLASS_DELETE : LOG_CLASS_PUT;
}

/* With the partition locked: everything that can fail. */
static km_status prepare_single(struct km_store *store, struct single *single)
{
    struct change *change = single->change;
    km_status rc = km__prepare_change(change, km__placeholder(0), &store->source, &single->found);

    if (rc)
        return rc;
    if (single->previous && change->existed)
        rc = km__buffer_reserve(single->previous, single->found.record.value_size);
    if (!rc)
        rc = km__log_reserve(store->log, change->log_size, class_of(change), &single->space);
    if (rc)
        km__unprepare_change(change, km__placeholder(0));
    return rc;
}

/* Still inside the epoch: the old record stays where it is. After KM_OK there is room already. */
static km_status copy_previous(const struct single *single)
{
    const struct log_record *record = &single->found.record;

    if (!single->change->existed)
        return km__copy_to_buffer(single->previous, NULL, 0);
    return km__copy_to_buffer(single->previous, record->value, record->value_size);
}

static km_status try_single(struct km_store *store, struct single *single)
{
    struct change *change = single->change;
    struct mutex *lock = km__hash_partition_lock(change->map->index,
                                                 km__hash_partition(change->hash));
    int may_wait = !km__epoch_ongoing();
    uint32_t slot;
    km_status rc, copied;

    km__epoch_enter();
    if (change->map->tree)
        km__sorted_prefetch(change->map->tree, km_bytes_of(change->key, change->key_size));
    else
        km__hash_prefetch(change->map->index, change->hash);
    km__change_sum(change); /* while the line of the index is on its way */
    if (KM_LIKELY(may_wait)) {
        km__mutex_lock(lock);
    } else if (!km__mutex_try_lock_for_long(lock)) {
        km__epoch_leave();
        return KM_WOULD_BLOCK; /* a large record of the partition is getting its name */
    }
    slot = km__gate_enter(&store->snapshots.gate);
    rc = prepare_single(store, single);
    if (!rc) {
        km__write_change(store, &single->space, 0, change, 0);
        km__publish_change(change, km__placeholder(0), single->space.position);
    }
    km__gate_leave(&store->snapshots.gate, slot);
    km__mutex_unlock(lock);
    if (!rc)
        km__log_finish(store->log, &single->space);
    if (single->previous && (rc == KM_OK || rc == KM_EXISTS)) {
        copied = copy_previous(single);
        rc = copied ? copied : rc;
    }
    km__epoch_leave();
    return rc;
}

static KM_NOINLINE km_status change_large(struct km_store *store, struct single *single)
{
    struct change *change = single->change;
    km_status rc;

    if (change->kind == RECORD_DELETE && !change->is_of_expired && change->condition == KM_IF_ANY) {
        rc = km_contains(change->map, km_bytes_of(change->key, change->key_size));
        if (rc)
            return rc; /* not there: no need to make a segment for it */
    }
    if (km__epoch_ongoing())
        return KM_WOULD_BLOCK; /* it writes to its file first */
    km__change_sum(change);
    return km__commit_unit(store, change, 1, single->previous, &single->space.position);
}

static km_status change_single(struct km_store *store, struct single *single)
{
    struct change *change = single->change;
    km_status rc;

    for (;;) { /* ends when there is room, or none to be had */
        rc = km__tables_look(change);
        if (rc)
            return rc;
        if (km__log_is_large(store->log, change->log_size))
            return change_large(store, single);
        rc = try_single(store, single);
        if (KM_LIKELY(rc != KM_WOULD_BLOCK) || km__epoch_ongoing())
            return rc;
        rc = km__wait_room(store, change->log_size, class_of(change));
        if (rc)
            return rc;
    }
}

/* ---- what callers pass ------------------------------------------------------------------- */

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
        write->durability > KM_DURABLE_POWER || (int)write->condition < KM_IF_ANY ||
        write->condition > KM_IF_VERSION)
        return KM_E_INVALID;
    if (write->previous && (overlaps(write->previous, key) || overlaps(write->previous, value)))
        return KM_E_INVALID;
    return KM_OK;
}

km_status km__check_key_change(const km_map *map, km_bytes key, km_bytes value,
                               const km_write *write)
{
    km_status rc = km__check_sizes(key, value);

    if (!rc)
        rc = km__check_write(write, key, value);
    return rc ? rc : km__check_writable(map->store);
}

km_status km__change_key(struct change *change, km_write *write)
{
    struct km_store *store = change->map->store;
    km_durability durability = km__effective_durability(store, write);
    struct single single = {.change = change, .previous = write ? write->previous : NULL};
    km_status rc;

    if (durability == KM_DURABLE_POWER && km__epoch_ongoing())
        return KM_WOULD_BLOCK;
    rc = change_single(store, &single);
    if (!rc && durability == KM_DURABLE_POWER)
        rc = km__log_wait_durable(store->log, single.space.position + 1);
    if (!rc && write) {
        write->existed = change->existed;
        write->position = single.space.position;
    }
    return rc;
}

km_status km__put_if(km_map *map, km_bytes key, km_bytes value, km_condition condition,
                     km_position expected, km_write *write)
{
    struct change change;
    km_status rc = km__check_key_change(map, key, value, write);

    if (rc)
        return rc;
    km__change_init(&change, map, RECORD_PUT, key, value);
    change.condition = condition;
    change.expected = expected;
    if (KM_UNLIKELY(write && write->ttl_ms))
        km__change_expire(&change, km__expiry_after(map->store, write->ttl_ms));
    return km__change_key(&change, write);
}

km_status km_put(km_map *map, km_bytes key, km_bytes value, km_write *write)
{
    return km__put_if(map, key, value, write ? write->condition : KM_IF_ANY,
                      write ? write->expected : 0, write);
}

km_status km_del(km_map *map, km_bytes key, km_write *write)
{
    km_bytes none = {NULL, 0};
    struct change change;
    km_status rc = km__check_key_change(map, key, none, write);

    if (rc)
        return rc;
    km__change_init(&change, map, RECORD_DELETE, key, none);
    if (write) {
        change.condition = write->condition;
        change.expected = write->expected;
    }
    return km__change_key(&change, write);
}
