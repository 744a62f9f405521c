/* SPDX-License-Identifier: Apache-2.0
 *
 * test_snapshot_threads.c -- snapshots and cursors beside writers, clears and compaction.
 *
 * N1. Batches move amounts between accounts, in maps of every kind; accounts come and go. In every
 *     snapshot the sum of all amounts is the same.
 * N2. Two walks over a snapshot, and the way back of an ordered one, meet the same keys with the
 *     same amounts; as many as km_snapshot_count() tells, each of them found by a get.
 * N3. What a snapshot has of a map that is cleared, dropped and made anew beside it does not
 * change. N4. A walk without a snapshot meets each key that is there all the time exactly once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "harness/harness_util.h"

#define KIND_COUNT 3u
#define WRITER_COUNT 2u
#define READER_COUNT 2u
#define ACCOUNT_COUNT 120u /* of each writer; in the maps of all kinds, in turn */
#define AMOUNT UINT64_C(1000)
#define LASTING_COUNT 200u /* keys of each map that stay */
#define LASTING_FIRST UINT64_C(1000000)
#define SCRATCH_COUNT 300u

static const km_map_kind kinds[KIND_COUNT] = {KM_HASH, KM_INSERTION, KM_SORTED};

struct stress {
    km_store *store;
    km_map *maps[KIND_COUNT];
    pthread_mutex_t scratch_lock; /* the handles: a dropped map is in none of the later snapshots */
    km_map *scratch[KIND_COUNT];
    uint64_t rounds;
    _Atomic uint32_t numbers;
    _Atomic int readers_left;
};

struct writer {
    struct stress *stress;
    uint64_t first; /* key of its first account */
    struct harness_random random;
    uint64_t amounts[ACCOUNT_COUNT]; /* 0: not there */
};

static int is_over(struct stress *stress)
{
    /* relaxed: a number */
    return atomic_load_explicit(&stress->readers_left, memory_order_relaxed) == 0;
}

/* ---- writers ----------------------------------------------------------------------------- */

static void set_amount(struct writer *writer, km_batch *batch, uint64_t account)
{
    km_map *map = writer->stress->maps[account % KIND_COUNT];
    km_u64_key key = km_u64_key_from(writer->first + account), amount;

    if (!writer->amounts[account]) {
        CHECK_STATUS(km_batch_del(batch, map, km_bytes_of(key.bytes, 8)), KM_OK);
        return;
    }
    amount = km_u64_key_from(writer->amounts[account]);
    CHECK_STATUS(km_batch_put(batch, map, km_bytes_of(key.bytes, 8), km_bytes_of(amount.bytes, 8)),
                 KM_OK);
}

/* Some of one account, or all of it, goes to another. */
static void transfer(struct writer *writer, km_batch *batch)
{
    uint64_t from = harness_below(&writer->random, ACCOUNT_COUNT);
    uint64_t to = harness_below(&writer->random, ACCOUNT_COUNT);
    uint64_t amount = writer->amounts[from];

    if (from == to)
        return;
    if (harness_below(&writer->random, 3))
        amount = harness_below(&writer->random, amount + 1);
    writer->amounts[from] -= amount;
    writer->amounts[to] += amount;
    set_amount(writer, batch, from);
    set_amount(writer, batch, to);
}

static void *write_accounts(void *context)
{
    struct stress *stress = context;
    uint32_t number = atomic_fetch_add_explicit(&stress->numbers, 1, memory_order_relaxed);
    struct writer writer = {.stress = stress, .random = harness_stream(100 + number)};
    km_batch *batch = NULL;

    writer.first = number * ACCOUNT_COUNT;
    for (uint64_t i = 0; i < ACCOUNT_COUNT; i++)
        writer.amounts[i] = AMOUNT;
    CHECK_STATUS(km_batch_create(stress->store, &batch), KM_OK);
    while (!is_over(stress)) {
        uint64_t lasting = LASTING_FIRST + harness_below(&writer.random, LASTING_COUNT);

        transfer(&writer, batch);
        CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK);
        CHECK_STATUS(km_put_u64(stress->maps[lasting % KIND_COUNT], lasting,
                                km_bytes_of("\0\0\0\0\0\0\0\0", 8), NULL),
                     KM_OK);
    }
    km_batch_destroy(batch);
    return NULL;
}

static void fill_scratch(km_map *map, uint64_t round)
{
    uint8_t value[100];

    for (uint64_t key = 0; key < SCRATCH_COUNT; key++) {
        harness_value_fill(value, sizeof(value), key, round + 1);
        CHECK_STATUS(km_put_u64(map, key, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
    }
}

static void drop_scratch(struct stress *stress, uint32_t kind)
{
    km_bytes name = km_bytes_of_string(kind == 0 ? "s0" : kind == 1 ? "s1" : "s2");

    CHECK(pthread_mutex_lock(&stress->scratch_lock) == 0);
    CHECK_STATUS(km_map_drop(stress->scratch[kind]), KM_OK);
    CHECK_STATUS(km_map_create(stress->store, name, kinds[kind], &stress->scratch[kind]), KM_OK);
    CHECK(pthread_mutex_unlock(&stress->scratch_lock) == 0);
}

static void *churn(void *context)
{
    struct stress *stress = context;
    struct harness_random random = harness_stream(200);
    uint64_t drops = 0;

    for (uint64_t round = 0; !is_over(stress); round++) {
        uint32_t kind = (uint32_t)harness_below(&random, KIND_COUNT);

        fill_scratch(stress->scratch[kind], round);
        if (drops < 1000 && harness_below(&random, 4) == 0) { /* names are limited */
            drop_scratch(stress, kind);
            drops++;
        } else if (kinds[kind] == KM_SORTED && harness_below(&random, 2)) {
            CHECK_STATUS(km_del_range(stress->scratch[kind], NULL, NULL, NULL), KM_OK);
        } else if (harness_below(&random, 2)) {
            CHECK_STATUS(km_map_clear(stress->scratch[kind]), KM_OK);
        }
        if (harness_below(&random, 8) == 0)
            CHECK_STATUS(km_compact(stress->store, NULL, NULL, NULL), KM_OK);
    }
    return NULL;
}

/* ---- readers ----------------------------------------------------------------------------- */

/* What a walk met: sums that do not depend on the order, and one that does. */
struct walked {
    uint64_t count, amounts, keys, mixed, in_order;
};

static void add_entry(struct walked *walked, km_bytes key, km_bytes value)
{
    uint64_t number = km_u64_key_to(key.data), amount = km_u64_key_to(value.data);

    CHECK(key.size == 8 && value.size >= 8);
    walked->count++;
    walked->keys += number;
    walked->amounts += amount;
    walked->mixed += (number + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ amount;
    walked->in_order = walked->in_order * 31 + number;
}

static km_cursor *open_cursor(km_map *map, km_snapshot *snapshot, int is_reverse)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;

    options.snapshot = snapshot;
    options.reverse = is_reverse;
    CHECK_STATUS(km_cursor_open(map, &options, &cursor), KM_OK);
    return cursor;
}

static struct walked walk(km_map *map, km_snapshot *snapshot, int is_reverse)
{
    km_cursor *cursor = open_cursor(map, snapshot, is_reverse);
    struct walked walked = {0};
    km_bytes key, value;
    km_status rc;

    while ((rc = km_cursor_next(cursor, &key, &value)) == KM_OK)
        add_entry(&walked, key, value);
    CHECK_STATUS(rc, KM_END);
    km_cursor_close(cursor);
    return walked;
}

static void check_gets(km_map *map, km_snapshot *snapshot)
{
    km_cursor *cursor = open_cursor(map, snapshot, 0);
    km_buffer buffer = KM_BUFFER_INIT;
    km_bytes key, value;

    while (km_cursor_next(cursor, &key, &value) == KM_OK) {
        km_key_info info, walked_info;

        CHECK_STATUS(km_cursor_info(cursor, &walked_info), KM_OK);
        CHECK_STATUS(km_snapshot_get(snapshot, map, key, &buffer, &info), KM_OK);
        CHECK(buffer.size == value.size && memcmp(buffer.data, value.data, value.size) == 0);
        CHECK(info.version == walked_info.version);
    }
    km_cursor_close(cursor);
    km_buffer_free(&buffer);
}

/* N2 */
static struct walked check_map(km_map *map, km_map_kind kind, km_snapshot *snapshot)
{
    struct walked first = walk(map, snapshot, 0), again = walk(map, snapshot, 0);

    CHECK_MSG(first.count == again.count && first.keys == again.keys && first.mixed == again.mixed,
              "kind %d: %llu keys, then %llu", (int)kind, (unsigned long long)first.count,
              (unsigned long long)again.count);
    CHECK_MSG(first.count == km_snapshot_count(snapshot, map), "kind %d: met %llu keys of %llu",
              (int)kind, (unsigned long long)first.count,
              (unsigned long long)km_snapshot_count(snapshot, map));
    if (kind != KM_HASH) {
        CHECK(first.in_order == again.in_order);
        again = walk(map, snapshot, 1);
        CHECK(first.count == again.count && first.mixed == again.mixed);
    }
    check_gets(map, snapshot);
    return first;
}

static void check_snapshot(struct stress *stress)
{
    km_map *scratch[KIND_COUNT];
    km_snapshot *snapshot = NULL;
    uint64_t sum = 0;

    CHECK(pthread_mutex_lock(&stress->scratch_lock) == 0);
    CHECK_STATUS(km_snapshot_open(stress->store, &snapshot), KM_OK);
    memcpy(scratch, stress->scratch, sizeof(scratch));
    CHECK(pthread_mutex_unlock(&stress->scratch_lock) == 0);
    for (uint32_t i = 0; i < KIND_COUNT; i++) {
        sum += check_map(stress->maps[i], kinds[i], snapshot).amounts;
        check_map(scratch[i], kinds[i], snapshot);
    }
    CHECK_MSG(sum == WRITER_COUNT * ACCOUNT_COUNT * AMOUNT, "the sum is %llu",
              (unsigned long long)sum); /* N1 */
    km_snapshot_close(snapshot);
}

/* N4 */
static void check_lasting(struct stress *stress, uint32_t map, int is_reverse)
{
    uint8_t seen[LASTING_COUNT] = {0};
    km_cursor *cursor = open_cursor(stress->maps[map], NULL, is_reverse);
    uint64_t count = 0, expected = 0;
    km_bytes key;
    km_status rc;

    while ((rc = km_cursor_next(cursor, &key, NULL)) == KM_OK) {
        uint64_t number = km_u64_key_to(key.data);

        if (number < LASTING_FIRST)
            continue;
        CHECK(!seen[number - LASTING_FIRST]++);
        count++;
    }
    CHECK_STATUS(rc, KM_END);
    for (uint64_t i = 0; i < LASTING_COUNT; i++)
        expected += (LASTING_FIRST + i) % KIND_COUNT == map;
    CHECK(count == expected);
    km_cursor_close(cursor);
}

static void *read_all(void *context)
{
    struct stress *stress = context;

    for (uint64_t round = 0; round < stress->rounds; round++) {
        check_snapshot(stress);
        for (uint32_t map = 0; map < KIND_COUNT; map++)
            check_lasting(stress, map, map > 0 && round % 2);
    }
    atomic_fetch_sub_explicit(&stress->readers_left, 1, memory_order_relaxed);
    return NULL;
}

/* ---- the case ---------------------------------------------------------------------------- */

static void fill_maps(struct stress *stress)
{
    km_u64_key amount = km_u64_key_from(AMOUNT);
    static const char *const names[2][KIND_COUNT] = {{"h", "i", "s"}, {"s0", "s1", "s2"}};

    for (uint32_t i = 0; i < KIND_COUNT; i++) {
        CHECK_STATUS(km_map_create(stress->store, km_bytes_of_string(names[0][i]), kinds[i],
                                   &stress->maps[i]),
                     KM_OK);
        CHECK_STATUS(km_map_create(stress->store, km_bytes_of_string(names[1][i]), kinds[i],
                                   &stress->scratch[i]),
                     KM_OK);
    }
    for (uint64_t i = 0; i < LASTING_COUNT; i++)
        CHECK_STATUS(km_put_u64(stress->maps[(LASTING_FIRST + i) % KIND_COUNT], LASTING_FIRST + i,
                                km_bytes_of("\0\0\0\0\0\0\0\0", 8), NULL),
                     KM_OK);
    for (uint64_t i = 0; i < WRITER_COUNT * ACCOUNT_COUNT; i++)
        CHECK_STATUS(km_put_u64(stress->maps[i % ACCOUNT_COUNT % KIND_COUNT], i,
                                km_bytes_of(amount.bytes, 8), NULL),
                     KM_OK);
}

static void run_stress(km_store *store)
{
    struct stress stress = {.store = store,
                            .scratch_lock = PTHREAD_MUTEX_INITIALIZER,
                            .rounds = harness_scaled(400),
                            .readers_left = READER_COUNT};
    pthread_t threads[WRITER_COUNT + READER_COUNT + 1];
    uint32_t count = 0;

    fill_maps(&stress);
    for (uint32_t i = 0; i < WRITER_COUNT; i++)
        CHECK(pthread_create(&threads[count++], NULL, write_accounts, &stress) == 0);
    for (uint32_t i = 0; i < READER_COUNT; i++)
        CHECK(pthread_create(&threads[count++], NULL, read_all, &stress) == 0);
    CHECK(pthread_create(&threads[count++], NULL, churn, &stress) == 0);
    for (uint32_t i = 0; i < count; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

static void snapshots_are_of_one_moment_in_a_folder(void **state)
{
    char path[HARNESS_PATH_SIZE];
    km_store *store;

    (void)state;
    harness_make_folder(path);
    store = harness_open(path, NULL);
    run_stress(store);
    harness_close(store);
    harness_remove(path);
}

static void snapshots_are_of_one_moment_in_memory(void **state)
{
    km_store *store = NULL;

    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &store, NULL), KM_OK);
    run_stress(store);
    harness_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(snapshots_are_of_one_moment_in_a_folder),
        cmocka_unit_test(snapshots_are_of_one_moment_in_memory),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
