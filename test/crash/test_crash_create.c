/* SPDX-License-Identifier: Apache-2.0
 *
 * test_crash_create.c -- cuts while a store is being created: there is none yet, or a whole one.
 *
 * C1. Whatever was cut, the next open that may create ends with an empty store that works.
 * C2. An open that may not create finds the store, or KM_E_NOT_A_STORE; never damage, and never
 * half a store. C3. Once the creating open has returned, a power cut leaves the store.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "harness/crash.h"
#include "store/store_internal.h"

static uint64_t run_seed;

struct creation {
    struct os *os;
    km_options options;
    struct random random;
    uint64_t image_count;
    uint64_t skipped, stride;
    uint32_t depth;
    int failed;
};

static void fail_creation(struct creation *creation, const char *what, km_status rc,
                          const km_error *error)
{
    printf("FAILED: %s: %s: %s: %s (depth %u, step %llu)\n", what, km_status_name(rc), error->file,
           error->message, creation->depth, (unsigned long long)km__sim_step_count(creation->os));
    creation->failed = 1;
}

static km_status open_with_mode(struct creation *creation, struct os *os, km_open_mode mode,
                                km_store **out_store, km_error *error)
{
    km_options options = creation->options;

    options.mode = mode;
    return km__store_open_with(os, WORKLOAD_PATH, &options, 0, out_store, error);
}

static int count_map(void *context, const km_map_info *info)
{
    (void)info;
    (*(int *)context)++;
    return 0;
}

static km_status find_text(struct creation *creation, struct os *os, km_error *error)
{
    km_bytes text = km_bytes_of_string("text");
    km_store *store = NULL;
    km_map *map = NULL;
    km_status rc = open_with_mode(creation, os, KM_OPEN_EXISTING, &store, error);

    if (!rc) {
        rc = km_map_open(store, text, &map);
        if (!rc)
            rc = km_contains(map, text);
        (void)km_close(store, NULL);
    }
    return rc;
}

/* C3, whatever had been cut before: neither the store nor a folder above it may be forgotten. */
static km_status cut_power_of_used(struct creation *creation, struct os *os, km_error *error)
{
    km_status rc = KM_OK;

    for (int i = 0; !rc && i < 2; i++) {
        enum sim_power mode = (enum sim_power)km__random_below(&creation->random,
                                                               SIM_POWER_MODE_COUNT);
        struct os *image = km__sim_clone_after_power_cut(os, km__random_next(&creation->random),
                                                         mode);

        rc = find_text(creation, image, error);
        if (rc)
            printf("after a %s:\n", km__crash_mode_name(mode));
        km__sim_destroy(image);
    }
    return rc;
}

/* An empty store: use it, cut, close it, find what was put. */
static void use_store(struct creation *creation, struct os *os, km_store *store)
{
    km_bytes text = km_bytes_of_string("text");
    km_write write = KM_WRITE_INIT;
    km_error error = {0};
    km_map *map = NULL;
    int map_count = 0;
    km_status rc = km_map_list(store, count_map, &map_count);

    if (!rc && map_count)
        rc = KM_EXISTS;
    if (!rc)
        rc = km_map_create(store, text, KM_HASH, &map);
    write.durability = KM_DURABLE_POWER;
    if (!rc)
        rc = km_put(map, text, text, &write);
    if (!rc)
        rc = cut_power_of_used(creation, os, &error);
    if (!rc)
        rc = km_close(store, &error);
    else
        (void)km_close(store, NULL);
    if (!rc)
        rc = find_text(creation, os, &error);
    if (rc)
        fail_creation(creation, "the store does not work", rc, &error);
}

static void watch_creation(struct creation *creation);

/* C1, with cuts of this creation too. */
static void create_again(struct creation *creation, struct os *image)
{
    struct creation again = {.os = image,
                             .options = creation->options,
                             .random = {km__random_next(&creation->random)},
                             .stride = creation->stride * 10,
                             .depth = creation->depth + 1};
    km_error error = {0};
    km_store *store = NULL;
    km_status rc;

    if (again.depth <= 2 && km__random_one_in(&creation->random, 30))
        watch_creation(&again);
    rc = open_with_mode(creation, image, KM_OPEN_OR_CREATE, &store, &error);
    km__sim_on_step(image, NULL, NULL);
    if (rc)
        fail_creation(creation, "cannot create the store after a cut", rc, &error);
    else
        use_store(creation, image, store);
    if (!rc && km__sim_allocated_bytes(image))
        fail_creation(creation, "memory is left", KM_E_NO_MEMORY, &error);
    creation->image_count += again.image_count;
    creation->failed |= again.failed;
}

static void check_image(struct creation *creation, struct os *image)
{
    km_error error = {0};
    km_store *store = NULL;
    km_open_mode mode = km__random_one_in(&creation->random, 2) ? KM_OPEN_EXISTING
                                                                : KM_OPEN_READ_ONLY;
    km_status rc;

    creation->image_count++;
    if (km__random_one_in(&creation->random, 3)) { /* C2 */
        rc = open_with_mode(creation, image, mode, &store, &error);
        if (!rc)
            rc = km_close(store, &error);
        if (rc && rc != KM_E_NOT_A_STORE)
            fail_creation(creation, "half a store", rc, &error);
    }
    if (!creation->failed)
        create_again(creation, image);
    km__sim_destroy(image);
}

static void look_at_creation(void *context, uint64_t step)
{
    struct creation *creation = context;
    struct random *random = &creation->random;

    (void)step;
    if (creation->failed || ++creation->skipped < creation->stride)
        return;
    creation->skipped = 0;
    check_image(creation, km__sim_clone_after_kill(creation->os));
    check_image(creation, km__sim_clone_after_kill_torn(creation->os, km__random_next(random)));
    for (int mode = 0; mode < SIM_POWER_MODE_COUNT && !creation->failed; mode++)
        check_image(creation, km__sim_clone_after_power_cut(creation->os, km__random_next(random),
                                                            (enum sim_power)mode));
}

static void watch_creation(struct creation *creation)
{
    km__sim_on_step(creation->os, look_at_creation, creation);
}

/* C3: of a store that was just created, and of a first change that asks for it. */
static void cut_after_creation(struct creation *creation, km_store *store)
{
    km_bytes text = km_bytes_of_string("text");
    km_write write = KM_WRITE_INIT;
    km_map *map = NULL;

    write.durability = KM_DURABLE_POWER;
    for (int with_change = 0; with_change < 2; with_change++) {
        if (with_change) {
            assert_int_equal(km_map_create(store, text, KM_HASH, &map), KM_OK);
            assert_int_equal(km_put(map, text, text, &write), KM_OK);
        }
        for (int i = 0; i < 2 * SIM_POWER_MODE_COUNT; i++) {
            struct os *image = km__sim_clone_after_power_cut(
                creation->os, km__random_next(&creation->random), (enum sim_power)(i / 2));
            km_store *found = NULL;
            km_error error = {0};
            km_status rc = open_with_mode(creation, image, KM_OPEN_EXISTING, &found, &error);

            if (rc)
                fail_creation(creation, "a created store is gone", rc, &error);
            assert_int_equal(rc, KM_OK);
            assert_int_equal(km_map_open(found, text, &map), with_change ? KM_OK : KM_NOT_FOUND);
            if (with_change)
                assert_int_equal(km_contains(map, text), KM_OK);
            assert_int_equal(km_close(found, NULL), KM_OK);
            km__sim_destroy(image);
        }
    }
}

static void cut_creation(km_durability durability, int folder_exists)
{
    struct creation creation = {.options = KM_OPTIONS_INIT,
                                .random = {run_seed + (uint64_t)durability * 7},
                                .stride = km__crash_stride(2)};
    km_error error = {0};
    km_store *store = NULL;
    km_status rc;

    creation.options.durability = durability;
    creation.os = km__sim_create(run_seed);
    if (folder_exists)
        assert_int_equal(creation.os->ops->create_dir(creation.os, WORKLOAD_PATH), KM_OK);
    watch_creation(&creation);
    rc = open_with_mode(&creation, creation.os, KM_CREATE_NEW, &store, &error);
    km__sim_on_step(creation.os, NULL, NULL);
    printf("%llu images\n", (unsigned long long)creation.image_count);
    assert_int_equal(rc, KM_OK);
    assert_false(creation.failed);
    assert_true(creation.image_count > 100 || creation.stride > 1);
    cut_after_creation(&creation, store);
    assert_int_equal(km_close(store, NULL), KM_OK);
    km__sim_destroy(creation.os);
}

static void a_new_folder_holds_a_whole_store_or_none(void **state)
{
    (void)state;
    cut_creation(KM_DURABLE_PROCESS, 0);
}

static void an_empty_folder_holds_a_whole_store_or_none(void **state)
{
    (void)state;
    cut_creation(KM_DURABLE_PROCESS, 1);
}

static void a_store_durable_by_default_is_whole_or_none(void **state)
{
    (void)state;
    cut_creation(KM_DURABLE_POWER, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_folder_holds_a_whole_store_or_none),
        cmocka_unit_test(an_empty_folder_holds_a_whole_store_or_none),
        cmocka_unit_test(a_store_durable_by_default_is_whole_or_none),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    run_seed = km__random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
