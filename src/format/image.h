/* SPDX-License-Identifier: Apache-2.0
 *
 * image.h -- the bytes of the file index.image: a copy of the index, from which an open goes on
 * instead of replaying the whole log. Pure: no I/O, no allocation. FORMAT.md, 12.
 *
 *     header | lines of the nodes, zero fill to 4096 | table: maps, node counts, nodes
 *
 * Read the header; read the table; check it; then import its maps and nodes, and verify the lines
 * of each node when they are read. Whatever is wrong, the image is ignored. Decoders are total, and
 * encoders end the process rather than write what no decoder would take (as in files.h).
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
/* References have 14 bits for the segment, so this many numbers are told apart. */
#define IMAGE_SEGMENT_COUNT_MAX 16384u

/* How slots, nodes and hashes are laid out; the limits below belong to it. Give it another number
 * when src/index changes what a slot means, or base/hash.c how keys are hashed. */
#define IMAGE_LAYOUT_VERSION 1u
#define IMAGE_PARTITION_COUNT 48u
#define IMAGE_DEPTH_MAX 28u
#define IMAGE_LINE_BITS_MAX 9u
#define IMAGE_TAG_BITS_MAX 16u
#define IMAGE_LINE_SIZE 64u
#define IMAGE_LINE_SLOTS 8u

struct image_header {
    uint8_t store_id[STORE_ID_SIZE];
    uint32_t layout_version; /* not 0; of an image with another one than ours only `durable` is of
                                use */
    uint32_t head_number;    /* no reference leads to an older segment */
    uint64_t position;       /* the log is replayed from here on */
    uint64_t durable;        /* above every record that a reference leads to; everything below was
                                synced before the file got its name */
    uint64_t hash_sample;    /* km__image_hash_sample() of the writer */
    uint32_t next_map_id;    /* ids below it have been given out; up to KM_MAP_COUNT_MAX */
    uint32_t map_count;
    uint64_t node_count;
    uint64_t table_offset; /* a multiple of IMAGE_TABLE_ALIGNMENT */
    uint64_t table_size;
    uint32_t table_checksum; /* CRC-32C of the table */
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

#define IMAGE_COUNT_SIZE 8u
#define IMAGE_NODE_SIZE 32u

/* Where the parts of a table begin, in bytes from its start. */
struct image_table {
    uint64_t maps_size;     /* entries as in MAPS (catalogue.h), from the start */
    uint64_t counts_offset; /* for each map a u64le: its nodes */
    uint64_t nodes_offset;  /* nodes of IMAGE_NODE_SIZE bytes, for map after map */
};

/* The parts of the table that a header which was decoded, or is about to be encoded, tells of.
 * KM_E_CORRUPT if they do not fit. */
km_status km__image_table_locate(const struct image_header *header, struct image_table *out);

void km__image_node_encode(const struct image_node *node, uint8_t bytes[IMAGE_NODE_SIZE]);
/* KM_OK or KM_E_CORRUPT. */
km_status km__image_node_decode(const uint8_t bytes[IMAGE_NODE_SIZE], struct image_node *out);

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

#endif
