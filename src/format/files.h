/* SPDX-License-Identifier: Apache-2.0
 *
 * files.h -- the bytes of the store's files other than records: IDENTITY, MARKS, segment headers
 * and the ring's header. Pure: no I/O, no allocation. FORMAT.md has the tables and rules.
 *
 * Decoders are total: any bytes get an answer. They return KM_OK, KM_E_CORRUPT (magic or checksum
 * wrong, a field outside its limits) or KM_E_VERSION (a newer format, an unknown incompatible
 * feature), and set *out on KM_OK only. Encoders end the process rather than write what no decoder
 * would take.
 *
 * Every structure begins with: magic (8 bytes), u32 format version, u32 incompatible features, u32
 * compatible features, u32 CRC-32C of the whole structure with this field taken as 0, then 16 bytes
 * of store id. Bytes not used are zero, and checked.
 */
#ifndef KM_FORMAT_FILES_H
#define KM_FORMAT_FILES_H

#include <stdint.h>

#include "base/hash.h"
#include "keepmap/keepmap.h"

#define FORMAT_VERSION 1u
#define STORE_ID_SIZE 16u
#define BOOT_ID_SIZE 16u

#define IDENTITY_SIZE 4096u       /* the whole file */
#define MARKS_SLOT_SIZE 4096u     /* the file MARKS has two slots */
#define SEGMENT_HEADER_SIZE 4096u /* records begin here */
#define RING_HEADER_SIZE 4096u    /* the state page begins here */
#define RING_STATE_SIZE 4096u /* live, without a checksum: boot id, then u64le flushed position */
#define RING_STATE_FLUSHED_OFFSET BOOT_ID_SIZE                /* in the state page */
#define RING_DATA_OFFSET (RING_HEADER_SIZE + RING_STATE_SIZE) /* record bytes begin here */

#define SEGMENT_SIZE_MIN (64u * 1024)
/* One record of the largest size fits. */
#define SEGMENT_SIZE_MAX (UINT64_C(2) << 30 | UINT64_C(1) << 20)
#define RING_LOG2_MIN 16u
#define RING_LOG2_MAX 24u

/* Position helpers: a position is segment number << 32 | offset in the segment's file. */
static inline uint64_t km__position(uint32_t number, uint64_t offset)
{
    return (uint64_t)number << 32 | offset;
}
static inline uint32_t km__position_number(uint64_t position)
{
    return (uint32_t)(position >> 32);
}
static inline uint32_t km__position_offset(uint64_t position)
{
    return (uint32_t)position;
}

struct identity {
    uint8_t store_id[STORE_ID_SIZE];       /* random */
    uint8_t hash_seed[KM__HASH_SEED_SIZE]; /* random, secret */
    uint64_t created_ms;                   /* wall clock, informative */
};

/* One slot of MARKS; the valid one with the larger sequence counts. */
struct marks {
    uint8_t store_id[STORE_ID_SIZE];
    uint64_t sequence; /* >= 1; the slot is number sequence % 2 */
    uint64_t head;     /* position of the log's first record, SEGMENT_HEADER_SIZE into a segment */
    uint64_t durable;  /* everything below was synced before this slot was written; 0 or >= head */
    uint64_t clock_ms; /* highest wall clock seen */
    uint8_t boot_id[BOOT_ID_SIZE]; /* of the boot during which the slot was written */
    uint32_t clean;                /* 1: written by a close; `durable` is the end of the log */
};

struct segment_header {
    uint8_t store_id[STORE_ID_SIZE];
    uint32_t number;       /* >= 1 */
    uint64_t size;         /* of the file: SEGMENT_SIZE_MIN to _MAX, a multiple of 4096 */
    uint64_t previous_end; /* position where the log before this segment ends; 0: nothing before */
    uint64_t durable;      /* durable position when the header was written, not above its records */
    uint32_t ring_log2;    /* its records pass through the ring of 2^ring_log2 bytes; 0: none */
    uint64_t linear_start; /* bytes of segments before it: its byte at offset o lies in the ring's
                              data at (linear_start + o) % 2^ring_log2 */
};

struct ring_header {
    uint8_t store_id[STORE_ID_SIZE];
    /* RING_LOG2_MIN to _MAX: the file has RING_DATA_OFFSET + 2^ring_log2 bytes */
    uint32_t ring_log2;
};

void km__identity_encode(const struct identity *identity, uint8_t bytes[IDENTITY_SIZE]);
km_status km__identity_decode(const uint8_t bytes[IDENTITY_SIZE], struct identity *out);
void km__marks_encode(const struct marks *marks, uint8_t bytes[MARKS_SLOT_SIZE]);
km_status km__marks_decode(const uint8_t bytes[MARKS_SLOT_SIZE], struct marks *out);
void km__segment_header_encode(const struct segment_header *header,
                               uint8_t bytes[SEGMENT_HEADER_SIZE]);
km_status km__segment_header_decode(const uint8_t bytes[SEGMENT_HEADER_SIZE],
                                    struct segment_header *out);
void km__ring_header_encode(const struct ring_header *header, uint8_t bytes[RING_HEADER_SIZE]);
km_status km__ring_header_decode(const uint8_t bytes[RING_HEADER_SIZE], struct ring_header *out);

/* File names in log/: "0000002a.segment" is number 42; 8 lower-case hexadecimal digits. */
#define SEGMENT_NAME_SIZE 17 /* "00000001.segment" and NUL */
void km__segment_name(uint32_t number, char name[SEGMENT_NAME_SIZE]);
/* 1 and *out_number if the name is exactly that of a segment >= 1, else 0. */
int km__segment_name_parse(const char *name, uint32_t *out_number);
/* Ring files: "tail-18.ring" is the ring of 2^18 bytes. */
#define RING_NAME_SIZE 13
void km__ring_name(uint32_t ring_log2, char name[RING_NAME_SIZE]);

#endif
