/* SPDX-License-Identifier: Apache-2.0
 *
 * berkeleydb.c -- Berkeley DB: a B+tree with page locks, buffer pool and write-ahead log.
 *
 * Every change is a transaction of its own (auto-commit). The log is removed at checkpoints, which
 * the writing session takes now and then, as an application would.
 */
#include "../peer.h"

#include <db.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    BERKELEYDB_CHECKPOINT_KIB = 64 * 1024,
    BERKELEYDB_CHECKPOINT_EVERY = 4096,
    BERKELEYDB_BULK_MANY = 500, /* records of a bulk get */
    BERKELEYDB_BULK_FEW = 32,   /* where only the prefix says how many there are */
    BERKELEYDB_BULK_EXTRA = 16  /* bytes beside a record */
};

struct berkeleydb_handle {
    DB_ENV *env;
    DB *db;
};

struct berkeleydb_session {
    struct berkeleydb_handle *handle;
    unsigned char *value; /* what get copies into */
    uint32_t value_capacity;
    uint32_t change_count;
    DBC *cursor; /* open among scans only: it keeps its page locked */
};

static int berkeleydb_failed(const char *what, int rc)
{
    fprintf(stderr, "berkeleydb: %s: %s\n", what, db_strerror(rc));
    return PEER_FAILED;
}

static void berkeleydb_close(void *opaque)
{
    struct berkeleydb_handle *handle = opaque;

    if (handle->db)
        handle->db->close(handle->db, 0);
    if (handle->env)
        handle->env->close(handle->env, 0);
    free(handle);
}

static int berkeleydb_open_env(struct berkeleydb_handle *handle, const struct peer_options *options)
{
    static const uint32_t flags = DB_CREATE | DB_INIT_MPOOL | DB_INIT_LOCK | DB_INIT_LOG |
                                  DB_INIT_TXN | DB_THREAD | DB_PRIVATE | DB_RECOVER;
    size_t record_size = options->key_size + options->value_size + 64;
    uint64_t cache_size = (256u << 20) + options->record_count * record_size * 2;
    DB_ENV *env;
    int rc = db_env_create(&handle->env, 0);

    if (rc)
        return rc;
    env = handle->env;
    rc = env->set_cachesize(env, (uint32_t)(cache_size >> 30),
                            (uint32_t)(cache_size & ((1u << 30) - 1)), 1);
    if (rc)
        return rc;
    rc = env->set_lk_detect(env, DB_LOCK_DEFAULT);
    if (rc)
        return rc;
    rc = env->set_lg_bsize(env, 4u << 20);
    if (rc)
        return rc;
    rc = env->set_lg_max(env, 64u << 20);
    if (rc)
        return rc;
    rc = env->log_set_config(env, DB_LOG_AUTO_REMOVE, 1);
    if (rc)
        return rc;
    if (options->durability == PEER_CLASS_PROCESS) {
        rc = env->set_flags(env, DB_TXN_WRITE_NOSYNC, 1);
        if (rc)
            return rc;
    }
    return env->open(env, options->path, flags, 0600);
}

static int berkeleydb_open(const struct peer_options *options, void **out_handle)
{
    struct berkeleydb_handle *handle = calloc(1, sizeof(*handle));
    int rc;

    if (!handle)
        return PEER_FAILED;
    rc = berkeleydb_open_env(handle, options);
    if (rc) goto out;
    rc = db_create(&handle->db, handle->env, 0);
    if (rc) goto out;
    rc = handle->db->set_pagesize(handle->db, 4096);
    if (rc) goto out;
    rc = handle->db->open(handle->db, NULL, "data.db", NULL, DB_BTREE,
                          DB_CREATE | DB_AUTO_COMMIT | DB_THREAD, 0600);
    if (rc) goto out;
    *out_handle = handle;
    handle = NULL;
out:
    if (handle)
        berkeleydb_close(handle);
    return rc ? berkeleydb_failed("open", rc) : PEER_OK;
}

static int berkeleydb_after_load(void *opaque)
{
    struct berkeleydb_handle *handle = opaque;
    int rc = handle->env->txn_checkpoint(handle->env, 0, 0, DB_FORCE);

    return rc ? berkeleydb_failed("checkpoint", rc) : PEER_OK;
}

static int berkeleydb_session_open(void *handle, void **out_session)
{
    struct berkeleydb_session *session = calloc(1, sizeof(*session));

    if (!session)
        return PEER_FAILED;
    session->handle = handle;
    session->value_capacity = 1u << 20;
    session->value = malloc(session->value_capacity);
    if (!session->value) {
        free(session);
        return PEER_FAILED;
    }
    *out_session = session;
    return PEER_OK;
}

static void berkeleydb_session_close(void *opaque)
{
    struct berkeleydb_session *session = opaque;

    free(session->value);
    free(session);
}

static DBT berkeleydb_borrow(struct peer_bytes bytes)
{
    DBT dbt;

    memset(&dbt, 0, sizeof(dbt));
    dbt.data = (void *)bytes.data;
    dbt.size = (uint32_t)bytes.size;
    dbt.ulen = dbt.size;
    dbt.flags = DB_DBT_USERMEM;
    return dbt;
}

static int berkeleydb_checkpoint(struct berkeleydb_session *session)
{
    DB_ENV *env = session->handle->env;
    int rc;

    if (++session->change_count % BERKELEYDB_CHECKPOINT_EVERY)
        return PEER_OK;
    rc = env->txn_checkpoint(env, BERKELEYDB_CHECKPOINT_KIB, 0, 0);
    return rc ? berkeleydb_failed("checkpoint", rc) : PEER_OK;
}

static int berkeleydb_put(void *opaque, struct peer_bytes key, struct peer_bytes value)
{
    struct berkeleydb_session *session = opaque;
    DB *db = session->handle->db;
    DBT db_key = berkeleydb_borrow(key);
    DBT db_value = berkeleydb_borrow(value);
    int rc;

    do { /* a deadlock's victim tries again: some other transaction has gone on */
        rc = db->put(db, NULL, &db_key, &db_value, DB_AUTO_COMMIT);
    } while (rc == DB_LOCK_DEADLOCK);
    return rc ? berkeleydb_failed("put", rc) : berkeleydb_checkpoint(session);
}

static int berkeleydb_del(void *opaque, struct peer_bytes key)
{
    struct berkeleydb_session *session = opaque;
    DB *db = session->handle->db;
    DBT db_key = berkeleydb_borrow(key);
    int rc;

    do {
        rc = db->del(db, NULL, &db_key, DB_AUTO_COMMIT);
    } while (rc == DB_LOCK_DEADLOCK);
    if (rc == DB_NOTFOUND)
        return PEER_NOT_FOUND;
    return rc ? berkeleydb_failed("del", rc) : berkeleydb_checkpoint(session);
}

static int berkeleydb_get(void *opaque, struct peer_bytes key, struct peer_check *check)
{
    struct berkeleydb_session *session = opaque;
    DB *db = session->handle->db;
    DBT db_key = berkeleydb_borrow(key);
    DBT db_value;
    int rc;

    memset(&db_value, 0, sizeof(db_value));
    db_value.data = session->value;
    db_value.ulen = session->value_capacity;
    db_value.flags = DB_DBT_USERMEM;
    do {
        rc = db->get(db, NULL, &db_key, &db_value, 0);
    } while (rc == DB_LOCK_DEADLOCK);
    if (rc == DB_NOTFOUND)
        return PEER_NOT_FOUND;
    if (rc)
        return berkeleydb_failed("get", rc);
    peer_check_value(check, db_value.data, db_value.size);
    return PEER_OK;
}

static int berkeleydb_scan_begin(void *opaque)
{
    struct berkeleydb_session *session = opaque;
    DB *db = session->handle->db;
    int rc = db->cursor(db, NULL, &session->cursor, 0);

    return rc ? berkeleydb_failed("cursor", rc) : PEER_OK;
}

static void berkeleydb_scan_end(void *opaque)
{
    struct berkeleydb_session *session = opaque;

    session->cursor->close(session->cursor);
    session->cursor = NULL;
}

/* Pass on what one bulk get brought; returns 0 if the walk is over. */
static int berkeleydb_scan_bulk(DBT *bulk, struct peer_scan *scan)
{
    struct peer_bytes key, value;
    void *place, *key_data, *value_data;

    DB_MULTIPLE_INIT(place, bulk);
    for (;;) {
        DB_MULTIPLE_KEY_NEXT(place, bulk, key_data, key.size, value_data, value.size);
        if (!place)
            return 1;
        key.data = key_data;
        value.data = value_data;
        if (!peer_scan_add(scan, key, value))
            return 0;
    }
}

static uint32_t berkeleydb_bulk_size(const struct berkeleydb_session *session,
                                     const struct peer_scan *scan)
{
    uint64_t count = scan->prefix_size ? BERKELEYDB_BULK_FEW : BERKELEYDB_BULK_MANY;
    uint64_t size;

    if (scan->limit < count)
        count = scan->limit;
    size = count * (scan->key_size + scan->check.value_size + BERKELEYDB_BULK_EXTRA) + 8192;
    if (size > session->value_capacity)
        size = session->value_capacity;
    return (uint32_t)size / 1024 * 1024; /* as it asks for */
}

/* A buffer full of records at a time, as its documentation advises. */
static int berkeleydb_scan(void *opaque, struct peer_scan *scan)
{
    struct berkeleydb_session *session = opaque;
    uint32_t step = scan->from.size ? DB_SET_RANGE : DB_FIRST;
    unsigned char key_space[PEER_SCAN_KEY_SIZE_MAX] = {0};
    DBT key;
    DBT bulk;
    int rc;

    memset(&key, 0, sizeof(key));
    if (scan->from.size)
        memcpy(key_space, scan->from.data, scan->from.size);
    key.data = key_space;
    key.size = (uint32_t)scan->from.size;
    key.ulen = sizeof(key_space);
    key.flags = DB_DBT_USERMEM;
    memset(&bulk, 0, sizeof(bulk));
    bulk.data = session->value;
    bulk.ulen = berkeleydb_bulk_size(session, scan);
    bulk.flags = DB_DBT_USERMEM;
    do {
        rc = session->cursor->get(session->cursor, &key, &bulk, step | DB_MULTIPLE_KEY);
        step = DB_NEXT;
    } while (!rc && berkeleydb_scan_bulk(&bulk, scan));
    return rc && rc != DB_NOTFOUND ? berkeleydb_failed("scan", rc) : PEER_OK;
}

#define BERKELEYDB_TEXT_OF(number) #number
#define BERKELEYDB_TEXT(number) BERKELEYDB_TEXT_OF(number)

const struct peer peer_berkeleydb = {
    .name = "berkeleydb",
    .version = BERKELEYDB_TEXT(DB_VERSION_MAJOR) "." BERKELEYDB_TEXT(
        DB_VERSION_MINOR) "." BERKELEYDB_TEXT(DB_VERSION_PATCH),
    .settings =
        "BTREE, 4 KiB pages, transactional environment in private memory, cache larger than "
        "all data, log buffer 4 MiB, a checkpoint each 64 MiB of log; gets copy; scans by bulk "
        "gets of a cursor",
    .process_note = "TXN_WRITE_NOSYNC: a write() of the log per change, no sync",
    .power_note = "as asked: a sync of the log per commit, concurrent commits share one",
    .order = PEER_ORDER_KEY,
    .open = berkeleydb_open,
    .close = berkeleydb_close,
    .session_open = berkeleydb_session_open,
    .session_close = berkeleydb_session_close,
    .put = berkeleydb_put,
    .del = berkeleydb_del,
    .get = berkeleydb_get,
    .after_load = berkeleydb_after_load,
    .scan = berkeleydb_scan,
    .scan_begin = berkeleydb_scan_begin,
    .scan_end = berkeleydb_scan_end,
};
