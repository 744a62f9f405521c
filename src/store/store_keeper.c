/* SPDX-License-Identifier: Apache-2.0
 *
 * store_keeper.c -- what is to be done now and then, by one thread that may wait for the disk:
 * write index images, move the log's head past segments that compaction has emptied, load the nodes
 * of the image that the store was opened with, scrub.
 *
 * I1. The head moves only to segments that compaction has reached, and only after MAPS tells of
 *     every map record that goes.
 * I2. Segments that the newest image still leads to wait for a newer image, as long as images are
 *     worth their while: without one the next open would replay the whole log. A small log does
 *     without.
 */
#include "store/store_internal.h"

#include "format/image.h"

#define KEEPER_IDLE_NS UINT64_C(50000000)
#define KEEPER_LOAD_NODES 64u
#define KEEPER_SCRUB_MS_MAX 100u
#define KEEPER_IMAGE_RETRY_NS UINT64_C(5000000000)
#define KEEPER_IMAGE_GROWTH_MIN (UINT64_C(16) << 20)
#define KEEPER_IMAGE_CLOSE_MIN (UINT64_C(4) << 20)
#define KEEPER_GROWTH_MAX (UINT64_C(1) << 60)
#define KEEPER_SMALL_LOG (UINT64_C(64) << 20)

void km__keeper_kick(struct km_store *store)
{
    km__eventcount_notify(&store->keeper.event);
}

/* ---- when an image is due ---------------------------------------------------------------- */

static uint64_t log_linear_end(struct km_store *store)
{
    uint64_t linear;

    km__epoch_enter();
    linear = km__log_linear(store->log, km__log_complete(store->log));
    km__epoch_leave();
    return linear;
}

static uint64_t head_linear(struct km_store *store)
{
    uint64_t linear;

    km__epoch_enter();
    linear = km__log_linear(store->log, km__position(km__log_head_number(store->log), 0));
    km__epoch_leave();
    return linear;
}

/* An image that leads to segments before the head is of no use. Under keeper.lock. */
static int has_image(struct km_store *store)
{
    return atomic_load_explicit(&store->image.bytes, memory_order_relaxed) != 0 &&
           store->image.head_number >= km__log_head_number(store->log);
}

uint64_t km__replay_bytes(struct km_store *store)
{
    uint64_t from = atomic_load_explicit(&store->image.linear, memory_order_relaxed);
    uint64_t head = head_linear(store);

    return log_linear_end(store) - (from > head ? from : head);
}

uint64_t km__emptied_bytes(struct km_store *store)
{
    uint32_t number = atomic_load_explicit(&store->compactor.emptied_number, memory_order_relaxed);
    uint64_t from, to = 0;

    km__epoch_enter();
    from = km__log_linear(store->log, km__position(km__log_head_number(store->log), 0));
    if (number > km__log_head_number(store->log))
        to = km__log_linear(store->log, km__position(number, 0));
    km__epoch_leave();
    return to > from ? to - from : 0;
}

static uint64_t usual_growth(struct km_store *store)
{
    uint64_t growth = km__live_bytes(store) / 3;

    return growth < KEEPER_IMAGE_GROWTH_MIN ? KEEPER_IMAGE_GROWTH_MIN : growth;
}

uint64_t km__keeper_reach(struct km_store *store)
{
    uint64_t growth = usual_growth(store);

    if (store->image_growth > growth)
        growth = store->image_growth;
    if (growth > KEEPER_GROWTH_MAX ||
        atomic_load_explicit(&store->keeper.is_failing, memory_order_relaxed))
        return UINT64_MAX;
    return head_linear(store) + 2 * growth;
}

/* By the log's growth, or because too much that is empty waits for one. Under keeper.lock. */
static int is_image_due(struct km_store *store)
{
    uint64_t growth = store->image_growth ? store->image_growth : usual_growth(store);

    if (!store->dir || store->os->ops->now_ns(store->os) < store->keeper.image_not_before_ns)
        return 0;
    return km__replay_bytes(store) >= growth ||
           (has_image(store) && km__emptied_bytes(store) >= usual_growth(store));
}

/* Under keeper.lock. A failure is not repeated at once: it costs as much as a success. */
static km_status write_image(struct km_store *store)
{
    km_status rc = km__image_write(store);

    if (rc)
        store->keeper.image_not_before_ns = store->os->ops->now_ns(store->os) +
                                            KEEPER_IMAGE_RETRY_NS;
    return rc;
}

/* ---- the head ---------------------------------------------------------------------------- */

/* Up to where the log may go. Under keeper.lock. */
static uint32_t free_until(struct km_store *store, uint32_t emptied)
{
    if (!has_image(store) || emptied <= store->image.head_number)
        return emptied;
    if (log_linear_end(store) - head_linear(store) < KEEPER_SMALL_LOG && !store->image_growth)
        return emptied; /* I2: from here on the image is of no use */
    return store->image.head_number;
}

/* The head has passed what the image leads to: it would be refused. */
static void forget_image(struct km_store *store)
{
    struct image *image = &store->image;

    if (!atomic_load_explicit(&image->bytes, memory_order_relaxed) || has_image(store))
        return;
    km__ignore(store->os->ops->unlink(store->dir, IMAGE_NAME), "the next open refuses it");
    atomic_store_explicit(&image->bytes, 0, memory_order_relaxed);
    atomic_store_explicit(&image->linear, 0, memory_order_relaxed);
}

/* Under keeper.lock. */
static km_status move_head(struct km_store *store, uint32_t number)
{
    km_status rc = KM_OK;

    if (number <= km__log_head_number(store->log))
        return KM_OK;
    /* what MAPS says holds up to its position: about once a turn of the log it is written anew */
    if (store->keeper.maps_position < km__position(number, SEGMENT_HEADER_SIZE)) {
        rc = km__catalogue_write(store);
        if (rc == KM_E_FULL) { /* what is to be freed must not wait for room */
            rc = km__log_give_up_ready(store->log);
            if (!rc)
                rc = km__catalogue_write(store);
        }
    }
    if (!rc)
        rc = km__log_move_head(store->log, number);
    if (!rc)
        forget_image(store);
    km__log_kick(store->log); /* the compactor sets the pace by it */
    return rc;
}

static uint32_t emptied_number(struct km_store *store)
{
    /* pairs with km__relocate_reach(): what it says is empty is empty for who looks after it */
    return atomic_load_explicit(&store->compactor.emptied_number, memory_order_acquire);
}

km_status km__keeper_free(struct km_store *store, int is_urgent)
{
    km_status rc;

    km__mutex_lock(&store->keeper.lock);
    if (!is_urgent && free_until(store, emptied_number(store)) < emptied_number(store))
        km__ignore(km__image_write(store), "then the next open does without");
    rc = move_head(store, emptied_number(store));
    km__mutex_unlock(&store->keeper.lock);
    return rc;
}

/* ---- rounds ------------------------------------------------------------------------------ */

km_status km__keeper_round(struct km_store *store)
{
    km_status rc = km__log_writable(store->log);

    if (rc)
        return rc;
    km__mutex_lock(&store->keeper.lock);
    if (is_image_due(store))
        rc = write_image(store);
    if (rc == KM_E_CORRUPT) { /* a node of the image that the store was opened with */
        km__mutex_unlock(&store->keeper.lock);
        km__note_image_damage(store);
        return km__mend_index(store);
    }
    /* an image that cannot be written is not waited for: the next open does without */
    rc = move_head(store, rc ? emptied_number(store) : free_until(store, emptied_number(store)));
    /* relaxed: a figure; puts must not wait for what does not come */
    atomic_store_explicit(&store->keeper.is_failing, rc != KM_OK, memory_order_relaxed);
    km__mutex_unlock(&store->keeper.lock);
    return rc;
}

/* What the rate allows for the time since the last round. */
static void scrub_share(struct km_store *store)
{
    uint64_t now_ns = store->os->ops->now_ns(store->os);
    uint64_t elapsed_ms = (now_ns - store->keeper.scrubbed_ns) / 1000000;

    if (!store->dir || !store->options.scrub_rate || elapsed_ms == 0)
        return;
    store->keeper.scrubbed_ns = now_ns;
    if (elapsed_ms > KEEPER_SCRUB_MS_MAX)
        elapsed_ms = KEEPER_SCRUB_MS_MAX; /* the round was a long one: no burst after it */
    km__ignore(km__scrub_some(store, store->options.scrub_rate / 1000 * elapsed_ms + 1),
               "damage is noted and counted");
}

static void run_keeper(void *context)
{
    struct km_store *store = context;
    struct keeper *keeper = &store->keeper;

    /* acquire: pairs with km__keeper_stop() */
    while (!atomic_load_explicit(&keeper->stopping, memory_order_acquire)) {
        uint32_t ticket;

        km__log_set_followed(store->log, km__follow_is_watched(store));
        km__ignore(km__keeper_round(store), "tried again in the next round");
        if (!km__image_load_some(store, KEEPER_LOAD_NODES))
            continue;
        scrub_share(store);
        km__expire_some(store);
        km__tidy_orders(store);
        km__views_fold(store);
        ticket = km__eventcount_prepare(&keeper->event);
        if (atomic_load_explicit(&keeper->stopping, memory_order_acquire))
            km__eventcount_cancel(&keeper->event);
        else
            km__eventcount_wait(&keeper->event, ticket, KEEPER_IDLE_NS);
    }
}

km_status km__keeper_start(struct km_store *store)
{
    struct keeper *keeper = &store->keeper;
    km_status rc = km__thread_start(&keeper->thread, "km-keeper", run_keeper, store);

    keeper->has_thread = rc == KM_OK;
    return rc;
}

void km__keeper_stop(struct km_store *store)
{
    struct keeper *keeper = &store->keeper;

    atomic_store_explicit(&keeper->stopping, 1, memory_order_release); /* pairs with run_keeper() */
    km__keeper_kick(store);
    if (keeper->has_thread)
        km__thread_join(&keeper->thread);
    keeper->has_thread = 0;
}

void km__keeper_close(struct km_store *store)
{
    if (!store->dir || km__log_writable(store->log))
        return;
    km__mutex_lock(&store->keeper.lock);
    if (km__replay_bytes(store) >= KEEPER_IMAGE_CLOSE_MIN)
        km__ignore(km__image_write(store), "the next open replays more");
    km__mutex_unlock(&store->keeper.lock);
}
