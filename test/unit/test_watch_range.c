/* SPDX-License-Identifier: Apache-2.0
 *
 * test_watch_range.c -- deletions of ranges in the feed of changes; test_watch.c has the rest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "harness/harness_util.h"

static void check_range(km_watch *watch, const char *from, const char *to)
{
    km_change change;

    CHECK_STATUS(km_watch_next(watch, 0, &change), KM_OK);
    CHECK(change.kind == KM_CHANGE_RANGE_DELETED && change.position > 0 && !change.more_follows);
    CHECK(change.map.size == 6 && memcmp(change.map.data, "sorted", 6) == 0);
    CHECK(change.key.data && change.key.size == strlen(from));
    CHECK(memcmp(change.key.data, from, change.key.size) == 0);
    CHECK((change.value.data != NULL) == (to != NULL) &&
          change.value.size == (to ? strlen(to) : 0));
    CHECK(!to || memcmp(change.value.data, to, change.value.size) == 0);
}

/* Whatever the prefix is, as what happens to a whole map. */
static void a_deleted_range_is_told_by_its_ends(void **state)
{
    static const char *const ends[][2] = {{"b", "d"}, {"f", NULL}, {"", "b"}, {"", NULL}};
    km_watch_options options = KM_WATCH_OPTIONS_INIT;
    km_watch *watch = NULL;
    km_store *store = NULL;
    km_map *map = NULL;
    km_change change;

    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &store, NULL), KM_OK);
    CHECK_STATUS(km_map_create(store, km_bytes_of_string("sorted"), KM_SORTED, &map), KM_OK);
    for (char c = 'a'; c <= 'h'; c++)
        CHECK_STATUS(km_put(map, km_bytes_of(&c, 1), km_bytes_of("value", 5), NULL), KM_OK);
    options.prefix = km_bytes_of_string("x");
    CHECK_STATUS(km_watch_open(store, &options, &watch), KM_OK);
    for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
        km_range range = {km_bytes_of_string(ends[i][0]), {NULL, 0}, {NULL, 0}};

        if (ends[i][1])
            range.to = km_bytes_of_string(ends[i][1]);
        CHECK_STATUS(km_del_range(map, &range, NULL, NULL), KM_OK);
        check_range(watch, ends[i][0], ends[i][1]);
        CHECK_STATUS(km_watch_next(watch, 0, &change), KM_TIMED_OUT);
    }
    CHECK_STATUS(km_del_range(map, NULL, NULL, NULL), KM_OK); /* there was nothing */
    CHECK_STATUS(km_watch_next(watch, 0, &change), KM_TIMED_OUT);
    km_watch_close(watch);
    harness_close(store);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_deleted_range_is_told_by_its_ends),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
