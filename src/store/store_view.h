/* SPDX-License-Identifier: Apache-2.0
 *
 * store_view.h -- what open snapshots keep of the maps: store_view.c has the rules.
 *
 * A snapshot is a position P of the log. A key is in it with the record it had then: the one in the
 * map's index if its version is below P, else one that a *view* has saved. A view belongs to one
 * map and one snapshot; the first change of the map after the snapshot makes it. Snapshots of
 * before use it too.
 */
#ifndef KM_STORE_STORE_VIEW_H
#define KM_STORE_STORE_VIEW_H

#include "store/store_internal.h"

#define SNAPSHOT_COUNT_MAX 1000u

struct km_snapshot {
    struct km_store *store;            /* [c] */
    struct km_snapshot *older, *newer; /* snapshots.lock */
    struct log_pin pin;
    uint64_t position; /* [c] changes below it are in the snapshot, and no others */
    uint64_t taken_ms; /* [c] wall clock */
    uint64_t taken_ns; /* [c] */
};

/* Where the keys of a map are: of the map itself, or what it held when it was cleared. */
struct map_body {
    struct hash_index *index;      /* of KM_HASH and KM_INSERTION */
    struct insertion_order *order; /* of KM_INSERTION */
    struct sorted_tree *tree;      /* of KM_SORTED */
};

/* A key of a KM_INSERTION map that was deleted: its ordinal is gone from the order. */
struct grave {
    uint8_t key[8]; /* the ordinal, big-endian */
    uint64_t ordinal, ref;
    struct grave *next; /* of the view's */
};

enum view_freeze { VIEW_LIVE, VIEW_FREEZING, VIEW_FROZEN };

/* store_view_fold.c: how far a view was folded into the older one. */
enum view_fold_stage { FOLD_SAVED, FOLD_GRAVES, FOLD_DONE };

struct view_fold {
    enum view_fold_stage stage;
    struct hash_walk walk; /* of `saved` */
    uint64_t last;         /* entry of `saved_sorted` or `graves`; 0: none */
    int is_stuck;          /* it cannot be folded */
    int is_handed_over;    /* `frozen` is the older view's */
};

struct map_view {
    struct retired retired;
    struct km_store *store;             /* [c] */
    _Atomic(struct map_view *) older;   /* [a] changed under snapshots.lock */
    uint64_t position;                  /* [c] of the snapshot it was made for */
    uint64_t count, weight;             /* [c] of the map at the snapshot */
    struct hash_index *saved;           /* [c] records that keys had at the snapshot; of KM_HASH and
                                           KM_INSERTION */
    struct sorted_tree *saved_sorted;   /* [c] the same of KM_SORTED */
    struct sorted_tree *graves;         /* [c] of KM_INSERTION: ordinals that are gone, as addresses
                                           of struct grave */
    struct sorted_source grave_source;  /* [c] */
    _Atomic(struct grave *) last_grave; /* [a] all of them */
    _Atomic uint64_t grave_count;       /* [a] */
    struct map_body frozen; /* what the map held when it was cleared or dropped after the snapshot;
                               before that, maybe, empty indexes */
    _Atomic int freeze;     /* [a] a view_freeze: whether `frozen` is to be looked at */
    struct view_fold fold;  /* snapshots.fold_lock */
};

/* ---- changes; with the key's partition locked, inside the gate and an epoch, before the change is
 * logged. They do nothing when no snapshot is open. */

/* The record in *found (ref 0: there is none) is about to be superseded. `is_leaving`: its ordinal
 * will be gone. KM_E_NO_MEMORY, KM_E_CORRUPT: nothing has changed that anybody could see. */
km_status km__view_save_slow(km_map *map, uint64_t hash, const struct found *found, int is_leaving);
static inline km_status km__view_save(km_map *map, uint64_t hash, const struct found *found,
                                      int is_leaving)
{
    /* acquire: pairs with km_snapshot_open(): its fields. It does not change inside the gate but to
     * an older one */
    if (KM_LIKELY(!atomic_load_explicit(&map->store->snapshots.current, memory_order_acquire)))
        return KM_OK;
    return km__view_save_slow(map, hash, found, is_leaving);
}

/* The whole map is about to be emptied; with all its partitions locked, and no node of its index
 * waiting in an image. Afterwards km__view_freeze() must follow, or nothing. */
km_status km__view_prepare_freeze(km_map *map);
/* What the map holds is the snapshots' now, and the map empty; does only the latter if no snapshot
 * needs it. Cannot fail. */
void km__view_freeze(km_map *map);

/* ---- readers of snapshots; inside an epoch */

/* 1 if the map is in the snapshot: created before it, not dropped before it. */
int km__snapshot_has_map(const struct km_snapshot *snapshot, const km_map *map);

/* The map's views that a snapshot has to look at, newest first: for (view = km__view_first(map,
 * snapshot); view; view = km__view_next(view, snapshot)). Look at the map's own index first, then
 * begin here. */
struct map_view *km__view_first(const km_map *map, const struct km_snapshot *snapshot);
struct map_view *km__view_next(const struct map_view *view, const struct km_snapshot *snapshot);

/* Where the keys are that have not changed since the snapshot: in the map, or frozen. Waits while a
 * clear is between the two, for less than a microsecond of its time. */
struct map_body km__body_of(const km_map *map, const struct km_snapshot *snapshot);

/* Whether it is the map itself. */
int km__body_is_live(const km_map *map, const struct map_body *body);

/* Find a key as it is in a snapshot. KM_OK, KM_NOT_FOUND, KM_E_CORRUPT. An expired key is found. */
km_status km__find_in_snapshot(const struct km_snapshot *snapshot, const km_map *map, uint64_t hash,
                               km_bytes key, struct found *out);
/* The same of the records that views have saved, for a key that is not in the body, or there with a
 * record too new. */
km_status km__find_saved(const struct km_snapshot *snapshot, const km_map *map, uint64_t hash,
                         km_bytes key, struct found *out);

/* Of the map, at the snapshot. */
uint64_t km__count_in_snapshot(const struct km_snapshot *snapshot, const km_map *map);
uint64_t km__weight_in_snapshot(const struct km_snapshot *snapshot, const km_map *map);

/* ---- store_snapshot.c */

void km__snapshots_init(struct km_store *store);
void km__snapshots_fini(struct km_store *store); /* with no snapshot open */

/* store_view.c: with fold_lock and snapshots.lock held. Let go of the views of snapshots before a
 * position. */
void km__views_release(struct km_store *store, uint64_t position);
void km__view_destroy(struct map_view *view);
void km__body_destroy(struct map_body *body);
/* Save a record in a view, or that its ordinal is gone, unless it is there. Inside an epoch, as the
 * view's only writer of this key. KM_E_NO_MEMORY, KM_E_CORRUPT: it is not there. */
km_status km__view_enter(struct map_view *view, const struct found *found);
km_status km__view_dig(struct map_view *view, const struct found *found);
/* Memory of all views. */
uint64_t km__views_bytes(struct km_store *store);

/* store_view_fold.c: the views that no open snapshot needs for itself become part of older ones. */
/* fold_lock: who unlinks views holds it. With no partition locked, outside the gate. */
void km__views_lock(struct km_store *store);
void km__views_unlock(struct km_store *store);
/* Those with few entries; with fold_lock held. */
void km__views_fold_small(struct km_store *store);

#endif
