/* SPDX-License-Identifier: Apache-2.0
 *
 * test_hash_image.c -- export of an index, import of hostile and of honest images, and nodes that
 * are loaded when first touched.
 *
 * Index `a` (the fixture's) is exported, `b` takes the import. Versions of references stay small:
 * the upper half of all references are placeholders.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "unit/hash_fixture.h"
#include "unit/hash_image_util.h"

struct pair {
    struct fixture *a;
    struct fixture b; /* shares all of a's but the index */
    struct test_image image;
    uint64_t empty_bytes;
};

static int set_up_pair(void **state)
{
    static struct pair pair;
    void *a;

    memset(&pair, 0, sizeof(pair));
    set_up(&a);
    pair.a = a;
    image_init(&pair.image);
    *state = &pair;
    return 0;
}

/* b is created late, when a's hashes are settled. */
static void begin_b(struct pair *pair)
{
    struct fixture *a = pair->a;

    pair->b.hash_seed = a->hash_seed;
    pair->b.keep_mask = a->keep_mask;
    pair->b.common = a->common;
    pair->b.source.hashes = answer_hashes;
    pair->b.source.context = &pair->b;
    assert_int_equal(
        km__hash_index_create(&a->allocator.allocator, a->pool, &a->reclaimer, &pair->b.index),
        KM_OK);
    pair->empty_bytes = km__hash_bytes(pair->b.index);
}

static void end_b(struct pair *pair)
{
    km__hash_index_destroy(pair->b.index);
    pair->b.index = NULL;
    km__reclaim(&pair->a->reclaimer);
}

static int tear_down_pair(void **state)
{
    struct pair *pair = *state;
    void *a = pair->a;

    leave_sections();
    if (pair->b.index)
        assert_int_equal(km__hash_index_check(pair->b.index, NULL), 0);
    end_b(pair);
    image_fini(&pair->image);
    return tear_down(&a);
}

/* ---- helpers */

static uint64_t weight_of(uint64_t key)
{
    return 16 + mix64(key) % 1000;
}

static void add_keys(struct fixture *fixture, uint64_t first, uint64_t end)
{
    for (uint64_t key = first; key < end; key++) {
        uint64_t hash = hash_of(fixture, key);

        assert_int_equal(km__hash_load(fixture->index, hash), KM_OK);
        assert_int_equal(reserve(fixture, REF(key, 0x80000)), KM_OK);
        km__hash_replace(fixture->index, hash, REF(key, 0x80000), REF(key, 1),
                         (int64_t)weight_of(key));
        if (key % 4096 == 0)
            km__reclaim(&fixture->reclaimer);
    }
}

static void take_key(struct fixture *fixture, uint64_t key)
{
    uint64_t hash = hash_of(fixture, key);

    assert_int_equal(km__hash_load(fixture->index, hash), KM_OK);
    km__hash_remove(fixture->index, hash, REF(key, 1), weight_of(key));
}

static int leads_to_unloaded(const struct fixture *fixture, uint64_t key)
{
    struct hash_probe probe;

    if (km__hash_first(fixture->index, hash_of(fixture, key), &probe) != HASH_NOT_LOADED)
        return 0;
    assert_int_equal(km__hash_next(&probe), 0);
    return 1;
}

/* How often a reader finds the key's reference, which loads what it must. */
static int times_read(struct fixture *fixture, uint64_t key)
{
    km__epoch_enter();
    if (leads_to_unloaded(fixture, key)) {
        assert_int_equal(km__hash_load_unlocked(fixture->index, hash_of(fixture, key)), KM_OK);
        assert_false(leads_to_unloaded(fixture, key));
    }
    km__epoch_leave();
    return times_found(fixture, REF(key, 1));
}

static km_status load_next(struct fixture *fixture, struct hash_walk *walk, int *out_end)
{
    km_status rc;

    km__epoch_enter();
    rc = km__hash_load_next(fixture->index, walk, out_end);
    km__epoch_leave();
    return rc;
}

static uint64_t load_all(struct fixture *fixture)
{
    struct hash_walk walk = {0};
    uint64_t loaded_count = 0;
    int is_end = -1;

    for (;;) {
        uint64_t left = km__hash_not_loaded_count(fixture->index);

        assert_int_equal(load_next(fixture, &walk, &is_end), KM_OK);
        if (is_end)
            return loaded_count;
        assert_int_equal(km__hash_not_loaded_count(fixture->index), left - 1);
        loaded_count++;
    }
}

static void import_b(struct pair *pair)
{
    begin_b(pair);
    assert_int_equal(image_import(&pair->image, pair->b.index), KM_OK);
    check(&pair->b);
}

/* a with keys from 0 on, exported, and b with the import. */
static void set_up_import(struct pair *pair, uint64_t count)
{
    add_keys(pair->a, 0, count);
    image_export(&pair->image, pair->a->index);
    import_b(pair);
}

/* ---- export and import */

static void import_of_export_is_equal(void **state)
{
    enum { COUNT = 200000 };
    struct pair *pair = *state;
    struct fixture *a = pair->a;
    struct fixture *b = &pair->b;

    add_keys(a, 0, COUNT);
    for (uint64_t key = 0; key < COUNT; key += 7)
        take_key(a, key);
    image_export(&pair->image, a->index);
    check(a);
    import_b(pair);
    assert_int_equal(km__hash_count(b->index), km__hash_count(a->index));
    assert_int_equal(km__hash_weight(b->index), km__hash_weight(a->index));
    assert_int_equal(km__hash_not_loaded_count(b->index), pair->image.count);
    assert_true(km__hash_bytes(b->index) < km__hash_bytes(a->index) / 50);
    assert_int_equal(pair->image.load_count, 0);
    assert_int_equal(load_all(b), pair->image.count);
    assert_int_equal(pair->image.load_count, pair->image.count);
    assert_int_equal(km__hash_not_loaded_count(b->index), 0);
    assert_int_equal(km__hash_bytes(b->index), km__hash_bytes(a->index));
    for (uint64_t key = 0; key < COUNT; key++)
        assert_int_equal(times_found(b, REF(key, 1)), key % 7 != 0);
    check(b);
}

static void empty_index_has_an_empty_image(void **state)
{
    struct pair *pair = *state;

    image_export(&pair->image, pair->a->index);
    assert_int_equal(pair->image.count, 0);
    import_b(pair);
    assert_int_equal(km__hash_bytes(pair->b.index), pair->empty_bytes);
    assert_int_equal(load_all(&pair->b), 0);
    add_keys(&pair->b, 0, 1000);
    assert_keys(&pair->b, 0, 1000);
}

static void partition_without_nodes_stays_empty(void **state)
{
    struct pair *pair = *state;
    struct fixture *b = &pair->b;

    for (uint64_t key = 0; key < 20000; key++) {
        if (km__hash_partition(hash_of(pair->a, key)) % 3 == 1)
            add_keys(pair->a, key, key + 1);
    }
    image_export(&pair->image, pair->a->index);
    import_b(pair);
    for (uint64_t key = 0; key < 20000; key++) {
        uint32_t partition = km__hash_partition(hash_of(b, key));

        assert_int_equal(times_read(b, key), partition % 3 == 1);
        assert_int_equal(km__hash_directory(b->index, partition) != NULL, partition % 3 == 1);
    }
    check(b);
}

static void image_of_an_import_is_the_same(void **state)
{
    struct pair *pair = *state;
    struct test_image second;

    set_up_import(pair, 50000);
    image_init(&second);
    image_export(&second, pair->b.index);
    assert_int_equal(second.count, pair->image.count);
    for (size_t i = 0; i < second.count; i++) {
        size_t size = image_slot_count(&second.nodes[i]) * sizeof(uint64_t);

        assert_memory_equal(&second.nodes[i], &pair->image.nodes[i], sizeof(second.nodes[i]));
        assert_memory_equal(second.slots[i], pair->image.slots[i], size);
    }
    assert_int_equal(km__hash_not_loaded_count(pair->b.index), 0);
    image_fini(&second);
}

/* ---- loading */

static void lookup_loads_its_node_alone(void **state)
{
    struct pair *pair = *state;
    struct fixture *b = &pair->b;
    uint64_t left;

    set_up_import(pair, 100000);
    left = pair->image.count;
    for (uint64_t key = 0; key < 100000; key++) {
        uint64_t absent = key + 1000000;

        left -= (uint64_t)leads_to_unloaded(b, key);
        assert_int_equal(times_read(b, key), 1);
        left -= (uint64_t)leads_to_unloaded(b, absent);
        assert_int_equal(times_read(b, absent), 0);
        assert_int_equal(km__hash_not_loaded_count(b->index), left);
        if (key % 16 == 0 && key < 1600)
            check(b);
    }
    assert_int_equal(left, 0);
    assert_int_equal(pair->image.load_count, pair->image.count);
    check(b);
}

static void writers_go_on_in_an_import(void **state)
{
    enum { COUNT = 60000 };
    struct pair *pair = *state;
    struct fixture *b = &pair->b;
    uint64_t weight = 0;

    set_up_import(pair, COUNT);
    for (uint64_t key = 0; key < COUNT; key += 2) {
        take_key(b, key);
        add_keys(b, COUNT + key, COUNT + key + 1);
        if (key % 2000 == 0)
            check(b);
    }
    add_keys(b, 10 * COUNT, 16 * COUNT); /* nodes split that had been loaded */
    for (uint64_t key = 0; key < 2 * COUNT; key++) {
        int is_there = key < COUNT ? key % 2 != 0 : key % 2 == 0;

        assert_int_equal(times_found(b, REF(key, 1)), is_there);
        weight += is_there ? weight_of(key) : 0;
    }
    for (uint64_t key = 10 * COUNT; key < 16 * COUNT; key++)
        weight += weight_of(key);
    assert_int_equal(km__hash_weight(b->index), weight);
    assert_int_equal(km__hash_count(b->index), 7 * COUNT);
    check(b);
}

/* A node is tidied up for the flags that came after it was loaded, not for those it came with. */
static void loaded_nodes_are_not_untidy(void **state)
{
    struct pair *pair = *state;
    struct fixture *b = &pair->b;
    uint32_t flagged_count = 0;

    set_up_import(pair, 105000); /* some nodes are nearly full */
    load_all(b);
    for (uint64_t key = 0; key < 2000; key++) {
        uint64_t own = km__hash_own_bits(hash_of(b, key));
        uint32_t partition = km__hash_partition(hash_of(b, key));
        const struct hash_node *node = km__hash_find_node(b->index, partition, own);

        assert_int_equal(node->flagged_at_build, node->flagged_count);
        flagged_count += node->flagged_count;
    }
    assert_true(flagged_count > 0);
}

/* Whether a hash is of the first 1/16 of a partition. */
static int is_in_corner(uint64_t hash)
{
    return km__hash_own_bits(hash) >> 60 == 0;
}

/* Splits in one corner double directories whose other nodes are not loaded. */
static void directory_grows_beside_unloaded_nodes(void **state)
{
    enum { COUNT = 1000000 };
    struct pair *pair = *state;
    struct fixture *b = &pair->b;
    uint64_t added = 0;
    uint64_t bytes;

    set_up_import(pair, COUNT / 2);
    bytes = km__hash_bytes(b->index);
    for (uint64_t key = COUNT; added < COUNT / 10; key++) {
        if (!is_in_corner(hash_of(b, key)))
            continue;
        add_keys(b, key, key + 1);
        if (++added % 20000 == 0)
            check(b);
    }
    assert_true(km__hash_not_loaded_count(b->index) > pair->image.count / 2);
    assert_true(km__hash_directory(b->index, 0)->depth >
                km__hash_directory(pair->a->index, 0)->depth);
    assert_true(km__hash_bytes(b->index) > bytes);
    load_all(b);
    assert_keys(b, 0, COUNT / 2);
    assert_int_equal(km__hash_count(b->index), COUNT / 2 + added);
    check(b);
}

static void clearing_drops_unloaded_nodes(void **state)
{
    struct pair *pair = *state;
    struct fixture *b = &pair->b;
    struct hash_walk walk = {0};
    int is_end = 0;

    set_up_import(pair, 100000);
    for (uint64_t key = 0; key < 40; key++) /* some nodes are loaded, some not */
        assert_int_equal(times_read(b, key), 1);
    for (uint32_t p = 0; p < HASH_PARTITION_COUNT; p += 2)
        km__hash_clear_partition(b->index, p);
    check(b);
    for (uint64_t key = 0; key < 100000; key++) {
        int is_there = km__hash_partition(hash_of(b, key)) % 2 == 1;
        assert_int_equal(times_read(b, key), is_there);
    }
    assert_int_equal(load_next(b, &walk, &is_end), KM_OK);
    assert_int_equal(is_end, 1);
    check(b);
    for (uint32_t p = 1; p < HASH_PARTITION_COUNT; p += 2)
        km__hash_clear_partition(b->index, p);
    assert_int_equal(km__hash_bytes(b->index), pair->empty_bytes);
    assert_int_equal(km__hash_weight(b->index), 0);
}

static void walk_loads_what_it_meets(void **state)
{
    enum { COUNT = 50000 };
    static uint8_t times[COUNT];
    static uint64_t refs[HASH_SLOTS_MAX];
    struct pair *pair = *state;
    struct hash_walk walk = {0};
    int is_end = 0;

    set_up_import(pair, COUNT);
    memset(times, 0, sizeof(times));
    for (uint64_t nodes = 0; !is_end; nodes++) {
        size_t count = SIZE_MAX;

        pair->image.status = KM_E_IO;
        assert_int_equal(km__hash_walk_next(pair->b.index, &walk, refs, &count, &is_end),
                         nodes < pair->image.count ? KM_E_IO : KM_OK);
        pair->image.status = KM_OK;
        assert_int_equal(km__hash_walk_next(pair->b.index, &walk, refs, &count, &is_end), KM_OK);
        for (size_t i = 0; i < count; i++)
            times[KEY(refs[i])]++;
    }
    for (size_t key = 0; key < COUNT; key++)
        assert_int_equal(times[key], 1);
}

/* ---- loading fails */

static void assert_loading_fails(struct pair *pair, uint64_t key, km_status status)
{
    struct fixture *b = &pair->b;
    struct hash_image_node node;
    struct hash_walk walk = {0};
    uint64_t left = km__hash_not_loaded_count(b->index);
    uint64_t *lines = malloc(IMAGE_SLOTS_MAX * sizeof(*lines));
    int is_end = -1;

    assert_int_equal(km__hash_load(b->index, hash_of(b, key)), status);
    assert_int_equal(km__hash_load_unlocked(b->index, hash_of(b, key)), status);
    assert_int_equal(load_next(b, &walk, &is_end), status);
    assert_int_equal(km__hash_export_next(b->index, &walk, &node, lines, &is_end), status);
    assert_true(walk.partition == 0 && walk.prefix == 0 && is_end == -1);
    assert_true(leads_to_unloaded(b, key));
    assert_int_equal(km__hash_not_loaded_count(b->index), left);
    check(b);
    free(lines);
}

static void failed_load_leaves_the_index_usable(void **state)
{
    struct pair *pair = *state;
    uint64_t bytes;

    set_up_import(pair, 30000);
    bytes = km__hash_bytes(pair->b.index);
    pair->image.status = KM_E_IO;
    assert_loading_fails(pair, 5, KM_E_IO);
    pair->image.status = KM_E_CORRUPT;
    assert_loading_fails(pair, 5, KM_E_CORRUPT);
    pair->image.status = KM_OK;
    while (km__node_pool_allocate(pair->a->pool, NODE_POOL_BLOCK_MIN)) /* until all is used up */
        pair->a->allocator.calls_left = 0;
    assert_loading_fails(pair, 5, KM_E_NO_MEMORY);
    pair->a->allocator.calls_left = -1;
    assert_int_equal(km__hash_bytes(pair->b.index), bytes);
    for (uint64_t key = 0; key < 30000; key++)
        assert_int_equal(times_read(&pair->b, key), 1);
    add_keys(&pair->b, 30000, 60000);
    check(&pair->b);
}

/* What one node must not hold, whatever the source believes. */
static void assert_slots_refused(struct pair *pair, size_t i, size_t slot, uint64_t change)
{
    const struct hash_image_node *node = &pair->image.nodes[i];
    uint64_t hash = node->prefix >> 8;
    uint64_t first = 0;

    while (km__hash_partition(first << 56) != node->partition)
        first++;
    hash |= first << 56;
    pair->image.slots[i][slot] ^= change;
    assert_int_equal(km__hash_load(pair->b.index, hash), KM_E_CORRUPT);
    pair->image.slots[i][slot] ^= change;
    check(&pair->b);
}

static size_t find_slot(const struct test_image *image, size_t i, int is_used)
{
    size_t slot = 1;

    while (((image->slots[i][slot] & HASH_REF_MASK) != 0) != is_used || slot % 8 == 0) {
        slot++;
        assert_true(slot < image_slot_count(&image->nodes[i]));
    }
    return slot;
}

static void broken_lines_are_corruption(void **state)
{
    struct pair *pair = *state;
    size_t last;
    size_t used;
    size_t empty;

    set_up_import(pair, 100000);
    last = pair->image.count - 1;
    assert_true(pair->image.nodes[last].line_bits > 3);
    used = find_slot(&pair->image, last, 1);
    empty = find_slot(&pair->image, last, 0);
    assert_slots_refused(pair, last, empty, 12345);                /* one more than counted */
    assert_slots_refused(pair, last, empty, UINT64_C(1) << 50);    /* a tag of nothing */
    assert_slots_refused(pair, last, used, HASH_FLAG_BIT);         /* a flag where none may be */
    assert_slots_refused(pair, last, used / 8 * 8, HASH_FLAG_BIT); /* one more, or one less */
    assert_slots_refused(pair, last, used, HASH_PLACEHOLDER_MIN);  /* a placeholder */
    assert_slots_refused(pair, last, used,
                         pair->image.slots[last][used] & HASH_REF_MASK); /* one less */
    load_all(&pair->b);
    assert_keys(&pair->b, 0, 100000);
}

/* Flips of any bits: an index that is sound, or a refusal. */
static void mutated_lines_never_break_the_index(void **state)
{
    struct pair *pair = *state;
    uint64_t random = test_seed();
    uint64_t loaded_count = 0;
    uint64_t refused_count = 0;

    add_keys(pair->a, 0, 20000);
    image_export(&pair->image, pair->a->index);
    for (int round = 0; round < 40; round++) {
        import_b(pair);
        for (size_t i = 0; i < pair->image.count; i++) {
            size_t slot = random64(&random) % image_slot_count(&pair->image.nodes[i]);
            pair->image.slots[i][slot] ^= UINT64_C(1) << random64(&random) % 64;
        }
        for (uint64_t key = 0; key < 1000; key++) {
            km_status rc = km__hash_load(pair->b.index, hash_of(&pair->b, key));

            assert_true(rc == KM_OK || rc == KM_E_CORRUPT);
            refused_count += rc != KM_OK;
            if (rc == KM_OK)
                rc = reserve(&pair->b, REF(key, 2));
            assert_true(rc == KM_OK || rc == KM_E_CORRUPT);
            loaded_count += rc == KM_OK;
        }
        assert_int_equal(km__hash_index_check(pair->b.index, NULL), 0);
        end_b(pair);
        image_fini(&pair->image);
        image_init(&pair->image);
        image_export(&pair->image, pair->a->index);
    }
    assert_true(loaded_count > 1000 && refused_count > 1000);
}

/* ---- hostile tables */

static void assert_table_refused(struct pair *pair)
{
    struct fixture *b = &pair->b;

    assert_int_equal(image_import(&pair->image, b->index), KM_E_CORRUPT);
    assert_int_equal(km__hash_count(b->index), 0);
    assert_int_equal(km__hash_weight(b->index), 0);
    assert_int_equal(km__hash_not_loaded_count(b->index), 0);
    assert_int_equal(km__hash_bytes(b->index), pair->empty_bytes);
    check(b);
    km__reclaim(&pair->a->reclaimer);
}

#define REFUSES(pair, i, field, value)                                                             \
    do {                                                                                           \
        struct hash_image_node *refused_ = &(pair)->image.nodes[i];                                \
        struct hash_image_node saved_ = *refused_;                                                 \
        refused_->field = (value);                                                                 \
        assert_table_refused(pair);                                                                \
        *refused_ = saved_;                                                                        \
    } while (0)

static void fields_out_of_limits_are_corruption(void **state)
{
    struct pair *pair = *state;
    size_t i;

    add_keys(pair->a, 0, 400000);
    image_export(&pair->image, pair->a->index);
    begin_b(pair);
    i = pair->image.count / 2;
    assert_true(pair->image.nodes[i].depth > 0);
    REFUSES(pair, i, partition, HASH_PARTITION_COUNT);
    REFUSES(pair, i, partition, pair->image.nodes[i].partition - 1);
    REFUSES(pair, pair->image.count - 1, partition, 255);
    REFUSES(pair, i, depth, HASH_DEPTH_MAX + 1);
    REFUSES(pair, i, depth, 255);
    REFUSES(pair, i, depth, pair->image.nodes[i].depth - 1);
    REFUSES(pair, i, depth, pair->image.nodes[i].depth + 1);
    REFUSES(pair, i, line_bits, HASH_LINE_BITS_MAX + 1);
    REFUSES(pair, i, tag_bits, HASH_TAG_BITS_MIN - 1);
    REFUSES(pair, i, tag_bits, HASH_TAG_BITS + 1);
    REFUSES(pair, i, count, (HASH_LINE_SLOTS << pair->image.nodes[i].line_bits) + 1);
    REFUSES(pair, i, flagged_count, (1u << pair->image.nodes[i].line_bits) + 1);
    REFUSES(pair, i, prefix, pair->image.nodes[i].prefix + 1);
    REFUSES(pair, i, prefix, pair->image.nodes[i].prefix ^ UINT64_C(1) << 63);
    pair->image.count--; /* the last one is missing */
    assert_table_refused(pair);
    pair->image.count++;
    assert_int_equal(image_import(&pair->image, pair->b.index), KM_OK);
    load_all(&pair->b);
    assert_keys(&pair->b, 0, 400000);
}

static void order_of_partitions_is_checked(void **state)
{
    static const uint64_t lines[HASH_LINE_SLOTS];
    struct hash_image_node node = {.tag_bits = HASH_TAG_BITS};
    struct pair *pair = *state;

    begin_b(pair);
    node.partition = 7;
    image_add(&pair->image, &node, lines);
    image_add(&pair->image, &node, lines); /* twice */
    assert_table_refused(pair);
    pair->image.nodes[1].partition = 6; /* backwards */
    assert_table_refused(pair);
    pair->image.nodes[1].partition = 47;
    assert_int_equal(image_import(&pair->image, pair->b.index), KM_OK);
    check(&pair->b);
}

/* Halve the last node again and again: a directory of 2^depth entries for depth + 1 nodes. */
static void make_staircase(struct test_image *image, uint32_t depth)
{
    static const uint64_t lines[HASH_LINE_SLOTS];
    struct hash_image_node node = {.tag_bits = HASH_TAG_BITS};

    for (uint32_t d = 1; d <= depth; d++) {
        node.depth = (uint8_t)d;
        image_add(image, &node, lines);
        node.prefix += UINT64_C(1) << (64 - d);
    }
    image_add(image, &node, lines);
}

static void few_deep_nodes_take_little_memory(void **state)
{
    struct pair *pair = *state;

    begin_b(pair);
    for (uint32_t depth = 1; depth <= HASH_DEPTH_MAX; depth++) {
        km_status rc;

        make_staircase(&pair->image, depth);
        rc = image_import(&pair->image, pair->b.index);
        assert_int_equal(rc, depth <= 12 ? KM_OK : KM_E_CORRUPT);
        assert_true(km__hash_bytes(pair->b.index) < pair->empty_bytes + (128 << 10));
        check(&pair->b);
        load_all(&pair->b);
        check(&pair->b);
        km__hash_clear_partition(pair->b.index, 0);
        image_fini(&pair->image);
        image_init(&pair->image);
    }
}

static void mutate_table(struct test_image *image, uint64_t *random)
{
    uint64_t dice = random64(random);
    size_t i = (size_t)(random64(random) % image->count);
    size_t j = (size_t)(random64(random) % image->count);
    struct hash_image_node *node = &image->nodes[i];
    struct hash_image_node other = image->nodes[j];

    switch (dice % 6) {
    case 0: /* any bit of any field */
        ((uint8_t *)node)[random64(random) % sizeof(*node)] ^= (uint8_t)(1u << (dice >> 8) % 8);
        break;
    case 1: /* small steps, which may well be accepted */
        node->count ^= (dice >> 8) % 4;
        node->tag_bits = (uint8_t)(6 + (dice >> 16) % 12);
        break;
    case 2: node->line_bits = (uint8_t)((dice >> 8) % 11); break;
    case 3:
        image->nodes[j] = *node;
        *node = other;
        break;
    case 4: /* deeper, and the neighbour wider */
        node->depth++;
        image->nodes[(i + 1) % image->count].depth--;
        image->nodes[(i + 1) % image->count].prefix = node->prefix + (UINT64_MAX >> node->depth) +
                                                      1;
        break;
    default:
        node->weight = random64(random);
        node->flagged_count = (uint32_t)((dice >> 8) % 600);
        break;
    }
}

/* Use what was accepted as a store would: nothing may break, though much may be missing. */
static void use_import(struct pair *pair, uint64_t *random)
{
    struct fixture *b = &pair->b;

    for (int step = 0; step < 300; step++) {
        uint64_t key = random64(random) % 6000;
        uint64_t hash = hash_of(b, key);
        km_status rc = km__hash_load(b->index, hash);

        assert_true(rc == KM_OK || rc == KM_E_CORRUPT);
        if (rc)
            continue;
        if (times_found(b, REF(key, 1)) > 0) {
            km__hash_remove(b->index, hash, REF(key, 1), weight_of(key));
        } else {
            rc = reserve(b, REF(key, 1));
            assert_true(rc == KM_OK || rc == KM_E_CORRUPT);
        }
    }
    assert_int_equal(km__hash_index_check(b->index, NULL), 0);
}

static void mutated_tables_are_refused_or_sound(void **state)
{
    struct pair *pair = *state;
    uint64_t random = test_seed();
    struct hash_image_node *nodes;
    uint64_t refused_count = 0;
    uint64_t accepted_count = 0;
    size_t size;

    add_keys(pair->a, 0, 3000);
    for (uint64_t key = 3000; key < 400000;
         key++) { /* nine partitions of one node, and a large one */
        if (km__hash_partition(hash_of(pair->a, key)) == 9)
            add_keys(pair->a, key, key + 1);
    }
    image_export(&pair->image, pair->a->index);
    size = pair->image.count * sizeof(*nodes);
    nodes = malloc(size);
    memcpy(nodes, pair->image.nodes, size);
    begin_b(pair);
    for (int round = 0; round < 4000; round++) {
        km_status rc;

        memcpy(pair->image.nodes, nodes, size);
        for (uint64_t i = random64(&random) % 3 + 1; i > 0; i--)
            mutate_table(&pair->image, &random);
        rc = image_import(&pair->image, pair->b.index);
        if (rc == KM_OK) {
            accepted_count++;
            use_import(pair, &random);
            for (uint32_t p = 0; p < HASH_PARTITION_COUNT; p++)
                km__hash_clear_partition(pair->b.index, p);
        } else {
            assert_int_equal(rc, KM_E_CORRUPT);
            refused_count++;
        }
        assert_int_equal(km__hash_bytes(pair->b.index), pair->empty_bytes);
        km__reclaim(&pair->a->reclaimer);
    }
    free(nodes);
    print_message("tables refused: %d, accepted: %d\n", (int)refused_count, (int)accepted_count);
    assert_true(refused_count > 400 && accepted_count > 400);
}

static void failed_import_leaves_the_index_empty(void **state)
{
    static const uint64_t lines[HASH_LINE_SLOTS];
    struct pair *pair = *state;
    struct fixture *a = pair->a;
    uint64_t failures = 0;
    km_status rc;

    for (uint32_t i = 0; i < 3u << 12; i++) {
        struct hash_image_node node = {.prefix = (uint64_t)i << 52,
                                       .partition = i >> 12,
                                       .depth = 12,
                                       .tag_bits = 16,
                                       .weight = i};
        image_add(&pair->image, &node, lines);
    }
    do { /* ends: with memory enough */
        struct node_pool *pool = NULL;

        assert_int_equal(km__node_pool_create(&a->allocator.allocator, &pool), KM_OK);
        assert_int_equal(
            km__hash_index_create(&a->allocator.allocator, pool, &a->reclaimer, &pair->b.index),
            KM_OK);
        pair->empty_bytes = km__hash_bytes(pair->b.index);
        a->allocator.calls_left = (int64_t)failures;
        rc = image_import(&pair->image, pair->b.index);
        a->allocator.calls_left = -1;
        assert_true(rc == KM_OK || rc == KM_E_NO_MEMORY);
        assert_int_equal(km__hash_index_check(pair->b.index, NULL), 0);
        if (rc)
            assert_int_equal(km__hash_bytes(pair->b.index), pair->empty_bytes);
        failures += rc != KM_OK;
        end_b(pair);
        assert_int_equal(km__node_pool_check(pool), 0);
        km__node_pool_destroy(pool);
    } while (rc);
    assert_true(failures > 4);
}

/* ---- export beside changes */

/* How often each key's reference is in an image, whose tiling an import has checked. */
static void count_keys(const struct test_image *image, uint8_t *times, uint64_t key_end)
{
    memset(times, 0, key_end);
    for (size_t i = 0; i < image->count; i++) {
        for (size_t s = 0; s < image_slot_count(&image->nodes[i]); s++) {
            uint64_t ref = image->slots[i][s] & HASH_REF_MASK;
            if (ref && KEY(ref) < key_end)
                times[KEY(ref)]++;
        }
    }
}

static void export_survives_splits(void **state)
{
    enum { STAY = 100000, ALL = 1000000 };
    struct pair *pair = *state;
    uint8_t *times = malloc(STAY);
    struct hash_walk walk = {0};
    uint64_t end = STAY;
    uint64_t taken = 0;

    add_keys(pair->a, 0, STAY);
    while (image_export_next(&pair->image, pair->a->index, &walk)) {
        uint64_t more = end < ALL ? 5000 : 0;

        add_keys(pair->a, end, end + more);
        end += more;
        for (; more && taken < end - STAY; taken += 10) /* some of the new ones go again */
            take_key(pair->a, STAY + taken);
    }
    assert_true(end > 400000);
    import_b(pair);
    count_keys(&pair->image, times, STAY);
    for (uint64_t key = 0; key < STAY; key++) {
        assert_int_equal(times[key], 1);
        assert_int_equal(times_read(&pair->b, key), 1);
    }
    load_all(&pair->b);
    check(&pair->b);
    free(times);
}

/* The sum over an image of one moment after splits is the sum of what it holds. */
static void exported_weights_add_up(void **state)
{
    struct pair *pair = *state;
    struct hash_walk walk = {0};
    uint64_t end = 20000;
    uint64_t weight = 0;

    add_keys(pair->a, 0, end);
    while (image_export_next(&pair->image, pair->a->index, &walk)) {
        uint64_t more = end < 300000 ? 3000 : 0;
        add_keys(pair->a, end, end + more);
        end += more;
    }
    for (size_t i = 0; i < pair->image.count; i++) {
        weight += pair->image.nodes[i].weight;
        for (size_t s = 0; s < image_slot_count(&pair->image.nodes[i]); s++) {
            uint64_t ref = pair->image.slots[i][s] & HASH_REF_MASK;
            weight -= ref ? weight_of(KEY(ref)) : 0;
        }
    }
    assert_int_equal(weight, 0);
}

/* Export some nodes of a partition, clear it, enter `again` keys anew, and export the rest. */
static void export_around_clearing(struct pair *pair, size_t node_count, uint64_t again)
{
    enum { COUNT = 600000 };
    struct hash_walk walk = {0};
    uint8_t *times = malloc(COUNT);
    uint32_t cleared = HASH_PARTITION_COUNT - 2; /* a wide one, of several nodes */

    add_keys(pair->a, 0, COUNT);
    while (walk.partition < cleared)
        assert_true(image_export_next(&pair->image, pair->a->index, &walk));
    for (size_t i = 0; i < node_count; i++)
        assert_true(image_export_next(&pair->image, pair->a->index, &walk));
    assert_int_equal(walk.partition, cleared);
    km__hash_clear_partition(pair->a->index, cleared);
    for (uint64_t key = COUNT; key < COUNT + again; key++) {
        if (km__hash_partition(hash_of(pair->a, key)) == cleared)
            add_keys(pair->a, key, key + 1);
    }
    while (image_export_next(&pair->image, pair->a->index, &walk)) {
    }
    import_b(pair);
    count_keys(&pair->image, times, COUNT);
    for (uint64_t key = 0; key < COUNT; key++) {
        if (km__hash_partition(hash_of(pair->a, key)) != cleared)
            assert_int_equal(times[key], 1);
        else
            assert_in_range(times[key], 0, node_count != 0);
    }
    load_all(&pair->b);
    check(&pair->b);
    free(times);
    end_b(pair);
    image_fini(&pair->image);
    image_init(&pair->image);
    for (uint32_t p = 0; p < HASH_PARTITION_COUNT; p++)
        km__hash_clear_partition(pair->a->index, p);
}

static void export_survives_clearing(void **state)
{
    struct pair *pair = *state;

    export_around_clearing(pair, 0, 0);
    export_around_clearing(pair, 0, 100000);
    export_around_clearing(pair, 1, 0);
    export_around_clearing(pair, 1, 1000);
    export_around_clearing(pair, 1, 600000);
    export_around_clearing(pair, 2, 100000);
    export_around_clearing(pair, 3, 1000);
}

/* An export that was cut short inside a deep partition, too. */
static void export_of_a_cleared_deep_partition_is_in_proportion(void **state)
{
    enum { COUNT = 600000 };
    struct pair *pair = *state;
    struct hash_walk walk = {0};
    uint32_t partition;

    pair->a->keep_mask = UINT64_MAX >> 8; /* all in one partition */
    partition = km__hash_partition(hash_of(pair->a, 0));
    add_keys(pair->a, 0, COUNT);
    for (int i = 0; i < 5; i++)
        assert_true(image_export_next(&pair->image, pair->a->index, &walk));
    km__hash_clear_partition(pair->a->index, partition);
    add_keys(pair->a, COUNT, COUNT + 100);
    while (image_export_next(&pair->image, pair->a->index, &walk)) {
    }
    import_b(pair);
    assert_true(pair->image.count > 64);
    assert_true(km__hash_directory(pair->b.index, partition)->depth > 6);
    load_all(&pair->b);
    check(&pair->b);
}

#define PAIR_TEST(name) cmocka_unit_test_setup_teardown(name, set_up_pair, tear_down_pair)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PAIR_TEST(import_of_export_is_equal),
        PAIR_TEST(empty_index_has_an_empty_image),
        PAIR_TEST(partition_without_nodes_stays_empty),
        PAIR_TEST(image_of_an_import_is_the_same),
        PAIR_TEST(lookup_loads_its_node_alone),
        PAIR_TEST(writers_go_on_in_an_import),
        PAIR_TEST(loaded_nodes_are_not_untidy),
        PAIR_TEST(directory_grows_beside_unloaded_nodes),
        PAIR_TEST(clearing_drops_unloaded_nodes),
        PAIR_TEST(walk_loads_what_it_meets),
        PAIR_TEST(failed_load_leaves_the_index_usable),
        PAIR_TEST(broken_lines_are_corruption),
        PAIR_TEST(mutated_lines_never_break_the_index),
        PAIR_TEST(fields_out_of_limits_are_corruption),
        PAIR_TEST(order_of_partitions_is_checked),
        PAIR_TEST(few_deep_nodes_take_little_memory),
        PAIR_TEST(mutated_tables_are_refused_or_sound),
        PAIR_TEST(failed_import_leaves_the_index_empty),
        PAIR_TEST(export_survives_splits),
        PAIR_TEST(exported_weights_add_up),
        PAIR_TEST(export_survives_clearing),
        PAIR_TEST(export_of_a_cleared_deep_partition_is_in_proportion),
    };

    test_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
