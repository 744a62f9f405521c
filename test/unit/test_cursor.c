/* SPDX-License-Identifier: Apache-2.0
 *
 * test_cursor.c -- cursors over maps of every kind: order, directions, bounds, changes beside them.
 * test/model/test_model_snapshot.c has those over snapshots.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "harness/harness_util.h"
#include "log/log_internal.h"
#include "sim/sim.h"
#include "store/store_internal.h"

#define KIND_COUNT 3u
#define KEY_COUNT 3000u
#define TEXT_MAX 64u

static const km_map_kind kinds[KIND_COUNT] = {KM_HASH, KM_INSERTION, KM_SORTED};

/* A store without threads on the simulated machine; a map of each kind. */
static struct {
    struct os *os;
    km_store *store;
    km_map *maps[KIND_COUNT], *hash, *insertion, *sorted;
    struct harness_random random;
} fixture;

static void open_store(void)
{
    km_options options = KM_OPTIONS_INIT;

    options.log_size_min = UINT64_C(1) << 40; /* compaction is done by hand */
    CHECK_STATUS(km__store_open_with(fixture.os, "store", &options, 0, &fixture.store, NULL),
                 KM_OK);
}

static int open_fixture(void **state)
{
    static const char *const names[KIND_COUNT] = {"hash", "insertion", "sorted"};

    (void)state;
    fixture.random = harness_stream(1);
    fixture.os = km__sim_create(harness_next(&fixture.random));
    open_store();
    for (uint32_t i = 0; i < KIND_COUNT; i++)
        CHECK_STATUS(
            km_map_create(fixture.store, km_bytes_of_string(names[i]), kinds[i], &fixture.maps[i]),
            KM_OK);
    fixture.hash = fixture.maps[0];
    fixture.insertion = fixture.maps[1];
    fixture.sorted = fixture.maps[2];
    return 0;
}

static int close_fixture(void **state)
{
    (void)state;
    harness_close(fixture.store);
    CHECK(km__sim_allocated_bytes(fixture.os) == 0 && km__sim_open_count(fixture.os) == 0);
    km__sim_destroy(fixture.os);
    return 0;
}

static km_bytes text(const char *string)
{
    return km_bytes_of_string(string);
}

static uint64_t below(uint64_t n)
{
    return harness_below(&fixture.random, n);
}

/* ---- keys and values --------------------------------------------------------------------- */

/* A value tells its key and a version. */
static void put_version(km_map *map, uint64_t key, uint64_t version)
{
    uint8_t value[200];

    harness_value_fill(value, HARNESS_VALUE_MIN + key % 100, key, version);
    CHECK_STATUS(km_put_u64(map, key, km_bytes_of(value, HARNESS_VALUE_MIN + key % 100), NULL),
                 KM_OK);
}

static uint64_t number_of(km_bytes key, km_bytes value)
{
    uint64_t number;

    CHECK(key.size == 8);
    number = km_u64_key_to(key.data);
    CHECK(harness_value_version(value, number) > 0);
    return number;
}

static km_cursor *open_cursor(km_map *map, int is_reverse)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;

    options.reverse = is_reverse;
    CHECK_STATUS(km_cursor_open(map, &options, &cursor), KM_OK);
    return cursor;
}

static uint64_t next_number(km_cursor *cursor)
{
    km_bytes key, value;

    CHECK_STATUS(km_cursor_next(cursor, &key, &value), KM_OK);
    return number_of(key, value);
}

static uint64_t previous_number(km_cursor *cursor)
{
    km_bytes key, value;

    CHECK_STATUS(km_cursor_previous(cursor, &key, &value), KM_OK);
    return number_of(key, value);
}

static void check_end(km_cursor *cursor)
{
    CHECK_STATUS(km_cursor_next(cursor, NULL, NULL), KM_END);
}

/* 0 to count - 1 in a random order. */
static void shuffle(uint64_t *numbers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t j = below(i + 1);

        numbers[i] = numbers[j];
        numbers[j] = i;
    }
}

/* ---- whole walks ------------------------------------------------------------------------- */

static void check_hash_walk(size_t count)
{
    static uint8_t seen[KEY_COUNT];
    km_cursor *cursor = open_cursor(fixture.hash, 0);

    memset(seen, 0, sizeof(seen));
    for (size_t i = 0; i < count; i++) {
        uint64_t number = next_number(cursor);

        CHECK(number < count && !seen[number]++);
    }
    check_end(cursor);
    check_end(cursor);
    km_cursor_close(cursor);
}

/* `order`: NULL: by number. To the end and back, both ways round. */
static void check_ordered_walk(km_map *map, const uint64_t *order, size_t count)
{
    for (int is_reverse = 0; is_reverse < 2; is_reverse++) {
        km_cursor *cursor = open_cursor(map, is_reverse);

        CHECK_STATUS(km_cursor_previous(cursor, NULL, NULL), KM_END);
        for (size_t i = 0; i < count; i++) {
            size_t at = is_reverse ? count - 1 - i : i;

            CHECK(next_number(cursor) == (order ? order[at] : at));
        }
        check_end(cursor);
        for (size_t i = 0; i < count; i++) {
            size_t at = is_reverse ? i : count - 1 - i;

            CHECK(previous_number(cursor) == (order ? order[at] : at));
        }
        CHECK_STATUS(km_cursor_previous(cursor, NULL, NULL), KM_END);
        km_cursor_close(cursor);
    }
}

static void a_walk_meets_every_key_in_the_order_of_the_kind(void **state)
{
    static const size_t counts[] = {0, 1, 2, 15, 16, 17, 64, 65, 1000, KEY_COUNT};
    static uint64_t order[KEY_COUNT];

    (void)state;
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        shuffle(order, counts[i]);
        for (uint32_t map = 0; map < KIND_COUNT; map++) {
            CHECK_STATUS(km_map_clear(fixture.maps[map]), KM_OK);
            for (size_t j = 0; j < counts[i]; j++)
                put_version(fixture.maps[map], order[j], j + 1);
        }
        check_hash_walk(counts[i]);
        check_ordered_walk(fixture.insertion, order, counts[i]);
        check_ordered_walk(fixture.sorted, NULL, counts[i]);
    }
}

static void next_and_previous_meet_the_same_key(void **state)
{
    size_t count = 500;

    (void)state;
    for (uint32_t map = 1; map < KIND_COUNT; map++) {
        km_cursor *cursor;
        size_t at = 0;

        for (uint64_t key = 0; key < count; key++)
            put_version(fixture.maps[map], key, 1);
        cursor = open_cursor(fixture.maps[map], 0);
        for (uint32_t run = 0; run < 500; run++) {
            int is_back = (int)below(2);

            for (uint64_t steps = below(100); steps > 0; steps--) {
                if (at == (is_back ? 0 : count))
                    break;
                CHECK((is_back ? previous_number(cursor) : next_number(cursor)) ==
                      at - (is_back != 0));
                at += is_back ? SIZE_MAX : 1;
            }
        }
        km_cursor_close(cursor);
    }
}

static void keys_that_come_after_the_end_are_met(void **state)
{
    (void)state;
    for (uint32_t map = 1; map < KIND_COUNT; map++) {
        km_cursor *cursor = open_cursor(fixture.maps[map], 0);
        uint64_t met = 0, count = 0;

        check_end(cursor);
        while (count < 300) {
            for (uint64_t more = 1 + below(70); more > 0; more--)
                put_version(fixture.maps[map], count++, 1);
            while (met < count)
                CHECK(next_number(cursor) == met++);
            check_end(cursor);
            CHECK(previous_number(cursor) == count - 1);
            CHECK(next_number(cursor) == count - 1);
            check_end(cursor);
        }
        km_cursor_close(cursor);
    }
}

static void keys_and_values_of_every_size_are_met(void **state)
{
    static const size_t sizes[] = {0, 1, 7, 4000, 70000, 3 << 20, 100};
    static uint8_t key_bytes[KM_KEY_SIZE_MAX];
    uint8_t *value_bytes = malloc(3 << 20);
    km_bytes key, value;

    (void)state;
    CHECK(value_bytes != NULL);
    for (uint32_t map = 0; map < KIND_COUNT; map++) {
        size_t key_size = 0, count = 0;
        km_cursor *cursor;

        for (size_t i = 0; i < 7; i++) {
            harness_fill(value_bytes, sizes[i], i);
            key_size = i == 6 ? KM_KEY_SIZE_MAX : i;
            CHECK_STATUS(km_put(fixture.maps[map], km_bytes_of(key_bytes, key_size),
                                km_bytes_of(value_bytes, sizes[i]), NULL),
                         KM_OK);
        }
        cursor = open_cursor(fixture.maps[map], 0);
        while (km_cursor_next(cursor, &key, &value) == KM_OK) {
            size_t i = key.size == KM_KEY_SIZE_MAX ? 6 : key.size;

            CHECK(i < 7 && (map == 0 || i == count) && value.size == sizes[i]);
            CHECK(key.data && value.data && harness_is_filled(value.data, value.size, i));
            CHECK(memcmp(key.data, key_bytes, key.size) == 0);
            count++;
        }
        CHECK(count == 7);
        km_cursor_close(cursor);
    }
    free(value_bytes);
}

/* ---- ranges and seeks -------------------------------------------------------------------- */

static const char *const texts[] = {
    "",   "a", "aa", "ab",  "abc",  "b",    "ba",       "bb",       "bbb",         "c",
    "ca", "z", "zz", "zzz", "\xfe", "\xff", "\xff\xfe", "\xff\xff", "\xff\xff\x01"};
#define TEXT_COUNT (sizeof(texts) / sizeof(texts[0]))

static int is_in_range(const km_range *range, const char *string)
{
    size_t size = strlen(string);

    if (range->from.size && strcmp(string, range->from.data) < 0)
        return 0;
    if (range->to.data && strcmp(string, range->to.data) >= 0)
        return 0;
    return size >= range->prefix.size &&
           (!size || !range->prefix.size ||
            memcmp(string, range->prefix.data, range->prefix.size) == 0);
}

static km_bytes some_text(void)
{
    km_bytes none = {NULL, 0};

    return below(3) ? text(texts[below(TEXT_COUNT)]) : none;
}

static void check_text(km_status rc, km_bytes key, const char *expected)
{
    CHECK_STATUS(rc, expected ? KM_OK : KM_END);
    if (expected)
        CHECK_MSG(key.size == strlen(expected) && memcmp(key.data, expected, key.size) == 0,
                  "met %.*s, not %s", (int)key.size, (const char *)key.data, expected);
}

/* Both ways from a place among the keys of the range: `at` is the one before which it lies. */
static void check_from_place(km_cursor *cursor, const km_cursor_options *options, size_t at)
{
    km_bytes key;

    for (size_t i = at; i < TEXT_COUNT; i++) {
        if (is_in_range(&options->range, texts[i]))
            check_text(options->reverse ? km_cursor_previous(cursor, &key, NULL)
                                        : km_cursor_next(cursor, &key, NULL),
                       key, texts[i]);
    }
    check_text(options->reverse ? km_cursor_previous(cursor, &key, NULL)
                                : km_cursor_next(cursor, &key, NULL),
               key, NULL);
    for (size_t i = TEXT_COUNT; i > 0; i--) {
        if (is_in_range(&options->range, texts[i - 1]))
            check_text(options->reverse ? km_cursor_next(cursor, &key, NULL)
                                        : km_cursor_previous(cursor, &key, NULL),
                       key, texts[i - 1]);
    }
    check_text(options->reverse ? km_cursor_next(cursor, &key, NULL)
                                : km_cursor_previous(cursor, &key, NULL),
               key, NULL);
}

static void ranges_and_seeks_narrow_a_walk(void **state)
{
    (void)state;
    for (size_t i = 0; i < TEXT_COUNT; i++)
        CHECK_STATUS(km_put(fixture.sorted, text(texts[i]), text("v"), NULL), KM_OK);
    for (uint32_t round = 0; round < 3000; round++) {
        km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
        const char *wanted = texts[below(TEXT_COUNT)];
        char beside[TEXT_MAX];
        km_cursor *cursor = NULL;
        size_t at = 0;

        options.range.from = some_text();
        options.range.to = some_text();
        options.range.prefix = some_text();
        options.reverse = (int)below(2);
        CHECK_STATUS(km_cursor_open(fixture.sorted, &options, &cursor), KM_OK);
        check_from_place(cursor, &options, options.reverse ? TEXT_COUNT : 0);
        /* to a key, or just behind one */
        strcpy(beside, wanted);
        strcat(beside, below(2) ? "\x01" : "");
        CHECK_STATUS(km_cursor_seek(cursor, text(beside)), KM_OK);
        while (at < TEXT_COUNT &&
               (options.reverse ? strcmp(texts[at], beside) <= 0 : strcmp(texts[at], beside) < 0))
            at++;
        check_from_place(cursor, &options, at);
        km_cursor_close(cursor);
    }
}

static void a_seek_in_insertion_order_needs_the_key(void **state)
{
    static uint64_t order[200];
    km_cursor *cursor;

    (void)state;
    shuffle(order, 200);
    for (size_t i = 0; i < 200; i++)
        put_version(fixture.insertion, order[i], 1);
    for (int is_reverse = 0; is_reverse < 2; is_reverse++) {
        cursor = open_cursor(fixture.insertion, is_reverse);
        for (uint32_t round = 0; round < 300; round++) {
            size_t at = below(200), after = is_reverse ? at - 1 : at + 1;
            km_u64_key key = km_u64_key_from(order[at]);

            CHECK_STATUS(km_cursor_seek(cursor, km_bytes_of(key.bytes, 8)), KM_OK);
            CHECK(next_number(cursor) == order[at]);
            CHECK_STATUS(km_cursor_seek(cursor, text("absent")), KM_NOT_FOUND);
            if (after < 200)
                CHECK(next_number(cursor) == order[after]);
            else
                check_end(cursor);
        }
        km_cursor_close(cursor);
    }
}

/* ---- what is known of a key -------------------------------------------------------------- */

static void info_is_of_the_key_that_was_returned(void **state)
{
    (void)state;
    for (uint32_t map = 0; map < KIND_COUNT; map++) {
        km_write write = KM_WRITE_INIT;
        km_key_info info = {0, 0, 0};
        km_cursor *cursor;

        write.ttl_ms = 1000000;
        CHECK_STATUS(km_put(fixture.maps[map], text("key"), text("value"), &write), KM_OK);
        cursor = open_cursor(fixture.maps[map], 0);
        CHECK_STATUS(km_cursor_info(cursor, &info), KM_NOT_FOUND);
        CHECK_STATUS(km_cursor_next(cursor, NULL, NULL), KM_OK);
        CHECK_STATUS(km_put(fixture.maps[map], text("key"), text("other"), NULL), KM_OK);
        CHECK_STATUS(km_cursor_info(cursor, &info), KM_OK);
        CHECK(info.version == write.position && info.value_size == 5 && info.expires_ms);
        check_end(cursor);
        CHECK_STATUS(km_cursor_info(cursor, &info), KM_NOT_FOUND);
        km_cursor_close(cursor);
    }
}

static void expired_keys_are_passed_over(void **state)
{
    (void)state;
    for (uint32_t map = 0; map < KIND_COUNT; map++) {
        km_cursor *cursor;
        uint64_t count = 0;

        for (uint64_t key = 0; key < 400; key++) {
            km_write write = KM_WRITE_INIT;
            uint8_t value[HARNESS_VALUE_MIN];

            write.ttl_ms = key % 100 == 50 ? 0 : key % 2 ? 1000 : 1000000;
            harness_value_fill(value, sizeof(value), key, 1);
            CHECK_STATUS(
                km_put_u64(fixture.maps[map], key, km_bytes_of(value, sizeof(value)), &write),
                KM_OK);
        }
        cursor = open_cursor(fixture.maps[map], 0);
        km__sim_advance(fixture.os, UINT64_C(2000) * 1000000);
        for (; count < 200; count++)
            CHECK(next_number(cursor) % 2 == 0);
        check_end(cursor);
        km_cursor_close(cursor);
        cursor = open_cursor(fixture.maps[map], 0);
        km__sim_advance(fixture.os, UINT64_C(2000000) * 1000000);
        for (count = 0; count < 4; count++)
            CHECK(next_number(cursor) % 100 == 50);
        check_end(cursor);
        km_cursor_close(cursor);
    }
}

/* ---- changes beside a walk --------------------------------------------------------------- */

#define LASTING_COUNT 600u /* keys that stay, among as many that come and go */

static void change_beside(km_map *map, uint64_t current, uint64_t *version)
{
    switch (below(9)) {
    case 0: km__ignore(km_del_u64(map, 2 * (current / 2) + 1, NULL), "it may be gone"); break;
    case 1: km__ignore(km_del_u64(map, 2 * below(LASTING_COUNT) + 1, NULL), "likewise"); break;
    case 2: put_version(map, 2 * below(LASTING_COUNT) + 1, ++*version); break;
    case 3: put_version(map, 2 * (current / 2) + 1, ++*version); break;
    case 4:
    case 5: put_version(map, 2 * below(LASTING_COUNT), ++*version); break;
    case 6: put_version(map, 2 * (current / 2), ++*version); break;
    default: break;
    }
    if (below(100) == 0)
        CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
    km__reclaim(&fixture.store->reclaimer);
}

static void walk_beside_changes(km_map *map, int is_reverse)
{
    uint8_t seen[LASTING_COUNT] = {0};
    uint64_t version = 1, count = 0;
    km_cursor *cursor;
    km_bytes key, value;
    km_status rc;

    CHECK_STATUS(km_map_clear(map), KM_OK);
    for (uint64_t i = 0; i < 2 * LASTING_COUNT; i++)
        put_version(map, i, ++version);
    cursor = open_cursor(map, is_reverse);
    while ((rc = km_cursor_next(cursor, &key, &value)) == KM_OK) {
        uint64_t number = number_of(key, value);

        CHECK(number % 2 || !seen[number / 2]++);
        count += number % 2 == 0;
        change_beside(map, number, &version);
        CHECK(number_of(key, value) == number); /* its bytes stay */
    }
    CHECK_STATUS(rc, KM_END);
    CHECK(count == LASTING_COUNT);
    km_cursor_close(cursor);
}

static void keys_that_stay_are_met_once_beside_all_sorts_of_changes(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < harness_scaled(3); round++) {
        walk_beside_changes(fixture.hash, 0);
        walk_beside_changes(fixture.insertion, 0);
        walk_beside_changes(fixture.insertion, 1);
        walk_beside_changes(fixture.sorted, 0);
        walk_beside_changes(fixture.sorted, 1);
    }
}

static void what_was_returned_stays_until_the_next_call(void **state)
{
    km_cursor *cursors[KIND_COUNT];
    km_bytes keys[KIND_COUNT], values[KIND_COUNT];
    uint64_t freed;

    (void)state;
    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        for (uint32_t map = 0; map < KIND_COUNT; map++)
            put_version(fixture.maps[map], key, 1);
    }
    CHECK_STATUS(km__log_housekeep(fixture.store->log), KM_OK);
    for (uint32_t map = 0; map < KIND_COUNT; map++) {
        cursors[map] = open_cursor(fixture.maps[map], 0);
        CHECK_STATUS(km_cursor_next(cursors[map], &keys[map], &values[map]), KM_OK);
    }
    freed = fixture.store->log->freed_segments;
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t map = 0; map < KIND_COUNT; map++)
            CHECK_STATUS(km_map_clear(fixture.maps[map]), KM_OK);
        CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
        km__reclaim(&fixture.store->reclaimer);
        km__reclaim(&fixture.store->reclaimer);
    }
    CHECK(fixture.store->log->freed_segments == freed); /* the cursors keep them */
    for (uint32_t map = 0; map < KIND_COUNT; map++) {
        CHECK(number_of(keys[map], values[map]) < KEY_COUNT);
        while (km_cursor_next(cursors[map], &keys[map], &values[map]) == KM_OK)
            CHECK(number_of(keys[map], values[map]) < KEY_COUNT);
        km_cursor_close(cursors[map]);
    }
    km__log_free_dropped(fixture.store->log);
    km__reclaim(&fixture.store->reclaimer);
    CHECK(fixture.store->log->freed_segments > freed);
}

static void a_walk_that_goes_on_lets_go_of_what_it_has_passed(void **state)
{
    (void)state;
    for (uint32_t map = 0; map < KIND_COUNT; map++) {
        uint64_t freed, count = 1;
        km_cursor *cursor;

        for (uint64_t key = 0; key < KEY_COUNT; key++)
            put_version(fixture.maps[map], key, 1);
        cursor = open_cursor(fixture.maps[map], 0);
        CHECK(next_number(cursor) < KEY_COUNT);
        freed = fixture.store->log->freed_segments;
        CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
        km__reclaim(&fixture.store->reclaimer);
        CHECK(fixture.store->log->freed_segments == freed);
        for (; km_cursor_next(cursor, NULL, NULL) == KM_OK; count++) {
        }
        CHECK(count == KEY_COUNT);
        km__log_free_dropped(fixture.store->log);
        km__reclaim(&fixture.store->reclaimer);
        CHECK(fixture.store->log->freed_segments > freed);
        km_cursor_close(cursor);
    }
}

static void a_walk_beside_a_clear_meets_what_was_there_or_is(void **state)
{
    (void)state;
    for (uint32_t map = 0; map < KIND_COUNT; map++) {
        km_bytes key, value;
        km_cursor *cursor;
        km_status rc;

        for (uint64_t i = 0; i < KEY_COUNT; i++)
            put_version(fixture.maps[map], i, 1);
        cursor = open_cursor(fixture.maps[map], 0);
        for (uint32_t i = 0; i < 100; i++)
            CHECK(next_number(cursor) < KEY_COUNT);
        CHECK_STATUS(km_map_clear(fixture.maps[map]), KM_OK);
        for (uint64_t i = 0; i < 50; i++)
            put_version(fixture.maps[map], i, 2);
        while ((rc = km_cursor_next(cursor, &key, &value)) == KM_OK)
            CHECK(number_of(key, value) < KEY_COUNT);
        CHECK_STATUS(rc, KM_END);
        km_cursor_close(cursor);
    }
}

/* The nodes of an index that is built anew, from what is left of the keys, are wider. */
static void a_walk_meets_keys_once_when_the_index_is_built_anew(void **state)
{
    enum { MANY = 350000, STAYING = 16 }; /* one in so many stays */
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursors[2] = {NULL, NULL};
    uint8_t *seen = calloc(2, MANY);
    uint64_t counts[2] = {0, 0};
    km_bytes key;

    (void)state;
    CHECK(seen != NULL);
    for (uint64_t i = 0; i < MANY; i++)
        CHECK_STATUS(km_put_u64(fixture.hash, i, text(""), NULL), KM_OK);
    CHECK_STATUS(km_snapshot_open(fixture.store, &options.snapshot), KM_OK);
    cursors[0] = open_cursor(fixture.hash, 0);
    CHECK_STATUS(km_cursor_open(fixture.hash, &options, &cursors[1]), KM_OK);
    for (uint64_t i = 0; i < MANY; i++) {
        if (i % STAYING)
            CHECK_STATUS(km_del_u64(fixture.hash, i, NULL), KM_OK);
    }
    for (uint32_t i = 0; i < 2; i++) {
        for (; km_cursor_next(cursors[i], &key, NULL) == KM_OK; counts[i]++) {
            CHECK(!seen[i * MANY + km_u64_key_to(key.data)]++);
            if (counts[i] != 10)
                continue;
            CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
            km__note_image_damage(fixture.store);
            CHECK_STATUS(km__mend_index(fixture.store), KM_OK);
        }
    }
    for (uint64_t i = 0; i < MANY; i += STAYING)
        CHECK(seen[i]);
    CHECK(counts[1] == MANY);
    km_cursor_close(cursors[0]);
    km_cursor_close(cursors[1]);
    km_snapshot_close(options.snapshot);
    free(seen);
}

/* ---- statuses ---------------------------------------------------------------------------- */

static void calls_that_a_kind_does_not_have_say_so(void **state)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;

    (void)state;
    options.reverse = 1;
    CHECK_STATUS(km_cursor_open(fixture.hash, &options, &cursor), KM_E_UNSUPPORTED);
    options.reverse = 0;
    options.range.prefix = text("a");
    CHECK_STATUS(km_cursor_open(fixture.hash, &options, &cursor), KM_E_UNSUPPORTED);
    CHECK_STATUS(km_cursor_open(fixture.insertion, &options, &cursor), KM_E_UNSUPPORTED);
    options.range.prefix = text("");
    options.range.to = text("");
    CHECK_STATUS(km_cursor_open(fixture.insertion, &options, &cursor), KM_E_UNSUPPORTED);
    CHECK(!cursor);
    CHECK_STATUS(km_cursor_open(fixture.hash, NULL, &cursor), KM_OK);
    CHECK_STATUS(km_cursor_previous(cursor, NULL, NULL), KM_E_UNSUPPORTED);
    CHECK_STATUS(km_cursor_seek(cursor, text("a")), KM_E_UNSUPPORTED);
    km_cursor_close(cursor);
    km_cursor_close(NULL);
}

static void wrong_arguments_are_refused(void **state)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_store *other = NULL;
    km_cursor *cursor = NULL;
    km_map *late = NULL, *strange = NULL;

    (void)state;
    options.struct_size--;
    CHECK_STATUS(km_cursor_open(fixture.sorted, &options, &cursor), KM_E_INVALID);
    options.struct_size++;
    options.range.from.size = 1;
    CHECK_STATUS(km_cursor_open(fixture.sorted, &options, &cursor), KM_E_INVALID);
    options.range.from.size = 0;
    CHECK_STATUS(km_snapshot_open(fixture.store, &options.snapshot), KM_OK);
    CHECK_STATUS(km_map_create(fixture.store, text("late"), KM_SORTED, &late), KM_OK);
    CHECK_STATUS(km_cursor_open(late, &options, &cursor), KM_E_INVALID);
    CHECK_STATUS(km_open_memory(NULL, &other, NULL), KM_OK);
    CHECK_STATUS(km_map_create(other, text("m"), KM_SORTED, &strange), KM_OK);
    CHECK_STATUS(km_cursor_open(strange, &options, &cursor), KM_E_INVALID);
    CHECK(!cursor);
    CHECK_STATUS(km_cursor_open(fixture.sorted, &options, &cursor), KM_OK);
    CHECK_STATUS(km_cursor_seek(cursor, km_bytes_of(NULL, 1)), KM_E_INVALID);
    CHECK_STATUS(km_cursor_seek(cursor, km_bytes_of("", KM_KEY_SIZE_MAX + 1)), KM_E_INVALID);
    km_cursor_close(cursor);
    km_snapshot_close(options.snapshot);
    harness_close(other);
}

static void a_dropped_map_ends_a_walk_but_not_that_of_a_snapshot(void **state)
{
    (void)state;
    for (uint32_t map = 0; map < KIND_COUNT; map++) {
        km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
        km_cursor *cursor, *kept = NULL, *late = NULL;
        uint64_t count = 0;
        km_status rc;

        for (uint64_t i = 0; i < KEY_COUNT; i++)
            put_version(fixture.maps[map], i, 1);
        cursor = open_cursor(fixture.maps[map], 0);
        CHECK(next_number(cursor) < KEY_COUNT);
        CHECK_STATUS(km_snapshot_open(fixture.store, &options.snapshot), KM_OK);
        CHECK_STATUS(km_cursor_open(fixture.maps[map], &options, &kept), KM_OK);
        CHECK_STATUS(km_map_drop(fixture.maps[map]), KM_OK);
        do {
            rc = km_cursor_next(cursor, NULL, NULL);
        } while (rc == KM_OK);
        CHECK_STATUS(rc, KM_E_DROPPED);
        CHECK_STATUS(km_cursor_open(fixture.maps[map], NULL, &late), KM_E_DROPPED);
        for (; km_cursor_next(kept, NULL, NULL) == KM_OK; count++) {
        }
        CHECK(count == KEY_COUNT);
        km_cursor_close(cursor);
        km_cursor_close(kept);
        km_snapshot_close(options.snapshot);
    }
}

static void a_forked_child_is_told(void **state)
{
    km_cursor *cursor;
    km_key_info info;

    (void)state;
    put_version(fixture.sorted, 1, 1);
    cursor = open_cursor(fixture.sorted, 0);
    CHECK(next_number(cursor) == 1);
    km__sim_fork(fixture.os);
    CHECK_STATUS(km_cursor_next(cursor, NULL, NULL), KM_E_FORKED);
    CHECK_STATUS(km_cursor_previous(cursor, NULL, NULL), KM_E_FORKED);
    CHECK_STATUS(km_cursor_seek(cursor, text("a")), KM_E_FORKED);
    CHECK_STATUS(km_cursor_info(cursor, &info), KM_E_FORKED);
    *fixture.store->fork_word = 1;
    CHECK_STATUS(km_cursor_previous(cursor, NULL, NULL), KM_OK);
    km_cursor_close(cursor);
}

/* ---- memory ------------------------------------------------------------------------------ */

static void an_open_without_memory_leaves_nothing(void **state)
{
    (void)state;
    for (uint32_t map = 0; map < KIND_COUNT; map++) {
        uint64_t before = km__sim_allocated_bytes(fixture.os), nth = 1;
        km_cursor *cursor = NULL;
        km_status rc;

        for (;; nth++) {
            km__sim_fail_allocation(fixture.os, nth);
            rc = km_cursor_open(fixture.maps[map], NULL, &cursor);
            km__sim_fail_allocation(fixture.os, 0);
            if (!rc)
                break;
            CHECK_STATUS(rc, KM_E_NO_MEMORY);
            CHECK(!cursor && km__sim_allocated_bytes(fixture.os) == before);
        }
        CHECK(nth > 2);
        km_cursor_close(cursor);
        CHECK(km__sim_allocated_bytes(fixture.os) == before);
    }
}

static void a_walk_goes_on_after_memory_ran_out(void **state)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    uint8_t seen[KEY_COUNT] = {0};
    uint64_t failures = 0, count = 0;
    km_cursor *cursor = NULL;
    km_bytes key, value;
    km_status rc;

    (void)state;
    for (uint64_t i = 0; i < KEY_COUNT; i++)
        put_version(fixture.hash, i, 1);
    CHECK_STATUS(km_snapshot_open(fixture.store, &options.snapshot), KM_OK);
    for (uint64_t i = 0; i < KEY_COUNT; i += 2)
        put_version(fixture.hash, i, 2);
    CHECK_STATUS(km_cursor_open(fixture.hash, &options, &cursor), KM_OK);
    for (uint64_t nth = 1;; nth = nth % 3 + 1) {
        km__sim_fail_allocation(fixture.os, below(2) ? nth : 0);
        rc = km_cursor_next(cursor, &key, &value);
        km__sim_fail_allocation(fixture.os, 0);
        failures += rc == KM_E_NO_MEMORY;
        if (rc == KM_E_NO_MEMORY)
            continue;
        if (rc)
            break;
        CHECK(!seen[number_of(key, value)]++);
        CHECK(harness_value_version(value, km_u64_key_to(key.data)) == 1);
        count++;
    }
    CHECK_STATUS(rc, KM_END);
    CHECK(count == KEY_COUNT && failures > 0);
    km_cursor_close(cursor);
    km_snapshot_close(options.snapshot);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_fixture, close_fixture)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_walk_meets_every_key_in_the_order_of_the_kind),
        CASE(next_and_previous_meet_the_same_key),
        CASE(keys_that_come_after_the_end_are_met),
        CASE(keys_and_values_of_every_size_are_met),
        CASE(ranges_and_seeks_narrow_a_walk),
        CASE(a_seek_in_insertion_order_needs_the_key),
        CASE(info_is_of_the_key_that_was_returned),
        CASE(expired_keys_are_passed_over),
        CASE(keys_that_stay_are_met_once_beside_all_sorts_of_changes),
        CASE(what_was_returned_stays_until_the_next_call),
        CASE(a_walk_that_goes_on_lets_go_of_what_it_has_passed),
        CASE(a_walk_beside_a_clear_meets_what_was_there_or_is),
        CASE(a_walk_meets_keys_once_when_the_index_is_built_anew),
        CASE(calls_that_a_kind_does_not_have_say_so),
        CASE(wrong_arguments_are_refused),
        CASE(a_dropped_map_ends_a_walk_but_not_that_of_a_snapshot),
        CASE(a_forked_child_is_told),
        CASE(an_open_without_memory_leaves_nothing),
        CASE(a_walk_goes_on_after_memory_ran_out),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
