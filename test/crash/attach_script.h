/* SPDX-License-Identifier: Apache-2.0
 *
 * attach_script.h -- for test_crash_attach.c: maps with sealed tables as an obvious model, a script
 * of steps that change them, and what a store says of itself.
 *
 * The text of a state tells of each map how many tables it has and which value each key has; a
 * table's value is the table's letter.
 */
#ifndef KM_TEST_CRASH_ATTACH_SCRIPT_H
#define KM_TEST_CRASH_ATTACH_SCRIPT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/harness_util.h"
#include "sim/sim.h"
#include "store/store_tables.h"

#define MAP_COUNT 2u
#define KEY_COUNT 12u
#define TABLE_COUNT 3u
#define STACK_MAX 4u
#define VALUE_SIZE 300u
#define STORE_PATH "store"
#define BACKUP_PATH "backup"
#define TEXT_SIZE 64u
#define HIDE '-'
#define NONE '.'

/* ---- the model --------------------------------------------------------------------------- */

struct map_model {
    int exists;
    uint32_t table_count;
    uint8_t tables[STACK_MAX]; /* the lowest first */
    char own[KEY_COUNT];       /* NONE, HIDE or the value's letter */
};

struct model {
    struct map_model maps[MAP_COUNT];
};

struct text {
    char bytes[TEXT_SIZE];
};

static const char *const map_names[MAP_COUNT] = {"hash", "tree"};
static const km_map_kind map_kinds[MAP_COUNT] = {KM_HASH, KM_SORTED};

static int table_has(uint32_t table, uint32_t key)
{
    static const uint32_t first[TABLE_COUNT] = {0, 3, 0}, end[TABLE_COUNT] = {6, 9, KEY_COUNT};

    return key >= first[table] && key < end[table] && (table != 2 || key % 2 == 0);
}

static char below_of(const struct map_model *map, uint32_t key)
{
    for (uint32_t i = map->table_count; i > 0; i--) {
        if (table_has(map->tables[i - 1], key))
            return (char)('A' + map->tables[i - 1]);
    }
    return NONE;
}

static char visible_of(const struct map_model *map, uint32_t key)
{
    if (map->own[key] == HIDE)
        return NONE;
    return map->own[key] == NONE ? below_of(map, key) : map->own[key];
}

static struct text text_of_model(const struct model *model)
{
    struct text text = {{0}};
    char *p = text.bytes;

    for (uint32_t m = 0; m < MAP_COUNT; m++) {
        const struct map_model *map = &model->maps[m];

        *p++ = map->exists ? (char)('0' + map->table_count) : '/';
        for (uint32_t key = 0; map->exists && key < KEY_COUNT; key++)
            *p++ = visible_of(map, key);
        *p++ = ' ';
    }
    return text;
}

/* ---- steps ------------------------------------------------------------------------------- */

enum step_kind {
    STEP_CREATE,
    STEP_PUT,
    STEP_DELETE,
    STEP_BATCH, /* puts one key, deletes the one behind it */
    STEP_ATTACH,
    STEP_DETACH,
    STEP_DROP,
    STEP_COMPACT,
    STEP_REOPEN,
    STEP_BACKUP
};

struct step {
    enum step_kind kind;
    uint32_t map;
    uint32_t key; /* or the table */
    char letter;
    int is_durable;
};

static const struct step script[] = {
    {STEP_CREATE, 0, 0, 0, 0},  {STEP_PUT, 0, 1, 'a', 0},   {STEP_PUT, 0, 10, 'b', 0},
    {STEP_ATTACH, 0, 0, 0, 0}, /* over own keys, which are not durable */
    {STEP_DELETE, 0, 0, 0, 1},  {STEP_DELETE, 0, 1, 0, 0},  {STEP_PUT, 0, 2, 'c', 0},
    {STEP_CREATE, 1, 0, 0, 0},  {STEP_ATTACH, 1, 2, 0, 0}, /* an empty map */
    {STEP_ATTACH, 0, 1, 0, 0},  {STEP_DELETE, 0, 8, 0, 1},  {STEP_BATCH, 0, 3, 'd', 0},
    {STEP_DELETE, 1, 4, 0, 1},  {STEP_PUT, 1, 4, 'e', 1},   {STEP_DELETE, 1, 6, 0, 0},
    {STEP_BACKUP, 0, 0, 0, 0},  {STEP_COMPACT, 0, 0, 0, 0}, {STEP_REOPEN, 0, 0, 0, 0},
    {STEP_PUT, 0, 5, 'f', 0},   {STEP_DETACH, 0, 0, 0, 0}, /* two, with hides of both */
    {STEP_PUT, 0, 0, 'g', 0},   {STEP_ATTACH, 0, 2, 0, 0}, /* what was hidden is not any more */
    {STEP_DELETE, 0, 8, 0, 0},  {STEP_DROP, 1, 0, 0, 0},    {STEP_DELETE, 0, 6, 0, 0},
    {STEP_CREATE, 1, 0, 0, 0},  {STEP_PUT, 1, 0, 'h', 1},   {STEP_ATTACH, 1, 1, 0, 0},
    {STEP_BATCH, 1, 4, 'i', 1}, {STEP_REOPEN, 0, 0, 0, 0},  {STEP_DROP, 1, 0, 0, 0},
    {STEP_REOPEN, 0, 0, 0, 0},  {STEP_DETACH, 0, 0, 0, 0},  {STEP_ATTACH, 0, 0, 0, 0},
};
#define STEP_COUNT (sizeof(script) / sizeof(script[0]))

static void model_delete(struct map_model *map, uint32_t key)
{
    map->own[key] = below_of(map, key) == NONE ? NONE : HIDE;
}

static void model_detach_top(struct map_model *map)
{
    map->table_count--;
    for (uint32_t key = 0; map->table_count == 0 && key < KEY_COUNT; key++) {
        if (map->own[key] == HIDE)
            map->own[key] = NONE;
    }
}

static void model_step(struct model *model, const struct step *step)
{
    struct map_model *map = &model->maps[step->map];

    switch (step->kind) {
    case STEP_CREATE:
    case STEP_DROP:
        memset(map, 0, sizeof(*map));
        memset(map->own, NONE, sizeof(map->own));
        map->exists = step->kind == STEP_CREATE;
        break;
    case STEP_PUT: map->own[step->key] = step->letter; break;
    case STEP_DELETE: model_delete(map, step->key); break;
    case STEP_BATCH:
        map->own[step->key] = step->letter;
        model_delete(map, step->key + 1);
        break;
    case STEP_ATTACH: map->tables[map->table_count++] = (uint8_t)step->key; break;
    case STEP_DETACH:
        while (map->table_count)
            model_detach_top(map);
        break;
    default: break;
    }
}

/* Whether all before it is durable once the step is done. */
static int makes_durable(const struct step *step)
{
    return step->is_durable || step->kind == STEP_ATTACH || step->kind == STEP_DETACH ||
           step->kind == STEP_REOPEN || step->kind == STEP_BACKUP;
}

/* ---- the store --------------------------------------------------------------------------- */

static km_bytes key_bytes(uint32_t key, uint8_t bytes[2])
{
    bytes[0] = 'k';
    bytes[1] = (uint8_t)('a' + key);
    return km_bytes_of(bytes, 2);
}

static km_bytes value_bytes(char letter, uint8_t bytes[VALUE_SIZE])
{
    memset(bytes, letter, VALUE_SIZE);
    return km_bytes_of(bytes, VALUE_SIZE);
}

static void table_path(uint32_t table, char out[16])
{
    snprintf(out, 16, "tables/%c", (char)('A' + table));
}

/* As tools do that copy files: it is not synced. */
static void copy_unsynced(struct os *os, const char *from, const char *to)
{
    struct os_dir *dir = NULL;
    struct os_file *file = NULL;
    uint8_t *bytes = NULL;
    size_t size = 0;

    CHECK(km__sim_read_path(os, from, &bytes, &size) == 0);
    CHECK_STATUS(os->ops->open_dir(os, "tables", &dir), KM_OK);
    CHECK_STATUS(os->ops->open_file(dir, to, OS_CREATE_NEW, &file), KM_OK);
    CHECK_STATUS(os->ops->write_at(file, 0, bytes, size), KM_OK);
    os->ops->close_file(file);
    os->ops->close_dir(dir);
    free(bytes);
}

static void build_tables(struct os *os)
{
    CHECK_STATUS(os->ops->create_dir(os, "tables"), KM_OK);
    for (uint32_t table = 0; table < TABLE_COUNT; table++) {
        km_sealed_builder *builder = NULL;
        uint8_t key_memory[2], value[VALUE_SIZE];
        char path[16];

        table_path(table, path);
        CHECK_STATUS(km__sealed_builder_open(os, "tables/built", NULL, &builder, NULL), KM_OK);
        for (uint32_t key = 0; key < KEY_COUNT; key++) {
            if (table_has(table, key))
                CHECK_STATUS(km_sealed_builder_add(builder, key_bytes(key, key_memory),
                                                   value_bytes((char)('A' + table), value)),
                             KM_OK);
        }
        CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
        copy_unsynced(os, "tables/built", path + strlen("tables/"));
    }
}

static km_status open_store(struct os *os, const char *path, km_open_mode mode,
                            km_store **out_store, km_error *error)
{
    km_options options = KM_OPTIONS_INIT;

    options.mode = mode;
    return km__store_open_with(os, path, &options, 0, out_store, error);
}

static km_map *map_of(km_store *store, uint32_t map)
{
    km_map *found = NULL;
    km_status rc = km_map_open(store, km_bytes_of_string(map_names[map]), &found);

    CHECK(rc == KM_OK || rc == KM_NOT_FOUND);
    return rc ? NULL : found;
}

static km_status commit_step(km_store *store, km_map *map, const struct step *step, km_write *write)
{
    uint8_t key[2], value[VALUE_SIZE];
    km_batch *batch = NULL;
    km_status rc = km_batch_create(store, &batch);

    if (!rc)
        rc = km_batch_put(batch, map, key_bytes(step->key, key), value_bytes(step->letter, value));
    if (!rc)
        rc = km_batch_del(batch, map, key_bytes(step->key + 1, key));
    if (!rc)
        rc = km_batch_commit(batch, write);
    km_batch_destroy(batch);
    return rc;
}

static km_status reopen_store(struct os *os, km_store **store, km_error *error)
{
    km_status rc = km_close(*store, error);

    *store = NULL;
    return rc ? rc : open_store(os, STORE_PATH, KM_OPEN_EXISTING, store, error);
}

static km_status run_step(struct os *os, km_store **store, const struct step *step, km_error *error)
{
    km_map *map = map_of(*store, step->map);
    km_write write = KM_WRITE_INIT;
    uint8_t key[2], value[VALUE_SIZE];
    char path[16];

    write.durability = step->is_durable ? KM_DURABLE_POWER : KM_DURABLE_PROCESS;
    switch (step->kind) {
    case STEP_CREATE:
        return km_map_create(*store, km_bytes_of_string(map_names[step->map]), map_kinds[step->map],
                             &map);
    case STEP_PUT:
        return km_put(map, key_bytes(step->key, key), value_bytes(step->letter, value), &write);
    case STEP_DELETE: return km_del(map, key_bytes(step->key, key), &write);
    case STEP_BATCH: return commit_step(*store, map, step, &write);
    case STEP_ATTACH: table_path(step->key, path); return km_attach_sealed(map, path, error);
    case STEP_DETACH: return km_detach_sealed(map, error);
    case STEP_DROP: return km_map_drop(map);
    case STEP_COMPACT: return km_compact(*store, NULL, NULL, error);
    case STEP_REOPEN: return reopen_store(os, store, error);
    case STEP_BACKUP: return km_backup(*store, BACKUP_PATH, NULL, NULL, error);
    }
    return KM_E_INVALID;
}

/* ---- what is in it ----------------------------------------------------------------------- */

static char letter_of(km_bytes value)
{
    const char *p = value.data;

    CHECK(value.size == VALUE_SIZE && p[0] == p[VALUE_SIZE / 2] && p[0] == p[VALUE_SIZE - 1]);
    return p[0];
}

static void read_by_walk(km_map *map, int is_reverse, char out[KEY_COUNT])
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;
    km_bytes key, value;

    memset(out, NONE, KEY_COUNT);
    options.reverse = is_reverse;
    CHECK_STATUS(km_cursor_open(map, &options, &cursor), KM_OK);
    while (km_cursor_next(cursor, &key, &value) == KM_OK) {
        uint32_t number = (uint32_t)(((const char *)key.data)[1] - 'a');

        CHECK(key.size == 2 && number < KEY_COUNT && out[number] == NONE);
        out[number] = letter_of(value);
    }
    km_cursor_close(cursor);
}

static void read_by_get(km_map *map, char out[KEY_COUNT])
{
    km_buffer buffer = KM_BUFFER_INIT;
    uint8_t key[2];

    memset(out, NONE, KEY_COUNT);
    for (uint32_t i = 0; i < KEY_COUNT; i++) {
        km_status rc = km_get(map, key_bytes(i, key), &buffer);

        CHECK_MSG(rc == KM_OK || rc == KM_NOT_FOUND, "get: %s", km_status_name(rc));
        if (!rc)
            out[i] = letter_of(km_bytes_of(buffer.data, buffer.size));
    }
    km_buffer_free(&buffer);
}

static int count_attached(void *context, const km_attached *attached)
{
    CHECK(strncmp(attached->name, "table-", 6) == 0);
    ++*(uint32_t *)context;
    return 0;
}

/* What hid keys of tables that are away is counted until it is gone, and stays as long as their
 * names could not be removed. */
static void check_count(km_map *map, uint32_t table_count, uint64_t visible)
{
    int is_read_only = map->store->options.mode == KM_OPEN_READ_ONLY;

    if (table_count == 0 && km_count(map) > visible && (is_read_only || map->has_strays))
        return;
    if (table_count == 0 && km_count(map) > visible)
        CHECK_STATUS(km__expire_map(map), KM_OK);
    CHECK_MSG(km_count(map) == visible, "a count of %llu, %llu keys, %u tables",
              (unsigned long long)km_count(map), (unsigned long long)visible, table_count);
}

/* C2 */
static char *read_map(km_map *map, char *out)
{
    char again[KEY_COUNT];
    uint32_t table_count = 0;
    uint64_t visible = 0;

    CHECK_STATUS(km_list_attached(map, count_attached, &table_count), KM_OK);
    *out++ = (char)('0' + table_count);
    read_by_get(map, out);
    read_by_walk(map, 0, again);
    CHECK_MSG(memcmp(out, again, KEY_COUNT) == 0, "gets say %.12s, a walk %.12s", out, again);
    if (map->kind == KM_SORTED) {
        read_by_walk(map, 1, again);
        CHECK(memcmp(out, again, KEY_COUNT) == 0);
    }
    for (uint32_t key = 0; key < KEY_COUNT; key++)
        visible += out[key] != NONE;
    check_count(map, table_count, visible);
    return out + KEY_COUNT;
}

static struct text read_store(km_store *store)
{
    struct text text = {{0}};
    char *p = text.bytes;

    for (uint32_t m = 0; m < MAP_COUNT; m++) {
        km_map *map = map_of(store, m);

        if (map)
            p = read_map(map, p);
        else
            *p++ = '/';
        *p++ = ' ';
    }
    return text;
}

static uint32_t tables_in(const struct text *text)
{
    const char *p = text->bytes;
    uint32_t count = 0;

    for (uint32_t m = 0; m < MAP_COUNT; m++) {
        count += *p == '/' ? 0 : (uint32_t)(*p - '0');
        p = strchr(p, ' ') + 1;
    }
    return count;
}

#endif
