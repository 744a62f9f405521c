/* SPDX-License-Identifier: Apache-2.0
 *
 * leveldb.c -- LevelDB through its C interface: a log-structured merge tree.
 *
 * Its C interface returns every value as a copy on the heap.
 */
#include "../peer.h"

#include <leveldb/c.h>
#include <stdio.h>
#include <stdlib.h>

struct leveldb_handle {
    leveldb_t *db;
    leveldb_options_t *options;
    leveldb_cache_t *cache;
    leveldb_filterpolicy_t *filter;
    leveldb_readoptions_t *read_options;
    leveldb_writeoptions_t *write_options;
};

static int leveldb_failed(const char *what, char *message)
{
    fprintf(stderr, "leveldb: %s: %s\n", what, message);
    leveldb_free(message);
    return PEER_FAILED;
}

static void leveldb_peer_close(void *opaque)
{
    struct leveldb_handle *handle = opaque;

    if (handle->db)
        leveldb_close(handle->db);
    leveldb_readoptions_destroy(handle->read_options);
    leveldb_writeoptions_destroy(handle->write_options);
    leveldb_options_destroy(handle->options);
    leveldb_filterpolicy_destroy(handle->filter);
    leveldb_cache_destroy(handle->cache);
    free(handle);
}

static int leveldb_peer_open(const struct peer_options *options, void **out_handle)
{
    struct leveldb_handle *handle = calloc(1, sizeof(*handle));
    size_t record_size = options->key_size + options->value_size + 64;
    char *error = NULL;

    if (!handle)
        return PEER_FAILED;
    handle->options = leveldb_options_create();
    handle->cache = leveldb_cache_create_lru((256u << 20) +
                                             options->record_count * record_size * 2);
    handle->filter = leveldb_filterpolicy_create_bloom(10);
    handle->read_options = leveldb_readoptions_create();
    handle->write_options = leveldb_writeoptions_create();
    leveldb_writeoptions_set_sync(handle->write_options, options->durability == PEER_CLASS_POWER);
    leveldb_options_set_create_if_missing(handle->options, 1);
    leveldb_options_set_compression(handle->options, leveldb_no_compression);
    leveldb_options_set_write_buffer_size(handle->options, 64u << 20);
    leveldb_options_set_max_file_size(handle->options, 32u << 20);
    leveldb_options_set_cache(handle->options, handle->cache);
    leveldb_options_set_filter_policy(handle->options, handle->filter);
    handle->db = leveldb_open(handle->options, options->path, &error);
    if (error) {
        handle->db = NULL;
        leveldb_peer_close(handle);
        return leveldb_failed("open", error);
    }
    *out_handle = handle;
    return PEER_OK;
}

/* One sorted run, nothing in the memtable. */
static int leveldb_after_load(void *opaque)
{
    struct leveldb_handle *handle = opaque;

    leveldb_compact_range(handle->db, NULL, 0, NULL, 0);
    return PEER_OK;
}

static int leveldb_session_open(void *handle, void **out_session)
{
    *out_session = handle;
    return PEER_OK;
}

static void leveldb_session_close(void *session)
{
    (void)session;
}

static int leveldb_peer_put(void *session, struct peer_bytes key, struct peer_bytes value)
{
    struct leveldb_handle *handle = session;
    char *error = NULL;

    leveldb_put(handle->db, handle->write_options, key.data, key.size, value.data, value.size,
                &error);
    return error ? leveldb_failed("put", error) : PEER_OK;
}

/* Deleting an absent key is no outcome of its own here: the tree is not read. */
static int leveldb_peer_del(void *session, struct peer_bytes key)
{
    struct leveldb_handle *handle = session;
    char *error = NULL;

    leveldb_delete(handle->db, handle->write_options, key.data, key.size, &error);
    return error ? leveldb_failed("del", error) : PEER_OK;
}

static int leveldb_peer_get(void *session, struct peer_bytes key, struct peer_check *check)
{
    struct leveldb_handle *handle = session;
    size_t size;
    char *error = NULL;
    char *data = leveldb_get(handle->db, handle->read_options, key.data, key.size, &size, &error);

    if (error)
        return leveldb_failed("get", error);
    if (!data)
        return PEER_NOT_FOUND;
    peer_check_value(check, data, size);
    leveldb_free(data);
    return PEER_OK;
}

const struct peer peer_leveldb = {
    .name = "leveldb",
    .version = BENCH_LEVELDB_VERSION,
    .settings =
        "no compression; write buffer 64 MiB; files 32 MiB; LRU cache larger than all data; "
        "Bloom filter, 10 bits; the C interface copies each value to the heap; "
        "compacted after the load",
    .process_note = "as asked: a write() of the log record per change, no sync",
    .power_note = "as asked: sync=true, concurrent writers share a sync",
    .open = leveldb_peer_open,
    .close = leveldb_peer_close,
    .session_open = leveldb_session_open,
    .session_close = leveldb_session_close,
    .put = leveldb_peer_put,
    .del = leveldb_peer_del,
    .get = leveldb_peer_get,
    .after_load = leveldb_after_load,
};
