/* SPDX-License-Identifier: Apache-2.0
 *
 * test_compact_threads.c -- the background turns the log over beside writers, readers and walks.
 *
 * C1. A key that is always there is always found, whole, and never in an earlier version than
 * before. C2. A walk meets each such key exactly once, however often the log has turned over
 * meanwhile. C3. At every moment the log is as short as I3 of store_compact.c says. C4. All of it
 * also while a damaged index image is being made good.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/image.h"
#include "harness/harness_check.h"
#include "harness/harness_util.h"
#include "log/log_internal.h"
#include "store/store_internal.h"

#define WRITER_COUNT 2u
#define READER_COUNT 2u
#define KEY_COUNT 3000u /* all always there; a writer has every second one */
#define VALUE_SIZE_MAX 3000u
#define LARGE_SIZE_MAX 400000u

struct stress {
    char path[HARNESS_PATH_SIZE];
    km_options options;
    km_store *store;
    km_map *map, *other;
    uint64_t changes; /* of each writer */
    uint32_t large_one_in;
    _Atomic int writers_left;
    _Atomic uint64_t versions[KEY_COUNT]; /* acknowledged */
    _Atomic uint64_t walks, reads;
};

struct worker {
    struct stress *stress;
    uint32_t number;
    struct harness_random random;
    pthread_t thread;
};

/* ---- workers ----------------------------------------------------------------------------- */

static void put_next(struct stress *stress, uint64_t key, size_t size)
{
    uint64_t version = atomic_load(&stress->versions[key]) + 1;
    uint8_t *value = malloc(size);

    harness_value_fill(value, size, key, version);
    CHECK_STATUS(km_put_u64(stress->map, key, km_bytes_of(value, size), NULL), KM_OK);
    atomic_store(&stress->versions[key], version);
    free(value);
}

static size_t random_size(const struct stress *stress, struct harness_random *random)
{
    uint64_t most = VALUE_SIZE_MAX;

    if (stress->large_one_in && harness_below(random, stress->large_one_in) == 0)
        most = LARGE_SIZE_MAX;
    return HARNESS_VALUE_MIN + harness_below(random, most - HARNESS_VALUE_MIN);
}

static void *run_writer(void *context)
{
    struct worker *worker = context;
    struct stress *stress = worker->stress;

    for (uint64_t i = 0; i < stress->changes; i++) {
        uint64_t key = harness_below(&worker->random, KEY_COUNT / WRITER_COUNT) * WRITER_COUNT +
                       worker->number;

        put_next(stress, key, random_size(stress, &worker->random));
        if (i % 16 == 0)
            CHECK_STATUS(km_put_u64(stress->other, key, km_bytes_of("x", 1), NULL), KM_OK);
        if (i % 16 == 8)
            km__ignore(km_del_u64(stress->other, key, NULL), "it may not be there");
    }
    atomic_fetch_sub(&stress->writers_left, 1);
    return NULL;
}

static void read_one(struct worker *worker, km_buffer *buffer)
{
    struct stress *stress = worker->stress;
    uint64_t key = harness_below(&worker->random, KEY_COUNT);
    uint64_t before = atomic_load(&stress->versions[key]), found;
    km_status rc = km_get_u64(stress->map, key, buffer);

    CHECK_MSG(rc == KM_OK, "key %llu: %s", (unsigned long long)key, km_status_name(rc));
    found = harness_value_version(km_bytes_of(buffer->data, buffer->size), key);
    CHECK_MSG(found >= before, "key %llu has version %llu after %llu", (unsigned long long)key,
              (unsigned long long)found, (unsigned long long)before);
    atomic_fetch_add(&stress->reads, 1);
}

static void read_some(struct worker *worker)
{
    km_u64_key numbers[20];
    km_bytes keys[20], values[20];
    uint64_t before[20], first = harness_below(&worker->random, KEY_COUNT - 20);
    km_reader *reader = NULL;
    size_t found = 0;

    for (uint64_t i = 0; i < 20; i++) {
        numbers[i] = km_u64_key_from(first + i);
        keys[i] = km_bytes_of(numbers[i].bytes, 8);
        before[i] = atomic_load(&worker->stress->versions[first + i]);
    }
    CHECK_STATUS(km_read_begin(worker->stress->store, &reader), KM_OK);
    CHECK_STATUS(km_get_many(reader, worker->stress->map, keys, 20, values, &found), KM_OK);
    CHECK(found == 20);
    for (uint64_t i = 0; i < 20; i++)
        CHECK(harness_value_version(values[i], first + i) >= before[i]);
    km_read_end(reader);
}

static void *run_reader(void *context)
{
    struct worker *worker = context;
    km_buffer buffer = KM_BUFFER_INIT;

    while (atomic_load(&worker->stress->writers_left)) {
        read_one(worker, &buffer);
        if (harness_below(&worker->random, 8) == 0)
            read_some(worker);
    }
    km_buffer_free(&buffer);
    return NULL;
}

/* Slow: between its steps the log goes on. */
static void *run_walker(void *context)
{
    struct worker *worker = context;
    struct stress *stress = worker->stress;

    while (atomic_load(&stress->writers_left)) {
        static const struct timespec pause = {0, 200000};
        uint8_t seen[KEY_COUNT] = {0};
        uint64_t count = 0;
        km_cursor *cursor = NULL;
        km_bytes key, value;
        km_status rc;

        CHECK_STATUS(km_cursor_open(stress->map, NULL, &cursor), KM_OK);
        while ((rc = km_cursor_next(cursor, &key, &value)) == KM_OK) {
            uint64_t number = km_u64_key_to(key.data);

            CHECK_MSG(number < KEY_COUNT && !seen[number], "key %llu twice",
                      (unsigned long long)number);
            seen[number] = 1;
            CHECK(harness_value_version(value, number) > 0);
            if (++count % 8 == 0 && atomic_load(&stress->writers_left))
                nanosleep(&pause, NULL);
        }
        CHECK_STATUS(rc, KM_END);
        CHECK_MSG(count == KEY_COUNT, "%llu keys of %u", (unsigned long long)count, KEY_COUNT);
        km_cursor_close(cursor);
        atomic_fetch_add(&stress->walks, 1);
    }
    return NULL;
}

/* ---- the bound --------------------------------------------------------------------------- */

static uint64_t limit_of(const struct stress *stress, const km_stats *stats)
{
    uint64_t segment = atomic_load(&stress->store->log->usual_size), live = stats->live_bytes;
    uint64_t waste = stress->large_one_in ? live : live / 16; /* for what did not fit */
    uint64_t limit = (live + waste) / 100 * stress->options.compact_percent;

    if (limit < live + waste + 2 * segment)
        limit = live + waste + 2 * segment;
    return limit + 2 * segment + (stress->large_one_in ? 2 * segment + LARGE_SIZE_MAX : 65536);
}

/* Until the writers are done. */
static void watch_bound(struct stress *stress, km_stats *out_last)
{
    static const struct timespec pause = {0, 1000000};
    km_stats stats = {.struct_size = sizeof(stats)}, after = stats;
    uint64_t longest = 0;

    while (atomic_load(&stress->writers_left)) {
        CHECK_STATUS(km_store_stats(stress->store, &stats), KM_OK);
        CHECK_STATUS(km_store_stats(stress->store, &after), KM_OK);
        CHECK_MSG(stats.head != after.head || /* then its figures are of different moments */
                      stats.log_bytes <= limit_of(stress, &stats) + stats.emptied_bytes,
                  "%llu bytes of log, %llu live, %llu emptied, %llu pinned",
                  (unsigned long long)stats.log_bytes, (unsigned long long)stats.live_bytes,
                  (unsigned long long)stats.emptied_bytes, (unsigned long long)stats.pinned_bytes);
        if (stats.log_bytes > longest)
            longest = stats.log_bytes;
        nanosleep(&pause, NULL);
    }
    CHECK_STATUS(km_store_stats(stress->store, &stats), KM_OK);
    printf("%llu walks, %llu reads; log at most %llu bytes, %llu live, %llu moved, %llu segments "
           "freed, %llu images, longest wait %llu us\n",
           (unsigned long long)atomic_load(&stress->walks),
           (unsigned long long)atomic_load(&stress->reads), (unsigned long long)longest,
           (unsigned long long)stats.live_bytes, (unsigned long long)stats.compacted_bytes,
           (unsigned long long)stats.freed_segments, (unsigned long long)stats.image_count,
           (unsigned long long)stats.wait_longest_ns / 1000);
    *out_last = stats;
}

/* ---- runs -------------------------------------------------------------------------------- */

static void start(struct worker *worker, struct stress *stress, uint32_t number,
                  void *(*run)(void *context))
{
    worker->stress = stress;
    worker->number = number;
    worker->random = harness_stream(harness_next(&worker->random) + number);
    CHECK(pthread_create(&worker->thread, NULL, run, worker) == 0);
}

static void open_stress(struct stress *stress)
{
    stress->store = harness_open(stress->path, &stress->options);
    stress->map = harness_map(stress->store, "map");
    stress->other = harness_map(stress->store, "other");
}

static struct stress *new_stress(uint32_t percent, uint32_t large_one_in)
{
    static const km_options init = KM_OPTIONS_INIT;
    struct stress *stress = calloc(1, sizeof(*stress));
    struct harness_random random = harness_stream(percent);

    stress->options = init;
    stress->options.log_size_min = 1;
    stress->options.compact_percent = percent;
    stress->options.image_growth = 3u << 20;
    stress->options.sync_interval_ms = 50;
    stress->large_one_in = large_one_in;
    harness_make_folder(stress->path);
    open_stress(stress);
    for (uint64_t key = 0; key < KEY_COUNT; key++)
        put_next(stress, key, random_size(stress, &random));
    return stress;
}

static void end_stress(struct stress *stress)
{
    harness_close(stress->store);
    harness_remove(stress->path);
    free(stress);
}

/* At the end everything is what was acknowledged, also after another open. */
static void check_all(struct stress *stress)
{
    km_buffer buffer = KM_BUFFER_INIT;

    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        CHECK_STATUS(km_get_u64(stress->map, key, &buffer), KM_OK);
        CHECK(harness_value_version(km_bytes_of(buffer.data, buffer.size), key) ==
              atomic_load(&stress->versions[key]));
    }
    CHECK(km_count(stress->map) == KEY_COUNT);
    km_buffer_free(&buffer);
}

/* Writers and readers at once, and the main thread besides; walkers if wanted. */
static void run_workers(struct stress *stress, uint64_t stream, uint32_t walker_count,
                        km_stats *out_last)
{
    struct worker workers[WRITER_COUNT + READER_COUNT + 1];
    uint32_t count = 0;

    memset(workers, 0, sizeof(workers));
    atomic_store(&stress->writers_left, WRITER_COUNT);
    for (uint32_t i = 0; i < WRITER_COUNT + READER_COUNT + walker_count; i++, count++) {
        workers[i].random = harness_stream(stream * 100 + i);
        start(&workers[i], stress, i,
              i < WRITER_COUNT                  ? run_writer
              : i < WRITER_COUNT + READER_COUNT ? run_reader
                                                : run_walker);
    }
    if (out_last)
        watch_bound(stress, out_last);
    for (uint32_t i = 0; i < count; i++)
        pthread_join(workers[i].thread, NULL);
}

static void run_stress(uint32_t percent, uint32_t large_one_in, uint64_t changes)
{
    struct stress *stress = new_stress(percent, large_one_in);
    km_stats last;

    stress->changes = harness_scaled(changes);
    run_workers(stress, percent, 1, &last);
    CHECK(last.compacted_bytes > 0 && last.damage_count == 0);
    check_all(stress);
    harness_close(stress->store);
    open_stress(stress);
    check_all(stress);
    CHECK_STATUS(km_compact(stress->store, NULL, NULL, NULL), KM_OK);
    CHECK_STATUS(km_store_stats(stress->store, &last), KM_OK);
    CHECK(last.freed_segments > 0 && last.pinned_bytes == 0);
    check_all(stress);
    end_stress(stress);
}

static void a_log_turns_over_beside_its_users(void **state)
{
    (void)state;
    run_stress(125, 0, 40000);
    run_stress(200, 0, 20000);
}

static void a_log_of_large_records_turns_over_beside_its_users(void **state)
{
    (void)state;
    run_stress(150, 100, 6000);
}

/* ---- images ------------------------------------------------------------------------------ */

static void flip_byte(FILE *file, uint64_t offset)
{
    int byte;

    CHECK(fseek(file, (long)offset, SEEK_SET) == 0);
    byte = fgetc(file);
    CHECK(byte != EOF && fseek(file, (long)offset, SEEK_SET) == 0);
    CHECK(fputc(byte ^ 8, file) != EOF);
}

/* A new image, and the store closed after it. Then its nodes are damaged. */
static void leave_damaged_image(struct stress *stress, struct harness_random *random)
{
    uint8_t bytes[IMAGE_HEADER_SIZE];
    char path[HARNESS_PATH_SIZE];
    struct image_header header;
    FILE *file;

    km__mutex_lock(&stress->store->keeper.lock);
    CHECK_STATUS(km__image_write(stress->store), KM_OK);
    km__mutex_unlock(&stress->store->keeper.lock);
    harness_close(stress->store);
    harness_path(path, stress->path, IMAGE_NAME);
    file = fopen(path, "r+b");
    CHECK(file && fread(bytes, 1, sizeof(bytes), file) == sizeof(bytes));
    CHECK_STATUS(km__image_header_decode(bytes, &header), KM_OK);
    for (int i = 0; i < 2; i++)
        flip_byte(file, IMAGE_HEADER_SIZE +
                            harness_below(random, header.table_offset - 2 * IMAGE_HEADER_SIZE));
    fclose(file);
}

static void a_damaged_image_is_made_good_beside_its_users(void **state)
{
    struct stress *stress = new_stress(150, 0);
    struct harness_random random = harness_stream(77);
    uint64_t rounds = harness_scaled(40);
    km_stats stats = {.struct_size = sizeof(stats)};
    uint64_t damages = 0;

    (void)state;
    stress->changes = 60;
    for (uint64_t round = 0; round < rounds; round++) {
        leave_damaged_image(stress, &random);
        open_stress(stress);
        run_workers(stress, 1000 + round, 0, NULL);
        check_all(stress);
        CHECK_STATUS(km_store_stats(stress->store, &stats), KM_OK);
        damages += stats.damage_count;
    }
    printf("%llu images of %llu were found damaged\n", (unsigned long long)damages,
           (unsigned long long)rounds);
    CHECK(damages > 0);
    CHECK_STATUS(km_compact(stress->store, NULL, NULL, NULL), KM_OK);
    check_all(stress);
    end_stress(stress);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_log_turns_over_beside_its_users),
        cmocka_unit_test(a_log_of_large_records_turns_over_beside_its_users),
        cmocka_unit_test(a_damaged_image_is_made_good_beside_its_users),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
