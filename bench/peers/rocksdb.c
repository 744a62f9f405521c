/* SPDX-License-Identifier: Apache-2.0
 *
 * rocksdb.c -- RocksDB through its C interface: a log-structured merge tree.
 *
 * Values are read as pinned slices (in place in the block cache or memtable). The block cache is
 * larger than all data, so reads that follow the first do not leave the process.
 */
#include "../peer.h"

#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>

struct rocksdb_handle {
    rocksdb_t *db;
    rocksdb_column_family_handle_t *family;
    rocksdb_options_t *options;
    rocksdb_cache_t *cache;
    rocksdb_readoptions_t *read_options;
    rocksdb_writeoptions_t *write_options;
};

static int rocksdb_failed(const char *what, char *message)
{
    fprintf(stderr, "rocksdb: %s: %s\n", what, message);
    rocksdb_free(message);
    return PEER_FAILED;
}

static void rocksdb_peer_close(void *opaque)
{
    struct rocksdb_handle *handle = opaque;

    if (handle->family)
        rocksdb_column_family_handle_destroy(handle->family);
    if (handle->db)
        rocksdb_close(handle->db);
    rocksdb_readoptions_destroy(handle->read_options);
    rocksdb_writeoptions_destroy(handle->write_options);
    rocksdb_options_destroy(handle->options);
    rocksdb_cache_destroy(handle->cache);
    free(handle);
}

static void rocksdb_set_table_options(struct rocksdb_handle *handle)
{
    rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();

    rocksdb_block_based_options_set_block_cache(table, handle->cache);
    rocksdb_block_based_options_set_filter_policy(table,
                                                  rocksdb_filterpolicy_create_bloom_full(10));
    rocksdb_block_based_options_set_data_block_index_type(
        table, rocksdb_block_based_table_data_block_index_type_binary_search_and_hash);
    rocksdb_options_set_block_based_table_factory(handle->options, table);
    rocksdb_block_based_options_destroy(table);
}

static int rocksdb_peer_open(const struct peer_options *options, void **out_handle)
{
    struct rocksdb_handle *handle = calloc(1, sizeof(*handle));
    size_t record_size = options->key_size + options->value_size + 64;
    const char *family_name = "default";
    const rocksdb_options_t *family_options;
    char *error = NULL;

    if (!handle)
        return PEER_FAILED;
    handle->options = rocksdb_options_create();
    handle->cache = rocksdb_cache_create_lru((256u << 20) +
                                             options->record_count * record_size * 2);
    handle->read_options = rocksdb_readoptions_create();
    handle->write_options = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(handle->write_options, options->durability == PEER_CLASS_POWER);
    rocksdb_options_set_create_if_missing(handle->options, 1);
    rocksdb_options_set_compression(handle->options, rocksdb_no_compression);
    rocksdb_options_set_write_buffer_size(handle->options, 64u << 20);
    rocksdb_options_set_max_background_jobs(handle->options, 2);
    rocksdb_set_table_options(handle);
    family_options = handle->options;
    handle->db = rocksdb_open_column_families(handle->options, options->path, 1, &family_name,
                                              &family_options, &handle->family, &error);
    if (error) {
        handle->db = NULL;
        handle->family = NULL;
        rocksdb_peer_close(handle);
        return rocksdb_failed("open", error);
    }
    *out_handle = handle;
    return PEER_OK;
}

/* One sorted run, nothing in the memtable. */
static int rocksdb_after_load(void *opaque)
{
    struct rocksdb_handle *handle = opaque;

    rocksdb_compact_range(handle->db, NULL, 0, NULL, 0);
    return PEER_OK;
}

static int rocksdb_session_open(void *handle, void **out_session)
{
    *out_session = handle;
    return PEER_OK;
}

static void rocksdb_session_close(void *session)
{
    (void)session;
}

static int rocksdb_peer_put(void *session, struct peer_bytes key, struct peer_bytes value)
{
    struct rocksdb_handle *handle = session;
    char *error = NULL;

    rocksdb_put(handle->db, handle->write_options, key.data, key.size, value.data, value.size,
                &error);
    return error ? rocksdb_failed("put", error) : PEER_OK;
}

/* Deleting an absent key is no outcome of its own here: the tree is not read. */
static int rocksdb_peer_del(void *session, struct peer_bytes key)
{
    struct rocksdb_handle *handle = session;
    char *error = NULL;

    rocksdb_delete(handle->db, handle->write_options, key.data, key.size, &error);
    return error ? rocksdb_failed("del", error) : PEER_OK;
}

static int rocksdb_peer_get(void *session, struct peer_bytes key, struct peer_check *check)
{
    struct rocksdb_handle *handle = session;
    rocksdb_pinnableslice_t *slice;
    const char *data;
    size_t size;
    char *error = NULL;

    slice = rocksdb_get_pinned(handle->db, handle->read_options, key.data, key.size, &error);
    if (error)
        return rocksdb_failed("get", error);
    if (!slice)
        return PEER_NOT_FOUND;
    data = rocksdb_pinnableslice_value(slice, &size);
    peer_check_value(check, data, size);
    rocksdb_pinnableslice_destroy(slice);
    return PEER_OK;
}

static int rocksdb_peer_get_many(void *session, const struct peer_bytes *keys,
                                 struct peer_check *checks, size_t count)
{
    struct rocksdb_handle *handle = session;
    const char *key_data[PEER_MANY_MAX] = {NULL};
    size_t key_sizes[PEER_MANY_MAX] = {0};
    rocksdb_pinnableslice_t *slices[PEER_MANY_MAX] = {NULL};
    char *errors[PEER_MANY_MAX] = {NULL};
    const char *data;
    size_t size;
    size_t i;
    int rc = PEER_OK;

    for (i = 0; i < count; i++) {
        key_data[i] = keys[i].data;
        key_sizes[i] = keys[i].size;
    }
    rocksdb_batched_multi_get_cf(handle->db, handle->read_options, handle->family, count, key_data,
                                 key_sizes, slices, errors, 0);
    for (i = 0; i < count; i++) {
        if (errors[i])
            rc = rocksdb_failed("get_many", errors[i]);
        if (!slices[i])
            continue;
        data = rocksdb_pinnableslice_value(slices[i], &size);
        peer_check_value(&checks[i], data, size);
        rocksdb_pinnableslice_destroy(slices[i]);
    }
    return rc;
}

static int rocksdb_snapshot_open(void *opaque, void **out_snapshot)
{
    *out_snapshot = (void *)rocksdb_create_snapshot(((struct rocksdb_handle *)opaque)->db);
    return PEER_OK;
}

static void rocksdb_snapshot_close(void *opaque, void *snapshot)
{
    rocksdb_release_snapshot(((struct rocksdb_handle *)opaque)->db, snapshot);
}

static int rocksdb_walk(struct rocksdb_handle *handle, const rocksdb_readoptions_t *read_options,
                        struct peer_scan *scan)
{
    rocksdb_iterator_t *iterator = rocksdb_create_iterator(handle->db, read_options);
    struct peer_bytes key, value;
    char *error = NULL;

    if (scan->from.size)
        rocksdb_iter_seek(iterator, scan->from.data, scan->from.size);
    else
        rocksdb_iter_seek_to_first(iterator);
    for (; rocksdb_iter_valid(iterator); rocksdb_iter_next(iterator)) {
        key.data = rocksdb_iter_key(iterator, &key.size);
        value.data = rocksdb_iter_value(iterator, &value.size);
        if (!peer_scan_add(scan, key, value))
            break;
    }
    rocksdb_iter_get_error(iterator, &error);
    rocksdb_iter_destroy(iterator);
    return error ? rocksdb_failed("scan", error) : PEER_OK;
}

static int rocksdb_peer_scan(void *session, struct peer_scan *scan)
{
    struct rocksdb_handle *handle = session;

    return rocksdb_walk(handle, handle->read_options, scan);
}

static int rocksdb_snapshot_walk(void *opaque, void *snapshot, struct peer_scan *scan)
{
    rocksdb_readoptions_t *read_options = rocksdb_readoptions_create();
    int rc;

    rocksdb_readoptions_set_snapshot(read_options, snapshot);
    rc = rocksdb_walk(opaque, read_options, scan);
    rocksdb_readoptions_destroy(read_options);
    return rc;
}

const struct peer peer_rocksdb = {
    .name = "rocksdb",
    .version = BENCH_ROCKSDB_VERSION,
    .settings =
        "no compression; write buffer 64 MiB; LRU block cache larger than all data; full "
        "Bloom filter, 10 bits; hash index in data blocks; 2 background jobs; pinned reads; "
        "batched MultiGet; compacted after the load",
    .process_note = "as asked: a write() of the log record per change, no sync",
    .power_note = "as asked: sync=true, concurrent writers share a sync",
    .order = PEER_ORDER_KEY,
    .open = rocksdb_peer_open,
    .close = rocksdb_peer_close,
    .session_open = rocksdb_session_open,
    .session_close = rocksdb_session_close,
    .put = rocksdb_peer_put,
    .del = rocksdb_peer_del,
    .get = rocksdb_peer_get,
    .after_load = rocksdb_after_load,
    .get_many = rocksdb_peer_get_many,
    .scan = rocksdb_peer_scan,
    .snapshot_open = rocksdb_snapshot_open,
    .snapshot_close = rocksdb_snapshot_close,
    .snapshot_walk = rocksdb_snapshot_walk,
};
