/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_fixture.h -- an index for one test, whose keys' hashes are known; to be included after
 * cmocka.h.
 */
#ifndef KM_TEST_UNIT_HASH_FIXTURE_H
#define KM_TEST_UNIT_HASH_FIXTURE_H

#include <string.h>

#include "index/hash_index_internal.h"
#include "index/node_pool.h"
#include "unit/hash_index_util.h"

/* A reference is a key and the version of what it refers to, so that a source needs no table. */
#define KEY_BITS 24
#define REF(key, version) ((uint64_t)(version) << KEY_BITS | (key))
#define KEY(ref) ((ref) & ((UINT64_C(1) << KEY_BITS) - 1))

struct fixture {
    struct test_allocator allocator;
    struct reclaimer reclaimer;
    struct node_pool *pool;
    struct hash_index *index;
    struct hash_source source;
    uint64_t hash_seed;
    uint64_t keep_mask; /* hashes are random in these bits; the others are those of `common` */
    uint64_t common;
    uint64_t odd_bits;    /* in which the hashes of odd keys differ besides */
    uint64_t wrong_bits;  /* what answer_wrong_hashes() gets wrong */
    uint64_t asked_count; /* references whose hashes the index asked for */
    km_status source_status;
};

static inline uint64_t hash_of(const struct fixture *fixture, uint64_t key)
{
    uint64_t hash = mix64(key + fixture->hash_seed);

    hash = (hash & fixture->keep_mask) | (fixture->common & ~fixture->keep_mask);
    return hash ^ (key % 2 ? fixture->odd_bits : 0);
}

static inline km_status answer_hashes(void *context, const uint64_t *refs, size_t count,
                                      uint64_t *out_hashes)
{
    struct fixture *fixture = context;

    assert_in_range(count, 1, 32);
    fixture->asked_count += count;
    if (fixture->source_status)
        return fixture->source_status;
    for (size_t i = 0; i < count; i++)
        out_hashes[i] = hash_of(fixture, KEY(refs[i]));
    return KM_OK;
}

static inline int set_up(void **state)
{
    static struct fixture fixture;

    memset(&fixture, 0, sizeof(fixture));
    test_allocator_init(&fixture.allocator);
    km__reclaimer_init(&fixture.reclaimer);
    fixture.hash_seed = mix64(test_seed());
    fixture.keep_mask = UINT64_MAX;
    fixture.common = mix64(test_seed() + 1);
    fixture.source.hashes = answer_hashes;
    fixture.source.context = &fixture;
    assert_int_equal(km__node_pool_create(&fixture.allocator.allocator, &fixture.pool), KM_OK);
    assert_int_equal(km__hash_index_create(&fixture.allocator.allocator, fixture.pool,
                                           &fixture.reclaimer, &fixture.index),
                     KM_OK);
    *state = &fixture;
    return 0;
}

/* A test that failed inside a section left it open, and a grace period would wait for it. */
static inline void leave_sections(void)
{
    while (km__epoch_ongoing())
        km__epoch_leave();
}

/* Everything is given back: to the pool when index and reclaimer end, to the machine by the pool.
 */
static inline int tear_down(void **state)
{
    struct fixture *fixture = *state;

    leave_sections();
    fixture->source_status = KM_OK;
    assert_int_equal(km__hash_index_check(fixture->index, &fixture->source), 0);
    km__hash_index_destroy(fixture->index);
    km__reclaimer_fini(&fixture->reclaimer);
    assert_int_equal(km__node_pool_check(fixture->pool), 0);
    km__node_pool_destroy(fixture->pool);
    assert_int_equal(fixture->allocator.held_bytes, 0);
    assert_int_equal(fixture->allocator.held_pages, 0);
    return 0;
}

static inline void check(struct fixture *fixture)
{
    assert_int_equal(km__hash_index_check(fixture->index, &fixture->source), 0);
}

static inline km_status reserve(struct fixture *fixture, uint64_t ref)
{
    km_status rc;

    km__epoch_enter();
    rc = km__hash_reserve(fixture->index, hash_of(fixture, KEY(ref)), ref, &fixture->source);
    km__epoch_leave();
    return rc;
}

static inline void insert_keys(struct fixture *fixture, uint64_t first, uint64_t end)
{
    for (uint64_t key = first; key < end; key++) {
        assert_int_equal(reserve(fixture, REF(key, 1)), KM_OK);
        if (key % 4096 == 0)
            km__reclaim(&fixture->reclaimer);
    }
}

static inline void remove_key(struct fixture *fixture, uint64_t ref)
{
    km__hash_remove(fixture->index, hash_of(fixture, KEY(ref)), ref, 0);
}

/* How often a probe for the key returns `ref`. */
static inline int times_found(const struct fixture *fixture, uint64_t ref)
{
    struct hash_probe probe;
    uint64_t hash = hash_of(fixture, KEY(ref));
    int count = 0;

    km__hash_prefetch(fixture->index, hash);
    for (uint64_t r = km__hash_first(fixture->index, hash, &probe); r; r = km__hash_next(&probe))
        count += r == ref;
    return count;
}

static inline void assert_keys(const struct fixture *fixture, uint64_t first, uint64_t end)
{
    for (uint64_t key = first; key < end; key++)
        assert_int_equal(times_found(fixture, REF(key, 1)), 1);
}

#endif
