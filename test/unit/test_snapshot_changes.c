/* SPDX-License-Identifier: Apache-2.0
 *
 * test_snapshot_changes.c -- km_snapshot_changes against two copies of what the store held.
 *
 * G1. Applied to the earlier contents, the changes make the later ones.
 * G2. A key is told at most once, and only if it was changed; a delete only of a key that was
 *     there.
 * G3. So it is wherever the log begins by now, whatever came after the later snapshot, and in maps
 *     of every kind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "harness/harness_util.h"

#define MAP_COUNT 4u /* names; the last one comes and goes */
#define KEY_COUNT 60u

static const km_map_kind kinds[MAP_COUNT] = {KM_HASH, KM_INSERTION, KM_SORTED, KM_SORTED};

/* What a store holds. */
struct shadow {
    int exists[MAP_COUNT];
    uint64_t born[MAP_COUNT];                    /* a number of each creation of the map */
    uint64_t value[MAP_COUNT][KEY_COUNT];        /* 0: not there */
    uint64_t change_count[MAP_COUNT][KEY_COUNT]; /* puts so far */
};

struct world {
    char folder[HARNESS_PATH_SIZE];
    km_store *store;
    km_map *maps[MAP_COUNT];
    struct shadow now;
    uint64_t number;
    struct harness_random random;
};

/* ---- the store --------------------------------------------------------------------------- */

static km_bytes name_of(unsigned map)
{
    static const char *const names[MAP_COUNT] = {"hash", "insertion", "sorted", "passing"};

    return km_bytes_of_string(names[map]);
}

static void create_map(struct world *world, unsigned map)
{
    CHECK_STATUS(km_map_create(world->store, name_of(map), kinds[map], &world->maps[map]), KM_OK);
    world->now.exists[map] = 1;
    world->now.born[map] = ++world->number;
}

static void open_world(struct world *world, uint64_t stream, int is_in_memory)
{
    char path[HARNESS_PATH_SIZE];

    memset(world, 0, sizeof(*world));
    world->random = harness_stream(stream);
    if (is_in_memory) {
        CHECK_STATUS(km_open_memory(NULL, &world->store, NULL), KM_OK);
    } else {
        harness_make_fast_folder(world->folder);
        harness_path(path, world->folder, "store");
        world->store = harness_open(path, NULL);
    }
    for (unsigned map = 0; map < MAP_COUNT - 1; map++)
        create_map(world, map);
}

static void close_world(struct world *world)
{
    harness_close(world->store);
    if (world->folder[0])
        harness_remove(world->folder);
}

static void put(struct world *world, unsigned map, uint64_t key)
{
    uint8_t value[1000];
    size_t size = 8 + harness_below(&world->random, sizeof(value) - 8);

    memset(value, 7, size);
    km__store64(value, ++world->number);
    CHECK_STATUS(km_put_u64(world->maps[map], key, km_bytes_of(value, size), NULL), KM_OK);
    world->now.value[map][key] = world->number;
    world->now.change_count[map][key]++;
}

static void del(struct world *world, unsigned map, uint64_t key)
{
    km_status expected = world->now.value[map][key] ? KM_OK : KM_NOT_FOUND;

    CHECK_STATUS(km_del_u64(world->maps[map], key, NULL), expected);
    world->now.value[map][key] = 0;
}

static void forget_keys(struct world *world, unsigned map, uint64_t from, uint64_t to)
{
    for (uint64_t key = from; key < to; key++)
        world->now.value[map][key] = 0;
}

static void del_range(struct world *world, unsigned map)
{
    uint64_t from = harness_below(&world->random, KEY_COUNT);
    uint64_t to = from + harness_below(&world->random, KEY_COUNT - from + 1);
    km_u64_key from_key = km_u64_key_from(from), to_key = km_u64_key_from(to);
    km_range range = {{from_key.bytes, 8}, {to_key.bytes, 8}, {NULL, 0}};

    if (to == KEY_COUNT)
        range.to = km_bytes_of(NULL, 0);
    CHECK_STATUS(km_del_range(world->maps[map], &range, NULL, NULL), KM_OK);
    forget_keys(world, map, from, to);
}

static void change_map(struct world *world, unsigned map)
{
    if (!world->now.exists[map]) {
        create_map(world, map);
    } else if (map == MAP_COUNT - 1 && harness_below(&world->random, 2)) {
        CHECK_STATUS(km_map_drop(world->maps[map]), KM_OK);
        world->now.exists[map] = 0;
        forget_keys(world, map, 0, KEY_COUNT);
    } else if (kinds[map] == KM_SORTED && harness_below(&world->random, 3)) {
        del_range(world, map);
    } else if (harness_below(&world->random, 3) == 0) {
        CHECK_STATUS(km_map_clear(world->maps[map]), KM_OK);
        forget_keys(world, map, 0, KEY_COUNT);
    }
}

static void change_some(struct world *world, uint64_t count)
{
    while (count-- > 0) {
        unsigned map = (unsigned)harness_below(&world->random, MAP_COUNT);
        uint64_t key = harness_below(&world->random, KEY_COUNT);

        if (!world->now.exists[map] || harness_below(&world->random, 60) == 0)
            change_map(world, map);
        else if (harness_below(&world->random, 3))
            put(world, map, key);
        else
            del(world, map, key);
    }
}

/* ---- what is told ------------------------------------------------------------------------ */

struct told {
    const struct shadow *older, *newer;
    struct shadow made; /* from the older one, change by change */
    uint8_t keys[MAP_COUNT][KEY_COUNT], maps[MAP_COUNT][2];
    uint64_t count, stop_at;
    unsigned only; /* MAP_COUNT: all */
};

static unsigned number_of(km_bytes name)
{
    for (unsigned map = 0; map < MAP_COUNT; map++) {
        if (name.size == name_of(map).size && memcmp(name.data, name_of(map).data, name.size) == 0)
            return map;
    }
    CHECK_MSG(0, "a map that nobody created");
    return 0;
}

static void take_map(struct told *told, const km_change *change, unsigned map)
{
    int is_created = change->kind == KM_CHANGE_MAP_CREATED;

    CHECK(change->kind == KM_CHANGE_MAP_DROPPED || is_created);
    CHECK(told->maps[map][is_created]++ == 0);
    CHECK(told->made.exists[map] == !is_created);
    for (unsigned key = 0; key < KEY_COUNT; key++) {
        CHECK(!told->keys[map][key]); /* before its keys, and instead of them */
        told->made.value[map][key] = 0;
    }
    told->made.exists[map] = is_created;
}

static void take_key(struct told *told, const km_change *change, unsigned map)
{
    uint64_t key = km_u64_key_to(change->key.data), *value = &told->made.value[map][key];

    CHECK(change->key.size == 8 && key < KEY_COUNT);
    CHECK_MSG(!told->keys[map][key]++, "key %llu of map %u is told twice", (unsigned long long)key,
              map);
    if (change->kind == KM_CHANGE_PUT) {
        CHECK(change->value.size >= 8);
        *value = km__load64(change->value.data);
        CHECK(told->older->change_count[map][key] != told->newer->change_count[map][key]);
    } else {
        CHECK(change->kind == KM_CHANGE_DELETE && *value != 0);
        *value = 0;
    }
}

static int take_change(void *context, const km_change *change)
{
    struct told *told = context;
    unsigned map = number_of(change->map);

    CHECK(told->only == MAP_COUNT || told->only == map);
    CHECK(change->position > 0);
    if (told->count == told->stop_at)
        return 1;
    told->count++;
    if (change->kind == KM_CHANGE_PUT || change->kind == KM_CHANGE_DELETE)
        take_key(told, change, map);
    else
        take_map(told, change, map);
    return 0;
}

static void check_changes(struct world *world, km_snapshot *older, km_snapshot *newer,
                          const struct shadow *before, const struct shadow *after)
{
    static struct told told;

    for (unsigned only = 0; only <= MAP_COUNT; only++) {
        km_map *map = only < MAP_COUNT ? world->maps[only] : NULL;

        if (only == MAP_COUNT - 1)
            continue; /* there may be several of the name */
        memset(&told, 0, sizeof(told));
        told.older = before;
        told.newer = after;
        told.made = *before;
        told.only = only;
        told.stop_at = UINT64_MAX;
        CHECK_STATUS(km_snapshot_changes(older, newer, map, take_change, &told), KM_OK);
        for (unsigned i = 0; i < MAP_COUNT; i++) { /* G1 */
            if (only != MAP_COUNT && only != i)
                continue;
            CHECK(told.made.exists[i] == after->exists[i]);
            for (unsigned key = 0; key < KEY_COUNT; key++)
                CHECK_MSG(told.made.value[i][key] == after->value[i][key],
                          "key %u of map %u is %llu, not %llu", key, i,
                          (unsigned long long)told.made.value[i][key],
                          (unsigned long long)after->value[i][key]);
        }
    }
}

/* ---- cases ------------------------------------------------------------------------------- */

static void differ_once(uint64_t stream, int is_in_memory)
{
    static struct shadow before, after;
    struct world world;
    km_snapshot *older = NULL, *newer = NULL;

    open_world(&world, stream, is_in_memory);
    change_some(&world, 300);
    before = world.now;
    CHECK_STATUS(km_snapshot_open(world.store, &older), KM_OK);
    check_changes(&world, older, NULL, &before, &before);
    change_some(&world, harness_below(&world.random, 2000));
    if (harness_below(&world.random, 2))
        CHECK_STATUS(km_compact(world.store, NULL, NULL, NULL), KM_OK);
    check_changes(&world, older, NULL, &before, &world.now);
    change_some(&world, harness_below(&world.random, 100));
    after = world.now;
    CHECK_STATUS(km_snapshot_open(world.store, &newer), KM_OK);
    check_changes(&world, older, newer, &before, &after);
    change_some(&world, 1000);
    if (harness_below(&world.random, 2))
        CHECK_STATUS(km_compact(world.store, NULL, NULL, NULL), KM_OK);
    check_changes(&world, older, newer, &before, &after); /* G3 */
    check_changes(&world, newer, NULL, &after, &world.now);
    km_snapshot_close(newer);
    check_changes(&world, older, NULL, &before, &world.now);
    km_snapshot_close(older);
    close_world(&world);
}

static void the_changes_make_the_later_contents(void **state)
{
    uint64_t count = harness_scaled(40);

    (void)state;
    for (uint64_t i = 0; i < count; i++)
        differ_once(i, i % 2 == 0);
}

static void a_walk_can_be_stopped(void **state)
{
    static struct told told;
    struct world world;
    struct shadow before;
    km_snapshot *older = NULL;

    (void)state;
    open_world(&world, 1000, 1);
    before = world.now;
    CHECK_STATUS(km_snapshot_open(world.store, &older), KM_OK);
    for (uint64_t key = 0; key < 20; key++)
        put(&world, 0, key);
    memset(&told, 0, sizeof(told));
    told.older = &before;
    told.newer = &world.now;
    told.made = before;
    told.only = MAP_COUNT;
    told.stop_at = 5;
    CHECK_STATUS(km_snapshot_changes(older, NULL, NULL, take_change, &told), KM_STOPPED);
    CHECK(told.count == 5);
    km_snapshot_close(older);
    close_world(&world);
}

static int ignore_change(void *context, const km_change *change)
{
    (void)context;
    (void)change;
    return 0;
}

static void wrong_arguments_are_refused(void **state)
{
    struct world world, other;
    km_snapshot *older = NULL, *newer = NULL, *strange = NULL;
    km_reader *reader = NULL;

    (void)state;
    open_world(&world, 2000, 1);
    open_world(&other, 2001, 1);
    CHECK_STATUS(km_snapshot_open(world.store, &older), KM_OK);
    put(&world, 0, 1);
    CHECK_STATUS(km_snapshot_open(world.store, &newer), KM_OK);
    CHECK_STATUS(km_snapshot_open(other.store, &strange), KM_OK);
    CHECK_STATUS(km_snapshot_changes(newer, older, NULL, ignore_change, NULL), KM_E_INVALID);
    CHECK_STATUS(km_snapshot_changes(older, strange, NULL, ignore_change, NULL), KM_E_INVALID);
    CHECK_STATUS(km_snapshot_changes(older, newer, other.maps[0], ignore_change, NULL),
                 KM_E_INVALID);
    CHECK_STATUS(km_read_begin(world.store, &reader), KM_OK);
    CHECK_STATUS(km_snapshot_changes(older, NULL, NULL, ignore_change, NULL), KM_WOULD_BLOCK);
    CHECK_STATUS(km_snapshot_changes(older, newer, NULL, ignore_change, NULL), KM_OK);
    km_read_end(reader);
    CHECK_STATUS(km_snapshot_changes(older, older, NULL, ignore_change, NULL), KM_OK);
    km_snapshot_close(older);
    km_snapshot_close(newer);
    km_snapshot_close(strange);
    close_world(&world);
    close_world(&other);
}

/* What the visitor may do, it may do: no lock is held, no section open. */
struct visitor {
    km_map *map;
    uint64_t count;
};

static int change_the_store(void *context, const km_change *change)
{
    struct visitor *visitor = context;

    CHECK_STATUS(km_put(visitor->map, change->key, km_bytes_of_string("seen"), NULL), KM_OK);
    return ++visitor->count > 100;
}

static void a_visitor_may_change_the_store(void **state)
{
    struct world world;
    struct visitor visitor = {NULL, 0};
    km_snapshot *older = NULL;

    (void)state;
    open_world(&world, 3000, 0);
    CHECK_STATUS(km_snapshot_open(world.store, &older), KM_OK);
    for (uint64_t key = 0; key < 20; key++)
        put(&world, 2, key);
    visitor.map = world.maps[2];
    CHECK_STATUS(km_snapshot_changes(older, NULL, NULL, change_the_store, &visitor), KM_OK);
    CHECK(visitor.count == 20);
    km_snapshot_close(older);
    close_world(&world);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_changes_make_the_later_contents),
        cmocka_unit_test(a_walk_can_be_stopped),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(a_visitor_may_change_the_store),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
