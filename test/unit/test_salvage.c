/* SPDX-License-Identifier: Apache-2.0
 *
 * test_salvage.c -- what km_salvage brings over: names and kinds of maps, the order of keys,
 * expiries, ranges that were deleted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "harness/harness_util.h"

#define KEY_COUNT 400u
#define VALUE_SIZE 3000u
#define LONG_TTL_MS UINT64_C(1000000000)
#define STUCK_SECONDS 60

static struct {
    char folder[HARNESS_PATH_SIZE], path[HARNESS_PATH_SIZE], new_path[HARNESS_PATH_SIZE];
    km_store *store;
    km_check_result result;
    int findings;
} fixture;

static int setup(void **state)
{
    (void)state;
    memset(&fixture, 0, sizeof(fixture));
    harness_make_fast_folder(fixture.folder);
    harness_path(fixture.path, fixture.folder, "store");
    harness_path(fixture.new_path, fixture.folder, "new");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    harness_close(fixture.store);
    fixture.store = NULL;
    harness_remove(fixture.folder);
    return 0;
}

static void open_store(void)
{
    km_options options = KM_OPTIONS_INIT;

    options.log_size_min = 1; /* compacted as soon as it can be */
    fixture.store = harness_open(fixture.path, &options);
}

static km_map *make_map(const char *name, km_map_kind kind)
{
    km_map *map = NULL;

    CHECK_STATUS(km_map_create(fixture.store, km_bytes_of_string(name), kind, &map), KM_OK);
    return map;
}

static km_map *find_map(const char *name)
{
    km_map *map = NULL;

    CHECK_STATUS(km_map_open(fixture.store, km_bytes_of_string(name), &map), KM_OK);
    return map;
}

struct kind_search {
    const char *name;
    km_map_kind kind;
};

static int note_kind(void *context, const km_map_info *info)
{
    struct kind_search *search = context;

    if (info->name.size == strlen(search->name) &&
        memcmp(info->name.data, search->name, info->name.size) == 0)
        search->kind = info->kind;
    return 0;
}

static km_map_kind kind_of(const char *name)
{
    struct kind_search search = {name, KM_KIND_DEFAULT};

    CHECK_STATUS(km_map_list(fixture.store, note_kind, &search), KM_OK);
    return search.kind;
}

static void put_number(km_map *map, uint32_t k, uint64_t ttl_ms)
{
    static uint8_t value[VALUE_SIZE];
    km_write write = KM_WRITE_INIT;
    char key[16];

    write.ttl_ms = ttl_ms;
    harness_fill(value, sizeof(value), k);
    snprintf(key, sizeof(key), "%05u", k);
    CHECK_STATUS(km_put(map, km_bytes_of_string(key), km_bytes_of(value, sizeof(value)), &write),
                 KM_OK);
}

static void note_finding(void *context, const km_error *finding)
{
    (void)context;
    (void)finding;
    fixture.findings++;
}

/* Close the store, salvage it, and go on with the new one. */
static void salvage(void)
{
    km_error error = {0};
    km_status rc;

    harness_close(fixture.store);
    fixture.store = NULL;
    rc = km_salvage(fixture.path, fixture.new_path, note_finding, NULL, &fixture.result, &error);
    CHECK_MSG(rc == KM_OK, "salvage: %s: %s", km_status_name(rc), error.message);
    fixture.store = harness_open(fixture.new_path, NULL);
}

/* The keys of a map, in its order, are these and no others. */
static void check_keys(km_map *map, const uint32_t *keys, uint32_t count)
{
    km_cursor *cursor = NULL;
    km_bytes key, value;

    CHECK_STATUS(km_cursor_open(map, NULL, &cursor), KM_OK);
    for (uint32_t i = 0; i < count; i++) {
        char expected[16];

        snprintf(expected, sizeof(expected), "%05u", keys[i]);
        CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_OK);
        CHECK_MSG(key.size == 5 && memcmp(key.data, expected, 5) == 0, "number %u is %.5s, not %s",
                  i, (const char *)key.data, expected);
        CHECK(value.size == VALUE_SIZE && harness_is_filled(value.data, VALUE_SIZE, keys[i]));
    }
    CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_END);
    km_cursor_close(cursor);
}

/* Put 0 to KEY_COUNT - 1, then the first half again, and let the log turn over: the first half lies
 * behind the second then, and the records that tell of maps have left the log. */
static void fill_and_turn(km_map *map)
{
    for (uint32_t k = 0; k < KEY_COUNT; k++)
        put_number(map, k, 0);
    for (uint32_t k = 0; k < KEY_COUNT / 2; k++)
        put_number(map, k, 0);
    CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
    CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
}

static void the_order_of_keys_is_kept(void **state)
{
    uint32_t keys[KEY_COUNT];
    uint32_t count = 0;
    km_map *map;

    (void)state;
    open_store();
    map = make_map("queue", KM_INSERTION);
    fill_and_turn(map);
    CHECK_STATUS(km_del(map, km_bytes_of_string("00007"), NULL), KM_OK);
    CHECK_STATUS(km_del(map, km_bytes_of_string("00300"), NULL), KM_OK);
    put_number(map, 7, 0); /* the last from now on */
    for (uint32_t k = 0; k < KEY_COUNT; k++) {
        if (k != 7 && k != 300)
            keys[count++] = k;
    }
    keys[count++] = 7;
    check_keys(map, keys, count);
    salvage();
    CHECK(kind_of("queue") == KM_INSERTION && fixture.findings == 0);
    check_keys(find_map("queue"), keys, count);
    CHECK(fixture.result.copied_count == count);
}

static void names_and_kinds_are_those_of_the_catalogue(void **state)
{
    (void)state;
    open_store();
    (void)make_map("nothing", KM_SORTED);
    (void)make_map("hash", KM_HASH);
    put_number(find_map("hash"), 1, 0);
    put_number(make_map("list", KM_SORTED), 2, 0);
    CHECK_STATUS(km_map_drop(make_map("gone", KM_SORTED)), KM_OK);
    fill_and_turn(make_map("queue", KM_INSERTION));
    salvage();
    CHECK(fixture.findings == 0);
    CHECK(kind_of("nothing") == KM_SORTED && kind_of("hash") == KM_HASH);
    CHECK(kind_of("list") == KM_SORTED && kind_of("queue") == KM_INSERTION);
    CHECK(km_count(find_map("hash")) == 1 && km_count(find_map("list")) == 1);
    CHECK(km_count(find_map("queue")) == KEY_COUNT && km_count(find_map("nothing")) == 0);
}

static void without_a_catalogue_kinds_are_guessed(void **state)
{
    char maps_path[HARNESS_PATH_SIZE];
    uint32_t keys[KEY_COUNT];

    (void)state;
    open_store();
    put_number(make_map("list", KM_SORTED), 2, 0);
    fill_and_turn(make_map("queue", KM_INSERTION));
    harness_close(fixture.store);
    fixture.store = NULL;
    harness_path(maps_path, fixture.path, "MAPS");
    CHECK(unlink(maps_path) == 0);
    salvage();
    CHECK(fixture.findings == 2); /* two names are lost */
    CHECK(kind_of("map-0") == KM_SORTED && kind_of("map-1") == KM_INSERTION);
    for (uint32_t k = 0; k < KEY_COUNT; k++)
        keys[k] = k;
    check_keys(find_map("map-1"), keys, KEY_COUNT);
}

static void expiries_are_kept(void **state)
{
    km_key_info before, after;
    uint32_t keys[] = {2, 3};
    km_map *map;

    (void)state;
    open_store();
    map = make_map("list", KM_SORTED);
    put_number(map, 1, 0);
    put_number(map, 1, 1); /* gone at once, with what it was before */
    put_number(map, 2, LONG_TTL_MS);
    put_number(map, 3, 0);
    CHECK_STATUS(km_get_info(map, km_bytes_of_string("00002"), NULL, &before), KM_OK);
    salvage();
    map = find_map("list");
    CHECK_STATUS(km_get_info(map, km_bytes_of_string("00002"), NULL, &after), KM_OK);
    CHECK(after.expires_ms + 10 >= before.expires_ms && after.expires_ms <= before.expires_ms + 10);
    CHECK_STATUS(km_get_info(map, km_bytes_of_string("00003"), NULL, &after), KM_OK);
    CHECK(after.expires_ms == 0);
    CHECK_STATUS(km_get_info(map, km_bytes_of_string("00001"), NULL, &after), KM_NOT_FOUND);
    check_keys(map, keys, 2);
}

static void deleted_ranges_stay_deleted(void **state)
{
    uint32_t keys[] = {0, 1, 5, 11};
    km_range range = {{NULL, 0}, {NULL, 0}, {NULL, 0}};
    km_map *map;

    (void)state;
    open_store();
    map = make_map("list", KM_SORTED);
    for (uint32_t k = 0; k < 20; k++)
        put_number(map, k, 0);
    range.from = km_bytes_of_string("00002");
    range.to = km_bytes_of_string("00011");
    CHECK_STATUS(km_del_range(map, &range, NULL, NULL), KM_OK);
    range.from = km_bytes_of_string("00012");
    range.to = km_bytes_of(NULL, 0);
    CHECK_STATUS(km_del_range(map, &range, NULL, NULL), KM_OK);
    put_number(map, 5, 0);
    check_keys(map, keys, 4);
    salvage();
    check_keys(find_map("list"), keys, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_order_of_keys_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(names_and_kinds_are_those_of_the_catalogue, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(without_a_catalogue_kinds_are_guessed, setup, teardown),
        cmocka_unit_test_setup_teardown(expiries_are_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(deleted_ranges_stay_deleted, setup, teardown),
    };

    harness_begin();
    alarm(STUCK_SECONDS);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
