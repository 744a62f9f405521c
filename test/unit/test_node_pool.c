/* SPDX-License-Identifier: Apache-2.0
 *
 * test_node_pool.c -- blocks of the node pool.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "index/node_pool.h"
#include "unit/hash_index_util.h"

struct fixture {
    struct test_allocator allocator;
    struct node_pool *pool;
};

static int set_up(void **state)
{
    static struct fixture fixture;

    test_allocator_init(&fixture.allocator);
    assert_int_equal(km__node_pool_create(&fixture.allocator.allocator, &fixture.pool), KM_OK);
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(km__node_pool_check(fixture->pool), 0);
    km__node_pool_destroy(fixture->pool);
    assert_int_equal(fixture->allocator.held_bytes, 0);
    assert_int_equal(fixture->allocator.held_pages, 0);
    return 0;
}

static int is_zero(const uint8_t *block, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (block[i])
            return 0;
    }
    return 1;
}

static void blocks_are_aligned_zeroed_and_apart(void **state)
{
    enum { COUNT = 3000 };
    struct fixture *fixture = *state;
    static uint8_t *blocks[COUNT];
    static size_t sizes[COUNT];
    uint64_t random = test_seed();

    memset(blocks, 0, sizeof(blocks));
    for (int step = 0; step < 60000; step++) {
        size_t i = random64(&random) % COUNT;

        if (blocks[i]) { /* nobody else wrote into it */
            for (size_t at = 0; at < sizes[i]; at += 64)
                assert_int_equal(blocks[i][at], (uint8_t)i | 1);
            memset(blocks[i], 0xee, sizes[i]);
            km__node_pool_release(fixture->pool, blocks[i], sizes[i]);
            blocks[i] = NULL;
            continue;
        }
        sizes[i] = (size_t)64 << random64(&random) % 10;
        blocks[i] = km__node_pool_allocate(fixture->pool, sizes[i]);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % sizes[i], 0);
        assert_true(is_zero(blocks[i], sizes[i]));
        memset(blocks[i], (int)(uint8_t)i | 1, sizes[i]);
        if (step % 5000 == 0)
            assert_int_equal(km__node_pool_check(fixture->pool), 0);
    }
}

/* What small blocks gave back serves large ones: nothing new is mapped. */
static void released_blocks_join(void **state)
{
    enum { COUNT = 20000 };
    struct fixture *fixture = *state;
    static void *blocks[COUNT];
    uint64_t mapped;
    size_t large_count;

    for (size_t i = 0; i < COUNT; i++) {
        blocks[i] = km__node_pool_allocate(fixture->pool, 64);
        assert_non_null(blocks[i]);
    }
    mapped = km__node_pool_bytes(fixture->pool);
    for (size_t i = 0; i < COUNT; i++)
        km__node_pool_release(fixture->pool, blocks[(i * 7919) % COUNT], 64);
    assert_int_equal(km__node_pool_check(fixture->pool), 0);
    large_count = COUNT * 64 / NODE_POOL_BLOCK_MAX;
    for (size_t i = 0; i < large_count; i++)
        assert_non_null(km__node_pool_allocate(fixture->pool, NODE_POOL_BLOCK_MAX));
    assert_int_equal(km__node_pool_bytes(fixture->pool), mapped);
}

static void pool_begins_small_and_maps_what_it_says(void **state)
{
    struct fixture *fixture = *state;
    uint64_t asked = 0;

    assert_int_equal(km__node_pool_bytes(fixture->pool), 0);
    assert_non_null(km__node_pool_allocate(fixture->pool, 64));
    assert_int_equal(km__node_pool_bytes(fixture->pool), 64 << 10);
    while (asked < 20 << 20) {
        assert_non_null(km__node_pool_allocate(fixture->pool, NODE_POOL_BLOCK_MAX));
        asked += NODE_POOL_BLOCK_MAX;
        assert_int_equal(km__node_pool_bytes(fixture->pool), fixture->allocator.held_pages);
    }
    assert_true(km__node_pool_bytes(fixture->pool) < asked + (3 << 20));
}

static void prepared_chunk_is_used(void **state)
{
    struct fixture *fixture = *state;
    uint64_t mapped;

    km__node_pool_prepare(fixture->pool);
    mapped = km__node_pool_bytes(fixture->pool);
    assert_true(mapped > 0);
    km__node_pool_prepare(fixture->pool); /* one is ready */
    assert_int_equal(km__node_pool_bytes(fixture->pool), mapped);
    fixture->allocator.calls_left = 0;
    assert_non_null(km__node_pool_allocate(fixture->pool, NODE_POOL_BLOCK_MAX));
    km__node_pool_prepare(fixture->pool); /* no memory: no harm */
    assert_int_equal(km__node_pool_bytes(fixture->pool), mapped);
    fixture->allocator.calls_left = -1;
    km__node_pool_prepare(fixture->pool);
    assert_true(km__node_pool_bytes(fixture->pool) > mapped);
}

static void no_memory_is_an_answer(void **state)
{
    struct fixture *fixture = *state;
    struct node_pool *pool = NULL;
    size_t count = 0;

    fixture->allocator.calls_left = 0;
    assert_int_equal(km__node_pool_create(&fixture->allocator.allocator, &pool), KM_E_NO_MEMORY);
    assert_null(pool);
    assert_null(km__node_pool_allocate(fixture->pool, 64));
    fixture->allocator.calls_left = 1;
    while (km__node_pool_allocate(fixture->pool, 4096)) /* ends: a single chunk */
        count++;
    assert_in_range(count, 12, 16);
    assert_int_equal(km__node_pool_check(fixture->pool), 0);
    fixture->allocator.calls_left = -1;
    assert_non_null(km__node_pool_allocate(fixture->pool, 4096));
    km__node_pool_destroy(NULL);
}

struct worker {
    struct node_pool *pool;
    uint64_t random;
    int failed;
};

static void *work(void *context)
{
    struct worker *worker = context;
    uint64_t *blocks[64] = {0};
    size_t sizes[64];

    for (int step = 0; step < 20000; step++) {
        size_t i = random64(&worker->random) % 64;

        if (step % 1000 == 0)
            km__node_pool_prepare(worker->pool);
        if (blocks[i]) {
            worker->failed |= *blocks[i] != (uintptr_t)&blocks[i];
            km__node_pool_release(worker->pool, blocks[i], sizes[i]);
            blocks[i] = NULL;
            continue;
        }
        sizes[i] = (size_t)64 << random64(&worker->random) % 8;
        blocks[i] = km__node_pool_allocate(worker->pool, sizes[i]);
        worker->failed |= *blocks[i] != 0;
        *blocks[i] = (uintptr_t)&blocks[i];
    }
    return NULL;
}

static void threads_share_a_pool(void **state)
{
    struct fixture *fixture = *state;
    struct worker workers[3];
    pthread_t threads[3];

    for (size_t i = 0; i < 3; i++) {
        workers[i] = (struct worker){fixture->pool, test_seed() + (i << 40), 0};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(workers[i].failed, 0);
    }
}

#define POOL_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        POOL_TEST(blocks_are_aligned_zeroed_and_apart),
        POOL_TEST(released_blocks_join),
        POOL_TEST(pool_begins_small_and_maps_what_it_says),
        POOL_TEST(prepared_chunk_is_used),
        POOL_TEST(no_memory_is_an_answer),
        POOL_TEST(threads_share_a_pool),
    };

    test_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
