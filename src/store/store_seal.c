/* SPDX-License-Identifier: Apache-2.0
 *
 * store_seal.c -- write a map as a sealed table, and load a table into a map.
 */
#include "sealed/sealed.h"
#include "store/store_internal.h"

#define LOAD_BATCH_BYTES (UINT64_C(256) << 10) /* of keys and values, in one batch */

/* ---- seal -------------------------------------------------------------------------------- */

/* Give all records of a cursor to a builder. Returned is how the cursor ended, apart from what the
 * builder said of the last record that it was given. */
static km_status add_all(km_cursor *cursor, km_sealed_builder *builder, km_status *out_added)
{
    km_bytes key, value;

    *out_added = KM_OK;
    while (!*out_added) { /* ends with the keys */
        km_status rc = km_cursor_next(cursor, &key, &value);
        if (rc)
            return rc == KM_END ? KM_OK : rc;
        *out_added = km_sealed_builder_add(builder, key, value);
    }
    return KM_OK;
}

static km_status seal_records(struct km_store *store, km_cursor *cursor,
                              km_sealed_builder **builder, km_error *error)
{
    km_status added;
    km_status rc = add_all(cursor, *builder, &added);

    if (rc)
        return km__fail(error, rc, NULL, 0,
                        rc == KM_E_IO ? store->os->ops->last_error(store->os) : 0,
                        "the map's records could not be read");
    if (added == KM_E_INVALID || added == KM_E_TOO_BIG) /* then the build would go on */
        return km__fail(error, added, NULL, 0, 0,
                        added == KM_E_INVALID ? "a key has not the width of the table's numbers"
                                              : "a key or a value is over its limit");
    rc = km_sealed_builder_finish(*builder, error); /* which tells why, if the build is over */
    *builder = NULL;
    return rc;
}

static km_status seal_snapshot(km_map *map, km_snapshot *snapshot, km_sealed_builder **builder,
                               km_error *error)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;
    km_status rc;

    options.snapshot = snapshot;
    rc = km_cursor_open(map, &options, &cursor);
    /* pairs with apply_drop(). It is not in a snapshot that was taken for it */
    if (rc == KM_E_INVALID && atomic_load_explicit(&map->dropped, memory_order_acquire))
        rc = KM_E_DROPPED;
    rc = rc ? km__fail(error, rc, NULL, 0, 0,
                       rc == KM_E_INVALID
                           ? "the snapshot is of another store, or the map is not in it"
                           : "the map cannot be read")
            : seal_records(map->store, cursor, builder, error);
    km_cursor_close(cursor);
    return rc;
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
    if (!rc)
        rc = km_batch_put(load->batch, load->map, key, value);
    if (rc == KM_E_TOO_BIG && load->batch_bytes) { /* the store's batches are smaller than ours */
        rc = commit_load(load);
        if (!rc)
            rc = km_batch_put(load->batch, load->map, key, value);
    }
    if (rc == KM_E_TOO_BIG)
        rc = km_put(load->map, key, value, NULL);
    if (!rc)
        load->batch_bytes += size;
    return rc;
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
