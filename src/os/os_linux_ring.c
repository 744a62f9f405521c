/* SPDX-License-Identifier: Apache-2.0
 *
 * os_linux_ring.c -- reads that are under way while their caller goes on: io_uring, by liburing, or
 * nothing where the library is built without it.
 *
 * I1. The submission queue has room for `depth` reads, and no more are under way: there is always
 *     an entry to be had, and completions are never lost.
 * I2. What the kernel did not take yet stays in the submission queue and is offered again by the
 *     next call; the descriptor is notified, so that there is one.
 * I3. A read ends once, when all of it is there or an error met it. The kernel reads a long one in
 *     pieces: it would cut it short anyway above 2 GiB.
 */
#include "os/os_linux_internal.h"

#ifdef KM_WITH_LIBURING

#include <errno.h>
#include <liburing.h>

#include "base/assert.h"

#define OS_LINUX_RING_PIECE ((size_t)1 << 20)
#define OS_LINUX_RING_RETRY_NS 1000000u /* when the kernel had no memory for a submission */

struct os_ring {
    struct os *os;
    struct io_uring raw;
    uint32_t under_way; /* reads begun and not yet returned */
    int notify_fd;
};

static km_status os_linux_ring_refused(int os_error)
{
    switch (os_error) {
    case ENOSYS:
    case EPERM: /* by a sandbox, or the administrator */
    case EACCES:
    case EINVAL:
    case EOPNOTSUPP: return km__os_linux_fail_as(KM_E_UNSUPPORTED, os_error);
    default: return km__os_linux_fail(os_error);
    }
}

static km_status os_linux_ring_init(struct os_ring *ring, uint32_t depth)
{
    /* the first: waiting with a time limit takes no entry of the queue (Linux 5.11) */
    const unsigned needed = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP;
    struct io_uring_params params = {0};
    int rc = io_uring_queue_init_params(depth, &ring->raw, &params);

    if (rc < 0)
        return os_linux_ring_refused(-rc);
    if ((params.features & needed) != needed) {
        io_uring_queue_exit(&ring->raw);
        return os_linux_ring_refused(ENOSYS);
    }
    rc = io_uring_register_eventfd(&ring->raw, ring->notify_fd);
    if (rc < 0) {
        io_uring_queue_exit(&ring->raw);
        return os_linux_ring_refused(-rc);
    }
    return KM_OK;
}

km_status km__os_linux_open_ring(struct os *os, uint32_t depth, int notify_fd,
                                 struct os_ring **out_ring)
{
    struct os_ring *ring = km__allocate(&os->allocator, sizeof(*ring));
    km_status rc;

    if (!ring)
        return km__os_linux_fail_as(KM_E_NO_MEMORY, ENOMEM);
    ring->os = os;
    ring->notify_fd = notify_fd;
    rc = os_linux_ring_init(ring, depth);
    if (rc) {
        km__release(&os->allocator, ring, sizeof(*ring));
        return rc;
    }
    *out_ring = ring;
    return KM_OK;
}

void km__os_linux_close_ring(struct os_ring *ring)
{
    if (!ring)
        return;
    io_uring_queue_exit(&ring->raw);
    km__release(&ring->os->allocator, ring, sizeof(*ring));
}

/* Put what is left of a read, or a piece of it, into the queue. */
static void os_linux_ring_add(struct os_ring *ring, struct os_read *read)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&ring->raw);
    size_t left = read->size - read->done;

    KM_ASSERT(entry != NULL); /* I1 */
    io_uring_prep_read(entry, read->file->fd, read->buffer + read->done,
                       (unsigned)(left < OS_LINUX_RING_PIECE ? left : OS_LINUX_RING_PIECE),
                       read->offset + read->done);
    io_uring_sqe_set_data(entry, read);
}

static void os_linux_ring_submit(struct os_ring *ring)
{
    int rc = 1;

    while (io_uring_sq_ready(&ring->raw) > 0 && (rc > 0 || rc == -EINTR))
        rc = io_uring_submit(&ring->raw);
    if (io_uring_sq_ready(&ring->raw) > 0)
        ring->os->ops->notify_fd(ring->os, ring->notify_fd); /* I2 */
}

void km__os_linux_begin_reads(struct os_ring *ring, struct os_read *const *reads, size_t count)
{
    for (size_t i = 0; i < count; i++)
        os_linux_ring_add(ring, reads[i]);
    ring->under_way += (uint32_t)count;
    os_linux_ring_submit(ring);
}

/* Whether it gave a read up that may yet be made, as it does (with EFAULT or ECANCELED) when the
 * thread that began it has ended. */
static int os_linux_ring_gave_up(int result)
{
    return result == -EINTR || result == -EAGAIN || result == -ECANCELED || result == -EFAULT;
}

/* What the kernel says to a piece of a read. Returns whether the read has ended. */
static int os_linux_ring_settle(struct os_ring *ring, struct os_read *read, int result)
{
    if (result > 0) {
        read->done += (size_t)result;
        read->status = KM_OK;
        if (read->done < read->size)
            os_linux_ring_add(ring, read);
        return read->done >= read->size;
    }
    if (os_linux_ring_gave_up(result)) { /* seldom enough to wait for it */
        read->status = km__os_linux_read_at(read->file, read->offset + read->done,
                                            read->buffer + read->done, read->size - read->done);
        return 1;
    }
    read->status = result == 0 ? km__os_linux_fail_as(KM_E_IO, 0) /* the file ends before */
                               : km__os_linux_fail(-result);
    return 1;
}

static size_t os_linux_ring_take(struct os_ring *ring, struct os_read **out_reads, size_t room)
{
    struct io_uring_cqe *entry;
    size_t count = 0;

    while (count < room && io_uring_peek_cqe(&ring->raw, &entry) == 0) {
        struct os_read *read = io_uring_cqe_get_data(entry);
        int result = entry->res;
        io_uring_cqe_seen(&ring->raw, entry);
        if (os_linux_ring_settle(ring, read, result))
            out_reads[count++] = read;
    }
    ring->under_way -= (uint32_t)count;
    return count;
}

static void os_linux_ring_wait(struct os_ring *ring, uint64_t wait_ns)
{
    struct __kernel_timespec limit;
    struct io_uring_cqe *entry;

    if (io_uring_sq_ready(&ring->raw) > 0 && wait_ns > OS_LINUX_RING_RETRY_NS)
        wait_ns = OS_LINUX_RING_RETRY_NS; /* I2: perhaps nothing is under way in the kernel */
    limit.tv_sec = (int64_t)(wait_ns / 1000000000u);
    limit.tv_nsec = (int64_t)(wait_ns % 1000000000u);
    (void)io_uring_wait_cqe_timeout(&ring->raw, &entry, &limit); /* a signal may end it */
}

size_t km__os_linux_end_reads(struct os_ring *ring, struct os_read **out_reads, size_t room,
                              uint64_t wait_ns)
{
    size_t count;

    os_linux_ring_submit(ring);
    count = os_linux_ring_take(ring, out_reads, room);
    os_linux_ring_submit(ring); /* what is left of long reads */
    if (count > 0 || wait_ns == 0 || ring->under_way == 0)
        return count;
    os_linux_ring_wait(ring, wait_ns);
    count = os_linux_ring_take(ring, out_reads, room);
    os_linux_ring_submit(ring);
    return count;
}

#else

km_status km__os_linux_open_ring(struct os *os, uint32_t depth, int notify_fd,
                                 struct os_ring **out_ring)
{
    (void)os;
    (void)depth;
    (void)notify_fd;
    (void)out_ring;
    return km__os_linux_fail_as(KM_E_UNSUPPORTED, 0);
}

/* There is no ring to call the others with. */
void km__os_linux_close_ring(struct os_ring *ring)
{
    (void)ring;
}

void km__os_linux_begin_reads(struct os_ring *ring, struct os_read *const *reads, size_t count)
{
    (void)ring;
    (void)reads;
    (void)count;
}

size_t km__os_linux_end_reads(struct os_ring *ring, struct os_read **out_reads, size_t room,
                              uint64_t wait_ns)
{
    (void)ring;
    (void)out_reads;
    (void)room;
    (void)wait_ns;
    return 0;
}

#endif
