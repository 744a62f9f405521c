/* SPDX-License-Identifier: Apache-2.0
 *
 * store_verify.c -- check a store, and rescue what is whole from a damaged one.
 *
 * Verifying is opening for reading, which sums every record; if that fails, the log is gone through
 * once more, beginning again after each damaged place, so that all of them are named.
 *
 * Salvage applies the records that are whole, in log order, to a new store. Names and kinds of maps
 * are those of map-created records, else of MAPS, if that is whole, else made up. Compaction leaves
 * records of a KM_INSERTION map in another order than that of their ordinals: where that was met,
 * the log is gone through a second time for the ordinals, and the keys are put anew in their order.
 */
#include "store/store_cursor_internal.h"
#include "store/store_tables.h"

#include <stdio.h>

#include "format/catalogue.h"
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
    km_status table_status; /* of the sealed tables under maps */
    km_error table_finding;

    /* salvage */
    km_store *store;
    struct salvaged_map *maps; /* by id in the old store */
    uint8_t *catalogue;        /* MAPS; NULL: it is missing or damaged */
    size_t catalogue_size;
    km_store *order_store; /* in memory, for the second pass */
    km_map *order;         /* of it: from (map id, ordinal), big-endian, to the key */
    int is_unordered;      /* a map is */
};

/* What has become of a map of the damaged store. */
struct salvaged_map {
    km_map *map; /* of the new store; NULL: not met yet, or dropped */
    uint64_t next_ordinal;
    int is_unordered; /* keys were inserted in another order than that of their ordinals */
    int is_settled;   /* a record has told whether it exists */
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

/* What is wrong with a table under a map; the last finding is the error. */
static void note_table_damage(void *context, const km_error *finding)
{
    struct check *check = context;

    check->table_finding = *finding;
    tell(check, finding);
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
    check->table_status = km__tables_verify(store, note_table_damage, check);
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
    if (!rc && check.table_status)
        rc = check.table_finding.status
                 ? km__fail(&error, check.table_status, check.table_finding.file,
                            check.table_finding.offset, check.table_finding.os_error, "%s",
                            check.table_finding.message)
                 : km__fail(&error, check.table_status, NULL, 0, 0, "a table cannot be verified");
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

/* ---- salvage: maps ----------------------------------------------------------------------- */

static int catalogue_is_whole(const struct check *check)
{
    struct catalogue_header header;

    if (km__catalogue_header_decode(check->catalogue, &header) ||
        header.table_size != check->catalogue_size - CATALOGUE_HEADER_SIZE)
        return 0;
    if (check->has_identity &&
        memcmp(header.store_id, check->identity.store_id, STORE_ID_SIZE) != 0)
        return 0;
    return km__catalogue_table_check(&header, check->catalogue + CATALOGUE_HEADER_SIZE) == KM_OK;
}

static void drop_catalogue(struct check *check)
{
    km__release(&check->os->allocator, check->catalogue, check->catalogue_size);
    check->catalogue = NULL;
}

/* It may be missing: then the log tells of all maps, or names are lost. */
static void load_damaged_catalogue(struct check *check)
{
    const struct os_ops *ops = check->os->ops;
    struct os_file *file = NULL;
    uint64_t size = 0;

    if (ops->open_file(check->dir, CATALOGUE_NAME, OS_OPEN_READ, &file))
        return;
    if (!ops->file_size(file, &size) && size >= CATALOGUE_HEADER_SIZE &&
        size <= CATALOGUE_HEADER_SIZE + KM_MAP_COUNT_MAX * CATALOGUE_ENTRY_SIZE_MAX) {
        check->catalogue_size = (size_t)size;
        check->catalogue = km__allocate(&check->os->allocator, (size_t)size);
    }
    if (check->catalogue &&
        (ops->read_at(file, 0, check->catalogue, (size_t)size) || !catalogue_is_whole(check)))
        drop_catalogue(check);
    ops->close_file(file);
}

/* What MAPS tells of a map; 0: nothing. */
static int find_in_catalogue(const struct check *check, uint16_t id, struct catalogue_entry *out)
{
    size_t at = CATALOGUE_HEADER_SIZE, size = 0;

    for (; check->catalogue && at < check->catalogue_size; at += size) {
        if (km__catalogue_entry_decode(check->catalogue + at, check->catalogue_size - at, out,
                                       &size))
            return 0;
        if (out->id == id)
            return 1;
    }
    return 0;
}

/* A sorted map can do what a hash map can: so it is the guess where nothing tells. */
static km_map_kind guess_kind(const struct record *record)
{
    return record->flags & RECORD_HAS_ORDINAL ? KM_INSERTION : KM_SORTED;
}

static km_status make_up_map(struct check *check, const struct record *record, km_map **out_map)
{
    char made_up[32];
    km_error finding;
    km_status rc;

    snprintf(made_up, sizeof(made_up), "map-%u", record->map);
    rc = km_map_open_or_create(check->store, km_bytes_of_string(made_up), guess_kind(record),
                               out_map);
    if (rc)
        return rc;
    km__ignore(km__fail(&finding, KM_E_CORRUPT, NULL, 0, 0,
                        "the name of map %u is lost: it is called %s now", record->map, made_up),
               "the status is the one given");
    tell(check, &finding);
    return KM_OK;
}

struct adoption {
    struct check *check;
    uint16_t id; /* in the old store */
    km_map *map;
};

static void keep_finding(void *context, const km_error *finding)
{
    *(km_error *)context = *finding;
}

/* Under a map a damaged block would be in the way of each change of its keys. */
static km_status check_whole_table(const struct check *check, const char *name, km_error *error)
{
    km_sealed *sealed = NULL;
    km_status rc = km__sealed_open_at(check->os, check->dir, name, NULL, &sealed, error);

    if (!rc)
        rc = km_sealed_verify(sealed, keep_finding, NULL, error);
    km_sealed_close(sealed);
    return rc;
}

/* A table that is damaged, or cannot be had, is left: its keys are lost, and told of. */
static km_status adopt_table(void *context, const char *name)
{
    struct adoption *adoption = context;
    km_error error = {0};
    uint16_t id;
    km_status rc;

    if (!km__table_name_parse(name, &id) || id != adoption->id)
        return KM_OK;
    rc = check_whole_table(adoption->check, name, &error);
    if (!rc)
        rc = km__tables_adopt(adoption->map, adoption->check->dir, name, &error);
    if (!rc || rc == KM_E_FULL || rc == KM_E_NO_MEMORY)
        return rc;
    snprintf(error.file, sizeof(error.file), "%s", name);
    tell(adoption->check, &error);
    return KM_OK;
}

/* A map was made: it gets its tables before any record, so that deletes hide what they have. The
 * names sort as the tables are stacked, and folders list them in any order: one after the other. */
static km_status adopt_tables(struct check *check, uint16_t id, km_map *map)
{
    struct adoption adoption = {check, id, map};

    if (map->order || km__tables_of(map))
        return KM_OK;
    return km__tables_list(check->os, check->dir, id, adopt_table, &adoption);
}

/* The map of a record that needs one. */
static km_status map_of(struct check *check, const struct record *record, km_map **out_map)
{
    struct salvaged_map *map = &check->maps[record->map];
    struct catalogue_entry entry;
    km_status rc = KM_OK;

    if (!map->map && find_in_catalogue(check, record->map, &entry))
        rc = km_map_open_or_create(check->store, km_bytes_of(entry.name, entry.name_size),
                                   (km_map_kind)entry.kind, &map->map);
    else if (!map->map)
        rc = make_up_map(check, record, &map->map);
    if (!rc && !map->is_settled)
        rc = adopt_tables(check, record->map, map->map);
    map->is_settled = 1;
    *out_map = map->map;
    return rc;
}

static km_status create_salvaged(struct check *check, const struct record *record,
                                 const uint8_t *value)
{
    km_map_kind kind = value[0] >= KM_HASH && value[0] <= KM_SORTED ? (km_map_kind)value[0]
                                                                    : guess_kind(record);
    struct salvaged_map *map = &check->maps[record->map];
    km_status rc = km_map_open_or_create(check->store, km_bytes_of(value + 1, record->key_size),
                                         kind, &map->map);

    if (!rc && !map->is_settled)
        rc = adopt_tables(check, record->map, map->map);
    map->is_settled = 1;
    return rc;
}

/* After all records: the maps of MAPS that have none. */
static km_status create_empty_maps(struct check *check)
{
    size_t at = CATALOGUE_HEADER_SIZE, size = 0;
    km_status rc = KM_OK;

    for (; !rc && check->catalogue && at < check->catalogue_size; at += size) {
        struct catalogue_entry entry;
        km_map *map;

        rc = km__catalogue_entry_decode(check->catalogue + at, check->catalogue_size - at, &entry,
                                        &size);
        if (!rc && !entry.dropped && !check->maps[entry.id].is_settled)
            rc = km_map_open_or_create(check->store, km_bytes_of(entry.name, entry.name_size),
                                       (km_map_kind)entry.kind, &map);
        if (!rc && !entry.dropped && !check->maps[entry.id].is_settled)
            rc = adopt_tables(check, entry.id, map);
    }
    return rc;
}

/* ---- salvage: records -------------------------------------------------------------------- */

static km_status absent_is_fine(km_status rc)
{
    return rc == KM_NOT_FOUND ? KM_OK : rc;
}

/* A put whose key has expired deletes what was there. */
static km_status put_until(km_map *map, km_bytes key, km_bytes value, uint64_t expires_ms)
{
    uint64_t now_ms = expires_ms ? km__store_clock(map->store) : 0;
    km_write write = KM_WRITE_INIT;

    if (expires_ms && expires_ms <= now_ms)
        return absent_is_fine(km_del(map, key, NULL));
    write.ttl_ms = expires_ms - now_ms; /* 0 if it stays */
    return km_put(map, key, value, &write);
}

/* Before a put: will the key's place be the one that its ordinal says? */
static void note_order(struct check *check, const struct record *record, km_bytes key)
{
    struct salvaged_map *map = &check->maps[record->map];

    if (!(record->flags & RECORD_HAS_ORDINAL) || map->map->kind != KM_INSERTION)
        return;
    if (record->ordinal < map->next_ordinal && km_contains(map->map, key) == KM_NOT_FOUND)
        map->is_unordered = check->is_unordered = 1;
    else if (record->ordinal >= map->next_ordinal)
        map->next_ordinal = record->ordinal + 1;
}

/* A record that deletes speaks of the map's own key: for what a table had, one that hides it was
 * written. */
static km_status delete_own(km_map *map, km_bytes key)
{
    km_bytes none = {NULL, 0};
    struct change change;

    km__change_init(&change, map, RECORD_DELETE, key, none);
    change.is_own = 1;
    change.is_of_expired = 1; /* one that hides is to go, too */
    return absent_is_fine(km__change_key(&change, NULL));
}

static km_status delete_own_range(km_map *map, const km_range *range)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;
    km_bytes key, value;
    km_status rc;

    if (range)
        options.range = *range;
    rc = km__cursor_open_own(map, &options, &cursor);
    while (!rc) { /* ends with the keys */
        rc = km__cursor_step(cursor, CURSOR_UP, &key, &value);
        if (!rc || rc == CURSOR_HIDDEN)
            rc = delete_own(map, key);
    }
    km_cursor_close(cursor);
    return rc == KM_END ? KM_OK : rc;
}

static km_status clear_salvaged(km_map *map)
{
    return km__tables_of(map) ? delete_own_range(map, NULL) : km_map_clear(map);
}

static km_status delete_salvaged_range(km_map *map, const struct record *record,
                                       const uint8_t *value)
{
    km_range range = {.from = km_bytes_of(value + record->value_size, record->key_size)};
    km_status rc;

    if (value[0] == RECORD_RANGE_HAS_END)
        range.to = km_bytes_of(value + 1, record->value_size - 1);
    if (km__tables_of(map))
        return map->tree ? delete_own_range(map, &range) : KM_OK;
    rc = km_del_range(map, &range, NULL, NULL);
    return rc == KM_E_UNSUPPORTED ? KM_OK : rc; /* FORMAT.md, B8: void */
}

static km_status drop_salvaged(struct salvaged_map *map)
{
    km_map *dropped = map->map;

    memset(map, 0, sizeof(*map));
    map->is_settled = 1;
    return dropped ? km_map_drop(dropped) : KM_OK;
}

static km_status copy_record(void *context, const struct record *record, const uint8_t *bytes,
                             uint64_t position)
{
    struct check *check = context;
    const uint8_t *value = bytes + km__record_payload_offset(record->flags);
    km_bytes key = {value + record->value_size, record->key_size};
    km_map *map = NULL;
    km_status rc = KM_OK;

    (void)position;
    if (record->map >= KM_MAP_COUNT_MAX)
        return KM_OK;
    if (record->kind == RECORD_MAP_CREATED)
        return create_salvaged(check, record, value);
    if (record->kind == RECORD_MAP_DROPPED)
        return drop_salvaged(&check->maps[record->map]);
    if (record->kind == RECORD_PUT)
        rc = map_of(check, record, &map);
    else
        map = check->maps[record->map].map;
    if (rc || !map)
        return rc; /* nothing is there that the record could take away */
    switch (record->kind) {
    case RECORD_PUT:
        note_order(check, record, key);
        return put_until(map, key, km_bytes_of(value, record->value_size), record->expiry);
    case RECORD_DELETE: return delete_own(map, key);
    case RECORD_RANGE_DELETED: return delete_salvaged_range(map, record, value);
    default: return clear_salvaged(map);
    }
}

/* ---- salvage: the order of keys ---------------------------------------------------------- */

#define SALVAGE_ORDER_KEY_SIZE 10u

static void store_order_key(uint8_t to[SALVAGE_ORDER_KEY_SIZE], uint16_t map, uint64_t ordinal)
{
    to[0] = (uint8_t)(map >> 8);
    to[1] = (uint8_t)map;
    for (uint32_t i = 0; i < 8; i++)
        to[2 + i] = (uint8_t)(ordinal >> (56 - 8 * i));
}

/* The second pass. */
static km_status note_ordinal(void *context, const struct record *record, const uint8_t *bytes,
                              uint64_t position)
{
    struct check *check = context;
    uint8_t order_key[SALVAGE_ORDER_KEY_SIZE];

    (void)position;
    if (record->kind != RECORD_PUT || record->map >= KM_MAP_COUNT_MAX ||
        !check->maps[record->map].is_unordered)
        return KM_OK;
    store_order_key(order_key, record->map, record->ordinal);
    return km_put(check->order, km_bytes_of(order_key, sizeof(order_key)),
                  km_bytes_of(bytes + km__record_payload_offset(record->flags) + record->value_size,
                              record->key_size),
                  NULL);
}

/* Put a key behind all that the map has. */
static km_status put_anew(km_map *map, km_bytes key)
{
    km_buffer value = KM_BUFFER_INIT;
    km_key_info info = {0, 0, 0};
    km_status rc = km_get_info(map, key, &value, &info);

    if (!rc)
        rc = absent_is_fine(km_del(map, key, NULL));
    if (!rc)
        rc = put_until(map, key, km_bytes_of(value.data, value.size), info.expires_ms);
    km_buffer_free(&value);
    return absent_is_fine(rc);
}

/* By ascending ordinals: of those that a key had, the last one counts. */
static km_status put_in_order(struct check *check)
{
    km_cursor *cursor = NULL;
    km_bytes order_key, key;
    km_status rc = km_cursor_open(check->order, NULL, &cursor);

    while (!rc) { /* ends with the keys */
        rc = km_cursor_next(cursor, &order_key, &key);
        if (!rc) {
            const uint8_t *p = order_key.data;
            km_map *map = check->maps[(uint32_t)p[0] << 8 | p[1]].map;

            rc = map ? put_anew(map, key) : KM_OK;
        }
    }
    km_cursor_close(cursor);
    return rc == KM_END ? KM_OK : rc;
}

static km_status restore_key_order(struct check *check, km_error *error)
{
    struct check quiet = *check; /* what the first pass told is not told again */
    km_status rc = km__store_open_memory_with(check->os, NULL, 1, &check->order_store, error);

    if (!rc)
        rc = km_map_create(check->order_store, km_bytes_of_string("order"), KM_SORTED,
                           &check->order);
    quiet.order = check->order;
    quiet.found = NULL;
    if (!rc)
        rc = rescue_all(&quiet, note_ordinal, error);
    if (!rc)
        rc = put_in_order(check);
    km__ignore(km_close(check->order_store, NULL), "it was in memory only");
    return rc;
}

/* ---- salvage ----------------------------------------------------------------------------- */

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
        rc = create_empty_maps(check);
    if (!rc && check->is_unordered)
        rc = restore_key_order(check, error);
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
        load_damaged_catalogue(&check);
        rc = check.maps ? fill_new_store(&check, new_path, out_error) : KM_E_NO_MEMORY;
        drop_catalogue(&check);
    }
    if (check.maps)
        km__unmap_pages(&check.os->allocator, check.maps, maps_size);
    close_damaged(&check);
    if (!rc && out_result)
        *out_result = check.result;
    return rc;
}
