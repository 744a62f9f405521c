/* SPDX-License-Identifier: Apache-2.0
 *
 * harness_model.h -- a store on the simulated machine, without threads, beside a plain table of
 * what it must hold: for tests that go on by hand, step by step.
 */
#ifndef KM_TEST_HARNESS_HARNESS_MODEL_H
#define KM_TEST_HARNESS_HARNESS_MODEL_H

#include "harness/harness_util.h"
#include "sim/sim.h"

#define MODEL_MAP_COUNT 3u
#define MODEL_KEY_COUNT 400u
#define MODEL_PATH "store"

struct model_entry {
    uint64_t number; /* of the value; 0: absent */
    uint32_t size;
};

struct model {
    struct os *os;
    km_options options;
    km_store *store;
    km_map *maps[MODEL_MAP_COUNT];
    struct model_entry entries[MODEL_MAP_COUNT][MODEL_KEY_COUNT];
    uint64_t counts[MODEL_MAP_COUNT];
    uint64_t last_number;
    struct harness_random random;
};

/* A new machine with a new store of three maps; options may be NULL. */
struct model *model_create(uint64_t stream, const km_options *options);
/* Closes the store, and checks that nothing is left. */
void model_destroy(struct model *model);
/* The same on a clone of the machine, as a kill would leave it; the store is not open. */
struct model *model_after_kill(const struct model *model);
km_status model_try_open(struct model *model, km_error *out_error);
void model_open(struct model *model);
void model_close(struct model *model);

/* Changes: in the store and in the table. What has to be waited for is done here. */
void model_put(struct model *model, uint32_t map, uint32_t key, uint32_t size);
void model_del(struct model *model, uint32_t map, uint32_t key);
void model_batch(struct model *model, uint32_t count, uint32_t size_max);
/* A random one of these; of ten three are deletes or batches. */
void model_change(struct model *model, uint32_t key_count, uint32_t size_max);
/* For changes that may fail: the table is changed after KM_OK alone. */
km_status model_try_put(struct model *model, uint32_t map, uint32_t key, uint32_t size);
km_status model_try_del(struct model *model, uint32_t map, uint32_t key);

/* Everything by gets, by cursors and by counts, and what must hold inside. */
void model_check(struct model *model);
void model_check_key(struct model *model, uint32_t map, uint32_t key);

/* What the threads would do: compaction as far as it is due, and the keeper's round. */
void model_upkeep(struct model *model);
void model_image(struct model *model);
void model_compact(struct model *model);

#endif
