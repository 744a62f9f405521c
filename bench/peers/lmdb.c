/* SPDX-License-Identifier: Apache-2.0
 *
 * lmdb.c -- LMDB: a copy-on-write B+tree in one mapped file.
 *
 * A session owns a read transaction that is reset between read sections and renewed for each:
 * the cheapest way LMDB has to read. Scans use one cursor, renewed with the transaction. Every put
 * and delete is a write transaction of its own. A snapshot is a read transaction.
 */
#include "../peer.h"

#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>

struct lmdb_handle {
    MDB_env *env;
    MDB_dbi dbi;
};

struct lmdb_session {
    struct lmdb_handle *handle;
    MDB_txn *reader;    /* open inside a read section, reset outside */
    MDB_cursor *cursor; /* NULL before the first scan */
};

static int lmdb_failed(const char *what, int rc)
{
    fprintf(stderr, "lmdb: %s: %s\n", what, mdb_strerror(rc));
    return PEER_FAILED;
}

static void lmdb_close(void *opaque)
{
    struct lmdb_handle *handle = opaque;

    if (handle->env)
        mdb_env_close(handle->env);
    free(handle);
}

static int lmdb_open_table(struct lmdb_handle *handle)
{
    MDB_txn *txn = NULL;
    int rc;

    rc = mdb_txn_begin(handle->env, NULL, 0, &txn);
    if (rc)
        return rc;
    rc = mdb_dbi_open(txn, NULL, 0, &handle->dbi);
    if (rc) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

static int lmdb_open(const struct peer_options *options, void **out_handle)
{
    struct lmdb_handle *handle = calloc(1, sizeof(*handle));
    size_t record_size = options->key_size + options->value_size + 64;
    size_t map_size = (size_t)4 * 1024 * 1024 * 1024 + options->record_count * record_size * 6;
    unsigned flags = MDB_NOTLS | MDB_NORDAHEAD;
    int rc;

    if (!handle)
        return PEER_FAILED;
    if (options->durability == PEER_CLASS_PROCESS)
        flags |= MDB_NOSYNC | MDB_WRITEMAP | MDB_NOMEMINIT;
    rc = mdb_env_create(&handle->env);
    if (rc) goto out;
    rc = mdb_env_set_mapsize(handle->env, map_size); /* address space; the file is sparse */
    if (rc) goto out;
    rc = mdb_env_open(handle->env, options->path, flags, 0600);
    if (rc) goto out;
    rc = lmdb_open_table(handle);
    if (rc) goto out;
    *out_handle = handle;
    handle = NULL;
out:
    if (handle)
        lmdb_close(handle);
    return rc ? lmdb_failed("open", rc) : PEER_OK;
}

static int lmdb_session_open(void *handle, void **out_session)
{
    struct lmdb_session *session = calloc(1, sizeof(*session));
    int rc;

    if (!session)
        return PEER_FAILED;
    session->handle = handle;
    rc = mdb_txn_begin(session->handle->env, NULL, MDB_RDONLY, &session->reader);
    if (rc) {
        free(session);
        return lmdb_failed("session", rc);
    }
    mdb_txn_reset(session->reader);
    *out_session = session;
    return PEER_OK;
}

static void lmdb_session_close(void *opaque)
{
    struct lmdb_session *session = opaque;

    if (session->cursor)
        mdb_cursor_close(session->cursor);
    mdb_txn_abort(session->reader);
    free(session);
}

static int lmdb_read_begin(void *opaque)
{
    struct lmdb_session *session = opaque;
    int rc = mdb_txn_renew(session->reader);

    return rc ? lmdb_failed("renew", rc) : PEER_OK;
}

static void lmdb_read_end(void *opaque)
{
    struct lmdb_session *session = opaque;

    mdb_txn_reset(session->reader);
}

static int lmdb_put(void *opaque, struct peer_bytes key, struct peer_bytes value)
{
    struct lmdb_session *session = opaque;
    MDB_val mdb_key = {key.size, (void *)key.data};
    MDB_val mdb_value = {value.size, (void *)value.data};
    MDB_txn *txn;
    int rc;

    rc = mdb_txn_begin(session->handle->env, NULL, 0, &txn);
    if (rc)
        return lmdb_failed("begin", rc);
    rc = mdb_put(txn, session->handle->dbi, &mdb_key, &mdb_value, 0);
    if (rc) {
        mdb_txn_abort(txn);
        return lmdb_failed("put", rc);
    }
    rc = mdb_txn_commit(txn);
    return rc ? lmdb_failed("commit", rc) : PEER_OK;
}

static int lmdb_del(void *opaque, struct peer_bytes key)
{
    struct lmdb_session *session = opaque;
    MDB_val mdb_key = {key.size, (void *)key.data};
    MDB_txn *txn;
    int rc;

    rc = mdb_txn_begin(session->handle->env, NULL, 0, &txn);
    if (rc)
        return lmdb_failed("begin", rc);
    rc = mdb_del(txn, session->handle->dbi, &mdb_key, NULL);
    if (rc) {
        mdb_txn_abort(txn);
        return rc == MDB_NOTFOUND ? PEER_NOT_FOUND : lmdb_failed("del", rc);
    }
    rc = mdb_txn_commit(txn);
    return rc ? lmdb_failed("commit", rc) : PEER_OK;
}

static int lmdb_get(void *opaque, struct peer_bytes key, struct peer_check *check)
{
    struct lmdb_session *session = opaque;
    MDB_val mdb_key = {key.size, (void *)key.data};
    MDB_val mdb_value;
    int rc = mdb_get(session->reader, session->handle->dbi, &mdb_key, &mdb_value);

    if (rc == MDB_NOTFOUND)
        return PEER_NOT_FOUND;
    if (rc)
        return lmdb_failed("get", rc);
    peer_check_value(check, mdb_value.mv_data, mdb_value.mv_size);
    return PEER_OK;
}

static int lmdb_scan_begin(void *opaque)
{
    struct lmdb_session *session = opaque;
    int rc = mdb_txn_renew(session->reader);

    if (rc)
        return lmdb_failed("renew", rc);
    rc = session->cursor ? mdb_cursor_renew(session->reader, session->cursor)
                         : mdb_cursor_open(session->reader, session->handle->dbi, &session->cursor);
    return rc ? lmdb_failed("cursor", rc) : PEER_OK;
}

static int lmdb_walk(MDB_cursor *cursor, struct peer_scan *scan)
{
    MDB_val key = {scan->from.size, (void *)scan->from.data};
    MDB_val value;
    int rc = mdb_cursor_get(cursor, &key, &value, scan->from.size ? MDB_SET_RANGE : MDB_FIRST);

    while (!rc && peer_scan_add(scan, (struct peer_bytes){key.mv_data, key.mv_size},
                                (struct peer_bytes){value.mv_data, value.mv_size}))
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    return rc && rc != MDB_NOTFOUND ? lmdb_failed("scan", rc) : PEER_OK;
}

static int lmdb_scan(void *opaque, struct peer_scan *scan)
{
    return lmdb_walk(((struct lmdb_session *)opaque)->cursor, scan);
}

static int lmdb_snapshot_open(void *handle, void **out_snapshot)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(((struct lmdb_handle *)handle)->env, NULL, MDB_RDONLY, &txn);

    if (rc)
        return lmdb_failed("snapshot", rc);
    *out_snapshot = txn;
    return PEER_OK;
}

static void lmdb_snapshot_close(void *handle, void *snapshot)
{
    (void)handle;
    mdb_txn_abort(snapshot);
}

static int lmdb_snapshot_walk(void *handle, void *snapshot, struct peer_scan *scan)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(snapshot, ((struct lmdb_handle *)handle)->dbi, &cursor);

    if (rc)
        return lmdb_failed("cursor", rc);
    rc = lmdb_walk(cursor, scan);
    mdb_cursor_close(cursor);
    return rc;
}

#define LMDB_TEXT_OF(number) #number
#define LMDB_TEXT(number) LMDB_TEXT_OF(number)

const struct peer peer_lmdb = {
    .name = "lmdb",
    .version = LMDB_TEXT(MDB_VERSION_MAJOR) "." LMDB_TEXT(MDB_VERSION_MINOR) "." LMDB_TEXT(
        MDB_VERSION_PATCH),
    .settings = "NOTLS|NORDAHEAD; process: NOSYNC|WRITEMAP|NOMEMINIT; one write transaction per "
                "change; values read in place inside a renewed read transaction; scans by a "
                "cursor that stays open",
    .process_note = "as asked; a power cut may ruin the whole file (weaker than a bounded loss)",
    .power_note = "as asked; pwrite and fdatasync per commit, writers one after the other",
    .order = PEER_ORDER_KEY,
    .open = lmdb_open,
    .close = lmdb_close,
    .session_open = lmdb_session_open,
    .session_close = lmdb_session_close,
    .put = lmdb_put,
    .del = lmdb_del,
    .get = lmdb_get,
    .read_begin = lmdb_read_begin,
    .read_end = lmdb_read_end,
    .scan = lmdb_scan,
    .scan_begin = lmdb_scan_begin,
    .scan_end = lmdb_read_end,
    .snapshot_open = lmdb_snapshot_open,
    .snapshot_close = lmdb_snapshot_close,
    .snapshot_walk = lmdb_snapshot_walk,
};
