/* SPDX-License-Identifier: Apache-2.0
 *
 * store_restore.c -- make a new store from a backup.
 *
 * I1. The backup is verified, and held against writers from before that until the last byte was
 *     copied.
 * I2. Every file is a copy: what becomes of the new store does not reach the backup.
 *
 * Any store that is not open serves as the backup; of one that was not closed the ring is copied
 * too, and the new store's first open recovers it as the old one's would have.
 */
#include "store/store_backup_internal.h"

#define RESTORE_SUFFIX ".new-restore"

struct restore {
    struct store_look from;
    struct new_folder to;
    struct copier copier;
};

/* ---- what is copied ---------------------------------------------------------------------- */

static int is_restored(const char *name)
{
    return strcmp(name, FOLDER_LOCK) != 0 && km__new_folder_knows(name);
}

static int is_segment(const char *name)
{
    uint32_t number;

    return km__segment_name_parse(name, &number);
}

static km_status add_size(struct restore *restore, struct os_dir *dir, const char *name)
{
    const struct os_ops *ops = restore->copier.os->ops;
    struct os_file *file = NULL;
    uint64_t size = 0;
    km_status rc = ops->open_file(dir, name, OS_OPEN_READ, &file);

    if (!rc)
        rc = ops->file_size(file, &size);
    ops->close_file(file);
    restore->copier.total_bytes += size;
    return rc ? km__copy_failed(restore->copier.os, restore->copier.error, rc, name,
                                "cannot open the file")
              : KM_OK;
}

static km_status size_name(void *context, const char *name)
{
    struct restore *restore = context;

    return is_restored(name) ? add_size(restore, restore->from.store.dir, name) : KM_OK;
}

static km_status size_segment(void *context, const char *name)
{
    struct restore *restore = context;

    return is_segment(name) ? add_size(restore, restore->from.store.log_dir, name) : KM_OK;
}

static km_status restore_name(void *context, const char *name)
{
    struct restore *restore = context;

    if (!is_restored(name))
        return KM_OK;
    return km__copy_file(&restore->copier, restore->from.store.dir, restore->to.dir, name);
}

static km_status restore_segment(void *context, const char *name)
{
    struct restore *restore = context;

    if (!is_segment(name))
        return KM_OK;
    return km__copy_file(&restore->copier, restore->from.store.log_dir, restore->to.log_dir, name);
}

/* ---- the call ---------------------------------------------------------------------------- */

/* A failure of the list itself has not been told; one of its visitor has. */
static km_status visit_all(struct restore *restore, struct os_dir *dir,
                           km_status (*visit)(void *context, const char *name))
{
    km_error *error = restore->copier.error;
    km_status rc = restore->copier.os->ops->list(dir, visit, restore);

    if (rc && error && error->status != rc)
        return km__copy_failed(restore->copier.os, error, rc, NULL, "cannot list the backup");
    return rc;
}

static km_status copy_all(struct restore *restore)
{
    km_status rc = visit_all(restore, restore->from.store.dir, size_name);

    if (!rc)
        rc = visit_all(restore, restore->from.store.log_dir, size_segment);
    if (!rc)
        rc = km__copier_advance(&restore->copier, 0);
    if (!rc)
        rc = visit_all(restore, restore->from.store.log_dir, restore_segment);
    return rc ? rc : visit_all(restore, restore->from.store.dir, restore_name);
}

km_status km__store_restore_with(struct os *os, const char *backup, const char *path,
                                 const struct copier *progress, km_error *error)
{
    struct restore restore = {.to = {.os = os, .error = error}, .copier = *progress};
    km_status rc;

    restore.copier.os = os;
    restore.copier.error = error;
    rc = km__look_open(&restore.from, os, backup, error); /* I1 */
    if (rc) goto out;
    rc = km__new_folder_begin(&restore.to, path, RESTORE_SUFFIX);
    if (rc) goto out;
    rc = km__store_verify_with(os, backup, NULL, NULL, NULL, error);
    if (rc) goto out;
    rc = km__copier_init(&restore.copier);
    if (rc) goto out;
    if (error)
        error->status = KM_OK; /* see visit_all() */
    rc = copy_all(&restore);
    if (rc) goto out;
    rc = km__new_folder_publish(&restore.to);
out:
    km__copier_fini(&restore.copier);
    km__new_folder_end(&restore.to);
    km__look_close(&restore.from);
    return rc;
}

km_status km_restore(const char *backup, const char *path, km_progress_fn progress, void *context,
                     km_error *out_error)
{
    struct copier copier = {.progress = progress, .progress_context = context};

    if (!backup || !*backup || !path || !*path)
        return km__fail(out_error, KM_E_INVALID, NULL, 0, 0, "a path is empty");
    return km__store_restore_with(km__os_linux(), backup, path, &copier, out_error);
}
