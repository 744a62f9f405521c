/* SPDX-License-Identifier: Apache-2.0
 *
 * test_order_run.c -- restoring many ordinals at once comes to the same as one after the other.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>

#include "harness/harness_util.h"
#include "store/store_internal.h"

#define ENTRY_COUNT 60000u

/* Two orders, of a store in memory. */
static struct {
    km_store *store;
    struct insertion_order *by_runs, *one_by_one;
    struct order_entry entries[ENTRY_COUNT];
} fixture;

static int setup(void **state)
{
    static const char *const names[] = {"a", "b"};
    km_map *maps[2];

    (void)state;
    CHECK_STATUS(km__store_open_memory_with(km__os_linux(), NULL, 0, &fixture.store, NULL), KM_OK);
    for (int i = 0; i < 2; i++)
        CHECK_STATUS(
            km_map_create(fixture.store, km_bytes_of_string(names[i]), KM_INSERTION, &maps[i]),
            KM_OK);
    fixture.by_runs = maps[0]->order;
    fixture.one_by_one = maps[1]->order;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    CHECK_STATUS(km_close(fixture.store, NULL), KM_OK);
    return 0;
}

static void check_order(struct insertion_order *order, size_t count)
{
    struct order_entry found[512];
    uint64_t ordinal = 0;
    size_t at = 0, n;

    CHECK(km__order_check(order) == 0);
    CHECK(km__order_count(order) == count);
    km__epoch_enter();
    while ((n = km__order_read_up(order, ordinal, found, 512))) { /* ends with the entries */
        for (size_t i = 0; i < n; i++, at++)
            CHECK(at < count && found[i].ordinal == fixture.entries[at].ordinal &&
                  found[i].ref == fixture.entries[at].ref);
        ordinal = found[n - 1].ordinal + 1;
    }
    km__epoch_leave();
    CHECK(at == count);
}

/* Of `count` entries with gaps up to gap_max, by runs of up to run_max. */
static void restore_both(struct harness_random *random, size_t count, uint64_t gap_max,
                         size_t run_max)
{
    uint64_t ordinal = harness_below(random, 5000);

    for (size_t i = 0; i < count; i++) {
        fixture.entries[i].ordinal = ordinal;
        fixture.entries[i].ref = 1 + harness_below(random, UINT64_C(1) << 43);
        ordinal += 1 + (gap_max ? harness_below(random, gap_max + 1) : 0);
    }
    km__epoch_enter();
    for (size_t at = 0, run; at < count; at += run) {
        run = 1 + harness_below(random, run_max);
        run = run < count - at ? run : count - at;
        CHECK_STATUS(km__order_restore_run(fixture.by_runs, fixture.entries + at, run), KM_OK);
    }
    for (size_t i = 0; i < count; i++)
        CHECK_STATUS(km__order_restore(fixture.one_by_one, fixture.entries[i].ordinal,
                                       fixture.entries[i].ref),
                     KM_OK);
    km__epoch_leave();
}

static void runs_come_to_the_same(void **state)
{
    static const uint64_t gaps[] = {0, 1, 5, 20, 300, 5000, 1000000};

    for (size_t i = 0; i < sizeof(gaps) / sizeof(gaps[0]); i++) {
        struct harness_random random = harness_stream(i);

        for (size_t run_max = 1; run_max <= 20000; run_max = run_max * 10 + 1) {
            size_t count = gaps[i] > 100 ? 3000 : ENTRY_COUNT / 2;

            setup(state);
            restore_both(&random, count, gaps[i], run_max);
            check_order(fixture.by_runs, count);
            check_order(fixture.one_by_one, count);
            CHECK(km__order_next(fixture.by_runs) == km__order_next(fixture.one_by_one));
            teardown(state);
        }
    }
}

/* What comes after the runs: changes, and ordinals that are taken. */
static void an_order_goes_on_after_runs(void **state)
{
    struct harness_random random = harness_stream(100);
    uint64_t next;

    (void)state;
    restore_both(&random, 5000, 3, 700);
    next = km__order_next(fixture.by_runs);
    CHECK_STATUS(km__order_use(fixture.by_runs, next + 10), KM_OK);
    km__epoch_enter();
    for (size_t i = 0; i < 5000; i++)
        km__order_clear(fixture.by_runs, fixture.entries[i].ordinal);
    for (size_t i = 0; i < 5000; i++) {
        fixture.entries[i].ref = i + 1;
        CHECK_STATUS(km__order_reserve(fixture.by_runs, 1), KM_OK);
        fixture.entries[i].ordinal = km__order_take(fixture.by_runs);
        CHECK(fixture.entries[i].ordinal == next + 10 + i);
        km__order_set(fixture.by_runs, fixture.entries[i].ordinal, i + 1);
    }
    km__epoch_leave();
    check_order(fixture.by_runs, 5000);
}

static void runs_ascend(void **state)
{
    struct order_entry entries[] = {{5, 1}, {5, 2}};

    (void)state;
    km__epoch_enter();
    CHECK_STATUS(km__order_restore_run(fixture.by_runs, entries, 0), KM_OK);
    CHECK_STATUS(km__order_restore_run(fixture.by_runs, entries, 2), KM_E_CORRUPT);
    entries[1].ordinal = 4;
    CHECK_STATUS(km__order_restore_run(fixture.by_runs, entries, 2), KM_E_CORRUPT);
    entries[1].ordinal = UINT64_C(1) << 63;
    CHECK_STATUS(km__order_restore_run(fixture.by_runs, entries, 2), KM_E_CORRUPT);
    entries[1].ordinal = 6;
    CHECK_STATUS(km__order_restore_run(fixture.by_runs, entries, 2), KM_OK);
    km__epoch_leave();
    CHECK(km__order_next(fixture.by_runs) == 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_come_to_the_same),
        cmocka_unit_test_setup_teardown(an_order_goes_on_after_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(runs_ascend, setup, teardown),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
