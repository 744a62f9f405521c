/* SPDX-License-Identifier: Apache-2.0
 *
 * sorted_tree_internal.h -- nodes of the sorted tree, and what its files share.
 *
 *   link    bits 63..48  skip: how many bytes all keys of the node share, which its heads leave out
 *           bits 47..6   address of the node, aligned to 64
 *           bits 5..0    level: 0 a leaf, else an inner node. A root of 0: the tree is empty
 *   word    bits 3..0    how many entries the leaf has
 *           then 4 bits for each position in key order: the slot of the entry there
 *           bits 63..60  slots used up, entries removed included; SORTED_DEAD once it is replaced
 *
 * A separator is a byte string: the first key of what lies above it, cut to what tells it from the
 * last key below. Child i of an inner node has the keys from separator i-1 (inclusive, its low
 * fence) to separator i (exclusive, its high fence); at the ends the node's own fences serve.
 */
#ifndef KM_INDEX_SORTED_TREE_INTERNAL_H
#define KM_INDEX_SORTED_TREE_INTERNAL_H

#include "base/assert.h"
#include "base/bytes.h"
#include "base/compiler.h"
#include "index/sorted_tree.h"

#define SORTED_LEAF_SIZE 256u
#define SORTED_LEVEL_MAX 24u /* levels of inner nodes: with four children each there is room */
#define SORTED_LATCH_COUNT 64u
#define SORTED_DEAD 15u
#define SORTED_HEAD_SIZE 8u
/* Children of an inner node: 50 fill a block of 1 KiB, a half of them one of 512. */
#define SORTED_CHILDREN_MAX 50u
/* Where separators are long, a node is full once their tails are, if it has children enough. */
#define SORTED_TAILS_MAX 16384u
#define SORTED_CHILDREN_ENOUGH 8u

struct sorted_leaf {
    struct retired retired; /* once it is dead */
    _Atomic uint64_t word;  /* [a] changed under the latch */
    /* [a] of each slot; stored before the word says that the slot is used, then never changed */
    _Atomic uint64_t heads[SORTED_LEAF_ENTRIES];
    _Atomic uint64_t refs[SORTED_LEAF_ENTRIES]; /* [a] changed under the latch */
};

_Static_assert(sizeof(struct sorted_leaf) == SORTED_LEAF_SIZE, "four cache lines");

/*
 * Of a separator the node keeps apart what all of them begin with (the prefix, no shorter than what
 * all keys begin with), the eight bytes behind it (the head), and the rest (the tail). Behind the
 * heads of its count - 1 separators lie `count` links, then, if has_tails, the offsets of the tails
 * (u32), then the sizes of the separators (u16), the prefix, and the tails.
 */
struct sorted_inner {
    struct retired retired;            /* once it is replaced */
    const struct allocator *allocator; /* [c] for one that is too large for the pool */
    uint32_t memory_size;              /* [c] */
    uint16_t prefix_size;              /* [c] */
    uint8_t count;                     /* [c] children, 2 at least */
    uint8_t level : 7;                 /* [c] 1 at least */
    uint8_t has_tails : 1;             /* [c] whether a separator has one */
    uint64_t heads[];                  /* [c] all but the links */
};

_Static_assert(sizeof(struct sorted_inner) == 40, "half of SORTED_CHILDREN_MAX fit 512 bytes");

struct sorted_shard {
    _Alignas(KM_CACHE_LINE) _Atomic uint64_t count; /* [a] modulo 2^64, as is the weight: keys */
    _Atomic uint64_t weight;                        /*     leave by another shard than they came */
};

struct sorted_latch {
    _Alignas(KM_CACHE_LINE) struct mutex mutex;
};

struct sorted_tree {
    _Atomic uint64_t root; /* [a] a link; changed under `shape` */
    const struct allocator *allocator;
    struct node_pool *pool;
    struct reclaimer *reclaimer;
    struct sorted_source source;
    /* Under it all links and inner nodes change. Taken after a latch; with it held, further latches
     * are only tried. */
    _Alignas(KM_CACHE_LINE) struct mutex shape;
    _Atomic uint64_t bytes; /* [a] */
    struct sorted_shard shards[SORTED_SHARD_COUNT];
    struct sorted_latch latches[SORTED_LATCH_COUNT]; /* of leaves, by address */
};

#define SORTED_TREE_SIZE 8192u
_Static_assert(sizeof(struct sorted_tree) <= SORTED_TREE_SIZE, "a block of the pool");

/* ---- links */

static inline uint64_t km__sorted_link(const void *node, uint32_t level, uint32_t skip)
{
    uint64_t address = (uint64_t)(uintptr_t)node;

    KM_ASSERT((address & ~(((UINT64_C(1) << 48) - 1) & ~UINT64_C(63))) == 0);
    return (uint64_t)skip << 48 | address | level;
}

static inline void *km__sorted_node(uint64_t link)
{
    return (void *)(uintptr_t)(link & ((UINT64_C(1) << 48) - 1) & ~UINT64_C(63));
}

static inline uint32_t km__sorted_level(uint64_t link)
{
    return (uint32_t)link & 63;
}

static inline uint32_t km__sorted_skip(uint64_t link)
{
    return (uint32_t)(link >> 48);
}

static inline uint64_t km__sorted_load_link(const _Atomic uint64_t *place)
{
    /* pairs with km__sorted_store_link(): what the node holds */
    return atomic_load_explicit(place, memory_order_acquire);
}

static inline void km__sorted_store_link(_Atomic uint64_t *place, uint64_t link)
{
    /* pairs with km__sorted_load_link(): what the node holds */
    atomic_store_explicit(place, link, memory_order_release);
}

/* ---- leaves */

static inline uint64_t km__sorted_load_word(const struct sorted_leaf *leaf)
{
    /* pairs with km__sorted_store_word(): heads and references of the slots that it names */
    return atomic_load_explicit(&leaf->word, memory_order_acquire);
}

static inline void km__sorted_store_word(struct sorted_leaf *leaf, uint64_t word)
{
    /* pairs with km__sorted_load_word(): heads and references of the slots that it names */
    atomic_store_explicit(&leaf->word, word, memory_order_release);
}

static inline uint32_t km__sorted_word_count(uint64_t word)
{
    return (uint32_t)word & 15;
}

static inline uint32_t km__sorted_word_used(uint64_t word)
{
    return (uint32_t)(word >> 60);
}

static inline uint32_t km__sorted_word_slot(uint64_t word, uint32_t position)
{
    return (uint32_t)(word >> (4 + 4 * position)) & 15;
}

/* The word of a new leaf: `count` entries in the first slots. */
static inline uint64_t km__sorted_first_word(uint32_t count)
{
    uint64_t body = (UINT64_C(0x00dcba9876543210) & ((UINT64_C(1) << 4 * count) - 1)) << 4;

    return (uint64_t)count << 60 | body | count;
}

static inline uint64_t km__sorted_load_head(const struct sorted_leaf *leaf, uint32_t slot)
{
    /* relaxed: stored before the word that names the slot */
    return atomic_load_explicit(&leaf->heads[slot], memory_order_relaxed);
}

static inline uint64_t km__sorted_load_ref(const struct sorted_leaf *leaf, uint32_t slot)
{
    /* pairs with km__sorted_store_ref(): the bytes of the record */
    return atomic_load_explicit(&leaf->refs[slot], memory_order_acquire);
}

static inline void km__sorted_store_ref(struct sorted_leaf *leaf, uint32_t slot, uint64_t ref)
{
    /* pairs with km__sorted_load_ref(): the bytes of the record */
    atomic_store_explicit(&leaf->refs[slot], ref, memory_order_release);
}

static inline const struct sorted_pending *km__sorted_pending_of(uint64_t ref)
{
    return (const struct sorted_pending *)(uintptr_t)(ref & ~SORTED_PENDING);
}

static inline uint64_t km__sorted_pending_ref(const struct sorted_pending *pending)
{
    return (uint64_t)(uintptr_t)pending | SORTED_PENDING;
}

/* Begin to bring all lines of a leaf into the cache. */
static inline void km__sorted_prefetch_leaf(uint64_t link)
{
    const uint8_t *leaf = km__sorted_node(link);

    for (uint32_t i = 0; i < SORTED_LEAF_SIZE; i += KM_CACHE_LINE)
        KM_PREFETCH(leaf + i);
}

/* ---- inner nodes */

static inline _Atomic uint64_t *km__sorted_links(const struct sorted_inner *inner)
{
    return (_Atomic uint64_t *)(uintptr_t)&inner->heads[inner->count - 1];
}

static inline uint32_t *km__sorted_tail_offsets(const struct sorted_inner *inner)
{
    return (uint32_t *)(uintptr_t)&inner->heads[inner->count * 2u - 1];
}

static inline uint16_t *km__sorted_sizes(const struct sorted_inner *inner)
{
    uint32_t *offsets = km__sorted_tail_offsets(inner);

    return (uint16_t *)(void *)(offsets + (inner->has_tails ? inner->count - 1u : 0));
}

static inline uint8_t *km__sorted_prefix(const struct sorted_inner *inner)
{
    return (uint8_t *)(km__sorted_sizes(inner) + inner->count - 1);
}

/* Of separator i, if the node has tails. */
static inline uint8_t *km__sorted_tail(const struct sorted_inner *inner, uint32_t i)
{
    return km__sorted_prefix(inner) + km__sorted_tail_offsets(inner)[i];
}

/* ---- bytes */

/* The bytes of a key behind `skip` of them, as a number in whose order they are. */
static inline uint64_t km__sorted_head(const uint8_t *key, size_t size, size_t skip)
{
    uint8_t padded[SORTED_HEAD_SIZE] = {0};
    const uint8_t *p = padded;

    if (KM_LIKELY(size >= skip + SORTED_HEAD_SIZE))
        p = key + skip;
    else if (size > skip)
        memcpy(padded, key + skip, size - skip);
    return (uint64_t)p[0] << 56 | (uint64_t)p[1] << 48 | (uint64_t)p[2] << 40 |
           (uint64_t)p[3] << 32 | (uint64_t)p[4] << 24 | (uint64_t)p[5] << 16 |
           (uint64_t)p[6] << 8 | (uint64_t)p[7];
}

/* A byte string that lies in up to three places: the first `skip` bytes at `prefix`, the next eight
 * in `head`, the rest at `tail`. Of size 0 it is a fence that is open. */
struct sorted_view {
    const uint8_t *prefix;
    const uint8_t *tail;
    uint64_t head;
    uint32_t skip;
    uint32_t size;
};

static inline struct sorted_view km__sorted_view_of(const uint8_t *bytes, size_t size)
{
    return (struct sorted_view){bytes, NULL, 0, (uint32_t)size, (uint32_t)size};
}

/* How many bytes both begin with. */
uint32_t km__sorted_view_common(const struct sorted_view *a, const struct sorted_view *b);
/* Below, equal to or above 0, as memcmp() says it. */
int km__sorted_view_compare(const struct sorted_view *a, const struct sorted_view *b);
/* Copy the bytes from `from` up to `end`, which is not behind its size. */
void km__sorted_view_copy(const struct sorted_view *view, uint32_t from, uint32_t end,
                          uint8_t *out);
/* Let a fence that is not needed any more hold a view. KM_E_NO_MEMORY leaves it as it was. */
km_status km__sorted_store_fence(const struct allocator *allocator, struct sorted_fence *fence,
                                 const struct sorted_view *view);
/* As km__sorted_head(). */
uint64_t km__sorted_view_head(const struct sorted_view *view, uint32_t skip);
/* The head that a key of head `head` behind `skip` bytes has behind fewer; the fence begins with
 * the same `skip` bytes as the key. */
uint64_t km__sorted_widen_head(const struct sorted_view *fence, uint64_t head, uint32_t skip,
                               uint32_t new_skip);
/* Separator i of an inner node. */
struct sorted_view km__sorted_separator(const struct sorted_inner *inner, uint32_t i);

/* ---- descent (sorted_search.c) */

struct sorted_step {
    const struct sorted_inner *node;
    uint32_t skip;
    uint32_t index; /* of the child that was taken */
    uint32_t last;  /* in a walk upwards: of the last child that it takes, ... */
    int is_edge;    /* ... and whether that is so because the walk's end belongs there */
};

/* How a leaf was reached. Steps may lead through nodes that were replaced meanwhile: they lead to
 * all keys that are there during the whole read section. */
struct sorted_path {
    uint32_t depth;
    uint64_t link; /* of the leaf; 0: the tree is empty */
    struct sorted_step steps[SORTED_LEVEL_MAX];
};

/* The child of an inner node where a key belongs. */
uint32_t km__sorted_child(const struct sorted_inner *inner, uint32_t skip, km_bytes key);
/* The leaf where a key belongs; 0 if the tree is empty. */
uint64_t km__sorted_descend(const struct sorted_tree *tree, km_bytes key);
void km__sorted_descend_path(const struct sorted_tree *tree, km_bytes key,
                             struct sorted_path *out_path);
/* The fences of child `index` of the last of the path's first `depth` nodes (0: of the root). */
struct sorted_view km__sorted_low_fence(const struct sorted_path *path, uint32_t depth,
                                        uint32_t index);
struct sorted_view km__sorted_high_fence(const struct sorted_path *path, uint32_t depth,
                                         uint32_t index);

/* Where a key is, or would be, among the entries of a leaf. */
struct sorted_place {
    uint32_t position; /* entries before it are below the key; without those that are passed over */
    int is_found;
    uint64_t head; /* the key's */
    uint64_t ref;  /* if it is found */
};

/* Pending entries are passed over. The source's error. */
km_status km__sorted_search(const struct sorted_tree *tree, uint64_t link, uint64_t word,
                            km_bytes key, struct sorted_place *out);
/* Pending entries count. With the leaf's latch held. */
km_status km__sorted_search_latched(const struct sorted_tree *tree, uint64_t link, km_bytes key,
                                    struct sorted_place *out);
/* The key of an entry, pending or not; with its leaf latched if it may be pending. */
km_status km__sorted_entry_key(const struct sorted_tree *tree, uint64_t ref, km_bytes *out_key);

/* ---- nodes (sorted_node.c) */

/* Entries on their way from leaves to leaves, in order. */
struct sorted_items {
    uint32_t count;
    uint64_t heads[SORTED_LEAF_ENTRIES + 1];
    uint64_t refs[SORTED_LEAF_ENTRIES + 1];
};

/* A child on its way from inner nodes to inner nodes. */
struct sorted_part {
    uint64_t link;
    struct sorted_view separator; /* before it; of a node's first one it is not looked at */
};

struct sorted_parts {
    uint32_t count;
    uint32_t level; /* of the node that has them */
    struct sorted_part parts[2 * SORTED_CHILDREN_MAX + 2];
};

/* Room for a new leaf, or NULL. */
struct sorted_leaf *km__sorted_new_leaf(struct sorted_tree *tree);
/* Fill a new leaf with items from `first` up to `end`. */
void km__sorted_fill_leaf(struct sorted_leaf *leaf, const struct sorted_items *items,
                          uint32_t first, uint32_t end);
/* A new inner node of the parts from `first` up to `end`, between these fences: its link; 0 if
 * there is no memory. */
uint64_t km__sorted_new_inner(struct sorted_tree *tree, const struct sorted_parts *parts,
                              uint32_t first, uint32_t end, const struct sorted_view fences[2]);
/* The bytes of prefix and tails that a node of these parts has. */
size_t km__sorted_tails_size(const struct sorted_parts *parts, uint32_t first, uint32_t end);
/* Free a node that nobody has seen, alone or with all below it; 0 is accepted. */
void km__sorted_free_node(struct sorted_tree *tree, uint64_t link);
void km__sorted_free_all(struct sorted_tree *tree, uint64_t link);
/* Have a node freed that no link leads to any more, alone or with all below it. */
void km__sorted_retire_node(struct sorted_tree *tree, uint64_t link);
void km__sorted_retire_all(struct sorted_tree *tree, uint64_t link);

/* ---- changes of inner nodes (sorted_inner.c); under `shape` */

/* What takes the place of children first to first + removed - 1 of a node. */
struct sorted_change {
    uint32_t first;
    uint32_t removed; /* 1 or 2 */
    uint32_t count;   /* 1 or 2 */
    /* The new children come from keys entered in ascending order, and more will go to the last. */
    int is_ascending;
    uint64_t links[2];
    struct sorted_view middle; /* the separator between two */
};

/* Carry out a change of children of the path's lowest inner node, or of the root if it has none. On
 * KM_E_NO_MEMORY nothing was changed, and the change's nodes are still the caller's. */
km_status km__sorted_apply(struct sorted_tree *tree, const struct sorted_path *path,
                           const struct sorted_change *change);

/* ---- changes of leaves' shape (sorted_leaf.c); with the leaf's latch held */

/* Put a leaf with room in the place of one that has used up its slots, or two leaves, and enter an
 * entry at its place. KM_E_NO_MEMORY or the source's error: nothing was changed. */
km_status km__sorted_grow(struct sorted_tree *tree, uint64_t link, km_bytes key,
                          const struct sorted_place *place, uint64_t ref);
/* Enter the first leaf into an empty tree. */
km_status km__sorted_grow_root(struct sorted_tree *tree);
/* A leaf has few entries left: join it with a neighbour, if that can be done at once. */
void km__sorted_shrink(struct sorted_tree *tree, uint64_t link, km_bytes key);
struct mutex *km__sorted_latch(struct sorted_tree *tree, const struct sorted_leaf *leaf);

#endif
