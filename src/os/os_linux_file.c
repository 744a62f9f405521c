/* SPDX-License-Identifier: Apache-2.0
 *
 * os_linux_file.c -- regular files: reading, writing, reserving, syncing, locking.
 *
 * I1. A handle is of a regular file that was reached through no symbolic link. The open waits for
 *     nobody, whatever stands at the name.
 * I2. The bytes of a write are all in the page cache when it returns KM_OK; no call is tried again
 *     after an error but EINTR.
 * I3. A lock is given up by the process that took it: by an unlock, its close, or its end. A child
 *     that unlocks or closes its copy of the handle leaves the parent's lock alone.
 */
#include "os/os_linux_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define OS_LINUX_ZEROS_SIZE ((size_t)64 << 10)

static int os_linux_open_flags(enum os_open_mode mode)
{
    /* O_NONBLOCK, since the open of a FIFO or a device could wait; regular files ignore it. */
    int flags = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

    switch (mode) {
    case OS_OPEN_WRITE: return flags | O_RDWR;
    case OS_CREATE_NEW: return flags | O_RDWR | O_CREAT | O_EXCL;
    case OS_OPEN_READ:
    default: return flags | O_RDONLY;
    }
}

static km_status os_linux_open_regular(int dir_fd, const char *name, enum os_open_mode mode,
                                       int *out_fd)
{
    struct stat status;
    km_status rc = KM_OK;
    int fd = openat(dir_fd, name, os_linux_open_flags(mode), 0600);

    if (fd < 0)
        return km__os_linux_fail(errno);
    if (fstat(fd, &status) != 0) {
        rc = km__os_linux_fail(errno);
    } else if (!S_ISREG(status.st_mode)) {
        rc = km__os_linux_fail_as(KM_E_INVALID, S_ISDIR(status.st_mode) ? EISDIR : EINVAL);
    }
    if (rc) {
        close(fd);
        return rc;
    }
    *out_fd = fd;
    return KM_OK;
}

km_status km__os_linux_open_file(struct os_dir *dir, const char *name, enum os_open_mode mode,
                                 struct os_file **out_file)
{
    struct os_file *file;
    km_status rc;

    if (!km__os_linux_name_is_valid(name))
        return km__os_linux_fail_as(KM_E_INVALID, EINVAL);
    file = km__allocate(&dir->os->allocator, sizeof(*file)); /* before the open may create a file */
    if (!file)
        return km__os_linux_fail_as(KM_E_NO_MEMORY, ENOMEM);
    file->os = dir->os;
    rc = os_linux_open_regular(dir->fd, name, mode, &file->fd);
    if (rc) {
        km__release(&dir->os->allocator, file, sizeof(*file));
        return rc;
    }
    *out_file = file;
    return KM_OK;
}

/* Size 0: to the end of all offsets. */
static int os_linux_set_ofd_lock(int fd, short type, uint64_t start, uint64_t size)
{
    struct flock range = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)start, .l_len = (off_t)size};

    return fcntl(fd, F_OFD_SETLK, &range);
}

static short os_linux_lock_type(enum os_lock kind)
{
    return kind == OS_LOCK_EXCLUSIVE ? F_WRLCK : F_RDLCK;
}

void km__os_linux_close_file(struct os_file *file)
{
    if (!file)
        return;
    /* A child has our open file description too, and with it the locks, until it ends or execs: our
     * close alone would not free them (I3). Of which sort they are does not matter: giving up what
     * one has not is no error. Relaxed: whoever locked did so before the handle came here. */
    if (atomic_load_explicit(&file->lock_pid, memory_order_relaxed) == (uint32_t)getpid()) {
        (void)os_linux_set_ofd_lock(file->fd, F_UNLCK, 0, 0);
        (void)flock(file->fd, LOCK_UN);
    }
    close(file->fd); /* nothing to learn: what had to be on disk was synced */
    km__release(&file->os->allocator, file, sizeof(*file));
}

/* What an attempt to lock came to; errno is of it. */
static km_status os_linux_finish_lock(struct os_file *file, int failed)
{
    if (failed && (errno == EAGAIN || errno == EACCES)) {
        return km__os_linux_fail_as(KM_E_LOCKED, errno);
    }
    if (failed)
        return km__os_linux_fail(errno);
    /* relaxed: all threads of the process store the same number */
    atomic_store_explicit(&file->lock_pid, (uint32_t)getpid(), memory_order_relaxed);
    return KM_OK;
}

km_status km__os_linux_lock(struct os_file *file, enum os_lock kind)
{
    int failed = os_linux_set_ofd_lock(file->fd, os_linux_lock_type(kind), 0, OS_LOCK_SIZE) != 0;

    if (failed && errno == EINVAL) { /* a kernel or file system without OFD locks */
        failed = flock(file->fd, (kind == OS_LOCK_EXCLUSIVE ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0;
    }
    return os_linux_finish_lock(file, failed);
}

static int os_linux_is_lock_offset(uint64_t start)
{
    return start >= OS_LOCK_SIZE && start < INT64_MAX;
}

km_status km__os_linux_lock_range(struct os_file *file, uint64_t start, enum os_lock kind)
{
    int failed;

    if (!os_linux_is_lock_offset(start))
        return km__os_linux_fail_as(KM_E_INVALID, EINVAL);
    failed = os_linux_set_ofd_lock(file->fd, os_linux_lock_type(kind), start, 1) != 0;
    if (failed && errno == EINVAL) /* flock() has no ranges to fall back on */
        return km__os_linux_fail_as(KM_E_UNSUPPORTED, errno);
    return os_linux_finish_lock(file, failed);
}

km_status km__os_linux_unlock_range(struct os_file *file, uint64_t start)
{
    if (!os_linux_is_lock_offset(start))
        return km__os_linux_fail_as(KM_E_INVALID, EINVAL);
    /* relaxed: a thread sees its own lock, or was handed it */
    if (atomic_load_explicit(&file->lock_pid, memory_order_relaxed) != (uint32_t)getpid())
        return KM_OK; /* nothing of ours, and what is the parent's stays (I3) */
    if (os_linux_set_ofd_lock(file->fd, F_UNLCK, start, 1) != 0 && errno != EINVAL)
        return km__os_linux_fail(errno);
    return KM_OK;
}

int km__os_linux_is_range_locked(struct os_file *file, uint64_t start, uint64_t size)
{
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    if (size == 0 || start > INT64_MAX)
        return 0;
    range.l_start = (off_t)start;
    range.l_len = size > INT64_MAX - start ? 0 : (off_t)size; /* 0: to the end of all offsets */
    return fcntl(file->fd, F_OFD_GETLK, &range) == 0 && range.l_type != F_UNLCK;
}

km_status km__os_linux_file_size(struct os_file *file, uint64_t *out_size)
{
    struct stat status;

    if (fstat(file->fd, &status) != 0)
        return km__os_linux_fail(errno);
    *out_size = (uint64_t)status.st_size;
    return KM_OK;
}

km_status km__os_linux_read_at(struct os_file *file, uint64_t offset, void *buffer, size_t size)
{
    uint8_t *next = buffer;

    while (size > 0) {
        ssize_t got = pread(file->fd, next, size, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return km__os_linux_fail(errno);
        if (got == 0)
            return km__os_linux_fail_as(KM_E_IO, 0); /* the file ends before */
        next += got;
        offset += (uint64_t)got;
        size -= (size_t)got;
    }
    return KM_OK;
}

km_status km__os_linux_read_cached(struct os_file *file, uint64_t offset, void *buffer, size_t size)
{
    struct iovec whole = {.iov_base = buffer, .iov_len = size};
    ssize_t got;

    do {
        got = preadv2(file->fd, &whole, 1, (off_t)offset, RWF_NOWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
        return km__os_linux_fail_as(KM_E_UNSUPPORTED, errno);
    if (got < 0 && errno != EAGAIN)
        return km__os_linux_fail(errno);
    if (got == 0 && size > 0)
        return km__os_linux_fail_as(KM_E_IO, 0); /* the file ends before */
    return got >= 0 && (size_t)got == size ? KM_OK : KM_WOULD_BLOCK;
}

void km__os_linux_read_soon(struct os_file *file, uint64_t offset, uint64_t size)
{
    (void)posix_fadvise(file->fd, (off_t)offset, (off_t)size, POSIX_FADV_WILLNEED); /* a hint */
}

/* The kernel answers growth over the process's file size limit with SIGXFSZ, which kills: find it
 * first. (EFBIG, an error that the caller can live with.) */
static km_status os_linux_check_size_limit(uint64_t end)
{
    struct rlimit limit;

    if (end > INT64_MAX)
        return km__os_linux_fail(EFBIG);
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0)
        return KM_OK;
    if (limit.rlim_cur != RLIM_INFINITY && end > limit.rlim_cur)
        return km__os_linux_fail(EFBIG);
    return KM_OK;
}

km_status km__os_linux_write_at(struct os_file *file, uint64_t offset, const void *bytes,
                                size_t size)
{
    const uint8_t *next = bytes;
    km_status rc;

    rc = os_linux_check_size_limit(offset > UINT64_MAX - size ? UINT64_MAX : offset + size);
    if (rc)
        return rc;
    while (size > 0) {
        ssize_t put = pwrite(file->fd, next, size, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return km__os_linux_fail(errno);
        if (put == 0)
            return km__os_linux_fail(EIO); /* no progress and no reason given */
        next += put;
        offset += (uint64_t)put;
        size -= (size_t)put;
    }
    return KM_OK;
}

static int os_linux_set_size(int fd, uint64_t size)
{
    int failed;

    do {
        failed = ftruncate(fd, (off_t)size);
    } while (failed && errno == EINTR);
    return failed;
}

/* For file systems that cannot reserve: write zeros from the end on. What lay before it stays. */
static km_status os_linux_append_zeros(struct os_file *file, uint64_t offset, uint64_t end)
{
    static const uint8_t zeros[OS_LINUX_ZEROS_SIZE];

    while (offset < end) {
        uint64_t left = end - offset;
        size_t size = left < sizeof(zeros) ? (size_t)left : sizeof(zeros);
        km_status rc = km__os_linux_write_at(file, offset, zeros, size);
        if (rc)
            return rc;
        offset += size;
    }
    return KM_OK;
}

static km_status os_linux_reserve(struct os_file *file, uint64_t old_size, uint64_t size)
{
    int failed;

    do {
        failed = fallocate(file->fd, 0, 0, (off_t)size);
    } while (failed && errno == EINTR);
    if (!failed)
        return KM_OK;
    if (errno == EOPNOTSUPP || errno == ENOSYS)
        return os_linux_append_zeros(file, old_size, size);
    return km__os_linux_fail(errno);
}

km_status km__os_linux_allocate(struct os_file *file, uint64_t size)
{
    uint64_t old_size = 0;
    km_status rc;

    rc = km__os_linux_file_size(file, &old_size);
    if (rc)
        return rc;
    rc = os_linux_check_size_limit(size);
    if (rc)
        return rc;
    if (size < old_size || size == 0) {
        if (os_linux_set_size(file->fd, size) != 0)
            return km__os_linux_fail(errno);
        if (size == 0)
            return KM_OK;
    }
    rc = os_linux_reserve(file, old_size, size);
    if (rc && size > old_size) {
        /* Give back what a full disk had room for. Failing that, it is only space. */
        (void)!os_linux_set_size(file->fd, old_size);
    }
    return rc;
}

km_status km__os_linux_sync(struct os_file *file)
{
    /* Whatever the cause, even "no space" of delayed allocation: the written bytes are in doubt, so
     * it is never the clean KM_E_FULL. */
    if (fdatasync(file->fd) != 0)
        return km__os_linux_fail_as(KM_E_IO, errno);
    return KM_OK;
}
