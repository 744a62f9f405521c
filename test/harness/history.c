/* SPDX-License-Identifier: Apache-2.0
 *
 * history.c -- what was asked of a store, and what it must hold.
 *
 * I1. The fingerprint of a content is the sum of those of its maps and entries, and of the pairs of
 *     neighbours in maps that have an insertion order; `last` is changed by the effects one by one,
 *     and the fingerprint with it.
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

km_map_kind km__history_map_kind(uint32_t map)
{
    static const km_map_kind kinds[HISTORY_MAP_COUNT] = {KM_HASH, KM_INSERTION, KM_SORTED,
                                                         KM_INSERTION};

    return kinds[map];
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

/* Of two keys that follow one another; before the first is the empty key. */
static uint64_t fingerprint_pair(uint32_t map, km_bytes key, km_bytes next)
{
    return mix_bytes(mix_bytes(mix_bytes(2, km__history_map_name(map)), key), next);
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

/* What the order of a map adds to the fingerprint. */
static uint64_t sum_of_order(const struct content *content, uint32_t map)
{
    uint8_t key_bytes[2][HISTORY_KEY_SIZE_MAX];
    uint64_t sum = 0, reached = 0;
    km_bytes last = {"", 0};
    int turn = 0;

    if (km__history_map_kind(map) != KM_INSERTION)
        return 0;
    for (;;) { /* ends: `reached` grows */
        uint32_t next = HISTORY_KEY_COUNT;
        km_bytes key;

        for (uint32_t i = 0; i < HISTORY_KEY_COUNT; i++) {
            const struct entry_state *state = &content->entries[map][i];

            if (state->value_id && state->inserted > reached &&
                (next == HISTORY_KEY_COUNT ||
                 state->inserted < content->entries[map][next].inserted))
                next = i;
        }
        if (next == HISTORY_KEY_COUNT)
            return sum;
        key = km__history_key(next, key_bytes[turn]);
        sum += fingerprint_pair(map, last, key);
        last = key;
        turn = 1 - turn;
        reached = content->entries[map][next].inserted;
    }
}

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

static void put_entry(struct content *content, const struct effect *effect)
{
    struct entry_state *entry = &content->entries[effect->map][effect->key];
    struct entry_state state = {effect->value_id, effect->size, entry->inserted};

    if (!entry->value_id)
        state.inserted = ++content->last_inserted;
    remove_entry(content, effect->map, effect->key);
    *entry = state;
    content->fingerprint += fingerprint_state(effect->map, effect->key, state);
}

static void apply_effect(struct content *content, const struct effect *effect)
{
    content->fingerprint -= sum_of_order(content, effect->map);
    switch (effect->kind) {
    case EFFECT_PUT: put_entry(content, effect); break;
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
    content->fingerprint += sum_of_order(content, effect->map);
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

/* The last effect on a key is the one that counts, and the only one: a delete before it does not
 * take the key out of its place. */
static int is_superseded(const struct history *history, size_t i, size_t end)
{
    const struct effect *effect = &history->effects[i];

    if (effect->kind != EFFECT_PUT && effect->kind != EFFECT_DELETE)
        return 0;
    for (size_t j = i + 1; j < end; j++) {
        if (history->effects[j].map == effect->map && history->effects[j].key == effect->key)
            return 1;
    }
    return 0;
}

static void apply_effects(struct content *content, const struct history *history, size_t begin,
                          size_t end)
{
    for (size_t i = begin; i < end; i++) {
        if (!is_superseded(history, i, end))
            apply_effect(content, &history->effects[i]);
    }
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
    apply_effects(&history->last, history, effect_begin(history, history->count),
                  history->effect_count);
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
    *out = history->first;
    for (size_t i = 0; i < index; i++)
        apply_effects(out, history, effect_begin(history, i), history->changes[i].effect_end);
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
    km_snapshot *snapshot; /* NULL: of now */
    uint64_t fingerprint;
    int failed;
};

/* What a walk over a map came to. */
struct walk_sum {
    uint64_t entries, order, count;
};

static int wrong(struct reading *reading, const char *what, km_status rc)
{
    printf("reading the %s: %s: %s\n", reading->snapshot ? "snapshot" : "store", what,
           km_status_name(rc));
    reading->failed = 1;
    return 1;
}

static int compare_history_keys(km_bytes a, km_bytes b)
{
    size_t shorter = a.size < b.size ? a.size : b.size;
    int result = memcmp(a.data, b.data, shorter);

    return result ? result : (a.size > b.size) - (a.size < b.size);
}

/* Add the neighbours `last` and `key`, in the order of the walk. */
static int add_pair(struct reading *reading, uint32_t number, int reverse, km_bytes last,
                    km_bytes key, struct walk_sum *sum)
{
    km_map_kind kind = km__history_map_kind(number);
    int is_first = sum->count == 0;

    if (kind == KM_INSERTION && !reverse)
        sum->order += fingerprint_pair(number, last, key);
    if (kind == KM_INSERTION && reverse && !is_first)
        sum->order += fingerprint_pair(number, key, last);
    if (kind == KM_SORTED && !is_first && (compare_history_keys(last, key) < 0) == reverse)
        return wrong(reading, "the keys are not in order", KM_E_CORRUPT);
    return 0;
}

/* The sum of a map's entries, by a cursor. */
static int sum_by_cursor(struct reading *reading, km_map *map, uint32_t number, int reverse,
                         struct walk_sum *sum)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    uint8_t last_bytes[HISTORY_KEY_SIZE_MAX];
    km_cursor *cursor = NULL;
    km_bytes key, value, last = {last_bytes, 0}, none = {"", 0};
    km_status rc;

    options.snapshot = reading->snapshot;
    options.reverse = reverse;
    rc = km_cursor_open(map, &options, &cursor);
    if (rc)
        return wrong(reading, "km_cursor_open", rc);
    while ((rc = km_cursor_next(cursor, &key, &value)) == KM_OK && !reading->failed) {
        add_pair(reading, number, reverse, last, key, sum);
        sum->entries += km__fingerprint_entry(number, key, value);
        sum->count++;
        memcpy(last_bytes, key.data, key.size);
        last.size = key.size;
    }
    if (reverse && sum->count && km__history_map_kind(number) == KM_INSERTION)
        sum->order += fingerprint_pair(number, none, last);
    km_cursor_close(cursor);
    return rc == KM_END || reading->failed ? reading->failed : wrong(reading, "km_cursor_next", rc);
}

static int sum_by_gets(struct reading *reading, km_map *map, uint32_t number, uint64_t *out_sum)
{
    uint8_t key_bytes[HISTORY_KEY_SIZE_MAX];
    km_buffer value = KM_BUFFER_INIT;
    km_status rc = KM_OK;

    for (uint32_t i = 0; i < HISTORY_KEY_COUNT; i++) {
        km_bytes key = km__history_key(i, key_bytes);

        rc = reading->snapshot ? km_snapshot_get(reading->snapshot, map, key, &value, NULL)
                               : km_get(map, key, &value);
        if (rc == KM_OK)
            *out_sum += km__fingerprint_entry(number, key, km_bytes_of(value.data, value.size));
        else if (rc != KM_NOT_FOUND)
            break;
    }
    km_buffer_free(&value);
    return rc == KM_OK || rc == KM_NOT_FOUND ? 0 : wrong(reading, "km_get", rc);
}

/* The entries of a map in insertion order, by their numbers. */
static int sum_by_positions(struct reading *reading, km_map *map, uint32_t number,
                            uint64_t *out_sum)
{
    km_buffer key = KM_BUFFER_INIT, value = KM_BUFFER_INIT;
    uint64_t position = 0, found = 0;
    km_status rc;

    while ((rc = km_get_index(map, position, &key, &value)) == KM_OK) {
        km_bytes key_bytes = km_bytes_of(key.data, key.size);

        *out_sum += km__fingerprint_entry(number, key_bytes, km_bytes_of(value.data, value.size));
        if (km_index_of(map, key_bytes, &found) || found != position)
            break;
        position++;
    }
    km_buffer_free(&key);
    km_buffer_free(&value);
    return rc == KM_NOT_FOUND ? 0 : wrong(reading, "positions", rc);
}

static int agree(struct reading *reading, uint32_t number, const struct walk_sum *forward,
                 uint64_t entries, uint64_t count)
{
    if (forward->entries == entries && forward->count == count)
        return 0;
    printf("map %u: %llu keys by cursor, %llu otherwise; sums %llx and %llx\n", number,
           (unsigned long long)forward->count, (unsigned long long)count,
           (unsigned long long)forward->entries, (unsigned long long)entries);
    return wrong(reading, "cursors, gets, positions and count do not agree", KM_E_CORRUPT);
}

static uint32_t number_of_map(km_bytes name)
{
    uint32_t number = 0;

    while (number < HISTORY_MAP_COUNT) {
        km_bytes own = km__history_map_name(number);

        if (own.size == name.size && memcmp(own.data, name.data, own.size) == 0)
            break;
        number++;
    }
    return number;
}

static int read_map(struct reading *reading, km_map *map, const km_map_info *info)
{
    struct walk_sum forward = {0, 0, 0}, backward = {0, 0, 0};
    uint32_t number = number_of_map(info->name);
    uint64_t entries = 0;

    if (number == HISTORY_MAP_COUNT)
        return wrong(reading, "a map that nobody created", KM_E_CORRUPT);
    if (info->kind != km__history_map_kind(number))
        return wrong(reading, "a map of another kind", KM_E_CORRUPT);
    if (sum_by_cursor(reading, map, number, 0, &forward) ||
        sum_by_gets(reading, map, number, &entries) ||
        agree(reading, number, &forward, entries, info->count))
        return 1;
    if (info->kind != KM_HASH &&
        (sum_by_cursor(reading, map, number, 1, &backward) ||
         agree(reading, number, &forward, backward.entries, backward.count)))
        return 1;
    if (forward.order != backward.order)
        return wrong(reading, "the order backwards is another", KM_E_CORRUPT);
    entries = 0;
    if (info->kind == KM_INSERTION && !reading->snapshot &&
        (sum_by_positions(reading, map, number, &entries) ||
         agree(reading, number, &forward, entries, km_count(map))))
        return 1;
    reading->fingerprint += forward.entries + forward.order + km__fingerprint_map(number);
    return 0;
}

static int read_listed_map(void *context, const km_map_info *info)
{
    struct reading *reading = context;
    km_map *map = NULL;

    if (km_map_open(reading->store, info->name, &map))
        return wrong(reading, "a listed map cannot be opened", KM_NOT_FOUND);
    return read_map(reading, map, info);
}

static int read_snapshot_map(void *context, km_map *map, const km_map_info *info)
{
    return read_map(context, map, info);
}

static int end_reading(struct reading *reading, km_status rc, uint64_t *out_fingerprint)
{
    if (reading->failed)
        return -1;
    if (rc)
        return -wrong(reading, "the list of maps", rc);
    *out_fingerprint = reading->fingerprint;
    return 0;
}

int km__history_read_store(km_store *store, uint64_t *out_fingerprint)
{
    struct reading reading = {store, NULL, 0, 0};
    km_status rc = km_map_list(store, read_listed_map, &reading);

    return end_reading(&reading, rc, out_fingerprint);
}

int km__history_read_snapshot(km_snapshot *snapshot, uint64_t *out_fingerprint)
{
    struct reading reading = {NULL, snapshot, 0, 0};
    km_status rc = km_snapshot_map_list(snapshot, read_snapshot_map, &reading);

    return end_reading(&reading, rc, out_fingerprint);
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
