/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_index_util.h -- what the tests of the index share: randomness, an allocator that can fail,
 * and keys whose hashes are known.
 */
#ifndef KM_TEST_UNIT_HASH_INDEX_UTIL_H
#define KM_TEST_UNIT_HASH_INDEX_UTIL_H

#include <inttypes.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "base/alloc.h"
#include "keepmap/keepmap.h"

/* ---- randomness */

static inline uint64_t mix64(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static inline uint64_t random64(uint64_t *random)
{
    return mix64((*random)++);
}

/* The program's seed, from SEED or the clock; printed once. */
static inline uint64_t test_seed(void)
{
    static uint64_t seed;
    static int is_set;

    if (!is_set) {
        const char *text = getenv("SEED");
        seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL) * 1000003u + (uint64_t)clock();
        is_set = 1;
        printf("SEED=%" PRIu64 "\n", seed);
        fflush(stdout);
    }
    return seed;
}

/* ---- an allocator that counts, and fails its Nth call if asked to */

struct test_allocator {
    struct allocator allocator; /* first */
    _Atomic int64_t held_bytes;
    _Atomic int64_t held_pages;
    int64_t calls_left; /* until one fails and all after it; negative: none */
};

static inline int test_allocator_fails(struct test_allocator *test)
{
    if (test->calls_left < 0)
        return 0;
    if (test->calls_left == 0)
        return 1;
    test->calls_left--;
    return 0;
}

static inline void *test_allocate(void *context, size_t size)
{
    struct test_allocator *test = context;

    if (test_allocator_fails(test))
        return NULL;
    atomic_fetch_add_explicit(&test->held_bytes, (int64_t)size, memory_order_relaxed);
    return calloc(1, size);
}

static inline void test_release(void *context, void *memory, size_t size)
{
    struct test_allocator *test = context;

    if (memory)
        atomic_fetch_sub_explicit(&test->held_bytes, (int64_t)size, memory_order_relaxed);
    free(memory);
}

static inline void *test_map_pages(void *context, size_t size)
{
    struct test_allocator *test = context;
    size_t unit = size >= (size_t)2 << 20 ? (size_t)2 << 20 : 4096;
    void *raw;
    uintptr_t start;

    if (test_allocator_fails(test))
        return NULL;
    raw = mmap(NULL, size + unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED)
        return NULL;
    start = ((uintptr_t)raw + unit - 1) & ~(unit - 1);
    if (start != (uintptr_t)raw)
        munmap(raw, start - (uintptr_t)raw);
    if (start - (uintptr_t)raw != unit)
        munmap((void *)(start + size), (uintptr_t)raw + unit - start);
    atomic_fetch_add_explicit(&test->held_pages, (int64_t)size, memory_order_relaxed);
    return (void *)start;
}

static inline void test_unmap_pages(void *context, void *memory, size_t size)
{
    struct test_allocator *test = context;

    atomic_fetch_sub_explicit(&test->held_pages, (int64_t)size, memory_order_relaxed);
    munmap(memory, size);
}

static inline void test_allocator_init(struct test_allocator *test)
{
    test->allocator.context = test;
    test->allocator.allocate = test_allocate;
    test->allocator.release = test_release;
    test->allocator.map_pages = test_map_pages;
    test->allocator.unmap_pages = test_unmap_pages;
    test->calls_left = -1;
    atomic_init(&test->held_bytes, 0);
    atomic_init(&test->held_pages, 0);
}

#endif
