/* SPDX-License-Identifier: Apache-2.0
 *
 * log_special.c -- units too large for the ring: each gets a segment of its own.
 *
 * The unit's bytes are written to a file, without a name in the log, while nobody waits. Then the
 * ready segments, which were to come next, make place: their files are removed, the new segment
 * takes the next number, and its header and checksums, which depend on the number, are written.
 * From there to the taking of its place no other segment may follow the active one; writers that
 * need one wait, holding nothing. The taking itself is one move of the tail.
 *
 * I1. Files of ready segments are gone durably before the new file gets its name: a later ready
 *     segment says where the one before it ends, which is no longer true.
 * I2. The unit is wholly in its durable file before the tail moves over it.
 */
#include "log/log_internal.h"

#define LARGE_COUNT_FEW 4u

static const char special_name[] = "special.segment";

/* ---- begin ------------------------------------------------------------------------------- */

static km_status create_special_file(struct log *log, struct segment *segment)
{
    const struct os_ops *ops = log->os->ops;
    struct os_dir *dir = log->options.log_dir;
    km_status rc;

    km__ignore(ops->unlink(dir, special_name), "a leftover of a failed attempt, or nothing");
    rc = ops->open_file(dir, special_name, OS_CREATE_NEW, &segment->file);
    return rc ? rc : ops->allocate(segment->file, segment->size);
}

/* What has to stay free for deletes: a usual segment after this one. Under prepare_lock. */
static uint64_t reserve_size(const struct log *log, enum log_class class)
{
    uint64_t size = km__segment_at(log, log->last_number)->size;

    if (class != LOG_CLASS_PUT)
        return 0;
    if (size < SEGMENT_SIZE_FIRST || size > SEGMENT_SIZE_USUAL_MAX)
        size = size < SEGMENT_SIZE_FIRST ? SEGMENT_SIZE_FIRST : SEGMENT_SIZE_USUAL_MAX;
    return 2 * size; /* segments grow */
}

static km_status create_special(struct log *log, uint64_t unit_size, enum log_class class,
                                struct segment **out_segment)
{
    uint64_t size = km__round_up(SEGMENT_HEADER_SIZE + unit_size, 4096);
    struct segment *segment;
    km_status rc;

    if (size < SEGMENT_SIZE_MIN)
        size = SEGMENT_SIZE_MIN;
    km__mutex_lock(&log->prepare_lock);
    rc = km__log_check_limits(log, size + reserve_size(log, class), NULL);
    km__mutex_unlock(&log->prepare_lock);
    if (rc)
        return rc;
    segment = km__allocate(&log->os->allocator, sizeof(*segment));
    if (!segment)
        return KM_E_NO_MEMORY;
    segment->is_special = 1;
    segment->size = size;
    segment->memory = km__map_pages(&log->os->allocator, size);
    rc = segment->memory ? KM_OK : KM_E_NO_MEMORY;
    if (!rc && !log->in_memory)
        rc = create_special_file(log, segment);
    if (rc) {
        km__segment_destroy(log, segment);
        return rc;
    }
    *out_segment = segment;
    return KM_OK;
}

/* Each special segment ends the active one, however much of it is free. Where large units keep
 * coming, the next segments get a ring, or a size, that takes them, if there is one. */
static void note_large(struct log *log, uint64_t unit_size)
{
    uint64_t wanted = SEGMENT_SIZE_FIRST;
    uint64_t most;

    if (++log->large_count < LARGE_COUNT_FEW)
        return;
    for (;; wanted *= 2) { /* ends: at the largest usual size */
        if (wanted > SEGMENT_SIZE_USUAL_MAX)
            return;
        most = log->in_memory ? wanted / 4 : (UINT64_C(1) << km__ring_log2_for(wanted)) / 4;
        if (unit_size <= most)
            break;
    }
    if (wanted > atomic_load_explicit(&log->wanted_size, memory_order_relaxed))
        atomic_store_explicit(&log->wanted_size, wanted, memory_order_relaxed);
}

km_status km__log_special_begin(struct log *log, uint64_t size, enum log_class class,
                                struct log_space *out_space)
{
    struct segment *segment = NULL;
    km_status rc;

    km__log_wait_pace(log, class);
    km__mutex_lock(&log->special_lock);
    rc = km__log_writable(log);
    if (!rc)
        rc = create_special(log, size, class, &segment);
    if (rc) {
        km__mutex_unlock(&log->special_lock);
        return rc;
    }
    note_large(log, size);
    out_space->segment = segment;
    out_space->bytes = segment->memory + SEGMENT_HEADER_SIZE;
    out_space->position = km__position(0, SEGMENT_HEADER_SIZE); /* until it has a number */
    out_space->size = size;
    return KM_OK;
}

/* ---- write ------------------------------------------------------------------------------- */

/* Checksums depend on the number: sum the records again for the place they now have. */
static void sum_records(struct log *log, struct segment *segment, uint64_t unit_size)
{
    uint64_t offset = SEGMENT_HEADER_SIZE;
    uint64_t end = SEGMENT_HEADER_SIZE + unit_size;

    while (offset < end) {
        uint8_t *p = segment->memory + offset;
        uint32_t payload_offset = km__record_payload_offset(p[13]);
        uint64_t size = km__record_size_at(p);
        uint32_t crc = segment->payload_crc;

        if (size != unit_size) /* one of several: its payload's sum was not kept */
            crc = km__crc32c(0, p + payload_offset, size - payload_offset);
        km__store32(
            p, km__record_sum(p, crc, km__log_place(log, km__position(segment->number, offset))));
        offset += size;
    }
    if (segment->size - end >= RECORD_HEADER_SIZE)
        km__log_write_padding(log, segment, end);
}

/* From here on the log cannot leave its active segment but for the special one. */
static uint32_t hold_switches(struct log *log)
{
    uint32_t number;

    km__mutex_lock(&log->switch_lock);
    atomic_store_explicit(&log->special_pending, 1, memory_order_relaxed);
    /* pairs with switch_locked() */
    number = km__position_number(atomic_load_explicit(&log->tail, memory_order_acquire));
    km__mutex_unlock(&log->switch_lock);
    return number;
}

/* Write what was not written before the number was known, and give the file its name. */
static km_status finish_special_file(struct log *log, struct log_space *space,
                                     uint64_t written_from)
{
    const struct os_ops *ops = log->os->ops;
    struct segment *segment = space->segment;
    uint64_t padding_at = SEGMENT_HEADER_SIZE + space->size;
    char name[SEGMENT_NAME_SIZE];
    km_status rc = km__segment_write_header(log, segment);

    if (!rc)
        rc = ops->write_at(segment->file, SEGMENT_HEADER_SIZE, space->bytes,
                           written_from - SEGMENT_HEADER_SIZE);
    if (!rc && padding_at >= written_from && segment->size - padding_at >= RECORD_HEADER_SIZE)
        rc = ops->write_at(segment->file, padding_at, segment->memory + padding_at,
                           RECORD_HEADER_SIZE);
    if (rc)
        return rc;
    km__segment_name(segment->number, name);
    segment->is_named = 1;
    return km__log_publish_file(log, segment->file, special_name, name);
}

/* Give the segment its number, bring what depends on it to the file, and name the file. */
static km_status place_special(struct log *log, struct log_space *space, uint64_t written_from)
{
    struct segment *segment = space->segment;
    struct segment *active = km__segment_at(log, hold_switches(log));
    km_status rc = km__log_remove_ready(log);

    if (!rc)
        rc = km__log_check_limits(log, segment->size, NULL);
    if (rc)
        return rc;
    segment->number = active->number + 1;
    segment->previous_end = km__position(active->number, active->size);
    segment->linear_start = active->linear_start + active->size;
    space->position = km__position(segment->number, SEGMENT_HEADER_SIZE);
    sum_records(log, segment, space->size);
    if (!log->in_memory)
        rc = finish_special_file(log, space, written_from);
    if (rc)
        return rc;
    atomic_fetch_add_explicit(&log->file_bytes, segment->size, memory_order_relaxed);
    km__segment_enter(log, segment);
    return KM_OK;
}

/* One record: all but its first page can go to the disk before its place is known. */
static km_status write_most(struct log *log, struct log_space *space)
{
    const struct os_ops *ops = log->os->ops;
    struct segment *segment = space->segment;
    km_status rc = KM_OK;

    segment->written_from = segment->size;
    if (log->in_memory || km__record_size_at(space->bytes) != space->size)
        return KM_OK;
    segment->written_from = SEGMENT_HEADER_SIZE + 4096;
    if (segment->size > segment->written_from)
        rc = ops->write_at(segment->file, segment->written_from,
                           segment->memory + segment->written_from,
                           segment->size - segment->written_from);
    return rc ? rc : ops->sync(segment->file);
}

km_status km__log_special_fill(struct log *log, struct log_space *space)
{
    km_status rc = write_most(log, space);

    if (rc)
        km__log_special_cancel(log, space);
    return rc;
}

km_status km__log_special_write(struct log *log, struct log_space *space)
{
    km_status rc = space->segment->written_from ? KM_OK : write_most(log, space);

    if (!rc) {
        km__mutex_lock(&log->prepare_lock);
        rc = place_special(log, space, space->segment->written_from);
        km__mutex_unlock(&log->prepare_lock);
    }
    if (rc)
        km__log_special_cancel(log, space);
    return rc;
}

/* ---- take or cancel ---------------------------------------------------------------------- */

void km__log_special_take(struct log *log, struct log_space *space)
{
    struct segment *segment = space->segment;
    uint64_t tail, end = km__position(segment->number, segment->size);

    km__mutex_lock(&log->switch_lock);
    /* the orders pair with those of km__log_reserve() */
    tail = atomic_load_explicit(&log->tail, memory_order_acquire);
    while (!atomic_compare_exchange_weak_explicit(&log->tail, &tail, end, memory_order_acq_rel,
                                                  memory_order_acquire)) {
        /* small units go on taking room in the active segment; this is the next */
    }
    atomic_store_explicit(&log->special_pending, 0, memory_order_relaxed);
    km__mutex_unlock(&log->switch_lock);
    km__log_write_padding(log, km__segment_at(log, km__position_number(tail)),
                          km__position_offset(tail));
    km__mutex_unlock(&log->special_lock);
    km__log_wake_preparer(log);
}

/* Durably: else a power cut could bring the cancelled unit back, right after the active segment. */
static km_status remove_name(struct log *log, const char *name)
{
    const struct os_ops *ops = log->os->ops;
    km_status rc = ops->unlink(log->options.log_dir, name);

    if (rc == KM_NOT_FOUND)
        return KM_OK; /* it had not got its name yet */
    if (!rc)
        rc = ops->sync_dir(log->options.log_dir);
    return rc ? km__log_fail(log, rc, name, 0, "cannot remove a cancelled segment") : KM_OK;
}

void km__log_special_cancel(struct log *log, struct log_space *space)
{
    struct segment *segment = space->segment;
    char name[SEGMENT_NAME_SIZE];

    km__mutex_lock(&log->prepare_lock);
    if (segment->number && log->last_number == segment->number) {
        uint32_t previous = segment->number - 1;

        /* pairs with switch_locked() */
        atomic_store_explicit(&km__segment_at(log, previous)->next, 0, memory_order_release);
        log->segments[segment->number % LOG_SLOT_COUNT] = NULL;
        log->last_number = previous;
        atomic_fetch_sub_explicit(&log->file_bytes, segment->size, memory_order_relaxed);
    }
    atomic_store_explicit(&log->special_pending, 0, memory_order_relaxed);
    if (!log->in_memory) {
        km__ignore(log->os->ops->unlink(log->options.log_dir, special_name),
                   "it may have been renamed");
        km__segment_name(segment->number, name);
        if (segment->is_named)
            km__ignore(remove_name(log, name), "a failure is recorded where it happens");
    }
    km__segment_destroy(log, segment);
    km__mutex_unlock(&log->prepare_lock);
    km__mutex_unlock(&log->special_lock);
}
