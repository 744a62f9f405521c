/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_queue.h -- asynchronous reads of sealed tables: a program submits gets, goes on, and takes
 * the results when they are there. Needs keepmap.h, which has the rules that hold for every
 * function.
 *
 * A queue makes many reads at once, of any number of tables, by io_uring or by threads. Whoever
 * submits gets a result for every request that was accepted: by a call of a function, or from
 * km_sealed_queue_poll(). Order is not promised.
 *
 * Fork: a queue belongs to the process that opened it. In a child process calls of it return
 * KM_E_FORKED (km_sealed_queue_pending() 0), and km_sealed_queue_close() releases its memory.
 */
#ifndef KEEPMAP_SEALED_QUEUE_H
#define KEEPMAP_SEALED_QUEUE_H

#include "keepmap/sealed.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct km_sealed_queue km_sealed_queue; /* reads in flight */

/* Who makes the reads. */
typedef enum km_sealed_engine {
    KM_SEALED_ENGINE_AUTO = 0, /* io_uring where there is one, else threads */
    KM_SEALED_ENGINE_IO_URING = 1,
    KM_SEALED_ENGINE_THREADS = 2
} km_sealed_engine;

#define KM_SEALED_REQUESTS_MAX 65536u /* the most that the options below may ask for */
#define KM_SEALED_READS_MAX 4096u
#define KM_SEALED_THREADS_MAX 256u

/* Start with KM_SEALED_QUEUE_OPTIONS_INIT; a field of 0 means its default. */
typedef struct km_sealed_queue_options {
    size_t struct_size;
    km_sealed_engine engine;
    uint32_t requests_max; /* submitted and not handed out yet: default 256 */
    uint32_t reads_max;    /* that the disk is given at once: default 64 */
    uint32_t threads;      /* at most, if it is threads: default 16; started when needed */
} km_sealed_queue_options;
#define KM_SEALED_QUEUE_OPTIONS_INIT                                                               \
    {                                                                                              \
        sizeof(km_sealed_queue_options), KM_SEALED_ENGINE_AUTO, 0, 0, 0                            \
    }

/* What a request came to. */
typedef struct km_sealed_result {
    void *user;             /* as submitted */
    km_status status;       /* of a get: KM_OK, KM_NOT_FOUND; of a get_many: KM_OK; of both:
                               KM_E_CORRUPT, KM_E_IO, KM_E_NO_MEMORY */
    km_bytes value;         /* of a get, on KM_OK */
    const km_bytes *values; /* of a get_many, on KM_OK: as km_sealed_get_many() sets them */
    size_t count;           /* of keys */
    size_t found;           /* of these, how many were there */
} km_sealed_result;

/* Called by km_sealed_queue_poll(), with no lock held. It may submit to the queue, but not poll or
 * close it. `result` is borrowed for the call; what it points to lives as other results do. */
typedef void (*km_sealed_done_fn)(void *user, const km_sealed_result *result);

/*
 * km_sealed_queue_open -- prepare for asynchronous reads.
 *
 *   options    NULL for the defaults.
 *   out_error  Details of a failure; may be NULL. Written whenever the status is not KM_OK.
 *
 * Returns:   KM_OK, KM_E_INVALID (an option is over its limit), KM_E_LIMIT, KM_E_IO,
 *            KM_E_NO_MEMORY.
 *            KM_E_UNSUPPORTED  the options ask for io_uring, and there is none: the library was
 *                              built without it, the kernel is too old, or it is forbidden.
 * Lifetime:  release with km_sealed_queue_close().
 * Threads:   any; a queue belongs to one thread at a time.
 * Blocks:    never.
 */
KM_API KM_MUST_CHECK km_status km_sealed_queue_open(const km_sealed_queue_options *options,
                                                    km_sealed_queue **out_queue,
                                                    km_error *out_error);

/*
 * km_sealed_submit_get -- begin a get.
 *
 *   table      Stays open until the result was handed out.
 *   done       Called with the result by km_sealed_queue_poll(); NULL: that returns the result.
 *   user       Comes back in the result.
 *
 * A key that is absent by the table's filter, or whose block is in memory, has its result at once;
 * it is handed out like others.
 *
 * Returns:   KM_OK         the request is in the queue: its result will be handed out, once.
 *            KM_BUSY       requests_max are pending: poll, then call again.
 *            KM_E_INVALID  the key has not the size of the table's keys.
 *            KM_E_NO_MEMORY, KM_E_FORKED. After all but KM_OK nothing is in the queue.
 * Lifetime:  key is borrowed for the call.
 * Threads:   one at a time for each queue; beside any other call on the table but
 *            km_sealed_close().
 * Blocks:    not on the blocks that are read; the kernel may wait to learn where they lie.
 */
KM_API KM_MUST_CHECK km_status km_sealed_submit_get(km_sealed_queue *queue, const km_sealed *table,
                                                    km_bytes key, km_sealed_done_fn done,
                                                    void *user);

/*
 * km_sealed_submit_get_number -- begin a get of a key that is a number.
 *
 * Returns:   as km_sealed_submit_get(); KM_E_INVALID: the table's keys are bytes. A number that has
 *            no room in them is not found.
 * Lifetime:  nothing to release.
 * Threads:   as km_sealed_submit_get().
 * Blocks:    as km_sealed_submit_get().
 */
KM_API KM_MUST_CHECK km_status km_sealed_submit_get_number(km_sealed_queue *queue,
                                                           const km_sealed *table, uint64_t number,
                                                           km_sealed_done_fn done, void *user);

/*
 * km_sealed_submit_get_many -- begin a get of many keys at once: one request, one result.
 *
 *   keys       count keys, in any order; repetitions are fine.
 *
 * Its reads, neighbours in one, take turns with those of other requests; those over reads_max wait
 * until km_sealed_queue_poll() has taken results of others.
 *
 * Returns:   as km_sealed_submit_get().
 * Lifetime:  keys, and what they point to, are borrowed for the call.
 * Threads:   as km_sealed_submit_get().
 * Blocks:    as km_sealed_submit_get().
 */
KM_API KM_MUST_CHECK km_status km_sealed_submit_get_many(km_sealed_queue *queue,
                                                         const km_sealed *table,
                                                         const km_bytes *keys, size_t count,
                                                         km_sealed_done_fn done, void *user);

/*
 * km_sealed_queue_poll -- hand out results: those of requests with a function by a call of it, the
 * others in an array.
 *
 *   results    Room for `room` results; may be NULL if that is 0.
 *   timeout_ms How long to wait if there are none: 0 not at all, -1 until there is one. A signal
 *              does not end it. If nothing is pending there is no wait.
 *   out_count  How many results were set; calls of functions are not among them. May be NULL.
 *
 * What results there is no room for are handed out by a later call; they do not keep functions from
 * being called. Nothing moves without it: large requests make further reads here.
 *
 * Returns:   KM_OK, also if there were none; KM_E_FORKED.
 * Lifetime:  what results point to stays until the next call of this function, or
 *            km_sealed_queue_close(); what functions were called with likewise.
 * Threads:   as km_sealed_submit_get(); functions are called by this thread.
 * Blocks:    on the disk if asked to wait; and as functions do.
 */
KM_API KM_MUST_CHECK km_status km_sealed_queue_poll(km_sealed_queue *queue,
                                                    km_sealed_result *results, size_t room,
                                                    int timeout_ms, size_t *out_count);

/*
 * km_sealed_queue_fd -- a descriptor for poll(), epoll, or a library of events.
 *
 * It is readable while there is something for km_sealed_queue_poll() to do: hand out results, or go
 * on with large requests, which may give no result yet. It may be readable once too often.
 * Watched by level or by edge, a program polls once each time it is told: a poll that leaves
 * results behind makes the descriptor readable anew. Nothing but km_sealed_queue_poll() may read
 * it.
 *
 * Returns:   the descriptor; -1 in a child process.
 * Lifetime:  the queue's: take it out of whatever watches it before km_sealed_queue_close().
 * Threads:   any thread may wait for it.
 * Blocks:    never.
 */
KM_API int km_sealed_queue_fd(const km_sealed_queue *queue);

/*
 * km_sealed_queue_pending -- how many requests were submitted and not handed out yet.
 *
 * Returns:   the number of requests.
 * Lifetime:  nothing to release.
 * Threads:   as km_sealed_submit_get().
 * Blocks:    never.
 */
KM_API size_t km_sealed_queue_pending(const km_sealed_queue *queue);

/*
 * km_sealed_queue_engine -- who makes the reads.
 *
 * Returns:   KM_SEALED_ENGINE_IO_URING or KM_SEALED_ENGINE_THREADS.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    never.
 */
KM_API km_sealed_engine km_sealed_queue_engine(const km_sealed_queue *queue);

/*
 * km_sealed_queue_close -- release a queue; NULL is accepted.
 *
 * Requests that are pending are dropped: their functions are not called.
 *
 * Returns:   nothing.
 * Lifetime:  ends the queue and all results. Tables of pending requests are closed after it.
 * Threads:   no other call on this queue may be running or follow.
 * Blocks:    on the disk, for the reads that are under way.
 */
KM_API void km_sealed_queue_close(km_sealed_queue *queue);

#ifdef __cplusplus
}
#endif
#endif /* KEEPMAP_SEALED_QUEUE_H */
