/* SPDX-License-Identifier: Apache-2.0
 *
 * reopen.c -- how long it takes to open a store again, and what its first answers cost.
 *
 * O1. Every opening is in a process of its own, forked from one that never opened a store.
 * O2. "killed": a process opens the store, overwrites a random part of a third of the records, the
 *     same part for all peers, and kills itself by SIGKILL. So the store is found anywhere between
 *     two index images, if it makes such. What the process put last must be there afterwards.
 * O3. "no image": closed cleanly, then the index image was removed, so that all is replayed.
 * O4. "cold": closed cleanly, then the kernel was made to forget the files. In the other states
 *     they are in the page cache: the time is the store's work, not the disk's.
 *
 * Output: see turnover.c.
 */
#include "program.h"
#include "ticks.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    FIRST_GETS = 1000,
    LAST_PUTS = 1000, /* read back after a kill */
    ROUND_MAX = 99
};

enum reopen_state { REOPEN_CLEAN, REOPEN_KILLED, REOPEN_NO_IMAGE, REOPEN_COLD, REOPEN_STATES };

static const char *const state_names[REOPEN_STATES] = {"closed", "killed", "no image", "cold"};

/* What a child tells the parent. */
struct reopen_report {
    int failed;
    double open_ms, first_get_us, gets_us; /* the last: each of the first FIRST_GETS */
    uint64_t wrong_count;
    uint64_t put_count; /* O2 */
    struct peer_figures figures;
};

struct reopen {
    struct bench_config config;
    struct program_folder folder;
    const struct peer *peers[BENCH_PEER_MAX];
    unsigned peer_count;
    uint64_t records[PROGRAM_NUMBER_MAX];
    unsigned records_count;
    unsigned round_count;
    uint64_t wrong_count;
    int failed;
};

/* One peer with one number of records. */
struct reopen_case {

    const struct bench_config *config;
    struct target target;
    unsigned round_index;
    uint64_t put_count; /* of the process killed last; 0: none */
};

/* ---- what children do --------------------------------------------------------------------- */

static int load_child(struct reopen_case *one, struct reopen_report *report)
{
    (void)report;
    if (target_open(one->config, &one->target) != PEER_OK)
        return PEER_FAILED;
    if (workload_self_test(one->config, &one->target) != PEER_OK)
        return PEER_FAILED;
    if (workload_fill(one->config, &one->target, 0, one->config->record_count) != PEER_OK)
        return PEER_FAILED;
    one->target.peer->close(one->target.handle);
    return PEER_OK;
}

static uint64_t kill_seed(const struct reopen_case *one)
{
    return peer_mix(one->config->seed + 1000 * one->round_index + one->config->record_count);
}

/* The id of the i-th put before the kill. */
static uint64_t kill_id(const struct reopen_case *one, uint64_t i)
{
    uint64_t random = peer_mix(kill_seed(one) + i);

    return (uint64_t)((unsigned __int128)random * one->config->record_count >> 64);
}

/* O2: versions of a round are above those of the rounds before. */
static uint64_t kill_version(const struct reopen_case *one, uint64_t i)
{
    return ((uint64_t)(one->round_index + 1) << 32) + i;
}

static int kill_child(struct reopen_case *one, struct reopen_report *report)
{
    const struct bench_config *config = one->config;
    const struct peer *peer = one->target.peer;
    unsigned char key[PEER_KEY_SIZE_MAX];
    unsigned char *value = malloc(config->value_size);
    void *session;
    uint64_t i, id;
    int rc;

    if (!value || target_open(config, &one->target) != PEER_OK)
        return PEER_FAILED;
    rc = peer->session_open(one->target.handle, &session);
    report->put_count = 1 + kill_seed(one) % (config->record_count / 3);
    for (i = 0; i < report->put_count && rc == PEER_OK; i++) {
        id = kill_id(one, i);
        peer_make_key(config->seed, id, config->key_size, key);
        peer_make_value(config->seed, id, kill_version(one, i), config->value_size, value);
        rc = peer->put(session, (struct peer_bytes){key, config->key_size},
                       (struct peer_bytes){value, config->value_size});
    }
    return rc; /* the caller kills the process */
}

/* The last puts before the kill are there, or newer ones of the same key. */
static uint64_t count_lost(const struct reopen_case *one)
{
    const struct bench_config *config = one->config;
    const struct peer *peer = one->target.peer;
    struct peer_check check = {.seed = config->seed, .value_size = config->value_size};
    unsigned char key[PEER_KEY_SIZE_MAX];
    uint64_t i = one->put_count > LAST_PUTS ? one->put_count - LAST_PUTS : 0;
    uint64_t count = one->put_count - i;
    void *session;

    if (!count)
        return 0;
    if (peer->session_open(one->target.handle, &session) != PEER_OK)
        return count;
    if (peer->read_begin && peer->read_begin(session) != PEER_OK)
        return count;
    for (; i < one->put_count; i++) {
        check.id = kill_id(one, i);
        check.version_min = kill_version(one, i);
        peer_make_key(config->seed, check.id, config->key_size, key);
        (void)peer->get(session, (struct peer_bytes){key, config->key_size}, &check);
    }
    if (peer->read_end)
        peer->read_end(session);
    peer->session_close(session);
    return check.wrong_count + (count - check.found_count);
}

static int open_child(struct reopen_case *one, struct reopen_report *report)
{
    const struct peer *peer = one->target.peer;
    uint64_t start = ticks_clock_ns();
    uint64_t opened, answered;

    if (target_open(one->config, &one->target) != PEER_OK)
        return PEER_FAILED;
    opened = ticks_clock_ns();
    report->wrong_count = workload_sample(one->config, &one->target, 1);
    answered = ticks_clock_ns();
    report->wrong_count += workload_sample(one->config, &one->target, FIRST_GETS);
    report->gets_us = (double)(ticks_clock_ns() - answered) / 1e3 / FIRST_GETS;
    report->first_get_us = (double)(answered - opened) / 1e3;
    report->open_ms = (double)(opened - start) / 1e6;
    if (peer->figures)
        peer->figures(one->target.handle, &report->figures);
    report->wrong_count += count_lost(one);
    peer->close(one->target.handle);
    return PEER_OK;
}

/* ---- children ----------------------------------------------------------------------------- */

typedef int (*child_body)(struct reopen_case *one, struct reopen_report *report);

static _Noreturn void be_child(struct reopen_case *one, child_body body, int fd)
{
    struct reopen_report report = {0};

    report.failed = body(one, &report) != PEER_OK;
    if (write(fd, &report, sizeof(report)) != sizeof(report))
        _exit(EXIT_FAILED);
    if (body == kill_child)
        kill(getpid(), SIGKILL);
    _exit(0);
}

static int run_child(struct reopen_case *one, child_body body, struct reopen_report *out_report)
{
    int ends[2];
    int status = 0;
    ssize_t size;
    pid_t pid;

    if (pipe(ends))
        return PEER_FAILED;
    fflush(stdout);
    pid = fork();
    if (pid == 0)
        be_child(one, body, ends[1]);
    close(ends[1]);
    size = pid < 0 ? -1 : read(ends[0], out_report, sizeof(*out_report));
    close(ends[0]);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (size != sizeof(*out_report) || out_report->failed)
        return PEER_FAILED;
    return body == kill_child || (WIFEXITED(status) && !WEXITSTATUS(status)) ? PEER_OK
                                                                             : PEER_FAILED;
}

/* ---- states ------------------------------------------------------------------------------- */

/* Bring the store into a state, from a clean close. */
static int enter_state(struct reopen_case *one, enum reopen_state state)
{
    struct reopen_report report;
    char image[BENCH_PATH_MAX + 16];

    one->put_count = 0;
    switch (state) {
    case REOPEN_KILLED:
        if (run_child(one, kill_child, &report) != PEER_OK)
            return PEER_FAILED;
        one->put_count = report.put_count;
        return PEER_OK;
    case REOPEN_NO_IMAGE:
        snprintf(image, sizeof(image), "%s/index.image", one->target.path);
        return unlink(image) && errno != ENOENT ? PEER_FAILED : PEER_OK;
    case REOPEN_COLD: folder_drop_cache(one->target.path); return PEER_OK;
    default: return PEER_OK;
    }
}

static int compare_doubles(const void *a, const void *b)
{
    double left = *(const double *)a;
    double right = *(const double *)b;

    return (left > right) - (left < right);
}

struct series {
    double values[ROUND_MAX];
    unsigned count;
};

static double median(struct series *series)
{
    qsort(series->values, series->count, sizeof(series->values[0]), compare_doubles);
    return (series->values[(series->count - 1) / 2] + series->values[series->count / 2]) / 2;
}

struct state_result {
    struct series open_ms, first_get_us, gets_us, replayed;
    uint64_t wrong_count;
};

static void add_report(struct state_result *result, const struct reopen_report *report)
{
    unsigned i = result->open_ms.count;

    result->open_ms.values[i] = report->open_ms;
    result->first_get_us.values[i] = report->first_get_us;
    result->gets_us.values[i] = report->gets_us;
    result->replayed.values[i] = (double)report->figures.recovered_records;
    result->open_ms.count = result->first_get_us.count = result->gets_us.count = result->replayed
                                                                                     .count = i + 1;
    result->wrong_count += report->wrong_count;
}

static void print_state(const struct reopen_case *one, enum reopen_state state,
                        struct state_result *result)
{
    double open_ms = median(&result->open_ms); /* sorts */

    printf("open\t%s\t%" PRIu64 "\t%s\t%.2f\t%.2f\t%.2f\t%.1f\t%.2f\t%.0f\t%" PRIu64 "\n",
           one->target.peer->name, one->config->record_count, state_names[state], open_ms,
           result->open_ms.values[0], result->open_ms.values[result->open_ms.count - 1],
           median(&result->first_get_us), median(&result->gets_us), median(&result->replayed),
           result->wrong_count);
    fflush(stdout);
}

static int run_state(struct reopen *all, struct reopen_case *one, enum reopen_state state)
{
    static struct state_result result;
    struct reopen_report report;
    unsigned i;

    memset(&result, 0, sizeof(result));
    for (i = 0; i < all->round_count && !program_is_stopped(); i++) {
        one->round_index = i;
        if (enter_state(one, state) != PEER_OK || run_child(one, open_child, &report) != PEER_OK)
            return PEER_FAILED;
        add_report(&result, &report);
    }
    if (program_is_stopped())
        return PEER_FAILED;
    print_state(one, state, &result);
    all->wrong_count += result.wrong_count;
    return PEER_OK;
}

static int run_case(struct reopen *all, struct reopen_case *one)
{
    struct reopen_report report;
    enum reopen_state state;
    int rc;

    if (folder_make(one->target.path))
        return PEER_FAILED;
    rc = run_child(one, load_child, &report);
    for (state = REOPEN_CLEAN; state < REOPEN_STATES && rc == PEER_OK; state++) {
        /* others have no images, or they are their data */
        if (state == REOPEN_NO_IMAGE && strcmp(one->target.peer->name, "keepmap"))
            continue;
        rc = run_state(all, one, state);
    }
    return rc;
}

/* ---- options and the program -------------------------------------------------------------- */

static const struct option reopen_options[] = {
    {"records", required_argument, NULL, 'n'},
    {"peers", required_argument, NULL, 'p'},
    {"rounds", required_argument, NULL, 'r'},
    {"key", required_argument, NULL, 'k'},
    {"value-size", required_argument, NULL, 'v'},
    {"dir", required_argument, NULL, 'd'},
    {"seed", required_argument, NULL, 's'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void print_usage(FILE *file)
{
    fprintf(file, "usage: reopen [options]\n"
                  "  --records N,M    records in a store (1000000); a run for each\n"
                  "  --peers A,B      keepmap,lmdb,rocksdb,tkrzw, as far as they are built in\n"
                  "  --rounds R       openings in each state (5)\n"
                  "  --key u64|16|20  bytes of a key: 8, 16 or 20 (20)\n"
                  "  --value-size S   16 and more (100)\n"
                  "  --dir DIR        where to put the data (bench-data beside this program)\n"
                  "  --seed S         of keys and choices (1)\n");
}

static void set_option(struct reopen *all, int option, char *text)
{
    struct bench_config *config = &all->config;

    switch (option) {
    case 'n':
        all->records_count = program_numbers("--records", text, 1000, 1u << 30, all->records);
        break;
    case 'p': all->peer_count = program_peers(text, all->peers); break;
    case 'r': all->round_count = (unsigned)program_number("--rounds", text, 1, ROUND_MAX); break;
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

static void parse(struct reopen *all, int argc, char **argv)
{
    int option;

    all->config = (struct bench_config){
        .key_size = 20, .value_size = 100, .seed = 1, .round_count = 1, .section_count = 1};
    all->records[0] = 1000000;
    all->records_count = 1;
    all->round_count = 5;
    all->peer_count = program_usual_peers(all->peers);
    while ((option = getopt_long(argc, argv, "", reopen_options, NULL)) != -1)
        set_option(all, option, optarg);
    if (optind < argc)
        program_refuse("unexpected argument", argv[optind]);
}

static int has_room(const struct reopen *all, uint64_t record_count)
{
    double record = (double)(all->config.key_size + all->config.value_size + 64);
    double needed = (double)record_count * record * 2.2 + (1u << 30);

    if ((double)folder_free_bytes(all->folder.path) >= needed)
        return 1;
    printf("# left out\t%" PRIu64 " records: they need %.1f GiB of disk\n", record_count,
           needed / (1u << 30));
    return 0;
}

static void print_header(const struct reopen *all)
{
    unsigned i;

    machine_print_header(all->folder.path);
    printf("# key\t%zu bytes\n# value\t%zu bytes\n# seed\t%" PRIu64 "\n# class\tprocess\n",
           all->config.key_size, all->config.value_size, all->config.seed);
    printf("# rounds\t%u in each state, each in a new process; medians\n", all->round_count);
    for (i = 0; i < all->peer_count; i++)
        program_print_peer(all->peers[i]);
    printf("columns\topen\tpeer\trecords\tstate\topen ms\tlowest\thighest\tfirst get us\t"
           "of %d us\treplayed\twrong\n",
           FIRST_GETS);
    fflush(stdout);
}

static void run_size(struct reopen *all, uint64_t record_count)
{
    static struct reopen_case one;
    unsigned i;

    if (!has_room(all, record_count))
        return;
    all->config.record_count = record_count;
    for (i = 0; i < all->peer_count && !program_is_stopped(); i++) {
        one = (struct reopen_case){.config = &all->config};
        one.target.peer = all->peers[i];
        one.target.record_count = record_count;
        snprintf(one.target.path, sizeof(one.target.path), "%s/%s", all->folder.path,
                 all->peers[i]->name);
        if (run_case(all, &one) != PEER_OK && !program_is_stopped()) {
            fprintf(stderr, "reopen: %s failed\n", all->peers[i]->name);
            all->failed = 1;
        }
        folder_remove(one.target.path);
    }
}

int main(int argc, char **argv)
{
    static struct reopen all;
    unsigned i;

    parse(&all, argc, argv);
    all.config.ticks_per_ns = ticks_calibrate();
    program_folder_begin(&all.folder);
    program_folder_make(&all.folder);
    program_catch_signals();
    print_header(&all);
    for (i = 0; i < all.records_count && !program_is_stopped(); i++)
        run_size(&all, all.records[i]);
    program_folder_remove(&all.folder);
    if (all.wrong_count)
        fprintf(stderr, "reopen: %" PRIu64 " wrong answers\n", all.wrong_count);
    if (all.failed || program_is_stopped())
        return EXIT_FAILED;
    return all.wrong_count ? EXIT_WRONG : 0;
}
