/* SPDX-License-Identifier: Apache-2.0
 *
 * turnover.c -- overwrite the keys of a store until its log has turned over many times.
 *
 * T1. Every store of a run gets the same work: as many puts as make TURNS turns of a log kept at
 *     the ratio of the run; stores without a ratio get those of 1.5.
 * T2. Each id is written by one thread, and which ids those are follows from a seed alone. So no
 *     array of answers competes for the cache; at the end the choices are made once more, and every
 *     key, read after a reopening, must have its last version.
 * T3. A sample of a store's figures counts only if its head did not move while they were taken.
 * T4. Amplification is measured from the 30th hundredth of the puts on: before, the log grows to
 * its length, and the records of the load are still side by side.
 *
 * What is expected of a log whose oldest segment is emptied first, when ids are uniform: of N live
 * records in a log of r * N, a part u survives a turn, and there are r * N * (1 - u) puts in a
 * turn; so u = (1 - 1/N)^(r * N * (1 - u)) = exp(-r * (1 - u)), and each put moves u / (1 - u)
 * records.
 *
 * Output: tables of tab-separated lines; "columns" lines name their columns. table.sh lays them
 * out.
 */
#include "program.h"
#include "ticks.h"

#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    CHECK_EVERY = 64, /* operations between looks at the clock; a power of two */
    SECTION_GETS = 256,
    WALK_SAMPLES = 25, /* samples between walks through the store's folder */
    SAMPLE_TRIES = 8,
    STEADY_PERCENT = 30, /* T4 */
    OFF_PERCENT = 10000, /* no compaction */
    DEFAULT_PERCENT = 150
};

#define ZIPF_THETA 0.99

/* ---- which id ----------------------------------------------------------------------------- */

/* Zipf's law by the inverse of its continuous form: the k-th most wanted id with about k^-theta. */
struct zipf {
    uint64_t count;
    double alpha, zeta, eta, second;
};

static void zipf_init(struct zipf *zipf, uint64_t count)
{
    uint64_t i;

    zipf->count = count;
    zipf->zeta = 0;
    for (i = 1; i <= count; i++)
        zipf->zeta += pow((double)i, -ZIPF_THETA);
    zipf->second = pow(0.5, ZIPF_THETA);
    zipf->alpha = 1 / (1 - ZIPF_THETA);
    zipf->eta = (1 - pow(2.0 / (double)count, 1 - ZIPF_THETA)) /
                (1 - (1 + zipf->second) / zipf->zeta);
}

static uint64_t zipf_rank(const struct zipf *zipf, double part)
{
    double scaled = part * zipf->zeta;
    uint64_t rank;

    if (scaled < 1)
        return 0;
    if (scaled < 1 + zipf->second)
        return 1;
    rank = (uint64_t)((double)zipf->count * pow(zipf->eta * part - zipf->eta + 1, zipf->alpha));
    return rank < zipf->count ? rank : zipf->count - 1;
}

struct chooser {
    const struct zipf *zipf; /* NULL: uniform */
    uint64_t random;
    uint64_t record_count;
    unsigned index; /* of the thread, among those that write */
    unsigned count;
};

static uint64_t choose_id(struct chooser *chooser)
{
    uint64_t id;

    chooser->random += 0x9e3779b97f4a7c15u;
    id = peer_mix(chooser->random);
    if (chooser->zipf) /* spread the wanted ones over the log that the load made */
        id = zipf_rank(chooser->zipf, (double)(id >> 11) * 0x1p-53) * 0x9e3779b97f4a7c15u;
    id = (uint64_t)((unsigned __int128)id * chooser->record_count >> 64);
    id = id - id % chooser->count + chooser->index; /* T2 */
    return id < chooser->record_count ? id : chooser->index;
}

/* ---- threads ------------------------------------------------------------------------------ */

struct turn_run;

struct turn_thread {
    struct turn_run *run;
    struct chooser chooser;
    uint64_t version;  /* of the next put */
    uint64_t op_limit; /* UINT64_MAX: until *stop */
    uint64_t op_count;
    _Atomic uint64_t progress; /* op_count, now and then */
    uint64_t start_ticks, end_ticks;
    uint64_t wrong_count;
    int failed;
    pthread_t thread;
    struct histogram latency;
};

/* A moment of a run (T4). */
struct turn_mark {
    uint64_t put_count, written_bytes, image_bytes;
    struct peer_figures figures;
};

struct turn_run {
    const struct bench_config *config;
    struct target target;
    const struct zipf *zipf;
    unsigned writer_count;
    unsigned sample_ms;
    unsigned read_ms;
    atomic_int stop_writers, stop_readers, stop_sampler;
    uint64_t chooser_start[BENCH_THREAD_MAX]; /* T2: where each writer's choices began */
    struct turn_thread writers[BENCH_THREAD_MAX];
    struct turn_thread reader;

    uint64_t put_goal, put_count;
    double puts_per_second;
    struct histogram put_latency;
    struct histogram alone_latency, beside_latency; /* of gets; empty: not measured */
    uint64_t wrong_count;

    uint64_t sample_count, held_count;
    double bound_highest; /* highest part of the bound that was in use */
    double log_highest;   /* highest log to live bytes */
    double ratio_sum;     /* of what is in use and not emptied, to live bytes */
    uint64_t segment_bytes, image_count, image_sum;
    uint64_t disk_highest, disk_end;
    uint64_t early_sample_count; /* before begin */
    struct turn_mark begin, end;
};

static int is_set(atomic_int *flag)
{
    return atomic_load_explicit(flag, memory_order_relaxed) || program_is_stopped();
}

static void *run_turn_writer(void *opaque)
{
    struct turn_thread *self = opaque;
    const struct bench_config *config = self->run->config;
    const struct peer *peer = self->run->target.peer;
    unsigned char key[PEER_KEY_SIZE_MAX];
    unsigned char *value = malloc(config->value_size);
    void *session = NULL;
    uint64_t id, last, now;

    self->failed = !value || peer->session_open(self->run->target.handle, &session) != PEER_OK;
    self->start_ticks = last = ticks_now();
    while (!self->failed && self->op_count < self->op_limit) {
        id = choose_id(&self->chooser);
        peer_make_key(config->seed, id, config->key_size, key);
        peer_make_value(config->seed, id, self->version++, config->value_size, value);
        self->failed = peer->put(session, (struct peer_bytes){key, config->key_size},
                                 (struct peer_bytes){value, config->value_size}) != PEER_OK;
        self->op_count++;
        now = ticks_now();
        histogram_add(&self->latency, now - last);
        last = now;
        if (self->op_count % CHECK_EVERY)
            continue;
        /* relaxed: figures alone */
        atomic_store_explicit(&self->progress, self->op_count, memory_order_relaxed);
        if (is_set(&self->run->stop_writers))
            break;
    }
    self->end_ticks = ticks_now();
    if (session)
        peer->session_close(session);
    free(value);
    return NULL;
}

static int read_section(struct turn_thread *self, void *session, struct peer_check *check)
{
    const struct bench_config *config = self->run->config;
    const struct peer *peer = self->run->target.peer;
    unsigned char key[PEER_KEY_SIZE_MAX];
    uint64_t last, now;
    unsigned i;

    if (peer->read_begin && peer->read_begin(session) != PEER_OK)
        return PEER_FAILED;
    last = ticks_now();
    for (i = 0; i < SECTION_GETS; i++) {
        check->id = choose_id(&self->chooser);
        peer_make_key(config->seed, check->id, config->key_size, key);
        if (peer->get(session, (struct peer_bytes){key, config->key_size}, check) < 0)
            return PEER_FAILED;
        now = ticks_now();
        histogram_add(&self->latency, now - last);
        last = now;
    }
    self->op_count += SECTION_GETS;
    if (peer->read_end)
        peer->read_end(session);
    return PEER_OK;
}

static void *run_turn_reader(void *opaque)
{
    struct turn_thread *self = opaque;
    const struct bench_config *config = self->run->config;
    const struct peer *peer = self->run->target.peer;
    struct peer_check check = {
        .seed = config->seed, .version_min = 1, .value_size = config->value_size};
    void *session = NULL;

    self->failed = peer->session_open(self->run->target.handle, &session) != PEER_OK;
    while (!self->failed && !is_set(&self->run->stop_readers))
        self->failed = read_section(self, session, &check) != PEER_OK;
    if (session)
        peer->session_close(session);
    self->wrong_count = check.wrong_count + (self->op_count - check.found_count);
    return NULL;
}

static void start_thread(struct turn_thread *thread, void *(*body)(void *))
{
    if (pthread_create(&thread->thread, NULL, body, thread)) {
        perror("bench: thread");
        exit(EXIT_FAILED);
    }
}

static void start_writers(struct turn_run *run, uint64_t put_goal)
{
    struct turn_thread *writer;
    unsigned i;

    atomic_store_explicit(&run->stop_writers, 0, memory_order_relaxed);
    for (i = 0; i < run->writer_count; i++) {
        writer = &run->writers[i];
        writer->op_limit = put_goal == UINT64_MAX ? UINT64_MAX
                                                  : writer->op_count + put_goal / run->writer_count;
        start_thread(writer, run_turn_writer);
    }
}

static int join_writers(struct turn_run *run)
{
    int failed = 0;
    unsigned i;

    for (i = 0; i < run->writer_count; i++) {
        pthread_join(run->writers[i].thread, NULL);
        failed |= run->writers[i].failed;
    }
    return failed ? PEER_FAILED : PEER_OK;
}

/* ---- the figures -------------------------------------------------------------------------- */

static void get_figures(const struct turn_run *run, struct peer_figures *out_figures)
{
    memset(out_figures, 0, sizeof(*out_figures));
    if (run->target.peer->figures)
        run->target.peer->figures(run->target.handle, out_figures);
}

/* T3; 0 if the store has no log, or none could be taken. */
static int get_sample(const struct turn_run *run, struct peer_figures *out_figures)
{
    struct peer_figures after;
    unsigned i;

    for (i = 0; i < SAMPLE_TRIES; i++) {
        get_figures(run, out_figures);
        get_figures(run, &after);
        if (!out_figures->log_bytes)
            return 0;
        if (out_figures->head == after.head)
            return 1;
    }
    return 0;
}

static double compact_ratio(const struct turn_run *run)
{
    return (run->config->compact_percent ? run->config->compact_percent : DEFAULT_PERCENT) / 100.0;
}

/* How long the log may be. */
static double log_bound(const struct turn_run *run, const struct peer_figures *figures)
{
    double segments = 2.0 * (double)run->segment_bytes;
    double bound = compact_ratio(run) * (double)figures->live_bytes;

    if (bound < (double)figures->live_bytes + segments) /* shorter, and a turn would free nothing */
        bound = (double)figures->live_bytes + segments;
    if (bound < (double)figures->log_size_min)
        bound = (double)figures->log_size_min;
    return bound + segments + (double)figures->emptied_bytes + (double)figures->pinned_bytes;
}

static void look_at_folder(struct turn_run *run)
{
    char path[BENCH_PATH_MAX + 8];
    uint64_t bytes = folder_disk_bytes(run->target.path);

    if (bytes > run->disk_highest)
        run->disk_highest = bytes;
    snprintf(path, sizeof(path), "%s/log", run->target.path);
    run->segment_bytes = folder_largest_file(path);
}

static void add_sample(struct turn_run *run, const struct peer_figures *figures)
{
    double live = (double)figures->live_bytes;
    double used;

    if (figures->log_bytes > log_bound(run, figures))
        look_at_folder(run); /* segments may have grown */
    used = (double)figures->log_bytes / log_bound(run, figures);
    run->sample_count++;
    run->held_count += used <= 1;
    if (used > run->bound_highest)
        run->bound_highest = used;
    if ((double)figures->log_bytes / live > run->log_highest)
        run->log_highest = (double)figures->log_bytes / live;
    run->ratio_sum += (double)(figures->log_bytes - figures->emptied_bytes) / live;
    if (figures->image_count > run->image_count)
        run->image_sum += (figures->image_count - run->image_count) * figures->image_bytes;
    run->image_count = figures->image_count;
}

static uint64_t puts_so_far(struct turn_run *run)
{
    uint64_t count = 0;
    unsigned i;

    for (i = 0; i < run->writer_count; i++)
        count += atomic_load_explicit(&run->writers[i].progress, memory_order_relaxed);
    return count;
}

static void set_mark(struct turn_run *run, struct turn_mark *mark)
{
    mark->put_count = puts_so_far(run);
    mark->written_bytes = machine_written_bytes();
    mark->image_bytes = run->image_sum;
    get_figures(run, &mark->figures);
}

static void *run_sampler(void *opaque)
{
    struct turn_run *run = opaque;
    struct timespec pause = {0, (long)run->sample_ms * 1000000};
    struct peer_figures figures;
    unsigned round = 0;

    while (!is_set(&run->stop_sampler)) {
        if (round++ % WALK_SAMPLES == 0)
            look_at_folder(run);
        if (get_sample(run, &figures))
            add_sample(run, &figures);
        if (!run->begin.put_count && puts_so_far(run) >= run->put_goal / 100 * STEADY_PERCENT) {
            set_mark(run, &run->begin);
            run->ratio_sum = 0; /* a mean from here on */
            run->early_sample_count = run->sample_count;
        }
        nanosleep(&pause, NULL);
    }
    return NULL;
}

/* ---- the phases of a run ------------------------------------------------------------------ */

static void set_chooser(struct turn_run *run, struct turn_thread *thread, unsigned index,
                        unsigned count)
{
    thread->run = run;
    thread->chooser = (struct chooser){
        .zipf = run->zipf,
        .random = peer_mix(run->config->seed * 1000 + count * 100 + index + 1),
        .record_count = run->config->record_count,
        .index = index,
        .count = count,
    };
    thread->version = 2;
    histogram_init(&thread->latency);
}

static int prepare(struct turn_run *run)
{
    unsigned i;

    run->target.record_count = run->config->record_count;
    for (i = 0; i < run->writer_count; i++) {
        set_chooser(run, &run->writers[i], i, run->writer_count);
        run->chooser_start[i] = run->writers[i].chooser.random;
    }
    set_chooser(run, &run->reader, 0, 1);
    run->reader.chooser.random = peer_mix(run->config->seed + 77);
    if (folder_make(run->target.path) || target_open(run->config, &run->target) != PEER_OK)
        return PEER_FAILED;
    if (workload_self_test(run->config, &run->target) != PEER_OK)
        return PEER_FAILED;
    if (workload_fill(run->config, &run->target, 0, run->config->record_count) != PEER_OK)
        return PEER_FAILED;
    if (run->target.peer->after_load && run->target.peer->after_load(run->target.handle) != PEER_OK)
        return PEER_FAILED;
    machine_settle_ns();
    folder_sync(run->target.path);
    return PEER_OK;
}

/* One reader for read_ms; the latencies of its gets go to out_latency. */
static int read_for_a_while(struct turn_run *run, struct histogram *out_latency)
{
    struct timespec time = {run->read_ms / 1000, (long)(run->read_ms % 1000) * 1000000};

    atomic_store_explicit(&run->stop_readers, 0, memory_order_relaxed);
    histogram_init(&run->reader.latency);
    run->reader.op_count = 0;
    start_thread(&run->reader, run_turn_reader);
    nanosleep(&time, NULL);
    atomic_store_explicit(&run->stop_readers, 1, memory_order_relaxed);
    pthread_join(run->reader.thread, NULL);
    run->wrong_count += run->reader.wrong_count;
    *out_latency = run->reader.latency;
    return run->reader.failed ? PEER_FAILED : PEER_OK;
}

static int read_beside_writers(struct turn_run *run)
{
    int failed;

    start_writers(run, UINT64_MAX);
    failed = read_for_a_while(run, &run->beside_latency);
    atomic_store_explicit(&run->stop_writers, 1, memory_order_relaxed);
    return join_writers(run) != PEER_OK || failed ? PEER_FAILED : PEER_OK;
}

static int turn_over(struct turn_run *run)
{
    uint64_t start_ticks = UINT64_MAX;
    uint64_t end_ticks = 0;
    pthread_t sampler;
    unsigned i;
    int rc;

    if (pthread_create(&sampler, NULL, run_sampler, run))
        return PEER_FAILED;
    start_writers(run, run->put_goal);
    rc = join_writers(run);
    atomic_store_explicit(&run->stop_sampler, 1, memory_order_relaxed);
    pthread_join(sampler, NULL);
    for (i = 0; i < run->writer_count; i++) {
        atomic_store_explicit(&run->writers[i].progress, run->writers[i].op_count,
                              memory_order_relaxed);
        if (run->writers[i].start_ticks < start_ticks)
            start_ticks = run->writers[i].start_ticks;
        if (run->writers[i].end_ticks > end_ticks)
            end_ticks = run->writers[i].end_ticks;
        histogram_merge(&run->put_latency, &run->writers[i].latency);
    }
    set_mark(run, &run->end);
    run->put_count = run->end.put_count;
    run->puts_per_second = (double)run->put_count * 1e9 * run->config->ticks_per_ns /
                           (double)(end_ticks - start_ticks);
    return rc;
}

/* T2: the last version of every id. */
static uint32_t *last_versions(const struct turn_run *run)
{
    uint32_t *versions = malloc(run->config->record_count * sizeof(*versions));
    struct chooser chooser;
    uint64_t i;
    unsigned t;

    for (i = 0; versions && i < run->config->record_count; i++)
        versions[i] = 1;
    for (t = 0; versions && t < run->writer_count; t++) {
        chooser = run->writers[t].chooser;
        chooser.random = run->chooser_start[t];
        for (i = 0; i < run->writers[t].op_count; i++)
            versions[choose_id(&chooser)] = (uint32_t)(2 + i);
    }
    return versions;
}

static int check_all(struct turn_run *run, const uint32_t *versions)
{
    const struct bench_config *config = run->config;
    const struct peer *peer = run->target.peer;
    struct peer_check check = {.seed = config->seed, .value_size = config->value_size};
    unsigned char key[PEER_KEY_SIZE_MAX];
    void *session;
    int rc = PEER_OK;

    if (peer->session_open(run->target.handle, &session) != PEER_OK)
        return PEER_FAILED;
    for (check.id = 0; check.id < config->record_count && rc >= 0; check.id++) {
        if (check.id % SECTION_GETS == 0 && peer->read_begin)
            rc = peer->read_begin(session);
        check.version_min = versions[check.id];
        peer_make_key(config->seed, check.id, config->key_size, key);
        if (rc >= 0)
            rc = peer->get(session, (struct peer_bytes){key, config->key_size}, &check);
        if ((check.id + 1 == config->record_count || (check.id + 1) % SECTION_GETS == 0) &&
            peer->read_end)
            peer->read_end(session);
    }
    peer->session_close(session);
    run->wrong_count += check.wrong_count + (config->record_count - check.found_count);
    return rc < 0 ? PEER_FAILED : PEER_OK;
}

static int reopen_and_check(struct turn_run *run)
{
    uint32_t *versions;
    int rc = PEER_FAILED;

    run->target.peer->close(run->target.handle);
    run->target.handle = NULL;
    versions = last_versions(run);
    if (versions && target_open(run->config, &run->target) == PEER_OK)
        rc = check_all(run, versions);
    free(versions);
    return rc;
}

/* Reads are measured beside one writer; with more, threads would wait for cores, not stores. */
static int run_phases(struct turn_run *run)
{
    int reads = run->writer_count == 1;

    if (prepare(run) != PEER_OK)
        return PEER_FAILED;
    if (reads && read_for_a_while(run, &run->alone_latency) != PEER_OK)
        return PEER_FAILED;
    if (turn_over(run) != PEER_OK)
        return PEER_FAILED;
    if (reads && read_beside_writers(run) != PEER_OK)
        return PEER_FAILED;
    machine_settle_ns();
    run->disk_end = folder_disk_bytes(run->target.path);
    if (run->disk_end > run->disk_highest)
        run->disk_highest = run->disk_end;
    return program_is_stopped() ? PEER_FAILED : reopen_and_check(run);
}

/* ---- what is expected --------------------------------------------------------------------- */

/* The part of the records that survives a turn of a log of `ratio` times what is live. */
static double surviving_part(double ratio)
{
    double part = 0;
    unsigned i;

    for (i = 0; i < 1000; i++) /* from below, to the smaller root: the other is 1 */
        part = exp(-ratio * (1 - part));
    return part;
}

static uint64_t record_size(const struct bench_config *config)
{
    return (16 + config->key_size + config->value_size + 7) / 8 * 8;
}

/* Bytes appended per byte put; a moved record is 8 bytes longer. */
static double expected_amplification(const struct bench_config *config, double ratio)
{
    double part = surviving_part(ratio);
    double size = (double)record_size(config);

    return 1 + part / (1 - part) * (size + 8) / size;
}

static uint64_t puts_for(uint64_t records, double ratio, double turns)
{
    return (uint64_t)((double)records * ratio * (1 - surviving_part(ratio)) * turns);
}

/* ---- output ------------------------------------------------------------------------------- */

static void print_columns(void)
{
    printf("columns\tputs\tpeer\tratio\twriters\tputs\tputs/s\tp50 us\tp99 us\tp99.9 us\t"
           "longest ms\twrong\n"
           "columns\tbound\tpeer\tratio\twriters\tsamples\theld\thighest of bound\t"
           "highest log/live\tmean log/live\tturns\n"
           "columns\tamplification\tpeer\tratio\twriters\tlog\texpected by ratio\t"
           "expected by mean\tlog and images\tdisk/payload\n"
           "columns\tdisk\tpeer\tratio\twriters\tend MiB\thighest MiB\thighest/payload\n"
           "columns\tgets\tpeer\tratio\talone p50 ns\tp99 ns\tp99.9 us\tbeside p50 ns\tp99 ns\t"
           "p99.9 us\n");
}

static const char *ratio_text(const struct turn_run *run)
{
    static char text[16];

    if (!run->end.figures.log_bytes)
        return "-";
    if (run->config->compact_percent == OFF_PERCENT)
        return "off";
    snprintf(text, sizeof(text), "%.2f", compact_ratio(run));
    return text;
}

static double quantile(const struct turn_run *run, const struct histogram *latency, double part)
{
    return (double)histogram_quantile(latency, part) / run->config->ticks_per_ns;
}

static void print_log_tables(const struct turn_run *run)
{
    const struct turn_mark *begin = &run->begin;
    const struct turn_mark *end = &run->end;
    uint64_t steady_samples = run->sample_count - run->early_sample_count;
    double put_bytes = (double)(end->put_count - begin->put_count) *
                       (double)record_size(run->config);
    double moved = (double)(end->figures.compacted_bytes - begin->figures.compacted_bytes);
    double images = (double)(end->image_bytes - begin->image_bytes);
    double mean = steady_samples ? run->ratio_sum / (double)steady_samples : compact_ratio(run);
    const char *peer = run->target.peer->name;

    printf("bound\t%s\t%s\t%u\t%" PRIu64 "\t%" PRIu64 "\t%.3f\t%.3f\t%.3f\t%.1f\n", peer,
           ratio_text(run), run->writer_count, run->sample_count, run->held_count,
           run->bound_highest, run->log_highest, mean,
           ((double)end->put_count * (double)record_size(run->config) +
            (double)end->figures.compacted_bytes) /
               ((double)end->figures.live_bytes * mean));
    printf("amplification\t%s\t%s\t%u\t%.3f\t", peer, ratio_text(run), run->writer_count,
           1 + moved / put_bytes);
    if (run->zipf || run->config->compact_percent == OFF_PERCENT)
        printf("-\t-\t");
    else
        printf("%.3f\t%.3f\t", expected_amplification(run->config, compact_ratio(run)),
               expected_amplification(run->config, mean));
    printf("%.3f\t", 1 + (moved + images) / put_bytes);
}

static void print_gets(const struct turn_run *run)
{
    const struct histogram *alone = &run->alone_latency;
    const struct histogram *beside = &run->beside_latency;

    if (!alone->count || !beside->count)
        return;
    printf("gets\t%s\t%s\t%.0f\t%.0f\t%.1f\t%.0f\t%.0f\t%.1f\n", run->target.peer->name,
           ratio_text(run), quantile(run, alone, 0.5), quantile(run, alone, 0.99),
           quantile(run, alone, 0.999) / 1e3, quantile(run, beside, 0.5),
           quantile(run, beside, 0.99), quantile(run, beside, 0.999) / 1e3);
}

static void print_run(const struct turn_run *run)
{
    const struct histogram *latency = &run->put_latency;
    const struct bench_config *config = run->config;
    const char *peer = run->target.peer->name;
    double payload = (double)(config->key_size + config->value_size);
    double put_payload = (double)(run->end.put_count - run->begin.put_count) * payload;

    printf("puts\t%s\t%s\t%u\t%" PRIu64 "\t%.0f\t%.2f\t%.2f\t%.1f\t%.2f\t%" PRIu64 "\n", peer,
           ratio_text(run), run->writer_count, run->put_count, run->puts_per_second,
           quantile(run, latency, 0.5) / 1e3, quantile(run, latency, 0.99) / 1e3,
           quantile(run, latency, 0.999) / 1e3, (double)latency->max / config->ticks_per_ns / 1e6,
           run->wrong_count);
    if (run->end.figures.log_bytes)
        print_log_tables(run);
    else
        printf("amplification\t%s\t-\t%u\t-\t-\t-\t-\t", peer, run->writer_count);
    printf("%.2f\n", (double)(run->end.written_bytes - run->begin.written_bytes) / put_payload);
    printf("disk\t%s\t%s\t%u\t%.1f\t%.1f\t%.2f\n", peer, ratio_text(run), run->writer_count,
           (double)run->disk_end / (1u << 20), (double)run->disk_highest / (1u << 20),
           (double)run->disk_highest / ((double)config->record_count * payload));
    print_gets(run);
    fflush(stdout);
}

/* ---- options and the program -------------------------------------------------------------- */

struct turnover {
    struct bench_config config;
    struct program_folder folder;
    const struct peer *peers[BENCH_PEER_MAX];
    unsigned peer_count;
    uint64_t ratios[PROGRAM_NUMBER_MAX];
    unsigned ratio_count;
    uint64_t writers[PROGRAM_NUMBER_MAX];
    unsigned writers_count;
    unsigned turns, read_ms, sample_ms;
    int is_zipf;
    struct zipf zipf;
    uint64_t wrong_count;
    int failed;
};

static const struct option turnover_options[] = {
    {"records", required_argument, NULL, 'n'},
    {"turns", required_argument, NULL, 't'},
    {"peers", required_argument, NULL, 'p'},
    {"ratios", required_argument, NULL, 'r'},
    {"writers", required_argument, NULL, 'w'},
    {"zipf", no_argument, NULL, 'z'},
    {"read-ms", required_argument, NULL, 'm'},
    {"sample-ms", required_argument, NULL, 'i'},
    {"key", required_argument, NULL, 'k'},
    {"dir", required_argument, NULL, 'd'},
    {"value-size", required_argument, NULL, 'v'},
    {"seed", required_argument, NULL, 's'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void print_usage(FILE *file)
{
    fprintf(file, "usage: turnover [options]\n"
                  "  --records N      records in each store (3000000)\n"
                  "  --turns T        turns of the log (10)\n"
                  "  --peers A,B      keepmap,lmdb,rocksdb,tkrzw, as far as they are built in\n"
                  "  --ratios A,B     percent of log to live bytes (10000,125,150,200); 10000:\n"
                  "                   no compaction, and two puts per record\n"
                  "  --writers A,B    threads that put (1,2); a run for each\n"
                  "  --zipf           some keys far more often than others; default: uniform\n"
                  "  --read-ms MS     length of a phase with a reader (2000)\n"
                  "  --sample-ms MS   between samples of the log's length (20)\n"
                  "  --key u64|16|20  bytes of a key: 8, 16 or 20 (20)\n"
                  "  --value-size S   16 and more (100)\n"
                  "  --dir DIR        where to put the data (bench-data beside this program)\n"
                  "  --seed S         of keys and choices (1)\n");
}

static void set_option(struct turnover *all, int option, char *text)
{
    struct bench_config *config = &all->config;

    switch (option) {
    case 'n': config->record_count = program_number("--records", text, 1000, 1u << 30); break;
    case 't': all->turns = (unsigned)program_number("--turns", text, 1, 10000); break;
    case 'p': all->peer_count = program_peers(text, all->peers); break;
    case 'r':
        all->ratio_count = program_numbers("--ratios", text, 110, OFF_PERCENT, all->ratios);
        break;
    case 'w':
        all->writers_count = program_numbers("--writers", text, 1, BENCH_THREAD_MAX, all->writers);
        break;
    case 'z': all->is_zipf = 1; break;
    case 'm': all->read_ms = (unsigned)program_number("--read-ms", text, 1, 600000); break;
    case 'i': all->sample_ms = (unsigned)program_number("--sample-ms", text, 1, 999); break;
    case 'k': config->key_size = program_key_size(text); break;
    case 'v':
        config->value_size = program_number("--value-size", text, PEER_VALUE_SIZE_MIN, 1u << 20);
        break;
    case 'd': all->folder.parent = text; break;
    case 's': config->seed = program_number("--seed", text, 0, UINT64_MAX); break;
    case 'h': print_usage(stdout); exit(0);
    default: print_usage(stderr); exit(EXIT_FAILED);
    }
}

static void parse(struct turnover *all, int argc, char **argv)
{
    int option;

    all->config = (struct bench_config){
        .record_count = 3000000, .key_size = 20, .value_size = 100, .seed = 1};
    all->turns = 10;
    all->read_ms = 2000;
    all->sample_ms = 20;
    memcpy(all->ratios, (uint64_t[]){OFF_PERCENT, 125, 150, 200}, 4 * sizeof(all->ratios[0]));
    all->ratio_count = 4;
    memcpy(all->writers, (uint64_t[]){1, 2}, 2 * sizeof(all->writers[0]));
    all->writers_count = 2;
    all->peer_count = program_usual_peers(all->peers);
    while ((option = getopt_long(argc, argv, "", turnover_options, NULL)) != -1)
        set_option(all, option, optarg);
    if (optind < argc)
        program_refuse("unexpected argument", argv[optind]);
}

static void check_room(const struct turnover *all)
{
    double largest = 2.2; /* RocksDB and LMDB beside a load */
    double needed;
    unsigned i;

    for (i = 0; i < all->ratio_count; i++) {
        double ratio = all->ratios[i] == OFF_PERCENT ? 3.2 : (double)all->ratios[i] / 100 + 1;

        largest = ratio > largest ? ratio : largest;
    }
    needed = largest * (double)(all->config.record_count * (record_size(&all->config) + 24)) +
             (1u << 30);
    if ((double)folder_free_bytes(all->folder.parent) > needed)
        return;
    fprintf(stderr, "turnover: %s has less than %.1f GiB free: use --dir, or fewer --records\n",
            all->folder.parent, needed / (1u << 30));
    program_folder_remove(&all->folder);
    exit(EXIT_FAILED);
}

static void print_header(const struct turnover *all)
{
    const struct bench_config *config = &all->config;
    unsigned i;

    machine_print_header(all->folder.path);
    printf("# records\t%" PRIu64 "\n# key\t%zu bytes\n# value\t%zu bytes\n", config->record_count,
           config->key_size, config->value_size);
    printf("# distribution\t%s\n# seed\t%" PRIu64 "\n", all->is_zipf ? "Zipf, 0.99" : "uniform",
           config->seed);
    printf("# turns\t%u\n# class\tprocess\n# samples\teach %u ms\n", all->turns, all->sample_ms);
    printf("# gets\tone reader for %u ms, alone and beside a writer; sections of %u\n",
           all->read_ms, SECTION_GETS);
    for (i = 0; i < all->peer_count; i++)
        program_print_peer(all->peers[i]);
    print_columns();
    fflush(stdout);
}

/* percent 0: a store that knows no ratio. */
static void run_one(struct turnover *all, const struct peer *peer, unsigned percent,
                    unsigned writer_count)
{
    double ratio = (percent ? percent : DEFAULT_PERCENT) / 100.0;
    struct turn_run *run = calloc(1, sizeof(*run)); /* large for a stack */

    if (!run)
        program_refuse("memory", "none left");
    all->config.compact_percent = percent;
    run->config = &all->config;
    run->target.peer = peer;
    run->zipf = all->is_zipf ? &all->zipf : NULL;
    run->writer_count = writer_count;
    run->read_ms = all->read_ms;
    run->sample_ms = all->sample_ms;
    run->put_goal = percent == OFF_PERCENT ? 2 * all->config.record_count
                                           : puts_for(all->config.record_count, ratio, all->turns);
    snprintf(run->target.path, sizeof(run->target.path), "%s/%s", all->folder.path, peer->name);
    if (run_phases(run) == PEER_OK) {
        print_run(run);
    } else if (!program_is_stopped()) {
        fprintf(stderr, "turnover: %s failed\n", peer->name);
        all->failed = 1;
    }
    all->wrong_count += run->wrong_count;
    if (run->target.handle)
        peer->close(run->target.handle);
    folder_remove(run->target.path);
    free(run);
}

static void run_peer(struct turnover *all, const struct peer *peer, unsigned writer_count)
{
    unsigned i;

    if (strcmp(peer->name, "keepmap")) {
        run_one(all, peer, 0, writer_count);
        return;
    }
    for (i = 0; i < all->ratio_count && !program_is_stopped(); i++)
        run_one(all, peer, (unsigned)all->ratios[i], writer_count);
}

int main(int argc, char **argv)
{
    static struct turnover all;
    unsigned i, j;

    parse(&all, argc, argv);
    all.config.ticks_per_ns = ticks_calibrate();
    all.config.section_count = SECTION_GETS;
    all.config.round_count = 1;
    if (all.is_zipf)
        zipf_init(&all.zipf, all.config.record_count);
    program_folder_begin(&all.folder);
    check_room(&all);
    program_folder_make(&all.folder);
    program_catch_signals();
    print_header(&all);
    for (i = 0; i < all.writers_count; i++) {
        for (j = 0; j < all.peer_count && !program_is_stopped(); j++)
            run_peer(&all, all.peers[j], (unsigned)all.writers[i]);
    }
    program_folder_remove(&all.folder);
    if (all.wrong_count)
        fprintf(stderr, "turnover: %" PRIu64 " wrong answers\n", all.wrong_count);
    if (all.failed || program_is_stopped())
        return EXIT_FAILED;
    return all.wrong_count ? EXIT_WRONG : 0;
}
