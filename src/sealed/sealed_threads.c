/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_threads.c -- reads in flight by threads, each of which waits for one.
 *
 * I1. A read is in `waiting`, with one thread, in `ended`, or the caller's again. Its fields belong
 *     to whoever has it; the lock hands them over.
 * I2. Whenever `ended` is not empty the descriptor was notified after the caller last emptied it,
 *     and notifications are made under the lock: who clears the descriptor and then finds nothing
 *     ended has not lost one, nor is there one left of what it took before.
 * I3. A thread is started when reads wait and none is idle, up to the limit; the first one when the
 *     engine is opened, so that there is one.
 */
#include "base/assert.h"
#include "sealed/sealed_queue_internal.h"
#include "sync/eventcount.h"
#include "sync/mutex.h"
#include "sync/thread.h"

/* Reads one behind the other, in a ring of places. */
struct sealed_fifo {
    struct os_read **places;
    size_t first;
    size_t count;
};

struct sealed_threads {
    struct sealed_reads base; /* first: what others know of it */
    struct os *os;            /* [c] */
    int notify_fd;            /* [c] */
    size_t depth;             /* [c] places of each fifo */
    struct mutex lock;
    struct sealed_fifo waiting; /* under lock */
    struct sealed_fifo ended;   /* under lock */
    size_t idle_count;          /* under lock: threads without a read */
    int is_closing;             /* under lock */
    struct eventcount work;     /* something waits, or is_closing */
    struct eventcount news;     /* something has ended */
    size_t under_way;           /* [t] of the caller's: begun and not returned */
    struct thread *threads;     /* [t] */
    uint32_t thread_count;      /* [t] */
    uint32_t thread_max;        /* [c] */
};

static void sealed_fifo_put(struct sealed_fifo *fifo, size_t room, struct os_read *read)
{
    KM_ASSERT(fifo->count < room);
    fifo->places[(fifo->first + fifo->count++) % room] = read;
}

static struct os_read *sealed_fifo_take(struct sealed_fifo *fifo, size_t room)
{
    struct os_read *read = fifo->places[fifo->first];

    fifo->first = (fifo->first + 1) % room;
    fifo->count--;
    return read;
}

/* ---- threads ----------------------------------------------------------------------------- */

/* Wait for a read to make; NULL: the engine is being closed. */
static struct os_read *sealed_threads_next(struct sealed_threads *self)
{
    struct os_read *read = NULL;
    uint32_t ticket;

    km__mutex_lock(&self->lock);
    while (self->waiting.count == 0 && !self->is_closing) {
        ticket = km__eventcount_prepare(&self->work);
        km__mutex_unlock(&self->lock);
        km__eventcount_wait(&self->work, ticket, KM__WAIT_FOREVER);
        km__mutex_lock(&self->lock);
    }
    if (self->waiting.count > 0) {
        read = sealed_fifo_take(&self->waiting, self->depth);
        self->idle_count--;
    }
    km__mutex_unlock(&self->lock);
    return read;
}

static void sealed_threads_finish(struct sealed_threads *self, struct os_read *read)
{
    km__mutex_lock(&self->lock);
    if (self->ended.count == 0)
        self->os->ops->notify_fd(self->os, self->notify_fd); /* I2 */
    sealed_fifo_put(&self->ended, self->depth, read);
    self->idle_count++;
    km__mutex_unlock(&self->lock);
    km__eventcount_notify(&self->news);
}

static void sealed_threads_run(void *context)
{
    struct sealed_threads *self = context;
    struct os_read *read;

    while ((read = sealed_threads_next(self)) != NULL) {
        read->status = self->os->ops->read_at(read->file, read->offset, read->buffer, read->size);
        read->done = read->status ? 0 : read->size;
        sealed_threads_finish(self, read);
    }
}

static km_status sealed_threads_add(struct sealed_threads *self)
{
    km_status rc;

    km__mutex_lock(&self->lock);
    self->idle_count++;
    km__mutex_unlock(&self->lock);
    rc = km__thread_start(&self->threads[self->thread_count], "km-sealed-read", sealed_threads_run,
                          self);
    if (!rc) {
        self->thread_count++;
        return KM_OK;
    }
    km__mutex_lock(&self->lock);
    self->idle_count--;
    km__mutex_unlock(&self->lock);
    return rc;
}

/* ---- the engine -------------------------------------------------------------------------- */

static void sealed_threads_begin(struct sealed_reads *reads, struct os_read *const *list,
                                 size_t count)
{
    struct sealed_threads *self = (struct sealed_threads *)reads;
    size_t lacking;

    km__mutex_lock(&self->lock);
    for (size_t i = 0; i < count; i++)
        sealed_fifo_put(&self->waiting, self->depth, list[i]);
    lacking = self->waiting.count > self->idle_count ? self->waiting.count - self->idle_count : 0;
    km__mutex_unlock(&self->lock);
    self->under_way += count;
    for (size_t i = 0; i < count; i++)
        km__eventcount_notify_one(&self->work);
    for (; lacking > 0 && self->thread_count < self->thread_max; lacking--) {
        if (sealed_threads_add(self) != KM_OK)
            break; /* those that there are do, if slower */
    }
}

static size_t sealed_threads_take(struct sealed_threads *self, struct os_read **out_list,
                                  size_t room, uint64_t wait_ns)
{
    uint32_t ticket = 0;
    size_t count = 0;

    km__mutex_lock(&self->lock);
    while (count < room && self->ended.count > 0)
        out_list[count++] = sealed_fifo_take(&self->ended, self->depth);
    if (self->ended.count > 0)
        self->os->ops->notify_fd(self->os, self->notify_fd); /* I2 */
    if (count == 0 && wait_ns > 0)
        ticket = km__eventcount_prepare(&self->news);
    km__mutex_unlock(&self->lock);
    if (count == 0 && wait_ns > 0)
        km__eventcount_wait(&self->news, ticket, wait_ns);
    return count;
}

static size_t sealed_threads_end(struct sealed_reads *reads, struct os_read **out_list, size_t room,
                                 uint64_t wait_ns)
{
    struct sealed_threads *self = (struct sealed_threads *)reads;
    size_t count;

    if (self->under_way == 0)
        return 0;
    count = sealed_threads_take(self, out_list, room, wait_ns);
    if (count == 0 && wait_ns > 0)
        count = sealed_threads_take(self, out_list, room, 0);
    self->under_way -= count;
    return count;
}

static void sealed_threads_release(struct sealed_threads *self)
{
    const struct allocator *allocator = &self->os->allocator;

    km__release(allocator, self->waiting.places, self->depth * sizeof(*self->waiting.places));
    km__release(allocator, self->ended.places, self->depth * sizeof(*self->ended.places));
    km__release(allocator, self->threads, self->thread_max * sizeof(*self->threads));
    km__release(allocator, self, sizeof(*self));
}

static void sealed_threads_close(struct sealed_reads *reads, int is_child)
{
    struct sealed_threads *self = (struct sealed_threads *)reads;

    if (!is_child) { /* a child has none of the threads, and one of them may hold the lock */
        km__mutex_lock(&self->lock);
        self->is_closing = 1;
        self->waiting.count = 0; /* nobody wants them any more */
        km__mutex_unlock(&self->lock);
        km__eventcount_notify(&self->work);
        for (uint32_t i = 0; i < self->thread_count; i++)
            km__thread_join(&self->threads[i]);
        km__mutex_fini(&self->lock);
    }
    sealed_threads_release(self);
}

static const struct sealed_reads_ops sealed_threads_ops = {
    .begin = sealed_threads_begin, .end = sealed_threads_end, .close = sealed_threads_close};

km_status km__sealed_threads_open(struct os *os, const struct sealed_reads_options *options,
                                  struct sealed_reads **out_reads)
{
    const struct allocator *allocator = &os->allocator;
    struct sealed_threads *self = km__allocate(allocator, sizeof(*self));
    km_status rc;

    if (!self)
        return KM_E_NO_MEMORY;
    self->base.ops = &sealed_threads_ops;
    self->base.engine = KM_SEALED_ENGINE_THREADS;
    self->os = os;
    self->notify_fd = options->notify_fd;
    self->depth = options->depth;
    self->thread_max = options->threads < options->depth ? options->threads : options->depth;
    self->waiting.places = km__allocate(allocator, self->depth * sizeof(*self->waiting.places));
    self->ended.places = km__allocate(allocator, self->depth * sizeof(*self->ended.places));
    self->threads = km__allocate(allocator, self->thread_max * sizeof(*self->threads));
    if (!self->waiting.places || !self->ended.places || !self->threads) {
        sealed_threads_release(self);
        return KM_E_NO_MEMORY;
    }
    km__mutex_init(&self->lock);
    km__eventcount_init(&self->work);
    km__eventcount_init(&self->news);
    rc = sealed_threads_add(self); /* I3 */
    if (rc) {
        km__mutex_fini(&self->lock);
        sealed_threads_release(self);
        return rc;
    }
    *out_reads = &self->base;
    return KM_OK;
}
