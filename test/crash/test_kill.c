/* SPDX-License-Identifier: Apache-2.0
 *
 * test_kill.c -- kill -9 at random moments, also while a store is opened and recovered.
 *
 * A child opens the store and writes numbered changes from eight threads; before each change a
 * thread notes in shared memory that it begins, and after the call that it is acknowledged. After
 * the kill the parent opens the store and compares.
 *
 * K1. Every acknowledged change is there; of the others, at most the one each thread had under way.
 * K2. The keys of a batch, in two maps, are all of the same turn.
 * K3. Positions only grow, over all crashes.
 * K4. Kills during open and recovery change nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness/harness_util.h"

#define THREAD_COUNT 8u
#define ROUNDS_PER_STORE 10u
/* Turns of a thread in a round: checking is to take no longer than writing. */
#define TURNS_MAX 3000u
#define RING_KEYS 16u
#define BATCH_KEYS 6u
#define LARGE_EVERY 512u

/* What a thread does; its number tells which. */
enum role {
    ROLE_APPEND,    /* new keys, one after the other */
    ROLE_OVERWRITE, /* a few keys, again and again */
    ROLE_BATCH,     /* BATCH_KEYS keys of two maps per turn, the same keys each time */
    ROLE_TOGGLE     /* puts a key, deletes it in the next turn */
};

static const enum role roles[THREAD_COUNT] = {ROLE_APPEND,    ROLE_APPEND,    ROLE_APPEND,
                                              ROLE_OVERWRITE, ROLE_OVERWRITE, ROLE_BATCH,
                                              ROLE_BATCH,     ROLE_TOGGLE};

/* In shared memory: turns from 1 on, over all rounds of a store. */
struct progress {
    _Atomic uint64_t begun[THREAD_COUNT];
    _Atomic uint64_t acknowledged[THREAD_COUNT];
    _Atomic uint64_t position[THREAD_COUNT]; /* of the acknowledged change */
    _Atomic uint32_t opened;
};

static struct progress *progress;
static uint64_t check_count;

struct plan {
    char path[HARNESS_PATH_SIZE];
    km_options options;
    uint32_t value_size;
    uint64_t round;
    uint64_t position_seen;       /* K3 */
    uint64_t found[THREAD_COUNT]; /* turns that were there after the last crash */
};

struct writer {
    const struct plan *plan;
    km_store *store;
    km_map *map, *other;
    uint32_t number;
    pthread_t thread;
};

/* ---- what a turn writes ------------------------------------------------------------------ */

static uint64_t key_of(uint32_t thread, uint64_t i)
{
    return (uint64_t)(thread + 1) << 40 | i;
}

static uint32_t size_of(const struct plan *plan, uint32_t thread, uint64_t turn)
{
    if (turn % LARGE_EVERY == 0 && roles[thread] == ROLE_APPEND)
        return 200000; /* a segment of its own while the ring is small */
    return HARNESS_VALUE_MIN + (uint32_t)((turn * 2654435761u + thread) % plan->value_size);
}

static void put_turn(const struct writer *writer, uint64_t key, uint64_t turn, km_write *write)
{
    uint32_t size = size_of(writer->plan, writer->number, turn);
    uint8_t *value = malloc(size);

    CHECK(value);
    harness_value_fill(value, size, key, turn);
    CHECK_STATUS(km_put_u64(writer->map, key, km_bytes_of(value, size), write), KM_OK);
    free(value);
}

static void commit_turn(const struct writer *writer, uint64_t turn, km_write *write)
{
    uint8_t value[HARNESS_VALUE_MIN];
    km_batch *batch = NULL;

    CHECK_STATUS(km_batch_create(writer->store, &batch), KM_OK);
    for (uint64_t i = 0; i < BATCH_KEYS; i++) {
        km_u64_key key = km_u64_key_from(key_of(writer->number, i));
        km_map *map = i % 2 ? writer->other : writer->map;

        harness_value_fill(value, sizeof(value), key_of(writer->number, i), turn);
        CHECK_STATUS(
            km_batch_put(batch, map, km_bytes_of(key.bytes, 8), km_bytes_of(value, sizeof(value))),
            KM_OK);
    }
    CHECK_STATUS(km_batch_commit(batch, write), KM_OK);
    km_batch_destroy(batch);
}

static void take_turn(const struct writer *writer, uint64_t turn, km_write *write)
{
    uint32_t thread = writer->number;

    switch (roles[thread]) {
    case ROLE_APPEND: put_turn(writer, key_of(thread, turn), turn, write); break;
    case ROLE_OVERWRITE: put_turn(writer, key_of(thread, turn % RING_KEYS), turn, write); break;
    case ROLE_BATCH: commit_turn(writer, turn, write); break;
    case ROLE_TOGGLE:
        if (turn % 2)
            put_turn(writer, key_of(thread, turn / 2), turn, write);
        else
            CHECK_STATUS(km_del_u64(writer->map, key_of(thread, turn / 2 - 1), write), KM_OK);
        break;
    }
}

/* ---- the child --------------------------------------------------------------------------- */

static void *run_writer(void *context)
{
    struct writer *writer = context;
    uint32_t thread = writer->number;
    uint64_t first = writer->plan->found[thread] + 1;

    for (uint64_t turn = first; turn < first + TURNS_MAX; turn++) {
        km_write write = KM_WRITE_INIT;

        atomic_store(&progress->begun[thread], turn);
        take_turn(writer, turn, &write);
        CHECK(write.position > writer->plan->position_seen);
        atomic_store(&progress->position[thread], write.position);
        atomic_store(&progress->acknowledged[thread], turn);
    }
    return NULL;
}

static void run_child(const struct plan *plan, int writes)
{
    struct writer writers[THREAD_COUNT];
    km_store *store = harness_open(plan->path, &plan->options);
    km_map *map = harness_map(store, "map"), *other = harness_map(store, "other");

    atomic_store(&progress->opened, 1);
    for (uint32_t t = 0; writes && t < THREAD_COUNT; t++) {
        writers[t] = (struct writer){plan, store, map, other, t, 0};
        CHECK(pthread_create(&writers[t].thread, NULL, run_writer, &writers[t]) == 0);
    }
    for (uint32_t t = 0; writes && t < THREAD_COUNT; t++)
        pthread_join(writers[t].thread, NULL);
    if (!writes || plan->round % 4 == 0) /* a kill may also meet a close */
        harness_close(store);
    for (;;)
        pause();
}

static void sleep_us(uint64_t us)
{
    struct timespec time = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};

    nanosleep(&time, NULL);
}

/* Run a child and kill it after a while: which begins when the store is open, if it is to write. */
static void run_and_kill(const struct plan *plan, int writes, uint64_t us)
{
    int status = 0;
    pid_t child;

    atomic_store(&progress->opened, 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run_child(plan, writes);
        _exit(0);
    }
    while (writes && !atomic_load(&progress->opened) && waitpid(child, &status, WNOHANG) == 0)
        sleep_us(100);
    sleep_us(us);
    kill(child, SIGKILL);
    if (status == 0)
        CHECK(waitpid(child, &status, 0) == child);
    CHECK_MSG(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
              "the child ended by itself: status %x", (unsigned)status);
}

/* ---- the comparison ---------------------------------------------------------------------- */

struct reader {
    km_map *map;
    km_buffer buffer;
};

/* The turn that wrote a key's value; 0 if it is not there. */
static uint64_t turn_of(struct reader *reader, uint64_t key)
{
    km_status rc = km_get_u64(reader->map, key, &reader->buffer);

    check_count++;
    if (rc == KM_NOT_FOUND)
        return 0;
    CHECK_STATUS(rc, KM_OK);
    return harness_value_version(km_bytes_of(reader->buffer.data, reader->buffer.size), key);
}

/* K1, K2: each returns the last turn that is there, and adds the keys that are. */
static uint64_t check_append(struct reader *reader, uint32_t thread, uint64_t begun, uint64_t *keys)
{
    uint64_t turn = 1;

    while (turn_of(reader, key_of(thread, turn)) == turn)
        turn++;
    for (uint64_t later = turn; later <= begun + 2; later++) /* no hole */
        CHECK(turn_of(reader, key_of(thread, later)) == 0);
    *keys += turn - 1;
    return turn - 1;
}

static uint64_t check_overwrite(struct reader *reader, uint32_t thread, uint64_t *keys)
{
    uint64_t turns[RING_KEYS], last = 0;

    for (uint64_t i = 0; i < RING_KEYS; i++) {
        turns[i] = turn_of(reader, key_of(thread, i));
        last = turns[i] > last ? turns[i] : last;
        *keys += turns[i] != 0;
    }
    for (uint64_t i = 0; i < RING_KEYS; i++) { /* the last RING_KEYS turns, all of them */
        uint64_t expected = last - (last + RING_KEYS - i) % RING_KEYS;

        CHECK(turns[i] == (expected <= last ? expected : 0));
    }
    return last;
}

static uint64_t check_batch(struct reader *reader, struct reader *other, uint32_t thread,
                            uint64_t *keys)
{
    uint64_t turn = turn_of(reader, key_of(thread, 0));

    for (uint64_t i = 1; i < BATCH_KEYS; i++)
        CHECK_MSG(turn_of(i % 2 ? other : reader, key_of(thread, i)) == turn,
                  "half of a batch is there");
    *keys += turn ? BATCH_KEYS : 0;
    return turn;
}

static uint64_t check_toggle(struct reader *reader, uint32_t thread, uint64_t acknowledged,
                             uint64_t *keys)
{
    uint64_t last = acknowledged;

    for (uint64_t turn = acknowledged + 1; turn >= acknowledged && turn > 0; turn--) {
        if (turn % 2 && turn_of(reader, key_of(thread, turn / 2)) == turn) {
            *keys += 1;
            return turn;
        }
    }
    if (acknowledged % 2) /* it was put, and is gone: then the delete that was under way took it */
        last = acknowledged + 1;
    return last;
}

static uint64_t check_thread(struct reader *reader, struct reader *other, uint32_t thread,
                             uint64_t *keys)
{
    uint64_t begun = atomic_load(&progress->begun[thread]);
    uint64_t acknowledged = atomic_load(&progress->acknowledged[thread]);
    uint64_t last = 0;

    switch (roles[thread]) {
    case ROLE_APPEND: last = check_append(reader, thread, begun, keys); break;
    case ROLE_OVERWRITE: last = check_overwrite(reader, thread, keys); break;
    case ROLE_BATCH: last = check_batch(reader, other, thread, keys); break;
    case ROLE_TOGGLE: last = check_toggle(reader, thread, acknowledged, keys); break;
    }
    CHECK_MSG(last >= acknowledged && last <= begun,
              "thread %u: turn %llu is the last there, %llu was acknowledged, %llu begun", thread,
              (unsigned long long)last, (unsigned long long)acknowledged,
              (unsigned long long)begun);
    return last;
}

static void check_store(struct plan *plan, km_open_mode mode)
{
    struct reader reader = {NULL, KM_BUFFER_INIT}, other = {NULL, KM_BUFFER_INIT};
    km_stats stats = {.struct_size = sizeof(stats)};
    km_options options = plan->options;
    uint64_t keys = 0;
    km_store *store;

    options.mode = mode;
    store = harness_open(plan->path, &options);
    CHECK_STATUS(km_store_stats(store, &stats), KM_OK);
    if (km_map_open(store, km_bytes_of_string("map"), &reader.map) == KM_OK &&
        km_map_open(store, km_bytes_of_string("other"), &other.map) == KM_OK) {
        for (uint32_t t = 0; t < THREAD_COUNT; t++) {
            uint64_t position = atomic_load(&progress->position[t]);

            plan->found[t] = check_thread(&reader, &other, t, &keys);
            plan->position_seen = position > plan->position_seen ? position : plan->position_seen;
        }
        CHECK(km_count(reader.map) + km_count(other.map) == keys);
        CHECK(stats.key_count == keys);
    }
    for (uint32_t t = 0; t < THREAD_COUNT;
         t++) /* what was under way and came through, counts now */
        atomic_store(&progress->acknowledged[t], plan->found[t]);
    for (uint32_t t = 0; t < THREAD_COUNT; t++)
        atomic_store(&progress->begun[t], plan->found[t]);
    km_buffer_free(&reader.buffer);
    km_buffer_free(&other.buffer);
    harness_close(store);
}

/* ---- rounds ------------------------------------------------------------------------------ */

static void choose_options(struct plan *plan, struct harness_random *random)
{
    static const km_options init = KM_OPTIONS_INIT;
    static const uint32_t sizes[] = {20, 200, 2000, 12000};

    plan->options = init;
    plan->value_size = sizes[harness_below(random, 4)];
    plan->options.keep_in_memory = harness_below(random, 4) == 0;
    plan->options.sync_interval_ms = harness_below(random, 2) ? 2 : 1000;
    plan->options.replay_threads = (uint32_t)harness_below(random, 4);
    if (harness_below(random, 6) == 0)
        plan->options.durability = KM_DURABLE_POWER;
}

static void run_round(struct plan *plan, struct harness_random *random)
{
    uint64_t opens = harness_below(random, 3);

    run_and_kill(plan, 1, harness_below(random, harness_below(random, 4) ? 20000 : 60000));
    while (opens--) /* K4: also while the recovery of the recovery runs */
        run_and_kill(plan, 0, harness_below(random, 4000));
    check_store(plan, harness_below(random, 3) ? KM_OPEN_EXISTING : KM_OPEN_READ_ONLY);
}

static void nothing_acknowledged_is_lost_by_a_kill(void **state)
{
    struct harness_random random = harness_stream(1);
    struct plan plan = {.round = 0};
    uint64_t rounds = harness_scaled(200), turns = 0, crashed = 0;

    (void)state;
    for (; plan.round < rounds; plan.round++) {
        if (plan.round % ROUNDS_PER_STORE == 0) {
            memset(progress, 0, sizeof(*progress));
            memset(plan.found, 0, sizeof(plan.found));
            plan.position_seen = 0;
            harness_make_folder(plan.path);
        }
        choose_options(&plan, &random);
        run_round(&plan, &random);
        crashed++;
        if (plan.round % ROUNDS_PER_STORE == ROUNDS_PER_STORE - 1 || plan.round + 1 == rounds) {
            for (uint32_t t = 0; t < THREAD_COUNT; t++)
                turns += plan.found[t];
            harness_remove(plan.path);
        }
    }
    printf("%llu rounds, %llu changes, %llu keys checked\n", (unsigned long long)crashed,
           (unsigned long long)turns, (unsigned long long)check_count);
    CHECK(turns > crashed); /* the children do write */
}

/* A kill at any moment of a store's first open leaves a store that can be opened. */
static void creation_survives_kills(void **state)
{
    struct harness_random random = harness_stream(2);
    struct plan plan = {.round = 1};
    uint64_t rounds = harness_scaled(60);

    (void)state;
    for (uint64_t i = 0; i < rounds; i++) {
        km_options options = KM_OPTIONS_INIT;
        km_store *store;

        harness_make_folder(plan.path);
        plan.options = options;
        for (uint32_t kills = 0; kills < 3; kills++)
            run_and_kill(&plan, 0, harness_below(&random, 2500));
        store = harness_open(plan.path, NULL);
        CHECK_STATUS(km_put_u64(harness_map(store, "map"), 1, km_bytes_of_string("x"), NULL),
                     KM_OK);
        harness_close(store);
        harness_remove(plan.path);
    }
}

/* Records that are only in the ring: the writer never flushed, and its data is there. */
static void the_ring_alone_carries_acknowledged_changes(void **state)
{
    struct plan plan = {.round = 1, .value_size = 20};

    (void)state;
    memset(progress, 0, sizeof(*progress));
    harness_make_folder(plan.path);
    plan.options = (km_options)KM_OPTIONS_INIT;
    plan.options.sync_interval_ms = 100000;
    run_and_kill(&plan, 1, 1000);
    check_store(&plan, KM_OPEN_READ_ONLY);
    check_store(&plan, KM_OPEN_EXISTING);
    check_store(&plan, KM_OPEN_EXISTING);
    harness_remove(plan.path);
}

static int map_progress(void **state)
{
    (void)state;
    progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                    0);
    return progress == MAP_FAILED;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_ring_alone_carries_acknowledged_changes),
        cmocka_unit_test(nothing_acknowledged_is_lost_by_a_kill),
        cmocka_unit_test(creation_survives_kills),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, map_progress, NULL);
}
