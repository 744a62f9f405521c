/* SPDX-License-Identifier: Apache-2.0
 *
 * test_os.c -- the contract of os.h, held against the real machine and the simulated one alike, and
 * what is Linux's own: links, FIFOs, forks, limits.
 */
#include "unit/os_util.h"

#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define HUGE_SIZE ((size_t)2 << 20)

/* ---- files ---- */

static void bytes_written_are_read_back_at_any_offset(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);
    uint8_t buffer[16];
    uint64_t size = 0;

    assert_int_equal(f->ops->write_at(file, 5000, "world", 5), KM_OK);
    assert_int_equal(f->ops->file_size(file, &size), KM_OK);
    assert_int_equal(size, 5005);
    assert_int_equal(f->ops->read_at(file, 4998, buffer, 7), KM_OK);
    assert_memory_equal(buffer, "\0\0world", 7);
    assert_int_equal(f->ops->read_at(file, 1, buffer, 4), KM_OK);
    assert_memory_equal(buffer, "ello", 4);
    assert_int_equal(f->ops->write_at(file, 4094, "crossing", 8), KM_OK);
    assert_int_equal(f->ops->read_at(file, 4094, buffer, 8), KM_OK);
    assert_memory_equal(buffer, "crossing", 8);
    assert_int_equal(f->ops->sync(file), KM_OK);
    f->ops->close_file(file);
    file = open_existing(f, "a", OS_OPEN_READ);
    assert_int_equal(f->ops->read_at(file, 0, buffer, 5), KM_OK);
    assert_memory_equal(buffer, "hello", 5);
    f->ops->close_file(file);
}

static void read_past_the_end_is_an_error_without_errno(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);
    uint8_t buffer[16];

    ASSERT_FAILS(f, f->ops->read_at(file, 3, buffer, 3), KM_E_IO, 0);
    ASSERT_FAILS(f, f->ops->read_at(file, 100, buffer, 1), KM_E_IO, 0);
    assert_int_equal(f->ops->read_at(file, 2, buffer, 3), KM_OK);
    assert_int_equal(f->ops->read_at(file, 5, buffer, 0), KM_OK);
    f->ops->close_file(file);
}

static void writing_through_a_read_handle_fails(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);

    f->ops->close_file(file);
    file = open_existing(f, "a", OS_OPEN_READ);
    ASSERT_FAILS(f, f->ops->write_at(file, 0, "x", 1), KM_E_IO, EBADF);
    ASSERT_FAILS(f, f->ops->lock(file, OS_LOCK_EXCLUSIVE), KM_E_IO, EBADF);
    assert_int_equal(f->ops->sync(file), KM_OK);
    f->ops->close_file(file);
}

static void a_write_beyond_what_files_can_be_is_full(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);
    uint64_t size = 0;

    ASSERT_FAILS(f, f->ops->write_at(file, INT64_MAX, "xx", 2), KM_E_FULL, EFBIG);
    ASSERT_FAILS(f, f->ops->write_at(file, UINT64_MAX, "xx", 2), KM_E_FULL, EFBIG);
    ASSERT_FAILS(f, f->ops->allocate(file, UINT64_MAX), KM_E_FULL, EFBIG);
    assert_int_equal(f->ops->file_size(file, &size), KM_OK);
    assert_int_equal(size, 5);
    f->ops->close_file(file);
}

static void open_reports_what_stands_at_the_name(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = NULL;
    struct os_dir *dir = NULL;

    assert_int_equal(f->ops->create_subdir(f->dir, "folder"), KM_OK);
    f->ops->close_file(create(f, "file", "x", 1));
    ASSERT_FAILS(f, f->ops->open_file(f->dir, "none", OS_OPEN_READ, &file), KM_NOT_FOUND, ENOENT);
    ASSERT_FAILS(f, f->ops->open_file(f->dir, "none", OS_OPEN_WRITE, &file), KM_NOT_FOUND, ENOENT);
    ASSERT_FAILS(f, f->ops->open_file(f->dir, "file", OS_CREATE_NEW, &file), KM_EXISTS, EEXIST);
    ASSERT_FAILS(f, f->ops->open_file(f->dir, "folder", OS_CREATE_NEW, &file), KM_EXISTS, EEXIST);
    ASSERT_FAILS(f, f->ops->open_file(f->dir, "folder", OS_OPEN_READ, &file), KM_E_INVALID, EISDIR);
    ASSERT_FAILS(f, f->ops->open_file(f->dir, "folder", OS_OPEN_WRITE, &file), KM_E_INVALID,
                 EISDIR);
    ASSERT_FAILS(f, f->ops->open_subdir(f->dir, "file", &dir), KM_E_INVALID, ENOTDIR);
    ASSERT_FAILS(f, f->ops->open_subdir(f->dir, "none", &dir), KM_NOT_FOUND, ENOENT);
    assert_null(file);
    assert_null(dir);
    f->ops->close_file(NULL);
    f->ops->close_dir(NULL);
}

static void names_are_single_components(void **state)
{
    static const char *const bad[] = {"", ".", "..", "a/b", "/a", "a/"};
    struct fixture *f = *state;
    struct os_file *file = NULL;
    struct os_dir *dir = NULL;
    char long_name[300];
    size_t i;

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ASSERT_FAILS(f, f->ops->open_file(f->dir, bad[i], OS_CREATE_NEW, &file), KM_E_INVALID,
                     EINVAL);
        ASSERT_FAILS(f, f->ops->open_subdir(f->dir, bad[i], &dir), KM_E_INVALID, EINVAL);
        ASSERT_FAILS(f, f->ops->create_subdir(f->dir, bad[i]), KM_E_INVALID, EINVAL);
        ASSERT_FAILS(f, f->ops->unlink(f->dir, bad[i]), KM_E_INVALID, EINVAL);
        ASSERT_FAILS(f, f->ops->rename(f->dir, bad[i], "x"), KM_E_INVALID, EINVAL);
        ASSERT_FAILS(f, f->ops->rename(f->dir, "x", bad[i]), KM_E_INVALID, EINVAL);
        ASSERT_FAILS(f, f->ops->link(f->dir, bad[i], f->dir, "x"), KM_E_INVALID, EINVAL);
        ASSERT_FAILS(f, f->ops->link(f->dir, "x", f->dir, bad[i]), KM_E_INVALID, EINVAL);
        ASSERT_FAILS(f, f->ops->remove_subdir(f->dir, bad[i]), KM_E_INVALID, EINVAL);
    }
    memset(long_name, 'n', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    ASSERT_FAILS(f, f->ops->open_file(f->dir, long_name, OS_CREATE_NEW, &file), KM_E_INVALID,
                 ENAMETOOLONG);
    long_name[255] = '\0';
    assert_int_equal(f->ops->open_file(f->dir, long_name, OS_CREATE_NEW, &file), KM_OK);
    f->ops->close_file(file);
}

static void allocate_sets_the_size_and_keeps_the_bytes(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);
    uint8_t buffer[10];
    uint64_t size = 0;

    assert_int_equal(f->ops->allocate(file, 100000), KM_OK);
    assert_int_equal(f->ops->file_size(file, &size), KM_OK);
    assert_int_equal(size, 100000);
    assert_int_equal(f->ops->read_at(file, 0, buffer, 10), KM_OK);
    assert_memory_equal(buffer, "hello\0\0\0\0\0", 10);
    assert_int_equal(f->ops->read_at(file, 99990, buffer, 10), KM_OK);
    assert_memory_equal(buffer, "\0\0\0\0\0\0\0\0\0\0", 10);
    assert_int_equal(f->ops->allocate(file, 3), KM_OK);
    assert_int_equal(f->ops->allocate(file, 6), KM_OK); /* what was cut off does not come back */
    assert_int_equal(f->ops->read_at(file, 0, buffer, 6), KM_OK);
    assert_memory_equal(buffer, "hel\0\0\0", 6);
    assert_int_equal(f->ops->allocate(file, 0), KM_OK);
    assert_int_equal(f->ops->file_size(file, &size), KM_OK);
    assert_int_equal(size, 0);
    f->ops->close_file(file);
}

/* ---- folders ---- */

static void create_dir_takes_paths_as_people_write_them(void **state)
{
    static const char *const tails[] = {"/one", "/two/", "/three///", "//four"};
    struct fixture *f = *state;
    struct os_dir *dir = NULL;
    char path[200];
    size_t i;

    for (i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {
        snprintf(path, sizeof(path), "%s%s", f->path, tails[i]);
        assert_int_equal(f->ops->create_dir(f->os, path), KM_OK);
        ASSERT_FAILS(f, f->ops->create_dir(f->os, path), KM_EXISTS, EEXIST);
        assert_int_equal(f->ops->open_dir(f->os, path, &dir), KM_OK);
        f->ops->close_dir(dir);
    }
    snprintf(path, sizeof(path), "%s/none/child", f->path);
    ASSERT_FAILS(f, f->ops->create_dir(f->os, path), KM_NOT_FOUND, ENOENT);
    ASSERT_FAILS(f, f->ops->open_dir(f->os, path, &dir), KM_NOT_FOUND, ENOENT);
    ASSERT_FAILS(f, f->ops->create_dir(f->os, ""), KM_NOT_FOUND, ENOENT);
    ASSERT_FAILS(f, f->ops->create_dir(f->os, "/"), KM_EXISTS, EEXIST);
    f->ops->close_file(create(f, "file", "x", 1));
    snprintf(path, sizeof(path), "%s/file", f->path);
    ASSERT_FAILS(f, f->ops->open_dir(f->os, path, &dir), KM_E_INVALID, ENOTDIR);
    snprintf(path, sizeof(path), "%s/file/child", f->path);
    ASSERT_FAILS(f, f->ops->create_dir(f->os, path), KM_E_INVALID, ENOTDIR);
}

static void files_of_a_subfolder_are_its_own(void **state)
{
    struct fixture *f = *state;
    struct os_dir *sub = NULL;
    struct os_file *file = NULL;

    assert_int_equal(f->ops->create_subdir(f->dir, "sub"), KM_OK);
    ASSERT_FAILS(f, f->ops->create_subdir(f->dir, "sub"), KM_EXISTS, EEXIST);
    assert_int_equal(f->ops->open_subdir(f->dir, "sub", &sub), KM_OK);
    assert_int_equal(f->ops->open_file(sub, "a", OS_CREATE_NEW, &file), KM_OK);
    f->ops->close_file(file);
    assert_int_equal(f->ops->sync_dir(sub), KM_OK);
    ASSERT_FAILS(f, f->ops->open_file(f->dir, "a", OS_OPEN_READ, &file), KM_NOT_FOUND, ENOENT);
    ASSERT_FAILS(f, f->ops->unlink(f->dir, "sub"), KM_E_INVALID, EISDIR);
    f->ops->close_dir(sub);
}

struct seen_names {
    int count;
    int stop_after;
    char all[256];
};

static km_status see_name(void *context, const char *name)
{
    struct seen_names *seen = context;

    seen->count++;
    strcat(seen->all, name);
    return seen->count == seen->stop_after ? KM_STOPPED : KM_OK;
}

static void list_visits_every_name_once_until_told_to_stop(void **state)
{
    struct fixture *f = *state;
    struct seen_names seen = {0};

    assert_int_equal(f->ops->list(f->dir, see_name, &seen), KM_OK);
    assert_int_equal(seen.count, 0);
    f->ops->close_file(create(f, "a", "", 0));
    f->ops->close_file(create(f, "b", "", 0));
    assert_int_equal(f->ops->create_subdir(f->dir, "c"), KM_OK);
    assert_int_equal(f->ops->list(f->dir, see_name, &seen), KM_OK);
    assert_int_equal(seen.count, 3);
    assert_non_null(strchr(seen.all, 'a'));
    assert_non_null(strchr(seen.all, 'b'));
    assert_non_null(strchr(seen.all, 'c'));
    memset(&seen, 0, sizeof(seen));
    seen.stop_after = 2;
    assert_int_equal(f->ops->list(f->dir, see_name, &seen), KM_STOPPED);
    assert_int_equal(seen.count, 2);
}

static km_status unlink_name(void *context, const char *name)
{
    struct fixture *f = context;

    return f->ops->unlink(f->dir, name);
}

static void a_visitor_may_remove_what_it_visits(void **state)
{
    struct fixture *f = *state;
    struct seen_names seen = {0};
    char name[2] = "a";

    for (; name[0] < 'k'; name[0]++) {
        f->ops->close_file(create(f, name, "", 0));
    }
    assert_int_equal(f->ops->list(f->dir, unlink_name, f), KM_OK);
    assert_int_equal(f->ops->list(f->dir, see_name, &seen), KM_OK);
    assert_int_equal(seen.count, 0);
}

static void rename_replaces_the_target(void **state)
{
    struct fixture *f = *state;
    struct os_file *old = create(f, "new", "old", 3);
    struct os_file *file;
    uint8_t buffer[3];

    f->ops->close_file(create(f, "temp", "new", 3));
    assert_int_equal(f->ops->rename(f->dir, "temp", "new"), KM_OK);
    ASSERT_FAILS(f, f->ops->rename(f->dir, "temp", "new"), KM_NOT_FOUND, ENOENT);
    assert_int_equal(f->ops->rename(f->dir, "new", "new"), KM_OK);
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    file = open_existing(f, "new", OS_OPEN_READ);
    assert_int_equal(f->ops->read_at(file, 0, buffer, 3), KM_OK);
    assert_memory_equal(buffer, "new", 3);
    f->ops->close_file(file);
    assert_int_equal(f->ops->read_at(old, 0, buffer, 3), KM_OK); /* still open, still there */
    assert_memory_equal(buffer, "old", 3);
    f->ops->close_file(old);
}

static void rename_does_not_mix_files_and_folders(void **state)
{
    struct fixture *f = *state;
    struct os_dir *full = NULL;
    struct os_file *file = NULL;

    f->ops->close_file(create(f, "file", "x", 1));
    assert_int_equal(f->ops->create_subdir(f->dir, "empty"), KM_OK);
    assert_int_equal(f->ops->create_subdir(f->dir, "full"), KM_OK);
    assert_int_equal(f->ops->open_subdir(f->dir, "full", &full), KM_OK);
    assert_int_equal(f->ops->open_file(full, "a", OS_CREATE_NEW, &file), KM_OK);
    f->ops->close_file(file);
    ASSERT_FAILS(f, f->ops->rename(f->dir, "file", "empty"), KM_E_INVALID, EISDIR);
    ASSERT_FAILS(f, f->ops->rename(f->dir, "empty", "file"), KM_E_INVALID, ENOTDIR);
    ASSERT_FAILS(f, f->ops->rename(f->dir, "empty", "full"), KM_E_IO, ENOTEMPTY);
    assert_int_equal(f->ops->rename(f->dir, "full", "empty"), KM_OK);
    f->ops->close_dir(full);
}

static void unlinked_files_live_until_closed(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);
    uint8_t buffer[5];

    assert_int_equal(f->ops->unlink(f->dir, "a"), KM_OK);
    ASSERT_FAILS(f, f->ops->unlink(f->dir, "a"), KM_NOT_FOUND, ENOENT);
    assert_int_equal(f->ops->read_at(file, 0, buffer, 5), KM_OK);
    assert_memory_equal(buffer, "hello", 5);
    assert_int_equal(f->ops->write_at(file, 0, "later", 5), KM_OK);
    assert_int_equal(f->ops->sync(file), KM_OK);
    f->ops->close_file(file);
}

/* ---- mappings ---- */

static void map_read_sees_what_is_written(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);
    const uint8_t *bytes = NULL;

    assert_int_equal(f->ops->map_read(file, 5, &bytes), KM_OK);
    assert_memory_equal(bytes, "hello", 5);
    assert_int_equal(f->ops->write_at(file, 1, "a", 1), KM_OK);
    assert_memory_equal(bytes, "hallo", 5);
    f->ops->close_file(file); /* the mapping stays */
    assert_memory_equal(bytes, "hallo", 5);
    f->ops->unmap(f->os, bytes, 5);
}

static void large_mappings_begin_at_huge_pages(void **state)
{
    static const size_t sizes[] = {HUGE_SIZE, HUGE_SIZE + 1, 3 * HUGE_SIZE - 4096};
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);
    size_t i;

    assert_int_equal(f->ops->allocate(file, 3 * HUGE_SIZE), KM_OK);
    for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        const uint8_t *bytes = NULL;
        uint8_t *pages;
        assert_int_equal(f->ops->map_read(file, sizes[i], &bytes), KM_OK);
        assert_int_equal((uintptr_t)bytes % HUGE_SIZE, 0);
        assert_memory_equal(bytes, "hello", 5);
        assert_int_equal(bytes[sizes[i] - 1], 0);
        f->ops->unmap(f->os, bytes, sizes[i]);
        pages = km__map_pages(&f->os->allocator, sizes[i]);
        assert_non_null(pages);
        assert_int_equal((uintptr_t)pages % HUGE_SIZE, 0);
        assert_int_equal(pages[sizes[i] - 1], 0);
        pages[sizes[i] - 1] = 1;
        km__unmap_pages(&f->os->allocator, pages, sizes[i]);
    }
    f->ops->close_file(file);
}

static void map_shared_stores_reach_the_file(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "ring", "", 0);
    struct os_file *other;
    uint8_t *bytes = NULL;
    uint8_t buffer[8];

    assert_int_equal(f->ops->allocate(file, 65536), KM_OK);
    assert_int_equal(f->ops->map_shared(file, 65536, &bytes), KM_OK);
    assert_int_equal(bytes[65535], 0);
    memcpy(bytes + 40000, "stored", 6);
    other = open_existing(f, "ring", OS_OPEN_READ);
    assert_int_equal(f->ops->read_at(other, 40000, buffer, 6), KM_OK);
    assert_memory_equal(buffer, "stored", 6);
    assert_int_equal(f->ops->write_at(file, 40001, "T", 1), KM_OK);
    assert_memory_equal(bytes + 40000, "sTored", 6);
    f->ops->unmap(f->os, bytes, 65536);
    assert_int_equal(f->ops->read_at(other, 40000, buffer, 6), KM_OK);
    assert_memory_equal(buffer, "sTored", 6);
    f->ops->close_file(other);
    f->ops->close_file(file);
}

static void what_the_file_does_not_hold_cannot_be_mapped(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);
    const uint8_t *bytes = NULL;
    uint8_t *shared = NULL;

    ASSERT_FAILS(f, f->ops->map_read(file, 6, &bytes), KM_E_IO, 0);
    ASSERT_FAILS(f, f->ops->map_read(file, 0, &bytes), KM_E_INVALID, EINVAL);
    ASSERT_FAILS(f, f->ops->map_shared(file, 6, &shared), KM_E_IO, 0);
    f->ops->close_file(file);
    file = open_existing(f, "a", OS_OPEN_READ);
    ASSERT_FAILS(f, f->ops->map_shared(file, 5, &shared), KM_E_IO, EACCES);
    f->ops->close_file(file);
    f->ops->unmap(f->os, NULL, 5);
}

/* ---- the machine ---- */

static void clocks_go_forward(void **state)
{
    struct fixture *f = *state;
    uint64_t before = f->ops->now_ns(f->os);

    assert_true(f->ops->now_ns(f->os) >= before);
    assert_true(f->ops->wall_ms(f->os) > UINT64_C(1600000000000));
}

static void random_bytes_fill_the_whole_buffer(void **state)
{
    static const uint8_t zeros[512];
    struct fixture *f = *state;
    uint8_t a[512] = {0};
    uint8_t b[512] = {0};
    size_t i;

    assert_int_equal(f->ops->random(f->os, a, sizeof(a)), KM_OK);
    assert_int_equal(f->ops->random(f->os, b, sizeof(b)), KM_OK);
    assert_memory_not_equal(a, b, sizeof(a));
    for (i = 0; i < sizeof(a); i += 16) {
        assert_memory_not_equal(a + i, zeros, 16);
    }
    assert_int_equal(f->ops->random(f->os, NULL, 0), KM_OK);
}

static void the_machine_names_its_boot_and_its_processes(void **state)
{
    static const uint8_t zeros[OS_BOOT_ID_SIZE];
    struct fixture *f = *state;
    uint8_t a[OS_BOOT_ID_SIZE];
    uint8_t b[OS_BOOT_ID_SIZE];

    f->ops->boot_id(f->os, a);
    f->ops->boot_id(f->os, b);
    assert_memory_equal(a, b, sizeof(a));
    assert_memory_not_equal(a, zeros, sizeof(a));
    assert_true(f->ops->process_exists(f->os, f->ops->process_id(f->os)));
    assert_false(f->ops->process_exists(f->os, 0));
    assert_false(f->ops->process_exists(f->os, UINT32_MAX));
    assert_false(f->ops->process_exists(f->os, 1u << 30));
    assert_true(f->ops->processor_count(f->os) >= 1);
}

static int is_readable(int fd)
{
    struct pollfd waiting = {.fd = fd, .events = POLLIN};

    return poll(&waiting, 1, 0) == 1;
}

static void notify_makes_the_descriptor_readable(void **state)
{
    struct fixture *f = *state;
    uint64_t count = 0;
    int fd = -1;

    assert_int_equal(f->ops->open_notify_fd(f->os, &fd), KM_OK);
    assert_false(is_readable(fd));
    f->ops->notify_fd(f->os, fd);
    f->ops->notify_fd(f->os, fd);
    assert_true(is_readable(fd));
    assert_int_equal(read(fd, &count, 8), 8);
    assert_int_equal(count, 2);
    assert_false(is_readable(fd));
    f->ops->close_notify_fd(f->os, fd);
}

static void fork_word_is_set(void **state)
{
    struct fixture *f = *state;
    uint64_t *word = NULL;

    assert_int_equal(f->ops->fork_word(f->os, &word), KM_OK);
    if (word)
        assert_int_not_equal(*word, 0);
    f->ops->release_fork_word(f->os, word);
    f->ops->release_fork_word(f->os, NULL);
}

static void objects_are_zeroed(void **state)
{
    static const uint8_t zeros[100];
    struct fixture *f = *state;
    uint8_t *bytes = km__allocate(&f->os->allocator, 100);
    uint8_t *pages = km__map_pages(&f->os->allocator, 8192);
    void *nothing = km__allocate(&f->os->allocator, 0);

    assert_non_null(bytes);
    assert_non_null(pages);
    assert_non_null(nothing);
    assert_memory_equal(bytes, zeros, 100);
    assert_memory_equal(pages + 8092, zeros, 100);
    km__release(&f->os->allocator, bytes, 100);
    km__release(&f->os->allocator, nothing, 0);
    km__unmap_pages(&f->os->allocator, pages, 8192);
    km__release(&f->os->allocator, NULL, 5);
    km__unmap_pages(&f->os->allocator, NULL, 8192);
}

static void *fail_elsewhere(void *context)
{
    struct fixture *f = context;
    struct os_file *file = NULL;

    assert_int_equal(f->ops->open_file(f->dir, "none", OS_OPEN_READ, &file), KM_NOT_FOUND);
    return NULL;
}

static void last_error_belongs_to_the_thread(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);
    uint8_t byte;
    pthread_t thread;

    ASSERT_FAILS(f, f->ops->open_file(f->dir, "a/b", OS_OPEN_READ, &file), KM_E_INVALID, EINVAL);
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, f), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(f->ops->last_error(f->os), EINVAL);
    assert_int_equal(f->ops->read_at(file, 0, &byte, 1), KM_OK);
    assert_int_equal(f->ops->last_error(f->os), EINVAL); /* a success leaves it */
    f->ops->close_file(file);
}

/* ---- Linux alone ---- */

static void planted_links_are_not_followed(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = NULL;
    struct os_dir *dir = NULL;
    char path[200];

    assert_int_equal(symlink("/etc/passwd", path_below(f, "link", path)), 0);
    assert_int_equal(symlink("/etc", path_below(f, "folder", path)), 0);
    assert_int_equal(symlink("dangling", path_below(f, "dangling", path)), 0);
    ASSERT_FAILS(f, f->ops->open_file(f->dir, "link", OS_OPEN_READ, &file), KM_E_INVALID, ELOOP);
    ASSERT_FAILS(f, f->ops->open_file(f->dir, "link", OS_OPEN_WRITE, &file), KM_E_INVALID, ELOOP);
    ASSERT_FAILS(f, f->ops->open_file(f->dir, "dangling", OS_CREATE_NEW, &file), KM_EXISTS, EEXIST);
    assert_int_equal(f->ops->open_subdir(f->dir, "folder", &dir), KM_E_INVALID);
    /* but the store's own path may be one */
    assert_int_equal(f->ops->open_dir(f->os, path_below(f, "folder", path), &dir), KM_OK);
    f->ops->close_dir(dir);
}

static void fifos_and_devices_are_refused_at_once(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = NULL;
    struct os_dir *dev = NULL;
    char path[200];

    assert_int_equal(mkfifo(path_below(f, "fifo", path), 0600), 0);
    alarm(20); /* a waiting open would hang the test for ever */
    ASSERT_FAILS(f, f->ops->open_file(f->dir, "fifo", OS_OPEN_READ, &file), KM_E_INVALID, EINVAL);
    ASSERT_FAILS(f, f->ops->open_file(f->dir, "fifo", OS_OPEN_WRITE, &file), KM_E_INVALID, EINVAL);
    assert_int_equal(f->ops->open_dir(f->os, "/dev", &dev), KM_OK);
    ASSERT_FAILS(f, f->ops->open_file(dev, "null", OS_OPEN_WRITE, &file), KM_E_INVALID, EINVAL);
    alarm(0);
    f->ops->close_dir(dev);
}

static void files_and_folders_are_private(void **state)
{
    struct fixture *f = *state;
    struct stat status;
    char path[200];
    mode_t mask = umask(0);

    f->ops->close_file(create(f, "a", "x", 1));
    assert_int_equal(f->ops->create_subdir(f->dir, "b"), KM_OK);
    assert_int_equal(f->ops->create_dir(f->os, path_below(f, "c", path)), KM_OK);
    umask(mask);
    assert_int_equal(stat(path_below(f, "a", path), &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    assert_int_equal(stat(path_below(f, "b", path), &status), 0);
    assert_int_equal(status.st_mode & 07777, 0700);
    assert_int_equal(stat(path_below(f, "c", path), &status), 0);
    assert_int_equal(status.st_mode & 07777, 0700);
}

static void relative_paths_are_created(void **state)
{
    struct fixture *f = *state;
    char cwd[4096];
    struct stat status;

    assert_non_null(getcwd(cwd, sizeof(cwd)));
    assert_int_equal(chdir(f->path), 0);
    assert_int_equal(f->ops->create_dir(f->os, "plain"), KM_OK);
    assert_int_equal(f->ops->create_dir(f->os, "plain/below//"), KM_OK);
    assert_int_equal(f->ops->create_dir(f->os, "./dotted"), KM_OK);
    assert_int_equal(stat("plain/below", &status), 0);
    assert_int_equal(chdir(cwd), 0);
}

static void allocate_reserves_blocks(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "", 0);
    struct stat status;
    char path[200];

    assert_int_equal(f->ops->allocate(file, 1 << 20), KM_OK);
    assert_int_equal(stat(path_below(f, "a", path), &status), 0);
    assert_true(status.st_blocks * 512 >= 1 << 20);
    f->ops->close_file(file);
}

static int word_is_zero(struct fixture *f, void *word)
{
    (void)f;
    return *(uint64_t *)word == 0;
}

static int is_not_mapped(struct fixture *f, void *page)
{
    unsigned char resident;

    (void)f;
    return mincore(page, 4096, &resident) != 0 && errno == ENOMEM;
}

static void a_child_finds_the_fork_word_wiped_and_the_memory_gone(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "ring", "", 0);
    uint64_t *word = NULL;
    uint8_t *ring = NULL;
    void *small;
    void *large;

    assert_int_equal(f->ops->allocate(file, 8192), KM_OK);
    assert_int_equal(f->ops->fork_word(f->os, &word), KM_OK);
    assert_int_equal(f->ops->map_shared(file, 8192, &ring), KM_OK);
    small = km__map_pages(&f->os->allocator, 8192);
    large = km__map_pages(&f->os->allocator, HUGE_SIZE);
    assert_non_null(small);
    assert_non_null(large);
    assert_true(child_says_yes(word_is_zero, f, word));
    assert_int_equal(*word, 1);
    assert_true(child_says_yes(is_not_mapped, f, ring));
    assert_true(child_says_yes(is_not_mapped, f, small));
    assert_true(child_says_yes(is_not_mapped, f, large));
    f->ops->release_fork_word(f->os, word);
    f->ops->unmap(f->os, ring, 8192);
    km__unmap_pages(&f->os->allocator, small, 8192);
    km__unmap_pages(&f->os->allocator, large, HUGE_SIZE);
    f->ops->close_file(file);
}

static void limits_of_the_process_are_errors_not_signals(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "hello", 5);
    struct os_file *other = NULL;
    struct rlimit old;
    struct rlimit low;
    uint64_t size = 0;
    int fd = -1;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 4096;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    ASSERT_FAILS(f, f->ops->write_at(file, 4090, "1234567", 7), KM_E_FULL, EFBIG);
    ASSERT_FAILS(f, f->ops->allocate(file, 4097), KM_E_FULL, EFBIG);
    assert_int_equal(f->ops->write_at(file, 4090, "123456", 6), KM_OK);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(f->ops->file_size(file, &size), KM_OK);
    assert_int_equal(size, 4096);

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    low = old;
    low.rlim_cur = 3; /* all in use */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    ASSERT_FAILS(f, f->ops->open_file(f->dir, "a", OS_OPEN_READ, &other), KM_E_LIMIT, EMFILE);
    ASSERT_FAILS(f, f->ops->open_notify_fd(f->os, &fd), KM_E_LIMIT, EMFILE);
    ASSERT_FAILS(f, f->ops->list(f->dir, see_name, NULL), KM_E_LIMIT, EMFILE);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    f->ops->close_file(file);
}

static void *no_memory(void *context, size_t size)
{
    (void)context;
    (void)size;
    return NULL;
}

static void handles_come_from_the_allocator_table(void **state)
{
    struct fixture *f = *state;
    struct os poor = *f->os;
    struct os_dir *dir = NULL;
    struct stat status;
    char path[200];
    struct os_file *file = NULL;

    poor.allocator.allocate = no_memory;
    ASSERT_FAILS(f, f->ops->open_dir(&poor, f->path, &dir), KM_E_NO_MEMORY, ENOMEM);
    poor.allocator = f->os->allocator;
    assert_int_equal(f->ops->open_dir(&poor, f->path, &dir), KM_OK);
    poor.allocator.allocate = no_memory;
    ASSERT_FAILS(f, f->ops->open_file(dir, "a", OS_CREATE_NEW, &file), KM_E_NO_MEMORY, ENOMEM);
    assert_int_not_equal(stat(path_below(f, "a", path), &status), 0); /* and made no file */
    f->ops->close_dir(dir);
}

static void a_mapping_that_is_unmapped_is_gone_whole(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a", "", 0);
    const uint8_t *bytes = NULL;
    size_t size = 2 * HUGE_SIZE + 5;
    uint8_t *start;

    assert_int_equal(f->ops->allocate(file, size), KM_OK);
    assert_int_equal(f->ops->map_read(file, size, &bytes), KM_OK);
    start = (uint8_t *)(uintptr_t)bytes;
    assert_false(is_not_mapped(f, start + 2 * HUGE_SIZE));
    f->ops->unmap(f->os, bytes, size);
    assert_true(is_not_mapped(f, start));
    assert_true(is_not_mapped(f, start + 2 * HUGE_SIZE));
    f->ops->close_file(file);
}

static const struct CMUnitTest contract[] = {
    CASE(bytes_written_are_read_back_at_any_offset),
    CASE(read_past_the_end_is_an_error_without_errno),
    CASE(writing_through_a_read_handle_fails),
    CASE(a_write_beyond_what_files_can_be_is_full),
    CASE(open_reports_what_stands_at_the_name),
    CASE(names_are_single_components),
    CASE(allocate_sets_the_size_and_keeps_the_bytes),
    CASE(create_dir_takes_paths_as_people_write_them),
    CASE(files_of_a_subfolder_are_its_own),
    CASE(list_visits_every_name_once_until_told_to_stop),
    CASE(a_visitor_may_remove_what_it_visits),
    CASE(rename_replaces_the_target),
    CASE(rename_does_not_mix_files_and_folders),
    CASE(unlinked_files_live_until_closed),
    CASE(map_read_sees_what_is_written),
    CASE(large_mappings_begin_at_huge_pages),
    CASE(map_shared_stores_reach_the_file),
    CASE(what_the_file_does_not_hold_cannot_be_mapped),
    CASE(clocks_go_forward),
    CASE(random_bytes_fill_the_whole_buffer),
    CASE(the_machine_names_its_boot_and_its_processes),
    CASE(notify_makes_the_descriptor_readable),
    CASE(fork_word_is_set),
    CASE(objects_are_zeroed),
    CASE(last_error_belongs_to_the_thread),
};

static const struct CMUnitTest linux_alone[] = {
    CASE(planted_links_are_not_followed),
    CASE(fifos_and_devices_are_refused_at_once),
    CASE(files_and_folders_are_private),
    CASE(relative_paths_are_created),
    CASE(allocate_reserves_blocks),
    CASE(a_child_finds_the_fork_word_wiped_and_the_memory_gone),
    CASE(limits_of_the_process_are_errors_not_signals),
    CASE(handles_come_from_the_allocator_table),
    CASE(a_mapping_that_is_unmapped_is_gone_whole),
};

int main(void)
{
    return run_groups(contract, sizeof(contract) / sizeof(contract[0]), linux_alone,
                      sizeof(linux_alone) / sizeof(linux_alone[0]));
}
