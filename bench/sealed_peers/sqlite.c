/* SPDX-License-Identifier: Apache-2.0
 *
 * sqlite.c -- SQLite: a table whose INTEGER PRIMARY KEY the key is, filled in one transaction.
 *
 * From random order the records go to a temporary table in order of arrival, and from there to the
 * table by INSERT ... SELECT ... ORDER BY: SQLite's own sorter.
 */
#include "../sealed.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

struct sqlite_table {
    sqlite3 *db;
    sqlite3_stmt *get;
    sqlite3_stmt *scan;
};

static int sqlite_failed(sqlite3 *db, const char *what)
{
    fprintf(stderr, "sqlite: %s: %s\n", what, db ? sqlite3_errmsg(db) : "no memory");
    return PEER_FAILED;
}

static int sqlite_run(sqlite3 *db, const char *text)
{
    return sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK ? PEER_OK
                                                                 : sqlite_failed(db, text);
}

static int sqlite_connect(const struct sealed_job *job, int flags, sqlite3 **out_db)
{
    char path[SEALED_PATH_MAX + 32];
    sqlite3 *db = NULL;

    snprintf(path, sizeof(path), "%s/table.sqlite", job->path);
    if (sqlite3_open_v2(path, &db, flags | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
        (void)sqlite_failed(db, "open");
        sqlite3_close(db);
        return PEER_FAILED;
    }
    *out_db = db;
    return PEER_OK;
}

/* ---- building ----------------------------------------------------------------------------- */

static int sqlite_insert_all(const struct sealed_job *job, sqlite3 *db, const char *text)
{
    unsigned char value[SEALED_VALUE_SIZE];
    sqlite3_stmt *insert = NULL;
    uint64_t place, key;
    int rc = sqlite3_prepare_v2(db, text, -1, &insert, NULL);

    for (place = 0; place < job->record_count && rc == SQLITE_OK; place++) {
        key = sealed_input_key(job, place);
        sealed_make_value(job->seed, key, value);
        sqlite3_bind_int64(insert, 1, (sqlite3_int64)key);
        sqlite3_bind_blob(insert, 2, value, sizeof(value), SQLITE_STATIC);
        (void)sqlite3_step(insert); /* the reset returns what it did */
        rc = sqlite3_reset(insert);
    }
    sqlite3_finalize(insert);
    return rc == SQLITE_OK ? PEER_OK : sqlite_failed(db, "insert");
}

static int sqlite_insert_sorting(const struct sealed_job *job, sqlite3 *db)
{
    int rc = sqlite_run(db, "CREATE TEMP TABLE arrived (k INTEGER, v BLOB)");

    if (rc == PEER_OK)
        rc = sqlite_insert_all(job, db, "INSERT INTO arrived VALUES (?, ?)");
    if (rc == PEER_OK)
        rc = sqlite_run(db, "INSERT INTO t SELECT k, v FROM arrived ORDER BY k");
    return rc;
}

static int sqlite_build(const struct sealed_job *job)
{
    sqlite3 *db = NULL;
    int rc = sqlite_connect(job, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &db);

    if (rc != PEER_OK)
        return rc;
    rc = sqlite_run(db, "PRAGMA journal_mode=OFF; PRAGMA synchronous=FULL;"
                        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA temp_store=FILE;"
                        "PRAGMA cache_size=-65536; PRAGMA temp.cache_size=-65536;"
                        "BEGIN; CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)");
    if (rc == PEER_OK)
        rc = job->in_random_order ? sqlite_insert_sorting(job, db)
                                  : sqlite_insert_all(job, db, "INSERT INTO t VALUES (?, ?)");
    if (rc == PEER_OK)
        rc = sqlite_run(db, "COMMIT"); /* syncs */
    sqlite3_close(db);
    return rc;
}

/* ---- reading ------------------------------------------------------------------------------ */

static void sqlite_close(void *opaque)
{
    struct sqlite_table *self = opaque;

    sqlite3_finalize(self->get);
    sqlite3_finalize(self->scan);
    sqlite3_close(self->db);
    free(self);
}

static int sqlite_open(const struct sealed_job *job, void **out_handle)
{
    uint64_t cache_kib = (64u << 10) + job->record_count * SEALED_PAYLOAD_SIZE * 2 / 1024;
    struct sqlite_table *self = calloc(1, sizeof(*self));
    char pragma[64];

    if (!self)
        return PEER_FAILED;
    snprintf(pragma, sizeof(pragma), "PRAGMA cache_size=-%llu; BEGIN",
             (unsigned long long)cache_kib);
    if (sqlite_connect(job, SQLITE_OPEN_READONLY, &self->db) != PEER_OK ||
        sqlite_run(self->db, pragma) != PEER_OK ||
        sqlite3_prepare_v2(self->db, "SELECT v FROM t WHERE k = ?", -1, &self->get, NULL) ||
        sqlite3_prepare_v2(self->db, "SELECT k, v FROM t ORDER BY k", -1, &self->scan, NULL)) {
        (void)sqlite_failed(self->db, "prepare");
        sqlite_close(self);
        return PEER_FAILED;
    }
    *out_handle = self;
    return PEER_OK;
}

static int sqlite_get(void *opaque, uint64_t key, struct sealed_check *check)
{
    struct sqlite_table *self = opaque;
    int rc;

    sqlite3_bind_int64(self->get, 1, (sqlite3_int64)key);
    rc = sqlite3_step(self->get);
    if (rc == SQLITE_ROW)
        sealed_check_value(check, key, sqlite3_column_blob(self->get, 0),
                           (size_t)sqlite3_column_bytes(self->get, 0));
    sqlite3_reset(self->get);
    if (rc == SQLITE_ROW)
        return PEER_OK;
    return rc == SQLITE_DONE ? PEER_NOT_FOUND : sqlite_failed(self->db, "get");
}

static int sqlite_walk(void *opaque, struct sealed_walk *walk)
{
    struct sqlite_table *self = opaque;
    int rc;

    while ((rc = sqlite3_step(self->scan)) == SQLITE_ROW)
        sealed_walk_add(walk, (uint64_t)sqlite3_column_int64(self->scan, 0),
                        sqlite3_column_blob(self->scan, 1),
                        (size_t)sqlite3_column_bytes(self->scan, 1));
    sqlite3_reset(self->scan);
    return rc == SQLITE_DONE ? PEER_OK : sqlite_failed(self->db, "walk");
}

const struct sealed_peer sealed_peer_sqlite = {
    .name = "sqlite",
    .must_sort = 1,
    .version = SQLITE_VERSION,
    .settings = "INTEGER PRIMARY KEY, page cache larger than all data, one read transaction; "
                "prepared statements, values in place",
    .sorted_note = "one transaction, journal_mode=OFF, synchronous=FULL, cache of 64 MiB",
    .random_note = "into a temporary table, from there INSERT ... SELECT ... ORDER BY: SQLite's "
                   "sorter",
    .build = sqlite_build,
    .open = sqlite_open,
    .close = sqlite_close,
    .get = sqlite_get,
    .walk = sqlite_walk,
};
