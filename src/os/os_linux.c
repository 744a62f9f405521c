/* SPDX-License-Identifier: Apache-2.0
 *
 * os_linux.c -- the platform table for Linux: errors, clocks, random bytes, processes.
 *
 * I1. Every call that returns an error has first kept its errno for last_error() of that thread;
 *     calls that return nothing leave that errno as it is.
 * I2. No call is tried again after an error, but for EINTR before anything was done: after a failed
 *     write or sync the kernel may have dropped the pages, and a second success would be a lie.
 *
 * Folders are in os_linux_dir.c, files and locks in os_linux_file.c, mappings and memory in
 * os_linux_memory.c.
 */
#include "os/os_linux_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* What a C library would keep in errno: it belongs to the thread, not to a store. */
static _Thread_local int os_linux_last_error;

km_status km__os_linux_fail_as(km_status status, int os_error)
{
    os_linux_last_error = os_error;
    return status;
}

km_status km__os_linux_fail(int os_error)
{
    km_status status = KM_E_IO;

    switch (os_error) {
    case ENOENT: status = KM_NOT_FOUND; break;
    case EEXIST: status = KM_EXISTS; break;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: status = KM_E_FULL; break;
    case EMFILE:
    case ENFILE: status = KM_E_LIMIT; break;
    case ENOMEM: status = KM_E_NO_MEMORY; break;
    case ELOOP: /* O_NOFOLLOW met a symbolic link */
    case EISDIR:
    case ENOTDIR:
    case ENXIO: /* open of a socket, or of a device without a driver */
    case ENAMETOOLONG: status = KM_E_INVALID; break;
    default: break;
    }
    return km__os_linux_fail_as(status, os_error);
}

static int os_linux_get_last_error(struct os *os)
{
    (void)os;
    return os_linux_last_error;
}

static uint64_t os_linux_now_ns(struct os *os)
{
    struct timespec now;

    (void)os;
    clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail: the clock exists since Linux 2.6 */
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static uint64_t os_linux_wall_ms(struct os *os)
{
    struct timespec now;

    (void)os;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec < 0)
        return 0; /* a clock set before 1970 */
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static km_status os_linux_random(struct os *os, void *bytes, size_t size)
{
    uint8_t *next = bytes;

    (void)os;
    while (size > 0) {
        ssize_t got = getrandom(next, size, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return km__os_linux_fail_as(KM_E_IO, errno);
        next += got;
        size -= (size_t)got;
    }
    return KM_OK;
}

static int os_linux_hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* Text such as 01234567-89ab-cdef-0123-456789abcdef. All zeros unless it has 32 hex digits. */
static void os_linux_parse_boot_id(const char *text, size_t size, uint8_t id[OS_BOOT_ID_SIZE])
{
    size_t digit_count = 0;
    size_t i;

    memset(id, 0, OS_BOOT_ID_SIZE);
    for (i = 0; i < size && digit_count < 2 * OS_BOOT_ID_SIZE; i++) {
        int digit = os_linux_hex_digit(text[i]);
        if (digit < 0)
            continue;
        id[digit_count / 2] = (uint8_t)(id[digit_count / 2] << 4 | digit);
        digit_count++;
    }
    if (digit_count < 2 * OS_BOOT_ID_SIZE)
        memset(id, 0, OS_BOOT_ID_SIZE);
}

static void os_linux_boot_id(struct os *os, uint8_t id[OS_BOOT_ID_SIZE])
{
    char text[64];
    ssize_t size = -1;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

    (void)os;
    if (fd >= 0) {
        size = read(fd, text, sizeof(text));
        close(fd);
    }
    os_linux_parse_boot_id(text, size > 0 ? (size_t)size : 0, id);
}

static uint32_t os_linux_process_id(struct os *os)
{
    (void)os;
    return (uint32_t)getpid();
}

static int os_linux_process_exists(struct os *os, uint32_t process_id)
{
    (void)os;
    if (process_id == 0 || process_id > INT_MAX)
        return 0; /* kill() would take it as a group */
    return kill((pid_t)process_id, 0) == 0 || errno == EPERM;
}

static uint32_t os_linux_processor_count(struct os *os)
{
    cpu_set_t set;
    long online;

    (void)os;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) {
        return (uint32_t)CPU_COUNT(&set);
    }
    online = sysconf(_SC_NPROCESSORS_ONLN); /* more processors than the set has bits */
    return online > 0 ? (uint32_t)online : 1;
}

static km_status os_linux_open_notify_fd(struct os *os, int *out_fd)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    (void)os;
    if (fd < 0)
        return km__os_linux_fail(errno);
    *out_fd = fd;
    return KM_OK;
}

static void os_linux_notify_fd(struct os *os, int fd)
{
    uint64_t one = 1;
    ssize_t size;

    (void)os;
    do {
        size = write(fd, &one, sizeof(one));
    } while (size < 0 && errno == EINTR);
    /* EAGAIN: the counter is at its maximum, so the descriptor is readable already. */
}

static void os_linux_clear_notify_fd(struct os *os, int fd)
{
    uint64_t count;
    ssize_t size;

    (void)os;
    do {
        size = read(fd, &count, sizeof(count));
    } while (size < 0 && errno == EINTR);
    /* EAGAIN: it was not readable. */
}

static void os_linux_close_notify_fd(struct os *os, int fd)
{
    (void)os;
    if (fd >= 0)
        close(fd);
}

static const struct os_ops os_linux_ops = {
    .open_dir = km__os_linux_open_dir,
    .create_dir = km__os_linux_create_dir,
    .open_subdir = km__os_linux_open_subdir,
    .create_subdir = km__os_linux_create_subdir,
    .close_dir = km__os_linux_close_dir,
    .sync_dir = km__os_linux_sync_dir,
    .list = km__os_linux_list,
    .rename = km__os_linux_rename,
    .unlink = km__os_linux_unlink,
    .link = km__os_linux_link,
    .remove_subdir = km__os_linux_remove_subdir,
    .exchange = km__os_linux_exchange,
    .open_file = km__os_linux_open_file,
    .close_file = km__os_linux_close_file,
    .file_size = km__os_linux_file_size,
    .read_at = km__os_linux_read_at,
    .read_cached = km__os_linux_read_cached,
    .read_soon = km__os_linux_read_soon,
    .write_at = km__os_linux_write_at,
    .allocate = km__os_linux_allocate,
    .sync = km__os_linux_sync,
    .open_ring = km__os_linux_open_ring,
    .close_ring = km__os_linux_close_ring,
    .begin_reads = km__os_linux_begin_reads,
    .end_reads = km__os_linux_end_reads,
    .map_read = km__os_linux_map_read,
    .read_ahead = km__os_linux_read_ahead,
    .map_shared = km__os_linux_map_shared,
    .unmap = km__os_linux_unmap,
    .make_resident = km__os_linux_make_resident,
    .lock = km__os_linux_lock,
    .lock_range = km__os_linux_lock_range,
    .unlock_range = km__os_linux_unlock_range,
    .is_range_locked = km__os_linux_is_range_locked,
    .now_ns = os_linux_now_ns,
    .wall_ms = os_linux_wall_ms,
    .random = os_linux_random,
    .boot_id = os_linux_boot_id,
    .process_id = os_linux_process_id,
    .process_exists = os_linux_process_exists,
    .processor_count = os_linux_processor_count,
    .fork_word = km__os_linux_fork_word,
    .release_fork_word = km__os_linux_release_fork_word,
    .open_notify_fd = os_linux_open_notify_fd,
    .notify_fd = os_linux_notify_fd,
    .clear_notify_fd = os_linux_clear_notify_fd,
    .close_notify_fd = os_linux_close_notify_fd,
    .last_error = os_linux_get_last_error,
};

struct os *km__os_linux(void)
{
    static struct os machine = {
        /* never changed; not const only because tables are passed so */
        .ops = &os_linux_ops,
        .allocator =
            {
                .context = NULL,
                .allocate = km__os_linux_allocate_memory,
                .release = km__os_linux_release_memory,
                .map_pages = km__os_linux_map_pages,
                .unmap_pages = km__os_linux_unmap_pages,
            },
    };

    return &machine;
}
