/* SPDX-License-Identifier: Apache-2.0
 *
 * backup_set.c -- a folder of backups whose names tell when they were begun.
 *
 * I1. A name is YYYYMMDDTHHMMSSZ, in UTC, with -2, -3 ... where several begin in one second. What
 *     has any other name, or is no folder that holds IDENTITY, MARKS and log, is none of ours.
 * I2. Nothing but files of the names that a backup has is ever removed, and no link is followed. A
 *     backup that holds anything else is left as it is.
 * I3. A backup is renamed before its first file is removed, and the library gives it its name when
 *     it is whole: what bears such a name is whole. What a crash leaves under the names before and
 *     after goes with the next removal: the set is locked, so nobody is at work on it.
 */
#include "cli.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { STAMP_SIZE = 16, FOLDER_FLAGS = O_RDONLY | O_DIRECTORY | O_CLOEXEC };

static const char removing_suffix[] = ".removing";
static const char making_suffix[] = ".new-backup"; /* km_backup() works under this name */

/* ---- names --------------------------------------------------------------------------------- */

void cli_backup_set_name(int64_t seconds, unsigned attempt, char out_name[BACKUP_NAME_MAX])
{
    time_t begin = (time_t)seconds;
    struct tm parts;
    size_t used;

    gmtime_r(&begin, &parts);
    used = strftime(out_name, BACKUP_NAME_MAX, "%Y%m%dT%H%M%SZ", &parts);
    if (attempt > 1)
        snprintf(out_name + used, BACKUP_NAME_MAX - used, "-%u", attempt);
}

/* Whether `text` looks like `pattern`, in which 0 stands for a digit and x for a hex digit. */
static int looks_like(const char *text, const char *pattern)
{
    for (; *pattern; text++, pattern++) {
        int is_digit = *text >= '0' && *text <= '9';
        if (*pattern == '0' && is_digit)
            continue;
        if (*pattern == 'x' && (is_digit || (*text >= 'a' && *text <= 'f')))
            continue;
        if (*pattern == '0' || *pattern == 'x' || *text != *pattern)
            return 0;
    }
    return *text == '\0';
}

/* The number at the end of a name: 1 if it has none, 0 if the name is not of our form (I1). */
static unsigned name_number(const char *name)
{
    char stamp[STAMP_SIZE + 1];
    const char *suffix;
    size_t digits;

    if (strlen(name) < STAMP_SIZE || strlen(name) >= BACKUP_NAME_MAX)
        return 0;
    memcpy(stamp, name, STAMP_SIZE);
    stamp[STAMP_SIZE] = '\0';
    if (!looks_like(stamp, "00000000T000000Z"))
        return 0;
    suffix = name + STAMP_SIZE;
    if (*suffix == '\0')
        return 1;
    digits = strspn(suffix + 1, "0123456789");
    if (*suffix != '-' || digits < 1 || digits > 4 || suffix[1 + digits] || suffix[1] == '0')
        return 0;
    return strcmp(suffix, "-1") == 0 ? 0 : (unsigned)atoi(suffix + 1);
}

static int compare_names(const void *a, const void *b)
{
    unsigned number_a = name_number(a);
    unsigned number_b = name_number(b);
    int order = memcmp(a, b, STAMP_SIZE);

    return order ? order : (number_a > number_b) - (number_a < number_b);
}

/* ---- what is in a folder ------------------------------------------------------------------- */

/* A file of a backup's folder, or of its log. */
static int is_backup_file(const char *name, int in_log)
{
    static const char *const names[] = {"IDENTITY", "MARKS", "MAPS", "LOCK", "index.image"};
    size_t i;

    if (in_log)
        return looks_like(name, "xxxxxxxx.segment");
    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0)
            return 1;
    }
    return looks_like(name, "tail-00.ring") ||
           looks_like(name, "table-00000-00000-xxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx");
}

/* The next name in a folder but `.` and `..`; NULL at the end, or with errno set. */
static const char *next_name(DIR *dir)
{
    struct dirent *entry;

    do {
        errno = 0;
        entry = readdir(dir);
    } while (entry && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
    return entry ? entry->d_name : NULL;
}

/* Open a folder's list of names; the folder itself must not be a link. */
static DIR *open_names(int parent_fd, const char *name)
{
    int fd = openat(parent_fd, name, FOLDER_FLAGS | O_NOFOLLOW);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    if (dir == NULL && fd >= 0)
        close(fd);
    return dir;
}

static int is_kind(int folder_fd, const char *name, mode_t kind)
{
    struct stat info;

    return fstatat(folder_fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
           (info.st_mode & S_IFMT) == kind;
}

static int is_backup(int set_fd, const char *name)
{
    int fd = openat(set_fd, name, FOLDER_FLAGS | O_NOFOLLOW);
    int found = fd >= 0 && is_kind(fd, "IDENTITY", S_IFREG) && is_kind(fd, "MARKS", S_IFREG) &&
                is_kind(fd, "log", S_IFDIR);

    if (fd >= 0)
        close(fd);
    return found;
}

/* Whether a folder holds files of a backup alone, and none that is a link or a folder (I2). */
static int holds_only(int parent_fd, const char *name, int in_log)
{
    DIR *dir = open_names(parent_fd, name);
    const char *entry;
    int only = dir != NULL;

    while (only && (entry = next_name(dir)) != NULL) {
        if (!in_log && strcmp(entry, "log") == 0) {
            only = holds_only(dirfd(dir), entry, 1);
        } else {
            only = is_backup_file(entry, in_log) && is_kind(dirfd(dir), entry, S_IFREG);
        }
    }
    only = only && errno == 0;
    if (dir)
        closedir(dir);
    return only;
}

/* ---- the set ------------------------------------------------------------------------------- */

static int set_failed(const char *path, const char *doing)
{
    cli_message("cannot %s %s: %s", doing, path, strerror(errno));
    return EXIT_FAILED;
}

static int add_name(struct backup_set *set, const char *name)
{
    char(*names)[BACKUP_NAME_MAX] = reallocarray(set->names, set->count + 1, sizeof(*names));

    if (names == NULL)
        return -1;
    set->names = names;
    snprintf(names[set->count++], BACKUP_NAME_MAX, "%s", name);
    return 0;
}

static int list_backups(struct backup_set *set)
{
    DIR *dir = open_names(set->fd, ".");
    const char *name;

    if (dir == NULL)
        return set_failed(set->path, "list");
    while ((name = next_name(dir)) != NULL) {
        if (name_number(name) == 0 || !is_backup(set->fd, name))
            continue;
        if (add_name(set, name) != 0)
            break;
    }
    if (errno) {
        closedir(dir);
        return set_failed(set->path, "list");
    }
    closedir(dir);
    if (set->count)
        qsort(set->names, set->count, sizeof(*set->names), compare_names);
    return EXIT_DONE;
}

int cli_backup_set_open(struct backup_set *set, const char *path)
{
    set->path = path;
    set->names = NULL;
    set->count = 0;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return set_failed(path, "create");
    set->fd = open(path, FOLDER_FLAGS);
    if (set->fd < 0)
        return set_failed(path, "open");
    if (is_kind(set->fd, "IDENTITY", S_IFREG)) {
        cli_message("%s is a store or a backup itself: name a folder that is to hold backups",
                    path);
        return EXIT_USAGE;
    }
    set->is_locked = flock(set->fd, LOCK_EX | LOCK_NB) == 0;
    if (!set->is_locked && errno == EWOULDBLOCK) {
        cli_message("another backup into %s is under way: wait for its end", path);
        return EXIT_FAILED;
    }
    return list_backups(set); /* a file system without such locks will do */
}

void cli_backup_set_close(struct backup_set *set)
{
    if (set->fd >= 0)
        close(set->fd);
    free(set->names);
    set->fd = -1;
    set->names = NULL;
    set->count = 0;
}

/* ---- removing ------------------------------------------------------------------------------ */

/* Remove a folder and the backup's files in it; 0 or -1. A folder that holds more stays. */
static int remove_files(int parent_fd, const char *name, int in_log)
{
    DIR *dir = open_names(parent_fd, name);
    const char *entry;
    int rc = dir ? 0 : -1;

    while (rc == 0 && (entry = next_name(dir)) != NULL) {
        if (!in_log && strcmp(entry, "log") == 0) {
            rc = remove_files(dirfd(dir), entry, 1);
        } else if (is_backup_file(entry, in_log)) {
            rc = unlinkat(dirfd(dir), entry, 0);
        }
    }
    if (dir)
        closedir(dir);
    return rc == 0 ? unlinkat(parent_fd, name, AT_REMOVEDIR) : rc;
}

/* Remove what crashes left of backups, begun ones and those that were being removed (I3). */
static void remove_leftovers(const struct backup_set *set)
{
    DIR *dir = open_names(set->fd, ".");
    const char *name;

    while (dir && (name = next_name(dir)) != NULL) {
        const char *dot = strchr(name, '.');
        char backup_name[BACKUP_NAME_MAX];
        if (dot == NULL || dot - name >= BACKUP_NAME_MAX)
            continue;
        if (strcmp(dot, removing_suffix) != 0 && strcmp(dot, making_suffix) != 0)
            continue;
        snprintf(backup_name, sizeof(backup_name), "%.*s", (int)(dot - name), name);
        if (name_number(backup_name))
            remove_files(set->fd, name, 0); /* tried again the next time */
    }
    if (dir)
        closedir(dir);
}

static int remove_backup(struct cli *cli, const struct backup_set *set, const char *name)
{
    char removing[BACKUP_NAME_MAX + sizeof(removing_suffix)];

    if (!holds_only(set->fd, name, 0)) {
        cli_message("%s/%s is not removed: it holds more than a backup", set->path, name);
        return EXIT_FAILED;
    }
    snprintf(removing, sizeof(removing), "%s%s", name, removing_suffix);
    if (renameat(set->fd, name, set->fd, removing) != 0 || fsync(set->fd) != 0 ||
        remove_files(set->fd, removing, 0) != 0) {
        cli_message("cannot remove %s/%s: %s", set->path, name, strerror(errno));
        return EXIT_FAILED;
    }
    cli_print(cli, "removed: %s\n", name);
    return EXIT_DONE;
}

int cli_backup_set_prune(struct cli *cli, struct backup_set *set, uint64_t keep_count)
{
    int code = EXIT_DONE;
    size_t i;

    if (set->is_locked)
        remove_leftovers(set);
    for (i = 0; i < set->count && set->count - i >= keep_count; i++) {
        int result = remove_backup(cli, set, set->names[i]);
        code = code ? code : result;
    }
    return code;
}
