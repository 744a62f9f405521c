/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed.c -- sealed tables beside other stores: building in bulk from sorted and from random
 * input, reading one, many, none, all, with the page cache dropped and warm.
 *
 * R1. All stores do a part of a round before any does the next, and each round begins with another
 *     store: a machine that is busy for a while is so for all of them.
 * R2. Each part of each store runs in a process of its own, this program again: memory is its own,
 *     and what one store leaves behind does not meet the next.
 * R3. Whoever takes many times as long as Keepmap to build from random input does so in one round.
 * R4. Whoever reads, reads what was built from sorted input. What was built from random input is
 *     walked over whole, and removed.
 *
 * Output: tables of tab-separated lines; "columns" lines name their columns. table.sh lays them
 * out.
 */
#include "bench.h"
#include "program.h"
#include "sealed.h"
#include "ticks.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    SEALED_MEMORY_MAX_MIB = 100,
    SEALED_COLD_STEP = 500, /* records to a cold get */
    SEALED_COLD_GETS_MIN = 200,
    SEALED_COLD_GETS_MAX = 10000,
    SEALED_MANY_STEP = 100000, /* records to a cold get_many */
    SEALED_MANY_MAX = 20,
    SEALED_SLOW = 8 /* times as slow as Keepmap: not asked again, R3 */
};

struct sealed_all {
    struct sealed_job job; /* without a path */
    struct program_folder folder;
    unsigned round_count;
    unsigned store_count;
    struct sealed_results stores[SEALED_PEER_MAX];
    int without_random;
    int only_memory;
    const char *part; /* of a process that is one; else NULL */
    char program[PROGRAM_PATH_MAX];
};

/* ---- a part in a process of its own: R2 --------------------------------------------------- */

static void store_path(const struct sealed_all *all, const struct sealed_peer *peer,
                       const char *build, char *out_path)
{
    if (snprintf(out_path, SEALED_PATH_MAX, "%s/%s-%s", all->folder.path,
                 peer->files_of ? peer->files_of : peer->name, build) >= SEALED_PATH_MAX)
        program_refuse("--dir is too long", all->folder.path);
}

_Noreturn static void become_part(const struct sealed_all *all, const struct sealed_peer *peer,
                                  const char *part, unsigned round, const char *path)
{
    char records[32], seed[32], round_ms[32], rounds[32];
    const char *arguments[] = {
        "sealed", "--part", part, "--peers", peer->name, "--keys",     records,  "--seed",
        seed,     "--path", path, "--round", rounds,     "--round-ms", round_ms, NULL,
    };

    snprintf(records, sizeof(records), "%" PRIu64, all->job.record_count);
    snprintf(seed, sizeof(seed), "%" PRIu64, all->job.seed);
    snprintf(rounds, sizeof(rounds), "%u", round);
    snprintf(round_ms, sizeof(round_ms), "%u", all->job.round_ms);
    execv(all->program, (char *const *)arguments);
    perror(all->program);
    _exit(EXIT_FAILED);
}

/* A line "NAME VALUE" of what a part has measured. */
static void take_figure(struct sealed_results *store, unsigned round, const char *line)
{
    size_t size = strcspn(line, " ");
    double value = strtod(line + size, NULL);
    unsigned i;

    for (i = 0; i < FIGURE_COUNT; i++) {
        if (strlen(sealed_figure_names[i]) == size && !memcmp(line, sealed_figure_names[i], size))
            store->values[i][round] = value;
    }
    if (!strncmp(line, "wrong ", 6))
        store->wrong_count += (uint64_t)value;
}

static int read_figures(struct sealed_results *store, unsigned round, int fd)
{
    FILE *file = fdopen(fd, "r");
    char line[256];
    int is_whole = 0; /* "wrong" comes last */

    if (!file)
        return PEER_FAILED;
    while (fgets(line, sizeof(line), file)) {
        take_figure(store, round, line);
        is_whole = !strncmp(line, "wrong ", 6);
    }
    fclose(file);
    return is_whole ? PEER_OK : PEER_FAILED;
}

static int run_child(struct sealed_all *all, struct sealed_results *store, const char *part,
                     unsigned round, const char *path)
{
    int status = 0;
    int ends[2];
    pid_t child;
    int rc;

    if (pipe(ends))
        return PEER_FAILED;
    child = fork();
    if (!child) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        become_part(all, store->peer, part, round, path);
    }
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return PEER_FAILED;
    }
    rc = read_figures(store, round, ends[0]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return rc == PEER_OK && WIFEXITED(status) && !WEXITSTATUS(status) ? PEER_OK : PEER_FAILED;
}

static void run_part(struct sealed_all *all, struct sealed_results *store, const char *part,
                     unsigned round, const char *path)
{
    if (store->failed || program_is_stopped())
        return;
    fprintf(stderr, "sealed: round %u: %s: %s\n", round + 1, store->peer->name, part);
    if (run_child(all, store, part, round, path) == PEER_OK)
        return;
    if (!program_is_stopped())
        fprintf(stderr, "sealed: %s failed at: %s\n", store->peer->name, part);
    store->failed = 1;
}

/* ---- rounds ------------------------------------------------------------------------------- */

static struct sealed_results *store_in_turn(struct sealed_all *all, unsigned round, unsigned turn)
{
    return &all->stores[(turn + round) % all->store_count]; /* R1 */
}

/* Build anew from sorted input. */
static void build_sorted(struct sealed_all *all, struct sealed_results *store, unsigned round)
{
    char path[SEALED_PATH_MAX];

    if (store->peer->files_of)
        return;
    store_path(all, store->peer, "sorted", path);
    if (folder_remove(path) || folder_make(path))
        store->failed = 1;
    run_part(all, store, "sorted", round, path);
}

static void read_store(struct sealed_all *all, struct sealed_results *store, unsigned round)
{
    char path[SEALED_PATH_MAX];

    store_path(all, store->peer, "sorted", path);
    if (!store->peer->is_baseline)
        run_part(all, store, "cold", round, path);
    run_part(all, store, "warm", round, path);
    if (!strcmp(store->peer->name, "keepmap"))
        run_part(all, store, "device", round, path);
}

static int is_slow(const struct sealed_all *all, const struct sealed_results *store)
{
    double least = store->values[FIGURE_RANDOM_NS][0] / SEALED_SLOW;
    unsigned i;

    for (i = 0; i < all->store_count; i++) {
        if (!strcmp(all->stores[i].peer->name, "keepmap"))
            return least > all->stores[i].values[FIGURE_RANDOM_NS][0];
    }
    return 0;
}

static void build_random(struct sealed_all *all, struct sealed_results *store, unsigned round)
{
    char path[SEALED_PATH_MAX];

    if (store->peer->files_of || !store->peer->random_note || (round && is_slow(all, store)))
        return;
    store_path(all, store->peer, "random", path);
    if (folder_make(path))
        store->failed = 1;
    run_part(all, store, "random", round, path);
    run_part(all, store, "check", round, path);
    folder_remove(path);
}

static void run_round(struct sealed_all *all, unsigned round)
{
    char path[SEALED_PATH_MAX];
    unsigned i;

    for (i = 0; i < all->store_count; i++)
        build_sorted(all, store_in_turn(all, round, i), round);
    for (i = 0; i < all->store_count; i++)
        read_store(all, store_in_turn(all, round, i), round);
    for (i = 0; i < all->store_count; i++) {
        store_path(all, all->stores[i].peer, "sorted", path);
        folder_remove(path);
    }
    for (i = 0; i < all->store_count && !all->without_random; i++)
        build_random(all, store_in_turn(all, round, i), round);
}

/* A build in random order that may take so much memory and no more. */
static int run_memory(struct sealed_all *all)
{
    struct sealed_results *store = &all->stores[0];
    const double *peaks = store->values[FIGURE_RANDOM_PEAK_MIB];

    build_random(all, store, 0);
    printf("columns\tmemory\tstore\trecords\tns a record\tpeak MiB\tanonymous MiB\tallowed MiB\t"
           "held\twrong\n");
    if (store->failed)
        return EXIT_FAILED;
    printf("memory\t%s\t%" PRIu64 "\t%.1f\t%.1f\t%.1f\t%u\t%s\t%" PRIu64 "\n", store->peer->name,
           all->job.record_count, store->values[FIGURE_RANDOM_NS][0], peaks[0],
           store->values[FIGURE_RANDOM_ANON_MIB][0], (unsigned)SEALED_MEMORY_MAX_MIB,
           peaks[0] <= SEALED_MEMORY_MAX_MIB ? "yes" : "NO", store->wrong_count);
    return peaks[0] <= SEALED_MEMORY_MAX_MIB && !store->wrong_count ? 0 : EXIT_WRONG;
}

/* ---- options ------------------------------------------------------------------------------ */

static const struct option sealed_options[] = {
    {"keys", required_argument, NULL, 'n'},  {"rounds", required_argument, NULL, 'r'},
    {"peers", required_argument, NULL, 'p'}, {"round-ms", required_argument, NULL, 'm'},
    {"dir", required_argument, NULL, 'd'},   {"seed", required_argument, NULL, 's'},
    {"no-random", no_argument, NULL, 'o'},   {"memory", no_argument, NULL, 'M'},
    {"quick", no_argument, NULL, 'q'},       {"help", no_argument, NULL, 'h'},
    {"part", required_argument, NULL, 'P'},  {"path", required_argument, NULL, 'f'},
    {"round", required_argument, NULL, 'R'}, {NULL, 0, NULL, 0},
};

static void print_usage(FILE *file)
{
    unsigned i;

    fprintf(file, "usage: sealed [options]\n"
                  "  --keys N       records in each store (1000000)\n"
                  "  --rounds R     rounds of everything (3)\n"
                  "  --peers A,B    of these:");
    for (i = 0; i < sealed_peer_count; i++)
        fprintf(file, " %s", sealed_peers[i]->name);
    fprintf(file,
            "\n"
            "  --round-ms MS  length of each warm measure (500)\n"
            "  --no-random    no builds from random order, which take longest\n"
            "  --memory       nothing but a build of Keepmap's from random order, of\n"
            "                 50000000 records; fails if it takes more than %d MiB\n"
            "  --quick        small and short, to see that it works; options that follow\n"
            "                 change it\n"
            "  --dir DIR      where to put the data (bench-data beside this program)\n"
            "  --seed S       of records and choices (1)\n",
            SEALED_MEMORY_MAX_MIB);
}

static void add_store(struct sealed_all *all, const struct sealed_peer *peer)
{
    struct sealed_results *store = &all->stores[all->store_count++];
    unsigned figure, round;

    store->peer = peer;
    for (figure = 0; figure < FIGURE_COUNT; figure++) {
        for (round = 0; round < SEALED_ROUND_MAX; round++)
            store->values[figure][round] = -1;
    }
}

static const struct sealed_peer *find_peer(const char *name)
{
    unsigned i;

    for (i = 0; i < sealed_peer_count; i++) {
        if (!strcmp(sealed_peers[i]->name, name))
            return sealed_peers[i];
    }
    program_refuse("this build has no such peer", name);
}

static void add_stores(struct sealed_all *all, char *list)
{
    char *rest = NULL;
    char *name;

    all->store_count = 0;
    for (name = strtok_r(list, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        if (all->store_count == SEALED_PEER_MAX)
            program_refuse("too many peers", name);
        add_store(all, find_peer(name));
    }
}

static void set_option(struct sealed_all *all, int option, char *text)
{
    struct sealed_job *job = &all->job;

    switch (option) {
    case 'n': job->record_count = program_number("--keys", text, 10000, 1u << 30); break;
    case 'r':
        all->round_count = (unsigned)program_number("--rounds", text, 1, SEALED_ROUND_MAX);
        break;
    case 'p': add_stores(all, text); break;
    case 'm': job->round_ms = (unsigned)program_number("--round-ms", text, 1, 60000); break;
    case 'o': all->without_random = 1; break;
    case 'M': all->only_memory = 1; break;
    case 'q':
        job->record_count = 20000;
        job->round_ms = 10;
        all->round_count = 1;
        break;
    case 'd': all->folder.parent = text; break;
    case 's': job->seed = program_number("--seed", text, 0, UINT32_MAX); break;
    case 'P': all->part = text; break;
    case 'f': snprintf(job->path, sizeof(job->path), "%s", text); break;
    case 'R': job->round = (unsigned)program_number("--round", text, 0, SEALED_ROUND_MAX); break;
    case 'h': print_usage(stdout); exit(0);
    default: print_usage(stderr); exit(EXIT_FAILED);
    }
}

static uint64_t between(uint64_t value, uint64_t min, uint64_t max)
{
    return value < min ? min : value > max ? max : value;
}

static void add_usual_stores(struct sealed_all *all)
{
    const struct sealed_peer *peer;
    unsigned i;

    for (i = 0; i < sealed_peer_count && i < SEALED_PEER_MAX; i++) {
        peer = sealed_peers[i];
        if (peer->record_max && peer->record_max < all->job.record_count)
            fprintf(stderr, "sealed: without %s: too many keys for it\n", peer->name);
        else
            add_store(all, peer);
    }
}

/* Whoever reads what another has built comes with that one. */
static void check_stores(const struct sealed_all *all)
{
    const struct sealed_peer *peer;
    unsigned i, j;

    for (i = 0; i < all->store_count; i++) {
        peer = all->stores[i].peer;
        for (j = 0; peer->files_of && j < all->store_count; j++) {
            if (!strcmp(all->stores[j].peer->name, peer->files_of))
                break;
        }
        if (peer->files_of && j == all->store_count && !all->part)
            program_refuse("it reads what another builds, which is not among --peers", peer->name);
    }
}

static void parse(struct sealed_all *all, int argc, char **argv)
{
    struct sealed_job *job = &all->job;
    int option;

    job->seed = 1;
    job->round_ms = 500;
    all->round_count = 3;
    while ((option = getopt_long(argc, argv, "", sealed_options, NULL)) != -1)
        set_option(all, option, optarg);
    if (optind < argc)
        program_refuse("unexpected argument", argv[optind]);
    if (!job->record_count)
        job->record_count = all->only_memory ? 50000000 : 1000000;
    if (all->only_memory) {
        all->store_count = 0;
        add_store(all, find_peer("keepmap"));
    }
    if (!all->store_count)
        add_usual_stores(all);
    check_stores(all);
    job->cold_get_count = between(job->record_count / SEALED_COLD_STEP, SEALED_COLD_GETS_MIN,
                                  SEALED_COLD_GETS_MAX);
    job->cold_many_count = between(job->record_count / SEALED_MANY_STEP, 1, SEALED_MANY_MAX);
}

/* ---- the program -------------------------------------------------------------------------- */

static void check_room(const struct sealed_all *all)
{
    /* each store's table, and of one of them what it writes while it sorts */
    double needed = (double)(all->job.record_count * SEALED_PAYLOAD_SIZE) *
                        (1.3 * all->store_count + 3) +
                    (double)(256u << 20);

    if ((double)folder_free_bytes(all->folder.parent) > needed)
        return;
    fprintf(stderr, "sealed: %s has less than %.1f GiB free: use --dir, or fewer --keys\n",
            all->folder.parent, needed / (1u << 30));
    program_folder_remove(&all->folder);
    exit(EXIT_FAILED);
}

static void print_header(const struct sealed_all *all)
{
    const struct sealed_peer *peer;
    unsigned i;

    machine_print_header(all->folder.path);
    printf("# records\t%" PRIu64 "\n", all->job.record_count);
    printf("# key\tu64, spread over 63 bits at random\n# value\t%d bytes\n", SEALED_VALUE_SIZE);
    printf("# seed\t%" PRIu64 "\n", all->job.seed);
    printf("# rounds\t%u; warm measures of %u ms\n", all->round_count, all->job.round_ms);
    printf("# cold\t%s; %" PRIu64 " gets, %" PRIu64 " get_many of %d\n",
           sealed_can_drop_all() ? "page cache dropped by drop_caches"
                                 : "files dropped by posix_fadvise(DONTNEED)",
           all->job.cold_get_count, all->job.cold_many_count, SEALED_MANY);
    printf("# device\t%s\n", sealed_device_manner());
    printf("# durable\tevery build ends with all of it synced\n");
    for (i = 0; i < all->store_count; i++) {
        peer = all->stores[i].peer;
        printf("# peer\t%s%s\t%s\t%s\n", peer->name, peer->is_baseline ? " (baseline)" : "",
               peer->version, peer->settings);
        if (peer->sorted_note)
            printf("# build\t%s\tsorted: %s\trandom: %s\n", peer->name, peer->sorted_note,
                   peer->random_note ? peer->random_note : "left out");
    }
    fflush(stdout); /* before processes are made, which would write it once more */
}

static int run_rounds(struct sealed_all *all)
{
    uint64_t wrong_count = 0;
    int failed = 0;
    unsigned round, i;

    for (round = 0; round < all->round_count && !program_is_stopped(); round++)
        run_round(all, round);
    if (program_is_stopped())
        return EXIT_FAILED;
    sealed_report(all->stores, all->store_count, all->round_count, all->job.record_count);
    for (i = 0; i < all->store_count; i++) {
        wrong_count += all->stores[i].wrong_count;
        failed |= all->stores[i].failed;
    }
    if (wrong_count)
        fprintf(stderr, "sealed: %" PRIu64 " wrong answers\n", wrong_count);
    if (failed)
        return EXIT_FAILED;
    return wrong_count ? EXIT_WRONG : 0;
}

int main(int argc, char **argv)
{
    static struct sealed_all all; /* large for a stack */
    ssize_t size = readlink("/proc/self/exe", all.program, sizeof(all.program) - 1);
    int rc;

    if (size < 0)
        program_refuse("/proc/self/exe", strerror(errno));
    parse(&all, argc, argv);
    if (all.part)
        return sealed_run_part(all.part, all.stores[0].peer, &all.job) == PEER_OK ? 0 : EXIT_FAILED;
    program_folder_begin(&all.folder);
    check_room(&all);
    program_folder_make(&all.folder);
    program_catch_signals();
    print_header(&all);
    rc = all.only_memory ? run_memory(&all) : run_rounds(&all);
    program_folder_remove(&all.folder);
    return rc;
}
