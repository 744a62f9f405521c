/* SPDX-License-Identifier: Apache-2.0
 *
 * test_restore_in_place.c -- km_restore_in_place on real files.
 *
 * P1. Afterwards the store has what the backup has, and nothing else; or it is as it was.
 * P2. No position or version of before is given out again.
 * P3. It is refused while anybody has the store open, and where other files would be lost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/harness_util.h"

#define VALUE_SIZE 1000u

static struct {
    char folder[HARNESS_PATH_SIZE];
    char path[HARNESS_PATH_SIZE]; /* of the store */
    char backup[HARNESS_PATH_SIZE];
    char beside[HARNESS_PATH_SIZE]; /* where the new contents are built */
    km_store *store;
    km_map *map;
} fixture;

static void open_store(void)
{
    fixture.store = harness_open(fixture.path, NULL);
    fixture.map = harness_map(fixture.store, "map");
}

static void close_store(void)
{
    harness_close(fixture.store);
    fixture.store = NULL;
}

static int open_fixture(void **state)
{
    (void)state;
    harness_make_fast_folder(fixture.folder);
    harness_path(fixture.path, fixture.folder, "store");
    harness_path(fixture.backup, fixture.folder, "backup");
    harness_path(fixture.beside, fixture.folder, "store.restore-in-place");
    open_store();
    return 0;
}

static int close_fixture(void **state)
{
    (void)state;
    if (fixture.store)
        close_store();
    harness_remove(fixture.folder);
    return 0;
}

/* ---- helpers ----------------------------------------------------------------------------- */

/* Returns the position of the last one. */
static km_position put_versions(uint64_t count, uint64_t version)
{
    uint8_t value[VALUE_SIZE];
    km_write write = KM_WRITE_INIT;

    for (uint64_t key = 0; key < count; key++) {
        harness_value_fill(value, sizeof(value), key, version);
        CHECK_STATUS(km_put_u64(fixture.map, key, km_bytes_of(value, sizeof(value)), &write),
                     KM_OK);
    }
    return write.position;
}

static void check_versions(uint64_t count, uint64_t version)
{
    km_buffer value = KM_BUFFER_INIT;

    CHECK(km_count(fixture.map) == count);
    for (uint64_t key = 0; key < count; key++) {
        CHECK_STATUS(km_get_u64(fixture.map, key, &value), KM_OK);
        CHECK(harness_value_version(km_bytes_of(value.data, value.size), key) == version);
    }
    km_buffer_free(&value);
}

static int is_there(const char *path)
{
    struct stat status;

    return lstat(path, &status) == 0;
}

static void back_up(void)
{
    CHECK_STATUS(km_backup(fixture.store, fixture.backup, NULL, NULL, NULL), KM_OK);
}

static void restore(void)
{
    km_error error = {0};
    km_status rc = km_restore_in_place(fixture.backup, fixture.path, NULL, NULL, &error);

    CHECK_MSG(rc == KM_OK, "km_restore_in_place: %s in %s: %s", km_status_name(rc), error.file,
              error.message);
    CHECK(!is_there(fixture.beside));
}

static void check_refused(km_status expected)
{
    km_error error = {0};

    CHECK_STATUS(km_restore_in_place(fixture.backup, fixture.path, NULL, NULL, &error), expected);
    CHECK(error.status == expected && error.message[0]);
    CHECK(!is_there(fixture.beside));
}

/* ---- contents: P1 ------------------------------------------------------------------------ */

static void the_store_has_what_the_backup_has(void **state)
{
    (void)state;
    put_versions(300, 1);
    back_up();
    put_versions(2000, 2);
    harness_map(fixture.store, "later");
    for (int round = 0; round < 3; round++) { /* over and over */
        km_map *later;

        close_store();
        restore();
        open_store();
        check_versions(300, 1);
        CHECK_STATUS(km_map_open(fixture.store, km_bytes_of_string("later"), &later), KM_NOT_FOUND);
        put_versions(500, 3 + (uint64_t)round);
    }
    close_store();
    CHECK_STATUS(km_verify(fixture.path, NULL, NULL, NULL, NULL), KM_OK);
    CHECK_STATUS(km_verify(fixture.backup, NULL, NULL, NULL, NULL), KM_OK);
}

static void a_saved_snapshot_serves_as_well(void **state)
{
    km_snapshot *snapshot = NULL;

    (void)state;
    put_versions(300, 1);
    CHECK_STATUS(km_snapshot_open(fixture.store, &snapshot), KM_OK);
    put_versions(400, 2);
    CHECK_STATUS(km_snapshot_save(snapshot, fixture.backup, NULL, NULL, NULL), KM_OK);
    km_snapshot_close(snapshot);
    close_store();
    restore();
    open_store();
    check_versions(300, 1);
}

static void a_damaged_store_is_restored(void **state)
{
    char path[HARNESS_PATH_SIZE];

    (void)state;
    put_versions(300, 1);
    back_up();
    close_store();
    harness_path(path, fixture.path, "IDENTITY");
    CHECK(truncate(path, 100) == 0);
    harness_path(path, fixture.path, "LOCK");
    CHECK(unlink(path) == 0);
    restore();
    open_store();
    check_versions(300, 1);
}

static void a_backup_of_another_store_will_do(void **state)
{
    (void)state;
    put_versions(100, 1);
    back_up();
    close_store();
    harness_remove(fixture.path);
    open_store();
    put_versions(500, 2);
    close_store();
    restore();
    open_store();
    check_versions(100, 1);
}

static int stop_at_once(void *context, uint64_t done, uint64_t total)
{
    (void)context;
    (void)total;
    return done > 0;
}

static void stopped_it_leaves_the_store_as_it_was(void **state)
{
    (void)state;
    put_versions(300, 1);
    back_up();
    put_versions(400, 2);
    close_store();
    CHECK_STATUS(km_restore_in_place(fixture.backup, fixture.path, stop_at_once, NULL, NULL),
                 KM_STOPPED);
    CHECK(!is_there(fixture.beside));
    open_store();
    check_versions(400, 2);
}

/* ---- positions: P2 ----------------------------------------------------------------------- */

static void no_position_is_used_again(void **state)
{
    km_position last = 0;

    (void)state;
    put_versions(300, 1);
    back_up();
    for (int round = 0; round < 4; round++) {
        km_watch_options options = KM_WATCH_OPTIONS_INIT;
        km_watch *watch = NULL;
        km_write write = KM_WRITE_INIT;
        km_position after = put_versions(600, 2);

        CHECK(after > last);
        last = after;
        close_store();
        restore();
        open_store();
        CHECK_STATUS(km_put_u64(fixture.map, 1, km_bytes_of_string("new"), &write), KM_OK);
        CHECK_MSG(write.position > last, "%llx after %llx", (unsigned long long)write.position,
                  (unsigned long long)last);
        options.after = after; /* of contents that are gone */
        CHECK(km_watch_open(fixture.store, &options, &watch) < 0);
        last = write.position;
    }
    CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
    CHECK(km_durable_position(fixture.store) > last);
}

/* The numbers of segments run on while the backup's stay: farther than a log may span. */
static void a_backup_from_long_ago_is_restored(void **state)
{
    char from[HARNESS_PATH_SIZE], to[HARNESS_PATH_SIZE];
    km_write write = KM_WRITE_INIT;

    (void)state;
    put_versions(6000, 1);
    back_up();
    close_store();
    /* a name is enough: what it holds is not looked at. The next number would take the slot of
     * the first */
    harness_path(from, fixture.path, "log/00000001.segment");
    harness_path(to, fixture.path, "log/00108000.segment");
    CHECK(rename(from, to) == 0);
    restore();
    for (int round = 0; round < 4; round++) {
        km_stats stats = {.struct_size = sizeof(stats)};

        open_store();
        CHECK_STATUS(km_store_stats(fixture.store, &stats), KM_OK);
        CHECK(round == 0 || stats.image_bytes); /* with references to either side of the gap */
        CHECK(round > 1 || stats.head >> 32 < 100);
        check_versions(6000, 1);
        CHECK_STATUS(km_put_u64(fixture.map, 6000, km_bytes_of_string("new"), &write), KM_OK);
        CHECK(write.position >> 32 > 0x108000 && write.position >> 32 < 0x108000 + 40000);
        CHECK_STATUS(km_del_u64(fixture.map, 6000, NULL), KM_OK);
        if (round)
            CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
        check_versions(6000, 1);
        close_store();
        CHECK_STATUS(km_verify(fixture.path, NULL, NULL, NULL, NULL), KM_OK);
    }
}

/* ---- refusals: P3 ------------------------------------------------------------------------ */

static void an_open_store_is_left_alone(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    km_store *follower;

    (void)state;
    put_versions(100, 1);
    back_up();
    check_refused(KM_E_LOCKED); /* a writer */
    options.mode = KM_OPEN_READ_ONLY;
    follower = harness_open(fixture.path, &options);
    close_store();
    check_refused(KM_E_LOCKED); /* a follower whose writer is gone */
    harness_close(follower);
    follower = harness_open(fixture.path, &options);
    check_refused(KM_E_LOCKED); /* a reader */
    harness_close(follower);
    restore();
}

static void other_files_are_not_lost(void **state)
{
    char path[HARNESS_PATH_SIZE];
    FILE *file;

    (void)state;
    put_versions(100, 1);
    back_up();
    close_store();
    harness_path(path, fixture.path, "notes.txt");
    file = fopen(path, "w");
    CHECK(file && fclose(file) == 0);
    check_refused(KM_E_INVALID);
    CHECK(is_there(path) && unlink(path) == 0);
    CHECK(mkdir(fixture.beside, 0700) == 0); /* an empty folder is a leftover */
    restore();
    harness_path(path, fixture.folder, "store.restore-in-place");
    CHECK(mkdir(path, 0700) == 0);
    harness_path(path, fixture.folder, "store.restore-in-place/notes.txt");
    file = fopen(path, "w");
    CHECK(file && fclose(file) == 0);
    CHECK_STATUS(km_restore_in_place(fixture.backup, fixture.path, NULL, NULL, NULL), KM_EXISTS);
    CHECK(is_there(path));
}

static void where_there_is_no_store_none_is_made(void **state)
{
    char path[HARNESS_PATH_SIZE];

    (void)state;
    put_versions(100, 1);
    back_up();
    close_store();
    harness_path(path, fixture.folder, "nowhere");
    CHECK_STATUS(km_restore_in_place(fixture.backup, path, NULL, NULL, NULL), KM_E_NOT_A_STORE);
    CHECK(mkdir(path, 0700) == 0);
    CHECK_STATUS(km_restore_in_place(fixture.backup, path, NULL, NULL, NULL), KM_E_NOT_A_STORE);
    harness_path(path, fixture.folder, "link");
    CHECK(symlink(fixture.path, path) == 0);
    CHECK_STATUS(km_restore_in_place(fixture.backup, path, NULL, NULL, NULL), KM_E_NOT_A_STORE);
    CHECK_STATUS(km_restore_in_place("", fixture.path, NULL, NULL, NULL), KM_E_INVALID);
    CHECK_STATUS(km_restore_in_place(fixture.path, fixture.path, NULL, NULL, NULL), KM_E_LOCKED);
    harness_path(path, fixture.folder, "nothing");
    CHECK_STATUS(km_restore_in_place(path, fixture.path, NULL, NULL, NULL), KM_E_NOT_A_STORE);
    CHECK(!is_there(fixture.beside));
    open_store();
    check_versions(100, 1);
}

static void a_damaged_backup_changes_nothing(void **state)
{
    char path[HARNESS_PATH_SIZE];
    FILE *file;

    (void)state;
    put_versions(300, 1);
    CHECK_STATUS(
        km_backup(fixture.store, fixture.backup,
                  &(km_backup_options){.struct_size = sizeof(km_backup_options), .copy = 1}, NULL,
                  NULL),
        KM_OK);
    close_store();
    harness_path(path, fixture.backup, "log/00000001.segment");
    file = fopen(path, "r+");
    CHECK(file && fseek(file, 20000, SEEK_SET) == 0 && fputs("damage", file) >= 0 &&
          fclose(file) == 0);
    check_refused(KM_E_CORRUPT);
    open_store();
    check_versions(300, 1);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_fixture, close_fixture)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CASE(the_store_has_what_the_backup_has),
        CASE(a_saved_snapshot_serves_as_well),
        CASE(a_damaged_store_is_restored),
        CASE(a_backup_of_another_store_will_do),
        CASE(stopped_it_leaves_the_store_as_it_was),
        CASE(no_position_is_used_again),
        CASE(a_backup_from_long_ago_is_restored),
        CASE(an_open_store_is_left_alone),
        CASE(other_files_are_not_lost),
        CASE(where_there_is_no_store_none_is_made),
        CASE(a_damaged_backup_changes_nothing),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
