/* SPDX-License-Identifier: Apache-2.0
 *
 * store_watch.c -- the changes of a store as they happen: reading along the log.
 *
 * I1. `position` is a place where a record begins or will begin; every change below it that the
 *     watch asks for has been delivered, and none from it on.
 * I2. The token, which km_watch_position() gives, is the last byte before that place: at least the
 *     position of every record read over, and less than that of every other. Its three low bits
 *     are ones, a change's position has zeros there: km_watch_open() tells them apart, and both
 *     mean "what lies after".
 * I3. A token never names the beginning of a segment but the log's first: one without records is
 *     void after a crash, while the end of the log before it stays.
 * I4. The bytes of a change are copied inside the epoch in which they were found in the log.
 *
 * Writers know nothing of watches. Who waits looks at the log now and then; one thread of the store
 * does so for all watches that have a descriptor.
 */
#include <stddef.h>

#include "store/store_internal.h"

#define WATCH_STRETCH (UINT64_C(256) << 10) /* read over in one epoch */
#define WATCH_PAUSE_MIN_NS UINT64_C(200000)
#define WATCH_PAUSE_MAX_NS UINT64_C(4000000)
#define WATCH_NOTIFY_NS UINT64_C(2000000)
#define WATCH_TOKEN_BITS 7u
#define WATCH_FIRST km__position(1, SEGMENT_HEADER_SIZE) /* where the first change of all lies */

struct km_watch {
    struct km_store *store; /* [c] */
    const km_map *map;      /* [c] only its changes; NULL: those of all maps */
    uint8_t *prefix;        /* [c] */
    size_t prefix_size;     /* [c] */

    /* of the thread that uses the watch */
    uint64_t position; /* I1 */
    uint64_t token;    /* I2 */
    km_buffer name, key, value;
    int fd; /* -1: none */

    /* under the notifier's lock */
    struct km_watch *next;
    uint64_t notified; /* the descriptor tells of everything below */
};

/* ---- where to begin ---------------------------------------------------------------------- */

static void go_on_at(struct km_watch *watch, uint64_t position)
{
    watch->position = position;
    watch->token = position - 1;
}

/* Whether a record begins, or will begin, at a position that is not before the head. */
static int is_boundary(const struct log *log, uint64_t position)
{
    uint64_t complete = km__log_complete(log), offset = km__position_offset(position), limit;
    struct log_item item;

    if (position > complete || position % RECORD_ALIGNMENT || offset < SEGMENT_HEADER_SIZE ||
        !km__log_has_number(log, km__position_number(position)))
        return 0;
    limit = km__log_segment_limit(log, km__position_number(position));
    if (offset > limit)
        return 0;
    return position == complete || limit - offset < RECORD_HEADER_SIZE ||
           km__log_read(log, position, complete, &item) == KM_OK;
}

static km_status begin_at_end(struct km_watch *watch)
{
    const struct log *log = watch->store->log;
    uint64_t complete = km__log_complete(log);
    uint32_t number = km__position_number(complete);
    uint64_t before = km__log_previous_end(log, number);

    go_on_at(watch, complete);
    if (km__position_offset(complete) == SEGMENT_HEADER_SIZE && before)
        watch->token = before - 1; /* I3 */
    return KM_OK;
}

static km_status begin_at_token(struct km_watch *watch, uint64_t token)
{
    const struct log *log = watch->store->log;
    uint32_t head = km__log_head_number(log);
    uint64_t position = token + 1;

    if (km__log_previous_end(log, head) == position)
        position = km__position(head, SEGMENT_HEADER_SIZE); /* what went is what had been read */
    if (km__position_number(position) < head)
        return KM_E_TOO_OLD;
    if (!is_boundary(log, position))
        return KM_E_INVALID;
    go_on_at(watch, position);
    watch->token = token;
    return KM_OK;
}

static km_status begin_after_change(struct km_watch *watch, uint64_t change)
{
    const struct log *log = watch->store->log;
    uint64_t complete = km__log_complete(log);
    struct log_item item;

    if (km__position_number(change) < km__log_head_number(log))
        return KM_E_TOO_OLD;
    if (!is_boundary(log, change) || km__log_read(log, change, complete, &item) ||
        item.position != change)
        return KM_E_INVALID;
    go_on_at(watch, item.next);
    return KM_OK;
}

static km_status begin_at_first(struct km_watch *watch)
{
    if (km__log_head_number(watch->store->log) != 1)
        return KM_E_TOO_OLD;
    go_on_at(watch, WATCH_FIRST);
    return KM_OK;
}

/* Inside an epoch. */
static km_status begin_watch(struct km_watch *watch, km_position after)
{
    if (after == KM_POSITION_NOW)
        return begin_at_end(watch);
    if (after == 0)
        return begin_at_first(watch);
    if (after % RECORD_ALIGNMENT == WATCH_TOKEN_BITS)
        return begin_at_token(watch, after);
    return begin_after_change(watch, after);
}

/* ---- open and close ---------------------------------------------------------------------- */

static km_status take_watch_options(const km_store *store, const km_watch_options *options,
                                    km_watch_options *out)
{
    static const km_watch_options defaults = KM_WATCH_OPTIONS_INIT;

    *out = defaults;
    if (!options)
        return KM_OK;
    if (options->struct_size < offsetof(km_watch_options, after) || options->struct_size > 4096)
        return KM_E_INVALID;
    memcpy(out, options, options->struct_size < sizeof(*out) ? options->struct_size : sizeof(*out));
    if ((out->map && out->map->store != store) || out->prefix.size > KM_KEY_SIZE_MAX ||
        (out->prefix.size && !out->prefix.data))
        return KM_E_INVALID;
    return KM_OK;
}

static void release_watch(struct km_watch *watch)
{
    const struct allocator *allocator = watch->store->allocator;

    km_buffer_free(&watch->name);
    km_buffer_free(&watch->key);
    km_buffer_free(&watch->value);
    km__release(allocator, watch->prefix, watch->prefix_size);
    km__release(allocator, watch, sizeof(*watch));
}

static km_status create_watch(struct km_store *store, const km_watch_options *options,
                              struct km_watch **out_watch)
{
    struct km_watch *watch = km__allocate(store->allocator, sizeof(*watch));

    if (!watch)
        return KM_E_NO_MEMORY;
    watch->store = store;
    watch->map = options->map;
    watch->fd = -1;
    if (options->prefix.size) {
        watch->prefix = km__allocate(store->allocator, options->prefix.size);
        if (!watch->prefix) {
            release_watch(watch);
            return KM_E_NO_MEMORY;
        }
        watch->prefix_size = options->prefix.size;
        memcpy(watch->prefix, options->prefix.data, watch->prefix_size);
    }
    *out_watch = watch;
    return KM_OK;
}

km_status km_watch_open(km_store *store, const km_watch_options *options, km_watch **out_watch)
{
    km_watch_options all;
    struct km_watch *watch = NULL;
    km_status rc;

    if (km__store_is_forked(store))
        return KM_E_FORKED;
    rc = take_watch_options(store, options, &all);
    if (!rc)
        rc = create_watch(store, &all, &watch);
    if (rc)
        return rc;
    km__epoch_enter();
    rc = begin_watch(watch, all.after);
    km__epoch_leave();
    if (rc)
        release_watch(watch);
    else
        *out_watch = watch;
    return rc;
}

km_position km_watch_position(const km_watch *watch)
{
    return watch->token < WATCH_FIRST ? 0 : watch->token;
}

/* ---- which records ----------------------------------------------------------------------- */

static const uint8_t *item_value(const struct log_item *item)
{
    return item->bytes + km__record_payload_offset(item->record.flags);
}

static const uint8_t *item_key(const struct log_item *item)
{
    return item_value(item) + item->record.value_size;
}

static int is_wanted(const struct km_watch *watch, const struct log_item *item)
{
    const struct record *record = &item->record;

    if (record->kind == RECORD_MARK || record->kind == RECORD_PADDING ||
        record->flags & RECORD_RELOCATED)
        return 0;
    if (watch->map && record->map != watch->map->id)
        return 0;
    if (record->kind != RECORD_MAP_CREATED && !watch->store->by_id[record->map])
        return 0; /* of a map that never was: FORMAT.md, B3 */
    if (record->kind != RECORD_PUT && record->kind != RECORD_DELETE)
        return 1;
    return record->key_size >= watch->prefix_size &&
           (!watch->prefix_size || memcmp(item_key(item), watch->prefix, watch->prefix_size) == 0);
}

/* Whether the batch of a record goes on with one that is wanted as well. */
static int has_wanted_rest(const struct km_watch *watch, const struct log_item *item)
{
    struct log_item next = *item;

    if (!watch->map && !watch->prefix_size)
        return (item->record.flags & RECORD_MORE_FOLLOWS) != 0;
    while (next.record.flags & RECORD_MORE_FOLLOWS) { /* ends with the batch, which is complete */
        if (km__log_read(watch->store->log, next.next, km__log_complete(watch->store->log), &next))
            return 1; /* the next call meets the same error, and tells it */
        if (is_wanted(watch, &next))
            return 1;
    }
    return 0;
}

/* Find the next record that is wanted, below `end`; inside an epoch. KM_END: there is none;
 * KM_NOT_FOUND: none so far, it is time to leave the epoch for a moment. */
static km_status find_wanted(struct km_watch *watch, uint64_t end, struct log_item *out)
{
    uint64_t read_bytes = 0;

    while (read_bytes < WATCH_STRETCH) {
        km_status rc = km__log_read(watch->store->log, watch->position, end, out);

        if (rc)
            return rc;
        if (is_wanted(watch, out))
            return KM_OK;
        read_bytes += out->next - out->position;
        go_on_at(watch, out->next);
    }
    return KM_NOT_FOUND;
}

/* ---- one change -------------------------------------------------------------------------- */

static km_status copy_watched(km_buffer *buffer, const uint8_t *bytes, size_t size, km_bytes *out)
{
    km_status rc = km__buffer_reserve(buffer, size ? size : 1); /* no data is NULL, even if empty */

    if (rc)
        return rc;
    buffer->size = size;
    memcpy(buffer->data, bytes, size);
    *out = km_bytes_of(buffer->data, size);
    return KM_OK;
}

static km_status copy_name(struct km_watch *watch, const struct log_item *item, km_bytes *out)
{
    const km_map *map;

    /* the table may not have it yet */
    if (item->record.kind == RECORD_MAP_CREATED)
        return copy_watched(&watch->name, item_key(item), item->record.key_size, out);
    map = watch->store->by_id[item->record.map]; /* entered before any other record of it */
    return copy_watched(&watch->name, map->name, map->name_size, out);
}

/* The kinds of changes are numbered as those of records, but for one. */
static km_change_kind kind_of_change(const struct record *record)
{
    _Static_assert((int)KM_CHANGE_PUT == RECORD_PUT && (int)KM_CHANGE_DELETE == RECORD_DELETE &&
                       (int)KM_CHANGE_MAP_CREATED == RECORD_MAP_CREATED &&
                       (int)KM_CHANGE_MAP_DROPPED == RECORD_MAP_DROPPED &&
                       (int)KM_CHANGE_MAP_CLEARED == RECORD_MAP_CLEARED,
                   "kinds of changes and of records");
    if (record->kind == RECORD_PUT && record->flags & RECORD_HAS_EXPIRY &&
        record->expiry == RECORD_EXPIRY_HIDES)
        return KM_CHANGE_DELETE; /* of what a table under the map has */
    return record->kind == RECORD_RANGE_DELETED ? KM_CHANGE_RANGE_DELETED
                                                : (km_change_kind)record->kind;
}

/* The first key of a range, and the first behind it if there is an end. */
static km_status copy_range(struct km_watch *watch, const struct log_item *item, km_change *change)
{
    const struct record *record = &item->record;
    const uint8_t *value = item_value(item);
    km_status rc = copy_watched(&watch->key, item_key(item), record->key_size, &change->key);

    if (rc || record->value_size == 0 || value[0] == RECORD_RANGE_IS_OPEN)
        return rc;
    return copy_watched(&watch->value, value + 1, record->value_size - 1, &change->value);
}

/* I4 */
static km_status copy_change(struct km_watch *watch, const struct log_item *item, km_change *out)
{
    const struct record *record = &item->record;
    km_change change = {.kind = kind_of_change(record), .position = item->position};
    km_status rc = copy_name(watch, item, &change.map);

    if (!rc && (record->kind == RECORD_PUT || record->kind == RECORD_DELETE))
        rc = copy_watched(&watch->key, item_key(item), record->key_size, &change.key);
    if (!rc && change.kind == KM_CHANGE_PUT)
        rc = copy_watched(&watch->value, item_value(item), record->value_size, &change.value);
    if (!rc && record->kind == RECORD_RANGE_DELETED)
        rc = copy_range(watch, item, &change);
    if (rc)
        return rc; /* the next call finds the same record */
    change.more_follows = has_wanted_rest(watch, item);
    go_on_at(watch, item->next);
    *out = change;
    return KM_OK;
}

/* KM_END: there is none now. */
static km_status read_change(struct km_watch *watch, km_change *out)
{
    uint64_t end = km__log_complete(watch->store->log);
    struct log_item item;
    km_status rc;

    do { /* ends: the position grows, and `end` stays */
        km__epoch_enter();
        rc = find_wanted(watch, end, &item);
        if (!rc)
            rc = copy_change(watch, &item, out);
        km__epoch_leave();
    } while (rc == KM_NOT_FOUND);
    return rc;
}

/* ---- waiting ----------------------------------------------------------------------------- */

static void pause_watch(uint64_t ns)
{
    struct eventcount nobody; /* wakes it */

    km__eventcount_init(&nobody);
    km__eventcount_wait(&nobody, km__eventcount_prepare(&nobody), ns);
}

static km_status wait_change(struct km_watch *watch, uint32_t timeout_ms, km_change *out)
{
    struct os *os = watch->store->os;
    uint64_t now = os->ops->now_ns(os), end = now + (uint64_t)timeout_ms * 1000000u;
    uint64_t pause = WATCH_PAUSE_MIN_NS;
    km_status rc = KM_END;

    while (rc == KM_END && now < end) {
        pause_watch(pause < end - now ? pause : end - now);
        if (pause < WATCH_PAUSE_MAX_NS)
            pause = pause * 2 < WATCH_PAUSE_MAX_NS ? pause * 2 : WATCH_PAUSE_MAX_NS;
        rc = read_change(watch, out);
        now = os->ops->now_ns(os);
    }
    return rc == KM_END ? KM_TIMED_OUT : rc;
}

km_status km_watch_next(km_watch *watch, uint32_t timeout_ms, km_change *out_change)
{
    km_status rc;

    if (km__store_is_forked(watch->store))
        return KM_E_FORKED;
    rc = read_change(watch, out_change);
    if (rc != KM_END)
        return rc;
    if (timeout_ms == 0)
        return KM_TIMED_OUT;
    if (km__epoch_ongoing())
        return KM_WOULD_BLOCK; /* what it waits for could wait for this section */
    return wait_change(watch, timeout_ms, out_change);
}

/* ---- descriptors ------------------------------------------------------------------------- */

static void notify_watches(struct km_store *store)
{
    struct watch_notifier *notifier = &store->watch_notifier;

    km__mutex_lock(&notifier->lock);
    for (struct km_watch *watch = notifier->first; watch; watch = watch->next) {
        uint64_t complete = km__log_complete(store->log);

        if (complete > watch->notified)
            store->os->ops->notify_fd(store->os, watch->fd);
        watch->notified = complete;
    }
    km__mutex_unlock(&notifier->lock);
}

static void run_notifier(void *context)
{
    struct km_store *store = context;
    struct watch_notifier *notifier = &store->watch_notifier;

    for (;;) { /* ends with stop_notifier_locked() */
        uint32_t ticket = km__eventcount_prepare(&notifier->event);

        /* acquire: pairs with stop_notifier_locked() */
        if (atomic_load_explicit(&notifier->stopping, memory_order_acquire)) {
            km__eventcount_cancel(&notifier->event);
            return;
        }
        km__eventcount_wait(&notifier->event, ticket, WATCH_NOTIFY_NS);
        notify_watches(store);
    }
}

/* Under control_lock. */
static km_status start_notifier_locked(struct km_store *store)
{
    struct watch_notifier *notifier = &store->watch_notifier;
    km_status rc;

    if (notifier->has_thread)
        return KM_OK;
    atomic_store_explicit(&notifier->stopping, 0, memory_order_relaxed); /* no thread is there */
    rc = km__thread_start(&notifier->thread, "km-watch", run_notifier, store);
    notifier->has_thread = rc == KM_OK;
    return rc;
}

/* Under control_lock, which the thread never takes. */
static void stop_notifier_locked(struct watch_notifier *notifier)
{
    if (!notifier->has_thread)
        return;
    /* release: pairs with run_notifier() */
    atomic_store_explicit(&notifier->stopping, 1, memory_order_release);
    km__eventcount_notify(&notifier->event);
    km__thread_join(&notifier->thread);
    notifier->has_thread = 0;
}

static void enlist_watch(struct watch_notifier *notifier, struct km_watch *watch)
{
    km__mutex_lock(&notifier->lock);
    watch->notified = watch->position; /* what is there already is told of as well */
    watch->next = notifier->first;
    notifier->first = watch;
    km__mutex_unlock(&notifier->lock);
}

/* Returns whether it was the last one. */
static int delist_watch(struct watch_notifier *notifier, struct km_watch *watch)
{
    struct km_watch **link = &notifier->first;
    int is_empty;

    km__mutex_lock(&notifier->lock);
    while (*link != watch)
        link = &(*link)->next; /* ends: it is there */
    *link = watch->next;
    is_empty = notifier->first == NULL;
    km__mutex_unlock(&notifier->lock);
    return is_empty;
}

km_status km_watch_fd(km_watch *watch, int *out_fd)
{
    struct km_store *store = watch->store;
    struct watch_notifier *notifier = &store->watch_notifier;
    km_status rc = KM_OK;

    if (km__store_is_forked(store))
        return KM_E_FORKED;
    if (watch->fd < 0) {
        int fd;

        rc = store->os->ops->open_notify_fd(store->os, &fd);
        if (rc)
            return rc;
        km__mutex_lock(&notifier->control_lock);
        rc = start_notifier_locked(store);
        if (!rc) {
            watch->fd = fd;
            enlist_watch(notifier, watch);
        } else {
            store->os->ops->close_notify_fd(store->os, fd);
        }
        km__mutex_unlock(&notifier->control_lock);
    }
    if (!rc)
        *out_fd = watch->fd;
    return rc;
}

/* In a child of fork() the thread is not there, and the locks may be anyone's. */
static void give_up_fd(struct km_watch *watch)
{
    struct km_store *store = watch->store;
    struct watch_notifier *notifier = &store->watch_notifier;

    if (!km__store_is_forked(store)) {
        km__mutex_lock(&notifier->control_lock);
        if (delist_watch(notifier, watch))
            stop_notifier_locked(notifier);
        km__mutex_unlock(&notifier->control_lock);
    }
    store->os->ops->close_notify_fd(store->os, watch->fd);
}

void km_watch_close(km_watch *watch)
{
    if (!watch)
        return;
    if (watch->fd >= 0)
        give_up_fd(watch);
    release_watch(watch);
}

/* ---- of the store ------------------------------------------------------------------------ */

void km__watches_init(struct km_store *store)
{
    struct watch_notifier *notifier = &store->watch_notifier;

    km__mutex_init(&notifier->control_lock);
    km__mutex_init(&notifier->lock);
    km__eventcount_init(&notifier->event);
}

void km__watches_stop(struct km_store *store)
{
    struct watch_notifier *notifier = &store->watch_notifier;

    km__mutex_lock(&notifier->control_lock);
    stop_notifier_locked(notifier);
    km__mutex_unlock(&notifier->control_lock);
}

void km__watches_fini(struct km_store *store)
{
    km__mutex_fini(&store->watch_notifier.control_lock);
    km__mutex_fini(&store->watch_notifier.lock);
}
