/* SPDX-License-Identifier: Apache-2.0
 *
 * log_flush.c -- from memory to files (flush) and from files to the disk (sync).
 *
 * I1. The flush writes only complete records, in log order; `flushed` moves to a record's begin
 *     when all before it is in its files. From then on the ring may be reused up to there.
 * I2. `durable` moves to P only after every segment file with bytes below P was synced, oldest
 *     first, by a sync that began when all those bytes were flushed.
 * I3. Nobody syncs while holding flush_lock: a slow sync never stops the ring from draining.
 * I4. After the first failed write or sync neither position moves again.
 *
 * A sync is led by one of those who wait for it; the others sleep and find their position durable,
 * or lead the next. Measured here, a write followed by fdatasync costs the same as one write with
 * RWF_DSYNC (130 us), and it has no rule about earlier ranges to get wrong.
 */
#include "log/log_internal.h"

/* ---- flush ------------------------------------------------------------------------------- */

/* Write [from, written_to) of one segment; up to `to`, where a record begins, it counts. */
static km_status flush_segment(struct log *log, struct segment *segment, uint64_t from, uint64_t to,
                               uint64_t written_to)
{
    char name[SEGMENT_NAME_SIZE];
    km_status rc = KM_OK;

    if (!log->in_memory && !segment->is_special && written_to > from)
        rc = log->os->ops->write_at(segment->file, from, segment->memory + from, written_to - from);
    if (rc) {
        km__segment_name(segment->number, name);
        return km__log_fail(log, rc, name, from, "cannot write to a segment");
    }
    /* pairs with ring_has_room(): the bytes are in the file */
    atomic_store_explicit(&log->flushed_linear, segment->linear_start + to, memory_order_release);
    atomic_store_explicit(&log->flushed, km__position(segment->number, to), memory_order_release);
    if (segment->ring)
        km__ring_set_flushed(segment->ring, log->boot_id, km__position(segment->number, to));
    return KM_OK;
}

/* Flush up to `target`, where a record begins; the last write goes on to `written_to`, in the same
 * segment. */
static km_status flush_locked(struct log *log, uint64_t target, uint64_t written_to)
{
    uint64_t begin = atomic_load_explicit(&log->flushed, memory_order_relaxed);
    uint64_t from = begin;
    km_status rc = km__log_writable(log);

    while (!rc && from < target) { /* a turn for each segment */
        struct segment *segment = km__segment_at(log, km__position_number(from));
        uint64_t offset = km__position_offset(from);

        if (segment->number == km__position_number(target))
            return flush_segment(log, segment, offset, km__position_offset(target),
                                 km__position_offset(written_to));
        rc = flush_segment(log, segment, offset, segment->size, segment->size);
        /* pairs with km__segment_enter() */
        from = km__position(atomic_load_explicit(&segment->next, memory_order_acquire),
                            SEGMENT_HEADER_SIZE);
    }
    if (!rc && from > begin && from == target) /* nothing to write; but the segment before may go */
        rc = flush_segment(log, km__segment_at(log, km__position_number(from)), SEGMENT_HEADER_SIZE,
                           SEGMENT_HEADER_SIZE, SEGMENT_HEADER_SIZE);
    return rc;
}

km_status km__log_flush(struct log *log)
{
    uint64_t target;
    km_status rc;

    km__mutex_lock(&log->flush_lock);
    km__log_advance_complete(log);
    km__eventcount_notify(&log->complete_event);
    target = km__log_complete(log);
    rc = flush_locked(log, target, target);
    km__mutex_unlock(&log->flush_lock);
    return rc;
}

/*
 * For the flusher: write up to a multiple of FLUSH_PIECE, so that the page cache gets whole huge
 * pages. The record that reaches over it is written in part, and does not count as flushed: else
 * the ring would let go of the first half of a record whose other half is in no file.
 */
km_status km__log_flush_pieces(struct log *log)
{
    uint64_t target, aligned, crossing;
    km_status rc;

    km__mutex_lock(&log->flush_lock);
    km__log_advance_complete(log);
    target = km__log_complete(log);
    aligned = km__round_down(target, FLUSH_PIECE); /* offsets are the low half: the same segment */
    /* relaxed: ordered by the acquire of `complete`, which is beyond the unit */
    crossing = atomic_load_explicit(&log->crossings[aligned / FLUSH_PIECE % LOG_CROSSINGS],
                                    memory_order_relaxed);
    if (crossing < aligned && aligned - crossing < FLUSH_PIECE &&
        crossing > atomic_load_explicit(&log->flushed, memory_order_relaxed))
        rc = flush_locked(log, crossing, aligned);
    else
        rc = flush_locked(log, target, target);
    km__mutex_unlock(&log->flush_lock);
    return rc;
}

/* ---- marks ------------------------------------------------------------------------------- */

/* A mark record tells recovery, in the log itself, how far the log was durable. */
static void append_mark(struct log *log, uint64_t durable)
{
    struct record mark = {0};
    struct log_space space;
    uint8_t value[8];

    mark.kind = RECORD_MARK;
    mark.value_size = sizeof(value);
    km__store64(value, durable);
    km__epoch_enter();
    if (!km__log_reserve(log, km__record_size(0, sizeof(value), 0), LOG_CLASS_INTERNAL, &space)) {
        struct log_payload payload = {value, NULL,
                                      km__record_payload_crc(value, sizeof(value), NULL, 0)};

        km__log_write_record(log, &space, 0, &mark, &payload);
        km__log_finish(log, &space);
        log->marked = durable;
    } /* no room now: MARKS will say it, a little later */
    km__epoch_leave();
}

/* Never earlier than what was told before. */
static uint64_t latest_clock(const struct log *log)
{
    uint64_t clock_ms = log->os->ops->wall_ms(log->os), seen_ms = 0;

    if (log->options.clock_ms) /* relaxed: a number, no data behind it */
        seen_ms = atomic_load_explicit(log->options.clock_ms, memory_order_relaxed);
    if (clock_ms < seen_ms)
        clock_ms = seen_ms;
    return clock_ms < log->marks.clock_ms ? log->marks.clock_ms : clock_ms;
}

km_status km__log_write_marks(struct log *log, int is_clean, int is_synced)
{
    const struct os_ops *ops = log->os->ops;
    struct marks marks = log->marks;
    uint8_t *bytes = km__allocate(&log->os->allocator, MARKS_SLOT_SIZE);
    km_status rc = KM_E_NO_MEMORY;

    if (!bytes)
        return rc; /* nothing was promised; the next interval tries again */
    marks.sequence++;
    marks.durable = km__log_durable(log);
    marks.clean = (uint32_t)is_clean;
    memcpy(marks.boot_id, log->boot_id, BOOT_ID_SIZE);
    marks.clock_ms = latest_clock(log);
    km__marks_encode(&marks, bytes);
    rc = ops->write_at(log->options.marks_file, (marks.sequence & 1) * MARKS_SLOT_SIZE, bytes,
                       MARKS_SLOT_SIZE);
    if (!rc && is_synced)
        rc = ops->sync(log->options.marks_file);
    km__release(&log->os->allocator, bytes, MARKS_SLOT_SIZE);
    if (rc)
        return km__log_fail(log, rc, "MARKS", 0, "cannot write the marks");
    log->marks = marks;
    return KM_OK;
}

/* ---- sync -------------------------------------------------------------------------------- */

static km_status sync_segments(struct log *log, uint64_t from, uint64_t target)
{
    uint32_t number = km__position_number(from);
    char name[SEGMENT_NAME_SIZE];

    for (;;) { /* a turn for each segment up to the target's */
        struct segment *segment = km__segment_at(log, number);
        km_status rc = segment->file ? log->os->ops->sync(segment->file) : KM_OK;

        if (rc) {
            km__segment_name(number, name);
            return km__log_fail(log, rc, name, 0, "cannot sync a segment");
        }
        if (number >= km__position_number(target))
            return KM_OK;
        number = atomic_load_explicit(&segment->next,
                                      memory_order_acquire); /* pairs with km__segment_enter() */
    }
}

static void notify_durable(struct log *log)
{
    int fd = atomic_load_explicit(&log->durable_fd, memory_order_acquire);

    km__eventcount_notify(&log->durable_event);
    if (fd >= 0)
        log->os->ops->notify_fd(log->os, fd);
}

static km_status sync_locked(struct log *log)
{
    uint64_t durable = km__log_durable(log);
    uint64_t target;
    km_status rc;

    if (km__log_complete(log) <= durable)
        return KM_OK;
    if (log->marked < durable && !log->in_memory)
        append_mark(log, durable);
    target = km__log_complete(log); /* a record's begin, and all below it is flushed next */
    rc = km__log_flush(log);
    if (!rc && !log->in_memory)
        rc = sync_segments(log, durable, target);
    if (rc)
        return rc;
    atomic_fetch_add_explicit(&log->sync_count, 1, memory_order_relaxed);
    /* pairs with km__log_durable() */
    atomic_store_explicit(&log->durable, target, memory_order_release);
    return KM_OK;
}

km_status km__log_sync(struct log *log)
{
    km_status rc;

    km__mutex_lock(&log->sync_lock);
    rc = sync_locked(log);
    km__mutex_unlock(&log->sync_lock);
    notify_durable(log);
    return rc;
}

uint64_t km__log_durable(const struct log *log)
{
    return atomic_load_explicit(&log->durable, memory_order_acquire); /* pairs with sync_locked() */
}

uint64_t km__log_complete(const struct log *log)
{
    /* pairs with km__log_advance_complete(): the records below it */
    return atomic_load_explicit(&log->complete, memory_order_acquire);
}

uint64_t km__log_tail(const struct log *log)
{
    /* acquire: whoever took room before the caller was told is below it */
    return atomic_load_explicit(&log->tail, memory_order_acquire);
}

static km_status lead_sync(struct log *log)
{
    km_status rc;

    km__mutex_lock(&log->sync_lock);
    rc = sync_locked(log);
    km__mutex_unlock(&log->sync_lock);
    atomic_store_explicit(&log->leader, 0,
                          memory_order_release); /* pairs with the next leader's exchange */
    notify_durable(log); /* after that: who still has to wait finds the lead free */
    return rc;
}

km_status km__log_wait_durable(struct log *log, uint64_t position)
{
    if (!atomic_load_explicit(&log->power_used, memory_order_relaxed))
        atomic_store_explicit(&log->power_used, 1, memory_order_relaxed);
    while (km__log_durable(log) < position) {
        uint32_t ticket = km__eventcount_prepare(&log->durable_event);
        km_status rc = km__log_writable(log);

        if (rc || km__log_durable(log) >= position) {
            km__eventcount_cancel(&log->durable_event);
            if (km__log_durable(log) >= position)
                return KM_OK;
            return rc == KM_E_FAILED ? KM_E_IO : rc;
        }
        /* acq_rel: pairs with the release in lead_sync() */
        if (atomic_exchange_explicit(&log->leader, 1, memory_order_acq_rel) == 0) {
            km__eventcount_cancel(&log->durable_event);
            rc = lead_sync(log);
            if (rc && km__log_durable(log) < position)
                return KM_E_IO;
            continue;
        }
        km__eventcount_wait(&log->durable_event, ticket, KM__WAIT_FOREVER);
    }
    return KM_OK;
}

km_status km__log_durable_fd(struct log *log, int *out_fd)
{
    /* pairs with the exchange below, in another thread */
    int fd = atomic_load_explicit(&log->durable_fd, memory_order_acquire);
    int none = -1;
    km_status rc;

    if (log->in_memory)
        return KM_E_UNSUPPORTED;
    if (fd < 0) {
        rc = log->os->ops->open_notify_fd(log->os, &fd);
        if (rc)
            return rc;
        if (!atomic_compare_exchange_strong_explicit(&log->durable_fd, &none, fd,
                                                     memory_order_acq_rel, memory_order_acquire)) {
            log->os->ops->close_notify_fd(log->os, fd); /* another thread was first */
            fd = none;
        }
    }
    *out_fd = fd;
    return KM_OK;
}
