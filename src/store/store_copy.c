/* SPDX-License-Identifier: Apache-2.0
 *
 * store_copy.c -- copy files into a folder that nobody else knows yet.
 *
 * I1. A file is synced before the call returns. Its name is made durable by the caller, once for
 *     all.
 * I2. Memory is one buffer, whatever the size of the files.
 */
#include "store/store_backup_internal.h"

km_status km__copy_failed(struct os *os, km_error *error, km_status rc, const char *name,
                          const char *what)
{
    int os_error = os->ops->last_error(os);

    if (rc == KM_NOT_FOUND || rc == KM_EXISTS)
        rc = KM_E_IO;
    return km__fail(error, rc, name, 0, rc == KM_E_NO_MEMORY ? 0 : os_error, "%s", what);
}

km_status km__copier_init(struct copier *copier)
{
    copier->buffer = km__map_pages(&copier->os->allocator, COPY_PIECE);
    return copier->buffer
               ? KM_OK
               : km__fail(copier->error, KM_E_NO_MEMORY, NULL, 0, 0, "no memory for copying");
}

void km__copier_fini(struct copier *copier)
{
    if (copier->buffer)
        km__unmap_pages(&copier->os->allocator, copier->buffer, COPY_PIECE);
    copier->buffer = NULL;
}

km_status km__copier_advance(struct copier *copier, uint64_t size)
{
    copier->done_bytes += size;
    if (copier->progress &&
        copier->progress(copier->progress_context, copier->done_bytes, copier->total_bytes))
        return km__fail(copier->error, KM_STOPPED, NULL, 0, 0, "stopped by the progress callback");
    return KM_OK;
}

/* One piece; *bytes is where it is found. */
static km_status find_piece(struct copier *copier, const struct copy_source *source, uint64_t at,
                            size_t size, const uint8_t **bytes)
{
    if (source->bytes) {
        *bytes = source->bytes + at;
        return KM_OK;
    }
    *bytes = copier->buffer;
    return copier->os->ops->read_at(source->file, at, copier->buffer, size);
}

static km_status copy_pieces(struct copier *copier, const struct copy_source *source,
                             struct os_file *file, const char *name)
{
    const uint8_t *bytes;

    for (uint64_t at = 0; at < source->size; at += COPY_PIECE) {
        size_t size = (size_t)(source->size - at < COPY_PIECE ? source->size - at : COPY_PIECE);
        km_status rc = find_piece(copier, source, at, size, &bytes);

        if (rc)
            return km__copy_failed(copier->os, copier->error, rc, name, "cannot read the file");
        rc = copier->os->ops->write_at(file, at, bytes, size);
        if (rc)
            return km__copy_failed(copier->os, copier->error, rc, name, "cannot write the copy");
        rc = km__copier_advance(copier, size);
        if (rc)
            return rc;
    }
    return KM_OK;
}

km_status km__copy_to(struct copier *copier, const struct copy_source *source, struct os_dir *to,
                      const char *name)
{
    const struct os_ops *ops = copier->os->ops;
    struct os_file *file = NULL;
    km_status rc = ops->open_file(to, name, OS_CREATE_NEW, &file);

    if (!rc && source->file_size)
        rc = ops->allocate(file, source->file_size); /* a full disk is noticed here */
    if (rc) {
        rc = km__copy_failed(copier->os, copier->error, rc, name, "cannot create the copy");
        goto out;
    }
    rc = copy_pieces(copier, source, file, name);
    if (rc)
        goto out;
    rc = ops->sync(file);
    if (rc)
        rc = km__copy_failed(copier->os, copier->error, rc, name, "cannot sync the copy");
out:
    ops->close_file(file);
    return rc;
}

km_status km__copy_file(struct copier *copier, struct os_dir *from, struct os_dir *to,
                        const char *name)
{
    const struct os_ops *ops = copier->os->ops;
    struct copy_source source = {0};
    km_status rc = ops->open_file(from, name, OS_OPEN_READ, &source.file);

    if (!rc)
        rc = ops->file_size(source.file, &source.size);
    source.file_size = source.size;
    if (rc)
        rc = km__copy_failed(copier->os, copier->error, rc, name, "cannot open the file");
    else
        rc = km__copy_to(copier, &source, to, name);
    ops->close_file(source.file);
    return rc;
}
