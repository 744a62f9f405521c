/* SPDX-License-Identifier: Apache-2.0
 *
 * record.h -- the bytes of one record in the log. Pure: no I/O, no allocation. FORMAT.md, 6.
 *
 *     offset  type   field
 *          0  u32le  checksum    of payload, then bytes 4 to the end of the fields, then place
 *          4  u32le  value_size
 *          8  u16le  key_size    \
 *         10  u16le  map          |  the commit word: stored last, as one 8-byte store, so that
 *         12  u8     kind         |  a record is there once this word is not zero
 *         13  u8     flags        |
 *         14  u16le  reserved, 0 /
 *         16  u64le  version, ordinal, expiry: each only if its flag is set, in this order
 *          .         payload: value, key, zero padding to a multiple of 8
 *
 * The checksum takes the payload first and the place last, so that a writer can sum a large value
 * before it knows where the record will lie and which ordinal it gets.
 */
#ifndef KM_FORMAT_RECORD_H
#define KM_FORMAT_RECORD_H

#include <stdint.h>

#include "base/bytes.h"
#include "base/crc32c.h"

#define RECORD_HEADER_SIZE 16u
#define RECORD_ALIGNMENT 8u

enum record_kind {
    RECORD_PUT = 1,
    RECORD_DELETE = 2,      /* no value */
    RECORD_MAP_CREATED = 3, /* key: the name; value: one byte, the map's kind */
    RECORD_MAP_DROPPED = 4, /* neither key nor value */
    RECORD_MAP_CLEARED = 5, /* neither key nor value */
    RECORD_MARK = 6,        /* value: u64le, the position up to which the log was durable */
    RECORD_PADDING = 7,     /* value_size bytes of no meaning follow; they are not summed */
    RECORD_RANGE_DELETED =
        8, /* of a sorted map. Key: the first that goes; value: one byte 0, then
              nothing: to the last; or one byte 1, then the first key that stays */
    RECORD_KIND_MAX = 8
};

enum record_flag {
    RECORD_MORE_FOLLOWS = 1, /* the batch goes on with the next record */
    RECORD_RELOCATED = 2,    /* moved by compaction; has the field `version` */
    RECORD_HAS_ORDINAL = 4,
    RECORD_HAS_EXPIRY = 8,
    RECORD_FLAGS_ALL = 15
};

/* A record's header, decoded. */
struct record {
    uint32_t checksum;
    uint32_t value_size;
    uint16_t key_size;
    uint16_t map;
    uint8_t kind;
    uint8_t flags;
    uint64_t version; /* these three: 0 unless their flag is set */
    uint64_t ordinal;
    uint64_t expiry;
};

/* Where a record lies: what keeps an old or moved record from passing for one that belongs. */
struct record_place {
    uint64_t store_tag; /* the first 8 bytes of the store id, as u64le */
    uint64_t position;  /* segment number << 32 | offset in the segment file */
};

/* Bytes before the payload. */
static inline uint32_t km__record_payload_offset(uint8_t flags)
{
    return RECORD_HEADER_SIZE + 8u * ((flags >> 1 & 1u) + (flags >> 2 & 1u) + (flags >> 3 & 1u));
}

/* Bytes of a whole record, a multiple of 8. */
static inline uint64_t km__record_size(uint8_t flags, uint32_t value_size, uint16_t key_size)
{
    return km__round_up((uint64_t)km__record_payload_offset(flags) + value_size + key_size,
                        RECORD_ALIGNMENT);
}

static inline uint64_t km__record_commit_word(const struct record *record)
{
    return (uint64_t)record->key_size | (uint64_t)record->map << 16 | (uint64_t)record->kind << 32 |
           (uint64_t)record->flags << 40;
}

/* Size of the record whose bytes begin at p, from its header alone. p holds at least
 * RECORD_HEADER_SIZE bytes; the result may be larger than what is there. */
static inline uint64_t km__record_size_at(const uint8_t *p)
{
    return km__record_size(p[13], km__load32(p + 4), km__load16(p + 8));
}

/* The CRC of a payload: pass it to km__record_encode_header. Value and key may lie apart. */
static inline uint32_t km__record_payload_crc(const void *value, uint32_t value_size,
                                              const void *key, uint16_t key_size)
{
    static const uint8_t zeros[RECORD_ALIGNMENT];
    uint32_t tail = (value_size + key_size) & (RECORD_ALIGNMENT - 1);
    uint32_t crc = km__crc32c(0, value, value_size);

    crc = km__crc32c(crc, key, key_size);
    return tail ? km__crc32c(crc, zeros, RECORD_ALIGNMENT - tail) : crc;
}

/* The expiry of a put that stands for a delete: the key is one of a table that is attached, whose
 * value the record hides for as long as the map has tables. Long past, so it expires if not. */
#define RECORD_EXPIRY_HIDES 1u

/* The first byte of a RECORD_RANGE_DELETED's value. */
#define RECORD_RANGE_IS_OPEN 0u
#define RECORD_RANGE_HAS_END 1u

/* Write all of the header but the commit word to p, checksum included, and return the commit word,
 * for the caller to store at p + 8 when everything else is in place. Flags and sizes must be those
 * that FORMAT.md allows for the kind (R4): a record that no reader would take ends the process. The
 * payload is the caller's: that of a RECORD_RANGE_DELETED begins as it must. */
uint64_t km__record_encode_header(uint8_t *p, const struct record *record, uint32_t payload_crc,
                                  struct record_place place);

/* The checksum of the record whose header (all but the checksum) is at p. */
uint32_t km__record_sum(const uint8_t *p, uint32_t payload_crc, struct record_place place);

enum record_check {
    RECORD_OK,
    RECORD_ABSENT, /* the commit word is zero: no record was written here */
    RECORD_BAD     /* not a record, or one that was cut, damaged, or belongs elsewhere */
};

/*
 * Decode and verify the record at p, of which `available` bytes may be read. Total: any bytes get
 * an answer, in time linear in the record's size. *out is set on RECORD_OK only; the record then
 * takes km__record_size() bytes, all of them within `available`.
 */
enum record_check km__record_decode(const uint8_t *p, uint64_t available, struct record_place place,
                                    struct record *out);

#endif
