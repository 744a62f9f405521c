/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_record.c -- the record decoder on any bytes.
 *
 * Input: 16 bytes of place, then the bytes of a record. They are decoded as they are, and again
 * under a right checksum, without which nothing would ever get past the first check.
 *
 * P1. Any bytes get an answer, and nothing outside of them is read (they lie in memory of their
 * own). P2. What decodes encodes to the same bytes. P3. What is encoded decodes to the same record.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "format/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t payload_sum(const struct record *record, const uint8_t *p)
{
    const uint8_t *value = p + km__record_payload_offset(record->flags);

    if (record->kind == RECORD_PADDING)
        return 0;
    return km__record_payload_crc(value, record->value_size, value + record->value_size,
                                  record->key_size);
}

/* P2, P3 */
static void check_whole(const struct record *record, const uint8_t *p, size_t available,
                        struct record_place place)
{
    uint64_t size = km__record_size(record->flags, record->value_size, record->key_size);
    uint32_t payload_offset = km__record_payload_offset(record->flags);
    uint8_t again[RECORD_HEADER_SIZE + 24] = {0};
    uint64_t word;

    KM_ASSERT(size <= available);
    KM_ASSERT(size == km__record_size_at(p));
    word = km__record_encode_header(again, record, payload_sum(record, p), place);
    km__store64(again + 8, word);
    KM_ASSERT(memcmp(again, p, payload_offset) == 0);
}

static enum record_check check_bytes(const uint8_t *p, size_t available, struct record_place place)
{
    struct record record;
    enum record_check check = km__record_decode(p, available, place, &record);

    KM_ASSERT(check == RECORD_OK || check == RECORD_ABSENT || check == RECORD_BAD);
    if (check == RECORD_OK)
        check_whole(&record, p, available, place);
    return check;
}

/* Give the bytes a right checksum, if they are enough for the record that they claim to be. */
static void seal(uint8_t *p, size_t available, struct record_place place)
{
    uint64_t size = km__record_size_at(p);
    uint64_t payload_offset = km__record_payload_offset(p[13]);
    uint32_t crc = 0;

    if (payload_offset > available || size > available)
        return;
    if (p[12] != RECORD_PADDING)
        crc = km__crc32c(0, p + payload_offset, size - payload_offset);
    km__store32(p, km__record_sum(p, crc, place));
}

/* Bend the header so that it says what the bytes at hand can hold. */
static void shape(uint8_t *p, size_t available)
{
    uint64_t payload_offset = km__record_payload_offset(p[13]);

    if (payload_offset > available)
        p[13] = 0;
    p[12] = (uint8_t)(p[12] % (RECORD_KIND_MAX + 1));
    km__store16(p + 14, 0);
    if (km__record_size_at(p) > available) {
        km__store32(p + 4, km__load32(p + 4) % (uint32_t)(available + 1));
        km__store16(p + 8, (uint16_t)(km__load16(p + 8) % 64));
    }
    if (p[12] == RECORD_RANGE_DELETED && km__load32(p + 4) && km__record_size_at(p) <= available)
        p[km__record_payload_offset(p[13])] %= 3;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct record_place place;
    uint8_t *p;

    if (size < 16)
        return 0;
    place.store_tag = km__load64(data);
    place.position = km__load64(data + 8);
    size -= 16;
    p = malloc(size ? size : 1);
    KM_ASSERT(p != NULL);
    memcpy(p, data + 16, size);
    (void)check_bytes(p, size, place);
    if (size >= RECORD_HEADER_SIZE) {
        seal(p, size, place);
        (void)check_bytes(p, size, place);
        shape(p, size);
        seal(p, size, place);
        if (check_bytes(p, size, place) == RECORD_OK) {
            p[0] ^= 1; /* and no other checksum will do */
            KM_ASSERT(check_bytes(p, size, place) == RECORD_BAD);
        }
    }
    free(p);
    return 0;
}
