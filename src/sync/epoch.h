/* SPDX-License-Identifier: Apache-2.0
 *
 * epoch.h -- read sections, and the release of memory that readers may still look at.
 *
 * A thin layer over liburcu's "bulletproof" flavour: threads need no registration, and with
 * membarrier a section costs its reader two stores to its own memory. What a writer has unlinked
 * it retires; a background thread waits for the sections that were open, then frees it.
 * Desnoyers, McKenney, Stern, Dagenais, Walpole: User-Level Implementations of Read-Copy Update,
 * IEEE TPDS 23(2), 2012.
 */
#ifndef KM_SYNC_EPOCH_H
#define KM_SYNC_EPOCH_H

#include <stddef.h>
#include <stdint.h>

#define URCU_INLINE_SMALL_FUNCTIONS
#define _LGPL_SOURCE
#include <urcu/urcu-bp.h>
#undef _LGPL_SOURCE

#include "sync/mutex.h"

#if KM_THREAD_SANITIZER
/* ThreadSanitizer cannot see a grace period: the end of a section and the end of the wait for it
 * are told to it through this word. */
extern char km__epoch_tsan_word;
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#endif

static inline void km__epoch_enter(void)
{
    urcu_bp_read_lock();
}

static inline void km__epoch_leave(void)
{
#if KM_THREAD_SANITIZER
    __tsan_release(&km__epoch_tsan_word);
#endif
    urcu_bp_read_unlock();
}

/* Whether this thread is inside a section (of any store of the process): it must not wait then. */
static inline int km__epoch_ongoing(void)
{
    return urcu_bp_read_ongoing();
}

/*
 * Whether this process may use epochs; the first call prepares for fork(). A child of fork() may,
 * unless the thread that forked was inside a section: then the state of the other threads'
 * sections, which do not exist in the child, cannot be put right.
 */
int km__epoch_is_usable(void);

/* Embedded in what is to be retired, or allocated beside it. */
struct retired {
    struct retired *next;
    void (*destroy)(void *context, struct retired *retired);
    void *context;
};

/* What a store has retired and not yet freed. */
struct reclaimer {
    struct mutex lock;
    struct retired *first; /* under lock */
};

void km__reclaimer_init(struct reclaimer *reclaimer);
/* Frees what is left; no reader may be inside. */
void km__reclaimer_fini(struct reclaimer *reclaimer);

/* Have `destroy(context, retired)` called once every section open now has ended. Never waits. The
 * object must already be unreachable for new readers. */
void km__retire(struct reclaimer *reclaimer, struct retired *retired,
                void (*destroy)(void *context, struct retired *retired), void *context);

/* Wait for the open sections and free what had been retired before the call. Not from inside a
 * section. Returns how many objects were freed. */
size_t km__reclaim(struct reclaimer *reclaimer);

#endif
