/* SPDX-License-Identifier: Apache-2.0
 *
 * image.h -- the bytes of the file index.image: a copy of the index, from which an open goes on
 * instead of replaying the whole log. Pure: no I/O, no allocation. FORMAT.md, 12.
 *
 *     header | lines of the nodes | data of the order chunks | data of the leaf chunks | zero fill
 * to 4096 | table: maps, what they have, nodes, order chunks, leaf chunks
 *
 * Read the header; read the table; check it; then import its maps and nodes, and verify the lines
 * of each node when they are read, and the data of each chunk. Whatever is wrong, the image is
 * ignored. Decoders are total, and encoders end the process rather than write what no decoder would
 * take (as in files.h).
 */
#ifndef KM_FORMAT_IMAGE_H
#define KM_FORMAT_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "format/files.h"

#define IMAGE_NAME "index.image"
#define IMAGE_NEW_NAME "new.image" /* while it is written */

#define IMAGE_HEADER_SIZE 4096u /* the lines begin here */
#define IMAGE_TABLE_ALIGNMENT 4096u
#define IMAGE_NODE_COUNT_MAX (UINT64_C(1) << 32)
#define IMAGE_CHUNK_COUNT_MAX (UINT64_C(1) << 32) /* of either kind */
/* References have 14 bits for the segment: numbers of a log's segments differ by this modulus. */
#define IMAGE_SEGMENT_COUNT_MAX 16384u

/* How slots, nodes, hashes and chunks are laid out; the limits below belong to it. Give it another
 * number when src/index changes what a slot means, or base/hash.c how keys are hashed. */
#define IMAGE_LAYOUT_VERSION 2u
#define IMAGE_PARTITION_COUNT 48u
#define IMAGE_DEPTH_MAX 28u
#define IMAGE_LINE_BITS_MAX 9u
#define IMAGE_TAG_BITS_MAX 16u
#define IMAGE_LINE_SIZE 64u
#define IMAGE_LINE_SLOTS 8u
#define IMAGE_ORDER_SLOTS_MAX 8192u
#define IMAGE_ORDINAL_MAX (UINT64_C(1) << 63) /* ordinals are below it */
#define IMAGE_LEAF_ENTRIES_MAX 14u
#define IMAGE_LEAF_HEADER_SIZE 8u
#define IMAGE_LEAF_SIZE_MAX (IMAGE_LEAF_HEADER_SIZE + 65536u + IMAGE_LEAF_ENTRIES_MAX * 16u)
#define IMAGE_LEAF_CHUNK_SIZE_MAX                                                                  \
    65536u                 /* but for a chunk of one leaf, which is as large as that */
#define IMAGE_REF_BITS 43u /* references are below 2 to that, and not 0 */

struct image_header {
    uint8_t store_id[STORE_ID_SIZE];
    uint32_t layout_version; /* not 0; of an image with another one than ours nothing but the
                                positions is of use, or checked */
    uint32_t head_number;    /* no reference leads to an older segment */
    uint64_t position;       /* the log is replayed from here on */
    uint64_t durable;        /* above every record that a reference leads to; everything below was
                                synced before the file got its name */
    uint64_t hash_sample;    /* km__image_hash_sample() of the writer */
    uint32_t next_map_id;    /* ids below it have been given out; up to KM_MAP_COUNT_MAX */
    uint32_t map_count;
    uint64_t node_count;
    uint64_t order_chunk_count;
    uint64_t leaf_chunk_count;
    uint64_t table_offset; /* a multiple of IMAGE_TABLE_ALIGNMENT */
    uint64_t table_size;
    uint32_t table_checksum; /* CRC-32C of the table */
};

/* What a map has in the image besides its entry. */
struct image_counts {
    uint64_t node_count;        /* 0 of a sorted map */
    uint64_t order_chunk_count; /* 0 but of a map in insertion order, as the next ordinal */
    uint64_t leaf_chunk_count;  /* 0 but of a sorted map, as the weight */
    uint64_t next_ordinal;      /* above all that were given out */
    uint64_t weight;            /* bytes of the records behind the references in the leaves */
    uint8_t has_expiry;         /* a record with an expiry may be among those referred to */
};

/* A stretch of a map's insertion order: references by ordinal, 0 where there is none. */
struct image_order_chunk {
    uint64_t first_ordinal;
    uint32_t slot_count; /* 1 to IMAGE_ORDER_SLOTS_MAX */
    uint32_t checksum;   /* km__image_chunk_sum() */
};

/* Leaves of a sorted map, one behind the other. */
struct image_leaf_chunk {
    uint32_t size; /* of their bytes */
    uint32_t leaf_count;
    uint32_t checksum;
};

/* A node of a map: the fields of struct hash_node that do not hang on memory. */
struct image_node {
    uint64_t prefix; /* its first `depth` own bits of hash, left-aligned, then zeros */
    uint64_t weight; /* modulo 2^64 */
    uint32_t count;
    uint32_t flagged_count;
    uint32_t checksum; /* km__image_lines_sum() */
    uint8_t partition;
    uint8_t depth;
    uint8_t line_bits;
    uint8_t tag_bits;
};

void km__image_header_encode(const struct image_header *header, uint8_t bytes[IMAGE_HEADER_SIZE]);
/* Takes any layout_version but 0. */
km_status km__image_header_decode(const uint8_t bytes[IMAGE_HEADER_SIZE], struct image_header *out);

static inline uint64_t km__image_file_size(const struct image_header *header)
{
    return header->table_offset + header->table_size;
}

/* Of a few fixed keys, under the store's secret: other builds may hash in another way (the secret
 * is stretched by a library), and their image would hide keys. */
uint64_t km__image_hash_sample(const struct hash_secret *secret);

/* ---- the table */

#define IMAGE_COUNTS_SIZE 48u
#define IMAGE_NODE_SIZE 32u
#define IMAGE_CHUNK_SIZE 16u

/* Where the parts of a table begin, in bytes from its start. */
struct image_table {
    uint64_t maps_size;     /* entries as in MAPS (catalogue.h), from the start */
    uint64_t counts_offset; /* for each map IMAGE_COUNTS_SIZE bytes */
    uint64_t nodes_offset;  /* nodes of IMAGE_NODE_SIZE bytes, for map after map */
    uint64_t orders_offset; /* order chunks of IMAGE_CHUNK_SIZE bytes, for map after map */
    uint64_t leaves_offset; /* leaf chunks, likewise */
};

/* The parts of the table that a header which was decoded, or is about to be encoded, tells of.
 * KM_E_CORRUPT if they do not fit. */
km_status km__image_table_locate(const struct image_header *header, struct image_table *out);

void km__image_node_encode(const struct image_node *node, uint8_t bytes[IMAGE_NODE_SIZE]);
void km__image_counts_encode(const struct image_counts *counts, uint8_t bytes[IMAGE_COUNTS_SIZE]);
void km__image_order_chunk_encode(const struct image_order_chunk *chunk,
                                  uint8_t bytes[IMAGE_CHUNK_SIZE]);
void km__image_leaf_chunk_encode(const struct image_leaf_chunk *chunk,
                                 uint8_t bytes[IMAGE_CHUNK_SIZE]);
/* KM_OK or KM_E_CORRUPT. */
km_status km__image_node_decode(const uint8_t bytes[IMAGE_NODE_SIZE], struct image_node *out);
km_status km__image_counts_decode(const uint8_t bytes[IMAGE_COUNTS_SIZE], struct image_counts *out);
km_status km__image_order_chunk_decode(const uint8_t bytes[IMAGE_CHUNK_SIZE],
                                       struct image_order_chunk *out);
km_status km__image_leaf_chunk_decode(const uint8_t bytes[IMAGE_CHUNK_SIZE],
                                      struct image_leaf_chunk *out);

/* Verify a table, of which header->table_size bytes may be read, in time linear in it: KM_OK;
 * KM_E_CORRUPT; KM_E_VERSION: another layout. */
km_status km__image_table_check(const struct image_header *header, const uint8_t *table);

/* ---- lines */

/* Bytes of a node's lines. They follow those of the node before it in the table; those of the first
 * lie at IMAGE_HEADER_SIZE. */
static inline uint64_t km__image_lines_size(const struct image_node *node)
{
    return (uint64_t)IMAGE_LINE_SIZE << node->line_bits;
}

/* The checksum of the lines, as stored (slots are u64le), of the node with that number: it counts
 * from 0 through the whole table. */
uint32_t km__image_lines_sum(const uint8_t *lines, uint64_t size, uint64_t node_number);

/* ---- chunks */

/* Bytes of a chunk's references. The data of the order chunks follow the lines of the last node,
 * those of the leaf chunks the last order chunk's, in the order of the table. */
static inline uint64_t km__image_order_size(const struct image_order_chunk *chunk)
{
    return (uint64_t)chunk->slot_count * 8;
}

/* The checksum of a chunk's data. `number`: nodes, then order chunks, then leaf chunks are counted
 * from 0 through the whole table. */
static inline uint32_t km__image_chunk_sum(const uint8_t *data, uint64_t size, uint64_t number)
{
    return km__image_lines_sum(data, size, number);
}

/* A leaf of a sorted map. */
struct image_leaf {
    uint64_t heads[IMAGE_LEAF_ENTRIES_MAX]; /* none is smaller than the one before */
    uint64_t refs[IMAGE_LEAF_ENTRIES_MAX];
    uint32_t count;
    uint32_t skip;
    uint32_t fence_size;
    const uint8_t *fence; /* lies in the chunk's data */
};

static inline uint64_t km__image_leaf_size(uint32_t count, uint32_t fence_size)
{
    return IMAGE_LEAF_HEADER_SIZE + ((fence_size + UINT64_C(7)) & ~UINT64_C(7)) +
           (uint64_t)count * 16;
}

/* Returns the size, at most IMAGE_LEAF_SIZE_MAX. */
size_t km__image_leaf_encode(const struct image_leaf *leaf, uint8_t *to);
/* The leaf at `bytes`, of which `available` may be read: KM_OK with its size, or KM_E_CORRUPT. */
km_status km__image_leaf_decode(const uint8_t *bytes, size_t available, struct image_leaf *out,
                                size_t *out_size);

#endif
