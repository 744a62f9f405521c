/* SPDX-License-Identifier: Apache-2.0
 *
 * os_linux_memory.c -- mappings of files, pages, and small objects.
 *
 * I1. A mapping of a file was no longer than the file when it was made: a caller meets SIGBUS only
 *     when the file is cut short, or the disk fails, afterwards.
 * I2. Each range handed out is released by one munmap() of its size rounded up to whole pages; what
 *     was reserved to align it is given back at once.
 */
#include "os/os_linux_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define READ_AHEAD_PIECE (1 << 20)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ 22 /* Linux 5.14; headers may be older */
#define MADV_POPULATE_WRITE 23
#endif

static size_t os_linux_whole_pages(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    return (size + page - 1) / page * page;
}

void *km__os_linux_reserve_aligned(size_t size)
{
    size_t kept_size = os_linux_whole_pages(size);
    uint8_t *start;
    uint8_t *aligned;
    size_t before_size;
    size_t after_size;

    if (size > SIZE_MAX / 2) {
        errno = ENOMEM;
        return NULL;
    }
    start = mmap(NULL, kept_size + OS_LINUX_HUGE_PAGE, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    before_size = (size_t)(-(uintptr_t)start & (OS_LINUX_HUGE_PAGE - 1));
    after_size = OS_LINUX_HUGE_PAGE - before_size;
    aligned = start + before_size;
    if (before_size > 0)
        munmap(start, before_size);
    if (after_size > 0)
        munmap(aligned + kept_size, after_size);
    return aligned;
}

/* Map the file's first bytes; on 2 MiB boundaries where that can matter. */
static km_status os_linux_map_file(struct os_file *file, size_t size, int protection, int flags,
                                   uint8_t **out_bytes)
{
    void *wanted = NULL;
    void *bytes;

    if (size >= OS_LINUX_HUGE_PAGE) {
        wanted = km__os_linux_reserve_aligned(size);
        if (!wanted)
            return km__os_linux_fail(errno);
        flags |= MAP_FIXED; /* over our own reservation */
    }
    bytes = mmap(wanted, size, protection, flags, file->fd, 0);
    if (bytes == MAP_FAILED) {
        int os_error = errno;
        if (wanted)
            munmap(wanted, os_linux_whole_pages(size));
        return km__os_linux_fail(os_error);
    }
    *out_bytes = bytes;
    return KM_OK;
}

static km_status os_linux_check_mapping(struct os_file *file, uint64_t size)
{
    uint64_t file_size = 0;
    km_status rc;

    if (size == 0)
        return km__os_linux_fail_as(KM_E_INVALID, EINVAL);
    if (size > SIZE_MAX)
        return km__os_linux_fail(ENOMEM);
    rc = km__os_linux_file_size(file, &file_size);
    if (rc)
        return rc;
    if (size > file_size)
        return km__os_linux_fail_as(KM_E_IO, 0); /* I1 */
    return KM_OK;
}

km_status km__os_linux_map_read(struct os_file *file, uint64_t size, const uint8_t **out_bytes)
{
    uint8_t *bytes = NULL;
    km_status rc;

    rc = os_linux_check_mapping(file, size);
    if (rc)
        return rc;
    rc = os_linux_map_file(file, (size_t)size, PROT_READ, MAP_SHARED, &bytes);
    if (rc)
        return rc;
    /*
     * Advice for random reads, and no MADV_HUGEPAGE. Measured on ext4 under Linux 6.18, 64 MiB file
     * written in 4 MiB pieces, one byte at random places:
     *
     *                     cold, us per read    cached: mapped in 2 MiB pages
     *   no advice                     1,100    all of it
     *   RANDOM                           55    all of it
     *   HUGEPAGE                        330    all of it
     *   RANDOM and HUGEPAGE             300    all of it
     *
     * So huge mappings of what is cached need the alignment alone, and each huge page advice
     * makes a cold read fetch 2 MiB. Failure costs speed only.
     */
    (void)!madvise(bytes, (size_t)size, MADV_RANDOM);
    *out_bytes = bytes;
    return KM_OK;
}

void km__os_linux_read_ahead(struct os_file *file, uint64_t size)
{
    /* in pieces: of a longer range the kernel takes only the beginning; a hint, so it may fail */
    for (uint64_t at = 0; at < size; at += READ_AHEAD_PIECE)
        (void)posix_fadvise(file->fd, (off_t)at, READ_AHEAD_PIECE, POSIX_FADV_WILLNEED);
}

km_status km__os_linux_map_shared(struct os_file *file, uint64_t size, uint8_t **out_bytes)
{
    uint8_t *bytes = NULL;
    km_status rc;

    rc = os_linux_check_mapping(file, size);
    if (rc)
        return rc;
    rc = os_linux_map_file(file, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                           &bytes);
    if (rc)
        return rc;
    if (madvise(bytes, (size_t)size, MADV_DONTFORK) != 0) goto fail;
    /* MAP_POPULATE reads the pages in but leaves them write-protected, so that each first store
     * would fault, and on a full disk end in SIGBUS. This makes them writable now, or says why not.
     * EINVAL: the kernel is older than the advice. */
    if (madvise(bytes, (size_t)size, MADV_POPULATE_WRITE) != 0 && errno != EINVAL) goto fail;
    *out_bytes = bytes;
    return KM_OK;
fail:
    rc = km__os_linux_fail(errno);
    munmap(bytes, (size_t)size);
    return rc;
}

void km__os_linux_unmap(struct os *os, const uint8_t *bytes, uint64_t size)
{
    (void)os;
    if (bytes)
        munmap((void *)(uintptr_t)bytes, (size_t)size);
}

static km_status os_linux_fail_pin(int os_error)
{
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY};

    if (os_error == EPERM) /* a limit of nothing at all */
        return km__os_linux_fail_as(KM_E_LIMIT, os_error);
    (void)getrlimit(RLIMIT_MEMLOCK, &limit); /* a failure leaves it without limit */
    if (os_error == ENOMEM && limit.rlim_cur != RLIM_INFINITY)
        return km__os_linux_fail_as(KM_E_LIMIT, os_error);
    return km__os_linux_fail_as(KM_E_NO_MEMORY, os_error);
}

km_status km__os_linux_make_resident(struct os *os, const uint8_t *bytes, uint64_t size,
                                     int must_stay)
{
    uint8_t *start = (uint8_t *)(uintptr_t)bytes;

    (void)os;
    if (size == 0)
        return KM_OK;
    /* First ask for all of it: the mapping is advised for random access, so that each fault by
     * itself would read one page and wait. In pieces, as in read_ahead(). */
    for (uint64_t at = 0; at < size; at += READ_AHEAD_PIECE) {
        uint64_t left = size - at;
        size_t piece = left < READ_AHEAD_PIECE ? (size_t)left : READ_AHEAD_PIECE;
        (void)!madvise(start + at, piece, MADV_WILLNEED);
    }
    /* Then wait for it, and fill the page tables. An old kernel, or a page that cannot be read,
     * ends this early: who needs the bytes will learn of it. */
    (void)!madvise(start, (size_t)size, MADV_POPULATE_READ);
    if (must_stay && mlock(start, (size_t)size) != 0) {
        int os_error = errno;
        (void)munlock(start, (size_t)size); /* a part may be pinned */
        return os_linux_fail_pin(os_error);
    }
    return KM_OK;
}

km_status km__os_linux_fork_word(struct os *os, uint64_t **out_word)
{
    size_t size = os_linux_whole_pages(sizeof(uint64_t));
    uint64_t *word;

    (void)os;
    word = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (word == MAP_FAILED)
        return km__os_linux_fail(errno);
    if (madvise(word, size, MADV_WIPEONFORK) != 0) {
        munmap(word, size);
        word = NULL; /* before Linux 4.14: there is no such thing */
    } else {
        *word = 1;
    }
    *out_word = word;
    return KM_OK;
}

void km__os_linux_release_fork_word(struct os *os, uint64_t *word)
{
    (void)os;
    if (word)
        munmap(word, os_linux_whole_pages(sizeof(*word)));
}

void *km__os_linux_allocate_memory(void *context, size_t size)
{
    (void)context;
    return calloc(1, size > 0 ? size : 1); /* calloc(1, 0) may return NULL, which means failure */
}

void km__os_linux_release_memory(void *context, void *memory, size_t size)
{
    (void)context;
    (void)size;
    free(memory);
}

void *km__os_linux_map_pages(void *context, size_t size)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    void *wanted = NULL;
    void *memory;

    (void)context;
    if (size >= OS_LINUX_HUGE_PAGE) {
        wanted = km__os_linux_reserve_aligned(size);
        if (!wanted)
            return NULL;
        flags |= MAP_FIXED; /* over our own reservation */
    }
    memory = mmap(wanted, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED) {
        if (wanted)
            munmap(wanted, os_linux_whole_pages(size));
        return NULL;
    }
    if (madvise(memory, size, MADV_DONTFORK) != 0) { /* a promise, unlike the next advice */
        munmap(memory, size);
        return NULL;
    }
    if (size >= OS_LINUX_HUGE_PAGE)
        (void)!madvise(memory, size, MADV_HUGEPAGE);
    return memory;
}

void km__os_linux_unmap_pages(void *context, void *memory, size_t size)
{
    (void)context;
    if (memory)
        munmap(memory, size);
}
