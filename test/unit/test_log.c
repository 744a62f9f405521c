/* SPDX-License-Identifier: Apache-2.0
 *
 * test_log.c -- what two writers of the log see of each other, taken apart by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#include "log/log_internal.h"
#include "sim/sim.h"
#include "store/store_internal.h"

#define ROUNDS 300
#define LARGE_SIZE 60000u

struct writer {
    struct log *log;
    struct log_space space;
    const uint8_t *value;
    uint32_t value_size;
    _Atomic int may_write;
    _Atomic int has_returned;
};

static struct os *os;
static struct km_store *store;

static int open_store(void **state)
{
    (void)state;
    os = km__sim_create(1);
    return km__store_open_memory_with(os, NULL, 0, &store, NULL);
}

static int close_store(void **state)
{
    (void)state;
    km__ignore(km_close(store, NULL), "nothing was written");
    km__sim_destroy(os);
    return 0;
}

static uint64_t size_of(uint32_t value_size)
{
    return km__record_size(0, value_size, 0);
}

static void reserve(struct writer *writer, uint32_t value_size, const uint8_t *value)
{
    km_status rc;

    writer->log = store->log;
    writer->value = value;
    writer->value_size = value_size;
    for (;;) { /* a memory store makes room whenever it is asked */
        km__epoch_enter();
        rc = km__log_reserve(store->log, size_of(value_size), LOG_CLASS_PUT, &writer->space);
        km__epoch_leave();
        if (rc != KM_WOULD_BLOCK)
            break;
        assert_int_equal(km__log_wait_space(store->log, size_of(value_size), LOG_CLASS_PUT), KM_OK);
    }
    assert_int_equal(rc, KM_OK);
}

static void write_and_finish(struct writer *writer)
{
    struct record record = {.kind = RECORD_PUT, .value_size = writer->value_size};
    struct log_payload payload = {writer->value, NULL, 0};

    payload.crc = km__record_payload_crc(writer->value, writer->value_size, NULL, 0);
    km__epoch_enter();
    km__log_write_record(writer->log, &writer->space, 0, &record, &payload);
    km__log_finish(writer->log, &writer->space);
    km__epoch_leave();
}

static void *run_writer(void *context)
{
    struct writer *writer = context;

    while (!atomic_load_explicit(&writer->may_write, memory_order_acquire))
        sched_yield();
    write_and_finish(writer);
    atomic_store_explicit(&writer->has_returned, 1, memory_order_release);
    return NULL;
}

static uint64_t commit_word_of(const struct writer *writer)
{
    return atomic_load_explicit((_Atomic uint64_t *)(void *)(writer->space.bytes + 8),
                                memory_order_acquire); /* pairs with km__log_write_record() */
}

/* I3 of log_append.c: a call returns only when all of the log before its record is complete. */
static void a_later_writer_waits_for_an_earlier_one(void **state)
{
    static const uint8_t value[100];
    struct writer earlier = {0}, later = {0};
    pthread_t thread;

    (void)state;
    reserve(&earlier, sizeof(value), value);
    reserve(&later, sizeof(value), value);
    later.may_write = 1;
    assert_int_equal(pthread_create(&thread, NULL, run_writer, &later), 0);
    while (!commit_word_of(&later)) /* ends: nothing stops it from writing */
        sched_yield();
    for (int i = 0; i < 2000; i++)
        sched_yield();
    assert_int_equal(later.has_returned, 0);
    assert_true(km__log_complete(store->log) <= earlier.space.position);
    write_and_finish(&earlier);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(later.has_returned, 1);
    assert_true(km__log_complete(store->log) >= later.space.position + later.space.size);
}

/* I2 of log_append.c: where there is a commit word, there is the whole record. */
static void a_committed_record_is_whole(void **state)
{
    static uint8_t value[LARGE_SIZE];

    (void)state;
    memset(value, 0xa5, sizeof(value));
    for (int i = 0; i < ROUNDS; i++) {
        struct writer writer = {0};
        pthread_t thread;

        reserve(&writer, sizeof(value), value);
        assert_int_equal(pthread_create(&thread, NULL, run_writer, &writer), 0);
        atomic_store_explicit(&writer.may_write, 1, memory_order_release);
        while (!commit_word_of(&writer)) { /* ends when it has written */
        }
        assert_int_equal(km__load32(writer.space.bytes + 4), sizeof(value));
        assert_int_equal(writer.space.bytes[RECORD_HEADER_SIZE + sizeof(value) - 1], 0xa5);
        assert_int_equal(pthread_join(thread, NULL), 0);
    }
}

/* What is flushed and called durable never ends inside a batch. */
static void half_a_batch_is_not_complete(void **state)
{
    static const uint8_t value[100];
    struct record record = {
        .kind = RECORD_PUT, .flags = RECORD_MORE_FOLLOWS, .value_size = sizeof(value)};
    struct log_payload payload = {value, NULL, 0};
    struct writer batch = {0};
    uint64_t before, offset;

    (void)state;
    before = km__log_complete(store->log);
    reserve(&batch, (uint32_t)(2 * size_of(sizeof(value)) - RECORD_HEADER_SIZE), value);
    payload.crc = km__record_payload_crc(value, sizeof(value), NULL, 0);
    km__epoch_enter();
    offset = km__log_write_record(store->log, &batch.space, 0, &record, &payload);
    km__epoch_leave();
    assert_int_equal(km__log_flush(store->log), KM_OK); /* looks for what is complete */
    assert_int_equal(km__log_complete(store->log), before);
    record.flags = 0;
    km__epoch_enter();
    km__log_write_record(store->log, &batch.space, offset, &record, &payload);
    km__log_finish(store->log, &batch.space);
    km__epoch_leave();
    assert_int_equal(km__log_complete(store->log), batch.space.position + batch.space.size);
}

/* Nothing in the later segments speaks of what the first one held: only MARKS can tell. */
static void a_missing_first_segment_is_noticed(void **state)
{
    static const uint8_t value[4000];
    km_bytes text = km_bytes_of_string("text");
    struct km_store *found = NULL;
    km_map *map = NULL;
    km_error error = {0};

    (void)state;
    assert_int_equal(km__store_open_with(os, "store", NULL, 0, &found, &error), KM_OK);
    assert_int_equal(km_map_create(found, km_bytes_of_string("first"), KM_HASH, &map), KM_OK);
    for (uint64_t i = 0; i < 80; i++) /* more than a segment */
        assert_int_equal(km_put_u64(map, i, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
    assert_int_equal(km_map_create(found, km_bytes_of_string("second"), KM_HASH, &map), KM_OK);
    assert_int_equal(km_put(map, text, text, NULL), KM_OK);
    assert_int_equal(km_close(found, NULL), KM_OK);
    assert_int_equal(km__sim_delete_path(os, "store/log/00000001.segment"), KM_OK);
    assert_int_equal(km__store_open_with(os, "store", NULL, 0, &found, &error), KM_E_CORRUPT);
    assert_string_equal(error.file, "00000001.segment");
}

/* I1 of log_flush.c: the ring may let go of whole records only. */
static void the_flusher_stops_where_a_record_begins(void **state)
{
    static const uint8_t value[5000]; /* its record does not divide a piece */
    struct km_store *found = NULL;
    km_map *map = NULL;
    km_write write = KM_WRITE_INIT;
    uint64_t begins[1024], flushed, at_begin = 0;
    uint32_t count = 0;

    (void)state;
    assert_int_equal(km__store_open_with(os, "store", NULL, 0, &found, NULL), KM_OK);
    assert_int_equal(km_map_create(found, km_bytes_of_string("map"), KM_HASH, &map), KM_OK);
    do { /* ends: segments grow with the log, and pieces fit in them */
        assert_int_equal(km_put_u64(map, 1, km_bytes_of(value, sizeof(value)), &write), KM_OK);
        if (km__position_offset(write.position) < 2 * sizeof(value) + SEGMENT_HEADER_SIZE)
            count = 0; /* a new segment */
        begins[count++ % 1024] = write.position;
    } while (km__position_offset(write.position) < FLUSH_PIECE + 3 * sizeof(value));
    assert_true(km__log_complete(found->log) > found->log->flushed);
    assert_int_equal(km__log_flush_pieces(found->log), KM_OK);
    flushed = found->log->flushed;
    for (uint32_t i = 0; i < count && i < 1024; i++)
        at_begin += begins[i] == flushed;
    assert_int_equal(at_begin, 1);
    assert_true(flushed < km__log_complete(found->log)); /* it did not just flush everything */
    assert_int_equal(km_close(found, NULL), KM_OK);
}

/* It would have the store made anew. */
static void a_planted_creating_file_is_refused(void **state)
{
    km_bytes text = km_bytes_of_string("text");
    struct km_store *found = NULL;
    km_map *map = NULL;
    km_error error = {0};

    (void)state;
    assert_int_equal(km__store_open_with(os, "store", NULL, 0, &found, &error), KM_OK);
    assert_int_equal(km_map_create(found, text, KM_HASH, &map), KM_OK);
    assert_int_equal(km_close(found, NULL), KM_OK);
    assert_int_equal(km__sim_write_path(os, "store/CREATING", "", 0), 0);
    assert_int_equal(km__store_open_with(os, "store", NULL, 0, &found, &error), KM_E_CORRUPT);
    assert_string_equal(error.file, "CREATING");
    assert_int_equal(km__sim_delete_path(os, "store/CREATING"), 0);
    assert_int_equal(km__store_open_with(os, "store", NULL, 0, &found, &error), KM_OK);
    assert_int_equal(km_map_open(found, text, &map), KM_OK);
    assert_int_equal(km_close(found, NULL), KM_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_later_writer_waits_for_an_earlier_one, open_store,
                                        close_store),
        cmocka_unit_test_setup_teardown(a_committed_record_is_whole, open_store, close_store),
        cmocka_unit_test_setup_teardown(half_a_batch_is_not_complete, open_store, close_store),
        cmocka_unit_test_setup_teardown(a_missing_first_segment_is_noticed, open_store,
                                        close_store),
        cmocka_unit_test_setup_teardown(the_flusher_stops_where_a_record_begins, open_store,
                                        close_store),
        cmocka_unit_test_setup_teardown(a_planted_creating_file_is_refused, open_store,
                                        close_store),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
