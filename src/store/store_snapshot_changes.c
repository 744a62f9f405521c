/* SPDX-License-Identifier: Apache-2.0
 *
 * store_snapshot_changes.c -- what differs between two snapshots, found by reading the log from one
 * to the other.
 *
 * Each record says that its key may differ; what the two snapshots hold of the key says whether it
 * does, and how. The log between them is there whole: the earlier snapshot pins it, wherever the
 * log begins by now.
 *
 * I1. A put is told at the very record that the later snapshot has of the key: once. Copies that
 *     compaction made are passed over, for that record lies between the two as well.
 * I2. A delete is told at the first record that leads to it, and the version that is gone is kept
 *     in a set, so that it is told once: versions are never used for two keys. The set takes up to
 *     32 bytes for each delete that is told.
 * I3. Where many keys went at once, those of the earlier snapshot are gone through.
 * I4. What is told is a copy, and nothing is locked and no read section open meanwhile.
 * I5. A key that had expired when the earlier snapshot was taken was not in it; one that has
 *     expired by now is not in the later one, as for km_snapshot_get(). What has expired between
 *     the two is told as a delete once it is deleted in the later one: until then no record speaks
 *     of it.
 */
#include "store/store_tables.h"
#include "store/store_view.h"

#define CHANGES_SET_MIN 256u

/* Versions; 0 is an empty place. */
struct version_set {
    uint64_t *versions;
    size_t capacity; /* a power of two, or 0 */
    size_t count;
};

struct difference {
    struct km_snapshot *older, *newer;
    struct km_store *store;
    const km_map *only; /* NULL: all maps */
    int (*visit)(void *context, const km_change *change);
    void *context;
    struct version_set told; /* I2 */
    uint8_t *is_swept;       /* by map: all keys of the older snapshot were gone through */
    size_t is_swept_size;
    km_buffer key, value;
};

/* ---- versions ---------------------------------------------------------------------------- */

static size_t place_of_version(const struct version_set *set, uint64_t version)
{
    size_t place = (size_t)(version / RECORD_ALIGNMENT * UINT64_C(0x9e3779b97f4a7c15) >> 20);

    place &= set->capacity - 1;
    while (set->versions[place] && set->versions[place] != version)
        place = (place + 1) & (set->capacity - 1); /* ends: half of the places are empty */
    return place;
}

static km_status grow_set(const struct allocator *allocator, struct version_set *set)
{
    struct version_set larger = {.capacity = set->capacity ? 2 * set->capacity : CHANGES_SET_MIN};

    larger.versions = km__allocate(allocator, larger.capacity * sizeof(uint64_t));
    if (!larger.versions)
        return KM_E_NO_MEMORY;
    larger.count = set->count;
    for (size_t i = 0; i < set->capacity; i++) {
        if (set->versions[i])
            larger.versions[place_of_version(&larger, set->versions[i])] = set->versions[i];
    }
    km__release(allocator, set->versions, set->capacity * sizeof(uint64_t));
    *set = larger;
    return KM_OK;
}

/* KM_OK: it is new; KM_EXISTS. */
static km_status add_version(const struct allocator *allocator, struct version_set *set,
                             uint64_t version)
{
    size_t place;
    km_status rc = 2 * set->count >= set->capacity ? grow_set(allocator, set) : KM_OK;

    if (rc)
        return rc;
    place = place_of_version(set, version);
    if (set->versions[place])
        return KM_EXISTS;
    set->versions[place] = version;
    set->count++;
    return KM_OK;
}

/* ---- telling ----------------------------------------------------------------------------- */

static km_bytes bytes_in(const km_buffer *buffer)
{
    return km_bytes_of(buffer->data, buffer->size);
}

static km_status keep_bytes(km_buffer *buffer, const void *bytes, size_t size)
{
    km_status rc = km__buffer_reserve(buffer, size ? size : 1); /* what is there has data */

    return rc ? rc : km__copy_to_buffer(buffer, bytes, size);
}

/* I4 */
static km_status tell_change(struct difference *difference, const km_map *map,
                             const km_change *change)
{
    km_change told = *change;

    told.map = km_bytes_of(map->name, map->name_size);
    return difference->visit(difference->context, &told) ? KM_STOPPED : KM_OK;
}

static km_status tell_map(struct difference *difference, const km_map *map, km_change_kind kind,
                          uint64_t position)
{
    km_change change = {.kind = kind, .position = position};

    return tell_change(difference, map, &change);
}

/* ---- one key ----------------------------------------------------------------------------- */

/* What has become of a key. */
struct verdict {
    km_change_kind kind; /* 0: nothing that is to be told here */
    uint64_t position;
};

/* I5 */
static km_status find_in_older(const struct difference *difference, const km_map *map,
                               uint64_t hash, km_bytes key, struct found *out)
{
    km_status rc = km__find_in_snapshot(difference->older, map, hash, key, out);

    if (rc == KM_NOT_FOUND)
        return km__find_below(map, key, km__tables_of(map), out); /* the snapshot keeps them */
    if (rc || !(out->record.flags & RECORD_HAS_EXPIRY))
        return rc;
    return km__expiry_of(&out->record) <= difference->older->taken_ms ? KM_NOT_FOUND : KM_OK;
}

static km_status find_newer(const struct difference *difference, const km_map *map, uint64_t hash,
                            km_bytes key, struct found *out)
{
    km_status rc = km__find_in_snapshot(difference->newer, map, hash, key, out);

    return !rc && km__is_expired(difference->store, &out->record) ? KM_NOT_FOUND : rc;
}

/* A table had the key in the earlier snapshot; all keys of a table have one version. The delete is
 * told at the record that hides the key in the later one. */
static km_status judge_hidden(const struct difference *difference, const km_map *map, uint64_t hash,
                              km_bytes key, struct verdict *out)
{
    struct found found;
    km_status rc = km__find_in_snapshot(difference->newer, map, hash, key, &found);

    if (!rc && km__version_of(difference->store->view, found.ref, &found.record) == out->position)
        out->kind = KM_CHANGE_DELETE;
    return rc == KM_NOT_FOUND ? KM_OK : rc;
}

/* The later snapshot does not have the key: is that to be told? */
static km_status judge_absent(struct difference *difference, const km_map *map, uint64_t hash,
                              km_bytes key, struct verdict *out)
{
    const struct km_store *store = difference->store;
    struct found found;
    km_status rc = find_in_older(difference, map, hash, key, &found);

    if (rc)
        return rc == KM_NOT_FOUND ? KM_OK : rc;
    if (!found.ref)
        return judge_hidden(difference, map, hash, key, out);
    rc = add_version(store->allocator, &difference->told,
                     km__version_of(store->view, found.ref, &found.record));
    if (!rc)
        out->kind = KM_CHANGE_DELETE;
    return rc == KM_EXISTS ? KM_OK : rc;
}

/* The key of a record at out->position, or (0) one that the older snapshot has; inside an epoch. A
 * value that is to be told is copied. */
static km_status judge_key(struct difference *difference, const km_map *map, km_bytes key,
                           struct verdict *out)
{
    const struct km_store *store = difference->store;
    uint64_t hash = km__hash_key(&store->secret, key.data, key.size);
    struct found found;
    km_status rc = find_newer(difference, map, hash, key, &found);

    out->kind = (km_change_kind)0;
    if (rc == KM_NOT_FOUND)
        return judge_absent(difference, map, hash, key, out);
    if (rc || km__version_of(store->view, found.ref, &found.record) != out->position)
        return rc; /* I1: told where its own record lies, if it is one of the log between */
    out->kind = KM_CHANGE_PUT;
    return keep_bytes(&difference->value, found.record.value, found.record.value_size);
}

static km_status tell_verdict(struct difference *difference, const km_map *map,
                              const struct verdict *verdict)
{
    km_change change = {.kind = verdict->kind, .position = verdict->position};

    if (!verdict->kind)
        return KM_OK;
    change.key = bytes_in(&difference->key);
    if (verdict->kind == KM_CHANGE_PUT)
        change.value = bytes_in(&difference->value);
    return tell_change(difference, map, &change);
}

/* ---- many keys at once: I3 --------------------------------------------------------------- */

static km_status sweep_keys(struct difference *difference, km_map *map, uint64_t position,
                            const km_range *range)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;
    struct verdict verdict;
    km_bytes key;
    km_status rc;

    options.snapshot = difference->older;
    if (range)
        options.range = *range;
    rc = km_cursor_open(map, &options, &cursor);
    while (!rc) { /* ends with the range */
        rc = km_cursor_next(cursor, &key, NULL);
        if (rc)
            break;
        verdict.position = 0; /* no put is told here */
        km__epoch_enter();
        rc = judge_key(difference, map, key, &verdict);
        km__epoch_leave();
        verdict.position = position;
        if (!rc)
            rc = keep_bytes(&difference->key, key.data, key.size);
        if (!rc)
            rc = tell_verdict(difference, map, &verdict);
    }
    km_cursor_close(cursor);
    return rc == KM_END ? KM_OK : rc;
}

/* A clear: once for a map, for it finds all that is gone. */
static km_status sweep_map(struct difference *difference, km_map *map, uint64_t position)
{
    uint8_t *byte = &difference->is_swept[map->id / 8], bit = (uint8_t)(1u << map->id % 8);

    if (*byte & bit)
        return KM_OK;
    *byte |= bit;
    return sweep_keys(difference, map, position, NULL);
}

/* ---- one record -------------------------------------------------------------------------- */

/* What a record concerns, copied from the log. */
struct change_step {
    km_map *map; /* NULL: nothing that is to be looked at */
    uint8_t kind;
    int has_end; /* of a range: difference->value */
    uint64_t position, next;
    struct verdict verdict; /* of a put or delete */
};

static int is_in_both(const struct difference *difference, const km_map *map)
{
    return map && (!difference->only || map == difference->only) &&
           km__snapshot_has_map(difference->older, map) &&
           km__snapshot_has_map(difference->newer, map);
}

/* A map that is new has all its keys told as well. */
static int is_looked_at(const struct difference *difference, const km_map *map)
{
    return map && (!difference->only || map == difference->only) &&
           km__snapshot_has_map(difference->newer, map);
}

static km_status copy_range_of(struct difference *difference, const struct record *record,
                               const uint8_t *value, struct change_step *step)
{
    if (record->value_size == 0)
        return KM_E_CORRUPT;
    step->has_end = value[0] == RECORD_RANGE_HAS_END;
    return keep_bytes(&difference->value, value + 1, record->value_size - 1u);
}

/* Inside an epoch. */
static km_status take_log_item(struct difference *difference, const struct log_item *item,
                               struct change_step *step)
{
    const struct record *record = &item->record;
    const uint8_t *value = item->bytes + km__record_payload_offset(record->flags);
    const uint8_t *key = value + record->value_size;
    int is_of_key = record->kind == RECORD_PUT || record->kind == RECORD_DELETE;
    km_status rc;

    step->map = NULL;
    step->kind = record->kind;
    step->position = item->position;
    if (record->flags & RECORD_RELOCATED || record->kind == RECORD_MARK ||
        record->kind == RECORD_PADDING)
        return KM_OK;
    step->map = km__maps_by_id(difference->store, record->map);
    if (!is_looked_at(difference, step->map)) {
        step->map = NULL;
        return KM_OK;
    }
    rc = keep_bytes(&difference->key, key, record->key_size);
    if (!rc && record->kind == RECORD_RANGE_DELETED)
        rc = copy_range_of(difference, record, value, step);
    step->verdict.position = item->position;
    if (!rc && is_of_key)
        rc = judge_key(difference, step->map, bytes_in(&difference->key), &step->verdict);
    return rc;
}

/* KM_END: the later snapshot begins here. */
static km_status next_step(struct difference *difference, struct change_step *step)
{
    struct log_item item;
    km_status rc;

    km__epoch_enter();
    rc = km__log_read_pinned(difference->store->log, &difference->older->pin, step->next,
                             difference->newer->position, &item);
    if (!rc)
        rc = take_log_item(difference, &item, step);
    km__epoch_leave();
    if (!rc)
        step->next = item.next;
    return rc;
}

static km_status sweep_range(struct difference *difference, const struct change_step *step)
{
    km_buffer from = difference->key, to = difference->value;
    km_range range = {{NULL, 0}, {NULL, 0}, {NULL, 0}};
    km_status rc;

    memset(&difference->key, 0, sizeof(difference->key)); /* the sweep uses both */
    memset(&difference->value, 0, sizeof(difference->value));
    range.from = bytes_in(&from);
    if (step->has_end)
        range.to = bytes_in(&to);
    rc = sweep_keys(difference, step->map, step->position, &range);
    km_buffer_free(&from);
    km_buffer_free(&to);
    return rc;
}

static km_status tell_step(struct difference *difference, const struct change_step *step)
{
    if (!step->map)
        return KM_OK;
    switch (step->kind) {
    case RECORD_PUT:
    case RECORD_DELETE: return tell_verdict(difference, step->map, &step->verdict);
    case RECORD_MAP_CLEARED:
        return is_in_both(difference, step->map) ? sweep_map(difference, step->map, step->position)
                                                 : KM_OK;
    case RECORD_RANGE_DELETED:
        return is_in_both(difference, step->map) ? sweep_range(difference, step) : KM_OK;
    default: return KM_OK; /* maps are told of already */
    }
}

static km_status walk_between(struct difference *difference)
{
    struct change_step step = {.next = difference->older->position};
    km_status rc = KM_OK;

    while (!rc) { /* ends: positions grow */
        rc = next_step(difference, &step);
        if (!rc)
            rc = tell_step(difference, &step);
    }
    return rc == KM_END ? KM_OK : rc;
}

/* ---- maps -------------------------------------------------------------------------------- */

/* Those that are gone first: another may have the name by now. */
static km_status tell_maps(struct difference *difference, km_change_kind kind)
{
    const struct km_snapshot *with = difference->older, *without = difference->newer;
    km_status rc = KM_OK;

    if (kind == KM_CHANGE_MAP_CREATED) {
        with = difference->newer;
        without = difference->older;
    }
    for (uint32_t id = 0; !rc && id < km__maps_id_count(difference->store); id++) {
        const km_map *map = km__maps_by_id(difference->store, (uint16_t)id);

        if (!map || (difference->only && map != difference->only) ||
            !km__snapshot_has_map(with, map) || km__snapshot_has_map(without, map))
            continue;
        /* relaxed: it was dropped before the later snapshot was taken */
        rc = tell_map(difference, map, kind,
                      kind == KM_CHANGE_MAP_CREATED
                          ? map->created
                          : atomic_load_explicit(&map->dropped_position, memory_order_relaxed));
    }
    return rc;
}

/* ---- the call ---------------------------------------------------------------------------- */

static km_status tell_difference(struct difference *difference)
{
    const struct allocator *allocator = difference->store->allocator;
    km_status rc = KM_E_NO_MEMORY;

    difference->is_swept_size = KM_MAP_COUNT_MAX / 8u + 1u;
    difference->is_swept = km__allocate(allocator, difference->is_swept_size);
    if (difference->is_swept) {
        km__log_settle(difference->store->log); /* writers may still be copying below the end */
        rc = tell_maps(difference, KM_CHANGE_MAP_DROPPED);
    }
    if (!rc)
        rc = tell_maps(difference, KM_CHANGE_MAP_CREATED);
    if (!rc)
        rc = walk_between(difference);
    km__release(allocator, difference->is_swept, difference->is_swept_size);
    km__release(allocator, difference->told.versions, difference->told.capacity * sizeof(uint64_t));
    km_buffer_free(&difference->key);
    km_buffer_free(&difference->value);
    return rc;
}

km_status km_snapshot_changes(km_snapshot *older, km_snapshot *newer, km_map *map,
                              int (*visit)(void *context, const km_change *change), void *context)
{
    struct km_store *store = older->store;
    struct difference difference = {.older = older,
                                    .newer = newer,
                                    .store = store,
                                    .only = map,
                                    .visit = visit,
                                    .context = context};
    km_snapshot *now = NULL;
    km_status rc = KM_OK;

    if (km__store_is_forked(store))
        return KM_E_FORKED;
    if (km__store_broken(store))
        return km__store_broken(store);
    if ((newer && (newer->store != store || newer->position < older->position)) ||
        (map && map->store != store) || !visit)
        return KM_E_INVALID;
    if (!newer) {
        rc = km_snapshot_open(store, &now);
        if (rc)
            return rc;
        difference.newer = now;
    }
    rc = tell_difference(&difference);
    km_snapshot_close(now);
    return rc;
}
