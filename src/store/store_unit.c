/* SPDX-License-Identifier: Apache-2.0
 *
 * store_unit.c -- several changes, or one large one, as one unit of the log.
 *
 * All partitions that the unit touches are locked, in one order; then everything that can fail is
 * done: finding, judging what is expected, and making room in the indexes by placeholders; then the
 * log takes the unit as a whole; then the index is pointed at the records.
 *
 * A unit too large for the ring is in its file before the locks are taken (log_special.c): the
 * ordinals in it are guessed, and held against what is there once the locks are.
 *
 * I1. Such a file gets its name in the log when all that is expected was found to hold, and the
 *     locks keep it so, though the disk is waited for: a name that recovery finds counts, and so
 *     would a change that was refused.
 */
#include "store/store_tables.h"

#include <stdlib.h>

struct unit {
    struct km_store *store;
    struct change *changes;
    size_t count;
    struct change **order; /* the changes that count, by map, partition, hash and key */
    size_t order_count;
    uint64_t log_size;
    enum log_class class;
    km_buffer *previous;
    struct found first_found;
    struct log_space space;
};

/* ---- order ------------------------------------------------------------------------------- */

static int compare_u64(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int compare_keys(const struct change *a, const struct change *b)
{
    int result = compare_u64(a->map->id, b->map->id);

    if (!result)
        result = compare_u64(km__hash_partition(a->hash), km__hash_partition(b->hash));
    if (!result)
        result = compare_u64(a->hash, b->hash);
    if (!result)
        result = compare_u64(a->key_size, b->key_size);
    if (!result && a->key_size)
        result = memcmp(a->key, b->key, a->key_size);
    return result;
}

static int is_expectation(const struct change *change)
{
    return change->kind == CHANGE_EXPECT;
}

/* Of one key: what is expected of it, then the changes, of which the last one wins. */
static int compare_changes(const void *x, const void *y)
{
    const struct change *a = *(struct change *const *)x, *b = *(struct change *const *)y;
    int result = compare_keys(a, b);

    if (!result)
        result = is_expectation(b) - is_expectation(a);
    return result ? result : compare_u64((uintptr_t)a, (uintptr_t)b);
}

static km_status order_changes(struct unit *unit)
{
    size_t kept = 0;

    unit->order = km__allocate(unit->store->allocator, unit->count * sizeof(*unit->order));
    if (!unit->order)
        return KM_E_NO_MEMORY;
    for (size_t i = 0; i < unit->count; i++)
        unit->order[i] = &unit->changes[i];
    qsort(unit->order, unit->count, sizeof(*unit->order), compare_changes);
    unit->class = LOG_CLASS_DELETE;
    for (size_t i = 0; i < unit->count; i++) {
        struct change *change = unit->order[i];

        change->is_superseded = !is_expectation(change) && i + 1 < unit->count &&
                                compare_keys(change, unit->order[i + 1]) == 0;
        if (change->is_superseded)
            continue;
        unit->order[kept++] = change;
        unit->log_size += is_expectation(change) ? 0 : change->log_size;
        if (change->kind == RECORD_PUT && !change->is_hiding)
            unit->class = LOG_CLASS_PUT;
    }
    unit->order_count = kept;
    return KM_OK;
}

/* ---- locks ------------------------------------------------------------------------------- */

static struct mutex *lock_of(const struct change *change)
{
    return km__hash_partition_lock(change->map->index, km__hash_partition(change->hash));
}

/* Inside a read section of the caller's a change must not wait, and a lock may be held while a file
 * gets its name (I1): then it is only tried. */
static int lock_change(const struct change *change, int may_wait)
{
    if (may_wait)
        km__mutex_lock(lock_of(change));
    return may_wait || km__mutex_try_lock_for_long(lock_of(change));
}

static void unlock_some(struct unit *unit, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || lock_of(unit->order[i]) != lock_of(unit->order[i - 1]))
            km__mutex_unlock(lock_of(unit->order[i]));
    }
}

static km_status lock_all(struct unit *unit, int may_wait)
{
    for (size_t i = 0; i < unit->order_count; i++) {
        if (i > 0 && lock_of(unit->order[i]) == lock_of(unit->order[i - 1]))
            continue;
        if (!lock_change(unit->order[i], may_wait)) {
            unlock_some(unit, i);
            return KM_WOULD_BLOCK;
        }
    }
    return KM_OK;
}

static void unlock_all(struct unit *unit)
{
    unlock_some(unit, unit->order_count);
}

/* ---- index room -------------------------------------------------------------------------- */

/* As km__hash_refs(), for an index that holds this unit's placeholders too. */
static km_status hash_unit_refs(void *context, const uint64_t *refs, size_t count,
                                uint64_t *out_hashes)
{
    const struct unit *unit = context;
    km_status rc = KM_OK;

    for (size_t i = 0; !rc && i < count; i++) {
        if (refs[i] >= LOG_PLACEHOLDER_BASE)
            out_hashes[i] = unit->changes[refs[i] - LOG_PLACEHOLDER_BASE].hash;
        else
            rc = km__hash_refs(unit->store, &refs[i], 1, &out_hashes[i]);
    }
    return rc;
}

static uint64_t placeholder_of(const struct unit *unit, const struct change *change)
{
    return km__placeholder((uint64_t)(change - unit->changes));
}

static km_status prepare_of_unit(struct unit *unit, struct change *change)
{
    struct hash_source source = {hash_unit_refs, unit};
    struct found found;
    km_status rc = km__prepare_change(change, placeholder_of(unit, change), &source, &found);

    if (unit->count == 1 && (rc == KM_OK || rc == KM_EXISTS))
        unit->first_found = found;
    if (!rc && unit->count == 1 && unit->previous && change->existed) {
        rc = km__buffer_reserve(unit->previous, found.record.value_size);
        if (rc)
            km__unprepare_change(change, placeholder_of(unit, change));
    }
    return rc;
}

static void unprepare_all(struct unit *unit, size_t count)
{
    for (size_t i = 0; i < count; i++)
        km__unprepare_change(unit->order[i], placeholder_of(unit, unit->order[i]));
}

static km_status prepare_all(struct unit *unit)
{
    km_status rc = KM_OK;
    size_t i;

    for (i = 0; i < unit->order_count; i++) {
        rc = prepare_of_unit(unit, unit->order[i]);
        if (rc)
            break;
    }
    if (rc)
        unprepare_all(unit, i);
    return rc;
}

/* ---- log --------------------------------------------------------------------------------- */

static int is_logged(const struct change *change)
{
    return !change->is_superseded && !is_expectation(change);
}

static void write_all(struct unit *unit)
{
    uint64_t offset = 0;

    for (size_t i = 0; i < unit->count; i++) {
        struct change *change = &unit->changes[i];
        int is_last = offset + change->log_size == unit->log_size;

        if (is_logged(change))
            offset += km__write_change(unit->store, &unit->space, offset, change,
                                       is_last ? 0 : RECORD_MORE_FOLLOWS);
    }
}

static uint64_t publish_all(struct unit *unit)
{
    uint64_t position = unit->space.position, last = position;

    for (size_t i = 0; i < unit->count; i++) {
        struct change *change = &unit->changes[i];

        if (!is_logged(change))
            continue;
        km__publish_change(change, placeholder_of(unit, change), position);
        last = position;
        position += change->log_size;
    }
    return last;
}

/* Whether a map has got other tables since its keys were looked up below. */
static int is_stale(const struct unit *unit)
{
    int stale = 0;

    for (size_t i = 0; !stale && i < unit->count; i++)
        stale = km__tables_is_stale(&unit->changes[i]);
    return stale;
}

static km_status presume_ordinals(struct unit *unit)
{
    km_status rc = KM_OK;

    km__epoch_enter();
    for (size_t i = 0; !rc && i < unit->count; i++) { /* in the order of the batch */
        if (is_logged(&unit->changes[i]))
            rc = km__presume_ordinal(&unit->changes[i]);
    }
    km__epoch_leave();
    return rc;
}

static km_status begin_special(struct unit *unit)
{
    struct log *log = unit->store->log;
    km_status rc = presume_ordinals(unit);

    if (!rc)
        rc = km__log_special_begin(log, unit->log_size, unit->class, &unit->space);
    if (rc)
        return rc;
    write_all(unit);
    return km__log_special_fill(log, &unit->space);
}

static km_status copy_unit_previous(const struct unit *unit)
{
    const struct log_record *record = &unit->first_found.record;

    if (unit->count != 1)
        return KM_OK;
    if (!unit->changes[0].existed)
        return km__copy_to_buffer(unit->previous, NULL, 0);
    return km__copy_to_buffer(unit->previous, record->value, record->value_size);
}

/* What a condition refused is told what is there; so is what was changed. Inside the epoch. */
static km_status tell_previous(const struct unit *unit, km_status rc)
{
    km_status copied = rc == KM_OK || rc == KM_EXISTS ? copy_unit_previous(unit) : KM_OK;

    return copied ? copied : rc;
}

/* ---- a unit that passes through the ring -------------------------------------------------- */

/* With the locks held, inside the gate. */
static km_status change_locked_keys(struct unit *unit, uint64_t *out_position)
{
    km_status rc = prepare_all(unit);

    if (rc || unit->log_size == 0)
        return rc; /* expectations alone: all hold */
    rc = km__log_reserve(unit->store->log, unit->log_size, unit->class, &unit->space);
    if (rc) {
        unprepare_all(unit, unit->order_count);
        return rc;
    }
    write_all(unit);
    *out_position = publish_all(unit);
    return KM_OK;
}

/* One try; KM_WOULD_BLOCK if the log has no room now. */
static km_status try_unit(struct unit *unit, uint64_t *out_position)
{
    struct km_store *store = unit->store;
    int may_wait = !km__epoch_ongoing();
    uint32_t slot;
    km_status rc;

    km__epoch_enter();
    rc = lock_all(unit, may_wait);
    if (!rc) {
        slot = km__gate_enter(&store->snapshots.gate);
        rc = change_locked_keys(unit, out_position);
        km__gate_leave(&store->snapshots.gate, slot);
        unlock_all(unit);
        if (!rc && unit->log_size)
            km__log_finish(store->log, &unit->space);
        rc = tell_previous(unit, rc);
    }
    km__epoch_leave();
    return rc;
}

/* ---- a unit with a segment of its own ------------------------------------------------------ */

/* With the locks held. */
static km_status prepare_special(struct unit *unit)
{
    struct km_store *store = unit->store;
    uint32_t slot;
    km_status rc;

    km__epoch_enter();
    slot = km__gate_enter(&store->snapshots.gate);
    rc = prepare_all(unit);
    km__gate_leave(&store->snapshots.gate, slot);
    if (rc == KM_EXISTS)
        rc = tell_previous(unit, rc);
    km__epoch_leave();
    return rc;
}

/* A snapshot may have been taken while the gate was left: save for it too. */
static km_status save_all(struct unit *unit)
{
    km_status rc = KM_OK;

    for (size_t i = 0; !rc && i < unit->order_count; i++) {
        if (is_logged(unit->order[i]))
            rc = km__save_change(unit->order[i]);
    }
    return rc;
}

/* The locks have kept the record current; it may lie elsewhere in memory than it did. */
static km_status find_previous_again(struct unit *unit)
{
    struct found *found = &unit->first_found;

    return unit->count == 1 && found->ref ? km__record_of(unit->store, found->ref, &found->record)
                                          : KM_OK;
}

/* The file has its name: what is left. Cancels the segment if it fails. */
static km_status take_special(struct unit *unit, uint64_t *out_position)
{
    struct km_store *store = unit->store;
    uint32_t slot;
    km_status rc;

    km__epoch_enter();
    slot = km__gate_enter(&store->snapshots.gate);
    rc = find_previous_again(unit);
    if (!rc)
        rc = save_all(unit);
    if (!rc) {
        km__log_special_take(store->log, &unit->space);
        *out_position = publish_all(unit);
    } else {
        unprepare_all(unit, unit->order_count);
    }
    km__gate_leave(&store->snapshots.gate, slot);
    unlock_all(unit);
    if (!rc) {
        km__log_finish(store->log, &unit->space);
        rc = tell_previous(unit, rc);
        km__epoch_leave();
        return rc;
    }
    km__epoch_leave();
    km__log_special_cancel(store->log, &unit->space);
    return rc;
}

/* One try; KM_WOULD_BLOCK if a guess was wrong. Not inside a read section. */
static km_status try_special(struct unit *unit, uint64_t *out_position)
{
    struct log *log = unit->store->log;
    km_status rc = begin_special(unit);

    if (rc)
        return rc;
    rc = lock_all(unit, 1);
    if (!rc)
        rc = prepare_special(unit);
    if (rc) {
        unlock_all(unit);
        km__log_special_cancel(log, &unit->space);
        return rc;
    }
    rc = km__log_special_write(log, &unit->space); /* I1 */
    if (!rc)
        return take_special(unit, out_position);
    km__epoch_enter();
    unprepare_all(unit, unit->order_count);
    km__epoch_leave();
    unlock_all(unit);
    return rc;
}

/* Of changes whose keys were looked up below their maps. */
static km_status commit_looked_up(struct unit *unit, uint64_t *out_position)
{
    struct km_store *store = unit->store;
    km_status rc = order_changes(unit);

    while (!rc) { /* ends when there is room, or none to be had */
        if (!km__log_is_large(store->log, unit->log_size))
            rc = try_unit(unit, out_position);
        else
            rc = km__epoch_ongoing() ? KM_WOULD_BLOCK : try_special(unit, out_position);
        if (rc != KM_WOULD_BLOCK || km__epoch_ongoing() || is_stale(unit))
            break;
        rc = km__wait_room(store, unit->log_size, unit->class);
    }
    km__release(store->allocator, unit->order, unit->count * sizeof(*unit->order));
    return rc;
}

km_status km__commit_unit(struct km_store *store, struct change *changes, size_t count,
                          km_buffer *previous, uint64_t *out_position)
{
    km_status rc;

    for (;;) { /* ends: each time tables were attached, or detached, meanwhile */
        struct unit unit = {
            .store = store, .changes = changes, .count = count, .previous = previous};

        rc = KM_OK;
        for (size_t i = 0; !rc && i < count; i++)
            rc = km__tables_look(&changes[i]);
        if (!rc)
            rc = commit_looked_up(&unit, out_position);
        if (rc != KM_WOULD_BLOCK || km__epoch_ongoing())
            return rc;
    }
}
