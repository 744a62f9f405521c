/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sim.c -- the simulated disk: what kills and power cuts leave, no more and no less.
 *
 * It judges all crash tests, so both sides are tested: that what the model allows does happen for
 * some seed, and that nothing else ever does.
 */
#include "unit/sim_util.h"

/* ---- contents ---- */

static void synced_bytes_survive_every_power_cut(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "a", 4, 'A');
    char letters[64];
    uint64_t seed;
    int mode;

    for (mode = 0; mode < SIM_POWER_MODE_COUNT; mode++) {
        for (seed = 0; seed < 20; seed++) {
            after_power(f, seed, (enum sim_power)mode, "s/a", letters);
            assert_string_equal(letters, "AAAA");
        }
    }
    f->ops->close_file(file);
}

static void each_sector_is_old_or_any_version_written_since(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "a", 3, 'A');
    int seen[3][128] = {{0}};
    char letters[64];
    uint64_t seed;
    size_t i;

    fill(f, file, 0, 2, 'B');
    fill(f, file, 1, 2, 'C');
    for (seed = 0; seed < TRY_COUNT; seed++) {
        after_power(f, seed, SIM_POWER_RANDOM, "s/a", letters);
        assert_int_equal(strlen(letters), 3);
        for (i = 0; i < 3; i++) {
            seen[i][(int)letters[i]]++;
        }
    }
    assert_true(seen[0]['A'] && seen[0]['B']);
    assert_int_equal(seen[0]['A'] + seen[0]['B'], TRY_COUNT);
    assert_true(seen[1]['A'] && seen[1]['B'] && seen[1]['C']);
    assert_int_equal(seen[1]['A'] + seen[1]['B'] + seen[1]['C'], TRY_COUNT);
    assert_true(seen[2]['A'] && seen[2]['C']);
    assert_int_equal(seen[2]['A'] + seen[2]['C'], TRY_COUNT);
    f->ops->close_file(file);
}

static void modes_keep_nothing_all_a_prefix_or_a_suffix(void **state)
{
    struct fixture *f = *state;
    struct os_file *a = create_durable(f, "a", 2, 'A');
    struct os_file *b = create_durable(f, "b", 2, 'A');
    int prefix_seen[4] = {0};
    int suffix_seen[4] = {0};
    char la[64];
    char lb[64];
    uint64_t seed;

    fill(f, a, 0, 1, 'B'); /* first */
    fill(f, b, 0, 1, 'B'); /* second */
    fill(f, a, 1, 1, 'B'); /* third */
    for (seed = 0; seed < TRY_COUNT; seed++) {
        int done;
        after_power(f, seed, SIM_POWER_LOST, "s/a", la);
        assert_string_equal(la, "AA");
        after_power(f, seed, SIM_POWER_KEPT, "s/a", la);
        assert_string_equal(la, "BB");
        after_power(f, seed, SIM_POWER_PREFIX, "s/a", la);
        after_power(f, seed, SIM_POWER_PREFIX, "s/b", lb);
        done = (la[0] == 'B') + (lb[0] == 'B') + (la[1] == 'B');
        prefix_seen[done]++;
        assert_true((la[0] == 'B') >= (lb[0] == 'B') && (lb[0] == 'B') >= (la[1] == 'B'));
        after_power(f, seed, SIM_POWER_SUFFIX, "s/a", la);
        after_power(f, seed, SIM_POWER_SUFFIX, "s/b", lb);
        done = (la[0] == 'B') + (lb[0] == 'B') + (la[1] == 'B');
        suffix_seen[done]++;
        assert_true((la[0] == 'B') <= (lb[0] == 'B') && (lb[0] == 'B') <= (la[1] == 'B'));
    }
    assert_true(prefix_seen[0] && prefix_seen[1] && prefix_seen[2] && prefix_seen[3]);
    assert_true(suffix_seen[0] && suffix_seen[1] && suffix_seen[2] && suffix_seen[3]);
    f->ops->close_file(a);
    f->ops->close_file(b);
}

static void files_are_not_ordered_and_syncs_are_of_one_file(void **state)
{
    struct fixture *f = *state;
    struct os_file *a = create_durable(f, "a", 1, 'A');
    struct os_file *b = create_durable(f, "b", 1, 'A');
    int only_later = 0;
    char la[64];
    char lb[64];
    uint64_t seed;

    fill(f, a, 0, 1, 'B');
    fill(f, b, 0, 1, 'B');
    for (seed = 0; seed < TRY_COUNT; seed++) {
        after_power(f, seed, SIM_POWER_RANDOM, "s/a", la);
        after_power(f, seed, SIM_POWER_RANDOM, "s/b", lb);
        only_later += la[0] == 'A' && lb[0] == 'B';
    }
    assert_true(only_later > 0);
    assert_int_equal(f->ops->sync(b), KM_OK);
    after_power(f, 0, SIM_POWER_LOST, "s/a", la);
    after_power(f, 0, SIM_POWER_LOST, "s/b", lb);
    assert_string_equal(la, "A");
    assert_string_equal(lb, "B");
    f->ops->close_file(a);
    f->ops->close_file(b);
}

static void an_unsynced_size_is_old_or_new(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "a", 2, 'A');
    int seen[5] = {0};
    char letters[64];
    uint64_t seed;

    assert_int_equal(f->ops->allocate(file, 4 * SECTOR), KM_OK);
    for (seed = 0; seed < TRY_COUNT; seed++) {
        after_power(f, seed, SIM_POWER_RANDOM, "s/a", letters);
        assert_true(strcmp(letters, "AA") == 0 || strcmp(letters, "AA00") == 0);
        seen[strlen(letters)]++;
    }
    assert_true(seen[2] && seen[4]);
    assert_int_equal(f->ops->sync(file), KM_OK);
    after_power(f, 0, SIM_POWER_LOST, "s/a", letters);
    assert_string_equal(letters, "AA00");
    assert_int_equal(f->ops->allocate(file, SECTOR), KM_OK);
    after_power(f, 0, SIM_POWER_LOST, "s/a", letters);
    assert_string_equal(letters, "AA00");
    after_power(f, 0, SIM_POWER_KEPT, "s/a", letters);
    assert_string_equal(letters, "A");
    f->ops->close_file(file);
}

static void what_a_power_cut_leaves_is_durable(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "a", 16, 'A');
    uint64_t seed;

    fill(f, file, 0, 16, 'B');
    f->ops->close_file(create(f, "new"));
    for (seed = 0; seed < 50; seed++) {
        struct os *first = km__sim_clone_after_power_cut(f->os, base_seed + seed, SIM_POWER_RANDOM);
        struct os *second = km__sim_clone_after_power_cut(first, seed, SIM_POWER_RANDOM);
        struct os *third = km__sim_clone_after_power_cut(second, seed, SIM_POWER_LOST);
        char one[64];
        char three[64];
        assert_int_equal(km__sim_total_bytes(first), km__sim_total_bytes(third));
        letters_of(first, "s/a", one);
        letters_of(third, "s/a", three);
        assert_string_equal(one, three);
        km__sim_destroy(second);
    }
    f->ops->close_file(file);
}

/* ---- names ---- */

static void names_need_a_sync_of_their_folder(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a");
    int seen[2] = {0};
    char letters[64];
    uint64_t seed;

    fill(f, file, 0, 2, 'A');
    assert_int_equal(f->ops->sync(file), KM_OK); /* makes no name durable */
    for (seed = 0; seed < TRY_COUNT; seed++) {
        after_power(f, seed, SIM_POWER_RANDOM, "s/a", letters);
        assert_true(strcmp(letters, "-") == 0 || strcmp(letters, "AA") == 0);
        seen[letters[0] == 'A']++;
    }
    assert_true(seen[0] && seen[1]);
    after_power(f, 0, SIM_POWER_LOST, "s/a", letters);
    assert_string_equal(letters, "-");
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    after_power(f, 0, SIM_POWER_LOST, "s/a", letters);
    assert_string_equal(letters, "AA");
    assert_int_equal(f->ops->unlink(f->dir, "a"), KM_OK);
    after_power(f, 0, SIM_POWER_LOST, "s/a", letters);
    assert_string_equal(letters, "AA"); /* comes back */
    after_power(f, 0, SIM_POWER_KEPT, "s/a", letters);
    assert_string_equal(letters, "-");
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    after_power(f, 0, SIM_POWER_LOST, "s/a", letters);
    assert_string_equal(letters, "-");
    f->ops->close_file(file);
}

static void a_name_may_be_durable_before_its_content(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a");
    char letters[64];

    fill(f, file, 0, 2, 'A');
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    after_power(f, 0, SIM_POWER_LOST, "s/a", letters);
    assert_string_equal(letters, ""); /* there, and empty */
    f->ops->close_file(file);
}

static void each_name_of_a_rename_is_old_or_new(void **state)
{
    struct fixture *f = *state;
    int seen[2][3] = {{0}};
    uint64_t seed;

    f->ops->close_file(create_durable(f, "temp", 1, 'N'));
    f->ops->close_file(create_durable(f, "final", 1, 'O'));
    assert_int_equal(f->ops->rename(f->dir, "temp", "final"), KM_OK);
    for (seed = 0; seed < TRY_COUNT; seed++) {
        struct os *sim = km__sim_clone_after_power_cut(f->os, base_seed + seed, SIM_POWER_RANDOM);
        int temp = exists(sim, "s/temp");
        char letters[64];
        letters_of(sim, "s/final", letters);
        assert_true(letters[0] == 'O' || letters[0] == 'N');
        seen[temp][letters[0] == 'N']++;
        sim = km__sim_clone_after_power_cut(f->os, base_seed + seed, SIM_POWER_PREFIX);
        temp = exists(sim, "s/temp");
        letters_of(sim, "s/final", letters);
        assert_int_equal(temp, letters[0] == 'O'); /* one moment */
    }
    assert_true(seen[0][0] && seen[0][1] && seen[1][0] && seen[1][1]);
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    for (seed = 0; seed < 20; seed++) {
        char letters[64];
        after_power(f, seed, SIM_POWER_RANDOM, "s/final", letters);
        assert_string_equal(letters, "N");
        after_power(f, seed, SIM_POWER_RANDOM, "s/temp", letters);
        assert_string_equal(letters, "-");
    }
}

static void folders_are_names_of_their_parents(void **state)
{
    struct fixture *f = *state;
    struct os_dir *log = NULL;
    struct os_file *file = NULL;
    struct os *sim;

    assert_int_equal(f->ops->create_subdir(f->dir, "log"), KM_OK);
    assert_int_equal(f->ops->open_subdir(f->dir, "log", &log), KM_OK);
    assert_int_equal(f->ops->open_file(log, "a", OS_CREATE_NEW, &file), KM_OK);
    assert_int_equal(f->ops->sync_dir(log), KM_OK);
    sim = km__sim_clone_after_power_cut(f->os, 0, SIM_POWER_LOST);
    assert_false(exists(sim, "s/log/a")); /* its folder is gone */
    km__sim_destroy(sim);
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    sim = km__sim_clone_after_power_cut(f->os, 0, SIM_POWER_LOST);
    assert_true(exists(sim, "s/log/a"));
    km__sim_destroy(sim);
    f->ops->close_file(file);
    f->ops->close_dir(log);
}

static void each_name_of_a_link_is_decided_for_itself(void **state)
{
    struct fixture *f = *state;
    struct os_dir *sub = NULL;
    struct os_file *file = create_durable(f, "a", 2, 'A');
    int seen[2][2] = {{0}};
    char letters[64];
    uint64_t seed;

    assert_int_equal(f->ops->create_subdir(f->dir, "sub"), KM_OK);
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    assert_int_equal(f->ops->open_subdir(f->dir, "sub", &sub), KM_OK);
    assert_int_equal(f->ops->link(f->dir, "a", sub, "b"), KM_OK);
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK); /* not the folder of the new name */
    for (seed = 0; seed < TRY_COUNT; seed++) {
        after_power(f, seed, SIM_POWER_RANDOM, "s/a", letters);
        assert_string_equal(letters, "AA"); /* the old name is safe */
        after_power(f, seed, SIM_POWER_RANDOM, "s/sub/b", letters);
        assert_true(strcmp(letters, "-") == 0 || strcmp(letters, "AA") == 0);
        seen[0][letters[0] == 'A']++;
    }
    assert_true(seen[0][0] && seen[0][1]);
    after_power(f, 0, SIM_POWER_LOST, "s/sub/b", letters);
    assert_string_equal(letters, "-");
    assert_int_equal(f->ops->unlink(f->dir, "a"), KM_OK);
    memset(seen, 0, sizeof(seen));
    for (seed = 0; seed < TRY_COUNT; seed++) {
        struct os *sim = km__sim_clone_after_power_cut(f->os, base_seed + seed, SIM_POWER_RANDOM);
        seen[exists(sim, "s/a")][exists(sim, "s/sub/b")]++;
        km__sim_destroy(sim);
    }
    assert_true(seen[0][0] && seen[0][1] && seen[1][0] && seen[1][1]);
    assert_int_equal(f->ops->sync_dir(sub), KM_OK);
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    after_power(f, 0, SIM_POWER_LOST, "s/sub/b", letters);
    assert_string_equal(letters, "AA");
    after_power(f, 0, SIM_POWER_LOST, "s/a", letters);
    assert_string_equal(letters, "-");
    f->ops->close_file(file);
    f->ops->close_dir(sub);
}

static void all_names_of_a_file_have_the_same_bytes_after_a_cut(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "a", 8, 'A');
    uint64_t seed;
    int mixed = 0;

    assert_int_equal(f->ops->link(f->dir, "a", f->dir, "b"), KM_OK);
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    fill(f, file, 0, 8, 'B');
    for (seed = 0; seed < 50; seed++) {
        struct os *sim = km__sim_clone_after_power_cut(f->os, base_seed + seed, SIM_POWER_RANDOM);
        char one[64];
        char two[64];
        assert_int_equal(km__sim_total_bytes(sim), 8 * SECTOR); /* one file */
        assert_int_equal(km__sim_overwrite_path(sim, "s/a", 0, "through a", 9), 0);
        letters_of(km__sim_clone_after_kill(sim), "s/a", one);
        letters_of(sim, "s/b", two);
        assert_string_equal(one, two);
        assert_int_equal(two[0], '?');
        mixed += strchr(two, 'A') && strchr(two, 'B');
    }
    assert_true(mixed > 0);
    f->ops->close_file(file);
}

static void a_removed_folder_needs_a_sync_of_its_parent(void **state)
{
    struct fixture *f = *state;
    struct os_dir *dir = NULL;
    int seen[2] = {0};
    uint64_t seed;

    assert_int_equal(f->ops->create_subdir(f->dir, "sub"), KM_OK);
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    assert_int_equal(f->ops->remove_subdir(f->dir, "sub"), KM_OK);
    for (seed = 0; seed < TRY_COUNT; seed++) {
        struct os *sim = km__sim_clone_after_power_cut(f->os, base_seed + seed, SIM_POWER_RANDOM);
        seen[f->ops->open_dir(sim, "s/sub", &dir) == KM_OK]++;
        km__sim_destroy(sim);
        if (seed == TRY_COUNT / 2) {
            assert_true(seen[0] && seen[1]);
            assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
            seen[1] = 0;
        }
    }
    assert_int_equal(seen[1], 0);
}

/* 1 if s/one has the file and s/two has not, 2 if it is the other way round. */
static int side_of(struct os *sim)
{
    int one = exists(sim, "s/one/a");
    int two = exists(sim, "s/two/a");

    km__sim_destroy(sim);
    assert_int_equal(one + two, 1);
    return one ? 1 : 2;
}

static void see_sides(void *context, uint64_t step)
{
    struct fixture *f = context;
    uint64_t seed;
    int mode;

    for (seed = 0; seed < 20; seed++) {
        for (mode = 0; mode < SIM_POWER_MODE_COUNT; mode++) {
            struct os *sim = km__sim_clone_after_power_cut(f->os, base_seed + seed,
                                                           (enum sim_power)mode);
            assert_int_equal(side_of(sim), step % 2 == 0 ? 1 : 2);
        }
    }
}

static void an_exchange_is_whole_and_durable_or_not_at_all(void **state)
{
    struct fixture *f = *state;
    struct os_dir *one = NULL;
    struct os_file *file = NULL;

    assert_int_equal(f->ops->create_dir(f->os, "s/one"), KM_OK);
    assert_int_equal(f->ops->create_dir(f->os, "s/two"), KM_OK);
    assert_int_equal(f->ops->open_dir(f->os, "s/one", &one), KM_OK);
    assert_int_equal(f->ops->open_file(one, "a", OS_CREATE_NEW, &file), KM_OK);
    assert_int_equal(f->ops->sync_dir(one), KM_OK);
    f->ops->close_file(file);
    f->ops->close_dir(one);
    km__sim_fail_call(f->os, SIM_EXCHANGE, 1, KM_E_UNSUPPORTED, 22);
    assert_int_equal(f->ops->exchange(f->os, "s/one", "s/two"), KM_E_UNSUPPORTED);
    assert_int_equal(side_of(km__sim_clone_after_kill(f->os)), 1);
    km__sim_on_step(f->os, see_sides, f);
    assert_int_equal(f->ops->exchange(f->os, "s/one", "s/two"), KM_OK);
    km__sim_on_step(f->os, NULL, NULL);
    assert_int_equal(side_of(km__sim_clone_after_kill(f->os)), 2);
}

/* ---- kills ---- */

static void a_kill_keeps_the_cache_and_frees_the_locks(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create(f, "a");
    struct os *sim;
    struct os_dir *dir = NULL;
    struct os_file *other = NULL;
    uint8_t before[OS_BOOT_ID_SIZE];
    uint8_t after[OS_BOOT_ID_SIZE];
    char letters[64];

    fill(f, file, 0, 3, 'A');
    assert_int_equal(f->ops->lock(file, OS_LOCK_EXCLUSIVE), KM_OK);
    assert_int_equal(f->ops->lock_range(file, OS_LOCK_SIZE, OS_LOCK_EXCLUSIVE), KM_OK);
    sim = km__sim_clone_after_kill(f->os);
    assert_int_equal(f->ops->open_dir(sim, "s", &dir), KM_OK);
    assert_int_equal(f->ops->open_file(dir, "a", OS_OPEN_WRITE, &other), KM_OK);
    assert_int_equal(f->ops->lock(other, OS_LOCK_EXCLUSIVE), KM_OK);
    assert_false(f->ops->is_range_locked(other, 0, UINT64_MAX));
    assert_int_equal(f->ops->lock_range(other, OS_LOCK_SIZE, OS_LOCK_EXCLUSIVE), KM_OK);
    f->ops->boot_id(f->os, before);
    f->ops->boot_id(sim, after);
    assert_memory_equal(before, after, sizeof(before));
    assert_int_not_equal(f->ops->process_id(sim), f->ops->process_id(f->os));
    assert_false(f->ops->process_exists(sim, f->ops->process_id(f->os)));
    /* Not synced is not synced after a kill either. */
    letters_of(km__sim_clone_after_power_cut(sim, 0, SIM_POWER_LOST), "s/a", letters);
    assert_string_equal(letters, "-");
    letters_of(km__sim_clone_after_power_cut(sim, 0, SIM_POWER_KEPT), "s/a", letters);
    assert_string_equal(letters, "AAA");
    /* The two go their own ways. */
    assert_int_equal(f->ops->write_at(other, 0, "x", 1), KM_OK);
    fill(f, file, 1, 1, 'B');
    letters_of(km__sim_clone_after_kill(sim), "s/a", letters);
    assert_string_equal(letters, "?AA");
    letters_of(km__sim_clone_after_kill(f->os), "s/a", letters);
    assert_string_equal(letters, "ABA");
    km__sim_destroy(sim); /* with its handles */
    f->ops->close_file(file);
}

static void a_power_cut_changes_boot_and_clock(void **state)
{
    struct fixture *f = *state;
    struct os *sim;
    uint8_t before[OS_BOOT_ID_SIZE];
    uint8_t after[OS_BOOT_ID_SIZE];

    km__sim_set_wall(f->os, 5000000);
    km__sim_advance(f->os, UINT64_C(90000000000));
    assert_int_equal(f->ops->wall_ms(f->os), 5090000);
    sim = km__sim_clone_after_power_cut(f->os, 1, SIM_POWER_KEPT);
    f->ops->boot_id(f->os, before);
    f->ops->boot_id(sim, after);
    assert_memory_not_equal(before, after, sizeof(before));
    assert_true(f->ops->now_ns(sim) < f->ops->now_ns(f->os));
    assert_true(f->ops->wall_ms(sim) >= 5090000);
    km__sim_destroy(sim);
}

static void the_clock_ticks_with_every_call(void **state)
{
    struct fixture *f = *state;
    uint64_t before;
    uint64_t size;
    struct os_file *file = create(f, "a");

    km__sim_set_time(f->os, 77000);
    before = f->ops->now_ns(f->os);
    assert_int_equal(before, 78000);
    assert_int_equal(f->ops->file_size(file, &size), KM_OK);
    assert_int_equal(f->ops->now_ns(f->os), before + 2000);
    km__sim_set_process_exists(f->os, 4242, 1);
    assert_true(f->ops->process_exists(f->os, 4242));
    km__sim_set_process_exists(f->os, 4242, 0);
    assert_false(f->ops->process_exists(f->os, 4242));
    f->ops->close_file(file);
}

/* ---- shared mappings ---- */

static void stores_survive_a_kill_exactly(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "ring", 8, 'A');
    uint8_t *ring = map_ring(f, file, 8);
    char letters[64];

    memset(ring + 3 * SECTOR, 'B', 2 * SECTOR);
    letters_of(km__sim_clone_after_kill(f->os), "s/ring", letters);
    assert_string_equal(letters, "AAABBAAA");
    after_power(f, 0, SIM_POWER_LOST, "s/ring", letters);
    assert_string_equal(letters, "AAAAAAAA");
    after_power(f, 0, SIM_POWER_KEPT, "s/ring", letters);
    assert_string_equal(letters, "AAABBAAA");
    memset(ring + 7 * SECTOR, 'C', SECTOR);
    f->ops->unmap(f->os, ring, 8 * SECTOR);
    after_power(f, 0, SIM_POWER_LOST, "s/ring", letters); /* unmapping is no sync */
    assert_string_equal(letters, "AAAAAAAA");
    assert_int_equal(f->ops->sync(file), KM_OK);
    after_power(f, 0, SIM_POWER_LOST, "s/ring", letters);
    assert_string_equal(letters, "AAABBAAC");
    f->ops->close_file(file);
}

static void a_power_cut_mixes_the_last_laps(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "ring", 4, 'A');
    uint8_t *ring = map_ring(f, file, 4);
    int seen[128] = {0};
    int suffix_seen[5] = {0};
    int mixed = 0;
    char letters[64];
    uint64_t seed;
    size_t i;

    for (i = 0; i < 7; i++) { /* laps B to H, of which E to H are remembered, and I now */
        memset(ring, 'B' + (int)i, 4 * SECTOR);
        km__sim_ring_lap(f->os);
    }
    memset(ring, 'I', 4 * SECTOR);
    for (seed = 0; seed < TRY_COUNT; seed++) {
        after_power(f, seed, SIM_POWER_RANDOM, "s/ring", letters);
        mixed += letters[0] != letters[1];
        for (i = 0; i < 4; i++) {
            seen[(int)letters[i]]++;
        }
        after_power(f, seed, SIM_POWER_PREFIX, "s/ring", letters);
        assert_true(letters[0] == letters[1] && letters[1] == letters[2] &&
                    letters[2] == letters[3]);
        assert_non_null(strchr("AEFGHI", letters[0]));
        after_power(f, seed, SIM_POWER_SUFFIX, "s/ring", letters);
        i = strspn(letters, "I");
        assert_int_equal(i + strspn(letters + i, "A"), 4);
        suffix_seen[i]++;
    }
    assert_true(mixed > 0);
    assert_true(suffix_seen[0] && suffix_seen[2] && suffix_seen[4]);
    assert_true(seen['A'] && seen['E'] && seen['F'] && seen['G'] && seen['H'] && seen['I']);
    assert_int_equal(seen['A'] + seen['E'] + seen['F'] + seen['G'] + seen['H'] + seen['I'],
                     4 * TRY_COUNT);
    assert_int_equal(f->ops->sync(file), KM_OK); /* from now on nothing older */
    memset(ring, 'J', SECTOR);
    seen['I'] = 0;
    for (seed = 0; seed < 50; seed++) {
        after_power(f, seed, SIM_POWER_RANDOM, "s/ring", letters);
        seen[(int)letters[0]]++;
        assert_true(strcmp(letters, "IIII") == 0 || strcmp(letters, "JIII") == 0);
    }
    assert_true(seen['I'] && seen['J']);
    f->ops->unmap(f->os, ring, 4 * SECTOR);
    f->ops->close_file(file);
}

static void every_sync_takes_a_lap(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "ring", 1, 'A');
    struct os_file *other = create(f, "other");
    uint8_t *ring = map_ring(f, file, 1);
    int seen[128] = {0};
    char letters[64];
    uint64_t seed;

    memset(ring, 'B', SECTOR);
    assert_int_equal(f->ops->sync(other), KM_OK);
    memset(ring, 'C', SECTOR);
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    memset(ring, 'D', SECTOR);
    for (seed = 0; seed < TRY_COUNT; seed++) {
        after_power(f, seed, SIM_POWER_RANDOM, "s/ring", letters);
        seen[(int)letters[0]]++;
    }
    assert_true(seen['A'] && seen['B'] && seen['C'] && seen['D']);
    f->ops->unmap(f->os, ring, SECTOR);
    f->ops->close_file(file);
    f->ops->close_file(other);
}

static void a_torn_ring_lacks_some_of_the_words_since_the_lap(void **state)
{
    struct fixture *f = *state;
    struct os_file *file = create_durable(f, "ring", 1, 'A');
    uint8_t *ring = map_ring(f, file, 1);
    int kept_seen[5] = {0};
    int subset_seen = 0;
    uint64_t seed;
    size_t i;

    memset(ring + 64, 'L', 8);
    km__sim_ring_lap(f->os);
    for (i = 0; i < 4; i++) {
        memset(ring + 128 + 16 * i, 'B', 8);
    }
    for (seed = 0; seed < TRY_COUNT; seed++) {
        struct os *sim = km__sim_clone_after_kill_torn_ring(f->os, base_seed + seed);
        uint8_t *bytes = NULL;
        size_t size = 0;
        size_t kept = 0;
        size_t first_missing = 4;
        assert_int_equal(km__sim_read_path(sim, "s/ring", &bytes, &size), 0);
        for (i = 0; i < 4; i++) {
            const uint8_t *word = bytes + 128 + 16 * i;
            int is_kept = memcmp(word, "BBBBBBBB", 8) == 0;
            assert_true(is_kept || memcmp(word, "AAAAAAAA", 8) == 0);
            if (!is_kept && first_missing == 4)
                first_missing = i;
            kept += (size_t)is_kept;
        }
        assert_memory_equal(bytes + 64, "LLLLLLLL", 8);
        assert_int_equal(bytes[0], 'A');
        kept_seen[kept]++;
        subset_seen += kept > first_missing;
        free(bytes);
        km__sim_destroy(sim);
    }
    assert_true(kept_seen[0] && kept_seen[1] && kept_seen[2] && kept_seen[3] && kept_seen[4]);
    assert_true(subset_seen > 0);
    f->ops->unmap(f->os, ring, SECTOR);
    f->ops->close_file(file);
}

/* ---- against a plain model: random writes, syncs, cuts; every sector found must be allowed */

#define MODEL_FILES 3
#define MODEL_SECTORS 12
#define MODEL_VERSIONS 64

struct model_sector {
    uint8_t versions[MODEL_VERSIONS][SECTOR]; /* [0] durable, the last one visible */
    size_t count;
};

struct model {
    struct model_sector sectors[MODEL_FILES][MODEL_SECTORS];
    struct os_file *files[MODEL_FILES];
    uint64_t random;
    uint64_t old_found;
    uint64_t middle_found;
    uint64_t new_found;
};

static uint64_t model_random(struct model *model, uint64_t limit)
{
    model->random = model->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (model->random >> 33) % limit;
}

static void model_sync(struct fixture *f, struct model *model, size_t file)
{
    size_t i;

    assert_int_equal(f->ops->sync(model->files[file]), KM_OK);
    for (i = 0; i < MODEL_SECTORS; i++) {
        struct model_sector *sector = &model->sectors[file][i];
        memmove(sector->versions[0], sector->versions[sector->count - 1], SECTOR);
        sector->count = 1;
    }
}

static void model_write(struct fixture *f, struct model *model, size_t file)
{
    uint8_t bytes[MODEL_SECTORS * SECTOR];
    size_t offset = (size_t)model_random(model, sizeof(bytes));
    size_t size = (size_t)model_random(model, sizeof(bytes) - offset) + 1;
    size_t i;

    memset(bytes, (int)model_random(model, 256), size);
    bytes[0] ^= 1;
    assert_int_equal(f->ops->write_at(model->files[file], offset, bytes, size), KM_OK);
    for (i = 0; i < MODEL_SECTORS; i++) {
        struct model_sector *sector = &model->sectors[file][i];
        size_t begin = offset > i * SECTOR ? offset : i * SECTOR;
        size_t end = offset + size < (i + 1) * SECTOR ? offset + size : (i + 1) * SECTOR;
        uint8_t *next = sector->versions[sector->count];
        if (begin >= end)
            continue;
        assert_true(sector->count < MODEL_VERSIONS);
        memcpy(next, sector->versions[sector->count - 1], SECTOR);
        memcpy(next + (begin - i * SECTOR), bytes + (begin - offset), end - begin);
        sector->count++;
    }
}

static void model_check_sector(struct model *model, const struct model_sector *sector,
                               const uint8_t *found)
{
    size_t i;

    for (i = 0; i < sector->count && memcmp(sector->versions[i], found, SECTOR) != 0; i++) {
    }
    assert_true(i < sector->count);
    if (sector->count < 3)
        return;
    model->old_found += i == 0;
    model->new_found += i == sector->count - 1;
    model->middle_found += i > 0 && i < sector->count - 1;
}

static void model_check(struct fixture *f, struct model *model)
{
    enum sim_power mode = (enum sim_power)model_random(model, SIM_POWER_MODE_COUNT);
    struct os *sim = km__sim_clone_after_power_cut(f->os, model_random(model, UINT32_MAX), mode);
    size_t file;
    size_t i;

    for (file = 0; file < MODEL_FILES; file++) {
        char path[] = "s/0";
        uint8_t *bytes = NULL;
        size_t size = 0;
        path[2] = (char)('0' + file);
        assert_int_equal(km__sim_read_path(sim, path, &bytes, &size), 0);
        assert_int_equal(size, MODEL_SECTORS * SECTOR);
        for (i = 0; i < MODEL_SECTORS; i++) {
            model_check_sector(model, &model->sectors[file][i], bytes + i * SECTOR);
        }
        free(bytes);
    }
    km__sim_destroy(sim);
}

static void power_cuts_agree_with_a_plain_model(void **state)
{
    struct fixture *f = *state;
    struct model *model = calloc(1, sizeof(*model));
    size_t file;
    size_t i;
    int step;

    assert_non_null(model);
    model->random = base_seed;
    for (file = 0; file < MODEL_FILES; file++) {
        char name[] = "0";
        name[0] = (char)('0' + file);
        model->files[file] = create(f, name);
        assert_int_equal(f->ops->allocate(model->files[file], MODEL_SECTORS * SECTOR), KM_OK);
        for (i = 0; i < MODEL_SECTORS; i++) {
            model->sectors[file][i].count = 1;
        }
        model_sync(f, model, file);
    }
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    for (step = 0; step < 3000; step++) {
        file = (size_t)model_random(model, MODEL_FILES);
        if (model_random(model, 8) == 0 || model->sectors[file][0].count > 30) {
            model_sync(f, model, file);
        } else if (model_random(model, 3) == 0) {
            model_check(f, model);
        } else {
            size_t longest = 0;
            for (i = 0; i < MODEL_SECTORS; i++) {
                size_t count = model->sectors[file][i].count;
                if (count > longest)
                    longest = count;
            }
            if (longest < MODEL_VERSIONS - 1)
                model_write(f, model, file);
        }
    }
    assert_true(model->old_found && model->middle_found && model->new_found);
    for (file = 0; file < MODEL_FILES; file++) {
        f->ops->close_file(model->files[file]);
    }
    free(model);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        CASE(synced_bytes_survive_every_power_cut),
        CASE(each_sector_is_old_or_any_version_written_since),
        CASE(modes_keep_nothing_all_a_prefix_or_a_suffix),
        CASE(files_are_not_ordered_and_syncs_are_of_one_file),
        CASE(an_unsynced_size_is_old_or_new),
        CASE(what_a_power_cut_leaves_is_durable),
        CASE(names_need_a_sync_of_their_folder),
        CASE(a_name_may_be_durable_before_its_content),
        CASE(each_name_of_a_rename_is_old_or_new),
        CASE(folders_are_names_of_their_parents),
        CASE(each_name_of_a_link_is_decided_for_itself),
        CASE(all_names_of_a_file_have_the_same_bytes_after_a_cut),
        CASE(a_removed_folder_needs_a_sync_of_its_parent),
        CASE(an_exchange_is_whole_and_durable_or_not_at_all),
        CASE(a_kill_keeps_the_cache_and_frees_the_locks),
        CASE(a_power_cut_changes_boot_and_clock),
        CASE(the_clock_ticks_with_every_call),
        CASE(stores_survive_a_kill_exactly),
        CASE(a_power_cut_mixes_the_last_laps),
        CASE(every_sync_takes_a_lap),
        CASE(a_torn_ring_lacks_some_of_the_words_since_the_lap),
        CASE(power_cuts_agree_with_a_plain_model),
    };

    choose_seed();
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
