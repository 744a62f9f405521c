/* SPDX-License-Identifier: Apache-2.0
 *
 * store_order.c -- single keys by their place: a position, the first and the last, the nearest to a
 * key; and queues made of them.
 *
 * Positions count the keys that the index holds: one that has expired counts until it is deleted.
 * What is returned has not expired: for a position where such a key is, the next one that is there.
 *
 * A pop reads the first key and deletes it on condition that it still has the version it had: as a
 * version is never used twice, no key is popped by two. Who loses it to another finds the next one
 * first by then, and each time it does, another thread has got on.
 *
 * I1. The first key is read twice. A walk over the index is not of one moment: it may miss a key
 *     that is put at a place which it has passed, and meet one that was put after it. Who has met
 *     the later key meets the earlier one when looking again.
 */
#include "store/store_tables.h"

#define SEARCH_GROUP SORTED_LEAF_ENTRIES

/* Where the next key is looked for. */
struct order_search {
    const km_map *map;
    int is_down;
    int is_over;               /* there is nothing beyond */
    uint64_t ordinal;          /* KM_INSERTION: this one or beyond */
    struct sorted_bound bound; /* KM_SORTED */
    size_t group;              /* KM_INSERTION: how many to look at first */
};

static void begin_search(struct order_search *search, const km_map *map, int is_down)
{
    static const struct order_search empty;

    *search = empty;
    search->map = map;
    search->is_down = is_down;
    search->ordinal = is_down ? UINT64_MAX : 0;
    search->group = 1;
}

/* Let the search begin, or go on, there. */
static void search_at(struct order_search *search, uint64_t ordinal, km_bytes key)
{
    search->ordinal = ordinal;
    search->bound.key = key;
    search->bound.is_set = 1;
    search->bound.is_exclusive = 0;
}

static void search_beyond(struct order_search *search, const struct log_record *record)
{
    uint64_t ordinal = km__ordinal_of(record);

    search_at(search, search->is_down ? ordinal - 1 : ordinal + 1,
              km_bytes_of(record->key, record->key_size));
    search->bound.is_exclusive = 1;
    search->is_over = search->map->order && search->is_down && ordinal == 0;
}

static km_status read_some(const struct order_search *search, uint64_t *refs, size_t *out_count)
{
    const km_map *map = search->map;
    struct order_entry entries[SEARCH_GROUP];

    if (map->tree && search->is_down)
        return km__sorted_read_down(map->tree, search->bound, refs, SEARCH_GROUP, out_count);
    if (map->tree)
        return km__sorted_read_up(map->tree, search->bound, refs, SEARCH_GROUP, out_count);
    *out_count = search->is_down
                     ? km__order_read_down(map->order, search->ordinal, entries, search->group)
                     : km__order_read_up(map->order, search->ordinal, entries, search->group);
    for (size_t i = 0; i < *out_count; i++)
        refs[i] = entries[i].ref;
    return KM_OK;
}

/* The first key from there on that has not expired. Inside a read section. */
static km_status search_next(struct order_search *search, struct found *out)
{
    const struct km_store *store = search->map->store;
    uint64_t refs[SEARCH_GROUP];

    while (!search->is_over) { /* ends: the search moves on */
        size_t count = 0;
        km_status rc = read_some(search, refs, &count);

        if (rc || count == 0)
            return rc ? rc : KM_NOT_FOUND;
        for (size_t i = 0; i < count; i++) {
            rc = km__record_of(store, refs[i], &out->record);
            if (rc)
                return rc;
            out->ref = refs[i];
            if (!km__is_expired(store, &out->record))
                return KM_OK;
        }
        search_beyond(search, &out->record);
        search->group = SEARCH_GROUP;
    }
    return KM_NOT_FOUND;
}

/* The first key that has not expired, or the last. Inside a read section. */
static km_status search_end(const km_map *map, int is_down, struct found *out)
{
    struct order_search search;
    uint64_t ref;
    km_status rc;

    begin_search(&search, map, is_down);
    rc = search_next(&search, out);
    while (!rc) { /* ends: each time another thread has changed that end (I1) */
        ref = out->ref;
        begin_search(&search, map, is_down);
        rc = search_next(&search, out);
        if (rc || out->ref == ref)
            break;
    }
    return rc;
}

/* ---- one key ----------------------------------------------------------------------------- */

static km_status check_ordered(const km_map *map, int is_of_kind)
{
    if (km__store_is_forked(map->store))
        return KM_E_FORKED;
    if (km__store_broken(map->store))
        return km__store_broken(map->store);
    if (!is_of_kind)
        return KM_E_UNSUPPORTED;
    /* acquire: pairs with apply_drop() */
    return atomic_load_explicit(&map->dropped, memory_order_acquire) ? KM_E_DROPPED : KM_OK;
}

/* What was not found may have been there until the map was dropped. */
static km_status unless_ordered_dropped(const km_map *map, km_status rc)
{
    /* acquire: pairs with apply_drop() */
    if (rc == KM_NOT_FOUND && atomic_load_explicit(&map->dropped, memory_order_acquire))
        return KM_E_DROPPED;
    return rc;
}

static km_status copy_found_record(const struct found *found, km_buffer *key, km_buffer *value)
{
    km_status rc = km__copy_to_buffer(key, found->record.key, found->record.key_size);

    return rc ? rc : km__copy_to_buffer(value, found->record.value, found->record.value_size);
}

/* The first key that way of a map that has tables: from `key` on, or (NULL) of all. */
static km_status copy_by_cursor(km_map *map, int is_down, const km_bytes *key, km_buffer *out_key,
                                km_buffer *value, uint64_t *out_version)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_key_info info = {0, 0, 0};
    km_cursor *cursor = NULL;
    km_bytes found_key, found_value;
    km_status rc;

    options.reverse = is_down;
    rc = km_cursor_open(map, &options, &cursor);
    if (!rc && key)
        rc = km_cursor_seek(cursor, *key);
    if (!rc)
        rc = km_cursor_next(cursor, &found_key, &found_value);
    if (!rc)
        rc = km__copy_to_buffer(out_key, found_key.data, found_key.size);
    if (!rc)
        rc = km__copy_to_buffer(value, found_value.data, found_value.size);
    if (!rc)
        rc = km_cursor_info(cursor, &info);
    if (!rc && out_version)
        *out_version = info.version;
    km_cursor_close(cursor);
    return rc == KM_END ? unless_ordered_dropped(map, KM_NOT_FOUND) : rc;
}

static km_status copy_found(struct order_search *search, km_buffer *key, km_buffer *value)
{
    struct found found;
    km_status rc;

    km__epoch_enter();
    rc = search_next(search, &found);
    if (!rc)
        rc = copy_found_record(&found, key, value);
    km__epoch_leave();
    return unless_ordered_dropped(search->map, rc);
}

static km_status copy_end(km_map *map, int is_down, km_buffer *key, km_buffer *value)
{
    struct found found;
    km_status rc = check_ordered(map, map->order || map->tree);

    if (rc)
        return rc;
    if (km__tables_of(map))
        return copy_by_cursor(map, is_down, NULL, key, value, NULL);
    km__epoch_enter();
    rc = search_end(map, is_down, &found);
    if (!rc)
        rc = copy_found_record(&found, key, value);
    km__epoch_leave();
    return unless_ordered_dropped(map, rc);
}

km_status km_first(km_map *map, km_buffer *key, km_buffer *value)
{
    return copy_end(map, 0, key, value);
}

km_status km_last(km_map *map, km_buffer *key, km_buffer *value)
{
    return copy_end(map, 1, key, value);
}

static km_status copy_nearest(km_map *map, int is_down, km_bytes key, km_buffer *out_key,
                              km_buffer *value)
{
    struct order_search search;
    km_status rc = check_ordered(map, map->tree != NULL);

    if (!rc && (key.size > KM_KEY_SIZE_MAX || (!key.data && key.size)))
        rc = KM_E_INVALID;
    if (rc)
        return rc;
    if (km__tables_of(map))
        return copy_by_cursor(map, is_down, &key, out_key, value, NULL);
    begin_search(&search, map, is_down);
    search_at(&search, 0, key.data ? key : km_bytes_of("", 0));
    return copy_found(&search, out_key, value);
}

km_status km_floor(km_map *map, km_bytes key, km_buffer *out_key, km_buffer *value)
{
    return copy_nearest(map, 1, key, out_key, value);
}

km_status km_ceiling(km_map *map, km_bytes key, km_buffer *out_key, km_buffer *value)
{
    return copy_nearest(map, 0, key, out_key, value);
}

/* ---- positions --------------------------------------------------------------------------- */

km_status km_get_index(km_map *map, uint64_t position, km_buffer *key, km_buffer *value)
{
    struct order_search search;
    uint64_t ref;
    km_status rc = check_ordered(map, map->order != NULL);

    if (rc)
        return rc;
    begin_search(&search, map, 0);
    km__epoch_enter();
    search.ordinal = km__order_select(map->order, position, &ref);
    rc = search.ordinal == ORDER_NONE ? unless_ordered_dropped(map, KM_NOT_FOUND)
                                      : copy_found(&search, key, value);
    km__epoch_leave();
    return rc;
}

km_status km_index_of(km_map *map, km_bytes key, uint64_t *out_position)
{
    struct found found;
    km_status rc = check_ordered(map, map->order != NULL);

    if (!rc && (key.size > KM_KEY_SIZE_MAX || (!key.data && key.size)))
        rc = KM_E_INVALID;
    if (rc)
        return rc;
    km__epoch_enter();
    rc = km__find_in_map(map, km__hash_key(&map->store->secret, key.data, key.size), key, &found);
    if (!rc && km__is_expired(map->store, &found.record))
        rc = KM_NOT_FOUND;
    if (!rc)
        *out_position = km__order_rank(map->order, km__ordinal_of(&found.record));
    km__epoch_leave();
    return unless_ordered_dropped(map, rc);
}

/* ---- pops -------------------------------------------------------------------------------- */

/* A copy of the key at that end, and its version. */
static km_status read_candidate(km_map *map, int is_down, km_buffer *key, uint64_t *out_version)
{
    struct found found;
    km_status rc;

    if (km__tables_of(map))
        return copy_by_cursor(map, is_down, NULL, key, NULL, out_version);
    km__epoch_enter();
    rc = search_end(map, is_down, &found);
    if (!rc)
        rc = copy_found_record(&found, key, NULL);
    if (!rc)
        *out_version = km__version_of(map->store->view, found.ref, &found.record);
    km__epoch_leave();
    return unless_ordered_dropped(map, rc);
}

/* Delete a key if it has the version; its value is returned as the previous one, so that what
 * cannot be returned is not deleted. */
static km_status delete_candidate(km_map *map, km_bytes key, uint64_t version, km_buffer *value,
                                  km_write *write)
{
    static const km_write plain = KM_WRITE_INIT;
    km_write own = write ? *write : plain;
    km_bytes none = {NULL, 0};
    struct change change;
    km_status rc;

    own.previous = value;
    km__change_init(&change, map, RECORD_DELETE, key, none);
    change.condition = KM_IF_VERSION;
    change.expected = version;
    rc = km__change_key(&change, &own);
    if (!rc && write) {
        write->existed = own.existed;
        write->position = own.position;
    }
    return rc;
}

static km_status pop_end(km_map *map, int is_down, km_buffer *key, km_buffer *value,
                         km_write *write)
{
    uint64_t version = 0;
    km_status rc;

    do { /* ends: each time another thread's change of that key went through */
        rc = read_candidate(map, is_down, key, &version);
        if (!rc)
            rc = delete_candidate(map, km_bytes_of(key->data ? key->data : "", key->size), version,
                                  value, write);
    } while (rc == KM_CONFLICT);
    return rc;
}

static km_status pop(km_map *map, int is_down, km_buffer *key, km_buffer *value, km_write *write)
{
    km_buffer own_key = KM_BUFFER_INIT;
    km_bytes none = {NULL, 0};
    km_status rc = check_ordered(map, map->order || map->tree);

    if (!rc)
        rc = km__check_key_change(map, none, none, write);
    if (!rc && ((write && (write->previous || write->condition)) || (key && key == value)))
        rc = KM_E_INVALID;
    if (!rc)
        rc = pop_end(map, is_down, key ? key : &own_key, value, write);
    km_buffer_free(&own_key);
    return rc;
}

km_status km_pop_first(km_map *map, km_buffer *key, km_buffer *value, km_write *write)
{
    return pop(map, 0, key, value, write);
}

km_status km_pop_last(km_map *map, km_buffer *key, km_buffer *value, km_write *write)
{
    return pop(map, 1, key, value, write);
}
