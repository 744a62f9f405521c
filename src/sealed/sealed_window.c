/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_window.c -- blocks for walks: read in pieces that grow from one block to 256 KiB while the
 * walk goes one way, so that a short walk reads little and a long one makes few reads.
 *
 * I1. What is in the window is bytes of the file from `offset` on. A block that is not in it as a
 *     whole is read anew. If it follows the window, what follows it is read too; if it lies just
 *     before the window, what is before it; but nothing outside of begin and end.
 * I2. What was read besides the block that is wanted cannot make a load fail: after an error the
 *     block is read by itself.
 */
#include "sealed/sealed_internal.h"

#define SEALED_AHEAD_MIN ((uint64_t)4 * SEALED_PAGE)
#define SEALED_AHEAD_MAX ((uint64_t)256 << 10)

void km__sealed_window_init(struct sealed_window *window, const km_sealed *table)
{
    *window = (struct sealed_window){
        .table = table, .begin = SEALED_PAGE, .end = table->footer.index_offset};
}

void km__sealed_window_fini(struct sealed_window *window)
{
    km__release(&window->table->os->allocator, window->bytes, window->capacity);
    km_buffer_free(&window->plain);
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

/* A part of the file, of which the window has room for any. */
static km_status sealed_window_fill(struct sealed_window *window, uint64_t start, uint64_t end)
{
    const km_sealed *table = window->table;
    km_status rc;

    window->size = 0;
    rc = sealed_window_enlarge(window, end - start);
    if (!rc)
        rc = table->os->ops->read_at(table->file, start, window->bytes, (size_t)(end - start));
    if (rc)
        return rc;
    window->offset = start;
    window->size = end - start;
    return KM_OK;
}

static km_status sealed_window_read_alone(struct sealed_window *window,
                                          const struct sealed_place *place)
{
    window->ahead = 0;
    return sealed_window_fill(window, place->offset, place->offset + place->size);
}

/* Whether a block that is not in the window is the next one behind or before it. */
static int sealed_window_is_beside(const struct sealed_window *window,
                                   const struct sealed_place *place, int *out_goes_back)
{
    uint64_t end = window->offset + window->size;

    if (window->size == 0 || place->offset > end || place->offset + place->size < window->offset)
        return 0;
    *out_goes_back = place->offset < window->offset;
    return 1;
}

/* How much to read of a walk that goes on. One that has just turned begins anew: steps to and fro
 * at the edge of a window read little. */
static uint64_t sealed_window_next_ahead(const struct sealed_window *window, int goes_back)
{
    if (window->ahead == 0)
        return SEALED_AHEAD_MIN;
    if (goes_back != window->goes_back)
        return 0;
    return window->ahead * 4 < SEALED_AHEAD_MAX ? window->ahead * 4 : SEALED_AHEAD_MAX;
}

/* I1, I2 */
static km_status sealed_window_read(struct sealed_window *window, const struct sealed_place *place)
{
    uint64_t start = place->offset;
    uint64_t end = place->offset + place->size;
    int goes_back = 0;
    uint64_t ahead;
    km_status rc;

    if (!sealed_window_is_beside(window, place, &goes_back))
        return sealed_window_read_alone(window, place);
    ahead = sealed_window_next_ahead(window, goes_back);
    if (ahead > place->size && goes_back && start > window->begin)
        start = end - window->begin > ahead ? end - ahead : window->begin;
    else if (ahead > place->size && !goes_back && end < window->end)
        end = window->end - start > ahead ? start + ahead : window->end;
    rc = sealed_window_fill(window, start, end);
    if (rc && end - start > place->size)
        return sealed_window_read_alone(window, place);
    window->ahead = ahead;
    window->goes_back = goes_back;
    return rc;
}

static km_status sealed_window_decode(struct sealed_window *window,
                                      const struct sealed_place *place, struct sealed_block *out)
{
    km_status rc = km__sealed_decode_place(
        window->table, place, km__sealed_window_at(window, place), &window->plain, out);

    return rc ? rc : km__sealed_block_check_values(out);
}

static int sealed_window_is_inside(const struct sealed_window *window,
                                   const struct sealed_place *place)
{
    return place->offset >= window->offset &&
           place->offset + place->size <= window->offset + window->size;
}

int km__sealed_window_has(const struct sealed_window *window, const void *address)
{
    uintptr_t at = (uintptr_t)address;

    return (window->bytes && at - (uintptr_t)window->bytes < window->capacity) ||
           (window->plain.data && at - (uintptr_t)window->plain.data < window->plain.capacity);
}

km_status km__sealed_window_load(struct sealed_window *window, const struct sealed_place *place,
                                 struct sealed_block *out)
{
    km_status rc = KM_OK;

    if (!sealed_window_is_inside(window, place))
        rc = sealed_window_read(window, place);
    return rc ? rc : sealed_window_decode(window, place, out);
}

km_status km__sealed_window_load_alone(struct sealed_window *window,
                                       const struct sealed_place *place, struct sealed_block *out)
{
    km_status rc = KM_OK;

    if (!sealed_window_is_inside(window, place))
        rc = sealed_window_read_alone(window, place);
    return rc ? rc : sealed_window_decode(window, place, out);
}
