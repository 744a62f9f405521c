/* SPDX-License-Identifier: Apache-2.0
 *
 * store_batch.c -- collect changes, commit them as one unit.
 *
 * Keys and values are copied one after the other into one block of memory; changes refer to them
 * by offset until commit, since the block moves when it grows.
 */
#include "store/store_internal.h"

struct batch_entry {
    km_map *map;
    uint8_t kind; /* as that of a struct change */
    uint16_t key_size;
    uint32_t value_size;
    size_t offset;   /* of the key in data; the value follows */
    uint64_t number; /* of a put its expiry, of an expectation the version */
};

struct km_batch {
    struct km_store *store;
    struct batch_entry *entries;
    size_t count, capacity;
    uint8_t *data;
    size_t data_size, data_capacity;
    uint64_t log_size;
};

km_status km_batch_create(km_store *store, km_batch **out_batch)
{
    km_batch *batch;
    km_status rc;

    if (km__store_is_forked(store))
        return KM_E_FORKED;
    rc = km__log_writable(store->log);
    if (rc == KM_E_READ_ONLY)
        return rc;
    batch = km__allocate(store->allocator, sizeof(*batch));
    if (!batch)
        return KM_E_NO_MEMORY;
    batch->store = store;
    *out_batch = batch;
    return KM_OK;
}

static km_status grow(const struct allocator *allocator, void **memory, size_t *capacity,
                      size_t used, size_t wanted, size_t item_size)
{
    size_t larger = *capacity ? *capacity : 64;
    void *moved;

    if (wanted <= *capacity)
        return KM_OK;
    while (larger < wanted)
        larger *= 2; /* ends: batches are limited in size */
    moved = km__allocate(allocator, larger * item_size);
    if (!moved)
        return KM_E_NO_MEMORY;
    if (used)
        memcpy(moved, *memory, used * item_size);
    km__release(allocator, *memory, *capacity * item_size);
    *memory = moved;
    *capacity = larger;
    return KM_OK;
}

static km_status make_space(km_batch *batch, size_t bytes)
{
    const struct allocator *allocator = batch->store->allocator;
    void *entries = batch->entries, *data = batch->data;
    km_status rc;

    rc = grow(allocator, &entries, &batch->capacity, batch->count, batch->count + 1,
              sizeof(*batch->entries));
    batch->entries = entries;
    if (rc)
        return rc;
    rc = grow(allocator, &data, &batch->data_capacity, batch->data_size, batch->data_size + bytes,
              1);
    batch->data = data;
    return rc;
}

/* Bytes that an entry adds to the log. */
static uint64_t log_size_of_entry(const struct batch_entry *entry)
{
    int is_put = entry->kind == RECORD_PUT;
    uint8_t flags = (uint8_t)((is_put && entry->map->order ? RECORD_HAS_ORDINAL : 0) |
                              (is_put && entry->number ? RECORD_HAS_EXPIRY : 0));

    return entry->kind == CHANGE_EXPECT
               ? 0
               : km__record_size(flags, entry->value_size, entry->key_size);
}

static km_status add(km_batch *batch, const struct batch_entry *entry, km_bytes key, km_bytes value)
{
    uint64_t log_size = log_size_of_entry(entry);
    struct batch_entry *added;
    km_status rc;

    /* what is expected takes no room in the log, but memory */
    if (batch->log_size + log_size > batch->store->batch_size_max ||
        batch->data_size > batch->store->batch_size_max)
        return KM_E_TOO_BIG;
    rc = make_space(batch, key.size + value.size);
    if (rc)
        return rc;
    added = &batch->entries[batch->count++];
    *added = *entry;
    added->offset = batch->data_size;
    if (key.size)
        memcpy(batch->data + batch->data_size, key.data, key.size);
    if (value.size)
        memcpy(batch->data + batch->data_size + key.size, value.data, value.size);
    batch->data_size += key.size + value.size;
    batch->log_size += log_size;
    return KM_OK;
}

static km_status check_and_add(km_batch *batch, struct batch_entry *entry, km_bytes key,
                               km_bytes value)
{
    km_status rc;

    if (km__store_is_forked(batch->store))
        return KM_E_FORKED;
    rc = km__check_sizes(key, value);
    if (rc)
        return rc;
    if (entry->map->store != batch->store)
        return KM_E_INVALID;
    if (atomic_load_explicit(&entry->map->dropped, memory_order_relaxed))
        return KM_E_DROPPED; /* relaxed: commit looks again, under the lock */
    entry->key_size = (uint16_t)key.size;
    entry->value_size = (uint32_t)value.size;
    return add(batch, entry, key, value);
}

km_status km_batch_put(km_batch *batch, km_map *map, km_bytes key, km_bytes value)
{
    return km_batch_put_ttl(batch, map, key, value, 0);
}

km_status km_batch_put_ttl(km_batch *batch, km_map *map, km_bytes key, km_bytes value,
                           uint64_t ttl_ms)
{
    struct batch_entry entry = {.map = map, .kind = RECORD_PUT};

    if (ttl_ms && !km__store_is_forked(batch->store))
        entry.number = km__expiry_after(batch->store, ttl_ms);
    return check_and_add(batch, &entry, key, value);
}

km_status km_batch_del(km_batch *batch, km_map *map, km_bytes key)
{
    struct batch_entry entry = {.map = map, .kind = RECORD_DELETE};
    km_bytes none = {NULL, 0};

    return check_and_add(batch, &entry, key, none);
}

km_status km_batch_expect(km_batch *batch, km_map *map, km_bytes key, km_position expected)
{
    struct batch_entry entry = {.map = map, .kind = CHANGE_EXPECT, .number = expected};
    km_bytes none = {NULL, 0};

    return check_and_add(batch, &entry, key, none);
}

static void fill_changes(const km_batch *batch, struct change *changes)
{
    for (size_t i = 0; i < batch->count; i++) {
        const struct batch_entry *entry = &batch->entries[i];
        const uint8_t *data = batch->data + entry->offset;
        km_bytes key = {data, entry->key_size};
        km_bytes value = {data + entry->key_size, entry->value_size};

        km__change_init(&changes[i], entry->map, entry->kind, key, value);
        changes[i].is_lone = 0;
        if (entry->kind == CHANGE_EXPECT) {
            changes[i].condition = KM_IF_VERSION;
            changes[i].expected = entry->number;
            continue;
        }
        if (entry->kind == RECORD_PUT)
            km__change_expire(&changes[i], entry->number);
        km__change_sum(&changes[i]);
    }
}

km_status km_batch_commit(km_batch *batch, km_write *write)
{
    struct km_store *store = batch->store;
    km_durability durability = km__effective_durability(store, write);
    km_bytes none = {NULL, 0};
    struct change *changes;
    uint64_t position = 0;
    km_status rc = km__check_writable(store);

    if (!rc)
        rc = km__check_write(write, none, none);
    if (!rc && write && (write->previous || write->condition || write->ttl_ms))
        rc = KM_E_INVALID;
    if (rc)
        return rc;
    if (durability == KM_DURABLE_POWER && km__epoch_ongoing())
        return KM_WOULD_BLOCK;
    if (batch->count == 0) {
        if (write)
            write->position = 0;
        return KM_OK;
    }
    changes = km__allocate(store->allocator, batch->count * sizeof(*changes));
    if (!changes)
        return KM_E_NO_MEMORY;
    fill_changes(batch, changes);
    rc = km__commit_unit(store, changes, batch->count, NULL, &position);
    km__release(store->allocator, changes, batch->count * sizeof(*changes));
    if (rc == KM_NOT_FOUND)
        rc = KM_OK; /* a batch of one delete of a key that is not there: nothing is logged */
    if (!rc && durability == KM_DURABLE_POWER && position)
        rc = km__log_wait_durable(store->log, position + 1);
    if (rc)
        return rc;
    if (write)
        write->position = position;
    km_batch_clear(batch);
    return KM_OK;
}

void km_batch_clear(km_batch *batch)
{
    batch->count = 0;
    batch->data_size = 0;
    batch->log_size = 0;
}

void km_batch_destroy(km_batch *batch)
{
    const struct allocator *allocator;

    if (!batch)
        return;
    allocator = batch->store->allocator;
    km__release(allocator, batch->entries, batch->capacity * sizeof(*batch->entries));
    km__release(allocator, batch->data, batch->data_capacity);
    km__release(allocator, batch, sizeof(*batch));
}
