/* SPDX-License-Identifier: Apache-2.0
 *
 * store_range.c -- ranges of the keys of a KM_SORTED map: bounds, counting, and deletion as one
 * logged change.
 *
 * A deletion holds every partition of the map, as a clear does: of its record, and of its keys in
 * the tree, each other change lies wholly before or after.
 */
#include "store/store_internal.h"
#include "store/store_tables.h"
#include "store/store_view.h"

#define RANGE_GROUP 256u

/* ---- bounds ------------------------------------------------------------------------------ */

static int compare_bytes(km_bytes a, km_bytes b)
{
    size_t shorter = a.size < b.size ? a.size : b.size;
    int result = shorter ? memcmp(a.data, b.data, shorter) : 0;

    return result ? result : (a.size > b.size) - (a.size < b.size);
}

/* The first string after all that begin with the prefix: *out is not set if there is none. */
static km_status end_of_prefix(km_bytes prefix, km_buffer *memory, struct sorted_bound *out)
{
    const uint8_t *bytes = prefix.data;
    size_t size = prefix.size;
    km_status rc;

    out->is_set = 0;
    while (size && bytes[size - 1] == 0xff)
        size--;
    if (size == 0)
        return KM_OK;
    rc = km__copy_to_buffer(memory, bytes, size);
    if (rc)
        return rc;
    ((uint8_t *)memory->data)[size - 1]++;
    out->key = km_bytes_of(memory->data, size);
    out->is_set = 1;
    return KM_OK;
}

static km_status check_bound(km_bytes key)
{
    if (!key.data && key.size)
        return KM_E_INVALID;
    return key.size > KM_KEY_SIZE_MAX ? KM_E_TOO_BIG : KM_OK;
}

km_status km__bounds_of_range(const km_range *range, km_buffer *memory, struct key_range *out)
{
    static const struct key_range everything;
    struct sorted_bound prefix_end;
    km_status rc;

    *out = everything;
    if (!range)
        return KM_OK;
    rc = check_bound(range->from);
    if (!rc)
        rc = check_bound(range->to);
    if (!rc)
        rc = check_bound(range->prefix);
    if (!rc)
        rc = end_of_prefix(range->prefix, memory, &prefix_end);
    if (rc)
        return rc;
    out->from.key = range->from;
    if (compare_bytes(range->prefix, range->from) > 0)
        out->from.key = range->prefix;
    out->from.is_set = out->from.key.size != 0;
    out->to.key = range->to;
    out->to.is_set = range->to.data != NULL;
    if (prefix_end.is_set && (!out->to.is_set || compare_bytes(prefix_end.key, out->to.key) < 0))
        out->to = prefix_end;
    return KM_OK;
}

static int is_beyond(const struct key_range *range, km_bytes key)
{
    return range->to.is_set && compare_bytes(key, range->to.key) >= 0;
}

static km_status check_sorted(const km_map *map)
{
    if (km__store_is_forked(map->store))
        return KM_E_FORKED;
    if (km__store_broken(map->store))
        return km__store_broken(map->store);
    if (!map->tree)
        return KM_E_UNSUPPORTED;
    /* pairs with apply_drop() */
    return atomic_load_explicit(&map->dropped, memory_order_acquire) ? KM_E_DROPPED : KM_OK;
}

/* ---- counting ---------------------------------------------------------------------------- */

/* Of a map that has tables: there is no way but to go through it. */
static km_status count_by_cursor(km_map *map, const km_range *range, uint64_t *out_count)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;
    uint64_t count = 0;
    km_status rc;

    if (range)
        options.range = *range;
    rc = km_cursor_open(map, &options, &cursor);
    while (!rc) { /* ends with the keys */
        rc = km_cursor_next(cursor, NULL, NULL);
        count += rc == KM_OK;
    }
    km_cursor_close(cursor);
    if (rc == KM_END)
        *out_count = count;
    return rc == KM_END ? KM_OK : rc;
}

km_status km_count_range(km_map *map, const km_range *range, uint64_t *out_count)
{
    km_buffer memory = KM_BUFFER_INIT;
    struct key_range bounds;
    uint64_t count = 0;
    km_status rc = check_sorted(map);

    if (!rc && km__tables_of(map))
        return count_by_cursor(map, range, out_count);
    if (!rc)
        rc = km__bounds_of_range(range, &memory, &bounds);
    if (!rc) {
        km__epoch_enter();
        rc = km__sorted_count_range(map->tree, bounds.from, bounds.to, &count);
        km__epoch_leave();
    }
    km_buffer_free(&memory);
    if (!rc)
        *out_count = count;
    return rc;
}

/* ---- going through a range --------------------------------------------------------------- */

/* What is done with a record of a range. */
typedef km_status (*range_visit_fn)(void *context, uint64_t ref, const struct log_record *record);

/* Visit every key of a range; the visitor may remove it. Inside an epoch. */
static km_status visit_range(km_map *map, const struct key_range *range, range_visit_fn visit,
                             void *context)
{
    struct sorted_bound from = range->from;
    uint64_t refs[RANGE_GROUP];
    size_t count = 0;
    struct log_record record;
    km_status rc = KM_OK;

    for (;;) { /* ends: `from` moves on, until there are no more */
        rc = km__sorted_read_up(map->tree, from, refs, RANGE_GROUP, &count);
        if (rc || count == 0)
            return rc;
        for (size_t i = 0; i < count; i++)
            km__log_prefetch(map->store->view, refs[i]);
        for (size_t i = 0; i < count; i++) {
            rc = km__record_of(map->store, refs[i], &record);
            if (rc)
                return rc;
            if (is_beyond(range, km_bytes_of(record.key, record.key_size)))
                return KM_OK;
            rc = visit(context, refs[i], &record);
            if (rc)
                return rc;
        }
        from.key = km_bytes_of(record.key, record.key_size);
        from.is_set = from.is_exclusive = 1;
    }
}

struct range_removal {
    km_map *map;
    uint32_t shard_begin, shard_step;
    uint64_t count;
};

static km_status remove_from_range(void *context, uint64_t ref, const struct log_record *record)
{
    struct range_removal *removal = context;
    km_map *map = removal->map;
    uint64_t hash = km__hash_key(&map->store->secret, record->key, record->key_size);
    uint32_t shard = km__hash_partition(hash);

    if (shard % removal->shard_step != removal->shard_begin)
        return KM_OK;
    km__sorted_remove(map->tree, shard, km_bytes_of(record->key, record->key_size), ref,
                      km__size_of_record(record));
    removal->count++;
    return KM_OK;
}

km_status km__remove_range(km_map *map, const struct key_range *range, uint32_t shard_begin,
                           uint32_t shard_step, uint64_t *out_count)
{
    struct range_removal removal = {map, shard_begin, shard_step, 0};
    km_status rc = visit_range(map, range, remove_from_range, &removal);

    *out_count = removal.count;
    return rc;
}

/* ---- deletion ---------------------------------------------------------------------------- */

struct range_deletion {
    km_map *map;
    struct key_range range;
    uint64_t count;
};

static km_status save_from_range(void *context, uint64_t ref, const struct log_record *record)
{
    struct range_deletion *deletion = context;
    struct found found = {ref, *record};
    uint64_t hash = km__hash_key(&deletion->map->store->secret, record->key, record->key_size);

    deletion->count++;
    return km__view_save(deletion->map, hash, &found, 0);
}

/* Every record is looked at before anything is logged, so that the removal cannot fail. */
static km_status prepare_range(struct map_change *change)
{
    struct range_deletion *deletion = change->context;
    km_status rc;

    deletion->count = 0;
    rc = visit_range(deletion->map, &deletion->range, save_from_range, deletion);
    return rc == KM_OK && deletion->count == 0 ? KM_NOT_FOUND : rc;
}

static void apply_range(struct map_change *change)
{
    struct range_deletion *deletion = change->context;
    uint64_t count = 0;

    km__ignore(km__remove_range(deletion->map, &deletion->range, 0, 1, &count),
               "the records were read a moment ago");
}

/* The value of a range record: a byte that tells whether there is an end, then the end. */
static km_status encode_end(const struct sorted_bound *to, km_buffer *out)
{
    size_t size = 1 + (to->is_set ? to->key.size : 0);
    km_status rc = km__buffer_reserve(out, size);

    if (rc)
        return rc;
    out->size = size;
    ((uint8_t *)out->data)[0] = to->is_set ? 1 : 0;
    if (size > 1)
        memcpy((uint8_t *)out->data + 1, to->key.data, size - 1);
    return KM_OK;
}

km_status km__range_of_record(const struct log_record *record, struct key_range *out)
{
    static const struct key_range everything;
    const uint8_t *value = record->value;

    if (record->value_size == 0 || value[0] > 1 || (value[0] == 0 && record->value_size != 1))
        return KM_E_CORRUPT;
    *out = everything;
    out->from.key = km_bytes_of(record->key, record->key_size);
    out->from.is_set = record->key_size != 0;
    out->to.key = km_bytes_of(value + 1, record->value_size - 1);
    out->to.is_set = value[0];
    return KM_OK;
}

static km_status delete_bounds(struct range_deletion *deletion, km_durability durability,
                               uint64_t *out_position)
{
    struct map_change change = {
        .map = deletion->map, .prepare = prepare_range, .apply = apply_range, .context = deletion};
    km_buffer end = KM_BUFFER_INIT;
    km_status rc = encode_end(&deletion->range.to, &end);

    if (!rc && km__log_is_large(
                   deletion->map->store->log,
                   km__record_size(0, (uint32_t)end.size, (uint16_t)deletion->range.from.key.size)))
        rc = KM_E_TOO_BIG;
    if (!rc) {
        change.record.kind = RECORD_RANGE_DELETED;
        change.key = deletion->range.from.key.data;
        change.record.key_size = (uint16_t)deletion->range.from.key.size;
        change.value = end.data;
        change.record.value_size = (uint32_t)end.size;
        rc = km__map_change(&change);
        *out_position = change.space.position;
    }
    if (!rc && durability == KM_DURABLE_POWER)
        rc = km__log_wait_durable(deletion->map->store->log, change.space.position + 1);
    km_buffer_free(&end);
    return rc;
}

static km_status check_range_write(const km_map *map, const km_write *write)
{
    km_bytes none = {NULL, 0};
    km_status rc = check_sorted(map);

    if (!rc && km__tables_of(map))
        rc = KM_E_UNSUPPORTED;
    if (!rc)
        rc = km__check_write(write, none, none);
    if (!rc && write && (write->previous || write->condition || write->ttl_ms))
        rc = KM_E_INVALID;
    if (!rc)
        rc = km__check_writable(map->store);
    if (!rc && km__effective_durability(map->store, write) == KM_DURABLE_POWER &&
        km__epoch_ongoing())
        rc = KM_WOULD_BLOCK;
    return rc;
}

km_status km_del_range(km_map *map, const km_range *range, km_write *write, uint64_t *out_count)
{
    struct range_deletion deletion = {.map = map};
    km_buffer memory = KM_BUFFER_INIT;
    uint64_t position = 0;
    km_status rc = check_range_write(map, write);

    if (!rc)
        rc = km__bounds_of_range(range, &memory, &deletion.range);
    if (!rc)
        rc = delete_bounds(&deletion, km__effective_durability(map->store, write), &position);
    km_buffer_free(&memory);
    if (rc && rc != KM_NOT_FOUND)
        return rc;
    if (write) {
        write->existed = rc == KM_OK;
        write->position = rc == KM_OK ? position : 0;
    }
    if (out_count)
        *out_count = rc == KM_OK ? deletion.count : 0;
    return KM_OK;
}
