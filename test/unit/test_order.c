/* SPDX-License-Identifier: Apache-2.0
 *
 * test_order.c -- positions, both ends, the nearest key, and queues.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "harness/harness_util.h"
#include "sim/sim.h"
#include "store/store_internal.h"

#define KEY_COUNT 200u

/* A store without threads on the simulated machine, with a map of each kind. */
static struct {
    struct os *os;
    km_store *store;
    km_map *hash, *insertion, *sorted;
    struct harness_random random;
    km_buffer key, value;
} fixture;

static int open_fixture(void **state)
{
    (void)state;
    fixture.random = harness_stream(1);
    fixture.os = km__sim_create(harness_next(&fixture.random));
    CHECK_STATUS(km__store_open_with(fixture.os, "store", &(km_options)KM_OPTIONS_INIT, 0,
                                     &fixture.store, NULL),
                 KM_OK);
    CHECK_STATUS(km_map_create(fixture.store, km_bytes_of_string("h"), KM_HASH, &fixture.hash),
                 KM_OK);
    CHECK_STATUS(
        km_map_create(fixture.store, km_bytes_of_string("i"), KM_INSERTION, &fixture.insertion),
        KM_OK);
    CHECK_STATUS(km_map_create(fixture.store, km_bytes_of_string("s"), KM_SORTED, &fixture.sorted),
                 KM_OK);
    return 0;
}

static int close_fixture(void **state)
{
    (void)state;
    km_buffer_free(&fixture.key);
    km_buffer_free(&fixture.value);
    harness_close(fixture.store);
    CHECK(km__sim_allocated_bytes(fixture.os) == 0 && km__sim_open_count(fixture.os) == 0);
    km__sim_destroy(fixture.os);
    return 0;
}

static uint64_t below(uint64_t n)
{
    return harness_below(&fixture.random, n);
}

/* ---- one key after the other, beside a table --------------------------------------------- */

/* Keys in the order of the map; values tell their key and version. */
struct queue {
    km_map *map;
    uint64_t keys[KEY_COUNT];
    uint64_t versions[KEY_COUNT]; /* by key; 0: not there */
    size_t count;
    uint64_t last_version;
};

static void put_key(struct queue *queue, uint64_t key)
{
    uint8_t value[HARNESS_VALUE_MIN];
    size_t at = queue->count;

    harness_value_fill(value, sizeof(value), key, ++queue->last_version);
    CHECK_STATUS(km_put_u64(queue->map, key, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
    if (!queue->versions[key]) {
        for (; queue->map == fixture.sorted && at > 0 && queue->keys[at - 1] > key; at--)
            queue->keys[at] = queue->keys[at - 1];
        queue->keys[at] = key;
        queue->count++;
    }
    queue->versions[key] = queue->last_version;
}

static size_t place_of(const struct queue *queue, uint64_t key)
{
    size_t at = 0;

    while (at < queue->count && queue->keys[at] != key)
        at++;
    return at;
}

static void forget_key(struct queue *queue, uint64_t key)
{
    size_t at = place_of(queue, key);

    CHECK(at < queue->count);
    memmove(&queue->keys[at], &queue->keys[at + 1],
            (queue->count - at - 1) * sizeof(queue->keys[0]));
    queue->count--;
    queue->versions[key] = 0;
}

static void del_key(struct queue *queue, uint64_t key)
{
    CHECK_STATUS(km_del_u64(queue->map, key, NULL), queue->versions[key] ? KM_OK : KM_NOT_FOUND);
    if (queue->versions[key])
        forget_key(queue, key);
}

/* The buffers hold a key of the queue and its value; at > count: nothing was to be found. */
static void check_found(const struct queue *queue, km_status rc, size_t at)
{
    uint64_t key;

    CHECK_STATUS(rc, at < queue->count ? KM_OK : KM_NOT_FOUND);
    if (rc)
        return;
    key = queue->keys[at];
    CHECK(fixture.key.size == 8 && km_u64_key_to(fixture.key.data) == key);
    CHECK(harness_value_version(km_bytes_of(fixture.value.data, fixture.value.size), key) ==
          queue->versions[key]);
}

static void pop_key(struct queue *queue)
{
    int is_last = (int)below(2);
    size_t at = is_last ? queue->count - 1 : 0;
    km_write write = KM_WRITE_INIT;
    km_status rc = is_last ? km_pop_last(queue->map, &fixture.key, &fixture.value, &write)
                           : km_pop_first(queue->map, &fixture.key, &fixture.value, &write);

    check_found(queue, rc, at);
    if (rc)
        return;
    CHECK(write.existed && write.position);
    CHECK_STATUS(km_contains(queue->map, km_bytes_of(fixture.key.data, 8)), KM_NOT_FOUND);
    forget_key(queue, queue->keys[at]);
}

static void check_positions(const struct queue *queue)
{
    size_t at = below(KEY_COUNT);
    uint64_t key = below(KEY_COUNT), position = 0;
    km_u64_key bytes = km_u64_key_from(key);

    check_found(queue, km_get_index(queue->map, at, &fixture.key, &fixture.value), at);
    CHECK_STATUS(km_index_of(queue->map, km_bytes_of(bytes.bytes, 8), &position),
                 queue->versions[key] ? KM_OK : KM_NOT_FOUND);
    if (queue->versions[key])
        CHECK(position == place_of(queue, key));
}

static void check_nearest(const struct queue *queue)
{
    km_u64_key bytes = km_u64_key_from(below(KEY_COUNT + 2));
    uint64_t key = km_u64_key_to(bytes.bytes);
    size_t at = 0;

    while (at < queue->count && queue->keys[at] < key)
        at++;
    check_found(queue,
                km_ceiling(queue->map, km_bytes_of(bytes.bytes, 8), &fixture.key, &fixture.value),
                at);
    if (at == queue->count || queue->keys[at] > key)
        at--; /* SIZE_MAX: before the first */
    check_found(
        queue, km_floor(queue->map, km_bytes_of(bytes.bytes, 8), &fixture.key, &fixture.value), at);
}

static void check_queue(const struct queue *queue)
{
    check_found(queue, km_first(queue->map, &fixture.key, &fixture.value), 0);
    check_found(queue, km_last(queue->map, &fixture.key, &fixture.value), queue->count - 1);
    if (queue->map == fixture.insertion)
        check_positions(queue);
    else
        check_nearest(queue);
}

static void ends_positions_and_neighbours_agree_with_a_table(void **state)
{
    km_map *maps[2] = {fixture.insertion, fixture.sorted};
    static struct queue queue;

    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        memset(&queue, 0, sizeof(queue));
        queue.map = maps[i];
        for (uint32_t round = 0; round < 20000; round++) {
            /* it fills, then empties, in turns */
            uint64_t puts = round / 1000 % 2 ? 2 : 6, dice = below(10);

            if (dice < puts)
                put_key(&queue, below(KEY_COUNT));
            else if (dice < 8)
                del_key(&queue, below(KEY_COUNT));
            else
                pop_key(&queue);
            check_queue(&queue);
        }
    }
}

static void outputs_may_be_left_out(void **state)
{
    km_map *maps[2] = {fixture.insertion, fixture.sorted};
    km_bytes key = km_bytes_of_string("key");

    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        for (uint32_t j = 0; j < 2; j++) {
            CHECK_STATUS(km_put(maps[i], key, km_bytes_of_string("value"), NULL), KM_OK);
            CHECK_STATUS(km_first(maps[i], NULL, &fixture.value), KM_OK);
            CHECK_STATUS(km_last(maps[i], &fixture.key, NULL), KM_OK);
            CHECK_STATUS(j ? km_pop_first(maps[i], NULL, NULL, NULL)
                           : km_pop_last(maps[i], NULL, NULL, NULL),
                         KM_OK);
            CHECK_STATUS(km_pop_first(maps[i], NULL, NULL, NULL), KM_NOT_FOUND);
        }
    }
}

/* A buffer that an output goes to may hold the key that is looked for. */
static void a_search_may_go_on_from_its_own_output(void **state)
{
    uint64_t count = 0;
    km_bytes from = km_bytes_of("", 0);

    (void)state;
    for (uint64_t key = 0; key < KEY_COUNT; key++)
        CHECK_STATUS(km_put_u64(fixture.sorted, key, km_bytes_of_string("value"), NULL), KM_OK);
    while (km_ceiling(fixture.sorted, from, &fixture.key, NULL) == KM_OK) {
        CHECK(km_u64_key_to(fixture.key.data) == count++);
        CHECK_STATUS(km__buffer_reserve(&fixture.key, 9), KM_OK);
        ((uint8_t *)fixture.key.data)[8] = 0; /* just behind it */
        from = km_bytes_of(fixture.key.data, 9);
    }
    CHECK(count == KEY_COUNT);
}

static void expired_keys_count_as_positions_until_they_are_deleted(void **state)
{
    km_map *maps[2] = {fixture.insertion, fixture.sorted};
    uint64_t position;

    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        for (uint64_t key = 0; key < 100; key++) {
            km_write write = KM_WRITE_INIT;

            write.ttl_ms = key >= 40 && key < 45 ? 0 : 1000;
            CHECK_STATUS(km_put_u64(maps[i], key, km_bytes_of_string("v"), &write), KM_OK);
        }
    }
    km__sim_advance(fixture.os, UINT64_C(2000) * 1000000);
    CHECK_STATUS(km_get_index(fixture.insertion, 42, &fixture.key, NULL), KM_OK);
    CHECK(km_u64_key_to(fixture.key.data) == 42);
    CHECK_STATUS(km_get_index(fixture.insertion, 3, &fixture.key, NULL), KM_OK);
    CHECK(km_u64_key_to(fixture.key.data) == 40);
    CHECK_STATUS(km_get_index(fixture.insertion, 45, &fixture.key, NULL), KM_NOT_FOUND);
    CHECK_STATUS(
        km_index_of(fixture.insertion, km_bytes_of(km_u64_key_from(42).bytes, 8), &position),
        KM_OK);
    CHECK(position == 42);
    CHECK_STATUS(
        km_index_of(fixture.insertion, km_bytes_of(km_u64_key_from(2).bytes, 8), &position),
        KM_NOT_FOUND);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_STATUS(km_first(maps[i], &fixture.key, NULL), KM_OK);
        CHECK(km_u64_key_to(fixture.key.data) == 40);
        CHECK_STATUS(km_last(maps[i], &fixture.key, NULL), KM_OK);
        CHECK(km_u64_key_to(fixture.key.data) == 44);
        for (uint64_t key = 40; key < 45; key++) {
            CHECK_STATUS(km_pop_first(maps[i], &fixture.key, NULL, NULL), KM_OK);
            CHECK(km_u64_key_to(fixture.key.data) == key);
        }
        CHECK_STATUS(km_pop_first(maps[i], NULL, NULL, NULL), KM_NOT_FOUND);
        CHECK_STATUS(km_pop_last(maps[i], NULL, NULL, NULL), KM_NOT_FOUND);
        CHECK_STATUS(km_first(maps[i], NULL, NULL), KM_NOT_FOUND);
    }
    CHECK_STATUS(km_floor(fixture.sorted, km_bytes_of_string("z"), NULL, NULL), KM_NOT_FOUND);
}

/* ---- statuses ---------------------------------------------------------------------------- */

static void calls_that_a_kind_does_not_have_say_so(void **state)
{
    km_bytes key = km_bytes_of_string("key");
    uint64_t position = 7;

    (void)state;
    CHECK_STATUS(km_first(fixture.hash, NULL, NULL), KM_E_UNSUPPORTED);
    CHECK_STATUS(km_last(fixture.hash, NULL, NULL), KM_E_UNSUPPORTED);
    CHECK_STATUS(km_pop_first(fixture.hash, NULL, NULL, NULL), KM_E_UNSUPPORTED);
    CHECK_STATUS(km_pop_last(fixture.hash, NULL, NULL, NULL), KM_E_UNSUPPORTED);
    CHECK_STATUS(km_get_index(fixture.hash, 0, NULL, NULL), KM_E_UNSUPPORTED);
    CHECK_STATUS(km_get_index(fixture.sorted, 0, NULL, NULL), KM_E_UNSUPPORTED);
    CHECK_STATUS(km_index_of(fixture.hash, key, &position), KM_E_UNSUPPORTED);
    CHECK_STATUS(km_index_of(fixture.sorted, key, &position), KM_E_UNSUPPORTED);
    CHECK_STATUS(km_floor(fixture.insertion, key, NULL, NULL), KM_E_UNSUPPORTED);
    CHECK_STATUS(km_ceiling(fixture.hash, key, NULL, NULL), KM_E_UNSUPPORTED);
    CHECK(position == 7);
}

static void wrong_arguments_are_refused(void **state)
{
    km_bytes bad = {NULL, 1}, large = {"", KM_KEY_SIZE_MAX + 1};
    km_write write = KM_WRITE_INIT;
    uint64_t position;

    (void)state;
    CHECK_STATUS(km_put_u64(fixture.sorted, 1, km_bytes_of_string("v"), NULL), KM_OK);
    CHECK_STATUS(km_floor(fixture.sorted, bad, NULL, NULL), KM_E_INVALID);
    CHECK_STATUS(km_ceiling(fixture.sorted, large, NULL, NULL), KM_E_INVALID);
    CHECK_STATUS(km_index_of(fixture.insertion, bad, &position), KM_E_INVALID);
    write.previous = &fixture.value;
    CHECK_STATUS(km_pop_first(fixture.sorted, NULL, NULL, &write), KM_E_INVALID);
    write.previous = NULL;
    write.condition = KM_IF_PRESENT;
    CHECK_STATUS(km_pop_last(fixture.sorted, NULL, NULL, &write), KM_E_INVALID);
    write.condition = KM_IF_ANY;
    write.struct_size--;
    CHECK_STATUS(km_pop_last(fixture.sorted, NULL, NULL, &write), KM_E_INVALID);
    CHECK_STATUS(km_pop_first(fixture.sorted, &fixture.key, &fixture.key, NULL), KM_E_INVALID);
    CHECK(km_count(fixture.sorted) == 1);
}

static void a_pop_inside_a_section_does_not_wait(void **state)
{
    km_write write = KM_WRITE_INIT;
    km_reader *reader = NULL;

    (void)state;
    CHECK_STATUS(km_put_u64(fixture.sorted, 1, km_bytes_of_string("v"), NULL), KM_OK);
    CHECK_STATUS(km_put_u64(fixture.sorted, 2, km_bytes_of_string("v"), NULL), KM_OK);
    CHECK_STATUS(km_read_begin(fixture.store, &reader), KM_OK);
    write.durability = KM_DURABLE_POWER;
    CHECK_STATUS(km_pop_first(fixture.sorted, NULL, NULL, &write), KM_WOULD_BLOCK);
    CHECK_STATUS(km_pop_first(fixture.sorted, NULL, NULL, NULL), KM_OK);
    km_read_end(reader);
    CHECK_STATUS(km_pop_first(fixture.sorted, &fixture.key, NULL, &write), KM_OK);
    CHECK(km_u64_key_to(fixture.key.data) == 2);
    CHECK(km_durable_position(fixture.store) > write.position);
}

static void check_all(km_map *map, km_status expected)
{
    km_bytes key = km_bytes_of_string("key");
    uint64_t position;

    CHECK_STATUS(km_first(map, NULL, NULL), expected);
    CHECK_STATUS(km_last(map, NULL, NULL), expected);
    CHECK_STATUS(km_pop_first(map, NULL, NULL, NULL), expected);
    CHECK_STATUS(km_pop_last(map, NULL, NULL, NULL), expected);
    if (map == fixture.insertion) {
        CHECK_STATUS(km_get_index(map, 0, NULL, NULL), expected);
        CHECK_STATUS(km_index_of(map, key, &position), expected);
    } else {
        CHECK_STATUS(km_floor(map, key, NULL, NULL), expected);
        CHECK_STATUS(km_ceiling(map, key, NULL, NULL), expected);
    }
}

static void an_empty_a_dropped_and_a_forked_map_answer_so(void **state)
{
    (void)state;
    check_all(fixture.insertion, KM_NOT_FOUND);
    check_all(fixture.sorted, KM_NOT_FOUND);
    km__sim_fork(fixture.os);
    check_all(fixture.insertion, KM_E_FORKED);
    check_all(fixture.sorted, KM_E_FORKED);
    *fixture.store->fork_word = 1;
    CHECK_STATUS(km_map_drop(fixture.insertion), KM_OK);
    CHECK_STATUS(km_map_drop(fixture.sorted), KM_OK);
    check_all(fixture.insertion, KM_E_DROPPED);
    check_all(fixture.sorted, KM_E_DROPPED);
}

/* ---- many at once ------------------------------------------------------------------------ */

#define PRODUCER_COUNT 2u
#define CONSUMER_COUNT 3u

struct market {
    km_map *map;
    uint64_t item_count; /* of each producer */
    _Atomic uint8_t *popped;
    _Atomic uint64_t popped_count;
    _Atomic uint32_t producers;
    _Atomic uint32_t consumers;
    _Atomic int is_over;
};

static void *produce(void *context)
{
    struct market *market = context;
    /* relaxed, here and below: numbers; the store orders what matters */
    uint64_t own = atomic_fetch_add_explicit(&market->producers, 1, memory_order_relaxed);
    uint8_t value[HARNESS_VALUE_MIN];

    for (uint64_t i = 0; i < market->item_count; i++) {
        uint64_t key = i * PRODUCER_COUNT + own;

        harness_value_fill(value, sizeof(value), key, 1);
        CHECK_STATUS(km_put_u64(market->map, key, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
        if (i % 3 == 0) { /* it may be gone by now: then it is there again, as version 2 */
            km_write write = KM_WRITE_INIT;
            km_status rc;

            harness_value_fill(value, sizeof(value), key, 2);
            write.condition = KM_IF_PRESENT;
            rc = km_put_u64(market->map, key, km_bytes_of(value, sizeof(value)), &write);
            CHECK(rc == KM_OK || rc == KM_NOT_FOUND);
        }
    }
    return NULL;
}

/* Each producer's items come in its order, to each consumer that takes from the front of a map in
 * insertion order. */
static void *consume(void *context)
{
    struct market *market = context;
    uint64_t own = atomic_fetch_add_explicit(&market->consumers, 1, memory_order_relaxed);
    uint64_t next[PRODUCER_COUNT] = {0}, total = market->item_count * PRODUCER_COUNT;
    km_buffer key = KM_BUFFER_INIT, value = KM_BUFFER_INIT;

    while (atomic_load_explicit(&market->popped_count, memory_order_relaxed) < total) {
        int is_last = own == CONSUMER_COUNT - 1;
        km_status rc = is_last ? km_pop_last(market->map, &key, &value, NULL)
                               : km_pop_first(market->map, &key, &value, NULL);
        uint64_t number;

        if (rc == KM_NOT_FOUND)
            continue;
        CHECK_STATUS(rc, KM_OK);
        number = km_u64_key_to(key.data);
        CHECK(harness_value_version(km_bytes_of(value.data, value.size), number) <= 2);
        CHECK(!atomic_fetch_add_explicit(&market->popped[number], 1, memory_order_relaxed));
        atomic_fetch_add_explicit(&market->popped_count, 1, memory_order_relaxed);
        CHECK(is_last || number >= next[number % PRODUCER_COUNT]);
        next[number % PRODUCER_COUNT] = number;
    }
    km_buffer_free(&key);
    km_buffer_free(&value);
    return NULL;
}

static void run_market(km_map *map)
{
    pthread_t threads[PRODUCER_COUNT + CONSUMER_COUNT];
    struct market market = {.map = map, .item_count = harness_scaled(10000)};

    market.popped = calloc(market.item_count * PRODUCER_COUNT, sizeof(*market.popped));
    CHECK(market.popped != NULL);
    for (uint32_t i = 0; i < PRODUCER_COUNT + CONSUMER_COUNT; i++)
        CHECK(pthread_create(&threads[i], NULL, i < PRODUCER_COUNT ? produce : consume, &market) ==
              0);
    for (uint32_t i = 0; i < PRODUCER_COUNT + CONSUMER_COUNT; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(km_count(map) == 0);
    free(market.popped);
}

static void *take_share(void *context)
{
    struct market *market = context;

    for (uint64_t i = 0; i < market->item_count; i++)
        CHECK_STATUS(km_pop_first(market->map, NULL, NULL, NULL), KM_OK);
    return NULL;
}

/* Who loses a key to another finds one of those that are left. */
static void a_pop_finds_a_key_as_long_as_there_is_one(void **state)
{
    struct market market = {.item_count = harness_scaled(10000)};
    pthread_t threads[CONSUMER_COUNT];
    km_store *store = NULL;

    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &store, NULL), KM_OK);
    CHECK_STATUS(km_map_create(store, km_bytes_of_string("m"), KM_INSERTION, &market.map), KM_OK);
    for (uint64_t key = 0; key < market.item_count * CONSUMER_COUNT; key++)
        CHECK_STATUS(km_put_u64(market.map, key, km_bytes_of_string("v"), NULL), KM_OK);
    for (uint32_t i = 0; i < CONSUMER_COUNT; i++)
        CHECK(pthread_create(&threads[i], NULL, take_share, &market) == 0);
    for (uint32_t i = 0; i < CONSUMER_COUNT; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(km_count(market.map) == 0);
    harness_close(store);
}

static void each_key_is_popped_by_one(void **state)
{
    km_store *store = NULL;
    km_map *map = NULL;

    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &store, NULL), KM_OK);
    CHECK_STATUS(km_map_create(store, km_bytes_of_string("i"), KM_INSERTION, &map), KM_OK);
    run_market(map);
    CHECK_STATUS(km_map_create(store, km_bytes_of_string("s"), KM_SORTED, &map), KM_OK);
    run_market(map);
    harness_close(store);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_fixture, close_fixture)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(ends_positions_and_neighbours_agree_with_a_table),
        CASE(outputs_may_be_left_out),
        CASE(a_search_may_go_on_from_its_own_output),
        CASE(expired_keys_count_as_positions_until_they_are_deleted),
        CASE(calls_that_a_kind_does_not_have_say_so),
        CASE(wrong_arguments_are_refused),
        CASE(a_pop_inside_a_section_does_not_wait),
        CASE(an_empty_a_dropped_and_a_forked_map_answer_so),
        cmocka_unit_test(a_pop_finds_a_key_as_long_as_there_is_one),
        cmocka_unit_test(each_key_is_popped_by_one),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
