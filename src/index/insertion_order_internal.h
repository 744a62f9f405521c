/* SPDX-License-Identifier: Apache-2.0
 *
 * insertion_order_internal.h -- what the files of the insertion order share; see insertion_order.c
 * for the rules.
 */
#ifndef KM_INDEX_INSERTION_ORDER_INTERNAL_H
#define KM_INDEX_INSERTION_ORDER_INTERNAL_H

#include "base/assert.h"
#include "base/compiler.h"
#include "index/insertion_order.h"

#define ORDER_CELL_BITS 9u        /* log2 of the ordinals in a cell of an even group */
#define ORDER_FIRST_CELL_BITS 6u  /* the same in the first group of a small order */
#define ORDER_FIRST_CELLS 8u      /* cells of it, and of the group after it */
#define ORDER_EVEN_CELLS 256u     /* cells of an even group, at most */
#define ORDER_UNEVEN_CELLS 192u   /* of an uneven one: fits 4 KiB */
#define ORDER_PACKED_SLOTS_MIN 8u /* capacity of a packed block, at least */
#define ORDER_SPAN                                                                                 \
    (UINT64_C(1) << (64 - ORDER_REF_BITS)) /* ordinals of a packed block: below it                 \
                                            */
#define ORDER_GROUP_ORDINALS ((uint64_t)ORDER_EVEN_CELLS << ORDER_CELL_BITS)
#define ORDER_ORDINAL_END (UINT64_C(1) << 63)
#define ORDER_BITMAP_WORDS (ORDER_BLOCK_SLOTS / 64)
#define ORDER_NO_SLOT UINT32_MAX

_Static_assert(1u << ORDER_CELL_BITS == ORDER_BLOCK_SLOTS, "a cell is a block");

/* The order's own bits of a slot: how far its ordinal is above its packed block's base. */
#define ORDER_OFFSET_MASK (~ORDER_REF_MASK)

/* Key: [c] constant once published, [a] atomic, [w] under change_lock. */
struct order_block {
    struct retired retired;      /* [w] */
    uint64_t base;               /* [c] the ordinal of slot 0, or of offset 0 */
    _Atomic uint64_t *slots;     /* [c] what they hold: [a] */
    _Atomic uint32_t slot_count; /* [a] slots that have an ordinal; dense: the capacity */
    uint16_t capacity;           /* [c] a power of two */
    uint16_t is_packed;          /* [c] */
    /* [a] a bit for each slot whose reference is not 0 */
    _Alignas(KM_CACHE_LINE) _Atomic uint64_t bitmap[ORDER_BITMAP_WORDS];
};

typedef _Atomic(struct order_block *) order_block_pointer;

/* Ordinals from `first` up to `end`, cut into cells. Of an even group all cells have 1 << cell_bits
 * ordinals (the last one may have fewer); of an uneven one, cell_bits is 0, each begins where
 * firsts[] says and ends where the next begins. */
struct order_group {
    struct retired retired; /* [w] */
    uint64_t first;         /* [c] */
    _Atomic uint64_t end;   /* [a] */
    uint32_t cell_count;    /* [c] */
    uint32_t cell_bits;     /* [c] */
    _Atomic uint64_t *live; /* [c] [a] ordinals in use: in a block of the pool of its own */
    /* [a] those in use of each cell, four to a word; behind them [a] a block for each cell, or
     * NULL; behind those, of an uneven group, [c] where each cell begins */
    _Alignas(KM_CACHE_LINE) _Atomic uint64_t tallies[];
};

struct order_range {
    uint64_t first;                      /* [c] its group's */
    _Atomic(struct order_group *) group; /* [a] */
    _Atomic(_Atomic uint64_t *) live;    /* [a] the group's: all are scanned, groups are not */
};

/* All groups, ascending, at least one. */
struct order_directory {
    struct retired retired;
    const struct allocator *allocator; /* [c] */
    struct node_pool *pool;            /* [c] */
    size_t count;                      /* [c] */
    struct order_range ranges[];
};

struct insertion_order {
    /* Read by all, rarely written. */
    _Atomic(struct order_directory *) directory; /* [a] NULL: nothing in it */
    const struct allocator *allocator;           /* [c] */
    struct node_pool *pool;                      /* [c] */
    struct reclaimer *reclaimer;                 /* [c] */
    /* [a] from `next` up to it all ordinals lie in dense blocks of even groups */
    _Atomic uint64_t capacity_end;
    _Atomic int is_restoring; /* [a] see I6 */
    /* Written by each insert. */
    _Alignas(KM_CACHE_LINE) _Atomic uint64_t next; /* [a] */
    _Atomic uint64_t reserved_end;                 /* [a] next and what is reserved */
    /* Written by deletes and changes of the shape. */
    _Alignas(KM_CACHE_LINE) struct mutex change_lock;
    _Atomic int64_t waste;     /* [a] slots that lie empty for good, about: since the last pass */
    _Atomic uint64_t room;     /* [a] slots of all blocks */
    _Atomic uint64_t bytes;    /* [a] */
    _Atomic uint64_t tidy_at;  /* [a] where the pass goes on; 0: none is under way */
    int64_t waste_before_pass; /* [w] */
};

#define ORDER_LIVE_SIZE 64u  /* a group's live count's block of the pool: no two share a line */
#define ORDER_SIZE 256u      /* its block of the pool */
#define ORDER_HEAD_SIZE 128u /* the same of a block without its slots */
_Static_assert(sizeof(struct insertion_order) <= ORDER_SIZE, "fits its block");
_Static_assert(sizeof(struct order_block) <= ORDER_HEAD_SIZE, "fits its block");

/* A cell in the making. */
struct order_cell {
    uint64_t first;
    struct order_block *block; /* NULL: none */
    uint32_t live;
    int is_new; /* the block is not published yet */
};

/* Where an ordinal is. */
struct order_place {
    struct order_group *group;
    struct order_block *block; /* NULL: the cell has none */
    uint32_t cell;
    uint32_t slot; /* ORDER_NO_SLOT: the block has none for it */
};

/* ---- parts of groups */

static inline uint32_t km__order_tally_words(uint32_t cell_count)
{
    return (cell_count + 3) / 4;
}

static inline order_block_pointer *km__order_blocks(const struct order_group *group)
{
    const void *blocks = &group->tallies[km__order_tally_words(group->cell_count)];

    return (order_block_pointer *)(uintptr_t)blocks;
}

static inline uint64_t *km__order_firsts(const struct order_group *group)
{
    return (uint64_t *)(void *)&km__order_blocks(group)[group->cell_count];
}

static inline struct order_block *km__order_block(const struct order_group *group, uint32_t cell)
{
    /* pairs with km__order_set_block(): what the block says of itself */
    return atomic_load_explicit(&km__order_blocks(group)[cell], memory_order_acquire);
}

static inline void km__order_set_block(struct order_group *group, uint32_t cell,
                                       struct order_block *block)
{
    /* pairs with km__order_block() */
    atomic_store_explicit(&km__order_blocks(group)[cell], block, memory_order_release);
}

static inline uint64_t km__order_group_end(const struct order_group *group)
{
    /* relaxed: it only shrinks, and no ordinal in use is left outside */
    return atomic_load_explicit(&group->end, memory_order_relaxed);
}

static inline uint64_t km__order_cell_first(const struct order_group *group, uint32_t cell)
{
    if (group->cell_bits)
        return group->first + ((uint64_t)cell << group->cell_bits);
    return km__order_firsts(group)[cell];
}

static inline uint64_t km__order_cell_end(const struct order_group *group, uint32_t cell)
{
    if (cell + 1 < group->cell_count)
        return km__order_cell_first(group, cell + 1);
    return km__order_group_end(group);
}

/* The cell of an ordinal that is not below the group's first. */
static inline uint32_t km__order_cell_of(const struct order_group *group, uint64_t ordinal)
{
    const uint64_t *firsts;
    uint32_t low = 0;
    uint32_t count = group->cell_count;

    if (group->cell_bits)
        return (uint32_t)((ordinal - group->first) >> group->cell_bits);
    firsts = km__order_firsts(group);
    while (count > 1) { /* ends: halves; firsts[low] is at or below the ordinal */
        uint32_t half = count / 2;
        low += firsts[low + half] <= ordinal ? half : 0;
        count -= half;
    }
    return low;
}

static inline uint64_t km__order_tally_word(const struct order_group *group, uint32_t word)
{
    /* relaxed: an ordinal that is there during the whole of a call was counted before it */
    return atomic_load_explicit(&group->tallies[word], memory_order_relaxed);
}

static inline uint32_t km__order_tally(const struct order_group *group, uint32_t cell)
{
    return (uint32_t)(km__order_tally_word(group, cell / 4) >> (cell % 4 * 16)) & 0xffff;
}

static inline uint64_t km__order_live(const struct order_group *group)
{
    /* relaxed: as in km__order_tally_word() */
    return atomic_load_explicit(group->live, memory_order_relaxed);
}

/* The sum of the four counts of a word: at most 4 * ORDER_BLOCK_SLOTS, so no carry is lost. */
static inline uint32_t km__order_sum_tallies(uint64_t word)
{
    return (uint32_t)((word * UINT64_C(0x0001000100010001)) >> 48);
}

/* The number of bits in each byte. */
static inline uint64_t km__order_byte_counts(uint64_t word)
{
    word -= (word >> 1) & UINT64_C(0x5555555555555555);
    word = (word & UINT64_C(0x3333333333333333)) + ((word >> 2) & UINT64_C(0x3333333333333333));
    return (word + (word >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
}

static inline uint32_t km__order_bit_count(uint64_t word)
{
    return (uint32_t)((km__order_byte_counts(word) * UINT64_C(0x0101010101010101)) >> 56);
}

/* ---- slots */

static inline uint64_t km__order_peek(const struct order_block *block, uint32_t slot)
{
    /* relaxed: for the offset, which is constant, or by who alone changes the reference */
    return atomic_load_explicit(&block->slots[slot], memory_order_relaxed);
}

static inline uint64_t km__order_ordinal_at(const struct order_block *block, uint32_t slot,
                                            uint64_t value)
{
    return block->base + (block->is_packed ? value >> ORDER_REF_BITS : slot);
}

static inline uint32_t km__order_slot_count(const struct order_block *block)
{
    /* pairs with append_slot(): the offsets of the slots */
    return atomic_load_explicit(&block->slot_count, memory_order_acquire);
}

/* The first slot at or above an ordinal; the number of slots if all are below. */
static inline uint32_t km__order_lower_slot(const struct order_block *block, uint64_t ordinal)
{
    uint32_t count = km__order_slot_count(block);
    uint64_t offset = ordinal - block->base;
    uint32_t low = 0;

    if (ordinal <= block->base)
        return 0;
    if (!block->is_packed)
        return offset < count ? (uint32_t)offset : count;
    if (offset >= ORDER_SPAN)
        return count;
    while (count > 0) { /* ends: halves */
        uint32_t half = count / 2;
        if (km__order_peek(block, low + half) >> ORDER_REF_BITS < offset) {
            low += half + 1;
            count -= half + 1;
        } else {
            count = half;
        }
    }
    return low;
}

static inline uint32_t km__order_find_slot(const struct order_block *block, uint64_t ordinal)
{
    uint32_t slot;

    if (!block->is_packed)
        return (uint32_t)(ordinal - block->base);
    slot = km__order_lower_slot(block, ordinal);
    if (ordinal < block->base || slot >= km__order_slot_count(block))
        return ORDER_NO_SLOT;
    if (km__order_ordinal_at(block, slot, km__order_peek(block, slot)) != ordinal)
        return ORDER_NO_SLOT;
    return slot;
}

/* ---- the way down */

static inline struct order_directory *km__order_directory(const struct insertion_order *order)
{
    /* pairs with km__order_publish(): the directory, its groups and blocks */
    return atomic_load_explicit(&order->directory, memory_order_acquire);
}

static inline struct order_group *km__order_group(const struct order_directory *directory,
                                                  size_t index)
{
    /* pairs with km__order_splice(): the group */
    return atomic_load_explicit(&directory->ranges[index].group, memory_order_acquire);
}

/* The live count of a group. */
static inline uint64_t km__order_range_live(const struct order_directory *directory, size_t index)
{
    /* pairs with km__order_splice(): the count as it was then */
    const _Atomic uint64_t *live = atomic_load_explicit(&directory->ranges[index].live,
                                                        memory_order_acquire);

    /* relaxed: as in km__order_tally_word() */
    return atomic_load_explicit(live, memory_order_relaxed);
}

size_t km__order_search_slow(const struct order_directory *directory, uint64_t ordinal);

/* How many groups begin at or below an ordinal. Where groups are of full size, as in an order
 * without many deletes, the distance to the last one tells it. */
static inline size_t km__order_groups_up_to(const struct order_directory *directory,
                                            uint64_t ordinal)
{
    const struct order_range *ranges = directory->ranges;
    size_t last = directory->count - 1;
    uint64_t back;

    if (ordinal >= ranges[last].first)
        return last + 1;
    back = (ranges[last].first - ordinal - 1) / ORDER_GROUP_ORDINALS + 1;
    if (back <= last && ranges[last - back].first <= ordinal &&
        ordinal < ranges[last - back + 1].first)
        return last - back + 1;
    return km__order_search_slow(directory, ordinal);
}

/* 1 if a group covers the ordinal; `slot` is left alone. */
static inline int km__order_find_cell(const struct insertion_order *order, uint64_t ordinal,
                                      struct order_place *place)
{
    const struct order_directory *directory = km__order_directory(order);
    size_t index;

    if (KM_UNLIKELY(!directory))
        return 0;
    index = km__order_groups_up_to(directory, ordinal);
    if (index == 0)
        return 0;
    place->group = km__order_group(directory, index - 1);
    if (ordinal >= km__order_group_end(place->group))
        return 0;
    place->cell = km__order_cell_of(place->group, ordinal);
    place->block = km__order_block(place->group, place->cell);
    return 1;
}

/* 1 if there is a slot for the ordinal. */
static inline int km__order_find(const struct insertion_order *order, uint64_t ordinal,
                                 struct order_place *place)
{
    if (!km__order_find_cell(order, ordinal, place) || !place->block)
        return 0;
    place->slot = km__order_find_slot(place->block, ordinal);
    return place->slot != ORDER_NO_SLOT;
}

/* ---- changes of one slot, by the writer of its ordinal; 1 if it was empty, or in use, before */

static inline int km__order_fill_slot(const struct order_place *place, uint64_t ref)
{
    uint64_t bit = UINT64_C(1) << (place->slot % 64);
    uint64_t old = km__order_peek(place->block, place->slot);

    /* pairs with the readers' loads of slots: the record */
    atomic_store_explicit(&place->block->slots[place->slot], (old & ORDER_OFFSET_MASK) | ref,
                          memory_order_release);
    if (KM_LIKELY((old & ORDER_REF_MASK) != 0))
        return 0;
    /* pairs with the readers' loads of bitmaps: the slot */
    atomic_fetch_or_explicit(&place->block->bitmap[place->slot / 64], bit, memory_order_release);
    atomic_fetch_add_explicit(&place->group->tallies[place->cell / 4],
                              UINT64_C(1) << (place->cell % 4 * 16), memory_order_relaxed);
    atomic_fetch_add_explicit(place->group->live, 1, memory_order_relaxed);
    return 1;
}

static inline int km__order_empty_slot(const struct order_place *place)
{
    uint64_t bit = UINT64_C(1) << (place->slot % 64);
    uint64_t old = km__order_peek(place->block, place->slot);

    if ((old & ORDER_REF_MASK) == 0)
        return 0;
    /* relaxed, here and below: there is nothing behind it that a reader could miss */
    atomic_store_explicit(&place->block->slots[place->slot], old & ORDER_OFFSET_MASK,
                          memory_order_relaxed);
    atomic_fetch_and_explicit(&place->block->bitmap[place->slot / 64], ~bit, memory_order_relaxed);
    atomic_fetch_sub_explicit(&place->group->tallies[place->cell / 4],
                              UINT64_C(1) << (place->cell % 4 * 16), memory_order_relaxed);
    atomic_fetch_sub_explicit(place->group->live, 1, memory_order_relaxed);
    return 1;
}

static inline void km__order_add_waste(struct insertion_order *order, int64_t slots)
{
    atomic_fetch_add_explicit(&order->waste, slots, memory_order_relaxed);
}

/* ---- insertion_order_shape.c: blocks, groups and directories; all with change_lock held */

/* The capacity of a packed block for so many entries. */
uint32_t km__order_packed_capacity(size_t count);
/* A dense block of 1 << cell_bits slots with these entries in it; NULL if there is no memory. */
struct order_block *km__order_create_dense(struct insertion_order *order, uint64_t base,
                                           uint32_t cell_bits, const struct order_entry *entries,
                                           size_t count);
/* A packed one, of entries (at least one) that ascend and span less than ORDER_SPAN. */
struct order_block *km__order_create_packed(struct insertion_order *order,
                                            const struct order_entry *entries, size_t count,
                                            uint32_t capacity);
/* Copy what is in use; returns how many. */
size_t km__order_gather(const struct order_block *block, struct order_entry *entries);
/* One that nobody has seen is discarded; one that is no longer reachable is retired. NULL is
 * accepted. */
void km__order_discard_block(struct insertion_order *order, struct order_block *block);
void km__order_retire_block(struct insertion_order *order, struct order_block *block);

/* An even group without blocks. */
struct order_group *km__order_create_even(struct insertion_order *order, uint64_t first,
                                          uint64_t end, uint32_t cell_bits);
/* An uneven one with these cells, 1 to ORDER_UNEVEN_CELLS of them. */
struct order_group *km__order_create_uneven(struct insertion_order *order,
                                            const struct order_cell *cells, uint32_t count,
                                            uint64_t end);
/* Give a cell of a group that nobody has seen its block and its count. */
void km__order_put_cell(struct order_group *group, uint32_t cell, struct order_block *block,
                        uint32_t live);
/* As for blocks, which are not touched. */
void km__order_discard_group(struct insertion_order *order, struct order_group *group);
void km__order_retire_group(struct insertion_order *order, struct order_group *group);
/* One or two uneven groups of up to twice ORDER_UNEVEN_CELLS cells: how many; 0: no memory. */
uint32_t km__order_build_groups(struct insertion_order *order, const struct order_cell *cells,
                                uint32_t count, uint64_t end, struct order_group **out_groups);

/* Put `added` groups in the place of the `removed` ones from `index` on, which the caller retires.
 * KM_E_NO_MEMORY: nothing changed. */
km_status km__order_splice(struct insertion_order *order, size_t index, size_t removed,
                           struct order_group *const *groups, size_t added);
/* Let readers use a directory; NULL: an empty order. */
void km__order_publish(struct insertion_order *order, struct order_directory *directory);
/* Free a directory, its groups and their blocks, now or later; the order's sums are not touched.
 * NULL is accepted. */
void km__order_free_tree(struct order_directory *directory);
void km__order_retire_tree(struct insertion_order *order, struct order_directory *directory);

/* How many cells the even group behind the last one gets. */
uint32_t km__order_next_cells(const struct order_directory *directory);

#endif
