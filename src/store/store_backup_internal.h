/* SPDX-License-Identifier: Apache-2.0
 *
 * store_backup_internal.h -- what backups, restores and inspections share: a folder that is built
 * beside its place, copies of files into it, and a look into a store that is not opened.
 */
#ifndef KM_STORE_STORE_BACKUP_INTERNAL_H
#define KM_STORE_STORE_BACKUP_INTERNAL_H

#include "format/catalogue.h"
#include "format/image.h"
#include "store/store_internal.h"

#define FOLDER_LOCK "LOCK"
#define FOLDER_IDENTITY "IDENTITY"
#define FOLDER_MARKS "MARKS"
#define FOLDER_LOG "log"

/* ---- store_new_folder.c: a store's folder that gets its name when it is whole */

struct new_folder {
    struct os *os;
    km_error *error;       /* NULL is accepted */
    struct os_dir *parent; /* the folder above */
    struct os_dir *dir, *log_dir;
    struct os_file *lock_file; /* held exclusively while the folder is built */
    char *names;               /* memory of the next three */
    size_t names_size;
    char *parent_path, *path, *temp_path;
    char *name, *temp_name; /* in the two paths */
    int is_ours;            /* it is there, under its temporary name */
    int is_let_go;          /* it may be there, closed */
};

/* Make the folder, and log/ in it, under the name of `path` and `suffix`. What an interrupted
 * attempt has left there is removed first. KM_EXISTS if `path` is there. os and error are set. */
km_status km__new_folder_begin(struct new_folder *folder, const char *path, const char *suffix);
/* The first two steps of it: find the names and the folder above; then look that nothing is at
 * `path`, and remove a leftover. */
km_status km__new_folder_look(struct new_folder *folder, const char *path, const char *suffix);
km_status km__new_folder_clear(struct new_folder *folder);
/* After the first step alone: make the folder beside one that is at `path`, and stays there. */
km_status km__new_folder_begin_beside(struct new_folder *folder);

/* Close the folder so that a store can be opened, or made, at its temp_path; later, with that store
 * closed, take it back. KM_EXISTS: somebody else has taken it in between. After an error it is
 * removed by km__new_folder_end() if that is possible. */
void km__new_folder_let_go(struct new_folder *folder);
km_status km__new_folder_take_back(struct new_folder *folder);

/* The files in it are synced: make their names durable, then give the folder its own. */
km_status km__new_folder_publish(struct new_folder *folder);
/* Instead: exchange it with the folder that is at `path`, whose LOCK is held by *old_lock_file.
 * What was at `path` is removed by km__new_folder_end(), which lets go of that lock.
 * KM_E_UNSUPPORTED; after another error both folders may be left. */
km_status km__new_folder_exchange(struct new_folder *folder, struct os_file **old_lock_file);
/* Remove the folder if it was not published. Any state that began zeroed is accepted. */
void km__new_folder_end(struct new_folder *folder);

/* 1 if the name is one that a backup or a restore makes in a store's folder, other than log/. */
int km__new_folder_knows(const char *name);

/* Look through a store's folder, or its log/: how many names there are, LOCK aside, and whether one
 * of them is no store's. */
km_status km__new_folder_survey(struct os *os, struct os_dir *dir, int is_log, uint32_t *out_count,
                                int *out_is_foreign);

/* ---- store_copy.c: copies of files, through one buffer */

#define COPY_PIECE (UINT64_C(1) << 20)

struct copier {
    struct os *os;
    km_error *error; /* NULL is accepted */
    km_progress_fn progress;
    void *progress_context;
    uint64_t done_bytes, total_bytes;
    uint8_t *buffer; /* COPY_PIECE bytes */
};

km_status km__copier_init(struct copier *copier);
void km__copier_fini(struct copier *copier);
/* So many more bytes are done. KM_STOPPED if the caller's callback says so. */
km_status km__copier_advance(struct copier *copier, uint64_t size);

/* What a new file is made of. */
struct copy_source {
    struct os_file *file; /* its first `size` bytes; or */
    const uint8_t *bytes; /* these */
    uint64_t size;
    uint64_t file_size; /* of the new file: zeros follow */
};

/* Make the file `name`, synced. */
km_status km__copy_to(struct copier *copier, const struct copy_source *source, struct os_dir *to,
                      const char *name);
/* Copy a whole file. */
km_status km__copy_file(struct copier *copier, struct os_dir *from, struct os_dir *to,
                        const char *name);
/* Tell a failure that concerns the file `name`. KM_NOT_FOUND and KM_EXISTS become KM_E_IO: nobody
 * else has any business with these files. */
km_status km__copy_failed(struct os *os, km_error *error, km_status rc, const char *name,
                          const char *what);

/* ---- store_backup.c: a backup of a moment that has passed */

struct backup_moment {
    uint32_t head_number; /* the log's first segment then; the caller has it pinned */
    uint64_t end;         /* where the log ended; what lies below is complete */
    const uint8_t *maps;  /* what the backup's MAPS is to hold */
    uint64_t maps_size;
};

km_status km__backup_moment(struct km_store *store, const struct backup_moment *moment,
                            const char *path, const struct copier *progress, km_error *error);

/* ---- store_inspect.c: a store that is not opened */

struct store_look {
    struct km_store store; /* of its fields only os, allocator, dir, log_dir, lock_file, identity */
    struct marks marks;
};

/* Lock it against writers and read IDENTITY and MARKS: the errors of km_open(). */
km_status km__look_open(struct store_look *look, struct os *os, const char *path, km_error *error);
/* After an error of km__look_open() too. */
void km__look_close(struct store_look *look);

/* ---- for tests, on another machine */

km_status km__store_restore_with(struct os *os, const char *backup, const char *path,
                                 const struct copier *progress, km_error *error);
km_status km__store_restore_in_place_with(struct os *os, const char *backup, const char *path,
                                          const struct copier *progress, km_error *error);
km_status km__store_inspect_with(struct os *os, const char *path, km_inspection *out,
                                 km_error *error);

#endif
