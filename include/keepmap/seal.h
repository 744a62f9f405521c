/* SPDX-License-Identifier: Apache-2.0
 *
 * seal.h -- from maps to sealed tables and back, and sealed tables under maps. Needs keepmap.h,
 * which has the rules that hold for every function.
 *
 * A sealed table that is attached lies under a map: what the map itself does not have is looked up
 * there. Such data takes about two bytes of memory a key; what changes goes to the map as ever, and
 * a key that is deleted is hidden from then on. The table's file is never written to.
 */
#include "keepmap/keepmap.h" /* which includes this file */

#ifndef KEEPMAP_SEAL_H
#define KEEPMAP_SEAL_H

#ifdef __cplusplus
extern "C" {
#endif

/*
 * km_seal -- write what a map has as a sealed table.
 *
 *   snapshot   Of the map's store: what the map had then. NULL: one is taken for the call.
 *   path       As km_sealed_builder_open().
 *   options    NULL for the defaults. Keys as numbers: all keys have that width, or KM_E_INVALID.
 *   out_error  Details of a failure; may be NULL.
 *
 * Expiries and versions are not kept: what has not expired by the time it is written stays. Writers
 * go on meanwhile. If it fails nothing appears at the path, or what was there stays.
 *
 * Returns:   KM_OK; the statuses of km_snapshot_open(), km_cursor_next() and
 *            km_sealed_builder_finish().
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on the disk, for as long as it takes.
 */
KM_API KM_MUST_CHECK km_status km_seal(km_map *map, km_snapshot *snapshot, const char *path,
                                       const km_sealed_build_options *options, km_error *out_error);

/*
 * km_load_sealed -- put all records of a sealed table into a map, in the order of their keys.
 *
 *   progress   Bytes put, of all bytes of keys and values; a return other than 0 ends it. May be
 *              NULL.
 *
 * What the map has under other keys stays. Records are put in batches: after an error, or a crash,
 * those before some key are there and those behind it are not.
 *
 * Returns:   KM_OK, KM_STOPPED, the errors of km_batch_commit() and km_sealed_cursor_next().
 * Lifetime:  the table is borrowed for the call.
 * Threads:   any.
 * Blocks:    as km_put(), and on the disk for the table.
 */
KM_API KM_MUST_CHECK km_status km_load_sealed(km_map *map, const km_sealed *table,
                                              km_progress_fn progress, void *context);

#define KM_ATTACHED_MAX 64u /* tables under one map */

/*
 * km_attach_sealed -- put a sealed table under a map.
 *
 *   map        Of the kind KM_HASH or KM_SORTED: a table has no insertion order.
 *   path       The table's file. The store gets a name of its own for it in its folder, a hard link
 *              or, on another file system, a copy: the path is not needed any more afterwards. A
 *              store in memory reads it where it is.
 *   out_error  Details of a failure; may be NULL.
 *
 * What the map has itself, deletes included, goes before the table, and this table before those
 * that were attached earlier. The table stays attached when the store is opened again, and is part
 * of its backups and saved snapshots. All keys of a table have one version. Reads of what only a
 * table has may wait for the disk, in read sections too, and what km_get_ref() returns of it is not
 * aligned. Keys that the map and its tables share are counted once: that takes a look at each key
 * that the map has, here and when the store is opened. km_count_range() goes through the range. A
 * store that is open for reading beside its writer learns of tables when it is opened; once it
 * meets a change that others must have come before, its calls return KM_E_TOO_OLD.
 *
 * A symbolic link is not followed. A hard link is the same file: never write to a table in place,
 * as cp does to a file that is there.
 *
 * km_pop_first() and km_pop_last() pass all keys that were popped before them from the tables.
 * Not possible on a map that has tables: km_map_clear(), km_del_range(): KM_E_UNSUPPORTED.
 *
 * Returns:   KM_OK.
 *            KM_BUSY           a snapshot of the store is open, or a backup is being written.
 *            KM_E_INVALID      the map is in insertion order.
 *            KM_E_UNSUPPORTED  the table is compressed.
 *            KM_E_LIMIT        KM_ATTACHED_MAX tables are attached.
 *            the errors of km_sealed_open() and km_map_clear().
 * Lifetime:  until km_detach_sealed(), or the map is dropped.
 * Threads:   any; changes of the map wait meanwhile. A cursor that is open goes on as if nothing
 *            had happened.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_attach_sealed(km_map *map, const char *path, km_error *out_error);

/*
 * km_detach_sealed -- take all tables from under a map; what only they have is gone from the map,
 * and from cursors that are open.
 *
 * Their files leave the store's folder; under other names they stay. The map's own changes become
 * durable before. Keys that were deleted are counted again while the call runs; after a crash in
 * the middle of it, until the background has gone round.
 *
 * Returns:   KM_OK; KM_NOT_FOUND: none is attached; KM_BUSY, as km_attach_sealed(); KM_E_IO: all
 *            are still attached, but when the store is opened again some may not be: call again;
 *            the errors of km_map_clear().
 * Lifetime:  the files stay open until the store is closed.
 * Threads:   as km_attach_sealed().
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_detach_sealed(km_map *map, km_error *out_error);

/* A table under a map. */
typedef struct km_attached {
    const char *name;    /* of the file in the store's folder; empty in a store in memory */
    km_position version; /* km_key_info.version of its keys */
    uint64_t count;      /* of its keys, those included that the map or a later table has too */
    uint64_t file_bytes;
    uint64_t memory_bytes; /* that the open table takes */
} km_attached;

/* A return other than 0 ends the list with KM_STOPPED. */
typedef int (*km_attached_fn)(void *context, const km_attached *attached);

/*
 * km_list_attached -- the tables under a map, the one that goes before the others first.
 *
 * Returns:   KM_OK, KM_STOPPED, KM_E_DROPPED, KM_E_FORKED.
 * Lifetime:  what visit gets is valid during the call of it.
 * Threads:   any.
 * Blocks:    as visit does.
 */
KM_API KM_MUST_CHECK km_status km_list_attached(km_map *map, km_attached_fn visit, void *context);

#ifdef __cplusplus
}
#endif
#endif /* KEEPMAP_SEAL_H */
