/* SPDX-License-Identifier: Apache-2.0
 *
 * test_model.c -- random calls against an obvious model: an array entry for each key that can be.
 *
 * Keys are numbers below KEY_COUNT, each of which stands for fixed bytes; a value is known by a
 * number that determines its bytes. After a reopen, and at the end, everything is compared.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "harness/harness_util.h"

#define KEY_COUNT 3000u
#define MAP_COUNT 4u
#define LARGE_KEY_COUNT 6u /* the last ones */
#define BATCH_MAX 48u
#define MANY_MAX 70u
#define VALUE_MAX (4u << 20)

struct entry {
    uint64_t number; /* of the value; 0: the key is not there */
    uint32_t size;
    uint64_t inserted; /* grows with each insertion */
};

struct model_map {
    km_map *map;     /* NULL: there is no such map */
    km_map *dropped; /* a handle of an earlier one of this name */
    uint64_t count, inserted_count;
    struct entry entries[KEY_COUNT];
};

struct model {
    struct harness_random random;
    km_store *store;
    km_options options;
    int in_memory;
    char path[HARNESS_PATH_SIZE];
    struct model_map maps[MAP_COUNT];
    uint64_t last_number;
    km_position last_position;
    uint64_t calls;
    km_buffer buffer, previous;
};

static uint8_t *key_bytes[KEY_COUNT];
static size_t key_sizes[KEY_COUNT];
static uint8_t *value_bytes;

/* ---- keys and values --------------------------------------------------------------------- */

static size_t key_size_of(uint32_t key)
{
    static const size_t large[LARGE_KEY_COUNT] = {1000, 4095, 4096, 20000, 65534, 65535};

    if (key == 0)
        return 0;
    if (key >= KEY_COUNT - LARGE_KEY_COUNT)
        return large[key - (KEY_COUNT - LARGE_KEY_COUNT)];
    return 2 + key % 40;
}

static int make_keys(void **state)
{
    (void)state;
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        size_t size = key_size_of(key);

        key_sizes[key] = size;
        key_bytes[key] = calloc(1, size + 8);
        assert_non_null(key_bytes[key]);
        harness_fill(key_bytes[key], size, key);
        if (size >= 2) /* different, whatever the rest is */
            km__store16(key_bytes[key] + size - 2, (uint16_t)key);
    }
    value_bytes = malloc(VALUE_MAX);
    assert_non_null(value_bytes);
    return 0;
}

static int free_keys(void **state)
{
    (void)state;
    for (uint32_t key = 0; key < KEY_COUNT; key++)
        free(key_bytes[key]);
    free(value_bytes);
    return 0;
}

static km_bytes key_of(uint32_t key)
{
    return km_bytes_of(key ? key_bytes[key] : NULL, key_sizes[key]);
}

/* The number of the key of these bytes; fails if there is none. */
static uint32_t key_number(km_bytes bytes)
{
    uint32_t key = 0;

    if (bytes.size)
        key = km__load16((const uint8_t *)bytes.data + bytes.size - 2);
    CHECK(key < KEY_COUNT && key_sizes[key] == bytes.size);
    CHECK(bytes.size == 0 || memcmp(key_bytes[key], bytes.data, bytes.size) == 0);
    return key;
}

static uint32_t random_size(struct model *model)
{
    uint64_t dice = harness_below(&model->random, 20000);

    if (dice == 0)
        return (uint32_t)harness_below(&model->random, VALUE_MAX + 1);
    if (dice < 4)
        return (uint32_t)harness_below(&model->random, 300000);
    if (dice < 400)
        return (uint32_t)harness_below(&model->random, 8192);
    return (uint32_t)harness_below(&model->random, 120);
}

static struct entry new_value(struct model *model, km_bytes *out)
{
    struct entry entry = {++model->last_number, random_size(model), 0};

    harness_fill(value_bytes, entry.size, entry.number);
    *out = km_bytes_of(entry.size ? value_bytes : NULL, entry.size);
    return entry;
}

static void check_value(const struct entry *entry, const void *data, size_t size)
{
    CHECK_MSG(entry->size == size && harness_is_filled(data, size, entry->number),
              "a wrong value: %zu bytes, should be %u bytes of number %llu", size, entry->size,
              (unsigned long long)entry->number);
}

static uint32_t random_key(struct model *model)
{
    uint64_t dice = harness_below(&model->random, 16);

    if (dice < 4) /* often the same few, the empty one among them */
        return (uint32_t)harness_below(&model->random, 24);
    if (dice == 4 && harness_below(&model->random, 8) == 0)
        return KEY_COUNT - 1 - (uint32_t)harness_below(&model->random, LARGE_KEY_COUNT);
    return (uint32_t)harness_below(&model->random, KEY_COUNT - LARGE_KEY_COUNT);
}

/* Map 0 is a hash map, 1 in insertion order, 2 sorted, 3 in insertion order. */
static km_map_kind kind_of(uint32_t map)
{
    static const km_map_kind kinds[MAP_COUNT] = {KM_HASH, KM_INSERTION, KM_SORTED, KM_INSERTION};

    return kinds[map];
}

static struct model_map *random_map(struct model *model)
{
    for (;;) { /* ends: map 0 is never dropped */
        struct model_map *map = &model->maps[harness_below(&model->random, MAP_COUNT)];

        if (map->map)
            return map;
    }
}

static km_bytes map_name(uint32_t i, char name[32])
{
    snprintf(name, 32, "map %u", i);
    return km_bytes_of(name, strlen(name) + 1); /* with its NUL: names are of any content */
}

static void set_entry(struct model_map *map, uint32_t key, struct entry entry)
{
    map->count += entry.number != 0;
    map->count -= map->entries[key].number != 0;
    entry.inserted = map->entries[key].number ? map->entries[key].inserted : ++map->inserted_count;
    map->entries[key] = entry;
}

static void check_position(struct model *model, km_position position)
{
    CHECK(position > model->last_position);
    model->last_position = position;
}

/* ---- single changes ---------------------------------------------------------------------- */

static void init_write(struct model *model, km_write *write)
{
    static const km_write init = KM_WRITE_INIT;

    *write = init;
    write->existed = 77;
    if (harness_below(&model->random, 2))
        write->previous = &model->previous;
}

static void check_write(struct model *model, const struct entry *before, const km_write *write)
{
    check_position(model, write->position);
    CHECK(write->existed == (before->number != 0));
    if (write->previous)
        check_value(before, model->previous.data, model->previous.size);
}

static void call_put(struct model *model)
{
    struct model_map *map = random_map(model);
    uint32_t key = random_key(model);
    struct entry entry;
    km_bytes value;
    km_write write;

    entry = new_value(model, &value);
    init_write(model, &write);
    if (harness_below(&model->random, 3) == 0) {
        CHECK_STATUS(km_put(map->map, key_of(key), value, NULL), KM_OK);
    } else {
        CHECK_STATUS(km_put(map->map, key_of(key), value, &write), KM_OK);
        check_write(model, &map->entries[key], &write);
    }
    set_entry(map, key, entry);
}

static void call_del(struct model *model)
{
    static const struct entry none = {0, 0, 0};
    struct model_map *map = random_map(model);
    uint32_t key = random_key(model);
    int is_there = map->entries[key].number != 0;
    km_write write;

    init_write(model, &write);
    CHECK_STATUS(km_del(map->map, key_of(key), &write), is_there ? KM_OK : KM_NOT_FOUND);
    if (is_there)
        check_write(model, &map->entries[key], &write);
    else
        CHECK(write.existed == 77 && write.position == 0);
    set_entry(map, key, none);
}

/* ---- batches ----------------------------------------------------------------------------- */

/* A change of a batch. */
struct batched {
    struct model_map *map;
    uint32_t key;
    struct entry entry;
};

static void add_to_batch(struct model *model, km_batch *batch, struct batched *batched)
{
    struct entry entry = {0, 0, 0};
    struct model_map *map = batched->map;
    uint32_t key = batched->key;
    km_bytes value;

    if (harness_below(&model->random, 4) == 0) {
        CHECK_STATUS(km_batch_del(batch, map->map, key_of(key)), KM_OK);
    } else {
        entry = new_value(model, &value);
        CHECK_STATUS(km_batch_put(batch, map->map, key_of(key), value), KM_OK);
    }
    batched->entry = entry;
}

/* Of each key the last change counts, and nothing else of it ever happened. */
static void apply_batched(const struct batched *batched, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t j = i + 1;

        while (j < count && (batched[j].map != batched[i].map || batched[j].key != batched[i].key))
            j++;
        if (j == count)
            set_entry(batched[i].map, batched[i].key, batched[i].entry);
    }
}

static void call_batch(struct model *model)
{
    static const km_write init = KM_WRITE_INIT;
    km_write write = init;
    size_t count = 1 + harness_below(&model->random, BATCH_MAX);
    struct batched batched[BATCH_MAX];
    km_batch *batch = NULL;

    CHECK_STATUS(km_batch_create(model->store, &batch), KM_OK);
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || harness_below(&model->random, 3)) { /* else the same key: the later wins */
            batched[i].map = random_map(model);
            batched[i].key = random_key(model);
        } else {
            batched[i] = batched[i - 1];
        }
        add_to_batch(model, batch, &batched[i]);
    }
    apply_batched(batched, count);
    CHECK_STATUS(km_batch_commit(batch, &write), KM_OK);
    if (write.position) /* 0: one delete of a key that is not there */
        check_position(model, write.position);
    else
        CHECK(count == 1);
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK); /* it is empty now */
    km_batch_destroy(batch);
}

/* ---- reads ------------------------------------------------------------------------------- */

static void call_get(struct model *model)
{
    struct model_map *map = random_map(model);
    uint32_t key = random_key(model);
    const struct entry *entry = &map->entries[key];
    km_reader *reader = NULL;
    km_bytes value = {NULL, 0};

    CHECK_STATUS(km_contains(map->map, key_of(key)), entry->number ? KM_OK : KM_NOT_FOUND);
    if (harness_below(&model->random, 2)) {
        CHECK_STATUS(km_get(map->map, key_of(key), &model->buffer),
                     entry->number ? KM_OK : KM_NOT_FOUND);
        if (entry->number)
            check_value(entry, model->buffer.data, model->buffer.size);
        return;
    }
    CHECK_STATUS(km_read_begin(model->store, &reader), KM_OK);
    CHECK_STATUS(km_get_ref(reader, map->map, key_of(key), &value),
                 entry->number ? KM_OK : KM_NOT_FOUND);
    if (entry->number)
        check_value(entry, value.data, value.size);
    CHECK((uintptr_t)value.data % 8 == 0);
    km_read_end(reader);
}

static void call_get_many(struct model *model)
{
    struct model_map *map = random_map(model);
    size_t count = harness_below(&model->random, MANY_MAX + 1), found = 999, expected = 0;
    uint32_t numbers[MANY_MAX];
    km_bytes keys[MANY_MAX], values[MANY_MAX];
    km_reader *reader = NULL;

    for (size_t i = 0; i < count; i++) {
        numbers[i] = random_key(model);
        keys[i] = key_of(numbers[i]);
    }
    CHECK_STATUS(km_read_begin(model->store, &reader), KM_OK);
    CHECK_STATUS(km_get_many(reader, map->map, keys, count, values, &found), KM_OK);
    for (size_t i = 0; i < count; i++) {
        const struct entry *entry = &map->entries[numbers[i]];

        CHECK((entry->number != 0) == (values[i].data != NULL));
        check_value(entry, values[i].data, values[i].size);
        expected += entry->number != 0;
    }
    CHECK(found == expected);
    km_read_end(reader);
}

static int is_before(const struct model_map *map, km_map_kind kind, uint32_t a, uint32_t b)
{
    size_t shorter = key_sizes[a] < key_sizes[b] ? key_sizes[a] : key_sizes[b];
    int result = memcmp(key_bytes[a], key_bytes[b], shorter);

    if (kind == KM_HASH)
        return 1;
    if (kind == KM_INSERTION)
        return map->entries[a].inserted < map->entries[b].inserted;
    return result < 0 || (result == 0 && key_sizes[a] < key_sizes[b]);
}

static void compare_map(struct model_map *map, km_map_kind kind)
{
    static uint8_t seen[KEY_COUNT];
    uint32_t last = 0;
    km_cursor *cursor = NULL;
    km_bytes key, value;
    uint64_t count = 0;
    km_status rc;

    memset(seen, 0, sizeof(seen));
    CHECK(km_count(map->map) == map->count);
    CHECK_STATUS(km_cursor_open(map->map, NULL, &cursor), KM_OK);
    while ((rc = km_cursor_next(cursor, &key, &value)) == KM_OK) {
        uint32_t number = key_number(key);

        CHECK(map->entries[number].number != 0 && !seen[number]);
        CHECK(count == 0 || is_before(map, kind, last, number));
        last = number;
        seen[number] = 1;
        check_value(&map->entries[number], value.data, value.size);
        count++;
    }
    CHECK_STATUS(rc, KM_END);
    CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_END);
    km_cursor_close(cursor);
    CHECK(count == map->count);
}

static void compare_gets(struct model *model, struct model_map *map)
{
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        const struct entry *entry = &map->entries[key];

        CHECK_STATUS(km_get(map->map, key_of(key), &model->buffer),
                     entry->number ? KM_OK : KM_NOT_FOUND);
        if (entry->number)
            check_value(entry, model->buffer.data, model->buffer.size);
    }
}

struct listing {
    struct model *model;
    uint32_t count;
};

static int check_listed(void *context, const km_map_info *info)
{
    struct listing *listing = context;
    char name[32];

    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        km_bytes expected = map_name(i, name);

        if (expected.size != info->name.size ||
            memcmp(expected.data, info->name.data, expected.size))
            continue;
        CHECK(listing->model->maps[i].map && info->kind == kind_of(i));
        CHECK(info->count == listing->model->maps[i].count);
        listing->count++;
        return 0;
    }
    CHECK(!"a map that nobody made");
    return 1;
}

static void compare_all(struct model *model)
{
    struct listing listing = {model, 0};
    km_stats stats = {.struct_size = sizeof(stats)};
    uint64_t maps = 0, keys = 0;

    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        if (!model->maps[i].map)
            continue;
        compare_map(&model->maps[i], kind_of(i));
        compare_gets(model, &model->maps[i]);
        maps++;
        keys += model->maps[i].count;
    }
    CHECK_STATUS(km_map_list(model->store, check_listed, &listing), KM_OK);
    CHECK(listing.count == maps);
    CHECK_STATUS(km_store_stats(model->store, &stats), KM_OK);
    CHECK(stats.map_count == maps && stats.key_count == keys &&
          stats.live_bytes <= stats.log_bytes);
}

/* ---- maps -------------------------------------------------------------------------------- */

static void call_clear(struct model *model)
{
    struct model_map *map = random_map(model);

    CHECK_STATUS(km_map_clear(map->map), KM_OK);
    memset(map->entries, 0, sizeof(map->entries));
    map->count = 0;
    CHECK(km_count(map->map) == 0);
}

static void check_dropped(struct model *model, km_map *map)
{
    CHECK_STATUS(km_put(map, key_of(1), key_of(1), NULL), KM_E_DROPPED);
    CHECK_STATUS(km_del(map, key_of(1), NULL), KM_E_DROPPED);
    CHECK_STATUS(km_get(map, key_of(1), &model->buffer), KM_E_DROPPED);
    CHECK(km_count(map) == 0);
}

static void call_drop_or_create(struct model *model)
{
    uint32_t i = 1 + (uint32_t)harness_below(&model->random, MAP_COUNT - 1);
    struct model_map *map = &model->maps[i];
    char name[32];

    if (map->map) {
        CHECK_STATUS(km_map_drop(map->map), KM_OK);
        map->dropped = map->map;
        map->map = NULL;
        map->count = 0;
        memset(map->entries, 0, sizeof(map->entries));
        CHECK_STATUS(km_map_open(model->store, map_name(i, name), &map->map), KM_NOT_FOUND);
    } else {
        CHECK_STATUS(km_map_create(model->store, map_name(i, name), kind_of(i), &map->map), KM_OK);
    }
    if (map->dropped)
        check_dropped(model, map->dropped);
}

/* ---- opening ----------------------------------------------------------------------------- */

static void open_store(struct model *model)
{
    char name[32];

    if (model->in_memory)
        CHECK_STATUS(km_open_memory(&model->options, &model->store, NULL), KM_OK);
    else
        model->store = harness_open(model->path, &model->options);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        struct model_map *map = &model->maps[i];

        map->dropped = NULL;
        if (map->map)
            CHECK_STATUS(km_map_open(model->store, map_name(i, name), &map->map), KM_OK);
        else
            CHECK_STATUS(km_map_open(model->store, map_name(i, name), &map->dropped), KM_NOT_FOUND);
    }
}

static void compare_read_only(struct model *model)
{
    km_open_mode mode = model->options.mode;
    km_batch *batch = NULL;

    model->options.mode = KM_OPEN_READ_ONLY;
    open_store(model);
    compare_all(model);
    CHECK_STATUS(km_put(model->maps[0].map, key_of(1), key_of(1), NULL), KM_E_READ_ONLY);
    CHECK_STATUS(km_batch_create(model->store, &batch), KM_E_READ_ONLY);
    CHECK_STATUS(km_map_clear(model->maps[0].map), KM_E_READ_ONLY);
    harness_close(model->store);
    model->options.mode = mode;
}

static void call_reopen(struct model *model)
{
    if (model->in_memory)
        return;
    harness_close(model->store);
    if (harness_below(&model->random, 2))
        compare_read_only(model);
    open_store(model);
    compare_all(model);
}

/* ---- runs -------------------------------------------------------------------------------- */

static void compare_random_map(struct model *model)
{
    struct model_map *map = random_map(model);

    compare_map(map, kind_of((uint32_t)(map - model->maps)));
}

static void call_rare(struct model *model)
{
    uint64_t dice = harness_below(&model->random, 100);

    if (dice < 30)
        call_drop_or_create(model);
    else if (dice < 45)
        call_clear(model);
    else if (dice < 95)
        compare_random_map(model);
    else
        call_reopen(model);
}

static void check_count(const struct model_map *map)
{
    CHECK(km_count(map->map) == map->count);
}

static void call_one(struct model *model)
{
    uint64_t dice = harness_below(&model->random, 1000);

    if (dice < 430)
        call_put(model);
    else if (dice < 560)
        call_del(model);
    else if (dice < 900)
        call_get(model);
    else if (dice < 940)
        call_get_many(model);
    else if (dice < 970)
        call_batch(model);
    else if (dice < 999 || harness_below(&model->random, 8))
        check_count(random_map(model));
    else
        call_rare(model);
}

static void run(uint64_t stream, uint64_t calls, int in_memory, const km_options *options)
{
    struct model *model = calloc(1, sizeof(*model));
    char name[32];

    assert_non_null(model);
    model->random = harness_stream(stream);
    model->options = *options;
    model->in_memory = in_memory;
    if (!in_memory)
        harness_make_folder(model->path);
    open_store(model);
    CHECK_STATUS(km_map_create(model->store, map_name(0, name), KM_HASH, &model->maps[0].map),
                 KM_OK);
    for (uint64_t i = 0; i < calls; i++)
        call_one(model);
    compare_all(model);
    call_reopen(model);
    harness_close(model->store);
    if (!in_memory)
        harness_remove(model->path);
    km_buffer_free(&model->buffer);
    km_buffer_free(&model->previous);
    free(model);
}

static void store_in_a_folder_is_as_the_model(void **state)
{
    static const km_options options = KM_OPTIONS_INIT;

    (void)state;
    run(1, harness_scaled(800000), 0, &options);
}

static void store_in_memory_is_as_the_model(void **state)
{
    static const km_options options = KM_OPTIONS_INIT;

    (void)state;
    run(2, harness_scaled(600000), 1, &options);
}

static void store_kept_in_memory_is_as_the_model(void **state)
{
    km_options options = KM_OPTIONS_INIT;

    (void)state;
    options.keep_in_memory = 1;
    options.sync_interval_ms = 5;
    options.replay_threads = 1;
    run(3, harness_scaled(200000), 0, &options);
}

static void unchecked_store_is_as_the_model(void **state)
{
    km_options options = KM_OPTIONS_INIT;

    (void)state;
    options.skip_read_checks = 1;
    options.replay_threads = 3;
    run(4, harness_scaled(200000), 0, &options);
}

static void power_safe_store_is_as_the_model(void **state)
{
    km_options options = KM_OPTIONS_INIT;

    (void)state;
    options.durability = KM_DURABLE_POWER;
    run(5, harness_scaled(2000), 0, &options);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(store_in_a_folder_is_as_the_model),
        cmocka_unit_test(store_in_memory_is_as_the_model),
        cmocka_unit_test(store_kept_in_memory_is_as_the_model),
        cmocka_unit_test(unchecked_store_is_as_the_model),
        cmocka_unit_test(power_safe_store_is_as_the_model),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, make_keys, free_keys);
}
