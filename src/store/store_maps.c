/* SPDX-License-Identifier: Apache-2.0
 *
 * store_maps.c -- the maps of a store: create, find, drop, clear, list.
 *
 * I1. A map enters the table of names when its record is complete in the log, so that no change of
 *     it can lie before it.
 * I2. Ids are given out once in the life of a store: an old record never speaks of a new map.
 * I3. Drop and clear, and the deletion of a range, hold every partition of the map while their
 *     record takes its place in the log: each change of the map lies wholly before or after it, in
 *     the log and in memory.
 */
#include "store/store_internal.h"
#include "store/store_tables.h"
#include "store/store_view.h"

/* ---- the two tables ---------------------------------------------------------------------- */

/* One more than there can be: a damaged record may name any 16-bit id. */
#define MAP_TABLE_SIZE (((size_t)KM_MAP_COUNT_MAX + 1) * sizeof(km_map *))

km_status km__maps_init(struct km_store *store)
{
    /* whole tables at once, as untouched pages: no growing, and lookups need no reallocation lock
     */
    km__mutex_init(&store->attach_lock);
    km__mutex_init(&store->catalogue_lock);
    km__mutex_init(&store->names_lock);
    store->by_id = km__map_pages(store->allocator, MAP_TABLE_SIZE);
    store->by_name = km__map_pages(store->allocator, MAP_TABLE_SIZE);
    return store->by_id && store->by_name ? KM_OK : KM_E_NO_MEMORY;
}

static void destroy_map(km_map *map)
{
    const struct allocator *allocator = map->store->allocator;

    while (map->newest_view) { /* ends: the list gets shorter */
        struct map_view *view = map->newest_view;

        map->newest_view = view->older;
        km__view_destroy(view);
    }
    km__tables_close(map);
    km__order_destroy(map->order);
    km__sorted_destroy(map->tree);
    km__hash_index_destroy(map->index);
    km__release(allocator, map->name, map->name_size);
    km__release(allocator, map, sizeof(*map));
}

void km__maps_fini(struct km_store *store)
{
    for (uint32_t i = 0; i < store->id_count; i++) {
        if (store->by_id[i])
            destroy_map(store->by_id[i]);
    }
    if (store->by_id)
        km__unmap_pages(store->allocator, store->by_id, MAP_TABLE_SIZE);
    if (store->by_name)
        km__unmap_pages(store->allocator, store->by_name, MAP_TABLE_SIZE);
    km__mutex_fini(&store->attach_lock);
    km__mutex_fini(&store->catalogue_lock);
    km__mutex_fini(&store->names_lock);
}

km_status km__maps_reset(struct km_store *store)
{
    km__maps_fini(store);
    store->by_id = NULL;
    store->by_name = NULL;
    store->id_count = 0;
    store->name_count = 0;
    return km__maps_init(store);
}

static int compare_name(const km_map *map, km_bytes name)
{
    size_t shorter = map->name_size < name.size ? map->name_size : name.size;
    int result = memcmp(map->name, name.data, shorter);

    return result ? result : (map->name_size > name.size) - (map->name_size < name.size);
}

/* The place of a name in the table, or where it belongs. Under names_lock. */
static uint32_t name_place(const struct km_store *store, km_bytes name, int *out_is_there)
{
    uint32_t low = 0, high = store->name_count;

    *out_is_there = 0;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int result = compare_name(store->by_name[middle], name);

        if (result == 0) {
            *out_is_there = 1;
            return middle;
        }
        if (result < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static km_map *find_name(struct km_store *store, km_bytes name)
{
    int is_there;
    uint32_t place;
    km_map *map = NULL;

    km__mutex_lock(&store->names_lock);
    place = name_place(store, name, &is_there);
    if (is_there)
        map = store->by_name[place];
    km__mutex_unlock(&store->names_lock);
    return map;
}

/* The indexes that the map's kind wants. */
static km_status create_map_indexes(km_map *map)
{
    struct km_store *store = map->store;
    km_status rc = km__hash_index_create(store->allocator, store->pool, &store->reclaimer,
                                         &map->index);

    if (!rc && map->kind == KM_INSERTION)
        rc = km__order_create(store->allocator, store->pool, &store->reclaimer, &map->order);
    if (!rc && map->kind == KM_SORTED)
        rc = km__sorted_create(store->allocator, store->pool, &store->reclaimer,
                               &store->sorted_source, &map->tree);
    return rc;
}

static km_status create_map(struct km_store *store, const struct map_birth *birth, km_map **out_map)
{
    km_map *map = km__allocate(store->allocator, sizeof(*map));
    km_status rc = KM_E_NO_MEMORY;

    if (!map)
        return rc;
    map->store = store;
    map->id = birth->id;
    map->kind = birth->kind;
    map->created = birth->created;
    map->name_size = (uint16_t)birth->name.size;
    map->name = km__allocate(store->allocator, birth->name.size);
    if (map->name)
        rc = create_map_indexes(map);
    if (rc) {
        destroy_map(map);
        return rc;
    }
    memcpy(map->name, birth->name.data, birth->name.size);
    *out_map = map;
    return KM_OK;
}

static void enter_map(km_map *map)
{
    struct km_store *store = map->store;
    km_bytes name = {map->name, map->name_size};
    int is_there;
    uint32_t place;

    km__mutex_lock(&store->names_lock);
    place = name_place(store, name, &is_there);
    KM_ASSERT(!is_there && store->name_count < KM_MAP_COUNT_MAX);
    memmove(&store->by_name[place + 1], &store->by_name[place],
            (store->name_count - place) * sizeof(*store->by_name));
    store->by_name[place] = map;
    store->name_count++;
    store->by_id[map->id] = map;
    if (store->id_count <= map->id)
        store->id_count = map->id + 1u;
    km__mutex_unlock(&store->names_lock);
}

km_status km__maps_add(struct km_store *store, const struct map_birth *birth, km_map **out_map)
{
    km_status rc;

    if (birth->name.size == 0 || birth->name.size > KM_MAP_NAME_SIZE_MAX ||
        birth->id >= KM_MAP_COUNT_MAX || store->by_id[birth->id] || find_name(store, birth->name))
        return KM_E_CORRUPT; /* only a record of the log can ask for this */
    if ((int)birth->kind < KM_HASH || birth->kind > KM_SORTED)
        return KM_E_VERSION;
    rc = create_map(store, birth, out_map);
    if (!rc)
        enter_map(*out_map);
    return rc;
}

void km__maps_use_ids(struct km_store *store, uint32_t count)
{
    km__mutex_lock(&store->names_lock);
    if (store->id_count < count)
        store->id_count = count;
    km__mutex_unlock(&store->names_lock);
}

void km__maps_lock_partitions(km_map *map)
{
    for (uint32_t i = 0; i < HASH_PARTITION_COUNT; i++)
        km__mutex_lock(km__hash_partition_lock(map->index, i));
}

void km__maps_unlock_partitions(km_map *map)
{
    for (uint32_t i = 0; i < HASH_PARTITION_COUNT; i++)
        km__mutex_unlock(km__hash_partition_lock(map->index, i));
}

void km__maps_lock_all(struct km_store *store)
{
    km__mutex_lock(&store->catalogue_lock);
    for (uint32_t id = 0; id < store->id_count; id++) {
        if (store->by_id[id])
            km__maps_lock_partitions(store->by_id[id]);
    }
}

void km__maps_unlock_all(struct km_store *store)
{
    for (uint32_t id = 0; id < store->id_count; id++) {
        if (store->by_id[id])
            km__maps_unlock_partitions(store->by_id[id]);
    }
    km__mutex_unlock(&store->catalogue_lock);
}

void km__maps_remove_name(km_map *map)
{
    struct km_store *store = map->store;
    km_bytes name = {map->name, map->name_size};
    int is_there;
    uint32_t place;

    km__mutex_lock(&store->names_lock);
    place = name_place(store, name, &is_there);
    KM_ASSERT(is_there);
    store->name_count--;
    memmove(&store->by_name[place], &store->by_name[place + 1],
            (store->name_count - place) * sizeof(*store->by_name));
    km__mutex_unlock(&store->names_lock);
}

km_map *km__maps_by_id(struct km_store *store, uint16_t id)
{
    km_map *map = NULL;

    km__mutex_lock(&store->names_lock);
    if (id < store->id_count)
        map = store->by_id[id];
    km__mutex_unlock(&store->names_lock);
    return map;
}

uint32_t km__maps_id_count(struct km_store *store)
{
    uint32_t count;

    km__mutex_lock(&store->names_lock);
    count = store->id_count;
    km__mutex_unlock(&store->names_lock);
    return count;
}

/* ---- logged changes of the catalogue ----------------------------------------------------- */

static uint64_t size_of_change(const struct record *record)
{
    return km__record_size(0, record->value_size, record->key_size);
}

/* With the partitions locked and inside the gate, if there is a map to lock. */
static km_status log_map_change(struct km_store *store, struct map_change *change)
{
    const struct record *record = &change->record;
    enum log_class class = record->kind == RECORD_MAP_CREATED ? LOG_CLASS_PUT : LOG_CLASS_DELETE;
    struct log_payload payload = {change->value, change->key, 0};
    km_status rc = change->prepare ? change->prepare(change) : KM_OK;

    if (rc)
        return rc;
    payload.crc = km__record_payload_crc(change->value, record->value_size, change->key,
                                         record->key_size);
    rc = km__log_reserve(store->log, size_of_change(record), class, &change->space);
    if (rc)
        return rc;
    km__log_write_record(store->log, &change->space, 0, record, &payload);
    if (change->apply)
        change->apply(change);
    return KM_OK;
}

static km_status try_map_change(struct km_store *store, struct map_change *change)
{
    uint32_t slot;
    km_status rc;

    km__epoch_enter();
    if (change->map)
        km__maps_lock_partitions(change->map);
    slot = km__gate_enter(&store->snapshots.gate);
    rc = log_map_change(store, change);
    km__gate_leave(&store->snapshots.gate, slot);
    if (change->map)
        km__maps_unlock_partitions(change->map);
    if (!rc)
        km__log_finish(store->log, &change->space);
    km__epoch_leave();
    return rc;
}

static km_status wait_as_store(struct km_store *store, uint64_t position)
{
    return store->durability == KM_DURABLE_POWER ? km__log_wait_durable(store->log, position + 1)
                                                 : KM_OK;
}

static km_status check_change(struct km_store *store)
{
    km_status rc = km__check_writable(store);

    if (!rc && store->durability == KM_DURABLE_POWER && km__epoch_ongoing())
        rc = KM_WOULD_BLOCK;
    return rc;
}

/* Its holder may wait for the disk: a thread inside a read section must not wait for that. */
static km_status lock_catalogue(struct km_store *store)
{
    if (!km__epoch_ongoing()) {
        km__mutex_lock(&store->catalogue_lock);
        return KM_OK;
    }
    return km__mutex_try_lock(&store->catalogue_lock) ? KM_OK : KM_WOULD_BLOCK;
}

/* ---- create and open --------------------------------------------------------------------- */

static km_status create_locked(struct km_store *store, km_bytes name, km_map_kind kind,
                               km_map **out_map, uint64_t *out_position)
{
    struct map_birth birth = {(uint16_t)store->id_count, kind, name, 0};
    struct map_change change = {.value = NULL};
    uint8_t kind_byte = (uint8_t)kind;
    km_map *map = NULL;
    km_status rc;

    *out_map = find_name(store, name);
    if (*out_map)
        return KM_EXISTS;
    if (store->id_count >= KM_MAP_COUNT_MAX)
        return KM_E_LIMIT;
    rc = create_map(store, &birth, &map);
    if (rc)
        return rc;
    change.record.kind = RECORD_MAP_CREATED;
    change.record.key_size = (uint16_t)name.size;
    change.record.value_size = 1;
    change.key = name.data;
    change.value = &kind_byte;
    change.record.map = map->id;
    rc = try_map_change(store, &change);
    if (rc) {
        destroy_map(map);
        return rc;
    }
    map->created = change.space.position;
    enter_map(map);
    *out_map = map;
    *out_position = change.space.position;
    return KM_OK;
}

static km_status create_or_find(km_store *store, km_bytes name, km_map_kind kind, km_map **out_map)
{
    km_map *map = NULL;
    uint64_t position = 0;
    km_status rc;

    if (name.size == 0 || name.size > KM_MAP_NAME_SIZE_MAX || !name.data ||
        kind < KM_KIND_DEFAULT || kind > KM_SORTED)
        return KM_E_INVALID;
    if (kind == KM_KIND_DEFAULT)
        kind = KM_INSERTION;
    rc = check_change(store);
    if (rc)
        return rc;
    do { /* ends when there is room, or none to be had */
        rc = lock_catalogue(store);
        if (rc)
            return rc;
        rc = create_locked(store, name, kind, &map, &position);
        km__mutex_unlock(&store->catalogue_lock);
    } while (
        rc == KM_WOULD_BLOCK && !km__epoch_ongoing() &&
        !(rc = km__wait_room(store, km__record_size(0, 1, (uint16_t)name.size), LOG_CLASS_PUT)));
    if (rc == KM_OK)
        rc = wait_as_store(store, position);
    if (rc == KM_OK || rc == KM_EXISTS)
        *out_map = map;
    return rc;
}

km_status km_map_create(km_store *store, km_bytes name, km_map_kind kind, km_map **out_map)
{
    km_map *map = NULL;
    km_status rc = create_or_find(store, name, kind, &map);

    if (!rc)
        *out_map = map;
    return rc;
}

km_status km_map_open(km_store *store, km_bytes name, km_map **out_map)
{
    km_map *map;

    if (km__store_is_forked(store))
        return KM_E_FORKED;
    if (name.size == 0 || name.size > KM_MAP_NAME_SIZE_MAX || !name.data)
        return KM_E_INVALID;
    map = find_name(store, name);
    if (!map)
        return KM_NOT_FOUND;
    *out_map = map;
    return KM_OK;
}

km_status km_map_open_or_create(km_store *store, km_bytes name, km_map_kind kind, km_map **out_map)
{
    km_status rc = km_map_open(store, name, out_map);

    if (rc == KM_NOT_FOUND)
        rc = create_or_find(store, name, kind, out_map);
    return rc == KM_EXISTS ? KM_OK : rc;
}

/* ---- changes of a whole map -------------------------------------------------------------- */

/* Under catalogue_lock, which is not held while room is waited for: those who make room take it. */
static km_status change_locked(struct map_change *change)
{
    km_map *map = change->map;
    km_status rc;

    if (atomic_load_explicit(&map->dropped, memory_order_relaxed))
        return KM_E_DROPPED; /* relaxed: set under catalogue_lock */
    if (change->record.kind != RECORD_MAP_DROPPED && km__hides_stay(map))
        return KM_E_UNSUPPORTED; /* as are tables: they may have come since the caller looked */
    rc = try_map_change(map->store, change);
    if (!rc && change->record.kind == RECORD_MAP_DROPPED)
        km__maps_remove_name(map);
    return rc;
}

/* Nodes that wait in the index image cannot be kept for a snapshot: load them first. */
km_status km__map_load_nodes(km_map *map)
{
    struct hash_walk walk = {0};
    int is_end = 0;
    km_status rc = KM_OK;

    while (!rc && !is_end && km__hash_not_loaded_count(map->index)) {
        km__epoch_enter();
        rc = km__hash_load_next(map->index, &walk, &is_end);
        km__epoch_leave();
    }
    if (rc != KM_E_CORRUPT || km__is_beyond_mending(map->store))
        return rc;
    km__note_image_damage(map->store);
    return km__mend_index(map->store);
}

/* Without a snapshot nothing is kept. Relaxed: the preparation looks again. */
static int is_snapshot_open(const struct km_store *store)
{
    return atomic_load_explicit(&store->snapshots.current, memory_order_relaxed) != NULL;
}

km_status km__map_change(struct map_change *change)
{
    km_map *map = change->map;
    struct km_store *store = map->store;
    km_status rc;

    change->record.map = map->id;
    do { /* ends when there is room, or none to be had */
        rc = is_snapshot_open(store) ? km__map_load_nodes(map) : KM_OK;
        if (!rc)
            rc = lock_catalogue(store);
        if (rc)
            return rc;
        rc = change_locked(change);
        km__mutex_unlock(&store->catalogue_lock);
    } while (rc == KM_WOULD_BLOCK && !km__epoch_ongoing() &&
             !(rc = km__wait_room(store, size_of_change(&change->record), LOG_CLASS_DELETE)));
    return rc;
}

/* ---- drop and clear ---------------------------------------------------------------------- */

static km_status prepare_emptying(struct map_change *change)
{
    return km__view_prepare_freeze(change->map);
}

static void apply_clear(struct map_change *change)
{
    km__view_freeze(change->map);
}

static void apply_drop(struct map_change *change)
{
    km_map *map = change->map;

    /* relaxed: inside the gate, so that each snapshot is taken before it or after */
    atomic_store_explicit(&map->dropped_position, change->space.position, memory_order_relaxed);
    /* pairs with check_readable() */
    atomic_store_explicit(&map->dropped, 1, memory_order_release);
    km__view_freeze(map);
}

static km_status empty_map(km_map *map, uint8_t kind, void (*apply)(struct map_change *change))
{
    struct map_change change = {.map = map, .prepare = prepare_emptying, .apply = apply};
    km_status rc = check_change(map->store);

    if (rc)
        return rc;
    change.record.kind = kind;
    rc = km__map_change(&change);
    return rc ? rc : wait_as_store(map->store, change.space.position);
}

km_status km_map_drop(km_map *map)
{
    return empty_map(map, RECORD_MAP_DROPPED, apply_drop);
}

km_status km_map_clear(km_map *map)
{
    if (km__tables_of(map))
        return KM_E_UNSUPPORTED;
    return empty_map(map, RECORD_MAP_CLEARED, apply_clear);
}

/* ---- list and count ---------------------------------------------------------------------- */

uint64_t km_count(const km_map *map)
{
    if (km__store_is_forked(map->store))
        return 0;
    /* a dropped map's tables are not emptied; pairs with apply_drop() */
    return atomic_load_explicit(&map->dropped, memory_order_acquire) ? 0 : km__map_count(map);
}

km_status km_map_list(km_store *store, int (*visit)(void *context, const km_map_info *info),
                      void *context)
{
    if (km__store_is_forked(store))
        return KM_E_FORKED;
    for (uint32_t id = 0; id < km__maps_id_count(store); id++) { /* ids grow with time */
        km_map *map = km__maps_by_id(store, (uint16_t)id);
        km_map_info info;

        if (!map || atomic_load_explicit(&map->dropped, memory_order_acquire))
            continue; /* pairs with mark_dropped() */
        info.name = km_bytes_of(map->name, map->name_size);
        info.kind = map->kind;
        info.count = km_count(map);
        if (visit(context, &info))
            return KM_STOPPED;
    }
    return KM_OK;
}
