/* SPDX-License-Identifier: Apache-2.0
 *
 * test_indexkv.c -- the abilities of indexkv that a map has: values keyed by number, and many of
 * them found by one call. (Its files, written once, are sealed tables.)
 */
#include "seeds/seed.h"

static const char *const words[] = {"zero", "one", "two", "three", "four", "five"};

static void put_words(void)
{
    for (uint64_t number = 0; number < 6; number++)
        CHECK_STATUS(km_put_u64(seed.map, number, text(words[number]), NULL), KM_OK);
}

/* Look `count` numbers up in one call; out_values live until the section ends. */
static size_t get_numbers(km_reader *reader, const uint64_t *numbers, size_t count,
                          km_bytes *out_values)
{
    static km_u64_key keys[1000];
    static km_bytes names[1000];
    size_t found = SIZE_MAX;

    CHECK(count <= 1000);
    for (size_t i = 0; i < count; i++) {
        keys[i] = km_u64_key_from(numbers[i]);
        names[i] = km_bytes_of(keys[i].bytes, 8);
    }
    CHECK_STATUS(km_get_many(reader, seed.map, names, count, out_values, &found), KM_OK);
    return found;
}

static int is_word(km_bytes value, const char *word)
{
    return value.data && value.size == strlen(word) && memcmp(value.data, word, value.size) == 0;
}

static void get_finds_a_value_by_its_number(void **state)
{
    km_buffer value = KM_BUFFER_INIT;

    (void)state;
    put_words();
    seed_reopen(NULL);
    CHECK_STATUS(km_get_u64(seed.map, 2, &value), KM_OK);
    CHECK(seed_is(&value, "two"));
    CHECK_STATUS(km_get_u64(seed.map, 6, &value), KM_NOT_FOUND);
    km_buffer_free(&value);
}

static void get_many_finds_what_is_there(void **state)
{
    static const uint64_t numbers[] = {4, 600, 0, 4, UINT64_MAX};
    km_bytes values[5];
    km_reader *reader;

    (void)state;
    put_words();
    CHECK_STATUS(km_read_begin(seed.store, &reader), KM_OK);
    CHECK(get_numbers(reader, numbers, 5, values) == 3);
    CHECK(is_word(values[0], "four") && is_word(values[2], "zero") && is_word(values[3], "four"));
    CHECK(!values[1].data && values[1].size == 0 && !values[4].data);
    CHECK(get_numbers(reader, numbers, 0, values) == 0);
    km_read_end(reader);
}

static void get_many_tells_an_empty_value_from_none(void **state)
{
    static const uint64_t numbers[] = {7, 8};
    km_bytes values[2];
    km_reader *reader;

    (void)state;
    CHECK_STATUS(km_put_u64(seed.map, 7, text(""), NULL), KM_OK);
    CHECK_STATUS(km_read_begin(seed.store, &reader), KM_OK);
    CHECK(get_numbers(reader, numbers, 2, values) == 1);
    CHECK(values[0].data && values[0].size == 0 && !values[1].data);
    km_read_end(reader);
}

/* Whatever the number of keys is to the size of the groups in which they are looked up. */
static void get_many_agrees_with_get(void **state)
{
    static uint64_t numbers[1000];
    static km_bytes values[1000];
    struct harness_random random = harness_stream(1);
    uint8_t bytes[100];
    km_reader *reader;

    (void)state;
    for (uint64_t key = 0; key < 3000; key += 2) {
        size_t size = HARNESS_VALUE_MIN + key % 60;
        harness_value_fill(bytes, size, key, key + 1);
        CHECK_STATUS(km_put_u64(seed.map, key, km_bytes_of(bytes, size), NULL), KM_OK);
    }
    seed_reopen(NULL);
    for (size_t count = 0; count <= 1000; count = count < 70 ? count + 1 : count + 93) {
        size_t there = 0;
        for (size_t i = 0; i < count; i++) {
            numbers[i] = harness_below(&random, 3000);
            there += numbers[i] % 2 == 0;
        }
        CHECK_STATUS(km_read_begin(seed.store, &reader), KM_OK);
        CHECK(get_numbers(reader, numbers, count, values) == there);
        for (size_t i = 0; i < count; i++) {
            CHECK(!values[i].data == (numbers[i] % 2 != 0));
            if (values[i].data)
                CHECK(harness_value_version(values[i], numbers[i]) == numbers[i] + 1);
        }
        km_read_end(reader);
    }
}

static void values_stream_in_the_order_they_were_written(void **state)
{
    km_cursor *cursor;
    km_bytes value;

    (void)state;
    put_words();
    CHECK_STATUS(km_cursor_open(seed.map, NULL, &cursor), KM_OK);
    for (int i = 0; i < 6; i++) {
        CHECK_STATUS(km_cursor_next(cursor, NULL, &value), KM_OK);
        CHECK(is_word(value, words[i]));
    }
    CHECK_STATUS(km_cursor_next(cursor, NULL, &value), KM_END);
    km_cursor_close(cursor);
}

#define CASE(name, kind) cmocka_unit_test_setup_teardown(name, seed_begin_##kind, seed_end)
#define CASES(name) CASE(name, hash), CASE(name, insertion), CASE(name, sorted)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASES(get_finds_a_value_by_its_number),
        CASES(get_many_finds_what_is_there),
        CASES(get_many_tells_an_empty_value_from_none),
        CASES(get_many_agrees_with_get),
        CASE(values_stream_in_the_order_they_were_written, insertion),
        CASE(values_stream_in_the_order_they_were_written, sorted),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
