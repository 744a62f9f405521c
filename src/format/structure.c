/* SPDX-License-Identifier: Apache-2.0
 *
 * structure.c -- the head, the checksum and the unused bytes of every structure.
 *
 * I1. Nothing but the magic is believed before the checksum was right: a damaged version number is
 *     damage, not a newer format. So every version keeps the first 40 bytes and the 4096 bytes
 *     that are summed.
 */
#include "format/structure.h"

#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "format/record.h"

#define STRUCTURE_MAGIC_SIZE 8
#define STRUCTURE_VERSION 8
#define STRUCTURE_INCOMPATIBLE 12
#define STRUCTURE_COMPATIBLE 16
#define STRUCTURE_CHECKSUM 20

static uint32_t sum_structure(const uint8_t *bytes)
{
    static const uint8_t zeros[4];
    uint32_t crc = km__crc32c(0, bytes, STRUCTURE_CHECKSUM);

    crc = km__crc32c(crc, zeros, sizeof(zeros));
    return km__crc32c(crc, bytes + STRUCTURE_STORE_ID, STRUCTURE_SIZE - STRUCTURE_STORE_ID);
}

void km__structure_begin(uint8_t *bytes, const char *magic, const uint8_t *store_id)
{
    memset(bytes, 0, STRUCTURE_SIZE);
    memcpy(bytes, magic, STRUCTURE_MAGIC_SIZE);
    km__store32(bytes + STRUCTURE_VERSION, FORMAT_VERSION);
    memcpy(bytes + STRUCTURE_STORE_ID, store_id, STORE_ID_SIZE);
}

void km__structure_end(uint8_t *bytes)
{
    km__store32(bytes + STRUCTURE_CHECKSUM, sum_structure(bytes));
}

int km__structure_is_zero(const uint8_t *bytes, size_t size)
{
    uint8_t seen = 0;

    for (size_t i = 0; i < size; i++)
        seen |= bytes[i];
    return seen == 0;
}

km_status km__structure_check(const uint8_t *bytes, const char *magic, size_t used_size)
{
    uint32_t version = km__load32(bytes + STRUCTURE_VERSION);

    if (memcmp(bytes, magic, STRUCTURE_MAGIC_SIZE) != 0)
        return KM_E_CORRUPT;
    if (km__load32(bytes + STRUCTURE_CHECKSUM) != sum_structure(bytes) || version == 0)
        return KM_E_CORRUPT;
    if (version > FORMAT_VERSION || km__load32(bytes + STRUCTURE_INCOMPATIBLE) != 0)
        return KM_E_VERSION;
    /* a compatible feature may have put something there that we do not need to know */
    if (km__load32(bytes + STRUCTURE_COMPATIBLE) == 0 &&
        !km__structure_is_zero(bytes + used_size, STRUCTURE_SIZE - used_size))
        return KM_E_CORRUPT;
    return KM_OK;
}

int km__position_is_record(uint64_t position)
{
    uint32_t offset = km__position_offset(position);

    return km__position_number(position) >= 1 && offset >= SEGMENT_HEADER_SIZE &&
           offset <= SEGMENT_SIZE_MAX && offset % RECORD_ALIGNMENT == 0;
}
