/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed_packed.c -- compressed sealed tables, hostile frames, and the cache of blocks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "sealed/sealed_internal.h"
#include "test_sealed_util.h"

static char folder[HARNESS_PATH_SIZE];
static char path[HARNESS_PATH_SIZE];

static const struct sealed_look *const repeated = &sealed_looks[7];

static int needs_zstd(void **state)
{
    (void)state;
    if (!km__sealed_pack_exists())
        skip();
    return 0;
}

static km_sealed_builder *open_builder(const km_sealed_build_options *options)
{
    km_sealed_builder *builder = NULL;
    km_error error = {0};

    CHECK_MSG(km_sealed_builder_open(path, options, &builder, &error) == KM_OK, "%s",
              error.message);
    return builder;
}

static void finish(km_sealed_builder *builder)
{
    km_error error = {0};

    CHECK_MSG(km_sealed_builder_finish(builder, &error) == KM_OK, "%s", error.message);
}

static km_sealed *open_table(int no_mapping, uint64_t cache_size)
{
    km_sealed_options options = KM_SEALED_OPTIONS_INIT;
    km_sealed *table = NULL;
    km_error error = {0};

    options.no_mapping = no_mapping;
    options.cache_size = cache_size;
    CHECK_MSG(km_sealed_open(path, &options, &table, &error) == KM_OK, "%s", error.message);
    return table;
}

static km_sealed_info info_of(const km_sealed *table)
{
    km_sealed_info info = {.struct_size = sizeof(info)};

    CHECK_STATUS(km_sealed_get_info(table, &info), KM_OK);
    return info;
}

static km_sealed_build_options packed_options(void)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;

    options.compression = KM_SEALED_ZSTD;
    options.memory_max = KM_SEALED_MEMORY_MIN;
    return options;
}

/* ---- compressed tables --------------------------------------------------------------------- */

static int compare_by_key(const void *a, const void *b)
{
    uint8_t p[4096], q[4096];
    size_t p_size = sealed_key(repeated, *(const uint64_t *)a, p);
    size_t q_size = sealed_key(repeated, *(const uint64_t *)b, q);

    return sealed_compare_keys(km_bytes_of(p, p_size), km_bytes_of(q, q_size));
}

/* In order; with one of the last out of order, so that a compressed file is merged; in any. */
static void compressed_tables_are_right_and_small(void **state)
{
    static uint64_t numbers[20000];
    const size_t count = sizeof(numbers) / sizeof(numbers[0]);

    (void)state;
    for (int order = 0; order < 3; order++) {
        struct sealed_model model = {0};
        km_sealed_build_options options = packed_options();
        km_sealed_builder *builder;
        km_sealed_info info;
        km_sealed *table;
        for (size_t i = 0; i < count; i++)
            numbers[i] = i;
        if (order < 2)
            qsort(numbers, count, sizeof(numbers[0]), compare_by_key);
        if (order == 1) {
            numbers[count - 1] = numbers[3];
            numbers[0] = numbers[count - 2];
        }
        builder = open_builder(&options);
        for (size_t i = order == 1; i < count; i++)
            CHECK_STATUS(sealed_add_number(builder, &model, repeated, numbers[i], i), KM_OK);
        finish(builder);
        sealed_model_seal(&model);
        table = open_table(0, 0);
        sealed_check_all(table, &model);
        CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
        CHECK_STATUS(km_sealed_check(path, NULL, NULL, NULL), KM_OK);
        info = info_of(table);
        CHECK(info.compression == KM_SEALED_ZSTD && info.block_size == 32768);
        CHECK(info.file_bytes < (info.key_bytes + info.value_bytes) / 3);
        CHECK(!table->map && !km__sealed_is_plainly_mapped(table));
        km_sealed_close(table);
        sealed_model_free(&model);
    }
}

/* What cannot be compressed takes the space that it takes without compression. */
static void what_saves_nothing_is_stored_as_it_is(void **state)
{
    uint64_t sizes[2] = {0};

    (void)state;
    for (int compressed = 0; compressed < 2; compressed++) {
        struct sealed_model model = {0};
        km_sealed_build_options options = packed_options();
        km_sealed_builder *builder;
        km_sealed *table;
        options.keys = KM_SEALED_U64;
        options.block_size = 8192;
        options.compression = compressed ? KM_SEALED_ZSTD : KM_SEALED_PLAIN;
        builder = open_builder(&options);
        for (uint64_t i = 0; i < 2000; i++)
            CHECK_STATUS(sealed_add_number(builder, &model, &sealed_looks[0], i, 0), KM_OK);
        finish(builder);
        sealed_model_seal(&model);
        table = open_table(0, 0);
        sealed_check_all(table, &model);
        CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
        sizes[compressed] = info_of(table).file_bytes;
        km_sealed_close(table);
        sealed_model_free(&model);
    }
    CHECK(sizes[0] == sizes[1]);
}

/* Up to 16 MiB a block of one record is compressed too. */
static void large_values_are_compressed_up_to_a_size(void **state)
{
    static const size_t sizes[] = {100, 5000, 70000, 3000000, 16000000, 17000000};
    uint8_t *value = malloc(17000000);
    uint64_t before = 0;

    (void)state;
    CHECK(value != NULL);
    sealed_fill_repeated(value, 17000000, 9);
    for (size_t i = 0; i < 6; i++) {
        km_sealed_build_options options = packed_options();
        km_sealed_builder *builder = open_builder(&options);
        km_buffer found = KM_BUFFER_INIT;
        km_sealed *table;
        uint64_t size;
        CHECK_STATUS(
            km_sealed_builder_add(builder, km_bytes_of("k", 1), km_bytes_of(value, sizes[i])),
            KM_OK);
        finish(builder);
        table = open_table(0, 0);
        CHECK_STATUS(km_sealed_get(table, km_bytes_of("k", 1), &found), KM_OK);
        CHECK(sealed_bytes_equal(km_bytes_of(found.data, found.size), value, sizes[i]));
        CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
        size = info_of(table).file_bytes;
        CHECK(i == 5 ? size > sizes[i] : size < 16384 + sizes[i] / 100);
        CHECK(size >= before);
        before = size;
        km_sealed_close(table);
        km_buffer_free(&found);
    }
    free(value);
}

/* Values without repetitions, but of few different bytes. */
static void add_digits(km_sealed_builder *builder, uint64_t count)
{
    for (uint64_t n = 0; n < count; n++) {
        km_u64_key key = km_u64_key_from(n);
        uint8_t value[200];
        harness_fill(value, sizeof(value), n * 1000);
        for (size_t i = 0; i < sizeof(value); i++)
            value[i] = '0' + value[i] % 8;
        CHECK_STATUS(km_sealed_builder_add(builder, km_bytes_of(key.bytes, 8),
                                           km_bytes_of(value, sizeof(value))),
                     KM_OK);
    }
}

static void levels_have_limits(void **state)
{
    static const int levels[] = {KM_SEALED_LEVEL_MIN, 1, 0, KM_SEALED_LEVEL_MAX};
    static const int bad_levels[] = {KM_SEALED_LEVEL_MIN - 1, KM_SEALED_LEVEL_MAX + 1};
    km_sealed_build_options options = packed_options();
    km_sealed_builder *builder = NULL;
    uint64_t sizes[4];

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        km_sealed *table;
        options.compression_level = levels[i];
        builder = open_builder(&options);
        add_digits(builder, 3000);
        finish(builder);
        table = open_table(0, 0);
        CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
        sizes[i] = info_of(table).file_bytes;
        km_sealed_close(table);
    }
    CHECK(sizes[0] > sizes[3]);
    for (size_t i = 0; i < 2; i++) {
        options.compression_level = bad_levels[i];
        CHECK_STATUS(km_sealed_builder_open(path, &options, &builder, NULL), KM_E_INVALID);
    }
    options.compression_level = 0;
    options.compression = (km_sealed_compression)2;
    CHECK_STATUS(km_sealed_builder_open(path, &options, &builder, NULL), KM_E_INVALID);
}

/* ---- hostile frames ------------------------------------------------------------------------ */

/* A block of one record with a value of `size` zeros. */
static size_t make_plain(uint8_t *bytes, uint32_t size, uint32_t seed)
{
    static const uint8_t zeros[SEALED_BLOCK_SIZE_MAX];
    uint32_t key_size = 0;
    struct sealed_records records = {.prefix = (const uint8_t *)"key",
                                     .suffix_sizes = &key_size,
                                     .suffixes = zeros,
                                     .value_sizes = &size,
                                     .values = zeros};

    records.shape = (struct sealed_shape){
        .count = 1, .prefix_size = 3, .key_bytes = 3, .value_bytes = size};
    km__sealed_block_encode_head(&records, seed, bytes);
    memset(bytes + km__sealed_shape_head_size(&records.shape), 0, size);
    return (size_t)km__sealed_shape_size(&records.shape);
}

static size_t pack(const uint8_t *plain, size_t size, struct sealed_packed packed, uint8_t *bytes)
{
    const struct allocator *allocator = &km__os_linux()->allocator;
    struct sealed_packer *packer = NULL;
    size_t frame_size = 0;

    memset(bytes, 0, 2 * SEALED_PAGE);
    CHECK_STATUS(km__sealed_packer_create(allocator, 0, &packer), KM_OK);
    CHECK_STATUS(km__sealed_pack(packer, km_bytes_of(plain, size),
                                 bytes + SEALED_PACKED_HEADER_SIZE, SEALED_PAGE, &frame_size),
                 KM_OK);
    CHECK(frame_size > 0);
    km__sealed_packer_destroy(allocator, packer);
    packed.frame = bytes + SEALED_PACKED_HEADER_SIZE;
    packed.frame_size = (uint32_t)frame_size;
    km__sealed_packed_encode(&packed, 5, bytes);
    return SEALED_PACKED_HEADER_SIZE + frame_size;
}

static km_status unpack(const uint8_t *bytes, struct sealed_block *out, km_buffer *plain)
{
    const struct allocator *allocator = &km__os_linux()->allocator;
    struct sealed_unpackers *unpackers = NULL;
    km_status rc;

    CHECK_STATUS(km__sealed_unpackers_create(allocator, &unpackers), KM_OK);
    rc = km__sealed_unpack_block(unpackers, km_bytes_of(bytes, 2 * SEALED_PAGE), 5, plain, out);
    km__sealed_unpackers_destroy(allocator, unpackers);
    return rc;
}

/* Take the last byte of a frame away. */
static void cut_frame(uint8_t *bytes)
{
    uint32_t size = km__load32(bytes + 4) - 1;

    bytes[SEALED_PACKED_HEADER_SIZE + size] = 0;
    km__store32(bytes + 4, size);
    km__store32(bytes, km__crc32c(5, bytes + 4, SEALED_PACKED_HEADER_SIZE - 4 + (size_t)size));
}

static void a_frame_has_what_its_block_says(void **state)
{
    static uint8_t plain[SEALED_BLOCK_SIZE_MAX], bytes[2 * SEALED_PAGE], nested[2 * SEALED_PAGE];
    km_buffer room = KM_BUFFER_INIT;
    struct sealed_block block;
    size_t size = make_plain(plain, 20000, 5);
    struct sealed_packed packed = {.plain_size = (uint32_t)size, .count = 1};

    (void)state;
    pack(plain, size, packed, bytes);
    CHECK_STATUS(unpack(bytes, &block, &room), KM_OK);
    CHECK(block.count == 1 && block.value_bytes == 20000);
    cut_frame(bytes); /* what was unpacked before is still in `room` */
    CHECK_STATUS(unpack(bytes, &block, &room), KM_E_CORRUPT);
    for (int change = -1; change <= 1; change += 2) { /* more, or less, than it holds */
        packed.plain_size = (uint32_t)(size + (size_t)change);
        pack(plain, size, packed, bytes);
        CHECK_STATUS(unpack(bytes, &block, &room), KM_E_CORRUPT);
    }
    packed = (struct sealed_packed){.plain_size = (uint32_t)size, .count = 2};
    pack(plain, size, packed, bytes);
    CHECK_STATUS(unpack(bytes, &block, &room), KM_E_CORRUPT);
    packed = (struct sealed_packed){.plain_size = (uint32_t)size + 1, .count = 1};
    pack(plain, size + 1, packed, bytes); /* a byte behind the block */
    CHECK_STATUS(unpack(bytes, &block, &room), KM_E_CORRUPT);
    packed = (struct sealed_packed){.plain_size = 2 * SEALED_PAGE, .count = 1};
    packed.plain_size = (uint32_t)size;
    pack(plain, size, packed, nested);
    packed.plain_size = sizeof(nested);
    pack(nested, sizeof(nested), packed, bytes); /* a compressed block in one */
    CHECK_STATUS(unpack(bytes, &block, &room), KM_E_CORRUPT);
    size = make_plain(plain, 20000, 6); /* of another place */
    packed.plain_size = (uint32_t)size;
    pack(plain, size, packed, bytes);
    CHECK_STATUS(unpack(bytes, &block, &room), KM_E_CORRUPT);
    km_buffer_free(&room);
}

/* Sizes and flags of a header whose checksum is right. */
static void bounds_of_compressed_blocks_are_kept(void **state)
{
    static const struct {
        size_t offset, size;
        uint32_t value;
    } fields[] = {{4, 4, 2 * SEALED_PAGE},
                  {4, 4, UINT32_MAX},
                  {8, 4, 0},
                  {8, 4, SEALED_PACKED_PLAIN_MAX + 1},
                  {8, 4, UINT32_MAX},
                  {12, 2, 0},
                  {12, 2, 8193},
                  {14, 2, 5},
                  {14, 2, 6},
                  {14, 2, 12}};
    static uint8_t plain[SEALED_BLOCK_SIZE_MAX], bytes[2 * SEALED_PAGE];
    struct sealed_packed packed = {.plain_size = (uint32_t)make_plain(plain, 20000, 5), .count = 1};
    struct sealed_packed out;

    (void)state;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        size_t used = pack(plain, packed.plain_size, packed, bytes);
        CHECK_STATUS(km__sealed_packed_decode(bytes, sizeof(bytes), 5, &out), KM_OK);
        CHECK_STATUS(km__sealed_packed_decode(bytes, used - 1, 5, &out), KM_E_CORRUPT);
        if (fields[i].size == 4)
            km__store32(bytes + fields[i].offset, fields[i].value);
        else
            km__store16(bytes + fields[i].offset, (uint16_t)fields[i].value);
        km__store32(bytes, km__crc32c(5, bytes + 4, used - 4));
        CHECK_MSG(km__sealed_packed_decode(bytes, sizeof(bytes), 5, &out) == KM_E_CORRUPT,
                  "field %zu", i);
    }
    packed.plain_size = SEALED_BLOCK_SIZE_MAX + 1; /* is for one record alone */
    pack(plain, SEALED_BLOCK_SIZE_MAX, packed, bytes);
    CHECK_STATUS(km__sealed_packed_decode(bytes, sizeof(bytes), 5, &out), KM_OK);
    packed.count = 2;
    km__store16(bytes + 12, 2);
    km__store32(bytes, km__crc32c(5, bytes + 4, 12 + (size_t)out.frame_size));
    CHECK_STATUS(km__sealed_packed_decode(bytes, sizeof(bytes), 5, &out), KM_E_CORRUPT);
}

/* ---- the cache ----------------------------------------------------------------------------- */

#define CACHED_KEYS 120000u /* 12 MB: three times the smallest cache */
#define CACHED_VALUE 100u

static void build_for_cache(km_sealed_compression compression)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder;
    uint8_t value[CACHED_VALUE];

    options.keys = KM_SEALED_U64;
    options.compression = compression;
    builder = open_builder(&options);
    for (uint64_t i = 0; i < CACHED_KEYS; i++) {
        harness_value_fill(value, sizeof(value), i, 1);
        CHECK_STATUS(km_sealed_builder_add_number(builder, i, km_bytes_of(value, sizeof(value))),
                     KM_OK);
    }
    finish(builder);
}

static void get_right(const km_sealed *table, uint64_t number, km_buffer *value)
{
    CHECK_STATUS(km_sealed_get_number(table, number, value), KM_OK);
    CHECK(value->size == CACHED_VALUE);
    CHECK(harness_value_version(km_bytes_of(value->data, value->size), number) == 1);
}

static void hits_and_misses_are_counted(void **state)
{
    km_buffer value = KM_BUFFER_INIT;

    (void)state;
    for (int compressed = 0; compressed <= km__sealed_pack_exists(); compressed++) {
        km_sealed *table;
        km_sealed_info info;
        build_for_cache(compressed ? KM_SEALED_ZSTD : KM_SEALED_PLAIN);
        table = open_table(1, KM_SEALED_CACHE_SIZE_MIN);
        info = info_of(table);
        CHECK(info.cache_hits == 0 && info.cache_misses == 0);
        CHECK(info.cache_bytes > 0 && info.cache_bytes < 100000);
        for (uint64_t i = 0; i < 1000; i++)
            get_right(table, i % 10, &value); /* all in the first block */
        CHECK_STATUS(km_sealed_contains(table, km_bytes_of("\0\0\0\0\0\0\0\1", 8)), KM_OK);
        info = info_of(table);
        CHECK(info.cache_hits == 1000 && info.cache_misses == 1);
        CHECK(info.cache_bytes > 4000 && info.memory_bytes > info.cache_bytes);
        km_sealed_close(table);
        table = open_table(0, KM_SEALED_CACHE_SIZE_MIN);
        get_right(table, 7, &value);
        CHECK((info_of(table).cache_misses > 0) == (compressed != 0)); /* none if it is mapped */
        km_sealed_close(table);
    }
    km_buffer_free(&value);
}

/* A block in use again and again stays while many pass by once. */
static void what_is_in_use_stays(void **state)
{
    km_buffer value = KM_BUFFER_INIT;
    km_sealed *table;
    uint64_t misses;

    (void)state;
    build_for_cache(KM_SEALED_PLAIN);
    table = open_table(1, KM_SEALED_CACHE_SIZE_MIN);
    for (uint64_t i = 0; i < CACHED_KEYS; i += 20) {
        get_right(table, i, &value);
        get_right(table, 77, &value);
    }
    misses = info_of(table).cache_misses;
    get_right(table, 77, &value);
    CHECK(info_of(table).cache_misses == misses);
    CHECK(misses <= info_of(table).block_count + 1);
    km_sealed_close(table);
    km_buffer_free(&value);
}

/* What somebody looks at is not freed, however many others come. */
static void a_block_that_is_looked_at_stays(void **state)
{
    static uint8_t bytes[SEALED_BLOCK_SIZE_MAX];
    struct sealed_cache *cache = NULL;
    struct sealed_cached *cached = NULL, *other = NULL;
    const struct sealed_block *found;
    struct sealed_block block;
    size_t size = make_plain(bytes, 20000, 5);

    (void)state;
    CHECK_STATUS(km__sealed_cache_create(km__os_linux(), KM_SEALED_CACHE_SIZE_MIN, &cache), KM_OK);
    CHECK_STATUS(km__sealed_block_decode(bytes, size, 5, &block), KM_OK);
    km__sealed_cache_add(cache, SEALED_PAGE, &block);
    found = km__sealed_cache_find(cache, SEALED_PAGE, &cached);
    CHECK(found != NULL && found->bytes != bytes);
    for (uint64_t i = 2; i < 2000; i++)
        km__sealed_cache_add(cache, i * SEALED_PAGE, &block);
    CHECK(km__sealed_cache_find(cache, SEALED_PAGE, &other) == found && other == cached);
    CHECK(memcmp(found->bytes, bytes, size) == 0);
    km__sealed_cache_release(cached);
    km__sealed_cache_release(other);
    km__sealed_cache_destroy(cache);
}

/* Memory that a cache takes, as its allocator sees it. */
static atomic_size_t allocated, allocated_most;

static void *count_allocate(void *context, size_t size)
{
    const struct allocator *allocator = context;
    size_t now = atomic_fetch_add(&allocated, size) + size;
    size_t most = atomic_load(&allocated_most);

    while (now > most && !atomic_compare_exchange_weak(&allocated_most, &most, now)) {
    }
    return allocator->allocate(allocator->context, size);
}

static void count_release(void *context, void *memory, size_t size)
{
    const struct allocator *allocator = context;

    if (memory)
        atomic_fetch_sub(&allocated, size);
    allocator->release(allocator->context, memory, size);
}

static void *get_at_random(void *context)
{
    struct harness_random random = harness_stream(7000 + harness_now_ns() % 1000);
    km_buffer value = KM_BUFFER_INIT;

    for (uint64_t i = 0; i < harness_scaled(20000); i++) {
        uint64_t number = harness_below(&random, 4) ? harness_below(&random, 3000)
                                                    : harness_below(&random, CACHED_KEYS);
        get_right(context, number, &value);
    }
    km_buffer_free(&value);
    return NULL;
}

static void a_cache_keeps_to_its_size_whatever_threads_do(void **state)
{
    struct os os = *km__os_linux();

    (void)state;
    os.allocator.context = &km__os_linux()->allocator;
    os.allocator.allocate = count_allocate;
    os.allocator.release = count_release;
    for (int compressed = 0; compressed <= km__sealed_pack_exists(); compressed++) {
        km_sealed_options options = KM_SEALED_OPTIONS_INIT;
        km_sealed *table = NULL;
        km_sealed_info info;
        pthread_t threads[4];
        size_t before;
        build_for_cache(compressed ? KM_SEALED_ZSTD : KM_SEALED_PLAIN);
        options.no_mapping = 1;
        CHECK_STATUS(km__sealed_open(&os, path, &options, &table, NULL), KM_OK);
        before = atomic_load(&allocated);
        km_sealed_close(table);
        CHECK(atomic_load(&allocated) == 0);
        options.cache_size = KM_SEALED_CACHE_SIZE_MIN;
        CHECK_STATUS(km__sealed_open(&os, path, &options, &table, NULL), KM_OK);
        atomic_store(&allocated_most, 0);
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&threads[i], NULL, get_at_random, table) == 0);
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        info = info_of(table);
        CHECK(info.cache_hits > info.cache_misses / 4 && info.cache_misses > 0);
        CHECK(info.cache_hits + info.cache_misses == 4 * harness_scaled(20000));
        CHECK(info.cache_bytes <= options.cache_size);
        CHECK(atomic_load(&allocated_most) <= before + options.cache_size);
        /* it is used, too */
        CHECK(harness_scaled(20000) < 5000 || info.cache_bytes > options.cache_size / 2);
        km_sealed_close(table);
        CHECK(atomic_load(&allocated) == 0);
    }
}

static void a_cache_that_is_too_small_is_refused(void **state)
{
    km_sealed_options options = KM_SEALED_OPTIONS_INIT;
    km_sealed *table = NULL;

    (void)state;
    build_for_cache(KM_SEALED_PLAIN);
    options.cache_size = KM_SEALED_CACHE_SIZE_MIN - 1;
    CHECK_STATUS(km_sealed_open(path, &options, &table, NULL), KM_E_INVALID);
}

/* A child has no use for the cache of its parent, whose locks may be held. */
static void a_child_reads_without_the_cache(void **state)
{
    km_buffer value = KM_BUFFER_INIT;
    km_sealed *table;
    int status = 0;
    pid_t child;

    (void)state;
    build_for_cache(KM_SEALED_PLAIN);
    table = open_table(1, KM_SEALED_CACHE_SIZE_MIN);
    get_right(table, 5, &value);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        get_right(table, 5, &value);
        _exit(info_of(table).cache_hits == 0 ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    get_right(table, 5, &value);
    CHECK(info_of(table).cache_hits == 1);
    km_sealed_close(table);
    km_buffer_free(&value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_reads_without_the_cache), /* first: it forks */
        cmocka_unit_test_setup(compressed_tables_are_right_and_small, needs_zstd),
        cmocka_unit_test_setup(what_saves_nothing_is_stored_as_it_is, needs_zstd),
        cmocka_unit_test_setup(large_values_are_compressed_up_to_a_size, needs_zstd),
        cmocka_unit_test_setup(levels_have_limits, needs_zstd),
        cmocka_unit_test_setup(a_frame_has_what_its_block_says, needs_zstd),
        cmocka_unit_test_setup(bounds_of_compressed_blocks_are_kept, needs_zstd),
        cmocka_unit_test(hits_and_misses_are_counted),
        cmocka_unit_test(what_is_in_use_stays),
        cmocka_unit_test(a_block_that_is_looked_at_stays),
        cmocka_unit_test(a_cache_keeps_to_its_size_whatever_threads_do),
        cmocka_unit_test(a_cache_that_is_too_small_is_refused),
    };

    harness_begin();
    harness_make_folder(folder);
    harness_path(path, folder, "table");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
