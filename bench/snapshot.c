/* SPDX-License-Identifier: Apache-2.0
 *
 * snapshot.c -- snapshots of a store beside writers: how long taking one takes, what it does to
 * puts, what it keeps, how fast it is read.
 *
 * N1. The phases of a store: load; puts of random keys for a while ("plain"); the same while many
 *     snapshots are taken, held for a moment and closed ("taking"); then one snapshot is held while
 *     every key is overwritten once, in random order ("held").
 * N2. The held snapshot is taken while no put is under way, so what it must have is known: every
 * key once, and no version of the phase "held". What is there beside it must have every key in that
 *     version. Both are walked over whole.
 * N3. Each id is written by one thread.
 *
 * Output: tables of tab-separated lines; "columns" lines name their columns. table.sh lays them
 * out.
 */
#include "program.h"
#include "ticks.h"

#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    SNAPSHOT_TAKE_MAX = 10000,
    SNAPSHOT_HOLD_US = 2000,  /* a taken snapshot is held so long, */
    SNAPSHOT_PAUSE_US = 1000, /* and the next one taken so long after it */
    SNAPSHOT_STOP_EVERY = 64, /* puts between looks at the stop flag; a power of two */
    SNAPSHOT_GOAL_US = 50
};

enum phase { PHASE_PLAIN, PHASE_TAKING, PHASE_HELD, PHASE_COUNT };

static const char *const phase_names[PHASE_COUNT] = {"plain", "taking", "held"};

struct snapshot_all {
    struct bench_config config;
    struct program_folder folder;
    const struct peer *peers[BENCH_PEER_MAX];
    unsigned peer_count;
    unsigned writer_count;
    unsigned plain_ms;
    unsigned take_count;
    uint64_t number_sum; /* of all keys */
    uint64_t wrong_count;
    int failed;
};

struct put_figures {
    struct histogram latency; /* in ticks, between the ends of two puts of a thread */
    uint64_t put_count;       /* without the one that failed, if one did */
    double puts_per_second;
};

struct snapshot_run;

struct writer {
    struct snapshot_run *run;
    unsigned index;
    int each_once; /* every id of its own; else random ones until told to stop */
    uint64_t random;
    uint64_t version;
    uint64_t put_count;
    int failed;
    pthread_t thread;
    struct histogram latency;
};

struct snapshot_run {
    struct snapshot_all *all;
    struct target target;
    atomic_int stop_writers;
    struct writer writers[BENCH_THREAD_MAX];
    uint64_t phase_start_ticks;
    struct put_figures puts[PHASE_COUNT];
    uint64_t take_ticks[SNAPSHOT_TAKE_MAX];
    uint64_t close_ticks[SNAPSHOT_TAKE_MAX];
    uint64_t held_bytes, anonymous_bytes, disk_bytes;
    double snapshot_ns, live_ns; /* a record; 0: not walked */
    uint64_t wrong_count;
};

static void sleep_us(unsigned us)
{
    struct timespec time = {us / 1000000, (long)(us % 1000000) * 1000};

    nanosleep(&time, NULL);
}

/* ---- writers ------------------------------------------------------------------------------ */

/* How many ids there are for a writer: its index and each writer_count-th after it. */
static uint64_t own_count(const struct writer *writer)
{
    const struct snapshot_all *all = writer->run->all;

    return (all->config.record_count - writer->index + all->writer_count - 1) / all->writer_count;
}

/* The ids of a writer in an order that is the same in every run, neither that of the load nor that
 * of the keys: steps that are prime to their number. */
static uint64_t next_id(struct writer *writer, uint64_t count, uint64_t step)
{
    if (writer->each_once) {
        writer->random = (writer->random + step) % count;
    } else {
        writer->random += 0x9e3779b97f4a7c15u;
        return (uint64_t)((unsigned __int128)peer_mix(writer->random) * count >> 64);
    }
    return writer->random;
}

static uint64_t step_through(uint64_t count)
{
    uint64_t step = (uint64_t)((double)count * 0.6180339887) | 1;
    uint64_t a, b, rest;

    for (;; step += 2) { /* ends soon: every third odd number or so is prime to a given one */
        for (a = count, b = step; b; b = rest) {
            rest = a % b;
            a = b;
        }
        if (a == 1)
            return step;
    }
}

static void put_for_a_while(struct writer *self, void *session, unsigned char *value)
{
    const struct snapshot_all *all = self->run->all;
    const struct bench_config *config = &all->config;
    const struct peer *peer = self->run->target.peer;
    uint64_t count = own_count(self);
    uint64_t step = step_through(count);
    uint64_t limit = self->each_once ? count : UINT64_MAX;
    unsigned char key[PEER_KEY_SIZE_MAX];
    uint64_t last = ticks_now();
    uint64_t id, now;

    while (!self->failed && self->put_count < limit) {
        id = next_id(self, count, step) * all->writer_count + self->index; /* N3 */
        peer_make_key(config->seed, id, config->key_size, key);
        peer_make_value(config->seed, id, self->version, config->value_size, value);
        self->failed = peer->put(session, (struct peer_bytes){key, config->key_size},
                                 (struct peer_bytes){value, config->value_size}) != PEER_OK;
        now = ticks_now();
        histogram_add(&self->latency, now - last);
        last = now;
        self->put_count += !self->failed;
        self->version += !self->each_once;
        if (self->put_count % SNAPSHOT_STOP_EVERY == 0 &&
            (atomic_load_explicit(&self->run->stop_writers, memory_order_relaxed) ||
             program_is_stopped()))
            break;
    }
}

static void *run_writer(void *opaque)
{
    struct writer *self = opaque;
    const struct peer *peer = self->run->target.peer;
    unsigned char *value = malloc(self->run->all->config.value_size);
    void *session = NULL;

    self->failed = !value || peer->session_open(self->run->target.handle, &session) != PEER_OK;
    if (!self->failed)
        put_for_a_while(self, session, value);
    if (session)
        peer->session_close(session);
    free(value);
    return NULL;
}

static void start_writers(struct snapshot_run *run, enum phase phase, uint64_t version)
{
    struct writer *writer;
    unsigned i;

    atomic_store_explicit(&run->stop_writers, 0, memory_order_relaxed);
    run->phase_start_ticks = ticks_now();
    for (i = 0; i < run->all->writer_count; i++) {
        writer = &run->writers[i];
        writer->run = run;
        writer->index = i;
        writer->each_once = phase == PHASE_HELD;
        writer->random = phase == PHASE_HELD ? 0
                                             : peer_mix(run->all->config.seed * 64 + i * 8 + phase);
        writer->version = version;
        writer->put_count = 0;
        histogram_init(&writer->latency);
        if (pthread_create(&writer->thread, NULL, run_writer, writer)) {
            perror("snapshot: thread");
            exit(EXIT_FAILED);
        }
    }
}

/* Wait for the writers, which have been told to stop or will by themselves; returns the version
 * after the highest they put, 0 if one of them failed. */
static uint64_t join_writers(struct snapshot_run *run, enum phase phase)
{
    struct put_figures *puts = &run->puts[phase];
    uint64_t version = 0;
    int failed = 0;
    unsigned i;

    for (i = 0; i < run->all->writer_count; i++) {
        struct writer *writer = &run->writers[i];

        pthread_join(writer->thread, NULL);
        failed |= writer->failed;
        puts->put_count += writer->put_count;
        if (writer->version + 1 > version)
            version = writer->version + 1;
        histogram_merge(&puts->latency, &writer->latency);
    }
    puts->puts_per_second = (double)puts->put_count * 1e9 * run->all->config.ticks_per_ns /
                            (double)(ticks_now() - run->phase_start_ticks);
    return failed ? 0 : version;
}

static uint64_t stop_writers(struct snapshot_run *run, enum phase phase)
{
    atomic_store_explicit(&run->stop_writers, 1, memory_order_relaxed);
    return join_writers(run, phase);
}

/* ---- phases: N1 --------------------------------------------------------------------------- */

static int take_one(struct snapshot_run *run, unsigned index)
{
    const struct peer *peer = run->target.peer;
    uint64_t start = ticks_now();
    void *snapshot;

    if (peer->snapshot_open(run->target.handle, &snapshot) != PEER_OK)
        return PEER_FAILED;
    run->take_ticks[index] = ticks_now() - start;
    sleep_us(SNAPSHOT_HOLD_US);
    start = ticks_now();
    peer->snapshot_close(run->target.handle, snapshot);
    run->close_ticks[index] = ticks_now() - start;
    sleep_us(SNAPSHOT_PAUSE_US);
    return PEER_OK;
}

static uint64_t run_plain(struct snapshot_run *run, uint64_t version)
{
    unsigned i;

    start_writers(run, PHASE_PLAIN, version);
    for (i = 0; i < run->all->plain_ms && !program_is_stopped(); i++)
        sleep_us(1000);
    return stop_writers(run, PHASE_PLAIN);
}

static uint64_t run_taking(struct snapshot_run *run, uint64_t version)
{
    int rc = PEER_OK;
    unsigned i;

    start_writers(run, PHASE_TAKING, version);
    for (i = 0; i < run->all->take_count && rc == PEER_OK && !program_is_stopped(); i++)
        rc = take_one(run, i);
    version = stop_writers(run, PHASE_TAKING);
    return rc == PEER_OK ? version : 0;
}

static struct peer_scan new_scan(const struct snapshot_run *run, uint64_t version_min)
{
    const struct bench_config *config = &run->all->config;

    return (struct peer_scan){
        .limit = UINT64_MAX,
        .key_size = config->key_size,
        .check = {.version_min = version_min, .value_size = config->value_size},
    };
}

/* N2: every key once, and no version above the highest allowed. */
static uint64_t wrong_in(const struct snapshot_run *run, const struct peer_scan *scan,
                         uint64_t version_max)
{
    return scan->check.wrong_count + (scan->rank != run->all->config.record_count) +
           (scan->sum != run->all->number_sum) + (scan->version_highest > version_max);
}

static int walk_snapshot(struct snapshot_run *run, void *snapshot, uint64_t held_version)
{
    struct peer_scan scan = new_scan(run, 1);
    uint64_t start = ticks_now();

    if (run->target.peer->snapshot_walk(run->target.handle, snapshot, &scan) != PEER_OK)
        return PEER_FAILED;
    run->snapshot_ns = (double)(ticks_now() - start) / run->all->config.ticks_per_ns /
                       (double)(scan.rank ? scan.rank : 1);
    run->wrong_count += wrong_in(run, &scan, held_version - 1);
    return PEER_OK;
}

static int walk_live(struct snapshot_run *run, uint64_t held_version)
{
    const struct peer *peer = run->target.peer;
    struct peer_scan scan = new_scan(run, held_version);
    uint64_t start;
    void *session;
    int rc = PEER_OK;

    if (peer->session_open(run->target.handle, &session) != PEER_OK)
        return PEER_FAILED;
    start = ticks_now();
    if (peer->scan_begin)
        rc = peer->scan_begin(session);
    if (rc == PEER_OK) {
        rc = peer->scan(session, &scan);
        if (peer->scan_end)
            peer->scan_end(session);
    }
    run->live_ns = (double)(ticks_now() - start) / run->all->config.ticks_per_ns /
                   (double)(scan.rank ? scan.rank : 1);
    peer->session_close(session);
    run->wrong_count += wrong_in(run, &scan, held_version);
    return rc;
}

static uint64_t grown(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

/* A store may be unable to go on under a snapshot (LMDB's file fills up): that is a result. */
static int run_held(struct snapshot_run *run, uint64_t held_version)
{
    const struct peer *peer = run->target.peer;
    uint64_t anonymous = machine_status_bytes("RssAnon:");
    uint64_t disk = folder_disk_bytes(run->target.path);
    void *snapshot;
    int is_whole;
    int rc;

    if (peer->snapshot_open(run->target.handle, &snapshot) != PEER_OK)
        return PEER_FAILED;
    start_writers(run, PHASE_HELD, held_version);
    is_whole = join_writers(run, PHASE_HELD) != 0;
    if (peer->snapshot_bytes)
        run->held_bytes = peer->snapshot_bytes(run->target.handle, snapshot);
    machine_settle_ns();
    run->anonymous_bytes = grown(machine_status_bytes("RssAnon:"), anonymous);
    run->disk_bytes = grown(folder_disk_bytes(run->target.path), disk);
    rc = program_is_stopped() ? PEER_FAILED : walk_snapshot(run, snapshot, held_version);
    if (rc == PEER_OK && is_whole)
        rc = walk_live(run, held_version);
    peer->snapshot_close(run->target.handle, snapshot);
    return rc;
}

static int run_phases(struct snapshot_run *run)
{
    struct snapshot_all *all = run->all;
    const struct peer *peer = run->target.peer;
    uint64_t version;

    if (folder_make(run->target.path) || target_open(&all->config, &run->target) != PEER_OK)
        return PEER_FAILED;
    if (workload_fill(&all->config, &run->target, 0, all->config.record_count) != PEER_OK)
        return PEER_FAILED;
    if (peer->after_load && peer->after_load(run->target.handle) != PEER_OK)
        return PEER_FAILED;
    machine_settle_ns();
    version = run_plain(run, all->config.record_count + 1); /* the load's went up to the count */
    if (version)
        version = run_taking(run, version);
    return version && !program_is_stopped() ? run_held(run, version) : PEER_FAILED;
}

/* ---- output ------------------------------------------------------------------------------- */

static void print_columns(void)
{
    printf("columns\tputs\tstore\tphase\tputs\tputs/s\tp50 us\tp99 us\tp99.9 us\tlongest ms\n"
           "columns\ttaking\tstore\tsnapshots\tmedian us\tp90 us\tp99 us\tlongest us\t"
           "close median us\tlongest us\n"
           "columns\tholding\tstore\tkeys\toverwritten\tindex MiB\tmemory MiB more\t"
           "disk MiB more\n"
           "columns\twalk\tstore\tsnapshot ns a record\tlive ns a record\twrong\n"
           "columns\tgoals\tgoal\tmeasured\twanted\theld\n");
}

static int compare_ticks(const void *left, const void *right)
{
    uint64_t l = *(const uint64_t *)left;
    uint64_t r = *(const uint64_t *)right;

    return (l > r) - (l < r);
}

static double to_us(const struct snapshot_run *run, uint64_t ticks)
{
    return (double)ticks / run->all->config.ticks_per_ns / 1e3;
}

static double quantile_us(const struct snapshot_run *run, enum phase phase, double part)
{
    return to_us(run, histogram_quantile(&run->puts[phase].latency, part));
}

static void print_puts(const struct snapshot_run *run, enum phase phase)
{
    const struct put_figures *puts = &run->puts[phase];

    printf("puts\t%s\t%s\t%" PRIu64 "\t%.0f\t%.2f\t%.2f\t%.1f\t%.2f\n", run->target.peer->name,
           phase_names[phase], puts->put_count, puts->puts_per_second, quantile_us(run, phase, 0.5),
           quantile_us(run, phase, 0.99), quantile_us(run, phase, 0.999),
           to_us(run, puts->latency.max) / 1e3);
}

static void print_goal(const struct snapshot_run *run, const char *what, double us)
{
    printf("goals\t%s: %s, us\t%.2f\t< %d\t%s\n", run->target.peer->name, what, us,
           SNAPSHOT_GOAL_US, us < SNAPSHOT_GOAL_US ? "yes" : "NO");
}

static void print_run(struct snapshot_run *run)
{
    const char *name = run->target.peer->name;
    unsigned count = run->all->take_count;
    double mib = 1u << 20;
    unsigned phase;

    qsort(run->take_ticks, count, sizeof(run->take_ticks[0]), compare_ticks);
    qsort(run->close_ticks, count, sizeof(run->close_ticks[0]), compare_ticks);
    for (phase = 0; phase < PHASE_COUNT; phase++)
        print_puts(run, phase);
    printf("taking\t%s\t%u\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\n", name, count,
           to_us(run, run->take_ticks[count / 2]), to_us(run, run->take_ticks[count * 9 / 10]),
           to_us(run, run->take_ticks[count * 99 / 100]), to_us(run, run->take_ticks[count - 1]),
           to_us(run, run->close_ticks[count / 2]), to_us(run, run->close_ticks[count - 1]));
    printf("holding\t%s\t%" PRIu64 "\t%" PRIu64 "\t", name, run->all->config.record_count,
           run->puts[PHASE_HELD].put_count);
    if (run->target.peer->snapshot_bytes)
        printf("%.1f", (double)run->held_bytes / mib);
    else
        printf("-");
    printf("\t%.1f\t%.1f\n", (double)run->anonymous_bytes / mib, (double)run->disk_bytes / mib);
    printf("walk\t%s\t%.1f\t", name, run->snapshot_ns);
    if (run->live_ns > 0)
        printf("%.1f", run->live_ns);
    else
        printf("-");
    printf("\t%" PRIu64 "\n", run->wrong_count);
    if (!strncmp(name, "keepmap", strlen("keepmap"))) {
        print_goal(run, "snapshot taken, median", to_us(run, run->take_ticks[count / 2]));
        print_goal(run, "put p99.9, snapshot held", quantile_us(run, PHASE_HELD, 0.999));
    }
    fflush(stdout);
}

static void print_header(const struct snapshot_all *all)
{
    const struct bench_config *config = &all->config;
    unsigned i;

    machine_print_header(all->folder.path);
    printf("# records\t%" PRIu64 "\n# key\t%zu bytes\n# value\t%zu bytes\n", config->record_count,
           config->key_size, config->value_size);
    printf("# distribution\tuniform; while a snapshot is held, each key once, in mixed order\n"
           "# seed\t%" PRIu64 "\n# class\tprocess\n# writers\t%u\n",
           config->seed, all->writer_count);
    printf("# plain\t%u ms\n# taking\t%u snapshots, each held for %d us, %d us between\n",
           all->plain_ms, all->take_count, SNAPSHOT_HOLD_US, SNAPSHOT_PAUSE_US);
    printf("# clock\t%s, %.1f ns a reading, one to a put\n", TICKS_SOURCE,
           ticks_overhead_ns(config->ticks_per_ns));
    for (i = 0; i < all->peer_count; i++)
        program_print_peer(all->peers[i]);
    print_columns();
    fflush(stdout);
}

/* ---- options and the program -------------------------------------------------------------- */

static const struct option snapshot_options[] = {
    {"records", required_argument, NULL, 'n'},
    {"peers", required_argument, NULL, 'p'},
    {"writers", required_argument, NULL, 'w'},
    {"plain-ms", required_argument, NULL, 'm'},
    {"takes", required_argument, NULL, 't'},
    {"key", required_argument, NULL, 'k'},
    {"value-size", required_argument, NULL, 'v'},
    {"quick", no_argument, NULL, 'q'},
    {"dir", required_argument, NULL, 'd'},
    {"seed", required_argument, NULL, 's'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void print_usage(FILE *file)
{
    fprintf(file, "usage: snapshot [options]\n"
                  "  --records N      records in each store (1000000)\n"
                  "  --peers A,B      keepmap (KM_HASH), keepmap-insertion, keepmap-sorted, lmdb,\n"
                  "                   rocksdb, as far as they are built in\n"
                  "  --writers W      threads that put (2)\n"
                  "  --plain-ms MS    length of the phase without snapshots (2000)\n"
                  "  --takes T        snapshots of the phase that takes them (200)\n"
                  "  --key u64|16|20  bytes of a key: 8, 16 or 20 (20)\n"
                  "  --value-size S   16 to 65536 (100)\n"
                  "  --quick          small and short, to see that it works; options that follow\n"
                  "                   change it\n"
                  "  --dir DIR        where to put the data (bench-data beside this program)\n"
                  "  --seed S         of keys and choices (1)\n");
}

static void set_quick(struct snapshot_all *all)
{
    all->config.record_count = 20000;
    all->plain_ms = 30;
    all->take_count = 20;
}

static void set_option(struct snapshot_all *all, int option, char *text)
{
    struct bench_config *config = &all->config;

    switch (option) {
    case 'n': config->record_count = program_number("--records", text, 1000, 1u << 30); break;
    case 'p': all->peer_count = program_peers(text, all->peers); break;
    case 'w':
        all->writer_count = (unsigned)program_number("--writers", text, 1, BENCH_THREAD_MAX);
        break;
    case 'm': all->plain_ms = (unsigned)program_number("--plain-ms", text, 1, 600000); break;
    case 't':
        all->take_count = (unsigned)program_number("--takes", text, 1, SNAPSHOT_TAKE_MAX);
        break;
    case 'k': config->key_size = program_key_size(text); break;
    case 'v':
        config->value_size = program_number("--value-size", text, PEER_VALUE_SIZE_MIN, 1u << 16);
        break;
    case 'q': set_quick(all); break;
    case 'd': all->folder.parent = text; break;
    case 's': config->seed = program_number("--seed", text, 0, UINT64_MAX); break;
    case 'h': print_usage(stdout); exit(0);
    default: print_usage(stderr); exit(EXIT_FAILED);
    }
}

static int is_usual(const struct peer *peer)
{
    return peer->snapshot_open && strcmp(peer->name, "keepmap-memory");
}

static void choose_peers(struct snapshot_all *all)
{
    const struct peer *peer;
    unsigned i;

    for (i = 0; i < bench_order_peer_count; i++) {
        if (is_usual(bench_order_peers[i]))
            all->peers[all->peer_count++] = bench_order_peers[i];
    }
    for (i = 0; i < bench_peer_count; i++) {
        peer = bench_peers[i];
        if (is_usual(peer) && !strcmp(peer->name, "rocksdb")) /* in that table alone */
            all->peers[all->peer_count++] = peer;
    }
}

static void parse(struct snapshot_all *all, int argc, char **argv)
{
    unsigned i;
    int option;

    all->config = (struct bench_config){.record_count = 1000000,
                                        .round_count = 1,
                                        .section_count = 256,
                                        .key_size = 20,
                                        .value_size = 100,
                                        .seed = 1};
    all->writer_count = 2;
    all->plain_ms = 2000;
    all->take_count = 200;
    while ((option = getopt_long(argc, argv, "", snapshot_options, NULL)) != -1)
        set_option(all, option, optarg);
    if (optind < argc)
        program_refuse("unexpected argument", argv[optind]);
    if (!all->peer_count)
        choose_peers(all);
    for (i = 0; i < all->peer_count; i++) {
        if (!all->peers[i]->snapshot_open)
            program_refuse("this store takes no snapshots", all->peers[i]->name);
    }
}

static void check_room(const struct snapshot_all *all)
{
    const struct bench_config *config = &all->config;
    /* LMDB's file may grow to six times its data and 4 GiB */
    double needed = 7.0 * (double)(config->record_count *
                                   (config->key_size + config->value_size + 64)) +
                    5.0 * (1u << 30);

    if ((double)folder_free_bytes(all->folder.parent) > needed)
        return;
    fprintf(stderr, "snapshot: %s has less than %.1f GiB free: use --dir, or fewer --records\n",
            all->folder.parent, needed / (1u << 30));
    program_folder_remove(&all->folder);
    exit(EXIT_FAILED);
}

static void run_peer(struct snapshot_all *all, const struct peer *peer)
{
    struct snapshot_run *run = calloc(1, sizeof(*run)); /* large for a stack */

    if (!run)
        program_refuse("memory", "none left");
    run->all = all;
    run->target.peer = peer;
    run->target.record_count = all->config.record_count;
    snprintf(run->target.path, sizeof(run->target.path), "%s/%s", all->folder.path, peer->name);
    if (run_phases(run) == PEER_OK) {
        print_run(run);
    } else if (!program_is_stopped()) {
        fprintf(stderr, "snapshot: %s failed\n", peer->name);
        all->failed = 1;
    }
    all->wrong_count += run->wrong_count;
    if (run->target.handle)
        peer->close(run->target.handle);
    folder_remove(run->target.path);
    free(run);
}

int main(int argc, char **argv)
{
    static struct snapshot_all all;
    unsigned i;
    uint64_t id;

    parse(&all, argc, argv);
    all.config.ticks_per_ns = ticks_calibrate();
    for (id = 0; id < all.config.record_count; id++)
        all.number_sum += peer_key_number(all.config.seed, id);
    program_folder_begin(&all.folder);
    check_room(&all);
    program_folder_make(&all.folder);
    program_catch_signals();
    print_header(&all);
    for (i = 0; i < all.peer_count && !program_is_stopped(); i++)
        run_peer(&all, all.peers[i]);
    program_folder_remove(&all.folder);
    if (all.wrong_count)
        fprintf(stderr, "snapshot: %" PRIu64 " wrong answers\n", all.wrong_count);
    if (all.failed || program_is_stopped())
        return EXIT_FAILED;
    return all.wrong_count ? EXIT_WRONG : 0;
}
