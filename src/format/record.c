/* SPDX-License-Identifier: Apache-2.0
 *
 * record.c -- encode and verify one record.
 *
 * I1. What is encoded passes the decoder, if the payload is as the kind asks; what passes the
 *     decoder encodes to the same bytes.
 * I2. Sizes are held against what may be read before the checksum is taken over them, and nothing
 *     else is believed before the checksum was right.
 */
#include "format/record.h"

#include "base/assert.h"
#include "keepmap/keepmap.h"

#define RECORD_FIELDS_SIZE_MAX 24u
#define RECORD_PLACE_SIZE 16u

/* What a record of each kind may have: FORMAT.md, R4. No record fits that of kind 0. */
struct record_shape {
    uint32_t value_size_min, value_size_max;
    uint16_t key_size_min, key_size_max;
    uint16_t map_max;
    uint8_t flags;
};

#define RECORD_ANY_VALUE 0, KM_VALUE_SIZE_MAX
#define RECORD_ANY_KEY 0, KM_KEY_SIZE_MAX
#define RECORD_ANY_MAP 0xffff
#define RECORD_FLAGS_MOVABLE (RECORD_MORE_FOLLOWS | RECORD_RELOCATED)

static const struct record_shape record_shapes[RECORD_KIND_MAX + 1] = {
    [0] = {1, 0, 0, 0, 0, 0},
    [RECORD_PUT] = {RECORD_ANY_VALUE, RECORD_ANY_KEY, RECORD_ANY_MAP, RECORD_FLAGS_ALL},
    [RECORD_DELETE] = {0, 0, RECORD_ANY_KEY, RECORD_ANY_MAP, RECORD_FLAGS_MOVABLE},
    [RECORD_MAP_CREATED] = {1, 1, 1, KM_MAP_NAME_SIZE_MAX, RECORD_ANY_MAP, RECORD_FLAGS_MOVABLE},
    [RECORD_MAP_DROPPED] = {0, 0, 0, 0, RECORD_ANY_MAP, RECORD_FLAGS_MOVABLE},
    [RECORD_MAP_CLEARED] = {0, 0, 0, 0, RECORD_ANY_MAP, RECORD_FLAGS_MOVABLE},
    [RECORD_MARK] = {8, 8, 0, 0, 0, 0},
    [RECORD_PADDING] = {RECORD_ANY_VALUE, 0, 0, 0, 0},
    [RECORD_RANGE_DELETED] = {1, 1 + KM_KEY_SIZE_MAX, RECORD_ANY_KEY, RECORD_ANY_MAP,
                              RECORD_FLAGS_MOVABLE},
};

static int record_has_shape(const struct record *record)
{
    const struct record_shape *shape = &record_shapes[record->kind];

    return record->value_size >= shape->value_size_min &&
           record->value_size <= shape->value_size_max && record->key_size >= shape->key_size_min &&
           record->key_size <= shape->key_size_max && record->map <= shape->map_max &&
           (record->flags & ~shape->flags) == 0;
}

/* Whether a range ends as it says: the value has a byte at least. */
static int range_has_shape(const uint8_t *value, uint32_t value_size)
{
    return value[0] == RECORD_RANGE_HAS_END ||
           (value[0] == RECORD_RANGE_IS_OPEN && value_size == 1);
}

static void store_place(uint8_t bytes[RECORD_PLACE_SIZE], struct record_place place)
{
    km__store64(bytes, place.store_tag);
    km__store64(bytes + 8, place.position);
}

static uint8_t *store_field(uint8_t *p, uint64_t value, int is_present)
{
    if (!is_present)
        return p;
    km__store64(p, value);
    return p + 8;
}

uint64_t km__record_encode_header(uint8_t *p, const struct record *record, uint32_t payload_crc,
                                  struct record_place place)
{
    uint64_t commit_word = km__record_commit_word(record);
    uint8_t summed[RECORD_HEADER_SIZE + RECORD_FIELDS_SIZE_MAX + RECORD_PLACE_SIZE];
    uint8_t *end = summed + RECORD_HEADER_SIZE;
    uint32_t crc;

    KM_ASSERT(record->kind != 0 && record->kind <= RECORD_KIND_MAX);
    KM_ASSERT(record_has_shape(record));
    km__store32(summed + 4, record->value_size);
    km__store64(summed + 8, commit_word);
    end = store_field(end, record->version, record->flags & RECORD_RELOCATED);
    end = store_field(end, record->ordinal, record->flags & RECORD_HAS_ORDINAL);
    end = store_field(end, record->expiry, record->flags & RECORD_HAS_EXPIRY);
    memcpy(p + RECORD_HEADER_SIZE, summed + RECORD_HEADER_SIZE,
           (size_t)(end - summed) - RECORD_HEADER_SIZE);
    store_place(end, place); /* beside the rest, so that one call sums both */
    end += RECORD_PLACE_SIZE;
    crc = km__crc32c(payload_crc, summed + 4, (size_t)(end - summed) - 4);
    km__store64(p, (uint64_t)crc | (uint64_t)record->value_size << 32);
    return commit_word;
}

static void decode_fields(struct record *record, const uint8_t *p)
{
    p += RECORD_HEADER_SIZE;
    if (record->flags & RECORD_RELOCATED) {
        record->version = km__load64(p);
        p += 8;
    }
    if (record->flags & RECORD_HAS_ORDINAL) {
        record->ordinal = km__load64(p);
        p += 8;
    }
    if (record->flags & RECORD_HAS_EXPIRY)
        record->expiry = km__load64(p);
}

uint32_t km__record_sum(const uint8_t *p, uint32_t payload_crc, struct record_place place)
{
    uint8_t bytes[RECORD_PLACE_SIZE];

    store_place(bytes, place);
    payload_crc = km__crc32c(payload_crc, p + 4, km__record_payload_offset(p[13]) - 4);
    return km__crc32c(payload_crc, bytes, sizeof(bytes));
}

/* Whether the bytes between the payload's end and the record's are zero. */
static int padding_is_zero(const uint8_t *p, uint64_t size, uint64_t payload_end)
{
    uint64_t count = size - payload_end; /* 0 to 7, and a record has 16 at least */

    return count == 0 || km__load64(p + size - 8) >> (64 - 8 * count) == 0;
}

enum record_check km__record_decode(const uint8_t *p, uint64_t available, struct record_place place,
                                    struct record *out)
{
    struct record record = {0};
    uint64_t size, payload_offset;
    uint32_t crc = 0;

    if (available < RECORD_HEADER_SIZE)
        return RECORD_BAD;
    if (km__load64(p + 8) == 0)
        return RECORD_ABSENT;
    record.checksum = km__load32(p);
    record.value_size = km__load32(p + 4);
    record.key_size = km__load16(p + 8);
    record.map = km__load16(p + 10);
    record.kind = p[12];
    record.flags = p[13];
    if (record.kind > RECORD_KIND_MAX || km__load16(p + 14) || !record_has_shape(&record))
        return RECORD_BAD;
    size = km__record_size_at(p);
    payload_offset = km__record_payload_offset(record.flags);
    if (size > available)
        return RECORD_BAD;
    if (record.kind != RECORD_PADDING) {
        crc = km__crc32c(0, p + payload_offset, size - payload_offset);
        if (!padding_is_zero(p, size, payload_offset + record.value_size + record.key_size))
            return RECORD_BAD;
    }
    if (km__record_sum(p, crc, place) != record.checksum)
        return RECORD_BAD;
    if (record.kind == RECORD_RANGE_DELETED &&
        !range_has_shape(p + payload_offset, record.value_size))
        return RECORD_BAD;
    decode_fields(&record, p);
    *out = record;
    return RECORD_OK;
}
