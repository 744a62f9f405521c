/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_arena.c -- records in memory, in the order in which they came, and their sorting.
 *
 * I1. used + count * SEALED_ARENA_REFS <= size: sorting finds its room at the top, and cannot fail.
 *     count <= UINT32_MAX, so it can be counted by 32 bits.
 * I2. Of records with equal keys the one that came last is behind the others when they are sorted.
 *
 * Sorted are references: the first 8 bytes of a key, less what all keys begin with, as a number, by
 * digits of 8 bits from the lowest up; then, among equal numbers, whole keys. A digit that is the
 * same everywhere costs nothing.
 */
#include <string.h>

#include "base/assert.h"
#include "sealed/sealed_internal.h"

#define SEALED_ARENA_REFS (2 * sizeof(struct sealed_ref))
#define SEALED_ARENA_HEADER 8 /* of a record: u32 size of key, u32 size of value */
#define SEALED_DIGITS 8
#define SEALED_DIGIT_VALUES 256
#define SEALED_AHEAD 8 /* records that are fetched before they are needed */

km_status km__sealed_arena_init(struct sealed_arena *arena, const struct allocator *allocator,
                                size_t size)
{
    memset(arena, 0, sizeof(*arena));
    arena->allocator = allocator;
    arena->size = km__round_down(size, SEALED_PAGE);
    arena->bytes = km__map_pages(allocator, arena->size);
    if (!arena->bytes) {
        memset(arena, 0, sizeof(*arena));
        return KM_E_NO_MEMORY;
    }
    km__sealed_arena_clear(arena);
    return KM_OK;
}

void km__sealed_arena_fini(struct sealed_arena *arena)
{
    if (arena->bytes)
        km__unmap_pages(arena->allocator, arena->bytes, arena->size);
    memset(arena, 0, sizeof(*arena));
}

void km__sealed_arena_clear(struct sealed_arena *arena)
{
    arena->used = 0;
    arena->count = 0;
    arena->last = 0;
    arena->is_sorted = 1;
    arena->refs = NULL;
}

int km__sealed_arena_has_room(const struct sealed_arena *arena, km_bytes key, km_bytes value)
{
    size_t room = arena->size - arena->used - arena->count * SEALED_ARENA_REFS;
    size_t need = SEALED_ARENA_HEADER + SEALED_ARENA_REFS;

    if (arena->count >= UINT32_MAX)
        return 0;
    return room >= need && key.size <= room - need && value.size <= room - need - key.size;
}

static km_bytes sealed_arena_key(const struct sealed_arena *arena, size_t offset)
{
    const uint8_t *p = arena->bytes + offset;

    return km_bytes_of(p + SEALED_ARENA_HEADER, km__load32(p));
}

static size_t sealed_arena_next(const struct sealed_arena *arena, size_t offset)
{
    const uint8_t *p = arena->bytes + offset;

    return offset + SEALED_ARENA_HEADER + km__load32(p) + km__load32(p + 4);
}

void km__sealed_arena_add(struct sealed_arena *arena, km_bytes key, km_bytes value)
{
    uint8_t *p = arena->bytes + arena->used;

    KM_ASSERT(km__sealed_arena_has_room(arena, key, value));
    if (arena->count > 0 && arena->is_sorted &&
        km__sealed_compare(sealed_arena_key(arena, arena->last), key) > 0)
        arena->is_sorted = 0;
    km__store32(p, (uint32_t)key.size);
    km__store32(p + 4, (uint32_t)value.size);
    p += SEALED_ARENA_HEADER;
    if (key.size)
        memcpy(p, key.data, key.size);
    if (value.size)
        memcpy(p + key.size, value.data, value.size);
    arena->last = arena->used;
    arena->used += SEALED_ARENA_HEADER + key.size + value.size;
    arena->count++;
}

/* ---- sorting by number ------------------------------------------------------------------- */

static void sealed_count_digits(const struct sealed_ref *refs, size_t count,
                                uint32_t counts[SEALED_DIGITS][SEALED_DIGIT_VALUES])
{
    memset(counts, 0, sizeof(uint32_t) * SEALED_DIGITS * SEALED_DIGIT_VALUES);
    for (size_t i = 0; i < count; i++) {
        uint64_t head = refs[i].head;
        for (int digit = 0; digit < SEALED_DIGITS; digit++, head >>= 8)
            counts[digit][head & 255]++;
    }
}

static void sealed_deal_digit(const struct sealed_ref *from, struct sealed_ref *to, size_t count,
                              int shift, uint32_t starts[SEALED_DIGIT_VALUES])
{
    uint32_t start = 0;

    for (int value = 0; value < SEALED_DIGIT_VALUES; value++) {
        uint32_t size = starts[value];
        starts[value] = start;
        start += size;
    }
    for (size_t i = 0; i < count; i++)
        to[starts[from[i].head >> shift & 255]++] = from[i];
}

void km__sealed_sort_refs(struct sealed_ref *refs, struct sealed_ref *other, size_t count)
{
    uint32_t counts[SEALED_DIGITS][SEALED_DIGIT_VALUES];
    struct sealed_ref *from = refs;
    struct sealed_ref *to = other;

    KM_ASSERT(count <= UINT32_MAX);
    if (count < 2)
        return;
    sealed_count_digits(refs, count, counts);
    for (int digit = 0; digit < SEALED_DIGITS; digit++) {
        struct sealed_ref *dealt = to;
        if (counts[digit][refs[0].head >> (8 * digit) & 255] == count)
            continue; /* the same everywhere */
        sealed_deal_digit(from, to, count, 8 * digit, counts[digit]);
        to = from;
        from = dealt;
    }
    if (from != refs)
        memcpy(refs, from, count * sizeof(*refs));
}

/* ---- sorting by key ---------------------------------------------------------------------- */

/* From two sorted parts to one, the first part's records first among equal ones (I2). */
static void sealed_merge_parts(const struct sealed_arena *arena, const struct sealed_ref *from,
                               struct sealed_ref *to, size_t first_count, size_t count)
{
    size_t a = 0;
    size_t b = first_count;

    for (size_t i = 0; i < count; i++) {
        int takes_first = a < first_count;
        if (takes_first && b < count)
            takes_first = km__sealed_compare(sealed_arena_key(arena, from[a].offset),
                                             sealed_arena_key(arena, from[b].offset)) <= 0;
        to[i] = takes_first ? from[a++] : from[b++];
    }
}

/* References whose numbers are equal. */
static void sealed_sort_equal(const struct sealed_arena *arena, struct sealed_ref *refs,
                              struct sealed_ref *other, size_t count)
{
    struct sealed_ref *from = refs;
    struct sealed_ref *to = other;

    for (size_t width = 1; width < count; width *= 2) {
        struct sealed_ref *merged = to;
        for (size_t at = 0; at < count; at += 2 * width) {
            size_t left = count - at;
            size_t first = left < width ? left : width;
            sealed_merge_parts(arena, from + at, to + at, first,
                               left < 2 * width ? left : 2 * width);
        }
        to = from;
        from = merged;
    }
    if (from != refs)
        memcpy(refs, from, count * sizeof(*refs));
}

static void sealed_sort_ties(const struct sealed_arena *arena, struct sealed_ref *refs,
                             struct sealed_ref *other)
{
    size_t start = 0;

    for (size_t i = 1; i <= arena->count; i++) {
        if (i < arena->count && refs[i].head == refs[start].head)
            continue;
        if (i - start > 1)
            sealed_sort_equal(arena, refs + start, other, i - start);
        start = i;
    }
}

/* What all keys begin with. */
static size_t sealed_arena_prefix_size(const struct sealed_arena *arena)
{
    km_bytes first = sealed_arena_key(arena, 0);
    size_t offset = 0;

    for (size_t i = 0; i < arena->count; i++) {
        first.size = km__sealed_common_prefix(first, sealed_arena_key(arena, offset));
        offset = sealed_arena_next(arena, offset);
    }
    return first.size;
}

void km__sealed_arena_sort(struct sealed_arena *arena)
{
    struct sealed_ref *refs;
    size_t prefix_size, offset = 0;

    /* at a page less a whole number of references: aligned */
    refs = (struct sealed_ref *)(void *)(arena->bytes + arena->size -
                                         arena->count * SEALED_ARENA_REFS);
    KM_ASSERT((uint8_t *)refs >= arena->bytes + arena->used);
    arena->refs = refs;
    if (arena->count == 0)
        return;
    prefix_size = arena->is_sorted ? 0 : sealed_arena_prefix_size(arena);
    for (size_t i = 0; i < arena->count; i++) {
        km_bytes key = sealed_arena_key(arena, offset);
        refs[i].head = km__sealed_head((const uint8_t *)key.data + prefix_size,
                                       key.size - prefix_size);
        refs[i].offset = offset;
        offset = sealed_arena_next(arena, offset);
    }
    if (arena->is_sorted)
        return;
    km__sealed_sort_refs(refs, refs + arena->count, arena->count);
    sealed_sort_ties(arena, refs, refs + arena->count);
}

/* Whether a record has the same key as the one behind it, which came later. */
static int sealed_is_replaced(const struct sealed_arena *arena, size_t index)
{
    const struct sealed_ref *refs = arena->refs;

    if (index + 1 == arena->count || refs[index].head != refs[index + 1].head)
        return 0;
    return km__sealed_compare(sealed_arena_key(arena, refs[index].offset),
                              sealed_arena_key(arena, refs[index + 1].offset)) == 0;
}

km_status km__sealed_arena_write(struct sealed_arena *arena, struct sealed_writer *writer)
{
    for (size_t i = 0; i < arena->count; i++) {
        km_bytes key = sealed_arena_key(arena, arena->refs[i].offset);
        const uint8_t *value = (const uint8_t *)key.data + key.size;
        km_status rc;
        if (i + SEALED_AHEAD < arena->count)
            KM_PREFETCH(arena->bytes + arena->refs[i + SEALED_AHEAD].offset);
        if (sealed_is_replaced(arena, i))
            continue;
        rc = km__sealed_writer_add(writer, key,
                                   km_bytes_of(value, km__load32((const uint8_t *)key.data - 4)));
        if (rc)
            return rc;
    }
    return KM_OK;
}
