/* SPDX-License-Identifier: Apache-2.0
 *
 * store_internal.h -- what the files of store/ share: the store, its maps, a change.
 *
 * Lock order: compactor.lock, keeper.lock, catalogue_lock, then partition locks by (map id,
 * partition), then the gate of snapshots, snapshots.lock, then names_lock. snapshots.fold_lock is
 * taken with no other lock held, and before snapshots.lock. The locks of log/ and index/ come after
 * all of these. No lock is held while a user's callback runs. The disk is waited for under the
 * first two alone, which no change takes but on a full disk.
 */
#ifndef KM_STORE_STORE_INTERNAL_H
#define KM_STORE_STORE_INTERNAL_H

#include "base/assert.h"
#include "base/buffer.h"
#include "base/hash.h"
#include "base/status.h"
#include "index/hash_index.h"
#include "index/insertion_order.h"
#include "index/node_pool.h"
#include "index/sorted_tree.h"
#include "log/log.h"
#include "os/os.h"
#include "sync/eventcount.h"
#include "sync/gate.h"
#include "sync/thread.h"

#define STORE_SYNC_INTERVAL_MS 1000u
#define STORE_BATCH_SIZE_MAX (UINT64_C(8) << 20)
#define STORE_COMPACT_PERCENT 150u
#define STORE_LOG_SIZE_MIN (UINT64_C(4) << 20)

struct map_view;      /* store_view.h */
struct table_stack;   /* store_tables.h */
struct stacked_table; /* likewise */

struct km_map {
    struct km_store *store;        /* [c] */
    struct hash_index *index;      /* [c] the partitions' locks, whatever the kind; and the keys of
                                      a KM_HASH or KM_INSERTION map */
    struct insertion_order *order; /* [c] of a KM_INSERTION map; else NULL */
    struct sorted_tree *tree;      /* [c] of a KM_SORTED map, with its keys; else NULL */
    _Atomic(struct map_view *) newest_view; /* [a] what open snapshots keep of it; see store_view.h
                                             */
    _Atomic(const struct table_stack *) tables; /* [a] that are attached; NULL: none. Changes with
                                                   every partition locked; see store_attach.c */
    struct table_stack *stacks;                 /* catalogue_lock: all that it ever had */
    _Atomic uint64_t overlap;                   /* [a] keys too many; see store_tables.c */
    _Atomic int has_strays;                     /* [a] the folder may have names of tables that are
                                                   not attached; changed under attach_lock */
    _Atomic int has_expiry;                     /* [a] a record with an expiry was seen */
    uint8_t *name;                              /* [c] */
    uint16_t name_size;                         /* [c] */
    uint16_t id;                                /* [c] */
    km_map_kind kind;                           /* [c] */
    _Atomic int dropped;                        /* [a] set with every partition locked */
    uint64_t created;                  /* catalogue_lock: position of its map-created record */
    _Atomic uint64_t dropped_position; /* [a] of its map-dropped record; 0: there is none. Changed
                                          under catalogue_lock */
};

/* store_compact.c */
struct compactor {
    struct km_store *store;  /* [c] */
    struct mutex lock;       /* who moves records */
    uint64_t position;       /* lock: of the oldest record not gone through */
    uint64_t linear;         /* lock: the same, as km__log_linear() */
    uint64_t live_bytes;     /* lock: as of the last sum */
    uint64_t turn_end;       /* lock: linear; where the log ended when this turn began */
    uint64_t turn_waste;     /* lock: free bytes that this turn's large records left */
    uint64_t last_waste;     /* lock: those of the turn before */
    uint64_t step_begin;     /* lock: linear; where the last step began */
    uint64_t step_moved;     /* lock: bytes it moved */
    uint64_t bad_position;   /* lock: of a damaged record; 0: none was met */
    uint32_t settled_number; /* lock: of segments below, every record is in the index if ever */
    uint32_t steps_to_sum;   /* lock */
    int is_stuck;            /* lock: a damaged record is in the way */
    km_status noted;         /* lock: what was told last */
    _Atomic uint32_t emptied_number; /* [a] segments below hold nothing that is live */
    _Atomic uint64_t moved_bytes;    /* [a] */
    _Atomic int stopping;            /* [a] */
    struct thread thread;
    int has_thread;
};

/* store_image.c: the image that was read at open, or written since */
struct image {
    const uint8_t *mapping; /* [c] until closed: of the one read at open; NULL: none */
    uint64_t mapping_size;  /* [c] */
    uint64_t *line_offsets; /* [c] of its nodes, and their checksums */
    uint32_t *checksums;    /* [c] */
    uint64_t node_count;    /* [c] */
    struct hash_image_source source;
    _Atomic int is_beyond_mending; /* [a] the log is damaged too */
    _Atomic int is_damaged;        /* [a] a node's lines did not check out: see store_mend.c */
    uint32_t head_number;    /* keeper.lock: the newest image leads to no older segment; 0: none */
    _Atomic uint64_t linear; /* [a] its position, as km__log_linear() */
    _Atomic uint64_t bytes;  /* [a] its size; 0: there is none */
    _Atomic uint64_t count;  /* [a] written since open */
};

/* store_keeper.c */
struct keeper {
    struct mutex lock; /* the head's moves with MAPS and images */
    struct eventcount event;
    uint64_t maps_position;       /* lock: MAPS tells of every map record below; 0: there is none */
    uint64_t image_not_before_ns; /* lock: after a failure */
    uint64_t scrubbed_ns;         /* its thread's */
    _Atomic int is_failing;       /* [a] the last round could not move the head */
    _Atomic int stopping;         /* [a] */
    struct thread thread;
    int has_thread;
};

/* store_watch.c: makes the descriptors of watches readable. Lock order: control_lock, lock; both
 * are taken with no other lock held. */
struct watch_notifier {
    struct mutex control_lock; /* starting and ending the thread */
    struct mutex lock;         /* the list */
    struct km_watch *first;    /* lock: the watches that have a descriptor */
    struct eventcount event;
    _Atomic int stopping; /* [a] */
    struct thread thread; /* control_lock */
    int has_thread;       /* control_lock */
};

/* store_scrub.c: where the background goes on; its thread's alone. */
struct scrub_place {
    uint32_t number; /* of the segment; below the head: at the head */
    uint64_t offset; /* 0: at its header */
};

/* store_expire.c: where the search for expired keys goes on; the keeper's thread's alone. */
struct expire_place {
    uint32_t map_id;
    struct hash_walk walk;     /* of a KM_HASH or KM_INSERTION map */
    struct sorted_walk leaves; /* of a KM_SORTED map */
    uint64_t begun_ns;         /* this round through all maps, or the last */
    uint64_t not_before_ns;    /* the next call that does anything */
    int has_begun;             /* 0: between two rounds */
};

/* store_follow.c */
struct follower {
    struct eventcount event;
    _Atomic int stopping; /* [a] */
    struct thread thread;
    int has_thread;
    uint32_t idle_rounds, rounds;    /* of its thread, as the rest */
    uint64_t seen_complete, seen_ns; /* when it last was up to what was durable, or got on */
};

/* store_snapshot.c: the open snapshots */
struct snapshots {
    struct gate gate;                      /* passed by every change from its preparation until all
                                              threads see it; closed while a snapshot is taken */
    struct mutex lock;                     /* the list, and the making and ending of views */
    struct mutex fold_lock;                /* the ending of views; see store_view_fold.c */
    _Atomic uint32_t fold_waiting;         /* [a] threads that close a snapshot and wait for it */
    struct km_snapshot *oldest, *newest;   /* lock */
    _Atomic(struct km_snapshot *) current; /* [a] the newest that is open; NULL: there is none.
                                              Changes with the gate closed, or from a snapshot to
                                              an older one */
    _Atomic uint64_t count;                /* [a] */
};

struct km_store {
    /* [c] from here */
    uint64_t *fork_word; /* 1; a child of fork() finds 0 */
    _Atomic int broken;  /* [a] not KM_OK: every call's status; see store_follow.c */
    const struct log_view *view;
    struct log *log;
    struct hash_secret secret;
    km_durability durability;
    uint64_t batch_size_max;
    km_options options;
    struct os *os;
    const struct allocator *allocator;
    struct node_pool *pool;
    struct os_dir *dir, *log_dir; /* NULL in memory */
    struct os_file *lock_file;
    struct identity identity;
    struct hash_source source; /* for everything but batches */

    struct reclaimer reclaimer;
    struct mutex attach_lock;    /* attaching and detaching tables; taken before all others */
    uint32_t table_holds;        /* snapshots.lock; see km__tables_hold() */
    struct mutex catalogue_lock; /* creating, dropping and clearing maps */
    struct mutex names_lock;     /* the two tables below */
    km_map **by_id;              /* names_lock: id_count entries; dropped maps stay */
    uint32_t id_count;           /* names_lock */
    km_map **by_name;            /* names_lock: name_count maps that are not dropped, by name */
    uint32_t name_count;         /* names_lock */
    uint32_t catalogue_ids; /* [c] MAPS tells of all maps with ids below this but dropped ones */

    uint64_t recovered_records, recovered_ns, torn_bytes; /* [c] */

    uint32_t compact_percent; /* [c] */
    uint64_t log_size_min;    /* [c] */
    struct compactor compactor;
    struct keeper keeper;
    struct image image;
    uint64_t image_growth; /* [c] 0: by the live bytes */
    int is_checked_whole;  /* [c] STORE_OPEN_WHOLE */
    int is_image_refused;  /* [c] STORE_OPEN_NO_IMAGE */
    int is_follower;       /* [c] opened for reading beside a writer */
    struct follower follower;
    _Atomic uint64_t damage_count; /* [a] */
    struct watch_notifier watch_notifier;
    struct snapshots snapshots;
    struct sorted_source sorted_source; /* [c] of trees of whole keys */
    _Atomic uint64_t expired_count;     /* [a] keys that expiry deleted */
    _Atomic uint64_t clock_ms;          /* [a] see km__store_clock() */
    struct expire_place expire_place;
    struct scrub_place scrub_place;
    int64_t scrub_credit; /* bytes that km__scrub_some() may read; negative: were read too many */
    _Atomic uint64_t scrubbed_bytes; /* [a] */
};

/* The status of every call once the index does not tell the truth any more; KM_OK as long as it
 * does. */
static inline km_status km__store_broken(const struct km_store *store)
{
    /* pairs with lose() */
    return (km_status)atomic_load_explicit(&store->broken, memory_order_acquire);
}

static inline int km__store_is_forked(const struct km_store *store)
{
    return KM_UNLIKELY(*store->fork_word != 1);
}

/* store_open.c */
#define STORE_OPEN_BACKGROUND 1 /* with its threads */
#define STORE_OPEN_WHOLE 2 /* read the whole log, whatever an image says; never beside a writer */
#define STORE_OPEN_NO_IMAGE 4 /* the one there is was found damaged by the replay */
km_status km__store_open_with(struct os *os, const char *path, const km_options *options, int flags,
                              struct km_store **out_store, km_error *out_error);
/* Recover the store and let its log go on in a segment of this number or a later one, then close
 * it: no position below is given out any more. */
km_status km__store_lift(struct os *os, const char *path, uint32_t number, km_error *out_error);
km_status km__store_open_memory_with(struct os *os, const km_options *options, int background,
                                     struct km_store **out_store, km_error *out_error);

/* store_verify.c */
km_status km__store_verify_with(struct os *os, const char *path, km_finding_fn found, void *context,
                                km_check_result *out_result, km_error *out_error);

/* store_files.c: LOCK, IDENTITY, MARKS */
km_status km__store_attach_files(struct km_store *store, const char *path,
                                 struct os_file **out_marks_file, struct marks *out_marks,
                                 km_error *error);

/* A whole file of the store's folder: KM_NOT_FOUND, or the error told in *error. */
km_status km__read_whole_file(struct km_store *store, const char *name, uint8_t **out_bytes,
                              size_t *out_size, km_error *error);
/* Read MARKS. */
km_status km__load_marks(struct km_store *store, struct marks *out, km_error *error);
/* Put a file in the store's folder in one step; the caller syncs the folder. */
km_status km__write_file(struct km_store *store, const char *name, const uint8_t *bytes,
                         size_t size, km_error *error);

/* store_maps.c */
km_status km__maps_init(struct km_store *store);
void km__maps_fini(struct km_store *store);
/* Forget all maps, before the store is in use. */
km_status km__maps_reset(struct km_store *store);
/* Make a map that a record, MAPS or an image tells of, and enter it in both tables. */
struct map_birth {
    uint16_t id;
    km_map_kind kind;
    km_bytes name;
    uint64_t created; /* position of its record */
};
/* KM_E_VERSION: a kind that is not known. */
km_status km__maps_add(struct km_store *store, const struct map_birth *birth, km_map **out_map);

/* Ids below `count` have been given out. */
void km__maps_use_ids(struct km_store *store, uint32_t count);
/* A logged change of a whole map. */
struct map_change {
    km_map *map; /* NULL: it is new, nothing to lock */
    struct record record;
    const void *key, *value;
    struct log_space space; /* out */
    /* Both with every partition locked, inside the gate and an epoch; NULL: nothing to do. What can
     * fail: called again with each attempt. */
    km_status (*prepare)(struct map_change *change);
    void (*apply)(struct map_change *change);
    void *context;
};
/* Log it and apply it, waiting for room. */
km_status km__map_change(struct map_change *change);
/* Load all nodes of a map's hash index that wait in the image. */
km_status km__map_load_nodes(km_map *map);
void km__maps_lock_partitions(km_map *map);
void km__maps_unlock_partitions(km_map *map);
/* Keep every map from changing: catalogue_lock and all partitions of all maps. */
void km__maps_lock_all(struct km_store *store);
void km__maps_unlock_all(struct km_store *store);
/* Take a map out of the table of names. */
void km__maps_remove_name(km_map *map);
km_map *km__maps_by_id(struct km_store *store, uint16_t id);
uint32_t km__maps_id_count(struct km_store *store);

/* store_catalogue.c: the file MAPS. Under keeper.lock. */
km_status km__catalogue_write(struct km_store *store);
/* What MAPS would say of a log from `head` to `position`, in memory of the store's. Takes
 * catalogue_lock; every map record of that span is in the store's tables, or its lock held. */
km_status km__catalogue_encode(struct km_store *store, uint64_t head, uint64_t position,
                               uint8_t **out_bytes, size_t *out_size);
/* Make the maps that MAPS tells of and the log from `head` on does not. */
km_status km__catalogue_load(struct km_store *store, uint64_t head, km_error *error);

/* store_image.c: the file index.image */
/* Write an image of the index as it is. Under keeper.lock. */
km_status km__image_write(struct km_store *store);
/* store_image_load.c */
/* Use the image in the folder if it is of use: make its maps and enter its nodes, to be loaded when
 * they are touched. *out_index is the segment of the chain to begin the replay with. Whatever is
 * wrong with the image, the answer is KM_OK, no map, and 0. */
km_status km__image_load(struct km_store *store, uint64_t head, uint32_t *out_index);
/* Load nodes in the background until none is left or `budget` were; 1 when none is left. */
int km__image_load_some(struct km_store *store, uint32_t budget);
void km__image_close(struct km_store *store);

/* store_mend.c */
/* A node of the image is damaged: build the whole index anew from the log, with every change kept
 * waiting. No partition may be locked by this thread. KM_OK: try again. */
km_status km__mend_index(struct km_store *store);
/* The image is damaged, and the log too. */
int km__is_beyond_mending(const struct km_store *store);
/* A node of the image did not check out. */
void km__note_image_damage(struct km_store *store);
/* With the partition locked: km__hash_load(). KM_WOULD_BLOCK if the index has to be mended first.
 */
km_status km__load_locked(km_map *map, uint64_t hash);
/* For readers, with nothing locked: make the node of `hash` readable, whatever it takes. */
km_status km__load_for_reader(const struct km_store *store, struct hash_index *index,
                              uint64_t hash);
/* store_find.c */
struct found {
    uint64_t ref; /* 0: none */
    struct log_record record;
};

/* Find a key in an index of hashes; inside an epoch. KM_OK, KM_NOT_FOUND, KM_E_CORRUPT. */
km_status km__find(const struct km_store *store, struct hash_index *index, uint64_t hash,
                   km_bytes key, struct found *out);
/* The same in a tree. */
km_status km__find_sorted(const struct km_store *store, const struct sorted_tree *tree,
                          km_bytes key, struct found *out);
/* The same in a map, of any kind, but not in what is below it. An expired key is found. */
km_status km__find_in_map(const km_map *map, uint64_t hash, km_bytes key, struct found *out);
/* The tables under a map; NULL: none. */
static inline const struct table_stack *km__tables_of(const km_map *map)
{
    /* acquire: pairs with km__stack_set() */
    return atomic_load_explicit(&map->tables, memory_order_acquire);
}
/* store_tables.c: where a map itself does not have a key, look into the tables that are attached to
 * it. *out has ref 0 then. `seen` is what km__tables_of() gave before the map was asked: if that
 * has changed, the map is asked again, since the key may have come from there. KM_OK, KM_NOT_FOUND,
 * KM_E_CORRUPT. */
km_status km__find_below_slow(const km_map *map, km_bytes key, const struct table_stack *seen,
                              struct found *out);
static inline km_status km__find_below(const km_map *map, km_bytes key,
                                       const struct table_stack *seen, struct found *out)
{
    return KM_LIKELY(!seen && !km__tables_of(map)) ? KM_NOT_FOUND
                                                   : km__find_below_slow(map, key, seen, out);
}
/* Locate and verify the record behind a reference: KM_OK or KM_E_CORRUPT. */
km_status km__record_of(const struct km_store *store, uint64_t ref, struct log_record *out);

/* The version of the record at a reference, and its fields that may be missing (then 0). */
static inline uint64_t km__version_of(const struct log_view *view, uint64_t ref,
                                      const struct log_record *record)
{
    return record->flags & RECORD_RELOCATED ? km__load64(record->bytes + RECORD_HEADER_SIZE)
                                            : km__log_position_of(view, ref);
}

static inline uint64_t km__ordinal_of(const struct log_record *record)
{
    uint32_t before = 8u * (record->flags >> 1 & 1u);

    return record->flags & RECORD_HAS_ORDINAL
               ? km__load64(record->bytes + RECORD_HEADER_SIZE + before)
               : 0;
}

static inline uint64_t km__expiry_of(const struct log_record *record)
{
    uint32_t before = 8u * ((record->flags >> 1 & 1u) + (record->flags >> 2 & 1u));

    return record->flags & RECORD_HAS_EXPIRY
               ? km__load64(record->bytes + RECORD_HEADER_SIZE + before)
               : 0;
}

static inline uint64_t km__size_of_record(const struct log_record *record)
{
    return km__record_size(record->flags, record->value_size, record->key_size);
}

/* Milliseconds since 1970, as expiry has it: never less than before, not after a crash either. */
uint64_t km__store_clock(const struct km_store *store);

static inline int km__is_expired(const struct km_store *store, const struct log_record *record)
{
    return KM_UNLIKELY(record->flags & RECORD_HAS_EXPIRY) &&
           km__expiry_of(record) <= km__store_clock(store);
}

void km__fill_info(const struct km_store *store, uint64_t ref, const struct log_record *record,
                   km_key_info *out);
/* Copy bytes into a buffer; NULL: nothing is wanted. */
km_status km__copy_to_buffer(km_buffer *buffer, const void *bytes, size_t size);

/* For struct hash_source; context is the store. */
km_status km__hash_refs(void *context, const uint64_t *refs, size_t count, uint64_t *out_hashes);

/* store_replay.c */
/* `head`: where the log begins, as MARKS says. */
km_status km__replay(struct km_store *store, uint64_t head, km_error *error);

/* store_relocate.c; under compactor.lock. Go through some of the oldest records, all below `end`,
 * and move what is live. KM_END: there are none. */
km_status km__relocate_some(struct compactor *compactor, uint64_t end);
/* The first position that may not be gone through: of the segment that is written now. */
uint64_t km__relocate_end(struct km_store *store);
/* Everything before `position` was gone through. */
void km__relocate_reach(struct compactor *compactor, uint64_t position);

/* store_compact.c: the oldest segments are emptied. The first runs a pass as far as one is due. */
km_status km__compact_some(struct km_store *store);
/* The disk is full: free what is or can be emptied. KM_E_FULL if that is nothing. */
km_status km__compact_for_room(struct km_store *store);
uint64_t km__live_bytes(struct km_store *store);
void km__compactor_init(struct km_store *store);
km_status km__compactor_start(struct km_store *store);
void km__compactor_stop(struct km_store *store);

/* store_keeper.c: emptied segments leave the log. */
void km__keeper_kick(struct km_store *store);
/* Free all that is empty now; urgent: at the price of the image. */
km_status km__keeper_free(struct km_store *store, int is_urgent);
/* What the thread does in one round: an image if one is due, then the head. */
km_status km__keeper_round(struct km_store *store);
/* Linear: puts wait for the keeper when the log's end is farther than its limit beyond this. */
uint64_t km__keeper_reach(struct km_store *store);
/* Before a clean end: an image, if there is much to replay. */
void km__keeper_close(struct km_store *store);
/* Segments in the log that hold nothing that is live. */
uint64_t km__emptied_bytes(struct km_store *store);
/* Log that an open now would replay. */
uint64_t km__replay_bytes(struct km_store *store);
km_status km__keeper_start(struct km_store *store);
void km__keeper_stop(struct km_store *store);

/* store_follow.c */
/* Let the writer know. */
km_status km__follow_announce(struct km_store *store);
/* For the writer: whether anybody follows. */
int km__follow_is_watched(const struct km_store *store);
/* Apply what is new; for the thread, and for tests without one. */
km_status km__follow_some(struct km_store *store, int *out_moved);
km_status km__follower_start(struct km_store *store);
void km__follower_stop(struct km_store *store);

/* store_change.c */
#define CHANGE_EXPECT 0 /* besides RECORD_PUT and RECORD_DELETE: only look; of batches */

/* One change of a unit. */
struct change {
    km_map *map;
    uint8_t kind;  /* RECORD_PUT, RECORD_DELETE or CHANGE_EXPECT */
    uint8_t flags; /* of the record: its ordinal and expiry */
    uint16_t key_size;
    uint32_t value_size;
    uint32_t payload_crc;
    km_condition condition;
    uint64_t expected; /* version, of KM_IF_VERSION */
    uint64_t expiry;   /* of a put; 0: none */
    uint64_t hash;
    uint64_t log_size;
    const void *key, *value;
    int is_superseded; /* a later change of the unit has the same key: not logged, not applied */
    int is_lone;       /* not of a batch: nothing is logged for a key that is not there */
    int is_of_expired; /* takes an expired key for one that is there: to delete it */
    int is_own;        /* a delete of what the map itself has: what is below comes to light */
    /* from km__tables_look(): */
    const struct table_stack *stack;   /* that was looked into */
    int is_hiding;                     /* a delete, as a put that hides what is below */
    const struct stacked_table *below; /* a table under the map that has the key; NULL: none */
    km_bytes below_value;              /* what it has */
    /* what the preparation found, under the lock: */
    int has_placeholder, has_order_room;
    uint64_t old_ref, old_size, old_ordinal;
    int was_hiding; /* the old record is one that hides what is below */
    int existed;    /* it was there, and had not expired */
    struct sorted_pending pending;
    /* the place of a put in a KM_INSERTION map */
    uint64_t ordinal;
    int has_ordinal, is_ordinal_new; /* known before the key was locked; taken for it */
};
/* Everything but the sum of the payload, which km__change_sum() adds. */
void km__change_init(struct change *change, km_map *map, uint8_t kind, km_bytes key,
                     km_bytes value);
/* `expiry`: 0: none. */
void km__change_expire(struct change *change, uint64_t expiry);
uint64_t km__expiry_after(const struct km_store *store, uint64_t ttl_ms);
void km__change_sum(struct change *change);
km_status km__check_sizes(km_bytes key, km_bytes value);
km_status km__check_writable(const struct km_store *store);
km_durability km__effective_durability(const struct km_store *store, const km_write *write);
uint64_t km__write_change(struct km_store *store, const struct log_space *space, uint64_t offset,
                          struct change *change, uint8_t flags);
km_status km__check_write(const km_write *write, km_bytes key, km_bytes value);
km_status km__check_key_change(const km_map *map, km_bytes key, km_bytes value,
                               const km_write *write);
/* A change of one key, checked, with the results in *write; for put, del and what is made of them.
 */
km_status km__change_key(struct change *change, km_write *write);
km_status km__put_if(km_map *map, km_bytes key, km_bytes value, km_condition condition,
                     km_position expected, km_write *write);
static inline uint64_t km__placeholder(uint64_t change_index)
{
    return LOG_PLACEHOLDER_BASE + change_index;
}

/* store_apply.c: a change and the indexes of its map. All with the key's partition locked and
 * inside an epoch; the first two, and what comes between them, inside the gate. */
/* Find the key's record, judge the condition, keep for snapshots what they need, make room in the
 * indexes: everything that can fail. KM_OK: to be logged and published, or unprepared. KM_EXISTS,
 * KM_NOT_FOUND, KM_CONFLICT: the condition says no, or there is nothing to delete; *out_found is
 * set then too. */
km_status km__prepare_change(struct change *change, uint64_t placeholder,
                             const struct hash_source *source, struct found *out_found);
/* For a record that is written before its key is locked: guess its ordinal, which the preparation
 * then holds against what is there (KM_WOULD_BLOCK if it was wrong). Inside an epoch. */
km_status km__presume_ordinal(struct change *change);
/* The gate was left after the preparation and entered anew: save for a snapshot that was taken in
 * between. As km__prepare_change(). */
km_status km__save_change(const struct change *change);
/* Take back what km__prepare_change() entered. */
void km__unprepare_change(struct change *change, uint64_t placeholder);
/* Make the indexes point at a change's record. Cannot fail. */
void km__publish_change(struct change *change, uint64_t placeholder, uint64_t position);
/* Whether the map's index leads to `ref` for this key. */
int km__is_current(const km_map *map, uint64_t hash, km_bytes key, uint64_t ref);
/* A record that was copied from old_ref to new_ref. */
struct moved {
    uint64_t hash;
    km_bytes key;
    uint64_t ordinal;
    uint64_t old_ref, new_ref;
    int64_t weight_change;
};
/* Make the indexes point at the copy. Cannot fail. */
void km__publish_move(const km_map *map, const struct moved *moved);
/* A put or delete that was written before, or by another process. */
struct logged {
    km_map *map;
    uint64_t hash, ref, size; /* of the key; of the record; of the record */
    uint8_t kind;
};
/* Let the indexes have what a record says: replay, followers. The records of each key come in
 * order. With the partition locked, or as its only user. */
km_status km__apply_record(const struct logged *logged);
/* The same for a hash index that is built anew, apart from its map. */
km_status km__apply_to_hash(const struct logged *logged, struct hash_index *index);
/* Some key of the map has an expiry. */
void km__note_expiry(km_map *map);
/* With every partition locked: all keys go. */
void km__empty_map(km_map *map);
uint64_t km__map_count(const km_map *map);
uint64_t km__map_weight(const km_map *map);
uint64_t km__map_index_bytes(const km_map *map);
/* For struct sorted_source; context is the store. */
km_status km__sorted_key_of(void *context, uint64_t ref, km_bytes *out_key);
void km__sorted_prefetch_record(void *context, uint64_t ref);

/* store_range.c: with every partition of the map locked. Remove the keys from `from` up to `to`
 * from a tree; *out_count of them. Cannot fail but for KM_E_CORRUPT. `shard_begin`, `shard_step`:
 * only keys whose partition is begin, begin + step, ... (replay by several threads). */
struct key_range {
    struct sorted_bound from, to;
};
km_status km__remove_range(km_map *map, const struct key_range *range, uint32_t shard_begin,
                           uint32_t shard_step, uint64_t *out_count);
/* What a range record says: KM_OK, or KM_E_CORRUPT. */
km_status km__range_of_record(const struct log_record *record, struct key_range *out);
/* The bounds of a km_range; `memory` holds the end of a prefix and is released by the caller with
 * km_buffer_free(). KM_E_INVALID, KM_E_TOO_BIG, KM_E_NO_MEMORY. */
km_status km__bounds_of_range(const km_range *range, km_buffer *memory, struct key_range *out);

/* With nothing held, after KM_WOULD_BLOCK: make room in the log, or mend the index. */
km_status km__wait_room(struct km_store *store, uint64_t size, enum log_class class);

/* store_unit.c: any number of changes as one unit, of any size. The changes are summed. previous is
 * for units of one change and may be NULL; *out_position is that of the last record. */
km_status km__commit_unit(struct km_store *store, struct change *changes, size_t count,
                          km_buffer *previous, uint64_t *out_position);

/* store_tidy.c: give back the memory that deletes have left in the orders of maps; for a background
 * thread, now and then. */
void km__tidy_orders(struct km_store *store);

/* store_view_fold.c: fold the views of closed snapshots; for a background thread, now and then. */
void km__views_fold(struct km_store *store);

/* store_expire.c: keys that have expired. The first deletes one, by a logged change, if it still
 * has this version; never waits inside a read section. KM_OK, KM_NOT_FOUND, KM_CONFLICT: the record
 * of that version is not current any more; KM_WOULD_BLOCK, and the errors of km_del(). */
km_status km__expire_key(km_map *map, km_bytes key, uint64_t version);
/* Delete all keys of a map that have expired; waits for room in the log. */
km_status km__expire_map(km_map *map);
/* Go on through the maps that have expiring keys, a little; for the keeper's thread. */
void km__expire_some(struct km_store *store);
void km__expire_fini(struct km_store *store);

/* store_watch.c */
void km__watches_init(struct km_store *store);
/* End the thread, whatever watches are still open. */
void km__watches_stop(struct km_store *store);
void km__watches_fini(struct km_store *store);

/* store_scrub.c: verify `bytes` more of the sealed segments' files, round and round, but no more
 * than one round in a call. Small amounts are saved up over calls, and a record larger than what is
 * there is verified in one go, for which later calls do less. Damage is noted through the log
 * callback. One thread at a time. */
km_status km__scrub_some(struct km_store *store, uint64_t bytes);

#endif
