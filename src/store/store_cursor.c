/* SPDX-License-Identifier: Apache-2.0
 *
 * store_cursor.c -- a walk over a map, a node of its index at a time.
 *
 * The references of a whole node are copied at once, so what other threads do to the node in the
 * meantime neither repeats nor loses a key. The records they lead to stay as long as the cursor
 * pins the log, which it does anew for each node. No read section is held between calls.
 */
#include "store/store_internal.h"

#define CURSOR_REFS (HASH_NODE_LINES_MAX * 8u)
#define CURSOR_AHEAD 16u

struct km_cursor {
    km_map *map;
    struct hash_walk walk;
    struct log_pin pin; /* keeps what refs lead to */
    int has_pin;
    uint64_t *refs; /* of the node */
    size_t count, next;
    int is_last_node;
    km_buffer key, value;
};

km_status km_cursor_open(km_map *map, km_cursor **out_cursor)
{
    const struct allocator *allocator = map->store->allocator;
    km_cursor *cursor;

    if (km__store_is_forked(map->store))
        return KM_E_FORKED;
    if (atomic_load_explicit(&map->dropped, memory_order_acquire)) /* pairs with mark_dropped() */
        return KM_E_DROPPED;
    cursor = km__allocate(allocator, sizeof(*cursor));
    if (!cursor)
        return KM_E_NO_MEMORY;
    cursor->map = map;
    cursor->refs = km__allocate(allocator, CURSOR_REFS * sizeof(*cursor->refs));
    if (!cursor->refs) {
        km_cursor_close(cursor);
        return KM_E_NO_MEMORY;
    }
    *out_cursor = cursor;
    return KM_OK;
}

static void unpin_cursor(km_cursor *cursor)
{
    struct km_store *store = cursor->map->store;

    if (cursor->has_pin && !km__store_is_forked(store)) /* a child has no log */
        km__log_unpin(store->log, &cursor->pin);
    cursor->has_pin = 0;
}

void km_cursor_close(km_cursor *cursor)
{
    const struct allocator *allocator;

    if (!cursor)
        return;
    allocator = cursor->map->store->allocator;
    unpin_cursor(cursor);
    km_buffer_free(&cursor->key);
    km_buffer_free(&cursor->value);
    km__release(allocator, cursor->refs, CURSOR_REFS * sizeof(*cursor->refs));
    km__release(allocator, cursor, sizeof(*cursor));
}

static km_status copy_to(km_buffer *buffer, const uint8_t *bytes, size_t size)
{
    km_status rc = km__buffer_reserve(buffer, size ? size : 1);

    if (rc)
        return rc;
    buffer->size = size;
    memcpy(buffer->data, bytes, size);
    return KM_OK;
}

/* Copy the references of the next node. The pin comes first: what is read after it is kept by it.
 */
static km_status next_node(km_cursor *cursor)
{
    struct km_store *store = cursor->map->store;

    unpin_cursor(cursor);
    km__log_pin(store->log, &cursor->pin);
    cursor->has_pin = 1;
    cursor->count = cursor->next = 0;
    return km__hash_walk_next(cursor->map->index, &cursor->walk, cursor->refs, &cursor->count,
                              &cursor->is_last_node);
}

/* The next reference that is a record's; KM_END at the walk's end. */
static km_status next_ref(km_cursor *cursor, uint64_t *out_ref)
{
    km_status rc;

    for (;;) { /* ends with the walk */
        while (cursor->next < cursor->count) {
            uint64_t ref = cursor->refs[cursor->next++];

            if (cursor->next + CURSOR_AHEAD < cursor->count)
                km__log_prefetch(cursor->map->store->view,
                                 cursor->refs[cursor->next + CURSOR_AHEAD]);
            if (ref < LOG_PLACEHOLDER_BASE) {
                *out_ref = ref;
                return KM_OK;
            }
        }
        if (cursor->is_last_node)
            return KM_END;
        rc = next_node(cursor);
        if (rc == KM_E_CORRUPT) { /* a node of the image */
            km__note_image_damage(cursor->map->store);
            rc = km__mend_index(cursor->map->store);
        }
        if (rc)
            return rc;
    }
}

static km_status next_record(km_cursor *cursor)
{
    const struct log_view *view = cursor->map->store->view;
    struct log_record record;
    uint64_t ref;
    km_status rc = next_ref(cursor, &ref);

    if (rc)
        return rc;
    if (!km__log_record_at(view, ref, &record) ||
        (record.unverified && !km__log_record_verify(view, ref, &record)))
        return KM_E_CORRUPT;
    rc = copy_to(&cursor->key, record.key, record.key_size);
    if (!rc)
        rc = copy_to(&cursor->value, record.value, record.value_size);
    if (rc)
        cursor->next--; /* no memory: the next call tries the same record */
    return rc;
}

km_status km_cursor_next(km_cursor *cursor, km_bytes *out_key, km_bytes *out_value)
{
    km_status rc;

    if (km__store_is_forked(cursor->map->store))
        return KM_E_FORKED;
    if (km__store_broken(cursor->map->store))
        return km__store_broken(cursor->map->store);
    km__epoch_enter();
    rc = next_record(cursor);
    km__epoch_leave();
    if (rc)
        return rc;
    if (out_key)
        *out_key = km_bytes_of(cursor->key.data, cursor->key.size);
    if (out_value)
        *out_value = km_bytes_of(cursor->value.data, cursor->value.size);
    return KM_OK;
}
