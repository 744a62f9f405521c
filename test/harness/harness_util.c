/* SPDX-License-Identifier: Apache-2.0
 *
 * harness_util.c -- see harness_util.h.
 */
#include "harness/harness_util.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"

#define FOLDER_COUNT_MAX 64

static struct {
    uint64_t seed;
    pthread_t thread;
    pid_t process;
    char folders[FOLDER_COUNT_MAX][HARNESS_PATH_SIZE];
    size_t folder_count;
} harness;

/* For ThreadSanitizer: a batch may hold more locks than its detector of deadlocks can count. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "detect_deadlocks=0";
}

/* ---- checks ------------------------------------------------------------------------------ */

void harness_failed(const char *file, int line, const char *format, ...)
{
    va_list arguments;

    fflush(stdout);
    fprintf(stderr, "%s:%d: ", file, line);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, " (SEED=%llu)\n", (unsigned long long)harness.seed);
    fflush(stderr);
    if (getpid() == harness.process && pthread_equal(pthread_self(), harness.thread))
        _fail(file, line);
    abort();
}

void harness_check_status(const char *file, int line, const char *text, km_status got,
                          km_status expected)
{
    if (got != expected)
        harness_failed(file, line, "%s is %s, not %s", text, km_status_name(got),
                       km_status_name(expected));
}

/* ---- randomness -------------------------------------------------------------------------- */

static void remove_folders(void)
{
    if (getpid() != harness.process || getenv("KM_TEST_KEEP"))
        return;
    for (size_t i = 0; i < harness.folder_count; i++)
        harness_remove(harness.folders[i]);
}

void harness_begin(void)
{
    const char *text = getenv("SEED");

    harness.seed = text ? strtoull(text, NULL, 0) : harness_now_ns() % 1000000007u;
    harness.thread = pthread_self();
    harness.process = getpid();
    atexit(remove_folders);
    printf("SEED=%llu\n", (unsigned long long)harness.seed);
    fflush(stdout); /* before a fork, which would print it again */
}

uint64_t harness_seed(void)
{
    return harness.seed;
}

static uint64_t mix(uint64_t z) /* splitmix64 */
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

struct harness_random harness_stream(uint64_t number)
{
    struct harness_random random = {
        mix(harness.seed + UINT64_C(0x9e3779b97f4a7c15) * (number + 1))};
    return random;
}

uint64_t harness_next(struct harness_random *random)
{
    return mix(random->state += UINT64_C(0x9e3779b97f4a7c15));
}

uint64_t harness_below(struct harness_random *random, uint64_t n)
{
    return harness_next(random) % n;
}

uint64_t harness_scaled(uint64_t count)
{
    const char *text = getenv("KM_TEST_SCALE");
    uint64_t percent = text ? strtoull(text, NULL, 10) : 100;
    uint64_t scaled = count * percent / 100;

    return scaled ? scaled : 1;
}

uint64_t harness_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* ---- files ------------------------------------------------------------------------------- */

static void make_folder_in(const char *parent, char path[HARNESS_PATH_SIZE])
{
    snprintf(path, HARNESS_PATH_SIZE, "%s/keepmap-test-XXXXXX", parent);
    CHECK(mkdtemp(path));
    if (harness.folder_count < FOLDER_COUNT_MAX)
        memcpy(harness.folders[harness.folder_count++], path, HARNESS_PATH_SIZE);
}

void harness_make_folder(char path[HARNESS_PATH_SIZE])
{
    const char *parent = getenv("TMPDIR");

    make_folder_in(parent && *parent ? parent : "/tmp", path);
}

void harness_make_fast_folder(char path[HARNESS_PATH_SIZE])
{
    if (access("/dev/shm", W_OK) == 0)
        make_folder_in("/dev/shm", path);
    else
        harness_make_folder(path);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *place)
{
    (void)status;
    (void)type;
    (void)place;
    remove(path);
    return 0;
}

void harness_remove(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

void harness_path(char out[HARNESS_PATH_SIZE], const char *folder, const char *name)
{
    CHECK((size_t)snprintf(out, HARNESS_PATH_SIZE, "%s/%s", folder, name) < HARNESS_PATH_SIZE);
}

static uint64_t disk_bytes;

static int add_entry(const char *path, const struct stat *status, int type, struct FTW *place)
{
    (void)path;
    (void)place;
    if (type == FTW_F)
        disk_bytes += (uint64_t)status->st_blocks * 512;
    return 0;
}

uint64_t harness_disk_bytes(const char *path)
{
    disk_bytes = 0;
    nftw(path, add_entry, 16, FTW_PHYS);
    return disk_bytes;
}

/* ---- stores ------------------------------------------------------------------------------ */

km_store *harness_open(const char *path, const km_options *options)
{
    km_store *store = NULL;
    km_error error = {KM_OK, 0, 0, "", ""};
    km_status rc = km_open(path, options, &store, &error);

    CHECK_MSG(rc == KM_OK, "km_open: %s in %s at %llu: %s (%d)", km_status_name(rc), error.file,
              (unsigned long long)error.offset, error.message, error.os_error);
    return store;
}

void harness_close(km_store *store)
{
    km_error error = {KM_OK, 0, 0, "", ""};
    km_status rc = km_close(store, &error);

    CHECK_MSG(rc == KM_OK, "km_close: %s in %s: %s (%d)", km_status_name(rc), error.file,
              error.message, error.os_error);
}

km_map *harness_map_of(km_store *store, const char *name, km_map_kind kind)
{
    km_map *map = NULL;

    CHECK_STATUS(km_map_open_or_create(store, km_bytes_of_string(name), kind, &map), KM_OK);
    return map;
}

km_map *harness_map(km_store *store, const char *name)
{
    return harness_map_of(store, name, KM_KIND_DEFAULT);
}

/* ---- values ------------------------------------------------------------------------------ */

static uint64_t sum_bytes(const uint8_t *p, size_t size)
{
    uint64_t sum = size;

    for (; size >= 8; size -= 8, p += 8)
        sum = (sum ^ km__load64(p)) * UINT64_C(0x9fb21c651e98df25) + (sum >> 29);
    while (size--)
        sum = (sum ^ *p++) * UINT64_C(0x9fb21c651e98df25) + (sum >> 29);
    return mix(sum);
}

void harness_value_fill(void *bytes, size_t size, uint64_t key, uint64_t version)
{
    uint8_t *p = bytes;

    CHECK(size >= HARNESS_VALUE_MIN);
    km__store64(p, key);
    km__store64(p + 8, version);
    harness_fill(p + 16, size - 24, mix(key) ^ version);
    km__store64(p + size - 8, sum_bytes(p, size - 8));
}

uint64_t harness_value_version(km_bytes value, uint64_t key)
{
    const uint8_t *p = value.data;

    CHECK_MSG(value.size >= HARNESS_VALUE_MIN, "key %llu: a value of %zu bytes",
              (unsigned long long)key, value.size);
    CHECK_MSG(km__load64(p + value.size - 8) == sum_bytes(p, value.size - 8),
              "key %llu: a torn value of %zu bytes", (unsigned long long)key, value.size);
    CHECK_MSG(km__load64(p) == key, "key %llu: the value of key %llu", (unsigned long long)key,
              (unsigned long long)km__load64(p));
    return km__load64(p + 8);
}

void harness_fill(void *bytes, size_t size, uint64_t number)
{
    uint8_t *p = bytes, word[8];

    for (; size >= 8; size -= 8, p += 8)
        km__store64(p, mix(number += UINT64_C(0x9e3779b97f4a7c15)));
    km__store64(word, mix(number + UINT64_C(0x9e3779b97f4a7c15)));
    memcpy(p, word, size);
}

int harness_is_filled(const void *bytes, size_t size, uint64_t number)
{
    const uint8_t *p = bytes;
    uint8_t word[8];

    for (; size >= 8; size -= 8, p += 8) {
        if (km__load64(p) != mix(number += UINT64_C(0x9e3779b97f4a7c15)))
            return 0;
    }
    km__store64(word, mix(number + UINT64_C(0x9e3779b97f4a7c15)));
    return size == 0 || memcmp(p, word, size) == 0;
}
