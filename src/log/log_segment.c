/* SPDX-License-Identifier: Apache-2.0
 *
 * log_segment.c -- the life of a segment: made ready, entered, sealed, closed.
 *
 * I1. A segment is entered in the chain only when its file is durable under its final name, with
 *     its size and header: a crash never finds records in a segment that recovery does not see.
 * I2. Its memory is zero before it is entered: a non-zero commit word is a record (log_append.c).
 * I3. The base in its slot changes once, from memory to mapping, when all its records are in the
 *     file; the memory is unmapped after the read sections that were open then have ended.
 *
 * All functions here run under prepare_lock.
 */
#include "log/log_internal.h"

#define PAGE_SIZE_MIN 4096u
#define RECOVERY_SLOTS 64u /* segments that only an open after a crash may use */
#define ZERO_FILL_PIECE (UINT64_C(4) << 20)

static const char new_segment_name[] = "new.segment";

struct log_slot *km__log_slot(struct log *log, uint32_t number)
{
    return &log->view.slots[number % LOG_SLOT_COUNT];
}

/* ---- files ------------------------------------------------------------------------------- */

/* Large pieces: the page cache then holds the file in huge pages, and so does its mapping. */
static km_status zero_fill(struct log *log, struct os_file *file, uint64_t size)
{
    uint64_t piece = size < ZERO_FILL_PIECE ? size : ZERO_FILL_PIECE;
    uint8_t *zeros = km__map_pages(&log->os->allocator, piece);
    km_status rc = zeros ? KM_OK : KM_E_NO_MEMORY;

    for (uint64_t at = 0; !rc && at < size; at += piece) {
        if (piece > size - at)
            piece = size - at;
        rc = log->os->ops->write_at(file, at, zeros, piece);
    }
    if (zeros)
        km__unmap_pages(&log->os->allocator, zeros,
                        size < ZERO_FILL_PIECE ? size : ZERO_FILL_PIECE);
    return rc;
}

/* The header also stays in the segment's memory, where the flusher never looks. */
km_status km__segment_write_header(struct log *log, const struct segment *segment)
{
    struct segment_header header = {
        .number = segment->number,
        .size = segment->size,
        .previous_end = segment->previous_end,
        .durable = km__log_durable(log),
        .ring_log2 = segment->ring ? segment->ring->log2 : 0,
        .linear_start = segment->linear_start,
    };

    memcpy(header.store_id, log->options.store_id, STORE_ID_SIZE);
    km__segment_header_encode(&header, segment->memory);
    return log->os->ops->write_at(segment->file, 0, segment->memory, SEGMENT_HEADER_SIZE);
}

km_status km__log_publish_file(struct log *log, struct os_file *file, const char *temp_name,
                               const char *name)
{
    const struct os_ops *ops = log->os->ops;
    struct os_dir *dir = log->options.log_dir;
    km_status rc = ops->sync(file); /* before the rename: a name must never lead to half a file */

    if (!rc)
        rc = ops->rename(dir, temp_name, name);
    if (rc)
        return rc;
    rc = ops->sync_dir(dir);
    /* the name is there and perhaps not durable, and no later sync can be trusted to make it so */
    return rc ? km__log_fail(log, rc, name, 0, "cannot make a segment's name durable") : KM_OK;
}

static km_status create_segment_file(struct log *log, struct segment *segment)
{
    const struct os_ops *ops = log->os->ops;
    struct os_dir *dir = log->options.log_dir;
    char name[SEGMENT_NAME_SIZE];
    km_status rc;

    km__segment_name(segment->number, name);
    km__ignore(ops->unlink(dir, new_segment_name), "a leftover of a failed attempt, or nothing");
    rc = ops->open_file(dir, new_segment_name, OS_CREATE_NEW, &segment->file);
    if (!rc)
        rc = ops->allocate(segment->file, segment->size);
    if (!rc &&
        (log->options.zero_fill || atomic_load_explicit(&log->power_used, memory_order_relaxed)))
        rc = zero_fill(log, segment->file, segment->size);
    if (!rc)
        rc = km__segment_write_header(log, segment);
    if (!rc)
        rc = km__log_publish_file(log, segment->file, new_segment_name, name);
    if (rc)
        km__ignore(ops->unlink(dir, new_segment_name), "the next attempt or open removes it");
    return rc;
}

/* ---- create and destroy ------------------------------------------------------------------ */

static void touch_pages(uint8_t *memory, uint64_t size)
{
    for (uint64_t at = 0; at < size; at += PAGE_SIZE_MIN)
        atomic_store_explicit((_Atomic uint8_t *)(memory + at), 0,
                              memory_order_relaxed); /* a store that stays */
}

km_status km__segment_create(struct log *log, const struct segment_plan *plan,
                             struct segment **out_segment, km_error *error)
{
    struct segment *segment = km__allocate(&log->os->allocator, sizeof(*segment));
    km_status rc = KM_E_NO_MEMORY;
    int os_error = 0;

    if (!segment)
        goto out;
    segment->number = plan->number;
    segment->size = plan->size;
    segment->previous_end = plan->previous_end;
    segment->linear_start = plan->linear_start;
    segment->memory = km__map_pages(&log->os->allocator, plan->size);
    if (!segment->memory)
        goto out;
    touch_pages(segment->memory,
                plan->size); /* here, so that no put pays for the kernel's zeroing */
    segment->ring = plan->ring;
    rc = KM_OK;
    if (!log->in_memory)
        rc = create_segment_file(log, segment);
    if (rc) {
        os_error = log->os->ops->last_error(log->os);
        goto out;
    }
    if (plan->ring)
        plan->ring->users++;
    atomic_fetch_add_explicit(&log->file_bytes, plan->size, memory_order_relaxed);
    *out_segment = segment;
    segment = NULL;
out:
    if (rc)
        rc = km__fail(error, rc, "log", 0, os_error, "cannot prepare a segment of %llu bytes",
                      (unsigned long long)plan->size);
    if (segment) {
        segment->ring = NULL; /* not counted yet */
        km__segment_destroy(log, segment);
    }
    return rc;
}

void km__segment_destroy(struct log *log, struct segment *segment)
{
    if (!segment)
        return;
    if (segment->memory)
        km__unmap_pages(&log->os->allocator, segment->memory, segment->size);
    if (segment->mapping)
        log->os->ops->unmap(log->os, segment->mapping, segment->size);
    if (segment->ring && !segment->ring_released)
        segment->ring->users--;
    log->os->ops->close_file(segment->file);
    km__release(&log->os->allocator, segment, sizeof(*segment));
}

void km__segment_enter(struct log *log, struct segment *segment)
{
    struct log_slot *slot = km__log_slot(log, segment->number);
    uintptr_t base = segment->memory ? (uintptr_t)segment->memory : (uintptr_t)segment->mapping;

    KM_ASSERT(!km__segment_at(log, segment->number));
    if (!segment->memory && log->options.verify_reads)
        base |= 1;
    slot->number = segment->number;
    slot->units = (uint32_t)(segment->size / RECORD_ALIGNMENT);
    atomic_store_explicit(&slot->base, base,
                          memory_order_release); /* pairs with km__log_record_at() */
    log->segments[segment->number % LOG_SLOT_COUNT] = segment;
    if (log->last_number) {
        /* pairs with switch_locked() and step_over(): the segment and its slot */
        atomic_store_explicit(&km__segment_at(log, log->last_number)->next, segment->number,
                              memory_order_release);
    } else {
        /* relaxed: nobody else is there yet */
        atomic_store_explicit(&log->first_number, segment->number, memory_order_relaxed);
    }
    log->last_number = segment->number;
}

/* ---- ready segments ---------------------------------------------------------------------- */

/* Segments grow with the data, so that a small store stays small and a large one has few files;
 * faster while they fill quickly, since each costs some syncs. What is dead does not count, or an
 * overwritten store would grow without end: its log is the longer, the larger its segments. But
 * where snapshots keep so many files that the slots would be used up, those count. */
static uint64_t next_size(const struct log *log)
{
    /* pairs with switch_locked(): the segment's fields */
    uint64_t tail = atomic_load_explicit(&log->tail, memory_order_acquire);
    uint64_t total = km__segment_at(log, km__position_number(tail))->linear_start -
                     km__segment_at(log, km__log_head_number(log))->linear_start;
    /* relaxed, both: figures */
    uint64_t live = atomic_load_explicit(&log->live_bytes, memory_order_relaxed);
    uint64_t files = atomic_load_explicit(&log->file_bytes, memory_order_relaxed);
    uint64_t size = SEGMENT_SIZE_FIRST;
    uint64_t factor = km__log_is_busy(log) ? 4 : 8;

    if (total > live)
        total = live;
    while (size < SEGMENT_SIZE_USUAL_MAX && size * factor <= total)
        size *= 2;
    while (size < SEGMENT_SIZE_USUAL_MAX && size * SEGMENT_COUNT_MANY <= files)
        size *= 2;
    return size;
}

/* A unit may take a quarter of its ring, and must fit its segment. */
uint32_t km__ring_log2_for(uint64_t segment_size)
{
    if (segment_size >= UINT64_C(8) << 20)
        return RING_LOG2_MAX;
    return segment_size >= UINT64_C(2) << 20 ? 22 : RING_LOG2_FIRST;
}

static km_status ring_for(struct log *log, uint64_t segment_size, struct ring **out_ring,
                          km_error *error)
{
    uint32_t ring_log2 = km__ring_log2_for(segment_size);
    km_status rc = KM_OK;

    if (log->in_memory) {
        *out_ring = NULL;
        return KM_OK;
    }
    if (!log->rings[ring_log2])
        rc = km__ring_create(log, ring_log2, &log->rings[ring_log2], error);
    if (!rc)
        *out_ring = log->rings[ring_log2];
    return rc;
}

int km__log_has_slots(const struct log *log, uint32_t number, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (log->segments[(number + i) % LOG_SLOT_COUNT])
            return 0;
    }
    return 1;
}

km_status km__log_check_limits(struct log *log, uint64_t size, km_error *error)
{
    if (log->last_number == UINT32_MAX - 1 ||
        !km__log_has_slots(log, log->last_number + 1, 2 + RECOVERY_SLOTS))
        return km__fail(error, KM_E_LIMIT, "log", 0, 0, "the log has %u segments, its limit",
                        LOG_SLOT_COUNT);
    if (log->options.size_max &&
        atomic_load_explicit(&log->file_bytes, memory_order_relaxed) + size > log->options.size_max)
        return km__fail(error, KM_E_FULL, "log", 0, 0,
                        "the log has reached log_size_max (%llu bytes)",
                        (unsigned long long)log->options.size_max);
    return KM_OK;
}

static km_status prepare_planned(struct log *log, struct segment_plan *plan, km_error *error)
{
    struct segment *segment = NULL;
    km_status rc = km__log_check_limits(log, plan->size, error);

    if (!rc)
        rc = ring_for(log, plan->size, &plan->ring, error);
    if (!rc)
        rc = km__segment_create(log, plan, &segment, error);
    if (rc)
        return rc;
    km__segment_enter(log, segment);
    atomic_store_explicit(&log->usual_size, plan->size, memory_order_relaxed);
    atomic_fetch_add_explicit(&log->ready_count, 1, memory_order_relaxed);
    return KM_OK;
}

km_status km__log_prepare_one(struct log *log, km_error *error)
{
    struct segment *last = km__segment_at(log, log->last_number);
    struct segment_plan plan = {last->number + 1, next_size(log),
                                km__position(last->number, last->size),
                                last->linear_start + last->size, NULL};
    /* never smaller: a unit that was small enough stays so */
    uint64_t least = atomic_load_explicit(&log->usual_size, memory_order_relaxed);
    km_status rc;

    if (atomic_load_explicit(&log->special_pending, memory_order_relaxed))
        return KM_OK; /* its owner makes the next segment; look again when it has */
    /* growing can wait until there are some: on a disk that is nearly full two small ones are more
     */
    if (plan.size < least ||
        atomic_load_explicit(&log->ready_count, memory_order_relaxed) < READY_COUNT - 1)
        plan.size = least;
    if (plan.size < atomic_load_explicit(&log->wanted_size, memory_order_relaxed))
        plan.size = atomic_load_explicit(&log->wanted_size, memory_order_relaxed);
    rc = prepare_planned(log, &plan, error);
    if (rc == KM_E_FULL && plan.size > least) {
        plan.size = least;
        rc = prepare_planned(log, &plan, error);
    }
    return rc;
}

/* Take the ready segments out of the chain: nobody has switched to them, and nobody can now. */
static uint32_t detach_ready(struct log *log)
{
    struct segment *active;
    uint32_t number;

    km__mutex_lock(&log->switch_lock);
    /* the orders pair with those of switch_locked() and step_to_next() */
    number = km__position_number(atomic_load_explicit(&log->tail, memory_order_acquire));
    active = km__segment_at(log, number);
    atomic_store_explicit(&active->next, 0, memory_order_release);
    atomic_store_explicit(&log->ready_count, 0, memory_order_relaxed);
    km__mutex_unlock(&log->switch_lock);
    return number;
}

km_status km__log_remove_ready(struct log *log)
{
    const struct os_ops *ops = log->os->ops;
    uint32_t active_number = detach_ready(log);
    char name[SEGMENT_NAME_SIZE];
    km_status rc = KM_OK;

    while (log->last_number > active_number) { /* the highest first: the chain stays whole */
        struct segment *segment = km__segment_at(log, log->last_number);

        km__segment_name(log->last_number, name);
        if (!log->in_memory)
            rc = ops->unlink(log->options.log_dir, name);
        if (!log->in_memory && !rc)
            rc = ops->sync_dir(log->options.log_dir); /* each: the later must not stay alone */
        if (rc) /* a name that stays speaks of an end that is not to be: no more changes */
            return km__log_fail(log, rc, name, 0, "cannot remove a ready segment");
        log->segments[log->last_number % LOG_SLOT_COUNT] = NULL;
        atomic_fetch_sub_explicit(&log->file_bytes, segment->size, memory_order_relaxed);
        km__segment_destroy(log, segment);
        log->last_number--;
    }
    /* what was grown for nobody is not a measure: on a full disk the next ones must fit again */
    if (!km__segment_at(log, active_number)->is_special)
        atomic_store_explicit(&log->usual_size, km__segment_at(log, active_number)->size,
                              memory_order_relaxed);
    return KM_OK;
}

/* ---- sealing ----------------------------------------------------------------------------- */

struct retired_memory {
    struct retired retired;
    struct log *log;
    uint8_t *memory;
    uint64_t size;
};

static void unmap_retired(void *context, struct retired *retired)
{
    struct retired_memory *memory = context;
    const struct allocator *allocator = &memory->log->os->allocator;

    (void)retired;
    km__unmap_pages(allocator, memory->memory, memory->size);
    km__release(allocator, memory, sizeof(*memory));
}

/* As the options ask; that it cannot be done is told once and changes nothing. */
void km__segment_make_resident(struct log *log, const struct segment *segment)
{
    km_status rc = KM_OK;

    if (log->options.residency != KM_RESIDENT_ON_DEMAND && segment->mapping)
        rc = log->os->ops->make_resident(log->os, segment->mapping, segment->size,
                                         log->options.residency == KM_RESIDENT_LOCKED);
    if (rc && !log->told_not_resident) {
        log->told_not_resident = 1;
        km__log_note(log, KM_LOG_WARNING,
                     "segments cannot be kept in memory (%s): raise "
                     "RLIMIT_MEMLOCK, or open without that option",
                     km_status_name(rc));
    }
}

static int seal_segment(struct log *log, struct segment *segment)
{
    struct retired_memory *memory = km__allocate(&log->os->allocator, sizeof(*memory));
    struct log_slot *slot = km__log_slot(log, segment->number);
    km_status rc = memory ? KM_OK : KM_E_NO_MEMORY;

    if (!rc)
        rc = log->os->ops->map_read(segment->file, segment->size, &segment->mapping);
    if (rc) {
        km__release(&log->os->allocator, memory, sizeof(*memory));
        return 0; /* it stays in memory; the next round tries again */
    }
    km__segment_make_resident(log, segment);
    memory->log = log;
    memory->memory = segment->memory;
    memory->size = segment->size;
    /* pairs with km__log_record_at(): the mapping shows what the flusher wrote */
    atomic_store_explicit(&slot->base,
                          (uintptr_t)segment->mapping | (log->options.verify_reads ? 1 : 0),
                          memory_order_release);
    segment->memory = NULL;
    km__retire(log->options.reclaimer, &memory->retired, unmap_retired, memory);
    return 1;
}

static void close_durable(struct log *log)
{
    uint32_t durable_number = km__position_number(km__log_durable(log));

    km__mutex_lock(&log->sync_lock);
    while (log->open_number < durable_number) {
        struct segment *segment = km__segment_at(log, log->open_number);

        if (segment && (!segment->mapping && !log->options.keep_in_memory))
            break; /* sealing still needs the file */
        if (segment) {
            log->os->ops->close_file(segment->file);
            segment->file = NULL;
        }
        log->open_number++;
    }
    km__mutex_unlock(&log->sync_lock);
}

/* Everything below `flushed` is in its file and no writer is inside: the tail has passed. */
void km__log_seal_flushed(struct log *log)
{
    /* pairs with flush_segment(): the files have it all */
    uint32_t flushed_number = km__position_number(
        atomic_load_explicit(&log->flushed, memory_order_acquire));

    if (log->in_memory) {
        log->unsealed_number = flushed_number;
        return;
    }
    for (; log->unsealed_number < flushed_number; log->unsealed_number++) {
        struct segment *segment = km__segment_at(log, log->unsealed_number);

        if (!segment)
            continue; /* numbers have gaps where a crash left void segments */
        if (segment->memory && !log->options.keep_in_memory && !seal_segment(log, segment))
            break;
        if (segment->ring && !segment->ring_released)
            segment->ring->users--;
        segment->ring_released = 1;
    }
    close_durable(log);
}
