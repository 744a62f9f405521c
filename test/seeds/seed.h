/* SPDX-License-Identifier: Apache-2.0
 *
 * seed.h -- what the programs of this folder share. Each is named after one of the five systems
 * whose abilities Keepmap unites, and each case after one of its abilities, shown through the
 * public header: a store with one map, and walks written as text.
 */
#ifndef KM_TEST_SEEDS_SEED_H
#define KM_TEST_SEEDS_SEED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/harness_util.h"

#define SEED_WALK_SIZE 1024u

static struct {
    char path[HARNESS_PATH_SIZE];
    km_store *store;
    km_map *map;
} seed;

static inline km_bytes text(const char *string)
{
    return km_bytes_of_string(string);
}

/* ---- the store ----------------------------------------------------------------------------- */

static inline void seed_open(const km_options *options)
{
    seed.store = harness_open(seed.path, options);
    CHECK_STATUS(km_map_open(seed.store, text("seed"), &seed.map), KM_OK);
}

static inline void seed_reopen(const km_options *options)
{
    harness_close(seed.store);
    seed_open(options);
}

static inline int seed_begin(km_map_kind kind)
{
    harness_make_folder(seed.path);
    seed.store = harness_open(seed.path, NULL);
    CHECK_STATUS(km_map_create(seed.store, text("seed"), kind, &seed.map), KM_OK);
    return 0;
}

static inline int seed_begin_hash(void **state)
{
    (void)state;
    return seed_begin(KM_HASH);
}

static inline int seed_begin_insertion(void **state)
{
    (void)state;
    return seed_begin(KM_INSERTION);
}

static inline int seed_begin_sorted(void **state)
{
    (void)state;
    return seed_begin(KM_SORTED);
}

static inline int seed_end(void **state)
{
    (void)state;
    harness_close(seed.store);
    harness_remove(seed.path);
    return 0;
}

/* Another process opens the store, does some work and is killed in the midst of its life. */
static inline void seed_in_a_killed_process(const km_options *options, void (*work)(void))
{
    pid_t child;
    int status = 0;

    harness_close(seed.store);
    fflush(NULL);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        seed_open(options);
        work();
        kill(getpid(), SIGKILL);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static inline km_stats seed_stats(void)
{
    km_stats stats = {.struct_size = sizeof(stats)};

    CHECK_STATUS(km_store_stats(seed.store, &stats), KM_OK);
    return stats;
}

/* ---- text for keys and values -------------------------------------------------------------- */

static inline void seed_put(const char *key, const char *value)
{
    CHECK_STATUS(km_put(seed.map, text(key), text(value), NULL), KM_OK);
}

/* "a=1 b=2" puts two keys, in this order. */
static inline void seed_put_all(const char *pairs)
{
    char copy[SEED_WALK_SIZE], *rest = copy, *pair;

    snprintf(copy, sizeof(copy), "%s", pairs);
    while ((pair = strtok_r(rest, " ", &rest))) {
        char *value = strchr(pair, '=');
        CHECK(value);
        *value++ = 0;
        seed_put(pair, value);
    }
}

static inline void seed_del(const char *key)
{
    CHECK_STATUS(km_del(seed.map, text(key), NULL), KM_OK);
}

static inline int seed_is(const km_buffer *buffer, const char *string)
{
    size_t size = strlen(string);

    return buffer->size == size && (size == 0 || memcmp(buffer->data, string, size) == 0);
}

/* Its value, or that it is not there if `value` is NULL. */
static inline void seed_check(const char *key, const char *value)
{
    km_buffer buffer = KM_BUFFER_INIT;

    CHECK_STATUS(km_get(seed.map, text(key), &buffer), value ? KM_OK : KM_NOT_FOUND);
    CHECK_MSG(!value || seed_is(&buffer, value), "%s is %.*s, not %s", key, (int)buffer.size,
              (const char *)buffer.data, value);
    km_buffer_free(&buffer);
}

/* What a cursor gives, as "a=1 b=2". */
static inline void seed_walk(km_map *map, const km_cursor_options *options,
                             char out[SEED_WALK_SIZE])
{
    km_cursor *cursor;
    km_bytes key, value;
    km_status rc;
    size_t size = 0;

    out[0] = 0;
    CHECK_STATUS(km_cursor_open(map, options, &cursor), KM_OK);
    while ((rc = km_cursor_next(cursor, &key, &value)) == KM_OK) {
        CHECK(size + key.size + value.size + 3 < SEED_WALK_SIZE);
        size += (size_t)snprintf(out + size, SEED_WALK_SIZE - size, "%s%.*s=%.*s", size ? " " : "",
                                 (int)key.size, (const char *)key.data, (int)value.size,
                                 (const char *)value.data);
    }
    CHECK(rc == KM_END);
    km_cursor_close(cursor);
}

static inline void seed_check_walk(const km_cursor_options *options, const char *expected)
{
    char walk[SEED_WALK_SIZE];

    seed_walk(seed.map, options, walk);
    CHECK_MSG(strcmp(walk, expected) == 0, "a walk gave \"%s\", not \"%s\"", walk, expected);
}

static inline void seed_check_all(const char *expected)
{
    seed_check_walk(NULL, expected);
}

#endif
