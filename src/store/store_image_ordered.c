/* SPDX-License-Identifier: Apache-2.0
 *
 * store_image_ordered.c -- the insertion order of maps and the trees of sorted maps, to an index
 * image and from it.
 *
 * Unlike the nodes of hashes, both are read and entered at open: 10 ns a key of an order, 40 of a
 * tree.
 *
 * I1. What was changed below the image's position P is copied. Of a tree, which is copied without
 *     the locks of its partitions, because each was locked once after P was taken: whoever had a
 *     record below P and was still to enter it has let go by then.
 * I2. The weight of a tree in the image is that of the records to which the copied references lead,
 *     not what the tree says at any moment: the replay adds to it, and takes from it, by what it
 *     finds in the tree.
 * I3. What is entered was right by its checksum, and every reference leads into a segment of the
 *     log.
 *
 * Nothing is copied in one long epoch: each group of ordinals and each leaf has its own.
 */
#include "store/store_image_internal.h"

#define IMAGE_ORDER_GROUP 512u  /* ordinals of a cell: see enter_order_chunk() */
#define IMAGE_ORDER_GAP_MAX 16u /* empty ordinals that are cheaper than another chunk */

_Static_assert(IMAGE_LEAF_ENTRIES_MAX == SORTED_LEAF_ENTRIES, "entries of a leaf");
_Static_assert(UINT64_C(1) << IMAGE_REF_BITS == LOG_PLACEHOLDER_BASE, "references of records");
_Static_assert(IMAGE_LEAF_SIZE_MAX >= IMAGE_ORDER_SLOTS_MAX * 8 &&
                   IMAGE_LEAF_SIZE_MAX >= IMAGE_LEAF_CHUNK_SIZE_MAX,
               "a chunk of either kind fits in the writer's memory for one");

/* ---- writing: both ----------------------------------------------------------------------- */

/* Write the data of the next chunk; *out_checksum is for its entry in the table. */
static km_status write_chunk(struct image_writer *writer, uint64_t size, uint32_t *out_checksum)
{
    const struct image_header *header = &writer->header;
    uint64_t number = header->node_count + header->order_chunk_count + header->leaf_chunk_count;

    *out_checksum = km__image_chunk_sum(writer->chunk, size, number);
    return km__image_write_bytes(writer, writer->chunk, size);
}

/* ---- writing an order -------------------------------------------------------------------- */

/* Write what is gathered, if there is anything. */
static km_status end_order_chunk(struct image_writer *writer, struct image_order_chunk *chunk)
{
    km_status rc;
    uint8_t *to;

    if (chunk->slot_count == 0)
        return KM_OK;
    rc = write_chunk(writer, km__image_order_size(chunk), &chunk->checksum);
    if (rc)
        return rc;
    to = km__image_extend(writer, &writer->orders_list, IMAGE_CHUNK_SIZE);
    if (!to)
        return KM_E_NO_MEMORY;
    km__image_order_chunk_encode(chunk, to);
    writer->header.order_chunk_count++;
    chunk->slot_count = 0;
    return KM_OK;
}

/* Ordinals ascend from call to call. */
static km_status add_to_order(struct image_writer *writer, struct image_order_chunk *chunk,
                              const struct order_entry *entry)
{
    uint64_t slot = entry->ordinal - chunk->first_ordinal;

    if (chunk->slot_count != 0 &&
        (slot - chunk->slot_count > IMAGE_ORDER_GAP_MAX || slot >= IMAGE_ORDER_SLOTS_MAX)) {
        km_status rc = end_order_chunk(writer, chunk);

        if (rc)
            return rc;
    }
    if (chunk->slot_count == 0) {
        chunk->first_ordinal = entry->ordinal;
        slot = 0;
    }
    memset(writer->chunk + 8 * (uint64_t)chunk->slot_count, 0, 8 * (slot - chunk->slot_count));
    km__store64(writer->chunk + 8 * slot, entry->ref);
    chunk->slot_count = (uint32_t)slot + 1;
    return KM_OK;
}

/* Ordinals from `end` on were given out after the nodes had been copied: the replay enters them. */
static km_status copy_order_until(struct image_writer *writer, const struct insertion_order *order,
                                  uint64_t end)
{
    struct order_entry entries[IMAGE_ORDER_GROUP];
    struct image_order_chunk chunk = {0, 0, 0};
    uint64_t ordinal = 0;

    while (ordinal < end) { /* ends: ordinals ascend */
        size_t count;

        km__epoch_enter();
        count = km__order_read_up(order, ordinal, entries, IMAGE_ORDER_GROUP);
        km__epoch_leave();
        if (count == 0)
            break;
        for (size_t i = 0; i < count && entries[i].ordinal < end; i++) {
            km_status rc = add_to_order(writer, &chunk, &entries[i]);

            if (rc)
                return rc;
        }
        ordinal = entries[count - 1].ordinal + 1;
    }
    return end_order_chunk(writer, &chunk);
}

km_status km__image_copy_order(struct image_writer *writer, uint32_t map_index)
{
    const struct insertion_order *order = writer->maps[map_index]->order;
    struct image_counts *counts = &writer->counts[map_index];
    uint64_t before = writer->header.order_chunk_count;
    km_status rc;

    km__epoch_enter();
    counts->next_ordinal = km__order_next(order);
    km__epoch_leave();
    rc = copy_order_until(writer, order, counts->next_ordinal);
    counts->order_chunk_count = writer->header.order_chunk_count - before;
    return rc;
}

/* ---- writing a tree ---------------------------------------------------------------------- */

/* I1 */
static void pass_partitions(km_map *map)
{
    for (uint32_t i = 0; i < HASH_PARTITION_COUNT; i++) {
        struct mutex *lock = km__hash_partition_lock(map->index, i);

        km__mutex_lock(lock);
        km__mutex_unlock(lock);
    }
}

/* I2. Inside the epoch in which they were copied. */
static uint64_t weight_of(const struct km_store *store, const struct sorted_image_leaf *leaf)
{
    uint64_t weight = 0;

    for (uint32_t i = 0; i < leaf->count; i++)
        km__log_prefetch(store->view, leaf->refs[i]);
    for (uint32_t i = 0; i < leaf->count; i++) {
        struct log_record record;

        if (km__log_record_at(store->view, leaf->refs[i], &record)) /* else it is damaged */
            weight += km__size_of_record(&record);
    }
    return weight;
}

static km_status end_leaf_chunk(struct image_writer *writer, struct image_leaf_chunk *chunk)
{
    km_status rc;
    uint8_t *to;

    if (chunk->leaf_count == 0)
        return KM_OK;
    rc = write_chunk(writer, chunk->size, &chunk->checksum);
    if (rc)
        return rc;
    to = km__image_extend(writer, &writer->leaves_list, IMAGE_CHUNK_SIZE);
    if (!to)
        return KM_E_NO_MEMORY;
    km__image_leaf_chunk_encode(chunk, to);
    writer->header.leaf_chunk_count++;
    chunk->size = 0;
    chunk->leaf_count = 0;
    return KM_OK;
}

static km_status add_leaf(struct image_writer *writer, struct image_leaf_chunk *chunk,
                          const struct sorted_image_leaf *from, km_bytes fence)
{
    struct image_leaf leaf = {.count = from->count,
                              .skip = from->skip,
                              .fence_size = (uint32_t)fence.size,
                              .fence = fence.data};
    uint64_t size = km__image_leaf_size(leaf.count, leaf.fence_size);

    if (chunk->size + size > IMAGE_LEAF_CHUNK_SIZE_MAX) {
        km_status rc = end_leaf_chunk(writer, chunk);

        if (rc)
            return rc;
    }
    memcpy(leaf.heads, from->heads, leaf.count * sizeof(leaf.heads[0]));
    memcpy(leaf.refs, from->refs, leaf.count * sizeof(leaf.refs[0]));
    chunk->size += (uint32_t)km__image_leaf_encode(&leaf, writer->chunk + chunk->size);
    chunk->leaf_count++;
    return KM_OK;
}

static km_status copy_leaves(struct image_writer *writer, uint32_t map_index,
                             struct sorted_walk *walk)
{
    const struct sorted_tree *tree = writer->maps[map_index]->tree;
    struct image_counts *counts = &writer->counts[map_index];
    struct image_leaf_chunk chunk = {0, 0, 0};

    for (;;) { /* ends with the walk */
        struct sorted_image_leaf leaf;
        km_bytes fence;
        int is_end;
        km_status rc;

        km__epoch_enter();
        rc = km__sorted_export_next(tree, walk, &leaf, &fence, &is_end);
        if (!rc && !is_end)
            counts->weight += weight_of(writer->store, &leaf);
        km__epoch_leave();
        if (rc)
            return rc;
        if (is_end)
            return end_leaf_chunk(writer, &chunk);
        rc = add_leaf(writer, &chunk, &leaf, fence);
        if (rc)
            return rc;
    }
}

km_status km__image_copy_tree(struct image_writer *writer, uint32_t map_index)
{
    uint64_t before = writer->header.leaf_chunk_count;
    struct sorted_walk walk = {0};
    km_status rc;

    pass_partitions(writer->maps[map_index]);
    rc = copy_leaves(writer, map_index, &walk);
    km__sorted_walk_fini(writer->maps[map_index]->tree, &walk);
    writer->counts[map_index].leaf_chunk_count = writer->header.leaf_chunk_count - before;
    /* a record is damaged: who is told of corruption would mend the index, which is sound */
    return rc == KM_E_CORRUPT ? KM_E_IO : rc;
}

/* ---- reading ----------------------------------------------------------------------------- */

/* The data of the next chunk, verified; NULL: damaged. */
static const uint8_t *read_chunk(struct image_reader *reader, uint64_t size, uint32_t checksum)
{
    const uint8_t *data = reader->bytes + reader->data_offset;

    if (km__image_chunk_sum(data, size, reader->number) != checksum)
        return NULL;
    reader->data_offset += size;
    reader->number++;
    return data;
}

/* The entry of the next chunk: `first` is the number of the first one of its kind. */
static const uint8_t *chunk_entry(const struct image_reader *reader, uint64_t offset,
                                  uint64_t first)
{
    return reader->bytes + reader->header.table_offset + offset +
           (reader->number - first) * IMAGE_CHUNK_SIZE;
}

/* I3. Enter some references of a chunk, those of the ordinals from `first` on. */
static km_status enter_refs(const struct km_store *store, struct insertion_order *order,
                            uint64_t first, const uint8_t *data, uint32_t count)
{
    struct order_entry entries[IMAGE_ORDER_GROUP];
    size_t used = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t ref = km__load64(data + 8 * (uint64_t)i);

        if (ref == 0)
            continue;
        if (!km__image_ref_is_sound(store, ref))
            return KM_E_CORRUPT;
        entries[used].ordinal = first + i;
        entries[used++].ref = ref;
    }
    return km__order_restore_run(order, entries, used);
}

static km_status enter_order_chunk(struct image_reader *reader, struct insertion_order *order)
{
    struct image_order_chunk chunk;
    const uint8_t *data;
    km_status rc = km__image_order_chunk_decode(
        chunk_entry(reader, reader->table.orders_offset, reader->header.node_count), &chunk);

    if (rc)
        return rc;
    data = read_chunk(reader, km__image_order_size(&chunk), chunk.checksum);
    if (!data)
        return KM_E_CORRUPT;
    for (uint32_t at = 0; !rc && at < chunk.slot_count;) { /* ends: cuts where cells are cut */
        uint64_t first = chunk.first_ordinal + at;
        uint32_t count = IMAGE_ORDER_GROUP - (uint32_t)(first % IMAGE_ORDER_GROUP);

        if (count > chunk.slot_count - at)
            count = chunk.slot_count - at;
        rc = enter_refs(reader->store, order, first, data + 8 * (uint64_t)at, count);
        at += count;
    }
    return rc;
}

km_status km__image_enter_order(struct image_reader *reader, km_map *map,
                                const struct image_counts *counts)
{
    km_status rc = KM_OK;

    for (uint64_t i = 0; !rc && i < counts->order_chunk_count; i++) {
        km__epoch_enter();
        rc = enter_order_chunk(reader, map->order);
        km__epoch_leave();
    }
    return rc ? rc : km__order_use(map->order, counts->next_ordinal);
}

static km_status enter_leaf(const struct km_store *store, struct sorted_builder *builder,
                            const struct image_leaf *from)
{
    struct sorted_image_leaf leaf = {
        .count = from->count, .skip = from->skip, .low_fence_size = from->fence_size};

    for (uint32_t i = 0; i < from->count; i++) {
        if (!km__image_ref_is_sound(store, from->refs[i]))
            return KM_E_CORRUPT;
        leaf.heads[i] = from->heads[i];
        leaf.refs[i] = from->refs[i];
    }
    return km__sorted_build_add(builder, &leaf, km_bytes_of(from->fence, from->fence_size));
}

static km_status enter_leaf_chunk(struct image_reader *reader, struct sorted_builder *builder)
{
    struct image_leaf_chunk chunk;
    const uint8_t *data;
    size_t at = 0;
    km_status rc = km__image_leaf_chunk_decode(
        chunk_entry(reader, reader->table.leaves_offset,
                    reader->header.node_count + reader->header.order_chunk_count),
        &chunk);

    if (rc)
        return rc;
    data = read_chunk(reader, chunk.size, chunk.checksum);
    if (!data)
        return KM_E_CORRUPT;
    for (uint32_t i = 0; !rc && i < chunk.leaf_count; i++) {
        struct image_leaf leaf;
        size_t size = 0;

        rc = km__image_leaf_decode(data + at, chunk.size - at, &leaf, &size);
        if (!rc)
            rc = enter_leaf(reader->store, builder, &leaf);
        at += size;
    }
    return !rc && at != chunk.size ? KM_E_CORRUPT : rc;
}

km_status km__image_enter_tree(struct image_reader *reader, km_map *map,
                               const struct image_counts *counts)
{
    struct sorted_builder *builder = NULL;
    km_status rc;

    if (counts->leaf_chunk_count == 0)
        return counts->weight == 0 ? KM_OK : KM_E_CORRUPT;
    rc = km__sorted_build_begin(map->tree, &builder);
    for (uint64_t i = 0; !rc && i < counts->leaf_chunk_count; i++) {
        km__epoch_enter();
        rc = enter_leaf_chunk(reader, builder);
        km__epoch_leave();
    }
    if (!rc)
        return km__sorted_build_end(builder, counts->weight);
    km__sorted_build_abort(builder);
    return rc;
}
