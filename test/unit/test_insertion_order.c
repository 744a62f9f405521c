/* SPDX-License-Identifier: Apache-2.0
 *
 * test_insertion_order.c -- the insertion order against what it promises, and against an obvious
 * model.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "unit/order_fixture.h"

/* ---- single properties */

static void ordinals_ascend_and_are_not_used_again(void **state)
{
    struct fixture *fixture = *state;
    uint64_t last = append(fixture, 1);

    for (int i = 0; i < 5000; i++) {
        uint64_t ordinal = append(fixture, 1);
        assert_true(ordinal > last);
        last = ordinal;
        if (i % 3 == 0)
            km__order_clear(fixture->order, ordinal);
        if (i % 1000 == 999)
            km__order_clear_all(fixture->order);
        if (i % 700 == 0)
            tidy_all(fixture);
        assert_int_equal(km__order_next(fixture->order), last + 1);
    }
}

static void references_of_all_bits_are_kept(void **state)
{
    struct fixture *fixture = *state;
    uint64_t a = append(fixture, ORDER_REF_MASK);
    uint64_t b = append(fixture, 1);

    assert_int_equal(km__order_get(fixture->order, a), ORDER_REF_MASK);
    assert_int_equal(km__order_get(fixture->order, b), 1);
    km__order_set(fixture->order, b, ORDER_REF_MASK);
    assert_int_equal(km__order_get(fixture->order, a), ORDER_REF_MASK);
    assert_int_equal(km__order_get(fixture->order, b), ORDER_REF_MASK);
    assert_int_equal(km__order_restore(fixture->order, 900000, ORDER_REF_MASK), KM_OK);
    tidy_all(fixture);
    assert_int_equal(km__order_get(fixture->order, a), ORDER_REF_MASK);
    assert_int_equal(km__order_get(fixture->order, 900000), ORDER_REF_MASK);
}

static void empty_order_answers(void **state)
{
    struct fixture *fixture = *state;
    struct order_entry entry;
    uint64_t ref;

    assert_int_equal(km__order_count(fixture->order), 0);
    assert_true(km__order_bytes(fixture->order) <= 256);
    assert_true(km__order_select(fixture->order, 0, &ref) == ORDER_NONE);
    assert_int_equal(km__order_rank(fixture->order, 5), 0);
    assert_int_equal(km__order_get(fixture->order, 0), 0);
    assert_int_equal(km__order_read_up(fixture->order, 0, &entry, 1), 0);
    assert_int_equal(km__order_read_down(fixture->order, UINT64_MAX, &entry, 1), 0);
    km__order_clear(fixture->order, 0);
    assert_int_equal(km__order_can_set(fixture->order, 0), 0);
    assert_int_equal(km__order_is_untidy(fixture->order), 0);
    assert_int_equal(km__order_tidy(fixture->order, 8), 0);
    km__order_clear_all(fixture->order);
}

static void few_keys_take_little_memory(void **state)
{
    struct fixture *fixture = *state;

    append_many(fixture, 1);
    assert_true(km__order_bytes(fixture->order) <= 1536);
    append_many(fixture, 499);
    assert_true(km__order_bytes(fixture->order) <= 8192);
}

static void dense_keys_take_little_more_than_their_slots(void **state)
{
    struct fixture *fixture = *state;

    append_many(fixture, 300000);
    assert_true((double)km__order_bytes(fixture->order) / 300000 < 8.5);
    km__order_clear_all(fixture->order);
    km__reclaim(&fixture->reclaimer);
    for (uint64_t i = 0; i < 300000; i++) /* an odd multiplier: all of them, out of order */
        assert_int_equal(km__order_restore(fixture->order, 1000000 + (i * 77777) % 300000, i + 1),
                         KM_OK);
    check(fixture);
    assert_int_equal(km__order_count(fixture->order), 300000);
    assert_true((double)km__order_bytes(fixture->order) / 300000 < 8.8);
}

static void unreasonable_ordinal_is_corrupt(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(km__order_restore(fixture->order, UINT64_C(1) << 63, 1), KM_E_CORRUPT);
    assert_int_equal(km__order_use(fixture->order, (UINT64_C(1) << 63) + 1), KM_E_CORRUPT);
    assert_int_equal(km__order_next(fixture->order), 0);
    assert_int_equal(km__order_restore(fixture->order, (UINT64_C(1) << 63) - 1, 1), KM_OK);
    assert_int_equal(km__order_reserve(fixture->order, 1), KM_E_NO_MEMORY);
    assert_int_equal(km__order_get(fixture->order, (UINT64_C(1) << 63) - 1), 1);
}

static void what_is_reserved_can_be_given_back(void **state)
{
    struct fixture *fixture = *state;
    uint64_t bytes;

    append_many(fixture, 100);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(km__order_reserve(fixture->order, 1000), KM_OK);
        km__order_unreserve(fixture->order, 1000);
    }
    bytes = km__order_bytes(fixture->order);
    assert_true(bytes < 40000);
    assert_int_equal(append(fixture, 1), 100);
}

/* Who takes an ordinal without keeping others out may find that it has lost its place. */
static void ordinal_set_late_has_its_place_or_says_so(void **state)
{
    struct fixture *fixture = *state;
    uint64_t late;

    append_many(fixture, 10000);
    assert_int_equal(km__order_reserve(fixture->order, 1), KM_OK);
    late = km__order_take(fixture->order);
    tidy_all(fixture);
    assert_int_equal(km__order_can_set(fixture->order, late), 1);
    append_many(fixture, 10000);
    tidy_all(fixture);
    assert_int_equal(km__order_can_set(fixture->order, late), 1);
    for (uint64_t i = 0; i < 20000; i++)
        km__order_clear(fixture->order, i);
    tidy_all(fixture);
    assert_int_equal(km__order_can_set(fixture->order, late), 0);
    assert_int_equal(km__order_reserve(fixture->order, 1), KM_OK);
    km__order_clear_all(fixture->order);
    late = km__order_take(fixture->order);
    assert_int_equal(km__order_can_set(fixture->order, late), 0);
    append_many(fixture, 1);
}

static void moved_order_goes_on_in_both_places(void **state)
{
    struct fixture *fixture = *state;
    struct insertion_order *other;
    uint64_t next;

    append_many(fixture, 5000);
    next = km__order_next(fixture->order);
    assert_int_equal(
        km__order_create(&fixture->allocator.allocator, fixture->pool, &fixture->reclaimer, &other),
        KM_OK);
    km__order_move_all(fixture->order, other);
    check(fixture);
    assert_int_equal(km__order_check(other), 0);
    assert_int_equal(km__order_count(fixture->order), 0);
    assert_true(km__order_bytes(fixture->order) <= 256);
    assert_int_equal(km__order_count(other), 5000);
    assert_int_equal(km__order_get(other, 17), 18);
    assert_int_equal(append(fixture, 1), next);
    assert_int_equal(km__order_reserve(other, 1), KM_OK);
    assert_int_equal(km__order_take(other), next);
    km__order_set(other, next, 77);
    km__order_clear(other, 17);
    assert_int_equal(km__order_get(other, next), 77);
    assert_int_equal(km__order_count(other), 5000);
    assert_int_equal(km__order_check(other), 0);
    km__order_destroy(other);
}

/* ---- memory after deletes */

static void emptied_blocks_are_given_back(void **state)
{
    struct fixture *fixture = *state;

    append_many(fixture, 300000);
    for (uint64_t i = 0; i < 300000; i++)
        km__order_clear(fixture->order, i);
    assert_true(km__order_is_untidy(fixture->order));
    tidy_all(fixture);
    assert_int_equal(km__order_is_untidy(fixture->order), 0);
    assert_true(km__order_bytes(fixture->order) < 16384);
}

static void clear_all_ends_a_pass(void **state)
{
    struct fixture *fixture = *state;

    append_many(fixture, 300000);
    for (uint64_t i = 0; i < 300000; i++) {
        if (i % 4 != 0)
            km__order_clear(fixture->order, i);
    }
    assert_int_equal(km__order_tidy(fixture->order, 8), 1);
    assert_int_equal(km__order_is_untidy(fixture->order), 1);
    km__order_clear_all(fixture->order);
    assert_int_equal(km__order_is_untidy(fixture->order), 0);
    append_many(fixture, 1000);
    tidy_all(fixture);
    assert_int_equal(km__order_count(fixture->order), 1000);
}

static void memory_stays_in_proportion_to_keys(void **state)
{
    struct fixture *fixture = *state;
    uint64_t live;

    append_many(fixture, 600000);
    for (uint64_t i = 0; i < 600000; i++) {
        if (mix64(i ^ fixture->random) % 10 != 0)
            km__order_clear(fixture->order, i);
    }
    assert_true(km__order_is_untidy(fixture->order));
    tidy_all(fixture);
    assert_int_equal(km__order_is_untidy(fixture->order), 0);
    check(fixture);
    live = km__order_count(fixture->order);
    assert_in_range(live, 50000, 70000);
    print_message("bytes per key after deletes: %.2f\n",
                  (double)km__order_bytes(fixture->order) / (double)live);
    assert_true((double)km__order_bytes(fixture->order) / (double)live < 10.0);
}

/* A queue in which one key of a hundred stays for ever; tidied whenever it says that it should. */
static void memory_of_a_queue_stays_in_proportion(void **state)
{
    struct fixture *fixture = *state;
    uint64_t most = 0;

    for (uint64_t i = 0; i < 1000000; i++) {
        append(fixture, i + 1);
        if (i >= 100 && (i - 100) % 100 != 0)
            km__order_clear(fixture->order, i - 100);
        if (i % 64 != 0 || !km__order_is_untidy(fixture->order))
            continue;
        tidy_all(fixture);
        if (km__order_count(fixture->order) > 1000) {
            uint64_t per_key = km__order_bytes(fixture->order) / km__order_count(fixture->order);
            most = per_key > most ? per_key : most;
        }
    }
    check(fixture);
    print_message("bytes per key of a queue: %" PRIu64 "\n", most);
    assert_in_range(most, 8, 24);
    assert_in_range(km__order_directory(fixture->order)->count, 1, 8);
}

static void sparse_restored_keys_are_packed(void **state)
{
    struct fixture *fixture = *state;
    uint64_t bytes = 0;

    for (uint64_t i = 0; i < 100000; i++) {
        assert_int_equal(km__order_restore(fixture->order, i * 1000, i + 1), KM_OK);
        if (i % 1024 == 0)
            km__reclaim(&fixture->reclaimer);
    }
    check(fixture);
    bytes = km__order_bytes(fixture->order);
    assert_true(bytes / 100000 < 300);
    assert_true(km__order_is_untidy(fixture->order));
    tidy_all(fixture);
    check(fixture);
    assert_int_equal(km__order_is_untidy(fixture->order), 0);
    assert_true(km__order_bytes(fixture->order) / 100000 < 12);
    for (uint64_t i = 0; i < 100000; i += 7)
        assert_int_equal(km__order_get(fixture->order, i * 1000), i + 1);
}

/* So far apart that no two lie in one packed block: in any order, and untidied, some 300 bytes. */
static void very_sparse_restored_keys_take_bounded_memory(void **state)
{
    struct fixture *fixture = *state;
    uint64_t count = 30000;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t ordinal = (i * 7919 % count) * 3000017;
        assert_int_equal(km__order_restore(fixture->order, ordinal, i + 1), KM_OK);
        if (i % 256 == 0)
            km__reclaim(&fixture->reclaimer);
    }
    check(fixture);
    assert_int_equal(km__order_count(fixture->order), count);
    assert_true(km__order_bytes(fixture->order) / count < 500);
    tidy_all(fixture);
    check(fixture);
    assert_true(km__order_bytes(fixture->order) / count < 300);
    append_many(fixture, 2000);
    check(fixture);
    for (uint64_t i = 0; i < count; i++)
        assert_int_equal(km__order_get(fixture->order, (i * 7919 % count) * 3000017), i + 1);
}

/* Tidying what is tidy comes to an end and gains no more than a little. */
static void tidying_twice_is_as_good_as_once(void **state)
{
    struct fixture *fixture = *state;
    uint64_t bytes;

    for (uint64_t i = 0; i < 20000; i++)
        restore_both(fixture,
                     random_below(fixture, 10) * 5000000000 + random_below(fixture, 200000));
    tidy_all(fixture);
    check(fixture);
    bytes = km__order_bytes(fixture->order);
    for (int i = 0; i < 5; i++) {
        tidy_all(fixture);
        assert_in_range(km__order_bytes(fixture->order), bytes * 8 / 10, bytes * 11 / 10);
        assert_int_equal(km__order_is_untidy(fixture->order), 0);
    }
    compare_walks(fixture, 0, MODEL_MAX);
}

/* ---- time of deletes */

static double seconds_since(clock_t start)
{
    return (double)(clock() - start) / CLOCKS_PER_SEC;
}

/* Delete all of 1M keys, tidying when it is time to. */
static double time_deletes(struct fixture *fixture, uint64_t (*choose)(uint64_t i))
{
    uint64_t first = km__order_next(fixture->order);
    clock_t start;

    append_many(fixture, 1000000);
    start = clock();
    for (uint64_t i = 0; i < 1000000; i++) {
        km__order_clear(fixture->order, first + choose(i));
        if (i % 256 == 0 && km__order_is_untidy(fixture->order)) {
            km__order_tidy(fixture->order, 64);
            km__reclaim(&fixture->reclaimer);
        }
    }
    assert_int_equal(km__order_count(fixture->order), 0);
    return seconds_since(start);
}

static uint64_t from_front(uint64_t i)
{
    return i;
}

static uint64_t from_back(uint64_t i)
{
    return 999999 - i;
}

static uint64_t at_random(uint64_t i)
{
    return i * 611953 % 1000000; /* prime to it: each once */
}

/* No place is out of all proportion: generous, since random access misses the cache. */
static void deletes_take_about_the_same_everywhere(void **state)
{
    struct fixture *fixture = *state;
    double front = time_deletes(fixture, from_front);
    double back = time_deletes(fixture, from_back);
    double random = time_deletes(fixture, at_random);

    print_message("1M deletes: front %.3f s, back %.3f s, random %.3f s\n", front, back, random);
    assert_true(back < 8 * front + 0.05 && front < 8 * back + 0.05);
    assert_true(random < 20 * front + 0.3);
}

/* ---- against the model */

/* How much of what a random run does. */
struct profile {
    uint32_t append;
    uint32_t set;
    uint32_t clear;
    uint32_t clear_run;
    uint32_t restore;
    uint32_t tidy;
    uint32_t clear_all;
    uint64_t spread; /* of the ordinals restored */
};

static uint64_t ordinal_to_restore(struct fixture *fixture, const struct profile *profile)
{
    uint64_t dice = random_below(fixture, 8);

    if (dice < 2)
        return fixture->next + random_below(fixture, dice == 0 ? 3 : profile->spread / 16 + 1);
    if (dice < 4 && fixture->count > 0)
        return fixture->entries[random_below(fixture, fixture->count)].ordinal +
               random_below(fixture, 20);
    return random_below(fixture, profile->spread);
}

static void clear_some(struct fixture *fixture, size_t count)
{
    size_t at = random_below(fixture, fixture->count);

    for (size_t i = 0; i < count && at < fixture->count; i++)
        clear_both(fixture, fixture->entries[at].ordinal);
}

static void set_one(struct fixture *fixture)
{
    struct order_entry *entry = &fixture->entries[random_below(fixture, fixture->count)];

    entry->ref = random_ref(fixture);
    km__order_set(fixture->order, entry->ordinal, entry->ref);
}

static void step(struct fixture *fixture, const struct profile *profile)
{
    uint64_t dice = random_below(fixture, 1000);
    uint32_t end = profile->append;

    if (dice < end && fixture->count < MODEL_MAX - 64) {
        append_both(fixture);
    } else if (dice < (end += profile->set) && fixture->count > 0) {
        set_one(fixture);
    } else if (dice < (end += profile->clear)) {
        clear_both(fixture, ordinal_near(fixture));
    } else if (dice < (end += profile->clear_run) && fixture->count > 0) {
        clear_some(fixture, random_below(fixture, 1500));
    } else if (dice < (end += profile->restore) && fixture->count < MODEL_MAX - 64) {
        restore_both(fixture, ordinal_to_restore(fixture, profile));
    } else if (dice < (end += profile->tidy)) {
        km__order_tidy(fixture->order, (uint32_t)random_below(fixture, 40));
    } else if (dice < end + profile->clear_all && random_below(fixture, 20) == 0) {
        km__order_clear_all(fixture->order);
        fixture->count = 0;
    }
}

static void run_profile(struct fixture *fixture, const struct profile *profile, uint32_t steps)
{
    for (uint32_t i = 0; i < steps; i++) {
        step(fixture, profile);
        if (i % 8 == 0)
            compare_some(fixture);
        if (i % 64 == 0) {
            check(fixture);
            km__reclaim(&fixture->reclaimer);
        }
    }
    compare_all(fixture);
    tidy_all(fixture);
    compare_all(fixture);
}

static void appends_and_clears_agree_with_model(void **state)
{
    static const struct profile growing = {700, 100, 170, 3, 0, 20, 1, 1};
    static const struct profile shrinking = {300, 100, 550, 5, 0, 30, 1, 1};
    struct fixture *fixture = *state;

    run_profile(fixture, &growing, 20000);
    run_profile(fixture, &shrinking, 20000);
    run_profile(fixture, &growing, 10000);
}

static void restores_agree_with_model(void **state)
{
    static const struct profile dense = {0, 50, 200, 3, 700, 10, 1, 8000};
    static const struct profile sparse = {0, 50, 200, 3, 700, 30, 1, 3000000};
    static const struct profile wide = {0, 50, 100, 1, 800, 5, 0, UINT64_C(1) << 40};
    struct fixture *fixture = *state;

    run_profile(fixture, &dense, 15000);
    run_profile(fixture, &sparse, 15000);
    km__order_clear_all(fixture->order);
    fixture->count = 0;
    run_profile(fixture, &wide, 6000); /* over a thousand groups, then uneven ones */
    run_profile(fixture, &sparse, 10000);
}

static void everything_agrees_with_model(void **state)
{
    static const struct profile near = {300, 100, 200, 4, 300, 40, 1, 20000};
    static const struct profile far = {300, 100, 200, 4, 300, 40, 1, UINT64_C(1) << 34};
    struct fixture *fixture = *state;

    for (int round = 0; round < 3; round++) {
        run_profile(fixture, &near, 7000);
        run_profile(fixture, &far, 7000);
        assert_int_equal(km__order_use(fixture->order, fixture->next + 100 * round), KM_OK);
        fixture->next += 100 * round;
    }
}

/* Uneven groups that are restored into: full blocks are cut in two, and groups. */
static void packed_groups_take_any_ordinal(void **state)
{
    struct fixture *fixture = *state;

    for (uint64_t i = 0; i < 1100; i++)
        restore_both(fixture, i << 22);
    for (uint64_t i = 0; i < 8000; i++) {
        restore_both(fixture, (UINT64_C(5000) << 22) + random_below(fixture, UINT64_C(1) << 22));
        if (i % 500 == 0)
            compare_all(fixture);
    }
    for (uint64_t i = 0; i < 3000; i++)
        restore_both(fixture, (UINT64_C(9000) << 22) + i * 50);
    for (uint64_t i = 0; i < 3000; i++)
        restore_both(fixture, (UINT64_C(9000) << 22) - i * 50);
    compare_all(fixture);
    tidy_all(fixture);
    compare_all(fixture);
    for (uint64_t i = 0; i < 2000; i++)
        append_both(fixture);
    compare_all(fixture);
}

/* ---- lack of memory */

/* One operation with memory that ends after `calls` allocations; 1 if it failed. */
static int try_without_memory(struct fixture *fixture, uint64_t dice, int64_t calls)
{
    uint64_t ordinal = dice % 3 == 0 ? fixture->next : dice % 50000;
    uint64_t ref = random_ref(fixture);
    km_status rc;

    fixture->allocator.calls_left = calls;
    if (dice % 7 == 0) {
        km__order_tidy(fixture->order, 50);
        fixture->allocator.calls_left = -1;
        return 0;
    }
    if (dice % 7 < 4)
        rc = km__order_reserve(fixture->order, 1 + dice % 600);
    else
        rc = km__order_restore(fixture->order, ordinal, ref);
    fixture->allocator.calls_left = -1;
    if (rc != KM_OK) {
        assert_int_equal(rc, KM_E_NO_MEMORY);
        fixture->next = km__order_next(fixture->order); /* a restore may have raised it */
        return 1;
    }
    if (dice % 7 < 4)
        km__order_unreserve(fixture->order, 1 + dice % 600);
    else
        model_put(fixture, ordinal, ref);
    return 0;
}

static void *map_no_pages(void *context, size_t size)
{
    (void)context;
    (void)size;
    return NULL;
}

/* The pool asks for memory rarely: so all that it has is taken from it, in the smallest blocks, and
 * it gets no more. */
static size_t exhaust_pool(struct fixture *fixture, void **blocks, size_t max)
{
    size_t count = 0;

    fixture->allocator.allocator.map_pages = map_no_pages;
    do {
        assert_true(count < max);
        blocks[count] = km__node_pool_allocate(fixture->pool, NODE_POOL_BLOCK_MIN);
    } while (blocks[count++]);
    return count - 1;
}

static void without_memory_nothing_changes(void **state)
{
    enum { BLOCKS_MAX = 1 << 18 };
    struct fixture *fixture = *state;
    void **blocks = calloc(BLOCKS_MAX, sizeof(*blocks));
    uint32_t failures = 0;

    assert_non_null(blocks);
    for (int round = 0; round < 60; round++) {
        size_t count;

        for (int i = 0; i < 200 && fixture->count < MODEL_MAX - 4000; i++)
            restore_both(fixture, random_below(fixture, round % 2 ? 60000 : UINT64_C(1) << 26));
        for (int i = 0; i < 300; i++)
            clear_both(fixture, ordinal_near(fixture));
        if (round % 4 == 0)
            tidy_all(fixture);
        km__reclaim(&fixture->reclaimer);
        count = exhaust_pool(fixture, blocks, BLOCKS_MAX);
        for (int i = 0; i < 300; i++) {
            /* neighbours come back, so that sometimes there is enough, and sometimes for a part */
            for (uint64_t n = random_below(fixture, 20); n > 0 && count > 0 && i % 4 == 0; n--)
                km__node_pool_release(fixture->pool, blocks[--count], NODE_POOL_BLOCK_MIN);
            failures += (uint32_t)try_without_memory(fixture, random64(&fixture->random), i % 3);
            if (i % 16 == 0)
                compare_some(fixture);
        }
        check(fixture);
        fixture->allocator.allocator.map_pages = test_map_pages;
        while (count > 0)
            km__node_pool_release(fixture->pool, blocks[--count], NODE_POOL_BLOCK_MIN);
    }
    compare_all(fixture);
    print_message("calls that failed: %u\n", failures);
    assert_true(failures > 1000);
    free(blocks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ordinals_ascend_and_are_not_used_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(references_of_all_bits_are_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(empty_order_answers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(few_keys_take_little_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(dense_keys_take_little_more_than_their_slots, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(unreasonable_ordinal_is_corrupt, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_reserved_can_be_given_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ordinal_set_late_has_its_place_or_says_so, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(moved_order_goes_on_in_both_places, set_up, tear_down),
        cmocka_unit_test_setup_teardown(emptied_blocks_are_given_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(clear_all_ends_a_pass, set_up, tear_down),
        cmocka_unit_test_setup_teardown(memory_stays_in_proportion_to_keys, set_up, tear_down),
        cmocka_unit_test_setup_teardown(memory_of_a_queue_stays_in_proportion, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sparse_restored_keys_are_packed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(very_sparse_restored_keys_take_bounded_memory, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(tidying_twice_is_as_good_as_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(deletes_take_about_the_same_everywhere, set_up, tear_down),
        cmocka_unit_test_setup_teardown(appends_and_clears_agree_with_model, set_up, tear_down),
        cmocka_unit_test_setup_teardown(restores_agree_with_model, set_up, tear_down),
        cmocka_unit_test_setup_teardown(everything_agrees_with_model, set_up, tear_down),
        cmocka_unit_test_setup_teardown(packed_groups_take_any_ordinal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(without_memory_nothing_changes, set_up, tear_down),
    };

    test_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
