/* SPDX-License-Identifier: Apache-2.0
 *
 * store_image_load.c -- open with an index image: its table is read, its nodes are entered, and the
 * lines of a node are copied from the mapped file when the node is touched first, or by the keeper
 * in the background. So an open takes no longer for more keys of a KM_HASH map. Orders and trees
 * are entered at once (store_image_ordered.c).
 *
 * I1. Whatever is wrong with an image, it is not used, and the whole log is replayed instead. What
 *     shows only when a node is touched is mended then (store_mend.c).
 * I2. Lines are believed after their checksum was right and every reference in them leads into a
 *     segment of the log.
 */
#include "store/store_image_internal.h"

#include <stdio.h>

/* ---- loading a node ---------------------------------------------------------------------- */

int km__image_ref_is_sound(const struct km_store *store, uint64_t ref)
{
    const struct log_slot *log_slot;

    if (ref == 0 || ref >= LOG_PLACEHOLDER_BASE)
        return 0;
    log_slot = km__log_slot_of(store->view, ref);
    /* relaxed: the segments of an image were mapped before its nodes were entered */
    return atomic_load_explicit(&log_slot->base, memory_order_relaxed) != 0 &&
           km__log_offset_of(ref) >= SEGMENT_HEADER_SIZE &&
           km__log_offset_of(ref) + RECORD_HEADER_SIZE <=
               (uint64_t)log_slot->units * RECORD_ALIGNMENT;
}

static int slot_is_sound(const struct km_store *store, uint64_t slot)
{
    uint64_t ref = slot & HASH_REF_MASK;

    return ref == 0 || km__image_ref_is_sound(store, ref);
}

static km_status load_image_lines(void *context, uint64_t number, uint64_t *lines,
                                  size_t slot_count)
{
    struct km_store *store = context;
    struct image *image = &store->image;
    const uint8_t *from = image->mapping + image->line_offsets[number];
    int is_sound = km__image_lines_sum(from, slot_count * 8, number) == image->checksums[number];

    for (size_t i = 0; is_sound && i < slot_count; i++) {
        lines[i] = km__load64(from + 8 * i);
        is_sound = slot_is_sound(store, lines[i]);
    }
    return is_sound ? KM_OK : KM_E_CORRUPT;
}

/* ---- entering nodes ---------------------------------------------------------------------- */

static void take_node(struct image_reader *reader, const struct image_node *entry,
                      struct hash_image_node *out)
{
    struct image *image = &reader->store->image;

    image->line_offsets[reader->number] = reader->data_offset;
    image->checksums[reader->number] = entry->checksum;
    reader->number++;
    reader->data_offset += km__image_lines_size(entry);
    out->prefix = entry->prefix;
    out->weight = entry->weight;
    out->count = entry->count;
    out->flagged_count = entry->flagged_count;
    out->partition = entry->partition;
    out->depth = entry->depth;
    out->line_bits = entry->line_bits;
    out->tag_bits = entry->tag_bits;
}

static km_status enter_nodes(struct image_reader *reader, km_map *map, uint64_t count)
{
    const uint8_t *entries = reader->bytes + reader->header.table_offset +
                             reader->table.nodes_offset;
    uint64_t first = reader->number;
    struct image_node entry;
    km_status rc = KM_OK;

    for (uint64_t i = 0; !rc && i < count; i++) {
        rc = km__image_node_decode(entries + reader->number * IMAGE_NODE_SIZE, &entry);
        if (!rc)
            take_node(reader, &entry, &reader->nodes[i]);
    }
    return rc ? rc
              : km__hash_import(map->index, reader->nodes, count, first,
                                &reader->store->image.source);
}

static km_status counts_of(const struct image_reader *reader, uint32_t map_index,
                           struct image_counts *out)
{
    return km__image_counts_decode(reader->bytes + reader->header.table_offset +
                                       reader->table.counts_offset +
                                       (uint64_t)map_index * IMAGE_COUNTS_SIZE,
                                   out);
}

static km_status make_maps(struct image_reader *reader)
{
    const uint8_t *table = reader->bytes + reader->header.table_offset;
    uint64_t at = 0;
    km_status rc = KM_OK;

    for (uint32_t i = 0; !rc && i < reader->header.map_count; i++) {
        struct catalogue_entry entry;
        struct map_birth birth;
        size_t size = 0;

        rc = km__catalogue_entry_decode(table + at, reader->table.maps_size - at, &entry, &size);
        if (rc)
            break;
        at += size;
        birth = (struct map_birth){entry.id, (km_map_kind)entry.kind,
                                   km_bytes_of(entry.name, entry.name_size), entry.created};
        rc = km__maps_add(reader->store, &birth, &reader->maps[i]);
    }
    if (!rc)
        km__maps_use_ids(reader->store, reader->header.next_map_id);
    return rc;
}

/* What one map has of one part of the image. */
typedef km_status (*enter_fn)(struct image_reader *reader, km_map *map,
                              const struct image_counts *counts);

static km_status enter_for_all(struct image_reader *reader, enter_fn enter)
{
    km_status rc = KM_OK;

    for (uint32_t i = 0; !rc && i < reader->header.map_count; i++) {
        struct image_counts counts;

        rc = counts_of(reader, i, &counts);
        if (!rc)
            rc = enter(reader, reader->maps[i], &counts);
    }
    return rc;
}

static km_status enter_image_map(struct image_reader *reader, km_map *map,
                                 const struct image_counts *counts)
{
    /* relaxed: nobody else is there yet */
    atomic_store_explicit(&map->has_expiry, counts->has_expiry, memory_order_relaxed);
    return map->kind == KM_SORTED ? KM_OK : enter_nodes(reader, map, counts->node_count);
}

static km_status enter_order(struct image_reader *reader, km_map *map,
                             const struct image_counts *counts)
{
    return map->kind == KM_INSERTION ? km__image_enter_order(reader, map, counts) : KM_OK;
}

static km_status enter_tree(struct image_reader *reader, km_map *map,
                            const struct image_counts *counts)
{
    return map->kind == KM_SORTED ? km__image_enter_tree(reader, map, counts) : KM_OK;
}

/* Part by part, as their data lie in the file. */
static km_status enter_maps(struct image_reader *reader)
{
    km_status rc = make_maps(reader);

    if (!rc)
        rc = enter_for_all(reader, enter_image_map);
    if (!rc)
        rc = enter_for_all(reader, enter_order);
    if (!rc)
        rc = enter_for_all(reader, enter_tree);
    return rc;
}

static uint64_t reader_maps_bytes(const struct image_reader *reader)
{
    return (reader->header.map_count + UINT64_C(1)) * sizeof(km_map *);
}

static uint64_t reader_nodes_bytes(const struct image_reader *reader)
{
    return (reader->header.node_count + 1) * sizeof(struct hash_image_node);
}

static km_status allocate_tables(struct image_reader *reader)
{
    struct image *image = &reader->store->image;
    const struct allocator *allocator = reader->store->allocator;
    uint64_t count = reader->header.node_count;

    image->node_count = count;
    image->line_offsets = km__allocate(allocator, (count + 1) * sizeof(*image->line_offsets));
    image->checksums = km__allocate(allocator, (count + 1) * sizeof(*image->checksums));
    reader->nodes = km__allocate(allocator, reader_nodes_bytes(reader));
    reader->maps = km__allocate(allocator, reader_maps_bytes(reader));
    return image->line_offsets && image->checksums && reader->nodes && reader->maps
               ? KM_OK
               : KM_E_NO_MEMORY;
}

/* ---- the file ---------------------------------------------------------------------------- */

static km_status read_image_header(struct image_reader *reader, struct os_file *file)
{
    struct km_store *store = reader->store;
    uint8_t *bytes = km__allocate(store->allocator, IMAGE_HEADER_SIZE);
    struct image_header *header = &reader->header;
    km_status rc = bytes ? store->os->ops->file_size(file, &reader->size) : KM_E_NO_MEMORY;

    if (!rc && reader->size < IMAGE_HEADER_SIZE)
        rc = KM_E_CORRUPT;
    if (!rc)
        rc = store->os->ops->read_at(file, 0, bytes, IMAGE_HEADER_SIZE);
    if (!rc)
        rc = km__image_header_decode(bytes, header);
    km__release(store->allocator, bytes, IMAGE_HEADER_SIZE);
    if (!rc && memcmp(header->store_id, store->identity.store_id, STORE_ID_SIZE) != 0)
        rc = KM_E_CORRUPT;
    return rc;
}

/* Whether the image is one of the log as it is now. */
static km_status fit_to_log(struct image_reader *reader, uint64_t head, uint32_t *out_index)
{
    const struct image_header *header = &reader->header;

    if (header->layout_version != IMAGE_LAYOUT_VERSION ||
        header->hash_sample != km__image_hash_sample(&reader->store->secret))
        return KM_E_VERSION;
    if (header->head_number < km__position_number(head) || header->position < head)
        return KM_E_TOO_OLD;
    if (km__image_file_size(header) != reader->size ||
        km__image_table_locate(header, &reader->table))
        return KM_E_CORRUPT;
    return km__log_skip_to(reader->store->log, header->position, out_index);
}

static km_status use_image(struct image_reader *reader, struct os_file *file, uint64_t head,
                           uint32_t *out_index)
{
    struct km_store *store = reader->store;
    struct image *image = &store->image;
    km_status rc = read_image_header(reader, file);

    if (rc)
        return rc;
    km__log_see_durable(store->log, reader->header.durable); /* true whatever becomes of the rest */
    rc = store->os->ops->map_read(file, reader->size, &reader->bytes);
    if (rc)
        return rc;
    image->mapping = reader->bytes;
    image->mapping_size = reader->size;
    image->source.load = load_image_lines;
    image->source.context = store;
    if (km__image_file_size(&reader->header) != reader->size)
        return KM_E_CORRUPT;
    rc = km__image_table_check(&reader->header, reader->bytes + reader->header.table_offset);
    if (!rc)
        rc = fit_to_log(reader, head, out_index);
    if (!rc)
        rc = allocate_tables(reader);
    reader->data_offset = IMAGE_HEADER_SIZE;
    return rc ? rc : enter_maps(reader);
}

static void note_unused(const struct km_store *store, km_status rc)
{
    char line[160];

    if (!store->options.log)
        return;
    snprintf(line, sizeof(line), "%s is of no use (%s): the whole log is replayed", IMAGE_NAME,
             km_status_name(rc));
    store->options.log(store->options.log_context, KM_LOG_WARNING, line);
}

km_status km__image_load(struct km_store *store, uint64_t head, uint32_t *out_index)
{
    struct image_reader reader = {.store = store};
    struct os_file *file = NULL;
    uint32_t index = 0;
    km_status rc;

    *out_index = 0;
    if (store->is_checked_whole || store->is_image_refused)
        return KM_OK;
    rc = store->os->ops->open_file(store->dir, IMAGE_NAME, OS_OPEN_READ, &file);
    if (rc == KM_NOT_FOUND)
        return KM_OK;
    if (!rc)
        rc = use_image(&reader, file, head, &index);
    store->os->ops->close_file(file);
    km__release(store->allocator, reader.nodes, reader_nodes_bytes(&reader));
    km__release(store->allocator, reader.maps, reader_maps_bytes(&reader));
    if (rc) {
        note_unused(store, rc);
        km__image_close(store);
        km__log_skip_nothing(store->log);
        return km__maps_reset(store);
    }
    store->image.head_number = reader.header.head_number;
    atomic_store_explicit(&store->image.linear, km__log_linear(store->log, reader.header.position),
                          memory_order_relaxed);
    atomic_store_explicit(&store->image.bytes, reader.size, memory_order_relaxed);
    *out_index = index;
    return KM_OK;
}

/* ---- afterwards -------------------------------------------------------------------------- */

void km__image_close(struct km_store *store)
{
    struct image *image = &store->image;

    if (image->mapping)
        store->os->ops->unmap(store->os, image->mapping, image->mapping_size);
    km__release(store->allocator, image->line_offsets,
                (image->node_count + 1) * sizeof(*image->line_offsets));
    km__release(store->allocator, image->checksums,
                (image->node_count + 1) * sizeof(*image->checksums));
    image->mapping = NULL;
    image->line_offsets = NULL;
    image->checksums = NULL;
}

/* Load nodes of one map; 1 if none of it is left. */
static int load_some_of(struct km_store *store, km_map *map, uint32_t *budget)
{
    struct hash_walk walk = {0};
    int is_end = 0;
    km_status rc = KM_OK;

    while (!rc && !is_end && *budget && km__hash_not_loaded_count(map->index)) {
        km__epoch_enter();
        rc = km__hash_load_next(map->index, &walk, &is_end);
        km__epoch_leave();
        --*budget;
    }
    if (rc == KM_E_CORRUPT) {
        km__note_image_damage(store);
        km__ignore(km__mend_index(store), "who touches the node gets the error");
    }
    return rc || km__hash_not_loaded_count(map->index) == 0; /* after an error: not at once again */
}

static uint64_t not_loaded_count(struct km_store *store)
{
    uint64_t count = 0;

    for (uint32_t id = 0; id < km__maps_id_count(store); id++) {
        const km_map *map = km__maps_by_id(store, (uint16_t)id);

        count += map ? km__hash_not_loaded_count(map->index) : 0;
    }
    return count;
}

int km__image_load_some(struct km_store *store, uint32_t budget)
{
    int is_done = 1;

    if (!store->image.mapping)
        return 1;
    for (uint32_t id = 0; id < km__maps_id_count(store); id++) {
        km_map *map = km__maps_by_id(store, (uint16_t)id);

        if (map && !load_some_of(store, map, &budget))
            is_done = 0;
    }
    if (is_done && not_loaded_count(store) == 0) /* nobody asks it for lines any more */
        km__image_close(store);
    return is_done;
}
