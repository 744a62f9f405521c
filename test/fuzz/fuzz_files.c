/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_files.c -- the decoders of IDENTITY, MARKS, segment and ring headers, and of segment names,
 * on any bytes.
 *
 * Input: the bytes of a structure from its store id on come last; a first byte that says how to
 * complete them (bit 0: right magic and version, bit 1: right checksum); the decoder is tried for
 * each structure.
 *
 * P1. Any bytes get an answer, and nothing outside of them is read (they lie in memory of their
 * own). P2. What decodes encodes to the same bytes, unless it has compatible features. P3. The
 * output is written on KM_OK only.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "format/files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIZE 4096u
#define COMPLETE_HEAD 1
#define COMPLETE_CHECKSUM 2

enum structure { IDENTITY, MARKS, SEGMENT, RING, STRUCTURE_COUNT };

static const char *const magics[] = {"KMIDENT1", "KMMARKS1", "KMSEGMT1", "KMRINGS1"};

union any_structure {
    struct identity identity;
    struct marks marks;
    struct segment_header segment;
    struct ring_header ring;
};

static km_status decode(enum structure which, const uint8_t *p, union any_structure *out)
{
    switch (which) {
    case IDENTITY: return km__identity_decode(p, &out->identity);
    case MARKS: return km__marks_decode(p, &out->marks);
    case SEGMENT: return km__segment_header_decode(p, &out->segment);
    default: return km__ring_header_decode(p, &out->ring);
    }
}

static void encode(enum structure which, const union any_structure *in, uint8_t *p)
{
    switch (which) {
    case IDENTITY: km__identity_encode(&in->identity, p); break;
    case MARKS: km__marks_encode(&in->marks, p); break;
    case SEGMENT: km__segment_header_encode(&in->segment, p); break;
    default: km__ring_header_encode(&in->ring, p); break;
    }
}

static void check(enum structure which, const uint8_t *p)
{
    union any_structure out, untouched;
    uint8_t again[SIZE];
    km_status rc;

    memset(&out, 0x5a, sizeof(out));
    memset(&untouched, 0x5a, sizeof(untouched));
    rc = decode(which, p, &out);
    if (rc == KM_OK) {
        encode(which, &out, again);
        KM_ASSERT(km__load32(p + 16) != 0 || memcmp(again, p, SIZE) == 0);
        return;
    }
    KM_ASSERT(rc == KM_E_CORRUPT || rc == KM_E_VERSION);
    KM_ASSERT(memcmp(&out, &untouched, sizeof(out)) == 0);
}

/* P1 for names: what parses is what would have been written. */
static void check_name(const uint8_t *data, size_t size)
{
    char *name = malloc(size + 1);
    char again[SEGMENT_NAME_SIZE];
    uint32_t number = 0;

    KM_ASSERT(name != NULL);
    if (size)
        memcpy(name, data, size);
    name[size] = 0;
    if (km__segment_name_parse(name, &number)) {
        km__segment_name(number, again);
        KM_ASSERT(number >= 1 && strcmp(again, name) == 0);
    }
    free(name);
}

static void complete(enum structure which, uint8_t how, uint8_t *p)
{
    if (how & COMPLETE_HEAD) {
        memcpy(p, magics[which], 8);
        km__store32(p + 8, FORMAT_VERSION);
        km__store64(p + 12, 0);
    }
    if (how & COMPLETE_CHECKSUM) {
        km__store32(p + 20, 0);
        km__store32(p + 20, km__crc32c(0, p, SIZE));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *p = calloc(1, SIZE);
    uint8_t how = size ? data[0] : 0;
    size_t at = how & COMPLETE_HEAD ? 24 : 0; /* where the input's bytes go */

    KM_ASSERT(p != NULL);
    if (size) {
        data++;
        size--;
    }
    check_name(data, size);
    for (enum structure which = IDENTITY; which < STRUCTURE_COUNT; which++) {
        memset(p, 0, SIZE);
        if (size)
            memcpy(p + at, data, size < SIZE - at ? size : SIZE - at);
        complete(which, how, p);
        check(which, p);
    }
    free(p);
    return 0;
}
