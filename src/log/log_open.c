/* SPDX-License-Identifier: Apache-2.0
 *
 * log_open.c -- create, start, stop and destroy a log.
 *
 * I1. Nothing new enters the ring or a segment before all that recovery found is durable.
 * I2. A log goes on in its last segment only if that was left by a clean close in this boot and
 *     nobody has written since. Otherwise it goes on in a new segment, numbered above every name in
 * the folder: no position is ever used twice, whatever a power cut lost.
 *     Where its number has to be above a given one too, it goes up by whole turns of the table of
 *     slots: so the log takes its slots one after the other all the same.
 * I3. Opening for writing takes the word `clean` in MARKS back, in the kernel's copy at least. That
 *     is enough: in the same boot the copy is the truth, and in another I2 asks for a new segment.
 *     Without it a writer that is killed before its first flush would leave a store that looks as
 *     if it had been closed.
 */
#include "log/log_internal.h"

#define READY_KEPT_SIZE_MAX (1u << 20) /* see trim_ready() */

/* ---- create and destroy ------------------------------------------------------------------ */

static void init_locks(struct log *log)
{
    km__mutex_init(&log->special_lock);
    km__mutex_init(&log->prepare_lock);
    km__mutex_init(&log->sync_lock);
    km__mutex_init(&log->flush_lock);
    km__mutex_init(&log->switch_lock);
    km__mutex_init(&log->pin_lock);
    km__mutex_init(&log->error_lock);
    km__eventcount_init(&log->complete_event);
    km__eventcount_init(&log->durable_event);
    km__eventcount_init(&log->flush_event);
    km__eventcount_init(&log->prepare_event);
    km__eventcount_init(&log->sync_event);
    km__eventcount_init(&log->reclaim_event);
    km__eventcount_init(&log->work_event);
    km__eventcount_init(&log->pace_event);
    atomic_init(&log->pace_limit, UINT64_MAX);
    atomic_init(&log->live_bytes, UINT64_MAX);
    atomic_init(&log->durable_fd, -1);
}

km_status km__log_create(const struct log_options *options, struct log **out_log, km_error *error)
{
    const struct allocator *allocator = &options->os->allocator;
    /* pages, not the heap: aligned, zero, and not inherited by fork */
    struct log *log = km__map_pages(allocator, sizeof(*log));
    km_status rc = KM_OK;

    if (!log)
        return km__fail(error, KM_E_NO_MEMORY, NULL, 0, 0, "no memory for a log");
    log->options = *options;
    log->os = options->os;
    log->in_memory = options->log_dir == NULL;
    log->marks = options->marks;
    atomic_init(&log->durable_seen, options->marks.durable);
    init_locks(log);
    log->os->ops->boot_id(log->os, log->boot_id);
    log->view.store_tag = km__load64(options->store_id);
    log->view.slots = km__map_pages(allocator, LOG_SLOT_COUNT * sizeof(*log->view.slots));
    if (!log->view.slots)
        rc = km__fail(error, KM_E_NO_MEMORY, NULL, 0, 0, "no memory for the table of segments");
    if (!rc && !log->in_memory)
        rc = km__log_find_chain(log, error);
    if (rc) {
        log->options.marks_file = NULL; /* still the caller's */
        km__log_destroy(log);
        return rc;
    }
    *out_log = log;
    return KM_OK;
}

static void destroy_segments(struct log *log)
{
    for (uint32_t i = 0; i < LOG_SLOT_COUNT; i++) {
        if (log->segments[i])
            km__segment_destroy(log, log->segments[i]);
    }
    for (uint32_t i = RING_LOG2_MIN; i <= RING_LOG2_MAX; i++)
        km__ring_destroy(log, log->rings[i]);
}

void km__log_destroy(struct log *log)
{
    const struct allocator *allocator;

    if (!log)
        return;
    km__log_stop_threads(log); /* of a start that failed half-way */
    allocator = &log->os->allocator;
    km__log_follow_end(log);
    destroy_segments(log);
    km__release(allocator, log->chain, log->name_count * sizeof(*log->chain));
    km__release(allocator, log->stray, log->name_count * sizeof(*log->stray));
    if (log->view.slots)
        km__unmap_pages(allocator, log->view.slots, LOG_SLOT_COUNT * sizeof(*log->view.slots));
    log->os->ops->close_file(log->options.marks_file);
    if (log->durable_fd >= 0)
        log->os->ops->close_notify_fd(log->os, log->durable_fd);
    km__mutex_fini(&log->special_lock);
    km__mutex_fini(&log->prepare_lock);
    km__mutex_fini(&log->sync_lock);
    km__mutex_fini(&log->flush_lock);
    km__mutex_fini(&log->switch_lock);
    km__mutex_fini(&log->pin_lock);
    km__mutex_fini(&log->error_lock);
    km__unmap_pages(allocator, log, sizeof(*log));
}

/* ---- a new store ------------------------------------------------------------------------- */

/* Make a segment of the first size and enter it: a log's first, or the one it goes on in. */
static km_status enter_new(struct log *log, uint32_t number, uint64_t previous_end,
                           uint64_t linear_start, km_error *error)
{
    struct segment_plan plan = {number, SEGMENT_SIZE_FIRST, previous_end, linear_start, NULL};
    struct segment *segment = NULL;
    km_status rc = KM_OK;

    if (!log->in_memory && !log->rings[RING_LOG2_FIRST])
        rc = km__ring_create(log, RING_LOG2_FIRST, &log->rings[RING_LOG2_FIRST], error);
    plan.ring = log->rings[RING_LOG2_FIRST];
    if (!rc)
        rc = km__segment_create(log, &plan, &segment, error);
    if (!rc)
        km__segment_enter(log, segment);
    return rc;
}

km_status km__log_create_files(const struct log_options *options, km_error *error)
{
    struct log_options in_memory = *options;
    struct log *log = NULL;
    km_status rc;

    in_memory.log_dir = NULL; /* there is no chain to be found */
    in_memory.marks_file = NULL;
    rc = km__log_create(&in_memory, &log, error);
    if (rc)
        return rc;
    log->in_memory = 0;
    log->options.log_dir = options->log_dir;
    atomic_store_explicit(&log->durable, km__position(1, SEGMENT_HEADER_SIZE),
                          memory_order_relaxed);
    rc = enter_new(log, 1, 0, 0, error);
    km__log_destroy(log);
    return rc;
}

/* ---- start ------------------------------------------------------------------------------- */

static void set_position(struct log *log, uint64_t position)
{
    const struct segment *segment = km__segment_at(log, km__position_number(position));

    atomic_store_explicit(&log->tail, position, memory_order_relaxed);
    atomic_store_explicit(&log->complete, position, memory_order_relaxed);
    atomic_store_explicit(&log->flushed, position, memory_order_relaxed);
    atomic_store_explicit(&log->durable, position, memory_order_relaxed);
    atomic_store_explicit(&log->flushed_linear,
                          segment->linear_start + km__position_offset(position),
                          memory_order_relaxed);
    log->marked = position;
    log->start_number = km__position_number(position);
    atomic_store_explicit(&log->usual_size, segment->ring ? segment->size : SEGMENT_SIZE_FIRST,
                          memory_order_relaxed);
    if (log->last_number != segment->number && km__segment_at(log, log->last_number)->ring)
        atomic_store_explicit(&log->usual_size, km__segment_at(log, log->last_number)->size,
                              memory_order_relaxed);
    log->switched_ns = log->os->ops->now_ns(log->os);
    atomic_store_explicit(&log->fill_ns, BUSY_FILL_NS, memory_order_relaxed);
    log->unsealed_number = log->start_number;
    log->open_number = km__log_head_number(log);
}

/* Give back the segments that recovery opened beyond the end. */
static void forget_later(struct log *log)
{
    for (uint32_t i = log->end_index + 1; i < log->chain_count; i++) {
        struct segment *segment = km__segment_at(log, log->chain[i]);

        log->segments[log->chain[i] % LOG_SLOT_COUNT] = NULL;
        atomic_store_explicit(&km__log_slot(log, log->chain[i])->base, 0,
                              memory_order_relaxed); /* nobody reads yet */
        if (log->options.follow)
            km__log_follow_keep(log, segment);
        else
            km__segment_destroy(log, segment);
    }
}

static void enter_found(struct log *log, struct segment *segment)
{
    log->segments[segment->number % LOG_SLOT_COUNT] = NULL; /* it was only parked there */
    atomic_fetch_add_explicit(&log->file_bytes, segment->size, memory_order_relaxed);
    km__segment_enter(log, segment);
    km__segment_make_resident(log, segment);
}

/* Write what is above the durable point once more, then sync. What the ring had is not in the file;
 * and of the rest a sync may have failed and lost the pages, though they still read as written.
 * Special units were synced before they were taken. */
static km_status write_found(struct log *log, struct segment *segment, uint64_t durable,
                             km_error *error)
{
    const struct os_ops *ops = log->os->ops;
    const uint8_t *bytes = segment->memory ? segment->memory : segment->mapping;
    char name[SEGMENT_NAME_SIZE];
    uint64_t from = SEGMENT_HEADER_SIZE;
    km_status rc;

    if (segment->number == km__position_number(durable))
        from = km__position_offset(durable);
    if (segment->number < km__position_number(durable) ||
        (segment->memory && segment->file_end_offset < from))
        from = segment->file_end_offset;
    km__segment_name(segment->number, name);
    rc = ops->open_file(log->options.log_dir, name, OS_OPEN_WRITE, &segment->file);
    if (!rc && segment->ring_log2 && segment->end_offset > from)
        rc = ops->write_at(segment->file, from, bytes + from, segment->end_offset - from);
    if (!rc)
        rc = ops->sync(segment->file);
    if (rc)
        rc = km__fail(error, rc, name, from, ops->last_error(log->os),
                      "cannot write what was found beyond the durable point");
    ops->close_file(segment->file);
    segment->file = NULL;
    return rc;
}

/* Bring all that was found to the disk, names first: after kill -9 nobody else will. */
static km_status make_durable(struct log *log, km_error *error)
{
    const struct os_ops *ops = log->os->ops;
    uint64_t durable = atomic_load_explicit(&log->durable_seen, memory_order_relaxed);
    km_status rc = ops->sync_dir(log->options.log_dir);

    if (!rc)
        rc = ops->sync_dir(log->options.store_dir);
    if (rc)
        return km__fail(error, rc, "log", 0, ops->last_error(log->os),
                        "cannot sync the store's folders");
    /* after a kill the head that was read may be in the kernel's copy alone, and what lies before
     * it is removed next */
    rc = ops->sync(log->options.marks_file);
    if (rc)
        return km__fail(error, rc, "MARKS", 0, ops->last_error(log->os), "cannot sync the marks");
    for (uint32_t i = 0; !rc && i <= log->end_index; i++) { /* oldest first */
        struct segment *segment = km__segment_at(log, log->chain[i]);

        if (segment->number >= km__position_number(durable) || segment->memory)
            rc = write_found(log, segment, durable, error);
    }
    return rc;
}

static void unlink_number(struct log *log, uint32_t number)
{
    char name[SEGMENT_NAME_SIZE];

    km__segment_name(number, name);
    km__ignore(log->os->ops->unlink(log->options.log_dir, name), "void: the next open removes it");
}

static void unlink_strays(struct log *log)
{
    for (uint32_t i = 0; i < log->stray_count; i++)
        unlink_number(log, log->stray[i]);
    for (uint32_t i = log->end_index + 1; i < log->chain_count; i++)
        unlink_number(log, log->chain[i]);
}

/* I2 */
static uint64_t next_number(const struct log *log)
{
    uint64_t number = (uint64_t)log->highest_number + 1;

    if (number < log->options.number_min)
        number += km__round_up(log->options.number_min - number, LOG_SLOT_COUNT);
    return number;
}

/* Go on in a new segment, above every name there is. */
static km_status continue_after(struct log *log, km_error *error)
{
    struct segment *last = km__segment_at(log, km__position_number(log->found_end));
    uint64_t linear_start = last->linear_start + last->size;
    uint64_t number = next_number(log);
    km_status rc = make_durable(log, error);

    if (rc)
        return rc;
    forget_later(log);
    if (number >= UINT32_MAX || !km__log_has_slots(log, (uint32_t)number, 2))
        return km__fail(error, KM_E_LIMIT, "log", 0, 0, "the log has %u segments, its limit",
                        LOG_SLOT_COUNT);
    atomic_store_explicit(&log->durable, log->found_end, memory_order_relaxed);
    rc = enter_new(log, (uint32_t)number, log->found_end, linear_start, error);
    if (rc)
        return rc;
    unlink_strays(log); /* only now: their names kept the numbers from being used again */
    set_position(log, km__position((uint32_t)number, SEGMENT_HEADER_SIZE));
    return KM_OK;
}

/* Give a segment that recovery mapped the memory and the ring that appending needs. */
static km_status reactivate(struct log *log, struct segment *segment, uint64_t used,
                            km_error *error)
{
    char name[SEGMENT_NAME_SIZE];
    km_status rc;

    km__segment_name(segment->number, name);
    rc = log->os->ops->open_file(log->options.log_dir, name, OS_OPEN_WRITE, &segment->file);
    if (rc)
        return km__fail(error, rc, name, 0, log->os->ops->last_error(log->os),
                        "cannot open the segment");
    if (segment->ring_log2 && !log->rings[segment->ring_log2])
        rc = km__ring_create(log, segment->ring_log2, &log->rings[segment->ring_log2], error);
    if (rc)
        return rc;
    segment->memory = km__map_pages(&log->os->allocator, segment->size);
    if (!segment->memory)
        return km__fail(error, KM_E_NO_MEMORY, NULL, 0, 0, "no memory for the last segment");
    memcpy(segment->memory, segment->mapping, used);
    log->os->ops->unmap(log->os, segment->mapping, segment->size);
    segment->mapping = NULL;
    if (segment->ring_log2) {
        segment->ring = log->rings[segment->ring_log2];
        segment->ring->users++;
    }
    return KM_OK;
}

static int is_unused(const struct segment *segment)
{
    const uint8_t *p = segment->mapping + SEGMENT_HEADER_SIZE;

    return km__load64(p) == 0 && km__load64(p + 8) == 0;
}

/* Go on where a clean close left off, with the segments that were ready then. */
static km_status continue_in_place(struct log *log, km_error *error)
{
    struct segment *last = km__segment_at(log, km__position_number(log->found_end));
    km_status rc = reactivate(log, last, km__position_offset(log->found_end), error);

    if (rc)
        return rc;
    atomic_store_explicit(&km__log_slot(log, last->number)->base, (uintptr_t)last->memory,
                          memory_order_release); /* nobody reads yet */
    for (uint32_t i = log->end_index + 1; !rc && i < log->chain_count; i++) {
        struct segment *segment = km__segment_at(log, log->chain[i]);

        rc = reactivate(log, segment, SEGMENT_HEADER_SIZE, error);
        if (rc)
            return rc;
        enter_found(log, segment);
        atomic_fetch_add_explicit(&log->ready_count, 1, memory_order_relaxed);
    }
    set_position(log, log->found_end);
    return KM_OK;
}

static int can_continue_in_place(const struct log *log)
{
    static const uint8_t no_boot_id[BOOT_ID_SIZE];
    const struct segment *last;

    if (!log->found_clean || memcmp(log->marks.boot_id, log->boot_id, BOOT_ID_SIZE) != 0 ||
        memcmp(log->boot_id, no_boot_id, BOOT_ID_SIZE) == 0)
        return 0;
    last = km__segment_at(log, km__position_number(log->found_end));
    if (last->size - km__position_offset(log->found_end) < RECORD_HEADER_SIZE)
        return 0; /* nothing fits there */
    if (last->number < log->options.number_min)
        return 0;
    for (uint32_t i = 0; i <= log->end_index; i++) {
        if (km__segment_at(log, log->chain[i])->memory)
            return 0; /* damage was mended from the ring: the file has to be mended first */
    }
    for (uint32_t i = log->end_index + 1; i < log->chain_count; i++) {
        if (!is_unused(km__segment_at(log, log->chain[i])))
            return 0;
    }
    return 1;
}

static km_status start_files(struct log *log, km_error *error)
{
    struct segment *last;
    km_status rc;

    for (uint32_t i = 0; i <= log->end_index; i++)
        enter_found(log, km__segment_at(log, log->chain[i]));
    if (log->options.read_only) {
        forget_later(log);
        set_position(log, log->found_end);
        return KM_OK;
    }
    rc = can_continue_in_place(log) ? continue_in_place(log, error) : continue_after(log, error);
    if (rc)
        return rc;
    log->was_clean = log->start_number == km__position_number(log->found_end);
    rc = km__log_write_marks(log, 0, 0);
    if (rc)
        return km__fail(error, rc, "MARKS", 0, log->os->ops->last_error(log->os),
                        "cannot write the marks");
    km__ring_unlink_unused(log);
    last = km__segment_at(log, log->start_number);
    if (last->ring)
        km__ring_set_flushed(last->ring, log->boot_id, log->flushed);
    return KM_OK;
}

km_status km__log_start(struct log *log, km_error *error)
{
    km_status rc;

    if (log->in_memory) {
        rc = enter_new(log, 1, 0, 0, error);
        if (!rc)
            set_position(log, km__position(1, SEGMENT_HEADER_SIZE));
    } else {
        rc = start_files(log, error);
    }
    if (!rc && (!log->options.read_only || log->options.follow)) {
        rc = km__log_start_threads(log);
        if (rc)
            km__log_stop_threads(log);
        if (rc)
            rc = km__fail(error, rc, NULL, 0, 0, "cannot start the background threads");
    }
    return rc;
}

/* ---- stop -------------------------------------------------------------------------------- */

/* Large ready segments are not left lying about; small ones spare the next open the work. */
static km_status trim_ready(struct log *log)
{
    uint32_t number = km__position_number(atomic_load_explicit(&log->tail, memory_order_relaxed));
    km_status rc = KM_OK;

    km__mutex_lock(&log->prepare_lock);
    if (log->last_number > number &&
        km__segment_at(log, log->last_number)->size > READY_KEPT_SIZE_MAX)
        rc = km__log_remove_ready(log);
    km__mutex_unlock(&log->prepare_lock);
    return rc;
}

/* Say that the log ends here and is closed. Where nothing was written since the store was opened,
 * only the word that opening took back is given back: the kernel's copy is enough, as it was then.
 */
static km_status mark_closed(struct log *log)
{
    km_status rc = KM_OK;

    km__mutex_lock(&log->sync_lock);
    if (!log->marks.clean)
        rc = km__log_write_marks(log, 1,
                                 !(log->was_clean && km__log_durable(log) == log->found_end));
    km__mutex_unlock(&log->sync_lock);
    return rc;
}

km_status km__log_stop(struct log *log, km_error *error)
{
    km_status rc;

    km__log_stop_threads(log);
    if (log->in_memory || log->options.read_only)
        return KM_OK;
    rc = km__log_writable(log);
    if (rc)
        km__log_distrust_rings(log); /* again: a flush may have ended after the failure */
    if (!rc)
        rc = trim_ready(log);
    if (!rc)
        rc = km__log_sync(log);
    if (!rc)
        rc = mark_closed(log);
    if (!rc)
        km__ring_unlink_unused(log);
    if (rc && km__log_error(log, error ? error : &(km_error){0}) == KM_NOT_FOUND)
        rc = km__fail(error, rc, NULL, 0, 0, "the store could not be closed cleanly");
    return rc;
}

/* ---- for readers and statistics ---------------------------------------------------------- */

const struct log_view *km__log_view(const struct log *log)
{
    return &log->view;
}

int km__log_record_verify(const struct log_view *view, uint64_t ref,
                          const struct log_record *record)
{
    struct record_place place = {view->store_tag, km__log_position_of(view, ref)};
    uint32_t payload_offset = km__record_payload_offset(record->flags);
    uint64_t size = km__record_size_at(record->bytes);
    uint32_t crc;

    if (km__log_offset_of(ref) + size >
        (uint64_t)km__log_slot_of(view, ref)->units * RECORD_ALIGNMENT)
        return 0;
    crc = km__crc32c(0, record->bytes + payload_offset, size - payload_offset);
    return km__record_sum(record->bytes, crc, place) == km__load32(record->bytes);
}

static void count_segments(const struct log *log, uint32_t tail_number, struct log_stats *out)
{
    uint32_t head_number = km__log_head_number(log);

    for (uint32_t i = 0; i < LOG_SLOT_COUNT; i++) {
        const struct segment *segment = log->segments[i];

        if (!segment)
            continue;
        out->memory_bytes += segment->memory ? segment->size : 0;
        out->mapped_bytes += segment->memory ? 0 : segment->size;
        if (segment->number < head_number)
            continue; /* out of the log: see pinned_bytes */
        out->disk_bytes += log->in_memory ? 0 : segment->size;
        out->segment_count += segment->number <= tail_number;
        if (segment->number < tail_number)
            out->log_bytes += segment->size - SEGMENT_HEADER_SIZE;
    }
    for (const struct segment *s = log->dropped_first; s; s = s->next_dropped)
        out->pinned_bytes += s->size;
    out->disk_bytes += log->in_memory ? 0 : out->pinned_bytes;
    out->freed_segments = log->freed_segments;
}

void km__log_stats(struct log *log, struct log_stats *out)
{
    memset(out, 0, sizeof(*out));
    /* relaxed: figures, in the order that keeps each below the next */
    out->durable = km__log_durable(log);
    out->flushed = atomic_load_explicit(&log->flushed, memory_order_relaxed);
    out->tail = atomic_load_explicit(&log->tail, memory_order_relaxed);
    km__mutex_lock(&log->prepare_lock);
    out->head = km__position(km__log_head_number(log), SEGMENT_HEADER_SIZE);
    count_segments(log, km__position_number(out->tail), out);
    for (uint32_t i = RING_LOG2_MIN; i <= RING_LOG2_MAX; i++)
        out->disk_bytes += log->rings[i] ? RING_DATA_OFFSET + log->rings[i]->size : 0;
    km__mutex_unlock(&log->prepare_lock);
    out->log_bytes += km__position_offset(out->tail) - SEGMENT_HEADER_SIZE;
    out->sync_count = atomic_load_explicit(&log->sync_count, memory_order_relaxed);
    out->wait_count = atomic_load_explicit(&log->wait_count, memory_order_relaxed);
    out->wait_longest_ns = atomic_load_explicit(&log->wait_longest_ns, memory_order_relaxed);
}
