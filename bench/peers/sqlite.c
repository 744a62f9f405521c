/* SPDX-License-Identifier: Apache-2.0
 *
 * sqlite.c -- SQLite in WAL mode: a table with prepared statements, one connection per session.
 *
 * 8-byte keys are the table's INTEGER PRIMARY KEY, the fastest table SQLite has; 20-byte keys the
 * BLOB primary key of a table WITHOUT ROWID. Writers queue on a mutex of our own: SQLite's
 * would sleep and retry.
 */
#include "../peer.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

struct sqlite_handle {
    char path[4096];
    enum peer_class durability;
    int key_is_number;
    uint64_t cache_kib;
    pthread_mutex_t write_lock;
    sqlite3 *keeper; /* keeps the log from being folded in and removed between sessions */
};

struct sqlite_session {
    struct sqlite_handle *handle;
    sqlite3 *db;
    sqlite3_stmt *put;
    sqlite3_stmt *del;
    sqlite3_stmt *get;
    sqlite3_stmt *scan;
    sqlite3_stmt *begin;
    sqlite3_stmt *commit;
};

static int sqlite_failed(sqlite3 *db, const char *what)
{
    fprintf(stderr, "sqlite: %s: %s\n", what, db ? sqlite3_errmsg(db) : "no memory");
    return PEER_FAILED;
}

static int sqlite_connect(const struct sqlite_handle *handle, sqlite3 **out_db)
{
    static const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    const char *synchronous = handle->durability == PEER_CLASS_POWER ? "FULL" : "OFF";
    sqlite3 *db = NULL;
    char pragmas[512];

    snprintf(pragmas, sizeof(pragmas),
             "PRAGMA journal_mode=WAL; PRAGMA synchronous=%s; PRAGMA temp_store=MEMORY;"
             "PRAGMA mmap_size=%llu; PRAGMA cache_size=-%llu;",
             synchronous, (unsigned long long)handle->cache_kib * 1024,
             (unsigned long long)handle->cache_kib);
    if (sqlite3_open_v2(handle->path, &db, flags, NULL) != SQLITE_OK ||
        sqlite3_busy_timeout(db, 60000) != SQLITE_OK ||
        sqlite3_exec(db, pragmas, NULL, NULL, NULL) != SQLITE_OK) {
        (void)sqlite_failed(db, "connect");
        sqlite3_close(db);
        return PEER_FAILED;
    }
    *out_db = db;
    return PEER_OK;
}

static void sqlite_close(void *opaque)
{
    struct sqlite_handle *handle = opaque;

    if (handle->keeper)
        sqlite3_close(handle->keeper);
    pthread_mutex_destroy(&handle->write_lock);
    free(handle);
}

static int sqlite_open(const struct peer_options *options, void **out_handle)
{
    struct sqlite_handle *handle = calloc(1, sizeof(*handle));
    size_t record_size = options->key_size + options->value_size + 64;
    const char *table;

    if (!handle)
        return PEER_FAILED;
    snprintf(handle->path, sizeof(handle->path), "%s/data.sqlite", options->path);
    handle->durability = options->durability;
    handle->key_is_number = options->key_size == 8;
    handle->cache_kib = (64u << 10) + options->record_count * record_size * 2 / 1024;
    pthread_mutex_init(&handle->write_lock, NULL);
    table = handle->key_is_number
                ? "CREATE TABLE IF NOT EXISTS t (k INTEGER PRIMARY KEY, v BLOB)"
                : "CREATE TABLE IF NOT EXISTS t (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID";
    if (sqlite_connect(handle, &handle->keeper) != PEER_OK) goto out;
    if (sqlite3_exec(handle->keeper, table, NULL, NULL, NULL) != SQLITE_OK) {
        (void)sqlite_failed(handle->keeper, "create");
        goto out;
    }
    *out_handle = handle;
    handle = NULL;
out:
    if (!handle)
        return PEER_OK;
    sqlite_close(handle);
    return PEER_FAILED;
}

/* An empty log: reads go to the table alone. */
static int sqlite_after_load(void *opaque)
{
    struct sqlite_handle *handle = opaque;

    if (sqlite3_exec(handle->keeper, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL) !=
        SQLITE_OK)
        return sqlite_failed(handle->keeper, "checkpoint");
    return PEER_OK;
}

static void sqlite_session_close(void *opaque)
{
    struct sqlite_session *session = opaque;

    sqlite3_finalize(session->put);
    sqlite3_finalize(session->del);
    sqlite3_finalize(session->get);
    sqlite3_finalize(session->scan);
    sqlite3_finalize(session->begin);
    sqlite3_finalize(session->commit);
    sqlite3_close(session->db);
    free(session);
}

static int sqlite_prepare(sqlite3 *db, const char *text, sqlite3_stmt **out_statement)
{
    return sqlite3_prepare_v3(db, text, -1, SQLITE_PREPARE_PERSISTENT, out_statement, NULL);
}

static int sqlite_session_open(void *handle, void **out_session)
{
    struct sqlite_session *session = calloc(1, sizeof(*session));

    if (!session)
        return PEER_FAILED;
    session->handle = handle;
    if (sqlite_connect(session->handle, &session->db) != PEER_OK) goto out;
    if (sqlite_prepare(session->db, "INSERT OR REPLACE INTO t VALUES (?1, ?2)", &session->put) ||
        sqlite_prepare(session->db, "DELETE FROM t WHERE k = ?1", &session->del) ||
        sqlite_prepare(session->db, "SELECT v FROM t WHERE k = ?1", &session->get) ||
        sqlite_prepare(session->db, "SELECT k, v FROM t WHERE k >= ?1 ORDER BY k",
                       &session->scan) ||
        sqlite_prepare(session->db, "BEGIN", &session->begin) ||
        sqlite_prepare(session->db, "COMMIT", &session->commit)) {
        (void)sqlite_failed(session->db, "prepare");
        goto out;
    }
    *out_session = session;
    session = NULL;
out:
    if (!session)
        return PEER_OK;
    sqlite_session_close(session);
    return PEER_FAILED;
}

static void sqlite_bind_key(struct sqlite_session *session, sqlite3_stmt *statement,
                            struct peer_bytes key)
{
    uint64_t number;

    if (session->handle->key_is_number) {
        memcpy(&number, key.data, 8);
        sqlite3_bind_int64(statement, 1, (sqlite3_int64)__builtin_bswap64(number));
    } else {
        sqlite3_bind_blob(statement, 1, key.data, (int)key.size, SQLITE_STATIC);
    }
}

static int sqlite_run(struct sqlite_session *session, sqlite3_stmt *statement)
{
    int rc = sqlite3_step(statement);

    sqlite3_reset(statement);
    return rc == SQLITE_DONE ? PEER_OK : sqlite_failed(session->db, "step");
}

static int sqlite_put(void *opaque, struct peer_bytes key, struct peer_bytes value)
{
    struct sqlite_session *session = opaque;
    int rc;

    sqlite_bind_key(session, session->put, key);
    sqlite3_bind_blob(session->put, 2, value.data, (int)value.size, SQLITE_STATIC);
    pthread_mutex_lock(&session->handle->write_lock);
    rc = sqlite_run(session, session->put);
    pthread_mutex_unlock(&session->handle->write_lock);
    return rc;
}

static int sqlite_del(void *opaque, struct peer_bytes key)
{
    struct sqlite_session *session = opaque;
    int changed = 0;
    int rc;

    sqlite_bind_key(session, session->del, key);
    pthread_mutex_lock(&session->handle->write_lock);
    rc = sqlite_run(session, session->del);
    if (rc == PEER_OK)
        changed = sqlite3_changes(session->db);
    pthread_mutex_unlock(&session->handle->write_lock);
    if (rc != PEER_OK)
        return rc;
    return changed ? PEER_OK : PEER_NOT_FOUND;
}

static int sqlite_get(void *opaque, struct peer_bytes key, struct peer_check *check)
{
    struct sqlite_session *session = opaque;
    int rc;

    sqlite_bind_key(session, session->get, key);
    rc = sqlite3_step(session->get);
    if (rc == SQLITE_ROW) {
        const void *data = sqlite3_column_blob(session->get, 0);

        peer_check_value(check, data, (size_t)sqlite3_column_bytes(session->get, 0));
    }
    sqlite3_reset(session->get);
    if (rc == SQLITE_ROW)
        return PEER_OK;
    return rc == SQLITE_DONE ? PEER_NOT_FOUND : sqlite_failed(session->db, "get");
}

/* Only for keys that are bytes: as numbers they would be sorted by sign first. */
static int sqlite_scan(void *opaque, struct peer_scan *scan)
{
    struct sqlite_session *session = opaque;
    sqlite3_stmt *statement = session->scan;
    struct peer_bytes key, value;
    int rc;

    sqlite3_bind_blob(statement, 1, scan->from.size ? scan->from.data : "", (int)scan->from.size,
                      SQLITE_STATIC);
    while ((rc = sqlite3_step(statement)) == SQLITE_ROW) {
        key.data = sqlite3_column_blob(statement, 0);
        key.size = (size_t)sqlite3_column_bytes(statement, 0);
        value.data = sqlite3_column_blob(statement, 1);
        value.size = (size_t)sqlite3_column_bytes(statement, 1);
        if (!peer_scan_add(scan, key, value))
            break;
    }
    sqlite3_reset(statement);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? PEER_OK : sqlite_failed(session->db, "scan");
}

static int sqlite_read_begin(void *opaque)
{
    struct sqlite_session *session = opaque;

    return sqlite_run(session, session->begin);
}

static void sqlite_read_end(void *opaque)
{
    struct sqlite_session *session = opaque;

    (void)sqlite_run(session, session->commit);
}

const struct peer peer_sqlite = {
    .name = "sqlite",
    .version = SQLITE_VERSION,
    .settings =
        "WAL, a connection per thread, prepared statements, mmap_size and cache_size larger "
        "than all data; 8-byte keys as INTEGER PRIMARY KEY, others WITHOUT ROWID; reads in a "
        "read transaction per section",
    .process_note =
        "synchronous=OFF: a write() of the log per change, no sync; a power cut may ruin "
        "the file (weaker than a bounded loss)",
    .power_note = "as asked: synchronous=FULL, a sync of the log per commit, one writer at a time",
    .order = PEER_ORDER_KEY,
    .open = sqlite_open,
    .close = sqlite_close,
    .session_open = sqlite_session_open,
    .session_close = sqlite_session_close,
    .put = sqlite_put,
    .del = sqlite_del,
    .get = sqlite_get,
    .after_load = sqlite_after_load,
    .read_begin = sqlite_read_begin,
    .read_end = sqlite_read_end,
    .scan = sqlite_scan,
    .scan_begin = sqlite_read_begin,
    .scan_end = sqlite_read_end,
};
