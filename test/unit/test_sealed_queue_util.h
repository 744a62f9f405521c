/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed_queue_util.h -- what the tests of asynchronous reads share: tables and queues on a
 * machine of the test's choice.
 */
#ifndef KM_TEST_UNIT_TEST_SEALED_QUEUE_UTIL_H
#define KM_TEST_UNIT_TEST_SEALED_QUEUE_UTIL_H

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "test_sealed_util.h"

static char folder[HARNESS_PATH_SIZE];
static char path[HARNESS_PATH_SIZE];
static const km_sealed_engine engines[] = {KM_SEALED_ENGINE_THREADS, KM_SEALED_ENGINE_IO_URING};
#define ENGINE_COUNT 2

static inline void begin(void)
{
    harness_begin();
    harness_make_folder(folder);
    harness_path(path, folder, "table");
}

static inline void build_at(struct os *os, const char *name, const struct sealed_look *look,
                            uint64_t count, struct sealed_model *model)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;
    km_status rc;

    options.keys = look->keys;
    options.compression = look->value_repeats ? KM_SEALED_ZSTD : KM_SEALED_PLAIN;
    rc = km__sealed_builder_open(os, name, &options, &builder, NULL);
    if (rc == KM_E_UNSUPPORTED && options.compression) { /* built without zstd */
        options.compression = KM_SEALED_PLAIN;
        rc = km__sealed_builder_open(os, name, &options, &builder, NULL);
    }
    CHECK_STATUS(rc, KM_OK);
    for (uint64_t i = 0; i < count; i++)
        CHECK_STATUS(sealed_add_number(builder, model, look, i * 3, 0), KM_OK);
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
    if (model)
        sealed_model_seal(model);
}

static inline void build(const struct sealed_look *look, uint64_t count, struct sealed_model *model)
{
    build_at(km__os_linux(), path, look, count, model);
}

/* no_mapping: 2 with a cache of the table's own. */
static inline km_sealed *open_on(struct os *os, const char *name, int no_mapping)
{
    km_sealed_options options = KM_SEALED_OPTIONS_INIT;
    km_sealed *table = NULL;

    options.no_mapping = no_mapping != 0;
    options.cache_size = no_mapping == 2 ? KM_SEALED_CACHE_SIZE_MIN : 0;
    CHECK_STATUS(km__sealed_open(os, name, &options, &table, NULL), KM_OK);
    return table;
}

static inline km_sealed *open_table(int no_mapping)
{
    return open_on(km__os_linux(), path, no_mapping);
}

/* NULL: this machine has no such engine. */
static inline km_sealed_queue *open_queue_on(struct os *os, km_sealed_engine engine,
                                             uint32_t requests_max, uint32_t reads_max,
                                             uint32_t threads)
{
    km_sealed_queue_options options = KM_SEALED_QUEUE_OPTIONS_INIT;
    km_sealed_queue *queue = NULL;
    km_error error = {0};
    km_status rc;

    options.engine = engine;
    options.requests_max = requests_max;
    options.reads_max = reads_max;
    options.threads = threads;
    rc = km__sealed_queue_open(os, &options, &queue, &error);
    if (engine == KM_SEALED_ENGINE_IO_URING && rc == KM_E_UNSUPPORTED)
        return NULL;
    CHECK_MSG(rc == KM_OK, "%s", error.message);
    CHECK(engine == KM_SEALED_ENGINE_AUTO || km_sealed_queue_engine(queue) == engine);
    return queue;
}

static inline km_sealed_queue *open_queue(km_sealed_engine engine, uint32_t requests_max,
                                          uint32_t reads_max)
{
    return open_queue_on(km__os_linux(), engine, requests_max, reads_max, 4);
}

/* Take the table's file out of the page cache, as far as that is possible. */
static inline void make_cold(void)
{
    int fd = open(path, O_RDONLY);

    CHECK(fd >= 0);
    CHECK(fsync(fd) == 0);
    CHECK(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
    close(fd);
}

/* Poll until nothing is pending. */
static inline void drain(km_sealed_queue *queue)
{
    km_sealed_result results[16];

    while (km_sealed_queue_pending(queue) > 0)
        CHECK_STATUS(km_sealed_queue_poll(queue, results, 16, -1, NULL), KM_OK);
}

/* One that is there, or perhaps not. */
static inline size_t random_key(const struct sealed_look *look, const struct sealed_model *model,
                                struct harness_random *random, uint8_t key[1400])
{
    uint8_t whole[4096];
    size_t size;

    if (model->count > 0 && harness_below(random, 4) != 0) {
        const struct sealed_record *record = &model->records[harness_below(random, model->count)];
        memcpy(key, record->key, record->key_size);
        return record->key_size;
    }
    size = sealed_key(look, harness_next(random), whole);
    memcpy(key, whole, size);
    return size;
}

#endif
