/* SPDX-License-Identifier: Apache-2.0
 *
 * history.c -- what was asked of a store, and what it must hold.
 *
 * I1. The fingerprint of a content is the sum of those of its maps and entries; `last` is changed
 *     by the effects one by one, and the fingerprint with it.
 * I2. Value numbers are given by the caller and never twice: two prefixes have the same content
 *     only where the changes between them undo each other.
 */
#include "harness/history.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- random numbers ---------------------------------------------------------------------- */

uint64_t km__random_next(struct random *random)
{
    uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t km__random_below(struct random *random, uint64_t limit)
{
    return km__random_next(random) % limit;
}

int km__random_one_in(struct random *random, uint64_t n)
{
    return km__random_below(random, n) == 0;
}

uint64_t km__environment_number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

uint64_t km__random_seed(void)
{
    uint64_t seed = km__environment_number("SEED", (uint64_t)time(NULL));

    printf("SEED=%llu\n", (unsigned long long)seed);
    fflush(stdout);
    return seed;
}

static void *checked(void *memory)
{
    if (!memory) {
        fprintf(stderr, "the test has no memory\n");
        abort();
    }
    return memory;
}

/* ---- the universe ------------------------------------------------------------------------ */

km_bytes km__history_map_name(uint32_t map)
{
    static const char *const names[HISTORY_MAP_COUNT] = {"orders", "b", "a map",
                                                         "\303\251t\303\251"};

    return km_bytes_of_string(names[map]);
}

/* Key 0 is empty, a few are long. */
km_bytes km__history_key(uint32_t key, uint8_t *buffer)
{
    size_t size = key == 0 ? 0 : key % 16 == 7 ? 40 * key : 4 + key % 9;

    memset(buffer, (int)key, size);
    if (size >= 4)
        memcpy(buffer + size - 4, &key, 4);
    return km_bytes_of(buffer, size);
}

void km__history_value(uint64_t value_id, uint32_t size, uint8_t *bytes)
{
    struct random random = {value_id};
    uint32_t at;

    for (at = 0; at + 8 <= size; at += 8) {
        uint64_t word = km__random_next(&random);

        memcpy(bytes + at, &word, 8);
    }
    for (; at < size; at++)
        bytes[at] = (uint8_t)km__random_next(&random);
}

/* ---- fingerprints ------------------------------------------------------------------------ */

static uint64_t mix_bytes(uint64_t hash, km_bytes bytes)
{
    const uint8_t *p = bytes.data;
    size_t at = 0;

    hash = (hash ^ bytes.size) * UINT64_C(0x9fb21c651e98df25);
    for (; at + 8 <= bytes.size; at += 8) {
        uint64_t word;

        memcpy(&word, p + at, 8);
        hash = (hash ^ word) * UINT64_C(0x9fb21c651e98df25);
        hash ^= hash >> 29;
    }
    for (; at < bytes.size; at++)
        hash = (hash ^ p[at]) * UINT64_C(0x100000001b3);
    return hash ^ hash >> 32;
}

uint64_t km__fingerprint_map(uint32_t map)
{
    return mix_bytes(77, km__history_map_name(map)) | 1;
}

uint64_t km__fingerprint_entry(uint32_t map, km_bytes key, km_bytes value)
{
    return mix_bytes(mix_bytes(mix_bytes(1, km__history_map_name(map)), key), value);
}

static uint64_t fingerprint_state(uint32_t map, uint32_t key, struct entry_state state)
{
    uint8_t key_bytes[HISTORY_KEY_SIZE_MAX];
    uint8_t *value = checked(malloc(state.size + 1));
    uint64_t fingerprint;

    km__history_value(state.value_id, state.size, value);
    fingerprint = km__fingerprint_entry(map, km__history_key(key, key_bytes),
                                        km_bytes_of(value, state.size));
    free(value);
    return fingerprint;
}

/* ---- content ----------------------------------------------------------------------------- */

static void remove_entry(struct content *content, uint32_t map, uint32_t key)
{
    struct entry_state *state = &content->entries[map][key];

    if (state->value_id)
        content->fingerprint -= fingerprint_state(map, key, *state);
    state->value_id = 0;
    state->size = 0;
}

static void remove_all(struct content *content, uint32_t map)
{
    for (uint32_t key = 0; key < HISTORY_KEY_COUNT; key++)
        remove_entry(content, map, key);
}

static void apply_effect(struct content *content, const struct effect *effect)
{
    struct entry_state state = {effect->value_id, effect->size};

    switch (effect->kind) {
    case EFFECT_PUT:
        remove_entry(content, effect->map, effect->key);
        content->entries[effect->map][effect->key] = state;
        content->fingerprint += fingerprint_state(effect->map, effect->key, state);
        break;
    case EFFECT_DELETE: remove_entry(content, effect->map, effect->key); break;
    case EFFECT_CREATE:
        content->exists[effect->map] = 1;
        content->fingerprint += km__fingerprint_map(effect->map);
        break;
    case EFFECT_CLEAR: remove_all(content, effect->map); break;
    case EFFECT_DROP:
        remove_all(content, effect->map);
        content->exists[effect->map] = 0;
        content->fingerprint -= km__fingerprint_map(effect->map);
        break;
    }
}

/* ---- histories --------------------------------------------------------------------------- */

void km__history_init(struct history *history)
{
    memset(history, 0, sizeof(*history));
}

void km__history_fork(struct history *history, const struct history *from, size_t index)
{
    memset(history, 0, sizeof(*history));
    km__history_content(from, index, &history->first);
    history->last = history->first;
}

void km__history_fini(struct history *history)
{
    free(history->effects);
    free(history->changes);
    memset(history, 0, sizeof(*history));
}

void km__history_add(struct history *history, struct effect effect)
{
    if (history->effect_count == history->effect_capacity) {
        history->effect_capacity = history->effect_capacity * 2 + 64;
        history->effects = checked(
            realloc(history->effects, history->effect_capacity * sizeof(*history->effects)));
    }
    history->effects[history->effect_count++] = effect;
}

static size_t effect_begin(const struct history *history, size_t change)
{
    return change ? history->changes[change - 1].effect_end : 0;
}

void km__history_begin(struct history *history)
{
    struct history_change *change;

    if (history->count == history->capacity) {
        history->capacity = history->capacity * 2 + 64;
        history->changes = checked(
            realloc(history->changes, history->capacity * sizeof(*history->changes)));
    }
    change = &history->changes[history->count];
    for (size_t i = effect_begin(history, history->count); i < history->effect_count; i++)
        apply_effect(&history->last, &history->effects[i]);
    change->effect_end = history->effect_count;
    change->fingerprint = history->last.fingerprint;
    change->position = 0;
    history->count++;
}

void km__history_end(struct history *history, km_position position)
{
    history->changes[history->count - 1].position = position;
    history->acknowledged = history->count;
}

void km__history_cancel(struct history *history)
{
    history->count--;
    history->effect_count = effect_begin(history, history->count);
    km__history_content(history, history->count, &history->last);
}

uint64_t km__history_fingerprint(const struct history *history, size_t index)
{
    return index ? history->changes[index - 1].fingerprint : history->first.fingerprint;
}

void km__history_content(const struct history *history, size_t index, struct content *out)
{
    size_t end = effect_begin(history, index);

    *out = history->first;
    for (size_t i = 0; i < end; i++)
        apply_effect(out, &history->effects[i]);
}

long km__history_find(const struct history *history, uint64_t fingerprint, size_t low, size_t high)
{
    for (size_t i = high + 1; i-- > low;) {
        if (km__history_fingerprint(history, i) == fingerprint)
            return (long)i;
    }
    return -1;
}

/* ---- reading a store --------------------------------------------------------------------- */

struct reading {
    km_store *store;
    uint64_t fingerprint;
    int failed;
};

static int wrong(struct reading *reading, const char *what, km_status rc)
{
    printf("reading the store: %s: %s\n", what, km_status_name(rc));
    reading->failed = 1;
    return 1;
}

/* The sum of a map's entries, by a cursor. */
static int sum_by_cursor(struct reading *reading, km_map *map, uint32_t number, uint64_t *out_sum,
                         uint64_t *out_count)
{
    km_cursor *cursor = NULL;
    km_bytes key, value;
    km_status rc = km_cursor_open(map, &cursor);

    if (rc)
        return wrong(reading, "km_cursor_open", rc);
    while ((rc = km_cursor_next(cursor, &key, &value)) == KM_OK) {
        *out_sum += km__fingerprint_entry(number, key, value);
        (*out_count)++;
    }
    km_cursor_close(cursor);
    return rc == KM_END ? 0 : wrong(reading, "km_cursor_next", rc);
}

static int sum_by_gets(struct reading *reading, km_map *map, uint32_t number, uint64_t *out_sum)
{
    uint8_t key_bytes[HISTORY_KEY_SIZE_MAX];
    km_buffer value = KM_BUFFER_INIT;
    km_status rc = KM_OK;

    for (uint32_t i = 0; i < HISTORY_KEY_COUNT; i++) {
        km_bytes key = km__history_key(i, key_bytes);

        rc = km_get(map, key, &value);
        if (rc == KM_OK)
            *out_sum += km__fingerprint_entry(number, key, km_bytes_of(value.data, value.size));
        else if (rc != KM_NOT_FOUND)
            break;
    }
    km_buffer_free(&value);
    return rc == KM_OK || rc == KM_NOT_FOUND ? 0 : wrong(reading, "km_get", rc);
}

static int read_map(void *context, const km_map_info *info)
{
    struct reading *reading = context;
    uint64_t by_cursor = 0, by_gets = 0, count = 0;
    km_map *map = NULL;
    uint32_t number = 0;

    while (number < HISTORY_MAP_COUNT) {
        km_bytes name = km__history_map_name(number);

        if (name.size == info->name.size && memcmp(name.data, info->name.data, name.size) == 0)
            break;
        number++;
    }
    if (number == HISTORY_MAP_COUNT)
        return wrong(reading, "a map that nobody created", KM_E_CORRUPT);
    if (km_map_open(reading->store, info->name, &map))
        return wrong(reading, "a listed map cannot be opened", KM_NOT_FOUND);
    if (sum_by_cursor(reading, map, number, &by_cursor, &count) ||
        sum_by_gets(reading, map, number, &by_gets))
        return 1;
    if (by_cursor != by_gets || count != km_count(map) || count != info->count) {
        printf("map %u: %llu keys by cursor, %llu counted; sums %llx and %llx\n", number,
               (unsigned long long)count, (unsigned long long)km_count(map),
               (unsigned long long)by_cursor, (unsigned long long)by_gets);
        return wrong(reading, "cursor, gets and count do not agree", KM_E_CORRUPT);
    }
    reading->fingerprint += by_cursor + km__fingerprint_map(number);
    return 0;
}

int km__history_read_store(km_store *store, uint64_t *out_fingerprint)
{
    struct reading reading = {store, 0, 0};
    km_status rc = km_map_list(store, read_map, &reading);

    if (reading.failed)
        return -1;
    if (rc)
        return -wrong(&reading, "km_map_list", rc);
    *out_fingerprint = reading.fingerprint;
    return 0;
}

/* ---- differences ------------------------------------------------------------------------- */

static int print_entry_difference(km_map *map, uint32_t number, uint32_t key_number,
                                  struct entry_state expected)
{
    uint8_t key_bytes[HISTORY_KEY_SIZE_MAX];
    km_buffer value = KM_BUFFER_INIT;
    km_bytes key = km__history_key(key_number, key_bytes);
    km_status rc = km_get(map, key, &value);
    int differs = rc != (expected.value_id ? KM_OK : KM_NOT_FOUND);

    if (!differs && rc == KM_OK)
        differs = km__fingerprint_entry(number, key, km_bytes_of(value.data, value.size)) !=
                  fingerprint_state(number, key_number, expected);
    if (differs)
        printf("  map %u key %u: expected value %llu of %u bytes, found %s, %zu bytes\n", number,
               key_number, (unsigned long long)expected.value_id, expected.size, km_status_name(rc),
               rc == KM_OK ? value.size : 0);
    km_buffer_free(&value);
    return differs;
}

void km__history_print_difference(km_store *store, const struct content *content)
{
    for (uint32_t number = 0; number < HISTORY_MAP_COUNT; number++) {
        km_map *map = NULL;
        km_status rc = km_map_open(store, km__history_map_name(number), &map);

        if ((rc == KM_OK) != content->exists[number]) {
            printf("  map %u: expected %s, found %s\n", number,
                   content->exists[number] ? "it" : "none", km_status_name(rc));
            return;
        }
        if (rc)
            continue;
        for (uint32_t key = 0; key < HISTORY_KEY_COUNT; key++) {
            if (print_entry_difference(map, number, key, content->entries[number][key]))
                return;
        }
    }
    printf("  no difference\n");
}
