/* SPDX-License-Identifier: Apache-2.0
 *
 * catalogue.h -- the bytes of the file MAPS: the maps that were there at a position of the log, for
 * when the log no longer reaches back to their creation. Pure: no I/O, no allocation.
 * FORMAT.md, 11.
 *
 * The file is a header, then a table of one entry for each map, one behind the other. Read the
 * header; read the table of that size; check it; then decode its entries. Decoders are total, and
 * encoders end the process rather than write what no decoder would take (as in files.h).
 */
#ifndef KM_FORMAT_CATALOGUE_H
#define KM_FORMAT_CATALOGUE_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "format/files.h"

#define CATALOGUE_NAME "MAPS"
#define CATALOGUE_NEW_NAME "new.maps" /* while it is written */

#define CATALOGUE_HEADER_SIZE 4096u /* the table begins here */
#define CATALOGUE_ENTRY_ALIGNMENT 8u
#define CATALOGUE_ENTRY_NAME_OFFSET 24u
#define CATALOGUE_ENTRY_SIZE_MIN 32u
#define CATALOGUE_ENTRY_SIZE_MAX 280u

struct catalogue_header {
    uint8_t store_id[STORE_ID_SIZE];
    uint64_t position;       /* the table tells of all map records below and of none from here on;
                                everything below was synced before the file got its name */
    uint32_t map_count;      /* entries */
    uint32_t next_map_id;    /* ids below it have been given out; up to KM_MAP_COUNT_MAX */
    uint64_t table_size;     /* of the file behind the header */
    uint32_t table_checksum; /* CRC-32C of the table */
};

struct catalogue_entry {
    uint16_t id;
    uint8_t kind;        /* 1 to 3: a km_map_kind */
    uint8_t name_size;   /* 1 or more */
    uint64_t created;    /* position of its map-created record */
    uint64_t dropped;    /* position of its map-dropped record; 0: none */
    const uint8_t *name; /* lies in what was decoded */
};

void km__catalogue_header_encode(const struct catalogue_header *header,
                                 uint8_t bytes[CATALOGUE_HEADER_SIZE]);
km_status km__catalogue_header_decode(const uint8_t bytes[CATALOGUE_HEADER_SIZE],
                                      struct catalogue_header *out);

static inline size_t km__catalogue_entry_size(uint8_t name_size)
{
    return (size_t)km__round_up(CATALOGUE_ENTRY_NAME_OFFSET + (uint64_t)name_size,
                                CATALOGUE_ENTRY_ALIGNMENT);
}

/* Write an entry to `to`, which has room for it, and return its size. */
size_t km__catalogue_entry_encode(const struct catalogue_entry *entry, uint8_t *to);

/* Decode the entry at `bytes`, of which `available` may be read. KM_OK, with *out and *out_size
 * set, or KM_E_CORRUPT. */
km_status km__catalogue_entry_decode(const uint8_t *bytes, size_t available,
                                     struct catalogue_entry *out, size_t *out_size);

/* What the entries of a table have to agree with: fields of its header. */
struct catalogue_bounds {
    uint64_t position;
    uint32_t map_count;
    uint32_t next_map_id;
};

/* Whether `size` bytes are exactly map_count entries, ids ascending and below next_map_id, records
 * below position: KM_OK or KM_E_CORRUPT. An index image has entries of the same form. */
km_status km__catalogue_entries_check(const uint8_t *entries, uint64_t size,
                                      const struct catalogue_bounds *bounds);

/* Verify a table, of which header->table_size bytes may be read: KM_OK or KM_E_CORRUPT. That no two
 * maps that are there have one name is not looked at: who builds the maps notices. */
km_status km__catalogue_table_check(const struct catalogue_header *header, const uint8_t *table);

#endif
