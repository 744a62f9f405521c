/* SPDX-License-Identifier: Apache-2.0
 *
 * store_files.c -- the files of a store beside the log: LOCK, IDENTITY, MARKS; and a store's birth.
 *
 * A store is created step by step, so a crash can leave a part of one. The file CREATING is there,
 * durably, from before the first step until after the last: while it is, nothing in the folder has
 * ever been used, and the next open begins again. IDENTITY missing without CREATING is damage.
 */
#include "store/store_internal.h"

#include <stdio.h>
#include <stdlib.h>

#define LOCK_NAME "LOCK"
#define IDENTITY_NAME "IDENTITY"
#define MARKS_NAME "MARKS"
#define CREATING_NAME "CREATING"
#define LOG_DIR_NAME "log"
#define BIRTH_SEQUENCE 2u /* of MARKS, until the store is opened for writing */

static km_status io_failed(struct km_store *store, km_error *error, km_status rc, const char *name,
                           const char *what)
{
    /* links, folders and pipes in a file's place; the caller's arguments are fine */
    if (rc == KM_E_INVALID)
        rc = KM_E_CORRUPT;
    return km__fail(error, rc, name, 0, store->os->ops->last_error(store->os), "%s", what);
}

/* ---- LOCK -------------------------------------------------------------------------------- */

static uint32_t read_lock_holder(struct km_store *store, struct os_file *file)
{
    char text[16] = {0};
    uint64_t size = 0;

    if (store->os->ops->file_size(file, &size) || size == 0)
        return 0;
    if (store->os->ops->read_at(file, 0, text,
                                size < sizeof(text) - 1 ? (size_t)size : sizeof(text) - 1))
        return 0;
    return (uint32_t)strtoul(text, NULL, 10);
}

static km_status explain_lock(struct km_store *store, struct os_file *file, km_error *error)
{
    uint32_t holder = read_lock_holder(store, file);

    if (!holder)
        return km__fail(error, KM_E_LOCKED, LOCK_NAME, 0, 0,
                        "the store is open in another process");
    if (holder == store->os->ops->process_id(store->os))
        return km__fail(error, KM_E_LOCKED, LOCK_NAME, 0, 0,
                        "the store is open in this process already (pid %u)", holder);
    if (!store->os->ops->process_exists(store->os, holder))
        return km__fail(
            error, KM_E_LOCKED, LOCK_NAME, 0, 0,
            "the store is locked; pid %u, which opened it last, no longer exists: a child of "
            "it, or a reader, still has it open",
            holder);
    return km__fail(error, KM_E_LOCKED, LOCK_NAME, 0, 0,
                    "the store is open in another process (pid %u)", holder);
}

static km_status write_lock_holder(struct km_store *store)
{
    char text[16] = {0};

    snprintf(text, sizeof(text), "%-14u\n", store->os->ops->process_id(store->os));
    return store->os->ops->write_at(store->lock_file, 0, text, 15);
}

static km_status open_lock_file(struct km_store *store, int is_read_only, struct os_file **out_file)
{
    const struct os_ops *ops = store->os->ops;
    km_status rc = ops->open_file(store->dir, LOCK_NAME,
                                  is_read_only ? OS_OPEN_READ : OS_OPEN_WRITE, out_file);

    if (rc == KM_NOT_FOUND && !is_read_only) {
        rc = ops->open_file(store->dir, LOCK_NAME, OS_CREATE_NEW, out_file);
        if (rc == KM_EXISTS) /* another process was first */
            rc = ops->open_file(store->dir, LOCK_NAME, OS_OPEN_WRITE, out_file);
    }
    return rc;
}

static km_status take_lock(struct km_store *store, int is_read_only, km_error *error)
{
    km_status rc = open_lock_file(store, is_read_only, &store->lock_file);

    if (rc == KM_NOT_FOUND)
        return KM_OK; /* read-only, and nobody has ever locked it */
    if (rc)
        return io_failed(store, error, rc, LOCK_NAME, "cannot open the lock file");
    rc = store->os->ops->lock(store->lock_file, is_read_only ? OS_LOCK_SHARED : OS_LOCK_EXCLUSIVE);
    if (rc == KM_E_LOCKED && is_read_only && !store->is_checked_whole &&
        km__follow_announce(store) == KM_OK) {
        store->is_follower = 1;
        return KM_OK;
    }
    if (rc == KM_E_LOCKED)
        return explain_lock(store, store->lock_file, error);
    if (!rc && !is_read_only)
        rc = write_lock_holder(store);
    return rc ? io_failed(store, error, rc, LOCK_NAME, "cannot lock the store") : KM_OK;
}

/* ---- whole files ------------------------------------------------------------------------- */

static km_status read_file(struct km_store *store, const char *name, uint8_t *bytes, size_t size,
                           km_error *error)
{
    const struct os_ops *ops = store->os->ops;
    struct os_file *file = NULL;
    uint64_t file_size = 0;
    km_status rc = ops->open_file(store->dir, name, OS_OPEN_READ, &file);

    if (rc == KM_NOT_FOUND)
        return rc;
    if (!rc)
        rc = ops->file_size(file, &file_size);
    if (!rc && file_size != size) {
        ops->close_file(file);
        return km__fail(error, KM_E_CORRUPT, name, file_size, 0, "the file has a wrong size");
    }
    if (!rc)
        rc = ops->read_at(file, 0, bytes, size);
    if (rc)
        rc = io_failed(store, error, rc, name, "cannot read the file");
    ops->close_file(file);
    return rc;
}

#define WHOLE_FILE_SIZE_MAX (UINT64_C(1) << 26)

km_status km__read_whole_file(struct km_store *store, const char *name, uint8_t **out_bytes,
                              size_t *out_size, km_error *error)
{
    const struct os_ops *ops = store->os->ops;
    struct os_file *file = NULL;
    uint64_t size = 0;
    uint8_t *bytes = NULL;
    km_status rc = ops->open_file(store->dir, name, OS_OPEN_READ, &file);

    if (rc == KM_NOT_FOUND)
        return rc;
    if (!rc)
        rc = ops->file_size(file, &size);
    if (!rc && (size == 0 || size > WHOLE_FILE_SIZE_MAX))
        rc = KM_E_CORRUPT;
    if (!rc && !(bytes = km__allocate(store->allocator, (size_t)size)))
        rc = KM_E_NO_MEMORY;
    if (!rc)
        rc = ops->read_at(file, 0, bytes, (size_t)size);
    ops->close_file(file);
    if (rc) {
        km__release(store->allocator, bytes, (size_t)size);
        return io_failed(store, error, rc, name, "cannot read the file");
    }
    *out_bytes = bytes;
    *out_size = (size_t)size;
    return KM_OK;
}

/* Under a temporary name, synced, renamed; the caller syncs the folder. */
km_status km__write_file(struct km_store *store, const char *name, const uint8_t *bytes,
                         size_t size, km_error *error)
{
    static const char temp_name[] = "new.file";
    const struct os_ops *ops = store->os->ops;
    struct os_file *file = NULL;
    km_status rc;

    km__ignore(ops->unlink(store->dir, temp_name), "a leftover of a crash, or nothing");
    rc = ops->open_file(store->dir, temp_name, OS_CREATE_NEW, &file);
    if (rc)
        goto out;
    rc = ops->write_at(file, 0, bytes, size);
    if (rc)
        goto out;
    rc = ops->sync(file);
    if (rc)
        goto out;
    rc = ops->rename(store->dir, temp_name, name);
out:
    if (rc)
        rc = io_failed(store, error, rc, name, "cannot write the file");
    ops->close_file(file);
    return rc;
}

/* ---- IDENTITY and MARKS ------------------------------------------------------------------ */

static km_status load_identity(struct km_store *store, km_error *error)
{
    uint8_t *bytes = km__allocate(store->allocator, IDENTITY_SIZE);
    km_status rc = bytes ? read_file(store, IDENTITY_NAME, bytes, IDENTITY_SIZE, error)
                         : KM_E_NO_MEMORY;

    if (!rc) {
        rc = km__identity_decode(bytes, &store->identity);
        if (rc)
            rc = km__fail(error, rc, IDENTITY_NAME, 0, 0,
                          rc == KM_E_VERSION
                              ? "written by a newer version: upgrade the library"
                              : "the file is damaged: run `keepmap salvage`, or restore a backup");
    }
    km__release(store->allocator, bytes, IDENTITY_SIZE);
    return rc;
}

/* The better of the two slots; one may have been torn while it was written. */
static km_status choose_marks(const struct km_store *store, const uint8_t *bytes, struct marks *out)
{
    struct marks slots[2];
    int is_good[2];

    for (int i = 0; i < 2; i++) {
        is_good[i] = km__marks_decode(bytes + (size_t)i * MARKS_SLOT_SIZE, &slots[i]) == KM_OK &&
                     memcmp(slots[i].store_id, store->identity.store_id, STORE_ID_SIZE) == 0;
    }
    if (!is_good[0] && !is_good[1])
        return KM_E_CORRUPT;
    if (!is_good[1] || (is_good[0] && slots[0].sequence > slots[1].sequence))
        *out = slots[0];
    else
        *out = slots[1];
    /* the slot that is not good may have been the newer one: what the other says of a clean close
     * is not to be relied upon */
    if (!is_good[0] || !is_good[1])
        out->clean = 0;
    return KM_OK;
}

km_status km__load_marks(struct km_store *store, struct marks *out, km_error *error)
{
    uint8_t *bytes = km__allocate(store->allocator, 2 * MARKS_SLOT_SIZE);
    km_status rc = bytes ? read_file(store, MARKS_NAME, bytes, 2 * MARKS_SLOT_SIZE, error)
                         : KM_E_NO_MEMORY;

    if (rc == KM_NOT_FOUND)
        rc = km__fail(error, KM_E_CORRUPT, MARKS_NAME, 0, 0,
                      "the file is missing: run `keepmap salvage`");
    if (!rc && choose_marks(store, bytes, out))
        rc = km__fail(error, KM_E_CORRUPT, MARKS_NAME, 0, 0,
                      "both slots are damaged: run `keepmap salvage`");
    km__release(store->allocator, bytes, 2 * MARKS_SLOT_SIZE);
    return rc;
}

/* ---- birth ------------------------------------------------------------------------------- */

static km_status write_identity(struct km_store *store, km_error *error)
{
    const struct os_ops *ops = store->os->ops;
    uint8_t *bytes = km__allocate(store->allocator, IDENTITY_SIZE);
    km_status rc = bytes ? KM_OK : KM_E_NO_MEMORY;

    if (!rc)
        rc = ops->random(store->os, store->identity.store_id, STORE_ID_SIZE);
    if (!rc)
        rc = ops->random(store->os, store->identity.hash_seed, KM__HASH_SEED_SIZE);
    if (!rc) {
        store->identity.created_ms = ops->wall_ms(store->os);
        km__identity_encode(&store->identity, bytes);
        rc = km__write_file(store, IDENTITY_NAME, bytes, IDENTITY_SIZE, error);
    }
    km__release(store->allocator, bytes, IDENTITY_SIZE);
    return rc;
}

static km_status write_first_marks(struct km_store *store, km_error *error)
{
    uint8_t *bytes = km__allocate(store->allocator, 2 * MARKS_SLOT_SIZE);
    struct marks marks = {.sequence = BIRTH_SEQUENCE - 1, .clean = 1};
    km_status rc;

    if (!bytes)
        return KM_E_NO_MEMORY;
    memcpy(marks.store_id, store->identity.store_id, STORE_ID_SIZE);
    marks.head = km__position(1, SEGMENT_HEADER_SIZE);
    marks.durable = marks.head;
    marks.clock_ms = store->identity.created_ms;
    store->os->ops->boot_id(store->os, marks.boot_id);
    km__marks_encode(&marks, bytes + MARKS_SLOT_SIZE); /* the slot of odd sequences */
    marks.sequence++;
    km__marks_encode(&marks,
                     bytes); /* both slots are good from the beginning: see choose_marks() */
    rc = km__write_file(store, MARKS_NAME, bytes, 2 * MARKS_SLOT_SIZE, error);
    km__release(store->allocator, bytes, 2 * MARKS_SLOT_SIZE);
    return rc;
}

static km_status write_first_log(struct km_store *store, km_error *error)
{
    struct log_options options = {.os = store->os,
                                  .store_dir = store->dir,
                                  .log_dir = store->log_dir,
                                  .zero_fill = store->durability == KM_DURABLE_POWER};

    memcpy(options.store_id, store->identity.store_id, STORE_ID_SIZE);
    return km__log_create_files(&options, error);
}

/* Names that an attempt before has left may be visible and yet not durable, if its sync failed:
 * they are bound anew. */
static km_status open_log_dir(struct km_store *store)
{
    static const char temp_name[] = "new.log";
    const struct os_ops *ops = store->os->ops;
    km_status rc;

    km__ignore(ops->rename(store->dir, LOG_DIR_NAME, temp_name), "usually it is not there");
    km__ignore(ops->rename(store->dir, temp_name, LOG_DIR_NAME), "as above");
    rc = ops->create_subdir(store->dir, LOG_DIR_NAME);
    if (rc == KM_OK || rc == KM_EXISTS)
        rc = ops->open_subdir(store->dir, LOG_DIR_NAME, &store->log_dir);
    return rc;
}

static km_status declare_creation(struct km_store *store, km_error *error)
{
    const struct os_ops *ops = store->os->ops;
    struct os_file *file = NULL;
    km_status rc = ops->open_file(store->dir, CREATING_NAME, OS_CREATE_NEW, &file);

    ops->close_file(file);
    if (rc == KM_EXISTS)
        return km__write_file(store, CREATING_NAME, (const uint8_t *)"", 0, error);
    return rc ? io_failed(store, error, rc, CREATING_NAME, "cannot create the store") : KM_OK;
}

/* The store is whole: let it be one. If that fails it must not be used, and begins anew. */
static km_status declare_created(struct km_store *store, km_error *error)
{
    const struct os_ops *ops = store->os->ops;
    struct os_file *file = NULL;
    km_status rc = ops->unlink(store->dir, CREATING_NAME);

    if (!rc)
        rc = ops->sync_dir(store->dir);
    if (!rc)
        return KM_OK;
    rc = io_failed(store, error, rc, CREATING_NAME, "cannot create the store");
    km__ignore(ops->open_file(store->dir, CREATING_NAME, OS_CREATE_NEW, &file),
               "the error is told already");
    ops->close_file(file);
    return rc;
}

/* CREATING never lies in a store that was opened for writing: then somebody else has put it there.
 */
static int was_used(struct km_store *store)
{
    struct marks marks;

    return load_identity(store, NULL) == KM_OK && km__load_marks(store, &marks, NULL) == KM_OK &&
           marks.sequence > BIRTH_SEQUENCE;
}

static km_status create_store(struct km_store *store, const char *path, km_error *error)
{
    const struct os_ops *ops = store->os->ops;
    km_status rc;

    if (was_used(store))
        return km__fail(error, KM_E_CORRUPT, CREATING_NAME, 0, 0,
                        "the file does not belong in a store that was used: remove it");
    /* again: a kill may have come between the making of the folder and the sync of its name */
    km__ignore(ops->create_dir(store->os, path), "it exists; the folder above may be closed to us");
    rc = declare_creation(store, error);
    if (rc)
        return rc;
    rc = ops->sync_dir(store->dir);
    if (!rc)
        rc = open_log_dir(store);
    if (rc)
        return io_failed(store, error, rc, NULL, "cannot create the store");
    rc = write_identity(store, error);
    if (rc)
        return rc;
    rc = write_first_log(store, error);
    if (rc)
        return rc;
    rc = write_first_marks(store, error);
    if (rc)
        return rc;
    rc = ops->sync_dir(store->dir);
    if (rc)
        return io_failed(store, error, rc, NULL, "cannot create the store");
    return declare_created(store, error);
}

/* ---- what is there ----------------------------------------------------------------------- */

struct folder_content {
    int has_identity, has_creating, has_log, has_other;
};

static km_status note_name(void *context, const char *name)
{
    struct folder_content *content = context;

    if (strcmp(name, IDENTITY_NAME) == 0)
        content->has_identity = 1;
    else if (strcmp(name, CREATING_NAME) == 0)
        content->has_creating = 1;
    else if (strcmp(name, LOG_DIR_NAME) == 0 || strcmp(name, MARKS_NAME) == 0)
        content->has_log = 1;
    else if (strcmp(name, LOCK_NAME) != 0)
        content->has_other = 1;
    return KM_OK;
}

/* Decide by the folder's content and the mode; *out_create: there is nothing yet, make a store. */
static km_status judge_folder(struct km_store *store, int *out_create, km_error *error)
{
    struct folder_content content = {0, 0, 0, 0};
    km_open_mode mode = store->options.mode;
    km_status rc = store->os->ops->list(store->dir, note_name, &content);

    if (rc)
        return io_failed(store, error, rc, NULL, "cannot list the store's folder");
    *out_create = content.has_creating || (!content.has_identity && !content.has_log);
    if (!content.has_identity && content.has_log && !content.has_creating)
        return km__fail(error, KM_E_CORRUPT, IDENTITY_NAME, 0, 0,
                        "the file is missing: run `keepmap salvage`, or restore a backup");
    if (*out_create && content.has_other && !content.has_creating)
        return km__fail(error, KM_E_NOT_A_STORE, NULL, 0, 0,
                        "the folder holds other files and no store: choose an empty or new folder");
    if (*out_create && (mode == KM_OPEN_EXISTING || mode == KM_OPEN_READ_ONLY))
        return km__fail(error, KM_E_NOT_A_STORE, NULL, 0, 0, "there is no store in this folder");
    if (!*out_create && mode == KM_CREATE_NEW)
        return km__fail(error, KM_EXISTS, NULL, 0, 0, "there is a store in this folder already");
    return KM_OK;
}

static km_status open_folder(struct km_store *store, const char *path, km_error *error)
{
    const struct os_ops *ops = store->os->ops;
    int may_create = store->options.mode == KM_OPEN_OR_CREATE ||
                     store->options.mode == KM_CREATE_NEW;
    km_status rc = ops->open_dir(store->os, path, &store->dir);

    if (rc == KM_NOT_FOUND && may_create) {
        rc = ops->create_dir(store->os, path);
        if (rc == KM_OK || rc == KM_EXISTS)
            rc = ops->open_dir(store->os, path, &store->dir);
    }
    if (rc == KM_NOT_FOUND)
        return km__fail(error, may_create ? KM_E_IO : KM_E_NOT_A_STORE, NULL, 0, 0,
                        may_create ? "the folder above %s does not exist" : "there is no folder %s",
                        path);
    if (rc == KM_E_INVALID)
        return km__fail(error, KM_E_NOT_A_STORE, NULL, 0, 0, "%s is not a folder", path);
    return rc ? km__fail(error, rc, NULL, 0, ops->last_error(store->os), "cannot open %s", path)
              : KM_OK;
}

km_status km__store_attach_files(struct km_store *store, const char *path,
                                 struct os_file **out_marks_file, struct marks *out_marks,
                                 km_error *error)
{
    const struct os_ops *ops = store->os->ops;
    int is_read_only = store->options.mode == KM_OPEN_READ_ONLY;
    int must_create = 0;
    km_status rc = open_folder(store, path, error);

    if (!rc) /* before a LOCK file is left in a folder of somebody else's */
        rc = judge_folder(store, &must_create, error);
    if (!rc)
        rc = take_lock(store, is_read_only, error);
    if (!rc) /* again: another process may have been at it */
        rc = judge_folder(store, &must_create, error);
    if (!rc && must_create)
        rc = create_store(store, path, error);
    if (!rc)
        rc = load_identity(store, error);
    if (!rc)
        rc = km__load_marks(store, out_marks, error);
    if (rc)
        return rc;
    /* never worked on: a kill may have come between the removal of CREATING and its sync */
    if (!is_read_only && !must_create && out_marks->sequence == BIRTH_SEQUENCE)
        rc = ops->sync_dir(store->dir);
    if (rc)
        return io_failed(store, error, rc, NULL, "cannot sync the store's folder");
    if (!store->log_dir)
        rc = ops->open_subdir(store->dir, LOG_DIR_NAME, &store->log_dir);
    if (rc)
        return km__fail(error, rc == KM_NOT_FOUND || rc == KM_E_INVALID ? KM_E_CORRUPT : rc,
                        LOG_DIR_NAME, 0, ops->last_error(store->os),
                        "cannot open the log's folder");
    if (!is_read_only)
        rc = ops->open_file(store->dir, MARKS_NAME, OS_OPEN_WRITE, out_marks_file);
    return rc ? io_failed(store, error, rc, MARKS_NAME, "cannot open the file") : KM_OK;
}
