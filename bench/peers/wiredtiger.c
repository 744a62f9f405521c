/* SPDX-License-Identifier: Apache-2.0
 *
 * wiredtiger.c -- WiredTiger: a B+tree in memory with a write-ahead log and checkpoints.
 *
 * A session of ours is one of theirs with a cursor that stays open. Values are read in place,
 * inside a read transaction per read section.
 */
#include "../peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <wiredtiger.h>

struct wiredtiger_session {
    WT_SESSION *session;
    WT_CURSOR *cursor;
};

static int wiredtiger_failed(const char *what, int rc)
{
    fprintf(stderr, "wiredtiger: %s: %s\n", what, wiredtiger_strerror(rc));
    return PEER_FAILED;
}

static void wiredtiger_peer_close(void *handle)
{
    WT_CONNECTION *connection = handle;
    int rc = connection->close(connection, NULL);

    if (rc)
        (void)wiredtiger_failed("close", rc);
}

static int wiredtiger_peer_open(const struct peer_options *options, void **out_handle)
{
    size_t record_size = options->key_size + options->value_size + 64;
    const char *method = options->durability == PEER_CLASS_POWER ? "fsync" : "none";
    WT_CONNECTION *connection = NULL;
    WT_SESSION *session;
    char config[512];
    int rc;

    snprintf(
        config, sizeof(config),
        "create,cache_size=%lluMB,session_max=64,log=(enabled=true,file_max=64MB,archive=true),"
        "transaction_sync=(enabled=true,method=%s),checkpoint=(log_size=256MB),"
        "eviction=(threads_min=1,threads_max=2)",
        (unsigned long long)(512 + (options->record_count * record_size * 4 >> 20)), method);
    rc = wiredtiger_open(options->path, NULL, config, &connection);
    if (rc)
        return wiredtiger_failed("open", rc);
    rc = connection->open_session(connection, NULL, NULL, &session);
    if (rc) goto out;
    rc = session->create(session, "table:data", "key_format=u,value_format=u,type=file");
    if (rc) goto out;
    rc = session->close(session, NULL);
    if (rc) goto out;
    *out_handle = connection;
    connection = NULL;
out:
    if (connection)
        wiredtiger_peer_close(connection);
    return rc ? wiredtiger_failed("create", rc) : PEER_OK;
}

static int wiredtiger_after_load(void *handle)
{
    WT_CONNECTION *connection = handle;
    WT_SESSION *session;
    int rc = connection->open_session(connection, NULL, NULL, &session);

    if (rc)
        return wiredtiger_failed("session", rc);
    rc = session->checkpoint(session, NULL);
    session->close(session, NULL);
    return rc ? wiredtiger_failed("checkpoint", rc) : PEER_OK;
}

static void wiredtiger_session_close(void *opaque)
{
    struct wiredtiger_session *session = opaque;

    session->session->close(session->session, NULL); /* closes its cursors too */
    free(session);
}

static int wiredtiger_session_open(void *handle, void **out_session)
{
    WT_CONNECTION *connection = handle;
    struct wiredtiger_session *session = calloc(1, sizeof(*session));
    int rc;

    if (!session)
        return PEER_FAILED;
    rc = connection->open_session(connection, NULL, NULL, &session->session);
    if (rc) {
        free(session);
        return wiredtiger_failed("session", rc);
    }
    rc = session->session->open_cursor(session->session, "table:data", NULL, "overwrite=true",
                                       &session->cursor);
    if (rc) {
        wiredtiger_session_close(session);
        return wiredtiger_failed("cursor", rc);
    }
    *out_session = session;
    return PEER_OK;
}

static int wiredtiger_put(void *opaque, struct peer_bytes key, struct peer_bytes value)
{
    WT_CURSOR *cursor = ((struct wiredtiger_session *)opaque)->cursor;
    WT_ITEM wt_key = {.data = key.data, .size = key.size};
    WT_ITEM wt_value = {.data = value.data, .size = value.size};
    int rc;

    cursor->set_key(cursor, &wt_key);
    cursor->set_value(cursor, &wt_value);
    do { /* auto-commit: asks to be run again when the cache is full or a conflict arose */
        rc = cursor->insert(cursor);
    } while (rc == WT_ROLLBACK);
    return rc ? wiredtiger_failed("insert", rc) : PEER_OK;
}

static int wiredtiger_del(void *opaque, struct peer_bytes key)
{
    WT_CURSOR *cursor = ((struct wiredtiger_session *)opaque)->cursor;
    WT_ITEM wt_key = {.data = key.data, .size = key.size};
    int rc;

    cursor->set_key(cursor, &wt_key);
    rc = cursor->remove(cursor);
    if (rc && rc != WT_NOTFOUND)
        return wiredtiger_failed("remove", rc);
    return PEER_OK; /* with overwrite=true an absent key is no outcome of its own */
}

static int wiredtiger_get(void *opaque, struct peer_bytes key, struct peer_check *check)
{
    WT_CURSOR *cursor = ((struct wiredtiger_session *)opaque)->cursor;
    WT_ITEM wt_key = {.data = key.data, .size = key.size};
    WT_ITEM wt_value;
    int rc;

    cursor->set_key(cursor, &wt_key);
    rc = cursor->search(cursor);
    if (rc == WT_NOTFOUND)
        return PEER_NOT_FOUND;
    if (rc)
        return wiredtiger_failed("search", rc);
    rc = cursor->get_value(cursor, &wt_value);
    if (rc)
        return wiredtiger_failed("value", rc);
    peer_check_value(check, wt_value.data, wt_value.size);
    return PEER_OK;
}

static int wiredtiger_read_begin(void *opaque)
{
    WT_SESSION *session = ((struct wiredtiger_session *)opaque)->session;
    int rc = session->begin_transaction(session, "isolation=snapshot");

    return rc ? wiredtiger_failed("begin", rc) : PEER_OK;
}

static void wiredtiger_read_end(void *opaque)
{
    WT_SESSION *session = ((struct wiredtiger_session *)opaque)->session;
    int rc = session->rollback_transaction(session, NULL);

    if (rc)
        (void)wiredtiger_failed("end", rc);
}

static int wiredtiger_scan_first(WT_CURSOR *cursor, const struct peer_scan *scan)
{
    WT_ITEM wt_key = {.data = scan->from.data, .size = scan->from.size};
    int beside = 0;
    int rc;

    if (!scan->from.size) {
        rc = cursor->reset(cursor);
        return rc ? rc : cursor->next(cursor);
    }
    cursor->set_key(cursor, &wt_key);
    rc = cursor->search_near(cursor, &beside);
    return !rc && beside < 0 ? cursor->next(cursor) : rc;
}

static int wiredtiger_scan(void *opaque, struct peer_scan *scan)
{
    WT_CURSOR *cursor = ((struct wiredtiger_session *)opaque)->cursor;
    WT_ITEM wt_key;
    WT_ITEM wt_value;
    int rc = wiredtiger_scan_first(cursor, scan);

    while (!rc) {
        rc = cursor->get_key(cursor, &wt_key);
        if (!rc)
            rc = cursor->get_value(cursor, &wt_value);
        if (rc || !peer_scan_add(scan, (struct peer_bytes){wt_key.data, wt_key.size},
                                 (struct peer_bytes){wt_value.data, wt_value.size}))
            break;
        rc = cursor->next(cursor);
    }
    return rc && rc != WT_NOTFOUND ? wiredtiger_failed("scan", rc) : PEER_OK;
}

#define WIREDTIGER_TEXT_OF(number) #number
#define WIREDTIGER_TEXT(number) WIREDTIGER_TEXT_OF(number)

const struct peer peer_wiredtiger = {
    .name = "wiredtiger",
    .version = WIREDTIGER_TEXT(WIREDTIGER_VERSION_MAJOR) "." WIREDTIGER_TEXT(
        WIREDTIGER_VERSION_MINOR) "." WIREDTIGER_TEXT(WIREDTIGER_VERSION_PATCH),
    .settings =
        "B-tree, cache larger than all data, log files of 64 MiB, a checkpoint each 256 MiB "
        "of log, no compression; a cursor per thread; values read in place in a snapshot "
        "transaction per section",
    .process_note = "transaction_sync method=none: a write() of the log per change, no sync",
    .power_note = "as asked: transaction_sync method=fsync, concurrent commits share one",
    .order = PEER_ORDER_KEY,
    .open = wiredtiger_peer_open,
    .close = wiredtiger_peer_close,
    .session_open = wiredtiger_session_open,
    .session_close = wiredtiger_session_close,
    .put = wiredtiger_put,
    .del = wiredtiger_del,
    .get = wiredtiger_get,
    .after_load = wiredtiger_after_load,
    .read_begin = wiredtiger_read_begin,
    .read_end = wiredtiger_read_end,
    .scan = wiredtiger_scan,
    .scan_begin = wiredtiger_read_begin,
    .scan_end = wiredtiger_read_end,
};
