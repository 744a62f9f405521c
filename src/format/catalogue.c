/* SPDX-License-Identifier: Apache-2.0
 *
 * catalogue.c -- encode, decode and verify the header, the entries and the table of MAPS.
 *
 * I1. What is encoded decodes to the same; what decodes encodes to the same bytes, unless the
 *     header has compatible features that this version does not know.
 * I2. Of a header that decoded, table_size is bounded by map_count, and that by KM_MAP_COUNT_MAX:
 *     a reader may allocate what it asks for (18 MiB at most).
 */
#include "format/catalogue.h"

#include <string.h>

#include "base/assert.h"
#include "base/crc32c.h"
#include "format/structure.h"

#define CATALOGUE_POSITION 40
#define CATALOGUE_MAP_COUNT 48
#define CATALOGUE_NEXT_MAP_ID 52
#define CATALOGUE_TABLE_SIZE 56
#define CATALOGUE_TABLE_CHECKSUM 64
#define CATALOGUE_USED 68

#define CATALOGUE_ENTRY_ID 0
#define CATALOGUE_ENTRY_KIND 2
#define CATALOGUE_ENTRY_ZERO 3
#define CATALOGUE_ENTRY_NAME_SIZE 4 /* of two bytes, the upper one 0, and two zero bytes behind */
#define CATALOGUE_ENTRY_CREATED 8
#define CATALOGUE_ENTRY_DROPPED 16

_Static_assert(CATALOGUE_HEADER_SIZE == STRUCTURE_SIZE, "all structures are of one size");
_Static_assert(KM_MAP_NAME_SIZE_MAX == UINT8_MAX, "the size of a name fits in its field");
_Static_assert(CATALOGUE_ENTRY_SIZE_MAX == CATALOGUE_ENTRY_NAME_OFFSET + KM_MAP_NAME_SIZE_MAX + 1,
               "the largest entry, padded");
_Static_assert(KM_MAP_COUNT_MAX <= UINT16_MAX, "map ids, and the count of maps, fit in 16 bits");

static const char catalogue_magic[] = "KMMAPSF1";

/* ---- the header -------------------------------------------------------------------------- */

static int catalogue_header_is_sane(const struct catalogue_header *header)
{
    if (!km__position_is_record(header->position) || header->next_map_id > KM_MAP_COUNT_MAX ||
        header->map_count > header->next_map_id)
        return 0;
    return header->table_size % CATALOGUE_ENTRY_ALIGNMENT == 0 &&
           header->table_size >= (uint64_t)header->map_count * CATALOGUE_ENTRY_SIZE_MIN &&
           header->table_size <= (uint64_t)header->map_count * CATALOGUE_ENTRY_SIZE_MAX;
}

void km__catalogue_header_encode(const struct catalogue_header *header,
                                 uint8_t bytes[CATALOGUE_HEADER_SIZE])
{
    KM_ASSERT(catalogue_header_is_sane(header));
    km__structure_begin(bytes, catalogue_magic, header->store_id);
    km__store64(bytes + CATALOGUE_POSITION, header->position);
    km__store32(bytes + CATALOGUE_MAP_COUNT, header->map_count);
    km__store32(bytes + CATALOGUE_NEXT_MAP_ID, header->next_map_id);
    km__store64(bytes + CATALOGUE_TABLE_SIZE, header->table_size);
    km__store32(bytes + CATALOGUE_TABLE_CHECKSUM, header->table_checksum);
    km__structure_end(bytes);
}

km_status km__catalogue_header_decode(const uint8_t bytes[CATALOGUE_HEADER_SIZE],
                                      struct catalogue_header *out)
{
    km_status rc = km__structure_check(bytes, catalogue_magic, CATALOGUE_USED);
    struct catalogue_header header;

    if (rc)
        return rc;
    memcpy(header.store_id, bytes + STRUCTURE_STORE_ID, STORE_ID_SIZE);
    header.position = km__load64(bytes + CATALOGUE_POSITION);
    header.map_count = km__load32(bytes + CATALOGUE_MAP_COUNT);
    header.next_map_id = km__load32(bytes + CATALOGUE_NEXT_MAP_ID);
    header.table_size = km__load64(bytes + CATALOGUE_TABLE_SIZE);
    header.table_checksum = km__load32(bytes + CATALOGUE_TABLE_CHECKSUM);
    if (!catalogue_header_is_sane(&header))
        return KM_E_CORRUPT;
    *out = header;
    return KM_OK;
}

/* ---- entries ----------------------------------------------------------------------------- */

static int catalogue_entry_is_sane(const struct catalogue_entry *entry)
{
    if (entry->id >= KM_MAP_COUNT_MAX || entry->name_size == 0 || entry->kind < KM_HASH ||
        entry->kind > KM_SORTED || !km__position_is_record(entry->created))
        return 0;
    return entry->dropped == 0 ||
           (km__position_is_record(entry->dropped) && entry->dropped > entry->created);
}

size_t km__catalogue_entry_encode(const struct catalogue_entry *entry, uint8_t *to)
{
    size_t size = km__catalogue_entry_size(entry->name_size);

    KM_ASSERT(catalogue_entry_is_sane(entry));
    memset(to, 0, size);
    km__store16(to + CATALOGUE_ENTRY_ID, entry->id);
    to[CATALOGUE_ENTRY_KIND] = entry->kind;
    to[CATALOGUE_ENTRY_NAME_SIZE] = entry->name_size;
    km__store64(to + CATALOGUE_ENTRY_CREATED, entry->created);
    km__store64(to + CATALOGUE_ENTRY_DROPPED, entry->dropped);
    memcpy(to + CATALOGUE_ENTRY_NAME_OFFSET, entry->name, entry->name_size);
    return size;
}

km_status km__catalogue_entry_decode(const uint8_t *bytes, size_t available,
                                     struct catalogue_entry *out, size_t *out_size)
{
    struct catalogue_entry entry;
    size_t size, name_end;

    if (available < CATALOGUE_ENTRY_SIZE_MIN)
        return KM_E_CORRUPT;
    entry.id = km__load16(bytes + CATALOGUE_ENTRY_ID);
    entry.kind = bytes[CATALOGUE_ENTRY_KIND];
    entry.name_size = bytes[CATALOGUE_ENTRY_NAME_SIZE];
    entry.created = km__load64(bytes + CATALOGUE_ENTRY_CREATED);
    entry.dropped = km__load64(bytes + CATALOGUE_ENTRY_DROPPED);
    entry.name = bytes + CATALOGUE_ENTRY_NAME_OFFSET;
    size = km__catalogue_entry_size(entry.name_size);
    name_end = CATALOGUE_ENTRY_NAME_OFFSET + (size_t)entry.name_size;
    if (!catalogue_entry_is_sane(&entry) || size > available || bytes[CATALOGUE_ENTRY_ZERO] != 0 ||
        !km__structure_is_zero(bytes + CATALOGUE_ENTRY_NAME_SIZE + 1, 3) ||
        !km__structure_is_zero(bytes + name_end, size - name_end))
        return KM_E_CORRUPT;
    *out = entry;
    *out_size = size;
    return KM_OK;
}

/* ---- the table --------------------------------------------------------------------------- */

km_status km__catalogue_entries_check(const uint8_t *entries, uint64_t size,
                                      const struct catalogue_bounds *bounds)
{
    uint32_t id_min = 0; /* of the next entry */

    for (uint32_t i = 0; i < bounds->map_count; i++) {
        struct catalogue_entry entry;
        size_t entry_size;
        km_status rc = km__catalogue_entry_decode(entries, (size_t)size, &entry, &entry_size);

        if (rc)
            return rc;
        if (entry.id < id_min || entry.id >= bounds->next_map_id ||
            entry.created >= bounds->position || entry.dropped >= bounds->position)
            return KM_E_CORRUPT;
        id_min = entry.id + 1u;
        entries += entry_size;
        size -= entry_size;
    }
    return size == 0 ? KM_OK : KM_E_CORRUPT;
}

km_status km__catalogue_table_check(const struct catalogue_header *header, const uint8_t *table)
{
    struct catalogue_bounds bounds = {header->position, header->map_count, header->next_map_id};

    if (km__crc32c(0, table, (size_t)header->table_size) != header->table_checksum)
        return KM_E_CORRUPT;
    return km__catalogue_entries_check(table, header->table_size, &bounds);
}
