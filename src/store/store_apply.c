/* SPDX-License-Identifier: Apache-2.0
 *
 * store_apply.c -- a change and the indexes of its map, whatever the kind.
 *
 *   KM_HASH       the hash index
 *   KM_INSERTION  the hash index, and the order, which has a slot for each key's ordinal
 *   KM_SORTED     the tree
 *
 * A change is prepared, logged, and published; what can fail is in the preparation. The partition
 * of the key's hash is locked all the while, in maps of every kind.
 *
 * I1. A key has one record that the hash index or the tree leads to; in a KM_INSERTION map the slot
 *     of that record's ordinal leads to it too, and no other slot to any record of the key.
 * I2. An expired key is there for the indexes and not there for everybody else: a put makes it a
 *     new key, with a new ordinal.
 */
#include "store/store_internal.h"
#include "store/store_tables.h"
#include "store/store_view.h"

static km_bytes key_of_change(const struct change *change)
{
    return km_bytes_of(change->key, change->key_size);
}

static uint32_t shard_of(const struct change *change)
{
    return km__hash_partition(change->hash);
}

/* ---- preparing --------------------------------------------------------------------------- */

static void note_found(struct change *change, const struct found *found)
{
    const struct km_store *store = change->map->store;

    change->old_ref = found->ref;
    change->old_size = found->ref ? km__size_of_record(&found->record) : 0;
    change->old_ordinal = found->ref ? km__ordinal_of(&found->record) : 0;
    change->was_hiding = found->ref != 0 && km__is_hiding(&found->record);
    change->existed = (found->ref != 0 || (change->below && !change->is_own)) &&
                      (change->is_of_expired || !km__is_expired(store, &found->record));
}

static km_status judge_condition(const struct change *change, const struct found *found)
{
    const struct log_view *view = change->map->store->view;
    uint64_t version = change->existed ? km__version_of(view, found->ref, &found->record) : 0;

    switch (change->condition) {
    case KM_IF_ABSENT:
        if (change->existed)
            return KM_EXISTS;
        break;
    case KM_IF_PRESENT:
        if (!change->existed)
            return KM_NOT_FOUND;
        break;
    case KM_IF_VERSION:
        if (version != change->expected)
            return KM_CONFLICT;
        break;
    default: break;
    }
    return (change->kind == RECORD_DELETE || change->is_hiding) && change->is_lone &&
                   !change->existed
               ? KM_NOT_FOUND
               : KM_OK;
}

static km_status enter_key(struct change *change, uint64_t placeholder,
                           const struct hash_source *source)
{
    km_status rc;

    if (change->map->tree) {
        change->pending.key = change->key;
        change->pending.key_size = change->key_size;
        rc = km__sorted_reserve(change->map->tree, &change->pending);
    } else {
        rc = km__hash_reserve(change->map->index, change->hash, placeholder, source);
    }
    change->has_placeholder = rc == KM_OK;
    return rc;
}

/* The ordinal that a record got before its key was locked is the right one if nothing has come
 * between: neither a change of the key, nor a packing of the order, which knows nothing of ordinals
 * that are taken and empty. KM_WOULD_BLOCK: write the record anew. */
static km_status check_presumed(struct change *change)
{
    int is_right = change->existed ? change->ordinal == change->old_ordinal
                                   : change->is_ordinal_new &&
                                         km__order_can_set(change->map->order, change->ordinal);

    change->has_ordinal = is_right;
    return is_right ? KM_OK : KM_WOULD_BLOCK;
}

static km_status find_ordinal(struct change *change)
{
    km_status rc;

    if (change->has_ordinal)
        return check_presumed(change);
    if (change->existed) {
        change->ordinal = change->old_ordinal;
        km__order_prefetch(change->map->order, change->ordinal); /* written after the log is */
        return KM_OK;
    }
    rc = km__order_reserve(change->map->order, 1);
    change->has_order_room = rc == KM_OK;
    return rc;
}

/* For the snapshots that are open: what the change supersedes. */
static km_status save_found(const struct change *change, const struct found *found)
{
    int is_leaving = change->map->order && (change->kind != RECORD_PUT || !change->existed);

    return km__view_save(change->map, change->hash, found, is_leaving);
}

km_status km__save_change(const struct change *change)
{
    struct found found = {.ref = change->old_ref};
    km_status rc = KM_OK;

    if (found.ref)
        rc = km__record_of(change->map->store, found.ref, &found.record);
    return rc ? rc : save_found(change, &found);
}

static km_status enter_change(struct change *change, uint64_t placeholder,
                              const struct hash_source *source, const struct found *found)
{
    int is_put = change->kind == RECORD_PUT;
    km_status rc = save_found(change, found);

    if (!rc && is_put && !found->ref)
        rc = enter_key(change, placeholder, source);
    if (!rc && is_put && change->map->order)
        rc = find_ordinal(change);
    if (rc)
        km__unprepare_change(change, placeholder);
    return rc;
}

km_status km__prepare_change(struct change *change, uint64_t placeholder,
                             const struct hash_source *source, struct found *out_found)
{
    km_map *map = change->map;
    km_status rc;

    if (atomic_load_explicit(&map->dropped, memory_order_relaxed))
        return KM_E_DROPPED; /* relaxed: set under this lock */
    if (km__tables_is_stale(change))
        return KM_WOULD_BLOCK; /* look again, with nothing locked */
    rc = km__load_locked(map, change->hash);
    if (rc)
        return rc;
    rc = km__find_in_map(map, change->hash, key_of_change(change), out_found);
    if (rc && rc != KM_NOT_FOUND)
        return rc;
    if (rc && KM_UNLIKELY(change->below != NULL))
        km__tables_fill_found(change->below, key_of_change(change), change->below_value, out_found);
    note_found(change, out_found);
    rc = judge_condition(change, out_found);
    if (rc || change->kind == CHANGE_EXPECT)
        return rc;
    return enter_change(change, placeholder, source, out_found);
}

void km__unprepare_change(struct change *change, uint64_t placeholder)
{
    if (change->has_placeholder && change->map->tree)
        km__sorted_cancel(change->map->tree, &change->pending);
    else if (change->has_placeholder)
        km__hash_remove(change->map->index, change->hash, placeholder, 0);
    change->has_placeholder = 0;
    if (change->has_order_room)
        km__order_unreserve(change->map->order, 1);
    change->has_order_room = 0;
}

km_status km__presume_ordinal(struct change *change)
{
    struct found found;
    km_status rc;

    if (!change->map->order || change->kind != RECORD_PUT)
        return KM_OK;
    rc = km__find_in_map(change->map, change->hash, key_of_change(change), &found);
    if (rc && rc != KM_NOT_FOUND)
        return rc;
    if (!rc && !km__is_expired(change->map->store, &found.record)) {
        change->ordinal = km__ordinal_of(&found.record);
        change->has_ordinal = 1;
        change->is_ordinal_new = 0;
        return KM_OK;
    }
    if (change->has_ordinal && change->is_ordinal_new)
        return KM_OK; /* of an earlier attempt */
    rc = km__order_reserve(change->map->order, 1);
    if (rc)
        return rc;
    change->ordinal = km__order_take(change->map->order);
    change->has_ordinal = change->is_ordinal_new = 1;
    return KM_OK;
}

/* ---- publishing -------------------------------------------------------------------------- */

static void publish_put(struct change *change, uint64_t placeholder, uint64_t ref)
{
    km_map *map = change->map;
    int64_t weight_change = (int64_t)(change->log_size - change->old_size);

    if (!map->tree)
        km__hash_replace(map->index, change->hash, change->old_ref ? change->old_ref : placeholder,
                         ref, weight_change);
    else if (change->old_ref)
        km__sorted_replace(map->tree, shard_of(change), key_of_change(change), change->old_ref, ref,
                           weight_change);
    else
        km__sorted_fill(map->tree, shard_of(change), &change->pending, ref, change->log_size);
    if (map->order) {
        if (change->old_ref && change->old_ordinal != change->ordinal)
            km__order_clear(map->order, change->old_ordinal); /* I2 */
        km__order_set(map->order, change->ordinal, ref);
    }
}

/* Take a key out of the indexes; its record is at `ref`. */
static void remove_key(const km_map *map, uint64_t hash, km_bytes key, uint64_t ref, uint64_t size,
                       uint64_t ordinal)
{
    if (map->tree)
        km__sorted_remove(map->tree, km__hash_partition(hash), key, ref, size);
    else
        km__hash_remove(map->index, hash, ref, size);
    if (map->order)
        km__order_clear(map->order, ordinal);
}

static void note_expiry(km_map *map)
{
    /* relaxed, and only if it changes anything: a hint for the background */
    if (!atomic_load_explicit(&map->has_expiry, memory_order_relaxed))
        atomic_store_explicit(&map->has_expiry, 1, memory_order_relaxed);
}

void km__publish_change(struct change *change, uint64_t placeholder, uint64_t position)
{
    if (change->kind == RECORD_PUT)
        publish_put(change, placeholder, km__log_ref(position));
    else if (change->old_ref)
        remove_key(change->map, change->hash, key_of_change(change), change->old_ref,
                   change->old_size, change->old_ordinal);
    if (KM_UNLIKELY(change->expiry))
        note_expiry(change->map);
    if (KM_UNLIKELY(km__tables_of(change->map) != NULL))
        km__tables_note_change(change);
    change->has_placeholder = change->has_order_room = 0;
}

/* ---- moving ------------------------------------------------------------------------------ */

int km__is_current(const km_map *map, uint64_t hash, km_bytes key, uint64_t wanted)
{
    struct hash_probe probe;
    uint64_t ref;

    if (map->tree)
        return km__sorted_find(map->tree, key, &ref) == KM_OK && ref == wanted;
    ref = km__hash_first(map->index, hash, &probe);
    while (ref && ref != wanted && ref != HASH_NOT_LOADED)
        ref = km__hash_next(&probe);
    return ref != 0; /* what is not loaded may lead to it */
}

void km__publish_move(const km_map *map, const struct moved *moved)
{
    if (map->tree)
        km__sorted_replace(map->tree, km__hash_partition(moved->hash), moved->key, moved->old_ref,
                           moved->new_ref, moved->weight_change);
    else
        km__hash_replace(map->index, moved->hash, moved->old_ref, moved->new_ref,
                         moved->weight_change);
    if (map->order)
        km__order_set(map->order, moved->ordinal, moved->new_ref);
}

/* ---- records of before, or of another process --------------------------------------------- */

static km_status restore_order(km_map *map, const struct log_record *record, uint64_t ref,
                               const struct found *before)
{
    uint64_t ordinal = km__ordinal_of(record);

    if (!(record->flags & RECORD_HAS_ORDINAL))
        return KM_E_CORRUPT;
    if (before->ref && km__ordinal_of(&before->record) != ordinal)
        km__order_clear(map->order, km__ordinal_of(&before->record));
    return km__order_restore(map->order, ordinal, ref);
}

static km_status restore_in_tree(const struct logged *logged, km_bytes key,
                                 const struct found *before)
{
    struct sorted_pending pending = {key.data, (uint32_t)key.size};
    uint32_t shard = km__hash_partition(logged->hash);
    km_status rc;

    if (before->ref) {
        km__sorted_replace(logged->map->tree, shard, key, before->ref, logged->ref,
                           (int64_t)(logged->size - km__size_of_record(&before->record)));
        return KM_OK;
    }
    rc = km__sorted_reserve(logged->map->tree, &pending);
    if (!rc)
        km__sorted_fill(logged->map->tree, shard, &pending, logged->ref, logged->size);
    return rc;
}

static km_status restore_in_hash(const struct logged *logged, struct hash_index *index,
                                 const struct found *before)
{
    uint64_t old_size = before->ref ? km__size_of_record(&before->record) : 0;
    km_status rc = KM_OK;

    if (!before->ref)
        rc = km__hash_reserve(index, logged->hash, logged->ref, &logged->map->store->source);
    if (!rc)
        km__hash_replace(index, logged->hash, before->ref ? before->ref : logged->ref, logged->ref,
                         (int64_t)(logged->size - old_size));
    return rc;
}

static km_status restore_put(const struct logged *logged, const struct log_record *record,
                             const struct found *before)
{
    km_map *map = logged->map;
    km_status rc;

    if (map->tree)
        rc = restore_in_tree(logged, km_bytes_of(record->key, record->key_size), before);
    else
        rc = restore_in_hash(logged, map->index, before);
    if (!rc && map->order)
        rc = restore_order(map, record, logged->ref, before);
    return rc;
}

/* Whether the record itself need not be looked at: a put of a hash that is new to a map of hashes
 * alone, with nothing below. */
static int is_plainly_new(const struct logged *logged)
{
    struct hash_probe probe;

    return logged->kind == RECORD_PUT && !logged->map->tree && !logged->map->order &&
           !km__tables_of(logged->map) && !km__hash_first(logged->map->index, logged->hash, &probe);
}

km_status km__apply_record(const struct logged *logged)
{
    static const struct found nothing;
    km_map *map = logged->map;
    const struct km_store *store = map->store;
    struct log_record record;
    struct found before;
    km_bytes key;
    km_status rc;

    if (is_plainly_new(logged))
        return restore_in_hash(logged, map->index, &nothing);
    if (!km__log_record_at(store->view, logged->ref, &record))
        return KM_E_CORRUPT; /* not so: who calls has verified it */
    if (record.flags & RECORD_HAS_EXPIRY)
        note_expiry(map);
    key = km_bytes_of(record.key, record.key_size);
    rc = km__find_in_map(map, logged->hash, key, &before);
    if (rc && rc != KM_NOT_FOUND)
        return rc;
    if (KM_UNLIKELY(km__tables_of(map) != NULL))
        km__tables_note_logged(logged, &record, &before);
    if (logged->kind == RECORD_PUT)
        return restore_put(logged, &record, &before);
    if (before.ref)
        remove_key(map, logged->hash, key, before.ref, km__size_of_record(&before.record),
                   km__ordinal_of(&before.record));
    return KM_OK;
}

km_status km__apply_to_hash(const struct logged *logged, struct hash_index *index)
{
    const struct km_store *store = logged->map->store;
    struct log_record record;
    struct found before;
    km_status rc;

    if (!km__log_record_at(store->view, logged->ref, &record))
        return KM_E_CORRUPT;
    rc = km__find(store, index, logged->hash, km_bytes_of(record.key, record.key_size), &before);
    if (rc && rc != KM_NOT_FOUND)
        return rc;
    if (logged->kind == RECORD_PUT)
        return restore_in_hash(logged, index, &before);
    if (before.ref)
        km__hash_remove(index, logged->hash, before.ref, km__size_of_record(&before.record));
    return KM_OK;
}

void km__note_expiry(km_map *map)
{
    note_expiry(map);
}

/* ---- the whole map ----------------------------------------------------------------------- */

void km__empty_map(km_map *map)
{
    for (uint32_t i = 0; i < HASH_PARTITION_COUNT; i++)
        km__hash_clear_partition(map->index, i);
    if (map->order)
        km__order_clear_all(map->order);
    if (map->tree)
        km__sorted_clear(map->tree);
}

uint64_t km__map_count(const km_map *map)
{
    uint64_t count = map->tree ? km__sorted_count(map->tree) : km__hash_count(map->index);
    const struct table_stack *stack = km__tables_of(map);

    if (KM_UNLIKELY(stack != NULL)) /* relaxed: store_tables.c, I1 */
        count += stack->key_count - atomic_load_explicit(&map->overlap, memory_order_relaxed);
    return count;
}

uint64_t km__map_weight(const km_map *map)
{
    return map->tree ? km__sorted_weight(map->tree) : km__hash_weight(map->index);
}

uint64_t km__map_index_bytes(const km_map *map)
{
    return km__hash_bytes(map->index) + (map->order ? km__order_bytes(map->order) : 0) +
           (map->tree ? km__sorted_bytes(map->tree) : 0);
}
