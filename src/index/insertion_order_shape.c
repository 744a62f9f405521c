/* SPDX-License-Identifier: Apache-2.0
 *
 * insertion_order_shape.c -- the order's blocks, groups and directories: made, published, retired.
 *
 * What is made here nobody sees before km__order_set_block(), km__order_splice() or
 * km__order_publish(); what fails before that leaves no trace.
 */
#include "index/insertion_order_internal.h"

#include "index/node_pool.h"

/* ---- memory */

/* The sums that km__order_bytes() and km__order_is_untidy() go by. */
static void order_account(struct insertion_order *order, int64_t bytes, int64_t room)
{
    atomic_fetch_add_explicit(&order->bytes, (uint64_t)bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&order->room, (uint64_t)room, memory_order_relaxed);
}

static size_t order_pool_size(size_t size)
{
    size_t block_size = NODE_POOL_BLOCK_MIN;

    KM_ASSERT(size <= NODE_POOL_BLOCK_MAX);
    while (block_size < size) /* ends: size is at most the largest block */
        block_size *= 2;
    return block_size;
}

static size_t slots_size(const struct order_block *block)
{
    return block->capacity * sizeof(uint64_t);
}

static int64_t block_bytes(const struct order_block *block)
{
    return (int64_t)(ORDER_HEAD_SIZE + slots_size(block));
}

static size_t group_size(uint32_t cell_count, uint32_t cell_bits)
{
    size_t words = km__order_tally_words(cell_count) + (size_t)cell_count * (cell_bits ? 1 : 2);

    return order_pool_size(offsetof(struct order_group, tallies) + words * sizeof(uint64_t));
}

static int64_t group_bytes(const struct order_group *group)
{
    return (int64_t)(ORDER_LIVE_SIZE + group_size(group->cell_count, group->cell_bits));
}

static size_t directory_size(size_t count)
{
    return sizeof(struct order_directory) + count * sizeof(struct order_range);
}

/* ---- blocks */

static struct order_block *create_block(struct insertion_order *order, uint64_t base,
                                        uint32_t capacity)
{
    struct order_block *block = km__node_pool_allocate(order->pool, ORDER_HEAD_SIZE);

    if (!block)
        return NULL;
    block->slots = km__node_pool_allocate(order->pool, capacity * sizeof(uint64_t));
    if (!block->slots) {
        km__node_pool_release(order->pool, block, ORDER_HEAD_SIZE);
        return NULL;
    }
    block->base = base;
    block->capacity = (uint16_t)capacity;
    order_account(order, block_bytes(block), capacity);
    return block;
}

/* relaxed, as all of the filling: km__order_set_block() publishes the block */
static void fill_block(struct order_block *block, uint32_t slot, uint64_t value)
{
    uint64_t bits = atomic_load_explicit(&block->bitmap[slot / 64], memory_order_relaxed);

    atomic_store_explicit(&block->slots[slot], value, memory_order_relaxed);
    atomic_store_explicit(&block->bitmap[slot / 64], bits | UINT64_C(1) << (slot % 64),
                          memory_order_relaxed);
}

uint32_t km__order_packed_capacity(size_t count)
{
    uint32_t capacity = ORDER_PACKED_SLOTS_MIN;

    KM_ASSERT(count <= ORDER_BLOCK_SLOTS);
    while (capacity < count) /* ends: count is at most ORDER_BLOCK_SLOTS */
        capacity *= 2;
    return capacity;
}

struct order_block *km__order_create_dense(struct insertion_order *order, uint64_t base,
                                           uint32_t cell_bits, const struct order_entry *entries,
                                           size_t count)
{
    struct order_block *block = create_block(order, base, 1u << cell_bits);

    if (!block)
        return NULL;
    atomic_store_explicit(&block->slot_count, 1u << cell_bits, memory_order_relaxed);
    for (size_t i = 0; i < count; i++)
        fill_block(block, (uint32_t)(entries[i].ordinal - base), entries[i].ref);
    return block;
}

struct order_block *km__order_create_packed(struct insertion_order *order,
                                            const struct order_entry *entries, size_t count,
                                            uint32_t capacity)
{
    struct order_block *block = create_block(order, entries[0].ordinal, capacity);

    if (!block)
        return NULL;
    KM_ASSERT(count <= capacity && entries[count - 1].ordinal - entries[0].ordinal < ORDER_SPAN);
    block->is_packed = 1;
    atomic_store_explicit(&block->slot_count, (uint32_t)count, memory_order_relaxed);
    for (size_t i = 0; i < count; i++) {
        uint64_t offset = entries[i].ordinal - block->base;
        fill_block(block, (uint32_t)i, offset << ORDER_REF_BITS | entries[i].ref);
    }
    return block;
}

size_t km__order_gather(const struct order_block *block, struct order_entry *entries)
{
    uint32_t slot_count = km__order_slot_count(block);
    size_t count = 0;

    for (uint32_t slot = 0; slot < slot_count; slot++) {
        uint64_t value = km__order_peek(block, slot);
        entries[count].ordinal = km__order_ordinal_at(block, slot, value);
        entries[count].ref = value & ORDER_REF_MASK;
        count += entries[count].ref != 0;
    }
    return count;
}

static void free_block(struct node_pool *pool, struct order_block *block)
{
    km__node_pool_release(pool, block->slots, slots_size(block));
    km__node_pool_release(pool, block, ORDER_HEAD_SIZE);
}

static void free_retired_block(void *context, struct retired *retired)
{
    free_block(context, (struct order_block *)(void *)retired);
}

void km__order_discard_block(struct insertion_order *order, struct order_block *block)
{
    if (!block)
        return;
    order_account(order, -block_bytes(block), -(int64_t)block->capacity);
    free_block(order->pool, block);
}

/* `context` of what is retired is the pool: the order may be gone by then. */
void km__order_retire_block(struct insertion_order *order, struct order_block *block)
{
    if (!block)
        return;
    order_account(order, -block_bytes(block), -(int64_t)block->capacity);
    km__retire(order->reclaimer, &block->retired, free_retired_block, order->pool);
}

/* ---- groups */

static struct order_group *create_group(struct insertion_order *order, uint64_t first, uint64_t end,
                                        uint32_t cell_count, uint32_t cell_bits)
{
    size_t size = group_size(cell_count, cell_bits);
    struct order_group *group = km__node_pool_allocate(order->pool, size);

    if (!group)
        return NULL;
    group->live = km__node_pool_allocate(order->pool, ORDER_LIVE_SIZE);
    if (!group->live) {
        km__node_pool_release(order->pool, group, size);
        return NULL;
    }
    group->first = first;
    atomic_store_explicit(&group->end, end, memory_order_relaxed);
    group->cell_count = cell_count;
    group->cell_bits = cell_bits;
    order_account(order, group_bytes(group), 0);
    return group;
}

struct order_group *km__order_create_even(struct insertion_order *order, uint64_t first,
                                          uint64_t end, uint32_t cell_bits)
{
    uint64_t cell_count = ((end - first - 1) >> cell_bits) + 1;

    KM_ASSERT(first < end && cell_count <= ORDER_EVEN_CELLS);
    return create_group(order, first, end, (uint32_t)cell_count, cell_bits);
}

void km__order_put_cell(struct order_group *group, uint32_t cell, struct order_block *block,
                        uint32_t live)
{
    /* relaxed: the group is published after it */
    atomic_store_explicit(&km__order_blocks(group)[cell], block, memory_order_relaxed);
    atomic_fetch_add_explicit(&group->tallies[cell / 4], (uint64_t)live << (cell % 4 * 16),
                              memory_order_relaxed);
    atomic_fetch_add_explicit(group->live, live, memory_order_relaxed);
}

struct order_group *km__order_create_uneven(struct insertion_order *order,
                                            const struct order_cell *cells, uint32_t count,
                                            uint64_t end)
{
    struct order_group *group;

    KM_ASSERT(count > 0 && count <= ORDER_UNEVEN_CELLS);
    group = create_group(order, cells[0].first, end, count, 0);
    if (!group)
        return NULL;
    for (uint32_t i = 0; i < count; i++) {
        km__order_firsts(group)[i] = cells[i].first;
        km__order_put_cell(group, i, cells[i].block, cells[i].live);
    }
    return group;
}

static void free_group(struct node_pool *pool, struct order_group *group)
{
    km__node_pool_release(pool, group->live, ORDER_LIVE_SIZE);
    km__node_pool_release(pool, group, group_size(group->cell_count, group->cell_bits));
}

static void free_retired_group(void *context, struct retired *retired)
{
    free_group(context, (struct order_group *)(void *)retired);
}

void km__order_discard_group(struct insertion_order *order, struct order_group *group)
{
    if (!group)
        return;
    order_account(order, -group_bytes(group), 0);
    free_group(order->pool, group);
}

void km__order_retire_group(struct insertion_order *order, struct order_group *group)
{
    order_account(order, -group_bytes(group), 0);
    km__retire(order->reclaimer, &group->retired, free_retired_group, order->pool);
}

uint32_t km__order_build_groups(struct insertion_order *order, const struct order_cell *cells,
                                uint32_t count, uint64_t end, struct order_group **out_groups)
{
    uint32_t half = count / 2;

    if (count <= ORDER_UNEVEN_CELLS) {
        out_groups[0] = km__order_create_uneven(order, cells, count, end);
        return out_groups[0] != NULL;
    }
    out_groups[0] = km__order_create_uneven(order, cells, half, cells[half].first);
    out_groups[1] = km__order_create_uneven(order, cells + half, count - half, end);
    if (out_groups[0] && out_groups[1])
        return 2;
    km__order_discard_group(order, out_groups[0]);
    km__order_discard_group(order, out_groups[1]);
    return 0;
}

/* ---- directories */

size_t km__order_search_slow(const struct order_directory *directory, uint64_t ordinal)
{
    size_t low = 0;
    size_t count = directory->count;

    while (count > 0) { /* ends: halves */
        size_t half = count / 2;
        if (directory->ranges[low + half].first <= ordinal) {
            low += half + 1;
            count -= half + 1;
        } else {
            count = half;
        }
    }
    return low;
}

/* Groups double from a small first one on, so that an order takes memory by its size. */
uint32_t km__order_next_cells(const struct order_directory *directory)
{
    const struct order_group *last;
    uint32_t cells;

    if (!directory)
        return ORDER_FIRST_CELLS;
    last = km__order_group(directory, directory->count - 1);
    if (last->cell_bits == ORDER_FIRST_CELL_BITS)
        return ORDER_FIRST_CELLS;
    cells = last->cell_count * 2;
    if (cells < ORDER_FIRST_CELLS)
        return ORDER_FIRST_CELLS;
    return cells < ORDER_EVEN_CELLS ? cells : ORDER_EVEN_CELLS;
}

static void free_retired_directory_only(void *context, struct retired *retired)
{
    struct order_directory *directory = (struct order_directory *)(void *)retired;

    (void)context;
    km__release(directory->allocator, directory, directory_size(directory->count));
}

void km__order_publish(struct insertion_order *order, struct order_directory *directory)
{
    /* pairs with km__order_directory(): the directory, its groups and blocks */
    atomic_store_explicit(&order->directory, directory, memory_order_release);
}

/* Let a range, whose first ordinal is the group's, lead to it. */
static void set_range(struct order_range *range, struct order_group *group)
{
    /* pairs with km__order_group(): the group; and with km__order_range_live(): the count */
    atomic_store_explicit(&range->group, group, memory_order_release);
    atomic_store_explicit(&range->live, group->live, memory_order_release);
}

/* The directory after a splice. */
static struct order_directory *spliced_directory(const struct insertion_order *order, size_t index,
                                                 size_t removed, struct order_group *const *groups,
                                                 size_t added)
{
    const struct order_directory *old = km__order_directory(order);
    size_t old_count = old ? old->count : 0;
    size_t count = old_count - removed + added;
    struct order_directory *directory = km__allocate(order->allocator, directory_size(count));

    if (!directory)
        return NULL;
    directory->allocator = order->allocator;
    directory->pool = order->pool;
    directory->count = count;
    for (size_t i = 0; i < index; i++)
        set_range(&directory->ranges[i], km__order_group(old, i));
    for (size_t i = 0; i < added; i++)
        set_range(&directory->ranges[index + i], groups[i]);
    for (size_t i = index + removed; i < old_count; i++)
        set_range(&directory->ranges[i - removed + added], km__order_group(old, i));
    for (size_t i = 0; i < count; i++)
        directory->ranges[i].first = km__order_group(directory, i)->first;
    return directory;
}

km_status km__order_splice(struct insertion_order *order, size_t index, size_t removed,
                           struct order_group *const *groups, size_t added)
{
    struct order_directory *old = km__order_directory(order);
    struct order_directory *directory = NULL;
    size_t old_count = old ? old->count : 0;
    size_t count = old_count - removed + added;

    if (removed == 1 && added == 1 && old->ranges[index].first == groups[0]->first) {
        set_range(&old->ranges[index], groups[0]);
        return KM_OK;
    }
    if (count > 0) {
        directory = spliced_directory(order, index, removed, groups, added);
        if (!directory)
            return KM_E_NO_MEMORY;
    }
    order_account(order,
                  (int64_t)(count ? directory_size(count) : 0) -
                      (int64_t)(old ? directory_size(old_count) : 0),
                  0);
    km__order_publish(order, directory);
    if (old)
        km__retire(order->reclaimer, &old->retired, free_retired_directory_only, NULL);
    return KM_OK;
}

void km__order_free_tree(struct order_directory *directory)
{
    if (!directory)
        return;
    for (size_t i = 0; i < directory->count; i++) {
        struct order_group *group = km__order_group(directory, i);
        for (uint32_t cell = 0; cell < group->cell_count; cell++) {
            struct order_block *block = km__order_block(group, cell);
            if (block)
                free_block(directory->pool, block);
        }
        free_group(directory->pool, group);
    }
    km__release(directory->allocator, directory, directory_size(directory->count));
}

static void free_retired_order_tree(void *context, struct retired *retired)
{
    (void)context;
    km__order_free_tree((struct order_directory *)(void *)retired);
}

void km__order_retire_tree(struct insertion_order *order, struct order_directory *directory)
{
    if (directory)
        km__retire(order->reclaimer, &directory->retired, free_retired_order_tree, NULL);
}
