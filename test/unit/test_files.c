/* SPDX-License-Identifier: Apache-2.0
 *
 * test_files.c -- IDENTITY, MARKS, the headers of segments and rings, and names.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "format/files.h"
#include "unit/format_util.h"

#define FORMAT_MD "docs/FORMAT.md"
#define GOLDEN "test/golden/format1.txt"
#define SIZE 4096u

/* ---- the four structures behind one face ------------------------------------------------- */

union any_structure {
    struct identity identity;
    struct marks marks;
    struct segment_header segment;
    struct ring_header ring;
};

static void encode_identity(const union any_structure *in, uint8_t *bytes)
{
    km__identity_encode(&in->identity, bytes);
}

static km_status decode_identity(const uint8_t *bytes, union any_structure *out)
{
    return km__identity_decode(bytes, &out->identity);
}

static void encode_marks(const union any_structure *in, uint8_t *bytes)
{
    km__marks_encode(&in->marks, bytes);
}

static km_status decode_marks(const uint8_t *bytes, union any_structure *out)
{
    return km__marks_decode(bytes, &out->marks);
}

static void encode_segment(const union any_structure *in, uint8_t *bytes)
{
    km__segment_header_encode(&in->segment, bytes);
}

static km_status decode_segment(const uint8_t *bytes, union any_structure *out)
{
    return km__segment_header_decode(bytes, &out->segment);
}

static void encode_ring(const union any_structure *in, uint8_t *bytes)
{
    km__ring_header_encode(&in->ring, bytes);
}

static km_status decode_ring(const uint8_t *bytes, union any_structure *out)
{
    return km__ring_header_decode(bytes, &out->ring);
}

static const struct structure_kind {
    const char *example; /* the block in FORMAT.md and in the golden file */
    const char *magic;
    size_t used_size; /* FORMAT.md: the first byte that no field takes */
    void (*encode)(const union any_structure *in, uint8_t *bytes);
    km_status (*decode)(const uint8_t *bytes, union any_structure *out);
} kinds[] = {
    {"identity", "KMIDENT1", 80, encode_identity, decode_identity},
    {"marks", "KMMARKS1", 92, encode_marks, decode_marks},
    {"segment-header", "KMSEGMT1", 80, encode_segment, decode_segment},
    {"ring-header", "KMRINGS1", 44, encode_ring, decode_ring},
};
#define KIND_COUNT (sizeof(kinds) / sizeof(kinds[0]))

static uint64_t random_position(uint32_t number_min, uint32_t number_max)
{
    uint32_t number = number_min + (uint32_t)random_below((uint64_t)number_max - number_min + 1);

    return km__position(number, 4096 + 8 * random_below((SEGMENT_SIZE_MAX - 4096) / 8 + 1));
}

static void make_marks(struct marks *marks)
{
    random_fill(marks->store_id, sizeof(marks->store_id));
    random_fill(marks->boot_id, sizeof(marks->boot_id));
    marks->sequence = 1 + random_below(UINT64_MAX);
    marks->head = km__position(1 + (uint32_t)random_below(UINT32_MAX), 4096);
    marks->durable = random_below(4) ? random_position(km__position_number(marks->head), UINT32_MAX)
                                     : 0;
    marks->clock_ms = random_u64();
    marks->clean = marks->durable ? (uint32_t)random_below(2) : 0;
}

static void make_segment(struct segment_header *segment)
{
    random_fill(segment->store_id, sizeof(segment->store_id));
    segment->number = 2 + (uint32_t)random_below(UINT32_MAX - 1);
    segment->size = 4096 * (16 + random_below(SEGMENT_SIZE_MAX / 4096 - 15));
    segment->previous_end = random_below(4) ? random_position(1, segment->number - 1) : 0;
    segment->durable = random_below(4) ? random_position(1, segment->number - 1) : 0;
    segment->ring_log2 = random_below(4) ? 16 + (uint32_t)random_below(9) : 0;
    segment->linear_start = random_u64() & ~UINT64_C(7);
}

static void make_any(size_t kind, union any_structure *out)
{
    memset(out, 0, sizeof(*out)); /* padding as well, so that memory can be compared */
    if (kind == 0)
        random_fill(&out->identity, sizeof(out->identity));
    else if (kind == 1)
        make_marks(&out->marks);
    else if (kind == 2)
        make_segment(&out->segment);
    else
        out->ring.ring_log2 = 16 + (uint32_t)random_below(9);
}

static void assert_same(size_t kind, const union any_structure *a, const union any_structure *b)
{
    uint8_t bytes[2][SIZE];

    kinds[kind].encode(a, bytes[0]);
    kinds[kind].encode(b, bytes[1]);
    assert_memory_equal(bytes[0], bytes[1], SIZE);
}

static void seal(uint8_t *bytes)
{
    km__store32(bytes + 20, 0);
    km__store32(bytes + 20, km__crc32c(0, bytes, SIZE));
}

/* ---- what is written is read ------------------------------------------------------------- */

static void identity_keeps_every_field(void **state)
{
    struct identity in, out;
    uint8_t bytes[SIZE];

    (void)state;
    random_fill(&in, sizeof(in));
    km__identity_encode(&in, bytes);
    assert_int_equal(km__identity_decode(bytes, &out), KM_OK);
    assert_memory_equal(in.store_id, out.store_id, STORE_ID_SIZE);
    assert_memory_equal(in.hash_seed, out.hash_seed, KM__HASH_SEED_SIZE);
    assert_true(in.created_ms == out.created_ms);
}

static void marks_keep_every_field(void **state)
{
    struct marks in, out;
    uint8_t bytes[SIZE];

    (void)state;
    for (int i = 0; i < 1000; i++) {
        make_marks(&in);
        km__marks_encode(&in, bytes);
        assert_int_equal(km__marks_decode(bytes, &out), KM_OK);
        assert_memory_equal(in.store_id, out.store_id, STORE_ID_SIZE);
        assert_true(in.sequence == out.sequence);
        assert_true(in.head == out.head);
        assert_true(in.durable == out.durable);
        assert_true(in.clock_ms == out.clock_ms);
        assert_memory_equal(in.boot_id, out.boot_id, BOOT_ID_SIZE);
        assert_int_equal(in.clean, out.clean);
    }
}

static void segment_headers_keep_every_field(void **state)
{
    struct segment_header in, out;
    uint8_t bytes[SIZE];

    (void)state;
    for (int i = 0; i < 1000; i++) {
        make_segment(&in);
        km__segment_header_encode(&in, bytes);
        assert_int_equal(km__segment_header_decode(bytes, &out), KM_OK);
        assert_memory_equal(in.store_id, out.store_id, STORE_ID_SIZE);
        assert_int_equal(in.number, out.number);
        assert_true(in.size == out.size);
        assert_true(in.previous_end == out.previous_end);
        assert_true(in.durable == out.durable);
        assert_int_equal(in.ring_log2, out.ring_log2);
        assert_true(in.linear_start == out.linear_start);
    }
}

static void ring_headers_keep_every_field(void **state)
{
    uint8_t bytes[SIZE];

    (void)state;
    for (uint32_t log2 = RING_LOG2_MIN; log2 <= RING_LOG2_MAX; log2++) {
        struct ring_header in = {.ring_log2 = log2}, out;

        random_fill(in.store_id, sizeof(in.store_id));
        km__ring_header_encode(&in, bytes);
        assert_int_equal(km__ring_header_decode(bytes, &out), KM_OK);
        assert_memory_equal(in.store_id, out.store_id, STORE_ID_SIZE);
        assert_int_equal(out.ring_log2, log2);
    }
}

/* ---- what is damaged is not -------------------------------------------------------------- */

static void any_flipped_bit_is_damage(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < KIND_COUNT; kind++) {
        union any_structure in, out, before;
        uint8_t bytes[SIZE];

        make_any(kind, &in);
        kinds[kind].encode(&in, bytes);
        memset(&out, 0x5a, sizeof(out));
        before = out;
        for (uint32_t bit = 0; bit < SIZE * 8; bit += bit < 1024 ? 1 : 37) {
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_int_equal(kinds[kind].decode(bytes, &out), KM_E_CORRUPT);
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        assert_memory_equal(&out, &before, sizeof(out));
        assert_int_equal(kinds[kind].decode(bytes, &out), KM_OK);
    }
}

static void structures_do_not_pass_for_each_other(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < KIND_COUNT; kind++) {
        union any_structure in, out;
        uint8_t bytes[SIZE];

        make_any(kind, &in);
        kinds[kind].encode(&in, bytes);
        for (size_t other = 0; other < KIND_COUNT; other++)
            assert_int_equal(kinds[other].decode(bytes, &out),
                             other == kind ? KM_OK : KM_E_CORRUPT);
    }
}

static void zeros_are_damage(void **state)
{
    uint8_t bytes[SIZE] = {0};
    union any_structure out;

    (void)state;
    seal(bytes);
    for (size_t kind = 0; kind < KIND_COUNT; kind++)
        assert_int_equal(kinds[kind].decode(bytes, &out), KM_E_CORRUPT);
}

static void newer_formats_are_told_apart_from_damage(void **state)
{
    static const struct {
        uint32_t version, incompatible, compatible;
        km_status status;
    } cases[] = {
        {1, 0, 0, KM_OK},        {0, 0, 0, KM_E_CORRUPT},
        {2, 0, 0, KM_E_VERSION}, {UINT32_MAX, 0, 0, KM_E_VERSION},
        {1, 1, 0, KM_E_VERSION}, {1, 0x80000000u, 0, KM_E_VERSION},
        {1, 0, 1, KM_OK},        {1, 0, UINT32_MAX, KM_OK},
    };

    (void)state;
    for (size_t kind = 0; kind < KIND_COUNT; kind++) {
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            union any_structure in, out;
            uint8_t bytes[SIZE];

            make_any(kind, &in);
            kinds[kind].encode(&in, bytes);
            km__store32(bytes + 8, cases[i].version);
            km__store32(bytes + 12, cases[i].incompatible);
            km__store32(bytes + 16, cases[i].compatible);
            seal(bytes);
            assert_int_equal(kinds[kind].decode(bytes, &out), cases[i].status);
        }
    }
}

static void unused_bytes_are_zero_unless_a_feature_may_use_them(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < KIND_COUNT; kind++) {
        union any_structure in, out;
        uint8_t bytes[SIZE];

        make_any(kind, &in);
        kinds[kind].encode(&in, bytes);
        for (size_t at = kinds[kind].used_size; at < SIZE; at += at < 100 ? 1 : 61) {
            bytes[at] = 0x10;
            km__store32(bytes + 16, 0);
            seal(bytes);
            assert_int_equal(kinds[kind].decode(bytes, &out), KM_E_CORRUPT);
            km__store32(bytes + 16, 4);
            seal(bytes);
            assert_int_equal(kinds[kind].decode(bytes, &out), KM_OK);
            bytes[at] = 0;
        }
        assert_same(kind, &in, &out);
    }
}

/* ---- limits ------------------------------------------------------------------------------ */

/* A value put at an offset of a sound structure, under a right checksum. */
struct field_case {
    size_t offset, size;
    uint64_t value;
    km_status status;
};

static void check_fields(size_t kind, const union any_structure *base,
                         const struct field_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        union any_structure out;
        uint8_t bytes[SIZE];

        kinds[kind].encode(base, bytes);
        if (cases[i].size == 8)
            km__store64(bytes + cases[i].offset, cases[i].value);
        else
            km__store32(bytes + cases[i].offset, (uint32_t)cases[i].value);
        seal(bytes);
        if (kinds[kind].decode(bytes, &out) != cases[i].status)
            fail_msg("%s, case %zu", kinds[kind].example, i);
    }
}

#define AT(number, offset) ((uint64_t)(number) << 32 | (offset))

static void marks_have_limits(void **state)
{
    union any_structure base = {
        .marks = {.sequence = 1, .head = AT(5, 4096), .durable = AT(5, 8192), .clean = 1}};
    static const struct field_case cases[] = {
        {40, 8, 0, KM_E_CORRUPT},
        {40, 8, UINT64_MAX, KM_OK},
        {48, 8, AT(0, 4096), KM_E_CORRUPT},
        {48, 8, AT(5, 0), KM_E_CORRUPT},
        {48, 8, AT(5, 4104), KM_E_CORRUPT},
        {48, 8, AT(6, 4096), KM_E_CORRUPT}, /* above durable */
        {48, 8, AT(4, 4096), KM_OK},
        {56, 8, AT(5, 4096), KM_OK},
        {56, 8, AT(4, 8192), KM_E_CORRUPT},
        {56, 8, AT(5, 8196), KM_E_CORRUPT},
        {56, 8, AT(6, 4088), KM_E_CORRUPT},
        {56, 8, AT(6, SEGMENT_SIZE_MAX), KM_OK},
        {56, 8, AT(6, SEGMENT_SIZE_MAX + 8), KM_E_CORRUPT},
        {56, 8, 0, KM_E_CORRUPT}, /* clean, but where? */
        {88, 4, 0, KM_OK},
        {88, 4, 2, KM_E_CORRUPT},
    };

    (void)state;
    check_fields(1, &base, cases, sizeof(cases) / sizeof(cases[0]));
    base.marks.clean = 0;
    check_fields(1, &base, &(struct field_case){56, 8, 0, KM_OK}, 1);
}

static void segment_headers_have_limits(void **state)
{
    union any_structure base = {.segment = {.number = 5,
                                            .size = 1u << 20,
                                            .previous_end = AT(4, 8192),
                                            .durable = AT(3, 4096),
                                            .ring_log2 = 18,
                                            .linear_start = 64}};
    static const struct field_case cases[] = {
        {40, 4, 0, KM_E_CORRUPT},
        {40, 4, 4, KM_E_CORRUPT}, /* not above the segment before */
        {40, 4, 6, KM_OK},
        {44, 4, 0, KM_OK},
        {44, 4, 15, KM_E_CORRUPT},
        {44, 4, 16, KM_OK},
        {44, 4, 24, KM_OK},
        {44, 4, 25, KM_E_CORRUPT},
        {44, 4, UINT32_MAX, KM_E_CORRUPT},
        {48, 8, SEGMENT_SIZE_MIN, KM_OK},
        {48, 8, SEGMENT_SIZE_MIN - 4096, KM_E_CORRUPT},
        {48, 8, SEGMENT_SIZE_MIN + 8, KM_E_CORRUPT},
        {48, 8, SEGMENT_SIZE_MAX, KM_OK},
        {48, 8, SEGMENT_SIZE_MAX + 4096, KM_E_CORRUPT},
        {56, 8, 0, KM_OK},
        {56, 8, AT(5, 4096), KM_E_CORRUPT},
        {56, 8, AT(4, 4088), KM_E_CORRUPT},
        {56, 8, AT(4, 4100), KM_E_CORRUPT},
        {56, 8, AT(0, 4096), KM_E_CORRUPT},
        {64, 8, 0, KM_OK},
        {64, 8, AT(5, 4096), KM_OK},
        {64, 8, AT(5, 4104), KM_E_CORRUPT},
        {64, 8, AT(4, 4100), KM_E_CORRUPT},
        {72, 8, 0, KM_OK},
        {72, 8, 4, KM_E_CORRUPT},
        {72, 8, UINT64_MAX - 7, KM_OK},
    };

    (void)state;
    check_fields(2, &base, cases, sizeof(cases) / sizeof(cases[0]));
}

static void ring_headers_have_limits(void **state)
{
    union any_structure base = {.ring = {.ring_log2 = 20}};
    static const struct field_case cases[] = {
        {40, 4, 15, KM_E_CORRUPT}, {40, 4, 16, KM_OK},       {40, 4, 24, KM_OK},
        {40, 4, 25, KM_E_CORRUPT}, {40, 4, 0, KM_E_CORRUPT},
    };

    (void)state;
    check_fields(3, &base, cases, sizeof(cases) / sizeof(cases[0]));
}

static void what_no_decoder_takes_is_never_written(void **state)
{
    static const union any_structure impossible[] = {
        {.marks = {.sequence = 0, .head = AT(1, 4096)}},
        {.segment = {.number = 0, .size = 1u << 20}},
        {.ring = {.ring_log2 = 25}},
    };

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        uint8_t bytes[SIZE];
        int status = 0;
        pid_t child = fork();

        assert_true(child >= 0);
        if (child == 0) {
            signal(SIGABRT, SIG_DFL);
            fclose(stderr);
            kinds[i + 1].encode(&impossible[i], bytes);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

/* ---- names and positions ----------------------------------------------------------------- */

static void segment_names_are_read_back(void **state)
{
    static const char *const others[] = {
        "",
        "0000002a",
        "0000002a.segmen",
        "0000002a.segments",
        "0000002A.segment",
        "2a.segment",
        "00000000.segment",
        "000000002a.segment",
        " 000002a.segment",
        "0x00002a.segment",
        "-000002a.segment",
        "0000002a.segment ",
        "new.segment",
        "0000002g.segment",
    };
    char name[SEGMENT_NAME_SIZE];
    uint32_t number;

    (void)state;
    km__segment_name(42, name);
    assert_string_equal(name, "0000002a.segment");
    for (int i = 0; i < 1000; i++) {
        uint32_t in = 1 + (uint32_t)random_below(i % 2 ? 1000 : UINT32_MAX);

        km__segment_name(in, name);
        assert_int_equal(strlen(name), SEGMENT_NAME_SIZE - 1);
        assert_int_equal(km__segment_name_parse(name, &number), 1);
        assert_int_equal(number, in);
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        number = 77;
        assert_int_equal(km__segment_name_parse(others[i], &number), 0);
        assert_int_equal(number, 77);
    }
}

static void ring_names_tell_the_size(void **state)
{
    char name[RING_NAME_SIZE];

    (void)state;
    km__ring_name(18, name);
    assert_string_equal(name, "tail-18.ring");
    km__ring_name(RING_LOG2_MAX, name);
    assert_string_equal(name, "tail-24.ring");
}

static void positions_are_number_and_offset(void **state)
{
    uint64_t position = km__position(0xfedcba98u, 0x80100000u);

    (void)state;
    assert_true(position == UINT64_C(0xfedcba9880100000));
    assert_int_equal(km__position_number(position), 0xfedcba98u);
    assert_int_equal(km__position_offset(position), 0x80100000u);
}

/* ---- the bytes of the law ---------------------------------------------------------------- */

static void make_example(size_t kind, union any_structure *out)
{
    memset(out, 0, sizeof(*out));
    for (int i = 0; i < 16; i++) { /* the store id comes first in each */
        out->identity.store_id[i] = (uint8_t)i;
    }
    if (kind == 0) {
        for (int i = 0; i < KM__HASH_SEED_SIZE; i++)
            out->identity.hash_seed[i] = (uint8_t)(0x80 + i);
        out->identity.created_ms = UINT64_C(1700000000000);
    } else if (kind == 1) {
        out->marks.sequence = 3;
        out->marks.head = AT(32, 4096);
        out->marks.durable = AT(42, 0x1028);
        out->marks.clock_ms = UINT64_C(1700000001000);
        for (int i = 0; i < 16; i++)
            out->marks.boot_id[i] = (uint8_t)(0x10 + i);
        out->marks.clean = 1;
    } else if (kind == 2) {
        out->segment.number = 42;
        out->segment.size = 256 * 1024;
        out->segment.previous_end = AT(41, 256 * 1024);
        out->segment.durable = AT(41, 0x12340);
        out->segment.ring_log2 = 18;
        out->segment.linear_start = 0x9f0000;
    } else {
        out->ring.ring_log2 = 18;
    }
}

static void the_examples_of_the_document_hold(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < KIND_COUNT; kind++) {
        union any_structure in, out;
        uint8_t bytes[SIZE], expected[SIZE];

        make_example(kind, &in);
        kinds[kind].encode(&in, bytes);
        assert_memory_equal(bytes, kinds[kind].magic, 8);
        assert_int_equal(hex_block(FORMAT_MD, kinds[kind].example, expected, SIZE), SIZE);
        assert_memory_equal(bytes, expected, SIZE);
        assert_int_equal(kinds[kind].decode(expected, &out), KM_OK);
    }
}

static void structures_of_version_1_are_read(void **state)
{
    union any_structure out;
    uint8_t bytes[KIND_COUNT][SIZE];

    (void)state;
    for (size_t kind = 0; kind < KIND_COUNT; kind++) {
        assert_int_equal(hex_block(GOLDEN, kinds[kind].example, bytes[kind], SIZE), SIZE);
        assert_int_equal(kinds[kind].decode(bytes[kind], &out), KM_OK);
        for (int i = 0; i < 16; i++)
            assert_int_equal(out.identity.store_id[i], (uint8_t)(i * 37 + 11));
    }
    assert_int_equal(decode_identity(bytes[0], &out), KM_OK);
    assert_int_equal(out.identity.hash_seed[31], 31 * 5 + 3);
    assert_true(out.identity.created_ms == UINT64_C(1234567890123));
    assert_int_equal(decode_marks(bytes[1], &out), KM_OK);
    assert_true(out.marks.sequence == (UINT64_C(1) << 40) + 1);
    assert_true(out.marks.head == AT(0xfffffff0u, 4096));
    assert_true(out.marks.durable == AT(0xffffffffu, 0x80100000u));
    assert_int_equal(out.marks.clock_ms, 5);
    assert_int_equal(out.marks.clean, 0);
    assert_int_equal(decode_segment(bytes[2], &out), KM_OK);
    assert_int_equal(out.segment.number, 1);
    assert_true(out.segment.size == SEGMENT_SIZE_MAX);
    assert_true(out.segment.previous_end == 0);
    assert_true(out.segment.durable == AT(1, 4096));
    assert_int_equal(out.segment.ring_log2, 0);
    assert_true(out.segment.linear_start == UINT64_C(0x123456789000));
    assert_int_equal(decode_ring(bytes[3], &out), KM_OK);
    assert_int_equal(out.ring.ring_log2, 24);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity_keeps_every_field),
        cmocka_unit_test(marks_keep_every_field),
        cmocka_unit_test(segment_headers_keep_every_field),
        cmocka_unit_test(ring_headers_keep_every_field),
        cmocka_unit_test(any_flipped_bit_is_damage),
        cmocka_unit_test(structures_do_not_pass_for_each_other),
        cmocka_unit_test(zeros_are_damage),
        cmocka_unit_test(newer_formats_are_told_apart_from_damage),
        cmocka_unit_test(unused_bytes_are_zero_unless_a_feature_may_use_them),
        cmocka_unit_test(marks_have_limits),
        cmocka_unit_test(segment_headers_have_limits),
        cmocka_unit_test(ring_headers_have_limits),
        cmocka_unit_test(what_no_decoder_takes_is_never_written),
        cmocka_unit_test(segment_names_are_read_back),
        cmocka_unit_test(ring_names_tell_the_size),
        cmocka_unit_test(positions_are_number_and_offset),
        cmocka_unit_test(the_examples_of_the_document_hold),
        cmocka_unit_test(structures_of_version_1_are_read),
    };

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
