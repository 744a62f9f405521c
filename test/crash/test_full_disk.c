/* SPDX-License-Identifier: Apache-2.0
 *
 * test_full_disk.c -- no space: a clean error, nothing lost, and on it goes when there is space.
 *
 * On a small tmpfs in a mount namespace of this process if it may make one; the limit of
 * km_options.log_size_max is tested everywhere.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fcntl.h>

#include "harness/harness_util.h"

#define DISK_SIZE "size=24m"
#define BALLAST_SIZE (6u << 20)
#define VALUE_SIZE 3000u
#define CHANGES_MAX 20000u /* more than fits */

static char mount_point[HARNESS_PATH_SIZE];
static int has_disk;

struct fill {
    char path[HARNESS_PATH_SIZE];
    km_options options;
    km_store *store;
    km_map *map;
    uint64_t next;                    /* keys from 0 up to here were acknowledged... */
    uint8_t deleted[CHANGES_MAX * 4]; /* ...and these deleted again */
    uint64_t deleted_count;
};

/* ---- the disk ---------------------------------------------------------------------------- */

static int make_disk(void **state)
{
    (void)state;
    harness_make_folder(mount_point);
    has_disk = unshare(CLONE_NEWNS) == 0 &&
               mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
               mount("tmpfs", mount_point, "tmpfs", 0, DISK_SIZE) == 0;
    if (!has_disk)
        printf("no tmpfs can be mounted here: only log_size_max is tested\n");
    return 0;
}

static int remove_disk(void **state)
{
    (void)state;
    if (has_disk)
        umount(mount_point);
    return 0;
}

static void write_ballast(void)
{
    static uint8_t bytes[1u << 20];
    char path[HARNESS_PATH_SIZE];
    int fd;

    harness_path(path, mount_point, "ballast");
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    for (size_t i = 0; i < BALLAST_SIZE; i += sizeof(bytes))
        assert_int_equal(write(fd, bytes, sizeof(bytes)), sizeof(bytes));
    close(fd);
}

static void remove_ballast(void)
{
    char path[HARNESS_PATH_SIZE];

    harness_path(path, mount_point, "ballast");
    assert_int_equal(unlink(path), 0);
}

/* Use up what is left of the disk. */
static void fill_up(void)
{
    static uint8_t bytes[4096];
    char path[HARNESS_PATH_SIZE];
    int fd;

    harness_path(path, mount_point, "filler");
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    assert_true(fd >= 0);
    while (write(fd, bytes, sizeof(bytes)) > 0) {
    }
    close(fd);
}

static void clean_disk(void)
{
    char path[HARNESS_PATH_SIZE];

    harness_path(path, mount_point, "filler");
    unlink(path);
    harness_path(path, mount_point, "ballast");
    unlink(path);
    harness_path(path, mount_point, "store");
    harness_remove(path);
}

/* ---- changes ----------------------------------------------------------------------------- */

static void open_fill(struct fill *fill)
{
    fill->store = harness_open(fill->path, &fill->options);
    fill->map = harness_map(fill->store, "map");
}

static km_status put_next(struct fill *fill)
{
    uint8_t value[VALUE_SIZE];
    km_status rc;

    harness_value_fill(value, sizeof(value), fill->next, 1);
    rc = km_put_u64(fill->map, fill->next, km_bytes_of(value, sizeof(value)), NULL);
    fill->next += rc == KM_OK;
    CHECK(fill->next < CHANGES_MAX * 4);
    return rc;
}

static uint64_t put_until_full(struct fill *fill)
{
    uint64_t begin = fill->next;
    km_status rc = KM_OK;

    while (rc == KM_OK && fill->next < begin + CHANGES_MAX)
        rc = put_next(fill);
    CHECK_STATUS(rc, KM_E_FULL);
    return fill->next - begin;
}

static void delete_key(struct fill *fill, uint64_t key)
{
    if (fill->deleted[key])
        return;
    CHECK_STATUS(km_del_u64(fill->map, key, NULL), KM_OK);
    fill->deleted[key] = 1;
    fill->deleted_count++;
}

static void check_all(struct fill *fill)
{
    km_buffer buffer = KM_BUFFER_INIT;

    for (uint64_t key = 0; key < fill->next; key++) {
        CHECK_STATUS(km_get_u64(fill->map, key, &buffer),
                     fill->deleted[key] ? KM_NOT_FOUND : KM_OK);
        if (!fill->deleted[key])
            harness_value_version(km_bytes_of(buffer.data, buffer.size), key);
    }
    CHECK(km_count(fill->map) == fill->next - fill->deleted_count);
    km_buffer_free(&buffer);
}

static void check_not_failed(struct fill *fill)
{
    km_error error;

    CHECK_STATUS(km_store_error(fill->store, &error), KM_NOT_FOUND);
}

static void reopen(struct fill *fill)
{
    harness_close(fill->store);
    open_fill(fill);
    check_all(fill);
}

static struct fill *new_fill(const char *parent)
{
    static const km_options init = KM_OPTIONS_INIT;
    struct fill *fill = calloc(1, sizeof(*fill));

    assert_non_null(fill);
    fill->options = init;
    harness_path(fill->path, parent, "store");
    return fill;
}

static void end_fill(struct fill *fill)
{
    harness_close(fill->store);
    harness_remove(fill->path);
    free(fill);
}

/* ---- cases ------------------------------------------------------------------------------- */

/* A unit with a segment of its own may still find room where a usual segment does not. */
static void try_large_changes(struct fill *fill)
{
    static uint8_t large[3u << 20];
    km_batch *batch = NULL;
    uint64_t count = km_count(fill->map);
    km_status rc;

    rc = km_put_u64(fill->map, 9999999, km_bytes_of(large, sizeof(large)), NULL);
    CHECK(rc == KM_E_FULL || rc == KM_OK);
    if (rc == KM_OK)
        CHECK_STATUS(km_del_u64(fill->map, 9999999, NULL), KM_OK);
    CHECK_STATUS(km_batch_create(fill->store, &batch), KM_OK);
    for (uint64_t i = 0; i < 100; i++) {
        km_u64_key key = km_u64_key_from(8000000 + i);

        CHECK_STATUS(
            km_batch_put(batch, fill->map, km_bytes_of(key.bytes, 8), km_bytes_of(large, 3000)),
            KM_OK);
    }
    rc = km_batch_commit(batch, NULL);
    CHECK(rc == KM_E_FULL || rc == KM_OK);
    CHECK(km_count(fill->map) == count + (rc == KM_OK ? 100 : 0)); /* all of it or nothing */
    for (uint64_t i = 0; rc == KM_OK && i < 100; i++)
        CHECK_STATUS(km_del_u64(fill->map, 8000000 + i, NULL), KM_OK);
    km_batch_destroy(batch);
}

static void check_full_store(struct fill *fill)
{
    check_not_failed(fill);
    check_all(fill);
    CHECK_STATUS(put_next(fill), KM_E_FULL); /* and again */
    try_large_changes(fill);
    for (uint64_t key = 0; key < 50; key++)
        delete_key(fill, key * 3);
    check_all(fill);
    check_not_failed(fill);
}

static void run_full_disk(km_durability durability, uint32_t keep_in_memory)
{
    struct fill *fill;
    uint64_t first, second;

    if (!has_disk)
        skip();
    write_ballast();
    fill = new_fill(mount_point);
    fill->options.durability = durability;
    fill->options.keep_in_memory = keep_in_memory;
    open_fill(fill);
    first = put_until_full(fill);
    check_full_store(fill);
    remove_ballast(); /* space again: the same handle goes on */
    CHECK_STATUS(put_next(fill), KM_OK);
    second = put_until_full(fill);
    printf("%llu changes until the disk was full, %llu after space was made\n",
           (unsigned long long)first, (unsigned long long)second);
    CHECK(first > 1000 && second > 200);
    check_full_store(fill);
    reopen(fill); /* on the full disk */
    for (uint64_t key = 1; key < 50; key++)
        delete_key(fill, key);
    reopen(fill);
    end_fill(fill);
    clean_disk();
}

static void a_full_disk_is_a_clean_error(void **state)
{
    (void)state;
    run_full_disk(KM_DURABLE_PROCESS, 0);
}

static void a_full_disk_is_a_clean_error_with_power_safe_changes(void **state)
{
    (void)state;
    run_full_disk(KM_DURABLE_POWER, 0);
}

static void a_full_disk_is_a_clean_error_with_segments_in_memory(void **state)
{
    (void)state;
    run_full_disk(KM_DURABLE_PROCESS, 1);
}

static void run_child(struct fill *fill)
{
    open_fill(fill);
    while (put_next(fill) == KM_OK && fill->next < 2000) {
    }
    fill_up();
    kill(getpid(), SIGKILL);
}

/* A crash on a disk that is full: what was acknowledged can be read, and all works with space. */
static void a_crash_on_a_full_disk_loses_nothing(void **state)
{
    char filler[HARNESS_PATH_SIZE];
    struct fill *fill;
    km_store *store = NULL;
    km_error error;
    km_status rc;
    pid_t child;

    (void)state;
    if (!has_disk)
        skip();
    fill = new_fill(mount_point);
    child = fork();
    if (child == 0)
        run_child(fill);
    waitpid(child, NULL, 0);
    fill->next = 2000;
    fill->options.mode = KM_OPEN_READ_ONLY;
    fill->store = harness_open(fill->path, &fill->options);
    CHECK_STATUS(km_map_open(fill->store, km_bytes_of_string("map"), &fill->map), KM_OK);
    check_all(fill);
    harness_close(fill->store);
    fill->options.mode = KM_OPEN_EXISTING;
    rc = km_open(fill->path, &fill->options, &store, &error);
    CHECK_MSG(rc == KM_OK || (rc == KM_E_FULL && error.message[0]), "%s", km_status_name(rc));
    if (rc == KM_OK)
        harness_close(store);
    harness_path(filler, mount_point, "filler");
    unlink(filler);
    open_fill(fill);
    check_all(fill);
    CHECK_STATUS(put_next(fill), KM_OK);
    end_fill(fill);
    clean_disk();
}

static void a_store_cannot_be_made_on_a_full_disk(void **state)
{
    char path[HARNESS_PATH_SIZE], filler[HARNESS_PATH_SIZE];
    km_store *store = NULL;
    km_error error = {KM_OK, 0, 0, "", ""};
    struct fill *fill;

    (void)state;
    if (!has_disk)
        skip();
    harness_path(path, mount_point, "store");
    harness_path(filler, mount_point, "filler");
    fill_up();
    CHECK_STATUS(km_open(path, NULL, &store, &error), KM_E_FULL);
    CHECK(!store && error.status == KM_E_FULL && error.message[0]);
    unlink(filler);
    fill = new_fill(mount_point); /* what was left of the attempt is no hindrance */
    open_fill(fill);
    CHECK_STATUS(put_next(fill), KM_OK);
    reopen(fill);
    end_fill(fill);
    clean_disk();
}

static void log_size_max_is_a_clean_error(void **state)
{
    char folder[HARNESS_PATH_SIZE];
    km_stats stats = {.struct_size = sizeof(stats)};
    struct fill *fill;

    (void)state;
    harness_make_folder(folder);
    fill = new_fill(folder);
    fill->options.log_size_max = 5u << 20;
    open_fill(fill);
    CHECK(put_until_full(fill) > 500);
    check_full_store(fill);
    CHECK_STATUS(km_store_stats(fill->store, &stats), KM_OK);
    CHECK(stats.log_bytes <= fill->options.log_size_max);
    reopen(fill);
    put_until_full(fill);
    delete_key(fill, 4);
    fill->options.log_size_max = 0; /* a larger limit is space */
    reopen(fill);
    for (uint64_t i = 0; i < 1000; i++)
        CHECK_STATUS(put_next(fill), KM_OK);
    reopen(fill);
    end_fill(fill);
    harness_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_disk_is_a_clean_error),
        cmocka_unit_test(a_full_disk_is_a_clean_error_with_power_safe_changes),
        cmocka_unit_test(a_full_disk_is_a_clean_error_with_segments_in_memory),
        cmocka_unit_test(a_crash_on_a_full_disk_loses_nothing),
        cmocka_unit_test(a_store_cannot_be_made_on_a_full_disk),
        cmocka_unit_test(log_size_max_is_a_clean_error),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, make_disk, remove_disk);
}
