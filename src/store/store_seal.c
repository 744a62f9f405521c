/* SPDX-License-Identifier: Apache-2.0
 *
 * store_seal.c -- write a map as a sealed table, and load a table into a map.
 */
#include "sealed/sealed.h"
#include "store/store_internal.h"

#define LOAD_BATCH_BYTES (UINT64_C(256) << 10) /* of keys and values, in one batch */

/* ---- seal -------------------------------------------------------------------------------- */

/* Give all records of a cursor to a builder. */
static km_status add_all(km_cursor *cursor, km_sealed_builder *builder)
{
    km_bytes key, value;
    km_status rc = KM_OK;

    while (!rc) { /* ends with the keys */
        rc = km_cursor_next(cursor, &key, &value);
        if (!rc)
            rc = km_sealed_builder_add(builder, key, value);
    }
    return rc == KM_END ? KM_OK : rc;
}

static km_status seal_snapshot(km_map *map, km_snapshot *snapshot, km_sealed_builder **builder,
                               km_error *error)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;
    km_status rc, finished;

    options.snapshot = snapshot;
    rc = km_cursor_open(map, &options, &cursor);
    if (!rc)
        rc = add_all(cursor, *builder);
    km_cursor_close(cursor);
    if (rc == KM_E_INVALID)
        return km__fail(error, rc, NULL, 0, 0, "a key has not the width of the table's numbers");
    if (rc) { /* the builder's first error, if it was one of its */
        km__ignore(km__fail(error, rc, NULL, 0, 0, "the map's records could not be written"),
                   "the status is the one given");
        return rc;
    }
    finished = km_sealed_builder_finish(*builder, error);
    *builder = NULL;
    return finished;
}

km_status km_seal(km_map *map, km_snapshot *snapshot, const char *path,
                  const km_sealed_build_options *options, km_error *out_error)
{
    struct km_store *store = map->store;
    km_snapshot *own = NULL;
    km_sealed_builder *builder = NULL;
    km_status rc = KM_OK;

    if (km__store_is_forked(store))
        return km__fail(out_error, KM_E_FORKED, NULL, 0, 0,
                        "the store belongs to the parent process");
    if (!snapshot)
        rc = km_snapshot_open(store, &own);
    if (rc)
        return km__fail(out_error, rc, NULL, 0, 0, "a snapshot of the store cannot be taken");
    rc = km__sealed_builder_open(store->os, path, options, &builder, out_error);
    if (!rc)
        rc = seal_snapshot(map, snapshot ? snapshot : own, &builder, out_error);
    km_sealed_builder_abort(builder);
    km_snapshot_close(own);
    return rc;
}

/* ---- load -------------------------------------------------------------------------------- */

struct table_load {
    km_map *map;
    km_batch *batch;
    uint64_t batch_bytes;
    uint64_t done_bytes, total_bytes;
    km_progress_fn progress;
    void *context;
};

static km_status commit_load(struct table_load *load)
{
    km_status rc = km_batch_commit(load->batch, NULL);

    if (rc)
        return rc;
    load->done_bytes += load->batch_bytes;
    load->batch_bytes = 0;
    if (load->progress && load->progress(load->context, load->done_bytes, load->total_bytes))
        return KM_STOPPED;
    return KM_OK;
}

/* A record over the size of a batch is one by itself. */
static km_status load_record(struct table_load *load, km_bytes key, km_bytes value)
{
    uint64_t size = (uint64_t)key.size + value.size;
    km_status rc = KM_OK;

    if (load->batch_bytes + size > LOAD_BATCH_BYTES)
        rc = commit_load(load);
    if (rc)
        return rc;
    load->batch_bytes += size;
    return size > LOAD_BATCH_BYTES ? km_put(load->map, key, value, NULL)
                                   : km_batch_put(load->batch, load->map, key, value);
}

km_status km_load_sealed(km_map *map, const km_sealed *table, km_progress_fn progress,
                         void *context)
{
    struct table_load load = {.map = map, .progress = progress, .context = context};
    km_sealed_info info = {.struct_size = sizeof(info)};
    km_sealed_cursor *cursor = NULL;
    km_bytes key, value;
    km_status rc = km__check_writable(map->store);

    if (!rc)
        rc = km_sealed_get_info(table, &info);
    load.total_bytes = info.key_bytes + info.value_bytes;
    if (!rc)
        rc = km_batch_create(map->store, &load.batch);
    if (!rc)
        rc = km_sealed_cursor_open(table, NULL, &cursor);
    while (!rc) { /* ends with the keys */
        rc = km_sealed_cursor_next(cursor, &key, &value);
        if (!rc)
            rc = load_record(&load, key, value);
    }
    if (rc == KM_END)
        rc = commit_load(&load);
    km_sealed_cursor_close(cursor);
    km_batch_destroy(load.batch);
    return rc;
}
