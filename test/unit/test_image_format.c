/* SPDX-License-Identifier: Apache-2.0
 *
 * test_image_format.c -- the bytes of index.image: header, table, nodes; and what it shares with
 * MAPS.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "index/hash_index.h"
#include "index/sorted_tree.h"
#include "log/log.h"
#include "unit/image_plan.h"

_Static_assert(IMAGE_SEGMENT_COUNT_MAX == LOG_SLOT_COUNT, "segments that references tell apart");
_Static_assert(IMAGE_PARTITION_COUNT == HASH_PARTITION_COUNT, "partitions");
_Static_assert(IMAGE_LINE_SLOTS == HASH_LINE_SLOTS, "slots of a line");
_Static_assert(1u << IMAGE_LINE_BITS_MAX == HASH_NODE_LINES_MAX, "lines of a node");
_Static_assert(IMAGE_TAG_BITS_MAX == HASH_TAG_BITS, "bits of a tag");
_Static_assert(IMAGE_LEAF_ENTRIES_MAX == SORTED_LEAF_ENTRIES, "entries of a leaf");
_Static_assert(UINT64_C(1) << IMAGE_REF_BITS == LOG_PLACEHOLDER_BASE, "references");

/* ---- what is written is read ------------------------------------------------------------- */

static void check_table(const struct image_plan *plan, const struct file *file)
{
    const uint8_t *table = file->bytes + plan->header.table_offset;
    struct image_table parts;

    assert_int_equal(km__image_table_locate(&plan->header, &parts), KM_OK);
    for (uint64_t i = 0; i < plan->header.node_count; i++) {
        struct image_node node;

        memset(&node, 0, sizeof(node)); /* has no padding, but who knows */
        assert_int_equal(
            km__image_node_decode(table + parts.nodes_offset + i * IMAGE_NODE_SIZE, &node), KM_OK);
        assert_memory_equal(&node, &plan->nodes[i], sizeof(node));
    }
    for (uint32_t i = 0; i < plan->header.map_count; i++) {
        const struct image_counts *expected = &plan->counts[i];
        struct image_counts counts;

        assert_int_equal(km__image_counts_decode(
                             table + parts.counts_offset + (size_t)i * IMAGE_COUNTS_SIZE, &counts),
                         KM_OK);
        assert_true(counts.node_count == expected->node_count);
        assert_true(counts.order_chunk_count == expected->order_chunk_count);
        assert_true(counts.leaf_chunk_count == expected->leaf_chunk_count);
        assert_true(counts.next_ordinal == expected->next_ordinal);
        assert_true(counts.weight == expected->weight);
        assert_int_equal(counts.has_expiry, expected->has_expiry);
    }
}

static void check_chunks(const struct image_plan *plan, const struct file *file)
{
    const uint8_t *table = file->bytes + plan->header.table_offset;
    struct image_table parts;

    assert_int_equal(km__image_table_locate(&plan->header, &parts), KM_OK);
    for (uint64_t i = 0; i < plan->header.order_chunk_count; i++) {
        struct image_order_chunk chunk;

        assert_int_equal(km__image_order_chunk_decode(
                             table + parts.orders_offset + i * IMAGE_CHUNK_SIZE, &chunk),
                         KM_OK);
        assert_true(chunk.first_ordinal == plan->orders[i].first_ordinal);
        assert_int_equal(chunk.slot_count, plan->orders[i].slot_count);
        assert_int_equal(chunk.checksum, plan->orders[i].checksum);
    }
    for (uint64_t i = 0; i < plan->header.leaf_chunk_count; i++) {
        struct image_leaf_chunk chunk;

        assert_int_equal(
            km__image_leaf_chunk_decode(table + parts.leaves_offset + i * IMAGE_CHUNK_SIZE, &chunk),
            KM_OK);
        assert_int_equal(chunk.size, plan->leaves[i].size);
        assert_int_equal(chunk.leaf_count, plan->leaves[i].leaf_count);
        assert_int_equal(chunk.checksum, plan->leaves[i].checksum);
    }
}

static void images_keep_every_field(void **state)
{
    static struct image_plan plan;
    static struct file file;

    (void)state;
    for (int round = 0; round < 200; round++) {
        struct image_header out;

        plan_image(&plan);
        write_image(&file, &plan);
        assert_int_equal(read_image(&file, &out), KM_OK);
        assert_memory_equal(out.store_id, plan.header.store_id, STORE_ID_SIZE);
        assert_int_equal(out.layout_version, 2);
        assert_int_equal(out.head_number, 90);
        assert_true(out.position == plan.header.position);
        assert_true(out.durable == plan.header.durable);
        assert_true(out.hash_sample == plan.header.hash_sample);
        assert_int_equal(out.next_map_id, 60);
        assert_int_equal(out.map_count, 3);
        assert_true(out.node_count == plan.header.node_count);
        assert_int_equal(out.order_chunk_count, 4);
        assert_int_equal(out.leaf_chunk_count, 3);
        check_table(&plan, &file);
        check_chunks(&plan, &file);
    }
}

static void an_empty_image_is_read(void **state)
{
    static struct image_plan plan;
    static struct file file;
    struct image_header out;

    (void)state;
    plan_image(&plan);
    plan.header.map_count = 0;
    plan.header.node_count = 0;
    plan.header.order_chunk_count = 0;
    plan.header.leaf_chunk_count = 0;
    write_image(&file, &plan);
    assert_int_equal(file.size, 8192 - 4096); /* a table of no size behind no lines */
    assert_int_equal(read_image(&file, &out), KM_OK);
}

/* ---- what is damaged is not -------------------------------------------------------------- */

static void check_flips(struct file *file, size_t begin, size_t end)
{
    for (size_t bit = begin * 8; bit < end * 8; bit++) {
        struct image_header image;
        km_status rc;

        file->bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        rc = read_image(file, &image);
        file->bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (rc != KM_E_CORRUPT)
            fail_msg("bit %zu of byte %zu: %d", bit % 8, bit / 8, (int)rc);
    }
}

static void any_flipped_bit_of_an_image_is_damage(void **state)
{
    static struct image_plan plan;
    static struct file file;
    struct image_header out;
    uint64_t data_end;

    (void)state;
    plan_image(&plan);
    write_image(&file, &plan);
    data_end = end_of_data(&plan);
    check_flips(&file, 0, 256);
    check_flips(&file, 4000, IMAGE_HEADER_SIZE + 64);
    check_flips(&file, (size_t)data_end - 300, (size_t)data_end);
    check_flips(&file, (size_t)plan.header.table_offset, file.size);
    assert_int_equal(read_image(&file, &out), KM_OK);
}

static void lines_cannot_change_places(void **state)
{
    uint8_t lines[64];

    (void)state;
    random_fill(lines, sizeof(lines));
    assert_int_equal(km__image_lines_sum(lines, 64, 3), km__image_lines_sum(lines, 64, 3));
    assert_int_not_equal(km__image_lines_sum(lines, 64, 3), km__image_lines_sum(lines, 64, 4));
    assert_int_not_equal(km__image_lines_sum(lines, 64, 3),
                         km__image_lines_sum(lines, 64, UINT64_C(3) << 32));
}

static void structures_do_not_pass_for_others(void **state)
{
    struct catalogue_header maps = some_catalogue_header();
    static struct image_plan plan;
    static struct file file;
    struct image_header image;
    struct marks marks;

    (void)state;
    make_maps(&file, &maps, NULL, 0);
    assert_int_equal(km__image_header_decode(file.bytes, &image), KM_E_CORRUPT);
    assert_int_equal(km__marks_decode(file.bytes, &marks), KM_E_CORRUPT);
    plan_image(&plan);
    write_image(&file, &plan);
    assert_int_equal(km__catalogue_header_decode(file.bytes, &maps), KM_E_CORRUPT);
    assert_int_equal(km__marks_decode(file.bytes, &marks), KM_E_CORRUPT);
}

static void newer_formats_are_told_apart_from_damage(void **state)
{
    struct catalogue_header maps = some_catalogue_header();
    static struct image_plan plan;
    static struct file files[2];
    struct image_header image;

    (void)state;
    make_maps(&files[0], &maps, NULL, 0);
    plan_image(&plan);
    write_image(&files[1], &plan);
    for (int i = 0; i < 2; i++) {
        static const struct {
            uint32_t version, incompatible, compatible, unused;
            km_status status;
        } cases[] = {
            {1, 0, 0, 0, KM_OK},        {0, 0, 0, 0, KM_E_CORRUPT}, {2, 0, 0, 0, KM_E_VERSION},
            {1, 8, 0, 0, KM_E_VERSION}, {1, 0, 0, 1, KM_E_CORRUPT}, {1, 0, 2, 1, KM_OK},
        };

        for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
            uint8_t *bytes = files[i].bytes;

            km__store32(bytes + 8, cases[k].version);
            km__store32(bytes + 12, cases[k].incompatible);
            km__store32(bytes + 16, cases[k].compatible);
            km__store32(bytes + (i ? 128 : 68), cases[k].unused); /* what no field takes */
            seal_header(bytes);
            assert_int_equal(i ? read_image(&files[i], &image) : read_maps(&files[i], &maps),
                             cases[k].status);
        }
    }
}

/* Whatever else their headers say. */
static void other_layouts_keep_their_durable_position(void **state)
{
    static struct image_plan plan;
    static struct file file;
    struct image_header out;

    (void)state;
    plan_image(&plan);
    plan.header.layout_version = 3;
    write_image(&file, &plan);
    for (size_t at = 72; at < 128; at += at == 104 ? 8 : 4) /* all but what is reserved */
        km__store32(file.bytes + at, UINT32_MAX);
    seal_header(file.bytes);
    assert_int_equal(km__image_header_decode(file.bytes, &out), KM_OK);
    assert_int_equal(km__image_table_check(&out, file.bytes + plan.header.table_offset),
                     KM_E_VERSION);
    assert_true(out.durable == plan.header.durable);
}

/* ---- tables that are sound in their parts only ------------------------------------------- */

/* Change one thing of a sound plan of an image, write it, and say what a reader makes of it. */
static km_status read_changed(struct image_plan *plan, void (*change)(struct image_plan *plan))
{
    static struct file file;
    static struct image_plan changed;
    struct image_header out;

    changed = *plan;
    if (change)
        change(&changed);
    write_image(&file, &changed);
    return read_image(&file, &out);
}

static void drop_a_map(struct image_plan *plan)
{
    plan->maps[2].dropped = plan->maps[2].created + 8;
}

static void create_a_map_late(struct image_plan *plan)
{
    plan->maps[2].created = plan->header.position;
}

static void give_out_an_id(struct image_plan *plan)
{
    plan->maps[2].id = (uint16_t)plan->header.next_map_id;
}

static void count_a_node_too_many(struct image_plan *plan)
{
    plan->counts[2].node_count++;
}

static void count_a_node_too_few(struct image_plan *plan)
{
    plan->counts[2].node_count--;
}

static void leave_out_the_last_node(struct image_plan *plan)
{
    plan->header.node_count--;
    plan->counts[2].node_count--;
}

static void leave_out_the_first_node(struct image_plan *plan)
{
    memmove(&plan->nodes[0], &plan->nodes[1], sizeof(plan->nodes) - sizeof(plan->nodes[0]));
    plan->header.node_count--;
    plan->counts[0].node_count--;
}

static void make_a_gap(struct image_plan *plan)
{
    plan->nodes[0].depth++; /* what is behind it begins too late */
}

static void swap_two_nodes(struct image_plan *plan)
{
    struct image_node node = plan->nodes[0];

    plan->nodes[0] = plan->nodes[1];
    plan->nodes[1] = node;
}

static void repeat_a_partition(struct image_plan *plan)
{
    for (size_t i = 0; i < plan->counts[0].node_count; i++)
        plan->nodes[i].partition = 3;
}

static void change_partition_amid(struct image_plan *plan)
{
    plan->nodes[1].partition = 1;
}

static void count_an_order_chunk_too_many(struct image_plan *plan)
{
    plan->counts[0].order_chunk_count++;
}

static void count_a_leaf_chunk_too_few(struct image_plan *plan)
{
    plan->counts[1].leaf_chunk_count--;
}

static void let_orders_overlap(struct image_plan *plan)
{
    plan->orders[2].first_ordinal = plan->orders[1].first_ordinal;
}

static void give_out_an_ordinal(struct image_plan *plan)
{
    plan->counts[0].next_ordinal = plan->orders[3].first_ordinal + plan->orders[3].slot_count - 1;
}

static void give_a_hash_an_order(struct image_plan *plan)
{
    plan->maps[0].kind = KM_HASH;
}

static void give_a_hash_an_ordinal(struct image_plan *plan)
{
    plan->counts[2].next_ordinal = 1;
}

static void give_a_hash_leaves(struct image_plan *plan)
{
    plan->maps[1].kind = KM_HASH;
}

static void give_a_hash_a_weight(struct image_plan *plan)
{
    plan->counts[2].weight = 8;
}

static void give_an_order_leaves(struct image_plan *plan)
{
    plan->maps[1].kind = KM_INSERTION;
}

static void give_a_tree_nodes(struct image_plan *plan)
{
    plan->maps[2].kind = KM_SORTED;
}

static void give_a_tree_an_order(struct image_plan *plan)
{
    plan->counts[0].order_chunk_count--;
    plan->counts[0].next_ordinal = UINT64_C(1) << 40;
    plan->counts[1].order_chunk_count++;
    plan->counts[1].next_ordinal = UINT64_C(1) << 40;
}

static void image_tables_are_sound_as_a_whole(void **state)
{
    static void (*const changes[])(struct image_plan *) = {
        drop_a_map,
        create_a_map_late,
        give_out_an_id,
        count_a_node_too_many,
        count_a_node_too_few,
        leave_out_the_last_node,
        leave_out_the_first_node,
        make_a_gap,
        swap_two_nodes,
        repeat_a_partition,
        change_partition_amid,
        count_an_order_chunk_too_many,
        count_a_leaf_chunk_too_few,
        let_orders_overlap,
        give_out_an_ordinal,
        give_a_hash_an_order,
        give_a_hash_an_ordinal,
        give_a_hash_leaves,
        give_a_hash_a_weight,
        give_an_order_leaves,
        give_a_tree_nodes,
        give_a_tree_an_order,
    };
    static struct image_plan plan;

    (void)state;
    do { /* so that each of the changes below is one; ends: each turn has a chance of 9 in 16 */
        plan_image(&plan);
    } while (plan.nodes[0].depth == 0 || plan.nodes[plan.header.node_count - 1].depth == 0);
    assert_int_equal(read_changed(&plan, NULL), KM_OK);
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        if (read_changed(&plan, changes[i]) != KM_E_CORRUPT)
            fail_msg("change %zu", i);
    }
}

static void nodes_belong_to_maps(void **state)
{
    static struct image_plan plan;

    (void)state;
    plan_image(&plan);
    plan.header.map_count = 1;
    plan.header.node_count = 2;
    plan.header.order_chunk_count = 0;
    plan.header.leaf_chunk_count = 0;
    memset(plan.counts, 0, sizeof(plan.counts));
    memset(plan.nodes, 0, sizeof(plan.nodes));
    plan.nodes[1].partition = 1;
    plan.counts[0].node_count = 2;
    assert_int_equal(read_changed(&plan, NULL), KM_OK);
    plan.counts[0].node_count = 1; /* the other is nobody's */
    assert_int_equal(read_changed(&plan, NULL), KM_E_CORRUPT);
}

static void the_table_lies_where_the_data_end(void **state)
{
    static struct image_plan plan;
    static struct file file;
    struct image_header out;

    (void)state;
    plan_image(&plan);
    write_image(&file, &plan);
    memmove(file.bytes + plan.header.table_offset + 4096, file.bytes + plan.header.table_offset,
            plan.header.table_size);
    plan.header.table_offset += 4096;
    file.size += 4096;
    finish_image(&file, &plan.header);
    assert_int_equal(read_image(&file, &out), KM_E_CORRUPT);
}

static void encode_what_no_decoder_takes(int what)
{
    static uint8_t bytes[IMAGE_LEAF_SIZE_MAX];
    struct image_header image = {.layout_version = 2};
    struct catalogue_header maps = {.position = 0};
    struct catalogue_entry entry = {.kind = 1, .created = AT(1, 4096)};
    struct image_node node = {.partition = 48};
    struct image_counts counts = {.has_expiry = 2};
    struct image_order_chunk order = {.slot_count = 0};
    struct image_leaf_chunk leaves = {.size = 12, .leaf_count = 1};
    struct image_leaf leaf = {.count = 1};

    switch (what) {
    case 0: km__catalogue_header_encode(&maps, bytes); break;
    case 1: km__image_header_encode(&image, bytes); break;
    case 2: (void)km__catalogue_entry_encode(&entry, bytes); break;
    case 3: km__image_node_encode(&node, bytes); break;
    case 4: km__image_counts_encode(&counts, bytes); break;
    case 5: km__image_order_chunk_encode(&order, bytes); break;
    case 6: km__image_leaf_chunk_encode(&leaves, bytes); break;
    default: (void)km__image_leaf_encode(&leaf, bytes); break;
    }
}

static void what_no_decoder_takes_is_never_written(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        int status = 0;
        pid_t child = fork();

        assert_true(child >= 0);
        if (child == 0) {
            signal(SIGABRT, SIG_DFL);
            fclose(stderr);
            encode_what_no_decoder_takes(i);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

/* ---- the bytes of the law ---------------------------------------------------------------- */

/* The slot of `apple`: the hash, the tag and the reference are those of the library. */
static uint64_t example_slot(const struct hash_secret *secret, uint64_t position,
                             struct image_node *out_node)
{
    uint64_t hash = km__hash_key(secret, "apple", 5);

    *out_node = (struct image_node){.weight = 24, .count = 1, .tag_bits = 16};
    out_node->partition = (uint8_t)km__hash_partition(hash);
    return km__hash_tag(km__hash_own_bits(hash), 0, 16) | km__log_ref(position);
}

static void plan_example(struct image_plan *plan, const struct hash_secret *secret)
{
    struct image_header *header = &plan->header;

    *header = (struct image_header){.layout_version = 2,
                                    .head_number = 32,
                                    .position = AT(0x2a, 0x1050),
                                    .durable = AT(0x2a, 0x1050),
                                    .hash_sample = km__image_hash_sample(secret),
                                    .next_map_id = 5,
                                    .map_count = 3,
                                    .node_count = 2,
                                    .order_chunk_count = 1,
                                    .leaf_chunk_count = 1};
    count_up(header->store_id, STORE_ID_SIZE, 0);
    plan->maps[0] = (struct catalogue_entry){
        0, KM_HASH, 5, AT(1, 0x1000), 0, (const uint8_t *)"fruit"};
    plan->maps[1] = (struct catalogue_entry){
        3, KM_INSERTION, 5, AT(0x29, 0x2000), 0, (const uint8_t *)"queue"};
    plan->maps[2] = (struct catalogue_entry){
        4, KM_SORTED, 4, AT(0x29, 0x2020), 0, (const uint8_t *)"list"};
    plan->counts[0].node_count = 1;
    plan->counts[1] = (struct image_counts){
        .node_count = 1, .order_chunk_count = 1, .next_ordinal = 9};
    plan->counts[2] = (struct image_counts){.leaf_chunk_count = 1, .weight = 24, .has_expiry = 0};
    plan->orders[0] = (struct image_order_chunk){.first_ordinal = 7, .slot_count = 1};
}

/* The data of the example, where random ones were. */
static uint64_t put_example_data(struct image_plan *plan, const struct hash_secret *secret,
                                 uint8_t *data)
{
    struct image_leaf leaf = {.heads = {UINT64_C(0x6170706c65000000)},
                              .refs = {km__log_ref(AT(0x2a, 0x1038))},
                              .count = 1};

    memset(data, 0, 4096);
    km__store64(data, example_slot(secret, AT(0x2a, 0x1000), &plan->nodes[0]));
    assert_true(km__load64(data) == UINT64_C(0x033ed00540000200));
    plan->nodes[0].checksum = km__image_lines_sum(data, 64, 0);
    km__store64(data + 64, example_slot(secret, AT(0x2a, 0x1018), &plan->nodes[1]));
    plan->nodes[1].weight = 32;
    plan->nodes[1].checksum = km__image_lines_sum(data + 64, 64, 1);
    km__store64(data + 128, km__log_ref(AT(0x2a, 0x1018)));
    plan->orders[0].checksum = km__image_chunk_sum(data + 128, 8, 2);
    plan->leaves[0].leaf_count = 1;
    plan->leaves[0].size = (uint32_t)km__image_leaf_encode(&leaf, data + 136);
    plan->leaves[0].checksum = km__image_chunk_sum(data + 136, plan->leaves[0].size, 3);
    return 136 + plan->leaves[0].size;
}

static void the_example_of_an_image_holds(void **state)
{
    static struct image_plan plan;
    static struct file file, expected;
    uint8_t seed[KM__HASH_SEED_SIZE];
    struct hash_secret secret;

    (void)state;
    count_up(seed, sizeof(seed), 0x80);
    km__hash_secret_init(&secret, seed);
    plan_example(&plan, &secret);
    assert_int_equal(put_example_data(&plan, &secret, file.bytes + IMAGE_HEADER_SIZE), 160);
    plan.header.table_offset = 8192;
    file.size = (size_t)(write_table(&plan, file.bytes + 8192) - file.bytes);
    finish_image(&file, &plan.header);
    read_block(FORMAT_MD, "image", &expected);
    assert_int_equal(file.size, expected.size);
    assert_memory_equal(file.bytes, expected.bytes, file.size);
    assert_int_equal(read_image(&expected, &plan.header), KM_OK);
}

/* Of the layout before ours nothing but the positions is of use. */
static void images_of_layout_1_keep_their_positions(void **state)
{
    struct image_header header;
    static struct file file;

    (void)state;
    read_block(GOLDEN, "image", &file);
    assert_int_equal(read_image(&file, &header), KM_E_VERSION);
    for (int i = 0; i < 16; i++)
        assert_int_equal(header.store_id[i], (uint8_t)(i * 37 + 11));
    assert_int_equal(header.layout_version, 1);
    assert_int_equal(header.head_number, 0x12345);
    assert_true(header.position == AT(0x16000, 4104));
    assert_true(header.durable == AT(0x16344, 0x80100000u));
}

static void check_golden_chunks(const struct file *file, const struct image_header *header)
{
    const uint8_t *table = file->bytes + header->table_offset;
    struct image_order_chunk order;
    struct image_leaf_chunk leaves;
    struct image_counts counts;
    struct image_table parts;
    struct image_leaf leaf;
    size_t size;

    assert_int_equal(km__image_table_locate(header, &parts), KM_OK);
    assert_int_equal(km__image_counts_decode(table + parts.counts_offset + 48, &counts), KM_OK);
    assert_int_equal(counts.order_chunk_count, 2);
    assert_true(counts.next_ordinal == UINT64_C(1) << 63);
    assert_int_equal(counts.has_expiry, 1);
    assert_int_equal(km__image_order_chunk_decode(table + parts.orders_offset + 16, &order), KM_OK);
    assert_true(order.first_ordinal == (UINT64_C(1) << 63) - 2);
    assert_int_equal(order.slot_count, 2);
    assert_int_equal(km__image_counts_decode(table + parts.counts_offset + 96, &counts), KM_OK);
    assert_true(counts.weight == UINT64_C(0x123456789a));
    assert_int_equal(km__image_leaf_chunk_decode(table + parts.leaves_offset, &leaves), KM_OK);
    assert_int_equal(leaves.leaf_count, 2);
    /* behind three nodes of 1, 2 and 1 lines, and order chunks of 3 and 2 ordinals */
    assert_int_equal(
        km__image_leaf_decode(file->bytes + 4096 + 256 + 40, leaves.size, &leaf, &size), KM_OK);
    assert_int_equal(leaf.count, 2);
    assert_int_equal(leaf.fence_size, 0);
    assert_true(leaf.heads[1] == UINT64_C(0x6100000000000000));
    assert_int_equal(km__image_leaf_decode(file->bytes + 4096 + 256 + 40 + size, leaves.size - size,
                                           &leaf, &size),
                     KM_OK);
    assert_int_equal(leaf.skip, 2);
    assert_memory_equal(leaf.fence, "abc", 3);
    assert_true(leaf.refs[0] == (UINT64_C(1) << 43) - 1);
}

/* Written by another implementation. */
static void images_of_layout_2_are_read(void **state)
{
    struct image_header header;
    struct image_node node;
    static struct file file;

    (void)state;
    read_block(GOLDEN, "image-2", &file);
    assert_int_equal(read_image(&file, &header), KM_OK);
    assert_int_equal(header.head_number, 0x12345);
    assert_true(header.durable == AT(0x16344, 0x80100000u));
    assert_int_equal(header.next_map_id, 10);
    assert_int_equal(header.map_count, 3);
    assert_int_equal(header.node_count, 3);
    assert_int_equal(header.order_chunk_count, 2);
    assert_int_equal(header.leaf_chunk_count, 2);
    assert_int_equal(
        km__image_node_decode(image_nodes(&file, &header) + 2 * IMAGE_NODE_SIZE, &node), KM_OK);
    assert_true(node.prefix == UINT64_C(1) << 63);
    assert_true(node.weight == (uint64_t)-40);
    assert_int_equal(node.line_bits, 1);
    check_golden_chunks(&file, &header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images_keep_every_field),
        cmocka_unit_test(an_empty_image_is_read),
        cmocka_unit_test(any_flipped_bit_of_an_image_is_damage),
        cmocka_unit_test(lines_cannot_change_places),
        cmocka_unit_test(structures_do_not_pass_for_others),
        cmocka_unit_test(newer_formats_are_told_apart_from_damage),
        cmocka_unit_test(other_layouts_keep_their_durable_position),
        cmocka_unit_test(image_tables_are_sound_as_a_whole),
        cmocka_unit_test(nodes_belong_to_maps),
        cmocka_unit_test(the_table_lies_where_the_data_end),
        cmocka_unit_test(what_no_decoder_takes_is_never_written),
        cmocka_unit_test(the_example_of_an_image_holds),
        cmocka_unit_test(images_of_layout_1_keep_their_positions),
        cmocka_unit_test(images_of_layout_2_are_read),
    };

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
