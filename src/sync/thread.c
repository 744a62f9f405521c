/* SPDX-License-Identifier: Apache-2.0
 *
 * thread.c -- start and join threads.
 */
#include "sync/thread.h"

#include <signal.h>
#include <stdlib.h>

#include "base/assert.h"
#include "sync/mutex.h"

#define THREAD_LOCK_TRIES 1000 /* tens of microseconds: what a change holds a lock for */

struct thread_start {
    void (*run)(void *context);
    void *context;
};

static void *run_thread(void *argument)
{
    struct thread_start start = *(struct thread_start *)argument;

    free(argument);
    start.run(start.context);
    return NULL;
}

km_status km__thread_start(struct thread *thread, const char *name, void (*run)(void *context),
                           void *context)
{
    struct thread_start *start = malloc(sizeof(*start));
    sigset_t all, before;
    int failed;

    if (!start)
        return KM_E_NO_MEMORY;
    start->run = run;
    start->context = context;
    sigfillset(&all);
    KM_ASSERT(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    failed = pthread_create(&thread->raw, NULL, run_thread, start);
    KM_ASSERT(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    if (failed) {
        free(start);
        return KM_E_LIMIT;
    }
    pthread_setname_np(thread->raw, name);
    return KM_OK;
}

void km__thread_join(struct thread *thread)
{
    KM_ASSERT(pthread_join(thread->raw, NULL) == 0);
}

int km__mutex_try_lock_for_long(struct mutex *mutex)
{
    for (int i = 0; i < THREAD_LOCK_TRIES; i++) {
        if (km__mutex_try_lock(mutex))
            return 1;
        km__thread_pause();
    }
    return 0;
}

void km__thread_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}
