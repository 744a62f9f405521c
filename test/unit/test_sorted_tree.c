/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sorted_tree.c -- the sorted tree against what it promises, and against an obvious model.
 *
 * Most cases run over all sets of keys, chosen to be hard for heads, skips and separators.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "unit/sorted_fixture.h"

/* ---- sets of keys */

static void make_numbers(struct fixture *fixture)
{
    add_numbers(fixture, 3000);
}

static void make_random(struct fixture *fixture)
{
    for (int i = 0; i < 3000; i++) {
        uint64_t key[2] = {random64(&fixture->random), random64(&fixture->random)};
        add_key(fixture, key, sizeof(key));
    }
}

/* The empty key, and keys that are prefixes of one another. */
static void make_prefixes(struct fixture *fixture)
{
    uint8_t bytes[600];

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i % 7 ? 'a' : 'b');
    for (size_t size = 0; size <= sizeof(bytes); size++)
        add_key(fixture, bytes, size);
    memset(bytes, 'a', sizeof(bytes));
    for (size_t size = 0; size <= sizeof(bytes); size++)
        add_key(fixture, bytes, size);
}

/* Keys that differ in how many NULs they end with only, as the padding of heads does. */
static void make_nuls(struct fixture *fixture)
{
    uint8_t bytes[64] = {0};

    for (size_t size = 0; size <= sizeof(bytes); size++)
        add_key(fixture, bytes, size);
    for (int i = 0; i < 40; i++) {
        size_t start = random64(&fixture->random) % 20;
        memset(bytes, 0, sizeof(bytes));
        for (size_t j = 0; j < start; j++)
            bytes[j] = (uint8_t)(random64(&fixture->random) % 2);
        for (size_t size = start; size <= sizeof(bytes); size++)
            add_key(fixture, bytes, size);
    }
}

/* Nearly all of the longest key is shared. */
static void make_long_prefixes(struct fixture *fixture)
{
    static uint8_t bytes[KM_KEY_SIZE_MAX];

    memset(bytes, 'p', sizeof(bytes));
    for (int i = 0; i < 300; i++) {
        size_t size = sizeof(bytes) - random64(&fixture->random) % 12;
        for (size_t j = sizeof(bytes) - 12; j < sizeof(bytes); j++)
            bytes[j] = (uint8_t)(random64(&fixture->random) % 3);
        add_key(fixture, bytes, size);
    }
    for (size_t size = 100; size < sizeof(bytes); size += 1000)
        add_key(fixture, bytes, size);
}

/* Few bytes are shared at the front, many behind: heads are equal in long runs. */
static void make_equal_heads(struct fixture *fixture)
{
    char text[80];

    for (int i = 0; i < 3000; i++) {
        uint64_t dice = random64(&fixture->random);
        int size = snprintf(text, sizeof(text), "%cxxxxxxxxxxxxxxxxxxxxxxxx%cyyyyyyyyyyyyy%05u",
                            (char)('a' + dice % 3), (char)('a' + dice / 3 % 3),
                            (unsigned)(dice / 9 % 20000));
        add_key(fixture, text, (size_t)size);
    }
}

static void make_extremes(struct fixture *fixture)
{
    static const uint8_t letters[4] = {0, 1, 0xfe, 0xff};
    uint8_t bytes[40];

    for (int i = 0; i < 3000; i++) {
        size_t size = random64(&fixture->random) % sizeof(bytes);
        for (size_t j = 0; j < size; j++) /* mostly runs of the extremes */
            bytes[j] = letters[random64(&fixture->random) % (j % 8 ? 2 : 4) * 3 % 4];
        add_key(fixture, bytes, size);
    }
}

static void make_short(struct fixture *fixture)
{
    uint8_t bytes[2];

    add_key(fixture, bytes, 0);
    for (int i = 0; i < 256; i++) {
        bytes[0] = (uint8_t)i;
        add_key(fixture, bytes, 1);
        for (int j = 0; j < 256; j += 17) {
            bytes[1] = (uint8_t)j;
            add_key(fixture, bytes, 2);
        }
    }
}

static const struct key_set {
    const char *name;
    void (*make)(struct fixture *fixture);
} key_sets[] = {
    {"numbers", make_numbers},
    {"random", make_random},
    {"prefixes", make_prefixes},
    {"nuls", make_nuls},
    {"long_prefixes", make_long_prefixes},
    {"equal_heads", make_equal_heads},
    {"extremes", make_extremes},
    {"short", make_short},
};

/* Run a case over all sets, each time with a tree of its own. */
static void with_all_sets(void (*run)(struct fixture *fixture))
{
    for (size_t i = 0; i < sizeof(key_sets) / sizeof(key_sets[0]); i++) {
        void *state;

        set_up(&state);
        key_sets[i].make(state);
        sort_keys(state);
        print_message("%s: %zu keys\n", key_sets[i].name, ((struct fixture *)state)->key_count);
        run(state);
        tear_down(&state);
    }
}

static size_t random_below(struct fixture *fixture, size_t end)
{
    return (size_t)(random64(&fixture->random) % end);
}

/* Room for the tree's own struct and little more. */
static void assert_no_nodes(struct fixture *fixture)
{
    assert_int_equal(km__sorted_bytes(fixture->tree), SORTED_TREE_SIZE);
}

/* ---- questions about all of it */

static struct sorted_bound random_bound(struct fixture *fixture, uint8_t *bytes)
{
    const struct model_key *key = &fixture->keys[random_below(fixture, fixture->key_count)];
    struct sorted_bound bound = {{key->data, key->size}, 1, (int)random_below(fixture, 2)};

    switch (random_below(fixture, 6)) {
    case 0: bound.is_set = 0; break;
    case 1: bound.key.size = random_below(fixture, key->size + 1); break; /* cut short */
    case 2: /* one byte longer, unless it is too long then */
        memcpy(bytes, key->data, key->size);
        bytes[key->size] = (uint8_t)(random_below(fixture, 3) * 127);
        bound.key.data = bytes;
        bound.key.size += key->size < KM_KEY_SIZE_MAX;
        break;
    default: break;
    }
    return bound;
}

/* Several at once, some of them twice, some of them absent. */
static void find_group(struct fixture *fixture)
{
    size_t count = random_below(fixture, SORTED_GROUP_MAX + 1);
    size_t ranks[SORTED_GROUP_MAX];
    km_bytes keys[SORTED_GROUP_MAX];
    uint64_t refs[SORTED_GROUP_MAX] = {0};
    km_status statuses[SORTED_GROUP_MAX];

    for (size_t i = 0; i < count; i++) {
        ranks[i] = random_below(fixture, fixture->key_count);
        keys[i] = bytes_of(&fixture->keys[ranks[i]]);
    }
    km__epoch_enter();
    km__sorted_find_many(fixture->tree, keys, count, refs, statuses);
    km__epoch_leave();
    for (size_t i = 0; i < count; i++) {
        uint64_t expected = fixture->keys[ranks[i]].ref;
        assert_int_equal(statuses[i], expected ? KM_OK : KM_NOT_FOUND);
        assert_int_equal(refs[i], expected);
    }
}

static void ask_random(struct fixture *fixture)
{
    static uint8_t bytes_from[KM_KEY_SIZE_MAX + 1];
    static uint8_t bytes_to[KM_KEY_SIZE_MAX + 1];
    struct sorted_bound from = random_bound(fixture, bytes_from);
    struct sorted_bound to = random_bound(fixture, bytes_to);
    size_t max = SORTED_LEAF_ENTRIES + random_below(fixture, 200);

    if (from.is_set)
        check_find(fixture, from.key);
    check_read_up(fixture, from, max);
    check_read_down(fixture, from, max);
    check_count(fixture, from, to);
    find_group(fixture);
}

static void ask_everything(struct fixture *fixture)
{
    struct sorted_bound open = {{NULL, 0}, 0, 0};

    check(fixture);
    check_finds(fixture);
    check_read_up(fixture, open, fixture->key_count + SORTED_LEAF_ENTRIES);
    check_read_down(fixture, open, fixture->key_count + SORTED_LEAF_ENTRIES);
    check_count(fixture, open, open);
    for (int i = 0; i < 50; i++)
        ask_random(fixture);
}

/* ---- random changes against the model */

static void change_random(struct fixture *fixture, uint32_t removal_percent)
{
    size_t rank = random_below(fixture, fixture->key_count);
    struct model_key *key = &fixture->keys[rank];
    size_t dice = random_below(fixture, 100);

    if (key->pending && dice < 50)
        fill_key(fixture, rank);
    else if (key->pending && dice < 80)
        cancel_key(fixture, rank);
    else if (key->pending)
        return; /* it is left open while others come and go */
    else if (key->ref && dice < removal_percent)
        remove_key(fixture, rank);
    else if (key->ref)
        replace_key(fixture, rank);
    else if (dice >= removal_percent)
        assert_int_equal(try_reserve(fixture, rank), KM_OK);
}

static void run_random_changes(struct fixture *fixture)
{
    size_t steps = 30 * fixture->key_count;

    for (size_t step = 0; step < steps; step++) {
        /* the tree grows, shrinks, and grows again */
        change_random(fixture, step / (steps / 5) % 2 ? 90 : 25);
        if (step % 64 == 0)
            ask_random(fixture);
        if (step % 500 == 0)
            check(fixture);
        if (step % 1000 == 0)
            km__reclaim(&fixture->reclaimer);
    }
    ask_everything(fixture);
    for (size_t i = 0; i < fixture->key_count; i++) {
        if (fixture->keys[i].pending)
            cancel_key(fixture, i);
    }
    ask_everything(fixture);
}

static void random_changes_agree_with_the_model(void **state)
{
    (void)state;
    with_all_sets(run_random_changes);
}

/* ---- orders of insertion and removal */

enum order { ASCENDING, DESCENDING, ALTERNATING, SHUFFLED, ORDERS };

static void make_order(struct fixture *fixture, enum order order, size_t *ranks)
{
    size_t count = fixture->key_count;

    for (size_t i = 0; i < count; i++) {
        ranks[i] = i;
        if (order == DESCENDING)
            ranks[i] = count - 1 - i;
        if (order == ALTERNATING)
            ranks[i] = i % 2 ? count - 1 - i / 2 : i / 2;
    }
    for (size_t i = count; order == SHUFFLED && i > 1; i--) {
        size_t j = random_below(fixture, i);
        size_t rank = ranks[i - 1];
        ranks[i - 1] = ranks[j];
        ranks[j] = rank;
    }
}

static void run_orders(struct fixture *fixture)
{
    size_t *ranks = malloc(fixture->key_count * sizeof(*ranks));

    for (int i = 0; i < ORDERS * ORDERS; i++) {
        make_order(fixture, (enum order)(i / ORDERS), ranks);
        for (size_t j = 0; j < fixture->key_count; j++)
            insert_key(fixture, ranks[j]);
        if (i % ORDERS == 0)
            ask_everything(fixture);
        make_order(fixture, (enum order)(i % ORDERS), ranks);
        for (size_t j = 0; j < fixture->key_count; j++) {
            remove_key(fixture, ranks[j]);
            if (j % 997 == 0)
                check(fixture);
        }
        check(fixture);
        assert_no_nodes(fixture);
        km__reclaim(&fixture->reclaimer);
    }
    free(ranks);
}

static void removing_all_in_any_order_returns_all_memory(void **state)
{
    (void)state;
    with_all_sets(run_orders);
}

/* Insert at the end, remove at the front. */
static void a_queue_does_not_grow(void **state)
{
    struct fixture *fixture = *state;
    uint64_t bytes = 0;

    add_numbers(fixture, 40000);
    for (size_t i = 0; i < fixture->key_count; i++) {
        insert_key(fixture, i);
        if (i >= 1000)
            remove_key(fixture, i - 1000);
        if (i == 2000)
            bytes = km__sorted_bytes(fixture->tree);
        if (i > 2000)
            assert_true(km__sorted_bytes(fixture->tree) <= bytes + bytes / 4);
        if (i % 4000 == 0) {
            check(fixture);
            km__reclaim(&fixture->reclaimer);
        }
    }
}

/* A sparse tree holds little: removals at random leave no leaves nearly empty. */
static void sparse_leaves_are_joined(void **state)
{
    struct fixture *fixture = *state;

    add_numbers(fixture, 30000);
    insert_all(fixture);
    for (size_t i = 0; i < fixture->key_count; i++) {
        if (i % 20 != 0)
            remove_key(fixture, i * 7919 % fixture->key_count);
    }
    check(fixture);
    assert_true(km__sorted_bytes(fixture->tree) - SORTED_TREE_SIZE < fixture->present_count * 64);
}

/* So are inner nodes: the tree becomes lower again. */
static void sparse_inner_nodes_are_joined(void **state)
{
    struct fixture *fixture = *state;
    struct sorted_path path;

    add_numbers(fixture, 60000);
    insert_all(fixture);
    km__sorted_descend_path(fixture->tree, bytes_of(&fixture->keys[30000]), &path);
    assert_int_equal(path.depth, 3);
    for (size_t i = 0; i < fixture->key_count; i++) {
        if (i % 40 != 0)
            remove_key(fixture, i * 7919 % fixture->key_count);
        if (i % 4096 == 0)
            km__reclaim(&fixture->reclaimer);
    }
    check(fixture);
    km__sorted_descend_path(fixture->tree, bytes_of(&fixture->keys[30000]), &path);
    assert_int_equal(path.depth, 2);
}

/* Long separators that share nothing: nodes have fewer children, and are not copied for long. */
static void long_separators_make_nodes_of_few_children(void **state)
{
    static uint8_t bytes[KM_KEY_SIZE_MAX];
    struct fixture *fixture = *state;
    struct sorted_path path;

    for (uint32_t i = 0; i < 1500; i++) {
        memset(bytes, 'a' + (int)(i % 20), sizeof(bytes));
        memcpy(bytes + 65510, &i, sizeof(i));
        add_key(fixture, bytes, sizeof(bytes));
    }
    sort_keys(fixture);
    for (size_t i = 0; i < fixture->key_count; i++)
        insert_key(fixture, i * 7919 % fixture->key_count);
    for (size_t i = 0; i < fixture->key_count; i++) {
        km__sorted_descend_path(fixture->tree, bytes_of(&fixture->keys[i]), &path);
        for (uint32_t depth = 0; depth < path.depth; depth++)
            assert_true(path.steps[depth].node->memory_size <= 9 * (KM_KEY_SIZE_MAX + 1));
    }
    check(fixture);
    check_finds(fixture);
}

/* Leaves of which nothing is left go even where their neighbours are full. */
static void empty_leaves_do_not_stay(void **state)
{
    struct fixture *fixture = *state;
    uint64_t bytes;

    add_numbers(fixture, 14000);
    insert_all(fixture);
    bytes = km__sorted_bytes(fixture->tree);
    for (size_t i = 0; i < fixture->key_count; i++) {
        if (i / SORTED_LEAF_ENTRIES % 2 == 0)
            remove_key(fixture, i);
    }
    check(fixture);
    assert_true(km__sorted_bytes(fixture->tree) < bytes * 6 / 10);
}

/* Whoever holds a leaf's latch may rely on it: its neighbour is not joined with it. */
static void a_latched_neighbour_is_left_alone(void **state)
{
    struct fixture *fixture = *state;
    struct sorted_path path;
    struct mutex *latch;
    uint64_t link;

    add_numbers(fixture, 20 * SORTED_LEAF_ENTRIES);
    insert_all(fixture);
    for (size_t i = 30; i < 250; i++) {
        if (i % SORTED_LEAF_ENTRIES > 4)
            remove_key(fixture, i);
    }
    for (size_t i = 80; i < 120; i += SORTED_LEAF_ENTRIES) {
        km__sorted_descend_path(fixture->tree, bytes_of(&fixture->keys[i]), &path);
        link = path.link;
        latch = km__sorted_latch(fixture->tree, km__sorted_node(link));
        km__mutex_lock(latch);
        for (size_t j = 30; j < 250; j++) { /* all leaves but this one, and those of its latch */
            uint64_t other = km__sorted_descend(fixture->tree, bytes_of(&fixture->keys[j]));
            if (fixture->keys[j].ref &&
                km__sorted_latch(fixture->tree, km__sorted_node(other)) != latch)
                remove_key(fixture, j);
        }
        km__sorted_descend_path(fixture->tree, bytes_of(&fixture->keys[i]), &path);
        assert_true(path.link == link);
        km__mutex_unlock(latch);
        check(fixture);
        for (size_t j = 30; j < 250; j++) {
            if (!fixture->keys[j].ref && j % SORTED_LEAF_ENTRIES <= 4)
                insert_key(fixture, j);
        }
    }
}

/* ---- memory */

static double bytes_per_key(struct fixture *fixture, size_t count)
{
    return (double)(km__sorted_bytes(fixture->tree) - SORTED_TREE_SIZE) / (double)count;
}

static void keys_take_few_bytes(void **state)
{
    enum { COUNT = 100000 };
    static const double limits[ORDERS] = {20.5, 20.5, 32, 32};
    struct fixture *fixture = *state;
    size_t *ranks = malloc(COUNT * sizeof(*ranks));

    for (size_t i = 0; i < COUNT; i++) {
        uint64_t key[2] = {random64(&fixture->random), random64(&fixture->random)};
        add_key(fixture, key, sizeof(key));
    }
    sort_keys(fixture);
    for (int order = 0; order < ORDERS; order++) {
        make_order(fixture, (enum order)order, ranks);
        for (size_t i = 0; i < COUNT; i++) {
            insert_key(fixture, ranks[i]);
            if (i % 10000 == 0)
                km__reclaim(&fixture->reclaimer);
        }
        print_message("order %d: %.2f bytes per key\n", order, bytes_per_key(fixture, COUNT));
        assert_true(bytes_per_key(fixture, COUNT) < limits[order]);
        km__epoch_enter();
        km__sorted_clear(fixture->tree);
        km__epoch_leave();
        for (size_t i = 0; i < COUNT; i++)
            fixture->keys[i].ref = 0;
        fixture->present_count = fixture->weight = 0;
        assert_no_nodes(fixture);
        km__reclaim(&fixture->reclaimer);
    }
    free(ranks);
}

/* Inner nodes too become full, so the tree is low. */
static void ascending_keys_fill_nodes(void **state)
{
    struct fixture *fixture = *state;
    struct sorted_path path;

    add_numbers(fixture, 30000);
    insert_all(fixture);
    km__sorted_descend_path(fixture->tree, bytes_of(&fixture->keys[0]), &path);
    assert_int_equal(path.depth, 2);
    assert_true(bytes_per_key(fixture, fixture->key_count) < 20);
}

static void an_empty_tree_is_small(void **state)
{
    struct fixture *fixture = *state;
    struct sorted_bound open = {{NULL, 0}, 0, 0};

    assert_no_nodes(fixture);
    add_key(fixture, "", 0);
    ask_everything(fixture);
    check_count(fixture, open, (struct sorted_bound){{"", 0}, 1, 0});
    insert_key(fixture, 0);
    ask_everything(fixture);
    assert_int_equal(km__sorted_bytes(fixture->tree), SORTED_TREE_SIZE + SORTED_LEAF_SIZE);
    remove_key(fixture, 0);
    assert_no_nodes(fixture);
}

/* ---- pending entries */

/* Every other key stays pending while all others come and go around it, and is then filled. */
static void run_pending(struct fixture *fixture)
{
    size_t count = fixture->key_count;

    for (size_t i = 0; i < count; i += 2)
        assert_int_equal(try_reserve(fixture, i), KM_OK);
    ask_everything(fixture);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 1; i < count; i += 2)
            insert_key(fixture, i);
        ask_everything(fixture);
        for (size_t i = 1; i < count && round == 0; i += 2)
            remove_key(fixture, i);
        ask_everything(fixture);
    }
    for (size_t i = 0; i < count; i += 4)
        fill_key(fixture, i);
    for (size_t i = 2; i < count; i += 4)
        cancel_key(fixture, i);
    ask_everything(fixture);
}

static void pending_entries_are_in_nobodys_way(void **state)
{
    (void)state;
    with_all_sets(run_pending);
}

/* ---- failures */

/* Whichever allocation fails, the tree is as it was; removals go through all the same. */
static void run_failing_memory(struct fixture *fixture)
{
    uint64_t failures = 0;

    for (size_t step = 0; step < 4 * fixture->key_count; step++) {
        size_t rank = random_below(fixture, fixture->key_count);
        uint64_t bytes = km__sorted_bytes(fixture->tree);
        km_status rc = KM_OK;

        fixture->allocator.calls_left = (int64_t)random_below(fixture, 2);
        if (fixture->keys[rank].ref)
            remove_key(fixture, rank);
        else
            rc = try_reserve(fixture, rank);
        fixture->allocator.calls_left = -1;
        if (rc) {
            assert_int_equal(rc, KM_E_NO_MEMORY);
            assert_int_equal(km__sorted_bytes(fixture->tree), bytes);
            check(fixture);
            failures++;
            assert_int_equal(try_reserve(fixture, rank), KM_OK);
        }
        if (fixture->keys[rank].pending)
            fill_key(fixture, rank);
    }
    print_message("failed allocations: %" PRIu64 "\n", failures);
    ask_everything(fixture);
}

static void a_failed_allocation_changes_nothing(void **state)
{
    (void)state;
    with_all_sets(run_failing_memory);
}

/* Take all blocks that the pool has, but for `spare_count` small ones; and give them back. */
struct starvation {
    void *blocks[8192];
    size_t count;
};

static void starve_pool(struct fixture *fixture, struct starvation *starvation, size_t spare_count)
{
    starvation->count = 0;
    fixture->allocator.calls_left = 0;
    while (starvation->count < 8192) {
        void *block = km__node_pool_allocate(fixture->pool, SORTED_LEAF_SIZE);
        if (!block)
            break;
        starvation->blocks[starvation->count++] = block;
    }
    for (; spare_count > 0 && starvation->count > 0; spare_count--)
        km__node_pool_release(fixture->pool, starvation->blocks[--starvation->count],
                              SORTED_LEAF_SIZE);
}

static void feed_pool(struct fixture *fixture, struct starvation *starvation)
{
    fixture->allocator.calls_left = -1;
    while (starvation->count > 0)
        km__node_pool_release(fixture->pool, starvation->blocks[--starvation->count],
                              SORTED_LEAF_SIZE);
}

/* Whichever block is not to be had, of those that one change takes, nothing was changed. */
static void every_failing_block_changes_nothing(void **state)
{
    static struct starvation starvation;
    struct fixture *fixture = *state;
    uint64_t failures = 0;

    add_numbers(fixture, 3000);
    for (size_t i = 0; i < fixture->key_count; i++) {
        size_t rank = i * 5003 % fixture->key_count;
        uint64_t bytes = km__sorted_bytes(fixture->tree);
        km_status rc;

        starve_pool(fixture, &starvation, i % 5);
        rc = try_reserve(fixture, rank);
        feed_pool(fixture, &starvation);
        if (rc) {
            assert_int_equal(km__sorted_bytes(fixture->tree), bytes);
            check(fixture);
            failures++;
            assert_int_equal(try_reserve(fixture, rank), KM_OK);
        }
        fill_key(fixture, rank);
        km__reclaim(&fixture->reclaimer);
    }
    print_message("failed insertions: %" PRIu64 "\n", failures);
    assert_true(failures > 30);
    check_finds(fixture);
}

/* Removals go through with no memory at all; when there is some, the tree shrinks again. */
static void removals_need_no_memory(void **state)
{
    static struct starvation starvation;
    struct fixture *fixture = *state;
    uint64_t bytes;

    add_numbers(fixture, 3000);
    insert_all(fixture);
    bytes = km__sorted_bytes(fixture->tree);
    for (size_t i = 0; i < fixture->key_count; i++) {
        size_t rank = i * 5003 % fixture->key_count;

        if (i % 300 == 299)
            continue;
        starve_pool(fixture, &starvation, i % 4);
        remove_key(fixture, rank);
        feed_pool(fixture, &starvation);
        if (i % 16 == 0)
            check(fixture);
        assert_true(km__sorted_bytes(fixture->tree) <= bytes);
        km__reclaim(&fixture->reclaimer);
    }
    ask_everything(fixture);
    for (size_t i = 0; i < fixture->key_count; i++) {
        if (!fixture->keys[i].ref)
            insert_key(fixture, i);
    }
    for (size_t i = 0; i < fixture->key_count; i++)
        remove_key(fixture, i);
    assert_no_nodes(fixture);
}

/* Whatever record cannot be read, the tree is as it was. */
static void run_failing_source(struct fixture *fixture)
{
    uint64_t failures = 0;

    for (size_t i = 0; i < fixture->key_count; i++) {
        size_t rank = i * 9973 % fixture->key_count;
        km_status rc;

        if (fixture->keys[rank].ref)
            continue;
        fixture->source_calls_left = random_below(fixture, 20);
        fixture->source_status = KM_E_CORRUPT;
        rc = try_reserve(fixture, rank);
        fixture->source_status = KM_OK;
        if (rc) {
            assert_int_equal(rc, KM_E_CORRUPT);
            if (failures++ % 16 == 0)
                check(fixture);
            assert_int_equal(try_reserve(fixture, rank), KM_OK);
        }
        fill_key(fixture, rank);
    }
    print_message("failed reads: %" PRIu64 " of %" PRIu64 "\n", failures, fixture->asked_count);
    assert_true(failures > 0);
    ask_everything(fixture);
    fixture->source_status = KM_E_CORRUPT; /* removal and replacement read nothing */
    fixture->source_calls_left = 0;
    for (size_t i = 0; i < fixture->key_count; i++) {
        if (fixture->keys[i].ref && i % 3 == 0)
            remove_key(fixture, i);
        else if (fixture->keys[i].ref)
            replace_key(fixture, i);
    }
    fixture->source_status = KM_OK;
    ask_everything(fixture);
}

static void a_failing_source_changes_nothing(void **state)
{
    (void)state;
    with_all_sets(run_failing_source);
}

static void errors_of_the_source_reach_readers(void **state)
{
    struct fixture *fixture = *state;
    struct sorted_bound bound;
    uint64_t refs[SORTED_LEAF_ENTRIES];
    size_t count;
    uint64_t ref;

    add_numbers(fixture, 100);
    insert_all(fixture);
    bound = (struct sorted_bound){bytes_of(&fixture->keys[50]), 1, 0};
    fixture->source_status = KM_E_IO;
    assert_int_equal(km__sorted_find(fixture->tree, bound.key, &ref), KM_E_IO);
    assert_int_equal(km__sorted_read_up(fixture->tree, bound, refs, SORTED_LEAF_ENTRIES, &count),
                     KM_E_IO);
    assert_int_equal(km__sorted_read_down(fixture->tree, bound, refs, SORTED_LEAF_ENTRIES, &count),
                     KM_E_IO);
    assert_int_equal(km__sorted_count_range(fixture->tree, bound, (struct sorted_bound){0}, &ref),
                     KM_E_IO);
    fixture->source_status = KM_OK;
}

/* ---- few reads of records */

static void random_keys_are_found_with_one_read(void **state)
{
    struct fixture *fixture = *state;
    uint64_t before;

    make_random(fixture);
    sort_keys(fixture);
    for (size_t i = 0; i < fixture->key_count; i++)
        insert_key(fixture, i * 2003 % fixture->key_count);
    before = fixture->asked_count;
    check_finds(fixture);
    assert_int_equal(fixture->asked_count - before, fixture->key_count);
}

/* Long runs of equal heads are halved, not gone through. */
static void equal_heads_cost_few_reads(void **state)
{
    struct fixture *fixture = *state;
    uint64_t before;

    make_equal_heads(fixture);
    sort_keys(fixture);
    insert_all(fixture);
    before = fixture->asked_count;
    check_finds(fixture);
    print_message("reads: %.2f\n",
                  (double)(fixture->asked_count - before) / (double)fixture->key_count);
    assert_true(fixture->asked_count - before < 3 * fixture->key_count);
}

/* ---- all at once */

static void forget_all(struct fixture *fixture)
{
    for (size_t i = 0; i < fixture->key_count; i++)
        fixture->keys[i].ref = 0;
    fixture->present_count = fixture->weight = 0;
}

static void run_clear(struct fixture *fixture)
{
    for (int round = 0; round < 3; round++) {
        insert_all(fixture);
        km__epoch_enter();
        km__sorted_clear(fixture->tree);
        km__epoch_leave();
        forget_all(fixture);
        ask_everything(fixture);
        assert_no_nodes(fixture);
    }
    insert_all(fixture);
}

static void clear_removes_everything(void **state)
{
    (void)state;
    with_all_sets(run_clear);
}

static void run_move(struct fixture *fixture)
{
    struct sorted_tree *old = fixture->tree;
    struct sorted_tree *new;
    uint64_t bytes;

    insert_all(fixture);
    bytes = km__sorted_bytes(old);
    assert_int_equal(km__sorted_create(&fixture->allocator.allocator, fixture->pool,
                                       &fixture->reclaimer, &fixture->source, &new),
                     KM_OK);
    km__sorted_move_all(old, new);
    assert_int_equal(km__sorted_count(old), 0);
    assert_int_equal(km__sorted_weight(old), 0);
    assert_int_equal(km__sorted_bytes(old), SORTED_TREE_SIZE);
    assert_int_equal(km__sorted_check(old), 0);
    km__sorted_destroy(old);
    fixture->tree = new;
    assert_int_equal(km__sorted_bytes(new), bytes);
    ask_everything(fixture);
    for (size_t i = 0; i < fixture->key_count; i++)
        remove_key(fixture, i);
    assert_no_nodes(fixture);
}

static void move_takes_everything_along(void **state)
{
    (void)state;
    with_all_sets(run_move);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_changes_agree_with_the_model),
        cmocka_unit_test(removing_all_in_any_order_returns_all_memory),
        cmocka_unit_test_setup_teardown(a_queue_does_not_grow, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sparse_leaves_are_joined, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sparse_inner_nodes_are_joined, set_up, tear_down),
        cmocka_unit_test_setup_teardown(long_separators_make_nodes_of_few_children, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(empty_leaves_do_not_stay, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_latched_neighbour_is_left_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(keys_take_few_bytes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ascending_keys_fill_nodes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_empty_tree_is_small, set_up, tear_down),
        cmocka_unit_test(pending_entries_are_in_nobodys_way),
        cmocka_unit_test(a_failed_allocation_changes_nothing),
        cmocka_unit_test_setup_teardown(every_failing_block_changes_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(removals_need_no_memory, set_up, tear_down),
        cmocka_unit_test(a_failing_source_changes_nothing),
        cmocka_unit_test_setup_teardown(errors_of_the_source_reach_readers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(random_keys_are_found_with_one_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(equal_heads_cost_few_reads, set_up, tear_down),
        cmocka_unit_test(clear_removes_everything),
        cmocka_unit_test(move_takes_everything_along),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
