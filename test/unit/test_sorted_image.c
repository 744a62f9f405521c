/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sorted_image.c -- sorted trees out of images and into them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "unit/sorted_fixture.h"

struct image {
    struct sorted_image_leaf *leaves;
    km_bytes *fences;
    size_t count;
    size_t capacity;
};

static void append_leaf(struct image *image, const struct sorted_image_leaf *leaf, km_bytes fence)
{
    uint8_t *copy = malloc(fence.size + 1);

    if (image->count == image->capacity) {
        image->capacity = image->capacity ? image->capacity * 2 : 16;
        image->leaves = realloc(image->leaves, image->capacity * sizeof(*image->leaves));
        image->fences = realloc(image->fences, image->capacity * sizeof(*image->fences));
    }
    if (fence.size > 0)
        memcpy(copy, fence.data, fence.size);
    image->leaves[image->count] = *leaf;
    image->fences[image->count++] = (km_bytes){copy, fence.size};
}

static void free_image(struct image *image)
{
    for (size_t i = 0; i < image->count; i++)
        free((void *)(uintptr_t)image->fences[i].data);
    free(image->leaves);
    free(image->fences);
    memset(image, 0, sizeof(*image));
}

/* Copy the next leaf; 0 at the end. Memory may fail now and then. */
static int export_leaf(struct fixture *fixture, struct sorted_walk *walk, struct image *image)
{
    struct sorted_image_leaf leaf;
    km_status rc = KM_OK;
    km_bytes fence;
    int is_end = -1;

    do {
        km__epoch_enter();
        rc = km__sorted_export_next(fixture->tree, walk, &leaf, &fence, &is_end);
        km__epoch_leave();
        assert_true(rc == KM_OK || rc == KM_E_NO_MEMORY);
        fixture->allocator.calls_left = -1;
    } while (rc);
    if (is_end)
        return 0;
    assert_int_equal(leaf.low_fence_size, fence.size);
    append_leaf(image, &leaf, fence);
    return 1;
}

static void export_all(struct fixture *fixture, struct image *image)
{
    struct sorted_walk walk = {0};

    while (export_leaf(fixture, &walk, image))
        ;
    assert_false(export_leaf(fixture, &walk, image)); /* it stays at the end */
    km__sorted_walk_fini(fixture->tree, &walk);
}

static struct sorted_tree *new_tree(struct fixture *fixture)
{
    struct sorted_tree *tree;

    assert_int_equal(km__sorted_create(&fixture->allocator.allocator, fixture->pool,
                                       &fixture->reclaimer, &fixture->source, &tree),
                     KM_OK);
    return tree;
}

static km_status build_tree(struct sorted_tree *tree, const struct image *image, uint64_t weight)
{
    struct sorted_builder *builder;
    km_status rc = km__sorted_build_begin(tree, &builder);

    if (rc)
        return rc;
    for (size_t i = 0; i < image->count && rc == KM_OK; i++)
        rc = km__sorted_build_add(builder, &image->leaves[i], image->fences[i]);
    if (rc == KM_OK)
        return km__sorted_build_end(builder, weight);
    km__sorted_build_abort(builder);
    return rc;
}

/* Put a tree built from the image in the place of the fixture's. */
static void rebuild(struct fixture *fixture, const struct image *image)
{
    struct sorted_tree *tree = new_tree(fixture);

    assert_int_equal(build_tree(tree, image, fixture->weight), KM_OK);
    km__sorted_destroy(fixture->tree);
    fixture->tree = tree;
}

static void assert_empty(struct sorted_tree *tree)
{
    assert_int_equal(km__sorted_count(tree), 0);
    assert_int_equal(km__sorted_bytes(tree), SORTED_TREE_SIZE);
    assert_int_equal(km__sorted_check(tree), 0);
}

static void add_mixed_keys(struct fixture *fixture)
{
    char text[300];

    add_numbers(fixture, 6000);
    for (int i = 0; i < 4000; i++) { /* some that share much, some that are short, or end in NULs */
        uint64_t dice = random64(&fixture->random);
        size_t size = dice % 7 ? 16 + dice % 8 : dice % 200;
        memset(text, dice % 3 ? 'x' : 0, sizeof(text));
        snprintf(text, sizeof(text), "%" PRIu64, dice >> 40);
        add_key(fixture, text, size);
    }
    sort_keys(fixture);
}

/* ---- round trips */

static void an_image_becomes_the_same_tree(void **state)
{
    static const size_t counts[] = {1, 2, 14, 15, 300, 616, 660, 700, 3000, 30000, SIZE_MAX};
    struct fixture *fixture = *state;

    add_mixed_keys(fixture);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        size_t count = counts[i] < fixture->key_count ? counts[i] : fixture->key_count;
        struct image image = {0};

        for (size_t j = 0; j < count; j++) {
            if (!fixture->keys[j].ref)
                insert_key(fixture, j);
        }
        export_all(fixture, &image);
        rebuild(fixture, &image);
        check(fixture);
        check_finds(fixture);
        free_image(&image);
        for (size_t j = 0; j < count; j += 3) { /* it changes like any other */
            replace_key(fixture, j);
            remove_key(fixture, j);
            if (j % 2)
                insert_key(fixture, j);
        }
        check(fixture);
        check_finds(fixture);
        km__reclaim(&fixture->reclaimer);
    }
}

static void an_image_of_nothing_is_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct image image = {0};

    export_all(fixture, &image);
    assert_int_equal(image.count, 0);
    rebuild(fixture, &image);
    assert_empty(fixture->tree);
    free_image(&image);
}

static void long_separators_are_built(void **state)
{
    static uint8_t bytes[KM_KEY_SIZE_MAX];
    struct fixture *fixture = *state;
    struct image image = {0};

    for (int i = 0; i < 1000; i++) {
        size_t size = sizeof(bytes) - 12 * (size_t)(i % 2);
        memset(bytes, 'a' + i / 100, sizeof(bytes));
        memcpy(bytes + 65500, &i, sizeof(i));
        add_key(fixture, bytes, i % 10 ? size : 70);
    }
    sort_keys(fixture);
    insert_all(fixture);
    export_all(fixture, &image);
    rebuild(fixture, &image);
    check(fixture);
    check_finds(fixture);
    free_image(&image);
}

/* Heads may lie before what the fences share, as an exporter with joined leaves leaves them. */
static void smaller_skips_serve_as_well(void **state)
{
    struct fixture *fixture = *state;
    struct image image = {0};

    add_mixed_keys(fixture);
    insert_all(fixture);
    export_all(fixture, &image);
    for (size_t i = 0; i < image.count; i++) {
        struct sorted_image_leaf *leaf = &image.leaves[i];
        leaf->skip -= (uint32_t)(random64(&fixture->random) % 3) * leaf->skip / 2;
        for (uint32_t j = 0; j < leaf->count; j++) {
            const struct model_key *key = &fixture->keys[RANK(leaf->refs[j])];
            leaf->heads[j] = km__sorted_head(key->data, key->size, leaf->skip);
        }
    }
    rebuild(fixture, &image);
    check(fixture);
    check_finds(fixture);
    for (size_t i = 0; i < fixture->key_count; i++) {
        size_t rank = i * 7919 % fixture->key_count;
        if (fixture->keys[rank].ref && i % 16)
            remove_key(fixture, rank);
        if (i % 500 == 0)
            check(fixture);
    }
    check_finds(fixture);
    free_image(&image);
}

static void pending_entries_are_left_out(void **state)
{
    struct fixture *fixture = *state;
    struct image image = {0};

    add_mixed_keys(fixture);
    for (size_t i = 0; i < fixture->key_count; i++) {
        if (i % 5)
            insert_key(fixture, i);
        else
            assert_int_equal(try_reserve(fixture, i), KM_OK);
    }
    export_all(fixture, &image);
    for (size_t i = 0; i < fixture->key_count; i += 5)
        cancel_key(fixture, i);
    rebuild(fixture, &image);
    check(fixture);
    check_finds(fixture);
    free_image(&image);
}

/* ---- exports beside changes */

/* What the image has, in order; each resident once. */
static void check_image(struct fixture *fixture, const struct image *image, size_t every)
{
    size_t expected = 0;
    size_t last = 0;

    for (size_t i = 0; i < image->count; i++) {
        for (uint32_t j = 0; j < image->leaves[i].count; j++) {
            size_t rank = RANK(image->leaves[i].refs[j]);
            assert_true(rank >= last);
            last = rank + 1;
            if (rank % every)
                continue;
            assert_int_equal(rank, expected);
            expected += every;
        }
    }
    assert_true(expected >= fixture->key_count);
}

/* Keys of which every tenth stays, while the others come and go, and leaves with them. */
static void exports_hold_what_stays_once(void **state)
{
    struct fixture *fixture = *state;

    add_mixed_keys(fixture);
    for (int round = 0; round < 4; round++) {
        struct sorted_walk walk = {0};
        struct image image = {0};
        struct sorted_tree *tree;

        for (size_t i = 0; i < fixture->key_count; i++) {
            if (!fixture->keys[i].ref)
                insert_key(fixture, i);
        }
        for (;;) {
            if (random64(&fixture->random) % 4 == 0)
                fixture->allocator.calls_left = 0;
            if (!export_leaf(fixture, &walk, &image))
                break;
            for (int i = 0; i < 40; i++) { /* in one round mostly where the walk is */
                size_t rank = random64(&fixture->random) % fixture->key_count;
                if (round % 2)
                    rank = (image.count * 10 + rank % 60) % fixture->key_count;
                if (rank % 10 == 0)
                    replace_key(fixture, rank);
                else if (fixture->keys[rank].ref)
                    remove_key(fixture, rank);
                else if (i % 4 == 0)
                    insert_key(fixture, rank);
            }
        }
        km__sorted_walk_fini(fixture->tree, &walk);
        check_image(fixture, &image, 10);
        tree = new_tree(fixture);
        assert_int_equal(build_tree(tree, &image, 0), KM_OK);
        assert_int_equal(km__sorted_check(tree), 0);
        km__sorted_destroy(tree);
        free_image(&image);
        km__reclaim(&fixture->reclaimer);
    }
}

/* Where leaves were joined behind its back, an export reads records; it may try again. */
static void a_failed_export_has_not_moved(void **state)
{
    struct fixture *fixture = *state;
    uint64_t failures = 0;

    add_numbers(fixture, 3000);
    for (size_t position = 1; position < 200; position += 3) {
        struct sorted_walk walk = {0};
        struct sorted_image_leaf leaf;
        struct image image = {0};
        km_bytes fence;
        int is_end = 0;

        for (size_t i = 0; i < fixture->key_count; i++) {
            if (!fixture->keys[i].ref)
                insert_key(fixture, i);
        }
        for (size_t i = 0; i < position; i++)
            assert_true(export_leaf(fixture, &walk, &image));
        for (size_t i = 0; i < fixture->key_count; i++) {
            if (i % 10)
                remove_key(fixture, i);
        }
        fixture->source_status = KM_E_IO;
        fixture->source_calls_left = 0;
        if (km__sorted_export_next(fixture->tree, &walk, &leaf, &fence, &is_end) == KM_E_IO)
            failures++;
        else if (!is_end)
            append_leaf(&image, &leaf, fence);
        fixture->source_status = KM_OK;
        while (export_leaf(fixture, &walk, &image))
            ;
        check_image(fixture, &image, 10);
        km__sorted_walk_fini(fixture->tree, &walk);
        free_image(&image);
        km__reclaim(&fixture->reclaimer);
    }
    assert_true(failures > 0);
}

static void a_clear_ends_an_export(void **state)
{
    struct fixture *fixture = *state;
    struct sorted_walk walk = {0};
    struct image image = {0};
    struct sorted_tree *tree = new_tree(fixture);

    add_numbers(fixture, 1000);
    insert_all(fixture);
    for (int i = 0; i < 20; i++)
        assert_true(export_leaf(fixture, &walk, &image));
    km__sorted_clear(fixture->tree);
    fixture->present_count = fixture->weight = 0;
    assert_true(export_leaf(fixture, &walk, &image));
    assert_int_equal(image.leaves[20].count, 0);
    assert_false(export_leaf(fixture, &walk, &image));
    km__sorted_walk_fini(fixture->tree, &walk);
    assert_int_equal(build_tree(tree, &image, 0), KM_OK);
    assert_int_equal(km__sorted_check(tree), 0);
    km__sorted_destroy(tree);
    free_image(&image);
}

/* ---- failures */

static void a_failed_build_leaves_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct sorted_tree *tree = new_tree(fixture);
    struct image image = {0};
    km_status rc = KM_E_NO_MEMORY;

    add_mixed_keys(fixture);
    insert_all(fixture);
    export_all(fixture, &image);
    for (int64_t calls = 0; rc; calls += 1 + calls / 16) {
        fixture->allocator.calls_left = calls;
        rc = build_tree(tree, &image, 1);
        fixture->allocator.calls_left = -1;
        if (rc) {
            assert_int_equal(rc, KM_E_NO_MEMORY);
            assert_empty(tree);
        }
    }
    assert_int_equal(km__sorted_check(tree), 0);
    assert_int_equal(km__sorted_weight(tree), 1);
    km__sorted_destroy(tree);
    free_image(&image);
}

/* Change something in one leaf so that the image is not sound any more. */
static void spoil_leaf(struct fixture *fixture, struct image *image, size_t i, int how)
{
    struct sorted_image_leaf *leaf = &image->leaves[i];
    km_bytes fence = image->fences[i];

    (void)fixture;
    switch (how) {
    case 0: leaf->count = SORTED_LEAF_ENTRIES + 1; break;
    case 1: leaf->count = UINT32_MAX; break;
    case 2: leaf->refs[leaf->count / 2] = 0; break;
    case 3: leaf->refs[leaf->count - 1] |= SORTED_PENDING; break;
    case 4: leaf->skip = 17; break;
    case 5: leaf->skip = UINT32_MAX; break;
    case 6: leaf->low_fence_size++; break;
    case 7: /* heads that descend */
        leaf->heads[0] = leaf->heads[leaf->count - 1];
        leaf->heads[leaf->count - 1]--;
        break;
    case 8: /* the same fence twice; the first leaf has none before it */
        image->fences[i] = image->fences[i ? i - 1 : 1];
        leaf->low_fence_size = (uint32_t)image->fences[i].size;
        break;
    case 9: /* no fence, or one where there may be none */
        image->fences[i] = i ? (km_bytes){"", 0} : (km_bytes){"a", 1};
        leaf->low_fence_size = (uint32_t)image->fences[i].size;
        break;
    default: fail();
    }
    assert_true(i > 0 || how != 8 || fence.size != image->fences[i].size);
}

static void unsound_images_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct sorted_tree *tree = new_tree(fixture);
    struct image image = {0};

    add_numbers(fixture, 2000);
    insert_all(fixture);
    export_all(fixture, &image);
    for (size_t i = 0; i < image.count; i++) {
        struct sorted_image_leaf leaf = image.leaves[i];
        km_bytes fence = image.fences[i];

        for (int how = 0; how < 10; how++) {
            if (leaf.count < 2)
                continue;
            spoil_leaf(fixture, &image, i, how);
            assert_int_equal(build_tree(tree, &image, 0), KM_E_CORRUPT);
            assert_empty(tree);
            image.leaves[i] = leaf;
            image.fences[i] = fence;
        }
    }
    image.leaves[image.count - 1].skip = 1; /* nothing bounds the last one */
    assert_int_equal(build_tree(tree, &image, 0), KM_E_CORRUPT);
    image.leaves[image.count - 1].skip = 0;
    assert_int_equal(build_tree(tree, &image, 0), KM_OK);
    km__sorted_destroy(tree);
    free_image(&image);
}

/* Whatever the bytes, the answer is a tree that can be walked, or an error. */
static void any_image_gets_an_answer(void **state)
{
    struct fixture *fixture = *state;
    struct sorted_tree *tree = new_tree(fixture);
    struct image image = {0};
    uint64_t accepted = 0;
    uint64_t *refs = malloc(5000 * sizeof(*refs));

    add_numbers(fixture, 400);
    insert_all(fixture);
    export_all(fixture, &image);
    for (int step = 0; step < 4000; step++) {
        size_t i = random64(&fixture->random) % image.count;
        struct sorted_image_leaf leaf = image.leaves[i];
        struct sorted_bound open = {{NULL, 0}, 0, 0};
        size_t count;

        ((uint8_t *)&image.leaves[i])[random64(&fixture->random) % sizeof(leaf)] ^=
            (uint8_t)(1u << random64(&fixture->random) % 8);
        if (build_tree(tree, &image, 0) == KM_OK) {
            accepted++;
            assert_int_equal(km__sorted_read_up(tree, open, refs, 5000, &count), KM_OK);
            assert_int_equal(count, km__sorted_count(tree));
            km__sorted_clear(tree);
            km__reclaim(&fixture->reclaimer);
        }
        assert_empty(tree);
        image.leaves[i] = leaf;
    }
    assert_in_range(accepted, 100, 3900);
    free(refs);
    km__sorted_destroy(tree);
    free_image(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_image_becomes_the_same_tree, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_image_of_nothing_is_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(long_separators_are_built, set_up, tear_down),
        cmocka_unit_test_setup_teardown(smaller_skips_serve_as_well, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pending_entries_are_left_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(exports_hold_what_stays_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failed_export_has_not_moved, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_clear_ends_an_export, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failed_build_leaves_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(unsound_images_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(any_image_gets_an_answer, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
