/* SPDX-License-Identifier: Apache-2.0
 *
 * harness_util.h -- what tests of the whole library share: randomness, checks that also work in
 * threads and children, temporary folders, and values that tell whether they are whole.
 */
#ifndef KM_TEST_HARNESS_HARNESS_UTIL_H
#define KM_TEST_HARNESS_HARNESS_UTIL_H

#include <stddef.h>
#include <stdint.h>

#include "keepmap/keepmap.h"

/* ---- checks ------------------------------------------------------------------------------ */

/* In the main thread of the test program a failure ends the case; elsewhere, where cmocka cannot
 * jump back, it ends the process. */
void harness_failed(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4), noreturn));

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            harness_failed(__FILE__, __LINE__, "%s", "failed: " #condition);                       \
    } while (0)

#define CHECK_MSG(condition, ...)                                                                  \
    do {                                                                                           \
        if (!(condition))                                                                          \
            harness_failed(__FILE__, __LINE__, __VA_ARGS__);                                       \
    } while (0)

#define CHECK_STATUS(call, expected) harness_check_status(__FILE__, __LINE__, #call, call, expected)
void harness_check_status(const char *file, int line, const char *text, km_status got,
                          km_status expected);

/* ---- randomness -------------------------------------------------------------------------- */

/* Call first of all: takes the seed from SEED or the clock, prints it, remembers the main thread.
 */
void harness_begin(void);
uint64_t harness_seed(void);

struct harness_random {
    uint64_t state;
};

/* A stream of its own for each (case, thread, round), so that a failure repeats. */
struct harness_random harness_stream(uint64_t number);
uint64_t harness_next(struct harness_random *random);
uint64_t harness_below(struct harness_random *random, uint64_t n);

/* count scaled by KM_TEST_SCALE percent (default 100), at least 1. */
uint64_t harness_scaled(uint64_t count);

uint64_t harness_now_ns(void);

/* ---- files ------------------------------------------------------------------------------- */

#define HARNESS_PATH_SIZE 512

/* Make a fresh folder below TMPDIR or /tmp; removed at exit, unless
 * KM_TEST_KEEP is set. */
void harness_make_folder(char path[HARNESS_PATH_SIZE]);
/* The same, in memory if there is such a place: for small stores that are opened very often. */
void harness_make_fast_folder(char path[HARNESS_PATH_SIZE]);
void harness_remove(const char *path);
void harness_path(char out[HARNESS_PATH_SIZE], const char *folder, const char *name);
/* Bytes that the files below a folder take, as du counts. */
uint64_t harness_disk_bytes(const char *path);

/* ---- stores ------------------------------------------------------------------------------ */

/* Open with a check; options may be NULL. */
km_store *harness_open(const char *path, const km_options *options);
void harness_close(km_store *store);
km_map *harness_map(km_store *store, const char *name);
km_map *harness_map_of(km_store *store, const char *name, km_map_kind kind);

/* ---- values ------------------------------------------------------------------------------ */

#define HARNESS_VALUE_MIN 32u

/* A value of `size` bytes (at least HARNESS_VALUE_MIN) for (key, version), sealed by a sum. */
void harness_value_fill(void *bytes, size_t size, uint64_t key, uint64_t version);
/* Its version; fails the test if any byte is not as harness_value_fill() left it, or of another
 * key. */
uint64_t harness_value_version(km_bytes value, uint64_t key);

/* `size` bytes that a number determines. */
void harness_fill(void *bytes, size_t size, uint64_t number);
int harness_is_filled(const void *bytes, size_t size, uint64_t number);

#endif
