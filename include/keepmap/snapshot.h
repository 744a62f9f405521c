/* SPDX-License-Identifier: Apache-2.0
 *
 * snapshot.h -- a whole store as it was at one moment, while writing goes on. Part of keepmap.h,
 * which includes it and has the rules that hold for every function.
 */
#ifndef KEEPMAP_SNAPSHOT_H
#define KEEPMAP_SNAPSHOT_H

#include "keepmap/keepmap.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * km_snapshot_open -- keep the store as it is now, for reading.
 *
 * It holds every change that had returned before the call, none that begins after it, and every
 * batch whole or not at all. Taking it costs microseconds whatever the size of the store. While it
 * is open each key that is changed or deleted for the first time since costs its memory in the
 * index once more, and no segment of the log is freed: close it when it is not needed any more.
 * A store of some hundred gigabytes of kept segments gets KM_E_LIMIT.
 *
 * Returns:   KM_OK, KM_WOULD_BLOCK (inside a read section), KM_E_NO_MEMORY, KM_E_FORKED.
 *            KM_E_LIMIT        1,000 snapshots are open.
 *            KM_E_UNSUPPORTED  a store opened for reading beside a writer.
 * Lifetime:  release with km_snapshot_close(), before the store is closed.
 * Threads:   any; any number of threads may use a snapshot at once.
 * Blocks:    on changes that are being copied to the log at this moment: for microseconds; on a
 *            km_del_range() for as long as that takes. Other changes wait meanwhile.
 */
KM_API KM_MUST_CHECK km_status km_snapshot_open(km_store *store, km_snapshot **out_snapshot);

/*
 * km_snapshot_close -- let a snapshot go; NULL is accepted.
 *
 * Returns:   nothing.
 * Lifetime:  ends the snapshot. Cursors on it must have been closed.
 * Threads:   no other call on it may be running or follow.
 * Blocks:    never on the disk.
 */
KM_API void km_snapshot_close(km_snapshot *snapshot);

typedef struct km_snapshot_info {
    size_t struct_size;   /* in: sizeof(km_snapshot_info) */
    km_position position; /* it holds every change below */
    uint64_t taken_ms;    /* wall clock, ms since 1970 */
    uint64_t map_count;
    uint64_t key_count;    /* of all maps */
    uint64_t live_bytes;   /* of the records of these keys in the log */
    uint64_t memory_bytes; /* that it keeps in the indexes by now */
} km_snapshot_info;

/*
 * km_snapshot_describe -- when a snapshot was taken, what it holds and what it costs.
 *
 * Returns:   KM_OK, KM_E_INVALID, KM_E_FORKED.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    as km_snapshot_count().
 */
KM_API KM_MUST_CHECK km_status km_snapshot_describe(const km_snapshot *snapshot,
                                                    km_snapshot_info *info);

/*
 * km_snapshot_map_list -- the maps of a snapshot, as km_map_list(); their counts are the
 * snapshot's.
 *
 * A map that was dropped since is among them; km_map_list() and km_map_open() do not know it any
 * more, so `visit` gets its handle.
 *
 * Returns:   KM_OK, KM_STOPPED, KM_E_FORKED.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    never on the disk.
 */
KM_API KM_MUST_CHECK km_status km_snapshot_map_list(km_snapshot *snapshot,
                                                    int (*visit)(void *context, km_map *map,
                                                                 const km_map_info *info),
                                                    void *context);

/*
 * km_snapshot_get -- as km_get_info(), of the snapshot. value and out_info may be NULL.
 *
 * A key that has expired by now is not there, whenever the snapshot was taken.
 *
 * Returns:   as km_get(); KM_E_INVALID: the map is of another store, or was created after the
 *            snapshot was taken.
 * Lifetime:  value belongs to the caller.
 * Threads:   any.
 * Blocks:    as km_get().
 */
KM_API KM_MUST_CHECK km_status km_snapshot_get(km_snapshot *snapshot, km_map *map, km_bytes key,
                                               km_buffer *value, km_key_info *out_info);

/*
 * km_snapshot_count -- the number of keys of a map in a snapshot, exact.
 *
 * Keys that have expired and were not yet deleted when it was taken are counted.
 *
 * Returns:   the count; 0 if the map is not in it, and in a forked child.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    for microseconds, on the first change of a map since a snapshot.
 */
KM_API uint64_t km_snapshot_count(const km_snapshot *snapshot, const km_map *map);

/*
 * km_snapshot_changes -- what has become of a store between two snapshots, or since one: puts and
 * deletes that make the later contents of the earlier ones.
 *
 *   older      The earlier snapshot.
 *   newer      A later one of the same store; NULL: the store as it is now.
 *   map        Only of this map; NULL: of all.
 *   visit      Called for each key that differs, once: KM_CHANGE_PUT with the later value, or
 *              KM_CHANGE_DELETE; and for each map that was created or dropped, before and instead
 *              of its keys. A return other than 0 ends it with KM_STOPPED.
 *
 * The keys come in the order of the log, which is not the insertion order where keys were
 * overwritten. A key that has expired is told as deleted once it is deleted in the later one.
 *
 * Returns:   KM_OK, KM_STOPPED, KM_E_INVALID (other stores, or in the wrong order), KM_WOULD_BLOCK
 *            (newer is NULL, inside a read section), KM_E_CORRUPT, KM_E_NO_MEMORY, KM_E_FORKED.
 * Lifetime:  what visit gets is valid during its call.
 * Threads:   any.
 * Blocks:    as km_get().
 * Cost:      reads the log between the two.
 */
KM_API KM_MUST_CHECK km_status
km_snapshot_changes(km_snapshot *older, km_snapshot *newer, km_map *map,
                    int (*visit)(void *context, const km_change *change), void *context);

/*
 * km_snapshot_save -- write a snapshot to a new folder, as a store of its own.
 *
 *   path       Must not exist. The folder above it must.
 *   progress   A return other than 0 stops it, and nothing is left at `path`; may be NULL.
 *
 * Of a store in a folder it is a backup (km_backup()) at the snapshot's moment: full segments are
 * hard links where the file system can. Of a store in memory it is a new store with the same maps.
 *
 * Returns:   as km_backup(); works on stores in memory too.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_snapshot_save(km_snapshot *snapshot, const char *path,
                                                km_progress_fn progress, void *context,
                                                km_error *out_error);

#ifdef __cplusplus
}
#endif
#endif /* KEEPMAP_SNAPSHOT_H */
