/* SPDX-License-Identifier: Apache-2.0
 *
 * test_fork.c -- a child of fork() cannot use, and cannot harm, the parent's store.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/compiler.h"
#include "harness/harness_util.h"

static struct {
    char path[HARNESS_PATH_SIZE];
    km_store *store;
    km_map *map;
    km_batch *batch;
    km_cursor *cursor;
    km_reader *reader;
} fixture;

static int open_fixture(void **state)
{
    (void)state;
    harness_make_folder(fixture.path);
    fixture.store = harness_open(fixture.path, NULL);
    fixture.map = harness_map(fixture.store, "map");
    fixture.reader = NULL;
    CHECK_STATUS(km_put_u64(fixture.map, 1, km_bytes_of_string("one"), NULL), KM_OK);
    CHECK_STATUS(km_batch_create(fixture.store, &fixture.batch), KM_OK);
    CHECK_STATUS(km_cursor_open(fixture.map, NULL, &fixture.cursor), KM_OK);
    return 0;
}

static int close_fixture(void **state)
{
    (void)state;
    km_cursor_close(fixture.cursor);
    km_batch_destroy(fixture.batch);
    harness_close(fixture.store);
    harness_remove(fixture.path);
    return 0;
}

/* Run a function in a child, which must end well. */
static void run_in_child(void (*run)(void))
{
    int status = -1;
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        alarm(30);
        run();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %x",
              (unsigned)status);
}

static int visit_none(void *context, const km_map_info *info)
{
    (void)context;
    (void)info;
    CHECK(!"a map was listed");
    return 0;
}

static void check_map_calls(void)
{
    km_bytes name = km_bytes_of_string("map"), value;
    km_map *map = NULL;
    km_cursor *cursor = NULL;
    km_buffer buffer = KM_BUFFER_INIT;

    CHECK_STATUS(km_map_create(fixture.store, name, KM_HASH, &map), KM_E_FORKED);
    CHECK_STATUS(km_map_open(fixture.store, name, &map), KM_E_FORKED);
    CHECK_STATUS(km_map_open_or_create(fixture.store, name, KM_HASH, &map), KM_E_FORKED);
    CHECK_STATUS(km_map_drop(fixture.map), KM_E_FORKED);
    CHECK_STATUS(km_map_clear(fixture.map), KM_E_FORKED);
    CHECK_STATUS(km_map_list(fixture.store, visit_none, NULL), KM_E_FORKED);
    CHECK(km_count(fixture.map) == 0);
    CHECK_STATUS(km_put_u64(fixture.map, 1, name, NULL), KM_E_FORKED);
    CHECK_STATUS(km_del_u64(fixture.map, 1, NULL), KM_E_FORKED);
    CHECK_STATUS(km_get_u64(fixture.map, 1, &buffer), KM_E_FORKED);
    CHECK_STATUS(km_contains(fixture.map, name), KM_E_FORKED);
    CHECK_STATUS(km_cursor_open(fixture.map, NULL, &cursor), KM_E_FORKED);
    CHECK_STATUS(km_cursor_next(fixture.cursor, &name, &value), KM_E_FORKED);
    CHECK(!map && !cursor);
}

static void check_store_calls(void)
{
    km_bytes key = km_bytes_of_string("key"), value;
    km_stats stats = {.struct_size = sizeof(stats)};
    km_reader *reader = NULL;
    km_batch *batch = NULL;
    km_error error;
    int fd = -1;

    CHECK_STATUS(km_read_begin(fixture.store, &reader), KM_E_FORKED);
    CHECK_STATUS(km_get_ref((km_reader *)(void *)fixture.store, fixture.map, key, &value),
                 KM_E_FORKED);
    CHECK_STATUS(
        km_get_many((km_reader *)(void *)fixture.store, fixture.map, &key, 1, &value, NULL),
        KM_E_FORKED);
    CHECK_STATUS(km_batch_create(fixture.store, &batch), KM_E_FORKED);
    CHECK_STATUS(km_batch_put(fixture.batch, fixture.map, key, key), KM_E_FORKED);
    CHECK_STATUS(km_batch_del(fixture.batch, fixture.map, key), KM_E_FORKED);
    CHECK_STATUS(km_batch_commit(fixture.batch, NULL), KM_E_FORKED);
    CHECK_STATUS(km_wait_durable(fixture.store, 0), KM_E_FORKED);
    CHECK(km_durable_position(fixture.store) == 0);
    CHECK_STATUS(km_durable_fd(fixture.store, &fd), KM_E_FORKED);
    CHECK_STATUS(km_store_stats(fixture.store, &stats), KM_E_FORKED);
    CHECK_STATUS(km_store_error(fixture.store, &error), KM_E_FORKED);
    CHECK(!reader && !batch && fd == -1);
}

static void call_everything(void)
{
    check_map_calls();
    check_store_calls();
}

static void end_everything(void)
{
    km_read_end(fixture.reader);
    km_cursor_close(fixture.cursor);
    km_batch_clear(fixture.batch);
    km_batch_destroy(fixture.batch);
    CHECK_STATUS(km_close(fixture.store, NULL), KM_OK);
}

static void check_parent(void)
{
    km_store *second = NULL;
    km_error error;
    uint64_t count = km_count(fixture.map);

    CHECK_STATUS(km_open(fixture.path, NULL, &second, &error),
                 KM_E_LOCKED); /* the lock is still held */
    CHECK_STATUS(km_put_u64(fixture.map, 100 + count, km_bytes_of_string("more"), NULL), KM_OK);
    CHECK_STATUS(km_wait_durable(fixture.store, 0), KM_OK);
    CHECK_STATUS(km_get_u64(fixture.map, 1, NULL), KM_OK);
    CHECK(km_count(fixture.map) == count + 1);
}

static void check_after_reopen(uint64_t count)
{
    km_cursor_close(fixture.cursor);
    km_batch_destroy(fixture.batch);
    harness_close(fixture.store);
    fixture.store = harness_open(fixture.path, NULL);
    fixture.map = harness_map(fixture.store, "map");
    CHECK(km_count(fixture.map) == count);
    CHECK_STATUS(km_batch_create(fixture.store, &fixture.batch), KM_OK);
    CHECK_STATUS(km_cursor_open(fixture.map, NULL, &fixture.cursor), KM_OK);
}

#if defined(__SANITIZE_ADDRESS__)
#define IS_ADDRESS_SANITIZER 1
#else
#define IS_ADDRESS_SANITIZER 0
#endif

/* ---- cases ------------------------------------------------------------------------------- */

static void every_call_in_the_child_says_forked(void **state)
{
    (void)state;
    run_in_child(call_everything);
    check_parent();
    check_after_reopen(2);
}

static void close_in_the_child_leaves_the_parents_store(void **state)
{
    (void)state;
    run_in_child(end_everything);
    check_parent();
    run_in_child(end_everything);
    check_parent();
    check_after_reopen(3);
}

static void a_fork_inside_a_read_section_harms_nobody(void **state)
{
    km_bytes value = {NULL, 0};
    km_u64_key key = km_u64_key_from(1);

    (void)state;
    CHECK_STATUS(km_read_begin(fixture.store, &fixture.reader), KM_OK);
    CHECK_STATUS(km_get_ref(fixture.reader, fixture.map, km_bytes_of(key.bytes, 8), &value), KM_OK);
    run_in_child(call_everything);
    run_in_child(end_everything);
    CHECK(value.size == 3 && memcmp(value.data, "one", 3) == 0);
    km_read_end(fixture.reader);
    check_parent();
}

static void use_a_store_of_its_own(void)
{
    char path[HARNESS_PATH_SIZE];
    km_store *store;
    km_map *map;

    km_close(fixture.store, NULL);
    harness_path(path, fixture.path, "of-the-child");
    store = harness_open(path, NULL);
    map = harness_map(store, "map");
    for (uint64_t i = 0; i < 20000; i++)
        CHECK_STATUS(km_put_u64(map, i, km_bytes_of_string("value of the child"), NULL), KM_OK);
    CHECK_STATUS(km_wait_durable(store, 0), KM_OK);
    CHECK(km_count(map) == 20000);
    harness_close(store);
}

static void the_child_can_use_another_store(void **state)
{
    (void)state;
    if (KM_THREAD_SANITIZER || IS_ADDRESS_SANITIZER)
        skip(); /* threads in a child of a process that had some: the one knows none, and with the
                   other its allocator may have been locked by a thread that is not there any more
                 */
    run_in_child(use_a_store_of_its_own);
    check_parent();
}

struct beside {
    _Atomic int stop;
    uint64_t count;
};

static void *write_beside(void *context)
{
    struct beside *beside = context;

    while (!atomic_load(&beside->stop))
        CHECK_STATUS(km_put_u64(fixture.map, 1000 + beside->count++ % 50000,
                                km_bytes_of_string("beside"), NULL),
                     KM_OK);
    return NULL;
}

/* Forks at any moment of writers and background threads. */
static void forks_beside_writers_harm_nobody(void **state)
{
    uint64_t rounds = harness_scaled(40), count;
    struct beside beside = {0, 0};
    pthread_t thread;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, write_beside, &beside), 0);
    for (uint64_t i = 0; i < rounds; i++)
        run_in_child(i % 2 ? end_everything : call_everything);
    atomic_store(&beside.stop, 1);
    pthread_join(thread, NULL);
    count = km_count(fixture.map);
    CHECK(count == 1 + (beside.count < 50000 ? beside.count : 50000));
    check_after_reopen(count);
}

static void open_memory_and_end(void)
{
    km_map *map = fixture.map;

    CHECK_STATUS(km_get_u64(map, 1, NULL), KM_E_FORKED);
    CHECK_STATUS(km_put_u64(map, 1, km_bytes_of_string("x"), NULL), KM_E_FORKED);
    CHECK_STATUS(km_close(fixture.store, NULL), KM_OK);
}

static void memory_stores_are_the_parents_too(void **state)
{
    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &fixture.store, NULL), KM_OK);
    fixture.map = harness_map(fixture.store, "map");
    CHECK_STATUS(km_put_u64(fixture.map, 1, km_bytes_of_string("one"), NULL), KM_OK);
    run_in_child(open_memory_and_end);
    CHECK_STATUS(km_get_u64(fixture.map, 1, NULL), KM_OK);
    harness_close(fixture.store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_call_in_the_child_says_forked, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(close_in_the_child_leaves_the_parents_store, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(a_fork_inside_a_read_section_harms_nobody, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(the_child_can_use_another_store, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(forks_beside_writers_harm_nobody, open_fixture,
                                        close_fixture),
        cmocka_unit_test(memory_stores_are_the_parents_too),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
