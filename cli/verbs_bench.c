/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_bench.c -- bench: how fast a store is on this machine, with every answer checked.
 *
 * A phase does one thing to each of the keys 0 to count - 1, once, in an order that jumps about;
 * its threads share the keys. Latencies are of single calls, throughput is keys over the whole
 * time.
 */
#include "cli.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    GROUP_SIZE = 32, /* keys of one km_get_many */
    STAMP_SIZE = 8,
    FINE_BITS = 5, /* a power of two of ns is divided into 32: figures are off by 3 % at most */
    BUCKET_COUNT = (64 - FINE_BITS + 1) << FINE_BITS
};

/* How often which latency was seen. */
struct histogram {
    uint64_t counts[BUCKET_COUNT];
    uint64_t total;
    uint64_t max_ns;
};

struct bench {
    struct cli *cli;
    km_store *store;
    km_map *map;
    uint64_t count;
    uint64_t stride; /* prime to count */
    size_t value_size;
    unsigned char *filler; /* value_size bytes */
};

struct worker;

struct phase {
    const char *name;
    uint64_t generation;  /* of the values that are written or expected */
    uint64_t group_count; /* keys of one call */
    int (*call)(struct worker *worker, const uint64_t *keys, uint64_t count);
};

/* A thread of a phase. It takes keys number `first`, and every `step` groups from there. */
struct worker {
    const struct bench *bench;
    const struct phase *phase;
    uint64_t first;
    uint64_t step;
    pthread_t thread;
    unsigned char *value; /* what is written or expected; value_size bytes */
    km_buffer got;
    struct histogram histogram;
    km_status status; /* of the call that failed, or KM_OK */
    int wrong;        /* an answer was wrong */
};

/* ---- latencies ----------------------------------------------------------------------------- */

static unsigned bucket_of(uint64_t ns)
{
    unsigned shift;

    if (ns < 1u << FINE_BITS)
        return (unsigned)ns;
    shift = 63 - (unsigned)__builtin_clzll(ns) - FINE_BITS;
    return ((shift + 1) << FINE_BITS) + (unsigned)(ns >> shift & ((1u << FINE_BITS) - 1));
}

/* The highest latency that a bucket stands for. */
static uint64_t bucket_limit(unsigned bucket)
{
    unsigned shift;
    uint64_t fine;

    if (bucket < 1u << FINE_BITS)
        return bucket;
    shift = (bucket >> FINE_BITS) - 1;
    fine = (bucket & ((1u << FINE_BITS) - 1)) + (1u << FINE_BITS) + 1;
    return (fine << shift) - 1;
}

static void histogram_add(struct histogram *histogram, uint64_t ns)
{
    histogram->counts[bucket_of(ns)]++;
    histogram->total++;
    if (ns > histogram->max_ns)
        histogram->max_ns = ns;
}

static void histogram_merge(struct histogram *sum, const struct histogram *part)
{
    unsigned i;

    for (i = 0; i < BUCKET_COUNT; i++)
        sum->counts[i] += part->counts[i];
    sum->total += part->total;
    if (part->max_ns > sum->max_ns)
        sum->max_ns = part->max_ns;
}

/* The latency that `share` of the calls did not exceed. */
static uint64_t histogram_quantile(const struct histogram *histogram, double share)
{
    uint64_t wanted = (uint64_t)((double)histogram->total * share);
    uint64_t seen = 0;
    unsigned i;

    for (i = 0; i < BUCKET_COUNT; i++) {
        seen += histogram->counts[i];
        if (seen > wanted)
            break;
    }
    if (i == BUCKET_COUNT || bucket_limit(i) > histogram->max_ns)
        return histogram->max_ns;
    return bucket_limit(i);
}

/* ---- what the phases do -------------------------------------------------------------------- */

/* Eight bytes that depend on key and generation; the rest of a value is the same for all. */
static void stamp_value(const struct worker *worker, uint64_t key)
{
    uint64_t stamp = (key * 4 + worker->phase->generation) * 0x9e3779b97f4a7c15u;
    size_t size = worker->bench->value_size;

    stamp ^= stamp >> 32;
    memcpy(worker->value, &stamp, size < STAMP_SIZE ? size : STAMP_SIZE);
}

static int is_right(const struct worker *worker, uint64_t key, km_bytes got)
{
    stamp_value(worker, key);
    return got.size == worker->bench->value_size && memcmp(got.data, worker->value, got.size) == 0;
}

static int fail(struct worker *worker, km_status status)
{
    worker->status = status;
    return -1;
}

static int wrong_answer(struct worker *worker)
{
    worker->wrong = 1;
    return -1;
}

static int call_put(struct worker *worker, const uint64_t *keys, uint64_t count)
{
    uint64_t begin_ns;
    km_status rc;

    (void)count;
    stamp_value(worker, keys[0]);
    begin_ns = cli_now_ns();
    rc = km_put_u64(worker->bench->map, keys[0],
                    km_bytes_of(worker->value, worker->bench->value_size), NULL);
    histogram_add(&worker->histogram, cli_now_ns() - begin_ns);
    return rc ? fail(worker, rc) : 0;
}

static int call_get(struct worker *worker, const uint64_t *keys, uint64_t count)
{
    uint64_t begin_ns = cli_now_ns();
    km_status rc = km_get_u64(worker->bench->map, keys[0], &worker->got);

    (void)count;
    histogram_add(&worker->histogram, cli_now_ns() - begin_ns);
    if (rc == KM_NOT_FOUND)
        return wrong_answer(worker);
    if (rc)
        return fail(worker, rc);
    if (is_right(worker, keys[0], km_bytes_of(worker->got.data, worker->got.size)))
        return 0;
    return wrong_answer(worker);
}

static int call_get_many(struct worker *worker, const uint64_t *keys, uint64_t count)
{
    km_u64_key coded[GROUP_SIZE];
    km_bytes names[GROUP_SIZE];
    km_bytes values[GROUP_SIZE];
    km_reader *reader = NULL;
    uint64_t begin_ns;
    uint64_t i;
    km_status rc;

    for (i = 0; i < count; i++) {
        coded[i] = km_u64_key_from(keys[i]);
        names[i] = km_bytes_of(coded[i].bytes, 8);
    }
    begin_ns = cli_now_ns();
    rc = km_read_begin(worker->bench->store, &reader);
    if (rc)
        return fail(worker, rc);
    rc = km_get_many(reader, worker->bench->map, names, count, values, NULL);
    histogram_add(&worker->histogram, cli_now_ns() - begin_ns);
    for (i = 0; rc == KM_OK && i < count; i++) {
        if (values[i].data == NULL || !is_right(worker, keys[i], values[i]))
            worker->wrong = 1;
    }
    km_read_end(reader);
    if (rc)
        return fail(worker, rc);
    return worker->wrong ? -1 : 0;
}

/* ---- running a phase ----------------------------------------------------------------------- */

/* The n-th key: the numbers below count in an order that jumps about. */
static uint64_t nth_key(const struct bench *bench, uint64_t n)
{
    return (uint64_t)((unsigned __int128)n * bench->stride % bench->count);
}

static void *run_worker(void *context)
{
    struct worker *worker = context;
    const struct bench *bench = worker->bench;
    uint64_t group_count = worker->phase->group_count;
    uint64_t keys[GROUP_SIZE];
    uint64_t at;
    uint64_t i;

    for (at = worker->first; at < bench->count; at += worker->step) {
        uint64_t count = bench->count - at < group_count ? bench->count - at : group_count;
        for (i = 0; i < count; i++)
            keys[i] = nth_key(bench, at + i);
        if (worker->phase->call(worker, keys, count) != 0)
            break;
    }
    return NULL;
}

static int worker_init(struct worker *worker, const struct bench *bench, const struct phase *phase,
                       uint64_t index)
{
    memset(worker, 0, sizeof(*worker));
    worker->bench = bench;
    worker->phase = phase;
    worker->first = index * phase->group_count;
    worker->step = bench->cli->settings.bench_threads * phase->group_count;
    worker->value = malloc(bench->value_size);
    if (worker->value == NULL)
        return -1;
    memcpy(worker->value, bench->filler, bench->value_size);
    return 0;
}

static void print_phase(const struct bench *bench, const struct phase *phase,
                        const struct histogram *histogram, uint64_t elapsed_ns)
{
    double seconds = (double)(elapsed_ns ? elapsed_ns : 1) / 1e9;

    cli_print(bench->cli, "%-14s %12.0f %10llu %10llu %10llu %10llu\n", phase->name,
              (double)bench->count / seconds,
              (unsigned long long)histogram_quantile(histogram, 0.5),
              (unsigned long long)histogram_quantile(histogram, 0.99),
              (unsigned long long)histogram_quantile(histogram, 0.999),
              (unsigned long long)histogram->max_ns);
    cli_flush(bench->cli);
}

/* Gather what a finished worker found; returns an exit code. */
static int worker_result(const struct worker *worker, struct histogram *sum)
{
    histogram_merge(sum, &worker->histogram);
    if (worker->status)
        return cli_fail_in_store(worker->bench->store, worker->status, "measure");
    if (!worker->wrong)
        return EXIT_DONE;
    cli_message("a wrong answer in phase %s: please report this", worker->phase->name);
    return EXIT_CORRUPT;
}

/* Run the workers of a phase; *out_sum gets their latencies. */
static int run_workers(const struct bench *bench, const struct phase *phase, struct worker *workers,
                       struct histogram *out_sum)
{
    uint64_t thread_count = bench->cli->settings.bench_threads;
    uint64_t started = 0;
    uint64_t i;
    int code = EXIT_DONE;

    for (started = 0; started < thread_count; started++) {
        struct worker *worker = &workers[started];
        if (worker_init(worker, bench, phase, started) != 0)
            break;
        if (pthread_create(&worker->thread, NULL, run_worker, worker) != 0)
            break;
    }
    for (i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
        if (code == EXIT_DONE)
            code = worker_result(&workers[i], out_sum);
    }
    for (i = 0; i < thread_count; i++) {
        free(workers[i].value);
        km_buffer_free(&workers[i].got);
    }
    if (started == thread_count)
        return code;
    cli_message("cannot start thread %llu of %llu", (unsigned long long)started + 1,
                (unsigned long long)thread_count);
    return EXIT_FAILED;
}

static int run_phase(const struct bench *bench, const struct phase *phase)
{
    struct worker *workers = calloc(bench->cli->settings.bench_threads, sizeof(*workers));
    struct histogram *sum = calloc(1, sizeof(*sum));
    uint64_t begin_ns = cli_now_ns();
    int code = EXIT_FAILED;

    if (workers && sum) {
        code = run_workers(bench, phase, workers, sum);
        if (code == EXIT_DONE)
            print_phase(bench, phase, sum, cli_now_ns() - begin_ns);
    } else {
        cli_message("not enough memory");
    }
    free(workers);
    free(sum);
    return code;
}

/* ---- the verb ------------------------------------------------------------------------------ */

static const struct phase phases[] = {
    {"put", 1, 1, call_put},
    {"get", 1, 1, call_get},
    {"get_many(32)", 1, GROUP_SIZE, call_get_many},
    {"overwrite", 2, 1, call_put},
    {"get again", 2, 1, call_get},
};

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Near the golden ratio of count: neighbours in the order lie far apart. */
static uint64_t choose_stride(uint64_t count)
{
    uint64_t stride = (uint64_t)((double)count * 0.6180339887) + 1;

    while (common_divisor(stride, count) != 1)
        stride++; /* ends: a prime above count divides it not */
    return stride;
}

static int bench_init(struct bench *bench, struct cli *cli)
{
    struct settings *settings = &cli->settings;
    size_t i;

    memset(bench, 0, sizeof(*bench));
    if (settings->bench_count == 0)
        settings->bench_count = 1000000;
    if (settings->bench_value_size == 0)
        settings->bench_value_size = 100;
    if (settings->bench_threads == 0)
        settings->bench_threads = 1;
    bench->cli = cli;
    bench->count = settings->bench_count;
    bench->value_size = settings->bench_value_size;
    bench->stride = choose_stride(bench->count);
    bench->filler = malloc(bench->value_size);
    if (bench->filler == NULL) {
        cli_message("not enough memory");
        return EXIT_FAILED;
    }
    for (i = 0; i < bench->value_size; i++)
        bench->filler[i] = (unsigned char)(i * 167 + 13);
    return EXIT_DONE;
}

static int create_map(struct bench *bench)
{
    km_status rc = km_map_create(bench->store, km_bytes_of_string("bench"), KM_HASH, &bench->map);

    if (rc == KM_OK)
        return EXIT_DONE;
    if (rc != KM_EXISTS)
        return cli_fail_in_store(bench->store, rc, "create the map");
    cli_message("%s has a map 'bench' already: name another store", bench->cli->arguments[0]);
    return EXIT_USAGE;
}

static int run_phases(struct bench *bench)
{
    size_t i;
    int code = EXIT_DONE;

    cli_print(bench->cli,
              "%llu keys of 8 bytes, values of %zu, %llu threads; latency of a call in ns\n\n"
              "%-14s %12s %10s %10s %10s %10s\n",
              (unsigned long long)bench->count, bench->value_size,
              (unsigned long long)bench->cli->settings.bench_threads, "", "keys/s", "p50", "p99",
              "p99.9", "max");
    cli_flush(bench->cli);
    for (i = 0; code == EXIT_DONE && i < sizeof(phases) / sizeof(phases[0]); i++)
        code = run_phase(bench, &phases[i]);
    if (code == EXIT_DONE && km_count(bench->map) != bench->count) {
        cli_message("the map's count is wrong: please report this");
        code = EXIT_CORRUPT;
    }
    if (code == EXIT_DONE)
        cli_print(bench->cli, "\nevery answer was right\n");
    return code;
}

int cli_run_bench(struct cli *cli)
{
    struct bench bench;
    int code = bench_init(&bench, cli);

    if (code == EXIT_DONE)
        code = cli_open(cli, KM_OPEN_OR_CREATE, &bench.store);
    if (code == EXIT_DONE)
        code = create_map(&bench);
    if (code == EXIT_DONE)
        code = run_phases(&bench);
    free(bench.filler);
    return cli_close(bench.store, code);
}
