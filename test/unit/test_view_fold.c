/* SPDX-License-Identifier: Apache-2.0
 *
 * test_view_fold.c -- the views of closed snapshots are folded into older ones: open snapshots keep
 * their contents, and what is kept for them does not grow with the number of those that were.
 *
 * A model of small maps: a number and an ordinal for each key, copied for each open snapshot. The
 * store has no threads of its own but where a case says so: snapshots fold when they are closed,
 * and where a case plays the keeper.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "harness/harness_util.h"
#include "sim/sim.h"
#include "store/store_view.h"

#define KIND_COUNT 3u
#define KEY_MAX 6000u
#define COPY_MAX 6u

static const km_map_kind kinds[KIND_COUNT] = {KM_HASH, KM_INSERTION, KM_SORTED};

struct table {
    uint64_t numbers[KEY_MAX]; /* 0: not there */
    uint64_t ordinals[KEY_MAX];
    uint64_t count;
};

struct copy {
    km_snapshot *snapshot; /* NULL: none */
    struct table tables[KIND_COUNT];
};

static struct model {
    struct os *os;
    km_store *store;
    km_map *maps[KIND_COUNT];
    struct harness_random random;
    struct table tables[KIND_COUNT];
    struct copy copies[COPY_MAX];
    uint64_t key_count, last_number;
    km_buffer buffer;
} model;

static uint64_t below(uint64_t n)
{
    return harness_below(&model.random, n);
}

static int set_up(void **state)
{
    static const char *const names[KIND_COUNT] = {"hash", "insertion", "sorted"};
    km_options options = KM_OPTIONS_INIT;
    km_buffer empty = KM_BUFFER_INIT;

    (void)state;
    memset(&model, 0, sizeof(model));
    model.buffer = empty;
    model.random = harness_stream(1);
    model.key_count = 60;
    model.os = km__sim_create(harness_next(&model.random));
    CHECK_STATUS(km__store_open_with(model.os, "store", &options, 0, &model.store, NULL), KM_OK);
    for (uint32_t i = 0; i < KIND_COUNT; i++)
        CHECK_STATUS(
            km_map_create(model.store, km_bytes_of_string(names[i]), kinds[i], &model.maps[i]),
            KM_OK);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    km_buffer_free(&model.buffer);
    harness_close(model.store);
    CHECK(km__sim_allocated_bytes(model.os) == 0);
    km__sim_destroy(model.os);
    return 0;
}

/* ---- changes ----------------------------------------------------------------------------- */

static void put_key(uint32_t map, uint64_t key)
{
    struct table *table = &model.tables[map];
    uint64_t number = ++model.last_number;

    CHECK_STATUS(km_put_u64(model.maps[map], key, km_bytes_of(&number, 8), NULL), KM_OK);
    if (!table->numbers[key]) {
        table->count++;
        table->ordinals[key] = number; /* they grow */
    }
    table->numbers[key] = number;
}

static void delete_key(uint32_t map, uint64_t key)
{
    struct table *table = &model.tables[map];

    CHECK_STATUS(km_del_u64(model.maps[map], key, NULL),
                 table->numbers[key] ? KM_OK : KM_NOT_FOUND);
    table->count -= table->numbers[key] != 0;
    table->numbers[key] = 0;
}

static void clear_map(uint32_t map)
{
    CHECK_STATUS(km_map_clear(model.maps[map]), KM_OK);
    memset(&model.tables[map], 0, sizeof(model.tables[map]));
}

static void change_some(uint64_t changes)
{
    for (uint64_t i = 0; i < changes; i++) {
        uint32_t map = (uint32_t)below(KIND_COUNT);
        uint64_t dice = below(100), key = below(model.key_count);

        if (dice < 2)
            clear_map(map);
        else if (dice < 35)
            delete_key(map, key);
        else
            put_key(map, key);
    }
}

static void fill_maps(void)
{
    for (uint32_t map = 0; map < KIND_COUNT; map++)
        for (uint64_t key = 0; key < model.key_count; key += 1 + below(2))
            put_key(map, key);
}

/* ---- snapshots --------------------------------------------------------------------------- */

static void open_copy(struct copy *copy)
{
    CHECK_STATUS(km_snapshot_open(model.store, &copy->snapshot), KM_OK);
    memcpy(copy->tables, model.tables, sizeof(copy->tables));
}

static void close_copy(struct copy *copy)
{
    km_snapshot_close(copy->snapshot);
    copy->snapshot = NULL;
}

static void check_gets(const struct copy *copy, uint32_t map)
{
    const struct table *table = &copy->tables[map];

    for (uint64_t key = 0; key < model.key_count; key++) {
        km_u64_key name = km_u64_key_from(key);
        km_status rc = km_snapshot_get(copy->snapshot, model.maps[map], km_bytes_of(name.bytes, 8),
                                       &model.buffer, NULL);

        CHECK_STATUS(rc, table->numbers[key] ? KM_OK : KM_NOT_FOUND);
        if (!rc)
            CHECK(memcmp(model.buffer.data, &table->numbers[key], 8) == 0);
    }
}

/* Where a key is in the order of its map; KM_HASH has none. */
static uint64_t rank_of(const struct table *table, uint32_t map, uint64_t key)
{
    return kinds[map] == KM_INSERTION ? table->ordinals[key] : key + 1;
}

static void check_walk(const struct copy *copy, uint32_t map, int is_reverse)
{
    const struct table *table = &copy->tables[map];
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    uint64_t count = 0, last = is_reverse ? UINT64_MAX : 0;
    km_cursor *cursor = NULL;
    km_bytes key, value;
    km_status rc;

    options.snapshot = copy->snapshot;
    options.reverse = is_reverse;
    CHECK_STATUS(km_cursor_open(model.maps[map], &options, &cursor), KM_OK);
    while ((rc = km_cursor_next(cursor, &key, &value)) == KM_OK) {
        uint64_t number = km_u64_key_to(key.data), rank = rank_of(table, map, number);

        CHECK(table->numbers[number] && memcmp(value.data, &table->numbers[number], 8) == 0);
        if (kinds[map] != KM_HASH)
            CHECK(is_reverse ? rank < last : rank > last);
        last = rank;
        count++;
    }
    CHECK_STATUS(rc, KM_END);
    CHECK_MSG(count == table->count, "map %u: %u keys, not %u", (unsigned)map, (unsigned)count,
              (unsigned)table->count);
    km_cursor_close(cursor);
}

static void check_copy(const struct copy *copy)
{
    for (uint32_t map = 0; map < KIND_COUNT; map++) {
        CHECK(km_snapshot_count(copy->snapshot, model.maps[map]) == copy->tables[map].count);
        check_gets(copy, map);
        check_walk(copy, map, 0);
        if (kinds[map] != KM_HASH)
            check_walk(copy, map, 1);
    }
}

static uint64_t snapshot_bytes(void)
{
    km_stats stats = {.struct_size = sizeof(stats)};

    CHECK_STATUS(km_store_stats(model.store, &stats), KM_OK);
    return stats.snapshot_bytes;
}

static uint64_t count_views(uint32_t map)
{
    uint64_t count = 0;

    for (const struct map_view *view = model.maps[map]->newest_view; view; view = view->older)
        count++;
    return count;
}

/* ---- cases ------------------------------------------------------------------------------- */

static void an_old_snapshot_stays_and_short_ones_leave_nothing(void **state)
{
    uint64_t rounds = harness_scaled(2000), bytes_max = 0;

    (void)state;
    fill_maps();
    open_copy(&model.copies[0]);
    for (uint64_t round = 0; round < rounds; round++) {
        km_snapshot *snapshot = NULL;
        uint64_t bytes;

        CHECK_STATUS(km_snapshot_open(model.store, &snapshot), KM_OK);
        change_some(1 + below(20));
        km_snapshot_close(snapshot);
        bytes = snapshot_bytes();
        if (round < 100)
            bytes_max = bytes > bytes_max ? bytes : bytes_max;
        CHECK_MSG(bytes <= 2 * bytes_max, "round %u: %u bytes", (unsigned)round, (unsigned)bytes);
        for (uint32_t map = 0; map < KIND_COUNT; map++)
            CHECK(count_views(map) <= 3);
        if (round % 50 == 0)
            check_copy(&model.copies[0]);
    }
    check_copy(&model.copies[0]);
    close_copy(&model.copies[0]);
    CHECK(snapshot_bytes() == 0);
}

static void keys_that_came_and_went_leave_nothing(void **state)
{
    uint64_t bytes_max = 0;

    (void)state;
    fill_maps();
    model.key_count = KEY_MAX;
    open_copy(&model.copies[0]);
    for (uint64_t key = 70; key + 10 <= KEY_MAX; key += 10) {
        km_snapshot *snapshot = NULL;

        CHECK_STATUS(km_snapshot_open(model.store, &snapshot), KM_OK);
        for (uint64_t i = key; i < key + 10; i++)
            for (uint32_t map = 0; map < KIND_COUNT; map++) {
                delete_key(map, i - 10); /* younger than the old snapshot, older than this one */
                put_key(map, i);
            }
        km_snapshot_close(snapshot);
        if (key < 500 && snapshot_bytes() > bytes_max)
            bytes_max = snapshot_bytes();
        CHECK(snapshot_bytes() <= 2 * bytes_max);
    }
    check_copy(&model.copies[0]);
    close_copy(&model.copies[0]);
}

/* A model's step: open, close or check one of the copies, after some changes. */
static void take_step(uint64_t copies)
{
    struct copy *copy = &model.copies[below(copies)];

    change_some(below(12));
    if (!copy->snapshot) {
        open_copy(copy);
    } else if (below(3)) {
        close_copy(copy);
    } else {
        check_copy(copy);
    }
    if (below(10) == 0)
        km__views_fold(model.store);
}

static void interleaved_snapshots_keep_their_contents(void **state)
{
    uint64_t steps = harness_scaled(4000);

    (void)state;
    fill_maps();
    for (uint64_t step = 0; step < steps; step++) {
        take_step(step < steps / 2 ? 3 : COPY_MAX);
        for (uint32_t i = 0; i < COPY_MAX && step % 20 == 0; i++)
            if (model.copies[i].snapshot)
                check_copy(&model.copies[i]);
    }
    for (uint32_t i = 0; i < COPY_MAX; i++)
        close_copy(&model.copies[i]);
    CHECK(snapshot_bytes() == 0);
}

/* Overwrite everything in several views, delete and put some again, and empty a map or none. */
static void make_large_views(uint32_t cleared_map)
{
    for (uint32_t i = 1; i < 5; i++) {
        open_copy(&model.copies[i]);
        for (uint32_t map = 0; map < KIND_COUNT; map++) {
            for (uint64_t key = 0; key < model.key_count; key++) {
                if (below(3) == 0)
                    delete_key(map, key);
                if (below(2) == 0)
                    put_key(map, key);
            }
            if (map == cleared_map && i == 2)
                clear_map(map);
        }
    }
}

static void large_views_are_the_keepers(void **state)
{
    (void)state;
    model.key_count = KEY_MAX;
    for (uint32_t cleared_map = 0; cleared_map <= KIND_COUNT; cleared_map++) {
        uint64_t bytes;

        fill_maps();
        open_copy(&model.copies[0]);
        make_large_views(cleared_map);
        for (uint32_t i = 1; i < 4; i++)
            close_copy(&model.copies[i]);
        bytes = snapshot_bytes();
        CHECK(count_views(1) > 3);
        km__views_fold(model.store);
        for (uint32_t map = 0; map < KIND_COUNT; map++)
            CHECK(count_views(map) == 2);
        CHECK(snapshot_bytes() < bytes);
        check_copy(&model.copies[0]);
        check_copy(&model.copies[4]);
        close_copy(&model.copies[4]);
        close_copy(&model.copies[0]);
    }
}

/* Let the keeper's work fail at one allocation after the other until it is done; how often. */
static uint64_t fold_with_failures(uint64_t nth)
{
    uint64_t tries = 0;

    while (count_views(0) + count_views(1) + count_views(2) > 2 * KIND_COUNT) { /* it gets on */
        km__sim_fail_allocation(model.os, nth);
        km__views_fold(model.store);
        km__sim_fail_allocation(model.os, 0);
        check_copy(&model.copies[0]);
        nth += 1 + nth / 2;
        tries++;
    }
    return tries;
}

static void a_fold_goes_on_after_memory_ran_out(void **state)
{
    uint64_t tries = 0, rounds = 0;

    (void)state;
    model.key_count = 1500;
    for (uint64_t nth = 1; nth < 60; nth += 6, rounds++) {
        fill_maps();
        open_copy(&model.copies[0]);
        make_large_views(KIND_COUNT);
        for (uint32_t i = 1; i < 4; i++)
            close_copy(&model.copies[i]);
        tries += fold_with_failures(nth);
        check_copy(&model.copies[4]);
        close_copy(&model.copies[4]);
        close_copy(&model.copies[0]);
    }
    CHECK(tries > rounds);
}

static void a_damaged_record_stops_a_fold_and_nothing_else(void **state)
{
    km_snapshot *snapshot = NULL;

    (void)state;
    fill_maps();
    open_copy(&model.copies[0]);
    for (uint32_t i = 0; i < 20; i++) {
        CHECK_STATUS(km_snapshot_open(model.store, &snapshot), KM_OK);
        change_some(20);
        if (i == 5)
            for (uint32_t map = 0; map < KIND_COUNT; map++)
                if (model.maps[map]->newest_view)
                    model.maps[map]->newest_view->fold.is_stuck = 1; /* as if */
        km_snapshot_close(snapshot);
    }
    for (uint32_t map = 0; map < KIND_COUNT; map++)
        CHECK(count_views(map) <= 4);
    check_copy(&model.copies[0]);
    close_copy(&model.copies[0]);
    CHECK(snapshot_bytes() == 0);
}

/* ---- readers beside it ------------------------------------------------------------------- */

static _Atomic int is_over;

static void *read_on(void *context)
{
    const struct copy *copy = context;

    /* relaxed: only to end */
    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
        for (uint32_t map = 0; map < KIND_COUNT; map++) {
            CHECK(km_snapshot_count(copy->snapshot, model.maps[map]) == copy->tables[map].count);
            check_walk(copy, map, kinds[map] != KM_HASH && copy->tables[map].count % 2);
        }
    }
    return NULL;
}

static void *fold_on(void *context)
{
    /* relaxed: only to end */
    while (!atomic_load_explicit(&is_over, memory_order_relaxed))
        km__views_fold(context);
    return NULL;
}

static void readers_do_not_notice(void **state)
{
    uint64_t rounds = harness_scaled(1500);
    pthread_t threads[3];

    (void)state;
    model.key_count = 200;
    fill_maps();
    open_copy(&model.copies[0]);
    change_some(50);
    open_copy(&model.copies[1]);
    atomic_store_explicit(&is_over, 0, memory_order_relaxed);
    CHECK(!pthread_create(&threads[0], NULL, read_on, &model.copies[0]));
    CHECK(!pthread_create(&threads[1], NULL, read_on, &model.copies[1]));
    CHECK(!pthread_create(&threads[2], NULL, fold_on, model.store));
    for (uint64_t round = 0; round < rounds; round++) {
        if (model.copies[2 + round % 4].snapshot)
            close_copy(&model.copies[2 + round % 4]);
        open_copy(&model.copies[2 + round % 4]);
        change_some(1 + below(30));
    }
    atomic_store_explicit(&is_over, 1, memory_order_relaxed);
    for (uint32_t i = 0; i < 3; i++)
        CHECK(!pthread_join(threads[i], NULL));
    for (uint32_t i = 0; i < COPY_MAX; i++) {
        check_copy(&model.copies[i]);
        close_copy(&model.copies[i]);
    }
}

#define FOLD_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FOLD_TEST(an_old_snapshot_stays_and_short_ones_leave_nothing),
        FOLD_TEST(keys_that_came_and_went_leave_nothing),
        FOLD_TEST(interleaved_snapshots_keep_their_contents),
        FOLD_TEST(large_views_are_the_keepers),
        FOLD_TEST(a_fold_goes_on_after_memory_ran_out),
        FOLD_TEST(a_damaged_record_stops_a_fold_and_nothing_else),
        FOLD_TEST(readers_do_not_notice),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
