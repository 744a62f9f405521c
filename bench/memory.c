/* SPDX-License-Identifier: Apache-2.0
 *
 * memory.c -- anonymous memory of a process while Keepmap compacts, writes index images and backs
 * up.
 *
 * M1. What counts is RssAnon: pages of files are the kernel's to take away.
 * M2. Each phase is in a process of its own, forked from one that never opened a store. It opens
 *     the same store without an index image, so that the whole index is in memory in all of them.
 * M3. In every phase but "rest" one thread overwrites records, chosen uniformly, without a pause.
 *     "writing" does nothing else, and its median is the steady state that others are compared
 * with. M4. Samples count from the time on when the phase's work has begun, and a third of its
 * length later. M5. Segments grow with the log, up to 32 MiB, and ready ones are anonymous memory.
 * So all records are put twice before the first phase, and figures of fewer than some million
 * records show the growth of segments rather than the work.
 *
 * Output: see turnover.c.
 */
#include "program.h"
#include "ticks.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <keepmap/keepmap.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SAMPLE_MS = 5, SAMPLE_COUNT_MAX = 200000 };

#define NO_IMAGES (UINT64_C(1) << 60) /* bytes of log from one to the next */

struct phase {
    const char *name;
    uint32_t compact_percent; /* 10000: none */
    uint32_t image_parts;     /* images per live bytes of log; 0: none; 1000: the default growth */
    int writes;
    void *(*work)(void *); /* in a thread, again and again until the end; NULL: none */
};

struct memory {
    struct bench_config config;
    struct program_folder folder;
    char path[BENCH_PATH_MAX];
    char backup_path[BENCH_PATH_MAX];
    unsigned phase_ms;
};

/* What a child tells the parent; bytes. */
struct memory_report {
    int failed;
    uint64_t median, highest;
    uint64_t put_count, work_count, image_count, compacted_bytes;
};

/* A phase while it goes on. */
struct phase_run {
    const struct memory *all;
    km_store *store;
    km_map *map;
    atomic_int stop, failed;
    uint64_t put_count, work_count;
};

static int is_over(struct phase_run *run)
{
    return atomic_load_explicit(&run->stop, memory_order_relaxed) || program_is_stopped();
}

static void fail_phase(struct phase_run *run, const char *what, km_status status)
{
    fprintf(stderr, "memory: %s: %s\n", what, km_status_name(status));
    atomic_store_explicit(&run->failed, 1, memory_order_relaxed);
}

/* ---- the work ----------------------------------------------------------------------------- */

static km_status put_record(const struct memory *all, km_map *map, uint64_t id, uint64_t version)
{
    const struct bench_config *config = &all->config;
    unsigned char key[PEER_KEY_SIZE_MAX];
    unsigned char value[1024];

    peer_make_key(config->seed, id, config->key_size, key);
    peer_make_value(config->seed, id, version, config->value_size, value);
    return km_put(map, km_bytes_of(key, config->key_size), km_bytes_of(value, config->value_size),
                  NULL);
}

static void *run_overwriter(void *opaque)
{
    struct phase_run *run = opaque;
    uint64_t record_count = run->all->config.record_count;
    uint64_t random, id;
    km_status status = KM_OK;

    while (!status && !is_over(run)) {
        random = peer_mix(run->all->config.seed + ++run->put_count);
        id = (uint64_t)((unsigned __int128)random * record_count >> 64);
        status = put_record(run->all, run->map, id, run->put_count);
    }
    if (status)
        fail_phase(run, "put", status);
    return NULL;
}

static int progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    (void)done_bytes;
    (void)total_bytes;
    return is_over(context);
}

static void *run_compactions(void *opaque)
{
    struct phase_run *run = opaque;
    km_status status = KM_OK;

    while (!status && !is_over(run)) {
        status = km_compact(run->store, progress, run, NULL);
        run->work_count++;
    }
    if (status && status != KM_STOPPED)
        fail_phase(run, "compact", status);
    return NULL;
}

static void *run_backups(void *opaque)
{
    struct phase_run *run = opaque;
    km_backup_options options = {
        .struct_size = sizeof(options), .copy = 1, .progress = progress, .progress_context = run};
    km_status status = KM_OK;

    while (!status && !is_over(run)) {
        status = km_backup(run->store, run->all->backup_path, &options, NULL, NULL);
        if (!status)
            folder_remove(run->all->backup_path);
        run->work_count++;
    }
    if (status && status != KM_STOPPED)
        fail_phase(run, "backup", status);
    return NULL;
}

static const struct phase phases[] = {
    {"rest", 10000, 0, 0, NULL},
    {"writing", 10000, 0, 1, NULL},
    {"and images", 10000, 10, 1, NULL},
    {"and km_backup, copying", 10000, 0, 1, run_backups},
    {"and km_compact", 10000, 0, 1, run_compactions},
    {"and compaction at 1.25", 125, 0, 1, NULL},
    {"defaults", 0, 1000, 1, NULL},
    {"defaults and km_backup, copying", 0, 1000, 1, run_backups},
};

/* ---- a phase ------------------------------------------------------------------------------ */

static void sleep_ms(unsigned ms)
{
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};

    nanosleep(&time, NULL);
}

static int compare_numbers(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;

    return (left > right) - (left < right);
}

static void take_samples(struct phase_run *run, struct memory_report *report)
{
    static uint64_t samples[SAMPLE_COUNT_MAX];
    size_t count = 0;
    uint64_t end;

    sleep_ms(run->all->phase_ms / 3);
    end = ticks_clock_ns() + (uint64_t)run->all->phase_ms * 1000000;
    while (count < SAMPLE_COUNT_MAX && ticks_clock_ns() < end && !is_over(run)) {
        samples[count++] = machine_status_bytes("RssAnon:");
        sleep_ms(SAMPLE_MS);
    }
    if (!count)
        return;
    qsort(samples, count, sizeof(samples[0]), compare_numbers);
    report->median = samples[count / 2];
    report->highest = samples[count - 1];
}

static km_status open_store(struct phase_run *run, const struct phase *phase)
{
    const struct bench_config *config = &run->all->config;
    uint64_t live = config->record_count * ((16 + config->key_size + config->value_size + 7) & ~7u);
    km_options options = KM_OPTIONS_INIT;
    km_status status;

    options.compact_percent = phase->compact_percent;
    if (phase->image_parts != 1000)
        options.image_growth = phase->image_parts ? live / phase->image_parts : NO_IMAGES;
    status = km_open(run->all->path, &options, &run->store, NULL);
    if (status)
        return status;
    return km_map_open_or_create(run->store, km_bytes_of_string("bench"), KM_HASH, &run->map);
}

static void run_threads(struct phase_run *run, const struct phase *phase,
                        struct memory_report *report)
{
    pthread_t writer, worker;
    int has_writer = phase->writes && !pthread_create(&writer, NULL, run_overwriter, run);
    int has_worker = phase->work && !pthread_create(&worker, NULL, phase->work, run);

    take_samples(run, report);
    atomic_store_explicit(&run->stop, 1, memory_order_relaxed);
    if (has_writer)
        pthread_join(writer, NULL);
    if (has_worker)
        pthread_join(worker, NULL);
}

static void phase_child(const struct memory *all, const struct phase *phase,
                        struct memory_report *report)
{
    struct phase_run run = {.all = all};
    km_stats stats = {.struct_size = sizeof(stats)};
    km_status status = open_store(&run, phase);

    if (status) {
        fail_phase(&run, "open", status);
    } else {
        machine_settle_ns();
        run_threads(&run, phase, report);
        report->put_count = run.put_count;
        report->work_count = run.work_count;
        if (km_store_stats(run.store, &stats) == KM_OK) {
            report->image_count = stats.image_count;
            report->compacted_bytes = stats.compacted_bytes;
        }
    }
    status = km_close(run.store, NULL);
    if (status)
        fail_phase(&run, "close", status);
    report->failed = atomic_load_explicit(&run.failed, memory_order_relaxed);
}

static void load_child(const struct memory *all, const struct phase *phase,
                       struct memory_report *report)
{
    struct phase_run run = {.all = all};
    km_status status = open_store(&run, phase);
    uint64_t id;

    for (id = 0; id < 2 * all->config.record_count && !status; id++) /* M5 */
        status = put_record(all, run.map, id % all->config.record_count, id + 1);
    if (!status)
        status = km_close(run.store, NULL);
    report->failed = status != KM_OK;
}

typedef void (*phase_body)(const struct memory *all, const struct phase *phase,
                           struct memory_report *report);

static int run_child(const struct memory *all, phase_body body, const struct phase *phase,
                     struct memory_report *out_report)
{
    struct memory_report report = {0};
    int ends[2];
    ssize_t size;
    pid_t pid;

    if (pipe(ends))
        return -1;
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        body(all, phase, &report);
        _exit(write(ends[1], &report, sizeof(report)) != sizeof(report));
    }
    close(ends[1]);
    size = pid < 0 ? -1 : read(ends[0], out_report, sizeof(*out_report));
    close(ends[0]);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return size == sizeof(*out_report) && !out_report->failed ? 0 : -1;
}

/* ---- the program -------------------------------------------------------------------------- */

static void print_phase(const struct phase *phase, const struct memory_report *report,
                        uint64_t steady)
{
    double mib = 1u << 20;

    printf("memory\t%s\t%.1f\t%.1f\t", phase->name, (double)report->median / mib,
           (double)report->highest / mib);
    if (steady)
        printf("%+.1f %%\t", ((double)report->highest / (double)steady - 1) * 100);
    else
        printf("-\t");
    printf("%" PRIu64 "\t%" PRIu64 "\t%.1f\t%" PRIu64 "\n", report->put_count, report->image_count,
           (double)report->compacted_bytes / mib, report->work_count);
    fflush(stdout);
}

static int run_phases(const struct memory *all)
{
    struct memory_report report;
    char image[BENCH_PATH_MAX + 16];
    km_error error;
    uint64_t steady = 0;
    size_t i;

    snprintf(image, sizeof(image), "%s/index.image", all->path);
    if (run_child(all, load_child, &phases[0], &report))
        return EXIT_FAILED;
    for (i = 0; i < sizeof(phases) / sizeof(phases[0]); i++) {
        if (unlink(image) && errno != ENOENT) /* M2 */
            return EXIT_FAILED;
        if (run_child(all, phase_child, &phases[i], &report) || program_is_stopped())
            return EXIT_FAILED;
        if (!strcmp(phases[i].name, "writing"))
            steady = report.median;
        print_phase(&phases[i], &report, steady);
    }
    if (km_verify(all->path, NULL, NULL, NULL, &error) != KM_OK) {
        fprintf(stderr, "memory: the store is damaged: %s\n", error.message);
        return EXIT_WRONG;
    }
    return 0;
}

static const struct option memory_options[] = {
    {"records", required_argument, NULL, 'n'}, {"phase-ms", required_argument, NULL, 'm'},
    {"dir", required_argument, NULL, 'd'},     {"seed", required_argument, NULL, 's'},
    {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0},
};

static void print_usage(FILE *file)
{
    fprintf(file, "usage: memory [options]\n"
                  "  --records N      records of 20+100 bytes (3000000)\n"
                  "  --phase-ms MS    length of a phase (5000)\n"
                  "  --dir DIR        where to put the data (bench-data beside this program)\n"
                  "  --seed S         of keys and choices (1)\n");
}

static void set_option(struct memory *all, int option, char *text)
{
    switch (option) {
    case 'n': all->config.record_count = program_number("--records", text, 1000, 1u << 30); break;
    case 'm': all->phase_ms = (unsigned)program_number("--phase-ms", text, 10, 600000); break;
    case 'd': all->folder.parent = text; break;
    case 's': all->config.seed = program_number("--seed", text, 0, UINT64_MAX); break;
    case 'h': print_usage(stdout); exit(0);
    default: print_usage(stderr); exit(EXIT_FAILED);
    }
}

static void print_header(const struct memory *all)
{
    machine_print_header(all->folder.path);
    printf("# records\t%" PRIu64 "\n# key\t20 bytes\n# value\t100 bytes\n# phases\t%u ms each\n",
           all->config.record_count, all->phase_ms);
    printf("columns\tmemory\tphase\tmedian MiB\thighest MiB\thighest over writing\tputs\timages\t"
           "moved MiB\tcalls\n");
}

int main(int argc, char **argv)
{
    static struct memory all;
    int option;
    int status;

    all.config = (struct bench_config){
        .record_count = 3000000, .key_size = 20, .value_size = 100, .seed = 1};
    all.phase_ms = 5000;
    while ((option = getopt_long(argc, argv, "", memory_options, NULL)) != -1)
        set_option(&all, option, optarg);
    if (optind < argc)
        program_refuse("unexpected argument", argv[optind]);
    program_folder_begin(&all.folder);
    program_folder_make(&all.folder);
    program_catch_signals();
    snprintf(all.path, sizeof(all.path), "%s/store", all.folder.path);
    snprintf(all.backup_path, sizeof(all.backup_path), "%s/backup", all.folder.path);
    print_header(&all);
    status = run_phases(&all);
    program_folder_remove(&all.folder);
    return status;
}
