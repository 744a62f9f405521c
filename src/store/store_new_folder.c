/* SPDX-License-Identifier: Apache-2.0
 *
 * store_new_folder.c -- a store's folder that is built under another name beside its place.
 *
 * I1. The folder gets its name after all in it is durable: at its path there is nothing, or a whole
 *     store, whatever is cut.
 * I2. Who builds holds an exclusive lock on the LOCK in the folder from before the first other file
 *     until it has its name. So nobody takes a folder in the making for a leftover.
 * I3. A leftover is removed only if nothing else lies in it than what a store or its making puts
 *     there.
 * I4. What takes the place of a folder is exchanged with it: at each moment one of the two, whole,
 *     is at the path. The other is a leftover from then on.
 */
#include "store/store_backup_internal.h"
#include "store/store_tables.h"

#define FOLDER_NAME_SIZE_MAX 255u

static km_status folder_failed(const struct new_folder *folder, km_status rc, const char *what)
{
    return km__copy_failed(folder->os, folder->error, rc, folder->temp_name, what);
}

int km__new_folder_knows(const char *name)
{
    static const char *const names[] = {FOLDER_LOCK, FOLDER_IDENTITY, FOLDER_MARKS, CATALOGUE_NAME,
                                        IMAGE_NAME};
    char ring_name[RING_NAME_SIZE];
    uint16_t map_id;

    if (km__table_name_parse(name, &map_id))
        return 1;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (strcmp(name, names[i]) == 0)
            return 1;
    }
    for (uint32_t i = RING_LOG2_MIN; i <= RING_LOG2_MAX; i++) {
        km__ring_name(i, ring_name);
        if (strcmp(name, ring_name) == 0)
            return 1;
    }
    return 0;
}

/* A file that is written under this name first: a crash leaves it. */
static int is_unfinished(const char *name)
{
    static const char *const names[] = {"CREATING",         "new.file",     "new.ring",
                                        CATALOGUE_NEW_NAME, IMAGE_NEW_NAME, TABLE_NEW_NAME};

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (strcmp(name, names[i]) == 0)
            return 1;
    }
    return 0;
}

static int is_unfinished_segment(const char *name)
{
    return strcmp(name, "new.segment") == 0 || strcmp(name, "special.segment") == 0;
}

/* ---- removing ---------------------------------------------------------------------------- */

struct sweep {
    const struct os_ops *ops;
    struct os_dir *dir;
    int is_log;
    int is_foreign; /* something is there that is not known */
    int has_removed;
};

static int sweep_knows(const struct sweep *sweep, const char *name)
{
    uint32_t number;

    if (sweep->is_log)
        return km__segment_name_parse(name, &number) || is_unfinished_segment(name);
    return strcmp(name, FOLDER_LOG) == 0 || km__new_folder_knows(name) || is_unfinished(name);
}

static km_status sweep_look(void *context, const char *name)
{
    struct sweep *sweep = context;

    sweep->is_foreign |= !sweep_knows(sweep, name);
    return KM_OK;
}

static km_status sweep_remove(void *context, const char *name)
{
    struct sweep *sweep = context;

    if (!sweep_knows(sweep, name) || strcmp(name, FOLDER_LOCK) == 0 ||
        strcmp(name, FOLDER_LOG) == 0)
        return KM_OK; /* LOCK goes last: I2 */
    if (sweep->ops->unlink(sweep->dir, name) == KM_OK)
        sweep->has_removed = 1;
    return KM_OK;
}

static void remove_files(const struct new_folder *folder, struct os_dir *dir)
{
    struct sweep sweep = {.ops = folder->os->ops, .dir = dir, .is_log = dir == folder->log_dir};

    if (!dir)
        return;
    do { /* ends: a turn that goes on has removed a file; lists of a folder that changes may skip */
        sweep.has_removed = 0;
        if (sweep.ops->list(dir, sweep_remove, &sweep))
            return;
    } while (sweep.has_removed);
}

static void close_handles(struct new_folder *folder)
{
    const struct os_ops *ops = folder->os->ops;

    ops->close_dir(folder->log_dir);
    ops->close_dir(folder->dir);
    ops->close_file(folder->lock_file); /* after the last step: I2 */
    folder->log_dir = NULL;
    folder->dir = NULL;
    folder->lock_file = NULL;
}

struct survey {
    struct sweep sweep;
    uint32_t count;
};

static km_status survey_name(void *context, const char *name)
{
    struct survey *survey = context;

    survey->count += strcmp(name, FOLDER_LOCK) != 0;
    return sweep_look(&survey->sweep, name);
}

km_status km__new_folder_survey(struct os *os, struct os_dir *dir, int is_log, uint32_t *out_count,
                                int *out_is_foreign)
{
    struct survey survey = {.sweep = {.ops = os->ops, .dir = dir, .is_log = is_log}};
    km_status rc = os->ops->list(dir, survey_name, &survey);

    *out_count = survey.count;
    *out_is_foreign = survey.sweep.is_foreign;
    return rc;
}

/* As far as it goes: what stays is a leftover for the next attempt. */
static km_status remove_folder(struct new_folder *folder)
{
    const struct os_ops *ops = folder->os->ops;
    km_status rc;

    remove_files(folder, folder->log_dir);
    remove_files(folder, folder->dir);
    if (folder->dir) {
        km__ignore(ops->remove_subdir(folder->dir, FOLDER_LOG), "the last removal tells");
        km__ignore(ops->unlink(folder->dir, FOLDER_LOCK), "as above");
    }
    rc = ops->remove_subdir(folder->parent, folder->temp_name);
    close_handles(folder);
    return rc;
}

/* ---- leftovers --------------------------------------------------------------------------- */

static km_status check_leftover(struct new_folder *folder)
{
    const struct os_ops *ops = folder->os->ops;
    struct sweep sweep = {.ops = ops, .dir = folder->dir};
    km_status rc = ops->list(folder->dir, sweep_look, &sweep);

    if (!rc)
        rc = ops->open_subdir(folder->dir, FOLDER_LOG, &folder->log_dir);
    if (!rc) {
        sweep.is_log = 1;
        rc = ops->list(folder->log_dir, sweep_look, &sweep);
    }
    if (rc == KM_NOT_FOUND)
        rc = KM_OK; /* it was not made, or is removed already */
    if (rc == KM_E_INVALID || sweep.is_foreign)
        return km__fail(folder->error, KM_EXISTS, folder->temp_name, 0, 0,
                        "the folder that is needed while the new one is built holds other files: "
                        "remove it");
    return rc ? folder_failed(folder, rc, "cannot look through a leftover") : KM_OK;
}

static km_status lock_leftover(struct new_folder *folder)
{
    const struct os_ops *ops = folder->os->ops;
    km_status rc = ops->open_file(folder->dir, FOLDER_LOCK, OS_OPEN_WRITE, &folder->lock_file);

    if (rc == KM_NOT_FOUND)
        return KM_OK; /* cut before it was made */
    if (!rc)
        rc = ops->lock(folder->lock_file, OS_LOCK_EXCLUSIVE);
    if (rc == KM_E_LOCKED)
        return km__fail(folder->error, KM_EXISTS, folder->temp_name, 0, 0,
                        "the same folder is being written by somebody else");
    return rc ? folder_failed(folder, rc, "cannot lock a leftover") : KM_OK;
}

/* What an attempt that was cut has left. */
static km_status remove_leftover(struct new_folder *folder)
{
    km_status rc = folder->os->ops->open_subdir(folder->parent, folder->temp_name, &folder->dir);

    if (rc == KM_NOT_FOUND)
        return KM_OK;
    if (rc == KM_E_INVALID)
        return km__fail(folder->error, KM_EXISTS, folder->temp_name, 0, 0,
                        "a file has the name that is needed while the folder is built: remove it");
    if (rc)
        return folder_failed(folder, rc, "cannot open a leftover");
    rc = lock_leftover(folder);
    if (!rc)
        rc = check_leftover(folder);
    if (!rc) {
        rc = remove_folder(folder);
        if (rc)
            rc = folder_failed(folder, rc, "cannot remove a leftover");
    }
    close_handles(folder);
    return rc;
}

/* ---- names ------------------------------------------------------------------------------- */

/* Split "above/name/" into the folder above and the name. */
static km_status split_path(struct new_folder *folder, const char *path, const char *suffix)
{
    size_t end = strlen(path), begin, name_size, suffix_size = strlen(suffix);

    while (end > 0 && path[end - 1] == '/')
        end--;
    begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    name_size = end - begin;
    if (name_size == 0 || name_size + suffix_size > FOLDER_NAME_SIZE_MAX ||
        (path[begin] == '.' && (name_size == 1 || (name_size == 2 && path[begin + 1] == '.'))))
        return km__fail(folder->error, KM_E_INVALID, NULL, 0, 0,
                        "%s does not end in the name of a folder", path);
    folder->names_size = begin + 2 + 2 * (end + 1) + suffix_size;
    folder->names = km__allocate(&folder->os->allocator, folder->names_size); /* zeroed */
    if (!folder->names)
        return km__fail(folder->error, KM_E_NO_MEMORY, NULL, 0, 0, "no memory for a path");
    folder->parent_path = folder->names;
    memcpy(folder->parent_path, begin ? path : ".", begin ? begin : 1);
    folder->path = folder->names + begin + 2;
    memcpy(folder->path, path, end);
    folder->name = folder->path + begin;
    folder->temp_path = folder->path + end + 1;
    memcpy(folder->temp_path, path, end);
    memcpy(folder->temp_path + end, suffix, suffix_size);
    folder->temp_name = folder->temp_path + begin;
    return KM_OK;
}

static km_status open_parent(struct new_folder *folder)
{
    km_status rc = folder->os->ops->open_dir(folder->os, folder->parent_path, &folder->parent);

    if (rc == KM_NOT_FOUND || rc == KM_E_INVALID)
        return km__fail(folder->error, KM_E_INVALID, NULL, 0, 0, "there is no folder %s",
                        folder->parent_path);
    return rc ? folder_failed(folder, rc, "cannot open the folder above") : KM_OK;
}

/* There is nothing at the path. */
static km_status check_place(struct new_folder *folder)
{
    const struct os_ops *ops = folder->os->ops;
    struct os_dir *dir = NULL;
    km_status rc = ops->open_subdir(folder->parent, folder->name, &dir);

    ops->close_dir(dir);
    if (rc == KM_NOT_FOUND)
        return KM_OK;
    if (rc == KM_OK || rc == KM_E_INVALID) /* invalid: a file, or a link */
        return km__fail(folder->error, KM_EXISTS, NULL, 0, 0, "%s is there already", folder->name);
    return folder_failed(folder, rc, "cannot look for the folder");
}

/* ---- life -------------------------------------------------------------------------------- */

static km_status is_taken(const struct new_folder *folder)
{
    return km__fail(folder->error, KM_EXISTS, folder->temp_name, 0, 0,
                    "the same folder is being written by somebody else");
}

/* The lock comes first: I2. */
static km_status make_locked(struct new_folder *folder)
{
    const struct os_ops *ops = folder->os->ops;
    km_status rc = ops->create_subdir(folder->parent, folder->temp_name);

    if (rc)
        return rc == KM_EXISTS ? is_taken(folder)
                               : folder_failed(folder, rc, "cannot make the folder");
    folder->is_ours = 1;
    rc = ops->open_subdir(folder->parent, folder->temp_name, &folder->dir);
    if (!rc)
        rc = ops->open_file(folder->dir, FOLDER_LOCK, OS_CREATE_NEW, &folder->lock_file);
    if (!rc)
        rc = ops->lock(folder->lock_file, OS_LOCK_EXCLUSIVE);
    if (rc == KM_E_LOCKED) { /* taken for a leftover before it was locked */
        folder->is_ours = 0;
        return is_taken(folder);
    }
    return rc ? folder_failed(folder, rc, "cannot make the folder") : KM_OK;
}

static km_status make_folder(struct new_folder *folder)
{
    const struct os_ops *ops = folder->os->ops;
    km_status rc = make_locked(folder);

    if (rc)
        return rc;
    rc = ops->sync(folder->lock_file);
    if (!rc)
        rc = ops->create_subdir(folder->dir, FOLDER_LOG);
    if (!rc)
        rc = ops->open_subdir(folder->dir, FOLDER_LOG, &folder->log_dir);
    return rc ? folder_failed(folder, rc, "cannot make the log's folder") : KM_OK;
}

km_status km__new_folder_look(struct new_folder *folder, const char *path, const char *suffix)
{
    km_status rc = split_path(folder, path, suffix);

    return rc ? rc : open_parent(folder);
}

km_status km__new_folder_clear(struct new_folder *folder)
{
    km_status rc = check_place(folder);

    return rc ? rc : remove_leftover(folder);
}

km_status km__new_folder_begin(struct new_folder *folder, const char *path, const char *suffix)
{
    km_status rc = km__new_folder_look(folder, path, suffix);

    if (!rc)
        rc = km__new_folder_clear(folder);
    return rc ? rc : make_folder(folder);
}

km_status km__new_folder_begin_beside(struct new_folder *folder)
{
    km_status rc = remove_leftover(folder);

    return rc ? rc : make_folder(folder);
}

void km__new_folder_let_go(struct new_folder *folder)
{
    close_handles(folder);
    folder->is_ours = 0;
    folder->is_let_go = 1;
}

km_status km__new_folder_take_back(struct new_folder *folder)
{
    const struct os_ops *ops = folder->os->ops;
    km_status rc = ops->open_subdir(folder->parent, folder->temp_name, &folder->dir);

    if (!rc)
        rc = ops->open_file(folder->dir, FOLDER_LOCK, OS_OPEN_WRITE, &folder->lock_file);
    if (!rc)
        rc = ops->lock(folder->lock_file, OS_LOCK_EXCLUSIVE);
    if (!rc)
        rc = ops->open_subdir(folder->dir, FOLDER_LOG, &folder->log_dir);
    if (rc)
        close_handles(folder);
    if (rc == KM_E_LOCKED)
        return is_taken(folder);
    if (rc)
        return folder_failed(folder, rc, "cannot open the new folder again");
    folder->is_ours = 1;
    folder->is_let_go = 0;
    return KM_OK;
}

static km_status sync_names(struct new_folder *folder)
{
    km_status rc = folder->os->ops->sync_dir(folder->log_dir);

    return rc ? rc : folder->os->ops->sync_dir(folder->dir);
}

km_status km__new_folder_publish(struct new_folder *folder)
{
    const struct os_ops *ops = folder->os->ops;
    km_status rc = sync_names(folder); /* before the rename: I1 */

    if (!rc)
        rc = ops->rename(folder->parent, folder->temp_name, folder->name);
    if (rc)
        return folder_failed(folder, rc, "cannot give the folder its name");
    rc = ops->sync_dir(folder->parent);
    if (!rc) {
        folder->is_ours = 0;
        return KM_OK;
    }
    rc = folder_failed(folder, rc, "cannot make the folder's name durable");
    km__ignore(ops->rename(folder->parent, folder->name, folder->temp_name),
               "if it stays, a whole store stays");
    return rc;
}

/* The handles of the folder are those of what is at the path now: take those of the other. */
static void take_old(struct new_folder *folder, struct os_file **lock_file)
{
    const struct os_ops *ops = folder->os->ops;

    close_handles(folder);
    folder->lock_file = *lock_file;
    *lock_file = NULL;
    km__ignore(ops->open_subdir(folder->parent, folder->temp_name, &folder->dir),
               "then it stays, a leftover");
    if (folder->dir)
        km__ignore(ops->open_subdir(folder->dir, FOLDER_LOG, &folder->log_dir), "as above");
    folder->is_ours = folder->dir != NULL;
}

km_status km__new_folder_exchange(struct new_folder *folder, struct os_file **old_lock_file)
{
    const struct os_ops *ops = folder->os->ops;
    km_status rc = sync_names(folder);

    if (rc)
        return folder_failed(folder, rc, "cannot make the new folder durable");
    rc = ops->exchange(folder->os, folder->path, folder->temp_path); /* I4 */
    if (rc == KM_E_UNSUPPORTED)
        return km__fail(folder->error, rc, folder->temp_name, 0, ops->last_error(folder->os),
                        "the file system cannot exchange two folders: restore to a new folder");
    if (rc) { /* which of the two is where is not known for sure, so neither is removed */
        folder->is_ours = 0;
        return folder_failed(folder, rc,
                             "the folder could not be exchanged with the store's: one of the two "
                             "has the old contents, the other the new ones");
    }
    take_old(folder, old_lock_file);
    return KM_OK;
}

void km__new_folder_end(struct new_folder *folder)
{
    if (!folder->os)
        return;
    if (folder->is_ours)
        km__ignore(remove_folder(folder), "the next attempt removes it");
    folder->error = NULL; /* what there was to tell is told */
    if (folder->is_let_go)
        km__ignore(remove_leftover(folder), "as above; or somebody else has taken it");
    close_handles(folder);
    folder->os->ops->close_dir(folder->parent);
    km__release(&folder->os->allocator, folder->names, folder->names_size);
    memset(folder, 0, sizeof(*folder));
}
