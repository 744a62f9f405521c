/* SPDX-License-Identifier: Apache-2.0
 *
 * store_verify.c -- check a store, and rescue what is whole from a damaged one.
 *
 * Verifying is opening for reading, which sums every record; if that fails, the log is gone through
 * once more, beginning again after each damaged place, so that all of them are named.
 */
#include "store/store_internal.h"

#include <stdio.h>

#include "log/log_rescue.h"

struct check {
    struct os *os;
    km_finding_fn found;
    void *context;
    struct os_dir *dir, *log_dir;
    struct os_file *lock_file;
    struct identity identity;
    int has_identity;
    km_check_result result;

    /* salvage */
    km_store *store;
    km_map **maps; /* of the new store, by id in the old; NULL: not met yet */
    km_error *error;
};

/* ---- findings ---------------------------------------------------------------------------- */

static void tell(struct check *check, const km_error *finding)
{
    check->result.finding_count++;
    if (check->found)
        check->found(check->context, finding);
}

static void tell_place(void *context, const char *file, uint64_t offset, uint64_t size,
                       const char *what)
{
    km_error finding;

    km__ignore(km__fail(&finding, KM_E_CORRUPT, file, offset, 0, "%s (%llu bytes from offset %llu)",
                        what, (unsigned long long)size, (unsigned long long)offset),
               "the status is the one given");
    tell(context, &finding);
}

/* ---- the damaged store's folder ---------------------------------------------------------- */

static km_status lock_folder(struct check *check, km_error *error)
{
    const struct os_ops *ops = check->os->ops;
    km_status rc = ops->open_file(check->dir, "LOCK", OS_OPEN_READ, &check->lock_file);

    if (rc)
        return KM_OK; /* missing or damaged: nobody can hold it */
    rc = ops->lock(check->lock_file, OS_LOCK_SHARED);
    if (rc == KM_E_LOCKED)
        return km__fail(error, rc, "LOCK", 0, 0,
                        "the store is open in another process: close it there first");
    return KM_OK;
}

static void read_identity(struct check *check)
{
    const struct os_ops *ops = check->os->ops;
    uint8_t *bytes = km__allocate(&check->os->allocator, IDENTITY_SIZE);
    struct os_file *file = NULL;

    check->has_identity = bytes && !ops->open_file(check->dir, "IDENTITY", OS_OPEN_READ, &file) &&
                          !ops->read_at(file, 0, bytes, IDENTITY_SIZE) &&
                          !km__identity_decode(bytes, &check->identity);
    ops->close_file(file);
    km__release(&check->os->allocator, bytes, IDENTITY_SIZE);
}

static km_status open_damaged(struct check *check, const char *path, km_error *error)
{
    const struct os_ops *ops = check->os->ops;
    km_status rc = ops->open_dir(check->os, path, &check->dir);

    if (!rc)
        rc = ops->open_subdir(check->dir, "log", &check->log_dir);
    if (rc)
        return km__fail(error, rc == KM_E_IO ? rc : KM_E_NOT_A_STORE, NULL, 0,
                        ops->last_error(check->os), "%s holds no store's log", path);
    rc = lock_folder(check, error);
    if (!rc)
        read_identity(check);
    return rc;
}

static void close_damaged(struct check *check)
{
    const struct os_ops *ops = check->os->ops;

    ops->close_file(check->lock_file);
    ops->close_dir(check->log_dir);
    ops->close_dir(check->dir);
}

static km_status rescue_all(struct check *check, log_visit_fn visit, km_error *error)
{
    struct rescue rescue = {
        .os = check->os,
        .store_dir = check->dir,
        .log_dir = check->log_dir,
        .store_id = check->has_identity ? check->identity.store_id : NULL,
        .visit = visit,
        .found = tell_place,
        .context = check,
    };
    km_status rc = km__log_rescue(&rescue);

    check->result.segment_count = rescue.segment_count;
    check->result.record_count = rescue.record_count;
    check->result.torn_bytes = rescue.torn_bytes;
    if (rc == KM_E_CORRUPT)
        rc = km__fail(error, rc, NULL, 0, 0,
                      "neither IDENTITY nor any segment's header can be read");
    else if (rc)
        rc = km__fail(error, rc, NULL, 0, check->os->ops->last_error(check->os),
                      "cannot go through the log");
    return rc;
}

/* ---- verify ------------------------------------------------------------------------------ */

static km_status ignore_record(void *context, const struct record *record, const uint8_t *bytes,
                               uint64_t position)
{
    (void)context;
    (void)record;
    (void)bytes;
    (void)position;
    return KM_OK;
}

static km_status open_to_verify(struct check *check, const char *path, km_error *error)
{
    km_options options = KM_OPTIONS_INIT;
    km_stats stats = {.struct_size = sizeof(stats)};
    km_store *store = NULL;
    km_status rc;

    options.mode = KM_OPEN_READ_ONLY;
    rc = km__store_open_with(check->os, path, &options, STORE_OPEN_WHOLE, &store, error);
    if (rc)
        return rc;
    rc = km_store_stats(store, &stats);
    check->result.segment_count = stats.segment_count;
    check->result.record_count = stats.recovered_records;
    check->result.torn_bytes = stats.torn_bytes;
    km__ignore(km_close(store, NULL), "nothing was written");
    return rc;
}

km_status km__store_verify_with(struct os *os, const char *path, km_finding_fn found, void *context,
                                km_check_result *out_result, km_error *out_error)
{
    struct check check = {.os = os, .found = found, .context = context};
    km_error error = {0}, other = {0};
    km_status rc = open_to_verify(&check, path, &error);

    if (rc == KM_E_CORRUPT) {
        tell(&check, &error);
        if (!open_damaged(&check, path, &other))
            km__ignore(rescue_all(&check, ignore_record, &other),
                       "the damage itself is the answer");
        close_damaged(&check);
    }
    if (out_error && rc)
        *out_error = error;
    if (out_result && (!rc || rc == KM_E_CORRUPT))
        *out_result = check.result;
    return rc;
}

km_status km_verify(const char *path, km_finding_fn found, void *context,
                    km_check_result *out_result, km_error *out_error)
{
    if (!path || !*path)
        return km__fail(out_error, KM_E_INVALID, NULL, 0, 0, "the path is empty");
    return km__store_verify_with(km__os_linux(), path, found, context, out_result, out_error);
}

/* ---- salvage ----------------------------------------------------------------------------- */

static km_status map_of(struct check *check, const struct record *record, const km_bytes *name,
                        km_map **out_map)
{
    km_map **map = &check->maps[record->map];
    char made_up[32];
    km_error finding;
    km_status rc;

    if (*map && !name) {
        *out_map = *map;
        return KM_OK;
    }
    if (name)
        return km_map_open_or_create(check->store, *name, KM_HASH, map);
    snprintf(made_up, sizeof(made_up), "map-%u", record->map);
    rc = km_map_open_or_create(check->store, km_bytes_of_string(made_up), KM_HASH, map);
    if (rc)
        return rc;
    km__ignore(km__fail(&finding, KM_E_CORRUPT, NULL, 0, 0,
                        "the name of map %u is lost: it is called %s now", record->map, made_up),
               "the status is the one given");
    tell(check, &finding);
    *out_map = *map;
    return KM_OK;
}

static km_status copy_record(void *context, const struct record *record, const uint8_t *bytes,
                             uint64_t position)
{
    struct check *check = context;
    const uint8_t *value = bytes + km__record_payload_offset(record->flags);
    km_bytes key = {value + record->value_size, record->key_size};
    km_map *map = NULL;
    km_status rc;

    (void)position;
    if (record->map >= KM_MAP_COUNT_MAX)
        return KM_OK;
    if (record->kind == RECORD_MAP_CREATED)
        return map_of(check, record, &key, &map);
    rc = map_of(check, record, NULL, &map);
    if (rc)
        return rc;
    switch (record->kind) {
    case RECORD_PUT: return km_put(map, key, km_bytes_of(value, record->value_size), NULL);
    case RECORD_DELETE: rc = km_del(map, key, NULL); return rc == KM_NOT_FOUND ? KM_OK : rc;
    case RECORD_MAP_CLEARED: return km_map_clear(map);
    default: check->maps[record->map] = NULL; return km_map_drop(map);
    }
}

static km_status fill_new_store(struct check *check, const char *new_path, km_error *error)
{
    km_options options = KM_OPTIONS_INIT;
    km_stats stats = {.struct_size = sizeof(stats)};
    km_status rc, close_rc;

    options.mode = KM_CREATE_NEW;
    rc = km__store_open_with(check->os, new_path, &options, 1, &check->store, error);
    if (rc)
        return rc;
    rc = rescue_all(check, copy_record, error);
    if (!rc)
        rc = km_store_stats(check->store, &stats);
    check->result.copied_count = stats.key_count;
    close_rc = km_close(check->store, rc ? NULL : error);
    return rc ? rc : close_rc;
}

km_status km_salvage(const char *path, const char *new_path, km_finding_fn found, void *context,
                     km_check_result *out_result, km_error *out_error)
{
    struct check check = {.os = km__os_linux(), .found = found, .context = context};
    size_t maps_size = (KM_MAP_COUNT_MAX + 1u) * sizeof(*check.maps);
    km_status rc;

    if (!path || !*path || !new_path || !*new_path)
        return km__fail(out_error, KM_E_INVALID, NULL, 0, 0, "a path is empty");
    rc = open_damaged(&check, path, out_error);
    if (!rc) {
        check.maps = km__map_pages(&check.os->allocator, maps_size);
        rc = check.maps ? fill_new_store(&check, new_path, out_error) : KM_E_NO_MEMORY;
    }
    if (check.maps)
        km__unmap_pages(&check.os->allocator, check.maps, maps_size);
    close_damaged(&check);
    if (!rc && out_result)
        *out_result = check.result;
    return rc;
}
