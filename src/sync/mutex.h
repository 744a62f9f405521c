/* SPDX-License-Identifier: Apache-2.0
 *
 * mutex.h -- mutual exclusion between threads.
 */
#ifndef KM_SYNC_MUTEX_H
#define KM_SYNC_MUTEX_H

#include <pthread.h>
#include <stdint.h>

#include "base/assert.h"

struct mutex {
    pthread_mutex_t raw;
};

static inline void km__mutex_init(struct mutex *mutex)
{
    KM_ASSERT(pthread_mutex_init(&mutex->raw, NULL) == 0);
}

static inline void km__mutex_fini(struct mutex *mutex)
{
    KM_ASSERT(pthread_mutex_destroy(&mutex->raw) == 0);
}

static inline void km__mutex_lock(struct mutex *mutex)
{
    KM_ASSERT(pthread_mutex_lock(&mutex->raw) == 0);
}

/* 1 if it was free. */
static inline int km__mutex_try_lock(struct mutex *mutex)
{
    return pthread_mutex_trylock(&mutex->raw) == 0;
}

/* 1 if it is ours after some microseconds at most: for who must not wait for one that is held for
 * longer, but need not mind one that is not. */
int km__mutex_try_lock_for_long(struct mutex *mutex);

static inline void km__mutex_unlock(struct mutex *mutex)
{
    KM_ASSERT(pthread_mutex_unlock(&mutex->raw) == 0);
}

#endif
