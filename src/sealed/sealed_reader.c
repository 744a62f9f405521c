/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_reader.c -- open a table, find keys in it.
 *
 * I1. An open table never changes: any number of threads read it without a lock.
 * I2. All groups of the index were checked when the table was opened, one by one and against each
 *     other: blocks lie one behind the other and fill the file up to the index, separators ascend.
 *     So a place that is computed from the index is in the file, and sizes are bounded by it.
 * I3. Whatever is returned of a block was checked after it was read: its head always, of its values
 *     the pieces that are returned.
 * I4. A get reads one block at most, by one call or, if the block is one page, one page fault.
 * I5. A table that may have compressed blocks has no mapping. One that has a mapping has no cache.
 */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/buffer.h"
#include "sealed/sealed_internal.h"

#define SEALED_INDEX_PIECE ((size_t)1 << 20)
_Static_assert(SEALED_INDEX_PIECE >= SEALED_GROUP_SIZE_MAX, "groups are complete piece by piece");

/* ---- open: the index --------------------------------------------------------------------- */

/* Where the checking of the index has come to. */
struct sealed_check {
    size_t at;       /* of the next group, in the index */
    uint32_t number; /* of it */
    uint64_t page;   /* where the next block begins */
    uint64_t records;
    uint64_t blocks;
    struct sealed_group last;
};

/* A group's first separator as a whole: prefix and first suffix lie one behind the other. */
static km_bytes sealed_group_first(const struct sealed_group *group)
{
    return km_bytes_of(group->prefix, group->prefix_size + km__sealed_group_suffix(group, 0).size);
}

/* Whether the last separator of a group is before the first one of the next. */
static int sealed_groups_ascend(const struct sealed_group *group, const struct sealed_group *next)
{
    km_bytes suffix = km__sealed_group_suffix(group, group->count - 1);
    km_bytes first = sealed_group_first(next);
    size_t prefix_size = group->prefix_size;
    int order = km__sealed_compare(
        km_bytes_of(group->prefix, prefix_size),
        km_bytes_of(first.data, first.size < prefix_size ? first.size : prefix_size));

    if (order != 0)
        return order < 0; /* a part of the prefix is before it */
    return km__sealed_compare(suffix, km_bytes_of((const uint8_t *)first.data + prefix_size,
                                                  first.size - prefix_size)) < 0;
}

static km_status sealed_check_group(km_sealed *table, uint32_t number, struct sealed_check *check,
                                    const struct sealed_group *group)
{
    uint32_t last = group->count - 1;

    if (group->first_page != check->page)
        return KM_E_CORRUPT;
    if (number > 0 && !sealed_groups_ascend(&check->last, group))
        return KM_E_CORRUPT;
    table->groups[number].bytes = group->bytes;
    table->groups[number].records_before = check->records;
    check->page += km__sealed_group_page_end(group, last);
    check->records += km__sealed_group_record_end(group, last);
    check->blocks += group->count;
    check->last = *group;
    return KM_OK;
}

/* Check the groups that are there as a whole, of the first `read` bytes of the index. */
static km_status sealed_check_groups(km_sealed *table, struct sealed_check *check, size_t read)
{
    while (check->number < table->group_count && read - check->at >= SEALED_GROUP_HEADER_SIZE) {
        const uint8_t *bytes = table->index + check->at;
        uint32_t seed = km__sealed_group_seed(table->id_sum, check->number);
        size_t extent = km__sealed_group_extent(bytes);
        struct sealed_group group;
        km_status rc;
        if (extent > read - check->at)
            return KM_OK; /* the rest of it comes */
        rc = km__sealed_group_decode(bytes, extent, seed, &group);
        if (!rc)
            rc = sealed_check_group(table, check->number, check, &group);
        if (rc)
            return rc;
        check->at += extent;
        check->number++;
    }
    return KM_OK;
}

/* I2. By pieces, each checked before the next one is read: a file that only says that it has a
 * large index does not make us fill memory. A group is no larger than a piece. */
static km_status sealed_read_index(km_sealed *table)
{
    const struct sealed_footer *footer = &table->footer;
    struct sealed_check check = {.page = 1};
    size_t size = (size_t)footer->index_size;

    for (size_t read = 0; read < size;) {
        size_t step = size - read < SEALED_INDEX_PIECE ? size - read : SEALED_INDEX_PIECE;
        km_status rc = table->os->ops->read_at(table->file, footer->index_offset + read,
                                               table->index + read, step);
        read += step;
        if (!rc)
            rc = sealed_check_groups(table, &check, read);
        if (!rc && read - check.at >= SEALED_GROUP_SIZE_MAX)
            rc = KM_E_CORRUPT; /* more than a group, which is none */
        if (rc)
            return rc;
    }
    if (check.number != table->group_count || check.at != size ||
        check.page != footer->index_offset / SEALED_PAGE || check.records != footer->count ||
        check.blocks != footer->block_count)
        return KM_E_CORRUPT;
    return KM_OK;
}

static km_bytes sealed_first_separator(const km_sealed *table, uint32_t number)
{
    struct sealed_group group;

    km__sealed_group_view(table->groups[number].bytes, &group);
    return sealed_group_first(&group);
}

static void sealed_set_heads(km_sealed *table)
{
    km_bytes first, last;

    if (table->group_count < 2)
        return;
    first = sealed_first_separator(table, 1);
    last = sealed_first_separator(table, table->group_count - 1);
    table->prefix = first.data;
    table->prefix_size = (uint32_t)km__sealed_common_prefix(first, last);
    for (uint32_t i = 1; i < table->group_count; i++) {
        km_bytes separator = sealed_first_separator(table, i);
        table->heads[i] = km__sealed_head((const uint8_t *)separator.data + table->prefix_size,
                                          separator.size - table->prefix_size);
    }
}

static km_status sealed_load_index(km_sealed *table)
{
    const struct allocator *allocator = &table->os->allocator;
    const struct sealed_footer *footer = &table->footer;
    km_status rc;

    if (footer->group_count > UINT32_MAX || footer->index_size > SIZE_MAX)
        return KM_E_NO_MEMORY;
    if (footer->count == 0)
        return KM_OK;
    table->group_count = (uint32_t)footer->group_count;
    table->index = km__allocate(allocator, (size_t)footer->index_size);
    table->groups = km__allocate(allocator, table->group_count * sizeof(*table->groups));
    table->heads = km__allocate(allocator, table->group_count * sizeof(*table->heads));
    if (!table->index || !table->groups || !table->heads)
        return KM_E_NO_MEMORY;
    rc = sealed_read_index(table);
    if (!rc)
        sealed_set_heads(table);
    return rc;
}

/* ---- open: the rest ---------------------------------------------------------------------- */

static km_status sealed_read_ends(km_sealed *table, km_error *error)
{
    const struct os_ops *ops = table->os->ops;
    uint8_t bytes[SEALED_PAGE] = {0};
    uint8_t id[SEALED_ID_SIZE];
    uint64_t size = table->file_size;
    km_status rc;

    rc = ops->read_at(table->file, 0, bytes, size < SEALED_PAGE ? (size_t)size : SEALED_PAGE);
    if (rc)
        return km__fail(error, rc, table->name, 0, ops->last_error(table->os),
                        "cannot read the header");
    if (!km__sealed_has_magic(bytes))
        return km__fail(error, KM_E_NOT_A_STORE, table->name, 0, 0, "this is no sealed table");
    rc = km__sealed_header_decode(bytes, id);
    if (rc)
        return km__fail(error, rc, table->name, 0, 0,
                        rc == KM_E_VERSION ? "a newer library wrote this table: upgrade"
                                           : "the header is damaged: build the table again");
    if (size < 2 * SEALED_PAGE || size % SEALED_PAGE != 0)
        return km__fail(error, KM_E_CORRUPT, table->name, size, 0,
                        "the file was cut short: build the table again");
    rc = ops->read_at(table->file, size - SEALED_PAGE, bytes, SEALED_PAGE);
    if (rc)
        return km__fail(error, rc, table->name, size - SEALED_PAGE, ops->last_error(table->os),
                        "cannot read the footer");
    rc = km__sealed_footer_decode(bytes, size, &table->footer);
    if (!rc && memcmp(id, table->footer.id, sizeof(id)) != 0)
        rc = KM_E_CORRUPT;
    if (rc)
        return km__fail(error, rc, table->name, size - SEALED_PAGE, 0,
                        rc == KM_E_VERSION ? "a newer library wrote this table: upgrade"
                                           : "the footer is damaged: build the table again");
    if (table->footer.compression != SEALED_COMPRESSION_NONE && !km__sealed_pack_exists())
        return km__fail(error, KM_E_UNSUPPORTED, table->name, 0, 0,
                        "the table is compressed, and this library was built without zstd");
    table->id_sum = km__sealed_id_sum(id);
    return KM_OK;
}

static km_status sealed_open_file(km_sealed *table, struct os_dir *dir, const char *name,
                                  km_error *error)
{
    km_status rc;

    snprintf(table->name, sizeof(table->name), "%s", name);
    rc = table->os->ops->open_file(dir, name, OS_OPEN_READ, &table->file);
    if (!rc)
        rc = table->os->ops->file_size(table->file, &table->file_size);
    return rc ? km__fail(error, rc, name, 0, table->os->ops->last_error(table->os),
                         "cannot open the table")
              : KM_OK;
}

/* What a table is read with: a mapping, or a decompressor and perhaps a cache. */
static km_status sealed_prepare_reads(km_sealed *table, const km_sealed_options *options)
{
    struct os *os = table->os;
    km_status rc = KM_OK;

    if (table->footer.compression != SEALED_COMPRESSION_NONE)
        rc = km__sealed_unpackers_create(&os->allocator, &table->unpackers);
    else if (!options->no_mapping &&
             os->ops->map_read(table->file, table->file_size, &table->map) != KM_OK)
        table->map = NULL; /* no room for it: reads do as well */
    if (!rc && options->cache_size && !table->map)
        rc = km__sealed_cache_create(os, options->cache_size, &table->cache);
    return rc;
}

static km_status sealed_read_table(km_sealed *table, const km_sealed_options *options,
                                   km_error *error)
{
    struct os *os = table->os;
    km_status rc = sealed_read_ends(table, error);

    if (rc)
        return rc;
    rc = sealed_load_index(table);
    if (rc == KM_E_CORRUPT)
        return km__fail(error, rc, table->name, table->footer.index_offset, 0,
                        "the index is damaged: build the table again");
    if (rc)
        return km__fail(error, rc, table->name, table->footer.index_offset,
                        rc == KM_E_NO_MEMORY ? 0 : os->ops->last_error(os),
                        "cannot load the index");
    if (table->footer.count > 0)
        table->value_mean = table->footer.value_bytes / table->footer.count;
    rc = sealed_prepare_reads(table, options);
    return rc ? km__fail(error, rc, table->name, 0, 0, "no memory to read the table") : KM_OK;
}

static km_status sealed_open_named(km_sealed *table, struct os_dir *dir, const char *name,
                                   const km_sealed_options *options, km_error *error)
{
    km_status rc;

    if (options->cache_size && options->cache_size < KM_SEALED_CACHE_SIZE_MIN)
        return km__fail(error, KM_E_INVALID, name, 0, 0, "the cache is smaller than it may be");
    rc = sealed_open_file(table, dir, name, error);
    return rc ? rc : sealed_read_table(table, options, error);
}

km_status km__sealed_open_at(struct os *os, struct os_dir *dir, const char *name,
                             const km_sealed_options *options, km_sealed **out_table,
                             km_error *out_error)
{
    km_sealed_options own = KM_SEALED_OPTIONS_INIT;
    km_sealed *table = km__allocate(&os->allocator, sizeof(*table));
    km_status rc;

    if (!table)
        return km__fail(out_error, KM_E_NO_MEMORY, NULL, 0, 0, "no memory for a table");
    if (options)
        memcpy(&own, options,
               options->struct_size < sizeof(own) ? options->struct_size : sizeof(own));
    table->os = os;
    rc = sealed_open_named(table, dir, name, &own, out_error);
    if (rc) {
        km_sealed_close(table);
        return rc;
    }
    *out_table = table;
    return KM_OK;
}

km_status km__sealed_open(struct os *os, const char *path, const km_sealed_options *options,
                          km_sealed **out_table, km_error *out_error)
{
    struct sealed_folder folder;
    km_status rc = km__sealed_folder_open(os, path, &folder, out_error);

    if (rc)
        return rc;
    rc = km__sealed_open_at(os, folder.dir, folder.name, options, out_table, out_error);
    km__sealed_folder_close(&folder);
    return rc;
}

km_status km_sealed_open(const char *path, const km_sealed_options *options, km_sealed **out_table,
                         km_error *out_error)
{
    return km__sealed_open(km__os_linux(), path, options, out_table, out_error);
}

void km_sealed_close(km_sealed *table)
{
    const struct allocator *allocator;

    if (!table)
        return;
    allocator = &table->os->allocator;
    km__sealed_cache_destroy(table->cache);
    km__sealed_unpackers_destroy(allocator, table->unpackers);
    if (table->map)
        table->os->ops->unmap(table->os, table->map, table->file_size);
    table->os->ops->close_file(table->file);
    km__release(allocator, table->index, (size_t)table->footer.index_size);
    km__release(allocator, table->groups, table->group_count * sizeof(*table->groups));
    km__release(allocator, table->heads, table->group_count * sizeof(*table->heads));
    km__release(allocator, table, sizeof(*table));
}

uint64_t km_sealed_count(const km_sealed *table)
{
    return table->footer.count;
}

km_status km_sealed_get_info(const km_sealed *table, km_sealed_info *out_info)
{
    const struct sealed_footer *footer = &table->footer;
    size_t group_size = sizeof(*table->groups) + sizeof(*table->heads);
    struct sealed_cache_use use = {0};
    km_sealed_info info = {.struct_size = out_info->struct_size,
                           .keys = (km_sealed_keys)footer->key_width,
                           .block_size = footer->block_size,
                           .count = footer->count,
                           .block_count = footer->block_count,
                           .key_bytes = footer->key_bytes,
                           .value_bytes = footer->value_bytes,
                           .file_bytes = table->file_size,
                           .memory_bytes = sizeof(*table) + footer->index_size +
                                           table->group_count * group_size,
                           .created_ms = footer->created_ms,
                           .compression = (km_sealed_compression)footer->compression};

    if (table->cache)
        km__sealed_cache_count(table->cache, &use);
    info.memory_bytes += use.bytes;
    info.cache_bytes = use.bytes;
    info.cache_hits = use.hits;
    info.cache_misses = use.misses;
    if (info.struct_size < sizeof(info.struct_size))
        return KM_E_INVALID;
    memcpy(out_info, &info, info.struct_size < sizeof(info) ? info.struct_size : sizeof(info));
    return KM_OK;
}

/* ---- from a key to its block ------------------------------------------------------------- */

km_status km__sealed_check_key(const km_sealed *table, km_bytes key)
{
    uint32_t width = table->footer.key_width;

    if (key.size && !key.data)
        return KM_E_INVALID;
    return (width ? key.size == width : key.size <= KM_KEY_SIZE_MAX) ? KM_OK : KM_E_INVALID;
}

km_status km__sealed_number_key(uint32_t key_width, uint64_t number, km_u64_key *out_bytes,
                                km_bytes *out_key)
{
    if (key_width == 0)
        return KM_E_INVALID;
    if (key_width < 8 && number >> (8 * key_width) != 0)
        return KM_NOT_FOUND;
    *out_bytes = km_u64_key_from(number);
    *out_key = km_bytes_of(out_bytes->bytes + (8 - key_width), key_width);
    return KM_OK;
}

/* Among groups from `low` on, whose heads may be equal: the last one that does not begin behind the
 * key, or the one before `low`. */
static uint32_t sealed_find_group_slow(const km_sealed *table, uint32_t low, km_bytes key)
{
    uint32_t high = table->group_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (km__sealed_compare(sealed_first_separator(table, middle), key) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low - 1;
}

static uint32_t sealed_search_heads(const km_sealed *table, km_bytes key)
{
    size_t size = key.size < table->prefix_size ? key.size : table->prefix_size;
    int order = size ? memcmp(key.data, table->prefix, size) : 0;
    uint32_t low = 1;
    uint32_t left = table->group_count - 1;
    uint64_t head;

    if (left == 0)
        return 0;
    if (order != 0 || key.size < table->prefix_size)
        return order > 0 ? left : 0;
    head = km__sealed_head((const uint8_t *)key.data + size, key.size - size);
    while (left > 0) { /* the first whose head is not below */
        uint32_t half = left / 2;
        int is_below = table->heads[low + half] < head;
        low = is_below ? low + half + 1 : low;
        left = is_below ? left - half - 1 : half;
    }
    if (low < table->group_count && table->heads[low] == head)
        return sealed_find_group_slow(table, low, key);
    return low - 1;
}

uint32_t km__sealed_find_group(const km_sealed *table, km_bytes key)
{
    uint32_t number = sealed_search_heads(table, key);

    /* a get takes an eighth less with it: else the search in the group waits for line after line */
    SEALED_PREFETCH_GROUP(table, number);
    return number;
}

void km__sealed_place_of(const km_sealed *table, const struct sealed_group *group, uint32_t number,
                         uint32_t index, struct sealed_place *out)
{
    uint32_t page = km__sealed_group_page_start(group, index);
    uint32_t record = km__sealed_group_record_start(group, index);

    out->group = number;
    out->index = index;
    out->record_count = km__sealed_group_record_end(group, index) - record;
    out->offset = (group->first_page + page) * SEALED_PAGE;
    out->size = (uint64_t)(km__sealed_group_page_end(group, index) - page) * SEALED_PAGE;
    out->first_record = table->groups[number].records_before + record;
}

void km__sealed_place_in_group(const km_sealed *table, uint32_t number, km_bytes key,
                               struct sealed_group *out_group, struct sealed_place *out)
{
    km__sealed_group_view(table->groups[number].bytes, out_group);
    km__sealed_place_of(table, out_group, number, km__sealed_group_find(out_group, key), out);
}

void km__sealed_place_of_record(const km_sealed *table, uint64_t record, struct sealed_place *out)
{
    struct sealed_group group;
    uint32_t low = 0;
    uint32_t high = table->group_count - 1;
    uint32_t number;

    KM_DEBUG_ASSERT(record < table->footer.count);
    while (low < high) {
        uint32_t middle = high - (high - low) / 2;
        if (table->groups[middle].records_before <= record)
            low = middle;
        else
            high = middle - 1;
    }
    number = low;
    record -= table->groups[number].records_before;
    km__sealed_group_view(table->groups[number].bytes, &group);
    low = 0;
    high = group.count - 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (km__sealed_group_record_end(&group, middle) > record)
            high = middle;
        else
            low = middle + 1;
    }
    km__sealed_place_of(table, &group, number, low, out);
}

/* ---- blocks ------------------------------------------------------------------------------ */

km_status km__sealed_decode_place(const km_sealed *table, const struct sealed_place *place,
                                  const uint8_t *bytes, km_buffer *plain, struct sealed_block *out)
{
    km_bytes stored = km_bytes_of(bytes, (size_t)place->size);
    uint32_t seed = km__sealed_block_seed(table->id_sum, place->offset);
    km_status rc = km__sealed_unpack_block(table->unpackers, stored, seed, plain, out);

    if (!rc && out->count != place->record_count)
        rc = KM_E_CORRUPT;
    return rc;
}

static km_status sealed_read_place(const km_sealed *table, const struct sealed_place *place,
                                   km_buffer *buffer)
{
    km_status rc;

    if (place->size > SIZE_MAX / 4)
        return KM_E_NO_MEMORY;
    rc = km__buffer_reserve(buffer, (size_t)place->size);
    if (rc)
        return rc;
    return table->os->ops->read_at(table->file, place->offset, buffer->data, (size_t)place->size);
}

/* Of a table with compression: `scratch` is for the block that is decoded. */
static km_status sealed_load_packed(const km_sealed *table, const struct sealed_place *place,
                                    km_buffer *scratch, struct sealed_block *out)
{
    km_buffer stored = KM_BUFFER_INIT;
    km_status rc = sealed_read_place(table, place, &stored);

    if (!rc && !km__sealed_block_is_packed(stored.data)) {
        km_buffer other = *scratch;
        *scratch = stored;
        stored = other;
        rc = km__sealed_decode_place(table, place, scratch->data, NULL, out);
    } else if (!rc) {
        rc = km__sealed_decode_place(table, place, stored.data, scratch, out);
    }
    km_buffer_free(&stored);
    return rc;
}

km_status km__sealed_load(const km_sealed *table, const struct sealed_place *place,
                          km_buffer *scratch, struct sealed_block *out)
{
    km_status rc;

    if (table->unpackers)
        return sealed_load_packed(table, place, scratch, out);
    if (km__sealed_is_mapped(table, place))
        return km__sealed_decode_place(table, place, table->map + place->offset, NULL, out);
    rc = sealed_read_place(table, place, scratch);
    if (rc)
        return rc;
    return km__sealed_decode_place(table, place, scratch->data, NULL, out);
}

/* ---- get --------------------------------------------------------------------------------- */

/* The block may be in `value` itself. */
static km_status sealed_set_value(km_buffer *value, km_bytes found)
{
    km_status rc = KM_OK;

    if (value->capacity < found.size) /* then it is not there: the block would be larger */
        rc = km__buffer_reserve(value, found.size);
    if (rc)
        return rc;
    if (found.size)
        memmove(value->data, found.data, found.size);
    value->size = found.size;
    return KM_OK;
}

/* Whether a block can be read into a buffer before a key is looked for in it: the key may be the
 * value of the get before. */
static int sealed_may_overwrite(const km_buffer *buffer, km_bytes key)
{
    return !buffer->data || (uintptr_t)key.data - (uintptr_t)buffer->data >= buffer->capacity;
}

static km_status sealed_get_in(const km_sealed *table, const struct sealed_place *place,
                               km_bytes key, km_buffer *value)
{
    km_buffer own = KM_BUFFER_INIT; /* for a block that cannot be in `value` */
    struct sealed_block block;
    km_bytes found = {NULL, 0};
    uint32_t index = 0;
    km_status rc = km__sealed_load(
        table, place, value && sealed_may_overwrite(value, key) ? value : &own, &block);

    if (!rc && table->cache)
        km__sealed_cache_add(table->cache, place->offset, &block);
    if (!rc)
        rc = km__sealed_block_find(&block, key, &index);
    if (!rc && value)
        rc = km__sealed_block_checked_value(&block, index, &found);
    if (!rc && value)
        rc = sealed_set_value(value, found);
    km_buffer_free(&own);
    return rc;
}

/* In a block of the cache, all of which was checked. */
static km_status sealed_get_cached(const struct sealed_block *block, km_bytes key, km_buffer *value)
{
    km_bytes found = {NULL, 0};
    uint32_t index = 0;
    km_status rc = km__sealed_block_find(block, key, &index);

    if (!rc && value)
        rc = km__sealed_block_value(block, index, &found);
    if (!rc && value)
        rc = sealed_set_value(value, found);
    return rc;
}

static km_status sealed_get_at(const km_sealed *table, const struct sealed_place *place,
                               km_bytes key, km_buffer *value)
{
    struct sealed_cached *cached = NULL;
    const struct sealed_block *block = NULL;
    km_status rc;

    if (table->cache)
        block = km__sealed_cache_find(table->cache, place->offset, &cached);
    if (!block)
        return sealed_get_in(table, place, key, value);
    rc = sealed_get_cached(block, key, value);
    km__sealed_cache_release(cached);
    return rc;
}

#define SEALED_GUESS_LINES 12u /* around the place of a value that is guessed; half before it */

static uint64_t sealed_short_head(const uint8_t *key, size_t size)
{
    return km__sealed_head(key, size) >> 32;
}

static uint64_t sealed_separator_head(const struct sealed_group *group, uint32_t index)
{
    km_bytes suffix = km__sealed_group_suffix(group, index);

    return sealed_short_head(suffix.data, suffix.size);
}

/* Where the value of a key may lie in a mapped block, or NULL: the lines around it are worth
 * fetching. Numbers are often spread evenly: then the value is as far behind the first one of its
 * block as the key is behind the block's separator. So it comes together with the head, not after
 * it: a get of random numbers takes an eighth less. A bad guess costs little. */
static const uint8_t *sealed_guess_value(const km_sealed *table, const struct sealed_group *group,
                                         const struct sealed_place *place, km_bytes key)
{
    uint64_t values_size = table->value_mean * place->record_count;
    uint64_t at, before, behind;

    if (table->footer.key_width == 0 || key.size <= group->prefix_size ||
        place->size != SEALED_PAGE || values_size > SEALED_PAGE || place->index + 1 == group->count)
        return NULL;
    at = sealed_short_head((const uint8_t *)key.data + group->prefix_size,
                           key.size - group->prefix_size);
    before = sealed_separator_head(group, place->index);
    behind = sealed_separator_head(group, place->index + 1);
    if (at < before || at >= behind)
        return NULL;
    at = SEALED_PAGE - values_size + (at - before) * values_size / (behind - before);
    return table->map + place->offset + at - SEALED_GUESS_LINES / 2 * KM_CACHE_LINE;
}

km_status km__sealed_locate(const km_sealed *table, km_bytes key, struct sealed_place *out)
{
    struct sealed_group group;
    const uint8_t *filter, *guess;
    uint32_t filter_size = 0;

    if (table->footer.count == 0)
        return KM_NOT_FOUND;
    km__sealed_find_place(table, key, &group, out);
    if (table->map) { /* it comes while the filter is looked at */
        SEALED_PREFETCH_BLOCK(table, out->offset);
        guess = sealed_guess_value(table, &group, out, key);
        if (guess)
            SEALED_PREFETCH_LINES(guess, SEALED_GUESS_LINES);
    }
    filter = km__sealed_group_filter(&group, out->index, &filter_size);
    if (!km__sealed_filter_may_have(filter, filter_size, km__sealed_hash(key.data, key.size)))
        return KM_NOT_FOUND;
    return KM_OK;
}

km_status km_sealed_get(const km_sealed *table, km_bytes key, km_buffer *value)
{
    struct sealed_place place;
    km_status rc = km__sealed_check_key(table, key);

    if (!rc)
        rc = km__sealed_locate(table, key, &place);
    return rc ? rc : sealed_get_at(table, &place, key, value);
}

km_status km_sealed_get_number(const km_sealed *table, uint64_t number, km_buffer *value)
{
    km_u64_key bytes;
    km_bytes key = {NULL, 0};
    km_status rc = km__sealed_number_key(table->footer.key_width, number, &bytes, &key);

    return rc ? rc : km_sealed_get(table, key, value);
}

km_status km_sealed_contains(const km_sealed *table, km_bytes key)
{
    return km_sealed_get(table, key, NULL);
}
