/* SPDX-License-Identifier: Apache-2.0
 *
 * wiredtiger.c -- WiredTiger: a B-tree, filled by a bulk cursor, which takes keys in order alone;
 * from random order by inserts into a cache that holds all, and a checkpoint.
 */
#include "../sealed.h"

#include <stdio.h>
#include <stdlib.h>
#include <wiredtiger.h>

struct wiredtiger_table {
    WT_CONNECTION *connection;
    WT_SESSION *session;
    WT_CURSOR *cursor;
};

static int wiredtiger_failed(const char *what, int rc)
{
    fprintf(stderr, "wiredtiger: %s: %s\n", what, wiredtiger_strerror(rc));
    return PEER_FAILED;
}

static void wiredtiger_peer_close(void *opaque)
{
    struct wiredtiger_table *self = opaque;
    int rc = 0;

    if (self->connection)
        rc = self->connection->close(self->connection, NULL); /* with a checkpoint, if need be */
    if (rc)
        (void)wiredtiger_failed("close", rc);
    free(self);
}

static int wiredtiger_connect(const struct sealed_job *job, uint64_t cache_size,
                              struct wiredtiger_table **out_table)
{
    struct wiredtiger_table *self = calloc(1, sizeof(*self));
    char config[256];
    int rc;

    if (!self)
        return PEER_FAILED;
    /* The usual bound of dirty pages, a twentieth of the cache, would have a build write its pages
     * many times. */
    snprintf(config, sizeof(config),
             "create,cache_size=%lluMB,mmap=false,eviction=(threads_min=1,threads_max=2),"
             "eviction_dirty_target=80,eviction_dirty_trigger=95",
             (unsigned long long)(cache_size >> 20));
    rc = wiredtiger_open(job->path, NULL, config, &self->connection);
    if (!rc)
        rc = self->connection->open_session(self->connection, NULL, NULL, &self->session);
    if (rc) {
        wiredtiger_peer_close(self);
        return wiredtiger_failed("open", rc);
    }
    *out_table = self;
    return PEER_OK;
}

static uint64_t wiredtiger_large_cache(const struct sealed_job *job)
{
    return ((uint64_t)512 << 20) + job->record_count * SEALED_PAYLOAD_SIZE * 4;
}

/* ---- building ----------------------------------------------------------------------------- */

static int wiredtiger_insert_all(const struct sealed_job *job, WT_CURSOR *cursor)
{
    unsigned char key_bytes[SEALED_KEY_SIZE];
    unsigned char value[SEALED_VALUE_SIZE];
    WT_ITEM wt_key = {.data = key_bytes, .size = sizeof(key_bytes)};
    WT_ITEM wt_value = {.data = value, .size = sizeof(value)};
    uint64_t place, key;
    int rc = 0;

    for (place = 0; place < job->record_count && !rc; place++) {
        key = sealed_input_key(job, place);
        sealed_key_bytes(key, key_bytes);
        sealed_make_value(job->seed, key, value);
        cursor->set_key(cursor, &wt_key);
        cursor->set_value(cursor, &wt_value);
        do { /* asks to be run again when the cache is full */
            rc = cursor->insert(cursor);
        } while (rc == WT_ROLLBACK);
    }
    return rc;
}

static int wiredtiger_build_with(const struct sealed_job *job, const char *table_config)
{
    uint64_t cache_size = job->in_random_order ? wiredtiger_large_cache(job) : 64u << 20;
    const char *manner = job->in_random_order ? "overwrite=true" : "bulk";
    struct wiredtiger_table *self;
    WT_SESSION *session;
    int rc;

    if (wiredtiger_connect(job, cache_size, &self) != PEER_OK)
        return PEER_FAILED;
    session = self->session;
    rc = session->create(session, "table:data", table_config);
    if (rc) goto out;
    rc = session->open_cursor(session, "table:data", NULL, manner, &self->cursor);
    if (rc) goto out;
    rc = wiredtiger_insert_all(job, self->cursor);
    if (rc) goto out;
    rc = self->cursor->close(self->cursor);
    if (rc) goto out;
    rc = session->checkpoint(session, NULL); /* syncs */
out:
    wiredtiger_peer_close(self);
    return rc ? wiredtiger_failed("build", rc) : PEER_OK;
}

static int wiredtiger_build(const struct sealed_job *job)
{
    return wiredtiger_build_with(job, "key_format=u,value_format=u,type=file,leaf_page_max=4KB,"
                                      "access_pattern_hint=random");
}

static int wiredtiger_build_large(const struct sealed_job *job)
{
    return wiredtiger_build_with(job, "key_format=u,value_format=u,type=file");
}

/* ---- reading ------------------------------------------------------------------------------ */

static int wiredtiger_peer_open(const struct sealed_job *job, void **out_handle)
{
    struct wiredtiger_table *self;
    int rc;

    if (wiredtiger_connect(job, wiredtiger_large_cache(job), &self) != PEER_OK)
        return PEER_FAILED;
    rc = self->session->open_cursor(self->session, "table:data", NULL, NULL, &self->cursor);
    if (!rc)
        rc = self->session->begin_transaction(self->session, "isolation=snapshot");
    if (rc) {
        wiredtiger_peer_close(self);
        return wiredtiger_failed("cursor", rc);
    }
    *out_handle = self;
    return PEER_OK;
}

static int wiredtiger_get(void *opaque, uint64_t key, struct sealed_check *check)
{
    WT_CURSOR *cursor = ((struct wiredtiger_table *)opaque)->cursor;
    unsigned char key_bytes[SEALED_KEY_SIZE];
    WT_ITEM wt_key = {.data = key_bytes, .size = sizeof(key_bytes)};
    WT_ITEM wt_value;
    int rc;

    sealed_key_bytes(key, key_bytes);
    cursor->set_key(cursor, &wt_key);
    rc = cursor->search(cursor);
    if (rc == WT_NOTFOUND)
        return PEER_NOT_FOUND;
    if (!rc)
        rc = cursor->get_value(cursor, &wt_value);
    if (rc)
        return wiredtiger_failed("get", rc);
    sealed_check_value(check, key, wt_value.data, wt_value.size);
    return PEER_OK;
}

static int wiredtiger_walk(void *opaque, struct sealed_walk *walk)
{
    WT_CURSOR *cursor = ((struct wiredtiger_table *)opaque)->cursor;
    WT_ITEM wt_key, wt_value;
    int rc = cursor->reset(cursor);

    while (!rc && !(rc = cursor->next(cursor))) {
        rc = cursor->get_key(cursor, &wt_key);
        if (!rc)
            rc = cursor->get_value(cursor, &wt_value);
        if (!rc)
            sealed_walk_add(walk, sealed_key_number(wt_key.data), wt_value.data, wt_value.size);
    }
    return rc == WT_NOTFOUND ? PEER_OK : wiredtiger_failed("walk", rc);
}

#define WIREDTIGER_TEXT_OF(number) #number
#define WIREDTIGER_TEXT(number) WIREDTIGER_TEXT_OF(number)

#define WIREDTIGER_VERSION_USED                                                                    \
    WIREDTIGER_TEXT(WIREDTIGER_VERSION_MAJOR)                                                      \
    "." WIREDTIGER_TEXT(WIREDTIGER_VERSION_MINOR) "." WIREDTIGER_TEXT(WIREDTIGER_VERSION_PATCH)

const struct sealed_peer sealed_peer_wiredtiger = {
    .name = "wiredtiger",
    .must_sort = 1,
    .version = WIREDTIGER_VERSION_USED,
    .settings = "leaf pages of 4 KiB, cache larger than all data, no log, no compression; values "
                "in place within one snapshot transaction",
    .sorted_note = "bulk cursor, then a checkpoint",
    .random_note = "inserts into a cache that holds all, then a checkpoint",
    .build = wiredtiger_build,
    .open = wiredtiger_peer_open,
    .close = wiredtiger_peer_close,
    .get = wiredtiger_get,
    .walk = wiredtiger_walk,
};

/* With pages of the usual size the bulk cursor is faster, and cold gets are slower. */
const struct sealed_peer sealed_peer_wiredtiger_large = {
    .name = "wiredtiger-32k",
    .must_sort = 1,
    .version = WIREDTIGER_VERSION_USED,
    .settings = "the same with leaf pages of 32 KiB, its default",
    .sorted_note = "bulk cursor, then a checkpoint",
    .build = wiredtiger_build_large,
    .open = wiredtiger_peer_open,
    .close = wiredtiger_peer_close,
    .get = wiredtiger_get,
    .walk = wiredtiger_walk,
};
