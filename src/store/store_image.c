/* SPDX-License-Identifier: Apache-2.0
 *
 * store_image.c -- write an index image: a copy of the index, so that an open need not replay the
 * whole log.
 *
 * The copy is taken node by node while the store is used; it need not be of one moment. It belongs
 * to the position P where the log was complete when it began: a change below P is in it, since its
 * key's partition was locked from before its record was complete until the index had it, and is
 * locked by the copying after P was taken; a change from P on is replayed by who opens the image,
 * and the later record wins whether the copy had it or not.
 *
 * I1. P and the list of maps are taken while the catalogue is locked: every map record below P is
 *     in the list, none from P on.
 * I2. The log is synced over every record that a reference leads to before the image gets its name.
 * I3. `head_number` is that of the oldest segment not emptied before the copying began: no
 *     reference leads below it.
 * I4. The nodes of all maps are copied before the order of any. So an ordinal U of the copied order
 *     that is not its key's in the end has a key that the replay finds with U when the record comes
 *     that takes U away: the record that gave U either is replayed before, or was below P, and then
 *     the copied node has the key with U, which was in use from before P until the order was
 *     copied. The other way round a key could be deleted between the copies, its ordinal be in the
 *     one and the key not in the other, and nothing would ever empty the ordinal. An ordinal that
 *     the copied order lacks, or that the replay empties too early since the node was newer, is of
 *     a put at P or above, which enters it again.
 */
#include "store/store_image_internal.h"

#define IMAGE_BUFFER_SIZE (UINT64_C(1) << 20)
#define IMAGE_SLOTS_MAX (HASH_NODE_LINES_MAX * HASH_LINE_SLOTS)

/* ---- buffers ----------------------------------------------------------------------------- */

static km_status grow_image_list(const struct km_store *store, struct image_list *list,
                                 uint64_t wanted)
{
    uint64_t larger = list->capacity ? list->capacity : 4096;
    uint8_t *moved;

    if (wanted <= list->capacity)
        return KM_OK;
    while (larger < wanted)
        larger *= 2; /* ends: tables are bounded by memory */
    moved = km__allocate(store->allocator, larger);
    if (!moved)
        return KM_E_NO_MEMORY;
    if (list->bytes)
        memcpy(moved, list->bytes, list->size);
    km__release(store->allocator, list->bytes, list->capacity);
    list->bytes = moved;
    list->capacity = larger;
    return KM_OK;
}

uint8_t *km__image_extend(struct image_writer *writer, struct image_list *list, uint64_t size)
{
    if (grow_image_list(writer->store, list, list->size + size))
        return NULL;
    list->size += size;
    return list->bytes + list->size - size;
}

static km_status flush_image(struct image_writer *writer)
{
    km_status rc = KM_OK;

    if (writer->buffered)
        rc = writer->store->os->ops->write_at(writer->file, writer->written, writer->buffer,
                                              writer->buffered);
    writer->written += writer->buffered;
    writer->buffered = 0;
    return rc;
}

km_status km__image_write_bytes(struct image_writer *writer, const void *bytes, uint64_t size)
{
    km_status rc = KM_OK;

    while (!rc && size > 0) { /* ends: the size shrinks */
        uint64_t room = IMAGE_BUFFER_SIZE - writer->buffered;
        uint64_t part = size < room ? size : room;

        memcpy(writer->buffer + writer->buffered, bytes, part);
        writer->buffered += part;
        bytes = (const uint8_t *)bytes + part;
        size -= part;
        if (writer->buffered == IMAGE_BUFFER_SIZE)
            rc = flush_image(writer);
    }
    return rc;
}

/* ---- maps -------------------------------------------------------------------------------- */

static km_status add_map(struct image_writer *writer, km_map *map)
{
    struct catalogue_entry entry = {.id = map->id,
                                    .kind = (uint8_t)map->kind,
                                    .name_size = (uint8_t)map->name_size,
                                    .created = map->created,
                                    .name = map->name};
    uint8_t *to = km__image_extend(writer, &writer->maps_list,
                                   km__catalogue_entry_size(entry.name_size));

    if (!to)
        return KM_E_NO_MEMORY;
    (void)km__catalogue_entry_encode(&entry, to);
    writer->maps[writer->header.map_count++] = map;
    return KM_OK;
}

static uint64_t maps_bytes(uint32_t id_count)
{
    return (id_count + 1u) * sizeof(km_map *);
}

static uint64_t counts_bytes(uint32_t id_count)
{
    return (id_count + 1u) * sizeof(struct image_counts);
}

/* The same place in the log, as the end of the segment before. Inside an epoch. */
static void use_end_before(const struct km_store *store, uint64_t *position)
{
    uint64_t end = km__log_previous_end(store->log, km__position_number(*position));

    if (km__position_number(end) >= km__log_head_number(store->log))
        *position = end;
}

/* I1 and I3: what the image is of. */
static km_status begin_image(struct image_writer *writer)
{
    struct km_store *store = writer->store;
    struct image_header *header = &writer->header;
    km_status rc = KM_OK;

    /* acquire: what was moved before is published; pairs with
     * km__relocate_reach() */
    header->head_number = atomic_load_explicit(&store->compactor.emptied_number,
                                               memory_order_acquire);
    header->position = km__log_complete(store->log);
    header->next_map_id = store->id_count;
    km__epoch_enter();
    if (km__position_offset(header->position) == SEGMENT_HEADER_SIZE)
        use_end_before(store, &header->position); /* a segment without records may be left void */
    if (header->head_number > km__position_number(header->position))
        header->head_number = km__position_number(header->position);
    writer->linear = km__log_linear(store->log, header->position);
    km__epoch_leave();
    for (uint32_t id = 0; !rc && id < store->id_count; id++) {
        km_map *map = store->by_id[id];

        if (map && !atomic_load_explicit(&map->dropped, memory_order_relaxed))
            rc = add_map(writer, map); /* relaxed: set under catalogue_lock */
    }
    return rc;
}

/* ---- nodes ------------------------------------------------------------------------------- */

static km_status add_node(struct image_writer *writer, const struct hash_image_node *node)
{
    struct image_node entry = {.prefix = node->prefix,
                               .weight = node->weight,
                               .count = node->count,
                               .flagged_count = node->flagged_count,
                               .partition = node->partition,
                               .depth = node->depth,
                               .line_bits = node->line_bits,
                               .tag_bits = node->tag_bits};
    uint64_t size = km__image_lines_size(&entry);
    uint8_t *lines = (uint8_t *)writer->lines;
    uint8_t *to = km__image_extend(writer, &writer->nodes_list, IMAGE_NODE_SIZE);

    if (!to)
        return KM_E_NO_MEMORY;
    for (uint64_t i = 0; i < size / 8; i++)
        km__store64(lines + 8 * i, writer->lines[i]); /* in place: from the host's byte order */
    entry.checksum = km__image_lines_sum(lines, size, writer->header.node_count);
    km__image_node_encode(&entry, to);
    writer->header.node_count++;
    return km__image_write_bytes(writer, lines, size);
}

static km_status copy_nodes(struct image_writer *writer, uint32_t map_index)
{
    struct hash_walk walk = {0};
    uint64_t before = writer->header.node_count;

    for (;;) { /* ends with the walk */
        struct hash_image_node node;
        int is_end;
        km_status rc;

        km__epoch_enter();
        rc = km__hash_export_next(writer->maps[map_index]->index, &walk, &node, writer->lines,
                                  &is_end);
        km__epoch_leave();
        if (rc || is_end) {
            writer->counts[map_index].node_count = writer->header.node_count - before;
            return rc;
        }
        rc = add_node(writer, &node);
        if (rc)
            return rc;
    }
}

/* Everything but the table: I4. */
static km_status copy_image_maps(struct image_writer *writer)
{
    uint32_t count = writer->header.map_count;
    km_status rc = KM_OK;

    for (uint32_t i = 0; !rc && i < count; i++) {
        if (writer->maps[i]->kind != KM_SORTED)
            rc = copy_nodes(writer, i);
    }
    for (uint32_t i = 0; !rc && i < count; i++) {
        if (writer->maps[i]->kind == KM_INSERTION)
            rc = km__image_copy_order(writer, i);
    }
    for (uint32_t i = 0; !rc && i < count; i++) {
        if (writer->maps[i]->kind == KM_SORTED)
            rc = km__image_copy_tree(writer, i);
    }
    for (uint32_t i = 0; i < count; i++) /* relaxed: set before the records below P were published,
                                            which the copying has waited for */
        writer->counts[i].has_expiry = atomic_load_explicit(&writer->maps[i]->has_expiry,
                                                            memory_order_relaxed) != 0;
    return rc;
}

/* ---- the file ---------------------------------------------------------------------------- */

static km_status encode_counts(struct image_writer *writer, struct image_list *out)
{
    for (uint32_t i = 0; i < writer->header.map_count; i++) {
        uint8_t *to = km__image_extend(writer, out, IMAGE_COUNTS_SIZE);

        if (!to)
            return KM_E_NO_MEMORY;
        km__image_counts_encode(&writer->counts[i], to);
    }
    return KM_OK;
}

static km_status write_parts(struct image_writer *writer, const struct image_list *counts)
{
    const struct image_list *lists[] = {&writer->maps_list, counts, &writer->nodes_list,
                                        &writer->orders_list, &writer->leaves_list};
    struct image_header *header = &writer->header;
    km_status rc = KM_OK;

    header->table_checksum = 0;
    header->table_size = 0;
    for (size_t i = 0; !rc && i < sizeof(lists) / sizeof(lists[0]); i++) {
        header->table_size += lists[i]->size;
        header->table_checksum = km__crc32c(header->table_checksum, lists[i]->bytes,
                                            lists[i]->size);
        rc = km__image_write_bytes(writer, lists[i]->bytes, lists[i]->size);
    }
    return rc;
}

static km_status write_table(struct image_writer *writer)
{
    static const uint8_t zeros[IMAGE_TABLE_ALIGNMENT];
    uint64_t at = writer->written + writer->buffered;
    struct image_list counts = {NULL, 0, 0};
    km_status rc = encode_counts(writer, &counts);

    writer->header.table_offset = km__round_up(at, IMAGE_TABLE_ALIGNMENT);
    if (!rc)
        rc = km__image_write_bytes(writer, zeros, writer->header.table_offset - at);
    if (!rc)
        rc = write_parts(writer, &counts);
    km__release(writer->store->allocator, counts.bytes, counts.capacity);
    return rc ? rc : flush_image(writer);
}

/* The header last, and the name after everything is durable. */
static km_status publish_image(struct image_writer *writer)
{
    struct km_store *store = writer->store;
    const struct os_ops *ops = store->os->ops;
    km_status rc;

    km__log_settle(store->log); /* records may be in the index and not yet complete */
    rc = km__log_sync(store->log);
    if (rc)
        return rc;
    writer->header.durable = km__log_durable(store->log);
    km__image_header_encode(&writer->header, writer->buffer);
    rc = ops->write_at(writer->file, 0, writer->buffer, IMAGE_HEADER_SIZE);
    if (!rc)
        rc = ops->sync(writer->file);
    if (!rc)
        rc = ops->rename(store->dir, IMAGE_NEW_NAME, IMAGE_NAME);
    return rc ? rc : ops->sync_dir(store->dir);
}

static km_status write_new_file(struct image_writer *writer)
{
    struct km_store *store = writer->store;
    const struct os_ops *ops = store->os->ops;
    km_status rc;

    km__ignore(ops->unlink(store->dir, IMAGE_NEW_NAME), "a leftover of a crash, or nothing");
    rc = ops->open_file(store->dir, IMAGE_NEW_NAME, OS_CREATE_NEW, &writer->file);
    writer->written = IMAGE_HEADER_SIZE;
    if (!rc)
        rc = copy_image_maps(writer);
    return rc ? rc : write_table(writer);
}

static km_status init_writer(struct image_writer *writer, uint32_t id_count)
{
    const struct allocator *allocator = writer->store->allocator;

    writer->maps = km__allocate(allocator, maps_bytes(id_count));
    writer->counts = km__allocate(allocator, counts_bytes(id_count));
    writer->lines = km__allocate(allocator, IMAGE_SLOTS_MAX * sizeof(*writer->lines));
    writer->chunk = km__allocate(allocator, IMAGE_LEAF_SIZE_MAX);
    writer->buffer = km__map_pages(allocator, IMAGE_BUFFER_SIZE);
    memcpy(writer->header.store_id, writer->store->identity.store_id, STORE_ID_SIZE);
    writer->header.layout_version = IMAGE_LAYOUT_VERSION;
    writer->header.hash_sample = km__image_hash_sample(&writer->store->secret);
    return writer->maps && writer->counts && writer->lines && writer->chunk && writer->buffer
               ? KM_OK
               : KM_E_NO_MEMORY;
}

static void fini_writer(struct image_writer *writer, uint32_t id_count)
{
    const struct allocator *allocator = writer->store->allocator;
    struct image_list *lists[] = {&writer->maps_list, &writer->nodes_list, &writer->orders_list,
                                  &writer->leaves_list};

    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        km__release(allocator, lists[i]->bytes, lists[i]->capacity);
    km__release(allocator, writer->maps, maps_bytes(id_count));
    km__release(allocator, writer->counts, counts_bytes(id_count));
    km__release(allocator, writer->lines, IMAGE_SLOTS_MAX * sizeof(*writer->lines));
    km__release(allocator, writer->chunk, IMAGE_LEAF_SIZE_MAX);
    if (writer->buffer)
        km__unmap_pages(allocator, writer->buffer, IMAGE_BUFFER_SIZE);
    writer->store->os->ops->close_file(writer->file);
}

static void note_written(struct image_writer *writer)
{
    struct image *image = &writer->store->image;

    image->head_number = writer->header.head_number;
    /* relaxed: figures */
    atomic_store_explicit(&image->linear, writer->linear, memory_order_relaxed);
    atomic_store_explicit(&image->bytes, km__image_file_size(&writer->header),
                          memory_order_relaxed);
    atomic_fetch_add_explicit(&image->count, 1, memory_order_relaxed);
}

km_status km__image_write(struct km_store *store)
{
    struct image_writer writer = {.store = store};
    uint32_t id_count;
    km_status rc;

    if (!store->dir)
        return KM_E_UNSUPPORTED;
    km__mutex_lock(&store->catalogue_lock);
    id_count = store->id_count;
    rc = init_writer(&writer, id_count);
    if (!rc)
        rc = begin_image(&writer);
    km__mutex_unlock(&store->catalogue_lock);
    if (!rc)
        rc = write_new_file(&writer);
    if (!rc)
        rc = publish_image(&writer);
    if (!rc)
        note_written(&writer);
    else
        km__ignore(store->os->ops->unlink(store->dir, IMAGE_NEW_NAME), "the next one removes it");
    fini_writer(&writer, id_count);
    return rc;
}
