/* SPDX-License-Identifier: Apache-2.0
 *
 * log_read.c -- read along an open log, record by record, while it is written.
 *
 * Compaction, the change feed, scrub and the mending of an index all read so. A reader holds no
 * lock: below `complete` records do not change, and a segment that leaves the log stays readable
 * until the read section that found it in the log has ended.
 */
#include "log/log_internal.h"

/* Where the log leaves a segment that it has left: a crash may have cut it short. */
static uint64_t limit_of(const struct log *log, const struct segment *segment, uint32_t next)
{
    const struct segment *after = next ? km__segment_at(log, next) : NULL;

    if (after && km__position_number(after->previous_end) == segment->number)
        return km__position_offset(after->previous_end);
    return segment->size;
}

uint32_t km__log_next_number(const struct log *log, uint32_t number)
{
    /* pairs with km__segment_enter(): the segment and its slot */
    return atomic_load_explicit(&km__segment_at(log, number)->next, memory_order_acquire);
}

uint64_t km__log_segment_size(const struct log *log, uint32_t number)
{
    return km__segment_at(log, number)->size;
}

int km__log_has_number(const struct log *log, uint32_t number)
{
    const struct segment *segment;

    /* beyond it a segment may still be taken back */
    if (number < km__log_head_number(log) || number > km__position_number(km__log_complete(log)))
        return 0;
    segment = km__segment_at(log, number);
    return segment != NULL && segment->number == number;
}

uint64_t km__log_segment_limit(const struct log *log, uint32_t number)
{
    return limit_of(log, km__segment_at(log, number), km__log_next_number(log, number));
}

uint64_t km__log_previous_end(const struct log *log, uint32_t number)
{
    return km__segment_at(log, number)->previous_end;
}

uint64_t km__log_skip_end(const struct log *log, uint64_t position)
{
    const struct segment *segment = km__segment_at(log, km__position_number(position));
    uint32_t next = km__log_next_number(log, segment->number);

    if (next && limit_of(log, segment, next) - km__position_offset(position) < RECORD_HEADER_SIZE)
        return km__position(next, SEGMENT_HEADER_SIZE);
    return position;
}

/* As km__log_read(), of what is in the log or pinned. */
static km_status read_at(const struct log *log, uint64_t position, uint64_t limit,
                         struct log_item *out)
{
    for (;;) { /* at most one turn for each segment */
        const struct segment *segment;
        uint64_t offset = km__position_offset(position), end;
        uint32_t next;

        if (position >= limit)
            return KM_END;
        segment = km__segment_at(log, km__position_number(position));
        next = km__log_next_number(log, segment->number);
        end = limit_of(log, segment, next);
        out->position = position;
        if (end - offset < RECORD_HEADER_SIZE) {
            if (!next)
                return KM_END;
            position = km__position(next, SEGMENT_HEADER_SIZE);
            continue;
        }
        out->bytes = km__segment_bytes(log, segment->number) + offset;
        if (km__record_decode(out->bytes, end - offset, km__log_place(log, position),
                              &out->record) != RECORD_OK)
            return KM_E_CORRUPT;
        out->next = position + km__record_size_at(out->bytes);
        return KM_OK;
    }
}

km_status km__log_read(const struct log *log, uint64_t position, uint64_t limit,
                       struct log_item *out)
{
    if (position < limit && km__position_number(position) < km__log_head_number(log))
        return KM_E_TOO_OLD;
    return read_at(log, position, limit, out);
}

km_status km__log_read_pinned(const struct log *log, const struct log_pin *pin, uint64_t position,
                              uint64_t limit, struct log_item *out)
{
    KM_ASSERT(km__position_number(position) >= pin->number);
    return read_at(log, position, limit, out);
}
