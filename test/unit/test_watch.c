/* SPDX-License-Identifier: Apache-2.0
 *
 * test_watch.c -- the change feed: what it gives, where it begins and goes on, and when it cannot.
 *
 * Every change that a case makes is noted; a watch must give exactly these, in this order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/harness_util.h"
#include "sim/sim.h"
#include "store/store_internal.h"

#define NOTED_MAX 20000u
#define VALUE_MAX (3u << 20)

/* ---- what was done ----------------------------------------------------------------------- */

struct noted {
    km_change_kind kind;
    int more_follows;
    km_position position; /* 0: not known */
    char map[32];
    char key[32];
    uint32_t value_size;
    uint64_t value_number;
};

static struct {
    char path[HARNESS_PATH_SIZE];
    km_options options;
    km_store *store;
    struct noted *noted;
    size_t count;
    uint64_t next_number;
    uint8_t *bytes; /* VALUE_MAX */
    struct os *sim;
} fixture;

static struct noted *note(km_change_kind kind, const char *map, const char *key)
{
    struct noted *noted = &fixture.noted[fixture.count++];

    CHECK(fixture.count <= NOTED_MAX);
    memset(noted, 0, sizeof(*noted));
    noted->kind = kind;
    snprintf(noted->map, sizeof(noted->map), "%s", map);
    snprintf(noted->key, sizeof(noted->key), "%s", key);
    return noted;
}

static km_map *map_named(const char *name)
{
    km_map *map = NULL;

    CHECK_STATUS(km_map_open(fixture.store, km_bytes_of_string(name), &map), KM_OK);
    return map;
}

static km_map *create(const char *name)
{
    km_map *map = NULL;

    CHECK_STATUS(km_map_create(fixture.store, km_bytes_of_string(name), KM_HASH, &map), KM_OK);
    note(KM_CHANGE_MAP_CREATED, name, "");
    return map;
}

static km_bytes new_value(struct noted *noted, uint32_t size)
{
    noted->value_size = size;
    noted->value_number = fixture.next_number++;
    harness_fill(fixture.bytes, size, noted->value_number);
    return km_bytes_of(fixture.bytes, size);
}

static km_position put_sized(const char *map, const char *key, uint32_t size)
{
    struct noted *noted = note(KM_CHANGE_PUT, map, key);
    km_write write = KM_WRITE_INIT;

    CHECK_STATUS(km_put(map_named(map), km_bytes_of_string(key), new_value(noted, size), &write),
                 KM_OK);
    noted->position = write.position;
    return write.position;
}

static km_position put(const char *map, const char *key)
{
    return put_sized(map, key, 40);
}

static void del(const char *map, const char *key)
{
    km_write write = KM_WRITE_INIT;
    km_status rc = km_del(map_named(map), km_bytes_of_string(key), &write);

    CHECK(rc == KM_OK || rc == KM_NOT_FOUND);
    if (rc == KM_OK)
        note(KM_CHANGE_DELETE, map, key)->position = write.position;
}

/* Puts of count keys to maps in turn, as one. */
static void put_batch(const char *const *maps, size_t map_count, size_t count)
{
    km_write write = KM_WRITE_INIT;
    km_batch *batch = NULL;
    struct noted *noted = NULL;

    CHECK_STATUS(km_batch_create(fixture.store, &batch), KM_OK);
    for (size_t i = 0; i < count; i++) {
        char key[32];

        snprintf(key, sizeof(key), "batch %zu", i);
        noted = note(KM_CHANGE_PUT, maps[i % map_count], key);
        noted->more_follows = i + 1 < count;
        CHECK_STATUS(km_batch_put(batch, map_named(noted->map), km_bytes_of_string(key),
                                  new_value(noted, 50)),
                     KM_OK);
    }
    CHECK_STATUS(km_batch_commit(batch, &write), KM_OK);
    noted->position = write.position;
    km_batch_destroy(batch);
}

/* A mixture over maps "a", "b" and "c", which are there. */
static void work(uint64_t stream, uint64_t count, uint32_t size_max)
{
    static const char *const maps[] = {"a", "b", "c"};
    struct harness_random random = harness_stream(stream);

    for (uint64_t i = 0; i < count; i++) {
        const char *map = maps[harness_below(&random, 3)];
        char key[32];

        snprintf(key, sizeof(key), "%c%llu", "xyz"[harness_below(&random, 3)],
                 (unsigned long long)harness_below(&random, 200));
        switch (harness_below(&random, 12)) {
        case 0: put_batch(maps, 3, 2 + harness_below(&random, 5)); break;
        case 1:
        case 2: del(map, key); break;
        default: put_sized(map, key, (uint32_t)harness_below(&random, size_max)); break;
        }
    }
}

/* ---- what a watch says ------------------------------------------------------------------- */

static km_watch *watch_with(km_position after, km_map *map, const char *prefix)
{
    km_watch_options options = KM_WATCH_OPTIONS_INIT;
    km_watch *watch = NULL;

    options.after = after;
    options.map = map;
    options.prefix = km_bytes_of_string(prefix);
    CHECK_STATUS(km_watch_open(fixture.store, &options, &watch), KM_OK);
    return watch;
}

static km_watch *watch_after(km_position after)
{
    return watch_with(after, NULL, "");
}

static km_status try_watch(km_position after)
{
    km_watch_options options = KM_WATCH_OPTIONS_INIT;
    km_watch *watch = NULL;
    km_status rc;

    options.after = after;
    rc = km_watch_open(fixture.store, &options, &watch);
    CHECK((rc == KM_OK) == (watch != NULL));
    km_watch_close(watch);
    return rc;
}

static int is_text(km_bytes bytes, const char *text)
{
    return bytes.size == strlen(text) &&
           (bytes.size == 0 || memcmp(bytes.data, text, bytes.size) == 0);
}

static void check_change(const km_change *change, const struct noted *noted, int more_follows)
{
    CHECK(change->kind == noted->kind);
    CHECK_MSG(is_text(change->map, noted->map) && is_text(change->key, noted->key),
              "expected %s of %s, got %.*s", noted->key, noted->map, (int)change->key.size,
              (const char *)change->key.data);
    CHECK(change->value.size == noted->value_size);
    CHECK(!noted->value_size ||
          harness_is_filled(change->value.data, change->value.size, noted->value_number));
    CHECK(change->more_follows == more_follows);
    CHECK(!noted->position || change->position == noted->position);
}

static void check_one(km_watch *watch, const struct noted *noted)
{
    km_position before = km_watch_position(watch);
    km_change change;

    CHECK_STATUS(km_watch_next(watch, 0, &change), KM_OK);
    check_change(&change, noted, noted->more_follows);
    CHECK(change.position > before && km_watch_position(watch) >= change.position);
}

static void check_quiet(km_watch *watch)
{
    km_change change = {.kind = 0};

    CHECK_STATUS(km_watch_next(watch, 0, &change), KM_TIMED_OUT);
    CHECK(change.kind == 0);
}

/* The noted changes [from, count) come next, and then none. */
static void check_rest(km_watch *watch, size_t from)
{
    for (size_t i = from; i < fixture.count; i++)
        check_one(watch, &fixture.noted[i]);
    check_quiet(watch);
}

/* ---- fixture ----------------------------------------------------------------------------- */

static void open_store(void)
{
    if (!fixture.sim) {
        fixture.store = harness_open(fixture.path, &fixture.options);
        return;
    }
    CHECK_STATUS(
        km__store_open_with(fixture.sim, "store", &fixture.options, 0, &fixture.store, NULL),
        KM_OK);
}

static void reopen(void)
{
    harness_close(fixture.store);
    open_store();
}

static void begin(void)
{
    static const km_options init = KM_OPTIONS_INIT;

    fixture.options = init;
    fixture.options.sync_interval_ms = 600000; /* no marks beside the changes */
    fixture.noted = calloc(NOTED_MAX, sizeof(*fixture.noted));
    fixture.bytes = malloc(VALUE_MAX);
    CHECK(fixture.noted && fixture.bytes);
    fixture.count = 0;
}

static int open_fixture(void **state)
{
    (void)state;
    begin();
    harness_make_folder(fixture.path);
    fixture.sim = NULL;
    open_store();
    return 0;
}

static int open_sim_fixture(void **state)
{
    (void)state;
    begin();
    fixture.sim = km__sim_create(harness_seed());
    open_store();
    return 0;
}

static void release(void)
{
    free(fixture.noted);
    free(fixture.bytes);
}

static int close_fixture(void **state)
{
    (void)state;
    harness_close(fixture.store);
    harness_remove(fixture.path);
    release();
    return 0;
}

static int close_sim_fixture(void **state)
{
    (void)state;
    harness_close(fixture.store);
    CHECK(km__sim_open_count(fixture.sim) == 0 && km__sim_allocated_bytes(fixture.sim) == 0);
    km__sim_destroy(fixture.sim);
    release();
    return 0;
}

static void create_maps(void)
{
    create("a");
    create("b");
    create("c");
}

/* ---- what it gives ----------------------------------------------------------------------- */

static void changes_come_in_the_order_of_the_log(void **state)
{
    km_watch *now = watch_after(KM_POSITION_NOW), *first;
    size_t before;

    (void)state;
    create_maps();
    work(1, 1500, 900);
    CHECK(km__position_number(fixture.noted[fixture.count - 1].position) >= 3); /* segments */
    first = watch_after(0);
    check_rest(now, 0);
    check_rest(first, 0);
    before = fixture.count;
    work(2, 100, 100);
    check_rest(now, before);
    check_rest(first, before);
    km_watch_close(now);
    km_watch_close(first);
}

static void sizes_from_nothing_to_a_segment_of_its_own(void **state)
{
    static const uint32_t sizes[] = {0, 1, 7, 8, 65536, 300000, VALUE_MAX, 5};
    km_watch *watch = watch_after(KM_POSITION_NOW);
    km_change change;

    (void)state;
    create("a");
    put_sized("a", "", 0);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
        put_sized("a", "key", sizes[i]);
    del("a", "");
    check_one(watch, &fixture.noted[0]);
    CHECK_STATUS(km_watch_next(watch, 0, &change), KM_OK);
    check_change(&change, &fixture.noted[1], 0);
    CHECK(change.value.data && change.key.data);
    check_rest(watch, 2);
    km_watch_close(watch);
}

static void maps_created_cleared_and_dropped_are_named(void **state)
{
    km_watch *watch = watch_after(KM_POSITION_NOW);

    (void)state;
    create("a");
    put("a", "1");
    CHECK_STATUS(km_map_clear(map_named("a")), KM_OK);
    note(KM_CHANGE_MAP_CLEARED, "a", "");
    put("a", "2");
    CHECK_STATUS(km_map_drop(map_named("a")), KM_OK);
    note(KM_CHANGE_MAP_DROPPED, "a", "");
    create("b");
    create("a"); /* another one */
    put("a", "3");
    check_rest(watch, 0);
    km_watch_close(watch);
    reopen();
    watch = watch_after(0);
    check_rest(watch, 0);
    km_watch_close(watch);
}

/* Of the noted changes: whether a filter lets one pass, and whether its batch goes on. */
static int passes(size_t i, const char *map, const char *prefix)
{
    const struct noted *noted = &fixture.noted[i];

    if (map && strcmp(noted->map, map) != 0)
        return 0;
    return noted->kind >= KM_CHANGE_MAP_CREATED || strncmp(noted->key, prefix, strlen(prefix)) == 0;
}

static int goes_on(size_t i, const char *map, const char *prefix)
{
    for (; fixture.noted[i].more_follows; i++) {
        if (passes(i + 1, map, prefix))
            return 1;
    }
    return 0;
}

static void check_filtered(const char *map, const char *prefix)
{
    km_watch *watch = watch_with(0, map ? map_named(map) : NULL, prefix);
    size_t count = 0;

    for (size_t i = 0; i < fixture.count; i++) {
        km_change change;

        if (!passes(i, map, prefix))
            continue;
        count++;
        CHECK_STATUS(km_watch_next(watch, 0, &change), KM_OK);
        check_change(&change, &fixture.noted[i], goes_on(i, map, prefix));
    }
    CHECK(count > 0 && count < fixture.count);
    check_quiet(watch);
    CHECK(km_watch_position(watch) >= fixture.noted[fixture.count - 1].position);
    km_watch_close(watch);
}

static void filters_let_through_what_was_asked_for(void **state)
{
    static const char *const a_only[] = {"a"};
    static const char *const both[] = {"a", "b", "b"};

    (void)state;
    create_maps();
    work(3, 600, 2000); /* longer than one stretch */
    CHECK_STATUS(km_map_clear(map_named("b")), KM_OK);
    note(KM_CHANGE_MAP_CLEARED, "b", "");
    put_batch(a_only, 1, 3);
    put_batch(both, 3, 9);
    check_filtered("a", "");
    check_filtered("b", "");
    check_filtered(NULL, "x");
    check_filtered(NULL, "x1");
    check_filtered("b", "batch 1");
    check_filtered("c", "no such key");
}

/* The zeros behind a key that fill its record up are not part of it. */
static void a_key_shorter_than_the_prefix_does_not_begin_so(void **state)
{
    km_watch_options options = KM_WATCH_OPTIONS_INIT;
    km_watch *watch = NULL;

    (void)state;
    create("a");
    options.prefix = km_bytes_of("x\0", 2);
    CHECK_STATUS(km_watch_open(fixture.store, &options, &watch), KM_OK);
    put("a", "x");
    put("a", "");
    check_quiet(watch);
    km_watch_close(watch);
}

static void a_store_in_memory_has_a_feed_as_well(void **state)
{
    km_store *disk = fixture.store;
    km_watch *watch;

    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &fixture.store, NULL), KM_OK);
    watch = watch_after(KM_POSITION_NOW);
    CHECK(km_watch_position(watch) == 0);
    create_maps();
    work(4, 800, 900);
    check_rest(watch, 0);
    km_watch_close(watch);
    harness_close(fixture.store);
    fixture.store = disk;
}

/* ---- where it begins --------------------------------------------------------------------- */

static void now_is_after_what_has_returned(void **state)
{
    km_watch *watch = watch_after(KM_POSITION_NOW), *empty = watch;
    size_t from;

    (void)state;
    CHECK(km_watch_position(watch) == 0);
    create_maps();
    for (int i = 0; i < 50; i++) {
        put("a", "before");
        from = fixture.count;
        watch = watch_after(KM_POSITION_NOW);
        check_quiet(watch);
        put("a", "after");
        check_rest(watch, from);
        km_watch_close(watch);
    }
    check_rest(empty, 0);
    km_watch_close(empty);
}

/* Both a change's position and the watch's own lead to the next change, before a reopen or after.
 */
static void check_resumes(void)
{
    km_position *tokens = calloc(fixture.count + 1, sizeof(*tokens));
    km_watch *watch = watch_after(0);
    km_change change;

    CHECK(tokens);
    for (size_t i = 0; i < fixture.count; i++) {
        tokens[i] = km_watch_position(watch);
        CHECK_STATUS(km_watch_next(watch, 0, &change), KM_OK);
        fixture.noted[i].position = change.position;
    }
    tokens[fixture.count] = km_watch_position(watch);
    km_watch_close(watch);
    reopen();
    for (size_t i = 0; i <= fixture.count; i += i + 20 < fixture.count ? 13 : 1) {
        watch = watch_after(tokens[i]);
        CHECK(km_watch_position(watch) == tokens[i]);
        check_rest(watch, i);
        km_watch_close(watch);
        watch = watch_after(i ? fixture.noted[i - 1].position : 0);
        check_rest(watch, i);
        km_watch_close(watch);
    }
    free(tokens);
}

static void a_watch_goes_on_after_a_saved_position(void **state)
{
    (void)state;
    create_maps();
    work(5, 400, 1500);
    check_resumes();
    put("a", "more");
    check_resumes();
}

static void a_position_kept_before_any_change_is_good_later(void **state)
{
    km_watch *watch;
    km_position token;

    (void)state;
    create_maps();
    put("a", "1");
    reopen();
    watch = watch_after(KM_POSITION_NOW);
    token = km_watch_position(watch);
    CHECK(token > fixture.noted[fixture.count - 1].position);
    km_watch_close(watch);
    reopen();
    put("a", "2");
    watch = watch_after(token);
    check_rest(watch, fixture.count - 1);
    km_watch_close(watch);
}

static void positions_that_are_none_are_refused(void **state)
{
    km_position last, token;
    km_watch *watch;

    (void)state;
    create_maps();
    put_sized("a", "1", 400);
    last = put_sized("a", "2", 100);
    watch = watch_after(KM_POSITION_NOW);
    token = km_watch_position(watch);
    km_watch_close(watch);
    CHECK_STATUS(try_watch(last), KM_OK);
    for (km_position p = last - 416; p <= token + 64; p++) {
        int is_good = p == last - 416 - 8 || p == last || p == last - 1 || p == token;
        km_status rc = try_watch(p);

        if (p > last - 416) /* what lies before is of other records */
            CHECK_MSG(is_good ? rc == KM_OK : rc == KM_E_INVALID, "%llx: %d", (long long)p, rc);
    }
    CHECK_STATUS(try_watch(1), KM_E_TOO_OLD);
    CHECK_STATUS(try_watch((UINT64_C(1) << 32) + 8), KM_E_INVALID);
    CHECK_STATUS(try_watch((UINT64_C(1) << 32) + (256u << 10) - 1), KM_E_INVALID); /* its end */
    CHECK_STATUS(try_watch((UINT64_C(2) << 32) + 4095), KM_E_INVALID);             /* ready */
    CHECK_STATUS(try_watch((UINT64_C(9) << 32) + 4096), KM_E_INVALID);
    CHECK_STATUS(try_watch(UINT64_MAX - 7), KM_E_INVALID);
}

static void bad_options_are_refused(void **state)
{
    static const km_watch_options init = KM_WATCH_OPTIONS_INIT;
    km_watch_options options = init;
    km_store *other = NULL;
    km_watch *watch = NULL;

    (void)state;
    options.struct_size = 3;
    CHECK_STATUS(km_watch_open(fixture.store, &options, &watch), KM_E_INVALID);
    options = init;
    options.prefix.size = KM_KEY_SIZE_MAX + 1u;
    options.prefix.data = fixture.bytes;
    CHECK_STATUS(km_watch_open(fixture.store, &options, &watch), KM_E_INVALID);
    options.prefix = km_bytes_of(NULL, 1);
    CHECK_STATUS(km_watch_open(fixture.store, &options, &watch), KM_E_INVALID);
    options = init;
    CHECK_STATUS(km_open_memory(NULL, &other, NULL), KM_OK);
    options.map = harness_map(other, "map");
    CHECK_STATUS(km_watch_open(fixture.store, &options, &watch), KM_E_INVALID);
    harness_close(other);
    km_watch_close(NULL);
    CHECK(!watch);
    CHECK_STATUS(km_watch_open(fixture.store, NULL, &watch), KM_OK);
    km_watch_close(watch);
}

/* ---- compaction -------------------------------------------------------------------------- */

static int stop_at_once(void *context, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    return --*(int *)context == 0;
}

static void what_compaction_moves_is_no_change(void **state)
{
    km_watch *live, *first;
    int steps = 5;

    (void)state;
    create_maps();
    work(6, 900, 900);
    live = watch_after(KM_POSITION_NOW);
    CHECK_STATUS(km_compact(fixture.store, stop_at_once, &steps, NULL), KM_STOPPED);
    CHECK(steps == 0);
    first = watch_after(0); /* the head has not moved */
    check_rest(first, 0);
    check_quiet(live);
    put("a", "after");
    check_rest(first, fixture.count - 1);
    check_rest(live, fixture.count - 1);
    km_watch_close(live);
    km_watch_close(first);
}

static void what_compaction_has_passed_is_too_old(void **state)
{
    km_watch *first, *now;
    km_position old;
    km_change change;

    (void)state;
    create_maps();
    old = put("a", "old");
    work(7, 900, 900);
    first = watch_after(0);
    check_one(first, &fixture.noted[0]);
    CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
    CHECK_STATUS(km_watch_next(first, 0, &change), KM_E_TOO_OLD);
    CHECK_STATUS(km_watch_next(first, 10, &change), KM_E_TOO_OLD);
    CHECK_STATUS(try_watch(0), KM_E_TOO_OLD);
    CHECK_STATUS(try_watch(old), KM_E_TOO_OLD);
    CHECK_STATUS(try_watch(km_watch_position(first)), KM_E_TOO_OLD);
    km_watch_close(first);
    now = watch_after(KM_POSITION_NOW);
    put("a", "new");
    check_rest(now, fixture.count - 1);
    km_watch_close(now);
    reopen();
    CHECK_STATUS(try_watch(old), KM_E_TOO_OLD);
}

/* ---- waiting ----------------------------------------------------------------------------- */

static void *put_later(void *context)
{
    (void)context;
    usleep(30000);
    put("a", "later");
    return NULL;
}

static void next_waits_for_a_change(void **state)
{
    km_watch *watch;
    km_change change;
    pthread_t thread;
    uint64_t begin_ns = harness_now_ns();

    (void)state;
    create("a");
    watch = watch_after(KM_POSITION_NOW);
    CHECK_STATUS(km_watch_next(watch, 20, &change), KM_TIMED_OUT);
    CHECK(harness_now_ns() - begin_ns >= 20000000);
    CHECK(pthread_create(&thread, NULL, put_later, NULL) == 0);
    CHECK_STATUS(km_watch_next(watch, 20000, &change), KM_OK);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(harness_now_ns() - begin_ns < UINT64_C(10000000000)); /* a bound no machine misses */
    check_change(&change, &fixture.noted[1], 0);
    km_watch_close(watch);
}

static void in_a_read_section_it_does_not_wait(void **state)
{
    km_watch *watch;
    km_reader *reader = NULL;
    km_change change;

    (void)state;
    create("a");
    watch = watch_after(KM_POSITION_NOW);
    CHECK_STATUS(km_read_begin(fixture.store, &reader), KM_OK);
    CHECK_STATUS(km_watch_next(watch, 1000, &change), KM_WOULD_BLOCK);
    CHECK_STATUS(km_watch_next(watch, 0, &change), KM_TIMED_OUT);
    put("a", "1");
    CHECK_STATUS(km_watch_next(watch, 1000, &change), KM_OK);
    check_change(&change, &fixture.noted[1], 0);
    km_read_end(reader);
    km_watch_close(watch);
}

static int is_readable(int fd, int timeout_ms)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

    return poll(&poll_fd, 1, timeout_ms) == 1;
}

static void clear_fd(int fd)
{
    uint64_t count = 0;

    CHECK(read(fd, &count, sizeof(count)) == sizeof(count));
}

static void a_descriptor_tells_of_changes_and_is_quiet_again(void **state)
{
    km_watch *watches[3];
    int fds[3], again = -1;

    (void)state;
    create("a");
    for (int i = 0; i < 3; i++) {
        watches[i] = watch_after(KM_POSITION_NOW);
        CHECK_STATUS(km_watch_fd(watches[i], &fds[i]), KM_OK);
        CHECK_STATUS(km_watch_fd(watches[i], &again), KM_OK);
        CHECK(again == fds[i]);
    }
    CHECK(!is_readable(fds[0], 50));
    for (int round = 0; round < 3; round++) {
        put("a", "key");
        for (int i = 0; i < 3; i++) {
            CHECK(is_readable(fds[i], 10000));
            clear_fd(fds[i]);
            check_rest(watches[i], fixture.count - 1);
        }
        CHECK(!is_readable(fds[0], 30) && !is_readable(fds[2], 0));
    }
    km_watch_close(watches[1]);
    put("a", "key");
    CHECK(is_readable(fds[0], 10000) && is_readable(fds[2], 10000));
    km_watch_close(watches[0]);
    km_watch_close(watches[2]);
}

static void a_descriptor_asked_for_late_tells_of_what_is_there(void **state)
{
    km_watch *watch = watch_after(KM_POSITION_NOW);
    int fd = -1;

    (void)state;
    create("a");
    CHECK_STATUS(km_watch_fd(watch, &fd), KM_OK);
    CHECK(is_readable(fd, 10000));
    km_watch_close(watch);
    watch = watch_after(KM_POSITION_NOW); /* the thread has ended, and starts again */
    CHECK_STATUS(km_watch_fd(watch, &fd), KM_OK);
    put("a", "1");
    CHECK(is_readable(fd, 10000));
    km_watch_close(watch);
}

/* ---- forks ------------------------------------------------------------------------------- */

static void check_child(int (*run)(km_watch *watch), km_watch *watch)
{
    int status = -1;
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        alarm(30);
        _exit(run(watch));
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %x",
              (unsigned)status);
}

static int use_in_child(km_watch *watch)
{
    km_watch *other = NULL;
    km_change change;
    int fd;
    int result = 0;

    result |= km_watch_next(watch, 1000, &change) != KM_E_FORKED;
    result |= (km_watch_fd(watch, &fd) != KM_E_FORKED) << 1;
    result |= (km_watch_open(fixture.store, NULL, &other) != KM_E_FORKED) << 2;
    km_watch_close(watch);
    return result;
}

static void a_forked_child_has_no_feed(void **state)
{
    km_watch *watch = watch_after(KM_POSITION_NOW);
    int fd = -1;

    (void)state;
    create("a");
    CHECK_STATUS(km_watch_fd(watch, &fd), KM_OK);
    check_child(use_in_child, watch);
    put("a", "1");
    CHECK(is_readable(fd, 10000));
    check_rest(watch, 0);
    km_watch_close(watch);
}

/* In a child, since the watch is lost with its store. */
static int close_store_first(km_watch *none)
{
    km_store *store = NULL;
    km_watch *watch = none;
    int fd;

    return km_open_memory(NULL, &store, NULL) != KM_OK ||
           km_watch_open(store, NULL, &watch) != KM_OK || km_watch_fd(watch, &fd) != KM_OK ||
           km_close(store, NULL) != KM_OK;
}

static void a_store_closes_though_a_watch_is_open(void **state)
{
    (void)state;
    if (KM_THREAD_SANITIZER)
        skip(); /* it does not follow a child that starts threads */
    check_child(close_store_first, NULL);
}

/* ---- crashes, damage, no memory: on a simulated machine ---------------------------------- */

/* Go on with the machine as a crash leaves it. */
static void crash(struct os *(*clone)(struct os *sim))
{
    struct os *sim = clone(fixture.sim);

    harness_close(fixture.store);
    km__sim_destroy(fixture.sim);
    fixture.sim = sim;
    open_store();
}

static struct os *clone_lost(struct os *sim)
{
    return km__sim_clone_after_power_cut(sim, harness_seed(), SIM_POWER_LOST);
}

static km_position position_now(void)
{
    km_watch *watch = watch_after(KM_POSITION_NOW);
    km_position position = km_watch_position(watch);

    km_watch_close(watch);
    return position;
}

/* Between the crashes segments are begun that stay empty, and become void. */
static void a_position_is_good_after_crashes(void **state)
{
    km_position tokens[6];
    km_watch *watch;

    (void)state;
    create_maps();
    put("a", "1");
    CHECK_STATUS(km_wait_durable(fixture.store, 0), KM_OK);
    tokens[0] = position_now();
    for (int i = 1; i < 6; i++) {
        crash(i % 2 ? km__sim_clone_after_kill : clone_lost);
        tokens[i] = position_now();
    }
    put("a", "2");
    CHECK_STATUS(km_wait_durable(fixture.store, 0), KM_OK);
    crash(clone_lost);
    put("a", "3");
    for (int i = 0; i < 6; i++) {
        watch = watch_after(tokens[i]);
        check_rest(watch, fixture.count - 2);
        km_watch_close(watch);
    }
    watch = watch_after(0);
    check_rest(watch, 0);
    km_watch_close(watch);
}

static void changes_that_a_power_cut_took_are_missed(void **state)
{
    km_position durable, lost, token;

    (void)state;
    create_maps();
    durable = put("a", "1");
    CHECK_STATUS(km_wait_durable(fixture.store, 0), KM_OK);
    lost = put("a", "2");
    token = position_now();
    crash(clone_lost);
    CHECK_STATUS(try_watch(durable), KM_OK);
    CHECK_STATUS(try_watch(lost), KM_E_INVALID);
    CHECK_STATUS(try_watch(token), KM_E_INVALID);
    put("a", "3");
    CHECK_STATUS(try_watch(lost), KM_E_INVALID);
}

static void damage_is_told_and_not_passed_over(void **state)
{
    km_watch *watch;
    km_change change;
    uint64_t bit;
    size_t bad = 0;

    (void)state;
    create_maps();
    work(8, 2000, 900);
    CHECK_STATUS(km_wait_durable(fixture.store, 0), KM_OK);
    reopen(); /* now the segments are mapped */
    while (km__position_number(fixture.noted[bad].position) != 2 || fixture.noted[bad].kind > 1)
        bad++;
    bad += 2;
    while (!fixture.noted[bad].position)
        bad++;
    bit = (uint64_t)km__position_offset(fixture.noted[bad].position) * 8 + 35; /* a size */
    CHECK(km__sim_flip_bit(fixture.sim, "store/log/00000002.segment", bit) == 0);
    watch = watch_after(0);
    for (size_t i = 0; i < bad; i++)
        check_one(watch, &fixture.noted[i]);
    CHECK_STATUS(km_watch_next(watch, 0, &change), KM_E_CORRUPT);
    CHECK_STATUS(km_watch_next(watch, 0, &change), KM_E_CORRUPT);
    CHECK(km__sim_flip_bit(fixture.sim, "store/log/00000002.segment", bit) == 0);
    check_rest(watch, bad);
    km_watch_close(watch);
}

static void without_memory_nothing_is_opened(void **state)
{
    static const km_watch_options init = KM_WATCH_OPTIONS_INIT;
    km_watch_options options = init;
    km_watch *watch = NULL;
    int fd;

    (void)state;
    options.prefix = km_bytes_of_string("x");
    for (uint64_t nth = 1; nth <= 2; nth++) {
        km__sim_fail_allocation(fixture.sim, nth);
        CHECK_STATUS(km_watch_open(fixture.store, &options, &watch), KM_E_NO_MEMORY);
    }
    CHECK_STATUS(km_watch_open(fixture.store, &options, &watch), KM_OK);
    km__sim_fail_call(fixture.sim, SIM_NOTIFY_FD, 1, KM_E_LIMIT, 24);
    CHECK_STATUS(km_watch_fd(watch, &fd), KM_E_LIMIT);
    CHECK_STATUS(km_watch_fd(watch, &fd), KM_OK);
    km_watch_close(watch);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_fixture, close_fixture)
#define SIM_CASE(name) cmocka_unit_test_setup_teardown(name, open_sim_fixture, close_sim_fixture)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(changes_come_in_the_order_of_the_log),
        CASE(sizes_from_nothing_to_a_segment_of_its_own),
        CASE(maps_created_cleared_and_dropped_are_named),
        CASE(filters_let_through_what_was_asked_for),
        CASE(a_key_shorter_than_the_prefix_does_not_begin_so),
        CASE(a_store_in_memory_has_a_feed_as_well),
        CASE(now_is_after_what_has_returned),
        CASE(a_watch_goes_on_after_a_saved_position),
        CASE(a_position_kept_before_any_change_is_good_later),
        CASE(positions_that_are_none_are_refused),
        CASE(bad_options_are_refused),
        CASE(what_compaction_moves_is_no_change),
        CASE(what_compaction_has_passed_is_too_old),
        CASE(next_waits_for_a_change),
        CASE(in_a_read_section_it_does_not_wait),
        CASE(a_descriptor_tells_of_changes_and_is_quiet_again),
        CASE(a_descriptor_asked_for_late_tells_of_what_is_there),
        CASE(a_forked_child_has_no_feed),
        CASE(a_store_closes_though_a_watch_is_open),
        SIM_CASE(a_position_is_good_after_crashes),
        SIM_CASE(changes_that_a_power_cut_took_are_missed),
        SIM_CASE(damage_is_told_and_not_passed_over),
        SIM_CASE(without_memory_nothing_is_opened),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
