/* SPDX-License-Identifier: Apache-2.0
 *
 * epoch.c -- the list of retired objects, and epochs across fork().
 */
#include "sync/epoch.h"

#include <pthread.h>

#if KM_THREAD_SANITIZER
char km__epoch_tsan_word;
#endif

/* ---- fork -------------------------------------------------------------------------------- */

/* One per process, as the epochs themselves are. */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static _Thread_local int forks_outside; /* this thread is forking, and holds liburcu's locks */
static int is_unusable;                 /* set in a child, while it has one thread */

/* Not from inside a section: a grace period under way would wait for us, holding the lock. */
static void before_fork(void)
{
    forks_outside = !km__epoch_ongoing();
    if (forks_outside)
        urcu_bp_before_fork();
}

static void after_fork_in_parent(void)
{
    if (forks_outside)
        urcu_bp_after_fork_parent();
}

static void after_fork_in_child(void)
{
    if (forks_outside)
        urcu_bp_after_fork_child();
    else
        is_unusable = 1;
}

static void prepare_for_fork(void)
{
    KM_ASSERT(pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) == 0);
}

int km__epoch_is_usable(void)
{
    KM_ASSERT(pthread_once(&fork_once, prepare_for_fork) == 0);
    return !is_unusable;
}

/* ---- retired objects --------------------------------------------------------------------- */

void km__reclaimer_init(struct reclaimer *reclaimer)
{
    km__mutex_init(&reclaimer->lock);
    reclaimer->first = NULL;
}

static struct retired *take_all(struct reclaimer *reclaimer)
{
    struct retired *first;

    km__mutex_lock(&reclaimer->lock);
    first = reclaimer->first;
    reclaimer->first = NULL;
    km__mutex_unlock(&reclaimer->lock);
    return first;
}

static size_t destroy_all(struct retired *retired)
{
    size_t count = 0;

    while (retired) { /* ends: the list was cut off from its reclaimer */
        struct retired *next = retired->next;
        retired->destroy(retired->context, retired);
        retired = next;
        count++;
    }
    return count;
}

void km__reclaimer_fini(struct reclaimer *reclaimer)
{
    destroy_all(take_all(reclaimer));
    km__mutex_fini(&reclaimer->lock);
}

void km__retire(struct reclaimer *reclaimer, struct retired *retired,
                void (*destroy)(void *context, struct retired *retired), void *context)
{
    retired->destroy = destroy;
    retired->context = context;
    km__mutex_lock(&reclaimer->lock);
    retired->next = reclaimer->first;
    reclaimer->first = retired;
    km__mutex_unlock(&reclaimer->lock);
}

size_t km__reclaim(struct reclaimer *reclaimer)
{
    struct retired *first = take_all(reclaimer);

    if (!first)
        return 0;
    urcu_bp_synchronize_rcu();
#if KM_THREAD_SANITIZER
    __tsan_acquire(&km__epoch_tsan_word);
#endif
    return destroy_all(first);
}
