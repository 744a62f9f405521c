/* SPDX-License-Identifier: Apache-2.0
 *
 * test_update.c -- changes that depend on what is there: conditions, get_or_insert, update,
 * increment, append, batches that expect something; in maps of every kind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "harness/harness_util.h"

static struct {
    km_store *store;
    km_map *maps[3]; /* one of each kind */
} fixture;

static const km_map_kind kinds[3] = {KM_HASH, KM_INSERTION, KM_SORTED};
static const char *const kind_names[3] = {"hash", "insertion", "sorted"};

static int open_fixture(void **state)
{
    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &fixture.store, NULL), KM_OK);
    for (int i = 0; i < 3; i++)
        CHECK_STATUS(km_map_create(fixture.store, km_bytes_of_string(kind_names[i]), kinds[i],
                                   &fixture.maps[i]),
                     KM_OK);
    return 0;
}

static int close_fixture(void **state)
{
    (void)state;
    CHECK_STATUS(km_close(fixture.store, NULL), KM_OK);
    return 0;
}

static km_bytes text(const char *string)
{
    return km_bytes_of_string(string);
}

static void check_is(km_map *map, const char *key, const char *value)
{
    km_buffer buffer = KM_BUFFER_INIT;

    CHECK_STATUS(km_get(map, text(key), &buffer), value ? KM_OK : KM_NOT_FOUND);
    if (value)
        CHECK(buffer.size == strlen(value) && memcmp(buffer.data, value, buffer.size) == 0);
    km_buffer_free(&buffer);
}

static km_position version_of(km_map *map, const char *key)
{
    km_key_info info;

    CHECK_STATUS(km_get_info(map, text(key), NULL, &info), KM_OK);
    return info.version;
}

/* Run a case on a map of each kind. */
static void on_each(void (*run)(km_map *map))
{
    for (int i = 0; i < 3; i++)
        run(fixture.maps[i]);
}

/* ---- conditions -------------------------------------------------------------------------- */

static void check_put_if_absent(km_map *map)
{
    km_buffer previous = KM_BUFFER_INIT;
    km_write write = KM_WRITE_INIT;

    write.previous = &previous;
    CHECK_STATUS(km_put_if_absent(map, text("a"), text("1"), &write), KM_OK);
    CHECK(!write.existed && previous.size == 0 && write.position == version_of(map, "a"));
    CHECK_STATUS(km_put_if_absent(map, text("a"), text("2"), &write), KM_EXISTS);
    CHECK(previous.size == 1 && memcmp(previous.data, "1", 1) == 0);
    CHECK_STATUS(km_put_if_absent(map, text("a"), text("2"), NULL), KM_EXISTS);
    check_is(map, "a", "1");
    CHECK(km_count(map) == 1);
    write.condition = KM_IF_PRESENT;
    CHECK_STATUS(km_put_if_absent(map, text("b"), text("2"), &write), KM_E_INVALID);
    km_buffer_free(&previous);
}

static void put_if_absent_leaves_what_is_there(void **state)
{
    (void)state;
    on_each(check_put_if_absent);
}

static void check_conditions(km_map *map)
{
    km_write write = KM_WRITE_INIT;
    km_position version;

    write.condition = KM_IF_PRESENT;
    CHECK_STATUS(km_put(map, text("k"), text("1"), &write), KM_NOT_FOUND);
    check_is(map, "k", NULL);
    CHECK_STATUS(km_put(map, text("k"), text("1"), NULL), KM_OK);
    CHECK_STATUS(km_put(map, text("k"), text("2"), &write), KM_OK);
    check_is(map, "k", "2");
    version = write.position;
    CHECK(version == version_of(map, "k"));
    CHECK_STATUS(km_compare_and_set(map, text("k"), version - 8, text("3"), NULL), KM_CONFLICT);
    CHECK_STATUS(km_compare_and_set(map, text("k"), 0, text("3"), NULL), KM_CONFLICT);
    CHECK_STATUS(km_compare_and_set(map, text("none"), version, text("3"), NULL), KM_CONFLICT);
    CHECK_STATUS(km_compare_and_set(map, text("k"), version, text("3"), NULL), KM_OK);
    CHECK_STATUS(km_compare_and_set(map, text("k"), version, text("4"), NULL), KM_CONFLICT);
    check_is(map, "k", "3");
    CHECK(version_of(map, "k") > version);
    CHECK_STATUS(km_compare_and_del(map, text("k"), version, NULL), KM_CONFLICT);
    CHECK_STATUS(km_compare_and_del(map, text("k"), 0, NULL), KM_E_INVALID);
    CHECK_STATUS(km_compare_and_del(map, text("k"), version_of(map, "k"), NULL), KM_OK);
    CHECK_STATUS(km_compare_and_set(map, text("k"), 0, text("5"), NULL), KM_OK);
    check_is(map, "k", "5");
    write.condition = KM_IF_ABSENT;
    CHECK_STATUS(km_del(map, text("k"), &write), KM_EXISTS);
    write.condition = (km_condition)17;
    CHECK_STATUS(km_put(map, text("k"), text("6"), &write), KM_E_INVALID);
    CHECK(km_count(map) == 1);
}

static void conditions_hold_or_nothing_changes(void **state)
{
    (void)state;
    on_each(check_conditions);
}

static void check_version_moves(km_map *map)
{
    km_position version;

    CHECK_STATUS(km_put(map, text("k"), text("1"), NULL), KM_OK);
    version = version_of(map, "k");
    CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
    CHECK(version_of(map, "k") == version);
    CHECK_STATUS(km_compare_and_set(map, text("k"), version, text("2"), NULL), KM_OK);
}

static void compaction_keeps_versions(void **state)
{
    (void)state;
    on_each(check_version_moves);
}

/* ---- get_or_insert and update ------------------------------------------------------------ */

static void check_get_or_insert(km_map *map)
{
    km_buffer value = KM_BUFFER_INIT;
    km_write write = KM_WRITE_INIT;

    CHECK_STATUS(km_get_or_insert(map, text("a"), text("1"), &value, &write), KM_OK);
    CHECK(!write.existed && write.position && value.size == 1 && memcmp(value.data, "1", 1) == 0);
    CHECK_STATUS(km_get_or_insert(map, text("a"), text("2"), &value, &write), KM_OK);
    CHECK(write.existed && value.size == 1 && memcmp(value.data, "1", 1) == 0);
    write.previous = &value;
    CHECK_STATUS(km_get_or_insert(map, text("a"), text("2"), &value, &write), KM_E_INVALID);
    km_buffer_free(&value);
}

static void get_or_insert_inserts_once(void **state)
{
    (void)state;
    on_each(check_get_or_insert);
}

struct script {
    km_map *map;
    int calls, interferes;
    km_update_verdict verdict;
    const char *new_value;
};

/* Another change comes between, the first time. */
static km_update_verdict follow_script(void *context, const km_bytes *old_value,
                                       const km_key_info *old_info, km_bytes *new_value)
{
    struct script *script = context;

    CHECK((old_value == NULL) == (old_info->version == 0));
    if (script->calls++ < script->interferes)
        CHECK_STATUS(km_put(script->map, text("k"), text("between"), NULL), KM_OK);
    *new_value = text(script->new_value);
    return script->verdict;
}

static void check_update(km_map *map)
{
    struct script script = {map, 0, 0, KM_UPDATE_PUT, "1"};
    km_buffer previous = KM_BUFFER_INIT;
    km_write write = KM_WRITE_INIT;

    CHECK_STATUS(km_update(map, text("k"), follow_script, &script, NULL), KM_OK);
    check_is(map, "k", "1");
    script = (struct script){map, 0, 3, KM_UPDATE_PUT, "2"};
    write.previous = &previous;
    CHECK_STATUS(km_update(map, text("k"), follow_script, &script, &write), KM_OK);
    CHECK(script.calls == 4 && write.existed && previous.size == strlen("between"));
    check_is(map, "k", "2");
    script = (struct script){map, 0, 0, KM_UPDATE_KEEP, "3"};
    CHECK_STATUS(km_update(map, text("k"), follow_script, &script, NULL), KM_OK);
    script.verdict = KM_UPDATE_FAIL;
    CHECK_STATUS(km_update(map, text("k"), follow_script, &script, NULL), KM_STOPPED);
    check_is(map, "k", "2");
    script = (struct script){map, 0, 1, KM_UPDATE_DELETE, ""};
    CHECK_STATUS(km_update(map, text("k"), follow_script, &script, NULL), KM_OK);
    check_is(map, "k", NULL);
    script = (struct script){map, 0, 0, KM_UPDATE_DELETE, ""};
    CHECK_STATUS(km_update(map, text("k"), follow_script, &script, NULL), KM_OK);
    CHECK_STATUS(km_update(map, text("k"), NULL, NULL, NULL), KM_E_INVALID);
    km_buffer_free(&previous);
}

static void update_runs_again_on_what_came_between(void **state)
{
    (void)state;
    on_each(check_update);
}

/* ---- increment and append ---------------------------------------------------------------- */

static void check_increment(km_map *map)
{
    int64_t sum = 0;

    CHECK_STATUS(km_increment(map, text("n"), 5, &sum, NULL), KM_OK);
    CHECK(sum == 5);
    CHECK_STATUS(km_increment(map, text("n"), -7, &sum, NULL), KM_OK);
    CHECK(sum == -2);
    CHECK_STATUS(km_increment(map, text("n"), INT64_MIN + 2, &sum, NULL), KM_OK);
    CHECK_STATUS(km_increment(map, text("n"), -1, &sum, NULL), KM_E_INVALID);
    CHECK(sum == INT64_MIN);
    CHECK_STATUS(km_put(map, text("text"), text("12"), NULL), KM_OK);
    CHECK_STATUS(km_increment(map, text("text"), 1, &sum, NULL), KM_E_INVALID);
    check_is(map, "text", "12");
}

static void increment_counts_and_refuses(void **state)
{
    (void)state;
    on_each(check_increment);
}

static void check_append(km_map *map)
{
    CHECK_STATUS(km_append(map, text("s"), text("ab"), NULL), KM_OK);
    CHECK_STATUS(km_append(map, text("s"), text(""), NULL), KM_OK);
    CHECK_STATUS(km_append(map, text("s"), text("cd"), NULL), KM_OK);
    check_is(map, "s", "abcd");
}

static void append_joins(void **state)
{
    (void)state;
    on_each(check_append);
}

#define THREAD_ADDS 2000

static void *add_many(void *context)
{
    km_map *map = context;

    for (int i = 0; i < THREAD_ADDS; i++)
        CHECK_STATUS(km_increment(map, text("sum"), 1, NULL, NULL), KM_OK);
    return NULL;
}

static void check_concurrent_increments(km_map *map)
{
    pthread_t threads[4];
    int64_t sum = 0;

    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, add_many, map) == 0);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK_STATUS(km_increment(map, text("sum"), 0, &sum, NULL), KM_OK);
    CHECK(sum == 4 * THREAD_ADDS);
}

static void no_increment_of_many_threads_is_lost(void **state)
{
    (void)state;
    on_each(check_concurrent_increments);
}

/* ---- batches ----------------------------------------------------------------------------- */

static void a_batch_happens_only_as_expected(void **state)
{
    km_batch *batch = NULL;
    km_position version;

    (void)state;
    CHECK_STATUS(km_put(fixture.maps[0], text("a"), text("1"), NULL), KM_OK);
    version = version_of(fixture.maps[0], "a");
    CHECK_STATUS(km_batch_create(fixture.store, &batch), KM_OK);
    CHECK_STATUS(km_batch_expect(batch, fixture.maps[0], text("a"), version), KM_OK);
    CHECK_STATUS(km_batch_expect(batch, fixture.maps[2], text("b"), 0), KM_OK);
    CHECK_STATUS(km_batch_put(batch, fixture.maps[1], text("c"), text("3")), KM_OK);
    CHECK_STATUS(km_batch_put(batch, fixture.maps[2], text("b"), text("2")), KM_OK);
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK);
    check_is(fixture.maps[1], "c", "3");
    check_is(fixture.maps[2], "b", "2");

    CHECK_STATUS(km_batch_expect(batch, fixture.maps[0], text("a"), version), KM_OK);
    CHECK_STATUS(km_batch_expect(batch, fixture.maps[2], text("b"), 0), KM_OK);
    CHECK_STATUS(km_batch_put(batch, fixture.maps[1], text("c"), text("4")), KM_OK);
    CHECK_STATUS(km_batch_del(batch, fixture.maps[0], text("a")), KM_OK);
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_CONFLICT);
    check_is(fixture.maps[1], "c", "3");
    check_is(fixture.maps[0], "a", "1");
    CHECK_STATUS(km_del(fixture.maps[2], text("b"), NULL), KM_OK);
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK); /* it has kept everything */
    check_is(fixture.maps[1], "c", "4");
    check_is(fixture.maps[0], "a", NULL);

    CHECK_STATUS(km_batch_expect(batch, fixture.maps[0], text("a"), 0), KM_OK);
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK); /* nothing but a question */
    CHECK_STATUS(km_batch_expect(batch, fixture.maps[1], text("c"), 0), KM_OK);
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_CONFLICT);
    km_batch_destroy(batch);
}

/* ---- large values and failing memory ----------------------------------------------------- */

static void check_large(km_map *map)
{
    size_t size = 20u << 20;
    uint8_t *bytes = malloc(size);
    km_buffer value = KM_BUFFER_INIT;

    memset(bytes, 7, size);
    CHECK_STATUS(km_put_if_absent(map, text("large"), km_bytes_of(bytes, size), NULL), KM_OK);
    CHECK_STATUS(km_put_if_absent(map, text("large"), km_bytes_of(bytes, size), NULL), KM_EXISTS);
    CHECK_STATUS(km_append(map, text("large"), text("end"), NULL), KM_OK);
    CHECK_STATUS(km_compare_and_set(map, text("large"), 8, km_bytes_of(bytes, size), NULL),
                 KM_CONFLICT);
    CHECK_STATUS(km_get(map, text("large"), &value), KM_OK);
    CHECK(value.size == size + 3 && memcmp(value.data, bytes, size) == 0);
    CHECK(km_count(map) == 1);
    km_buffer_free(&value);
    free(bytes);
}

static void values_too_large_for_the_ring_obey_conditions(void **state)
{
    (void)state;
    on_each(check_large);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, open_fixture, close_fixture)
    const struct CMUnitTest tests[] = {
        CASE(put_if_absent_leaves_what_is_there),
        CASE(conditions_hold_or_nothing_changes),
        CASE(compaction_keeps_versions),
        CASE(get_or_insert_inserts_once),
        CASE(update_runs_again_on_what_came_between),
        CASE(increment_counts_and_refuses),
        CASE(append_joins),
        CASE(no_increment_of_many_threads_is_lost),
        CASE(a_batch_happens_only_as_expected),
        CASE(values_too_large_for_the_ring_obey_conditions),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
