/* SPDX-License-Identifier: Apache-2.0
 *
 * epoch.c -- the list of retired objects.
 */
#include "sync/epoch.h"

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
    return destroy_all(first);
}
