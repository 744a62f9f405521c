/* SPDX-License-Identifier: Apache-2.0
 *
 * store_snapshot_save.c -- write a snapshot to a new folder, as a store of its own.
 *
 * Of a store in a folder it is a backup of the log from where it began at the snapshot's moment up
 * to the snapshot's position: the snapshot's pin keeps every file of that span, wherever the log
 * begins by now. Of a store in memory it is a new store, filled with what cursors on the snapshot
 * give.
 *
 * I1. The new store has the maps of the snapshot, and no others, whatever was created or dropped
 *     since.
 * I2. At the path there is nothing, or all of the snapshot (store_new_folder.c).
 */
#include "store/store_backup_internal.h"
#include "store/store_view.h"

#define SAVE_SUFFIX ".new-backup"
#define SAVE_STEP_BYTES (UINT64_C(1) << 20)

/* ---- of a store in a folder --------------------------------------------------------------- */

static km_status save_log(struct km_snapshot *snapshot, const char *path,
                          const struct copier *progress, km_error *error)
{
    struct km_store *store = snapshot->store;
    struct backup_moment moment = {.head_number = snapshot->pin.number, .end = snapshot->position};
    uint64_t head = km__position(moment.head_number, SEGMENT_HEADER_SIZE);
    uint8_t *maps = NULL;
    size_t maps_size = 0;
    km_status rc;

    km__log_settle(store->log); /* copies of compaction's may be under way below the position */
    rc = km__catalogue_encode(store, head, moment.end, &maps, &maps_size);
    if (rc)
        return km__fail(error, rc, CATALOGUE_NAME, 0, 0, "no memory for the list of maps");
    moment.maps = maps;
    moment.maps_size = maps_size;
    rc = km__backup_moment(store, &moment, path, progress, error);
    km__release(store->allocator, maps, maps_size);
    return rc;
}

/* ---- of a store in memory ----------------------------------------------------------------- */

struct memory_save {
    struct km_snapshot *snapshot;
    struct copier progress; /* counts, and copies nothing */
    struct new_folder folder;
    struct km_store *to;
    uint64_t step_bytes; /* written since the last step was ended */
    km_error *error;
    km_status rc; /* what ended the list of maps */
};

/* What the threads would do that the new store has not: else it would keep in memory all that is
 * written to it. */
static km_status end_step(struct memory_save *save)
{
    uint64_t size = save->step_bytes;
    km_status rc = km__log_flush(save->to->log);

    save->step_bytes = 0;
    if (!rc)
        rc = km__log_housekeep(save->to->log);
    km__reclaim(&save->to->reclaimer);
    return rc ? rc : km__copier_advance(&save->progress, size);
}

static km_status save_key(struct memory_save *save, km_map *to, km_cursor *cursor, km_bytes key,
                          km_bytes value)
{
    struct change change;
    km_key_info info;
    km_status rc = km_cursor_info(cursor, &info);

    if (rc)
        return rc;
    km__change_init(&change, to, RECORD_PUT, key, value);
    if (info.expires_ms)
        km__change_expire(&change, info.expires_ms);
    rc = km__change_key(&change, NULL);
    save->step_bytes += change.log_size;
    return !rc && save->step_bytes >= SAVE_STEP_BYTES ? end_step(save) : rc;
}

static km_status save_keys(struct memory_save *save, km_map *from, km_map *to)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;
    km_bytes key, value;
    km_status rc;

    options.snapshot = save->snapshot;
    rc = km_cursor_open(from, &options, &cursor);
    while (!rc) { /* ends with the map */
        rc = km_cursor_next(cursor, &key, &value);
        if (!rc)
            rc = save_key(save, to, cursor, key, value);
    }
    km_cursor_close(cursor);
    return rc == KM_END ? KM_OK : rc;
}

static int save_map(void *context, km_map *map, const km_map_info *info)
{
    struct memory_save *save = context;
    km_map *to = NULL;

    save->rc = km_map_create(save->to, info->name, info->kind, &to);
    if (!save->rc)
        save->rc = save_keys(save, map, to);
    return save->rc != KM_OK;
}

/* The store at the temporary path, closed when it is whole. */
static km_status write_store(struct memory_save *save)
{
    km_options options = KM_OPTIONS_INIT;
    km_status rc, close_rc;

    options.mode = KM_CREATE_NEW;
    rc = km__store_open_with(save->snapshot->store->os, save->folder.temp_path, &options, 0,
                             &save->to, save->error);
    if (rc)
        return rc;
    rc = km__copier_advance(&save->progress, 0);
    if (!rc)
        rc = km_snapshot_map_list(save->snapshot, save_map, save);
    if (rc == KM_STOPPED && save->rc)
        rc = save->rc;
    if (!rc)
        rc = end_step(save);
    if (rc && rc != KM_STOPPED)
        rc = km__fail(save->error, rc, NULL, 0, 0, "the snapshot could not be written");
    close_rc = km_close(save->to, rc ? NULL : save->error);
    return rc ? rc : close_rc;
}

static km_status save_memory(struct km_snapshot *snapshot, const char *path,
                             const struct copier *progress, km_error *error)
{
    struct os *os = snapshot->store->os;
    km_snapshot_info info = {.struct_size = sizeof(info)};
    struct memory_save save = {.snapshot = snapshot,
                               .progress = *progress,
                               .folder = {.os = os, .error = error},
                               .error = error};
    km_status rc = km_snapshot_describe(snapshot, &info), back_rc;

    save.progress.total_bytes = info.live_bytes;
    if (!rc)
        rc = km__new_folder_look(&save.folder, path, SAVE_SUFFIX);
    if (!rc)
        rc = km__new_folder_clear(&save.folder);
    if (rc)
        goto out;
    km__new_folder_let_go(&save.folder);
    rc = write_store(&save);
    if (rc)
        save.folder.error = NULL; /* the cause is told */
    back_rc = km__new_folder_take_back(&save.folder);
    if (!rc)
        rc = back_rc;
    if (!rc)
        rc = km__new_folder_publish(&save.folder);
out:
    km__new_folder_end(&save.folder);
    return rc;
}

/* ---- the call ---------------------------------------------------------------------------- */

km_status km_snapshot_save(km_snapshot *snapshot, const char *path, km_progress_fn progress,
                           void *context, km_error *out_error)
{
    struct km_store *store = snapshot->store;
    struct copier copier = {
        .os = store->os, .error = out_error, .progress = progress, .progress_context = context};

    if (km__store_is_forked(store))
        return km__fail(out_error, KM_E_FORKED, NULL, 0, 0,
                        "the store belongs to the parent process");
    if (!path || !*path)
        return km__fail(out_error, KM_E_INVALID, NULL, 0, 0, "the path is empty");
    if (km__epoch_ongoing())
        return km__fail(out_error, KM_WOULD_BLOCK, NULL, 0, 0,
                        "saving waits for the disk: end the read section first");
    return store->dir ? save_log(snapshot, path, &copier, out_error)
                      : save_memory(snapshot, path, &copier, out_error);
}
