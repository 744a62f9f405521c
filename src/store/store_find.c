/* SPDX-License-Identifier: Apache-2.0
 *
 * store_find.c -- from a key to its record: index, then log, then comparison.
 *
 * I1. A record in a file mapping is verified before anything it says is believed, a key that does
 *     not match included: else damage to a key would look like its absence.
 */
#include "store/store_internal.h"

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

    for (ref = km__hash_first(index, hash, &probe); ref; ref = km__hash_next(&probe)) {
        if (KM_UNLIKELY(ref >= LOG_PLACEHOLDER_BASE)) {
            if (ref == HASH_NOT_LOADED)
                return load_then_find(store, index, hash, key, out);
            continue; /* a change under way: its key is not there yet */
        }
        if (!km__log_record_at(store->view, ref, &out->record))
            return KM_E_CORRUPT;
        if (out->record.unverified && !km__log_record_verify(store->view, ref, &out->record))
            return KM_E_CORRUPT;
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

    for (size_t i = 0; i < count; i++)
        km__log_prefetch(store->view, refs[i]);
    for (size_t i = 0; i < count; i++) {
        KM_ASSERT(refs[i] < LOG_PLACEHOLDER_BASE);
        if (!km__log_record_at(store->view, refs[i], &record) ||
            (record.unverified && !km__log_record_verify(store->view, refs[i], &record)))
            return KM_E_CORRUPT;
        out_hashes[i] = km__hash_key(&store->secret, record.key, record.key_size);
    }
    return KM_OK;
}
