/* SPDX-License-Identifier: Apache-2.0
 *
 * store_compact.c -- the log turns over: its oldest segments are emptied first.
 *
 * store_relocate.c moves what is live out of the oldest segment, a little at a time; here is
 * decided when it is time, and how far writers may go meanwhile. A segment that was gone through is
 * empty; the keeper (store_keeper.c) frees it.
 *
 * I1. The log is at most max(log_size_min, percent of live bytes, live bytes + 2 segments) + 2
 *     segments long, beside what is empty already: puts wait at the pace limit, which rises
 *     as the compactor gets on. Live bytes include here what is left free at the ends of segments,
 *     for records that did not fit: no turn can do without it, and else turn would follow turn.
 * I2. Where the log is longer than that (live data was deleted, or it was opened so), puts may take
 *     a part of what each step gains: they are slowed, never stopped, and the log gets shorter in
 *     the end.
 * I3. What is empty and waits for the keeper is at most twice the growth between two images: then
 *     puts wait for it too.
 */
#include "store/store_internal.h"

#include <stdio.h>

#define COMPACT_IDLE_NS UINT64_C(100000000)
#define COMPACT_SUM_STEPS 64u /* between two sums over all maps */
#define COMPACT_SEGMENTS_BESIDE 6u

/* ---- how far ----------------------------------------------------------------------------- */

uint64_t km__live_bytes(struct km_store *store)
{
    uint64_t bytes = 0;

    for (uint32_t id = 0; id < km__maps_id_count(store); id++) {
        const km_map *map = km__maps_by_id(store, (uint16_t)id);

        if (map)
            bytes += km__map_weight(map);
    }
    return bytes;
}

static uint64_t tail_linear(struct km_store *store, uint64_t *out_segment_size)
{
    uint64_t complete, linear;

    km__epoch_enter();
    complete = km__log_complete(store->log);
    linear = km__log_linear(store->log, complete);
    *out_segment_size = km__log_segment_size(store->log, km__position_number(complete));
    km__epoch_leave();
    return linear;
}

/* What records that did not fit left free at the ends of segments, which the next turn cannot avoid
 * either: as the last whole turn has found it, or this one already. */
static uint64_t needed_waste(const struct compactor *compactor)
{
    return compactor->turn_waste > compactor->last_waste ? compactor->turn_waste
                                                         : compactor->last_waste;
}

/* A turn is over when the place is reached where the log ended as it began. */
static void note_turn(struct compactor *compactor, uint64_t tail)
{
    if (compactor->linear < compactor->turn_end)
        return;
    compactor->last_waste = compactor->turn_waste;
    compactor->turn_waste = 0;
    compactor->turn_end = tail;
}

static uint64_t add_capped(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* What the limit on segment files leaves for the log, beside the ready ones and the slack. */
static uint64_t size_max_share(const struct km_store *store, uint64_t segment_size)
{
    uint64_t size_max = store->options.log_size_max;
    uint64_t beside = COMPACT_SEGMENTS_BESIDE * segment_size;

    if (!size_max)
        return UINT64_MAX;
    return size_max > beside ? size_max - beside : 0;
}

/* How long the log may get before its oldest records are moved. */
static uint64_t find_limit(struct compactor *compactor, uint64_t segment_size)
{
    struct km_store *store = compactor->store;
    uint64_t needed, limit, least;

    if (compactor->steps_to_sum == 0) {
        compactor->live_bytes = km__live_bytes(store);
        km__log_set_live_bytes(store->log, compactor->live_bytes);
        compactor->steps_to_sum = COMPACT_SUM_STEPS;
    }
    compactor->steps_to_sum--;
    needed = compactor->live_bytes + needed_waste(compactor);
    limit = needed / 100 * store->compact_percent;
    if (limit < store->log_size_min)
        limit = store->log_size_min;
    if (limit > size_max_share(store, segment_size))
        limit = size_max_share(store, segment_size);
    least = needed + 2 * segment_size; /* else a turn would free nothing */
    return limit < least ? least : limit;
}

/* Let puts go on so far. */
static void set_pace(struct compactor *compactor, uint64_t tail, uint64_t limit,
                     uint64_t segment_size)
{
    uint64_t reach = add_capped(limit, segment_size);
    uint64_t pace = add_capped(compactor->linear, reach);
    uint64_t most = add_capped(km__keeper_reach(compactor->store), reach); /* I3 */
    uint64_t gained = compactor->linear - compactor->step_begin;

    if (pace < tail) /* I2 */
        pace = tail + gained / 8 +
               (gained > compactor->step_moved ? (gained - compactor->step_moved) / 2 : 0);
    km__log_set_pace(compactor->store->log, pace < most ? pace : most);
}

/* Whether the oldest record is due. */
static int is_due(struct compactor *compactor)
{
    uint64_t segment_size, limit;
    uint64_t tail = tail_linear(compactor->store, &segment_size);

    note_turn(compactor, tail);
    if (compactor->is_stuck || km__is_beyond_mending(compactor->store))
        return 0;
    limit = find_limit(compactor, segment_size);
    set_pace(compactor, tail, limit, segment_size);
    compactor->step_begin = compactor->linear;
    compactor->step_moved = 0;
    return tail - compactor->linear > limit;
}

/* ---- a pass ------------------------------------------------------------------------------ */

static void note_stuck(struct compactor *compactor, km_status rc)
{
    struct km_store *store = compactor->store;
    char line[200];

    if (rc == KM_E_CORRUPT && compactor->bad_position) { /* in the log itself */
        compactor->is_stuck = 1;
        atomic_fetch_add_explicit(&store->damage_count, 1, memory_order_relaxed);
    }
    if (!store->options.log || compactor->noted == rc)
        return;
    compactor->noted = rc;
    snprintf(line, sizeof(line), "compaction stopped at position %llx: %s",
             (unsigned long long)compactor->bad_position, km_status_name(rc));
    store->options.log(store->options.log_context, KM_LOG_WARNING, line);
}

km_status km__compact_some(struct km_store *store)
{
    struct compactor *compactor = &store->compactor;
    km_status rc = KM_OK;

    km__mutex_lock(&compactor->lock);
    compactor->steps_to_sum = 0;
    while (!rc && !atomic_load_explicit(&compactor->stopping, memory_order_relaxed) &&
           is_due(compactor))
        rc = km__relocate_some(compactor, km__relocate_end(store));
    if (rc == KM_END)
        rc = KM_OK;
    if (rc) {
        note_stuck(compactor, rc);
        km__log_set_pace(store->log, UINT64_MAX); /* it would be waited for in vain */
    }
    km__mutex_unlock(&compactor->lock);
    return rc;
}

static void run_compactor(void *context)
{
    struct km_store *store = context;

    /* acquire: pairs with km__compactor_stop() */
    while (!atomic_load_explicit(&store->compactor.stopping, memory_order_acquire)) {
        km__ignore(km__compact_some(store), "noted, and tried again later");
        km__keeper_kick(store);
        km__log_wait_for_work(store->log, COMPACT_IDLE_NS);
    }
}

/* ---- the whole log ----------------------------------------------------------------------- */

static km_status compact_one(struct compactor *compactor, uint64_t end, uint64_t *out_linear)
{
    km_status rc;

    km__mutex_lock(&compactor->lock);
    rc = km__relocate_some(compactor, end);
    if (rc == KM_E_CORRUPT)
        note_stuck(compactor, rc);
    *out_linear = compactor->linear;
    km__mutex_unlock(&compactor->lock);
    return rc;
}

/* A step at a time, so that the background goes on setting the pace, and progress is told with
 * nothing locked. */
static km_status compact_until(struct km_store *store, uint64_t end, km_progress_fn progress,
                               void *context)
{
    struct compactor *compactor = &store->compactor;
    uint64_t begin, total, linear, segment_size;
    km_status rc = KM_OK;

    km__mutex_lock(&compactor->lock);
    begin = compactor->linear;
    compactor->is_stuck = 0;
    km__mutex_unlock(&compactor->lock);
    total = tail_linear(store, &segment_size) - begin;
    while (!rc) {
        rc = compact_one(compactor, end, &linear);
        if (!rc && progress && progress(context, linear - begin, total))
            rc = KM_STOPPED;
    }
    return rc == KM_END ? KM_OK : rc;
}

/* On a full disk it is what was emptied that makes room for the rest. */
static km_status compact_all(struct km_store *store, km_progress_fn progress, void *context)
{
    uint64_t end = km__relocate_end(store);
    uint32_t head;
    km_status rc, freed;

    do { /* ends: each turn but the last frees something */
        head = km__log_head_number(store->log);
        rc = compact_until(store, end, progress, context);
        freed = km__keeper_free(store, rc == KM_E_FULL);
        if (!freed)
            km__reclaim(&store->reclaimer);
    } while (rc == KM_E_FULL && !freed && km__log_head_number(store->log) > head);
    return rc ? rc : freed;
}

km_status km_compact(km_store *store, km_progress_fn progress, void *context, km_error *out_error)
{
    km_status rc = km__check_writable(store);

    if (!rc && km__epoch_ongoing())
        rc = KM_WOULD_BLOCK;
    if (!rc)
        rc = km__log_leave_segment(store->log);
    if (!rc) {
        km__log_settle(store->log); /* what was left is complete */
        rc = compact_all(store, progress, context);
    }
    if (rc && km__log_error(store->log, out_error ? out_error : &(km_error){0}) == KM_NOT_FOUND)
        rc = km__fail(out_error, rc, NULL, 0, 0, "the log cannot be compacted (%s)",
                      km_status_name(rc));
    return rc;
}

/* ---- a full disk ------------------------------------------------------------------------- */

/* No more is moved than is due anyway: with the last ready segments used up half-way, deletes,
 * which could have helped, would find no room either. */
km_status km__compact_for_room(struct km_store *store)
{
    uint32_t head = km__log_head_number(store->log);
    km_status rc;

    km__ignore(km__compact_some(store), "what counts is whether anything can be freed");
    rc = km__keeper_free(store, 1);
    if (!rc)
        rc = km__log_head_number(store->log) > head ? KM_OK : KM_E_FULL;
    return rc;
}

/* ---- start and stop ---------------------------------------------------------------------- */

void km__compactor_init(struct km_store *store)
{
    struct compactor *compactor = &store->compactor;

    compactor->store = store;
    km__relocate_reach(compactor,
                       km__position(km__log_head_number(store->log), SEGMENT_HEADER_SIZE));
}

km_status km__compactor_start(struct km_store *store)
{
    struct compactor *compactor = &store->compactor;
    km_status rc = km__thread_start(&compactor->thread, "km-compactor", run_compactor, store);

    compactor->has_thread = rc == KM_OK;
    return rc;
}

void km__compactor_stop(struct km_store *store)
{
    struct compactor *compactor = &store->compactor;

    /* pairs with run_compactor() */
    atomic_store_explicit(&compactor->stopping, 1, memory_order_release);
    km__log_kick(store->log);
    if (compactor->has_thread)
        km__thread_join(&compactor->thread);
    compactor->has_thread = 0;
}
