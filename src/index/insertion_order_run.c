/* SPDX-License-Identifier: Apache-2.0
 *
 * insertion_order_run.c -- many ordinals at once, ascending, as an index image has them.
 *
 * A cell of an even group that has no block yet gets one with all its ordinals of the run in it:
 * without the atomic operations, and the packed blocks on the way, that each ordinal costs by
 * itself (80 ns, here 5). Everything else goes the way of km__order_restore().
 */
#include "index/insertion_order_internal.h"

#define RUN_HEAD_WASTE (ORDER_HEAD_SIZE / sizeof(uint64_t))

/* How many of the entries lie in the place's cell, which holds the first. */
static size_t count_in_cell(const struct order_place *place, const struct order_entry *entries,
                            size_t count)
{
    uint64_t end = km__order_cell_end(place->group, place->cell);
    size_t inside = 0;

    while (inside < count && entries[inside].ordinal < end)
        inside++;
    return inside;
}

/* Make the block of a cell that has none. With change_lock held. */
static km_status fill_empty_cell(struct insertion_order *order, const struct order_place *place,
                                 const struct order_entry *entries, size_t count)
{
    struct order_group *group = place->group;
    struct order_block *block;

    if (count > ((size_t)1 << group->cell_bits) / 8)
        block = km__order_create_dense(order, km__order_cell_first(group, place->cell),
                                       group->cell_bits, entries, count);
    else
        block = km__order_create_packed(order, entries, count, km__order_packed_capacity(count));
    if (!block)
        return KM_E_NO_MEMORY;
    km__order_set_block(group, place->cell, block);
    /* relaxed: as in km__order_fill_slot() */
    atomic_fetch_add_explicit(&group->tallies[place->cell / 4],
                              (uint64_t)count << (place->cell % 4 * 16), memory_order_relaxed);
    atomic_fetch_add_explicit(group->live, count, memory_order_relaxed);
    km__order_add_waste(order, (int64_t)block->capacity - (int64_t)count + (int64_t)RUN_HEAD_WASTE);
    return KM_OK;
}

/* Restore the first entries, one at least; *out_count is how many. */
static km_status restore_some(struct insertion_order *order, const struct order_entry *entries,
                              size_t count, size_t *out_count)
{
    struct order_place place;
    km_status rc;

    km__mutex_lock(&order->change_lock);
    if (km__order_find_cell(order, entries[0].ordinal, &place) && !place.block &&
        place.group->cell_bits) {
        *out_count = count_in_cell(&place, entries, count);
        rc = fill_empty_cell(order, &place, entries, *out_count);
        km__mutex_unlock(&order->change_lock);
        return rc;
    }
    km__mutex_unlock(&order->change_lock);
    *out_count = 1;
    return km__order_restore(order, entries[0].ordinal, entries[0].ref);
}

static void raise_next(struct insertion_order *order, uint64_t next)
{
    /* relaxed: nobody else is inside */
    if (atomic_load_explicit(&order->next, memory_order_relaxed) >= next)
        return;
    atomic_store_explicit(&order->next, next, memory_order_relaxed);
    atomic_store_explicit(&order->reserved_end, next, memory_order_relaxed);
}

km_status km__order_restore_run(struct insertion_order *order, const struct order_entry *entries,
                                size_t count)
{
    size_t done = 0;
    km_status rc = KM_OK;

    for (size_t i = 1; i < count; i++) {
        if (entries[i].ordinal <= entries[i - 1].ordinal)
            return KM_E_CORRUPT;
    }
    if (count > 0 && entries[count - 1].ordinal >= ORDER_ORDINAL_END)
        return KM_E_CORRUPT;
    if (count > 0 && !atomic_load_explicit(&order->is_restoring, memory_order_relaxed)) {
        rc = km__order_restore(order, entries[0].ordinal, entries[0].ref); /* tells the order */
        done = 1;
    }
    while (!rc && done < count) { /* ends: each turn restores an entry or more */
        size_t some = 0;

        rc = restore_some(order, entries + done, count - done, &some);
        done += some;
    }
    if (!rc && count > 0)
        raise_next(order, entries[count - 1].ordinal + 1);
    return rc;
}
