/* SPDX-License-Identifier: Apache-2.0
 *
 * soak_model.c -- see soak.h.
 */
#include "soak/soak.h"

#include <stdlib.h>
#include <time.h>

static uint64_t scramble(uint64_t x)
{
    x = (x ^ x >> 32) * UINT64_C(0xd6e8feb86659fd93);
    x = (x ^ x >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return x ^ x >> 32;
}

static uint32_t size_for(uint64_t random)
{
    uint32_t kind = (uint32_t)(random % 1000);

    random = scramble(random);
    if (kind == 0) /* a record of this size has a segment of its own */
        return (uint32_t)(SOAK_VALUE_MAX / 2 + random % (SOAK_VALUE_MAX / 2));
    if (kind < 20)
        return (uint32_t)(4000 + random % 30000);
    return (uint32_t)(HARNESS_VALUE_MIN + random % 400);
}

void soak_plan_turn(const struct soak *soak, uint32_t writer, uint32_t turn, struct soak_turn *out)
{
    uint64_t random = scramble(soak->seed + ((uint64_t)writer << 40) + turn);
    uint32_t kind = (uint32_t)(random % 100);

    out->count = kind < 90 ? 1 : 2 + (random >> 32) % (SOAK_TURN_CHANGES - 1);
    for (size_t i = 0; i < out->count; i++) {
        struct soak_change *change = &out->changes[i];

        random = scramble(random + 1);
        /* neighbours: the keys of a batch differ */
        change->key = i ? (out->changes[i - 1].key + 1) % SOAK_KEYS
                        : (uint32_t)(random >> 8) % SOAK_KEYS;
        change->is_delete = kind < 90 ? kind < 12 : random % 10 == 0;
        change->value_size = size_for(random >> 4);
        if (out->count > 1 && change->value_size > 40000)
            change->value_size = 40000;
    }
}

int soak_turn_is_silent(const struct soak_turn *turn)
{
    for (size_t i = 0; i < turn->count; i++) {
        if (!turn->changes[i].is_delete)
            return 0;
    }
    return 1;
}

uint64_t soak_key_number(uint32_t writer, uint32_t key)
{
    return (uint64_t)(writer + 1) << 32 | key;
}

void soak_note_turn(struct soak *soak, uint32_t writer, uint32_t turn, const struct soak_turn *what)
{
    for (size_t i = 0; i < what->count; i++) {
        uint32_t state = turn | (what->changes[i].is_delete ? SOAK_DELETED : 0);

        atomic_store(&soak->shared->model[writer][what->changes[i].key], state);
    }
    atomic_store(&soak->shared->acknowledged[writer], turn);
}

uint32_t soak_find(km_map *const maps[2], uint32_t writer, uint32_t key, km_buffer *buffer)
{
    uint64_t number = soak_key_number(writer, key);
    km_status rc = km_get_u64(maps[key % 2], number, buffer);

    if (rc == KM_NOT_FOUND)
        return 0;
    CHECK_STATUS(rc, KM_OK);
    return (uint32_t)harness_value_version(km_bytes_of(buffer->data, buffer->size), number);
}

static int is_present(uint32_t state)
{
    return state != 0 && !(state & SOAK_DELETED);
}

/* Once the turn under way is over, the model has all that a look could have seen. */
static void wait_for_turn(struct soak *soak, uint32_t writer)
{
    uint32_t begun = atomic_load(&soak->shared->begun[writer]);
    struct timespec pause = {0, 100000};

    while (atomic_load(&soak->shared->acknowledged[writer]) < begun)
        nanosleep(&pause, NULL);
}

void soak_check_key(struct soak *soak, uint32_t writer, uint32_t key, uint32_t before,
                    uint32_t found)
{
    uint32_t begun = atomic_load(&soak->shared->begun[writer]);

    CHECK_MSG(found <= begun, "writer %u key %u: turn %u, which was not begun", writer, key, found);
    if (found) {
        CHECK_MSG(found >= SOAK_TURN(before), "writer %u key %u: turn %u came back over %u", writer,
                  key, found, SOAK_TURN(before));
        CHECK_MSG(found != SOAK_TURN(before) || is_present(before),
                  "writer %u key %u: was deleted in turn %u and is there", writer, key, found);
        return;
    }
    if (!is_present(before))
        return;
    wait_for_turn(soak, writer);
    CHECK_MSG(atomic_load(&soak->shared->model[writer][key]) != before,
              "writer %u key %u: the value of turn %u is lost", writer, key, SOAK_TURN(before));
}

void soak_open_maps(km_store *store, km_map *maps[2])
{
    maps[0] = harness_map(store, "even");
    maps[1] = harness_map_of(store, "odd", KM_SORTED);
}

/* Whether a store holds what a turn did; the turn is the last of its writer. */
static int has_turn(struct soak *soak, uint32_t writer, uint32_t turn, const struct soak_turn *what)
{
    km_buffer buffer = KM_BUFFER_INIT;
    size_t there = 0, possible = 0;

    for (size_t i = 0; i < what->count; i++) {
        const struct soak_change *change = &what->changes[i];
        uint32_t before = atomic_load(&soak->shared->model[writer][change->key]);
        uint32_t found = soak_find(soak->maps, writer, change->key, &buffer);

        if (change->is_delete && !is_present(before))
            continue; /* looks the same with and without */
        possible++;
        there += change->is_delete ? found == 0 : found == turn;
    }
    km_buffer_free(&buffer);
    CHECK_MSG(there == 0 || there == possible, "writer %u turn %u: %zu of %zu changes are there",
              writer, turn, there, possible);
    return there != 0;
}

/* S2: what the kill left open. */
static void settle_turn(struct soak *soak, uint32_t writer)
{
    struct soak_shared *shared = soak->shared;
    uint32_t turn = atomic_load(&shared->begun[writer]);
    struct soak_turn what;

    if (turn == atomic_load(&shared->acknowledged[writer]))
        return;
    soak_plan_turn(soak, writer, turn, &what);
    if (atomic_load(&shared->returned[writer]) == turn || has_turn(soak, writer, turn, &what)) {
        atomic_store(&shared->returned[writer], turn);
        soak_note_turn(soak, writer, turn, &what);
    } else { /* it will be done again */
        atomic_store(&shared->begun[writer], turn - 1);
    }
}

void soak_check_all(struct soak *soak)
{
    km_buffer buffer = KM_BUFFER_INIT;
    uint64_t present = 0;

    for (uint32_t writer = 0; writer < SOAK_WRITERS; writer++) {
        settle_turn(soak, writer);
        for (uint32_t key = 0; key < SOAK_KEYS; key++) {
            uint32_t state = atomic_load(&soak->shared->model[writer][key]);
            uint32_t found = soak_find(soak->maps, writer, key, &buffer);

            CHECK_MSG(found == (is_present(state) ? SOAK_TURN(state) : 0),
                      "writer %u key %u: turn %u is there, not %u%s", writer, key, found,
                      SOAK_TURN(state), is_present(state) ? "" : " (which deleted it)");
            present += found != 0;
        }
    }
    km_buffer_free(&buffer);
    CHECK_MSG(km_count(soak->maps[0]) + km_count(soak->maps[1]) == present,
              "%llu keys are there, %llu are counted", (unsigned long long)present,
              (unsigned long long)(km_count(soak->maps[0]) + km_count(soak->maps[1])));
}
