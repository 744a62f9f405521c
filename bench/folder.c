/* SPDX-License-Identifier: Apache-2.0
 *
 * folder.c -- the folders that the benchmark makes, measures and removes.
 *
 * F1. Only folders that this program made itself are removed: callers pass no others.
 */
#include "bench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { FOLDER_DESCRIPTOR_MAX = 16 };

int folder_make(const char *path)
{
    if (mkdir(path, 0700) && errno != EEXIST) {
        perror(path);
        return -1;
    }
    return 0;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status;
    (void)kind;
    (void)place;
    return remove(path);
}

int folder_remove(const char *path)
{
    if (nftw(path, remove_entry, FOLDER_DESCRIPTOR_MAX, FTW_DEPTH | FTW_PHYS) && errno != ENOENT) {
        perror(path);
        return -1;
    }
    return 0;
}

void folder_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || syncfs(fd))
        perror(path);
    if (fd >= 0)
        close(fd);
}

uint64_t folder_free_bytes(const char *path)
{
    struct statvfs space;

    if (statvfs(path, &space))
        return 0;
    return (uint64_t)space.f_bavail * space.f_frsize;
}

/* nftw passes no context to its visitor. */
static uint64_t counted_bytes;

static int count_entry(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)path;
    (void)place;
    if (kind == FTW_F)
        counted_bytes += (uint64_t)status->st_blocks * 512;
    return 0;
}

uint64_t folder_disk_bytes(const char *path)
{
    counted_bytes = 0;
    if (nftw(path, count_entry, FOLDER_DESCRIPTOR_MAX, FTW_PHYS))
        perror(path);
    return counted_bytes;
}

uint64_t folder_largest_file(const char *path)
{
    DIR *folder = opendir(path);
    struct dirent *entry;
    struct stat status;
    uint64_t largest = 0;

    if (!folder)
        return 0;
    while ((entry = readdir(folder))) {
        if (!fstatat(dirfd(folder), entry->d_name, &status, 0) && S_ISREG(status.st_mode) &&
            (uint64_t)status.st_size > largest)
            largest = (uint64_t)status.st_size;
    }
    closedir(folder);
    return largest;
}

static int drop_entry(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    int fd = kind == FTW_F ? open(path, O_RDONLY | O_CLOEXEC) : -1;

    (void)status;
    (void)place;
    if (fd >= 0) {
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
    return 0;
}

void folder_drop_cache(const char *path)
{
    folder_sync(path); /* what is dirty cannot be dropped */
    if (nftw(path, drop_entry, FOLDER_DESCRIPTOR_MAX, FTW_PHYS))
        perror(path);
}

const char *folder_filesystem(const char *path)
{
    static const struct {
        unsigned long magic;
        const char *name;
    } known[] = {
        {0xef53, "ext2/3/4"},  {0x58465342, "xfs"},  {0x9123683e, "btrfs"},
        {0x01021994, "tmpfs"}, {0xf2f52010, "f2fs"}, {0x794c7630, "overlayfs"},
        {0x2fc12fc1, "zfs"},   {0x6969, "nfs"},
    };
    struct statfs status;
    size_t i;

    if (statfs(path, &status))
        return "unknown";
    for (i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if ((unsigned long)status.f_type == known[i].magic)
            return known[i].name;
    }
    return "other";
}
