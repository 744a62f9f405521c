/* SPDX-License-Identifier: Apache-2.0
 *
 * test_model_attach.c -- sealed tables under maps, against an obvious model (attach_model.h).
 *
 * Random changes of every sort go on while tables are attached and detached, snapshots are open,
 * cursors stay open, and the store is compacted, closed, killed and opened again, backed up, saved,
 * restored and salvaged. After each step the counts of all maps are exact; now and then everything
 * is compared.
 *
 * Stores are in a folder of the simulated machine, in its memory, or in a folder of this one. The
 * simulated clock moves, so that keys of the first maps of each kind expire.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>

#include "model/attach_model.h"
#include "base/bytes.h"
#include "harness/harness_check.h"
#include "sealed/sealed.h"
#include "sim/sim.h"
#include "store/store_backup_internal.h"

#define SNAPSHOT_MAX 4u
#define TTL_STEP_MS UINT64_C(1000000) /* the clock moves by so much, or hardly at all */
#define STEP_COUNT 1500u
#define PATH_SIZE HARNESS_PATH_SIZE

static const km_map_kind kinds[MAP_COUNT] = {KM_HASH, KM_HASH, KM_SORTED, KM_SORTED};

struct copy {
    km_snapshot *snapshot; /* NULL: none */
    uint64_t number;       /* of its taking */
    struct table tables[MAP_COUNT];
    struct walker walker;
};

static struct model {
    struct os *os;
    int is_sim, is_in_memory;
    char folder[PATH_SIZE]; /* of this machine's */
    km_options options;
    km_store *store;
    struct harness_random random;
    struct table tables[MAP_COUNT];
    struct copy copies[SNAPSHOT_MAX];
    struct live_walk live;
    struct layer *layers; /* all that were made */
    uint64_t last_number, last_version;
    km_buffer key_buffer, buffer;
    uint8_t key[KEY_SIZE_MAX];
} model;

static uint64_t below(uint64_t n)
{
    return harness_below(&model.random, n);
}

static uint64_t now_ms(void)
{
    return km__store_clock(model.store);
}

static km_bytes key_of(uint32_t number)
{
    return km_bytes_of(model.key, write_key(number, model.key));
}

static km_bytes bytes_of(const struct value *value)
{
    return km_bytes_of(value->bytes, value->size);
}

static void path_of(char path[PATH_SIZE], const char *name, uint64_t number)
{
    int size = snprintf(path, PATH_SIZE, "%s%s%s.%llu", model.folder, model.is_sim ? "" : "/", name,
                        (unsigned long long)number);

    CHECK(size > 0 && size < (int)PATH_SIZE);
}

static struct reading read_table(const struct table *table, km_snapshot *snapshot)
{
    struct reading reading = {table, table->map, snapshot, now_ms(), 0, &model.random};

    return reading;
}

static void compare_table(const struct table *table, km_snapshot *snapshot)
{
    struct reading reading = read_table(table, snapshot);

    compare_count(&reading);
    compare_map(&reading);
}

static void check_counts(void)
{
    km_stats stats = {.struct_size = sizeof(stats)};
    uint64_t sum = 0;

    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        struct reading reading = read_table(&model.tables[i], NULL);

        compare_count(&reading);
        sum += count_of(&model.tables[i]);
    }
    CHECK_STATUS(km_store_stats(model.store, &stats), KM_OK);
    CHECK(stats.key_count == sum && stats.map_count == MAP_COUNT);
}

/* ---- what changes in the model ------------------------------------------------------------- */

static uint32_t index_of(const struct table *table)
{
    return (uint32_t)(table - model.tables);
}

static struct table *some_table(uint32_t *out_key)
{
    *out_key = (uint32_t)below(KEY_MAX);
    return &model.tables[below(MAP_COUNT)];
}

static void make_value(struct value *out)
{
    out->size = (uint32_t)(below(5) ? below(VALUE_MAX + 1) : 8);
    harness_fill(out->bytes, out->size, ++model.last_number);
    if (out->size == 8)
        memset(out->bytes + 4, 0, 4); /* so that sums fit */
}

static void touch(const struct table *table, uint32_t key)
{
    if (model.live.cursor && model.live.reading.table == table)
        model.live.touched[key] = 1;
}

/* The version and the expiry are what the store tells. */
static void note_put(struct table *table, uint32_t key, const struct value *value)
{
    struct entry *entry = &table->entries[key];
    km_key_info info = {0, 0, 0};

    CHECK_STATUS(km_get_info(table->map, key_of(key), NULL, &info), KM_OK);
    CHECK(info.version > model.last_version);
    entry->state = OWN_PUT;
    entry->value = *value;
    entry->version = info.version;
    entry->expires_ms = info.expires_ms;
    touch(table, key);
}

/* Of several puts of a batch. */
static void raise_version(void)
{
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        for (uint32_t key = 0; key < KEY_MAX; key++) {
            uint64_t version = model.tables[i].entries[key].version;

            model.last_version = version > model.last_version ? version : model.last_version;
        }
    }
}

static void note_gone(struct table *table, uint32_t key)
{
    struct entry *entry = &table->entries[key];

    memset(entry, 0, sizeof(*entry));
    if (layer_of(table, key))
        entry->state = OWN_HIDDEN;
    touch(table, key);
}

/* What has expired is deleted. */
static void note_expiry_of(struct table *table)
{
    for (uint32_t key = 0; key < KEY_MAX; key++) {
        if (has_expired(&table->entries[key], now_ms()))
            note_gone(table, key);
    }
}

/* ---- changes of one key -------------------------------------------------------------------- */

static void choose_write(const struct table *table, uint32_t key, km_write *write)
{
    struct seen seen = look(table, key, now_ms());

    if (below(3) == 0)
        write->condition = (km_condition)below(4);
    if (write->condition == KM_IF_VERSION)
        write->expected = below(4) ? seen.version : below(2) ? 0 : model.last_version;
    if (below(2))
        write->previous = &model.buffer;
}

static uint64_t some_ttl(const struct table *table)
{
    if (index_of(table) % 2 || below(4))
        return 0;
    return 1 + below(2 * TTL_STEP_MS) + (model.is_sim ? 0 : 1000 * TTL_STEP_MS);
}

static void change_put(void)
{
    uint32_t key;
    struct table *table = some_table(&key);
    km_write write = KM_WRITE_INIT;
    struct expected expected;
    struct value value;
    km_status rc;

    make_value(&value);
    choose_write(table, key, &write);
    write.ttl_ms = some_ttl(table);
    expected = expect(table, key, &write, now_ms());
    if (write.condition == KM_IF_ABSENT && below(2)) {
        write.condition = KM_IF_ANY;
        rc = km_put_if_absent(table->map, key_of(key), bytes_of(&value), &write);
    } else if (write.condition == KM_IF_VERSION && below(2)) {
        write.condition = KM_IF_ANY;
        rc = km_compare_and_set(table->map, key_of(key), write.expected, bytes_of(&value), &write);
    } else {
        rc = km_put(table->map, key_of(key), bytes_of(&value), &write);
    }
    check_outcome(&expected, rc, &write);
    if (rc)
        return;
    note_put(table, key, &value);
    CHECK(table->entries[key].version == write.position);
}

static void change_del(void)
{
    uint32_t key;
    struct table *table = some_table(&key);
    km_write write = KM_WRITE_INIT;
    struct expected expected;
    km_status rc;

    choose_write(table, key, &write);
    expected = expect(table, key, &write, now_ms());
    if (!expected.before.value && expected.status == KM_OK)
        expected.status = KM_NOT_FOUND;
    if (write.condition == KM_IF_VERSION && write.expected && below(2)) {
        write.condition = KM_IF_ANY;
        rc = km_compare_and_del(table->map, key_of(key), write.expected, &write);
    } else {
        rc = km_del(table->map, key_of(key), &write);
    }
    check_outcome(&expected, rc, &write);
    if (!rc)
        note_gone(table, key);
}

static void change_insert(void)
{
    uint32_t key;
    struct table *table = some_table(&key);
    struct seen seen = look(table, key, now_ms());
    km_write write = KM_WRITE_INIT;
    struct value value;

    make_value(&value);
    CHECK_STATUS(km_get_or_insert(table->map, key_of(key), bytes_of(&value), &model.buffer, &write),
                 KM_OK);
    CHECK(write.existed == (seen.value != NULL));
    CHECK(is_value(seen.value ? seen.value : &value,
                   km_bytes_of(model.buffer.data, model.buffer.size)));
    if (!write.existed)
        note_put(table, key, &value);
}

static void change_increment(void)
{
    uint32_t key;
    struct table *table = some_table(&key);
    struct seen seen = look(table, key, now_ms());
    struct value value = {8, {0}};
    int64_t delta = (int64_t)below(1000) - 500, sum = 0;
    km_status rc = km_increment(table->map, key_of(key), delta, &sum, NULL);

    CHECK_STATUS(rc, seen.value && seen.value->size != 8 ? KM_E_INVALID : KM_OK);
    if (rc)
        return;
    CHECK(sum == delta + (seen.value ? (int64_t)km__load64(seen.value->bytes) : 0));
    km__store64(value.bytes, (uint64_t)sum);
    note_put(table, key, &value);
    CHECK(table->entries[key].expires_ms == seen.expires_ms);
}

static void change_append(void)
{
    uint32_t key;
    struct table *table = some_table(&key);
    struct seen seen = look(table, key, now_ms());
    struct value joined = {0, {0}}, added;

    if (seen.value)
        joined = *seen.value;
    make_value(&added);
    if (added.size > VALUE_MAX - joined.size)
        added.size = VALUE_MAX - joined.size;
    memcpy(joined.bytes + joined.size, added.bytes, added.size);
    joined.size += added.size;
    CHECK_STATUS(km_append(table->map, key_of(key), bytes_of(&added), NULL), KM_OK);
    note_put(table, key, &joined);
}

struct decision {
    struct seen seen;
    km_update_verdict verdict;
    struct value value;
};

static km_update_verdict decide(void *context, const km_bytes *old_value,
                                const km_key_info *old_info, km_bytes *new_value)
{
    const struct decision *decision = context;

    CHECK((old_value != NULL) == (decision->seen.value != NULL));
    if (old_value)
        CHECK(is_value(decision->seen.value, *old_value));
    CHECK(old_info->version == decision->seen.version &&
          old_info->expires_ms == decision->seen.expires_ms);
    *new_value = bytes_of(&decision->value);
    return decision->verdict;
}

static void change_update(void)
{
    uint32_t key;
    struct table *table = some_table(&key);
    struct decision decision = {look(table, key, now_ms()), (km_update_verdict)below(4), {0, {0}}};

    make_value(&decision.value);
    CHECK_STATUS(km_update(table->map, key_of(key), decide, &decision, NULL),
                 decision.verdict == KM_UPDATE_FAIL ? KM_STOPPED : KM_OK);
    if (decision.verdict == KM_UPDATE_PUT)
        note_put(table, key, &decision.value);
    if (decision.verdict == KM_UPDATE_DELETE && decision.seen.value)
        note_gone(table, key);
}

static void change_pop(void)
{
    struct table *table = &model.tables[below(MAP_COUNT)];
    int is_last = (int)below(2);
    uint32_t order[KEY_MAX], key;
    size_t count = order_of(table, now_ms(), order);
    km_status rc, expected = count ? KM_OK : KM_NOT_FOUND;

    rc = is_last ? km_pop_last(table->map, &model.key_buffer, &model.buffer, NULL)
                 : km_pop_first(table->map, &model.key_buffer, &model.buffer, NULL);
    CHECK_STATUS(rc, table->kind == KM_HASH ? KM_E_UNSUPPORTED : expected);
    if (rc)
        return;
    key = order[is_last ? count - 1 : 0];
    CHECK(number_of_key(km_bytes_of(model.key_buffer.data, model.key_buffer.size)) == key);
    CHECK(is_value(look(table, key, now_ms()).value,
                   km_bytes_of(model.buffer.data, model.buffer.size)));
    note_gone(table, key);
}

/* ---- batches ------------------------------------------------------------------------------- */

struct batch_change {
    struct table *table;
    uint32_t key;
    int is_put;
    struct value value;
};

static void add_to_batch(km_batch *batch, struct batch_change *change)
{
    km_map *map;

    change->table = some_table(&change->key);
    change->is_put = below(3) != 0;
    map = change->table->map;
    make_value(&change->value);
    CHECK_STATUS(change->is_put
                     ? km_batch_put(batch, map, key_of(change->key), bytes_of(&change->value))
                     : km_batch_del(batch, map, key_of(change->key)),
                 KM_OK);
}

/* 1 if the expectation does not hold. */
static int expect_in_batch(km_batch *batch)
{
    uint32_t key;
    struct table *table = some_table(&key);
    uint64_t version = look(table, key, now_ms()).version;
    uint64_t expected = below(12) ? version : below(2) ? 0 : model.last_version;

    CHECK_STATUS(km_batch_expect(batch, table->map, key_of(key), expected), KM_OK);
    return expected != version;
}

static void change_batch(void)
{
    struct batch_change changes[8];
    size_t count = below(9), expectations = below(3);
    km_batch *batch = NULL;
    int fails = 0;
    km_status rc;

    CHECK_STATUS(km_batch_create(model.store, &batch), KM_OK);
    for (size_t i = 0; i < count; i++)
        add_to_batch(batch, &changes[i]);
    for (size_t i = 0; i < expectations; i++)
        fails |= expect_in_batch(batch);
    rc = km_batch_commit(batch, NULL);
    km_batch_destroy(batch);
    CHECK_STATUS(rc, fails ? KM_CONFLICT : KM_OK);
    for (size_t i = 0; !fails && i < count; i++) {
        int is_superseded = 0;

        for (size_t j = i + 1; j < count; j++)
            is_superseded |= changes[j].table == changes[i].table &&
                             changes[j].key == changes[i].key;
        if (is_superseded)
            continue;
        if (changes[i].is_put)
            note_put(changes[i].table, changes[i].key, &changes[i].value);
        else
            note_gone(changes[i].table, changes[i].key);
    }
}

/* ---- reads --------------------------------------------------------------------------------- */

static void read_something(void)
{
    struct reading reading = read_table(&model.tables[below(MAP_COUNT)], NULL);

    switch (below(4)) {
    case 0: check_end(&reading, (int)below(2)); return;
    case 1: check_nearest(&reading, (int)below(2)); return;
    case 2: check_many(&reading); return;
    default: compare_table(reading.table, NULL);
    }
}

/* Of a map whose keys do not expire. */
static void move_live(void)
{
    struct live_walk *live = &model.live;

    if (!live->cursor) {
        struct reading reading = read_table(&model.tables[1 + 2 * below(2)], NULL);

        start_live(live, &reading);
    }
    if (below(30) == 0)
        end_live(live);
    for (uint64_t steps = below(3) ? below(5) : below(60); live->cursor && steps > 0; steps--) {
        if (live->reading.table->kind == KM_HASH)
            move_live_hash(live);
        else
            move_live_sorted(live, below(3) == 0);
    }
}

/* ---- snapshots ------------------------------------------------------------------------------ */

static void close_copy(struct copy *copy)
{
    km_cursor_close(copy->walker.cursor);
    km_snapshot_close(copy->snapshot);
    copy->walker.cursor = NULL;
    copy->snapshot = NULL;
}

static void close_copies(void)
{
    for (uint32_t i = 0; i < SNAPSHOT_MAX; i++)
        close_copy(&model.copies[i]);
}

static int is_snapshot_open(void)
{
    int is_open = 0;

    for (uint32_t i = 0; i < SNAPSHOT_MAX; i++)
        is_open |= model.copies[i].snapshot != NULL;
    return is_open;
}

static void open_copy(struct copy *copy)
{
    struct reading reading;

    CHECK_STATUS(km_snapshot_open(model.store, &copy->snapshot), KM_OK);
    copy->number = ++model.last_number;
    memcpy(copy->tables, model.tables, sizeof(copy->tables));
    reading = read_table(&copy->tables[3], copy->snapshot);
    start_walker(&copy->walker, &reading);
}

static void compare_changes(const struct copy *older, const struct copy *newer, uint32_t map)
{
    const struct table *before = &older->tables[map];
    struct told told = {
        newer ? &newer->tables[map] : &model.tables[map], now_ms(), {(km_change_kind)0}};

    if (before->map != told.table->map)
        return; /* it was dropped between */
    CHECK_STATUS(km_snapshot_changes(older->snapshot, newer ? newer->snapshot : NULL, before->map,
                                     take_change, &told),
                 KM_OK);
    for (uint32_t key = 0; map % 2 && key < KEY_MAX; key++) {
        struct seen then = look(before, key, 0), now = look(told.table, key, 0);
        km_change_kind expected = now.value ? KM_CHANGE_PUT : KM_CHANGE_DELETE;

        if (then.version == now.version)
            expected = (km_change_kind)0;
        CHECK_MSG(told.kinds[key] == expected,
                  "key %u, state %d then and %d now: told as %d, not %d", key,
                  (int)before->entries[key].state, (int)told.table->entries[key].state,
                  (int)told.kinds[key], (int)expected);
    }
}

static void compare_some_changes(const struct copy *copy)
{
    const struct copy *other = &model.copies[below(SNAPSHOT_MAX)];
    uint32_t map = (uint32_t)below(MAP_COUNT);

    if (!other->snapshot || other == copy)
        compare_changes(copy, NULL, map);
    else if (other->number > copy->number)
        compare_changes(copy, other, map);
    else
        compare_changes(other, copy, map);
}

static void touch_copy(void)
{
    struct copy *copy = &model.copies[below(SNAPSHOT_MAX)];

    if (!copy->snapshot) {
        open_copy(copy);
        return;
    }
    turn_walker(&copy->walker);
    if (below(2))
        compare_table(&copy->tables[below(MAP_COUNT)], copy->snapshot);
    else
        compare_some_changes(copy);
    if (below(3) == 0)
        close_copy(copy);
}

/* ---- tables --------------------------------------------------------------------------------- */

/* A table with random keys: numbers alone, or of every sort. */
static struct layer *build_layer(const char *path)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    struct layer *layer = calloc(1, sizeof(*layer));
    km_sealed_builder *builder = NULL;
    uint64_t one_in = 1 + below(4);

    CHECK(layer != NULL);
    if (below(4) == 0)
        options.keys = KM_SEALED_U32;
    CHECK_STATUS(km__sealed_builder_open(model.os, path, &options, &builder, NULL), KM_OK);
    for (uint32_t key = 0; key < KEY_MAX; key++) {
        if (below(one_in) || (options.keys && !is_number_key(key)))
            continue;
        layer->has[key] = 1;
        make_value(&layer->values[key]);
        CHECK_STATUS(km_sealed_builder_add(builder, key_of(key), bytes_of(&layer->values[key])),
                     KM_OK);
    }
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
    layer->older = model.layers;
    model.layers = layer;
    return layer;
}

struct listing {
    const struct table *table;
    uint32_t count;
};

static int check_listed(void *context, const km_attached *attached)
{
    struct listing *listing = context;
    const struct layer *layer = listing->table->layers[listing->count++];
    uint64_t count = 0;

    CHECK(listing->count <= listing->table->layer_count);
    for (uint32_t key = 0; key < KEY_MAX; key++)
        count += layer->has[key];
    CHECK(attached->count == count && attached->file_bytes && attached->memory_bytes);
    CHECK((attached->name[0] == '\0') == model.is_in_memory);
    CHECK(!layer->version || attached->version == layer->version);
    return 0;
}

static int take_version(void *context, const km_attached *attached)
{
    *(uint64_t *)context = attached->version;
    return 1;
}

static void push_layer(struct table *table, struct layer *layer)
{
    struct listing listing = {table, 0};

    if (!table->layer_count)
        note_expiry_of(table);
    memmove(table->layers + 1, table->layers, (LAYER_MAX - 1) * sizeof(table->layers[0]));
    table->layers[0] = layer;
    table->layer_count++;
    CHECK_STATUS(km_list_attached(table->map, check_listed, &listing), KM_OK);
    CHECK(listing.count == table->layer_count);
    CHECK_STATUS(km_list_attached(table->map, take_version, &layer->version), KM_STOPPED);
    CHECK(layer->version > model.last_version);
    model.last_version = layer->version;
}

static void attach_some(void)
{
    struct table *table = &model.tables[below(MAP_COUNT)];
    km_error error = {KM_OK, 0, 0, "", ""};
    char path[PATH_SIZE];
    struct layer *layer;
    km_status rc;

    if (table->layer_count == LAYER_MAX)
        return;
    end_live(&model.live);
    path_of(path, "table", ++model.last_number);
    layer = build_layer(path);
    rc = km_attach_sealed(table->map, path, &error);
    CHECK_MSG(rc == (is_snapshot_open() ? KM_BUSY : KM_OK), "attach: %s: %s", km_status_name(rc),
              error.message);
    if (!rc)
        push_layer(table, layer);
    else if (!table->layer_count)
        note_expiry_of(table); /* that much was done */
}

static void detach_some(void)
{
    struct table *table = &model.tables[below(MAP_COUNT)];
    km_status expected = !table->layer_count ? KM_NOT_FOUND : is_snapshot_open() ? KM_BUSY : KM_OK;

    end_live(&model.live);
    CHECK_STATUS(km_detach_sealed(table->map, NULL), expected);
    if (expected)
        return;
    table->layer_count = 0;
    for (uint32_t key = 0; key < KEY_MAX; key++) {
        struct entry *entry = &table->entries[key];

        if (entry->state == OWN_HIDDEN || has_expired(entry, now_ms()))
            memset(entry, 0, sizeof(*entry));
    }
}

/* ---- maps ----------------------------------------------------------------------------------- */

static km_bytes name_of(uint32_t map)
{
    static const char *const names[MAP_COUNT] = {"map 0", "map 1", "map 2", "map 3"};

    return km_bytes_of_string(names[map]);
}

static void create_map(uint32_t map)
{
    struct table *table = &model.tables[map];

    memset(table, 0, sizeof(*table));
    table->kind = kinds[map];
    CHECK_STATUS(km_map_create(model.store, name_of(map), kinds[map], &table->map), KM_OK);
}

static void change_whole(void)
{
    struct table *table = &model.tables[below(MAP_COUNT)];
    km_map *dropped = table->map;

    if (below(2)) {
        CHECK_STATUS(km_map_clear(table->map), table->layer_count ? KM_E_UNSUPPORTED : KM_OK);
        CHECK_STATUS(km_del_range(table->map, NULL, NULL, NULL),
                     table->layer_count || table->kind == KM_HASH ? KM_E_UNSUPPORTED : KM_OK);
        if (table->layer_count)
            return;
        memset(table->entries, 0, sizeof(table->entries));
        memset(model.live.touched, 1, sizeof(model.live.touched));
        return;
    }
    end_live(&model.live);
    CHECK_STATUS(km_map_drop(dropped), KM_OK);
    CHECK(km_count(dropped) == 0);
    create_map(index_of(table));
}

/* ---- the store ------------------------------------------------------------------------------ */

static void turn_over(void)
{
    CHECK_STATUS(km_compact(model.store, NULL, NULL, NULL), KM_OK);
    CHECK_STATUS(km__keeper_round(model.store), KM_OK);
    km__reclaim(&model.store->reclaimer);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        note_expiry_of(&model.tables[i]);
    for (uint32_t i = 0; i < SNAPSHOT_MAX; i++) {
        if (model.copies[i].snapshot)
            compare_table(&model.copies[i].tables[below(MAP_COUNT)], model.copies[i].snapshot);
    }
}

static void reap(void)
{
    struct table *table = &model.tables[below(MAP_COUNT)];

    CHECK_STATUS(km__expire_map(table->map), KM_OK);
    note_expiry_of(table);
}

static void open_store(void)
{
    char path[PATH_SIZE];

    path_of(path, "store", 0);
    CHECK_STATUS(km__store_open_with(model.os, path, &model.options, 0, &model.store, NULL), KM_OK);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        CHECK_STATUS(km_map_open(model.store, name_of(i), &model.tables[i].map), KM_OK);
}

/* As it would be found after a kill, or closed. */
static void reopen(void)
{
    struct os *dead = model.os;

    if (model.is_in_memory)
        return;
    close_copies();
    end_live(&model.live);
    if (model.is_sim && below(2)) {
        model.os = km__sim_clone_after_kill(dead);
        harness_close(model.store);
        km__sim_destroy(dead);
    } else {
        harness_close(model.store);
    }
    open_store();
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        struct listing listing = {&model.tables[i], 0};

        CHECK_STATUS(km_list_attached(model.tables[i].map, check_listed, &listing), KM_OK);
        CHECK(listing.count == model.tables[i].layer_count);
        compare_table(&model.tables[i], NULL);
    }
}

static void write_image(void)
{
    if (model.is_in_memory)
        return;
    km__mutex_lock(&model.store->keeper.lock);
    CHECK_STATUS(km__image_write(model.store), KM_OK);
    km__mutex_unlock(&model.store->keeper.lock);
}

/* ---- other stores with the same contents ---------------------------------------------------- */

static void compare_other_map(const struct table *table, km_map *map, int is_copy)
{
    struct reading reading = {table, map, NULL, now_ms(), is_copy, &model.random};
    uint32_t order[KEY_MAX];

    if (!is_copy)
        compare_count(&reading);
    else
        CHECK(km_count(map) == order_of(table, now_ms(), order));
    compare_map(&reading);
}

static void compare_other(const char *path, const struct table *tables, int is_copy)
{
    km_options options = KM_OPTIONS_INIT;
    km_store *store = NULL;
    km_map *map;

    options.mode = below(2) ? KM_OPEN_READ_ONLY : KM_OPEN_EXISTING;
    CHECK_STATUS(km__store_verify_with(model.os, path, NULL, NULL, NULL, NULL), KM_OK);
    CHECK_STATUS(km__store_open_with(model.os, path, &options, 0, &store, NULL), KM_OK);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        CHECK_STATUS(km_map_open(store, name_of(i), &map), KM_OK);
        compare_other_map(&tables[i], map, is_copy);
    }
    harness_close(store);
}

static void back_up(void)
{
    km_backup_options options = {.struct_size = sizeof(options), .copy = (int)below(2)};
    const struct copier silent = {NULL};
    char backup[PATH_SIZE], path[PATH_SIZE];

    path_of(backup, "backup", ++model.last_number);
    path_of(path, "restored", model.last_number);
    CHECK_STATUS(km_backup(model.store, backup, &options, NULL, NULL),
                 model.is_in_memory ? KM_E_UNSUPPORTED : KM_OK);
    if (model.is_in_memory)
        return;
    CHECK_STATUS(km__store_restore_with(model.os, backup, path, &silent, NULL), KM_OK);
    compare_other(path, model.tables, 0);
    if (!model.is_sim) {
        harness_remove(path);
        CHECK_STATUS(km_salvage(backup, path, NULL, NULL, NULL, NULL), KM_OK);
        compare_other(path, model.tables, 1);
        harness_remove(path);
    }
    compare_other(backup, model.tables, 0);
    if (!model.is_sim)
        harness_remove(backup);
}

static void save_copy(void)
{
    const struct copy *copy = &model.copies[below(SNAPSHOT_MAX)];
    char path[PATH_SIZE];

    if (!copy->snapshot)
        return;
    path_of(path, "saved", ++model.last_number);
    CHECK_STATUS(km_snapshot_save(copy->snapshot, path, NULL, NULL, NULL), KM_OK);
    compare_other(path, copy->tables, model.is_in_memory);
    if (!model.is_sim)
        harness_remove(path);
}

/* ---- rounds --------------------------------------------------------------------------------- */

static void change_key(void)
{
    uint64_t dice = below(100);

    if (dice < 40)
        change_put();
    else if (dice < 65)
        change_del();
    else if (dice < 72)
        change_insert();
    else if (dice < 78)
        change_increment();
    else if (dice < 84)
        change_append();
    else if (dice < 90)
        change_update();
    else
        change_pop();
}

static void keep_up(void)
{
    switch (below(9)) {
    case 0: do { attach_some();
        } while (below(2));
        return;
    case 1: turn_over(); return;
    case 2: reap(); return;
    case 3: reopen(); return;
    case 4: write_image(); return;
    case 5: back_up(); return;
    case 6: save_copy(); return;
    case 7:
        if (below(2))
            detach_some();
        return;
    default:
        if (below(4) == 0)
            change_whole();
    }
}

static void do_something(void)
{
    uint64_t dice = below(1000);

    if (dice < 600)
        change_key();
    else if (dice < 700)
        change_batch();
    else if (dice < 780)
        read_something();
    else if (dice < 880)
        move_live();
    else if (dice < 960)
        touch_copy();
    else if (dice < 966)
        close_copies();
    else if (dice < 972 && model.is_sim)
        km__sim_advance(model.os, TTL_STEP_MS * 1000000);
    else
        keep_up();
    raise_version();
    check_counts();
}

static void open_model(uint64_t round)
{
    static const km_options defaults = KM_OPTIONS_INIT;

    memset(&model, 0, sizeof(model));
    model.random = harness_stream(round);
    model.is_sim = round % 4 != 3;
    model.is_in_memory = round % 4 == 1;
    model.options = defaults;
    model.options.log_size_min = UINT64_C(1) << 40; /* compaction is done by hand */
    model.options.keep_in_memory = below(4) == 0;
    model.os = model.is_sim ? km__sim_create(harness_next(&model.random)) : km__os_linux();
    if (!model.is_sim)
        harness_make_fast_folder(model.folder);
    if (model.is_in_memory) {
        CHECK_STATUS(km__store_open_memory_with(model.os, &model.options, 0, &model.store, NULL),
                     KM_OK);
    } else {
        char path[PATH_SIZE];

        path_of(path, "store", 0);
        CHECK_STATUS(km__store_open_with(model.os, path, &model.options, 0, &model.store, NULL),
                     KM_OK);
    }
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        create_map(i);
}

static void close_model(void)
{
    close_copies();
    end_live(&model.live);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        compare_table(&model.tables[i], NULL);
    CHECK(harness_check_store(model.store) == 0);
    harness_close(model.store);
    while (model.layers) {
        struct layer *layer = model.layers;

        model.layers = layer->older;
        free(layer);
    }
    km_buffer_free(&model.buffer);
    km_buffer_free(&model.key_buffer);
    if (!model.is_sim) {
        harness_remove(model.folder);
        return;
    }
    CHECK(km__sim_allocated_bytes(model.os) == 0 && km__sim_open_count(model.os) == 0);
    km__sim_destroy(model.os);
}

static void maps_with_tables_agree_with_the_model(void **state)
{
    uint64_t rounds = harness_scaled(24);

    (void)state;
    for (uint64_t round = 0; round < rounds; round++) {
        open_model(round);
        for (uint32_t i = 0; i < STEP_COUNT; i++)
            do_something();
        close_model();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_with_tables_agree_with_the_model),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
