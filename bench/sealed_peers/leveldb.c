/* SPDX-License-Identifier: Apache-2.0
 *
 * leveldb.c -- LevelDB through its C interface: a log-structured merge tree.
 *
 * It has no way to bring tables in from outside: records go through its log and its levels. After
 * the last compaction everything is in tables, which LevelDB syncs.
 */
#include "../sealed.h"

#include <leveldb/c.h>
#include <stdio.h>
#include <stdlib.h>

enum { LEVELDB_BATCH = 1000, LEVELDB_BUFFER_SIZE = 64 << 20, LEVELDB_FILTER_BITS = 10 };

struct leveldb_table {
    leveldb_t *db;
    leveldb_options_t *options;
    leveldb_filterpolicy_t *filter;
    leveldb_cache_t *cache;
    leveldb_readoptions_t *read_options;
};

static int leveldb_failed(const char *what, char *message)
{
    fprintf(stderr, "leveldb: %s: %s\n", what, message);
    leveldb_free(message);
    return PEER_FAILED;
}

static void leveldb_peer_close(void *opaque)
{
    struct leveldb_table *self = opaque;

    if (self->db)
        leveldb_close(self->db);
    leveldb_readoptions_destroy(self->read_options);
    leveldb_options_destroy(self->options);
    leveldb_cache_destroy(self->cache);
    leveldb_filterpolicy_destroy(self->filter);
    free(self);
}

static int leveldb_peer_open(const struct sealed_job *job, void **out_handle)
{
    struct leveldb_table *self = calloc(1, sizeof(*self));
    char *error = NULL;

    if (!self)
        return PEER_FAILED;
    self->options = leveldb_options_create();
    self->filter = leveldb_filterpolicy_create_bloom(LEVELDB_FILTER_BITS);
    self->cache = leveldb_cache_create_lru((64u << 20) +
                                           job->record_count * SEALED_PAYLOAD_SIZE * 2);
    self->read_options = leveldb_readoptions_create();
    leveldb_options_set_create_if_missing(self->options, 1);
    leveldb_options_set_compression(self->options, leveldb_no_compression);
    leveldb_options_set_write_buffer_size(self->options, LEVELDB_BUFFER_SIZE);
    leveldb_options_set_max_file_size(self->options, LEVELDB_BUFFER_SIZE);
    leveldb_options_set_filter_policy(self->options, self->filter);
    leveldb_options_set_cache(self->options, self->cache);
    self->db = leveldb_open(self->options, job->path, &error);
    if (error) {
        self->db = NULL;
        leveldb_peer_close(self);
        return leveldb_failed("open", error);
    }
    *out_handle = self;
    return PEER_OK;
}

static void leveldb_fill_batch(const struct sealed_job *job, uint64_t first,
                               leveldb_writebatch_t *batch)
{
    unsigned char key_bytes[SEALED_KEY_SIZE];
    unsigned char value[SEALED_VALUE_SIZE];
    uint64_t place, key;

    leveldb_writebatch_clear(batch);
    for (place = first; place < job->record_count && place < first + LEVELDB_BATCH; place++) {
        key = sealed_input_key(job, place);
        sealed_key_bytes(key, key_bytes);
        sealed_make_value(job->seed, key, value);
        leveldb_writebatch_put(batch, (const char *)key_bytes, sizeof(key_bytes),
                               (const char *)value, sizeof(value));
    }
}

static int leveldb_build(const struct sealed_job *job)
{
    leveldb_writeoptions_t *write_options = leveldb_writeoptions_create();
    leveldb_writebatch_t *batch = leveldb_writebatch_create();
    void *handle = NULL;
    int rc = leveldb_peer_open(job, &handle);
    struct leveldb_table *self = handle;
    char *error = NULL;
    uint64_t place;

    for (place = 0; place < job->record_count && rc == PEER_OK; place += LEVELDB_BATCH) {
        leveldb_fill_batch(job, place, batch);
        leveldb_write(self->db, write_options, batch, &error);
        rc = error ? leveldb_failed("write", error) : PEER_OK;
    }
    if (rc == PEER_OK)
        leveldb_compact_range(self->db, NULL, 0, NULL, 0);
    if (self)
        leveldb_peer_close(self);
    leveldb_writebatch_destroy(batch);
    leveldb_writeoptions_destroy(write_options);
    return rc;
}

static int leveldb_peer_get(void *opaque, uint64_t key, struct sealed_check *check)
{
    struct leveldb_table *self = opaque;
    unsigned char key_bytes[SEALED_KEY_SIZE];
    char *error = NULL;
    char *value;
    size_t size;

    sealed_key_bytes(key, key_bytes);
    value = leveldb_get(self->db, self->read_options, (const char *)key_bytes, sizeof(key_bytes),
                        &size, &error);
    if (error)
        return leveldb_failed("get", error);
    if (!value)
        return PEER_NOT_FOUND;
    sealed_check_value(check, key, value, size);
    leveldb_free(value);
    return PEER_OK;
}

static int leveldb_walk(void *opaque, struct sealed_walk *walk)
{
    struct leveldb_table *self = opaque;
    leveldb_iterator_t *iterator = leveldb_create_iterator(self->db, self->read_options);
    size_t key_size, size;
    const char *key, *value;
    char *error = NULL;

    for (leveldb_iter_seek_to_first(iterator); leveldb_iter_valid(iterator);
         leveldb_iter_next(iterator)) {
        key = leveldb_iter_key(iterator, &key_size);
        value = leveldb_iter_value(iterator, &size);
        sealed_walk_add(walk, sealed_key_number(key), value, size);
    }
    leveldb_iter_get_error(iterator, &error);
    leveldb_iter_destroy(iterator);
    return error ? leveldb_failed("walk", error) : PEER_OK;
}

const struct sealed_peer sealed_peer_leveldb = {
    .name = "leveldb",
    .must_sort = 1,
    .version = BENCH_LEVELDB_VERSION,
    .settings = "bloom filter of 10 bits, block cache larger than all data, files of 64 MiB, no "
                "compression; values come on the heap",
    .sorted_note = "batches of 1,000, write buffer 64 MiB, its log not synced; one compaction of "
                   "everything at the end, which is",
    .random_note = "the same",
    .build = leveldb_build,
    .open = leveldb_peer_open,
    .close = leveldb_peer_close,
    .get = leveldb_peer_get,
    .walk = leveldb_walk,
};
