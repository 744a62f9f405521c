/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_index.h -- from the hash of a key to references of the records that may hold it.
 *
 * Extendible hashing (Fagin, Nievergelt, Pippenger, Strong, ACM TODS 4(3), 1979), cut into
 * partitions by the first bits of the hash. A partition has a lock for its writers, a directory and
 * nodes; a node is 1 to HASH_NODE_LINES_MAX cache lines of eight 8-byte slots. A slot holds a
 * reference and some bits of the hash. The index never sees a key: its caller compares keys.
 *
 *   slot   bits 63..44  flag, displacement, tag (hash_match.h)   bits 43..0  reference, 0 = empty
 *
 * Readers take no lock, only a read section (sync/epoch.h). A reference that stays in the index
 * during the whole of a probe is found by it.
 */
#ifndef KM_INDEX_HASH_INDEX_H
#define KM_INDEX_HASH_INDEX_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/alloc.h"
#include "base/compiler.h"
#include "index/hash_match.h"
#include "keepmap/keepmap.h"
#include "sync/epoch.h"
#include "sync/mutex.h"

#define HASH_REF_BITS 44
#define HASH_REF_MASK ((UINT64_C(1) << HASH_REF_BITS) - 1)
#define HASH_NODE_LINES_MAX 512u /* 32 KiB */
#define HASH_PARTITION_COUNT 48u

struct node_pool; /* index/node_pool.h: memory of nodes, shared by all maps of a store */

/* How the index learns the whole hash of what a reference stands for: needed when a node has used
 * up its slots' tag bits by growing. */
struct hash_source {
    /* Fill out_hashes for count references (count <= 32). KM_E_CORRUPT if one cannot be read. */
    km_status (*hashes)(void *context, const uint64_t *refs, size_t count, uint64_t *out_hashes);
    void *context;
};

struct hash_index;

/* What is passed must outlive the index, and the reclaimer's last use of what the index retired:
 * destroy indexes, then fini the reclaimer, then destroy the pool. */
km_status km__hash_index_create(const struct allocator *allocator, struct node_pool *pool,
                                struct reclaimer *reclaimer, struct hash_index **out_index);
/* No reader or writer may be inside. NULL is accepted. */
void km__hash_index_destroy(struct hash_index *index);

/* Which partition, 0 to HASH_PARTITION_COUNT - 1, a hash belongs to. Pure. Partitions differ in
 * width by up to a factor of two, evenly in the logarithm, so that their nodes do not all split at
 * the same time: the memory per key of the whole stays near its mean. */
static inline uint32_t km__hash_partition(uint64_t hash);

/* The lock under which a partition changes. */
struct mutex *km__hash_partition_lock(struct hash_index *index, uint32_t partition);

/* ---- readers; inside a read section */

/* Begin to bring the line where `hash` lives into the cache. */
static inline void km__hash_prefetch(const struct hash_index *index, uint64_t hash);

struct hash_probe {
    const _Atomic uint64_t *lines; /* of the node */
    uint64_t want;                 /* displacement and tag of the slots looked for in this line */
    uint32_t line_mask;            /* lines in the node - 1 */
    uint32_t line;                 /* the one that is looked at now */
    uint32_t lines_left;           /* that may be looked at after it */
    uint32_t matches;              /* of this line: bit i = slot i is still to be returned */
};

/* for (ref = km__hash_first(index, hash, &probe); ref; ref = km__hash_next(&probe)): the references
 * whose slots agree with the hash, in no order. May return references of other hashes. After a 0
 * the probe is used up. */
static inline uint64_t km__hash_first(const struct hash_index *index, uint64_t hash,
                                      struct hash_probe *probe);
static inline uint64_t km__hash_next(struct hash_probe *probe);

/* ---- writers; with the partition's lock held, or as the partition's only user, and inside a read
 * section. `hash` decides the partition. */

/* Make room for a reference and enter `placeholder` (not 0) for it. The caller's hash_source must
 * know the placeholders it entered, until it replaced or removed them; readers get to see them and
 * must skip them. Whatever the status but KM_OK, the index holds what it held.
 * Returns KM_OK; KM_E_NO_MEMORY; KM_E_CORRUPT if the source contradicts the index; the source's own
 * error; KM_E_LIMIT: too many references (64 or more) agree in too many bits of their hashes to be
 * told apart, which does not happen to keys hashed with a secret. */
km_status km__hash_reserve(struct hash_index *index, uint64_t hash, uint64_t placeholder,
                           const struct hash_source *source);
/* Put new_ref in the place of old_ref, which must be there under this hash. Cannot fail. */
void km__hash_replace(struct hash_index *index, uint64_t hash, uint64_t old_ref, uint64_t new_ref);
/* Remove ref, which must be there under this hash. Cannot fail. */
void km__hash_remove(struct hash_index *index, uint64_t hash, uint64_t ref);
/* Remove everything in a partition. Cannot fail; the nodes are retired. */
void km__hash_clear_partition(struct hash_index *index, uint32_t partition);

/* ---- the whole index */

/* References in it, placeholders included. Any thread; exact when no writer is inside. */
uint64_t km__hash_count(const struct hash_index *index);
/* Bytes of nodes, directories and the index itself. Any thread. */
uint64_t km__hash_bytes(const struct hash_index *index);

/* A walk by nodes. Zero it to begin. */
struct hash_walk {
    uint32_t partition;
    uint64_t prefix; /* where in the partition, as directory bits from the top of a u64 */
};

/*
 * Copy the references of the next node to refs (room for HASH_NODE_LINES_MAX * 8), placeholders
 * included, and move on; returns how many (0 is possible before the end). *out_end is set to 1,
 * with 0 returned, once the walk is over, else to 0.
 * Inside a read section; the walk may be kept across sections. A reference, or the chain of
 * references that replaced one another in its slot, that is there during the whole walk is returned
 * exactly once.
 */
size_t km__hash_walk_next(const struct hash_index *index, struct hash_walk *walk, uint64_t *refs,
                          int *out_end);

/* Check every invariant that hash_index.c numbers (I7 only with a source); returns 0, or the number
 * of the first that does not hold. With no writer inside. For tests. */
int km__hash_index_check(struct hash_index *index, const struct hash_source *source);

#include "index/hash_index_inline.h"

#endif
