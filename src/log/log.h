/* SPDX-License-Identifier: Apache-2.0
 *
 * log.h -- the log that is the map: append records, make them durable, read them where they lie.
 *
 * The log is a chain of segments. The last one is *active*: anonymous memory that writers fill and
 * that a flusher copies to its file. A segment that is full and wholly flushed is *sealed*: its
 * file is mapped in the place of the memory. Segments that are prepared but not yet written are
 * *ready*. See README.md beside this file for the life of a segment and of a record.
 *
 * A position is segment number << 32 | offset (format/files.h). In memory a 43-bit reference
 * stands for it: slot << 29 | offset / 8, where slot = number % LOG_SLOT_COUNT.
 */
#ifndef KM_LOG_LOG_H
#define KM_LOG_LOG_H

#include <stdatomic.h>

#include "base/compiler.h"
#include "format/files.h"
#include "format/record.h"
#include "os/os.h"
#include "sync/epoch.h"

#define LOG_SLOT_COUNT 16384u
#define LOG_OFFSET_UNIT_BITS 29u
/* References from here on are not of the log: placeholders of changes under way. */
#define LOG_PLACEHOLDER_BASE (UINT64_C(1) << 43)

struct log;

/* Who asks for space. The last ready segments are kept for those who can free some: a put leaves
 * two alone, a delete one. */
enum log_class {
    LOG_CLASS_PUT,
    LOG_CLASS_DELETE,
    LOG_CLASS_COMPACT,
    LOG_CLASS_INTERNAL /* marks */
};

struct log_options {
    struct os *os;
    struct os_dir *store_dir; /* all three NULL for a log in memory alone */
    struct os_dir *log_dir;
    struct os_file *marks_file; /* taken over by the log; NULL for a log in memory or read-only */
    struct reclaimer *reclaimer;
    uint8_t store_id[STORE_ID_SIZE];
    struct marks marks;               /* as read from MARKS */
    uint64_t size_max;                /* bytes of segment files; 0: no limit */
    const _Atomic uint64_t *clock_ms; /* a clock that MARKS is to tell of, besides the machine's;
                                         NULL: none */
    uint32_t sync_interval_ms;
    int zero_fill;       /* fill new segment files with zeros: synchronous appends are faster */
    uint32_t number_min; /* go on in a segment of this number or a later one */
    int keep_in_memory;  /* do not map sealed segments */
    int residency;       /* of mapped segments: a km_residency */
    int verify_reads;    /* records in mappings are verified when read */
    int read_only;
    int follow;                       /* read-only beside a writer: see log_follow.c */
    int background;                   /* start the flusher, the syncer and the preparer */
    void (*housekeep)(void *context); /* called by the preparer now and then; NULL: nothing */
    void *housekeep_context;
    km_log_fn note;
    void *note_context;
};

/* ---- opening; see log_recover.c */

/* Called for each record of whole units, in log order within a segment. */
typedef km_status (*log_visit_fn)(void *context, const struct record *record, const uint8_t *bytes,
                                  uint64_t position);

/* Write the ring and the first segment of a new store. */
km_status km__log_create_files(const struct log_options *options, km_error *error);

/* Create a log in memory, or attach to the files of a store. In the second case the caller goes on
 * with km__log_chain_count(), km__log_scan() for each, km__log_find_end(), and km__log_start(). */
km_status km__log_create(const struct log_options *options, struct log **out_log, km_error *error);

/* Segments that hold the log, oldest first; the ready ones at the end of the chain are included. */
uint32_t km__log_chain_count(const struct log *log);

/* Bytes of the index-th segment of the chain, for a progress display. */
uint64_t km__log_chain_bytes(const struct log *log, uint32_t index);

/* Its number. */
uint32_t km__log_chain_number(const struct log *log, uint32_t index);

/* The number of the segment that was not found before the first of the chain, when the head was
 * said to be at `head`; 0: none is missing. Only beside a writer. */
uint32_t km__log_chain_missing(const struct log *log, uint64_t head);

/* Whether its scan came to the segment's end without meeting damage. */
int km__log_chain_is_whole(const struct log *log, uint32_t index);

/* An index image tells what the records below `position` come to: they need not be scanned, and are
 * verified when they are read. *out_index is the segment to begin with. KM_NOT_FOUND if the
 * position is not in the chain. `durable` is a durable point as those in MARKS and the log. */
km_status km__log_skip_to(struct log *log, uint64_t position, uint32_t *out_index);
/* After all, all are scanned. */
void km__log_skip_nothing(struct log *log);
/* A durable point from outside the log. */
void km__log_see_durable(struct log *log, uint64_t position);

/* As far as is known by now, the log does not end before the end of segments below this number. */
uint32_t km__log_certain_number(const struct log *log);

/* Verify the records of the index-th segment and visit those of whole units. Segments may be
 * scanned by several threads at once, each once. Damage does not end in an error here: the scan of
 * that segment ends, and km__log_find_end() judges. Returns the visitor's error. */
km_status km__log_scan(struct log *log, uint32_t index, log_visit_fn visit, void *context);

/*
 * After all scans: find where the log ends, taking from the ring what the files lack (those records
 * are visited too). What a crash tore is left out; *out_torn_bytes says how much. Damage before the
 * durable point is KM_E_CORRUPT with file and offset. What was visited of segments after that of
 * *out_end must be forgotten.
 */
km_status km__log_find_end(struct log *log, log_visit_fn visit, void *context, uint64_t *out_end,
                           uint64_t *out_torn_bytes, km_error *error);

/* Make what recovery found durable, open the log for appending, start the background threads. */
km_status km__log_start(struct log *log, km_error *error);

/* Flush, sync, mark as cleanly closed (unless a write failed, or read-only), stop the threads. */
km_status km__log_stop(struct log *log, km_error *error);
void km__log_destroy(struct log *log);

/* ---- appending */

/* Room in the log for a unit: one record, or the records of a batch, side by side. */
struct log_space {
    struct segment *segment;
    uint8_t *bytes;    /* where the unit goes in memory */
    uint64_t position; /* of bytes[0] */
    uint64_t size;
};

/* The largest unit that km__log_reserve() takes; larger ones go by km__log_special_begin(). */
uint64_t km__log_unit_size_max(const struct log *log);

/* The smallest that it ever is. */
#define LOG_UNIT_SIZE_SURE (UINT64_C(64) << 10)

static inline int km__log_is_large(const struct log *log, uint64_t size)
{
    return KM_UNLIKELY(size > LOG_UNIT_SIZE_SURE) && size > km__log_unit_size_max(log);
}

/* Take room for a unit of `size` bytes (a multiple of 8). Never waits: KM_WOULD_BLOCK means that
 * the caller must let go of everything, call km__log_wait_space(), and try again. After KM_OK the
 * caller writes all records of the unit at once, without waiting for anything. Inside an epoch. */
km_status km__log_reserve(struct log *log, uint64_t size, enum log_class class,
                          struct log_space *out_space);

/* Wait until a reserve may succeed. KM_E_FULL, KM_E_IO, KM_E_FAILED, KM_E_NO_MEMORY, KM_E_LIMIT.
 * Outside any epoch. */
km_status km__log_wait_space(struct log *log, uint64_t size, enum log_class class);

/* What a record carries: sizes are in its header. */
struct log_payload {
    const void *value, *key; /* NULL if of no size */
    uint32_t crc;            /* km__record_payload_crc() of both */
};

/* Write one record of a unit, `offset` bytes into it: into the segment and the ring, commit word
 * last. Returns the record's size. */
uint64_t km__log_write_record(struct log *log, const struct log_space *space, uint64_t offset,
                              const struct record *record, const struct log_payload *payload);

/* After the last record of a unit: wait until the log is complete up to the unit's end, so that a
 * kill leaves no hole below it. Inside an epoch; waits for other writers' copying only. */
void km__log_finish(struct log *log, const struct log_space *space);

/*
 * A unit too large to pass through the ring gets a segment of its own. begin() creates it (it may
 * wait; nothing may be held); the caller writes the records with km__log_write_record();
 * write() brings it to its file; then, with its keys locked, take() makes it the end of the log
 * in O(1), or cancel() forgets it. Only one thread at a time is between begin and take.
 */
km_status km__log_special_begin(struct log *log, uint64_t size, enum log_class class,
                                struct log_space *out_space);
/* What write() would do first and what takes longest; optional. */
km_status km__log_special_fill(struct log *log, struct log_space *space);
km_status km__log_special_write(struct log *log, struct log_space *space);
void km__log_special_take(struct log *log, struct log_space *space);
void km__log_special_cancel(struct log *log, struct log_space *space);

/* ---- compaction: how far writers may go; see log_append.c */

/* Bytes of segments before a position, counted from the log's first: never goes back. */
uint64_t km__log_linear(const struct log *log, uint64_t position);
/* Puts wait when the log's end, linear, would pass `limit`; UINT64_MAX: they do not. */
void km__log_set_pace(struct log *log, uint64_t limit);
/* About how many bytes of the log are live: by this the sizes of new segments are chosen. */
void km__log_set_live_bytes(struct log *log, uint64_t bytes);
/* Sleep until a segment was filled, a put waits for the pace, a kick, or the time is over. */
void km__log_wait_for_work(struct log *log, uint64_t timeout_ns);
void km__log_kick(struct log *log);

/* ---- reading along; inside an epoch; see log_read.c */

struct log_item {
    struct record record;
    const uint8_t *bytes; /* where it lies */
    uint64_t position;
    uint64_t next; /* where the record after it begins */
};

/* The record at `position`, verified; where a segment is at its end, the first of the next. KM_END:
 * it would not lie wholly below `limit` (km__log_complete() at most). KM_E_TOO_OLD: the head has
 * passed the position. KM_E_CORRUPT: *out tells the position that is damaged. */
km_status km__log_read(const struct log *log, uint64_t position, uint64_t limit,
                       struct log_item *out);

/* Wait until everything that has taken room by now is complete. Waits for other writers' copying
 * only. */
void km__log_settle(struct log *log);

/* Where the next record lies, or will: at a segment's end, the beginning of the next one. */
uint64_t km__log_skip_end(const struct log *log, uint64_t position);

/* Whether a segment of that number belongs to the log: not before its head, not beyond its end, and
 * not one that a crash made void. */
int km__log_has_number(const struct log *log, uint32_t number);
/* Where the log leaves a segment that it has; of the last one its size. Also with a pin. */
uint64_t km__log_segment_limit(const struct log *log, uint32_t number);
/* The position where the log before a segment that it has ends; 0: nothing is before. */
uint64_t km__log_previous_end(const struct log *log, uint32_t number);

/* ---- the head; see log_head.c */

/* Keeps every segment that is in the log when the pin is taken, until it is released: its file, and
 * its bytes where references lead. */
struct log_pin {
    struct log_pin *next;
    uint32_t number; /* of the log's first segment then */
};
void km__log_pin(struct log *log, struct log_pin *pin);
void km__log_unpin(struct log *log, struct log_pin *pin);

/* As km__log_read(), also where the head has passed a position that the pin keeps. */
km_status km__log_read_pinned(const struct log *log, const struct log_pin *pin, uint64_t position,
                              uint64_t limit, struct log_item *out);

/* The number of the log's first segment. Any thread. */
uint32_t km__log_head_number(const struct log *log);
/* The segment that follows another in the log; size of a segment's file. Inside an epoch, or
 * pinned. */
uint32_t km__log_next_number(const struct log *log, uint32_t number);
uint64_t km__log_segment_size(const struct log *log, uint32_t number);

/* Leave the active segment for the next, however much of it is free, so that all that was written
 * before the call lies in segments that can be emptied. Outside any epoch. */
km_status km__log_leave_segment(struct log *log);

/* Make the segment `number`, which the log has reached, the log's first. No reference, image or
 * catalogue may need those before it any more. They are freed once nothing reaches them. Outside
 * any epoch. */
km_status km__log_move_head(struct log *log, uint32_t number);
/* Remove the segments that are ready, to have their room for something that frees more. */
km_status km__log_give_up_ready(struct log *log);
/* Free what the head has left behind and nobody reaches any more; the preparer calls it too. */
void km__log_free_dropped(struct log *log);

/* ---- following a writer of another process; see log_follow.c */

/* Visit the units that were written since the last call. `is_thorough`: look also whether the
 * writer has gone on elsewhere after a crash of its own. *out_moved: 1 if there was anything.
 * KM_E_TOO_OLD: the log goes on where it cannot be followed any more. One thread. */
km_status km__log_follow(struct log *log, log_visit_fn visit, void *context, int is_thorough,
                         int *out_moved);
/* Whether everything below `position` was visited. */
int km__log_follow_has(struct log *log, uint64_t position);
/* The writer's log begins at `number` and no reference of ours leads to what is before it. */
void km__log_follow_head(struct log *log, uint32_t number, uint64_t durable);
/* Somebody follows: write what is complete to the files at once. */
void km__log_set_followed(struct log *log, int is_followed);

/* ---- durability */

/* Wait until everything below `position` is durable, leading a sync if nobody else does. */
km_status km__log_wait_durable(struct log *log, uint64_t position);
uint64_t km__log_durable(const struct log *log);
uint64_t km__log_complete(const struct log *log);
/* Where the next unit will lie, or the end of the segment that has no room for it. */
uint64_t km__log_tail(const struct log *log);
/* The descriptor that is notified when the durable position moves; created on first use. */
km_status km__log_durable_fd(struct log *log, int *out_fd);

/* The first failure of the write path: KM_NOT_FOUND if there is none. */
km_status km__log_error(struct log *log, km_error *out_error);
/* KM_OK, KM_E_READ_ONLY or KM_E_FAILED: whether changes are accepted. */
km_status km__log_writable(const struct log *log);

/* The steps of the background threads, for logs opened without them. */
km_status km__log_flush(struct log *log);
km_status km__log_sync(struct log *log);
km_status km__log_housekeep(struct log *log);
void km__log_sync_once(struct log *log); /* a sync, then MARKS */

struct log_stats {
    uint64_t log_bytes, segment_count, disk_bytes, memory_bytes, mapped_bytes;
    uint64_t head, tail, flushed, durable;
    uint64_t sync_count, wait_count, wait_longest_ns;
    uint64_t pinned_bytes, freed_segments;
};
void km__log_stats(struct log *log, struct log_stats *out);

/* ---- reading; inside an epoch */

/* What every reference leads to: kept apart from the rest of the log, for speed. */
struct log_slot {
    _Atomic uintptr_t base; /* [a] the segment's bytes; bit 0: in a file mapping, to be verified */
    uint32_t number;        /* [c] while references to the slot exist */
    uint32_t units;         /* [c] size / 8 */
};

struct log_view {
    struct log_slot *slots; /* [c] LOG_SLOT_COUNT */
    uint64_t store_tag;     /* [c] */
};

const struct log_view *km__log_view(const struct log *log);

static inline uint64_t km__log_ref(uint64_t position)
{
    return (uint64_t)(km__position_number(position) % LOG_SLOT_COUNT) << LOG_OFFSET_UNIT_BITS |
           km__position_offset(position) / RECORD_ALIGNMENT;
}

static inline const struct log_slot *km__log_slot_of(const struct log_view *view, uint64_t ref)
{
    return &view->slots[ref >> LOG_OFFSET_UNIT_BITS];
}

static inline uint64_t km__log_offset_of(uint64_t ref)
{
    return (ref & ((UINT64_C(1) << LOG_OFFSET_UNIT_BITS) - 1)) * RECORD_ALIGNMENT;
}

static inline uint64_t km__log_position_of(const struct log_view *view, uint64_t ref)
{
    return km__position(km__log_slot_of(view, ref)->number, km__log_offset_of(ref));
}

/* A record where it lies. */
struct log_record {
    const uint8_t *bytes;
    const uint8_t *value;
    const uint8_t *key;
    uint32_t value_size;
    uint16_t key_size;
    uint8_t flags;
    uint8_t unverified; /* it lies in a file mapping: verify before its bytes are believed */
};

/* Bring the lines that a small record takes into the cache. */
static inline void km__log_prefetch(const struct log_view *view, uint64_t ref)
{
    const struct log_slot *slot;
    const uint8_t *bytes;

    if (ref >= LOG_PLACEHOLDER_BASE)
        return;
    slot = km__log_slot_of(view, ref);
    bytes = (const uint8_t *)(atomic_load_explicit(&slot->base, memory_order_relaxed) &
                              ~(uintptr_t)1) +
            km__log_offset_of(ref);
    KM_PREFETCH(bytes);
    KM_PREFETCH(bytes + KM_CACHE_LINE);
    KM_PREFETCH(bytes + 2 * KM_CACHE_LINE);
}

/* Locate the record behind a reference, which is no placeholder. Its sizes are checked against the
 * segment, so that key and value may be read; 0 if they do not fit (damage). */
static inline int km__log_record_at(const struct log_view *view, uint64_t ref,
                                    struct log_record *out)
{
    const struct log_slot *slot = km__log_slot_of(view, ref);
    /* pairs with seal_segment(): the mapping's bytes */
    uintptr_t base = atomic_load_explicit(&slot->base, memory_order_acquire);
    uint64_t offset = km__log_offset_of(ref);
    const uint8_t *bytes = (const uint8_t *)(base & ~(uintptr_t)1) + offset;
    uint64_t payload;

    KM_PREFETCH(bytes + KM_CACHE_LINE);
    KM_PREFETCH(bytes + 2 * KM_CACHE_LINE);
    out->bytes = bytes;
    out->value_size = km__load32(bytes + 4);
    out->key_size = km__load16(bytes + 8);
    out->flags = bytes[13];
    out->unverified = (uint8_t)(base & 1);
    payload = km__record_payload_offset(out->flags);
    out->value = bytes + payload;
    out->key = out->value + out->value_size;
    return offset + payload + out->value_size + out->key_size <=
           (uint64_t)slot->units * RECORD_ALIGNMENT;
}

/* Verify the checksum of a record that km__log_record_at() located: 1 if it is right. */
int km__log_record_verify(const struct log_view *view, uint64_t ref,
                          const struct log_record *record);

#endif
