/* SPDX-License-Identifier: Apache-2.0
 *
 * store_read.c -- get, get_ref, get_many: readers take no lock and write nothing shared.
 */
#include "store/store_internal.h"

/* Keys looked up side by side, so that their cache misses overlap. */
#define GET_GROUP 32u

_Static_assert(GET_GROUP <= SORTED_GROUP_MAX, "a group is looked up at once");

static km_status check_readable(const km_map *map, km_bytes key)
{
    if (km__store_is_forked(map->store))
        return KM_E_FORKED;
    if (km__store_broken(map->store))
        return km__store_broken(map->store);
    if (key.size > KM_KEY_SIZE_MAX || (!key.data && key.size))
        return KM_E_INVALID;
    /* pairs with mark_dropped() */
    return atomic_load_explicit(&map->dropped, memory_order_acquire) ? KM_E_DROPPED : KM_OK;
}

/* A drop empties the map: what was not found may have been there until then. */
static km_status unless_dropped(const km_map *map, km_status rc)
{
    /* pairs with mark_dropped(), which comes before the emptying */
    if (rc == KM_NOT_FOUND && atomic_load_explicit(&map->dropped, memory_order_acquire))
        return KM_E_DROPPED;
    return rc;
}

static km_status find_key(const km_map *map, km_bytes key, struct found *out)
{
    uint64_t hash = map->tree ? 0 : km__hash_key(&map->store->secret, key.data, key.size);
    const struct table_stack *tables = km__tables_of(map);
    km_status rc = km__find_in_map(map, hash, key, out);

    if (rc == KM_NOT_FOUND)
        rc = km__find_below(map, key, tables, out);
    else if (!rc && km__is_expired(map->store, &out->record))
        rc = KM_NOT_FOUND;
    return unless_dropped(map, rc);
}

/* ---- copying reads ----------------------------------------------------------------------- */

km_status km_get_info(km_map *map, km_bytes key, km_buffer *value, km_key_info *out_info)
{
    struct found found;
    km_status rc = check_readable(map, key);

    if (rc)
        return rc;
    km__epoch_enter();
    rc = find_key(map, key, &found);
    if (!rc)
        rc = km__copy_to_buffer(value, found.record.value, found.record.value_size);
    if (!rc)
        km__fill_info(map->store, found.ref, &found.record, out_info);
    km__epoch_leave();
    return rc;
}

km_status km_get(km_map *map, km_bytes key, km_buffer *value)
{
    struct found found;
    km_status rc = check_readable(map, key);

    if (rc)
        return rc;
    km__epoch_enter();
    rc = find_key(map, key, &found);
    if (!rc)
        rc = km__copy_to_buffer(value, found.record.value, found.record.value_size);
    km__epoch_leave();
    return rc;
}

km_status km_contains(km_map *map, km_bytes key)
{
    return km_get(map, key, NULL);
}

/* ---- read sections ----------------------------------------------------------------------- */

/* A section is a state of the thread: the handle only tells the store. */
km_status km_read_begin(km_store *store, km_reader **out_reader)
{
    if (km__store_is_forked(store))
        return KM_E_FORKED;
    km__epoch_enter();
    *out_reader = (km_reader *)(void *)store;
    return KM_OK;
}

void km_read_end(km_reader *reader)
{
    if (reader) /* in a child of fork() too: the section is the thread's own */
        km__epoch_leave();
}

km_status km_get_ref(km_reader *reader, km_map *map, km_bytes key, km_bytes *out_value)
{
    struct found found;
    km_status rc = check_readable(map, key);

    if (!rc && (const void *)reader != (const void *)map->store)
        rc = KM_E_INVALID;
    if (!rc)
        rc = find_key(map, key, &found);
    if (rc)
        return rc;
    out_value->data = found.record.value;
    out_value->size = found.record.value_size;
    return KM_OK;
}

/* ---- many at once ------------------------------------------------------------------------ */

static void prefetch_group(const km_map *map, const uint64_t *hashes, size_t count)
{
    struct hash_probe probe;

    for (size_t i = 0; i < count; i++) {
        uint64_t ref = km__hash_first(map->index, hashes[i], &probe);

        if (ref)
            km__log_prefetch(map->store->view, ref);
    }
}

/* What was found of a key, as the caller gets it. The map had `tables` before it was asked. */
static km_status tell_value(const km_map *map, const struct table_stack *tables, km_bytes key,
                            struct found *found, km_bytes *out_value, km_status rc)
{
    if (rc == KM_NOT_FOUND)
        rc = km__find_below(map, key, tables, found);
    else if (!rc && km__is_expired(map->store, &found->record))
        rc = KM_NOT_FOUND;
    rc = unless_dropped(map, rc);
    out_value->data = rc ? NULL : found->record.value;
    out_value->size = rc ? 0 : found->record.value_size;
    return rc;
}

static void find_group_by_hash(const km_map *map, const km_bytes *keys, size_t count,
                               struct found *found, km_status *statuses)
{
    uint64_t hashes[GET_GROUP];

    for (size_t i = 0; i < count; i++) {
        hashes[i] = km__hash_key(&map->store->secret, keys[i].data, keys[i].size);
        km__hash_prefetch(map->index, hashes[i]);
    }
    prefetch_group(map, hashes, count);
    for (size_t i = 0; i < count; i++)
        statuses[i] = km__find(map->store, map->index, hashes[i], keys[i], &found[i]);
}

static void find_group_in_tree(const km_map *map, const km_bytes *keys, size_t count,
                               struct found *found, km_status *statuses)
{
    uint64_t refs[GET_GROUP];

    km__sorted_find_many(map->tree, keys, count, refs, statuses);
    for (size_t i = 0; i < count; i++) {
        found[i].ref = refs[i];
        if (!statuses[i] && !km__log_record_at(map->store->view, refs[i], &found[i].record))
            statuses[i] = KM_E_CORRUPT; /* the tree verified it, so it is not */
    }
}

static km_status get_group(const km_map *map, const km_bytes *keys, size_t count,
                           km_bytes *out_values, size_t *found_count)
{
    const struct table_stack *tables = km__tables_of(map);
    struct found found[GET_GROUP];
    km_status statuses[GET_GROUP];

    for (size_t i = 0; i < count; i++) {
        if (keys[i].size > KM_KEY_SIZE_MAX || (!keys[i].data && keys[i].size))
            return KM_E_INVALID;
    }
    if (map->tree)
        find_group_in_tree(map, keys, count, found, statuses);
    else
        find_group_by_hash(map, keys, count, found, statuses);
    for (size_t i = 0; i < count; i++) {
        km_status rc = tell_value(map, tables, keys[i], &found[i], &out_values[i], statuses[i]);

        if (rc && rc != KM_NOT_FOUND)
            return rc;
        *found_count += rc == KM_OK;
    }
    return KM_OK;
}

km_status km_get_many(km_reader *reader, km_map *map, const km_bytes *keys, size_t count,
                      km_bytes *out_values, size_t *out_found)
{
    km_bytes none = {NULL, 0};
    size_t found_count = 0;
    km_status rc = check_readable(map, none);

    if (!rc && (const void *)reader != (const void *)map->store)
        rc = KM_E_INVALID;
    for (size_t i = 0; !rc && i < count; i += GET_GROUP) {
        size_t group = count - i < GET_GROUP ? count - i : GET_GROUP;

        rc = get_group(map, keys + i, group, out_values + i, &found_count);
    }
    if (!rc && out_found)
        *out_found = found_count;
    return rc;
}
