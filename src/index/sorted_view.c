/* SPDX-License-Identifier: Apache-2.0
 *
 * sorted_view.c -- separators of the sorted tree as byte strings that lie in pieces.
 *
 * An inner node keeps once what its separators begin with, and the eight bytes behind that as a
 * number. Where the shape of the tree changes, whole separators are compared, measured
 * and cut anew; nobody puts them together for that.
 */
#include "index/sorted_tree_internal.h"

struct view_run { /* bytes of a view that lie together */
    const uint8_t *bytes;
    uint32_t size;
};

static void store_head(uint64_t head, uint8_t out[SORTED_HEAD_SIZE])
{
    for (uint32_t i = 0; i < SORTED_HEAD_SIZE; i++)
        out[i] = (uint8_t)(head >> (56 - 8 * i));
}

/* The longest run from `offset` on, which is below the size; `head` is its head's bytes. */
static struct view_run run_at(const struct sorted_view *view, const uint8_t *head, uint32_t offset)
{
    uint32_t head_end = view->skip + SORTED_HEAD_SIZE;
    uint32_t end = view->size;
    struct view_run run;

    if (offset < view->skip) {
        run.bytes = view->prefix + offset;
        end = view->skip < end ? view->skip : end;
    } else if (offset < head_end) {
        run.bytes = head + (offset - view->skip);
        end = head_end < end ? head_end : end;
    } else {
        run.bytes = view->tail + (offset - head_end);
    }
    run.size = end - offset;
    return run;
}

static uint32_t common_bytes(const uint8_t *a, const uint8_t *b, uint32_t size)
{
    uint32_t i = 0;

    while (i + 8 <= size && memcmp(a + i, b + i, 8) == 0)
        i += 8;
    while (i < size && a[i] == b[i])
        i++;
    return i;
}

uint32_t km__sorted_view_common(const struct sorted_view *a, const struct sorted_view *b)
{
    uint32_t end = a->size < b->size ? a->size : b->size;
    uint8_t head_a[SORTED_HEAD_SIZE];
    uint8_t head_b[SORTED_HEAD_SIZE];
    uint32_t i = 0;

    store_head(a->head, head_a);
    store_head(b->head, head_b);
    if (a->prefix == b->prefix) { /* separators of one node */
        i = a->skip < b->skip ? a->skip : b->skip;
        i = i < end ? i : end;
    }
    while (i < end) { /* ends: each turn leaves a run of one of the two behind */
        struct view_run run_a = run_at(a, head_a, i);
        struct view_run run_b = run_at(b, head_b, i);
        uint32_t size = run_a.size < run_b.size ? run_a.size : run_b.size;
        uint32_t common = common_bytes(run_a.bytes, run_b.bytes, size);

        i += common;
        if (common < size)
            break;
    }
    return i;
}

int km__sorted_view_compare(const struct sorted_view *a, const struct sorted_view *b)
{
    uint32_t common = km__sorted_view_common(a, b);
    uint8_t byte_a;
    uint8_t byte_b;

    if (common == a->size || common == b->size)
        return (a->size > b->size) - (a->size < b->size);
    km__sorted_view_copy(a, common, common + 1, &byte_a);
    km__sorted_view_copy(b, common, common + 1, &byte_b);
    return byte_a < byte_b ? -1 : 1;
}

void km__sorted_view_copy(const struct sorted_view *view, uint32_t from, uint32_t end, uint8_t *out)
{
    uint8_t head[SORTED_HEAD_SIZE];

    KM_DEBUG_ASSERT(end <= view->size);
    store_head(view->head, head);
    while (from < end) { /* ends: a view has three runs */
        struct view_run run = run_at(view, head, from);
        uint32_t size = run.size < end - from ? run.size : end - from;

        memcpy(out, run.bytes, size);
        out += size;
        from += size;
    }
}

km_status km__sorted_store_fence(const struct allocator *allocator, struct sorted_fence *fence,
                                 const struct sorted_view *view)
{
    size_t capacity = km__round_up((size_t)view->size + 1, 64);

    if (fence->capacity < capacity) {
        uint8_t *bytes = km__allocate(allocator, capacity);
        if (!bytes)
            return KM_E_NO_MEMORY;
        km__release(allocator, fence->bytes, fence->capacity);
        fence->bytes = bytes;
        fence->capacity = capacity;
    }
    km__sorted_view_copy(view, 0, view->size, fence->bytes);
    fence->size = view->size;
    return KM_OK;
}

uint64_t km__sorted_view_head(const struct sorted_view *view, uint32_t skip)
{
    uint8_t bytes[SORTED_HEAD_SIZE];
    uint32_t size;

    if (skip == view->skip)
        return view->head;
    if (view->size <= skip)
        return 0;
    size = view->size - skip < SORTED_HEAD_SIZE ? view->size - skip : SORTED_HEAD_SIZE;
    km__sorted_view_copy(view, skip, skip + size, bytes);
    return km__sorted_head(bytes, size, 0);
}

uint64_t km__sorted_widen_head(const struct sorted_view *fence, uint64_t head, uint32_t skip,
                               uint32_t new_skip)
{
    uint8_t bytes[2 * SORTED_HEAD_SIZE];
    uint32_t size = skip - new_skip < SORTED_HEAD_SIZE ? skip - new_skip : SORTED_HEAD_SIZE;

    KM_ASSERT(new_skip <= skip && skip <= fence->size);
    km__sorted_view_copy(fence, new_skip, new_skip + size, bytes);
    store_head(head, bytes + size);
    return km__sorted_head(bytes, SORTED_HEAD_SIZE, 0);
}

struct sorted_view km__sorted_separator(const struct sorted_inner *inner, uint32_t i)
{
    struct sorted_view view = {km__sorted_prefix(inner), NULL, inner->heads[i], inner->prefix_size,
                               km__sorted_sizes(inner)[i]};

    KM_DEBUG_ASSERT(i + 1u < inner->count);
    if (inner->has_tails)
        view.tail = km__sorted_tail(inner, i);
    return view;
}
