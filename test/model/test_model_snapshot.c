/* SPDX-License-Identifier: Apache-2.0
 *
 * test_model_snapshot.c -- snapshots and cursors against an obvious model: a table for each map,
 * and a copy of all tables for each open snapshot.
 *
 * Random changes of every sort go on while up to SNAPSHOT_MAX snapshots are open. At random moments
 * one of them is compared with its copy, by gets, counts, and walks in both directions, whole or
 * from a seek; and cursors that stay open move on by some steps, forwards and backwards.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "harness/harness_check.h"
#include "harness/harness_util.h"
#include "sim/sim.h"
#include "store/store_internal.h"

#define MAP_COUNT 6u
#define KEY_MAX 250u
#define KEY_SIZE_MAX 400u
#define SNAPSHOT_MAX 5u
#define VALUE_MAX 5000u
#define TTL_STEP_MS UINT64_C(1000000) /* the clock moves by so much, or hardly at all */

struct entry {
    uint64_t number; /* of the value; 0: not there */
    uint64_t size;
    uint64_t ordinal;
    uint64_t version, expires_ms;
};

struct table {
    km_map *map;
    km_map_kind kind;
    uint64_t next_ordinal;
    struct entry entries[KEY_MAX];
};

struct walker {
    km_cursor *cursor; /* NULL: none */
    uint32_t map;
    uint32_t order[KEY_MAX]; /* keys, as the cursor must meet them */
    size_t count, at;
};

struct copy {
    km_snapshot *snapshot; /* NULL: none */
    struct table tables[MAP_COUNT];
    struct walker walker;
};

static struct model {
    struct os *os;
    km_store *store;
    struct harness_random random;
    struct table tables[MAP_COUNT];
    struct copy copies[SNAPSHOT_MAX];
    uint32_t key_count;
    uint32_t drops;
    uint64_t last_number;
    uint8_t value[VALUE_MAX];
    uint8_t key[KEY_SIZE_MAX];
    km_buffer buffer, key_buffer;
} model;

static uint64_t below(uint64_t n)
{
    return harness_below(&model.random, n);
}

/* ---- keys -------------------------------------------------------------------------------- */

/* One empty key, short ones, and long ones that share their beginning; all different. */
static size_t write_key(uint32_t number, uint8_t *bytes)
{
    size_t size = number % 5 == 0 ? 300 : number % 7;

    if (number == 0)
        return 0;
    memset(bytes, 'k', size);
    bytes[size] = (uint8_t)(number * 37);
    bytes[size + 1] = (uint8_t)number;
    bytes[size + 2] = (uint8_t)(number % 3 ? 0 : 255);
    return size + 3;
}

static km_bytes key_of(uint32_t number)
{
    return km_bytes_of(model.key, write_key(number, model.key));
}

static int compare_bytes(km_bytes a, km_bytes b)
{
    size_t size = a.size < b.size ? a.size : b.size;
    int result = size ? memcmp(a.data, b.data, size) : 0; /* an empty key may have no address */

    return result ? result : (a.size > b.size) - (a.size < b.size);
}

static int compare_keys(uint32_t a, uint32_t b)
{
    uint8_t x[KEY_SIZE_MAX], y[KEY_SIZE_MAX];
    km_bytes left = {x, write_key(a, x)}, right = {y, write_key(b, y)};

    return compare_bytes(left, right);
}

/* ---- what a table holds ------------------------------------------------------------------ */

static int is_there(const struct entry *entry)
{
    return entry->number &&
           (!entry->expires_ms || entry->expires_ms > km__store_clock(model.store));
}

static uint64_t count_of(const struct table *table)
{
    uint64_t count = 0;

    for (uint32_t key = 0; key < KEY_MAX; key++)
        count += table->entries[key].number != 0; /* expired ones too */
    return count;
}

static int comes_after(const struct table *table, uint32_t a, uint32_t b)
{
    if (table->kind == KM_SORTED)
        return compare_keys(a, b) > 0;
    return table->kind == KM_INSERTION && table->entries[a].ordinal > table->entries[b].ordinal;
}

/* The keys that are there, in the order of the map. */
static size_t order_of(const struct table *table, uint32_t *order)
{
    size_t count = 0;

    for (uint32_t key = 0; key < KEY_MAX; key++) {
        size_t i = count;

        if (!is_there(&table->entries[key]))
            continue;
        for (; i > 0 && comes_after(table, order[i - 1], key); i--)
            order[i] = order[i - 1];
        order[i] = key;
        count++;
    }
    return count;
}

/* ---- comparing --------------------------------------------------------------------------- */

static void check_entry(const struct entry *entry, km_bytes value, const km_key_info *info)
{
    CHECK_MSG(value.size == entry->size && harness_is_filled(value.data, value.size, entry->number),
              "a value of %zu bytes is not number %llu of %llu bytes", value.size,
              (unsigned long long)entry->number, (unsigned long long)entry->size);
    CHECK(info->version == entry->version && info->expires_ms == entry->expires_ms &&
          info->value_size == entry->size);
}

static void check_at_key(const struct table *table, km_cursor *cursor, uint32_t number,
                         const km_bytes *key, const km_bytes *value)
{
    km_key_info info = {0, 0, 0};

    CHECK_MSG(compare_bytes(*key, key_of(number)) == 0, "met another key than %u", number);
    CHECK_STATUS(km_cursor_info(cursor, &info), KM_OK);
    check_entry(&table->entries[number], *value, &info);
}

static km_status move(km_cursor *cursor, int is_back, km_bytes *key, km_bytes *value)
{
    return is_back ? km_cursor_previous(cursor, key, value) : km_cursor_next(cursor, key, value);
}

static void compare_unordered(const struct table *table, km_cursor *cursor)
{
    uint8_t seen[KEY_MAX] = {0};
    uint32_t order[KEY_MAX];
    size_t count = order_of(table, order);
    km_bytes key, value;

    for (size_t met = 0; met < count; met++) {
        uint32_t number = 0;

        CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_OK);
        while (compare_bytes(key, key_of(number)) != 0)
            CHECK(++number < KEY_MAX);
        CHECK(is_there(&table->entries[number]) && !seen[number]++);
        check_at_key(table, cursor, number, &key, &value);
    }
    CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_END);
    CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_END);
}

/* To the end and back again. */
static void compare_ordered(const struct table *table, km_cursor *cursor, int is_reverse)
{
    uint32_t order[KEY_MAX];
    size_t count = order_of(table, order);
    km_bytes key, value;

    for (int is_back = 0; is_back < 2; is_back++) {
        for (size_t i = 0; i < count; i++) {
            CHECK_STATUS(move(cursor, is_back, &key, &value), KM_OK);
            check_at_key(table, cursor, order[is_back == is_reverse ? i : count - 1 - i], &key,
                         &value);
        }
        CHECK_STATUS(move(cursor, is_back, &key, &value), KM_END);
    }
}

static km_cursor *open_cursor(const struct table *table, km_snapshot *snapshot, int is_reverse)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;

    options.snapshot = snapshot;
    options.reverse = is_reverse;
    CHECK_STATUS(km_cursor_open(table->map, &options, &cursor), KM_OK);
    return cursor;
}

/* A range, and from a seek on. */
static void compare_range(const struct table *table, km_snapshot *snapshot)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    uint32_t from = (uint32_t)below(KEY_MAX), to = (uint32_t)below(KEY_MAX), order[KEY_MAX];
    uint8_t from_bytes[KEY_SIZE_MAX], to_bytes[KEY_SIZE_MAX];
    size_t count = order_of(table, order);
    km_cursor *cursor = NULL;
    km_bytes key, value;

    options.snapshot = snapshot;
    options.range.from = km_bytes_of(from_bytes, write_key(from, from_bytes));
    options.range.to = km_bytes_of(to_bytes, write_key(to, to_bytes));
    options.reverse = (int)below(2);
    CHECK_STATUS(km_cursor_open(table->map, &options, &cursor), KM_OK);
    for (size_t i = 0; i < count; i++) {
        uint32_t number = order[options.reverse ? count - 1 - i : i];

        if (compare_keys(number, from) < 0 || compare_keys(number, to) >= 0)
            continue;
        CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_OK);
        check_at_key(table, cursor, number, &key, &value);
    }
    CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_END);
    km_cursor_close(cursor);
}

static void compare_from_seek(const struct table *table, km_snapshot *snapshot)
{
    uint32_t wanted = (uint32_t)below(KEY_MAX), order[KEY_MAX];
    int is_reverse = (int)below(2), is_found = is_there(&table->entries[wanted]);
    km_cursor *cursor = open_cursor(table, snapshot, is_reverse);
    size_t count = order_of(table, order), i = 0;
    km_bytes key, value;

    if (table->kind == KM_INSERTION && !is_found) {
        CHECK_STATUS(km_cursor_seek(cursor, key_of(wanted)), KM_NOT_FOUND);
    } else {
        CHECK_STATUS(km_cursor_seek(cursor, key_of(wanted)), KM_OK);
        while (i < count && order[i] != wanted && !comes_after(table, order[i], wanted))
            i++;
        if (is_reverse && !is_found)
            i--; /* SIZE_MAX: before the first */
        for (; i < count; i += is_reverse ? SIZE_MAX : 1) {
            CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_OK);
            check_at_key(table, cursor, order[i], &key, &value);
        }
        CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_END);
    }
    km_cursor_close(cursor);
}

static void compare_walks(const struct table *table, km_snapshot *snapshot)
{
    km_cursor *cursor = open_cursor(table, snapshot, 0);

    if (table->kind == KM_HASH) {
        compare_unordered(table, cursor);
        km_cursor_close(cursor);
        return;
    }
    compare_ordered(table, cursor, 0);
    km_cursor_close(cursor);
    cursor = open_cursor(table, snapshot, 1);
    compare_ordered(table, cursor, 1);
    km_cursor_close(cursor);
    compare_from_seek(table, snapshot);
    if (table->kind == KM_SORTED)
        compare_range(table, snapshot);
}

static km_status get_from(const struct table *table, km_snapshot *snapshot, uint32_t key,
                          km_key_info *info)
{
    return snapshot ? km_snapshot_get(snapshot, table->map, key_of(key), &model.buffer, info)
                    : km_get_info(table->map, key_of(key), &model.buffer, info);
}

static void compare_table(const struct table *table, km_snapshot *snapshot)
{
    uint64_t count = snapshot ? km_snapshot_count(snapshot, table->map) : km_count(table->map);

    CHECK_MSG(count == count_of(table), "%llu keys are counted, %llu are there",
              (unsigned long long)count, (unsigned long long)count_of(table));
    for (uint32_t key = 0; key < KEY_MAX; key++) {
        const struct entry *entry = &table->entries[key];
        km_key_info info = {0, 0, 0};

        CHECK_STATUS(get_from(table, snapshot, key, &info), is_there(entry) ? KM_OK : KM_NOT_FOUND);
        if (is_there(entry))
            check_entry(entry, km_bytes_of(model.buffer.data, model.buffer.size), &info);
    }
    compare_walks(table, snapshot);
}

/* ---- cursors that stay open -------------------------------------------------------------- */

/* On one of the maps whose keys do not expire: what is met would depend on when. */
static void start_walker(struct copy *copy)
{
    struct walker *walker = &copy->walker;

    walker->map = 1 + 2 * (uint32_t)below(MAP_COUNT / 2);
    if (copy->tables[walker->map].kind == KM_HASH)
        return; /* in no order that is known */
    walker->cursor = open_cursor(&copy->tables[walker->map], copy->snapshot, 0);
    walker->count = order_of(&copy->tables[walker->map], walker->order);
    walker->at = 0;
}

static void move_walker(struct copy *copy)
{
    struct walker *walker = &copy->walker;
    int is_back = below(3) == 0;
    km_bytes key, value;

    if (!walker->cursor)
        return;
    for (uint64_t steps = below(40); steps > 0; steps--) {
        size_t edge = is_back ? 0 : walker->count;
        km_status rc = move(walker->cursor, is_back, &key, &value);

        CHECK_STATUS(rc, walker->at == edge ? KM_END : KM_OK);
        if (rc)
            return;
        walker->at -= is_back != 0;
        check_at_key(&copy->tables[walker->map], walker->cursor, walker->order[walker->at], &key,
                     &value);
        walker->at += !is_back;
    }
}

/* ---- snapshots --------------------------------------------------------------------------- */

static void close_copy(struct copy *copy)
{
    km_cursor_close(copy->walker.cursor);
    km_snapshot_close(copy->snapshot);
    copy->walker.cursor = NULL;
    copy->snapshot = NULL;
}

static void open_copy(struct copy *copy)
{
    CHECK_STATUS(km_snapshot_open(model.store, &copy->snapshot), KM_OK);
    memcpy(copy->tables, model.tables, sizeof(copy->tables));
    start_walker(copy);
}

static void touch_copy(void)
{
    struct copy *copy = &model.copies[below(SNAPSHOT_MAX)];

    if (!copy->snapshot) {
        open_copy(copy);
        return;
    }
    move_walker(copy);
    if (below(4) == 0)
        close_copy(copy);
    else
        compare_table(&copy->tables[below(MAP_COUNT)], copy->snapshot);
}

/* ---- changes ----------------------------------------------------------------------------- */

/* The key has a new value; what else there is to know of it the store tells. */
static void note_put(struct table *table, uint32_t key, uint64_t number, uint64_t size)
{
    struct entry *entry = &table->entries[key];
    km_key_info info = {0, 0, 0};

    if (!is_there(entry))
        entry->ordinal = ++table->next_ordinal;
    entry->number = number;
    entry->size = size;
    CHECK_STATUS(km_get_info(table->map, key_of(key), NULL, &info), KM_OK);
    entry->version = info.version;
    entry->expires_ms = info.expires_ms;
}

static void forget(struct entry *entry)
{
    memset(entry, 0, sizeof(*entry));
}

static struct table *some_table(uint32_t *out_key)
{
    *out_key = (uint32_t)below(model.key_count);
    return &model.tables[below(MAP_COUNT)];
}

/* Now and then some allocation of the next change fails. */
static void fail_soon(void)
{
    if (below(5) == 0)
        km__sim_fail_allocation(model.os, 1 + below(8));
}

/* Nothing has changed but what snapshots keep. */
static int is_failure(km_status rc)
{
    km__sim_fail_allocation(model.os, 0);
    return rc == KM_E_NO_MEMORY;
}

static void change_put(void)
{
    uint32_t key;
    struct table *table = some_table(&key);
    uint64_t number = ++model.last_number, size = below(below(8) ? 100 : VALUE_MAX);
    km_write write = KM_WRITE_INIT;
    km_status rc;

    if ((table - model.tables) % 2 == 0 && below(3) == 0)
        write.ttl_ms = TTL_STEP_MS * below(4) + TTL_STEP_MS / 2;
    harness_fill(model.value, size, number);
    fail_soon();
    rc = km_put(table->map, key_of(key), km_bytes_of(model.value, size), &write);
    if (is_failure(rc))
        return;
    CHECK_STATUS(rc, KM_OK);
    CHECK(write.existed == is_there(&table->entries[key]));
    note_put(table, key, number, size);
    CHECK(table->entries[key].version == write.position);
    CHECK((table->entries[key].expires_ms != 0) == (write.ttl_ms != 0));
}

static void delete_key(struct table *table, uint32_t key)
{
    int was_there = is_there(&table->entries[key]);
    km_status rc;

    fail_soon();
    rc = km_del(table->map, key_of(key), NULL);
    if (is_failure(rc))
        return;
    CHECK_STATUS(rc, was_there ? KM_OK : KM_NOT_FOUND);
    if (was_there)
        forget(&table->entries[key]);
}

static void change_del(void)
{
    uint32_t key;
    struct table *table = some_table(&key);

    delete_key(table, key);
}

/* Most keys of a map go, one by one. */
static void change_many(void)
{
    struct table *table = &model.tables[below(MAP_COUNT)];

    for (uint32_t key = 0; key < KEY_MAX; key++) {
        if (below(8))
            delete_key(table, key);
    }
}

static void change_batch(void)
{
    struct table *tables[8];
    uint32_t keys[8];
    uint64_t first = model.last_number + 1;
    size_t count = 1 + below(8);
    km_batch *batch = NULL;
    km_status rc;

    CHECK_STATUS(km_batch_create(model.store, &batch), KM_OK);
    for (size_t i = 0; i < count; i++) {
        tables[i] = some_table(&keys[i]);
        harness_fill(model.value, 50, ++model.last_number);
        for (size_t j = 0; j < i; j++) {
            if (tables[j] == tables[i] && keys[j] == keys[i])
                tables[j] = NULL; /* superseded */
        }
        CHECK_STATUS(
            km_batch_put(batch, tables[i]->map, key_of(keys[i]), km_bytes_of(model.value, 50)),
            KM_OK);
    }
    fail_soon();
    rc = km_batch_commit(batch, NULL);
    km_batch_destroy(batch);
    if (is_failure(rc))
        return;
    CHECK_STATUS(rc, KM_OK);
    for (size_t i = 0; i < count; i++) {
        if (tables[i])
            note_put(tables[i], keys[i], first + i, 50);
    }
}

static void change_pop(void)
{
    struct table *table = &model.tables[below(MAP_COUNT)];
    int is_last = (int)below(2);
    uint32_t order[KEY_MAX], number;
    size_t count = order_of(table, order);
    km_status rc, expected = table->kind == KM_HASH ? KM_E_UNSUPPORTED
                             : count                ? KM_OK
                                                    : KM_NOT_FOUND;

    rc = is_last ? km_pop_last(table->map, &model.key_buffer, &model.buffer, NULL)
                 : km_pop_first(table->map, &model.key_buffer, &model.buffer, NULL);
    CHECK_STATUS(rc, expected);
    if (rc)
        return;
    number = order[is_last ? count - 1 : 0];
    CHECK(compare_bytes(km_bytes_of(model.key_buffer.data, model.key_buffer.size),
                        key_of(number)) == 0);
    CHECK(model.buffer.size == table->entries[number].size &&
          harness_is_filled(model.buffer.data, model.buffer.size, table->entries[number].number));
    forget(&table->entries[number]);
}

static void change_range(void)
{
    struct table *table = &model.tables[below(MAP_COUNT)];
    uint32_t from = (uint32_t)below(KEY_MAX), to = (uint32_t)below(KEY_MAX);
    uint8_t bytes[KEY_SIZE_MAX];
    km_range range = {{NULL, 0}, {NULL, 0}, {NULL, 0}};
    uint64_t count = 0, expected = 0;

    if (table->kind != KM_SORTED)
        return;
    range.from = key_of(from);
    range.to = km_bytes_of(bytes, write_key(to, bytes));
    CHECK_STATUS(km_del_range(table->map, &range, NULL, &count), KM_OK);
    for (uint32_t key = 0; key < KEY_MAX; key++) {
        struct entry *entry = &table->entries[key];

        if (!entry->number || compare_keys(key, from) < 0 || compare_keys(key, to) >= 0)
            continue;
        forget(entry);
        expected++;
    }
    CHECK(count == expected);
}

static void create_table(struct table *table, km_map_kind kind)
{
    uint32_t index = (uint32_t)(table - model.tables);
    char name[16] = "map 0";

    memset(table, 0, sizeof(*table));
    name[4] = (char)('0' + index);
    table->kind = kind;
    CHECK_STATUS(km_map_create(model.store, km_bytes_of_string(name), kind, &table->map), KM_OK);
}

static void change_whole(void)
{
    struct table *table = &model.tables[below(MAP_COUNT)];
    km_map_kind kind = table->kind;

    if (below(3)) {
        CHECK_STATUS(km_map_clear(table->map), KM_OK);
        memset(table->entries, 0, sizeof(table->entries));
        return;
    }
    CHECK_STATUS(km_map_drop(table->map), KM_OK);
    create_table(table, kind);
}

/* Compaction deletes what has expired. */
static void forget_expired(void)
{
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        for (uint32_t key = 0; key < KEY_MAX; key++) {
            if (!is_there(&model.tables[i].entries[key]))
                forget(&model.tables[i].entries[key]);
        }
    }
}

static void turn_over(void)
{
    CHECK_STATUS(km_compact(model.store, NULL, NULL, NULL), KM_OK);
    CHECK_STATUS(km__keeper_round(model.store), KM_OK);
    km__reclaim(&model.store->reclaimer);
    forget_expired();
    for (uint32_t i = 0; i < SNAPSHOT_MAX; i++) {
        if (model.copies[i].snapshot)
            compare_table(&model.copies[i].tables[below(MAP_COUNT)], model.copies[i].snapshot);
    }
}

static void do_something(void)
{
    uint64_t dice = below(1000);

    if (dice < 500)
        change_put();
    else if (dice < 700)
        change_del();
    else if (dice < 780)
        change_batch();
    else if (dice < 820)
        change_pop();
    else if (dice < 850)
        change_range();
    else if (dice < 856)
        change_whole();
    else if (dice < 860)
        turn_over();
    else if (dice < 862)
        change_many();
    else if (dice < 866)
        km__sim_advance(model.os, TTL_STEP_MS * 1000000);
    else if (dice < 900)
        compare_table(&model.tables[below(MAP_COUNT)], NULL);
    else
        touch_copy();
}

/* ---- rounds ------------------------------------------------------------------------------ */

static void open_model(uint64_t round)
{
    km_options options = KM_OPTIONS_INIT;
    static const km_map_kind kinds[3] = {KM_HASH, KM_INSERTION, KM_SORTED};

    memset(&model, 0, sizeof(model));
    model.random = harness_stream(round);
    model.os = km__sim_create(harness_next(&model.random));
    model.key_count = round % 3 == 0 ? KEY_MAX : 5 + (uint32_t)below(KEY_MAX - 5);
    options.log_size_min = UINT64_C(1) << 40; /* compaction is done by hand */
    options.skip_read_checks = below(4) == 0;
    options.keep_in_memory = below(4) == 0;
    if (round % 4 == 1)
        CHECK_STATUS(km__store_open_memory_with(model.os, &options, 0, &model.store, NULL), KM_OK);
    else
        CHECK_STATUS(km__store_open_with(model.os, "store", &options, 0, &model.store, NULL),
                     KM_OK);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        create_table(&model.tables[i], kinds[i / 2]);
}

static void close_model(void)
{
    uint32_t first = (uint32_t)below(SNAPSHOT_MAX);

    for (uint32_t i = 0; i < SNAPSHOT_MAX; i++)
        close_copy(&model.copies[(first + i * 3) % SNAPSHOT_MAX]);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        compare_table(&model.tables[i], NULL);
    CHECK(harness_check_store(model.store) == 0);
    km_buffer_free(&model.buffer);
    km_buffer_free(&model.key_buffer);
    harness_close(model.store);
    CHECK(km__sim_allocated_bytes(model.os) == 0 && km__sim_open_count(model.os) == 0);
    km__sim_destroy(model.os);
}

static void snapshots_and_cursors_agree_with_the_model(void **state)
{
    uint64_t rounds = harness_scaled(24);

    (void)state;
    for (uint64_t round = 0; round < rounds; round++) {
        open_model(round);
        for (uint32_t i = 0; i < 2500; i++)
            do_something();
        close_model();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(snapshots_and_cursors_agree_with_the_model),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
