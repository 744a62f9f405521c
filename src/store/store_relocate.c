/* SPDX-License-Identifier: Apache-2.0
 *
 * store_relocate.c -- one step of compaction: go through some of the log's oldest records and
 * append those that the index still points at to its end.
 *
 * Deletes have nothing older left to hide, and maps are told of in MAPS (store_catalogue.c), so
 * neither moves. A key that has expired is deleted instead. A record that looks live is judged
 * again, copied and pointed at under its key's lock.
 *
 * I1. A record is moved only if it is current under its key's lock; the order of records of a key
 *     stays the order of its changes. Version, ordinal and expiry go along.
 * I2. Every record is verified before any of it is copied.
 * I3. A record is passed over as dead only when its writer is done with the index: a record may be
 *     in the log a moment before the index points at it. So before the records of a segment are
 *     judged, every partition was seen unlocked at a time when the segment was complete.
 * I4. A large record's new segment gets its name under the key's lock, though the disk is waited
 *     for: a name that recovery finds counts, and a change of the key between the naming and the
 *     taking would come before the copy of what it replaced.
 */
#include "store/store_internal.h"
#include "store/store_tables.h"

#define COMPACT_STEP_BYTES (UINT64_C(16) << 10)
#define COMPACT_GROUP 32u

/* The first position that may not be looked at: of the segment that is written now. */
uint64_t km__relocate_end(struct km_store *store)
{
    return km__position(km__position_number(km__log_complete(store->log)), 0);
}

/* ---- one record -------------------------------------------------------------------------- */

struct move {
    km_map *map;
    uint64_t hash, ref;
    uint64_t size; /* of the record, and of its copy */
    uint64_t new_size;
    struct log_item item;
    struct record record; /* of the copy */
    struct log_payload payload;
};

static km_bytes key_of_move(const struct move *move)
{
    return km_bytes_of(move->payload.key, move->record.key_size);
}

static int is_current(const struct move *move)
{
    return km__is_current(move->map, move->hash, key_of_move(move), move->ref);
}

static void prepare_move(struct km_store *store, const struct log_item *item, struct move *move)
{
    const struct record *record = &item->record;
    const uint8_t *value = item->bytes + km__record_payload_offset(record->flags);

    move->item = *item;
    move->map = store->by_id[record->map]; /* entered before any record of it was written */
    move->ref = km__log_ref(item->position);
    move->hash = km__hash_key(&store->secret, value + record->value_size, record->key_size);
    move->record = *record;
    move->record.flags = (uint8_t)((record->flags & ~RECORD_MORE_FOLLOWS) | RECORD_RELOCATED);
    if (!(record->flags & RECORD_RELOCATED))
        move->record.version = item->position;
    move->payload.value = value;
    move->payload.key = value + record->value_size;
    move->size = km__record_size(record->flags, record->value_size, record->key_size);
    move->new_size = km__record_size(move->record.flags, record->value_size, record->key_size);
    if (move->map)
        km__hash_prefetch(move->map->index, move->hash);
}

static void sum_move(struct move *move)
{
    move->payload.crc = km__record_payload_crc(move->payload.value, move->record.value_size,
                                               move->payload.key, move->record.key_size);
}

static void add_moved(struct compactor *compactor, const struct move *move)
{
    compactor->step_moved += move->new_size;
    /* relaxed: a figure */
    atomic_fetch_add_explicit(&compactor->moved_bytes, move->new_size, memory_order_relaxed);
}

/* With the partition locked: let the indexes point at the copy. */
static void publish_move(const struct move *move, uint64_t position)
{
    struct moved moved = {.hash = move->hash,
                          .key = key_of_move(move),
                          .ordinal = move->record.ordinal,
                          .old_ref = move->ref,
                          .new_ref = km__log_ref(position),
                          .weight_change = (int64_t)(move->new_size - move->size)};

    km__publish_move(move->map, &moved);
}

/* A copy was placed where it is; `before` is where the log was complete then. What other writers
 * added between the two is counted too, which is little. */
static void note_waste(struct compactor *compactor, uint64_t before, uint64_t position)
{
    const struct log *log = compactor->store->log;

    if (KM_UNLIKELY(km__position_number(before) != km__position_number(position)))
        compactor->turn_waste += km__log_linear(log, position) - km__log_linear(log, before);
}

static km_status try_move(struct compactor *compactor, struct move *move)
{
    struct km_store *store = compactor->store;
    uint64_t before;
    struct mutex *lock = km__hash_partition_lock(move->map->index, km__hash_partition(move->hash));
    struct log_space space;
    int moved = 0;
    km_status rc;

    km__mutex_lock(lock);
    rc = km__load_locked(move->map, move->hash);
    if (!rc && is_current(move)) {
        before = km__log_complete(store->log);
        rc = km__log_reserve(store->log, move->new_size, LOG_CLASS_COMPACT, &space);
        if (!rc) {
            note_waste(compactor, before, space.position);
            km__log_write_record(store->log, &space, 0, &move->record, &move->payload);
            publish_move(move, space.position);
            moved = 1;
        }
    }
    km__mutex_unlock(lock);
    if (moved)
        km__log_finish(store->log, &space);
    return rc;
}

/* Copy the record into its special segment. It is read anew: since the group was read, its segment
 * may have been mapped in the place of its memory. */
static km_status copy_large(struct compactor *compactor, struct move *move, struct log_space *space)
{
    struct km_store *store = compactor->store;
    struct log_item item;
    km_status rc;

    km__epoch_enter();
    rc = km__log_read(store->log, move->item.position, km__relocate_end(store), &item);
    if (!rc) {
        prepare_move(store, &item, move);
        sum_move(move);
        km__log_write_record(store->log, space, 0, &move->record, &move->payload);
    }
    km__epoch_leave();
    return rc;
}

static void note_large_move(struct compactor *compactor, const struct move *move, uint64_t before,
                            uint64_t position)
{
    uint64_t segment_size = km__log_segment_size(compactor->store->log,
                                                 km__position_number(position));

    note_waste(compactor, before, position);
    compactor->turn_waste += segment_size - move->new_size;
    add_moved(compactor, move);
}

/* I4. Cancels the special segment if it does not take it. */
static km_status take_large(struct compactor *compactor, struct move *move, struct log_space *space)
{
    struct km_store *store = compactor->store;
    struct mutex *lock = km__hash_partition_lock(move->map->index, km__hash_partition(move->hash));
    uint64_t before;
    int it_is = 0;
    km_status rc;

    km__mutex_lock(lock);
    km__epoch_enter();
    rc = km__load_locked(move->map, move->hash);
    if (!rc)
        it_is = is_current(move);
    km__epoch_leave(); /* the disk is never waited for inside one; the lock keeps what was found */
    if (rc || !it_is) {
        km__mutex_unlock(lock);
        km__log_special_cancel(store->log, space);
        return rc;
    }
    rc = km__log_special_write(store->log, space);
    km__epoch_enter();
    if (!rc) {
        before = km__log_complete(store->log);
        km__log_special_take(store->log, space);
        publish_move(move, space->position);
    }
    km__mutex_unlock(lock);
    if (!rc) {
        note_large_move(compactor, move, before, space->position);
        km__log_finish(store->log, space);
    }
    km__epoch_leave();
    return rc;
}

/* A record too large for the ring gets a segment of its own again. Its source stays in the log:
 * only the keeper frees segments, and only what was gone through. */
static km_status move_large(struct compactor *compactor, struct move *move)
{
    struct km_store *store = compactor->store;
    struct log_space space;
    km_status rc;

    rc = km__log_special_begin(store->log, move->new_size, LOG_CLASS_COMPACT, &space);
    if (rc)
        return rc;
    rc = copy_large(compactor, move, &space);
    if (rc) {
        km__log_special_cancel(store->log, &space);
        return rc;
    }
    rc = km__log_special_fill(store->log, &space);
    if (rc)
        return rc;
    rc = take_large(compactor, move, &space);
    return rc == KM_WOULD_BLOCK ? km__mend_index(store) : rc;
}

/* ---- a step ------------------------------------------------------------------------------ */

/* Records side by side, so that their cache misses overlap. */
struct move_group {
    struct move moves[COMPACT_GROUP];
    size_t count;
    uint64_t next; /* position behind them */
};

/* Read some records from where the compactor stands; inside an epoch. KM_END: none before `end`. */
static km_status read_group(struct compactor *compactor, uint64_t end, struct move_group *group)
{
    struct log_item item;
    uint64_t begin = compactor->position;
    km_status rc = KM_OK;

    group->count = 0;
    group->next = begin;
    while (!rc && group->count < COMPACT_GROUP && group->next - begin < COMPACT_STEP_BYTES) {
        rc = km__log_read(compactor->store->log, group->next, end, &item);
        if (rc) {
            compactor->bad_position = rc == KM_E_CORRUPT ? item.position : 0;
            break;
        }
        if (km__position_number(item.position) != km__position_number(begin)) {
            group->next = item.position; /* another segment: to be settled first */
            break;
        }
        group->next = item.next;
        if (item.record.kind == RECORD_PUT)
            prepare_move(compactor->store, &item, &group->moves[group->count++]);
    }
    return group->next != begin ? KM_OK : rc;
}

/* Whether the record is not current any more, by a delete of its key, which has expired. Where that
 * is not possible it moves like any other. */
static int drop_expired(const struct move *move)
{
    const struct record *record = &move->record;
    km_status rc;

    if (KM_LIKELY(!(record->flags & RECORD_HAS_EXPIRY)) ||
        record->expiry > km__store_clock(move->map->store))
        return 0;
    if (record->expiry == RECORD_EXPIRY_HIDES && km__hides_stay(move->map))
        return 0;
    rc = km__expire_key(move->map, key_of_move(move), record->version);
    return rc == KM_OK || rc == KM_NOT_FOUND || rc == KM_CONFLICT;
}

/* Move what is current of a group, from *done on; inside an epoch. */
static km_status move_records(struct compactor *compactor, struct move_group *group, size_t *done)
{
    km_status rc = KM_OK;

    for (; !rc && *done < group->count; ++*done) {
        struct move *move = &group->moves[*done];

        if (!move->map || !is_current(move) || drop_expired(move))
            continue;
        sum_move(move);
        if (km__log_is_large(compactor->store->log, move->new_size))
            return KM_E_TOO_BIG; /* outside the epoch */
        rc = try_move(compactor, move);
        if (rc)
            return rc;
        add_moved(compactor, move);
    }
    return rc;
}

/* I3: let every writer that holds a partition now be done with it. */
static void settle_segment(struct compactor *compactor, uint64_t position)
{
    struct km_store *store = compactor->store;
    uint32_t complete_number = km__position_number(km__log_complete(store->log));

    if (km__position_number(position) < compactor->settled_number)
        return;
    for (uint32_t id = 0; id < km__maps_id_count(store); id++) {
        km_map *map = km__maps_by_id(store, (uint16_t)id);

        for (uint32_t i = 0; map && i < HASH_PARTITION_COUNT; i++) {
            km__mutex_lock(km__hash_partition_lock(map->index, i));
            km__mutex_unlock(km__hash_partition_lock(map->index, i));
        }
    }
    compactor->settled_number = complete_number; /* segments below were complete before */
}

/* What kept a group from being moved is waited for with nothing held. */
static km_status wait_for_room(struct compactor *compactor, const struct move *move, km_status rc)
{
    struct km_store *store = compactor->store;
    struct move large = *move;

    if (rc == KM_WOULD_BLOCK) /* relaxed: noted by this very thread, if it matters */
        return atomic_load_explicit(&store->image.is_damaged, memory_order_relaxed)
                   ? km__mend_index(store)
                   : km__log_wait_space(store->log, move->new_size, LOG_CLASS_COMPACT);
    if (rc == KM_E_TOO_BIG)
        return move_large(compactor, &large);
    return rc;
}

void km__relocate_reach(struct compactor *compactor, uint64_t position)
{
    struct log *log = compactor->store->log;

    km__epoch_enter();
    if (km__position_number(position) < km__position_number(km__log_complete(log)))
        position = km__log_skip_end(log, position);
    compactor->position = position;
    compactor->linear = km__log_linear(log, position);
    km__epoch_leave();
    /* release: pairs with emptied_number(): what was moved is published */
    atomic_store_explicit(&compactor->emptied_number, km__position_number(position),
                          memory_order_release);
}

km_status km__relocate_some(struct compactor *compactor, uint64_t end)
{
    struct move_group group;
    size_t done = 0;
    km_status rc;

    settle_segment(compactor, compactor->position);
    do { /* ends: `done` grows, or an error */
        km__epoch_enter();
        rc = read_group(compactor, end, &group);
        if (!rc)
            rc = move_records(compactor, &group, &done);
        km__epoch_leave();
        if (rc == KM_WOULD_BLOCK || rc == KM_E_TOO_BIG) {
            rc = wait_for_room(compactor, &group.moves[done], rc);
            if (rc)
                return rc;
            continue;
        }
        break;
    } while (!rc);
    if (!rc)
        km__relocate_reach(compactor, group.next);
    return rc;
}
