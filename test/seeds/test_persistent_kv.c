/* SPDX-License-Identifier: Apache-2.0
 *
 * test_persistent_kv.c -- the abilities of persistent-kv: a concurrent hash map that keeps its
 * contents, with a choice of how durable each change is, and protobuf values.
 */
#include "seeds/seed.h"

#include <pthread.h>

#include "keepmap/protobuf.h"
#include "test/unit/messages.pb-c.h"

/* ---- set, unset, get ----------------------------------------------------------------------- */

static void set_get_unset(void **state)
{
    (void)state;
    seed_check("foo", NULL);
    seed_put("foo", "bar");
    seed_check("foo", "bar");
    seed_put("foo", "baz");
    seed_check("foo", "baz");
    seed_del("foo");
    seed_check("foo", NULL);
    CHECK_STATUS(km_del(seed.map, text("foo"), NULL), KM_NOT_FOUND);
}

static void contents_are_kept_between_runs(void **state)
{
    (void)state;
    seed_put("foo", "is here to stay");
    seed_put("gone", "soon");
    seed_del("gone");
    seed_reopen(NULL);
    seed_check("foo", "is here to stay");
    seed_check("gone", NULL);
    CHECK(km_count(seed.map) == 1);
}

static void keys_are_of_fixed_or_variable_length(void **state)
{
    km_buffer value = KM_BUFFER_INIT;
    char key[600];

    (void)state;
    memset(key, 'k', sizeof(key));
    for (size_t size = 0; size < sizeof(key); size += 37)
        CHECK_STATUS(km_put(seed.map, km_bytes_of(key, size), km_bytes_of(key, size / 2), NULL),
                     KM_OK);
    CHECK_STATUS(km_put_u64(seed.map, UINT64_MAX, text("a number"), NULL), KM_OK);
    seed_reopen(NULL);
    for (size_t size = 0; size < sizeof(key); size += 37) {
        CHECK_STATUS(km_get(seed.map, km_bytes_of(key, size), &value), KM_OK);
        CHECK(value.size == size / 2);
    }
    CHECK_STATUS(km_get_u64(seed.map, UINT64_MAX, &value), KM_OK);
    CHECK(seed_is(&value, "a number"));
    CHECK_STATUS(km_del_u64(seed.map, UINT64_MAX, NULL), KM_OK);
    km_buffer_free(&value);
}

/* A value can be used where it lies, and stays as it is until the section ends. */
static void get_convert_uses_a_value_without_a_copy(void **state)
{
    km_bytes old_value, new_value;
    km_reader *reader;

    (void)state;
    seed_put("foo", "12345678");
    CHECK_STATUS(km_read_begin(seed.store, &reader), KM_OK);
    CHECK_STATUS(km_get_ref(reader, seed.map, text("foo"), &old_value), KM_OK);
    CHECK((uintptr_t)old_value.data % 8 == 0);
    seed_put("foo", "87654321");
    seed_del("foo");
    seed_put("foo", "again");
    CHECK_STATUS(km_get_ref(reader, seed.map, text("foo"), &new_value), KM_OK);
    CHECK(old_value.size == 8 && memcmp(old_value.data, "12345678", 8) == 0);
    CHECK(new_value.size == 5 && memcmp(new_value.data, "again", 5) == 0);
    km_read_end(reader);
}

static void iteration_meets_each_key_once(void **state)
{
    static uint8_t met[5000];
    km_cursor *cursor;
    km_bytes key, value;
    km_status rc;
    uint64_t count = 0;

    (void)state;
    memset(met, 0, sizeof(met));
    for (uint64_t number = 0; number < sizeof(met); number++)
        CHECK_STATUS(km_put_u64(seed.map, number, km_bytes_of(&number, 8), NULL), KM_OK);
    CHECK_STATUS(km_cursor_open(seed.map, NULL, &cursor), KM_OK);
    while ((rc = km_cursor_next(cursor, &key, &value)) == KM_OK) {
        uint64_t number = km_u64_key_to(key.data);
        CHECK(number < sizeof(met) && !met[number]++);
        CHECK(value.size == 8 && memcmp(value.data, &number, 8) == 0);
        count++;
    }
    CHECK(rc == KM_END && count == sizeof(met));
    km_cursor_close(cursor);
}

static void compute_size_info_tells_keys_and_bytes(void **state)
{
    km_stats before = seed_stats(), after;
    char value[1000];

    (void)state;
    memset(value, 'v', sizeof(value));
    for (uint64_t key = 0; key < 100; key++)
        CHECK_STATUS(km_put_u64(seed.map, key, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
    after = seed_stats();
    CHECK(after.key_count == before.key_count + 100);
    CHECK(after.live_bytes >= before.live_bytes + 100 * 1008);
    CHECK(after.live_bytes < before.live_bytes + 100 * 1100); /* under a tenth over the payload */
}

/* ---- concurrency --------------------------------------------------------------------------- */

#define THREAD_COUNT 4u
#define OWN_COUNT 500u
#define TURN_COUNT 20u

/* Each thread overwrites its own keys, and reads those of its neighbour, which never go back. */
static void *set_and_get(void *context)
{
    uint64_t thread = *(const uint64_t *)context, next = (thread + 1) % THREAD_COUNT;
    uint64_t seen[OWN_COUNT] = {0};
    km_buffer value = KM_BUFFER_INIT;
    uint8_t bytes[64];

    for (uint64_t turn = 1; turn <= TURN_COUNT; turn++) {
        for (uint64_t i = 0; i < OWN_COUNT; i++) {
            uint64_t own = thread * OWN_COUNT + i, other = next * OWN_COUNT + i, version;
            km_status rc;
            harness_value_fill(bytes, sizeof(bytes), own, turn);
            CHECK_STATUS(km_put_u64(seed.map, own, km_bytes_of(bytes, sizeof(bytes)), NULL), KM_OK);
            rc = km_get_u64(seed.map, other, &value);
            CHECK(rc == KM_OK || (rc == KM_NOT_FOUND && !seen[i]));
            if (rc != KM_OK)
                continue;
            version = harness_value_version(km_bytes_of(value.data, value.size), other);
            CHECK(version >= seen[i]);
            seen[i] = version;
        }
    }
    km_buffer_free(&value);
    return NULL;
}

static void reads_and_writes_are_concurrent(void **state)
{
    uint64_t numbers[THREAD_COUNT];
    pthread_t threads[THREAD_COUNT];
    km_buffer value = KM_BUFFER_INIT;

    (void)state;
    for (uint64_t i = 0; i < THREAD_COUNT; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, set_and_get, &numbers[i]) == 0);
    }
    for (uint64_t i = 0; i < THREAD_COUNT; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    seed_reopen(NULL);
    CHECK(km_count(seed.map) == THREAD_COUNT * OWN_COUNT);
    for (uint64_t key = 0; key < THREAD_COUNT * OWN_COUNT; key++) {
        CHECK_STATUS(km_get_u64(seed.map, key, &value), KM_OK);
        CHECK(harness_value_version(km_bytes_of(value.data, value.size), key) == TURN_COUNT);
    }
    km_buffer_free(&value);
}

/* ---- durability ---------------------------------------------------------------------------- */

static void set_thousand(void)
{
    for (uint64_t key = 0; key < 1000; key++)
        CHECK_STATUS(km_put_u64(seed.map, key, text("value"), NULL), KM_OK);
    CHECK_STATUS(km_del_u64(seed.map, 7, NULL), KM_OK);
}

static void what_returned_survives_an_abort_of_the_process(void **state)
{
    (void)state;
    seed_in_a_killed_process(NULL, set_thousand);
    seed_open(NULL);
    CHECK(km_count(seed.map) == 999);
    CHECK_STATUS(km_get_u64(seed.map, 999, NULL), KM_OK);
    CHECK_STATUS(km_get_u64(seed.map, 7, NULL), KM_NOT_FOUND);
}

static void the_sync_mode_is_chosen_for_the_store_or_a_call(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    km_write write = KM_WRITE_INIT;

    (void)state;
    options.sync_interval_ms = 600000; /* nothing is synced by itself in this test */
    seed_reopen(&options);
    CHECK_STATUS(km_put(seed.map, text("a"), text("buffered"), &write), KM_OK);
    CHECK(km_durable_position(seed.store) <= write.position);
    write.durability = KM_DURABLE_POWER;
    CHECK_STATUS(km_put(seed.map, text("b"), text("synced"), &write), KM_OK);
    CHECK(km_durable_position(seed.store) > write.position);
    options.durability = KM_DURABLE_POWER;
    seed_reopen(&options);
    write = (km_write)KM_WRITE_INIT;
    CHECK_STATUS(km_put(seed.map, text("c"), text("synced"), &write), KM_OK);
    CHECK(km_durable_position(seed.store) > write.position);
    write.durability = KM_DURABLE_PROCESS;
    CHECK_STATUS(km_put(seed.map, text("d"), text("buffered"), &write), KM_OK);
    CHECK(km_durable_position(seed.store) <= write.position);
}

static void many_sets_share_one_sync(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    km_write write = KM_WRITE_INIT;
    uint64_t syncs;

    (void)state;
    options.sync_interval_ms = 600000;
    seed_reopen(&options);
    syncs = seed_stats().sync_count;
    for (uint64_t key = 0; key < 100; key++)
        CHECK_STATUS(km_put_u64(seed.map, key, text("value"), &write), KM_OK);
    CHECK_STATUS(km_wait_durable(seed.store, write.position), KM_OK);
    CHECK(km_durable_position(seed.store) > write.position);
    CHECK(seed_stats().sync_count < syncs + 10);
}

/* ---- snapshots of the log, recovery -------------------------------------------------------- */

static void fill_four_mebibytes(void)
{
    uint8_t value[1000];

    for (uint64_t key = 0; key < 4000; key++) {
        harness_value_fill(value, sizeof(value), key, 1);
        CHECK_STATUS(km_put_u64(seed.map, key, km_bytes_of(value, sizeof(value)), NULL), KM_OK);
    }
}

static void check_four_mebibytes(void)
{
    km_buffer value = KM_BUFFER_INIT;

    CHECK(km_count(seed.map) == 4000);
    for (uint64_t key = 0; key < 4000; key++) {
        CHECK_STATUS(km_get_u64(seed.map, key, &value), KM_OK);
        CHECK(harness_value_version(km_bytes_of(value.data, value.size), key) == 1);
    }
    km_buffer_free(&value);
}

/* An image of the index is written as the log grows: an open replays only what came after it. */
static void snapshots_are_taken_at_an_interval_and_shorten_recovery(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    uint64_t deadline = harness_now_ns() + UINT64_C(20000000000);
    km_stats stats;

    (void)state;
    options.image_growth = 1 << 20;
    seed_reopen(&options);
    fill_four_mebibytes();
    do {
        usleep(1000); /* the background works by itself */
        stats = seed_stats();
        CHECK(harness_now_ns() < deadline);
    } while (stats.image_count == 0 || stats.replay_bytes >= 4000000);
    CHECK(stats.image_bytes > 0);
    check_four_mebibytes();
}

static void recovery_replays_in_parallel(void **state)
{
    km_options options = KM_OPTIONS_INIT;

    (void)state;
    options.replay_threads = 4;
    seed_in_a_killed_process(NULL, fill_four_mebibytes);
    seed_open(&options);
    CHECK(seed_stats().recovered_records > 0);
    check_four_mebibytes();
}

/* ---- protobuf ------------------------------------------------------------------------------ */

static void set_proto_and_get_proto(void **state)
{
    Testing__Address address = TESTING__ADDRESS__INIT;
    const ProtobufCMessageDescriptor *type = &testing__address__descriptor;
    ProtobufCMessage *found = NULL;

    (void)state;
    address.street = "Nowhere 42";
    CHECK_STATUS(km_get_message(seed.map, text("foo"), type, NULL, &found), KM_NOT_FOUND);
    CHECK_STATUS(km_put_message(seed.map, text("foo"), &address.base, NULL), KM_OK);
    seed_reopen(NULL);
    CHECK_STATUS(km_get_message(seed.map, text("foo"), type, NULL, &found), KM_OK);
    CHECK(strcmp(((Testing__Address *)found)->street, "Nowhere 42") == 0);
    protobuf_c_message_free_unpacked(found, NULL);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, seed_begin_hash, seed_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(set_get_unset),
        CASE(contents_are_kept_between_runs),
        CASE(keys_are_of_fixed_or_variable_length),
        CASE(get_convert_uses_a_value_without_a_copy),
        CASE(iteration_meets_each_key_once),
        CASE(compute_size_info_tells_keys_and_bytes),
        CASE(reads_and_writes_are_concurrent),
        CASE(what_returned_survives_an_abort_of_the_process),
        CASE(the_sync_mode_is_chosen_for_the_store_or_a_call),
        CASE(many_sets_share_one_sync),
        CASE(snapshots_are_taken_at_an_interval_and_shorten_recovery),
        CASE(recovery_replays_in_parallel),
        CASE(set_proto_and_get_proto),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
