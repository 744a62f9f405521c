/* SPDX-License-Identifier: Apache-2.0
 *
 * store_find.c -- from a key to its record: index, then log, then comparison.
 *
 * I1. A record in a file mapping is verified before anything it says is believed, a key that does
 *     not match included: else damage to a key would look like its absence.
 * I2. The clock by which keys expire never goes back: what was seen expired stays so. Across a
 *     crash it goes on from what MARKS has seen.
 */
#include "store/store_internal.h"

km_status km__record_of(const struct km_store *store, uint64_t ref, struct log_record *out)
{
    if (!km__log_record_at(store->view, ref, out))
        return KM_E_CORRUPT;
    if (out->unverified && !km__log_record_verify(store->view, ref, out))
        return KM_E_CORRUPT;
    return KM_OK;
}

/* ---- indexes of hashes ------------------------------------------------------------------- */

static int key_matches(const struct log_record *record, km_bytes key)
{
    return record->key_size == key.size &&
           memcmp(record->key, key.data ? key.data : "", key.size) == 0;
}

/* The first touch of a node that lies in the image. Writers have loaded it before. */
static KM_NOINLINE km_status load_then_find(const struct km_store *store, struct hash_index *index,
                                            uint64_t hash, km_bytes key, struct found *out)
{
    km_status rc = km__load_for_reader(store, index, hash);

    return rc ? rc : km__find(store, index, hash, key, out);
}

km_status km__find(const struct km_store *store, struct hash_index *index, uint64_t hash,
                   km_bytes key, struct found *out)
{
    struct hash_probe probe;
    uint64_t ref;
    km_status rc;

    for (ref = km__hash_first(index, hash, &probe); ref; ref = km__hash_next(&probe)) {
        if (KM_UNLIKELY(ref >= LOG_PLACEHOLDER_BASE)) {
            if (ref == HASH_NOT_LOADED)
                return load_then_find(store, index, hash, key, out);
            continue; /* a change under way: its key is not there yet */
        }
        rc = km__record_of(store, ref, &out->record);
        if (rc)
            return rc;
        if (key_matches(&out->record, key)) {
            out->ref = ref;
            return KM_OK;
        }
    }
    out->ref = 0;
    return KM_NOT_FOUND;
}

km_status km__hash_refs(void *context, const uint64_t *refs, size_t count, uint64_t *out_hashes)
{
    const struct km_store *store = context;
    struct log_record record;
    km_status rc;

    for (size_t i = 0; i < count; i++)
        km__log_prefetch(store->view, refs[i]);
    for (size_t i = 0; i < count; i++) {
        KM_ASSERT(refs[i] < LOG_PLACEHOLDER_BASE);
        rc = km__record_of(store, refs[i], &record);
        if (rc)
            return rc;
        out_hashes[i] = km__hash_key(&store->secret, record.key, record.key_size);
    }
    return KM_OK;
}

/* ---- trees ------------------------------------------------------------------------------- */

km_status km__sorted_key_of(void *context, uint64_t ref, km_bytes *out_key)
{
    struct log_record record;
    km_status rc = km__record_of(context, ref, &record);

    if (!rc)
        *out_key = km_bytes_of(record.key, record.key_size);
    return rc;
}

void km__sorted_prefetch_record(void *context, uint64_t ref)
{
    const struct km_store *store = context;

    km__log_prefetch(store->view, ref);
}

km_status km__find_sorted(const struct km_store *store, const struct sorted_tree *tree,
                          km_bytes key, struct found *out)
{
    km_status rc = km__sorted_find(tree, key, &out->ref);

    if (!rc && !km__log_record_at(store->view, out->ref, &out->record)) /* the tree verified it */
        rc = KM_E_CORRUPT;
    if (rc)
        out->ref = 0;
    return rc;
}

km_status km__find_in_map(const km_map *map, uint64_t hash, km_bytes key, struct found *out)
{
    return map->tree ? km__find_sorted(map->store, map->tree, key, out)
                     : km__find(map->store, map->index, hash, key, out);
}

/* ---- what a record tells ----------------------------------------------------------------- */

uint64_t km__store_clock(const struct km_store *const_store)
{
    struct km_store *store = (struct km_store *)(uintptr_t)const_store;
    uint64_t now_ms = store->os->ops->wall_ms(store->os);
    /* relaxed, all of them: a number, no data behind it */
    uint64_t seen_ms = atomic_load_explicit(&store->clock_ms, memory_order_relaxed);

    while (seen_ms < now_ms) { /* ends: it grows */
        if (atomic_compare_exchange_weak_explicit(&store->clock_ms, &seen_ms, now_ms,
                                                  memory_order_relaxed, memory_order_relaxed))
            return now_ms;
    }
    return seen_ms;
}

void km__fill_info(const struct km_store *store, uint64_t ref, const struct log_record *record,
                   km_key_info *out)
{
    out->version = km__version_of(store->view, ref, record);
    out->expires_ms = km__expiry_of(record);
    out->value_size = record->value_size;
}

km_status km__copy_to_buffer(km_buffer *buffer, const void *bytes, size_t size)
{
    km_status rc = buffer ? km__buffer_reserve(buffer, size) : KM_OK;

    if (rc || !buffer)
        return rc;
    buffer->size = size;
    if (size)
        memcpy(buffer->data, bytes, size);
    return KM_OK;
}
