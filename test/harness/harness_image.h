/* SPDX-License-Identifier: Apache-2.0
 *
 * harness_image.h -- a store's files in memory, to bring them back after each damage.
 */
#ifndef KM_TEST_HARNESS_HARNESS_IMAGE_H
#define KM_TEST_HARNESS_HARNESS_IMAGE_H

#include "harness/harness_util.h"

#define IMAGE_FILE_MAX 64u

struct image_file {
    char name[64]; /* within the store's folder */
    uint8_t *bytes;
    size_t size;
};

struct image {
    struct image_file files[IMAGE_FILE_MAX];
    size_t count;
};

/* Read all files of a store's folder, sorted by name. */
void image_load(struct image *image, const char *folder);
/* Make the folder hold exactly these files. */
void image_restore(const struct image *image, const char *folder);
void image_free(struct image *image);

const struct image_file *image_find(const struct image *image, const char *name);

/* One whole file, made or replaced. */
void image_write(const char *folder, const char *name, const void *bytes, size_t size);
/* Turn one bit of a file, in place. */
void image_flip(const char *folder, const char *name, uint64_t offset, unsigned bit);

#endif
