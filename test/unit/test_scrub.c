/* SPDX-License-Identifier: Apache-2.0
 *
 * test_scrub.c -- km_scrub() finds every damaged place in sealed segments, and nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/harness_util.h"
#include "sim/sim.h"
#include "store/store_internal.h"

#define PUT_MAX 8000u
#define LARGE_SIZE (3u << 20)
#define LOG_PATH "store/log/"

struct finding {
    uint32_t number; /* of the segment */
    uint64_t offset;
};

static struct {
    struct os *sim;
    km_options options;
    km_store *store;
    km_map *map;
    km_position positions[PUT_MAX]; /* of puts */
    uint32_t sizes[PUT_MAX];        /* of their records */
    size_t put_count;
    uint8_t *value; /* LARGE_SIZE */
    struct finding findings[64];
    size_t finding_count;
    km_check_result result;
    size_t line_count; /* of the log callback */
    char line[700];
} fixture;

/* ---- a store with sealed segments -------------------------------------------------------- */

static void note_line(void *context, km_log_level level, const char *message)
{
    (void)context;
    (void)level;
    fixture.line_count++;
    snprintf(fixture.line, sizeof(fixture.line), "%s", message);
}

static void open_store(km_open_mode mode)
{
    fixture.options.mode = mode;
    CHECK_STATUS(
        km__store_open_with(fixture.sim, "store", &fixture.options, 0, &fixture.store, NULL),
        KM_OK);
    CHECK_STATUS(km_map_open(fixture.store, km_bytes_of_string("map"), &fixture.map),
                 mode == KM_OPEN_OR_CREATE ? KM_NOT_FOUND : KM_OK);
}

static void put(uint64_t key, uint32_t size)
{
    km_write write = KM_WRITE_INIT;

    harness_fill(fixture.value, size, key);
    CHECK_STATUS(km_put_u64(fixture.map, key, km_bytes_of(fixture.value, size), &write), KM_OK);
    CHECK(fixture.put_count < PUT_MAX);
    fixture.sizes[fixture.put_count] = (uint32_t)km__record_size(0, size, 8);
    fixture.positions[fixture.put_count++] = write.position;
}

static void put_many(uint64_t count, uint32_t size_max)
{
    struct harness_random random = harness_stream(fixture.put_count);

    for (uint64_t i = 0; i < count; i++)
        put(harness_below(&random, 500), (uint32_t)harness_below(&random, size_max));
    CHECK_STATUS(km_wait_durable(fixture.store, 0), KM_OK);
}

static int open_fixture(void **state)
{
    static const km_options init = KM_OPTIONS_INIT;

    (void)state;
    memset(&fixture, 0, sizeof(fixture));
    fixture.options = init;
    fixture.options.log = note_line;
    fixture.value = malloc(LARGE_SIZE);
    fixture.sim = km__sim_create(harness_seed());
    open_store(KM_OPEN_OR_CREATE);
    CHECK_STATUS(km_map_create(fixture.store, km_bytes_of_string("map"), KM_HASH, &fixture.map),
                 KM_OK);
    put_many(2500, 900);
    CHECK(km__position_number(fixture.positions[fixture.put_count - 1]) >= 4);
    return 0;
}

static int close_fixture(void **state)
{
    (void)state;
    harness_close(fixture.store);
    CHECK(km__sim_open_count(fixture.sim) == 0 && km__sim_allocated_bytes(fixture.sim) == 0);
    km__sim_destroy(fixture.sim);
    free(fixture.value);
    return 0;
}

/* ---- scrubbing --------------------------------------------------------------------------- */

static void note_finding(void *context, const km_error *finding)
{
    struct finding *noted = &fixture.findings[fixture.finding_count++];

    CHECK(context == &fixture && fixture.finding_count <= 64);
    CHECK(finding->status == KM_E_CORRUPT && finding->message[0]);
    CHECK(km__segment_name_parse(finding->file, &noted->number));
    noted->offset = finding->offset;
}

static km_status scrub(void)
{
    km_status rc;

    fixture.finding_count = 0;
    memset(&fixture.result, 0, sizeof(fixture.result));
    rc = km_scrub(fixture.store, 0, note_finding, &fixture, &fixture.result);
    CHECK(fixture.result.finding_count == fixture.finding_count);
    CHECK((rc == KM_E_CORRUPT) == (fixture.finding_count > 0));
    return rc;
}

/* Records before the segment that is written now, as the log itself reads them. */
static uint64_t sealed_records(uint64_t *out_segments)
{
    struct log *log = fixture.store->log;
    struct log_item item;
    uint64_t position, count = 0, end, segments = 0;
    uint32_t number = 0;

    km__epoch_enter();
    position = km__position(km__log_head_number(log), SEGMENT_HEADER_SIZE);
    end = km__position(km__position_number(km__log_durable(log)), 0);
    while (km__log_read(log, position, end, &item) == KM_OK && item.position < end) {
        count++;
        segments += km__position_number(item.position) != number;
        number = km__position_number(item.position);
        position = item.next;
    }
    km__epoch_leave();
    CHECK(km__position_number(position) + 1 >= km__position_number(end));
    if (out_segments)
        *out_segments = segments;
    return count;
}

static void check_clean(void)
{
    uint64_t segments, records = sealed_records(&segments);

    CHECK_STATUS(scrub(), KM_OK);
    CHECK(fixture.result.record_count == records && fixture.result.segment_count == segments);
    CHECK(segments >= 2);
}

static void path_of(char path[64], uint32_t number)
{
    char name[SEGMENT_NAME_SIZE];

    km__segment_name(number, name);
    snprintf(path, 64, LOG_PATH "%s", name);
}

static void flip(uint32_t number, uint64_t bit)
{
    char path[64];

    path_of(path, number);
    CHECK(km__sim_flip_bit(fixture.sim, path, bit) == 0);
}

/* One finding, there; every other record checks out, but for `lost` of them. */
static void check_found(uint32_t number, uint64_t offset, uint64_t records, uint64_t lost)
{
    CHECK_STATUS(scrub(), KM_E_CORRUPT);
    CHECK(fixture.finding_count == 1);
    CHECK_MSG(fixture.findings[0].number == number && fixture.findings[0].offset == offset,
              "found in %u at %llu, not in %u at %llu", fixture.findings[0].number,
              (unsigned long long)fixture.findings[0].offset, number, (unsigned long long)offset);
    CHECK_MSG(fixture.result.record_count == records - lost, "%llu of %llu records",
              (unsigned long long)fixture.result.record_count, (unsigned long long)records);
}

static void damage_and_mend(size_t i, uint64_t bit, uint64_t records)
{
    uint32_t number = km__position_number(fixture.positions[i]);
    uint64_t offset = km__position_offset(fixture.positions[i]);

    flip(number, offset * 8 + bit);
    check_found(number, offset, records, 1);
    flip(number, offset * 8 + bit);
}

static int is_sealed(size_t i)
{
    return km__position_number(fixture.positions[i]) <
           km__position_number(km__log_durable(fixture.store->log));
}

/* ---- cases ------------------------------------------------------------------------------- */

static void a_clean_store_gives_no_finding(void **state)
{
    (void)state;
    check_clean();
    CHECK(fixture.store->damage_count == 0);
    CHECK(fixture.store->scrubbed_bytes > 2 * (256u << 10));
    harness_close(fixture.store);
    open_store(KM_OPEN_EXISTING); /* goes on in place */
    put_many(500, 900);
    check_clean();
    harness_close(fixture.store);
    open_store(KM_OPEN_READ_ONLY);
    check_clean();
}

static void a_flipped_bit_is_found_where_it_is(void **state)
{
    struct harness_random random = harness_stream(1);
    uint64_t records = sealed_records(NULL);

    (void)state;
    for (uint64_t n = 0; n < harness_scaled(150); n++) {
        size_t i = harness_below(&random, fixture.put_count);

        if (is_sealed(i)) /* every other time in the header */
            damage_and_mend(i, harness_below(&random, n % 2 ? 128 : fixture.sizes[i] * 8), records);
    }
    CHECK(fixture.store->damage_count > 50 * harness_scaled(150) / 150);
    check_clean();
}

static void damaged_places_are_found_one_by_one(void **state)
{
    uint64_t records = sealed_records(NULL);

    (void)state;
    for (size_t i = 100; i < 600; i += 100)
        flip(km__position_number(fixture.positions[i]),
             km__position_offset(fixture.positions[i]) * 8);
    CHECK_STATUS(scrub(), KM_E_CORRUPT);
    CHECK(fixture.finding_count == 5 && fixture.result.record_count == records - 5);
    for (size_t i = 0; i < 5; i++)
        CHECK(fixture.findings[i].offset == km__position_offset(fixture.positions[(i + 1) * 100]));
    CHECK(fixture.store->damage_count == 5);
}

/* Side by side they are one place. */
static void a_run_of_zeros_is_one_place(void **state)
{
    static const uint8_t zeros[5000];
    uint64_t records = sealed_records(NULL), lost = 0;
    uint32_t number = km__position_number(fixture.positions[700]);
    uint64_t offset = km__position_offset(fixture.positions[700]);
    char path[64];

    (void)state;
    path_of(path, number);
    CHECK(km__sim_overwrite_path(fixture.sim, path, offset, zeros, sizeof(zeros)) == 0);
    for (size_t i = 700; fixture.positions[i] < fixture.positions[700] + sizeof(zeros); i++)
        lost++;
    check_found(number, offset, records, lost);
}

static void damage_in_a_header_is_found(void **state)
{
    uint64_t records = sealed_records(NULL);
    struct harness_random random = harness_stream(2);

    (void)state;
    for (int n = 0; n < 40; n++) {
        uint64_t bit = harness_below(&random, n % 2 ? 80 * 8 : SEGMENT_HEADER_SIZE * 8);

        if (bit >= 16 * 8 && bit < 20 * 8)
            continue; /* a compatible feature is no damage, but for the checksum */
        flip(2, bit);
        check_found(2, 0, records, 0);
        flip(2, bit);
    }
    check_clean();
}

/* The file of one segment in the place of another: every byte of it is whole. */
static void a_file_in_the_wrong_place_is_found(void **state)
{
    uint8_t *bytes = NULL;
    size_t size = 0;
    char path[64];

    (void)state;
    path_of(path, 1);
    CHECK(km__sim_read_path(fixture.sim, path, &bytes, &size) == 0);
    path_of(path, 2);
    CHECK(km__sim_overwrite_path(fixture.sim, path, 0, bytes, size) == 0);
    CHECK_STATUS(scrub(), KM_E_CORRUPT);
    CHECK(fixture.finding_count == 2);
    CHECK(fixture.findings[0].number == 2 && fixture.findings[0].offset == 0);
    CHECK(fixture.findings[1].number == 2 && fixture.findings[1].offset == SEGMENT_HEADER_SIZE);
    free(bytes);
}

static void records_larger_than_a_piece_are_verified(void **state)
{
    static const uint32_t at[] = {0, 5, 9, 16, 1000000, 1048576, 2 << 20, LARGE_SIZE - 1};
    uint64_t records;
    size_t large = fixture.put_count;

    (void)state;
    put(1, LARGE_SIZE);
    put(2, (1 << 20) - SEGMENT_HEADER_SIZE); /* its end is about the piece's */
    put_many(1200, 900);
    check_clean();
    records = sealed_records(NULL);
    CHECK(is_sealed(large) && is_sealed(large + 1));
    for (size_t i = 0; i < sizeof(at) / sizeof(*at); i++)
        damage_and_mend(large, (uint64_t)at[i] * 8 + 3, records);
    damage_and_mend(large + 1, ((1 << 20) - SEGMENT_HEADER_SIZE - 5) * 8, records);
    check_clean();
}

static void a_file_that_is_cut_or_gone_is_found(void **state)
{
    uint64_t records = sealed_records(NULL), lost = 0;
    size_t i = 0;
    char path[64];

    (void)state;
    while (km__position_number(fixture.positions[i]) < 3)
        i++;
    i -= 10; /* in the last part of segment 2 */
    path_of(path, 2);
    CHECK(km__sim_truncate_path(fixture.sim, path, km__position_offset(fixture.positions[i])) == 0);
    CHECK_STATUS(scrub(), KM_E_CORRUPT);
    CHECK(fixture.findings[0].number == 2 &&
          fixture.findings[0].offset == km__position_offset(fixture.positions[i]));
    lost = records - fixture.result.record_count;
    CHECK(lost >= 10 && lost <= 12); /* marks, padding */
    CHECK(km__sim_delete_path(fixture.sim, path) == 0);
    CHECK_STATUS(scrub(), KM_E_CORRUPT);
    CHECK(fixture.finding_count == 1 && fixture.findings[0].number == 2 &&
          fixture.findings[0].offset == 0);
}

static void what_cannot_be_read_is_damage_and_the_rest_is_verified(void **state)
{
    uint64_t segments;

    (void)state;
    sealed_records(&segments);
    km__sim_fail_call(fixture.sim, SIM_READ, 1, KM_E_IO, EIO);
    CHECK_STATUS(scrub(), KM_E_CORRUPT);
    CHECK(fixture.finding_count == 1 && fixture.findings[0].number == 1);
    CHECK(fixture.result.segment_count == segments && fixture.result.record_count > 300);
    km__sim_fail_call(fixture.sim, SIM_OPEN_FILE, 2, KM_E_LIMIT, EMFILE);
    CHECK_STATUS(km_scrub(fixture.store, 0, NULL, NULL, NULL), KM_E_LIMIT);
    km__sim_fail_allocation(fixture.sim, 2); /* the first is the file's handle */
    CHECK_STATUS(km_scrub(fixture.store, 0, NULL, NULL, NULL), KM_E_NO_MEMORY);
    check_clean();
}

/* It may differ from what is in memory, and is not safe yet. */
static void the_segment_that_is_written_is_left_alone(void **state)
{
    km_position last = fixture.positions[fixture.put_count - 1];

    (void)state;
    CHECK(!is_sealed(fixture.put_count - 1));
    flip(km__position_number(last), (uint64_t)km__position_offset(last) * 8 + 40);
    check_clean();
    flip(km__position_number(last), (uint64_t)km__position_offset(last) * 8 + 40);
}

/* A kill leaves a segment that ends before its file does. */
static void what_a_crash_made_void_is_not_looked_at(void **state)
{
    struct os *sim;

    (void)state;
    for (int i = 0; i < 3; i++) {
        for (int n = 0; n < 60; n++)
            put(7, 3000); /* not synced, some in the ring alone */
        sim = i == 1 ? km__sim_clone_after_power_cut(fixture.sim, harness_seed(), SIM_POWER_RANDOM)
                     : km__sim_clone_after_kill(fixture.sim);
        harness_close(fixture.store);
        km__sim_destroy(fixture.sim);
        fixture.sim = sim;
        open_store(KM_OPEN_READ_ONLY);
        CHECK_STATUS(scrub(), KM_OK);
        harness_close(fixture.store);
        open_store(KM_OPEN_EXISTING);
        put_many(600, 900);
        check_clean();
    }
}

static void it_is_refused_where_it_cannot_be(void **state)
{
    km_store *memory = NULL;
    km_reader *reader = NULL;

    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &memory, NULL), KM_OK);
    CHECK_STATUS(km_scrub(memory, 0, NULL, NULL, NULL), KM_E_UNSUPPORTED);
    harness_close(memory);
    CHECK_STATUS(km_read_begin(fixture.store, &reader), KM_OK);
    CHECK_STATUS(km_scrub(fixture.store, 0, NULL, NULL, NULL), KM_WOULD_BLOCK);
    km_read_end(reader);
    *fixture.store->fork_word = 0;
    CHECK_STATUS(km_scrub(fixture.store, 0, NULL, NULL, NULL), KM_E_FORKED);
    *fixture.store->fork_word = 1;
    CHECK_STATUS(km_scrub(fixture.store, 0, NULL, NULL, NULL), KM_OK);
}

/* ---- slices ------------------------------------------------------------------------------ */

/* Slices until the round is over; how many. */
static size_t scrub_round(uint64_t bytes)
{
    size_t count = 0;

    fixture.store->scrub_credit = 0;
    do {
        CHECK_STATUS(km__scrub_some(fixture.store, bytes), KM_OK);
        CHECK(++count < 100000);
    } while (fixture.store->scrub_place.number);
    return count;
}

static void slices_go_round_and_miss_nothing(void **state)
{
    static const uint64_t sizes[] = {65536, 70000, 100000, 5 << 20};
    uint64_t total;

    (void)state;
    put(1, LARGE_SIZE);
    put_many(600, 900);
    fixture.line_count = 0;
    for (size_t n = 0; n < sizeof(sizes) / sizeof(*sizes); n++) {
        size_t count;

        fixture.store->scrubbed_bytes = 0;
        count = scrub_round(sizes[n]);
        total = fixture.store->scrubbed_bytes;
        printf("%llu bytes: %zu slices\n", (unsigned long long)sizes[n], count);
        CHECK(count >= (sizes[n] <= 100000 ? 8 : 1) && fixture.line_count == 0);
        CHECK(total > LARGE_SIZE + (4 * 240u << 10) && total < LARGE_SIZE * 3u);
        for (size_t i = 40; i < 1500; i += 333) {
            uint64_t bit = (uint64_t)km__position_offset(fixture.positions[i]) * 8 + 77;

            flip(km__position_number(fixture.positions[i]), bit);
            scrub_round(sizes[n]);
            flip(km__position_number(fixture.positions[i]), bit);
            CHECK(fixture.line_count == 1 && strstr(fixture.line, ".segment"));
            fixture.line_count = 0;
        }
    }
}

static void small_slices_read_no_more_than_they_may(void **state)
{
    uint64_t calls = 0;

    (void)state;
    put(1, LARGE_SIZE);
    put_many(600, 900);
    fixture.store->scrubbed_bytes = 0;
    do {
        CHECK_STATUS(km__scrub_some(fixture.store, 1000), KM_OK);
        calls++;
        CHECK(fixture.store->scrubbed_bytes <= calls * 1000 + LARGE_SIZE + (1 << 20));
    } while (fixture.store->scrub_place.number || calls < 200);
    CHECK(calls >= fixture.store->scrubbed_bytes / 1000 - LARGE_SIZE / 1000);
    CHECK(fixture.store->scrubbed_bytes > LARGE_SIZE);
}

static void a_place_larger_than_a_slice_is_found_once(void **state)
{
    static const uint8_t zeros[150000];
    char path[64];

    (void)state;
    path_of(path, 2);
    CHECK(km__sim_overwrite_path(fixture.sim, path, 60000, zeros, sizeof(zeros)) == 0);
    scrub_round(65536);
    CHECK(fixture.line_count == 1);
    CHECK(strstr(fixture.line, "from offset "));
    CHECK(strtoull(strstr(fixture.line, "from offset ") + 12, NULL, 10) <= 60000);
    scrub_round(70000);
    CHECK(fixture.line_count == 2);
}

static void a_slice_goes_on_at_the_head_when_its_segment_has_gone(void **state)
{
    (void)state;
    CHECK_STATUS(km__scrub_some(fixture.store, 65536), KM_OK);
    CHECK(fixture.store->scrub_place.number == 1);
    CHECK_STATUS(km_compact(fixture.store, NULL, NULL, NULL), KM_OK);
    CHECK(km__log_head_number(fixture.store->log) > 1);
    put_many(1200, 900);
    scrub_round(70000);
    CHECK(fixture.line_count == 0);
    check_clean();
}

/* ---- beside others, on the machine ------------------------------------------------------- */

struct writer {
    km_map *map;
    uint64_t stream;
    _Atomic int *stopping;
    pthread_t thread;
};

static void *run_writer(void *context)
{
    struct writer *writer = context;
    struct harness_random random = harness_stream(writer->stream);
    uint8_t value[3000];

    while (!atomic_load(writer->stopping)) {
        uint64_t key = harness_below(&random, 300);

        harness_fill(value, sizeof(value), key);
        CHECK_STATUS(km_put_u64(writer->map, key,
                                km_bytes_of(value, harness_below(&random, sizeof(value))), NULL),
                     KM_OK);
    }
    return NULL;
}

static void writers_and_compaction_go_on_beside_it(void **state)
{
    static const km_options init = KM_OPTIONS_INIT;
    struct writer writers[2];
    km_options options = init;
    km_check_result result = {0};
    uint64_t begin_ns = harness_now_ns(), segments = 0;
    _Atomic int stopping = 0;
    char path[HARNESS_PATH_SIZE];
    km_store *store;

    (void)state;
    harness_make_folder(path);
    options.log_size_min = 1 << 20;
    options.sync_interval_ms = 20;
    store = harness_open(path, &options);
    for (int i = 0; i < 2; i++) {
        writers[i] = (struct writer){harness_map(store, "map"), 70 + (uint64_t)i, &stopping, 0};
        CHECK(pthread_create(&writers[i].thread, NULL, run_writer, &writers[i]) == 0);
    }
    while (!segments || harness_now_ns() - begin_ns < UINT64_C(6000000) * harness_scaled(100)) {
        CHECK_STATUS(km_scrub(store, 0, NULL, NULL, &result), KM_OK);
        segments += result.segment_count;
    }
    atomic_store(&stopping, 1);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(writers[i].thread, NULL) == 0);
    harness_close(store);
    harness_remove(path);
}

static void the_rate_is_kept(void **state)
{
    char path[HARNESS_PATH_SIZE];
    km_check_result result;
    km_store *store;
    uint64_t begin_ns, took;
    km_map *map;

    (void)state;
    harness_make_folder(path);
    store = harness_open(path, NULL);
    map = harness_map(store, "map");
    for (uint64_t i = 0; i < 6 * 256; i++)
        CHECK_STATUS(km_put_u64(map, i, km_bytes_of(fixture.value, 1000), NULL), KM_OK);
    CHECK_STATUS(km_wait_durable(store, 0), KM_OK);
    begin_ns = harness_now_ns();
    CHECK_STATUS(km_scrub(store, 5 << 20, NULL, NULL, &result), KM_OK);
    took = harness_now_ns() - begin_ns;
    CHECK(result.segment_count >= 3);
    CHECK(took >= UINT64_C(130000000) && took < UINT64_C(20000000000)); /* 3 x 256 KiB at least */
    harness_close(store);
    harness_remove(path);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_fixture, close_fixture)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_clean_store_gives_no_finding),
        CASE(a_flipped_bit_is_found_where_it_is),
        CASE(damaged_places_are_found_one_by_one),
        CASE(a_run_of_zeros_is_one_place),
        CASE(damage_in_a_header_is_found),
        CASE(a_file_in_the_wrong_place_is_found),
        CASE(records_larger_than_a_piece_are_verified),
        CASE(a_file_that_is_cut_or_gone_is_found),
        CASE(what_cannot_be_read_is_damage_and_the_rest_is_verified),
        CASE(the_segment_that_is_written_is_left_alone),
        CASE(what_a_crash_made_void_is_not_looked_at),
        CASE(it_is_refused_where_it_cannot_be),
        CASE(slices_go_round_and_miss_nothing),
        CASE(small_slices_read_no_more_than_they_may),
        CASE(a_place_larger_than_a_slice_is_found_once),
        CASE(a_slice_goes_on_at_the_head_when_its_segment_has_gone),
        CASE(writers_and_compaction_go_on_beside_it),
        CASE(the_rate_is_kept),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
