/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_window.c -- blocks for walks: read in pieces that grow from one block to 256 KiB while the
 * walk goes one way, so that a short walk reads little and a long one makes few reads.
 *
 * I1. What is in the window is bytes of the file from `offset` on. A block that is not in it as a
 *     whole is read anew, with what follows it, or, if it lies before the window, with what is
 *     before it.
 */
#include "sealed/sealed_internal.h"

#define SEALED_AHEAD_MAX ((uint64_t)256 << 10)

void km__sealed_window_init(struct sealed_window *window, const km_sealed *table)
{
    *window = (struct sealed_window){.table = table};
}

void km__sealed_window_fini(struct sealed_window *window)
{
    km__release(&window->table->os->allocator, window->bytes, window->capacity);
    window->bytes = NULL;
    window->capacity = 0;
    window->size = 0;
}

static km_status sealed_window_enlarge(struct sealed_window *window, uint64_t size)
{
    const struct allocator *allocator = &window->table->os->allocator;
    uint8_t *bytes;

    if (size <= window->capacity)
        return KM_OK;
    if (size > SIZE_MAX / 2)
        return KM_E_NO_MEMORY;
    bytes = km__allocate(allocator, (size_t)size);
    if (!bytes)
        return KM_E_NO_MEMORY;
    km__release(allocator, window->bytes, window->capacity);
    window->bytes = bytes;
    window->capacity = (size_t)size;
    return KM_OK;
}

static km_status sealed_window_read(struct sealed_window *window, const struct sealed_place *place)
{
    const km_sealed *table = window->table;
    uint64_t start = place->offset;
    uint64_t end = place->offset + place->size;
    int goes_back = window->size > 0 && place->offset < window->offset;
    km_status rc;

    window->size = 0;
    if (window->ahead > place->size && goes_back)
        start = end - SEALED_PAGE > window->ahead ? end - window->ahead : SEALED_PAGE;
    else if (window->ahead > place->size)
        end = table->footer.index_offset - start > window->ahead ? start + window->ahead
                                                                 : table->footer.index_offset;
    rc = sealed_window_enlarge(window, end - start);
    if (rc)
        return rc;
    rc = table->os->ops->read_at(table->file, start, window->bytes, (size_t)(end - start));
    if (rc)
        return rc;
    window->offset = start;
    window->size = end - start;
    window->ahead = window->ahead ? window->ahead * 4 : (uint64_t)4 * SEALED_PAGE;
    if (window->ahead > SEALED_AHEAD_MAX)
        window->ahead = SEALED_AHEAD_MAX;
    return KM_OK;
}

km_status km__sealed_window_load(struct sealed_window *window, const struct sealed_place *place,
                                 struct sealed_block *out)
{
    int is_inside = place->offset >= window->offset &&
                    place->offset + place->size <= window->offset + window->size;
    km_status rc = KM_OK;

    if (!is_inside)
        rc = sealed_window_read(window, place);
    if (!rc)
        rc = km__sealed_decode_place(window->table, place,
                                     window->bytes + (place->offset - window->offset), NULL, out);
    if (!rc)
        rc = km__sealed_block_check_values(out);
    return rc;
}
