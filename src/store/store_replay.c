/* SPDX-License-Identifier: Apache-2.0
 *
 * store_replay.c -- from the log to the indexes, at open.
 *
 * In rounds: several threads verify a segment each and sort its records by worker, a worker owning
 * every n-th partition of every map; then each worker applies what is its own, in log order. So the
 * order of records of a key is kept without a lock, and a clear or drop, which every worker sees in
 * its place, needs no barrier. Maps are created, in log order, before a round's records are
 * applied.
 *
 * I1. A segment is applied only when the end of the log cannot lie before its own end: below the
 *     durable point, or after km__log_find_end().
 */
#include "store/store_internal.h"

#include "sync/thread.h"

#define REPLAY_THREADS_MAX 8u
#define REPLAY_GROUP 16u
#define REPLAY_SMALL_BYTES (UINT64_C(4) << 20) /* less than this is not worth threads */

struct replay_entry {
    uint64_t hash;
    uint64_t position;
    uint16_t map;
    uint8_t kind;
    uint8_t has_expiry;
    uint32_t units; /* size / 8 */
};

struct replay_list {
    struct replay_entry *entries;
    size_t count, capacity;
};

/* What the scan of one segment found. */
struct replay_segment {
    struct replay *replay;
    struct replay_list
        lists[REPLAY_THREADS_MAX + 1]; /* by worker; the last: maps created and dropped */
    uint32_t index;
    uint32_t number;
    uint64_t record_count;
    km_status status;
};

/* Lists by worker, then the events. */
#define REPLAY_LISTS (REPLAY_THREADS_MAX + 1)

/* Memory of lists that were applied, for the next round. */
struct spare_lists {
    struct replay_list lists[REPLAY_LISTS];
    int is_there;
};

struct replay {
    struct km_store *store;
    km_error *error;
    uint32_t worker_count;
    uint32_t segment_count;
    struct replay_segment *segments; /* of the chain */
    _Atomic uint32_t next_scan;      /* [a] the next segment to be scanned in this round */
    uint32_t scan_end;
    struct spare_lists spare[REPLAY_THREADS_MAX];
    uint32_t apply_begin, apply_end; /* segments to be applied in this round */
    uint64_t done_bytes, total_bytes;
    _Atomic uint64_t failed_position; /* [a] */
};

struct replay_worker {
    struct replay *replay;
    uint32_t number;
    km_status status;
    struct thread thread;
    uint64_t refs[HASH_NODE_LINES_MAX * HASH_LINE_SLOTS]; /* of one node */
};

static struct replay_list *events_of(struct replay_segment *segment)
{
    return &segment->lists[REPLAY_THREADS_MAX];
}

/* ---- scanning ---------------------------------------------------------------------------- */

static km_status add_entry(struct replay *replay, struct replay_list *list,
                           const struct replay_entry *entry)
{
    const struct allocator *allocator = replay->store->allocator;

    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 256;
        struct replay_entry *entries = km__allocate(allocator, capacity * sizeof(*entries));

        if (!entries)
            return KM_E_NO_MEMORY;
        if (list->count)
            memcpy(entries, list->entries, list->count * sizeof(*entries));
        km__release(allocator, list->entries, list->capacity * sizeof(*entries));
        list->entries = entries;
        list->capacity = capacity;
    }
    list->entries[list->count++] = *entry;
    return KM_OK;
}

static km_status add_to_all(struct replay *replay, struct replay_segment *segment,
                            const struct replay_entry *entry)
{
    km_status rc = add_entry(replay, events_of(segment), entry);

    for (uint32_t i = 0; !rc && i < replay->worker_count; i++)
        rc = add_entry(replay, &segment->lists[i], entry);
    return rc;
}

static km_status visit_record(void *context, const struct record *record, const uint8_t *bytes,
                              uint64_t position)
{
    struct replay_segment *segment = context;
    struct replay *replay = segment->replay;
    uint64_t size = km__record_size(record->flags, record->value_size, record->key_size);
    struct replay_entry entry = {0,
                                 position,
                                 record->map,
                                 record->kind,
                                 (record->flags & RECORD_HAS_EXPIRY) != 0,
                                 (uint32_t)(size / 8)};

    segment->record_count++;
    switch (record->kind) {
    case RECORD_PUT:
    case RECORD_DELETE:
        entry.hash = km__hash_key(&replay->store->secret,
                                  bytes + km__record_payload_offset(record->flags) +
                                      record->value_size,
                                  record->key_size);
        return add_entry(
            replay, &segment->lists[km__hash_partition(entry.hash) % replay->worker_count], &entry);
    case RECORD_MAP_CREATED: return add_entry(replay, events_of(segment), &entry);
    case RECORD_MAP_DROPPED:
    case RECORD_MAP_CLEARED:
    case RECORD_RANGE_DELETED: return add_to_all(replay, segment, &entry);
    default: return KM_OK; /* marks and padding are the log's own */
    }
}

static void scan_share(struct replay *replay)
{
    for (;;) { /* ends with the round's segments */
        uint32_t i = atomic_fetch_add_explicit(&replay->next_scan, 1, memory_order_relaxed);
        struct replay_segment *segment;

        if (i >= replay->scan_end)
            return;
        segment = &replay->segments[i];
        segment->status = km__log_scan(replay->store->log, i, visit_record, segment);
    }
}

/* ---- applying ---------------------------------------------------------------------------- */

/* The keys of one partition lose their places in the order. */
static km_status leave_order(struct replay_worker *worker, km_map *map, uint32_t partition)
{
    struct km_store *store = map->store;
    struct hash_walk walk = {.partition = partition};
    struct log_record record;
    size_t count = 0;
    int is_end = 0;
    km_status rc = KM_OK;

    if (km__hash_partition_count(map->index, partition) == 0)
        return KM_OK;
    while (!rc && walk.partition == partition) { /* ends: the walk moves on */
        rc = km__hash_walk_next(map->index, &walk, worker->refs, &count, &is_end);
        for (size_t i = 0; !rc && i < count; i++) {
            rc = km__record_of(store, worker->refs[i], &record);
            if (!rc)
                km__order_clear(map->order, km__ordinal_of(&record));
        }
    }
    return rc;
}

/* What a worker does of a clear or drop: the keys of its partitions go. Other workers may not have
 * come to it yet, or be beyond. */
static km_status clear_share(struct replay_worker *worker, km_map *map)
{
    static const struct key_range everything;
    const struct replay *replay = worker->replay;
    uint64_t count;
    km_status rc = KM_OK;

    if (map->tree)
        return km__remove_range(map, &everything, worker->number, replay->worker_count, &count);
    for (uint32_t i = worker->number; !rc && i < HASH_PARTITION_COUNT; i += replay->worker_count) {
        if (map->order)
            rc = leave_order(worker, map, i);
        if (!rc)
            km__hash_clear_partition(map->index, i);
    }
    if (rc == KM_E_CORRUPT && replay->store->image.mapping)
        km__note_image_damage(replay->store);
    return rc;
}

static km_status remove_share(struct replay_worker *worker, km_map *map, uint64_t position)
{
    struct log_record record;
    struct key_range range;
    uint64_t count;

    KM_ASSERT(km__log_record_at(map->store->view, km__log_ref(position), &record));
    if (!map->tree || km__range_of_record(&record, &range))
        return KM_E_CORRUPT;
    return km__remove_range(map, &range, worker->number, worker->replay->worker_count, &count);
}

static km_status apply_data(struct replay *replay, km_map *map, const struct replay_entry *entry)
{
    struct logged logged = {map, entry->hash, km__log_ref(entry->position),
                            (uint64_t)entry->units * 8, entry->kind};
    km_status rc = km__hash_load(map->index, entry->hash);

    if (rc == KM_E_CORRUPT)
        km__note_image_damage(replay->store); /* the open begins anew, without the image */
    if (!rc && entry->has_expiry)
        km__note_expiry(map);
    return rc ? rc : km__apply_record(&logged);
}

/* A map that is not known though a record is of it: it was dropped, and neither MAPS nor the log
 * before the record tells of it any more; else it was never created. */
static km_status without_map(const struct km_store *store, uint16_t id)
{
    return id < store->catalogue_ids ? KM_OK : KM_E_CORRUPT;
}

static km_status apply_entry(struct replay_worker *worker, const struct replay_entry *entry)
{
    struct replay *replay = worker->replay;
    km_map *map = replay->store->by_id[entry->map];
    km_status rc = KM_OK;

    if (!map)
        rc = without_map(replay->store, entry->map);
    else if (entry->kind == RECORD_MAP_DROPPED || entry->kind == RECORD_MAP_CLEARED)
        rc = clear_share(worker, map);
    else if (entry->kind == RECORD_RANGE_DELETED)
        rc = remove_share(worker, map, entry->position);
    else
        rc = apply_data(replay, map, entry);
    if (rc)
        atomic_store_explicit(&replay->failed_position, entry->position, memory_order_relaxed);
    return rc;
}

static void prefetch_entries(struct replay *replay, const struct replay_entry *entries,
                             size_t count)
{
    struct km_store *store = replay->store;
    struct hash_probe probe;

    for (size_t i = 0; i < count; i++) {
        const km_map *map = store->by_id[entries[i].map];
        if (map)
            km__hash_prefetch(map->index, entries[i].hash);
        if (map && (map->tree || map->order))
            km__log_prefetch(store->view, km__log_ref(entries[i].position));
    }
    for (size_t i = 0; i < count; i++) {
        const km_map *map = store->by_id[entries[i].map];
        uint64_t ref = map ? km__hash_first(map->index, entries[i].hash, &probe) : 0;

        if (ref) {
            km__log_prefetch(store->view, ref);
            km__log_prefetch(store->view, km__log_ref(entries[i].position));
        }
    }
}

static km_status apply_list(struct replay_worker *worker, const struct replay_list *list)
{
    km_status rc = KM_OK;

    for (size_t i = 0; !rc && i < list->count; i += REPLAY_GROUP) {
        size_t count = list->count - i < REPLAY_GROUP ? list->count - i : REPLAY_GROUP;

        prefetch_entries(worker->replay, list->entries + i, count);
        for (size_t j = 0; !rc && j < count; j++)
            rc = apply_entry(worker, &list->entries[i + j]);
    }
    return rc;
}

static km_status apply_share(struct replay_worker *worker)
{
    const struct replay *replay = worker->replay;
    km_status rc = KM_OK;

    km__epoch_enter(); /* the index asks for it; nobody else is there yet */
    for (uint32_t i = replay->apply_begin; !rc && i < replay->apply_end; i++)
        rc = apply_list(worker, &replay->segments[i].lists[worker->number]);
    km__epoch_leave();
    return rc;
}

/* ---- maps -------------------------------------------------------------------------------- */

static km_status apply_event(struct replay *replay, const struct replay_entry *entry)
{
    struct km_store *store = replay->store;
    struct log_record record;
    km_map *map = store->by_id[entry->map];

    KM_ASSERT(km__log_record_at(store->view, km__log_ref(entry->position), &record));
    if (entry->kind == RECORD_MAP_CREATED) {
        struct map_birth birth = {entry->map, KM_HASH, km_bytes_of(record.key, record.key_size),
                                  entry->position};

        if (record.value_size != 1)
            return KM_E_CORRUPT;
        birth.kind = (km_map_kind)record.value[0];
        return km__maps_add(store, &birth, &map);
    }
    if (!map)
        return without_map(store, entry->map);
    if (atomic_load_explicit(&map->dropped, memory_order_relaxed))
        return KM_E_CORRUPT;
    if (entry->kind == RECORD_MAP_DROPPED) {
        atomic_store_explicit(&map->dropped, 1, memory_order_relaxed); /* alone here */
        map->dropped_position = entry->position;
        km__maps_remove_name(map);
    }
    return KM_OK;
}

static km_status apply_events(struct replay *replay)
{
    for (uint32_t i = replay->apply_begin; i < replay->apply_end; i++) {
        const struct replay_list *events = events_of(&replay->segments[i]);

        for (size_t j = 0; j < events->count; j++) {
            km_status rc = apply_event(replay, &events->entries[j]);

            if (rc) {
                atomic_store_explicit(&replay->failed_position, events->entries[j].position,
                                      memory_order_relaxed);
                return rc;
            }
        }
    }
    return KM_OK;
}

/* ---- rounds ------------------------------------------------------------------------------ */

static void run_scan(void *context)
{
    struct replay_worker *worker = context;

    scan_share(worker->replay);
    worker->status = KM_OK;
}

static void run_apply(void *context)
{
    struct replay_worker *worker = context;

    worker->status = apply_share(worker);
}

/* Run one step on every worker; the first is this thread. */
static km_status run_workers(struct replay *replay, void (*run)(void *context))
{
    struct replay_worker workers[REPLAY_THREADS_MAX];
    km_status rc = KM_OK, status;
    uint32_t started = 1;

    for (uint32_t i = 0; i < replay->worker_count; i++) {
        workers[i].replay = replay;
        workers[i].number = i;
    }
    while (started < replay->worker_count &&
           !km__thread_start(&workers[started].thread, "km-replay", run, &workers[started]))
        started++;
    run(&workers[0]);
    for (uint32_t i = started; i < replay->worker_count; i++)
        run(&workers[i]); /* no thread to be had: its share is done here */
    for (uint32_t i = 0; i < replay->worker_count; i++) {
        if (i && i < started)
            km__thread_join(&workers[i].thread);
        status = workers[i].status;
        if (status && !rc)
            rc = status;
    }
    return rc;
}

static void release_lists(struct replay *replay, struct replay_list lists[REPLAY_LISTS])
{
    const struct allocator *allocator = replay->store->allocator;

    for (uint32_t i = 0; i < REPLAY_LISTS; i++) {
        km__release(allocator, lists[i].entries, lists[i].capacity * sizeof(struct replay_entry));
        memset(&lists[i], 0, sizeof(lists[i]));
    }
}

/* Keep the memory of applied lists for the next round: fresh pages cost more than the replay. */
static void recycle_lists(struct replay *replay, struct replay_segment *segment)
{
    for (uint32_t i = 0; i < replay->worker_count; i++) {
        if (replay->spare[i].is_there)
            continue;
        replay->spare[i].is_there = 1;
        for (uint32_t j = 0; j < REPLAY_LISTS; j++) {
            replay->spare[i].lists[j] = segment->lists[j];
            replay->spare[i].lists[j].count = 0;
        }
        memset(segment->lists, 0, sizeof(segment->lists));
        return;
    }
    release_lists(replay, segment->lists);
}

static void adopt_lists(struct replay *replay, uint32_t begin)
{
    for (uint32_t i = begin; i < replay->scan_end; i++) {
        struct spare_lists *spare = &replay->spare[i - begin];

        memcpy(replay->segments[i].lists, spare->lists, sizeof(spare->lists));
        memset(spare, 0, sizeof(*spare));
    }
}

static km_status scan_round(struct replay *replay, uint32_t begin)
{
    km_status rc;

    replay->scan_end = begin + replay->worker_count;
    if (replay->scan_end > replay->segment_count)
        replay->scan_end = replay->segment_count;
    adopt_lists(replay, begin);
    atomic_store_explicit(&replay->next_scan, begin, memory_order_relaxed);
    rc = run_workers(replay, run_scan);
    for (uint32_t i = begin; !rc && i < replay->scan_end; i++) {
        rc = replay->segments[i].status;
        replay->done_bytes += km__log_chain_bytes(replay->store->log, i);
    }
    return rc;
}

/* Apply the scanned segments up to, not including, `end`. */
static km_status apply_until(struct replay *replay, uint32_t end)
{
    km_status rc;

    replay->apply_end = end;
    if (replay->apply_begin >= end)
        return KM_OK;
    rc = apply_events(replay);
    if (!rc)
        rc = run_workers(replay, run_apply);
    for (uint32_t i = replay->apply_begin; i < end; i++) {
        replay->store->recovered_records += replay->segments[i].record_count;
        recycle_lists(replay, &replay->segments[i]);
    }
    replay->apply_begin = end;
    return rc;
}

static uint32_t certain_end(const struct replay *replay)
{
    uint32_t certain = km__log_certain_number(replay->store->log);
    uint32_t end = replay->apply_begin;

    while (end < replay->scan_end && replay->segments[end].number < certain &&
           km__log_chain_is_whole(replay->store->log, end))
        end++;
    return end;
}

static int is_stopped(const struct replay *replay)
{
    const km_options *options = &replay->store->options;

    return options->progress &&
           options->progress(options->progress_context, replay->done_bytes, replay->total_bytes);
}

static km_status replay_rounds(struct replay *replay)
{
    km_status rc = KM_OK;

    for (uint32_t begin = replay->apply_begin; !rc && begin < replay->segment_count;
         begin = replay->scan_end) {
        rc = scan_round(replay, begin);
        if (!rc)
            rc = apply_until(replay, certain_end(replay)); /* I1 */
        if (!rc && is_stopped(replay))
            rc = km__fail(replay->error, KM_STOPPED, NULL, 0, 0,
                          "stopped by the progress callback");
    }
    return rc;
}

/* ---- the end ----------------------------------------------------------------------------- */

/* Records that the ring had: they belong to the lists of their segment. */
static km_status visit_late(void *context, const struct record *record, const uint8_t *bytes,
                            uint64_t position)
{
    struct replay *replay = context;

    for (uint32_t i = replay->apply_begin; i < replay->segment_count; i++) {
        if (replay->segments[i].number == km__position_number(position))
            return visit_record(&replay->segments[i], record, bytes, position);
    }
    return KM_OK; /* it lies in a segment that is applied: damage there, which the log judges */
}

/* How many segments of the chain hold the log. */
static uint32_t segments_until(const struct replay *replay, uint64_t end)
{
    uint32_t count = replay->apply_begin;

    while (count < replay->segment_count &&
           replay->segments[count].number <= km__position_number(end))
        count++;
    return count;
}

static km_status replay_all(struct replay *replay)
{
    struct km_store *store = replay->store;
    uint64_t end = 0;
    km_status rc = replay_rounds(replay);

    if (rc)
        return rc;
    rc = km__log_find_end(store->log, visit_late, replay, &end, &store->torn_bytes, replay->error);
    if (rc)
        return rc;
    return apply_until(replay, segments_until(replay, end));
}

static km_status explain(struct replay *replay, km_status rc)
{
    uint64_t position = atomic_load_explicit(&replay->failed_position, memory_order_relaxed);
    char name[SEGMENT_NAME_SIZE];

    if (!position)
        return rc;
    km__segment_name(km__position_number(position), name);
    return km__fail(replay->error, rc, name, km__position_offset(position), 0,
                    "a record cannot be applied (%s)", km_status_name(rc));
}

static km_status init_segments(struct replay *replay)
{
    struct log *log = replay->store->log;

    replay->segment_count = km__log_chain_count(log);
    replay->segments = km__allocate(replay->store->allocator,
                                    replay->segment_count * sizeof(*replay->segments));
    if (!replay->segments)
        return KM_E_NO_MEMORY;
    for (uint32_t i = 0; i < replay->segment_count; i++) {
        replay->segments[i].replay = replay;
        replay->segments[i].index = i;
        replay->segments[i].number = km__log_chain_number(log, i);
        if (i >= replay->apply_begin)
            replay->total_bytes += km__log_chain_bytes(log, i);
    }
    return KM_OK;
}

static uint32_t choose_workers(const struct replay *replay)
{
    uint32_t wanted = replay->store->options.replay_threads;

    if (!wanted)
        wanted = replay->total_bytes < REPLAY_SMALL_BYTES
                     ? 1
                     : replay->store->os->ops->processor_count(replay->store->os);
    if (wanted > REPLAY_THREADS_MAX)
        wanted = REPLAY_THREADS_MAX;
    return wanted ? wanted : 1;
}

/* What the records that are not replayed have come to. */
static km_status begin_with(struct replay *replay, uint64_t head)
{
    struct km_store *store = replay->store;
    km_status rc = km__image_load(store, head, &replay->apply_begin);

    if (!rc && !store->image.mapping)
        rc = km__catalogue_load(store, head, replay->error);
    return rc;
}

km_status km__replay(struct km_store *store, uint64_t head, km_error *error)
{
    struct replay replay = {.store = store, .error = error};
    uint64_t begin_ns = store->os->ops->now_ns(store->os);
    km_status rc = begin_with(&replay, head);

    if (rc)
        return rc;
    rc = init_segments(&replay);

    if (rc)
        return km__fail(error, rc, NULL, 0, 0, "no memory for replay");
    replay.worker_count = choose_workers(&replay);
    rc = replay_all(&replay);
    if (rc)
        rc = explain(&replay, rc);
    for (uint32_t i = 0; i < replay.segment_count; i++)
        release_lists(&replay, replay.segments[i].lists);
    for (uint32_t i = 0; i < REPLAY_THREADS_MAX; i++)
        release_lists(&replay, replay.spare[i].lists);
    km__release(store->allocator, replay.segments, replay.segment_count * sizeof(*replay.segments));
    km__tidy_orders(store);
    store->recovered_ns = store->os->ops->now_ns(store->os) - begin_ns;
    return rc;
}
