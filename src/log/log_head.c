/* SPDX-License-Identifier: Apache-2.0
 *
 * log_head.c -- the log's beginning moves on, and what it leaves behind is freed.
 *
 * The order, each step done before the next begins:
 *   1. the log is synced up to its end: what superseded the records that go may not be durable yet;
 *   2. MARKS names the new head, synced: recovery never asks for what is before it;
 *   3. the segments leave the log: new readers, pins and reads along it begin at the new head;
 *   4. when no pin is older than that, their files are unlinked;
 *   5. when the read sections of then have ended, their bytes go.
 *
 * I1. A file that was sealed is never written again, only unlinked: other processes, backups and
 *     hard links may still have it. (So segments are not recycled: see docs/ARCHITECTURE.md.)
 * I2. A crash between 2 and 4 leaves files below the head. They are void, and the next open
 *     unlinks them.
 */
#include "log/log_internal.h"

uint32_t km__log_head_number(const struct log *log)
{
    /* pairs with km__log_detach_before(): a segment found below it is not looked for */
    return atomic_load_explicit(&log->first_number, memory_order_acquire);
}

/* ---- pins -------------------------------------------------------------------------------- */

void km__log_pin(struct log *log, struct log_pin *pin)
{
    km__mutex_lock(&log->pin_lock);
    pin->number = km__log_head_number(log);
    pin->next = log->pins;
    log->pins = pin;
    km__mutex_unlock(&log->pin_lock);
}

void km__log_unpin(struct log *log, struct log_pin *pin)
{
    struct log_pin **link = &log->pins;

    km__mutex_lock(&log->pin_lock);
    while (*link != pin)
        link = &(*link)->next; /* ends: it is there */
    *link = pin->next;
    km__mutex_unlock(&log->pin_lock);
}

/* The first segment that some pin keeps; UINT32_MAX if there is none. */
static uint32_t first_pinned(struct log *log)
{
    uint32_t number = UINT32_MAX;

    km__mutex_lock(&log->pin_lock);
    for (const struct log_pin *pin = log->pins; pin; pin = pin->next) {
        if (pin->number < number)
            number = pin->number;
    }
    km__mutex_unlock(&log->pin_lock);
    return number;
}

/* ---- freeing ----------------------------------------------------------------------------- */

/* Nobody looks at the segment any more: its slot may be used again. */
static void free_segment(void *context, struct retired *retired)
{
    struct log *log = context;
    struct segment *segment = (struct segment *)(void *)retired;
    struct log_slot *slot = km__log_slot(log, segment->number);

    km__mutex_lock(&log->prepare_lock);
    log->segments[segment->number % LOG_SLOT_COUNT] = NULL;
    atomic_store_explicit(&slot->base, 0, memory_order_relaxed); /* no reader is left */
    log->freed_segments++;
    km__mutex_unlock(&log->prepare_lock);
    km__segment_destroy(log, segment);
}

static void unlink_dropped(struct log *log, const struct segment *segment)
{
    char name[SEGMENT_NAME_SIZE];

    if (log->in_memory || log->options.read_only)
        return;
    km__segment_name(segment->number, name);
    km__ignore(log->os->ops->unlink(log->options.log_dir, name),
               "below the head it is void: the next open removes it");
}

/* The oldest segment behind the head, if no pin keeps it. */
static struct segment *take_dropped(struct log *log)
{
    struct segment *segment;

    km__mutex_lock(&log->prepare_lock);
    segment = log->dropped_first;
    if (segment && segment->number < first_pinned(log)) {
        log->dropped_first = segment->next_dropped;
        if (!log->dropped_first)
            log->dropped_last = NULL;
    } else {
        segment = NULL;
    }
    km__mutex_unlock(&log->prepare_lock);
    return segment;
}

void km__log_free_dropped(struct log *log)
{
    struct segment *segment;

    while ((segment = take_dropped(log)) != NULL) { /* ends: the list gets shorter */
        unlink_dropped(log, segment);
        atomic_fetch_sub_explicit(&log->file_bytes, segment->size, memory_order_relaxed);
        km__retire(log->options.reclaimer, &segment->retired, free_segment, log);
    }
}

/* ---- moving ------------------------------------------------------------------------------ */

static km_status mark_head(struct log *log, uint32_t number)
{
    km_status rc = KM_OK;

    if (log->in_memory)
        return KM_OK;
    km__mutex_lock(&log->sync_lock);
    log->marks.head = km__position(number, SEGMENT_HEADER_SIZE);
    rc = km__log_write_marks(log, 0, 1);
    km__mutex_unlock(&log->sync_lock);
    return rc;
}

void km__log_detach_before(struct log *log, uint32_t number)
{
    uint32_t n;

    km__mutex_lock(&log->prepare_lock);
    km__log_seal_flushed(log);
    km__mutex_lock(&log->pin_lock);
    n = km__log_head_number(log);
    /* pairs with km__log_head_number() */
    atomic_store_explicit(&log->first_number, number, memory_order_release);
    km__mutex_unlock(&log->pin_lock);
    while (n < number) { /* ends: the chain leads to `number` */
        struct segment *segment = km__segment_at(log, n);

        if (log->dropped_last)
            log->dropped_last->next_dropped = segment;
        else
            log->dropped_first = segment;
        log->dropped_last = segment;
        n = km__log_next_number(log, n);
    }
    km__mutex_unlock(&log->prepare_lock);
}

km_status km__log_move_head(struct log *log, uint32_t number)
{
    km_status rc = km__log_writable(log);

    if (rc || number <= km__log_head_number(log))
        return rc;
    km__log_settle(log); /* what superseded them may lie above a record that is being written */
    rc = km__log_sync(log);
    if (rc)
        return rc;
    KM_ASSERT(number <= km__position_number(km__log_durable(log)));
    rc = mark_head(log, number);
    if (rc)
        return rc;
    km__log_detach_before(log, number);
    km__log_free_dropped(log);
    return KM_OK;
}
