/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_format.h -- the bytes of sealed tables: header, footer, data blocks, index groups with
 * their filters. Pure: no I/O, no allocation; what a compressed block has in its frame is not known
 * here. docs/FORMAT.md, 14, has the tables and rules.
 *
 * Decoders are total: any bytes get an answer in bounded time, and nothing outside of them is read.
 * What they set points into the bytes that they were given. Encoders end the process rather than
 * write what no decoder would take.
 *
 * A key in a block is prefix and suffix: all keys of a block share its prefix. In a group the
 * separators, which say where blocks begin, are cut likewise.
 */
#ifndef KM_FORMAT_SEALED_FORMAT_H
#define KM_FORMAT_SEALED_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "keepmap/keepmap.h"

#define SEALED_PAGE 4096u /* header, blocks, index and footer begin at multiples of it */
#define SEALED_ID_SIZE 16u
#define SEALED_BLOCK_HEADER_SIZE 24u
#define SEALED_BLOCK_SIZE_MAX 65536u   /* of a block of several records; one alone may be larger */
#define SEALED_BLOCK_RECORDS_MAX 8192u /* per block */
#define SEALED_PIECE_SIZE 256u         /* of values, per checksum */
#define SEALED_PACKED_HEADER_SIZE 16u  /* of a compressed block */
#define SEALED_PACKED_PLAIN_MAX (16u << 20) /* bytes of a block that may be compressed */
#define SEALED_GROUP_HEADER_SIZE 24u
#define SEALED_GROUP_BLOCKS_MAX 64u          /* per group */
#define SEALED_GROUP_SIZE_MAX (1u << 20)     /* more than the largest parts take */
#define SEALED_GROUP_SEPARATORS_MAX 65535u   /* bytes, suffixes */
#define SEALED_FILTER_BITS_PER_KEY 10u       /* see km__sealed_filter_start() */
#define SEALED_FILTER_PROBES 6u              /* 0.84 % of absent keys pass */
#define SEALED_PAGES_MAX (UINT64_C(1) << 50) /* of a table */

/* ---- header and footer ------------------------------------------------------------------- */

/* Which compression the blocks of a table may have. */
#define SEALED_COMPRESSION_NONE 0u
#define SEALED_COMPRESSION_ZSTD 1u

struct sealed_footer {
    uint8_t id[SEALED_ID_SIZE]; /* random, the same in header and footer */
    uint32_t key_width;         /* 0: bytes; else 1, 2, 4 or 8 */
    uint32_t block_size;        /* that was asked for */
    uint64_t created_ms;
    uint64_t count; /* of records */
    uint64_t block_count;
    uint64_t group_count;
    uint64_t key_bytes; /* of all keys */
    uint64_t value_bytes;
    uint64_t index_offset; /* where the groups begin: a page */
    uint64_t index_size;   /* the footer is on the page after them, the last of the file */
    uint32_t compression;
};

/* Whether a file's first 8 bytes say that it is a table. */
int km__sealed_has_magic(const uint8_t *bytes);
/* The header tells the id, and nothing else that counts. */
void km__sealed_header_encode(const uint8_t id[SEALED_ID_SIZE], uint8_t bytes[SEALED_PAGE]);
km_status km__sealed_header_decode(const uint8_t bytes[SEALED_PAGE], uint8_t id[SEALED_ID_SIZE]);
void km__sealed_footer_encode(const struct sealed_footer *footer, uint8_t bytes[SEALED_PAGE]);
/* KM_E_CORRUPT also if it is not the footer of a file of `file_size` bytes; KM_E_VERSION also if
 * its blocks have a compression that is not known. */
km_status km__sealed_footer_decode(const uint8_t bytes[SEALED_PAGE], uint64_t file_size,
                                   struct sealed_footer *out);

/* Where checksums of a block at `offset`, or of the group of a number, begin: a block that lies at
 * another place, or in another table, does not pass. */
uint32_t km__sealed_id_sum(const uint8_t id[SEALED_ID_SIZE]);
uint32_t km__sealed_block_seed(uint32_t id_sum, uint64_t offset);
uint32_t km__sealed_group_seed(uint32_t id_sum, uint64_t number);

/* ---- data blocks ------------------------------------------------------------------------- */

/* What decides the size of a block. */
struct sealed_shape {
    uint32_t count;
    uint32_t prefix_size;
    uint64_t key_bytes; /* of whole keys */
    uint64_t value_bytes;
    int keys_vary; /* in size */
    int values_vary;
};

/* Bytes of header, keys and checksums; then those with the values. */
uint64_t km__sealed_shape_head_size(const struct sealed_shape *shape);
uint64_t km__sealed_shape_size(const struct sealed_shape *shape);

/* The records of a block, in order. Sizes of suffixes and values are in arrays; their bytes lie one
 * behind the other. */
struct sealed_records {
    struct sealed_shape shape;
    const uint8_t *prefix;
    const uint32_t *suffix_sizes;
    const uint8_t *suffixes;
    const uint32_t *value_sizes;
    const uint8_t *values;
};

/* Write km__sealed_shape_head_size() bytes; the values follow them in the file. */
void km__sealed_block_encode_head(const struct sealed_records *records, uint32_t seed,
                                  uint8_t *bytes);

struct sealed_block {
    const uint8_t *bytes; /* of the block */
    const uint8_t *prefix;
    const uint8_t *key_ends;   /* u16le each; NULL: all suffixes have suffix_size bytes */
    const uint8_t *value_ends; /* u16le each; NULL: all values have value_size bytes */
    const uint8_t *suffixes;
    const uint8_t *sums; /* u32le for each piece of the values */
    const uint8_t *values;
    const uint8_t *end; /* of the values */
    uint32_t count;
    uint32_t prefix_size;
    uint32_t suffix_size;
    uint32_t suffix_bytes;
    uint32_t value_size;
    uint32_t value_bytes;
};

/* How many bytes a block takes in its file, by its first SEALED_BLOCK_HEADER_SIZE bytes, of which
 * nothing was checked: any multiple of SEALED_PAGE up to 2^33. */
uint64_t km__sealed_block_extent(const uint8_t *bytes);
/* Decode the block in `size` bytes, which is not compressed; its head is checked, its values are
 * not. */
km_status km__sealed_block_decode(const uint8_t *bytes, size_t size, uint32_t seed,
                                  struct sealed_block *out);
/* The suffix of record `index`, below count. */
km_status km__sealed_block_suffix(const struct sealed_block *block, uint32_t index,
                                  km_bytes *out_suffix);
/* Find a key: KM_OK and its index; KM_NOT_FOUND and that of the first record behind it, or count;
 * KM_E_CORRUPT. *out_index is not set then. */
km_status km__sealed_block_find(const struct sealed_block *block, km_bytes key,
                                uint32_t *out_index);
/* The value of a record: not checked, or with the pieces that it lies in checked. */
km_status km__sealed_block_value(const struct sealed_block *block, uint32_t index,
                                 km_bytes *out_value);
km_status km__sealed_block_checked_value(const struct sealed_block *block, uint32_t index,
                                         km_bytes *out_value);
/* All pieces of the values. */
km_status km__sealed_block_check_values(const struct sealed_block *block);
/* What a reader need not rely on, of the block in `size` bytes: ends and keys ascend, each key has
 * key_width bytes unless that is 0, what follows the values is zero. */
km_status km__sealed_block_check_order(const struct sealed_block *block, size_t size,
                                       uint32_t key_width);

/* ---- compressed blocks ------------------------------------------------------------------- */

/* A block in fewer pages than it would take: its frame, when decompressed, is plain_size bytes: a
 * block that is not compressed, without the zeros behind it. */
struct sealed_packed {
    const uint8_t *frame;
    uint32_t frame_size;
    uint32_t plain_size; /* up to SEALED_BLOCK_SIZE_MAX, or SEALED_PACKED_PLAIN_MAX for 1 record */
    uint32_t count;      /* of records */
};

/* Whether a block says that it is compressed, by its first SEALED_PACKED_HEADER_SIZE bytes, of
 * which nothing was checked. */
int km__sealed_block_is_packed(const uint8_t *bytes);
/* Write the header; the frame follows it, at bytes + SEALED_PACKED_HEADER_SIZE. */
void km__sealed_packed_encode(const struct sealed_packed *packed, uint32_t seed, uint8_t *bytes);
/* Decode the block that fills `size` bytes. The block in the frame has the same seed, and is to be
 * decoded by km__sealed_block_decode(). */
km_status km__sealed_packed_decode(const uint8_t *bytes, size_t size, uint32_t seed,
                                   struct sealed_packed *out);

/* ---- filters and groups ------------------------------------------------------------------ */

/* The hash of keys in filters. */
uint64_t km__sealed_hash(const void *key, size_t size);

/* Where the filter of block `index` of a group begins, in bytes, `records` of the group being
 * before it. It ends where the next one begins, so it has at least 10 bits for each key. */
static inline uint32_t km__sealed_filter_start(uint32_t records, uint32_t index)
{
    return records * SEALED_FILTER_BITS_PER_KEY / 8 + index;
}
void km__sealed_filter_add(uint8_t *filter, uint32_t size, uint64_t hash);
int km__sealed_filter_may_have(const uint8_t *filter, uint32_t size, uint64_t hash);

/* The index of up to SEALED_GROUP_BLOCKS_MAX blocks, which lie one behind the other. */
struct sealed_group_plan {
    uint32_t count;
    uint64_t first_page;                           /* of the first block */
    uint32_t page_ends[SEALED_GROUP_BLOCKS_MAX];   /* of each block, from first_page on */
    uint32_t record_ends[SEALED_GROUP_BLOCKS_MAX]; /* records in this block and those before */
    uint32_t separator_ends[SEALED_GROUP_BLOCKS_MAX];
    const uint8_t *separators; /* whole, ascending */
    const uint8_t *filter;
};
/* Bytes of the group; 0 if its separators' suffixes are more than SEALED_GROUP_SEPARATORS_MAX. */
size_t km__sealed_group_size(const struct sealed_group_plan *plan);
void km__sealed_group_encode(const struct sealed_group_plan *plan, uint32_t seed, uint8_t *bytes);

struct sealed_group {
    const uint8_t *bytes;
    const uint8_t *extents; /* for each block u32le page end, u32le record end */
    const uint8_t *separator_ends;
    const uint8_t *suffixes;
    const uint8_t *prefix;
    const uint8_t *filter;
    uint64_t first_page;
    uint32_t count;
    uint32_t prefix_size;
    uint32_t size; /* of the group */
};

/* How many bytes a group says that it takes, by its first SEALED_GROUP_HEADER_SIZE, of which
 * nothing was checked; 0 if no group takes so many. */
size_t km__sealed_group_extent(const uint8_t *bytes);
/* Decode the group that begins at `bytes`, of which there are `size`; everything is checked. */
km_status km__sealed_group_decode(const uint8_t *bytes, size_t size, uint32_t seed,
                                  struct sealed_group *out);
/* The same of a group that was decoded before, and has not changed since. */
static inline void km__sealed_group_view(const uint8_t *bytes, struct sealed_group *out)
{
    out->bytes = bytes;
    out->size = km__load32(bytes + 4);
    out->count = km__load16(bytes + 8);
    out->prefix_size = km__load16(bytes + 10);
    out->first_page = km__load64(bytes + 16);
    out->extents = bytes + SEALED_GROUP_HEADER_SIZE;
    out->separator_ends = out->extents + 8u * out->count;
    out->prefix = out->separator_ends + 2u * out->count;
    out->suffixes = out->prefix + out->prefix_size;
    out->filter = out->suffixes + km__load16(out->separator_ends + 2u * (out->count - 1));
}
static inline uint32_t km__sealed_group_page_end(const struct sealed_group *group, uint32_t index)
{
    return km__load32(group->extents + (size_t)index * 8);
}
static inline uint32_t km__sealed_group_record_end(const struct sealed_group *group, uint32_t index)
{
    return km__load32(group->extents + (size_t)index * 8 + 4);
}
static inline uint32_t km__sealed_group_page_start(const struct sealed_group *group, uint32_t index)
{
    return index ? km__sealed_group_page_end(group, index - 1) : 0;
}
static inline uint32_t km__sealed_group_record_start(const struct sealed_group *group,
                                                     uint32_t index)
{
    return index ? km__sealed_group_record_end(group, index - 1) : 0;
}
km_bytes km__sealed_group_suffix(const struct sealed_group *group, uint32_t index);
/* The block in which a key is, if it is in the group's: the last one whose separator is not above
 * it, or the first. */
uint32_t km__sealed_group_find(const struct sealed_group *group, km_bytes key);
/* Filter of a block; the size in bytes goes to *out_size. */
const uint8_t *km__sealed_group_filter(const struct sealed_group *group, uint32_t index,
                                       uint32_t *out_size);

/* ---- keys -------------------------------------------------------------------------------- */

/* memcmp order; a key before those it begins. */
int km__sealed_compare(km_bytes a, km_bytes b);
/* How many bytes two keys begin with alike. */
size_t km__sealed_common_prefix(km_bytes a, km_bytes b);
/* The first 8 bytes of a key as a number that compares like them; a short key is filled up with
 * zeros. */
uint64_t km__sealed_head(const uint8_t *key, size_t size);

#endif
