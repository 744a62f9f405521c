/* SPDX-License-Identifier: Apache-2.0
 *
 * soak.h -- what the parts of the soak share: the plan of all changes, and what is known of them.
 *
 *   soak.c        the parent: starts workers, kills them, prints a line a minute, judges memory
 *   soak_model.c  which changes a turn makes, what a key must hold, checking a whole store
 *   soak_work.c   the threads of a worker
 *
 * S1. A turn of a writer is one call: a put, a delete or a batch. What it does follows from the
 * seed, the writer and the turn's number alone. A writer's keys are its own. S2. Before a call
 * `begun` is the turn, after it `returned`; then the model gets what the turn did, then
 * `acknowledged` is the turn. All this lies in memory that outlives the worker: after a kill it is
 * known whether the last turn must be there, or may be. S3. A value tells its key and its turn, and
 * whether it is whole.
 */
#ifndef KM_TEST_SOAK_SOAK_H
#define KM_TEST_SOAK_SOAK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/harness_util.h"

#define SOAK_WRITERS 2u
#define SOAK_WATCHES 2u
#define SOAK_KEYS 50000u /* of each writer */
#define SOAK_TURN_CHANGES 24u
#define SOAK_VALUE_MAX (2u << 20)
#define SOAK_SAMPLES_MAX 500000u

/* Of a key in the model: the turn that changed it last; 0 if none did. */
#define SOAK_DELETED (UINT32_C(1) << 31)
#define SOAK_TURN(state) ((state) & ~SOAK_DELETED)

struct soak_change {
    uint32_t key;
    uint32_t value_size;
    int is_delete;
};

struct soak_turn {
    struct soak_change changes[SOAK_TURN_CHANGES];
    size_t count; /* more than one: a batch */
};

/* Where a watch has got to. */
struct soak_watch_state {
    km_position position;
    uint32_t turns[SOAK_WRITERS]; /* last ones seen; 0: none yet */
    int is_set;
};

struct soak_watch {
    struct soak_watch_state states[2];
    _Atomic uint32_t newest; /* of states: the other is being written */
};

enum soak_count {
    SOAK_TURNS,
    SOAK_GETS,
    SOAK_WALKS,
    SOAK_CHANGES_SEEN,
    SOAK_WATCHES_TOO_OLD,
    SOAK_MAPS,
    SOAK_BACKUPS,
    SOAK_COMPACTIONS,
    SOAK_SCRUBS,
    SOAK_FOLLOWERS,
    SOAK_COUNTS
};

/* Shared by all processes of a soak. */
struct soak_shared {
    _Atomic uint32_t begun[SOAK_WRITERS], returned[SOAK_WRITERS], acknowledged[SOAK_WRITERS];
    _Atomic uint32_t model[SOAK_WRITERS][SOAK_KEYS];
    struct soak_watch watches[SOAK_WATCHES];
    _Atomic uint64_t counts[SOAK_COUNTS];
    _Atomic uint64_t log_bytes, live_bytes, disk_bytes, anonymous_bytes;
    _Atomic uint32_t is_open, should_stop;
    _Atomic uint32_t sample_count;
    uint64_t sample_ns[SOAK_SAMPLES_MAX]; /* since the soak began */
    uint64_t sample_bytes[SOAK_SAMPLES_MAX];
};

/* What a process works with. */
struct soak {
    struct soak_shared *shared;
    uint64_t seed, start_ns;
    char path[HARNESS_PATH_SIZE];
    char backup_paths[2][HARNESS_PATH_SIZE];
    km_store *store;
    km_map *maps[2];
};

static inline void soak_count(struct soak *soak, enum soak_count count)
{
    atomic_fetch_add(&soak->shared->counts[count], 1);
}

/* ---- soak_model.c ---- */

void soak_plan_turn(const struct soak *soak, uint32_t writer, uint32_t turn, struct soak_turn *out);
/* The key's number in the store; its lowest bit says which map it is in. */
uint64_t soak_key_number(uint32_t writer, uint32_t key);
/* Whether a turn deletes only: a watch sees no turn's number then. */
int soak_turn_is_silent(const struct soak_turn *turn);
void soak_note_turn(struct soak *soak, uint32_t writer, uint32_t turn,
                    const struct soak_turn *what);
/* Compare a key found in the store (found: its turn; 0: absent) with the model as it was before the
 * look (before) and is now. */
void soak_check_key(struct soak *soak, uint32_t writer, uint32_t key, uint32_t before,
                    uint32_t found);
/* The turn in a key's value; 0 if it is absent. */
uint32_t soak_find(km_map *const maps[2], uint32_t writer, uint32_t key, km_buffer *buffer);
void soak_open_maps(km_store *store, km_map *maps[2]);
/* With nobody writing: settle what a kill left open, and compare every key. */
void soak_check_all(struct soak *soak);

/* ---- soak_work.c ---- */

/* Open the store, check it, and let all threads work until shared->should_stop; then close it. */
void soak_work(struct soak *soak);
/* Follow the store from another process for a while. */
void soak_follow(struct soak *soak);

#endif
