/* SPDX-License-Identifier: Apache-2.0
 *
 * rocksdb.c -- RocksDB through its C interface: a table file written in key order and ingested; or,
 * from random order, its own bulk load: vector memtables without a log, sorted and flushed in the
 * background, then one compaction of everything.
 *
 * The interface gives no way to ask for asynchronous reads of MultiGet, and a library built without
 * liburing, as Debian's is, has none: its blocks are read one after the other.
 */
#include "../sealed.h"

#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    ROCKSDB_BATCH = 1000,
    ROCKSDB_FILTER_BITS = 10,
    ROCKSDB_BUFFER_SIZE = 64 << 20,
    ROCKSDB_BUFFER_COUNT = 4,
    ROCKSDB_READAHEAD_SIZE = 2 << 20
};

struct rocksdb_table {
    rocksdb_t *db;
    rocksdb_column_family_handle_t *family;
    rocksdb_options_t *options;
    rocksdb_cache_t *cache;
    rocksdb_readoptions_t *read_options;
    rocksdb_readoptions_t *scan_options;
    rocksdb_pinnableslice_t *values[SEALED_MANY];
    char *errors[SEALED_MANY];
    const char *keys[SEALED_MANY];
    size_t key_sizes[SEALED_MANY];
    unsigned char key_bytes[SEALED_MANY][SEALED_KEY_SIZE];
};

static int rocksdb_failed(const char *what, char *message)
{
    fprintf(stderr, "rocksdb: %s: %s\n", what, message);
    rocksdb_free(message);
    return PEER_FAILED;
}

/* ---- opening ------------------------------------------------------------------------------ */

static rocksdb_options_t *rocksdb_new_options(rocksdb_cache_t *cache)
{
    rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();
    rocksdb_options_t *options = rocksdb_options_create();

    rocksdb_block_based_options_set_block_cache(table, cache);
    rocksdb_block_based_options_set_filter_policy(
        table, rocksdb_filterpolicy_create_bloom_full(ROCKSDB_FILTER_BITS));
    rocksdb_block_based_options_set_data_block_index_type(
        table, rocksdb_block_based_table_data_block_index_type_binary_search_and_hash);
    rocksdb_options_set_block_based_table_factory(options, table);
    rocksdb_block_based_options_destroy(table);
    rocksdb_options_set_create_if_missing(options, 1);
    rocksdb_options_set_compression(options, rocksdb_no_compression);
    rocksdb_options_set_max_background_jobs(options, 2);
    return options;
}

static void rocksdb_peer_close(void *opaque)
{
    struct rocksdb_table *self = opaque;

    if (self->family)
        rocksdb_column_family_handle_destroy(self->family);
    if (self->db)
        rocksdb_close(self->db);
    rocksdb_readoptions_destroy(self->scan_options);
    rocksdb_readoptions_destroy(self->read_options);
    rocksdb_options_destroy(self->options);
    rocksdb_cache_destroy(self->cache);
    free(self);
}

static struct rocksdb_table *rocksdb_new_table(const struct sealed_job *job)
{
    struct rocksdb_table *self = calloc(1, sizeof(*self));
    unsigned i;

    if (!self)
        return NULL;
    self->cache = rocksdb_cache_create_lru((64u << 20) +
                                           job->record_count * SEALED_PAYLOAD_SIZE * 2);
    self->options = rocksdb_new_options(self->cache);
    self->read_options = rocksdb_readoptions_create();
    self->scan_options = rocksdb_readoptions_create();
    if (job->use == SEALED_COLD_SCAN)
        rocksdb_readoptions_set_readahead_size(self->scan_options, ROCKSDB_READAHEAD_SIZE);
    for (i = 0; i < SEALED_MANY; i++) {
        self->keys[i] = (const char *)self->key_bytes[i];
        self->key_sizes[i] = SEALED_KEY_SIZE;
    }
    return self;
}

static int rocksdb_open_table(const struct sealed_job *job, struct rocksdb_table *self)
{
    const char *family_name = "default";
    const rocksdb_options_t *family_options = self->options;
    char *error = NULL;

    self->db = rocksdb_open_column_families(self->options, job->path, 1, &family_name,
                                            &family_options, &self->family, &error);
    if (!error)
        return PEER_OK;
    self->db = NULL;
    self->family = NULL;
    return rocksdb_failed("open", error);
}

static int rocksdb_peer_open(const struct sealed_job *job, void **out_handle)
{
    struct rocksdb_table *self = rocksdb_new_table(job);

    if (!self)
        return PEER_FAILED;
    if (rocksdb_open_table(job, self) != PEER_OK) {
        rocksdb_peer_close(self);
        return PEER_FAILED;
    }
    *out_handle = self;
    return PEER_OK;
}

/* ---- building ----------------------------------------------------------------------------- */

/* A table file of all records, which come in key order; syncs it. */
static int rocksdb_write_file(const struct sealed_job *job, const rocksdb_options_t *options,
                              const char *file_path)
{
    rocksdb_envoptions_t *env_options = rocksdb_envoptions_create();
    rocksdb_sstfilewriter_t *writer = rocksdb_sstfilewriter_create(env_options, options);
    unsigned char key_bytes[SEALED_KEY_SIZE];
    unsigned char value[SEALED_VALUE_SIZE];
    char *error = NULL;
    uint64_t place, key;

    rocksdb_sstfilewriter_open(writer, file_path, &error);
    for (place = 0; place < job->record_count && !error; place++) {
        key = sealed_input_key(job, place);
        sealed_key_bytes(key, key_bytes);
        sealed_make_value(job->seed, key, value);
        rocksdb_sstfilewriter_put(writer, (const char *)key_bytes, sizeof(key_bytes),
                                  (const char *)value, sizeof(value), &error);
    }
    if (!error)
        rocksdb_sstfilewriter_finish(writer, &error);
    rocksdb_sstfilewriter_destroy(writer);
    rocksdb_envoptions_destroy(env_options);
    return error ? rocksdb_failed("write", error) : PEER_OK;
}

static int rocksdb_build_sorted(const struct sealed_job *job, struct rocksdb_table *self)
{
    rocksdb_ingestexternalfileoptions_t *ingest = rocksdb_ingestexternalfileoptions_create();
    char path[SEALED_PATH_MAX + 32];
    const char *files[] = {path};
    char *error = NULL;
    int rc;

    snprintf(path, sizeof(path), "%s/build.sst", job->path);
    rc = rocksdb_open_table(job, self); /* makes the folder a database */
    if (rc == PEER_OK)
        rc = rocksdb_write_file(job, self->options, path);
    if (rc == PEER_OK) {
        rocksdb_ingestexternalfileoptions_set_move_files(ingest, 1);
        rocksdb_ingest_external_file(self->db, files, 1, ingest, &error);
        rc = error ? rocksdb_failed("ingest", error) : PEER_OK;
    }
    rocksdb_ingestexternalfileoptions_destroy(ingest);
    return rc;
}

static void rocksdb_fill_batch(const struct sealed_job *job, uint64_t first,
                               rocksdb_writebatch_t *batch)
{
    unsigned char key_bytes[SEALED_KEY_SIZE];
    unsigned char value[SEALED_VALUE_SIZE];
    uint64_t place, key;

    rocksdb_writebatch_clear(batch);
    for (place = first; place < job->record_count && place < first + ROCKSDB_BATCH; place++) {
        key = sealed_input_key(job, place);
        sealed_key_bytes(key, key_bytes);
        sealed_make_value(job->seed, key, value);
        rocksdb_writebatch_put(batch, (const char *)key_bytes, sizeof(key_bytes),
                               (const char *)value, sizeof(value));
    }
}

static int rocksdb_put_all(const struct sealed_job *job, struct rocksdb_table *self)
{
    rocksdb_writeoptions_t *write_options = rocksdb_writeoptions_create();
    rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
    char *error = NULL;
    uint64_t place;

    rocksdb_writeoptions_disable_WAL(write_options, 1);
    for (place = 0; place < job->record_count && !error; place += ROCKSDB_BATCH) {
        rocksdb_fill_batch(job, place, batch);
        rocksdb_write(self->db, write_options, batch, &error);
    }
    rocksdb_writebatch_destroy(batch);
    rocksdb_writeoptions_destroy(write_options);
    return error ? rocksdb_failed("write", error) : PEER_OK;
}

/* What is flushed or compacted is synced. */
static int rocksdb_build_random(const struct sealed_job *job, struct rocksdb_table *self)
{
    rocksdb_flushoptions_t *flush_options = rocksdb_flushoptions_create();
    char *error = NULL;
    int rc;

    rocksdb_options_prepare_for_bulk_load(self->options);
    rocksdb_options_set_memtable_vector_rep(self->options);
    rocksdb_options_set_allow_concurrent_memtable_write(self->options, 0);
    rocksdb_options_set_write_buffer_size(self->options, ROCKSDB_BUFFER_SIZE);
    rocksdb_options_set_max_write_buffer_number(self->options, ROCKSDB_BUFFER_COUNT);
    rocksdb_options_set_max_subcompactions(self->options, 2);
    rc = rocksdb_open_table(job, self);
    if (rc == PEER_OK)
        rc = rocksdb_put_all(job, self);
    if (rc == PEER_OK) {
        rocksdb_flushoptions_set_wait(flush_options, 1);
        rocksdb_flush(self->db, flush_options, &error);
        rc = error ? rocksdb_failed("flush", error) : PEER_OK;
    }
    if (rc == PEER_OK)
        rocksdb_compact_range(self->db, NULL, 0, NULL, 0);
    rocksdb_flushoptions_destroy(flush_options);
    return rc;
}

static int rocksdb_build(const struct sealed_job *job)
{
    struct rocksdb_table *self = rocksdb_new_table(job);
    int rc;

    if (!self)
        return PEER_FAILED;
    rc = job->in_random_order ? rocksdb_build_random(job, self) : rocksdb_build_sorted(job, self);
    rocksdb_peer_close(self);
    return rc;
}

/* ---- reading ------------------------------------------------------------------------------ */

static int rocksdb_peer_get(void *opaque, uint64_t key, struct sealed_check *check)
{
    struct rocksdb_table *self = opaque;
    unsigned char key_bytes[SEALED_KEY_SIZE];
    rocksdb_pinnableslice_t *value;
    char *error = NULL;
    const char *bytes;
    size_t size;

    sealed_key_bytes(key, key_bytes);
    value = rocksdb_get_pinned(self->db, self->read_options, (const char *)key_bytes,
                               sizeof(key_bytes), &error);
    if (error)
        return rocksdb_failed("get", error);
    if (!value)
        return PEER_NOT_FOUND;
    bytes = rocksdb_pinnableslice_value(value, &size);
    sealed_check_value(check, key, bytes, size);
    rocksdb_pinnableslice_destroy(value);
    return PEER_OK;
}

static int rocksdb_peer_get_many(void *opaque, const uint64_t *keys, size_t count,
                                 struct sealed_check *check)
{
    struct rocksdb_table *self = opaque;
    const char *bytes;
    int rc = PEER_OK;
    size_t size, i;

    for (i = 0; i < count; i++)
        sealed_key_bytes(keys[i], self->key_bytes[i]);
    rocksdb_batched_multi_get_cf(self->db, self->read_options, self->family, count, self->keys,
                                 self->key_sizes, self->values, self->errors, 0);
    for (i = 0; i < count; i++) {
        if (self->errors[i]) {
            rc = rocksdb_failed("multi_get", self->errors[i]);
        } else if (self->values[i]) {
            bytes = rocksdb_pinnableslice_value(self->values[i], &size);
            sealed_check_value(check, keys[i], bytes, size);
            rocksdb_pinnableslice_destroy(self->values[i]);
        }
    }
    return rc;
}

static int rocksdb_walk(void *opaque, struct sealed_walk *walk)
{
    struct rocksdb_table *self = opaque;
    rocksdb_iterator_t *iterator = rocksdb_create_iterator(self->db, self->scan_options);
    const char *key, *value;
    size_t key_size, size;
    char *error = NULL;

    for (rocksdb_iter_seek_to_first(iterator); rocksdb_iter_valid(iterator);
         rocksdb_iter_next(iterator)) {
        key = rocksdb_iter_key(iterator, &key_size);
        value = rocksdb_iter_value(iterator, &size);
        sealed_walk_add(walk, sealed_key_number(key), value, size);
    }
    rocksdb_iter_get_error(iterator, &error);
    rocksdb_iter_destroy(iterator);
    return error ? rocksdb_failed("walk", error) : PEER_OK;
}

const struct sealed_peer sealed_peer_rocksdb = {
    .name = "rocksdb",
    .must_sort = 1,
    .version = BENCH_ROCKSDB_VERSION,
    .settings = "one table file, bloom filter of 10 bits, blocks of 4 KiB with hash index, block "
                "cache larger than all data, no compression; values pinned; batched MultiGet, "
                "whose reads are one after the other in a build without liburing",
    .sorted_note = "SstFileWriter, then ingested by a move",
    .random_note = "puts without a log in batches of 1,000, vector memtables (4 of 64 MiB) sorted "
                   "and flushed by background threads, one compaction of everything with 2 threads",
    .build = rocksdb_build,
    .open = rocksdb_peer_open,
    .close = rocksdb_peer_close,
    .get = rocksdb_peer_get,
    .get_many = rocksdb_peer_get_many,
    .walk = rocksdb_walk,
};
