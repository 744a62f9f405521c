/* SPDX-License-Identifier: Apache-2.0
 *
 * log_rescue.c -- find every record that checks out in a damaged log.
 *
 * Recovery stops at the first damage; this goes on, looking at every eighth byte for the next
 * record. A record's checksum is seeded with its place and its store, so what is found is a record
 * of this store that was written at this place, wherever the bytes before it have gone.
 */
#include "log/log_rescue.h"

#include <stdlib.h>

#include "base/bytes.h"
#include "base/status.h"

/* A forged header can claim a long record at every place: the sums of such claims are bounded. */
#define RESCUE_BUDGET_FACTOR 64u

struct rescue_segment {
    uint32_t number;
    uint64_t size;
    uint64_t limit; /* the log left it here */
    const uint8_t *bytes;
    struct segment_header header; /* number 0 if it is damaged */
};

struct rescue_log {
    struct rescue *rescue;
    struct rescue_segment *segments;
    size_t count, capacity;
    uint64_t store_tag;
    uint8_t *rings[RING_LOG2_MAX + 1];
};

/* ---- opening ----------------------------------------------------------------------------- */

static km_status note_segment(void *context, const char *name)
{
    struct rescue_log *log = context;
    const struct allocator *allocator = &log->rescue->os->allocator;
    uint32_t number;

    if (!km__segment_name_parse(name, &number))
        return KM_OK;
    if (log->count == log->capacity) {
        size_t capacity = log->capacity ? log->capacity * 2 : 64;
        struct rescue_segment *segments = km__allocate(allocator, capacity * sizeof(*segments));

        if (!segments)
            return KM_E_NO_MEMORY;
        if (log->count)
            memcpy(segments, log->segments, log->count * sizeof(*segments));
        km__release(allocator, log->segments, log->capacity * sizeof(*segments));
        log->segments = segments;
        log->capacity = capacity;
    }
    log->segments[log->count++].number = number;
    return KM_OK;
}

static int compare_segments(const void *x, const void *y)
{
    const struct rescue_segment *a = x, *b = y;

    return (a->number > b->number) - (a->number < b->number);
}

static void report(struct rescue *rescue, const char *file, uint64_t offset, uint64_t size,
                   const char *what)
{
    rescue->finding_count++;
    if (rescue->found)
        rescue->found(rescue->context, file, offset, size, what);
}

static void read_rescue_header(struct rescue_log *log, struct rescue_segment *segment,
                               const char *name)
{
    const uint8_t *expected = log->rescue->store_id;

    if (segment->size < SEGMENT_HEADER_SIZE ||
        km__segment_header_decode(segment->bytes, &segment->header)) {
        segment->header.number = 0;
        report(log->rescue, name, 0, SEGMENT_HEADER_SIZE, "the segment's header is damaged");
        return;
    }
    if (expected && memcmp(expected, segment->header.store_id, STORE_ID_SIZE) != 0) {
        segment->header.number = 0;
        report(log->rescue, name, 0, SEGMENT_HEADER_SIZE, "the segment belongs to another store");
        return;
    }
    if (segment->header.size != segment->size)
        report(log->rescue, name, segment->size, 0, "the segment's file has a wrong size");
    if (!log->store_tag)
        log->store_tag = km__load64(segment->header.store_id);
}

static km_status map_segment(struct rescue_log *log, struct rescue_segment *segment)
{
    const struct os_ops *ops = log->rescue->os->ops;
    struct os_file *file = NULL;
    char name[SEGMENT_NAME_SIZE];
    km_status rc;

    km__segment_name(segment->number, name);
    rc = ops->open_file(log->rescue->log_dir, name, OS_OPEN_READ, &file);
    if (!rc)
        rc = ops->file_size(file, &segment->size);
    if (!rc && segment->size > SEGMENT_SIZE_MAX)
        segment->size = SEGMENT_SIZE_MAX;
    segment->size = km__round_down(segment->size, RECORD_ALIGNMENT);
    if (!rc && segment->size) {
        ops->read_ahead(file, segment->size);
        rc = ops->map_read(file, segment->size, &segment->bytes);
    }
    ops->close_file(file);
    if (rc) {
        report(log->rescue, name, 0, 0, "the segment cannot be read");
        segment->size = 0;
        return rc == KM_E_NO_MEMORY ? rc : KM_OK; /* go on with the others */
    }
    read_rescue_header(log, segment, name);
    return KM_OK;
}

/* What a later segment's header says about where the log left the ones before it. */
static void apply_limits(struct rescue_log *log)
{
    for (size_t i = 0; i < log->count; i++)
        log->segments[i].limit = log->segments[i].size;
    for (size_t i = 0; i < log->count; i++) {
        uint64_t end = log->segments[i].header.number ? log->segments[i].header.previous_end : 0;

        for (size_t j = i; end && j-- > 0;) { /* back to the segment that holds the end */
            struct rescue_segment *before = &log->segments[j];
            uint64_t limit = before->number > km__position_number(end)    ? SEGMENT_HEADER_SIZE
                             : before->number == km__position_number(end) ? km__position_offset(end)
                                                                          : before->size;
            if (limit < before->limit)
                before->limit = limit;
            if (before->number <= km__position_number(end))
                break;
        }
    }
}

static void load_rescue_ring(struct rescue_log *log, uint32_t ring_log2)
{
    const struct os_ops *ops = log->rescue->os->ops;
    uint64_t size = RING_DATA_OFFSET + (UINT64_C(1) << ring_log2), file_size = 0;
    struct os_file *file = NULL;
    uint8_t *bytes = NULL;
    char name[RING_NAME_SIZE];

    km__ring_name(ring_log2, name);
    if (ops->open_file(log->rescue->store_dir, name, OS_OPEN_READ, &file))
        return;
    if (!ops->file_size(file, &file_size) && file_size == size)
        bytes = km__map_pages(&log->rescue->os->allocator, size);
    if (bytes && ops->read_at(file, 0, bytes, size)) {
        km__unmap_pages(&log->rescue->os->allocator, bytes, size);
        bytes = NULL;
    }
    log->rings[ring_log2] = bytes;
    ops->close_file(file);
}

/* ---- one segment ------------------------------------------------------------------------- */

struct rescue_scan {
    struct rescue_log *log;
    const struct rescue_segment *segment;
    uint8_t *from_ring; /* a record put together from the ring, or NULL */
    uint64_t from_ring_size;
    uint64_t budget;
};

static struct record_place rescue_place(const struct rescue_scan *scan, uint64_t offset)
{
    struct record_place place = {scan->log->store_tag, km__position(scan->segment->number, offset)};

    return place;
}

static int check_ring(struct rescue_scan *scan, uint64_t offset, struct record *out)
{
    const struct segment_header *header = &scan->segment->header;
    const uint8_t *ring = header->number ? scan->log->rings[header->ring_log2] : NULL;
    uint64_t ring_size = UINT64_C(1) << header->ring_log2, size;
    uint8_t head[RECORD_HEADER_SIZE];

    if (!ring)
        return 0;
    for (uint32_t i = 0; i < RECORD_HEADER_SIZE; i++)
        head[i] = ring[RING_DATA_OFFSET + ((header->linear_start + offset + i) & (ring_size - 1))];
    size = km__record_size_at(head);
    if (size > ring_size || size > scan->segment->limit - offset || !head[12] ||
        head[12] == RECORD_PADDING)
        return 0;
    scan->budget -= size < scan->budget ? size : scan->budget;
    if (scan->from_ring)
        km__unmap_pages(&scan->log->rescue->os->allocator, scan->from_ring, scan->from_ring_size);
    scan->from_ring_size = km__round_up(size, 4096);
    scan->from_ring = km__map_pages(&scan->log->rescue->os->allocator, scan->from_ring_size);
    if (!scan->from_ring)
        return 0;
    for (uint64_t i = 0; i < size; i++)
        scan->from_ring[i] =
            ring[RING_DATA_OFFSET + ((header->linear_start + offset + i) & (ring_size - 1))];
    return km__record_decode(scan->from_ring, size, rescue_place(scan, offset), out) == RECORD_OK;
}

/* The record at an offset, in the file or the ring; NULL if neither has one. */
static const uint8_t *record_at(struct rescue_scan *scan, uint64_t offset, struct record *out)
{
    const uint8_t *p = scan->segment->bytes + offset;
    uint64_t available = scan->segment->limit - offset;
    uint64_t claimed = km__record_size_at(p);
    enum record_check check = km__record_decode(p, available, rescue_place(scan, offset), out);

    if (check == RECORD_OK)
        return p;
    if (check == RECORD_BAD && claimed <= available)
        scan->budget -= claimed < scan->budget ? claimed : scan->budget;
    return check_ring(scan, offset, out) ? scan->from_ring : NULL;
}

static km_status deliver(struct rescue_scan *scan, const struct record *record, const uint8_t *p,
                         uint64_t offset)
{
    struct rescue *rescue = scan->log->rescue;

    rescue->record_count++;
    if (record->kind == RECORD_MARK || record->kind == RECORD_PADDING || !rescue->visit)
        return KM_OK;
    return rescue->visit(rescue->context, record, p, km__position(scan->segment->number, offset));
}

static uint64_t count_nonzero(const uint8_t *bytes, uint64_t from, uint64_t to)
{
    uint64_t count = 0;

    for (; from + 8 <= to; from += 8)
        count += km__load64(bytes + from) ? 8 : 0;
    return count;
}

static km_status scan_segment(struct rescue_scan *scan, uint64_t *out_gap_start)
{
    const struct rescue_segment *segment = scan->segment;
    uint64_t offset = SEGMENT_HEADER_SIZE, gap = 0;
    char name[SEGMENT_NAME_SIZE];
    struct record record;
    km_status rc = KM_OK;

    km__segment_name(segment->number, name);
    while (!rc && segment->limit >= offset + RECORD_HEADER_SIZE &&
           scan->budget) { /* the offset grows */
        const uint8_t *p = record_at(scan, offset, &record);

        if (!p) {
            gap = gap ? gap : offset;
            offset += RECORD_ALIGNMENT;
            continue;
        }
        if (gap)
            report(scan->log->rescue, name, gap, offset - gap, "damaged bytes between records");
        gap = 0;
        rc = deliver(scan, &record, p, offset);
        offset += km__record_size_at(p);
    }
    *out_gap_start = gap;
    return rc;
}

static km_status rescue_segment(struct rescue_log *log, const struct rescue_segment *segment,
                                int is_last)
{
    struct rescue_scan scan = {log, segment, NULL, 0, segment->size * RESCUE_BUDGET_FACTOR};
    uint64_t gap = 0, lost;
    char name[SEGMENT_NAME_SIZE];
    km_status rc = scan_segment(&scan, &gap);

    km__segment_name(segment->number, name);
    lost = gap ? count_nonzero(segment->bytes, gap, segment->limit) : 0;
    if (is_last)
        log->rescue->torn_bytes += lost;
    else if (lost)
        report(log->rescue, name, gap, segment->limit - gap,
               "damaged bytes up to the segment's end");
    else if (gap && segment->header.number)
        report(log->rescue, name, gap, segment->limit - gap,
               "records are missing up to the segment's end");
    if (scan.from_ring)
        km__unmap_pages(&log->rescue->os->allocator, scan.from_ring, scan.from_ring_size);
    return rc;
}

/* ---- the whole log ----------------------------------------------------------------------- */

/* The last segment that holds anything: gaps at its end are the log's end, not damage. */
static size_t last_used(const struct rescue_log *log)
{
    for (size_t i = log->count; i-- > 0;) {
        const struct rescue_segment *segment = &log->segments[i];

        if (segment->limit > SEGMENT_HEADER_SIZE &&
            count_nonzero(segment->bytes, SEGMENT_HEADER_SIZE, segment->limit))
            return i;
    }
    return 0;
}

static void release_rescue(struct rescue_log *log)
{
    const struct os *os = log->rescue->os;

    for (size_t i = 0; i < log->count; i++) {
        if (log->segments[i].bytes)
            os->ops->unmap(log->rescue->os, log->segments[i].bytes, log->segments[i].size);
    }
    for (uint32_t i = RING_LOG2_MIN; i <= RING_LOG2_MAX; i++) {
        if (log->rings[i])
            km__unmap_pages(&os->allocator, log->rings[i], RING_DATA_OFFSET + (UINT64_C(1) << i));
    }
    km__release(&os->allocator, log->segments, log->capacity * sizeof(*log->segments));
}

km_status km__log_rescue(struct rescue *rescue)
{
    struct rescue_log log = {.rescue = rescue};
    size_t last;
    km_status rc;

    if (rescue->store_id)
        log.store_tag = km__load64(rescue->store_id);
    rc = rescue->os->ops->list(rescue->log_dir, note_segment, &log);
    if (!rc && log.count)
        qsort(log.segments, log.count, sizeof(*log.segments), compare_segments);
    for (size_t i = 0; !rc && i < log.count; i++)
        rc = map_segment(&log, &log.segments[i]);
    if (!rc && !log.store_tag)
        rc = KM_E_CORRUPT;
    if (rc) goto out;
    apply_limits(&log);
    for (uint32_t i = RING_LOG2_MIN; i <= RING_LOG2_MAX; i++)
        load_rescue_ring(&log, i);
    last = last_used(&log);
    rescue->segment_count = log.count;
    for (size_t i = 0; !rc && i < log.count; i++)
        rc = rescue_segment(&log, &log.segments[i], i >= last);
out:
    release_rescue(&log);
    return rc;
}
