/* SPDX-License-Identifier: Apache-2.0
 *
 * test_watch_threads.c -- the change feed beside writers and compaction.
 *
 * W1. A watch gives every change exactly once, each with the position that its writer was told.
 * W2. Positions grow; the changes of a key come in the order in which they were made.
 * W3. The changes of a batch come side by side.
 * W4. What the changes come to is what the store holds at the end.
 * W5. All this also for a watch that is closed now and then and goes on after its position, and
 *     while compaction moves records.
 *
 * A watch holds nothing back, so the writers do: they stay at most AHEAD_MAX changes before the
 * slowest watch, less than the smallest log holds.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/harness_util.h"

#define WRITER_COUNT 3u
#define WATCHER_COUNT 3u
#define KEY_COUNT 150u /* of each writer, in each of two maps */
#define BATCH_COUNT 6u
#define VALUE_MAX 600u
#define AHEAD_MAX 2000u

enum watcher_kind { WATCHER_WAITS, WATCHER_POLLS, WATCHER_REOPENS };

/* The changes of a key are numbered from 1; odd ones are puts, even ones deletes, as it happens. */
struct key_state {
    uint64_t version; /* of the value; 0: the key is not there */
    km_position position;
};

struct stress {
    km_store *store;
    km_map *maps[2];
    uint64_t changes_max; /* of each writer */
    _Atomic uint64_t made[WRITER_COUNT];
    _Atomic uint64_t seen[WATCHER_COUNT];
    _Atomic int writers_left;
    uint64_t compactions;
};

struct writer {
    struct stress *stress;
    uint32_t number;
    struct harness_random random;
    km_batch *batch;
    struct key_state keys[2][KEY_COUNT];
    uint64_t next_version;
    km_position *positions; /* of its changes, by version; 0: within a batch */
    pthread_t thread;
};

struct watcher {
    struct stress *stress;
    enum watcher_kind kind;
    uint32_t number;
    km_watch *watch;
    struct key_state keys[WRITER_COUNT][2][KEY_COUNT];
    uint64_t next_version[WRITER_COUNT];
    km_position *positions[WRITER_COUNT];
    uint64_t count;
    int in_batch_of; /* the writer whose batch goes on, + 1 */
    km_position last;
    pthread_t thread;
};

/* ---- writers ----------------------------------------------------------------------------- */

static uint64_t key_number(uint32_t writer, uint64_t key)
{
    return writer * KEY_COUNT + key;
}

/* A value tells its version; a delete takes the next version too, without telling. */
static km_bytes value_of(struct writer *writer, uint64_t key, uint64_t version, uint8_t *bytes)
{
    size_t size = HARNESS_VALUE_MIN + harness_below(&writer->random, VALUE_MAX - HARNESS_VALUE_MIN);

    harness_value_fill(bytes, size, key_number(writer->number, key), version);
    return km_bytes_of(bytes, size);
}

static void change_one(struct writer *writer)
{
    uint32_t map = (uint32_t)harness_below(&writer->random, 2);
    uint64_t key = harness_below(&writer->random, KEY_COUNT);
    struct key_state *state = &writer->keys[map][key];
    uint64_t version = writer->next_version++;
    km_write write = KM_WRITE_INIT;
    uint8_t bytes[VALUE_MAX];
    km_map *handle = writer->stress->maps[map];

    if (state->version && harness_below(&writer->random, 4) == 0) {
        CHECK_STATUS(km_del_u64(handle, key_number(writer->number, key), &write), KM_OK);
        state->version = 0;
    } else {
        CHECK_STATUS(km_put_u64(handle, key_number(writer->number, key),
                                value_of(writer, key, version, bytes), &write),
                     KM_OK);
        state->version = version;
    }
    state->position = write.position;
    writer->positions[version] = write.position;
}

static void change_batch(struct writer *writer)
{
    uint64_t first = harness_below(&writer->random, KEY_COUNT - BATCH_COUNT);
    km_write write = KM_WRITE_INIT;
    uint8_t bytes[VALUE_MAX];

    for (uint64_t i = 0; i < BATCH_COUNT; i++) {
        km_u64_key key = km_u64_key_from(key_number(writer->number, first + i));
        uint64_t version = writer->next_version++;

        CHECK_STATUS(km_batch_put(writer->batch, writer->stress->maps[i % 2],
                                  km_bytes_of(key.bytes, 8),
                                  value_of(writer, first + i, version, bytes)),
                     KM_OK);
        writer->keys[i % 2][first + i].version = version;
    }
    CHECK_STATUS(km_batch_commit(writer->batch, &write), KM_OK);
    writer->positions[writer->next_version - 1] = write.position;
}

static uint64_t slowest(struct stress *stress)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t i = 0; i < WATCHER_COUNT; i++) {
        uint64_t seen = atomic_load(&stress->seen[i]);
        least = seen < least ? seen : least;
    }
    return least;
}

static uint64_t all_made(struct stress *stress)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < WRITER_COUNT; i++)
        sum += atomic_load(&stress->made[i]);
    return sum;
}

static void *run_writer(void *context)
{
    struct writer *writer = context;
    struct stress *stress = writer->stress;

    while (writer->next_version + BATCH_COUNT <= stress->changes_max) {
        if (harness_below(&writer->random, 20) == 0)
            change_batch(writer);
        else
            change_one(writer);
        atomic_store(&stress->made[writer->number], writer->next_version - 1);
        while (all_made(stress) > slowest(stress) + AHEAD_MAX)
            usleep(200);
    }
    atomic_fetch_sub(&stress->writers_left, 1);
    return NULL;
}

/* Half of the log, so that no watch is passed: what was changed since the last call is longer than
 * what a watch may be behind by, more than twice. */
static int stop_half_way(void *context, uint64_t done, uint64_t total)
{
    (void)context;
    return done * 2 > total;
}

static void *run_compactions(void *context)
{
    struct stress *stress = context;
    uint64_t made = 0;

    while (atomic_load(&stress->writers_left) > 0) {
        km_status rc;

        usleep(500);
        if (all_made(stress) < made + 4 * AHEAD_MAX)
            continue;
        made = all_made(stress);
        rc = km_compact(stress->store, stop_half_way, NULL, NULL);
        CHECK(rc == KM_OK || rc == KM_STOPPED);
        stress->compactions++;
    }
    return NULL;
}

/* ---- watchers ---------------------------------------------------------------------------- */

static void check_batch(struct watcher *watcher, const km_change *change, uint32_t writer)
{
    CHECK(!watcher->in_batch_of || watcher->in_batch_of == (int)writer + 1); /* W3 */
    watcher->in_batch_of = change->more_follows ? (int)writer + 1 : 0;
}

static void take_change(struct watcher *watcher, const km_change *change)
{
    uint64_t number = km_u64_key_to(change->key.data), version;
    uint32_t writer = (uint32_t)(number / KEY_COUNT);
    uint32_t map = change->map.size == 4 && memcmp(change->map.data, "left", 4) == 0 ? 0 : 1;
    struct key_state *state;

    CHECK(change->kind == KM_CHANGE_PUT || change->kind == KM_CHANGE_DELETE);
    CHECK(change->key.size == 8 && writer < WRITER_COUNT);
    CHECK(change->position > watcher->last); /* W2 */
    watcher->last = change->position;
    check_batch(watcher, change, writer);
    state = &watcher->keys[writer][map][number % KEY_COUNT];
    version = watcher->next_version[writer]++; /* W1: one after the other, none left out */
    watcher->positions[writer][version] = change->position;
    if (change->kind == KM_CHANGE_PUT) {
        CHECK(harness_value_version(change->value, number) == version);
        state->version = version;
    } else {
        CHECK(state->version != 0);
        state->version = 0;
    }
    state->position = change->position;
    watcher->count++;
    atomic_store(&watcher->stress->seen[watcher->number], watcher->count);
}

static void open_watch(struct watcher *watcher, km_position after)
{
    km_watch_options options = KM_WATCH_OPTIONS_INIT;

    options.after = after;
    CHECK_STATUS(km_watch_open(watcher->stress->store, &options, &watcher->watch), KM_OK);
}

static km_status poll_change(struct watcher *watcher, km_change *change)
{
    struct pollfd poll_fd = {.events = POLLIN};
    uint64_t count;
    km_status rc = km_watch_next(watcher->watch, 0, change);

    if (rc != KM_TIMED_OUT)
        return rc;
    CHECK_STATUS(km_watch_fd(watcher->watch, &poll_fd.fd), KM_OK);
    if (poll(&poll_fd, 1, 100) == 1)
        CHECK(read(poll_fd.fd, &count, sizeof(count)) == sizeof(count));
    return km_watch_next(watcher->watch, 0, change);
}

static km_status reopen_change(struct watcher *watcher, km_change *change)
{
    if (watcher->count % 37 == 36) {
        /* a change's own position serves as well */
        km_position after = watcher->count % 2 && watcher->last ? watcher->last
                                                                : km_watch_position(watcher->watch);

        km_watch_close(watcher->watch);
        open_watch(watcher, after);
    }
    return km_watch_next(watcher->watch, 100, change);
}

static void *run_watcher(void *context)
{
    struct watcher *watcher = context;
    struct stress *stress = watcher->stress;

    for (;;) {
        int was_last = atomic_load(&stress->writers_left) == 0;
        km_change change;
        km_status rc = watcher->kind == WATCHER_WAITS ? km_watch_next(watcher->watch, 100, &change)
                       : watcher->kind == WATCHER_POLLS ? poll_change(watcher, &change)
                                                        : reopen_change(watcher, &change);

        CHECK_MSG(rc == KM_OK || rc == KM_TIMED_OUT, "watcher %u: %s after %llu changes",
                  watcher->number, km_status_name(rc), (unsigned long long)watcher->count);
        if (rc == KM_OK)
            take_change(watcher, &change);
        else if (was_last)
            return NULL;
    }
}

/* ---- a run ------------------------------------------------------------------------------- */

static void check_positions(const struct watcher *watcher, const struct writer *writer)
{
    const km_position *seen = watcher->positions[writer->number];

    CHECK(watcher->next_version[writer->number] == writer->next_version);
    for (uint64_t v = 1; v < writer->next_version; v++)
        CHECK(!writer->positions[v] || writer->positions[v] == seen[v]);
}

static void check_key(const struct stress *stress, uint32_t map, uint64_t number, uint64_t version)
{
    km_buffer buffer = KM_BUFFER_INIT;

    CHECK_STATUS(km_get_u64(stress->maps[map], number, &buffer), version ? KM_OK : KM_NOT_FOUND);
    if (version)
        CHECK(harness_value_version(km_bytes_of(buffer.data, buffer.size), number) == version);
    km_buffer_free(&buffer);
}

/* W4 */
static void check_contents(const struct watcher *watcher, const struct writer *writer)
{
    for (uint32_t map = 0; map < 2; map++) {
        for (uint64_t key = 0; key < KEY_COUNT; key++) {
            uint64_t version = watcher->keys[writer->number][map][key].version;

            CHECK(version == writer->keys[map][key].version);
            check_key(watcher->stress, map, key_number(writer->number, key), version);
        }
    }
}

static void start_watchers(struct stress *stress, struct watcher *watchers)
{
    for (uint32_t i = 0; i < WATCHER_COUNT; i++) {
        watchers[i].stress = stress;
        watchers[i].number = i;
        watchers[i].kind = (enum watcher_kind)i;
        for (uint32_t w = 0; w < WRITER_COUNT; w++) {
            watchers[i].next_version[w] = 1;
            watchers[i].positions[w] = calloc(stress->changes_max + BATCH_COUNT,
                                              sizeof(km_position));
        }
        open_watch(&watchers[i], KM_POSITION_NOW);
        CHECK(pthread_create(&watchers[i].thread, NULL, run_watcher, &watchers[i]) == 0);
    }
}

static void start_writers(struct stress *stress, struct writer *writers)
{
    for (uint32_t i = 0; i < WRITER_COUNT; i++) {
        writers[i].stress = stress;
        writers[i].number = i;
        writers[i].random = harness_stream(i);
        writers[i].next_version = 1;
        writers[i].positions = calloc(stress->changes_max + BATCH_COUNT, sizeof(km_position));
        CHECK_STATUS(km_batch_create(stress->store, &writers[i].batch), KM_OK);
        CHECK(pthread_create(&writers[i].thread, NULL, run_writer, &writers[i]) == 0);
    }
}

static void finish(struct stress *stress, struct writer *writers, struct watcher *watchers)
{
    (void)stress;
    for (uint32_t i = 0; i < WRITER_COUNT; i++) {
        CHECK(pthread_join(writers[i].thread, NULL) == 0);
        km_batch_destroy(writers[i].batch);
    }
    for (uint32_t i = 0; i < WATCHER_COUNT; i++) {
        CHECK(pthread_join(watchers[i].thread, NULL) == 0);
        km_watch_close(watchers[i].watch);
        for (uint32_t w = 0; w < WRITER_COUNT; w++) {
            check_positions(&watchers[i], &writers[w]);
            check_contents(&watchers[i], &writers[w]);
            free(watchers[i].positions[w]);
        }
    }
    for (uint32_t i = 0; i < WRITER_COUNT; i++)
        free(writers[i].positions);
}

static void run(km_store *store, int compacts)
{
    struct stress stress = {.store = store, .changes_max = harness_scaled(30000)};
    struct writer *writers = calloc(WRITER_COUNT, sizeof(*writers));
    struct watcher *watchers = calloc(WATCHER_COUNT, sizeof(*watchers));
    km_stats stats = {.struct_size = sizeof(stats)};
    pthread_t compactor;

    CHECK(writers && watchers);
    atomic_store(&stress.writers_left, (int)WRITER_COUNT);
    stress.maps[0] = harness_map(store, "left");
    stress.maps[1] = harness_map(store, "right");
    start_watchers(&stress, watchers);
    start_writers(&stress, writers);
    if (compacts) {
        CHECK(pthread_create(&compactor, NULL, run_compactions, &stress) == 0);
        CHECK(pthread_join(compactor, NULL) == 0);
    }
    finish(&stress, writers, watchers);
    CHECK_STATUS(km_store_stats(store, &stats), KM_OK);
    printf("%llu changes, %llu compactions, head at segment %llu\n",
           (unsigned long long)watchers[0].count, (unsigned long long)stress.compactions,
           (unsigned long long)(stats.head >> 32));
    free(writers);
    free(watchers);
}

/* ---- cases ------------------------------------------------------------------------------- */

static void every_change_once_and_in_order(void **state)
{
    km_store *store = NULL;

    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &store, NULL), KM_OK);
    run(store, 0);
    harness_close(store);
}

static void the_same_while_the_log_is_turned_over(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    char path[HARNESS_PATH_SIZE];
    km_store *store;

    (void)state;
    harness_make_folder(path);
    options.log_size_min = 4 << 20; /* over 2000 changes of at most 640 bytes, and batches */
    store = harness_open(path, &options);
    run(store, 0);
    harness_close(store);
    harness_remove(path);
}

static void the_same_beside_calls_for_compaction(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    char path[HARNESS_PATH_SIZE];
    km_store *store;

    (void)state;
    harness_make_folder(path);
    options.log_size_min = 64 << 20; /* what is moved, the case moves */
    store = harness_open(path, &options);
    run(store, 1);
    harness_close(store);
    harness_remove(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_change_once_and_in_order),
        cmocka_unit_test(the_same_while_the_log_is_turned_over),
        cmocka_unit_test(the_same_beside_calls_for_compaction),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
