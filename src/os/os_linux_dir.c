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

/* Open the folder in which the last component of `path` is. */
static km_status os_linux_open_parent(const char *path, int *out_fd)
{
    char parent[PATH_MAX]; /* the kernel itself refuses longer paths */
    size_t size = strlen(path);

    if (size == 0)
        return km__os_linux_fail(ENOENT);
    if (size >= sizeof(parent))
        return km__os_linux_fail(ENAMETOOLONG);
    memcpy(parent, path, size + 1);
    os_linux_cut_to_parent(parent);
    *out_fd = open(parent, OS_LINUX_DIR_FLAGS);
    return *out_fd < 0 ? km__os_linux_fail(errno) : KM_OK;
}

km_status km__os_linux_create_dir(struct os *os, const char *path)
{
    km_status rc, made;
    int fd = -1;

    (void)os;
    made = mkdir(path, 0700) == 0 ? KM_OK : km__os_linux_fail(errno);
    if (made && made != KM_EXISTS)
        return made;
    rc = os_linux_open_parent(path, &fd);
    if (!rc)
        rc = os_linux_sync_dir_fd(fd);
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

/* What the name itself stands for, a symbolic link not followed. */
static km_status os_linux_stat_name(int dir_fd, const char *name, struct stat *out_status)
{
    if (fstatat(dir_fd, name, out_status, AT_SYMLINK_NOFOLLOW) != 0)
        return km__os_linux_fail(errno);
    return KM_OK;
}

/* A link to a folder is EPERM, like a link that is not allowed, and one to a symbolic link is made:
 * hence the look before. Who exchanges the file in between gets a name that no open accepts. */
static km_status os_linux_check_linkable(int dir_fd, const char *name)
{
    struct stat status;
    km_status rc = os_linux_stat_name(dir_fd, name, &status);

    if (rc)
        return rc;
    if (S_ISDIR(status.st_mode))
        return km__os_linux_fail(EISDIR);
    if (S_ISLNK(status.st_mode))
        return km__os_linux_fail(ELOOP);
    return S_ISREG(status.st_mode) ? KM_OK : km__os_linux_fail_as(KM_E_INVALID, EINVAL);
}

km_status km__os_linux_link(struct os_dir *from_dir, const char *from, struct os_dir *to_dir,
                            const char *to)
{
    km_status rc;

    if (!km__os_linux_name_is_valid(from) || !km__os_linux_name_is_valid(to)) {
        return km__os_linux_fail_as(KM_E_INVALID, EINVAL);
    }
    rc = os_linux_check_linkable(from_dir->fd, from);
    if (rc)
        return rc;
    if (linkat(from_dir->fd, from, to_dir->fd, to, 0) == 0)
        return KM_OK;
    switch (errno) {
    case EXDEV:
    case EPERM: /* no links here, or none to a file of somebody else */
    case EMLINK:
    case EOPNOTSUPP:
    case ENOSYS: return km__os_linux_fail_as(KM_E_UNSUPPORTED, errno);
    default: return km__os_linux_fail(errno);
    }
}

km_status km__os_linux_remove_subdir(struct os_dir *dir, const char *name)
{
    if (!km__os_linux_name_is_valid(name))
        return km__os_linux_fail_as(KM_E_INVALID, EINVAL);
    if (unlinkat(dir->fd, name, AT_REMOVEDIR) == 0)
        return KM_OK;
    if (errno == EEXIST || errno == ENOTEMPTY) /* by file system */
        return km__os_linux_fail_as(KM_E_INVALID, ENOTEMPTY);
    return km__os_linux_fail(errno);
}

static km_status os_linux_check_folder(const char *path)
{
    struct stat status;
    km_status rc = os_linux_stat_name(AT_FDCWD, path, &status);

    if (rc)
        return rc;
    return S_ISDIR(status.st_mode) ? KM_OK : km__os_linux_fail(ENOTDIR);
}

static km_status os_linux_check_same_folder(int fd_a, int fd_b)
{
    struct stat a;
    struct stat b;

    if (fstat(fd_a, &a) != 0 || fstat(fd_b, &b) != 0)
        return km__os_linux_fail(errno);
    if (a.st_dev != b.st_dev || a.st_ino != b.st_ino)
        return km__os_linux_fail_as(KM_E_INVALID, EINVAL);
    return KM_OK;
}

static km_status os_linux_swap_names(const char *path_a, const char *path_b)
{
    if (renameat2(AT_FDCWD, path_a, AT_FDCWD, path_b, RENAME_EXCHANGE) == 0)
        return KM_OK;
    switch (errno) {
    case EINVAL: /* the file system knows no exchange */
    case ENOSYS:
    case EOPNOTSUPP:
    case EXDEV: /* a folder of a lower layer */
    case EBUSY: return km__os_linux_fail_as(KM_E_UNSUPPORTED, errno); /* a mount point */
    default: return km__os_linux_fail(errno);
    }
}

km_status km__os_linux_exchange(struct os *os, const char *path_a, const char *path_b)
{
    int parent_a = -1;
    int parent_b = -1;
    km_status rc;

    (void)os;
    rc = os_linux_open_parent(path_a, &parent_a);
    if (rc) goto out;
    rc = os_linux_open_parent(path_b, &parent_b);
    if (rc) goto out;
    rc = os_linux_check_same_folder(parent_a, parent_b); /* one sync is for both names */
    if (rc) goto out;
    rc = os_linux_check_folder(path_a);
    if (rc) goto out;
    rc = os_linux_check_folder(path_b);
    if (rc) goto out;
    rc = os_linux_swap_names(path_a, path_b);
    if (rc) goto out;
    rc = os_linux_sync_dir_fd(parent_a);
out:
    if (parent_a >= 0)
        close(parent_a);
    if (parent_b >= 0)
        close(parent_b);
    return rc;
}
