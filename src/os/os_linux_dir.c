/* SPDX-License-Identifier: Apache-2.0
 *
 * os_linux_dir.c -- folders: opened once, then everything in them by name relative to the handle.
 *
 * I1. A name is a single component, so no call can leave its folder.
 * I2. The store's own path may lead through symbolic links, as its owner chose; below it no link is
 *     followed, since others may have planted it.
 */
#include "os/os_linux_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OS_LINUX_DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK)

int km__os_linux_name_is_valid(const char *name)
{
    if (name[0] == '\0' || strchr(name, '/'))
        return 0;
    return strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static km_status os_linux_open_dir_at(struct os *os, int parent_fd, const char *path,
                                      int extra_flags, struct os_dir **out_dir)
{
    struct os_dir *dir = km__allocate(&os->allocator, sizeof(*dir));

    if (!dir)
        return km__os_linux_fail_as(KM_E_NO_MEMORY, ENOMEM);
    dir->os = os;
    dir->fd = openat(parent_fd, path, OS_LINUX_DIR_FLAGS | extra_flags);
    if (dir->fd < 0) {
        int os_error = errno;
        km__release(&os->allocator, dir, sizeof(*dir));
        return km__os_linux_fail(os_error);
    }
    *out_dir = dir;
    return KM_OK;
}

km_status km__os_linux_open_dir(struct os *os, const char *path, struct os_dir **out_dir)
{
    return os_linux_open_dir_at(os, AT_FDCWD, path, 0, out_dir);
}

km_status km__os_linux_open_subdir(struct os_dir *dir, const char *name, struct os_dir **out_dir)
{
    if (!km__os_linux_name_is_valid(name))
        return km__os_linux_fail_as(KM_E_INVALID, EINVAL);
    return os_linux_open_dir_at(dir->os, dir->fd, name, O_NOFOLLOW, out_dir);
}

void km__os_linux_close_dir(struct os_dir *dir)
{
    if (!dir)
        return;
    close(dir->fd); /* nothing was written through it that close could report */
    km__release(&dir->os->allocator, dir, sizeof(*dir));
}

static km_status os_linux_sync_dir_fd(int fd)
{
    if (fsync(fd) != 0)
        return km__os_linux_fail_as(KM_E_IO, errno);
    return KM_OK;
}

/* Cut the last component, and the slashes around it, off a path that has one. */
static void os_linux_cut_to_parent(char *path)
{
    size_t size = strlen(path);

    while (size > 0 && path[size - 1] == '/') {
        size--;
    }
    while (size > 0 && path[size - 1] != '/') {
        size--;
    }
    while (size > 1 && path[size - 1] == '/') {
        size--;
    }
    path[size] = '\0';
    if (size == 0)
        strcpy(path, ".");
}

km_status km__os_linux_create_dir(struct os *os, const char *path)
{
    char parent[PATH_MAX]; /* mkdir() itself refuses longer paths */
    size_t size = strlen(path);
    km_status rc, made;
    int fd;

    (void)os;
    if (size == 0)
        return km__os_linux_fail(ENOENT);
    if (size >= sizeof(parent))
        return km__os_linux_fail(ENAMETOOLONG);
    memcpy(parent, path, size + 1);
    made = mkdir(path, 0700) == 0 ? KM_OK : km__os_linux_fail(errno);
    if (made && made != KM_EXISTS)
        return made;
    os_linux_cut_to_parent(parent);
    fd = open(parent, OS_LINUX_DIR_FLAGS);
    rc = fd < 0 ? km__os_linux_fail(errno) : os_linux_sync_dir_fd(fd);
    if (fd >= 0)
        close(fd);
    if (rc && !made)
        rmdir(path); /* not durable: it must not be taken for one that is */
    return rc ? rc : made;
}

km_status km__os_linux_create_subdir(struct os_dir *dir, const char *name)
{
    if (!km__os_linux_name_is_valid(name))
        return km__os_linux_fail_as(KM_E_INVALID, EINVAL);
    if (mkdirat(dir->fd, name, 0700) != 0)
        return km__os_linux_fail(errno);
    return KM_OK;
}

km_status km__os_linux_sync_dir(struct os_dir *dir)
{
    return os_linux_sync_dir_fd(dir->fd);
}

static km_status
os_linux_visit_all(DIR *stream, km_status (*visit)(void *context, const char *name), void *context)
{
    for (;;) {
        struct dirent *entry;
        km_status rc;

        errno = 0; /* readdir() returns NULL at the end as well as on an error */
        entry = readdir(stream);
        if (!entry && errno != 0)
            return km__os_linux_fail(errno);
        if (!entry)
            return KM_OK;
        if (!km__os_linux_name_is_valid(entry->d_name))
            continue; /* . and .. */
        rc = visit(context, entry->d_name);
        if (rc)
            return rc;
    }
}

km_status km__os_linux_list(struct os_dir *dir, km_status (*visit)(void *context, const char *name),
                            void *context)
{
    /* A description of its own, since a duplicate would share its position with other lists. */
    int fd = openat(dir->fd, ".", OS_LINUX_DIR_FLAGS);
    DIR *stream;
    km_status rc;

    if (fd < 0)
        return km__os_linux_fail(errno);
    stream = fdopendir(fd);
    if (!stream) {
        int os_error = errno;
        close(fd);
        return km__os_linux_fail(os_error);
    }
    rc = os_linux_visit_all(stream, visit, context);
    closedir(stream);
    return rc;
}

km_status km__os_linux_rename(struct os_dir *dir, const char *from, const char *to)
{
    if (!km__os_linux_name_is_valid(from) || !km__os_linux_name_is_valid(to)) {
        return km__os_linux_fail_as(KM_E_INVALID, EINVAL);
    }
    if (renameat(dir->fd, from, dir->fd, to) != 0) {
        /* A folder that is not empty in the way: EEXIST or ENOTEMPTY, by file system. */
        return km__os_linux_fail(errno == EEXIST ? ENOTEMPTY : errno);
    }
    return KM_OK;
}

km_status km__os_linux_unlink(struct os_dir *dir, const char *name)
{
    if (!km__os_linux_name_is_valid(name))
        return km__os_linux_fail_as(KM_E_INVALID, EINVAL);
    if (unlinkat(dir->fd, name, 0) != 0)
        return km__os_linux_fail(errno);
    return KM_OK;
}
