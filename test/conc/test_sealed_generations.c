/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed_generations.c -- a process builds a table anew, again and again, while others read
 * it.
 *
 * The values of a generation carry its number, which also says how many keys it has. Two processes
 * with two threads each open the table, read it in every way, and open it again. The builder
 * sometimes removes the file instead of replacing it.
 *
 * C1. Every answer of an open table is of one generation, and of that as a whole, also after the
 *     file was replaced or removed.
 * C2. Who opens the table again finds no earlier generation than one that was complete before, and
 *     never a file that is no table.
 * C3. A build leaves no file but the table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/harness_util.h"

#define PROCESS_COUNT 2u
#define THREAD_COUNT 2u
#define MANY_COUNT 40u
#define COUNT_MAX 6000u
#define VALUE_SIZE_MAX 200u

/* In memory that all processes share. */
struct shared {
    _Atomic uint64_t done;    /* the last generation that is complete */
    _Atomic uint64_t begun;   /* the one that is being built */
    _Atomic uint32_t is_over; /* the builder has ended */
    _Atomic uint64_t opens, reads, walks, verifies, absences;
};

struct plan {
    char folder[HARNESS_PATH_SIZE], path[HARNESS_PATH_SIZE];
    struct shared *shared;
    km_sealed_compression compression;
    int removes; /* the builder sometimes removes the table */
    uint64_t generations;
};

struct reader {
    const struct plan *plan;
    struct harness_random random;
    km_sealed_options options;
    km_sealed *table;
    uint64_t generation, count;
    km_buffer buffer;
    pthread_t thread;
};

/* ---- generations ------------------------------------------------------------------------- */

static uint64_t count_of(uint64_t generation)
{
    return 1 + generation * 2654435761u % COUNT_MAX;
}

static size_t size_of(uint64_t generation, uint64_t key)
{
    return HARNESS_VALUE_MIN + (generation * 31 + key) % (VALUE_SIZE_MAX - HARNESS_VALUE_MIN);
}

/* The n-th key of a generation; every second number, so that others are absent. */
static uint64_t key_of(uint64_t generation, uint64_t n)
{
    return 2 * n + generation % 2;
}

static void add_key(km_sealed_builder *builder, uint64_t generation, uint64_t n)
{
    uint64_t key = key_of(generation, n);
    uint8_t value[VALUE_SIZE_MAX];

    harness_value_fill(value, size_of(generation, key), key, generation);
    CHECK_STATUS(
        km_sealed_builder_add_number(builder, key, km_bytes_of(value, size_of(generation, key))),
        KM_OK);
}

/* In order, or not; now and then it is given up first. */
static void build_generation(const struct plan *plan, uint64_t generation)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    uint64_t count = count_of(generation);
    km_sealed_builder *builder = NULL;

    options.keys = KM_SEALED_U64;
    options.memory_max = KM_SEALED_MEMORY_MIN;
    options.compression = plan->compression;
    CHECK_STATUS(km_sealed_builder_open(plan->path, &options, &builder, NULL), KM_OK);
    if (generation % 5 == 0) {
        add_key(builder, generation + 1, 0);
        km_sealed_builder_abort(builder);
        CHECK_STATUS(km_sealed_builder_open(plan->path, &options, &builder, NULL), KM_OK);
    }
    for (uint64_t n = 0; n < count; n++)
        add_key(builder, generation, generation % 3 ? n : count - 1 - n);
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
}

/* C3 */
static void check_folder(const struct plan *plan)
{
    DIR *dir = opendir(plan->folder);
    struct dirent *entry;

    CHECK(dir);
    while ((entry = readdir(dir)) != NULL)
        CHECK_MSG(entry->d_name[0] == '.' || strcmp(entry->d_name, "table") == 0, "%s is left",
                  entry->d_name);
    closedir(dir);
}

static void run_builder(const struct plan *plan)
{
    struct shared *shared = plan->shared;

    for (uint64_t generation = 2; generation <= plan->generations; generation++) {
        atomic_store(&shared->begun, generation);
        if (plan->removes && generation % 4 == 0)
            CHECK(unlink(plan->path) == 0);
        build_generation(plan, generation);
        atomic_store(&shared->done, generation);
        check_folder(plan);
    }
    atomic_store(&shared->is_over, 1);
}

/* ---- readers ----------------------------------------------------------------------------- */

static void check_value(const struct reader *reader, uint64_t key, km_bytes value)
{
    CHECK(value.size == size_of(reader->generation, key));
    CHECK_MSG(harness_value_version(value, key) == reader->generation,
              "key %llu is of another generation than %llu", (unsigned long long)key,
              (unsigned long long)reader->generation);
}

/* Any key of the first generations, about every second one of them there. */
static uint64_t random_number(struct reader *reader)
{
    return harness_below(&reader->random, 2 * reader->count + 4);
}

static int is_there(const struct reader *reader, uint64_t number)
{
    return number % 2 == reader->generation % 2 && number / 2 < reader->count;
}

static void read_keys(struct reader *reader)
{
    for (int i = 0; i < 40; i++) {
        uint64_t number = random_number(reader);
        km_status rc = km_sealed_get_number(reader->table, number, &reader->buffer);

        CHECK_STATUS(rc, is_there(reader, number) ? KM_OK : KM_NOT_FOUND);
        if (!rc)
            check_value(reader, number, km_bytes_of(reader->buffer.data, reader->buffer.size));
    }
}

static void read_many(struct reader *reader)
{
    km_u64_key keys[MANY_COUNT];
    km_bytes wanted[MANY_COUNT], values[MANY_COUNT];
    uint64_t numbers[MANY_COUNT];
    size_t found = 0, expected = 0;

    for (uint32_t i = 0; i < MANY_COUNT; i++) {
        numbers[i] = random_number(reader);
        keys[i] = km_u64_key_from(numbers[i]);
        wanted[i] = km_bytes_of(keys[i].bytes, 8);
        expected += (size_t)is_there(reader, numbers[i]);
    }
    CHECK_STATUS(
        km_sealed_get_many(reader->table, wanted, MANY_COUNT, &reader->buffer, values, &found),
        KM_OK);
    CHECK(found == expected);
    for (uint32_t i = 0; i < MANY_COUNT; i++) {
        CHECK((values[i].data != NULL) == is_there(reader, numbers[i]));
        if (values[i].data)
            check_value(reader, numbers[i], values[i]);
    }
}

static void walk_table(struct reader *reader)
{
    km_sealed_cursor_options options = KM_SEALED_CURSOR_OPTIONS_INIT;
    km_sealed_cursor *cursor = NULL;
    km_bytes key, value;
    uint64_t n = 0;
    km_status rc;

    options.reverse = (int)harness_below(&reader->random, 2);
    CHECK_STATUS(km_sealed_cursor_open(reader->table, &options, &cursor), KM_OK);
    while ((rc = km_sealed_cursor_next(cursor, &key, &value)) == KM_OK) {
        uint64_t expected = key_of(reader->generation, options.reverse ? reader->count - 1 - n : n);

        CHECK(km_sealed_number(key) == expected);
        check_value(reader, expected, value);
        n++;
    }
    CHECK_STATUS(rc, KM_END);
    CHECK(n == reader->count);
    km_sealed_cursor_close(cursor);
    atomic_fetch_add(&reader->plan->shared->walks, 1);
}

static void verify_table(struct reader *reader)
{
    CHECK_STATUS(km_sealed_verify(reader->table, NULL, NULL, NULL), KM_OK);
    atomic_fetch_add(&reader->plan->shared->verifies, 1);
}

/* What generation it is: all others must be told apart from it by any value. */
static void learn_generation(struct reader *reader)
{
    km_sealed_cursor *cursor = NULL;
    km_bytes key, value;

    reader->count = km_sealed_count(reader->table);
    CHECK(reader->count > 0);
    CHECK_STATUS(km_sealed_cursor_open(reader->table, NULL, &cursor), KM_OK);
    CHECK_STATUS(km_sealed_cursor_next(cursor, &key, &value), KM_OK);
    reader->generation = harness_value_version(value, km_sealed_number(key));
    CHECK_MSG(reader->count == count_of(reader->generation), "generation %llu has %llu keys",
              (unsigned long long)reader->generation, (unsigned long long)reader->count);
    km_sealed_cursor_close(cursor);
}

/* C2. 0: it is removed for the moment. */
static int open_table(struct reader *reader)
{
    struct shared *shared = reader->plan->shared;
    uint64_t before = atomic_load(&shared->done);
    km_error error = {0};
    km_status rc = km_sealed_open(reader->plan->path, &reader->options, &reader->table, &error);

    if (rc == KM_NOT_FOUND && reader->plan->removes) {
        atomic_fetch_add(&shared->absences, 1);
        return 0;
    }
    CHECK_MSG(rc == KM_OK, "open: %s: %s", km_status_name(rc), error.message);
    learn_generation(reader);
    CHECK_MSG(reader->generation >= before && reader->generation <= atomic_load(&shared->begun),
              "generation %llu was found after %llu", (unsigned long long)reader->generation,
              (unsigned long long)before);
    atomic_fetch_add(&shared->opens, 1);
    return 1;
}

/* As long as `turns` say, so that the file is often replaced meanwhile. */
static void use_table(struct reader *reader)
{
    uint64_t turns = 1 + harness_below(&reader->random, 12);

    for (uint64_t i = 0; i < turns; i++) {
        read_keys(reader);
        read_many(reader);
        if (harness_below(&reader->random, 6) == 0)
            walk_table(reader);
        if (harness_below(&reader->random, 12) == 0)
            verify_table(reader);
        atomic_fetch_add(&reader->plan->shared->reads, 40 + MANY_COUNT);
    }
}

static void *run_reader(void *context)
{
    struct reader *reader = context;

    while (!atomic_load(&reader->plan->shared->is_over)) {
        if (!open_table(reader))
            continue;
        use_table(reader);
        km_sealed_close(reader->table);
    }
    km_buffer_free(&reader->buffer);
    return NULL;
}

/* Each thread has the table open for itself, with other options. */
static void run_process(const struct plan *plan, uint32_t process)
{
    static const km_sealed_options init = KM_SEALED_OPTIONS_INIT;
    struct reader readers[THREAD_COUNT];

    memset(readers, 0, sizeof(readers));
    for (uint32_t i = 0; i < THREAD_COUNT; i++) {
        readers[i].plan = plan;
        readers[i].random = harness_stream(10 * process + i);
        readers[i].options = init;
        readers[i].options.no_mapping = process == 1 && i == 1;
        readers[i].options.cache_size = i == 1 ? KM_SEALED_CACHE_SIZE_MIN : 0;
        CHECK(pthread_create(&readers[i].thread, NULL, run_reader, &readers[i]) == 0);
    }
    for (uint32_t i = 0; i < THREAD_COUNT; i++)
        pthread_join(readers[i].thread, NULL);
}

/* ---- runs -------------------------------------------------------------------------------- */

/* The process of the test builds, so that a failure in it ends the case. */
static void run_plan(struct plan *plan)
{
    struct shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t children[PROCESS_COUNT];
    int status;

    CHECK(shared != MAP_FAILED);
    plan->shared = shared;
    harness_make_fast_folder(plan->folder);
    harness_path(plan->path, plan->folder, "table");
    build_generation(plan, 1);
    atomic_store(&shared->begun, 1);
    atomic_store(&shared->done, 1);
    for (uint32_t i = 0; i < PROCESS_COUNT; i++) {
        children[i] = fork();
        CHECK(children[i] >= 0);
        if (children[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            run_process(plan, i);
            _exit(0);
        }
    }
    run_builder(plan);
    for (uint32_t i = 0; i < PROCESS_COUNT; i++) {
        CHECK(waitpid(children[i], &status, 0) == children[i]);
        CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a reader has failed: %x",
                  (unsigned)status);
    }
    printf("%llu generations, %llu opens, %llu reads, %llu walks, %llu verified, %llu absent\n",
           (unsigned long long)plan->generations, (unsigned long long)shared->opens,
           (unsigned long long)shared->reads, (unsigned long long)shared->walks,
           (unsigned long long)shared->verifies, (unsigned long long)shared->absences);
    CHECK(shared->opens > 0 && shared->reads > 0);
    harness_remove(plan->folder);
    munmap(shared, sizeof(*shared));
}

static void what_is_open_is_one_generation(void **state)
{
    struct plan plan = {.generations = harness_scaled(250)};

    (void)state;
    run_plan(&plan);
}

static void a_table_that_is_removed_is_read_on(void **state)
{
    struct plan plan = {.generations = harness_scaled(150), .removes = 1};

    (void)state;
    run_plan(&plan);
}

#ifdef KM_WITH_ZSTD
static void what_is_open_is_one_compressed_generation(void **state)
{
    struct plan plan = {.generations = harness_scaled(100), .compression = KM_SEALED_ZSTD};

    (void)state;
    run_plan(&plan);
}
#endif

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_open_is_one_generation),
        cmocka_unit_test(a_table_that_is_removed_is_read_on),
#ifdef KM_WITH_ZSTD
        cmocka_unit_test(what_is_open_is_one_compressed_generation),
#endif
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
