/* SPDX-License-Identifier: Apache-2.0
 *
 * alloc.h -- where memory comes from: a table of functions, so that tests can fail any call.
 *
 * Both kinds are thread-safe. Sizes are given back on release, so that no one needs headers.
 */
#ifndef KM_BASE_ALLOC_H
#define KM_BASE_ALLOC_H

#include <stddef.h>

struct allocator {
    void *context;
    /* Small objects, zeroed; NULL if there is no memory. */
    void *(*allocate)(void *context, size_t size);
    void (*release)(void *context, void *memory, size_t size); /* NULL is accepted */
    /* Whole pages, zeroed, not inherited by fork. From 2 MiB on aligned to 2 MiB and on huge pages
     * where the kernel has them; not touched yet. NULL if there is no memory. */
    void *(*map_pages)(void *context, size_t size);
    void (*unmap_pages)(void *context, void *memory, size_t size);
};

static inline void *km__allocate(const struct allocator *allocator, size_t size)
{
    return allocator->allocate(allocator->context, size);
}

static inline void km__release(const struct allocator *allocator, void *memory, size_t size)
{
    allocator->release(allocator->context, memory, size);
}

static inline void *km__map_pages(const struct allocator *allocator, size_t size)
{
    return allocator->map_pages(allocator->context, size);
}

static inline void km__unmap_pages(const struct allocator *allocator, void *memory, size_t size)
{
    allocator->unmap_pages(allocator->context, memory, size);
}

#endif
