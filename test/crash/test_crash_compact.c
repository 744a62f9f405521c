/* SPDX-License-Identifier: Apache-2.0
 *
 * test_crash_compact.c -- the log turns over, its head moves, images are written; all of it cut at
 * every step by kills and power cuts (crash.h says what must hold), and made to fail call by call.
 *
 * KM_CRASH_STRIDE=1 looks at every cut point; the default leaves some out, to end in seconds.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/crash.h"
#include "harness/harness_model.h"
#include "log/log_internal.h"
#include "store/store_internal.h"

static uint64_t run_seed;

/* ---- workloads --------------------------------------------------------------------------- */

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

/* The log is turned over by hand again and again, with no image to hold it. */
static void turning_the_log_over_survives(void **state)
{
    static const struct profile profile = {
        .operation_count = 420,
        .value_size_max = 6000,
        .special_size_max = 100000,
        .power_one_in = 15,
        .weights = {[OP_PUT] = 40,
                    [OP_DELETE] = 12,
                    [OP_RANGE] = 3,
                    [OP_UPDATE] = 6,
                    [OP_SNAPSHOT] = 4,
                    [OP_BATCH] = 10,
                    [OP_PUT_SPECIAL] = 2,
                    [OP_CLEAR] = 1,
                    [OP_DROP] = 3,
                    [OP_FLUSH] = 4,
                    [OP_SYNC] = 1,
                    [OP_SYNC_ONCE] = 2,
                    [OP_HOUSEKEEP] = 4,
                    [OP_COMPACT] = 8,
                    [OP_KEEPER] = 2,
                    [OP_REOPEN] = 1},
        .options = {sizeof(km_options), .log_size_min = 1},
    };

    (void)state;
    run_profile(&profile, 1, 80);
}

/* As the background does it: when it is due, with images now and then. */
static void compaction_when_it_is_due_survives(void **state)
{
    static const struct profile profile = {
        .operation_count = 500,
        .value_size_max = 40000,
        .special_size_max = 150000,
        .power_one_in = 20,
        .weights = {[OP_PUT] = 60,
                    [OP_DELETE] = 8,
                    [OP_RANGE] = 3,
                    [OP_UPDATE] = 6,
                    [OP_SNAPSHOT] = 4,
                    [OP_BATCH] = 8,
                    [OP_PUT_SPECIAL] = 1,
                    [OP_DROP] = 1,
                    [OP_HOUSEKEEP] = 6,
                    [OP_SYNC_ONCE] = 2,
                    [OP_COMPACT_SOME] = 6,
                    [OP_KEEPER] = 6,
                    [OP_REOPEN] = 1},
        .options = {sizeof(km_options), .log_size_min = 1, .compact_percent = 110,
                    .image_growth = 300000},
    };

    (void)state;
    run_profile(&profile, 2, 20);
}

static void images_at_any_position_survive(void **state)
{
    static const struct profile profile = {
        .operation_count = 300,
        .value_size_max = 2000,
        .special_size_max = 80000,
        .power_one_in = 15,
        .weights = {[OP_PUT] = 40,
                    [OP_DELETE] = 12,
                    [OP_RANGE] = 3,
                    [OP_UPDATE] = 6,
                    [OP_SNAPSHOT] = 4,
                    [OP_BATCH] = 10,
                    [OP_PUT_SPECIAL] = 1,
                    [OP_CLEAR] = 2,
                    [OP_DROP] = 4,
                    [OP_FLUSH] = 2,
                    [OP_HOUSEKEEP] = 2,
                    [OP_COMPACT] = 3,
                    [OP_KEEPER] = 3,
                    [OP_IMAGE] = 12,
                    [OP_REOPEN] = 3},
        .options = {sizeof(km_options), .log_size_min = 1, .image_growth = 30000},
    };

    (void)state;
    run_profile(&profile, 3, 25);
}

static void large_records_that_move_survive(void **state)
{
    static const struct profile profile = {
        .operation_count = 100,
        .value_size_max = 8000,
        .special_size_max = 110000,
        .power_one_in = 15,
        .weights = {[OP_PUT] = 30,
                    [OP_DELETE] = 6,
                    [OP_RANGE] = 3,
                    [OP_UPDATE] = 6,
                    [OP_SNAPSHOT] = 4,
                    [OP_BATCH] = 4,
                    [OP_PUT_SPECIAL] = 10,
                    [OP_BATCH_SPECIAL] = 5,
                    [OP_DROP] = 1,
                    [OP_HOUSEKEEP] = 6,
                    [OP_SYNC_ONCE] = 2,
                    [OP_COMPACT] = 5,
                    [OP_COMPACT_SOME] = 4,
                    [OP_KEEPER] = 4,
                    [OP_IMAGE] = 2,
                    [OP_REOPEN] = 1},
        .options = {sizeof(km_options), .log_size_min = 1, .keep_in_memory = 1},
    };

    (void)state;
    run_profile(&profile, 4, 25);
}

/* ---- two crashes, at every step of both -------------------------------------------------- */

struct double_crash {
    struct model *model;  /* that is cut first */
    struct model *second; /* its clone, which recovers */
    struct harness_random random;
    uint64_t first_count, second_count;
};

/* All of the model was durable before: whatever a power cut leaves, it is there. */
static void check_clone(struct double_crash *crash, struct model *model, struct os *os)
{
    struct model *copy = malloc(sizeof(*copy));

    *copy = *model;
    copy->os = os;
    copy->store = NULL;
    model_open(copy);
    for (uint32_t key = 0; key < MODEL_KEY_COUNT; key += 7)
        model_check_key(copy, key % MODEL_MAP_COUNT, key);
    model_destroy(copy);
    crash->second_count++;
}

static void cut_again(void *context, uint64_t step)
{
    struct double_crash *crash = context;
    struct os *os = crash->second->os;
    uint64_t seed = harness_next(&crash->random);

    if (step % 2) /* as before the next */
        return;
    check_clone(crash, crash->second, km__sim_clone_after_power_cut(os, seed, SIM_POWER_RANDOM));
    if (km__sim_current_op(os) == SIM_WRITE || km__sim_current_op(os) == SIM_UNLINK)
        check_clone(crash, crash->second,
                    km__sim_clone_after_power_cut(os, seed + 1, SIM_POWER_RANDOM));
    if (seed % 4 == 0)
        check_clone(crash, crash->second, km__sim_clone_after_power_cut(os, seed, SIM_POWER_LOST));
}

static void cut_once(void *context, uint64_t step)
{
    struct double_crash *crash = context;

    crash->first_count++;
    if (step % 2 && crash->first_count % 3)
        return;
    crash->second = model_after_kill(crash->model);
    km__sim_on_step(crash->second->os, cut_again, crash);
    model_open(crash->second);
    km__sim_on_step(crash->second->os, NULL, NULL);
    model_destroy(crash->second);
}

/* What a killed process had marked but not synced must not be relied on by who unlinks. */
static void a_power_cut_after_a_kill_takes_nothing(void **state)
{
    static const km_options options = {sizeof(options), .log_size_min = 1};
    struct double_crash crash = {.model = model_create(1, &options), .random = harness_stream(2)};

    (void)state;
    for (uint32_t i = 0; i < 150; i++)
        model_put(crash.model, i % MODEL_MAP_COUNT, i % 40, 4000);
    assert_int_equal(km_wait_durable(crash.model->store, 0), KM_OK);
    km__sim_on_step(crash.model->os, cut_once, &crash);
    model_compact(crash.model);
    km__sim_on_step(crash.model->os, NULL, NULL);
    printf("%llu cuts, %llu cuts after them\n", (unsigned long long)crash.first_count,
           (unsigned long long)crash.second_count);
    model_check(crash.model);
    model_destroy(crash.model);
}

/* Everything in the oldest segments was written anew, but not yet synced, when the head passes
 * them. */
static void a_head_passes_only_what_is_durably_superseded(void **state)
{
    static const km_options options = {sizeof(options), .log_size_min = 1};
    struct model *model = model_create(3, &options), *copy;
    struct log *log = model->store->log;

    (void)state;
    for (uint32_t turn = 0; turn < 2; turn++) {
        for (uint32_t i = 0; i < 120; i++)
            model_put(model, i % MODEL_MAP_COUNT, i, 4000);
        if (turn == 0) { /* MAPS is written, with a sync, and need not be again */
            km__mutex_lock(&model->store->keeper.lock);
            assert_int_equal(km__catalogue_write(model->store), KM_OK);
            km__mutex_unlock(&model->store->keeper.lock);
        }
    }
    assert_int_equal(km__log_move_head(log, km__log_next_number(log, km__log_head_number(log))),
                     KM_OK);
    copy = model_after_kill(model);
    km__sim_destroy(copy->os);
    copy->os = km__sim_clone_after_power_cut(model->os, run_seed, SIM_POWER_LOST);
    model_open(copy);
    model_check(copy);
    model_destroy(copy);
    model_destroy(model);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turning_the_log_over_survives),
        cmocka_unit_test(compaction_when_it_is_due_survives),
        cmocka_unit_test(images_at_any_position_survive),
        cmocka_unit_test(large_records_that_move_survive),
        cmocka_unit_test(a_head_passes_only_what_is_durably_superseded),
        cmocka_unit_test(a_power_cut_after_a_kill_takes_nothing),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    harness_begin();
    run_seed = harness_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
