/* SPDX-License-Identifier: Apache-2.0
 *
 * insertion_order_read.c -- lookups, positions and walks.
 *
 * A position is found by the live counts of groups, the tallies of one group and the bitmap of one
 * block: the first two stay in the cache, so the block's head and the slot are what is waited for.
 */
#include "index/insertion_order_internal.h"

/* ---- sums */

uint64_t km__order_count(const struct insertion_order *order)
{
    const struct order_directory *directory = km__order_directory(order);
    uint64_t count = 0;

    for (size_t i = 0; directory && i < directory->count; i++)
        count += km__order_range_live(directory, i);
    return count;
}

uint64_t km__order_bytes(const struct insertion_order *order)
{
    return atomic_load_explicit(&order->bytes, memory_order_relaxed);
}

uint64_t km__order_next(const struct insertion_order *order)
{
    return atomic_load_explicit(&order->next, memory_order_relaxed);
}

/* ---- one ordinal */

static uint64_t load_order_slot(const struct order_block *block, uint32_t slot)
{
    /* pairs with km__order_fill_slot(): the record */
    return atomic_load_explicit(&block->slots[slot], memory_order_acquire);
}

static uint64_t load_order_bits(const struct order_block *block, uint32_t word)
{
    /* pairs with km__order_fill_slot(): the slot */
    return atomic_load_explicit(&block->bitmap[word], memory_order_acquire);
}

uint64_t km__order_get(const struct insertion_order *order, uint64_t ordinal)
{
    struct order_place place;

    if (!km__order_find(order, ordinal, &place))
        return 0;
    return load_order_slot(place.block, place.slot) & ORDER_REF_MASK;
}

/* ---- positions */

/* How many of a word's eight lanes hold at most `position`. Lanes and position are below the lanes'
 * top bits, so that no borrow leaves a lane. Plain loops would cost more, by the branches that end
 * them and that nobody can predict, than all of this: a select in the cache took 140 ns with them
 * and takes 60. */
static uint32_t bytes_up_to(uint64_t lanes, uint64_t position)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t reached = ((position * ones) | ones << 7) - lanes;

    return (uint32_t)((((reached >> 7) & ones) * ones) >> 56);
}

/* The same of four lanes of 16 bits. */
static uint32_t tallies_up_to(uint64_t lanes, uint64_t position)
{
    const uint64_t ones = UINT64_C(0x0001000100010001);
    uint64_t reached = ((position * ones) | ones << 15) - lanes;

    return (uint32_t)((((reached >> 15) & ones) * ones) >> 48);
}

/* The bit of a word that has so many set ones below it; any bit if it has not so many. */
static uint32_t nth_bit(uint64_t word, uint32_t position)
{
    /* in each byte: the bits set in it and below */
    uint64_t sums = km__order_byte_counts(word) * UINT64_C(0x0101010101010101);
    uint32_t shift = bytes_up_to(sums, position) * 8 & 63;

    position -= (uint32_t)((sums << 8) >> shift) & 0xff;
    for (uint32_t width = 4; width > 0; width /= 2) {
        uint32_t bits = (uint32_t)(word >> shift) & ((1u << width) - 1);
        /* the digits are the numbers of bits of 15 to 0 */
        uint32_t count = (uint32_t)(UINT64_C(0x4332322132212110) >> (bits * 4)) & 15;
        uint32_t is_past = position >= count;
        position -= is_past * count;
        shift += is_past * width;
    }
    return shift;
}

/* The slot of a position in a block; ORDER_NO_SLOT if there are not so many. */
static uint32_t slot_at(const struct order_block *block, uint64_t position)
{
    uint32_t word = 0;
    uint64_t sum = 0;
    uint64_t below = 0;

    for (uint32_t i = 0; i < ORDER_BITMAP_WORDS; i++) {
        sum += km__order_bit_count(load_order_bits(block, i));
        word += sum <= position;
        below = sum <= position ? sum : below;
    }
    if (word == ORDER_BITMAP_WORDS)
        return ORDER_NO_SLOT;
    return word * 64 + nth_bit(load_order_bits(block, word), (uint32_t)(position - below));
}

/* The cell of a position in a group; the last one if there are not so many. */
static uint32_t cell_at(const struct order_group *group, uint64_t *inout_position)
{
    uint32_t word_count = km__order_tally_words(group->cell_count);
    uint64_t tallies;
    uint32_t word = 0;
    uint32_t lane;

    for (; word + 4 < word_count; word += 4) { /* lanes of 16 bits hold the sums of 4 tallies */
        uint32_t sum = km__order_sum_tallies(
            km__order_tally_word(group, word) + km__order_tally_word(group, word + 1) +
            km__order_tally_word(group, word + 2) + km__order_tally_word(group, word + 3));
        if (*inout_position < sum)
            break;
        *inout_position -= sum;
    }
    for (; word + 1 < word_count; word++) {
        uint32_t sum = km__order_sum_tallies(km__order_tally_word(group, word));
        if (*inout_position < sum)
            break;
        *inout_position -= sum;
    }
    tallies = km__order_tally_word(group, word) * UINT64_C(0x0001000100010001);
    if (*inout_position >= tallies >> 48)
        return group->cell_count - 1;
    lane = tallies_up_to(tallies, *inout_position);
    *inout_position -= ((tallies << 16) >> (16 * lane)) & 0xffff;
    return word * 4 + lane;
}

/* Counts and bits did not agree, since writers are at work: what is nearest will do. */
static KM_NOINLINE uint64_t select_near_slow(const struct insertion_order *order, uint64_t ordinal,
                                             uint64_t *out_ref)
{
    struct order_entry entry;

    if (!km__order_read_up(order, ordinal, &entry, 1) &&
        !km__order_read_down(order, ordinal, &entry, 1))
        return ORDER_NONE;
    *out_ref = entry.ref;
    return entry.ordinal;
}

uint64_t km__order_select(const struct insertion_order *order, uint64_t position, uint64_t *out_ref)
{
    const struct order_directory *directory = km__order_directory(order);
    const struct order_group *group;
    const struct order_block *block;
    uint64_t value = 0;
    uint32_t cell;
    uint32_t slot;
    size_t i;

    for (i = 0; directory && i < directory->count; i++) {
        uint64_t live = km__order_range_live(directory, i);
        if (position < live)
            break;
        position -= live;
    }
    if (!directory || i == directory->count)
        return ORDER_NONE;
    group = km__order_group(directory, i);
    cell = cell_at(group, &position);
    block = km__order_block(group, cell);
    slot = block ? slot_at(block, position) : ORDER_NO_SLOT;
    if (slot != ORDER_NO_SLOT)
        value = load_order_slot(block, slot);
    if ((value & ORDER_REF_MASK) == 0)
        return select_near_slow(order, km__order_cell_first(group, cell), out_ref);
    *out_ref = value & ORDER_REF_MASK;
    return km__order_ordinal_at(block, slot, value);
}

/* How many of a block are smaller. */
static uint64_t rank_in_block(const struct order_block *block, uint64_t ordinal)
{
    uint32_t slot = km__order_lower_slot(block, ordinal);
    uint64_t count = 0;

    for (uint32_t word = 0; word < slot / 64; word++)
        count += km__order_bit_count(load_order_bits(block, word));
    if (slot % 64 != 0)
        count += km__order_bit_count(load_order_bits(block, slot / 64) << (64 - slot % 64));
    return count;
}

static uint64_t rank_in_group(const struct order_group *group, uint64_t ordinal)
{
    uint32_t cell = km__order_cell_of(group, ordinal);
    const struct order_block *block = km__order_block(group, cell);
    uint64_t count = 0;

    for (uint32_t word = 0; word < cell / 4; word++)
        count += km__order_sum_tallies(km__order_tally_word(group, word));
    for (uint32_t i = cell / 4 * 4; i < cell; i++)
        count += km__order_tally(group, i);
    return count + (block ? rank_in_block(block, ordinal) : 0);
}

uint64_t km__order_rank(const struct insertion_order *order, uint64_t ordinal)
{
    const struct order_directory *directory = km__order_directory(order);
    const struct order_group *group;
    uint64_t count = 0;
    size_t index;

    index = directory ? km__order_groups_up_to(directory, ordinal) : 0;
    if (index == 0)
        return 0;
    for (size_t i = 0; i + 1 < index; i++)
        count += km__order_range_live(directory, i);
    group = km__order_group(directory, index - 1);
    if (ordinal >= km__order_group_end(group))
        return count + km__order_live(group);
    return count + rank_in_group(group, ordinal);
}

/* ---- walks */

/* A walk under way. */
struct order_reading {
    uint64_t ordinal;
    struct order_entry *entries;
    size_t count;
    size_t max;
};

static inline void read_slot(struct order_reading *reading, const struct order_block *block,
                             uint32_t slot)
{
    uint64_t value = load_order_slot(block, slot);
    struct order_entry *entry = &reading->entries[reading->count];

    entry->ordinal = km__order_ordinal_at(block, slot, value);
    entry->ref = value & ORDER_REF_MASK;
    reading->count += entry->ref != 0; /* 0: it is just being cleared */
}

static void read_block_up(struct order_reading *reading, const struct order_block *block)
{
    uint32_t slot = km__order_lower_slot(block, reading->ordinal);
    uint64_t mask = ~UINT64_C(0) << (slot % 64);

    for (uint32_t word = slot / 64; word < ORDER_BITMAP_WORDS; word++) {
        uint64_t bits = load_order_bits(block, word) & mask;
        for (; bits && reading->count < reading->max; bits &= bits - 1)
            read_slot(reading, block, word * 64 + (uint32_t)__builtin_ctzll(bits));
        mask = ~UINT64_C(0);
    }
}

static void read_group_up(struct order_reading *reading, const struct order_group *group)
{
    uint32_t cell = 0;

    if (reading->ordinal >= km__order_group_end(group))
        return;
    if (reading->ordinal > group->first)
        cell = km__order_cell_of(group, reading->ordinal);
    for (; cell < group->cell_count && reading->count < reading->max; cell++) {
        if (km__order_tally(group, cell) != 0)
            read_block_up(reading, km__order_block(group, cell));
    }
}

size_t km__order_read_up(const struct insertion_order *order, uint64_t ordinal,
                         struct order_entry *entries, size_t max)
{
    const struct order_directory *directory = km__order_directory(order);
    struct order_reading reading = {ordinal, entries, 0, max};
    size_t index;

    if (!directory)
        return 0;
    index = km__order_groups_up_to(directory, ordinal);
    for (size_t i = index ? index - 1 : 0; i < directory->count && reading.count < max; i++)
        read_group_up(&reading, km__order_group(directory, i));
    return reading.count;
}

static void read_block_down(struct order_reading *reading, const struct order_block *block)
{
    /* behind the last one that is to be read; ordinals are below ORDER_ORDINAL_END */
    uint32_t slot = km__order_lower_slot(block, reading->ordinal + 1);
    uint64_t mask = slot % 64 ? ~(~UINT64_C(0) << (slot % 64)) : 0;

    for (uint32_t word = slot / 64 + 1; word > 0; word--) {
        uint64_t bits = word <= ORDER_BITMAP_WORDS ? load_order_bits(block, word - 1) & mask : 0;
        while (bits && reading->count < reading->max) { /* ends: each turn takes a bit */
            uint32_t top = 63 - (uint32_t)__builtin_clzll(bits);
            read_slot(reading, block, (word - 1) * 64 + top);
            bits ^= UINT64_C(1) << top;
        }
        mask = ~UINT64_C(0);
    }
}

static void read_group_down(struct order_reading *reading, const struct order_group *group)
{
    uint32_t cell = group->cell_count;

    if (reading->ordinal < km__order_group_end(group))
        cell = km__order_cell_of(group, reading->ordinal) + 1;
    for (; cell > 0 && reading->count < reading->max; cell--) {
        if (km__order_tally(group, cell - 1) != 0)
            read_block_down(reading, km__order_block(group, cell - 1));
    }
}

size_t km__order_read_down(const struct insertion_order *order, uint64_t ordinal,
                           struct order_entry *entries, size_t max)
{
    const struct order_directory *directory = km__order_directory(order);
    uint64_t last = ordinal < ORDER_ORDINAL_END ? ordinal : ORDER_ORDINAL_END - 1;
    struct order_reading reading = {last, entries, 0, max};

    if (!directory)
        return 0;
    for (size_t i = km__order_groups_up_to(directory, last); i > 0 && reading.count < max; i--)
        read_group_down(&reading, km__order_group(directory, i - 1));
    return reading.count;
}
