/* SPDX-License-Identifier: Apache-2.0
 *
 * order_work.c -- the rounds of order.c.
 *
 * O1. Every store gets the same ids in the same round: they follow from the seed.
 * O2. A walk's answers are summed up (peer.h), and the sums compared, after the round, with those
 * of the same walks through the sorted numbers of all keys. A record that is missing, foreign, torn
 *     or out of its place makes them differ; so does one too many.
 * O3. What a loop contains is what a user's would: making keys and values, looking at answers.
 */
#include "order.h"
#include "program.h"
#include "ticks.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    READ_BACK_COUNT = 256, /* overwritten keys looked at after a round */
    THIN_PART = 5
};

#define ALL_ORDERS (1u << PEER_ORDER_NONE | 1u << PEER_ORDER_INSERTION | 1u << PEER_ORDER_KEY)

const struct order_work order_works[ORDER_KIND_COUNT] = {
    {"insert", ORDER_INSERT, ALL_ORDERS, 0, 1, "put a new key, keys in random order"},
    {"get", ORDER_GET, ALL_ORDERS, 0, 0, "get an existing key"},
    {"range", ORDER_RANGE, 1u << PEER_ORDER_KEY, 0, 0,
     "from an existing key on, so many records with values"},
    {"prefix", ORDER_PREFIX, 1u << PEER_ORDER_KEY, 0, 0,
     "all records with values whose keys begin like an existing one"},
    {"iterate", ORDER_ITERATE, ALL_ORDERS, 0, 0,
     "all records with values, in the store's order; a record is one operation"},
    {"overwrite", ORDER_OVERWRITE, ALL_ORDERS, 0, 1, "put an existing key, same size"},
    {"get_index", ORDER_INDEX, 1u << PEER_ORDER_INSERTION, 1, 0,
     "key and value at a random position, a fifth of the keys deleted at random"},
    {"iterate thinned", ORDER_ITERATE_THINNED, 1u << PEER_ORDER_INSERTION, 1, 0,
     "as iterate, a fifth of the keys deleted at random"},
};

const char *const order_drain_names[ORDER_DRAIN_COUNT] = {"front", "back", "random", "pop first",
                                                          "pop last"};

struct worker {
    const struct order_config *config;
    const struct peer *peer;
    void *session;
    uint64_t random;
    uint64_t version; /* of the next put */
    uint64_t next_id; /* of the next insert */
    uint64_t id_count;
    uint64_t op_count;
    uint64_t rank_sum; /* records of all walks */
    struct peer_check check;
    struct peer_scan scan;
    unsigned char key[PEER_SCAN_KEY_SIZE_MAX];
    unsigned char *value;
};

typedef int (*work_op)(struct worker *worker);

/* ---- ids and keys ------------------------------------------------------------------------- */

static uint64_t next_below(uint64_t *random, uint64_t count)
{
    *random += 0x9e3779b97f4a7c15u;
    return (uint64_t)((unsigned __int128)peer_mix(*random) * count >> 64);
}

static struct peer_bytes key_of(struct worker *worker, uint64_t id)
{
    const struct order_config *config = worker->config;

    peer_make_key(config->base.seed, id, config->base.key_size - config->shared_size,
                  worker->key + config->shared_size);
    return (struct peer_bytes){worker->key, config->base.key_size};
}

static int is_thinned_out(const struct order_config *config, uint64_t id)
{
    return peer_mix(id * 2 + 1 + config->base.seed) % THIN_PART == 0;
}

/* The id that comes at `place` in a random order of the ids below count: a bijection. */
static uint64_t shuffled(uint64_t place, uint64_t count)
{
    unsigned bits = count > 4 ? 64u - (unsigned)__builtin_clzll(count - 1) : 2;
    uint64_t mask = ((uint64_t)1 << bits) - 1;

    do { /* at most half of the numbers below the mask are not below count */
        place ^= place >> (bits / 2);
        place = place * 0xbf58476d1ce4e5b9u & mask;
        place ^= place >> (bits / 2);
        place = place * 0x94d049bb133111ebu & mask;
        place ^= place >> (bits / 2);
    } while (place >= count);
    return place;
}

static int worker_init(struct worker *worker, const struct order_config *config,
                       const struct peer *peer, void *session, uint64_t id_count)
{
    *worker = (struct worker){
        .config = config,
        .peer = peer,
        .session = session,
        .id_count = id_count,
        .check = {.seed = config->base.seed,
                  .version_min = 1,
                  .value_size = config->base.value_size},
        .scan = {.limit = UINT64_MAX,
                 .key_size = config->base.key_size,
                 .number_offset = config->shared_size,
                 .check = {.version_min = 1, .value_size = config->base.value_size}},
        .value = malloc(config->base.value_size),
    };
    memset(worker->key, 'k', config->shared_size);
    return worker->value ? PEER_OK : PEER_FAILED;
}

/* ---- operations --------------------------------------------------------------------------- */

static int put_id(struct worker *worker, uint64_t id)
{
    const struct bench_config *base = &worker->config->base;

    peer_make_value(base->seed, id, worker->version++, base->value_size, worker->value);
    return worker->peer->put(worker->session, key_of(worker, id),
                             (struct peer_bytes){worker->value, base->value_size});
}

static int insert_op(struct worker *worker)
{
    return put_id(worker, worker->next_id++);
}

static int overwrite_op(struct worker *worker)
{
    return put_id(worker, next_below(&worker->random, worker->id_count));
}

static int get_op(struct worker *worker)
{
    worker->check.id = next_below(&worker->random, worker->id_count);
    return worker->peer->get(worker->session, key_of(worker, worker->check.id), &worker->check);
}

static int scan_op(struct worker *worker)
{
    int rc;

    worker->scan.from = key_of(worker, next_below(&worker->random, worker->id_count));
    if (worker->scan.prefix_size)
        worker->scan.from.size = worker->scan.prefix_size;
    worker->scan.rank = 0;
    rc = worker->peer->scan(worker->session, &worker->scan);
    worker->rank_sum += worker->scan.rank;
    return rc;
}

static int index_op(struct worker *worker)
{
    uint64_t position = next_below(&worker->random, worker->id_count);

    worker->scan.rank = position; /* counts in ranked_sum, so that a neighbour's answer differs */
    worker->rank_sum++;
    return worker->peer->get_index(worker->session, position, &worker->scan);
}

/* ---- what the answers must be: O2 --------------------------------------------------------- */

static uint64_t first_not_below(const struct order_config *config, uint64_t number)
{
    uint64_t low = 0;
    uint64_t high = config->base.record_count;
    uint64_t middle;

    while (low < high) {
        middle = low + (high - low) / 2;
        if (config->numbers[middle] < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The same walk through the numbers. */
static void expect_scan(struct worker *expected, uint64_t id)
{
    const struct order_config *config = expected->config;
    uint64_t number = peer_key_number(config->base.seed, id);
    unsigned shift = 64; /* how many bits of a number the prefix does not fix */
    struct peer_scan *scan = &expected->scan;
    uint64_t i;

    if (scan->prefix_size)
        shift -= 8 * (unsigned)(scan->prefix_size - config->shared_size);
    i = first_not_below(config, shift < 64 ? number >> shift << shift : number);
    scan->rank = 0;
    for (; i < config->base.record_count && scan->rank < scan->limit; i++) {
        if (shift < 64 && (config->numbers[i] ^ number) >> shift)
            break;
        scan->rank++;
        scan->sum += config->numbers[i];
        scan->ranked_sum += config->numbers[i] * scan->rank;
    }
    expected->rank_sum += scan->rank;
}

static void expect_all(struct worker *expected, enum peer_order order, int is_thinned)
{
    const struct order_config *config = expected->config;
    struct peer_scan *scan = &expected->scan;
    uint64_t number;
    uint64_t id;

    for (id = 0; id < config->base.record_count; id++) {
        if (is_thinned && is_thinned_out(config, id))
            continue;
        number = order == PEER_ORDER_KEY ? config->numbers[id]
                                         : peer_key_number(config->base.seed, id);
        scan->rank++;
        scan->sum += number;
        scan->ranked_sum += number * scan->rank;
    }
    expected->rank_sum += scan->rank;
}

static void expect_index(struct worker *expected, uint64_t op_count)
{
    const struct order_config *config = expected->config;
    uint64_t *numbers = malloc(expected->id_count * sizeof(*numbers));
    uint64_t count = 0;
    uint64_t position;
    uint64_t id;

    if (!numbers)
        return; /* the sums stay 0: everything is wrong */
    for (id = 0; id < config->base.record_count; id++) {
        if (!is_thinned_out(config, id))
            numbers[count++] = peer_key_number(config->base.seed, id);
    }
    for (; expected->rank_sum < op_count; expected->rank_sum++) {
        position = next_below(&expected->random, expected->id_count);
        expected->scan.sum += numbers[position];
        expected->scan.ranked_sum += numbers[position] * (position + 1);
    }
    free(numbers);
}

/* How many answers of a worker's walks were wrong, at least. */
static uint64_t compare(const struct worker *worker, const struct worker *expected,
                        enum peer_order order)
{
    uint64_t wrong_count = worker->scan.check.wrong_count;
    int is_same = worker->rank_sum == expected->rank_sum && worker->scan.sum == expected->scan.sum;

    if (order != PEER_ORDER_NONE)
        is_same &= worker->scan.ranked_sum == expected->scan.ranked_sum;
    return wrong_count ? wrong_count : (uint64_t)!is_same;
}

/* ---- loops -------------------------------------------------------------------------------- */

/* Operations for a while, or as many as asked for; returns the ticks they took, 0 if one failed. */
static uint64_t run_ops(struct worker *worker, const struct order_work *work, work_op op,
                        uint64_t op_limit, unsigned ms)
{
    const struct peer *peer = worker->peer;
    const struct bench_config *base = &worker->config->base;
    int scans = work->kind == ORDER_RANGE || work->kind == ORDER_PREFIX;
    int (*begin)(void *) = scans ? peer->scan_begin : peer->read_begin;
    void (*end)(void *) = scans ? peer->scan_end : peer->read_end;
    uint64_t duration = (uint64_t)((double)ms * 1e6 * base->ticks_per_ns);
    uint64_t start = ticks_now();
    uint64_t stop_at;
    int rc = PEER_OK;

    if (work->writes || work->kind == ORDER_INDEX)
        begin = NULL;
    do {
        stop_at = worker->op_count + base->section_count;
        if (stop_at > op_limit)
            stop_at = op_limit;
        if (begin && begin(worker->session) != PEER_OK)
            return 0;
        for (; worker->op_count < stop_at && rc >= 0; worker->op_count++)
            rc = op(worker);
        if (begin)
            end(worker->session);
    } while (rc >= 0 && worker->op_count < op_limit && ticks_now() - start < duration &&
             !program_is_stopped());
    return rc < 0 ? 0 : ticks_now() - start;
}

static void set_time(const struct worker *worker, uint64_t ticks, uint64_t count,
                     struct order_result *out)
{
    out->failed = !ticks || !count;
    if (!out->failed)
        out->ns_per_op = (double)ticks / worker->config->base.ticks_per_ns / (double)count;
}

static void run_insert(struct worker *worker, const struct order_work *work, unsigned round,
                       struct order_result *out)
{
    const struct bench_config *base = &worker->config->base;
    uint64_t next = base->record_count * (round + 1) / base->round_count;
    uint64_t count;
    uint64_t ticks;

    worker->next_id = base->record_count * round / base->round_count;
    worker->version = 1;
    count = next - worker->next_id;
    ticks = run_ops(worker, work, insert_op, count, UINT32_MAX);
    set_time(worker, ticks, worker->op_count, out);
    out->failed |= worker->op_count != count;
}

/* The ids of the last puts once more: each must have what was put, or something later. */
static uint64_t read_back(struct worker *worker, uint64_t random_start, uint64_t first_version)
{
    const struct peer *peer = worker->peer;
    uint64_t random = random_start;
    uint64_t wrong_count = 0;
    uint64_t i;

    if (peer->read_begin && peer->read_begin(worker->session) != PEER_OK)
        return 1;
    for (i = 0; i < worker->op_count; i++) {
        worker->check.id = next_below(&random, worker->id_count);
        if (i + READ_BACK_COUNT < worker->op_count)
            continue;
        worker->check.version_min = first_version + i;
        if (peer->get(worker->session, key_of(worker, worker->check.id), &worker->check) != PEER_OK)
            wrong_count++;
    }
    if (peer->read_end)
        peer->read_end(worker->session);
    return wrong_count + worker->check.wrong_count;
}

static work_op op_of(enum order_kind kind)
{
    switch (kind) {
    case ORDER_GET: return get_op;
    case ORDER_OVERWRITE: return overwrite_op;
    case ORDER_INDEX: return index_op;
    default: return scan_op;
    }
}

/* `before` is the worker as it was when the round began. */
static uint64_t wrong_answers(struct worker *worker, const struct worker *before,
                              enum order_kind kind)
{
    struct worker expected = *before;
    uint64_t i;

    if (kind == ORDER_GET)
        return worker->check.wrong_count + worker->op_count - worker->check.found_count;
    if (kind == ORDER_OVERWRITE)
        return read_back(worker, before->random, before->version);
    if (kind == ORDER_INDEX)
        expect_index(&expected, worker->op_count);
    for (i = 0; i < worker->op_count && kind != ORDER_INDEX; i++)
        expect_scan(&expected, next_below(&expected.random, expected.id_count));
    return compare(worker, &expected, worker->peer->order);
}

static void run_random(struct worker *worker, const struct order_work *work, struct target *target,
                       struct order_result *out)
{
    const struct bench_config *base = &worker->config->base;
    struct worker before;
    uint64_t ticks;

    worker->version = target->next_version;
    if (!run_ops(worker, work, op_of(work->kind), UINT64_MAX, base->warm_ms)) {
        out->failed = 1;
        return;
    }
    worker->op_count = worker->rank_sum = worker->check.found_count = 0;
    worker->scan.sum = worker->scan.ranked_sum = 0;
    before = *worker;
    ticks = run_ops(worker, work, op_of(work->kind), UINT64_MAX, base->round_ms);
    set_time(worker, ticks, worker->op_count, out);
    target->next_version = worker->version;
    if (!out->failed)
        out->wrong_count = wrong_answers(worker, &before, work->kind);
}

static void run_iterate(struct worker *worker, const struct order_work *work,
                        struct order_result *out)
{
    struct worker expected = *worker;
    const struct peer *peer = worker->peer;
    uint64_t start = ticks_now();
    int rc;

    if (peer->scan_begin && peer->scan_begin(worker->session) != PEER_OK) {
        out->failed = 1;
        return;
    }
    rc = peer->scan(worker->session, &worker->scan);
    if (peer->scan_end)
        peer->scan_end(worker->session);
    worker->rank_sum = worker->scan.rank;
    set_time(worker, rc < 0 ? 0 : ticks_now() - start, worker->scan.rank, out);
    expect_all(&expected, peer->order, work->is_thinned);
    out->wrong_count = compare(worker, &expected, peer->order);
}

static uint64_t remaining_count(const struct order_config *config)
{
    uint64_t count = 0;
    uint64_t id;

    for (id = 0; id < config->base.record_count; id++)
        count += !is_thinned_out(config, id);
    return count;
}

void order_run(const struct order_config *config, const struct order_work *work,
               struct target *target, void *session, unsigned round, struct order_result *out)
{
    uint64_t id_count = work->is_thinned ? remaining_count(config) : config->base.record_count;
    struct worker worker;

    memset(out, 0, sizeof(*out));
    out->failed = worker_init(&worker, config, target->peer, session, id_count) != PEER_OK;
    worker.random = peer_mix(config->base.seed * 1000 + work->kind * 100 + round); /* O1 */
    if (work->kind == ORDER_RANGE)
        worker.scan.limit = config->scan_length;
    if (work->kind == ORDER_PREFIX)
        worker.scan.prefix_size = config->prefix_size;
    if (!out->failed && work->kind == ORDER_INSERT)
        run_insert(&worker, work, round, out);
    else if (!out->failed && (work->kind == ORDER_ITERATE || work->kind == ORDER_ITERATE_THINNED))
        run_iterate(&worker, work, out);
    else if (!out->failed)
        run_random(&worker, work, target, out);
    free(worker.value);
}

int order_thin(const struct order_config *config, const struct peer *peer, void *session)
{
    struct worker worker;
    uint64_t place, id;
    int rc = worker_init(&worker, config, peer, session, 0);

    for (place = 0; place < config->base.record_count && rc == PEER_OK; place++) {
        id = shuffled(place, config->base.record_count);
        if (is_thinned_out(config, id))
            rc = peer->del(session, key_of(&worker, id));
    }
    free(worker.value);
    return rc;
}

/* ---- deleting everything ------------------------------------------------------------------ */

/* Which id goes at `place`. */
static uint64_t drained_id(enum order_drain drain, uint64_t place, uint64_t count)
{
    if (drain == ORDER_DRAIN_BACK || drain == ORDER_DRAIN_POP_LAST)
        return count - 1 - place;
    return drain == ORDER_DRAIN_RANDOM ? shuffled(place, count) : place;
}

static uint64_t drain_ticks(struct worker *worker, enum order_drain drain)
{
    const struct peer *peer = worker->peer;
    int (*pop)(void *, struct peer_scan *) = NULL;
    uint64_t start = ticks_now();
    uint64_t place;
    int rc = PEER_OK;

    if (drain == ORDER_DRAIN_POP_FIRST)
        pop = peer->pop_first;
    if (drain == ORDER_DRAIN_POP_LAST)
        pop = peer->pop_last;
    for (place = 0; place < worker->id_count && rc == PEER_OK; place++)
        rc = pop ? pop(worker->session, &worker->scan)
                 : peer->del(worker->session,
                             key_of(worker, drained_id(drain, place, worker->id_count)));
    return rc == PEER_OK ? ticks_now() - start : 0;
}

/* What pops gave must have come in order; and nothing may be left. */
static uint64_t check_drained(struct worker *worker, enum order_drain drain)
{
    struct worker expected = *worker;
    int pops = drain == ORDER_DRAIN_POP_FIRST || drain == ORDER_DRAIN_POP_LAST;
    uint64_t number;
    uint64_t i;

    expected.scan.sum = expected.scan.ranked_sum = 0;
    for (i = 0; pops && i < worker->id_count; i++) {
        number = peer_key_number(worker->config->base.seed, drained_id(drain, i, worker->id_count));
        expected.scan.sum += number;
        expected.scan.ranked_sum += number * (i + 1);
    }
    /* The numbers are those of all records, and this store may have fewer: by key only the sum. */
    i = compare(worker, &expected,
                worker->peer->order == PEER_ORDER_KEY ? PEER_ORDER_NONE : worker->peer->order);
    worker->scan.rank = 0;
    if (worker->peer->scan(worker->session, &worker->scan) != PEER_OK)
        i++;
    return i + worker->scan.rank;
}

static void drain_session(struct worker *worker, enum order_drain drain, struct order_result *out)
{
    int rc = PEER_OK;

    worker->version = 1;
    while (worker->next_id < worker->id_count && rc == PEER_OK)
        rc = insert_op(worker);
    machine_settle_ns();
    set_time(worker, rc == PEER_OK ? drain_ticks(worker, drain) : 0, worker->id_count, out);
    if (!out->failed)
        out->wrong_count = check_drained(worker, drain);
}

void order_drain(const struct order_config *config, enum order_drain drain, struct target *target,
                 struct order_result *out)
{
    const struct peer *peer = target->peer;
    struct worker worker;
    void *session = NULL;

    memset(out, 0, sizeof(*out));
    out->failed = 1;
    if (folder_make(target->path) || target_open(&config->base, target) != PEER_OK)
        return;
    if (peer->session_open(target->handle, &session) == PEER_OK) {
        if (worker_init(&worker, config, peer, session, target->record_count) == PEER_OK)
            drain_session(&worker, drain, out);
        free(worker.value);
        peer->session_close(session);
    }
    peer->close(target->handle);
    target->handle = NULL;
    folder_remove(target->path);
}
