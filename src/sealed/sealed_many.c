/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_many.c -- many keys at once: first all are looked up in the index and its filters, then
 * the blocks that may have them are visited in the order of the file, neighbours in one read.
 *
 * I1. Answers do not depend on the order of the keys; equal keys have equal answers.
 * I2. A read takes SEALED_MANY_READ bytes at most, unless one block is larger, and between two
 *     blocks in it that are wanted lie SEALED_MANY_GAP bytes at most.
 * I3. The disk is asked for up to SEALED_MANY_AHEAD reads before the one that is waited for.
 *
 * To ask for a read and to make it later, by a call, takes 13 to 15 us for each of many random
 * blocks, where the same disk gives one in 16 us to io_uring without the page cache (64 at once)
 * and in 75 us to calls alone. So this needs neither threads nor an engine.
 */
#include <string.h>

#include "base/buffer.h"
#include "sealed/sealed_queue_internal.h"

#define SEALED_MANY_READ ((uint64_t)256 << 10)
#define SEALED_MANY_GAP ((uint64_t)16 << 10)
#define SEALED_MANY_KEYS ((size_t)32 << 10) /* that are looked up at once: 4 MiB of memory */
#define SEALED_MANY_BATCH 32u               /* keys that wait for memory together */
#define SEALED_MANY_AHEAD 64u
#define SEALED_MANY_SAMPLE_STEP 128u /* one block of so many is looked at: 1.1 us each */
#define SEALED_MANY_SAMPLE_MAX 32u
#define SEALED_MANY_SLOW_NS 100000u /* for a batch: some of it was not in memory */

/* ---- lookup ------------------------------------------------------------------------------ */

km_status km__sealed_many_init(struct sealed_many *many, size_t room)
{
    const struct allocator *allocator = &many->table->os->allocator;

    if (room > SIZE_MAX / 4 / sizeof(*many->wanted))
        return KM_E_NO_MEMORY;
    many->room = room;
    many->wanted = km__allocate(allocator, room * sizeof(*many->wanted));
    many->refs = km__allocate(allocator, 2 * room * sizeof(*many->refs));
    return many->wanted && many->refs ? KM_OK : KM_E_NO_MEMORY;
}

void km__sealed_many_fini(struct sealed_many *many)
{
    const struct allocator *allocator = &many->table->os->allocator;

    km_buffer_free(&many->read);
    km_buffer_free(&many->plain);
    km__release(allocator, many->wanted, many->room * sizeof(*many->wanted));
    km__release(allocator, many->refs, 2 * many->room * sizeof(*many->refs));
    many->wanted = NULL;
    many->refs = NULL;
}

km_status km__sealed_many_check(const km_sealed *table, const km_bytes *keys, size_t count,
                                km_bytes *out_values)
{
    for (size_t i = 0; i < count; i++) {
        if (km__sealed_check_key(table, keys[i]) != KM_OK)
            return KM_E_INVALID;
        out_values[i] = km_bytes_of(NULL, 0);
    }
    return KM_OK;
}

/* What a search among the heads of groups looks for: its first 8 bytes behind their prefix. Returns
 * 0 if that does not say where the key is. */
static int sealed_many_head(const km_sealed *table, km_bytes key, uint64_t *out_head)
{
    if (table->group_count < 2 || key.size < table->prefix_size ||
        (table->prefix_size && memcmp(key.data, table->prefix, table->prefix_size) != 0))
        return 0;
    *out_head = km__sealed_head((const uint8_t *)key.data + table->prefix_size,
                                key.size - table->prefix_size);
    return 1;
}

/* Batches are numbered from 0; behind the last one they are empty. */
static size_t sealed_many_batch_start(const struct sealed_many *many, size_t batch)
{
    return batch * SEALED_MANY_BATCH < many->count ? batch * SEALED_MANY_BATCH : many->count;
}

/* km__sealed_find_group() for a batch of keys: their searches go side by side, so that none waits
 * for the steps of another. It takes a fourth of the time. */
static void sealed_many_find_groups(struct sealed_many *many, size_t batch)
{
    const km_sealed *table = many->table;
    const uint64_t *heads = table->heads + 1; /* the first group has none */
    size_t at = sealed_many_batch_start(many, batch);
    size_t size = sealed_many_batch_start(many, batch + 1) - at;
    uint32_t left = table->group_count - 1;
    uint32_t below[SEALED_MANY_BATCH]; /* so many heads are known to be below the wanted one */
    uint64_t wanted[SEALED_MANY_BATCH];
    uint8_t is_plain[SEALED_MANY_BATCH];

    for (size_t i = 0; i < size; i++) {
        wanted[i] = 0;
        below[i] = 0;
        is_plain[i] = (uint8_t)sealed_many_head(table, many->keys[at + i], &wanted[i]);
    }
    for (; left > 1; left -= left / 2) {
        uint32_t half = left / 2;
        for (size_t i = 0; i < size; i++) /* a mask: a choice would be compiled as a branch */
            below[i] += half & (0u - (uint32_t)(heads[below[i] + half - 1] < wanted[i]));
    }
    for (size_t i = 0; i < size; i++) {
        below[i] += left > 0 && heads[below[i]] < wanted[i];
        if (!is_plain[i] || (below[i] + 1 < table->group_count && heads[below[i]] == wanted[i]))
            below[i] = km__sealed_find_group(table, many->keys[at + i]);
        many->wanted[at + i].place.group = below[i];
        SEALED_PREFETCH_GROUP(table, below[i]);
    }
}

static void sealed_many_locate(struct sealed_many *many, size_t batch)
{
    size_t end = sealed_many_batch_start(many, batch + 1);

    for (size_t i = sealed_many_batch_start(many, batch); i < end; i++) {
        struct sealed_wanted *wanted = &many->wanted[i];
        km_bytes key = many->keys[i];
        struct sealed_group group;
        km__sealed_place_in_group(many->table, wanted->place.group, key, &group, &wanted->place);
        wanted->filter = km__sealed_group_filter(&group, wanted->place.index, &wanted->filter_size);
        wanted->hash = km__sealed_hash(key.data, key.size);
        KM_PREFETCH(wanted->filter);
        KM_PREFETCH(wanted->filter + wanted->filter_size - 1);
    }
}

static void sealed_many_filter(struct sealed_many *many, size_t batch)
{
    size_t end = sealed_many_batch_start(many, batch + 1);

    for (size_t i = sealed_many_batch_start(many, batch); i < end; i++) {
        const struct sealed_wanted *wanted = &many->wanted[i];
        if (!km__sealed_filter_may_have(wanted->filter, wanted->filter_size, wanted->hash))
            continue;
        many->refs[many->ref_count].head = wanted->place.offset;
        many->refs[many->ref_count].offset = i;
        many->ref_count++;
    }
}

/* In three steps: what one fetches is on its way while the others are made for other batches. */
void km__sealed_many_look_up(struct sealed_many *many)
{
    many->ref_count = 0;
    many->fetched = 0;
    for (size_t batch = 0; batch * SEALED_MANY_BATCH < many->count + 2 * SEALED_MANY_BATCH;
         batch++) {
        sealed_many_find_groups(many, batch);
        if (batch >= 1)
            sealed_many_locate(many, batch - 1);
        if (batch >= 2)
            sealed_many_filter(many, batch - 2);
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

size_t km__sealed_many_run(const struct sealed_many *many, size_t start, uint64_t *out_offset,
                           uint64_t *out_size)
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
    *out_offset = begin;
    *out_size = end - begin;
    return ref - start;
}

km_status km__sealed_many_answer(struct sealed_many *many, size_t start, size_t count,
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

/* Read what one read serves, from reference `start` on. */
static km_status sealed_many_read(struct sealed_many *many, size_t start, size_t *out_count)
{
    const km_sealed *table = many->table;
    uint64_t offset = 0, size = 0;
    size_t count = km__sealed_many_run(many, start, &offset, &size);
    km_status rc;

    *out_count = count;
    if (size > SIZE_MAX / 4)
        return KM_E_NO_MEMORY;
    rc = km__buffer_reserve(&many->read, (size_t)size);
    if (!rc)
        rc = table->os->ops->read_at(table->file, offset, many->read.data, (size_t)size);
    if (rc)
        return rc;
    return km__sealed_many_answer(many, start, count, many->read.data);
}

/* ---- mapped blocks ----------------------------------------------------------------------- */

/* Where a key was found; its block's count is 0 if it was not. */
struct sealed_hit {
    struct sealed_block block;
    uint32_t record;
};

/* Begin to bring mapped blocks into the cache, up to a reference. */
static void sealed_many_fetch(struct sealed_many *many, size_t end)
{
    if (end > many->ref_count)
        end = many->ref_count;
    for (; many->fetched < end; many->fetched++) {
        const struct sealed_place *place = sealed_many_place(many, many->fetched);
        if (km__sealed_is_mapped(many->table, place))
            SEALED_PREFETCH_BLOCK(many->table, place->offset);
    }
}

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
        /* all of the pieces that are checked; lines behind the block are no fault */
        size_t from = (size_t)((const uint8_t *)value.data - hit->block.values);
        size_t end = km__round_up(from + value.size, SEALED_PIECE_SIZE);
        from = km__round_down(from, SEALED_PIECE_SIZE);
        for (; from < end; from += KM_CACHE_LINE)
            KM_PREFETCH(hit->block.values + from);
    }
    return rc;
}

/* One key after the other, but in steps as in the lookup; meanwhile the next blocks are fetched. */
static km_status sealed_many_answer_mapped(struct sealed_many *many, size_t start, size_t count)
{
    struct sealed_hit hits[SEALED_MANY_BATCH];
    km_status rc = KM_OK;

    if (many->fetched < start)
        many->fetched = start;
    sealed_many_fetch(many, start + count);
    for (size_t i = 0; !rc && i < count; i++)
        rc = sealed_many_find(many, start + i, &hits[i]);
    sealed_many_fetch(many, start + count + SEALED_MANY_BATCH);
    for (size_t i = 0; !rc && i < count; i++) {
        if (hits[i].block.count > 0)
            rc = sealed_many_copy(many, (size_t)many->refs[start + i].offset, &hits[i].block,
                                  hits[i].record);
    }
    return rc;
}

/* How many references from `start` on are to mapped blocks. If these may have to be read, only
 * those count that have no wanted neighbours. */
static size_t sealed_many_mapped(const struct sealed_many *many, size_t start,
                                 enum sealed_warmth warmth)
{
    size_t count = 0;

    while (count < SEALED_MANY_BATCH && start + count < many->ref_count) {
        const struct sealed_place *place = sealed_many_place(many, start + count);
        uint64_t offset = 0, size = 0;
        size_t run = 1;
        if (!km__sealed_is_mapped(many->table, place))
            break;
        if (warmth == SEALED_WARMTH_UNKNOWN)
            run = km__sealed_many_run(many, start + count, &offset, &size);
        if (run > SEALED_MANY_BATCH - count || size > SEALED_PAGE)
            break;
        count += run;
    }
    return count;
}

/* ---- visiting all ------------------------------------------------------------------------ */

enum sealed_warmth km__sealed_many_warmth(const struct sealed_many *many, size_t start)
{
    const km_sealed *table = many->table;
    size_t left = many->ref_count - start;
    size_t count = 2 + left / SEALED_MANY_SAMPLE_STEP;
    km_status rc = KM_OK;
    uint8_t byte;

    if (left < 2)
        return SEALED_WARMTH_UNKNOWN; /* nothing to be gained by knowing */
    if (count > SEALED_MANY_SAMPLE_MAX)
        count = SEALED_MANY_SAMPLE_MAX;
    for (size_t i = 0; !rc && i < count; i++) {
        size_t ref = start + i * (left - 1) / (count - 1);
        rc = table->os->ops->read_cached(table->file, sealed_many_place(many, ref)->offset, &byte,
                                         1);
    }
    if (rc == KM_E_UNSUPPORTED)
        return SEALED_WARMTH_UNKNOWN;
    return rc ? SEALED_WARMTH_COLD : SEALED_WARMTH_CACHED;
}

/* I3 */
static void sealed_many_announce(struct sealed_many *many)
{
    const km_sealed *table = many->table;
    uint64_t offset = 0, size = 0;

    while (many->announced_runs < SEALED_MANY_AHEAD && many->announced < many->ref_count) {
        many->announced += km__sealed_many_run(many, many->announced, &offset, &size);
        many->announced_runs++;
        table->os->ops->read_soon(table->file, offset, size);
    }
}

/* Answer some references from `start` on. */
static km_status sealed_many_step(struct sealed_many *many, size_t start, enum sealed_warmth warmth,
                                  size_t *out_count)
{
    size_t count = 0;

    if (warmth == SEALED_WARMTH_COLD) {
        sealed_many_announce(many);
        many->announced_runs--;
    } else {
        count = sealed_many_mapped(many, start, warmth);
    }
    if (count == 0)
        return sealed_many_read(many, start, out_count);
    *out_count = count;
    return sealed_many_answer_mapped(many, start, count);
}

km_status km__sealed_many_visit_cached(struct sealed_many *many, size_t *ref)
{
    struct os *os = many->table->os;
    uint64_t before_ns = os->ops->now_ns(os);
    uint64_t now_ns;
    km_status rc = KM_OK;
    size_t count;

    for (; *ref < many->ref_count; *ref += count) {
        now_ns = os->ops->now_ns(os);
        if (now_ns - before_ns > SEALED_MANY_SLOW_NS) {
            if (km__sealed_many_warmth(many, *ref) == SEALED_WARMTH_COLD)
                return KM_OK;
            now_ns = os->ops->now_ns(os); /* it was something else that took so long */
        }
        before_ns = now_ns;
        rc = sealed_many_step(many, *ref, SEALED_WARMTH_CACHED, &count);
        if (rc)
            return rc;
    }
    return KM_OK;
}

static km_status sealed_many_visit(struct sealed_many *many)
{
    enum sealed_warmth warmth = km__sealed_many_warmth(many, 0);
    km_status rc = KM_OK;
    size_t ref = 0;
    size_t count;

    if (warmth == SEALED_WARMTH_CACHED) {
        rc = km__sealed_many_visit_cached(many, &ref);
        warmth = SEALED_WARMTH_COLD; /* if anything is left */
    }
    many->announced = ref;
    many->announced_runs = 0;
    for (; !rc && ref < many->ref_count; ref += count)
        rc = sealed_many_step(many, ref, warmth, &count);
    return rc;
}

/* ---- all together ------------------------------------------------------------------------ */

static km_status sealed_many_in_parts(struct sealed_many *many, size_t count)
{
    const km_bytes *keys = many->keys;
    km_bytes *out_values = many->out_values;
    km_status rc = KM_OK;

    for (size_t at = 0; !rc && at < count; at += many->count) {
        many->count = count - at < SEALED_MANY_KEYS ? count - at : SEALED_MANY_KEYS;
        many->keys = keys + at;
        many->out_values = out_values + at;
        km__sealed_many_look_up(many);
        if (many->ref_count > 0)
            rc = sealed_many_visit(many);
    }
    return rc;
}

void km__sealed_many_point(const km_buffer *memory, km_bytes *out_values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (out_values[i].data)
            out_values[i].data = (const uint8_t *)memory->data +
                                 ((uintptr_t)out_values[i].data - 1);
    }
}

km_status km_sealed_get_many(const km_sealed *table, const km_bytes *keys, size_t count,
                             km_buffer *memory, km_bytes *out_values, size_t *out_found)
{
    struct sealed_many many = {
        .table = table, .keys = keys, .memory = memory, .out_values = out_values};
    km_status rc = km__sealed_many_check(table, keys, count, out_values);

    if (rc)
        return rc;
    memory->size = 0;
    if (count > 0 && table->footer.count > 0) {
        rc = km__sealed_many_init(&many, count < SEALED_MANY_KEYS ? count : SEALED_MANY_KEYS);
        if (!rc)
            rc = sealed_many_in_parts(&many, count);
        if (!rc)
            km__sealed_many_point(memory, out_values, count);
        km__sealed_many_fini(&many);
    }
    if (!rc && out_found)
        *out_found = many.found_count;
    return rc;
}
