/* SPDX-License-Identifier: Apache-2.0
 *
 * order.c -- maps that keep an order, beside other stores that do: inserts, gets, ranges, prefixes,
 * walks, positions by number, and deleting everything from the front, the back, at random.
 *
 * D1. All stores do a round of a work before any does the next, and every second round goes through
 *     them backwards: a machine that is busy for a while is so for all of them. Where memory is too
 *     small for that, each store does all its rounds before the next one is made, and the output
 *     says so.
 * D2. A goal is judged by medians over rounds, of ratios by the median of the ratios of each round.
 *
 * Output: tables of tab-separated lines; "columns" lines name their columns. table.sh lays them
 * out.
 */
#include "order.h"
#include "program.h"
#include "ticks.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    ORDER_ROUND_MAX = 64,
    ORDER_SHARED_MAX = 64,
    ORDER_PREFIX_WANTED = 8,     /* records that a prefix has on average, at least */
    ORDER_BYTES_PER_RECORD = 100 /* of memory, beside key and value: the dearest of the stores */
};

struct order_store {
    struct target target;
    void *session;
    uint64_t index_bytes; /* after the inserts; 0: not known */
    uint64_t disk_bytes;
    int failed;
    uint64_t wrong[ORDER_KIND_COUNT];
    double ns[ORDER_KIND_COUNT][ORDER_ROUND_MAX]; /* 0: not measured */
    uint64_t drain_wrong[ORDER_DRAIN_COUNT];
    double drain_ns[ORDER_DRAIN_COUNT][ORDER_ROUND_MAX];
};

struct order {
    struct order_config config;
    struct program_folder folder;
    const struct peer *peers[BENCH_PEER_MAX];
    unsigned store_count;
    struct order_store stores[BENCH_PEER_MAX];
    uint64_t drain_count; /* records of a store that is emptied; 0: none is */
    unsigned drain_rounds;
    int one_by_one;
    int failed;
};

/* ---- medians ------------------------------------------------------------------------------ */

static int compare_doubles(const void *left, const void *right)
{
    double l = *(const double *)left;
    double r = *(const double *)right;

    return (l > r) - (l < r);
}

struct spread {
    double median, low, high; /* 0: nothing was measured */
};

static struct spread spread_of(const double *values, unsigned count)
{
    double sorted[ORDER_ROUND_MAX];
    struct spread spread = {0, 0, 0};

    if (!count || values[count - 1] <= 0)
        return spread;
    memcpy(sorted, values, count * sizeof(*values));
    qsort(sorted, count, sizeof(*sorted), compare_doubles);
    spread.median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
    spread.low = sorted[0];
    spread.high = sorted[count - 1];
    return spread;
}

/* D2: of the ratios of each round. */
static double ratio_of(const double *above, const double *below, unsigned count)
{
    double ratios[ORDER_ROUND_MAX] = {0};
    unsigned i;

    for (i = 0; i < count; i++) {
        if (above[i] <= 0 || below[i] <= 0)
            return 0;
        ratios[i] = above[i] / below[i];
    }
    return spread_of(ratios, count).median;
}

/* ---- rounds ------------------------------------------------------------------------------- */

static int takes_part(const struct order_store *store, const struct order_work *work)
{
    const struct peer *peer = store->target.peer;

    if (store->failed || !(work->orders >> peer->order & 1))
        return 0;
    return peer->scan || work->kind == ORDER_INSERT || work->kind == ORDER_GET ||
           work->kind == ORDER_OVERWRITE;
}

static void store_failed(struct order *all, struct order_store *store, const char *what)
{
    if (!program_is_stopped())
        fprintf(stderr, "order: %s failed at: %s\n", store->target.peer->name, what);
    store->failed = 1;
    all->failed = 1;
}

static void run_round(struct order *all, struct order_store *store, const struct order_work *work,
                      unsigned round)
{
    struct order_result result;

    if (!takes_part(store, work) || program_is_stopped())
        return;
    order_run(&all->config, work, &store->target, store->session, round, &result);
    if (result.failed)
        store_failed(all, store, work->name);
    store->ns[work->kind][round] = result.ns_per_op;
    store->wrong[work->kind] += result.wrong_count;
    if (work->writes)
        machine_settle_ns(); /* what is left to do is not the neighbour's */
}

static void run_rounds(struct order *all, const struct order_work *work, unsigned first,
                       unsigned count)
{
    unsigned round, i;

    for (round = 0; round < all->config.base.round_count; round++) {
        for (i = 0; i < count; i++)
            run_round(all, &all->stores[first + (round % 2 ? count - 1 - i : i)], work, round);
    }
}

static void after_inserts(struct order *all, struct order_store *store)
{
    const struct peer *peer = store->target.peer;
    struct peer_figures figures = {0};

    if (store->failed || program_is_stopped())
        return;
    if (peer->after_load && peer->after_load(store->target.handle) != PEER_OK)
        store_failed(all, store, "what follows the inserts");
    machine_settle_ns();
    if (peer->figures)
        peer->figures(store->target.handle, &figures);
    store->index_bytes = figures.index_bytes;
    store->disk_bytes = folder_disk_bytes(store->target.path);
}

static void before_thinned(struct order *all, struct order_store *store)
{
    if (!takes_part(store, &order_works[ORDER_INDEX]) || program_is_stopped())
        return;
    if (order_thin(&all->config, store->target.peer, store->session) != PEER_OK)
        store_failed(all, store, "deleting a fifth of the keys");
    machine_settle_ns();
}

static void open_store(struct order *all, struct order_store *store)
{
    const struct peer *peer = store->target.peer;

    if (folder_make(store->target.path) ||
        target_open(&all->config.base, &store->target) != PEER_OK ||
        peer->session_open(store->target.handle, &store->session) != PEER_OK)
        store_failed(all, store, "opening");
}

static void close_store(struct order_store *store)
{
    if (store->session)
        store->target.peer->session_close(store->session);
    if (store->target.handle)
        store->target.peer->close(store->target.handle);
    store->session = NULL;
    store->target.handle = NULL;
    folder_remove(store->target.path);
}

/* All works of some stores side by side. */
static void run_stores(struct order *all, unsigned first, unsigned count)
{
    unsigned kind, i;

    for (i = first; i < first + count; i++)
        open_store(all, &all->stores[i]);
    for (kind = 0; kind < ORDER_KIND_COUNT; kind++) {
        for (i = first; i < first + count && kind == ORDER_INDEX; i++)
            before_thinned(all, &all->stores[i]);
        run_rounds(all, &order_works[kind], first, count);
        for (i = first; i < first + count && kind == ORDER_INSERT; i++)
            after_inserts(all, &all->stores[i]);
    }
    for (i = first; i < first + count; i++)
        close_store(&all->stores[i]);
}

/* ---- deleting everything ------------------------------------------------------------------ */

/* Stores sorted by key have neither a front nor a back that ids know of; of the others only those
 * that can pop are drained: they are what the comparison is about. */
static int can_drain(const struct order_store *store, enum order_drain drain)
{
    const struct peer *peer = store->target.peer;

    if (strncmp(peer->name, "keepmap", strlen("keepmap")))
        return 0;
    if (drain == ORDER_DRAIN_POP_FIRST || drain == ORDER_DRAIN_POP_LAST)
        return peer->pop_first != NULL;
    return drain == ORDER_DRAIN_RANDOM || peer->order != PEER_ORDER_KEY;
}

static void drain_store(struct order *all, struct order_store *store, enum order_drain drain,
                        unsigned round)
{
    struct target target = store->target;
    struct order_result result;

    if (store->failed || !can_drain(store, drain) || program_is_stopped())
        return;
    target.record_count = all->drain_count;
    order_drain(&all->config, drain, &target, &result);
    if (result.failed)
        store_failed(all, store, order_drain_names[drain]);
    store->drain_ns[drain][round] = result.ns_per_op;
    store->drain_wrong[drain] += result.wrong_count;
}

static void drain_stores(struct order *all)
{
    unsigned round, drain, i;

    for (round = 0; round < all->drain_rounds && all->drain_count; round++) {
        for (drain = 0; drain < ORDER_DRAIN_COUNT; drain++) {
            for (i = 0; i < all->store_count; i++)
                drain_store(all, &all->stores[i], drain, round);
        }
    }
}

/* ---- output ------------------------------------------------------------------------------- */

static const struct order_store *find_store(const struct order *all, const char *name)
{
    unsigned i;

    for (i = 0; i < all->store_count; i++) {
        if (!strcmp(all->stores[i].target.peer->name, name) && !all->stores[i].failed)
            return &all->stores[i];
    }
    return NULL;
}

/* The store that the others of a work are compared with. */
static const struct order_store *reference_of(const struct order *all,
                                              const struct order_work *work)
{
    const char *name = work->orders >> PEER_ORDER_KEY & 1 ? "keepmap-sorted" : "keepmap-insertion";

    return find_store(all, name);
}

static void print_work(const struct order *all, const struct order_work *work)
{
    const struct order_store *reference = reference_of(all, work);
    unsigned rounds = all->config.base.round_count;
    unsigned i;

    printf("columns\t%s\tstore\tns\tlowest\thighest\tx %s\twrong\n", work->name,
           reference ? reference->target.peer->name : "-");
    for (i = 0; i < all->store_count; i++) {
        const struct order_store *store = &all->stores[i];
        const double *ns = store->ns[work->kind];
        struct spread spread = spread_of(ns, rounds);

        if (spread.median <= 0)
            continue;
        printf("%s\t%s\t%.1f\t%.1f\t%.1f\t", work->name, store->target.peer->name, spread.median,
               spread.low, spread.high);
        if (reference)
            printf("%.2f", ratio_of(ns, reference->ns[work->kind], rounds));
        else
            printf("-");
        printf("\t%" PRIu64 "\n", store->wrong[work->kind]);
    }
}

static void print_space(const struct order *all)
{
    double count = (double)all->config.base.record_count;
    unsigned i;

    printf("columns\tspace\tstore\tindex bytes a key\tdisk bytes a record\n");
    for (i = 0; i < all->store_count; i++) {
        const struct order_store *store = &all->stores[i];

        if (store->failed || store->target.peer->is_baseline)
            continue;
        printf("space\t%s\t", store->target.peer->name);
        if (store->index_bytes)
            printf("%.2f", (double)store->index_bytes / count);
        else
            printf("-");
        printf("\t%.1f\n", (double)store->disk_bytes / count);
    }
}

static void print_drains(const struct order *all)
{
    unsigned drain, i;

    printf("columns\tdelete all\tstore\tfrom\tns a key\tlowest\thighest\twrong\n");
    for (i = 0; i < all->store_count; i++) {
        for (drain = 0; drain < ORDER_DRAIN_COUNT; drain++) {
            const struct order_store *store = &all->stores[i];
            struct spread spread = spread_of(store->drain_ns[drain], all->drain_rounds);

            if (spread.median > 0)
                printf("delete all\t%s\t%s\t%.1f\t%.1f\t%.1f\t%" PRIu64 "\n",
                       store->target.peer->name, order_drain_names[drain], spread.median,
                       spread.low, spread.high, store->drain_wrong[drain]);
        }
    }
}

/* ---- goals -------------------------------------------------------------------------------- */

/* A goal is held if measured is at most wanted, or at least; a measured of 0 is none. */
static void print_goal(const char *name, double measured, double wanted, int at_most)
{
    if (measured > 0)
        printf("goals\t%s\t%.2f\t%s %g\t%s\n", name, measured, at_most ? "<=" : ">=", wanted,
               (at_most ? measured <= wanted : measured >= wanted) ? "yes" : "NO");
}

static void print_insertion_goals(const struct order *all)
{
    const struct order_store *insertion = find_store(all, "keepmap-insertion");
    const struct order_store *hash = find_store(all, "keepmap");
    unsigned rounds = all->config.base.round_count;

    if (!insertion)
        return;
    print_goal("KM_INSERTION iterate, ns a record",
               spread_of(insertion->ns[ORDER_ITERATE], rounds).median, 25, 1);
    print_goal("KM_INSERTION get_index, a fifth deleted, ns",
               spread_of(insertion->ns[ORDER_INDEX], rounds).median, 200, 1);
    if (!hash)
        return;
    print_goal("KM_INSERTION / KM_HASH, insert",
               ratio_of(insertion->ns[ORDER_INSERT], hash->ns[ORDER_INSERT], rounds), 1.1, 1);
    print_goal("KM_INSERTION / KM_HASH, overwrite",
               ratio_of(insertion->ns[ORDER_OVERWRITE], hash->ns[ORDER_OVERWRITE], rounds), 1.1, 1);
    print_goal("KM_INSERTION - KM_HASH, index bytes a key",
               ((double)insertion->index_bytes - (double)hash->index_bytes) /
                   (double)all->config.base.record_count,
               10, 1);
}

static void print_drain_goal(const struct order *all)
{
    const struct order_store *insertion = find_store(all, "keepmap-insertion");
    double low = 0;
    double high = 0;
    double ns;
    unsigned drain;

    for (drain = 0; insertion && drain <= ORDER_DRAIN_RANDOM; drain++) {
        ns = spread_of(insertion->drain_ns[drain], all->drain_rounds).median;
        low = drain == 0 || ns < low ? ns : low;
        high = ns > high ? ns : high;
    }
    if (low > 0)
        print_goal("KM_INSERTION delete all, dearest / cheapest of front, back, random", high / low,
                   2, 1);
}

static void print_sorted_goals(const struct order *all)
{
    static const struct {
        const char *peer;
        enum order_kind kind;
        double wanted;
    } goals[] = {
        {"lmdb", ORDER_GET, 1.5},        {"lmdb", ORDER_INSERT, 3}, {"tkrzw-baby", ORDER_INSERT, 2},
        {"tkrzw-tree", ORDER_INSERT, 2}, {"lmdb", ORDER_RANGE, 1},  {"lmdb", ORDER_PREFIX, 1},
    };
    const struct order_store *sorted = find_store(all, "keepmap-sorted");
    unsigned rounds = all->config.base.round_count;
    char name[80];
    size_t i;

    for (i = 0; sorted && i < sizeof(goals) / sizeof(goals[0]); i++) {
        const struct order_store *peer = find_store(all, goals[i].peer);
        enum order_kind kind = goals[i].kind;

        snprintf(name, sizeof(name), "%s / KM_SORTED, %s", goals[i].peer, order_works[kind].name);
        if (peer)
            print_goal(name, ratio_of(peer->ns[kind], sorted->ns[kind], rounds), goals[i].wanted,
                       0);
    }
    if (sorted)
        print_goal("KM_SORTED, index bytes a key",
                   (double)sorted->index_bytes / (double)all->config.base.record_count, 32, 1);
}

static uint64_t print_tables(const struct order *all)
{
    uint64_t wrong_count = 0;
    unsigned kind, drain, i;

    for (kind = 0; kind < ORDER_KIND_COUNT; kind++)
        print_work(all, &order_works[kind]);
    print_space(all);
    print_drains(all);
    printf("columns\tgoals\tgoal\tmeasured\twanted\theld\n");
    print_insertion_goals(all);
    print_drain_goal(all);
    print_sorted_goals(all);
    for (i = 0; i < all->store_count; i++) {
        for (kind = 0; kind < ORDER_KIND_COUNT; kind++)
            wrong_count += all->stores[i].wrong[kind];
        for (drain = 0; drain < ORDER_DRAIN_COUNT; drain++)
            wrong_count += all->stores[i].drain_wrong[drain];
    }
    return wrong_count;
}

static void print_header(const struct order *all)
{
    const struct order_config *config = &all->config;
    const struct bench_config *base = &config->base;
    unsigned i;

    machine_print_header(all->folder.path);
    printf("# records\t%" PRIu64 "\n# key\t%zu bytes, the first %zu the same in all\n"
           "# value\t%zu bytes\n",
           base->record_count, base->key_size, config->shared_size, base->value_size);
    printf("# distribution\tuniform; keys are inserted in random order\n# seed\t%" PRIu64 "\n",
           base->seed);
    printf("# class\tprocess\n# threads\t1\n# rounds\t%u of %u ms; %s\n", base->round_count,
           base->round_ms,
           all->one_by_one ? "one store after the other" : "all stores side by side");
    printf("# sections\t%u gets or scans\n# clock\t%s, %.1f ns a reading, two to a round\n",
           base->section_count, TICKS_SOURCE, ticks_overhead_ns(base->ticks_per_ns));
    printf("# range\t%" PRIu64 " records\n# prefix\t%zu bytes\n", config->scan_length,
           config->prefix_size);
    printf("# delete all\t%" PRIu64 " records, %u rounds\n", all->drain_count, all->drain_rounds);
    for (i = 0; i < ORDER_KIND_COUNT; i++)
        printf("# work\t%s\t%s\n", order_works[i].name, order_works[i].text);
    for (i = 0; i < all->store_count; i++)
        program_print_peer(all->peers[i]);
    fflush(stdout);
}

/* ---- options and the program -------------------------------------------------------------- */

static const struct option order_options[] = {
    {"records", required_argument, NULL, 'n'},
    {"peers", required_argument, NULL, 'p'},
    {"rounds", required_argument, NULL, 'r'},
    {"round-ms", required_argument, NULL, 'm'},
    {"key", required_argument, NULL, 'k'},
    {"shared", required_argument, NULL, 'c'},
    {"value-size", required_argument, NULL, 'v'},
    {"range", required_argument, NULL, 'l'},
    {"section", required_argument, NULL, 'g'},
    {"drain-records", required_argument, NULL, 'D'},
    {"drain-rounds", required_argument, NULL, 'R'},
    {"one-by-one", no_argument, NULL, 'o'},
    {"quick", no_argument, NULL, 'q'},
    {"dir", required_argument, NULL, 'd'},
    {"seed", required_argument, NULL, 's'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void print_usage(FILE *file)
{
    unsigned i;

    fprintf(file, "usage: order [options]\n"
                  "  --records N      records in each store (1000000)\n"
                  "  --peers A,B      stores (all that were built in, but the baseline)\n"
                  "  --rounds R       of each work (5)\n"
                  "  --round-ms MS    length of a round (250)\n"
                  "  --key 16|20      bytes of a key (16)\n"
                  "  --shared S       bytes in front of that, the same in all keys (0)\n"
                  "  --value-size S   16 to 65536 (100)\n"
                  "  --range L        records of a range (100)\n"
                  "  --section G      gets or scans to a read transaction (256)\n"
                  "  --drain-records N  records of a store that is emptied; 0: none (1000000, at\n"
                  "                   most --records)\n"
                  "  --drain-rounds R of that (3)\n"
                  "  --one-by-one     one store after the other, not side by side; chosen anyway\n"
                  "                   if memory is too small for all\n"
                  "  --quick          small and short, to see that it works; options that follow\n"
                  "                   change it\n"
                  "  --dir DIR        where to put the data (bench-data beside this program)\n"
                  "  --seed S         of keys and choices (1)\n"
                  "stores:");
    for (i = 0; i < bench_order_peer_count; i++)
        fprintf(file, " %s", bench_order_peers[i]->name);
    fprintf(file, "\n");
}

static void set_quick(struct order *all)
{
    all->config.base.record_count = 20000;
    all->config.base.round_count = 1;
    all->config.base.round_ms = 5;
    all->config.base.warm_ms = 1;
    all->drain_count = 5000;
    all->drain_rounds = 1;
}

static void set_option(struct order *all, int option, char *text)
{
    struct bench_config *base = &all->config.base;

    switch (option) {
    case 'n': base->record_count = program_number("--records", text, 1000, 1u << 30); break;
    case 'p': all->store_count = program_peers(text, all->peers); break;
    case 'r':
        base->round_count = (unsigned)program_number("--rounds", text, 1, ORDER_ROUND_MAX);
        break;
    case 'm': base->round_ms = (unsigned)program_number("--round-ms", text, 1, 600000); break;
    case 'k':
        if (!strcmp(text, "u64"))
            program_refuse("--key", text); /* SQLite would take it as a number, and sort it so */
        base->key_size = program_key_size(text);
        break;
    case 'c':
        all->config.shared_size = program_number("--shared", text, 0, ORDER_SHARED_MAX);
        break;
    case 'v':
        base->value_size = program_number("--value-size", text, PEER_VALUE_SIZE_MIN, 1u << 16);
        break;
    case 'l': all->config.scan_length = program_number("--range", text, 1, 1u << 20); break;
    case 'g':
        base->section_count = (unsigned)program_number("--section", text, 1, BENCH_SECTION_MAX);
        break;
    case 'D': all->drain_count = program_number("--drain-records", text, 0, 1u << 30); break;
    case 'R':
        all->drain_rounds = (unsigned)program_number("--drain-rounds", text, 1, ORDER_ROUND_MAX);
        break;
    case 'o': all->one_by_one = 1; break;
    case 'q': set_quick(all); break;
    case 'd': all->folder.parent = text; break;
    case 's': base->seed = program_number("--seed", text, 0, UINT64_MAX); break;
    case 'h': print_usage(stdout); exit(0);
    default: print_usage(stderr); exit(EXIT_FAILED);
    }
}

static void parse(struct order *all, int argc, char **argv)
{
    unsigned i;
    int option;

    all->config = (struct order_config){
        .base = {.record_count = 1000000,
                 .round_count = 5,
                 .round_ms = 250,
                 .warm_ms = 30,
                 .section_count = 256,
                 .key_size = 16,
                 .value_size = 100,
                 .seed = 1},
        .scan_length = 100,
    };
    all->drain_count = 1000000;
    all->drain_rounds = 3;
    for (i = 0; i < bench_order_peer_count; i++) {
        if (!bench_order_peers[i]->is_baseline)
            all->peers[all->store_count++] = bench_order_peers[i];
    }
    while ((option = getopt_long(argc, argv, "", order_options, NULL)) != -1)
        set_option(all, option, optarg);
    if (optind < argc)
        program_refuse("unexpected argument", argv[optind]);
    all->config.base.key_size += all->config.shared_size;
    if (all->drain_count > all->config.base.record_count)
        all->drain_count = all->config.base.record_count;
}

/* The longest prefix that still has some records. */
static size_t choose_prefix_size(const struct order_config *config)
{
    uint64_t records = config->base.record_count / 256;
    size_t size = 1;

    for (; records / 256 >= ORDER_PREFIX_WANTED; records /= 256)
        size++;
    return config->shared_size + size;
}

static int compare_numbers(const void *left, const void *right)
{
    uint64_t l = *(const uint64_t *)left;
    uint64_t r = *(const uint64_t *)right;

    return (l > r) - (l < r);
}

static uint64_t *make_numbers(const struct bench_config *base)
{
    uint64_t *numbers = malloc(base->record_count * sizeof(*numbers));
    uint64_t id;

    if (!numbers)
        program_refuse("memory", "none left for the keys' numbers");
    for (id = 0; id < base->record_count; id++)
        numbers[id] = peer_key_number(base->seed, id);
    qsort(numbers, base->record_count, sizeof(*numbers), compare_numbers);
    return numbers;
}

static void prepare(struct order *all)
{
    const struct bench_config *base = &all->config.base;
    double record = (double)(base->key_size + base->value_size + ORDER_BYTES_PER_RECORD);
    double needed = record * (double)base->record_count; /* by a store */
    unsigned i;

    if ((double)machine_available_bytes() < needed * all->store_count)
        all->one_by_one = 1; /* D1 */
    needed = needed * 2.5 * (all->one_by_one ? 1 : all->store_count) + (1u << 30);
    if ((double)folder_free_bytes(all->folder.parent) < needed) {
        fprintf(stderr, "order: %s has less than %.1f GiB free: use --dir, or fewer --records\n",
                all->folder.parent, needed / (1u << 30));
        program_folder_remove(&all->folder);
        exit(EXIT_FAILED);
    }
    program_folder_make(&all->folder);
    for (i = 0; i < all->store_count; i++) {
        struct target *target = &all->stores[i].target;

        target->peer = all->peers[i];
        target->record_count = base->record_count;
        target->next_version = 2;
        snprintf(target->path, sizeof(target->path), "%s/%s", all->folder.path,
                 all->peers[i]->name);
    }
}

int main(int argc, char **argv)
{
    static struct order all;
    uint64_t *numbers;
    uint64_t wrong_count;
    unsigned i;

    parse(&all, argc, argv);
    all.config.base.ticks_per_ns = ticks_calibrate();
    all.config.prefix_size = choose_prefix_size(&all.config);
    program_folder_begin(&all.folder);
    prepare(&all);
    program_catch_signals();
    print_header(&all);
    numbers = make_numbers(&all.config.base);
    all.config.numbers = numbers;
    for (i = 0; i < all.store_count; i += all.one_by_one ? 1 : all.store_count)
        run_stores(&all, i, all.one_by_one ? 1 : all.store_count);
    drain_stores(&all);
    program_folder_remove(&all.folder);
    free(numbers);
    if (program_is_stopped())
        return EXIT_FAILED;
    wrong_count = print_tables(&all);
    if (wrong_count)
        fprintf(stderr, "order: %" PRIu64 " wrong answers\n", wrong_count);
    if (all.failed)
        return EXIT_FAILED;
    return wrong_count ? EXIT_WRONG : 0;
}
