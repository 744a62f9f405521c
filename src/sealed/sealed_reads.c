/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_reads.c -- reads in flight: the choice of an engine, and the one whose reads the machine
 * makes by itself.
 */
#include "sealed/sealed_queue_internal.h"

/* A ring of the platform's. */
struct sealed_ring {
    struct sealed_reads base; /* first: what others know of it */
    struct os *os;
    struct os_ring *ring;
    size_t under_way; /* reads begun and not yet returned */
};

#define SEALED_RING_DRAIN 16u
#define SEALED_RING_WAIT_NS UINT64_C(1000000000) /* then it is asked again, for ever */

static void sealed_ring_begin(struct sealed_reads *reads, struct os_read *const *list, size_t count)
{
    struct sealed_ring *self = (struct sealed_ring *)reads;

    self->under_way += count;
    self->os->ops->begin_reads(self->ring, list, count);
}

static size_t sealed_ring_end(struct sealed_reads *reads, struct os_read **out_list, size_t room,
                              uint64_t wait_ns)
{
    struct sealed_ring *self = (struct sealed_ring *)reads;
    size_t count = self->os->ops->end_reads(self->ring, out_list, room, wait_ns);

    self->under_way -= count;
    return count;
}

static void sealed_ring_close(struct sealed_reads *reads, int is_child)
{
    struct sealed_ring *self = (struct sealed_ring *)reads;
    struct os_read *ended[SEALED_RING_DRAIN];

    /* a child gives up its share of the ring, no more; else the kernel still writes to buffers */
    while (!is_child && self->under_way > 0)
        (void)sealed_ring_end(reads, ended, SEALED_RING_DRAIN, SEALED_RING_WAIT_NS);
    self->os->ops->close_ring(self->ring);
    km__release(&self->os->allocator, self, sizeof(*self));
}

static const struct sealed_reads_ops sealed_ring_ops = {
    .begin = sealed_ring_begin, .end = sealed_ring_end, .close = sealed_ring_close};

static km_status sealed_ring_open(struct os *os, const struct sealed_reads_options *options,
                                  struct sealed_reads **out_reads)
{
    struct sealed_ring *self = km__allocate(&os->allocator, sizeof(*self));
    km_status rc;

    if (!self)
        return KM_E_NO_MEMORY;
    rc = os->ops->open_ring(os, options->depth, options->notify_fd, &self->ring);
    if (rc) {
        km__release(&os->allocator, self, sizeof(*self));
        return rc;
    }
    self->base.ops = &sealed_ring_ops;
    self->base.engine = KM_SEALED_ENGINE_IO_URING;
    self->os = os;
    *out_reads = &self->base;
    return KM_OK;
}

km_status km__sealed_reads_open(struct os *os, const struct sealed_reads_options *options,
                                struct sealed_reads **out_reads)
{
    if (options->engine != KM_SEALED_ENGINE_THREADS) {
        km_status rc = sealed_ring_open(os, options, out_reads);
        if (rc == KM_OK || options->engine == KM_SEALED_ENGINE_IO_URING)
            return rc; /* else whatever kept it from being opened: threads may do */
    }
    return km__sealed_threads_open(os, options, out_reads);
}
