/* SPDX-License-Identifier: Apache-2.0
 *
 * test_os_share.c -- the platform where a store meets others: names of one file, exchanged folders,
 * locks between handles and processes, pages that stay.
 *
 * As test_os.c, on the real machine and the simulated one alike, and then what is Linux's own.
 */
#include "unit/os_util.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* ---- names ---- */

static void assert_content(struct fixture *f, struct os_dir *dir, const char *name,
                           const char *expected)
{
    struct os_file *file = NULL;
    size_t size = strlen(expected);
    uint64_t file_size = 0;
    char buffer[32] = "";

    assert_int_equal(f->ops->open_file(dir, name, OS_OPEN_READ, &file), KM_OK);
    assert_int_equal(f->ops->file_size(file, &file_size), KM_OK);
    assert_int_equal(file_size, size);
    assert_int_equal(f->ops->read_at(file, 0, buffer, size), KM_OK);
    assert_string_equal(buffer, expected);
    f->ops->close_file(file);
}

static void a_link_is_one_more_name_of_the_file(void **state)
{
    struct fixture *f = *state;
    struct os_dir *sub = create_sub(f, "sub");
    struct os_file *file = create(f, "a", "hello", 5);

    assert_int_equal(f->ops->link(f->dir, "a", sub, "b"), KM_OK);
    assert_int_equal(f->ops->link(sub, "b", f->dir, "c"), KM_OK);
    assert_int_equal(f->ops->sync_dir(sub), KM_OK);
    assert_int_equal(f->ops->write_at(file, 1, "a", 1), KM_OK);
    f->ops->close_file(file);
    assert_content(f, sub, "b", "hallo");
    assert_int_equal(f->ops->unlink(f->dir, "a"), KM_OK);
    assert_content(f, sub, "b", "hallo");
    assert_content(f, f->dir, "c", "hallo");
    assert_int_equal(f->ops->rename(f->dir, "c", "d"), KM_OK);
    assert_int_equal(f->ops->unlink(sub, "b"), KM_OK);
    assert_content(f, f->dir, "d", "hallo");
    f->ops->close_dir(sub);
}

static void a_link_takes_no_name_that_is_there(void **state)
{
    struct fixture *f = *state;
    struct os_dir *sub = create_sub(f, "sub");

    f->ops->close_file(create(f, "a", "a", 1));
    f->ops->close_file(create(f, "b", "b", 1));
    ASSERT_FAILS(f, f->ops->link(f->dir, "a", f->dir, "b"), KM_EXISTS, EEXIST);
    ASSERT_FAILS(f, f->ops->link(f->dir, "a", f->dir, "a"), KM_EXISTS, EEXIST);
    ASSERT_FAILS(f, f->ops->link(f->dir, "a", f->dir, "sub"), KM_EXISTS, EEXIST);
    ASSERT_FAILS(f, f->ops->link(f->dir, "none", f->dir, "c"), KM_NOT_FOUND, ENOENT);
    ASSERT_FAILS(f, f->ops->link(f->dir, "none", f->dir, "b"), KM_NOT_FOUND, ENOENT);
    ASSERT_FAILS(f, f->ops->link(f->dir, "sub", f->dir, "c"), KM_E_INVALID, EISDIR);
    assert_content(f, f->dir, "b", "b");
    assert_int_equal(f->ops->remove_subdir(f->dir, "sub"), KM_OK);
    ASSERT_FAILS(f, f->ops->link(f->dir, "a", sub, "c"), KM_NOT_FOUND, ENOENT);
    f->ops->close_dir(sub);
}

static void rename_onto_another_name_of_the_file_leaves_both(void **state)
{
    struct fixture *f = *state;

    f->ops->close_file(create(f, "a", "hello", 5));
    assert_int_equal(f->ops->link(f->dir, "a", f->dir, "b"), KM_OK);
    assert_int_equal(f->ops->rename(f->dir, "a", "b"), KM_OK);
    assert_content(f, f->dir, "a", "hello");
    assert_content(f, f->dir, "b", "hello");
}

static void remove_subdir_takes_empty_folders_only(void **state)
{
    struct fixture *f = *state;
    struct os_dir *sub = create_sub(f, "sub");
    struct os_file *file = NULL;

    f->ops->close_file(create(f, "file", "x", 1));
    assert_int_equal(f->ops->open_file(sub, "a", OS_CREATE_NEW, &file), KM_OK);
    f->ops->close_file(file);
    ASSERT_FAILS(f, f->ops->remove_subdir(f->dir, "sub"), KM_E_INVALID, ENOTEMPTY);
    ASSERT_FAILS(f, f->ops->remove_subdir(f->dir, "file"), KM_E_INVALID, ENOTDIR);
    ASSERT_FAILS(f, f->ops->remove_subdir(f->dir, "none"), KM_NOT_FOUND, ENOENT);
    assert_int_equal(f->ops->unlink(sub, "a"), KM_OK);
    assert_int_equal(f->ops->remove_subdir(f->dir, "sub"), KM_OK);
    ASSERT_FAILS(f, f->ops->remove_subdir(f->dir, "sub"), KM_NOT_FOUND, ENOENT);
    ASSERT_FAILS(f, f->ops->open_file(sub, "b", OS_CREATE_NEW, &file), KM_NOT_FOUND, ENOENT);
    f->ops->close_dir(sub);
    f->ops->close_dir(create_sub(f, "sub")); /* the name is free again */
}

static km_status exchange(struct fixture *f, const char *a, const char *b)
{
    char path_a[200];
    char path_b[200];

    return f->ops->exchange(f->os, path_below(f, a, path_a), path_below(f, b, path_b));
}

static void exchange_swaps_two_folders(void **state)
{
    struct fixture *f = *state;
    struct os_dir *one = create_sub(f, "one");
    struct os_dir *two = create_sub(f, "two");
    struct os_file *file = NULL;
    struct os_dir *found = NULL;
    km_status rc;

    assert_int_equal(f->ops->open_file(one, "a", OS_CREATE_NEW, &file), KM_OK);
    f->ops->close_file(file);
    rc = exchange(f, "one", "two/");
    if (rc == KM_OK) {
        assert_int_equal(f->ops->open_subdir(f->dir, "two", &found), KM_OK);
        assert_content(f, found, "a", "");
        f->ops->close_dir(found);
        assert_int_equal(f->ops->remove_subdir(f->dir, "one"), KM_OK); /* it is empty now */
    }
    f->ops->close_dir(one);
    f->ops->close_dir(two);
    if (rc == KM_E_UNSUPPORTED)
        skip(); /* as the file system of this folder may be */
    assert_int_equal(rc, KM_OK);
}

static void exchange_is_of_folders_beside_each_other(void **state)
{
    struct fixture *f = *state;
    struct os_dir *one = create_sub(f, "one");

    f->ops->close_dir(create_sub(f, "two"));
    assert_int_equal(f->ops->create_subdir(one, "child"), KM_OK);
    f->ops->close_dir(one);
    f->ops->close_file(create(f, "file", "x", 1));
    ASSERT_FAILS(f, exchange(f, "one/child", "two"), KM_E_INVALID, EINVAL);
    ASSERT_FAILS(f, exchange(f, "two", "file"), KM_E_INVALID, ENOTDIR);
    ASSERT_FAILS(f, exchange(f, "file", "two"), KM_E_INVALID, ENOTDIR);
    ASSERT_FAILS(f, exchange(f, "two", "none"), KM_NOT_FOUND, ENOENT);
    ASSERT_FAILS(f, exchange(f, "none", "two"), KM_NOT_FOUND, ENOENT);
    ASSERT_FAILS(f, f->ops->exchange(f->os, "", "two"), KM_NOT_FOUND, ENOENT);
}

/* ---- mappings ---- */

static void make_resident_takes_any_mapping(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);
    const uint8_t *bytes = NULL;
    uint8_t *pages = km__map_pages(&f->os->allocator, 8192);

    assert_int_equal(f->ops->map_read(file, 5, &bytes), KM_OK);
    assert_int_equal(f->ops->make_resident(f->os, bytes, 5, 0), KM_OK);
    assert_int_equal(f->ops->make_resident(f->os, bytes, 5, 1), KM_OK);
    assert_int_equal(f->ops->make_resident(f->os, bytes, 0, 1), KM_OK);
    assert_int_equal(f->ops->make_resident(f->os, pages, 8192, 1), KM_OK);
    assert_memory_equal(bytes, "hello", 5);
    f->ops->unmap(f->os, bytes, 5);
    km__unmap_pages(&f->os->allocator, pages, 8192);
    f->ops->close_file(file);
}

/* ---- locks ---- */

static void locks_exclude_other_handles_of_the_same_process(void **state)
{
    struct fixture *f = *state;
    struct os_file *a = create(f, "LOCK", "x", 1);
    struct os_file *b = open_existing(f, "LOCK", OS_OPEN_WRITE);
    struct os_file *c = open_existing(f, "LOCK", OS_OPEN_READ);

    assert_int_equal(f->ops->lock(a, OS_LOCK_EXCLUSIVE), KM_OK);
    assert_int_equal(f->ops->lock(a, OS_LOCK_EXCLUSIVE), KM_OK); /* our own is not against us */
    assert_int_equal(f->ops->lock(b, OS_LOCK_EXCLUSIVE), KM_E_LOCKED);
    assert_int_not_equal(f->ops->last_error(f->os), 0);
    assert_int_equal(f->ops->lock(c, OS_LOCK_SHARED), KM_E_LOCKED);
    f->ops->close_file(a);
    assert_int_equal(f->ops->lock(c, OS_LOCK_SHARED), KM_OK);
    assert_int_equal(f->ops->lock(b, OS_LOCK_SHARED), KM_OK);
    assert_int_equal(f->ops->lock(b, OS_LOCK_EXCLUSIVE), KM_E_LOCKED);
    f->ops->close_file(c);
    assert_int_equal(f->ops->lock(b, OS_LOCK_EXCLUSIVE), KM_OK);
    f->ops->close_file(b);
}

#define FIRST ((uint64_t)OS_LOCK_SIZE) /* of the bytes that lock_range() takes */

static void range_locks_are_of_single_bytes_and_of_handles(void **state)
{
    struct fixture *f = *state;
    struct os_file *a = create(f, "LOCK", "x", 1);
    struct os_file *b = open_existing(f, "LOCK", OS_OPEN_WRITE);
    struct os_file *c = open_existing(f, "LOCK", OS_OPEN_READ);

    assert_int_equal(f->ops->lock_range(a, FIRST, OS_LOCK_EXCLUSIVE), KM_OK);
    assert_int_equal(f->ops->lock_range(a, FIRST, OS_LOCK_EXCLUSIVE), KM_OK);
    assert_int_equal(f->ops->lock_range(b, FIRST, OS_LOCK_EXCLUSIVE), KM_E_LOCKED);
    assert_int_equal(f->ops->lock_range(c, FIRST, OS_LOCK_SHARED), KM_E_LOCKED);
    assert_int_not_equal(f->ops->last_error(f->os), 0);
    assert_int_equal(f->ops->lock_range(b, FIRST + 1, OS_LOCK_EXCLUSIVE), KM_OK);
    assert_int_equal(f->ops->unlock_range(b, FIRST), KM_OK); /* not b's: a's stays */
    assert_int_equal(f->ops->lock_range(c, FIRST, OS_LOCK_SHARED), KM_E_LOCKED);
    assert_int_equal(f->ops->lock_range(a, FIRST, OS_LOCK_SHARED), KM_OK); /* weaker than it was */
    assert_int_equal(f->ops->lock_range(c, FIRST, OS_LOCK_SHARED), KM_OK);
    assert_int_equal(f->ops->lock_range(a, FIRST, OS_LOCK_EXCLUSIVE), KM_E_LOCKED);
    assert_int_equal(f->ops->unlock_range(c, FIRST), KM_OK);
    assert_int_equal(f->ops->lock_range(a, FIRST, OS_LOCK_EXCLUSIVE), KM_OK);
    f->ops->close_file(a);
    assert_int_equal(f->ops->lock_range(c, FIRST, OS_LOCK_SHARED), KM_OK);
    assert_int_equal(f->ops->lock_range(c, FIRST + 1, OS_LOCK_SHARED), KM_E_LOCKED);
    f->ops->close_file(b);
    f->ops->close_file(c);
}

static void range_locks_stand_beside_the_lock_of_the_file(void **state)
{
    struct fixture *f = *state;
    struct os_file *writer = create(f, "LOCK", "x", 1);
    struct os_file *follower = open_existing(f, "LOCK", OS_OPEN_READ);

    assert_int_equal(f->ops->lock(writer, OS_LOCK_EXCLUSIVE), KM_OK);
    assert_int_equal(f->ops->lock_range(follower, FIRST, OS_LOCK_SHARED), KM_OK);
    assert_int_equal(f->ops->lock_range(follower, INT64_MAX - 1, OS_LOCK_SHARED), KM_OK);
    f->ops->close_file(writer);
    writer = open_existing(f, "LOCK", OS_OPEN_WRITE);
    assert_int_equal(f->ops->lock(writer, OS_LOCK_EXCLUSIVE), KM_OK);
    assert_int_equal(f->ops->lock_range(writer, FIRST + 5, OS_LOCK_EXCLUSIVE), KM_OK);
    assert_int_equal(f->ops->unlock_range(writer, FIRST + 5), KM_OK);
    assert_int_equal(f->ops->lock(follower, OS_LOCK_SHARED), KM_E_LOCKED); /* still held */
    ASSERT_FAILS(f, f->ops->lock_range(follower, FIRST, OS_LOCK_EXCLUSIVE), KM_E_IO, EBADF);
    ASSERT_FAILS(f, f->ops->lock_range(writer, FIRST - 1, OS_LOCK_SHARED), KM_E_INVALID, EINVAL);
    ASSERT_FAILS(f, f->ops->lock_range(writer, INT64_MAX, OS_LOCK_SHARED), KM_E_INVALID, EINVAL);
    ASSERT_FAILS(f, f->ops->unlock_range(writer, 0), KM_E_INVALID, EINVAL);
    ASSERT_FAILS(f, f->ops->unlock_range(writer, UINT64_MAX), KM_E_INVALID, EINVAL);
    f->ops->close_file(follower);
    f->ops->close_file(writer);
}

static void is_range_locked_tells_of_others_only(void **state)
{
    struct fixture *f = *state;
    struct os_file *a = create(f, "LOCK", "x", 1);
    struct os_file *b = open_existing(f, "LOCK", OS_OPEN_READ);

    assert_false(f->ops->is_range_locked(a, 0, UINT64_MAX));
    assert_int_equal(f->ops->lock_range(b, FIRST + 7, OS_LOCK_SHARED), KM_OK);
    assert_false(f->ops->is_range_locked(b, 0, UINT64_MAX)); /* its own */
    assert_true(f->ops->is_range_locked(a, FIRST + 7, 1));
    assert_true(f->ops->is_range_locked(a, FIRST, 8));
    assert_true(f->ops->is_range_locked(a, FIRST, UINT64_MAX));
    assert_false(f->ops->is_range_locked(a, FIRST, 7));
    assert_false(f->ops->is_range_locked(a, FIRST + 8, UINT64_MAX));
    assert_false(f->ops->is_range_locked(a, FIRST + 7, 0));
    assert_false(f->ops->is_range_locked(a, UINT64_MAX, 1));
    assert_int_equal(f->ops->lock(a, OS_LOCK_EXCLUSIVE), KM_OK);
    assert_true(f->ops->is_range_locked(b, 0, 1));
    assert_true(f->ops->is_range_locked(b, FIRST - 1, 1));
    assert_false(f->ops->is_range_locked(b, FIRST, UINT64_MAX));
    assert_int_equal(f->ops->unlock_range(b, FIRST + 7), KM_OK);
    assert_false(f->ops->is_range_locked(a, 0, UINT64_MAX));
    f->ops->close_file(a);
    assert_false(f->ops->is_range_locked(b, 0, UINT64_MAX));
    f->ops->close_file(b);
}

/* ---- Linux alone ---- */

static void symbolic_links_are_never_followed(void **state)
{
    struct fixture *f = *state;
    char path[200];

    f->ops->close_file(create(f, "file", "x", 1));
    f->ops->close_dir(create_sub(f, "real"));
    assert_int_equal(symlink("file", path_below(f, "link", path)), 0);
    assert_int_equal(symlink("none", path_below(f, "dangling", path)), 0);
    assert_int_equal(symlink("real", path_below(f, "folder", path)), 0);
    ASSERT_FAILS(f, f->ops->link(f->dir, "link", f->dir, "x"), KM_E_INVALID, ELOOP);
    ASSERT_FAILS(f, f->ops->link(f->dir, "dangling", f->dir, "x"), KM_E_INVALID, ELOOP);
    ASSERT_FAILS(f, f->ops->remove_subdir(f->dir, "folder"), KM_E_INVALID, ENOTDIR);
    ASSERT_FAILS(f, f->ops->link(f->dir, "file", f->dir, "dangling"), KM_EXISTS, EEXIST);
    ASSERT_FAILS(f, exchange(f, "folder", "real"), KM_E_INVALID, ENOTDIR);
}

static void a_link_across_file_systems_is_unsupported(void **state)
{
    struct fixture *f = *state;
    struct os_dir *elsewhere = NULL;
    struct stat here;
    struct stat there;

    if (stat(f->path, &here) != 0 || stat("/dev/shm", &there) != 0 || here.st_dev == there.st_dev) {
        skip(); /* no second file system to be had */
    }
    f->ops->close_file(create(f, "a", "hello", 5));
    assert_int_equal(f->ops->open_dir(f->os, "/dev/shm", &elsewhere), KM_OK);
    ASSERT_FAILS(f, f->ops->link(f->dir, "a", elsewhere, "keepmap-test-os"), KM_E_UNSUPPORTED,
                 EXDEV);
    f->ops->close_dir(elsewhere);
}

static int close_in_child(struct fixture *f, void *file)
{
    f->ops->close_file(file);
    return 1;
}

static int cannot_lock(struct fixture *f, void *context)
{
    struct os_file *file = NULL;

    (void)context;
    if (f->ops->open_file(f->dir, "LOCK", OS_OPEN_WRITE, &file))
        return 0;
    return f->ops->lock(file, OS_LOCK_EXCLUSIVE) == KM_E_LOCKED;
}

static void locks_exclude_other_processes_and_survive_a_childs_close(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "LOCK", "x", 1);

    assert_int_equal(f->ops->lock(file, OS_LOCK_EXCLUSIVE), KM_OK);
    assert_true(child_says_yes(cannot_lock, f, NULL));
    assert_true(child_says_yes(close_in_child, f, file));
    assert_true(child_says_yes(cannot_lock, f, NULL));
    f->ops->close_file(file);
    assert_false(child_says_yes(cannot_lock, f, NULL));
}

static void close_frees_the_lock_though_a_child_has_the_descriptor(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "LOCK", "x", 1);
    int hold[2];
    pid_t pid;
    char byte;

    assert_int_equal(f->ops->lock(file, OS_LOCK_EXCLUSIVE), KM_OK);
    assert_int_equal(pipe(hold), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(hold[1]);
        _exit(read(hold[0], &byte, 1) == 0 ? 0 : 1); /* until the parent closes its end */
    }
    f->ops->close_file(file);
    file = open_existing(f, "LOCK", OS_OPEN_WRITE);
    assert_int_equal(f->ops->lock(file, OS_LOCK_EXCLUSIVE), KM_OK);
    f->ops->close_file(file);
    close(hold[1]);
    close(hold[0]);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static int cannot_lock_range(struct fixture *f, void *context)
{
    struct os_file *file = NULL;

    (void)context;
    if (f->ops->open_file(f->dir, "LOCK", OS_OPEN_WRITE, &file))
        return 0;
    return f->ops->is_range_locked(file, FIRST, 1) &&
           f->ops->lock_range(file, FIRST, OS_LOCK_EXCLUSIVE) == KM_E_LOCKED;
}

static int unlock_range_and_close(struct fixture *f, void *file)
{
    int is_done = f->ops->unlock_range(file, FIRST) == KM_OK;

    f->ops->close_file(file);
    return is_done;
}

static void range_locks_exclude_other_processes_and_are_not_a_childs_to_give_up(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "LOCK", "x", 1);
    struct os_file *other = NULL;
    int hold[2];
    pid_t pid;
    char byte;

    assert_int_equal(f->ops->lock_range(file, FIRST, OS_LOCK_SHARED), KM_OK);
    assert_true(child_says_yes(cannot_lock_range, f, NULL));
    assert_true(child_says_yes(unlock_range_and_close, f, file));
    assert_true(child_says_yes(cannot_lock_range, f, NULL));
    assert_int_equal(pipe(hold), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(hold[1]);
        _exit(read(hold[0], &byte, 1) == 0 ? 0 : 1); /* until the parent closes its end */
    }
    f->ops->close_file(file); /* frees the lock, though the child has the descriptor */
    other = open_existing(f, "LOCK", OS_OPEN_WRITE);
    assert_int_equal(f->ops->lock_range(other, FIRST, OS_LOCK_EXCLUSIVE), KM_OK);
    f->ops->close_file(other);
    close(hold[1]);
    close(hold[0]);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static int is_resident(const uint8_t *bytes, size_t size)
{
    size_t count = (size + 4095) / 4096;
    unsigned char *pages = calloc(count, 1);
    size_t i;
    int is_all;

    assert_non_null(pages);
    assert_int_equal(mincore((void *)(uintptr_t)bytes, size, pages), 0);
    for (i = 0; i < count && (pages[i] & 1); i++) {
    }
    is_all = i == count;
    free(pages);
    return is_all;
}

static unsigned long locked_kib(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    unsigned long kib = 0;
    char line[200];

    assert_non_null(status);
    while (fgets(line, sizeof(line), status) && sscanf(line, "VmLck: %lu", &kib) != 1) {
    }
    fclose(status);
    return kib;
}

/* Sanitizers make mlock() do nothing. */
static int pinning_works(void)
{
    static char page[4096];
    unsigned long before = locked_kib();
    int works = mlock(page, sizeof(page)) == 0 && locked_kib() > before;

    assert_int_equal(munlock(page, sizeof(page)), 0);
    return works;
}

static void make_resident_brings_every_page_and_pins_on_request(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);
    const size_t size = ((size_t)2 << 20) + 12345;
    const uint8_t *bytes = NULL;
    unsigned long before = locked_kib();
    char path[200];
    km_status rc;
    int fd;

    assert_int_equal(f->ops->write_at(file, size - 5, "world", 5), KM_OK);
    assert_int_equal(f->ops->sync(file), KM_OK);
    fd = open(path_below(f, "a", path), O_RDONLY);
    assert_true(fd >= 0);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* where the file system has it */
    close(fd);
    assert_int_equal(f->ops->map_read(file, size, &bytes), KM_OK);
    assert_int_equal(f->ops->make_resident(f->os, bytes, size, 0), KM_OK);
    assert_true(is_resident(bytes, size));
    assert_int_equal(locked_kib(), before);
    rc = f->ops->make_resident(f->os, bytes, size, 1);
    assert_true(rc == KM_OK || rc == KM_E_LIMIT); /* who runs this may have little */
    if (pinning_works())
        assert_int_equal(locked_kib() - before, rc == KM_OK ? (size + 4095) / 4096 * 4 : 0);
    f->ops->unmap(f->os, bytes, size);
    assert_int_equal(locked_kib(), before);
    f->ops->close_file(file);
}

/* Without the right to pin more than one page: 1 if that is what is said, and nothing is pinned. */
static int pinning_is_over_the_limit(struct fixture *f, void *bytes)
{
    struct rlimit one_page = {4096, 4096};
    struct rlimit nothing = {0, 0};

    if (setrlimit(RLIMIT_MEMLOCK, &one_page) != 0 || (geteuid() == 0 && setuid(65534) != 0))
        return 0;
    if (f->ops->make_resident(f->os, bytes, 65536, 0) != KM_OK)
        return 0;
    if (f->ops->make_resident(f->os, bytes, 65536, 1) != KM_E_LIMIT || locked_kib() != 0)
        return 0;
    return setrlimit(RLIMIT_MEMLOCK, &nothing) == 0 &&
           f->ops->make_resident(f->os, bytes, 4096, 1) == KM_E_LIMIT;
}

static void pinning_more_than_allowed_is_an_error(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);
    const uint8_t *bytes = NULL;

    assert_int_equal(f->ops->allocate(file, 65536), KM_OK);
    assert_int_equal(f->ops->map_read(file, 65536, &bytes), KM_OK);
    if (pinning_works())
        assert_true(child_says_yes(pinning_is_over_the_limit, f, (void *)(uintptr_t)bytes));
    f->ops->unmap(f->os, bytes, 65536);
    f->ops->close_file(file);
}

static const struct CMUnitTest contract[] = {
    CASE(a_link_is_one_more_name_of_the_file),
    CASE(a_link_takes_no_name_that_is_there),
    CASE(rename_onto_another_name_of_the_file_leaves_both),
    CASE(remove_subdir_takes_empty_folders_only),
    CASE(exchange_swaps_two_folders),
    CASE(exchange_is_of_folders_beside_each_other),
    CASE(make_resident_takes_any_mapping),
    CASE(locks_exclude_other_handles_of_the_same_process),
    CASE(range_locks_are_of_single_bytes_and_of_handles),
    CASE(range_locks_stand_beside_the_lock_of_the_file),
    CASE(is_range_locked_tells_of_others_only),
};

static const struct CMUnitTest linux_alone[] = {
    CASE(symbolic_links_are_never_followed),
    CASE(a_link_across_file_systems_is_unsupported),
    CASE(locks_exclude_other_processes_and_survive_a_childs_close),
    CASE(close_frees_the_lock_though_a_child_has_the_descriptor),
    CASE(range_locks_exclude_other_processes_and_are_not_a_childs_to_give_up),
    CASE(make_resident_brings_every_page_and_pins_on_request),
    CASE(pinning_more_than_allowed_is_an_error),
};

int main(void)
{
    return run_groups(contract, sizeof(contract) / sizeof(contract[0]), linux_alone,
                      sizeof(linux_alone) / sizeof(linux_alone[0]));
}
