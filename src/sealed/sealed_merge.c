/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_merge.c -- sorted runs on disk become one.
 *
 * I1. A heap has one entry for each run that is not at its end, ordered by the keys they are at;
 *     among equal keys the run that came last is first. So of equal keys the first one counts.
 * I2. A run's buffer has whole blocks, one at least; together with the keys at hand they take about
 *     memory_max, unless two runs need more.
 *
 * Runs are blocks as in a table, so what is read back is checked. That which was to be the table
 * may have compressed ones.
 */
#include <string.h>

#include "sealed/sealed_internal.h"

#define SEALED_RUN_BUFFER_MIN                                                                      \
    ((uint64_t)128 << 10) /* two blocks: of a run that has no large ones */
#define SEALED_RUN_BUFFER_MAX ((uint64_t)1 << 20)
#define SEALED_WIDTH_MAX 1024u
#define SEALED_REPORT_STEP ((uint64_t)1 << 20)

struct sealed_source {
    const struct sealed_run *run;
    uint64_t next;      /* offset in the file of what is to be read next */
    uint8_t *bytes;     /* buffer */
    size_t size;        /* bytes in it */
    size_t at;          /* of the block behind the current one */
    uint64_t at_offset; /* the same in the file */
    struct sealed_block block;
    km_buffer plain; /* the current block, if it was compressed */
    uint32_t index;  /* of the current record */
    uint8_t *key;    /* key_max bytes; its prefix is that of the block */
    size_t key_size;
    uint64_t head;
    km_bytes value;
};

struct sealed_heap {
    const struct sealed_merge *merge;
    struct sealed_source *sources;
    size_t source_count;
    uint32_t *order; /* the heap: indexes of sources */
    size_t count;
    size_t capacity; /* of each source's buffer */
    uint64_t reported;
};

/* ---- one run ----------------------------------------------------------------------------- */

static uint64_t sealed_run_buffer(const struct sealed_run *run)
{
    return run->block_max > SEALED_RUN_BUFFER_MIN ? run->block_max : SEALED_RUN_BUFFER_MIN;
}

static uint64_t sealed_run_cost(const struct sealed_merge *merge, const struct sealed_run *run)
{
    return sealed_run_buffer(run) + run->plain_max + merge->key_max + sizeof(struct sealed_source);
}

size_t km__sealed_merge_width(const struct sealed_merge *merge, const struct sealed_run *runs,
                              size_t count)
{
    uint64_t largest = 0;
    size_t width = 0;

    /* all buffers are as large as the largest has to be */
    while (width < count && width < SEALED_WIDTH_MAX) {
        uint64_t cost = sealed_run_cost(merge, &runs[width]);
        largest = cost > largest ? cost : largest;
        if (width >= 2 && largest * (width + 1) > merge->memory_max)
            break;
        width++;
    }
    return width;
}

/* Move what is left to the front and read on. */
static km_status sealed_source_refill(const struct sealed_heap *heap, struct sealed_source *source)
{
    struct os *os = heap->merge->os;
    size_t left = source->size - source->at;
    uint64_t more = source->run->end - source->next;
    km_status rc;

    if (left)
        memmove(source->bytes, source->bytes + source->at, left);
    source->at = 0;
    source->size = left;
    if (more > heap->capacity - left)
        more = heap->capacity - left;
    if (more == 0)
        return KM_OK;
    rc = os->ops->read_at(source->run->file, source->next, source->bytes + left, (size_t)more);
    if (rc)
        return rc;
    source->size += (size_t)more;
    source->next += more;
    return KM_OK;
}

/* Bytes of the block at hand, 0 if they are not all there. */
static size_t sealed_source_extent(const struct sealed_source *source)
{
    size_t left = source->size - source->at;
    uint64_t extent;

    if (left < SEALED_PAGE)
        return 0;
    extent = km__sealed_block_extent(source->bytes + source->at);
    return extent <= left ? (size_t)extent : 0;
}

static km_status sealed_source_set_record(const struct sealed_heap *heap,
                                          struct sealed_source *source)
{
    const struct sealed_block *block = &source->block;
    km_bytes suffix = {NULL, 0};
    km_status rc = km__sealed_block_suffix(block, source->index, &suffix);

    if (!rc)
        rc = km__sealed_block_value(block, source->index, &source->value);
    if (rc)
        return rc;
    if (block->prefix_size + suffix.size > heap->merge->key_max)
        return KM_E_CORRUPT;
    if (suffix.size)
        memcpy(source->key + block->prefix_size, suffix.data, suffix.size);
    source->key_size = block->prefix_size + suffix.size;
    source->head = km__sealed_head(source->key, source->key_size);
    return KM_OK;
}

/* KM_END: there is none. */
static km_status sealed_source_next_block(const struct sealed_heap *heap,
                                          struct sealed_source *source)
{
    size_t extent = sealed_source_extent(source);
    uint32_t seed = km__sealed_block_seed(heap->merge->id_sum, source->at_offset);
    km_status rc;

    if (extent == 0) {
        if (source->at == source->size && source->next == source->run->end)
            return KM_END;
        rc = sealed_source_refill(heap, source);
        if (rc)
            return rc;
        extent = sealed_source_extent(source);
        if (extent == 0)
            return KM_E_CORRUPT; /* larger than any block that was written */
    }
    rc = km__sealed_unpack_block(heap->merge->unpackers,
                                 km_bytes_of(source->bytes + source->at, extent), seed,
                                 &source->plain, &source->block);
    if (!rc)
        rc = km__sealed_block_check_values(&source->block);
    if (rc)
        return rc;
    if (source->block.prefix_size > heap->merge->key_max)
        return KM_E_CORRUPT;
    if (source->block.prefix_size)
        memcpy(source->key, source->block.prefix, source->block.prefix_size);
    source->at += extent;
    source->at_offset += extent;
    source->index = 0;
    return sealed_source_set_record(heap, source);
}

static km_status sealed_source_next(const struct sealed_heap *heap, struct sealed_source *source)
{
    if (++source->index < source->block.count)
        return sealed_source_set_record(heap, source);
    return sealed_source_next_block(heap, source);
}

/* ---- the heap ---------------------------------------------------------------------------- */

static int sealed_is_before(const struct sealed_heap *heap, uint32_t a, uint32_t b)
{
    const struct sealed_source *p = &heap->sources[a];
    const struct sealed_source *q = &heap->sources[b];
    int order;

    if (p->head != q->head)
        return p->head < q->head;
    order = km__sealed_compare(km_bytes_of(p->key, p->key_size), km_bytes_of(q->key, q->key_size));
    return order != 0 ? order < 0 : a > b;
}

static void sealed_sift_down(struct sealed_heap *heap, size_t at)
{
    uint32_t moved = heap->order[at];

    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count &&
            sealed_is_before(heap, heap->order[child + 1], heap->order[child]))
            child++;
        if (!sealed_is_before(heap, heap->order[child], moved))
            break;
        heap->order[at] = heap->order[child];
        at = child;
    }
    heap->order[at] = moved;
}

static km_status sealed_heap_start(struct sealed_heap *heap, const struct sealed_run *runs)
{
    const struct allocator *allocator = heap->merge->allocator;

    for (size_t i = 0; i < heap->source_count; i++) {
        struct sealed_source *source = &heap->sources[i];
        km_status rc;
        source->run = &runs[i];
        source->next = runs[i].start;
        source->at_offset = runs[i].start;
        source->bytes = km__allocate(allocator, heap->capacity);
        source->key = km__allocate(allocator, heap->merge->key_max + 1);
        if (!source->bytes || !source->key)
            return KM_E_NO_MEMORY;
        rc = sealed_source_next_block(heap, source);
        if (rc == KM_OK)
            heap->order[heap->count++] = (uint32_t)i;
        else if (rc != KM_END)
            return rc;
    }
    for (size_t i = heap->count / 2; i-- > 0;)
        sealed_sift_down(heap, i);
    return KM_OK;
}

static km_status sealed_heap_init(struct sealed_heap *heap, const struct sealed_run *runs,
                                  size_t count)
{
    const struct sealed_merge *merge = heap->merge;
    uint64_t room = merge->memory_max / count;
    uint64_t capacity = room < SEALED_RUN_BUFFER_MAX ? room : SEALED_RUN_BUFFER_MAX;

    for (size_t i = 0; i < count; i++) {
        uint64_t need = sealed_run_buffer(&runs[i]);
        capacity = need > capacity ? need : capacity;
    }
    heap->capacity = (size_t)capacity;
    heap->source_count = count;
    heap->sources = km__allocate(merge->allocator, count * sizeof(*heap->sources));
    heap->order = km__allocate(merge->allocator, count * sizeof(*heap->order));
    if (!heap->sources || !heap->order)
        return KM_E_NO_MEMORY;
    return sealed_heap_start(heap, runs);
}

static void sealed_heap_fini(struct sealed_heap *heap)
{
    const struct allocator *allocator = heap->merge->allocator;

    for (size_t i = 0; heap->sources && i < heap->source_count; i++) {
        km__release(allocator, heap->sources[i].bytes, heap->capacity);
        km_buffer_free(&heap->sources[i].plain);
        km__release(allocator, heap->sources[i].key, heap->merge->key_max + 1);
    }
    km__release(allocator, heap->sources, heap->source_count * sizeof(*heap->sources));
    km__release(allocator, heap->order, heap->source_count * sizeof(*heap->order));
}

/* Go on in the run that was first. */
static km_status sealed_heap_advance(struct sealed_heap *heap)
{
    km_status rc = sealed_source_next(heap, &heap->sources[heap->order[0]]);

    if (rc == KM_END) {
        heap->order[0] = heap->order[--heap->count];
        rc = KM_OK;
    }
    if (!rc && heap->count > 0)
        sealed_sift_down(heap, 0);
    return rc;
}

static km_status sealed_merge_report(struct sealed_heap *heap, uint64_t bytes)
{
    heap->reported += bytes;
    if (heap->reported < SEALED_REPORT_STEP && heap->count > 0)
        return KM_OK;
    bytes = heap->reported;
    heap->reported = 0;
    return heap->merge->progress(heap->merge->context, bytes);
}

km_status km__sealed_merge_runs(const struct sealed_merge *merge, const struct sealed_run *runs,
                                size_t count, struct sealed_writer *writer)
{
    struct sealed_heap heap = {.merge = merge};
    km_status rc = sealed_heap_init(&heap, runs, count);

    while (!rc && heap.count > 0) {
        const struct sealed_source *first = &heap.sources[heap.order[0]];
        km_bytes key = km_bytes_of(first->key, first->key_size);
        uint64_t bytes = key.size + first->value.size;
        if (!writer->pending.has_last ||
            km__sealed_compare(km__sealed_writer_last_key(writer), key) != 0) /* I1 */
            rc = km__sealed_writer_add(writer, key, first->value);
        if (!rc)
            rc = sealed_heap_advance(&heap);
        if (!rc)
            rc = sealed_merge_report(&heap, bytes);
    }
    sealed_heap_fini(&heap);
    return rc;
}
