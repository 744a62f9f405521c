/* SPDX-License-Identifier: Apache-2.0
 *
 * store_cursor.c -- cursors: walks over maps of every kind, with or without a snapshot.
 *
 * A cursor copies a *batch* of references at once (store_cursor_walk.c, store_cursor_snapshot.c),
 * and decodes a *group* of them at once, so that their cache misses overlap; next and previous then
 * hand out what is decoded. No read section is held between calls.
 *
 * I1. The batch is what lies between the edges `low` and `high`; the cursor stands at `at` in it.
 *     The next batch begins at `high` or ends at `low`. So a step back meets what the step before
 *     met, whatever was decoded in between.
 * I2. What the references lead to stays: the log is pinned before they are copied, or the snapshot
 *     pins it. A pin taken earlier keeps more, so it need not be renewed before the head moves.
 * I3. Bytes in a file mapping are handed out where they lie. Those in memory that a mapping will
 *     replace are copied.
 * I4. When a walk fails or there is no more, the batch and its edges are as they were.
 */
#include "store/store_cursor_internal.h"
#include "store/store_tables.h"

#define CURSOR_AHEAD 16u
#define CURSOR_COPIES_MIN (UINT64_C(16) << 10)

/* ---- opening and closing ----------------------------------------------------------------- */

static km_status check_cursor_map(const km_map *map, const struct km_snapshot *snapshot)
{
    if (km__store_is_forked(map->store))
        return KM_E_FORKED;
    if (km__store_broken(map->store))
        return km__store_broken(map->store);
    if (snapshot)
        return snapshot->store == map->store && km__snapshot_has_map(snapshot, map) ? KM_OK
                                                                                    : KM_E_INVALID;
    /* acquire: pairs with apply_drop() */
    return atomic_load_explicit(&map->dropped, memory_order_acquire) ? KM_E_DROPPED : KM_OK;
}

static km_status check_cursor_options(const km_map *map, const km_cursor_options *options)
{
    const km_range *range = &options->range;

    if (!map->tree && (range->from.size || range->to.data || range->to.size || range->prefix.size))
        return KM_E_UNSUPPORTED;
    return options->reverse && map->kind == KM_HASH ? KM_E_UNSUPPORTED : KM_OK;
}

static km_status keep_bound(struct sorted_bound *bound, km_buffer *buffer)
{
    km_status rc;

    if (!bound->is_set)
        return KM_OK;
    rc = km__copy_to_buffer(buffer, bound->key.data, bound->key.size);
    bound->key.data = buffer->data ? buffer->data : "";
    return rc;
}

static km_status keep_range(km_cursor *cursor, const km_range *range)
{
    km_buffer memory = KM_BUFFER_INIT;
    km_status rc = km__bounds_of_range(range, &memory, &cursor->range);

    if (!rc)
        rc = keep_bound(&cursor->range.from, &cursor->range_from);
    if (!rc)
        rc = keep_bound(&cursor->range.to, &cursor->range_to);
    km_buffer_free(&memory);
    return rc;
}

static km_status allocate_batch(km_cursor *cursor, struct cursor_batch *batch)
{
    size_t capacity = cursor->map->kind == KM_HASH ? CURSOR_NODE : CURSOR_GROUP;

    batch->refs = km__allocate(cursor->map->store->allocator, capacity * sizeof(*batch->refs));
    batch->capacity = batch->refs ? capacity : 0;
    return batch->refs ? KM_OK : KM_E_NO_MEMORY;
}

/* Room for a key at both edges, so that stand_at() cannot fail. */
static km_status reserve_edges(km_cursor *cursor, km_bytes key)
{
    km_status rc = km__buffer_reserve(&cursor->low.key, key.size);

    return rc ? rc : km__buffer_reserve(&cursor->high.key, key.size);
}

/* Forget the batch; the next one begins, or ends, at `edge`, whose key is in `key`. */
static void stand_at(km_cursor *cursor, const struct cursor_edge *edge, km_bytes key)
{
    struct cursor_edge *ends[2] = {&cursor->low, &cursor->high};

    for (int i = 0; i < 2; i++) {
        ends[i]->ordinal = edge->ordinal;
        ends[i]->place = edge->place;
        km__ignore(km__copy_to_buffer(&ends[i]->key, key.data, key.size), "there is room");
    }
    cursor->batch.count = cursor->at = cursor->last = 0;
    cursor->group_first = cursor->group_end = 0;
    cursor->group_max = CURSOR_GROUP_FIRST;
}

/* Before the first key, or behind the last, of the range. */
static km_status stand_at_start(km_cursor *cursor)
{
    const struct sorted_bound *bound = cursor->is_reverse ? &cursor->range.to : &cursor->range.from;
    struct cursor_edge edge = {0};
    km_bytes key = {NULL, 0};
    km_status rc;

    edge.place = cursor->is_reverse ? CURSOR_LAST : CURSOR_FIRST;
    edge.ordinal = cursor->is_reverse ? UINT64_MAX : 0;
    if (bound->is_set) {
        edge.place = CURSOR_BEFORE;
        key = bound->key;
    }
    rc = reserve_edges(cursor, key);
    if (!rc)
        stand_at(cursor, &edge, key);
    return rc;
}

/* What a cursor on the map itself needs. */
static km_status begin_own(km_cursor *cursor, const km_cursor_options *options)
{
    km_status rc = allocate_batch(cursor, &cursor->batch);

    if (!rc)
        rc = allocate_batch(cursor, &cursor->spare);
    if (!rc && cursor->map->tree)
        rc = keep_range(cursor, &options->range);
    return rc ? rc : stand_at_start(cursor);
}

static km_status open_cursor(km_map *map, const km_cursor_options *options, int is_own,
                             km_cursor **out_cursor)
{
    const struct km_store *store = map->store;
    const struct table_stack *stack;
    km_cursor *cursor;
    km_status rc = check_cursor_map(map, options->snapshot);

    if (!rc)
        rc = check_cursor_options(map, options);
    if (rc)
        return rc;
    cursor = km__allocate(store->allocator, sizeof(*cursor));
    if (!cursor)
        return KM_E_NO_MEMORY;
    cursor->map = map;
    cursor->snapshot = options->snapshot;
    cursor->is_reverse = options->reverse != 0;
    cursor->shows_hidden = is_own;
    cursor->is_kept = !store->dir || store->options.keep_in_memory;
    stack = is_own ? NULL : km__tables_of(map);
    rc = stack ? km__stack_walk_open(cursor, stack, options) : begin_own(cursor, options);
    if (rc) {
        km_cursor_close(cursor);
        return rc;
    }
    *out_cursor = cursor;
    return KM_OK;
}

km_status km_cursor_open(km_map *map, const km_cursor_options *options, km_cursor **out_cursor)
{
    static const km_cursor_options plain = KM_CURSOR_OPTIONS_INIT;

    if (!options)
        options = &plain;
    if (options->struct_size < sizeof(*options))
        return KM_E_INVALID;
    return open_cursor(map, options, 0, out_cursor);
}

km_status km__cursor_open_own(km_map *map, const km_cursor_options *options, km_cursor **out_cursor)
{
    return open_cursor(map, options, 1, out_cursor);
}

static void release_batch(const km_cursor *cursor, struct cursor_batch *batch)
{
    km__release(cursor->map->store->allocator, batch->refs, batch->capacity * sizeof(*batch->refs));
}

void km_cursor_close(km_cursor *cursor)
{
    struct km_store *store;

    if (!cursor)
        return;
    store = cursor->map->store;
    km__stack_walk_close(cursor);
    if (cursor->has_pin && !km__store_is_forked(store)) /* a child has no log */
        km__log_unpin(store->log, &cursor->pins[cursor->pin_index]);
    release_batch(cursor, &cursor->batch);
    release_batch(cursor, &cursor->spare);
    km_buffer_free(&cursor->range_from);
    km_buffer_free(&cursor->range_to);
    km_buffer_free(&cursor->low.key);
    km_buffer_free(&cursor->high.key);
    km_buffer_free(&cursor->far.key);
    km_buffer_free(&cursor->copies);
    km__release(store->allocator, cursor, sizeof(*cursor));
}

/* ---- the next batch ---------------------------------------------------------------------- */

/* Pin the log as it is now, besides the batch's own pin. 0: that one does, or the snapshot's. */
static int begin_pin(km_cursor *cursor)
{
    struct log *log = cursor->map->store->log;

    if (cursor->snapshot ||
        (cursor->has_pin && cursor->pins[cursor->pin_index].number == km__log_head_number(log)))
        return 0;
    km__log_pin(log, &cursor->pins[!cursor->pin_index]);
    return 1;
}

/* Keep the new pin for the new batch, or let it go. */
static void end_pin(km_cursor *cursor, int is_new_used)
{
    struct log *log = cursor->map->store->log;

    if (!is_new_used) {
        km__log_unpin(log, &cursor->pins[!cursor->pin_index]);
        return;
    }
    if (cursor->has_pin)
        km__log_unpin(log, &cursor->pins[cursor->pin_index]);
    cursor->pin_index = !cursor->pin_index;
    cursor->has_pin = 1;
}

static void swap_edges(struct cursor_edge *a, struct cursor_edge *b)
{
    struct cursor_edge kept = *a;

    *a = *b;
    *b = kept;
}

/* What the walk found is the batch now (I1). */
static void take_batch(km_cursor *cursor, enum cursor_way way)
{
    struct cursor_batch kept = cursor->batch;

    cursor->batch = cursor->spare;
    cursor->spare = kept;
    swap_edges(&cursor->low, &cursor->high); /* upwards: low begins where high was */
    swap_edges(way == CURSOR_UP ? &cursor->high : &cursor->low, &cursor->far);
    cursor->at = way == CURSOR_UP ? 0 : cursor->batch.count;
    cursor->group_first = cursor->group_end = cursor->at;
}

static km_status walk_once(km_cursor *cursor, enum cursor_way way)
{
    int has_new_pin = begin_pin(cursor);
    km_status rc;

    km__epoch_enter();
    rc = cursor->snapshot ? km__cursor_walk_snapshot(cursor, way) : km__cursor_walk(cursor, way);
    if (!rc)
        take_batch(cursor, way);
    km__epoch_leave();
    if (has_new_pin)
        end_pin(cursor, rc == KM_OK);
    return rc;
}

/* Fetch the next batch that way; KM_END: there is none. */
static km_status turn_batch(km_cursor *cursor, enum cursor_way way)
{
    struct km_store *store = cursor->map->store;
    km_status rc;

    do { /* ends: the index is mended, or it cannot be */
        rc = walk_once(cursor, way);
        if (rc != KM_E_CORRUPT || cursor->map->kind != KM_HASH)
            break;
        km__note_image_damage(store); /* it was a node of the image: no record is read here */
        rc = km__mend_index(store);
    } while (!rc);
    /* a drop empties the map: the keys that are missing may have been there until then. Acquire:
     * pairs with apply_drop() */
    if (rc == KM_END && !cursor->snapshot &&
        atomic_load_explicit(&cursor->map->dropped, memory_order_acquire))
        rc = KM_E_DROPPED;
    return rc;
}

/* ---- the next group ---------------------------------------------------------------------- */

/* Copy a record's bytes. KM_END: there is no room in this group. */
static km_status copy_entry(km_cursor *cursor, const struct log_record *record,
                            struct cursor_entry *entry)
{
    km_buffer *copies = &cursor->copies;
    size_t size = (size_t)record->value_size + record->key_size;
    size_t room = (size_t)km__round_up(size, RECORD_ALIGNMENT);
    uint8_t *copy;
    km_status rc = KM_OK;

    if (copies->size + room > copies->capacity || !copies->data) {
        if (copies->size)
            return KM_END; /* what is in it must stay in place */
        rc = km__buffer_reserve(copies, room > CURSOR_COPIES_MIN ? room : CURSOR_COPIES_MIN);
    }
    if (rc)
        return rc;
    copy = (uint8_t *)copies->data + copies->size;
    memcpy(copy, record->value, size); /* the key lies behind the value */
    copies->size += room;
    entry->value = copy;
    entry->key = copy + record->value_size;
    return KM_OK;
}

/* KM_END: the group ends before it. */
static km_status decode_entry(km_cursor *cursor, size_t index, uint64_t *group_bytes)
{
    const struct km_store *store = cursor->map->store;
    struct cursor_entry *entry = &cursor->entries[index % CURSOR_GROUP];
    uint64_t ref = cursor->batch.refs[index];
    struct log_record record;

    if (KM_UNLIKELY(ref >= LOG_PLACEHOLDER_BASE)) {
        entry->status = KM_NOT_FOUND; /* a change under way: its key is not there yet */
        return KM_OK;
    }
    entry->status = (int16_t)km__record_of(store, ref, &record);
    if (KM_UNLIKELY(entry->status))
        return KM_OK; /* to be told when the cursor comes to it */
    if (km__is_expired(store, &record)) {
        entry->status = cursor->shows_hidden ? CURSOR_HIDDEN : KM_NOT_FOUND;
        if (!cursor->shows_hidden)
            return KM_OK;
    }
    *group_bytes += (uint64_t)record.value_size + record.key_size;
    entry->key = record.key;
    entry->value = record.value;
    entry->key_size = record.key_size;
    entry->value_size = record.value_size;
    return record.unverified || cursor->is_kept ? KM_OK : copy_entry(cursor, &record, entry);
}

static void prefetch_entry(const km_cursor *cursor, size_t index)
{
    if (index < cursor->batch.count)
        km__log_prefetch(cursor->map->store->view, cursor->batch.refs[index]);
}

/* Decode what lies that way of the cursor in the batch; at least one entry. */
static km_status decode_group(km_cursor *cursor, enum cursor_way way)
{
    size_t left = way == CURSOR_UP ? cursor->batch.count - cursor->at : cursor->at;
    size_t max = left < cursor->group_max ? left : cursor->group_max;
    uint64_t bytes = 0;
    size_t count = 0;
    km_status rc = KM_OK;

    cursor->copies.size = 0;
    cursor->group_first = cursor->group_end = cursor->at;
    for (size_t i = 0; i < CURSOR_AHEAD && i < max; i++)
        prefetch_entry(cursor, way == CURSOR_UP ? cursor->at + i : cursor->at - 1 - i);
    while (!rc && count < max && bytes < CURSOR_GROUP_BYTES) {
        size_t index = way == CURSOR_UP ? cursor->at + count : cursor->at - 1 - count;

        if (count + CURSOR_AHEAD < max)
            prefetch_entry(cursor, way == CURSOR_UP ? index + CURSOR_AHEAD : index - CURSOR_AHEAD);
        rc = decode_entry(cursor, index, &bytes);
        count += rc == KM_OK;
    }
    if (way == CURSOR_UP)
        cursor->group_end += count;
    else
        cursor->group_first -= count;
    if (cursor->group_max < CURSOR_GROUP)
        cursor->group_max *= 2;
    return count ? KM_OK : rc;
}

/* Make the entry that way of the cursor a decoded one; KM_END: there is none. */
static KM_NOINLINE km_status ready_slow(km_cursor *cursor, enum cursor_way way)
{
    km_status rc = KM_OK;

    while (!rc && cursor->at == (way == CURSOR_UP ? cursor->batch.count : 0))
        rc = turn_batch(cursor, way); /* ends: each batch lies beyond the one before */
    if (rc)
        return rc;
    km__epoch_enter();
    rc = decode_group(cursor, way);
    km__epoch_leave();
    return rc;
}

/* ---- moving ------------------------------------------------------------------------------ */

/* Move over the next entry that is there. */
static inline km_status step(km_cursor *cursor, enum cursor_way way)
{
    cursor->last = 0;
    for (;;) { /* ends: the cursor moves on */
        size_t index = way == CURSOR_UP ? cursor->at : cursor->at - 1;
        int status;

        if (index < cursor->group_first || index >= cursor->group_end) {
            km_status rc = ready_slow(cursor, way);

            if (rc)
                return rc;
            index = way == CURSOR_UP ? cursor->at : cursor->at - 1;
        }
        cursor->at = way == CURSOR_UP ? index + 1 : index;
        status = cursor->entries[index % CURSOR_GROUP].status;
        if (KM_LIKELY(status == KM_OK || status == CURSOR_HIDDEN))
            cursor->last = index + 1;
        if (KM_LIKELY(status != KM_NOT_FOUND))
            return (km_status)status;
    }
}

km_status km__cursor_step(km_cursor *cursor, enum cursor_way way, km_bytes *out_key,
                          km_bytes *out_value)
{
    km_status rc = step(cursor, way);
    const struct cursor_entry *entry;

    if (rc && rc != CURSOR_HIDDEN)
        return rc;
    entry = &cursor->entries[(cursor->last - 1) % CURSOR_GROUP];
    *out_key = km_bytes_of(entry->key, entry->key_size);
    *out_value = km_bytes_of(entry->value, entry->value_size);
    return rc;
}

static km_status move_cursor(km_cursor *cursor, enum cursor_way way, km_bytes *out_key,
                             km_bytes *out_value)
{
    const struct km_store *store = cursor->map->store;
    const struct cursor_entry *entry;
    km_status rc;

    if (km__store_is_forked(store))
        return KM_E_FORKED;
    rc = km__store_broken(store);
    if (KM_UNLIKELY(rc))
        return rc;
    if (KM_UNLIKELY(cursor->walk != NULL))
        return km__stack_walk_move(cursor, way == CURSOR_DOWN, out_key, out_value);
    rc = way == CURSOR_UP ? step(cursor, CURSOR_UP) : step(cursor, CURSOR_DOWN);
    if (KM_UNLIKELY(rc))
        return rc;
    entry = &cursor->entries[(cursor->last - 1) % CURSOR_GROUP];
    if (out_key)
        *out_key = km_bytes_of(entry->key, entry->key_size);
    if (out_value)
        *out_value = km_bytes_of(entry->value, entry->value_size);
    return KM_OK;
}

km_status km_cursor_next(km_cursor *cursor, km_bytes *out_key, km_bytes *out_value)
{
    return move_cursor(cursor, cursor->is_reverse ? CURSOR_DOWN : CURSOR_UP, out_key, out_value);
}

km_status km_cursor_previous(km_cursor *cursor, km_bytes *out_key, km_bytes *out_value)
{
    if (cursor->map->kind == KM_HASH && !km__store_is_forked(cursor->map->store))
        return KM_E_UNSUPPORTED;
    return move_cursor(cursor, cursor->is_reverse ? CURSOR_UP : CURSOR_DOWN, out_key, out_value);
}

km_status km__cursor_own_info(const km_cursor *cursor, km_key_info *out_info)
{
    const struct km_store *store = cursor->map->store;
    struct log_record record;
    uint64_t ref;
    km_status rc = KM_E_CORRUPT;

    if (!cursor->last)
        return KM_NOT_FOUND;
    ref = cursor->batch.refs[cursor->last - 1];
    km__epoch_enter();
    if (km__log_record_at(store->view, ref, &record)) { /* it was verified when it was decoded */
        km__fill_info(store, ref, &record, out_info);
        rc = KM_OK;
    }
    km__epoch_leave();
    return rc;
}

km_status km_cursor_info(const km_cursor *cursor, km_key_info *out_info)
{
    if (km__store_is_forked(cursor->map->store))
        return KM_E_FORKED;
    return cursor->walk ? km__stack_walk_info(cursor, out_info)
                        : km__cursor_own_info(cursor, out_info);
}

/* ---- seeking ----------------------------------------------------------------------------- */

static km_status seek_sorted(km_cursor *cursor, km_bytes key)
{
    const struct key_range *range = &cursor->range;
    struct cursor_edge edge = {0};
    km_status rc;

    edge.place = cursor->is_reverse ? CURSOR_AFTER : CURSOR_BEFORE;
    if (range->to.is_set && km__cursor_compare(key, range->to.key) >= 0) {
        edge.place = CURSOR_BEFORE;
        key = range->to.key;
    } else if (range->from.is_set && km__cursor_compare(key, range->from.key) < 0) {
        edge.place = CURSOR_BEFORE;
        key = range->from.key;
    }
    rc = reserve_edges(cursor, key);
    if (!rc)
        stand_at(cursor, &edge, key);
    return rc;
}

static km_status find_ordinal_of(const km_cursor *cursor, km_bytes key, uint64_t *out_ordinal)
{
    const km_map *map = cursor->map;
    uint64_t hash = km__hash_key(&map->store->secret, key.data, key.size);
    struct found found;
    km_status rc;

    km__epoch_enter();
    rc = cursor->snapshot ? km__find_in_snapshot(cursor->snapshot, map, hash, key, &found)
                          : km__find_in_map(map, hash, key, &found);
    if (!rc && km__is_expired(map->store, &found.record))
        rc = KM_NOT_FOUND;
    if (!rc)
        *out_ordinal = km__ordinal_of(&found.record);
    km__epoch_leave();
    return rc;
}

static km_status seek_in_order(km_cursor *cursor, km_bytes key)
{
    struct cursor_edge edge = {0};
    km_bytes none = {NULL, 0};
    uint64_t ordinal = 0;
    km_status rc = find_ordinal_of(cursor, key, &ordinal);

    if (rc)
        return rc;
    edge.ordinal = ordinal + (cursor->is_reverse != 0);
    stand_at(cursor, &edge, none);
    return KM_OK;
}

km_status km_cursor_seek(km_cursor *cursor, km_bytes key)
{
    km_status rc = check_cursor_map(cursor->map, cursor->snapshot);

    if (rc)
        return rc;
    if (cursor->map->kind == KM_HASH)
        return KM_E_UNSUPPORTED;
    if (key.size > KM_KEY_SIZE_MAX || (!key.data && key.size))
        return KM_E_INVALID;
    if (cursor->walk)
        return km__stack_walk_seek(cursor, key);
    return cursor->map->tree ? seek_sorted(cursor, key) : seek_in_order(cursor, key);
}
