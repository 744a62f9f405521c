/* SPDX-License-Identifier: Apache-2.0
 *
 * store_catalogue.c -- the file MAPS: the maps whose map-created record has left the log.
 *
 * I1. MAPS is durable, and of a position not before the new head, before the head moves.
 * I2. A map that was dropped stays in MAPS until its map-dropped record is behind the head that
 *     MARKS names: whichever of two heads a crash leaves, every record of the log has its map.
 */
#include "store/store_internal.h"

#include "format/catalogue.h"

#define FIRST_SEGMENT 1u /* of every store */

/* ---- writing ----------------------------------------------------------------------------- */

/* Of a log from `head` to `position`. */
struct catalogue_span {
    uint64_t head, position;
};

static int is_told(const km_map *map, const struct catalogue_span *span)
{
    return map && map->created < span->position &&
           (!map->dropped_position || map->dropped_position >= span->head);
}

static void measure_table(const struct km_store *store, const struct catalogue_span *span,
                          struct catalogue_header *header)
{
    for (uint32_t id = 0; id < store->id_count; id++) {
        const km_map *map = store->by_id[id];

        if (map && map->created >= span->position && id < header->next_map_id)
            header->next_map_id = id; /* ids grow with time */
        if (!is_told(map, span))
            continue;
        header->table_size += km__catalogue_entry_size((uint8_t)map->name_size);
        header->map_count++;
    }
}

static void encode_table(const struct km_store *store, const struct catalogue_span *span,
                         uint8_t *table)
{
    for (uint32_t id = 0; id < store->id_count; id++) {
        const km_map *map = store->by_id[id];
        struct catalogue_entry entry = {0};

        if (!is_told(map, span))
            continue;
        entry.id = map->id;
        entry.kind = (uint8_t)map->kind;
        entry.name_size = (uint8_t)map->name_size;
        entry.created = map->created;
        if (map->dropped_position < span->position)
            entry.dropped = map->dropped_position;
        entry.name = map->name;
        table += km__catalogue_entry_encode(&entry, table);
    }
}

/* The whole file. Under catalogue_lock. */
static km_status encode_catalogue(struct km_store *store, const struct catalogue_span *span,
                                  uint8_t **out_bytes, size_t *out_size)
{
    struct catalogue_header header = {{0}, 0, 0, 0, 0, 0};
    uint8_t *bytes;

    header.position = span->position;
    header.next_map_id = store->id_count;
    measure_table(store, span, &header);
    *out_size = CATALOGUE_HEADER_SIZE + (size_t)header.table_size;
    bytes = km__allocate(store->allocator, *out_size);
    *out_bytes = bytes;
    if (!bytes)
        return KM_E_NO_MEMORY;
    encode_table(store, span, bytes + CATALOGUE_HEADER_SIZE);
    header.table_checksum = km__crc32c(0, bytes + CATALOGUE_HEADER_SIZE, header.table_size);
    memcpy(header.store_id, store->identity.store_id, STORE_ID_SIZE);
    km__catalogue_header_encode(&header, bytes);
    return KM_OK;
}

km_status km__catalogue_encode(struct km_store *store, uint64_t head, uint64_t position,
                               uint8_t **out_bytes, size_t *out_size)
{
    struct catalogue_span span = {head, position};
    km_status rc;

    km__mutex_lock(&store->catalogue_lock); /* whoever logged a map record has entered it now */
    rc = encode_catalogue(store, &span, out_bytes, out_size);
    km__mutex_unlock(&store->catalogue_lock);
    return rc;
}

km_status km__catalogue_write(struct km_store *store)
{
    struct catalogue_span span;
    uint8_t *bytes = NULL;
    size_t size = 0;
    km_status rc;

    if (!store->dir)
        return KM_OK;
    km__mutex_lock(&store->catalogue_lock); /* nothing changes the catalogue meanwhile */
    span.head = km__position(km__log_head_number(store->log), SEGMENT_HEADER_SIZE);
    span.position = km__log_complete(store->log);
    rc = encode_catalogue(store, &span, &bytes, &size);
    km__mutex_unlock(&store->catalogue_lock);
    if (!rc) /* what it tells of must not be lost by a power cut that leaves MAPS */
        rc = km__log_sync(store->log);
    if (!rc)
        rc = km__write_file(store, CATALOGUE_NAME, bytes, size, NULL);
    if (!rc)
        rc = store->os->ops->sync_dir(store->dir);
    if (!rc)
        store->keeper.maps_position = span.position;
    km__release(store->allocator, bytes, size);
    return rc;
}

/* ---- loading ----------------------------------------------------------------------------- */

static km_status damaged(km_status rc, km_error *error)
{
    return km__fail(error, rc, CATALOGUE_NAME, 0, 0,
                    rc == KM_E_VERSION ? "written by a newer version: upgrade the library"
                                       : "the file is damaged: run `keepmap salvage`, or restore "
                                         "a backup");
}

static km_status add_entries(struct km_store *store, uint64_t head,
                             const struct catalogue_header *header, const uint8_t *table)
{
    uint64_t at = 0;
    km_status rc = KM_OK;

    while (!rc && at < header->table_size) { /* ends: entries have a size */
        struct catalogue_entry entry;
        struct map_birth birth;
        size_t size = 0;
        km_map *map;

        rc = km__catalogue_entry_decode(table + at, header->table_size - at, &entry, &size);
        at += size;
        if (rc || entry.created >= head || (entry.dropped && entry.dropped < head))
            continue; /* the log tells of it, or it is gone for good */
        birth = (struct map_birth){entry.id, (km_map_kind)entry.kind,
                                   km_bytes_of(entry.name, entry.name_size), entry.created};
        rc = km__maps_add(store, &birth, &map);
    }
    return rc;
}

static km_status use_catalogue(struct km_store *store, uint64_t head, const uint8_t *bytes,
                               size_t size)
{
    struct catalogue_header header;
    const uint8_t *table = bytes + CATALOGUE_HEADER_SIZE;
    km_status rc = size < CATALOGUE_HEADER_SIZE ? KM_E_CORRUPT
                                                : km__catalogue_header_decode(bytes, &header);

    if (!rc && (header.table_size != size - CATALOGUE_HEADER_SIZE ||
                memcmp(header.store_id, store->identity.store_id, STORE_ID_SIZE) != 0))
        rc = KM_E_CORRUPT;
    if (!rc)
        rc = km__catalogue_table_check(&header, table);
    if (!rc && header.position < head)
        rc = KM_E_CORRUPT; /* an older one was put in its place */
    if (!rc)
        km__log_see_durable(store->log, header.position);
    if (!rc)
        rc = add_entries(store, head, &header, table);
    if (!rc) {
        km__maps_use_ids(store, header.next_map_id);
        store->keeper.maps_position = header.position;
        store->catalogue_ids = header.next_map_id;
    }
    return rc;
}

km_status km__catalogue_load(struct km_store *store, uint64_t head, km_error *error)
{
    uint8_t *bytes = NULL;
    size_t size = 0;
    km_status rc = km__read_whole_file(store, CATALOGUE_NAME, &bytes, &size, error);

    if (rc == KM_NOT_FOUND && km__position_number(head) == FIRST_SEGMENT)
        return KM_OK; /* the log is whole */
    if (rc == KM_NOT_FOUND)
        return km__fail(error, KM_E_CORRUPT, CATALOGUE_NAME, 0, 0,
                        "the file is missing: run `keepmap salvage`, or restore a backup");
    if (rc)
        return rc;
    rc = use_catalogue(store, head, bytes, size);
    km__release(store->allocator, bytes, size);
    return rc == KM_E_CORRUPT || rc == KM_E_VERSION ? damaged(rc, error) : rc;
}
