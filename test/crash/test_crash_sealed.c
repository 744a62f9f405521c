/* SPDX-License-Identifier: Apache-2.0
 *
 * test_crash_sealed.c -- cuts at every step of building and replacing a sealed table; and kill -9
 * of a process that does so in a loop, with real files.
 *
 * C1. Whatever was cut, by a kill or by the power, the table that is found is the old one or the
 *     new one as a whole, or none if there was none.
 * C2. Once the build has returned, the new one is found.
 * C3. The next build of the table works, and leaves nothing but the table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness/harness_util.h"
#include "os/os.h"
#include "sealed/sealed.h"
#include "sim/sim.h"

#define TABLE_PATH "t/table"
#define OLD_COUNT 500u
#define VALUE_SIZE 100u

struct build {
    const char *name;
    uint64_t count;
    uint64_t stride;  /* 1: in order */
    uint64_t swapped; /* this number comes last; count: none does */
    int has_old;
    km_sealed_compression compression;
};

struct scene {
    const struct build *build;
    struct harness_random random;
    struct os *os;
    uint64_t image_count, old_count, new_count, none_count;
    int is_done; /* the build has returned */
};

static km_status add_number(km_sealed_builder *builder, uint64_t number, uint64_t version)
{
    uint8_t value[VALUE_SIZE];

    harness_value_fill(value, sizeof(value), number, version);
    return km_sealed_builder_add_number(builder, number, km_bytes_of(value, sizeof(value)));
}

static km_status build_table(struct os *os, const char *path, const struct build *build,
                             uint64_t version)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;
    km_status rc;

    options.keys = KM_SEALED_U32;
    options.memory_max = KM_SEALED_MEMORY_MIN;
    options.compression = build->compression;
    rc = km__sealed_builder_open(os, path, &options, &builder, NULL);
    if (rc)
        return rc;
    for (uint64_t i = 0; !rc && i < build->count; i++) {
        uint64_t number = i * build->stride % build->count;
        if (number != build->swapped)
            rc = add_number(builder, number, version);
    }
    if (!rc && build->swapped < build->count)
        rc = add_number(builder, build->swapped, version);
    return km_sealed_builder_finish(builder, NULL);
}

/* The version of all values of a table that is whole; 0: there is no table. */
static uint64_t version_of_table(struct os *os, const char *path, uint64_t *out_count)
{
    km_sealed *table = NULL;
    km_sealed_cursor *cursor = NULL;
    km_error error = {0};
    km_bytes key, value;
    uint64_t version = 0, count = 0;
    km_status rc = km__sealed_open(os, path, NULL, &table, &error);

    *out_count = 0;
    if (rc == KM_NOT_FOUND)
        return 0;
    CHECK_MSG(rc == KM_OK, "%s: %s", km_status_name(rc), error.message);
    CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
    CHECK_STATUS(km_sealed_cursor_open(table, NULL, &cursor), KM_OK);
    while (km_sealed_cursor_next(cursor, &key, &value) == KM_OK) {
        uint64_t found = harness_value_version(value, km_sealed_number(key));
        CHECK(km_sealed_number(key) == count && (count == 0 || found == version));
        version = found;
        count++;
    }
    km_sealed_cursor_close(cursor);
    km_sealed_close(table);
    *out_count = count;
    return version;
}

static void count_path(void *context, const char *path, uint64_t size)
{
    (void)path;
    (void)size;
    (*(int *)context)++;
}

/* C1, C2, C3. The image is destroyed. */
static void check_image(struct scene *scene, struct os *image, const char *kind)
{
    static const struct build next = {"next", 50, 1, 50, 0, KM_SEALED_PLAIN};
    uint64_t count;
    uint64_t version = version_of_table(image, TABLE_PATH, &count);
    int path_count = 0;

    scene->image_count++;
    scene->none_count += version == 0;
    scene->old_count += version == 1;
    scene->new_count += version == 2;
    CHECK_MSG(version != 0 || !scene->build->has_old, "%s: the old table is gone", kind);
    CHECK_MSG(!scene->is_done || version == 2, "%s: the new table is gone", kind);
    CHECK_MSG(version == 0 || count == (version == 1 ? OLD_COUNT : scene->build->count),
              "%s: %llu records of version %llu", kind, (unsigned long long)count,
              (unsigned long long)version);
    CHECK_STATUS(build_table(image, TABLE_PATH, &next, 3), KM_OK);
    CHECK(version_of_table(image, TABLE_PATH, &count) == 3 && count == next.count);
    km__sim_list_paths(image, count_path, &path_count);
    CHECK_MSG(path_count == 1, "%s: %d files are left", kind, path_count);
    CHECK(km__sim_open_count(image) == 0);
    km__sim_destroy(image);
}

static void look_at_step(void *context, uint64_t step)
{
    struct scene *scene = context;
    uint64_t seed = harness_next(&scene->random);

    check_image(scene, km__sim_clone_after_kill(scene->os), "kill");
    if (step % 2 == 0)
        check_image(scene, km__sim_clone_after_kill_torn(scene->os, seed), "torn kill");
    for (int mode = 0; mode < SIM_POWER_MODE_COUNT; mode++)
        check_image(scene, km__sim_clone_after_power_cut(scene->os, seed, (enum sim_power)mode),
                    "power cut");
    for (int i = 0; i < 3; i++)
        check_image(
            scene,
            km__sim_clone_after_power_cut(scene->os, seed + 1 + (uint64_t)i, SIM_POWER_RANDOM),
            "power cut");
}

static void run_build(const struct build *build)
{
    static const struct build old = {"old", OLD_COUNT, 1, OLD_COUNT, 0, KM_SEALED_PLAIN};
    struct scene scene = {.build = build, .random = harness_stream(build->count)};

    scene.os = km__sim_create(harness_next(&scene.random));
    CHECK_STATUS(scene.os->ops->create_dir(scene.os, "t"), KM_OK);
    if (build->has_old)
        CHECK_STATUS(build_table(scene.os, TABLE_PATH, &old, 1), KM_OK);
    km__sim_on_step(scene.os, look_at_step, &scene);
    CHECK_STATUS(build_table(scene.os, TABLE_PATH, build, 2), KM_OK);
    scene.is_done = 1;
    look_at_step(&scene, 1);
    km__sim_on_step(scene.os, NULL, NULL);
    printf("%s: %llu steps, %llu images: %llu old, %llu new, %llu none\n", build->name,
           (unsigned long long)km__sim_step_count(scene.os), (unsigned long long)scene.image_count,
           (unsigned long long)scene.old_count, (unsigned long long)scene.new_count,
           (unsigned long long)scene.none_count);
    CHECK(scene.new_count > 0 && (build->has_old ? scene.old_count : scene.none_count) > 0);
    km__sim_destroy(scene.os);
}

static void a_first_table_is_there_or_not(void **state)
{
    static const struct build small = {"small", 10, 1, 10, 0, KM_SEALED_PLAIN};
    static const struct build in_order = {"in order", 30000, 1, 30000, 0, KM_SEALED_PLAIN};

    (void)state;
    run_build(&small);
    run_build(&in_order);
}

static void a_replaced_table_is_old_or_new(void **state)
{
    static const struct build small = {"small", 10, 1, 10, 1, KM_SEALED_PLAIN};
    static const struct build in_order = {"in order", 30000, 1, 30000, 1, KM_SEALED_PLAIN};

    (void)state;
    run_build(&small);
    run_build(&in_order);
}

static void a_sorted_table_is_old_or_new(void **state)
{
    static const struct build any_order = {"any order", 20011, 7919, 20011, 1, KM_SEALED_PLAIN};
    static const struct build late = {"almost in order", 20000, 1, 7, 1, KM_SEALED_PLAIN};

    (void)state;
    run_build(&any_order);
    run_build(&late);
}

#ifdef KM_WITH_ZSTD
static void a_compressed_table_is_old_or_new(void **state)
{
    static const struct build in_order = {"compressed", 20000, 1, 20000, 1, KM_SEALED_ZSTD};
    static const struct build any_order = {"compressed, any order", 20011, 7919, 20011, 1,
                                           KM_SEALED_ZSTD};

    (void)state;
    run_build(&in_order);
    run_build(&any_order);
}
#endif

/* ---- kill -9 ----------------------------------------------------------------------------- */

/* In memory that both processes share. */
struct progress {
    _Atomic uint64_t begun, done; /* versions */
};

/* Of some sizes, in order and not, so that kills meet all that a build does. */
static struct build build_of(uint64_t version, km_sealed_compression compression)
{
    static const uint64_t counts[] = {10, 3001, 20011, 40009};
    struct build build = {.name = "killed", .compression = compression};

    build.count = build.swapped = counts[version % 4];
    build.stride = version % 3 ? 1 : 7;
    if (version % 5 == 0)
        build.swapped = 3;
    return build;
}

static void build_for_ever(const char *path, struct progress *progress,
                           km_sealed_compression compression)
{
    for (uint64_t version = atomic_load(&progress->begun) + 1;; version++) {
        struct build build = build_of(version, compression);

        atomic_store(&progress->begun, version);
        CHECK_STATUS(build_table(km__os_linux(), path, &build, version), KM_OK);
        atomic_store(&progress->done, version);
    }
}

static void build_and_kill(const char *path, struct progress *progress,
                           km_sealed_compression compression, uint64_t us)
{
    struct timespec time = {0, (long)us * 1000};
    pid_t child = fork();
    int status;

    CHECK(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        build_for_ever(path, progress, compression);
        _exit(1);
    }
    nanosleep(&time, NULL);
    kill(child, SIGKILL);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_MSG(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
              "the builder ended by itself: status %x", (unsigned)status);
}

static uint32_t count_files(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    uint32_t count = 0;

    CHECK(dir);
    while ((entry = readdir(dir)) != NULL)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

/* C1, C2: what a kill has left. Returns its version. */
static uint64_t check_killed(const char *path, const struct progress *progress)
{
    uint64_t count, version = version_of_table(km__os_linux(), path, &count);

    CHECK_MSG(version >= atomic_load(&progress->done) && version <= atomic_load(&progress->begun),
              "version %llu, though %llu was complete", (unsigned long long)version,
              (unsigned long long)atomic_load(&progress->done));
    if (version) {
        struct build build = build_of(version, KM_SEALED_PLAIN);

        CHECK_MSG(count == build.count, "%llu records of %llu", (unsigned long long)count,
                  (unsigned long long)build.count);
    }
    return version;
}

static void run_kills(km_sealed_compression compression, uint64_t rounds)
{
    struct progress *progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE,
                                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct harness_random random = harness_stream(900 + (uint64_t)compression);
    char folder[HARNESS_PATH_SIZE], path[HARNESS_PATH_SIZE];
    uint64_t litter = 0;

    CHECK(progress != MAP_FAILED);
    harness_make_folder(folder);
    harness_path(path, folder, "table");
    for (uint64_t round = 0; round < rounds; round++) {
        build_and_kill(path, progress, compression, harness_below(&random, 30000));
        atomic_store(&progress->done, check_killed(path, progress));
        litter += count_files(folder) > 1;
        if (round % 4 == 3) { /* C3; else the next child finds what is left */
            uint64_t version = atomic_fetch_add(&progress->begun, 1) + 1;
            struct build build = build_of(version, compression);

            CHECK_STATUS(build_table(km__os_linux(), path, &build, version), KM_OK);
            atomic_store(&progress->done, version);
            CHECK(check_killed(path, progress) == version);
            CHECK_MSG(count_files(folder) == 1, "%u files are left", count_files(folder));
        }
    }
    printf("%llu kills, %llu builds, %llu times files were left\n", (unsigned long long)rounds,
           (unsigned long long)atomic_load(&progress->begun), (unsigned long long)litter);
    CHECK(litter > 0 || rounds < 20);
    harness_remove(folder);
    munmap(progress, sizeof(*progress));
}

static void a_killed_builder_leaves_a_whole_table(void **state)
{
    (void)state;
    run_kills(KM_SEALED_PLAIN, harness_scaled(60));
#ifdef KM_WITH_ZSTD
    run_kills(KM_SEALED_ZSTD, harness_scaled(30));
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_first_table_is_there_or_not),
        cmocka_unit_test(a_replaced_table_is_old_or_new),
        cmocka_unit_test(a_sorted_table_is_old_or_new),
#ifdef KM_WITH_ZSTD
        cmocka_unit_test(a_compressed_table_is_old_or_new),
#endif
        cmocka_unit_test(a_killed_builder_leaves_a_whole_table),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
