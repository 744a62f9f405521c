/* SPDX-License-Identifier: Apache-2.0
 *
 * insertion_order_tidy.c -- pack what deletes have left sparse.
 *
 * A pass goes through the groups once, some blocks a call. A run of neighbouring blocks, each with
 * a quarter or more empty, becomes one packed block, if that can hold them together and they span
 * less than ORDER_SPAN; blocks that hold nothing go. What is left of a group that changed is an
 * uneven group, which is joined with the one before it where both are small. So after a pass
 * blocks are more than half full, or as small as they can be, and of neighbouring groups together
 * have more than ORDER_UNEVEN_CELLS cells, or one of them is as inserts made it.
 *
 * Cells that end above `next` stay: they become an even group of their own.
 *
 * No writer is inside, so what is copied does not change; readers that are go on in what was there.
 * A plan is made in full before anything of it is seen; lack of memory gives it up.
 */
#include "index/insertion_order_internal.h"

#include <string.h>

#define TIDY_LIVE_MAX (ORDER_BLOCK_SLOTS / 4 * 3) /* a block that holds more is left alone */
#define TIDY_CELLS_MAX (ORDER_EVEN_CELLS + 2u)
#define TIDY_BUDGET_MIN 4u /* a group, a block that was packed before, and others */
#define TIDY_SLACK 512     /* slots that may lie empty in the smallest order */

/* What becomes of a group. */
struct tidy_plan {
    struct insertion_order *order;
    struct order_group *group;
    struct order_group *previous; /* its cells come first; NULL: it is not joined */
    uint32_t closed_count;        /* of the group's cells: the others stay as they are */
    uint32_t budget;              /* blocks that may still be packed, now or by later plans */
    uint64_t stop;                /* everything below it has been dealt with */
    uint32_t count;
    uint32_t new_count;
    uint32_t gone_count;
    int failed;
    uint64_t end; /* of the last cell */
    struct order_cell cells[TIDY_CELLS_MAX];
    uint8_t is_gone[ORDER_EVEN_CELLS]; /* of the group's cells: their blocks are to be retired */
};

/* Neighbouring cells that become one. */
struct tidy_run {
    uint32_t begin;
    uint32_t end;
    uint32_t live;
    uint32_t live_cell; /* the last of those that hold anything */
    uint32_t live_count;
    uint64_t base;
};

int km__order_is_untidy(const struct insertion_order *order)
{
    /* relaxed, all three: only a hint */
    int64_t waste = atomic_load_explicit(&order->waste, memory_order_relaxed);
    uint64_t room = atomic_load_explicit(&order->room, memory_order_relaxed);

    if (atomic_load_explicit(&order->tidy_at, memory_order_relaxed) != 0)
        return 1;
    return waste > TIDY_SLACK + (int64_t)(room / 8);
}

/* ---- one group */

/* How many of its cells lie below all ordinals that can still be taken. */
static uint32_t closed_cells(const struct insertion_order *order, const struct order_group *group)
{
    /* relaxed: no writer is inside */
    uint64_t next = atomic_load_explicit(&order->next, memory_order_relaxed);

    if (!group->cell_bits || km__order_group_end(group) <= next)
        return group->cell_count;
    return next > group->first ? (uint32_t)((next - group->first) >> group->cell_bits) : 0;
}

static void add_cell(struct tidy_plan *plan, const struct order_cell *cell, uint64_t end)
{
    struct order_cell *last = plan->count ? &plan->cells[plan->count - 1] : NULL;

    KM_ASSERT(plan->count + 2 <= TIDY_CELLS_MAX);
    if (last && last->block && !last->block->is_packed && plan->end < cell->first) {
        plan->cells[plan->count] = (struct order_cell){plan->end, NULL, 0, 0};
        plan->count++; /* I2: nothing but its slots belongs to a dense block's cell */
    }
    plan->cells[plan->count] = *cell;
    plan->count++;
    plan->end = end;
}

static void keep_cell(struct tidy_plan *plan, uint32_t cell, uint64_t first, uint64_t end)
{
    struct order_cell kept = {first, km__order_block(plan->group, cell),
                              km__order_tally(plan->group, cell), 0};

    add_cell(plan, &kept, end);
}

/* Whether a block may become part of a packed one. Full ones of a small order's first group may
 * not: they hold few, but are as small. */
static int is_packable(const struct order_group *group, uint32_t cell)
{
    const struct order_block *block = km__order_block(group, cell);
    uint32_t live = km__order_tally(group, cell);

    return block && live <= TIDY_LIVE_MAX && (block->is_packed || live * 4 <= block->capacity * 3u);
}

static uint64_t last_ordinal(const struct order_block *block)
{
    uint32_t slot = km__order_slot_count(block) - 1;

    return km__order_ordinal_at(block, slot, km__order_peek(block, slot));
}

/* Add a cell's block to a run; 0 if it does not go with the others. */
static int join_run(struct tidy_run *run, const struct order_group *group, uint32_t cell)
{
    const struct order_block *block = km__order_block(group, cell);
    uint32_t live = km__order_tally(group, cell);

    if (live == 0)
        return 1;
    if (run->live == 0)
        run->base = block->base;
    if (run->live + live > ORDER_BLOCK_SLOTS || last_ordinal(block) - run->base >= ORDER_SPAN)
        return 0; /* never of the first: that spans no more than it did */
    run->live += live;
    run->live_cell = cell;
    run->live_count++;
    return 1;
}

/* The run that begins at a packable cell. */
static struct tidy_run find_tidy_run(struct tidy_plan *plan, uint32_t cell)
{
    struct tidy_run run = {.begin = cell, .end = cell};

    for (; run.end < plan->closed_count; run.end++) {
        if (!km__order_block(plan->group, run.end))
            continue;
        if (plan->budget == 0 || !is_packable(plan->group, run.end) ||
            !join_run(&run, plan->group, run.end))
            break;
        plan->budget--;
    }
    return run;
}

/* Whether a run is one block that could not be smaller. */
static int is_best(const struct tidy_plan *plan, const struct tidy_run *run)
{
    const struct order_block *block = km__order_block(plan->group, run->live_cell);

    return run->live_count == 1 && km__order_packed_capacity(run->live) == block->capacity;
}

static struct order_block *pack_blocks(const struct tidy_plan *plan, const struct tidy_run *run)
{
    struct order_entry entries[2 * ORDER_BLOCK_SLOTS];
    size_t count = 0;

    for (uint32_t cell = run->begin; cell < run->end; cell++) {
        const struct order_block *block = km__order_block(plan->group, cell);
        if (block) /* what it adds to is at most ORDER_BLOCK_SLOTS */
            count += km__order_gather(block, entries + count);
    }
    KM_ASSERT(count == run->live);
    return km__order_create_packed(plan->order, entries, count, km__order_packed_capacity(count));
}

/* Deal with the cells from a packable one on; returns the first behind them. */
static uint32_t plan_run(struct tidy_plan *plan, uint32_t cell)
{
    struct tidy_run run = find_tidy_run(plan, cell);
    uint64_t first = km__order_cell_first(plan->group, run.begin);
    uint64_t end = km__order_cell_end(plan->group, run.end - 1);
    uint32_t kept = ORDER_EVEN_CELLS; /* no cell */
    struct order_cell packed = {.first = first, .live = run.live, .is_new = 1};

    if (run.live > 0 && is_best(plan, &run)) {
        kept = run.live_cell;
        keep_cell(plan, kept, km__order_cell_first(plan->group, kept),
                  km__order_cell_end(plan->group, kept));
    } else if (run.live > 0) {
        packed.block = pack_blocks(plan, &run);
        if (!packed.block) {
            plan->failed = 1;
            return plan->closed_count;
        }
        add_cell(plan, &packed, end);
        plan->new_count++;
    }
    if (plan->budget == 0 && run.live <= TIDY_LIVE_MAX)
        plan->stop = first; /* it may go on */
    for (uint32_t i = run.begin; i < run.end; i++) {
        plan->is_gone[i] = km__order_block(plan->group, i) && i != kept;
        plan->gone_count += plan->is_gone[i];
    }
    return run.end;
}

static void plan_cells(struct tidy_plan *plan)
{
    const struct order_group *group = plan->group;
    /* relaxed: stored under the lock */
    uint64_t begin = atomic_load_explicit(&plan->order->tidy_at, memory_order_relaxed);
    uint32_t cell = 0;

    while (cell < plan->closed_count) { /* ends: each turn moves on */
        uint64_t first = km__order_cell_first(group, cell);

        if (!km__order_block(group, cell)) {
            cell++;
        } else if (first < begin || plan->budget == 0 || !is_packable(group, cell)) {
            if (plan->budget == 0 && first >= begin && first < plan->stop)
                plan->stop = first;
            keep_cell(plan, cell, first, km__order_cell_end(group, cell));
            cell++;
        } else {
            cell = plan_run(plan, cell);
        }
    }
}

/* ---- carrying it out */

/* Blocks go from their cells, which stay: enough for a group that inserts made. */
static void drop_in_place(struct tidy_plan *plan)
{
    for (uint32_t cell = 0; cell < plan->closed_count; cell++) {
        struct order_block *block = km__order_block(plan->group, cell);
        if (plan->is_gone[cell]) {
            km__order_set_block(plan->group, cell, NULL);
            km__order_retire_block(plan->order, block);
        }
    }
}

/* The cells that are not closed, as an even group; NULL if there is no memory. */
static struct order_group *copy_open_cells(const struct tidy_plan *plan)
{
    const struct order_group *old = plan->group;
    struct order_group *group = km__order_create_even(plan->order,
                                                      km__order_cell_first(old, plan->closed_count),
                                                      km__order_group_end(old), old->cell_bits);

    for (uint32_t cell = plan->closed_count; group && cell < old->cell_count; cell++)
        km__order_put_cell(group, cell - plan->closed_count, km__order_block(old, cell),
                           km__order_tally(old, cell));
    return group;
}

/* Let the cells of the group before this one come first. */
static void join_previous(struct tidy_plan *plan, struct order_group *previous)
{
    struct order_cell own[ORDER_UNEVEN_CELLS];
    uint32_t own_count = plan->count;
    uint64_t end = plan->end;

    memcpy(own, plan->cells, own_count * sizeof(own[0]));
    plan->count = 0;
    for (uint32_t cell = 0; cell < previous->cell_count; cell++) {
        struct order_cell copy = {km__order_cell_first(previous, cell),
                                  km__order_block(previous, cell), km__order_tally(previous, cell),
                                  0};
        add_cell(plan, &copy, km__order_cell_end(previous, cell));
    }
    for (uint32_t i = 0; i < own_count; i++) {
        uint64_t cell_end = i + 1 < own_count ? own[i + 1].first : end;
        add_cell(plan, &own[i], cell_end);
    }
    if (own[0].live + km__order_tally(previous, previous->cell_count - 1) <= ORDER_BLOCK_SLOTS)
        plan->stop = km__order_cell_first(previous, previous->cell_count - 1);
    plan->previous = previous;
}

/* The groups that the plan makes; returns how many, and sets `failed`. */
static size_t make_groups(struct tidy_plan *plan, struct order_group **groups)
{
    uint32_t count = 0;

    if (plan->count > 0) {
        count = km__order_build_groups(plan->order, plan->cells, plan->count, plan->end, groups);
        plan->failed = count == 0;
    }
    if (!plan->failed && plan->closed_count < plan->group->cell_count) {
        groups[count] = copy_open_cells(plan);
        plan->failed = groups[count] == NULL;
        count += !plan->failed;
    }
    return count;
}

/* Put the plan in the place of its groups; `index` is the position of the last of them. */
static void replace_groups(struct tidy_plan *plan, size_t index)
{
    struct insertion_order *order = plan->order;
    struct order_group *groups[3];
    size_t removed = plan->previous ? 2 : 1;
    size_t added = make_groups(plan, groups);

    if (!plan->failed)
        plan->failed = km__order_splice(order, index + 1 - removed, removed, groups, added) != 0;
    for (size_t i = 0; i < added && plan->failed; i++)
        km__order_discard_group(order, groups[i]);
    if (plan->failed)
        return;
    for (uint32_t cell = 0; cell < plan->closed_count; cell++) {
        if (plan->is_gone[cell])
            km__order_retire_block(order, km__order_block(plan->group, cell));
    }
    km__order_retire_group(order, plan->group);
    if (plan->previous)
        km__order_retire_group(order, plan->previous);
}

/* Whether the group has so many empty cells that it is better off uneven. */
static int is_hollow(const struct tidy_plan *plan)
{
    return plan->closed_count == plan->group->cell_count &&
           plan->count < plan->group->cell_count / 2;
}

static void carry_out(struct tidy_plan *plan, size_t index)
{
    struct order_group *previous = index > 0 ? km__order_group(km__order_directory(plan->order),
                                                               index - 1)
                                             : NULL;
    int is_even = plan->group->cell_bits != 0;
    int is_replaced = plan->new_count > 0 || (is_even ? is_hollow(plan) : plan->gone_count > 0);

    if (previous && !previous->cell_bits && (is_replaced || !is_even) && plan->count > 0 &&
        previous->cell_count + 1 + plan->count <= ORDER_UNEVEN_CELLS) {
        join_previous(plan, previous);
        is_replaced = 1;
    }
    if (is_replaced)
        replace_groups(plan, index);
    else
        drop_in_place(plan);
}

/* Deal with one group, or a part of it. Returns 0 if there was no memory. */
static int tidy_group(struct tidy_plan *plan, size_t index)
{
    plan->group = km__order_group(km__order_directory(plan->order), index);
    plan->previous = NULL;
    plan->closed_count = closed_cells(plan->order, plan->group);
    plan->stop = km__order_group_end(plan->group);
    plan->count = 0;
    plan->new_count = 0;
    plan->gone_count = 0;
    plan->end = 0;
    memset(plan->is_gone, 0, sizeof(plan->is_gone));
    plan_cells(plan);
    if (!plan->failed)
        carry_out(plan, index);
    for (uint32_t i = 0; i < plan->count && plan->failed; i++) {
        if (plan->cells[i].is_new)
            km__order_discard_block(plan->order, plan->cells[i].block);
    }
    return !plan->failed;
}

/* ---- the pass */

/* The first group that reaches above an ordinal; the number of groups if there is none. */
static size_t first_group_above(const struct order_directory *directory, uint64_t ordinal)
{
    size_t index = km__order_groups_up_to(directory, ordinal);

    if (index > 0 && km__order_group_end(km__order_group(directory, index - 1)) > ordinal)
        return index - 1;
    return index;
}

/* Go on with the pass; returns 1 if it is not over. */
static int tidy_on(struct tidy_plan *plan)
{
    struct insertion_order *order = plan->order;

    while (plan->budget > 0) { /* ends: each turn takes from the budget */
        struct order_directory *directory = km__order_directory(order);
        /* relaxed: stored under the lock */
        uint64_t at = atomic_load_explicit(&order->tidy_at, memory_order_relaxed);
        size_t index = directory ? first_group_above(directory, at) : 0;

        if (!directory || index == directory->count)
            return 0;
        plan->budget--;
        if (!tidy_group(plan, index))
            return 0;
        atomic_store_explicit(&order->tidy_at, plan->stop, memory_order_relaxed);
    }
    return 1;
}

int km__order_tidy(struct insertion_order *order, uint32_t budget)
{
    struct tidy_plan plan;
    int goes_on;

    plan.order = order;
    plan.budget = (budget < TIDY_BUDGET_MIN ? TIDY_BUDGET_MIN : budget) + 1;
    plan.failed = 0;
    km__mutex_lock(&order->change_lock);
    /* relaxed, here and below: stored under the lock */
    if (atomic_load_explicit(&order->tidy_at, memory_order_relaxed) == 0)
        order->waste_before_pass = atomic_load_explicit(&order->waste, memory_order_relaxed);
    goes_on = tidy_on(&plan);
    if (!goes_on) {
        atomic_store_explicit(&order->tidy_at, 0, memory_order_relaxed);
        km__order_add_waste(order, -order->waste_before_pass);
    }
    km__mutex_unlock(&order->change_lock);
    return goes_on;
}
