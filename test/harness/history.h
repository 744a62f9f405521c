/* SPDX-License-Identifier: Apache-2.0
 *
 * history.h -- what was asked of a store, change by change, and what it must hold after each.
 *
 * A universe of few maps and keys; values made from a number and a size. A history is a list of
 * changes; a change is what must be recovered as one: a put, a delete, a batch, a clear, a drop.
 * After each change the whole content has a fingerprint: the sum of the hashes of its maps and
 * entries; and, for maps in insertion order, of each two keys that follow one another. So what a
 * recovered store holds is matched with a prefix of the history by comparing numbers.
 *
 * Index 0 is what was there at first, index i what is there after the i-th change.
 */
#ifndef KM_TEST_HARNESS_HISTORY_H
#define KM_TEST_HARNESS_HISTORY_H

#include <stddef.h>
#include <stdint.h>

#include "keepmap/keepmap.h"

#define HISTORY_MAP_COUNT 4u
#define HISTORY_KEY_COUNT 48u
#define HISTORY_KEY_SIZE_MAX 3000u

/* ---- random numbers: splitmix64. In a file of its own state, so that each part has its own. */
struct random {
    uint64_t state;
};
uint64_t km__random_next(struct random *random);
uint64_t km__random_below(struct random *random, uint64_t limit); /* 0 to limit - 1; limit > 0 */
int km__random_one_in(struct random *random, uint64_t n);
/* From the environment (SEED), or the time; printed. */
uint64_t km__random_seed(void);
/* A number from the environment, or what to take if it is not set. */
uint64_t km__environment_number(const char *name, uint64_t otherwise);

/* ---- the universe */
km_bytes km__history_map_name(uint32_t map);
km_map_kind km__history_map_kind(uint32_t map); /* each kind occurs */
/* buffer takes HISTORY_KEY_SIZE_MAX bytes. */
km_bytes km__history_key(uint32_t key, uint8_t *buffer);
void km__history_value(uint64_t value_id, uint32_t size, uint8_t *bytes);

/* ---- content */
struct entry_state {
    uint64_t value_id; /* 0: absent */
    uint32_t size;
    uint64_t inserted; /* number of its insertion: its place in the order */
};
struct content {
    uint64_t fingerprint;
    uint64_t last_inserted;
    uint32_t exists[HISTORY_MAP_COUNT];
    struct entry_state entries[HISTORY_MAP_COUNT][HISTORY_KEY_COUNT];
};
uint64_t km__fingerprint_map(uint32_t map);
uint64_t km__fingerprint_entry(uint32_t map, km_bytes key, km_bytes value);

/* ---- histories */
enum effect_kind { EFFECT_PUT, EFFECT_DELETE, EFFECT_CREATE, EFFECT_CLEAR, EFFECT_DROP };
struct effect {
    enum effect_kind kind;
    uint32_t map, key, size;
    uint64_t value_id;
};
struct history_change {
    size_t effect_end;    /* its effects end here, those of the change before it where they begin */
    uint64_t fingerprint; /* of the content after it */
    km_position position; /* of its last record, once it is known; else 0 */
};
struct history {
    struct content first; /* at index 0 */
    struct content last;  /* at index count */
    struct effect *effects;
    size_t effect_count, effect_capacity;
    struct history_change *changes;
    size_t count, capacity; /* changes begun */
    size_t acknowledged;    /* changes that have returned: count, or count - 1 */
};
void km__history_init(struct history *history);
/* A new history that begins with what is there at an index of another. */
void km__history_fork(struct history *history, const struct history *from, size_t index);
void km__history_fini(struct history *history);

/* A change: its effects, then begin, then, once it has returned, end (or cancel). */
void km__history_add(struct history *history, struct effect effect);
void km__history_begin(struct history *history);
void km__history_end(struct history *history, km_position position);
void km__history_cancel(struct history *history); /* it did not happen */

uint64_t km__history_fingerprint(const struct history *history, size_t index);
void km__history_content(const struct history *history, size_t index, struct content *out);
/* The last index from low to high at which the content has the fingerprint; -1: none. */
long km__history_find(const struct history *history, uint64_t fingerprint, size_t low, size_t high);

/* ---- stores */
/* Read all of a store, by cursors in both directions, by gets and by positions, which must agree,
 * and sum it up. Returns 0, or -1 after printing what is wrong. */
int km__history_read_store(km_store *store, uint64_t *out_fingerprint);
/* The same of a snapshot. */
int km__history_read_snapshot(km_snapshot *snapshot, uint64_t *out_fingerprint);
/* Print the first difference between a store and a content. */
void km__history_print_difference(km_store *store, const struct content *content);

#endif
