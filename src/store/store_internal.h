/* SPDX-License-Identifier: Apache-2.0
 *
 * store_internal.h -- what the files of store/ share: the store, its maps, a change.
 *
 * Lock order: compactor.lock, keeper.lock, catalogue_lock, then partition locks by (map id,
 * partition), then names_lock. The locks of log/ come after all of these. No lock is held while a
 * user's callback runs. The disk is waited for under the first two alone, which no change takes but
 * on a full disk.
 */
#ifndef KM_STORE_STORE_INTERNAL_H
#define KM_STORE_STORE_INTERNAL_H

#include "base/assert.h"
#include "base/buffer.h"
#include "base/hash.h"
#include "base/status.h"
#include "index/hash_index.h"
#include "index/node_pool.h"
#include "log/log.h"
#include "os/os.h"
#include "sync/eventcount.h"
#include "sync/thread.h"

#define STORE_SYNC_INTERVAL_MS 1000u
#define STORE_BATCH_SIZE_MAX (UINT64_C(8) << 20)
#define STORE_COMPACT_PERCENT 150u
#define STORE_LOG_SIZE_MIN (UINT64_C(4) << 20)

struct km_map {
    struct km_store *store;    /* [c] */
    struct hash_index *index;  /* [c] */
    uint8_t *name;             /* [c] */
    uint16_t name_size;        /* [c] */
    uint16_t id;               /* [c] */
    km_map_kind kind;          /* [c] */
    _Atomic int dropped;       /* [a] set with every partition locked */
    uint64_t created;          /* catalogue_lock: position of its map-created record */
    uint64_t dropped_position; /* catalogue_lock: of its map-dropped record; 0: there is none */
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

/* store_follow.c */
struct follower {
    struct eventcount event;
    _Atomic int stopping; /* [a] */
    struct thread thread;
    int has_thread;
    uint32_t idle_rounds, rounds;    /* of its thread, as the rest */
    uint64_t seen_complete, seen_ns; /* when it last was up to what was durable, or got on */
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
km_status km__maps_add(struct km_store *store, uint16_t id, km_bytes name, uint64_t created,
                       km_map **out_map);
/* Ids below `count` have been given out. */
void km__maps_use_ids(struct km_store *store, uint32_t count);
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
/* Let the index have what a put or delete says. With the partition locked and loaded. */
km_status km__apply_record(struct km_store *store, struct hash_index *index,
                           const struct log_item *item, uint64_t hash);
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
/* Find a key; inside an epoch. KM_OK, KM_NOT_FOUND, KM_E_CORRUPT. */
km_status km__find(const struct km_store *store, struct hash_index *index, uint64_t hash,
                   km_bytes key, struct found *out);
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
/* One change of a unit. */
struct change {
    km_map *map;
    uint8_t kind; /* RECORD_PUT or RECORD_DELETE */
    uint16_t key_size;
    uint32_t value_size;
    uint32_t payload_crc;
    uint64_t hash;
    uint64_t log_size;
    const void *key, *value;
    int has_placeholder;
    uint64_t old_ref,
        old_size;      /* what the key's record was: set by the preparation, under the lock */
    int is_superseded; /* a later change of the unit has the same key: not logged, not applied */
};
/* Everything but the sum of the payload, which km__change_sum() adds. */
void km__change_init(struct change *change, km_map *map, uint8_t kind, km_bytes key,
                     km_bytes value);
void km__change_sum(struct change *change);
km_status km__check_sizes(km_bytes key, km_bytes value);
km_status km__check_writable(const struct km_store *store);
km_durability km__effective_durability(const struct km_store *store, const km_write *write);
uint64_t km__write_change(struct km_store *store, const struct log_space *space, uint64_t offset,
                          const struct change *change, uint8_t flags);
km_status km__check_write(const km_write *write, km_bytes key, km_bytes value);
/* Remember what the key's record was, for km__publish_change(). With the partition locked. */
void km__note_found(struct change *change, const struct found *found);
/* Make the index point at a change's record. With the partition locked. Cannot fail. */
void km__publish_change(const struct change *change, uint64_t placeholder, uint64_t position);
static inline uint64_t km__placeholder(uint64_t change_index)
{
    return LOG_PLACEHOLDER_BASE + change_index;
}

/* With nothing held, after KM_WOULD_BLOCK: make room in the log, or mend the index. */
km_status km__wait_room(struct km_store *store, uint64_t size, enum log_class class);

/* store_unit.c: any number of changes as one unit, of any size. The changes are summed. previous
 * and out_existed are for units of one change and may be NULL; *out_position is that of the last
 * record. */
km_status km__commit_unit(struct km_store *store, struct change *changes, size_t count,
                          km_buffer *previous, int *out_existed, uint64_t *out_position);

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
