/* SPDX-License-Identifier: Apache-2.0
 *
 * log_threads.c -- the background threads of a log.
 *
 *   flusher    writes to files when much has gathered; it never syncs
 *   syncer     once an interval: syncs what is not durable, writes MARKS
 *   preparer   keeps segments ready, seals flushed ones
 *   reclaimer  frees retired memory; a long read section holds up only this one
 *
 * Each step can also be taken by a caller that needs it now, or by a test that runs without
 * threads.
 */
#include "log/log_internal.h"

#define HOUSEKEEP_INTERVAL_NS UINT64_C(100000000)

void km__log_wake_flusher(struct log *log)
{
    km__eventcount_notify(&log->flush_event);
}

void km__log_wake_preparer(struct log *log)
{
    km__eventcount_notify(&log->prepare_event);
}

static int is_stopping(struct log *log)
{
    return atomic_load_explicit(&log->stopping,
                                memory_order_acquire); /* pairs with km__log_stop_threads() */
}

/* ---- flusher ----------------------------------------------------------------------------- */

#define FOLLOWED_FLUSH_NS UINT64_C(2000000)

void km__log_set_followed(struct log *log, int is_followed)
{
    if (atomic_exchange_explicit(&log->is_followed, is_followed, memory_order_relaxed) !=
        is_followed)
        km__log_wake_flusher(log);
}

static int is_followed(struct log *log)
{
    return atomic_load_explicit(&log->is_followed, memory_order_relaxed);
}

static int is_much_unflushed(struct log *log)
{
    uint64_t complete = km__log_complete(log);
    const struct segment *segment = km__segment_at(log, km__position_number(complete));
    uint64_t linear = segment->linear_start + km__position_offset(complete);
    uint64_t flushed = atomic_load_explicit(&log->flushed_linear, memory_order_relaxed);

    if (!segment->ring || is_followed(log))
        return complete > atomic_load_explicit(&log->flushed, memory_order_relaxed);
    return linear - flushed > segment->ring->size / 4;
}

static int wants_flush(struct log *log)
{
    int it_does;

    km__epoch_enter(); /* the segment may leave the log meanwhile */
    it_does = is_much_unflushed(log);
    km__epoch_leave();
    return it_does;
}

static void run_flusher(void *context)
{
    struct log *log = context;

    while (!is_stopping(log)) {
        uint32_t ticket = km__eventcount_prepare(&log->flush_event);

        if (!is_stopping(log) && (km__log_writable(log) || !wants_flush(log))) {
            /* writers do not wake it for every record: who follows waits for a tick at most */
            km__eventcount_wait(&log->flush_event, ticket,
                                is_followed(log) ? FOLLOWED_FLUSH_NS : KM__WAIT_FOREVER);
            continue;
        }
        km__eventcount_cancel(&log->flush_event);
        km__ignore(km__log_flush_pieces(log), "a failure is recorded where it happens");
        km__log_wake_preparer(log);
    }
}

/* ---- syncer ------------------------------------------------------------------------------ */

void km__log_sync_once(struct log *log)
{
    km__ignore(km__log_sync(log), "a failure is recorded where it happens");
    km__mutex_lock(&log->sync_lock);
    if (!log->in_memory && !km__log_writable(log) && log->marks.durable < km__log_durable(log))
        km__ignore(km__log_write_marks(log, 0, 1), "a failure is recorded where it happens");
    km__mutex_unlock(&log->sync_lock);
}

static void run_syncer(void *context)
{
    struct log *log = context;
    uint64_t interval_ns = (uint64_t)log->options.sync_interval_ms * 1000000;

    while (!is_stopping(log)) {
        uint32_t ticket = km__eventcount_prepare(&log->sync_event);

        if (is_stopping(log)) {
            km__eventcount_cancel(&log->sync_event);
            break;
        }
        km__eventcount_wait(&log->sync_event, ticket, interval_ns);
        km__log_sync_once(log);
    }
}

/* ---- preparer ---------------------------------------------------------------------------- */

/* Not before half of the first segment is used: opening a store for a few changes makes no files.
 */
static int is_first_half_used(struct log *log)
{
    uint64_t tail = atomic_load_explicit(&log->tail, memory_order_acquire), size;

    if (km__position_number(tail) != log->start_number)
        return 1;
    km__epoch_enter(); /* the segment may leave the log meanwhile */
    size = km__log_has_number(log, log->start_number) ? km__log_segment_size(log, log->start_number)
                                                      : 0;
    km__epoch_leave();
    return km__position_offset(tail) > size / 2;
}

static int wants_segment(struct log *log)
{
    uint32_t wanted = km__log_is_busy(log) ? READY_COUNT_BUSY : READY_COUNT;

    if (atomic_load_explicit(&log->ready_count, memory_order_relaxed) >= wanted ||
        atomic_load_explicit(&log->special_pending, memory_order_relaxed) || km__log_writable(log))
        return 0;
    return is_first_half_used(log);
}

km_status km__log_housekeep(struct log *log)
{
    km_status rc = KM_OK;

    km__mutex_lock(&log->prepare_lock);
    while (!rc && wants_segment(log)) /* at most READY_COUNT_BUSY turns */
        rc = km__log_prepare_one(log, NULL);
    km__log_seal_flushed(log);
    km__mutex_unlock(&log->prepare_lock);
    km__log_free_dropped(log);
    if (log->options.housekeep)
        log->options.housekeep(log->options.housekeep_context);
    return rc;
}

static void run_preparer(void *context)
{
    struct log *log = context;

    while (!is_stopping(log)) {
        /* on a full disk: who needs the segment gets the error; here the next round tries again */
        km_status rc = km__log_housekeep(log);
        uint32_t ticket = km__eventcount_prepare(&log->prepare_event);

        if (is_stopping(log) || (!rc && wants_segment(log)))
            km__eventcount_cancel(&log->prepare_event);
        else
            km__eventcount_wait(&log->prepare_event, ticket, HOUSEKEEP_INTERVAL_NS);
    }
}

/* ---- reclaimer --------------------------------------------------------------------------- */

static void run_reclaimer(void *context)
{
    struct log *log = context;

    while (!is_stopping(log)) {
        uint32_t ticket = km__eventcount_prepare(&log->reclaim_event);

        if (is_stopping(log)) {
            km__eventcount_cancel(&log->reclaim_event);
            break;
        }
        km__eventcount_wait(&log->reclaim_event, ticket, HOUSEKEEP_INTERVAL_NS);
        km__reclaim(log->options.reclaimer);
    }
}

/* ---- all of them --------------------------------------------------------------------------- */

static km_status start_reclaimer(struct log *log)
{
    km_status rc = KM_OK;

    if (log->options.background) {
        rc = km__thread_start(&log->threads[0], "km-reclaimer", run_reclaimer, log);
        log->thread_count = rc == KM_OK;
    }
    return rc;
}

km_status km__log_start_threads(struct log *log)
{
    static const struct {
        const char *name;
        void (*run)(void *context);
    } threads[LOG_THREAD_COUNT] = {
        {"km-flusher", run_flusher},
        {"km-preparer", run_preparer},
        {"km-syncer", run_syncer},
        {"km-reclaimer", run_reclaimer},
    };

    if (log->options.follow) /* the others write */
        return start_reclaimer(log);
    while (log->options.background && log->thread_count < LOG_THREAD_COUNT) {
        uint32_t i = log->thread_count;
        km_status rc = km__thread_start(&log->threads[i], threads[i].name, threads[i].run, log);

        if (rc)
            return rc;
        log->thread_count++;
    }
    return KM_OK;
}

void km__log_stop_threads(struct log *log)
{
    atomic_store_explicit(&log->stopping, 1, memory_order_release); /* pairs with is_stopping() */
    km__eventcount_notify(&log->flush_event);
    km__eventcount_notify(&log->prepare_event);
    km__eventcount_notify(&log->sync_event);
    km__eventcount_notify(&log->reclaim_event);
    while (log->thread_count > 0)
        km__thread_join(&log->threads[--log->thread_count]);
}
