/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_image_util.h -- an image of an index in memory, and a source that loads from it and can be
 * told to fail; to be included after cmocka.h.
 */
#ifndef KM_TEST_UNIT_HASH_IMAGE_UTIL_H
#define KM_TEST_UNIT_HASH_IMAGE_UTIL_H

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "index/hash_index.h"
#include "sync/epoch.h"

#define IMAGE_FIRST_NODE (UINT64_C(1) << 33) /* an index is not alone in its image */
#define IMAGE_SLOTS_MAX ((size_t)HASH_NODE_LINES_MAX * HASH_LINE_SLOTS)

struct test_image {
    struct hash_image_source source;
    struct hash_image_node *nodes;
    uint64_t **slots;    /* of each node */
    size_t *slot_counts; /* as exported: tests tamper with the nodes */
    size_t count, capacity;
    km_status status; /* what loading returns, instead of doing it */
    _Atomic uint64_t load_count;
};

static inline size_t image_slot_count(const struct hash_image_node *node)
{
    return (size_t)HASH_LINE_SLOTS << node->line_bits;
}

static inline km_status image_load(void *context, uint64_t image_node, uint64_t *lines,
                                   size_t slot_count)
{
    struct test_image *image = context;
    uint64_t i = image_node - IMAGE_FIRST_NODE;

    atomic_fetch_add_explicit(&image->load_count, 1, memory_order_relaxed);
    assert_true(i < image->count);
    if (image->status)
        return image->status;
    memset(lines, 0, slot_count * sizeof(*lines));
    if (slot_count > image->slot_counts[i])
        slot_count = image->slot_counts[i];
    memcpy(lines, image->slots[i], slot_count * sizeof(*lines));
    return KM_OK;
}

static inline void image_init(struct test_image *image)
{
    memset(image, 0, sizeof(*image));
    image->source.load = image_load;
    image->source.context = image;
}

static inline void image_fini(struct test_image *image)
{
    for (size_t i = 0; i < image->count; i++)
        free(image->slots[i]);
    free(image->slots);
    free(image->slot_counts);
    free(image->nodes);
}

static inline void image_add(struct test_image *image, const struct hash_image_node *node,
                             const uint64_t *lines)
{
    size_t size = image_slot_count(node) * sizeof(*lines);

    if (image->count == image->capacity) {
        image->capacity = image->capacity ? 2 * image->capacity : 64;
        image->nodes = realloc(image->nodes, image->capacity * sizeof(*image->nodes));
        image->slots = realloc(image->slots, image->capacity * sizeof(*image->slots));
        image->slot_counts = realloc(image->slot_counts,
                                     image->capacity * sizeof(*image->slot_counts));
        assert_true(image->nodes && image->slots && image->slot_counts);
    }
    image->nodes[image->count] = *node;
    image->slots[image->count] = malloc(size);
    assert_non_null(image->slots[image->count]);
    memcpy(image->slots[image->count], lines, size);
    image->slot_counts[image->count] = image_slot_count(node);
    image->count++;
}

/* Export one more node; 0 at the end. */
static inline int image_export_next(struct test_image *image, struct hash_index *index,
                                    struct hash_walk *walk)
{
    uint64_t *lines = malloc(IMAGE_SLOTS_MAX * sizeof(*lines));
    struct hash_image_node node;
    int is_end = -1;
    km_status rc;

    km__epoch_enter();
    rc = km__hash_export_next(index, walk, &node, lines, &is_end);
    km__epoch_leave();
    assert_int_equal(rc, KM_OK);
    assert_in_range(is_end, 0, 1);
    if (!is_end)
        image_add(image, &node, lines);
    free(lines);
    return !is_end;
}

static inline void image_export(struct test_image *image, struct hash_index *index)
{
    struct hash_walk walk;

    memset(&walk, 0, sizeof(walk));
    while (image_export_next(image, index, &walk)) {
    }
}

static inline km_status image_import(struct test_image *image, struct hash_index *index)
{
    return km__hash_import(index, image->nodes, image->count, IMAGE_FIRST_NODE, &image->source);
}

#endif
