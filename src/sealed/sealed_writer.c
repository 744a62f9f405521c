/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_writer.c -- records in the order of their keys become blocks in a file: of a table, or of
 * a run that waits to be merged.
 *
 * I1. Keys are added in ascending order; the last record added is always pending, so that one with
 *     an equal key can still replace it.
 * I2. A block of several records has at most SEALED_BLOCK_SIZE_MAX bytes. It takes whole pages, and
 *     more of them until what is left empty is an eighth of it at most, or it has that size.
 * I3. What keys begin with alike shrinks as a block grows: for ascending keys, all have in common
 *     what the first and the last have. So each record keeps what its key had not in common with
 *     the first when it came, and pending suffixes are never more than the block's.
 * I4. A block is compressed only where that saves a page, and only up to SEALED_PACKED_PLAIN_MAX
 *     bytes.
 */
#include <string.h>

#include "base/assert.h"
#include "sealed/sealed_internal.h"

/* ---- memory ------------------------------------------------------------------------------ */

#define SEALED_ARRAY_SIZE ((size_t)SEALED_BLOCK_RECORDS_MAX * sizeof(uint32_t))
#define SEALED_HASHES_SIZE ((size_t)SEALED_BLOCK_RECORDS_MAX * sizeof(uint64_t))

km_status km__sealed_writer_init(struct sealed_writer *writer, struct os *os)
{
    const struct allocator *allocator = &os->allocator;
    struct sealed_pending *pending = &writer->pending;

    memset(writer, 0, sizeof(*writer));
    writer->allocator = allocator;
    writer->os = os;
    writer->out = km__map_pages(allocator, SEALED_OUT_SIZE);
    writer->suffix_sizes = km__allocate(allocator, SEALED_ARRAY_SIZE);
    writer->joined = km__allocate(allocator, SEALED_BLOCK_SIZE_MAX);
    pending->first_key = km__allocate(allocator, KM_KEY_SIZE_MAX);
    pending->last_key = km__allocate(allocator, KM_KEY_SIZE_MAX);
    pending->common = km__allocate(allocator, SEALED_ARRAY_SIZE);
    pending->key_sizes = km__allocate(allocator, SEALED_ARRAY_SIZE);
    pending->value_sizes = km__allocate(allocator, SEALED_ARRAY_SIZE);
    pending->hashes = km__allocate(allocator, SEALED_HASHES_SIZE);
    pending->suffixes = km__allocate(allocator, SEALED_BLOCK_SIZE_MAX);
    pending->values_capacity = SEALED_BLOCK_SIZE_MAX;
    pending->values = km__allocate(allocator, pending->values_capacity);
    if (!writer->out || !writer->suffix_sizes || !writer->joined || !pending->first_key ||
        !pending->last_key || !pending->common || !pending->key_sizes || !pending->value_sizes ||
        !pending->hashes || !pending->suffixes || !pending->values) {
        km__sealed_writer_fini(writer);
        return KM_E_NO_MEMORY;
    }
    return KM_OK;
}

static void sealed_release_packed(struct sealed_writer *writer)
{
    km__release(writer->allocator, writer->plain, writer->packed_capacity);
    km__release(writer->allocator, writer->packed, writer->packed_capacity);
    writer->plain = NULL;
    writer->packed = NULL;
    writer->packed_capacity = 0;
}

void km__sealed_writer_fini(struct sealed_writer *writer)
{
    const struct allocator *allocator = writer->allocator;
    struct sealed_pending *pending = &writer->pending;

    if (!allocator)
        return;
    if (writer->out)
        km__unmap_pages(allocator, writer->out, SEALED_OUT_SIZE);
    km__release(allocator, writer->suffix_sizes, SEALED_ARRAY_SIZE);
    km__release(allocator, writer->joined, SEALED_BLOCK_SIZE_MAX);
    km__release(allocator, pending->first_key, KM_KEY_SIZE_MAX);
    km__release(allocator, pending->last_key, KM_KEY_SIZE_MAX);
    km__release(allocator, pending->common, SEALED_ARRAY_SIZE);
    km__release(allocator, pending->key_sizes, SEALED_ARRAY_SIZE);
    km__release(allocator, pending->value_sizes, SEALED_ARRAY_SIZE);
    km__release(allocator, pending->hashes, SEALED_HASHES_SIZE);
    km__release(allocator, pending->suffixes, SEALED_BLOCK_SIZE_MAX);
    km__release(allocator, pending->values, pending->values_capacity);
    sealed_release_packed(writer);
    memset(writer, 0, sizeof(*writer));
}

/* Room for a value that is alone; what was there may go. */
static km_status sealed_enlarge_values(struct sealed_writer *writer, size_t size)
{
    struct sealed_pending *pending = &writer->pending;
    uint8_t *values = km__allocate(writer->allocator, size);

    if (!values)
        return KM_E_NO_MEMORY;
    km__release(writer->allocator, pending->values, pending->values_capacity);
    pending->values = values;
    pending->values_capacity = size;
    return KM_OK;
}

void km__sealed_writer_begin(struct sealed_writer *writer, const struct sealed_target *target)
{
    struct sealed_pending *pending = &writer->pending;

    writer->file = target->file;
    writer->offset = target->offset;
    writer->id_sum = target->id_sum;
    writer->block_size = target->block_size;
    writer->index = target->index;
    writer->packer = target->packer;
    writer->out_used = 0;
    writer->block_max = 0;
    writer->plain_max = 0;
    memset(&writer->totals, 0, sizeof(writer->totals));
    memset(&pending->shape, 0, sizeof(pending->shape));
    pending->suffixes_used = 0;
    pending->last_key_size = 0;
    pending->has_last = 0;
}

/* ---- bytes to the file ------------------------------------------------------------------- */

km_status km__sealed_writer_flush(struct sealed_writer *writer)
{
    km_status rc;

    if (writer->out_used == 0)
        return KM_OK;
    rc = writer->os->ops->write_at(writer->file, writer->offset, writer->out, writer->out_used);
    if (rc)
        return rc;
    writer->offset += writer->out_used;
    writer->out_used = 0;
    return KM_OK;
}

km_status km__sealed_writer_put(struct sealed_writer *writer, const void *bytes, size_t size)
{
    km_status rc = KM_OK;

    if (size > SEALED_OUT_SIZE - writer->out_used)
        rc = km__sealed_writer_flush(writer);
    if (rc)
        return rc;
    if (size > SEALED_OUT_SIZE) {
        rc = writer->os->ops->write_at(writer->file, writer->offset, bytes, size);
        if (!rc)
            writer->offset += size;
        return rc;
    }
    if (size)
        memcpy(writer->out + writer->out_used, bytes, size);
    writer->out_used += size;
    return KM_OK;
}

static km_status sealed_fill_page(struct sealed_writer *writer)
{
    static const uint8_t zeros[SEALED_PAGE];
    uint64_t at = writer->offset + writer->out_used;

    return km__sealed_writer_put(writer, zeros, km__round_up(at, SEALED_PAGE) - at);
}

/* ---- a block is complete ----------------------------------------------------------------- */

/* Suffixes as they are written: cut where what all keys have in common ends (I3). */
static void sealed_join_suffixes(struct sealed_writer *writer)
{
    const struct sealed_pending *pending = &writer->pending;
    uint32_t prefix_size = pending->shape.prefix_size;
    const uint8_t *from = pending->suffixes;
    uint8_t *to = writer->joined;

    for (uint32_t i = 0; i < pending->shape.count; i++) {
        uint32_t again_size = pending->common[i] - prefix_size; /* of what the first key has too */
        uint32_t own_size = pending->key_sizes[i] - pending->common[i];
        if (again_size)
            memcpy(to, pending->first_key + prefix_size, again_size);
        if (own_size)
            memcpy(to + again_size, from, own_size);
        writer->suffix_sizes[i] = again_size + own_size;
        to += again_size + own_size;
        from += own_size;
    }
}

static km_status sealed_tell_index(struct sealed_writer *writer, uint64_t offset, uint64_t size)
{
    const struct sealed_pending *pending = &writer->pending;
    struct sealed_entry entry = {.first_page = offset / SEALED_PAGE,
                                 .page_count = (uint32_t)(size / SEALED_PAGE),
                                 .record_count = pending->shape.count,
                                 .hashes = pending->hashes};

    if (!writer->index)
        return KM_OK;
    entry.separator = km_bytes_of(pending->first_key, pending->separator_size);
    return km__sealed_index_add(writer->index, &entry);
}

static void sealed_count_block(struct sealed_writer *writer, uint64_t size)
{
    const struct sealed_shape *shape = &writer->pending.shape;

    writer->totals.count += shape->count;
    writer->totals.block_count++;
    writer->totals.key_bytes += shape->key_bytes;
    writer->totals.value_bytes += shape->value_bytes;
    if (size > writer->block_max)
        writer->block_max = size;
}

/* A block as it is, without the zeros behind it. */
static km_status sealed_put_plain(struct sealed_writer *writer,
                                  const struct sealed_records *records, uint32_t seed)
{
    uint64_t head_size = km__sealed_shape_head_size(&records->shape);
    km_status rc = KM_OK;

    if (head_size > SEALED_OUT_SIZE - writer->out_used)
        rc = km__sealed_writer_flush(writer);
    if (rc)
        return rc;
    km__sealed_block_encode_head(records, seed, writer->out + writer->out_used);
    writer->out_used += head_size;
    return km__sealed_writer_put(writer, records->values, records->shape.value_bytes);
}

static km_status sealed_enlarge_packed(struct sealed_writer *writer, size_t size)
{
    if (size <= writer->packed_capacity)
        return KM_OK;
    sealed_release_packed(writer);
    writer->plain = km__allocate(writer->allocator, size);
    writer->packed = km__allocate(writer->allocator, size);
    writer->packed_capacity = size;
    return writer->plain && writer->packed ? KM_OK : KM_E_NO_MEMORY;
}

/* A block compressed, or, if that saves no page, as it is (I4). */
static km_status sealed_put_packed(struct sealed_writer *writer,
                                   const struct sealed_records *records, uint32_t seed)
{
    size_t plain_size = (size_t)km__sealed_shape_size(&records->shape);
    size_t pages_size = (size_t)km__round_up(plain_size, SEALED_PAGE);
    size_t head_size = (size_t)km__sealed_shape_head_size(&records->shape);
    struct sealed_packed packed = {.plain_size = (uint32_t)plain_size,
                                   .count = records->shape.count};
    size_t frame_size = 0;
    km_status rc = sealed_enlarge_packed(writer, pages_size);

    if (rc)
        return rc;
    km__sealed_block_encode_head(records, seed, writer->plain);
    if (plain_size > head_size)
        memcpy(writer->plain + head_size, records->values, plain_size - head_size);
    rc = km__sealed_pack(writer->packer, km_bytes_of(writer->plain, plain_size),
                         writer->packed + SEALED_PACKED_HEADER_SIZE,
                         pages_size - SEALED_PAGE - SEALED_PACKED_HEADER_SIZE, &frame_size);
    if (rc)
        return rc;
    if (frame_size == 0)
        return km__sealed_writer_put(writer, writer->plain, plain_size);
    packed.frame = writer->packed + SEALED_PACKED_HEADER_SIZE;
    packed.frame_size = (uint32_t)frame_size;
    km__sealed_packed_encode(&packed, seed, writer->packed);
    if (plain_size > writer->plain_max)
        writer->plain_max = plain_size;
    return km__sealed_writer_put(writer, writer->packed, SEALED_PACKED_HEADER_SIZE + frame_size);
}

static km_status sealed_close_block(struct sealed_writer *writer)
{
    struct sealed_pending *pending = &writer->pending;
    struct sealed_records records = {.shape = pending->shape,
                                     .prefix = pending->first_key,
                                     .suffix_sizes = writer->suffix_sizes,
                                     .suffixes = writer->joined,
                                     .value_sizes = pending->value_sizes,
                                     .values = pending->values};
    uint64_t plain_size = km__sealed_shape_size(&pending->shape);
    uint64_t offset = writer->offset + writer->out_used;
    uint32_t seed = km__sealed_block_seed(writer->id_sum, offset);
    uint64_t size;
    km_status rc;

    sealed_join_suffixes(writer);
    if (writer->packer && plain_size > SEALED_PAGE && plain_size <= SEALED_PACKED_PLAIN_MAX)
        rc = sealed_put_packed(writer, &records, seed);
    else
        rc = sealed_put_plain(writer, &records, seed);
    if (!rc)
        rc = sealed_fill_page(writer);
    if (rc)
        return rc;
    size = writer->offset + writer->out_used - offset;
    rc = sealed_tell_index(writer, offset, size);
    if (rc)
        return rc;
    sealed_count_block(writer, size);
    memset(&pending->shape, 0, sizeof(pending->shape));
    pending->suffixes_used = 0;
    return KM_OK;
}

/* ---- a record comes ---------------------------------------------------------------------- */

/* What the block would be with one record more. */
static struct sealed_shape sealed_shape_with(const struct sealed_pending *pending, uint32_t common,
                                             size_t key_size, size_t value_size)
{
    struct sealed_shape shape = pending->shape;

    shape.count++;
    shape.prefix_size = common;
    shape.key_bytes += key_size;
    shape.value_bytes += value_size;
    if (pending->shape.count > 0) {
        shape.keys_vary |= key_size != pending->key_size;
        shape.values_vary |= value_size != pending->value_size;
    }
    return shape;
}

/* Whether a record goes into the pending block; its limit grows if that is better (I2). */
static int sealed_has_room(struct sealed_pending *pending, const struct sealed_shape *shape)
{
    uint64_t size = km__sealed_shape_size(shape);
    uint64_t left;

    if (size > SEALED_BLOCK_SIZE_MAX || shape->count > SEALED_BLOCK_RECORDS_MAX)
        return 0;
    if (size <= pending->limit)
        return 1;
    left = pending->limit - km__sealed_shape_size(&pending->shape);
    if (left * 8 <= pending->limit)
        return 0;
    pending->limit = km__round_up(size, SEALED_PAGE);
    return 1;
}

static km_status sealed_begin_block(struct sealed_writer *writer, km_bytes key, km_bytes value)
{
    struct sealed_pending *pending = &writer->pending;
    struct sealed_shape shape = {.count = 1,
                                 .prefix_size = (uint32_t)key.size,
                                 .key_bytes = key.size,
                                 .value_bytes = value.size};
    uint64_t size = km__round_up(km__sealed_shape_size(&shape), SEALED_PAGE);

    if (value.size > pending->values_capacity) {
        km_status rc = sealed_enlarge_values(writer, value.size);
        if (rc)
            return rc;
    }
    pending->limit = size > writer->block_size ? size : writer->block_size;
    pending->key_size = (uint32_t)key.size;
    pending->value_size = (uint32_t)value.size;
    pending->keys_other = 0;
    pending->values_other = 0;
    if (key.size)
        memcpy(pending->first_key, key.data, key.size);
    return KM_OK;
}

static void sealed_take_record(struct sealed_writer *writer, const struct sealed_shape *shape,
                               km_bytes key, km_bytes value)
{
    struct sealed_pending *pending = &writer->pending;
    uint32_t index = pending->shape.count;
    size_t own_size = key.size - shape->prefix_size;

    pending->common[index] = shape->prefix_size;
    pending->key_sizes[index] = (uint32_t)key.size;
    pending->value_sizes[index] = (uint32_t)value.size;
    pending->keys_other += key.size != pending->key_size;
    pending->values_other += value.size != pending->value_size;
    if (writer->index)
        pending->hashes[index] = km__sealed_hash(key.data, key.size);
    if (own_size)
        memcpy(pending->suffixes + pending->suffixes_used,
               (const uint8_t *)key.data + shape->prefix_size, own_size);
    pending->suffixes_used += (uint32_t)own_size;
    if (value.size)
        memcpy(pending->values + pending->shape.value_bytes, value.data, value.size);
    if (key.size)
        memcpy(pending->last_key, key.data, key.size);
    pending->last_key_size = (uint32_t)key.size;
    pending->has_last = 1;
    pending->shape = *shape;
}

/* The last key of the pending block anew, from what is kept of it. */
static void sealed_restore_last_key(struct sealed_pending *pending)
{
    uint32_t index = pending->shape.count - 1;
    uint32_t common = pending->common[index];
    uint32_t own_size = pending->key_sizes[index] - common;

    if (common)
        memcpy(pending->last_key, pending->first_key, common);
    if (own_size)
        memcpy(pending->last_key + common, pending->suffixes + pending->suffixes_used - own_size,
               own_size);
    pending->last_key_size = common + own_size;
}

/* Take the last record away again. */
static void sealed_drop_last(struct sealed_pending *pending)
{
    struct sealed_shape *shape = &pending->shape;
    uint32_t index = shape->count - 1;
    uint32_t key_size = pending->key_sizes[index];
    uint32_t value_size = pending->value_sizes[index];

    pending->keys_other -= key_size != pending->key_size;
    pending->values_other -= value_size != pending->value_size;
    pending->suffixes_used -= key_size - pending->common[index];
    shape->count--;
    shape->key_bytes -= key_size;
    shape->value_bytes -= value_size;
    shape->keys_vary = pending->keys_other != 0;
    shape->values_vary = pending->values_other != 0;
    shape->prefix_size = index ? pending->common[index - 1] : 0;
    if (index)
        sealed_restore_last_key(pending);
}

/* `separator_size` counts if no block is pending: of the key, as in struct sealed_pending. */
static km_status sealed_append(struct sealed_writer *writer, km_bytes key, km_bytes value,
                               uint32_t separator_size)
{
    struct sealed_pending *pending = &writer->pending;
    struct sealed_shape shape;
    km_status rc;

    if (pending->shape.count > 0) {
        km_bytes first = km_bytes_of(pending->first_key, pending->key_size);
        uint32_t common = (uint32_t)km__sealed_common_prefix(first, key);
        shape = sealed_shape_with(pending, common, key.size, value.size);
        if (sealed_has_room(pending, &shape)) {
            sealed_take_record(writer, &shape, key, value);
            return KM_OK;
        }
        rc = sealed_close_block(writer);
        if (rc)
            return rc;
        separator_size = (uint32_t)km__sealed_common_prefix(km__sealed_writer_last_key(writer),
                                                            key) +
                         1;
    }
    rc = sealed_begin_block(writer, key, value);
    if (rc)
        return rc;
    pending->separator_size = separator_size;
    shape = sealed_shape_with(pending, (uint32_t)key.size, key.size, value.size);
    sealed_take_record(writer, &shape, key, value);
    return KM_OK;
}

km_status km__sealed_writer_add(struct sealed_writer *writer, km_bytes key, km_bytes value)
{
    struct sealed_pending *pending = &writer->pending;
    int order;

    if (!pending->has_last)
        return sealed_append(writer, key, value, 0);
    order = km__sealed_compare(km__sealed_writer_last_key(writer), key);
    KM_ASSERT(order <= 0);
    if (order == 0)
        sealed_drop_last(pending); /* I1: it is there */
    return sealed_append(writer, key, value, pending->separator_size);
}

km_status km__sealed_writer_end(struct sealed_writer *writer, uint64_t *out_end)
{
    km_status rc = KM_OK;

    if (writer->pending.shape.count > 0)
        rc = sealed_close_block(writer);
    if (!rc && writer->index)
        rc = km__sealed_index_close(writer->index);
    if (!rc)
        rc = km__sealed_writer_flush(writer);
    if (!rc)
        *out_end = writer->offset;
    return rc;
}
