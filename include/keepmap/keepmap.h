/* SPDX-License-Identifier: Apache-2.0
 *
 * keepmap.h -- a concurrent map that keeps its contents.
 *
 * A store is a directory (or memory only) that holds named maps from keys to values. Every change
 * is a record in one append-only log, and the log is the data: a get returns the bytes where they
 * lie. What a call promised survives the death of the process, or a power cut, as asked.
 *
 * Rules that hold for every function here, and are not repeated below:
 *   Strings    are NUL-terminated; keys and values are sized bytes of any content, NUL included.
 *   NULL       is accepted only where a text says so, and by every close, abort and free.
 *   Outputs    are written on KM_OK alone; after any other status they are as they were, but for
 *              the contents of a km_buffer, which are undefined then (its memory is still its own).
 *   Status     0 is KM_OK, positive an outcome, negative an error. Errors of one call leave the
 *              store as it was; after KM_E_IO or KM_E_FAILED from a change see km_store_error().
 *   Threads    Any number of threads may use a store and its maps at once, but for km_close().
 *   Fork       In a child process every call on a store that the parent opened returns
 *              KM_E_FORKED, except km_close(), which releases the child's copy of the handle
 *              and touches neither the files nor the parent's lock.
 *   Signals    No call is async-signal-safe; none installs a signal handler.
 *   Printing   The library prints nothing; see km_options.log.
 */
#ifndef KEEPMAP_KEEPMAP_H
#define KEEPMAP_KEEPMAP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KM_VERSION_MAJOR 0
#define KM_VERSION_MINOR 1
#define KM_VERSION_PATCH 0

#if defined(__GNUC__)
#define KM_API __attribute__((visibility("default")))
#define KM_MUST_CHECK __attribute__((warn_unused_result))
#else
#define KM_API
#define KM_MUST_CHECK
#endif

/* Limits, inclusive. */
#define KM_KEY_SIZE_MAX 65535u
#define KM_VALUE_SIZE_MAX 2147483647u
#define KM_MAP_NAME_SIZE_MAX 255u
#define KM_MAP_COUNT_MAX 65535u

/* ---- types ------------------------------------------------------------------------------- */

typedef struct km_store km_store;       /* an open store */
typedef struct km_map km_map;           /* a map of an open store; lives as long as the store */
typedef struct km_reader km_reader;     /* an open read section */
typedef struct km_batch km_batch;       /* changes applied and recovered as one */
typedef struct km_cursor km_cursor;     /* a walk over a map */
typedef struct km_snapshot km_snapshot; /* a store as it was at one moment */
typedef struct km_watch km_watch;       /* a reader of the changes of a store */

/* A place in the store's log. It grows with every change and is never reused, not after a crash
 * either. 0 is before every change. */
typedef uint64_t km_position;

/* Bytes that belong to somebody else. data may be NULL if size is 0. */
typedef struct km_bytes {
    const void *data;
    size_t size;
} km_bytes;

/* Memory of the caller's that calls fill and enlarge as needed, so that one buffer serves many
 * calls. Start with KM_BUFFER_INIT; end with km_buffer_free(). */
typedef struct km_buffer {
    void *data;
    size_t size;     /* bytes in use */
    size_t capacity; /* bytes allocated */
} km_buffer;
#define KM_BUFFER_INIT                                                                             \
    {                                                                                              \
        NULL, 0, 0                                                                                 \
    }

/* What a call came to. The comment says what a caller can do. */
typedef enum km_status {
    KM_OK = 0,
    KM_NOT_FOUND = 1,    /* no such key or map: an outcome, not an error */
    KM_EXISTS = 2,       /* the map or store is there already */
    KM_END = 3,          /* the walk is over */
    KM_WOULD_BLOCK = 4,  /* would have to wait inside this thread's read section: end it first */
    KM_TIMED_OUT = 5,    /* the time given was not enough: call again */
    KM_STOPPED = 6,      /* a callback of the caller's asked to stop */
    KM_CONFLICT = 7,     /* the key is not as the change expected it: nothing changed; look again */
    KM_BUSY = 8,         /* too much is under way already: let some of it end, then call again */
    KM_E_INVALID = -1,   /* an argument is outside its limits: fix the call */
    KM_E_NO_MEMORY = -2, /* memory could not be had; the change did not happen */
    KM_E_FULL = -3,      /* the disk (or a size limit) is full: free space, then go on */
    KM_E_IO = -4,        /* reading or writing failed; km_error and km_store_error() tell more */
    KM_E_FAILED = -5,    /* a write failed earlier: reads go on, changes need a reopen */
    KM_E_CORRUPT = -6,   /* damage before the durable point: salvage, or restore a backup */
    KM_E_LOCKED = -7,    /* another process, or this one, has the store open */
    KM_E_VERSION = -8,   /* written by a newer format: upgrade the library */
    KM_E_NOT_A_STORE = -9,  /* the path holds no store */
    KM_E_READ_ONLY = -10,   /* the store is open for reading only */
    KM_E_TOO_BIG = -11,     /* key, value or batch over its limit */
    KM_E_LIMIT = -12,       /* maps, segments or descriptors are used up */
    KM_E_DROPPED = -13,     /* the map was dropped */
    KM_E_FORKED = -14,      /* the store belongs to the parent process */
    KM_E_UNSUPPORTED = -15, /* this build or machine cannot do it */
    KM_E_TOO_OLD = -16      /* compaction has passed that position: take the contents anew */
} km_status;

/* What went wrong, in words. Optional output of the slow calls; no memory to release. */
typedef struct km_error {
    km_status status;
    int os_error;      /* errno of the cause, or 0 */
    uint64_t offset;   /* byte offset in file, where one is meant */
    char file[128];    /* name within the store's folder, or empty */
    char message[384]; /* one sentence for a person, saying what to do */
} km_error;

/* What a change survives once its call has returned. */
typedef enum km_durability {
    KM_DURABLE_DEFAULT = 0, /* what the store was opened with; for a store: KM_DURABLE_PROCESS */
    KM_DURABLE_PROCESS = 1, /* the death of the process (kill -9); a power cut may take what was
                               written within the last sync interval */
    KM_DURABLE_POWER = 2    /* a power cut */
} km_durability;

/* The order of a map, fixed when it is created. */
typedef enum km_map_kind {
    KM_KIND_DEFAULT = 0, /* KM_INSERTION */
    KM_HASH = 1,         /* fastest; no order promised */
    KM_INSERTION = 2,    /* iterates in insertion order; keys have positions by number. Overwriting
                            a key keeps its place, deleting one keeps the order of the rest */
    KM_SORTED = 3        /* keys in byte order (memcmp; a key before those it begins): ranges,
                            prefixes, seeks */
} km_map_kind;

typedef enum km_open_mode {
    KM_OPEN_OR_CREATE = 0,
    KM_OPEN_EXISTING = 1,
    KM_CREATE_NEW = 2,    /* KM_EXISTS if there is a store */
    KM_OPEN_READ_ONLY = 3 /* writes nothing and needs no write permission; any number of processes
                             may read at once. Beside a process that has the store open for writing
                             it follows: changes appear within some milliseconds */
} km_open_mode;

/* Whether full segments, mapped from their files, are brought into memory. */
typedef enum km_residency {
    KM_RESIDENT_ON_DEMAND = 0, /* what is read is */
    KM_RESIDENT_PRELOAD = 1,   /* all, once, when they are mapped */
    KM_RESIDENT_LOCKED = 2     /* all, for as long as the store is open (see RLIMIT_MEMLOCK) */
} km_residency;

typedef enum km_log_level { KM_LOG_ERROR = 1, KM_LOG_WARNING = 2, KM_LOG_INFO = 3 } km_log_level;

/* Called with one line of text without a newline, from any thread, with no lock held that a call
 * of this library needs. It must not call into the store. */
typedef void (*km_log_fn)(void *context, km_log_level level, const char *message);

/* Called now and then during long work. A return other than 0 stops the work with KM_STOPPED. */
typedef int (*km_progress_fn)(void *context, uint64_t done_bytes, uint64_t total_bytes);

/* Options of a store. Start with KM_OPTIONS_INIT; a field of 0 means its default. */
typedef struct km_options {
    size_t struct_size;        /* sizeof(km_options): lets later versions add fields */
    km_open_mode mode;         /* default KM_OPEN_OR_CREATE */
    km_durability durability;  /* default KM_DURABLE_PROCESS */
    uint32_t sync_interval_ms; /* background sync; default 1000 */
    uint32_t replay_threads;   /* threads of recovery; default: processors, at most 8 */
    uint64_t batch_size_max;   /* bytes of one batch in the log; default 8 MiB */
    uint64_t log_size_max;     /* a change that would make the log larger gets KM_E_FULL;
                                  default: the disk */
    uint32_t keep_in_memory;   /* 1: full segments stay in (huge page) memory instead of being
                                  mapped from their files */
    uint32_t skip_read_checks; /* 1: do not verify records when they are read */
    km_log_fn log;             /* default: none */
    void *log_context;
    km_progress_fn progress; /* of recovery; default: none */
    void *progress_context;
    uint32_t compact_percent; /* compaction keeps the log below this percentage of the live
                                 bytes: 110 to 10000; default 150 */
    uint32_t residency;       /* of sealed segments, a km_residency */
    uint64_t log_size_min;    /* a log below this size is not compacted; default 4 MiB */
    uint64_t image_growth;    /* bytes of log from one index image to the next; default a third
                                 of the live bytes, at least 16 MiB */
    uint64_t scrub_rate;      /* bytes of sealed segments verified per second, round and round;
                                 default 0: only by km_scrub() */
} km_options;
#define KM_OPTIONS_INIT                                                                            \
    {                                                                                              \
        sizeof(km_options), KM_OPEN_OR_CREATE, KM_DURABLE_DEFAULT, 0, 0, 0, 0, 0, 0, NULL, NULL,   \
            NULL, NULL, 0, 0, 0, 0, 0                                                              \
    }

/* ---- status and buffers ------------------------------------------------------------------ */

/*
 * km_status_name -- the name of a status as it stands in this header, e.g. "KM_E_LOCKED".
 *
 * Returns:   a constant string; "KM_UNKNOWN" for a number that is no status.
 * Lifetime:  for ever.
 * Threads:   any.
 * Blocks:    never.
 */
KM_API const char *km_status_name(km_status status);

/*
 * km_buffer_free -- release a buffer's memory and leave it empty, ready for further use.
 *
 *   buffer     A buffer that calls of this library filled; NULL is accepted.
 *
 * Returns:   nothing.
 * Lifetime:  pointers into the buffer end here.
 * Threads:   a buffer belongs to one thread at a time.
 * Blocks:    never.
 */
KM_API void km_buffer_free(km_buffer *buffer);

/* ---- stores ------------------------------------------------------------------------------ */

/*
 * km_open -- open the store in a folder, recovering it first if need be.
 *
 *   path       The store's folder; created (one level) by KM_OPEN_OR_CREATE and KM_CREATE_NEW.
 *   options    NULL for the defaults.
 *   out_store  Set on KM_OK.
 *   out_error  Details of a failure; may be NULL. Written whenever the status is not KM_OK.
 *
 * Recovery drops what a crash tore at the end of the log, and reports it through options->log. It
 * never drops what was durable: damage there is KM_E_CORRUPT, with file and offset.
 *
 * Returns:   KM_OK             open.
 *            KM_EXISTS         KM_CREATE_NEW, and there is a store.
 *            KM_STOPPED        options->progress asked for it; the store is as it was.
 *            KM_E_NOT_A_STORE  no store there, and the mode does not create one.
 *            KM_E_LOCKED       it is open in a process; the message names its pid.
 *            KM_E_CORRUPT, KM_E_VERSION, KM_E_IO, KM_E_FULL, KM_E_NO_MEMORY, KM_E_INVALID,
 *            KM_E_LIMIT.
 * Lifetime:  release with km_close().
 * Threads:   any.
 * Blocks:    on the disk; replay takes 0.1 to 0.3 us per record.
 */
KM_API KM_MUST_CHECK km_status km_open(const char *path, const km_options *options,
                                       km_store **out_store, km_error *out_error);

/*
 * km_open_memory -- open an empty store that lives in memory alone and ends with km_close().
 *
 *   options    NULL for the defaults; mode, durability and sync_interval_ms do not matter.
 *   out_store  Set on KM_OK.
 *   out_error  Details of a failure; may be NULL.
 *
 * Returns:   KM_OK, KM_E_INVALID, KM_E_NO_MEMORY.
 * Lifetime:  release with km_close().
 * Threads:   any.
 * Blocks:    never.
 */
KM_API KM_MUST_CHECK km_status km_open_memory(const km_options *options, km_store **out_store,
                                              km_error *out_error);

/*
 * km_close -- write everything, make it durable, and release the store.
 *
 *   store      NULL is accepted.
 *   out_error  Details of a failure; may be NULL.
 *
 * The store is released whatever the status but KM_WOULD_BLOCK. After a failed write the files stay
 * as they are: the next open recovers what was acknowledged.
 *
 * Returns:   KM_OK      all changes are durable.
 *            KM_WOULD_BLOCK  this thread is inside a read section (of any store): the store stays
 *                       open; end the section first.
 *            KM_E_IO    the last write or sync failed; KM_E_FAILED: one failed earlier.
 * Lifetime:  ends the store, its maps, and every batch, cursor and reader of it; they must not be
 *            used again. A reader still open, or a call still running, is a bug of the caller's.
 * Threads:   no other call on this store may be running or follow.
 * Blocks:    on the disk.
 */
KM_API
km_status km_close(km_store *store, km_error *out_error);

/*
 * km_store_error -- the first failure of the write path since the store was opened.
 *
 *   store      An open store.
 *   out_error  Filled on KM_OK.
 *
 * Returns:   KM_OK         a write or sync failed; changes are refused with KM_E_FAILED.
 *            KM_NOT_FOUND  nothing failed.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    never.
 */
KM_API KM_MUST_CHECK km_status km_store_error(const km_store *store, km_error *out_error);

/* ---- maps -------------------------------------------------------------------------------- */

/*
 * km_map_create -- create a map, or report that the name is taken.
 *
 *   store      An open store.
 *   name       1 to KM_MAP_NAME_SIZE_MAX bytes of any content.
 *   kind       Fixed for the life of the map.
 *   out_map    Set on KM_OK.
 *
 * Returns:   KM_OK      created; as durable as the store's class says.
 *            KM_EXISTS  there is a map of this name (open it with km_map_open).
 *            KM_E_LIMIT KM_MAP_COUNT_MAX maps were created in the life of the store.
 *            KM_E_INVALID, KM_E_READ_ONLY, KM_E_FULL, KM_E_IO, KM_E_FAILED, KM_E_NO_MEMORY.
 * Lifetime:  the map lives until km_close(); nothing to release.
 * Threads:   any.
 * Blocks:    as km_put().
 */
KM_API KM_MUST_CHECK km_status km_map_create(km_store *store, km_bytes name, km_map_kind kind,
                                             km_map **out_map);

/*
 * km_map_open -- find a map by its name.
 *
 * Returns:   KM_OK, KM_NOT_FOUND, KM_E_INVALID.
 * Lifetime:  the map lives until km_close(); nothing to release.
 * Threads:   any.
 * Blocks:    never on the disk.
 */
KM_API KM_MUST_CHECK km_status km_map_open(km_store *store, km_bytes name, km_map **out_map);

/*
 * km_map_open_or_create -- find a map by its name, or create it as a km_map_create would.
 *
 * An existing map is returned whatever its kind.
 *
 * Returns:   KM_OK, or what km_map_create returns except KM_EXISTS.
 * Lifetime:  the map lives until km_close(); nothing to release.
 * Threads:   any.
 * Blocks:    as km_put().
 */
KM_API KM_MUST_CHECK km_status km_map_open_or_create(km_store *store, km_bytes name,
                                                     km_map_kind kind, km_map **out_map);

/*
 * km_map_drop -- delete a map and all it holds, as one change.
 *
 * Calls on a dropped map return KM_E_DROPPED; the name is free again.
 *
 * Returns:   KM_OK, KM_E_DROPPED, KM_E_READ_ONLY, KM_E_FULL, KM_E_IO, KM_E_FAILED.
 * Lifetime:  the handle stays valid, and useless, until km_close().
 * Threads:   any.
 * Blocks:    as km_put().
 */
KM_API KM_MUST_CHECK km_status km_map_drop(km_map *map);

/*
 * km_map_clear -- delete every key of a map, as one change.
 *
 * Returns:   KM_OK, KM_E_DROPPED, KM_E_READ_ONLY, KM_E_FULL, KM_E_IO, KM_E_FAILED, KM_E_NO_MEMORY.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    as km_put().
 */
KM_API KM_MUST_CHECK km_status km_map_clear(km_map *map);

/* What is known of a map. name.data lives as long as the store. */
typedef struct km_map_info {
    km_bytes name;
    km_map_kind kind;
    uint64_t count;
} km_map_info;

/*
 * km_map_list -- call a function for every map of a store, in the order of their creation.
 *
 *   visit      Called with no lock held; a return other than 0 ends the list with KM_STOPPED. It
 *              may call anything but km_close().
 *
 * Returns:   KM_OK, KM_STOPPED, KM_E_NO_MEMORY.
 * Lifetime:  nothing to release.
 * Threads:   any; a map created or dropped meanwhile may be missed or seen.
 * Blocks:    never on the disk.
 */
KM_API KM_MUST_CHECK km_status km_map_list(km_store *store,
                                           int (*visit)(void *context, const km_map_info *info),
                                           void *context);

/*
 * km_count -- the number of keys in a map, exact, in constant time.
 *
 * Keys that have expired are counted until the background has deleted them.
 *
 * Returns:   the count; 0 for a dropped map and in a forked child.
 * Lifetime:  nothing to release.
 * Threads:   any; beside writers it is the count at some moment during the call, up to changes that
 *            were still under way.
 * Blocks:    never.
 */
KM_API uint64_t km_count(const km_map *map);

/* ---- changes ----------------------------------------------------------------------------- */

/* What a key must be like for a change of it to happen; checked and changed in one step. */
typedef enum km_condition {
    KM_IF_ANY = 0,     /* whatever is there */
    KM_IF_ABSENT = 1,  /* the key is not there; else KM_EXISTS */
    KM_IF_PRESENT = 2, /* the key is there; else KM_NOT_FOUND */
    KM_IF_VERSION = 3  /* its version is km_write.expected; else KM_CONFLICT */
} km_condition;

/* Options and results of one change. Start with KM_WRITE_INIT. */
typedef struct km_write {
    size_t struct_size;       /* sizeof(km_write) */
    km_durability durability; /* in: KM_DURABLE_DEFAULT for the store's */
    km_buffer *previous;      /* in: gets the value that was there before; must not overlap key and
                                 value; NULL: not wanted */
    int existed;              /* out: 1 if the key was there before */
    km_position position;     /* out: where the log records this change (of a batch: its last); also
                                 the key's new version */
    km_condition condition;   /* in: of a batch KM_IF_ANY, see km_batch_expect() */
    km_position expected;     /* in, with KM_IF_VERSION: the version; 0: the key is not there */
    uint64_t ttl_ms;          /* in, of a put: the key is gone so many milliseconds from now; 0: it
                                 stays. A put without it takes an earlier one away */
} km_write;
#define KM_WRITE_INIT                                                                              \
    {                                                                                              \
        sizeof(km_write), KM_DURABLE_DEFAULT, NULL, 0, 0, KM_IF_ANY, 0, 0                          \
    }

/*
 * km_put -- set a key's value.
 *
 *   map        A map of an open store.
 *   key        0 to KM_KEY_SIZE_MAX bytes.
 *   value      0 to KM_VALUE_SIZE_MAX bytes. An empty value is a value.
 *   write      Options and results; NULL for the store's durability and no results.
 *
 * On return every thread sees the change, and it survives what the durability says.
 *
 * Returns:   KM_OK           done.
 *            KM_EXISTS, KM_NOT_FOUND, KM_CONFLICT: write->condition does not hold; nothing changed.
 *            KM_WOULD_BLOCK  this thread has a read section open and the call would have to wait.
 *            KM_E_TOO_BIG    key or value over the limit.
 *            KM_E_FULL       no space: nothing changed; works again once there is space.
 *            KM_E_IO         the write or sync of this change failed: it may or may not survive.
 *            KM_E_FAILED     an earlier write failed: nothing changed.
 *            KM_E_CORRUPT    the record of the key's present value is damaged: nothing changed.
 *            KM_E_LIMIT      16,384 segments are in use, those that snapshots keep included.
 *            KM_E_DROPPED, KM_E_READ_ONLY, KM_E_NO_MEMORY, KM_E_INVALID, KM_E_FORKED.
 * Lifetime:  key and value are borrowed for the call.
 * Threads:   any.
 * Blocks:    KM_DURABLE_PROCESS: only when the disk cannot follow. KM_DURABLE_POWER: on a sync
 *            that concurrent callers share. A record over about a megabyte is written to its file
 *            before the call returns.
 * Cost:      expected O(1) and a copy of key and value.
 */
KM_API KM_MUST_CHECK km_status km_put(km_map *map, km_bytes key, km_bytes value, km_write *write);

/*
 * km_del -- delete a key.
 *
 * Returns:   KM_OK         it was there and is gone.
 *            KM_NOT_FOUND  it was not there: nothing is logged.
 *            and what km_put returns.
 * Lifetime:  key is borrowed for the call.
 * Threads:   any.
 * Blocks:    as km_put(); when km_put() gets KM_E_FULL it still finds space for a while.
 */
KM_API KM_MUST_CHECK km_status km_del(km_map *map, km_bytes key, km_write *write);

/* ---- reads ------------------------------------------------------------------------------- */

/*
 * km_get -- copy a key's value into a buffer.
 *
 *   value      Holds the value on KM_OK, enlarged if need be; NULL asks only whether the key is
 *              there. After any other status its contents are undefined, its memory still its own.
 *
 * Every change that had returned before this call began is seen.
 *
 * Returns:   KM_OK, KM_NOT_FOUND.
 *            KM_E_CORRUPT    the record does not pass its checksum.
 *            KM_E_DROPPED, KM_E_NO_MEMORY, KM_E_INVALID, KM_E_FORKED.
 * Lifetime:  value belongs to the caller.
 * Threads:   any.
 * Blocks:    never on a writer or a sync; the kernel may read a page that is not in memory.
 * Cost:      expected O(1).
 */
KM_API KM_MUST_CHECK km_status km_get(km_map *map, km_bytes key, km_buffer *value);

/* What is known of a key besides its value. */
typedef struct km_key_info {
    km_position version; /* grows with every change of the key; never 0, never used again */
    uint64_t expires_ms; /* wall clock, ms since 1970, from when on it is gone; 0: it stays */
    uint64_t value_size;
} km_key_info;

/*
 * km_get_info -- as km_get(), and what is known of the key, of the same moment.
 *
 *   value      As km_get(); NULL: only the information is wanted.
 *   out_info   Set on KM_OK.
 *
 * Returns:   as km_get().
 * Lifetime:  value belongs to the caller.
 * Threads:   any.
 * Blocks:    as km_get().
 */
KM_API KM_MUST_CHECK km_status km_get_info(km_map *map, km_bytes key, km_buffer *value,
                                           km_key_info *out_info);

/*
 * km_contains -- whether a key is there.
 *
 * Returns:   KM_OK if it is, KM_NOT_FOUND if not, and the errors of km_get().
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    as km_get().
 */
KM_API KM_MUST_CHECK km_status km_contains(km_map *map, km_bytes key);

/*
 * km_read_begin -- begin a read section: until its end, bytes returned through it stay as they are.
 *
 *   out_reader Set on KM_OK.
 *
 * Keep sections short: memory that writers replace is released only when the sections that were
 * open have ended. Sections of one thread may nest.
 *
 * Returns:   KM_OK, KM_E_NO_MEMORY, KM_E_FORKED.
 * Lifetime:  end it with km_read_end().
 * Threads:   the section belongs to the thread that began it.
 * Blocks:    never.
 */
KM_API KM_MUST_CHECK km_status km_read_begin(km_store *store, km_reader **out_reader);

/*
 * km_read_end -- end a read section.
 *
 * Returns:   nothing.
 * Lifetime:  every pointer returned through the section ends here.
 * Threads:   the thread that began it.
 * Blocks:    never.
 */
KM_API void km_read_end(km_reader *reader);

/*
 * km_get_ref -- find a key and return its value where it lies, without copying it.
 *
 *   reader     An open read section of the map's store.
 *   out_value  Set on KM_OK. Its data is aligned to 8 bytes.
 *
 * Returns:   KM_OK, KM_NOT_FOUND, KM_E_CORRUPT, KM_E_DROPPED, KM_E_INVALID (the section is of
 *            another store), KM_E_FORKED.
 * Lifetime:  out_value->data stays valid and unchanged, whatever other threads do to the key,
 *            until km_read_end(reader).
 * Threads:   any number at once, each with a section of its own.
 * Blocks:    as km_get().
 */
KM_API KM_MUST_CHECK km_status km_get_ref(km_reader *reader, km_map *map, km_bytes key,
                                          km_bytes *out_value);

/*
 * km_get_many -- find many keys at once, several times faster than one by one.
 *
 *   reader     An open read section of the map's store.
 *   keys       count keys, in any order; repetitions are fine.
 *   count      How many.
 *   out_values count entries: the value where it lies. For a key that is not there data is NULL
 *              and size 0 (an empty value that is there has data not NULL).
 *   out_found  How many were there; may be NULL.
 *
 * Each key is looked up at its own moment during the call: the answers are no snapshot.
 *
 * Returns:   KM_OK, or the error of the first key that met one, as km_get_ref().
 * Lifetime:  as km_get_ref(): until km_read_end(reader).
 * Threads:   as km_get_ref().
 * Blocks:    as km_get().
 */
KM_API KM_MUST_CHECK km_status km_get_many(km_reader *reader, km_map *map, const km_bytes *keys,
                                           size_t count, km_bytes *out_values, size_t *out_found);

/* ---- batches ----------------------------------------------------------------------------- */

/*
 * km_batch_create -- begin a batch: changes of any maps of one store, applied and recovered as one.
 *
 * Returns:   KM_OK, KM_E_NO_MEMORY, KM_E_READ_ONLY, KM_E_FORKED.
 * Lifetime:  release with km_batch_destroy(). One batch can be committed many times over.
 * Threads:   a batch belongs to one thread at a time.
 * Blocks:    never.
 */
KM_API KM_MUST_CHECK km_status km_batch_create(km_store *store, km_batch **out_batch);

/*
 * km_batch_put, km_batch_del -- add a change to a batch; the last change of a key wins.
 *
 * Returns:   KM_OK.
 *            KM_E_TOO_BIG  key, value or batch over its limit (km_options.batch_size_max); the
 *                          batch is as before.
 *            KM_E_NO_MEMORY, KM_E_INVALID (a map of another store), KM_E_DROPPED.
 * Lifetime:  key and value are copied.
 * Threads:   as km_batch_create().
 * Blocks:    never.
 */
KM_API KM_MUST_CHECK km_status km_batch_put(km_batch *batch, km_map *map, km_bytes key,
                                            km_bytes value);
KM_API KM_MUST_CHECK km_status km_batch_del(km_batch *batch, km_map *map, km_bytes key);

/*
 * km_batch_commit -- apply all changes of a batch and empty it.
 *
 *   write      Options and results; previous must be NULL; existed is not set. NULL for defaults.
 *
 * A crash leaves all of the batch or none. Other threads may see its changes one after the other.
 *
 * Returns:   what km_put() returns; after anything but KM_OK the batch keeps its changes.
 * Lifetime:  the batch stays, empty.
 * Threads:   as km_batch_create().
 * Blocks:    as km_put().
 */
KM_API KM_MUST_CHECK km_status km_batch_commit(km_batch *batch, km_write *write);

/*
 * km_batch_clear -- forget the changes of a batch; km_batch_destroy -- release it (NULL accepted).
 *
 * Returns:   nothing.
 * Lifetime:  destroy ends the batch.
 * Threads:   as km_batch_create().
 * Blocks:    never.
 */
KM_API void km_batch_clear(km_batch *batch);
KM_API void km_batch_destroy(km_batch *batch);

/* ---- durability -------------------------------------------------------------------------- */

/*
 * km_wait_durable -- wait until every change up to a position survives a power cut.
 *
 *   position   From km_write.position; 0 means everything that had returned before this call.
 *
 * Concurrent callers share one flush: one of them leads it.
 *
 * Returns:   KM_OK, KM_WOULD_BLOCK (inside a read section), KM_E_IO, KM_E_FAILED, KM_E_FORKED,
 *            KM_E_INVALID (the position lies after the log's end).
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on a sync.
 */
KM_API KM_MUST_CHECK km_status km_wait_durable(km_store *store, km_position position);

/*
 * km_durable_position -- the position below which every change survives a power cut.
 *
 * A change at position p is durable once this is greater than p.
 *
 * Returns:   the position; 0 in a forked child.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    never.
 */
KM_API km_position km_durable_position(const km_store *store);

/*
 * km_durable_fd -- a descriptor that polls as readable when the durable position has moved.
 *
 * Read 8 bytes from it (an eventfd) before asking for km_durable_position().
 *
 *   out_fd     Set on KM_OK.
 *
 * Returns:   KM_OK, KM_E_LIMIT, KM_E_UNSUPPORTED (memory store), KM_E_FORKED.
 * Lifetime:  belongs to the store, until km_close(); do not close it.
 * Threads:   any.
 * Blocks:    never.
 */
KM_API KM_MUST_CHECK km_status km_durable_fd(km_store *store, int *out_fd);

/* ---- compaction -------------------------------------------------------------------------- */

/*
 * km_compact -- turn the whole log over now: what is live moves to its end, the rest is freed.
 *
 *   progress   Called now and then; may be NULL. A return other than 0 stops the work where it is:
 *              nothing is lost, and the background goes on as it would have.
 *   out_error  Details of a failure; may be NULL.
 *
 * It is not needed for the store to live: the background does the same, a little at a time. What
 * cursors, backups and open read sections still reach is freed when they end.
 *
 * Returns:   KM_OK, KM_STOPPED, KM_WOULD_BLOCK (inside a read section), KM_E_FULL, KM_E_CORRUPT
 *            (a damaged record; what lies behind it was not moved), KM_E_READ_ONLY, KM_E_IO,
 *            KM_E_FAILED, KM_E_NO_MEMORY, KM_E_LIMIT.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    on the disk, for as long as it takes to copy the live records.
 */
KM_API KM_MUST_CHECK km_status km_compact(km_store *store, km_progress_fn progress, void *context,
                                          km_error *out_error);

/* ---- changes as they happen -------------------------------------------------------------- */

typedef enum km_change_kind {
    KM_CHANGE_PUT = 1,
    KM_CHANGE_DELETE = 2,
    KM_CHANGE_MAP_CREATED = 3,
    KM_CHANGE_MAP_DROPPED = 4,  /* with all its keys */
    KM_CHANGE_MAP_CLEARED = 5,  /* all keys of the map are gone */
    KM_CHANGE_RANGE_DELETED = 6 /* all keys from `key` up to, not including, `value` are gone; value
                                   NULL: to the last */
} km_change_kind;

typedef struct km_change {
    km_change_kind kind;
    int more_follows;     /* the next change that the watch gives belongs to the same batch */
    km_position position; /* of the change: the version of its key */
    km_bytes map;         /* the map's name */
    km_bytes key;         /* of a put or delete */
    km_bytes value;       /* of a put */
} km_change;

/* Start with KM_WATCH_OPTIONS_INIT: every change of the store from now on. */
typedef struct km_watch_options {
    size_t struct_size;
    km_position after; /* only changes behind it; KM_POSITION_NOW, or 0: from the very first */
    km_map *map;       /* only of this map; NULL: of all */
    km_bytes prefix;   /* puts and deletes only of keys that begin so */
} km_watch_options;
#define KM_POSITION_NOW UINT64_MAX
#define KM_WATCH_OPTIONS_INIT                                                                      \
    {                                                                                              \
        sizeof(km_watch_options), KM_POSITION_NOW, NULL,                                           \
        {                                                                                          \
            NULL, 0                                                                                \
        }                                                                                          \
    }

/*
 * km_watch_open -- begin to read a store's changes, in the order of the log.
 *
 *   options    NULL: every change from now on. `after` is a position that a change gave
 *              (km_write.position, km_change.position), or km_watch_position(), in this session or
 *              an earlier one.
 *   out_watch  Set on KM_OK.
 *
 * "Now" is after every change that had returned before this call, and before every one that begins
 * after it. KM_CHANGE_MAP_... are given whatever the prefix is.
 *
 * To have the contents and then every change without a gap: open a watch at KM_POSITION_NOW, walk
 * the maps with cursors, then read the watch. A change that the walk has seen already comes again.
 * A watch holds nothing back: compaction may pass it.
 *
 * Returns:   KM_OK.
 *            KM_E_TOO_OLD  the log no longer reaches back to `after`: take the contents anew.
 *            KM_E_INVALID  the log has no such position: it never had, or a power cut took it with
 *                          changes that were not durable (take the contents anew); or the map is of
 *                          another store; or the prefix is too long.
 *            KM_E_NO_MEMORY, KM_E_FORKED.
 * Lifetime:  release with km_watch_close(), before the store is closed.
 * Threads:   any; a watch belongs to one thread at a time.
 * Blocks:    never.
 */
KM_API KM_MUST_CHECK km_status km_watch_open(km_store *store, const km_watch_options *options,
                                             km_watch **out_watch);

/*
 * km_watch_next -- the next change, waiting for one if need be.
 *
 *   timeout_ms 0: do not wait.
 *   out_change Set on KM_OK.
 *
 * Records that compaction moved are no changes and are passed over. Changes of one batch follow one
 * another; the last one of each key is given.
 *
 * Returns:   KM_OK; KM_TIMED_OUT: nothing has happened; KM_E_TOO_OLD: compaction has passed the
 *            watch, close it; KM_E_CORRUPT, KM_E_NO_MEMORY, KM_E_FORKED; KM_WOULD_BLOCK: it would
 *            wait inside a read section.
 * Lifetime:  the bytes in *out_change live until the next call on the watch.
 * Threads:   a watch belongs to one thread at a time.
 * Blocks:    up to timeout_ms. A change is delivered within some milliseconds.
 */
KM_API KM_MUST_CHECK km_status km_watch_next(km_watch *watch, uint32_t timeout_ms,
                                             km_change *out_change);

/*
 * km_watch_position -- up to where the watch has read: a later km_watch_open() may go on after it.
 *
 * Changes at this position or below have been given (or were not asked for), those above have not.
 * It need not be the position of a change: it is the last byte of what was read, so that it is
 * meaningful before the first change as well. Kept in a file or in the store itself, and given to
 * km_watch_open() as `after`, it goes on without a gap or a repetition, also after a crash, unless
 * that took changes which the watch had given already (they were not durable yet: see
 * km_durable_position()) or compaction got ahead.
 *
 * Returns:   the position; 0 if that is before the first change of the store.
 * Lifetime:  nothing to release.
 * Threads:   a watch belongs to one thread at a time.
 * Blocks:    never.
 */
KM_API km_position km_watch_position(const km_watch *watch);

/*
 * km_watch_fd -- a descriptor that becomes readable when km_watch_next() may have a change.
 *
 * Read it (8 bytes) to clear it, then call km_watch_next() until it says KM_TIMED_OUT. It becomes
 * readable within some milliseconds, now and then for a change that was not asked for or for none.
 *
 * Returns:   KM_OK, KM_E_LIMIT, KM_E_NO_MEMORY, KM_E_FORKED.
 * Lifetime:  belongs to the watch; do not close it.
 * Threads:   a watch belongs to one thread at a time.
 * Blocks:    never.
 */
KM_API KM_MUST_CHECK km_status km_watch_fd(km_watch *watch, int *out_fd);

/*
 * km_watch_close -- end a watch.
 *
 *   watch      NULL is accepted.
 *
 * A watch must be closed before its store: km_close() leaves it dangling. In a forked child it
 * releases the child's copy.
 *
 * Returns:   nothing.
 * Lifetime:  ends the watch and its descriptor.
 * Threads:   a watch belongs to one thread at a time.
 * Blocks:    never.
 */
KM_API void km_watch_close(km_watch *watch);

/* ---- statistics -------------------------------------------------------------------------- */

typedef struct km_stats {
    size_t struct_size; /* in: sizeof(km_stats) */
    uint64_t map_count;
    uint64_t key_count;             /* of all maps */
    uint64_t log_bytes;             /* records in the log, live or not, in bytes */
    uint64_t live_bytes;            /* of those, the records that maps point at */
    uint64_t segment_count;         /* segments that hold records */
    uint64_t disk_bytes;            /* sizes of the segment files and the tail ring */
    uint64_t index_bytes;           /* memory of the indexes */
    uint64_t memory_bytes;          /* anonymous memory of segments: active, ready, unsealed */
    uint64_t mapped_bytes;          /* sealed segments mapped from their files */
    km_position head;               /* where the log begins */
    km_position tail;               /* where it ends */
    km_position flushed;            /* written to files up to here */
    km_position durable;            /* synced up to here */
    uint64_t sync_count;            /* syncs since open */
    uint64_t wait_count;            /* changes that had to wait for space or the disk since open */
    uint64_t wait_longest_ns;       /* the longest such wait */
    uint64_t recovered_records;     /* records replayed at open */
    uint64_t recovered_ns;          /* time that took */
    uint64_t torn_bytes;            /* cut off the log's end at open */
    uint64_t failed;                /* 1 after a failed write */
    uint64_t dead_bytes;            /* of log_bytes, what nothing points at: compaction frees it */
    uint64_t emptied_bytes;         /* segments without live records that wait for the next image */
    uint64_t pinned_bytes;          /* segments out of the log that cursors or backups still hold */
    uint64_t compacted_bytes;       /* records moved by compaction since open */
    uint64_t freed_segments;        /* segments that compaction removed since open */
    uint64_t image_count;           /* index images written since open */
    uint64_t image_bytes;           /* size of the newest index image; 0: there is none */
    uint64_t replay_bytes;          /* log that an open after a crash now would have to replay */
    uint64_t scrubbed_bytes;        /* sealed bytes verified since open */
    uint64_t damage_count;          /* damaged places that compaction and scrub met */
    uint64_t is_follower;           /* 1: opened for reading beside a writer */
    uint64_t snapshot_count;        /* open snapshots */
    uint64_t snapshot_age_ms;       /* of the oldest */
    uint64_t snapshot_bytes;        /* memory of what snapshots keep of the indexes */
    uint64_t expired_count;         /* expired keys deleted since open */
    uint64_t attached_count;        /* sealed tables under maps: see seal.h */
    uint64_t attached_bytes;        /* of their files */
    uint64_t attached_memory_bytes; /* that they take, cached pages of the files apart */
} km_stats;

/*
 * km_store_stats -- fill in a store's statistics.
 *
 *   stats      struct_size set by the caller.
 *
 * Returns:   KM_OK, KM_E_INVALID, KM_E_FORKED.
 * Lifetime:  nothing to release.
 * Threads:   any; the figures are of about the same moment.
 * Blocks:    never on the disk.
 */
KM_API KM_MUST_CHECK km_status km_store_stats(km_store *store, km_stats *stats);

/* ---- typed keys -------------------------------------------------------------------------- */

/* A u64 as a key: big-endian, so that byte order is number order. */
typedef struct km_u64_key {
    unsigned char bytes[8];
} km_u64_key;

/*
 * km_u64_key_from -- a number as a key; km_u64_key_to -- a key as a number.
 *
 * Use: `km_u64_key k = km_u64_key_from(n); km_put(map, km_bytes_of(k.bytes, 8), ...)`.
 *
 * Returns:   the key, the number.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    never.
 */
static inline km_u64_key km_u64_key_from(uint64_t number)
{
    km_u64_key key;
    int i;
    for (i = 0; i < 8; i++)
        key.bytes[i] = (unsigned char)(number >> (56 - 8 * i));
    return key;
}

static inline uint64_t km_u64_key_to(const void *key)
{
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t number = 0;
    int i;
    for (i = 0; i < 8; i++)
        number = number << 8 | bytes[i];
    return number;
}

/*
 * km_bytes_of -- name sized bytes; km_bytes_of_string -- name a string without its NUL.
 *
 * Returns:   the bytes.
 * Lifetime:  those of the memory named.
 * Threads:   any.
 * Blocks:    never.
 */
static inline km_bytes km_bytes_of(const void *data, size_t size)
{
    km_bytes bytes;
    bytes.data = data;
    bytes.size = size;
    return bytes;
}

static inline km_bytes km_bytes_of_string(const char *string)
{
    size_t size = 0;
    while (string[size])
        size++;
    return km_bytes_of(string, size);
}

/*
 * km_put_u64, km_get_u64, km_del_u64 -- km_put, km_get and km_del with a number as the key.
 *
 * Returns, Lifetime, Threads, Blocks:  as the functions they call.
 */
static inline KM_MUST_CHECK km_status km_put_u64(km_map *map, uint64_t number, km_bytes value,
                                                 km_write *write)
{
    km_u64_key key = km_u64_key_from(number);
    return km_put(map, km_bytes_of(key.bytes, 8), value, write);
}

static inline KM_MUST_CHECK km_status km_get_u64(km_map *map, uint64_t number, km_buffer *value)
{
    km_u64_key key = km_u64_key_from(number);
    return km_get(map, km_bytes_of(key.bytes, 8), value);
}

static inline KM_MUST_CHECK km_status km_del_u64(km_map *map, uint64_t number, km_write *write)
{
    km_u64_key key = km_u64_key_from(number);
    return km_del(map, km_bytes_of(key.bytes, 8), write);
}

#ifdef __cplusplus
}
#endif

#include "keepmap/cursor.h"
#include "keepmap/snapshot.h"
#include "keepmap/update.h"
#include "keepmap/upkeep.h"
#include "keepmap/sealed.h"
#include "keepmap/sealed_queue.h"
#include "keepmap/seal.h"

#endif /* KEEPMAP_KEEPMAP_H */
