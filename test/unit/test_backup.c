/* SPDX-License-Identifier: Apache-2.0
 *
 * test_backup.c -- km_backup, km_restore and km_inspect on real files.
 *
 * B1. A backup holds a prefix of the changes: every one acknowledged before the call, none in part.
 * B2. It shares full segments by links where it may, and nothing that happens to the store, or to a
 *     store made from it, ever shows in another.
 * B3. At the path there is nothing, or a whole store; what lay there before stays.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "harness/harness_util.h"

#define VALUE_SIZE 1000u
#define SPECIAL_SIZE 150000u

static struct {
    char folder[HARNESS_PATH_SIZE];
    char path[HARNESS_PATH_SIZE]; /* of the store */
    char backup[HARNESS_PATH_SIZE];
    char second[HARNESS_PATH_SIZE];
    km_store *store;
    km_map *map;
} fixture;

static int open_fixture(void **state)
{
    (void)state;
    harness_make_fast_folder(fixture.folder);
    harness_path(fixture.path, fixture.folder, "store");
    harness_path(fixture.backup, fixture.folder, "backup");
    harness_path(fixture.second, fixture.folder, "second");
    fixture.store = harness_open(fixture.path, NULL);
    fixture.map = harness_map(fixture.store, "map");
    return 0;
}

static int close_fixture(void **state)
{
    (void)state;
    harness_close(fixture.store);
    harness_remove(fixture.folder);
    return 0;
}

/* ---- contents ---------------------------------------------------------------------------- */

static void put_versions(km_map *map, uint64_t count, uint64_t version, size_t size)
{
    uint8_t *value = malloc(size);

    for (uint64_t key = 0; key < count; key++) {
        harness_value_fill(value, size, key, version);
        CHECK_STATUS(km_put_u64(map, key, km_bytes_of(value, size), NULL), KM_OK);
    }
    free(value);
}

static void check_versions(km_map *map, uint64_t count, uint64_t version)
{
    km_buffer value = KM_BUFFER_INIT;

    CHECK_MSG(km_count(map) == count, "%llu keys, not %llu", (unsigned long long)km_count(map),
              (unsigned long long)count);
    for (uint64_t key = 0; key < count; key++) {
        CHECK_STATUS(km_get_u64(map, key, &value), KM_OK);
        CHECK(harness_value_version(km_bytes_of(value.data, value.size), key) == version);
    }
    km_buffer_free(&value);
}

static km_store *open_read_only(const char *path)
{
    km_options options = KM_OPTIONS_INIT;

    options.mode = KM_OPEN_READ_ONLY;
    return harness_open(path, &options);
}

static km_map *find_map(km_store *store, const char *name)
{
    km_map *map = NULL;

    CHECK_STATUS(km_map_open(store, km_bytes_of_string(name), &map), KM_OK);
    return map;
}

/* Whole, by all that can be asked. */
static void check_backup(const char *path, uint64_t count, uint64_t version)
{
    km_error error = {0};
    km_status rc = km_verify(path, NULL, NULL, NULL, &error);
    km_store *store;

    CHECK_MSG(rc == KM_OK, "km_verify: %s: %s", km_status_name(rc), error.message);
    store = open_read_only(path);
    check_versions(find_map(store, "map"), count, version);
    harness_close(store);
}

static km_backup_result back_up(km_store *store, const char *path, const char *previous, int copy)
{
    km_backup_options options = {.struct_size = sizeof(options)};
    km_backup_result result = {0};
    km_error error = {0};
    km_status rc;

    options.previous = previous;
    options.copy = copy;
    rc = km_backup(store, path, &options, &result, &error);
    CHECK_MSG(rc == KM_OK, "km_backup: %s in %s: %s", km_status_name(rc), error.file,
              error.message);
    return result;
}

static void restore(const char *backup, const char *path)
{
    km_error error = {0};
    km_status rc = km_restore(backup, path, NULL, NULL, &error);

    CHECK_MSG(rc == KM_OK, "km_restore: %s in %s: %s", km_status_name(rc), error.file,
              error.message);
}

/* ---- files ------------------------------------------------------------------------------- */

static int is_there(const char *path)
{
    struct stat status;

    return lstat(path, &status) == 0;
}

static void segment_path(char out[HARNESS_PATH_SIZE], const char *store, unsigned number)
{
    CHECK(snprintf(out, HARNESS_PATH_SIZE, "%s/log/%08x.segment", store, number) <
          HARNESS_PATH_SIZE);
}

static ino_t inode_of(const char *store, unsigned number)
{
    struct stat status;
    char path[HARNESS_PATH_SIZE];

    segment_path(path, store, number);
    return stat(path, &status) == 0 ? status.st_ino : 0;
}

/* Segments with a file in both folders that is the same file. */
static unsigned shared_segments(const char *a, const char *b)
{
    unsigned count = 0;

    for (unsigned number = 1; number < 200; number++)
        count += inode_of(a, number) && inode_of(a, number) == inode_of(b, number);
    return count;
}

static void check_nothing_left(const char *path)
{
    char leftover[HARNESS_PATH_SIZE + 16];

    CHECK(!is_there(path));
    snprintf(leftover, sizeof(leftover), "%s.new-backup", path);
    CHECK(!is_there(leftover));
    snprintf(leftover, sizeof(leftover), "%s.new-restore", path);
    CHECK(!is_there(leftover));
}

/* ---- content ----------------------------------------------------------------------------- */

static void an_empty_store_has_a_backup(void **state)
{
    km_store *store;

    (void)state;
    harness_close(fixture.store);
    harness_remove(fixture.path);
    fixture.store = harness_open(fixture.path, NULL);
    CHECK(back_up(fixture.store, fixture.backup, NULL, 0).linked_bytes == 0);
    CHECK_STATUS(km_verify(fixture.backup, NULL, NULL, NULL, NULL), KM_OK);
    store = harness_open(fixture.backup, NULL); /* for writing */
    put_versions(harness_map(store, "map"), 10, 1, VALUE_SIZE);
    harness_close(store);
    check_backup(fixture.backup, 10, 1);
}

static void later_changes_do_not_show(void **state)
{
    km_backup_result result;

    (void)state;
    put_versions(fixture.map, 300, 1, VALUE_SIZE);
    result = back_up(fixture.store, fixture.backup, NULL, 0);
    CHECK(result.position > 0 && result.position <= km_durable_position(fixture.store));
    put_versions(fixture.map, 2000, 2, VALUE_SIZE);
    check_backup(fixture.backup, 300, 1);
    CHECK_STATUS(km_map_drop(fixture.map), KM_OK);
    fixture.map = harness_map(fixture.store, "other");
    put_versions(fixture.map, 100, 3, VALUE_SIZE);
    check_backup(fixture.backup, 300, 1);
}

static void special_values_are_in_a_backup(void **state)
{
    (void)state;
    for (uint64_t round = 1; round <= 3; round++)
        put_versions(fixture.map, 8, round, SPECIAL_SIZE);
    back_up(fixture.store, fixture.backup, NULL, 0); /* the log ends with a special segment */
    check_backup(fixture.backup, 8, 3);
    put_versions(fixture.map, 30, 4, VALUE_SIZE);
    back_up(fixture.store, fixture.second, fixture.backup, 0);
    check_backup(fixture.backup, 8, 3);
    check_backup(fixture.second, 30, 4);
}

/* So that the head moves past the records of maps. */
static void reopen_compacting(void)
{
    km_options options = KM_OPTIONS_INIT;

    options.log_size_min = 1 << 20;
    harness_close(fixture.store);
    fixture.store = harness_open(fixture.path, &options);
    fixture.map = find_map(fixture.store, "map");
}

static uint32_t head_number(km_store *store)
{
    km_stats stats = {.struct_size = sizeof(stats)};

    CHECK_STATUS(km_store_stats(store, &stats), KM_OK);
    return (uint32_t)(stats.head >> 32);
}

/* Put new versions until compaction has moved the head past a segment. Returns the last version. */
static uint64_t turn_over(uint64_t version, uint32_t number)
{
    for (int i = 0; i < 1000 && head_number(fixture.store) <= number; i++)
        put_versions(fixture.map, 500, ++version, VALUE_SIZE);
    CHECK(head_number(fixture.store) > number);
    return version;
}

static void maps_from_before_the_head_are_in_a_backup(void **state)
{
    km_backup_result result;
    km_store *store;
    km_map *map;
    uint64_t version;

    (void)state;
    reopen_compacting();
    CHECK_STATUS(km_map_drop(harness_map(fixture.store, "dropped")), KM_OK);
    put_versions(harness_map(fixture.store, "kept"), 10, 7, VALUE_SIZE);
    version = turn_over(0, 1);
    result = back_up(fixture.store, fixture.backup, NULL, 0);
    turn_over(version, (uint32_t)(result.position >> 32)); /* the store's files are gone */
    check_backup(fixture.backup, 500, version);
    store = open_read_only(fixture.backup);
    check_versions(find_map(store, "kept"), 10, 7);
    CHECK_STATUS(km_map_open(store, km_bytes_of_string("dropped"), &map), KM_NOT_FOUND);
    harness_close(store);
}

/* ---- beside writers ---------------------------------------------------------------------- */

struct writer {
    pthread_t thread;
    uint64_t number;
    _Atomic uint64_t acknowledged; /* [a] */
    _Atomic int stopping;          /* [a] */
};

/* Two keys of this writer, raised together. */
static void *write_pairs(void *context)
{
    struct writer *writer = context;
    uint8_t value[VALUE_SIZE];
    km_batch *batch = NULL;

    CHECK_STATUS(km_batch_create(fixture.store, &batch), KM_OK);
    for (uint64_t n = 1; !atomic_load_explicit(&writer->stopping, memory_order_relaxed); n++) {
        for (uint64_t i = 0; i < 2; i++) {
            km_u64_key key = km_u64_key_from(writer->number * 2 + i);

            harness_value_fill(value, sizeof(value), writer->number * 2 + i, n);
            CHECK_STATUS(km_batch_put(batch, fixture.map, km_bytes_of(key.bytes, 8),
                                      km_bytes_of(value, sizeof(value))),
                         KM_OK);
        }
        CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK);
        atomic_store_explicit(&writer->acknowledged, n, memory_order_release);
    }
    km_batch_destroy(batch);
    return NULL;
}

static uint64_t version_of(km_map *map, uint64_t key)
{
    km_buffer value = KM_BUFFER_INIT;
    uint64_t version = 0;

    if (km_get_u64(map, key, &value) == KM_OK)
        version = harness_value_version(km_bytes_of(value.data, value.size), key);
    km_buffer_free(&value);
    return version;
}

/* Enough is written for the log to leave a segment now and then. */
static void wait_for_writers(struct writer writers[2], uint64_t least[2])
{
    for (int i = 0; i < 2; i++) {
        uint64_t from = least[i];

        do {
            sched_yield();
            least[i] = atomic_load_explicit(&writers[i].acknowledged, memory_order_acquire);
        } while (least[i] < from + 150);
    }
}

static void check_pairs(const char *path, const uint64_t least[2])
{
    km_store *store = open_read_only(path);
    km_map *map = find_map(store, "map");

    for (uint64_t i = 0; i < 2; i++) {
        uint64_t version = version_of(map, 2 * i);

        CHECK_MSG(version >= least[i], "writer %llu: %llu, acknowledged was %llu",
                  (unsigned long long)i, (unsigned long long)version, (unsigned long long)least[i]);
        CHECK(version_of(map, 2 * i + 1) == version);
    }
    harness_close(store);
    CHECK_STATUS(km_verify(path, NULL, NULL, NULL, NULL), KM_OK);
}

static void round_path(char out[HARNESS_PATH_SIZE + 32], uint64_t round)
{
    snprintf(out, HARNESS_PATH_SIZE + 32, "%s-%llu", fixture.backup, (unsigned long long)round);
}

static void a_backup_beside_writers_is_a_prefix(void **state)
{
    struct writer writers[2] = {{.number = 0}, {.number = 1}};
    char path[HARNESS_PATH_SIZE + 32], previous[HARNESS_PATH_SIZE + 32];
    uint64_t rounds = harness_scaled(12), linked = 0;
    uint64_t(*least)[2] = calloc(rounds + 1, sizeof(*least));

    (void)state;
    reopen_compacting();
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&writers[i].thread, NULL, write_pairs, &writers[i]) == 0);
    for (uint64_t round = 0; round < rounds; round++) {
        wait_for_writers(writers, least[round]);
        memcpy(least[round + 1], least[round], sizeof(*least));
        round_path(path, round);
        linked += back_up(fixture.store, path, round ? previous : NULL, round % 4 == 3)
                      .linked_bytes;
        memcpy(previous, path, sizeof(path));
    }
    for (int i = 0; i < 2; i++) {
        atomic_store_explicit(&writers[i].stopping, 1, memory_order_relaxed);
        pthread_join(writers[i].thread, NULL);
    }
    CHECK(linked > 0);
    for (uint64_t round = 0; round < rounds; round++) {
        round_path(path, round);
        check_pairs(path, least[round]);
    }
    free(least);
}

/* ---- links ------------------------------------------------------------------------------- */

static void full_segments_are_linked(void **state)
{
    km_backup_result result;

    (void)state;
    put_versions(fixture.map, 3000, 1, VALUE_SIZE);
    result = back_up(fixture.store, fixture.backup, NULL, 0);
    CHECK(result.linked_bytes > 2000000);
    CHECK(shared_segments(fixture.path, fixture.backup) >= 3);
    CHECK(inode_of(fixture.path, (unsigned)(result.position >> 32)) !=
          inode_of(fixture.backup, (unsigned)(result.position >> 32)));
    result = back_up(fixture.store, fixture.second, NULL, 1);
    CHECK(result.linked_bytes == 0 && result.copied_bytes > 3000000);
    CHECK(shared_segments(fixture.path, fixture.second) == 0);
    check_backup(fixture.backup, 3000, 1);
    check_backup(fixture.second, 3000, 1);
}

static void segments_of_the_previous_backup_are_linked(void **state)
{
    km_backup_result result;
    unsigned shared;

    (void)state;
    put_versions(fixture.map, 3000, 1, VALUE_SIZE);
    back_up(fixture.store, fixture.backup, NULL, 1);
    put_versions(fixture.map, 3100, 2, VALUE_SIZE);
    result = back_up(fixture.store, fixture.second, fixture.backup, 0);
    shared = shared_segments(fixture.backup, fixture.second);
    CHECK(result.linked_bytes > 2000000);
    CHECK(shared >= 3);
    CHECK(shared_segments(fixture.path, fixture.second) >= 1); /* what is new since */
    check_backup(fixture.backup, 3000, 1);
    check_backup(fixture.second, 3100, 2);
}

/* It looks like the store's: header, first and last bytes are the same. */
static void the_cut_segment_of_the_previous_backup_is_not_taken(void **state)
{
    unsigned cut;

    (void)state;
    put_versions(fixture.map, 110, 1, VALUE_SIZE);
    cut = (unsigned)(back_up(fixture.store, fixture.backup, NULL, 0).position >> 32);
    put_versions(fixture.map, 120, 2, 40);
    put_versions(fixture.map, 1, 2, SPECIAL_SIZE); /* leaves the segment, mostly empty */
    CHECK(cut < (back_up(fixture.store, fixture.second, fixture.backup, 0).position >> 32));
    CHECK(inode_of(fixture.backup, cut) != inode_of(fixture.second, cut));
    check_backup(fixture.second, 120, 2);
}

/* A log that was restored and went on in another way has segments of the same numbers. */
static void segments_of_another_history_are_not_taken(void **state)
{
    char third[HARNESS_PATH_SIZE], other[HARNESS_PATH_SIZE];
    km_store *store;

    (void)state;
    harness_path(third, fixture.folder, "third");
    harness_path(other, fixture.folder, "other");
    put_versions(fixture.map, 100, 1, VALUE_SIZE);
    back_up(fixture.store, fixture.backup, NULL, 1);
    put_versions(fixture.map, 3000, 2, VALUE_SIZE);
    back_up(fixture.store, fixture.second, NULL, 1);
    restore(fixture.backup, other);
    store = harness_open(other, NULL);
    put_versions(find_map(store, "map"), 3000, 3, VALUE_SIZE);
    back_up(store, third, fixture.second, 0);
    harness_close(store);
    check_backup(third, 3000, 3);
    check_backup(fixture.second, 3000, 2);
}

static void expect_refused_previous(const char *previous)
{
    km_backup_options options = {.struct_size = sizeof(options)};
    km_error error = {0};

    options.previous = previous;
    CHECK_STATUS(km_backup(fixture.store, fixture.second, &options, NULL, &error), KM_E_INVALID);
    CHECK(error.status == KM_E_INVALID && error.message[0]);
    check_nothing_left(fixture.second);
}

static void what_is_no_untouched_backup_is_no_previous(void **state)
{
    char other[HARNESS_PATH_SIZE], other_backup[HARNESS_PATH_SIZE];
    km_store *store;

    (void)state;
    harness_path(other, fixture.folder, "other");
    harness_path(other_backup, fixture.folder, "other-backup");
    store = harness_open(other, NULL);
    back_up(store, other_backup, NULL, 0);
    expect_refused_previous(other); /* open */
    harness_close(store);
    expect_refused_previous(other);
    expect_refused_previous(other_backup); /* of another store */
    expect_refused_previous(fixture.path);
    expect_refused_previous(fixture.folder);
    back_up(fixture.store, fixture.backup, NULL, 0);
    harness_close(harness_open(fixture.backup, NULL));
    expect_refused_previous(fixture.backup);
}

/* ---- backups as stores ------------------------------------------------------------------- */

static void a_backup_of_a_backup_is_one(void **state)
{
    km_backup_result first, second;
    km_store *store;

    (void)state;
    put_versions(fixture.map, 1000, 1, VALUE_SIZE);
    first = back_up(fixture.store, fixture.backup, NULL, 0);
    store = open_read_only(fixture.backup);
    second = back_up(store, fixture.second, NULL, 0);
    harness_close(store);
    CHECK(first.position == second.position);
    CHECK(shared_segments(fixture.path, fixture.second) > 0);
    check_backup(fixture.second, 1000, 1);
}

static void writing_to_a_backup_leaves_the_store_alone(void **state)
{
    km_store *store;

    (void)state;
    put_versions(fixture.map, 1000, 1, VALUE_SIZE);
    back_up(fixture.store, fixture.backup, NULL, 0);
    store = harness_open(fixture.backup, NULL);
    put_versions(find_map(store, "map"), 1500, 2, VALUE_SIZE);
    harness_close(store);
    check_backup(fixture.backup, 1500, 2);
    check_versions(fixture.map, 1000, 1);
    harness_close(fixture.store);
    check_backup(fixture.path, 1000, 1);
    fixture.store = harness_open(fixture.path, NULL);
}

static void a_restored_store_goes_its_own_way(void **state)
{
    km_store *store;

    (void)state;
    put_versions(fixture.map, 1000, 1, VALUE_SIZE);
    back_up(fixture.store, fixture.backup, NULL, 0);
    restore(fixture.backup, fixture.second);
    CHECK(shared_segments(fixture.backup, fixture.second) == 0);
    check_backup(fixture.second, 1000, 1);
    store = harness_open(fixture.second, NULL);
    put_versions(find_map(store, "map"), 1500, 2, VALUE_SIZE);
    harness_close(store);
    check_backup(fixture.second, 1500, 2);
    check_backup(fixture.backup, 1000, 1);
}

static void a_closed_store_can_be_restored_from(void **state)
{
    km_store *store;

    (void)state;
    put_versions(fixture.map, 1000, 1, VALUE_SIZE);
    harness_close(fixture.store);
    restore(fixture.path, fixture.second);
    fixture.store = harness_open(fixture.path, NULL);
    store = harness_open(fixture.second, NULL);
    put_versions(find_map(store, "map"), 1100, 2, VALUE_SIZE);
    harness_close(store);
    check_backup(fixture.second, 1100, 2);
}

/* ---- refusals ---------------------------------------------------------------------------- */

static void expect_backup(km_store *store, const char *path, km_status expected)
{
    km_error error = {0};

    CHECK_STATUS(km_backup(store, path, NULL, NULL, &error), expected);
    CHECK(error.status == expected && error.message[0]);
}

static void expect_restore(const char *backup, const char *path, km_status expected)
{
    km_error error = {0};

    CHECK_STATUS(km_restore(backup, path, NULL, NULL, &error), expected);
    CHECK(error.status == expected && error.message[0]);
}

static void make_file(const char *path)
{
    FILE *file = fopen(path, "w");

    CHECK(file && fputs("mine", file) >= 0 && fclose(file) == 0);
}

static void what_is_there_stays(void **state)
{
    (void)state;
    CHECK(mkdir(fixture.backup, 0700) == 0);
    make_file(fixture.second);
    expect_backup(fixture.store, fixture.backup, KM_EXISTS);
    expect_backup(fixture.store, fixture.second, KM_EXISTS);
    CHECK(rmdir(fixture.backup) == 0 && symlink("nowhere", fixture.backup) == 0);
    expect_backup(fixture.store, fixture.backup, KM_EXISTS);
    CHECK(unlink(fixture.backup) == 0);
    back_up(fixture.store, fixture.backup, NULL, 0);
    expect_backup(fixture.store, fixture.backup, KM_EXISTS);
    expect_restore(fixture.backup, fixture.second, KM_EXISTS);
    expect_restore(fixture.backup, fixture.path, KM_EXISTS);
    CHECK(is_there(fixture.second));
}

static void impossible_calls_are_refused(void **state)
{
    char path[HARNESS_PATH_SIZE];
    km_backup_options options = {0};
    km_reader *reader = NULL;
    km_store *other = NULL;

    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &other, NULL), KM_OK);
    expect_backup(other, fixture.backup, KM_E_UNSUPPORTED);
    harness_close(other);
    CHECK_STATUS(km_read_begin(fixture.store, &reader), KM_OK);
    expect_backup(fixture.store, fixture.backup, KM_WOULD_BLOCK);
    km_read_end(reader);
    other = open_read_only(fixture.path); /* follows */
    expect_backup(other, fixture.backup, KM_E_UNSUPPORTED);
    harness_close(other);
    expect_backup(fixture.store, "", KM_E_INVALID);
    expect_backup(fixture.store, "/", KM_E_INVALID);
    expect_backup(fixture.store, "..", KM_E_INVALID);
    harness_path(path, fixture.folder, "none/backup");
    expect_backup(fixture.store, path, KM_E_INVALID);
    CHECK_STATUS(km_backup(fixture.store, fixture.backup, &options, NULL, NULL), KM_E_INVALID);
    expect_restore(fixture.path, fixture.backup, KM_E_LOCKED);
    expect_restore(fixture.folder, fixture.backup, KM_E_NOT_A_STORE);
    expect_restore(path, fixture.backup, KM_E_NOT_A_STORE);
    check_nothing_left(fixture.backup);
}

static void a_damaged_backup_is_not_restored(void **state)
{
    char path[HARNESS_PATH_SIZE];
    FILE *file;

    (void)state;
    put_versions(fixture.map, 1000, 1, VALUE_SIZE);
    back_up(fixture.store, fixture.backup, NULL, 1);
    segment_path(path, fixture.backup, 1);
    file = fopen(path, "r+");
    CHECK(file && fseek(file, 50000, SEEK_SET) == 0 && fputs("damage", file) >= 0 &&
          fclose(file) == 0);
    expect_restore(fixture.backup, fixture.second, KM_E_CORRUPT);
    check_nothing_left(fixture.second);
    check_versions(fixture.map, 1000, 1);
}

struct progress {
    uint64_t calls, done, total, stop_at;
    int went_back;
};

static int note_progress(void *context, uint64_t done, uint64_t total)
{
    struct progress *progress = context;

    progress->went_back |= done < progress->done || done > total;
    progress->done = done;
    progress->total = total;
    return ++progress->calls == progress->stop_at;
}

static void a_stopped_backup_leaves_nothing(void **state)
{
    km_backup_options options = {.struct_size = sizeof(options)};
    struct progress progress = {0};
    uint64_t calls;

    (void)state;
    put_versions(fixture.map, 1000, 1, VALUE_SIZE);
    options.progress = note_progress;
    options.progress_context = &progress;
    CHECK_STATUS(km_backup(fixture.store, fixture.second, &options, NULL, NULL), KM_OK);
    CHECK(progress.calls > 3 && !progress.went_back && progress.done == progress.total);
    calls = progress.calls;
    for (uint64_t n = 1; n <= calls; n++) {
        progress = (struct progress){.stop_at = n};
        CHECK_STATUS(km_backup(fixture.store, fixture.backup, &options, NULL, NULL), KM_STOPPED);
        CHECK(progress.calls == n);
        check_nothing_left(fixture.backup);
    }
    progress = (struct progress){0};
    CHECK_STATUS(km_restore(fixture.second, fixture.backup, note_progress, &progress, NULL), KM_OK);
    CHECK(progress.calls > 3 && !progress.went_back && progress.done == progress.total);
    harness_remove(fixture.backup);
    progress = (struct progress){.stop_at = 3};
    CHECK_STATUS(km_restore(fixture.second, fixture.backup, note_progress, &progress, NULL),
                 KM_STOPPED);
    check_nothing_left(fixture.backup);
}

/* ---- leftovers --------------------------------------------------------------------------- */

static void a_leftover_is_removed_but_nothing_else(void **state)
{
    char leftover[HARNESS_PATH_SIZE], path[HARNESS_PATH_SIZE], log[HARNESS_PATH_SIZE];

    (void)state;
    harness_path(leftover, fixture.folder, "backup.new-backup");
    harness_path(log, leftover, "log");
    CHECK(mkdir(leftover, 0700) == 0 && mkdir(log, 0700) == 0);
    harness_path(path, leftover, "MARKS");
    make_file(path);
    harness_path(path, log, "0000002a.segment");
    make_file(path);
    harness_path(path, log, "mine");
    make_file(path);
    expect_backup(fixture.store, fixture.backup, KM_EXISTS);
    CHECK(is_there(path));
    CHECK(unlink(path) == 0);
    harness_path(path, leftover, "mine");
    make_file(path);
    expect_backup(fixture.store, fixture.backup, KM_EXISTS);
    CHECK(is_there(path));
    CHECK(unlink(path) == 0);
    put_versions(fixture.map, 10, 1, VALUE_SIZE);
    back_up(fixture.store, fixture.backup, NULL, 0);
    check_backup(fixture.backup, 10, 1);
    CHECK(!is_there(leftover));
}

struct rival {
    km_status rc;
    int calls;
};

/* While one backup is being written. */
static int back_up_too(void *context, uint64_t done, uint64_t total)
{
    struct rival *rival = context;

    (void)done;
    (void)total;
    if (rival->calls++ == 0)
        rival->rc = km_backup(fixture.store, fixture.backup, NULL, NULL, NULL);
    return 0;
}

static void two_backups_at_one_path_do_not_meet(void **state)
{
    km_backup_options options = {.struct_size = sizeof(options)};
    struct rival rival = {0};

    (void)state;
    put_versions(fixture.map, 300, 1, VALUE_SIZE);
    options.progress = back_up_too;
    options.progress_context = &rival;
    CHECK_STATUS(km_backup(fixture.store, fixture.backup, &options, NULL, NULL), KM_OK);
    CHECK_STATUS(rival.rc, KM_EXISTS);
    check_backup(fixture.backup, 300, 1);
}

/* ---- inspecting -------------------------------------------------------------------------- */

static km_inspection inspect(const char *path)
{
    km_inspection found = {.struct_size = sizeof(found)};
    km_error error = {0};
    km_status rc = km_inspect(path, &found, &error);

    CHECK_MSG(rc == KM_OK, "km_inspect: %s: %s", km_status_name(rc), error.message);
    CHECK(found.struct_size == sizeof(found));
    return found;
}

static void an_inspection_tells_what_an_open_will_do(void **state)
{
    km_inspection found, none = {0};

    (void)state;
    put_versions(fixture.map, 1000, 1, VALUE_SIZE);
    back_up(fixture.store, fixture.backup, NULL, 0);
    CHECK(inspect(fixture.path).is_open);
    found = inspect(fixture.backup);
    CHECK(!found.is_open && !found.needs_recovery && found.image_bytes == 0);
    CHECK(found.log_bytes > 1000000 && found.log_bytes < 1300000);
    CHECK(found.replay_bytes == found.log_bytes);
    harness_close(fixture.store);
    found = inspect(fixture.path);
    CHECK(!found.is_open && !found.needs_recovery);
    CHECK(found.replay_bytes <= found.log_bytes);
    fixture.store = harness_open(fixture.path, NULL);
    CHECK_STATUS(km_inspect(fixture.folder, &found, NULL), KM_E_NOT_A_STORE);
    CHECK_STATUS(km_inspect(fixture.path, &none, NULL), KM_E_INVALID);
    CHECK_STATUS(km_inspect("", &found, NULL), KM_E_INVALID);
}

/* Enough for an image at close. */
static void an_image_makes_the_replay_short(void **state)
{
    km_inspection found;

    (void)state;
    put_versions(fixture.map, 12000, 1, VALUE_SIZE);
    harness_close(fixture.store);
    found = inspect(fixture.path);
    CHECK(found.image_bytes > 0 && found.log_bytes > 12000000);
    CHECK(found.replay_bytes < found.log_bytes / 10);
    restore(fixture.path, fixture.second); /* the image is in it */
    CHECK(inspect(fixture.second).image_bytes == found.image_bytes);
    check_backup(fixture.second, 12000, 1);
    fixture.store = harness_open(fixture.path, NULL);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_fixture, close_fixture)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CASE(an_empty_store_has_a_backup),
        CASE(later_changes_do_not_show),
        CASE(special_values_are_in_a_backup),
        CASE(maps_from_before_the_head_are_in_a_backup),
        CASE(a_backup_beside_writers_is_a_prefix),
        CASE(full_segments_are_linked),
        CASE(segments_of_the_previous_backup_are_linked),
        CASE(the_cut_segment_of_the_previous_backup_is_not_taken),
        CASE(segments_of_another_history_are_not_taken),
        CASE(what_is_no_untouched_backup_is_no_previous),
        CASE(a_backup_of_a_backup_is_one),
        CASE(writing_to_a_backup_leaves_the_store_alone),
        CASE(a_restored_store_goes_its_own_way),
        CASE(a_closed_store_can_be_restored_from),
        CASE(what_is_there_stays),
        CASE(impossible_calls_are_refused),
        CASE(a_damaged_backup_is_not_restored),
        CASE(a_stopped_backup_leaves_nothing),
        CASE(a_leftover_is_removed_but_nothing_else),
        CASE(two_backups_at_one_path_do_not_meet),
        CASE(an_inspection_tells_what_an_open_will_do),
        CASE(an_image_makes_the_replay_short),
    };

    harness_begin();
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
