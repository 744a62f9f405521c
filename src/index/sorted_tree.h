/* SPDX-License-Identifier: Apache-2.0
 *
 * sorted_tree.h -- from keys in byte order to references of the records that hold them.
 *
 * A B+tree. A leaf is 256 bytes: up to SORTED_LEAF_ENTRIES entries of an 8-byte key head (the bytes
 * of the key behind the prefix that all keys of the leaf share, padded with zeros) and a reference,
 * and one word that tells their number and order, as in Masstree (Mao, Kohler, Morris, EuroSys
 * 2012). Inner nodes hold separators, cut short, with heads of their own. Whole keys lie in the
 * log: where heads are equal the tree asks its source for them. Byte order is that of memcmp(),
 * a key before those it is a prefix of.
 *
 * Readers take no lock and never start over, only a read section: a slot of a leaf is used once, so
 * what a leaf's word says stays true of its slots; a leaf or inner node whose shape changes is
 * replaced by a copy. Writers of different keys go side by side: each latches the leaf it changes,
 * and changes of the shape take the tree's lock.
 *
 * The index knows references only by their number. One with SORTED_PENDING set stands for a key
 * that is being entered: readers pass it over.
 */
#ifndef KM_INDEX_SORTED_TREE_H
#define KM_INDEX_SORTED_TREE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/alloc.h"
#include "keepmap/keepmap.h"
#include "sync/epoch.h"
#include "sync/mutex.h"

#define SORTED_LEAF_ENTRIES 14u
/* A slot holds a reference below it, or the address of a struct sorted_pending with it set. */
#define SORTED_PENDING (UINT64_C(1) << 63)
/* Writers come from so many shards, each of which is one writer at a time: counts are kept by shard
 * so that they do not disturb one another. */
#define SORTED_SHARD_COUNT 48u

#define SORTED_GROUP_MAX 32u

struct node_pool;
struct sorted_tree;

/* How the tree learns a key. */
struct sorted_source {
    /* The key of a reference that is in the tree; inside a read section, in which *out_key stays
     * valid. KM_E_CORRUPT if it cannot be read. */
    km_status (*key)(void *context, uint64_t ref, km_bytes *out_key);
    /* Begin to bring the record into the cache. */
    void (*prefetch)(void *context, uint64_t ref);
    void *context;
};

/* What is passed must outlive the tree and the reclaimer's last use of what it retired. An empty
 * tree takes little more than its own struct. */
km_status km__sorted_create(const struct allocator *allocator, struct node_pool *pool,
                            struct reclaimer *reclaimer, const struct sorted_source *source,
                            struct sorted_tree **out_tree);
/* No reader or writer may be inside. NULL is accepted. */
void km__sorted_destroy(struct sorted_tree *tree);

/* ---- readers; inside a read section */

/* KM_OK with *out_ref, KM_NOT_FOUND, or the source's error. */
km_status km__sorted_find(const struct sorted_tree *tree, km_bytes key, uint64_t *out_ref);

/* The same for up to SORTED_GROUP_MAX keys at once, which wait for their cache misses together:
 * *out_statuses and *out_refs are set for each. */
void km__sorted_find_many(const struct sorted_tree *tree, const km_bytes *keys, size_t count,
                          uint64_t *out_refs, km_status *out_statuses);

/* Begin to bring the leaf of a key into the cache (its inner nodes are there, mostly). */
void km__sorted_prefetch(const struct sorted_tree *tree, km_bytes key);

/* Where a walk begins or goes on. A zeroed one is before the first key, or behind the last. */
struct sorted_bound {
    km_bytes key;
    int is_set;       /* 0: no bound */
    int is_exclusive; /* the key itself is passed over */
};

/* Copy references to `refs`, up to `max` (SORTED_LEAF_ENTRIES at least): those of keys at `from`
 * and above, ascending; or at `from` and below, descending. Pending ones are left out. *out_count
 * is how many; 0 if and only if there are none. A key that is there during the whole call, within
 * what is covered, is in it, once. The source's error. */
km_status km__sorted_read_up(const struct sorted_tree *tree, struct sorted_bound from,
                             uint64_t *refs, size_t max, size_t *out_count);
km_status km__sorted_read_down(const struct sorted_tree *tree, struct sorted_bound from,
                               uint64_t *refs, size_t max, size_t *out_count);

/* As km__sorted_read_up(), but only keys before `to`, if it is set: those beyond it are not looked
 * at. */
km_status km__sorted_read_range(const struct sorted_tree *tree, struct sorted_bound from,
                                struct sorted_bound to, uint64_t *refs, size_t max,
                                size_t *out_count);

/* How many keys there are from `from` (inclusive unless it says so) up to and excluding `to`; a
 * bound that is not set is open. Records are read at the two ends only. */
km_status km__sorted_count_range(const struct sorted_tree *tree, struct sorted_bound from,
                                 struct sorted_bound to, uint64_t *out_count);

/* Keys in it (those being entered are not counted), the sum of their weights, and bytes of nodes
 * and separators. Any thread. */
uint64_t km__sorted_count(const struct sorted_tree *tree);
uint64_t km__sorted_weight(const struct sorted_tree *tree);
uint64_t km__sorted_bytes(const struct sorted_tree *tree);

/* ---- writers; any number at once, but one at a time for each key and for each shard; inside a
 * read section. Each reference has a weight (bytes), of which the tree keeps the sum. */

/* A key that is being entered. Its owner keeps it in place until fill or cancel. */
struct sorted_pending {
    const uint8_t *key;
    uint32_t key_size;
};

/* Make room for a key that is not in the tree and enter `pending`, aligned to 8, for it. KM_OK;
 * KM_E_NO_MEMORY, the source's error, or KM_E_CORRUPT if records contradict the tree, or one has
 * the key: the tree holds what it held. */
km_status km__sorted_reserve(struct sorted_tree *tree, const struct sorted_pending *pending);
/* The key's record is in the log now: readers find it. Cannot fail. */
void km__sorted_fill(struct sorted_tree *tree, uint32_t shard, const struct sorted_pending *pending,
                     uint64_t ref, uint64_t weight);
/* It is not to be entered after all. Cannot fail. */
void km__sorted_cancel(struct sorted_tree *tree, const struct sorted_pending *pending);
/* Put new_ref in the place of old_ref, which is the key's, and add to its weight. Cannot fail. */
void km__sorted_replace(struct sorted_tree *tree, uint32_t shard, km_bytes key, uint64_t old_ref,
                        uint64_t new_ref, int64_t weight_change);
/* Remove ref, which is the key's, and its weight. Cannot fail: where a smaller shape would take
 * memory that is not there, the tree stays as large as it is. */
void km__sorted_remove(struct sorted_tree *tree, uint32_t shard, km_bytes key, uint64_t ref,
                       uint64_t weight);

/* ---- with all writers kept out */

/* Remove everything. Cannot fail. */
void km__sorted_clear(struct sorted_tree *tree);
/* What was in `tree` is in `to` afterwards, which is empty, of the same pool and source, and used
 * by nobody yet. In between readers of `tree` find it there or not at all. Cannot fail. */
void km__sorted_move_all(struct sorted_tree *tree, struct sorted_tree *to);

/* ---- images: all entries in order, kept elsewhere */

/* One leaf, as an image tells of it. */
struct sorted_image_leaf {
    uint64_t heads[SORTED_LEAF_ENTRIES]; /* in order */
    uint64_t refs[SORTED_LEAF_ENTRIES];
    uint32_t count;          /* 0 to SORTED_LEAF_ENTRIES; pending ones are left out */
    uint32_t skip;           /* bytes before the heads, which both fences share, and so all keys */
    uint32_t low_fence_size; /* the separator before the leaf; the first leaf has an empty one */
};

/* A separator that a walk has come to. */
struct sorted_fence {
    uint8_t *bytes;
    size_t size;
    size_t capacity;
};

/* A walk by leaves. Zero it to begin, release it with km__sorted_walk_fini(). */
struct sorted_walk {
    struct sorted_fence low;  /* of the last leaf */
    struct sorted_fence high; /* where the next one begins */
    int has_begun;
    int is_over;
};

/* Copy the next leaf, in key order: its entries to *out, its low fence to *out_fence (valid until
 * the next call). *out_end is set to 1 once there is none. Writers may go on meanwhile: leaves tile
 * the keys, each is of one moment, and what does not change during the whole export is in it once.
 * Inside a read section; the walk may be kept across sections. KM_E_NO_MEMORY, or the source's
 * error: a leaf may have been joined with others meanwhile, and then records are read to tell where
 * the walk had come to. The walk has not moved then. If the tree is cleared meanwhile, a leaf
 * without entries covers the rest. */
km_status km__sorted_export_next(const struct sorted_tree *tree, struct sorted_walk *walk,
                                 struct sorted_image_leaf *out, km_bytes *out_fence, int *out_end);
void km__sorted_walk_fini(const struct sorted_tree *tree, struct sorted_walk *walk);

/* Build a tree that is empty and used by nobody from leaves in order: begin, add each, end. The
 * leaves may hold anything: KM_E_CORRUPT if fences do not ascend from an empty one on, or are not
 * of the size told, a count is too large, a reference is 0 or pending, heads descend, or a skip is
 * more than what the two fences share. That the heads are those of the records is not looked at.
 * KM_E_NO_MEMORY. After an error the tree is empty, and only abort may follow. The weight is told
 * at the end; it releases the builder whatever its status. */
struct sorted_builder;
km_status km__sorted_build_begin(struct sorted_tree *tree, struct sorted_builder **out_builder);
km_status km__sorted_build_add(struct sorted_builder *builder, const struct sorted_image_leaf *leaf,
                               km_bytes fence);
km_status km__sorted_build_end(struct sorted_builder *builder, uint64_t weight);
/* Instead of end; NULL is accepted. */
void km__sorted_build_abort(struct sorted_builder *builder);

/* Check every invariant that sorted_tree.c numbers, order of the whole keys included; returns 0, or
 * the number of the first that does not hold. With no writer inside. For tests. */
int km__sorted_check(struct sorted_tree *tree);

#endif
