/* SPDX-License-Identifier: Apache-2.0
 *
 * workload.c -- random changes of a store, written down in a history.
 *
 * I1. A change is begun in the history before its call, and ended after it: at every moment the
 *     store holds the acknowledged changes and perhaps the one under way.
 * I2. Positions grow from change to change, whatever crashes and recoveries lay between.
 */
#include "harness/workload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/log_internal.h"
#include "store/store_internal.h"

#define BATCH_COUNT_MAX 12u
#define SPECIAL_SIZE_MIN (66u << 10)
#define PACE_MARGIN (UINT64_C(256) << 10) /* more than one change that is not special */

static const char *const op_names[OP_COUNT] = {"put",           "put of a special",
                                               "delete",        "batch",
                                               "special batch", "clear",
                                               "drop",          "flush",
                                               "sync",          "sync_once",
                                               "housekeeping",  "wait_durable",
                                               "reopen",        "compaction",
                                               "km_compact",    "keeper's round",
                                               "image",         "range",
                                               "update",        "snapshot"};

static void expect(struct workload *workload, km_status rc, const char *what)
{
    if (rc == KM_OK)
        return;
    printf("%s: %s failed: %s\n", workload->op_name, what, km_status_name(rc));
    workload->failed = 1;
}

/* ---- open and close ---------------------------------------------------------------------- */

void km__workload_adopt(struct workload *workload, km_store *store)
{
    const struct content *content = &workload->history->last;

    workload->store = store;
    for (uint32_t map = 0; map < HISTORY_MAP_COUNT; map++) {
        workload->maps[map] = NULL;
        if (content->exists[map])
            expect(workload, km_map_open(store, km__history_map_name(map), &workload->maps[map]),
                   "km_map_open");
    }
}

void km__workload_open(struct workload *workload)
{
    km_error error = {0};
    km_store *store = NULL;
    km_status rc;

    workload->op_name = "open";
    rc = km__store_open_with(workload->os, WORKLOAD_PATH, &workload->profile->options, 0, &store,
                             &error);
    if (rc) {
        printf("%s: %s\n", error.file, error.message);
        expect(workload, rc, "km_open");
        return;
    }
    km__workload_adopt(workload, store);
}

static void check_and_close_snapshot(struct workload *workload, struct held_snapshot *held)
{
    uint64_t fingerprint = 0;

    if (!held->snapshot)
        return;
    if (km__history_read_snapshot(held->snapshot, &fingerprint) ||
        fingerprint != held->fingerprint) {
        printf("%s: a snapshot has other contents than when it was taken\n", workload->op_name);
        workload->failed = 1;
    }
    km_snapshot_close(held->snapshot);
    held->snapshot = NULL;
}

void km__workload_close(struct workload *workload)
{
    km_error error = {0};
    km_status rc;

    workload->op_name = "close";
    for (uint32_t i = 0; i < WORKLOAD_SNAPSHOTS; i++)
        check_and_close_snapshot(workload, &workload->snapshots[i]);
    rc = km_close(workload->store, &error);
    workload->store = NULL;
    if (rc)
        printf("%s: %s\n", error.file, error.message);
    expect(workload, rc, "km_close");
    workload->durable_count = workload->history->count;
}

void km__workload_see_durable(struct workload *workload)
{
    const struct history *history = workload->history;
    km_position durable;

    if (!workload->store)
        return;
    durable = km_durable_position(workload->store);
    while (workload->durable_count < history->acknowledged &&
           history->changes[workload->durable_count].position < durable)
        workload->durable_count++;
}

/* ---- changes ----------------------------------------------------------------------------- */

static km_durability choose_durability(struct workload *workload)
{
    uint32_t one_in = workload->profile->power_one_in;

    return one_in && km__random_one_in(&workload->random, one_in) ? KM_DURABLE_POWER
                                                                  : KM_DURABLE_DEFAULT;
}

/* The change has returned. position 0: it lies below the log's present end. */
static void end_change(struct workload *workload, km_status rc, km_position position,
                       km_durability durability)
{
    expect(workload, rc, "the change");
    if (workload->failed)
        return;
    if (!position)
        position = km__log_complete(workload->store->log) - 1;
    if (position <= workload->max_position) {
        printf("%s: position %llx after %llx\n", workload->op_name, (unsigned long long)position,
               (unsigned long long)workload->max_position);
        workload->failed = 1;
    }
    if (workload->before_end)
        workload->before_end(workload->context);
    workload->max_position = position;
    km__history_end(workload->history, position);
    if (durability == KM_DURABLE_POWER || workload->store->durability == KM_DURABLE_POWER)
        workload->durable_count = workload->history->count;
}

static struct effect choose_effect(struct workload *workload, uint32_t map, uint32_t size_max)
{
    struct random *random = &workload->random;
    struct effect effect = {EFFECT_PUT, map, 0, 0, 0};

    effect.key = (uint32_t)km__random_below(random, HISTORY_KEY_COUNT);
    effect.size = (uint32_t)km__random_below(random, size_max + 1);
    if (!km__random_one_in(random, 4)) /* mostly small */
        effect.size %= 200;
    effect.value_id = workload->next_value_id++;
    return effect;
}

static void put(struct workload *workload, struct effect effect)
{
    uint8_t key_bytes[HISTORY_KEY_SIZE_MAX];
    km_write write = KM_WRITE_INIT;
    uint8_t *value = malloc(effect.size + 1);
    km_status rc;

    km__history_value(effect.value_id, effect.size, value);
    write.durability = choose_durability(workload);
    if (km__random_one_in(&workload->random, 8))
        write.ttl_ms = UINT64_MAX / 2; /* never comes */
    km__history_add(workload->history, effect);
    km__history_begin(workload->history);
    rc = km_put(workload->maps[effect.map], km__history_key(effect.key, key_bytes),
                km_bytes_of(value, effect.size), &write);
    end_change(workload, rc, write.position, write.durability);
    free(value);
}

static void keep_pace(struct workload *workload);

/* A change that is too large for the ring and is refused: no crash may bring it back. */
static void refuse_special(struct workload *workload, struct effect effect)
{
    uint8_t key_bytes[HISTORY_KEY_SIZE_MAX];
    km_bytes key = km__history_key(effect.key, key_bytes);
    km_map *map = workload->maps[effect.map];
    uint8_t *value = malloc(effect.size);
    km_bytes bytes = km_bytes_of(value, effect.size);
    km_status rc;

    km__history_value(effect.value_id, effect.size, value);
    if (workload->history->last.entries[effect.map][effect.key].value_id) {
        rc = km_put_if_absent(map, key, bytes, NULL);
        expect(workload, rc == KM_EXISTS ? KM_OK : KM_E_INVALID, "an insert of what is there");
    } else {
        rc = km_compare_and_set(map, key, workload->max_position + 8, bytes, NULL);
        expect(workload, rc == KM_CONFLICT ? KM_OK : KM_E_INVALID, "a set of what is not there");
    }
    free(value);
}

static void put_special(struct workload *workload, uint32_t map)
{
    struct effect effect = choose_effect(workload, map, 1);
    uint32_t spread = workload->profile->special_size_max - SPECIAL_SIZE_MIN;

    effect.size = SPECIAL_SIZE_MIN + (uint32_t)km__random_below(&workload->random, spread);
    put(workload, effect);
    if (!workload->failed && workload->profile->weights[OP_UPDATE] &&
        km__random_one_in(&workload->random, 2)) {
        keep_pace(workload);
        effect.key = (uint32_t)km__random_below(&workload->random, HISTORY_KEY_COUNT);
        refuse_special(workload, effect);
    }
}

static void delete_key(struct workload *workload, uint32_t map)
{
    uint8_t key_bytes[HISTORY_KEY_SIZE_MAX];
    struct effect effect = choose_effect(workload, map, 1);
    km_write write = KM_WRITE_INIT;
    km_bytes key = km__history_key(effect.key, key_bytes);
    km_status rc;

    effect.kind = EFFECT_DELETE;
    if (!workload->history->last.entries[map][effect.key].value_id) {
        rc = km_del(workload->maps[map], key, NULL);
        expect(workload, rc == KM_NOT_FOUND ? KM_OK : KM_E_INVALID, "a delete of nothing");
        return;
    }
    write.durability = choose_durability(workload);
    km__history_add(workload->history, effect);
    km__history_begin(workload->history);
    rc = km_del(workload->maps[map], key, &write);
    end_change(workload, rc, write.position, write.durability);
}

/* ---- batches ----------------------------------------------------------------------------- */

static void add_to_batch(struct workload *workload, km_batch *batch, struct effect effect)
{
    uint8_t key_bytes[HISTORY_KEY_SIZE_MAX];
    uint8_t *value = malloc(effect.size + 1);
    km_map *map = workload->maps[effect.map];
    km_bytes key = km__history_key(effect.key, key_bytes);

    if (effect.kind == EFFECT_DELETE) {
        expect(workload, km_batch_del(batch, map, key), "km_batch_del");
    } else {
        km__history_value(effect.value_id, effect.size, value);
        expect(workload, km_batch_put(batch, map, key, km_bytes_of(value, effect.size)),
               "km_batch_put");
    }
    km__history_add(workload->history, effect);
    free(value);
}

static void commit_batch(struct workload *workload, km_batch *batch)
{
    km_write write = KM_WRITE_INIT;
    km_status rc;

    write.durability = choose_durability(workload);
    km__history_begin(workload->history);
    rc = km_batch_commit(batch, &write);
    end_change(workload, rc, write.position, write.durability);
}

static void run_batch(struct workload *workload, uint32_t map, uint32_t size_max, uint32_t size_min)
{
    uint64_t count = 2 + km__random_below(&workload->random, BATCH_COUNT_MAX - 1);
    km_batch *batch = NULL;

    expect(workload, km_batch_create(workload->store, &batch), "km_batch_create");
    for (uint64_t i = 0; i < count && !workload->failed; i++) {
        uint32_t other = (uint32_t)km__random_below(&workload->random, HISTORY_MAP_COUNT);
        struct effect effect = choose_effect(workload, workload->maps[other] ? other : map,
                                             size_max);

        if (km__random_one_in(&workload->random, 4))
            effect.kind = EFFECT_DELETE;
        else if (effect.size < size_min)
            effect.size = size_min;
        add_to_batch(workload, batch, effect);
    }
    if (!workload->failed)
        commit_batch(workload, batch);
    km_batch_destroy(batch);
}

/* ---- changes on condition ------------------------------------------------------------------ */

static km_update_verdict update_value(void *context, const km_bytes *old_value,
                                      const km_key_info *old_info, km_bytes *new_value)
{
    (void)old_value;
    (void)old_info;
    *new_value = *(const km_bytes *)context;
    return KM_UPDATE_PUT;
}

/* A batch of one change that is expected to find what is there, and one that is not. */
static km_status put_expecting(struct workload *workload, struct effect effect, km_bytes key,
                               km_bytes value, km_write *write)
{
    km_map *map = workload->maps[effect.map];
    km_key_info info = {0, 0, 0};
    km_batch *batch = NULL;
    km_status rc = km_get_info(map, key, NULL, &info);

    if (rc && rc != KM_NOT_FOUND)
        return rc;
    expect(workload, km_batch_create(workload->store, &batch), "km_batch_create");
    expect(workload, km_batch_put(batch, map, key, value), "km_batch_put");
    expect(workload, km_batch_expect(batch, map, key, info.version + 8), "km_batch_expect");
    rc = km_batch_commit(batch, NULL);
    if (rc != KM_CONFLICT)
        expect(workload, rc ? rc : KM_E_INVALID, "a batch that must not happen");
    km_batch_clear(batch);
    expect(workload, km_batch_put(batch, map, key, value), "km_batch_put");
    expect(workload, km_batch_expect(batch, map, key, info.version), "km_batch_expect");
    rc = km_batch_commit(batch, write);
    km_batch_destroy(batch);
    return rc;
}

static void update_key(struct workload *workload, uint32_t map)
{
    uint8_t key_bytes[HISTORY_KEY_SIZE_MAX];
    struct effect effect = choose_effect(workload, map, 2000);
    km_bytes key = km__history_key(effect.key, key_bytes), value;
    km_write write = KM_WRITE_INIT;
    uint8_t *bytes = malloc(effect.size + 1);
    km_status rc;

    km__history_value(effect.value_id, effect.size, bytes);
    value = km_bytes_of(bytes, effect.size);
    km__history_add(workload->history, effect);
    km__history_begin(workload->history);
    if (km__random_one_in(&workload->random, 2))
        rc = km_update(workload->maps[map], key, update_value, &value, &write);
    else
        rc = put_expecting(workload, effect, key, value, &write);
    end_change(workload, rc, write.position, write.durability);
    free(bytes);
}

static int is_in_range(km_bytes key, km_bytes from, km_bytes to)
{
    size_t low = key.size < from.size ? key.size : from.size;
    size_t high = key.size < to.size ? key.size : to.size;
    int after = memcmp(key.data, from.data, low), before = memcmp(key.data, to.data, high);

    return (after > 0 || (after == 0 && key.size >= from.size)) &&
           (before < 0 || (before == 0 && key.size < to.size));
}

static void delete_range(struct workload *workload, uint32_t map)
{
    uint8_t bytes[3][HISTORY_KEY_SIZE_MAX];
    struct effect effect = choose_effect(workload, map, 1), end = choose_effect(workload, map, 1);
    km_range range = {
        km__history_key(effect.key, bytes[0]), km__history_key(end.key, bytes[1]), {NULL, 0}};
    km_write write = KM_WRITE_INIT;
    uint64_t count = 0, expected = 0;
    km_status rc;

    if (km__history_map_kind(map) != KM_SORTED) {
        delete_key(workload, map);
        return;
    }
    effect.kind = EFFECT_DELETE;
    for (effect.key = 0; effect.key < HISTORY_KEY_COUNT; effect.key++) {
        km_bytes key = km__history_key(effect.key, bytes[2]);

        if (workload->history->last.entries[map][effect.key].value_id &&
            is_in_range(key, range.from, range.to)) {
            km__history_add(workload->history, effect);
            expected++;
        }
    }
    if (expected)
        km__history_begin(workload->history);
    rc = km_del_range(workload->maps[map], &range, &write, &count);
    if (!rc && count != expected)
        rc = KM_E_INVALID;
    if (expected)
        end_change(workload, rc, write.position, write.durability);
    else
        expect(workload, rc, "an empty range");
}

/* ---- snapshots --------------------------------------------------------------------------- */

static void take_or_check_snapshot(struct workload *workload)
{
    uint64_t number = km__random_below(&workload->random, WORKLOAD_SNAPSHOTS);
    struct held_snapshot *held = &workload->snapshots[number];

    if (held->snapshot) {
        check_and_close_snapshot(workload, held);
        return;
    }
    expect(workload, km_snapshot_open(workload->store, &held->snapshot), "km_snapshot_open");
    held->fingerprint = workload->history->last.fingerprint;
}

/* ---- maps -------------------------------------------------------------------------------- */

static void change_map(struct workload *workload, enum effect_kind kind, uint32_t map)
{
    struct effect effect = {kind, map, 0, 0, 0};
    km_status rc;

    km__history_add(workload->history, effect);
    km__history_begin(workload->history);
    if (kind == EFFECT_CREATE)
        rc = km_map_create(workload->store, km__history_map_name(map), km__history_map_kind(map),
                           &workload->maps[map]);
    else if (kind == EFFECT_CLEAR)
        rc = km_map_clear(workload->maps[map]);
    else
        rc = km_map_drop(workload->maps[map]);
    if (kind == EFFECT_DROP)
        workload->maps[map] = NULL;
    end_change(workload, rc, 0, KM_DURABLE_DEFAULT);
}

static void change_something(struct workload *workload, enum workload_op op)
{
    uint32_t map = (uint32_t)km__random_below(&workload->random, HISTORY_MAP_COUNT);
    const struct profile *profile = workload->profile;

    if (!workload->maps[map]) {
        workload->op_name = "create";
        change_map(workload, EFFECT_CREATE, map);
        return;
    }
    switch (op) {
    case OP_PUT: put(workload, choose_effect(workload, map, profile->value_size_max)); break;
    case OP_PUT_SPECIAL: put_special(workload, map); break;
    case OP_DELETE: delete_key(workload, map); break;
    case OP_BATCH: run_batch(workload, map, profile->value_size_max / 2, 0); break;
    case OP_BATCH_SPECIAL: run_batch(workload, map, 60000, 20000); break;
    case OP_RANGE: delete_range(workload, map); break;
    case OP_UPDATE: update_key(workload, map); break;
    case OP_CLEAR: change_map(workload, EFFECT_CLEAR, map); break;
    default: change_map(workload, EFFECT_DROP, map); break;
    }
}

/* ---- durability -------------------------------------------------------------------------- */

static void wait_durable(struct workload *workload)
{
    const struct history *history = workload->history;
    size_t count = history->count;
    km_position position = 0;

    if (count && km__random_one_in(&workload->random, 2)) {
        count = 1 + (size_t)km__random_below(&workload->random, count);
        position = history->changes[count - 1].position;
    }
    expect(workload, km_wait_durable(workload->store, position), "km_wait_durable");
    if (position >= km_durable_position(workload->store))
        expect(workload, KM_E_INVALID, "the durable position after the wait");
    if (!workload->failed && workload->durable_count < count)
        workload->durable_count = count;
}

/* ---- upkeep ------------------------------------------------------------------------------ */

static void write_image(struct workload *workload)
{
    struct km_store *store = workload->store;

    km__mutex_lock(&store->keeper.lock);
    expect(workload, km__image_write(store), "km__image_write");
    km__mutex_unlock(&store->keeper.lock);
}

static void run_upkeep(struct workload *workload, enum workload_op op)
{
    struct km_store *store = workload->store;

    workload->is_upkeep = 1;
    switch (op) {
    case OP_COMPACT_SOME: expect(workload, km__compact_some(store), "km__compact_some"); break;
    case OP_COMPACT: expect(workload, km_compact(store, NULL, NULL, NULL), "km_compact"); break;
    case OP_KEEPER: expect(workload, km__keeper_round(store), "km__keeper_round"); break;
    default: write_image(workload); break;
    }
    km__reclaim(&store->reclaimer);
    workload->is_upkeep = 0;
}

/* A put would wait for the compactor, which has no thread here. */
static void keep_pace(struct workload *workload)
{
    struct log *log = workload->store->log;
    uint64_t pace = atomic_load_explicit(&log->pace_limit, memory_order_relaxed);
    const char *op_name = workload->op_name;

    if (pace == UINT64_MAX || km__log_linear(log, km__log_complete(log)) + PACE_MARGIN < pace)
        return;
    workload->op_name = op_names[OP_COMPACT_SOME];
    run_upkeep(workload, OP_COMPACT_SOME);
    run_upkeep(workload, OP_KEEPER);
    workload->op_name = op_name;
}

/* ---- operations -------------------------------------------------------------------------- */

static enum workload_op choose_op(struct workload *workload)
{
    const uint32_t *weights = workload->profile->weights;
    uint64_t total = 0, chosen;
    uint32_t op = 0;

    for (uint32_t i = 0; i < OP_COUNT; i++)
        total += weights[i];
    chosen = km__random_below(&workload->random, total);
    while (chosen >= weights[op])
        chosen -= weights[op++];
    return (enum workload_op)op;
}

void km__workload_step(struct workload *workload)
{
    enum workload_op op = choose_op(workload);
    struct log *log = workload->store->log;

    keep_pace(workload);
    workload->op_name = op_names[op];
    switch (op) {
    case OP_COMPACT_SOME:
    case OP_COMPACT:
    case OP_KEEPER:
    case OP_IMAGE: run_upkeep(workload, op); break;
    case OP_SNAPSHOT: take_or_check_snapshot(workload); break;
    case OP_FLUSH: expect(workload, km__log_flush(log), "km__log_flush"); break;
    case OP_SYNC: expect(workload, km__log_sync(log), "km__log_sync"); break;
    case OP_SYNC_ONCE: km__log_sync_once(log); break;
    case OP_HOUSEKEEP: expect(workload, km__log_housekeep(log), "km__log_housekeep"); break;
    case OP_WAIT_DURABLE: wait_durable(workload); break;
    case OP_REOPEN:
        km__workload_close(workload);
        if (!workload->failed)
            km__workload_open(workload);
        break;
    default: change_something(workload, op); break;
    }
    if (!workload->failed)
        km__workload_see_durable(workload);
}
