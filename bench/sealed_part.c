/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_part.c -- one part of a round, in a process of its own: build a table, check one, read
 * one cold or warm, ask the device. What it measures goes to stdout.
 *
 * Q1. Memory is what the process has grown by since just before the build, at its highest: all
 *     resident pages as the kernel counts them, and anonymous ones as sampled each few ms.
 * Q2. Before each cold measure the store is closed and the page cache dropped; opening is not part
 *     of what is measured. Keys of cold gets stand so far apart that no two share a page of a
 *     sorted file.
 * Q3. Device reads are those of the whole disk that the files lie on, KiB those of this process.
 */
#include "bench.h"
#include "sealed.h"
#include "ticks.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum {
    PART_SAMPLE_US = 10000,
    PART_SLICE = 512,    /* gets between looks at the clock */
    PART_WARM_STEP = 16, /* of so many records one is got to warm up: each page is touched */
    PART_MANY_SLICE = 4, /* calls of get_many between looks at the clock */
    PART_DEVICE_DEPTH = 64,
    PART_DEVICE_MS_FACTOR = 2 /* a warm measure's time, so often */
};

struct part {
    const struct sealed_peer *peer;
    struct sealed_job *job;
    void *handle; /* NULL: closed */
    struct sealed_check check;
    uint64_t wrong_count; /* apart from check's: walks, counts */
    uint64_t random;
    char device_path[64]; /* statistics of the disk; empty: none to be had */
};

void sealed_print_figure(enum sealed_figure figure, double value)
{
    printf("%s %.17g\n", sealed_figure_names[figure], value);
}

static uint64_t next_random(struct part *part)
{
    return peer_mix(part->random += 0x9e3779b97f4a7c15u);
}

/* ---- counters of the kernel --------------------------------------------------------------- */

static uint64_t read_bytes_of_process(void)
{
    FILE *file = fopen("/proc/self/io", "r");
    char line[128];
    uint64_t bytes = 0;

    if (!file)
        return 0;
    while (fgets(line, sizeof(line), file)) {
        if (!strncmp(line, "read_bytes: ", 12))
            bytes = strtoull(line + 12, NULL, 10);
    }
    fclose(file);
    return bytes;
}

static void find_device(struct part *part)
{
    struct stat status;

    if (stat(part->job->path, &status))
        return;
    snprintf(part->device_path, sizeof(part->device_path), "/sys/dev/block/%u:%u/stat",
             major(status.st_dev), minor(status.st_dev));
    if (access(part->device_path, R_OK))
        part->device_path[0] = 0;
}

/* Reads that the disk has completed; 0 if that cannot be known. */
static uint64_t reads_of_device(const struct part *part)
{
    FILE *file = part->device_path[0] ? fopen(part->device_path, "r") : NULL;
    uint64_t reads = 0;

    if (!file)
        return 0;
    if (fscanf(file, "%" SCNu64, &reads) != 1)
        reads = 0;
    fclose(file);
    return reads;
}

static uint64_t anonymous_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    uint64_t size, resident = 0, shared = 0;

    if (!file)
        return 0;
    if (fscanf(file, "%" SCNu64 " %" SCNu64 " %" SCNu64, &size, &resident, &shared) != 3)
        resident = shared = 0;
    fclose(file);
    return resident > shared ? (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static double more_mib(uint64_t after, uint64_t before)
{
    return after > before ? (double)(after - before) / (1u << 20) : 0;
}

static double cpu_ns(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return 1e9 * (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e3 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

int sealed_can_drop_all(void)
{
    return access("/proc/sys/vm/drop_caches", W_OK) == 0;
}

static void drop_caches(const struct part *part)
{
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
    ssize_t size = -1;

    folder_sync(part->job->path); /* what is dirty cannot be dropped */
    if (fd >= 0) {
        size = write(fd, "3", 1);
        close(fd);
    }
    if (size != 1)
        folder_drop_cache(part->job->path);
}

/* ---- building ----------------------------------------------------------------------------- */

struct sampler {
    pthread_t thread;
    atomic_int stop;
    uint64_t highest; /* read after the thread has been joined */
};

static void *sample_memory(void *opaque)
{
    struct sampler *sampler = opaque;
    struct timespec pause = {0, PART_SAMPLE_US * 1000};
    uint64_t bytes;

    /* relaxed: only ends the loop */
    while (!atomic_load_explicit(&sampler->stop, memory_order_relaxed)) {
        bytes = anonymous_bytes();
        if (bytes > sampler->highest)
            sampler->highest = bytes;
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static void print_build(struct part *part, const double *values)
{
    int first = part->job->in_random_order ? FIGURE_RANDOM_NS : FIGURE_SORTED_NS;
    double payload = (double)part->job->record_count * SEALED_PAYLOAD_SIZE;
    unsigned i;

    for (i = 0; i < 4; i++)
        sealed_print_figure((enum sealed_figure)(first + (int)i), values[i]);
    sealed_print_figure((enum sealed_figure)(first + 4),
                        (double)folder_disk_bytes(part->job->path) / payload);
}

/* Q1. */
static int run_build(struct part *part)
{
    struct sampler sampler = {.stop = 0};
    uint64_t resident = machine_status_bytes("VmRSS:");
    uint64_t anonymous = anonymous_bytes();
    double count = (double)part->job->record_count;
    double cpu, values[4];
    uint64_t start;
    int rc;

    folder_sync(part->job->path); /* others' dirty pages are not this build's to write */
    if (pthread_create(&sampler.thread, NULL, sample_memory, &sampler))
        return PEER_FAILED;
    cpu = cpu_ns();
    start = ticks_clock_ns();
    rc = part->peer->build(part->job);
    values[0] = (double)(ticks_clock_ns() - start) / count;
    values[1] = (cpu_ns() - cpu) / count;
    values[2] = more_mib(machine_status_bytes("VmHWM:"), resident);
    atomic_store_explicit(&sampler.stop, 1, memory_order_relaxed); /* only ends its loop */
    pthread_join(sampler.thread, NULL);
    values[3] = more_mib(sampler.highest, anonymous);
    if (rc == PEER_OK)
        print_build(part, values);
    return rc;
}

/* ---- reading ------------------------------------------------------------------------------ */

static void close_store(struct part *part)
{
    if (part->handle)
        part->peer->close(part->handle);
    part->handle = NULL;
}

static int open_store(struct part *part, enum sealed_use use)
{
    close_store(part);
    part->job->use = use;
    if (part->peer->open(part->job, &part->handle) == PEER_OK)
        return PEER_OK;
    part->handle = NULL;
    return PEER_FAILED;
}

static int get_one(struct part *part, uint64_t key)
{
    return part->peer->get(part->handle, key, &part->check);
}

static int get_some(struct part *part, const uint64_t *keys, size_t count)
{
    size_t i;
    int rc = PEER_OK;

    if (part->peer->get_many)
        return part->peer->get_many(part->handle, keys, count, &part->check);
    for (i = 0; i < count && rc != PEER_FAILED; i++)
        rc = get_one(part, keys[i]);
    return rc == PEER_FAILED ? PEER_FAILED : PEER_OK;
}

/* One walk over everything; its time, and whether all was there once. */
static int walk_all(struct part *part, uint64_t *out_ns)
{
    struct sealed_walk walk = {.job = part->job, .in_key_order = part->peer->must_sort};
    uint64_t key_sum = 0;
    uint64_t mixed_sum = 0;
    uint64_t start;
    uint64_t rank;

    walk.check.seed = part->job->seed;
    start = ticks_clock_ns();
    if (part->peer->walk(part->handle, &walk) != PEER_OK)
        return PEER_FAILED;
    *out_ns = ticks_clock_ns() - start;
    for (rank = 0; rank < part->job->record_count && !walk.in_key_order; rank++) {
        key_sum += sealed_key(part->job, rank);
        mixed_sum += peer_mix(sealed_key(part->job, rank));
    }
    part->wrong_count += walk.check.wrong_count + (walk.rank != part->job->record_count);
    if (!walk.in_key_order)
        part->wrong_count += walk.key_sum != key_sum || walk.mixed_sum != mixed_sum;
    return PEER_OK;
}

static double scan_gbs(const struct part *part, uint64_t ns)
{
    return (double)part->job->record_count * SEALED_PAYLOAD_SIZE / (double)ns;
}

/* ---- cold: Q2, Q3 ------------------------------------------------------------------------- */

static int open_cold(struct part *part, enum sealed_use use)
{
    close_store(part);
    drop_caches(part);
    return open_store(part, use);
}

/* A key for each of `count` gets, which are spread over the table and come in no order. */
static uint64_t spread_key(struct part *part, uint64_t place, uint64_t count)
{
    struct sealed_job places = *part->job;
    uint64_t step = part->job->record_count / count;
    uint64_t rank;

    places.record_count = count;
    sealed_job_init(&places);
    rank = sealed_rank(&places, place) * step + sealed_below(next_random(part), step / 2 + 1);
    return sealed_key(part->job, rank);
}

struct cold_start {
    uint64_t ns, reads, bytes;
};

static void cold_begin(const struct part *part, struct cold_start *start)
{
    start->reads = reads_of_device(part);
    start->bytes = read_bytes_of_process();
    start->ns = ticks_clock_ns();
}

/* Prints three figures from `first` on. */
static void cold_end(const struct part *part, const struct cold_start *start, uint64_t count,
                     enum sealed_figure first)
{
    double ns = (double)(ticks_clock_ns() - start->ns);
    double bytes = (double)(read_bytes_of_process() - start->bytes);
    double reads = (double)(reads_of_device(part) - start->reads);

    sealed_print_figure(first, ns / (double)count);
    if (part->device_path[0])
        sealed_print_figure(first + 1, reads / (double)count);
    sealed_print_figure(first + 2, bytes / (double)count / 1024);
}

static int cold_gets(struct part *part)
{
    uint64_t count = part->job->cold_get_count;
    uint64_t found = part->check.found_count;
    struct cold_start start;
    uint64_t *keys = malloc(count * sizeof(*keys));
    int rc = keys ? PEER_OK : PEER_FAILED;
    uint64_t i;

    for (i = 0; keys && i < count; i++)
        keys[i] = spread_key(part, i, count);
    cold_begin(part, &start);
    for (i = 0; i < count && rc == PEER_OK; i++)
        rc = get_one(part, keys[i]);
    cold_end(part, &start, count, FIGURE_COLD_GET_NS);
    part->wrong_count += rc != PEER_OK || part->check.found_count - found != count;
    free(keys);
    return rc == PEER_FAILED ? rc : PEER_OK;
}

static int cold_many(struct part *part)
{
    uint64_t count = part->job->cold_many_count * SEALED_MANY;
    uint64_t found = part->check.found_count;
    struct cold_start start;
    uint64_t *keys = malloc(count * sizeof(*keys));
    int rc = keys ? PEER_OK : PEER_FAILED;
    uint64_t i;

    for (i = 0; keys && i < count; i++)
        keys[i] = spread_key(part, i, count);
    cold_begin(part, &start);
    for (i = 0; i < count && rc == PEER_OK; i += SEALED_MANY)
        rc = get_some(part, keys + i, SEALED_MANY);
    cold_end(part, &start, count, FIGURE_COLD_MANY_NS);
    part->wrong_count += rc == PEER_OK && part->check.found_count - found != count;
    free(keys);
    return rc;
}

static int cold_absent(struct part *part)
{
    uint64_t count = part->job->cold_get_count;
    struct cold_start start;
    int rc = PEER_NOT_FOUND;
    uint64_t i;

    cold_begin(part, &start);
    for (i = 0; i < count && rc != PEER_FAILED; i++) {
        rc = get_one(part, sealed_absent_key(part->job, next_random(part)));
        part->wrong_count += rc != PEER_NOT_FOUND;
    }
    cold_end(part, &start, count, FIGURE_COLD_ABSENT_NS);
    return rc == PEER_FAILED ? rc : PEER_OK;
}

static int run_cold(struct part *part)
{
    uint64_t anonymous = anonymous_bytes();
    uint64_t start, ns;

    close_store(part);
    drop_caches(part);
    start = ticks_clock_ns();
    if (open_store(part, SEALED_COLD_GETS) != PEER_OK)
        return PEER_FAILED;
    sealed_print_figure(FIGURE_COLD_OPEN_MS, (double)(ticks_clock_ns() - start) / 1e6);
    sealed_print_figure(FIGURE_COLD_OPEN_MIB, more_mib(anonymous_bytes(), anonymous));
    if (cold_gets(part) != PEER_OK || open_cold(part, SEALED_COLD_GETS) != PEER_OK ||
        cold_many(part) != PEER_OK || open_cold(part, SEALED_COLD_GETS) != PEER_OK ||
        cold_absent(part) != PEER_OK || open_cold(part, SEALED_COLD_SCAN) != PEER_OK ||
        walk_all(part, &ns) != PEER_OK)
        return PEER_FAILED;
    sealed_print_figure(FIGURE_COLD_SCAN_GBS, scan_gbs(part, ns));
    return PEER_OK;
}

/* ---- warm --------------------------------------------------------------------------------- */

static int warm_up(struct part *part)
{
    struct sealed_job places = *part->job;
    uint64_t count = part->job->record_count / PART_WARM_STEP;
    uint64_t ns, i;
    int rc = walk_all(part, &ns);

    places.record_count = count;
    sealed_job_init(&places);
    for (i = 0; i < count && rc == PEER_OK; i++)
        rc = get_one(part, sealed_key(part->job, sealed_rank(&places, i) * PART_WARM_STEP));
    part->wrong_count += rc == PEER_NOT_FOUND;
    return rc == PEER_FAILED ? rc : PEER_OK;
}

static uint64_t end_of_round(const struct part *part, uint64_t start)
{
    return start + (uint64_t)part->job->round_ms * 1000000;
}

static int warm_gets(struct part *part)
{
    uint64_t found = part->check.found_count;
    uint64_t start = ticks_clock_ns();
    uint64_t end = end_of_round(part, start);
    uint64_t count = 0;
    uint64_t now = start;
    uint64_t rank;
    unsigned i;

    while (now < end) {
        for (i = 0; i < PART_SLICE; i++) {
            rank = sealed_below(next_random(part), part->job->record_count);
            if (get_one(part, sealed_key(part->job, rank)) == PEER_FAILED)
                return PEER_FAILED;
        }
        count += PART_SLICE;
        now = ticks_clock_ns();
    }
    sealed_print_figure(FIGURE_GET_NS, (double)(now - start) / (double)count);
    part->wrong_count += part->check.found_count - found != count;
    return PEER_OK;
}

static int warm_many(struct part *part)
{
    uint64_t found = part->check.found_count;
    uint64_t keys[SEALED_MANY];
    uint64_t start = ticks_clock_ns();
    uint64_t end = end_of_round(part, start);
    uint64_t count = 0;
    uint64_t now = start;
    unsigned call, i;

    while (now < end) {
        for (call = 0; call < PART_MANY_SLICE; call++) {
            for (i = 0; i < SEALED_MANY; i++) {
                keys[i] = sealed_key(part->job,
                                     sealed_below(next_random(part), part->job->record_count));
            }
            if (get_some(part, keys, SEALED_MANY) != PEER_OK)
                return PEER_FAILED;
        }
        count += PART_MANY_SLICE * SEALED_MANY;
        now = ticks_clock_ns();
    }
    sealed_print_figure(FIGURE_MANY_NS, (double)(now - start) / (double)count);
    part->wrong_count += part->check.found_count - found != count;
    return PEER_OK;
}

static int warm_absent(struct part *part)
{
    uint64_t start = ticks_clock_ns();
    uint64_t end = end_of_round(part, start);
    uint64_t count = 0;
    uint64_t now = start;
    unsigned i;
    int rc;

    while (now < end) {
        for (i = 0; i < PART_SLICE; i++) {
            rc = get_one(part, sealed_absent_key(part->job, next_random(part)));
            if (rc == PEER_FAILED)
                return rc;
            part->wrong_count += rc != PEER_NOT_FOUND;
        }
        count += PART_SLICE;
        now = ticks_clock_ns();
    }
    sealed_print_figure(FIGURE_ABSENT_NS, (double)(now - start) / (double)count);
    return PEER_OK;
}

static int warm_scan(struct part *part)
{
    uint64_t total = 0;
    unsigned count = 0;
    uint64_t ns;

    while (total < (uint64_t)part->job->round_ms * 1000000) {
        if (walk_all(part, &ns) != PEER_OK)
            return PEER_FAILED;
        total += ns;
        count++;
    }
    sealed_print_figure(FIGURE_SCAN_GBS, scan_gbs(part, total) * count);
    return PEER_OK;
}

static int run_warm(struct part *part)
{
    uint64_t anonymous = anonymous_bytes();

    if (open_store(part, SEALED_WARM) != PEER_OK || warm_up(part) != PEER_OK ||
        warm_gets(part) != PEER_OK || warm_many(part) != PEER_OK || warm_absent(part) != PEER_OK ||
        warm_scan(part) != PEER_OK)
        return PEER_FAILED;
    sealed_print_figure(FIGURE_WARM_MIB, more_mib(anonymous_bytes(), anonymous));
    return PEER_OK;
}

/* ---- parts -------------------------------------------------------------------------------- */

static int run_check(struct part *part)
{
    uint64_t ns;

    if (open_store(part, SEALED_WARM) != PEER_OK)
        return PEER_FAILED;
    return walk_all(part, &ns);
}

static int largest_file(const char *folder, char *out_path, uint64_t *out_size)
{
    DIR *entries = opendir(folder);
    struct dirent *entry;
    struct stat status;

    *out_size = 0;
    while (entries && (entry = readdir(entries))) {
        if (fstatat(dirfd(entries), entry->d_name, &status, 0) || !S_ISREG(status.st_mode) ||
            (uint64_t)status.st_size <= *out_size)
            continue;
        *out_size = (uint64_t)status.st_size;
        snprintf(out_path, SEALED_PATH_MAX + 256, "%s/%s", folder, entry->d_name);
    }
    if (entries)
        closedir(entries);
    return *out_size ? PEER_OK : PEER_FAILED;
}

static int run_device(struct part *part)
{
    static const enum sealed_figure figures[] = {FIGURE_DEVICE_DEEP_NS, FIGURE_DEVICE_ALONE_NS};
    static const unsigned depths[] = {PART_DEVICE_DEPTH, 1};
    char path[SEALED_PATH_MAX + 256];
    uint64_t file_size;
    double ns;
    unsigned i;

    if (largest_file(part->job->path, path, &file_size) != PEER_OK)
        return PEER_FAILED;
    drop_caches(part);
    for (i = 0; i < 2; i++) {
        ns = sealed_device_ns(path, file_size, depths[i],
                              part->job->round_ms * PART_DEVICE_MS_FACTOR);
        if (ns > 0) /* a file system may have no such reads */
            sealed_print_figure(figures[i], ns);
    }
    return PEER_OK;
}

void sealed_job_init(struct sealed_job *job)
{
    unsigned bits = 2;

    while (((uint64_t)1 << bits) < job->record_count)
        bits++;
    job->order_mask = ((uint64_t)1 << bits) - 1;
    job->order_shift = bits / 2;
    job->stride = ((uint64_t)1 << 63) / job->record_count;
}

int sealed_run_part(const char *name, const struct sealed_peer *peer, struct sealed_job *job)
{
    static const struct {
        const char *name;
        int (*run)(struct part *part);
    } parts[] = {
        {"sorted", run_build}, {"random", run_build}, {"check", run_check},
        {"cold", run_cold},    {"warm", run_warm},    {"device", run_device},
    };
    struct part part = {.peer = peer, .job = job, .check = {.seed = job->seed}};
    int rc = PEER_FAILED;
    size_t i;

    sealed_job_init(job);
    part.random = peer_mix(job->seed * SEALED_ROUND_MAX + job->round);
    find_device(&part);
    for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (strcmp(parts[i].name, name))
            continue;
        job->in_random_order = !strcmp(name, "random");
        rc = parts[i].run(&part);
    }
    close_store(&part);
    sealed_print_figure(FIGURE_WRONG, (double)(part.wrong_count + part.check.wrong_count));
    return rc;
}
