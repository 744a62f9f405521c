/* SPDX-License-Identifier: Apache-2.0
 *
 * workload.c -- one round of one workload on one store.
 *
 * W1. Keys are made inside the timed loop from a random number, or from the running number when
 *     loading; no array of keys or expected answers exists.
 * W2. In a round every peer gets the same sequence of ids: the random seed depends on the run's
 *     seed, the workload, the round and the thread alone.
 * W3. Versions of a key only grow: each id is written by one thread of a round, and a round's
 *     versions lie above those of all rounds before it.
 * W4. Each put is timed on its own by one reading of the clock between two puts, so that the sum
 *     of all latencies is the duration of the round.
 */
#include "bench.h"
#include "ticks.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    TIME_CHECK_EVERY = 64, /* operations; a power of two */
    RECALL_COUNT = 256,    /* last puts of a thread that are read back; a power of two */
    SELF_TEST_COUNT = 100
};

const struct workload bench_workloads[] = {
    {"load", WORKLOAD_LOAD, PEER_CLASS_PROCESS, 1, "put new keys in random order"},
    {"get", WORKLOAD_GET, PEER_CLASS_PROCESS, 1, "get random existing keys"},
    {"absent", WORKLOAD_ABSENT, PEER_CLASS_PROCESS, 1, "get keys that are not there"},
    {"get2", WORKLOAD_GET, PEER_CLASS_PROCESS, 2, "get, two threads"},
    {"many32", WORKLOAD_MANY, PEER_CLASS_PROCESS, 1, "get 32 keys per call; a figure per key"},
    {"overwrite", WORKLOAD_OVERWRITE, PEER_CLASS_PROCESS, 1, "put random existing keys"},
    {"getw", WORKLOAD_GET_BESIDE_WRITER, PEER_CLASS_PROCESS, 1,
     "get beside a thread that overwrites"},
    {"churn", WORKLOAD_CHURN, PEER_CLASS_PROCESS, 1, "delete a key and put it again; per pair"},
    {"power1", WORKLOAD_OVERWRITE, PEER_CLASS_POWER, 1, "put, each synced, one thread"},
    {"power16", WORKLOAD_OVERWRITE, PEER_CLASS_POWER, 16, "put, each synced, 16 threads"},
    {"restart", WORKLOAD_RESTART, PEER_CLASS_PROCESS, 1, "load, kill -9, reopen; per record"},
};

const unsigned bench_workload_count = sizeof(bench_workloads) / sizeof(bench_workloads[0]);

struct recalled {
    uint64_t id;
    uint64_t version;
};

/* One thread of a round. */
struct worker {
    const struct bench_config *config;
    struct target *target;
    enum workload_kind kind;
    unsigned index;
    unsigned thread_count;
    uint64_t random;
    uint64_t version;     /* of the next put */
    uint64_t next_id;     /* WORKLOAD_LOAD */
    uint64_t op_limit;    /* UINT64_MAX: by time */
    uint64_t duration_ns; /* of the timed part; 0: by op_limit */
    atomic_int *stop;     /* ends the loop early; may be NULL */
    pthread_barrier_t *start_line;

    void *session;
    uint64_t op_count;
    uint64_t start_ticks;
    uint64_t end_ticks;
    uint64_t wrong_count;
    int failed;
    uint64_t put_count; /* W3, and the next place in recalled */
    struct recalled recalled[RECALL_COUNT];
    struct histogram latency;
};

static inline uint64_t next_random(struct worker *worker)
{
    worker->random += 0x9e3779b97f4a7c15u;
    return peer_mix(worker->random);
}

static inline uint64_t random_id(struct worker *worker)
{
    return (uint64_t)((unsigned __int128)next_random(worker) * worker->target->record_count >> 64);
}

/* An id that no other thread of the round writes (W3). */
static inline uint64_t random_own_id(struct worker *worker)
{
    uint64_t id = random_id(worker);

    if (worker->thread_count == 1)
        return id;
    id = id - id % worker->thread_count + worker->index;
    return id < worker->target->record_count ? id : worker->index;
}

static inline int is_over(const struct worker *worker, uint64_t deadline)
{
    /* relaxed: only ends the loop; what the threads did is read after they were joined */
    return ticks_now() >= deadline ||
           (worker->stop && atomic_load_explicit(worker->stop, memory_order_relaxed)) ||
           atomic_load_explicit(&bench_stopped, memory_order_relaxed);
}

static inline int put_id(struct worker *worker, uint64_t id, uint64_t version, unsigned char *value)
{
    const struct bench_config *config = worker->config;
    unsigned char key[PEER_KEY_SIZE_MAX];

    peer_make_key(config->seed, id, config->key_size, key);
    peer_make_value(config->seed, id, version, config->value_size, value);
    return worker->target->peer->put(worker->session, (struct peer_bytes){key, config->key_size},
                                     (struct peer_bytes){value, config->value_size});
}

static inline int del_id(struct worker *worker, uint64_t id)
{
    const struct bench_config *config = worker->config;
    unsigned char key[PEER_KEY_SIZE_MAX];

    peer_make_key(config->seed, id, config->key_size, key);
    return worker->target->peer->del(worker->session, (struct peer_bytes){key, config->key_size});
}

static inline int get_id(struct worker *worker, uint64_t id, struct peer_check *check)
{
    const struct bench_config *config = worker->config;
    unsigned char key[PEER_KEY_SIZE_MAX];

    peer_make_key(config->seed, id, config->key_size, key);
    check->id = id;
    return worker->target->peer->get(worker->session, (struct peer_bytes){key, config->key_size},
                                     check);
}

static int section_begin(struct worker *worker)
{
    const struct peer *peer = worker->target->peer;

    return peer->read_begin ? peer->read_begin(worker->session) : PEER_OK;
}

static void section_end(struct worker *worker)
{
    const struct peer *peer = worker->target->peer;

    if (peer->read_end)
        peer->read_end(worker->session);
}

static struct peer_check new_check(const struct bench_config *config)
{
    struct peer_check check = {
        .seed = config->seed,
        .version_min = 1,
        .value_size = config->value_size,
    };

    return check;
}

/* ---- the loops ---------------------------------------------------------------------------- */

/* Puts, or with WORKLOAD_CHURN a delete and a put. */
static void loop_puts(struct worker *worker, uint64_t deadline)
{
    unsigned check_mask = worker->target->durability == PEER_CLASS_POWER ? 0 : TIME_CHECK_EVERY - 1;
    unsigned char *value = malloc(worker->config->value_size);
    uint64_t last = ticks_now();
    uint64_t now;
    uint64_t id;

    if (!value)
        worker->failed = 1;
    while (!worker->failed && worker->op_count < worker->op_limit) {
        id = worker->kind == WORKLOAD_LOAD ? worker->next_id++ : random_own_id(worker);
        if (worker->kind == WORKLOAD_CHURN && del_id(worker, id) != PEER_OK)
            worker->failed = 1;
        if (put_id(worker, id, worker->version, value) != PEER_OK)
            worker->failed = 1;
        worker->recalled[worker->put_count++ & (RECALL_COUNT - 1)] = (struct recalled){
            id, worker->version};
        worker->version++;
        worker->op_count++;
        now = ticks_now();
        histogram_add(&worker->latency, now - last);
        last = now;
        if ((worker->op_count & check_mask) == 0 && is_over(worker, deadline))
            break;
    }
    free(value);
}

/* Gets; all have to be found (WORKLOAD_GET), or none (WORKLOAD_ABSENT). */
static void loop_gets(struct worker *worker, uint64_t deadline)
{
    uint64_t first_id = worker->kind == WORKLOAD_ABSENT ? PEER_ABSENT_ID : 0;
    struct peer_check check = new_check(worker->config);
    uint64_t expected_count;
    unsigned i;
    int rc;

    while (!worker->failed && worker->op_count < worker->op_limit) {
        if (section_begin(worker) != PEER_OK)
            worker->failed = 1;
        for (i = 0; i < worker->config->section_count; i++) {
            rc = get_id(worker, first_id + random_id(worker), &check);
            if (rc < 0)
                worker->failed = 1;
        }
        section_end(worker);
        worker->op_count += worker->config->section_count;
        if (is_over(worker, deadline))
            break;
    }
    expected_count = worker->kind == WORKLOAD_ABSENT ? 0 : worker->op_count;
    worker->wrong_count += check.wrong_count;
    if (check.found_count > expected_count)
        worker->wrong_count += check.found_count - expected_count;
    else
        worker->wrong_count += expected_count - check.found_count;
}

/* One get_many, or as many gets where a peer has no such call. */
static int get_group(struct worker *worker, struct peer_check *checks)
{
    const struct bench_config *config = worker->config;
    const struct peer *peer = worker->target->peer;
    unsigned char key_bytes[PEER_MANY_MAX][PEER_KEY_SIZE_MAX];
    struct peer_bytes keys[PEER_MANY_MAX];
    int rc = PEER_OK;
    unsigned i;

    for (i = 0; i < PEER_MANY_MAX; i++) {
        checks[i].id = random_id(worker);
        peer_make_key(config->seed, checks[i].id, config->key_size, key_bytes[i]);
        keys[i] = (struct peer_bytes){key_bytes[i], config->key_size};
    }
    if (peer->get_many)
        return peer->get_many(worker->session, keys, checks, PEER_MANY_MAX);
    for (i = 0; i < PEER_MANY_MAX && rc >= 0; i++)
        rc = peer->get(worker->session, keys[i], &checks[i]);
    return rc < 0 ? rc : PEER_OK;
}

static void loop_many(struct worker *worker, uint64_t deadline)
{
    struct peer_check checks[PEER_MANY_MAX];
    uint64_t found_count = 0;
    unsigned i;

    for (i = 0; i < PEER_MANY_MAX; i++)
        checks[i] = new_check(worker->config);
    while (!worker->failed && worker->op_count < worker->op_limit) {
        if (section_begin(worker) != PEER_OK)
            worker->failed = 1;
        for (i = 0; i < worker->config->section_count && !worker->failed; i += PEER_MANY_MAX) {
            if (get_group(worker, checks) != PEER_OK)
                worker->failed = 1;
            worker->op_count += PEER_MANY_MAX;
        }
        section_end(worker);
        if (is_over(worker, deadline))
            break;
    }
    for (i = 0; i < PEER_MANY_MAX; i++) {
        found_count += checks[i].found_count;
        worker->wrong_count += checks[i].wrong_count;
    }
    worker->wrong_count += worker->op_count - found_count;
}

static void loop(struct worker *worker, uint64_t duration_ns)
{
    double ticks = (double)duration_ns * worker->config->ticks_per_ns;
    uint64_t deadline = duration_ns ? ticks_now() + (uint64_t)ticks : UINT64_MAX;

    switch (worker->kind) {
    case WORKLOAD_GET:
    case WORKLOAD_ABSENT: loop_gets(worker, deadline); break;
    case WORKLOAD_MANY: loop_many(worker, deadline); break;
    default: loop_puts(worker, deadline); break;
    }
}

/* ---- threads ------------------------------------------------------------------------------ */

static void *worker_main(void *opaque)
{
    struct worker *worker = opaque;
    const struct peer *peer = worker->target->peer;
    uint64_t warm_ns = (uint64_t)worker->config->warm_ms * 1000000u;

    if (peer->session_open(worker->target->handle, &worker->session) != PEER_OK) {
        worker->failed = 1;
        worker->session = NULL;
    }
    if (worker->duration_ns && warm_ns)
        loop(worker, warm_ns);
    worker->op_count = 0;
    histogram_init(&worker->latency);
    pthread_barrier_wait(worker->start_line);
    worker->start_ticks = ticks_now();
    loop(worker, worker->duration_ns);
    worker->end_ticks = ticks_now();
    if (worker->session)
        peer->session_close(worker->session);
    return NULL;
}

static uint64_t worker_seed(const struct bench_config *config, const struct workload *workload,
                            unsigned round_index, unsigned thread_index)
{
    uint64_t place = ((uint64_t)(workload - bench_workloads) << 32) + ((uint64_t)round_index << 8) +
                     thread_index;

    return peer_mix(peer_mix(config->seed) + place);
}

static struct worker *new_workers(const struct bench_config *config,
                                  const struct workload *workload, struct target *target,
                                  unsigned round_index, unsigned count)
{
    struct worker *workers = calloc(count, sizeof(*workers));
    unsigned i;

    if (!workers) {
        fprintf(stderr, "bench: no memory\n");
        exit(2);
    }
    for (i = 0; i < count; i++) {
        workers[i].config = config;
        workers[i].target = target;
        workers[i].kind = workload->kind;
        workers[i].index = i;
        workers[i].thread_count = workload->thread_count;
        workers[i].random = worker_seed(config, workload, round_index, i);
        workers[i].version = target->next_version;
        workers[i].op_limit = UINT64_MAX;
        workers[i].duration_ns = (uint64_t)config->round_ms * 1000000u;
    }
    return workers;
}

/* Run all to their ends. stop may be NULL; else it is set once the first worker is done. */
static void run_workers(struct worker *workers, unsigned count, atomic_int *stop)
{
    pthread_t threads[BENCH_THREAD_MAX];
    pthread_barrier_t start_line;
    unsigned i;

    pthread_barrier_init(&start_line, NULL, count);
    for (i = 0; i < count; i++) {
        workers[i].start_line = &start_line;
        if (pthread_create(&threads[i], NULL, worker_main, &workers[i])) {
            perror("bench: thread");
            exit(2);
        }
    }
    pthread_join(threads[0], NULL);
    if (stop)
        atomic_store_explicit(stop, 1, memory_order_relaxed); /* pairs with is_over() */
    for (i = 1; i < count; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&start_line);
}

static void add_worker(const struct worker *worker, struct round_result *result)
{
    double ns = (double)(worker->end_ticks - worker->start_ticks) / worker->config->ticks_per_ns;

    result->failed |= worker->failed;
    result->wrong_count += worker->wrong_count;
    if (!worker->op_count || ns <= 0)
        return;
    result->op_count += worker->op_count;
    result->ns_per_op += ns; /* a sum until workload_run() divides it */
    result->ops_per_second += (double)worker->op_count * 1e9 / ns;
    histogram_merge(&result->latency, &worker->latency);
}

/* ---- reading back ------------------------------------------------------------------------- */

/* A worker without a thread, for what is not timed. */
static int open_reader(const struct bench_config *config, struct target *target,
                       struct worker *out_reader)
{
    memset(out_reader, 0, sizeof(*out_reader));
    out_reader->config = config;
    out_reader->target = target;
    out_reader->thread_count = 1;
    out_reader->random = peer_mix(config->seed + 1);
    return target->peer->session_open(target->handle, &out_reader->session);
}

/* 1 if the id is not there, or with a wrong or older value. */
static int is_wrong(struct worker *reader, uint64_t id, uint64_t version_min)
{
    struct peer_check check = new_check(reader->config);

    check.version_min = version_min;
    if (section_begin(reader) != PEER_OK)
        return 1;
    (void)get_id(reader, id, &check); /* the counts tell */
    section_end(reader);
    return check.found_count != 1 || check.wrong_count != 0;
}

/* The last puts of a worker, seen from another session (W3: newer ones may have followed). */
static uint64_t recall(const struct worker *worker)
{
    struct worker reader;
    uint64_t count = worker->put_count < RECALL_COUNT ? worker->put_count : RECALL_COUNT;
    uint64_t wrong_count = 0;
    uint64_t i;

    if (!count || !worker->target->peer->get)
        return 0;
    if (open_reader(worker->config, worker->target, &reader) != PEER_OK)
        return count;
    for (i = 0; i < count; i++)
        wrong_count += (uint64_t)is_wrong(&reader, worker->recalled[i].id,
                                          worker->recalled[i].version);
    worker->target->peer->session_close(reader.session);
    return wrong_count;
}

uint64_t workload_sample(const struct bench_config *config, struct target *target, uint64_t count)
{
    struct worker reader;
    uint64_t wrong_count = 0;
    uint64_t last_count = count / 4 < target->record_count ? count / 4 : target->record_count;
    uint64_t i;

    if (open_reader(config, target, &reader) != PEER_OK)
        return count;
    for (i = 0; i < last_count; i++)
        wrong_count += (uint64_t)is_wrong(&reader, target->record_count - 1 - i, 1);
    for (; i < count; i++)
        wrong_count += (uint64_t)is_wrong(&reader, random_id(&reader), 1);
    target->peer->session_close(reader.session);
    return wrong_count;
}

int workload_fill(const struct bench_config *config, struct target *target, uint64_t first,
                  uint64_t count)
{
    struct worker *worker = new_workers(config, &bench_workloads[0], target, 0, 1);
    int failed;

    worker->kind = WORKLOAD_LOAD;
    worker->next_id = first;
    worker->op_limit = count;
    worker->duration_ns = 0;
    worker->version = 1;
    run_workers(worker, 1, NULL);
    failed = worker->failed || worker->op_count != count;
    free(worker);
    return failed ? PEER_FAILED : PEER_OK;
}

/* ---- self-test ---------------------------------------------------------------------------- */

static int self_test_id(struct worker *worker, uint64_t id, unsigned char *value)
{
    if (!is_wrong(worker, id, 1))
        return PEER_FAILED;
    if (put_id(worker, id, 5, value) != PEER_OK)
        return PEER_FAILED;
    if (is_wrong(worker, id, 5))
        return PEER_FAILED;
    if (!is_wrong(worker, id, 6))
        return PEER_FAILED;
    if (put_id(worker, id, 6, value) != PEER_OK)
        return PEER_FAILED;
    if (is_wrong(worker, id, 6))
        return PEER_FAILED;
    if (!is_wrong(worker, id + 1, 1))
        return PEER_FAILED;
    if (del_id(worker, id) != PEER_OK)
        return PEER_FAILED;
    return is_wrong(worker, id, 1) ? PEER_OK : PEER_FAILED;
}

int workload_self_test(const struct bench_config *config, struct target *target)
{
    unsigned char *value = malloc(config->value_size);
    struct worker worker;
    int rc = PEER_FAILED;
    unsigned i;

    if (!value)
        return PEER_FAILED;
    if (open_reader(config, target, &worker) != PEER_OK) goto out;
    rc = PEER_OK;
    for (i = 0; i < SELF_TEST_COUNT && rc == PEER_OK; i++)
        rc = self_test_id(&worker, PEER_ABSENT_ID * 2 + i, value);
    target->peer->session_close(worker.session);
out:
    free(value);
    return rc;
}

/* ---- a round ------------------------------------------------------------------------------ */

/* A load round puts its share of the records. */
static void set_load_share(const struct bench_config *config, struct target *target,
                           unsigned round_index, struct worker *worker)
{
    uint64_t first = target->record_count * round_index / config->round_count;
    uint64_t end = target->record_count * (round_index + 1) / config->round_count;

    worker->next_id = first;
    worker->op_limit = end - first;
    worker->duration_ns = 0;
    worker->version = 1;
}

static void run_beside_writer(struct worker *workers)
{
    atomic_int stop = 0;

    workers[0].kind = WORKLOAD_GET;
    workers[1].kind = WORKLOAD_OVERWRITE;
    workers[1].thread_count = 1;
    /* Longer than the reader's round: the reader's end stops it, its warm-up is its own. */
    workers[1].duration_ns *= 100;
    workers[1].stop = &stop;
    run_workers(workers, 2, &stop);
}

void workload_run(const struct bench_config *config, const struct workload *workload,
                  struct target *target, unsigned round_index, struct round_result *out_result)
{
    int beside_writer = workload->kind == WORKLOAD_GET_BESIDE_WRITER;
    unsigned thread_count = workload->thread_count + (unsigned)beside_writer;
    struct worker *workers = new_workers(config, workload, target, round_index, thread_count);
    struct round_result writer = {0};
    uint64_t put_count = 0;
    uint64_t settle_ns;
    unsigned i;

    memset(out_result, 0, sizeof(*out_result));
    if (workload->kind == WORKLOAD_LOAD)
        set_load_share(config, target, round_index, workers);
    if (beside_writer)
        run_beside_writer(workers);
    else
        run_workers(workers, thread_count, NULL);
    for (i = 0; i < thread_count; i++) {
        add_worker(&workers[i], beside_writer && i == 1 ? &writer : out_result);
        if (workers[i].put_count > put_count)
            put_count = workers[i].put_count;
    }
    target->next_version += put_count; /* W3 */
    if (put_count) {
        settle_ns = machine_settle_ns();
        if (out_result->op_count && !beside_writer)
            out_result->deferred_ns = (double)settle_ns / (double)out_result->op_count;
        for (i = 0; i < thread_count; i++)
            out_result->wrong_count += recall(&workers[i]);
    }
    if (out_result->op_count)
        out_result->ns_per_op /= (double)out_result->op_count;
    out_result->writer_per_second = writer.ops_per_second;
    out_result->failed |= writer.failed;
    free(workers);
}
