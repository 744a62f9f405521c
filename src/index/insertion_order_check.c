/* SPDX-License-Identifier: Apache-2.0
 *
 * insertion_order_check.c -- verify the invariants that insertion_order.c numbers.
 */
#include "index/insertion_order_internal.h"

/* A check under way. */
struct order_check {
    const struct insertion_order *order;
    const struct order_group *group;
    uint64_t live;  /* of the group so far */
    uint64_t bytes; /* of the order so far */
    uint64_t room;
    uint64_t next;
    uint64_t dense_end; /* up to there ordinals from `next` on lie in dense blocks */
};

static uint64_t power_of_two(uint64_t size)
{
    uint64_t power = 64;

    while (power < size) /* ends: size is that of a group */
        power *= 2;
    return power;
}

/* I2 and I3 for a slot; *inout_floor is the least ordinal that it may have. */
static int check_order_slot(const struct order_block *block, uint32_t slot, uint64_t *inout_floor)
{
    uint64_t value = km__order_peek(block, slot);
    /* relaxed: no writer is inside */
    uint64_t bits = atomic_load_explicit(&block->bitmap[slot / 64], memory_order_relaxed);
    int is_set = (bits >> (slot % 64)) & 1;

    if (is_set != ((value & ORDER_REF_MASK) != 0))
        return 3;
    if (slot >= km__order_slot_count(block))
        return value != 0 ? 2 : 0;
    if (!block->is_packed && value >> ORDER_REF_BITS != 0)
        return 2;
    if (km__order_ordinal_at(block, slot, value) < *inout_floor)
        return 2;
    *inout_floor = km__order_ordinal_at(block, slot, value) + 1;
    return 0;
}

/* I2, I3 and I4 for a block. */
static int check_order_block(struct order_check *check, uint32_t cell,
                             const struct order_block *block)
{
    uint64_t first = km__order_cell_first(check->group, cell);
    uint64_t end = km__order_cell_end(check->group, cell);
    uint64_t ordinal_floor = first;
    uint32_t count = 0;

    if (!block->is_packed && (block->base != first || end - first > block->capacity ||
                              km__order_slot_count(block) != block->capacity))
        return 2;
    if (block->is_packed && (block->base < first || km__order_slot_count(block) == 0 ||
                             km__order_slot_count(block) > block->capacity))
        return 2;
    for (uint32_t slot = 0; slot < block->capacity; slot++) {
        uint64_t value = km__order_peek(block, slot);
        int broken = check_order_slot(block, slot, &ordinal_floor);
        if (broken)
            return broken;
        if ((value & ORDER_REF_MASK) == 0)
            continue;
        count++;
        if (km__order_ordinal_at(block, slot, value) >= end)
            return 2;
        if (km__order_ordinal_at(block, slot, value) >= check->next)
            return 4;
    }
    check->live += count;
    check->room += block->capacity;
    check->bytes += ORDER_HEAD_SIZE + block->capacity * sizeof(uint64_t);
    return count == km__order_tally(check->group, cell) ? 0 : 3;
}

static int check_cell(struct order_check *check, uint32_t cell)
{
    const struct order_block *block = km__order_block(check->group, cell);
    uint64_t first = km__order_cell_first(check->group, cell);
    uint64_t end = km__order_cell_end(check->group, cell);

    if (first >= end)
        return 1;
    if (block && !block->is_packed && check->group->cell_bits && first <= check->dense_end &&
        check->dense_end < end)
        check->dense_end = end;
    if (!block)
        return km__order_tally(check->group, cell) == 0 ? 0 : 3;
    return check_order_block(check, cell, block);
}

static int check_group(struct order_check *check)
{
    const struct order_group *group = check->group;
    uint64_t words = km__order_tally_words(group->cell_count);

    if (group->cell_count == 0 || km__order_cell_first(group, 0) != group->first)
        return 1;
    check->live = 0;
    for (uint32_t cell = 0; cell < group->cell_count; cell++) {
        int broken = check_cell(check, cell);
        if (broken)
            return broken;
    }
    words += (uint64_t)group->cell_count * (group->cell_bits ? 1 : 2);
    check->bytes += ORDER_LIVE_SIZE +
                    power_of_two(offsetof(struct order_group, tallies) + words * 8);
    return check->live == km__order_live(group) ? 0 : 3;
}

static int check_groups(struct order_check *check, const struct order_directory *directory)
{
    uint64_t end = 0;

    for (size_t i = 0; i < directory->count; i++) {
        int broken;
        check->group = km__order_group(directory, i);
        if (directory->ranges[i].first != check->group->first ||
            km__order_range_live(directory, i) != km__order_live(check->group) ||
            check->group->first < end)
            return 1;
        end = km__order_group_end(check->group);
        broken = check_group(check);
        if (broken)
            return broken;
    }
    check->bytes += sizeof(*directory) + directory->count * sizeof(directory->ranges[0]);
    return directory->count == 0; /* an empty order has no directory */
}

/* I4 for the numbers, and I5. */
static int check_order_sums(const struct order_check *check)
{
    const struct insertion_order *order = check->order;
    /* relaxed, all of them: no writer is inside */
    uint64_t reserved_end = atomic_load_explicit(&order->reserved_end, memory_order_relaxed);
    uint64_t capacity_end = atomic_load_explicit(&order->capacity_end, memory_order_relaxed);
    int is_restoring = atomic_load_explicit(&order->is_restoring, memory_order_relaxed);

    if (reserved_end < check->next)
        return 4;
    if (!is_restoring && (capacity_end < reserved_end || check->dense_end < capacity_end))
        return 4;
    if (check->room != atomic_load_explicit(&order->room, memory_order_relaxed))
        return 5;
    return check->bytes == atomic_load_explicit(&order->bytes, memory_order_relaxed) ? 0 : 5;
}

int km__order_check(struct insertion_order *order)
{
    const struct order_directory *directory = km__order_directory(order);
    struct order_check check = {.order = order, .bytes = ORDER_SIZE};
    int broken;

    check.next = km__order_next(order);
    check.dense_end = check.next;
    if (directory) {
        broken = check_groups(&check, directory);
        if (broken)
            return broken;
    }
    return check_order_sums(&check);
}
