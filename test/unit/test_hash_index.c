/* SPDX-License-Identifier: Apache-2.0
 *
 * test_hash_index.c -- the hash index against what it promises, and against an obvious model.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "unit/hash_fixture.h"

/* ---- single properties */

static void partitions_cover_all_hashes(void **state)
{
    uint32_t widths[HASH_PARTITION_COUNT] = {0};

    (void)state;
    for (uint64_t i = 0; i < 256; i++) {
        uint32_t partition = km__hash_partition(i << 56 | (mix64(i) >> 8));
        assert_in_range(partition, 0, HASH_PARTITION_COUNT - 1);
        widths[partition]++;
    }
    for (uint32_t i = 0; i < HASH_PARTITION_COUNT; i++)
        assert_in_range(widths[i], 4, 8);
}

static void match_agrees_with_portable(void **state)
{
    _Alignas(64) _Atomic uint64_t line[HASH_LINE_SLOTS];
    uint64_t random = test_seed();
    uint32_t seen = 0;

    (void)state;
    for (int step = 0; step < 300000; step++) {
        uint64_t want = random64(&random) & HASH_MATCH_MASK;
        uint32_t expected = 0;

        for (uint32_t i = 0; i < HASH_LINE_SLOTS; i++) {
            uint64_t slot = random64(&random);
            uint64_t kind = random64(&random) % 4;
            if (kind == 0) /* agrees */
                slot = (slot & ~HASH_MATCH_MASK) | want;
            else if (kind == 1) /* all but one bit agrees */
                slot = (slot & ~HASH_MATCH_MASK) | (want ^ UINT64_C(1) << (44 + slot % 19));
            expected |= (uint32_t)(((slot ^ want) & HASH_MATCH_MASK) == 0) << i;
            atomic_store_explicit(&line[i], slot, memory_order_relaxed);
        }
        assert_int_equal(km__hash_match_portable(line, want), expected);
        assert_int_equal(km__hash_match(line, want), expected);
        seen |= expected;
    }
    assert_int_equal(seen, 255);
}

static void reference_is_found_until_removed(void **state)
{
    struct fixture *fixture = *state;
    uint64_t hash = hash_of(fixture, 7);
    struct hash_probe probe;

    assert_int_equal(km__hash_first(fixture->index, hash, &probe), 0);
    assert_int_equal(reserve(fixture, REF(7, 1)), KM_OK);
    assert_int_equal(km__hash_first(fixture->index, hash, &probe), REF(7, 1));
    assert_int_equal(km__hash_next(&probe), 0);
    assert_int_equal(km__hash_count(fixture->index), 1);
    km__hash_replace(fixture->index, hash, REF(7, 1), HASH_REF_MASK - 1, 0);
    assert_int_equal(km__hash_first(fixture->index, hash, &probe), HASH_REF_MASK - 1);
    km__hash_remove(fixture->index, hash, HASH_REF_MASK - 1, 0);
    assert_int_equal(km__hash_first(fixture->index, hash, &probe), 0);
    assert_int_equal(km__hash_count(fixture->index), 0);
}

static void few_keys_take_little_memory(void **state)
{
    struct fixture *fixture = *state;

    assert_true(km__hash_bytes(fixture->index) <= 4096);
    insert_keys(fixture, 0, 16);
    assert_true(km__hash_bytes(fixture->index) < 8192);
}

static void bytes_per_key_stay_near_their_mean(void **state)
{
    struct fixture *fixture = *state;
    uint64_t count = 100000;
    uint64_t inserted = 0;
    double sum = 0;
    int samples = 0;

    while (count <= 800000) {
        double per_key;
        insert_keys(fixture, inserted, count);
        inserted = count;
        per_key = (double)km__hash_bytes(fixture->index) / (double)count;
        assert_true(per_key < 17.0);
        sum += per_key;
        samples++;
        count += count / 50;
    }
    print_message("bytes per key: %.2f\n", sum / samples);
    assert_true(sum / samples < 14.8);
    assert_keys(fixture, 0, 20000);
}

/* Tags serve for several splits: few hashes are asked for, and never more than a node's at once. */
static void growth_rarely_asks_for_hashes(void **state)
{
    struct fixture *fixture = *state;
    uint64_t before = 0;

    for (uint64_t key = 0; key < 600000; key++) {
        insert_keys(fixture, key, key + 1);
        assert_true(fixture->asked_count - before <= HASH_SLOTS_MAX);
        before = fixture->asked_count;
    }
    assert_true(fixture->asked_count > 0);
    assert_true(fixture->asked_count < 300000);
}

static void false_matches_are_rare(void **state)
{
    struct fixture *fixture = *state;
    uint64_t false_count = 0;
    struct hash_probe probe;

    insert_keys(fixture, 0, 200000);
    for (uint64_t key = 1000000; key < 1200000; key++) {
        uint64_t hash = hash_of(fixture, key);
        for (uint64_t r = km__hash_first(fixture->index, hash, &probe); r;
             r = km__hash_next(&probe))
            false_count++;
    }
    assert_true(false_count < 200000 / 20);
}

static double flagged_share(const struct fixture *fixture)
{
    uint64_t flagged_count = 0;
    uint64_t line_count = 0;

    for (uint32_t p = 0; p < HASH_PARTITION_COUNT; p++) {
        struct hash_directory *directory = km__hash_directory(fixture->index, p);
        for (size_t i = 0; directory && i < (size_t)1 << directory->depth; i++) {
            const struct hash_node *node = km__hash_nodes(directory)[i];
            flagged_count += node->flagged_count;
            line_count += UINT64_C(1) << node->line_bits;
        }
    }
    return (double)flagged_count / (double)line_count;
}

/* Keys come and go, their number stays: probes do not get longer and longer. */
static void flags_do_not_pile_up(void **state)
{
    struct fixture *fixture = *state;
    uint64_t count = 100000;
    double share;

    insert_keys(fixture, 0, count);
    for (uint64_t key = 0; key < count * 10; key++) {
        remove_key(fixture, REF(key, 1));
        insert_keys(fixture, key + count, key + count + 1);
    }
    share = flagged_share(fixture);
    print_message("lines flagged: %.2f\n", share);
    assert_true(share < 0.25);
    check(fixture);
}

/* ---- hashes that are no good */

static void equal_hashes_end_in_a_limit(void **state)
{
    struct fixture *fixture = *state;
    uint64_t bytes;

    fixture->keep_mask = 0;
    insert_keys(fixture, 0, 64);
    assert_keys(fixture, 0, 64);
    for (uint64_t key = 64; key < 70; key++)
        assert_int_equal(reserve(fixture, REF(key, 1)), KM_E_LIMIT);
    bytes = km__hash_bytes(fixture->index);
    assert_true(bytes < 512 << 10);
    assert_int_equal(reserve(fixture, REF(70, 1)), KM_E_LIMIT);
    assert_int_equal(km__hash_bytes(fixture->index), bytes);
    assert_int_equal(km__hash_count(fixture->index), 64);
    assert_keys(fixture, 0, 64);
    check(fixture);
    remove_key(fixture, REF(3, 1));
    assert_int_equal(reserve(fixture, REF(99, 1)), KM_OK);
}

static void hashes_alike_in_40_bits_end_in_a_limit(void **state)
{
    struct fixture *fixture = *state;
    uint64_t refused = 0;

    fixture->keep_mask = UINT64_MAX >> 40;
    for (uint64_t key = 0; key < 2000; key++) {
        km_status rc = reserve(fixture, REF(key, 1));
        assert_true(rc == KM_OK || rc == KM_E_LIMIT);
        refused += rc == KM_E_LIMIT;
        if (rc)
            assert_int_equal(times_found(fixture, REF(key, 1)), 0);
    }
    assert_in_range(refused, 1000, 1936);
    assert_int_equal(km__hash_count(fixture->index), 2000 - refused);
    assert_true(km__hash_bytes(fixture->index) < 1 << 20);
    check(fixture);
    fixture->keep_mask = UINT64_MAX; /* their company suffers nothing */
    km__hash_clear_partition(fixture->index, km__hash_partition(fixture->common));
    insert_keys(fixture, 10000, 30000);
    assert_keys(fixture, 10000, 30000);
}

static void hashes_alike_in_20_bits_are_told_apart(void **state)
{
    struct fixture *fixture = *state;

    for (int round = 0; round < 32; round++) {
        fixture->hash_seed++;
        fixture->keep_mask = UINT64_MAX >> (13 + round % 8);
        insert_keys(fixture, 0, 2000);
        assert_keys(fixture, 0, 2000);
        assert_true(km__hash_bytes(fixture->index) < 1 << 20);
        check(fixture);
        km__hash_clear_partition(fixture->index, km__hash_partition(fixture->common));
    }
}

/*
 * Two hashes, of even and of odd keys, that differ in three bits only. In the largest first node
 * their homes are 1 line apart and share one line of their windows: 120 slots. With one more bit
 * they are 3 lines apart, with two 7, and share two lines: 112 slots. With three it is 14 lines,
 * and one line again.
 */
static void crammed_hashes_are_told_apart(void **state)
{
    struct fixture *fixture = *state;

    fixture->keep_mask = 0;
    fixture->odd_bits = UINT64_C(7) << (63 - 8 - HASH_LINE_BITS_MAX - 1);
    fixture->common &= ~fixture->odd_bits;
    for (uint64_t i = 0; i < 120; i++) { /* even ones first: they fill the shared line */
        uint64_t key = i < 60 ? 2 * i : 2 * (i - 60) + 1;
        assert_int_equal(reserve(fixture, REF(key, 1)), KM_OK);
        check(fixture);
    }
    assert_keys(fixture, 0, 120);
    assert_true(km__hash_bytes(fixture->index) < 256 << 10);
}

/* ---- failures */

static void failed_allocation_changes_nothing(void **state)
{
    struct fixture *fixture = *state;
    uint64_t failures = 0;

    for (uint64_t key = 0; key < 60000; key++) {
        km_status rc;

        fixture->allocator.calls_left = 0; /* the pool's rest ends anywhere, in a split too */
        rc = reserve(fixture, REF(key, 1));
        fixture->allocator.calls_left = -1;
        if (rc) {
            assert_int_equal(rc, KM_E_NO_MEMORY);
            assert_int_equal(times_found(fixture, REF(key, 1)), 0);
            assert_int_equal(km__hash_count(fixture->index), key);
            if (failures++ % 8 == 0)
                check(fixture);
            insert_keys(fixture, key, key + 1);
        }
    }
    assert_true(failures > 0);
    assert_keys(fixture, 0, 60000);
}

/* With nothing to be had any more, slots that are free go on serving. */
static void short_memory_fills_what_is_there(void **state)
{
    struct fixture *fixture = *state;
    uint64_t key = 20000;
    uint64_t failures = 0;

    insert_keys(fixture, 0, key);
    fixture->allocator.calls_left = 0;
    while (failures < 3000) { /* ends: memory does */
        km_status rc = reserve(fixture, REF(key, 1));
        failures += rc != KM_OK;
        if (rc)
            assert_int_equal(rc, KM_E_NO_MEMORY);
        else
            assert_int_equal(times_found(fixture, REF(key, 1)), 1);
        key++;
    }
    assert_keys(fixture, 0, 20000);
    check(fixture);
    fixture->allocator.calls_left = -1;
    insert_keys(fixture, key, key + 20000);
    assert_keys(fixture, key, key + 20000);
}

/* Insert until the index asks the source for hashes, whose answer is not good. */
static uint64_t insert_until_refused(struct fixture *fixture, km_status *out_status)
{
    uint64_t key = 0;

    do { /* ends: tags run out */
        *out_status = reserve(fixture, REF(key, 1));
        key++;
    } while (*out_status == KM_OK && key < 2000000);
    return key - 1;
}

static void error_of_the_source_changes_nothing(void **state)
{
    struct fixture *fixture = *state;
    km_status rc;
    uint64_t key;

    fixture->source_status = KM_E_IO;
    key = insert_until_refused(fixture, &rc);
    assert_int_equal(rc, KM_E_IO);
    assert_int_equal(km__hash_count(fixture->index), key);
    assert_int_equal(times_found(fixture, REF(key, 1)), 0);
    fixture->source_status = KM_OK;
    check(fixture);
    assert_keys(fixture, 0, key);
    insert_keys(fixture, key, key + 1000);
}

static km_status answer_wrong_hashes(void *context, const uint64_t *refs, size_t count,
                                     uint64_t *out_hashes)
{
    km_status rc = answer_hashes(context, refs, count, out_hashes);

    out_hashes[count - 1] ^= ((struct fixture *)context)->wrong_bits;
    return rc;
}

static void source_that_contradicts_is_corruption(void **state)
{
    struct fixture *fixture = *state;
    km_status rc;
    uint64_t key;

    fixture->source.hashes = answer_wrong_hashes;
    fixture->wrong_bits = UINT64_C(1) << 40; /* the last one that a slot still knows */
    key = insert_until_refused(fixture, &rc);
    assert_int_equal(rc, KM_E_CORRUPT);
    fixture->wrong_bits = UINT64_C(1) << 55; /* the first one of the partition's own */
    assert_int_equal(reserve(fixture, REF(key, 1)), KM_E_CORRUPT);
    fixture->wrong_bits = UINT64_C(1) << 60; /* one of the partition */
    assert_int_equal(reserve(fixture, REF(key, 1)), KM_E_CORRUPT);
    fixture->source.hashes = answer_hashes;
    check(fixture);
    assert_keys(fixture, 0, key);
    insert_keys(fixture, key, key + 1);
}

/* ---- walks */

/* Walk to the end and count how often each key comes; keys are below `key_end`. */
static size_t walk_on(struct fixture *fixture, struct hash_walk *walk, uint8_t *times,
                      uint64_t key_end, size_t node_max)
{
    static uint64_t refs[HASH_SLOTS_MAX];
    size_t total = 0;

    for (size_t nodes = 0; nodes < node_max; nodes++) {
        int is_end = -1;
        size_t count = SIZE_MAX;

        assert_int_equal(km__hash_walk_next(fixture->index, walk, refs, &count, &is_end), KM_OK);
        if (is_end) {
            assert_int_equal(is_end, 1);
            assert_int_equal(count, 0);
            break;
        }
        for (size_t i = 0; i < count; i++) {
            assert_true(KEY(refs[i]) < key_end);
            times[KEY(refs[i])]++;
        }
        total += count;
    }
    return total;
}

static void walk_survives_splits(void **state)
{
    enum { STAY = 30000, ALL = 400000 };
    struct fixture *fixture = *state;
    uint8_t *times = calloc(ALL, 1);
    struct hash_walk walk = {0};
    uint64_t end = STAY;

    assert_int_equal(walk_on(fixture, &walk, times, ALL, SIZE_MAX), 0);
    memset(&walk, 0, sizeof(walk));
    insert_keys(fixture, 0, STAY);
    while (end < ALL && walk.partition < HASH_PARTITION_COUNT) {
        walk_on(fixture, &walk, times, ALL, 1);
        insert_keys(fixture, end, end + 2000);
        end += 2000;
        for (uint64_t key = end % 10; key < STAY; key += 10) { /* replaced, and replaced back */
            uint64_t hash = hash_of(fixture, key);
            km__hash_replace(fixture->index, hash, REF(key, 1), REF(key, 2), 0);
            km__hash_replace(fixture->index, hash, REF(key, 2), REF(key, 1), 0);
        }
    }
    walk_on(fixture, &walk, times, ALL, SIZE_MAX);
    for (uint64_t key = 0; key < STAY; key++)
        assert_int_equal(times[key], 1);
    for (uint64_t key = STAY; key < ALL; key++)
        assert_in_range(times[key], 0, 1);
    free(times);
}

static void walk_survives_clearing(void **state)
{
    enum { COUNT = 400000 };
    struct fixture *fixture = *state;
    uint8_t *times = calloc(COUNT, 1);
    struct hash_walk walk = {0};
    uint32_t cleared;

    insert_keys(fixture, 0, COUNT);
    do { /* ends in the middle of a partition that has several nodes: the last ones are wide */
        walk_on(fixture, &walk, times, COUNT, 1);
    } while (walk.prefix == 0 && walk.partition < HASH_PARTITION_COUNT);
    assert_true(walk.prefix != 0);
    cleared = walk.partition;
    km__hash_clear_partition(fixture->index, cleared);
    for (uint64_t key = 0; key < 20000; key++) {
        if (km__hash_partition(hash_of(fixture, key)) == cleared)
            insert_keys(fixture, key, key + 1);
    }
    walk_on(fixture, &walk, times, COUNT, SIZE_MAX);
    for (uint64_t key = 0; key < COUNT; key++) {
        if (km__hash_partition(hash_of(fixture, key)) != cleared)
            assert_int_equal(times[key], 1);
    }
    free(times);
}

static void cleared_index_gives_its_memory_back(void **state)
{
    struct fixture *fixture = *state;
    uint64_t empty = km__hash_bytes(fixture->index);
    uint64_t mapped;

    insert_keys(fixture, 0, 300000);
    km__reclaim(&fixture->reclaimer);
    mapped = km__node_pool_bytes(fixture->pool);
    for (int round = 0; round < 3; round++) {
        for (uint32_t p = 0; p < HASH_PARTITION_COUNT; p++) {
            km__hash_clear_partition(fixture->index, p);
            km__hash_clear_partition(fixture->index, p); /* an empty one, too */
        }
        assert_int_equal(km__hash_count(fixture->index), 0);
        assert_int_equal(km__hash_bytes(fixture->index), empty);
        assert_int_equal(times_found(fixture, REF(5, 1)), 0);
        check(fixture);
        km__reclaim(&fixture->reclaimer);
        insert_keys(fixture, 0, 300000);
    }
    assert_true(km__node_pool_bytes(fixture->pool) <= mapped + (4 << 20));
}

/* ---- weights */

typedef void visit_node(struct fixture *fixture, const struct hash_node *node);

static void for_each_node(struct fixture *fixture, visit_node *visit)
{
    for (uint32_t p = 0; p < HASH_PARTITION_COUNT; p++) {
        struct hash_directory *directory = km__hash_directory(fixture->index, p);
        size_t i = 0;

        while (directory && i < (size_t)1 << directory->depth) {
            const struct hash_node *node = km__hash_nodes(directory)[i];
            visit(fixture, node);
            i += (size_t)1 << (directory->depth - node->depth);
        }
    }
}

static void weighs_1000_each(struct fixture *fixture, const struct hash_node *node)
{
    (void)fixture;
    assert_int_equal(node->weight, 1000 * (uint64_t)node->count);
}

/* Equal weights: then the estimates are exact, through growth, splits and tidying up. */
static void halves_share_weight_by_count(void **state)
{
    struct fixture *fixture = *state;

    for (uint64_t key = 0; key < 200000; key++) {
        uint64_t hash = hash_of(fixture, key);

        assert_int_equal(reserve(fixture, REF(key, 1)), KM_OK);
        km__hash_replace(fixture->index, hash, REF(key, 1), REF(key, 2), 1000);
        if (key >= 100000)
            km__hash_remove(fixture->index, hash_of(fixture, key - 100000), REF(key - 100000, 2),
                            1000);
    }
    for_each_node(fixture, weighs_1000_each);
    assert_int_equal(km__hash_weight(fixture->index), 100000 * 1000);
    check(fixture);
}

/* Whatever callers tell, and however wrong the estimates become. */
static void sum_of_weights_is_exact(void **state)
{
    struct fixture *fixture = *state;
    uint64_t random = test_seed();
    uint64_t sum = 0;

    for (uint64_t key = 0; key < 100000; key++) {
        uint64_t shift = random64(&random) % 64;
        uint64_t weight = random64(&random) >> shift;

        assert_int_equal(reserve(fixture, REF(key, 1)), KM_OK);
        assert_int_equal(km__hash_weight(fixture->index), sum);
        km__hash_replace(fixture->index, hash_of(fixture, key), REF(key, 1), REF(key, 2),
                         (int64_t)weight);
        sum += weight;
        if (key % 3 == 0) {
            km__hash_remove(fixture->index, hash_of(fixture, key), REF(key, 2), weight / 2);
            sum -= weight / 2;
        }
    }
    assert_int_equal(km__hash_weight(fixture->index), sum);
    check(fixture);
    for (uint32_t p = 0; p < HASH_PARTITION_COUNT; p++)
        km__hash_clear_partition(fixture->index, p);
    assert_int_equal(km__hash_weight(fixture->index), 0);
}

/* ---- the model */

#define MODEL_KEYS 150000u

struct model {
    struct fixture *fixture;
    uint64_t random;
    uint64_t count;
    uint64_t weight;
    uint32_t version[MODEL_KEYS]; /* 0: not there */
    uint32_t next_version;
};

/* So that weights differ, and change when a reference is replaced. */
static uint64_t weight_of(uint64_t ref)
{
    return ref ? 1 + mix64(ref) % 10000 : 0;
}

static void model_put(struct model *model, uint64_t key)
{
    struct fixture *fixture = model->fixture;
    uint64_t hash = hash_of(fixture, key);
    uint32_t version = ++model->next_version & 0xfffff;
    uint32_t old = model->version[key];
    uint64_t weight_change = weight_of(REF(key, version)) - (old ? weight_of(REF(key, old)) : 0);

    if (version == 0 || version == old)
        return;
    if (old == 0) {
        assert_int_equal(reserve(fixture, REF(key, 0xfffff)), KM_OK);
        old = 0xfffff;
        model->count++;
    }
    km__hash_replace(fixture->index, hash, REF(key, old), REF(key, version),
                     (int64_t)weight_change);
    model->version[key] = version;
    model->weight += weight_change;
}

static void model_remove(struct model *model, uint64_t key)
{
    uint64_t ref = REF(key, model->version[key]);

    if (model->version[key] == 0)
        return;
    km__hash_remove(model->fixture->index, hash_of(model->fixture, key), ref, weight_of(ref));
    model->version[key] = 0;
    model->weight -= weight_of(ref);
    model->count--;
}

/* The probe returns the key's reference, once, and no other of the key's. */
static void model_look(struct model *model, uint64_t key)
{
    struct fixture *fixture = model->fixture;
    struct hash_probe probe;
    uint64_t found = 0;

    for (uint64_t r = km__hash_first(fixture->index, hash_of(fixture, key), &probe); r;
         r = km__hash_next(&probe)) {
        if (KEY(r) != key)
            continue;
        assert_int_equal(found, 0);
        found = r;
    }
    assert_int_equal(found, model->version[key] ? REF(key, model->version[key]) : 0);
}

static void model_clear(struct model *model, uint32_t partition)
{
    km__hash_clear_partition(model->fixture->index, partition);
    for (uint64_t key = 0; key < MODEL_KEYS; key++) {
        if (model->version[key] && km__hash_partition(hash_of(model->fixture, key)) == partition) {
            model->weight -= weight_of(REF(key, model->version[key]));
            model->version[key] = 0;
            model->count--;
        }
    }
}

static void model_compare(struct model *model)
{
    static uint8_t times[MODEL_KEYS];
    struct hash_walk walk = {0};

    check(model->fixture);
    assert_int_equal(km__hash_count(model->fixture->index), model->count);
    assert_int_equal(km__hash_weight(model->fixture->index), model->weight);
    memset(times, 0, sizeof(times));
    assert_int_equal(walk_on(model->fixture, &walk, times, MODEL_KEYS, SIZE_MAX), model->count);
    for (uint64_t key = 0; key < MODEL_KEYS; key++) {
        assert_int_equal(times[key], model->version[key] != 0);
        model_look(model, key);
    }
}

/* Phases of growing, shrinking and standing still, so that nodes split, get tidied and empty. */
static void random_operations_agree_with_a_model(void **state)
{
    static struct model model;
    uint64_t steps = 3000000;

    memset(&model, 0, sizeof(model));
    model.fixture = *state;
    model.random = test_seed();
    for (uint64_t step = 0; step < steps; step++) {
        uint64_t dice = random64(&model.random) % 100;
        uint64_t key = random64(&model.random) % MODEL_KEYS;
        uint64_t put_share = (uint64_t[]){60, 15, 35}[step / 100000 % 3];

        if (dice < put_share)
            model_put(&model, key);
        else if (dice < 70)
            model_remove(&model, key);
        else
            model_look(&model, key);
        if (step % 5000 == 0)
            km__reclaim(&model.fixture->reclaimer);
        if (step % 400000 == 0)
            model_clear(&model, (uint32_t)(key % HASH_PARTITION_COUNT));
        if (step % 250000 == 0)
            model_compare(&model);
    }
    model_compare(&model);
}

#define INDEX_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(partitions_cover_all_hashes),
        cmocka_unit_test(match_agrees_with_portable),
        INDEX_TEST(reference_is_found_until_removed),
        INDEX_TEST(few_keys_take_little_memory),
        INDEX_TEST(bytes_per_key_stay_near_their_mean),
        INDEX_TEST(growth_rarely_asks_for_hashes),
        INDEX_TEST(false_matches_are_rare),
        INDEX_TEST(flags_do_not_pile_up),
        INDEX_TEST(equal_hashes_end_in_a_limit),
        INDEX_TEST(hashes_alike_in_40_bits_end_in_a_limit),
        INDEX_TEST(hashes_alike_in_20_bits_are_told_apart),
        INDEX_TEST(crammed_hashes_are_told_apart),
        INDEX_TEST(failed_allocation_changes_nothing),
        INDEX_TEST(short_memory_fills_what_is_there),
        INDEX_TEST(error_of_the_source_changes_nothing),
        INDEX_TEST(source_that_contradicts_is_corruption),
        INDEX_TEST(walk_survives_splits),
        INDEX_TEST(walk_survives_clearing),
        INDEX_TEST(cleared_index_gives_its_memory_back),
        INDEX_TEST(halves_share_weight_by_count),
        INDEX_TEST(sum_of_weights_is_exact),
        INDEX_TEST(random_operations_agree_with_a_model),
    };

    test_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
