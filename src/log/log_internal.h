/* SPDX-License-Identifier: Apache-2.0
 *
 * log_internal.h -- what the files of log/ share.
 *
 * Lock order: special_lock, prepare_lock, sync_lock, flush_lock, switch_lock, pin_lock, error_lock.
 * Writers that append hold none of them but, for a moment, switch_lock.
 */
#ifndef KM_LOG_LOG_INTERNAL_H
#define KM_LOG_LOG_INTERNAL_H

#include "base/assert.h"
#include "base/status.h"
#include "log/log.h"
#include "sync/eventcount.h"
#include "sync/mutex.h"
#include "sync/thread.h"

#define SEGMENT_SIZE_FIRST (UINT64_C(256) << 10)
#define SEGMENT_SIZE_USUAL_MAX (UINT64_C(32) << 20)
#define SEGMENT_COUNT_MANY 2048u /* of one size; then larger ones: seven sizes take 8,192 slots */
#define RING_LOG2_FIRST 18u
/* Segments to keep ready: one to go on in, one for deletes and one for compaction on a full disk.
 */
#define READY_COUNT 3u
/* While segments fill quickly: making one may wait for others' syncs. */
#define READY_COUNT_BUSY 5u
#define BUSY_FILL_NS UINT64_C(500000000)

/* The flusher writes up to multiples of this, the page cache's largest pages. */
#define FLUSH_PIECE (UINT64_C(2) << 20)
#define LOG_THREAD_COUNT 4u
#define FOLLOW_AHEAD_MAX 64u /* segments that a follower maps before it reads them */
#define LOG_CROSSINGS 16u    /* more than pieces can be in the ring */

/* The tail ring: a mapped file that holds the records not yet flushed. */
struct ring {
    uint8_t *file_bytes; /* [c] the mapping */
    uint8_t *data;       /* [c] its records */
    uint64_t size;       /* [c] of data, a power of two */
    uint32_t log2;
    uint32_t users; /* under prepare_lock: unsealed segments that go through it */
    struct os_file *file;
};

struct segment {
    struct retired retired;       /* once it has left the log */
    struct segment *next_dropped; /* prepare_lock */
    uint32_t number;              /* [c] */
    uint32_t is_special;          /* [c] its one unit was written to the file before it was taken */
    uint64_t written_from;        /* special: from here on it is in its file; 0: nothing is */
    uint32_t payload_crc;         /* special: of its first record */
    int is_named;                 /* special: its file may be in the folder under its number */
    uint64_t size;                /* [c] of the file */
    uint64_t previous_end;        /* [c] where the log before it ends */
    /* Bytes of log before this segment, as the ring counts them: its records at offset o lie in
     * the ring at (linear_start + o) % ring->size. */
    uint64_t linear_start;    /* [c] */
    struct ring *ring;        /* [c] NULL: none (special, or log in memory) */
    int ring_released;        /* prepare_lock: it no longer counts among the ring's users */
    uint8_t *memory;          /* its bytes while unsealed; prepare_lock to change */
    const uint8_t *mapping;   /* once sealed; prepare_lock to change */
    struct os_file *file;     /* open while unsealed or unsynced; sync_lock to change */
    _Atomic uint32_t next;    /* [a] number of the segment after it; 0: none is ready */
    uint32_t ring_log2;       /* recovery: which ring its records went through; 0: none */
    uint64_t file_end_offset; /* recovery: from here on memory has what the file may lack */
    uint64_t scan_from;       /* recovery: its scan begins here; 0: at its first record */
    uint64_t end_offset;      /* recovery: where the scan of whole units ended */
    uint64_t limit_offset;    /* recovery: where the log left it at the latest */
};

struct log {
    struct log_view view; /* [c] */

    /* [c] from here */
    struct log_options options;
    struct os *os;
    uint8_t boot_id[BOOT_ID_SIZE];
    int in_memory;

    /* the hot words, each on a line of its own */
    _Alignas(KM_CACHE_LINE) _Atomic uint64_t tail;     /* [a] where the next unit goes */
    _Alignas(KM_CACHE_LINE) _Atomic uint64_t complete; /* [a] all records below are committed */
    struct eventcount complete_event;
    _Atomic uint64_t crossings[LOG_CROSSINGS]; /* [a] see note_crossing() */
    _Alignas(
        KM_CACHE_LINE) _Atomic uint64_t flushed; /* [a] written to files; flush_lock to change */
    _Atomic uint64_t flushed_linear;             /* [a] the same, as the ring counts */
    _Atomic uint64_t durable;                    /* [a] sync_lock to change */
    _Atomic int failed;                          /* [a] see error */
    _Atomic uint64_t pace_limit;  /* [a] linear: puts go no further; UINT64_MAX: no limit */
    _Atomic uint64_t live_bytes;  /* [a] as the store last told; UINT64_MAX: it did not */
    _Atomic uint32_t ready_count; /* [a] segments after the active one */
    _Alignas(KM_CACHE_LINE) struct eventcount durable_event;
    _Atomic int leader; /* [a] 1 while a thread leads a sync for others */

    struct mutex special_lock; /* one special segment at a time */
    struct mutex prepare_lock; /* making, sealing and dropping segments */
    struct mutex sync_lock;    /* syncing, MARKS */
    struct mutex flush_lock;   /* writing to segment files */
    struct mutex switch_lock;  /* leaving a segment for the next */
    struct mutex pin_lock;     /* pins, and the head's move past them */
    struct mutex error_lock;

    struct segment *segments[LOG_SLOT_COUNT]; /* prepare_lock to change; [a]-published by `next` */
    struct ring *rings[RING_LOG2_MAX + 1];    /* prepare_lock */
    _Atomic uint32_t first_number; /* [a] the head's segment; prepare_lock and pin_lock to change */
    struct log_pin *pins;          /* pin_lock */
    struct segment *dropped_first, *dropped_last; /* prepare_lock: before the head, not freed yet */
    uint64_t freed_segments;                      /* prepare_lock */
    int told_not_resident;                        /* prepare_lock */
    struct segment *ahead[FOLLOW_AHEAD_MAX]; /* a follower's thread: those after the last one */
    uint32_t ahead_count;
    uint32_t last_number;     /* prepare_lock: the newest, ready ones included */
    uint32_t unsealed_number; /* prepare_lock: the oldest unsealed one */
    uint32_t open_number;     /* sync_lock: the oldest whose file may still be open */
    _Atomic int
        special_pending; /* [a] switch_lock to change: the next segment belongs to a special unit */
    uint32_t start_number;        /* [c] the segment that was active when the log was started */
    uint64_t switched_ns;         /* switch_lock: when the active segment became that */
    _Atomic uint64_t fill_ns;     /* [a] how long the one before it took to fill */
    _Atomic uint64_t wanted_size; /* [a] special_lock to change: for large units that keep coming */
    uint32_t large_count;         /* special_lock */
    _Atomic uint64_t usual_size;  /* [a] of the last segment that is not special; never shrinks */
    _Atomic uint64_t file_bytes;  /* [a] sizes of all segment files */
    _Atomic int is_followed;      /* [a] by another process: flush at once */
    _Atomic int power_used;       /* [a] somebody waited for a sync: fill new files with zeros */

    struct marks marks; /* sync_lock: what MARKS says */
    uint64_t marked;    /* sync_lock: durable position of the last mark record */
    km_error error;     /* error_lock: the first failure */

    /* recovery, one thread at a time but for chain entries */
    uint32_t *chain; /* segment numbers, oldest first */
    uint32_t chain_count;
    uint32_t highest_number; /* of any name in log/ */
    uint32_t *stray;         /* numbers of void segments, to be unlinked */
    uint32_t stray_count;
    _Atomic uint64_t durable_seen; /* [a] the durable point, as far as it is known */
    uint32_t name_count;           /* entries that chain and stray have room for */
    uint64_t found_end;
    uint32_t end_index; /* of the segment that holds it, in the chain */
    int found_clean;    /* the end is where a clean close left it, in this boot */
    int was_clean;      /* [c] the log goes on in place */

    _Atomic uint64_t sync_count, wait_count, wait_longest_ns; /* [a] statistics */
    _Atomic int durable_fd;                                   /* [a] -1: none */

    struct eventcount flush_event, prepare_event, sync_event, reclaim_event;
    struct eventcount work_event; /* for the compactor, which belongs to the store */
    struct eventcount pace_event; /* the pace limit moved */
    _Atomic int stopping;         /* [a] */
    struct thread threads[LOG_THREAD_COUNT];
    uint32_t thread_count;
};

static inline int km__log_is_busy(const struct log *log)
{
    return atomic_load_explicit(&log->fill_ns, memory_order_relaxed) < BUSY_FILL_NS;
}

static inline struct segment *km__segment_at(const struct log *log, uint32_t number)
{
    return log->segments[number % LOG_SLOT_COUNT];
}

static inline uint8_t *km__segment_bytes(const struct log *log, uint32_t number)
{
    uintptr_t base = atomic_load_explicit(&log->view.slots[number % LOG_SLOT_COUNT].base,
                                          memory_order_acquire); /* pairs with seal_segment() */
    return (uint8_t *)(base & ~(uintptr_t)1);
}

static inline struct record_place km__log_place(const struct log *log, uint64_t position)
{
    struct record_place place = {log->view.store_tag, position};
    return place;
}

/* log_error.c */
void km__log_note(struct log *log, km_log_level level, const char *format, ...) KM_PRINTF(3, 4);
/* Record the first failure of the write path: from now on changes are refused. Returns KM_E_IO. */
km_status km__log_fail(struct log *log, km_status cause, const char *name, uint64_t offset,
                       const char *what);

void km__log_distrust_rings(struct log *log);

/* log_ring.c */
km_status km__ring_create(struct log *log, uint32_t ring_log2, struct ring **out_ring,
                          km_error *error);
void km__ring_destroy(struct log *log, struct ring *ring);
void km__ring_set_flushed(struct ring *ring, const uint8_t boot_id[BOOT_ID_SIZE], uint64_t flushed);
/* The state page of a ring file, as a process of this boot left it; 0 if none did. */
uint64_t km__ring_flushed(const uint8_t *file_bytes, const uint8_t boot_id[BOOT_ID_SIZE]);
void km__ring_unlink_unused(struct log *log);
/* Copy `size` bytes that begin at linear position `at`, commit word (8 bytes into them) last. */
void km__ring_copy(struct ring *ring, uint64_t at, const uint8_t *bytes, uint64_t size,
                   uint64_t commit_word);

/* log_segment.c; under prepare_lock, but for the first */
uint32_t km__ring_log2_for(uint64_t segment_size);
km_status km__log_check_limits(struct log *log, uint64_t size, km_error *error);
km_status km__segment_write_header(struct log *log, const struct segment *segment);
/* Whether the slots of `count` segments from `number` on are free. */
int km__log_has_slots(const struct log *log, uint32_t number, uint32_t count);
/* Create the file of a segment (under its final name, durable) and its memory. */
struct segment_plan {
    uint32_t number;
    uint64_t size, previous_end, linear_start;
    struct ring *ring;
};
km_status km__segment_create(struct log *log, const struct segment_plan *plan,
                             struct segment **out_segment, km_error *error);
/* Write bytes as a file of log/: under a temporary name, synced, renamed, the folder synced. */
km_status km__log_publish_file(struct log *log, struct os_file *file, const char *temp_name,
                               const char *name);
void km__segment_destroy(struct log *log, struct segment *segment);
/* Enter a segment in the slots and at the end of the chain. */
void km__segment_enter(struct log *log, struct segment *segment);
/* Make one more segment ready. */
/* Remove the segments after the active one. An error is a failure of the write path. */
km_status km__log_remove_ready(struct log *log);
km_status km__log_prepare_one(struct log *log, km_error *error);
void km__segment_make_resident(struct log *log, const struct segment *segment);
/* Map what is flushed, close what is synced. */
void km__log_seal_flushed(struct log *log);
struct log_slot *km__log_slot(struct log *log, uint32_t number);

/* log_head.c */
/* Take the segments before `number` out of the log. */
void km__log_detach_before(struct log *log, uint32_t number);

/* log_follow.c */
void km__log_follow_end(struct log *log);
/* A segment behind the end that was found, which is not entered: keep it if it comes next. */
void km__log_follow_keep(struct log *log, struct segment *segment);

/* log_recover.c */
/* Open, check and map the segment `number`; it is entered nowhere. */
km_status km__segment_open(struct log *log, uint32_t number, struct segment **out_segment,
                           km_error *error);
/* Visit the whole units of a segment from its end_offset on, which moves to where they end. */
km_status km__segment_scan_on(struct log *log, struct segment *segment, log_visit_fn visit,
                              void *context);
/* Whether a whole unit lies at end_offset. */
int km__segment_has_unit(struct log *log, struct segment *segment);
int km__segment_is_left(const struct segment *segment);
/* The number of the segment that follows `segment` in the chain that ends with the highest name; 0
 * if there is none. *out_limit: where the log leaves `segment`. */
km_status km__log_find_successor(struct log *log, const struct segment *segment,
                                 uint32_t *out_number, uint64_t *out_limit);
/* Find and open the segments that make the log. */
km_status km__log_find_chain(struct log *log, km_error *error);

/* log_flush.c */
km_status km__log_flush_pieces(struct log *log);
/* Under sync_lock. Each slot of MARKS fits a sector that is used: not syncing leaves it old or new.
 */
km_status km__log_write_marks(struct log *log, int is_clean, int is_synced);

/* log_append.c */
void km__log_write_padding(struct log *log, struct segment *segment, uint64_t offset);
void km__log_advance_complete(struct log *log);
/* Wait until a unit of the class may begin where the log ends: for special units, which take no
 * room by km__log_reserve(). Outside any epoch. */
void km__log_wait_pace(struct log *log, enum log_class class);
int km__log_has_room(struct log *log, uint64_t size, enum log_class class, int *out_wants_segment);

/* log_threads.c */
km_status km__log_start_threads(struct log *log);
void km__log_stop_threads(struct log *log);
void km__log_wake_flusher(struct log *log);
void km__log_wake_preparer(struct log *log);

#endif
