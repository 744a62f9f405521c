/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed.h -- what the parts of the benchmark of sealed tables share.
 *
 *   sealed.c         a program: options, rounds, one process for each part of a round
 *   sealed_part.c    what such a process does: build, check, read, ask the device
 *   sealed_device.c  the device's own rate of random reads
 *   sealed_report.c  medians, ratios, tables, goals
 *   sealed_peers/    one adapter for each store, and the table of them
 *
 * S1. Records are functions of their rank in key order: no input lies in memory. Keys ascend with
 *     the rank, with random gaps; all are below 2^63, so that they sort alike as signed numbers.
 * S2. The random order is a bijection of 0 to record_count - 1, computed for each record.
 * S3. Every value that a store returns is compared with what its key calls for, every byte of it.
 */
#ifndef BENCH_SEALED_H
#define BENCH_SEALED_H

#include "peer.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    SEALED_KEY_SIZE = 8,
    SEALED_VALUE_SIZE = 100,
    SEALED_PAYLOAD_SIZE = SEALED_KEY_SIZE + SEALED_VALUE_SIZE,
    SEALED_MANY = 1000, /* keys of a get_many */
    SEALED_PATH_MAX = 3072,
    SEALED_PEER_MAX = 16,
    SEALED_ROUND_MAX = 32
};

/* What a store is opened for: one that can may choose its way of reading. */
enum sealed_use { SEALED_COLD_GETS, SEALED_COLD_SCAN, SEALED_WARM };

struct sealed_job {
    char path[SEALED_PATH_MAX]; /* a folder of the peer's own, which exists */
    uint64_t record_count;
    uint64_t seed;
    unsigned round;          /* choices of keys differ from round to round, not between peers */
    uint64_t stride;         /* sealed_job_init() sets it and what follows */
    uint64_t order_mask;     /* the least power of two not below the count, less one */
    unsigned order_shift;    /* half the bits of it */
    int in_random_order;     /* of a build */
    enum sealed_use use;     /* of an open */
    unsigned round_ms;       /* of a warm measure */
    uint64_t cold_get_count; /* in all */
    uint64_t cold_many_count;
};

/* Answers, counted. */
struct sealed_check {
    uint64_t seed;
    uint64_t found_count;
    uint64_t wrong_count;
};

/* A walk over all records, and what it found: of a store with an order each key is compared with
 * that of its rank; of one without, sums stand for all. */
struct sealed_walk {
    const struct sealed_job *job;
    int in_key_order;
    struct sealed_check check;
    uint64_t rank;
    uint64_t key_sum;
    uint64_t mixed_sum;
};

struct sealed_peer {
    const char *name;
    int is_baseline;      /* no store, but what the driver costs: nothing of it is cold */
    int must_sort;        /* its tables are in key order: input in random order has to be sorted */
    const char *files_of; /* NULL, or the peer that builds what this one reads */
    const char *version;
    const char *settings;    /* one line: how it is opened */
    const char *sorted_note; /* how it is built from sorted input; NULL if files_of is set */
    const char *random_note; /* NULL: it is not built from random order */
    uint64_t record_max;     /* 0: no limit that matters here */
    /* Ends with everything closed and synced. */
    int (*build)(const struct sealed_job *job);
    int (*open)(const struct sealed_job *job, void **out_handle);
    void (*close)(void *handle);
    /* PEER_OK, PEER_NOT_FOUND or PEER_FAILED. */
    int (*get)(void *handle, uint64_t key, struct sealed_check *check);
    /* Optional: count is at most SEALED_MANY; checks what it finds. */
    int (*get_many)(void *handle, const uint64_t *keys, size_t count, struct sealed_check *check);
    int (*walk)(void *handle, struct sealed_walk *walk);
};

extern const struct sealed_peer *const sealed_peers[];
extern const unsigned sealed_peer_count;

/* ---- records: S1, S2, S3 ------------------------------------------------------------------ */

static inline uint64_t sealed_below(uint64_t random, uint64_t limit)
{
    return (uint64_t)((unsigned __int128)random * limit >> 64);
}

static inline uint64_t sealed_gap(const struct sealed_job *job, uint64_t rank)
{
    return sealed_below(peer_mix(rank + job->seed * 0x9e3779b97f4a7c15u), job->stride);
}

static inline uint64_t sealed_key(const struct sealed_job *job, uint64_t rank)
{
    return rank * job->stride + sealed_gap(job, rank);
}

/* A key that is not there: between two neighbours a random place that is neither's. */
static inline uint64_t sealed_absent_key(const struct sealed_job *job, uint64_t random)
{
    uint64_t rank = sealed_below(random, job->record_count);
    uint64_t gap = sealed_below(peer_mix(~random), job->stride);

    if (gap == sealed_gap(job, rank))
        gap = gap ? gap - 1 : 1;
    return rank * job->stride + gap;
}

/* The rank of the record at a place of the random order. Steps until it is in bounds: less than
 * two on average, since more than half of the numbers are. */
static inline uint64_t sealed_rank(const struct sealed_job *job, uint64_t place)
{
    uint64_t x = place;

    do {
        x = (x * 0x9e3779b97f4a7c15u + job->seed) & job->order_mask;
        x ^= x >> job->order_shift;
        x = (x * 0xbf58476d1ce4e5b9u) & job->order_mask;
        x ^= x >> job->order_shift;
        x = (x * 0x94d049bb133111ebu) & job->order_mask;
        x ^= x >> job->order_shift;
    } while (x >= job->record_count);
    return x;
}

/* The key of the record that a build gets at a place of its input. */
static inline uint64_t sealed_input_key(const struct sealed_job *job, uint64_t place)
{
    return sealed_key(job, job->in_random_order ? sealed_rank(job, place) : place);
}

static inline uint64_t sealed_value_word(uint64_t seed, uint64_t key, unsigned index)
{
    return peer_mix(key + seed) + index * 0x9e3779b97f4a7c15u;
}

static inline void sealed_make_value(uint64_t seed, uint64_t key, unsigned char *out_value)
{
    uint64_t word;
    unsigned i;

    for (i = 0; i < SEALED_VALUE_SIZE / 8; i++) {
        word = sealed_value_word(seed, key, i);
        memcpy(out_value + 8 * i, &word, 8);
    }
    word = sealed_value_word(seed, key, i);
    memcpy(out_value + 8 * i, &word, SEALED_VALUE_SIZE % 8);
}

static inline void sealed_check_value(struct sealed_check *check, uint64_t key, const void *data,
                                      size_t size)
{
    const unsigned char *bytes = data;
    uint64_t differing = 0;
    uint64_t word;
    uint32_t rest;
    unsigned i;

    check->found_count++;
    if (size != SEALED_VALUE_SIZE) {
        check->wrong_count++;
        return;
    }
    for (i = 0; i < SEALED_VALUE_SIZE / 8; i++) {
        memcpy(&word, bytes + 8 * i, 8);
        differing |= word ^ sealed_value_word(check->seed, key, i);
    }
    _Static_assert(SEALED_VALUE_SIZE % 8 == 4, "the rest is four bytes");
    memcpy(&rest, bytes + 8 * i, 4);
    differing |= rest ^ (uint32_t)sealed_value_word(check->seed, key, i);
    check->wrong_count += differing != 0;
}

static inline void sealed_walk_add(struct sealed_walk *walk, uint64_t key, const void *data,
                                   size_t size)
{
    sealed_check_value(&walk->check, key, data, size);
    if (walk->in_key_order && key != sealed_key(walk->job, walk->rank))
        walk->check.wrong_count++;
    walk->rank++;
    walk->key_sum += key;
    walk->mixed_sum += peer_mix(key);
}

/* Big-endian bytes: in order as the numbers are. */
static inline void sealed_key_bytes(uint64_t key, unsigned char *out_bytes)
{
    uint64_t swapped = __builtin_bswap64(key);

    memcpy(out_bytes, &swapped, 8);
}

static inline uint64_t sealed_key_number(const void *bytes)
{
    uint64_t swapped;

    memcpy(&swapped, bytes, 8);
    return __builtin_bswap64(swapped);
}

/* ---- figures ------------------------------------------------------------------------------ */

enum sealed_figure {
    FIGURE_SORTED_NS,
    FIGURE_SORTED_CPU_NS,
    FIGURE_SORTED_PEAK_MIB,
    FIGURE_SORTED_ANON_MIB,
    FIGURE_SORTED_FILE, /* bytes of files for each byte of payload */
    FIGURE_RANDOM_NS,   /* in the order of those above */
    FIGURE_RANDOM_CPU_NS,
    FIGURE_RANDOM_PEAK_MIB,
    FIGURE_RANDOM_ANON_MIB,
    FIGURE_RANDOM_FILE,
    FIGURE_COLD_OPEN_MS,
    FIGURE_COLD_OPEN_MIB,
    FIGURE_COLD_GET_NS,
    FIGURE_COLD_GET_READS, /* of the device */
    FIGURE_COLD_GET_KIB,
    FIGURE_COLD_MANY_NS, /* in the order of those above */
    FIGURE_COLD_MANY_READS,
    FIGURE_COLD_MANY_KIB,
    FIGURE_COLD_ABSENT_NS,
    FIGURE_COLD_ABSENT_READS,
    FIGURE_COLD_ABSENT_KIB,
    FIGURE_COLD_SCAN_GBS,
    FIGURE_GET_NS,
    FIGURE_MANY_NS,
    FIGURE_ABSENT_NS,
    FIGURE_SCAN_GBS,
    FIGURE_WARM_MIB,       /* anonymous memory, after the warm measures */
    FIGURE_DEVICE_DEEP_NS, /* of a read, 64 being under way */
    FIGURE_DEVICE_ALONE_NS,
    FIGURE_WRONG,
    FIGURE_COUNT
};

extern const char *const sealed_figure_names[FIGURE_COUNT];

/* What was measured of a peer; below 0: not. */
struct sealed_results {
    const struct sealed_peer *peer;
    int failed;
    uint64_t wrong_count;
    double values[FIGURE_COUNT][SEALED_ROUND_MAX];
};

/* sealed_part.c: the work of a process; figures go to stdout, a line "NAME VALUE" each. */
void sealed_job_init(struct sealed_job *job);
int sealed_run_part(const char *part, const struct sealed_peer *peer, struct sealed_job *job);
void sealed_print_figure(enum sealed_figure figure, double value);
/* 1 if the page cache of the whole machine can be dropped. */
int sealed_can_drop_all(void);

/* sealed_device.c: nanoseconds a random read of 4 KiB, which does not go through the page cache,
 * with `depth` of them under way; below 0: it cannot be measured. */
double sealed_device_ns(const char *path, uint64_t file_size, unsigned depth, unsigned ms);
const char *sealed_device_manner(void);

/* sealed_report.c */
void sealed_report(const struct sealed_results *results, unsigned count, unsigned round_count,
                   uint64_t record_count);

#endif /* BENCH_SEALED_H */
