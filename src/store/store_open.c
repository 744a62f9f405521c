/* SPDX-License-Identifier: Apache-2.0
 *
 * store_open.c -- open and close a store.
 */
#include "store/store_tables.h"
#include "store/store_view.h"

#include <stdio.h>

#include "format/image.h"

#define OPEN_ATTEMPTS 20 /* of a follower, while the writer changes what is looked at */
#define OPEN_AGAIN_NS UINT64_C(10000000)
#define OPEN_AWAIT_ROUNDS 7 /* longer than a round of the keeper */
#define COMPACT_PERCENT_LEAST 110u
#define COMPACT_PERCENT_MOST 10000u

/* ---- options ----------------------------------------------------------------------------- */

static km_status take_upkeep_options(struct km_store *store, km_error *error)
{
    const km_options *options = &store->options;

    if (options->compact_percent && (options->compact_percent < COMPACT_PERCENT_LEAST ||
                                     options->compact_percent > COMPACT_PERCENT_MOST))
        return km__fail(error, KM_E_INVALID, NULL, 0, 0,
                        "km_options.compact_percent is not from %u to %u", COMPACT_PERCENT_LEAST,
                        COMPACT_PERCENT_MOST);
    if (options->residency > KM_RESIDENT_LOCKED)
        return km__fail(error, KM_E_INVALID, NULL, 0, 0,
                        "km_options.residency is not a km_residency");
    store->compact_percent = options->compact_percent ? options->compact_percent
                                                      : STORE_COMPACT_PERCENT;
    store->log_size_min = options->log_size_min ? options->log_size_min : STORE_LOG_SIZE_MIN;
    store->image_growth = options->image_growth;
    return KM_OK;
}

static km_status take_options(struct km_store *store, const km_options *options, km_error *error)
{
    static const km_options defaults = KM_OPTIONS_INIT;

    store->options = defaults;
    if (options) {
        if (options->struct_size < offsetof(km_options, mode) || options->struct_size > 4096)
            return km__fail(error, KM_E_INVALID, NULL, 0, 0,
                            "km_options.struct_size is not set: use KM_OPTIONS_INIT");
        memcpy(&store->options, options,
               options->struct_size < sizeof(*options) ? options->struct_size : sizeof(*options));
    }
    options = &store->options;
    if ((int)options->mode < KM_OPEN_OR_CREATE || options->mode > KM_OPEN_READ_ONLY)
        return km__fail(error, KM_E_INVALID, NULL, 0, 0, "km_options.mode is not a km_open_mode");
    if ((int)options->durability < KM_DURABLE_DEFAULT || options->durability > KM_DURABLE_POWER)
        return km__fail(error, KM_E_INVALID, NULL, 0, 0,
                        "km_options.durability is not a km_durability");
    store->durability = options->durability ? options->durability : KM_DURABLE_PROCESS;
    store->batch_size_max = options->batch_size_max ? options->batch_size_max
                                                    : STORE_BATCH_SIZE_MAX;
    if (store->batch_size_max > KM_VALUE_SIZE_MAX)
        return km__fail(error, KM_E_INVALID, NULL, 0, 0, "km_options.batch_size_max is over %u",
                        KM_VALUE_SIZE_MAX);
    return take_upkeep_options(store, error);
}

/* ---- create and destroy ------------------------------------------------------------------ */

static km_status create_store_object(struct os *os, const km_options *options,
                                     struct km_store **out_store, km_error *error)
{
    struct km_store *store;
    km_status rc;

    if (!km__epoch_is_usable())
        return km__fail(error, KM_E_FORKED, NULL, 0, 0,
                        "this process was forked inside a read section: open stores after exec");
    store = km__allocate(&os->allocator, sizeof(*store));
    if (!store)
        return km__fail(error, KM_E_NO_MEMORY, NULL, 0, 0, "no memory for a store");
    store->os = os;
    store->allocator = &os->allocator;
    store->source.hashes = km__hash_refs;
    store->source.context = store;
    store->sorted_source.key = km__sorted_key_of;
    store->sorted_source.prefetch = km__sorted_prefetch_record;
    store->sorted_source.context = store;
    km__snapshots_init(store);
    km__reclaimer_init(&store->reclaimer);
    km__mutex_init(&store->compactor.lock);
    km__mutex_init(&store->keeper.lock);
    km__eventcount_init(&store->keeper.event);
    km__eventcount_init(&store->follower.event);
    km__watches_init(store);
    *out_store = store;
    rc = km__maps_init(store);
    if (!rc)
        rc = km__node_pool_create(store->allocator, &store->pool);
    if (!rc)
        rc = os->ops->fork_word(os, &store->fork_word);
    if (!rc && !store->fork_word)
        rc = KM_E_UNSUPPORTED; /* Linux has it since 4.14 */
    if (rc)
        return km__fail(error, rc, NULL, 0, os->ops->last_error(os), "no memory for a store");
    return take_options(store, options, error);
}

static void destroy_store_object(struct km_store *store)
{
    const struct os_ops *ops = store->os->ops;

    km__expire_fini(store);
    km__maps_fini(store);
    km__image_close(store);
    km__reclaimer_fini(&store->reclaimer); /* nodes go to the pool, memory to the log's allocator */
    km__node_pool_destroy(store->pool);
    km__log_destroy(store->log);
    ops->close_dir(store->log_dir);
    ops->close_dir(store->dir);
    ops->close_file(store->lock_file); /* the lock goes with it, last of all */
    km__mutex_fini(&store->compactor.lock);
    km__mutex_fini(&store->keeper.lock);
    km__watches_fini(store);
    km__snapshots_fini(store);
    if (store->fork_word)
        ops->release_fork_word(store->os, store->fork_word);
    km__release(store->allocator, store, sizeof(*store));
}

/* ---- open -------------------------------------------------------------------------------- */

static void housekeep(void *context)
{
    struct km_store *store = context;

    km__node_pool_prepare(store->pool);
}

static struct log_options log_options_of(struct km_store *store, int background)
{
    struct log_options options = {
        .os = store->os,
        .store_dir = store->dir,
        .log_dir = store->log_dir,
        .reclaimer = &store->reclaimer,
        .size_max = store->options.log_size_max,
        .clock_ms = &store->clock_ms,
        .sync_interval_ms = store->options.sync_interval_ms ? store->options.sync_interval_ms
                                                            : STORE_SYNC_INTERVAL_MS,
        .zero_fill = store->durability == KM_DURABLE_POWER,
        .keep_in_memory = store->options.keep_in_memory != 0,
        .residency = (int)store->options.residency,
        .verify_reads = !store->options.skip_read_checks,
        .read_only = store->options.mode == KM_OPEN_READ_ONLY && store->dir != NULL,
        .follow = store->is_follower,
        .background = background,
        .housekeep = housekeep,
        .housekeep_context = store,
        .note = store->options.log,
        .note_context = store->options.log_context,
    };

    memcpy(options.store_id, store->identity.store_id, STORE_ID_SIZE);
    return options;
}

static void note_recovery(const struct km_store *store)
{
    char line[160];

    if (!store->options.log || !store->torn_bytes)
        return;
    snprintf(line, sizeof(line), "recovery cut %llu bytes that a crash had torn off the log's end",
             (unsigned long long)store->torn_bytes);
    store->options.log(store->options.log_context, KM_LOG_WARNING, line);
}

static void stop_upkeep(struct km_store *store)
{
    km__compactor_stop(store);
    km__keeper_stop(store);
    km__follower_stop(store);
}

/* The threads that are the store's; those of the log run already. */
static km_status start_upkeep(struct km_store *store, const struct log_options *options,
                              km_error *error)
{
    km_status rc = KM_OK;

    km__compactor_init(store);
    if (options->background && store->is_follower)
        rc = km__follower_start(store);
    if (options->background && !options->read_only)
        rc = km__compactor_start(store);
    if (!rc && options->background && !options->read_only)
        rc = km__keeper_start(store);
    if (rc)
        stop_upkeep(store);
    return rc ? km__fail(error, rc, NULL, 0, 0, "cannot start the background threads") : KM_OK;
}

/* The log was found to begin later than MARKS said: has its writer moved the head meanwhile? */
static km_status find_moved_head(struct km_store *store, uint64_t *head, km_error *error)
{
    uint32_t missing = km__log_chain_missing(store->log, *head);
    struct marks marks;
    km_status rc;

    if (!missing)
        return KM_OK;
    rc = km__load_marks(store, &marks, error);
    if (!rc && km__position_number(marks.head) <= missing)
        rc = km__fail(error, KM_E_CORRUPT, "log", 0, 0, "segment %u of the log is missing",
                      missing);
    *head = km__position(km__log_chain_number(store->log, 0), SEGMENT_HEADER_SIZE);
    return rc;
}

static km_status open_log(struct km_store *store, struct log_options *options, km_error *error)
{
    uint64_t head = options->marks.head;
    km_status rc = km__log_create(options, &store->log, error);

    if (rc) {
        store->os->ops->close_file(options->marks_file);
        return rc;
    }
    store->view = km__log_view(store->log);
    if (store->is_follower)
        rc = find_moved_head(store, &head, error);
    if (!rc && store->dir)
        rc = km__replay(store, head, error);
    if (!rc)
        rc = km__tables_open_all(store, error);
    if (!rc)
        note_recovery(store);
    if (!rc)
        rc = km__log_start(store->log, error);
    if (!rc)
        km__tables_sweep(store);
    if (!rc && store->is_image_refused && !options->read_only)
        km__ignore(store->os->ops->unlink(store->dir, IMAGE_NAME), "it is found damaged again");
    if (!rc) {
        rc = start_upkeep(store, options, error);
        if (rc)
            km__ignore(km__log_stop(store->log, NULL), "the error is told already");
    }
    return rc;
}

/* What the replay met may have been damage to the image: the log alone tells as much. */
static int is_worth_without_image(const struct km_store *store, km_status rc)
{
    return rc == KM_E_CORRUPT && store && store->image.mapping && !store->is_follower;
}

/* Beside a writer what is found may change while it is looked at: then another attempt helps. */
static int is_worth_another(const struct km_store *store, km_status rc)
{
    return store && store->is_follower &&
           (rc == KM_E_CORRUPT || rc == KM_NOT_FOUND || rc == KM_E_IO || rc == KM_E_NOT_A_STORE);
}

struct opening {
    struct os *os;
    const char *path;
    const km_options *options;
    int flags;
    uint32_t number_min; /* see km__store_lift() */
};

static void sleep_a_moment(void)
{
    struct eventcount event;

    km__eventcount_init(&event);
    km__eventcount_wait(&event, km__eventcount_prepare(&event), OPEN_AGAIN_NS);
}

/* Until the writer has noticed that it is followed, and written what it had in memory. */
static void await_writer(void)
{
    for (int i = 0; i < OPEN_AWAIT_ROUNDS; i++)
        sleep_a_moment();
}

static km_status open_once(struct opening *opening, struct km_store **out_store, int *out_again,
                           km_error *out_error)
{
    struct km_store *store = NULL;
    struct log_options log_options;
    struct os_file *marks_file = NULL;
    struct marks marks;
    km_status rc;

    if (out_error)
        out_error->status = KM_OK; /* until a cause is known */
    rc = create_store_object(opening->os, opening->options, &store, out_error);
    if (store) {
        store->is_checked_whole = (opening->flags & STORE_OPEN_WHOLE) != 0;
        store->is_image_refused = (opening->flags & STORE_OPEN_NO_IMAGE) != 0;
    }
    if (!rc)
        rc = km__store_attach_files(store, opening->path, &marks_file, &marks, out_error);
    if (rc)
        goto out;
    if (store->is_follower) {
        if (opening->flags & STORE_OPEN_BACKGROUND)
            await_writer();
        rc = km__load_marks(store, &marks, out_error);
        if (rc)
            goto out;
    }
    km__hash_secret_init(&store->secret, store->identity.hash_seed);
    log_options = log_options_of(store, opening->flags & STORE_OPEN_BACKGROUND);
    log_options.marks = marks;
    log_options.marks_file = marks_file;
    log_options.number_min = opening->number_min;
    atomic_store_explicit(&store->clock_ms, marks.clock_ms, memory_order_relaxed); /* alone here */
    rc = open_log(store, &log_options, out_error);
    if (rc)
        goto out;
    *out_store = store;
    store = NULL;
out:
    *out_again = is_worth_another(store, rc);
    if (is_worth_without_image(store, rc)) {
        opening->flags |= STORE_OPEN_NO_IMAGE;
        *out_again = 1;
    }
    if (store)
        destroy_store_object(store);
    if (rc && out_error && out_error->status != rc)
        km__ignore(km__fail(out_error, rc, NULL, 0, 0, "the store cannot be opened"),
                   "the status is the one given");
    return rc;
}

static km_status open_patiently(struct opening *opening, struct km_store **out_store,
                                km_error *out_error)
{
    int again = 0;
    km_status rc;

    for (int i = 0;; i++) { /* ends: so many attempts */
        rc = open_once(opening, out_store, &again, out_error);
        if (!rc || !again || i >= OPEN_ATTEMPTS)
            return rc;
        if (!(opening->flags & STORE_OPEN_NO_IMAGE))
            sleep_a_moment();
    }
}

km_status km__store_open_with(struct os *os, const char *path, const km_options *options, int flags,
                              struct km_store **out_store, km_error *out_error)
{
    struct opening opening = {os, path, options, flags, 0};

    return open_patiently(&opening, out_store, out_error);
}

km_status km__store_lift(struct os *os, const char *path, uint32_t number, km_error *out_error)
{
    km_options options = KM_OPTIONS_INIT;
    struct opening opening = {os, path, &options, 0, number};
    struct km_store *store = NULL;
    km_status rc;

    options.mode = KM_OPEN_EXISTING;
    rc = open_patiently(&opening, &store, out_error);
    return rc ? rc : km_close(store, out_error);
}

km_status km__store_open_memory_with(struct os *os, const km_options *options, int background,
                                     struct km_store **out_store, km_error *out_error)
{
    struct km_store *store = NULL;
    struct log_options log_options;
    km_status rc = create_store_object(os, options, &store, out_error);

    if (rc)
        goto out;
    rc = os->ops->random(os, store->identity.hash_seed, KM__HASH_SEED_SIZE);
    if (rc) {
        rc = km__fail(out_error, rc, NULL, 0, os->ops->last_error(os), "no random bytes");
        goto out;
    }
    store->durability = KM_DURABLE_PROCESS;
    km__hash_secret_init(&store->secret, store->identity.hash_seed);
    log_options = log_options_of(store, background);
    rc = open_log(store, &log_options, out_error);
    if (rc)
        goto out;
    *out_store = store;
    store = NULL;
out:
    if (store)
        destroy_store_object(store);
    return rc;
}

km_status km_open(const char *path, const km_options *options, km_store **out_store,
                  km_error *out_error)
{
    if (!path || !*path)
        return km__fail(out_error, KM_E_INVALID, NULL, 0, 0, "the path is empty");
    return km__store_open_with(km__os_linux(), path, options, 1, out_store, out_error);
}

km_status km_open_memory(const km_options *options, km_store **out_store, km_error *out_error)
{
    return km__store_open_memory_with(km__os_linux(), options, 1, out_store, out_error);
}

/* ---- close ------------------------------------------------------------------------------- */

/* In a child of fork() the log and the indexes are not there: give back what is. */
static void close_forked(struct km_store *store)
{
    const struct os_ops *ops = store->os->ops;

    ops->close_dir(store->log_dir);
    ops->close_dir(store->dir);
    ops->close_file(store->lock_file); /* the parent holds the same lock: it stays locked */
    ops->release_fork_word(store->os, store->fork_word);
    km__release(store->allocator, store, sizeof(*store));
}

km_status km_close(km_store *store, km_error *out_error)
{
    km_status rc;

    if (!store)
        return KM_OK;
    if (km__store_is_forked(store)) {
        close_forked(store);
        return KM_OK;
    }
    if (km__epoch_ongoing())
        return KM_WOULD_BLOCK; /* it would wait for this very section to end */
    km__watches_stop(store);
    stop_upkeep(store);
    km__keeper_close(store);
    rc = km__log_stop(store->log, out_error);
    destroy_store_object(store);
    return rc;
}

km_status km_store_error(const km_store *store, km_error *out_error)
{
    return km__store_is_forked(store) ? KM_E_FORKED : km__log_error(store->log, out_error);
}
