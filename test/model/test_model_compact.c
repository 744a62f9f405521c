/* SPDX-License-Identifier: Apache-2.0
 *
 * test_model_compact.c -- a store opened with an index image is the store that replays its whole
 * log, whenever the image was written, whatever has become of it, and whatever is done first.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/catalogue.h"
#include "format/image.h"
#include "harness/harness_model.h"
#include "log/log_internal.h"
#include "store/store_internal.h"

#define IMAGE_PATH "store/index.image"
#define MAPS_PATH "store/MAPS"
#define STUCK_SECONDS 60

static uint32_t warnings; /* lines of the log callback */

static void note_line(void *context, km_log_level level, const char *message)
{
    (void)context;
    (void)message;
    warnings += level != KM_LOG_INFO;
}

static struct model *new_model(uint64_t stream)
{
    km_options options = {sizeof(options), .log_size_min = 1};

    options.log = note_line;
    return model_create(stream, &options);
}

static int has_file(struct model *model, const char *path)
{
    uint8_t *bytes = NULL;
    size_t size;
    int rc = km__sim_read_path(model->os, path, &bytes, &size);

    free(bytes);
    return rc == 0;
}

static uint64_t node_bytes(struct model *model, uint64_t *out_size)
{
    struct image_header header;
    uint8_t *bytes = NULL;
    size_t size;

    CHECK(km__sim_read_path(model->os, IMAGE_PATH, &bytes, &size) == 0);
    CHECK_STATUS(km__image_header_decode(bytes, &header), KM_OK);
    free(bytes);
    *out_size = size;
    return header.table_offset;
}

static int is_image_used(const struct model *model)
{
    return atomic_load(&model->store->image.bytes) != 0;
}

static uint64_t end_of_lines(struct model *model)
{
    struct image_header header;
    struct image_table table;
    struct image_node node;
    uint64_t end = IMAGE_HEADER_SIZE;
    uint8_t *bytes = NULL;
    size_t size;

    CHECK(km__sim_read_path(model->os, IMAGE_PATH, &bytes, &size) == 0);
    CHECK_STATUS(km__image_header_decode(bytes, &header), KM_OK);
    CHECK_STATUS(km__image_table_locate(&header, &table), KM_OK);
    for (uint64_t i = 0; i < header.node_count; i++) {
        CHECK_STATUS(km__image_node_decode(bytes + header.table_offset + table.nodes_offset +
                                               i * IMAGE_NODE_SIZE,
                                           &node),
                     KM_OK);
        end += km__image_lines_size(&node);
    }
    free(bytes);
    return end;
}

/* ---- equal, with and without ------------------------------------------------------------- */

/* A clone as a kill leaves it, opened with the image if there is one, and without. */
static void compare_opens(struct model *model)
{
    struct model *with = model_after_kill(model), *without = model_after_kill(model);
    int could_be_used;

    km__sim_delete_path(without->os, IMAGE_PATH);
    could_be_used = has_file(with, IMAGE_PATH) &&
                    model->store->image.head_number >= km__log_head_number(model->store->log) &&
                    atomic_load(&model->store->image.bytes) != 0;
    warnings = 0;
    model_open(with);
    model_open(without);
    CHECK(is_image_used(with) == could_be_used && !is_image_used(without));
    CHECK(km__live_bytes(with->store) == km__live_bytes(without->store));
    model_check(with);
    model_check(without);
    CHECK(!warnings);
    for (uint32_t i = 0; i < 20; i++)
        model_change(with, MODEL_KEY_COUNT, 500);
    model_destroy(with);
    model_destroy(without);
}

static void an_image_may_be_written_between_any_two_changes(void **state)
{
    struct model *model = new_model(1);
    uint64_t rounds = harness_scaled(120);

    (void)state;
    for (uint64_t round = 0; round < rounds; round++) {
        uint64_t count = harness_below(&model->random, 30);

        for (uint64_t i = 0; i < count; i++)
            model_change(model, MODEL_KEY_COUNT, 800);
        if (harness_below(&model->random, 10) == 0)
            model_compact(model);
        else if (harness_below(&model->random, 10) == 0)
            model_upkeep(model);
        if (harness_below(&model->random, 12) == 0) {
            CHECK_STATUS(km_map_clear(model->maps[2]), KM_OK);
            memset(model->entries[2], 0, sizeof(model->entries[2]));
            model->counts[2] = 0;
        }
        if (harness_below(&model->random, 3))
            model_image(model);
        compare_opens(model);
        if (harness_below(&model->random, 8) == 0) {
            model_close(model);
            model_open(model);
        }
    }
    model_destroy(model);
}

struct meddler {
    struct model *model;
    uint64_t count;
    int is_busy;
};

static void meddle(void *context, uint64_t step)
{
    struct meddler *meddler = context;

    (void)step;
    if (meddler->is_busy)
        return;
    meddler->is_busy = 1;
    model_put(meddler->model, 0, (uint32_t)(meddler->count % 50), 40);
    model_del(meddler->model, 1, (uint32_t)(meddler->count % 50));
    model_put(meddler->model, 2, (uint32_t)(meddler->count++ % 50), 40);
    meddler->is_busy = 0;
}

/* At every step of its writing the store changes. */
static void changes_while_an_image_is_written_are_not_lost(void **state)
{
    struct model *model = new_model(2);
    struct meddler meddler = {model, 0, 0};

    (void)state;
    for (uint32_t round = 0; round < 20; round++) {
        for (uint32_t i = 0; i < 30; i++)
            model_change(model, 60, 300);
        km__sim_on_step(model->os, meddle, &meddler);
        model_image(model);
        km__sim_on_step(model->os, NULL, NULL);
        compare_opens(model);
    }
    CHECK(meddler.count > 100);
    model_destroy(model);
}

/* A power cut right after the image has its name: the log has what it leads to. */
static void an_image_leads_to_nothing_that_a_power_cut_takes(void **state)
{
    struct model *model = new_model(3);

    (void)state;
    for (uint32_t round = 0; round < 30; round++) {
        struct model *copy;

        for (uint32_t i = 0; i < 20; i++)
            model_change(model, 100, 300);
        model_image(model);
        copy = model_after_kill(model);
        km__sim_destroy(copy->os);
        copy->os = km__sim_clone_after_power_cut(model->os, harness_next(&model->random),
                                                 SIM_POWER_LOST);
        model_open(copy);
        CHECK(is_image_used(copy));
        model_check(copy); /* the image was written after all changes, and synced the log */
        model_destroy(copy);
    }
    model_destroy(model);
}

/* ---- the first touch --------------------------------------------------------------------- */

static void touch_many(struct model *model)
{
    km_u64_key numbers[MODEL_KEY_COUNT];
    km_bytes keys[MODEL_KEY_COUNT], values[MODEL_KEY_COUNT];
    km_reader *reader = NULL;
    size_t found = 0;

    for (uint32_t i = 0; i < MODEL_KEY_COUNT; i++) {
        numbers[i] = km_u64_key_from(i);
        keys[i] = km_bytes_of(numbers[i].bytes, 8);
    }
    CHECK_STATUS(km_read_begin(model->store, &reader), KM_OK);
    CHECK_STATUS(km_get_many(reader, model->maps[0], keys, MODEL_KEY_COUNT, values, &found), KM_OK);
    CHECK(found == model->counts[0]);
    for (uint32_t i = 0; i < MODEL_KEY_COUNT; i++) {
        const struct model_entry *entry = &model->entries[0][i];

        CHECK((values[i].data != NULL) == (entry->number != 0));
        CHECK(!entry->number || (values[i].size == entry->size &&
                                 harness_is_filled(values[i].data, entry->size, entry->number)));
    }
    km_read_end(reader);
}

#define TOUCH_COUNT 9u
#define TOUCH_CLEAR 6u

/* What is done first after an open; the last leaves it to the check. */
static void touch(struct model *model, uint64_t kind)
{
    uint32_t key = (uint32_t)harness_below(&model->random, MODEL_KEY_COUNT);

    switch (kind) {
    case 0: model_check_key(model, 0, key); break;
    case 1: model_put(model, 0, key, 50); break;
    case 2: model_del(model, 0, key); break;
    case 3: model_batch(model, 100, 50); break;
    case 4: touch_many(model); break;
    case 5: model_compact(model); break;
    case TOUCH_CLEAR:
        CHECK_STATUS(km_map_clear(model->maps[1]), KM_OK);
        memset(model->entries[1], 0, sizeof(model->entries[1]));
        model->counts[1] = 0;
        break;
    case 7:
        for (uint32_t i = 0; i < 300 && !km__image_load_some(model->store, 3); i++)
            continue;
        break;
    default:
        for (uint32_t map = 0; map < MODEL_MAP_COUNT; map++)
            CHECK(km_count(model->maps[map]) == model->counts[map]);
        break;
    }
}

static void anything_can_be_done_before_the_image_is_loaded(void **state)
{
    struct model *model = new_model(4);

    (void)state;
    for (uint32_t i = 0; i < 600; i++)
        model_change(model, MODEL_KEY_COUNT, 300);
    model_image(model);
    for (uint32_t i = 0; i < 40; i++)
        model_change(model, MODEL_KEY_COUNT, 300);
    for (uint64_t kind = 0; kind < TOUCH_COUNT; kind++) {
        struct model *copy = model_after_kill(model);

        model_open(copy);
        CHECK(is_image_used(copy));
        touch(copy, kind);
        model_check(copy);
        model_close(copy);
        model_open(copy);
        model_check(copy);
        model_destroy(copy);
    }
    model_destroy(model);
}

/* ---- damage ------------------------------------------------------------------------------ */

static struct model *model_with_image(uint64_t stream)
{
    struct model *model = new_model(stream);

    for (uint32_t i = 0; i < 400; i++)
        model_change(model, MODEL_KEY_COUNT, 100);
    model_image(model);
    for (uint32_t i = 0; i < 10; i++)
        model_change(model, MODEL_KEY_COUNT, 100);
    return model;
}

/* The image is as it is, and a warning tells of it, now or at first touch. */
static void open_damaged(struct model *model, int is_found_at_open)
{
    uint64_t kind = harness_below(&model->random, TOUCH_COUNT);
    int is_cleared = kind == TOUCH_CLEAR;

    alarm(STUCK_SECONDS);
    warnings = 0;
    model_open(model);
    CHECK(!is_found_at_open || warnings);
    CHECK(!is_found_at_open || !is_image_used(model));
    touch(model, kind);
    model_check(model);
    for (uint32_t i = 0; i < 5; i++)
        model_change(model, MODEL_KEY_COUNT, 100);
    if (harness_below(&model->random, 4) == 0)
        model_compact(model);
    CHECK(warnings || is_cleared); /* what was cleared was never looked at */
    CHECK(!model->store->compactor.is_stuck);
    model_check(model);
    model_close(model);
    warnings = 0;
    model_open(model);
    CHECK(is_found_at_open || is_cleared || !warnings); /* what was mended is not met again */
    model_check(model);
    alarm(0);
}

static void a_damaged_image_is_told_and_made_good(void **state)
{
    struct model *model = model_with_image(5);
    uint64_t size, table, lines_end, count = harness_scaled(500);

    (void)state;
    table = node_bytes(model, &size);
    lines_end = end_of_lines(model);
    for (uint64_t i = 0; i < count; i++) {
        struct model *copy = model_after_kill(model);
        uint64_t offset = harness_below(&model->random, 3) == 0
                              ? harness_below(&model->random, size)
                              : IMAGE_HEADER_SIZE +
                                    harness_below(&model->random, lines_end - IMAGE_HEADER_SIZE);

        if (offset >= lines_end && offset < table)
            offset = table; /* what fills up to the table is nobody's */

        copy->random = harness_stream(1000 + i);
        CHECK(km__sim_flip_bit(copy->os, IMAGE_PATH,
                               offset * 8 + harness_below(&model->random, 8)) == 0);
        open_damaged(copy, offset < IMAGE_HEADER_SIZE || offset >= table);
        model_destroy(copy);
    }
    model_destroy(model);
}

static void an_image_cut_short_is_ignored(void **state)
{
    struct model *model = model_with_image(6);
    uint64_t size, table = node_bytes(model, &size);
    uint64_t sizes[] = {0,         1,     100,        4095,     4096,     5000,
                        table - 1, table, table + 10, size - 1, size + 1, size + 4096};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        struct model *copy = model_after_kill(model);

        CHECK(km__sim_truncate_path(copy->os, IMAGE_PATH, sizes[i]) == 0);
        open_damaged(copy, 1);
        model_destroy(copy);
    }
    model_destroy(model);
}

static void put_image(struct model *model, const uint8_t *bytes, size_t size)
{
    km__sim_delete_path(model->os, IMAGE_PATH);
    CHECK(km__sim_write_path(model->os, IMAGE_PATH, bytes, size) == 0);
}

static void an_image_of_another_store_is_ignored(void **state)
{
    struct model *model = model_with_image(7), *other = model_with_image(8);
    struct model *copy = model_after_kill(model);
    uint8_t *bytes = NULL;
    size_t size;

    (void)state;
    CHECK(km__sim_read_path(other->os, IMAGE_PATH, &bytes, &size) == 0);
    put_image(copy, bytes, size);
    open_damaged(copy, 1);
    free(bytes);
    model_destroy(copy);
    model_destroy(other);
    model_destroy(model);
}

/* An old one of the same store is right as long as the log reaches back to it. */
static void an_old_image_is_used_or_ignored(void **state)
{
    struct model *model = model_with_image(9);
    uint8_t *bytes = NULL;
    size_t size;

    (void)state;
    CHECK(km__sim_read_path(model->os, IMAGE_PATH, &bytes, &size) == 0);
    for (uint32_t round = 0; round < 8; round++) {
        struct model *copy;

        for (uint32_t i = 0; i < 100; i++)
            model_change(model, MODEL_KEY_COUNT, 600);
        if (round == 4)
            model_compact(model);
        model_image(model);
        copy = model_after_kill(model);
        put_image(copy, bytes, size);
        model_open(copy);
        CHECK(is_image_used(copy) == (round < 4));
        model_check(copy);
        for (uint32_t i = 0; i < 20; i++)
            model_change(copy, MODEL_KEY_COUNT, 600);
        model_compact(copy);
        model_check(copy);
        model_destroy(copy);
    }
    free(bytes);
    model_destroy(model);
}

/* The oldest segments leave the log without a new image: as on a full disk. */
static void an_image_that_the_head_has_passed_is_forgotten(void **state)
{
    struct model *model = new_model(12), *copy;
    struct compactor *compactor = &model->store->compactor;

    (void)state;
    for (uint32_t i = 0; i < MODEL_KEY_COUNT; i++)
        model_put(model, 0, i, 3000);
    model_image(model);
    km__mutex_lock(&compactor->lock);
    while (atomic_load(&compactor->emptied_number) < 3)
        CHECK_STATUS(km__relocate_some(compactor, km__relocate_end(model->store)), KM_OK);
    km__mutex_unlock(&compactor->lock);
    CHECK_STATUS(km__keeper_free(model->store, 1), KM_OK);
    CHECK(km__log_head_number(model->store->log) == 3);
    km__reclaim(&model->store->reclaimer);
    copy = model_after_kill(model);
    warnings = 0;
    model_open(copy);
    model_check(copy);
    CHECK(!is_image_used(copy) && !warnings);
    model_destroy(copy);
    model_check(model);
    model_destroy(model);
}

/* ---- MAPS -------------------------------------------------------------------------------- */

/* With no image MAPS is needed; with one it is not. */
static void damaged_maps_are_told(void **state)
{
    struct model *model = new_model(10);
    uint8_t *bytes = NULL;
    size_t size;

    (void)state;
    for (uint32_t i = 0; i < 300; i++)
        model_change(model, MODEL_KEY_COUNT, 300);
    model_compact(model);
    CHECK(km__sim_read_path(model->os, MAPS_PATH, &bytes, &size) == 0);
    free(bytes);
    for (uint64_t offset = 0; offset <= size; offset += offset < 96 ? 1 : 7) {
        struct model *copy = model_after_kill(model);
        km_error error = {KM_OK, 0, 0, "", ""};
        km_status rc;

        km__sim_delete_path(copy->os, IMAGE_PATH);
        if (offset >= size)
            CHECK(km__sim_delete_path(copy->os, MAPS_PATH) == 0);
        else
            CHECK(km__sim_flip_bit(copy->os, MAPS_PATH, offset * 8 + offset % 8) == 0);
        rc = model_try_open(copy, &error);
        CHECK_MSG(rc == KM_E_CORRUPT || rc == KM_E_VERSION, "byte %llu: %s",
                  (unsigned long long)offset, km_status_name(rc));
        CHECK(strcmp(error.file, CATALOGUE_NAME) == 0 && error.message[0]);
        CHECK(km__sim_allocated_bytes(copy->os) == 0 && km__sim_open_count(copy->os) == 0);
        model_destroy(copy);
    }
    model_destroy(model);
}

/* ---- mending ----------------------------------------------------------------------------- */

/* A damaged image is met by a change of the catalogue, which must not wait for itself. */
static void a_map_can_be_made_beside_a_damaged_image(void **state)
{
    struct model *model = model_with_image(11), *copy = model_after_kill(model);
    uint64_t size, table = node_bytes(model, &size);
    char name[16];
    km_map *map;

    (void)state;
    alarm(STUCK_SECONDS);
    for (uint64_t at = IMAGE_HEADER_SIZE; at < table; at += 64)
        CHECK(km__sim_flip_bit(copy->os, IMAGE_PATH, at * 8) == 0);
    model_open(copy);
    km__note_image_damage(copy->store);
    for (uint32_t i = 0; i < 2000; i++) { /* enough to need segments */
        snprintf(name, sizeof(name), "map %u", i);
        CHECK_STATUS(km_map_create(copy->store, km_bytes_of(name, strlen(name)), KM_HASH, &map),
                     KM_OK);
        CHECK_STATUS(km_map_drop(map), KM_OK);
    }
    model_check(copy);
    alarm(0);
    model_destroy(copy);
    model_destroy(model);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_image_may_be_written_between_any_two_changes),
        cmocka_unit_test(changes_while_an_image_is_written_are_not_lost),
        cmocka_unit_test(an_image_leads_to_nothing_that_a_power_cut_takes),
        cmocka_unit_test(anything_can_be_done_before_the_image_is_loaded),
        cmocka_unit_test(a_damaged_image_is_told_and_made_good),
        cmocka_unit_test(an_image_cut_short_is_ignored),
        cmocka_unit_test(an_image_of_another_store_is_ignored),
        cmocka_unit_test(an_old_image_is_used_or_ignored),
        cmocka_unit_test(an_image_that_the_head_has_passed_is_forgotten),
        cmocka_unit_test(damaged_maps_are_told),
        cmocka_unit_test(a_map_can_be_made_beside_a_damaged_image),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
