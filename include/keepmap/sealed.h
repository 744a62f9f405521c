/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed.h -- sealed tables: files of keys and values that are written once, in bulk, and then only
 * read. Needs keepmap.h, which has the rules that hold for every function.
 *
 * A table is one file. Its keys are in order, and its values stay on disk: a get takes one read at
 * most, an absent key almost always none. A table is complete from the moment it has its name, and
 * replacing one leaves those who have the old one open undisturbed: they see it until they open it
 * again. The file must not be changed or cut short in place.
 *
 * Fork: unlike a store, a table may be read in a child of the process that opened it. A builder
 * belongs to the process that opened it; a child leaves it alone.
 */
#include "keepmap/keepmap.h" /* which includes this file */

#ifndef KEEPMAP_SEALED_H
#define KEEPMAP_SEALED_H

#ifdef __cplusplus
extern "C" {
#endif

typedef struct km_sealed km_sealed;                 /* an open table */
typedef struct km_sealed_builder km_sealed_builder; /* a table being written */
typedef struct km_sealed_cursor km_sealed_cursor;   /* a walk over a table */

/* What keys a table has: bytes, or numbers of a fixed width. The value is the width. The bytes of a
 * number's key are big-endian, as in km_u64_key, so that byte order is number order. */
typedef enum km_sealed_keys {
    KM_SEALED_BYTES = 0, /* 0 to KM_KEY_SIZE_MAX bytes of any content */
    KM_SEALED_U8 = 1,
    KM_SEALED_U16 = 2,
    KM_SEALED_U32 = 4,
    KM_SEALED_U64 = 8
} km_sealed_keys;

/* ---- building ---------------------------------------------------------------------------- */

#define KM_SEALED_MEMORY_MIN (1u << 20)
#define KM_SEALED_BLOCK_SIZE_MAX 65536u

/* How blocks are compressed, if at all. */
typedef enum km_sealed_compression {
    KM_SEALED_PLAIN = 0,
    KM_SEALED_ZSTD = 1 /* where the library was built with it */
} km_sealed_compression;

#define KM_SEALED_LEVEL_MIN (-7)
#define KM_SEALED_LEVEL_MAX 19

/* Options of a build. Start with KM_SEALED_BUILD_OPTIONS_INIT; a field of 0 means its default. */
typedef struct km_sealed_build_options {
    size_t struct_size;
    km_sealed_keys keys;     /* default KM_SEALED_BYTES */
    uint32_t block_size;     /* bytes that a get reads: a multiple of 4096 up to
                                KM_SEALED_BLOCK_SIZE_MAX; default 4096, or 32768 before compression.
                                Blocks of large values are larger, so that little is wasted */
    uint64_t memory_max;     /* of the build: default 64 MiB, at least KM_SEALED_MEMORY_MIN. A few
                                times the largest record and about 3 MiB come on top, and for
                                compression 4 MiB, at high levels 20 */
    km_progress_fn progress; /* while records are added: bytes added, and 0 for the total, which is
                                not known; then, if they had to be sorted on disk, bytes merged and
                                all bytes. A return other than 0 ends the build */
    void *progress_context;
    km_sealed_compression compression; /* default KM_SEALED_PLAIN. A get from a compressed table
                                          decompresses a whole block, unless it is in the cache */
    int compression_level; /* KM_SEALED_LEVEL_MIN, fastest, to KM_SEALED_LEVEL_MAX; default 3 */
} km_sealed_build_options;
#define KM_SEALED_BUILD_OPTIONS_INIT                                                               \
    {                                                                                              \
        sizeof(km_sealed_build_options), KM_SEALED_BYTES, 0, 0, NULL, NULL, KM_SEALED_PLAIN, 0     \
    }

/*
 * km_sealed_builder_open -- begin to write a table.
 *
 *   path       The table's file. It appears, or is replaced, when the build is finished; until then
 *              the build has files beside it, named after it and ending in ".sealing", with 16
 *              hexadecimal digits before: a table cannot have such a name. The file's mode is 0600,
 *              whatever that of the one it replaces.
 *   options    NULL for the defaults.
 *   out_error  Details of a failure; may be NULL. Written whenever the status is not KM_OK.
 *
 * What interrupted builds of this table have left behind is removed. Several builds of one table at
 * once do not disturb one another: the last to finish wins.
 *
 * On the disk a build needs room for the table, beside the old one. Where records do not come in
 * order, and are more than memory_max, it needs as much again while they are merged.
 *
 * Returns:   KM_OK, KM_NOT_FOUND (no such folder), KM_E_IO (the folder cannot be written to),
 *            KM_E_FULL, KM_E_LIMIT, KM_E_NO_MEMORY;
 *            KM_E_INVALID: also when the name is taken by something that is no file: a folder, a
 *            pipe, a symbolic link;
 *            KM_E_UNSUPPORTED: the library cannot compress.
 * Lifetime:  ended by km_sealed_builder_finish() or km_sealed_builder_abort().
 * Threads:   a builder belongs to one thread at a time.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_sealed_builder_open(const char *path,
                                                      const km_sealed_build_options *options,
                                                      km_sealed_builder **out_builder,
                                                      km_error *out_error);

/*
 * km_sealed_builder_add -- add a record.
 *
 * Records may come in any order; fastest is that of the keys, which needs no sorting. Of records
 * with equal keys the last one counts.
 *
 * Returns:   KM_OK.
 *            KM_E_INVALID  the key has not the width of the table's numbers, or key or value a size
 *                       but no data; KM_E_TOO_BIG: key or value over its limit. Nothing is added,
 *                       and the build goes on.
 *            KM_STOPPED, KM_E_FULL, KM_E_IO, KM_E_CORRUPT (what was written before reads back
 *                       otherwise), KM_E_LIMIT, KM_E_NO_MEMORY: the build is over; this is also
 *                       what every later call returns.
 * Lifetime:  key and value are borrowed for the call.
 * Threads:   as km_sealed_builder_open().
 * Blocks:    on the disk, now and then.
 */
KM_API KM_MUST_CHECK km_status km_sealed_builder_add(km_sealed_builder *builder, km_bytes key,
                                                     km_bytes value);

/*
 * km_sealed_builder_add_number -- add a record whose key is a number.
 *
 * Returns:   as km_sealed_builder_add(); KM_E_INVALID: the number has no room in the table's keys,
 *            or they are bytes.
 * Lifetime:  value is borrowed for the call.
 * Threads:   as km_sealed_builder_open().
 * Blocks:    as km_sealed_builder_add().
 */
KM_API KM_MUST_CHECK km_status km_sealed_builder_add_number(km_sealed_builder *builder,
                                                            uint64_t number, km_bytes value);

/*
 * km_sealed_builder_add_next -- add a record under the next number: 0, then 1, and so on.
 *
 *   out_number  The number; may be NULL.
 *
 * Numbers are counted by the calls of this function that returned KM_OK, whatever else is added.
 *
 * Returns:   as km_sealed_builder_add_number(); KM_E_INVALID: also when no number is left.
 * Lifetime:  value is borrowed for the call.
 * Threads:   as km_sealed_builder_open().
 * Blocks:    as km_sealed_builder_add().
 */
KM_API KM_MUST_CHECK km_status km_sealed_builder_add_next(km_sealed_builder *builder,
                                                          km_bytes value, uint64_t *out_number);

/*
 * km_sealed_builder_finish -- complete the table, make it durable, give it its name, and end the
 * builder, whatever the status.
 *
 *   builder    Ended.
 *   out_error  Details of a failure, of the first one if the build was over; may be NULL.
 *
 * A crash leaves the table that was there before, or the new one. After an error the old one is
 * still there, but for KM_E_IO from the very last step: then it may be either, and is one of them
 * as a whole.
 *
 * Returns:   KM_OK, KM_STOPPED, KM_E_FULL, KM_E_IO, KM_E_CORRUPT, KM_E_LIMIT, KM_E_NO_MEMORY;
 *            KM_E_INVALID: the name is taken by something that is no file.
 * Lifetime:  ends the builder.
 * Threads:   as km_sealed_builder_open().
 * Blocks:    on the disk, for as long as sorting and writing take.
 */
KM_API KM_MUST_CHECK km_status km_sealed_builder_finish(km_sealed_builder *builder,
                                                        km_error *out_error);

/*
 * km_sealed_builder_abort -- end a build and remove what it has written; NULL is accepted.
 *
 * Returns:   nothing.
 * Lifetime:  ends the builder.
 * Threads:   as km_sealed_builder_open().
 * Blocks:    on the disk.
 */
KM_API void km_sealed_builder_abort(km_sealed_builder *builder);

/* Sets the next record and returns KM_OK (0), or returns KM_END when there are no more. Any other
 * number ends the build. What it sets must stay until the next call of it, or the end. */
typedef int (*km_sealed_next_fn)(void *context, km_bytes *out_key, km_bytes *out_value);

/*
 * km_sealed_build -- write a table from records that a function gives.
 *
 *   path, options  As km_sealed_builder_open().
 *   next       Called for one record after the other, by this thread.
 *   out_error  Details of a failure that is not the function's; may be NULL.
 *
 * A record that km_sealed_builder_add() would refuse ends the build. If it fails nothing appears at
 * the path, or what was there stays.
 *
 * Returns:   KM_OK; the statuses of km_sealed_builder_open(), _add() and _finish(); and unchanged
 *            whatever else next returned: not a km_status alone, hence an int.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on the disk, and as next does.
 */
KM_API KM_MUST_CHECK int km_sealed_build(const char *path, const km_sealed_build_options *options,
                                         km_sealed_next_fn next, void *context,
                                         km_error *out_error);

/* ---- reading ----------------------------------------------------------------------------- */

#define KM_SEALED_CACHE_SIZE_MIN (4u << 20)

/* Options of a reader. Start with KM_SEALED_OPTIONS_INIT. */
typedef struct km_sealed_options {
    size_t struct_size;
    int no_mapping; /* 1: the file is read by calls alone, not through a mapping: a disk that fails
                       gives KM_E_IO instead of SIGBUS, and a get that finds its block in memory
                       takes about twice as long */
    uint64_t cache_size; /* bytes of memory, at least KM_SEALED_CACHE_SIZE_MIN, in which blocks are
                            kept that gets have read: of a compressed table, decompressed, or of
                            one that is not mapped. 0: none, and there is none for other tables,
                            for blocks of more than a 64th of it, and in a child process */
} km_sealed_options;
#define KM_SEALED_OPTIONS_INIT                                                                     \
    {                                                                                              \
        sizeof(km_sealed_options), 0, 0                                                            \
    }

/*
 * km_sealed_open -- open a table for reading.
 *
 *   path       The table's file; a symbolic link is not followed.
 *   options    NULL for the defaults.
 *   out_error  Details of a failure; may be NULL. Written whenever the status is not KM_OK.
 *
 * Header, footer and index, with its filter, are read and checked; the index stays in memory: 1.7
 * bytes a key where values have 100 bytes.
 *
 * Returns:   KM_OK, KM_NOT_FOUND, KM_E_NOT_A_STORE (the file is no table), KM_E_CORRUPT,
 *            KM_E_VERSION, KM_E_INVALID, KM_E_IO, KM_E_LIMIT, KM_E_NO_MEMORY;
 *            KM_E_UNSUPPORTED: the table is compressed, and the library was built without zstd.
 * Lifetime:  release with km_sealed_close().
 * Threads:   any.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_sealed_open(const char *path, const km_sealed_options *options,
                                              km_sealed **out_table, km_error *out_error);

/*
 * km_sealed_close -- release a table; NULL is accepted.
 *
 * Returns:   nothing.
 * Lifetime:  ends the table; its cursors are closed before.
 * Threads:   no other call on this table may be running or follow.
 * Blocks:    never.
 */
KM_API void km_sealed_close(km_sealed *table);

/*
 * km_sealed_count -- how many keys a table has.
 *
 * Returns:   the number of keys.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    never.
 */
KM_API uint64_t km_sealed_count(const km_sealed *table);

typedef struct km_sealed_info {
    size_t struct_size; /* in: sizeof(km_sealed_info) */
    km_sealed_keys keys;
    uint32_t block_size;   /* that the build was asked for */
    uint64_t count;        /* keys */
    uint64_t block_count;  /* data blocks */
    uint64_t key_bytes;    /* of all keys */
    uint64_t value_bytes;  /* of all values */
    uint64_t file_bytes;   /* of the file */
    uint64_t memory_bytes; /* that the open table takes, cached pages of the file apart */
    uint64_t created_ms;   /* wall clock, ms since 1970 */
    km_sealed_compression compression;
    uint64_t cache_bytes; /* that the cache takes, of memory_bytes */
    uint64_t cache_hits;  /* gets whose block was there */
    uint64_t cache_misses;
} km_sealed_info;

/*
 * km_sealed_get_info -- what is known of a table.
 *
 *   out_info   struct_size set by the caller.
 *
 * Returns:   KM_OK, KM_E_INVALID.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    never.
 */
KM_API KM_MUST_CHECK km_status km_sealed_get_info(const km_sealed *table, km_sealed_info *out_info);

/*
 * km_sealed_get -- find a key and copy its value.
 *
 *   key        May lie in value: what one get found can be the key of the next.
 *   value      Holds the value on KM_OK, enlarged if need be; NULL asks only whether the key is
 *              there. After any other status its contents are undefined, its memory still its own.
 *
 * Returns:   KM_OK, KM_NOT_FOUND.
 *            KM_E_CORRUPT  the bytes do not pass their checksums.
 *            KM_E_INVALID  the key has not the width of the table's numbers, is too long, or has a
 *                          size but no data.
 *            KM_E_IO, KM_E_NO_MEMORY.
 * Lifetime:  value belongs to the caller.
 * Threads:   any.
 * Blocks:    on the disk, for one read at most; not where the block is in memory, nor for 99 in 100
 *            keys that are not there.
 */
KM_API KM_MUST_CHECK km_status km_sealed_get(const km_sealed *table, km_bytes key,
                                             km_buffer *value);

/*
 * km_sealed_get_number -- km_sealed_get() with a number as the key.
 *
 * Returns:   as km_sealed_get(); KM_NOT_FOUND for a number that has no room in the table's keys.
 *            KM_E_INVALID  the table's keys are bytes.
 * Lifetime:  value belongs to the caller.
 * Threads:   any.
 * Blocks:    as km_sealed_get().
 */
KM_API KM_MUST_CHECK km_status km_sealed_get_number(const km_sealed *table, uint64_t number,
                                                    km_buffer *value);

/*
 * km_sealed_contains -- whether a key is there.
 *
 * Returns:   KM_OK if it is, KM_NOT_FOUND if not, and the errors of km_sealed_get().
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    as km_sealed_get().
 */
KM_API KM_MUST_CHECK km_status km_sealed_contains(const km_sealed *table, km_bytes key);

/*
 * km_sealed_get_many -- find many keys at once: sorted by where they lie, neighbours in one read.
 *
 *   keys       count keys, in any order; repetitions are fine. They must not lie in memory.
 *   memory     Holds the values, enlarged if need be.
 *   out_values count entries: the value, in memory. For a key that is not there data is NULL and
 *              size 0 (an empty value that is there has data not NULL). After an error undefined.
 *   out_found  How many were there; may be NULL.
 *
 * Returns:   KM_OK, or an error that a key met, as km_sealed_get().
 * Lifetime:  out_values points into memory, which belongs to the caller: valid until it is next
 *            given to a call, or freed.
 * Threads:   any.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_sealed_get_many(const km_sealed *table, const km_bytes *keys,
                                                  size_t count, km_buffer *memory,
                                                  km_bytes *out_values, size_t *out_found);

/*
 * km_sealed_verify -- read every byte of an open table, and report all damage.
 *
 *   found      Called for every finding, by this thread; may be NULL.
 *   progress   A return other than 0 ends it; may be NULL.
 *   context    Of both.
 *
 * Returns:   KM_OK: no damage; KM_E_CORRUPT: damage was found; KM_E_IO: some of it could not be
 *            read, which is a finding too; the rest was verified; KM_STOPPED, KM_E_NO_MEMORY.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_sealed_verify(const km_sealed *table, km_finding_fn found,
                                                km_progress_fn progress, void *context);

/*
 * km_sealed_check -- open a table, verify it, and close it: whether the file is a sound one.
 *
 *   path       As km_sealed_open().
 *   found      Called for every finding, by this thread, with context; may be NULL.
 *   out_error  Details of a failure, or that there were findings; may be NULL.
 *
 * Returns:   KM_OK: it is; KM_E_CORRUPT: it is damaged; the other statuses of km_sealed_open() and
 *            km_sealed_verify().
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_sealed_check(const char *path, km_finding_fn found, void *context,
                                               km_error *out_error);

/* ---- cursors ----------------------------------------------------------------------------- */

/* Start with KM_SEALED_CURSOR_OPTIONS_INIT. */
typedef struct km_sealed_cursor_options {
    size_t struct_size;
    km_range range; /* which keys; not needed after the call */
    int reverse;    /* 1: begin behind the last key, and let next go backwards */
} km_sealed_cursor_options;
#define KM_SEALED_CURSOR_OPTIONS_INIT                                                              \
    {                                                                                              \
        sizeof(km_sealed_cursor_options), {{NULL, 0}, {NULL, 0}, {NULL, 0}}, 0                     \
    }

/*
 * km_sealed_cursor_open -- begin a walk over a table in the order of its keys.
 *
 *   options    NULL: from the first key to the last.
 *
 * A cursor stands between two keys, before the first one of its range to begin with.
 *
 * Returns:   KM_OK, KM_E_CORRUPT, KM_E_INVALID, KM_E_IO, KM_E_NO_MEMORY.
 * Lifetime:  release with km_sealed_cursor_close(), before the table is closed.
 * Threads:   a cursor belongs to one thread at a time.
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_sealed_cursor_open(const km_sealed *table,
                                                     const km_sealed_cursor_options *options,
                                                     km_sealed_cursor **out_cursor);

/*
 * km_sealed_cursor_next -- the key after the cursor, which moves behind it;
 * km_sealed_cursor_previous -- the key before the cursor, which moves before it.
 *
 *   out_key, out_value   Set on KM_OK; either may be NULL.
 *
 * Returns:   KM_OK, KM_END, KM_E_CORRUPT, KM_E_IO, KM_E_NO_MEMORY. After an error the cursor is
 *            where it was.
 * Lifetime:  both belong to the cursor, until its next call.
 * Threads:   as km_sealed_cursor_open().
 * Blocks:    on the disk, once in about 256 KiB.
 */
KM_API KM_MUST_CHECK km_status km_sealed_cursor_next(km_sealed_cursor *cursor, km_bytes *out_key,
                                                     km_bytes *out_value);
KM_API KM_MUST_CHECK km_status km_sealed_cursor_previous(km_sealed_cursor *cursor,
                                                         km_bytes *out_key, km_bytes *out_value);

/*
 * km_sealed_cursor_seek -- move a cursor to a key: before it in the cursor's direction, so that
 * next returns it, or, if it is not there, the one that follows. The cursor stays in its range.
 * The key may be one that the cursor returned, or in such a value.
 *
 * Returns:   KM_OK, KM_E_CORRUPT, KM_E_INVALID, KM_E_IO, KM_E_NO_MEMORY.
 * Lifetime:  key is borrowed for the call.
 * Threads:   as km_sealed_cursor_open().
 * Blocks:    on the disk.
 */
KM_API KM_MUST_CHECK km_status km_sealed_cursor_seek(km_sealed_cursor *cursor, km_bytes key);

/*
 * km_sealed_cursor_count -- how many keys the range of a cursor has, wherever it stands.
 *
 * Returns:   the number of keys.
 * Lifetime:  nothing to release.
 * Threads:   as km_sealed_cursor_open().
 * Blocks:    never.
 */
KM_API uint64_t km_sealed_cursor_count(const km_sealed_cursor *cursor);

/*
 * km_sealed_cursor_close -- end a walk; NULL is accepted.
 *
 * Returns:   nothing.
 * Lifetime:  ends the cursor and what it returned.
 * Threads:   as km_sealed_cursor_open().
 * Blocks:    never.
 */
KM_API void km_sealed_cursor_close(km_sealed_cursor *cursor);

/*
 * km_sealed_number -- the number that a key of a table of numbers stands for.
 *
 * Returns:   the number.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    never.
 */
static inline uint64_t km_sealed_number(km_bytes key)
{
    const unsigned char *bytes = (const unsigned char *)key.data;
    uint64_t number = 0;
    size_t i;
    for (i = 0; i < key.size; i++)
        number = number << 8 | bytes[i];
    return number;
}

#ifdef __cplusplus
}
#endif
#endif /* KEEPMAP_SEALED_H */
