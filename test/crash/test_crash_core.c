/* SPDX-License-Identifier: Apache-2.0
 *
 * test_crash_core.c -- random workloads, cut at every step by kills and power cuts (crash.h says
 * what must hold), and two cuts that need more than one writer.
 *
 * KM_CRASH_STRIDE=1 looks at every cut point; the default leaves some out, to end in seconds.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "harness/crash.h"
#include "log/log_internal.h"
#include "store/store_internal.h"

static uint64_t run_seed;

static void run_profile(const struct profile *profile, uint64_t number, uint64_t stride)
{
    struct crash_totals totals = {0};
    int failed = km__crash_run(profile, run_seed * 100 + number, km__crash_stride(stride), &totals);

    printf("%llu cut points, %llu images, %llu of them worked on, %llu cuts of recoveries\n",
           (unsigned long long)totals.points, (unsigned long long)totals.images,
           (unsigned long long)totals.resumed, (unsigned long long)totals.recovery_images);
    assert_int_equal(failed, 0);
    assert_true(totals.images > 0);
}

static void small_changes_survive(void **state)
{
    static const struct profile profile = {
        .operation_count = 300,
        .value_size_max = 3000,
        .special_size_max = 100000,
        .power_one_in = 12,
        .weights = {[OP_PUT] = 50,
                    [OP_DELETE] = 10,
                    [OP_RANGE] = 3,
                    [OP_UPDATE] = 6,
                    [OP_SNAPSHOT] = 4,
                    [OP_BATCH] = 15,
                    [OP_PUT_SPECIAL] = 1,
                    [OP_CLEAR] = 1,
                    [OP_DROP] = 2,
                    [OP_FLUSH] = 6,
                    [OP_SYNC] = 3,
                    [OP_SYNC_ONCE] = 2,
                    [OP_HOUSEKEEP] = 4,
                    [OP_WAIT_DURABLE] = 2,
                    [OP_REOPEN] = 1},
        .options = KM_OPTIONS_INIT,
    };

    (void)state;
    run_profile(&profile, 1, 4);
}

/* Nothing flushes but the lack of room: the ring runs full, goes round, and holds all there is. */
static void a_full_ring_survives(void **state)
{
    static const struct profile profile = {
        .operation_count = 260,
        .value_size_max = 40000,
        .special_size_max = 100000,
        .weights = {[OP_PUT] = 60,
                    [OP_DELETE] = 5,
                    [OP_RANGE] = 3,
                    [OP_UPDATE] = 6,
                    [OP_SNAPSHOT] = 4,
                    [OP_BATCH] = 6,
                    [OP_DROP] = 1,
                    [OP_HOUSEKEEP] = 2,
                    [OP_SYNC_ONCE] = 1},
        .options = KM_OPTIONS_INIT,
    };

    (void)state;
    run_profile(&profile, 2, 4);
}

static void units_with_segments_of_their_own_survive(void **state)
{
    static const struct profile profile = {
        .operation_count = 120,
        .value_size_max = 20000,
        .special_size_max = 400000,
        .power_one_in = 8,
        .weights = {[OP_PUT] = 40,
                    [OP_DELETE] = 5,
                    [OP_RANGE] = 3,
                    [OP_UPDATE] = 6,
                    [OP_SNAPSHOT] = 4,
                    [OP_BATCH] = 5,
                    [OP_PUT_SPECIAL] = 12,
                    [OP_BATCH_SPECIAL] = 8,
                    [OP_FLUSH] = 6,
                    [OP_SYNC] = 3,
                    [OP_SYNC_ONCE] = 2,
                    [OP_HOUSEKEEP] = 8,
                    [OP_WAIT_DURABLE] = 2,
                    [OP_REOPEN] = 2},
        .options = KM_OPTIONS_INIT,
    };

    (void)state;
    run_profile(&profile, 3, 9);
}

static void short_lives_survive(void **state)
{
    static const struct profile profile = {
        .operation_count = 200,
        .value_size_max = 4000,
        .special_size_max = 80000,
        .weights = {[OP_PUT] = 30,
                    [OP_DELETE] = 8,
                    [OP_RANGE] = 3,
                    [OP_UPDATE] = 6,
                    [OP_SNAPSHOT] = 4,
                    [OP_BATCH] = 5,
                    [OP_PUT_SPECIAL] = 2,
                    [OP_BATCH_SPECIAL] = 1,
                    [OP_CLEAR] = 2,
                    [OP_DROP] = 4,
                    [OP_HOUSEKEEP] = 5,
                    [OP_SYNC] = 1,
                    [OP_REOPEN] = 30},
        .options = KM_OPTIONS_INIT,
    };

    (void)state;
    run_profile(&profile, 4, 9);
}

static void a_store_durable_by_default_survives(void **state)
{
    static const struct profile profile = {
        .operation_count = 120,
        .value_size_max = 8000,
        .special_size_max = 80000,
        .weights = {[OP_PUT] = 50,
                    [OP_DELETE] = 10,
                    [OP_RANGE] = 3,
                    [OP_UPDATE] = 6,
                    [OP_SNAPSHOT] = 4,
                    [OP_BATCH] = 10,
                    [OP_PUT_SPECIAL] = 2,
                    [OP_BATCH_SPECIAL] = 2,
                    [OP_DROP] = 2,
                    [OP_HOUSEKEEP] = 4,
                    [OP_SYNC_ONCE] = 4,
                    [OP_REOPEN] = 2},
        .options = {sizeof(km_options), .durability = KM_DURABLE_POWER, .keep_in_memory = 1},
    };

    (void)state;
    run_profile(&profile, 5, 8);
}

/* Large enough that segments grow, and with them the ring. */
static void a_change_of_rings_survives(void **state)
{
    static const struct profile profile = {
        .operation_count = 120,
        .value_size_max = 200000,
        .special_size_max = 9u << 20,
        .power_one_in = 20,
        .weights = {[OP_PUT] = 60,
                    [OP_DELETE] = 5,
                    [OP_RANGE] = 3,
                    [OP_UPDATE] = 6,
                    [OP_SNAPSHOT] = 4,
                    [OP_BATCH] = 10,
                    [OP_PUT_SPECIAL] = 4,
                    [OP_FLUSH] = 2,
                    [OP_SYNC] = 1,
                    [OP_HOUSEKEEP] = 5,
                    [OP_REOPEN] = 2},
        .options = KM_OPTIONS_INIT,
    };

    (void)state;
    run_profile(&profile, 6, 44);
}

/* ---- more than one writer ---------------------------------------------------------------- */

struct pair {
    struct os *os;
    km_store *store;
    km_map *map;
    struct log_space space; /* of the writer that is slow */
    uint8_t *value;
    size_t value_size;
    _Atomic int returned;
};

static const km_bytes slow_key = {"slow", 4};
static const km_bytes fast_key = {"fast", 4};

static void begin_pair(struct pair *pair, size_t value_size)
{
    km_options options = KM_OPTIONS_INIT;

    memset(pair, 0, sizeof(*pair));
    pair->os = km__sim_create(run_seed);
    assert_int_equal(km__store_open_with(pair->os, WORKLOAD_PATH, &options, 0, &pair->store, NULL),
                     KM_OK);
    assert_int_equal(km_map_create(pair->store, slow_key, KM_HASH, &pair->map), KM_OK);
    pair->value_size = value_size;
    pair->value = mmap(NULL, value_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                       0);
    assert_true(pair->value != MAP_FAILED);
    km__history_value(1, (uint32_t)value_size, pair->value);
}

static void reserve_slow(struct pair *pair)
{
    uint64_t size = km__record_size(0, (uint32_t)pair->value_size, (uint16_t)slow_key.size);

    km__epoch_enter();
    assert_int_equal(km__log_reserve(pair->store->log, size, LOG_CLASS_PUT, &pair->space), KM_OK);
}

/* As a put does it, but for the index. */
static void write_slow(struct pair *pair, uint32_t crc)
{
    struct log_payload payload = {pair->value, slow_key.data, crc};
    struct record record = {.kind = RECORD_PUT, .key_size = (uint16_t)slow_key.size};

    record.map = pair->map->id;
    record.value_size = (uint32_t)pair->value_size;
    km__log_write_record(pair->store->log, &pair->space, 0, &record, &payload);
    km__log_finish(pair->store->log, &pair->space);
    km__epoch_leave();
}

static uint32_t sum_slow(const struct pair *pair)
{
    return km__record_payload_crc(pair->value, (uint32_t)pair->value_size, slow_key.data,
                                  (uint16_t)slow_key.size);
}

static void assert_has(struct os *image, km_bytes key, size_t value_size)
{
    km_options options = KM_OPTIONS_INIT;
    km_buffer value = KM_BUFFER_INIT;
    km_store *store = NULL;
    km_map *map = NULL;

    assert_int_equal(km__store_open_with(image, WORKLOAD_PATH, &options, 0, &store, NULL), KM_OK);
    assert_int_equal(km_map_open(store, slow_key, &map), KM_OK);
    assert_int_equal(km_get(map, key, &value), KM_OK);
    assert_int_equal(value.size, value_size);
    km_buffer_free(&value);
    assert_int_equal(km_close(store, NULL), KM_OK);
    km__sim_destroy(image);
}

static void end_pair(struct pair *pair)
{
    munmap(pair->value, pair->value_size);
    assert_int_equal(km_close(pair->store, NULL), KM_OK);
    km__sim_destroy(pair->os);
}

static void *put_fast(void *context)
{
    struct pair *pair = context;

    if (km_put(pair->map, fast_key, fast_key, NULL) == KM_OK)
        atomic_store(&pair->returned, 1);
    return NULL;
}

/* A hole below an acknowledged record would cut it off. */
static void an_acknowledgement_waits_for_earlier_writers(void **state)
{
    struct pair pair;
    pthread_t thread;

    (void)state;
    begin_pair(&pair, 100);
    reserve_slow(&pair);
    assert_int_equal(pthread_create(&thread, NULL, put_fast, &pair), 0);
    while (!atomic_load(&pair.returned) && !atomic_load(&pair.store->log->complete_event.waiters)) {
        /* ends: it returns, or sleeps until we have written */
    }
    assert_false(atomic_load(&pair.returned));
    write_slow(&pair, sum_slow(&pair));
    pthread_join(thread, NULL);
    assert_true(atomic_load(&pair.returned));
    assert_has(km__sim_clone_after_kill(pair.os), fast_key, fast_key.size);
    assert_has(km__sim_clone_after_kill(pair.os), slow_key, pair.value_size);
    end_pair(&pair);
}

static struct pair *interrupted;

/* The copy of the value has come to its second page: let the others go on meanwhile. */
static void sync_and_let_go_on(int signal_number)
{
    (void)signal_number;
    if (km__log_sync(interrupted->store->log) ||
        mprotect(interrupted->value, interrupted->value_size, PROT_READ | PROT_WRITE))
        abort();
}

static void a_sync_during_a_copy_takes_no_half_record(void **state)
{
    struct sigaction action = {.sa_handler = sync_and_let_go_on}, before;
    struct pair pair;
    uint32_t crc;

    (void)state;
    begin_pair(&pair, 8192);
    crc = sum_slow(&pair);
    reserve_slow(&pair);
    interrupted = &pair;
    assert_int_equal(sigaction(SIGSEGV, &action, &before), 0);
    assert_int_equal(mprotect(pair.value + 4096, 4096, PROT_NONE), 0);
    write_slow(&pair, crc);
    assert_int_equal(sigaction(SIGSEGV, &before, NULL), 0);
    assert_int_equal(km_wait_durable(pair.store, pair.space.position), KM_OK);
    assert_has(km__sim_clone_after_power_cut(pair.os, run_seed, SIM_POWER_LOST), slow_key,
               pair.value_size);
    end_pair(&pair);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_changes_survive),
        cmocka_unit_test(a_full_ring_survives),
        cmocka_unit_test(units_with_segments_of_their_own_survive),
        cmocka_unit_test(short_lives_survive),
        cmocka_unit_test(a_store_durable_by_default_survives),
        cmocka_unit_test(a_change_of_rings_survives),
        cmocka_unit_test(an_acknowledgement_waits_for_earlier_writers),
        cmocka_unit_test(a_sync_during_a_copy_takes_no_half_record),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    run_seed = km__random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
