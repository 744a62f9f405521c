/* SPDX-License-Identifier: Apache-2.0
 *
 * test_expire.c -- keys with a time to live: gone at their time, deleted some time after it.
 *
 * E1. From its time on nobody meets an expired key, whatever asks, in maps of every kind.
 * E2. It never comes back: not when the clock is set back, not after a restart.
 * E3. The background and compaction delete what has expired, and nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/harness_util.h"
#include "sim/sim.h"
#include "store/store_view.h"

#define STORE_PATH "store"
#define NOON UINT64_C(1700000000000)
#define HOUR UINT64_C(3600000)
#define SECOND_NS UINT64_C(1000000000)

static const km_map_kind kinds[] = {KM_HASH, KM_INSERTION, KM_SORTED};
#define KIND_COUNT (sizeof(kinds) / sizeof(*kinds))

static struct {
    struct os *os;
    km_store *store;
    km_map *maps[KIND_COUNT];
} fixture;

static void open_store(km_open_mode mode)
{
    static const char *const names[] = {"hash", "insertion", "sorted"};
    km_options options = KM_OPTIONS_INIT;
    km_error error = {0};
    km_status rc;

    options.mode = mode;
    rc = km__store_open_with(fixture.os, STORE_PATH, &options, 0, &fixture.store, &error);
    CHECK_MSG(rc == KM_OK, "open: %s: %s", km_status_name(rc), error.message);
    for (size_t i = 0; i < KIND_COUNT; i++) {
        if (mode == KM_OPEN_READ_ONLY)
            CHECK_STATUS(km_map_open(fixture.store, km_bytes_of_string(names[i]), &fixture.maps[i]),
                         KM_OK);
        else
            CHECK_STATUS(km_map_open_or_create(fixture.store, km_bytes_of_string(names[i]),
                                               kinds[i], &fixture.maps[i]),
                         KM_OK);
    }
}

static void close_store(void)
{
    CHECK_STATUS(km_close(fixture.store, NULL), KM_OK);
    fixture.store = NULL;
}

static int open_fixture(void **state)
{
    (void)state;
    fixture.os = km__sim_create(harness_seed());
    km__sim_set_wall(fixture.os, NOON);
    open_store(KM_OPEN_OR_CREATE);
    return 0;
}

static int close_fixture(void **state)
{
    (void)state;
    close_store();
    CHECK(km__sim_allocated_bytes(fixture.os) == 0);
    km__sim_destroy(fixture.os);
    return 0;
}

/* ---- helpers ----------------------------------------------------------------------------- */

static void put_ttl(km_map *map, uint64_t key, const char *value, uint64_t ttl_ms)
{
    km_write write = KM_WRITE_INIT;

    write.ttl_ms = ttl_ms;
    CHECK_STATUS(km_put_u64(map, key, km_bytes_of_string(value), &write), KM_OK);
}

static void put_in_all(uint64_t key, const char *value, uint64_t ttl_ms)
{
    for (size_t i = 0; i < KIND_COUNT; i++)
        put_ttl(fixture.maps[i], key, value, ttl_ms);
}

/* What a walk returns, as numbers; the first 16. */
static size_t walk(km_map *map, km_snapshot *snapshot, uint64_t keys[16])
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;
    km_bytes key;
    size_t count = 0;

    options.snapshot = snapshot;
    CHECK_STATUS(km_cursor_open(map, &options, &cursor), KM_OK);
    while (km_cursor_next(cursor, &key, NULL) == KM_OK) {
        if (count < 16)
            keys[count] = km_u64_key_to(key.data);
        count++;
    }
    km_cursor_close(cursor);
    return count;
}

/* Rounds of the background until each map has been gone through at least once. */
static void reap(void)
{
    for (int i = 0; i < 200; i++) {
        km__sim_advance(fixture.os, SECOND_NS);
        km__expire_some(fixture.store);
    }
}

static uint64_t expired_count(void)
{
    km_stats stats = {.struct_size = sizeof(stats)};

    CHECK_STATUS(km_store_stats(fixture.store, &stats), KM_OK);
    return stats.expired_count;
}

static void check_absent(km_map *map, uint64_t number)
{
    km_u64_key key = km_u64_key_from(number);
    km_bytes bytes = {key.bytes, 8}, value;
    km_reader *reader = NULL;
    km_key_info info;
    km_write write = KM_WRITE_INIT;
    size_t found = 1;

    CHECK_STATUS(km_get(map, bytes, NULL), KM_NOT_FOUND);
    CHECK_STATUS(km_get_info(map, bytes, NULL, &info), KM_NOT_FOUND);
    CHECK_STATUS(km_contains(map, bytes), KM_NOT_FOUND);
    CHECK_STATUS(km_read_begin(map->store, &reader), KM_OK);
    CHECK_STATUS(km_get_ref(reader, map, bytes, &value), KM_NOT_FOUND);
    CHECK_STATUS(km_get_many(reader, map, &bytes, 1, &value, &found), KM_OK);
    CHECK(found == 0 && value.data == NULL);
    km_read_end(reader);
    CHECK_STATUS(km_del(map, bytes, NULL), KM_NOT_FOUND);
    write.condition = KM_IF_PRESENT;
    CHECK_STATUS(km_put(map, bytes, value, &write), KM_NOT_FOUND);
}

/* ---- not there: E1 ----------------------------------------------------------------------- */

static void an_expired_key_is_not_there(void **state)
{
    uint64_t keys[16];

    (void)state;
    put_in_all(1, "short", 1000);
    put_in_all(2, "long", HOUR);
    put_in_all(3, "stays", 0);
    km__sim_set_wall(fixture.os, NOON + 900);
    for (size_t i = 0; i < KIND_COUNT; i++)
        CHECK(walk(fixture.maps[i], NULL, keys) == 3);
    km__sim_set_wall(fixture.os, NOON + 1100);
    for (size_t i = 0; i < KIND_COUNT; i++) {
        check_absent(fixture.maps[i], 1);
        CHECK(walk(fixture.maps[i], NULL, keys) == 2);
        CHECK_STATUS(km_get_u64(fixture.maps[i], 2, NULL), KM_OK);
        CHECK_STATUS(km_get_u64(fixture.maps[i], 3, NULL), KM_OK);
        CHECK(km_count(fixture.maps[i]) == 3); /* until it is deleted */
    }
}

static void a_put_without_a_time_takes_it_away(void **state)
{
    km_u64_key key = km_u64_key_from(1);
    km_key_info info;

    (void)state;
    put_in_all(1, "short", 1000);
    put_in_all(1, "stays", 0);
    km__sim_set_wall(fixture.os, NOON + HOUR);
    reap();
    for (size_t i = 0; i < KIND_COUNT; i++) {
        CHECK_STATUS(km_get_info(fixture.maps[i], km_bytes_of(key.bytes, 8), NULL, &info), KM_OK);
        CHECK(info.expires_ms == 0);
    }
    CHECK(expired_count() == 0);
}

static void an_expired_key_comes_back_as_a_new_one(void **state)
{
    km_u64_key key = km_u64_key_from(1);
    uint64_t keys[16] = {0};

    (void)state;
    put_in_all(1, "short", 1000);
    put_in_all(2, "stays", 0);
    km__sim_set_wall(fixture.os, NOON + 2000);
    for (size_t i = 0; i < KIND_COUNT; i++) {
        km_write write = KM_WRITE_INIT;

        CHECK_STATUS(km_put_if_absent(fixture.maps[i], km_bytes_of(key.bytes, 8),
                                      km_bytes_of_string("again"), &write),
                     KM_OK);
        CHECK(!write.existed && km_count(fixture.maps[i]) == 2);
        CHECK(walk(fixture.maps[i], NULL, keys) == 2);
        if (kinds[i] == KM_INSERTION)
            CHECK(keys[0] == 2 && keys[1] == 1); /* at the end */
    }
    reap();
    for (size_t i = 0; i < KIND_COUNT; i++)
        CHECK(walk(fixture.maps[i], NULL, keys) == 2);
}

/* ---- deleted: E3 ------------------------------------------------------------------------- */

#define MANY 3000u

/* Every third key has a short time, every other third a long one. */
static void put_many(void)
{
    for (uint64_t key = 0; key < MANY; key++)
        put_in_all(key, "value", key % 3 == 0 ? HOUR / 4 : key % 3 == 1 ? HOUR : 0);
}

static void check_many(void)
{
    for (size_t i = 0; i < KIND_COUNT; i++) {
        CHECK_MSG(km_count(fixture.maps[i]) == MANY / 3 * 2, "%llu keys in map %zu",
                  (unsigned long long)km_count(fixture.maps[i]), i);
        for (uint64_t key = 0; key < MANY; key++)
            CHECK_STATUS(km_get_u64(fixture.maps[i], key, NULL),
                         key % 3 == 0 ? KM_NOT_FOUND : KM_OK);
    }
}

static void the_background_deletes_what_has_expired(void **state)
{
    (void)state;
    put_many();
    reap();
    CHECK(expired_count() == 0);
    km__sim_set_wall(fixture.os, NOON + HOUR / 2);
    reap();
    check_many();
    CHECK(expired_count() == KIND_COUNT * MANY / 3);
    close_store();
    open_store(KM_OPEN_EXISTING);
    check_many();
}

/* A call does little, and after it there is a rest. */
static void the_background_takes_little_at_a_time(void **state)
{
    uint64_t before, calls = 0;

    (void)state;
    put_many();
    km__sim_set_wall(fixture.os, NOON + HOUR / 2);
    while (expired_count() < KIND_COUNT * MANY / 3 && calls < 100) {
        before = expired_count();
        km__expire_some(fixture.store);
        calls += expired_count() > before;
        before = expired_count();
        km__expire_some(fixture.store); /* at once: nothing */
        CHECK(expired_count() == before);
        km__sim_advance(fixture.os, SECOND_NS);
    }
    printf("%llu calls\n", (unsigned long long)calls);
    CHECK(calls > 2 && calls < 100);
    check_many();
}

static void compaction_deletes_what_has_expired(void **state)
{
    km_stats stats = {.struct_size = sizeof(stats)};

    (void)state;
    put_many();
    km__sim_set_wall(fixture.os, NOON + HOUR / 2);
    CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
    CHECK(expired_count() > KIND_COUNT * MANY / 3 * 95 / 100); /* where it need not wait for room */
    reap();
    check_many();
    CHECK_STATUS(km_store_stats(fixture.store, &stats), KM_OK);
    CHECK(stats.compacted_bytes <= stats.live_bytes + (64 << 10)); /* the expired did not move */
}

static void a_key_that_was_put_meanwhile_is_left_alone(void **state)
{
    km_u64_key key = km_u64_key_from(1);
    km_bytes bytes = {key.bytes, 8};
    km_key_info info;

    (void)state;
    put_in_all(1, "short", 1000);
    for (size_t i = 0; i < KIND_COUNT; i++) {
        CHECK_STATUS(km_get_info(fixture.maps[i], bytes, NULL, &info), KM_OK);
        put_ttl(fixture.maps[i], 1, "other", HOUR);
        CHECK_STATUS(km__expire_key(fixture.maps[i], bytes, info.version), KM_CONFLICT);
        CHECK_STATUS(km_get(fixture.maps[i], bytes, NULL), KM_OK);
        CHECK_STATUS(km_del(fixture.maps[i], bytes, NULL), KM_OK);
        CHECK(km__expire_key(fixture.maps[i], bytes, info.version) > 0);
    }
    CHECK(expired_count() == 0);
}

static void who_watches_learns_of_it_as_a_delete(void **state)
{
    km_watch *watch = NULL;
    km_change change;

    (void)state;
    put_ttl(fixture.maps[0], 7, "short", 1000);
    CHECK_STATUS(km_watch_open(fixture.store, NULL, &watch), KM_OK);
    km__sim_set_wall(fixture.os, NOON + 2000);
    reap();
    CHECK_STATUS(km_watch_next(watch, 0, &change), KM_OK);
    CHECK(change.kind == KM_CHANGE_DELETE && km_u64_key_to(change.key.data) == 7);
    CHECK_STATUS(km_watch_next(watch, 0, &change), KM_TIMED_OUT);
    km_watch_close(watch);
}

static void a_snapshot_does_not_have_it_either(void **state)
{
    km_snapshot *snapshot = NULL;
    uint64_t keys[16];

    (void)state;
    put_in_all(1, "short", 1000);
    put_in_all(2, "stays", 0);
    CHECK_STATUS(km_snapshot_open(fixture.store, &snapshot), KM_OK);
    for (int is_reaped = 0; is_reaped < 2; is_reaped++) {
        km__sim_set_wall(fixture.os, NOON + 2000);
        if (is_reaped)
            reap();
        for (size_t i = 0; i < KIND_COUNT; i++) {
            km_u64_key key = km_u64_key_from(1);

            CHECK_STATUS(
                km_snapshot_get(snapshot, fixture.maps[i], km_bytes_of(key.bytes, 8), NULL, NULL),
                KM_NOT_FOUND);
            CHECK(walk(fixture.maps[i], snapshot, keys) == 1 && keys[0] == 2);
            CHECK(km_snapshot_count(snapshot, fixture.maps[i]) == 2);
            CHECK(km_count(fixture.maps[i]) == 2u - (unsigned)is_reaped);
        }
    }
    km_snapshot_close(snapshot);
}

static int count_deletes(void *context, const km_change *change)
{
    CHECK(change->kind == KM_CHANGE_DELETE && km_u64_key_to(change->key.data) != 3);
    ++*(uint64_t *)context;
    return 0;
}

/* Key 1 expires, 2 is put anew and expires, 3 was not there before and expires, 4 stays. */
static void a_difference_tells_of_it_as_a_delete(void **state)
{
    km_snapshot *older = NULL, *newer = NULL;
    uint64_t count = 0;

    (void)state;
    put_in_all(1, "short", 1000);
    put_in_all(2, "stays", 0);
    put_in_all(4, "stays", 0);
    CHECK_STATUS(km_snapshot_open(fixture.store, &older), KM_OK);
    put_in_all(2, "short", 1000);
    put_in_all(3, "short", 1000);
    km__sim_set_wall(fixture.os, NOON + 2000);
    CHECK_STATUS(km_snapshot_changes(older, NULL, NULL, count_deletes, &count), KM_OK);
    CHECK(count == KIND_COUNT); /* key 2; of 1 no record speaks yet */
    reap();
    count = 0;
    CHECK_STATUS(km_snapshot_changes(older, NULL, NULL, count_deletes, &count), KM_OK);
    CHECK(count == 2 * KIND_COUNT);
    put_in_all(5, "short", 1000);
    km__sim_set_wall(fixture.os, NOON + HOUR);
    CHECK_STATUS(km_snapshot_open(fixture.store, &newer), KM_OK); /* key 5 is not in it */
    reap();
    CHECK_STATUS(km_snapshot_changes(newer, NULL, NULL, count_deletes, &count), KM_OK);
    CHECK(count == 2 * KIND_COUNT);
    km_snapshot_close(newer);
    km_snapshot_close(older);
}

static void dropped_and_cleared_maps_are_passed_over(void **state)
{
    (void)state;
    put_many();
    km__sim_set_wall(fixture.os, NOON + HOUR / 2);
    km__expire_some(fixture.store); /* somewhere in the first map */
    CHECK_STATUS(km_map_clear(fixture.maps[0]), KM_OK);
    km__sim_advance(fixture.os, SECOND_NS);
    km__expire_some(fixture.store);
    CHECK_STATUS(km_map_drop(fixture.maps[1]), KM_OK);
    CHECK_STATUS(km_map_clear(fixture.maps[2]), KM_OK);
    reap();
    put_ttl(fixture.maps[2], 1, "short", 1000);
    km__sim_advance(fixture.os, 10 * SECOND_NS);
    reap();
    CHECK(km_count(fixture.maps[0]) == 0 && km_count(fixture.maps[2]) == 0);
}

static void a_store_that_is_open_for_reading_deletes_nothing(void **state)
{
    (void)state;
    put_in_all(1, "short", 1000);
    close_store();
    km__sim_set_wall(fixture.os, NOON + HOUR);
    open_store(KM_OPEN_READ_ONLY);
    reap();
    for (size_t i = 0; i < KIND_COUNT; i++) {
        CHECK(km_count(fixture.maps[i]) == 1);
        CHECK_STATUS(km_get_u64(fixture.maps[i], 1, NULL), KM_NOT_FOUND);
    }
    CHECK(expired_count() == 0);
}

/* ---- for good: E2 ------------------------------------------------------------------------ */

static void check_all_absent(uint64_t key)
{
    for (size_t i = 0; i < KIND_COUNT; i++)
        CHECK_STATUS(km_get_u64(fixture.maps[i], key, NULL), KM_NOT_FOUND);
}

static void a_clock_that_goes_back_revives_nothing(void **state)
{
    (void)state;
    put_in_all(1, "short", 1000);
    km__sim_set_wall(fixture.os, NOON + HOUR);
    check_all_absent(1);
    km__sim_set_wall(fixture.os, NOON);
    check_all_absent(1);
    close_store();
    open_store(KM_OPEN_EXISTING);
    check_all_absent(1);
}

static void a_crash_revives_nothing(void **state)
{
    struct os *before = fixture.os;

    (void)state;
    put_in_all(1, "short", 1000);
    put_in_all(2, "short", 1000);
    km__sim_set_wall(fixture.os, NOON + HOUR);
    check_all_absent(1);
    km__log_sync_once(fixture.store->log); /* MARKS has seen this hour */
    for (int mode = 0; mode < SIM_POWER_MODE_COUNT; mode++) {
        km_store *store = fixture.store;
        struct os *cut = mode == 0 ? km__sim_clone_after_kill(before)
                                   : km__sim_clone_after_power_cut(before, harness_seed(),
                                                                   (enum sim_power)mode);

        km__sim_set_wall(cut, NOON);
        fixture.os = cut;
        open_store(KM_OPEN_EXISTING);
        check_all_absent(1);
        check_all_absent(2);
        close_store();
        km__sim_destroy(cut);
        fixture.os = before;
        fixture.store = store;
    }
    close_store();
    open_store(KM_OPEN_EXISTING);
}

/* Beyond what MARKS has seen: a delete that was logged is one. */
static void what_was_deleted_stays_so_whatever_the_clock_says(void **state)
{
    struct os *before = fixture.os, *cut;
    km_store *store;

    (void)state;
    put_in_all(1, "short", 1000);
    km__sim_set_wall(fixture.os, NOON + HOUR);
    reap();
    CHECK(expired_count() == KIND_COUNT);
    cut = km__sim_clone_after_kill(before);
    km__sim_set_wall(cut, NOON);
    store = fixture.store;
    fixture.os = cut;
    open_store(KM_OPEN_EXISTING);
    for (size_t i = 0; i < KIND_COUNT; i++)
        CHECK(km_count(fixture.maps[i]) == 0);
    close_store();
    km__sim_destroy(cut);
    fixture.os = before;
    fixture.store = store;
    close_store();
    open_store(KM_OPEN_EXISTING);
}

/* ---- threads ----------------------------------------------------------------------------- */

static void the_keeper_does_it_by_itself(void **state)
{
    km_store *store = NULL;
    km_map *map = NULL;

    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &store, NULL), KM_OK);
    CHECK_STATUS(km_map_create(store, km_bytes_of_string("map"), KM_INSERTION, &map), KM_OK);
    for (uint64_t key = 0; key < 100; key++)
        put_ttl(map, key, "value", key % 2 ? 20 : HOUR);
    for (int i = 0; i < 2000 && km_count(map) > 50; i++)
        poll(NULL, 0, 10);
    CHECK(km_count(map) == 50);
    CHECK_STATUS(km_close(store, NULL), KM_OK);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_fixture, close_fixture)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CASE(an_expired_key_is_not_there),
        CASE(a_put_without_a_time_takes_it_away),
        CASE(an_expired_key_comes_back_as_a_new_one),
        CASE(the_background_deletes_what_has_expired),
        CASE(the_background_takes_little_at_a_time),
        CASE(compaction_deletes_what_has_expired),
        CASE(a_key_that_was_put_meanwhile_is_left_alone),
        CASE(who_watches_learns_of_it_as_a_delete),
        CASE(a_snapshot_does_not_have_it_either),
        CASE(a_difference_tells_of_it_as_a_delete),
        CASE(dropped_and_cleared_maps_are_passed_over),
        CASE(a_store_that_is_open_for_reading_deletes_nothing),
        CASE(a_clock_that_goes_back_revives_nothing),
        CASE(a_crash_revives_nothing),
        CASE(what_was_deleted_stays_so_whatever_the_clock_says),
        cmocka_unit_test(the_keeper_does_it_by_itself),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
