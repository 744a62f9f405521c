/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_internal.h -- what the files of the simulated machine share. sim.h has the model.
 *
 *   sim_content.c  the bytes of a file: reference-counted blocks
 *   sim_node.c     files and folders with their two states and what happened since the last sync
 *   sim_call.c     how every call runs: clock, hooks, faults, cuts
 *   sim_files.c    the operations of the table on folders and files
 *   sim_names.c    those that give one more name, or take or swap names of folders
 *   sim_locks.c    locks
 *   sim_maps.c     mappings and laps
 *   sim_power.c    clones: what a kill or a power cut leaves
 *   sim_memory.c   the allocator
 *   sim_access.c   the disk from outside
 *   sim.c          life, clocks, processes
 */
#ifndef KM_TEST_SIM_SIM_INTERNAL_H
#define KM_TEST_SIM_SIM_INTERNAL_H

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "sim/sim.h"

#define SIM_BLOCK_SIZE 4096u
#define SIM_SECTOR_SIZE 512u
#define SIM_LAP_COUNT 4u
#define SIM_FAULT_COUNT 8u
#define SIM_PROCESS_COUNT 8u
#define SIM_NAME_MAX 255u

_Noreturn void km__sim_abort(const char *message);
void *km__sim_xalloc(size_t size); /* zeroed; aborts if there is none */
void *km__sim_xgrow(void *memory, size_t size);

/* ---- random numbers: splitmix64 */
struct sim_rng {
    uint64_t state;
};
uint64_t km__sim_next(struct sim_rng *rng);
uint64_t km__sim_below(struct sim_rng *rng, uint64_t limit); /* 0 to limit - 1; limit > 0 */

void km__sim_fill_random(struct sim_rng *rng, void *bytes, size_t size);

/* ---- contents. A NULL block is zeros; bytes of the last block after `size` are zero. */
struct sim_block {
    _Atomic uint32_t reference_count; /* clones may belong to other threads */
    uint8_t bytes[SIM_BLOCK_SIZE];
};
struct sim_content {
    struct sim_block **blocks;
    size_t block_count;
    uint64_t size;
};
void km__sim_content_copy(struct sim_content *to,
                          const struct sim_content *from); /* `to` is empty */
void km__sim_content_clear(struct sim_content *content);
void km__sim_content_move(struct sim_content *to, struct sim_content *from); /* replaces `to` */
void km__sim_content_resize(struct sim_content *content, uint64_t size);
void km__sim_content_read(const struct sim_content *content, uint64_t offset, void *buffer,
                          size_t size); /* zeros after the end */
void km__sim_content_write(struct sim_content *content, uint64_t offset, const void *bytes,
                           size_t size);

/* ---- nodes */
/* One change of a file since its last sync: sectors as they were after it, and the size. */
struct sim_write {
    _Atomic uint32_t reference_count;
    uint64_t stamp;
    uint64_t first_sector;
    size_t sector_count; /* 0: only the size changed */
    uint64_t size_after;
    uint8_t bytes[];
};
/* A name and what it is bound to; node NULL (in a history only): removed. */
struct sim_binding {
    char name[SIM_NAME_MAX + 1];
    struct sim_node *node;
    uint64_t stamp;
};
struct sim_names {
    struct sim_binding *items;
    size_t count;
    size_t capacity;
};
struct sim_node {
    struct sim *sim;
    struct sim_node *next; /* list of all nodes of the machine */
    struct sim_node *previous;
    struct sim_node *twin; /* its copy, while a clone is being made */
    int is_dir;
    uint32_t reference_count; /* bindings anywhere, handles, mappings */
    uint32_t link_count;      /* visible names */
    uint32_t user_count;      /* handles and mappings */
    int lied; /* a failed sync lost changes: durable and visible differ beyond the history */

    struct sim_content visible; /* files; behind live shared mappings until km__sim_fold() */
    struct sim_content durable;
    struct sim_write **history;
    size_t history_count;
    size_t history_capacity;
    struct sim_content laps[SIM_LAP_COUNT]; /* of shared mappings, newest last */
    size_t lap_count;
    uint64_t mapped_size; /* bytes mapped shared since the last sync, 0 if none */

    struct sim_names names; /* folders */
    struct sim_names durable_names;
    struct sim_names name_history;
};
struct sim_node *km__sim_node_create(struct sim *sim, int is_dir);
void km__sim_node_hold(struct sim_node *node);
void km__sim_node_release(struct sim_node *node); /* NULL is accepted */
void km__sim_node_free_all(struct sim *sim);
void km__sim_write_hold(struct sim_write *write);
void km__sim_history_push(struct sim_node *node, struct sim_write *write);
void km__sim_history_clear(struct sim_node *node);
struct sim_node *km__sim_names_find(const struct sim_names *names, const char *name);
void km__sim_names_set(struct sim_names *names, const char *name, struct sim_node *node);
void km__sim_names_push(struct sim_names *names, const char *name, struct sim_node *node,
                        uint64_t stamp);
void km__sim_names_clear(struct sim_names *names);
void km__sim_names_copy(struct sim_names *to, const struct sim_names *from); /* replaces `to` */
/* Bind (node NULL: unbind) a visible name, in the history too. */
void km__sim_bind(struct sim_node *dir, const char *name, struct sim_node *node, uint64_t stamp);
/* Change a file's visible bytes or size, with history, and the mappings of it. */
void km__sim_node_write(struct sim_node *node, uint64_t offset, const void *bytes, size_t size);
void km__sim_node_resize(struct sim_node *node, uint64_t size);
void km__sim_node_sync(struct sim_node *node);
void km__sim_node_sync_failed(struct sim_node *node, struct sim_rng *rng);

/* ---- choosing what an unsynced change came to */
struct sim_choice {
    struct sim_rng *rng;
    enum sim_power mode;
    uint64_t stamp; /* the moment of SIM_POWER_PREFIX and _SUFFIX */
};
/* Whether a change made at `stamp` takes the place of the state chosen so far; `seen` counts the
 * changes of this sector, size or name before it. Asked for each change in order, every version is
 * equally likely. */
int km__sim_choose(struct sim_choice *choice, uint64_t stamp, uint32_t seen);
void km__sim_choose_content(const struct sim_node *node, struct sim_choice *choice,
                            struct sim_content *out);
void km__sim_choose_names(const struct sim_node *dir, struct sim_choice *choice,
                          struct sim_names *out);

/* ---- handles and mappings */
struct os_dir {
    struct sim *sim;
    struct sim_node *node;
    struct os_dir *next;
};
struct os_file {
    struct sim *sim;
    struct sim_node *node;
    struct os_file *next;
    int is_writable;
    int lock; /* of all before OS_LOCK_SIZE: 0 none, 1 shared, 2 exclusive */
    struct sim_byte_lock *byte_locks;
    size_t byte_lock_count;
};
struct sim_byte_lock {
    uint64_t start;
    int lock; /* 1 shared, 2 exclusive */
};
struct sim_mapping {
    struct sim_mapping *next;
    struct sim_node *node;
    uint8_t *bytes;
    uint64_t size;
    uint32_t user_count;
    int is_shared; /* stores go to the file */
    int is_frozen; /* the machine died: they do not any more */
};
void km__sim_fold(struct sim_node *node); /* bring stores of shared mappings into node->visible */
uint64_t km__sim_shared_size(const struct sim_node *node); /* of its live shared mapping, or 0 */
void km__sim_fold_all(struct sim *sim);
void km__sim_freeze_all(struct sim *sim);
void km__sim_lap_all(struct sim *sim);
void km__sim_update_mappings(struct sim_node *node, uint64_t offset, uint64_t size);
void km__sim_unmap_all(struct sim *sim);

/* ---- memory */
struct sim_memory {
    struct sim_memory *next;
    struct sim_memory *previous;
    void *bytes;
    size_t size;
};
void km__sim_memory_init(struct sim *sim);
void km__sim_memory_free_all(struct sim *sim);

/* ---- the machine */
struct sim_fault {
    enum sim_op op;
    uint64_t countdown; /* 0: unused */
    int is_sticky;
    int is_short;
    km_status status;
    int os_error;
};
struct sim {
    struct os os;          /* first: a struct os * of ours is a struct sim * */
    pthread_mutex_t mutex; /* recursive; guards all below */
    struct sim_rng rng;
    struct sim_node *nodes;
    struct sim_node *root;
    struct os_dir *dirs;
    struct os_file *files;
    struct sim_mapping *mappings;
    uint64_t stamp; /* of the last change */

    void (*hook)(void *context, uint64_t step);
    void *hook_context;
    int is_in_hook;
    struct sim_call *pending; /* the step that is about to be made */
    enum sim_op current_op;
    uint64_t step_count;
    uint64_t cut_countdown;
    int is_dead;
    int is_running; /* in km__sim_run(), by run_thread */
    pthread_t run_thread;
    jmp_buf run_end;

    struct sim_fault faults[SIM_FAULT_COUNT];
    uint64_t call_counts[SIM_OP_COUNT];
    uint64_t capacity;

    struct sim_memory objects; /* heads of rings of what is allocated */
    struct sim_memory pages;
    uint64_t allocated_bytes;
    uint64_t allocation_count;
    uint64_t allocation_countdown;
    int allocation_is_sticky;

    uint64_t now_ns;
    uint64_t wall_ms; /* at wall_base_ns */
    uint64_t wall_base_ns;
    uint8_t boot_id[OS_BOOT_ID_SIZE];
    uint32_t process_id;
    uint32_t processes[SIM_PROCESS_COUNT]; /* others that exist */
    int *notify_fds;
    size_t notify_fd_count;
    uint64_t fork_word;
    uint32_t fork_word_user_count;
};
struct sim *km__sim_new(uint64_t seed); /* without a root */
extern const struct os_ops km__sim_ops;
struct sim *km__sim_of(struct os *os);
void km__sim_lock(struct sim *sim);
void km__sim_unlock(struct sim *sim);
uint64_t km__sim_used_bytes(struct sim *sim); /* of visible or open files */
/* NULL if it is not there: *out_error is ENOENT, ENOTDIR or ENAMETOOLONG. */
struct sim_node *km__sim_resolve(struct sim *sim, const char *path, int *out_error);
/* The folder of a path's last component, which is copied; NULL if there is none. */
struct sim_node *km__sim_resolve_parent(struct sim *sim, const char *path,
                                        char name[SIM_NAME_MAX + 1], int *out_error);

/* ---- calls */
struct sim_call {
    enum sim_op op;
    /* Do it, locked; or fail having done nothing, by km__sim_fail(). Makes no handles. */
    km_status (*apply)(struct sim *sim, struct sim_call *call);
    struct sim_node *node; /* the file, or the folder of `name` */
    struct sim_node *to_node;
    const char *name;
    const char *to;
    struct os_file *file;
    struct sim_node *found;
    const void *bytes;
    void *buffer;
    uint64_t offset;
    uint64_t size;
    int mode;
    int os_error;
};
/* Run a call: clock, dead machine, faults, hooks, cut, apply, `finish` (may be NULL) under the same
 * lock. The result is the caller's to return. */
km_status km__sim_call(struct sim *sim, struct sim_call *call,
                       void (*finish)(struct sim *sim, struct sim_call *call));
km_status km__sim_fail(struct sim_call *call, km_status status, int os_error);
int km__sim_last_error(struct os *os);
void km__sim_set_last_error(int os_error);
km_status km__sim_fail_lookup(struct sim_call *call, int os_error);    /* ENOENT, ENOTDIR, ... */
km_status km__sim_check_name(struct sim_call *call, const char *name); /* a single component */

/* ---- the operations that fill km__sim_ops (as os.h describes them) */
km_status km__sim_open_dir(struct os *os, const char *path, struct os_dir **out_dir);
km_status km__sim_create_dir(struct os *os, const char *path);
km_status km__sim_open_subdir(struct os_dir *dir, const char *name, struct os_dir **out_dir);
km_status km__sim_create_subdir(struct os_dir *dir, const char *name);
void km__sim_close_dir(struct os_dir *dir);
km_status km__sim_sync_dir(struct os_dir *dir);
km_status km__sim_list(struct os_dir *dir, km_status (*visit)(void *context, const char *name),
                       void *context);
km_status km__sim_rename(struct os_dir *dir, const char *from, const char *to);
km_status km__sim_unlink(struct os_dir *dir, const char *name);
km_status km__sim_link(struct os_dir *from_dir, const char *from, struct os_dir *to_dir,
                       const char *to);
km_status km__sim_remove_subdir(struct os_dir *dir, const char *name);
km_status km__sim_exchange(struct os *os, const char *path_a, const char *path_b);
km_status km__sim_open_file(struct os_dir *dir, const char *name, enum os_open_mode mode,
                            struct os_file **out_file);
void km__sim_close_file(struct os_file *file);
km_status km__sim_file_size(struct os_file *file, uint64_t *out_size);
km_status km__sim_read_at(struct os_file *file, uint64_t offset, void *buffer, size_t size);
km_status km__sim_write_at(struct os_file *file, uint64_t offset, const void *bytes, size_t size);
km_status km__sim_allocate(struct os_file *file, uint64_t size);
km_status km__sim_sync(struct os_file *file);
void km__sim_read_ahead(struct os_file *file, uint64_t size);
km_status km__sim_map_read(struct os_file *file, uint64_t size, const uint8_t **out_bytes);
km_status km__sim_map_shared(struct os_file *file, uint64_t size, uint8_t **out_bytes);
void km__sim_unmap(struct os *os, const uint8_t *bytes, uint64_t size);
km_status km__sim_make_resident(struct os *os, const uint8_t *bytes, uint64_t size, int must_stay);
km_status km__sim_lock_file(struct os_file *file, enum os_lock kind);
km_status km__sim_lock_range(struct os_file *file, uint64_t start, enum os_lock kind);
km_status km__sim_unlock_range(struct os_file *file, uint64_t start);
int km__sim_is_range_locked(struct os_file *file, uint64_t start, uint64_t size);

#endif
