/* SPDX-License-Identifier: Apache-2.0
 *
 * bench.c -- run workloads on several stores in one process, in turns.
 *
 * B1. The rounds of all peers interleave: a slow minute of the machine hits all of them. Odd
 *     rounds go through the peers backwards, so that no peer always follows the same neighbour.
 * B2. After a round that changed something the driver waits for the store's own threads to come to
 *     rest; their CPU time is reported with that round, not charged to the next peer.
 * B3. Every answer is checked; one wrong answer makes the exit status 1.
 * B4. After the load each store may bring itself into the state in which it reads fastest. Before
 *     the workloads that follow a load, and before the power class, the kernel writes back all it
 *     holds: no round pays for what an earlier one left dirty.
 * B5. All data lies in a folder this process made, which it removes.
 *
 * Output: lines of tab-separated fields; those that start with '#' describe machine and settings.
 */
#include "program.h"
#include "ticks.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SPARE_MIB = 1024 }; /* disk per store beside its records: logs, tables made in advance */

struct run {
    struct bench_config config;
    char program[PROGRAM_PATH_MAX]; /* this executable */
    const char *child_path;         /* --restart-child */
    struct program_folder folder;   /* B5 */
    const struct peer *peers[BENCH_PEER_MAX];
    unsigned peer_count;
    int workload_chosen[32];
    struct target targets[2][BENCH_PEER_MAX]; /* by class; no peer: not offered or failed */
    uint64_t wrong_count;
    int failed;
};

/* ---- options ------------------------------------------------------------------------------ */

static void print_usage(FILE *file)
{
    unsigned i;

    fprintf(file, "usage: bench [options]\n"
                  "  --records N      records in each store (1000000)\n"
                  "  --power-records N  in each store of the power class (100000, at most N)\n"
                  "  --peers A,B      default: all\n"
                  "  --workloads A,B  default: all\n"
                  "  --rounds R       rounds of each workload and peer (5)\n"
                  "  --round-ms MS    length of a round, but for load (250)\n"
                  "  --key u64|16|20  bytes of a key: 8, 16 or 20 (20)\n"
                  "  --value-size S   16 and more (100)\n"
                  "  --section G      gets to a read section or transaction (256)\n"
                  "  --dir DIR        where to put the data (bench-data beside this program)\n"
                  "  --seed S         of keys and choices (1)\n"
                  "peers:");
    for (i = 0; i < bench_peer_count; i++)
        fprintf(file, " %s", bench_peers[i]->name);
    fprintf(file, "\nworkloads:\n");
    for (i = 0; i < bench_workload_count; i++)
        fprintf(file, "  %-10s %s\n", bench_workloads[i].name, bench_workloads[i].text);
}

static void choose_workloads(struct run *run, char *list)
{
    char *rest = NULL;
    char *name;
    unsigned i;

    memset(run->workload_chosen, 0, sizeof(run->workload_chosen));
    for (name = strtok_r(list, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        for (i = 0; i < bench_workload_count && strcmp(bench_workloads[i].name, name); i++) {
        }
        if (i == bench_workload_count)
            program_refuse("no such workload", name);
        run->workload_chosen[i] = 1;
    }
}

static void set_defaults(struct run *run)
{
    unsigned i;

    run->config = (struct bench_config){
        .record_count = 1000000,
        .power_record_count = 100000,
        .round_count = 5,
        .round_ms = 250,
        .warm_ms = 30,
        .section_count = 256,
        .key_size = 20,
        .value_size = 100,
        .seed = 1,
    };
    for (i = 0; i < bench_peer_count; i++)
        run->peers[i] = bench_peers[i];
    run->peer_count = bench_peer_count;
    for (i = 0; i < bench_workload_count; i++)
        run->workload_chosen[i] = 1;
}

static const struct option long_options[] = {
    {"records", required_argument, NULL, 'n'},
    {"power-records", required_argument, NULL, 'P'},
    {"peers", required_argument, NULL, 'p'},
    {"workloads", required_argument, NULL, 'w'},
    {"rounds", required_argument, NULL, 'r'},
    {"round-ms", required_argument, NULL, 'm'},
    {"key", required_argument, NULL, 'k'},
    {"value-size", required_argument, NULL, 'v'},
    {"section", required_argument, NULL, 'g'},
    {"dir", required_argument, NULL, 'd'},
    {"seed", required_argument, NULL, 's'},
    {"help", no_argument, NULL, 'h'},
    {"restart-child", required_argument, NULL, 'c'},
    {NULL, 0, NULL, 0},
};

static void set_option(struct run *run, int option, char *text)
{
    struct bench_config *config = &run->config;

    switch (option) {
    case 'n': config->record_count = program_number("--records", text, 1000, 1u << 30); break;
    case 'P':
        config->power_record_count = program_number("--power-records", text, 100, 1u << 30);
        break;
    case 'p': run->peer_count = program_peers(text, run->peers); break;
    case 'w': choose_workloads(run, text); break;
    case 'r': config->round_count = (unsigned)program_number("--rounds", text, 1, 1000); break;
    case 'm': config->round_ms = (unsigned)program_number("--round-ms", text, 1, 600000); break;
    case 'k': config->key_size = program_key_size(text); break;
    case 'v':
        config->value_size = program_number("--value-size", text, PEER_VALUE_SIZE_MIN, 1u << 20);
        break;
    case 'g':
        config->section_count = (unsigned)program_number("--section", text, 1, BENCH_SECTION_MAX);
        break;
    case 'd': run->folder.parent = text; break;
    case 's': config->seed = program_number("--seed", text, 0, UINT64_MAX); break;
    case 'c': run->child_path = text; break;
    case 'h': print_usage(stdout); exit(0);
    default: print_usage(stderr); exit(EXIT_FAILED);
    }
}

static void parse_options(struct run *run, int argc, char **argv)
{
    int option;

    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
        set_option(run, option, optarg);
    if (optind < argc)
        program_refuse("unexpected argument", argv[optind]);
    if (run->config.power_record_count > run->config.record_count)
        run->config.power_record_count = run->config.record_count;
}

/* ---- folder and space --------------------------------------------------------------------- */

static void find_program(struct run *run)
{
    ssize_t size = readlink("/proc/self/exe", run->program, sizeof(run->program) - 1);

    if (size < 0)
        program_refuse("/proc/self/exe", strerror(errno));
    run->program[size] = 0;
}

static void check_space(const struct run *run)
{
    const struct bench_config *config = &run->config;
    uint64_t record_size = config->key_size + config->value_size + 64;
    uint64_t store = config->record_count * record_size * 2 + ((uint64_t)SPARE_MIB << 20);
    uint64_t needed = store * run->peer_count;
    uint64_t free_bytes = folder_free_bytes(run->folder.parent);
    uint64_t memory = machine_available_bytes();

    if (free_bytes < needed) {
        fprintf(stderr,
                "bench: %s has %.1f GiB free, and this run may need %.1f: use --dir, or "
                "fewer --records or --peers\n",
                run->folder.parent, (double)free_bytes / (1u << 30), (double)needed / (1u << 30));
        if (run->folder.parent_was_made)
            rmdir(run->folder.parent);
        exit(EXIT_FAILED);
    }
    if (memory < config->record_count * record_size * 2 * run->peer_count)
        fprintf(stderr,
                "bench: warning: all stores together may not fit into %.1f GiB of memory, "
                "and reads would then measure the disk: use fewer --peers\n",
                (double)memory / (1u << 30));
}

/* ---- output ------------------------------------------------------------------------------- */

static void print_header(const struct run *run)
{
    const struct bench_config *config = &run->config;
    unsigned i;

    machine_print_header(run->folder.path);
    printf("# records\t%" PRIu64 " (power class: %" PRIu64 ")\n", config->record_count,
           config->power_record_count);
    printf("# key\t%zu bytes\n# value\t%zu bytes\n", config->key_size, config->value_size);
    printf("# distribution\tuniform\n# seed\t%" PRIu64 "\n", config->seed);
    printf("# rounds\t%u of %u ms, after %u ms of warm-up\n", config->round_count, config->round_ms,
           config->warm_ms);
    printf("# read section\t%u gets\n", config->section_count);
    printf("# clock\t%s, %.3f ticks per ns, %.1f ns a reading, one reading per put\n", TICKS_SOURCE,
           config->ticks_per_ns, ticks_overhead_ns(config->ticks_per_ns));
    for (i = 0; i < run->peer_count; i++)
        program_print_peer(run->peers[i]);
    printf("workload\tclass\tpeer\tround\tthreads\tops\tns_per_op\tops_per_s\tp50_ns\tp99_ns\t"
           "p99.9_ns\tmax_ns\tdeferred_ns\twrong\textra\n");
    fflush(stdout);
}

static const char *class_name(enum peer_class durability)
{
    return durability == PEER_CLASS_POWER ? "power" : "process";
}

static void print_round(const struct run *run, const struct workload *workload,
                        const struct target *target, unsigned round_index,
                        const struct round_result *result)
{
    const struct histogram *latency = &result->latency;
    double per_ns = run->config.ticks_per_ns;

    printf("%s\t%s\t%s\t%u\t%u\t%" PRIu64 "\t%.1f\t%.0f\t", workload->name,
           class_name(workload->durability), target->peer->name, round_index + 1,
           workload->thread_count, result->op_count, result->ns_per_op, result->ops_per_second);
    if (latency->count)
        printf("%.0f\t%.0f\t%.0f\t%.0f\t%.1f\t", (double)histogram_quantile(latency, 0.5) / per_ns,
               (double)histogram_quantile(latency, 0.99) / per_ns,
               (double)histogram_quantile(latency, 0.999) / per_ns, (double)latency->max / per_ns,
               result->deferred_ns);
    else
        printf("-\t-\t-\t-\t-\t");
    printf("%" PRIu64 "\t", result->wrong_count);
    if (result->writer_per_second > 0)
        printf("writer_per_s=%.0f\n", result->writer_per_second);
    else
        printf("-\n");
    fflush(stdout);
}

static void print_restart(const struct run *run, const struct peer *peer,
                          const struct restart_result *result)
{
    const struct bench_config *config = &run->config;
    double count = (double)config->record_count;
    double payload = (double)(config->key_size + config->value_size);

    printf("restart\tprocess\t%s\t1\t1\t%" PRIu64 "\t%.1f\t%.0f\t-\t-\t-\t-\t-\t%" PRIu64 "\t",
           peer->name, config->record_count, result->open_ms * 1e6 / count,
           count / result->open_ms * 1e3, result->lost_count);
    printf("open_ms=%.1f,disk_per_record=%.1f,disk_over_payload=%.3f,anonymous_per_record=%.1f,"
           "mapped_per_record=%.1f",
           result->open_ms, (double)result->disk_bytes / count,
           (double)result->disk_bytes / count / payload, (double)result->anonymous_bytes / count,
           (double)result->mapped_bytes / count);
    if (result->loaded.index_bytes)
        printf(",index_per_record=%.1f", (double)result->loaded.index_bytes / count);
    if (result->reopened.recovered_records)
        printf(",replay_ns_per_record=%.1f",
               (double)result->reopened.recovered_ns / (double)result->reopened.recovered_records);
    printf("\n");
    fflush(stdout);
}

/* ---- the run ------------------------------------------------------------------------------ */

static void drop_target(struct run *run, struct target *target)
{
    fprintf(stderr, "bench: %s failed in the %s class and is left out from here on\n",
            target->peer->name, class_name(target->durability));
    run->failed = 1;
    if (target->handle)
        target->peer->close(target->handle);
    target->handle = NULL;
    target->peer = NULL;
}

/* Tested, empty, and open in the process class. */
static int prepare_process(const struct bench_config *config, struct target *target)
{
    if (folder_make(target->path))
        return PEER_FAILED;
    if (target_open(config, target) != PEER_OK)
        return PEER_FAILED;
    if (target->peer->is_baseline)
        return PEER_OK;
    if (workload_self_test(config, target) == PEER_OK)
        return PEER_OK;
    fprintf(stderr, "%s: gave a wrong answer in the self-test\n", target->peer->name);
    return PEER_FAILED;
}

/* Filled without syncs in the process class, then opened in the power class. */
static int prepare_power(const struct bench_config *config, struct target *target)
{
    if (target->peer->is_baseline) {
        if (folder_make(target->path))
            return PEER_FAILED;
        return target_open(config, target);
    }
    target->durability = PEER_CLASS_PROCESS;
    if (prepare_process(config, target) != PEER_OK)
        return PEER_FAILED;
    if (workload_fill(config, target, 0, target->record_count) != PEER_OK)
        return PEER_FAILED;
    target->peer->close(target->handle);
    target->handle = NULL;
    target->durability = PEER_CLASS_POWER;
    return target_open(config, target);
}

/* B2 and B4. */
static void rest(const struct run *run)
{
    machine_settle_ns();
    folder_sync(run->folder.path);
}

/* B4, with all records in place. */
static void finish_load(struct run *run)
{
    struct target *target;
    uint64_t start;
    unsigned i;

    for (i = 0; i < run->peer_count; i++) {
        target = &run->targets[PEER_CLASS_PROCESS][i];
        if (!target->peer || !target->peer->after_load || program_is_stopped())
            continue;
        start = ticks_clock_ns();
        if (target->peer->after_load(target->handle) != PEER_OK)
            drop_target(run, target);
        else
            printf("# tidied after the load\t%s\t%.2f s\n", target->peer->name,
                   (double)(ticks_clock_ns() - start) / 1e9);
    }
    rest(run);
}

static void prepare_targets(struct run *run, enum peer_class durability)
{
    struct target *target;
    const struct peer *peer;
    unsigned i;
    int rc;

    for (i = 0; i < run->peer_count; i++) {
        peer = run->peers[i];
        target = &run->targets[durability][i];
        if (!(durability == PEER_CLASS_POWER ? peer->power_note : peer->process_note))
            continue;
        *target = (struct target){.peer = peer, .durability = durability, .next_version = 2};
        snprintf(target->path, sizeof(target->path), "%s/%s-%s", run->folder.path, peer->name,
                 class_name(durability));
        if (durability == PEER_CLASS_POWER) {
            target->record_count = run->config.power_record_count;
            rc = prepare_power(&run->config, target);
        } else {
            target->record_count = run->config.record_count;
            rc = prepare_process(&run->config, target);
        }
        if (rc != PEER_OK)
            drop_target(run, target);
    }
    rest(run);
}

static void run_round(struct run *run, const struct workload *workload, struct target *target,
                      unsigned round_index)
{
    static struct round_result result; /* large for a stack */
    const struct peer *peer = target->peer;

    if (!peer || program_is_stopped())
        return;
    if (!peer->get && workload->kind != WORKLOAD_OVERWRITE)
        return;
    workload_run(&run->config, workload, target, round_index, &result);
    if (program_is_stopped())
        return; /* a round cut short is no figure */
    print_round(run, workload, target, round_index, &result);
    run->wrong_count += result.wrong_count;
    if (result.failed)
        drop_target(run, target);
}

static void run_workload(struct run *run, const struct workload *workload)
{
    struct target *targets = run->targets[workload->durability];
    unsigned round_index;
    unsigned i;

    for (round_index = 0; round_index < run->config.round_count; round_index++) {
        for (i = 0; i < run->peer_count; i++) /* B1 */
            run_round(run, workload, &targets[round_index % 2 ? run->peer_count - 1 - i : i],
                      round_index);
    }
    if (workload->kind == WORKLOAD_LOAD)
        finish_load(run);
}

static void fill_targets(struct run *run)
{
    struct target *target;
    unsigned i;

    for (i = 0; i < run->peer_count && !program_is_stopped(); i++) {
        target = &run->targets[PEER_CLASS_PROCESS][i];
        if (!target->peer)
            continue;
        if (workload_fill(&run->config, target, 0, target->record_count) != PEER_OK)
            drop_target(run, target);
    }
    finish_load(run);
}

static void close_targets(struct run *run, enum peer_class durability)
{
    struct target *target;
    unsigned i;

    for (i = 0; i < run->peer_count; i++) {
        target = &run->targets[durability][i];
        if (!target->peer)
            continue;
        if (target->handle)
            target->peer->close(target->handle);
        folder_remove(target->path);
        target->peer = NULL;
    }
}

static void run_class(struct run *run, enum peer_class durability)
{
    const struct workload *workload;
    unsigned chosen_count = 0;
    unsigned i;

    for (i = 0; i < bench_workload_count; i++) {
        workload = &bench_workloads[i];
        if (!run->workload_chosen[i] || workload->durability != durability ||
            workload->kind == WORKLOAD_RESTART || program_is_stopped())
            continue;
        if (!chosen_count++) {
            prepare_targets(run, durability);
            if (durability == PEER_CLASS_PROCESS && workload->kind != WORKLOAD_LOAD)
                fill_targets(run);
        }
        run_workload(run, workload);
    }
    close_targets(run, durability);
}

static void run_restarts(struct run *run)
{
    struct restart_result result;
    char path[BENCH_PATH_MAX];
    unsigned i;

    for (i = 0; i < run->peer_count && !program_is_stopped(); i++) {
        if (run->peers[i]->is_baseline || !run->peers[i]->process_note)
            continue;
        snprintf(path, sizeof(path), "%s/restart", run->folder.path);
        if (folder_make(path))
            return;
        if (restart_run(&run->config, run->program, run->peers[i], path, &result) == PEER_OK) {
            print_restart(run, run->peers[i], &result);
            run->wrong_count += result.lost_count;
        } else if (!program_is_stopped()) {
            run->failed = 1;
        }
        folder_remove(path);
    }
}

static int restart_is_chosen(const struct run *run)
{
    unsigned i;

    for (i = 0; i < bench_workload_count; i++) {
        if (run->workload_chosen[i] && bench_workloads[i].kind == WORKLOAD_RESTART)
            return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static struct run run;

    set_defaults(&run);
    parse_options(&run, argc, argv);
    if (run.child_path)
        return restart_child(&run.config, run.peers[0], run.child_path);
    find_program(&run);
    run.config.ticks_per_ns = ticks_calibrate();
    program_folder_begin(&run.folder);
    check_space(&run);
    program_folder_make(&run.folder);
    program_catch_signals();
    print_header(&run);
    run_class(&run, PEER_CLASS_PROCESS);
    run_class(&run, PEER_CLASS_POWER);
    if (restart_is_chosen(&run))
        run_restarts(&run);
    program_folder_remove(&run.folder);
    if (run.wrong_count)
        fprintf(stderr, "bench: %" PRIu64 " wrong answers: see the column 'wrong'\n",
                run.wrong_count);
    if (program_is_stopped())
        return EXIT_FAILED;
    if (run.failed)
        return EXIT_FAILED;
    return run.wrong_count ? EXIT_WRONG : 0;
}
