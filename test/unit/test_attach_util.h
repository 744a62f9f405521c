/* SPDX-License-Identifier: Apache-2.0
 *
 * test_attach_util.h -- what the tests of attached tables share: a store with two maps, on this
 * machine or a simulated one, without threads; tables whose keys and values numbers determine.
 */
#ifndef KM_TEST_UNIT_TEST_ATTACH_UTIL_H
#define KM_TEST_UNIT_TEST_ATTACH_UTIL_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/harness_util.h"
#include "sealed/sealed.h"
#include "sim/sim.h"
#include "store/store_internal.h"

#define NOON UINT64_C(1700000000000)
#define SECOND_NS UINT64_C(1000000000)
#define MAP_COUNT 2u
#define TEXT_SIZE 64u

static const km_map_kind world_kinds[MAP_COUNT] = {KM_HASH, KM_SORTED};
static const char *const world_names[MAP_COUNT] = {"hash", "sorted"};

static struct world {
    struct os *os;
    int is_sim, is_in_memory;
    char folder[HARNESS_PATH_SIZE]; /* of this machine's */
    char path[HARNESS_PATH_SIZE];   /* of the store */
    km_store *store;
    km_map *maps[MAP_COUNT];
    char key[TEXT_SIZE], value[TEXT_SIZE];
} world;

static inline void world_path(char out[HARNESS_PATH_SIZE], const char *name)
{
    if (world.is_sim)
        snprintf(out, HARNESS_PATH_SIZE, "%s", name);
    else
        harness_path(out, world.folder, name);
}

static inline km_status try_open(km_open_mode mode, km_store **out_store, km_error *error)
{
    km_options options = KM_OPTIONS_INIT;

    options.mode = mode;
    options.log_size_min = UINT64_C(1) << 40; /* compaction is done by hand */
    return world.is_in_memory
               ? km__store_open_memory_with(world.os, &options, 0, out_store, error)
               : km__store_open_with(world.os, world.path, &options, 0, out_store, error);
}

static inline void open_world_store(km_open_mode mode)
{
    km_error error = {KM_OK, 0, 0, "", ""};
    km_status rc = try_open(mode, &world.store, &error);

    CHECK_MSG(rc == KM_OK, "open: %s: %s: %s", km_status_name(rc), error.file, error.message);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        CHECK_STATUS(km_map_open_or_create(world.store, km_bytes_of_string(world_names[i]),
                                           world_kinds[i], &world.maps[i]),
                     KM_OK);
}

static inline void reopen_world(void)
{
    harness_close(world.store);
    open_world_store(KM_OPEN_EXISTING);
}

static inline int open_sim(void **state)
{
    (void)state;
    memset(&world, 0, sizeof(world));
    world.os = km__sim_create(harness_seed());
    world.is_sim = 1;
    km__sim_set_wall(world.os, NOON);
    world_path(world.path, "store");
    open_world_store(KM_CREATE_NEW);
    return 0;
}

static inline int open_real(void **state)
{
    (void)state;
    memset(&world, 0, sizeof(world));
    world.os = km__os_linux();
    harness_make_folder(world.folder);
    world_path(world.path, "store");
    open_world_store(KM_CREATE_NEW);
    return 0;
}

static inline int close_world(void **state)
{
    (void)state;
    if (world.store)
        harness_close(world.store);
    if (!world.is_sim) {
        harness_remove(world.folder);
        return 0;
    }
    CHECK(km__sim_allocated_bytes(world.os) == 0 && km__sim_open_count(world.os) == 0);
    km__sim_destroy(world.os);
    return 0;
}

/* ---- keys and values ----------------------------------------------------------------------- */

static inline km_bytes key_of(uint32_t number)
{
    snprintf(world.key, sizeof(world.key), "key %05u", number);
    return km_bytes_of_string(world.key);
}

static inline km_bytes value_of(const char *tag, uint32_t number)
{
    snprintf(world.value, sizeof(world.value), "%s of %u", tag, number);
    return km_bytes_of_string(world.value);
}

static inline void put(km_map *map, uint32_t key, const char *tag)
{
    CHECK_STATUS(km_put(map, key_of(key), value_of(tag, key), NULL), KM_OK);
}

static inline void del(km_map *map, uint32_t key)
{
    CHECK_STATUS(km_del(map, key_of(key), NULL), KM_OK);
}

/* The key has that value, or (NULL) is not there. */
static inline void check_key(km_map *map, uint32_t key, const char *tag)
{
    km_buffer buffer = KM_BUFFER_INIT;
    km_status rc = km_get(map, key_of(key), &buffer);
    km_bytes value = value_of(tag ? tag : "", key);

    CHECK_MSG(rc == (tag ? KM_OK : KM_NOT_FOUND), "key %u: %s", key, km_status_name(rc));
    if (!rc)
        CHECK_MSG(buffer.size == value.size && memcmp(buffer.data, value.data, value.size) == 0,
                  "key %u: %.*s", key, (int)buffer.size, (char *)buffer.data);
    km_buffer_free(&buffer);
}

static inline void check_keys(km_map *map, uint32_t from, uint32_t to, const char *tag)
{
    for (uint32_t key = from; key < to; key++)
        check_key(map, key, tag);
}

/* The count that is kept, and what a walk meets. */
static inline void check_count(km_map *map, uint64_t expected)
{
    km_cursor *cursor = NULL;
    uint64_t met = 0;
    km_status rc;

    CHECK_MSG(km_count(map) == expected, "%llu are counted, not %llu",
              (unsigned long long)km_count(map), (unsigned long long)expected);
    CHECK_STATUS(km_cursor_open(map, NULL, &cursor), KM_OK);
    while ((rc = km_cursor_next(cursor, NULL, NULL)) == KM_OK)
        met++;
    CHECK_STATUS(rc, KM_END);
    CHECK_MSG(met == expected, "%llu are met, not %llu", (unsigned long long)met,
              (unsigned long long)expected);
    km_cursor_close(cursor);
}

/* ---- tables -------------------------------------------------------------------------------- */

static inline void build_with(const char *path, const km_sealed_build_options *options,
                              uint32_t from, uint32_t to, const char *tag)
{
    km_sealed_builder *builder = NULL;

    CHECK_STATUS(km__sealed_builder_open(world.os, path, options, &builder, NULL), KM_OK);
    for (uint32_t key = from; key < to; key++)
        CHECK_STATUS(km_sealed_builder_add(builder, key_of(key), value_of(tag, key)), KM_OK);
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
}

/* A table with the keys from `from` up to `to`; its path. */
static inline const char *build(const char *tag, uint32_t from, uint32_t to)
{
    static char path[HARNESS_PATH_SIZE];
    char name[TEXT_SIZE];

    snprintf(name, sizeof(name), "%s.table", tag);
    world_path(path, name);
    build_with(path, NULL, from, to, tag);
    return path;
}

static inline void attach(km_map *map, const char *path)
{
    km_error error = {KM_OK, 0, 0, "", ""};
    km_status rc = km_attach_sealed(map, path, &error);

    CHECK_MSG(rc == KM_OK, "attach: %s: %s: %s", km_status_name(rc), error.file, error.message);
}

/* One table under each map. */
static inline void attach_to_all(const char *tag, uint32_t from, uint32_t to)
{
    const char *path = build(tag, from, to);

    for (uint32_t i = 0; i < MAP_COUNT; i++)
        attach(world.maps[i], path);
}

static inline void refuse(km_map *map, const char *path, km_status status, const char *words)
{
    km_error error = {KM_OK, 0, 0, "", ""};

    CHECK_STATUS(km_attach_sealed(map, path, &error), status);
    CHECK_MSG(error.status == status && strstr(error.message, words), "%s, without `%s`",
              error.message, words);
}

static inline int take_name(void *context, const km_attached *attached)
{
    snprintf(context, HARNESS_PATH_SIZE, "%s", attached->name);
    return 1;
}

/* The path of the uppermost table in the store's folder. */
static inline void table_path(km_map *map, char out[HARNESS_PATH_SIZE])
{
    char name[HARNESS_PATH_SIZE];

    CHECK_STATUS(km_list_attached(map, take_name, name), KM_STOPPED);
    harness_path(out, world.path, name);
}

/* Files in the store's folder that begin so. */
static inline uint32_t count_files(const char *begin)
{
    DIR *dir = opendir(world.path);
    const struct dirent *entry;
    uint32_t count = 0;

    CHECK(dir != NULL);
    while ((entry = readdir(dir)) != NULL)
        count += strncmp(entry->d_name, begin, strlen(begin)) == 0;
    closedir(dir);
    return count;
}

static inline void damage(const char *path, uint64_t offset)
{
    FILE *file = fopen(path, "r+b");
    int byte;

    CHECK(file && fseek(file, (long)offset, SEEK_SET) == 0 && (byte = fgetc(file)) != EOF);
    CHECK(fseek(file, (long)offset, SEEK_SET) == 0 && fputc(byte ^ 1, file) != EOF);
    CHECK(fclose(file) == 0);
}

#endif
