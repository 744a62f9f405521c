/* SPDX-License-Identifier: Apache-2.0
 *
 * insertion_order_restore.c -- ordinals that come in any order, with any gaps.
 *
 * A cell's block is packed at first and grows, by being built again, until an eighth of the cell is
 * in use: then it becomes dense. So 10 million ordinals in random order cost their slots little
 * more than those in ascending order, while one that stays alone in its cell costs 200 bytes until
 * km__order_tidy() packs it with others. When groups stay nearly empty as well, further ordinals
 * go to uneven groups, which have cells of any width; their cells are cut in two when full.
 *
 * Only dense blocks of even groups are used without change_lock: see I6.
 */
#include "index/insertion_order_internal.h"

#include <string.h>

#define RESTORE_GROUPS_MIN 1024u /* up to so many, few keys in a group are no reason to worry */
#define RESTORE_LIVE_MIN 1024u   /* keys in a group, in the mean, below which it is nearly empty */
#define RESTORE_HEAD_WASTE (ORDER_HEAD_SIZE / sizeof(uint64_t))
#define RESTORE_PIECES_MAX 4u

/* An entry on its way into a cell. */
struct order_restore {
    struct insertion_order *order;
    struct order_place place;
    struct order_entry entry;
};

/* From now on blocks may be replaced beside other restorers. The first one is alone. */
static void begin_restoring(struct insertion_order *order)
{
    km__mutex_lock(&order->change_lock);
    /* relaxed: whoever comes later was told by who was alone */
    atomic_store_explicit(&order->capacity_end, 0, memory_order_relaxed);
    atomic_store_explicit(&order->is_restoring, 1, memory_order_relaxed);
    km__mutex_unlock(&order->change_lock);
}

static void raise_to(_Atomic uint64_t *number, uint64_t minimum)
{
    /* relaxed: a number, behind which nothing lies */
    uint64_t seen = atomic_load_explicit(number, memory_order_relaxed);

    while (seen < minimum && /* ends: a failure saw another number, which only grows */
           !atomic_compare_exchange_weak_explicit(number, &seen, minimum, memory_order_relaxed,
                                                  memory_order_relaxed)) {
    }
}

/* ---- groups */

/* Whether groups are so empty that even ones are too dear. */
static int is_sparse(const struct order_directory *directory)
{
    uint64_t live = 0;

    if (!directory || directory->count < RESTORE_GROUPS_MIN)
        return 0;
    for (size_t i = 0; i < directory->count; i++)
        live += km__order_range_live(directory, i);
    return live / directory->count < RESTORE_LIVE_MIN;
}

/* A group for an ordinal between `low` and `high`, where there is none. */
static struct order_group *create_between(struct insertion_order *order, uint64_t low,
                                          uint64_t high, uint64_t ordinal)
{
    const struct order_directory *directory = km__order_directory(order);
    struct order_cell all = {low, NULL, 0, 0};
    uint64_t first = ordinal - ordinal % ORDER_GROUP_ORDINALS;
    uint64_t end = first + ORDER_GROUP_ORDINALS;
    uint32_t cell_bits = ORDER_CELL_BITS;
    uint64_t size;

    if (is_sparse(directory))
        return km__order_create_uneven(order, &all, 1, high);
    if (!directory)
        cell_bits = ORDER_FIRST_CELL_BITS;
    size = (uint64_t)km__order_next_cells(directory) << cell_bits;
    if (high == ORDER_ORDINAL_END && ordinal - low < size)
        return km__order_create_even(order, low, low + size, cell_bits); /* goes on from the last */
    if (first < low)
        first = low;
    if (end > high)
        end = high;
    return km__order_create_even(order, first, end, ORDER_CELL_BITS);
}

static km_status add_group_for(struct insertion_order *order, uint64_t ordinal)
{
    struct order_directory *directory = km__order_directory(order);
    uint64_t low = 0;
    uint64_t high = ORDER_ORDINAL_END;
    struct order_group *group;
    size_t index = 0;
    km_status rc;

    if (directory) {
        index = km__order_groups_up_to(directory, ordinal);
        if (index > 0)
            low = km__order_group_end(km__order_group(directory, index - 1));
        if (index < directory->count)
            high = directory->ranges[index].first;
    }
    group = create_between(order, low, high, ordinal);
    if (!group)
        return KM_E_NO_MEMORY;
    rc = km__order_splice(order, index, 0, &group, 1);
    if (rc)
        km__order_discard_group(order, group);
    else
        km__order_add_waste(order, (int64_t)group->cell_count);
    return rc;
}

/* ---- cells */

static void fill_place(struct order_restore *restore, uint32_t slot)
{
    restore->place.slot = slot;
    if (km__order_fill_slot(&restore->place, restore->entry.ref))
        km__order_add_waste(restore->order, -1);
}

/* 1 if the entry could be put behind the others of a packed block. */
static int append_slot(struct order_restore *restore)
{
    struct order_block *block = restore->place.block;
    uint32_t count = km__order_slot_count(block);
    uint64_t offset = restore->entry.ordinal - block->base;

    if (!block->is_packed || count == block->capacity || restore->entry.ordinal < block->base ||
        offset >= ORDER_SPAN || km__order_peek(block, count - 1) >> ORDER_REF_BITS >= offset)
        return 0;
    /* relaxed: the number of slots follows */
    atomic_store_explicit(&block->slots[count], offset << ORDER_REF_BITS, memory_order_relaxed);
    /* pairs with km__order_slot_count(): the offset */
    atomic_store_explicit(&block->slot_count, count + 1, memory_order_release);
    fill_place(restore, count);
    return 1;
}

/* What the cell holds and the entry, which it does not hold, in order; returns how many. */
static size_t gather_with(const struct order_restore *restore, struct order_entry *entries)
{
    size_t count = restore->place.block ? km__order_gather(restore->place.block, entries) : 0;
    size_t at = count;

    while (at > 0 && entries[at - 1].ordinal > restore->entry.ordinal) /* ends: at 0 */
        at--;
    memmove(&entries[at + 1], &entries[at], (count - at) * sizeof(*entries));
    entries[at] = restore->entry;
    return count + 1;
}

/* Put a block that holds one entry more in the place of the cell's. */
static void replace_block(struct order_restore *restore, struct order_block *block)
{
    struct order_place *place = &restore->place;
    struct order_block *old = place->block;
    int64_t grown = (int64_t)block->capacity - (old ? old->capacity : 0);

    km__order_set_block(place->group, place->cell, block);
    /* relaxed: as in km__order_fill_slot() */
    atomic_fetch_add_explicit(&place->group->tallies[place->cell / 4],
                              UINT64_C(1) << (place->cell % 4 * 16), memory_order_relaxed);
    atomic_fetch_add_explicit(place->group->live, 1, memory_order_relaxed);
    km__order_add_waste(restore->order, grown - 1 + (old ? 0 : (int64_t)RESTORE_HEAD_WASTE));
    km__order_retire_block(restore->order, old);
}

static km_status rebuild_even_cell(struct order_restore *restore, const struct order_entry *entries,
                                   size_t count)
{
    const struct order_place *place = &restore->place;
    struct order_block *block;

    if (count > ((size_t)1 << place->group->cell_bits) / 8)
        block = km__order_create_dense(restore->order,
                                       km__order_cell_first(place->group, place->cell),
                                       place->group->cell_bits, entries, count);
    else
        block = km__order_create_packed(restore->order, entries, count,
                                        km__order_packed_capacity(count));
    if (!block)
        return KM_E_NO_MEMORY;
    replace_block(restore, block);
    return KM_OK;
}

/* How many of the first entries, at most `limit`, one packed block can hold. */
static size_t piece_size(const struct order_entry *entries, size_t count, size_t limit)
{
    size_t size = count < limit ? count : limit;

    while (entries[size - 1].ordinal - entries[0].ordinal >= ORDER_SPAN) /* ends: at 1 */
        size--;
    return size;
}

/* Make the blocks of an uneven cell, as cells; returns how many, 0 if there is no memory. A full
 * block is cut in the middle, or at the end, if that is where entries come in. */
static uint32_t make_pieces(struct order_restore *restore, const struct order_entry *entries,
                            size_t count, struct order_cell *pieces)
{
    int is_last = entries[count - 1].ordinal == restore->entry.ordinal;
    size_t limit = count <= ORDER_BLOCK_SLOTS || is_last ? ORDER_BLOCK_SLOTS : (count + 1) / 2;
    uint32_t piece_count = 0;

    for (size_t done = 0; done < count;) {
        struct order_cell *piece = &pieces[piece_count];
        size_t size = piece_size(entries + done, count - done, limit);

        KM_ASSERT(piece_count < RESTORE_PIECES_MAX); /* the old ones span less than ORDER_SPAN */
        piece->block = km__order_create_packed(restore->order, entries + done, size,
                                               km__order_packed_capacity(size));
        if (!piece->block)
            break;
        piece->first = entries[done].ordinal;
        piece->live = (uint32_t)size;
        piece_count++;
        done += size;
        if (done == count)
            return piece_count;
    }
    for (uint32_t i = 0; i < piece_count; i++)
        km__order_discard_block(restore->order, pieces[i].block);
    return 0;
}

/* Put these cells in the place of the one of the entry. */
static km_status replace_cell(const struct order_restore *restore, const struct order_cell *pieces,
                              uint32_t piece_count)
{
    struct insertion_order *order = restore->order;
    const struct order_place *place = &restore->place;
    struct order_group *old = place->group;
    struct order_cell cells[ORDER_UNEVEN_CELLS + RESTORE_PIECES_MAX];
    struct order_group *groups[2];
    uint32_t count = 0;
    uint32_t group_count;
    size_t index = km__order_groups_up_to(km__order_directory(order), old->first) - 1;
    km_status rc;

    for (uint32_t cell = 0; cell < old->cell_count; cell++) {
        struct order_cell *copy = &cells[count];
        copy->first = km__order_cell_first(old, cell);
        if (cell == place->cell) {
            memcpy(copy + 1, pieces + 1, (piece_count - 1) * sizeof(*pieces));
            copy->block = pieces[0].block; /* it begins where the old cell did */
            copy->live = pieces[0].live;
            count += piece_count;
        } else {
            copy->block = km__order_block(old, cell);
            copy->live = km__order_tally(old, cell);
            count++;
        }
    }
    group_count = km__order_build_groups(order, cells, count, km__order_group_end(old), groups);
    if (group_count == 0)
        return KM_E_NO_MEMORY;
    rc = km__order_splice(order, index, 1, groups, group_count);
    if (rc) {
        for (uint32_t i = 0; i < group_count; i++)
            km__order_discard_group(order, groups[i]);
        return rc;
    }
    km__order_retire_block(order, place->block);
    km__order_retire_group(order, old);
    return KM_OK;
}

static km_status rebuild_uneven_cell(struct order_restore *restore,
                                     const struct order_entry *entries, size_t count)
{
    struct order_cell pieces[RESTORE_PIECES_MAX];
    uint32_t piece_count = make_pieces(restore, entries, count, pieces);
    km_status rc;

    if (piece_count == 0)
        return KM_E_NO_MEMORY;
    if (piece_count == 1) {
        replace_block(restore, pieces[0].block);
        return KM_OK;
    }
    rc = replace_cell(restore, pieces, piece_count);
    for (uint32_t i = 0; i < piece_count && rc; i++)
        km__order_discard_block(restore->order, pieces[i].block);
    return rc;
}

static km_status restore_in_cell(struct order_restore *restore)
{
    const struct order_place *place = &restore->place;
    struct order_entry entries[ORDER_BLOCK_SLOTS + 1];
    size_t count;

    if (place->block) {
        uint32_t slot = km__order_find_slot(place->block, restore->entry.ordinal);
        if (slot != ORDER_NO_SLOT) {
            fill_place(restore, slot);
            return KM_OK;
        }
        if (append_slot(restore))
            return KM_OK;
    }
    count = gather_with(restore, entries);
    if (place->group->cell_bits)
        return rebuild_even_cell(restore, entries, count);
    return rebuild_uneven_cell(restore, entries, count);
}

static KM_NOINLINE km_status restore_slow(struct order_restore *restore)
{
    struct insertion_order *order = restore->order;
    uint64_t ordinal = restore->entry.ordinal;
    km_status rc = KM_OK;

    km__mutex_lock(&order->change_lock);
    if (!km__order_find_cell(order, ordinal, &restore->place)) {
        rc = add_group_for(order, ordinal);
        if (rc) goto out;
        KM_ASSERT(km__order_find_cell(order, ordinal, &restore->place));
    }
    rc = restore_in_cell(restore);
out:
    km__mutex_unlock(&order->change_lock);
    return rc;
}

km_status km__order_restore(struct insertion_order *order, uint64_t ordinal, uint64_t ref)
{
    struct order_restore restore = {.order = order, .entry = {ordinal, ref}};

    KM_DEBUG_ASSERT(ref != 0 && ref <= ORDER_REF_MASK);
    if (ordinal >= ORDER_ORDINAL_END)
        return KM_E_CORRUPT;
    /* relaxed: set by who was alone, or here */
    if (KM_UNLIKELY(!atomic_load_explicit(&order->is_restoring, memory_order_relaxed)))
        begin_restoring(order);
    raise_to(&order->next, ordinal + 1);
    raise_to(&order->reserved_end, ordinal + 1);
    if (!km__order_find_cell(order, ordinal, &restore.place) || !restore.place.block ||
        restore.place.block->is_packed || !restore.place.group->cell_bits)
        return restore_slow(&restore);
    fill_place(&restore, km__order_find_slot(restore.place.block, ordinal));
    return KM_OK;
}
