/* SPDX-License-Identifier: Apache-2.0
 *
 * store_image.c -- write an index image: a copy of the index, so that an open need not replay the
 * whole log.
 *
 * The copy is taken node by node while the store is used; it need not be of one moment. It belongs
 * to the position P where the log was complete when it began: a change below P is in it, since its
 * key's partition was locked from before its record was complete until the index had it; a change
 * from P on is replayed by who opens the image, and the later record wins whether the copy had it
 * or not.
 *
 * I1. P and the list of maps are taken while the catalogue is locked: every map record below P is
 *     in the list, none from P on.
 * I2. The log is synced over every record that a reference leads to before the image gets its name.
 * I3. `head_number` is that of the oldest segment not emptied before the copying began: no
 *     reference leads below it.
 */
#include "store/store_internal.h"

#include "format/catalogue.h"
#include "format/image.h"

#define IMAGE_BUFFER_SIZE (UINT64_C(1) << 20)
#define IMAGE_SLOTS_MAX (HASH_NODE_LINES_MAX * HASH_LINE_SLOTS)

struct image_writer {
    struct km_store *store;
    struct os_file *file;
    struct image_header header;
    uint64_t linear;
    km_map **maps; /* map_count of them */
    uint8_t *maps_table, *nodes_table;
    uint64_t maps_size, maps_capacity, nodes_size, nodes_capacity;
    uint64_t *counts; /* nodes of each map */
    uint64_t *lines;  /* of one node */
    uint8_t *buffer;
    uint64_t buffered, written; /* bytes; written: file offset of the buffer's begin */
};

/* ---- buffers ----------------------------------------------------------------------------- */

static km_status grow_table(const struct km_store *store, uint8_t **table, uint64_t *capacity,
                            uint64_t wanted)
{
    uint64_t larger = *capacity ? *capacity : 4096;
    uint8_t *moved;

    if (wanted <= *capacity)
        return KM_OK;
    while (larger < wanted)
        larger *= 2; /* ends: tables are bounded by memory */
    moved = km__allocate(store->allocator, larger);
    if (!moved)
        return KM_E_NO_MEMORY;
    if (*table)
        memcpy(moved, *table, *capacity);
    km__release(store->allocator, *table, *capacity);
    *table = moved;
    *capacity = larger;
    return KM_OK;
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

static km_status write_image_bytes(struct image_writer *writer, const void *bytes, uint64_t size)
{
    km_status rc = KM_OK;

    while (!rc && size > 0) {
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
    struct catalogue_entry entry = {0};
    km_status rc = grow_table(writer->store, &writer->maps_table, &writer->maps_capacity,
                              writer->maps_size + CATALOGUE_ENTRY_SIZE_MAX);

    if (rc)
        return rc;
    entry.id = map->id;
    entry.kind = (uint8_t)map->kind;
    entry.name_size = (uint8_t)map->name_size;
    entry.created = map->created;
    entry.name = map->name;
    writer->maps_size += km__catalogue_entry_encode(&entry, writer->maps_table + writer->maps_size);
    writer->maps[writer->header.map_count++] = map;
    return KM_OK;
}

static uint64_t maps_bytes(const struct km_store *store)
{
    return (store->id_count + 1u) * sizeof(km_map *);
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
    km_status rc = grow_table(writer->store, &writer->nodes_table, &writer->nodes_capacity,
                              writer->nodes_size + IMAGE_NODE_SIZE);

    if (rc)
        return rc;
    for (uint64_t i = 0; i < size / 8; i++)
        km__store64(lines + 8 * i, writer->lines[i]); /* in place: from the host's byte order */
    entry.checksum = km__image_lines_sum(lines, size, writer->header.node_count);
    km__image_node_encode(&entry, writer->nodes_table + writer->nodes_size);
    writer->nodes_size += IMAGE_NODE_SIZE;
    writer->header.node_count++;
    return write_image_bytes(writer, lines, size);
}

static km_status copy_map(struct image_writer *writer, uint32_t number)
{
    struct hash_walk walk = {0};
    uint64_t before = writer->header.node_count;

    for (;;) { /* ends with the walk */
        struct hash_image_node node;
        int is_end;
        km_status rc;

        km__epoch_enter();
        rc = km__hash_export_next(writer->maps[number]->index, &walk, &node, writer->lines,
                                  &is_end);
        km__epoch_leave();
        if (rc || is_end) {
            writer->counts[number] = writer->header.node_count - before;
            return rc;
        }
        rc = add_node(writer, &node);
        if (rc)
            return rc;
    }
}

/* ---- the file ---------------------------------------------------------------------------- */

static km_status write_table(struct image_writer *writer)
{
    struct image_header *header = &writer->header;
    static const uint8_t zeros[IMAGE_TABLE_ALIGNMENT];
    uint64_t at = writer->written + writer->buffered;
    uint32_t crc = km__crc32c(0, writer->maps_table, writer->maps_size);
    km_status rc;

    header->table_offset = km__round_up(at, IMAGE_TABLE_ALIGNMENT);
    header->table_size = writer->maps_size + header->map_count * IMAGE_COUNT_SIZE +
                         writer->nodes_size;
    rc = write_image_bytes(writer, zeros, header->table_offset - at);
    if (!rc)
        rc = write_image_bytes(writer, writer->maps_table, writer->maps_size);
    for (uint32_t i = 0; !rc && i < header->map_count; i++) {
        uint8_t count[IMAGE_COUNT_SIZE];

        km__store64(count, writer->counts[i]);
        crc = km__crc32c(crc, count, sizeof(count));
        rc = write_image_bytes(writer, count, sizeof(count));
    }
    header->table_checksum = km__crc32c(crc, writer->nodes_table, writer->nodes_size);
    if (!rc)
        rc = write_image_bytes(writer, writer->nodes_table, writer->nodes_size);
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

static km_status write_nodes(struct image_writer *writer)
{
    struct km_store *store = writer->store;
    const struct os_ops *ops = store->os->ops;
    km_status rc;

    km__ignore(ops->unlink(store->dir, IMAGE_NEW_NAME), "a leftover of a crash, or nothing");
    rc = ops->open_file(store->dir, IMAGE_NEW_NAME, OS_CREATE_NEW, &writer->file);
    writer->written = IMAGE_HEADER_SIZE;
    for (uint32_t i = 0; !rc && i < writer->header.map_count; i++)
        rc = copy_map(writer, i);
    return rc ? rc : write_table(writer);
}

static km_status init_writer(struct image_writer *writer, uint64_t table_bytes)
{
    const struct allocator *allocator = writer->store->allocator;

    writer->maps = km__allocate(allocator, table_bytes);
    writer->counts = km__allocate(allocator, table_bytes);
    writer->lines = km__allocate(allocator, IMAGE_SLOTS_MAX * sizeof(*writer->lines));
    writer->buffer = km__map_pages(allocator, IMAGE_BUFFER_SIZE);
    memcpy(writer->header.store_id, writer->store->identity.store_id, STORE_ID_SIZE);
    writer->header.layout_version = IMAGE_LAYOUT_VERSION;
    writer->header.hash_sample = km__image_hash_sample(&writer->store->secret);
    return writer->maps && writer->counts && writer->lines && writer->buffer ? KM_OK
                                                                             : KM_E_NO_MEMORY;
}

static void fini_writer(struct image_writer *writer, uint64_t table_bytes)
{
    const struct allocator *allocator = writer->store->allocator;

    km__release(allocator, writer->maps, table_bytes);
    km__release(allocator, writer->counts, table_bytes);
    km__release(allocator, writer->lines, IMAGE_SLOTS_MAX * sizeof(*writer->lines));
    km__release(allocator, writer->maps_table, writer->maps_capacity);
    km__release(allocator, writer->nodes_table, writer->nodes_capacity);
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
    uint64_t table_bytes;
    km_status rc;

    if (!store->dir)
        return KM_E_UNSUPPORTED;
    km__mutex_lock(&store->catalogue_lock);
    table_bytes = maps_bytes(store);
    rc = init_writer(&writer, table_bytes);
    if (!rc)
        rc = begin_image(&writer);
    km__mutex_unlock(&store->catalogue_lock);
    if (!rc)
        rc = write_nodes(&writer);
    if (!rc)
        rc = publish_image(&writer);
    if (!rc)
        note_written(&writer);
    else
        km__ignore(store->os->ops->unlink(store->dir, IMAGE_NEW_NAME), "the next one removes it");
    fini_writer(&writer, table_bytes);
    return rc;
}
