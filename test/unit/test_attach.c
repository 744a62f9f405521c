/* SPDX-License-Identifier: Apache-2.0
 *
 * test_attach.c -- sealed tables under maps, case by case; test_model_attach.c has random ones.
 *
 * A1. What was deleted, or has expired, over a table stays away, whatever comes after, until the
 *     table is detached.
 * A2. The count of a map is exact.
 * A3. An attach or detach that fails leaves map and folder as they were.
 * A4. The table's file is the store's from then on; damage to it is told, with its name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>

#include "harness/harness_check.h"
#include "unit/test_attach_util.h"

/* ---- hidden: A1 ---------------------------------------------------------------------------- */

static void reap(void)
{
    for (uint32_t i = 0; i < 4 * MAP_COUNT; i++) {
        km__sim_advance(world.os, 10 * SECOND_NS);
        km__expire_some(world.store);
    }
}

static void check_hidden(void)
{
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        check_keys(world.maps[i], 0, 50, NULL);
        check_keys(world.maps[i], 50, 100, "table");
        check_count(world.maps[i], 50);
    }
}

/* What hides keys is no key that has expired. */
static void check_none_reaped(void)
{
    km_stats stats = {.struct_size = sizeof(stats)};

    CHECK_STATUS(km_store_stats(world.store, &stats), KM_OK);
    CHECK(stats.expired_count == 0);
}

static void hidden_keys_stay_hidden(void **state)
{
    (void)state;
    attach_to_all("table", 0, 100);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        for (uint32_t key = 0; key < 50; key++)
            del(world.maps[i], key);
        CHECK_STATUS(km_del(world.maps[i], key_of(7), NULL), KM_NOT_FOUND);
    }
    check_hidden();
    for (uint32_t round = 0; round < 3; round++) {
        struct os *dead = world.os;

        reap();
        check_hidden();
        CHECK_STATUS(km_compact(world.store, NULL, NULL, NULL), KM_OK);
        check_hidden();
        check_none_reaped();
        reopen_world();
        check_hidden();
        world.os = km__sim_clone_after_kill(dead);
        harness_close(world.store);
        km__sim_destroy(dead);
        open_world_store(KM_OPEN_EXISTING);
        check_hidden();
    }
}

static void put_for_a_second(km_map *map, uint32_t key)
{
    km_write write = KM_WRITE_INIT;

    write.ttl_ms = 1000;
    CHECK_STATUS(km_put(map, key_of(key), value_of("short", key), &write), KM_OK);
}

static void check_expired(uint64_t count)
{
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        check_key(world.maps[i], 3, NULL);
        CHECK(km_count(world.maps[i]) == count);
        CHECK_STATUS(km_put_if_absent(world.maps[i], key_of(2), km_bytes_of("", 0), NULL),
                     KM_EXISTS);
    }
}

static void what_expires_over_a_table_stays_away(void **state)
{
    (void)state;
    attach_to_all("table", 0, 10);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        put_for_a_second(world.maps[i], 3);
    check_key(world.maps[0], 3, "short");
    km__sim_advance(world.os, 2 * SECOND_NS);
    check_expired(10); /* not yet deleted: it counts */
    reap();
    check_expired(9);
    reopen_world();
    check_expired(9);
    CHECK_STATUS(km_compact(world.store, NULL, NULL, NULL), KM_OK);
    check_expired(9);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        put_for_a_second(world.maps[i], 3);
    km__sim_advance(world.os, 2 * SECOND_NS);
    CHECK_STATUS(km_compact(world.store, NULL, NULL, NULL), KM_OK); /* which deletes it too */
    check_expired(9);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        CHECK_STATUS(km_detach_sealed(world.maps[i], NULL), KM_OK);
        attach(world.maps[i], "table.table");
        check_keys(world.maps[i], 0, 10, "table");
        check_count(world.maps[i], 10);
    }
}

/* What has expired before a table comes does not hide what it has. */
static void what_had_expired_before_hides_nothing(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        put_for_a_second(world.maps[i], 3);
    km__sim_advance(world.os, 2 * SECOND_NS);
    attach_to_all("table", 0, 10);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        check_key(world.maps[i], 3, "table");
        check_count(world.maps[i], 10);
    }
}

static void what_was_hidden_is_seen_in_another_table(void **state)
{
    (void)state;
    attach_to_all("old", 0, 10);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        km_map *map = world.maps[i];

        del(map, 1);
        put(map, 2, "own");
        put(map, 100, "own");
        CHECK_STATUS(km_detach_sealed(map, NULL), KM_OK);
        CHECK_STATUS(km_detach_sealed(map, NULL), KM_NOT_FOUND);
        check_count(map, 2);
        check_key(map, 5, NULL);
        attach(map, build("new", 0, 20));
        check_key(map, 1, "new");
        check_key(map, 2, "own");
        check_count(map, 21);
    }
    reopen_world();
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        check_count(world.maps[i], 21);
}

/* Deletes that were there before go before a table that is attached above. */
static void a_hidden_key_is_hidden_from_later_tables_too(void **state)
{
    (void)state;
    attach_to_all("old", 0, 10);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        del(world.maps[i], 1);
    attach_to_all("new", 0, 5);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        check_key(world.maps[i], 1, NULL);
        check_key(world.maps[i], 2, "new");
        check_key(world.maps[i], 7, "old");
        check_count(world.maps[i], 9);
        put(world.maps[i], 1, "own");
        check_count(world.maps[i], 10);
    }
}

/* ---- versions ------------------------------------------------------------------------------ */

static uint64_t version_of(km_map *map, uint32_t key)
{
    km_key_info info = {0, 0, 0};

    CHECK_STATUS(km_get_info(map, key_of(key), NULL, &info), KM_OK);
    return info.version;
}

/* Nothing is written to the log between. */
static void check_versions(km_map *map)
{
    uint64_t versions[4];

    for (uint32_t i = 0; i < 4; i++) {
        if (i == 2)
            CHECK_STATUS(km_detach_sealed(map, NULL), KM_OK);
        attach(map, "table.table");
        versions[i] = version_of(map, 1);
        CHECK(i == 0 || versions[i] > versions[i - 1]);
        CHECK_STATUS(km_compare_and_set(map, key_of(1), versions[i] - 1, key_of(1), NULL),
                     KM_CONFLICT);
    }
    put(map, 1, "own");
    CHECK(version_of(map, 1) > versions[3]);
    CHECK(version_of(map, 2) == versions[3]);
    CHECK_STATUS(km_compare_and_set(map, key_of(2), versions[3], key_of(2), NULL), KM_OK);
}

static void no_key_has_the_same_version_twice(void **state)
{
    (void)state;
    build("table", 0, 10);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        check_versions(world.maps[i]);
    harness_close(world.store);
    world.is_in_memory = 1;
    open_world_store(KM_OPEN_OR_CREATE);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        check_versions(world.maps[i]);
}

/* ---- watches and followers ----------------------------------------------------------------- */

static void watches_tell_hides_as_deletes(void **state)
{
    km_watch_options options = KM_WATCH_OPTIONS_INIT;
    km_watch *watch = NULL;
    km_change change;

    (void)state;
    attach_to_all("table", 0, 10);
    CHECK_STATUS(km_watch_open(world.store, &options, &watch), KM_OK);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        del(world.maps[i], 4);
        CHECK_STATUS(km_watch_next(watch, 0, &change), KM_OK);
        CHECK(change.kind == KM_CHANGE_DELETE && !change.value.data && !change.value.size);
        CHECK(change.key.size == 9 && memcmp(change.key.data, "key 00004", 9) == 0);
        put_for_a_second(world.maps[i], 5);
        CHECK_STATUS(km_watch_next(watch, 0, &change), KM_OK);
        CHECK(change.kind == KM_CHANGE_PUT);
    }
    reap();
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        CHECK_STATUS(km_watch_next(watch, 0, &change), KM_OK);
        CHECK(change.kind == KM_CHANGE_DELETE && memcmp(change.key.data, "key 00005", 9) == 0);
    }
    CHECK_STATUS(km_watch_next(watch, 0, &change), KM_TIMED_OUT);
    km_watch_close(watch);
}

static void check_followed(km_map *map)
{
    while (km_contains(map, key_of(200)) != KM_OK) /* ends: the follower gets there */
        usleep(1000);
    check_keys(map, 0, 10, NULL);
    check_keys(map, 10, 20, "own");
    check_keys(map, 20, 100, "table");
    check_key(map, 200, "own");
    check_count(map, 91);
}

static void followers_see_the_same(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    km_store *follower;
    km_map *map = NULL;

    (void)state;
    harness_close(world.store);
    world.store = harness_open(world.path, NULL); /* with its threads: they write to the files */
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        world.maps[i] = harness_map(world.store, world_names[i]);
    attach_to_all("table", 0, 100);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        del(world.maps[i], 0);
    options.mode = KM_OPEN_READ_ONLY;
    follower = harness_open(world.path, &options);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        for (uint32_t key = 1; key < 10; key++)
            del(world.maps[i], key);
        for (uint32_t key = 5; key < 20; key++)
            put(world.maps[i], key, "own");
        for (uint32_t key = 5; key < 10; key++)
            del(world.maps[i], key);
        put(world.maps[i], 200, "own");
    }
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        CHECK_STATUS(km_map_open(follower, km_bytes_of_string(world_names[i]), &map), KM_OK);
        check_followed(map);
        refuse(map, "nothing.table", KM_E_READ_ONLY, "cannot be changed");
        CHECK_STATUS(km_detach_sealed(map, NULL), KM_E_READ_ONLY);
        check_followed(world.maps[i]);
    }
    harness_close(follower);
}

/* ---- refusals: A3 -------------------------------------------------------------------------- */

static void whole_maps_are_not_cleared(void **state)
{
    (void)state;
    attach_to_all("table", 0, 10);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        CHECK_STATUS(km_map_clear(world.maps[i]), KM_E_UNSUPPORTED);
        CHECK_STATUS(km_del_range(world.maps[i], NULL, NULL, NULL), KM_E_UNSUPPORTED);
        check_count(world.maps[i], 10);
        CHECK_STATUS(km_detach_sealed(world.maps[i], NULL), KM_OK);
        CHECK_STATUS(km_map_clear(world.maps[i]), KM_OK);
    }
    CHECK_STATUS(km_del_range(world.maps[1], NULL, NULL, NULL), KM_OK);
}

static void what_cannot_have_tables_is_told(void **state)
{
    const char *path = build("table", 0, 10);
    km_snapshot *snapshot = NULL;
    km_reader *reader = NULL;
    km_map *insertion = NULL;

    (void)state;
    CHECK_STATUS(km_map_create(world.store, km_bytes_of_string("third"), KM_INSERTION, &insertion),
                 KM_OK);
    refuse(insertion, path, KM_E_INVALID, "insertion order");
    CHECK_STATUS(km_snapshot_open(world.store, &snapshot), KM_OK);
    refuse(world.maps[0], path, KM_BUSY, "snapshot");
    km_snapshot_close(snapshot);
    CHECK_STATUS(km_read_begin(world.store, &reader), KM_OK);
    refuse(world.maps[0], path, KM_WOULD_BLOCK, "now");
    km_read_end(reader);
    attach(world.maps[0], path);
    CHECK_STATUS(km_snapshot_open(world.store, &snapshot), KM_OK);
    CHECK_STATUS(km_detach_sealed(world.maps[0], NULL), KM_BUSY);
    CHECK(count_files("table-") == 1 && count_files("new.table") == 0);
    CHECK(km_snapshot_count(snapshot, world.maps[0]) == 10);
    km_snapshot_close(snapshot);
    check_count(world.maps[0], 10);
    CHECK_STATUS(km_map_drop(insertion), KM_OK);
    CHECK_STATUS(km_map_drop(world.maps[1]), KM_OK);
    CHECK_STATUS(km_attach_sealed(world.maps[1], path, NULL), KM_E_DROPPED);
    CHECK_STATUS(km_list_attached(world.maps[1], take_name, NULL), KM_E_DROPPED);
    CHECK(count_files("table-") == 1 && count_files("new.table") == 0);
}

static void paths_that_are_no_tables_are_told(void **state)
{
    char path[HARNESS_PATH_SIZE];
    FILE *file;

    (void)state;
    put(world.maps[0], 1, "own");
    refuse(world.maps[0], "", KM_E_INVALID, "empty");
    world_path(path, "nothing.table");
    refuse(world.maps[0], path, KM_NOT_FOUND, "nothing.table");
    world_path(path, "no-folder/x.table");
    CHECK(km_attach_sealed(world.maps[0], path, NULL) != KM_OK);
    CHECK(km_attach_sealed(world.maps[0], world.path, NULL) != KM_OK); /* a folder */
    world_path(path, "text.table");
    file = fopen(path, "w");
    CHECK(file && fputs("this is no table\n", file) >= 0 && fclose(file) == 0);
    refuse(world.maps[0], path, KM_E_NOT_A_STORE, "");
    file = fopen(path, "w"); /* an empty one */
    CHECK(file && fclose(file) == 0);
    refuse(world.maps[0], path, KM_E_NOT_A_STORE, "");
    damage(build("damaged", 0, 100), 9);
    world_path(path, "damaged.table");
    CHECK(km_attach_sealed(world.maps[0], path, NULL) < 0);
    check_count(world.maps[0], 1);
    CHECK(count_files("table-") == 0 && count_files("new.table") == 0);
    reopen_world();
    check_count(world.maps[0], 1);
}

static void compressed_tables_are_refused(void **state)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    char path[HARNESS_PATH_SIZE];

    (void)state;
#ifndef KM_WITH_ZSTD
    skip();
#endif
    world_path(path, "packed.table");
    options.compression = KM_SEALED_ZSTD;
    build_with(path, &options, 0, 1000, "packed");
    refuse(world.maps[0], path, KM_E_UNSUPPORTED, "compress");
    check_count(world.maps[0], 0);
    CHECK(count_files("table-") == 0 && count_files("new.table") == 0);
}

static void no_more_than_the_limit_are_attached(void **state)
{
    const char *path = build("table", 0, 10);

    (void)state;
    for (uint32_t i = 0; i < KM_ATTACHED_MAX; i++)
        attach(world.maps[1], path);
    refuse(world.maps[1], path, KM_E_LIMIT, "64");
    check_count(world.maps[1], 10);
    del(world.maps[1], 5);
    reopen_world();
    check_count(world.maps[1], 9);
    CHECK(count_files("table-") == KM_ATTACHED_MAX);
    CHECK_STATUS(km_detach_sealed(world.maps[1], NULL), KM_OK);
    CHECK(count_files("table-") == 0);
    check_count(world.maps[1], 0);
}

static void a_store_for_reading_refuses(void **state)
{
    const char *path = build("table", 0, 10);

    (void)state;
    attach(world.maps[0], path);
    harness_close(world.store);
    CHECK_STATUS(try_open(KM_OPEN_READ_ONLY, &world.store, NULL), KM_OK);
    CHECK_STATUS(km_map_open(world.store, km_bytes_of_string("hash"), &world.maps[0]), KM_OK);
    check_count(world.maps[0], 10);
    refuse(world.maps[0], path, KM_E_READ_ONLY, "cannot be changed");
    CHECK_STATUS(km_detach_sealed(world.maps[0], NULL), KM_E_READ_ONLY);
    check_count(world.maps[0], 10);
}

static void check_own_and(uint64_t count)
{
    check_count(world.maps[1], count);
    check_key(world.maps[1], 0, "own");
    check_key(world.maps[1], 3, count > 5 ? "table" : NULL);
}

static void detach_again(void)
{
    CHECK_STATUS(km_detach_sealed(world.maps[1], NULL), KM_OK);
    check_own_and(5);
}

/* Whichever call of the machine fails. Those whose failure does no harm are passed over. */
static void an_attach_that_fails_changes_nothing(void **state)
{
    uint64_t calls, refusals = 0;

    (void)state;
    build("table", 0, 10);
    for (uint32_t key = 0; key < 10; key += 2)
        put(world.maps[1], key, "own");
    calls = km__sim_call_count(world.os, SIM_ANY);
    attach(world.maps[1], "table.table");
    calls = km__sim_call_count(world.os, SIM_ANY) - calls;
    detach_again();
    for (uint64_t n = 1; n <= calls; n++) {
        km_status rc;

        km__sim_fail_call(world.os, SIM_ANY, n, KM_E_IO, 5);
        rc = km_attach_sealed(world.maps[1], "table.table", NULL);
        km__sim_clear_faults(world.os);
        if (rc == KM_OK) {
            check_own_and(10);
            detach_again();
            continue;
        }
        CHECK(rc == KM_E_IO || rc == KM_E_UNSUPPORTED); /* it could not be mapped */
        check_own_and(5);
        refusals++;
        CHECK(km_close(world.store, NULL) != KM_WOULD_BLOCK); /* a failed sync ends the writing */
        open_world_store(KM_OPEN_EXISTING);
        check_own_and(5);
    }
    CHECK(refusals >= 5);
}

static void an_attach_without_memory_changes_nothing(void **state)
{
    km_status rc = KM_E_NO_MEMORY;
    uint64_t n = 0;

    (void)state;
    build("table", 0, 10);
    for (uint32_t key = 0; key < 10; key += 2)
        put(world.maps[1], key, "own");
    while (rc == KM_E_NO_MEMORY) { /* ends: the n-th allocation is beyond the last */
        km__sim_fail_allocation(world.os, ++n);
        rc = km_attach_sealed(world.maps[1], "table.table", NULL);
        km__sim_fail_allocation(world.os, 0);
        check_own_and(rc ? 5 : 10);
    }
    CHECK_STATUS(rc, KM_OK);
    CHECK(n > 5);
}

/* ---- files: A4 ----------------------------------------------------------------------------- */

static uint64_t links_of(const char *path)
{
    struct stat status;

    CHECK(stat(path, &status) == 0);
    return (uint64_t)status.st_nlink;
}

static void the_store_has_the_file_from_then_on(void **state)
{
    const char *path = build("table", 0, 1000);
    char own[HARNESS_PATH_SIZE];

    (void)state;
    attach(world.maps[0], path);
    CHECK(links_of(path) == 2);
    table_path(world.maps[0], own);
    CHECK(links_of(own) == 2);
    build("other", 0, 3);
    CHECK(rename("nowhere", own) != 0 && unlink(path) == 0);
    check_keys(world.maps[0], 0, 1000, "table");
    reopen_world();
    check_keys(world.maps[0], 0, 1000, "table");
}

static void a_table_of_another_file_system_is_copied(void **state)
{
    char folder[HARNESS_PATH_SIZE], path[HARNESS_PATH_SIZE];
    struct stat here, there;

    (void)state;
    harness_make_fast_folder(folder);
    CHECK(stat(world.folder, &here) == 0 && stat(folder, &there) == 0);
    if (here.st_dev == there.st_dev)
        skip();
    harness_path(path, folder, "far.table");
    build_with(path, NULL, 0, 5000, "far");
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        attach(world.maps[i], path);
    CHECK(links_of(path) == 1 && count_files("new.table") == 0);
    harness_remove(folder);
    reopen_world();
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        check_keys(world.maps[i], 0, 5000, "far");
}

static void a_name_without_a_folder_is_of_the_present_one(void **state)
{
    char before[HARNESS_PATH_SIZE];

    (void)state;
    build("table", 0, 10);
    CHECK(getcwd(before, sizeof(before)) && chdir(world.folder) == 0);
    attach(world.maps[0], "table.table");
    attach(world.maps[1], "./table.table");
    attach(world.maps[1], "store/../table.table");
    CHECK(chdir(before) == 0);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        check_count(world.maps[i], 10);
}

static void tables_of_dropped_maps_go_at_the_next_open(void **state)
{
    (void)state;
    attach_to_all("table", 0, 10);
    CHECK(count_files("table-") == 2);
    CHECK_STATUS(km_map_drop(world.maps[0]), KM_OK);
    CHECK(km_count(world.maps[0]) == 0);
    CHECK_STATUS(km_get(world.maps[0], key_of(1), NULL), KM_E_DROPPED);
    reopen_world(); /* with a new map of that name */
    CHECK(count_files("table-") == 1);
    check_count(world.maps[0], 0);
    check_count(world.maps[1], 10);
}

static void leftovers_are_removed(void **state)
{
    char path[HARNESS_PATH_SIZE];
    FILE *file;

    (void)state;
    harness_path(path, world.path, "new.table");
    for (uint32_t round = 0; round < 2; round++) {
        file = fopen(path, "w");
        CHECK(file && fputs("half a table", file) >= 0 && fclose(file) == 0);
        if (round == 0) {
            attach(world.maps[0], build("table", 0, 10));
        } else {
            harness_close(world.store);
            CHECK_STATUS(try_open(KM_OPEN_READ_ONLY, &world.store, NULL), KM_OK);
            CHECK(count_files("new.table") == 1);
            reopen_world();
        }
        CHECK(count_files("new.table") == 0);
        check_count(world.maps[0], 10);
    }
}

static void backups_have_the_tables(void **state)
{
    km_backup_options options = {.struct_size = sizeof(options)};
    char backup[HARNESS_PATH_SIZE], own[HARNESS_PATH_SIZE], path[HARNESS_PATH_SIZE];

    (void)state;
    attach_to_all("table", 0, 10); /* one file under both */
    world_path(path, "table.table");
    del(world.maps[0], 1);
    world_path(backup, "backup");
    for (options.copy = 0; options.copy < 2; options.copy++) {
        CHECK_STATUS(km_backup(world.store, backup, &options, NULL, NULL), KM_OK);
        table_path(world.maps[1], own);
        CHECK(links_of(own) == (options.copy ? 3 : 5)); /* two in the backup */
        for (uint32_t i = 0; i < MAP_COUNT; i++)
            CHECK_STATUS(km_detach_sealed(world.maps[i], NULL), KM_OK);
        harness_close(world.store);
        CHECK_STATUS(km_restore_in_place(backup, world.path, NULL, NULL, NULL), KM_OK);
        open_world_store(KM_OPEN_EXISTING);
        check_count(world.maps[0], 9);
        check_count(world.maps[1], 10);
        table_path(world.maps[1], own);
        CHECK(links_of(own) == 1);
        harness_remove(backup);
        for (uint32_t i = 0; i < MAP_COUNT; i++) {
            CHECK_STATUS(km_detach_sealed(world.maps[i], NULL), KM_OK);
            attach(world.maps[i], path);
        }
        del(world.maps[0], 1);
    }
}

/* ---- damage -------------------------------------------------------------------------------- */

static void note_finding(void *context, const km_error *finding)
{
    if (strncmp(finding->file, "table-", 6) == 0)
        ++*(uint32_t *)context;
}

static uint64_t size_of(const char *path)
{
    struct stat status;

    CHECK(stat(path, &status) == 0);
    return (uint64_t)status.st_size;
}

/* The store goes on to a new one, without the table of the first map. */
static void check_salvaged(const char *path)
{
    uint32_t findings = 0;
    km_store *store;

    CHECK_STATUS(km_salvage(world.path, path, note_finding, &findings, NULL, NULL), KM_OK);
    store = harness_open(path, NULL);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        km_map *map = harness_map(store, world_names[i]);

        check_key(map, 100, "own");
        check_key(map, 1, NULL);
        check_count(map, i == 0 ? 2 : 1000);
    }
    CHECK(findings == 1);
    harness_close(store);
    harness_remove(path);
}

static void a_damaged_table_is_told_with_its_name(void **state)
{
    char own[HARNESS_PATH_SIZE], salvaged[HARNESS_PATH_SIZE], path[HARNESS_PATH_SIZE];
    km_error error = {KM_OK, 0, 0, "", ""};
    uint32_t findings = 0;

    (void)state;
    attach(world.maps[0], build("table", 0, 1000));
    attach(world.maps[1], build("table", 0, 1000)); /* a file of its own */
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        put(world.maps[i], 100, "own");
        del(world.maps[i], 1);
        put(world.maps[i], 2000, "own");
    }
    table_path(world.maps[0], own);
    harness_path(salvaged, world.folder, "salvaged");
    damage(own, 5000); /* a value's block */
    CHECK_STATUS(km_get(world.maps[0], key_of(100), NULL), KM_OK);
    harness_close(world.store);
    world.store = NULL;
    CHECK_STATUS(km_verify(world.path, note_finding, &findings, NULL, &error), KM_E_CORRUPT);
    CHECK(findings == 1 && strcmp(error.file, strrchr(own, '/') + 1) == 0);
    check_salvaged(salvaged);
    damage(own, size_of(own) - 30); /* the footer: it cannot be opened */
    CHECK_STATUS(try_open(KM_OPEN_EXISTING, &world.store, &error), KM_E_CORRUPT);
    CHECK(strcmp(error.file, strrchr(own, '/') + 1) == 0 && error.message[0]);
    error.file[0] = '\0';
    CHECK_STATUS(km_verify(world.path, note_finding, &findings, NULL, &error), KM_E_CORRUPT);
    CHECK(strcmp(error.file, strrchr(own, '/') + 1) == 0);
    check_salvaged(salvaged);
    harness_path(path, world.folder, "aside");
    CHECK(rename(own, path) == 0); /* it can do without */
    open_world_store(KM_OPEN_EXISTING);
    check_key(world.maps[0], 5, NULL);
    check_count(world.maps[1], 1000);
    CHECK(km_count(world.maps[0]) >= 2);
}

/* What was deleted before a table came does not hide what it has; nor what hid keys of one that is
 * gone. */
static void salvage_knows_which_deletes_hide(void **state)
{
    char salvaged[HARNESS_PATH_SIZE];
    km_store *store;

    (void)state;
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        for (uint32_t key = 0; key < 30; key++)
            put(world.maps[i], key, "own");
        for (uint32_t key = 0; key < 10; key++)
            del(world.maps[i], key);
    }
    attach_to_all("old", 0, 40);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        del(world.maps[i], 35);
        CHECK_STATUS(km_detach_sealed(world.maps[i], NULL), KM_OK);
    }
    attach_to_all("new", 0, 40);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        del(world.maps[i], 36);
    harness_close(world.store);
    world.store = NULL;
    harness_path(salvaged, world.folder, "salvaged");
    CHECK_STATUS(km_salvage(world.path, salvaged, NULL, NULL, NULL, NULL), KM_OK);
    store = harness_open(salvaged, NULL);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        km_map *map = harness_map(store, world_names[i]);

        check_keys(map, 0, 10, "new");
        check_keys(map, 10, 30, "own");
        check_keys(map, 30, 36, "new");
        check_key(map, 36, NULL);
        check_count(map, 39);
    }
    harness_close(store);
}

/* ---- what is attached ---------------------------------------------------------------------- */

struct listing {
    uint32_t count;
    uint64_t counts[3], bytes, memory;
};

static int list_one(void *context, const km_attached *attached)
{
    struct listing *listing = context;
    char path[HARNESS_PATH_SIZE];

    CHECK(listing->count < 3);
    listing->counts[listing->count++] = attached->count;
    listing->bytes += attached->file_bytes;
    listing->memory += attached->memory_bytes;
    harness_path(path, world.path, attached->name);
    CHECK(size_of(path) == attached->file_bytes);
    return 0;
}

static void lists_and_statistics_have_them(void **state)
{
    km_stats stats = {.struct_size = sizeof(stats)};
    struct listing listing = {0};

    (void)state;
    CHECK_STATUS(km_list_attached(world.maps[1], list_one, &listing), KM_OK);
    CHECK(listing.count == 0);
    attach(world.maps[1], build("a", 0, 10));
    attach(world.maps[1], build("b", 5, 25));
    attach(world.maps[1], build("c", 0, 0)); /* an empty one */
    for (uint32_t round = 0; round < 2; round++) {
        memset(&listing, 0, sizeof(listing));
        CHECK_STATUS(km_list_attached(world.maps[1], list_one, &listing), KM_OK);
        CHECK(listing.count == 3 && listing.counts[0] == 0 && listing.counts[1] == 20 &&
              listing.counts[2] == 10);
        CHECK_STATUS(km_store_stats(world.store, &stats), KM_OK);
        CHECK(stats.attached_count == 3 && stats.attached_bytes == listing.bytes);
        CHECK(stats.attached_memory_bytes == listing.memory && stats.key_count == 25);
        check_count(world.maps[1], 25);
        check_key(world.maps[1], 7, "b");
        reopen_world();
    }
    CHECK_STATUS(km_detach_sealed(world.maps[1], NULL), KM_OK);
    CHECK_STATUS(km_store_stats(world.store, &stats), KM_OK);
    CHECK(stats.attached_count == 0 && stats.attached_bytes == 0 && stats.key_count == 0);
}

/* ---- beside other work --------------------------------------------------------------------- */

/* A cursor that was open before sees what it would have seen without. */
static void cursors_go_on_over_attach_and_detach(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        km_cursor *before = NULL, *between = NULL;
        uint32_t count = 0;

        for (uint32_t key = 0; key < 100; key++)
            put(world.maps[i], key, "own");
        CHECK_STATUS(km_cursor_open(world.maps[i], NULL, &before), KM_OK);
        CHECK_STATUS(km_cursor_next(before, NULL, NULL), KM_OK);
        attach(world.maps[i], build("table", 50, 1000));
        CHECK_STATUS(km_cursor_open(world.maps[i], NULL, &between), KM_OK);
        CHECK_STATUS(km_cursor_next(between, NULL, NULL), KM_OK);
        CHECK_STATUS(km_detach_sealed(world.maps[i], NULL), KM_OK);
        while (km_cursor_next(before, NULL, NULL) == KM_OK)
            count++;
        CHECK(count == 99);
        for (count = 0; km_cursor_next(between, NULL, NULL) == KM_OK;)
            count++;
        CHECK(count >= 99);
        km_cursor_close(before);
        km_cursor_close(between);
    }
}

/* The index is on disk, and nodes of it are loaded as they are needed. */
static void keys_of_an_image_are_counted(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        for (uint32_t key = 0; key < 20000; key++)
            put(world.maps[i], key, "own");
    }
    reopen_world();
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        attach(world.maps[i], build("table", 15000, 21000));
        CHECK(km_count(world.maps[i]) == 21000);
        for (uint32_t key = 14990; key < 15010; key++)
            del(world.maps[i], key);
        check_count(world.maps[i], 20980);
    }
    reopen_world();
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        check_count(world.maps[i], 20980);
    CHECK(harness_check_store(world.store) == 0);
}

static _Atomic int is_attached;

/* Changes until a table is there, and some after that. */
static void *write_beside(void *context)
{
    uint32_t first = 10000 * (1 + *(const uint32_t *)context);

    for (uint32_t i = 0, rest = 500; rest > 0; i = (i + 1) % 3000) {
        km_map *map = world.maps[i % MAP_COUNT];
        km_batch *batch = NULL;

        rest -= atomic_load_explicit(&is_attached, memory_order_acquire) != 0; /* flag alone */
        if (i % 3) {
            km_u64_key key = km_u64_key_from(first + i);
            CHECK_STATUS(km_put(map, km_bytes_of(key.bytes, 8), km_bytes_of(&i, 4), NULL), KM_OK);
            if (i % 3 == 2)
                CHECK_STATUS(km_del(map, km_bytes_of(key.bytes, 8), NULL), KM_OK);
            continue;
        }
        CHECK_STATUS(km_batch_create(world.store, &batch), KM_OK);
        for (uint32_t j = 0; j < 4; j++) {
            km_u64_key key = km_u64_key_from(first + 5000 + (i + j) % 1000);
            CHECK_STATUS(
                j % 2 ? km_batch_del(batch, map, km_bytes_of(key.bytes, 8))
                      : km_batch_put(batch, map, km_bytes_of(key.bytes, 8), km_bytes_of(&i, 4)),
                KM_OK);
        }
        CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK);
        km_batch_destroy(batch);
    }
    return NULL;
}

static void build_numbers(const char *path)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;

    options.keys = KM_SEALED_U64;
    CHECK_STATUS(km__sealed_builder_open(world.os, path, &options, &builder, NULL), KM_OK);
    for (uint64_t number = 9000; number < 32000; number++)
        CHECK_STATUS(km_sealed_builder_add_number(builder, number, km_bytes_of(&number, 8)), KM_OK);
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
}

static void nothing_is_lost_while_a_table_is_attached(void **state)
{
    static const uint32_t numbers[2] = {0, 1};
    char path[HARNESS_PATH_SIZE];
    pthread_t threads[2];
    uint64_t counts[MAP_COUNT];

    (void)state;
    harness_close(world.store);
    world.store = harness_open(world.path, NULL);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        world.maps[i] = harness_map(world.store, world_names[i]);
    world_path(path, "numbers.table");
    build_numbers(path);
    for (uint32_t i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, write_beside, (void *)&numbers[i]) == 0);
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < MAP_COUNT; i++) {
            attach(world.maps[i], path);
            if (round < 2)
                CHECK_STATUS(km_detach_sealed(world.maps[i], NULL), KM_OK);
        }
    }
    atomic_store_explicit(&is_attached, 1, memory_order_release); /* flag alone */
    for (uint32_t i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        check_count(world.maps[i], counts[i] = km_count(world.maps[i]));
    harness_close(world.store);
    open_world_store(KM_OPEN_EXISTING); /* counts anew */
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        check_count(world.maps[i], counts[i]);
}

#define ON_SIM(name) cmocka_unit_test_setup_teardown(name, open_sim, close_world)
#define ON_DISK(name) cmocka_unit_test_setup_teardown(name, open_real, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_SIM(hidden_keys_stay_hidden),
        ON_SIM(what_expires_over_a_table_stays_away),
        ON_SIM(what_had_expired_before_hides_nothing),
        ON_SIM(what_was_hidden_is_seen_in_another_table),
        ON_SIM(a_hidden_key_is_hidden_from_later_tables_too),
        ON_SIM(no_key_has_the_same_version_twice),
        ON_SIM(watches_tell_hides_as_deletes),
        ON_DISK(followers_see_the_same),
        ON_SIM(whole_maps_are_not_cleared),
        ON_DISK(what_cannot_have_tables_is_told),
        ON_DISK(paths_that_are_no_tables_are_told),
        ON_DISK(compressed_tables_are_refused),
        ON_DISK(no_more_than_the_limit_are_attached),
        ON_DISK(a_store_for_reading_refuses),
        ON_SIM(an_attach_that_fails_changes_nothing),
        ON_SIM(an_attach_without_memory_changes_nothing),
        ON_DISK(the_store_has_the_file_from_then_on),
        ON_DISK(a_table_of_another_file_system_is_copied),
        ON_DISK(a_name_without_a_folder_is_of_the_present_one),
        ON_DISK(tables_of_dropped_maps_go_at_the_next_open),
        ON_DISK(leftovers_are_removed),
        ON_DISK(backups_have_the_tables),
        ON_DISK(a_damaged_table_is_told_with_its_name),
        ON_DISK(salvage_knows_which_deletes_hide),
        ON_DISK(lists_and_statistics_have_them),
        ON_SIM(cursors_go_on_over_attach_and_detach),
        ON_SIM(keys_of_an_image_are_counted),
        ON_DISK(nothing_is_lost_while_a_table_is_attached),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
