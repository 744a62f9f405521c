/* SPDX-License-Identifier: Apache-2.0
 *
 * test_crash_attach.c -- cuts and failures while sealed tables are attached to maps and detached,
 * while what they have is changed and hidden, and while maps that have tables are dropped.
 *
 * A script runs on the simulated machine beside an obvious model: attach_script.h.
 *
 * C1. After a kill the store is as before or after the step under way; after a power cut as after
 *     some step that is not before the last durable one. Detaching takes the tables off one by one.
 *     So a table is never there without the deletes that hide its keys, nor away without what was
 *     put over it.
 * C2. Every way to read agrees, and so do the counts.
 * C3. Once the store was opened for writing nothing is left of what was cut, nor of dropped maps.
 * C4. A power cut while what a kill has left is recovered changes nothing else than C1 allows; once
 *     it is open it stays as it is.
 * C5. A call that fails says why, and does nothing, or what it says; what is done again afterwards
 *     is as if nothing had failed.
 * C6. A backup and what is salvaged have the same contents.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "crash/attach_script.h"
#include "harness/crash.h"
#include "harness/harness_util.h"
#include "store/store_backup_internal.h"

#define BETWEEN_MAX STACK_MAX

static uint64_t run_seed;

/* ---- scenes ------------------------------------------------------------------------------ */

struct scene {
    struct os *os;
    km_store *store;
    struct model model;
    struct text states[STEP_COUNT + 2]; /* after each step, and that under way */
    struct text between[BETWEEN_MAX];   /* of the step under way */
    uint32_t state_count, between_count, durable;
    struct random random;
    uint64_t skipped, stride, image_count, recovery_count, salvage_count;
    int failed;
};

static void fail_scene(struct scene *scene, const char *what, const struct text *got,
                       const char *detail)
{
    printf("FAILED: %s: \"%s\" %s; step %u of the script, call %llu\n", what, got ? got->bytes : "",
           detail ? detail : "", scene->state_count - 1,
           (unsigned long long)km__sim_step_count(scene->os));
    for (uint32_t i = scene->durable; i < scene->state_count; i++)
        printf("  allowed: \"%s\"\n", scene->states[i].bytes);
    for (uint32_t i = 0; i < scene->between_count; i++)
        printf("  between: \"%s\"\n", scene->between[i].bytes);
    scene->failed = 1;
}

static int is_same(const struct text *a, const struct text *b)
{
    return strcmp(a->bytes, b->bytes) == 0;
}

/* C1: from the state `low` on. */
static int is_allowed(const struct scene *scene, const struct text *text, uint32_t low)
{
    int found = 0;

    for (uint32_t i = low; !found && i < scene->state_count; i++)
        found = is_same(&scene->states[i], text);
    for (uint32_t i = 0; !found && i < scene->between_count; i++)
        found = is_same(&scene->between[i], text);
    return found;
}

/* C3 */
struct litter {
    uint32_t table_count;
    char name[200]; /* of something that ought not to be there */
};

static void look_for_litter(void *context, const char *path, uint64_t size)
{
    struct litter *litter = context;

    (void)size;
    if (strncmp(path, STORE_PATH "/table-", strlen(STORE_PATH "/table-")) == 0)
        litter->table_count++;
    if (strcmp(path, STORE_PATH "/" TABLE_NEW_NAME) == 0)
        snprintf(litter->name, sizeof(litter->name), "%s", path);
}

static void check_litter(struct scene *scene, struct os *image, const struct text *text)
{
    struct litter litter = {0};

    km__sim_list_paths(image, look_for_litter, &litter);
    if (litter.name[0] || litter.table_count != tables_in(text))
        fail_scene(scene, "files are left", text, litter.name);
}

/* The text of the store on a machine; 0: it cannot be opened. */
static int read_image(struct scene *scene, struct os *image, const char *path, km_open_mode mode,
                      struct text *out)
{
    km_store *store = NULL;
    km_error error = {0};

    if (open_store(image, path, mode, &store, &error)) {
        fail_scene(scene, "cannot be opened", NULL, error.message);
        return 0;
    }
    *out = read_store(store);
    if (mode != KM_OPEN_READ_ONLY && strcmp(path, STORE_PATH) == 0)
        check_litter(scene, image, out);
    if (km_close(store, &error))
        fail_scene(scene, "cannot be closed", out, error.message);
    return !scene->failed;
}

static void end_image(struct scene *scene, struct os *image)
{
    if (!scene->failed && (km__sim_allocated_bytes(image) || km__sim_open_count(image)))
        fail_scene(scene, "memory or handles are left", NULL, NULL);
    km__sim_destroy(image);
}

static void check_image(struct scene *scene, struct os *image, uint32_t low, const char *kind)
{
    struct text text, again;

    scene->image_count++;
    if (km__random_one_in(&scene->random, 4) &&
        read_image(scene, image, STORE_PATH, KM_OPEN_READ_ONLY, &text) &&
        !is_allowed(scene, &text, low))
        fail_scene(scene, kind, &text, "when it is only read");
    if (!scene->failed && read_image(scene, image, STORE_PATH, KM_OPEN_EXISTING, &text) &&
        !is_allowed(scene, &text, low))
        fail_scene(scene, kind, &text, NULL);
    if (!scene->failed && km__random_one_in(&scene->random, 4) &&
        read_image(scene, image, STORE_PATH, KM_OPEN_EXISTING, &again) && !is_same(&text, &again))
        fail_scene(scene, "another open changes it", &again, text.bytes);
    end_image(scene, image);
}

/* ---- cuts during recovery ---------------------------------------------------------------- */

struct recovery {
    struct scene *scene;
    struct os *image;
    uint32_t low;
};

static void look_at_recovery(void *context, uint64_t step)
{
    struct recovery *recovery = context;
    struct scene *scene = recovery->scene;
    enum sim_power mode = (enum sim_power)km__random_below(&scene->random, SIM_POWER_MODE_COUNT);

    (void)step;
    if (scene->failed)
        return;
    scene->recovery_count++;
    check_image(
        scene,
        km__sim_clone_after_power_cut(recovery->image, km__random_next(&scene->random), mode),
        recovery->low, "a power cut during recovery");
}

/* Before anything else: what hid keys of tables that are away hides none of the new one. */
static void attach_recovered(struct scene *scene, km_store *store)
{
    static const struct step attach = {STEP_ATTACH, 0, 2, 0, 0};
    km_map *map = map_of(store, attach.map);
    km_error error = {0};

    if (map && !km__tables_of(map) && run_step(NULL, &store, &attach, &error))
        fail_scene(scene, "no table can be attached", NULL, error.message);
}

/* C4 */
static void check_recovery(struct scene *scene, struct os *image, uint32_t low)
{
    struct recovery recovery = {scene, image, low};
    km_store *store = NULL;
    struct text text, after;

    km__sim_on_step(image, look_at_recovery, &recovery);
    if (open_store(image, STORE_PATH, KM_OPEN_EXISTING, &store, NULL))
        fail_scene(scene, "cannot be recovered", NULL, NULL);
    km__sim_on_step(image, NULL, NULL);
    if (!scene->failed && km__random_one_in(&scene->random, 2))
        attach_recovered(scene, store);
    if (!scene->failed) {
        struct os *cut = km__sim_clone_after_power_cut(image, run_seed, SIM_POWER_LOST);

        text = read_store(store);
        if (read_image(scene, cut, STORE_PATH, KM_OPEN_EXISTING, &after) && !is_same(&text, &after))
            fail_scene(scene, "what was recovered is not durable", &after, text.bytes);
        end_image(scene, cut);
    }
    if (km_close(store, NULL) && !scene->failed)
        fail_scene(scene, "cannot be closed", NULL, NULL);
    end_image(scene, image);
}

/* ---- salvage: a real folder only --------------------------------------------------------- */

struct export
{
    struct os *image;
    const char *folder;
};

static void export_path(void *context, const char *path, uint64_t size)
{
    const struct export *export = context;
    char real[HARNESS_PATH_SIZE];
    uint8_t *bytes = NULL;
    size_t found = 0;
    FILE *file;

    (void)size;
    if (strncmp(path, STORE_PATH "/", strlen(STORE_PATH) + 1) != 0)
        return;
    harness_path(real, export->folder, path);
    CHECK(km__sim_read_path(export->image, path, &bytes, &found) == 0);
    file = fopen(real, "wb");
    CHECK(file && fwrite(bytes, 1, found, file) == found && fclose(file) == 0);
    free(bytes);
}

/* C6: of a store that is not damaged. Destroys the image. */
static void check_salvage(struct scene *scene, struct os *image)
{
    char folder[HARNESS_PATH_SIZE], from[HARNESS_PATH_SIZE], to[HARNESS_PATH_SIZE];
    struct export export = {image, folder};
    struct text expected, text;
    km_error error = {0};
    km_store *store;

    scene->salvage_count++;
    harness_make_fast_folder(folder);
    harness_path(to, folder, STORE_PATH "/log");
    harness_path(from, folder, STORE_PATH);
    CHECK(mkdir(from, 0700) == 0 && mkdir(to, 0700) == 0);
    km__sim_list_paths(image, export_path, &export);
    harness_path(to, folder, "salvaged");
    if (km_salvage(from, to, NULL, NULL, NULL, &error)) {
        fail_scene(scene, "cannot be salvaged", NULL, error.message);
    } else if (read_image(scene, image, STORE_PATH, KM_OPEN_EXISTING, &expected)) {
        store = harness_open(to, NULL);
        text = read_store(store);
        harness_close(store);
        if (!is_same(&text, &expected))
            fail_scene(scene, "salvage gives something else", &text, expected.bytes);
    }
    harness_remove(folder);
    end_image(scene, image);
}

/* ---- the script with cuts ---------------------------------------------------------------- */

static int is_delicate(enum sim_op op)
{
    return op == SIM_RENAME || op == SIM_LINK || op == SIM_UNLINK || op == SIM_SYNC_DIR;
}

static int is_detaching(const struct scene *scene)
{
    enum sim_op op = km__sim_current_op(scene->os);

    return script[scene->state_count - 2].kind == STEP_DETACH &&
           (op == SIM_UNLINK || op == SIM_SYNC_DIR);
}

/* As the background does, whatever is under way: what hides keys stays as long as the names of the
 * tables do. */
static void expire_meanwhile(struct scene *scene)
{
    const struct step *step = &script[scene->state_count - 2];

    if (is_detaching(scene))
        CHECK_STATUS(km__expire_map(map_of(scene->store, step->map)), KM_OK);
}

static void look_at_step(void *context, uint64_t step)
{
    struct scene *scene = context;
    struct random *random = &scene->random;
    uint32_t last = scene->state_count - 2; /* the step under way may be done, or not */

    (void)step;
    expire_meanwhile(scene);
    if (scene->failed ||
        (++scene->skipped < scene->stride && !is_delicate(km__sim_current_op(scene->os))))
        return;
    scene->skipped = 0;
    check_image(scene, km__sim_clone_after_kill(scene->os), last, "a kill");
    for (int mode = 0; mode < SIM_POWER_MODE_COUNT && !scene->failed; mode++)
        check_image(
            scene,
            km__sim_clone_after_power_cut(scene->os, km__random_next(random), (enum sim_power)mode),
            scene->durable, "a power cut");
    if (!scene->failed && (is_detaching(scene) || km__random_one_in(random, 8)))
        check_recovery(scene, km__sim_clone_after_kill(scene->os), scene->durable);
    if (!scene->failed && km__random_one_in(random, 32))
        check_salvage(scene, km__sim_clone_after_kill(scene->os));
}

/* What may be found while the step is under way. */
static void plan_step(struct scene *scene, const struct step *step)
{
    struct map_model *map = &scene->model.maps[step->map];
    struct model partly = scene->model;

    scene->between_count = 0;
    while (step->kind == STEP_DETACH && partly.maps[step->map].table_count > 1) {
        model_detach_top(&partly.maps[step->map]);
        scene->between[scene->between_count++] = text_of_model(&partly);
    }
    CHECK(step->kind != STEP_DETACH || map->table_count > 0);
    model_step(&scene->model, step);
    scene->states[scene->state_count++] = text_of_model(&scene->model);
}

static void begin_scene(struct scene *scene)
{
    memset(scene, 0, sizeof(*scene));
    scene->os = km__sim_create(run_seed);
    scene->random.state = run_seed;
    build_tables(scene->os);
    CHECK_STATUS(open_store(scene->os, STORE_PATH, KM_CREATE_NEW, &scene->store, NULL), KM_OK);
    for (uint32_t m = 0; m < MAP_COUNT; m++)
        memset(scene->model.maps[m].own, NONE, KEY_COUNT);
    scene->states[scene->state_count++] = text_of_model(&scene->model);
}

static void end_scene(struct scene *scene)
{
    CHECK_STATUS(km_close(scene->store, NULL), KM_OK);
    CHECK(km__sim_allocated_bytes(scene->os) == 0 && km__sim_open_count(scene->os) == 0);
    km__sim_destroy(scene->os);
}

static void run_scripted(struct scene *scene, const struct step *step)
{
    km_error error = {0};
    struct text text;
    km_status rc;

    plan_step(scene, step);
    rc = run_step(scene->os, &scene->store, step, &error);
    CHECK_MSG(rc == KM_OK, "step %u: %s: %s", scene->state_count - 1, km_status_name(rc),
              error.message);
    text = read_store(scene->store);
    if (!is_same(&text, &scene->states[scene->state_count - 1]))
        fail_scene(scene, "the step did something else", &text, NULL);
    scene->between_count = 0;
    if (makes_durable(step))
        scene->durable = scene->state_count - 1;
}

/* C6: the backup that is there is what the store was. */
static void check_backup(struct scene *scene, const struct text *expected)
{
    struct text text;

    for (int mode = 0; mode < SIM_POWER_MODE_COUNT && !scene->failed; mode++) {
        struct os *image = km__sim_clone_after_power_cut(scene->os, km__random_next(&scene->random),
                                                         (enum sim_power)mode);

        if (read_image(scene, image, BACKUP_PATH, mode % 2 ? KM_OPEN_EXISTING : KM_OPEN_READ_ONLY,
                       &text) &&
            !is_same(&text, expected))
            fail_scene(scene, "the backup is something else", &text, expected->bytes);
        end_image(scene, image);
    }
}

static void run_script(int has_links)
{
    struct text backed_up = {{0}};
    struct scene scene;

    begin_scene(&scene);
    scene.stride = km__crash_stride(4);
    if (!has_links)
        km__sim_fail_from(scene.os, SIM_LINK, 1, KM_E_UNSUPPORTED, EXDEV);
    for (uint32_t i = 0; i < STEP_COUNT && !scene.failed; i++) {
        km__sim_on_step(scene.os, look_at_step, &scene);
        run_scripted(&scene, &script[i]);
        km__sim_on_step(scene.os, NULL, NULL);
        if (script[i].kind == STEP_BACKUP)
            backed_up = scene.states[scene.state_count - 1];
    }
    if (!scene.failed)
        check_backup(&scene, &backed_up);
    printf("%llu images, %llu of recoveries, %llu salvaged\n",
           (unsigned long long)scene.image_count, (unsigned long long)scene.recovery_count,
           (unsigned long long)scene.salvage_count);
    CHECK(!scene.failed);
    end_scene(&scene);
}

static void a_cut_leaves_tables_attached_or_not(void **state)
{
    (void)state;
    run_script(1);
}

static void a_cut_leaves_copied_tables_attached_or_not(void **state)
{
    (void)state;
    run_script(0);
}

/* ---- failures ---------------------------------------------------------------------------- */

struct fault {
    enum sim_op op;
    km_status status;
    int os_error;
    int is_sticky, is_allocation, has_no_links;
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

static void disarm(struct scene *scene, const struct fault *fault)
{
    km__sim_clear_faults(scene->os);
    km__sim_fail_allocation(scene->os, 0);
    if (fault->has_no_links)
        km__sim_fail_from(scene->os, SIM_LINK, 1, KM_E_UNSUPPORTED, EXDEV);
}

static uint64_t calls_so_far(struct os *os, const struct fault *fault)
{
    return fault->is_allocation ? km__sim_allocation_count(os) : km__sim_call_count(os, fault->op);
}

/* Up to the step at `index`, which is the next. */
static void begin_at(struct scene *scene, uint32_t index, const struct fault *fault)
{
    begin_scene(scene);
    disarm(scene, fault);
    for (uint32_t i = 0; i < index; i++)
        run_scripted(scene, &script[i]);
    CHECK(!scene->failed);
}

/* On a machine that is well again: what memory says, the disk says too, unless told otherwise; and
 * what failed can be done. */
static void check_failed(struct scene *scene, const struct step *step, int is_sticky)
{
    const struct text *before = &scene->states[scene->state_count - 2];
    const struct text *after = &scene->states[scene->state_count - 1];
    struct text memory = read_store(scene->store), disk;
    km_error error = {0};
    km_status rc;

    if (!is_same(&memory, before) && !(step->kind == STEP_DETACH && is_same(&memory, after)))
        fail_scene(scene, "a failed call has done something", &memory, NULL);
    if (step->kind == STEP_ATTACH && !scene->failed) { /* a store that takes no changes, too */
        rc = run_step(scene->os, &scene->store, step, &error);
        memory = read_store(scene->store);
        if (!is_same(&memory, rc ? before : after))
            fail_scene(scene, "doing it again gives something else", &memory, error.message);
        is_sticky &= rc != KM_OK;
    }
    km__ignore(km_close(scene->store, NULL), "a sync of the log may have failed");
    scene->store = NULL;
    if (!scene->failed && read_image(scene, scene->os, STORE_PATH, KM_OPEN_EXISTING, &disk) &&
        !is_same(&disk, &memory) &&
        !(is_allowed(scene, &disk, scene->state_count - 2) &&
          (is_sticky || step->kind == STEP_DETACH)))
        fail_scene(scene, "another open finds something else", &disk, memory.bytes);
}

static void fail_at(uint32_t index, const struct fault *fault, uint64_t stride)
{
    const struct step *step = &script[index];
    uint64_t begin, count, error_count = 0;
    struct scene scene;

    begin_at(&scene, index, fault);
    begin = calls_so_far(scene.os, fault);
    run_scripted(&scene, step);
    count = calls_so_far(scene.os, fault) - begin;
    end_scene(&scene);
    stride = km__crash_stride(stride);
    for (uint64_t nth = 1 + run_seed % stride; nth <= count; nth += stride) {
        km_error error = {0};
        km_status rc;

        begin_at(&scene, index, fault);
        plan_step(&scene, step);
        arm(scene.os, fault, nth);
        rc = run_step(scene.os, &scene.store, step, &error);
        disarm(&scene, fault);
        CHECK_MSG(rc == KM_OK || (rc < 0 && error.status == rc && error.message[0]), "%s: \"%s\"",
                  km_status_name(rc), error.message);
        error_count += rc != KM_OK;
        if (rc)
            check_failed(&scene, step, fault->is_sticky);
        CHECK_MSG(!scene.failed, "call %llu failed with %s in step %u: %s: %s",
                  (unsigned long long)nth, km_status_name(fault->status), index, km_status_name(rc),
                  error.message);
        end_scene(&scene);
    }
    printf("step %u: %llu calls, %llu errors\n", index, (unsigned long long)count,
           (unsigned long long)error_count);
}

/* All steps that attach or detach. */
static void fail_each(const struct fault *fault, uint64_t stride)
{
    for (uint32_t i = 0; i < STEP_COUNT; i++) {
        if (script[i].kind == STEP_ATTACH || script[i].kind == STEP_DETACH)
            fail_at(i, fault, stride);
    }
}

static void a_failing_call_does_nothing(void **state)
{
    static const struct fault linked = {.op = SIM_ANY, .status = KM_E_IO, .os_error = EIO};
    static const struct fault copied = {
        .op = SIM_ANY, .status = KM_E_IO, .os_error = EIO, .has_no_links = 1};

    (void)state;
    fail_each(&linked, 1);
    fail_each(&copied, 3);
}

static void a_full_disk_does_nothing(void **state)
{
    static const struct fault linked = {.op = SIM_ANY, .status = KM_E_FULL, .os_error = ENOSPC};
    static const struct fault copied = {
        .op = SIM_ANY, .status = KM_E_FULL, .os_error = ENOSPC, .has_no_links = 1};

    (void)state;
    fail_each(&linked, 2);
    fail_each(&copied, 3);
}

static void a_machine_that_stays_broken_leaves_what_is_told(void **state)
{
    static const struct fault any = {
        .op = SIM_ANY, .status = KM_E_IO, .os_error = EIO, .is_sticky = 1};
    static const struct fault unlink = {
        .op = SIM_UNLINK, .status = KM_E_IO, .os_error = EIO, .is_sticky = 1};
    static const struct fault sync_dir = {
        .op = SIM_SYNC_DIR, .status = KM_E_IO, .os_error = EIO, .is_sticky = 1};

    (void)state;
    fail_each(&any, 1);
    fail_each(&unlink, 1);
    fail_each(&sync_dir, 1);
}

static void a_failing_allocation_does_nothing(void **state)
{
    static const struct fault linked = {.is_allocation = 1};
    static const struct fault copied = {.is_allocation = 1, .has_no_links = 1};

    (void)state;
    fail_each(&linked, 1);
    fail_each(&copied, 2);
}

/* ---- versions ---------------------------------------------------------------------------- */

/* A version that a key once had never comes again: what compares with it would take the one value
 * for the other. */
static void a_key_gets_another_version_from_each_table(void **state)
{
    static const struct step create = {STEP_CREATE, 0, 0, 0, 0};
    uint8_t key[2];
    km_key_info info;
    uint64_t seen[24];
    uint32_t count = 0;
    struct scene scene;

    (void)state;
    begin_scene(&scene);
    run_scripted(&scene, &create);
    for (uint32_t turn = 0; turn < 24; turn++) {
        struct step attach = {STEP_ATTACH, 0, turn % 3, 0, 0};
        static const struct step detach = {STEP_DETACH, 0, 0, 0, 0};
        static const struct step reopen = {STEP_REOPEN, 0, 0, 0, 0};

        run_scripted(&scene, &attach);
        CHECK_STATUS(km_get_info(map_of(scene.store, 0), key_bytes(4, key), NULL, &info), KM_OK);
        for (uint32_t i = 0; i < count; i++)
            CHECK_MSG(seen[i] != info.version, "table %u has the version of table %u", turn, i);
        seen[count++] = info.version;
        if (turn % 4 == 3)
            run_scripted(&scene, &detach);
        if (turn % 8 == 5)
            run_scripted(&scene, &reopen);
    }
    end_scene(&scene);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cut_leaves_tables_attached_or_not),
        cmocka_unit_test(a_cut_leaves_copied_tables_attached_or_not),
        cmocka_unit_test(a_failing_call_does_nothing),
        cmocka_unit_test(a_full_disk_does_nothing),
        cmocka_unit_test(a_machine_that_stays_broken_leaves_what_is_told),
        cmocka_unit_test(a_failing_allocation_does_nothing),
        cmocka_unit_test(a_key_gets_another_version_from_each_table),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    harness_begin();
    run_seed = harness_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
