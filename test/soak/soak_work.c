/* SPDX-License-Identifier: Apache-2.0
 *
 * soak_work.c -- the threads of a worker: everything a store can do, at once. See soak.h.
 *
 * W1. Writers pause now and then: an hour at full speed would measure the disk's life.
 * W2. A thread that meets anything wrong ends the process, which the parent takes for a failure:
 *     a worker dies of SIGKILL or ends in peace.
 */
#include "soak/soak.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TURNS_AT_ONCE 32u
#define MS UINT64_C(1000000)

static void rest(uint64_t ns)
{
    struct timespec time = {(time_t)(ns / (1000 * MS)), (long)(ns % (1000 * MS))};

    nanosleep(&time, NULL);
}

static int is_over(struct soak *soak)
{
    return atomic_load(&soak->shared->should_stop) != 0;
}

/* Rest in pieces, so that the end is noticed; 0 once it has come. */
static int rest_between(struct soak *soak, uint64_t ms)
{
    for (; ms > 0 && !is_over(soak); ms -= ms < 50 ? ms : 50)
        rest((ms < 50 ? ms : 50) * MS);
    return !is_over(soak);
}

/* ---- writers ----------------------------------------------------------------------------- */

struct writer {
    struct soak *soak;
    uint32_t number;
    uint8_t *value;
    km_batch *batch;
};

static km_bytes make_value(struct writer *writer, const struct soak_change *change, uint32_t turn)
{
    harness_value_fill(writer->value, change->value_size,
                       soak_key_number(writer->number, change->key), turn);
    return km_bytes_of(writer->value, change->value_size);
}

static void do_single(struct writer *writer, const struct soak_change *change, uint32_t turn)
{
    km_map *map = writer->soak->maps[change->key % 2];
    uint64_t number = soak_key_number(writer->number, change->key);
    km_status rc;

    if (change->is_delete) {
        rc = km_del_u64(map, number, NULL);
        CHECK(rc == KM_OK || rc == KM_NOT_FOUND);
    } else {
        CHECK_STATUS(km_put_u64(map, number, make_value(writer, change, turn), NULL), KM_OK);
    }
}

static void do_batch(struct writer *writer, const struct soak_turn *what, uint32_t turn)
{
    for (size_t i = 0; i < what->count; i++) {
        const struct soak_change *change = &what->changes[i];
        km_u64_key key = km_u64_key_from(soak_key_number(writer->number, change->key));
        km_map *map = writer->soak->maps[change->key % 2];
        km_bytes key_bytes = km_bytes_of(key.bytes, sizeof(key.bytes));

        if (change->is_delete)
            CHECK_STATUS(km_batch_del(writer->batch, map, key_bytes), KM_OK);
        else
            CHECK_STATUS(
                km_batch_put(writer->batch, map, key_bytes, make_value(writer, change, turn)),
                KM_OK);
    }
    CHECK_STATUS(km_batch_commit(writer->batch, NULL), KM_OK);
}

static void *run_writer(void *context)
{
    struct writer *writer = context;
    struct soak *soak = writer->soak;
    struct soak_shared *shared = soak->shared;
    uint32_t turn = atomic_load(&shared->acknowledged[writer->number]);
    struct soak_turn what;

    writer->value = malloc(SOAK_VALUE_MAX);
    CHECK(writer->value);
    CHECK_STATUS(km_batch_create(soak->store, &writer->batch), KM_OK);
    while (!is_over(soak) && ++turn < SOAK_DELETED) {
        soak_plan_turn(soak, writer->number, turn, &what);
        atomic_store(&shared->begun[writer->number], turn); /* S2 */
        if (what.count > 1)
            do_batch(writer, &what, turn);
        else
            do_single(writer, &what.changes[0], turn);
        atomic_store(&shared->returned[writer->number], turn);
        soak_note_turn(soak, writer->number, turn, &what);
        soak_count(soak, SOAK_TURNS);
        if (turn % TURNS_AT_ONCE == 0)
            rest(3 * MS);
    }
    km_batch_destroy(writer->batch);
    free(writer->value);
    return NULL;
}

/* ---- readers and walks ------------------------------------------------------------------- */

static void *run_reader(void *context)
{
    struct soak *soak = context;
    struct harness_random random = harness_stream(harness_now_ns());
    km_buffer buffer = KM_BUFFER_INIT;

    while (!is_over(soak)) {
        uint32_t writer = (uint32_t)harness_below(&random, SOAK_WRITERS);
        uint32_t key = (uint32_t)harness_below(&random, SOAK_KEYS);
        uint32_t before = atomic_load(&soak->shared->model[writer][key]);

        soak_check_key(soak, writer, key, before, soak_find(soak->maps, writer, key, &buffer));
        soak_count(soak, SOAK_GETS);
        if (harness_below(&random, 256) == 0)
            rest(2 * MS);
    }
    km_buffer_free(&buffer);
    return NULL;
}

struct walk {
    struct soak *soak;
    uint32_t before[SOAK_WRITERS][SOAK_KEYS];
    uint32_t found[SOAK_WRITERS][SOAK_KEYS];
};

static void walk_map(struct walk *walk, km_map *map)
{
    km_cursor *cursor = NULL;
    km_bytes key, value;
    km_status rc;

    CHECK_STATUS(km_cursor_open(map, NULL, &cursor), KM_OK);
    while (!(rc = km_cursor_next(cursor, &key, &value))) {
        uint64_t number = km_u64_key_to(key.data);
        uint32_t writer = (uint32_t)(number >> 32) - 1;
        uint32_t turn = (uint32_t)harness_value_version(value, number);

        CHECK(key.size == 8 && writer < SOAK_WRITERS && (uint32_t)number < SOAK_KEYS);
        CHECK_MSG(walk->found[writer][(uint32_t)number] != turn, "key %llx came twice",
                  (unsigned long long)number);
        walk->found[writer][(uint32_t)number] = turn;
    }
    CHECK_STATUS(rc, KM_END);
    km_cursor_close(cursor);
}

/* A key overwritten or deleted during the walk may be missing: then the model has changed. */
static void *run_walker(void *context)
{
    struct soak *soak = context;
    struct walk *walk = malloc(sizeof(*walk));

    CHECK(walk);
    walk->soak = soak;
    while (rest_between(soak, 500)) {
        memset(walk->found, 0, sizeof(walk->found));
        for (uint32_t writer = 0; writer < SOAK_WRITERS; writer++) {
            for (uint32_t key = 0; key < SOAK_KEYS; key++)
                walk->before[writer][key] = atomic_load(&soak->shared->model[writer][key]);
        }
        walk_map(walk, soak->maps[0]);
        walk_map(walk, soak->maps[1]);
        for (uint32_t writer = 0; writer < SOAK_WRITERS; writer++) {
            for (uint32_t key = 0; key < SOAK_KEYS; key++)
                soak_check_key(soak, writer, key, walk->before[writer][key],
                               walk->found[writer][key]);
        }
        soak_count(soak, SOAK_WALKS);
    }
    free(walk);
    return NULL;
}

/* ---- watches ----------------------------------------------------------------------------- */

struct watcher {
    struct soak *soak;
    struct soak_watch *saved;
    uint32_t number;
    struct soak_watch_state state;
};

/* The next turn of a writer that a watch sees: what lies between only deletes. */
static void see_turn(struct watcher *watcher, uint32_t writer, uint32_t turn)
{
    uint32_t *last = &watcher->state.turns[writer];
    struct soak_turn what;

    CHECK_MSG(turn >= *last, "watch: turn %u of writer %u after %u", turn, writer, *last);
    for (uint32_t missed = *last + 1; *last && missed < turn; missed++) {
        soak_plan_turn(watcher->soak, writer, missed, &what);
        CHECK_MSG(soak_turn_is_silent(&what), "watch: turn %u of writer %u is missing", missed,
                  writer);
    }
    *last = turn;
}

static void see_change(struct watcher *watcher, const km_change *change)
{
    uint64_t number;

    soak_count(watcher->soak, SOAK_CHANGES_SEEN);
    if (change->kind != KM_CHANGE_PUT || change->map.size == 9) /* of a map called temporary */
        return;
    CHECK(change->key.size == 8);
    number = km_u64_key_to(change->key.data);
    CHECK(number >> 32 >= 1 && number >> 32 <= SOAK_WRITERS);
    see_turn(watcher, (uint32_t)(number >> 32) - 1,
             (uint32_t)harness_value_version(change->value, number));
}

/* A kill finds one of the two states whole. */
static void save_state(struct watcher *watcher)
{
    uint32_t other = !atomic_load(&watcher->saved->newest);

    watcher->saved->states[other] = watcher->state;
    atomic_store(&watcher->saved->newest, other);
}

static km_watch *open_watch(struct watcher *watcher)
{
    km_watch_options options = KM_WATCH_OPTIONS_INIT;
    km_watch *watch = NULL;
    km_status rc;

    if (watcher->state.is_set)
        options.after = watcher->state.position;
    rc = km_watch_open(watcher->soak->store, &options, &watch);
    if (rc == KM_E_TOO_OLD) {
        soak_count(watcher->soak, SOAK_WATCHES_TOO_OLD);
        memset(&watcher->state, 0, sizeof(watcher->state));
        options.after = KM_POSITION_NOW;
        rc = km_watch_open(watcher->soak->store, &options, &watch);
    }
    CHECK_STATUS(rc, KM_OK);
    return watch;
}

/* Read changes until there are none for a moment; KM_E_TOO_OLD: compaction has passed. */
static km_status read_watch(struct watcher *watcher, km_watch *watch)
{
    km_change change;
    km_status rc = KM_OK;

    for (uint32_t i = 0; i < 20000 && !is_over(watcher->soak); i++) {
        rc = km_watch_next(watch, 100, &change);
        if (rc)
            break;
        see_change(watcher, &change);
        if (change.more_follows)
            continue;
        watcher->state.position = km_watch_position(watch);
        watcher->state.is_set = 1;
        save_state(watcher);
    }
    return rc;
}

/* The second one is slow, and goes on from a position each time. */
static void *run_watcher(void *context)
{
    struct watcher *watcher = context;
    km_watch *watch;
    km_status rc;

    watcher->saved = &watcher->soak->shared->watches[watcher->number];
    watcher->state = watcher->saved->states[atomic_load(&watcher->saved->newest)];
    while (!is_over(watcher->soak)) {
        watch = open_watch(watcher);
        do {
            rc = read_watch(watcher, watch);
        } while ((!rc || rc == KM_TIMED_OUT) && !watcher->number && !is_over(watcher->soak));
        km_watch_close(watch);
        CHECK(rc == KM_OK || rc == KM_TIMED_OUT || rc == KM_E_TOO_OLD);
        if (watcher->number)
            rest_between(watcher->soak, 700);
    }
    return NULL;
}

/* ---- maps that come and go --------------------------------------------------------------- */

static void drop_leftover(km_store *store)
{
    km_map *map = NULL;
    km_status rc = km_map_open(store, km_bytes_of_string("temporary"), &map);

    CHECK(rc == KM_OK || rc == KM_NOT_FOUND);
    if (!rc)
        CHECK_STATUS(km_map_drop(map), KM_OK);
}

static void fill_map(km_map *map, uint64_t count)
{
    uint8_t value[HARNESS_VALUE_MIN];

    for (uint64_t i = 0; i < count; i++) {
        harness_value_fill(value, sizeof(value), i, count);
        CHECK_STATUS(km_put_u64(map, i, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
    }
    CHECK(km_count(map) == count);
}

static void *run_mapper(void *context)
{
    struct soak *soak = context;
    struct harness_random random = harness_stream(harness_now_ns());
    km_map *map = NULL;

    drop_leftover(soak->store);
    while (rest_between(soak, 250)) {
        CHECK_STATUS(km_map_create(soak->store, km_bytes_of_string("temporary"), KM_HASH, &map),
                     KM_OK);
        fill_map(map, harness_below(&random, 2000));
        if (harness_below(&random, 2)) {
            CHECK_STATUS(km_map_clear(map), KM_OK);
            CHECK(km_count(map) == 0);
            fill_map(map, harness_below(&random, 200));
        }
        CHECK_STATUS(km_map_drop(map), KM_OK);
        soak_count(soak, SOAK_MAPS);
    }
    return NULL;
}

/* ---- upkeep ------------------------------------------------------------------------------ */

/* What a backup holds lies between what was acknowledged before and what was begun after. */
static void check_backup(struct soak *soak, const char *path, uint32_t (*before)[SOAK_KEYS])
{
    km_options options = KM_OPTIONS_INIT;
    km_buffer buffer = KM_BUFFER_INIT;
    km_store *store;
    km_map *maps[2];

    CHECK_STATUS(km_verify(path, NULL, NULL, NULL, NULL), KM_OK);
    options.mode = KM_OPEN_READ_ONLY;
    store = harness_open(path, &options);
    CHECK_STATUS(km_map_open(store, km_bytes_of_string("even"), &maps[0]), KM_OK);
    CHECK_STATUS(km_map_open(store, km_bytes_of_string("odd"), &maps[1]), KM_OK);
    for (uint32_t writer = 0; writer < SOAK_WRITERS; writer++) {
        for (uint32_t key = 0; key < SOAK_KEYS; key += 7)
            soak_check_key(soak, writer, key, before[writer][key],
                           soak_find(maps, writer, key, &buffer));
    }
    km_buffer_free(&buffer);
    CHECK_STATUS(km_close(store, NULL), KM_OK);
}

static void back_up(struct soak *soak, uint64_t round, uint32_t (*before)[SOAK_KEYS])
{
    km_backup_options options = {.struct_size = sizeof(options), .copy = round % 3 == 0};
    const char *path = soak->backup_paths[round % 2];
    const char *previous = soak->backup_paths[(round + 1) % 2];
    km_error error;
    km_status rc;

    for (uint32_t writer = 0; writer < SOAK_WRITERS; writer++) {
        for (uint32_t key = 0; key < SOAK_KEYS; key++)
            before[writer][key] = atomic_load(&soak->shared->model[writer][key]);
    }
    if (access(previous, F_OK) == 0)
        options.previous = previous;
    harness_remove(path);
    rc = km_backup(soak->store, path, &options, NULL, &error);
    CHECK_MSG(rc == KM_OK, "backup: %s: %s", km_status_name(rc), error.message);
    check_backup(soak, path, before);
    soak_count(soak, SOAK_BACKUPS);
}

static void *run_backups(void *context)
{
    struct soak *soak = context;
    uint32_t(*before)[SOAK_KEYS] = malloc(SOAK_WRITERS * sizeof(*before));

    CHECK(before);
    for (uint64_t round = 0; rest_between(soak, round ? 6000 : 1000); round++)
        back_up(soak, round, before);
    free(before);
    return NULL;
}

static int stop_progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    (void)done_bytes;
    (void)total_bytes;
    return is_over(context);
}

static void *run_upkeep(void *context)
{
    struct soak *soak = context;
    km_status rc;

    for (uint64_t ms = 500; rest_between(soak, ms); ms = 4000) {
        rc = km_compact(soak->store, stop_progress, soak, NULL);
        CHECK(rc == KM_OK || rc == KM_STOPPED);
        soak_count(soak, SOAK_COMPACTIONS);
        if (!rest_between(soak, ms))
            break;
        CHECK_STATUS(km_scrub(soak->store, 0, NULL, NULL, NULL), KM_OK);
        soak_count(soak, SOAK_SCRUBS);
    }
    return NULL;
}

static uint64_t anonymous_bytes(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    unsigned long long kib = 0;
    char line[256];

    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "RssAnon: %llu", &kib) == 1)
            break;
    }
    if (file)
        fclose(file);
    return kib * 1024;
}

static void *run_sampler(void *context)
{
    struct soak *soak = context;
    struct soak_shared *shared = soak->shared;
    km_stats stats = {.struct_size = sizeof(stats)};

    while (rest_between(soak, 200)) {
        uint32_t i = atomic_load(&shared->sample_count);

        CHECK_STATUS(km_store_stats(soak->store, &stats), KM_OK);
        CHECK_MSG(!stats.failed && !stats.damage_count, "the store failed or found damage");
        atomic_store(&shared->log_bytes, stats.log_bytes);
        atomic_store(&shared->live_bytes, stats.live_bytes);
        atomic_store(&shared->disk_bytes, stats.disk_bytes);
        atomic_store(&shared->anonymous_bytes, anonymous_bytes());
        if (i == SOAK_SAMPLES_MAX)
            continue;
        shared->sample_ns[i] = harness_now_ns() - soak->start_ns;
        shared->sample_bytes[i] = atomic_load(&shared->anonymous_bytes);
        atomic_store(&shared->sample_count, i + 1);
    }
    return NULL;
}

/* ---- a worker ---------------------------------------------------------------------------- */

void soak_work(struct soak *soak)
{
    static void *(*const bodies[])(void *) = {run_reader,  run_reader, run_walker, run_mapper,
                                              run_backups, run_upkeep, run_sampler};
    enum { BODIES = sizeof(bodies) / sizeof(bodies[0]) };
    pthread_t threads[BODIES], writer_threads[SOAK_WRITERS], watch_threads[SOAK_WATCHES];
    struct writer writers[SOAK_WRITERS];
    struct watcher watchers[SOAK_WATCHES];

    soak->store = harness_open(soak->path, NULL);
    soak_open_maps(soak->store, soak->maps);
    soak_check_all(soak);
    atomic_store(&soak->shared->is_open, 1);
    for (uint32_t i = 0; i < SOAK_WRITERS; i++) {
        writers[i] = (struct writer){.soak = soak, .number = i};
        CHECK(!pthread_create(&writer_threads[i], NULL, run_writer, &writers[i]));
    }
    for (uint32_t i = 0; i < SOAK_WATCHES; i++) {
        watchers[i] = (struct watcher){.soak = soak, .number = i};
        CHECK(!pthread_create(&watch_threads[i], NULL, run_watcher, &watchers[i]));
    }
    for (size_t i = 0; i < BODIES; i++)
        CHECK(!pthread_create(&threads[i], NULL, bodies[i], soak));
    for (size_t i = 0; i < BODIES; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < SOAK_WRITERS; i++)
        pthread_join(writer_threads[i], NULL);
    for (uint32_t i = 0; i < SOAK_WATCHES; i++)
        pthread_join(watch_threads[i], NULL);
    soak_check_all(soak);
    harness_close(soak->store);
}

/* ---- a follower -------------------------------------------------------------------------- */

/* A follower sees what is written within some milliseconds. */
static km_map *await_map(km_store *store, const char *name)
{
    km_map *map = NULL;
    km_status rc = KM_NOT_FOUND;

    for (uint32_t i = 0; i < 500 && rc == KM_NOT_FOUND; i++) {
        rc = km_map_open(store, km_bytes_of_string(name), &map);
        if (rc)
            rest(10 * MS);
    }
    CHECK_STATUS(rc, KM_OK);
    return map;
}

/* Nothing torn, nothing that was not begun, nothing older than seen before. */
void soak_follow(struct soak *soak)
{
    struct harness_random random = harness_stream(harness_now_ns());
    uint32_t(*seen)[SOAK_KEYS] = calloc(SOAK_WRITERS, sizeof(*seen));
    km_options options = KM_OPTIONS_INIT;
    km_buffer buffer = KM_BUFFER_INIT;
    km_store *store = NULL;
    km_map *maps[2];
    km_error error;
    km_status rc;

    CHECK(seen);
    options.mode = KM_OPEN_READ_ONLY;
    rc = km_open(soak->path, &options, &store, &error);
    CHECK_MSG(rc == KM_OK, "follower: %s: %s", km_status_name(rc), error.message);
    maps[0] = await_map(store, "even");
    maps[1] = await_map(store, "odd");
    for (uint32_t i = 0; i < 200000; i++) {
        uint32_t writer = (uint32_t)harness_below(&random, SOAK_WRITERS);
        uint32_t key = (uint32_t)harness_below(&random, SOAK_KEYS / 10);
        uint32_t found = soak_find(maps, writer, key, &buffer);

        CHECK(found <= atomic_load(&soak->shared->begun[writer]));
        CHECK_MSG(!found || found >= seen[writer][key], "follower: key %u went back", key);
        seen[writer][key] = found ? found : seen[writer][key];
        if (i % 1000 == 0)
            rest(10 * MS);
    }
    soak_count(soak, SOAK_FOLLOWERS);
    km_buffer_free(&buffer);
    free(seen);
    CHECK_STATUS(km_close(store, NULL), KM_OK);
}
