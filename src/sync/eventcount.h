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
 * No wake-up is lost: prepare and notify both change `waiters` by a read-modify-write, so one comes
 * after the other. If notify is the later, it sees the waiter; if prepare is, it has acquired what
 * notify released, and the waiter sees the condition. A notify without waiters costs one such
 * instruction.
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
void km__eventcount_wake_one_slow(struct eventcount *eventcount);

static inline void km__eventcount_notify(struct eventcount *eventcount)
{
    /* acq_rel, adding nothing: pairs with km__eventcount_prepare(), see above */
    if (atomic_fetch_add_explicit(&eventcount->waiters, 0, memory_order_acq_rel) != 0)
        km__eventcount_wake_slow(eventcount);
}

/* Of those asleep wake one alone: for a condition that one waiter takes away. */
static inline void km__eventcount_notify_one(struct eventcount *eventcount)
{
    /* acq_rel: as km__eventcount_notify() */
    if (atomic_fetch_add_explicit(&eventcount->waiters, 0, memory_order_acq_rel) != 0)
        km__eventcount_wake_one_slow(eventcount);
}

#endif
