/* SPDX-License-Identifier: Apache-2.0
 *
 * sim.h -- a simulated machine behind struct os: a disk in memory that tests can crash, tear, fill
 * and make fail, with a clock, a process table and an allocator of its own.
 *
 * The model. Each file has what processes see (the page cache) and what is durable; each folder has
 * the names seen and the names durable.
 *   - write_at() and allocate() change the cache. sync() makes the file's bytes and size durable.
 *     sync_dir() makes the folder's names durable; nothing else does, and nothing is ordered across
 *     files or between names and contents. create_dir() is a mkdir and a sync_dir() of the parent.
 *   - A kill leaves the cache and the names as they are, and the stores made through map_shared()
 * too. Locks are released; the process gets a new number, the boot id stays.
 *   - A power cut decides for each 512-byte sector anew: the durable bytes, or any version that was
 *     written since the last sync; the size likewise (what was never written reads as zeros). It
 * decides for each name: what it was bound to durably, or anything it was bound to since. So a
 * rename may leave both names or none, and a file of which no name is found is gone. A link is one
 * more name of the same file: each name is decided for itself, the bytes are the same under all of
 * them. An exchange and its sync are one moment: both names are swapped, for good, or none. In a
 * mapping made by map_shared(), a sector may be as now, as at any of the last 4 laps, or as it was
 * before (mixed laps); a lap is taken by each sync of anything and by km__sim_ring_lap(). What is
 * found after the cut is durable. Boot id and process number are new, the monotonic clock starts
 * anew.
 *   - A sync that fails by injection has lost its pages, as on Linux: what it should have written
 *     became durable sector by sector at random, and no later sync makes up for it, although the
 * cache still shows it. The same holds for the names of a sync_dir() that fails.
 *
 * Locks are of handles: two handles of one file are to each other as those of two processes.
 * make_resident() does nothing, but fails when told to. A link into another machine's folder is one
 * across file systems.
 *
 * Steps. Each call that changes the disk (create_dir, create_subdir, remove_subdir, sync_dir,
 * rename, exchange, unlink, link, open_file to create, write_at, allocate, sync, map_shared) is a
 * step. A hook runs before and after each, and may clone the machine as a kill or a power cut at
 * that moment would leave it. A clone is independent of its origin, shares blocks with it (copy on
 * write), inherits no hook, fault or cut, and is destroyed by km__sim_destroy(). The preferred way:
 * run the workload once, and at every step clone, recover, check. Or cut the run itself with
 * km__sim_set_cut().
 *
 * All functions take the struct os that km__sim_create() or a clone returned. Calls of the table
 * and the controls may be made by any thread: one recursive mutex guards all. The hook runs under
 * it; calls that it makes on the same machine are not steps. What threads store into a map_shared()
 * mapping while a lap or clone is taken is seen word by word (8 bytes) as old or new. A mistake in
 * the use of the table (a wrong size at release or unmap, a store into a read-only mapping, a
 * foreign pointer) aborts the test with a message.
 */
#ifndef KM_TEST_SIM_SIM_H
#define KM_TEST_SIM_SIM_H

#include <stdint.h>

#include "os/os.h"

enum sim_op {
    SIM_ANY, /* in filters: every fallible call */
    SIM_OPEN_DIR,
    SIM_CREATE_DIR, /* its mkdir; the sync of the parent is a SIM_SYNC_DIR */
    SIM_OPEN_SUBDIR,
    SIM_CREATE_SUBDIR,
    SIM_SYNC_DIR,
    SIM_LIST,
    SIM_RENAME,
    SIM_UNLINK,
    SIM_LINK,
    SIM_RMDIR,
    SIM_EXCHANGE,
    SIM_OPEN_FILE,   /* OS_OPEN_READ and OS_OPEN_WRITE */
    SIM_CREATE_FILE, /* OS_CREATE_NEW */
    SIM_FILE_SIZE,
    SIM_READ,
    SIM_WRITE,
    SIM_ALLOCATE,
    SIM_SYNC,
    SIM_MAP_READ,
    SIM_MAP_SHARED,
    SIM_RESIDENT,
    SIM_LOCK,
    SIM_LOCK_RANGE, /* lock_range and unlock_range */
    SIM_RANDOM,
    SIM_FORK_WORD,
    SIM_NOTIFY_FD,
    SIM_OP_COUNT
};

enum sim_power {
    SIM_POWER_RANDOM, /* each sector, size and name for itself */
    SIM_POWER_LOST,   /* nothing that was not synced */
    SIM_POWER_KEPT,   /* everything */
    SIM_POWER_PREFIX, /* what was done up to a random moment; mapped: one lap as a whole */
    SIM_POWER_SUFFIX, /* only what was done after a random moment; mapped: current up to a random
                         sector, old after it */
    SIM_POWER_MODE_COUNT
};

/* ---- life. A new machine has an empty root folder; "a/b" and "/a/b" are the same path. */
struct os *km__sim_create(uint64_t seed);
void km__sim_destroy(struct os *sim); /* NULL is accepted */

/* ---- crashes by cloning */
struct os *km__sim_clone_after_kill(struct os *sim);
/* As above; in the hook before a write_at, a random prefix of that write has been made. */
struct os *km__sim_clone_after_kill_torn(struct os *sim, uint64_t seed);
/* As km__sim_clone_after_kill(); of the 8-byte words of shared mappings that changed since the last
 * lap, only some have been stored: by seed a prefix in address order, or any subset. */
struct os *km__sim_clone_after_kill_torn_ring(struct os *sim, uint64_t seed);
/* In the hook before a write_at, SIM_POWER_RANDOM takes a prefix of that write into its choice. */
struct os *km__sim_clone_after_power_cut(struct os *sim, uint64_t seed, enum sim_power mode);

/* Call fn before the step (number 2n, n from 0) and after it (2n+1); NULL: no more. */
void km__sim_on_step(struct os *sim, void (*fn)(void *context, uint64_t step), void *context);
uint64_t km__sim_step_count(struct os *sim);    /* steps begun so far */
enum sim_op km__sim_current_op(struct os *sim); /* in the hook: of this step; else SIM_ANY */
void km__sim_ring_lap(struct os *sim);

/* ---- crashes by ending the run */
/* The n-th step from now (1: the next; 0: none) happens in part at most, by the seed: a prefix of a
 * write, all or nothing of others. From then on the machine is dead: in km__sim_run(), on its
 * thread, the call does not return but ends the run; elsewhere it and all later calls return
 * KM_E_IO (EIO), and nothing reaches the disk any more, stores into mappings neither. Clone the
 * dead machine to find what is left. */
void km__sim_set_cut(struct os *sim, uint64_t nth_step);
int km__sim_is_dead(struct os *sim);
/* Call body(context); 1 if a cut ended it, 0 if it returned. Body must run on this thread alone. */
int km__sim_run(struct os *sim, void (*body)(void *context), void *context);
/* Release all memory, mappings, handles and descriptors the cut run had not. */
void km__sim_reclaim_memory(struct os *sim);

/* ---- faults. At most 8 are pending at once. A failed call does nothing, but see the model on
 * syncs. */
void km__sim_fail_call(struct os *sim, enum sim_op op, uint64_t nth, km_status status,
                       int os_error);
void km__sim_fail_from(struct os *sim, enum sim_op op, uint64_t nth, km_status status,
                       int os_error);
/* The nth write_at from now fails after a random part (less than all) was written. */
void km__sim_fail_write_short(struct os *sim, uint64_t nth, km_status status, int os_error);
void km__sim_clear_faults(struct os *sim);
uint64_t km__sim_call_count(struct os *sim, enum sim_op op); /* so far; SIM_ANY: of all fallible */
void km__sim_set_capacity(struct os *sim, uint64_t bytes);   /* KM_E_FULL beyond; 0: no limit */

/* ---- memory. allocate() and map_pages() count as one sequence. */
void km__sim_fail_allocation(struct os *sim, uint64_t nth); /* from now, 1: the next; 0: none */
void km__sim_fail_allocations_from(struct os *sim, uint64_t nth);
uint64_t km__sim_allocation_count(struct os *sim);
uint64_t km__sim_allocated_bytes(struct os *sim); /* not yet released, handles included */
uint64_t km__sim_open_count(struct os *sim);      /* handles, mappings and descriptors */

/* ---- the machine around */
void km__sim_set_time(struct os *sim, uint64_t now_ns); /* each call adds 1 us */
void km__sim_advance(struct os *sim, uint64_t ns);
void km__sim_set_wall(struct os *sim, uint64_t wall_ms); /* goes on with the clock from there */
void km__sim_set_process_exists(struct os *sim, uint32_t process_id, int exists);
void km__sim_fork(struct os *sim); /* zero the fork words, as a child would find them */

/* ---- the disk from outside, as damage or a restored backup: at once visible and durable. Paths as
 * in "store/log/00000001.segment". No steps, no faults, no capacity. 0, or -1 if there is no such
 * file; what the functions create needs its folder to be there. */
int km__sim_read_path(struct os *sim, const char *path, uint8_t **out_bytes,
                      size_t *out_size); /* free() */
int km__sim_write_path(struct os *sim, const char *path, const void *bytes,
                       size_t size); /* new file */
int km__sim_overwrite_path(struct os *sim, const char *path, uint64_t offset, const void *bytes,
                           size_t size);                                    /* in place */
int km__sim_truncate_path(struct os *sim, const char *path, uint64_t size); /* or extend by zeros */
int km__sim_delete_path(struct os *sim, const char *path); /* a file, or an empty folder */
int km__sim_flip_bit(struct os *sim, const char *path, uint64_t bit_index);
/* Files, not folders, in path order. */
void km__sim_list_paths(struct os *sim,
                        void (*visit)(void *context, const char *path, uint64_t size),
                        void *context);
/* Sizes of all files, unlinked but open ones too; each once, however many names it has. */
uint64_t km__sim_total_bytes(struct os *sim);

#endif
