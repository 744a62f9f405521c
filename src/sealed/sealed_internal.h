/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_internal.h -- what the files of sealed/ share. README.md tells how they work together.
 */
#ifndef KM_SEALED_SEALED_INTERNAL_H
#define KM_SEALED_SEALED_INTERNAL_H

#include "base/compiler.h"
#include "base/status.h"
#include "format/sealed_format.h"
#include "os/os.h"
#include "sealed/sealed.h"

/* ---- names: sealed_files.c --------------------------------------------------------------- */

#define SEALED_NAME_MAX 255u
#define SEALED_TEMP_END_SIZE 25u /* ".0123456789abcdef.sealing" */
#define SEALED_TABLE_NAME_MAX (SEALED_NAME_MAX - SEALED_TEMP_END_SIZE)

/* The folder of a table, and its name there. */
struct sealed_folder {
    struct os *os;
    struct os_dir *dir;
    char name[SEALED_NAME_MAX + 1];
};

/* A file of a build. While it has a name of its own it is locked, so that it is not taken for what
 * an interrupted build left. */
struct sealed_temp {
    struct os_file *file;
    char name[SEALED_NAME_MAX + 1]; /* empty: it has none any more */
};

KM_INTERNAL km_status km__sealed_folder_open(struct os *os, const char *path,
                                             struct sealed_folder *out, km_error *error);
KM_INTERNAL void km__sealed_folder_close(struct sealed_folder *folder);
/* Whether a name ends as those of builds' files do. */
KM_INTERNAL int km__sealed_name_is_temp(const char *name);
/* KM_E_INVALID if the table's name is taken by something that is no regular file. */
KM_INTERNAL km_status km__sealed_folder_check_name(struct sealed_folder *folder);
/* Remove the files of builds of this table that nobody works at. */
KM_INTERNAL void km__sealed_folder_sweep(struct sealed_folder *folder);
KM_INTERNAL km_status km__sealed_temp_create(struct sealed_folder *folder, struct sealed_temp *out);
/* Take the name away; the file goes with its handle. */
KM_INTERNAL km_status km__sealed_temp_unlink(struct sealed_folder *folder,
                                             struct sealed_temp *temp);
/* Unlink it if it has a name, and close it; one that was not created is accepted. */
KM_INTERNAL void km__sealed_temp_discard(struct sealed_folder *folder, struct sealed_temp *temp);

/* ---- spill: sealed_files.c --------------------------------------------------------------- */

/* A file without a name that grows at its end; created when it is first needed. */
struct sealed_spill {
    struct sealed_folder *folder;
    struct sealed_temp temp;
    uint64_t size;
};

KM_INTERNAL km_status km__sealed_spill_open(struct sealed_spill *spill);
KM_INTERNAL km_status km__sealed_spill_append(struct sealed_spill *spill, const void *bytes,
                                              size_t size);

/* ---- compression: sealed_pack.c ---------------------------------------------------------- */

struct sealed_packer;    /* of one thread */
struct sealed_unpackers; /* of any number of threads */

/* Whether this build can do it; if not, what follows returns KM_E_UNSUPPORTED. */
KM_INTERNAL int km__sealed_pack_exists(void);
KM_INTERNAL km_status km__sealed_packer_create(const struct allocator *allocator, int level,
                                               struct sealed_packer **out);
KM_INTERNAL void km__sealed_packer_destroy(const struct allocator *allocator,
                                           struct sealed_packer *packer);
/* Compress into `room` bytes. *out_size is 0 if that is not enough. */
KM_INTERNAL km_status km__sealed_pack(struct sealed_packer *packer, km_bytes plain, uint8_t *frame,
                                      size_t room, size_t *out_size);
KM_INTERNAL km_status km__sealed_unpackers_create(const struct allocator *allocator,
                                                  struct sealed_unpackers **out);
KM_INTERNAL void km__sealed_unpackers_destroy(const struct allocator *allocator,
                                              struct sealed_unpackers *unpackers);
/* Decode a block with its pages, which may be compressed unless `unpackers` is NULL: then it is
 * unpacked into `plain`, and *out points there; else into `stored`. */
KM_INTERNAL km_status km__sealed_unpack_block(struct sealed_unpackers *unpackers, km_bytes stored,
                                              uint32_t seed, km_buffer *plain,
                                              struct sealed_block *out);

/* ---- blocks to a file: sealed_writer.c and sealed_group.c -------------------------------- */

/* Files that are written in pieces of 2 MiB, at multiples of it, can be mapped in large pages. */
#define SEALED_OUT_SIZE ((size_t)2 << 20)
#define SEALED_FILTER_ROOM ((size_t)64 << 10) /* a group with more is complete */
#define SEALED_FILTER_BLOCK_MAX                                                                    \
    ((size_t)SEALED_BLOCK_RECORDS_MAX * SEALED_FILTER_BITS_PER_KEY / 8 + 2)

/* The groups of a table that is written, kept until its blocks are. */
struct sealed_index {
    const struct allocator *allocator;
    struct sealed_spill *spill; /* what the memory has no room for, from spill_start on */
    uint64_t spill_start;
    uint64_t spilled;
    uint32_t spilled_sum; /* crc32c of what was spilled: it is read back */
    uint8_t *bytes;
    size_t used, capacity;
    uint64_t group_count;
    uint32_t id_sum;
    struct sealed_group_plan plan; /* of the group that is being filled */
    uint8_t *separators;           /* SEALED_GROUP_SEPARATORS_MAX */
    uint8_t *filter;               /* SEALED_FILTER_ROOM + SEALED_FILTER_BLOCK_MAX */
};

/* What the index is told of a block: where it begins, and whom it has. */
struct sealed_entry {
    uint64_t first_page;
    uint32_t page_count;
    uint32_t record_count;
    km_bytes separator;
    const uint64_t *hashes;
};

KM_INTERNAL km_status km__sealed_index_init(struct sealed_index *index,
                                            const struct allocator *allocator,
                                            struct sealed_spill *spill, size_t capacity);
KM_INTERNAL void km__sealed_index_fini(struct sealed_index *index);
KM_INTERNAL void km__sealed_index_reset(struct sealed_index *index, uint32_t id_sum);
KM_INTERNAL km_status km__sealed_index_add(struct sealed_index *index,
                                           const struct sealed_entry *entry);
/* Complete the last group. */
KM_INTERNAL km_status km__sealed_index_close(struct sealed_index *index);

/* The records of the block that is being filled; bounded by the size of a block, but for a value
 * that is alone. */
struct sealed_pending {
    struct sealed_shape shape;
    uint64_t limit;        /* bytes, a multiple of SEALED_PAGE: when it is full */
    uint32_t key_size;     /* of the first */
    uint32_t value_size;   /* of the first */
    uint32_t keys_other;   /* how many have another size than the first */
    uint32_t values_other; /* likewise */
    uint32_t
        separator_size; /* so much of the first key tells it from the last of the block before */
    uint8_t *first_key; /* KM_KEY_SIZE_MAX */
    uint8_t *last_key;  /* KM_KEY_SIZE_MAX */
    uint32_t last_key_size; /* of the last record added, of this block or one before */
    int has_last;           /* last_key is one */
    uint32_t *common;       /* for each record: what its key and the first begin with alike */
    uint32_t *key_sizes;    /* whole */
    uint32_t *value_sizes;
    uint64_t *hashes;
    uint8_t *suffixes; /* what each key has after `common`, SEALED_BLOCK_SIZE_MAX */
    uint32_t suffixes_used;
    uint8_t *values;
    size_t values_capacity;
};

struct sealed_totals {
    uint64_t count;
    uint64_t block_count;
    uint64_t key_bytes;
    uint64_t value_bytes;
};

struct sealed_writer {
    const struct allocator *allocator;
    struct os *os;
    struct os_file *file;
    struct sealed_index *index; /* NULL: a run, which has none */
    uint64_t offset;            /* of out[0] in the file */
    uint8_t *out;               /* SEALED_OUT_SIZE */
    size_t out_used;
    uint32_t id_sum;
    uint32_t block_size;
    uint64_t block_max; /* bytes of the largest block */
    uint64_t plain_max; /* of the largest one that is compressed, before that; 0: there is none */
    struct sealed_totals totals;
    struct sealed_pending pending;
    uint32_t *suffix_sizes; /* for the block that is being encoded */
    uint8_t *joined;        /* likewise: suffixes as they are written, SEALED_BLOCK_SIZE_MAX */
    struct sealed_packer *packer; /* NULL: blocks are not compressed */
    uint8_t *plain;               /* a block before it is compressed, and after; or NULL */
    uint8_t *packed;
    size_t packed_capacity; /* of each of them */
};

KM_INTERNAL km_status km__sealed_writer_init(struct sealed_writer *writer, struct os *os);
KM_INTERNAL void km__sealed_writer_fini(struct sealed_writer *writer);

/* Where a writer begins. */
struct sealed_target {
    struct os_file *file;
    uint64_t offset;
    uint32_t id_sum;
    uint32_t block_size;
    struct sealed_index *index;
    struct sealed_packer *packer; /* NULL: do not compress */
};
KM_INTERNAL void km__sealed_writer_begin(struct sealed_writer *writer,
                                         const struct sealed_target *target);
/* Keys ascend; a key that equals the last one replaces that record. */
KM_INTERNAL km_status km__sealed_writer_add(struct sealed_writer *writer, km_bytes key,
                                            km_bytes value);
static inline km_bytes km__sealed_writer_last_key(const struct sealed_writer *writer)
{
    return km_bytes_of(writer->pending.last_key, writer->pending.last_key_size);
}
/* Write what is pending. *out_end is a multiple of SEALED_PAGE: where the blocks end. */
KM_INTERNAL km_status km__sealed_writer_end(struct sealed_writer *writer, uint64_t *out_end);
/* Any bytes behind the blocks. */
KM_INTERNAL km_status km__sealed_writer_put(struct sealed_writer *writer, const void *bytes,
                                            size_t size);
KM_INTERNAL km_status km__sealed_writer_flush(struct sealed_writer *writer);

/* ---- records in memory: sealed_arena.c --------------------------------------------------- */

struct sealed_ref {
    uint64_t head; /* sorts first */
    uint64_t offset;
};

/* Sort by head, keeping the order of equal ones; `other` has room for `count` too. The result is in
 * `refs`. */
KM_INTERNAL void km__sealed_sort_refs(struct sealed_ref *refs, struct sealed_ref *other,
                                      size_t count);

/* Records from the bottom up; room for what sorting needs is kept at the top. */
struct sealed_arena {
    const struct allocator *allocator;
    uint8_t *bytes;
    size_t size;
    size_t used;
    size_t count;
    size_t last;             /* offset of the last record */
    int is_sorted;           /* keys do not descend */
    struct sealed_ref *refs; /* set by km__sealed_arena_sort() */
};

KM_INTERNAL km_status km__sealed_arena_init(struct sealed_arena *arena,
                                            const struct allocator *allocator, size_t size);
KM_INTERNAL void km__sealed_arena_fini(struct sealed_arena *arena);
KM_INTERNAL void km__sealed_arena_clear(struct sealed_arena *arena);
KM_INTERNAL int km__sealed_arena_has_room(const struct sealed_arena *arena, km_bytes key,
                                          km_bytes value);
KM_INTERNAL void km__sealed_arena_add(struct sealed_arena *arena, km_bytes key, km_bytes value);
KM_INTERNAL void km__sealed_arena_sort(struct sealed_arena *arena);
/* Give all records of a sorted arena to a writer, the last one of equal keys. */
KM_INTERNAL km_status km__sealed_arena_write(struct sealed_arena *arena,
                                             struct sealed_writer *writer);

/* ---- merging: sealed_merge.c ------------------------------------------------------------- */

/* Sorted blocks on disk. Of runs with equal keys the later one counts. */
struct sealed_run {
    struct os_file *file;
    uint64_t start;
    uint64_t end;
    uint64_t block_max;
    uint64_t plain_max; /* of blocks that are compressed, unpacked; 0: there are none */
    uint64_t bytes;     /* of keys and values */
};

struct sealed_merge {
    const struct allocator *allocator;
    struct os *os;
    uint32_t id_sum;
    uint64_t memory_max;
    uint64_t key_max; /* size of the largest key */
    struct sealed_unpackers *unpackers;
    /* Told of the bytes merged since it was last called. */
    km_status (*progress)(void *context, uint64_t bytes);
    void *context;
};

/* How many of the runs can be merged at once: at least 2, if there are 2. */
KM_INTERNAL size_t km__sealed_merge_width(const struct sealed_merge *merge,
                                          const struct sealed_run *runs, size_t count);
/* Give the records of all runs to a writer. */
KM_INTERNAL km_status km__sealed_merge_runs(const struct sealed_merge *merge,
                                            const struct sealed_run *runs, size_t count,
                                            struct sealed_writer *writer);

/* ---- tables: sealed_reader.c ------------------------------------------------------------- */

struct sealed_group_place {
    const uint8_t *bytes;    /* in the table's index */
    uint64_t records_before; /* in the groups before */
};

#define SEALED_BLOCK_LINES 5u  /* cache lines of a block's head that a search looks at, about */
#define SEALED_GROUP_LINES 15u /* of a group: all but its filters, about */

/* Constant after it was opened. */
struct km_sealed {
    struct os *os;
    struct os_file *file;
    const uint8_t *map; /* of the whole file, or NULL */
    uint64_t file_size;
    struct sealed_footer footer;
    uint32_t id_sum;
    uint32_t group_count;
    uint8_t *index;  /* all groups, as in the file */
    uint64_t *heads; /* of the groups' first separators, without their common prefix; not [0] */
    struct sealed_group_place *groups;
    uint64_t value_mean;                /* bytes of a value, about */
    struct sealed_unpackers *unpackers; /* NULL: no block is compressed */
    struct sealed_cache *cache;         /* or NULL */
    const uint8_t *prefix;              /* of the first separators of all groups but the first */
    uint32_t prefix_size;
    char name[SEALED_NAME_MAX + 1];
};

/* A block, and how many records are before it. */
struct sealed_place {
    uint32_t group;
    uint32_t index; /* in the group */
    uint32_t record_count;
    uint64_t offset;
    uint64_t size; /* up to the next block */
    uint64_t first_record;
};

/* KM_E_INVALID: no key of this table can be so, or it has no address. */
KM_INTERNAL km_status km__sealed_check_key(const km_sealed *table, km_bytes key);
/* A number as the key of a table: KM_NOT_FOUND if it has no room there. */
KM_INTERNAL km_status km__sealed_number_key(uint32_t key_width, uint64_t number,
                                            km_u64_key *out_bytes, km_bytes *out_key);
KM_INTERNAL void km__sealed_place_of(const km_sealed *table, const struct sealed_group *group,
                                     uint32_t number, uint32_t index, struct sealed_place *out);
/* The group in which a key is, if it is in the table, which is not empty: its number. The group is
 * on its way to the cache then. */
KM_INTERNAL uint32_t km__sealed_find_group(const km_sealed *table, km_bytes key);
/* The block in which a key is, if it is in the table, and in this group. */
KM_INTERNAL void km__sealed_place_in_group(const km_sealed *table, uint32_t number, km_bytes key,
                                           struct sealed_group *out_group,
                                           struct sealed_place *out);
static inline void km__sealed_find_place(const km_sealed *table, km_bytes key,
                                         struct sealed_group *out_group, struct sealed_place *out)
{
    km__sealed_place_in_group(table, km__sealed_find_group(table, key), key, out_group, out);
}
/* Bring what a search looks at into the cache: of a group, or of a mapped block. Lines behind them
 * are no fault. Macros, since gcc drops calls of functions that do nothing but prefetch. */
#define SEALED_PREFETCH_LINES(start, count)                                                        \
    for (uint32_t line_ = 0; line_ < (count); line_++)                                             \
    KM_PREFETCH((start) + (size_t)line_ * KM_CACHE_LINE)
#define SEALED_PREFETCH_GROUP(table, number)                                                       \
    SEALED_PREFETCH_LINES((table)->groups[number].bytes, SEALED_GROUP_LINES)
#define SEALED_PREFETCH_BLOCK(table, offset)                                                       \
    SEALED_PREFETCH_LINES((table)->map + (offset), SEALED_BLOCK_LINES)
/* The block that may have a key: KM_NOT_FOUND if there is none. Of a mapped block, what a search
 * will look at is on its way to the cache then. */
KM_INTERNAL km_status km__sealed_locate(const km_sealed *table, km_bytes key,
                                        struct sealed_place *out);
/* The block that has a record, counted from 0, below the table's count. */
KM_INTERNAL void km__sealed_place_of_record(const km_sealed *table, uint64_t record,
                                            struct sealed_place *out);
/* Decode a block that was read, and see that it has the records that the index says. If it is
 * compressed it is unpacked into `plain`, and *out points there; else it points into `bytes`. */
KM_INTERNAL km_status km__sealed_decode_place(const km_sealed *table,
                                              const struct sealed_place *place,
                                              const uint8_t *bytes, km_buffer *plain,
                                              struct sealed_block *out);
/* The same of a block that is mapped, or that is read into `scratch`. */
KM_INTERNAL km_status km__sealed_load(const km_sealed *table, const struct sealed_place *place,
                                      km_buffer *scratch, struct sealed_block *out);
/* Whether km__sealed_load() uses the mapping. */
static inline int km__sealed_is_mapped(const km_sealed *table, const struct sealed_place *place)
{
    return table->map && place->size == SEALED_PAGE; /* compressed tables have no mapping */
}

/* ---- blocks in memory: sealed_cache.c ---------------------------------------------------- */

/* A block in a cache. It stays as long as somebody has it. */
struct sealed_cached;

struct sealed_cache_use {
    uint64_t bytes; /* with all that the cache needs itself */
    uint64_t hits;
    uint64_t misses;
};

/* *out is NULL where a machine cannot tell a child process: then there is no cache. */
KM_INTERNAL km_status km__sealed_cache_create(struct os *os, uint64_t size,
                                              struct sealed_cache **out);
KM_INTERNAL void km__sealed_cache_destroy(struct sealed_cache *cache); /* NULL is accepted */
/* The block at an offset of the file, or NULL; all of it was checked. Counts as hit or miss. */
KM_INTERNAL const struct sealed_block *km__sealed_cache_find(struct sealed_cache *cache,
                                                             uint64_t offset,
                                                             struct sealed_cached **out_cached);
/* The block that km__sealed_cache_find() returned is not looked at any more. */
KM_INTERNAL void km__sealed_cache_release(struct sealed_cached *cached);
/* Keep a copy of a decoded block, if there is room and its values pass their checksums. */
KM_INTERNAL void km__sealed_cache_add(struct sealed_cache *cache, uint64_t offset,
                                      const struct sealed_block *block);
KM_INTERNAL void km__sealed_cache_count(struct sealed_cache *cache, struct sealed_cache_use *out);

/* ---- blocks one after the other: sealed_window.c ----------------------------------------- */

/* A part of the file in memory that follows a walk, larger the longer it goes one way. */
struct sealed_window {
    const km_sealed *table;
    uint8_t *bytes;
    size_t capacity;
    uint64_t begin, end; /* of the blocks that the walk may come to, in the file */
    uint64_t offset;     /* in the file */
    uint64_t size;       /* bytes that are there; 0: none */
    uint64_t ahead;      /* how much the last read took, if it went on from the one before; or 0 */
    int goes_back;       /* where it went on to */
    km_buffer plain;     /* the block of the last load, if it was compressed */
};

KM_INTERNAL void km__sealed_window_init(struct sealed_window *window, const km_sealed *table);
KM_INTERNAL void km__sealed_window_fini(struct sealed_window *window);
/* The bytes in the file of the block that was loaded last. */
static inline const uint8_t *km__sealed_window_at(const struct sealed_window *window,
                                                  const struct sealed_place *place)
{
    return window->bytes + (place->offset - window->offset);
}
/* Whether an address is in memory of the window's, which the next load may overwrite. */
KM_INTERNAL int km__sealed_window_has(const struct sealed_window *window, const void *address);
/* Decode a block and check its values too. What an earlier call gave ends. */
KM_INTERNAL km_status km__sealed_window_load(struct sealed_window *window,
                                             const struct sealed_place *place,
                                             struct sealed_block *out);
/* The same of a block that no walk goes on to: if it has to be read, then nothing beside it. */
KM_INTERNAL km_status km__sealed_window_load_alone(struct sealed_window *window,
                                                   const struct sealed_place *place,
                                                   struct sealed_block *out);

#endif
