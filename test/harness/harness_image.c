/* SPDX-License-Identifier: Apache-2.0
 *
 * harness_image.c -- see harness_image.h.
 */
#include "harness/harness_image.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void load_file(struct image *image, const char *folder, const char *name)
{
    struct image_file *file = &image->files[image->count++];
    char path[HARNESS_PATH_SIZE];
    struct stat status;
    int fd;

    CHECK(image->count < IMAGE_FILE_MAX && strlen(name) < sizeof(file->name));
    harness_path(path, folder, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0 && fstat(fd, &status) == 0);
    snprintf(file->name, sizeof(file->name), "%s", name);
    file->size = (size_t)status.st_size;
    file->bytes = malloc(file->size + 1);
    CHECK(file->bytes && read(fd, file->bytes, file->size) == (ssize_t)file->size);
    close(fd);
}

static void load_folder(struct image *image, const char *folder, const char *prefix)
{
    char path[HARNESS_PATH_SIZE], name[HARNESS_PATH_SIZE];
    struct dirent *entry;
    DIR *dir;

    harness_path(path, folder, prefix);
    dir = opendir(path);
    CHECK(dir);
    while ((entry = readdir(dir))) {
        if (entry->d_type != DT_REG)
            continue;
        CHECK(snprintf(name, sizeof(name), "%s%s", prefix, entry->d_name) < (int)sizeof(name));
        load_file(image, folder, name);
    }
    closedir(dir);
}

static int compare_files(const void *a, const void *b)
{
    return strcmp(((const struct image_file *)a)->name, ((const struct image_file *)b)->name);
}

void image_load(struct image *image, const char *folder)
{
    image->count = 0;
    load_folder(image, folder, "");
    load_folder(image, folder, "log/");
    qsort(image->files, image->count, sizeof(image->files[0]), compare_files);
}

void image_write(const char *folder, const char *name, const void *bytes, size_t size)
{
    char path[HARNESS_PATH_SIZE];
    int fd;

    harness_path(path, folder, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
    close(fd);
}

void image_restore(const struct image *image, const char *folder)
{
    char path[HARNESS_PATH_SIZE];

    harness_remove(folder);
    CHECK(mkdir(folder, 0700) == 0);
    harness_path(path, folder, "log");
    CHECK(mkdir(path, 0700) == 0);
    for (size_t i = 0; i < image->count; i++)
        image_write(folder, image->files[i].name, image->files[i].bytes, image->files[i].size);
}

void image_free(struct image *image)
{
    for (size_t i = 0; i < image->count; i++)
        free(image->files[i].bytes);
    image->count = 0;
}

const struct image_file *image_find(const struct image *image, const char *name)
{
    for (size_t i = 0; i < image->count; i++) {
        if (strcmp(image->files[i].name, name) == 0)
            return &image->files[i];
    }
    return NULL;
}

void image_flip(const char *folder, const char *name, uint64_t offset, unsigned bit)
{
    char path[HARNESS_PATH_SIZE];
    uint8_t byte = 0;
    int fd;

    harness_path(path, folder, name);
    fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0 && pread(fd, &byte, 1, (off_t)offset) == 1);
    byte = (uint8_t)(byte ^ 1u << bit);
    CHECK(pwrite(fd, &byte, 1, (off_t)offset) == 1);
    close(fd);
}
