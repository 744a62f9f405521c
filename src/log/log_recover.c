/* SPDX-License-Identifier: Apache-2.0
 *
 * log_recover.c -- from the files of a store to the log: which segments, and where it ends.
 *
 * I1. The chain is followed backwards: the segment of the highest number says where the log before
 *     it ends, the segment that lies there says the same, and so on down to the head that MARKS
 *     names. Segments between are void: a later open has gone past them.
 * I2. At each position recovery takes the record from the segment's file if it checks out there,
 *     else from the ring. The log ends at the first position where neither has one; an unfinished
 *     batch before that is left out whole.
 * I3. The durable point is the largest position that MARKS, a segment header or a mark record says
 *     was durable, marks found after the end included. An end below it is damage, not a torn tail.
 * I4. In the boot in which the store was last written no page was lost: then an end below what
 *     the flusher had written (the ring's state page) is damage as well.
 * I5. Nothing is written here: what was taken from the ring stays in memory, for km__log_start().
 */
#include "log/log_internal.h"

#include <stdlib.h>

/* ---- the names in log/ ------------------------------------------------------------------- */

struct number_list {
    const struct allocator *allocator;
    uint32_t *numbers;
    uint32_t count, capacity;
};

static km_status grow_list(struct number_list *list)
{
    uint32_t capacity = list->capacity ? list->capacity * 2 : 64;
    uint32_t *numbers = km__allocate(list->allocator, capacity * sizeof(*numbers));

    if (!numbers)
        return KM_E_NO_MEMORY;
    if (list->count)
        memcpy(numbers, list->numbers, list->count * sizeof(*numbers));
    km__release(list->allocator, list->numbers, list->capacity * sizeof(*numbers));
    list->numbers = numbers;
    list->capacity = capacity;
    return KM_OK;
}

static km_status add_name(void *context, const char *name)
{
    struct number_list *list = context;
    uint32_t number;
    km_status rc = KM_OK;

    if (!km__segment_name_parse(name, &number) || number == 0)
        return KM_OK;
    if (list->count == list->capacity)
        rc = grow_list(list);
    if (!rc)
        list->numbers[list->count++] = number;
    return rc;
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static int find_number(const struct number_list *list, uint32_t number)
{
    return bsearch(&number, list->numbers, list->count, sizeof(number), compare_numbers) != NULL;
}

/* ---- one segment ------------------------------------------------------------------------- */

static km_status read_header(struct log *log, struct segment *segment, const char *name,
                             struct segment_header *header, km_error *error)
{
    const struct os_ops *ops = log->os->ops;
    uint8_t *bytes = km__allocate(&log->os->allocator, SEGMENT_HEADER_SIZE);
    uint64_t size = 0;
    km_status rc = bytes ? ops->file_size(segment->file, &size) : KM_E_NO_MEMORY;

    if (!rc && size < SEGMENT_HEADER_SIZE)
        rc = km__fail(error, KM_E_CORRUPT, name, size, 0, "the segment's file is cut short");
    else if (!rc)
        rc = ops->read_at(segment->file, 0, bytes, SEGMENT_HEADER_SIZE);
    if (!rc) {
        rc = km__segment_header_decode(bytes, header);
        if (rc)
            rc = km__fail(error, rc, name, 0, 0, "the segment's header is damaged");
    } else if (rc != KM_E_CORRUPT) {
        rc = km__fail(error, rc, name, 0, ops->last_error(log->os),
                      "cannot read the segment's header");
    }
    if (!rc && memcmp(header->store_id, log->options.store_id, STORE_ID_SIZE) != 0)
        rc = km__fail(error, KM_E_CORRUPT, name, 0, 0, "the segment belongs to another store");
    if (!rc && (header->number != segment->number || header->size != size))
        rc = km__fail(error, KM_E_CORRUPT, name, 0, 0,
                      "the segment's number or size is not that of its header");
    km__release(&log->os->allocator, bytes, SEGMENT_HEADER_SIZE);
    return rc;
}

static void see_durable(struct log *log, uint64_t position)
{
    uint64_t seen = atomic_load_explicit(&log->durable_seen, memory_order_relaxed);

    while (position > seen &&
           !atomic_compare_exchange_weak_explicit(&log->durable_seen, &seen, position,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
}

km_status km__segment_open(struct log *log, uint32_t number, struct segment **out_segment,
                           km_error *error)
{
    const struct os_ops *ops = log->os->ops;
    struct segment *segment = km__allocate(&log->os->allocator, sizeof(*segment));
    struct segment_header header;
    char name[SEGMENT_NAME_SIZE];
    km_status rc = segment ? KM_OK : KM_E_NO_MEMORY;

    km__segment_name(number, name);
    if (rc) goto out;
    segment->number = number;
    rc = ops->open_file(log->options.log_dir, name,
                        log->options.read_only ? OS_OPEN_READ : OS_OPEN_WRITE, &segment->file);
    if (rc == KM_E_INVALID) /* not a regular file */
        rc = KM_E_CORRUPT;
    if (rc) {
        rc = km__fail(error, rc, name, 0, ops->last_error(log->os), "cannot open a segment");
        goto out;
    }
    rc = read_header(log, segment, name, &header, error);
    if (rc) goto out;
    segment->size = header.size;
    segment->previous_end = header.previous_end;
    segment->limit_offset = header.size;
    segment->linear_start = header.linear_start;
    segment->ring_log2 = header.ring_log2;
    segment->is_special = header.ring_log2 == 0;
    see_durable(log, header.durable);
    rc = ops->map_read(segment->file, segment->size, &segment->mapping);
    if (rc) {
        rc = km__fail(error, rc, name, 0, ops->last_error(log->os), "cannot map a segment");
        goto out;
    }
    *out_segment = segment;
out:
    if (segment) { /* the mapping stays; a log may have more segments than a process descriptors */
        ops->close_file(segment->file);
        segment->file = NULL;
    }
    if (rc)
        km__segment_destroy(log, segment);
    return rc;
}

/* ---- the chain --------------------------------------------------------------------------- */

static km_status missing_segment(uint32_t number, km_error *error)
{
    char name[SEGMENT_NAME_SIZE];

    km__segment_name(number, name);
    return km__fail(error, KM_E_CORRUPT, name, 0, 0, "a segment of the log is missing");
}

/* Let references into the segment be followed, without further checks: its records are scanned. */
static void fill_slot(struct log *log, const struct segment *segment, const uint8_t *bytes)
{
    struct log_slot *slot = km__log_slot(log, segment->number);

    slot->number = segment->number;
    slot->units = (uint32_t)(segment->size / RECORD_ALIGNMENT);
    atomic_store_explicit(&slot->base, (uintptr_t)bytes,
                          memory_order_release); /* pairs with km__log_record_at() */
}

/* Open the segment `number`; the log leaves it at `limit`. */
static km_status add_link(struct log *log, const struct number_list *names, uint32_t number,
                          uint64_t limit, km_error *error)
{
    struct segment *segment = NULL;
    char name[SEGMENT_NAME_SIZE];
    km_status rc;

    if (!find_number(names, number))
        return missing_segment(number, error);
    if (km__segment_at(log, number))
        return km__fail(error, KM_E_LIMIT, "log", 0, 0, "the log spans more than %u segments",
                        LOG_SLOT_COUNT);
    rc = km__segment_open(log, number, &segment, error);
    if (rc)
        return rc;
    km__segment_name(number, name);
    if (limit && (limit > segment->size || limit < SEGMENT_HEADER_SIZE)) {
        km__segment_destroy(log, segment);
        return km__fail(error, KM_E_CORRUPT, name, limit, 0,
                        "the segment after it names an end outside of it");
    }
    if (limit)
        segment->limit_offset = limit;
    log->segments[number % LOG_SLOT_COUNT] = segment;
    log->chain[log->chain_count++] = number;
    fill_slot(log, segment, segment->mapping);
    return KM_OK;
}

/* Beside a writer the oldest segments may go while the chain is followed down to them. What was
 * found is a log all the same: every record that counts lies behind the head as it is now. The
 * caller looks whether the head really has moved. */
static int has_head_moved(const struct log *log, km_status rc)
{
    return log->options.follow && log->chain_count > 0 &&
           (rc == KM_E_CORRUPT || rc == KM_NOT_FOUND);
}

static km_status follow_chain(struct log *log, const struct number_list *names, km_error *error)
{
    uint32_t head = km__position_number(log->marks.head);
    uint32_t number = names->numbers[names->count - 1];
    uint64_t limit = 0;
    km_status rc;

    for (;;) { /* ends: each link has a smaller number */
        const struct segment *segment;

        if (number < head)
            return missing_segment(head, error);
        rc = add_link(log, names, number, limit, error);
        if (has_head_moved(log, rc)) {
            log->marks.head = km__position(log->chain[log->chain_count - 1], SEGMENT_HEADER_SIZE);
            return KM_OK;
        }
        if (rc || number == head)
            return rc;
        segment = km__segment_at(log, number);
        limit = km__position_offset(segment->previous_end);
        if (km__position_number(segment->previous_end) >= number)
            return missing_segment(number - 1, error);
        number = km__position_number(segment->previous_end);
    }
}

static void reverse_chain(struct log *log)
{
    for (uint32_t i = 0; i < log->chain_count / 2; i++) {
        uint32_t other = log->chain[log->chain_count - 1 - i];

        log->chain[log->chain_count - 1 - i] = log->chain[i];
        log->chain[i] = other;
    }
}

/* Segments that the chain does not use are void: keep their numbers, to remove their files. */
static void collect_strays(struct log *log, const struct number_list *names)
{
    for (uint32_t i = 0; i < names->count; i++) {
        const struct segment *segment = km__segment_at(log, names->numbers[i]);

        if (!segment || segment->number != names->numbers[i])
            log->stray[log->stray_count++] = names->numbers[i];
    }
}

km_status km__log_find_chain(struct log *log, km_error *error)
{
    struct number_list names = {&log->os->allocator, NULL, 0, 0};
    km_status rc = log->os->ops->list(log->options.log_dir, add_name, &names);

    if (rc) {
        rc = km__fail(error, rc, "log", 0, log->os->ops->last_error(log->os),
                      "cannot list the log's folder");
        goto out;
    }
    if (names.count == 0) {
        rc = missing_segment(km__position_number(log->marks.head), error);
        goto out;
    }
    qsort(names.numbers, names.count, sizeof(*names.numbers), compare_numbers);
    log->highest_number = names.numbers[names.count - 1];
    log->name_count = names.count;
    log->chain = km__allocate(&log->os->allocator, names.count * sizeof(*log->chain));
    log->stray = km__allocate(&log->os->allocator, names.count * sizeof(*log->stray));
    if (!log->chain || !log->stray) {
        rc = KM_E_NO_MEMORY;
        goto out;
    }
    rc = follow_chain(log, &names, error);
    reverse_chain(log);
    if (!rc)
        collect_strays(log, &names);
out:
    km__release(names.allocator, names.numbers, names.capacity * sizeof(*names.numbers));
    return rc;
}

uint32_t km__log_chain_count(const struct log *log)
{
    return log->chain_count;
}

uint64_t km__log_chain_bytes(const struct log *log, uint32_t index)
{
    return km__segment_at(log, log->chain[index])->limit_offset;
}

uint32_t km__log_chain_number(const struct log *log, uint32_t index)
{
    return log->chain[index];
}

uint32_t km__log_chain_missing(const struct log *log, uint64_t head)
{
    const struct segment *first = km__segment_at(log, log->chain[0]);

    return first->number == km__position_number(head) ? 0
                                                      : km__position_number(first->previous_end);
}

uint32_t km__log_certain_number(const struct log *log)
{
    return km__position_number(atomic_load_explicit(&log->durable_seen, memory_order_relaxed));
}

/* ---- scanning ---------------------------------------------------------------------------- */

struct unit_scan {
    struct log *log;
    const struct segment *segment;
    const uint8_t *bytes; /* the segment's */
    log_visit_fn visit;
    void *context;
};

static enum record_check check_at(const struct unit_scan *scan, uint64_t offset, struct record *out)
{
    const struct segment *segment = scan->segment;

    if (segment->limit_offset - offset < RECORD_HEADER_SIZE)
        return RECORD_ABSENT;
    return km__record_decode(scan->bytes + offset, segment->limit_offset - offset,
                             km__log_place(scan->log, km__position(segment->number, offset)), out);
}

/* Where the unit that begins at `offset` ends, if it is whole and sound; else 0. */
static uint64_t find_unit_end(const struct unit_scan *scan, uint64_t offset, struct record *first)
{
    struct record record;

    if (check_at(scan, offset, first) != RECORD_OK)
        return 0;
    offset += km__record_size_at(scan->bytes + offset);
    record = *first;
    while (record.flags & RECORD_MORE_FOLLOWS) { /* ends: the offset grows */
        if (check_at(scan, offset, &record) != RECORD_OK)
            return 0;
        offset += km__record_size_at(scan->bytes + offset);
    }
    return offset;
}

static km_status visit_unit(const struct unit_scan *scan, uint64_t offset, uint64_t end,
                            const struct record *first)
{
    struct record record = *first;
    km_status rc = KM_OK;

    while (!rc && offset < end) {
        const uint8_t *p = scan->bytes + offset;

        if (offset + km__record_size_at(p) != end || (first->flags & RECORD_MORE_FOLLOWS))
            KM_ASSERT(check_at(scan, offset, &record) == RECORD_OK);
        if (record.kind == RECORD_MARK && record.value_size == 8)
            see_durable(scan->log, km__load64(p + RECORD_HEADER_SIZE));
        rc = scan->visit(scan->context, &record, p, km__position(scan->segment->number, offset));
        offset += km__record_size_at(p);
    }
    return rc;
}

/* Visit whole units from `offset` on; *out_end is where they end. */
static km_status scan_units(const struct unit_scan *scan, uint64_t offset, uint64_t *out_end)
{
    struct record first;
    km_status rc = KM_OK;

    for (;;) { /* ends: the offset grows */
        uint64_t end = find_unit_end(scan, offset, &first);

        *out_end = offset;
        if (end == 0)
            return KM_OK;
        rc = visit_unit(scan, offset, end, &first);
        if (rc)
            return rc;
        offset = end;
    }
}

static struct unit_scan scan_of(struct log *log, struct segment *segment, log_visit_fn visit,
                                void *context)
{
    struct unit_scan scan = {log, segment, segment->memory ? segment->memory : segment->mapping,
                             visit, context};
    return scan;
}

/* The mapping is for random reads and brings in single pages: have the kernel read in large pieces.
 */
static void read_ahead(struct log *log, const struct segment *segment)
{
    const struct os_ops *ops = log->os->ops;
    struct os_file *file = NULL;
    char name[SEGMENT_NAME_SIZE];

    km__segment_name(segment->number, name);
    if (ops->open_file(log->options.log_dir, name, OS_OPEN_READ, &file))
        return; /* it only helps */
    ops->read_ahead(file, segment->size);
    ops->close_file(file);
}

km_status km__log_scan(struct log *log, uint32_t index, log_visit_fn visit, void *context)
{
    struct segment *segment = km__segment_at(log, log->chain[index]);
    struct unit_scan scan = scan_of(log, segment, visit, context);

    read_ahead(log, segment);
    return scan_units(&scan, segment->scan_from ? segment->scan_from : SEGMENT_HEADER_SIZE,
                      &segment->end_offset);
}

km_status km__segment_scan_on(struct log *log, struct segment *segment, log_visit_fn visit,
                              void *context)
{
    struct unit_scan scan = scan_of(log, segment, visit, context);

    return scan_units(&scan, segment->end_offset, &segment->end_offset);
}

int km__segment_has_unit(struct log *log, struct segment *segment)
{
    struct unit_scan scan = scan_of(log, segment, NULL, NULL);
    struct record first;

    return find_unit_end(&scan, segment->end_offset, &first) != 0;
}

km_status km__log_find_successor(struct log *log, const struct segment *segment,
                                 uint32_t *out_number, uint64_t *out_limit)
{
    struct number_list names = {&log->os->allocator, NULL, 0, 0};
    uint32_t number = 0;
    km_status rc = log->os->ops->list(log->options.log_dir, add_name, &names);

    *out_number = 0;
    for (uint32_t i = 0; i < names.count; i++)
        number = names.numbers[i] > number ? names.numbers[i] : number;
    while (!rc && number > segment->number) { /* ends: each link has a smaller number */
        struct segment *link = NULL;
        uint64_t previous_end;

        rc = km__segment_open(log, number, &link, NULL);
        if (rc)
            break;
        previous_end = link->previous_end;
        km__segment_destroy(log, link);
        *out_number = number;
        *out_limit = km__position_offset(previous_end);
        number = km__position_number(previous_end);
    }
    km__release(names.allocator, names.numbers, names.capacity * sizeof(*names.numbers));
    if (!rc && (names.count == 0 || (*out_number && number != segment->number)))
        rc = KM_E_TOO_OLD;
    return rc;
}

/* Records that no scan has verified are verified when they are read. */
static void distrust_slot(struct log *log, const struct segment *segment)
{
    struct log_slot *slot = km__log_slot(log, segment->number);

    if (log->options.verify_reads)
        atomic_store_explicit(&slot->base, (uintptr_t)segment->mapping | 1,
                              memory_order_release); /* nobody reads yet */
}

/* Whether whole units lead from a segment's begin exactly to `offset`: recovery may go on to write
 * in this segment, from memory, where nobody verifies what is read. */
static int verify_until(struct log *log, struct segment *segment, uint64_t offset)
{
    struct unit_scan scan = scan_of(log, segment, NULL, NULL);
    uint64_t at = SEGMENT_HEADER_SIZE;
    struct record first;

    if (offset == segment->limit_offset && offset - SEGMENT_HEADER_SIZE > 0 &&
        segment->number != log->chain[log->chain_count - 1])
        return 1;             /* it is left behind: nothing is written there */
    while (at && at < offset) /* ends: it grows, or is 0 */
        at = find_unit_end(&scan, at, &first);
    return at == offset;
}

km_status km__log_skip_to(struct log *log, uint64_t position, uint32_t *out_index)
{
    uint32_t index = 0;
    struct segment *segment;

    while (index < log->chain_count && log->chain[index] != km__position_number(position))
        index++;
    if (index == log->chain_count)
        return KM_NOT_FOUND;
    segment = km__segment_at(log, log->chain[index]);
    if (km__position_offset(position) > segment->limit_offset)
        return KM_NOT_FOUND;
    if (!verify_until(log, segment, km__position_offset(position)))
        return KM_E_CORRUPT;
    segment->scan_from = km__position_offset(position);
    for (uint32_t i = 0; i <= index; i++) {
        segment = km__segment_at(log, log->chain[i]);
        if (i < index)
            segment->end_offset = segment->limit_offset;
        if (i < index || km__position_offset(position) == segment->limit_offset)
            distrust_slot(log, segment);
    }
    *out_index = index;
    return KM_OK;
}

void km__log_skip_nothing(struct log *log)
{
    for (uint32_t i = 0; i < log->chain_count; i++) {
        struct segment *segment = km__segment_at(log, log->chain[i]);

        segment->scan_from = 0;
        segment->end_offset = 0;
        fill_slot(log, segment, segment->mapping);
    }
}

void km__log_see_durable(struct log *log, uint64_t position)
{
    see_durable(log, position);
}

/* ---- the end of the log ------------------------------------------------------------------ */

/* Whether the log goes on after this segment as far as was scanned. */
int km__segment_is_left(const struct segment *segment)
{
    return segment->limit_offset - segment->end_offset < RECORD_HEADER_SIZE;
}

int km__log_chain_is_whole(const struct log *log, uint32_t index)
{
    return km__segment_is_left(km__segment_at(log, log->chain[index]));
}

static km_status load_ring(struct log *log, uint32_t ring_log2, uint8_t **out_bytes,
                           km_error *error)
{
    const struct os_ops *ops = log->os->ops;
    uint64_t size = RING_DATA_OFFSET + (UINT64_C(1) << ring_log2), file_size = 0;
    struct os_file *file = NULL;
    struct ring_header header;
    uint8_t *bytes = NULL;
    char name[RING_NAME_SIZE];
    km_status rc;

    km__ring_name(ring_log2, name);
    rc = ops->open_file(log->options.store_dir, name, OS_OPEN_READ, &file);
    if (!rc)
        rc = ops->file_size(file, &file_size);
    if (!rc && file_size != size)
        rc = KM_E_CORRUPT;
    if (!rc && !(bytes = km__map_pages(&log->os->allocator, size)))
        rc = KM_E_NO_MEMORY;
    if (!rc)
        rc = ops->read_at(file, 0, bytes, size);
    if (!rc)
        rc = km__ring_header_decode(bytes, &header);
    if (!rc && (header.ring_log2 != ring_log2 ||
                memcmp(header.store_id, log->options.store_id, STORE_ID_SIZE)))
        rc = KM_E_CORRUPT;
    if (rc == KM_NOT_FOUND || rc == KM_E_INVALID) /* invalid: not a regular file */
        rc = KM_E_CORRUPT;
    if (rc)
        rc = km__fail(error, rc, name, 0, 0,
                      "the tail ring is missing or damaged, and the store was not closed cleanly");
    if (rc && bytes) {
        km__unmap_pages(&log->os->allocator, bytes, size);
        bytes = NULL;
    }
    ops->close_file(file);
    *out_bytes = bytes;
    return rc;
}

struct ring_walk {
    struct log *log;
    struct segment *segment;
    uint8_t *rings[RING_LOG2_MAX + 1]; /* copies of the ring files */
    uint64_t flushed;                  /* I4 */
};

static km_status ring_of(struct ring_walk *walk, uint8_t **out_bytes, km_error *error)
{
    uint32_t ring_log2 = walk->segment->ring_log2;
    uint64_t flushed;
    km_status rc;

    *out_bytes = NULL;
    if (ring_log2 == 0)
        return KM_OK;
    if (!walk->rings[ring_log2]) {
        rc = load_ring(walk->log, ring_log2, &walk->rings[ring_log2], error);
        if (rc)
            return rc;
        flushed = km__ring_flushed(walk->rings[ring_log2], walk->log->boot_id);
        if (flushed > walk->flushed)
            walk->flushed = flushed;
    }
    *out_bytes = walk->rings[ring_log2];
    return KM_OK;
}

/* Give the segment private memory, so that records from the ring can be put in their place. */
static km_status unseal(struct log *log, struct segment *segment)
{
    uint8_t *memory;
    uint64_t used = segment->end_offset;

    if (segment->memory)
        return KM_OK;
    memory = km__map_pages(&log->os->allocator, segment->size);
    if (!memory)
        return KM_E_NO_MEMORY;
    memcpy(memory, segment->mapping, used);
    segment->memory = memory;
    fill_slot(log, segment, memory);
    return KM_OK;
}

static void ring_read(const uint8_t *ring_bytes, uint32_t ring_log2, uint64_t at, uint8_t *to,
                      uint64_t size)
{
    const uint8_t *data = ring_bytes + RING_DATA_OFFSET;
    uint64_t ring_size = UINT64_C(1) << ring_log2;
    uint64_t offset = at & (ring_size - 1);
    uint64_t first = size < ring_size - offset ? size : ring_size - offset;

    memcpy(to, data + offset, first);
    memcpy(to + first, data, size - first);
}

/* Copy the record at `offset` from the file's bytes or the ring into the segment's memory, if
 * either has it whole: *out_size is 0 if not. */
static void take_record(struct ring_walk *walk, const uint8_t *ring_bytes, uint64_t offset,
                        uint64_t *out_size)
{
    struct segment *segment = walk->segment;
    uint64_t available = segment->limit_offset - offset;
    uint64_t ring_size = UINT64_C(1) << segment->ring_log2;
    struct record_place place = km__log_place(walk->log, km__position(segment->number, offset));
    uint8_t *to = segment->memory + offset;
    struct record record;
    uint64_t size;

    *out_size = 0;
    if (available < RECORD_HEADER_SIZE)
        return;
    memcpy(to, segment->mapping + offset, RECORD_HEADER_SIZE);
    if (km__record_decode(segment->mapping + offset, available, place, &record) == RECORD_OK) {
        *out_size = km__record_size_at(to);
        memcpy(to, segment->mapping + offset, *out_size);
        return;
    }
    memset(to, 0, RECORD_HEADER_SIZE);
    if (!ring_bytes)
        return;
    ring_read(ring_bytes, segment->ring_log2, segment->linear_start + offset, to,
              RECORD_HEADER_SIZE);
    size = km__record_size_at(to);
    if (to[12] != RECORD_PADDING && size <= available && size <= ring_size)
        ring_read(ring_bytes, segment->ring_log2, segment->linear_start + offset, to, size);
    if (size <= available && (to[12] == RECORD_PADDING || size <= ring_size) &&
        km__record_decode(to, available, place, &record) == RECORD_OK) {
        *out_size = size;
        return;
    }
    memset(to, 0, size <= available && size <= ring_size ? size : RECORD_HEADER_SIZE);
}

/* Fill the segment's memory with whole records from its end on, then scan the units among them. */
static km_status extend_segment(struct ring_walk *walk, log_visit_fn visit, void *context,
                                km_error *error)
{
    struct segment *segment = walk->segment;
    uint64_t offset = segment->end_offset, size;
    struct unit_scan scan;
    uint8_t *ring_bytes;
    km_status rc = ring_of(walk, &ring_bytes, error);

    if (!rc)
        rc = unseal(walk->log, segment);
    if (rc)
        return rc;
    for (;;) { /* ends: the offset grows */
        take_record(walk, ring_bytes, offset, &size);
        if (size == 0)
            break;
        offset += size;
    }
    scan = scan_of(walk->log, segment, visit, context);
    segment->file_end_offset = segment->end_offset;
    rc = scan_units(&scan, segment->end_offset, &segment->end_offset);
    if (!rc) /* what follows the last whole unit is void: no committed bytes may stay there */
        memset(segment->memory + segment->end_offset, 0, offset - segment->end_offset);
    return rc;
}

/* Bytes after the end that are not zero: what a crash tore off. */
static uint64_t count_torn(const uint8_t *bytes, uint64_t from, uint64_t to)
{
    uint64_t torn = 0;

    for (uint64_t at = from; at + 8 <= to; at += 8)
        torn += km__load64(bytes + at) ? 8 : 0;
    return torn;
}

/* Marks behind the end tell how far the log had been durable. Returns non-zero bytes seen. */
static uint64_t search_marks(struct log *log, const struct segment *segment, uint64_t from)
{
    const uint64_t mark_word = (uint64_t)RECORD_MARK << 32;
    const uint8_t *bytes = segment->mapping;
    struct record record;

    for (uint64_t at = km__round_up(from, 8); at + 24 <= segment->size; at += 8) {
        if (km__load64(bytes + at + 8) == mark_word &&
            km__record_decode(bytes + at, segment->size - at,
                              km__log_place(log, km__position(segment->number, at)),
                              &record) == RECORD_OK &&
            record.value_size == 8)
            see_durable(log, km__load64(bytes + at + RECORD_HEADER_SIZE));
    }
    return count_torn(bytes, from, segment->size);
}

/* Whole records in the ring beyond the log's end: of changes that were under way at a kill, or
 * behind a damaged one. Sums tell them from older laps; no more than two rings' worth is summed. */
static uint64_t count_torn_in_ring(const struct ring_walk *walk, const struct segment *segment,
                                   uint64_t from)
{
    const uint8_t *ring_bytes = walk->rings[segment->ring_log2];
    uint64_t ring_size = UINT64_C(1) << segment->ring_log2, budget = 2 * ring_size, torn = 0;
    uint64_t to = segment->limit_offset - from < ring_size ? segment->limit_offset
                                                           : from + ring_size;
    struct record record;

    for (uint64_t at = from; ring_bytes && at + RECORD_HEADER_SIZE <= to; at += 8) {
        uint64_t offset = (segment->linear_start + at) & (ring_size - 1);
        uint64_t available = to - at < ring_size - offset ? to - at : ring_size - offset;
        const uint8_t *p = ring_bytes + RING_DATA_OFFSET + offset;

        if (available < RECORD_HEADER_SIZE || p[12] == RECORD_PADDING || km__load64(p + 8) == 0 ||
            km__record_size_at(p) > available)
            continue;
        if (km__record_size_at(p) > budget)
            break;
        budget -= km__record_size_at(p);
        if (km__record_decode(p, available,
                              km__log_place(walk->log, km__position(segment->number, at)),
                              &record) == RECORD_OK) {
            torn += km__record_size_at(p);
            at += km__record_size_at(p) - 8;
        }
    }
    return torn;
}

/* Look at what lies beyond the end, in the file and in the ring; how much there is. */
static uint64_t count_beyond(const struct ring_walk *walk, const struct segment *segment,
                             uint64_t from)
{
    uint64_t in_file = search_marks(walk->log, segment, from);
    uint64_t in_ring = count_torn_in_ring(walk, segment, from);

    return in_file > in_ring ? in_file : in_ring; /* the same records may be in both */
}

static km_status judge_end(struct log *log, const struct ring_walk *walk, uint64_t end,
                           km_error *error)
{
    uint64_t durable = atomic_load_explicit(&log->durable_seen, memory_order_relaxed);
    const struct segment *segment = km__segment_at(log, km__position_number(end));
    uint64_t offset = km__position_offset(end);
    char name[SEGMENT_NAME_SIZE];

    km__segment_name(segment->number, name);
    if (end >= durable && end >= walk->flushed)
        return KM_OK;
    return km__fail(
        error, KM_E_CORRUPT, name, offset, 0,
        "a damaged record at offset %llu (map %u by its header) lies before the durable point "
        "%llx; run `keepmap verify`, then `keepmap salvage` or restore a backup",
        (unsigned long long)offset,
        segment->size - offset >= RECORD_HEADER_SIZE ? km__load16(segment->mapping + offset + 10)
                                                     : 0,
        (unsigned long long)(durable > walk->flushed ? durable : walk->flushed));
}

/* Whether the store was closed cleanly at `end` and nobody has written since: who opens it for
 * writing takes the word `clean` back before anything else (log_open.c, I3). */
static int is_clean_end(const struct log *log, uint64_t end)
{
    const struct segment *segment = km__segment_at(log, km__position_number(end));
    uint64_t offset = km__position_offset(end);

    if (!log->marks.clean || log->marks.durable != end)
        return 0;
    return segment->size - offset < RECORD_HEADER_SIZE ||
           (km__load64(segment->mapping + offset) == 0 &&
            km__load64(segment->mapping + offset + 8) == 0);
}

static km_status walk_to_end(struct ring_walk *walk, log_visit_fn visit, void *context,
                             uint32_t *out_index, km_error *error)
{
    struct log *log = walk->log;
    km_status rc;

    for (uint32_t i = 0;; i++) { /* ends with the chain */
        struct segment *segment = km__segment_at(log, log->chain[i]);

        uint64_t end = km__position(segment->number, segment->end_offset);

        walk->segment = segment;
        *out_index = i;
        if (!km__segment_is_left(segment) && !is_clean_end(log, end) && !log->options.follow) {
            rc = extend_segment(walk, visit, context, error);
            if (rc)
                return rc;
        }
        if (log->options.follow) { /* it may have grown since */
            rc = km__segment_scan_on(log, segment, visit, context);
            if (rc)
                return rc;
        }
        if (!km__segment_is_left(segment) || i + 1 == log->chain_count)
            return KM_OK;
    }
}

static void release_rings(struct ring_walk *walk)
{
    for (uint32_t i = RING_LOG2_MIN; i <= RING_LOG2_MAX; i++) {
        if (walk->rings[i])
            km__unmap_pages(&walk->log->os->allocator, walk->rings[i],
                            RING_DATA_OFFSET + (UINT64_C(1) << i));
    }
}

/* How far the files were written, says each ring: also those that no segment needed (I4). */
static void read_flushed(struct ring_walk *walk)
{
    const struct os_ops *ops = walk->log->os->ops;
    uint8_t bytes[RING_DATA_OFFSET];
    char name[RING_NAME_SIZE];

    for (uint32_t i = RING_LOG2_MIN; i <= RING_LOG2_MAX; i++) {
        struct os_file *file = NULL;
        struct ring_header header;
        uint64_t flushed = 0;

        km__ring_name(i, name);
        if (!ops->open_file(walk->log->options.store_dir, name, OS_OPEN_READ, &file) &&
            !ops->read_at(file, 0, bytes, sizeof(bytes)) &&
            !km__ring_header_decode(bytes, &header) &&
            !memcmp(header.store_id, walk->log->options.store_id, STORE_ID_SIZE))
            flushed = km__ring_flushed(bytes, walk->log->boot_id);
        if (flushed > walk->flushed)
            walk->flushed = flushed;
        ops->close_file(file);
    }
}

/* A last segment without a record, left by an open that wrote nothing: the log ends before it. Else
 * each such open would cost a segment for good. */
static void leave_empty(const struct log *log, uint64_t *end, uint32_t *index)
{
    while (*index > 0 && km__position_offset(*end) == SEGMENT_HEADER_SIZE) {
        *end = km__segment_at(log, log->chain[*index])->previous_end;
        (*index)--;
    }
}

km_status km__log_find_end(struct log *log, log_visit_fn visit, void *context, uint64_t *out_end,
                           uint64_t *out_torn_bytes, km_error *error)
{
    struct ring_walk walk = {.log = log};
    uint32_t index = 0;
    uint64_t end = 0, torn = 0;
    km_status rc;

    rc = walk_to_end(&walk, visit, context, &index, error);
    if (rc) goto out;
    end = km__position(walk.segment->number, walk.segment->end_offset);
    log->found_clean = is_clean_end(log, end);
    if (log->options.follow) { /* what lies behind is being written */
        rc = judge_end(log, &walk, end, error);
        goto found;
    }
    if (!log->found_clean)
        read_flushed(&walk);
    /* after a clean end too: MARKS may be older than changes that were synced, and then damaged */
    torn = count_beyond(&walk, walk.segment, walk.segment->end_offset);
    for (uint32_t i = index + 1; i < log->chain_count; i++)
        torn += count_beyond(&walk, km__segment_at(log, log->chain[i]), SEGMENT_HEADER_SIZE);
    rc = judge_end(log, &walk, end, error);
found:
    if (rc) goto out;
    if (!log->found_clean)
        leave_empty(log, &end, &index);
    log->found_end = end;
    log->end_index = index;
    *out_end = end;
    *out_torn_bytes = torn;
out:
    release_rings(&walk);
    return rc;
}
