/* SPDX-License-Identifier: Apache-2.0
 *
 * keepmap.c -- Keepmap through its public header, as a user would call it: a map of each kind, and
 * a KM_SORTED map of a store in memory.
 */
#include "../peer.h"

#include <keepmap/keepmap.h>
#include <stdio.h>
#include <stdlib.h>

/* Of include/keepmap/keepmap.h: the default of log_size_min. */
#define KEEPMAP_LOG_SIZE_MIN (UINT64_C(4) << 20)

struct keepmap_handle {
    km_store *store;
    km_map *map;
};

struct keepmap_session {
    struct keepmap_handle *handle;
    km_reader *reader; /* inside a read section */
    km_cursor *cursor; /* NULL before the first scan from a key */
    km_buffer key;
    km_buffer value;
};

static int keepmap_failed(const char *what, km_status status)
{
    fprintf(stderr, "keepmap: %s: %s\n", what, km_status_name(status));
    return PEER_FAILED;
}

static void keepmap_close(void *opaque)
{
    struct keepmap_handle *handle = opaque;
    km_status status = km_close(handle->store, NULL);

    if (status)
        (void)keepmap_failed("close", status);
    free(handle);
}

static int keepmap_open_kind(const struct peer_options *options, km_map_kind kind, int in_memory,
                             void **out_handle)
{
    struct keepmap_handle *handle = calloc(1, sizeof(*handle));
    km_options km = KM_OPTIONS_INIT;
    km_error error;
    km_status status;

    if (!handle)
        return PEER_FAILED;
    km.durability = options->durability == PEER_CLASS_POWER ? KM_DURABLE_POWER : KM_DURABLE_PROCESS;
    km.compact_percent = options->compact_percent;
    status = in_memory ? km_open_memory(&km, &handle->store, &error)
                       : km_open(options->path, &km, &handle->store, &error);
    if (status) {
        fprintf(stderr, "keepmap: %s\n", error.message);
        free(handle);
        return keepmap_failed("open", status);
    }
    status = km_map_open_or_create(handle->store, km_bytes_of_string("bench"), kind, &handle->map);
    if (status) {
        keepmap_close(handle);
        return keepmap_failed("map", status);
    }
    *out_handle = handle;
    return PEER_OK;
}

static int keepmap_open(const struct peer_options *options, void **out_handle)
{
    return keepmap_open_kind(options, KM_HASH, 0, out_handle);
}

static int keepmap_insertion_open(const struct peer_options *options, void **out_handle)
{
    return keepmap_open_kind(options, KM_INSERTION, 0, out_handle);
}

static int keepmap_sorted_open(const struct peer_options *options, void **out_handle)
{
    return keepmap_open_kind(options, KM_SORTED, 0, out_handle);
}

static int keepmap_memory_open(const struct peer_options *options, void **out_handle)
{
    return keepmap_open_kind(options, KM_SORTED, 1, out_handle);
}

static int keepmap_session_open(void *handle, void **out_session)
{
    struct keepmap_session *session = calloc(1, sizeof(*session));

    if (!session)
        return PEER_FAILED;
    session->handle = handle;
    *out_session = session;
    return PEER_OK;
}

static void keepmap_session_close(void *opaque)
{
    struct keepmap_session *session = opaque;

    km_cursor_close(session->cursor);
    km_buffer_free(&session->key);
    km_buffer_free(&session->value);
    free(session);
}

static int keepmap_read_begin(void *opaque)
{
    struct keepmap_session *session = opaque;
    km_status status = km_read_begin(session->handle->store, &session->reader);

    return status ? keepmap_failed("read_begin", status) : PEER_OK;
}

static void keepmap_read_end(void *opaque)
{
    struct keepmap_session *session = opaque;

    km_read_end(session->reader);
    session->reader = NULL;
}

static int keepmap_put(void *opaque, struct peer_bytes key, struct peer_bytes value)
{
    struct keepmap_session *session = opaque;
    km_status status = km_put(session->handle->map, km_bytes_of(key.data, key.size),
                              km_bytes_of(value.data, value.size), NULL);

    return status ? keepmap_failed("put", status) : PEER_OK;
}

static int keepmap_del(void *opaque, struct peer_bytes key)
{
    struct keepmap_session *session = opaque;
    km_status status = km_del(session->handle->map, km_bytes_of(key.data, key.size), NULL);

    if (status == KM_NOT_FOUND)
        return PEER_NOT_FOUND;
    return status ? keepmap_failed("del", status) : PEER_OK;
}

static int keepmap_get(void *opaque, struct peer_bytes key, struct peer_check *check)
{
    struct keepmap_session *session = opaque;
    km_bytes value;
    km_status status = km_get_ref(session->reader, session->handle->map,
                                  km_bytes_of(key.data, key.size), &value);

    if (status == KM_NOT_FOUND)
        return PEER_NOT_FOUND;
    if (status)
        return keepmap_failed("get_ref", status);
    peer_check_value(check, value.data, value.size);
    return PEER_OK;
}

static int keepmap_get_many(void *opaque, const struct peer_bytes *keys, struct peer_check *checks,
                            size_t count)
{
    struct keepmap_session *session = opaque;
    km_bytes km_keys[PEER_MANY_MAX] = {{NULL, 0}};
    km_bytes values[PEER_MANY_MAX];
    km_status status;
    size_t i;

    for (i = 0; i < count; i++)
        km_keys[i] = km_bytes_of(keys[i].data, keys[i].size);
    status = km_get_many(session->reader, session->handle->map, km_keys, count, values, NULL);
    if (status)
        return keepmap_failed("get_many", status);
    for (i = 0; i < count; i++) {
        if (values[i].data)
            peer_check_value(&checks[i], values[i].data, values[i].size);
    }
    return PEER_OK;
}

/* Pass on what a cursor gives, until it ends or the scan does. */
static int keepmap_walk(km_cursor *cursor, struct peer_scan *scan)
{
    km_bytes key, value;
    km_status status;

    do {
        status = km_cursor_next(cursor, &key, &value);
        if (status)
            return status == KM_END ? PEER_OK : keepmap_failed("cursor_next", status);
    } while (peer_scan_add(scan, (struct peer_bytes){key.data, key.size},
                           (struct peer_bytes){value.data, value.size}));
    return PEER_OK;
}

static int keepmap_scan_with(struct keepmap_handle *handle, const km_cursor_options *options,
                             struct peer_scan *scan)
{
    km_cursor *cursor;
    km_status status = km_cursor_open(handle->map, options, &cursor);
    int rc;

    if (status)
        return keepmap_failed("cursor_open", status);
    rc = keepmap_walk(cursor, scan);
    km_cursor_close(cursor);
    return rc;
}

static int keepmap_scan(void *opaque, struct peer_scan *scan)
{
    struct keepmap_session *session = opaque;
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_status status = KM_OK;

    if (!scan->from.size)
        return keepmap_scan_with(session->handle, NULL, scan);
    if (scan->prefix_size) {
        options.range.prefix = km_bytes_of(scan->from.data, scan->prefix_size);
        return keepmap_scan_with(session->handle, &options, scan);
    }
    if (!session->cursor)
        status = km_cursor_open(session->handle->map, NULL, &session->cursor);
    if (!status)
        status = km_cursor_seek(session->cursor, km_bytes_of(scan->from.data, scan->from.size));
    return status ? keepmap_failed("cursor_seek", status) : keepmap_walk(session->cursor, scan);
}

static int keepmap_found(const struct keepmap_session *session, const char *what, km_status status,
                         struct peer_scan *scan)
{
    if (status == KM_NOT_FOUND)
        return PEER_NOT_FOUND;
    if (status)
        return keepmap_failed(what, status);
    peer_scan_add(scan, (struct peer_bytes){session->key.data, session->key.size},
                  (struct peer_bytes){session->value.data, session->value.size});
    return PEER_OK;
}

static int keepmap_get_index(void *opaque, uint64_t position, struct peer_scan *scan)
{
    struct keepmap_session *session = opaque;
    km_status status = km_get_index(session->handle->map, position, &session->key, &session->value);

    return keepmap_found(session, "get_index", status, scan);
}

static int keepmap_pop_first(void *opaque, struct peer_scan *scan)
{
    struct keepmap_session *session = opaque;
    km_status status = km_pop_first(session->handle->map, &session->key, &session->value, NULL);

    return keepmap_found(session, "pop_first", status, scan);
}

static int keepmap_pop_last(void *opaque, struct peer_scan *scan)
{
    struct keepmap_session *session = opaque;
    km_status status = km_pop_last(session->handle->map, &session->key, &session->value, NULL);

    return keepmap_found(session, "pop_last", status, scan);
}

static int keepmap_snapshot_open(void *opaque, void **out_snapshot)
{
    struct keepmap_handle *handle = opaque;
    km_snapshot *snapshot;
    km_status status = km_snapshot_open(handle->store, &snapshot);

    if (status)
        return keepmap_failed("snapshot_open", status);
    *out_snapshot = snapshot;
    return PEER_OK;
}

static void keepmap_snapshot_close(void *handle, void *snapshot)
{
    (void)handle;
    km_snapshot_close(snapshot);
}

static int keepmap_snapshot_walk(void *handle, void *snapshot, struct peer_scan *scan)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;

    options.snapshot = snapshot;
    return keepmap_scan_with(handle, &options, scan);
}

static uint64_t keepmap_snapshot_bytes(void *handle, void *snapshot)
{
    km_snapshot_info info = {.struct_size = sizeof(info)};

    (void)handle;
    return km_snapshot_describe(snapshot, &info) == KM_OK ? info.memory_bytes : 0;
}

static void keepmap_figures(void *opaque, struct peer_figures *out_figures)
{
    struct keepmap_handle *handle = opaque;
    km_stats stats = {.struct_size = sizeof(km_stats)};

    if (km_store_stats(handle->store, &stats) != KM_OK)
        return;
    out_figures->index_bytes = stats.index_bytes;
    out_figures->recovered_ns = stats.recovered_ns;
    out_figures->recovered_records = stats.recovered_records;
    out_figures->log_bytes = stats.log_bytes;
    out_figures->live_bytes = stats.live_bytes;
    out_figures->emptied_bytes = stats.emptied_bytes;
    out_figures->pinned_bytes = stats.pinned_bytes;
    out_figures->log_size_min = KEEPMAP_LOG_SIZE_MIN;
    out_figures->compacted_bytes = stats.compacted_bytes;
    out_figures->freed_segments = stats.freed_segments;
    out_figures->head = stats.head;
    out_figures->image_count = stats.image_count;
    out_figures->image_bytes = stats.image_bytes;
    out_figures->replay_bytes = stats.replay_bytes;
}

#define KEEPMAP_TEXT_OF(number) #number
#define KEEPMAP_TEXT(number) KEEPMAP_TEXT_OF(number)

#define KEEPMAP_VERSION                                                                            \
    KEEPMAP_TEXT(KM_VERSION_MAJOR)                                                                 \
    "." KEEPMAP_TEXT(KM_VERSION_MINOR) "." KEEPMAP_TEXT(KM_VERSION_PATCH)

static const char keepmap_process_note[] =
    "as asked, and stronger: synced in the background each second, so a power cut takes at most "
    "the last second";
static const char keepmap_power_note[] = "as asked: concurrent callers share a sync";

const struct peer peer_keepmap = {
    .name = "keepmap",
    .version = KEEPMAP_VERSION,
    .settings = "defaults; KM_HASH map; km_get_ref and km_get_many inside read sections",
    .process_note = keepmap_process_note,
    .power_note = keepmap_power_note,
    .order = PEER_ORDER_NONE,
    .open = keepmap_open,
    .close = keepmap_close,
    .session_open = keepmap_session_open,
    .session_close = keepmap_session_close,
    .put = keepmap_put,
    .del = keepmap_del,
    .get = keepmap_get,
    .get_many = keepmap_get_many,
    .read_begin = keepmap_read_begin,
    .read_end = keepmap_read_end,
    .figures = keepmap_figures,
    .scan = keepmap_scan,
    .snapshot_open = keepmap_snapshot_open,
    .snapshot_close = keepmap_snapshot_close,
    .snapshot_walk = keepmap_snapshot_walk,
    .snapshot_bytes = keepmap_snapshot_bytes,
};

const struct peer peer_keepmap_insertion = {
    .name = "keepmap-insertion",
    .version = KEEPMAP_VERSION,
    .settings = "defaults; KM_INSERTION map; km_get_ref inside read sections; scans by a cursor",
    .process_note = keepmap_process_note,
    .power_note = keepmap_power_note,
    .order = PEER_ORDER_INSERTION,
    .open = keepmap_insertion_open,
    .close = keepmap_close,
    .session_open = keepmap_session_open,
    .session_close = keepmap_session_close,
    .put = keepmap_put,
    .del = keepmap_del,
    .get = keepmap_get,
    .get_many = keepmap_get_many,
    .read_begin = keepmap_read_begin,
    .read_end = keepmap_read_end,
    .figures = keepmap_figures,
    .scan = keepmap_scan,
    .snapshot_open = keepmap_snapshot_open,
    .snapshot_close = keepmap_snapshot_close,
    .snapshot_walk = keepmap_snapshot_walk,
    .snapshot_bytes = keepmap_snapshot_bytes,
    .get_index = keepmap_get_index,
    .pop_first = keepmap_pop_first,
    .pop_last = keepmap_pop_last,
};

const struct peer peer_keepmap_sorted = {
    .name = "keepmap-sorted",
    .version = KEEPMAP_VERSION,
    .settings = "defaults; KM_SORTED map; km_get_ref inside read sections; scans by a cursor",
    .process_note = keepmap_process_note,
    .power_note = keepmap_power_note,
    .order = PEER_ORDER_KEY,
    .open = keepmap_sorted_open,
    .close = keepmap_close,
    .session_open = keepmap_session_open,
    .session_close = keepmap_session_close,
    .put = keepmap_put,
    .del = keepmap_del,
    .get = keepmap_get,
    .get_many = keepmap_get_many,
    .read_begin = keepmap_read_begin,
    .read_end = keepmap_read_end,
    .figures = keepmap_figures,
    .scan = keepmap_scan,
    .snapshot_open = keepmap_snapshot_open,
    .snapshot_close = keepmap_snapshot_close,
    .snapshot_walk = keepmap_snapshot_walk,
    .snapshot_bytes = keepmap_snapshot_bytes,
    .pop_first = keepmap_pop_first,
    .pop_last = keepmap_pop_last,
};

const struct peer peer_keepmap_memory = {
    .name = "keepmap-memory",
    .version = KEEPMAP_VERSION,
    .settings = "KM_SORTED map of a store in memory",
    .process_note = "none: nothing survives the process",
    .order = PEER_ORDER_KEY,
    .open = keepmap_memory_open,
    .close = keepmap_close,
    .session_open = keepmap_session_open,
    .session_close = keepmap_session_close,
    .put = keepmap_put,
    .del = keepmap_del,
    .get = keepmap_get,
    .get_many = keepmap_get_many,
    .read_begin = keepmap_read_begin,
    .read_end = keepmap_read_end,
    .figures = keepmap_figures,
    .scan = keepmap_scan,
    .snapshot_open = keepmap_snapshot_open,
    .snapshot_close = keepmap_snapshot_close,
    .snapshot_walk = keepmap_snapshot_walk,
    .snapshot_bytes = keepmap_snapshot_bytes,
    .pop_first = keepmap_pop_first,
    .pop_last = keepmap_pop_last,
};
