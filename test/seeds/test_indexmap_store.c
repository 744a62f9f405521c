/* SPDX-License-Identifier: Apache-2.0
 *
 * test_indexmap_store.c -- the abilities of indexmap_store: a map in insertion order over an
 * append-only log, with recovery from a torn tail and compaction by ratio.
 */
#include "seeds/seed.h"

#include <fcntl.h>

/* ---- insert, remove, get ------------------------------------------------------------------- */

static void insert_returns_the_previous_value(void **state)
{
    km_buffer previous = KM_BUFFER_INIT;
    km_write write = KM_WRITE_INIT;

    (void)state;
    write.previous = &previous;
    CHECK_STATUS(km_put(seed.map, text("a"), text("1"), &write), KM_OK);
    CHECK(!write.existed);
    CHECK_STATUS(km_put(seed.map, text("a"), text("22"), &write), KM_OK);
    CHECK(write.existed && seed_is(&previous, "1"));
    CHECK_STATUS(km_put(seed.map, text("a"), text(""), &write), KM_OK);
    CHECK(write.existed && seed_is(&previous, "22"));
    seed_check("a", "");
    km_buffer_free(&previous);
}

static void remove_returns_the_removed_value(void **state)
{
    km_buffer previous = KM_BUFFER_INIT;
    km_write write = KM_WRITE_INIT;

    (void)state;
    seed_put_all("a=1 b=2");
    write.previous = &previous;
    CHECK_STATUS(km_del(seed.map, text("a"), &write), KM_OK);
    CHECK(write.existed && seed_is(&previous, "1"));
    CHECK_STATUS(km_del(seed.map, text("a"), &write), KM_NOT_FOUND);
    seed_check("a", NULL);
    seed_check_all("b=2");
    km_buffer_free(&previous);
}

static void get_and_contains_key(void **state)
{
    (void)state;
    seed_put_all("a=1");
    seed_check("a", "1");
    seed_check("b", NULL);
    CHECK_STATUS(km_contains(seed.map, text("a")), KM_OK);
    CHECK_STATUS(km_contains(seed.map, text("b")), KM_NOT_FOUND);
}

static void keys_and_values_are_of_any_type(void **state)
{
    static const uint8_t bytes[4] = {0, 0xff, 0, 7};
    km_buffer value = KM_BUFFER_INIT;

    (void)state;
    CHECK_STATUS(km_put(seed.map, km_bytes_of(bytes, 4), km_bytes_of(bytes, 3), NULL), KM_OK);
    CHECK_STATUS(km_put(seed.map, km_bytes_of(bytes, 3), km_bytes_of(bytes, 4), NULL), KM_OK);
    CHECK_STATUS(km_put(seed.map, km_bytes_of(NULL, 0), km_bytes_of(NULL, 0), NULL), KM_OK);
    CHECK_STATUS(km_put_u64(seed.map, 42, text("forty-two"), NULL), KM_OK);
    CHECK(km_count(seed.map) == 4);
    CHECK_STATUS(km_get(seed.map, km_bytes_of(bytes, 4), &value), KM_OK);
    CHECK(value.size == 3 && memcmp(value.data, bytes, 3) == 0);
    CHECK_STATUS(km_get(seed.map, km_bytes_of(NULL, 0), &value), KM_OK);
    CHECK(value.size == 0);
    CHECK_STATUS(km_get_u64(seed.map, 42, &value), KM_OK);
    CHECK(seed_is(&value, "forty-two"));
    km_buffer_free(&value);
}

static void len_is_empty_and_clear(void **state)
{
    (void)state;
    CHECK(km_count(seed.map) == 0);
    seed_put_all("a=1 b=2 c=3 b=4");
    CHECK(km_count(seed.map) == 3);
    CHECK_STATUS(km_map_clear(seed.map), KM_OK);
    CHECK(km_count(seed.map) == 0);
    seed_check_all("");
    seed_check("a", NULL);
    seed_put_all("c=5 a=6");
    seed_check_all("c=5 a=6");
}

/* ---- order --------------------------------------------------------------------------------- */

static void iteration_is_in_insertion_order(void **state)
{
    km_cursor_options backwards = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor;
    km_bytes one;

    (void)state;
    seed_put_all("zebra=1 apple=2 mango=3");
    seed_check_all("zebra=1 apple=2 mango=3");
    backwards.reverse = 1;
    seed_check_walk(&backwards, "mango=3 apple=2 zebra=1");
    CHECK_STATUS(km_cursor_open(seed.map, NULL, &cursor), KM_OK);
    CHECK_STATUS(km_cursor_next(cursor, &one, NULL), KM_OK); /* the key alone */
    CHECK(one.size == 5 && memcmp(one.data, "zebra", 5) == 0);
    CHECK_STATUS(km_cursor_next(cursor, NULL, &one), KM_OK); /* the value alone */
    CHECK(one.size == 1 && memcmp(one.data, "2", 1) == 0);
    km_cursor_close(cursor);
}

static void overwriting_keeps_the_place(void **state)
{
    (void)state;
    seed_put_all("a=1 b=2 c=3 a=4 b=5");
    seed_check_all("a=4 b=5 c=3");
}

static void remove_shifts_and_keeps_the_order_of_the_rest(void **state)
{
    (void)state;
    seed_put_all("a=1 b=2 c=3 d=4 e=5");
    seed_del("b");
    seed_check_all("a=1 c=3 d=4 e=5");
    seed_del("a");
    seed_del("e");
    seed_check_all("c=3 d=4");
    seed_put_all("b=6");
    seed_check_all("c=3 d=4 b=6"); /* as new, at the end */
}

static void check_index(uint64_t position, const char *key, const char *value)
{
    km_buffer found_key = KM_BUFFER_INIT, found_value = KM_BUFFER_INIT;
    uint64_t found = UINT64_MAX;

    CHECK_STATUS(km_get_index(seed.map, position, &found_key, &found_value), KM_OK);
    CHECK(seed_is(&found_key, key) && seed_is(&found_value, value));
    CHECK_STATUS(km_index_of(seed.map, text(key), &found), KM_OK);
    CHECK(found == position);
    km_buffer_free(&found_key);
    km_buffer_free(&found_value);
}

static void get_index_gives_the_key_at_a_place(void **state)
{
    uint64_t position;

    (void)state;
    CHECK_STATUS(km_get_index(seed.map, 0, NULL, NULL), KM_NOT_FOUND);
    seed_put_all("c=1 a=2 b=3");
    check_index(0, "c", "1");
    check_index(2, "b", "3");
    seed_del("a");
    check_index(1, "b", "3"); /* shifted */
    seed_put_all("c=4");
    check_index(0, "c", "4");
    CHECK_STATUS(km_get_index(seed.map, 2, NULL, NULL), KM_NOT_FOUND);
    CHECK_STATUS(km_index_of(seed.map, text("a"), &position), KM_NOT_FOUND);
}

static void first_and_last_and_popping_them(void **state)
{
    km_buffer key = KM_BUFFER_INIT, value = KM_BUFFER_INIT;

    (void)state;
    CHECK_STATUS(km_first(seed.map, &key, &value), KM_NOT_FOUND);
    CHECK_STATUS(km_pop_last(seed.map, &key, &value, NULL), KM_NOT_FOUND);
    seed_put_all("b=1 c=2 a=3");
    CHECK_STATUS(km_first(seed.map, &key, &value), KM_OK);
    CHECK(seed_is(&key, "b") && seed_is(&value, "1"));
    CHECK_STATUS(km_last(seed.map, &key, &value), KM_OK);
    CHECK(seed_is(&key, "a") && seed_is(&value, "3"));
    CHECK_STATUS(km_pop_first(seed.map, &key, &value, NULL), KM_OK);
    CHECK(seed_is(&key, "b") && seed_is(&value, "1"));
    CHECK_STATUS(km_pop_last(seed.map, &key, &value, NULL), KM_OK);
    CHECK(seed_is(&key, "a") && seed_is(&value, "3"));
    seed_check_all("c=2");
    km_buffer_free(&key);
    km_buffer_free(&value);
}

/* ---- order against an array ---------------------------------------------------------------- */

#define KEY_COUNT 1500u

/* The keys in their order, and the version of each one's value. */
static struct {
    uint32_t order[KEY_COUNT];
    uint32_t count;
    uint32_t versions[KEY_COUNT]; /* 0: not there */
} model;

static void change_at_random(struct harness_random *random)
{
    uint32_t key = (uint32_t)harness_below(random, KEY_COUNT), at = 0;
    uint8_t value[HARNESS_VALUE_MIN];
    uint32_t version = 1 + (uint32_t)harness_below(random, 1000000);

    if (harness_below(random, 5) < 3) {
        harness_value_fill(value, sizeof(value), key, version);
        CHECK_STATUS(km_put_u64(seed.map, key, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
        if (!model.versions[key])
            model.order[model.count++] = key;
        model.versions[key] = version;
        return;
    }
    CHECK_STATUS(km_del_u64(seed.map, key, NULL), model.versions[key] ? KM_OK : KM_NOT_FOUND);
    if (!model.versions[key])
        return;
    while (model.order[at] != key)
        at++;
    memmove(&model.order[at], &model.order[at + 1], (--model.count - at) * sizeof(uint32_t));
    model.versions[key] = 0;
}

static void check_order(void)
{
    km_buffer key_at = KM_BUFFER_INIT;
    km_cursor *cursor;
    km_bytes key, value;

    CHECK(km_count(seed.map) == model.count);
    CHECK_STATUS(km_cursor_open(seed.map, NULL, &cursor), KM_OK);
    for (uint32_t i = 0; i < model.count; i++) {
        uint32_t expected = model.order[i];
        CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_OK);
        CHECK(key.size == 8 && km_u64_key_to(key.data) == expected);
        CHECK(harness_value_version(value, expected) == model.versions[expected]);
        CHECK_STATUS(km_get_index(seed.map, i, &key_at, NULL), KM_OK);
        CHECK(km_u64_key_to(key_at.data) == expected);
    }
    CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_END);
    km_cursor_close(cursor);
    km_buffer_free(&key_at);
}

static void do_nothing(void)
{
}

static void order_survives_compaction_reopening_and_kills(void **state)
{
    struct harness_random random = harness_stream(1);

    (void)state;
    memset(&model, 0, sizeof(model));
    for (int round = 0; round < 4; round++) {
        for (uint32_t i = 0; i < 4000; i++)
            change_at_random(&random);
        check_order();
        CHECK_STATUS(km_compact(seed.store, NULL, NULL, NULL), KM_OK);
        check_order();
        seed_reopen(NULL);
        check_order();
        seed_in_a_killed_process(NULL, do_nothing);
        seed_open(NULL);
        check_order();
    }
}

/* ---- modify, entry ------------------------------------------------------------------------- */

static km_update_verdict add_one(void *context, const km_bytes *old_value,
                                 const km_key_info *old_info, km_bytes *new_value)
{
    char *room = context;

    (void)old_info;
    if (!old_value)
        return KM_UPDATE_KEEP;
    CHECK(old_value->size == 1);
    room[0] = (char)(*(const char *)old_value->data + 1);
    *new_value = km_bytes_of(room, 1);
    return KM_UPDATE_PUT;
}

static void modify_changes_a_value_where_it_is(void **state)
{
    char room[1];

    (void)state;
    seed_put_all("a=1 b=2");
    CHECK_STATUS(km_update(seed.map, text("a"), add_one, room, NULL), KM_OK);
    CHECK_STATUS(km_update(seed.map, text("a"), add_one, room, NULL), KM_OK);
    CHECK_STATUS(km_update(seed.map, text("none"), add_one, room, NULL), KM_OK);
    seed_check_all("a=3 b=2");
    seed_reopen(NULL);
    seed_check_all("a=3 b=2");
}

static void get_or_insert_inserts_once(void **state)
{
    km_buffer value = KM_BUFFER_INIT;
    km_write write = KM_WRITE_INIT;

    (void)state;
    CHECK_STATUS(km_get_or_insert(seed.map, text("a"), text("1"), &value, &write), KM_OK);
    CHECK(!write.existed && seed_is(&value, "1"));
    CHECK_STATUS(km_get_or_insert(seed.map, text("a"), text("2"), &value, &write), KM_OK);
    CHECK(write.existed && seed_is(&value, "1"));
    CHECK_STATUS(km_put_if_absent(seed.map, text("a"), text("3"), NULL), KM_EXISTS);
    CHECK_STATUS(km_put_if_absent(seed.map, text("b"), text("4"), NULL), KM_OK);
    seed_check_all("a=1 b=4");
    km_buffer_free(&value);
}

/* ---- the log ------------------------------------------------------------------------------- */

static void put_hundred(void)
{
    for (uint64_t key = 0; key < 100; key++)
        CHECK_STATUS(km_put_u64(seed.map, key, text("value"), NULL), KM_OK);
}

/* Spoil the key of the last record but one, as if its writer had been torn away from it. */
static void tear_record_98(void)
{
    static const km_u64_key torn = {{0, 0, 0, 0, 0, 0, 0, 98}};
    static uint8_t bytes[300000];
    char ring[HARNESS_PATH_SIZE];
    ssize_t size, at;
    int fd;

    harness_path(ring, seed.path, "tail-18.ring");
    fd = open(ring, O_RDWR);
    CHECK(fd >= 0);
    size = read(fd, bytes, sizeof(bytes));
    for (at = size - 8; at >= 0 && memcmp(bytes + at, torn.bytes, 8) != 0; at--) {
    }
    CHECK(at >= 0 && pwrite(fd, "x", 1, at) == 1);
    close(fd);
}

static void a_torn_tail_is_cut_and_the_rest_is_there(void **state)
{
    km_buffer key = KM_BUFFER_INIT;

    (void)state;
    seed_in_a_killed_process(NULL, put_hundred);
    tear_record_98();
    seed_open(NULL);
    CHECK(km_count(seed.map) == 98 && seed_stats().torn_bytes > 0);
    for (uint64_t i = 0; i < 98; i++) {
        CHECK_STATUS(km_get_index(seed.map, i, &key, NULL), KM_OK);
        CHECK(km_u64_key_to(key.data) == i);
    }
    seed_reopen(NULL);
    CHECK(km_count(seed.map) == 98 && seed_stats().torn_bytes == 0);
    km_buffer_free(&key);
}

static void overwrite(uint64_t first_key, uint64_t end_key, uint64_t turn)
{
    uint8_t value[200];

    for (uint64_t key = first_key; key < end_key; key++) {
        harness_value_fill(value, sizeof(value), key, turn);
        CHECK_STATUS(km_put_u64(seed.map, key, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
    }
}

static void check_turns(uint64_t first_key, uint64_t end_key, uint64_t turn)
{
    km_buffer value = KM_BUFFER_INIT, key = KM_BUFFER_INIT;

    for (uint64_t i = first_key; i < end_key; i++) {
        CHECK_STATUS(km_get_index(seed.map, i, &key, &value), KM_OK);
        CHECK(km_u64_key_to(key.data) == i);
        CHECK(harness_value_version(km_bytes_of(value.data, value.size), i) == turn);
    }
    km_buffer_free(&key);
    km_buffer_free(&value);
}

static void the_log_is_compacted_when_too_much_of_it_is_dead(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    uint64_t deadline;
    km_stats stats;

    (void)state;
    options.compact_percent = 200;
    options.log_size_min = 1 << 20;
    seed_reopen(&options);
    overwrite(0, 2000, 1);
    for (uint64_t turn = 2; turn <= 50; turn++)
        overwrite(200, 2000, turn); /* 20 MB in all for 0.45 MB that live */
    deadline = harness_now_ns() + UINT64_C(20000000000);
    do {
        usleep(1000); /* the background works by itself */
        stats = seed_stats();
        CHECK(harness_now_ns() < deadline);
    } while (stats.log_bytes > 4 << 20 || stats.freed_segments == 0);
    CHECK(stats.compacted_bytes > 0); /* the keys that were not overwritten */
    check_turns(0, 200, 1);
    check_turns(200, 2000, 50);
}

static void compact_leaves_what_lives(void **state)
{
    km_stats stats;

    (void)state;
    for (uint64_t turn = 1; turn <= 10; turn++)
        overwrite(0, 2000, turn);
    CHECK_STATUS(km_compact(seed.store, NULL, NULL, NULL), KM_OK);
    stats = seed_stats();
    CHECK(stats.key_count == 2000 && stats.log_bytes < stats.live_bytes + (2 << 20));
    check_turns(0, 2000, 10);
}

static void flush_makes_all_durable(void **state)
{
    km_write write = KM_WRITE_INIT;

    (void)state;
    CHECK_STATUS(km_put(seed.map, text("a"), text("1"), &write), KM_OK);
    CHECK_STATUS(km_wait_durable(seed.store, 0), KM_OK);
    CHECK(km_durable_position(seed.store) > write.position);
}

static void sync_on_write_makes_each_change_durable(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    km_write write = KM_WRITE_INIT;

    (void)state;
    options.durability = KM_DURABLE_POWER;
    seed_reopen(&options);
    for (int i = 0; i < 10; i++) {
        CHECK_STATUS(km_put(seed.map, text("a"), text("1"), &write), KM_OK);
        CHECK(km_durable_position(seed.store) > write.position);
    }
    CHECK_STATUS(km_del(seed.map, text("a"), &write), KM_OK);
    CHECK(km_durable_position(seed.store) > write.position);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, seed_begin_insertion, seed_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(insert_returns_the_previous_value),
        CASE(remove_returns_the_removed_value),
        CASE(get_and_contains_key),
        CASE(keys_and_values_are_of_any_type),
        CASE(len_is_empty_and_clear),
        CASE(iteration_is_in_insertion_order),
        CASE(overwriting_keeps_the_place),
        CASE(remove_shifts_and_keeps_the_order_of_the_rest),
        CASE(get_index_gives_the_key_at_a_place),
        CASE(first_and_last_and_popping_them),
        CASE(order_survives_compaction_reopening_and_kills),
        CASE(modify_changes_a_value_where_it_is),
        CASE(get_or_insert_inserts_once),
        CASE(a_torn_tail_is_cut_and_the_rest_is_there),
        CASE(the_log_is_compacted_when_too_much_of_it_is_dead),
        CASE(compact_leaves_what_lives),
        CASE(flush_makes_all_durable),
        CASE(sync_on_write_makes_each_change_durable),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
