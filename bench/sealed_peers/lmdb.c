/* SPDX-License-Identifier: Apache-2.0
 *
 * lmdb.c -- LMDB: a B+tree in one mapped file, read within one transaction that stays open.
 */
#include "../sealed.h"

#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>

/* Puts to a transaction. From random order all are in one: each one rewrites most pages, and what
 * the one before has freed is not used yet: with a million each, 4 million records take 3.7 bytes
 * of file for one of payload and 2.9 us a record, in one transaction 1.6 and 1.9. */
enum { LMDB_BATCH = 1000000 };

struct lmdb_table {
    MDB_env *env;
    MDB_dbi dbi;
    MDB_txn *txn;
};

static int lmdb_failed(const char *what, int rc)
{
    fprintf(stderr, "lmdb: %s: %s\n", what, mdb_strerror(rc));
    return PEER_FAILED;
}

static int lmdb_open_env(const struct sealed_job *job, unsigned flags, MDB_env **out_env)
{
    /* address space, and the file while it is sparse: pages of random puts are half empty */
    size_t map_size = (256u << 20) + job->record_count * SEALED_PAYLOAD_SIZE * 4;
    MDB_env *env = NULL;
    int rc;

    rc = mdb_env_create(&env);
    if (rc) goto out;
    rc = mdb_env_set_mapsize(env, map_size);
    if (rc) goto out;
    rc = mdb_env_open(env, job->path, flags | MDB_NOTLS, 0600);
    if (rc) goto out;
    *out_env = env;
    env = NULL;
out:
    if (env)
        mdb_env_close(env);
    return rc;
}

static int lmdb_put_batch(const struct sealed_job *job, MDB_env *env, uint64_t first)
{
    uint64_t end = job->in_random_order ? job->record_count : first + LMDB_BATCH;
    unsigned flags = job->in_random_order ? 0 : MDB_APPEND;
    unsigned char key_bytes[SEALED_KEY_SIZE];
    unsigned char value[SEALED_VALUE_SIZE];
    MDB_val mdb_key = {sizeof(key_bytes), key_bytes};
    MDB_val mdb_value = {sizeof(value), value};
    uint64_t place, key;
    MDB_txn *txn;
    MDB_dbi dbi;
    int rc = mdb_txn_begin(env, NULL, 0, &txn);

    if (rc)
        return rc;
    rc = mdb_dbi_open(txn, NULL, 0, &dbi);
    for (place = first; place < job->record_count && place < end && !rc; place++) {
        key = sealed_input_key(job, place);
        sealed_key_bytes(key, key_bytes);
        sealed_make_value(job->seed, key, value);
        rc = mdb_put(txn, dbi, &mdb_key, &mdb_value, flags);
    }
    if (!rc)
        return mdb_txn_commit(txn);
    mdb_txn_abort(txn);
    return rc;
}

static int lmdb_build(const struct sealed_job *job)
{
    MDB_env *env;
    uint64_t place;
    int rc = lmdb_open_env(job, MDB_WRITEMAP | MDB_NOSYNC | MDB_NOMEMINIT, &env);

    if (rc)
        return lmdb_failed("open", rc);
    for (place = 0; place < job->record_count && !rc; place += LMDB_BATCH) {
        rc = lmdb_put_batch(job, env, place);
        if (job->in_random_order)
            break;
    }
    if (!rc)
        rc = mdb_env_sync(env, 1);
    mdb_env_close(env);
    return rc ? lmdb_failed("build", rc) : PEER_OK;
}

static void lmdb_close(void *opaque)
{
    struct lmdb_table *self = opaque;

    if (self->txn)
        mdb_txn_abort(self->txn);
    if (self->env)
        mdb_env_close(self->env);
    free(self);
}

/* A scan of a cold file wants the kernel to read ahead, gets do not. */
static int lmdb_open(const struct sealed_job *job, void **out_handle)
{
    unsigned flags = MDB_RDONLY | (job->use == SEALED_COLD_SCAN ? 0 : MDB_NORDAHEAD);
    struct lmdb_table *self = calloc(1, sizeof(*self));
    int rc;

    if (!self)
        return PEER_FAILED;
    rc = lmdb_open_env(job, flags, &self->env);
    if (rc) goto out;
    rc = mdb_txn_begin(self->env, NULL, MDB_RDONLY, &self->txn);
    if (rc) goto out;
    rc = mdb_dbi_open(self->txn, NULL, 0, &self->dbi);
    if (rc) goto out;
    *out_handle = self;
    self = NULL;
out:
    if (self)
        lmdb_close(self);
    return rc ? lmdb_failed("open", rc) : PEER_OK;
}

static int lmdb_get(void *opaque, uint64_t key, struct sealed_check *check)
{
    struct lmdb_table *self = opaque;
    unsigned char key_bytes[SEALED_KEY_SIZE];
    MDB_val mdb_key = {sizeof(key_bytes), key_bytes};
    MDB_val mdb_value;
    int rc;

    sealed_key_bytes(key, key_bytes);
    rc = mdb_get(self->txn, self->dbi, &mdb_key, &mdb_value);
    if (rc == MDB_NOTFOUND)
        return PEER_NOT_FOUND;
    if (rc)
        return lmdb_failed("get", rc);
    sealed_check_value(check, key, mdb_value.mv_data, mdb_value.mv_size);
    return PEER_OK;
}

static int lmdb_walk(void *opaque, struct sealed_walk *walk)
{
    struct lmdb_table *self = opaque;
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_cursor_open(self->txn, self->dbi, &cursor);

    if (rc)
        return lmdb_failed("cursor", rc);
    while (!(rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)))
        sealed_walk_add(walk, sealed_key_number(key.mv_data), value.mv_data, value.mv_size);
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? PEER_OK : lmdb_failed("walk", rc);
}

#define LMDB_TEXT_OF(number) #number
#define LMDB_TEXT(number) LMDB_TEXT_OF(number)

const struct sealed_peer sealed_peer_lmdb = {
    .name = "lmdb",
    .must_sort = 1,
    .version = LMDB_TEXT(MDB_VERSION_MAJOR) "." LMDB_TEXT(MDB_VERSION_MINOR) "." LMDB_TEXT(
        MDB_VERSION_PATCH),
    .settings = "one read transaction; values in place; NORDAHEAD but for the cold scan",
    .sorted_note = "MDB_APPEND, 1,000,000 to a transaction; WRITEMAP|NOSYNC, synced at the end; "
                   "its peak counts pages of the mapped file",
    .random_note = "the same without MDB_APPEND, in one transaction",
    .build = lmdb_build,
    .open = lmdb_open,
    .close = lmdb_close,
    .get = lmdb_get,
    .walk = lmdb_walk,
};
