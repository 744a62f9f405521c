/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sim_run.c -- the simulated machine around the disk: steps and hooks, cuts, faults, memory,
 * damage from outside, threads.
 */
#include "unit/sim_util.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- steps ---- */

struct step_log {
    struct fixture *f;
    uint64_t next_step;
    size_t count;
    enum sim_op ops[32];
    uint64_t size_before; /* of all files, as a kill before the step would leave them */
    uint64_t size_after;
    int torn_sizes[16];
};

static uint64_t killed_size(struct os *os)
{
    struct os *sim = km__sim_clone_after_kill(os);
    uint64_t size = km__sim_total_bytes(sim);

    km__sim_destroy(sim);
    return size;
}

static void log_step(void *context, uint64_t step)
{
    struct step_log *log = context;
    uint64_t seed;

    assert_int_equal(step, log->next_step++);
    if (step % 2 == 1) {
        log->size_after = killed_size(log->f->os);
        return;
    }
    assert_true(log->count < 32);
    log->ops[log->count++] = km__sim_current_op(log->f->os);
    log->size_before = killed_size(log->f->os);
    for (seed = 0; seed < 100 && km__sim_current_op(log->f->os) == SIM_WRITE; seed++) {
        struct os *sim = km__sim_clone_after_kill_torn(log->f->os, base_seed + seed);
        uint64_t size = km__sim_total_bytes(sim);
        assert_true(size <= 10);
        log->torn_sizes[size]++;
        km__sim_destroy(sim);
    }
}

static void the_hook_sees_every_step_before_and_after(void **state)
{
    struct fixture *f = *state;
    static const enum sim_op expected[] = {
        SIM_CREATE_FILE,   SIM_WRITE,  SIM_ALLOCATE, SIM_SYNC,       SIM_MAP_SHARED,
        SIM_SYNC_DIR,      SIM_RENAME, SIM_UNLINK,   SIM_CREATE_DIR, SIM_SYNC_DIR,
        SIM_CREATE_SUBDIR, SIM_LINK,   SIM_RMDIR,    SIM_EXCHANGE};
    struct step_log log = {.f = f, .next_step = 2 * km__sim_step_count(f->os)};
    struct os_file *file;
    uint8_t buffer[4];
    uint8_t *ring;
    size_t i;

    km__sim_on_step(f->os, log_step, &log);
    file = create(f, "a");
    assert_int_equal(f->ops->write_at(file, 0, "0123456789", 10), KM_OK);
    assert_int_equal(log.size_before, 0);
    assert_int_equal(log.size_after, 10);
    assert_int_equal(f->ops->read_at(file, 0, buffer, 4), KM_OK); /* is no step */
    assert_int_equal(f->ops->allocate(file, SECTOR), KM_OK);
    assert_int_equal(f->ops->sync(file), KM_OK);
    ring = map_ring(f, file, 1);
    f->ops->unmap(f->os, ring, SECTOR);
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    assert_int_equal(f->ops->rename(f->dir, "a", "b"), KM_OK);
    assert_int_equal(f->ops->lock_range(file, OS_LOCK_SIZE, OS_LOCK_SHARED), KM_OK); /* neither */
    assert_int_equal(f->ops->unlink(f->dir, "b"), KM_OK);
    assert_int_equal(f->ops->create_dir(f->os, "t"), KM_OK);
    assert_int_equal(f->ops->create_subdir(f->dir, "u"), KM_OK);
    assert_int_equal(f->ops->link(f->dir, "none", f->dir, "x"), KM_NOT_FOUND);
    assert_int_equal(f->ops->remove_subdir(f->dir, "u"), KM_OK);
    assert_int_equal(f->ops->exchange(f->os, "s", "t"), KM_OK);
    assert_int_equal(log.count, sizeof(expected) / sizeof(expected[0]));
    assert_memory_equal(log.ops, expected, sizeof(expected));
    assert_int_equal(log.next_step, 2 * km__sim_step_count(f->os));
    for (i = 0; i <= 10; i++) {
        assert_true(log.torn_sizes[i] > 0); /* every prefix */
    }
    km__sim_on_step(f->os, NULL, NULL);
    f->ops->close_file(file);
}

/* In the hook before a write: a power cut may have a part of it, a prefix in LOST mode never. */
static void see_torn_power(void *context, uint64_t step)
{
    struct step_log *log = context;
    uint64_t seed;

    if (step % 2 == 1)
        return;
    for (seed = 0; seed < 200; seed++) {
        char letters[64];
        after_power(log->f, seed, SIM_POWER_RANDOM, "s/a", letters);
        assert_int_equal(strspn(letters, "AB?"), 2);
        log->torn_sizes[0] += letters[0] == 'A' && letters[1] == 'A';
        log->torn_sizes[1] += letters[0] == 'B' && letters[1] == 'A';
        log->torn_sizes[2] += letters[0] == '?';
        after_power(log->f, seed, SIM_POWER_LOST, "s/a", letters);
        assert_string_equal(letters, "AA");
    }
}

static void a_power_cut_may_tear_the_write_under_way(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "a", 2, 'A');
    struct step_log log = {.f = f};

    km__sim_on_step(f->os, see_torn_power, &log);
    fill(f, file, 0, 2, 'B');
    km__sim_on_step(f->os, NULL, NULL);
    assert_true(log.torn_sizes[0] && log.torn_sizes[1] && log.torn_sizes[2]);
    f->ops->close_file(file);
}

static void clones_repeat_by_seed_and_do_not_disturb_the_run(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "a", 32, 'A');
    struct os *twin = km__sim_create(base_seed);
    struct os *other = km__sim_create(base_seed);
    uint8_t a[16];
    uint8_t b[16];
    char one[64];
    char two[64];
    uint64_t seed;
    int differ = 0;

    fill(f, file, 0, 32, 'B');
    for (seed = 0; seed < 20; seed++) {
        after_power(f, seed, SIM_POWER_RANDOM, "s/a", one);
        after_power(f, seed, SIM_POWER_RANDOM, "s/a", two);
        assert_string_equal(one, two);
        after_power(f, seed + 1, SIM_POWER_RANDOM, "s/a", two);
        differ += strcmp(one, two) != 0;
        km__sim_destroy(km__sim_clone_after_kill_torn(twin, seed));
    }
    assert_true(differ > 0);
    assert_int_equal(f->ops->random(twin, a, sizeof(a)), KM_OK);
    assert_int_equal(f->ops->random(other, b, sizeof(b)), KM_OK);
    assert_memory_equal(a, b, sizeof(a));
    km__sim_destroy(twin);
    km__sim_destroy(other);
    f->ops->close_file(file);
}

/* ---- cuts ---- */

struct workload {
    struct os *os;
    int finished;
    km_status last;
};

/* Leaks on purpose when it is cut. */
static void work(void *context)
{
    struct workload *w = context;
    const struct os_ops *ops = w->os->ops;
    struct os_dir *dir = NULL;
    struct os_file *file = NULL;
    uint8_t *ring = NULL;
    void *object = km__allocate(&w->os->allocator, 1000);
    void *pages = km__map_pages(&w->os->allocator, 8192);

    if (!w->last)
        w->last = ops->open_dir(w->os, "s", &dir);
    if (!w->last)
        w->last = ops->open_file(dir, "a", OS_CREATE_NEW, &file);
    if (!w->last)
        w->last = ops->write_at(file, 0, "0123456789", 10);
    if (!w->last)
        w->last = ops->sync(file);
    if (!w->last)
        w->last = ops->map_shared(file, 10, &ring);
    if (!w->last)
        ring[0] = 'X';
    if (!w->last)
        w->last = ops->sync_dir(dir);
    if (!w->last)
        w->last = ops->rename(dir, "a", "b");
    if (ring && km__sim_is_dead(w->os))
        ring[1] = 'Y'; /* after death: reaches nothing */
    ops->unmap(w->os, ring, 10);
    ops->close_file(file);
    ops->close_dir(dir);
    km__release(&w->os->allocator, object, 1000);
    km__unmap_pages(&w->os->allocator, pages, 8192);
    w->finished = 1;
}

#define WORK_STEPS 6

/* What a kill at a cut in step n (from 1) may leave. */
static void check_cut(struct os *os, uint64_t n, int write_sizes[11])
{
    struct os *sim = km__sim_clone_after_kill(os);
    uint8_t *bytes = NULL;
    size_t size = 0;
    int has_a = exists(sim, "s/a");
    int has_b = exists(sim, "s/b");

    assert_true(!has_b || n == WORK_STEPS);
    assert_true(n == 1 || has_a + has_b == 1);
    if (has_a || has_b) {
        assert_int_equal(km__sim_read_path(sim, has_a ? "s/a" : "s/b", &bytes, &size), 0);
        assert_true(size <= 10);
        assert_true(n == 2 || size == (n < 2 ? 0u : 10u));
        if (n == 2)
            write_sizes[size]++;
        assert_memory_equal(bytes, n >= 5 ? "X123456789" : "0123456789", size);
        free(bytes);
    }
    km__sim_destroy(sim);
}

static void a_cut_ends_the_run_within_the_step(void **state)
{
    int write_sizes[11] = {0};
    uint64_t seed;
    uint64_t n;

    (void)state;
    for (seed = 0; seed < 100; seed++) {
        for (n = 1; n <= WORK_STEPS; n++) {
            struct os *os = km__sim_create(base_seed + seed);
            struct workload w = {.os = os};
            assert_int_equal(os->ops->create_dir(os, "s"), KM_OK);
            km__sim_set_cut(os, n);
            assert_int_equal(km__sim_run(os, work, &w), 1);
            assert_false(w.finished);
            assert_true(km__sim_is_dead(os));
            assert_true(km__sim_allocated_bytes(os) >= 9192);
            check_cut(os, n, write_sizes);
            km__sim_reclaim_memory(os);
            assert_int_equal(km__sim_allocated_bytes(os), 0);
            assert_int_equal(km__sim_open_count(os), 0);
            check_cut(os, n, write_sizes);
            km__sim_destroy(os);
        }
    }
    assert_true(write_sizes[0] && write_sizes[5] && write_sizes[10]);
}

static void outside_a_run_the_dead_machine_answers_with_errors(void **state)
{
    int write_sizes[11] = {0};
    struct os_dir *dir = NULL;
    uint64_t seed;
    uint64_t n;

    (void)state;
    for (seed = 0; seed < 20; seed++) {
        for (n = 1; n <= WORK_STEPS; n++) {
            struct os *os = km__sim_create(base_seed + seed);
            struct workload w = {.os = os};
            assert_int_equal(os->ops->create_dir(os, "s"), KM_OK);
            km__sim_set_cut(os, n);
            work(&w);
            assert_int_equal(w.last, KM_E_IO);
            assert_int_equal(os->ops->last_error(os), EIO);
            assert_int_equal(os->ops->create_dir(os, "late"), KM_E_IO);
            assert_int_equal(os->ops->open_dir(os, "s", &dir), KM_E_IO);
            assert_int_equal(km__sim_allocated_bytes(os), 0);
            assert_int_equal(km__sim_open_count(os), 0);
            check_cut(os, n, write_sizes);
            km__sim_destroy(os);
        }
    }
}

static void a_run_without_a_cut_finishes(void **state)
{
    struct os *os = km__sim_create(base_seed);
    struct workload w = {.os = os};

    (void)state;
    assert_int_equal(os->ops->create_dir(os, "s"), KM_OK);
    km__sim_set_cut(os, WORK_STEPS + 1);
    assert_int_equal(km__sim_run(os, work, &w), 0);
    assert_true(w.finished);
    assert_int_equal(w.last, KM_OK);
    assert_false(km__sim_is_dead(os));
    assert_true(exists(os, "s/b"));
    km__sim_destroy(os);
}

/* ---- faults ---- */

static void the_nth_call_of_an_operation_fails_once(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "a", 1, 'A');
    uint64_t writes = km__sim_call_count(f->os, SIM_WRITE);
    uint64_t size = 0;

    km__sim_fail_call(f->os, SIM_WRITE, 2, KM_E_IO, EIO);
    km__sim_fail_call(f->os, SIM_ANY, 4, KM_E_LIMIT, EMFILE);
    fill(f, file, 0, 1, 'B');
    assert_int_equal(f->ops->write_at(file, 0, "x", 1), KM_E_IO);
    assert_int_equal(f->ops->last_error(f->os), EIO);
    fill(f, file, 1, 1, 'B');
    assert_int_equal(f->ops->file_size(file, &size), KM_E_LIMIT);
    assert_int_equal(f->ops->last_error(f->os), EMFILE);
    assert_int_equal(f->ops->file_size(file, &size), KM_OK);
    assert_int_equal(km__sim_call_count(f->os, SIM_WRITE), writes + 3);
    f->ops->close_file(file);
}

static void a_lasting_fault_fails_all_later_calls(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a");
    int i;

    km__sim_fail_from(f->os, SIM_WRITE, 2, KM_E_FULL, ENOSPC);
    fill(f, file, 0, 1, 'A');
    for (i = 0; i < 5; i++) {
        assert_int_equal(f->ops->write_at(file, 0, "x", 1), KM_E_FULL);
    }
    km__sim_clear_faults(f->os);
    fill(f, file, 0, 1, 'B');
    f->ops->close_file(file);
}

static void a_short_write_leaves_a_part(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a");
    int seen[11] = {0};
    uint64_t size = 0;
    int i;

    for (i = 0; i < 200; i++) {
        assert_int_equal(f->ops->allocate(file, 0), KM_OK);
        km__sim_fail_write_short(f->os, 1, KM_E_IO, EIO);
        assert_int_equal(f->ops->write_at(file, 0, "0123456789", 10), KM_E_IO);
        assert_int_equal(f->ops->file_size(file, &size), KM_OK);
        assert_true(size < 10);
        seen[size]++;
    }
    assert_true(seen[0] && seen[4] && seen[9]);
    f->ops->close_file(file);
}

static void a_sync_after_a_failed_sync_lies(void **state)
{
    int lost = 0;
    int kept = 0;
    uint64_t seed;

    (void)state;
    for (seed = 0; seed < 50; seed++) {
        struct fixture *f = NULL;
        struct os_file *file;
        char letters[64];
        base_seed += 1000;
        assert_int_equal(setup((void **)&f), 0);
        file = create_durable(f, "a", 2, 'A');
        fill(f, file, 0, 1, 'B');
        km__sim_fail_call(f->os, SIM_SYNC, 1, KM_E_IO, EIO);
        assert_int_equal(f->ops->sync(file), KM_E_IO);
        fill(f, file, 1, 1, 'C');
        assert_int_equal(f->ops->sync(file), KM_OK); /* the lie */
        after_power(f, 0, SIM_POWER_KEPT, "s/a", letters);
        assert_true(strcmp(letters, "AC") == 0 || strcmp(letters, "BC") == 0);
        lost += letters[0] == 'A';
        kept += letters[0] == 'B';
        letters_of(km__sim_clone_after_kill(f->os), "s/a", letters);
        assert_string_equal(letters, "BC"); /* the cache looks well */
        fill(f, file, 0, 1, 'B');
        assert_int_equal(f->ops->sync(file), KM_OK);
        after_power(f, 0, SIM_POWER_LOST, "s/a", letters);
        assert_string_equal(letters, "BC");
        f->ops->close_file(file);
        assert_int_equal(teardown((void **)&f), 0);
    }
    assert_true(lost && kept);
}

static void names_of_a_failed_sync_are_lost_or_kept_for_good(void **state)
{
    int seen[2] = {0};
    uint64_t seed;

    (void)state;
    for (seed = 0; seed < 50; seed++) {
        struct fixture *f = NULL;
        char letters[64];
        base_seed += 1000;
        assert_int_equal(setup((void **)&f), 0);
        f->ops->close_file(create(f, "a"));
        km__sim_fail_call(f->os, SIM_SYNC_DIR, 1, KM_E_IO, EIO);
        assert_int_equal(f->ops->sync_dir(f->dir), KM_E_IO);
        assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
        after_power(f, 0, SIM_POWER_KEPT, "s/a", letters);
        seen[letters[0] == '-']++;
        assert_true(exists(f->os, "s/a"));
        assert_int_equal(teardown((void **)&f), 0);
    }
    assert_true(seen[0] && seen[1]);
}

static void a_full_disk_takes_what_fits(void **state)
{
    struct fixture *f = *state;
    struct os_file *a = create(f, "a");
    struct os_file *b = create(f, "b");
    uint64_t size = 0;

    km__sim_set_capacity(f->os, 10 * SECTOR);
    fill(f, a, 0, 8, 'A');
    assert_int_equal(f->ops->allocate(b, 3 * SECTOR), KM_E_FULL);
    assert_int_equal(f->ops->last_error(f->os), ENOSPC);
    assert_int_equal(f->ops->file_size(b, &size), KM_OK);
    assert_int_equal(size, 0);
    assert_int_equal(f->ops->allocate(b, SECTOR), KM_OK);
    fill(f, b, 0, 1, 'B'); /* reserved: no growth */
    assert_int_equal(f->ops->write_at(b, SECTOR - 1, "0123", 4), KM_OK);
    assert_int_equal(km__sim_total_bytes(f->os), 9 * SECTOR + 3);
    km__sim_set_capacity(f->os, 9 * SECTOR + 5);
    assert_int_equal(f->ops->write_at(b, SECTOR + 3, "0123", 4), KM_E_FULL);
    assert_int_equal(km__sim_total_bytes(f->os), 9 * SECTOR + 5);
    km__sim_set_capacity(f->os, SECTOR); /* less than is used */
    assert_int_equal(f->ops->write_at(b, 2 * SECTOR, "x", 1), KM_E_FULL);
    km__sim_set_capacity(f->os, 9 * SECTOR + 5);
    assert_int_equal(f->ops->unlink(f->dir, "a"), KM_OK);
    assert_int_equal(f->ops->allocate(b, 2 * SECTOR), KM_E_FULL); /* a is still open */
    f->ops->close_file(a);
    assert_int_equal(f->ops->allocate(b, 2 * SECTOR), KM_OK);
    f->ops->close_file(b);
}

static void the_new_names_and_locks_fail_when_told_to(void **state)
{
    static const enum sim_op ops[] = {SIM_LINK, SIM_RMDIR, SIM_EXCHANGE, SIM_LOCK_RANGE,
                                      SIM_RESIDENT};
    struct fixture *f = *state;
    struct os_file *file = create(f, "a");
    size_t i;

    assert_int_equal(f->ops->create_subdir(f->dir, "sub"), KM_OK);
    assert_int_equal(f->ops->create_dir(f->os, "t"), KM_OK);
    for (i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
        km__sim_fail_call(f->os, ops[i], 1, KM_E_LIMIT, EMLINK);
    }
    assert_int_equal(f->ops->link(f->dir, "a", f->dir, "b"), KM_E_LIMIT);
    assert_int_equal(f->ops->remove_subdir(f->dir, "sub"), KM_E_LIMIT);
    assert_int_equal(f->ops->exchange(f->os, "s", "t"), KM_E_LIMIT);
    assert_int_equal(f->ops->lock_range(file, OS_LOCK_SIZE, OS_LOCK_SHARED), KM_E_LIMIT);
    assert_int_equal(f->ops->make_resident(f->os, NULL, 0, 1), KM_E_LIMIT);
    assert_int_equal(f->ops->last_error(f->os), EMLINK);
    assert_false(exists(f->os, "s/b")); /* nothing was done */
    assert_true(exists(f->os, "s/a"));
    assert_int_equal(f->ops->remove_subdir(f->dir, "sub"), KM_OK);
    assert_int_equal(f->ops->unlink(f->dir, "a"), KM_OK);
    f->ops->close_file(file);
}

static void a_link_to_another_machine_is_unsupported(void **state)
{
    struct fixture *f = *state;
    struct os *other = km__sim_create(base_seed);
    struct os_dir *dir = NULL;

    f->ops->close_file(create(f, "a"));
    assert_int_equal(other->ops->open_dir(other, "/", &dir), KM_OK);
    assert_int_equal(f->ops->link(f->dir, "a", dir, "a"), KM_E_UNSUPPORTED);
    assert_int_equal(f->ops->last_error(f->os), EXDEV);
    assert_false(exists(other, "a"));
    km__sim_destroy(other);
}

static void append_path(void *context, const char *path, uint64_t size)
{
    snprintf((char *)context + strlen(context), 200, "%s:%d ", path, (int)size);
}

static void a_file_counts_once_under_all_its_names(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "a", 2, 'A');
    char list[200] = "";

    assert_int_equal(f->ops->link(f->dir, "a", f->dir, "b"), KM_OK);
    assert_int_equal(km__sim_total_bytes(f->os), 2 * SECTOR);
    km__sim_list_paths(f->os, append_path, list);
    assert_string_equal(list, "s/a:1024 s/b:1024 ");
    assert_int_equal(f->ops->unlink(f->dir, "a"), KM_OK);
    assert_int_equal(km__sim_total_bytes(f->os), 2 * SECTOR);
    assert_int_equal(km__sim_write_path(f->os, "s/c", "xyz", 3), 0);
    assert_int_equal(f->ops->unlink(f->dir, "b"), KM_OK);
    assert_int_equal(km__sim_total_bytes(f->os), 2 * SECTOR + 3); /* still open */
    f->ops->close_file(file);
    assert_int_equal(km__sim_total_bytes(f->os), 3);
}

static void the_nth_allocation_fails(void **state)
{
    struct fixture *f = *state;
    const struct allocator *allocator = &f->os->allocator;
    uint64_t bytes = km__sim_allocated_bytes(f->os);
    uint64_t count = km__sim_allocation_count(f->os);
    struct os_file *file = NULL;
    void *object;
    void *pages;

    km__sim_fail_allocation(f->os, 3);
    object = km__allocate(allocator, 100);
    pages = km__map_pages(allocator, 4096);
    assert_non_null(object);
    assert_non_null(pages);
    assert_int_equal(km__sim_allocated_bytes(f->os), bytes + 4196);
    assert_int_equal(f->ops->open_file(f->dir, "a", OS_CREATE_NEW, &file), KM_E_NO_MEMORY);
    assert_false(exists(f->os, "s/a"));
    assert_int_equal(km__sim_allocation_count(f->os), count + 3);
    km__sim_fail_allocations_from(f->os, 1);
    assert_null(km__map_pages(allocator, 4096));
    assert_null(km__allocate(allocator, 1));
    km__sim_fail_allocations_from(f->os, 0);
    km__release(allocator, object, 100);
    object = km__allocate(allocator, 1);
    assert_non_null(object);
    km__release(allocator, object, 1);
    km__unmap_pages(allocator, pages, 4096);
    assert_int_equal(km__sim_allocated_bytes(f->os), bytes);
}

/* ---- the disk from outside ---- */

static void tests_can_read_and_damage_files(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "b", 1, 'A');
    const uint8_t *mapped = NULL;
    uint8_t *bytes = NULL;
    size_t size = 0;
    char list[200] = "";
    char letters[64];
    uint64_t seed;

    assert_int_equal(f->ops->map_read(file, SECTOR, &mapped), KM_OK);
    assert_int_equal(km__sim_write_path(f->os, "s/a", "hello", 5), 0);
    assert_int_equal(km__sim_flip_bit(f->os, "s/a", 1), 0);
    assert_int_equal(km__sim_flip_bit(f->os, "s/a", 40), -1);
    assert_int_equal(km__sim_read_path(f->os, "s/a", &bytes, &size), 0);
    assert_int_equal(size, 5);
    assert_memory_equal(bytes, "jello", 5);
    free(bytes);
    assert_int_equal(km__sim_overwrite_path(f->os, "s/b", 0, "damage", 6), 0);
    assert_memory_equal(mapped, "damageAA", 8);
    after_power(f, 0, SIM_POWER_LOST, "s/b", letters);
    assert_string_equal(letters, "?");
    assert_int_equal(km__sim_truncate_path(f->os, "s/a", 3), 0);
    km__sim_list_paths(f->os, append_path, list);
    assert_string_equal(list, "s/a:3 s/b:512 ");
    assert_int_equal(km__sim_delete_path(f->os, "s/a"), 0);
    assert_int_equal(km__sim_delete_path(f->os, "s/a"), -1);
    after_power(f, 0, SIM_POWER_LOST, "s/a", letters);
    assert_string_equal(letters, "-");
    assert_int_equal(km__sim_write_path(f->os, "s/b", "new", 3), 0); /* the open one stays */
    assert_memory_equal(mapped, "damageAA", 8);
    assert_int_equal(km__sim_write_path(f->os, "none/b", "new", 3), -1);
    f->ops->close_file(create(f, "c")); /* its name is not durable, what a test writes is */
    assert_int_equal(km__sim_write_path(f->os, "s/c", mapped, SECTOR), 0);
    for (seed = 0; seed < 50; seed++) {
        after_power(f, seed, SIM_POWER_RANDOM, "s/c", letters);
        assert_string_equal(letters, "?");
    }
    assert_int_equal(km__sim_read_path(f->os, "s", &bytes, &size), -1);
    f->ops->unmap(f->os, mapped, SECTOR);
    f->ops->close_file(file);
}

static void store_into_read_only(struct fixture *f)
{
    struct os_file *file = create_durable(f, "a", 1, 'A');
    const uint8_t *bytes = NULL;

    if (f->ops->map_read(file, SECTOR, &bytes))
        return;
    *(uint8_t *)(uintptr_t)bytes = 'x';
    f->ops->unmap(f->os, bytes, SECTOR);
}

static void release_other_size(struct fixture *f)
{
    km__release(&f->os->allocator, km__allocate(&f->os->allocator, 10), 11);
}

static int aborts(struct fixture *f, void (*misuse)(struct fixture *f))
{
    int status = 0;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        signal(SIGABRT, SIG_DFL); /* cmocka's handler would carry on with the tests */
        dup2(null, 2);
        misuse(f);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void misuse_is_caught(void **state)
{
    struct fixture *f = *state;

    assert_true(aborts(f, store_into_read_only));
    assert_true(aborts(f, release_other_size));
}

/* ---- threads ---- */

#define THREAD_COUNT 4
#define THREAD_ROUNDS 200

struct worker {
    struct fixture *f;
    uint8_t *ring;
    int index;
};

static void *work_in_thread(void *context)
{
    struct worker *worker = context;
    struct fixture *f = worker->f;
    uint64_t *words = (uint64_t *)(void *)(worker->ring + 4096 * worker->index);
    char name[] = "t0";
    char next_name[] = "u0";
    struct os_file *file;
    int i;

    name[1] = next_name[1] = (char)('0' + worker->index);
    file = create(f, name);
    for (i = 0; i < THREAD_ROUNDS; i++) {
        void *object = km__allocate(&f->os->allocator, 64);
        words[i % 512] = (uint64_t)i + 1;
        assert_int_equal(f->ops->write_at(file, (uint64_t)i * 8, words, 8), KM_OK);
        if (i % 8 == 0)
            assert_int_equal(f->ops->sync(file), KM_OK);
        if (i % 16 == 0)
            km__sim_ring_lap(f->os);
        if (i % 32 == 0) {
            km__sim_destroy(km__sim_clone_after_power_cut(f->os, (uint64_t)i, SIM_POWER_RANDOM));
            km__sim_destroy(km__sim_clone_after_kill_torn_ring(f->os, (uint64_t)i));
        }
        f->ops->now_ns(f->os);
        km__release(&f->os->allocator, object, 64);
    }
    assert_int_equal(f->ops->rename(f->dir, name, next_name), KM_OK);
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    f->ops->close_file(file);
    return NULL;
}

static void threads_may_work_while_others_take_clones(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "ring");
    struct worker workers[THREAD_COUNT];
    pthread_t threads[THREAD_COUNT];
    struct os *sim;
    uint8_t *bytes = NULL;
    size_t size = 0;
    uint8_t *ring;
    int i;

    assert_int_equal(f->ops->allocate(file, THREAD_COUNT * 4096), KM_OK);
    ring = map_ring(f, file, THREAD_COUNT * 8);
    for (i = 0; i < THREAD_COUNT; i++) {
        workers[i] = (struct worker){f, ring, i};
        assert_int_equal(pthread_create(&threads[i], NULL, work_in_thread, &workers[i]), 0);
    }
    for (i = 0; i < THREAD_COUNT; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    sim = km__sim_clone_after_kill(f->os);
    assert_int_equal(km__sim_read_path(sim, "s/ring", &bytes, &size), 0);
    assert_memory_equal(bytes, ring, size);
    free(bytes);
    assert_int_equal(km__sim_read_path(sim, "s/u3", &bytes, &size), 0);
    assert_int_equal(size, THREAD_ROUNDS * 8);
    free(bytes);
    km__sim_destroy(sim);
    f->ops->unmap(f->os, ring, THREAD_COUNT * 4096);
    f->ops->close_file(file);
}

/* Clones share blocks with their origin: they may live and die in other threads. */
static void *use_clone(void *context)
{
    struct os *sim = context;
    uint64_t i;

    for (i = 0; i < 100; i++) {
        assert_int_equal(km__sim_overwrite_path(sim, "s/a", i * 100, "clone", 5), 0);
        km__sim_destroy(km__sim_clone_after_power_cut(sim, i, SIM_POWER_RANDOM));
    }
    km__sim_destroy(sim);
    return NULL;
}

static void clones_may_be_used_by_other_threads(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "a", 32, 'A');
    pthread_t threads[THREAD_COUNT];
    char letters[64];
    int i;

    for (i = 0; i < THREAD_COUNT; i++) {
        struct os *sim;
        fill(f, file, (uint64_t)i, 1, 'B');
        sim = km__sim_clone_after_kill(f->os);
        assert_int_equal(pthread_create(&threads[i], NULL, use_clone, sim), 0);
    }
    for (i = 0; i < 100; i++) {
        fill(f, file, 0, 32, i == 99 ? 'Z' : 'C');
        if (i % 10 == 0)
            assert_int_equal(f->ops->sync(file), KM_OK);
    }
    for (i = 0; i < THREAD_COUNT; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    letters_of(km__sim_clone_after_kill(f->os), "s/a", letters);
    assert_int_equal(strspn(letters, "Z"), 32);
    f->ops->close_file(file);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        CASE(the_hook_sees_every_step_before_and_after),
        CASE(a_power_cut_may_tear_the_write_under_way),
        CASE(clones_repeat_by_seed_and_do_not_disturb_the_run),
        cmocka_unit_test(a_cut_ends_the_run_within_the_step),
        cmocka_unit_test(outside_a_run_the_dead_machine_answers_with_errors),
        cmocka_unit_test(a_run_without_a_cut_finishes),
        CASE(the_nth_call_of_an_operation_fails_once),
        CASE(a_lasting_fault_fails_all_later_calls),
        CASE(a_short_write_leaves_a_part),
        cmocka_unit_test(a_sync_after_a_failed_sync_lies),
        cmocka_unit_test(names_of_a_failed_sync_are_lost_or_kept_for_good),
        CASE(a_full_disk_takes_what_fits),
        CASE(the_new_names_and_locks_fail_when_told_to),
        CASE(a_link_to_another_machine_is_unsupported),
        CASE(a_file_counts_once_under_all_its_names),
        CASE(the_nth_allocation_fails),
        CASE(tests_can_read_and_damage_files),
        CASE(misuse_is_caught),
        CASE(threads_may_work_while_others_take_clones),
        CASE(clones_may_be_used_by_other_threads),
    };

    choose_seed();
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
