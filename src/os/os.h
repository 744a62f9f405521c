/* SPDX-License-Identifier: Apache-2.0
 *
 * os.h -- the platform as a table of functions: os_linux*.c is the machine, test/sim a simulation.
 *
 * Everything the engine does to the world outside its memory goes through this table, so a test can
 * cut a run, tear what was not synced, or fail any call. Names are single components inside a
 * folder handle; files are opened relative to it, never through a symbolic link.
 *
 * Statuses: KM_E_IO (see last_error), KM_E_FULL for ENOSPC/EDQUOT/EFBIG, KM_E_LIMIT for
 * EMFILE/ENFILE, KM_E_NO_MEMORY, KM_NOT_FOUND for ENOENT, KM_EXISTS for EEXIST, KM_E_INVALID for
 * "not a regular file" or "not a folder", KM_E_UNSUPPORTED where the machine or the file system has
 * no such thing. All functions may be called by any thread at once.
 */
#ifndef KM_OS_OS_H
#define KM_OS_OS_H

#include <stddef.h>
#include <stdint.h>

#include "base/alloc.h"
#include "keepmap/keepmap.h"

#define OS_BOOT_ID_SIZE 16
#define OS_LOCK_SIZE                                                                               \
    4096 /* lock() is of the bytes before this offset, lock_range() of those after */

struct os_dir;  /* an open folder */
struct os_file; /* an open file */
struct os_ring; /* reads that the machine makes by itself */
struct os;

enum os_open_mode {
    OS_OPEN_READ,
    OS_OPEN_WRITE, /* read and write, the file exists */
    OS_CREATE_NEW  /* read and write; KM_EXISTS if the name is taken; mode 0600 */
};

enum os_lock { OS_LOCK_SHARED, OS_LOCK_EXCLUSIVE };

/* A read that is under way, in memory of the caller's, as is its buffer, until it has ended. */
struct os_read {
    struct os_file *file;
    uint64_t offset;
    uint8_t *buffer;
    size_t size;      /* at least 1 */
    size_t done;      /* bytes that are there; 0 to begin with */
    km_status status; /* when it has ended: as that of read_at() */
};

struct os_ops {
    /* ---- folders. `path` is a whole path, `name` a single component. */
    km_status (*open_dir)(struct os *os, const char *path, struct os_dir **out_dir);
    km_status (*create_dir)(struct os *os, const char *path); /* parent synced, also if KM_EXISTS */
    km_status (*open_subdir)(struct os_dir *dir, const char *name, struct os_dir **out_dir);
    km_status (*create_subdir)(struct os_dir *dir, const char *name); /* not yet durable */
    void (*close_dir)(struct os_dir *dir);                            /* NULL is accepted */
    /* Make names created, renamed or removed in the folder durable. */
    km_status (*sync_dir)(struct os_dir *dir);
    /* Call visit for every name but . and ..; a status other than KM_OK ends the list. */
    km_status (*list)(struct os_dir *dir, km_status (*visit)(void *context, const char *name),
                      void *context);
    /* Replaces `to`. If both are names of one file already, nothing happens: both stay. */
    km_status (*rename)(struct os_dir *dir, const char *from, const char *to);
    km_status (*unlink)(struct os_dir *dir, const char *name);
    /* A hard link: `to` becomes one more name of the regular file `from`; not yet durable. No
     * symbolic link is followed. KM_EXISTS if `to` is there; KM_E_UNSUPPORTED where it cannot be
     * done (another file system, too many names, not allowed): the caller copies then. */
    km_status (*link)(struct os_dir *from_dir, const char *from, struct os_dir *to_dir,
                      const char *to);
    /* Not yet durable. KM_E_INVALID if the folder is not empty, or is none. */
    km_status (*remove_subdir)(struct os_dir *dir, const char *name);
    /* Swap the names of two folders beside each other and make that durable; at each moment both
     * names are there. KM_E_UNSUPPORTED where the file system cannot. After KM_E_IO they may have
     * been swapped or not, until a sync of the folder above. */
    km_status (*exchange)(struct os *os, const char *path_a, const char *path_b);

    /* ---- files */
    km_status (*open_file)(struct os_dir *dir, const char *name, enum os_open_mode mode,
                           struct os_file **out_file);
    void (*close_file)(struct os_file *file); /* NULL is accepted */
    km_status (*file_size)(struct os_file *file, uint64_t *out_size);
    /* All of it or an error; a file that ends before is KM_E_IO with os_error 0. */
    km_status (*read_at)(struct os_file *file, uint64_t offset, void *buffer, size_t size);
    /* As read_at(), if that can be done without waiting for the disk: else KM_WOULD_BLOCK, and any
     * part may have been read. KM_E_UNSUPPORTED if the machine cannot tell. */
    km_status (*read_cached)(struct os_file *file, uint64_t offset, void *buffer, size_t size);
    /* These bytes will be read soon, and none near them: begin to bring them into memory. */
    void (*read_soon)(struct os_file *file, uint64_t offset, uint64_t size);
    /* All of it or an error. After an error any part may have been written. */
    km_status (*write_at)(struct os_file *file, uint64_t offset, const void *bytes, size_t size);
    /* Reserve blocks for the first `size` bytes, and make that the size; new bytes read as 0. */
    km_status (*allocate)(struct os_file *file, uint64_t size);
    /* Make all written bytes, and the size, durable (fdatasync). */
    km_status (*sync)(struct os_file *file);

    /* ---- rings: up to `depth` reads under way at once. A ring belongs to one thread at a time,
     * and to the process that opened it. */
    /* Whenever a read has ended, notify_fd is notified. KM_E_UNSUPPORTED where there is no such
     * thing, or this process may not use it. */
    km_status (*open_ring)(struct os *os, uint32_t depth, int notify_fd, struct os_ring **out_ring);
    /* No read of this process is under way; NULL is accepted. */
    void (*close_ring)(struct os_ring *ring);
    void (*begin_reads)(struct os_ring *ring, struct os_read *const *reads, size_t count);
    /* Reads that have ended, `room` at most: how many. If there are none, and some are under way,
     * it waits for one, for up to wait_ns, or less for no reason. */
    size_t (*end_reads)(struct os_ring *ring, struct os_read **out_reads, size_t room,
                        uint64_t wait_ns);

    /* ---- mappings of whole files */
    /* Read-only, for random access. Aligned to 2 MiB if the file is that large. */
    km_status (*map_read)(struct os_file *file, uint64_t size, const uint8_t **out_bytes);
    /* The first `size` bytes will be read from front to back: begin to bring them into memory. */
    void (*read_ahead)(struct os_file *file, uint64_t size);
    /* Shared and writable, resident: stores survive the process, not a power cut. Not inherited by
     * fork. */
    km_status (*map_shared)(struct os_file *file, uint64_t size, uint8_t **out_bytes);
    void (*unmap)(struct os *os, const uint8_t *bytes, uint64_t size);
    /* Bring the pages of a mapping into memory, as far as that is possible. With must_stay they are
     * pinned there until unmap(), or it is an error: KM_E_LIMIT if the process may not pin so much,
     * KM_E_NO_MEMORY. */
    km_status (*make_resident)(struct os *os, const uint8_t *bytes, uint64_t size, int must_stay);

    /* ---- locks: held until unlock, close or the end of the process, not inherited by a child's
     * children. KM_E_LOCKED if another handle, in this process or another, holds it against us.
     * Nothing waits. An exclusive lock takes a handle for writing. */
    km_status (*lock)(struct os_file *file, enum os_lock kind);
    /* The same of the single byte at `start`, OS_LOCK_SIZE at least, so it never meets lock(). The
     * byte need not be there. Locking again changes the kind. KM_E_UNSUPPORTED on a machine that
     * can lock whole files only. */
    km_status (*lock_range)(struct os_file *file, uint64_t start, enum os_lock kind);
    km_status (*unlock_range)(struct os_file *file,
                              uint64_t start); /* KM_OK if it was not locked */
    /* 1 if another handle holds any lock, lock() included, on one of `size` bytes from `start`; 0
     * if not, or if the machine cannot tell. */
    int (*is_range_locked)(struct os_file *file, uint64_t start, uint64_t size);

    /* ---- the machine */
    uint64_t (*now_ns)(struct os *os);  /* never goes back; for intervals */
    uint64_t (*wall_ms)(struct os *os); /* since 1970, UTC */
    km_status (*random)(struct os *os, void *bytes, size_t size);
    void (*boot_id)(struct os *os, uint8_t id[OS_BOOT_ID_SIZE]); /* zeros if there is none */
    uint32_t (*process_id)(struct os *os);
    int (*process_exists)(struct os *os, uint32_t process_id);
    uint32_t (*processor_count)(struct os *os);
    /* A word that a child process of fork() finds zeroed; NULL if the machine has no such thing. */
    km_status (*fork_word)(struct os *os, uint64_t **out_word);
    void (*release_fork_word)(struct os *os, uint64_t *word);
    /* A descriptor that becomes readable by notify_fd() (an eventfd). */
    km_status (*open_notify_fd)(struct os *os, int *out_fd);
    void (*notify_fd)(struct os *os, int fd);
    void (*clear_notify_fd)(struct os *os, int fd); /* not readable any more */
    void (*close_notify_fd)(struct os *os, int fd);
    /* errno of this thread's last call of this table that returned an error, or 0 */
    int (*last_error)(struct os *os);
};

struct os {
    const struct os_ops *ops;
    struct allocator allocator;
};

/* The machine we run on. */
struct os *km__os_linux(void);

#endif
