/* SPDX-License-Identifier: Apache-2.0
 *
 * test_base.c -- statuses, byte order, CRC-32C, the hash of keys, assertions.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/hash.h"
#include "base/status.h"
#include "unit/format_util.h"

/* ---- status ------------------------------------------------------------------------------ */

static void fail_fills_every_field(void **state)
{
    km_error error;

    (void)state;
    memset(&error, 0xaa, sizeof(error));
    assert_int_equal(km__fail(&error, KM_E_IO, "MARKS", 42, ENOSPC, "cannot write %d bytes", 7),
                     KM_E_IO);
    assert_int_equal(error.status, KM_E_IO);
    assert_int_equal(error.os_error, ENOSPC);
    assert_int_equal(error.offset, 42);
    assert_string_equal(error.file, "MARKS");
    assert_memory_equal(error.message, "cannot write 7 bytes: ", 22);
    assert_string_equal(error.message + 22, strerror(ENOSPC));
}

static void fail_without_os_error_adds_nothing(void **state)
{
    km_error error;

    (void)state;
    memset(&error, 0xaa, sizeof(error));
    assert_int_equal(km__fail(&error, KM_E_CORRUPT, NULL, 0, 0, "%s", "bad"), KM_E_CORRUPT);
    assert_string_equal(error.message, "bad");
    assert_string_equal(error.file, "");
    assert_int_equal(error.os_error, 0);
}

static void fail_accepts_no_error(void **state)
{
    (void)state;
    assert_int_equal(km__fail(NULL, KM_E_FULL, "x", 1, EIO, "y"), KM_E_FULL);
}

static void fail_truncates_long_texts(void **state)
{
    char text[2000];
    km_error error;

    (void)state;
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = 0;
    assert_int_equal(km__fail(&error, KM_E_IO, text, 0, EIO, "%s", text), KM_E_IO);
    assert_int_equal(strlen(error.file), sizeof(error.file) - 1);
    assert_int_equal(strlen(error.message), sizeof(error.message) - 1);
    text[sizeof(error.message) - 3] = 0; /* room for two of the characters of ": ..." */
    assert_int_equal(km__fail(&error, KM_E_IO, NULL, 0, EIO, "%s", text), KM_E_IO);
    assert_string_equal(error.message + sizeof(error.message) - 3, ": ");
}

static void fail_may_quote_the_error_it_fills(void **state)
{
    km_error error;

    (void)state;
    km__ignore(km__fail(&error, KM_E_IO, "log", 0, 0, "inner"), "fills the error");
    km__ignore(km__fail(&error, KM_E_IO, error.file, 0, 0, "outer: %s", error.message),
               "fills the error");
    assert_string_equal(error.message, "outer: inner");
    assert_string_equal(error.file, "log");
}

static void every_status_has_its_name(void **state)
{
    (void)state;
    assert_string_equal(km_status_name(KM_OK), "KM_OK");
    assert_string_equal(km_status_name(KM_STOPPED), "KM_STOPPED");
    assert_string_equal(km_status_name(KM_E_LOCKED), "KM_E_LOCKED");
    assert_string_equal(km_status_name(KM_CONFLICT), "KM_CONFLICT");
    assert_string_equal(km_status_name(KM_BUSY), "KM_BUSY");
    assert_string_equal(km_status_name((km_status)9), "KM_UNKNOWN");
    assert_string_equal(km_status_name((km_status)-17), "KM_UNKNOWN");
    for (int i = KM_E_TOO_OLD; i <= KM_BUSY; i++) {
        for (int j = KM_E_TOO_OLD; j < i; j++)
            assert_string_not_equal(km_status_name((km_status)i), km_status_name((km_status)j));
    }
}

static void a_freed_buffer_is_empty_and_usable(void **state)
{
    km_buffer buffer = {malloc(10), 5, 10};

    (void)state;
    km_buffer_free(NULL);
    km_buffer_free(&buffer);
    assert_null(buffer.data);
    assert_int_equal(buffer.size, 0);
    assert_int_equal(buffer.capacity, 0);
    km_buffer_free(&buffer);
}

/* ---- bytes ------------------------------------------------------------------------------- */

static void integers_are_little_endian_at_any_alignment(void **state)
{
    uint8_t bytes[24];

    (void)state;
    for (size_t at = 0; at < 9; at++) {
        memset(bytes, 0xee, sizeof(bytes));
        km__store64(bytes + at, UINT64_C(0x8877665544332211));
        for (size_t i = 0; i < 8; i++)
            assert_int_equal(bytes[at + i], 0x11 * (i + 1));
        assert_int_equal(bytes[at + 8], 0xee);
        assert_true(km__load64(bytes + at) == UINT64_C(0x8877665544332211));
        assert_int_equal(km__load32(bytes + at + 4), 0x88776655u);
        assert_int_equal(km__load16(bytes + at + 6), 0x8877);
        km__store32(bytes + at, 0xfefdfcfbu);
        assert_true(km__load64(bytes + at) == UINT64_C(0x88776655fefdfcfb));
        km__store16(bytes + at, 0xf0f1);
        assert_true(km__load64(bytes + at) == UINT64_C(0x88776655fefdf0f1));
    }
}

static void rounding_goes_to_the_unit(void **state)
{
    (void)state;
    assert_int_equal(km__round_up(0, 8), 0);
    assert_int_equal(km__round_up(1, 8), 8);
    assert_int_equal(km__round_up(8, 8), 8);
    assert_int_equal(km__round_down(7, 8), 0);
    assert_int_equal(km__round_down(4097, 4096), 4096);
    assert_true(km__round_up(UINT64_C(0xffffffff1), 16) == UINT64_C(0x1000000000));
}

/* ---- crc32c ------------------------------------------------------------------------------ */

/* The definition, a bit at a time. */
static uint32_t crc_by_bits(uint32_t crc, const uint8_t *p, size_t size)
{
    crc = ~crc;
    for (; size > 0; size--, p++) {
        crc ^= *p;
        for (int i = 0; i < 8; i++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

static void expect_crc(const void *bytes, size_t size, uint32_t crc)
{
    assert_int_equal(km__crc32c(0, bytes, size), crc);
    assert_int_equal(km__crc32c_portable(0, bytes, size), crc);
    assert_int_equal(crc_by_bits(0, bytes, size), crc);
}

/* RFC 3720, B.4, and the check value of the catalogues. */
static void crc_has_the_standard_values(void **state)
{
    uint8_t bytes[32];

    (void)state;
    expect_crc("123456789", 9, 0xe3069283u);
    expect_crc("", 0, 0);
    memset(bytes, 0, sizeof(bytes));
    expect_crc(bytes, sizeof(bytes), 0x8a9136aau);
    memset(bytes, 0xff, sizeof(bytes));
    expect_crc(bytes, sizeof(bytes), 0x62a8ab43u);
    for (int i = 0; i < 32; i++)
        bytes[i] = (uint8_t)i;
    expect_crc(bytes, sizeof(bytes), 0x46dd794eu);
    for (int i = 0; i < 32; i++)
        bytes[i] = (uint8_t)(31 - i);
    expect_crc(bytes, sizeof(bytes), 0x113fdb5cu);
}

static void crc_is_the_same_by_instruction_table_and_bits(void **state)
{
    uint8_t bytes[16 + 300];

    (void)state;
    random_fill(bytes, sizeof(bytes));
    for (size_t at = 0; at < 16; at++) {
        for (size_t size = 0; size <= 300; size++) {
            uint32_t start = (uint32_t)random_u64();
            uint32_t crc = crc_by_bits(start, bytes + at, size);

            assert_int_equal(km__crc32c(start, bytes + at, size), crc);
            assert_int_equal(km__crc32c_portable(start, bytes + at, size), crc);
        }
    }
}

/* Each of the eight tables is read for each value a byte can have. */
static void crc_is_right_for_every_byte_in_every_lane(void **state)
{
    (void)state;
    for (int lane = 0; lane < 8; lane++) {
        for (int value = 0; value < 256; value++) {
            uint8_t bytes[8] = {0};

            bytes[lane] = (uint8_t)value;
            expect_crc(bytes, 8, crc_by_bits(0, bytes, 8));
        }
    }
}

static void crc_may_be_cut_at_any_point(void **state)
{
    uint8_t bytes[200];
    uint32_t whole;

    (void)state;
    random_fill(bytes, sizeof(bytes));
    whole = crc_by_bits(0, bytes, sizeof(bytes));
    for (size_t cut = 0; cut <= sizeof(bytes); cut++) {
        uint32_t crc = km__crc32c(0, bytes, cut);
        uint32_t portable = km__crc32c_portable(0, bytes, cut);

        assert_int_equal(km__crc32c(crc, bytes + cut, sizeof(bytes) - cut), whole);
        assert_int_equal(km__crc32c_portable(portable, bytes + cut, sizeof(bytes) - cut), whole);
    }
}

static void crc_of_nothing_needs_no_memory(void **state)
{
    (void)state;
    assert_int_equal(km__crc32c(0x1234, NULL, 0), 0x1234);
    assert_int_equal(km__crc32c_portable(0x1234, NULL, 0), 0x1234);
}

static void crc_of_large_buffers(void **state)
{
    size_t size = 70001;
    uint8_t *bytes = malloc(size);

    (void)state;
    assert_non_null(bytes);
    random_fill(bytes, size);
    expect_crc(bytes, size, crc_by_bits(0, bytes, size));
    free(bytes);
}

static void *sum_in_a_thread(void *context)
{
    uint32_t *out = context;

    for (int i = 0; i < 1000; i++)
        *out = km__crc32c(0, "123456789", 9);
    return NULL;
}

static void crc_is_right_in_all_threads(void **state)
{
    pthread_t threads[4];
    uint32_t sums[4] = {0};

    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, sum_in_a_thread, &sums[i]), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(sums[i], 0xe3069283u);
    }
}

/* ---- hash -------------------------------------------------------------------------------- */

static void make_secret(struct hash_secret *secret)
{
    uint8_t seed[KM__HASH_SEED_SIZE];

    random_fill(seed, sizeof(seed));
    km__hash_secret_init(secret, seed);
}

static void hash_depends_on_seed_and_key_alone(void **state)
{
    struct hash_secret a, b, c;
    uint8_t seed[KM__HASH_SEED_SIZE], bytes[2][600 + 8];

    (void)state;
    random_fill(seed, sizeof(seed));
    km__hash_secret_init(&a, seed);
    km__hash_secret_init(&b, seed);
    assert_memory_equal(a.bytes, b.bytes, sizeof(a.bytes));
    seed[random_below(sizeof(seed))] ^= (uint8_t)(1 << random_below(8));
    km__hash_secret_init(&c, seed);
    random_fill(bytes[0], sizeof(bytes[0]));
    for (size_t size = 0; size <= 600; size++) {
        size_t at = size % 8;

        memcpy(bytes[1] + at, bytes[0], size); /* the same key, otherwise aligned */
        assert_true(km__hash_key(&a, bytes[0], size) == km__hash_key(&b, bytes[1] + at, size));
        assert_true(km__hash_key(&a, bytes[0], size) != km__hash_key(&c, bytes[0], size));
    }
}

static void every_seed_byte_matters(void **state)
{
    uint8_t seed[KM__HASH_SEED_SIZE] = {0};
    struct hash_secret plain, other;

    (void)state;
    km__hash_secret_init(&plain, seed);
    for (size_t i = 0; i < sizeof(seed); i++) {
        seed[i] = 1;
        km__hash_secret_init(&other, seed);
        seed[i] = 0;
        assert_true(km__hash_key(&plain, "key", 3) != km__hash_key(&other, "key", 3));
    }
}

static void the_empty_key_has_a_hash(void **state)
{
    struct hash_secret secret;

    (void)state;
    make_secret(&secret);
    assert_true(km__hash_key(&secret, NULL, 0) == km__hash_key(&secret, "", 0));
}

/* A change of any bit of the key changes each bit of the hash about every other time. */
static void every_hash_bit_follows_every_key_bit(void **state)
{
    enum { KEY_SIZE = 12, ROUNDS = 400 };
    static uint16_t flips[KEY_SIZE * 8][64];
    struct hash_secret secret;
    uint8_t key[KEY_SIZE];

    (void)state;
    make_secret(&secret);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t hash;

        random_fill(key, sizeof(key));
        hash = km__hash_key(&secret, key, sizeof(key));
        for (int i = 0; i < KEY_SIZE * 8; i++) {
            uint64_t difference;

            key[i / 8] ^= (uint8_t)(1 << i % 8);
            difference = hash ^ km__hash_key(&secret, key, sizeof(key));
            key[i / 8] ^= (uint8_t)(1 << i % 8);
            for (int bit = 0; bit < 64; bit++)
                flips[i][bit] += difference >> bit & 1;
        }
    }
    for (int i = 0; i < KEY_SIZE * 8; i++) {
        for (int bit = 0; bit < 64; bit++) /* half, give or take eight standard deviations */
            assert_in_range(flips[i][bit], ROUNDS / 2 - 80, ROUNDS / 2 + 80);
    }
}

/* ---- assertions -------------------------------------------------------------------------- */

static int signal_of(void (*run)(void))
{
    int status = 0;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        fclose(stderr);
        run();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void assert_a_truth(void)
{
    KM_ASSERT(1 + 1 == 2);
}

static void assert_a_lie(void)
{
    volatile int one = 1;

    KM_ASSERT(one == 2);
}

static void a_broken_promise_ends_the_process(void **state)
{
    (void)state;
    assert_int_equal(signal_of(assert_a_truth), 0);
    assert_int_equal(signal_of(assert_a_lie), SIGABRT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fail_fills_every_field),
        cmocka_unit_test(fail_without_os_error_adds_nothing),
        cmocka_unit_test(fail_accepts_no_error),
        cmocka_unit_test(fail_truncates_long_texts),
        cmocka_unit_test(fail_may_quote_the_error_it_fills),
        cmocka_unit_test(every_status_has_its_name),
        cmocka_unit_test(a_freed_buffer_is_empty_and_usable),
        cmocka_unit_test(integers_are_little_endian_at_any_alignment),
        cmocka_unit_test(rounding_goes_to_the_unit),
        cmocka_unit_test(crc_has_the_standard_values),
        cmocka_unit_test(crc_is_the_same_by_instruction_table_and_bits),
        cmocka_unit_test(crc_is_right_for_every_byte_in_every_lane),
        cmocka_unit_test(crc_may_be_cut_at_any_point),
        cmocka_unit_test(crc_of_nothing_needs_no_memory),
        cmocka_unit_test(crc_of_large_buffers),
        cmocka_unit_test(crc_is_right_in_all_threads),
        cmocka_unit_test(hash_depends_on_seed_and_key_alone),
        cmocka_unit_test(every_seed_byte_matters),
        cmocka_unit_test(the_empty_key_has_a_hash),
        cmocka_unit_test(every_hash_bit_follows_every_key_bit),
        cmocka_unit_test(a_broken_promise_ends_the_process),
    };

    random_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
