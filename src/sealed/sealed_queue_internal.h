/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_queue_internal.h -- what the files of reads of many blocks share: the search for many keys
 * (sealed_many.c), and engines of reads in flight (sealed_reads.c, sealed_threads.c), which queues
 * (sealed_queue.c) join.
 */
#ifndef KM_SEALED_SEALED_QUEUE_INTERNAL_H
#define KM_SEALED_SEALED_QUEUE_INTERNAL_H

#include "keepmap/sealed_queue.h"
#include "sealed/sealed_internal.h"

/* ---- many keys: sealed_many.c ------------------------------------------------------------ */

/* What is known of the blocks that are wanted. */
enum sealed_warmth {
    SEALED_WARMTH_UNKNOWN, /* the machine cannot tell */
    SEALED_WARMTH_CACHED,  /* all that were looked at are in the page cache */
    SEALED_WARMTH_COLD
};

/* Which key, and in which block it may be. */
struct sealed_wanted {
    struct sealed_place place;
    uint64_t hash;
    const uint8_t *filter;
    uint32_t filter_size;
};

struct sealed_many {
    const km_sealed *table;
    const km_bytes *keys;
    size_t count;                 /* of keys, `room` at most */
    struct sealed_wanted *wanted; /* one for each key */
    struct sealed_ref *refs;      /* to those that may be there, sorted; then room for sorting */
    size_t ref_count;
    size_t room;
    km_buffer *memory;    /* of values */
    km_bytes *out_values; /* until all are there, data is NULL or a place in memory, plus 1 */
    km_buffer read;       /* what was read at once */
    km_buffer plain;      /* the block that is looked at, if it was compressed */
    size_t found_count;
    size_t fetched;        /* up to this reference, mapped blocks are on their way to the cache */
    size_t announced;      /* up to this one the disk was asked for blocks */
    size_t announced_runs; /* of these, how many reads are still to be made */
};

/* Get room for looking up `room` keys at once; the other fields are set by the caller. */
KM_INTERNAL km_status km__sealed_many_init(struct sealed_many *many, size_t room);
KM_INTERNAL void km__sealed_many_fini(struct sealed_many *many);
/* KM_E_INVALID if a key is none of this table; else no value is there yet. */
KM_INTERNAL km_status km__sealed_many_check(const km_sealed *table, const km_bytes *keys,
                                            size_t count, km_bytes *out_values);
/* Find the blocks that may have the keys: references, in the order of the file. */
KM_INTERNAL void km__sealed_many_look_up(struct sealed_many *many);
/* Look at some of the blocks from reference `start` on. */
KM_INTERNAL enum sealed_warmth km__sealed_many_warmth(const struct sealed_many *many, size_t start);
/* Answer references from *ref on that are in the page cache, until one seems not to be, or all are
 * answered: *ref says how far it came. */
KM_INTERNAL km_status km__sealed_many_visit_cached(struct sealed_many *many, size_t *ref);
/* How many references from `start` on one read serves, and of which bytes. */
KM_INTERNAL size_t km__sealed_many_run(const struct sealed_many *many, size_t start,
                                       uint64_t *out_offset, uint64_t *out_size);
/* Answer the references of one read, whose bytes are at `bytes`. */
KM_INTERNAL km_status km__sealed_many_answer(struct sealed_many *many, size_t start, size_t count,
                                             const uint8_t *bytes);
/* Values get their addresses when memory moves no more. */
KM_INTERNAL void km__sealed_many_point(const km_buffer *memory, km_bytes *out_values, size_t count);

/* ---- reads in flight: sealed_reads.c and sealed_threads.c -------------------------------- */

/* An engine belongs to one thread at a time. */
struct sealed_reads {
    const struct sealed_reads_ops *ops;
    km_sealed_engine engine; /* which one it is */
};

struct sealed_reads_ops {
    /* Any number, in memory of the caller's; a ring takes as many at once as it was opened for. */
    void (*begin)(struct sealed_reads *reads, struct os_read *const *list, size_t count);
    /* Those that have ended, `room` at most. If there are none, and some are under way, it waits
     * for one, for up to wait_ns, or less for no reason. */
    size_t (*end)(struct sealed_reads *reads, struct os_read **out_list, size_t room,
                  uint64_t wait_ns);
    /* Whatever is under way has been waited for, or is of the process whose child this is. */
    void (*close)(struct sealed_reads *reads, int is_child);
};

struct sealed_reads_options {
    km_sealed_engine engine;
    uint32_t depth;   /* reads at once */
    uint32_t threads; /* at most, if threads make them */
    int notify_fd;    /* notified when a read has ended */
};

KM_INTERNAL km_status km__sealed_reads_open(struct os *os,
                                            const struct sealed_reads_options *options,
                                            struct sealed_reads **out_reads);
KM_INTERNAL km_status km__sealed_threads_open(struct os *os,
                                              const struct sealed_reads_options *options,
                                              struct sealed_reads **out_reads);

#endif
