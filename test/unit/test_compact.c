/* SPDX-License-Identifier: Apache-2.0
 *
 * test_compact.c -- the log turns over, step by step on the simulated machine: what moves, what
 * goes, how long the log gets, what cursors keep, and what is done when a step fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/harness_check.h"
#include "harness/harness_model.h"
#include "log/log_internal.h"
#include "store/store_internal.h"

#define STUCK_SECONDS 60 /* what hangs ends here, and is a failure */

static const km_options turning_options = {sizeof(km_options), .log_size_min = 1};

static struct model *new_model(uint64_t stream, uint32_t percent)
{
    km_options options = turning_options;

    options.compact_percent = percent;
    return model_create(stream, &options);
}

static void get_stats(const struct model *model, km_stats *out)
{
    out->struct_size = sizeof(*out);
    CHECK_STATUS(km_store_stats(model->store, out), KM_OK);
}

/* Compare, also after a kill and after a clean close. */
static void check_thrice(struct model *model)
{
    struct model *copy = model_after_kill(model);

    model_check(model);
    model_open(copy);
    model_check(copy);
    model_destroy(copy);
    model_close(model);
    model_open(model);
    model_check(model);
}

/* ---- records that move ------------------------------------------------------------------- */

static void read_record(struct model *model, uint32_t key, struct log_item *out)
{
    struct km_store *store = model->store;
    km_u64_key bytes = km_u64_key_from(key);
    uint64_t hash = km__hash_key(&store->secret, bytes.bytes, 8);
    struct found found;

    km__epoch_enter();
    CHECK_STATUS(km__find(store, model->maps[0]->index, hash, km_bytes_of(bytes.bytes, 8), &found),
                 KM_OK);
    CHECK_STATUS(km__log_read(store->log, km__log_position_of(store->view, found.ref),
                              km__log_complete(store->log), out),
                 KM_OK);
    km__epoch_leave();
}

static void a_record_that_moves_keeps_its_version(void **state)
{
    struct model *model = new_model(1, 0);
    km_write write = KM_WRITE_INIT;
    struct log_item item;
    uint64_t place;

    (void)state;
    CHECK_STATUS(km_put_u64(model->maps[0], 7, km_bytes_of("seven", 5), &write), KM_OK);
    place = write.position;
    for (int turn = 0; turn < 3; turn++) {
        model_compact(model);
        read_record(model, 7, &item);
        CHECK(item.position > place && item.record.flags == RECORD_RELOCATED);
        CHECK(item.record.version == write.position && item.record.value_size == 5);
        place = item.position;
        model_close(model);
        model_open(model);
    }
    CHECK_STATUS(km_put_u64(model->maps[0], 7, km_bytes_of("eight", 5), NULL), KM_OK);
    read_record(model, 7, &item);
    CHECK(item.record.flags == 0);
    model_destroy(model);
}

#define FAR_EXPIRY (UINT64_C(1) << 60) /* what has expired is deleted, not moved */

/* As a map with order and expiry would write it. */
static void write_with_fields(struct model *model, uint32_t key)
{
    struct km_store *store = model->store;
    km_u64_key bytes = km_u64_key_from(key);
    uint64_t hash = km__hash_key(&store->secret, bytes.bytes, 8);
    struct record record = {.kind = RECORD_PUT, .key_size = 8, .value_size = 4};
    struct log_payload payload = {"word", bytes.bytes, 0};
    struct log_space space;
    struct found found;

    record.map = model->maps[0]->id;
    record.flags = RECORD_HAS_ORDINAL | RECORD_HAS_EXPIRY;
    record.ordinal = 1234;
    record.expiry = FAR_EXPIRY;
    payload.crc = km__record_payload_crc("word", 4, bytes.bytes, 8);
    km__epoch_enter();
    CHECK_STATUS(km__find(store, model->maps[0]->index, hash, km_bytes_of(bytes.bytes, 8), &found),
                 KM_OK);
    CHECK_STATUS(
        km__log_reserve(store->log, km__record_size(record.flags, 4, 8), LOG_CLASS_PUT, &space),
        KM_OK);
    km__log_write_record(store->log, &space, 0, &record, &payload);
    km__hash_replace(model->maps[0]->index, hash, found.ref, km__log_ref(space.position),
                     (int64_t)space.size - (int64_t)km__record_size(0, 4, 8));
    km__log_finish(store->log, &space);
    km__epoch_leave();
}

static void a_record_that_moves_keeps_ordinal_and_expiry(void **state)
{
    struct model *model = new_model(2, 0);
    struct log_item item;

    (void)state;
    CHECK_STATUS(km_put_u64(model->maps[0], 7, km_bytes_of("none", 4), NULL), KM_OK);
    write_with_fields(model, 7);
    for (int turn = 0; turn < 2; turn++) {
        model_compact(model);
        read_record(model, 7, &item);
        CHECK(item.record.flags == (RECORD_RELOCATED | RECORD_HAS_ORDINAL | RECORD_HAS_EXPIRY));
        CHECK(item.record.ordinal == 1234 && item.record.expiry == FAR_EXPIRY);
        CHECK(memcmp(item.bytes + km__record_payload_offset(item.record.flags), "word", 4) == 0);
    }
    CHECK(harness_check_store(model->store) == 0);
    model_destroy(model);
}

static void a_record_of_a_batch_moves_alone(void **state)
{
    struct model *model = new_model(3, 0);

    (void)state;
    for (int turn = 0; turn < 4; turn++) {
        model_batch(model, 200, 100);
        model_compact(model);
        check_thrice(model);
    }
    model_destroy(model);
}

static void a_whole_turn_leaves_what_is_live(void **state)
{
    struct model *model = new_model(4, 0);
    km_stats stats;

    (void)state;
    for (uint32_t i = 0; i < 1500; i++)
        model_change(model, MODEL_KEY_COUNT, 2000);
    model_compact(model);
    get_stats(model, &stats);
    CHECK(stats.freed_segments > 0 && stats.pinned_bytes == 0);
    CHECK(stats.log_bytes < stats.live_bytes + stats.live_bytes / 4 + 100000);
    check_thrice(model);
    model_destroy(model);
}

/* The flusher must not be left in a segment that goes. */
static void a_log_of_which_nothing_is_live_turns_over(void **state)
{
    struct model *model = new_model(5, 0);

    (void)state;
    for (uint32_t turn = 0; turn < 6; turn++) {
        model_put(model, 0, turn, 1000);
        model_del(model, 0, turn);
        model_compact(model);
        model_compact(model);
        if (turn % 2)
            check_thrice(model);
    }
    model_destroy(model);
}

/* Most of a segment is free, and more than the ring holds. */
static void a_large_segment_can_be_left_early(void **state)
{
    struct model *model = new_model(6, 0);

    (void)state;
    alarm(STUCK_SECONDS);
    for (uint32_t i = 0; i < 2200; i++)
        model_put(model, i % MODEL_MAP_COUNT, i % MODEL_KEY_COUNT, 9000);
    CHECK(atomic_load(&model->store->log->usual_size) > SEGMENT_SIZE_FIRST);
    for (uint32_t turn = 0; turn < 3; turn++) {
        model_put(model, 0, 1, 100);
        CHECK_STATUS(km__log_leave_segment(model->store->log), KM_OK);
        CHECK_STATUS(km__log_leave_segment(model->store->log), KM_OK);
    }
    model_compact(model);
    check_thrice(model);
    alarm(0);
    model_destroy(model);
}

/* Each of them gets a segment of its own, and leaves the one before it nearly empty, in the next
 * turn too: turn must not follow turn for ever. */
static void come_to_rest(uint32_t size)
{
    struct model *model = new_model(7, 110);
    uint64_t moved;

    for (uint32_t i = 0; i < 120; i++) {
        model_put(model, 0, i % 24, i % 2 ? size : 500);
        if (i % 10 == 0)
            model_upkeep(model);
    }
    moved = atomic_load(&model->store->compactor.moved_bytes);
    for (uint32_t i = 0; i < 50; i++)
        model_upkeep(model);
    CHECK(atomic_load(&model->store->compactor.moved_bytes) < moved + 30 * (uint64_t)size);
    model_check(model);
    model_destroy(model);
}

static void compaction_of_large_records_comes_to_rest(void **state)
{
    (void)state;
    alarm(STUCK_SECONDS);
    come_to_rest(70000);
    come_to_rest(400000);
    come_to_rest(2000000);
    alarm(0);
}

/* ---- the bound --------------------------------------------------------------------------- */

struct bound_case {
    uint32_t percent, key_count, size_max;
    uint32_t large_one_in; /* changes; 0: none */
    int is_skewed;
};

/* I3 of store_compact.c. Live bytes may have fallen since the compactor looked. */
static void check_bound(struct model *model, const struct bound_case *bound)
{
    struct km_store *store = model->store;
    const struct compactor *compactor = &store->compactor;
    uint64_t waste = compactor->turn_waste > compactor->last_waste ? compactor->turn_waste
                                                                   : compactor->last_waste;
    uint64_t segment = atomic_load(&store->log->usual_size), live, limit;
    km_stats stats;

    get_stats(model, &stats);
    live = (stats.live_bytes > compactor->live_bytes ? stats.live_bytes : compactor->live_bytes);
    CHECK(bound->large_one_in || waste <= live / 3 + 2 * segment);
    live += waste;
    limit = live / 100 * bound->percent;
    if (limit < live + 2 * segment)
        limit = live + 2 * segment;
    limit += 2 * segment + (bound->large_one_in ? 2 * segment + 200000 : bound->size_max * 6) +
             4096;
    CHECK_MSG(stats.log_bytes - stats.emptied_bytes <= limit,
              "%llu bytes of log, %llu live, %llu waste, %llu emptied: over the limit of %llu",
              (unsigned long long)stats.log_bytes, (unsigned long long)stats.live_bytes,
              (unsigned long long)waste, (unsigned long long)stats.emptied_bytes,
              (unsigned long long)limit);
}

static void change_bounded(struct model *model, const struct bound_case *bound)
{
    uint64_t keys = bound->key_count;

    if (bound->large_one_in && harness_below(&model->random, bound->large_one_in) == 0)
        model_put(model, 0, (uint32_t)harness_below(&model->random, 8),
                  66000 + (uint32_t)harness_below(&model->random, 100000));
    else if (bound->is_skewed && harness_below(&model->random, 10) < 9)
        model_change(model, (uint32_t)(keys / 20), bound->size_max);
    else
        model_change(model, (uint32_t)keys, bound->size_max);
}

static void run_bounded(uint64_t stream, const struct bound_case *bound)
{
    struct model *model = new_model(stream, bound->percent);
    uint64_t count = harness_scaled(bound->size_max > 5000 ? 2500 : 6000);

    for (uint64_t i = 0; i < count; i++) {
        change_bounded(model, bound);
        if (harness_below(&model->random, 40) == 0)
            CHECK_STATUS(km__log_housekeep(model->store->log), KM_OK);
        if (harness_below(&model->random, 100) == 0)
            model_upkeep(model);
        if (model->store->compactor.live_bytes)
            check_bound(model, bound);
        if (i == count / 2) {
            model_close(model);
            model_open(model);
        }
    }
    check_thrice(model);
    model_destroy(model);
}

static void the_log_keeps_its_bound(void **state)
{
    static const struct bound_case cases[] = {
        {110, 400, 1500, 0, 0}, {125, 400, 8000, 0, 1},   {150, 400, 20000, 0, 0},
        {200, 400, 3000, 0, 1}, {110, 100, 20000, 30, 0}, {150, 300, 5000, 60, 1},
    };

    (void)state;
    alarm(STUCK_SECONDS);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        run_bounded(100 + i, &cases[i]);
    alarm(0);
}

/* ---- pins -------------------------------------------------------------------------------- */

static void a_cursor_reads_on_while_the_log_turns_over(void **state)
{
    struct model *model = new_model(8, 0);
    uint8_t seen[MODEL_KEY_COUNT] = {0};
    km_cursor *cursor = NULL;
    km_bytes key, value;
    uint32_t count = 0;
    km_stats stats;

    (void)state;
    for (uint32_t i = 0; i < MODEL_KEY_COUNT; i++)
        model_put(model, 0, i, 3000);
    CHECK_STATUS(km_cursor_open(model->maps[0], NULL, &cursor), KM_OK);
    for (; km_cursor_next(cursor, &key, &value) == KM_OK; count++) {
        uint64_t number = km_u64_key_to(key.data);

        CHECK(!seen[number]++ && value.size == 3000);
        CHECK(harness_is_filled(value.data, value.size, model->entries[0][number].number));
        if (count % 25 != 5)
            continue;
        for (uint32_t i = 0; i < 100; i++)
            model_put(model, 1, i, 3000);
        model_compact(model);
        get_stats(model, &stats);
        CHECK(stats.pinned_bytes > 0);
    }
    CHECK(count == MODEL_KEY_COUNT);
    km_cursor_close(cursor);
    model_compact(model);
    get_stats(model, &stats);
    CHECK(stats.pinned_bytes == 0);
    model_check(model);
    model_destroy(model);
}

static void a_reference_stays_while_its_section_is_open(void **state)
{
    struct model *model = new_model(9, 0);
    km_u64_key key = km_u64_key_from(3);
    km_reader *reader = NULL;
    km_bytes value;

    (void)state;
    for (uint32_t i = 0; i < 200; i++)
        model_put(model, 0, i, 3000);
    CHECK_STATUS(km_read_begin(model->store, &reader), KM_OK);
    CHECK_STATUS(km_get_ref(reader, model->maps[0], km_bytes_of(key.bytes, 8), &value), KM_OK);
    CHECK_STATUS(km_compact(model->store, NULL, NULL, NULL), KM_WOULD_BLOCK);
    CHECK(harness_is_filled(value.data, value.size, model->entries[0][3].number));
    km_read_end(reader);
    model_destroy(model);
}

/* ---- changes during a move --------------------------------------------------------------- */

struct meddler {
    struct model *model;
    uint32_t key;
    uint64_t turn;
    int is_busy;
};

/* While a large record is being copied, its key changes. */
static void meddle(void *context, uint64_t step)
{
    struct meddler *meddler = context;
    struct model *model = meddler->model;
    int wants_segment;

    (void)step;
    if (meddler->is_busy || km__sim_current_op(model->os) != SIM_WRITE)
        return;
    if (!km__log_has_room(model->store->log, 200, LOG_CLASS_DELETE, &wants_segment))
        return; /* it would wait for us */
    meddler->is_busy = 1;
    km__log_set_pace(model->store->log, UINT64_MAX); /* likewise */
    if (meddler->turn++ % 3 == 0)
        model_del(model, 0, meddler->key);
    else
        model_put(model, 0, meddler->key, 100);
    meddler->key = (meddler->key + 1) % 12;
    meddler->is_busy = 0;
}

static void a_record_that_changes_while_it_moves_is_not_brought_back(void **state)
{
    struct model *model = new_model(10, 0);
    struct meddler meddler = {model, 0, 0, 0};

    (void)state;
    for (uint32_t round = 0; round < 4; round++) {
        for (uint32_t key = 0; key < 12; key++)
            model_put(model, 0, key, 70000 + key);
        meddler.key = round;
        km__sim_on_step(model->os, meddle, &meddler);
        model_compact(model);
        km__sim_on_step(model->os, NULL, NULL);
        CHECK(meddler.turn > 4 * round);
        check_thrice(model);
    }
    model_destroy(model);
}

/* ---- maps -------------------------------------------------------------------------------- */

static km_map *create_map(struct model *model, const char *name)
{
    km_map *map = NULL;

    CHECK_STATUS(km_map_create(model->store, km_bytes_of_string(name), KM_HASH, &map), KM_OK);
    return map;
}

/* The records that made them leave the log, and the files of the log too. */
static void maps_outlive_their_records(void **state)
{
    struct model *model = new_model(11, 0);
    char name[16];
    km_map *map;

    (void)state;
    for (uint32_t i = 0; i < 20; i++) {
        snprintf(name, sizeof(name), "map %u", i);
        map = create_map(model, name);
        CHECK_STATUS(km_put_u64(map, i, km_bytes_of("value", 5), NULL), KM_OK);
        if (i % 3 == 0)
            CHECK_STATUS(km_map_drop(map), KM_OK);
        if (i % 4 == 0)
            model_compact(model);
        if (i % 5 == 0)
            model_image(model);
        check_thrice(model);
    }
    model_compact(model);
    check_thrice(model);
    for (uint32_t i = 0; i < 20; i++) {
        snprintf(name, sizeof(name), "map %u", i);
        CHECK_STATUS(km_map_open(model->store, km_bytes_of_string(name), &map),
                     i % 3 ? KM_OK : KM_NOT_FOUND);
        if (i % 3)
            CHECK(km_count(map) == 1);
    }
    model_destroy(model);
}

/* Move what is live of it by writing it anew, and say that it is empty. */
static void empty_first_segment(struct model *model)
{
    struct compactor *compactor = &model->store->compactor;

    for (uint32_t map = 0; map < MODEL_MAP_COUNT; map++) {
        for (uint32_t key = 0; key < MODEL_KEY_COUNT; key++) {
            if (model->entries[map][key].number)
                model_put(model, map, key, model->entries[map][key].size);
        }
    }
    atomic_store(&compactor->emptied_number,
                 km__log_next_number(model->store->log, km__log_head_number(model->store->log)));
    compactor->position = km__position(atomic_load(&compactor->emptied_number),
                                       SEGMENT_HEADER_SIZE);
}

/* A store that was opened with an image knows nothing of maps dropped before it. What it writes to
 * MAPS must do for who reads the whole log all the same. */
static void a_map_dropped_before_the_image_is_no_riddle(void **state)
{
    struct model *model = new_model(12, 0), *copy;
    km_map *map = create_map(model, "short-lived");
    uint32_t dropped_number;

    (void)state;
    for (uint32_t i = 0; i < 200; i++) {
        model_put(model, 0, i, 3000);
        CHECK_STATUS(km_put_u64(map, i, km_bytes_of("value", 5), NULL), KM_OK);
    }
    CHECK_STATUS(km_map_drop(map), KM_OK);
    for (uint32_t i = 0; i < 40; i++)
        model_put(model, 1, i, 3000);
    model_image(model);
    copy = model_after_kill(model);
    model_open(copy);
    /* some of the old log goes, where the map was made, but not where it was dropped */
    dropped_number = km__position_number(km__log_complete(copy->store->log));
    CHECK(dropped_number > 2);
    empty_first_segment(copy);
    CHECK_STATUS(km__keeper_round(copy->store), KM_OK);
    CHECK(km__log_head_number(copy->store->log) < dropped_number);
    CHECK(km__log_head_number(copy->store->log) > 1);
    model_check(copy);
    model_close(copy);
    km__sim_delete_path(copy->os, "store/index.image");
    model_open(copy);
    model_check(copy);
    model_destroy(copy);
    model_destroy(model);
}

/* ---- no space ---------------------------------------------------------------------------- */

/* Write something, and go through all of the log that is full by then, without the keeper. */
static void empty_some(struct model *model)
{
    struct km_store *store = model->store;
    km_status rc = KM_OK;

    for (uint32_t i = 0; i < 20; i++)
        model_put(model, 0, i, 1000);
    CHECK_STATUS(km__log_leave_segment(store->log), KM_OK);
    km__log_settle(store->log);
    while (!rc)
        rc = km__relocate_some(&store->compactor, km__relocate_end(store));
    CHECK_STATUS(rc, KM_END);
}

/* Images are a shortcut: one that cannot be written keeps neither segments nor puts waiting. */
static void a_keeper_that_fails_holds_nothing_back(void **state)
{
    km_options options = turning_options;
    struct model *model;
    uint32_t head;

    (void)state;
    alarm(STUCK_SECONDS);
    options.image_growth = 1; /* one is always due, however small the log */
    model = model_create(31, &options);
    empty_some(model);
    model_image(model);
    CHECK(model->store->image.bytes > 0);
    empty_some(model);
    CHECK(model->store->compactor.emptied_number > model->store->image.head_number);
    head = km__log_head_number(model->store->log);
    km__sim_fail_call(model->os, SIM_CREATE_FILE, 1, KM_E_IO, EIO); /* the image's */
    CHECK_STATUS(km__keeper_round(model->store), KM_OK);
    CHECK(km__log_head_number(model->store->log) > head && model->store->image.bytes == 0);
    empty_some(model);
    model->store->keeper.maps_position = 0; /* MAPS is to be written */
    km__sim_fail_call(model->os, SIM_CREATE_FILE, 1, KM_E_IO, EIO);
    CHECK_STATUS(km__keeper_round(model->store), KM_E_IO);
    CHECK(km__keeper_reach(model->store) == UINT64_MAX);
    CHECK_STATUS(km__keeper_round(model->store), KM_OK);
    CHECK(km__keeper_reach(model->store) != UINT64_MAX);
    check_thrice(model);
    model_destroy(model);
    alarm(0);
}

static void compaction_makes_room_on_a_full_disk(void **state)
{
    struct model *model = new_model(13, 0);
    km_error error = {KM_OK, 0, 0, "", ""};
    km_stats stats;
    km_status rc = KM_OK;
    uint32_t i;

    (void)state;
    alarm(STUCK_SECONDS);
    for (i = 0; i < MODEL_KEY_COUNT; i++)
        model_put(model, i % MODEL_MAP_COUNT, i, 4000);
    km__sim_set_capacity(model->os, km__sim_total_bytes(model->os) + 1200000);
    for (i = 0; !rc && i < 5000; i++)
        rc = model_try_put(model, i % MODEL_MAP_COUNT, i % MODEL_KEY_COUNT, 12000);
    CHECK_STATUS(rc, KM_E_FULL);
    model_check(model);
    for (i = 0; i < MODEL_KEY_COUNT; i += 2) {
        for (uint32_t map = 0; map < MODEL_MAP_COUNT; map++)
            model_del(model, map, i);
    }
    rc = km_compact(model->store, NULL, NULL, &error);
    CHECK_MSG(rc == KM_OK, "km_compact on a full disk: %s: %s", km_status_name(rc), error.message);
    get_stats(model, &stats);
    CHECK(stats.log_bytes < stats.live_bytes + stats.live_bytes / 4 + 100000);
    CHECK_STATUS(km_store_error(model->store, &(km_error){0}), KM_NOT_FOUND);
    model_check(model);
    for (i = 0; i < 60; i++)
        model_put(model, 0, i, 3000);
    km__sim_set_capacity(model->os, 0);
    for (i = 0; i < 600; i++)
        model_change(model, MODEL_KEY_COUNT, 9000);
    model_compact(model);
    check_thrice(model);
    alarm(0);
    model_destroy(model);
}

static void compaction_makes_room_under_log_size_max(void **state)
{
    km_options options = turning_options;
    struct model *model;
    km_stats stats;

    (void)state;
    alarm(STUCK_SECONDS);
    options.log_size_max = 4u << 20;
    model = model_create(14, &options);
    for (uint32_t i = 0; i < 4000; i++) { /* many times the limit in all */
        model_put(model, 0, i % 100, 5000);
        get_stats(model, &stats);
        CHECK(stats.log_bytes <= options.log_size_max);
    }
    CHECK(km__position_number(stats.head) > 8);
    check_thrice(model);
    alarm(0);
    model_destroy(model);
}

/* ---- failures ---------------------------------------------------------------------------- */

struct outcome {
    uint64_t failed, went_on;
};

/* One call of many kinds fails somewhere on the way. */
static void run_with_failure(const struct model *origin, uint64_t nth, struct outcome *outcome)
{
    struct model *model = model_after_kill(origin), *copy;
    km_error error = {KM_OK, 0, 0, "", ""};
    km_status rc;

    model_open(model);
    km__sim_fail_call(model->os, SIM_ANY, nth, nth % 2 ? KM_E_IO : KM_E_FULL,
                      nth % 2 ? EIO : ENOSPC);
    rc = km_compact(model->store, NULL, NULL, &error);
    CHECK(rc == KM_OK || (error.status && error.message[0]));
    km__ignore(km__keeper_round(model->store), "it may meet the failure");
    rc = km_compact(model->store, NULL, NULL, &error);
    km__sim_clear_faults(model->os);
    if (km_store_error(model->store, &error) == KM_OK) {
        CHECK(error.status && error.message[0]);
        CHECK_STATUS(model_try_put(model, 0, 1, 10), KM_E_FAILED);
        CHECK_STATUS(km_compact(model->store, NULL, NULL, NULL), KM_E_FAILED);
        outcome->failed++;
    } else {
        for (uint32_t i = 0; i < 20; i++)
            model_change(model, MODEL_KEY_COUNT, 1000);
        model_compact(model);
        outcome->went_on++;
    }
    model_check(model);
    copy = model_after_kill(model);
    model_open(copy);
    model_check(copy);
    model_destroy(copy);
    km__ignore(km_close(model->store, NULL), "it says again that a write failed");
    model->store = NULL;
    CHECK(km__sim_allocated_bytes(model->os) == 0 && km__sim_open_count(model->os) == 0);
    model_destroy(model);
}

static void any_call_may_fail_once(void **state)
{
    struct model *model = new_model(15, 0);
    struct outcome outcome = {0, 0};
    uint64_t calls, stride = 100 / harness_scaled(100) * 2;

    (void)state;
    alarm(STUCK_SECONDS);
    for (uint32_t i = 0; i < 150; i++)
        model_change(model, 60, 3000);
    model_put(model, 0, 100, 70000);
    model_image(model);
    calls = km__sim_call_count(model->os, SIM_ANY);
    model_compact(model);
    model_compact(model);
    calls = km__sim_call_count(model->os, SIM_ANY) - calls;
    for (uint64_t nth = 1 + harness_below(&model->random, stride); nth < calls; nth += stride)
        run_with_failure(model, nth, &outcome);
    printf("%llu calls: %llu stores refused changes, %llu went on\n", (unsigned long long)calls,
           (unsigned long long)outcome.failed, (unsigned long long)outcome.went_on);
    CHECK(outcome.failed && outcome.went_on);
    alarm(0);
    model_destroy(model);
}

static void memory_may_run_out_once(void **state)
{
    struct model *model = new_model(16, 0);

    (void)state;
    for (uint32_t i = 0; i < 150; i++)
        model_change(model, 60, 3000);
    for (uint64_t nth = 1; nth < 30; nth++) {
        km_status rc;

        model_put(model, 0, (uint32_t)nth, 70000);
        km__sim_fail_allocation(model->os, nth);
        rc = km_compact(model->store, NULL, NULL, NULL);
        km__sim_fail_allocation(model->os, 0);
        CHECK(rc == KM_OK || rc == KM_E_NO_MEMORY);
        CHECK_STATUS(km_store_error(model->store, &(km_error){0}), KM_NOT_FOUND);
        model_compact(model);
        if (nth % 7 == 0)
            check_thrice(model);
    }
    model_destroy(model);
}

/* ---- stopping ---------------------------------------------------------------------------- */

static int stop_soon(void *context, uint64_t done, uint64_t total)
{
    uint64_t *calls = context;

    CHECK(done <= total);
    return ++*calls == 3;
}

static void a_turn_can_be_stopped(void **state)
{
    struct model *model = new_model(17, 0);
    uint64_t calls = 0;

    (void)state;
    for (uint32_t i = 0; i < 800; i++)
        model_change(model, MODEL_KEY_COUNT, 2000);
    CHECK_STATUS(km_compact(model->store, stop_soon, &calls, NULL), KM_STOPPED);
    CHECK(calls == 3);
    check_thrice(model);
    model_compact(model);
    check_thrice(model);
    model_destroy(model);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_that_moves_keeps_its_version),
        cmocka_unit_test(a_record_that_moves_keeps_ordinal_and_expiry),
        cmocka_unit_test(a_record_of_a_batch_moves_alone),
        cmocka_unit_test(a_whole_turn_leaves_what_is_live),
        cmocka_unit_test(a_log_of_which_nothing_is_live_turns_over),
        cmocka_unit_test(a_large_segment_can_be_left_early),
        cmocka_unit_test(compaction_of_large_records_comes_to_rest),
        cmocka_unit_test(the_log_keeps_its_bound),
        cmocka_unit_test(a_cursor_reads_on_while_the_log_turns_over),
        cmocka_unit_test(a_reference_stays_while_its_section_is_open),
        cmocka_unit_test(a_record_that_changes_while_it_moves_is_not_brought_back),
        cmocka_unit_test(maps_outlive_their_records),
        cmocka_unit_test(a_map_dropped_before_the_image_is_no_riddle),
        cmocka_unit_test(a_keeper_that_fails_holds_nothing_back),
        cmocka_unit_test(compaction_makes_room_on_a_full_disk),
        cmocka_unit_test(compaction_makes_room_under_log_size_max),
        cmocka_unit_test(any_call_may_fail_once),
        cmocka_unit_test(memory_may_run_out_once),
        cmocka_unit_test(a_turn_can_be_stopped),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
