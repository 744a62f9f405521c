/* SPDX-License-Identifier: Apache-2.0
 *
 * test_crash_restore.c -- cuts and failures while a store is restored in place, and while a
 * snapshot is saved.
 *
 * R1. In place: whatever is cut, the store has its old contents or the new ones, whole; and the
 *     same call, made again, ends with the new ones and leaves nothing beside them.
 * R2. Once the call has returned, a power cut leaves the new ones.
 * R3. What is written afterwards lies above everything that was written before.
 * R4. The backup is as if the call had not been made.
 * R5. A call that fails leaves the old contents, and no memory or handle; and says why.
 * R6. Of a snapshot there is nothing at the path, or all of it; the store goes on as it was.
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
#define BESIDE_PATH WORKLOAD_PATH ".restore-in-place"
#define SAVED_PATH "saved"
#define SAVED_BESIDE_PATH "saved.new-backup"

static uint64_t run_seed;
static uint8_t value_bytes[60000];

/* ---- stores ------------------------------------------------------------------------------ */

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

static km_position put(km_store *store, uint32_t map, uint32_t key, uint64_t value_id,
                       uint32_t size)
{
    uint8_t key_bytes[HISTORY_KEY_SIZE_MAX];
    km_write write = KM_WRITE_INIT;
    km_map *maps = NULL;

    assert_int_equal(
        km_map_open_or_create(store, km__history_map_name(map), km__history_map_kind(map), &maps),
        KM_OK);
    km__history_value(value_id, size, value_bytes);
    assert_int_equal(
        km_put(maps, km__history_key(key, key_bytes), km_bytes_of(value_bytes, size), &write),
        KM_OK);
    return write.position;
}

static uint64_t fingerprint_of(km_store *store)
{
    uint64_t fingerprint = 0;

    return km__history_read_store(store, &fingerprint) ? 0 : fingerprint;
}

static int is_there(struct os *os, const char *path)
{
    struct os_dir *dir = NULL;
    int found = os->ops->open_dir(os, path, &dir) == KM_OK;

    os->ops->close_dir(dir);
    return found;
}

/* What a store holds, every record verified; 0 if it cannot be opened or is damaged. */
static uint64_t content_at(struct os *os, const char *path)
{
    km_store *store = NULL;
    uint64_t fingerprint;

    if (km__store_verify_with(os, path, NULL, NULL, NULL, NULL) ||
        open_store(os, path, KM_OPEN_READ_ONLY, &store))
        return 0;
    fingerprint = fingerprint_of(store);
    return km_close(store, NULL) ? 0 : fingerprint;
}

/* ---- scenes ------------------------------------------------------------------------------ */

struct scene {
    struct os *os;
    uint64_t old_content, new_content; /* of the store, and of the backup */
    km_position last;                  /* of what was written before */
    struct random random;
    uint64_t skipped, stride, old_count, new_count;
    int failed;

    /* of a snapshot that is saved */
    km_store *store;
    km_snapshot *snapshot;
    uint64_t durable; /* what a power cut leaves of the store at least */
};

static km_status run_scene(struct scene *scene, struct os *os, km_error *error)
{
    struct copier progress = {0};

    (void)scene;
    return km__store_restore_in_place_with(os, BACKUP_PATH, WORKLOAD_PATH, &progress, error);
}

static void begin_scene(struct scene *scene)
{
    memset(scene, 0, sizeof(*scene));
    scene->os = km__sim_create(run_seed);
    scene->random.state = run_seed;
    assert_int_equal(open_store(scene->os, WORKLOAD_PATH, KM_CREATE_NEW, &scene->store), KM_OK);
    for (uint32_t i = 0; i < 8; i++)
        put(scene->store, i % 2, i, 100 + i, 50000);
    scene->new_content = fingerprint_of(scene->store);
    assert_int_equal(km_backup(scene->store, BACKUP_PATH, NULL, NULL, NULL), KM_OK);
    for (uint32_t i = 0; i < 10; i++)
        scene->last = put(scene->store, i % 3, i, 200 + i, 45000);
    scene->old_content = fingerprint_of(scene->store);
    assert_int_equal(km_close(scene->store, NULL), KM_OK);
    scene->store = NULL;
    assert_true(scene->old_content && scene->new_content);
    assert_true(scene->old_content != scene->new_content);
}

static void end_scene(struct scene *scene)
{
    assert_int_equal(km__sim_allocated_bytes(scene->os), 0);
    assert_int_equal(km__sim_open_count(scene->os), 0);
    km__sim_destroy(scene->os);
}

static void fail_scene(struct scene *scene, const char *what, const km_error *error)
{
    printf("FAILED: %s: %s: %s: %s (step %llu)\n", what, km_status_name(error->status), error->file,
           error->message, (unsigned long long)km__sim_step_count(scene->os));
    scene->failed = 1;
}

/* R3 */
static int goes_on_above(struct scene *scene, struct os *image)
{
    km_store *store = NULL;
    int it_does;

    if (open_store(image, WORKLOAD_PATH, KM_OPEN_EXISTING, &store))
        return 0;
    it_does = put(store, 0, 1, 999, 100) > scene->last;
    return km_close(store, NULL) == KM_OK && it_does;
}

/* ---- in place: cuts ---------------------------------------------------------------------- */

static void check_image(struct scene *scene, struct os *image)
{
    km_error error = {0};
    uint64_t content = content_at(image, WORKLOAD_PATH);

    scene->old_count += content == scene->old_content;
    scene->new_count += content == scene->new_content;
    if (content != scene->old_content && content != scene->new_content) /* R1 */
        fail_scene(scene, "the store is neither the old one nor the new one", &error);
    else if (km__random_one_in(&scene->random, 3) && !goes_on_above(scene, image))
        fail_scene(scene, "the store cannot go on", &error);
    else if (km__random_one_in(&scene->random, 3)) {
        if (run_scene(scene, image, &error))
            fail_scene(scene, "it cannot be made again after a cut", &error);
        else if (is_there(image, BESIDE_PATH))
            fail_scene(scene, "a leftover stays", &error);
        else if (content_at(image, WORKLOAD_PATH) != scene->new_content)
            fail_scene(scene, "what was made again is not whole", &error);
    }
    if (content_at(image, BACKUP_PATH) != scene->new_content) /* R4 */
        fail_scene(scene, "the backup has changed", &error);
    if (!scene->failed && (km__sim_allocated_bytes(image) || km__sim_open_count(image)))
        fail_scene(scene, "memory or handles are left", &error);
    km__sim_destroy(image);
}

static int is_delicate(const struct scene *scene)
{
    enum sim_op op = km__sim_current_op(scene->os);

    return op == SIM_EXCHANGE || op == SIM_RENAME || op == SIM_SYNC_DIR;
}

static void look_at_scene(void *context, uint64_t step)
{
    struct scene *scene = context;

    (void)step;
    if (scene->failed || (++scene->skipped < scene->stride && !is_delicate(scene)))
        return;
    scene->skipped = 0;
    check_image(scene, km__sim_clone_after_kill(scene->os));
    for (int mode = 0; mode < SIM_POWER_MODE_COUNT && !scene->failed; mode++)
        check_image(scene, km__sim_clone_after_power_cut(scene->os, km__random_next(&scene->random),
                                                         (enum sim_power)mode));
}

static void a_cut_leaves_the_old_store_or_the_new_one(void **state)
{
    struct scene scene;
    km_error error = {0};
    km_status rc;

    (void)state;
    begin_scene(&scene);
    scene.stride = km__crash_stride(3);
    km__sim_on_step(scene.os, look_at_scene, &scene);
    rc = run_scene(&scene, scene.os, &error);
    km__sim_on_step(scene.os, NULL, NULL);
    printf("%llu images with the old store, %llu with the new one\n",
           (unsigned long long)scene.old_count, (unsigned long long)scene.new_count);
    assert_int_equal(rc, KM_OK);
    assert_false(scene.failed);
    assert_true(scene.old_count > 0 && scene.new_count > 0);
    assert_false(is_there(scene.os, BESIDE_PATH));
    for (int mode = 0; mode < 2 * SIM_POWER_MODE_COUNT; mode++) { /* R2 */
        struct os *image = km__sim_clone_after_power_cut(scene.os, km__random_next(&scene.random),
                                                         (enum sim_power)(mode / 2));

        assert_true(content_at(image, WORKLOAD_PATH) == scene.new_content);
        assert_true(goes_on_above(&scene, image));
        km__sim_destroy(image);
    }
    end_scene(&scene);
}

/* ---- in place: failures ------------------------------------------------------------------ */

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

static uint64_t count_so_far(struct os *os, const struct fault *fault)
{
    return fault->is_allocation ? km__sim_allocation_count(os) : km__sim_call_count(os, fault->op);
}

static uint64_t count_calls(const struct fault *fault)
{
    struct scene scene;
    uint64_t before, after;

    begin_scene(&scene);
    before = count_so_far(scene.os, fault);
    assert_int_equal(run_scene(&scene, scene.os, NULL), KM_OK);
    after = count_so_far(scene.os, fault);
    end_scene(&scene);
    return after - before;
}

/* R5 */
static void fail_once(const struct fault *fault, uint64_t nth, uint64_t *error_count)
{
    struct scene scene;
    km_error error = {0};
    km_status rc;

    begin_scene(&scene);
    arm(scene.os, fault, nth);
    rc = run_scene(&scene, scene.os, &error);
    km__sim_clear_faults(scene.os);
    km__sim_fail_allocation(scene.os, 0);
    assert_int_equal(km__sim_allocated_bytes(scene.os), 0);
    assert_int_equal(km__sim_open_count(scene.os), 0);
    if (rc) {
        ++*error_count;
        if (error.status != rc || !error.message[0])
            printf("call %llu: %s, told as %s: %s\n", (unsigned long long)nth, km_status_name(rc),
                   km_status_name(error.status), error.message);
        assert_true(rc < 0 && error.status == rc && error.message[0]);
        assert_true(content_at(scene.os, WORKLOAD_PATH) == scene.old_content);
        assert_true(content_at(scene.os, BACKUP_PATH) == scene.new_content);
        assert_int_equal(run_scene(&scene, scene.os, NULL), KM_OK);
        assert_false(is_there(scene.os, BESIDE_PATH));
    }
    assert_true(content_at(scene.os, WORKLOAD_PATH) == scene.new_content);
    assert_true(goes_on_above(&scene, scene.os));
    end_scene(&scene);
}

static void fail_each(const struct fault *fault, uint64_t stride)
{
    uint64_t count = count_calls(fault), error_count = 0;

    stride = km__crash_stride(stride);
    for (uint64_t nth = 1 + run_seed % stride; nth <= count; nth += stride)
        fail_once(fault, nth, &error_count);
    printf("%llu calls, %llu errors\n", (unsigned long long)count, (unsigned long long)error_count);
    assert_true(error_count > 0);
}

static void a_failing_call_leaves_the_old_store(void **state)
{
    static const struct fault io = {.op = SIM_ANY, .status = KM_E_IO, .os_error = EIO};
    static const struct fault full = {.op = SIM_ANY, .status = KM_E_FULL, .os_error = ENOSPC};
    static const struct fault sticky = {
        .op = SIM_ANY, .status = KM_E_IO, .os_error = EIO, .is_sticky = 1};
    static const struct fault memory = {.is_allocation = 1};

    (void)state;
    fail_each(&io, 3);
    fail_each(&full, 9);
    fail_each(&sticky, 9);
    fail_each(&memory, 5);
}

static void where_names_cannot_be_exchanged_it_says_so(void **state)
{
    km_error error = {0};
    struct scene scene;

    (void)state;
    begin_scene(&scene);
    km__sim_fail_from(scene.os, SIM_EXCHANGE, 1, KM_E_UNSUPPORTED, EINVAL);
    assert_int_equal(run_scene(&scene, scene.os, &error), KM_E_UNSUPPORTED);
    assert_int_equal(error.status, KM_E_UNSUPPORTED);
    assert_false(is_there(scene.os, BESIDE_PATH));
    assert_true(content_at(scene.os, WORKLOAD_PATH) == scene.old_content);
    end_scene(&scene);
}

/* ---- snapshots: R6 ----------------------------------------------------------------------- */

/* new_content: of the snapshot; old_content: of the store. */
static void begin_snapshot(struct scene *scene, int is_in_memory)
{
    memset(scene, 0, sizeof(*scene));
    scene->os = km__sim_create(run_seed);
    scene->random.state = run_seed;
    if (is_in_memory)
        assert_int_equal(km__store_open_memory_with(scene->os, NULL, 0, &scene->store, NULL),
                         KM_OK);
    else
        assert_int_equal(open_store(scene->os, WORKLOAD_PATH, KM_CREATE_NEW, &scene->store), KM_OK);
    for (uint32_t i = 0; i < 8; i++)
        put(scene->store, i % 2, i, 100 + i, 50000);
    assert_int_equal(km__log_sync(scene->store->log), KM_OK);
    put(scene->store, 1, 9, 150, 500);
    scene->new_content = fingerprint_of(scene->store);
    assert_int_equal(km_snapshot_open(scene->store, &scene->snapshot), KM_OK);
    for (uint32_t i = 0; i < 8; i++)
        put(scene->store, i % 3, i, 200 + i, 45000);
    scene->old_content = fingerprint_of(scene->store);
}

static void check_saved_image(struct scene *scene, struct os *image)
{
    km_error error = {0};

    if (!is_there(image, SAVED_PATH))
        scene->old_count++;
    else if (content_at(image, SAVED_PATH) == scene->new_content)
        scene->new_count++;
    else
        fail_scene(scene, "what was saved is not whole", &error);
    km__sim_destroy(image);
}

static void look_at_saving(void *context, uint64_t step)
{
    struct scene *scene = context;

    (void)step;
    if (scene->failed || (++scene->skipped < scene->stride && !is_delicate(scene)))
        return;
    scene->skipped = 0;
    check_saved_image(scene, km__sim_clone_after_kill(scene->os));
    for (int mode = 0; mode < SIM_POWER_MODE_COUNT && !scene->failed; mode++)
        check_saved_image(scene,
                          km__sim_clone_after_power_cut(scene->os, km__random_next(&scene->random),
                                                        (enum sim_power)mode));
}

static void end_snapshot(struct scene *scene)
{
    assert_true(fingerprint_of(scene->store) == scene->old_content);
    km_snapshot_close(scene->snapshot);
    assert_int_equal(km_close(scene->store, NULL), KM_OK);
    end_scene(scene);
}

static void cut_saving(int is_in_memory)
{
    struct scene scene;
    km_error error = {0};
    km_status rc;

    begin_snapshot(&scene, is_in_memory);
    scene.stride = km__crash_stride(3);
    km__sim_on_step(scene.os, look_at_saving, &scene);
    rc = km_snapshot_save(scene.snapshot, SAVED_PATH, NULL, NULL, &error);
    km__sim_on_step(scene.os, NULL, NULL);
    printf("%llu images without it, %llu with it\n", (unsigned long long)scene.old_count,
           (unsigned long long)scene.new_count);
    assert_int_equal(rc, KM_OK);
    assert_false(scene.failed);
    assert_true(scene.old_count > 0 && scene.new_count > 0);
    for (int mode = 0; mode < SIM_POWER_MODE_COUNT; mode++) {
        struct os *image = km__sim_clone_after_power_cut(scene.os, km__random_next(&scene.random),
                                                         (enum sim_power)mode);

        assert_true(content_at(image, SAVED_PATH) == scene.new_content);
        km__sim_destroy(image);
    }
    end_snapshot(&scene);
}

static void a_cut_leaves_all_of_a_saved_snapshot_or_none(void **state)
{
    (void)state;
    cut_saving(0);
    cut_saving(1);
}

/* A failed sync of the store's own, or a failed write to it, ends its writing: that is another
 * matter, and such calls are left out here. */
static void fail_saving(int is_in_memory, uint64_t nth, uint64_t *error_count)
{
    struct scene scene;
    km_error error = {0};
    km_status rc;

    begin_snapshot(&scene, is_in_memory);
    assert_int_equal(km__log_sync(scene.store->log), KM_OK);
    km__sim_fail_call(scene.os, SIM_ANY, nth, KM_E_IO, EIO);
    rc = km_snapshot_save(scene.snapshot, SAVED_PATH, NULL, NULL, &error);
    km__sim_clear_faults(scene.os);
    if (rc) {
        ++*error_count;
        if (error.status != rc || !error.message[0] || is_there(scene.os, SAVED_BESIDE_PATH))
            printf("call %llu: %s, told as %s: %s\n", (unsigned long long)nth, km_status_name(rc),
                   km_status_name(error.status), error.message);
        assert_true(rc < 0 && error.status == rc && error.message[0]);
        assert_false(is_there(scene.os, SAVED_PATH));
        assert_false(is_there(scene.os, SAVED_BESIDE_PATH));
        assert_int_equal(km_snapshot_save(scene.snapshot, SAVED_PATH, NULL, NULL, NULL), KM_OK);
    }
    assert_false(is_there(scene.os, SAVED_BESIDE_PATH));
    assert_true(content_at(scene.os, SAVED_PATH) == scene.new_content);
    end_snapshot(&scene);
}

static void a_failing_call_leaves_no_saved_snapshot(void **state)
{
    (void)state;
    for (int is_in_memory = 0; is_in_memory < 2; is_in_memory++) {
        struct scene scene;
        uint64_t before, count, error_count = 0, stride = km__crash_stride(is_in_memory ? 3 : 1);

        begin_snapshot(&scene, is_in_memory);
        assert_int_equal(km__log_sync(scene.store->log), KM_OK);
        before = km__sim_call_count(scene.os, SIM_ANY);
        assert_int_equal(km_snapshot_save(scene.snapshot, SAVED_PATH, NULL, NULL, NULL), KM_OK);
        count = km__sim_call_count(scene.os, SIM_ANY) - before;
        end_snapshot(&scene);
        for (uint64_t nth = 1 + run_seed % stride; nth <= count; nth += stride)
            fail_saving(is_in_memory, nth, &error_count);
        printf("%llu calls, %llu errors\n", (unsigned long long)count,
               (unsigned long long)error_count);
        assert_true(error_count > 0);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cut_leaves_the_old_store_or_the_new_one),
        cmocka_unit_test(a_failing_call_leaves_the_old_store),
        cmocka_unit_test(where_names_cannot_be_exchanged_it_says_so),
        cmocka_unit_test(a_cut_leaves_all_of_a_saved_snapshot_or_none),
        cmocka_unit_test(a_failing_call_leaves_no_saved_snapshot),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    run_seed = km__random_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
