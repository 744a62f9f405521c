/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed_many.c -- how much gets read, asynchronous ones and those of many keys, and that the
 * latter are right whatever the machine says of its cache.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>

#include "test_sealed_queue_util.h"

/* ---- how much is read -------------------------------------------------------------------- */

static long bytes_from_disk(void)
{
    char text[1024] = {0};
    const char *line;
    int fd = open("/proc/self/io", O_RDONLY);

    if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
        return -1;
    close(fd);
    line = strstr(text, "read_bytes: ");
    return line ? atol(line + 12) : -1;
}

static void a_get_reads_one_block_and_no_more(void **state)
{
    enum { GETS = 200 };
    struct os *machine = km__sim_create(harness_seed());
    km_sealed_queue *queue;
    km_sealed *table;
    uint64_t before;

    (void)state;
    CHECK_STATUS(machine->ops->create_dir(machine, "t"), KM_OK);
    build_at(machine, "t/table", &sealed_looks[0], 20000, NULL);
    table = open_on(machine, "t/table", 0);
    queue = open_queue_on(machine, KM_SEALED_ENGINE_THREADS, 0, 0, 4);
    before = km__sim_call_count(machine, SIM_READ);
    for (uint64_t i = 0; i < GETS; i++)
        CHECK_STATUS(km_sealed_submit_get_number(queue, table, sealed_mix(i * 3), NULL, NULL),
                     KM_OK);
    drain(queue);
    CHECK(km__sim_call_count(machine, SIM_READ) - before == GETS);
    km_sealed_queue_close(queue);
    km_sealed_close(table);
    km__sim_destroy(machine);

    build(&sealed_looks[0], 100000, NULL);
    table = open_table(0);
    for (size_t i = 0; i < ENGINE_COUNT; i++) {
        long bytes;
        queue = open_queue(engines[i], 0, 0);
        make_cold();
        bytes = bytes_from_disk();
        for (uint64_t n = 0; queue && n < GETS; n++)
            CHECK_STATUS(
                km_sealed_submit_get_number(queue, table, sealed_mix(n * 1500), NULL, NULL), KM_OK);
        if (queue)
            drain(queue);
        CHECK(bytes_from_disk() - bytes <= GETS * 4096 * 5 / 4);
        km_sealed_queue_close(queue);
    }
    km_sealed_close(table);
}

/* ---- synchronous reads of many keys, whatever the machine says of its cache -------------- */

static struct {
    struct harness_random random;
    int mode; /* 0: all cached, 1: nothing, 2: it cannot tell, 3: by chance; clocks jump */
    uint64_t now_ns;
    uint64_t sooner;
} moody;

static km_status read_moodily(struct os_file *file, uint64_t offset, void *buffer, size_t size)
{
    static const km_status answers[] = {KM_OK, KM_WOULD_BLOCK, KM_E_UNSUPPORTED};
    int mode = moody.mode == 3 ? (int)harness_below(&moody.random, 8) : moody.mode;
    km_status rc = answers[mode > 2 ? 0 : mode];

    return rc ? rc : km__os_linux()->ops->read_at(file, offset, buffer, size);
}

static uint64_t jumping_clock(struct os *os)
{
    (void)os;
    moody.now_ns += harness_below(&moody.random, moody.mode == 3 ? 150000 : 1000);
    return moody.now_ns;
}

static void count_sooner(struct os_file *file, uint64_t offset, uint64_t size)
{
    moody.sooner++;
    km__os_linux()->ops->read_soon(file, offset, size);
}

static void get_many_is_right_warm_and_cold(void **state)
{
    struct os os = *km__os_linux();
    struct os_ops ops = *os.ops;

    (void)state;
    ops.read_cached = read_moodily;
    ops.now_ns = jumping_clock;
    ops.read_soon = count_sooner;
    os.ops = &ops;
    for (size_t look = 0; look < SEALED_LOOK_COUNT; look++) {
        struct sealed_model model = {0};
        build(&sealed_looks[look], harness_scaled(20000), &model);
        for (int i = 0; i < 8; i++) {
            enum { KEYS = 2000 };
            km_sealed *table = open_on(&os, path, i / 4);
            uint8_t(*bytes)[1400] = malloc(KEYS * sizeof(*bytes));
            km_bytes *keys = malloc(2 * KEYS * sizeof(*keys));
            km_bytes *values = keys + KEYS;
            km_buffer memory = KM_BUFFER_INIT;
            size_t found = 0, expected = 0, rank;
            CHECK(bytes && keys);
            moody.mode = i % 4;
            moody.sooner = 0;
            moody.random = harness_stream(look * 100 + (size_t)i);
            struct harness_random random = harness_stream(look * 1000 + (size_t)i);
            for (size_t k = 0; k < KEYS; k++)
                keys[k] = km_bytes_of(bytes[k],
                                      random_key(&sealed_looks[look], &model, &random, bytes[k]));
            CHECK_STATUS(km_sealed_get_many(table, keys, KEYS, &memory, values, &found), KM_OK);
            for (size_t k = 0; k < KEYS; k++) {
                int is_there = sealed_model_has(&model, keys[k], &rank);
                expected += (size_t)is_there;
                CHECK((values[k].data != NULL) == is_there);
                CHECK(!is_there || sealed_bytes_equal(values[k], model.records[rank].value,
                                                      model.records[rank].value_size));
            }
            CHECK(found == expected);
            CHECK(moody.mode != 0 || moody.sooner == 0); /* nothing to wait for */
            CHECK(moody.mode != 1 || moody.sooner > 0 || model.count < 3000);
            km_buffer_free(&memory);
            free(bytes);
            free(keys);
            km_sealed_close(table);
        }
        sealed_model_free(&model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_get_reads_one_block_and_no_more),
        cmocka_unit_test(get_many_is_right_warm_and_cold),
    };

    begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
