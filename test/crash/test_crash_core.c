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

#include <stdio.h>

#include "harness/crash.h"

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
        .weights = {[OP_PUT] = 50, [OP_DELETE] = 10, [OP_BATCH] = 15, [OP_PUT_SPECIAL] = 1,
                    [OP_CLEAR] = 1, [OP_DROP] = 2, [OP_FLUSH] = 6, [OP_SYNC] = 3,
                    [OP_SYNC_ONCE] = 2, [OP_HOUSEKEEP] = 4, [OP_WAIT_DURABLE] = 2, [OP_REOPEN] = 1},
        .options = KM_OPTIONS_INIT,
    };

    (void)state;
    run_profile(&profile, 1, 3);
}

/* Nothing flushes but the lack of room: the ring runs full, goes round, and holds all there is. */
static void a_full_ring_survives(void **state)
{
    static const struct profile profile = {
        .operation_count = 260,
        .value_size_max = 40000,
        .special_size_max = 100000,
        .weights = {[OP_PUT] = 60, [OP_DELETE] = 5, [OP_BATCH] = 6, [OP_DROP] = 1,
                    [OP_HOUSEKEEP] = 2, [OP_SYNC_ONCE] = 1},
        .options = KM_OPTIONS_INIT,
    };

    (void)state;
    run_profile(&profile, 2, 3);
}

static void units_with_segments_of_their_own_survive(void **state)
{
    static const struct profile profile = {
        .operation_count = 120,
        .value_size_max = 20000,
        .special_size_max = 400000,
        .power_one_in = 8,
        .weights = {[OP_PUT] = 40, [OP_DELETE] = 5, [OP_BATCH] = 5, [OP_PUT_SPECIAL] = 12,
                    [OP_BATCH_SPECIAL] = 8, [OP_FLUSH] = 6, [OP_SYNC] = 3, [OP_SYNC_ONCE] = 2,
                    [OP_HOUSEKEEP] = 8, [OP_WAIT_DURABLE] = 2, [OP_REOPEN] = 2},
        .options = KM_OPTIONS_INIT,
    };

    (void)state;
    run_profile(&profile, 3, 7);
}

static void short_lives_survive(void **state)
{
    static const struct profile profile = {
        .operation_count = 200,
        .value_size_max = 4000,
        .special_size_max = 80000,
        .weights = {[OP_PUT] = 30, [OP_DELETE] = 8, [OP_BATCH] = 5, [OP_PUT_SPECIAL] = 2,
                    [OP_BATCH_SPECIAL] = 1, [OP_CLEAR] = 2, [OP_DROP] = 4, [OP_HOUSEKEEP] = 5,
                    [OP_SYNC] = 1, [OP_REOPEN] = 30},
        .options = KM_OPTIONS_INIT,
    };

    (void)state;
    run_profile(&profile, 4, 8);
}

static void a_store_durable_by_default_survives(void **state)
{
    static const struct profile profile = {
        .operation_count = 120,
        .value_size_max = 8000,
        .special_size_max = 80000,
        .weights = {[OP_PUT] = 50, [OP_DELETE] = 10, [OP_BATCH] = 10, [OP_PUT_SPECIAL] = 2,
                    [OP_BATCH_SPECIAL] = 2, [OP_DROP] = 2, [OP_HOUSEKEEP] = 4, [OP_SYNC_ONCE] = 4,
                    [OP_REOPEN] = 2},
        .options = {sizeof(km_options), .durability = KM_DURABLE_POWER, .keep_in_memory = 1},
    };

    (void)state;
    run_profile(&profile, 5, 6);
}

/* Large enough that segments grow, and with them the ring. */
static void a_change_of_rings_survives(void **state)
{
    static const struct profile profile = {
        .operation_count = 120,
        .value_size_max = 200000,
        .special_size_max = 9u << 20,
        .power_one_in = 20,
        .weights = {[OP_PUT] = 60, [OP_DELETE] = 5, [OP_BATCH] = 10, [OP_PUT_SPECIAL] = 4,
                    [OP_FLUSH] = 2, [OP_SYNC] = 1, [OP_HOUSEKEEP] = 5, [OP_REOPEN] = 2},
        .options = KM_OPTIONS_INIT,
    };

    (void)state;
    run_profile(&profile, 6, 24);
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
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    run_seed = km__random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
