/* SPDX-License-Identifier: Apache-2.0
 *
 * files.c -- encode and decode IDENTITY, MARKS, segment headers and the ring's header.
 *
 * I1. What is encoded decodes to the same; what decodes encodes to the same bytes, unless it has
 *     compatible features that this version does not know.
 * I2. Nothing of a structure is believed before km__structure_check() has passed it.
 */
#include "format/files.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "format/record.h"
#include "format/structure.h"

_Static_assert(IDENTITY_SIZE == STRUCTURE_SIZE && MARKS_SLOT_SIZE == STRUCTURE_SIZE &&
                   SEGMENT_HEADER_SIZE == STRUCTURE_SIZE && RING_HEADER_SIZE == STRUCTURE_SIZE,
               "all structures are of one size");
_Static_assert(SEGMENT_SIZE_MAX >= SEGMENT_HEADER_SIZE + RECORD_HEADER_SIZE + 24u +
                                       (uint64_t)KM_VALUE_SIZE_MAX + KM_KEY_SIZE_MAX + 8,
               "the largest record fits in a segment");
_Static_assert(SEGMENT_SIZE_MAX <= UINT32_MAX, "an offset fits in the lower half of a position");

static const char identity_magic[] = "KMIDENT1";
static const char marks_magic[] = "KMMARKS1";
static const char segment_magic[] = "KMSEGMT1";
static const char ring_magic[] = "KMRINGS1";

/* ---- IDENTITY ---------------------------------------------------------------------------- */

#define FILES_IDENTITY_HASH_SEED 40
#define FILES_IDENTITY_CREATED_MS 72
#define FILES_IDENTITY_USED 80

void km__identity_encode(const struct identity *identity, uint8_t bytes[IDENTITY_SIZE])
{
    km__structure_begin(bytes, identity_magic, identity->store_id);
    memcpy(bytes + FILES_IDENTITY_HASH_SEED, identity->hash_seed, KM__HASH_SEED_SIZE);
    km__store64(bytes + FILES_IDENTITY_CREATED_MS, identity->created_ms);
    km__structure_end(bytes);
}

km_status km__identity_decode(const uint8_t bytes[IDENTITY_SIZE], struct identity *out)
{
    km_status rc = km__structure_check(bytes, identity_magic, FILES_IDENTITY_USED);

    if (rc)
        return rc;
    memcpy(out->store_id, bytes + STRUCTURE_STORE_ID, STORE_ID_SIZE);
    memcpy(out->hash_seed, bytes + FILES_IDENTITY_HASH_SEED, KM__HASH_SEED_SIZE);
    out->created_ms = km__load64(bytes + FILES_IDENTITY_CREATED_MS);
    return KM_OK;
}

/* ---- MARKS ------------------------------------------------------------------------------- */

#define FILES_MARKS_SEQUENCE 40
#define FILES_MARKS_HEAD 48
#define FILES_MARKS_DURABLE 56
#define FILES_MARKS_CLOCK_MS 64
#define FILES_MARKS_BOOT_ID 72
#define FILES_MARKS_CLEAN 88
#define FILES_MARKS_USED 92

static int marks_are_sane(const struct marks *marks)
{
    if (marks->sequence == 0 || marks->clean > 1)
        return 0;
    if (!km__position_is_record(marks->head) ||
        km__position_offset(marks->head) != SEGMENT_HEADER_SIZE)
        return 0;
    if (marks->durable == 0)
        return marks->clean == 0;
    return km__position_is_record(marks->durable) && marks->durable >= marks->head;
}

void km__marks_encode(const struct marks *marks, uint8_t bytes[MARKS_SLOT_SIZE])
{
    KM_ASSERT(marks_are_sane(marks));
    km__structure_begin(bytes, marks_magic, marks->store_id);
    km__store64(bytes + FILES_MARKS_SEQUENCE, marks->sequence);
    km__store64(bytes + FILES_MARKS_HEAD, marks->head);
    km__store64(bytes + FILES_MARKS_DURABLE, marks->durable);
    km__store64(bytes + FILES_MARKS_CLOCK_MS, marks->clock_ms);
    memcpy(bytes + FILES_MARKS_BOOT_ID, marks->boot_id, BOOT_ID_SIZE);
    km__store32(bytes + FILES_MARKS_CLEAN, marks->clean);
    km__structure_end(bytes);
}

km_status km__marks_decode(const uint8_t bytes[MARKS_SLOT_SIZE], struct marks *out)
{
    km_status rc = km__structure_check(bytes, marks_magic, FILES_MARKS_USED);
    struct marks marks;

    if (rc)
        return rc;
    memcpy(marks.store_id, bytes + STRUCTURE_STORE_ID, STORE_ID_SIZE);
    marks.sequence = km__load64(bytes + FILES_MARKS_SEQUENCE);
    marks.head = km__load64(bytes + FILES_MARKS_HEAD);
    marks.durable = km__load64(bytes + FILES_MARKS_DURABLE);
    marks.clock_ms = km__load64(bytes + FILES_MARKS_CLOCK_MS);
    memcpy(marks.boot_id, bytes + FILES_MARKS_BOOT_ID, BOOT_ID_SIZE);
    marks.clean = km__load32(bytes + FILES_MARKS_CLEAN);
    if (!marks_are_sane(&marks))
        return KM_E_CORRUPT;
    *out = marks;
    return KM_OK;
}

/* ---- segment headers --------------------------------------------------------------------- */

#define FILES_SEGMENT_NUMBER 40
#define FILES_SEGMENT_RING_LOG2 44
#define FILES_SEGMENT_SIZE 48
#define FILES_SEGMENT_PREVIOUS_END 56
#define FILES_SEGMENT_DURABLE 64
#define FILES_SEGMENT_LINEAR_START 72
#define FILES_SEGMENT_USED 80

static int is_ring_log2(uint32_t ring_log2)
{
    return ring_log2 >= RING_LOG2_MIN && ring_log2 <= RING_LOG2_MAX;
}

static int segment_ring_is_sane(const struct segment_header *header)
{
    return (header->ring_log2 == 0 || is_ring_log2(header->ring_log2)) &&
           header->linear_start % RECORD_ALIGNMENT == 0;
}

static int segment_header_is_sane(const struct segment_header *header)
{
    uint64_t start = km__position(header->number, SEGMENT_HEADER_SIZE);

    if (header->number == 0 || header->size < SEGMENT_SIZE_MIN || header->size > SEGMENT_SIZE_MAX ||
        header->size % 4096 != 0)
        return 0;
    if (header->previous_end != 0 && (!km__position_is_record(header->previous_end) ||
                                      km__position_number(header->previous_end) >= header->number))
        return 0;
    if (header->durable != 0 &&
        (!km__position_is_record(header->durable) || header->durable > start))
        return 0;
    return segment_ring_is_sane(header);
}

void km__segment_header_encode(const struct segment_header *header,
                               uint8_t bytes[SEGMENT_HEADER_SIZE])
{
    KM_ASSERT(segment_header_is_sane(header));
    km__structure_begin(bytes, segment_magic, header->store_id);
    km__store32(bytes + FILES_SEGMENT_NUMBER, header->number);
    km__store32(bytes + FILES_SEGMENT_RING_LOG2, header->ring_log2);
    km__store64(bytes + FILES_SEGMENT_SIZE, header->size);
    km__store64(bytes + FILES_SEGMENT_PREVIOUS_END, header->previous_end);
    km__store64(bytes + FILES_SEGMENT_DURABLE, header->durable);
    km__store64(bytes + FILES_SEGMENT_LINEAR_START, header->linear_start);
    km__structure_end(bytes);
}

km_status km__segment_header_decode(const uint8_t bytes[SEGMENT_HEADER_SIZE],
                                    struct segment_header *out)
{
    km_status rc = km__structure_check(bytes, segment_magic, FILES_SEGMENT_USED);
    struct segment_header header;

    if (rc)
        return rc;
    memcpy(header.store_id, bytes + STRUCTURE_STORE_ID, STORE_ID_SIZE);
    header.number = km__load32(bytes + FILES_SEGMENT_NUMBER);
    header.ring_log2 = km__load32(bytes + FILES_SEGMENT_RING_LOG2);
    header.size = km__load64(bytes + FILES_SEGMENT_SIZE);
    header.previous_end = km__load64(bytes + FILES_SEGMENT_PREVIOUS_END);
    header.durable = km__load64(bytes + FILES_SEGMENT_DURABLE);
    header.linear_start = km__load64(bytes + FILES_SEGMENT_LINEAR_START);
    if (!segment_header_is_sane(&header))
        return KM_E_CORRUPT;
    *out = header;
    return KM_OK;
}

/* ---- the ring's header ------------------------------------------------------------------- */

#define FILES_RING_LOG2 40
#define FILES_RING_USED 44

void km__ring_header_encode(const struct ring_header *header, uint8_t bytes[RING_HEADER_SIZE])
{
    KM_ASSERT(is_ring_log2(header->ring_log2));
    km__structure_begin(bytes, ring_magic, header->store_id);
    km__store32(bytes + FILES_RING_LOG2, header->ring_log2);
    km__structure_end(bytes);
}

km_status km__ring_header_decode(const uint8_t bytes[RING_HEADER_SIZE], struct ring_header *out)
{
    km_status rc = km__structure_check(bytes, ring_magic, FILES_RING_USED);
    uint32_t ring_log2 = km__load32(bytes + FILES_RING_LOG2);

    if (rc)
        return rc;
    if (!is_ring_log2(ring_log2))
        return KM_E_CORRUPT;
    memcpy(out->store_id, bytes + STRUCTURE_STORE_ID, STORE_ID_SIZE);
    out->ring_log2 = ring_log2;
    return KM_OK;
}

/* ---- names ------------------------------------------------------------------------------- */

void km__segment_name(uint32_t number, char name[SEGMENT_NAME_SIZE])
{
    (void)snprintf(name, SEGMENT_NAME_SIZE, "%08x.segment", number);
}

int km__segment_name_parse(const char *name, uint32_t *out_number)
{
    uint32_t number = 0;

    for (int i = 0; i < 8; i++) {
        uint32_t digit;

        if (name[i] >= '0' && name[i] <= '9')
            digit = (uint32_t)(name[i] - '0');
        else if (name[i] >= 'a' && name[i] <= 'f')
            digit = (uint32_t)(name[i] - 'a') + 10;
        else
            return 0;
        number = number << 4 | digit;
    }
    if (number == 0 || strcmp(name + 8, ".segment") != 0)
        return 0;
    *out_number = number;
    return 1;
}

void km__ring_name(uint32_t ring_log2, char name[RING_NAME_SIZE])
{
    KM_ASSERT(is_ring_log2(ring_log2)); /* two digits: the name fits */
    (void)snprintf(name, RING_NAME_SIZE, "tail-%u.ring", ring_log2);
}
