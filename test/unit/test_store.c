/* SPDX-License-Identifier: Apache-2.0
 *
 * test_store.c -- the public calls one by one: statuses, outputs, limits, options, locks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/harness_util.h"

static struct {
    char path[HARNESS_PATH_SIZE];
    km_store *store;
    km_map *map;
} fixture;

static int open_fixture(void **state)
{
    (void)state;
    harness_make_folder(fixture.path);
    fixture.store = harness_open(fixture.path, NULL);
    fixture.map = harness_map(fixture.store, "map");
    return 0;
}

static int close_fixture(void **state)
{
    (void)state;
    harness_close(fixture.store);
    harness_remove(fixture.path);
    return 0;
}

static km_bytes text(const char *string)
{
    return km_bytes_of_string(string);
}

static void reopen_fixture(const km_options *options)
{
    harness_close(fixture.store);
    fixture.store = harness_open(fixture.path, options);
    CHECK_STATUS(km_map_open(fixture.store, text("map"), &fixture.map), KM_OK);
}

static void check_value(km_map *map, const char *key, const char *value)
{
    km_buffer buffer = KM_BUFFER_INIT;

    CHECK_STATUS(km_get(map, text(key), &buffer), KM_OK);
    CHECK(buffer.size == strlen(value) &&
          (!buffer.size || memcmp(buffer.data, value, buffer.size) == 0));
    km_buffer_free(&buffer);
}

/* ---- opening ----------------------------------------------------------------------------- */

static km_status try_open(const char *path, km_open_mode mode, km_error *error)
{
    km_options options = KM_OPTIONS_INIT;
    km_store *store = NULL;
    km_status rc;

    memset(error, 0, sizeof(*error));
    options.mode = mode;
    rc = km_open(path, &options, &store, error);
    if (rc == KM_OK) {
        CHECK(store);
        harness_close(store);
    } else {
        CHECK(!store && error->status == rc && error->message[0]);
    }
    return rc;
}

static void each_mode_creates_or_refuses(void **state)
{
    char parent[HARNESS_PATH_SIZE], path[HARNESS_PATH_SIZE], deep[HARNESS_PATH_SIZE];
    struct stat status;
    km_error error;

    (void)state;
    harness_make_folder(parent);
    harness_path(path, parent, "store");
    harness_path(deep, parent, "missing/store");
    CHECK_STATUS(try_open(path, KM_OPEN_EXISTING, &error), KM_E_NOT_A_STORE);
    CHECK_STATUS(try_open(path, KM_OPEN_READ_ONLY, &error), KM_E_NOT_A_STORE);
    CHECK(stat(path, &status) != 0); /* nothing was made */
    CHECK_STATUS(try_open(path, KM_CREATE_NEW, &error), KM_OK);
    CHECK_STATUS(try_open(path, KM_CREATE_NEW, &error), KM_EXISTS);
    CHECK_STATUS(try_open(path, KM_OPEN_EXISTING, &error), KM_OK);
    CHECK_STATUS(try_open(path, KM_OPEN_OR_CREATE, &error), KM_OK);
    CHECK_STATUS(try_open(path, KM_OPEN_READ_ONLY, &error), KM_OK);
    CHECK_STATUS(try_open(deep, KM_OPEN_OR_CREATE, &error), KM_E_IO);
    CHECK_STATUS(try_open("", KM_OPEN_OR_CREATE, &error), KM_E_INVALID);
    CHECK_STATUS(try_open(path, (km_open_mode)9, &error), KM_E_INVALID);
    CHECK(km_open(deep, NULL, &(km_store *){NULL}, NULL) == KM_E_IO); /* no error wanted */
    harness_remove(parent);
}

static void files_are_private(void **state)
{
    static const char *const names[] = {"IDENTITY", "MARKS", "LOCK", "log/00000001.segment"};
    char path[HARNESS_PATH_SIZE];
    struct stat status;

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        harness_path(path, fixture.path, names[i]);
        CHECK(stat(path, &status) == 0 && (status.st_mode & 0777) == 0600);
    }
}

static void other_folders_and_files_are_no_store(void **state)
{
    char folder[HARNESS_PATH_SIZE], path[HARNESS_PATH_SIZE];
    km_error error;
    int fd;

    (void)state;
    harness_make_folder(folder);
    harness_path(path, folder, "letter.txt");
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    close(fd);
    CHECK_STATUS(try_open(folder, KM_OPEN_OR_CREATE, &error), KM_E_NOT_A_STORE);
    CHECK_STATUS(try_open(folder, KM_OPEN_EXISTING, &error), KM_E_NOT_A_STORE);
    CHECK_STATUS(try_open(path, KM_OPEN_OR_CREATE, &error), KM_E_NOT_A_STORE);
    CHECK_STATUS(try_open("/dev/null", KM_OPEN_OR_CREATE, &error), KM_E_NOT_A_STORE);
    harness_path(path, folder, "LOCK");
    CHECK(access(path, F_OK) != 0); /* nothing is left in a folder of somebody else's */
    harness_remove(folder);
}

static void options_are_checked(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    km_store *store = NULL;
    km_error error;

    (void)state;
    options.struct_size = 0;
    CHECK_STATUS(km_open_memory(&options, &store, &error), KM_E_INVALID);
    CHECK(error.status == KM_E_INVALID && strstr(error.message, "struct_size"));
    options.struct_size = sizeof(options);
    options.durability = (km_durability)7;
    CHECK_STATUS(km_open_memory(&options, &store, &error), KM_E_INVALID);
    options.durability = KM_DURABLE_DEFAULT;
    options.batch_size_max = UINT64_MAX;
    CHECK_STATUS(km_open_memory(&options, &store, &error), KM_E_INVALID);
    CHECK(!store);
    /* an older program knows fewer fields: what lies beyond its struct does not count */
    options.struct_size = offsetof(km_options, batch_size_max);
    CHECK_STATUS(km_open_memory(&options, &store, &error), KM_OK);
    CHECK_STATUS(km_close(store, NULL), KM_OK);
}

static void close_accepts_nothing(void **state)
{
    (void)state;
    CHECK_STATUS(km_close(NULL, NULL), KM_OK);
    km_batch_destroy(NULL);
    km_cursor_close(NULL);
    km_buffer_free(NULL);
    km_read_end(NULL);
}

/* ---- locks ------------------------------------------------------------------------------- */

static void a_second_open_is_refused_and_told_the_pid(void **state)
{
    char pid[32];
    km_error error;

    (void)state;
    snprintf(pid, sizeof(pid), "pid %d", (int)getpid());
    CHECK_STATUS(try_open(fixture.path, KM_OPEN_OR_CREATE, &error), KM_E_LOCKED);
    CHECK(strstr(error.message, pid));
    CHECK_STATUS(try_open(fixture.path, KM_OPEN_READ_ONLY, &error), KM_OK); /* it follows */
    CHECK_STATUS(km_put(fixture.map, text("still"), text("open"), NULL), KM_OK);
}

/* What a program that starts anew finds: exec, so that nothing of this process is left in it. */
static int run_as_other_process(const char *path)
{
    char parent_pid[32];
    km_error error;

    snprintf(parent_pid, sizeof(parent_pid), "pid %d", (int)getppid());
    if (try_open(path, KM_OPEN_EXISTING, &error) != KM_E_LOCKED ||
        !strstr(error.message, parent_pid))
        return 1;
    return try_open(path, KM_OPEN_READ_ONLY, &error) == KM_OK ? 0 : 2;
}

static void a_second_process_is_refused_and_told_the_pid(void **state)
{
    int status = -1;
    pid_t child = fork();

    (void)state;
    if (child == 0) {
        execl("/proc/self/exe", "test_store", "--open", fixture.path, (char *)NULL);
        _exit(99);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
    CHECK_STATUS(km_put(fixture.map, text("still"), text("open"), NULL), KM_OK);
}

static void several_readers_share_a_store_without_a_writer(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    km_store *second;
    km_map *map = NULL;
    km_error error;

    (void)state;
    CHECK_STATUS(km_put(fixture.map, text("key"), text("value"), NULL), KM_OK);
    options.mode = KM_OPEN_READ_ONLY;
    reopen_fixture(&options);
    second = harness_open(fixture.path, &options);
    CHECK_STATUS(km_map_open(second, text("map"), &map), KM_OK);
    check_value(map, "key", "value");
    CHECK_STATUS(try_open(fixture.path, KM_OPEN_EXISTING, &error), KM_E_LOCKED);
    harness_close(second);
    check_value(fixture.map, "key", "value");
}

/* ---- read-only --------------------------------------------------------------------------- */

static uint64_t sum_of_files(void)
{
    static const char *const names[] = {"IDENTITY", "MARKS", "LOCK", "log/00000001.segment",
                                        "tail-18.ring"};
    uint64_t sum = 0;

    for (size_t i = 0; i < 5; i++) {
        char path[HARNESS_PATH_SIZE];
        struct stat status = {0};

        harness_path(path, fixture.path, names[i]);
        CHECK(stat(path, &status) == 0 || i == 4);
        sum = sum * 31 + (uint64_t)status.st_mtim.tv_nsec + (uint64_t)status.st_mtim.tv_sec +
              (uint64_t)status.st_size;
    }
    return sum;
}

static void read_only_changes_nothing(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    km_batch *batch = NULL;
    km_map *map = NULL;
    uint64_t before;

    (void)state;
    CHECK_STATUS(km_put(fixture.map, text("key"), text("value"), NULL), KM_OK);
    harness_close(fixture.store);
    before = sum_of_files();
    options.mode = KM_OPEN_READ_ONLY;
    fixture.store = harness_open(fixture.path, &options);
    CHECK_STATUS(km_map_open(fixture.store, text("map"), &fixture.map), KM_OK);
    CHECK_STATUS(km_put(fixture.map, text("key"), text("x"), NULL), KM_E_READ_ONLY);
    CHECK_STATUS(km_del(fixture.map, text("key"), NULL), KM_E_READ_ONLY);
    CHECK_STATUS(km_map_clear(fixture.map), KM_E_READ_ONLY);
    CHECK_STATUS(km_map_drop(fixture.map), KM_E_READ_ONLY);
    CHECK_STATUS(km_map_create(fixture.store, text("new"), KM_HASH, &map), KM_E_READ_ONLY);
    CHECK_STATUS(km_map_open_or_create(fixture.store, text("new"), KM_HASH, &map), KM_E_READ_ONLY);
    CHECK_STATUS(km_map_open_or_create(fixture.store, text("map"), KM_HASH, &map), KM_OK);
    CHECK_STATUS(km_batch_create(fixture.store, &batch), KM_E_READ_ONLY);
    CHECK_STATUS(km_wait_durable(fixture.store, 0), KM_OK);
    check_value(fixture.map, "key", "value");
    harness_close(fixture.store);
    CHECK(sum_of_files() == before);
    fixture.store = harness_open(fixture.path, NULL);
}

static void read_only_needs_no_write_permission(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    int status = -1;
    pid_t child;

    (void)state;
    if (geteuid() != 0)
        skip(); /* only root can become somebody who may not write */
    CHECK_STATUS(km_put(fixture.map, text("key"), text("value"), NULL), KM_OK);
    harness_close(fixture.store);
    options.mode = KM_OPEN_READ_ONLY;
    child = fork();
    if (child == 0) {
        km_store *store = NULL;

        chmod(fixture.path, 0755);
        CHECK(chdir(fixture.path) == 0 &&
              system("chmod 755 log; chmod 644 LOCK MARKS IDENTITY *.ring log/*") == 0);
        CHECK(setgid(65534) == 0 && setuid(65534) == 0);
        CHECK_STATUS(km_open(".", NULL, &store, NULL), KM_E_IO);
        store = harness_open(".", &options);
        CHECK_STATUS(km_map_open(store, text("map"), &fixture.map), KM_OK);
        check_value(fixture.map, "key", "value");
        harness_close(store);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    fixture.store = harness_open(fixture.path, NULL);
}

/* ---- maps -------------------------------------------------------------------------------- */

static void map_names_are_checked(void **state)
{
    char long_name[KM_MAP_NAME_SIZE_MAX + 1];
    km_map *map = NULL, *again = NULL;

    (void)state;
    memset(long_name, 'n', sizeof(long_name));
    CHECK_STATUS(km_map_create(fixture.store, text(""), KM_HASH, &map), KM_E_INVALID);
    CHECK_STATUS(km_map_open(fixture.store, text(""), &map), KM_E_INVALID);
    CHECK_STATUS(km_map_create(fixture.store, km_bytes_of(NULL, 3), KM_HASH, &map), KM_E_INVALID);
    CHECK_STATUS(
        km_map_create(fixture.store, km_bytes_of(long_name, sizeof(long_name)), KM_HASH, &map),
        KM_E_INVALID);
    CHECK(!map);
    CHECK_STATUS(
        km_map_create(fixture.store, km_bytes_of(long_name, sizeof(long_name) - 1), KM_HASH, &map),
        KM_OK);
    CHECK_STATUS(km_map_create(fixture.store, km_bytes_of("a\0b", 3), KM_HASH, &map), KM_OK);
    CHECK_STATUS(km_map_open(fixture.store, km_bytes_of("a\0c", 3), &again), KM_NOT_FOUND);
    CHECK_STATUS(km_map_open(fixture.store, km_bytes_of("a\0b", 3), &again), KM_OK);
    CHECK(again == map);
    CHECK_STATUS(km_map_create(fixture.store, text("map"), KM_HASH, &map), KM_EXISTS);
    CHECK(map == again); /* as it was */
}

static int note_kind(void *context, const km_map_info *info)
{
    km_map_kind *kinds = context;

    kinds[info->name.size - 1] = info->kind;
    return 0;
}

static void a_map_has_the_kind_it_was_created_with(void **state)
{
    km_map_kind kinds[4] = {KM_KIND_DEFAULT, KM_KIND_DEFAULT, KM_KIND_DEFAULT, KM_KIND_DEFAULT};
    km_map *map = NULL;

    (void)state;
    CHECK_STATUS(km_map_create(fixture.store, text("x"), KM_HASH, &map), KM_OK);
    CHECK_STATUS(km_map_create(fixture.store, text("xx"), KM_SORTED, &map), KM_OK);
    CHECK_STATUS(km_map_create(fixture.store, text("xxxx"), KM_KIND_DEFAULT, &map), KM_OK);
    CHECK_STATUS(km_map_list(fixture.store, note_kind, kinds), KM_OK);
    CHECK(kinds[0] == KM_HASH && kinds[1] == KM_SORTED && kinds[2] == KM_INSERTION &&
          kinds[3] == KM_INSERTION);
    CHECK_STATUS(km_map_create(fixture.store, text("new"), (km_map_kind)9, &map), KM_E_INVALID);
    CHECK_STATUS(km_map_create(fixture.store, text("new"), KM_KIND_DEFAULT, &map), KM_OK);
    CHECK_STATUS(km_map_open_or_create(fixture.store, text("map"), KM_HASH, &map), KM_OK);
    CHECK(map == fixture.map);
}

static void a_dropped_map_answers_so(void **state)
{
    km_map *map = NULL;
    km_reader *reader = NULL;
    km_cursor *cursor = NULL;
    km_batch *batch = NULL, *later = NULL;
    km_bytes value, key = text("key");
    km_buffer buffer = KM_BUFFER_INIT;

    (void)state;
    CHECK_STATUS(km_put(fixture.map, key, text("value"), NULL), KM_OK);
    CHECK_STATUS(km_cursor_open(fixture.map, NULL, &cursor), KM_OK);
    CHECK_STATUS(km_batch_create(fixture.store, &later), KM_OK);
    CHECK_STATUS(km_batch_put(later, fixture.map, key, key), KM_OK);
    CHECK_STATUS(km_map_drop(fixture.map), KM_OK);
    CHECK_STATUS(km_map_drop(fixture.map), KM_E_DROPPED);
    CHECK_STATUS(km_map_clear(fixture.map), KM_E_DROPPED);
    CHECK_STATUS(km_put(fixture.map, key, key, NULL), KM_E_DROPPED);
    CHECK_STATUS(km_del(fixture.map, key, NULL), KM_E_DROPPED);
    CHECK_STATUS(km_get(fixture.map, key, &buffer), KM_E_DROPPED);
    CHECK_STATUS(km_contains(fixture.map, key), KM_E_DROPPED);
    CHECK(km_count(fixture.map) == 0);
    CHECK_STATUS(km_read_begin(fixture.store, &reader), KM_OK);
    CHECK_STATUS(km_get_ref(reader, fixture.map, key, &value), KM_E_DROPPED);
    CHECK_STATUS(km_get_many(reader, fixture.map, &key, 1, &value, NULL), KM_E_DROPPED);
    km_read_end(reader);
    CHECK_STATUS(km_cursor_next(cursor, NULL, NULL), KM_E_DROPPED);
    km_cursor_close(cursor);
    CHECK_STATUS(km_cursor_open(fixture.map, NULL, &cursor), KM_E_DROPPED);
    CHECK_STATUS(km_batch_create(fixture.store, &batch), KM_OK);
    CHECK_STATUS(km_batch_put(batch, fixture.map, key, key), KM_E_DROPPED);
    CHECK_STATUS(km_batch_commit(later, NULL), KM_E_DROPPED);
    km_batch_destroy(batch);
    km_batch_destroy(later);
    CHECK_STATUS(km_map_open(fixture.store, text("map"), &map), KM_NOT_FOUND);
    CHECK_STATUS(km_map_create(fixture.store, text("map"), KM_HASH, &map), KM_OK);
    CHECK(map != fixture.map && km_count(map) == 0);
    CHECK_STATUS(km_contains(map, key), KM_NOT_FOUND);
    reopen_fixture(NULL);
    CHECK_STATUS(km_contains(fixture.map, key), KM_NOT_FOUND);
}

static int stop_at_second(void *context, const km_map_info *info)
{
    int *count = context;

    (void)info;
    return ++*count == 2;
}

static int note_name(void *context, const km_map_info *info)
{
    char *names = context;

    CHECK(info->name.size < 8);
    strncat(names, info->name.data, info->name.size);
    return 0;
}

static void maps_are_listed_as_they_were_made(void **state)
{
    char names[64] = "";
    km_map *map = NULL;
    int count = 0;

    (void)state;
    CHECK_STATUS(km_map_create(fixture.store, text("z"), KM_HASH, &map), KM_OK);
    CHECK_STATUS(km_map_create(fixture.store, text("x"), KM_HASH, &map), KM_OK);
    CHECK_STATUS(km_map_drop(map), KM_OK);
    CHECK_STATUS(km_map_create(fixture.store, text("a"), KM_HASH, &map), KM_OK);
    CHECK_STATUS(km_map_list(fixture.store, note_name, names), KM_OK);
    assert_string_equal(names, "mapza");
    CHECK_STATUS(km_map_list(fixture.store, stop_at_second, &count), KM_STOPPED);
    CHECK(count == 2);
    reopen_fixture(NULL);
    names[0] = 0;
    CHECK_STATUS(km_map_list(fixture.store, note_name, names), KM_OK);
    assert_string_equal(names, "mapza");
}

/* ---- changes ----------------------------------------------------------------------------- */

static void sizes_are_limited(void **state)
{
    uint8_t *bytes = calloc(1, KM_KEY_SIZE_MAX + 1);
    km_buffer buffer = KM_BUFFER_INIT;
    km_bytes key = km_bytes_of(bytes, KM_KEY_SIZE_MAX),
             large = km_bytes_of(bytes, KM_KEY_SIZE_MAX + 1);

    (void)state;
    CHECK(bytes);
    CHECK_STATUS(km_put(fixture.map, large, text("x"), NULL), KM_E_TOO_BIG);
    CHECK_STATUS(
        km_put(fixture.map, text("x"), km_bytes_of(bytes, (size_t)KM_VALUE_SIZE_MAX + 1), NULL),
        KM_E_TOO_BIG);
    CHECK_STATUS(km_del(fixture.map, large, NULL), KM_E_TOO_BIG);
    CHECK_STATUS(km_get(fixture.map, large, &buffer), KM_E_INVALID);
    CHECK_STATUS(km_put(fixture.map, km_bytes_of(NULL, 1), text("x"), NULL), KM_E_INVALID);
    CHECK_STATUS(km_put(fixture.map, text("x"), km_bytes_of(NULL, 1), NULL), KM_E_INVALID);
    CHECK_STATUS(km_get(fixture.map, km_bytes_of(NULL, 1), &buffer), KM_E_INVALID);
    CHECK(km_count(fixture.map) == 0);
    CHECK_STATUS(km_put(fixture.map, key, text("x"), NULL), KM_OK);
    CHECK_STATUS(km_get(fixture.map, key, &buffer), KM_OK);
    km_buffer_free(&buffer);
    free(bytes);
}

static void empty_keys_and_values_are_as_others(void **state)
{
    km_bytes none = {NULL, 0}, values[3], keys[3];
    km_reader *reader = NULL;
    km_buffer buffer = KM_BUFFER_INIT;
    size_t found = 0;

    (void)state;
    CHECK_STATUS(km_get(fixture.map, none, &buffer), KM_NOT_FOUND);
    CHECK_STATUS(km_put(fixture.map, none, none, NULL), KM_OK);
    CHECK_STATUS(km_put(fixture.map, text("k"), none, NULL), KM_OK);
    reopen_fixture(NULL);
    CHECK(km_count(fixture.map) == 2);
    CHECK_STATUS(km_get(fixture.map, none, &buffer), KM_OK);
    CHECK(buffer.size == 0);
    keys[0] = none;
    keys[1] = text("k");
    keys[2] = text("absent");
    CHECK_STATUS(km_read_begin(fixture.store, &reader), KM_OK);
    CHECK_STATUS(km_get_many(reader, fixture.map, keys, 3, values, &found), KM_OK);
    CHECK(found == 2 && values[0].data && values[0].size == 0 && values[1].data &&
          values[1].size == 0);
    CHECK(!values[2].data && values[2].size == 0);
    CHECK_STATUS(km_get_many(reader, fixture.map, NULL, 0, NULL, &found), KM_OK);
    CHECK(found == 0);
    km_read_end(reader);
    CHECK_STATUS(km_del(fixture.map, none, NULL), KM_OK);
    CHECK_STATUS(km_del(fixture.map, none, NULL), KM_NOT_FOUND);
    km_buffer_free(&buffer);
}

static void a_change_tells_what_was_before_and_where_it_is(void **state)
{
    km_buffer previous = KM_BUFFER_INIT;
    km_write write = KM_WRITE_INIT;
    km_position first;

    (void)state;
    write.previous = &previous;
    CHECK_STATUS(km_put(fixture.map, text("key"), text("one"), &write), KM_OK);
    CHECK(!write.existed && previous.size == 0 && write.position > 0);
    first = write.position;
    CHECK_STATUS(km_put(fixture.map, text("key"), text("two"), &write), KM_OK);
    CHECK(write.existed && previous.size == 3 && memcmp(previous.data, "one", 3) == 0 &&
          write.position > first);
    first = write.position;
    CHECK_STATUS(km_del(fixture.map, text("key"), &write), KM_OK);
    CHECK(write.existed && memcmp(previous.data, "two", 3) == 0 && write.position > first);
    first = write.position;
    CHECK_STATUS(km_del(fixture.map, text("key"), &write), KM_NOT_FOUND);
    CHECK(write.position == first && write.existed); /* as they were */
    reopen_fixture(NULL);
    CHECK_STATUS(km_put(fixture.map, text("key"), text("three"), &write), KM_OK);
    CHECK(!write.existed && write.position > first);
    km_buffer_free(&previous);
}

static void large_values_come_back_and_tell_what_was_before(void **state)
{
    size_t size = 20u << 20;
    uint8_t *value = malloc(size);
    km_buffer previous = KM_BUFFER_INIT, buffer = KM_BUFFER_INIT;
    km_write write = KM_WRITE_INIT;

    (void)state;
    CHECK(value);
    harness_fill(value, size, 1);
    write.previous = &previous;
    CHECK_STATUS(km_put(fixture.map, text("a"), km_bytes_of(value, size), &write), KM_OK);
    CHECK(!write.existed);
    CHECK_STATUS(km_put(fixture.map, text("b"), text("small"), NULL), KM_OK);
    CHECK_STATUS(km_put(fixture.map, text("a"), km_bytes_of(value, size - 8), &write), KM_OK);
    CHECK(write.existed && previous.size == size && harness_is_filled(previous.data, size, 1));
    reopen_fixture(NULL);
    CHECK_STATUS(km_get(fixture.map, text("a"), &buffer), KM_OK);
    CHECK(buffer.size == size - 8 && harness_is_filled(buffer.data, buffer.size, 1));
    check_value(fixture.map, "b", "small");
    km_buffer_free(&buffer);
    km_buffer_free(&previous);
    free(value);
}

static void clear_takes_every_key(void **state)
{
    km_stats stats = {.struct_size = sizeof(stats)};

    (void)state;
    for (uint64_t key = 0; key < 5000; key++)
        CHECK_STATUS(km_put_u64(fixture.map, key, text("value"), NULL), KM_OK);
    CHECK(km_count(fixture.map) == 5000);
    CHECK_STATUS(km_map_clear(fixture.map), KM_OK);
    CHECK(km_count(fixture.map) == 0);
    CHECK_STATUS(km_contains(fixture.map, text("any")), KM_NOT_FOUND);
    CHECK_STATUS(km_store_stats(fixture.store, &stats), KM_OK);
    CHECK(stats.key_count == 0 && stats.live_bytes == 0 && stats.log_bytes > 5000 * 24);
    CHECK_STATUS(km_put_u64(fixture.map, 3, text("after"), NULL), KM_OK);
    reopen_fixture(NULL);
    CHECK(km_count(fixture.map) == 1);
    CHECK_STATUS(km_get_u64(fixture.map, 3, NULL), KM_OK);
    CHECK_STATUS(km_del_u64(fixture.map, 3, NULL), KM_OK);
}

/* ---- read sections ----------------------------------------------------------------------- */

static void sections_belong_to_their_store(void **state)
{
    km_store *other = NULL;
    km_reader *reader = NULL, *inner = NULL;
    km_bytes value = {NULL, 77}, key = text("key");

    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &other, NULL), KM_OK);
    CHECK_STATUS(km_put(fixture.map, key, text("value"), NULL), KM_OK);
    CHECK_STATUS(km_read_begin(other, &reader), KM_OK);
    CHECK_STATUS(km_get_ref(reader, fixture.map, key, &value), KM_E_INVALID);
    CHECK_STATUS(km_get_many(reader, fixture.map, &key, 1, &value, NULL), KM_E_INVALID);
    CHECK(value.size == 77);
    CHECK_STATUS(km_read_begin(fixture.store, &inner), KM_OK); /* they nest */
    CHECK_STATUS(km_get_ref(inner, fixture.map, text("absent"), &value), KM_NOT_FOUND);
    CHECK(value.size == 77);
    CHECK_STATUS(km_get_ref(inner, fixture.map, key, &value), KM_OK);
    km_read_end(reader);
    CHECK(value.size == 5 && memcmp(value.data, "value", 5) == 0);
    km_read_end(inner);
    harness_close(other);
}

/* It succeeds, or says that it would have to wait: here for room in the ring, and for the disk. */
static void a_change_inside_a_section_never_waits(void **state)
{
    static uint8_t value[30000];
    km_write write = KM_WRITE_INIT;
    km_reader *reader = NULL;
    km_bytes seen = {NULL, 0};
    uint64_t done = 0, blocked = 0;

    (void)state;
    CHECK_STATUS(km_put(fixture.map, text("key"), text("before"), NULL), KM_OK);
    CHECK_STATUS(km_read_begin(fixture.store, &reader), KM_OK);
    CHECK_STATUS(km_get_ref(reader, fixture.map, text("key"), &seen), KM_OK);
    CHECK_STATUS(km_put(fixture.map, text("key"), text("inside"), NULL), KM_OK);
    for (uint64_t i = 0; i < 3000 && blocked < 20; i++) {
        km_status rc = km_put_u64(fixture.map, i % 10, km_bytes_of(value, sizeof(value)), NULL);

        CHECK(rc == KM_OK || rc == KM_WOULD_BLOCK);
        done += rc == KM_OK;
        blocked += rc == KM_WOULD_BLOCK;
    }
    CHECK(done > 0 && blocked > 0);
    write.durability = KM_DURABLE_POWER;
    CHECK_STATUS(km_put(fixture.map, text("key"), text("power"), &write), KM_WOULD_BLOCK);
    CHECK_STATUS(km_wait_durable(fixture.store, 0), KM_WOULD_BLOCK);
    CHECK(seen.size == 6 && memcmp(seen.data, "before", 6) == 0);
    km_read_end(reader);
    check_value(fixture.map, "key", "inside");
    CHECK_STATUS(km_put_u64(fixture.map, 1, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
    CHECK_STATUS(km_put(fixture.map, text("key"), text("power"), &write), KM_OK);
}

static void a_large_change_inside_a_section_would_block(void **state)
{
    size_t size = 6u << 20;
    uint8_t *value = calloc(1, size);
    km_reader *reader = NULL;

    (void)state;
    CHECK(value);
    CHECK_STATUS(km_read_begin(fixture.store, &reader), KM_OK);
    CHECK_STATUS(km_put(fixture.map, text("key"), km_bytes_of(value, size), NULL), KM_WOULD_BLOCK);
    km_read_end(reader);
    CHECK_STATUS(km_contains(fixture.map, text("key")), KM_NOT_FOUND);
    CHECK_STATUS(km_put(fixture.map, text("key"), km_bytes_of(value, size), NULL), KM_OK);
    free(value);
}

/* ---- durability -------------------------------------------------------------------------- */

static void durable_position_follows_changes(void **state)
{
    km_write write = KM_WRITE_INIT;
    km_options options = KM_OPTIONS_INIT;
    km_stats stats = {.struct_size = sizeof(stats)};

    (void)state;
    options.sync_interval_ms = 1000000; /* nobody syncs but we */
    reopen_fixture(&options);
    CHECK_STATUS(km_put(fixture.map, text("key"), text("one"), &write), KM_OK);
    CHECK(km_durable_position(fixture.store) <= write.position);
    CHECK_STATUS(km_wait_durable(fixture.store, write.position + (UINT64_C(1) << 40)),
                 KM_E_INVALID);
    CHECK_STATUS(km_wait_durable(fixture.store, write.position), KM_OK);
    CHECK(km_durable_position(fixture.store) > write.position);
    write.durability = KM_DURABLE_POWER;
    CHECK_STATUS(km_put(fixture.map, text("key"), text("two"), &write), KM_OK);
    CHECK(km_durable_position(fixture.store) > write.position);
    write.durability = KM_DURABLE_PROCESS;
    CHECK_STATUS(km_del(fixture.map, text("key"), &write), KM_OK);
    CHECK(km_durable_position(fixture.store) <= write.position);
    CHECK_STATUS(km_wait_durable(fixture.store, 0), KM_OK);
    CHECK(km_durable_position(fixture.store) > write.position);
    CHECK_STATUS(km_store_stats(fixture.store, &stats), KM_OK);
    CHECK(stats.durable > write.position && stats.sync_count >= 3 && stats.tail >= stats.flushed &&
          stats.flushed >= stats.durable && stats.failed == 0);
}

static void the_background_syncs_at_its_interval(void **state)
{
    km_write write = KM_WRITE_INIT;
    km_options options = KM_OPTIONS_INIT;
    struct pollfd poll_fd = {.events = POLLIN};
    uint64_t ticks = 0;
    int rounds = 0;

    (void)state;
    options.sync_interval_ms = 5;
    reopen_fixture(&options);
    CHECK_STATUS(km_durable_fd(fixture.store, &poll_fd.fd), KM_OK);
    CHECK_STATUS(km_put(fixture.map, text("key"), text("one"), &write), KM_OK);
    while (km_durable_position(fixture.store) <= write.position) {
        CHECK(poll(&poll_fd, 1, 10000) == 1 && ++rounds < 100);
        CHECK(read(poll_fd.fd, &ticks, 8) == 8 && ticks > 0);
    }
}

static void a_memory_store_has_the_same_functions(void **state)
{
    km_store *store = NULL;
    km_map *map;
    km_batch *batch = NULL;
    km_write write = KM_WRITE_INIT;
    km_stats stats = {.struct_size = sizeof(stats)};
    int fd = -1;

    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &store, NULL), KM_OK);
    map = harness_map(store, "map");
    write.durability = KM_DURABLE_POWER;
    CHECK_STATUS(km_put(map, text("key"), text("value"), &write), KM_OK);
    CHECK_STATUS(km_batch_create(store, &batch), KM_OK);
    CHECK_STATUS(km_batch_put(batch, map, text("other"), text("value")), KM_OK);
    CHECK_STATUS(km_batch_put(batch, fixture.map, text("other"), text("value")), KM_E_INVALID);
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK);
    km_batch_destroy(batch);
    check_value(map, "key", "value");
    check_value(map, "other", "value");
    CHECK_STATUS(km_wait_durable(store, 0), KM_OK);
    CHECK_STATUS(km_wait_durable(store, write.position), KM_OK);
    CHECK_STATUS(km_durable_fd(store, &fd), KM_E_UNSUPPORTED);
    CHECK_STATUS(km_store_stats(store, &stats), KM_OK);
    CHECK(stats.key_count == 2 && stats.disk_bytes == 0 && stats.mapped_bytes == 0 &&
          stats.memory_bytes > 0);
    harness_close(store);
}

static void statistics_fit_older_structs(void **state)
{
    km_stats stats;

    (void)state;
    memset(&stats, 0xab, sizeof(stats));
    stats.struct_size = offsetof(km_stats, key_count);
    CHECK_STATUS(km_store_stats(fixture.store, &stats), KM_OK);
    CHECK(stats.map_count == 1 && stats.key_count == UINT64_C(0xabababababababab));
    stats.struct_size = 0;
    CHECK_STATUS(km_store_stats(fixture.store, &stats), KM_E_INVALID);
}

/* ---- recovery ---------------------------------------------------------------------------- */

struct lines {
    int count;
    km_log_level level;
    char last[256];
};

static void note_line(void *context, km_log_level level, const char *message)
{
    struct lines *lines = context;

    lines->count++;
    lines->level = level;
    snprintf(lines->last, sizeof(lines->last), "%s", message);
}

static void put_and_die(const char *path)
{
    km_map *map = harness_map(harness_open(path, NULL), "map");

    for (uint64_t key = 0; key < 100; key++)
        CHECK_STATUS(km_put_u64(map, key, text("value"), NULL), KM_OK);
    kill(getpid(), SIGKILL);
}

/* Spoil the last record in the ring, as if its writer had been torn away from it. */
static void tear_last_record(const char *path)
{
    char ring[HARNESS_PATH_SIZE];
    static uint8_t bytes[300000];
    ssize_t size;
    int fd, at;

    harness_path(ring, path, "tail-18.ring");
    fd = open(ring, O_RDWR);
    CHECK(fd >= 0);
    size = read(fd, bytes, sizeof(bytes));
    CHECK(size > 270000);
    for (at = (int)size - 8; at > 0; at--) {
        if (memcmp(bytes + at, "\0\0\0\0\0\0\0\x62", 8) == 0) /* the last but one: key 98 */
            break;
    }
    CHECK(at > 0 && pwrite(fd, "x", 1, at) == 1);
    close(fd);
}

static void a_torn_tail_is_cut_and_reported(void **state)
{
    char path[HARNESS_PATH_SIZE];
    struct lines lines = {0, KM_LOG_INFO, ""};
    km_options options = KM_OPTIONS_INIT;
    km_stats stats = {.struct_size = sizeof(stats)};
    km_store *store;
    km_map *map;
    pid_t child;

    (void)state;
    harness_make_folder(path);
    child = fork();
    if (child == 0)
        put_and_die(path);
    waitpid(child, NULL, 0);
    tear_last_record(path);
    options.log = note_line;
    options.log_context = &lines;
    store = harness_open(path, &options);
    map = harness_map(store, "map");
    CHECK(km_count(map) == 98);
    CHECK_STATUS(km_store_stats(store, &stats), KM_OK);
    CHECK(stats.torn_bytes > 0 && stats.recovered_records >= 99);
    CHECK(lines.count == 1 && lines.level == KM_LOG_WARNING && strstr(lines.last, "cut"));
    harness_close(store);
    store = harness_open(path, &options);
    CHECK(lines.count == 1 && km_count(harness_map(store, "map")) == 98);
    harness_close(store);
    harness_remove(path);
}

static int stop_progress(void *context, uint64_t done, uint64_t total)
{
    int *calls = context;

    CHECK(done <= total);
    ++*calls;
    return 1;
}

static void progress_can_stop_an_open(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    km_store *store = NULL;
    km_error error;
    int calls = 0;

    (void)state;
    CHECK_STATUS(km_put(fixture.map, text("key"), text("value"), NULL), KM_OK);
    harness_close(fixture.store);
    options.progress = stop_progress;
    options.progress_context = &calls;
    CHECK_STATUS(km_open(fixture.path, &options, &store, &error), KM_STOPPED);
    CHECK(calls == 1 && !store && error.status == KM_STOPPED);
    fixture.store = harness_open(fixture.path, NULL);
    CHECK_STATUS(km_map_open(fixture.store, text("map"), &fixture.map), KM_OK);
    check_value(fixture.map, "key", "value");
}

/* ---- small things ------------------------------------------------------------------------ */

static void statuses_have_names(void **state)
{
    (void)state;
    assert_string_equal(km_status_name(KM_OK), "KM_OK");
    assert_string_equal(km_status_name(KM_E_LOCKED), "KM_E_LOCKED");
    assert_string_equal(km_status_name(KM_STOPPED), "KM_STOPPED");
    assert_string_equal(km_status_name((km_status)-99), "KM_UNKNOWN");
}

static void numbers_are_keys_in_byte_order(void **state)
{
    km_u64_key small = km_u64_key_from(255), large = km_u64_key_from(256);

    (void)state;
    CHECK(memcmp(small.bytes, large.bytes, 8) < 0);
    CHECK(km_u64_key_to(km_u64_key_from(UINT64_C(0x0123456789abcdef)).bytes) ==
          UINT64_C(0x0123456789abcdef));
    CHECK_STATUS(km_put_u64(fixture.map, 77, text("x"), NULL), KM_OK);
    CHECK_STATUS(km_get(fixture.map, km_bytes_of("\0\0\0\0\0\0\0M", 8), NULL), KM_OK);
}

static void cursors_meet_each_key_and_may_skip_outputs(void **state)
{
    static uint8_t met[20000];
    km_cursor *cursor = NULL;
    km_bytes key;
    km_status rc;
    uint64_t count = 0;

    (void)state;
    memset(met, 0, sizeof(met));
    CHECK_STATUS(km_cursor_open(fixture.map, NULL, &cursor), KM_OK);
    CHECK_STATUS(km_cursor_next(cursor, NULL, NULL), KM_END);
    km_cursor_close(cursor);
    for (uint64_t i = 0; i < sizeof(met); i++)
        CHECK_STATUS(km_put_u64(fixture.map, i, text("v"), NULL), KM_OK);
    CHECK_STATUS(km_cursor_open(fixture.map, NULL, &cursor), KM_OK);
    while ((rc = km_cursor_next(cursor, &key, NULL)) == KM_OK) {
        CHECK(met[km_u64_key_to(key.data)]++ == 0);
        if (km_u64_key_to(key.data) % 2) /* deleting what was met disturbs nothing */
            CHECK_STATUS(km_del(fixture.map, key, NULL), KM_OK);
        count++;
    }
    CHECK_STATUS(rc, KM_END);
    CHECK(count == sizeof(met) && km_count(fixture.map) == sizeof(met) / 2);
    km_cursor_close(cursor);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_mode_creates_or_refuses),
        cmocka_unit_test_setup_teardown(files_are_private, open_fixture, close_fixture),
        cmocka_unit_test(other_folders_and_files_are_no_store),
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(close_accepts_nothing),
        cmocka_unit_test_setup_teardown(a_second_open_is_refused_and_told_the_pid, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(a_second_process_is_refused_and_told_the_pid, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(several_readers_share_a_store_without_a_writer,
                                        open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(read_only_changes_nothing, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(read_only_needs_no_write_permission, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(map_names_are_checked, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(a_map_has_the_kind_it_was_created_with, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(a_dropped_map_answers_so, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(maps_are_listed_as_they_were_made, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(sizes_are_limited, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(empty_keys_and_values_are_as_others, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(a_change_tells_what_was_before_and_where_it_is,
                                        open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(large_values_come_back_and_tell_what_was_before,
                                        open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(clear_takes_every_key, open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(sections_belong_to_their_store, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(a_change_inside_a_section_never_waits, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(a_large_change_inside_a_section_would_block, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(durable_position_follows_changes, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(the_background_syncs_at_its_interval, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(a_memory_store_has_the_same_functions, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(statistics_fit_older_structs, open_fixture, close_fixture),
        cmocka_unit_test(a_torn_tail_is_cut_and_reported),
        cmocka_unit_test_setup_teardown(progress_can_stop_an_open, open_fixture, close_fixture),
        cmocka_unit_test(statuses_have_names),
        cmocka_unit_test_setup_teardown(numbers_are_keys_in_byte_order, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(cursors_meet_each_key_and_may_skip_outputs, open_fixture,
                                        close_fixture),
    };

    harness_begin();
    if (argc == 3 && strcmp(argv[1], "--open") == 0)
        return run_as_other_process(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
