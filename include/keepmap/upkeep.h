/* SPDX-License-Identifier: Apache-2.0
 *
 * upkeep.h -- looking after a store: check, scrub, rescue, back up, restore. Part of keepmap.h,
 * which includes it and has the rules that hold for every function.
 */
#ifndef KEEPMAP_UPKEEP_H
#define KEEPMAP_UPKEEP_H

#include "keepmap/keepmap.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- checking and rescuing --------------------------------------------------------------- */

/* Called once for each finding. text is one line. */
typedef void (*km_finding_fn)(void *context, const km_error *finding);

typedef struct km_check_result {
    uint64_t segment_count;
    uint64_t record_count;  /* records that checked out */
    uint64_t finding_count; /* damaged places; for km_salvage also what could not be copied */
    uint64_t torn_bytes;    /* after the end of the log: what the next open will cut off */
    uint64_t copied_count;  /* km_salvage: keys written to the new store */
} km_check_result;

/*
 * km_verify -- read every byte of a store that is not open for writing, and report all damage.
 *
 *   found      Called for every finding; may be NULL.
 *   out_result Set on KM_OK and on KM_E_CORRUPT; may be NULL.
 *
 * Writes nothing.
 *
 * Returns:   KM_OK         no damage; a tail torn by a crash is none.
 *            KM_E_CORRUPT  damage was found.
 *            KM_E_NOT_A_STORE, KM_E_LOCKED, KM_E_VERSION, KM_E_IO, KM_E_NO_MEMORY.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_verify(const char *path, km_finding_fn found, void *context,
                                         km_check_result *out_result, km_error *out_error);

/*
 * km_salvage -- copy all that checks out of a damaged store into a new one.
 *
 *   path       The damaged store; it is not changed.
 *   new_path   The new store's folder; it must not hold a store yet.
 *   found      Called for every place that was lost; may be NULL.
 *
 * Whole records before and after damaged places are taken, later ones win; deletes and changes that
 * lay in a damaged place are lost, so an older value of such a key may come back.
 *
 * Returns:   KM_OK, also when damage was found: see out_result->finding_count.
 *            The errors of km_open().
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_salvage(const char *path, const char *new_path,
                                          km_finding_fn found, void *context,
                                          km_check_result *out_result, km_error *out_error);

/*
 * km_scrub -- verify every record of an open store's sealed segments as they lie on the disk.
 *
 *   rate       Bytes per second; 0: as fast as it goes.
 *   found      Called for each damaged place; may be NULL. Must not call into the store.
 *   out_result Set on KM_OK and KM_E_CORRUPT; may be NULL.
 *
 * Reads and writes to the store go on. What is found is also counted in km_stats.damage_count, each
 * time it is met. A file that is missing or cannot be read is damage. What the kernel keeps in its
 * cache it gives from there.
 *
 * Returns:   KM_OK: no damage; KM_E_CORRUPT: damage was found; KM_WOULD_BLOCK (inside a read
 *            section), KM_E_UNSUPPORTED (memory store), KM_E_LIMIT, KM_E_NO_MEMORY, KM_E_FORKED.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_scrub(km_store *store, uint64_t rate, km_finding_fn found,
                                        void *context, km_check_result *out_result);

/* What a closed store's next open will have to do. */
typedef struct km_inspection {
    size_t struct_size;    /* in: sizeof(km_inspection) */
    int is_open;           /* a process has it open for writing: the rest is not filled in */
    int needs_recovery;    /* it was not closed cleanly */
    uint64_t replay_bytes; /* log that will be replayed, at most */
    uint64_t log_bytes;    /* all of the log */
    uint64_t image_bytes;  /* of the index image that will be used; 0: none */
} km_inspection;

/*
 * km_inspect -- whether a store needs recovery, without opening it. Writes nothing.
 *
 * Returns:   KM_OK, KM_E_NOT_A_STORE, KM_E_CORRUPT, KM_E_VERSION, KM_E_IO, KM_E_INVALID.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on the disk, for a moment.
 */
KM_API KM_MUST_CHECK km_status km_inspect(const char *path, km_inspection *out,
                                          km_error *out_error);

/* ---- backups ----------------------------------------------------------------------------- */

/* Start with {sizeof(km_backup_options)}. */
typedef struct km_backup_options {
    size_t struct_size;
    const char *previous; /* an earlier backup, never written to: what it has is linked; or NULL */
    int copy;             /* 1: copy everything, link nothing; previous is not used then */
    km_progress_fn progress; /* a return other than 0 stops the backup; may be NULL */
    void *progress_context;
} km_backup_options;

typedef struct km_backup_result {
    km_position position;  /* the backup holds every change below */
    uint64_t linked_bytes; /* segments that take no new room: links to files that were there */
    uint64_t copied_bytes;
} km_backup_result;

/*
 * km_backup -- write a store as it is now to a new folder, while it is used.
 *
 *   path       The backup's folder; must not exist. The folder above it must.
 *   options    NULL for the defaults.
 *   out_result Set on KM_OK; may be NULL.
 *   out_error  Details of a failure; may be NULL.
 *
 * A backup is a store: km_verify() and read-only opens work on it. Full segments are hard links
 * where the file system can, so a backup beside the store takes little room; nothing is ever
 * written to a full segment. The folder gets its name when all in it is durable.
 *
 * Returns:   KM_OK, KM_EXISTS, KM_STOPPED, KM_WOULD_BLOCK (inside a read section),
 *            KM_E_UNSUPPORTED (memory store, or a follower: the writer's process has to make it),
 *            KM_E_INVALID, KM_E_FULL, KM_E_IO, KM_E_FAILED, KM_E_NO_MEMORY, KM_E_FORKED.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_backup(km_store *store, const char *path,
                                         const km_backup_options *options,
                                         km_backup_result *out_result, km_error *out_error);

/*
 * km_restore -- make a new store from a backup.
 *
 *   backup     A backup's folder; it is not changed, and shares no file with the new store.
 *   path       The new store's folder; must not exist.
 *   progress   A return other than 0 stops it, and nothing is left at `path`; may be NULL.
 *
 * Returns:   KM_OK, KM_EXISTS, KM_STOPPED, KM_E_NOT_A_STORE, KM_E_CORRUPT (the backup is checked),
 *            KM_E_LOCKED, KM_E_FULL, KM_E_IO, KM_E_INVALID, KM_E_NO_MEMORY.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_restore(const char *backup, const char *path,
                                          km_progress_fn progress, void *context,
                                          km_error *out_error);

/*
 * km_restore_in_place -- bring a store back to what a backup, or a saved snapshot, has.
 *
 *   backup     A backup's folder; it is not changed, and shares no file with the store.
 *   path       A store's folder, which no process has open.
 *   progress   A return other than 0 stops it, and the store is as it was; may be NULL.
 *
 * The new contents are built in a folder beside the store, whose name is exchanged with the store's
 * in one step: a crash leaves the old store or the new one. The old contents are deleted after
 * that. Positions and versions go on above those of both, if the backup is one of this very store,
 * so none is ever used for two things.
 *
 * Returns:   KM_OK, KM_STOPPED, KM_E_NOT_A_STORE, KM_E_CORRUPT (the backup is checked), KM_E_LOCKED
 *            (a process has the store open), KM_E_UNSUPPORTED (the file system cannot exchange
 *            names), KM_EXISTS (what is not ours is in the way beside the store), KM_E_FULL,
 *            KM_E_LIMIT, KM_E_IO, KM_E_INVALID, KM_E_NO_MEMORY.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_restore_in_place(const char *backup, const char *path,
                                                   km_progress_fn progress, void *context,
                                                   km_error *out_error);

#ifdef __cplusplus
}
#endif
#endif /* KEEPMAP_UPKEEP_H */
