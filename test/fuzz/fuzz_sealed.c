/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_sealed.c -- the decoders of sealed tables, and a reader of whole ones, on any bytes.
 *
 * Input: a first byte that says what the rest is: a block, a group, a footer, a table with one
 * block, made of a block and a group from the input (u16le: size of the block), or a block that is
 * compressed here. Bit 7: checksums are as they are, else they are made right, so that what lies
 * behind them is reached. The tables' footers say that blocks may be compressed.
 *
 * P1. Any bytes get an answer, and nothing outside of them is read (they lie in memory of their
 * own). P2. Outputs are within the bytes given. P3. A reader of a table whose checksums are right
 * gives errors or some data, in bounded time and memory.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "format/sealed_format.h"
#include "sealed/sealed_internal.h"
#include "sim/sim.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum what { A_BLOCK, A_GROUP, A_FOOTER, A_TABLE, A_PACKED_BLOCK, WHAT_COUNT };

#define KEEP_CHECKSUMS 0x80
#define BLOCK_MAX ((size_t)16 * SEALED_PAGE)

static uint8_t *copy_of(const uint8_t *data, size_t size)
{
    uint8_t *p = malloc(size ? size : 1);

    KM_ASSERT(p != NULL);
    if (size)
        memcpy(p, data, size);
    return p;
}

static void complete_block(uint8_t *p, size_t size, uint32_t seed)
{
    uint32_t head_size = size >= SEALED_BLOCK_HEADER_SIZE ? km__load32(p + 4) : 0;

    if (size >= SEALED_BLOCK_HEADER_SIZE && km__sealed_block_is_packed(p) &&
        head_size <= size - SEALED_PACKED_HEADER_SIZE)
        head_size += SEALED_PACKED_HEADER_SIZE;
    if (head_size >= 4 && head_size <= size)
        km__store32(p, km__crc32c(seed, p + 4, head_size - 4));
}

static void complete_group(uint8_t *p, size_t size, uint32_t seed)
{
    uint32_t group_size = size >= SEALED_GROUP_HEADER_SIZE ? km__load32(p + 4) : 0;

    if (group_size >= 4 && group_size <= size)
        km__store32(p, km__crc32c(seed, p + 4, group_size - 4));
}

/* ---- blocks ------------------------------------------------------------------------------ */

static void check_inside(km_bytes bytes, const uint8_t *p, size_t size)
{
    const uint8_t *data = bytes.data;

    KM_ASSERT(data >= p && data <= p + size && bytes.size <= (size_t)(p + size - data));
}

/* Everything of a block that was decoded from, or into, `size` bytes. */
static void use_decoded(struct sealed_block block, const uint8_t *p, size_t size)
{
    uint32_t index = 0;

    KM_ASSERT(block.count >= 1 && block.count <= SEALED_BLOCK_RECORDS_MAX);
    (void)!km__sealed_block_check_values(&block);
    (void)!km__sealed_block_check_order(&block, size, 8);
    for (uint32_t i = 0; i < block.count; i++) {
        km_bytes suffix, value;
        if (km__sealed_block_suffix(&block, i, &suffix) == KM_OK) {
            check_inside(suffix, p, size);
            if (i < 4 && km__sealed_block_find(&block, suffix, &index) >= 0)
                KM_ASSERT(index <= block.count);
        }
        if (km__sealed_block_value(&block, i, &value) == KM_OK)
            check_inside(value, p, size);
        (void)!km__sealed_block_checked_value(&block, i, &value);
    }
}

/* A block as a reader decodes it, which may be compressed. */
static void use_block(const uint8_t *p, size_t size, uint32_t seed)
{
    const struct allocator *allocator = &km__os_linux()->allocator;
    struct sealed_unpackers *unpackers = NULL;
    km_buffer plain = KM_BUFFER_INIT;
    struct sealed_block block;

    (void)!km__sealed_unpackers_create(allocator, &unpackers);
    if (km__sealed_unpack_block(unpackers, km_bytes_of(p, size), seed, &plain, &block) == KM_OK) {
        if (block.bytes == p)
            use_decoded(block, p, size);
        else
            use_decoded(block, block.bytes, (size_t)(block.end - block.bytes));
    }
    km_buffer_free(&plain);
    km__sealed_unpackers_destroy(allocator, unpackers);
}

/* The input as what a frame holds, so that what lies behind decompression is reached. */
static void use_packed(uint8_t *p, size_t size, int keep)
{
    const struct allocator *allocator = &km__os_linux()->allocator;
    size_t room = 2 * size + 1024;
    struct sealed_packer *packer = NULL;
    struct sealed_packed packed = {.count = 1};
    uint8_t *bytes = malloc(room);
    size_t frame_size = 0;

    KM_ASSERT(bytes != NULL);
    if (!keep)
        complete_block(p, size, 1);
    if (size >= SEALED_BLOCK_HEADER_SIZE && size <= SEALED_BLOCK_SIZE_MAX &&
        km__sealed_packer_create(allocator, 1, &packer) == KM_OK) {
        packed.plain_size = (uint32_t)size;
        packed.count = 1u + (km__load16(p + 12) - 1u) % SEALED_BLOCK_RECORDS_MAX;
        KM_ASSERT(km__sealed_pack(packer, km_bytes_of(p, size), bytes + SEALED_PACKED_HEADER_SIZE,
                                  room - SEALED_PACKED_HEADER_SIZE, &frame_size) == KM_OK);
        packed.frame = bytes + SEALED_PACKED_HEADER_SIZE;
        packed.frame_size = (uint32_t)frame_size;
        km__sealed_packed_encode(&packed, 1, bytes);
        use_block(bytes, SEALED_PACKED_HEADER_SIZE + frame_size, 1);
        km__sealed_packer_destroy(allocator, packer);
    }
    free(bytes);
}

/* ---- groups and footers ------------------------------------------------------------------ */

static void use_group(const uint8_t *p, size_t size, uint32_t seed)
{
    struct sealed_group group;

    if (km__sealed_group_decode(p, size, seed, &group) != KM_OK)
        return;
    for (uint32_t i = 0; i < group.count; i++) {
        km_bytes suffix = km__sealed_group_suffix(&group, i);
        uint32_t filter_size = 0;
        const uint8_t *filter = km__sealed_group_filter(&group, i, &filter_size);
        check_inside(suffix, p, size);
        check_inside(km_bytes_of(filter, filter_size), p, size);
        KM_ASSERT(km__sealed_group_find(&group, suffix) < group.count);
        (void)km__sealed_filter_may_have(filter, filter_size, km__sealed_hash(p, i));
    }
}

static void complete_structure(uint8_t *p, const char *magic)
{
    memcpy(p, magic, 8);
    km__store32(p + 8, 1);
    km__store64(p + 12, 0);
    km__store32(p + 20, 0);
    km__store32(p + 20, km__crc32c(0, p, SEALED_PAGE));
}

static void use_footer(const uint8_t *data, size_t size, int keep)
{
    uint8_t *p = calloc(1, SEALED_PAGE);
    struct sealed_footer footer;
    uint8_t again[SEALED_PAGE];
    uint64_t file_size;

    KM_ASSERT(p != NULL);
    if (size)
        memcpy(p, data, size < SEALED_PAGE ? size : SEALED_PAGE);
    if (!keep)
        complete_structure(p, "KMSEALF1");
    file_size = km__round_up(km__load64(p + 96) + km__load64(p + 104), SEALED_PAGE) + SEALED_PAGE;
    if (km__sealed_footer_decode(p, file_size, &footer) == KM_OK) {
        km__sealed_footer_encode(&footer, again);
        KM_ASSERT(km__load32(p + 16) != 0 || memcmp(again, p, SEALED_PAGE) == 0);
    }
    free(p);
}

/* ---- whole tables ------------------------------------------------------------------------ */

static void read_table(struct os *os)
{
    km_sealed_options options = {.struct_size = sizeof(options),
                                 .cache_size = KM_SEALED_CACHE_SIZE_MIN};
    km_sealed *table = NULL;
    km_sealed_cursor *cursor = NULL;
    km_buffer value = KM_BUFFER_INIT;
    km_bytes keys[3] = {{"", 0}, {"k", 1}, {"12345678", 8}}, values[3], key, found;
    uint64_t count = 0;

    if (km__sealed_open(os, "f/table", &options, &table, NULL) != KM_OK)
        return;
    for (int i = 0; i < 6; i++) /* the second time from the cache, if it is there */
        (void)!km_sealed_get(table, keys[i % 3], &value);
    (void)!km_sealed_get_many(table, keys, 3, &value, values, NULL);
    if (km_sealed_cursor_open(table, NULL, &cursor) == KM_OK) {
        while (km_sealed_cursor_next(cursor, &key, &found) == KM_OK) {
            count++;
            KM_ASSERT(count <= km_sealed_count(table));
        }
        for (int i = 0; i < 3; i++)
            (void)!km_sealed_cursor_seek(cursor, keys[i]);
        (void)!km_sealed_cursor_previous(cursor, &key, &found);
    }
    (void)!km_sealed_verify(table, NULL, NULL, NULL);
    km_sealed_cursor_close(cursor);
    km_sealed_close(table);
    km_buffer_free(&value);
}

/* Header, one block, one group, footer; places and counts of the footer are taken from the group.
 */
static size_t make_table(const uint8_t *data, size_t size, int keep, uint8_t **out)
{
    static const uint8_t id[SEALED_ID_SIZE];
    uint32_t id_sum = km__sealed_id_sum(id);
    size_t block_size = size >= 2 ? km__load16(data) % BLOCK_MAX : 0;
    size_t block_room, group_size, file_size;
    struct sealed_footer footer = {.block_size = SEALED_PAGE,
                                   .block_count = 1,
                                   .group_count = 1,
                                   .compression = km__sealed_pack_exists()
                                                      ? SEALED_COMPRESSION_ZSTD
                                                      : SEALED_COMPRESSION_NONE};
    uint8_t *p;

    data += size >= 2 ? 2 : size;
    size -= size >= 2 ? 2 : size;
    block_size = block_size < size ? block_size : size;
    group_size = size - block_size;
    block_room = block_size ? km__round_up(block_size, SEALED_PAGE) : SEALED_PAGE;
    footer.index_offset = SEALED_PAGE + block_room;
    footer.index_size = group_size > SEALED_GROUP_HEADER_SIZE ? group_size
                                                              : SEALED_GROUP_HEADER_SIZE;
    file_size = km__round_up(footer.index_offset + footer.index_size, SEALED_PAGE) + SEALED_PAGE;
    p = calloc(1, file_size);
    KM_ASSERT(p != NULL);
    km__sealed_header_encode(id, p);
    memcpy(p + SEALED_PAGE, data, block_size);
    memcpy(p + footer.index_offset, data + block_size, group_size);
    if (group_size >= SEALED_GROUP_HEADER_SIZE + 8) {
        footer.count = km__load32(data + block_size + SEALED_GROUP_HEADER_SIZE + 4);
        footer.key_bytes = footer.count;
    }
    footer.count = footer.count ? footer.count : 1;
    if (!keep) {
        complete_block(p + SEALED_PAGE, block_room, km__sealed_block_seed(id_sum, SEALED_PAGE));
        km__store64(p + footer.index_offset + 16, 1);
        complete_group(p + footer.index_offset, footer.index_size,
                       km__sealed_group_seed(id_sum, 0));
    }
    km__sealed_footer_encode(&footer, p + file_size - SEALED_PAGE);
    *out = p;
    return file_size;
}

static void use_table(const uint8_t *data, size_t size, int keep)
{
    struct os *os = km__sim_create(1);
    uint8_t *p = NULL;
    size_t file_size = make_table(data, size, keep, &p);

    KM_ASSERT(os->ops->create_dir(os, "f") == KM_OK);
    KM_ASSERT(km__sim_write_path(os, "f/table", p, file_size) == 0);
    read_table(os);
    KM_ASSERT(km__sim_allocated_bytes(os) == 0 && km__sim_open_count(os) == 0);
    km__sim_destroy(os);
    free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int keep = size && (data[0] & KEEP_CHECKSUMS);
    enum what what = size ? (enum what)((data[0] & 0x7f) % WHAT_COUNT) : A_TABLE;
    uint8_t *p;

    data += size > 0;
    size -= size > 0;
    p = copy_of(data, size);
    if (what == A_BLOCK) {
        if (!keep)
            complete_block(p, size, 1);
        use_block(p, size, 1);
    } else if (what == A_GROUP) {
        if (!keep)
            complete_group(p, size, 1);
        use_group(p, size, 1);
    } else if (what == A_PACKED_BLOCK) {
        use_packed(p, size, keep);
    } else if (what == A_FOOTER) {
        use_footer(p, size, keep);
    } else {
        use_table(p, size, keep);
    }
    free(p);
    return 0;
}
