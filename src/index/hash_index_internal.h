/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_index_internal.h -- what the files of the hash index share; see hash_index.c for the rules.
 */
#ifndef KM_INDEX_HASH_INDEX_INTERNAL_H
#define KM_INDEX_HASH_INDEX_INTERNAL_H

#include "index/hash_index.h"

#define HASH_DEPTH_MAX 28u    /* of a directory */
#define HASH_LINE_BITS_MAX 9u /* log2(HASH_NODE_LINES_MAX) */
#define HASH_LINE_SIZE 64u
#define HASH_TAG_BITS_MIN 7u /* below, a rebuild asks for the hashes again */
#define HASH_SLOTS_MAX (HASH_NODE_LINES_MAX * HASH_LINE_SLOTS)
#define HASH_DIRECTORY_SLACK 4096u /* entries that every directory may have, see hash_grow.c */

_Static_assert(HASH_NODE_LINES_MAX == 1u << HASH_LINE_BITS_MAX, "node size");
_Static_assert(8 + HASH_DEPTH_MAX + HASH_LINE_BITS_MAX + HASH_TAG_BITS <= 64, "bits of a hash");

/* A node, as its writers know it: a block of the pool, as its lines are another. A rebuild makes a
 * new one. Key: [c] constant once published, [w] under the partition's lock. */
struct hash_node {
    struct retired retired;    /* [w] */
    _Atomic uint64_t *lines;   /* [w] NULL until loaded, then constant; what they hold: [a] */
    uint64_t weight;           /* [w] an estimate, modulo 2^64: I5 */
    uint32_t count;            /* [w] slots in use */
    uint32_t flagged_count;    /* [w] lines whose flag is set */
    uint32_t flagged_at_build; /* [w] so many of them when it was built, or was not to be had */
    uint32_t image_node;       /* [c] of a node that is not loaded: which one of the import */
    uint8_t depth;             /* [c] as in entries, see hash_index_inline.h */
    uint8_t line_bits;         /* [c] */
    uint8_t tag_bits;          /* [c] */
};

/* What only writers touch of a partition: a line of its own, so that they do not disturb readers or
 * the writers of others. */
struct hash_partition {
    _Alignas(KM_CACHE_LINE) struct mutex lock;
    _Atomic uint64_t count;  /* [a] references in it; changed under the lock */
    _Atomic uint64_t weight; /* [a] the sum of theirs; changed under the lock */
};

struct hash_index {
    struct hash_roots roots; /* first: hash_index_inline.h relies on it */
    struct hash_partition partitions[HASH_PARTITION_COUNT];
    const struct allocator *allocator;            /* [c] */
    struct node_pool *pool;                       /* [c] */
    struct reclaimer *reclaimer;                  /* [c] */
    _Atomic uint64_t bytes;                       /* [a] */
    const struct hash_image_source *image_source; /* [c] after import; NULL: all is loaded */
    uint64_t first_image_node;                    /* [c] after import */
    /* Of each partition, changed under its lock; not beside it, since they hardly ever change. */
    _Atomic uint32_t not_loaded_counts[HASH_PARTITION_COUNT]; /* [a] its nodes not loaded */
    uint32_t clear_counts[HASH_PARTITION_COUNT];              /* [w] how often it was cleared */
};

#define HASH_INDEX_SIZE 4096u /* its block of the pool */
#define HASH_NODE_SIZE 64u    /* the same of a node without its lines */
_Static_assert(sizeof(struct hash_index) <= HASH_INDEX_SIZE, "fits its block");
_Static_assert(sizeof(struct hash_node) <= HASH_NODE_SIZE, "fits its block");

/* Writers: the partition's directory; NULL if the partition is empty. */
static inline struct hash_directory *km__hash_directory(const struct hash_index *index,
                                                        uint32_t partition)
{
    /* relaxed: set under the partition's lock, which the caller holds */
    uint64_t root = atomic_load_explicit(&index->roots.words[partition], memory_order_relaxed);

    return (struct hash_directory *)(uintptr_t)(root & ~HASH_ROOT_DEPTH_MASK);
}

/* Writers: the nodes that the directory's entries lead to. */
static inline struct hash_node **km__hash_nodes(struct hash_directory *directory)
{
    return (struct hash_node **)(void *)&directory->entries[(size_t)1 << directory->depth];
}

/* Writers: the node where `own` leads; NULL if the partition is empty. */
static inline struct hash_node *km__hash_find_node(const struct hash_index *index,
                                                   uint32_t partition, uint64_t own)
{
    struct hash_directory *directory = km__hash_directory(index, partition);

    if (!directory)
        return NULL;
    return km__hash_nodes(directory)[km__hash_top_bits(own, directory->depth)];
}

/* How many lines past its home a slot may lie. */
static inline uint32_t km__hash_displacement_max(const struct hash_node *node)
{
    uint32_t line_mask = (1u << node->line_bits) - 1;

    return line_mask < HASH_DISPLACEMENT_MAX ? line_mask : HASH_DISPLACEMENT_MAX;
}

static inline uint64_t km__hash_entry_of(const struct hash_node *node)
{
    return (uint64_t)(uintptr_t)node->lines | (uint64_t)node->depth << 48 |
           (uint64_t)node->tag_bits << 53 | (uint64_t)node->line_bits << 58 |
           (node->lines ? 0 : HASH_ENTRY_NOT_LOADED);
}

/* Writers: change a partition's count and weight, modulo 2^64. */
static inline void km__hash_add(struct hash_index *index, uint32_t partition, uint64_t count,
                                uint64_t weight)
{
    struct hash_partition *p = &index->partitions[partition];

    /* relaxed, and no read-modify-write: all who store hold the lock */
    atomic_store_explicit(&p->count, atomic_load_explicit(&p->count, memory_order_relaxed) + count,
                          memory_order_relaxed);
    atomic_store_explicit(&p->weight,
                          atomic_load_explicit(&p->weight, memory_order_relaxed) + weight,
                          memory_order_relaxed);
}

/* The last own bits that lead to a node of some depth at a prefix. */
static inline uint64_t km__hash_last_of(uint64_t prefix, uint32_t depth)
{
    return prefix | (UINT64_MAX >> depth);
}

/* Move on to where the next node begins. */
static inline void km__hash_walk_step(struct hash_walk *walk, uint32_t depth)
{
    walk->prefix = km__hash_last_of(walk->prefix, depth) + 1;
    if (walk->prefix == 0)
        walk->partition++;
}

/* What a slot tells of its hash, left-aligned, counted from behind the node's depth: the bits of
 * its home, then its tag. */
static inline uint64_t km__hash_slot_bits(const struct hash_node *node, uint32_t line,
                                          uint64_t slot)
{
    uint32_t line_mask = (1u << node->line_bits) - 1;
    uint32_t displacement = (uint32_t)(slot >> 60) & HASH_DISPLACEMENT_MAX;
    uint64_t home = (line - km__hash_line_offset(displacement)) & line_mask;
    uint64_t tag = (slot >> HASH_REF_BITS) & 0xffff;

    return (home << HASH_TAG_BITS | tag) << (64 - HASH_TAG_BITS - node->line_bits);
}

/* ---- hash_grow.c */

/* A change of a node's shape, and where it happens. */
struct hash_growth {
    struct hash_index *index;
    const struct hash_source *source;
    struct hash_node *old;
    uint64_t own; /* own bits of a hash that leads to the node: on top are those all its have */
    uint32_t partition;
};

/* Give an empty partition its first node. KM_E_NO_MEMORY: it stays empty. */
km_status km__hash_add_first_node(struct hash_index *index, uint32_t partition);
/* Double the lines of a node, or split it. After an error nothing changed. */
km_status km__hash_grow(const struct hash_growth *growth);
/* Build the node again as it is, without the flags that no slot needs any more. */
km_status km__hash_rebuild(const struct hash_growth *growth);
/* Unlink and retire all nodes of a partition and its directory. */
void km__hash_retire_partition(struct hash_index *index, uint32_t partition);
/* Put the nodes of `from`, which loses them, in the place of a partition's, which are retired. */
void km__hash_replace_partition(struct hash_index *index, uint32_t partition,
                                struct hash_index *from);
/* Free them at once: nobody is inside. */
void km__hash_free_partition(struct hash_index *index, uint32_t partition);
/* Bytes of a node, its lines if it is loaded, and of a directory of some depth. */
size_t km__hash_node_bytes(const struct hash_node *node);
size_t km__hash_directory_bytes(uint32_t depth);
/* Add to and take from the index's bytes. */
void km__hash_account(struct hash_index *index, size_t added, size_t removed);

/* A directory without nodes; NULL if there is no memory. */
struct hash_directory *km__hash_create_directory(struct hash_index *index, uint32_t depth);
/* Free at once a directory and its nodes: all, or those before the first that is missing. */
void km__hash_free_directory(struct node_pool *pool, struct hash_directory *directory);
/* Let all entries that begin with the node's prefix, the first bits of `own`, lead to it. */
void km__hash_point_entries(struct hash_directory *directory, uint64_t own, struct hash_node *node);
/* Let the partition's readers use a directory; NULL for an empty partition. */
void km__hash_set_root(struct hash_index *index, uint32_t partition,
                       struct hash_directory *directory);

/* ---- hash_image.c */

/* km__hash_load_unlocked() of the node where `own` leads. */
km_status km__hash_load_at(struct hash_index *index, uint32_t partition, uint64_t own);

/* ---- hash_check.c */

/* Check I2, I3 and I4 for one node that has lines, as km__hash_index_check() does. */
int km__hash_check_slots(const struct hash_node *node);

#endif
