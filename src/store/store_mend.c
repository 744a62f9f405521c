/* SPDX-License-Identifier: Apache-2.0
 *
 * store_mend.c -- what is done when the index image that a store was opened with turns out damaged:
 * the whole index is built anew from the log while calls wait.
 *
 * It happens at the first touch of a node, at any time after the open. Orders and trees are read
 * from the image at once, when the store is opened: they are not concerned. The log itself is
 * sound, or the open would have failed where it read it, and what it did not read is verified here.
 *
 * I1. While it goes on every partition of every map is locked, so no change is between its record
 *     and the index, and the head stays where it is. Readers go on in the old index, where all that
 *     is loaded is right, until the new one takes its place in one step a partition.
 * I2. If the log cannot be read either, nothing changes: what lies in the damaged nodes is
 *     KM_E_CORRUPT, then and later, never "absent" or an earlier value.
 */
#include "store/store_internal.h"

#include "format/image.h"

int km__is_beyond_mending(const struct km_store *store)
{
    /* relaxed: who sees it late tries to mend, and learns it under the lock */
    return atomic_load_explicit(&store->image.is_beyond_mending, memory_order_relaxed);
}

/* ---- loading ----------------------------------------------------------------------------- */

void km__note_image_damage(struct km_store *store)
{
    /* relaxed: who sees it late finds the node damaged by itself */
    if (atomic_exchange_explicit(&store->image.is_damaged, 1, memory_order_relaxed))
        return;
    atomic_fetch_add_explicit(&store->damage_count, 1, memory_order_relaxed);
    if (store->options.log)
        store->options.log(store->options.log_context, KM_LOG_WARNING,
                           "index.image is damaged: the index is built anew from the log");
}

km_status km__load_locked(km_map *map, uint64_t hash)
{
    km_status rc = km__hash_load(map->index, hash);

    if (rc != KM_E_CORRUPT || km__is_beyond_mending(map->store))
        return rc;
    km__note_image_damage(map->store);
    return KM_WOULD_BLOCK;
}

km_status km__load_for_reader(const struct km_store *const_store, struct hash_index *index,
                              uint64_t hash)
{
    struct km_store *store = (struct km_store *)(uintptr_t)const_store;
    km_status rc = km__hash_load_unlocked(index, hash);

    if (rc != KM_E_CORRUPT || km__is_beyond_mending(store))
        return rc;
    km__note_image_damage(store);
    return km__mend_index(store);
}

/* ---- building anew ----------------------------------------------------------------------- */

/* The new indexes, by map id; NULL where there is no map. */
struct mend {
    struct km_store *store;
    struct hash_index **indexes;
    uint32_t count;
};

static km_status mend_record(struct mend *mend, const struct log_item *item)
{
    struct km_store *store = mend->store;
    const struct record *record = &item->record;
    struct hash_index *index = record->map < mend->count ? mend->indexes[record->map] : NULL;
    const uint8_t *key = item->bytes + km__record_payload_offset(record->flags) +
                         record->value_size;
    struct logged logged = {
        .ref = km__log_ref(item->position),
        .size = km__record_size(record->flags, record->value_size, record->key_size),
        .kind = record->kind};

    if (!index)
        return KM_OK;
    switch (record->kind) {
    case RECORD_PUT:
    case RECORD_DELETE:
        logged.map = store->by_id[record->map];
        logged.hash = km__hash_key(&store->secret, key, record->key_size);
        return km__apply_to_hash(&logged, index);
    case RECORD_MAP_CLEARED:
        for (uint32_t i = 0; i < HASH_PARTITION_COUNT; i++)
            km__hash_clear_partition(index, i);
        return KM_OK;
    default: return KM_OK;
    }
}

static km_status replay_open_log(struct mend *mend)
{
    struct log *log = mend->store->log;
    uint64_t position = km__position(km__log_head_number(log), SEGMENT_HEADER_SIZE), end;
    km_status rc = KM_OK;

    km__log_settle(log);
    end = km__log_complete(log);
    while (!rc) { /* ends: the position grows */
        struct log_item item;

        km__epoch_enter();
        rc = km__log_read(log, position, end, &item);
        if (!rc) {
            rc = mend_record(mend, &item);
            position = item.next;
        }
        km__epoch_leave();
    }
    return rc == KM_END ? KM_OK : rc;
}

static km_status create_indexes(struct mend *mend)
{
    struct km_store *store = mend->store;
    km_status rc = KM_OK;

    mend->count = store->id_count;
    mend->indexes = km__allocate(store->allocator, (mend->count + 1u) * sizeof(*mend->indexes));
    if (!mend->indexes)
        return KM_E_NO_MEMORY;
    for (uint32_t id = 0; !rc && id < mend->count; id++) {
        const km_map *map = store->by_id[id];

        /* relaxed: set under catalogue_lock */
        if (map && !map->tree && !atomic_load_explicit(&map->dropped, memory_order_relaxed))
            rc = km__hash_index_create(store->allocator, store->pool, &store->reclaimer,
                                       &mend->indexes[id]);
    }
    return rc;
}

static void end_mend(struct mend *mend, int is_done)
{
    struct km_store *store = mend->store;

    for (uint32_t id = 0; mend->indexes && id < mend->count; id++) {
        if (is_done && mend->indexes[id])
            km__hash_adopt(store->by_id[id]->index, mend->indexes[id]);
        km__hash_index_destroy(mend->indexes[id]);
    }
    km__release(store->allocator, mend->indexes, (mend->count + 1u) * sizeof(*mend->indexes));
}

/* The image is not to be used again. */
static void leave_image(struct km_store *store)
{
    struct image *image = &store->image;

    atomic_store_explicit(&image->is_damaged, 0, memory_order_relaxed);
    atomic_store_explicit(&image->bytes, 0, memory_order_relaxed);
    atomic_store_explicit(&image->linear, 0, memory_order_relaxed);
    image->head_number = 0;
    if (store->options.mode != KM_OPEN_READ_ONLY)
        km__ignore(store->os->ops->unlink(store->dir, IMAGE_NAME), "it is found damaged again");
}

static km_status mend_locked(struct km_store *store)
{
    struct mend mend = {store, NULL, 0};
    km_status rc = create_indexes(&mend);

    if (!rc)
        rc = replay_open_log(&mend);
    end_mend(&mend, rc == KM_OK);
    if (!rc)
        leave_image(store);
    else if (rc == KM_E_CORRUPT) {
        atomic_store_explicit(&store->image.is_beyond_mending, 1,
                              memory_order_relaxed); /* so the log is not read again each time */
        /* it keeps nothing from being freed */
        atomic_store_explicit(&store->image.bytes, 0, memory_order_relaxed);
    }
    return rc;
}

km_status km__mend_index(struct km_store *store)
{
    km_status rc = KM_OK;

    km__mutex_lock(&store->keeper.lock); /* the head stays */
    km__maps_lock_all(store);
    if (km__is_beyond_mending(store))
        rc = KM_E_CORRUPT;
    else if (atomic_load_explicit(&store->image.is_damaged, memory_order_relaxed))
        rc = mend_locked(store);
    km__maps_unlock_all(store);
    km__mutex_unlock(&store->keeper.lock);
    return rc;
}
