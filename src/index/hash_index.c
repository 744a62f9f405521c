/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_index.c -- changes of the hash index.
 *
 * I1. A partition's root is 0, or leads to a directory of depth D whose 2^D entries lead to nodes;
 *     a node of depth d <= D is what exactly those 2^(D-d) entries lead to that begin with its d
 *     bits of prefix. Entries agree with the writers' view of the node.
 *     One that is not loaded has no lines: its entries say so, and all else of I1 holds.
 * I2. A slot in use lies at most HASH_DISPLACEMENT_MAX lines past its home (fewer in a small node),
 *     and its displacement says how many. The invalid bits of its tag are 0.
 * I3. The lines from a slot's home up to its own have their flag set, which only slot 0 bears.
 * I4. A node's counts are those of its slots in use and of its flagged lines.
 * I5. A partition's count, weight (modulo 2^64) and number of nodes not loaded are the sums over
 *     its nodes. The weight of a single node is an estimate, and may be less than nothing.
 * I6. The index's bytes are those of itself, its directories and nodes, lines of loaded ones.
 * I7. The prefix, home and tag of a slot are the bits of its reference's hash.
 *
 * A slot never moves within a node, so a reference that is replaced in its slot is found by every
 * probe. Flags are set and never cleared: a probe that may end at an unflagged line misses nothing.
 *
 * Linearization: reserve, replace and remove at their store of the slot; clear at its store of the
 * root. A lookup that finds: at its load of the slot. One that does not: at its load of the entry
 * if the node was rebuilt meanwhile (its later changes are elsewhere, see hash_grow.c), else at its
 * load of the slot where the reference would be.
 *
 * Freed: nodes and directories by the reclaimer, once unlinked and all sections of then have ended;
 * the link it needs is in the writers' node, or before the entries, where no reader looks.
 *
 * Measured with random hashes on a busy 2-core Zen 3 server, ns per reference at 1M and at 10M:
 * enter and replace 140 and 250 (growth and page faults included); look up 60 and 70, or 190 and
 * 210 if each lookup waits for the one before (one miss); absent 50 and 60; prefetched in groups of
 * 32, 16 and 21. Bytes per key from 100K to 10M: mean 14.2, at most 14.9. False references per
 * absent key: 0.003.
 */
#include "index/hash_index_internal.h"

#include "base/assert.h"
#include "index/node_pool.h"

/* A node grows once it is fuller than this. */
#define HASH_FULL_PERCENT 86u
/* A node is tidied up once a quarter of its lines have got flags since it was built, if it has at
 * least 2^this lines. */
#define HASH_TIDY_LINE_BITS_MIN 4u
/* Bounds the steps of growth for one slot: hashes that share their first bits may need a split for
 * each of these, and after each the half grows to its full size again. */
#define HASH_STEPS_MAX (HASH_DEPTH_MAX * (HASH_LINE_BITS_MAX + 1))

/* Partitions 4, 5, 6, 7 and 8 units wide: 15, 14, 10, 6 and 3 of them. Of all such mixtures this
 * one keeps the bytes per key nearest to their mean while the index grows (within 9 %). */
const uint8_t km__hash_partition_table[256] = {
    0,  0,  0,  0,  1,  1,  1,  1,  2,  2,  2,  2,  3,  3,  3,  3,  4,  4,  4,  4,  5,  5,  5,  5,
    6,  6,  6,  6,  7,  7,  7,  7,  8,  8,  8,  8,  9,  9,  9,  9,  10, 10, 10, 10, 11, 11, 11, 11,
    12, 12, 12, 12, 13, 13, 13, 13, 14, 14, 14, 14, 15, 15, 15, 15, 15, 16, 16, 16, 16, 16, 17, 17,
    17, 17, 17, 18, 18, 18, 18, 18, 19, 19, 19, 19, 19, 20, 20, 20, 20, 20, 21, 21, 21, 21, 21, 22,
    22, 22, 22, 22, 23, 23, 23, 23, 23, 24, 24, 24, 24, 24, 25, 25, 25, 25, 25, 26, 26, 26, 26, 26,
    27, 27, 27, 27, 27, 28, 28, 28, 28, 28, 29, 29, 29, 29, 29, 29, 30, 30, 30, 30, 30, 30, 31, 31,
    31, 31, 31, 31, 32, 32, 32, 32, 32, 32, 33, 33, 33, 33, 33, 33, 34, 34, 34, 34, 34, 34, 35, 35,
    35, 35, 35, 35, 36, 36, 36, 36, 36, 36, 37, 37, 37, 37, 37, 37, 38, 38, 38, 38, 38, 38, 39, 39,
    39, 39, 39, 39, 39, 40, 40, 40, 40, 40, 40, 40, 41, 41, 41, 41, 41, 41, 41, 42, 42, 42, 42, 42,
    42, 42, 43, 43, 43, 43, 43, 43, 43, 44, 44, 44, 44, 44, 44, 44, 45, 45, 45, 45, 45, 45, 45, 45,
    46, 46, 46, 46, 46, 46, 46, 46, 47, 47, 47, 47, 47, 47, 47, 47,
};

const _Atomic uint64_t km__hash_empty_line[HASH_LINE_SLOTS] = {0};

/* ---- slots; the partition's lock is held, so nobody else stores */

static uint64_t load_slot(const _Atomic uint64_t *slot)
{
    /* relaxed: stored under the lock */
    return atomic_load_explicit(slot, memory_order_relaxed);
}

static void store_slot(_Atomic uint64_t *slot, uint64_t value)
{
    /* pairs with km__hash_next(): the bytes of the record that the reference leads to. Setting a
     * flag stores the reference again and so must release too. */
    atomic_store_explicit(slot, value, memory_order_release);
}

static _Atomic uint64_t *line_at(const struct hash_node *node, uint32_t home, uint32_t displacement)
{
    uint32_t line_mask = (1u << node->line_bits) - 1;
    uint32_t line = (home + km__hash_line_offset(displacement)) & line_mask;

    return &node->lines[(size_t)line * HASH_LINE_SLOTS];
}

static void set_flag(struct hash_node *node, _Atomic uint64_t *line)
{
    uint64_t slot = load_slot(&line[0]);

    if (slot & HASH_FLAG_BIT)
        return;
    store_slot(&line[0], slot | HASH_FLAG_BIT);
    node->flagged_count++;
}

static _Atomic uint64_t *empty_slot(_Atomic uint64_t *line)
{
    for (uint32_t i = 0; i < HASH_LINE_SLOTS; i++) {
        if (!(load_slot(&line[i]) & HASH_REF_MASK))
            return &line[i];
    }
    return NULL;
}

/* Enter a reference; `bits` are the hash's from behind the node's depth. 0 if there is no room. */
static int insert_ref(struct hash_node *node, uint64_t bits, uint64_t ref)
{
    uint32_t home = (uint32_t)km__hash_top_bits(bits, node->line_bits);
    uint32_t max = km__hash_displacement_max(node);
    uint32_t displacement = 0;
    _Atomic uint64_t *slot = empty_slot(line_at(node, home, 0));
    uint64_t value;

    while (!slot && displacement < max) {
        displacement++;
        slot = empty_slot(line_at(node, home, displacement));
    }
    if (!slot)
        return 0;
    for (uint32_t i = 0; i < displacement; i++) /* before the slot is there: I3 */
        set_flag(node, line_at(node, home, i));
    value = km__hash_tag(bits, node->line_bits, node->tag_bits) |
            (uint64_t)displacement * HASH_DISPLACEMENT_ONE | ref;
    store_slot(slot, value | (load_slot(slot) & HASH_FLAG_BIT));
    node->count++;
    return 1;
}

/* The slot that holds `ref` under these bits; NULL if there is none. */
static _Atomic uint64_t *find_ref(const struct hash_node *node, uint64_t bits, uint64_t ref)
{
    uint32_t home = (uint32_t)km__hash_top_bits(bits, node->line_bits);
    uint32_t max = km__hash_displacement_max(node);
    uint64_t want = km__hash_tag(bits, node->line_bits, node->tag_bits) | ref;

    for (uint32_t displacement = 0; displacement <= max; displacement++) {
        _Atomic uint64_t *line = line_at(node, home, displacement);

        for (uint32_t i = 0; i < HASH_LINE_SLOTS; i++) {
            if ((load_slot(&line[i]) & ~HASH_FLAG_BIT) == want)
                return &line[i];
        }
        want += HASH_DISPLACEMENT_ONE;
    }
    return NULL;
}

/* ---- the shape of nodes */

static int is_full(const struct hash_node *node)
{
    uint32_t slot_count = HASH_LINE_SLOTS << node->line_bits;

    if (node->line_bits == 0)
        return node->count == slot_count; /* nothing can overflow a single line before */
    return (node->count + 1) * 100 > slot_count * HASH_FULL_PERCENT;
}

/*
 * Whether probes have become long, maybe for no reason: where references come and go, the slots
 * that needed the flags are removed in the end, the flags are not. With a constant number of keys,
 * each in turn removed and another entered, absent keys look at 0.25 lines past home so, and at 1.4
 * and rising if only nodes less than 60 % full are tidied up.
 */
static int is_untidy(const struct hash_node *node)
{
    uint32_t new_flag_count = node->flagged_count - node->flagged_at_build;

    return node->line_bits >= HASH_TIDY_LINE_BITS_MIN && new_flag_count * 4 > 1u << node->line_bits;
}

/* Change the shape of growth->old if it is time. It is not vital yet: that memory is short, or that
 * hashes cannot be told apart, is no reason to fail. */
static km_status reshape(const struct hash_growth *growth)
{
    km_status rc = KM_OK;

    if (KM_UNLIKELY(is_full(growth->old)))
        rc = km__hash_grow(growth);
    else if (KM_UNLIKELY(is_untidy(growth->old)))
        rc = km__hash_rebuild(growth);
    if (rc != KM_E_NO_MEMORY && rc != KM_E_LIMIT)
        return rc;
    growth->old->flagged_at_build = growth->old->flagged_count; /* not again with every insertion */
    return KM_OK;
}

/* ---- what others call */

km_status km__hash_index_create(const struct allocator *allocator, struct node_pool *pool,
                                struct reclaimer *reclaimer, struct hash_index **out_index)
{
    struct hash_index *index = km__node_pool_allocate(pool, HASH_INDEX_SIZE);

    if (!index)
        return KM_E_NO_MEMORY;
    index->allocator = allocator;
    index->pool = pool;
    index->reclaimer = reclaimer;
    atomic_init(&index->bytes, HASH_INDEX_SIZE);
    for (uint32_t i = 0; i < HASH_PARTITION_COUNT; i++)
        km__mutex_init(&index->partitions[i].lock);
    *out_index = index;
    return KM_OK;
}

void km__hash_index_destroy(struct hash_index *index)
{
    if (!index)
        return;
    for (uint32_t i = 0; i < HASH_PARTITION_COUNT; i++) {
        km__hash_free_partition(index, i);
        km__mutex_fini(&index->partitions[i].lock);
    }
    km__node_pool_release(index->pool, index, HASH_INDEX_SIZE);
}

struct mutex *km__hash_partition_lock(struct hash_index *index, uint32_t partition)
{
    return &index->partitions[partition].lock;
}

km_status km__hash_reserve(struct hash_index *index, uint64_t hash, uint64_t placeholder,
                           const struct hash_source *source)
{
    struct hash_growth growth = {index, source, NULL, km__hash_own_bits(hash),
                                 km__hash_partition(hash)};
    km_status rc = KM_OK;

    KM_ASSERT(placeholder != 0 && (placeholder & ~HASH_REF_MASK) == 0);
    if (KM_UNLIKELY(!km__hash_directory(index, growth.partition)))
        rc = km__hash_add_first_node(index, growth.partition);
    if (rc)
        return rc;
    growth.old = km__hash_find_node(index, growth.partition, growth.own);
    KM_ASSERT(growth.old->lines);
    rc = reshape(&growth);
    for (uint32_t step = 0; rc == KM_OK && step < HASH_STEPS_MAX; step++) {
        growth.old = km__hash_find_node(index, growth.partition, growth.own);
        if (KM_LIKELY(insert_ref(growth.old, growth.own << growth.old->depth, placeholder))) {
            km__hash_add(index, growth.partition, 1, 0);
            return KM_OK;
        }
        rc = km__hash_grow(&growth);
    }
    return rc ? rc : KM_E_LIMIT;
}

void km__hash_replace(struct hash_index *index, uint64_t hash, uint64_t old_ref, uint64_t new_ref,
                      int64_t weight_change)
{
    uint64_t own = km__hash_own_bits(hash);
    uint32_t partition = km__hash_partition(hash);
    struct hash_node *node = km__hash_find_node(index, partition, own);
    _Atomic uint64_t *slot;

    KM_ASSERT(new_ref != 0 && (new_ref & ~HASH_REF_MASK) == 0);
    KM_ASSERT(node && node->lines);
    slot = find_ref(node, own << node->depth, old_ref);
    KM_ASSERT(slot);
    store_slot(slot, (load_slot(slot) & ~HASH_REF_MASK) | new_ref);
    if (weight_change == 0)
        return; /* leaves the node's line as it is in other processors' caches */
    node->weight += (uint64_t)weight_change;
    km__hash_add(index, partition, 0, (uint64_t)weight_change);
}

void km__hash_remove(struct hash_index *index, uint64_t hash, uint64_t ref, uint64_t weight)
{
    uint64_t own = km__hash_own_bits(hash);
    uint32_t partition = km__hash_partition(hash);
    struct hash_node *node = km__hash_find_node(index, partition, own);
    _Atomic uint64_t *slot;

    KM_ASSERT(node && node->lines);
    slot = find_ref(node, own << node->depth, ref);
    KM_ASSERT(slot);
    store_slot(slot, load_slot(slot) & HASH_FLAG_BIT);
    node->count--;
    node->weight -= weight;
    km__hash_add(index, partition, (uint64_t)-1, 0 - weight);
}

void km__hash_clear_partition(struct hash_index *index, uint32_t partition)
{
    struct hash_partition *p = &index->partitions[partition];

    km__hash_retire_partition(index, partition);
    /* relaxed: as in km__hash_add() */
    atomic_store_explicit(&p->count, 0, memory_order_relaxed);
    atomic_store_explicit(&p->weight, 0, memory_order_relaxed);
    atomic_store_explicit(&index->not_loaded_counts[partition], 0, memory_order_relaxed);
    index->clear_counts[partition]++;
}

static void move_u64(_Atomic uint64_t *to, _Atomic uint64_t *from)
{
    /* relaxed: as in km__hash_add() */
    atomic_store_explicit(to, atomic_load_explicit(from, memory_order_relaxed),
                          memory_order_relaxed);
    atomic_store_explicit(from, 0, memory_order_relaxed);
}

void km__hash_adopt(struct hash_index *index, struct hash_index *from)
{
    for (uint32_t i = 0; i < HASH_PARTITION_COUNT; i++) {
        KM_ASSERT(from->not_loaded_counts[i] == 0);
        km__hash_replace_partition(index, i, from);
        move_u64(&index->partitions[i].count, &from->partitions[i].count);
        move_u64(&index->partitions[i].weight, &from->partitions[i].weight);
        atomic_store_explicit(&index->not_loaded_counts[i], 0, memory_order_release);
        index->clear_counts[i]++; /* nodes may be wider than they were */
    }
}

uint64_t km__hash_count(const struct hash_index *index)
{
    uint64_t count = 0;

    for (uint32_t i = 0; i < HASH_PARTITION_COUNT; i++) /* relaxed: a number, no data behind it */
        count += atomic_load_explicit(&index->partitions[i].count, memory_order_relaxed);
    return count;
}

uint64_t km__hash_partition_count(const struct hash_index *index, uint32_t partition)
{
    /* relaxed: a number, no data behind it */
    return atomic_load_explicit(&index->partitions[partition].count, memory_order_relaxed);
}

uint64_t km__hash_weight(const struct hash_index *index)
{
    uint64_t weight = 0;

    for (uint32_t i = 0; i < HASH_PARTITION_COUNT; i++) /* relaxed: a number, no data behind it */
        weight += atomic_load_explicit(&index->partitions[i].weight, memory_order_relaxed);
    return weight;
}

uint64_t km__hash_not_loaded_count(const struct hash_index *index)
{
    uint64_t count = 0;

    /* pairs with km__hash_load_slow(): who sees 0 may release what the lines were read from */
    for (uint32_t i = 0; i < HASH_PARTITION_COUNT; i++)
        count += atomic_load_explicit(&index->not_loaded_counts[i], memory_order_acquire);
    return count;
}

uint64_t km__hash_bytes(const struct hash_index *index)
{
    return atomic_load_explicit(&index->bytes, memory_order_relaxed);
}
