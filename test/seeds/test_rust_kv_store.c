/* SPDX-License-Identifier: Apache-2.0
 *
 * test_rust_kv_store.c -- the abilities of rust-kv-store (set, get, delete, compact over a log) and
 * what it wishes for: background compaction, locks, checksums, snapshots for a fast restart.
 */
#include "seeds/seed.h"

#include <fcntl.h>

/* ---- set, get, delete, compact ------------------------------------------------------------- */

static void set_get_delete_survive_a_restart(void **state)
{
    (void)state;
    seed_put_all("key=value other=thing");
    seed_check("key", "value");
    seed_del("other");
    seed_reopen(NULL);
    seed_check("key", "value");
    seed_check("other", NULL);
    seed_put("key", "changed");
    seed_reopen(NULL);
    seed_check("key", "changed");
}

static void change_a_lot(void)
{
    for (uint64_t i = 0; i < 10000; i++) {
        CHECK_STATUS(km_put_u64(seed.map, i % 500, km_bytes_of(&i, 8), NULL), KM_OK);
        if (i % 3 == 0)
            CHECK_STATUS(km_del_u64(seed.map, i % 500, NULL), KM_OK);
    }
}

static void check_what_changed(void)
{
    km_buffer value = KM_BUFFER_INIT;

    for (uint64_t i = 9500; i < 10000; i++) {
        CHECK_STATUS(km_get_u64(seed.map, i % 500, &value), i % 3 ? KM_OK : KM_NOT_FOUND);
        CHECK(i % 3 == 0 || (value.size == 8 && memcmp(value.data, &i, 8) == 0));
    }
    km_buffer_free(&value);
}

static void replaying_the_log_gives_the_state(void **state)
{
    (void)state;
    seed_in_a_killed_process(NULL, change_a_lot);
    seed_open(NULL);
    check_what_changed();
}

static void compact_keeps_the_state_and_shrinks_the_log(void **state)
{
    km_stats before, after;

    (void)state;
    change_a_lot();
    before = seed_stats();
    CHECK_STATUS(km_compact(seed.store, NULL, NULL, NULL), KM_OK);
    after = seed_stats();
    CHECK(after.log_bytes < before.log_bytes / 2 && after.key_count == before.key_count);
    check_what_changed();
    seed_reopen(NULL);
    check_what_changed();
}

/* ---- what it wishes for -------------------------------------------------------------------- */

static void the_background_compacts_while_changes_go_on(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    uint64_t deadline = harness_now_ns() + UINT64_C(20000000000);
    static const char value[512] = "v";
    km_stats stats;

    (void)state;
    options.log_size_min = 1 << 20;
    seed_reopen(&options);
    for (uint64_t i = 0; i < 40000; i++) /* 22 MB of changes, 0.5 MB that live */
        CHECK_STATUS(km_put_u64(seed.map, i % 1000, km_bytes_of(value, sizeof(value)), NULL),
                     KM_OK);
    do {
        usleep(1000);
        stats = seed_stats();
        CHECK(harness_now_ns() < deadline);
    } while (stats.log_bytes > 4 << 20 || stats.freed_segments == 0);
    CHECK(stats.key_count == 1000);
}

/* In a child: whether the store that the parent has open can be opened. */
static int exit_with_open_status(km_open_mode mode)
{
    km_options options = KM_OPTIONS_INIT;
    km_store *store = NULL;
    pid_t child;
    int status = 0;

    options.mode = mode;
    fflush(NULL);
    child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(-km_open(seed.path, &options, &store, NULL));
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return -WEXITSTATUS(status);
}

static void a_lock_keeps_other_processes_from_writing(void **state)
{
    km_store *second = NULL;
    km_error error;

    (void)state;
    CHECK(exit_with_open_status(KM_OPEN_EXISTING) == KM_E_LOCKED);
    CHECK_STATUS(km_open(seed.path, NULL, &second, &error), KM_E_LOCKED);
    CHECK(error.message[0] != 0);
    CHECK(exit_with_open_status(KM_OPEN_READ_ONLY) == KM_OK); /* reading beside it is fine */
    seed_put("key", "still writable");
    seed_check("key", "still writable");
}

static void put_six_megabytes(void)
{
    static const char value[100] = "v";

    for (uint64_t i = 0; i < 50000; i++)
        CHECK_STATUS(km_put_u64(seed.map, i, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
}

static void nothing(void)
{
}

/* After a close the index is read back as it was; after a kill only what came since is replayed. */
static void a_snapshot_of_the_index_makes_restarts_fast(void **state)
{
    (void)state;
    put_six_megabytes();
    seed_reopen(NULL);
    CHECK(km_count(seed.map) == 50000 && seed_stats().recovered_records < 100);
    CHECK(seed_stats().image_bytes > 0);
    seed_in_a_killed_process(NULL, nothing);
    seed_open(NULL);
    CHECK(km_count(seed.map) == 50000 && seed_stats().recovered_records < 100);
}

/* Change one byte of the first place in a file that holds `bytes`. */
static void spoil(const char *name, const char *bytes)
{
    static char content[1 << 20];
    char path[HARNESS_PATH_SIZE];
    ssize_t size;
    char *at;
    int fd;

    harness_path(path, seed.path, name);
    fd = open(path, O_RDWR);
    CHECK(fd >= 0);
    size = read(fd, content, sizeof(content));
    CHECK(size > 0);
    at = memmem(content, (size_t)size, bytes, strlen(bytes));
    CHECK(at && pwrite(fd, "X", 1, at - content) == 1);
    close(fd);
}

static void note_finding(void *context, const km_error *finding)
{
    int *count = context;

    CHECK(strstr(finding->file, "00000001.segment") != NULL);
    ++*count;
}

/* Damage is found by whoever looks: by a check, by the open or else by the get. */
static void checksums_detect_corruption(void **state)
{
    km_buffer value = KM_BUFFER_INIT;
    int count = 0;
    km_status rc;

    (void)state;
    seed_put_all("before=fine key=precious-value after=fine");
    put_six_megabytes(); /* or the ring would still have what is spoilt in the segment */
    harness_close(seed.store);
    CHECK_STATUS(km_verify(seed.path, note_finding, &count, NULL, NULL), KM_OK);
    spoil("log/00000001.segment", "precious-value");
    CHECK_STATUS(km_verify(seed.path, note_finding, &count, NULL, NULL), KM_E_CORRUPT);
    CHECK(count > 0);
    rc = km_open(seed.path, NULL, &seed.store, NULL);
    if (rc == KM_OK) {
        CHECK_STATUS(km_map_open(seed.store, text("seed"), &seed.map), KM_OK);
        CHECK_STATUS(km_get(seed.map, text("key"), &value), KM_E_CORRUPT);
        seed_check("before", "fine");
        seed_check("after", "fine");
    } else {
        CHECK(rc == KM_E_CORRUPT);
        seed.store = NULL; /* for seed_end(), which accepts none */
    }
    km_buffer_free(&value);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, seed_begin_hash, seed_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(set_get_delete_survive_a_restart),
        CASE(replaying_the_log_gives_the_state),
        CASE(compact_keeps_the_state_and_shrinks_the_log),
        CASE(the_background_compacts_while_changes_go_on),
        CASE(a_lock_keeps_other_processes_from_writing),
        CASE(a_snapshot_of_the_index_makes_restarts_fast),
        CASE(checksums_detect_corruption),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
