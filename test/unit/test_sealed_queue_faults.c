/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed_queue_faults.c -- asynchronous reads when something goes wrong: disks, memory,
 * damage, machines without io_uring, forks, threads that end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>

#include "base/compiler.h"
#include "test_sealed_queue_util.h"

/* ---- failures ---------------------------------------------------------------------------- */

static void a_read_that_fails_fails_its_request_alone(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth <= 12; nth++) {
        struct os *machine = km__sim_create(harness_seed() + nth);
        km_bytes keys[8];
        km_u64_key bytes[8];
        km_sealed_result results[16];
        km_sealed_queue *queue;
        km_sealed *table;
        size_t count = 0, failed = 0, total = 0;
        CHECK_STATUS(machine->ops->create_dir(machine, "t"), KM_OK);
        build_at(machine, "t/table", &sealed_looks[1], 40000, NULL);
        table = open_on(machine, "t/table", 1);
        queue = open_queue_on(machine, KM_SEALED_ENGINE_AUTO, 0, 3, 2);
        CHECK(km_sealed_queue_engine(queue) == KM_SEALED_ENGINE_THREADS);
        km__sim_fail_call(machine, SIM_READ, nth, KM_E_IO, EIO);
        for (uint64_t i = 0; i < 8; i++) { /* far from one another: a read each */
            bytes[i] = km_u64_key_from(i * 12000);
            keys[i] = km_bytes_of(bytes[i].bytes + 4, 4);
        }
        CHECK_STATUS(km_sealed_submit_get_many(queue, table, keys, 8, NULL, bytes), KM_OK);
        for (uint64_t i = 0; i < 4; i++)
            CHECK_STATUS(km_sealed_submit_get_number(queue, table, i * 3000, NULL, NULL), KM_OK);
        for (; total < 5; total += count) {
            CHECK_STATUS(km_sealed_queue_poll(queue, results, 16, -1, &count), KM_OK);
            for (size_t k = 0; k < count; k++) {
                CHECK(results[k].status == KM_OK || results[k].status == KM_E_IO);
                CHECK(results[k].status == KM_OK || results[k].found == 0);
                failed += results[k].status == KM_E_IO;
            }
        }
        CHECK(failed == 1);
        CHECK(km_sealed_queue_pending(queue) == 0);
        km__sim_clear_faults(machine);
        CHECK_STATUS(km_sealed_submit_get_many(queue, table, keys, 8, NULL, bytes), KM_OK);
        CHECK_STATUS(km_sealed_queue_poll(queue, results, 16, -1, &count), KM_OK);
        while (count == 0)
            CHECK_STATUS(km_sealed_queue_poll(queue, results, 16, -1, &count), KM_OK);
        CHECK(results[0].status == KM_OK && results[0].found == 8);
        km_sealed_queue_close(queue);
        km_sealed_close(table);
        CHECK(km__sim_open_count(machine) == 0 && km__sim_allocated_bytes(machine) == 0);
        km__sim_destroy(machine);
    }
}

static void without_memory_nothing_is_queued(void **state)
{
    struct os *machine = km__sim_create(harness_seed());
    int failures = 0;

    (void)state;
    CHECK_STATUS(machine->ops->create_dir(machine, "t"), KM_OK);
    build_at(machine, "t/table", &sealed_looks[1], 4000, NULL);
    for (uint64_t nth = 1; nth < 40; nth++) {
        km_sealed *table = open_on(machine, "t/table", 1);
        km_sealed_queue *queue = NULL;
        km_error error = {0};
        km_bytes keys[2] = {km_bytes_of("\0\0\0\3", 4), km_bytes_of("\0\0\0\6", 4)};
        size_t pending;
        km_status rc;
        km__sim_fail_allocation(machine, nth);
        rc = km__sealed_queue_open(machine, NULL, &queue, &error);
        CHECK(rc == KM_OK || (rc == KM_E_NO_MEMORY && error.status == rc && !queue));
        for (int i = 0; !rc && i < 6; i++) {
            pending = km_sealed_queue_pending(queue);
            rc = i % 2 ? km_sealed_submit_get(queue, table, keys[0], NULL, NULL)
                       : km_sealed_submit_get_many(queue, table, keys, 2, NULL, NULL);
            CHECK(rc == KM_OK || rc == KM_E_NO_MEMORY);
            CHECK(km_sealed_queue_pending(queue) == pending + (rc == KM_OK));
        }
        failures += rc != KM_OK;
        km__sim_fail_allocation(machine, 0);
        if (queue)
            drain(queue);
        km_sealed_queue_close(queue);
        km_sealed_close(table);
        CHECK(km__sim_open_count(machine) == 0);
    }
    CHECK(failures > 12 && failures < 39);
    CHECK(km__sim_allocated_bytes(machine) == 0);
    km__sim_destroy(machine);
}

static void damage_is_found_in_its_block_alone(void **state)
{
    (void)state;
    build(&sealed_looks[1], 20000, NULL);
    {
        int fd = open(path, O_RDWR);
        uint8_t page[4096];
        CHECK(fd >= 0 && pread(fd, page, sizeof(page), 4096 * 20) == (ssize_t)sizeof(page));
        page[9] ^= 1; /* in the head of a block */
        CHECK(pwrite(fd, page, sizeof(page), 4096 * 20) == (ssize_t)sizeof(page));
        close(fd);
    }
    for (size_t i = 0; i < 2 * ENGINE_COUNT; i++) {
        km_sealed_queue *queue = open_queue(engines[i % ENGINE_COUNT], 0, 0);
        km_sealed *table = open_table((int)i / ENGINE_COUNT);
        uint64_t corrupt = 0, right = 0;
        for (uint64_t n = 0; queue && n < 4000; n++) {
            km_sealed_result result = {0};
            km_buffer value = KM_BUFFER_INIT;
            size_t count = 0;
            km_status rc = km_sealed_get_number(table, n * 3, &value);
            CHECK_STATUS(km_sealed_submit_get_number(queue, table, n * 3, NULL, NULL), KM_OK);
            CHECK_STATUS(km_sealed_queue_poll(queue, &result, 1, -1, &count), KM_OK);
            CHECK(count == 1);
            CHECK_STATUS(result.status, rc);
            corrupt += rc == KM_E_CORRUPT;
            right += rc == KM_OK;
            km_buffer_free(&value);
        }
        CHECK(!queue || (corrupt > 5 && corrupt < 200 && right == 4000 - corrupt));
        km_sealed_queue_close(queue);
        km_sealed_close(table);
    }
}

static void a_file_that_was_cut_short_is_an_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < ENGINE_COUNT; i++) {
        km_sealed_queue *queue = open_queue(engines[i], 0, 0);
        km_sealed_result result = {0};
        size_t count = 0;
        km_sealed *table;
        build(&sealed_looks[1], 20000, NULL);
        table = open_table(1);
        CHECK(truncate(path, 4096 * 10 + 100) == 0);
        if (queue) {
            CHECK_STATUS(km_sealed_submit_get_number(queue, table, 0, NULL, NULL), KM_OK);
            CHECK_STATUS(km_sealed_queue_poll(queue, &result, 1, -1, &count), KM_OK);
            CHECK(count == 1 && result.status == KM_OK);
            CHECK_STATUS(km_sealed_submit_get_number(queue, table, 59997, NULL, NULL), KM_OK);
            CHECK_STATUS(km_sealed_queue_poll(queue, &result, 1, -1, &count), KM_OK);
            CHECK(count == 1 && result.status == KM_E_IO);
        }
        km_sealed_queue_close(queue);
        km_sealed_close(table);
    }
}

/* ---- machines without io_uring ----------------------------------------------------------- */

static km_status refuse_ring(struct os *os, uint32_t depth, int notify_fd,
                             struct os_ring **out_ring)
{
    (void)os;
    (void)depth;
    (void)notify_fd;
    (void)out_ring;
    return KM_E_UNSUPPORTED;
}

static void threads_do_what_io_uring_may_not(void **state)
{
    struct os os = *km__os_linux();
    struct os_ops ops = *os.ops;
    km_sealed_queue_options options = KM_SEALED_QUEUE_OPTIONS_INIT;
    km_sealed_result result = {0};
    km_sealed_queue *queue = NULL;
    km_sealed *table;
    km_error error = {0};
    size_t count = 0;

    (void)state;
    ops.open_ring = refuse_ring;
    os.ops = &ops;
    options.engine = KM_SEALED_ENGINE_IO_URING;
    CHECK_STATUS(km__sealed_queue_open(&os, &options, &queue, &error), KM_E_UNSUPPORTED);
    CHECK(error.status == KM_E_UNSUPPORTED && queue == NULL);
    queue = open_queue_on(&os, KM_SEALED_ENGINE_AUTO, 0, 0, 0);
    CHECK(km_sealed_queue_engine(queue) == KM_SEALED_ENGINE_THREADS);
    build(&sealed_looks[1], 2000, NULL);
    table = open_on(&os, path, 1);
    make_cold();
    CHECK_STATUS(km_sealed_submit_get_number(queue, table, 300, NULL, NULL), KM_OK);
    CHECK_STATUS(km_sealed_queue_poll(queue, &result, 1, -1, &count), KM_OK);
    CHECK(count == 1 && result.status == KM_OK);
    km_sealed_queue_close(queue);
    km_sealed_close(table);
}

/* ---- forks ------------------------------------------------------------------------------- */

/* What a child does; returns whether all was as it should be. */
static int child_is_right(km_sealed_queue *queue, const km_sealed *table, km_sealed_engine engine)
{
    km_sealed_queue_options options = KM_SEALED_QUEUE_OPTIONS_INIT;
    km_sealed_queue *own = NULL;
    km_sealed_result result = {0};
    km_bytes key = km_bytes_of("\0\0\0\3", 4);
    km_buffer memory = KM_BUFFER_INIT;
    km_bytes value;
    size_t count = 0;

    if (km_sealed_submit_get(queue, table, key, NULL, NULL) != KM_E_FORKED ||
        km_sealed_submit_get_number(queue, table, 3, NULL, NULL) != KM_E_FORKED ||
        km_sealed_submit_get_many(queue, table, &key, 1, NULL, NULL) != KM_E_FORKED ||
        km_sealed_queue_poll(queue, &result, 1, 0, &count) != KM_E_FORKED ||
        km_sealed_queue_fd(queue) != -1 || km_sealed_queue_pending(queue) != 0)
        return 0;
    km_sealed_queue_close(queue);
    /* ThreadSanitizer lets no child start threads */
    options.engine = engine;
    if (KM_THREAD_SANITIZER && engine == KM_SEALED_ENGINE_THREADS)
        return 1;
    if (km_sealed_queue_open(&options, &own, NULL) != KM_OK ||
        km_sealed_submit_get(own, table, key, NULL, NULL) != KM_OK ||
        km_sealed_queue_poll(own, &result, 1, -1, &count) != KM_OK || count != 1 ||
        result.status != KM_OK)
        return 0;
    km_sealed_queue_close(own);
    if (km_sealed_get_many(table, &key, 1, &memory, &value, &count) != KM_OK || count != 1)
        return 0;
    km_buffer_free(&memory);
    return 1;
}

static void a_child_leaves_its_parents_queue_alone(void **state)
{
    (void)state;
    build(&sealed_looks[1], 20000, NULL);
    for (size_t i = 0; i < ENGINE_COUNT; i++) {
        km_sealed_queue *queue = open_queue(engines[i], 0, 0);
        km_sealed *table = open_table(1);
        km_sealed_result results[20];
        size_t count = 0, total = 0;
        int status = 0;
        pid_t child;
        if (queue) {
            make_cold();
            for (uint64_t n = 0; n < 20; n++)
                CHECK_STATUS(km_sealed_submit_get_number(queue, table, n * 3000, NULL, NULL),
                             KM_OK);
            child = fork();
            CHECK(child >= 0);
            if (child == 0)
                _exit(child_is_right(queue, table, engines[i]) ? 0 : 1);
            CHECK(waitpid(child, &status, 0) == child);
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
            for (; total < 20; total += count) {
                CHECK_STATUS(km_sealed_queue_poll(queue, results, 20, -1, &count), KM_OK);
                for (size_t k = 0; k < count; k++)
                    CHECK_STATUS(results[k].status, KM_OK);
            }
        }
        km_sealed_queue_close(queue);
        km_sealed_close(table);
    }
}

/* ---- many tables ------------------------------------------------------------------------- */

#define TABLE_COUNT 12

static void one_queue_reads_many_tables(void **state)
{
    km_sealed *tables[TABLE_COUNT];
    char name[HARNESS_PATH_SIZE + 16];

    (void)state;
    for (uint64_t t = 0; t < TABLE_COUNT; t++) {
        km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
        km_sealed_builder *builder = NULL;
        options.keys = KM_SEALED_U64;
        snprintf(name, sizeof(name), "%s/many%u", folder, (unsigned)t);
        CHECK_STATUS(km_sealed_builder_open(name, &options, &builder, NULL), KM_OK);
        for (uint64_t n = 0; n < 2000; n++) {
            uint64_t value[8] = {t, n};
            CHECK_STATUS(
                km_sealed_builder_add_number(builder, n, km_bytes_of(value, sizeof(value))), KM_OK);
        }
        CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
        tables[t] = open_on(km__os_linux(), name, (int)(t % 2));
    }
    for (size_t i = 0; i < ENGINE_COUNT; i++) {
        km_sealed_queue *queue = open_queue(engines[i], 1000, 16);
        km_sealed_result results[100];
        size_t count, total = 0;
        for (uint64_t n = 0; queue && n < 600; n++)
            CHECK_STATUS(km_sealed_submit_get_number(queue, tables[n % TABLE_COUNT], n, NULL,
                                                     (void *)(uintptr_t)n),
                         KM_OK);
        for (; queue && total < 600; total += count) {
            CHECK_STATUS(km_sealed_queue_poll(queue, results, 100, -1, &count), KM_OK);
            for (size_t k = 0; k < count; k++) {
                uint64_t n = (uintptr_t)results[k].user;
                uint64_t value[2];
                CHECK(results[k].status == KM_OK && results[k].value.size == 64);
                memcpy(value, results[k].value.data, sizeof(value));
                CHECK(value[0] == n % TABLE_COUNT && value[1] == n);
            }
        }
        km_sealed_queue_close(queue);
    }
    for (size_t t = 0; t < TABLE_COUNT; t++)
        km_sealed_close(tables[t]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_read_that_fails_fails_its_request_alone),
        cmocka_unit_test(without_memory_nothing_is_queued),
        cmocka_unit_test(damage_is_found_in_its_block_alone),
        cmocka_unit_test(a_file_that_was_cut_short_is_an_error),
        cmocka_unit_test(threads_do_what_io_uring_may_not),
        cmocka_unit_test(a_child_leaves_its_parents_queue_alone),
        cmocka_unit_test(one_queue_reads_many_tables),
    };

    begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
