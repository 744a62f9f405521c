/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_device.c -- how fast the device answers random reads of 4 KiB that go past the page cache
 * (O_DIRECT): by io_uring, or by a thread for each read under way where that is not to be had.
 */
#include "sealed.h"
#include "ticks.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#ifdef BENCH_HAVE_LIBURING
#include <liburing.h>
#endif

enum { DEVICE_PAGE_SIZE = 4096, DEVICE_DEPTH_MAX = 64 };

struct device {
    int fd;
    uint64_t page_count;
    unsigned depth;
    uint64_t end_ns;
    unsigned char *pages; /* one for each read under way */
    atomic_uint_fast64_t counter;
    atomic_int failed;
};

static uint64_t next_offset(struct device *device)
{
    /* relaxed: only numbers that differ are wanted */
    uint64_t counter = atomic_fetch_add_explicit(&device->counter, 1, memory_order_relaxed);

    return sealed_below(peer_mix(counter), device->page_count) * DEVICE_PAGE_SIZE;
}

/* ---- threads ------------------------------------------------------------------------------ */

struct device_thread {
    struct device *device;
    unsigned char *page;
    pthread_t thread;
};

static void *read_pages(void *opaque)
{
    struct device_thread *self = opaque;
    struct device *device = self->device;

    while (ticks_clock_ns() < device->end_ns) {
        if (pread(device->fd, self->page, DEVICE_PAGE_SIZE, (off_t)next_offset(device)) !=
            DEVICE_PAGE_SIZE) {
            /* relaxed: looked at after the threads have been joined */
            atomic_store_explicit(&device->failed, 1, memory_order_relaxed);
            break;
        }
    }
    return NULL;
}

static void read_by_threads(struct device *device)
{
    struct device_thread threads[DEVICE_DEPTH_MAX];
    unsigned count;
    unsigned i;

    for (count = 0; count < device->depth; count++) {
        threads[count].device = device;
        threads[count].page = device->pages + (size_t)count * DEVICE_PAGE_SIZE;
        if (pthread_create(&threads[count].thread, NULL, read_pages, &threads[count]))
            break;
    }
    for (i = 0; i < count; i++)
        pthread_join(threads[i].thread, NULL);
    if (count < device->depth)
        atomic_store_explicit(&device->failed, 1, memory_order_relaxed); /* joined: see above */
}

/* ---- io_uring ----------------------------------------------------------------------------- */

#ifdef BENCH_HAVE_LIBURING
static void prepare_read(struct device *device, struct io_uring *ring, uint64_t slot)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(ring); /* as many as can be under way: there is */

    io_uring_prep_read(entry, device->fd, device->pages + slot * DEVICE_PAGE_SIZE, DEVICE_PAGE_SIZE,
                       next_offset(device));
    io_uring_sqe_set_data64(entry, slot);
}

/* Take what has been answered, and ask as many reads anew while there is time. */
static unsigned take_answers(struct device *device, struct io_uring *ring)
{
    struct io_uring_cqe *answers[DEVICE_DEPTH_MAX];
    unsigned count = io_uring_peek_batch_cqe(ring, answers, DEVICE_DEPTH_MAX);
    unsigned asked = 0;
    uint64_t slot;
    unsigned i;

    for (i = 0; i < count; i++) {
        slot = io_uring_cqe_get_data64(answers[i]);
        if (answers[i]->res != DEVICE_PAGE_SIZE)
            atomic_store_explicit(&device->failed, 1, memory_order_relaxed); /* one thread */
        if (ticks_clock_ns() >= device->end_ns)
            continue;
        prepare_read(device, ring, slot);
        asked++;
    }
    io_uring_cq_advance(ring, count);
    return count - asked;
}

static int read_by_ring(struct device *device)
{
    struct io_uring ring;
    unsigned under_way = device->depth;
    unsigned slot;

    if (io_uring_queue_init(DEVICE_DEPTH_MAX, &ring, 0) < 0)
        return -1;
    for (slot = 0; slot < device->depth; slot++)
        prepare_read(device, &ring, slot);
    while (under_way) {
        if (io_uring_submit_and_wait(&ring, 1) < 0) {
            atomic_store_explicit(&device->failed, 1, memory_order_relaxed); /* one thread */
            break;
        }
        under_way -= take_answers(device, &ring);
    }
    io_uring_queue_exit(&ring);
    return 0;
}

const char *sealed_device_manner(void)
{
    return "O_DIRECT, io_uring, one thread";
}
#else
static int read_by_ring(struct device *device)
{
    (void)device;
    return -1;
}

const char *sealed_device_manner(void)
{
    return "O_DIRECT, pread, a thread for each read under way";
}
#endif

double sealed_device_ns(const char *path, uint64_t file_size, unsigned depth, unsigned ms)
{
    struct device device = {.page_count = file_size / DEVICE_PAGE_SIZE, .depth = depth};
    uint64_t start;
    double ns = -1;

    device.fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (device.fd < 0 || !device.page_count || depth > DEVICE_DEPTH_MAX) goto out;
    if (posix_memalign((void **)&device.pages, DEVICE_PAGE_SIZE, (size_t)depth * DEVICE_PAGE_SIZE))
        goto out;
    start = ticks_clock_ns();
    atomic_init(&device.counter, start);
    device.end_ns = start + (uint64_t)ms * 1000000;
    if (read_by_ring(&device))
        read_by_threads(&device);
    if (!atomic_load_explicit(&device.failed, memory_order_relaxed)) /* all threads have ended */
        ns = (double)(ticks_clock_ns() - start) /
             (double)(atomic_load_explicit(&device.counter, memory_order_relaxed) - start);
out:
    free(device.pages);
    if (device.fd >= 0)
        close(device.fd);
    return ns;
}
