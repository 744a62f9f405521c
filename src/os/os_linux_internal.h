/* SPDX-License-Identifier: Apache-2.0
 *
 * os_linux_internal.h -- what the files of the Linux platform share.
 */
#ifndef KM_OS_OS_LINUX_INTERNAL_H
#define KM_OS_OS_LINUX_INTERNAL_H

#include <stdatomic.h>

#include "base/compiler.h"
#include "os/os.h"

#define OS_LINUX_HUGE_PAGE ((size_t)2 << 20)

struct os_dir {
    struct os *os;
    int fd;
};

struct os_file {
    struct os *os;
    int fd;
    _Atomic uint32_t lock_pid; /* the process that locked, or 0: a forked child must not unlock */
};

/* Keep `os_error` for last_error() and return `status`. */
KM_INTERNAL km_status km__os_linux_fail_as(km_status status, int os_error);

/* Keep `os_error` for last_error() and return the status that os.h gives it. */
KM_INTERNAL km_status km__os_linux_fail(int os_error);

/* Address space of `size` bytes that begins at a multiple of 2 MiB, without access. NULL: see
 * errno. The range is whole pages; it is released by munmap() of those. */
KM_INTERNAL void *km__os_linux_reserve_aligned(size_t size);

/* The operations, each as os.h describes it. os_linux_dir.c: */
KM_INTERNAL int km__os_linux_name_is_valid(const char *name);
KM_INTERNAL km_status km__os_linux_open_dir(struct os *os, const char *path,
                                            struct os_dir **out_dir);
KM_INTERNAL km_status km__os_linux_create_dir(struct os *os, const char *path);
KM_INTERNAL km_status km__os_linux_open_subdir(struct os_dir *dir, const char *name,
                                               struct os_dir **out_dir);
KM_INTERNAL km_status km__os_linux_create_subdir(struct os_dir *dir, const char *name);
KM_INTERNAL void km__os_linux_close_dir(struct os_dir *dir);
KM_INTERNAL km_status km__os_linux_sync_dir(struct os_dir *dir);
KM_INTERNAL km_status km__os_linux_list(struct os_dir *dir,
                                        km_status (*visit)(void *context, const char *name),
                                        void *context);
KM_INTERNAL km_status km__os_linux_rename(struct os_dir *dir, const char *from, const char *to);
KM_INTERNAL km_status km__os_linux_unlink(struct os_dir *dir, const char *name);
KM_INTERNAL km_status km__os_linux_link(struct os_dir *from_dir, const char *from,
                                        struct os_dir *to_dir, const char *to);
KM_INTERNAL km_status km__os_linux_remove_subdir(struct os_dir *dir, const char *name);
KM_INTERNAL km_status km__os_linux_exchange(struct os *os, const char *path_a, const char *path_b);

/* os_linux_file.c: */
KM_INTERNAL km_status km__os_linux_open_file(struct os_dir *dir, const char *name,
                                             enum os_open_mode mode, struct os_file **out_file);
KM_INTERNAL void km__os_linux_close_file(struct os_file *file);
KM_INTERNAL km_status km__os_linux_file_size(struct os_file *file, uint64_t *out_size);
KM_INTERNAL km_status km__os_linux_read_at(struct os_file *file, uint64_t offset, void *buffer,
                                           size_t size);
KM_INTERNAL km_status km__os_linux_read_cached(struct os_file *file, uint64_t offset, void *buffer,
                                               size_t size);
KM_INTERNAL void km__os_linux_read_soon(struct os_file *file, uint64_t offset, uint64_t size);
KM_INTERNAL km_status km__os_linux_write_at(struct os_file *file, uint64_t offset,
                                            const void *bytes, size_t size);
KM_INTERNAL km_status km__os_linux_allocate(struct os_file *file, uint64_t size);
KM_INTERNAL km_status km__os_linux_sync(struct os_file *file);
KM_INTERNAL km_status km__os_linux_lock(struct os_file *file, enum os_lock kind);
KM_INTERNAL km_status km__os_linux_lock_range(struct os_file *file, uint64_t start,
                                              enum os_lock kind);
KM_INTERNAL km_status km__os_linux_unlock_range(struct os_file *file, uint64_t start);
KM_INTERNAL int km__os_linux_is_range_locked(struct os_file *file, uint64_t start, uint64_t size);

/* os_linux_ring.c: */
KM_INTERNAL km_status km__os_linux_open_ring(struct os *os, uint32_t depth, int notify_fd,
                                             struct os_ring **out_ring);
KM_INTERNAL void km__os_linux_close_ring(struct os_ring *ring);
KM_INTERNAL void km__os_linux_begin_reads(struct os_ring *ring, struct os_read *const *reads,
                                          size_t count);
KM_INTERNAL size_t km__os_linux_end_reads(struct os_ring *ring, struct os_read **out_reads,
                                          size_t room, uint64_t wait_ns);

/* os_linux_memory.c: */
KM_INTERNAL void km__os_linux_read_ahead(struct os_file *file, uint64_t size);
KM_INTERNAL km_status km__os_linux_map_read(struct os_file *file, uint64_t size,
                                            const uint8_t **out_bytes);
KM_INTERNAL km_status km__os_linux_map_shared(struct os_file *file, uint64_t size,
                                              uint8_t **out_bytes);
KM_INTERNAL void km__os_linux_unmap(struct os *os, const uint8_t *bytes, uint64_t size);
KM_INTERNAL km_status km__os_linux_make_resident(struct os *os, const uint8_t *bytes, uint64_t size,
                                                 int must_stay);
KM_INTERNAL km_status km__os_linux_fork_word(struct os *os, uint64_t **out_word);
KM_INTERNAL void km__os_linux_release_fork_word(struct os *os, uint64_t *word);
KM_INTERNAL void *km__os_linux_allocate_memory(void *context, size_t size);
KM_INTERNAL void km__os_linux_release_memory(void *context, void *memory, size_t size);
KM_INTERNAL void *km__os_linux_map_pages(void *context, size_t size);
KM_INTERNAL void km__os_linux_unmap_pages(void *context, void *memory, size_t size);

#endif
