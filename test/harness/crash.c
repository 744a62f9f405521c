/* SPDX-License-Identifier: Apache-2.0
 *
 * crash.c -- cuts at every step of a workload, and what must hold after them (crash.h).
 *
 * I1. Images are taken in the machine's hook, when the engine is in the midst of a call, and
 *     between calls. Nothing that is done with an image reaches its origin.
 * I2. Failures are printed and counted; nothing is asserted inside a hook, which must return.
 */
#include "harness/crash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/harness_check.h"
#include "store/store_internal.h"

#define RESUMED_OPERATIONS 12u
#define RECOVERY_IMAGES_MAX 96u
#define READ_ONLY_ONE_IN 6u
#define UPKEEP_STRIDE_PART 4u /* so much closer are the cuts of upkeep */

uint64_t km__crash_stride(uint64_t otherwise)
{
    uint64_t stride = km__environment_number("KM_CRASH_STRIDE", 0);
    uint64_t scale = km__environment_number("KM_TEST_SCALE", 100);

    if (stride)
        return stride;
    return scale && scale < 100 ? otherwise * 100 / scale : otherwise;
}

const char *km__crash_mode_name(enum sim_power mode)
{
    static const char *const names[SIM_POWER_MODE_COUNT] = {
        "power cut, random", "power cut, all lost", "power cut, all kept", "power cut, prefix",
        "power cut, suffix"};

    return names[mode];
}

static void fail_at(struct crash *crash, const struct crash_image *image, const char *what)
{
    printf(
        "FAILED: %s (%s; seed %llu, depth %u, step %llu, during %s; changes %zu, acknowledged %zu, "
        "durable %zu)\n",
        what, image ? image->kind : "no crash", (unsigned long long)crash->seed, crash->depth,
        (unsigned long long)crash->step, crash->workload.op_name, crash->history.count,
        crash->history.acknowledged, crash->workload.durable_count);
    fflush(stdout);
    crash->totals->failed = 1;
}

/* ---- opening an image -------------------------------------------------------------------- */

static km_store *open_image(struct os *os, const km_options *options)
{
    km_error error = {0};
    km_store *store = NULL;
    km_status rc = km__store_open_with(os, WORKLOAD_PATH, options, 0, &store, &error);

    if (rc)
        printf("open: %s: %s, offset %llu: %s\n", km_status_name(rc), error.file,
               (unsigned long long)error.offset, error.message);
    return rc ? NULL : store;
}

static int close_image(km_store *store, struct os *os)
{
    km_error error = {0};
    km_status rc = km_close(store, &error);

    if (rc)
        printf("close: %s: %s: %s\n", km_status_name(rc), error.file, error.message);
    if (!rc && (km__sim_allocated_bytes(os) || km__sim_open_count(os))) {
        printf("close: %llu bytes and %llu handles are left\n",
               (unsigned long long)km__sim_allocated_bytes(os),
               (unsigned long long)km__sim_open_count(os));
        rc = KM_E_FAILED;
    }
    return rc ? -1 : 0;
}

int km__crash_recover(struct os *os, const km_options *options, uint64_t *out_fingerprint)
{
    km_store *store = open_image(os, options);
    int failed = !store;

    if (store)
        failed = km__history_read_store(store, out_fingerprint);
    if (store && !failed)
        failed = harness_check_store(store);
    if (store)
        failed |= close_image(store, os);
    return failed ? -1 : 0;
}

/* As it is for who may only read: nothing of the image changes. */
static int look_read_only(struct os *os, const km_options *options, uint64_t *out_fingerprint)
{
    km_options read_only = *options;

    read_only.mode = KM_OPEN_READ_ONLY;
    return km__crash_recover(os, &read_only, out_fingerprint);
}

/* ---- cuts during recovery ---------------------------------------------------------------- */

struct recovery_watch {
    struct crash *crash;
    struct os *os;
    const km_options *options;
    size_t count;
    uint64_t fingerprints[RECOVERY_IMAGES_MAX];
    int is_power[RECOVERY_IMAGES_MAX];
};

static void watch_image(struct recovery_watch *watch, struct os *image, int is_power)
{
    struct crash *crash = watch->crash;

    if (watch->count < RECOVERY_IMAGES_MAX) {
        crash->totals->recovery_images++;
        watch->is_power[watch->count] = is_power;
        if (km__crash_recover(image, watch->options, &watch->fingerprints[watch->count]))
            fail_at(crash, NULL,
                    is_power ? "power cut during recovery: the store is not right"
                             : "kill during recovery: the store is not right");
        watch->count++;
    }
    km__sim_destroy(image);
}

static void watch_step(void *context, uint64_t step)
{
    struct recovery_watch *watch = context;
    struct random *random = &watch->crash->random;
    enum sim_power mode = (enum sim_power)km__random_below(random, SIM_POWER_MODE_COUNT);

    (void)step;
    if (watch->crash->totals->failed || km__sim_current_op(watch->os) == SIM_UNLINK)
        return;
    if (km__random_one_in(random, 2))
        watch_image(watch, km__sim_clone_after_kill_torn(watch->os, km__random_next(random)), 0);
    else
        watch_image(watch, km__sim_clone_after_power_cut(watch->os, km__random_next(random), mode),
                    1);
}

/* P4: all that was found when recovery was cut is what recovery itself has found. */
static void judge_watch(const struct recovery_watch *watch, const struct crash_image *image,
                        size_t found)
{
    struct crash *crash = watch->crash;

    for (size_t i = 0; i < watch->count && !crash->totals->failed; i++) {
        size_t low = watch->is_power[i] ? image->durable_low : found;

        if (km__history_find(&crash->history, watch->fingerprints[i], low < found ? low : found,
                             found) < 0)
            fail_at(crash, image, "a cut during recovery changed what is found");
    }
}

/* ---- going on after a recovery ----------------------------------------------------------- */

static void run_operations(struct crash *crash, uint32_t count);

static void resume(struct crash *crash, const struct crash_image *image, km_store *store,
                   size_t found)
{
    struct crash *child = calloc(1, sizeof(*child));

    crash->totals->resumed++;
    child->sim = image->os;
    child->totals = crash->totals;
    child->stride = crash->stride > 16 ? crash->stride : 16;
    child->seed = crash->seed;
    child->depth = crash->depth + 1;
    child->random.state = km__random_next(&crash->random);
    km__history_fork(&child->history, &crash->history, found);
    child->workload.os = image->os;
    child->workload.profile = crash->workload.profile;
    child->workload.history = &child->history;
    child->workload.random.state = km__random_next(&crash->random);
    child->workload.next_value_id = crash->workload.next_value_id + 1000000;
    child->workload.max_position = crash->workload.max_position;
    child->workload.op_name = "recovery";
    km__workload_adopt(&child->workload, store);
    run_operations(child, RESUMED_OPERATIONS);
    km__history_fini(&child->history);
    free(child);
}

void km__crash_check(struct crash *crash, struct crash_image image)
{
    struct recovery_watch *watch = NULL;
    km_store *store;
    uint64_t fingerprint = 0, seen = 0;
    long found = -1;
    uint32_t one_in = image.is_delicate ? (crash->workload.is_upkeep ? 16 : 4)
                                        : crash->resume_one_in;
    int is_seen = km__random_one_in(&crash->random, READ_ONLY_ONE_IN);

    crash->totals->images++;
    if (is_seen && look_read_only(image.os, &crash->workload.profile->options, &seen))
        fail_at(crash, &image, "the store cannot be read without writing");
    if (crash->resume_one_in && km__random_one_in(&crash->random, one_in)) {
        watch = calloc(1, sizeof(*watch));
        watch->crash = crash;
        watch->os = image.os;
        watch->options = &crash->workload.profile->options;
        km__sim_on_step(image.os, watch_step, watch);
    }
    store = open_image(image.os, &crash->workload.profile->options);
    km__sim_on_step(image.os, NULL, NULL);
    if (!store) {
        fail_at(crash, &image, "the store cannot be opened");
    } else if (!km__history_read_store(store, &fingerprint)) {
        found = km__history_find(&crash->history, fingerprint, image.low, image.high);
    }
    if (store && found < 0) {
        struct content content;

        found = km__history_find(&crash->history, fingerprint, 0, crash->history.count);
        printf("the content is that after %ld changes, not %zu to %zu\n", found, image.low,
               image.high);
        km__history_content(&crash->history, image.low, &content);
        km__history_print_difference(store, &content);
        fail_at(crash, &image, "wrong content");
    }
    if (store && is_seen && seen != fingerprint)
        fail_at(crash, &image, "what was seen without recovery is not what recovery found");
    if (store && !crash->totals->failed && harness_check_store(store))
        fail_at(crash, &image, "the recovered store is not sound");
    if (watch && !crash->totals->failed) {
        judge_watch(watch, &image, (size_t)found);
        resume(crash, &image, store, (size_t)found);
        store = NULL;
    }
    if (store && close_image(store, image.os))
        fail_at(crash, &image, "the recovered store cannot be closed");
    km__sim_destroy(image.os);
    free(watch);
}

/* ---- cut points -------------------------------------------------------------------------- */

static void check_kill(struct crash *crash, struct os *os, const char *kind)
{
    struct crash_image image = {
        os, kind, crash->history.acknowledged, crash->history.count, crash->workload.durable_count,
        0};

    image.is_delicate = km__sim_current_op(crash->sim) == SIM_SYNC_DIR;
    km__crash_check(crash, image);
}

static void check_power(struct crash *crash, enum sim_power mode)
{
    uint64_t seed = km__random_next(&crash->random);
    struct crash_image image = {km__sim_clone_after_power_cut(crash->sim, seed, mode),
                                km__crash_mode_name(mode),
                                crash->workload.durable_count,
                                crash->history.count,
                                0,
                                0};

    /* what a power cut left is durable: another one changes nothing */
    image.durable_low = SIZE_MAX;
    km__crash_check(crash, image);
}

/* Some steps are few, and more can go wrong there. */
static int is_delicate_step(struct crash *crash)
{
    if (crash->workload.is_upkeep && crash->depth == 0)
        return km__random_one_in(&crash->random, crash->stride / UPKEEP_STRIDE_PART + 1);
    return crash->depth == 0 && km__sim_current_op(crash->sim) == SIM_SYNC_DIR &&
           km__random_one_in(&crash->random, crash->stride);
}

static void look(struct crash *crash, int is_before_step)
{
    uint64_t seed = km__random_next(&crash->random);
    int is_write = is_before_step && km__sim_current_op(crash->sim) == SIM_WRITE;

    if (crash->totals->failed || crash->workload.failed)
        return;
    if (++crash->skipped < crash->stride && !is_delicate_step(crash))
        return;
    crash->skipped = 0;
    crash->totals->points++;
    km__workload_see_durable(&crash->workload);
    check_kill(crash, km__sim_clone_after_kill(crash->sim), "kill");
    if (is_write)
        check_kill(crash, km__sim_clone_after_kill_torn(crash->sim, seed), "kill, torn write");
    check_power(crash, SIM_POWER_LOST);
    check_power(crash, SIM_POWER_RANDOM);
    check_power(crash, (enum sim_power)(SIM_POWER_KEPT + km__random_below(&crash->random, 3)));
}

static void look_at_step(void *context, uint64_t step)
{
    struct crash *crash = context;

    crash->step = step;
    if (km__sim_current_op(crash->sim) != SIM_UNLINK || crash->workload.is_upkeep ||
        km__random_one_in(&crash->random, 6))
        look(crash, step % 2 == 0); /* opening a store unlinks many names that are not there */
}

/* The call has returned, but nobody has seen that yet: the stores of the ring may be torn. */
static void look_at_torn_ring(void *context)
{
    struct crash *crash = context;
    uint64_t seed = km__random_next(&crash->random);

    if (crash->totals->failed || !km__random_one_in(&crash->random, crash->stride))
        return;
    check_kill(crash, km__sim_clone_after_kill_torn_ring(crash->sim, seed), "kill, torn ring");
}

/* ---- runs -------------------------------------------------------------------------------- */

static int is_over(const struct crash *crash)
{
    return crash->totals->failed || crash->workload.failed;
}

/* Laps before a change: what is torn or mixed later is then what the change itself has stored. */
static void prepare_operation(struct crash *crash)
{
    int take_lap = km__random_one_in(&crash->random, 3);

    crash->workload.context = crash;
    crash->workload.before_end = take_lap ? look_at_torn_ring : NULL;
    if (take_lap)
        km__sim_ring_lap(crash->sim);
}

/* The store is open. Closes it, and checks what a last open finds. */
static void run_operations(struct crash *crash, uint32_t count)
{
    uint64_t fingerprint = 0;

    km__sim_on_step(crash->sim, look_at_step, crash);
    for (uint32_t i = 0; i < count && !is_over(crash); i++) {
        prepare_operation(crash);
        km__workload_step(&crash->workload);
        look(crash, 0);
    }
    if (crash->workload.store)
        km__workload_close(&crash->workload);
    km__sim_on_step(crash->sim, NULL, NULL);
    if (crash->workload.failed)
        fail_at(crash, NULL, "the workload itself failed");
    if (is_over(crash))
        return;
    if (km__crash_recover(crash->sim, &crash->workload.profile->options, &fingerprint) ||
        fingerprint != crash->history.last.fingerprint)
        fail_at(crash, NULL, "the content after a clean close");
}

int km__crash_run(const struct profile *profile, uint64_t seed, uint64_t stride,
                  struct crash_totals *totals)
{
    struct crash *crash = calloc(1, sizeof(*crash));

    totals->failed = 0;
    crash->sim = km__sim_create(seed);
    crash->totals = totals;
    crash->stride = stride;
    crash->seed = seed;
    crash->resume_one_in = 40;
    crash->random.state = seed * 3 + 1;
    km__history_init(&crash->history);
    crash->workload.os = crash->sim;
    crash->workload.profile = profile;
    crash->workload.history = &crash->history;
    crash->workload.random.state = seed * 5 + 2;
    crash->workload.next_value_id = 1;
    km__workload_open(&crash->workload);
    if (crash->workload.failed)
        fail_at(crash, NULL, "the store cannot be created");
    else
        run_operations(crash, profile->operation_count);
    km__history_fini(&crash->history);
    km__sim_destroy(crash->sim);
    free(crash);
    return totals->failed ? -1 : 0;
}
