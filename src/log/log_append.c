/* SPDX-License-Identifier: Apache-2.0
 *
 * log_append.c -- reserve room at the log's end, fill it, and keep track of what is complete.
 *
 * I1. `tail` only grows. A unit owns [position, position + size) from the compare-and-swap that
 *     moved the tail over it; the bytes there are zero until the owner writes them.
 * I2. A record's commit word is stored last, with release. So a non-zero commit word at a place
 *     where a record may begin means that the whole record is there.
 * I3. `complete` is at a unit's begin or a segment's end, and every unit below it is committed:
 *     what is flushed and called durable never ends inside a batch. Whoever commits looks from
 *     `complete` onwards and moves it over what it finds: nobody has to wake up for the log to
 *     advance.
 * I4. A reserve never waits and never fails half-way: room in the ring and a next segment are there
 *     before the tail moves. Where they are not, the caller lets go of its locks and waits outside.
 * I5. A unit at linear position [a, b) is given out only when b + 16 <= flushed_linear + ring size,
 *     so no ring byte is overwritten before its record is in its file; the 16 bytes are for the
 *     padding record that may have to follow. The same holds for a segment's beginning before
 *     the tail moves there.
 *
 * I6. No put moves the tail past the pace limit: the compactor raises it as it gets on, so that the
 *     log keeps its bound at every moment. It is one comparison, and no put waits for a whole pass.
 *
 * Design note: reserving optimistically and retrying replaces the space credits of the first
 * design: the same promise (no wait under a lock), with nothing to account for and to give back.
 */
#include "log/log_internal.h"

#define COMPLETE_SPINS 200 /* then sleep: pure spinning halves throughput on a busy machine */
#define PACE_WAIT_NS UINT64_C(10000000)

static uint64_t linear_end(const struct segment *segment, uint64_t end_offset)
{
    return segment->linear_start + end_offset;
}

static int ring_has_room(const struct log *log, const struct segment *segment, uint64_t end_offset)
{
    if (!segment->ring)
        return 1;
    /* pairs with flush_segment(): the flusher is done with the bytes that get overwritten */
    return linear_end(segment, end_offset) + RECORD_HEADER_SIZE -
               atomic_load_explicit(&log->flushed_linear, memory_order_acquire) <=
           segment->ring->size;
}

/* What must be ready for a class to take one. Marks leave the last ones alone as puts do: MARKS can
 * say the same, a little later. */
static uint32_t ready_needed(enum log_class class)
{
    switch (class) {
    case LOG_CLASS_COMPACT: return 1;
    case LOG_CLASS_DELETE: return 2;
    default: return 3;
    }
}

/* ---- pace -------------------------------------------------------------------------------- */

uint64_t km__log_linear(const struct log *log, uint64_t position)
{
    return km__segment_at(log, km__position_number(position))->linear_start +
           km__position_offset(position);
}

/* Puts may not run further ahead of compaction than the limit; what frees space may. */
static inline int is_ahead(const struct log *log, const struct segment *segment, uint64_t offset,
                           enum log_class class)
{
    /* relaxed: a number, no data behind it */
    return class == LOG_CLASS_PUT &&
           segment->linear_start + offset >
               atomic_load_explicit(&log->pace_limit, memory_order_relaxed);
}

void km__log_set_pace(struct log *log, uint64_t limit)
{
    atomic_store_explicit(&log->pace_limit, limit, memory_order_relaxed);
    km__eventcount_notify(&log->pace_event);
}

void km__log_set_live_bytes(struct log *log, uint64_t bytes)
{
    atomic_store_explicit(&log->live_bytes, bytes, memory_order_relaxed);
}

void km__log_kick(struct log *log)
{
    km__eventcount_notify(&log->work_event);
}

void km__log_wait_for_work(struct log *log, uint64_t timeout_ns)
{
    uint32_t ticket = km__eventcount_prepare(&log->work_event);

    km__eventcount_wait(&log->work_event, ticket, timeout_ns);
}

static uint64_t unit_size_max(const struct log *log)
{
    /* pairs with switch_locked(): the segment's fields */
    uint64_t tail = atomic_load_explicit(&log->tail, memory_order_acquire);
    const struct segment *segment = km__segment_at(log, km__position_number(tail));
    uint64_t usual_size = atomic_load_explicit(&log->usual_size, memory_order_relaxed);

    if (segment->ring)
        return segment->ring->size / 4;
    if (!segment->is_special) /* in memory */
        return (usual_size < segment->size ? usual_size : segment->size) / 4;
    /* the next segment is one of the usual size at least */
    return log->in_memory ? usual_size / 4 : (UINT64_C(1) << km__ring_log2_for(usual_size)) / 4;
}

uint64_t km__log_unit_size_max(const struct log *log)
{
    uint64_t size;

    km__epoch_enter(); /* the segment may leave the log meanwhile */
    size = unit_size_max(log);
    km__epoch_leave();
    return size;
}

/* ---- leaving a segment ------------------------------------------------------------------- */

static void write_padding_record(struct log *log, const struct log_space *space)
{
    struct record padding = {0};

    padding.kind = RECORD_PADDING;
    padding.value_size = (uint32_t)(space->size - RECORD_HEADER_SIZE);
    km__log_write_record(log, space, 0, &padding, &(struct log_payload){NULL, NULL, 0});
}

void km__log_write_padding(struct log *log, struct segment *segment, uint64_t offset)
{
    struct log_space space = {segment, NULL, km__position(segment->number, offset),
                              segment->size - offset};

    if (space.size < RECORD_HEADER_SIZE)
        return; /* too little for a record: the segment ends here by rule, and may be sealed */
    space.bytes = segment->memory + offset;
    write_padding_record(log, &space);
}

/* Even where the log only passes a segment's beginning, a padding record may have to go there. */
static int next_has_room(const struct log *log, uint32_t next)
{
    return ring_has_room(log, km__segment_at(log, next), SEGMENT_HEADER_SIZE);
}

/* How long the last segment took to fill decides how many are kept ready, and how large. */
static void note_fill_time(struct log *log)
{
    uint64_t now = log->os->ops->now_ns(log->os);

    atomic_store_explicit(&log->fill_ns, now - log->switched_ns, memory_order_relaxed);
    log->switched_ns = now;
}

static km_status switch_locked(struct log *log, struct segment *segment, uint64_t tail,
                               enum log_class class)
{
    uint64_t offset = km__position_offset(tail);
    uint64_t next_tail;
    uint32_t next;

    if (atomic_load_explicit(&log->tail, memory_order_acquire) != tail)
        return KM_OK; /* somebody was faster: look again */
    /* pairs with km__segment_enter(): the segment and its slot */
    next = atomic_load_explicit(&segment->next, memory_order_acquire);
    if (!next || atomic_load_explicit(&log->special_pending, memory_order_relaxed) ||
        atomic_load_explicit(&log->ready_count, memory_order_relaxed) < ready_needed(class))
        return KM_WOULD_BLOCK;
    if (!next_has_room(log, next))
        return KM_WOULD_BLOCK;
    next_tail = km__position(next, SEGMENT_HEADER_SIZE);
    /* a small unit may still slip in behind the big one that did not fit */
    if (!atomic_compare_exchange_strong_explicit(&log->tail, &tail, next_tail, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return KM_OK;
    atomic_fetch_sub_explicit(&log->ready_count, 1, memory_order_relaxed);
    km__log_write_padding(log, segment, offset);
    km__eventcount_notify(&log->complete_event); /* it may be all that others wait for */
    note_fill_time(log);
    return KM_OK;
}

static KM_NOINLINE km_status switch_segment(struct log *log, struct segment *segment, uint64_t tail,
                                            enum log_class class)
{
    km_status rc;

    km__mutex_lock(&log->switch_lock);
    rc = switch_locked(log, segment, tail, class);
    km__mutex_unlock(&log->switch_lock);
    km__log_wake_preparer(log);
    km__log_kick(log);
    return rc;
}

/* ---- units ------------------------------------------------------------------------------- */

/* Where the unit begins that reaches over a multiple of FLUSH_PIECE: the flusher stops there. */
static inline void note_crossing(struct log *log, uint64_t tail, uint64_t size)
{
    uint64_t end = tail + size;

    if (KM_UNLIKELY(tail / FLUSH_PIECE != end / FLUSH_PIECE))
        atomic_store_explicit(&log->crossings[end / FLUSH_PIECE % LOG_CROSSINGS], tail,
                              memory_order_relaxed); /* ordered by the unit's commit words */
}

km_status km__log_reserve(struct log *log, uint64_t size, enum log_class class,
                          struct log_space *out_space)
{
    /* acquire: pairs with the release half of the exchanges below, for the segment's fields */
    uint64_t tail = atomic_load_explicit(&log->tail, memory_order_acquire);

    for (;;) { /* each turn that does not end here, another thread got ahead */
        struct segment *segment = km__segment_at(log, km__position_number(tail));
        uint64_t offset = km__position_offset(tail);
        km_status rc;

        if (KM_LIKELY(offset + size <= segment->size)) {
            if (KM_UNLIKELY(!ring_has_room(log, segment, offset + size) ||
                            is_ahead(log, segment, offset, class)))
                return KM_WOULD_BLOCK;
            /* acq_rel: pairs with the acquire above in other threads */
            if (KM_UNLIKELY(!atomic_compare_exchange_weak_explicit(
                    &log->tail, &tail, tail + size, memory_order_acq_rel, memory_order_acquire)))
                continue;
            note_crossing(log, tail, size);
            out_space->segment = segment;
            out_space->bytes = segment->memory + offset;
            out_space->position = tail;
            out_space->size = size;
            return KM_OK;
        }
        rc = switch_segment(log, segment, tail, class);
        if (rc)
            return rc;
        tail = atomic_load_explicit(&log->tail, memory_order_acquire); /* as above */
    }
}

uint64_t km__log_write_record(struct log *log, const struct log_space *space, uint64_t offset,
                              const struct record *record, const struct log_payload *payload)
{
    const struct segment *segment = space->segment;
    uint8_t *p = space->bytes + offset;
    uint32_t payload_offset = km__record_payload_offset(record->flags);
    uint64_t size = km__record_size(record->flags, record->value_size, record->key_size);
    uint64_t commit_word;

    KM_ASSERT(offset + size <= space->size);
    if (record->kind == RECORD_PADDING) {
        size = RECORD_HEADER_SIZE; /* what is to be copied; the rest stays zero */
    } else {
        memcpy(p + payload_offset, payload->value ? payload->value : "", record->value_size);
        memcpy(p + payload_offset + record->value_size, payload->key ? payload->key : "",
               record->key_size);
    }
    commit_word = km__record_encode_header(p, record, payload->crc,
                                           km__log_place(log, space->position + offset));
    if (space->segment->is_special && offset == 0)
        space->segment->payload_crc = payload->crc;
    if (segment->ring)
        km__ring_copy(segment->ring,
                      segment->linear_start + km__position_offset(space->position) + offset, p,
                      size, commit_word);
    /* pairs with step_over_unit(): I2 */
    atomic_store_explicit((_Atomic uint64_t *)(void *)(p + 8),
                          km__swap_if_big_endian64(commit_word), memory_order_release);
    return size;
}

/* ---- completeness ------------------------------------------------------------------------ */

/* The segment after one that the log has left; `at` if it has not. */
static uint64_t step_to_next(const struct log *log, const struct segment *segment, uint64_t at)
{
    /* pairs with the exchange in switch_locked() */
    uint64_t tail = atomic_load_explicit(&log->tail, memory_order_acquire);

    if (km__position_number(tail) == segment->number)
        return at;
    /* pairs with km__segment_enter() */
    return km__position(atomic_load_explicit(&segment->next, memory_order_acquire),
                        SEGMENT_HEADER_SIZE);
}

/* The end of the unit at `at`, or `at` itself if a record of it is not committed yet. */
static uint64_t step_over_unit(const struct segment *segment, const uint8_t *bytes, uint64_t at)
{
    uint64_t next = at;

    for (;;) { /* ends with the unit */
        const uint8_t *p = bytes + km__position_offset(next);
        /* pairs with km__log_write_record(): the record's sizes */
        uint64_t commit_word = atomic_load_explicit((_Atomic uint64_t *)(uintptr_t)(p + 8),
                                                    memory_order_acquire);

        if (!commit_word)
            return at;
        next += km__record_size_at(p);
        if (!(p[13] & RECORD_MORE_FOLLOWS))
            return next;
        KM_DEBUG_ASSERT(km__position_offset(next) < segment->size);
    }
}

static uint64_t scan_committed(const struct log *log, uint64_t at)
{
    for (;;) { /* ends at the tail: beyond it memory is zero */
        const struct segment *segment = km__segment_at(log, km__position_number(at));
        uint64_t next;

        if (segment->size - km__position_offset(at) < RECORD_HEADER_SIZE)
            next = step_to_next(log, segment, at);
        else
            next = step_over_unit(segment, km__segment_bytes(log, segment->number), at);
        if (next == at)
            return at;
        at = next;
    }
}

void km__log_advance_complete(struct log *log)
{
    /* acquire/release: who sees `complete` sees the records below it */
    uint64_t before = atomic_load_explicit(&log->complete, memory_order_acquire);
    uint64_t found = scan_committed(log, before);

    while (found > before &&
           !atomic_compare_exchange_weak_explicit(&log->complete, &before, found,
                                                  memory_order_acq_rel, memory_order_acquire)) {
        /* `before` is now what another thread found: stop if that is as far */
    }
}

static KM_NOINLINE void wait_complete_slow(struct log *log, uint64_t end)
{
    for (int i = 0; i < COMPLETE_SPINS; i++) {
        km__thread_pause();
        km__log_advance_complete(log);
        if (km__log_complete(log) >= end)
            return;
    }
    for (;;) { /* ends when the writers before us have copied their records */
        uint32_t ticket = km__eventcount_prepare(&log->complete_event);

        km__log_advance_complete(log);
        if (km__log_complete(log) >= end) {
            km__eventcount_cancel(&log->complete_event);
            return;
        }
        km__eventcount_wait(&log->complete_event, ticket, KM__WAIT_FOREVER);
    }
}

void km__log_finish(struct log *log, const struct log_space *space)
{
    uint64_t end = space->position + space->size;
    uint64_t expected = space->position;

    /* the usual case: everything before is complete, and we are next */
    if (!atomic_compare_exchange_strong_explicit(&log->complete, &expected, end,
                                                 memory_order_acq_rel, memory_order_acquire)) {
        km__log_advance_complete(log);
    }
    if (KM_UNLIKELY(km__log_complete(log) < end))
        wait_complete_slow(log, end);
    km__eventcount_notify(&log->complete_event);
    if (space->segment->ring &&
        space->segment->linear_start + km__position_offset(end) -
                atomic_load_explicit(&log->flushed_linear, memory_order_relaxed) >
            space->segment->ring->size / 4)
        km__log_wake_flusher(log);
}

void km__log_settle(struct log *log)
{
    uint64_t tail, size;

    if (log->options.follow)
        return; /* nothing is being written here, and what others write is not to be believed */
    km__epoch_enter();
    tail = atomic_load_explicit(&log->tail,
                                memory_order_acquire); /* pairs with km__log_reserve() */
    size = km__segment_at(log, km__position_number(tail))->size;
    /* a special segment was taken to its end, and may end in too little for a record */
    if (size - km__position_offset(tail) < RECORD_HEADER_SIZE)
        tail = km__position(km__position_number(tail), size - RECORD_HEADER_SIZE + 1);
    km__log_advance_complete(log);
    if (km__log_complete(log) < tail)
        wait_complete_slow(log, tail);
    km__epoch_leave();
}

/* ---- room -------------------------------------------------------------------------------- */

static int has_room(const struct log *log, uint64_t size, enum log_class class,
                    int *out_wants_segment)
{
    uint64_t tail = atomic_load_explicit(&log->tail, memory_order_acquire);
    const struct segment *segment = km__segment_at(log, km__position_number(tail));
    uint64_t offset = km__position_offset(tail);
    uint32_t next;

    *out_wants_segment = 0;
    if (is_ahead(log, segment, offset, class))
        return 0;
    if (offset + size <= segment->size)
        return ring_has_room(log, segment, offset + size);
    /* pairs with km__segment_enter() */
    next = atomic_load_explicit(&segment->next, memory_order_acquire);
    *out_wants_segment = !next || atomic_load_explicit(&log->ready_count, memory_order_relaxed) <
                                      ready_needed(class);
    return !*out_wants_segment && next_has_room(log, next);
}

/* Whether a reserve would succeed now; *out_wants_segment says what is missing if not. */
int km__log_has_room(struct log *log, uint64_t size, enum log_class class, int *out_wants_segment)
{
    int it_has;

    km__epoch_enter(); /* as in km__log_unit_size_max() */
    it_has = has_room(log, size, class, out_wants_segment);
    km__epoch_leave();
    return it_has;
}

static void note_wait(struct log *log, uint64_t waited_ns)
{
    uint64_t longest = atomic_load_explicit(&log->wait_longest_ns, memory_order_relaxed);

    atomic_fetch_add_explicit(&log->wait_count, 1, memory_order_relaxed);
    while (waited_ns > longest &&
           !atomic_compare_exchange_weak_explicit(&log->wait_longest_ns, &longest, waited_ns,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
}

static int is_tail_ahead(const struct log *log, enum log_class class)
{
    uint64_t tail;
    int is_it;

    km__epoch_enter(); /* as in km__log_unit_size_max() */
    /* pairs with switch_locked(): the segment's fields */
    tail = atomic_load_explicit(&log->tail, memory_order_acquire);
    is_it = is_ahead(log, km__segment_at(log, km__position_number(tail)), km__position_offset(tail),
                     class);
    km__epoch_leave();
    return is_it;
}

/* Let the compactor catch up. It moves on in small steps, so waits are short. */
static void wait_for_pace(struct log *log, enum log_class class)
{
    uint32_t ticket = km__eventcount_prepare(&log->pace_event);

    km__log_kick(log);
    if (is_tail_ahead(log, class))
        km__eventcount_wait(&log->pace_event, ticket, PACE_WAIT_NS);
    else
        km__eventcount_cancel(&log->pace_event);
}

void km__log_wait_pace(struct log *log, enum log_class class)
{
    while (is_tail_ahead(log, class) && km__log_writable(log) == KM_OK)
        wait_for_pace(log, class);
}

/* One thing that may make room: the compactor's progress, a segment if one is wanted, or a flush.
 */
static km_status make_room(struct log *log, uint64_t size, enum log_class class, int wants_segment)
{
    km_status rc = KM_OK;

    if (is_tail_ahead(log, class)) {
        wait_for_pace(log, class);
        return KM_OK;
    }
    if (!wants_segment)
        return km__log_flush(log);
    km__mutex_lock(&log->special_lock); /* a special unit on its way makes the next segment */
    km__mutex_lock(&log->prepare_lock);
    if (!km__log_has_room(log, size, class, &wants_segment) && wants_segment)
        rc = km__log_prepare_one(log, NULL);
    km__mutex_unlock(&log->prepare_lock);
    km__mutex_unlock(&log->special_lock);
    return rc;
}

km_status km__log_wait_space(struct log *log, uint64_t size, enum log_class class)
{
    uint64_t begin = log->os->ops->now_ns(log->os);
    int wants_segment;
    km_status rc = KM_OK;

    /* the limit may have changed: a unit that is over it now must go another way */
    while (!rc && size <= km__log_unit_size_max(log) &&
           !km__log_has_room(log, size, class, &wants_segment)) {
        rc = km__log_writable(log);
        if (rc)
            break;
        rc = make_room(log, size, class, wants_segment);
        km__thread_pause();
    }
    note_wait(log, log->os->ops->now_ns(log->os) - begin);
    return rc;
}

/* What switch_segment() misses when it would block. */
static km_status make_next(struct log *log, enum log_class class)
{
    km_status rc = km__log_writable(log);

    if (!rc)
        rc = km__log_flush(log);
    km__mutex_lock(&log->special_lock);
    km__mutex_lock(&log->prepare_lock);
    if (!rc && atomic_load_explicit(&log->ready_count, memory_order_relaxed) < ready_needed(class))
        rc = km__log_prepare_one(log, NULL);
    km__mutex_unlock(&log->prepare_lock);
    km__mutex_unlock(&log->special_lock);
    return rc;
}

/* Fill some of the rest, or switch: the ring takes no more of a segment at once than any unit. */
static km_status leave_some(struct log *log, struct segment *segment, uint64_t tail)
{
    uint64_t rest = segment->size - km__position_offset(tail);
    uint64_t most = km__log_unit_size_max(log);
    struct log_space space;
    km_status rc;

    if (!segment->ring || rest <= most)
        return switch_segment(log, segment, tail, LOG_CLASS_COMPACT);
    rc = km__log_reserve(log, most, LOG_CLASS_COMPACT, &space);
    if (rc)
        return rc;
    write_padding_record(log, &space);
    km__log_finish(log, &space);
    return KM_OK;
}

km_status km__log_leave_segment(struct log *log)
{
    /* acquire: pairs with switch_locked() */
    uint64_t tail = atomic_load_explicit(&log->tail, memory_order_acquire);
    uint32_t number = km__position_number(tail);
    km_status rc = KM_OK;

    if (km__position_offset(tail) == SEGMENT_HEADER_SIZE)
        return KM_OK;      /* it holds nothing */
    while (!rc) {          /* ends when the tail has left */
        km__epoch_enter(); /* once the tail has left, the segment may go */
        tail = atomic_load_explicit(&log->tail, memory_order_acquire); /* as above */
        if (km__position_number(tail) == number)
            rc = leave_some(log, km__segment_at(log, number), tail);
        km__epoch_leave();
        if (km__position_number(tail) != number)
            return KM_OK;
        if (rc == KM_WOULD_BLOCK)
            rc = make_next(log, LOG_CLASS_COMPACT);
    }
    return rc;
}

km_status km__log_give_up_ready(struct log *log)
{
    km_status rc;

    km__mutex_lock(&log->special_lock);
    km__mutex_lock(&log->prepare_lock);
    rc = km__log_remove_ready(log);
    km__mutex_unlock(&log->prepare_lock);
    km__mutex_unlock(&log->special_lock);
    return rc;
}
