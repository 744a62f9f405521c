/* SPDX-License-Identifier: Apache-2.0
 *
 * log_error.c -- the first failure of the write path, and notes to the program's log callback.
 *
 * After a failed write or sync nothing is tried again: the kernel may have dropped the pages, and a
 * sync that succeeds afterwards would lie. Changes are refused from then on, reads go on.
 */
#include "log/log_internal.h"

#include <stdarg.h>
#include <stdio.h>

void km__log_note(struct log *log, km_log_level level, const char *format, ...)
{
    char line[512];
    va_list arguments;

    if (!log->options.note)
        return;
    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    log->options.note(log->options.note_context, level, line);
}

/*
 * A failed sync may have dropped pages that were written: what the rings say was written to files
 * is then no longer sure to be there, but for what is durable.
 */
static void distrust_ring(struct log *log, uint64_t position)
{
    const struct segment *segment = km__segment_at(log, km__position_number(position));

    if (segment && segment->ring)
        km__ring_set_flushed(segment->ring, log->boot_id, km__log_durable(log));
}

void km__log_distrust_rings(struct log *log)
{
    /* segments and rings stay, and two of them are all that can be in use; the orders pair with
     * those of flush_segment() and switch_locked() */
    distrust_ring(log, atomic_load_explicit(&log->flushed, memory_order_acquire));
    distrust_ring(log, atomic_load_explicit(&log->tail, memory_order_acquire));
}

km_status km__log_fail(struct log *log, km_status cause, const char *name, uint64_t offset,
                       const char *what)
{
    int os_error = log->os->ops->last_error(log->os);
    int is_first;

    km__mutex_lock(&log->error_lock);
    is_first = !atomic_load_explicit(&log->failed, memory_order_relaxed);
    if (is_first) {
        km__ignore(
            km__fail(&log->error, cause, name, offset, os_error,
                     "%s; changes are refused, reads go on: close the store, repair the cause, "
                     "open it again",
                     what),
            "the status is the one given");
        atomic_store_explicit(&log->failed, 1,
                              memory_order_release); /* pairs with km__log_writable() */
    }
    km__mutex_unlock(&log->error_lock);
    km__log_distrust_rings(log);
    if (is_first)
        km__log_note(log, KM_LOG_ERROR, "%s: %s", name, log->error.message);
    km__eventcount_notify(&log->durable_event);
    return KM_E_IO;
}

km_status km__log_error(struct log *log, km_error *out_error)
{
    km_status rc = KM_NOT_FOUND;

    km__mutex_lock(&log->error_lock);
    if (atomic_load_explicit(&log->failed, memory_order_relaxed)) {
        *out_error = log->error;
        rc = KM_OK;
    }
    km__mutex_unlock(&log->error_lock);
    return rc;
}

km_status km__log_writable(const struct log *log)
{
    if (KM_UNLIKELY(log->options.read_only))
        return KM_E_READ_ONLY;
    /* pairs with km__log_fail() */
    return KM_UNLIKELY(atomic_load_explicit(&log->failed, memory_order_acquire)) ? KM_E_FAILED
                                                                                 : KM_OK;
}
