/* SPDX-License-Identifier: Apache-2.0
 *
 * attach_model.h -- the obvious model of maps that have sealed tables under them: for each map what
 * each table has, what the map itself has, and so what is to be seen; and the comparison of a store
 * with it.
 */
#ifndef KM_TEST_MODEL_ATTACH_MODEL_H
#define KM_TEST_MODEL_ATTACH_MODEL_H

#include <stdlib.h>
#include <string.h>

#include "harness/harness_util.h"
#include "store/store_internal.h"

#define MAP_COUNT 4u
#define KEY_MAX 160u
#define KEY_SIZE_MAX 40u
#define VALUE_MAX 96u
#define LAYER_MAX 4u

struct value {
    uint32_t size;
    uint8_t bytes[VALUE_MAX];
};

/* What a table has; it never changes. */
struct layer {
    struct layer *older; /* of all that were made */
    uint64_t version;
    uint8_t has[KEY_MAX];
    struct value values[KEY_MAX];
};

enum own_state { OWN_NONE, OWN_PUT, OWN_HIDDEN };

/* What the map itself has of a key. */
struct entry {
    enum own_state state;
    struct value value;
    uint64_t version, expires_ms;
};

struct table {
    km_map *map;
    km_map_kind kind;
    uint32_t layer_count;
    const struct layer *layers[LAYER_MAX]; /* the uppermost first */
    struct entry entries[KEY_MAX];
};

/* What is to be seen of a key. */
struct seen {
    const struct value *value; /* NULL: it is not there */
    uint64_t version, expires_ms;
};

/* ---- keys -------------------------------------------------------------------------------- */

/* The empty one, numbers of four bytes, and others that share their beginning; all different. */
static inline size_t write_key(uint32_t number, uint8_t bytes[KEY_SIZE_MAX])
{
    size_t size = number * 7 % 38;

    if (number == 0)
        return 0;
    if (number % 3 == 0) {
        memset(bytes, 0, 4);
        bytes[3] = (uint8_t)number;
        return 4;
    }
    memset(bytes, 'k', size);
    bytes[size] = (uint8_t)(number * 37);
    bytes[size + 1] = (uint8_t)number;
    return size + 2;
}

static inline int is_number_key(uint32_t number)
{
    return number != 0 && number % 3 == 0;
}

static inline int compare_bytes(km_bytes a, km_bytes b)
{
    size_t size = a.size < b.size ? a.size : b.size;
    int result = size ? memcmp(a.data, b.data, size) : 0; /* an empty key may have no address */

    return result ? result : (a.size > b.size) - (a.size < b.size);
}

static inline int compare_keys(uint32_t a, uint32_t b)
{
    uint8_t x[KEY_SIZE_MAX], y[KEY_SIZE_MAX];

    return compare_bytes(km_bytes_of(x, write_key(a, x)), km_bytes_of(y, write_key(b, y)));
}

/* ---- what is to be seen ------------------------------------------------------------------- */

static inline const struct layer *layer_of(const struct table *table, uint32_t key)
{
    for (uint32_t i = 0; i < table->layer_count; i++) {
        if (table->layers[i]->has[key])
            return table->layers[i];
    }
    return NULL;
}

static inline int has_expired(const struct entry *entry, uint64_t now_ms)
{
    return entry->state == OWN_PUT && entry->expires_ms && entry->expires_ms <= now_ms;
}

static inline struct seen look(const struct table *table, uint32_t key, uint64_t now_ms)
{
    const struct entry *entry = &table->entries[key];
    const struct layer *layer = layer_of(table, key);
    struct seen seen = {NULL, 0, 0};

    if (entry->state == OWN_PUT && !has_expired(entry, now_ms)) {
        seen.value = &entry->value;
        seen.version = entry->version;
        seen.expires_ms = entry->expires_ms;
    } else if (entry->state == OWN_NONE && layer) {
        seen.value = &layer->values[key];
        seen.version = layer->version;
    }
    return seen;
}

/* Keys that have expired count, until they are deleted. */
static inline uint64_t count_of(const struct table *table)
{
    uint64_t count = 0;

    for (uint32_t key = 0; key < KEY_MAX; key++) {
        const struct entry *entry = &table->entries[key];

        count += entry->state == OWN_PUT || (entry->state == OWN_NONE && layer_of(table, key));
    }
    return count;
}

/* The keys that are to be seen, in the order of bytes. */
static inline size_t order_of(const struct table *table, uint64_t now_ms, uint32_t *order)
{
    size_t count = 0;

    for (uint32_t key = 0; key < KEY_MAX; key++) {
        size_t i = count;

        if (!look(table, key, now_ms).value)
            continue;
        for (; i > 0 && compare_keys(order[i - 1], key) > 0; i--)
            order[i] = order[i - 1];
        order[i] = key;
        count++;
    }
    return count;
}

static inline uint32_t number_of_key(km_bytes key)
{
    uint8_t bytes[KEY_SIZE_MAX];
    uint32_t number = 0;

    while (compare_bytes(key, km_bytes_of(bytes, write_key(number, bytes))) != 0)
        CHECK(++number < KEY_MAX);
    return number;
}

static inline int is_value(const struct value *value, km_bytes bytes)
{
    return bytes.size == value->size &&
           (bytes.size == 0 || memcmp(bytes.data, value->bytes, bytes.size) == 0);
}

/* ---- comparing --------------------------------------------------------------------------- */

/* How a map is read: as it is, or in a snapshot; and whether its versions are those of the model.
 */
struct reading {
    const struct table *table;
    km_map *map;
    km_snapshot *snapshot; /* NULL: none */
    uint64_t now_ms;
    int is_copy; /* another store with the same contents: it has versions of its own */
    struct harness_random *random;
};

static inline uint64_t below_in(const struct reading *reading, uint64_t n)
{
    return harness_below(reading->random, n);
}

static inline void check_seen(const struct reading *reading, uint32_t key, km_bytes value,
                              const km_key_info *info)
{
    struct seen seen = look(reading->table, key, reading->now_ms);

    CHECK_MSG(seen.value != NULL, "key %u is met, and should not be there", key);
    CHECK_MSG(is_value(seen.value, value), "key %u has another value", key);
    CHECK(info->value_size == value.size);
    if (reading->is_copy)
        return;
    CHECK_MSG(info->version == seen.version && info->expires_ms == seen.expires_ms,
              "key %u: version %llu, not %llu, or another expiry", key,
              (unsigned long long)info->version, (unsigned long long)seen.version);
}

static inline void check_at_cursor(const struct reading *reading, km_cursor *cursor, uint32_t key,
                                   km_bytes met_key, km_bytes met_value)
{
    km_key_info info = {0, 0, 0};
    uint32_t met = number_of_key(met_key);

    CHECK_MSG(met == key, "met key %u, not %u", met, key);
    CHECK_STATUS(km_cursor_info(cursor, &info), KM_OK);
    check_seen(reading, key, met_value, &info);
}

static inline km_status move(km_cursor *cursor, int is_back, km_bytes *key, km_bytes *value)
{
    return is_back ? km_cursor_previous(cursor, key, value) : km_cursor_next(cursor, key, value);
}

static inline void compare_unordered(const struct reading *reading)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    uint32_t order[KEY_MAX];
    size_t count = order_of(reading->table, reading->now_ms, order);
    uint8_t met[KEY_MAX] = {0};
    km_cursor *cursor = NULL;
    km_bytes key, value;

    options.snapshot = reading->snapshot;
    CHECK_STATUS(km_cursor_open(reading->map, &options, &cursor), KM_OK);
    CHECK_STATUS(km_cursor_previous(cursor, &key, &value), KM_E_UNSUPPORTED);
    for (size_t i = 0; i < count; i++) {
        uint32_t number;

        CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_OK);
        number = number_of_key(key);
        CHECK_MSG(!met[number]++, "key %u is met twice", number);
        check_at_cursor(reading, cursor, number, key, value);
    }
    CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_END);
    CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_END);
    km_cursor_close(cursor);
}

/* A range, and what it narrows an order to. */
struct some_range {
    km_range range;
    uint8_t from[KEY_SIZE_MAX], to[KEY_SIZE_MAX], prefix[KEY_SIZE_MAX];
};

static inline km_bytes some_key(const struct reading *reading, uint8_t bytes[KEY_SIZE_MAX])
{
    return km_bytes_of(bytes, write_key((uint32_t)below_in(reading, KEY_MAX), bytes));
}

static inline void choose_range(const struct reading *reading, struct some_range *out)
{
    memset(out, 0, sizeof(*out));
    if (below_in(reading, 2))
        out->range.from = some_key(reading, out->from);
    if (below_in(reading, 2))
        out->range.to = some_key(reading, out->to);
    if (below_in(reading, 3))
        return;
    out->range.prefix = some_key(reading, out->prefix);
    if (out->range.prefix.size)
        out->range.prefix.size = below_in(reading, out->range.prefix.size + 1);
}

static inline int is_in_range(const km_range *range, uint32_t key)
{
    uint8_t bytes[KEY_SIZE_MAX];
    km_bytes own = km_bytes_of(bytes, write_key(key, bytes));

    if (range->from.data && compare_bytes(own, range->from) < 0)
        return 0;
    if (range->to.data && compare_bytes(own, range->to) >= 0)
        return 0;
    return own.size >= range->prefix.size &&
           (range->prefix.size == 0 || memcmp(bytes, range->prefix.data, range->prefix.size) == 0);
}

static inline size_t narrow(const km_range *range, uint32_t *order, size_t count)
{
    size_t kept = 0;

    for (size_t i = 0; i < count; i++) {
        if (is_in_range(range, order[i]))
            order[kept++] = order[i];
    }
    return kept;
}

/* A cursor, and the keys that it has to meet; it stands before order[at]. */
struct walker {
    struct reading reading;
    km_cursor *cursor; /* NULL: none */
    int is_reverse;
    uint32_t order[KEY_MAX];
    size_t count, at;
};

static inline void start_walker(struct walker *walker, const struct reading *reading)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    struct some_range range;

    choose_range(reading, &range);
    if (below_in(reading, 3) == 0)
        memset(&range, 0, sizeof(range));
    options.snapshot = reading->snapshot;
    options.range = range.range;
    options.reverse = (int)below_in(reading, 2);
    walker->reading = *reading;
    walker->is_reverse = options.reverse;
    walker->count = order_of(reading->table, reading->now_ms, walker->order);
    walker->count = narrow(&range.range, walker->order, walker->count);
    walker->at = options.reverse ? walker->count : 0;
    CHECK_STATUS(km_cursor_open(reading->map, &options, &walker->cursor), KM_OK);
}

static inline void move_walker(struct walker *walker, int is_back, size_t steps)
{
    int is_down = is_back != walker->is_reverse;
    km_bytes key, value;

    for (; steps > 0; steps--) {
        km_status rc = move(walker->cursor, is_back, &key, &value);

        CHECK_STATUS(rc, walker->at == (is_down ? 0 : walker->count) ? KM_END : KM_OK);
        if (rc)
            return;
        walker->at -= is_down != 0;
        check_at_cursor(&walker->reading, walker->cursor, walker->order[walker->at], key, value);
        walker->at += !is_down;
    }
}

static inline void seek_walker(struct walker *walker)
{
    uint32_t wanted = (uint32_t)below_in(&walker->reading, KEY_MAX);
    uint8_t bytes[KEY_SIZE_MAX];
    km_key_info info;

    CHECK_STATUS(km_cursor_seek(walker->cursor, km_bytes_of(bytes, write_key(wanted, bytes))),
                 KM_OK);
    CHECK_STATUS(km_cursor_info(walker->cursor, &info), KM_NOT_FOUND);
    walker->at = 0;
    while (walker->at < walker->count &&
           compare_keys(walker->order[walker->at], wanted) < walker->is_reverse)
        walker->at++;
}

static inline void turn_walker(struct walker *walker)
{
    uint64_t dice = below_in(&walker->reading, 10);

    if (dice == 0)
        seek_walker(walker);
    else
        move_walker(walker, dice < 4, below_in(&walker->reading, dice < 6 ? 4 : 60));
}

/* There and back again, then this way and that. */
static inline void compare_ordered(const struct reading *reading)
{
    struct walker walker;

    start_walker(&walker, reading);
    move_walker(&walker, 0, KEY_MAX + 1);
    move_walker(&walker, 1, KEY_MAX + 1);
    for (uint64_t turns = below_in(reading, 12); turns > 0; turns--)
        turn_walker(&walker);
    km_cursor_close(walker.cursor);
}

static inline void compare_counts_of_ranges(const struct reading *reading)
{
    struct some_range range;
    uint32_t order[KEY_MAX];
    uint64_t count = 0;

    if (!reading->table->layer_count || reading->is_copy)
        return; /* keys that have expired are counted there */
    choose_range(reading, &range);
    CHECK_STATUS(km_count_range(reading->map, &range.range, &count), KM_OK);
    CHECK(count == narrow(&range.range, order, order_of(reading->table, reading->now_ms, order)));
}

static inline void compare_gets(const struct reading *reading)
{
    uint8_t bytes[KEY_SIZE_MAX];
    km_buffer buffer = KM_BUFFER_INIT;

    for (uint32_t key = 0; key < KEY_MAX; key++) {
        km_bytes name = km_bytes_of(bytes, write_key(key, bytes));
        int is_there = look(reading->table, key, reading->now_ms).value != NULL;
        km_key_info info = {0, 0, 0};
        km_status rc;

        rc = reading->snapshot
                 ? km_snapshot_get(reading->snapshot, reading->map, name, &buffer, &info)
                 : km_get_info(reading->map, name, &buffer, &info);
        CHECK_MSG(rc == (is_there ? KM_OK : KM_NOT_FOUND), "get of key %u, state %d: %s", key,
                  (int)reading->table->entries[key].state, km_status_name(rc));
        if (!rc)
            check_seen(reading, key, km_bytes_of(buffer.data, buffer.size), &info);
    }
    km_buffer_free(&buffer);
}

static inline void compare_count(const struct reading *reading)
{
    uint64_t count = reading->snapshot ? km_snapshot_count(reading->snapshot, reading->map)
                                       : km_count(reading->map);

    CHECK_MSG(count == count_of(reading->table), "%llu keys are counted, %llu are there",
              (unsigned long long)count, (unsigned long long)count_of(reading->table));
}

static inline void compare_map(const struct reading *reading)
{
    compare_gets(reading);
    if (reading->table->kind == KM_HASH) {
        compare_unordered(reading);
        return;
    }
    compare_ordered(reading);
    if (!reading->snapshot)
        compare_counts_of_ranges(reading);
}

/* ---- reads -------------------------------------------------------------------------------- */

static inline void check_copied(const struct reading *reading, uint32_t key, const km_buffer *name,
                                const km_buffer *value)
{
    uint32_t met = number_of_key(km_bytes_of(name->data, name->size));

    CHECK_MSG(met == key, "got key %u, not %u", met, key);
    CHECK(is_value(look(reading->table, key, reading->now_ms).value,
                   km_bytes_of(value->data, value->size)));
}

static inline void check_end(const struct reading *reading, int is_last)
{
    km_buffer name = KM_BUFFER_INIT, value = KM_BUFFER_INIT;
    uint32_t order[KEY_MAX];
    size_t count = order_of(reading->table, reading->now_ms, order);
    km_status rc = is_last ? km_last(reading->map, &name, &value)
                           : km_first(reading->map, &name, &value);

    if (reading->table->kind == KM_HASH)
        CHECK_STATUS(rc, KM_E_UNSUPPORTED);
    else
        CHECK_STATUS(rc, count ? KM_OK : KM_NOT_FOUND);
    if (!rc)
        check_copied(reading, order[is_last ? count - 1 : 0], &name, &value);
    km_buffer_free(&name);
    km_buffer_free(&value);
}

static inline void check_nearest(const struct reading *reading, int is_floor)
{
    km_buffer name = KM_BUFFER_INIT, value = KM_BUFFER_INIT;
    uint32_t wanted = (uint32_t)below_in(reading, KEY_MAX), order[KEY_MAX];
    size_t count = order_of(reading->table, reading->now_ms, order), at = 0;
    uint8_t bytes[KEY_SIZE_MAX];
    km_bytes key = km_bytes_of(bytes, write_key(wanted, bytes));
    km_status rc = is_floor ? km_floor(reading->map, key, &name, &value)
                            : km_ceiling(reading->map, key, &name, &value);

    while (at < count && compare_keys(order[at], wanted) < is_floor)
        at++;
    at -= (size_t)is_floor; /* SIZE_MAX: there is none */
    if (reading->table->kind == KM_HASH)
        CHECK_STATUS(rc, KM_E_UNSUPPORTED);
    else
        CHECK_STATUS(rc, at < count ? KM_OK : KM_NOT_FOUND);
    if (!rc)
        check_copied(reading, order[at], &name, &value);
    km_buffer_free(&name);
    km_buffer_free(&value);
}

/* By references, of many keys at once. */
static inline void check_many(const struct reading *reading)
{
    uint8_t bytes[KEY_MAX][KEY_SIZE_MAX];
    km_bytes keys[KEY_MAX], values[KEY_MAX], value;
    uint32_t order[KEY_MAX];
    size_t found = 0;
    km_reader *reader = NULL;

    for (uint32_t key = 0; key < KEY_MAX; key++)
        keys[key] = km_bytes_of(bytes[key], write_key(key, bytes[key]));
    CHECK_STATUS(km_read_begin(reading->map->store, &reader), KM_OK);
    CHECK_STATUS(km_get_many(reader, reading->map, keys, KEY_MAX, values, &found), KM_OK);
    CHECK(found == order_of(reading->table, reading->now_ms, order));
    for (uint32_t key = 0; key < KEY_MAX; key++) {
        const struct value *expected = look(reading->table, key, reading->now_ms).value;
        km_status status = expected ? KM_OK : KM_NOT_FOUND;

        CHECK((values[key].data != NULL) == (expected != NULL));
        CHECK_STATUS(km_contains(reading->map, keys[key]), status);
        CHECK_STATUS(km_get_ref(reader, reading->map, keys[key], &value), status);
        if (expected)
            CHECK(is_value(expected, values[key]) && is_value(expected, value));
    }
    km_read_end(reader);
}

/* ---- what changes come to ------------------------------------------------------------------- */

/* What the change comes to, and what was there before. */
struct expected {
    km_status status;
    struct seen before;
};

static inline struct expected expect(const struct table *table, uint32_t key, const km_write *write,
                                     uint64_t now_ms)
{
    struct expected expected = {KM_OK, look(table, key, now_ms)};

    if (write->condition == KM_IF_ABSENT && expected.before.value)
        expected.status = KM_EXISTS;
    if (write->condition == KM_IF_PRESENT && !expected.before.value)
        expected.status = KM_NOT_FOUND;
    if (write->condition == KM_IF_VERSION && write->expected != expected.before.version)
        expected.status = KM_CONFLICT;
    return expected;
}

static inline void check_outcome(const struct expected *expected, km_status rc,
                                 const km_write *write)
{
    CHECK_MSG(rc == expected->status, "%s, not %s", km_status_name(rc),
              km_status_name(expected->status));
    if (!rc)
        CHECK(write->existed == (expected->before.value != NULL));
    if (!write->previous || (rc != KM_OK && rc != KM_EXISTS))
        return;
    if (expected->before.value)
        CHECK(is_value(expected->before.value,
                       km_bytes_of(write->previous->data, write->previous->size)));
    else
        CHECK(write->previous->size == 0);
}

/* What was told of a map's keys. */
struct told {
    const struct table *table; /* as it is in the later snapshot */
    uint64_t now_ms;
    km_change_kind kinds[KEY_MAX];
};

static inline int take_change(void *context, const km_change *change)
{
    struct told *told = context;
    uint32_t key = number_of_key(change->key);
    struct seen seen = look(told->table, key, told->now_ms);

    CHECK_MSG(!told->kinds[key], "key %u is told twice", key);
    told->kinds[key] = change->kind;
    if (change->kind == KM_CHANGE_PUT)
        CHECK(seen.value && is_value(seen.value, change->value) &&
              seen.version == change->position);
    else
        CHECK(change->kind == KM_CHANGE_DELETE && !seen.value && !change->value.data);
    return 0;
}

/* ---- a cursor beside changes --------------------------------------------------------------- */

/* A cursor on a map as it is. A key that was not touched since it was opened is met, once each way,
 * and with its value. */
struct live_walk {
    struct reading reading;
    km_cursor *cursor; /* NULL: none */
    int is_after;      /* it stands behind `key`, or before it */
    int has_key;       /* else before the first */
    uint32_t key;
    uint8_t touched[KEY_MAX], met[KEY_MAX];
};

static inline void start_live(struct live_walk *live, const struct reading *reading)
{
    memset(live, 0, sizeof(*live));
    live->reading = *reading;
    CHECK_STATUS(km_cursor_open(reading->map, NULL, &live->cursor), KM_OK);
}

static inline void end_live(struct live_walk *live)
{
    km_cursor_close(live->cursor);
    live->cursor = NULL;
}

static inline const struct value *value_in_live(const struct live_walk *live, uint32_t key)
{
    return look(live->reading.table, key, live->reading.now_ms).value;
}

/* Whether the walk has to meet the key some time. */
static inline int is_steady(const struct live_walk *live, uint32_t key)
{
    return !live->touched[key] && value_in_live(live, key) != NULL;
}

/* Whether the key lies that way of where the cursor stands. */
static inline int lies_that_way(const struct live_walk *live, uint32_t key, int is_down)
{
    int order;

    if (!live->has_key)
        return !is_down;
    order = compare_keys(key, live->key);
    if (live->is_after)
        return is_down ? order <= 0 : order > 0;
    return is_down ? order < 0 : order >= 0;
}

static inline void check_none_skipped(const struct live_walk *live, int is_down,
                                      const uint32_t *up_to)
{
    for (uint32_t key = 0; key < KEY_MAX; key++) {
        int order = up_to ? compare_keys(key, *up_to) : 0;

        if (!is_steady(live, key) || !lies_that_way(live, key, is_down))
            continue;
        CHECK_MSG(up_to && (is_down ? order <= 0 : order >= 0), "key %u was skipped", key);
    }
}

static inline void move_live_sorted(struct live_walk *live, int is_down)
{
    km_bytes key, value;
    km_status rc = move(live->cursor, is_down, &key, &value);
    uint32_t met;

    if (rc) {
        CHECK_STATUS(rc, KM_END);
        check_none_skipped(live, is_down, NULL);
        return;
    }
    met = number_of_key(key);
    if (!live->touched[met]) {
        CHECK(is_steady(live, met) && lies_that_way(live, met, is_down));
        CHECK(is_value(value_in_live(live, met), value));
    }
    if (lies_that_way(live, met, is_down))
        check_none_skipped(live, is_down, &met);
    live->has_key = 1;
    live->key = met;
    live->is_after = !is_down;
}

static inline void move_live_hash(struct live_walk *live)
{
    km_bytes key, value;
    km_status rc = km_cursor_next(live->cursor, &key, &value);

    if (!rc) {
        uint32_t met = number_of_key(key);

        CHECK(live->touched[met] || (is_steady(live, met) && !live->met[met]));
        if (!live->touched[met])
            CHECK(is_value(value_in_live(live, met), value));
        live->met[met] = 1;
        return;
    }
    CHECK_STATUS(rc, KM_END);
    for (uint32_t key_number = 0; key_number < KEY_MAX; key_number++)
        CHECK_MSG(!is_steady(live, key_number) || live->met[key_number], "key %u was not met",
                  key_number);
    end_live(live);
}

#endif
