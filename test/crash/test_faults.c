/* SPDX-License-Identifier: Apache-2.0
 *
 * test_faults.c -- calls of the machine and allocations that fail, one after the other, and disks
 * that run full.
 *
 * F1. A failure is a status; the process lives, memory and handles are given back at close.
 * F2. A change whose call failed is not there, then or later. The one exception is KM_E_IO with
 *     which the write path ends: that change may or may not survive; none is accepted after it.
 * F3. Whatever was acknowledged is there after reopening on a healthy machine; what was durable is
 *     there after a power cut too.
 * F4. Reads go on. On a full disk deletes go on as well, and changes once there is space.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/crash.h"
#include "store/store_internal.h"

#define SESSION_COUNT 2u
#define OPERATION_COUNT 40u
#define LARGE_VALUE 90000u

static uint64_t run_seed;
static uint64_t fault_number; /* for messages */
static uint64_t loss_count;

/* ---- a workload that takes errors -------------------------------------------------------- */

struct trial {
    struct os *os;
    struct history history;
    struct random random;
    km_options options;
    km_store *store;
    km_map *maps[HISTORY_MAP_COUNT];
    uint64_t next_value_id;
    size_t durable_count;
    int is_refused; /* a change is in doubt: no other may be accepted */
    uint64_t error_count;
    uint64_t failing_allocation; /* as km__sim_allocation_count() counts; 0: none */
};

static void arm_allocation(struct trial *trial, uint64_t nth)
{
    trial->failing_allocation = nth ? km__sim_allocation_count(trial->os) + nth : 0;
    km__sim_fail_allocation(trial->os, nth);
}

/* The failure that is waiting is for the workload, not for this. */
static uint64_t read_trial(struct trial *trial)
{
    uint64_t count = km__sim_allocation_count(trial->os), fingerprint = 0;
    uint64_t left = trial->failing_allocation > count ? trial->failing_allocation - count : 0;

    arm_allocation(trial, 0);
    assert_int_equal(km__history_read_store(trial->store, &fingerprint), 0);
    arm_allocation(trial, left);
    return fingerprint;
}

/* The call of a change that was begun has returned. */
static void judge_change(struct trial *trial, km_status rc, km_write *write)
{
    struct history *history = &trial->history;

    if (rc == KM_OK) {
        assert_false(trial->is_refused);
        km__history_end(history, write->position);
        if (write->durability == KM_DURABLE_POWER)
            trial->durable_count = history->count;
        return;
    }
    assert_true(rc < 0);
    trial->error_count++;
    if (rc == KM_E_IO && km__log_writable(trial->store->log) == KM_E_FAILED) {
        trial->is_refused = 1; /* seen or not */
        return;
    }
    assert_true(read_trial(trial) == km__history_fingerprint(history, history->count - 1));
    km__history_cancel(history);
}

static void begin_change(struct trial *trial, struct effect effect)
{
    if (trial->is_refused)
        return; /* it is the last one begun, and stays in doubt */
    km__history_add(&trial->history, effect);
    km__history_begin(&trial->history);
}

static void end_change(struct trial *trial, km_status rc, km_write *write)
{
    if (!trial->is_refused)
        judge_change(trial, rc, write);
    else
        assert_int_equal(rc, KM_E_FAILED);
}

static void put_one(struct trial *trial, uint32_t map, uint32_t size)
{
    uint8_t key[HISTORY_KEY_SIZE_MAX];
    struct effect effect = {EFFECT_PUT, map, 0, size, trial->next_value_id++};
    km_write write = KM_WRITE_INIT;
    uint8_t *value = malloc(size + 1);

    effect.key = (uint32_t)km__random_below(&trial->random, HISTORY_KEY_COUNT);
    km__history_value(effect.value_id, size, value);
    write.durability = km__random_one_in(&trial->random, 6) ? KM_DURABLE_POWER : KM_DURABLE_DEFAULT;
    begin_change(trial, effect);
    end_change(trial,
               km_put(trial->maps[map], km__history_key(effect.key, key), km_bytes_of(value, size),
                      &write),
               &write);
    free(value);
}

static void delete_one(struct trial *trial, uint32_t map)
{
    uint8_t key[HISTORY_KEY_SIZE_MAX];
    struct effect effect = {EFFECT_DELETE, map, 0, 0, 0};
    km_write write = KM_WRITE_INIT;

    for (uint32_t i = 0; i < HISTORY_KEY_COUNT && !trial->is_refused; i++) {
        if (!trial->history.last.entries[map][i].value_id)
            continue;
        effect.key = i;
        begin_change(trial, effect);
        end_change(trial, km_del(trial->maps[map], km__history_key(i, key), &write), &write);
        return;
    }
}

static void commit_one(struct trial *trial, uint32_t map)
{
    uint8_t key[HISTORY_KEY_SIZE_MAX], value[300];
    km_write write = KM_WRITE_INIT;
    km_batch *batch = NULL;
    km_status rc;

    if (trial->is_refused || km_batch_create(trial->store, &batch))
        return;
    for (uint32_t i = 0; i < 5; i++) {
        struct effect effect = {EFFECT_PUT, map, (i * 7 + 3) % HISTORY_KEY_COUNT, 60 * i,
                                trial->next_value_id++};

        km__history_value(effect.value_id, effect.size, value);
        rc = km_batch_put(batch, trial->maps[map], km__history_key(effect.key, key),
                          km_bytes_of(value, effect.size));
        if (rc == KM_OK)
            km__history_add(&trial->history, effect);
        else
            assert_int_equal(rc, KM_E_NO_MEMORY);
    }
    km__history_begin(&trial->history);
    end_change(trial, km_batch_commit(batch, &write), &write);
    km_batch_destroy(batch);
}

static void change_map(struct trial *trial, uint32_t map, enum effect_kind kind)
{
    struct effect effect = {kind, map, 0, 0, 0};
    km_write write = KM_WRITE_INIT;
    km_status rc;

    begin_change(trial, effect);
    if (kind == EFFECT_CREATE)
        rc = km_map_create(trial->store, km__history_map_name(map), km__history_map_kind(map),
                           &trial->maps[map]);
    else
        rc = kind == EFFECT_DROP ? km_map_drop(trial->maps[map]) : km_map_clear(trial->maps[map]);
    if (rc == KM_OK && kind == EFFECT_DROP)
        trial->maps[map] = NULL;
    end_change(trial, rc, &write);
}

static void operate(struct trial *trial)
{
    uint32_t map = (uint32_t)km__random_below(&trial->random, HISTORY_MAP_COUNT);
    struct log *log = trial->store->log;

    if (!trial->maps[map]) {
        change_map(trial, map, EFFECT_CREATE);
        return;
    }
    switch (km__random_below(&trial->random, 16)) {
    case 0: km__ignore(km__log_flush(log), "what fails is told by the changes"); break;
    case 1: km__ignore(km__log_sync(log), "as above"); break;
    case 2: km__log_sync_once(log); break;
    case 3: km__ignore(km__log_housekeep(log), "as above"); break;
    case 4: delete_one(trial, map); break;
    case 5:
    case 6: commit_one(trial, map); break;
    case 7: change_map(trial, map, EFFECT_CLEAR); break;
    case 8:
        change_map(trial, map, km__random_one_in(&trial->random, 2) ? EFFECT_DROP : EFFECT_CLEAR);
        break;
    case 9: put_one(trial, map, LARGE_VALUE); break;
    case 10:
    case 11: put_one(trial, map, 30000); break;
    default: put_one(trial, map, (uint32_t)km__random_below(&trial->random, 400)); break;
    }
}

/* ---- sessions ---------------------------------------------------------------------------- */

static void see_content(struct trial *trial)
{
    struct history *history = &trial->history;
    uint64_t fingerprint = read_trial(trial);

    if (km__history_find(history, fingerprint, history->acknowledged, history->count) < 0)
        fail_msg("fault %llu: there are %ld changes, not %zu to %zu",
                 (unsigned long long)fault_number,
                 km__history_find(history, fingerprint, 0, history->count), history->acknowledged,
                 history->count);
    /* a change in doubt is decided now */
    if (history->acknowledged < history->count &&
        fingerprint == km__history_fingerprint(history, history->acknowledged))
        km__history_cancel(history);
    else
        history->acknowledged = history->count;
    trial->is_refused = 0;
    for (uint32_t map = 0; map < HISTORY_MAP_COUNT; map++) {
        trial->maps[map] = NULL;
        if (history->last.exists[map])
            assert_int_equal(
                km_map_open(trial->store, km__history_map_name(map), &trial->maps[map]), KM_OK);
    }
    /* the open has made it so */
    trial->durable_count = history->count;
}

static int open_trial(struct trial *trial)
{
    km_error error = {0};
    km_status rc = km__store_open_with(trial->os, WORKLOAD_PATH, &trial->options, 0, &trial->store,
                                       &error);

    if (!rc)
        return 1;
    if (rc > 0 || rc == KM_E_CORRUPT)
        printf("fault %llu: open: %s: %s: %s\n", (unsigned long long)fault_number,
               km_status_name(rc), error.file, error.message);
    assert_true(rc < 0);
    assert_true(rc != KM_E_CORRUPT && rc != KM_E_NOT_A_STORE && rc != KM_E_VERSION);
    assert_int_equal(error.status, rc);
    assert_true(error.message[0]);
    assert_int_equal(km__sim_allocated_bytes(trial->os), 0); /* F1 */
    assert_int_equal(km__sim_open_count(trial->os), 0);
    trial->error_count++;
    return 0;
}

static void print_loss(const struct trial *trial, uint64_t fingerprint)
{
    const struct history *history = &trial->history;

    printf("FAILED: fault %llu: after a power cut there are %ld changes; %zu durable, %zu made\n",
           (unsigned long long)fault_number,
           km__history_find(history, fingerprint, 0, history->count), trial->durable_count,
           history->count);
    loss_count++;
}

static void cut_power(struct trial *trial)
{
    for (int i = 0; i < 2; i++) {
        struct os *image = km__sim_clone_after_power_cut(trial->os, km__random_next(&trial->random),
                                                         i ? SIM_POWER_LOST : SIM_POWER_RANDOM);
        uint64_t fingerprint = 0;

        km__sim_clear_faults(image);
        km__sim_set_capacity(image, 0);
        if (km__crash_recover(image, &trial->options, &fingerprint) ||
            km__history_find(&trial->history, fingerprint, trial->durable_count,
                             trial->history.count) < 0)
            print_loss(trial, fingerprint);
        km__sim_destroy(image);
    }
}

static void close_trial(struct trial *trial)
{
    km_error error = {0};
    km_status rc = km_close(trial->store, &error);

    trial->store = NULL;
    assert_true(rc <= 0);
    if (trial->is_refused)
        assert_true(rc < 0);
    if (rc)
        trial->error_count++;
    else
        trial->durable_count = trial->history.count;
    assert_int_equal(km__sim_allocated_bytes(trial->os), 0); /* F1 */
    assert_int_equal(km__sim_open_count(trial->os), 0);
}

static void run_session(struct trial *trial)
{
    if (!open_trial(trial))
        return;
    see_content(trial);
    for (uint32_t i = 0; i < OPERATION_COUNT; i++)
        operate(trial);
    if (km__random_one_in(&trial->random, 4))
        cut_power(trial);
    close_trial(trial);
}

static void begin_trial(struct trial *trial, uint64_t number)
{
    memset(trial, 0, sizeof(*trial));
    trial->os = km__sim_create(run_seed + number);
    trial->random.state = run_seed; /* the same calls each time */
    trial->options = (km_options)KM_OPTIONS_INIT;
    trial->next_value_id = 1;
    km__history_init(&trial->history);
}

static void end_trial(struct trial *trial)
{
    km__sim_clear_faults(trial->os);
    arm_allocation(trial, 0);
    cut_power(trial);
    assert_true(open_trial(trial)); /* F3 */
    see_content(trial);
    operate(trial);
    assert_false(trial->is_refused);
    close_trial(trial);
    km__history_fini(&trial->history);
    km__sim_destroy(trial->os);
}

/* ---- one failure after the other --------------------------------------------------------- */

struct fault {
    enum sim_op op;
    km_status status;
    int os_error;
    int is_short, is_sticky, is_allocation;
};

static void arm(struct trial *trial, const struct fault *fault, uint64_t nth)
{
    if (fault->is_allocation)
        arm_allocation(trial, nth);
    else if (fault->is_short)
        km__sim_fail_write_short(trial->os, nth, fault->status, fault->os_error);
    else if (fault->is_sticky)
        km__sim_fail_from(trial->os, fault->op, nth, fault->status, fault->os_error);
    else
        km__sim_fail_call(trial->os, fault->op, nth, fault->status, fault->os_error);
}

static uint64_t count_calls(const struct fault *fault)
{
    struct trial trial;
    uint64_t count;

    begin_trial(&trial, 0);
    for (uint32_t i = 0; i < SESSION_COUNT; i++)
        run_session(&trial);
    assert_int_equal(trial.error_count, 0);
    count = fault->is_allocation ? km__sim_allocation_count(trial.os)
                                 : km__sim_call_count(trial.os, fault->op);
    end_trial(&trial);
    return count;
}

static void fail_each(const struct fault *fault, uint64_t stride)
{
    uint64_t count = count_calls(fault), error_count = 0, run_count = 0;

    loss_count = 0;
    stride = km__crash_stride(stride);
    for (uint64_t nth = 1 + run_seed % stride; nth <= count; nth += stride) {
        struct trial trial;

        begin_trial(&trial, nth);
        fault_number = nth;
        arm(&trial, fault, nth);
        for (uint32_t i = 0; i < SESSION_COUNT; i++)
            run_session(&trial);
        error_count += trial.error_count;
        run_count++;
        end_trial(&trial);
    }
    printf("%llu runs of %llu calls, %llu errors\n", (unsigned long long)run_count,
           (unsigned long long)count, (unsigned long long)error_count);
    assert_true(error_count > 0);
    assert_int_equal(loss_count, 0);
}

static void a_failing_call_is_an_error(void **state)
{
    static const struct fault fault = {.op = SIM_ANY, .status = KM_E_IO, .os_error = EIO};

    (void)state;
    fail_each(&fault, 2);
}

static void a_full_disk_for_one_call_is_an_error(void **state)
{
    static const struct fault fault = {.op = SIM_ANY, .status = KM_E_FULL, .os_error = ENOSPC};

    (void)state;
    fail_each(&fault, 2);
}

static void a_short_write_is_an_error(void **state)
{
    static const struct fault fault = {
        .op = SIM_WRITE, .status = KM_E_IO, .os_error = EIO, .is_short = 1};

    (void)state;
    fail_each(&fault, 1);
}

static void a_machine_that_stays_broken_is_an_error(void **state)
{
    static const struct fault fault = {
        .op = SIM_ANY, .status = KM_E_IO, .os_error = EIO, .is_sticky = 1};

    (void)state;
    fail_each(&fault, 5);
}

static void a_failing_allocation_is_an_error(void **state)
{
    static const struct fault fault = {.is_allocation = 1};

    (void)state;
    fail_each(&fault, 2);
}

/* ---- after a failed sync ----------------------------------------------------------------- */

static void begin_used(struct trial *trial)
{
    begin_trial(trial, 99);
    assert_true(open_trial(trial));
    see_content(trial);
    for (uint32_t map = 0; map < 2; map++)
        change_map(trial, map, EFFECT_CREATE);
    for (uint32_t i = 0; i < 20; i++)
        put_one(trial, i % 2, 500);
}

static void a_failed_sync_ends_changes_and_not_reads(void **state)
{
    struct trial trial;
    km_write write = KM_WRITE_INIT;
    km_bytes key = km_bytes_of_string("key");
    km_error error = {0};

    (void)state;
    begin_used(&trial);
    assert_int_equal(km_store_error(trial.store, &error), KM_NOT_FOUND);
    km__sim_fail_call(trial.os, SIM_SYNC, 1, KM_E_IO, EIO);
    write.durability = KM_DURABLE_POWER;
    assert_int_equal(km_put(trial.maps[0], key, key, &write), KM_E_IO);
    assert_int_equal(km_put(trial.maps[0], key, key, NULL), KM_E_FAILED);
    assert_int_equal(km_del(trial.maps[0], key, NULL), KM_E_FAILED);
    assert_int_equal(km_wait_durable(trial.store, 0), KM_E_IO);
    assert_int_equal(km_store_error(trial.store, &error), KM_OK);
    assert_int_equal(error.os_error, EIO);
    assert_int_equal(km_contains(trial.maps[0], key), KM_OK);
    assert_true(km_close(trial.store, &error) < 0);
    assert_true(open_trial(&trial));
    assert_int_equal(km_map_open(trial.store, km__history_map_name(0), &trial.maps[0]), KM_OK);
    if (km_contains(trial.maps[0], key) == KM_OK)
        assert_int_equal(km_del(trial.maps[0], key, NULL), KM_OK);
    see_content(&trial);
    close_trial(&trial);
    end_trial(&trial);
}

/* ---- full disks -------------------------------------------------------------------------- */

/* Until large values do not fit any more, however often the log turns over: smaller ones in their
 * place would make room. */
static void fill_up(struct trial *trial)
{
    uint64_t before = trial->error_count;

    for (int j = 0; trial->error_count < before + 60; j++) {
        assert_true(j < 5000);
        put_one(trial, (uint32_t)j % 2, 20000);
    }
    assert_false(trial->is_refused);
}

static void live_with_a_full_disk(struct trial *trial)
{
    uint8_t key[HISTORY_KEY_SIZE_MAX], value[20000] = {0};
    uint64_t before;

    for (int i = 0; i < 20; i++) /* enough to need more than what is left of a segment */
        assert_int_equal(km_put(trial->maps[0], km__history_key(5, key),
                                km_bytes_of(value, sizeof(value)), NULL),
                         KM_E_FULL);
    before = trial->error_count;
    for (int i = 0; i < 30; i++)
        delete_one(trial, 0);
    change_map(trial, 1, EFFECT_CLEAR);
    assert_int_equal(trial->error_count, before);
    assert_int_equal(km_wait_durable(trial->store, 0), KM_OK);
    assert_true(read_trial(trial) == trial->history.last.fingerprint);
}

static void a_full_disk_takes_deletes_and_then_changes(void **state)
{
    struct trial trial;
    uint64_t before;

    (void)state;
    begin_used(&trial);
    km__sim_set_capacity(trial.os, km__sim_total_bytes(trial.os) + 1500000);
    fill_up(&trial);
    live_with_a_full_disk(&trial);
    km__sim_set_capacity(trial.os, 0);
    before = trial.error_count;
    for (int i = 0; i < 50; i++)
        put_one(&trial, 0, 20000);
    put_one(&trial, 0, LARGE_VALUE);
    assert_int_equal(trial.error_count, before);
    close_trial(&trial);
    end_trial(&trial);
}

static void a_full_disk_at_open_loses_nothing(void **state)
{
    struct trial trial;
    struct os *image;
    uint64_t fingerprint = 0;

    (void)state;
    begin_used(&trial);
    km__sim_set_capacity(trial.os, km__sim_total_bytes(trial.os) + 700000);
    fill_up(&trial);
    image = km__sim_clone_after_kill(trial.os);
    km__sim_set_capacity(image, km__sim_total_bytes(image));
    trial.options.mode = KM_OPEN_READ_ONLY;
    assert_int_equal(km__crash_recover(image, &trial.options, &fingerprint), 0);
    assert_true(fingerprint == trial.history.last.fingerprint);
    trial.options.mode = KM_OPEN_OR_CREATE;
    km__sim_set_capacity(image, 0);
    assert_int_equal(km__crash_recover(image, &trial.options, &fingerprint), 0);
    assert_true(fingerprint == trial.history.last.fingerprint);
    km__sim_destroy(image);
    close_trial(&trial);       /* on the full disk */
    if (!open_trial(&trial)) { /* for writing it may need a segment */
        km__sim_set_capacity(trial.os, 0);
        assert_true(open_trial(&trial));
    }
    see_content(&trial);
    close_trial(&trial);
    end_trial(&trial);
}

static void a_log_at_its_limit_takes_deletes(void **state)
{
    struct trial trial;

    (void)state;
    begin_trial(&trial, 98);
    trial.options.log_size_max = 2000000;
    assert_true(open_trial(&trial));
    see_content(&trial);
    change_map(&trial, 0, EFFECT_CREATE);
    change_map(&trial, 1, EFFECT_CREATE);
    fill_up(&trial);
    live_with_a_full_disk(&trial);
    close_trial(&trial);
    trial.options.log_size_max = 0;
    end_trial(&trial);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failing_call_is_an_error),
        cmocka_unit_test(a_full_disk_for_one_call_is_an_error),
        cmocka_unit_test(a_short_write_is_an_error),
        cmocka_unit_test(a_machine_that_stays_broken_is_an_error),
        cmocka_unit_test(a_failing_allocation_is_an_error),
        cmocka_unit_test(a_failed_sync_ends_changes_and_not_reads),
        cmocka_unit_test(a_full_disk_takes_deletes_and_then_changes),
        cmocka_unit_test(a_full_disk_at_open_loses_nothing),
        cmocka_unit_test(a_log_at_its_limit_takes_deletes),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    run_seed = km__random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
