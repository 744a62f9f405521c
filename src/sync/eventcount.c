/* SPDX-License-Identifier: Apache-2.0
 *
 * eventcount.c -- the sleeping half of an eventcount, on a futex.
 */
#include "sync/eventcount.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

uint32_t km__eventcount_prepare(struct eventcount *eventcount)
{
    /* the sequence first: a notify that comes after the next line changes it */
    uint32_t ticket = atomic_load_explicit(&eventcount->sequence, memory_order_acquire);

    /* acq_rel: pairs with km__eventcount_notify() */
    atomic_fetch_add_explicit(&eventcount->waiters, 1, memory_order_acq_rel);
    return ticket;
}

void km__eventcount_cancel(struct eventcount *eventcount)
{
    atomic_fetch_sub_explicit(&eventcount->waiters, 1, memory_order_relaxed);
}

void km__eventcount_wait(struct eventcount *eventcount, uint32_t ticket, uint64_t timeout_ns)
{
    struct timespec timeout = {(time_t)(timeout_ns / 1000000000u),
                               (long)(timeout_ns % 1000000000u)};

    syscall(SYS_futex, (uint32_t *)&eventcount->sequence, FUTEX_WAIT_PRIVATE, ticket,
            timeout_ns == KM__WAIT_FOREVER ? NULL : &timeout, NULL, 0);
    atomic_fetch_sub_explicit(&eventcount->waiters, 1, memory_order_relaxed);
}

static void wake_waiters(struct eventcount *eventcount, int count)
{
    /* pairs with km__eventcount_prepare() */
    atomic_fetch_add_explicit(&eventcount->sequence, 1, memory_order_release);
    syscall(SYS_futex, (uint32_t *)&eventcount->sequence, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

void km__eventcount_wake_slow(struct eventcount *eventcount)
{
    wake_waiters(eventcount, INT_MAX);
}

void km__eventcount_wake_one_slow(struct eventcount *eventcount)
{
    wake_waiters(eventcount, 1);
}
