/* SPDX-License-Identifier: Apache-2.0
 *
 * image_format_util.h -- what the tests of MAPS and of index.image share: files in memory, entries
 * of maps, fields that are set to what they should not be.
 */
#ifndef KM_TEST_UNIT_IMAGE_FORMAT_UTIL_H
#define KM_TEST_UNIT_IMAGE_FORMAT_UTIL_H

#include "base/bytes.h"
#include "base/crc32c.h"
#include "format/catalogue.h"
#include "unit/format_util.h"

#define FORMAT_MD "docs/FORMAT.md"
#define GOLDEN "test/golden/format1.txt"
#define HEADER 4096u
#define FILE_SIZE_MAX 65536u
#define AT(number, offset) ((uint64_t)(number) << 32 | (offset))

/* A file as it would lie on disk. */
struct file {
    uint8_t bytes[FILE_SIZE_MAX];
    size_t size;
};

static inline void seal_header(uint8_t *bytes)
{
    km__store32(bytes + 20, 0);
    km__store32(bytes + 20, km__crc32c(0, bytes, HEADER));
}

/* In memory of exactly that size, so that a read past the end is seen. */
static inline uint8_t *copy_bytes(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);

    assert_non_null(copy);
    memcpy(copy, bytes, size);
    return copy;
}

/* The whole of MAPS: header, size of the file, table. */
static inline km_status read_maps(const struct file *file, struct catalogue_header *out)
{
    km_status rc = km__catalogue_header_decode(file->bytes, out);
    uint8_t *table;

    if (rc)
        return rc;
    if (file->size != CATALOGUE_HEADER_SIZE + out->table_size)
        return KM_E_CORRUPT;
    table = copy_bytes(file->bytes + CATALOGUE_HEADER_SIZE, out->table_size);
    rc = km__catalogue_table_check(out, table);
    free(table);
    return rc;
}

static const uint8_t some_name[] = "a name of some length, up to the 255 bytes that one may have. "
                                   "a name of some length, up to the 255 bytes that one may have. "
                                   "a name of some length, up to the 255 bytes that one may have. "
                                   "a name of some length, up to the 255 bytes that one may have. "
                                   "and so on";
_Static_assert(sizeof(some_name) > KM_MAP_NAME_SIZE_MAX, "long enough");

/* An entry of a table whose position is in segment 100 or above. */
static inline struct catalogue_entry make_entry(uint16_t id, int may_be_dropped)
{
    struct catalogue_entry entry = {.id = id, .name = some_name};

    entry.kind = (uint8_t)(1 + random_below(3));
    entry.name_size = (uint8_t)(1 + random_below(255));
    entry.created = AT(1 + random_below(40), 4096 + 8 * random_below(1000));
    if (may_be_dropped && random_below(2))
        entry.dropped = entry.created + 8 * (1 + random_below(1000));
    return entry;
}

static inline void finish_maps(struct file *file, struct catalogue_header *header)
{
    header->table_size = file->size - CATALOGUE_HEADER_SIZE;
    header->table_checksum = km__crc32c(0, file->bytes + CATALOGUE_HEADER_SIZE, header->table_size);
    km__catalogue_header_encode(header, file->bytes);
}

static inline void make_maps(struct file *file, struct catalogue_header *header,
                             const struct catalogue_entry *entries, uint32_t count)
{
    file->size = CATALOGUE_HEADER_SIZE;
    for (uint32_t i = 0; i < count; i++)
        file->size += km__catalogue_entry_encode(&entries[i], file->bytes + file->size);
    header->map_count = count;
    finish_maps(file, header);
}

static inline struct catalogue_header some_catalogue_header(void)
{
    struct catalogue_header header = {.position = AT(100, 4104), .next_map_id = 1000};

    random_fill(header.store_id, STORE_ID_SIZE);
    return header;
}

/* A value put into a field of a sound header, under a right checksum. */
struct field_case {
    size_t offset, size;
    uint64_t value;
    km_status status;
};

static inline void store_field(uint8_t *bytes, const struct field_case *field)
{
    if (field->size == 8)
        km__store64(bytes + field->offset, field->value);
    else if (field->size == 4)
        km__store32(bytes + field->offset, (uint32_t)field->value);
    else if (field->size == 2)
        km__store16(bytes + field->offset, (uint16_t)field->value);
    else
        bytes[field->offset] = (uint8_t)field->value;
}

static inline void read_block(const char *path, const char *name, struct file *out)
{
    memset(out, 0, sizeof(*out));
    out->size = hex_block(path, name, out->bytes, sizeof(out->bytes));
    assert_int_not_equal(out->size, 0);
}

static inline void count_up(uint8_t *bytes, size_t size, uint8_t first)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(first + i);
}

#endif
