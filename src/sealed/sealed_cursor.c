/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_cursor.c -- walks over a table.
 *
 * I1. A cursor stands before record `at`, counted from 0 in the order of keys; begin <= at <= end.
 *     Its range is the records from begin to end.
 * I2. If block_is_there, `block` is that of `place`, whose bytes are in the window, and the first
 *     block.prefix_size bytes of `key` are its prefix.
 */
#include <string.h>

#include "sealed/sealed_internal.h"

struct km_sealed_cursor {
    const km_sealed *table;
    uint64_t begin, end;
    uint64_t at;
    int is_reverse;
    int block_is_there;
    struct sealed_place place;
    struct sealed_block block;
    struct sealed_window window;
    uint8_t *key;
    size_t key_capacity;
};

/* ---- positions --------------------------------------------------------------------------- */

/* The first record that is not before a key; *out_is_there: whether it is of that key. */
static km_status sealed_rank_of(km_sealed_cursor *cursor, km_bytes key, uint64_t *out_record,
                                int *out_is_there)
{
    const km_sealed *table = cursor->table;
    struct sealed_group group;
    struct sealed_place place;
    struct sealed_block block;
    uint32_t index = 0;
    km_status rc;

    if (key.size > KM_KEY_SIZE_MAX || (key.size && !key.data))
        return KM_E_INVALID;
    *out_is_there = 0;
    if (table->footer.count == 0) {
        *out_record = 0;
        return KM_OK;
    }
    cursor->block_is_there = 0; /* its window moves */
    km__sealed_find_place(table, key, &group, &place);
    rc = km__sealed_window_load_alone(&cursor->window, &place, &block);
    if (!rc)
        rc = km__sealed_block_find(&block, key, &index);
    if (rc && rc != KM_NOT_FOUND)
        return rc;
    *out_record = place.first_record + index;
    *out_is_there = rc == KM_OK;
    return KM_OK;
}

/* Move the end of the range to a key. */
static km_status sealed_cut_before(km_sealed_cursor *cursor, km_bytes key)
{
    uint64_t record = 0;
    int is_there;
    km_status rc = sealed_rank_of(cursor, key, &record, &is_there);

    if (!rc && record < cursor->end)
        cursor->end = record;
    return rc;
}

static km_status sealed_cut_after(km_sealed_cursor *cursor, km_bytes key)
{
    uint64_t record = 0;
    int is_there;
    km_status rc = sealed_rank_of(cursor, key, &record, &is_there);

    if (!rc && record > cursor->begin)
        cursor->begin = record;
    return rc;
}

/* Only keys before what comes behind all that begin with a prefix: the prefix with its last byte
 * that can be raised raised, and cut there; if there is none, nothing comes behind them. */
static km_status sealed_cut_behind_prefix(km_sealed_cursor *cursor, km_bytes prefix)
{
    const struct allocator *allocator = &cursor->table->os->allocator;
    size_t size = prefix.size;
    uint8_t *behind;
    km_status rc;

    while (size > 0 && ((const uint8_t *)prefix.data)[size - 1] == 0xff)
        size--;
    if (size == 0)
        return KM_OK;
    behind = km__allocate(allocator, size);
    if (!behind)
        return KM_E_NO_MEMORY;
    memcpy(behind, prefix.data, size);
    behind[size - 1]++;
    rc = sealed_cut_before(cursor, km_bytes_of(behind, size));
    km__release(allocator, behind, size);
    return rc;
}

static km_status sealed_set_begin(km_sealed_cursor *cursor, const km_range *range)
{
    km_status rc = KM_OK;

    if (range->from.data)
        rc = sealed_cut_after(cursor, range->from);
    if (!rc && range->prefix.size)
        rc = sealed_cut_after(cursor, range->prefix);
    return rc;
}

static km_status sealed_set_end(km_sealed_cursor *cursor, const km_range *range)
{
    km_status rc = KM_OK;

    if (range->to.data)
        rc = sealed_cut_before(cursor, range->to);
    if (!rc && range->prefix.size)
        rc = sealed_cut_behind_prefix(cursor, range->prefix);
    return rc;
}

/* The window need not have more than the blocks of the range. */
static void sealed_bound_window(km_sealed_cursor *cursor)
{
    struct sealed_place place;

    if (cursor->begin == cursor->end)
        return;
    km__sealed_place_of_record(cursor->table, cursor->begin, &place);
    cursor->window.begin = place.offset;
    km__sealed_place_of_record(cursor->table, cursor->end - 1, &place);
    cursor->window.end = place.offset + place.size;
}

/* Where the walk begins is looked up last: its block is in the window then. */
static km_status sealed_set_range(km_sealed_cursor *cursor, const km_range *range)
{
    km_status rc;

    cursor->begin = 0;
    cursor->end = cursor->table->footer.count;
    if (range->prefix.size > KM_KEY_SIZE_MAX || (range->prefix.size && !range->prefix.data))
        return KM_E_INVALID;
    rc = cursor->is_reverse ? sealed_set_begin(cursor, range) : sealed_set_end(cursor, range);
    if (!rc)
        rc = cursor->is_reverse ? sealed_set_end(cursor, range) : sealed_set_begin(cursor, range);
    if (rc)
        return rc;
    if (cursor->begin > cursor->end)
        cursor->begin = cursor->end;
    sealed_bound_window(cursor);
    return KM_OK;
}

/* ---- open, close ------------------------------------------------------------------------- */

km_status km_sealed_cursor_open(const km_sealed *table, const km_sealed_cursor_options *options,
                                km_sealed_cursor **out_cursor)
{
    km_sealed_cursor_options own = KM_SEALED_CURSOR_OPTIONS_INIT;
    km_sealed_cursor *cursor = km__allocate(&table->os->allocator, sizeof(*cursor));
    km_status rc;

    if (!cursor)
        return KM_E_NO_MEMORY;
    if (options)
        memcpy(&own, options,
               options->struct_size < sizeof(own) ? options->struct_size : sizeof(own));
    cursor->table = table;
    cursor->is_reverse = own.reverse;
    km__sealed_window_init(&cursor->window, table);
    rc = sealed_set_range(cursor, &own.range);
    if (rc) {
        km_sealed_cursor_close(cursor);
        return rc;
    }
    cursor->at = cursor->is_reverse ? cursor->end : cursor->begin;
    *out_cursor = cursor;
    return KM_OK;
}

void km_sealed_cursor_close(km_sealed_cursor *cursor)
{
    const struct allocator *allocator;

    if (!cursor)
        return;
    allocator = &cursor->table->os->allocator;
    km__sealed_window_fini(&cursor->window);
    km__release(allocator, cursor->key, cursor->key_capacity);
    km__release(allocator, cursor, sizeof(*cursor));
}

uint64_t km_sealed_cursor_count(const km_sealed_cursor *cursor)
{
    return cursor->end - cursor->begin;
}

/* ---- records ----------------------------------------------------------------------------- */

/* Room for a key; its first `kept_size` bytes stay. */
static km_status sealed_cursor_enlarge_key(km_sealed_cursor *cursor, size_t size, size_t kept_size)
{
    const struct allocator *allocator = &cursor->table->os->allocator;
    size_t capacity = size < 64 ? 64 : 2 * size;
    uint8_t *key = km__allocate(allocator, capacity);

    if (!key)
        return KM_E_NO_MEMORY;
    if (kept_size)
        memcpy(key, cursor->key, kept_size);
    km__release(allocator, cursor->key, cursor->key_capacity);
    cursor->key = key;
    cursor->key_capacity = capacity;
    return KM_OK;
}

static km_status sealed_cursor_load(km_sealed_cursor *cursor, uint64_t record)
{
    km_status rc;

    cursor->block_is_there = 0;
    km__sealed_place_of_record(cursor->table, record, &cursor->place);
    rc = km__sealed_window_load(&cursor->window, &cursor->place, &cursor->block);
    if (!rc && cursor->block.prefix_size >= cursor->key_capacity)
        rc = sealed_cursor_enlarge_key(cursor, cursor->block.prefix_size, 0);
    if (rc)
        return rc;
    if (cursor->block.prefix_size)
        memcpy(cursor->key, cursor->block.prefix, cursor->block.prefix_size);
    cursor->block_is_there = 1;
    return KM_OK;
}

static int sealed_cursor_has(const km_sealed_cursor *cursor, uint64_t record)
{
    return cursor->block_is_there && record >= cursor->place.first_record &&
           record - cursor->place.first_record < cursor->block.count;
}

static km_status sealed_cursor_read(km_sealed_cursor *cursor, uint64_t record, km_bytes *out_key,
                                    km_bytes *out_value)
{
    const struct sealed_block *block = &cursor->block;
    km_bytes suffix = {NULL, 0};
    km_bytes value = {NULL, 0};
    km_status rc = KM_OK;
    uint32_t index;

    if (!sealed_cursor_has(cursor, record))
        rc = sealed_cursor_load(cursor, record);
    if (rc)
        return rc;
    index = (uint32_t)(record - cursor->place.first_record);
    rc = km__sealed_block_suffix(block, index, &suffix);
    if (!rc)
        rc = km__sealed_block_value(block, index, &value);
    if (!rc && block->prefix_size + suffix.size > cursor->key_capacity)
        rc = sealed_cursor_enlarge_key(cursor, block->prefix_size + suffix.size,
                                       block->prefix_size);
    if (rc)
        return rc;
    if (suffix.size)
        memcpy(cursor->key + block->prefix_size, suffix.data, suffix.size);
    if (out_key)
        *out_key = km_bytes_of(cursor->key, block->prefix_size + suffix.size);
    if (out_value)
        *out_value = value;
    return KM_OK;
}

static km_status sealed_step_forward(km_sealed_cursor *cursor, km_bytes *out_key,
                                     km_bytes *out_value)
{
    km_status rc;

    if (cursor->at == cursor->end)
        return KM_END;
    rc = sealed_cursor_read(cursor, cursor->at, out_key, out_value);
    if (!rc)
        cursor->at++;
    return rc;
}

static km_status sealed_step_back(km_sealed_cursor *cursor, km_bytes *out_key, km_bytes *out_value)
{
    km_status rc;

    if (cursor->at == cursor->begin)
        return KM_END;
    rc = sealed_cursor_read(cursor, cursor->at - 1, out_key, out_value);
    if (!rc)
        cursor->at--;
    return rc;
}

km_status km_sealed_cursor_next(km_sealed_cursor *cursor, km_bytes *out_key, km_bytes *out_value)
{
    return cursor->is_reverse ? sealed_step_back(cursor, out_key, out_value)
                              : sealed_step_forward(cursor, out_key, out_value);
}

km_status km_sealed_cursor_previous(km_sealed_cursor *cursor, km_bytes *out_key,
                                    km_bytes *out_value)
{
    return cursor->is_reverse ? sealed_step_forward(cursor, out_key, out_value)
                              : sealed_step_back(cursor, out_key, out_value);
}

/* A key that lies in what the cursor has read, which goes when another block is: a copy of it. */
static km_status sealed_rank_of_own(km_sealed_cursor *cursor, km_bytes key, uint64_t *out_record,
                                    int *out_is_there)
{
    const struct allocator *allocator = &cursor->table->os->allocator;
    uint8_t *copy;
    km_status rc;

    if (key.size > KM_KEY_SIZE_MAX)
        return KM_E_INVALID;
    copy = km__allocate(allocator, key.size + 1);
    if (!copy)
        return KM_E_NO_MEMORY;
    memcpy(copy, key.data, key.size);
    rc = sealed_rank_of(cursor, km_bytes_of(copy, key.size), out_record, out_is_there);
    km__release(allocator, copy, key.size + 1);
    return rc;
}

km_status km_sealed_cursor_seek(km_sealed_cursor *cursor, km_bytes key)
{
    uint64_t record = 0;
    int is_there = 0;
    km_status rc = km__sealed_window_has(&cursor->window, key.data)
                       ? sealed_rank_of_own(cursor, key, &record, &is_there)
                       : sealed_rank_of(cursor, key, &record, &is_there);

    if (rc)
        return rc;
    record += cursor->is_reverse && is_there; /* behind the key, so that next goes back to it */
    if (record < cursor->begin)
        record = cursor->begin;
    cursor->at = record < cursor->end ? record : cursor->end;
    return KM_OK;
}
