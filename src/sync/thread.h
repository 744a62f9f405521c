/* SPDX-License-Identifier: Apache-2.0
 *
 * thread.h -- background threads. They take no signals of the program's.
 */
#ifndef KM_SYNC_THREAD_H
#define KM_SYNC_THREAD_H

#include <pthread.h>

#include "keepmap/keepmap.h"

struct thread {
    pthread_t raw;
};

/* Run `run(context)` in a new thread called `name` (at most 15 bytes). KM_E_LIMIT if there is none
 * to be had. */
km_status km__thread_start(struct thread *thread, const char *name, void (*run)(void *context),
                           void *context);
void km__thread_join(struct thread *thread);

/* A breath in a spinning wait. */
void km__thread_pause(void);

#endif
