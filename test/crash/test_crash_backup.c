/* SPDX-License-Identifier: Apache-2.0
 *
 * test_crash_backup.c -- cuts and failures while a backup is written and while one is restored.
 *
 * C1. Whatever is cut, there is nothing at the path, or all of the store; and the same call, made
 *     again, ends with all of it.
 * C2. Once the call has returned, a power cut leaves what it made.
 * C3. The source is as if the call had not been made.
 * C4. A call that fails leaves nothing: no folder, memory or handle; and says why.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "harness/crash.h"
#include "store/store_backup_internal.h"

#define BACKUP_PATH "backup"
#define RESTORED_PATH "restored"
#define TEMP_BACKUP_PATH "backup.new-backup"
#define TEMP_RESTORED_PATH "restored.new-restore"

static uint64_t run_seed;
static uint8_t value_bytes[120000];

/* ---- a store ----------------------------------------------------------------------------- */

static km_status open_store(struct os *os, const char *path, km_open_mode mode,
                            km_store **out_store)
{
    km_options options = KM_OPTIONS_INIT;
    km_error error = {0};
    km_status rc;

    options.mode = mode;
    rc = km__store_open_with(os, path, &options, 0, out_store, &error);
    if (rc)
        printf("open %s: %s: %s: %s\n", path, km_status_name(rc), error.file, error.message);
    return rc;
}

static void put(km_store *store, uint32_t map, uint32_t key, uint64_t value_id, uint32_t size)
{
    uint8_t key_bytes[HISTORY_KEY_SIZE_MAX];
    km_map *maps = NULL;

    assert_int_equal(
        km_map_open_or_create(store, km__history_map_name(map), km__history_map_kind(map), &maps),
        KM_OK);
    km__history_value(value_id, size, value_bytes);
    assert_int_equal(
        km_put(maps, km__history_key(key, key_bytes), km_bytes_of(value_bytes, size), NULL), KM_OK);
}

static uint64_t fingerprint_of(km_store *store)
{
    uint64_t fingerprint = 0;

    return km__history_read_store(store, &fingerprint) ? 0 : fingerprint;
}

/* Some full segments, one of a special unit, a part of the last. */
static void fill_store(km_store *store)
{
    for (uint32_t i = 0; i < 12; i++)
        put(store, i % 2, i, 100 + i, 50000);
    put(store, 0, 20, 200, 110000);
    for (uint32_t i = 0; i < 10; i++)
        put(store, 1, 30 + i, 300 + i, 200 * i);
}

static int is_there(struct os *os, const char *path)
{
    struct os_dir *dir = NULL;
    int found = os->ops->open_dir(os, path, &dir) == KM_OK;

    os->ops->close_dir(dir);
    return found;
}

/* What a store holds; 0 if it cannot be opened or is damaged. */
static uint64_t content_at(struct os *os, const char *path, km_open_mode mode)
{
    km_store *store = NULL;
    uint64_t fingerprint;
    km_status rc;

    if (mode == KM_OPEN_READ_ONLY && km__store_verify_with(os, path, NULL, NULL, NULL, NULL))
        return 0;
    if (open_store(os, path, mode, &store))
        return 0;
    fingerprint = fingerprint_of(store);
    rc = km_close(store, NULL);
    return rc ? 0 : fingerprint;
}

/* ---- scenes ------------------------------------------------------------------------------ */

struct scene {
    struct os *os;
    int is_restore;
    km_store *store;  /* of a backup */
    uint64_t durable; /* content that a power cut leaves at least */
    uint64_t full;    /* content */
    struct random random;
    uint64_t skipped, stride, image_count, found_count;
    int failed;
};

static const char *made_path(const struct scene *scene)
{
    return scene->is_restore ? RESTORED_PATH : BACKUP_PATH;
}

static const char *temp_path(const struct scene *scene)
{
    return scene->is_restore ? TEMP_RESTORED_PATH : TEMP_BACKUP_PATH;
}

static km_status run_scene(struct scene *scene, struct os *os, km_store *store, km_error *error)
{
    struct copier progress = {0};

    if (scene->is_restore)
        return km__store_restore_with(os, BACKUP_PATH, RESTORED_PATH, &progress, error);
    return km_backup(store, BACKUP_PATH, NULL, NULL, error);
}

static void begin_scene(struct scene *scene, int is_restore)
{
    memset(scene, 0, sizeof(*scene));
    scene->os = km__sim_create(run_seed);
    scene->is_restore = is_restore;
    scene->random.state = run_seed + (uint64_t)is_restore;
    assert_int_equal(open_store(scene->os, WORKLOAD_PATH, KM_CREATE_NEW, &scene->store), KM_OK);
    fill_store(scene->store);
    assert_int_equal(km__log_sync(scene->store->log), KM_OK);
    scene->durable = fingerprint_of(scene->store);
    put(scene->store, 0, 40, 400, 3000);
    scene->full = fingerprint_of(scene->store);
    assert_true(scene->durable && scene->full && scene->durable != scene->full);
    if (is_restore) {
        assert_int_equal(km_backup(scene->store, BACKUP_PATH, NULL, NULL, NULL), KM_OK);
        assert_int_equal(km_close(scene->store, NULL), KM_OK);
        scene->store = NULL;
    }
}

static void end_scene(struct scene *scene)
{
    assert_int_equal(km_close(scene->store, NULL), KM_OK);
    assert_int_equal(km__sim_allocated_bytes(scene->os), 0);
    assert_int_equal(km__sim_open_count(scene->os), 0);
    km__sim_destroy(scene->os);
}

static void fail_scene(struct scene *scene, const char *what, const km_error *error)
{
    printf("FAILED: %s: %s: %s: %s (%s, step %llu)\n", what, km_status_name(error->status),
           error->file, error->message, scene->is_restore ? "restore" : "backup",
           (unsigned long long)km__sim_step_count(scene->os));
    scene->failed = 1;
}

/* ---- cuts -------------------------------------------------------------------------------- */

/* C1: make it again, over what the cut has left. */
static void run_again(struct scene *scene, struct os *image)
{
    km_store *store = NULL;
    km_error error = {0};
    uint64_t content;
    km_status rc = KM_OK;

    if (!scene->is_restore)
        rc = open_store(image, WORKLOAD_PATH, KM_OPEN_EXISTING, &store);
    content = store ? fingerprint_of(store) : scene->full;
    if (!rc)
        rc = run_scene(scene, image, store, &error);
    if (rc)
        fail_scene(scene, "cannot be made again after a cut", &error);
    else if (is_there(image, temp_path(scene)))
        fail_scene(scene, "a leftover stays", &error);
    else if (content_at(image, made_path(scene), KM_OPEN_READ_ONLY) != content)
        fail_scene(scene, "what was made again is not whole", &error);
    if (km_close(store, &error))
        fail_scene(scene, "cannot close", &error);
}

static void check_image(struct scene *scene, struct os *image, int is_kill)
{
    const char *source = scene->is_restore ? BACKUP_PATH : WORKLOAD_PATH;
    km_open_mode mode = scene->is_restore ? KM_OPEN_READ_ONLY : KM_OPEN_EXISTING;
    km_error error = {0};
    uint64_t content;

    scene->image_count++;
    if (is_there(image, made_path(scene))) {
        scene->found_count++;
        if (content_at(image, made_path(scene), KM_OPEN_READ_ONLY) != scene->full) /* C1 */
            fail_scene(scene, "what is at the path is not whole", &error);
        if (km__random_one_in(&scene->random, 2) &&
            content_at(image, made_path(scene), KM_OPEN_EXISTING) != scene->full)
            fail_scene(scene, "what is at the path cannot be written to", &error);
    } else if (km__random_one_in(&scene->random, 3)) {
        run_again(scene, image);
    }
    content = content_at(image, source, mode); /* C3 */
    if (content != scene->full && (is_kill || scene->is_restore || content != scene->durable))
        fail_scene(scene, "the source has changed", &error);
    if (!scene->failed && (km__sim_allocated_bytes(image) || km__sim_open_count(image)))
        fail_scene(scene, "memory or handles are left", &error);
    km__sim_destroy(image);
}

static void look_at_scene(void *context, uint64_t step)
{
    struct scene *scene = context;
    struct random *random = &scene->random;
    /* few steps, on which all hangs */
    int is_delicate = km__sim_current_op(scene->os) == SIM_RENAME ||
                      km__sim_current_op(scene->os) == SIM_SYNC_DIR;

    (void)step;
    if (scene->failed || (++scene->skipped < scene->stride && !is_delicate))
        return;
    scene->skipped = 0;
    check_image(scene, km__sim_clone_after_kill(scene->os), 1);
    for (int mode = 0; mode < SIM_POWER_MODE_COUNT && !scene->failed; mode++)
        check_image(
            scene,
            km__sim_clone_after_power_cut(scene->os, km__random_next(random), (enum sim_power)mode),
            0);
}

static void cut_scene(int is_restore)
{
    struct scene scene;
    km_error error = {0};
    km_status rc;

    begin_scene(&scene, is_restore);
    scene.stride = km__crash_stride(2);
    km__sim_on_step(scene.os, look_at_scene, &scene);
    rc = run_scene(&scene, scene.os, scene.store, &error);
    km__sim_on_step(scene.os, NULL, NULL);
    printf("%llu images, %llu with a store\n", (unsigned long long)scene.image_count,
           (unsigned long long)scene.found_count);
    assert_int_equal(rc, KM_OK);
    assert_false(scene.failed);
    assert_true(scene.found_count > 0 && scene.found_count < scene.image_count);
    for (int mode = 0; mode < 2 * SIM_POWER_MODE_COUNT; mode++) { /* C2 */
        struct os *image = km__sim_clone_after_power_cut(scene.os, km__random_next(&scene.random),
                                                         (enum sim_power)(mode / 2));

        assert_true(content_at(image, made_path(&scene), KM_OPEN_READ_ONLY) == scene.full);
        km__sim_destroy(image);
    }
    end_scene(&scene);
}

static void a_cut_backup_is_whole_or_absent(void **state)
{
    (void)state;
    cut_scene(0);
}

static void a_cut_restore_is_whole_or_absent(void **state)
{
    (void)state;
    cut_scene(1);
}

/* ---- failures ---------------------------------------------------------------------------- */

struct fault {
    enum sim_op op;
    km_status status;
    int os_error;
    int is_sticky, is_allocation;
};

static void arm(struct os *os, const struct fault *fault, uint64_t nth)
{
    if (fault->is_allocation)
        km__sim_fail_allocation(os, nth);
    else if (fault->is_sticky)
        km__sim_fail_from(os, fault->op, nth, fault->status, fault->os_error);
    else
        km__sim_fail_call(os, fault->op, nth, fault->status, fault->os_error);
}

/* How many calls could fail. */
static uint64_t count_calls(int is_restore, const struct fault *fault)
{
    struct scene scene;
    uint64_t before, after;

    begin_scene(&scene, is_restore);
    before = fault->is_allocation ? km__sim_allocation_count(scene.os)
                                  : km__sim_call_count(scene.os, fault->op);
    assert_int_equal(run_scene(&scene, scene.os, scene.store, NULL), KM_OK);
    after = fault->is_allocation ? km__sim_allocation_count(scene.os)
                                 : km__sim_call_count(scene.os, fault->op);
    end_scene(&scene);
    return after - before;
}

/* C4 */
static void check_failure(struct scene *scene, const struct fault *fault, km_status rc,
                          const km_error *error)
{
    assert_true(rc < 0);
    assert_int_equal(error->status, rc);
    assert_true(error->message[0]);
    if (fault->is_sticky) { /* then a name may stay that could not be taken back */
        if (is_there(scene->os, made_path(scene)))
            assert_true(content_at(scene->os, made_path(scene), KM_OPEN_READ_ONLY) == scene->full);
        return;
    }
    assert_false(is_there(scene->os, made_path(scene)));
    assert_false(is_there(scene->os, temp_path(scene)));
}

/* C3, C4: on a machine that is well again. */
static void end_failed(struct scene *scene, int is_there_now)
{
    km_status rc = km_close(scene->store, NULL);

    assert_true(rc <= 0); /* the store's own sync may have been the call that failed */
    assert_int_equal(km__sim_allocated_bytes(scene->os), 0);
    assert_int_equal(km__sim_open_count(scene->os), 0);
    assert_true(content_at(scene->os, WORKLOAD_PATH, KM_OPEN_EXISTING) == scene->full);
    scene->store = NULL;
    if (!is_there_now) {
        if (!scene->is_restore)
            assert_int_equal(open_store(scene->os, WORKLOAD_PATH, KM_OPEN_EXISTING, &scene->store),
                             KM_OK);
        assert_int_equal(run_scene(scene, scene->os, scene->store, NULL), KM_OK);
    }
    assert_true(content_at(scene->os, made_path(scene), KM_OPEN_READ_ONLY) == scene->full);
    assert_false(is_there(scene->os, temp_path(scene)));
    end_scene(scene);
}

static void fail_each(int is_restore, const struct fault *fault, uint64_t stride)
{
    uint64_t count = count_calls(is_restore, fault), error_count = 0;

    stride = km__crash_stride(stride);
    for (uint64_t nth = 1 + run_seed % stride; nth <= count; nth += stride) {
        struct scene scene;
        km_error error = {0};
        km_status rc;

        begin_scene(&scene, is_restore);
        arm(scene.os, fault, nth);
        rc = run_scene(&scene, scene.os, scene.store, &error);
        km__sim_clear_faults(scene.os);
        km__sim_fail_allocation(scene.os, 0);
        if (rc)
            check_failure(&scene, fault, rc, &error);
        error_count += rc != 0;
        end_failed(&scene, is_there(scene.os, made_path(&scene)));
    }
    printf("%llu calls, %llu errors\n", (unsigned long long)count, (unsigned long long)error_count);
    assert_true(error_count > 0);
}

static void a_failing_call_leaves_nothing(void **state)
{
    static const struct fault fault = {.op = SIM_ANY, .status = KM_E_IO, .os_error = EIO};

    (void)state;
    fail_each(0, &fault, 1);
    fail_each(1, &fault, 3);
}

static void a_full_disk_leaves_nothing(void **state)
{
    static const struct fault fault = {.op = SIM_ANY, .status = KM_E_FULL, .os_error = ENOSPC};

    (void)state;
    fail_each(0, &fault, 3);
    fail_each(1, &fault, 6);
}

static void a_machine_that_stays_broken_leaves_a_whole_store_or_none(void **state)
{
    static const struct fault fault = {
        .op = SIM_ANY, .status = KM_E_IO, .os_error = EIO, .is_sticky = 1};

    (void)state;
    fail_each(0, &fault, 2);
    fail_each(1, &fault, 6);
}

static void a_failing_allocation_leaves_nothing(void **state)
{
    static const struct fault fault = {.is_allocation = 1};

    (void)state;
    fail_each(0, &fault, 1);
    fail_each(1, &fault, 5);
}

/* ---- stores that were not closed --------------------------------------------------------- */

/* What the ring alone has is in a backup of a store that a kill left and that is open for reading,
 * and in a store restored from it. */
static void what_a_kill_left_in_the_ring_is_backed_up(void **state)
{
    struct copier progress = {0};
    km_inspection found = {.struct_size = sizeof(found)};
    km_store *store = NULL;
    struct scene scene;
    struct os *image;

    (void)state;
    begin_scene(&scene, 0);
    image = km__sim_clone_after_kill(scene.os);
    assert_int_equal(km__store_inspect_with(scene.os, WORKLOAD_PATH, &found, NULL), KM_OK);
    assert_true(found.is_open);
    assert_int_equal(km__store_inspect_with(image, WORKLOAD_PATH, &found, NULL), KM_OK);
    assert_true(!found.is_open && found.needs_recovery && found.replay_bytes > 600000);
    assert_int_equal(km__store_restore_with(image, WORKLOAD_PATH, RESTORED_PATH, &progress, NULL),
                     KM_OK);
    assert_int_equal(open_store(image, WORKLOAD_PATH, KM_OPEN_READ_ONLY, &store), KM_OK);
    assert_int_equal(km_backup(store, BACKUP_PATH, NULL, NULL, NULL), KM_OK);
    assert_int_equal(km_close(store, NULL), KM_OK);
    for (int i = 0; i < 3; i++) {
        struct os *cut = km__sim_clone_after_power_cut(image, run_seed, SIM_POWER_LOST);

        assert_true(content_at(cut, BACKUP_PATH, KM_OPEN_READ_ONLY) == scene.full);
        assert_true(content_at(cut, RESTORED_PATH, KM_OPEN_EXISTING) == scene.full);
        km__sim_destroy(cut);
    }
    km__sim_destroy(image);
    end_scene(&scene);
}

/* Of a machine without links. */
static void what_cannot_be_linked_is_copied(void **state)
{
    km_backup_result linked, copied;
    struct scene scene;

    (void)state;
    begin_scene(&scene, 0);
    assert_int_equal(km_backup(scene.store, RESTORED_PATH, NULL, &linked, NULL), KM_OK);
    km__sim_fail_from(scene.os, SIM_LINK, 1, KM_E_UNSUPPORTED, EPERM);
    assert_int_equal(km_backup(scene.store, BACKUP_PATH, NULL, &copied, NULL), KM_OK);
    assert_true(linked.linked_bytes > 400000 && copied.linked_bytes == 0);
    assert_true(linked.position <= copied.position);
    assert_true(copied.copied_bytes >= linked.linked_bytes + linked.copied_bytes);
    assert_true(content_at(scene.os, BACKUP_PATH, KM_OPEN_READ_ONLY) == scene.full);
    end_scene(&scene);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cut_backup_is_whole_or_absent),
        cmocka_unit_test(a_cut_restore_is_whole_or_absent),
        cmocka_unit_test(a_failing_call_leaves_nothing),
        cmocka_unit_test(a_full_disk_leaves_nothing),
        cmocka_unit_test(a_machine_that_stays_broken_leaves_a_whole_store_or_none),
        cmocka_unit_test(a_failing_allocation_leaves_nothing),
        cmocka_unit_test(what_a_kill_left_in_the_ring_is_backed_up),
        cmocka_unit_test(what_cannot_be_linked_is_copied),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    run_seed = km__random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
