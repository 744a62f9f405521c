/* SPDX-License-Identifier: Apache-2.0
 *
 * test_damage.c -- damaged, cut, emptied, missing, foreign, stale and planted files.
 *
 * D1. Whatever is done to one file of a closed store: opening gives an error that names a file, or
 *     what can be read is right. Never a wrong value, never a key that is silently missing.
 * D2. Damage that comes while a store is open shows as KM_E_CORRUPT when the record is read.
 * D3. Links, pipes and folders in the place of files give an error; nothing is followed.
 * D4. km_verify reports the damage; km_salvage saves every record that was not touched.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/harness_image.h"
#include "harness/harness_util.h"

#define KEY_COUNT 420u
#define BATCH_KEYS 5u
#define HANG_SECONDS 60u

/* What the closed store holds: the version of each key, 0 if it is not there. */
struct content {
    uint64_t versions[KEY_COUNT];
    uint64_t count;
};

static struct fixture {
    char path[HARNESS_PATH_SIZE], aside[HARNESS_PATH_SIZE];
    struct image image, older, foreign;
    struct content content;
    uint64_t errors, rights; /* outcomes seen */
} fixture;

/* ---- a store to be damaged --------------------------------------------------------------- */

static uint32_t size_of(uint64_t key, uint64_t version)
{
    return HARNESS_VALUE_MIN + (uint32_t)((key * 7919 + version * 104729) % 3000);
}

static void add_key(km_batch *batch, km_map *map, struct content *content, uint64_t key,
                    uint64_t version)
{
    km_u64_key name = km_u64_key_from(key);
    uint8_t value[HARNESS_VALUE_MIN + 3000];
    uint32_t size = size_of(key, version);

    harness_value_fill(value, size, key, version);
    if (batch)
        CHECK_STATUS(km_batch_put(batch, map, km_bytes_of(name.bytes, 8), km_bytes_of(value, size)),
                     KM_OK);
    else
        CHECK_STATUS(km_put_u64(map, key, km_bytes_of(value, size), NULL), KM_OK);
    content->versions[key] = version;
}

static void add_batch(km_store *store, km_map *map, struct content *content, uint64_t key,
                      uint64_t version)
{
    km_batch *batch = NULL;

    CHECK_STATUS(km_batch_create(store, &batch), KM_OK);
    for (uint64_t i = 0; i < BATCH_KEYS; i++)
        add_key(batch, map, content, (key + i) % KEY_COUNT, version);
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK);
    km_batch_destroy(batch);
}

/* One session: overwrites, deletes, batches, and maps that come and go. */
static void write_session(const char *path, struct content *content, uint64_t session)
{
    struct harness_random random = harness_stream(1000 + session);
    km_store *store = harness_open(path, NULL);
    km_map *map = harness_map(store, "data"), *gone = harness_map(store, "gone");
    struct content ignored;

    for (uint64_t i = 0; i < 260; i++) {
        uint64_t key = harness_below(&random, KEY_COUNT), version = session * 1000 + i + 1;

        if (i % 10 == 0) {
            add_batch(store, map, content, key, version);
        } else if (i % 7 == 0 && content->versions[key]) {
            CHECK_STATUS(km_del_u64(map, key, NULL), KM_OK);
            content->versions[key] = 0;
        } else {
            add_key(NULL, map, content, key, version);
        }
        if (i % 20 == 0)
            add_key(NULL, gone, &ignored, key, version);
    }
    if (session == 0)
        CHECK_STATUS(km_map_clear(gone), KM_OK);
    else
        CHECK_STATUS(km_map_drop(gone), KM_OK);
    harness_close(store);
}

static int make_fixture(void **state)
{
    char foreign[HARNESS_PATH_SIZE];
    struct content ignored = {{0}, 0};

    (void)state;
    harness_make_fast_folder(fixture.path);
    harness_make_fast_folder(fixture.aside);
    harness_make_fast_folder(foreign);
    write_session(foreign, &ignored, 0);
    write_session(foreign, &ignored, 2);
    image_load(&fixture.foreign, foreign);
    harness_remove(foreign);
    write_session(fixture.path, &fixture.content, 0);
    image_load(&fixture.older, fixture.path);
    write_session(fixture.path, &fixture.content, 1);
    image_load(&fixture.image, fixture.path);
    for (uint64_t i = 0; i < KEY_COUNT; i++)
        fixture.content.count += fixture.content.versions[i] != 0;
    alarm(HANG_SECONDS * 5); /* a pipe that is opened may never answer */
    return 0;
}

static int free_fixture(void **state)
{
    (void)state;
    image_free(&fixture.image);
    image_free(&fixture.older);
    image_free(&fixture.foreign);
    return 0;
}

/* ---- judging a store --------------------------------------------------------------------- */

static void check_keys(km_map *map, const char *what)
{
    km_buffer buffer = KM_BUFFER_INIT;

    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        uint64_t version = fixture.content.versions[key];
        km_status rc = km_get_u64(map, key, &buffer);

        CHECK_MSG(rc == (version ? KM_OK : KM_NOT_FOUND), "%s: key %llu is %s", what,
                  (unsigned long long)key, km_status_name(rc));
        if (!version)
            continue;
        CHECK_MSG(harness_value_version(km_bytes_of(buffer.data, buffer.size), key) == version,
                  "%s: an older value of key %llu", what, (unsigned long long)key);
    }
    km_buffer_free(&buffer);
    CHECK_MSG(km_count(map) == fixture.content.count, "%s: a wrong count", what);
}

static void check_walk(km_map *map, const char *what)
{
    km_cursor *cursor = NULL;
    km_bytes key, value;
    uint64_t count = 0;

    CHECK_STATUS(km_cursor_open(map, NULL, &cursor), KM_OK);
    while (km_cursor_next(cursor, &key, &value) == KM_OK) {
        CHECK(key.size == 8 && km_u64_key_to(key.data) < KEY_COUNT);
        CHECK(harness_value_version(value, km_u64_key_to(key.data)) ==
              fixture.content.versions[km_u64_key_to(key.data)]);
        count++;
    }
    km_cursor_close(cursor);
    CHECK_MSG(count == fixture.content.count, "%s: a walk met %llu of %llu keys", what,
              (unsigned long long)count, (unsigned long long)fixture.content.count);
}

static int is_error_of_damage(km_status rc)
{
    return rc == KM_E_CORRUPT || rc == KM_E_VERSION || rc == KM_E_IO || rc == KM_E_NOT_A_STORE ||
           rc == KM_E_LOCKED;
}

/* D1. `name`: the file that the error has to name, or NULL. Returns the status of km_open(). */
static km_status judge(const char *path, km_open_mode mode, const char *name, const char *what)
{
    km_options options = KM_OPTIONS_INIT;
    km_error error = {KM_OK, 0, 0, "", ""};
    km_store *store = NULL;
    km_map *map = NULL;
    km_status rc;

    options.mode = mode;
    rc = km_open(path, &options, &store, &error);
    if (rc) {
        CHECK_MSG(is_error_of_damage(rc) && error.status == rc && error.message[0],
                  "%s: %s, error %s: %s", what, km_status_name(rc), km_status_name(error.status),
                  error.message);
        CHECK_MSG(!name || strcmp(error.file, name) == 0, "%s: the error names %s, not %s: %s",
                  what, error.file, name, error.message);
        fixture.errors++;
        return rc;
    }
    CHECK_STATUS(km_map_open(store, km_bytes_of_string("gone"), &map), KM_NOT_FOUND);
    CHECK_STATUS(km_map_open(store, km_bytes_of_string("data"), &map), KM_OK);
    check_keys(map, what);
    check_walk(map, what);
    if (mode != KM_OPEN_READ_ONLY) {
        CHECK_STATUS(km_put_u64(map, KEY_COUNT + 1, km_bytes_of_string("x"), NULL), KM_OK);
        CHECK_STATUS(km_del_u64(map, KEY_COUNT + 1, NULL), KM_OK);
    }
    harness_close(store);
    fixture.rights++;
    return KM_OK;
}

static const char *base_name(const char *name)
{
    const char *slash = strrchr(name, '/');

    return slash ? slash + 1 : name;
}

static const struct image_file *random_file(struct harness_random *random)
{
    return &fixture.image.files[harness_below(random, fixture.image.count)];
}

/* Half of the places lie where a header may be. */
static uint64_t random_place(struct harness_random *random, const struct image_file *file)
{
    uint64_t size = harness_below(random, 2) && file->size > 160 ? 160 : file->size;

    return harness_below(random, size);
}

static void report(const char *what)
{
    printf("%s: %llu errors, %llu times right data\n", what, (unsigned long long)fixture.errors,
           (unsigned long long)fixture.rights);
    fixture.errors = fixture.rights = 0;
}

/* ---- D1: one bit ------------------------------------------------------------------------- */

static void a_flipped_bit_gives_an_error_or_right_data(void **state)
{
    struct harness_random random = harness_stream(1);
    uint64_t rounds = harness_scaled(2000);
    char what[160];

    (void)state;
    image_restore(&fixture.image, fixture.path);
    for (uint64_t i = 0; i < rounds; i++) {
        const struct image_file *file = random_file(&random);
        uint64_t place = random_place(&random, file);
        unsigned bit = (unsigned)harness_below(&random, 8);

        snprintf(what, sizeof(what), "bit %u of byte %llu of %s", bit, (unsigned long long)place,
                 file->name);
        image_flip(fixture.path, file->name, place, bit);
        judge(fixture.path, KM_OPEN_READ_ONLY, base_name(file->name), what);
        if (i % 16) {
            image_flip(fixture.path, file->name, place, bit);
            continue;
        }
        if (judge(fixture.path, KM_OPEN_EXISTING, base_name(file->name), what) == KM_OK)
            judge(fixture.path, KM_OPEN_READ_ONLY, NULL, what);
        image_restore(&fixture.image, fixture.path);
    }
    CHECK(fixture.errors && fixture.rights);
    report("bits");
}

/* ---- D1: whole files --------------------------------------------------------------------- */

enum damage {
    DAMAGE_EMPTY,
    DAMAGE_HALF,
    DAMAGE_ONE_LESS,
    DAMAGE_PAGE_MORE,
    DAMAGE_ZEROS,
    DAMAGE_FIRST_PAGE_ZEROS,
    DAMAGE_MISSING,
    DAMAGE_FOREIGN,
    DAMAGE_STALE,
    DAMAGE_SWAPPED, /* the bytes of the next file */
    DAMAGE_LINK,    /* from here on D3 */
    DAMAGE_PIPE,
    DAMAGE_FOLDER,
    DAMAGE_COUNT
};

static const char *const damage_names[DAMAGE_COUNT] = {
    "emptied",          "cut in half", "one byte short",   "a page too long", "zeroed",
    "begun with zeros", "missing",     "of another store", "stale",           "swapped",
    "a link",           "a pipe",      "a folder"};

static void replace_with_link(const struct image_file *file)
{
    char path[HARNESS_PATH_SIZE], target[HARNESS_PATH_SIZE];

    harness_path(path, fixture.path, file->name);
    harness_path(target, fixture.aside, "target");
    image_write(fixture.aside, "target", file->bytes, file->size);
    CHECK(unlink(path) == 0 && symlink(target, path) == 0);
}

static void check_target(const struct image_file *file, const char *what)
{
    struct image image;
    const struct image_file *target;
    char path[HARNESS_PATH_SIZE];

    harness_path(path, fixture.aside, "log"); /* so that the folder can be loaded as a store's */
    mkdir(path, 0700);
    image_load(&image, fixture.aside);
    target = image_find(&image, "target");
    CHECK_MSG(target && target->size == file->size &&
                  memcmp(target->bytes, file->bytes, file->size) == 0,
              "%s: the link was followed", what);
    image_free(&image);
}

static void replace_file(const struct image_file *file, enum damage damage)
{
    char path[HARNESS_PATH_SIZE];

    harness_path(path, fixture.path, file->name);
    if (damage == DAMAGE_LINK) {
        replace_with_link(file);
        return;
    }
    CHECK(unlink(path) == 0);
    if (damage == DAMAGE_PIPE)
        CHECK(mkfifo(path, 0600) == 0);
    else if (damage == DAMAGE_FOLDER)
        CHECK(mkdir(path, 0700) == 0);
}

static void write_other(const struct image_file *file, const struct image_file *other)
{
    if (other)
        image_write(fixture.path, file->name, other->bytes, other->size);
}

static void write_damaged(const struct image_file *file, size_t size, size_t zeros_end)
{
    uint8_t *bytes = calloc(1, file->size + 4096);

    CHECK(bytes);
    memcpy(bytes, file->bytes, file->size);
    memset(bytes, 0, zeros_end);
    image_write(fixture.path, file->name, bytes, size);
    free(bytes);
}

static void do_damage(const struct image_file *file, enum damage damage)
{
    size_t index = (size_t)(file - fixture.image.files);

    switch (damage) {
    case DAMAGE_EMPTY: write_damaged(file, 0, 0); break;
    case DAMAGE_HALF: write_damaged(file, file->size / 2, 0); break;
    case DAMAGE_ONE_LESS: write_damaged(file, file->size - 1, 0); break;
    case DAMAGE_PAGE_MORE: write_damaged(file, file->size + 4096, 0); break;
    case DAMAGE_ZEROS: write_damaged(file, file->size, file->size); break;
    case DAMAGE_FIRST_PAGE_ZEROS:
        write_damaged(file, file->size, file->size < 4096 ? file->size : 4096);
        break;
    case DAMAGE_FOREIGN: write_other(file, image_find(&fixture.foreign, file->name)); break;
    case DAMAGE_STALE: write_other(file, image_find(&fixture.older, file->name)); break;
    case DAMAGE_SWAPPED:
        write_other(file, &fixture.image.files[(index + 1) % fixture.image.count]);
        break;
    default: replace_file(file, damage); break;
    }
}

static void damage_and_judge(const struct image_file *file, enum damage damage, km_open_mode mode)
{
    char what[160];
    km_status rc;

    snprintf(what, sizeof(what), "%s is %s, mode %d", file->name, damage_names[damage], (int)mode);
    image_restore(&fixture.image, fixture.path);
    do_damage(file, damage);
    rc = judge(fixture.path, mode, NULL, what);
    if (damage == DAMAGE_LINK)
        check_target(file, what);
    if (rc == KM_OK && mode != KM_OPEN_READ_ONLY)
        judge(fixture.path, KM_OPEN_EXISTING, NULL, what);
}

static void damaged_files_give_an_error_or_right_data(void **state)
{
    (void)state;
    for (int damage = 0; damage < DAMAGE_COUNT; damage++) {
        for (size_t i = 0; i < fixture.image.count; i++) {
            damage_and_judge(&fixture.image.files[i], (enum damage)damage, KM_OPEN_READ_ONLY);
            damage_and_judge(&fixture.image.files[i], (enum damage)damage, KM_OPEN_EXISTING);
            damage_and_judge(&fixture.image.files[i], (enum damage)damage, KM_OPEN_OR_CREATE);
        }
    }
    CHECK(fixture.errors && fixture.rights);
    report("files");
}

static void a_missing_log_folder_is_an_error(void **state)
{
    char path[HARNESS_PATH_SIZE], moved[HARNESS_PATH_SIZE];

    (void)state;
    image_restore(&fixture.image, fixture.path);
    harness_path(path, fixture.path, "log");
    harness_path(moved, fixture.aside, "moved-log");
    assert_int_equal(rename(path, moved), 0);
    CHECK_STATUS(judge(fixture.path, KM_OPEN_EXISTING, "log", "no log folder"), KM_E_CORRUPT);
    CHECK_STATUS(judge(fixture.path, KM_OPEN_OR_CREATE, "log", "no log folder"), KM_E_CORRUPT);
    assert_int_equal(symlink(moved, path), 0);
    assert_true(judge(fixture.path, KM_OPEN_EXISTING, "log", "a link to the log folder") < 0);
    harness_remove(moved);
}

static void a_store_is_never_made_over_what_is_left_of_one(void **state)
{
    char path[HARNESS_PATH_SIZE];
    km_store *store = NULL;
    km_options options = KM_OPTIONS_INIT;

    (void)state;
    image_restore(&fixture.image, fixture.path);
    harness_path(path, fixture.path, "IDENTITY");
    unlink(path);
    CHECK_STATUS(judge(fixture.path, KM_OPEN_OR_CREATE, "IDENTITY", "no identity"), KM_E_CORRUPT);
    options.mode = KM_CREATE_NEW;
    assert_true(km_open(fixture.path, &options, &store, NULL) != KM_OK);
    harness_path(path, fixture.path, "MARKS");
    unlink(path);
    CHECK_STATUS(judge(fixture.path, KM_OPEN_OR_CREATE, "IDENTITY", "no identity, no marks"),
                 KM_E_CORRUPT);
}

/* D3: names under which the library makes its files before it renames them. */
static void planted_links_are_not_followed(void **state)
{
    static const char *const names[] = {"new.file", "new.ring", "log/new.segment",
                                        "log/special.segment"};
    static uint8_t large[400000];
    const struct image_file victim = {"target", (uint8_t *)"precious", 8};
    char path[HARNESS_PATH_SIZE], target[HARNESS_PATH_SIZE];
    km_store *store;
    km_map *map;

    (void)state;
    harness_path(target, fixture.aside, "target");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        image_restore(&fixture.image, fixture.path);
        image_write(fixture.aside, "target", "precious", 8);
        harness_path(path, fixture.path, names[i]);
        assert_int_equal(symlink(target, path), 0);
        store = harness_open(fixture.path, NULL);
        map = harness_map(store, "data");
        for (uint64_t key = 0; key < 10; key++)
            CHECK_STATUS(km_put_u64(map, 1000 + key,
                                    km_bytes_of(large, key % 2 ? sizeof(large) : 60000), NULL),
                         KM_OK);
        harness_close(store);
        check_target(&victim, names[i]);
    }
}

/* ---- D2: damage in an open store --------------------------------------------------------- */

/* Where in which segment a value lies. */
static const struct image_file *find_value(uint64_t key, uint64_t *out_offset)
{
    uint8_t value[HARNESS_VALUE_MIN + 3000];
    uint32_t size = size_of(key, fixture.content.versions[key]);

    harness_value_fill(value, size, key, fixture.content.versions[key]);
    for (size_t i = 0; i < fixture.image.count; i++) {
        const struct image_file *file = &fixture.image.files[i];
        uint8_t *at = strncmp(file->name, "log/", 4) ? NULL
                                                     : memmem(file->bytes, file->size, value, size);

        if (!at)
            continue;
        *out_offset = (uint64_t)(at - file->bytes);
        return file;
    }
    return NULL;
}

static void check_corrupt(km_store *store, km_map *map, uint64_t key)
{
    km_u64_key names[2] = {km_u64_key_from(key), km_u64_key_from(KEY_COUNT + 7)};
    km_bytes keys[2] = {{names[0].bytes, 8}, {names[1].bytes, 8}}, values[2];
    km_buffer buffer = KM_BUFFER_INIT;
    km_cursor *cursor = NULL;
    km_reader *reader = NULL;
    km_status rc;

    CHECK_STATUS(km_get(map, keys[0], &buffer), KM_E_CORRUPT);
    CHECK_STATUS(km_contains(map, keys[0]), KM_E_CORRUPT);
    CHECK_STATUS(km_put(map, keys[0], keys[0], NULL), KM_E_CORRUPT);
    CHECK_STATUS(km_del(map, keys[0], NULL), KM_E_CORRUPT);
    CHECK_STATUS(km_read_begin(store, &reader), KM_OK);
    CHECK_STATUS(km_get_ref(reader, map, keys[0], values), KM_E_CORRUPT);
    CHECK_STATUS(km_get_many(reader, map, keys, 2, values, NULL), KM_E_CORRUPT);
    km_read_end(reader);
    CHECK_STATUS(km_cursor_open(map, NULL, &cursor), KM_OK);
    do {
        rc = km_cursor_next(cursor, NULL, NULL);
    } while (rc == KM_OK);
    CHECK_STATUS(rc, KM_E_CORRUPT);
    km_cursor_close(cursor);
    CHECK_STATUS(km_contains(map, keys[1]), KM_NOT_FOUND);
    km_buffer_free(&buffer);
}

static void damage_in_an_open_store_is_seen_when_it_is_read(void **state)
{
    struct harness_random random = harness_stream(2);
    km_options options = KM_OPTIONS_INIT;
    uint64_t tried = 0, offset = 0;
    km_store *store;
    km_map *map = NULL;

    (void)state;
    image_restore(&fixture.image, fixture.path);
    options.mode = KM_OPEN_READ_ONLY; /* so that all segments are mapped */
    store = harness_open(fixture.path, &options);
    CHECK_STATUS(km_map_open(store, km_bytes_of_string("data"), &map), KM_OK);
    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        const struct image_file *file = fixture.content.versions[key] ? find_value(key, &offset)
                                                                      : NULL;
        uint64_t place = offset - 16 + harness_below(&random, 16 + 8 + HARNESS_VALUE_MIN);
        unsigned bit = (unsigned)harness_below(&random, 8);

        if (!fixture.content.versions[key])
            continue;
        CHECK_MSG(file, "the value of key %llu is in no segment", (unsigned long long)key);
        image_flip(fixture.path, file->name, place, bit);
        CHECK_MSG(km_get_u64(map, key, NULL) == KM_E_CORRUPT,
                  "bit %u of byte %llu of %s, value of key %llu at %llu", bit,
                  (unsigned long long)place, file->name, (unsigned long long)key,
                  (unsigned long long)offset);
        image_flip(fixture.path, file->name, place, bit);
        CHECK_STATUS(km_get_u64(map, key, NULL), KM_OK);
        tried++;
    }
    assert_int_equal(tried, fixture.content.count);
    harness_close(store);
}

static void damage_in_a_sealed_segment_stops_changes_of_its_keys_only(void **state)
{
    km_store *store;
    km_map *map;
    uint64_t offset = 0, key = 0;
    const struct image_file *file = NULL;

    (void)state;
    image_restore(&fixture.image, fixture.path);
    while (key < KEY_COUNT && (!file || strcmp(file->name, "log/00000001.segment")))
        file = fixture.content.versions[++key] ? find_value(key, &offset) : NULL;
    assert_non_null(file);
    store = harness_open(fixture.path, NULL);
    map = harness_map(store, "data");
    image_flip(fixture.path, file->name, offset + 30, 3);
    check_corrupt(store, map, key);
    CHECK_STATUS(km_put_u64(map, KEY_COUNT + 1, km_bytes_of_string("x"), NULL), KM_OK);
    image_flip(fixture.path, file->name, offset + 30, 3);
    CHECK_STATUS(km_get_u64(map, key, NULL), KM_OK);
    harness_close(store);
}

/* ---- the ring of a crashed store --------------------------------------------------------- */

#define RING_KEYS 300u

static void write_and_die(const char *path)
{
    km_options options = KM_OPTIONS_INIT;
    uint8_t value[100];
    km_map *map;

    options.sync_interval_ms = 1000000;
    map = harness_map(harness_open(path, &options), "data");
    for (uint64_t key = 0; key < RING_KEYS; key++) {
        harness_value_fill(value, sizeof(value), key, 1);
        CHECK_STATUS(km_put_u64(map, key, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
    }
    kill(getpid(), SIGKILL);
}

/* How many of the keys are there, which must be the first ones. */
static uint64_t count_prefix(km_map *map)
{
    km_buffer buffer = KM_BUFFER_INIT;
    uint64_t count = 0;

    while (count < RING_KEYS && km_get_u64(map, count, &buffer) == KM_OK) {
        harness_value_version(km_bytes_of(buffer.data, buffer.size), count);
        count++;
    }
    CHECK(km_count(map) == count);
    km_buffer_free(&buffer);
    return count;
}

static void judge_ring(const char *path, const char *what, int is_damaged)
{
    km_options options = KM_OPTIONS_INIT;
    km_error error = {KM_OK, 0, 0, "", ""};
    km_stats stats = {.struct_size = sizeof(stats)};
    km_store *store = NULL;
    km_map *map = NULL;
    uint64_t count = 0;
    km_status rc;

    options.mode = KM_OPEN_READ_ONLY;
    rc = km_open(path, &options, &store, &error);
    if (rc) {
        CHECK(is_damaged && is_error_of_damage(rc) && error.file[0]);
        fixture.errors++;
        return;
    }
    if (km_map_open(store, km_bytes_of_string("data"), &map) == KM_OK)
        count = count_prefix(map);
    CHECK(is_damaged || count == RING_KEYS);
    CHECK_STATUS(km_store_stats(store, &stats), KM_OK);
    CHECK_MSG(count == RING_KEYS || stats.torn_bytes,
              "%s: %llu of %u keys, and nothing was reported", what, (unsigned long long)count,
              RING_KEYS);
    fixture.rights += count == RING_KEYS;
    harness_close(store);
}

static void a_damaged_ring_gives_an_error_or_a_reported_prefix(void **state)
{
    struct harness_random random = harness_stream(3);
    uint64_t rounds = harness_scaled(400);
    struct image image;
    char what[160];
    pid_t child;

    (void)state;
    harness_remove(fixture.path);
    child = fork();
    if (child == 0)
        write_and_die(fixture.path);
    waitpid(child, NULL, 0);
    image_load(&image, fixture.path);
    judge_ring(fixture.path, "no damage", 0);
    for (uint64_t i = 0; i < rounds; i++) {
        const struct image_file *file = &image.files[harness_below(&random, image.count)];
        uint64_t size = harness_below(&random, 2) && file->size > 50000 ? 50000 : file->size;
        uint64_t place = harness_below(&random, size);

        snprintf(what, sizeof(what), "bit 5 of byte %llu of %s", (unsigned long long)place,
                 file->name);
        image_flip(fixture.path, file->name, place, 5);
        judge_ring(fixture.path, what, 1);
        image_flip(fixture.path, file->name, place, 5);
    }
    image_free(&image);
    report("a crashed store");
}

/* ---- D4 ---------------------------------------------------------------------------------- */

struct findings {
    uint64_t count;
    char file[128];
};

static void note_finding(void *context, const km_error *finding)
{
    struct findings *findings = context;

    CHECK(finding->message[0] && !strchr(finding->message, '\n'));
    snprintf(findings->file, sizeof(findings->file), "%s", finding->file);
    findings->count++;
}

static void verify_damage(const char *name, const char *what)
{
    struct findings findings = {0, ""};
    km_check_result result = {0, 0, 0, 0, 0};
    km_error error = {KM_OK, 0, 0, "", ""};

    km_status rc = km_verify(fixture.path, note_finding, &findings, &result, &error);

    if (rc == KM_OK) { /* the tail ring still has what is damaged in the file */
        CHECK_STATUS(judge(fixture.path, KM_OPEN_READ_ONLY, NULL, what), KM_OK);
        return;
    }
    CHECK_MSG(rc == KM_E_CORRUPT, "%s: km_verify: %s: %s", what, km_status_name(rc), error.message);
    CHECK_MSG(findings.count == result.finding_count && findings.count > 0,
              "%s: %llu findings, %llu told", what, (unsigned long long)result.finding_count,
              (unsigned long long)findings.count);
    CHECK_MSG(strcmp(findings.file, name) == 0, "%s: the finding is in %s", what, findings.file);
    CHECK(result.record_count > 0);
}

/* How many keys are not as they were: those are missing, have an older value, or are back. */
static uint64_t count_changed(const char *path)
{
    km_options options = KM_OPTIONS_INIT;
    km_buffer buffer = KM_BUFFER_INIT;
    uint64_t changed = 0;
    km_map *map = NULL;
    km_store *store;

    options.mode = KM_OPEN_READ_ONLY;
    store = harness_open(path, &options);
    if (km_map_open(store, km_bytes_of_string("data"), &map)) {
        harness_close(store);
        return KEY_COUNT;
    }
    for (uint64_t key = 0; key < KEY_COUNT; key++) {
        uint64_t version = fixture.content.versions[key], there = 0;

        if (km_get_u64(map, key, &buffer) == KM_OK)
            there = harness_value_version(km_bytes_of(buffer.data, buffer.size), key);
        CHECK(there <= version || version == 0);
        changed += there != version;
    }
    km_buffer_free(&buffer);
    harness_close(store);
    return changed;
}

/* `units`: how many changes were damaged; each is one key, or a batch's. */
static void salvage_damage(uint64_t units, const char *what)
{
    char path[HARNESS_PATH_SIZE];
    struct findings findings = {0, ""};
    km_check_result result = {0, 0, 0, 0, 0};
    km_error error = {KM_OK, 0, 0, "", ""};
    km_status rc;
    uint64_t changed;

    harness_path(path, fixture.aside, "salvaged");
    harness_remove(path);
    rc = km_salvage(fixture.path, path, note_finding, &findings, &result, &error);
    CHECK_MSG(rc == KM_OK, "%s: km_salvage: %s in %s: %s", what, km_status_name(rc), error.file,
              error.message);
    changed = count_changed(path);
    CHECK_MSG(findings.count == result.finding_count && (changed == 0 || findings.count),
              "%s: salvage told %llu of %llu findings, %llu keys changed", what,
              (unsigned long long)findings.count, (unsigned long long)result.finding_count,
              (unsigned long long)changed);
    CHECK_MSG(changed <= units * BATCH_KEYS, "%s: %llu keys changed", what,
              (unsigned long long)changed);
    fixture.rights += changed == 0;
    fixture.errors += changed;
    CHECK_MSG(km_salvage(fixture.path, path, NULL, NULL, &result, &error) != KM_OK,
              "salvage over a store");
    harness_remove(path);
}

static void an_undamaged_store_verifies_and_salvages_whole(void **state)
{
    struct findings findings = {0, ""};
    km_check_result result = {0, 0, 0, 0, 0};

    (void)state;
    image_restore(&fixture.image, fixture.path);
    CHECK_STATUS(km_verify(fixture.path, note_finding, &findings, &result, NULL), KM_OK);
    assert_true(findings.count == 0 && result.finding_count == 0 && result.torn_bytes == 0);
    assert_true(result.segment_count >= 3 && result.record_count > 500);
    salvage_damage(0, "no damage");
    CHECK_STATUS(judge(fixture.path, KM_OPEN_EXISTING, NULL, "after salvage"), KM_OK);
}

/* A place inside a record: near a value that is there. */
static const struct image_file *random_record(struct harness_random *random, uint64_t *out_place)
{
    const struct image_file *file = NULL;

    while (!file) {
        uint64_t key = harness_below(random, KEY_COUNT);

        if (fixture.content.versions[key])
            file = find_value(key, out_place);
    }
    *out_place = *out_place - 16 + harness_below(random, 16 + HARNESS_VALUE_MIN);
    return file;
}

static void verify_reports_and_salvage_saves_the_rest(void **state)
{
    struct harness_random random = harness_stream(4);
    uint64_t rounds = harness_scaled(150);
    char what[160];

    (void)state;
    for (uint64_t i = 0; i < rounds; i++) {
        uint64_t damages = i % 5 == 0 ? 1 + harness_below(&random, 6) : 1, place = 0;
        const struct image_file *file = &fixture.image.files[0];

        image_restore(&fixture.image, fixture.path);
        for (uint64_t j = 0; j < damages; j++) {
            file = random_record(&random, &place);
            image_flip(fixture.path, file->name, place, (unsigned)harness_below(&random, 8));
        }
        snprintf(what, sizeof(what), "%llu damages, the last at %llu of %s",
                 (unsigned long long)damages, (unsigned long long)place, file->name);
        if (damages == 1)
            verify_damage(base_name(file->name), what);
        salvage_damage(damages, what);
    }
    report("salvage");
}

static void salvage_works_without_any_one_file(void **state)
{
    static const char *const names[] = {"IDENTITY", "MARKS", "LOCK"};
    char path[HARNESS_PATH_SIZE], copy[HARNESS_PATH_SIZE];
    km_check_result result = {0, 0, 0, 0, 0};
    km_error error = {KM_OK, 0, 0, "", ""};

    (void)state;
    harness_path(copy, fixture.aside, "salvaged");
    for (size_t i = 0; i < 3; i++) {
        km_status rc;

        image_restore(&fixture.image, fixture.path);
        harness_path(path, fixture.path, names[i]);
        unlink(path);
        harness_remove(copy);
        rc = km_salvage(fixture.path, copy, NULL, NULL, &result, &error);
        CHECK_MSG(rc == KM_OK, "without %s: %s: %s", names[i], km_status_name(rc), error.message);
        CHECK_MSG(count_changed(copy) == 0, "without %s keys are lost", names[i]);
    }
    harness_remove(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flipped_bit_gives_an_error_or_right_data),
        cmocka_unit_test(damaged_files_give_an_error_or_right_data),
        cmocka_unit_test(a_missing_log_folder_is_an_error),
        cmocka_unit_test(a_store_is_never_made_over_what_is_left_of_one),
        cmocka_unit_test(planted_links_are_not_followed),
        cmocka_unit_test(damage_in_an_open_store_is_seen_when_it_is_read),
        cmocka_unit_test(damage_in_a_sealed_segment_stops_changes_of_its_keys_only),
        cmocka_unit_test(a_damaged_ring_gives_an_error_or_a_reported_prefix),
        cmocka_unit_test(an_undamaged_store_verifies_and_salvages_whole),
        cmocka_unit_test(verify_reports_and_salvage_saves_the_rest),
        cmocka_unit_test(salvage_works_without_any_one_file),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, make_fixture, free_fixture);
}
