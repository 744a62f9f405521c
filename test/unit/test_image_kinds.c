/* SPDX-License-Identifier: Apache-2.0
 *
 * test_image_kinds.c -- index images of maps of every kind: what an image tells, and the log after
 * it, is what the whole log tells; whatever is wrong with an image; and beside writers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/image.h"
#include "harness/harness_check.h"
#include "harness/harness_util.h"
#include "sim/sim.h"
#include "store/store_internal.h"
#include "sync/thread.h"

#define KEY_COUNT 3000u
#define MAP_COUNT 4u
#define IMAGE_PATH "store/index.image"
#define STUCK_SECONDS 100 /* what hangs ends here, and is a failure */
#define LONG_TTL_MS UINT64_C(1000000000)

static const struct {
    const char *name;
    km_map_kind kind;
    int is_long; /* keys are, and begin alike */
} map_plans[MAP_COUNT] = {{"hash", KM_HASH, 0},
                          {"queue", KM_INSERTION, 0},
                          {"list", KM_SORTED, 0},
                          {"long list", KM_SORTED, 1}};

/* ---- keys and values --------------------------------------------------------------------- */

/* Number k of a map as a key; numbers and keys do not sort alike. */
static km_bytes make_key(char *buffer, uint32_t map, uint32_t k)
{
    uint32_t mixed = (k * 2654435761u) >> 8;
    int size;

    if (map_plans[map].is_long) {
        memset(buffer, 'a', 200);
        size = 200 + snprintf(buffer + 200, 64, "%s%u/%u", k % 3 ? "/common/" : "", mixed % 40, k);
    } else {
        size = snprintf(buffer, 64, "%x:%u", mixed, k);
    }
    return km_bytes_of(buffer, (size_t)size);
}

static uint32_t number_of_key(uint32_t map, km_bytes key)
{
    const char *p = key.data;
    size_t at = key.size;
    char text[16];

    while (at > 0 && p[at - 1] != ':' && p[at - 1] != '/')
        at--;
    CHECK(at > 0 && key.size - at < sizeof(text));
    memcpy(text, p + at, key.size - at);
    text[key.size - at] = 0;
    (void)map;
    return (uint32_t)strtoul(text, NULL, 10);
}

/* ---- what a store has -------------------------------------------------------------------- */

struct listed {
    uint32_t key, value;
};

/* The keys of a map in its order, with their values. */
struct listing {
    struct listed entries[KEY_COUNT];
    uint64_t count;
};

static void list_map(km_map *map, uint32_t index, struct listing *out)
{
    km_cursor *cursor = NULL;
    km_bytes key, value;
    km_status rc;

    out->count = 0;
    CHECK_STATUS(km_cursor_open(map, NULL, &cursor), KM_OK);
    while ((rc = km_cursor_next(cursor, &key, &value)) == KM_OK) { /* ends with the keys */
        struct listed *entry = &out->entries[out->count++];

        CHECK(out->count <= KEY_COUNT && value.size >= 4);
        entry->key = number_of_key(index, key);
        memcpy(&entry->value, value.data, 4);
    }
    CHECK_STATUS(rc, KM_END);
    km_cursor_close(cursor);
    CHECK(km_count(map) == out->count);
}

static int compare_listed(const void *a, const void *b)
{
    const struct listed *x = a, *y = b;

    return (x->key > y->key) - (x->key < y->key);
}

static void check_same(struct listing *a, struct listing *b, uint32_t map)
{
    CHECK_MSG(a->count == b->count, "%s: %llu keys, and %llu", map_plans[map].name,
              (unsigned long long)a->count, (unsigned long long)b->count);
    if (map_plans[map].kind == KM_HASH) { /* no order is promised */
        qsort(a->entries, a->count, sizeof(a->entries[0]), compare_listed);
        qsort(b->entries, b->count, sizeof(b->entries[0]), compare_listed);
    }
    for (uint64_t i = 0; i < a->count; i++)
        CHECK_MSG(a->entries[i].key == b->entries[i].key &&
                      a->entries[i].value == b->entries[i].value,
                  "%s: number %llu is key %u with %u, and key %u with %u", map_plans[map].name,
                  (unsigned long long)i, a->entries[i].key, a->entries[i].value, b->entries[i].key,
                  b->entries[i].value);
}

/* ---- a store on the simulated machine, with no thread ------------------------------------ */

struct scene {
    struct os *os;
    km_options options;
    km_store *store;
    km_map *maps[MAP_COUNT];
    struct listing *expected; /* MAP_COUNT of them */
    struct harness_random random;
    uint32_t key_count;
    uint32_t last_value;
    int warnings;
};

static void count_warning(void *context, km_log_level level, const char *message)
{
    struct scene *scene = context;

    (void)message;
    scene->warnings += level == KM_LOG_WARNING;
}

static void open_scene(struct scene *scene)
{
    km_error error = {0};
    km_status rc;

    scene->warnings = 0;
    scene->options.log = count_warning;
    scene->options.log_context = scene;
    rc = km__store_open_with(scene->os, "store", &scene->options, 0, &scene->store, &error);
    CHECK_MSG(rc == KM_OK, "open: %s: %s", km_status_name(rc), error.message);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        CHECK_STATUS(km_map_open_or_create(scene->store, km_bytes_of_string(map_plans[i].name),
                                           map_plans[i].kind, &scene->maps[i]),
                     KM_OK);
}

static struct scene *new_scene(uint64_t stream, uint32_t key_count)
{
    struct scene *scene = calloc(1, sizeof(*scene));

    CHECK(scene && key_count <= KEY_COUNT);
    scene->random = harness_stream(stream);
    scene->options = (km_options)KM_OPTIONS_INIT;
    scene->options.log_size_min = UINT64_C(1) << 30; /* compaction by the tests alone */
    scene->key_count = key_count;
    scene->expected = calloc(MAP_COUNT, sizeof(struct listing));
    scene->os = km__sim_create(harness_next(&scene->random));
    CHECK(scene->expected && scene->os);
    open_scene(scene);
    return scene;
}

static void close_scene(struct scene *scene)
{
    CHECK_STATUS(km_close(scene->store, NULL), KM_OK);
    scene->store = NULL;
}

/* As a kill leaves it, not open. It shares what is expected. */
static struct scene *clone_scene(const struct scene *scene)
{
    struct scene *clone = calloc(1, sizeof(*clone));

    CHECK(clone);
    *clone = *scene;
    clone->os = km__sim_clone_after_kill(scene->os);
    clone->store = NULL;
    return clone;
}

static void destroy_clone(struct scene *clone)
{
    if (clone->store)
        close_scene(clone);
    km__sim_destroy(clone->os);
    free(clone);
}

static void destroy_scene(struct scene *scene)
{
    free(scene->expected);
    destroy_clone(scene);
}

static void delete_some_range(struct scene *scene, uint32_t map)
{
    char from[300], to[300];
    km_range range = {{NULL, 0}, {NULL, 0}, {NULL, 0}};

    range.from = make_key(from, map, (uint32_t)harness_below(&scene->random, scene->key_count));
    range.to = make_key(to, map, (uint32_t)harness_below(&scene->random, scene->key_count));
    if (harness_below(&scene->random, 20))
        range.from.size = range.to.size; /* else open, and most of the map */
    CHECK_STATUS(km_del_range(scene->maps[map], &range, NULL, NULL), KM_OK);
}

/* One change of a map, whatever it comes to. */
static void change_some(struct scene *scene, uint32_t map)
{
    uint32_t k = (uint32_t)harness_below(&scene->random, scene->key_count);
    uint32_t what = (uint32_t)harness_below(&scene->random, 1000);
    km_write write = KM_WRITE_INIT;
    uint32_t value[2] = {++scene->last_value, 0};
    char buffer[300];
    km_bytes key = make_key(buffer, map, k);
    km_status rc;

    if (what < 2 && map_plans[map].kind == KM_SORTED) {
        delete_some_range(scene, map);
    } else if (what == 2) {
        CHECK_STATUS(km_map_clear(scene->maps[map]), KM_OK);
    } else if (what < 400) {
        rc = km_del(scene->maps[map], key, NULL);
        CHECK(rc == KM_OK || rc == KM_NOT_FOUND);
    } else {
        write.ttl_ms = what % 10 ? 0 : LONG_TTL_MS;
        CHECK_STATUS(km_put(scene->maps[map], key, km_bytes_of(value, 4 + what % 5), &write),
                     KM_OK);
    }
}

static void change_much(struct scene *scene, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        change_some(scene, (uint32_t)harness_below(&scene->random, MAP_COUNT));
}

static void write_image(struct scene *scene)
{
    km__mutex_lock(&scene->store->keeper.lock);
    CHECK_STATUS(km__image_write(scene->store), KM_OK);
    km__mutex_unlock(&scene->store->keeper.lock);
}

static void note_expected(struct scene *scene)
{
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        list_map(scene->maps[i], i, &scene->expected[i]);
}

static void check_holds(struct scene *scene)
{
    struct listing *found = malloc(sizeof(*found));

    CHECK(found);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        list_map(scene->maps[i], i, found);
        check_same(&scene->expected[i], found, i);
    }
    free(found);
}

static void check_positions(struct scene *scene)
{
    const struct listing *queue = &scene->expected[1];
    km_buffer key = KM_BUFFER_INIT;
    char buffer[300];
    uint64_t position;

    for (uint64_t i = 0; i < queue->count; i += 1 + queue->count / 50) {
        CHECK_STATUS(km_get_index(scene->maps[1], i, &key, NULL), KM_OK);
        CHECK(number_of_key(1, km_bytes_of(key.data, key.size)) == queue->entries[i].key);
        CHECK_STATUS(
            km_index_of(scene->maps[1], make_key(buffer, 1, queue->entries[i].key), &position),
            KM_OK);
        CHECK(position == i);
    }
    CHECK_STATUS(km_get_index(scene->maps[1], queue->count, &key, NULL), KM_NOT_FOUND);
    km_buffer_free(&key);
}

static int is_image_used(const struct scene *scene)
{
    return atomic_load(&scene->store->image.bytes) != 0;
}

static uint64_t recovered(const struct scene *scene)
{
    km_stats stats = {.struct_size = sizeof(stats)};

    CHECK_STATUS(km_store_stats(scene->store, &stats), KM_OK);
    return stats.recovered_records;
}

/* Open as a kill left it, with the image and without: both hold what is expected, and take further
 * changes alike. */
static void compare_opens(struct scene *scene, uint64_t records_max)
{
    struct scene *with = clone_scene(scene), *without = clone_scene(scene);

    note_expected(scene);
    km__sim_delete_path(without->os, IMAGE_PATH);
    open_scene(with);
    open_scene(without);
    CHECK(is_image_used(with) && !is_image_used(without) && !with->warnings);
    CHECK_MSG(recovered(with) <= records_max, "%llu records", (unsigned long long)recovered(with));
    CHECK(km__live_bytes(with->store) == km__live_bytes(without->store));
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        CHECK(atomic_load(&with->maps[i]->has_expiry) >=
              atomic_load(&without->maps[i]->has_expiry));
    check_holds(with);
    check_holds(without);
    check_positions(with);
    CHECK(harness_check_store(with->store) == 0 && harness_check_store(without->store) == 0);
    without->random = with->random;
    change_much(with, 300);
    change_much(without, 300);
    note_expected(without);
    check_holds(with);
    destroy_clone(with);
    destroy_clone(without);
}

/* ---- what is written is what the log tells ------------------------------------------------ */

static void an_image_brings_back_every_kind(void **state)
{
    struct scene *scene = new_scene(1, KEY_COUNT);

    (void)state;
    change_much(scene, 20000);
    write_image(scene);
    compare_opens(scene, 10);
    destroy_scene(scene);
}

static void what_came_after_the_image_is_replayed(void **state)
{
    uint64_t rounds = harness_scaled(25);

    (void)state;
    for (uint64_t round = 0; round < rounds; round++) {
        struct scene *scene = new_scene(100 + round, 20 + (uint32_t)(round * 31 % 400));

        change_much(scene, (uint32_t)harness_below(&scene->random, 2000));
        write_image(scene);
        change_much(scene, (uint32_t)harness_below(&scene->random, 2000));
        compare_opens(scene, UINT64_MAX);
        write_image(scene);
        compare_opens(scene, 10);
        destroy_scene(scene);
    }
}

/* Images of stores that were opened with images, with compaction in between. */
static void images_follow_one_another(void **state)
{
    struct scene *scene = new_scene(2, 500);

    (void)state;
    for (int round = 0; round < 12; round++) {
        change_much(scene, 1500);
        if (round % 3 == 2)
            CHECK_STATUS(km_compact(scene->store, NULL, NULL, NULL), KM_OK);
        write_image(scene);
        change_much(scene, round % 2 ? 0 : 200);
        compare_opens(scene, UINT64_MAX);
        note_expected(scene);
        close_scene(scene);
        open_scene(scene);
        CHECK(is_image_used(scene));
        check_holds(scene);
    }
    destroy_scene(scene);
}

static void empty_maps_come_back(void **state)
{
    struct scene *scene = new_scene(3, 100);

    (void)state;
    write_image(scene);
    compare_opens(scene, 10);
    change_much(scene, 500);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        CHECK_STATUS(km_map_clear(scene->maps[i]), KM_OK);
    write_image(scene);
    compare_opens(scene, 10);
    destroy_scene(scene);
}

/* Ordinals of keys that are gone are not given again, though no record tells of them. */
static void ordinals_go_on(void **state)
{
    struct scene *scene = new_scene(4, 100), *clone;
    uint64_t next;
    char buffer[300];

    (void)state;
    for (uint32_t k = 0; k < 100; k++)
        CHECK_STATUS(km_put(scene->maps[1], make_key(buffer, 1, k), km_bytes_of("1234", 4), NULL),
                     KM_OK);
    for (uint32_t k = 50; k < 100; k++)
        CHECK_STATUS(km_del(scene->maps[1], make_key(buffer, 1, k), NULL), KM_OK);
    next = km__order_next(scene->maps[1]->order);
    CHECK(next >= 100);
    write_image(scene);
    clone = clone_scene(scene);
    open_scene(clone);
    CHECK(is_image_used(clone));
    CHECK(km__order_next(clone->maps[1]->order) == next);
    CHECK(km__order_count(clone->maps[1]->order) == 50);
    destroy_clone(clone);
    destroy_scene(scene);
}

static void read_image(struct scene *scene, uint8_t **out_bytes, size_t *out_size,
                       struct image_header *out_header)
{
    CHECK(km__sim_read_path(scene->os, IMAGE_PATH, out_bytes, out_size) == 0);
    CHECK_STATUS(km__image_header_decode(*out_bytes, out_header), KM_OK);
}

/* Sparse ordinals, of which many chunks are made. */
static void gaps_in_an_order_come_back(void **state)
{
    struct scene *scene = new_scene(5, KEY_COUNT);
    struct image_header header;
    uint8_t *bytes = NULL;
    char buffer[300];
    size_t size;

    (void)state;
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t k = 0; k < KEY_COUNT; k++)
            CHECK_STATUS(
                km_put(scene->maps[1], make_key(buffer, 1, k), km_bytes_of("1234", 4), NULL),
                KM_OK);
        for (uint32_t k = 0; k < KEY_COUNT; k++) {
            if (k % 40 > harness_below(&scene->random, 3) * 10)
                CHECK_STATUS(km_del(scene->maps[1], make_key(buffer, 1, k), NULL), KM_OK);
        }
        write_image(scene);
        compare_opens(scene, 10);
        read_image(scene, &bytes, &size, &header);
        CHECK(header.order_chunk_count > KEY_COUNT / 40 - 10); /* gaps of 20 are worth one each */
        free(bytes);
    }
    destroy_scene(scene);
}

/* ---- what is wrong with an image does no harm --------------------------------------------- */

/* Open a clone whose image is not as it was: it holds what it should. */
static int open_changed(const struct scene *scene, const uint8_t *bytes, size_t size)
{
    struct scene *clone = clone_scene(scene);
    int is_used;

    km__sim_delete_path(clone->os, IMAGE_PATH);
    CHECK(km__sim_write_path(clone->os, IMAGE_PATH, bytes, size) == 0);
    open_scene(clone);
    is_used = is_image_used(clone);
    CHECK(is_used || clone->warnings);
    check_holds(clone); /* loads all nodes */
    destroy_clone(clone);
    return is_used;
}

/* A small store with an image, and some records behind it. */
static struct scene *scene_with_image(uint64_t stream, uint8_t **out_bytes, size_t *out_size,
                                      struct image_header *out_header)
{
    struct scene *scene = new_scene(stream, 6);
    char buffer[300];

    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        for (uint32_t k = 0; k < 5; k++)
            CHECK_STATUS(
                km_put(scene->maps[i], make_key(buffer, i, k), km_bytes_of("1234", 4), NULL),
                KM_OK);
    }
    write_image(scene);
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        CHECK_STATUS(km_del(scene->maps[i], make_key(buffer, i, 3), NULL), KM_OK);
    note_expected(scene);
    read_image(scene, out_bytes, out_size, out_header);
    CHECK(out_header->order_chunk_count == 1 && out_header->leaf_chunk_count == 2);
    return scene;
}

/* Where the data of the order chunk begin. */
static uint64_t order_data(const struct image_header *header, const uint8_t *bytes)
{
    uint64_t at = IMAGE_HEADER_SIZE;
    struct image_table parts;

    CHECK_STATUS(km__image_table_locate(header, &parts), KM_OK);
    for (uint64_t i = 0; i < header->node_count; i++) {
        struct image_node node;

        CHECK_STATUS(km__image_node_decode(bytes + header->table_offset + parts.nodes_offset +
                                               i * IMAGE_NODE_SIZE,
                                           &node),
                     KM_OK);
        at += km__image_lines_size(&node);
    }
    return at;
}

static uint64_t end_of_data(const struct image_header *header, const uint8_t *bytes)
{
    uint64_t end = order_data(header, bytes);
    struct image_table parts;
    const uint8_t *table = bytes + header->table_offset;

    CHECK_STATUS(km__image_table_locate(header, &parts), KM_OK);
    for (uint64_t i = 0; i < header->order_chunk_count; i++)
        end += (uint64_t)km__load32(table + parts.orders_offset + i * IMAGE_CHUNK_SIZE + 8) * 8;
    for (uint64_t i = 0; i < header->leaf_chunk_count; i++)
        end += km__load32(table + parts.leaves_offset + i * IMAGE_CHUNK_SIZE);
    return end;
}

/* Whatever a byte of the header, of a chunk or of the table is, the image is not used then; where
 * it is one of a node's lines, that is found when the node is touched. */
static void every_byte_of_an_image_may_be_wrong(void **state)
{
    struct image_header header;
    uint8_t *bytes = NULL;
    size_t size, step = harness_scaled(100) < 100 ? 7 : 1;
    struct scene *scene = scene_with_image(6, &bytes, &size, &header);
    uint64_t lines_end = order_data(&header, bytes), data_end = end_of_data(&header, bytes);

    (void)state;
    CHECK(open_changed(scene, bytes, size));
    for (size_t at = 0; at<size; at += at> 200 && at < 3900 ? 97 : step) {
        uint8_t flip = (uint8_t)(1 << harness_below(&scene->random, 8));

        if (at >= data_end && at < header.table_offset)
            at = (size_t)header.table_offset; /* zeros between are nobody's */
        bytes[at] ^= flip;
        if (open_changed(scene, bytes, size))
            CHECK_MSG(at >= IMAGE_HEADER_SIZE && at < lines_end, "byte %zu", at);
        bytes[at] ^= flip;
    }
    free(bytes);
    destroy_scene(scene);
}

/* Sums that are right again over changed chunks. */
static void seal_image(uint8_t *bytes, struct image_header *header)
{
    uint8_t *table = bytes + header->table_offset;
    uint64_t number = header->node_count, at = IMAGE_HEADER_SIZE;
    struct image_table parts;

    CHECK_STATUS(km__image_table_locate(header, &parts), KM_OK);
    for (uint64_t i = 0; i < header->node_count; i++) {
        struct image_node node;

        CHECK_STATUS(km__image_node_decode(table + parts.nodes_offset + i * IMAGE_NODE_SIZE, &node),
                     KM_OK);
        at += km__image_lines_size(&node);
    }
    for (uint64_t i = 0; i < header->order_chunk_count; i++, number++) {
        uint8_t *entry = table + parts.orders_offset + i * IMAGE_CHUNK_SIZE;
        uint64_t size = (uint64_t)km__load32(entry + 8) * 8;

        km__store32(entry + 12, km__image_chunk_sum(bytes + at, size, number));
        at += size;
    }
    for (uint64_t i = 0; i < header->leaf_chunk_count; i++, number++) {
        uint8_t *entry = table + parts.leaves_offset + i * IMAGE_CHUNK_SIZE;

        km__store32(entry + 8, km__image_chunk_sum(bytes + at, km__load32(entry), number));
        at += km__load32(entry);
    }
    header->table_checksum = km__crc32c(0, table, header->table_size);
    km__image_header_encode(header, bytes);
}

/* Under right checksums, what cannot be is refused all the same. */
static void references_must_lead_into_the_log(void **state)
{
    static const uint64_t wrong[] = {
        UINT64_C(1) << 43,              /* a placeholder */
        UINT64_C(9999) << 29 | 4096,    /* no such segment */
        UINT64_C(1) << 29 | 5,          /* in the header of segment 1 */
        UINT64_C(1) << 29 | 0x1fffffff, /* behind its end */
        UINT64_MAX,
    };
    struct image_header header;
    uint8_t *bytes = NULL;
    size_t size;
    struct scene *scene = scene_with_image(7, &bytes, &size, &header);
    uint64_t order = order_data(&header, bytes), leaves = order + 40;
    uint64_t places[3] = {order, order + 16, leaves + IMAGE_LEAF_HEADER_SIZE + 5 * 8};

    (void)state;
    seal_image(bytes, &header);
    CHECK(open_changed(scene, bytes, size));
    for (size_t place = 0; place < 3; place++) {
        uint64_t right = km__load64(bytes + places[place]);

        for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
            km__store64(bytes + places[place], wrong[i]);
            seal_image(bytes, &header);
            CHECK(!open_changed(scene, bytes, size));
        }
        km__store64(bytes + places[place], right);
        seal_image(bytes, &header);
        CHECK(open_changed(scene, bytes, size));
    }
    free(bytes);
    destroy_scene(scene);
}

static void leaves_must_follow_one_another(void **state)
{
    struct image_header header;
    uint8_t *bytes = NULL;
    size_t size;
    struct scene *scene = scene_with_image(8, &bytes, &size, &header);
    uint64_t leaf = order_data(&header, bytes) + 40;
    uint64_t head = leaf + IMAGE_LEAF_HEADER_SIZE + 8, right = km__load64(bytes + head);

    (void)state;
    CHECK(km__load16(bytes + leaf) == 5);
    km__store64(bytes + head, UINT64_MAX); /* above the next */
    seal_image(bytes, &header);
    CHECK(!open_changed(scene, bytes, size));
    km__store64(bytes + head, right);
    bytes[leaf + 2] = 1; /* a last leaf that skips */
    seal_image(bytes, &header);
    CHECK(!open_changed(scene, bytes, size));
    bytes[leaf + 2] = 0;
    seal_image(bytes, &header);
    CHECK(open_changed(scene, bytes, size));
    free(bytes);
    destroy_scene(scene);
}

static void an_image_that_finds_no_memory_is_not_used(void **state)
{
    struct scene *scene = new_scene(9, 200);

    (void)state;
    change_much(scene, 2000);
    write_image(scene);
    note_expected(scene);
    for (uint64_t nth = 1; nth < 4000; nth += 1 + nth / 16) {
        struct scene *clone = clone_scene(scene);
        km_error error = {0};
        km_status rc;

        km__sim_fail_allocation(clone->os, nth);
        clone->options.log = NULL;
        rc = km__store_open_with(clone->os, "store", &clone->options, 0, &clone->store, &error);
        km__sim_fail_allocation(clone->os, 0);
        CHECK(rc == KM_OK || rc == KM_E_NO_MEMORY);
        if (rc)
            clone->store = NULL;
        else
            CHECK_STATUS(km_close(clone->store, NULL), KM_OK);
        open_scene(clone);
        check_holds(clone);
        destroy_clone(clone);
    }
    destroy_scene(scene);
}

/* ---- beside writers ----------------------------------------------------------------------- */

#define WRITER_COUNT 2u
#define ROUND_IMAGES 4u

/* What the child leaves behind when it is killed. */
struct legacy {
    struct listing listings[MAP_COUNT];
    uint64_t changes;
};

struct live_writer {
    km_map **maps;
    _Atomic int *stopping;
    struct harness_random random;
    uint32_t number;
    _Atomic uint64_t changes;
    struct thread thread;
};

/* Keys of its own; mostly deleted and put again, which is what orders suffer from. */
static void run_live_writer(void *context)
{
    struct live_writer *writer = context;
    char buffer[300];

    while (!atomic_load(writer->stopping)) { /* ends with the round */
        uint32_t map = (uint32_t)harness_below(&writer->random, MAP_COUNT);
        uint32_t k = (uint32_t)harness_below(&writer->random, KEY_COUNT / WRITER_COUNT);
        km_bytes key = make_key(buffer, map, k * WRITER_COUNT + writer->number);
        uint32_t value = (uint32_t)atomic_fetch_add(&writer->changes, 1) + 1;

        if (harness_below(&writer->random, 2)) {
            km_status rc = km_del(writer->maps[map], key, NULL);

            CHECK(rc == KM_OK || rc == KM_NOT_FOUND);
        } else {
            CHECK_STATUS(km_put(writer->maps[map], key, km_bytes_of(&value, 4), NULL), KM_OK);
        }
    }
}

static void open_maps(km_store *store, km_map **maps)
{
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        CHECK_STATUS(km_map_open_or_create(store, km_bytes_of_string(map_plans[i].name),
                                           map_plans[i].kind, &maps[i]),
                     KM_OK);
}

/* Every other round with compaction, by which an image may become of no use. */
static int is_compacted(uint64_t round)
{
    return round % 2 != 0;
}

static km_store *open_live(const char *path, uint64_t round)
{
    km_options options = KM_OPTIONS_INIT;

    options.log_size_min = is_compacted(round) ? 1 : UINT64_C(1) << 30;
    return harness_open(path, &options);
}

/* The child: ends as if killed, with an image written while both threads went on. */
static void live_and_die(const char *path, uint64_t round, struct legacy *legacy)
{
    struct live_writer writers[WRITER_COUNT];
    km_store *store = open_live(path, round);
    km_map *maps[MAP_COUNT];
    _Atomic int stopping = 0;

    open_maps(store, maps);
    for (uint32_t i = 0; i < WRITER_COUNT; i++) {
        writers[i] = (struct live_writer){.maps = maps,
                                          .stopping = &stopping,
                                          .random = harness_stream(1000 + 10 * round + i),
                                          .number = i};
        CHECK_STATUS(km__thread_start(&writers[i].thread, "writer", run_live_writer, &writers[i]),
                     KM_OK);
    }
    for (uint64_t i = 0; i < ROUND_IMAGES; i++) {
        while (atomic_load(&writers[0].changes) < 1000 * i) /* ends: it goes on and on */
            sched_yield();
        km__mutex_lock(&store->keeper.lock);
        CHECK_STATUS(km__image_write(store), KM_OK);
        km__mutex_unlock(&store->keeper.lock);
    }
    atomic_store(&stopping, 1);
    for (uint32_t i = 0; i < WRITER_COUNT; i++) {
        km__thread_join(&writers[i].thread);
        legacy->changes += atomic_load(&writers[i].changes);
    }
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        list_map(maps[i], i, &legacy->listings[i]);
    _exit(0);
}

static void check_legacy(const char *path, uint64_t round, struct legacy *legacy)
{
    struct listing *found = malloc(sizeof(*found));
    km_options options = KM_OPTIONS_INIT;
    km_map *maps[MAP_COUNT];
    km_store *store = NULL;

    CHECK(found);
    CHECK_STATUS(km__store_open_with(km__os_linux(), path, &options, 0, &store, NULL), KM_OK);
    CHECK(is_compacted(round) || atomic_load(&store->image.bytes) != 0);
    open_maps(store, maps);
    for (uint32_t i = 0; i < MAP_COUNT; i++) {
        list_map(maps[i], i, found);
        check_same(&legacy->listings[i], found, i);
    }
    CHECK(km__order_count(maps[1]->order) == legacy->listings[1].count);
    CHECK(harness_check_store(store) == 0);
    free(found);
    harness_close(store);
}

static void an_image_may_be_written_beside_writers(void **state)
{
    struct legacy *legacy = mmap(NULL, sizeof(*legacy), PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t rounds = harness_scaled(30);
    char folder[HARNESS_PATH_SIZE], path[HARNESS_PATH_SIZE];

    (void)state;
    CHECK(legacy != MAP_FAILED);
    harness_make_fast_folder(folder);
    harness_path(path, folder, "store");
    for (uint64_t round = 0; round < rounds; round++) {
        int status = 0;
        pid_t child;

        fflush(stdout);
        child = fork();
        CHECK(child >= 0);
        if (child == 0)
            live_and_die(path, round, legacy);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        check_legacy(path, round, legacy);
        if (round % 5 == 4)
            harness_remove(path);
    }
    printf("%llu changes\n", (unsigned long long)legacy->changes);
    harness_remove(folder);
    CHECK(munmap(legacy, sizeof(*legacy)) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_image_brings_back_every_kind),
        cmocka_unit_test(what_came_after_the_image_is_replayed),
        cmocka_unit_test(images_follow_one_another),
        cmocka_unit_test(empty_maps_come_back),
        cmocka_unit_test(ordinals_go_on),
        cmocka_unit_test(gaps_in_an_order_come_back),
        cmocka_unit_test(every_byte_of_an_image_may_be_wrong),
        cmocka_unit_test(references_must_lead_into_the_log),
        cmocka_unit_test(leaves_must_follow_one_another),
        cmocka_unit_test(an_image_that_finds_no_memory_is_not_used),
        cmocka_unit_test(an_image_may_be_written_beside_writers),
    };

    harness_begin();
    alarm(STUCK_SECONDS);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
