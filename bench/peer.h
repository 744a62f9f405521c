/* SPDX-License-Identifier: Apache-2.0
 *
 * peer.h -- what the benchmark asks of a store, and what its answers must look like.
 *
 * A peer is one store behind one table of functions. Every key and value is a function of a
 * number: the key of an id, the value of an id and a version. So the driver keeps no arrays that
 * would compete for the cache, and every answer can be checked.
 *
 * P1. Whatever get and get_many find goes through peer_check_value() before they return, the same
 *     code for all peers, and while the bytes are still where the store keeps them if the store
 *     lends them.
 * P2. Keys of different ids differ: peer_mix() is a bijection of 64-bit numbers.
 * P3. A session is used by one thread at a time; a handle (what open returns) by any number.
 * P4. Likewise whatever scan, get_index and pop find goes through peer_scan_add().
 */
#ifndef BENCH_PEER_H
#define BENCH_PEER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    PEER_OK = 0,
    PEER_NOT_FOUND = 1,
    PEER_FAILED = -1, /* the reason has been printed on stderr */

    PEER_KEY_SIZE_MAX = 20,
    PEER_VALUE_SIZE_MIN = 16,
    PEER_MANY_MAX = 32,
    PEER_SCAN_KEY_SIZE_MAX = 128
};

/* Ids from here on are in no store, but while a test puts and deletes them. */
#define PEER_ABSENT_ID ((uint64_t)1 << 40)

/* What a put survives once it has returned. */
enum peer_class {
    PEER_CLASS_PROCESS = 0, /* kill -9, not a power cut */
    PEER_CLASS_POWER = 1    /* a power cut */
};

struct peer_bytes {
    const void *data;
    size_t size;
};

struct peer_options {
    const char *path; /* a folder of the peer's own, which exists */
    enum peer_class durability;
    uint64_t record_count; /* how many will be loaded: for tables and caches sized in advance */
    size_t key_size;
    size_t value_size;
    unsigned compact_percent; /* log to live bytes, for who compacts by a ratio; 0: the default */
};

/* What an answer has to be, and how many were wrong. */
struct peer_check {
    uint64_t seed;
    uint64_t id;
    uint64_t version_min; /* older than this is a lost change */
    size_t value_size;
    uint64_t found_count;
    uint64_t wrong_count;
};

/* A walk over records, and what it found. The sums let the driver know every record of it, and
 * their order, without an array of answers beside the store's own data. */
struct peer_scan {
    struct peer_bytes from; /* this key and those after it; size 0: all there is */
    size_t prefix_size;     /* only keys that begin like `from`; 0: all */
    uint64_t limit;         /* at most so many records; at least 1 */
    size_t key_size;
    size_t number_offset;    /* where in a key its number stands */
    struct peer_check check; /* version_min and value_size set; id and seed are not used */
    uint64_t rank;           /* records found; the driver sets it to 0 before each walk */
    uint64_t sum;            /* of the numbers of their keys */
    uint64_t ranked_sum;     /* of number times rank, so that order matters */
    uint64_t version_highest;
};

/* The order in which a scan gives records. */
enum peer_order {
    PEER_ORDER_NONE = 0,      /* any */
    PEER_ORDER_INSERTION = 1, /* that of their first put */
    PEER_ORDER_KEY = 2        /* memcmp() */
};

/* Figures that only the store itself can give; 0 where it does not. */
struct peer_figures {
    uint64_t index_bytes;
    uint64_t recovered_ns;
    uint64_t recovered_records;
    /* of a store that is a log; log_bytes 0: it is none */
    uint64_t log_bytes;
    uint64_t live_bytes;
    uint64_t emptied_bytes; /* of log_bytes: without anything live, waiting to be removed */
    uint64_t pinned_bytes;
    uint64_t log_size_min;    /* below, the log is not compacted */
    uint64_t compacted_bytes; /* moved since open */
    uint64_t freed_segments;
    uint64_t head; /* moves when something was removed */
    uint64_t image_count;
    uint64_t image_bytes;
    uint64_t replay_bytes; /* what an open would replay */
};

struct peer {
    const char *name;
    int is_baseline; /* no store, but a cost to compare with: it cannot be tested or reopened */
    const char *version;
    const char *settings;     /* one line: how it is opened */
    const char *process_note; /* what the process class means here; NULL: not offered */
    const char *power_note;   /* likewise for the power class */
    enum peer_order order;
    int (*open)(const struct peer_options *options, void **out_handle);
    void (*close)(void *handle);
    int (*session_open)(void *handle, void **out_session);
    void (*session_close)(void *session);
    int (*put)(void *session, struct peer_bytes key, struct peer_bytes value);
    int (*del)(void *session, struct peer_bytes key);
    int (*get)(void *session, struct peer_bytes key, struct peer_check *check);
    /* Optional: checks[i] belongs to keys[i]; count is at most PEER_MANY_MAX. */
    int (*get_many)(void *session, const struct peer_bytes *keys, struct peer_check *checks,
                    size_t count);
    /* Optional: the driver puts a bounded number of gets between these two. */
    int (*read_begin)(void *session);
    void (*read_end)(void *session);
    /* Optional: called once after the load, untimed: bring the store into the state in which it
     * reads fastest. */
    int (*after_load)(void *handle);
    /* Optional. */
    void (*figures)(void *handle, struct peer_figures *out_figures);
    /* Optional: the records that scan->from, prefix_size and limit ask for; the first two only
     * where order is PEER_ORDER_KEY. Scans of one session do not overlap. */
    int (*scan)(void *session, struct peer_scan *scan);
    /* Optional: the driver puts a bounded number of scans between these two, and nothing else. */
    int (*scan_begin)(void *session);
    void (*scan_end)(void *session);
    /* Optional: of PEER_ORDER_INSERTION, the record at a position. */
    int (*get_index)(void *session, uint64_t position, struct peer_scan *scan);
    /* Optional: delete the first record, or the last. */
    int (*pop_first)(void *session, struct peer_scan *scan);
    int (*pop_last)(void *session, struct peer_scan *scan);
    /* Optional: all records as they were at one moment; any thread may close it. */
    int (*snapshot_open)(void *handle, void **out_snapshot);
    void (*snapshot_close)(void *handle, void *snapshot);
    int (*snapshot_walk)(void *handle, void *snapshot, struct peer_scan *scan);
    /* Optional: what the store says the snapshot keeps in memory. */
    uint64_t (*snapshot_bytes)(void *handle, void *snapshot);
};

/* The finaliser of splitmix64: a bijection. */
static inline uint64_t peer_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static inline uint64_t peer_key_number(uint64_t seed, uint64_t id)
{
    return peer_mix(id + seed * 0x9e3779b97f4a7c15u);
}

/* Big-endian first, so that a peer that takes numbers (SQLite) and one that takes bytes sort
 * alike; the other bytes are there to be stored and compared. */
static inline void peer_make_key(uint64_t seed, uint64_t id, size_t key_size,
                                 unsigned char *out_key)
{
    uint64_t number = peer_key_number(seed, id);
    uint64_t first = __builtin_bswap64(number);
    uint64_t second = ~number;
    uint32_t third = (uint32_t)(number >> 7);

    memcpy(out_key, &first, 8);
    if (key_size >= 16)
        memcpy(out_key + 8, &second, 8);
    if (key_size == PEER_KEY_SIZE_MAX)
        memcpy(out_key + 16, &third, 4);
}

/* The word at byte `offset` of a value, from 16 on; before it stand the tag and the version. */
static inline uint64_t peer_value_word(uint64_t tag, uint64_t version, size_t offset)
{
    return tag + version * 0x9e3779b97f4a7c15u + offset;
}

static inline void peer_make_value(uint64_t seed, uint64_t id, uint64_t version, size_t value_size,
                                   unsigned char *out_value)
{
    uint64_t tag = ~peer_key_number(seed, id);
    uint64_t word;
    size_t at;

    memcpy(out_value, &tag, 8);
    memcpy(out_value + 8, &version, 8);
    for (at = 16; at + 8 <= value_size; at += 8) {
        word = peer_value_word(tag, version, at);
        memcpy(out_value + at, &word, 8);
    }
    memset(out_value + at, 0x5a, value_size - at);
}

/*
 * Check size, tag and version, and one word of every further 64 bytes: a wrong key, a lost change
 * or a torn value is seen, and each cache line of the value is touched.
 */
static inline void peer_check_tagged(struct peer_check *check, uint64_t tag, const void *data,
                                     size_t size)
{
    const unsigned char *bytes = data;
    uint64_t version;
    uint64_t word;
    uint64_t bad;
    size_t at;

    check->found_count++;
    if (size != check->value_size) {
        check->wrong_count++;
        return;
    }
    memcpy(&word, bytes, 8);
    memcpy(&version, bytes + 8, 8);
    bad = (word ^ tag) | (uint64_t)(version < check->version_min);
    for (at = 64; at + 8 <= size; at += 64) {
        memcpy(&word, bytes + at, 8);
        bad |= word ^ peer_value_word(tag, version, at);
    }
    if (size >= 24) {
        at = size / 8 * 8 - 8;
        memcpy(&word, bytes + at, 8);
        bad |= word ^ peer_value_word(tag, version, at);
    }
    if (bad)
        check->wrong_count++;
}

static inline void peer_check_value(struct peer_check *check, const void *data, size_t size)
{
    peer_check_tagged(check, ~peer_key_number(check->seed, check->id), data, size);
}

/* A record that a walk has come to; returns 0 if it is over. */
static inline int peer_scan_add(struct peer_scan *scan, struct peer_bytes key,
                                struct peer_bytes value)
{
    uint64_t number;
    uint64_t version;

    if (scan->prefix_size &&
        (key.size < scan->prefix_size || memcmp(key.data, scan->from.data, scan->prefix_size)))
        return 0;
    if (key.size != scan->key_size || value.size != scan->check.value_size) {
        scan->check.wrong_count++;
        return 1;
    }
    memcpy(&number, (const unsigned char *)key.data + scan->number_offset, 8);
    number = __builtin_bswap64(number);
    peer_check_tagged(&scan->check, ~number, value.data, value.size);
    memcpy(&version, (const unsigned char *)value.data + 8, 8);
    if (version > scan->version_highest)
        scan->version_highest = version;
    scan->rank++;
    scan->sum += number;
    scan->ranked_sum += number * scan->rank;
    return scan->rank < scan->limit;
}

#endif /* BENCH_PEER_H */
