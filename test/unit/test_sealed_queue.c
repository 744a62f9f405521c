/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed_queue.c -- asynchronous reads of sealed tables, by io_uring (where it is to be had)
 * and by threads, beside an obvious model: answers, bounds, the descriptor, functions, ends.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>

#include "test_sealed_queue_util.h"

static int is_readable(const km_sealed_queue *queue, int timeout_ms)
{
    struct pollfd watched = {.fd = km_sealed_queue_fd(queue), .events = POLLIN};

    CHECK(watched.fd >= 0);
    return poll(&watched, 1, timeout_ms) == 1;
}

/* ---- a disk whose reads wait until they are told, and are counted ------------------------ */

struct slow_disk {
    struct os os;
    struct os_ops ops;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int is_held;
    uint64_t begun;
    uint64_t ended;
    size_t in_ring; /* of one thread */
};

static struct slow_disk slow;

static km_status read_slowly(struct os_file *file, uint64_t offset, void *buffer, size_t size)
{
    km_status rc;

    pthread_mutex_lock(&slow.lock);
    slow.begun++;
    pthread_cond_broadcast(&slow.changed);
    while (slow.is_held)
        pthread_cond_wait(&slow.changed, &slow.lock);
    pthread_mutex_unlock(&slow.lock);
    rc = km__os_linux()->ops->read_at(file, offset, buffer, size);
    pthread_mutex_lock(&slow.lock);
    slow.ended++;
    pthread_mutex_unlock(&slow.lock);
    return rc;
}

static km_status read_never_cached(struct os_file *file, uint64_t offset, void *buffer, size_t size)
{
    (void)file;
    (void)offset;
    (void)buffer;
    (void)size;
    return KM_WOULD_BLOCK;
}

static void begin_counted(struct os_ring *ring, struct os_read *const *reads, size_t count)
{
    slow.in_ring += count;
    km__os_linux()->ops->begin_reads(ring, reads, count);
}

static size_t end_counted(struct os_ring *ring, struct os_read **out_reads, size_t room,
                          uint64_t wait_ns)
{
    size_t count = km__os_linux()->ops->end_reads(ring, out_reads, room, wait_ns);

    slow.in_ring -= count;
    return count;
}

static void close_empty(struct os_ring *ring)
{
    CHECK(slow.in_ring == 0); /* else the kernel would write to what is released */
    km__os_linux()->ops->close_ring(ring);
}

static void slow_set(int is_held)
{
    pthread_mutex_lock(&slow.lock);
    slow.is_held = is_held;
    pthread_cond_broadcast(&slow.changed);
    pthread_mutex_unlock(&slow.lock);
}

static uint64_t slow_begun(void)
{
    uint64_t begun;

    pthread_mutex_lock(&slow.lock);
    begun = slow.begun;
    pthread_mutex_unlock(&slow.lock);
    return begun;
}

static struct os *slow_machine(void)
{
    memset(&slow, 0, sizeof(slow));
    CHECK(pthread_mutex_init(&slow.lock, NULL) == 0);
    CHECK(pthread_cond_init(&slow.changed, NULL) == 0);
    slow.os = *km__os_linux();
    slow.ops = *slow.os.ops;
    slow.ops.read_at = read_slowly;
    slow.ops.read_cached = read_never_cached;
    slow.ops.begin_reads = begin_counted;
    slow.ops.end_reads = end_counted;
    slow.ops.close_ring = close_empty;
    slow.os.ops = &slow.ops;
    return &slow.os;
}

/* ---- random requests beside the model ---------------------------------------------------- */

#define BATCH_MAX 40
#define PENDING_MAX 30

struct expected {
    struct client *client;
    uint8_t keys[BATCH_MAX][1400];
    size_t key_sizes[BATCH_MAX];
    size_t count;
    int is_many;
    int is_pending;
    int has_function;
};

struct client {
    const struct sealed_look *look;
    const struct sealed_model *model;
    struct harness_random random;
    km_sealed_queue *queue;
    const km_sealed *table;
    struct expected expected[PENDING_MAX];
    size_t pending;
    uint64_t checked;
};

static void check_value(struct client *client, const struct expected *expected, size_t i,
                        km_bytes value, size_t *found)
{
    km_bytes key = km_bytes_of(expected->keys[i], expected->key_sizes[i]);
    size_t rank;

    if (!sealed_model_has(client->model, key, &rank)) {
        CHECK(value.data == NULL);
        return;
    }
    (*found)++;
    CHECK(value.data != NULL);
    CHECK(sealed_bytes_equal(value, client->model->records[rank].value,
                             client->model->records[rank].value_size));
}

static void check_result(const km_sealed_result *result)
{
    struct expected *expected = result->user;
    struct client *client = expected->client;
    size_t found = 0;

    CHECK(expected->is_pending);
    expected->is_pending = 0;
    client->pending--;
    client->checked++;
    CHECK(result->count == expected->count);
    if (expected->is_many) {
        CHECK_STATUS(result->status, KM_OK);
        for (size_t i = 0; i < expected->count; i++)
            check_value(client, expected, i, result->values[i], &found);
    } else {
        CHECK(result->status == KM_OK || result->status == KM_NOT_FOUND);
        check_value(client, expected, 0, result->value, &found);
        CHECK((result->status == KM_OK) == (found == 1));
    }
    CHECK(result->found == found);
}

static void check_by_function(void *user, const km_sealed_result *result)
{
    struct expected *expected = user;

    CHECK(result->user == user && expected->has_function);
    check_result(result);
}

static void submit_random(struct client *client)
{
    km_sealed_done_fn done = NULL;
    struct expected *expected = client->expected;
    km_bytes keys[BATCH_MAX];

    while (expected->is_pending)
        expected++;
    expected->client = client;
    expected->is_many = (int)harness_below(&client->random, 3) == 0;
    expected->has_function = (int)harness_below(&client->random, 2);
    expected->count = expected->is_many ? (size_t)harness_below(&client->random, BATCH_MAX + 1) : 1;
    done = expected->has_function ? check_by_function : NULL;
    for (size_t i = 0; i < expected->count; i++) {
        expected->key_sizes[i] = random_key(client->look, client->model, &client->random,
                                            expected->keys[i]);
        keys[i] = km_bytes_of(expected->keys[i], expected->key_sizes[i]);
    }
    if (expected->is_many) {
        CHECK_STATUS(km_sealed_submit_get_many(client->queue, client->table, keys, expected->count,
                                               done, expected),
                     KM_OK);
        memset(keys, 0xee, sizeof(keys)); /* they were borrowed for the call */
    } else {
        CHECK_STATUS(km_sealed_submit_get(client->queue, client->table, keys[0], done, expected),
                     KM_OK);
    }
    expected->is_pending = 1;
    client->pending++;
}

static void poll_random(struct client *client)
{
    km_sealed_result results[PENDING_MAX];
    size_t room = (size_t)harness_below(&client->random, PENDING_MAX);
    int timeout_ms = room > 0 && client->pending > 0 ? (int)harness_below(&client->random, 3) - 1
                                                     : 0;
    size_t before = client->pending;
    size_t count = 77;

    CHECK_STATUS(km_sealed_queue_poll(client->queue, results, room, timeout_ms, &count), KM_OK);
    CHECK(count <= room);
    for (size_t i = 0; i < count; i++) {
        CHECK(!((struct expected *)results[i].user)->has_function);
        check_result(&results[i]);
    }
    CHECK(timeout_ms >= 0 || client->pending < before);
    CHECK(km_sealed_queue_pending(client->queue) == client->pending);
}

static void run_client(struct client *client, uint64_t rounds)
{
    km_sealed_result results[PENDING_MAX];
    size_t count;

    for (uint64_t i = 0; i < rounds; i++) {
        if (client->pending < PENDING_MAX && harness_below(&client->random, 3) != 0)
            submit_random(client);
        else
            poll_random(client);
        if (harness_below(&client->random, 100) == 0)
            make_cold();
    }
    while (client->pending > 0) {
        CHECK_STATUS(km_sealed_queue_poll(client->queue, results, PENDING_MAX, -1, &count), KM_OK);
        for (size_t i = 0; i < count; i++)
            check_result(&results[i]);
    }
    CHECK(client->checked > rounds / 4);
}

static void answers_are_those_of_the_model(void **state)
{
    static const struct sealed_look huge = {
        .name = "huge", .keys = KM_SEALED_U32, .value_size_max = 3500000};
    struct client *client = malloc(sizeof(*client));

    (void)state;
    CHECK(client != NULL);
    for (size_t look = 0; look <= SEALED_LOOK_COUNT; look++) {
        struct sealed_model model = {0};
        const struct sealed_look *this_look = look < SEALED_LOOK_COUNT ? &sealed_looks[look]
                                                                       : &huge;
        build(this_look, look < SEALED_LOOK_COUNT ? harness_scaled(5000) : 8, &model);
        for (size_t i = 0; i < 3 * ENGINE_COUNT; i++) {
            km_sealed *table = open_table((int)i / ENGINE_COUNT);
            km_sealed_info info = {.struct_size = sizeof(info)};
            memset(client, 0, sizeof(*client));
            client->look = this_look;
            client->model = &model;
            client->random = harness_stream(look * 10 + i);
            client->table = table;
            client->queue = open_queue(engines[i % ENGINE_COUNT], PENDING_MAX,
                                       1 + (uint32_t)harness_below(&client->random, 20));
            if (client->queue)
                run_client(client, look < SEALED_LOOK_COUNT ? harness_scaled(1000) : 40);
            CHECK_STATUS(km_sealed_get_info(table, &info), KM_OK);
            if (client->queue && i / ENGINE_COUNT == 2 && look < SEALED_LOOK_COUNT)
                CHECK(info.cache_hits > 0);
            km_sealed_queue_close(client->queue);
            km_sealed_close(table);
        }
        sealed_model_free(&model);
    }
    free(client);
}

static void an_empty_table_and_an_empty_request_have_answers(void **state)
{
    (void)state;
    build(&sealed_looks[0], 0, NULL);
    for (size_t i = 0; i < ENGINE_COUNT; i++) {
        km_sealed_queue *queue = open_queue(engines[i], 0, 0);
        km_sealed *table = open_table(0);
        km_bytes keys[2] = {km_bytes_of("12345678", 8), km_bytes_of("23456789", 8)};
        km_sealed_result results[4];
        size_t count = 0;
        if (queue) {
            CHECK_STATUS(km_sealed_submit_get(queue, table, keys[0], NULL, NULL), KM_OK);
            CHECK_STATUS(km_sealed_submit_get_many(queue, table, keys, 2, NULL, NULL), KM_OK);
            CHECK_STATUS(km_sealed_submit_get_many(queue, table, keys, 0, NULL, NULL), KM_OK);
            CHECK_STATUS(km_sealed_queue_poll(queue, results, 4, 0, &count), KM_OK);
            CHECK(count == 3);
            CHECK_STATUS(results[0].status, KM_NOT_FOUND);
            CHECK(results[1].status == KM_OK && results[1].count == 2 && results[1].found == 0);
            CHECK(results[1].values[0].data == NULL && results[1].values[1].data == NULL);
            CHECK(results[2].status == KM_OK && results[2].count == 0 && results[2].found == 0);
        }
        km_sealed_queue_close(queue);
        km_sealed_close(table);
    }
}

static void numbers_are_found_and_bad_keys_refused(void **state)
{
    km_sealed_queue *queue = open_queue(KM_SEALED_ENGINE_AUTO, 0, 0);
    km_sealed_result result = {0};
    km_bytes bad = km_bytes_of("x", 1);
    km_sealed *table;
    size_t count = 0;

    (void)state;
    build(&sealed_looks[1], 1000, NULL); /* u32: numbers 0, 3, 6, ... */
    table = open_table(0);
    for (uint64_t number = 0; number < 6; number++) {
        CHECK_STATUS(km_sealed_submit_get_number(queue, table, number, NULL, &result), KM_OK);
        CHECK_STATUS(km_sealed_queue_poll(queue, &result, 1, -1, &count), KM_OK);
        CHECK(count == 1);
        CHECK_STATUS(result.status, number % 3 == 0 ? KM_OK : KM_NOT_FOUND);
    }
    CHECK_STATUS(km_sealed_submit_get_number(queue, table, UINT64_C(1) << 32, NULL, NULL), KM_OK);
    CHECK_STATUS(km_sealed_queue_poll(queue, &result, 1, 0, &count), KM_OK);
    CHECK(count == 1 && result.status == KM_NOT_FOUND);
    CHECK_STATUS(km_sealed_submit_get(queue, table, bad, NULL, NULL), KM_E_INVALID);
    CHECK_STATUS(km_sealed_submit_get_many(queue, table, &bad, 1, NULL, NULL), KM_E_INVALID);
    CHECK(km_sealed_queue_pending(queue) == 0 && !is_readable(queue, 0));
    km_sealed_close(table);
    build(&sealed_looks[4], 10, NULL); /* bytes */
    table = open_table(0);
    CHECK_STATUS(km_sealed_submit_get_number(queue, table, 1, NULL, NULL), KM_E_INVALID);
    km_sealed_close(table);
    km_sealed_queue_close(queue);
}

static void options_over_their_limits_are_refused(void **state)
{
    for (int i = 0; i < 4; i++) {
        km_sealed_queue_options options = KM_SEALED_QUEUE_OPTIONS_INIT;
        km_sealed_queue *queue = NULL;
        km_error error = {0};
        (void)state;
        options.requests_max = i == 0 ? KM_SEALED_REQUESTS_MAX + 1 : 0;
        options.reads_max = i == 1 ? KM_SEALED_READS_MAX + 1 : 0;
        options.threads = i == 2 ? KM_SEALED_THREADS_MAX + 1 : 0;
        options.engine = (km_sealed_engine)(i == 3 ? 3 : 0);
        CHECK_STATUS(km_sealed_queue_open(&options, &queue, &error), KM_E_INVALID);
        CHECK(error.status == KM_E_INVALID && queue == NULL);
    }
    km_sealed_queue_close(NULL);
}

/* ---- bounds, the descriptor, functions --------------------------------------------------- */

#define HELD_COUNT 5u

static void pending_requests_are_bounded(void **state)
{
    struct os *os = slow_machine();
    km_sealed_result results[HELD_COUNT];
    km_sealed_queue *queue;
    km_sealed *table;
    size_t count = 77, taken = 0;

    (void)state;
    build(&sealed_looks[1], 2000, NULL);
    table = open_on(os, path, 1);
    queue = open_queue_on(os, KM_SEALED_ENGINE_THREADS, HELD_COUNT, 2, 2);
    slow_set(1);
    for (uint64_t i = 0; i < HELD_COUNT; i++)
        CHECK_STATUS(km_sealed_submit_get_number(queue, table, i * 300, NULL, NULL), KM_OK);
    CHECK_STATUS(km_sealed_submit_get_number(queue, table, 0, NULL, NULL), KM_BUSY);
    CHECK_STATUS(km_sealed_submit_get_number(queue, table, 1, NULL, NULL), KM_BUSY);
    CHECK_STATUS(km_sealed_submit_get_many(queue, table, NULL, 0, NULL, NULL), KM_BUSY);
    CHECK(km_sealed_queue_pending(queue) == HELD_COUNT);
    CHECK(!is_readable(queue, 20));
    CHECK_STATUS(km_sealed_queue_poll(queue, results, 1, 0, &count), KM_OK);
    CHECK(count == 0);
    CHECK_STATUS(km_sealed_queue_poll(queue, results, 1, 20, &count), KM_OK); /* the time is over */
    CHECK(count == 0 && slow_begun() <= 2 + 4); /* 4: the opening of the table */
    slow_set(0);
    while (taken < HELD_COUNT) {
        CHECK(is_readable(queue, 10000));
        CHECK_STATUS(km_sealed_queue_poll(queue, results, 1, 0, &count), KM_OK);
        taken += count;
        CHECK(km_sealed_queue_pending(queue) == HELD_COUNT - taken);
        if (count == 1 && taken == 1) /* room for one again */
            CHECK_STATUS(km_sealed_submit_get_number(queue, table, 1, NULL, NULL), KM_OK);
        taken -= taken == 1 && count == 1;
        CHECK(results[0].status == KM_OK || results[0].status == KM_NOT_FOUND);
        if (taken == 0 && count == 1)
            break;
    }
    while (km_sealed_queue_pending(queue) > 0)
        CHECK_STATUS(km_sealed_queue_poll(queue, results, HELD_COUNT, -1, &count), KM_OK);
    km_sealed_queue_close(queue);
    km_sealed_close(table);
}

/* It may be readable once too often: a poll that does nothing ends that. */
static void check_quiet(km_sealed_queue *queue)
{
    for (int i = 0; i < 3 && is_readable(queue, 0); i++)
        CHECK_STATUS(km_sealed_queue_poll(queue, NULL, 0, 0, NULL), KM_OK);
    CHECK(!is_readable(queue, 5));
}

static void the_descriptor_tells_what_there_is(void **state)
{
    (void)state;
    build(&sealed_looks[1], 20000, NULL);
    for (size_t i = 0; i < 2 * ENGINE_COUNT; i++) {
        km_sealed_queue *queue = open_queue(engines[i % ENGINE_COUNT], 0, 4);
        km_sealed *table = open_table((int)i / ENGINE_COUNT);
        km_sealed_result results[2];
        size_t count = 0;
        if (!queue) {
            km_sealed_close(table);
            continue;
        }
        CHECK(!is_readable(queue, 0));
        for (int cold = 0; cold < 2; cold++) {
            if (cold)
                make_cold();
            CHECK_STATUS(km_sealed_submit_get_number(queue, table, 9, NULL, NULL), KM_OK);
            CHECK(is_readable(queue, 10000));
            CHECK(is_readable(queue, 0)); /* nobody has polled yet */
            CHECK_STATUS(km_sealed_queue_poll(queue, NULL, 0, 0, &count), KM_OK);
            CHECK(count == 0 && is_readable(queue, 0)); /* there was no room for it */
            CHECK_STATUS(km_sealed_queue_poll(queue, results, 2, 0, &count), KM_OK);
            CHECK(count == 1);
            check_quiet(queue);
        }
        CHECK_STATUS(km_sealed_submit_get_number(queue, table, 10, NULL, NULL), KM_OK); /* absent */
        CHECK_STATUS(km_sealed_submit_get_number(queue, table, 10, NULL, NULL), KM_OK);
        CHECK(is_readable(queue, 10000));
        CHECK_STATUS(km_sealed_queue_poll(queue, results, 1, -1, &count), KM_OK);
        CHECK(count == 1);
        CHECK(is_readable(queue, 10000)); /* one is left */
        drain(queue);
        check_quiet(queue);
        CHECK_STATUS(km_sealed_queue_poll(queue, results, 2, -1, &count), KM_OK);
        CHECK(count == 0); /* nothing pending: no wait */
        km_sealed_queue_close(queue);
        km_sealed_close(table);
    }
}

/* A large request makes its reads although the program only waits for the descriptor. */
static void a_large_request_goes_on_when_the_descriptor_is_heeded(void **state)
{
    enum { KEYS = 600 };
    static km_u64_key bytes[KEYS];
    static km_bytes keys[KEYS];

    (void)state;
    build(&sealed_looks[1], 60000, NULL);
    for (uint64_t i = 0; i < KEYS; i++) {
        bytes[i] = km_u64_key_from(i * 7919 % 60000 * 3);
        keys[i] = km_bytes_of(bytes[i].bytes + 4, 4);
    }
    for (size_t i = 0; i < 2 * ENGINE_COUNT; i++) {
        struct os *os = slow_machine(); /* which has nothing in its cache */
        km_sealed_queue *queue = open_queue_on(os, engines[i % ENGINE_COUNT], 0, 3, 3);
        km_sealed *table = open_on(os, path, (int)i / ENGINE_COUNT);
        km_sealed_result result = {0};
        size_t count = 0;
        if (queue) {
            CHECK_STATUS(km_sealed_submit_get_many(queue, table, keys, KEYS, NULL, NULL), KM_OK);
            while (count == 0) {
                CHECK(is_readable(queue, 10000));
                CHECK_STATUS(km_sealed_queue_poll(queue, &result, 1, 0, &count), KM_OK);
            }
            CHECK(result.status == KM_OK && result.found == KEYS && result.count == KEYS);
            check_quiet(queue);
        }
        km_sealed_queue_close(queue);
        km_sealed_close(table);
    }
}

struct chain {
    km_sealed_queue *queue;
    const km_sealed *table;
    uint64_t left;
    uint64_t calls;
    int is_full;
};

static void submit_next(void *user, const km_sealed_result *result)
{
    struct chain *chain = user;

    CHECK(result->status == KM_OK || result->status == KM_NOT_FOUND);
    chain->calls++;
    if (chain->left == 0)
        return;
    chain->left--;
    CHECK_STATUS(
        km_sealed_submit_get_number(chain->queue, chain->table, chain->left, submit_next, chain),
        KM_OK);
    /* of one request at most: there is room for the next when the function is called, for no more
     */
    CHECK_STATUS(km_sealed_submit_get_number(chain->queue, chain->table, 0, NULL, NULL), KM_BUSY);
}

static void a_function_may_submit_again(void **state)
{
    (void)state;
    build(&sealed_looks[1], 2000, NULL);
    for (size_t i = 0; i < ENGINE_COUNT; i++) {
        km_sealed *table = open_table(0);
        struct chain chain = {open_queue(engines[i], 1, 1), table, 200, 0, 0};
        uint64_t polls = 0;
        if (chain.queue) {
            CHECK_STATUS(km_sealed_submit_get_number(chain.queue, table, 3, submit_next, &chain),
                         KM_OK);
            for (; km_sealed_queue_pending(chain.queue) > 0; polls++) {
                size_t count = 77;
                CHECK(is_readable(chain.queue, 10000));
                CHECK_STATUS(km_sealed_queue_poll(chain.queue, NULL, 0, 0, &count), KM_OK);
                CHECK(count == 0);
            }
            CHECK(chain.calls == 201 && chain.left == 0);
            CHECK(polls >= 201); /* a poll ends, however fast a function submits */
        }
        km_sealed_queue_close(chain.queue);
        km_sealed_close(table);
    }
}

static void results_last_until_the_next_poll(void **state)
{
    km_sealed_queue *queue = open_queue(KM_SEALED_ENGINE_AUTO, 0, 0);
    km_bytes key = km_bytes_of("\6", 1);
    uint8_t copy[1000];

    (void)state;
    build(&sealed_looks[3], 80, NULL); /* u8, 1,000 bytes */
    for (int i = 0; i < 9; i++) {
        km_sealed *table = open_table(i / 3);
        km_sealed_result result = {0};
        size_t count = 0;
        km_bytes value;
        if (i % 3 == 1) { /* so that its block may be in the table's cache */
            CHECK_STATUS(km_sealed_submit_get(queue, table, key, NULL, NULL), KM_OK);
            drain(queue);
        }
        CHECK_STATUS(i % 3 == 2 ? km_sealed_submit_get_many(queue, table, &key, 1, NULL, NULL)
                                : km_sealed_submit_get(queue, table, key, NULL, NULL),
                     KM_OK);
        CHECK_STATUS(km_sealed_queue_poll(queue, &result, 1, -1, &count), KM_OK);
        CHECK(count == 1 && result.status == KM_OK && result.found == 1);
        value = i % 3 == 2 ? result.values[0] : result.value;
        CHECK(value.size == 1000);
        memcpy(copy, value.data, 1000);
        for (uint64_t n = 0; n < 50; n++)
            CHECK_STATUS(km_sealed_submit_get_number(queue, table, n * 3, NULL, NULL), KM_OK);
        CHECK(memcmp(copy, value.data, 1000) == 0);
        drain(queue);
        CHECK_STATUS(km_sealed_submit_get_many(queue, table, &key, 1, NULL, NULL), KM_OK);
        CHECK_STATUS(km_sealed_queue_poll(queue, &result, 1, -1, &count), KM_OK);
        km_sealed_close(table); /* results outlive it */
        CHECK(count == 1 && memcmp(copy, result.values[0].data, 1000) == 0);
        CHECK_STATUS(km_sealed_queue_poll(queue, NULL, 0, 0, NULL), KM_OK);
    }
    km_sealed_queue_close(queue);
}

/* ---- ends -------------------------------------------------------------------------------- */

static void must_not_be_called(void *user, const km_sealed_result *result)
{
    (void)user;
    (void)result;
    CHECK(0);
}

static void *release_soon(void *context)
{
    (void)context;
    usleep(20000); /* the close waits meanwhile, or comes later: right either way */
    slow_set(0);
    return NULL;
}

static void close_waits_for_reads_and_calls_nobody(void **state)
{
    struct os *os = slow_machine();
    km_sealed *table;
    uint64_t before;

    (void)state;
    build(&sealed_looks[6], 3000, NULL); /* large values */
    table = open_on(os, path, 1);
    for (size_t i = 0; i < 2 * ENGINE_COUNT; i++) {
        km_sealed_queue *queue = open_queue_on(os, engines[i % ENGINE_COUNT], 100, 30, 3);
        pthread_t thread;
        uint8_t bytes[4096];
        if (!queue)
            continue;
        make_cold();
        before = slow_begun();
        slow_set(1);
        for (uint64_t n = 0; n < 100; n++) {
            km_bytes key = km_bytes_of(bytes, sealed_key(&sealed_looks[6], n * 90, bytes));
            CHECK_STATUS(n % 3 ? km_sealed_submit_get(queue, table, key, must_not_be_called, NULL)
                               : km_sealed_submit_get_many(queue, table, &key, 1, NULL, NULL),
                         KM_OK);
        }
        if (i % ENGINE_COUNT == 0) {
            pthread_mutex_lock(&slow.lock);
            while (slow.begun == before)
                pthread_cond_wait(&slow.changed, &slow.lock);
            pthread_mutex_unlock(&slow.lock);
        }
        CHECK(pthread_create(&thread, NULL, release_soon, NULL) == 0);
        km_sealed_queue_close(queue);
        pthread_mutex_lock(&slow.lock);
        CHECK(slow.begun == slow.ended); /* none is under way any more */
        pthread_mutex_unlock(&slow.lock);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    km_sealed_close(table);
}

static void *submit_and_end(void *context)
{
    struct chain *chain = context;

    for (uint64_t i = 0; i < 50; i++)
        CHECK_STATUS(km_sealed_submit_get_number(chain->queue, chain->table, i * 1200, NULL, NULL),
                     KM_OK);
    return NULL;
}

static void reads_outlive_the_thread_that_submitted(void **state)
{
    (void)state;
    build(&sealed_looks[1], 20000, NULL);
    for (size_t i = 0; i < ENGINE_COUNT; i++) {
        km_sealed *table = open_table(1);
        struct chain chain = {open_queue(engines[i], 0, 0), table, 0, 0, 0};
        km_sealed_result results[50];
        size_t count = 0, total = 0;
        pthread_t thread;
        if (chain.queue) {
            make_cold();
            CHECK(pthread_create(&thread, NULL, submit_and_end, &chain) == 0);
            CHECK(pthread_join(thread, NULL) == 0);
            for (; total < 50; total += count) {
                CHECK_STATUS(km_sealed_queue_poll(chain.queue, results, 50, -1, &count), KM_OK);
                for (size_t k = 0; k < count; k++)
                    CHECK_STATUS(results[k].status, KM_OK);
            }
        }
        km_sealed_queue_close(chain.queue);
        km_sealed_close(table);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_those_of_the_model),
        cmocka_unit_test(an_empty_table_and_an_empty_request_have_answers),
        cmocka_unit_test(numbers_are_found_and_bad_keys_refused),
        cmocka_unit_test(options_over_their_limits_are_refused),
        cmocka_unit_test(pending_requests_are_bounded),
        cmocka_unit_test(the_descriptor_tells_what_there_is),
        cmocka_unit_test(a_large_request_goes_on_when_the_descriptor_is_heeded),
        cmocka_unit_test(a_function_may_submit_again),
        cmocka_unit_test(results_last_until_the_next_poll),
        cmocka_unit_test(close_waits_for_reads_and_calls_nobody),
        cmocka_unit_test(reads_outlive_the_thread_that_submitted),
    };

    begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
