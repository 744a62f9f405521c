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

#include "format/image.h"
#include "index/hash_index.h"
#include "log/log.h"
#include "unit/image_format_util.h"

_Static_assert(IMAGE_SEGMENT_COUNT_MAX == LOG_SLOT_COUNT, "segments that references tell apart");
_Static_assert(IMAGE_PARTITION_COUNT == HASH_PARTITION_COUNT, "partitions");
_Static_assert(IMAGE_LINE_SLOTS == HASH_LINE_SLOTS, "slots of a line");
_Static_assert(1u << IMAGE_LINE_BITS_MAX == HASH_NODE_LINES_MAX, "lines of a node");
_Static_assert(IMAGE_TAG_BITS_MAX == HASH_TAG_BITS, "bits of a tag");

static void put64(uint8_t **inout_at, uint64_t value)
{
    km__store64(*inout_at, value);
    *inout_at += 8;
}

/* ---- a reader, as a store would be -------------------------------------------------------- */

static const uint8_t *image_nodes(const struct file *file, const struct image_header *header)
{
    struct image_table parts;

    assert_int_equal(km__image_table_locate(header, &parts), KM_OK);
    return file->bytes + header->table_offset + parts.nodes_offset;
}

static km_status read_lines(const struct file *file, const struct image_header *header)
{
    const uint8_t *lines = file->bytes + IMAGE_HEADER_SIZE;

    for (uint64_t i = 0; i < header->node_count; i++) {
        struct image_node node;

        assert_int_equal(
            km__image_node_decode(image_nodes(file, header) + i * IMAGE_NODE_SIZE, &node), KM_OK);
        if (km__image_lines_sum(lines, km__image_lines_size(&node), i) != node.checksum)
            return KM_E_CORRUPT;
        lines += km__image_lines_size(&node);
    }
    return KM_OK;
}

/* The whole of an image, but for the fill between lines and table, which nobody looks at. */
static km_status read_image(const struct file *file, struct image_header *out)
{
    km_status rc = km__image_header_decode(file->bytes, out);
    uint8_t *table;

    if (rc)
        return rc;
    if (file->size != km__image_file_size(out))
        return KM_E_CORRUPT;
    table = copy_bytes(file->bytes + out->table_offset, out->table_size);
    rc = km__image_table_check(out, table);
    free(table);
    return rc ? rc : read_lines(file, out);
}

/* ---- writers ----------------------------------------------------------------------------- */

/* An image with its maps and nodes, not yet in bytes. */
struct image_plan {
    struct image_header header;
    struct catalogue_entry maps[8];
    uint64_t node_counts[8];
    struct image_node nodes[64];
};

/* Nodes that tile a partition: split some of them, then lay them out. */
static size_t plan_partition(struct image_node *nodes, uint8_t partition)
{
    uint64_t prefix = 0;
    size_t count = 0;

    do {
        struct image_node *node = &nodes[count++];
        uint32_t depth = count > 6 ? 0 : (uint32_t)random_below(4);

        while (depth < 64 && (prefix << depth) != 0)
            depth++; /* as deep as where it begins wants it */
        node->prefix = prefix;
        node->depth = (uint8_t)depth;
        node->partition = partition;
        node->line_bits = (uint8_t)random_below(3);
        node->tag_bits = (uint8_t)random_below(17);
        node->weight = random_u64();
        node->count = (uint32_t)random_below((8u << node->line_bits) + 1);
        node->flagged_count = (uint32_t)random_below((1u << node->line_bits) + 1);
        prefix += depth ? UINT64_C(1) << (64 - depth) : 0;
    } while (prefix != 0);
    return count;
}

static void plan_image(struct image_plan *plan)
{
    struct image_header *header = &plan->header;

    memset(plan, 0, sizeof(*plan));
    random_fill(header->store_id, STORE_ID_SIZE);
    header->layout_version = IMAGE_LAYOUT_VERSION;
    header->head_number = 90;
    header->position = AT(100, 4104);
    header->durable = AT(101, 4096);
    header->hash_sample = random_u64();
    header->next_map_id = 60;
    header->map_count = 3;
    for (uint32_t i = 0; i < 3; i++) {
        plan->maps[i] = make_entry((uint16_t)(i * 20 + random_below(20)), 0);
        for (uint8_t partition = 0; i != 1 && partition < 48; partition += 17) {
            size_t count = plan_partition(&plan->nodes[header->node_count], partition);

            plan->node_counts[i] += count;
            header->node_count += count;
        }
    }
}

static void finish_image(struct file *file, struct image_header *header)
{
    const uint8_t *table = file->bytes + header->table_offset;

    header->table_size = file->size - header->table_offset;
    header->table_checksum = km__crc32c(0, table, header->table_size);
    km__image_header_encode(header, file->bytes);
}

static void write_image(struct file *file, struct image_plan *plan)
{
    uint8_t *at = file->bytes + IMAGE_HEADER_SIZE;

    memset(file, 0, sizeof(*file));
    for (uint64_t i = 0; i < plan->header.node_count; i++) {
        uint64_t size = km__image_lines_size(&plan->nodes[i]);

        random_fill(at, size);
        plan->nodes[i].checksum = km__image_lines_sum(at, size, i);
        at += size;
    }
    plan->header.table_offset = km__round_up((uint64_t)(at - file->bytes), 4096);
    at = file->bytes + plan->header.table_offset;
    for (uint32_t i = 0; i < plan->header.map_count; i++)
        at += km__catalogue_entry_encode(&plan->maps[i], at);
    for (uint32_t i = 0; i < plan->header.map_count; i++)
        put64(&at, plan->node_counts[i]);
    for (uint64_t i = 0; i < plan->header.node_count; i++, at += IMAGE_NODE_SIZE)
        km__image_node_encode(&plan->nodes[i], at);
    file->size = (size_t)(at - file->bytes);
    finish_image(file, &plan->header);
}

/* ---- what is written is read ------------------------------------------------------------- */

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
        assert_int_equal(out.layout_version, 1);
        assert_int_equal(out.head_number, 90);
        assert_true(out.position == plan.header.position);
        assert_true(out.durable == plan.header.durable);
        assert_true(out.hash_sample == plan.header.hash_sample);
        assert_int_equal(out.next_map_id, 60);
        assert_int_equal(out.map_count, 3);
        assert_true(out.node_count == plan.header.node_count);
        for (uint64_t i = 0; i < out.node_count; i++) {
            struct image_node node;

            memset(&node, 0, sizeof(node)); /* has no padding, but who knows */
            assert_int_equal(
                km__image_node_decode(image_nodes(&file, &out) + i * IMAGE_NODE_SIZE, &node),
                KM_OK);
            assert_memory_equal(&node, &plan.nodes[i], sizeof(node));
        }
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
    uint64_t lines_end = IMAGE_HEADER_SIZE;

    (void)state;
    plan_image(&plan);
    write_image(&file, &plan);
    for (uint64_t i = 0; i < plan.header.node_count; i++)
        lines_end += km__image_lines_size(&plan.nodes[i]);
    check_flips(&file, 0, 256);
    check_flips(&file, 4000, IMAGE_HEADER_SIZE + 64);
    check_flips(&file, (size_t)lines_end - 64, (size_t)lines_end);
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
            km__store32(bytes + (i ? 108 : 68), cases[k].unused); /* what no field takes */
            seal_header(bytes);
            assert_int_equal(i ? read_image(&files[i], &image) : read_maps(&files[i], &maps),
                             cases[k].status);
        }
    }
}

static void other_layouts_keep_their_durable_position(void **state)
{
    static struct image_plan plan;
    static struct file file;
    struct image_header out;

    (void)state;
    plan_image(&plan);
    plan.header.layout_version = 2;
    write_image(&file, &plan);
    assert_int_equal(read_image(&file, &out), KM_E_VERSION);
    assert_true(out.durable == plan.header.durable);
}

/* ---- limits ------------------------------------------------------------------------------ */

static void image_headers_have_limits(void **state)
{
    struct image_header base = {.layout_version = 1,
                                .head_number = 5,
                                .position = AT(9, 4096),
                                .durable = AT(10, 4096),
                                .next_map_id = 2,
                                .map_count = 1,
                                .node_count = 2,
                                .table_offset = 8192,
                                .table_size = 32 + 8 + 64};
    static const struct field_case cases[] = {
        {40, 4, 0, KM_E_CORRUPT},
        {40, 4, 2, KM_OK},
        {40, 4, UINT32_MAX, KM_OK},
        {44, 4, 0, KM_E_CORRUPT},
        {44, 4, 1, KM_OK},
        {44, 4, 9, KM_OK},
        {44, 4, 10, KM_E_CORRUPT},
        {44, 4, UINT32_MAX, KM_E_CORRUPT},
        {48, 8, 0, KM_E_CORRUPT},
        {48, 8, AT(4, 4096), KM_E_CORRUPT}, /* below the head */
        {48, 8, AT(5, 4096), KM_OK},
        {48, 8, AT(9, 4100), KM_E_CORRUPT},
        {48, 8, AT(10, 4104), KM_E_CORRUPT}, /* above durable */
        {56, 8, 0, KM_E_CORRUPT},
        {56, 8, AT(9, 4096), KM_OK},
        {56, 8, AT(8, 4096), KM_E_CORRUPT},
        {56, 8, AT(10, 4100), KM_E_CORRUPT},
        {56, 8, AT(5 + 16383, 4096), KM_OK},
        {56, 8, AT(5 + 16384, 4096), KM_E_CORRUPT}, /* references would be of two meanings */
        {56, 8, UINT64_MAX, KM_E_CORRUPT},
        {64, 8, UINT64_MAX, KM_OK},
        {72, 4, 0, KM_E_CORRUPT},
        {72, 4, 65535, KM_OK},
        {72, 4, 65536, KM_E_CORRUPT},
        {76, 4, 0, KM_E_CORRUPT},
        {76, 4, 2, KM_E_CORRUPT}, /* the table is too small for two */
        {76, 4, UINT32_MAX, KM_E_CORRUPT},
        {80, 8, 3, KM_E_CORRUPT}, /* of nodes, the same */
        {80, 8, 1, KM_OK},        /* a longer name */
        {80, 8, UINT64_C(1) << 32, KM_E_CORRUPT},
        {80, 8, (UINT64_C(1) << 32) + 1, KM_E_CORRUPT},
        {80, 8, UINT64_C(1) << 59, KM_E_CORRUPT}, /* times 32 it is 0 */
        {80, 8, UINT64_MAX, KM_E_CORRUPT},
        {88, 8, 4096, KM_E_CORRUPT}, /* no room for the lines */
        {88, 8, 8200, KM_E_CORRUPT},
        {88, 8, UINT64_C(1) << 48, KM_OK},
        {88, 8, (UINT64_C(1) << 48) + 4096, KM_E_CORRUPT},
        {88, 8, UINT64_MAX - 4095, KM_E_CORRUPT},
        {96, 8, 0, KM_E_CORRUPT},
        {96, 8, 96, KM_E_CORRUPT},
        {96, 8, 108, KM_E_CORRUPT},
        {96, 8, 280 + 8 + 64, KM_OK},
        {96, 8, 288 + 8 + 64, KM_E_CORRUPT},
        {96, 8, UINT64_MAX - 7, KM_E_CORRUPT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct image_header out;
        uint8_t bytes[HEADER];

        km__image_header_encode(&base, bytes);
        store_field(bytes, &cases[i]);
        seal_header(bytes);
        if (km__image_header_decode(bytes, &out) != cases[i].status)
            fail_msg("case %zu", i);
    }
}

/* Where one field alone would not do. */
static void image_parts_fit_the_table(void **state)
{
    struct image_header header = {.table_offset = 8192, .map_count = 1, .table_size = 40}, out;
    struct image_table parts;
    uint8_t bytes[HEADER];

    (void)state;
    assert_int_equal(km__image_table_locate(&header, &parts), KM_OK);
    assert_int_equal(parts.maps_size, 32);
    assert_int_equal(parts.counts_offset, 32);
    assert_int_equal(parts.nodes_offset, 40);
    header.node_count = UINT64_C(1) << 59; /* times 32, and times 64, it is 0 */
    assert_int_equal(km__image_table_locate(&header, &parts), KM_E_CORRUPT);
    header.node_count = 0;
    header.map_count = UINT32_MAX;
    assert_int_equal(km__image_table_locate(&header, &parts), KM_E_CORRUPT);
    header = (struct image_header){.layout_version = 1,
                                   .head_number = 1,
                                   .position = AT(1, 4096),
                                   .durable = AT(1, 4096),
                                   .table_offset = 8192};
    km__image_header_encode(&header, bytes);
    assert_int_equal(km__image_header_decode(bytes, &out), KM_OK);
    km__store64(bytes + 80, 2); /* nodes of no map */
    km__store64(bytes + 96, 64);
    seal_header(bytes);
    assert_int_equal(km__image_header_decode(bytes, &out), KM_E_CORRUPT);
}

static void nodes_have_limits(void **state)
{
    struct image_node base = {
        .prefix = UINT64_C(5) << 61, .depth = 3, .line_bits = 2, .count = 32, .flagged_count = 4};
    static const struct field_case cases[] = {
        {0, 8, 0, KM_OK},
        {0, 8, UINT64_C(7) << 61, KM_OK},
        {0, 8, UINT64_C(1) << 60, KM_E_CORRUPT},
        {0, 8, 1, KM_E_CORRUPT},
        {8, 8, UINT64_MAX, KM_OK},
        {16, 4, 33, KM_E_CORRUPT},
        {16, 4, UINT32_MAX, KM_E_CORRUPT},
        {20, 4, 5, KM_E_CORRUPT},
        {20, 4, UINT32_MAX, KM_E_CORRUPT},
        {28, 1, 47, KM_OK},
        {28, 1, 48, KM_E_CORRUPT},
        {28, 1, 255, KM_E_CORRUPT},
        {29, 1, 2, KM_E_CORRUPT}, /* the prefix has 3 bits */
        {29, 1, 28, KM_OK},
        {29, 1, 29, KM_E_CORRUPT},
        {29, 1, 67, KM_E_CORRUPT},
        {30, 1, 1, KM_E_CORRUPT}, /* too small for its counts */
        {30, 1, 9, KM_OK},
        {30, 1, 10, KM_E_CORRUPT},
        {30, 1, 34, KM_E_CORRUPT},
        {31, 1, 16, KM_OK},
        {31, 1, 17, KM_E_CORRUPT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct image_node out;
        uint8_t bytes[IMAGE_NODE_SIZE];

        km__image_node_encode(&base, bytes);
        store_field(bytes, &cases[i]);
        if (km__image_node_decode(bytes, &out) != cases[i].status)
            fail_msg("case %zu", i);
    }
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
    plan->node_counts[2]++;
}

static void count_a_node_too_few(struct image_plan *plan)
{
    plan->node_counts[2]--;
}

static void count_nodes_round_the_corner(struct image_plan *plan)
{
    plan->node_counts[0] += UINT64_C(1) << 59; /* times 32 nothing is added */
}

static void leave_out_the_last_node(struct image_plan *plan)
{
    plan->header.node_count--;
    plan->node_counts[2]--;
}

static void leave_out_the_first_node(struct image_plan *plan)
{
    memmove(&plan->nodes[0], &plan->nodes[1], sizeof(plan->nodes) - sizeof(plan->nodes[0]));
    plan->header.node_count--;
    plan->node_counts[0]--;
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
    for (size_t i = 0; i < plan->node_counts[0]; i++)
        plan->nodes[i].partition = 3;
}

static void change_partition_amid(struct image_plan *plan)
{
    plan->nodes[1].partition = 1;
}

static void image_tables_are_sound_as_a_whole(void **state)
{
    static void (*const changes[])(struct image_plan *) = {
        drop_a_map,
        create_a_map_late,
        give_out_an_id,
        count_a_node_too_many,
        count_a_node_too_few,
        count_nodes_round_the_corner,
        leave_out_the_last_node,
        leave_out_the_first_node,
        make_a_gap,
        swap_two_nodes,
        repeat_a_partition,
        change_partition_amid,
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
    memset(plan.nodes, 0, sizeof(plan.nodes));
    plan.nodes[1].partition = 1;
    plan.node_counts[0] = 2;
    assert_int_equal(read_changed(&plan, NULL), KM_OK);
    plan.node_counts[0] = 1; /* the other is nobody's */
    assert_int_equal(read_changed(&plan, NULL), KM_E_CORRUPT);
}

static void the_table_lies_where_the_lines_end(void **state)
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

static void what_no_decoder_takes_is_never_written(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct catalogue_header maps = {.position = 0};
        struct image_header image = {.layout_version = 1};
        struct catalogue_entry entry = {.kind = 1, .created = AT(1, 4096)};
        struct image_node node = {.partition = 48};
        uint8_t bytes[HEADER];
        int status = 0;
        pid_t child = fork();

        assert_true(child >= 0);
        if (child == 0) {
            signal(SIGABRT, SIG_DFL);
            fclose(stderr);
            if (i == 0)
                km__catalogue_header_encode(&maps, bytes);
            else if (i == 1)
                km__image_header_encode(&image, bytes);
            else if (i == 2)
                (void)km__catalogue_entry_encode(&entry, bytes);
            else
                km__image_node_encode(&node, bytes);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

/* ---- the bytes of the law ---------------------------------------------------------------- */

/* The one slot of the example: the hash, the tag and the reference are those of the library. */
static uint64_t example_slot(const struct hash_secret *secret, struct image_node *out_node)
{
    uint64_t hash = km__hash_key(secret, "apple", 5);

    *out_node = (struct image_node){.weight = 24, .count = 1, .tag_bits = 16};
    out_node->partition = (uint8_t)km__hash_partition(hash);
    return km__hash_tag(km__hash_own_bits(hash), 0, 16) | km__log_ref(AT(0x2a, 0x1000));
}

static void the_example_of_an_image_holds(void **state)
{
    static struct image_plan plan;
    static struct file file, expected;
    struct image_header *header = &plan.header;
    uint8_t seed[KM__HASH_SEED_SIZE];
    struct hash_secret secret;
    uint8_t *node;
    uint64_t slot;

    (void)state;
    count_up(seed, sizeof(seed), 0x80);
    km__hash_secret_init(&secret, seed);
    *header = (struct image_header){.layout_version = 1,
                                    .head_number = 32,
                                    .position = AT(0x2a, 0x1018),
                                    .durable = AT(0x2a, 0x1018),
                                    .hash_sample = km__image_hash_sample(&secret),
                                    .next_map_id = 3,
                                    .map_count = 1,
                                    .node_count = 1};
    count_up(header->store_id, STORE_ID_SIZE, 0);
    plan.maps[0] = (struct catalogue_entry){
        0, KM_HASH, 5, AT(1, 0x1000), 0, (const uint8_t *)"fruit"};
    plan.node_counts[0] = 1;
    slot = example_slot(&secret, &plan.nodes[0]);
    assert_true(slot == UINT64_C(0x033ed00540000200));
    write_image(&file, &plan); /* with random lines: put the right one in their place */
    memset(file.bytes + IMAGE_HEADER_SIZE, 0, 64);
    km__store64(file.bytes + IMAGE_HEADER_SIZE, slot);
    plan.nodes[0].checksum = km__image_lines_sum(file.bytes + IMAGE_HEADER_SIZE, 64, 0);
    node = file.bytes + file.size - IMAGE_NODE_SIZE;
    km__image_node_encode(&plan.nodes[0], node);
    finish_image(&file, header);
    read_block(FORMAT_MD, "image", &expected);
    assert_int_equal(file.size, expected.size);
    assert_memory_equal(file.bytes, expected.bytes, file.size);
    assert_int_equal(read_image(&expected, header), KM_OK);
}

static void images_of_version_1_are_read(void **state)
{
    struct image_header header;
    struct image_node node;
    static struct file file;

    (void)state;
    read_block(GOLDEN, "image", &file);
    assert_int_equal(read_image(&file, &header), KM_OK);
    for (int i = 0; i < 16; i++)
        assert_int_equal(header.store_id[i], (uint8_t)(i * 37 + 11));
    assert_int_equal(header.head_number, 0x12345);
    assert_true(header.position == AT(0x16000, 4104));
    assert_true(header.durable == AT(0x16344, 0x80100000u));
    assert_true(header.hash_sample == UINT64_C(0x0123456789abcdef));
    assert_int_equal(header.next_map_id, 10);
    assert_int_equal(header.map_count, 3);
    assert_int_equal(header.node_count, 4);
    assert_int_equal(km__image_node_decode(image_nodes(&file, &header) + IMAGE_NODE_SIZE, &node),
                     KM_OK);
    assert_true(node.prefix == UINT64_C(1) << 63);
    assert_true(node.weight == (uint64_t)-40);
    assert_int_equal(node.partition, 5);
    assert_int_equal(node.depth, 1);
    assert_int_equal(node.line_bits, 0);
    assert_int_equal(node.tag_bits, 0);
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
        cmocka_unit_test(image_headers_have_limits),
        cmocka_unit_test(image_parts_fit_the_table),
        cmocka_unit_test(nodes_have_limits),
        cmocka_unit_test(image_tables_are_sound_as_a_whole),
        cmocka_unit_test(nodes_belong_to_maps),
        cmocka_unit_test(the_table_lies_where_the_lines_end),
        cmocka_unit_test(what_no_decoder_takes_is_never_written),
        cmocka_unit_test(the_example_of_an_image_holds),
        cmocka_unit_test(images_of_version_1_are_read),
    };

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
