/* SPDX-License-Identifier: Apache-2.0
 *
 * workload.h -- random changes of a store, written down in a history, by one thread.
 *
 * The store is opened without background threads: what those do are operations of the workload.
 */
#ifndef KM_TEST_HARNESS_WORKLOAD_H
#define KM_TEST_HARNESS_WORKLOAD_H

#include "harness/history.h"
#include "os/os.h"

#define WORKLOAD_PATH "store"

enum workload_op {
    OP_PUT,         /* up to value_size_max */
    OP_PUT_SPECIAL, /* too large for the ring: up to special_size_max */
    OP_DELETE,
    OP_BATCH,         /* 2 to 12 changes of several maps */
    OP_BATCH_SPECIAL, /* too large for the ring */
    OP_CLEAR,
    OP_DROP,
    OP_FLUSH,
    OP_SYNC,
    OP_SYNC_ONCE, /* what the syncer does: sync, and write MARKS */
    OP_HOUSEKEEP,
    OP_WAIT_DURABLE,
    OP_REOPEN,
    OP_COMPACT_SOME, /* what the compactor does, if anything is due */
    OP_COMPACT,      /* the whole log */
    OP_KEEPER,       /* a round of the keeper: an image if one is due, then the head */
    OP_IMAGE,        /* write an index image now */
    OP_RANGE,        /* delete a range of the keys of a sorted map */
    OP_UPDATE,       /* a change on condition: an update, or a batch that expects something */
    OP_SNAPSHOT,     /* take one, or read one and let it go */
    OP_COUNT
};

struct profile {
    uint32_t operation_count;
    uint32_t value_size_max;
    uint32_t special_size_max; /* more than 64 KiB */
    uint32_t power_one_in; /* of the changes, one in so many asks for KM_DURABLE_POWER; 0: none */
    uint32_t weights[OP_COUNT];
    km_options options;
};

#define WORKLOAD_SNAPSHOTS 2u

/* A snapshot, and which content of the history it must have. */
struct held_snapshot {
    km_snapshot *snapshot; /* NULL: none */
    uint64_t fingerprint;
};

struct workload {
    struct os *os;
    const struct profile *profile;
    struct history *history;
    struct random random;
    km_store *store; /* NULL while it is being opened */
    km_map *maps[HISTORY_MAP_COUNT];
    struct held_snapshot snapshots[WORKLOAD_SNAPSHOTS];
    uint64_t next_value_id;
    km_position max_position; /* the largest that any call has returned */
    size_t durable_count;     /* changes of the history that must survive a power cut */
    const char *op_name;      /* the operation under way */
    int failed;               /* something was printed */
    int is_upkeep;            /* the operation under way is compaction, the keeper or an image */
    /* A change has been made in memory, and its call has returned; it counts as under way still. */
    void (*before_end)(void *context);
    void *context;
};

/* Open the store, or take over one that is open, which holds what is at the end of the history. */
void km__workload_open(struct workload *workload);
void km__workload_adopt(struct workload *workload, km_store *store);
/* One random operation. */
void km__workload_step(struct workload *workload);
void km__workload_close(struct workload *workload);
/* Bring durable_count up to date with the store's durable position. */
void km__workload_see_durable(struct workload *workload);

#endif
