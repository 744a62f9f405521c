/* SPDX-License-Identifier: Apache-2.0
 *
 * store_inspect.c -- look into a store without opening it: what its next open will have to do.
 *
 * I1. Nothing is written. The shared lock that keeps writers out for the moment is the one that an
 *     open for reading takes.
 */
#include "store/store_backup_internal.h"

/* ---- a look ------------------------------------------------------------------------------ */

km_status km__look_open(struct store_look *look, struct os *os, const char *path, km_error *error)
{
    struct os_file *no_marks_file = NULL; /* it is for writers */
    km_status rc;

    memset(look, 0, sizeof(*look));
    look->store.os = os;
    look->store.allocator = &os->allocator;
    look->store.options.mode = KM_OPEN_READ_ONLY;
    look->store.is_checked_whole = 1; /* not beside a writer */
    if (error)
        error->status = KM_OK; /* until a cause is known */
    rc = km__store_attach_files(&look->store, path, &no_marks_file, &look->marks, error);
    if (rc && error && error->status != rc)
        return km__fail(error, rc, NULL, 0, 0, "%s cannot be read", path);
    return rc;
}

void km__look_close(struct store_look *look)
{
    struct km_store *store = &look->store;

    if (!store->os)
        return;
    store->os->ops->close_dir(store->log_dir);
    store->os->ops->close_dir(store->dir);
    store->os->ops->close_file(store->lock_file);
    memset(look, 0, sizeof(*look));
}

/* ---- the index image --------------------------------------------------------------------- */

static km_status look_at_image_header(const struct km_store *store, struct os_file *file,
                                      struct image_header *out)
{
    uint8_t *bytes = km__allocate(store->allocator, IMAGE_HEADER_SIZE);
    uint64_t size = 0;
    km_status rc = bytes ? store->os->ops->file_size(file, &size) : KM_E_NO_MEMORY;

    if (!rc && size < IMAGE_HEADER_SIZE)
        rc = KM_E_CORRUPT;
    if (!rc)
        rc = store->os->ops->read_at(file, 0, bytes, IMAGE_HEADER_SIZE);
    if (!rc)
        rc = km__image_header_decode(bytes, out);
    if (!rc && km__image_file_size(out) != size)
        rc = KM_E_CORRUPT;
    km__release(store->allocator, bytes, IMAGE_HEADER_SIZE);
    return rc;
}

/* Whether an open would go on from it, as far as the header tells. */
static int fits_store(const struct store_look *look, const struct image_header *header)
{
    struct hash_secret secret;

    km__hash_secret_init(&secret, look->store.identity.hash_seed);
    return memcmp(header->store_id, look->store.identity.store_id, STORE_ID_SIZE) == 0 &&
           header->layout_version == IMAGE_LAYOUT_VERSION &&
           header->hash_sample == km__image_hash_sample(&secret) &&
           header->head_number >= km__position_number(look->marks.head) &&
           header->position >= look->marks.head;
}

/* 0 if there is none that is of use: the whole log is replayed then. */
static uint64_t look_at_image(const struct store_look *look, uint64_t *out_position)
{
    const struct os_ops *ops = look->store.os->ops;
    struct os_file *file = NULL;
    struct image_header header;
    uint64_t size = 0;
    km_status rc = ops->open_file(look->store.dir, IMAGE_NAME, OS_OPEN_READ, &file);

    if (!rc)
        rc = look_at_image_header(&look->store, file, &header);
    if (!rc && fits_store(look, &header)) {
        *out_position = header.position;
        size = km__image_file_size(&header);
    }
    ops->close_file(file);
    return size;
}

/* ---- the log ----------------------------------------------------------------------------- */

struct log_look {
    const struct store_look *look;
    uint64_t from; /* the replay begins here */
    uint64_t log_bytes, replay_bytes;
};

/* Where the log in the segment ends, at most. */
static uint64_t segment_end(const struct marks *marks, uint32_t number, uint64_t size)
{
    if (!marks->clean || number < km__position_number(marks->durable))
        return size;
    return number == km__position_number(marks->durable) ? km__position_offset(marks->durable) : 0;
}

static uint64_t bytes_between(uint64_t from, uint64_t to)
{
    return to > from ? to - from : 0;
}

static km_status look_at_segment(void *context, const char *name)
{
    struct log_look *log = context;
    const struct km_store *store = &log->look->store;
    struct os_file *file = NULL;
    uint64_t size = 0, end;
    uint32_t number;
    km_status rc;

    if (!km__segment_name_parse(name, &number) ||
        number < km__position_number(log->look->marks.head))
        return KM_OK;
    rc = store->os->ops->open_file(store->log_dir, name, OS_OPEN_READ, &file);
    if (!rc)
        rc = store->os->ops->file_size(file, &size);
    store->os->ops->close_file(file);
    if (rc)
        return rc == KM_E_INVALID ? KM_E_CORRUPT : rc; /* invalid: not a regular file */
    end = segment_end(&log->look->marks, number, size);
    log->log_bytes += bytes_between(SEGMENT_HEADER_SIZE, end);
    if (number == km__position_number(log->from))
        log->replay_bytes += bytes_between(km__position_offset(log->from), end);
    else if (number > km__position_number(log->from))
        log->replay_bytes += bytes_between(SEGMENT_HEADER_SIZE, end);
    return KM_OK;
}

static km_status look_at_log(const struct store_look *look, km_inspection *found, km_error *error)
{
    struct log_look log = {.look = look, .from = look->marks.head};
    const struct km_store *store = &look->store;
    km_status rc;

    found->image_bytes = look_at_image(look, &log.from);
    rc = store->os->ops->list(store->log_dir, look_at_segment, &log);
    if (rc)
        return km__copy_failed(store->os, error, rc, FOLDER_LOG, "cannot look at the segments");
    found->needs_recovery = !look->marks.clean;
    found->log_bytes = log.log_bytes;
    found->replay_bytes = log.replay_bytes;
    return KM_OK;
}

/* ---- the call ---------------------------------------------------------------------------- */

km_status km__store_inspect_with(struct os *os, const char *path, km_inspection *out,
                                 km_error *error)
{
    km_inspection found = {.struct_size = out->struct_size};
    struct store_look look;
    km_status rc;

    if (out->struct_size < sizeof(out->struct_size) || out->struct_size > 4096)
        return km__fail(error, KM_E_INVALID, NULL, 0, 0, "km_inspection.struct_size is not set");
    rc = km__look_open(&look, os, path, error);
    if (rc == KM_E_LOCKED) {
        found.is_open = 1;
        rc = KM_OK;
    } else if (!rc) {
        rc = look_at_log(&look, &found, error);
    }
    km__look_close(&look);
    if (!rc)
        memcpy(out, &found, out->struct_size < sizeof(found) ? out->struct_size : sizeof(found));
    return rc;
}

km_status km_inspect(const char *path, km_inspection *out, km_error *out_error)
{
    if (!path || !*path || !out)
        return km__fail(out_error, KM_E_INVALID, NULL, 0, 0, "the path is empty");
    return km__store_inspect_with(km__os_linux(), path, out, out_error);
}
