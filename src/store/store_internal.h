/* SPDX-License-Identifier: Apache-2.0
 *
 * store_internal.h -- what the files of store/ share: the store, its maps, a change.
 *
 * Lock order: catalogue_lock, then partition locks by (map id, partition), then names_lock. The
 * locks of log/ come after all of these. No lock is held while a user's callback runs or the disk
 * is waited for, but for catalogue_lock, which only map creation, drop and clear take.
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

#define STORE_SYNC_INTERVAL_MS 1000u
#define STORE_BATCH_SIZE_MAX (UINT64_C(8) << 20)

struct km_map {
    struct km_store *store;   /* [c] */
    struct hash_index *index; /* [c] */
    uint8_t *name;            /* [c] */
    uint16_t name_size;       /* [c] */
    uint16_t id;              /* [c] */
    km_map_kind kind;         /* [c] */
    _Atomic int dropped;      /* [a] set with every partition locked */
    /* [a] bytes of the records that the partition points at; partition lock to change */
    _Atomic uint64_t live_bytes[HASH_PARTITION_COUNT];
};

struct km_store {
    /* [c] from here */
    uint64_t *fork_word; /* 1; a child of fork() finds 0 */
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

    uint64_t recovered_records, recovered_ns, torn_bytes; /* [c] */
};

static inline int km__store_is_forked(const struct km_store *store)
{
    return KM_UNLIKELY(*store->fork_word != 1);
}

/* store_open.c */
km_status km__store_open_with(struct os *os, const char *path, const km_options *options,
                              int background, struct km_store **out_store, km_error *out_error);
km_status km__store_open_memory_with(struct os *os, const km_options *options, int background,
                                     struct km_store **out_store, km_error *out_error);

/* store_verify.c */
km_status km__store_verify_with(struct os *os, const char *path, km_finding_fn found, void *context,
                                km_check_result *out_result, km_error *out_error);

/* store_files.c: LOCK, IDENTITY, MARKS */
km_status km__store_attach_files(struct km_store *store, const char *path,
                                 struct os_file **out_marks_file, struct marks *out_marks,
                                 km_error *error);

/* store_maps.c */
km_status km__maps_init(struct km_store *store);
void km__maps_fini(struct km_store *store);
/* Make a map object and enter it in both tables; replay and km_map_create. */
km_status km__maps_add(struct km_store *store, uint16_t id, km_bytes name, km_map_kind kind,
                       km_map **out_map);
/* Take a map out of the table of names. */
void km__maps_remove_name(km_map *map);
km_map *km__maps_by_id(struct km_store *store, uint16_t id);
uint32_t km__maps_id_count(struct km_store *store);

/* store_find.c */
struct found {
    uint64_t ref; /* 0: none */
    struct log_record record;
};
/* Find a key; inside an epoch. KM_OK, KM_NOT_FOUND, KM_E_CORRUPT. */
km_status km__find(const struct km_store *store, const struct hash_index *index, uint64_t hash,
                   km_bytes key, struct found *out);
/* For struct hash_source; context is the store. */
km_status km__hash_refs(void *context, const uint64_t *refs, size_t count, uint64_t *out_hashes);

/* store_replay.c */
km_status km__replay(struct km_store *store, km_error *error);

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

/* store_unit.c: any number of changes as one unit, of any size. The changes are summed. previous
 * and out_existed are for units of one change and may be NULL; *out_position is that of the last
 * record. */
km_status km__commit_unit(struct km_store *store, struct change *changes, size_t count,
                          km_buffer *previous, int *out_existed, uint64_t *out_position);

#endif
