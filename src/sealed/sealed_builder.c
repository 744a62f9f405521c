/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_builder.c -- a table from records in any order, in bounded memory.
 *
 * I1. While all keys came in order, and there were more than a few, records go straight to the
 *     table's file. The first key out of order makes what was written there the first run; from
 *     then on records are gathered, sorted, and written as runs, which are merged at the end.
 * I2. A table gets its name after everything in it was synced; the folder is synced after that. So
 *     the name stands for the old table or the whole new one, whenever the power goes.
 * I3. After a failure that is not the caller's nothing is written; finish only removes then.
 * I4. Runs are in the order in which their records came: of equal keys that of the last run counts.
 * I5. A pass that merges writes all runs anew, into a new file, and frees the files that had them:
 *     runs take as much of the disk as the data, twice while a pass goes on.
 * I6. What is read back is checked, runs block by block, the index by one sum before the footer is
 *     written: a table that is published opens.
 *
 * Memory, of memory_max: three quarters for records in memory, or for the buffers of a merge; an
 * eighth for the index, which goes to disk beyond that.
 */
#include <string.h>

#include "base/crc32c.h"
#include "sealed/sealed_internal.h"

#define SEALED_MEMORY_DEFAULT ((uint64_t)64 << 20)
#define SEALED_MEMORY_MAX ((uint64_t)1 << 40)
#define SEALED_STREAM_AFTER ((size_t)1 << 20) /* bytes in order, and we take it that all are */
#define SEALED_PROGRESS_STEP ((uint64_t)1 << 20)
#define SEALED_RUN_BLOCK_SIZE SEALED_BLOCK_SIZE_MAX
#define SEALED_PACKED_BLOCK_SIZE (8 * SEALED_PAGE) /* by default; small ones compress badly */

enum sealed_stage {
    SEALED_GATHERING, /* records go to the arena */
    SEALED_STREAMING  /* records go to the table's file, in order */
};

struct km_sealed_builder {
    struct os *os;
    struct sealed_folder folder;
    km_sealed_build_options options;
    uint8_t id[SEALED_ID_SIZE];
    uint32_t id_sum;
    km_status failure; /* I3 */
    km_error error;    /* of the failure */
    enum sealed_stage stage;
    struct sealed_temp table;  /* the table's file, if there is one */
    struct sealed_temp first;  /* what was to be the table, and is the first run */
    struct sealed_temp merged; /* the spill of which a pass reads */
    struct sealed_spill spill;
    struct sealed_index index;
    struct sealed_writer writer;
    struct sealed_packer *packer;       /* NULL: blocks are not compressed */
    struct sealed_unpackers *unpackers; /* likewise */
    struct sealed_arena arena;
    struct sealed_run *runs;
    size_t run_count, run_capacity;
    uint64_t key_max;
    uint64_t added_bytes;    /* of keys and values */
    uint64_t reported_bytes; /* so many of them */
    uint64_t merged_bytes, to_merge_bytes;
    uint64_t next_number;
};

static const char *sealed_failure_text(km_status rc)
{
    switch (rc) {
    case KM_STOPPED: return "the progress callback stopped the build";
    case KM_E_INVALID: return "the name is taken by something that is no file";
    case KM_E_NO_MEMORY: return "no memory for the build";
    case KM_E_FULL:
        return "no room on the disk, in a quota, or below the limit of a file's size: make some, "
               "then build again";
    case KM_E_CORRUPT: return "what the build wrote reads back otherwise: check the disk";
    case KM_E_LIMIT: return "no file descriptor is left for the build";
    default: return "writing the table failed";
    }
}

/* ---- open and close ---------------------------------------------------------------------- */

static int sealed_options_are_valid(const km_sealed_build_options *options)
{
    uint32_t width = (uint32_t)options->keys;

    if (options->compression_level < KM_SEALED_LEVEL_MIN ||
        options->compression_level > KM_SEALED_LEVEL_MAX ||
        (options->compression != KM_SEALED_PLAIN && options->compression != KM_SEALED_ZSTD))
        return 0;
    return (width <= 2 || width == 4 || width == 8) && options->block_size >= SEALED_PAGE &&
           options->block_size <= SEALED_BLOCK_SIZE_MAX && options->block_size % SEALED_PAGE == 0 &&
           options->memory_max >= KM_SEALED_MEMORY_MIN && options->memory_max <= SEALED_MEMORY_MAX;
}

static void sealed_read_options(const km_sealed_build_options *options,
                                km_sealed_build_options *out)
{
    static const km_sealed_build_options defaults = KM_SEALED_BUILD_OPTIONS_INIT;

    *out = defaults;
    if (options)
        memcpy(out, options,
               options->struct_size < sizeof(*out) ? options->struct_size : sizeof(*out));
    if (out->block_size == 0)
        out->block_size = out->compression == KM_SEALED_PLAIN ? SEALED_PAGE
                                                              : SEALED_PACKED_BLOCK_SIZE;
    if (out->memory_max == 0)
        out->memory_max = SEALED_MEMORY_DEFAULT;
}

static km_status sealed_init_arena(km_sealed_builder *builder)
{
    return km__sealed_arena_init(&builder->arena, &builder->os->allocator,
                                 (size_t)(builder->options.memory_max / 4 * 3));
}

static km_status sealed_builder_init(km_sealed_builder *builder)
{
    struct os *os = builder->os;
    km_status rc = os->ops->random(os, builder->id, sizeof(builder->id));

    builder->id_sum = km__sealed_id_sum(builder->id);
    builder->spill.folder = &builder->folder;
    if (!rc)
        rc = km__sealed_writer_init(&builder->writer, os);
    if (!rc)
        rc = km__sealed_index_init(&builder->index, &os->allocator, &builder->spill,
                                   (size_t)(builder->options.memory_max / 8));
    if (!rc)
        rc = sealed_init_arena(builder);
    if (!rc && builder->options.compression != KM_SEALED_PLAIN)
        rc = km__sealed_packer_create(&os->allocator, builder->options.compression_level,
                                      &builder->packer);
    if (!rc && builder->options.compression != KM_SEALED_PLAIN)
        rc = km__sealed_unpackers_create(&os->allocator, &builder->unpackers);
    return rc;
}

/* Remove what is not published, and release everything. */
static void sealed_builder_destroy(km_sealed_builder *builder)
{
    struct os *os = builder->os;

    km__sealed_arena_fini(&builder->arena);
    km__sealed_index_fini(&builder->index);
    km__sealed_writer_fini(&builder->writer);
    km__sealed_packer_destroy(&os->allocator, builder->packer);
    km__sealed_unpackers_destroy(&os->allocator, builder->unpackers);
    km__sealed_temp_discard(&builder->folder, &builder->spill.temp);
    km__sealed_temp_discard(&builder->folder, &builder->merged);
    km__sealed_temp_discard(&builder->folder, &builder->first);
    km__sealed_temp_discard(&builder->folder, &builder->table);
    km__sealed_folder_close(&builder->folder);
    km__release(&os->allocator, builder->runs, builder->run_capacity * sizeof(*builder->runs));
    km__release(&os->allocator, builder, sizeof(*builder));
}

static km_status sealed_check_options(const km_sealed_build_options *options, km_error *error)
{
    if (!sealed_options_are_valid(options))
        return km__fail(error, KM_E_INVALID, NULL, 0, 0, "an option is outside its limits");
    if (options->compression != KM_SEALED_PLAIN && !km__sealed_pack_exists())
        return km__fail(error, KM_E_UNSUPPORTED, NULL, 0, 0,
                        "this library was built without zstd: it cannot compress");
    return KM_OK;
}

/* What speaks against a table of this name, in its folder. */
static km_status sealed_check_name(struct sealed_folder *folder, km_error *error)
{
    km_status rc;

    if (km__sealed_name_is_temp(folder->name))
        return km__fail(error, KM_E_INVALID, folder->name, 0, 0,
                        "the name is one of those that builds have for their files");
    rc = km__sealed_folder_check_name(folder);
    return rc ? km__fail(error, rc, folder->name, 0, folder->os->ops->last_error(folder->os), "%s",
                         sealed_failure_text(rc))
              : KM_OK;
}

/* Its folder is open. The table's file is created now, so that a folder that cannot be written to
 * is noticed before all records are read. */
static km_status sealed_builder_begin(km_sealed_builder *builder, km_error *error)
{
    struct os *os = builder->os;
    km_status rc = sealed_check_name(&builder->folder, error);

    if (rc)
        return rc;
    km__sealed_folder_sweep(&builder->folder);
    rc = sealed_builder_init(builder);
    if (!rc)
        rc = km__sealed_temp_create(&builder->folder, &builder->table);
    if (rc == KM_NOT_FOUND || rc == KM_EXISTS)
        rc = KM_E_IO; /* somebody else is at our files */
    return rc ? km__fail(error, rc, builder->folder.name, 0,
                         rc == KM_E_NO_MEMORY ? 0 : os->ops->last_error(os),
                         "cannot begin the build")
              : KM_OK;
}

km_status km__sealed_builder_open(struct os *os, const char *path,
                                  const km_sealed_build_options *options,
                                  km_sealed_builder **out_builder, km_error *out_error)
{
    km_sealed_builder *builder = km__allocate(&os->allocator, sizeof(*builder));
    km_status rc;

    if (!builder)
        return km__fail(out_error, KM_E_NO_MEMORY, NULL, 0, 0, "no memory for a build");
    builder->os = os;
    sealed_read_options(options, &builder->options);
    rc = sealed_check_options(&builder->options, out_error);
    if (!rc)
        rc = km__sealed_folder_open(os, path, &builder->folder, out_error);
    if (rc) {
        km__release(&os->allocator, builder, sizeof(*builder));
        return rc;
    }
    rc = sealed_builder_begin(builder, out_error);
    if (rc) {
        sealed_builder_destroy(builder);
        return rc;
    }
    *out_builder = builder;
    return KM_OK;
}

km_status km_sealed_builder_open(const char *path, const km_sealed_build_options *options,
                                 km_sealed_builder **out_builder, km_error *out_error)
{
    return km__sealed_builder_open(km__os_linux(), path, options, out_builder, out_error);
}

void km_sealed_builder_abort(km_sealed_builder *builder)
{
    if (builder)
        sealed_builder_destroy(builder);
}

/* ---- failures and progress --------------------------------------------------------------- */

/* Keep the first failure (I3). */
static km_status sealed_build_failed(km_sealed_builder *builder, km_status rc)
{
    struct os *os = builder->os;
    int is_of_system = rc != KM_STOPPED && rc != KM_E_CORRUPT && rc != KM_E_NO_MEMORY;

    if (rc == KM_NOT_FOUND || rc == KM_EXISTS)
        rc = KM_E_IO; /* somebody else is at our files */
    builder->failure = rc;
    return km__fail(&builder->error, rc, builder->folder.name, 0,
                    is_of_system ? os->ops->last_error(os) : 0, "%s", sealed_failure_text(rc));
}

static km_status sealed_call_progress(const km_sealed_builder *builder, uint64_t done,
                                      uint64_t total)
{
    if (!builder->options.progress)
        return KM_OK;
    return builder->options.progress(builder->options.progress_context, done, total) ? KM_STOPPED
                                                                                     : KM_OK;
}

static km_status sealed_count_added(km_sealed_builder *builder, km_bytes key, km_bytes value)
{
    builder->added_bytes += key.size + value.size;
    if (key.size > builder->key_max)
        builder->key_max = key.size;
    if (builder->added_bytes - builder->reported_bytes < SEALED_PROGRESS_STEP)
        return KM_OK;
    builder->reported_bytes = builder->added_bytes;
    return sealed_call_progress(builder, builder->added_bytes, 0);
}

static km_status sealed_count_merged(void *context, uint64_t bytes)
{
    km_sealed_builder *builder = context;

    builder->merged_bytes += bytes;
    return sealed_call_progress(builder, builder->merged_bytes, builder->to_merge_bytes);
}

/* ---- runs -------------------------------------------------------------------------------- */

static km_status sealed_add_run(km_sealed_builder *builder, const struct sealed_run *run)
{
    const struct allocator *allocator = &builder->os->allocator;

    if (builder->run_count == builder->run_capacity) {
        size_t capacity = builder->run_capacity ? 2 * builder->run_capacity : 16;
        struct sealed_run *runs = km__allocate(allocator, capacity * sizeof(*runs));
        if (!runs)
            return KM_E_NO_MEMORY;
        if (builder->run_count)
            memcpy(runs, builder->runs, builder->run_count * sizeof(*runs));
        km__release(allocator, builder->runs, builder->run_capacity * sizeof(*runs));
        builder->runs = runs;
        builder->run_capacity = capacity;
    }
    builder->runs[builder->run_count++] = *run;
    return KM_OK;
}

static struct sealed_run sealed_run_written(const struct sealed_writer *writer, uint64_t start,
                                            uint64_t end)
{
    return (struct sealed_run){.file = writer->file,
                               .start = start,
                               .end = end,
                               .block_max = writer->block_max,
                               .plain_max = writer->plain_max,
                               .bytes = writer->totals.key_bytes + writer->totals.value_bytes};
}

/* Let the writer begin a run at the end of the spill. */
static km_status sealed_begin_run(km_sealed_builder *builder)
{
    struct sealed_target target = {.id_sum = builder->id_sum, .block_size = SEALED_RUN_BLOCK_SIZE};
    km_status rc = km__sealed_spill_open(&builder->spill);

    if (rc)
        return rc;
    builder->spill.size = km__round_up(builder->spill.size, SEALED_PAGE);
    target.file = builder->spill.temp.file;
    target.offset = builder->spill.size;
    km__sealed_writer_begin(&builder->writer, &target);
    return KM_OK;
}

static km_status sealed_end_run(km_sealed_builder *builder, struct sealed_run *out)
{
    uint64_t end = 0;
    km_status rc = km__sealed_writer_end(&builder->writer, &end);

    if (rc)
        return rc;
    *out = sealed_run_written(&builder->writer, builder->spill.size, end);
    builder->spill.size = end;
    return KM_OK;
}

/* Sort what is in memory, and write it as a run. */
static km_status sealed_write_run(km_sealed_builder *builder)
{
    struct sealed_run run;
    km_status rc;

    if (builder->arena.count == 0)
        return KM_OK;
    rc = sealed_begin_run(builder);
    if (rc)
        return rc;
    km__sealed_arena_sort(&builder->arena);
    rc = km__sealed_arena_write(&builder->arena, &builder->writer);
    if (!rc)
        rc = sealed_end_run(builder, &run);
    if (!rc)
        rc = sealed_add_run(builder, &run);
    km__sealed_arena_clear(&builder->arena);
    return rc;
}

/* A record that the memory has no room for is a run of its own, if there are runs. */
static km_status sealed_write_lone(km_sealed_builder *builder, km_bytes key, km_bytes value)
{
    struct sealed_run run;
    km_status rc = sealed_begin_run(builder);

    if (!rc)
        rc = km__sealed_writer_add(&builder->writer, key, value);
    if (!rc)
        rc = sealed_end_run(builder, &run);
    if (!rc)
        rc = sealed_add_run(builder, &run);
    return rc;
}

/* ---- the table's file -------------------------------------------------------------------- */

static km_status sealed_begin_table(km_sealed_builder *builder)
{
    struct sealed_target target = {.id_sum = builder->id_sum,
                                   .block_size = builder->options.block_size,
                                   .index = &builder->index,
                                   .packer = builder->packer};
    uint8_t header[SEALED_PAGE];
    km_status rc = KM_OK;

    if (!builder->table.file)
        rc = km__sealed_temp_create(&builder->folder, &builder->table);
    if (rc)
        return rc;
    target.file = builder->table.file;
    km__sealed_index_reset(&builder->index, builder->id_sum);
    km__sealed_writer_begin(&builder->writer, &target);
    km__sealed_header_encode(builder->id, header);
    return km__sealed_writer_put(&builder->writer, header, sizeof(header));
}

/* I1: all that is in memory is in order, and so are those that follow, we hope. */
static km_status sealed_begin_stream(km_sealed_builder *builder)
{
    km_status rc = sealed_begin_table(builder);

    if (rc)
        return rc;
    km__sealed_arena_sort(&builder->arena);
    rc = km__sealed_arena_write(&builder->arena, &builder->writer);
    km__sealed_arena_fini(&builder->arena);
    builder->stage = SEALED_STREAMING;
    return rc;
}

/* I1: they were not. */
static km_status sealed_end_stream(km_sealed_builder *builder)
{
    uint64_t end = 0;
    struct sealed_run run;
    km_status rc = km__sealed_writer_end(&builder->writer, &end);

    if (rc)
        return rc;
    rc = km__sealed_temp_unlink(&builder->folder, &builder->table);
    if (rc)
        return rc;
    builder->first = builder->table;
    memset(&builder->table, 0, sizeof(builder->table));
    run = sealed_run_written(&builder->writer, SEALED_PAGE, end);
    rc = sealed_add_run(builder, &run);
    if (!rc)
        rc = sealed_init_arena(builder);
    builder->stage = SEALED_GATHERING;
    return rc;
}

/* ---- adding ------------------------------------------------------------------------------ */

static km_status sealed_make_room(km_sealed_builder *builder)
{
    if (builder->arena.is_sorted && builder->run_count == 0)
        return sealed_begin_stream(builder);
    return sealed_write_run(builder);
}

static int sealed_should_drain(const km_sealed_builder *builder, km_bytes key, km_bytes value)
{
    const struct sealed_arena *arena = &builder->arena;

    if (!km__sealed_arena_has_room(arena, key, value))
        return arena->count > 0 || builder->run_count == 0;
    return arena->is_sorted && builder->run_count == 0 && arena->used >= SEALED_STREAM_AFTER;
}

static km_status sealed_gather(km_sealed_builder *builder, km_bytes key, km_bytes value)
{
    if (!km__sealed_arena_has_room(&builder->arena, key, value))
        return sealed_write_lone(builder, key, value);
    km__sealed_arena_add(&builder->arena, key, value);
    return KM_OK;
}

static km_status sealed_take(km_sealed_builder *builder, km_bytes key, km_bytes value)
{
    km_status rc = sealed_count_added(builder, key, value);

    if (!rc && builder->stage == SEALED_GATHERING && sealed_should_drain(builder, key, value))
        rc = sealed_make_room(builder);
    if (!rc && builder->stage == SEALED_STREAMING) {
        if (km__sealed_compare(km__sealed_writer_last_key(&builder->writer), key) <= 0)
            return km__sealed_writer_add(&builder->writer, key, value);
        rc = sealed_end_stream(builder);
    }
    return rc ? rc : sealed_gather(builder, key, value);
}

km_status km_sealed_builder_add(km_sealed_builder *builder, km_bytes key, km_bytes value)
{
    uint32_t width = (uint32_t)builder->options.keys;
    km_status rc;

    if (KM_UNLIKELY(builder->failure))
        return builder->failure;
    if ((key.size && !key.data) || (value.size && !value.data))
        return KM_E_INVALID;
    if (width ? key.size != width : key.size > KM_KEY_SIZE_MAX)
        return width ? KM_E_INVALID : KM_E_TOO_BIG;
    if (value.size > KM_VALUE_SIZE_MAX)
        return KM_E_TOO_BIG;
    rc = sealed_take(builder, key, value);
    return KM_LIKELY(rc == KM_OK) ? rc : sealed_build_failed(builder, rc);
}

km_status km_sealed_builder_add_number(km_sealed_builder *builder, uint64_t number, km_bytes value)
{
    km_u64_key bytes;
    km_bytes key = {NULL, 0};
    km_status rc;

    if (builder->failure)
        return builder->failure;
    rc = km__sealed_number_key((uint32_t)builder->options.keys, number, &bytes, &key);
    if (rc)
        return KM_E_INVALID;
    return km_sealed_builder_add(builder, key, value);
}

km_status km_sealed_builder_add_next(km_sealed_builder *builder, km_bytes value,
                                     uint64_t *out_number)
{
    uint64_t number = builder->next_number;
    km_status rc = km_sealed_builder_add_number(builder, number, value);

    if (rc)
        return rc;
    builder->next_number++; /* 2^64 calls are not made */
    if (out_number)
        *out_number = number;
    return KM_OK;
}

/* ---- finishing --------------------------------------------------------------------------- */

static struct sealed_merge sealed_merge_of(km_sealed_builder *builder)
{
    return (struct sealed_merge){.allocator = &builder->os->allocator,
                                 .os = builder->os,
                                 .id_sum = builder->id_sum,
                                 .memory_max = builder->options.memory_max / 4 * 3,
                                 .key_max = builder->key_max,
                                 .unpackers = builder->unpackers,
                                 .progress = sealed_count_merged,
                                 .context = builder};
}

/* Merge as many runs at a time as can be, each such group to one run in its place (I4). */
static km_status sealed_merge_groups(km_sealed_builder *builder, const struct sealed_merge *merge)
{
    size_t kept = 0;
    size_t at = 0;

    while (at < builder->run_count) {
        size_t width = km__sealed_merge_width(merge, builder->runs + at, builder->run_count - at);
        struct sealed_run run;
        km_status rc = sealed_begin_run(builder);
        if (!rc)
            rc = km__sealed_merge_runs(merge, builder->runs + at, width, &builder->writer);
        if (!rc)
            rc = sealed_end_run(builder, &run);
        if (rc)
            return rc;
        builder->runs[kept++] = run;
        at += width;
    }
    builder->run_count = kept;
    return KM_OK;
}

/* I5: a run that is left over at the end is copied too, so that no file has to stay for it. */
static km_status sealed_merge_pass(km_sealed_builder *builder, const struct sealed_merge *merge)
{
    struct sealed_spill *spill = &builder->spill;
    km_status rc;

    builder->merged = spill->temp;
    memset(&spill->temp, 0, sizeof(spill->temp));
    spill->size = 0;
    rc = sealed_merge_groups(builder, merge);
    if (rc)
        return rc;
    km__sealed_temp_discard(&builder->folder, &builder->merged);
    km__sealed_temp_discard(&builder->folder, &builder->first);
    return KM_OK;
}

static uint64_t sealed_run_bytes(const km_sealed_builder *builder)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < builder->run_count; i++)
        bytes += builder->runs[i].bytes;
    return bytes;
}

static km_status sealed_merge_all(km_sealed_builder *builder)
{
    struct sealed_merge merge = sealed_merge_of(builder);
    km_status rc = sealed_write_run(builder);

    km__sealed_arena_fini(&builder->arena);
    builder->to_merge_bytes = sealed_run_bytes(builder);
    while (!rc &&
           km__sealed_merge_width(&merge, builder->runs, builder->run_count) < builder->run_count) {
        rc = sealed_merge_pass(builder, &merge);
        builder->to_merge_bytes = builder->merged_bytes + sealed_run_bytes(builder);
    }
    if (!rc)
        rc = sealed_begin_table(builder);
    if (!rc)
        rc = km__sealed_merge_runs(&merge, builder->runs, builder->run_count, &builder->writer);
    return rc;
}

/* All records are written to the table's file. */
static km_status sealed_write_records(km_sealed_builder *builder)
{
    km_status rc;

    if (builder->stage == SEALED_STREAMING)
        return KM_OK;
    if (builder->run_count > 0)
        return sealed_merge_all(builder);
    rc = sealed_begin_table(builder);
    if (rc)
        return rc;
    km__sealed_arena_sort(&builder->arena);
    return km__sealed_arena_write(&builder->arena, &builder->writer);
}

/* The groups that are on disk by pieces, then those in memory (I6). */
static km_status sealed_write_index(km_sealed_builder *builder)
{
    const struct sealed_index *index = &builder->index;
    struct sealed_writer *writer = &builder->writer;
    uint32_t sum = 0;
    km_status rc = KM_OK;

    for (uint64_t at = 0; !rc && at < index->spilled;) {
        uint64_t left = index->spilled - at;
        size_t size = left < SEALED_OUT_SIZE ? (size_t)left : SEALED_OUT_SIZE;
        /* straight into the writer's buffer, which is empty */
        rc = builder->os->ops->read_at(index->spill->temp.file, index->spill_start + at,
                                       writer->out, size);
        writer->out_used = size;
        if (!rc) {
            sum = km__crc32c(sum, writer->out, size);
            rc = km__sealed_writer_flush(writer);
        }
        at += size;
    }
    if (!rc && sum != index->spilled_sum)
        rc = KM_E_CORRUPT;
    if (!rc)
        rc = km__sealed_writer_put(writer, index->bytes, index->used);
    return rc;
}

static km_status sealed_write_footer(km_sealed_builder *builder, uint64_t index_offset)
{
    static const uint8_t zeros[SEALED_PAGE];
    struct sealed_writer *writer = &builder->writer;
    const struct sealed_totals *totals = &writer->totals;
    uint64_t end = writer->offset + writer->out_used;
    uint8_t bytes[SEALED_PAGE];
    struct sealed_footer footer = {.key_width = (uint32_t)builder->options.keys,
                                   .block_size = builder->options.block_size,
                                   .created_ms = builder->os->ops->wall_ms(builder->os),
                                   .count = totals->count,
                                   .block_count = totals->block_count,
                                   .group_count = builder->index.group_count,
                                   .key_bytes = totals->key_bytes,
                                   .value_bytes = totals->value_bytes,
                                   .index_offset = index_offset,
                                   .index_size = end - index_offset,
                                   .compression = builder->options.compression == KM_SEALED_PLAIN
                                                      ? SEALED_COMPRESSION_NONE
                                                      : SEALED_COMPRESSION_ZSTD};
    km_status rc;

    memcpy(footer.id, builder->id, sizeof(footer.id));
    km__sealed_footer_encode(&footer, bytes);
    rc = km__sealed_writer_put(writer, zeros, km__round_up(end, SEALED_PAGE) - end);
    if (!rc)
        rc = km__sealed_writer_put(writer, bytes, sizeof(bytes));
    if (!rc)
        rc = km__sealed_writer_flush(writer);
    return rc;
}

/* I2 */
static km_status sealed_publish(km_sealed_builder *builder)
{
    const struct os_ops *ops = builder->os->ops;
    struct sealed_folder *folder = &builder->folder;
    km_status rc = ops->sync(builder->table.file);

    if (!rc)
        rc = km__sealed_folder_check_name(folder);
    if (rc)
        return rc;
    rc = ops->rename(folder->dir, builder->table.name, folder->name);
    if (rc)
        return rc;
    builder->table.name[0] = '\0'; /* that name is gone */
    return ops->sync_dir(folder->dir);
}

static km_status sealed_complete(km_sealed_builder *builder)
{
    uint64_t index_offset = 0;
    km_status rc = sealed_write_records(builder);

    if (!rc)
        rc = km__sealed_writer_end(&builder->writer, &index_offset);
    if (!rc)
        rc = sealed_write_index(builder);
    if (!rc)
        rc = sealed_write_footer(builder, index_offset);
    if (!rc)
        rc = sealed_publish(builder);
    return rc;
}

km_status km_sealed_builder_finish(km_sealed_builder *builder, km_error *out_error)
{
    km_status rc = builder->failure;

    if (!rc) {
        rc = sealed_complete(builder);
        if (rc)
            rc = sealed_build_failed(builder, rc);
    }
    if (rc && out_error)
        *out_error = builder->error;
    sealed_builder_destroy(builder);
    return rc;
}

/* ---- from a callback --------------------------------------------------------------------- */

int km_sealed_build(const char *path, const km_sealed_build_options *options,
                    km_sealed_next_fn next, void *context, km_error *out_error)
{
    km_sealed_builder *builder = NULL;
    int code = km_sealed_builder_open(path, options, &builder, out_error);

    if (code)
        return code;
    for (;;) {
        km_bytes key = {NULL, 0};
        km_bytes value = {NULL, 0};
        code = next(context, &key, &value);
        if (code)
            break;
        code = km_sealed_builder_add(builder, key, value);
        if (code && builder->failure)
            return km_sealed_builder_finish(builder, out_error);
        if (code) {
            code = km__fail(out_error, (km_status)code, NULL, 0, 0,
                            "a record has a key of %zu bytes and a value of %zu", key.size,
                            value.size);
            break;
        }
    }
    if (code == KM_END)
        return km_sealed_builder_finish(builder, out_error);
    km_sealed_builder_abort(builder);
    return code;
}
