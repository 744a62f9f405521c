/* SPDX-License-Identifier: Apache-2.0
 *
 * log_follow.c -- read a log while another process writes it.
 *
 * The writer notices that it is followed and writes what is complete to the segment files every few
 * milliseconds; the page cache shows it in our mappings. So the files alone are read, never the
 * ring.
 *
 * I1. A unit is taken when it is whole and its checksums are right: one that is half written is not
 *     there yet.
 * I2. A segment is entered when its first unit is there: one that was only made ready may be
 *     removed and made again. The one before it has been read up to where the new one says it ends.
 * I3. Nothing is locked against the writer. Segments that it unlinks stay readable as long as they
 *     are mapped here.
 * I4. Segments are mapped as soon as they are seen, up to a number, so that compaction does not
 *     pass a follower that lags.
 */
#include "log/log_internal.h"

static struct segment *followed_segment(struct log *log)
{
    return km__segment_at(log, km__position_number(km__log_complete(log)));
}

static void reach_end_of(struct log *log, const struct segment *segment)
{
    uint64_t end = km__position(segment->number, segment->end_offset);

    /* release: pairs with km__log_complete(); the others are figures */
    atomic_store_explicit(&log->tail, end, memory_order_relaxed);
    atomic_store_explicit(&log->flushed, end, memory_order_relaxed);
    atomic_store_explicit(&log->complete, end, memory_order_release);
}

/* Whether the segment after `number` was made: then `number` is not a special one that may still be
 * cancelled, since until it is taken none is made ready. */
static int has_successor(struct log *log, uint32_t number)
{
    struct segment *after = NULL;
    int it_has;

    if (km__segment_open(log, number + 1, &after, NULL))
        return 0;
    it_has = km__position_number(after->previous_end) == number;
    km__segment_destroy(log, after);
    return it_has;
}

static km_status open_settled(struct log *log, uint32_t number, struct segment **out_next)
{
    km_status rc = km__segment_open(log, number, out_next, NULL);

    if (rc || !(*out_next)->is_special)
        return rc;
    km__segment_destroy(log, *out_next);
    *out_next = NULL;
    if (!has_successor(log, number))
        return KM_NOT_FOUND;
    return km__segment_open(log, number, out_next, NULL); /* the one that stays */
}

/* The segment that the log goes on in, if its first unit is there. */
static km_status open_next(struct log *log, uint32_t number, struct segment **out_next)
{
    struct segment *next = NULL;
    km_status rc = open_settled(log, number, &next);

    *out_next = NULL;
    if (rc == KM_NOT_FOUND)
        return KM_OK;
    if (rc)
        return rc;
    next->end_offset = SEGMENT_HEADER_SIZE;
    if (km__segment_has_unit(log, next))
        *out_next = next;
    else
        km__segment_destroy(log, next);
    return KM_OK;
}

static int comes_after(const struct segment *next, const struct segment *segment)
{
    return next->previous_end == km__position(segment->number, segment->end_offset);
}

static km_status enter_next(struct log *log, struct segment *next)
{
    km_status rc = KM_OK;

    km__mutex_lock(&log->prepare_lock);
    if (km__segment_at(log, next->number))
        rc = KM_E_LIMIT; /* so far behind that its slot is in use */
    else
        km__segment_enter(log, next);
    km__mutex_unlock(&log->prepare_lock);
    if (rc)
        km__segment_destroy(log, next);
    else
        reach_end_of(log, next);
    return rc;
}

/* ---- ahead ------------------------------------------------------------------------------- */

static void forget_ahead(struct log *log)
{
    while (log->ahead_count > 0)
        km__segment_destroy(log, log->ahead[--log->ahead_count]);
}

/* I4: open what comes next, though it will be read later. */
static km_status open_ahead(struct log *log, const struct segment *segment)
{
    uint32_t number = segment->number + log->ahead_count + 1;
    km_status rc = KM_OK;

    while (!rc && log->ahead_count < FOLLOW_AHEAD_MAX) {
        struct segment *next = NULL;

        rc = open_next(log, number++, &next);
        if (!next)
            break;
        log->ahead[log->ahead_count++] = next;
    }
    return rc;
}

static struct segment *take_ahead(struct log *log)
{
    struct segment *first;

    if (log->ahead_count == 0)
        return NULL;
    first = log->ahead[0];
    log->ahead_count--;
    memmove(&log->ahead[0], &log->ahead[1], log->ahead_count * sizeof(log->ahead[0]));
    return first;
}

/* The usual way: the segment is full, and the next number follows it. */
static km_status step_to_following(struct log *log, struct segment *segment, int *out_moved)
{
    struct segment *next;

    if (!km__segment_is_left(segment))
        return KM_OK;
    segment->end_offset = segment->limit_offset;
    next = take_ahead(log);
    if (!next)
        return KM_OK;
    if (!comes_after(next, segment)) {
        km__segment_destroy(log, next);
        forget_ahead(log);
        return KM_OK;
    }
    *out_moved = 1;
    return enter_next(log, next);
}

/* The other: after a crash of the writer the log goes on elsewhere. */
static km_status step_to_successor(struct log *log, struct segment *segment, int *out_moved)
{
    struct segment *next = NULL;
    uint64_t limit = 0;
    uint32_t number = 0;
    km_status rc = km__log_find_successor(log, segment, &number, &limit);

    if (rc == KM_NOT_FOUND)
        return KM_OK; /* a name went while we looked: next time */
    if (!rc && number && limit <= segment->end_offset)
        rc = open_next(log, number, &next);
    if (rc || !next)
        return rc;
    if (next->previous_end != km__position(segment->number, limit) || limit < segment->end_offset) {
        km__segment_destroy(log, next);
        return limit < segment->end_offset ? KM_E_TOO_OLD : KM_OK;
    }
    segment->limit_offset = limit;
    forget_ahead(log);
    *out_moved = 1;
    return enter_next(log, next);
}

/* A visitor behind which the log is complete as far as it has come: should the index be built anew
 * meanwhile, it has what was applied. */
struct follow_visit {
    struct log *log;
    log_visit_fn visit;
    void *context;
};

static km_status visit_followed(void *context, const struct record *record, const uint8_t *bytes,
                                uint64_t position)
{
    const struct follow_visit *follow = context;

    /* release: pairs with km__log_complete() */
    atomic_store_explicit(&follow->log->complete, position + km__record_size_at(bytes),
                          memory_order_release);
    return follow->visit(follow->context, record, bytes, position);
}

km_status km__log_follow(struct log *log, log_visit_fn visit, void *context, int is_thorough,
                         int *out_moved)
{
    struct segment *segment = followed_segment(log);
    struct follow_visit follow = {log, visit, context};
    uint64_t before = segment->end_offset;
    km_status rc = km__segment_scan_on(log, segment, visit_followed, &follow);

    *out_moved = segment->end_offset != before;
    if (*out_moved)
        reach_end_of(log, segment);
    if (!rc)
        rc = open_ahead(log, segment);
    if (!rc && !*out_moved)
        rc = step_to_following(log, segment, out_moved);
    if (!rc && !*out_moved && is_thorough)
        rc = step_to_successor(log, segment, out_moved);
    return rc;
}

void km__log_follow_keep(struct log *log, struct segment *segment)
{
    uint32_t expected = km__position_number(log->found_end) + log->ahead_count + 1;

    segment->end_offset = SEGMENT_HEADER_SIZE;
    if (segment->number == expected && !segment->is_special &&
        log->ahead_count < FOLLOW_AHEAD_MAX && km__segment_has_unit(log, segment))
        log->ahead[log->ahead_count++] = segment;
    else
        km__segment_destroy(log, segment);
}

int km__log_follow_has(struct log *log, uint64_t position)
{
    uint64_t complete = km__log_complete(log);

    /* segments without a record stand for the end of the one before */
    while (position > complete && km__position_offset(position) == SEGMENT_HEADER_SIZE) {
        struct segment *segment = NULL;

        if (km__segment_open(log, km__position_number(position), &segment, NULL))
            return 0;
        position = segment->previous_end; /* ends: of a smaller number */
        km__segment_destroy(log, segment);
    }
    return position <= complete ||
           (km__position_number(position) == km__position_number(complete) &&
            km__position_offset(position) - km__position_offset(complete) < RECORD_HEADER_SIZE);
}

void km__log_follow_end(struct log *log)
{
    forget_ahead(log);
}

void km__log_follow_head(struct log *log, uint32_t number, uint64_t durable)
{
    uint64_t complete = km__log_complete(log);

    atomic_store_explicit(&log->durable, durable < complete ? durable : complete,
                          memory_order_release); /* pairs with km__log_durable() */
    if (number <= km__log_head_number(log) || number > km__position_number(complete) ||
        !km__segment_at(log, number))
        return;
    km__log_detach_before(log, number);
    km__log_free_dropped(log);
}
