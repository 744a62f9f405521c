/* SPDX-License-Identifier: Apache-2.0
 *
 * test_linear.c -- each key is linearizable: histories of real threads, checked exhaustively.
 *
 * First the checker itself is shown good and bad histories. Then threads call on a few keys at once
 * and note, by a monotonic clock, when each call began and ended and what it saw.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "harness/harness_linear.h"
#include "harness/harness_util.h"

/* ---- the checker ------------------------------------------------------------------------- */

#define PUT(begin, end, value)                                                                     \
    {                                                                                              \
        begin, end, LINEAR_PUT, value, 0                                                           \
    }
#define SWAP(begin, end, value, seen)                                                              \
    {                                                                                              \
        begin, end, LINEAR_PUT_PREVIOUS, value, seen                                               \
    }
#define DEL(begin, end, seen)                                                                      \
    {                                                                                              \
        begin, end, LINEAR_DELETE, 0, seen                                                         \
    }
#define GET(begin, end, seen)                                                                      \
    {                                                                                              \
        begin, end, LINEAR_GET, 0, seen                                                            \
    }
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static void checker_accepts_good_histories(void **state)
{
    static const struct linear_call serial[] = {GET(1, 2, 0), PUT(3, 4, 7),  GET(5, 6, 7),
                                                DEL(7, 8, 7), GET(9, 10, 0), DEL(11, 12, 0)};
    static const struct linear_call beside[] = {PUT(1, 10, 7), GET(2, 3, 0), GET(4, 5, 7)};
    static const struct linear_call writers[] = {SWAP(1, 10, 7, 8), SWAP(1, 10, 8, 0),
                                                 GET(11, 12, 7)};
    static const struct linear_call either[] = {PUT(1, 10, 7), PUT(1, 10, 8), GET(11, 12, 7),
                                                GET(13, 14, 7)};
    static const struct linear_call flicker[] = {PUT(1, 20, 7), DEL(2, 19, 7), GET(3, 4, 7),
                                                 GET(5, 6, 0)};

    (void)state;
    assert_true(linear_check(NULL, 0));
    assert_true(linear_check(serial, COUNT_OF(serial)));
    assert_true(linear_check(beside, COUNT_OF(beside)));
    assert_true(linear_check(writers, COUNT_OF(writers)));
    assert_true(linear_check(either, COUNT_OF(either)));
    assert_true(linear_check(flicker, COUNT_OF(flicker)));
}

static void checker_catches_bad_histories(void **state)
{
    static const struct linear_call stale[] = {PUT(1, 2, 7), PUT(3, 4, 8), GET(5, 6, 7)};
    static const struct linear_call missed[] = {PUT(1, 2, 7), GET(3, 4, 0)};
    static const struct linear_call early[] = {GET(1, 2, 7), PUT(3, 4, 7)};
    static const struct linear_call invented[] = {PUT(1, 2, 7), GET(3, 4, 9)};
    static const struct linear_call back[] = {PUT(1, 10, 7), GET(2, 3, 7), GET(4, 5, 0)};
    static const struct linear_call lost[] = {PUT(1, 2, 6), SWAP(3, 9, 7, 6), SWAP(3, 9, 8, 6)};
    static const struct linear_call undead[] = {PUT(1, 2, 7), DEL(3, 4, 7), GET(5, 6, 7)};
    static const struct linear_call twice[] = {PUT(1, 2, 7), DEL(3, 9, 7), DEL(3, 9, 7)};
    static const struct linear_call order[] = {PUT(1, 9, 7), PUT(1, 9, 8), GET(2, 3, 7),
                                               GET(4, 5, 8), GET(6, 7, 7)};

    (void)state;
    assert_false(linear_check(stale, COUNT_OF(stale)));
    assert_false(linear_check(missed, COUNT_OF(missed)));
    assert_false(linear_check(early, COUNT_OF(early)));
    assert_false(linear_check(invented, COUNT_OF(invented)));
    assert_false(linear_check(back, COUNT_OF(back)));
    assert_false(linear_check(lost, COUNT_OF(lost)));
    assert_false(linear_check(undead, COUNT_OF(undead)));
    assert_false(linear_check(twice, COUNT_OF(twice)));
    assert_false(linear_check(order, COUNT_OF(order)));
}

/* A long serial history stays good, and is bad once any get or delete in it saw something else. */
static void checker_catches_any_wrong_result(void **state)
{
    struct harness_random random = harness_stream(1);
    struct linear_call calls[LINEAR_CALL_MAX];
    uint64_t value = 0;

    (void)state;
    for (uint64_t i = 0; i < LINEAR_CALL_MAX; i++) {
        enum linear_kind kind = (enum linear_kind)harness_below(&random, 4);

        /* a little overlap with the next, which does not matter for who knows the order */
        calls[i] = (struct linear_call){10 * i, 10 * i + 9, kind, i + 1,
                                        kind == LINEAR_PUT ? 0 : value};
        if (kind != LINEAR_GET)
            value = kind == LINEAR_DELETE ? 0 : i + 1;
    }
    assert_true(linear_check(calls, LINEAR_CALL_MAX));
    for (size_t i = 0; i < LINEAR_CALL_MAX; i++) {
        uint64_t seen = calls[i].seen;

        if (calls[i].kind == LINEAR_PUT)
            continue;
        calls[i].seen = harness_below(&random, 2) ? seen + 1 : seen ? seen - 1 : 1000;
        assert_false(linear_check(calls, LINEAR_CALL_MAX));
        calls[i].seen = seen;
    }
}

/* ---- recording --------------------------------------------------------------------------- */

#define THREAD_COUNT 4u
#define KEY_COUNT 6u
#define CALLS_PER_KEY 14u /* of each thread: fits LINEAR_CALL_MAX */
#define CALLS_PER_ROUND 60u

struct recorder {
    struct round *round;
    struct harness_random random;
    uint64_t next_value;
    struct linear_call calls[KEY_COUNT][CALLS_PER_KEY];
    uint32_t counts[KEY_COUNT];
    km_buffer buffer;
    km_batch *batch;
};

struct round {
    km_store *store;
    km_map *map;
    uint64_t key_base;
    pthread_barrier_t barrier;
    uint64_t rounds;
    uint64_t checked;
    struct recorder recorders[THREAD_COUNT];
};

static uint64_t number_in(km_bytes value)
{
    CHECK(value.size >= 8 && value.data);
    for (size_t at = 8; at + 8 <= value.size; at += 8)
        CHECK(memcmp(value.data, (const uint8_t *)value.data + at, 8) == 0);
    return km__load64(value.data);
}

/* Sizes differ, so that an overwrite does not land in equal bytes. */
static km_bytes make_value(struct recorder *recorder, uint64_t number, uint8_t bytes[160])
{
    size_t words = 1 + harness_below(&recorder->random, 20);

    for (size_t i = 0; i < words; i++)
        km__store64(bytes + 8 * i, number);
    return km_bytes_of(bytes, 8 * words);
}

static struct linear_call *new_call(struct recorder *recorder, uint32_t key, enum linear_kind kind)
{
    struct linear_call *call = &recorder->calls[key][recorder->counts[key]++];

    call->kind = kind;
    call->seen = 0;
    call->value = kind == LINEAR_PUT || kind == LINEAR_PUT_PREVIOUS ? ++recorder->next_value : 0;
    return call;
}

static void call_put(struct recorder *recorder, uint32_t key, km_bytes name, int wants_previous)
{
    struct linear_call *call = new_call(recorder, key,
                                        wants_previous ? LINEAR_PUT_PREVIOUS : LINEAR_PUT);
    km_write write = KM_WRITE_INIT;
    uint8_t bytes[160];
    km_bytes value = make_value(recorder, call->value, bytes);

    write.previous = wants_previous ? &recorder->buffer : NULL;
    call->begin_ns = harness_now_ns();
    CHECK_STATUS(km_put(recorder->round->map, name, value, &write), KM_OK);
    call->end_ns = harness_now_ns();
    if (wants_previous && write.existed)
        call->seen = number_in(km_bytes_of(recorder->buffer.data, recorder->buffer.size));
}

static void call_del(struct recorder *recorder, uint32_t key, km_bytes name)
{
    struct linear_call *call = new_call(recorder, key, LINEAR_DELETE);
    km_write write = KM_WRITE_INIT;
    km_status rc;

    write.previous = &recorder->buffer;
    call->begin_ns = harness_now_ns();
    rc = km_del(recorder->round->map, name, &write);
    call->end_ns = harness_now_ns();
    CHECK(rc == KM_OK || rc == KM_NOT_FOUND);
    if (rc == KM_OK)
        call->seen = number_in(km_bytes_of(recorder->buffer.data, recorder->buffer.size));
}

static void call_get(struct recorder *recorder, uint32_t key, km_bytes name)
{
    struct linear_call *call = new_call(recorder, key, LINEAR_GET);
    km_status rc;

    call->begin_ns = harness_now_ns();
    rc = km_get(recorder->round->map, name, &recorder->buffer);
    call->end_ns = harness_now_ns();
    CHECK(rc == KM_OK || rc == KM_NOT_FOUND);
    if (rc == KM_OK)
        call->seen = number_in(km_bytes_of(recorder->buffer.data, recorder->buffer.size));
}

/* The keys from `key` on for which there is room, in one call. */
static void call_many(struct recorder *recorder, uint32_t key)
{
    km_u64_key names[KEY_COUNT];
    km_bytes keys[KEY_COUNT], values[KEY_COUNT];
    struct linear_call *calls[KEY_COUNT];
    km_reader *reader = NULL;
    uint64_t begin_ns, end_ns;
    size_t count = 0;

    for (; key < KEY_COUNT; key++) {
        if (recorder->counts[key] == CALLS_PER_KEY)
            continue;
        names[count] = km_u64_key_from(recorder->round->key_base + key);
        keys[count] = km_bytes_of(names[count].bytes, 8);
        calls[count++] = new_call(recorder, key, LINEAR_GET);
    }
    begin_ns = harness_now_ns();
    CHECK_STATUS(km_read_begin(recorder->round->store, &reader), KM_OK);
    CHECK_STATUS(km_get_many(reader, recorder->round->map, keys, count, values, NULL), KM_OK);
    end_ns = harness_now_ns();
    for (size_t i = 0; i < count; i++) {
        calls[i]->begin_ns = begin_ns;
        calls[i]->end_ns = end_ns;
        calls[i]->seen = values[i].data ? number_in(values[i]) : 0;
    }
    km_read_end(reader);
}

/* A put of the keys from `key` on, as one batch. */
static void call_batch(struct recorder *recorder, uint32_t key)
{
    struct linear_call *calls[KEY_COUNT];
    uint64_t begin_ns, end_ns;
    size_t count = 0;

    for (; key < KEY_COUNT; key++) {
        km_u64_key name = km_u64_key_from(recorder->round->key_base + key);
        uint8_t bytes[160];

        if (recorder->counts[key] == CALLS_PER_KEY)
            continue;
        calls[count] = new_call(recorder, key, LINEAR_PUT);
        CHECK_STATUS(km_batch_put(recorder->batch, recorder->round->map, km_bytes_of(name.bytes, 8),
                                  make_value(recorder, calls[count]->value, bytes)),
                     KM_OK);
        count++;
    }
    begin_ns = harness_now_ns();
    CHECK_STATUS(km_batch_commit(recorder->batch, NULL), KM_OK);
    end_ns = harness_now_ns();
    for (size_t i = 0; i < count; i++) {
        calls[i]->begin_ns = begin_ns;
        calls[i]->end_ns = end_ns;
    }
}

/* An insert that finds the key there has seen its value. */
static void call_insert(struct recorder *recorder, uint32_t key, km_bytes name)
{
    struct linear_call *call = new_call(recorder, key, LINEAR_PUT_PREVIOUS);
    km_write write = KM_WRITE_INIT;
    uint8_t bytes[160];
    km_bytes value = make_value(recorder, call->value, bytes);
    km_status rc;

    write.previous = &recorder->buffer;
    call->begin_ns = harness_now_ns();
    rc = km_put_if_absent(recorder->round->map, name, value, &write);
    call->end_ns = harness_now_ns();
    if (rc == KM_OK)
        return;
    CHECK_STATUS(rc, KM_EXISTS);
    call->kind = LINEAR_GET;
    call->seen = number_in(km_bytes_of(recorder->buffer.data, recorder->buffer.size));
}

struct replacement {
    struct linear_call *call;
    km_bytes value;
};

static km_update_verdict replace_value(void *context, const km_bytes *old_value,
                                       const km_key_info *old_info, km_bytes *new_value)
{
    struct replacement *replacement = context;

    (void)old_info;
    replacement->call->seen = old_value ? number_in(*old_value) : 0;
    *new_value = replacement->value;
    return KM_UPDATE_PUT;
}

static void call_update(struct recorder *recorder, uint32_t key, km_bytes name)
{
    struct linear_call *call = new_call(recorder, key, LINEAR_PUT_PREVIOUS);
    uint8_t bytes[160];
    struct replacement replacement = {call, make_value(recorder, call->value, bytes)};

    call->begin_ns = harness_now_ns();
    CHECK_STATUS(km_update(recorder->round->map, name, replace_value, &replacement, NULL), KM_OK);
    call->end_ns = harness_now_ns();
}

/* The keys from `key` on, as a snapshot has them: all of the moment when it was taken. */
static void call_snapshot(struct recorder *recorder, uint32_t key)
{
    km_snapshot *snapshot = NULL;
    uint64_t begin_ns = harness_now_ns(), end_ns;

    CHECK_STATUS(km_snapshot_open(recorder->round->store, &snapshot), KM_OK);
    end_ns = harness_now_ns();
    for (; key < KEY_COUNT; key++) {
        km_u64_key name = km_u64_key_from(recorder->round->key_base + key);
        struct linear_call *call;
        km_status rc;

        if (recorder->counts[key] == CALLS_PER_KEY)
            continue;
        call = new_call(recorder, key, LINEAR_GET);
        call->begin_ns = begin_ns;
        call->end_ns = end_ns;
        rc = km_snapshot_get(snapshot, recorder->round->map, km_bytes_of(name.bytes, 8),
                             &recorder->buffer, NULL);
        if (rc == KM_OK)
            call->seen = number_in(km_bytes_of(recorder->buffer.data, recorder->buffer.size));
        else
            CHECK_STATUS(rc, KM_NOT_FOUND);
    }
    km_snapshot_close(snapshot);
}

static void call_any(struct recorder *recorder)
{
    uint32_t key = (uint32_t)harness_below(&recorder->random, KEY_COUNT);
    km_u64_key name = km_u64_key_from(recorder->round->key_base + key);
    km_bytes bytes = km_bytes_of(name.bytes, 8);
    uint64_t dice = harness_below(&recorder->random, 26);

    if (recorder->counts[key] == CALLS_PER_KEY)
        return;
    if (dice < 6)
        call_get(recorder, key, bytes);
    else if (dice < 14)
        call_put(recorder, key, bytes, dice < 10);
    else if (dice < 18)
        call_del(recorder, key, bytes);
    else if (dice < 20)
        call_insert(recorder, key, bytes);
    else if (dice < 22)
        call_update(recorder, key, bytes);
    else if (dice < 23)
        call_many(recorder, key);
    else if (dice < 24)
        call_snapshot(recorder, key);
    else
        call_batch(recorder, key);
}

static void check_key(const struct round *round, uint32_t key)
{
    struct linear_call calls[LINEAR_CALL_MAX];
    size_t count = 0;

    for (uint32_t t = 0; t < THREAD_COUNT; t++) {
        memcpy(&calls[count], round->recorders[t].calls[key],
               round->recorders[t].counts[key] * sizeof(calls[0]));
        count += round->recorders[t].counts[key];
    }
    if (!linear_check(calls, count)) {
        linear_print(calls, count);
        CHECK(!"this history of a key is not linearizable");
    }
}

static void check_round(struct round *round)
{
    for (uint32_t key = 0; key < KEY_COUNT; key++)
        check_key(round, key);
    for (uint32_t t = 0; t < THREAD_COUNT; t++) {
        for (uint32_t key = 0; key < KEY_COUNT; key++)
            round->checked += round->recorders[t].counts[key];
        memset(round->recorders[t].counts, 0, sizeof(round->recorders[t].counts));
    }
    round->key_base += KEY_COUNT; /* the next round begins with absent keys */
}

static void *run_recorder(void *context)
{
    struct recorder *recorder = context;
    struct round *round = recorder->round;

    CHECK_STATUS(km_batch_create(round->store, &recorder->batch), KM_OK);
    for (uint64_t i = 0; i < round->rounds; i++) {
        pthread_barrier_wait(&round->barrier);
        for (uint32_t call = 0; call < CALLS_PER_ROUND; call++)
            call_any(recorder);
        if (pthread_barrier_wait(&round->barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
            check_round(round);
    }
    km_batch_destroy(recorder->batch);
    km_buffer_free(&recorder->buffer);
    return NULL;
}

static void record(km_store *store, km_map_kind kind, uint64_t stream)
{
    struct round *round = calloc(1, sizeof(*round));
    pthread_t threads[THREAD_COUNT];

    assert_non_null(round);
    round->store = store;
    CHECK_STATUS(km_map_create(store, km_bytes_of_string("map"), kind, &round->map), KM_OK);
    round->rounds = harness_scaled(2000);
    pthread_barrier_init(&round->barrier, NULL, THREAD_COUNT);
    for (uint32_t t = 0; t < THREAD_COUNT; t++) {
        struct recorder *recorder = &round->recorders[t];

        recorder->round = round;
        recorder->random = harness_stream(stream + t);
        recorder->next_value = (t + 1) * UINT64_C(1000000000);
        assert_int_equal(pthread_create(&threads[t], NULL, run_recorder, recorder), 0);
    }
    for (uint32_t t = 0; t < THREAD_COUNT; t++)
        pthread_join(threads[t], NULL);
    printf("%llu calls checked\n", (unsigned long long)round->checked);
    pthread_barrier_destroy(&round->barrier);
    free(round);
}

static void record_in_folder(km_map_kind kind, uint64_t stream)
{
    char path[HARNESS_PATH_SIZE];
    km_store *store;

    harness_make_folder(path);
    store = harness_open(path, NULL);
    record(store, kind, stream);
    harness_close(store);
    harness_remove(path);
}

static void record_in_memory(km_map_kind kind, uint64_t stream)
{
    km_store *store = NULL;

    CHECK_STATUS(km_open_memory(NULL, &store, NULL), KM_OK);
    record(store, kind, stream);
    harness_close(store);
}

static void keys_of_a_hash_map_are_linearizable(void **state)
{
    (void)state;
    record_in_folder(KM_HASH, 10);
    record_in_memory(KM_HASH, 20);
}

static void keys_in_insertion_order_are_linearizable(void **state)
{
    (void)state;
    record_in_folder(KM_INSERTION, 30);
    record_in_memory(KM_INSERTION, 40);
}

static void keys_in_sorted_order_are_linearizable(void **state)
{
    (void)state;
    record_in_folder(KM_SORTED, 50);
    record_in_memory(KM_SORTED, 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checker_accepts_good_histories),
        cmocka_unit_test(checker_catches_bad_histories),
        cmocka_unit_test(checker_catches_any_wrong_result),
        cmocka_unit_test(keys_of_a_hash_map_are_linearizable),
        cmocka_unit_test(keys_in_insertion_order_are_linearizable),
        cmocka_unit_test(keys_in_sorted_order_are_linearizable),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
