/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_group.c -- the index of a table that is being written: groups of blocks, kept in memory
 * and beyond that in a file without a name until all blocks are written.
 *
 * I1. A group is complete when it has SEALED_GROUP_BLOCKS_MAX blocks, or when the next one might
 *     not fit: so its parts have room, and its encoding takes at most SEALED_GROUP_ROOM.
 */
#include <string.h>

#include "base/assert.h"
#include "base/crc32c.h"
#include "sealed/sealed_internal.h"

#define SEALED_GROUP_ROOM                                                                          \
    (SEALED_GROUP_HEADER_SIZE + 10 * SEALED_GROUP_BLOCKS_MAX + SEALED_GROUP_SEPARATORS_MAX +       \
     SEALED_FILTER_ROOM + SEALED_FILTER_BLOCK_MAX)

km_status km__sealed_index_init(struct sealed_index *index, const struct allocator *allocator,
                                struct sealed_spill *spill, size_t capacity)
{
    memset(index, 0, sizeof(*index));
    index->allocator = allocator;
    index->spill = spill;
    index->capacity = capacity > SEALED_GROUP_ROOM ? capacity : SEALED_GROUP_ROOM;
    index->bytes = km__map_pages(allocator, index->capacity);
    index->separators = km__allocate(allocator, SEALED_GROUP_SEPARATORS_MAX);
    index->filter = km__allocate(allocator, SEALED_FILTER_ROOM + SEALED_FILTER_BLOCK_MAX);
    if (!index->bytes || !index->separators || !index->filter) {
        km__sealed_index_fini(index);
        return KM_E_NO_MEMORY;
    }
    return KM_OK;
}

void km__sealed_index_fini(struct sealed_index *index)
{
    if (!index->allocator)
        return;
    if (index->bytes)
        km__unmap_pages(index->allocator, index->bytes, index->capacity);
    km__release(index->allocator, index->separators, SEALED_GROUP_SEPARATORS_MAX);
    km__release(index->allocator, index->filter, SEALED_FILTER_ROOM + SEALED_FILTER_BLOCK_MAX);
    memset(index, 0, sizeof(*index));
}

void km__sealed_index_reset(struct sealed_index *index, uint32_t id_sum)
{
    index->spill_start = index->spill->size;
    index->spilled = 0;
    index->spilled_sum = 0;
    index->used = 0;
    index->group_count = 0;
    index->id_sum = id_sum;
    memset(&index->plan, 0, sizeof(index->plan));
}

km_status km__sealed_index_close(struct sealed_index *index)
{
    struct sealed_group_plan *plan = &index->plan;
    size_t size;

    if (plan->count == 0)
        return KM_OK;
    plan->separators = index->separators;
    plan->filter = index->filter;
    size = km__sealed_group_size(plan);
    KM_ASSERT(size > 0 && size <= SEALED_GROUP_ROOM);
    if (size > index->capacity - index->used) {
        km_status rc = km__sealed_spill_append(index->spill, index->bytes, index->used);
        if (rc)
            return rc;
        index->spilled_sum = km__crc32c(index->spilled_sum, index->bytes, index->used);
        index->spilled += index->used;
        index->used = 0;
    }
    km__sealed_group_encode(plan, km__sealed_group_seed(index->id_sum, index->group_count),
                            index->bytes + index->used);
    index->used += size;
    index->group_count++;
    memset(plan, 0, sizeof(*plan));
    return KM_OK;
}

static int sealed_group_is_full(const struct sealed_group_plan *plan, size_t separator_size)
{
    uint32_t last;

    if (plan->count == 0)
        return 0;
    last = plan->count - 1;
    return plan->count == SEALED_GROUP_BLOCKS_MAX ||
           plan->separator_ends[last] + separator_size > SEALED_GROUP_SEPARATORS_MAX ||
           km__sealed_filter_start(plan->record_ends[last], plan->count) > SEALED_FILTER_ROOM;
}

static void sealed_fill_filter(struct sealed_index *index, uint32_t records,
                               const struct sealed_entry *entry)
{
    uint32_t start = km__sealed_filter_start(records, index->plan.count);
    uint32_t end = km__sealed_filter_start(records + entry->record_count, index->plan.count + 1);
    uint8_t *filter = index->filter + start;

    memset(filter, 0, end - start);
    for (uint32_t i = 0; i < entry->record_count; i++)
        km__sealed_filter_add(filter, end - start, entry->hashes[i]);
}

km_status km__sealed_index_add(struct sealed_index *index, const struct sealed_entry *entry)
{
    struct sealed_group_plan *plan = &index->plan;
    uint32_t pages = 0, records = 0, separators = 0;

    if (sealed_group_is_full(plan, entry->separator.size)) {
        km_status rc = km__sealed_index_close(index);
        if (rc)
            return rc;
    }
    if (plan->count == 0) {
        plan->first_page = entry->first_page;
    } else {
        pages = plan->page_ends[plan->count - 1];
        records = plan->record_ends[plan->count - 1];
        separators = plan->separator_ends[plan->count - 1];
    }
    if (entry->separator.size)
        memcpy(index->separators + separators, entry->separator.data, entry->separator.size);
    sealed_fill_filter(index, records, entry);
    plan->page_ends[plan->count] = pages + entry->page_count;
    plan->record_ends[plan->count] = records + entry->record_count;
    plan->separator_ends[plan->count] = separators + (uint32_t)entry->separator.size;
    plan->count++;
    return KM_OK;
}
