/* SPDX-License-Identifier: Apache-2.0
 *
 * test_crash_recovery.c -- recoveries that are cut, again and again; lives that all end in a crash;
 * files that are gone.
 *
 * test_crash_core cuts a recovery once and looks; here what such a cut left is recovered and cut in
 * its turn.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/crash.h"
#include "store/store_internal.h"

static uint64_t run_seed;

static const struct profile mixed = {
    .operation_count = 150,
    .value_size_max = 12000,
    .special_size_max = 120000,
    .power_one_in = 30,
    .weights = {[OP_PUT] = 50,
                [OP_DELETE] = 8,
                [OP_BATCH] = 10,
                [OP_PUT_SPECIAL] = 2,
                [OP_BATCH_SPECIAL] = 1,
                [OP_CLEAR] = 1,
                [OP_DROP] = 1,
                [OP_FLUSH] = 2,
                [OP_SYNC_ONCE] = 1,
                [OP_HOUSEKEEP] = 5,
                [OP_REOPEN] = 1},
    .options = KM_OPTIONS_INIT,
};

/* ---- a store with a past ----------------------------------------------------------------- */

struct life {
    struct os *os;
    struct history history;
    struct workload workload;
    struct random random;
};

static void begin_life(struct life *life, const struct profile *profile, uint64_t seed)
{
    memset(life, 0, sizeof(*life));
    life->os = km__sim_create(seed);
    life->random.state = seed ^ 0x55;
    km__history_init(&life->history);
    life->workload.os = life->os;
    life->workload.profile = profile;
    life->workload.history = &life->history;
    life->workload.random.state = seed ^ 0xaa;
    life->workload.next_value_id = 1;
    km__workload_open(&life->workload);
    assert_false(life->workload.failed);
}

static void work(struct life *life, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (km__random_one_in(&life->random, 4))
            km__sim_ring_lap(life->os);
        km__workload_step(&life->workload);
        assert_false(life->workload.failed);
    }
}

static void end_life(struct life *life)
{
    if (life->workload.store)
        assert_int_equal(km_close(life->workload.store, NULL), KM_OK);
    km__history_fini(&life->history);
    km__sim_destroy(life->os);
}

static struct os *cut_life(struct life *life, int is_power)
{
    uint64_t seed = km__random_next(&life->random);
    enum sim_power mode = (enum sim_power)km__random_below(&life->random, SIM_POWER_MODE_COUNT);

    return is_power ? km__sim_clone_after_power_cut(life->os, seed, mode)
                    : km__sim_clone_after_kill(life->os);
}

static uint64_t read_all(km_store *store)
{
    uint64_t fingerprint = 0;

    assert_int_equal(km__history_read_store(store, &fingerprint), 0);
    return fingerprint;
}

static km_store *open_store(struct os *os, km_open_mode mode)
{
    km_options options = KM_OPTIONS_INIT;
    km_error error = {0};
    km_store *store = NULL;
    km_status rc;

    options.mode = mode;
    rc = km__store_open_with(os, WORKLOAD_PATH, &options, 0, &store, &error);
    if (rc)
        printf("open: %s: %s: %s\n", km_status_name(rc), error.file, error.message);
    assert_int_equal(rc, KM_OK);
    return store;
}

/* ---- cuts of recoveries ------------------------------------------------------------------ */

struct cutter {
    struct os *os;
    struct random *random;
    struct os *image; /* of the cut, once it was made */
    int allow_power;
    int was_power;
};

static void cut_once(void *context, uint64_t step)
{
    struct cutter *cutter = context;
    uint64_t seed = km__random_next(cutter->random);
    enum sim_power mode = (enum sim_power)km__random_below(cutter->random, SIM_POWER_MODE_COUNT);

    (void)step;
    if (cutter->image || !km__random_one_in(cutter->random, 10))
        return;
    cutter->was_power = cutter->allow_power && km__random_one_in(cutter->random, 2);
    cutter->image = cutter->was_power ? km__sim_clone_after_power_cut(cutter->os, seed, mode)
                                      : km__sim_clone_after_kill_torn(cutter->os, seed);
}

/* Open the store of a machine; return the machine that a cut during that leaves, or after it. */
static struct os *open_and_cut(struct os *os, struct random *random, int allow_power,
                               int *out_was_power)
{
    struct cutter cutter = {os, random, NULL, allow_power, 0};
    km_store *store;

    km__sim_on_step(os, cut_once, &cutter);
    store = open_store(os, KM_OPEN_OR_CREATE);
    km__sim_on_step(os, NULL, NULL);
    if (!cutter.image)
        cutter.image = km__sim_clone_after_kill(os);
    assert_int_equal(km_close(store, NULL), KM_OK);
    km__sim_destroy(os);
    *out_was_power |= cutter.was_power;
    return cutter.image;
}

/* What a chain of cut recoveries ends with is what the first, uncut, would have found. */
static void recover_in_pieces(struct life *life, struct os *image, int was_power, size_t low)
{
    struct os *uncut = km__sim_clone_after_kill(image);
    km_store *store = open_store(uncut, KM_OPEN_OR_CREATE);
    uint64_t expected = read_all(store), found;
    int cut_by_power = 0;

    assert_int_equal(km_close(store, NULL), KM_OK);
    km__sim_destroy(uncut);
    assert_true(km__history_find(&life->history, expected, low, life->history.count) >= 0);
    for (int i = 0; i < 6; i++)
        image = open_and_cut(image, &life->random, 1, &cut_by_power);
    store = open_store(image, KM_OPEN_EXISTING);
    found = read_all(store);
    if (was_power || !cut_by_power)
        assert_true(found == expected);
    else /* the first cut was a kill: what was not durable then, a power cut could take */
        assert_true(km__history_find(&life->history, found, life->workload.durable_count,
                                     life->history.count) >= 0);
    assert_int_equal(km_close(store, NULL), KM_OK);
    km__sim_destroy(image);
}

static void cut_recoveries_change_nothing(void **state)
{
    uint64_t stride = km__crash_stride(1);

    (void)state;
    for (uint64_t round = 0; round < 12 / stride + 1; round++) {
        struct life life;

        begin_life(&life, &mixed, run_seed * 1000 + round);
        for (int i = 0; i < 6; i++) {
            work(&life, mixed.operation_count / 6);
            recover_in_pieces(&life, cut_life(&life, 0), 0, life.history.count);
            recover_in_pieces(&life, cut_life(&life, 1), 1, life.workload.durable_count);
        }
        end_life(&life);
    }
}

/* ---- names ------------------------------------------------------------------------------- */

struct name_watch {
    struct life *life;
    struct os *first;  /* its recovery is killed */
    struct os *second; /* the recovery after that is cut by power */
    uint64_t image_count;
    uint32_t next_mode;
    int failed;
};

static void cut_power_of_recovery(void *context, uint64_t step)
{
    struct name_watch *watch = context;
    const struct history *history = &watch->life->history;
    enum sim_op op = km__sim_current_op(watch->second);
    int count = op == SIM_UNLINK ? 0 : op == SIM_RENAME || op == SIM_SYNC_DIR ? 20 : 2;

    (void)step;
    for (int i = 0; i < count && !watch->failed; i++) {
        enum sim_power mode = (enum sim_power)(watch->next_mode++ % SIM_POWER_MODE_COUNT);
        struct os *image = km__sim_clone_after_power_cut(
            watch->second, km__random_next(&watch->life->random), mode);
        uint64_t found = 0;

        watch->failed = km__crash_recover(image, &mixed.options, &found) ||
                        km__history_find(history, found, watch->life->workload.durable_count,
                                         history->count) < 0;
        if (watch->failed)
            printf("FAILED: %s during the recovery after a kill\n", km__crash_mode_name(mode));
        watch->image_count++;
        km__sim_destroy(image);
    }
}

/* Before a sync of a folder the process is killed: the next one sees a name that is not durable. */
static void kill_before_names_are_synced(void *context, uint64_t step)
{
    struct name_watch *watch = context;
    struct os *image;
    km_store *store;

    if (watch->failed || step % 2 || km__sim_current_op(watch->first) != SIM_SYNC_DIR)
        return;
    image = km__sim_clone_after_kill(watch->first);
    watch->second = image;
    km__sim_on_step(image, cut_power_of_recovery, watch);
    store = open_store(image, KM_OPEN_OR_CREATE);
    cut_power_of_recovery(watch, 0);
    km__sim_on_step(image, NULL, NULL);
    watch->failed |= km_close(store, NULL) != KM_OK;
    km__sim_destroy(image);
}

/* A unit with a segment of its own, behind a segment that is full: nothing is missing between. */
static void names_of_full_segments_become_durable(void **state)
{
    static const struct profile specials = {
        .value_size_max = 100,
        .special_size_max = 70000,
        .weights = {[OP_PUT_SPECIAL] = 1},
        .options = KM_OPTIONS_INIT,
    };
    struct life life;
    struct name_watch watch = {.life = &life};

    (void)state;
    begin_life(&life, &specials, run_seed + 37);
    work(&life, HISTORY_MAP_COUNT + 2);
    watch.first = life.os;
    km__sim_on_step(life.os, kill_before_names_are_synced, &watch);
    work(&life, 4);
    km__sim_on_step(life.os, NULL, NULL);
    printf("%llu images\n", (unsigned long long)watch.image_count);
    assert_false(watch.failed);
    assert_true(watch.image_count > 100);
    end_life(&life);
}

static void names_that_recovery_made_become_durable(void **state)
{
    struct life life;
    struct name_watch watch = {.life = &life};

    (void)state;
    begin_life(&life, &mixed, run_seed + 31);
    for (int i = 0; i < 2 && !watch.failed; i++) {
        km_store *store;

        work(&life, 15);
        watch.first = cut_life(&life, 0);
        km__sim_on_step(watch.first, kill_before_names_are_synced, &watch);
        store = open_store(watch.first, KM_OPEN_OR_CREATE);
        km__sim_on_step(watch.first, NULL, NULL);
        assert_int_equal(km_close(store, NULL), KM_OK);
        km__sim_destroy(watch.first);
    }
    printf("%llu images\n", (unsigned long long)watch.image_count);
    assert_false(watch.failed);
    assert_true(watch.image_count > 100);
    end_life(&life);
}

/* ---- one life after the other ------------------------------------------------------------ */

/* The workload itself checks that every position is above all that went before. */
static void go_on_after(struct life *life, struct os *image, size_t low)
{
    km_store *store = open_store(image, KM_OPEN_EXISTING);
    long found = km__history_find(&life->history, read_all(store), low, life->history.count);
    struct history rest;

    assert_true(found >= 0);
    km__history_fork(&rest, &life->history, (size_t)found);
    (void)km_close(life->workload.store, NULL);
    km__sim_destroy(life->os);
    km__history_fini(&life->history);
    life->history = rest;
    life->os = image;
    life->workload.os = image;
    life->workload.durable_count = 0;
    km__workload_adopt(&life->workload, store);
}

static void positions_are_never_given_twice(void **state)
{
    uint64_t stride = km__crash_stride(1);

    (void)state;
    for (uint64_t round = 0; round < 8 / stride + 1; round++) {
        struct life life;

        begin_life(&life, &mixed, run_seed * 2000 + round);
        for (int i = 0; i < 24; i++) {
            int is_power = km__random_one_in(&life.random, 2);

            work(&life, 1 + (uint32_t)km__random_below(&life.random, 30));
            go_on_after(&life, cut_life(&life, is_power),
                        is_power ? life.workload.durable_count : life.history.count);
        }
        work(&life, 10);
        end_life(&life);
    }
}

/* ---- reading only ------------------------------------------------------------------------ */

static void reading_only_changes_nothing(void **state)
{
    struct life life;

    (void)state;
    begin_life(&life, &mixed, run_seed + 17);
    for (int i = 0; i < 10; i++) {
        struct os *image;
        uint64_t steps;
        km_store *store;

        work(&life, 12);
        image = cut_life(&life, 0);
        steps = km__sim_step_count(image);
        store = open_store(image, KM_OPEN_READ_ONLY);
        assert_true(read_all(store) == life.history.last.fingerprint);
        assert_int_equal(km_close(store, NULL), KM_OK);
        assert_int_equal(km__sim_step_count(image), steps);
        km__sim_destroy(image);
    }
    end_life(&life);
}

/* ---- files that are gone ----------------------------------------------------------------- */

struct path_list {
    char paths[64][64];
    size_t count;
};

static void add_path(void *context, const char *path, uint64_t size)
{
    struct path_list *list = context;

    (void)size;
    if (strstr(path, ".segment") && list->count < 64)
        snprintf(list->paths[list->count++], sizeof(list->paths[0]), "%s", path);
}

static km_status open_without(struct os *os, const char *path, uint64_t *out_fingerprint)
{
    struct os *image = km__sim_clone_after_kill(os);
    km_options options = KM_OPTIONS_INIT;
    km_store *store = NULL;
    km_error error = {0};
    km_status rc;

    assert_int_equal(km__sim_delete_path(image, path), 0);
    rc = km__store_open_with(image, WORKLOAD_PATH, &options, 0, &store, &error);
    if (!rc) {
        *out_fingerprint = read_all(store);
        assert_int_equal(km_close(store, NULL), KM_OK);
    }
    assert_int_equal(km__sim_allocated_bytes(image), 0);
    km__sim_destroy(image);
    return rc;
}

static uint32_t number_of(const char *path)
{
    return (uint32_t)strtoul(strrchr(path, '/') + 1, NULL, 16);
}

/* Every segment that holds a part of the log is needed; those made ready may be missing. */
static void check_missing(struct os *os, uint64_t expected, uint32_t last_needed)
{
    struct path_list list = {.count = 0};

    km__sim_list_paths(os, add_path, &list);
    assert_true(list.count >= 4);
    for (size_t i = 0; i < list.count; i++) {
        uint64_t fingerprint = expected;
        km_status rc = open_without(os, list.paths[i], &fingerprint);

        if (number_of(list.paths[i]) <= last_needed)
            assert_int_equal(rc, KM_E_CORRUPT);
        else
            assert_true(rc == KM_E_CORRUPT || rc == KM_OK);
        assert_true(fingerprint == expected);
    }
}

static void a_missing_segment_is_refused(void **state)
{
    struct life life;
    uint32_t last_needed;

    (void)state;
    begin_life(&life, &mixed, run_seed + 23);
    while (km__position_number(life.workload.max_position) < 5)
        work(&life, 20);
    km__log_sync_once(life.workload.store->log);
    last_needed = km__position_number(km_durable_position(life.workload.store) - 1);
    check_missing(life.os, life.history.last.fingerprint, last_needed);
    assert_int_equal(km_close(life.workload.store, NULL), KM_OK);
    life.workload.store = NULL;
    check_missing(life.os, life.history.last.fingerprint, last_needed);
    end_life(&life);
}

static void a_missing_ring_is_refused(void **state)
{
    struct life life;
    uint64_t fingerprint = 0;

    (void)state;
    begin_life(&life, &mixed, run_seed + 29);
    work(&life, 5);
    assert_int_equal(open_without(life.os, WORKLOAD_PATH "/tail-18.ring", &fingerprint),
                     KM_E_CORRUPT);
    end_life(&life);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_recoveries_change_nothing),
        cmocka_unit_test(names_of_full_segments_become_durable),
        cmocka_unit_test(names_that_recovery_made_become_durable),
        cmocka_unit_test(positions_are_never_given_twice),
        cmocka_unit_test(reading_only_changes_nothing),
        cmocka_unit_test(a_missing_segment_is_refused),
        cmocka_unit_test(a_missing_ring_is_refused),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    run_seed = km__random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
