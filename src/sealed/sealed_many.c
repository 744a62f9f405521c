/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_many.c -- many keys at once: first all are looked up in the index and its filters, then
 * the blocks that may have them are visited in the order of the file, neighbours in one read.
 *
 * I1. Answers do not depend on the order of the keys; equal keys have equal answers.
 * I2. A read takes SEALED_MANY_READ bytes at most, unless one block is larger, and between two
 *     blocks in it that are wanted lie SEALED_MANY_GAP bytes at most.
 */
#include <string.h>

#include "base/buffer.h"
#include "sealed/sealed_internal.h"

#define SEALED_MANY_READ ((uint64_t)256 << 10)
#define SEALED_MANY_GAP ((uint64_t)16 << 10)
#define SEALED_MANY_KEYS ((size_t)32 << 10) /* that are looked up at once: 4 MiB of memory */
#define SEALED_MANY_BATCH 16                /* keys that wait for memory together */

/* Which key, and in which block it may be. */
struct sealed_wanted {
    struct sealed_place place;
    uint64_t hash;
    const uint8_t *filter;
    uint32_t filter_size;
};

struct sealed_many {
    const km_sealed *table;
    const km_bytes *keys;
    size_t count;
    struct sealed_wanted *wanted; /* one for each key */
    struct sealed_ref *refs;      /* to those that may be there, sorted; then room for sorting */
    size_t ref_count;
    size_t room; /* for references, and again for sorting them */
    km_buffer *memory;
    km_bytes *out_values; /* until all are there, data is NULL or a place in memory, plus 1 */
    km_buffer read;       /* what was read at once */
    km_buffer plain;      /* the block that is looked at, if it was compressed */
    size_t found_count;
};

/* ---- lookup ------------------------------------------------------------------------------ */

static void sealed_many_locate(struct sealed_many *many, size_t index, uint32_t number)
{
    struct sealed_wanted *wanted = &many->wanted[index];
    km_bytes key = many->keys[index];
    struct sealed_group group;

    km__sealed_place_in_group(many->table, number, key, &group, &wanted->place);
    wanted->filter = km__sealed_group_filter(&group, wanted->place.index, &wanted->filter_size);
    wanted->hash = km__sealed_hash(key.data, key.size);
    KM_PREFETCH(wanted->filter);
    KM_PREFETCH(wanted->filter + wanted->filter_size - 1);
}

static void sealed_many_filter(struct sealed_many *many, size_t index)
{
    const struct sealed_wanted *wanted = &many->wanted[index];

    if (!km__sealed_filter_may_have(wanted->filter, wanted->filter_size, wanted->hash))
        return;
    many->refs[many->ref_count].head = wanted->place.offset;
    many->refs[many->ref_count].offset = index;
    many->ref_count++;
}

/* In steps, each for a batch of keys: what one step fetches is there when the next one needs it. */
static void sealed_many_look_up(struct sealed_many *many)
{
    uint32_t numbers[SEALED_MANY_BATCH];

    for (size_t at = 0; at < many->count; at += SEALED_MANY_BATCH) {
        size_t left = many->count - at;
        size_t size = left < SEALED_MANY_BATCH ? left : SEALED_MANY_BATCH;
        for (size_t i = 0; i < size; i++)
            numbers[i] = km__sealed_find_group(many->table, many->keys[at + i]);
        for (size_t i = 0; i < size; i++)
            sealed_many_locate(many, at + i, numbers[i]);
        for (size_t i = 0; i < size; i++)
            sealed_many_filter(many, at + i);
    }
    km__sealed_sort_refs(many->refs, many->refs + many->room, many->ref_count);
}

/* ---- blocks ------------------------------------------------------------------------------ */

/* Copy what a key has in a block. */
static km_status sealed_many_copy(struct sealed_many *many, size_t index,
                                  const struct sealed_block *block, uint32_t record)
{
    km_buffer *memory = many->memory;
    km_bytes value = {NULL, 0};
    km_status rc = km__sealed_block_checked_value(block, record, &value);

    if (rc)
        return rc;
    if (value.size > SIZE_MAX / 4 - memory->size)
        return KM_E_NO_MEMORY;
    rc = km__buffer_reserve(memory, memory->size + value.size + 1); /* 1: an empty value is some */
    if (rc)
        return rc;
    if (value.size)
        memcpy((uint8_t *)memory->data + memory->size, value.data, value.size);
    many->out_values[index] = km_bytes_of((const void *)(uintptr_t)(memory->size + 1), value.size);
    memory->size += value.size;
    many->found_count++;
    return KM_OK;
}

static km_status sealed_many_take(struct sealed_many *many, size_t index,
                                  const struct sealed_block *block)
{
    uint32_t record = 0;
    km_status rc = km__sealed_block_find(block, many->keys[index], &record);

    if (rc)
        return rc == KM_NOT_FOUND ? KM_OK : rc;
    return sealed_many_copy(many, index, block, record);
}

static const struct sealed_place *sealed_many_place(const struct sealed_many *many, size_t ref)
{
    return &many->wanted[many->refs[ref].offset].place;
}

/* How many references from `start` on one read serves. */
static size_t sealed_many_run(const struct sealed_many *many, size_t start, uint64_t *out_size)
{
    const struct sealed_place *place = sealed_many_place(many, start);
    uint64_t begin = place->offset;
    uint64_t end = begin + place->size;
    size_t ref = start + 1;

    for (; ref < many->ref_count; ref++) {
        place = sealed_many_place(many, ref);
        if (place->offset > end + SEALED_MANY_GAP ||
            (place->offset >= end && place->offset + place->size - begin > SEALED_MANY_READ))
            break;
        if (place->offset + place->size > end)
            end = place->offset + place->size;
    }
    *out_size = end - begin;
    return ref - start;
}

/* Answer the references of one read, whose bytes are at `bytes`. */
static km_status sealed_many_answer(struct sealed_many *many, size_t start, size_t count,
                                    const uint8_t *bytes)
{
    uint64_t begin = sealed_many_place(many, start)->offset;
    struct sealed_block block = {0};
    km_status rc = KM_OK;

    for (size_t ref = start; !rc && ref < start + count; ref++) {
        const struct sealed_place *place = sealed_many_place(many, ref);
        if (ref == start || place->offset != sealed_many_place(many, ref - 1)->offset)
            rc = km__sealed_decode_place(many->table, place, bytes + (place->offset - begin),
                                         &many->plain, &block);
        if (!rc)
            rc = sealed_many_take(many, (size_t)many->refs[ref].offset, &block);
    }
    return rc;
}

static km_status sealed_many_read(struct sealed_many *many, size_t start, size_t count,
                                  uint64_t size)
{
    const km_sealed *table = many->table;
    uint64_t offset = sealed_many_place(many, start)->offset;
    km_status rc;

    if (size > SIZE_MAX / 4)
        return KM_E_NO_MEMORY;
    rc = km__buffer_reserve(&many->read, (size_t)size);
    if (!rc)
        rc = table->os->ops->read_at(table->file, offset, many->read.data, (size_t)size);
    if (rc)
        return rc;
    return sealed_many_answer(many, start, count, many->read.data);
}

/* ---- mapped blocks ----------------------------------------------------------------------- */

/* Where a key was found; its block's count is 0 if it was not. */
struct sealed_hit {
    struct sealed_block block;
    uint32_t record;
};

static km_status sealed_many_find(struct sealed_many *many, size_t ref, struct sealed_hit *hit)
{
    const struct sealed_place *place = sealed_many_place(many, ref);
    km_bytes key = many->keys[many->refs[ref].offset];
    km_bytes value = {NULL, 0};
    km_status rc = km__sealed_decode_place(many->table, place, many->table->map + place->offset,
                                           NULL, &hit->block);

    if (!rc)
        rc = km__sealed_block_find(&hit->block, key, &hit->record);
    if (rc == KM_NOT_FOUND) {
        hit->block.count = 0;
        return KM_OK;
    }
    if (!rc)
        rc = km__sealed_block_value(&hit->block, hit->record, &value);
    if (!rc && value.size) {
        /* the pieces that are checked are about so many lines; those behind the block are no fault
         */
        const uint8_t *line = (const uint8_t *)value.data - SEALED_PIECE_SIZE / 2;
        for (; line < (const uint8_t *)value.data + value.size; line += KM_CACHE_LINE)
            KM_PREFETCH(line);
    }
    return rc;
}

/* One key after the other, but in steps as in the lookup. */
static km_status sealed_many_answer_mapped(struct sealed_many *many, size_t start, size_t count)
{
    struct sealed_hit hits[SEALED_MANY_BATCH];
    km_status rc = KM_OK;

    for (size_t i = 0; i < count; i++)
        km__sealed_prefetch_block(many->table, sealed_many_place(many, start + i)->offset);
    for (size_t i = 0; !rc && i < count; i++)
        rc = sealed_many_find(many, start + i, &hits[i]);
    for (size_t i = 0; !rc && i < count; i++) {
        if (hits[i].block.count > 0)
            rc = sealed_many_copy(many, (size_t)many->refs[start + i].offset, &hits[i].block,
                                  hits[i].record);
    }
    return rc;
}

/* How many references from `start` on are to mapped blocks that have no wanted neighbours. */
static size_t sealed_many_lone(const struct sealed_many *many, size_t start)
{
    size_t count = 0;

    while (count < SEALED_MANY_BATCH && start + count < many->ref_count) {
        const struct sealed_place *place = sealed_many_place(many, start + count);
        uint64_t size = 0;
        size_t run = sealed_many_run(many, start + count, &size);
        if (size != place->size || !km__sealed_is_mapped(many->table, place) ||
            run > SEALED_MANY_BATCH - count)
            break;
        count += run;
    }
    return count;
}

static km_status sealed_many_visit(struct sealed_many *many)
{
    km_status rc = KM_OK;
    size_t count;

    for (size_t ref = 0; !rc && ref < many->ref_count; ref += count) {
        count = sealed_many_lone(many, ref);
        if (count > 0) {
            rc = sealed_many_answer_mapped(many, ref, count);
        } else {
            uint64_t size = 0;
            count = sealed_many_run(many, ref, &size);
            rc = sealed_many_read(many, ref, count, size);
        }
    }
    return rc;
}

/* ---- all together ------------------------------------------------------------------------ */

static km_status sealed_many_part(struct sealed_many *many)
{
    sealed_many_look_up(many);
    return sealed_many_visit(many);
}

static km_status sealed_many_in_parts(struct sealed_many *many, size_t count)
{
    const km_bytes *keys = many->keys;
    km_bytes *out_values = many->out_values;
    km_status rc = KM_OK;

    for (size_t at = 0; !rc && at < count; at += many->count) {
        many->count = count - at < SEALED_MANY_KEYS ? count - at : SEALED_MANY_KEYS;
        many->keys = keys + at;
        many->out_values = out_values + at;
        many->ref_count = 0;
        rc = sealed_many_part(many);
    }
    return rc;
}

/* Values get their addresses when memory moves no more. */
static void sealed_many_point(const km_buffer *memory, km_bytes *out_values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (out_values[i].data)
            out_values[i].data = (const uint8_t *)memory->data +
                                 ((uintptr_t)out_values[i].data - 1);
    }
}

static km_status sealed_many_check(const km_sealed *table, const km_bytes *keys, size_t count,
                                   km_bytes *out_values)
{
    for (size_t i = 0; i < count; i++) {
        if (km__sealed_check_key(table, keys[i]) != KM_OK)
            return KM_E_INVALID;
        out_values[i] = km_bytes_of(NULL, 0);
    }
    return KM_OK;
}

km_status km_sealed_get_many(const km_sealed *table, const km_bytes *keys, size_t count,
                             km_buffer *memory, km_bytes *out_values, size_t *out_found)
{
    const struct allocator *allocator = &table->os->allocator;
    struct sealed_many many = {
        .table = table, .keys = keys, .memory = memory, .out_values = out_values};
    size_t room = count < SEALED_MANY_KEYS ? count : SEALED_MANY_KEYS;
    size_t wanted_size = room * sizeof(*many.wanted);
    size_t refs_size = 2 * room * sizeof(*many.refs);
    km_status rc = sealed_many_check(table, keys, count, out_values);

    if (rc)
        return rc;
    memory->size = 0;
    if (count > 0 && table->footer.count > 0) {
        many.wanted = km__allocate(allocator, wanted_size);
        many.refs = km__allocate(allocator, refs_size);
        many.room = room;
        rc = many.wanted && many.refs ? sealed_many_in_parts(&many, count) : KM_E_NO_MEMORY;
        if (!rc)
            sealed_many_point(memory, out_values, count);
        km_buffer_free(&many.read);
        km_buffer_free(&many.plain);
        km__release(allocator, many.wanted, wanted_size);
        km__release(allocator, many.refs, refs_size);
    }
    if (!rc && out_found)
        *out_found = many.found_count;
    return rc;
}
