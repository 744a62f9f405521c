/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_cache.c -- blocks in memory, as they are when unpacked and checked, up to a size.
 *
 * I1. What the cache has allocated, all of its own included, is never more than its size: room is
 *     made and taken before a block is copied.
 * I2. A block that somebody looks at is not evicted: `users` grows under the shard's lock alone, so
 *     who holds that and sees 0 knows that nobody comes.
 * I3. All of a cached block passed its checksums.
 * I4. A child process uses no cache: a lock of it may be held by a thread that the child has not.
 *
 * Which block goes: SIEVE (Zhang, Yang, Yue, Vigfusson, Rashmi, NSDI 2024). A hand goes from the
 * oldest block to the newest; those found since it was last there stay, in their places. One that
 * is read once does not displace those that are in use.
 */
#include <stdatomic.h>
#include <string.h>

#include "base/assert.h"
#include "sealed/sealed_internal.h"
#include "sync/mutex.h"

#define SEALED_CACHE_SHARDS 16u
#define SEALED_CACHE_SHARD_SHIFT 60  /* of a hash: its 4 highest bits */
#define SEALED_CACHE_BUCKET_SHIFT 28 /* and those below */
#define SEALED_CACHE_MULTIPLIER UINT64_C(0x9e3779b97f4a7c15)
#define SEALED_CACHE_BLOCK_PART 64u /* a larger part of the cache no block may take */

struct sealed_cached {
    uint64_t offset;             /* [c] in the file */
    size_t size;                 /* [c] bytes of this */
    struct sealed_cached *next;  /* in its bucket */
    struct sealed_cached *newer; /* in the order in which they came */
    struct sealed_cached *older;
    int was_found;             /* since the hand was here */
    atomic_uint users;         /* [a] I2 */
    struct sealed_block block; /* [c] */
    uint8_t bytes[];           /* [c] */
};

/* Everything under the lock. */
struct sealed_shard {
    struct mutex lock;
    struct sealed_cached **buckets;
    struct sealed_cached *newest;
    struct sealed_cached *oldest;
    struct sealed_cached *hand; /* the next to be looked at, or NULL: the oldest */
    uint64_t used;              /* bytes of blocks */
    uint64_t count;
    uint64_t hits;
    uint64_t misses;
};

struct sealed_cache {
    struct os *os;
    uint64_t *fork_word; /* 1; 0 in a child process */
    uint64_t own_size;   /* of this, and of the buckets */
    uint64_t shard_max;  /* bytes of blocks in each shard */
    uint64_t block_max;
    uint32_t bucket_count; /* of each shard, a power of two */
    struct sealed_shard shards[SEALED_CACHE_SHARDS];
};

/* ---- create and destroy ------------------------------------------------------------------ */

static void sealed_cache_lay_out(struct sealed_cache *cache, uint64_t size)
{
    uint64_t buckets_max = size / SEALED_CACHE_SHARDS / SEALED_PAGE;

    cache->bucket_count = 1;
    while (cache->bucket_count < buckets_max && cache->bucket_count < (UINT32_C(1) << 28))
        cache->bucket_count *= 2;
    cache->own_size = sizeof(*cache) + (uint64_t)SEALED_CACHE_SHARDS * cache->bucket_count *
                                           sizeof(struct sealed_cached *);
    cache->shard_max = (size - cache->own_size) / SEALED_CACHE_SHARDS;
    cache->block_max = size / SEALED_CACHE_BLOCK_PART;
}

static void sealed_shard_free(const struct sealed_cache *cache, struct sealed_shard *shard)
{
    const struct allocator *allocator = &cache->os->allocator;

    while (shard->newest) {
        struct sealed_cached *cached = shard->newest;
        KM_ASSERT(atomic_load_explicit(&cached->users, memory_order_relaxed) == 0);
        shard->newest = cached->older;
        km__release(allocator, cached, cached->size);
    }
    km__release(allocator, shard->buckets, cache->bucket_count * sizeof(*shard->buckets));
    km__mutex_fini(&shard->lock);
}

static void sealed_cache_free(struct sealed_cache *cache)
{
    struct os *os = cache->os;

    for (uint32_t i = 0; i < SEALED_CACHE_SHARDS; i++)
        sealed_shard_free(cache, &cache->shards[i]);
    os->ops->release_fork_word(os, cache->fork_word);
    km__release(&os->allocator, cache, sizeof(*cache));
}

/* I4 */
static int sealed_cache_is_ours(const struct sealed_cache *cache)
{
    return KM_LIKELY(*cache->fork_word != 0);
}

km_status km__sealed_cache_create(struct os *os, uint64_t size, struct sealed_cache **out)
{
    struct sealed_cache *cache = km__allocate(&os->allocator, sizeof(*cache));
    km_status rc = KM_OK;

    if (!cache)
        return KM_E_NO_MEMORY;
    cache->os = os;
    for (uint32_t i = 0; i < SEALED_CACHE_SHARDS; i++)
        km__mutex_init(&cache->shards[i].lock);
    sealed_cache_lay_out(cache, size);
    for (uint32_t i = 0; !rc && i < SEALED_CACHE_SHARDS; i++) {
        cache->shards[i].buckets = km__allocate(&os->allocator, cache->bucket_count *
                                                                    sizeof(struct sealed_cached *));
        if (!cache->shards[i].buckets)
            rc = KM_E_NO_MEMORY;
    }
    if (!rc)
        rc = os->ops->fork_word(os, &cache->fork_word);
    *out = NULL;
    if (rc || !cache->fork_word)
        sealed_cache_free(cache);
    else
        *out = cache;
    return rc;
}

void km__sealed_cache_destroy(struct sealed_cache *cache)
{
    /* a child leaves it: it may be as some thread of the parent had it at the fork */
    if (cache && sealed_cache_is_ours(cache))
        sealed_cache_free(cache);
}

/* ---- blocks of a shard ------------------------------------------------------------------- */

static struct sealed_cached **sealed_bucket_of(const struct sealed_cache *cache,
                                               const struct sealed_shard *shard, uint64_t offset)
{
    uint64_t hash = offset * SEALED_CACHE_MULTIPLIER;

    return &shard->buckets[hash >> SEALED_CACHE_BUCKET_SHIFT & (cache->bucket_count - 1)];
}

static struct sealed_shard *sealed_shard_of(struct sealed_cache *cache, uint64_t offset)
{
    return &cache->shards[offset * SEALED_CACHE_MULTIPLIER >> SEALED_CACHE_SHARD_SHIFT];
}

static struct sealed_cached *sealed_shard_find(const struct sealed_cache *cache,
                                               const struct sealed_shard *shard, uint64_t offset)
{
    struct sealed_cached *cached = *sealed_bucket_of(cache, shard, offset);

    while (cached && cached->offset != offset)
        cached = cached->next;
    return cached;
}

static void sealed_shard_link(const struct sealed_cache *cache, struct sealed_shard *shard,
                              struct sealed_cached *cached)
{
    struct sealed_cached **bucket = sealed_bucket_of(cache, shard, cached->offset);

    cached->next = *bucket;
    *bucket = cached;
    cached->older = shard->newest;
    if (shard->newest)
        shard->newest->newer = cached;
    else
        shard->oldest = cached;
    shard->newest = cached;
    shard->count++;
}

static void sealed_shard_unlink(const struct sealed_cache *cache, struct sealed_shard *shard,
                                struct sealed_cached *cached)
{
    struct sealed_cached **link = sealed_bucket_of(cache, shard, cached->offset);

    while (*link != cached)
        link = &(*link)->next;
    *link = cached->next;
    if (cached->newer)
        cached->newer->older = cached->older;
    else
        shard->newest = cached->older;
    if (cached->older)
        cached->older->newer = cached->newer;
    else
        shard->oldest = cached->newer;
    if (shard->hand == cached)
        shard->hand = cached->newer;
    shard->count--;
}

/* One block that can go, by SIEVE; NULL if all are looked at. */
static struct sealed_cached *sealed_shard_choose(struct sealed_shard *shard)
{
    uint64_t steps = 2 * shard->count;

    for (; steps > 0; steps--) {
        struct sealed_cached *cached = shard->hand ? shard->hand : shard->oldest;
        /* acquire pairs with km__sealed_cache_release(): its reads are done when we free it */
        uint32_t users = atomic_load_explicit(&cached->users, memory_order_acquire);
        if (!cached->was_found && users == 0)
            return cached;
        cached->was_found = 0;
        shard->hand = cached->newer;
    }
    return NULL;
}

/* Make room for `size` bytes and take it (I1). 0: there is none. */
static int sealed_shard_take_room(const struct sealed_cache *cache, struct sealed_shard *shard,
                                  size_t size)
{
    while (shard->used + size > cache->shard_max) {
        struct sealed_cached *cached = sealed_shard_choose(shard);
        if (!cached)
            return 0;
        sealed_shard_unlink(cache, shard, cached);
        shard->used -= cached->size;
        km__release(&cache->os->allocator, cached, cached->size);
    }
    shard->used += size;
    return 1;
}

/* ---- find -------------------------------------------------------------------------------- */

const struct sealed_block *km__sealed_cache_find(struct sealed_cache *cache, uint64_t offset,
                                                 struct sealed_cached **out_cached)
{
    struct sealed_shard *shard = sealed_shard_of(cache, offset);
    struct sealed_cached *cached;

    if (!sealed_cache_is_ours(cache))
        return NULL;
    km__mutex_lock(&shard->lock);
    cached = sealed_shard_find(cache, shard, offset);
    if (cached) {
        shard->hits++;
        cached->was_found = 1;
        /* relaxed: under the lock, as are all that look for 0 */
        atomic_fetch_add_explicit(&cached->users, 1, memory_order_relaxed);
    } else {
        shard->misses++;
    }
    km__mutex_unlock(&shard->lock);
    *out_cached = cached;
    return cached ? &cached->block : NULL;
}

void km__sealed_cache_release(struct sealed_cached *cached)
{
    /* release pairs with sealed_shard_choose(): our reads are done when it is freed */
    atomic_fetch_sub_explicit(&cached->users, 1, memory_order_release);
}

/* ---- add --------------------------------------------------------------------------------- */

/* Whether there is room for a block now, which is ours then. */
static int sealed_cache_begin_add(struct sealed_cache *cache, uint64_t offset, size_t size)
{
    struct sealed_shard *shard = sealed_shard_of(cache, offset);
    int has_room;

    km__mutex_lock(&shard->lock);
    has_room = !sealed_shard_find(cache, shard, offset) &&
               sealed_shard_take_room(cache, shard, size);
    km__mutex_unlock(&shard->lock);
    return has_room;
}

/* Put the copy in, or, if there is none, or another thread was faster, give its room back. */
static void sealed_cache_end_add(struct sealed_cache *cache, uint64_t offset, size_t size,
                                 struct sealed_cached *cached)
{
    struct sealed_shard *shard = sealed_shard_of(cache, offset);

    km__mutex_lock(&shard->lock);
    if (cached && !sealed_shard_find(cache, shard, offset)) {
        sealed_shard_link(cache, shard, cached);
    } else {
        km__release(&cache->os->allocator, cached, size); /* before its room is another's */
        shard->used -= size;
    }
    km__mutex_unlock(&shard->lock);
}

/* Where a part of a block is in its copy. */
static const uint8_t *sealed_moved(const uint8_t *part, const uint8_t *from, const uint8_t *to)
{
    return part ? to + (part - from) : NULL;
}

static void sealed_copy_block(const struct sealed_block *block, struct sealed_cached *cached)
{
    struct sealed_block *copy = &cached->block;
    const uint8_t *from = block->bytes;
    const uint8_t *to = cached->bytes;

    memcpy(cached->bytes, from, (size_t)(block->end - from));
    *copy = *block;
    copy->bytes = to;
    copy->prefix = sealed_moved(block->prefix, from, to);
    copy->key_ends = sealed_moved(block->key_ends, from, to);
    copy->value_ends = sealed_moved(block->value_ends, from, to);
    copy->suffixes = sealed_moved(block->suffixes, from, to);
    copy->sums = sealed_moved(block->sums, from, to);
    copy->values = sealed_moved(block->values, from, to);
    copy->end = sealed_moved(block->end, from, to);
}

void km__sealed_cache_add(struct sealed_cache *cache, uint64_t offset,
                          const struct sealed_block *block)
{
    size_t block_size = (size_t)(block->end - block->bytes);
    size_t size = sizeof(struct sealed_cached) + block_size;
    struct sealed_cached *cached;

    if (block_size > cache->block_max || !sealed_cache_is_ours(cache))
        return;
    if (km__sealed_block_check_values(block) != KM_OK || /* I3 */
        !sealed_cache_begin_add(cache, offset, size))
        return;
    cached = km__allocate(&cache->os->allocator, size);
    if (cached) {
        cached->offset = offset;
        cached->size = size;
        atomic_init(&cached->users, 0);
        sealed_copy_block(block, cached);
    }
    sealed_cache_end_add(cache, offset, size, cached);
}

void km__sealed_cache_count(struct sealed_cache *cache, struct sealed_cache_use *out)
{
    *out = (struct sealed_cache_use){.bytes = cache->own_size};
    for (uint32_t i = 0; sealed_cache_is_ours(cache) && i < SEALED_CACHE_SHARDS; i++) {
        struct sealed_shard *shard = &cache->shards[i];
        km__mutex_lock(&shard->lock);
        out->bytes += shard->used;
        out->hits += shard->hits;
        out->misses += shard->misses;
        km__mutex_unlock(&shard->lock);
    }
}
