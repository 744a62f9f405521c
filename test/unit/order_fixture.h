/* SPDX-License-Identifier: Apache-2.0
 *
 * order_fixture.h -- an insertion order for one test, and an obvious model of it; to be included
 * after cmocka.h.
 */
#ifndef KM_TEST_UNIT_ORDER_FIXTURE_H
#define KM_TEST_UNIT_ORDER_FIXTURE_H

#include <string.h>

#include "index/insertion_order_internal.h"
#include "index/node_pool.h"
#include "unit/hash_index_util.h"

#define MODEL_MAX 20000u

struct fixture {
    struct test_allocator allocator;
    struct reclaimer reclaimer;
    struct node_pool *pool;
    struct insertion_order *order;
    uint64_t random;
    /* The model: what is in use, ascending, and the next ordinal. */
    struct order_entry *entries;
    size_t count;
    uint64_t next;
};

static inline int set_up(void **state)
{
    static struct fixture fixture;
    static struct order_entry entries[MODEL_MAX];

    memset(&fixture, 0, sizeof(fixture));
    fixture.entries = entries;
    fixture.random = mix64(test_seed());
    test_allocator_init(&fixture.allocator);
    km__reclaimer_init(&fixture.reclaimer);
    assert_int_equal(km__node_pool_create(&fixture.allocator.allocator, &fixture.pool), KM_OK);
    assert_int_equal(km__order_create(&fixture.allocator.allocator, fixture.pool,
                                      &fixture.reclaimer, &fixture.order),
                     KM_OK);
    *state = &fixture;
    return 0;
}

/* Everything is given back: to the pool when order and reclaimer end, to the machine by the pool.
 */
static inline int tear_down(void **state)
{
    struct fixture *fixture = *state;

    fixture->allocator.calls_left = -1;
    assert_int_equal(km__order_check(fixture->order), 0);
    km__order_destroy(fixture->order);
    km__reclaimer_fini(&fixture->reclaimer);
    assert_int_equal(km__node_pool_check(fixture->pool), 0);
    km__node_pool_destroy(fixture->pool);
    assert_int_equal(fixture->allocator.held_bytes, 0);
    assert_int_equal(fixture->allocator.held_pages, 0);
    return 0;
}

static inline uint64_t random_below(struct fixture *fixture, uint64_t n)
{
    return random64(&fixture->random) % n;
}

static inline uint64_t random_ref(struct fixture *fixture)
{
    uint64_t ref = random64(&fixture->random) & ORDER_REF_MASK;

    return ref ? ref : 1;
}

/* ---- the order alone */

static inline uint64_t append(struct fixture *fixture, uint64_t ref)
{
    uint64_t ordinal;

    assert_int_equal(km__order_reserve(fixture->order, 1), KM_OK);
    ordinal = km__order_take(fixture->order);
    km__order_set(fixture->order, ordinal, ref);
    return ordinal;
}

static inline void append_many(struct fixture *fixture, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        append(fixture, 1 + (km__order_next(fixture->order) & 0xffffffff));
}

static inline void tidy_all(struct fixture *fixture)
{
    uint32_t calls = 0;

    while (km__order_tidy(fixture->order, 64)) {
        assert_in_range(++calls, 1, 10000000);
        if (calls % 64 == 0)
            km__reclaim(&fixture->reclaimer);
    }
    km__reclaim(&fixture->reclaimer);
}

static inline void check(struct fixture *fixture)
{
    assert_int_equal(km__order_check(fixture->order), 0);
}

/* ---- order and model together */

/* The position of the first entry at or above an ordinal. */
static inline size_t model_rank(const struct fixture *fixture, uint64_t ordinal)
{
    size_t low = 0;
    size_t high = fixture->count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (fixture->entries[middle].ordinal < ordinal)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static inline uint64_t model_get(const struct fixture *fixture, uint64_t ordinal)
{
    size_t at = model_rank(fixture, ordinal);

    if (at == fixture->count || fixture->entries[at].ordinal != ordinal)
        return 0;
    return fixture->entries[at].ref;
}

static inline void model_put(struct fixture *fixture, uint64_t ordinal, uint64_t ref)
{
    size_t at = model_rank(fixture, ordinal);

    if (at == fixture->count || fixture->entries[at].ordinal != ordinal) {
        assert_true(fixture->count < MODEL_MAX);
        memmove(&fixture->entries[at + 1], &fixture->entries[at],
                (fixture->count - at) * sizeof(fixture->entries[0]));
        fixture->count++;
    }
    fixture->entries[at] = (struct order_entry){ordinal, ref};
    if (fixture->next <= ordinal)
        fixture->next = ordinal + 1;
}

static inline void model_remove(struct fixture *fixture, uint64_t ordinal)
{
    size_t at = model_rank(fixture, ordinal);

    if (at == fixture->count || fixture->entries[at].ordinal != ordinal)
        return;
    fixture->count--;
    memmove(&fixture->entries[at], &fixture->entries[at + 1],
            (fixture->count - at) * sizeof(fixture->entries[0]));
}

static inline void restore_both(struct fixture *fixture, uint64_t ordinal)
{
    uint64_t ref = random_ref(fixture);

    assert_int_equal(km__order_restore(fixture->order, ordinal, ref), KM_OK);
    model_put(fixture, ordinal, ref);
}

static inline void append_both(struct fixture *fixture)
{
    uint64_t ref = random_ref(fixture);
    uint64_t ordinal = append(fixture, ref);

    assert_int_equal(ordinal, fixture->next);
    model_put(fixture, ordinal, ref);
}

static inline void clear_both(struct fixture *fixture, uint64_t ordinal)
{
    km__order_clear(fixture->order, ordinal);
    model_remove(fixture, ordinal);
}

/* ---- comparing */

static inline void compare_at(const struct fixture *fixture, size_t position)
{
    const struct order_entry *entry = &fixture->entries[position];
    uint64_t ref = 0;

    assert_int_equal(km__order_select(fixture->order, position, &ref), entry->ordinal);
    assert_int_equal(ref, entry->ref);
    assert_int_equal(km__order_get(fixture->order, entry->ordinal), entry->ref);
    assert_int_equal(km__order_rank(fixture->order, entry->ordinal), position);
    assert_int_equal(km__order_rank(fixture->order, entry->ordinal + 1), position + 1);
}

/* Read up and down from an ordinal. */
static inline void compare_walks(struct fixture *fixture, uint64_t ordinal, size_t max)
{
    static struct order_entry got[MODEL_MAX];
    size_t at = model_rank(fixture, ordinal);
    size_t below = at + (model_get(fixture, ordinal) != 0);
    size_t up = km__order_read_up(fixture->order, ordinal, got, max);

    assert_int_equal(up, fixture->count - at < max ? fixture->count - at : max);
    assert_memory_equal(got, &fixture->entries[at], up * sizeof(got[0]));
    assert_int_equal(km__order_read_down(fixture->order, ordinal, got, max),
                     below < max ? below : max);
    for (size_t i = 0; i < below && i < max; i++)
        assert_memory_equal(&got[i], &fixture->entries[below - 1 - i], sizeof(got[0]));
}

static inline uint64_t ordinal_near(struct fixture *fixture)
{
    uint64_t ordinal;

    if (fixture->count == 0 || random_below(fixture, 16) == 0)
        return random64(&fixture->random) >> random_below(fixture, 64);
    ordinal = fixture->entries[random_below(fixture, fixture->count)].ordinal;
    return ordinal + random_below(fixture, 5) - (ordinal < 2 ? 0 : 2);
}

static inline void compare_some(struct fixture *fixture)
{
    uint64_t ref;
    uint64_t ordinal = ordinal_near(fixture);

    assert_int_equal(km__order_count(fixture->order), fixture->count);
    assert_int_equal(km__order_next(fixture->order), fixture->next);
    for (int i = 0; i < 4 && fixture->count > 0; i++)
        compare_at(fixture, random_below(fixture, fixture->count));
    assert_true(km__order_select(fixture->order, fixture->count, &ref) == ORDER_NONE);
    assert_int_equal(km__order_get(fixture->order, ordinal), model_get(fixture, ordinal));
    assert_int_equal(km__order_rank(fixture->order, ordinal), model_rank(fixture, ordinal));
    compare_walks(fixture, ordinal, 1 + random_below(fixture, 700));
}

static inline void compare_all(struct fixture *fixture)
{
    check(fixture);
    compare_some(fixture);
    for (size_t i = 0; i < fixture->count; i++)
        compare_at(fixture, i);
    compare_walks(fixture, 0, MODEL_MAX);
    compare_walks(fixture, UINT64_MAX, MODEL_MAX);
}

#endif
