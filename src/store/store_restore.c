/* SPDX-License-Identifier: Apache-2.0
 *
 * store_restore.c -- make a new store from a backup, or put one in the place of a store.
 *
 * I1. The backup is verified, and held against writers from before that until the last byte was
 *     copied.
 * I2. Every file is a copy: what becomes of the new store does not reach the backup.
 * I3. In place: the store is locked from before anything is looked at until its contents are gone.
 *     They are looked at and counted, not believed: a damaged store is restored like any other.
 * I4. In place: the new contents are opened once before they take the old ones' place, so that
 *     their log goes on above every segment that the old one can have had.
 *
 * Any store that is not open serves as the backup; of one that was not closed the ring is copied
 * too, and the new store's first open recovers it as the old one's would have.
 */
#include "store/store_backup_internal.h"

#define RESTORE_SUFFIX ".new-restore"
#define LOCK_RANGE_SIZE UINT64_C(65536)     /* bytes of LOCK behind those of writers */
#define IN_PLACE_SUFFIX ".restore-in-place" /* after a crash either contents may be there */

struct restore {
    struct store_look from;
    struct new_folder to;
    struct copier copier;
};

/* What is in the place. */
struct replaced {
    struct os_dir *dir, *log_dir;
    struct os_file *lock_file;
    uint32_t number; /* no segment had a larger one */
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

/* The backup is locked, the new folder made. */
static km_status fill_from_backup(struct restore *restore, const char *backup)
{
    km_error *error = restore->copier.error;
    km_status rc = km__store_verify_with(restore->copier.os, backup, NULL, NULL, NULL, error);

    if (!rc)
        rc = km__copier_init(&restore->copier);
    if (rc)
        return rc;
    if (error)
        error->status = KM_OK; /* see visit_all() */
    return copy_all(restore);
}

static void init_restore(struct restore *restore, struct os *os, const struct copier *progress,
                         km_error *error)
{
    static const struct restore empty;

    *restore = empty;
    restore->copier = *progress;
    restore->copier.os = restore->to.os = os;
    restore->copier.error = restore->to.error = error;
}

static void end_restore(struct restore *restore)
{
    km__copier_fini(&restore->copier);
    km__new_folder_end(&restore->to);
    km__look_close(&restore->from);
}

km_status km__store_restore_with(struct os *os, const char *backup, const char *path,
                                 const struct copier *progress, km_error *error)
{
    struct restore restore;
    km_status rc;

    init_restore(&restore, os, progress, error);
    rc = km__look_open(&restore.from, os, backup, error); /* I1 */
    if (!rc)
        rc = km__new_folder_begin(&restore.to, path, RESTORE_SUFFIX);
    if (!rc)
        rc = fill_from_backup(&restore, backup);
    if (!rc)
        rc = km__new_folder_publish(&restore.to);
    end_restore(&restore);
    return rc;
}

/* ---- in place: what is there ------------------------------------------------------------- */

/* Against followers too, who outlive the writer: they would never learn of the new contents. */
static km_status lock_replaced(struct restore *restore, struct replaced *old)
{
    const struct os_ops *ops = restore->to.os->ops;
    km_status rc = ops->open_file(old->dir, FOLDER_LOCK, OS_OPEN_WRITE, &old->lock_file);

    if (rc == KM_NOT_FOUND)
        rc = ops->open_file(old->dir, FOLDER_LOCK, OS_CREATE_NEW, &old->lock_file);
    if (!rc)
        rc = ops->lock(old->lock_file, OS_LOCK_EXCLUSIVE);
    if (!rc && ops->is_range_locked(old->lock_file, OS_LOCK_SIZE, LOCK_RANGE_SIZE))
        rc = KM_E_LOCKED;
    if (rc == KM_E_LOCKED)
        return km__fail(restore->to.error, rc, FOLDER_LOCK, 0, 0,
                        "a process has the store open: close it there first");
    return rc ? km__copy_failed(restore->to.os, restore->to.error, rc, FOLDER_LOCK,
                                "cannot lock the store that is to be replaced")
              : KM_OK;
}

static km_status cannot_look(struct restore *restore, km_status rc)
{
    return km__copy_failed(restore->to.os, restore->to.error, rc, restore->to.name,
                           "cannot look through the store that is to be replaced");
}

/* Whatever else lies in the folder would be lost with it. */
static km_status check_replaced(struct restore *restore, struct replaced *old)
{
    struct os *os = restore->to.os;
    uint32_t count = 0, log_count = 0;
    int is_foreign = 0, is_log_foreign = 0;
    km_status rc = km__new_folder_survey(os, old->dir, 0, &count, &is_foreign);

    if (!rc && count == 0)
        return km__fail(restore->to.error, KM_E_NOT_A_STORE, NULL, 0, 0,
                        "there is no store in this folder");
    if (!rc)
        rc = os->ops->open_subdir(old->dir, FOLDER_LOG, &old->log_dir);
    if (!rc)
        rc = km__new_folder_survey(os, old->log_dir, 1, &log_count, &is_log_foreign);
    if (rc && rc != KM_NOT_FOUND && rc != KM_E_INVALID)
        return cannot_look(restore, rc);
    if (is_foreign || is_log_foreign || rc == KM_E_INVALID)
        return km__fail(restore->to.error, count == 1 ? KM_E_NOT_A_STORE : KM_E_INVALID, NULL, 0, 0,
                        "the folder holds other files than a store's: move them away first");
    return KM_OK;
}

static void see_number(struct replaced *old, uint32_t number)
{
    if (number > old->number)
        old->number = number;
}

static km_status see_segment(void *context, const char *name)
{
    uint32_t number;

    if (km__segment_name_parse(name, &number))
        see_number(context, number);
    return KM_OK;
}

/* MARKS may know of segments whose files are lost. */
static void see_marks(struct restore *restore, struct replaced *old)
{
    struct km_store look = {
        .os = restore->to.os, .allocator = &restore->to.os->allocator, .dir = old->dir};
    uint8_t *bytes = NULL;
    size_t size = 0;
    struct marks marks;

    if (km__read_whole_file(&look, FOLDER_MARKS, &bytes, &size, NULL))
        return;
    for (size_t at = 0; at + MARKS_SLOT_SIZE <= size; at += MARKS_SLOT_SIZE) {
        if (km__marks_decode(bytes + at, &marks))
            continue;
        see_number(old, km__position_number(marks.head));
        see_number(old, km__position_number(marks.durable));
    }
    km__release(look.allocator, bytes, size);
}

static km_status see_numbers(struct restore *restore, struct replaced *old)
{
    km_status rc = old->log_dir ? restore->to.os->ops->list(old->log_dir, see_segment, old) : KM_OK;

    if (rc)
        return cannot_look(restore, rc);
    see_marks(restore, old);
    return KM_OK;
}

/* I3 */
static km_status take_replaced(struct restore *restore, struct replaced *old)
{
    const struct os_ops *ops = restore->to.os->ops;
    km_status rc = ops->open_subdir(restore->to.parent, restore->to.name, &old->dir);

    if (rc == KM_NOT_FOUND || rc == KM_E_INVALID) /* invalid: a file, or a link */
        return km__fail(restore->to.error, KM_E_NOT_A_STORE, NULL, 0, 0, "there is no folder %s",
                        restore->to.path);
    if (rc)
        return cannot_look(restore, rc);
    rc = check_replaced(restore, old); /* before a LOCK file is left in somebody else's folder */
    if (!rc)
        rc = lock_replaced(restore, old);
    if (!rc)
        rc = see_numbers(restore, old);
    return rc;
}

static void close_replaced(const struct os_ops *ops, struct replaced *old)
{
    ops->close_dir(old->log_dir);
    ops->close_dir(old->dir);
    ops->close_file(old->lock_file);
}

/* ---- in place: the call ------------------------------------------------------------------ */

/* I4. Nobody takes the folder for a leftover meanwhile: the store in its place is locked. */
static km_status lift_new(struct restore *restore, uint32_t number)
{
    struct new_folder *to = &restore->to;
    km_status rc, back_rc;

    if (number >= UINT32_MAX - 1)
        return km__fail(to->error, KM_E_LIMIT, NULL, 0, 0,
                        "the store has used up all numbers of segments");
    km__new_folder_let_go(to);
    rc = km__store_lift(to->os, to->temp_path, number + 1, to->error);
    if (rc && to->error && to->error->status)
        rc = to->error->status; /* the cause, where the close only says that something failed */
    if (rc)
        to->error = NULL; /* it is told */
    back_rc = km__new_folder_take_back(to);
    return rc ? rc : back_rc;
}

km_status km__store_restore_in_place_with(struct os *os, const char *backup, const char *path,
                                          const struct copier *progress, km_error *error)
{
    struct replaced old = {NULL, NULL, NULL, 0};
    struct restore restore;
    km_status rc;

    init_restore(&restore, os, progress, error);
    rc = km__new_folder_look(&restore.to, path, IN_PLACE_SUFFIX);
    if (!rc)
        rc = take_replaced(&restore, &old);
    if (!rc)
        rc = km__look_open(&restore.from, os, backup, error); /* I1 */
    if (!rc)
        rc = km__new_folder_begin_beside(&restore.to);
    if (!rc)
        rc = fill_from_backup(&restore, backup);
    if (!rc)
        rc = lift_new(&restore, old.number);
    if (!rc)
        rc = km__new_folder_exchange(&restore.to, &old.lock_file);
    end_restore(&restore);
    close_replaced(os->ops, &old);
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

km_status km_restore_in_place(const char *backup, const char *path, km_progress_fn progress,
                              void *context, km_error *out_error)
{
    struct copier copier = {.progress = progress, .progress_context = context};

    if (!backup || !*backup || !path || !*path)
        return km__fail(out_error, KM_E_INVALID, NULL, 0, 0, "a path is empty");
    return km__store_restore_in_place_with(km__os_linux(), backup, path, &copier, out_error);
}
