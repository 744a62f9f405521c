/* SPDX-License-Identifier: Apache-2.0
 *
 * test_threads.c -- writers, readers and walks at once; what must hold beside them and afterwards.
 *
 * T1. A value read is one that was written whole, for its key.
 * T2. The versions of a key that one reader sees never go back (a key of one writer).
 * T3. Of the puts of one key each but the last is the `previous` of exactly one other.
 * T4. A walk meets each key that is there all the time exactly once, whatever is inserted beside
 * it. T5. Counts are exact at the end; a batch that moves an amount between maps keeps the sum.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "harness/harness_util.h"

#define WRITER_COUNT 8u
#define READER_COUNT 3u
#define OWN_COUNT 1500u    /* keys of each writer alone */
#define SHARED_COUNT 32u   /* keys of all writers */
#define STABLE_COUNT 4000u /* keys that are there all the time */
#define ACCOUNT_COUNT 40u  /* of each writer, in each of two maps */
#define ACCOUNT_BEGIN 1000
#define VALUE_SIZE_MAX 700u

#define SHARED_BASE UINT64_C(1000000)
#define STABLE_BASE UINT64_C(2000000)

struct stress {
    km_store *store;
    km_map *map, *left, *right;
    uint64_t turns;
    _Atomic int writers_left;
    _Atomic uint32_t next_number; /* numbers of shared puts, from 1 */
    uint32_t number_max;
    _Atomic uint8_t *was_previous; /* by number */
    _Atomic uint64_t reads, walks;
};

struct worker {
    struct stress *stress;
    uint32_t number;
    struct harness_random random;
    uint64_t versions[OWN_COUNT]; /* of its own keys; even: the key is not there */
    int64_t left[ACCOUNT_COUNT], right[ACCOUNT_COUNT];
    pthread_t thread;
};

static uint64_t own_key(uint32_t writer, uint64_t i)
{
    return writer * OWN_COUNT + i;
}

static uint32_t random_size(struct harness_random *random)
{
    return HARNESS_VALUE_MIN +
           (uint32_t)harness_below(random, VALUE_SIZE_MAX - HARNESS_VALUE_MIN + 1);
}

static void put_number(km_map *map, uint64_t key, uint64_t version, uint32_t size, km_write *write)
{
    uint8_t value[VALUE_SIZE_MAX];

    harness_value_fill(value, size, key, version);
    CHECK_STATUS(km_put_u64(map, key, km_bytes_of(value, size), write), KM_OK);
}

/* ---- writers ----------------------------------------------------------------------------- */

/* Odd versions are puts, even ones deletes. */
static void change_own(struct worker *worker)
{
    uint64_t i = harness_below(&worker->random, OWN_COUNT);
    uint64_t key = own_key(worker->number, i);
    uint64_t version = worker->versions[i];

    if (version % 2 && harness_below(&worker->random, 4) == 0) {
        CHECK_STATUS(km_del_u64(worker->stress->map, key, NULL), KM_OK);
        worker->versions[i] = version + 1;
        return;
    }
    version += version % 2 ? 2 : 1;
    put_number(worker->stress->map, key, version, random_size(&worker->random), NULL);
    worker->versions[i] = version;
}

static void note_previous(struct stress *stress, uint64_t key, const km_write *write)
{
    km_bytes value = km_bytes_of(write->previous->data, write->previous->size);
    uint64_t number;

    if (!write->existed)
        return;
    number = harness_value_version(value, key);
    CHECK(number > 0 && number <= stress->number_max);
    CHECK_MSG(atomic_fetch_add(&stress->was_previous[number], 1) == 0,
              "value %llu of key %llu was replaced twice", (unsigned long long)number,
              (unsigned long long)key);
}

static void change_shared(struct worker *worker, km_buffer *previous)
{
    struct stress *stress = worker->stress;
    uint64_t key = SHARED_BASE + harness_below(&worker->random, SHARED_COUNT);
    km_write write = KM_WRITE_INIT;

    write.previous = previous;
    put_number(stress->map, key, atomic_fetch_add(&stress->next_number, 1),
               random_size(&worker->random), &write);
    note_previous(stress, key, &write);
}

static void change_stable(struct worker *worker)
{
    uint64_t key = STABLE_BASE + harness_below(&worker->random, STABLE_COUNT);

    put_number(worker->stress->map, key, harness_next(&worker->random),
               random_size(&worker->random), NULL);
}

static uint64_t account_key(uint32_t writer, uint64_t i)
{
    return writer * ACCOUNT_COUNT + i;
}

static void add_account(km_batch *batch, km_map *map, uint64_t key, int64_t amount)
{
    km_u64_key bytes = km_u64_key_from(key);
    uint8_t value[8];

    km__store64(value, (uint64_t)amount);
    CHECK_STATUS(km_batch_put(batch, map, km_bytes_of(bytes.bytes, 8), km_bytes_of(value, 8)),
                 KM_OK);
}

static void move_amount(struct worker *worker, km_batch *batch)
{
    struct stress *stress = worker->stress;
    uint64_t from = harness_below(&worker->random, ACCOUNT_COUNT);
    uint64_t to = harness_below(&worker->random, ACCOUNT_COUNT);
    int64_t amount = (int64_t)harness_below(&worker->random, 100) - 50;

    worker->left[from] -= amount;
    worker->right[to] += amount;
    add_account(batch, stress->left, account_key(worker->number, from), worker->left[from]);
    add_account(batch, stress->right, account_key(worker->number, to), worker->right[to]);
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK);
}

static void *run_writer(void *context)
{
    struct worker *worker = context;
    struct stress *stress = worker->stress;
    km_buffer previous = KM_BUFFER_INIT;
    km_batch *batch = NULL;

    CHECK_STATUS(km_batch_create(stress->store, &batch), KM_OK);
    for (uint64_t turn = 0; turn < stress->turns; turn++) {
        uint64_t dice = harness_below(&worker->random, 10);

        if (dice < 5)
            change_own(worker);
        else if (dice < 7)
            change_shared(worker, &previous);
        else if (dice < 8)
            change_stable(worker);
        else
            move_amount(worker, batch);
    }
    km_batch_destroy(batch);
    km_buffer_free(&previous);
    atomic_fetch_sub(&stress->writers_left, 1);
    return NULL;
}

/* ---- readers ----------------------------------------------------------------------------- */

struct seen {
    uint64_t versions[WRITER_COUNT * OWN_COUNT];
};

static void see(struct seen *seen, uint64_t key, km_bytes value)
{
    uint64_t version = harness_value_version(value, key);

    if (key >= WRITER_COUNT * OWN_COUNT)
        return;
    CHECK_MSG(version % 2 == 1 && version >= seen->versions[key],
              "key %llu went back from version %llu to %llu", (unsigned long long)key,
              (unsigned long long)seen->versions[key], (unsigned long long)version);
    seen->versions[key] = version;
}

static uint64_t random_key(struct harness_random *random)
{
    uint64_t dice = harness_below(random, 8);

    if (dice == 0)
        return SHARED_BASE + harness_below(random, SHARED_COUNT);
    if (dice == 1)
        return STABLE_BASE + harness_below(random, STABLE_COUNT);
    return harness_below(random, WRITER_COUNT * OWN_COUNT);
}

static void read_copy(struct worker *worker, struct seen *seen, km_buffer *buffer)
{
    uint64_t key = random_key(&worker->random);
    km_status rc = km_get_u64(worker->stress->map, key, buffer);

    CHECK(rc == KM_OK || (rc == KM_NOT_FOUND && key < STABLE_BASE));
    if (!rc)
        see(seen, key, km_bytes_of(buffer->data, buffer->size));
}

/* The bytes of a reference stay as they are, however long the section. */
static void read_refs(struct worker *worker, struct seen *seen)
{
    km_u64_key numbers[8];
    km_bytes values[8];
    uint64_t keys[8], versions[8];
    km_reader *reader = NULL;

    CHECK_STATUS(km_read_begin(worker->stress->store, &reader), KM_OK);
    for (uint32_t i = 0; i < 8; i++) {
        keys[i] = random_key(&worker->random);
        numbers[i] = km_u64_key_from(keys[i]);
        values[i].data = NULL;
        if (km_get_ref(reader, worker->stress->map, km_bytes_of(numbers[i].bytes, 8), &values[i]))
            continue;
        versions[i] = harness_value_version(values[i], keys[i]);
        see(seen, keys[i], values[i]);
    }
    for (uint32_t i = 0; i < 8; i++)
        CHECK(!values[i].data || harness_value_version(values[i], keys[i]) == versions[i]);
    km_read_end(reader);
}

static void read_many(struct worker *worker, struct seen *seen)
{
    km_u64_key numbers[40];
    km_bytes keys[40], values[40];
    km_reader *reader = NULL;
    size_t found = 0;

    for (uint32_t i = 0; i < 40; i++) {
        numbers[i] = km_u64_key_from(random_key(&worker->random));
        keys[i] = km_bytes_of(numbers[i].bytes, 8);
    }
    CHECK_STATUS(km_read_begin(worker->stress->store, &reader), KM_OK);
    CHECK_STATUS(km_get_many(reader, worker->stress->map, keys, 40, values, &found), KM_OK);
    for (uint32_t i = 0; i < 40; i++) {
        found -= values[i].data != NULL;
        if (values[i].data)
            see(seen, km_u64_key_to(numbers[i].bytes), values[i]);
    }
    CHECK(found == 0);
    km_read_end(reader);
}

static void *run_reader(void *context)
{
    struct worker *worker = context;
    struct seen *seen = calloc(1, sizeof(*seen));
    km_buffer buffer = KM_BUFFER_INIT;

    CHECK(seen);
    while (atomic_load(&worker->stress->writers_left)) {
        uint64_t dice = harness_below(&worker->random, 4);

        if (dice < 2)
            read_copy(worker, seen, &buffer);
        else if (dice < 3)
            read_refs(worker, seen);
        else
            read_many(worker, seen);
        atomic_fetch_add_explicit(&worker->stress->reads, 1, memory_order_relaxed);
    }
    km_buffer_free(&buffer);
    free(seen);
    return NULL;
}

static void walk_once(struct stress *stress, uint8_t *met)
{
    km_cursor *cursor = NULL;
    km_bytes key, value;
    km_status rc;

    memset(met, 0, STABLE_COUNT);
    CHECK_STATUS(km_cursor_open(stress->map, NULL, &cursor), KM_OK);
    while ((rc = km_cursor_next(cursor, &key, &value)) == KM_OK) {
        uint64_t number;

        CHECK(key.size == 8);
        number = km_u64_key_to(key.data);
        harness_value_version(value, number);
        if (number < STABLE_BASE)
            continue;
        CHECK_MSG(met[number - STABLE_BASE]++ == 0, "a walk met key %llu twice",
                  (unsigned long long)number);
    }
    CHECK_STATUS(rc, KM_END);
    km_cursor_close(cursor);
    for (uint64_t i = 0; i < STABLE_COUNT; i++)
        CHECK_MSG(met[i] == 1, "a walk missed key %llu", (unsigned long long)(STABLE_BASE + i));
    atomic_fetch_add(&stress->walks, 1);
}

static void *run_walker(void *context)
{
    struct worker *worker = context;
    uint8_t *met = malloc(STABLE_COUNT);

    CHECK(met);
    while (atomic_load(&worker->stress->writers_left))
        walk_once(worker->stress, met);
    walk_once(worker->stress, met);
    free(met);
    return NULL;
}

/* ---- the end ----------------------------------------------------------------------------- */

static void check_own(const struct stress *stress, const struct worker *workers, uint64_t *count)
{
    km_buffer buffer = KM_BUFFER_INIT;

    for (uint32_t w = 0; w < WRITER_COUNT; w++) {
        for (uint64_t i = 0; i < OWN_COUNT; i++) {
            uint64_t key = own_key(w, i), version = workers[w].versions[i];

            CHECK_STATUS(km_get_u64(stress->map, key, &buffer), version % 2 ? KM_OK : KM_NOT_FOUND);
            if (version % 2 == 0)
                continue;
            CHECK(harness_value_version(km_bytes_of(buffer.data, buffer.size), key) == version);
            (*count)++;
        }
    }
    km_buffer_free(&buffer);
}

/* T3: all numbers that were put are replaced, but for those that are there at the end. */
static void check_shared(struct stress *stress, uint64_t *count)
{
    uint64_t put = stress->next_number - 1, replaced = 0, there = 0;
    km_buffer buffer = KM_BUFFER_INIT;

    for (uint64_t i = 1; i <= put; i++)
        replaced += stress->was_previous[i];
    for (uint64_t key = SHARED_BASE; key < SHARED_BASE + SHARED_COUNT; key++) {
        if (km_get_u64(stress->map, key, &buffer))
            continue;
        CHECK(stress->was_previous[harness_value_version(km_bytes_of(buffer.data, buffer.size),
                                                         key)] == 0);
        there++;
    }
    CHECK(replaced + there == put);
    *count += there;
    km_buffer_free(&buffer);
}

static int64_t sum_accounts(km_map *map, const struct worker *workers, int is_left)
{
    km_buffer buffer = KM_BUFFER_INIT;
    int64_t sum = 0;

    for (uint64_t key = 0; key < WRITER_COUNT * ACCOUNT_COUNT; key++) {
        const struct worker *worker = &workers[key / ACCOUNT_COUNT];
        int64_t amount;

        CHECK_STATUS(km_get_u64(map, key, &buffer), KM_OK);
        amount = (int64_t)km__load64(buffer.data);
        CHECK(amount == (is_left ? worker->left : worker->right)[key % ACCOUNT_COUNT]);
        sum += amount;
    }
    CHECK(km_count(map) == WRITER_COUNT * ACCOUNT_COUNT);
    km_buffer_free(&buffer);
    return sum;
}

static void check_end(struct stress *stress, const struct worker *workers)
{
    uint64_t count = STABLE_COUNT;

    check_own(stress, workers, &count);
    check_shared(stress, &count);
    CHECK(km_count(stress->map) == count);
    CHECK(sum_accounts(stress->left, workers, 1) + sum_accounts(stress->right, workers, 0) ==
          INT64_C(2) * ACCOUNT_BEGIN * WRITER_COUNT * ACCOUNT_COUNT);
}

/* ---- the run ----------------------------------------------------------------------------- */

static void open_maps(struct stress *stress)
{
    stress->map = harness_map(stress->store, "keys");
    stress->left = harness_map(stress->store, "left");
    stress->right = harness_map(stress->store, "right");
}

static void fill_in(struct stress *stress, struct worker *workers)
{
    km_batch *batch = NULL;

    for (uint64_t i = 0; i < STABLE_COUNT; i++)
        put_number(stress->map, STABLE_BASE + i, 1, 40, NULL);
    CHECK_STATUS(km_batch_create(stress->store, &batch), KM_OK);
    for (uint32_t w = 0; w < WRITER_COUNT; w++) {
        for (uint64_t i = 0; i < ACCOUNT_COUNT; i++) {
            workers[w].left[i] = workers[w].right[i] = ACCOUNT_BEGIN;
            add_account(batch, stress->left, account_key(w, i), ACCOUNT_BEGIN);
            add_account(batch, stress->right, account_key(w, i), ACCOUNT_BEGIN);
        }
    }
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK);
    km_batch_destroy(batch);
}

static void run_all(struct stress *stress, struct worker *workers)
{
    for (uint32_t i = 0; i < WRITER_COUNT + READER_COUNT + 1; i++) {
        void *(*run)(void *) = run_walker;

        if (i < WRITER_COUNT + READER_COUNT)
            run = i < WRITER_COUNT ? run_writer : run_reader;
        workers[i].stress = stress;
        workers[i].number = i;
        workers[i].random = harness_stream(i);
        assert_int_equal(pthread_create(&workers[i].thread, NULL, run, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < WRITER_COUNT + READER_COUNT + 1; i++)
        pthread_join(workers[i].thread, NULL);
    printf("%llu reads, %llu walks beside %llu changes\n", (unsigned long long)stress->reads,
           (unsigned long long)stress->walks, (unsigned long long)(stress->turns * WRITER_COUNT));
}

static struct stress *make_stress(struct worker **out_workers)
{
    struct stress *stress = calloc(1, sizeof(*stress));

    *out_workers = calloc(WRITER_COUNT + READER_COUNT + 1, sizeof(**out_workers));
    assert_true(stress && *out_workers);
    stress->turns = harness_scaled(60000);
    stress->writers_left = WRITER_COUNT;
    stress->next_number = 1;
    stress->number_max = (uint32_t)(stress->turns * WRITER_COUNT);
    stress->was_previous = calloc(stress->number_max + 1u, 1);
    assert_non_null(stress->was_previous);
    return stress;
}

static void free_stress(struct stress *stress, struct worker *workers)
{
    free((void *)stress->was_previous);
    free(workers);
    free(stress);
}

static void stress_folder(const km_options *options)
{
    struct worker *workers;
    struct stress *stress = make_stress(&workers);
    char path[HARNESS_PATH_SIZE];

    harness_make_folder(path);
    stress->store = harness_open(path, options);
    open_maps(stress);
    fill_in(stress, workers);
    run_all(stress, workers);
    check_end(stress, workers);
    harness_close(stress->store);
    stress->store = harness_open(path, options);
    open_maps(stress);
    check_end(stress, workers);
    harness_close(stress->store);
    harness_remove(path);
    free_stress(stress, workers);
}

static void threads_share_a_store_in_a_folder(void **state)
{
    km_options options = KM_OPTIONS_INIT;

    (void)state;
    options.sync_interval_ms = 20; /* syncs and marks beside the rest */
    stress_folder(&options);
}

static void threads_share_a_store_kept_in_memory(void **state)
{
    km_options options = KM_OPTIONS_INIT;

    (void)state;
    options.keep_in_memory = 1;
    stress_folder(&options);
}

static void threads_share_a_store_in_memory(void **state)
{
    struct worker *workers;
    struct stress *stress = make_stress(&workers);

    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &stress->store, NULL), KM_OK);
    open_maps(stress);
    fill_in(stress, workers);
    run_all(stress, workers);
    check_end(stress, workers);
    harness_close(stress->store);
    free_stress(stress, workers);
}

/* ---- maps made and dropped beside each other ---------------------------------------------- */

struct churn {
    km_store *store;
    struct harness_random random;
    pthread_t thread;
    uint64_t turns;
};

static void churn_map(struct churn *churn, km_map *map)
{
    uint8_t value[40];
    uint64_t key = harness_below(&churn->random, 50);
    km_buffer buffer = KM_BUFFER_INIT;
    km_status rc;

    harness_value_fill(value, sizeof(value), key, 1);
    rc = km_put_u64(map, key, km_bytes_of(value, sizeof(value)), NULL);
    CHECK(rc == KM_OK || rc == KM_E_DROPPED);
    rc = km_get_u64(map, key, &buffer);
    CHECK(rc == KM_OK || rc == KM_E_DROPPED || rc == KM_NOT_FOUND);
    if (!rc)
        harness_value_version(km_bytes_of(buffer.data, buffer.size), key);
    km_buffer_free(&buffer);
    if (harness_below(&churn->random, 20) == 0) {
        rc = harness_below(&churn->random, 2) ? km_map_drop(map) : km_map_clear(map);
        CHECK(rc == KM_OK || rc == KM_E_DROPPED);
    }
}

static void *run_churn(void *context)
{
    struct churn *churn = context;

    for (uint64_t i = 0; i < churn->turns; i++) {
        static const char *const names[] = {"one", "two", "three"};
        km_map *map = harness_map(churn->store, names[harness_below(&churn->random, 3)]);

        churn_map(churn, map);
    }
    return NULL;
}

static int count_map(void *context, const km_map_info *info)
{
    uint64_t *counts = context;

    counts[0]++;
    counts[1] += info->count;
    return 0;
}

static void maps_come_and_go_beside_changes(void **state)
{
    struct churn churns[4];
    uint64_t before[2] = {0, 0}, after[2] = {0, 0};
    char path[HARNESS_PATH_SIZE];
    km_store *store;

    (void)state;
    harness_make_folder(path);
    store = harness_open(path, NULL);
    for (uint32_t i = 0; i < 4; i++) {
        churns[i] = (struct churn){store, harness_stream(100 + i), 0, harness_scaled(10000)};
        assert_int_equal(pthread_create(&churns[i].thread, NULL, run_churn, &churns[i]), 0);
    }
    for (uint32_t i = 0; i < 4; i++)
        pthread_join(churns[i].thread, NULL);
    CHECK_STATUS(km_map_list(store, count_map, before), KM_OK);
    harness_close(store);
    store = harness_open(path, NULL);
    CHECK_STATUS(km_map_list(store, count_map, after), KM_OK);
    CHECK(before[0] == after[0] && before[1] == after[1]);
    harness_close(store);
    harness_remove(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_share_a_store_in_a_folder),
        cmocka_unit_test(threads_share_a_store_kept_in_memory),
        cmocka_unit_test(threads_share_a_store_in_memory),
        cmocka_unit_test(maps_come_and_go_beside_changes),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
