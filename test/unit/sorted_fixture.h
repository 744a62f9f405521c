/* SPDX-License-Identifier: Apache-2.0
 *
 * sorted_fixture.h -- a sorted tree for one test, beside an obvious model: all keys of a test in
 * order, and for each what the tree should hold; to be included after cmocka.h.
 */
#ifndef KM_TEST_UNIT_SORTED_FIXTURE_H
#define KM_TEST_UNIT_SORTED_FIXTURE_H

#include <string.h>

#include "index/node_pool.h"
#include "index/sorted_tree_internal.h"
#include "unit/hash_index_util.h"

/* A reference is a key's number in byte order and a version, which is not 0. */
#define RANK_BITS 24
#define REF(rank, version) ((uint64_t)(version) << RANK_BITS | (rank))
#define RANK(ref) ((size_t)((ref) & ((UINT64_C(1) << RANK_BITS) - 1)))

struct model_key {
    uint8_t *data;
    size_t size;
    uint64_t ref; /* 0: not there */
    struct sorted_pending *pending;
};

struct fixture {
    struct test_allocator allocator;
    struct reclaimer reclaimer;
    struct node_pool *pool;
    struct sorted_tree *tree;
    struct sorted_source source;
    struct model_key *keys; /* in order, without duplicates */
    size_t key_count;
    size_t key_capacity;
    uint64_t present_count;
    uint64_t weight;
    uint64_t random;
    uint64_t asked_count;
    uint64_t source_calls_left; /* before it fails */
    km_status source_status;
    uint32_t version;
};

static inline km_bytes bytes_of(const struct model_key *key)
{
    return (km_bytes){key->data, key->size};
}

static inline km_status answer_key(void *context, uint64_t ref, km_bytes *out_key)
{
    struct fixture *fixture = context;

    assert_true(ref != 0 && !(ref & SORTED_PENDING));
    assert_in_range(RANK(ref), 0, fixture->key_count - 1);
    fixture->asked_count++;
    if (fixture->source_status && fixture->source_calls_left-- == 0) {
        fixture->source_calls_left = 0;
        return fixture->source_status;
    }
    *out_key = bytes_of(&fixture->keys[RANK(ref)]);
    return KM_OK;
}

static inline void ignore_prefetch(void *context, uint64_t ref)
{
    (void)context;
    (void)ref;
}

static inline int set_up(void **state)
{
    static struct fixture fixture;

    memset(&fixture, 0, sizeof(fixture));
    test_allocator_init(&fixture.allocator);
    km__reclaimer_init(&fixture.reclaimer);
    fixture.random = mix64(test_seed());
    fixture.source.key = answer_key;
    fixture.source.prefetch = ignore_prefetch;
    fixture.source.context = &fixture;
    assert_int_equal(km__node_pool_create(&fixture.allocator.allocator, &fixture.pool), KM_OK);
    assert_int_equal(km__sorted_create(&fixture.allocator.allocator, fixture.pool,
                                       &fixture.reclaimer, &fixture.source, &fixture.tree),
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

static inline void free_keys(struct fixture *fixture)
{
    for (size_t i = 0; i < fixture->key_count; i++) {
        free(fixture->keys[i].data);
        free(fixture->keys[i].pending);
    }
    free(fixture->keys);
    fixture->keys = NULL;
    fixture->key_count = fixture->key_capacity = 0;
}

/* Everything is given back. */
static inline int tear_down(void **state)
{
    struct fixture *fixture = *state;

    leave_sections();
    fixture->source_status = KM_OK;
    assert_int_equal(km__sorted_check(fixture->tree), 0);
    km__sorted_destroy(fixture->tree);
    km__reclaimer_fini(&fixture->reclaimer);
    assert_int_equal(km__node_pool_check(fixture->pool), 0);
    km__node_pool_destroy(fixture->pool);
    assert_int_equal(fixture->allocator.held_bytes, 0);
    assert_int_equal(fixture->allocator.held_pages, 0);
    free_keys(fixture);
    return 0;
}

/* ---- keys */

static inline void add_key(struct fixture *fixture, const void *data, size_t size)
{
    struct model_key *key;

    if (fixture->key_count == fixture->key_capacity) {
        fixture->key_capacity = fixture->key_capacity ? fixture->key_capacity * 2 : 64;
        fixture->keys = realloc(fixture->keys, fixture->key_capacity * sizeof(fixture->keys[0]));
        assert_non_null(fixture->keys);
    }
    key = &fixture->keys[fixture->key_count++];
    memset(key, 0, sizeof(*key));
    key->data = malloc(size ? size : 1); /* of its size exactly, so that a sanitizer sees more */
    key->size = size;
    memcpy(key->data, data, size);
}

static inline int compare_bytes(km_bytes a, km_bytes b)
{
    size_t size = a.size < b.size ? a.size : b.size;
    int order = size ? memcmp(a.data, b.data, size) : 0;

    return order ? order : (a.size > b.size) - (a.size < b.size);
}

static inline int compare_keys(const void *a, const void *b)
{
    return compare_bytes(bytes_of(a), bytes_of(b));
}

/* Bring the keys that were added in order. */
static inline void sort_keys(struct fixture *fixture)
{
    size_t kept = 0;

    qsort(fixture->keys, fixture->key_count, sizeof(fixture->keys[0]), compare_keys);
    for (size_t i = 0; i < fixture->key_count; i++) {
        if (kept > 0 && compare_keys(&fixture->keys[kept - 1], &fixture->keys[i]) == 0)
            free(fixture->keys[i].data);
        else
            fixture->keys[kept++] = fixture->keys[i];
    }
    fixture->key_count = kept;
}

static inline void add_numbers(struct fixture *fixture, size_t count)
{
    char text[24];

    for (size_t i = 0; i < count; i++) {
        snprintf(text, sizeof(text), "key%013zu", i);
        add_key(fixture, text, 16);
    }
}

/* Where a key is or would be. */
static inline size_t rank_of(const struct fixture *fixture, km_bytes key)
{
    size_t low = 0;
    size_t high = fixture->key_count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (compare_bytes(bytes_of(&fixture->keys[middle]), key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- changes of both */

static inline km_status try_reserve(struct fixture *fixture, size_t rank)
{
    struct model_key *key = &fixture->keys[rank];
    km_status rc;

    key->pending = calloc(1, sizeof(*key->pending));
    key->pending->key = key->data;
    key->pending->key_size = (uint32_t)key->size;
    km__epoch_enter();
    rc = km__sorted_reserve(fixture->tree, key->pending);
    km__epoch_leave();
    if (rc) {
        free(key->pending);
        key->pending = NULL;
    }
    return rc;
}

static inline void end_pending(struct model_key *key)
{
    memset(key->pending, 0xee, sizeof(*key->pending)); /* nobody may look at it any more */
    free(key->pending);
    key->pending = NULL;
}

static inline void fill_key(struct fixture *fixture, size_t rank)
{
    struct model_key *key = &fixture->keys[rank];

    key->ref = REF(rank, ++fixture->version);
    km__epoch_enter();
    km__sorted_fill(fixture->tree, (uint32_t)rank % SORTED_SHARD_COUNT, key->pending, key->ref, 10);
    km__epoch_leave();
    end_pending(key);
    fixture->present_count++;
    fixture->weight += 10;
}

static inline void cancel_key(struct fixture *fixture, size_t rank)
{
    km__epoch_enter();
    km__sorted_cancel(fixture->tree, fixture->keys[rank].pending);
    km__epoch_leave();
    end_pending(&fixture->keys[rank]);
}

static inline void insert_key(struct fixture *fixture, size_t rank)
{
    assert_int_equal(try_reserve(fixture, rank), KM_OK);
    fill_key(fixture, rank);
}

static inline void replace_key(struct fixture *fixture, size_t rank)
{
    struct model_key *key = &fixture->keys[rank];
    uint64_t ref = REF(rank, ++fixture->version);

    km__epoch_enter();
    km__sorted_replace(fixture->tree, (uint32_t)(rank + 1) % SORTED_SHARD_COUNT, bytes_of(key),
                       key->ref, ref, -1);
    km__epoch_leave();
    key->ref = ref;
    fixture->weight--;
}

static inline void remove_key(struct fixture *fixture, size_t rank)
{
    struct model_key *key = &fixture->keys[rank];

    km__epoch_enter();
    km__sorted_remove(fixture->tree, (uint32_t)(rank + 2) % SORTED_SHARD_COUNT, bytes_of(key),
                      key->ref, 3);
    km__epoch_leave();
    key->ref = 0;
    fixture->present_count--;
    fixture->weight -= 3;
}

static inline void insert_all(struct fixture *fixture)
{
    for (size_t i = 0; i < fixture->key_count; i++)
        insert_key(fixture, i);
}

/* ---- questions to both */

static inline void check(struct fixture *fixture)
{
    assert_int_equal(km__sorted_check(fixture->tree), 0);
    assert_int_equal(km__sorted_count(fixture->tree), fixture->present_count);
    assert_int_equal(km__sorted_weight(fixture->tree), fixture->weight);
}

static inline void check_find(struct fixture *fixture, km_bytes key)
{
    size_t rank = rank_of(fixture, key);
    uint64_t ref = 0;
    uint64_t expected = 0;
    km_status rc;

    if (rank < fixture->key_count && compare_bytes(bytes_of(&fixture->keys[rank]), key) == 0)
        expected = fixture->keys[rank].ref;
    km__epoch_enter();
    km__sorted_prefetch(fixture->tree, key);
    rc = km__sorted_find(fixture->tree, key, &ref);
    km__epoch_leave();
    assert_int_equal(rc, expected ? KM_OK : KM_NOT_FOUND);
    assert_int_equal(ref, expected);
}

static inline void check_finds(struct fixture *fixture)
{
    for (size_t i = 0; i < fixture->key_count; i++)
        check_find(fixture, bytes_of(&fixture->keys[i]));
}

/* The first rank at or above a lower bound, or one that is not below an upper one. */
static inline size_t rank_of_bound(const struct fixture *fixture, struct sorted_bound bound)
{
    size_t rank = rank_of(fixture, bound.key);

    if (bound.is_exclusive && rank < fixture->key_count &&
        compare_bytes(bytes_of(&fixture->keys[rank]), bound.key) == 0)
        rank++;
    return rank;
}

/* What was read is what the model has, as far as it goes, and is not nothing without need. */
static inline void check_read_up(struct fixture *fixture, struct sorted_bound from, size_t max)
{
    uint64_t *refs = malloc(max * sizeof(*refs));
    size_t rank = from.is_set ? rank_of_bound(fixture, from) : 0;
    size_t count = SIZE_MAX;
    size_t seen = 0;

    km__epoch_enter();
    assert_int_equal(km__sorted_read_up(fixture->tree, from, refs, max, &count), KM_OK);
    km__epoch_leave();
    assert_true(count <= max);
    for (; rank < fixture->key_count && seen < (count ? count : 1); rank++) {
        if (!fixture->keys[rank].ref)
            continue;
        assert_true(count > 0);
        assert_int_equal(refs[seen++], fixture->keys[rank].ref);
    }
    assert_int_equal(seen, count);
    free(refs);
}

static inline void check_read_down(struct fixture *fixture, struct sorted_bound from, size_t max)
{
    uint64_t *refs = malloc(max * sizeof(*refs));
    size_t rank = fixture->key_count;
    size_t count = SIZE_MAX;
    size_t seen = 0;

    if (from.is_set) {
        struct sorted_bound above = from;
        above.is_exclusive = !from.is_exclusive;
        rank = rank_of_bound(fixture, above);
    }
    km__epoch_enter();
    assert_int_equal(km__sorted_read_down(fixture->tree, from, refs, max, &count), KM_OK);
    km__epoch_leave();
    assert_true(count <= max);
    for (; rank > 0 && seen < (count ? count : 1); rank--) {
        if (!fixture->keys[rank - 1].ref)
            continue;
        assert_true(count > 0);
        assert_int_equal(refs[seen++], fixture->keys[rank - 1].ref);
    }
    assert_int_equal(seen, count);
    free(refs);
}

static inline void check_count(struct fixture *fixture, struct sorted_bound from,
                               struct sorted_bound to)
{
    size_t rank = from.is_set ? rank_of_bound(fixture, from) : 0;
    size_t end = to.is_set ? rank_of(fixture, to.key) : fixture->key_count;
    uint64_t expected = 0;
    uint64_t count = UINT64_MAX;

    for (; rank < end; rank++)
        expected += fixture->keys[rank].ref != 0;
    km__epoch_enter();
    assert_int_equal(km__sorted_count_range(fixture->tree, from, to, &count), KM_OK);
    km__epoch_leave();
    assert_int_equal(count, expected);
}

#endif
