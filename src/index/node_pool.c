/* SPDX-License-Identifier: Apache-2.0
 *
 * node_pool.c -- a buddy allocator over a few large chunks.
 *
 * A chunk is a mapping that begins with its own header: a byte for each of its 64-byte units. The
 * first chunk is small, the next ones double up to CHUNK_MAX; from that size on chunks are aligned
 * to their size, so that a block's address tells its chunk. The few smaller ones are searched.
 *
 * I1. The blocks of a chunk, free and in use, cover it behind its header without overlap; each is
 *     aligned to its size.
 * I2. The state byte of a unit is 1 + order of the free block that begins there, else 0. A free
 *     block is in the list of its order, and its first bytes are the list's links.
 * I3. No two free buddies of one chunk below the largest size: release joins them.
 *
 * All under one mutex, except zeroing: it is done by who asked, once the block is his. A new chunk
 * always holds an aligned block of the largest size, whatever page it begins at: CHUNK_MIN is twice
 * that size and the header is smaller than a page. Chunks are unmapped by destroy only.
 */
#include "index/node_pool.h"

#include <stdatomic.h>
#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "sync/mutex.h"

#define POOL_CHUNK_MIN ((size_t)64 << 10)
#define POOL_CHUNK_MAX ((size_t)2 << 20) /* a huge page */
#define POOL_SMALL_COUNT 5               /* chunks below the maximum: 64 KiB to 1 MiB */
#define POOL_ORDER_COUNT 10              /* 64 B << order */
#define POOL_PAGE 4096u

_Static_assert(NODE_POOL_BLOCK_MIN << (POOL_ORDER_COUNT - 1) == NODE_POOL_BLOCK_MAX, "orders");
_Static_assert(POOL_CHUNK_MIN << POOL_SMALL_COUNT == POOL_CHUNK_MAX, "small chunks");
_Static_assert(POOL_CHUNK_MIN == 2 * NODE_POOL_BLOCK_MAX, "holds an aligned block");

struct pool_chunk {
    struct pool_chunk *next;
    size_t size;
    uint8_t state[]; /* one for each NODE_POOL_BLOCK_MIN bytes of the chunk, see I2 */
};

struct pool_block { /* a free one */
    struct pool_block *next;
    struct pool_block *previous;
};

struct node_pool {
    const struct allocator *allocator; /* [c] */
    struct mutex lock;
    struct pool_chunk *chunks;                  /* [w] all but the spare one */
    struct pool_chunk *small[POOL_SMALL_COUNT]; /* [w] those of them below POOL_CHUNK_MAX */
    size_t small_count;                         /* [w] */
    size_t next_size;                           /* [w] of the next chunk to map */
    void *spare;                                /* [w] mapped and touched; NULL if there is none */
    size_t spare_size;                          /* [w] */
    struct pool_block free[POOL_ORDER_COUNT];   /* [w] heads of rings */
    _Atomic uint64_t bytes;                     /* [a] mapped */
};

static uint32_t order_of(size_t size)
{
    uint32_t order = 0;

    KM_ASSERT(size >= NODE_POOL_BLOCK_MIN && size <= NODE_POOL_BLOCK_MAX);
    while ((size_t)NODE_POOL_BLOCK_MIN << order < size) { /* ends: size is at most the largest */
        order++;
    }
    KM_ASSERT((size_t)NODE_POOL_BLOCK_MIN << order == size);
    return order;
}

static struct pool_chunk *chunk_of(const struct node_pool *pool, const void *block)
{
    uintptr_t address = (uintptr_t)block;

    for (size_t i = 0; i < pool->small_count; i++) {
        struct pool_chunk *chunk = pool->small[i];
        if (address - (uintptr_t)chunk < chunk->size)
            return chunk;
    }
    return (struct pool_chunk *)(address & ~((uintptr_t)POOL_CHUNK_MAX - 1));
}

static uint8_t *state_of(struct pool_chunk *chunk, const void *block)
{
    return &chunk->state[((uintptr_t)block - (uintptr_t)chunk) / NODE_POOL_BLOCK_MIN];
}

static void link_block(struct node_pool *pool, struct pool_chunk *chunk, void *memory,
                       uint32_t order)
{
    struct pool_block *block = memory;
    struct pool_block *head = &pool->free[order];

    block->next = head->next;
    block->previous = head;
    head->next->previous = block;
    head->next = block;
    *state_of(chunk, block) = (uint8_t)(order + 1);
}

static void unlink_block(struct pool_chunk *chunk, struct pool_block *block)
{
    block->next->previous = block->previous;
    block->previous->next = block->next;
    *state_of(chunk, block) = 0;
}

/* Cut the bytes behind a new chunk's header into the largest aligned blocks that fit. */
static void carve_chunk(struct node_pool *pool, struct pool_chunk *chunk)
{
    size_t header_size = sizeof(*chunk) + chunk->size / NODE_POOL_BLOCK_MIN;
    uintptr_t end = (uintptr_t)chunk + chunk->size;
    uintptr_t at = (uintptr_t)chunk + km__round_up(header_size, NODE_POOL_BLOCK_MIN);

    while (at < end) { /* ends: each turn moves on by a block, and end is a multiple of a page */
        uint32_t order = POOL_ORDER_COUNT - 1;
        size_t size = NODE_POOL_BLOCK_MAX;

        while (at % size != 0 || end - at < size) { /* ends: at the smallest size both hold */
            order--;
            size /= 2;
        }
        link_block(pool, chunk, (void *)at, order);
        at += size;
    }
}

static void add_chunk(struct node_pool *pool, void *memory, size_t size)
{
    struct pool_chunk *chunk = memory;

    KM_ASSERT((uintptr_t)memory % (size >= POOL_CHUNK_MAX ? size : POOL_PAGE) == 0);
    chunk->size = size;
    chunk->next = pool->chunks;
    pool->chunks = chunk;
    if (size < POOL_CHUNK_MAX) {
        KM_ASSERT(pool->small_count < POOL_SMALL_COUNT);
        pool->small[pool->small_count++] = chunk;
    }
    carve_chunk(pool, chunk);
}

/* Map a chunk of the next size; the size after it is twice as large, up to the maximum. */
static void *map_chunk(struct node_pool *pool, size_t *out_size)
{
    void *memory = km__map_pages(pool->allocator, pool->next_size);

    if (!memory)
        return NULL;
    atomic_fetch_add_explicit(&pool->bytes, pool->next_size, memory_order_relaxed);
    *out_size = pool->next_size;
    if (pool->next_size < POOL_CHUNK_MAX)
        pool->next_size *= 2;
    return memory;
}

static int grow_pool(struct node_pool *pool)
{
    void *memory = pool->spare;
    size_t size = pool->spare_size;

    pool->spare = NULL;
    if (!memory)
        memory = map_chunk(pool, &size);
    if (!memory)
        return 0;
    add_chunk(pool, memory, size);
    return 1;
}

/* The smallest order from `order` on that has a free block; POOL_ORDER_COUNT if there is none. */
static uint32_t find_order(const struct node_pool *pool, uint32_t order)
{
    while (order < POOL_ORDER_COUNT && pool->free[order].next == &pool->free[order])
        order++;
    return order;
}

static void *take_block(struct node_pool *pool, uint32_t order)
{
    uint32_t found = find_order(pool, order);
    struct pool_block *block;
    struct pool_chunk *chunk;

    if (found == POOL_ORDER_COUNT) {
        if (!grow_pool(pool))
            return NULL;
        found = find_order(pool, order);
        KM_ASSERT(found < POOL_ORDER_COUNT);
    }
    block = pool->free[found].next;
    chunk = chunk_of(pool, block);
    unlink_block(chunk, block);
    while (found > order) { /* give back the upper half */
        found--;
        link_block(pool, chunk, (uint8_t *)block + ((size_t)NODE_POOL_BLOCK_MIN << found), found);
    }
    return block;
}

km_status km__node_pool_create(const struct allocator *allocator, struct node_pool **out_pool)
{
    struct node_pool *pool = km__allocate(allocator, sizeof(*pool));

    if (!pool)
        return KM_E_NO_MEMORY;
    pool->allocator = allocator;
    pool->next_size = POOL_CHUNK_MIN;
    for (uint32_t order = 0; order < POOL_ORDER_COUNT; order++) {
        pool->free[order].next = &pool->free[order];
        pool->free[order].previous = &pool->free[order];
    }
    km__mutex_init(&pool->lock);
    *out_pool = pool;
    return KM_OK;
}

void km__node_pool_destroy(struct node_pool *pool)
{
    struct pool_chunk *chunk;

    if (!pool)
        return;
    chunk = pool->chunks;
    while (chunk) { /* ends: add_chunk() made the list, without a ring */
        struct pool_chunk *next = chunk->next;
        km__unmap_pages(pool->allocator, chunk, chunk->size);
        chunk = next;
    }
    if (pool->spare)
        km__unmap_pages(pool->allocator, pool->spare, pool->spare_size);
    km__mutex_fini(&pool->lock);
    km__release(pool->allocator, pool, sizeof(*pool));
}

void *km__node_pool_allocate(struct node_pool *pool, size_t size)
{
    uint32_t order = order_of(size);
    void *block;

    km__mutex_lock(&pool->lock);
    block = take_block(pool, order);
    km__mutex_unlock(&pool->lock);
    if (block)
        memset(block, 0, size);
    return block;
}

void km__node_pool_release(struct node_pool *pool, void *block, size_t size)
{
    uint32_t order = order_of(size);
    struct pool_chunk *chunk;

    KM_ASSERT((uintptr_t)block % size == 0);
    km__mutex_lock(&pool->lock);
    chunk = chunk_of(pool, block);
    while (order < POOL_ORDER_COUNT - 1) {
        uintptr_t bytes = (uintptr_t)NODE_POOL_BLOCK_MIN << order;
        void *buddy = (void *)((uintptr_t)block ^ bytes);

        if ((uintptr_t)buddy - (uintptr_t)chunk >= chunk->size)
            break; /* outside the chunk, below it (which wraps) or above */
        if (*state_of(chunk, buddy) != order + 1)
            break; /* in use, cut up, or the header, whose states stay 0 */
        unlink_block(chunk, buddy);
        block = (void *)((uintptr_t)block & ~bytes);
        order++;
    }
    link_block(pool, chunk, block, order);
    km__mutex_unlock(&pool->lock);
}

void km__node_pool_prepare(struct node_pool *pool)
{
    uint8_t *memory = NULL;
    size_t size = 0;

    km__mutex_lock(&pool->lock);
    if (!pool->spare)
        memory = map_chunk(pool, &size);
    km__mutex_unlock(&pool->lock);
    if (!memory)
        return; /* there is one, or no memory: who needs it will find out */
    for (size_t offset = 0; offset < size; offset += POOL_PAGE)
        memory[offset] = 0; /* the write makes the kernel provide the page, here and now */
    km__mutex_lock(&pool->lock);
    if (pool->spare) { /* another thread prepared one meanwhile */
        add_chunk(pool, memory, size);
    } else {
        pool->spare = memory;
        pool->spare_size = size;
    }
    km__mutex_unlock(&pool->lock);
}

uint64_t km__node_pool_bytes(const struct node_pool *pool)
{
    return atomic_load_explicit(&pool->bytes, memory_order_relaxed);
}

/* I2 and I3 for one free block. */
static int check_block(const struct node_pool *pool, struct pool_block *block, uint32_t order)
{
    struct pool_chunk *chunk = chunk_of(pool, block);
    uintptr_t size = (uintptr_t)NODE_POOL_BLOCK_MIN << order;
    uintptr_t buddy = (uintptr_t)block ^ size;

    if ((uintptr_t)block % size != 0 || (uintptr_t)block - (uintptr_t)chunk + size > chunk->size)
        return 1;
    if (*state_of(chunk, block) != order + 1 || block->next->previous != block)
        return 2;
    if (order < POOL_ORDER_COUNT - 1 && buddy - (uintptr_t)chunk < chunk->size &&
        *state_of(chunk, (void *)buddy) == order + 1)
        return 3;
    return 0;
}

/* I1 and I2 for one chunk: the free blocks that its bytes tell do not overlap. */
static int check_chunk(const struct pool_chunk *chunk, uint64_t *inout_free_count)
{
    size_t end = 0;

    for (size_t unit = 0; unit < chunk->size / NODE_POOL_BLOCK_MIN; unit++) {
        if (chunk->state[unit] == 0)
            continue;
        if (unit < end || chunk->state[unit] > POOL_ORDER_COUNT)
            return 1;
        end = unit + ((size_t)1 << (chunk->state[unit] - 1));
        ++*inout_free_count;
    }
    return end * NODE_POOL_BLOCK_MIN > chunk->size;
}

int km__node_pool_check(struct node_pool *pool)
{
    uint64_t listed_count = 0;
    uint64_t marked_count = 0;
    int broken = 0;

    km__mutex_lock(&pool->lock);
    for (uint32_t order = 0; order < POOL_ORDER_COUNT && !broken; order++) {
        struct pool_block *head = &pool->free[order];
        for (struct pool_block *b = head->next; b != head && !broken; b = b->next) {
            broken = check_block(pool, b, order);
            listed_count++;
        }
    }
    for (struct pool_chunk *c = pool->chunks; c && !broken; c = c->next)
        broken = check_chunk(c, &marked_count);
    if (!broken && listed_count != marked_count)
        broken = 2;
    km__mutex_unlock(&pool->lock);
    return broken;
}
