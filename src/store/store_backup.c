/* SPDX-License-Identifier: Apache-2.0
 *
 * store_backup.c -- write an open store to a new folder, as it is at one position of its log.
 *
 * I1. The backup is the log from the head, as pinned, to a durable position; MAPS is of that head
 *     or of a later position below the end: it is opened together with the pin, and the sync comes
 *     after. Of a moment that has passed (a snapshot) the caller says what these three are.
 * I2. A file is linked only if it will never be written again and is durable: a segment that the
 *     log has left, below the durable point. The segment of the end is copied up to it, and zeros
 *     follow, so that the end is one of a clean close.
 * I3. MARKS tells of no boot: whoever opens the backup for writing goes on in a new segment, as
 *     after a restart of the machine, and leaves these files alone.
 * I4. A segment is taken from the previous backup only if nobody has opened that for writing, and
 *     the segment is whole there: the last one of a backup is cut at its end.
 */
#include "store/store_backup_internal.h"
#include "store/store_tables.h"

#define BACKUP_SUFFIX ".new-backup"
#define BACKUP_SEQUENCE 4u /* of MARKS: above that of a store's birth, which may be made anew */
#define COMPARED_SIZE ((uint64_t)SEGMENT_SIZE_MIN) /* at each end of a segment */

_Static_assert(2 * COMPARED_SIZE <= COPY_PIECE, "both sides of a comparison fit in the buffer");

struct backup {
    struct km_store *store;
    km_backup_options options;
    km_error *error;
    const struct backup_moment *moment; /* NULL: now */
    struct log_pin pin;
    uint32_t head_number;
    struct os_file *maps_file; /* NULL: there is none, or of a moment */
    uint64_t maps_size;
    uint64_t end;
    uint32_t link_end;     /* segments below this number may be linked: I2 */
    int takes_memory;      /* files lack what the ring has: copy what is mapped */
    uint32_t previous_end; /* segments of the previous backup below are whole; 0: none */
    struct store_look previous;
    struct new_folder folder;
    struct copier copier;
    km_backup_result result;
};

/* ---- options ----------------------------------------------------------------------------- */

static km_status take_backup_options(struct backup *backup, const km_backup_options *options)
{
    if (!options)
        return KM_OK;
    if (options->struct_size < offsetof(km_backup_options, previous) || options->struct_size > 4096)
        return km__fail(backup->error, KM_E_INVALID, NULL, 0, 0,
                        "km_backup_options.struct_size is not set");
    memcpy(&backup->options, options,
           options->struct_size < sizeof(*options) ? options->struct_size : sizeof(*options));
    backup->copier.progress = backup->options.progress;
    backup->copier.progress_context = backup->options.progress_context;
    return KM_OK;
}

/* ---- the previous backup ----------------------------------------------------------------- */

/* Written by a backup, and never opened for writing since. */
static int is_untouched(const struct marks *marks)
{
    static const uint8_t no_boot_id[BOOT_ID_SIZE];

    return marks->sequence == BACKUP_SEQUENCE && marks->clean &&
           memcmp(marks->boot_id, no_boot_id, BOOT_ID_SIZE) == 0;
}

static km_status look_at_previous(struct backup *backup)
{
    struct store_look *previous = &backup->previous;
    const char *path = backup->options.previous;
    km_error error = {0};
    km_status rc;

    if (!path || backup->options.copy)
        return KM_OK;
    rc = km__look_open(previous, backup->store->os, path, &error);
    if (rc == KM_E_IO || rc == KM_E_NO_MEMORY || rc == KM_E_LIMIT)
        return km__fail(backup->error, rc, error.file, error.offset, error.os_error,
                        "cannot read the previous backup");
    if (rc)
        return km__fail(backup->error, KM_E_INVALID, NULL, 0, 0,
                        "the previous backup cannot be used: %s", error.message);
    if (memcmp(previous->store.identity.store_id, backup->store->identity.store_id,
               STORE_ID_SIZE) != 0)
        return km__fail(backup->error, KM_E_INVALID, NULL, 0, 0, "%s is of another store", path);
    if (!is_untouched(&previous->marks))
        return km__fail(backup->error, KM_E_INVALID, NULL, 0, 0,
                        "%s is no backup, or has been opened for writing", path);
    backup->previous_end = km__position_number(previous->marks.durable);
    return KM_OK;
}

/* ---- what belongs to the backup ---------------------------------------------------------- */

/* I1. Nothing is waited for under the lock, which other maintenance needs. */
static km_status pin_store(struct backup *backup)
{
    struct km_store *store = backup->store;
    km_status rc;

    km__mutex_lock(&store->keeper.lock);
    km__log_pin(store->log, &backup->pin);
    backup->head_number = backup->pin.number;
    rc = store->os->ops->open_file(store->dir, CATALOGUE_NAME, OS_OPEN_READ, &backup->maps_file);
    km__mutex_unlock(&store->keeper.lock);
    if (rc == KM_NOT_FOUND)
        return KM_OK; /* the log tells of all maps */
    if (!rc)
        rc = store->os->ops->file_size(backup->maps_file, &backup->maps_size);
    return rc ? km__copy_failed(store->os, backup->error, rc, CATALOGUE_NAME,
                                "cannot open the file")
              : KM_OK;
}

/* A store that is open for reading may have taken its last records from the ring, and what lies
 * above the durable point may never have been synced. */
static void limit_links(struct backup *backup)
{
    struct log_stats stats;

    backup->link_end = km__position_number(backup->end);
    if (backup->store->options.mode != KM_OPEN_READ_ONLY)
        return;
    km__log_stats(backup->store->log, &stats);
    backup->takes_memory = stats.memory_bytes != 0;
    if (backup->takes_memory)
        backup->link_end = 0;
    else if (km__log_certain_number(backup->store->log) < backup->link_end)
        backup->link_end = km__log_certain_number(backup->store->log);
}

static km_status sync_store(struct backup *backup)
{
    km_error cause = {0};
    km_status rc = km__log_sync(backup->store->log);

    if (rc && km__log_error(backup->store->log, &cause) == KM_OK)
        return km__fail(backup->error, rc, cause.file, cause.offset, cause.os_error,
                        "the store could not be synced");
    return rc ? km__fail(backup->error, rc, FOLDER_LOG, 0, 0, "the store could not be synced")
              : KM_OK;
}

static km_status find_end(struct backup *backup)
{
    km_status rc = KM_OK;

    if (backup->store->options.mode != KM_OPEN_READ_ONLY)
        rc = sync_store(backup);
    if (rc)
        return rc;
    backup->end = km__log_durable(backup->store->log);
    if (backup->moment) {
        KM_ASSERT(backup->moment->end <= backup->end);
        backup->end = backup->moment->end;
    }
    limit_links(backup);
    return KM_OK;
}

static uint64_t used_size(const struct backup *backup, uint32_t number)
{
    if (number == km__position_number(backup->end))
        return km__position_offset(backup->end);
    return km__log_segment_size(backup->store->log, number);
}

/* ---- segments ---------------------------------------------------------------------------- */

/* The first and the last bytes of two files. Numbers, sizes and headers of different logs can be
 * the same, where a store was restored and went on in another way; records cannot. */
static km_status compare_ends(const struct backup *backup, struct os_file *a, struct os_file *b,
                              uint64_t size, int *out_same)
{
    const struct os_ops *ops = backup->store->os->ops;
    uint8_t *bytes_a = backup->copier.buffer, *bytes_b = bytes_a + COMPARED_SIZE;
    const uint64_t offsets[2] = {0, size - COMPARED_SIZE};

    *out_same = 1;
    for (int i = 0; i < 2 && *out_same; i++) {
        km_status rc = ops->read_at(a, offsets[i], bytes_a, COMPARED_SIZE);

        if (!rc)
            rc = ops->read_at(b, offsets[i], bytes_b, COMPARED_SIZE);
        if (rc)
            return rc;
        *out_same = memcmp(bytes_a, bytes_b, COMPARED_SIZE) == 0;
    }
    return KM_OK;
}

/* Whether the previous backup has the segment's file: KM_OK or KM_NOT_FOUND. */
static km_status find_in_previous(const struct backup *backup, uint32_t number, const char *name)
{
    const struct os_ops *ops = backup->store->os->ops;
    uint64_t size = km__log_segment_size(backup->store->log, number), size_there = 0;
    struct os_file *file = NULL, *file_there = NULL;
    int is_same = 0;
    km_status rc = KM_NOT_FOUND;

    if (number >= backup->previous_end)
        goto out; /* I4 */
    rc = ops->open_file(backup->previous.store.log_dir, name, OS_OPEN_READ, &file_there);
    if (!rc)
        rc = ops->file_size(file_there, &size_there);
    if (rc || size_there != size)
        goto out;
    rc = ops->open_file(backup->store->log_dir, name, OS_OPEN_READ, &file);
    if (!rc)
        rc = compare_ends(backup, file, file_there, size, &is_same);
out:
    ops->close_file(file);
    ops->close_file(file_there);
    return rc || is_same ? rc : KM_NOT_FOUND;
}

/* KM_OK; KM_E_UNSUPPORTED: it has to be copied. */
static km_status link_segment(struct backup *backup, uint32_t number, const char *name)
{
    const struct os_ops *ops = backup->store->os->ops;
    struct os_dir *to = backup->folder.log_dir;
    km_status rc = KM_E_UNSUPPORTED;

    if (number >= backup->link_end || backup->options.copy)
        return rc; /* I2 */
    if (backup->previous_end) {
        rc = find_in_previous(backup, number, name);
        if (!rc)
            rc = ops->link(backup->previous.store.log_dir, name, to, name);
        if (rc != KM_NOT_FOUND && rc != KM_E_UNSUPPORTED)
            return rc;
    }
    return ops->link(backup->store->log_dir, name, to, name);
}

static const uint8_t *segment_bytes(const struct km_store *store, uint32_t number)
{
    const struct log_slot *slot = &km__log_view(store->log)->slots[number % LOG_SLOT_COUNT];

    /* relaxed: a store that is open for reading never changes it */
    return (const uint8_t *)(atomic_load_explicit(&slot->base, memory_order_relaxed) &
                             ~(uintptr_t)1);
}

static km_status copy_segment(struct backup *backup, uint32_t number, const char *name)
{
    struct km_store *store = backup->store;
    struct copy_source source = {.size = used_size(backup, number),
                                 .file_size = km__log_segment_size(store->log, number)};
    km_status rc = KM_OK;

    if (backup->takes_memory)
        source.bytes = segment_bytes(store, number);
    else
        rc = store->os->ops->open_file(store->log_dir, name, OS_OPEN_READ, &source.file);
    if (rc)
        rc = km__copy_failed(store->os, backup->error, rc, name, "cannot open the segment");
    else
        rc = km__copy_to(&backup->copier, &source, backup->folder.log_dir, name);
    store->os->ops->close_file(source.file);
    if (!rc)
        backup->result.copied_bytes += source.size;
    return rc;
}

static km_status add_segment(struct backup *backup, uint32_t number)
{
    uint64_t size = used_size(backup, number);
    char name[SEGMENT_NAME_SIZE];
    km_status rc;

    km__segment_name(number, name);
    rc = link_segment(backup, number, name);
    if (rc == KM_E_UNSUPPORTED)
        return copy_segment(backup, number, name);
    if (rc)
        return km__copy_failed(backup->store->os, backup->error, rc, name,
                               "cannot link the segment");
    backup->result.linked_bytes += size;
    return km__copier_advance(&backup->copier, size);
}

static km_status count_segment(struct backup *backup, uint32_t number)
{
    backup->copier.total_bytes += used_size(backup, number);
    return KM_OK;
}

static km_status each_segment(struct backup *backup,
                              km_status (*visit)(struct backup *backup, uint32_t number))
{
    uint32_t number = backup->head_number, last = km__position_number(backup->end);

    for (;;) { /* ends: numbers grow along the log, which has reached the last */
        km_status rc = visit(backup, number);

        if (rc || number == last)
            return rc;
        number = km__log_next_number(backup->store->log, number);
        KM_ASSERT(number != 0 && number <= last);
    }
}

/* ---- the files beside the log ------------------------------------------------------------ */

static km_status write_backup_marks(struct backup *backup)
{
    struct km_store *store = backup->store;
    struct copy_source source = {NULL, backup->copier.buffer, 2 * MARKS_SLOT_SIZE,
                                 2 * MARKS_SLOT_SIZE};
    struct marks marks = {.clean = 1}; /* no boot id: I3 */

    memcpy(marks.store_id, store->identity.store_id, STORE_ID_SIZE);
    marks.head = km__position(backup->head_number, SEGMENT_HEADER_SIZE);
    marks.durable = backup->end;
    marks.clock_ms = km__store_clock(store);
    if (marks.clock_ms < store->identity.created_ms)
        marks.clock_ms = store->identity.created_ms;
    for (uint64_t i = 0; i < 2; i++) {
        marks.sequence = BACKUP_SEQUENCE - 1 + i;
        km__marks_encode(&marks, backup->copier.buffer + (marks.sequence & 1) * MARKS_SLOT_SIZE);
    }
    return km__copy_to(&backup->copier, &source, backup->folder.dir, FOLDER_MARKS);
}

static km_status copy_maps(struct backup *backup)
{
    struct copy_source source = {backup->maps_file, NULL, backup->maps_size, backup->maps_size};

    if (backup->moment)
        source.bytes = backup->moment->maps;
    else if (!backup->maps_file)
        return KM_OK;
    return km__copy_to(&backup->copier, &source, backup->folder.dir, CATALOGUE_NAME);
}

/* ---- sealed tables under maps ------------------------------------------------------------- */

/* Never written again, and synced before it got its name: I2. */
static km_status add_table(struct backup *backup, const char *name)
{
    const struct os_ops *ops = backup->store->os->ops;
    km_status rc = KM_E_UNSUPPORTED;

    if (!backup->options.copy)
        rc = ops->link(backup->store->dir, name, backup->folder.dir, name);
    if (rc == KM_E_UNSUPPORTED)
        return km__copy_file(&backup->copier, backup->store->dir, backup->folder.dir, name);
    return rc ? km__copy_failed(backup->store->os, backup->error, rc, name, "cannot link the table")
              : KM_OK;
}

static km_status add_tables(struct backup *backup)
{
    struct km_store *store = backup->store;
    km_status rc = KM_OK;

    for (uint32_t id = 0; !rc && id < km__maps_id_count(store); id++) {
        const km_map *map = km__maps_by_id(store, (uint16_t)id);
        const struct table_stack *stack = map ? km__tables_of(map) : NULL;

        for (uint32_t i = 0; !rc && stack && i < stack->count; i++)
            rc = add_table(backup, stack->tables[i]->name);
    }
    return rc;
}

/* ---- the call ---------------------------------------------------------------------------- */

static km_status fill_folder(struct backup *backup)
{
    km_status rc;

    backup->copier.total_bytes = IDENTITY_SIZE + 2 * MARKS_SLOT_SIZE + backup->maps_size;
    rc = each_segment(backup, count_segment);
    if (!rc)
        rc = km__copier_advance(&backup->copier, 0);
    if (!rc)
        rc = each_segment(backup, add_segment);
    if (!rc)
        rc = add_tables(backup);
    if (!rc)
        rc = copy_maps(backup);
    if (!rc)
        rc = km__copy_file(&backup->copier, backup->store->dir, backup->folder.dir,
                           FOLDER_IDENTITY);
    return rc ? rc : write_backup_marks(backup);
}

/* The log is pinned. */
static km_status write_backup(struct backup *backup, const char *path)
{
    km_status rc = look_at_previous(backup);

    if (!rc)
        rc = km__new_folder_begin(&backup->folder, path, BACKUP_SUFFIX);
    if (!rc)
        rc = km__copier_init(&backup->copier);
    if (!rc)
        rc = find_end(backup);
    if (!rc)
        rc = fill_folder(backup);
    return rc ? rc : km__new_folder_publish(&backup->folder);
}

static km_status check_backup(const struct km_store *store, const char *path, km_error *error)
{
    if (km__store_is_forked(store))
        return km__fail(error, KM_E_FORKED, NULL, 0, 0, "the store belongs to the parent process");
    if (!path || !*path)
        return km__fail(error, KM_E_INVALID, NULL, 0, 0, "the path is empty");
    if (!store->dir)
        return km__fail(error, KM_E_UNSUPPORTED, NULL, 0, 0,
                        "a store in memory has no files to back up");
    if (store->is_follower) /* its segments and its MAPS belong to the writer, which goes on */
        return km__fail(error, KM_E_UNSUPPORTED, NULL, 0, 0,
                        "another process writes to the store: it has to make the backup");
    if (km__epoch_ongoing())
        return km__fail(error, KM_WOULD_BLOCK, NULL, 0, 0,
                        "a backup waits for the disk: end the read section first");
    return KM_OK;
}

static void init_backup(struct backup *backup, struct km_store *store, km_error *error)
{
    static const struct backup empty;

    *backup = empty;
    backup->store = store;
    backup->error = error;
    backup->folder.os = backup->copier.os = store->os;
    backup->folder.error = backup->copier.error = error;
}

static void end_backup(struct backup *backup)
{
    km__copier_fini(&backup->copier);
    km__new_folder_end(&backup->folder);
    km__look_close(&backup->previous);
    backup->store->os->ops->close_file(backup->maps_file);
}

km_status km__backup_moment(struct km_store *store, const struct backup_moment *moment,
                            const char *path, const struct copier *progress, km_error *error)
{
    struct backup backup;
    km_status rc;

    init_backup(&backup, store, error);
    backup.copier.progress = progress->progress;
    backup.copier.progress_context = progress->progress_context;
    backup.moment = moment;
    backup.head_number = moment->head_number;
    backup.maps_size = moment->maps_size;
    rc = write_backup(&backup, path);
    end_backup(&backup);
    return rc;
}

km_status km_backup(km_store *store, const char *path, const km_backup_options *options,
                    km_backup_result *out_result, km_error *out_error)
{
    struct backup backup;
    km_status rc = check_backup(store, path, out_error);

    if (rc)
        return rc;
    init_backup(&backup, store, out_error);
    rc = take_backup_options(&backup, options);
    if (rc)
        return rc;
    km__tables_hold(store); /* so that they are those of the moment that is backed up */
    rc = pin_store(&backup);
    if (!rc)
        rc = write_backup(&backup, path);
    km__tables_let_go(store);
    end_backup(&backup);
    km__log_unpin(store->log, &backup.pin);
    km__log_free_dropped(store->log);
    backup.result.position = backup.end;
    if (!rc && out_result)
        *out_result = backup.result;
    return rc;
}
