/* SPDX-License-Identifier: Apache-2.0
 *
 * eventcount.h -- wait for a condition that other threads make true with plain atomics.
 *
 * A waiter:                                   A notifier:
 *     ticket = km__eventcount_prepare(e);         make the condition true;
 *     if (condition holds)                        km__eventcount_notify(e);
 *         km__eventcount_cancel(e);
 *     else
 *         km__eventcount_wait(e, ticket, ...);
 *     look again
 *
 * No wake-up is lost: prepare and notify each have a full fence between their own store and their
 * look at the other's, so at least one of the two sees the other. A notify without waiters costs
 * that fence and a load.
 */
#ifndef KM_SYNC_EVENTCOUNT_H
#define KM_SYNC_EVENTCOUNT_H

#include <stdatomic.h>
#include <stdint.h>

#define KM__WAIT_FOREVER UINT64_MAX

struct eventcount {
    _Atomic uint32_t sequence; /* [a] grows with every notify that found waiters */
    _Atomic uint32_t waiters;  /* [a] */
};

static inline void km__eventcount_init(struct eventcount *eventcount)
{
    atomic_init(&eventcount->sequence, 0);
    atomic_init(&eventcount->waiters, 0);
}

uint32_t km__eventcount_prepare(struct eventcount *eventcount);
void km__eventcount_cancel(struct eventcount *eventcount);
/* Sleep until a notify that came after `ticket`, or the time is over, or for no reason at all. */
void km__eventcount_wait(struct eventcount *eventcount, uint32_t ticket, uint64_t timeout_ns);

void km__eventcount_wake_slow(struct eventcount *eventcount);

static inline void km__eventcount_notify(struct eventcount *eventcount)
{
    /* seq_cst: with a weaker fence the waiter could miss the condition while we miss the waiter */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&eventcount->waiters, memory_order_relaxed) != 0)
        km__eventcount_wake_slow(eventcount);
}

#endif
