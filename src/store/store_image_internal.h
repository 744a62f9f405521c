/* SPDX-License-Identifier: Apache-2.0
 *
 * store_image_internal.h -- what the files that write and read index.image share.
 */
#ifndef KM_STORE_STORE_IMAGE_INTERNAL_H
#define KM_STORE_STORE_IMAGE_INTERNAL_H

#include "store/store_internal.h"

#include "format/catalogue.h"
#include "format/image.h"

/* ---- writing ----------------------------------------------------------------------------- */

/* A part of the table, as it grows. */
struct image_list {
    uint8_t *bytes;
    uint64_t size, capacity;
};

struct image_writer {
    struct km_store *store;
    struct os_file *file;
    struct image_header header;
    uint64_t linear;
    km_map **maps; /* map_count of them */
    struct image_counts *counts;
    struct image_list maps_list, nodes_list, orders_list, leaves_list;
    uint64_t *lines; /* of one node */
    uint8_t *chunk;  /* data of one chunk */
    uint8_t *buffer;
    uint64_t buffered, written; /* bytes; written: file offset of the buffer's begin */
};

/* store_image.c */
/* Room for `size` more bytes at the end of a list, which grows by them; NULL: no memory. */
uint8_t *km__image_extend(struct image_writer *writer, struct image_list *list, uint64_t size);
km_status km__image_write_bytes(struct image_writer *writer, const void *bytes, uint64_t size);

/* store_image_ordered.c: copy what one map has, data to the file, chunks to their list. */
km_status km__image_copy_order(struct image_writer *writer, uint32_t map_index);
km_status km__image_copy_tree(struct image_writer *writer, uint32_t map_index);

/* ---- reading ----------------------------------------------------------------------------- */

struct image_reader {
    struct km_store *store;
    struct image_header header;
    struct image_table table; /* where its parts are */
    const uint8_t *bytes;     /* the whole file */
    uint64_t size;
    km_map **maps;                 /* those of the image, in its order */
    struct hash_image_node *nodes; /* of one map */
    uint64_t number;               /* of the next node, then of the next chunk */
    uint64_t data_offset;          /* of its lines, or data */
};

/* store_image_load.c: whether a reference, which is not 0, leads to where a record may begin. */
int km__image_ref_is_sound(const struct km_store *store, uint64_t ref);

/* store_image_ordered.c: enter what one map has into its order, or tree, which is empty. */
km_status km__image_enter_order(struct image_reader *reader, km_map *map,
                                const struct image_counts *counts);
km_status km__image_enter_tree(struct image_reader *reader, km_map *map,
                               const struct image_counts *counts);

#endif
