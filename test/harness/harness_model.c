/* SPDX-License-Identifier: Apache-2.0
 *
 * harness_model.c -- a store on the simulated machine, and a table of what it must hold.
 */
#include "harness/harness_model.h"

#include <stdlib.h>
#include <string.h>

#include "harness/harness_check.h"
#include "log/log_internal.h"
#include "store/store_internal.h"

#define VALUE_SIZE_MAX (4u << 20)
#define PACE_LEFT (UINT64_C(300) << 10) /* more than one change that is not special */

static const char *const map_names[MODEL_MAP_COUNT] = {"one", "two", "three"};
static uint8_t value_bytes[VALUE_SIZE_MAX];

/* ---- open and close ---------------------------------------------------------------------- */

km_status model_try_open(struct model *model, km_error *out_error)
{
    km_status rc = km__store_open_with(model->os, MODEL_PATH, &model->options, 0, &model->store,
                                       out_error);

    for (uint32_t i = 0; !rc && i < MODEL_MAP_COUNT; i++)
        CHECK_STATUS(km_map_open(model->store, km_bytes_of_string(map_names[i]), &model->maps[i]),
                     KM_OK);
    return rc;
}

void model_open(struct model *model)
{
    km_error error = {KM_OK, 0, 0, "", ""};
    km_status rc = model_try_open(model, &error);

    CHECK_MSG(rc == KM_OK, "open: %s: %s: %s", km_status_name(rc), error.file, error.message);
}

void model_close(struct model *model)
{
    harness_close(model->store);
    model->store = NULL;
    CHECK(km__sim_allocated_bytes(model->os) == 0 && km__sim_open_count(model->os) == 0);
}

struct model *model_create(uint64_t stream, const km_options *options)
{
    static const km_options defaults = KM_OPTIONS_INIT;
    static const km_map_kind kinds[MODEL_MAP_COUNT] = {KM_HASH, KM_INSERTION, KM_SORTED};
    struct model *model = calloc(1, sizeof(*model));

    CHECK(model != NULL);
    model->random = harness_stream(stream);
    model->options = options ? *options : defaults;
    model->os = km__sim_create(harness_next(&model->random));
    CHECK_STATUS(
        km__store_open_with(model->os, MODEL_PATH, &model->options, 0, &model->store, NULL), KM_OK);
    for (uint32_t i = 0; i < MODEL_MAP_COUNT; i++)
        CHECK_STATUS(km_map_create(model->store, km_bytes_of_string(map_names[i]), kinds[i],
                                   &model->maps[i]),
                     KM_OK);
    return model;
}

void model_destroy(struct model *model)
{
    if (model->store)
        model_close(model);
    km__sim_destroy(model->os);
    free(model);
}

struct model *model_after_kill(const struct model *model)
{
    struct model *copy = malloc(sizeof(*copy));

    CHECK(copy != NULL);
    *copy = *model;
    copy->os = km__sim_clone_after_kill(model->os);
    copy->store = NULL;
    memset(copy->maps, 0, sizeof(copy->maps));
    return copy;
}

/* ---- upkeep ------------------------------------------------------------------------------ */

void model_upkeep(struct model *model)
{
    CHECK_STATUS(km__compact_some(model->store), KM_OK);
    CHECK_STATUS(km__keeper_round(model->store), KM_OK);
    km__reclaim(&model->store->reclaimer);
}

void model_image(struct model *model)
{
    km__mutex_lock(&model->store->keeper.lock);
    CHECK_STATUS(km__image_write(model->store), KM_OK);
    km__mutex_unlock(&model->store->keeper.lock);
}

void model_compact(struct model *model)
{
    km_error error = {KM_OK, 0, 0, "", ""};
    km_status rc = km_compact(model->store, NULL, NULL, &error);

    CHECK_MSG(rc == KM_OK, "km_compact: %s: %s", km_status_name(rc), error.message);
}

/* A put would wait for the compactor, which has no thread here. */
static void keep_pace(struct model *model)
{
    struct log *log = model->store->log;
    uint64_t pace = atomic_load_explicit(&log->pace_limit, memory_order_relaxed);

    if (pace == UINT64_MAX || km__log_linear(log, km__log_complete(log)) + PACE_LEFT < pace)
        return;
    km__ignore(km__compact_some(model->store), "a test that fails calls looks itself");
    km__ignore(km__keeper_round(model->store), "likewise");
    km__reclaim(&model->store->reclaimer);
}

/* ---- changes ----------------------------------------------------------------------------- */

static void set_entry(struct model *model, uint32_t map, uint32_t key, struct model_entry entry)
{
    struct model_entry *place = &model->entries[map][key];

    model->counts[map] += entry.number != 0;
    model->counts[map] -= place->number != 0;
    *place = entry;
}

km_status model_try_put(struct model *model, uint32_t map, uint32_t key, uint32_t size)
{
    struct model_entry entry = {++model->last_number, size};
    km_status rc;

    CHECK(size <= VALUE_SIZE_MAX);
    keep_pace(model);
    harness_fill(value_bytes, size, entry.number);
    rc = km_put_u64(model->maps[map], key, km_bytes_of(value_bytes, size), NULL);
    if (!rc)
        set_entry(model, map, key, entry);
    return rc;
}

void model_put(struct model *model, uint32_t map, uint32_t key, uint32_t size)
{
    CHECK_STATUS(model_try_put(model, map, key, size), KM_OK);
}

km_status model_try_del(struct model *model, uint32_t map, uint32_t key)
{
    static const struct model_entry none = {0, 0};
    int is_there = model->entries[map][key].number != 0;
    km_status rc = km_del_u64(model->maps[map], key, NULL);

    CHECK(rc != (is_there ? KM_NOT_FOUND : KM_OK));
    if (!rc)
        set_entry(model, map, key, none);
    return rc == KM_NOT_FOUND ? KM_OK : rc;
}

void model_del(struct model *model, uint32_t map, uint32_t key)
{
    CHECK_STATUS(model_try_del(model, map, key), KM_OK);
}

void model_batch(struct model *model, uint32_t count, uint32_t size_max)
{
    km_batch *batch = NULL;

    keep_pace(model);
    CHECK_STATUS(km_batch_create(model->store, &batch), KM_OK);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t map = (uint32_t)harness_below(&model->random, MODEL_MAP_COUNT);
        uint32_t key = (uint32_t)harness_below(&model->random, MODEL_KEY_COUNT);
        km_u64_key key_bytes = km_u64_key_from(key);
        struct model_entry entry = {0, 0};

        if (harness_below(&model->random, 4)) {
            entry.number = ++model->last_number;
            entry.size = (uint32_t)harness_below(&model->random, size_max + 1);
            harness_fill(value_bytes, entry.size, entry.number);
            CHECK_STATUS(km_batch_put(batch, model->maps[map], km_bytes_of(key_bytes.bytes, 8),
                                      km_bytes_of(value_bytes, entry.size)),
                         KM_OK);
        } else {
            CHECK_STATUS(km_batch_del(batch, model->maps[map], km_bytes_of(key_bytes.bytes, 8)),
                         KM_OK);
        }
        set_entry(model, map, key, entry);
    }
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK);
    km_batch_destroy(batch);
}

void model_change(struct model *model, uint32_t key_count, uint32_t size_max)
{
    uint32_t map = (uint32_t)harness_below(&model->random, MODEL_MAP_COUNT);
    uint32_t key = (uint32_t)harness_below(&model->random, key_count);
    uint64_t dice = harness_below(&model->random, 10);

    if (dice < 7)
        model_put(model, map, key, (uint32_t)harness_below(&model->random, size_max + 1));
    else if (dice < 9)
        model_del(model, map, key);
    else
        model_batch(model, 6, size_max / 4);
}

/* ---- comparing --------------------------------------------------------------------------- */

static void check_value(const struct model_entry *entry, uint32_t key, const void *data,
                        size_t size)
{
    CHECK_MSG(entry->number && size == entry->size && harness_is_filled(data, size, entry->number),
              "key %u has a value of %zu bytes that is not number %llu of %u bytes", key, size,
              (unsigned long long)entry->number, entry->size);
}

void model_check_key(struct model *model, uint32_t map, uint32_t key)
{
    const struct model_entry *entry = &model->entries[map][key];
    km_buffer value = KM_BUFFER_INIT;
    km_status rc = km_get_u64(model->maps[map], key, &value);

    CHECK_MSG(rc == (entry->number ? KM_OK : KM_NOT_FOUND), "map %u key %u: %s", map, key,
              km_status_name(rc));
    if (!rc)
        check_value(entry, key, value.data, value.size);
    km_buffer_free(&value);
}

static void check_walk(struct model *model, uint32_t map)
{
    uint8_t seen[MODEL_KEY_COUNT] = {0};
    km_cursor *cursor = NULL;
    km_bytes key, value;
    uint64_t count = 0;
    km_status rc;

    CHECK_STATUS(km_cursor_open(model->maps[map], NULL, &cursor), KM_OK);
    while ((rc = km_cursor_next(cursor, &key, &value)) == KM_OK) {
        uint64_t number = km_u64_key_to(key.data);

        CHECK(key.size == 8 && number < MODEL_KEY_COUNT && !seen[number]);
        seen[number] = 1;
        check_value(&model->entries[map][number], (uint32_t)number, value.data, value.size);
        count++;
    }
    CHECK_STATUS(rc, KM_END);
    km_cursor_close(cursor);
    CHECK(count == model->counts[map] && count == km_count(model->maps[map]));
}

void model_check(struct model *model)
{
    for (uint32_t map = 0; map < MODEL_MAP_COUNT; map++) {
        for (uint32_t key = 0; key < MODEL_KEY_COUNT; key++)
            model_check_key(model, map, key);
        check_walk(model, map);
    }
    CHECK(harness_check_store(model->store) == 0);
}
