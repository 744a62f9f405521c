/* SPDX-License-Identifier: Apache-2.0
 *
 * test_record.c -- records: what is written is read, what is damaged is not, and the bytes are
 * those of docs/FORMAT.md.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/files.h"
#include "format/record.h"
#include "unit/format_util.h"

#define FORMAT_MD "docs/FORMAT.md"
#define GOLDEN "test/golden/format1.txt"
#define RECORD_SIZE_MAX_HERE 4096u

/* A record with its key and value, in memory of exactly its size. */
struct sample {
    struct record record;
    struct record_place place;
    uint8_t value[600], key[600];
    uint8_t *bytes;
    uint64_t size;
};

static uint8_t *write_record(const struct record *record, struct record_place place,
                             const void *value, const void *key)
{
    uint64_t size = km__record_size(record->flags, record->value_size, record->key_size);
    uint32_t at = km__record_payload_offset(record->flags);
    uint8_t *p = calloc(1, size);
    uint32_t crc = 0;

    assert_non_null(p);
    if (record->kind != RECORD_PADDING) {
        memcpy(p + at, value, record->value_size);
        memcpy(p + at + record->value_size, key, record->key_size);
        crc = km__record_payload_crc(value, record->value_size, key, record->key_size);
    }
    km__store64(p + 8, km__record_encode_header(p, record, crc, place));
    return p;
}

static void make_fields(struct record *record)
{
    record->version = record->flags & RECORD_RELOCATED ? random_u64() : 0;
    record->ordinal = record->flags & RECORD_HAS_ORDINAL ? random_u64() : 0;
    record->expiry = record->flags & RECORD_HAS_EXPIRY ? random_u64() : 0;
}

/* Any record that FORMAT.md allows. */
static void make_shape(struct record *record)
{
    memset(record, 0, sizeof(*record));
    record->kind = (uint8_t)(1 + random_below(RECORD_KIND_MAX));
    record->map = (uint16_t)random_u64();
    record->flags = (uint8_t)random_below(4);
    switch (record->kind) {
    case RECORD_PUT:
        record->flags = (uint8_t)random_below(16);
        record->value_size = (uint32_t)random_below(600);
        record->key_size = (uint16_t)random_below(600);
        break;
    case RECORD_DELETE: record->key_size = (uint16_t)random_below(600); break;
    case RECORD_MAP_CREATED:
        record->value_size = 1;
        record->key_size = (uint16_t)(1 + random_below(255));
        break;
    case RECORD_MARK:
    case RECORD_PADDING:
        record->map = 0;
        record->flags = 0;
        record->value_size = record->kind == RECORD_MARK ? 8 : (uint32_t)random_below(600);
        break;
    case RECORD_RANGE_DELETED:
        record->value_size = random_below(2) ? 1 : (uint32_t)(1 + random_below(599));
        record->key_size = (uint16_t)random_below(600);
        break;
    default: break;
    }
    make_fields(record);
}

static void make_sample(struct sample *sample)
{
    make_shape(&sample->record);
    sample->place.store_tag = random_u64();
    sample->place.position = random_u64() & ~UINT64_C(7);
    random_fill(sample->value, sizeof(sample->value));
    random_fill(sample->key, sizeof(sample->key));
    if (sample->record.kind == RECORD_RANGE_DELETED)
        sample->value[0] = sample->record.value_size == 1 ? (uint8_t)random_below(2) : 1;
    sample->bytes = write_record(&sample->record, sample->place, sample->value, sample->key);
    sample->size = km__record_size_at(sample->bytes);
}

static void assert_same_record(const struct record *a, const struct record *b)
{
    assert_int_equal(a->value_size, b->value_size);
    assert_int_equal(a->key_size, b->key_size);
    assert_int_equal(a->map, b->map);
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->flags, b->flags);
    assert_true(a->version == b->version);
    assert_true(a->ordinal == b->ordinal);
    assert_true(a->expiry == b->expiry);
}

/* ---- what is written is read ------------------------------------------------------------- */

static void what_is_encoded_is_decoded(void **state)
{
    (void)state;
    for (int i = 0; i < 5000; i++) {
        struct sample s;
        struct record out;
        uint64_t payload;

        make_sample(&s);
        assert_int_equal(s.size % 8, 0);
        assert_int_equal(km__record_decode(s.bytes, s.size, s.place, &out), RECORD_OK);
        assert_same_record(&out, &s.record);
        assert_int_equal(out.checksum, km__load32(s.bytes));
        payload = km__record_payload_offset(out.flags);
        if (out.kind != RECORD_PADDING) {
            assert_memory_equal(s.bytes + payload, s.value, out.value_size);
            assert_memory_equal(s.bytes + payload + out.value_size, s.key, out.key_size);
        }
        free(s.bytes);
    }
}

static void the_sum_of_a_written_header_is_its_checksum(void **state)
{
    (void)state;
    for (int i = 0; i < 500; i++) {
        struct sample s;
        uint32_t crc = 0;

        make_sample(&s);
        if (s.record.kind != RECORD_PADDING)
            crc = km__record_payload_crc(s.value, s.record.value_size, s.key, s.record.key_size);
        assert_int_equal(km__record_sum(s.bytes, crc, s.place), km__load32(s.bytes));
        free(s.bytes);
    }
}

static void nothing_is_read_past_the_record(void **state)
{
    (void)state;
    for (int i = 0; i < 500; i++) {
        struct sample s;
        struct record out;
        uint8_t *larger;

        make_sample(&s);
        larger = malloc(s.size + 64);
        assert_non_null(larger);
        memcpy(larger, s.bytes, s.size);
        random_fill(larger + s.size, 64); /* what follows does not matter */
        assert_int_equal(km__record_decode(larger, s.size + 64, s.place, &out), RECORD_OK);
        free(larger);
        free(s.bytes);
    }
}

/* The commit word is stored by the caller: until then there is no record. */
static void without_its_commit_word_a_record_is_absent(void **state)
{
    struct record record = {.kind = RECORD_PUT, .key_size = 3, .value_size = 2};
    struct record_place place = {1, 4096};
    uint8_t p[24] = {0};
    struct record out;
    uint64_t word;

    (void)state;
    memcpy(p + 16, "vvkkk", 5);
    word = km__record_encode_header(p, &record, km__record_payload_crc("vv", 2, "kkk", 3), place);
    assert_true(word != 0);
    assert_int_equal(km__record_decode(p, sizeof(p), place, &out), RECORD_ABSENT);
    km__store64(p + 8, word);
    assert_int_equal(km__record_decode(p, sizeof(p), place, &out), RECORD_OK);
}

static void payload_sums_join_value_key_and_padding(void **state)
{
    uint8_t bytes[48];

    (void)state;
    for (uint32_t value_size = 0; value_size < 20; value_size++) {
        for (uint16_t key_size = 0; key_size < 20; key_size++) {
            uint64_t size = km__round_up((uint64_t)value_size + key_size, 8);
            uint32_t crc;

            memset(bytes, 0, sizeof(bytes));
            random_fill(bytes, value_size + key_size);
            crc = km__record_payload_crc(bytes, value_size, bytes + value_size, key_size);
            assert_int_equal(crc, km__crc32c(0, bytes, size));
        }
    }
    assert_int_equal(km__record_payload_crc(NULL, 0, NULL, 0), 0);
}

static void sizes_follow_from_flags(void **state)
{
    (void)state;
    for (unsigned flags = 0; flags < 256; flags++) {
        unsigned fields = (flags >> 1 & 1) + (flags >> 2 & 1) + (flags >> 3 & 1);

        assert_int_equal(km__record_payload_offset((uint8_t)flags), 16 + 8 * fields);
    }
    assert_int_equal(km__record_size(0, 0, 0), 16);
    assert_int_equal(km__record_size(0, 0, 1), 24);
    assert_int_equal(km__record_size(14, 4, 5), 56);
    assert_true(km__record_size(15, UINT32_MAX, UINT16_MAX) == UINT64_C(4295032872));
}

/* ---- what is damaged is not -------------------------------------------------------------- */

static void any_flipped_bit_is_noticed(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        struct sample s;
        struct record out;
        uint64_t summed;

        make_sample(&s);
        summed = s.record.kind == RECORD_PADDING ? RECORD_HEADER_SIZE : s.size;
        for (uint64_t bit = 0; bit < summed * 8; bit++) {
            s.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_int_not_equal(km__record_decode(s.bytes, s.size, s.place, &out), RECORD_OK);
            s.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        free(s.bytes);
    }
}

static void a_cut_record_is_bad(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        struct sample s;
        struct record out;
        uint64_t cut;
        uint8_t *part;

        make_sample(&s);
        cut = random_below(s.size);
        part = malloc(cut ? cut : 1); /* its own memory, so that a read past its end is seen */
        assert_non_null(part);
        memcpy(part, s.bytes, cut);
        assert_int_equal(km__record_decode(part, cut, s.place, &out), RECORD_BAD);
        free(part);
        free(s.bytes);
    }
}

static void a_moved_record_is_bad(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        struct sample s;
        struct record out;
        struct record_place other;

        make_sample(&s);
        other = s.place;
        other.position ^= UINT64_C(1) << random_below(64);
        assert_int_equal(km__record_decode(s.bytes, s.size, other, &out), RECORD_BAD);
        other = s.place;
        other.store_tag ^= UINT64_C(1) << random_below(64);
        assert_int_equal(km__record_decode(s.bytes, s.size, other, &out), RECORD_BAD);
        free(s.bytes);
    }
}

static void zeros_are_no_record(void **state)
{
    uint8_t bytes[64] = {0};
    struct record_place place = {1, 2};
    struct record out;

    (void)state;
    assert_int_equal(km__record_decode(bytes, sizeof(bytes), place, &out), RECORD_ABSENT);
    bytes[0] = 1; /* half a header: still no commit word */
    bytes[5] = 1;
    assert_int_equal(km__record_decode(bytes, sizeof(bytes), place, &out), RECORD_ABSENT);
    assert_int_equal(km__record_decode(bytes, 15, place, &out), RECORD_BAD);
}

/* Make the checksum of whatever is at p right, so that only the other rules can refuse it. */
static void seal(uint8_t *p, struct record_place place)
{
    uint64_t payload = km__record_payload_offset(p[13]);
    uint32_t crc = 0;

    if (p[12] != RECORD_PADDING)
        crc = km__crc32c(0, p + payload, km__record_size_at(p) - payload);
    km__store32(p, km__record_sum(p, crc, place));
}

static enum record_check decode_sealed(uint8_t kind, uint8_t flags, uint16_t map,
                                       uint32_t value_size, uint16_t key_size)
{
    static uint8_t bytes[RECORD_SIZE_MAX_HERE];
    struct record_place place = {77, 4096};
    struct record out;

    memset(bytes, 0, sizeof(bytes));
    km__store32(bytes + 4, value_size);
    km__store16(bytes + 8, key_size);
    km__store16(bytes + 10, map);
    bytes[12] = kind;
    bytes[13] = flags;
    if (kind == RECORD_RANGE_DELETED)
        bytes[km__record_payload_offset(flags)] = value_size > 1;
    assert_true(km__record_size_at(bytes) <= sizeof(bytes));
    seal(bytes, place);
    return km__record_decode(bytes, sizeof(bytes), place, &out);
}

/* FORMAT.md, R4, as a table: kind, flags allowed, whether map, value and key are free. */
static void each_kind_has_its_shape(void **state)
{
    static const struct {
        uint8_t flags;
        int any_map;
        uint32_t value_min, value_max;
        uint16_t key_min, key_max;
    } shapes[] = {
        {15, 1, 0, 1000, 0, 1000}, {3, 1, 0, 0, 0, 1000},    {3, 1, 1, 1, 1, 255},
        {3, 1, 0, 0, 0, 0},        {3, 1, 0, 0, 0, 0},       {0, 0, 8, 8, 0, 0},
        {0, 0, 0, 1000, 0, 0},     {3, 1, 1, 1000, 0, 1000},
    };
    static const uint32_t sizes[] = {0, 1, 2, 7, 8, 9, 255, 256, 1000};

    (void)state;
    for (int i = 0; i < 200000; i++) {
        unsigned kind = (unsigned)random_below(10);
        uint8_t flags = (uint8_t)random_below(random_below(2) ? 4 : 64);
        uint16_t map = (uint16_t)random_below(2);
        uint32_t value_size = sizes[random_below(9)];
        uint16_t key_size = (uint16_t)sizes[random_below(9)];
        int is_allowed = kind >= 1 && kind <= 8;

        if (is_allowed)
            is_allowed = !(flags & ~shapes[kind - 1].flags) && (shapes[kind - 1].any_map || !map) &&
                         value_size >= shapes[kind - 1].value_min &&
                         value_size <= shapes[kind - 1].value_max &&
                         key_size >= shapes[kind - 1].key_min &&
                         key_size <= shapes[kind - 1].key_max;
        if (kind == 0 && !flags && !map && !key_size)
            continue; /* the commit word is zero: absent */
        assert_int_equal(decode_sealed((uint8_t)kind, flags, map, value_size, key_size),
                         is_allowed ? RECORD_OK : RECORD_BAD);
    }
}

static enum record_check decode_range(uint8_t first_byte, uint32_t value_size, uint16_t key_size)
{
    static uint8_t bytes[140000];
    struct record_place place = {77, 4096};
    struct record out;

    memset(bytes, 0, sizeof(bytes));
    km__store32(bytes + 4, value_size);
    km__store16(bytes + 8, key_size);
    bytes[12] = RECORD_RANGE_DELETED;
    bytes[16] = first_byte;
    seal(bytes, place);
    return km__record_decode(bytes, sizeof(bytes), place, &out);
}

static void ranges_end_as_they_say(void **state)
{
    static const struct {
        uint8_t first_byte;
        uint32_t value_size;
        enum record_check check;
    } cases[] = {
        {0, 1, RECORD_OK},  {0, 2, RECORD_BAD},    {0, 65536, RECORD_BAD}, {1, 1, RECORD_OK},
        {1, 2, RECORD_OK},  {1, 65536, RECORD_OK}, {1, 65537, RECORD_BAD}, {2, 1, RECORD_BAD},
        {2, 2, RECORD_BAD}, {255, 9, RECORD_BAD},  {0, 0, RECORD_BAD},     {1, 0, RECORD_BAD},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (uint32_t key_size = 0; key_size <= 65535; key_size += 13107) {
            if (decode_range(cases[i].first_byte, cases[i].value_size, (uint16_t)key_size) !=
                cases[i].check)
                fail_msg("case %zu, key of %u", i, key_size);
        }
    }
}

static void reserved_bytes_and_padding_are_zero(void **state)
{
    struct record record = {.kind = RECORD_PUT, .key_size = 2, .value_size = 1};
    struct record_place place = {3, 8192};
    uint8_t *p = write_record(&record, place, "v", "kk");
    struct record out;

    (void)state;
    assert_int_equal(km__record_decode(p, 24, place, &out), RECORD_OK);
    for (int at = 14; at < 24; at++) {
        if (at == 16)
            at = 19; /* value and key lie between */
        p[at] = 0x40;
        seal(p, place);
        assert_int_equal(km__record_decode(p, 24, place, &out), RECORD_BAD);
        p[at] = 0;
    }
    seal(p, place);
    assert_int_equal(km__record_decode(p, 24, place, &out), RECORD_OK);
    free(p);
}

static void values_over_the_limit_are_bad(void **state)
{
    uint8_t header[16] = {0};
    struct record_place place = {3, 8192};
    struct record out;

    (void)state;
    header[12] = RECORD_PADDING;
    km__store32(header + 4, KM_VALUE_SIZE_MAX);
    seal(header, place); /* sums the header alone, so that a pretended size does no harm here */
    assert_int_equal(km__record_decode(header, UINT64_MAX, place, &out), RECORD_OK);
    km__store32(header + 4, KM_VALUE_SIZE_MAX + 1u);
    seal(header, place);
    assert_int_equal(km__record_decode(header, UINT64_MAX, place, &out), RECORD_BAD);
}

static void the_output_is_written_on_success_only(void **state)
{
    uint8_t bytes[32];
    struct record out, before;
    struct record_place place = {3, 8192};

    (void)state;
    memset(&out, 0x5a, sizeof(out));
    before = out;
    for (int i = 0; i < 1000; i++) {
        random_fill(bytes, sizeof(bytes));
        assert_int_not_equal(km__record_decode(bytes, sizeof(bytes), place, &out), RECORD_OK);
        assert_memory_equal(&out, &before, sizeof(out));
    }
}

static void an_impossible_record_is_never_written(void **state)
{
    static const struct record impossible[] = {
        {.kind = 0, .key_size = 1},
        {.kind = RECORD_KIND_MAX + 1},
        {.kind = RECORD_PUT, .flags = 16},
        {.kind = RECORD_PUT, .value_size = KM_VALUE_SIZE_MAX + 1u},
        {.kind = RECORD_DELETE, .value_size = 1},
        {.kind = RECORD_MARK, .value_size = 4},
        {.kind = RECORD_PADDING, .key_size = 1},
        {.kind = RECORD_RANGE_DELETED},
        {.kind = RECORD_RANGE_DELETED, .value_size = 65537},
        {.kind = RECORD_RANGE_DELETED, .value_size = 1, .flags = RECORD_HAS_ORDINAL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(impossible) / sizeof(impossible[0]); i++) {
        uint8_t header[64];
        struct record_place place = {1, 2};
        int status = 0;
        pid_t child = fork();

        assert_true(child >= 0);
        if (child == 0) {
            signal(SIGABRT, SIG_DFL);
            fclose(stderr);
            (void)km__record_encode_header(header, &impossible[i], 0, place);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

/* ---- the bytes of the law ---------------------------------------------------------------- */

static void check_example(const char *name, const struct record *record, uint64_t position,
                          const char *value, const char *key)
{
    struct record_place place = {UINT64_C(0x0706050403020100), position};
    uint8_t expected[64];
    size_t size = hex_block(FORMAT_MD, name, expected, sizeof(expected));
    uint8_t *p = write_record(record, place, value, key);
    uint64_t whole_size = km__record_size_at(p);
    struct record out;

    assert_int_equal(size, record->kind == RECORD_PADDING ? RECORD_HEADER_SIZE : whole_size);
    assert_memory_equal(p, expected, size);
    assert_int_equal(km__record_decode(p, whole_size, place, &out), RECORD_OK);
    assert_same_record(&out, record);
    free(p);
}

static void the_examples_of_the_document_hold(void **state)
{
    struct record put = {.kind = RECORD_PUT, .map = 1, .value_size = 3, .key_size = 5};
    struct record moved = {.kind = RECORD_PUT,
                           .map = 1,
                           .flags = RECORD_RELOCATED | RECORD_HAS_ORDINAL,
                           .value_size = 8,
                           .key_size = 4,
                           .version = UINT64_C(0x0000002900001238),
                           .ordinal = 7};
    struct record gone = {.kind = RECORD_DELETE, .map = 1, .key_size = 4};
    struct record range = {.kind = RECORD_RANGE_DELETED, .map = 2, .value_size = 6, .key_size = 3};
    struct record lasting = {.kind = RECORD_PUT,
                             .map = 1,
                             .flags = RECORD_HAS_ORDINAL | RECORD_HAS_EXPIRY,
                             .key_size = 4,
                             .ordinal = 8,
                             .expiry = UINT64_C(1700000060000)};
    struct record padding = {.kind = RECORD_PADDING, .value_size = 240};

    (void)state;
    check_example("record-put", &put, km__position(42, 0x1000), "red", "apple");
    check_example("record-moved", &moved, km__position(42, 0x1018), "green!!!", "pear");
    check_example("record-delete", &gone, km__position(42, 0x1048), "", "kiwi");
    check_example("record-range-deleted", &range, km__position(42, 0x1060), "\001melon", "kiw");
    check_example("record-expiring", &lasting, km__position(42, 0x1080), "", "plum");
    check_example("record-padding", &padding, km__position(42, 0x3ff00), "", "");
}

static void check_golden(const char *block, uint32_t number, const struct record *expected,
                         size_t count)
{
    uint8_t bytes[512], id[16];
    size_t size = hex_block(GOLDEN, block, bytes, sizeof(bytes)), at = 0;
    struct record_place place;
    struct record out;

    for (int i = 0; i < 16; i++)
        id[i] = (uint8_t)(i * 37 + 11);
    place.store_tag = km__load64(id);
    for (size_t i = 0; i < count; i++) {
        place.position = km__position(number, 4096 + at);
        assert_int_equal(km__record_decode(bytes + at, size - at, place, &out), RECORD_OK);
        assert_same_record(&out, &expected[i]);
        at += km__record_size_at(bytes + at);
    }
    assert_int_equal(at, size);
}

/* Records of version 1 that another implementation wrote, beginning at 7:4096, and 9:4096. */
static void records_of_version_1_are_read(void **state)
{
    static const struct record first[] = {
        {.kind = RECORD_MAP_CREATED, .map = 3, .value_size = 1, .key_size = 5},
        {.kind = RECORD_PUT, .map = 3, .flags = RECORD_MORE_FOLLOWS},
        {.kind = RECORD_PUT,
         .map = 3,
         .flags = RECORD_RELOCATED | RECORD_HAS_EXPIRY,
         .value_size = 9,
         .key_size = 5,
         .version = UINT64_C(0x0000000500001008),
         .expiry = 99},
        {.kind = RECORD_MARK, .value_size = 8},
        {.kind = RECORD_MAP_CLEARED, .map = 3},
        {.kind = RECORD_MAP_DROPPED, .map = 3},
    };
    static const struct record second[] = {
        {.kind = RECORD_RANGE_DELETED, .map = 4, .value_size = 1},
        {.kind = RECORD_RANGE_DELETED, .map = 4, .value_size = 1, .key_size = 7},
        {.kind = RECORD_RANGE_DELETED,
         .map = 65535,
         .flags = RECORD_MORE_FOLLOWS | RECORD_RELOCATED,
         .value_size = 9,
         .key_size = 8,
         .version = UINT64_C(0x0000000800002000)},
        {.kind = RECORD_PUT,
         .map = 5,
         .flags = RECORD_FLAGS_ALL,
         .value_size = 2,
         .key_size = 1,
         .version = UINT64_C(0x0000000800003000),
         .ordinal = UINT64_C(0x7fffffffffffffff),
         .expiry = UINT64_C(0xfffffffffffffffe)},
        {.kind = RECORD_DELETE, .map = 5, .key_size = 1},
    };

    (void)state;
    check_golden("records", 7, first, sizeof(first) / sizeof(first[0]));
    check_golden("records-2", 9, second, sizeof(second) / sizeof(second[0]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_encoded_is_decoded),
        cmocka_unit_test(the_sum_of_a_written_header_is_its_checksum),
        cmocka_unit_test(nothing_is_read_past_the_record),
        cmocka_unit_test(without_its_commit_word_a_record_is_absent),
        cmocka_unit_test(payload_sums_join_value_key_and_padding),
        cmocka_unit_test(sizes_follow_from_flags),
        cmocka_unit_test(any_flipped_bit_is_noticed),
        cmocka_unit_test(a_cut_record_is_bad),
        cmocka_unit_test(a_moved_record_is_bad),
        cmocka_unit_test(zeros_are_no_record),
        cmocka_unit_test(each_kind_has_its_shape),
        cmocka_unit_test(ranges_end_as_they_say),
        cmocka_unit_test(reserved_bytes_and_padding_are_zero),
        cmocka_unit_test(values_over_the_limit_are_bad),
        cmocka_unit_test(the_output_is_written_on_success_only),
        cmocka_unit_test(an_impossible_record_is_never_written),
        cmocka_unit_test(the_examples_of_the_document_hold),
        cmocka_unit_test(records_of_version_1_are_read),
    };

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
