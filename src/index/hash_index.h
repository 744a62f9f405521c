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

/* References from here on are placeholders, which a writer enters and takes out or replaces before
 * it unlocks the partition: an image of the index has none. */
#define HASH_PLACEHOLDER_MIN (UINT64_C(1) << 43)
/* What a lookup returns that leads to a node which is not loaded. */
#define HASH_NOT_LOADED UINT64_MAX

struct node_pool; /* index/node_pool.h: memory of nodes, shared by all maps of a store */

/* How the index learns the whole hash of what a reference stands for: needed when a node has used
 * up its slots' tag bits by growing. */
struct hash_source {
    /* Fill out_hashes for count references (count <= 32). KM_E_CORRUPT if one cannot be read. */
    km_status (*hashes)(void *context, const uint64_t *refs, size_t count, uint64_t *out_hashes);
    void *context;
};

/* Where the lines of nodes come from that are entered by km__hash_import(). */
struct hash_image_source {
    /* Fill `lines` with the slot_count slots of a node, verified, in the host's byte order.
     * KM_E_CORRUPT, KM_E_NO_MEMORY. Called with the node's partition locked. */
    km_status (*load)(void *context, uint64_t image_node, uint64_t *lines, size_t slot_count);
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
 * the probe is used up. So it is when km__hash_first() returns HASH_NOT_LOADED: what is there is
 * not known before km__hash_load(), or km__hash_load_unlocked(), and another km__hash_first(). */
static inline uint64_t km__hash_first(const struct hash_index *index, uint64_t hash,
                                      struct hash_probe *probe);
static inline uint64_t km__hash_next(struct hash_probe *probe);

/* Load the node where `hash` leads if it is not loaded. For readers: inside a read section, with no
 * partition locked. Waits for the partition's writers. Errors: as km__hash_load(). */
km_status km__hash_load_unlocked(struct hash_index *index, uint64_t hash);

/* ---- writers; with the partition's lock held, or as the partition's only user, and inside a read
 * section. `hash` decides the partition.
 *
 * Each reference has a weight, which only its caller knows and which is told with each change; the
 * index keeps their sum. Of a node it keeps an estimate, since a split shares its weight among the
 * halves by their counts; the sum over the nodes is exact. */

/* After KM_OK the node where `hash` leads is loaded, or the partition is empty: to be called before
 * the key is looked for, and before what follows. It costs little when nothing is to be loaded.
 * KM_E_CORRUPT, KM_E_NO_MEMORY, or the image source's own error: the node is as it was. */
static inline km_status km__hash_load(struct hash_index *index, uint64_t hash);

/* Make room for a reference and enter `placeholder` (not 0) for it, of weight 0. The caller's
 * hash_source must know the placeholders it entered, until it replaced or removed them; readers get
 * to see them and must skip them. Whatever the status but KM_OK, the index holds what it held.
 * Returns KM_OK; KM_E_NO_MEMORY; KM_E_CORRUPT if the source contradicts the index; the source's own
 * error; KM_E_LIMIT: too many references (64 or more) agree in too many bits of their hashes to be
 * told apart, which does not happen to keys hashed with a secret. */
km_status km__hash_reserve(struct hash_index *index, uint64_t hash, uint64_t placeholder,
                           const struct hash_source *source);
/* Put new_ref in the place of old_ref, which must be there under this hash, and add to its weight.
 * Cannot fail. */
void km__hash_replace(struct hash_index *index, uint64_t hash, uint64_t old_ref, uint64_t new_ref,
                      int64_t weight_change);
/* Remove ref, which must be there under this hash, and its weight. Cannot fail. */
void km__hash_remove(struct hash_index *index, uint64_t hash, uint64_t ref, uint64_t weight);
/* Remove everything in a partition. Cannot fail; the nodes are retired. */
void km__hash_clear_partition(struct hash_index *index, uint32_t partition);

/* Take over everything that is in `from`, which is of the same pool and reclaimer and has no image,
 * and which nobody else uses; it is empty afterwards. What was in a partition is retired. Readers
 * find the one or the other, never neither. With all partitions of `index` locked. Cannot fail. */
void km__hash_adopt(struct hash_index *index, struct hash_index *from);

/* ---- the whole index */

/* References in it, placeholders and nodes that are not loaded included. Any thread; exact when no
 * writer is inside. */
uint64_t km__hash_count(const struct hash_index *index);
/* The same of one partition. */
uint64_t km__hash_partition_count(const struct hash_index *index, uint32_t partition);
/* The sum of their weights. As km__hash_count(). */
uint64_t km__hash_weight(const struct hash_index *index);
/* Bytes of nodes, directories and the index itself; of a node that is not loaded, without its
 * lines. Any thread. */
uint64_t km__hash_bytes(const struct hash_index *index);
/* Nodes that are not loaded. Any thread. */
uint64_t km__hash_not_loaded_count(const struct hash_index *index);

/* A walk by nodes. Zero it to begin. */
struct hash_walk {
    uint32_t partition;
    uint32_t clear_count; /* an export's: how often the partition had been cleared at its start */
    uint64_t prefix;      /* where in the partition, as directory bits from the top of a u64 */
    uint32_t depth;       /* of the last node: how many bits of the prefix all its hashes have */
};

/*
 * Copy the references of the next node to refs (room for HASH_NODE_LINES_MAX * 8), placeholders
 * included, and move on; *out_count is how many (0 is possible before the end). *out_end is set to
 * 1, with a count of 0, once the walk is over, else to 0.
 * Inside a read section, with no partition locked; the walk may be kept across sections. A
 * reference, or the chain of references that replaced one another in its slot, that is there during
 * the whole walk is returned exactly once. A node that is not loaded is loaded first; when that
 * fails, with the errors of km__hash_load(), the walk has not moved.
 */
km_status km__hash_walk_next(struct hash_index *index, struct hash_walk *walk, uint64_t *refs,
                             size_t *out_count, int *out_end);

/* Load the next node that is not loaded, one at most; *out_end is set to 1 once there is none, else
 * to 0. Inside a read section, with no partition locked. When it fails, with the errors of
 * km__hash_load(), the walk has not moved. */
km_status km__hash_load_next(struct hash_index *index, struct hash_walk *walk, int *out_end);

/* ---- images: a copy of all nodes, kept elsewhere */

/* What an image tells of a node besides its slots. */
struct hash_image_node {
    uint64_t prefix; /* the first `depth` own bits of its hashes, from the top; the rest is 0 */
    uint64_t weight; /* an estimate, modulo 2^64 */
    uint32_t count;
    uint32_t flagged_count;
    uint8_t partition;
    uint8_t depth;
    uint8_t line_bits; /* it has 8 << line_bits slots */
    uint8_t tag_bits;
};

/*
 * Copy the next node: what it is to *out_node, its slots to `lines` (room for HASH_NODE_LINES_MAX *
 * 8 of them), and move on. *out_end is set to 1 once there is none, and nothing else then, else to
 * 0. Inside a read section, with no partition locked; the walk may be kept across sections. A node
 * that is not loaded is loaded first; when that fails, with the errors of km__hash_load(), the walk
 * has not moved.
 *
 * The nodes come in the order of (partition, prefix) and tile each partition that has any, whatever
 * writers do in between. Each is a copy of one moment, and what does not change during the whole
 * export is in the image exactly once. Of a partition that was cleared after its first node had
 * been copied all further nodes are empty: who reads the image must learn of the clearing, and of
 * all changes since the export began, from elsewhere.
 */
km_status km__hash_export_next(struct hash_index *index, struct hash_walk *walk,
                               struct hash_image_node *out_node, uint64_t *lines, int *out_end);

/*
 * Enter the nodes of an image, all of them, into an index that is empty and that nobody else uses
 * yet. They are not loaded: node i is when it is first touched, from the source as
 * first_image_node + i. The source must outlive the index, or its last node that is not loaded.
 *
 * The nodes may hold anything: KM_E_CORRUPT if they are out of order, do not tile the partitions
 * that occur, have a field out of its limits, or would take a directory out of proportion to their
 * number. KM_E_NO_MEMORY. After an error the index is empty.
 */
km_status km__hash_import(struct hash_index *index, const struct hash_image_node *nodes,
                          size_t count, uint64_t first_image_node,
                          const struct hash_image_source *source);

/* Check every invariant that hash_index.c numbers (I7 only with a source); returns 0, or the number
 * of the first that does not hold. With no writer inside. For tests. */
int km__hash_index_check(struct hash_index *index, const struct hash_source *source);

#include "index/hash_index_inline.h"

#endif
