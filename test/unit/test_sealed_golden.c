/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed_golden.c -- sealed tables of format version 1 that are kept: they must be readable,
 * and what is not compressed must be built again byte for byte. (Another version of zstd may make
 * other frames.)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <unistd.h>

#include "format_util.h"
#include "sealed/sealed_internal.h"
#include "test_sealed_util.h"

#define GOLDEN "test/golden/sealed1.txt"
#define GOLDEN_SIZE_MAX ((size_t)1 << 20)

struct golden_table {
    const char *name;
    km_sealed_keys keys;
    km_sealed_compression compression;
    uint32_t block_size;
    uint32_t count;
    void (*record)(uint32_t i, uint8_t key[64], km_bytes *out_key, uint8_t *value,
                   km_bytes *out_value);
};

/* The empty key, keys that begin others, and text; values of all sizes from 0 on. */
static void bytes_record(uint32_t i, uint8_t key[64], km_bytes *out_key, uint8_t *value,
                         km_bytes *out_value)
{
    int size = i < 4 ? snprintf((char *)key, 64, "%.*s", (int)i, "abc")
                     : snprintf((char *)key, 64, "key:%05u", i * i);

    memset(value, 'a' + (int)(i % 26), i);
    *out_key = km_bytes_of(key, (size_t)size);
    *out_value = km_bytes_of(value, i);
}

static void number_record(uint32_t i, uint8_t key[64], km_bytes *out_key, uint8_t *value,
                          km_bytes *out_value)
{
    km_u64_key number = km_u64_key_from((uint64_t)i * i * 1000);

    memcpy(key, number.bytes + 4, 4);
    memset(value, 0, 100);
    value[i % 100] = (uint8_t)(i + 1);
    *out_key = km_bytes_of(key, 4);
    *out_value = km_bytes_of(value, 100);
}

/* The second value is larger than a block of several records may be. */
static void large_record(uint32_t i, uint8_t key[64], km_bytes *out_key, uint8_t *value,
                         km_bytes *out_value)
{
    km_u64_key number = km_u64_key_from(UINT64_C(0x0102030405060708) * (i + 1));

    memcpy(key, number.bytes, 8);
    memset(value, 0, 70000);
    value[i == 1 ? 69999 : 2] = 0xee;
    *out_key = km_bytes_of(key, 8);
    *out_value = km_bytes_of(value, i == 1 ? 70000 : 3);
}

static const struct golden_table golden_tables[] = {
    {"empty", KM_SEALED_U16, KM_SEALED_PLAIN, 4096, 0, NULL},
    {"bytes", KM_SEALED_BYTES, KM_SEALED_PLAIN, 4096, 100, bytes_record},
    {"numbers", KM_SEALED_U32, KM_SEALED_PLAIN, 4096, 150, number_record},
    {"large", KM_SEALED_U64, KM_SEALED_PLAIN, 4096, 3, large_record},
    {"packed", KM_SEALED_U32, KM_SEALED_ZSTD, 8192, 150, number_record},
};
#define GOLDEN_COUNT (sizeof(golden_tables) / sizeof(golden_tables[0]))

static char folder[HARNESS_PATH_SIZE];
static char path[HARNESS_PATH_SIZE];

/* ---- a machine without chance ------------------------------------------------------------ */

static km_status fixed_random(struct os *os, void *bytes, size_t size)
{
    (void)os;
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)(7 * i + 11);
    return KM_OK;
}

static uint64_t fixed_wall_ms(struct os *os)
{
    (void)os;
    return UINT64_C(1700000000123);
}

/* ---- files ------------------------------------------------------------------------------- */

static size_t read_file(uint8_t *bytes)
{
    FILE *file = fopen(path, "rb");
    size_t size;

    CHECK(file != NULL);
    size = fread(bytes, 1, GOLDEN_SIZE_MAX, file);
    fclose(file);
    return size;
}

static void write_file(const uint8_t *bytes, size_t size)
{
    FILE *file;

    (void)unlink(path);
    file = fopen(path, "wb");
    CHECK(file != NULL);
    CHECK(fwrite(bytes, 1, size, file) == size);
    CHECK(fclose(file) == 0);
}

/* ---- building and reading ---------------------------------------------------------------- */

static void build_table(const struct golden_table *golden, struct sealed_model *model)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;
    struct os_ops ops = *km__os_linux()->ops;
    struct os os = *km__os_linux();
    uint8_t *value = malloc(70000);
    uint8_t key[64];

    CHECK(value != NULL);
    options.keys = golden->keys;
    options.compression = golden->compression;
    options.block_size = golden->block_size;
    ops.random = fixed_random;
    ops.wall_ms = fixed_wall_ms;
    os.ops = &ops;
    CHECK_STATUS(km__sealed_builder_open(&os, path, &options, &builder, NULL), KM_OK);
    for (uint32_t i = 0; i < golden->count; i++) {
        km_bytes key_bytes, value_bytes;
        golden->record(i, key, &key_bytes, value, &value_bytes);
        CHECK_STATUS(km_sealed_builder_add(builder, key_bytes, value_bytes), KM_OK);
        sealed_model_add(model, key_bytes, value_bytes);
    }
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
    sealed_model_seal(model);
    free(value);
}

/* What is in the file, against a model. */
static void check_table(const struct golden_table *golden, const struct sealed_model *model)
{
    for (int no_mapping = 0; no_mapping < 2; no_mapping++) {
        km_sealed_options options = KM_SEALED_OPTIONS_INIT;
        km_sealed_info info = {.struct_size = sizeof(info)};
        km_sealed *table = NULL;
        options.no_mapping = no_mapping;
        CHECK_STATUS(km_sealed_open(path, &options, &table, NULL), KM_OK);
        sealed_check_all(table, model);
        CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
        CHECK_STATUS(km_sealed_get_info(table, &info), KM_OK);
        CHECK(info.keys == golden->keys && info.compression == golden->compression);
        CHECK(info.created_ms == fixed_wall_ms(NULL) && info.block_size == golden->block_size);
        CHECK(golden->count == 0 || info.block_count > 1);
        km_sealed_close(table);
    }
}

static void kept_tables_are_read_and_built_again(void **state)
{
    uint8_t *bytes = malloc(GOLDEN_SIZE_MAX);
    uint8_t *built = malloc(GOLDEN_SIZE_MAX);

    (void)state;
    CHECK(bytes && built);
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        const struct golden_table *golden = &golden_tables[i];
        size_t size = hex_block(GOLDEN, golden->name, bytes, GOLDEN_SIZE_MAX);
        struct sealed_model model = {0};
        CHECK_MSG(size > 0, "%s is not there", golden->name);
        if (golden->compression != KM_SEALED_PLAIN && !km__sealed_pack_exists())
            continue;
        build_table(golden, &model);
        check_table(golden, &model);
        if (golden->compression == KM_SEALED_PLAIN)
            CHECK_MSG(read_file(built) == size && memcmp(built, bytes, size) == 0,
                      "%s is built otherwise", golden->name);
        write_file(bytes, size);
        check_table(golden, &model);
        sealed_model_free(&model);
    }
    free(bytes);
    free(built);
}

/* Without zstd it is said what is missing. */
static void a_compressed_table_needs_zstd(void **state)
{
    uint8_t *bytes = malloc(GOLDEN_SIZE_MAX);
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;
    km_sealed *table = NULL;
    km_error error = {0};
    size_t size;

    (void)state;
    CHECK(bytes != NULL);
    size = hex_block(GOLDEN, "packed", bytes, GOLDEN_SIZE_MAX);
    write_file(bytes, size);
    free(bytes);
    if (km__sealed_pack_exists())
        skip();
    CHECK_STATUS(km_sealed_open(path, NULL, &table, &error), KM_E_UNSUPPORTED);
    CHECK(strstr(error.message, "zstd") != NULL);
    options.compression = KM_SEALED_ZSTD;
    CHECK_STATUS(km_sealed_builder_open(path, &options, &builder, &error), KM_E_UNSUPPORTED);
    CHECK(strstr(error.message, "zstd") != NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_tables_are_read_and_built_again),
        cmocka_unit_test(a_compressed_table_needs_zstd),
    };

    harness_begin();
    harness_make_folder(folder);
    harness_path(path, folder, "table");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
