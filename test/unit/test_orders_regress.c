/* SPDX-License-Identifier: Apache-2.0
 *
 * test_orders_regress.c -- small cases of orders that larger tests meet only by chance: the ends of
 * ranges, replay by several threads, keys that come back, readers in a leaf that changes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "harness/harness_util.h"
#include "store/store_internal.h"

static char folder[HARNESS_PATH_SIZE];
static km_store *store;

/* Without threads of its own: nothing happens but what a case does. */
static void open_store(void)
{
    km_options options = KM_OPTIONS_INIT;

    options.replay_threads = 4;
    CHECK_STATUS(km__store_open_with(km__os_linux(), folder, &options, 0, &store, NULL), KM_OK);
}

static int set_up(void **state)
{
    (void)state;
    harness_make_fast_folder(folder);
    open_store();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    harness_close(store);
    harness_remove(folder);
    return 0;
}

static void reopen(void)
{
    harness_close(store);
    open_store();
}

static km_map *create_map(const char *name, km_map_kind kind)
{
    km_map *map = NULL;

    CHECK_STATUS(km_map_create(store, km_bytes_of_string(name), kind, &map), KM_OK);
    return map;
}

static km_bytes text(const char *string)
{
    return km_bytes_of_string(string);
}

/* ---- ranges ------------------------------------------------------------------------------ */

#define RANGE_KEYS 400u

static void fill_numbers(km_map *map)
{
    for (uint64_t key = 0; key < RANGE_KEYS; key++)
        CHECK_STATUS(km_put_u64(map, key, text("value"), NULL), KM_OK);
}

/* All but those from `from` up to and excluding `to` are there. */
static void check_numbers(km_map *map, uint64_t from, uint64_t to)
{
    CHECK(km_count(map) == RANGE_KEYS - (to - from));
    for (uint64_t key = 0; key < RANGE_KEYS; key++)
        CHECK_STATUS(km_get_u64(map, key, NULL), key >= from && key < to ? KM_NOT_FOUND : KM_OK);
}

static void delete_numbers(km_map *map, uint64_t from, uint64_t to)
{
    km_u64_key begin = km_u64_key_from(from), end = km_u64_key_from(to);
    km_range range = {.from = km_bytes_of(begin.bytes, 8), .to = km_bytes_of(end.bytes, 8)};
    uint64_t count = 0;

    CHECK_STATUS(km_del_range(map, &range, NULL, &count), KM_OK);
    CHECK(count == to - from);
}

static void a_range_has_its_begin_and_not_its_end(void **state)
{
    static const uint64_t ends[][2] = {{0, 1}, {0, 17}, {5, 6}, {100, 300}, {RANGE_KEYS - 1, 400}};

    (void)state;
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        km_map *map = create_map("sorted", KM_SORTED);

        fill_numbers(map);
        delete_numbers(map, ends[i][0], ends[i][1]);
        check_numbers(map, ends[i][0], ends[i][1]);
        CHECK_STATUS(km_map_drop(map), KM_OK);
    }
}

static void every_thread_of_a_replay_deletes_its_share(void **state)
{
    km_map *map = create_map("sorted", KM_SORTED);
    km_map *cleared = create_map("insertion", KM_INSERTION);

    (void)state;
    fill_numbers(map);
    fill_numbers(cleared);
    delete_numbers(map, 100, 300);
    CHECK_STATUS(km_map_clear(cleared), KM_OK);
    reopen();
    CHECK_STATUS(km_map_open(store, text("sorted"), &map), KM_OK);
    check_numbers(map, 100, 300);
    CHECK_STATUS(km_map_open(store, text("insertion"), &cleared), KM_OK);
    CHECK(km_count(cleared) == 0);
}

/* ---- keys that come back ----------------------------------------------------------------- */

static void check_names(km_map *map, const char *const *names, size_t count)
{
    km_buffer key = KM_BUFFER_INIT;

    for (size_t i = 0; i < count; i++) {
        CHECK_STATUS(km_get_index(map, i, &key, NULL), KM_OK);
        CHECK(key.size == strlen(names[i]) && memcmp(key.data, names[i], key.size) == 0);
    }
    CHECK_STATUS(km_get_index(map, count, NULL, NULL), KM_NOT_FOUND);
    km_buffer_free(&key);
}

/* With one record that takes a place away and gives another, and no delete between. */
static void a_key_that_came_back_is_replayed_at_its_last_place(void **state)
{
    static const char *const names[] = {"stays", "came back", "last"};
    km_map *map = create_map("insertion", KM_INSERTION);
    km_write write = KM_WRITE_INIT;

    (void)state;
    write.ttl_ms = 1;
    CHECK_STATUS(km_put(map, text("came back"), text("value"), &write), KM_OK);
    CHECK_STATUS(km_put(map, text("stays"), text("value"), NULL), KM_OK);
    while (km_contains(map, text("came back")) == KM_OK)
        ; /* ends: the millisecond does */
    CHECK_STATUS(km_put(map, text("came back"), text("again"), NULL), KM_OK);
    CHECK_STATUS(km_put(map, text("last"), text("value"), NULL), KM_OK);
    check_names(map, names, 3);
    reopen();
    CHECK_STATUS(km_map_open(store, text("insertion"), &map), KM_OK);
    check_names(map, names, 3);
}

/* ---- readers in a leaf ------------------------------------------------------------------- */

/* Keys by reference, of equal heads, so that a reader has to ask for them. */
static const char *const leaf_keys[] = {"", "same head 0", "same head 1", "same head 2",
                                        "same head 3"};

static struct {
    struct sorted_tree *tree;
    int is_armed; /* the next key that is asked for changes the leaf first */
} leaf;

static void enter_key(uint64_t ref)
{
    struct sorted_pending pending = {(const uint8_t *)leaf_keys[ref],
                                     (uint32_t)strlen(leaf_keys[ref])};

    CHECK_STATUS(km__sorted_reserve(leaf.tree, &pending), KM_OK);
    km__sorted_fill(leaf.tree, 0, &pending, ref, 1);
}

static km_status tell_key(void *context, uint64_t ref, km_bytes *out_key)
{
    (void)context;
    if (leaf.is_armed) {
        leaf.is_armed = 0;
        km__sorted_remove(leaf.tree, 0, text(leaf_keys[4]), 4, 1);
        enter_key(1);
    }
    *out_key = text(leaf_keys[ref]);
    return KM_OK;
}

static void fetch_nothing(void *context, uint64_t ref)
{
    (void)context;
    (void)ref;
}

static void a_reader_in_a_leaf_meets_no_key_that_took_anothers_slot(void **state)
{
    const struct allocator *allocator = &km__os_linux()->allocator;
    const struct sorted_source source = {tell_key, fetch_nothing, NULL};
    struct sorted_bound from = {text(leaf_keys[3]), 1, 0};
    uint64_t refs[SORTED_LEAF_ENTRIES];
    struct reclaimer reclaimer;
    struct node_pool *pool = NULL;
    size_t count = 0;

    (void)state;
    km__reclaimer_init(&reclaimer);
    CHECK_STATUS(km__node_pool_create(allocator, &pool), KM_OK);
    CHECK_STATUS(km__sorted_create(allocator, pool, &reclaimer, &source, &leaf.tree), KM_OK);
    km__epoch_enter();
    for (uint64_t ref = 2; ref <= 4; ref++)
        enter_key(ref);
    leaf.is_armed = 1;
    CHECK_STATUS(km__sorted_read_up(leaf.tree, from, refs, SORTED_LEAF_ENTRIES, &count), KM_OK);
    km__epoch_leave();
    CHECK(!leaf.is_armed && count >= 1 && refs[0] == 3);
    for (size_t i = 1; i < count; i++) /* the removed one was there during a part of the call */
        CHECK(refs[i] == 4);
    km__sorted_destroy(leaf.tree);
    km__reclaimer_fini(&reclaimer);
    km__node_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_range_has_its_begin_and_not_its_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_thread_of_a_replay_deletes_its_share, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_key_that_came_back_is_replayed_at_its_last_place, set_up,
                                        tear_down),
        cmocka_unit_test(a_reader_in_a_leaf_meets_no_key_that_took_anothers_slot),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
