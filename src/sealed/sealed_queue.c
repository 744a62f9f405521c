/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_queue.c -- asynchronous gets: requests become reads of an engine, and these become
 * results.
 *
 * I1. A request is in one place: `free`; `hungry`, when it has reads to begin; in none, while all
 *     it has are under way; `ready`, when its result is there; or `handed`, until the next poll.
 * I2. Every read that is under way has a slot, of which there are reads_max. A buffer that the
 *     engine was given is neither moved nor released until its read has ended.
 * I3. The descriptor is readable while something is ready, or a read has ended that was not taken:
 *     the engine notifies it of reads, the queue of what it leaves in `ready`.
 * I4. Requests that have reads to begin take turns, one read each.
 * I5. A result is made once, and handed out once.
 *
 * One read serves a get, as in sealed_reader.c; those of a get_many are as in sealed_many.c.
 */
#include <string.h>

#include "base/buffer.h"
#include "sealed/sealed_queue_internal.h"

#define SEALED_QUEUE_REQUESTS 256u
#define SEALED_QUEUE_READS 64u
#define SEALED_QUEUE_THREADS 16u
#define SEALED_QUEUE_KEPT                                                                          \
    ((size_t)64 << 10)        /* a larger buffer is not kept for the next request                  \
                               */
#define SEALED_QUEUE_ROUNDS 4 /* of taking reads, for a poll */
#define SEALED_QUEUE_WAIT_NS UINT64_C(1000000000) /* at most, then it looks again */

struct sealed_request {
    struct sealed_request *next;     /* in its list */
    struct sealed_request *next_all; /* of the queue */
    const km_sealed *table;
    km_sealed_done_fn done;
    km_sealed_result result;
    km_buffer keys; /* the key, or an array of keys with their bytes behind it */
    km_buffer read; /* the block of a get */
    km_buffer plain;
    struct sealed_place place; /* of a get */
    int is_hungry;             /* it is in that list */
    int is_many;
    /* of a get_many: */
    struct sealed_many many;
    km_buffer memory;
    km_bytes *values;
    size_t next_ref; /* where the next read begins */
    size_t under_way;
};

struct sealed_list {
    struct sealed_request *first;
    struct sealed_request *last;
};

/* A read, for whom it is, and which references it serves. */
struct sealed_slot {
    struct os_read read; /* first: the engine returns its address */
    struct sealed_slot *next;
    struct sealed_request *request;
    km_buffer buffer; /* for a get_many */
    size_t start;
    size_t count;
};

struct km_sealed_queue {
    struct os *os;
    uint32_t process_id; /* that opened it */
    int fd;
    int is_notified; /* by us, since the descriptor was last cleared */
    struct sealed_reads *reads;
    size_t requests_max;
    size_t reads_max;
    size_t pending;
    size_t under_way;
    struct sealed_request *all;
    struct sealed_list free;
    struct sealed_list hungry;
    struct sealed_list ready;
    struct sealed_list handed;
    struct sealed_slot *slots; /* reads_max */
    struct sealed_slot *free_slot;
    struct os_read **batch; /* reads_max: to begin, or ended */
};

/* ---- requests ---------------------------------------------------------------------------- */

static void sealed_list_put(struct sealed_list *list, struct sealed_request *request)
{
    request->next = NULL;
    if (list->last)
        list->last->next = request;
    else
        list->first = request;
    list->last = request;
}

static struct sealed_request *sealed_list_take(struct sealed_list *list)
{
    struct sealed_request *request = list->first;

    if (request) {
        list->first = request->next;
        if (!list->first)
            list->last = NULL;
    }
    return request;
}

static struct sealed_request *sealed_request_take(km_sealed_queue *queue, const km_sealed *table,
                                                  km_sealed_done_fn done, void *user)
{
    struct sealed_request *request = sealed_list_take(&queue->free);

    if (!request) {
        request = km__allocate(&queue->os->allocator, sizeof(*request));
        if (!request)
            return NULL;
        request->next_all = queue->all;
        queue->all = request;
    }
    request->table = table;
    request->done = done;
    request->result = (km_sealed_result){.user = user, .count = 1};
    request->is_many = 0;
    request->is_hungry = 0;
    return request;
}

static void sealed_request_trim(km_buffer *buffer, size_t kept)
{
    if (buffer->capacity > kept)
        km_buffer_free(buffer);
}

/* Release what a request holds, but for buffers of up to `kept` bytes. */
static void sealed_request_clear(km_sealed_queue *queue, struct sealed_request *request,
                                 size_t kept)
{
    const struct allocator *allocator = &queue->os->allocator;

    sealed_request_trim(&request->keys, kept);
    sealed_request_trim(&request->read, kept);
    sealed_request_trim(&request->plain, kept);
    sealed_request_trim(&request->memory, kept);
    if (!request->is_many)
        return;
    if (request->many.table)
        km__sealed_many_fini(&request->many);
    km__release(allocator, request->values, request->result.count * sizeof(*request->values));
    request->values = NULL;
    request->is_many = 0;
}

static void sealed_request_give_back(km_sealed_queue *queue, struct sealed_request *request)
{
    sealed_request_clear(queue, request, SEALED_QUEUE_KEPT);
    sealed_list_put(&queue->free, request);
}

static void sealed_queue_notify(km_sealed_queue *queue)
{
    if (queue->is_notified)
        return;
    queue->is_notified = 1;
    queue->os->ops->notify_fd(queue->os, queue->fd);
}

static void sealed_request_complete(km_sealed_queue *queue, struct sealed_request *request,
                                    km_status status)
{
    request->result.status = status;
    sealed_list_put(&queue->ready, request);
}

/* It has reads to begin. */
static void sealed_request_queue_up(km_sealed_queue *queue, struct sealed_request *request)
{
    request->is_hungry = 1;
    sealed_list_put(&queue->hungry, request);
}

/* ---- results ----------------------------------------------------------------------------- */

static km_status sealed_answer_get(struct sealed_request *request)
{
    km_bytes key = km_bytes_of(request->keys.data, request->keys.size);
    struct sealed_block block;
    uint32_t index = 0;
    km_status rc = km__sealed_decode_place(request->table, &request->place, request->read.data,
                                           &request->plain, &block);

    if (!rc && request->table->cache)
        km__sealed_cache_add(request->table->cache, request->place.offset, &block);
    if (!rc)
        rc = km__sealed_block_find(&block, key, &index);
    if (!rc)
        rc = km__sealed_block_checked_value(&block, index, &request->result.value);
    if (!rc)
        request->result.found = 1;
    return rc;
}

/* The value is copied: results outlive the table. */
static km_status sealed_answer_from(struct sealed_request *request,
                                    const struct sealed_block *block, km_bytes key)
{
    km_bytes value = {NULL, 0};
    uint32_t index = 0;
    km_status rc = km__sealed_block_find(block, key, &index);

    if (!rc)
        rc = km__sealed_block_value(block, index, &value);
    if (!rc)
        rc = km__buffer_reserve(&request->read, value.size + 1);
    if (rc)
        return rc;
    if (value.size)
        memcpy(request->read.data, value.data, value.size);
    request->result.value = km_bytes_of(request->read.data, value.size);
    request->result.found = 1;
    return KM_OK;
}

/* Whether the table's own cache has the answer. */
static int sealed_answer_cached(km_sealed_queue *queue, struct sealed_request *request,
                                km_bytes key)
{
    struct sealed_cached *cached = NULL;
    const struct sealed_block *block = NULL;

    if (request->table->cache)
        block = km__sealed_cache_find(request->table->cache, request->place.offset, &cached);
    if (!block)
        return 0;
    sealed_request_complete(queue, request, sealed_answer_from(request, block, key));
    km__sealed_cache_release(cached);
    return 1;
}

static void sealed_finish_many(km_sealed_queue *queue, struct sealed_request *request)
{
    if (!request->result.status) {
        km__sealed_many_point(&request->memory, request->values, request->result.count);
        request->result.values = request->values;
        request->result.found = request->many.found_count;
    }
    km__sealed_many_fini(&request->many);
    request->many.table = NULL; /* it may be closed before the result is released */
    sealed_request_complete(queue, request, request->result.status);
}

/* Whether nothing is left to be read: after an error nothing more is begun. */
static int sealed_many_is_read(const struct sealed_request *request)
{
    return request->result.status || request->next_ref == request->many.ref_count;
}

static void sealed_end_many(km_sealed_queue *queue, struct sealed_slot *slot)
{
    struct sealed_request *request = slot->request;
    km_status rc = slot->read.status;

    request->under_way--;
    if (!rc && !request->result.status)
        rc = km__sealed_many_answer(&request->many, slot->start, slot->count, slot->read.buffer);
    if (rc && !request->result.status)
        request->result.status = rc;
    sealed_request_trim(&slot->buffer, SEALED_QUEUE_KEPT);
    if (!request->is_hungry && request->under_way == 0) /* else its next turn finishes it */
        sealed_finish_many(queue, request);
}

static void sealed_end_read(km_sealed_queue *queue, struct os_read *read)
{
    struct sealed_slot *slot = (struct sealed_slot *)read;
    struct sealed_request *request = slot->request;

    if (request->is_many)
        sealed_end_many(queue, slot);
    else
        sealed_request_complete(queue, request,
                                read->status ? read->status : sealed_answer_get(request));
    slot->next = queue->free_slot;
    queue->free_slot = slot;
    queue->under_way--;
}

/* ---- reads ------------------------------------------------------------------------------- */

static void sealed_set_read(struct sealed_slot *slot, uint64_t offset, uint8_t *buffer, size_t size)
{
    slot->read = (struct os_read){
        .file = slot->request->table->file, .offset = offset, .buffer = buffer, .size = size};
}

/* Prepare the next read of a get_many; the references that it serves are taken. */
static km_status sealed_prepare_many(struct sealed_request *request, struct sealed_slot *slot)
{
    uint64_t offset = 0, size = 0;
    km_status rc;

    slot->start = request->next_ref;
    slot->count = km__sealed_many_run(&request->many, slot->start, &offset, &size);
    request->next_ref += slot->count;
    if (size > SIZE_MAX / 4)
        return KM_E_NO_MEMORY;
    rc = km__buffer_reserve(&slot->buffer, (size_t)size);
    if (rc)
        return rc;
    sealed_set_read(slot, offset, slot->buffer.data, (size_t)size);
    request->under_way++;
    return KM_OK;
}

/* The next read of a hungry request, which goes to the end of that list or leaves it. Returns
 * whether there is a read in the slot. */
static int sealed_prepare_read(km_sealed_queue *queue, struct sealed_request *request,
                               struct sealed_slot *slot)
{
    int has_read = 0;

    request->is_hungry = 0;
    slot->request = request;
    if (!request->is_many) {
        sealed_set_read(slot, request->place.offset, request->read.data,
                        (size_t)request->place.size);
        return 1;
    }
    if (!sealed_many_is_read(request)) {
        request->result.status = sealed_prepare_many(request, slot);
        has_read = !request->result.status;
    }
    if (!sealed_many_is_read(request))
        sealed_request_queue_up(queue, request);
    else if (request->under_way == 0)
        sealed_finish_many(queue, request);
    return has_read;
}

/* Begin as many reads as there are slots for. I4 */
static void sealed_queue_begin(km_sealed_queue *queue)
{
    size_t count = 0;

    while (queue->free_slot && queue->hungry.first) {
        struct sealed_slot *slot = queue->free_slot;
        if (!sealed_prepare_read(queue, sealed_list_take(&queue->hungry), slot))
            continue;
        queue->free_slot = slot->next;
        queue->batch[count++] = &slot->read;
    }
    queue->under_way += count;
    if (count > 0)
        queue->reads->ops->begin(queue->reads, queue->batch, count);
}

/* Take the reads that have ended, and begin others. Returns how many it took. */
static size_t sealed_queue_end(km_sealed_queue *queue, uint64_t wait_ns)
{
    size_t count = queue->reads->ops->end(queue->reads, queue->batch, queue->reads_max, wait_ns);

    for (size_t i = 0; i < count; i++)
        sealed_end_read(queue, queue->batch[i]);
    sealed_queue_begin(queue);
    return count;
}

/* ---- submitting -------------------------------------------------------------------------- */

static int sealed_queue_is_foreign(const km_sealed_queue *queue)
{
    return queue->os->ops->process_id(queue->os) != queue->process_id;
}

static km_status sealed_queue_check(const km_sealed_queue *queue)
{
    if (sealed_queue_is_foreign(queue))
        return KM_E_FORKED;
    return queue->pending < queue->requests_max ? KM_OK : KM_BUSY;
}

/* It is in the queue: read for it, and say so if it is ready. */
static void sealed_queue_accept(km_sealed_queue *queue)
{
    queue->pending++;
    sealed_queue_begin(queue);
    if (queue->ready.first)
        sealed_queue_notify(queue);
}

static int sealed_get_may_have(struct sealed_request *request, km_bytes key)
{
    struct sealed_group group;
    const uint8_t *filter;
    uint32_t filter_size = 0;

    if (request->table->footer.count == 0)
        return 0;
    km__sealed_find_place(request->table, key, &group, &request->place);
    filter = km__sealed_group_filter(&group, request->place.index, &filter_size);
    return km__sealed_filter_may_have(filter, filter_size, km__sealed_hash(key.data, key.size));
}

static km_status sealed_prepare_get(km_sealed_queue *queue, struct sealed_request *request,
                                    km_bytes key)
{
    const km_sealed *table = request->table;
    km_status rc;

    if (!sealed_get_may_have(request, key)) {
        sealed_request_complete(queue, request, KM_NOT_FOUND);
        return KM_OK;
    }
    if (sealed_answer_cached(queue, request, key))
        return KM_OK;
    if (request->place.size > SIZE_MAX / 4)
        return KM_E_NO_MEMORY;
    rc = km__buffer_reserve(&request->keys, key.size + 1);
    if (!rc)
        rc = km__buffer_reserve(&request->read, (size_t)request->place.size);
    if (rc)
        return rc;
    if (key.size)
        memcpy(request->keys.data, key.data, key.size);
    request->keys.size = key.size;
    if (table->os->ops->read_cached(table->file, request->place.offset, request->read.data,
                                    (size_t)request->place.size) == KM_OK)
        sealed_request_complete(queue, request, sealed_answer_get(request));
    else
        sealed_request_queue_up(queue, request);
    return KM_OK;
}

km_status km_sealed_submit_get(km_sealed_queue *queue, const km_sealed *table, km_bytes key,
                               km_sealed_done_fn done, void *user)
{
    struct sealed_request *request;
    km_status rc = sealed_queue_check(queue);

    if (!rc)
        rc = km__sealed_check_key(table, key);
    if (rc)
        return rc;
    request = sealed_request_take(queue, table, done, user);
    if (!request)
        return KM_E_NO_MEMORY;
    rc = sealed_prepare_get(queue, request, key);
    if (rc) {
        sealed_request_give_back(queue, request);
        return rc;
    }
    sealed_queue_accept(queue);
    return KM_OK;
}

km_status km_sealed_submit_get_number(km_sealed_queue *queue, const km_sealed *table,
                                      uint64_t number, km_sealed_done_fn done, void *user)
{
    km_u64_key bytes;
    km_bytes key = {NULL, 0};
    struct sealed_request *request;
    km_status rc = km__sealed_number_key(table->footer.key_width, number, &bytes, &key);

    if (!rc)
        return km_sealed_submit_get(queue, table, key, done, user);
    if (rc != KM_NOT_FOUND)
        return sealed_queue_is_foreign(queue) ? KM_E_FORKED : rc;
    rc = sealed_queue_check(queue);
    if (rc)
        return rc;
    request = sealed_request_take(queue, table, done, user);
    if (!request)
        return KM_E_NO_MEMORY;
    sealed_request_complete(queue, request, KM_NOT_FOUND);
    sealed_queue_accept(queue);
    return KM_OK;
}

/* Copy keys: an array of them, and behind it their bytes. */
static km_status sealed_copy_keys(km_buffer *out, const km_bytes *keys, size_t count)
{
    size_t size = count * sizeof(*keys);
    km_bytes *copies;
    uint8_t *bytes;
    km_status rc;

    for (size_t i = 0; i < count; i++) {
        if (keys[i].size > SIZE_MAX / 4 - size)
            return KM_E_NO_MEMORY;
        size += keys[i].size;
    }
    rc = km__buffer_reserve(out, size + 1);
    if (rc)
        return rc;
    copies = out->data;
    bytes = (uint8_t *)out->data + count * sizeof(*keys);
    for (size_t i = 0; i < count; i++) {
        copies[i] = km_bytes_of(bytes, keys[i].size);
        if (keys[i].size)
            memcpy(bytes, keys[i].data, keys[i].size);
        bytes += keys[i].size;
    }
    out->size = size;
    return KM_OK;
}

/* Take over the keys, and look them up. */
static km_status sealed_prepare_keys(km_sealed_queue *queue, struct sealed_request *request,
                                     const km_bytes *keys, size_t count)
{
    const km_sealed *table = request->table;
    km_status rc;

    request->is_many = 1;
    request->many = (struct sealed_many){.table = table, .memory = &request->memory};
    request->memory.size = 0;
    request->next_ref = 0;
    request->under_way = 0;
    request->result.count = 0;
    if (count > SIZE_MAX / 4 / sizeof(*keys))
        return KM_E_NO_MEMORY;
    request->values = km__allocate(&queue->os->allocator, count * sizeof(*request->values));
    if (!request->values)
        return KM_E_NO_MEMORY;
    request->result.count = count;
    rc = km__sealed_many_check(table, keys, count, request->values);
    if (!rc)
        rc = sealed_copy_keys(&request->keys, keys, count);
    if (!rc && table->footer.count > 0)
        rc = km__sealed_many_init(&request->many, count);
    if (rc || table->footer.count == 0)
        return rc;
    request->many.keys = request->keys.data;
    request->many.count = count;
    request->many.out_values = request->values;
    km__sealed_many_look_up(&request->many);
    return KM_OK;
}

km_status km_sealed_submit_get_many(km_sealed_queue *queue, const km_sealed *table,
                                    const km_bytes *keys, size_t count, km_sealed_done_fn done,
                                    void *user)
{
    struct sealed_request *request;
    struct sealed_many *many;
    km_status rc = sealed_queue_check(queue);

    if (rc)
        return rc;
    request = sealed_request_take(queue, table, done, user);
    if (!request)
        return KM_E_NO_MEMORY;
    rc = sealed_prepare_keys(queue, request, keys, count);
    if (rc) {
        sealed_request_give_back(queue, request);
        return rc;
    }
    many = &request->many;
    if (many->ref_count > 0 && km__sealed_many_warmth(many, 0) == SEALED_WARMTH_CACHED)
        request->result.status = km__sealed_many_visit_cached(many, &request->next_ref);
    if (sealed_many_is_read(request))
        sealed_finish_many(queue, request);
    else
        sealed_request_queue_up(queue, request);
    sealed_queue_accept(queue);
    return KM_OK;
}

/* ---- handing out ------------------------------------------------------------------------- */

/* Take all reads that have ended. The descriptor is cleared first, so that one that ends later
 * makes it readable again. */
static void sealed_queue_gather(km_sealed_queue *queue)
{
    size_t count = 1;

    for (int round = 0; count > 0 && round < SEALED_QUEUE_ROUNDS; round++) {
        queue->is_notified = 0;
        queue->os->ops->clear_notify_fd(queue->os, queue->fd);
        count = sealed_queue_end(queue, 0);
    }
    if (count > 0)
        sealed_queue_notify(queue); /* there may be more */
}

/* Wait until something is ready, or nothing is pending. */
static void sealed_queue_wait(km_sealed_queue *queue, int timeout_ms)
{
    struct os *os = queue->os;
    uint64_t start_ns = os->ops->now_ns(os);
    uint64_t limit_ns = timeout_ms < 0 ? UINT64_MAX : (uint64_t)timeout_ms * 1000000u;

    while (!queue->ready.first && queue->under_way > 0) {
        uint64_t passed_ns = os->ops->now_ns(os) - start_ns;
        uint64_t left_ns;
        if (passed_ns >= limit_ns)
            return;
        left_ns = limit_ns - passed_ns;
        (void)sealed_queue_end(queue,
                               left_ns < SEALED_QUEUE_WAIT_NS ? left_ns : SEALED_QUEUE_WAIT_NS);
    }
}

static void sealed_hand_out(km_sealed_queue *queue, struct sealed_request *request,
                            km_sealed_result *out_result)
{
    queue->pending--;
    sealed_list_put(&queue->handed, request);
    if (request->done)
        request->done(request->result.user, &request->result);
    else
        *out_result = request->result;
}

/* What becomes ready meanwhile, as functions submit, waits for the next poll: so this ends. */
static size_t sealed_queue_hand_out(km_sealed_queue *queue, km_sealed_result *results, size_t room)
{
    struct sealed_list ready = queue->ready;
    struct sealed_list left = {NULL, NULL};
    struct sealed_request *request;
    size_t count = 0;

    queue->ready = left;
    while ((request = sealed_list_take(&ready)) != NULL) {
        if (!request->done && count == room) {
            sealed_list_put(&left, request);
            continue;
        }
        sealed_hand_out(queue, request, results + count);
        count += !request->done;
    }
    while ((request = sealed_list_take(&queue->ready)) != NULL)
        sealed_list_put(&left, request);
    queue->ready = left;
    return count;
}

km_status km_sealed_queue_poll(km_sealed_queue *queue, km_sealed_result *results, size_t room,
                               int timeout_ms, size_t *out_count)
{
    struct sealed_request *request;
    size_t count;

    if (sealed_queue_is_foreign(queue))
        return KM_E_FORKED;
    while ((request = sealed_list_take(&queue->handed)) != NULL)
        sealed_request_give_back(queue, request);
    if (timeout_ms != 0)
        sealed_queue_wait(queue, timeout_ms);
    sealed_queue_gather(queue);
    count = sealed_queue_hand_out(queue, results, room);
    if (queue->ready.first)
        sealed_queue_notify(queue); /* I3 */
    if (out_count)
        *out_count = count;
    return KM_OK;
}

int km_sealed_queue_fd(const km_sealed_queue *queue)
{
    return sealed_queue_is_foreign(queue) ? -1 : queue->fd;
}

size_t km_sealed_queue_pending(const km_sealed_queue *queue)
{
    return sealed_queue_is_foreign(queue) ? 0 : queue->pending;
}

km_sealed_engine km_sealed_queue_engine(const km_sealed_queue *queue)
{
    return queue->reads->engine;
}

/* ---- open and close ---------------------------------------------------------------------- */

static int sealed_queue_options_are_valid(const km_sealed_queue_options *options)
{
    return options->engine >= KM_SEALED_ENGINE_AUTO &&
           options->engine <= KM_SEALED_ENGINE_THREADS &&
           options->requests_max <= KM_SEALED_REQUESTS_MAX &&
           options->reads_max <= KM_SEALED_READS_MAX && options->threads <= KM_SEALED_THREADS_MAX;
}

static km_status sealed_queue_set_up(km_sealed_queue *queue, const km_sealed_queue_options *options,
                                     km_error *error)
{
    const struct allocator *allocator = &queue->os->allocator;
    struct sealed_reads_options reads = {.engine = options->engine,
                                         .depth = (uint32_t)queue->reads_max};
    km_status rc;

    queue->slots = km__allocate(allocator, queue->reads_max * sizeof(*queue->slots));
    queue->batch = km__allocate(allocator, queue->reads_max * sizeof(struct os_read *));
    if (!queue->slots || !queue->batch)
        return km__fail(error, KM_E_NO_MEMORY, NULL, 0, 0, "no memory for a queue");
    for (size_t i = 0; i < queue->reads_max; i++) {
        queue->slots[i].next = queue->free_slot;
        queue->free_slot = &queue->slots[i];
    }
    rc = queue->os->ops->open_notify_fd(queue->os, &queue->fd);
    if (rc)
        return km__fail(error, rc, NULL, 0, queue->os->ops->last_error(queue->os),
                        "cannot open a descriptor for a queue");
    reads.notify_fd = queue->fd;
    reads.threads = options->threads ? options->threads : SEALED_QUEUE_THREADS;
    rc = km__sealed_reads_open(queue->os, &reads, &queue->reads);
    if (rc)
        return km__fail(error, rc, NULL, 0, 0, "there is nobody to make the reads of a queue");
    return KM_OK;
}

km_status km__sealed_queue_open(struct os *os, const km_sealed_queue_options *options,
                                km_sealed_queue **out_queue, km_error *out_error)
{
    km_sealed_queue_options own = KM_SEALED_QUEUE_OPTIONS_INIT;
    km_sealed_queue *queue;
    km_status rc;

    if (options)
        memcpy(&own, options,
               options->struct_size < sizeof(own) ? options->struct_size : sizeof(own));
    if (!sealed_queue_options_are_valid(&own))
        return km__fail(out_error, KM_E_INVALID, NULL, 0, 0, "an option is over its limit");
    queue = km__allocate(&os->allocator, sizeof(*queue));
    if (!queue)
        return km__fail(out_error, KM_E_NO_MEMORY, NULL, 0, 0, "no memory for a queue");
    queue->os = os;
    queue->fd = -1;
    queue->process_id = os->ops->process_id(os);
    queue->requests_max = own.requests_max ? own.requests_max : SEALED_QUEUE_REQUESTS;
    queue->reads_max = own.reads_max ? own.reads_max : SEALED_QUEUE_READS;
    rc = sealed_queue_set_up(queue, &own, out_error);
    if (rc) {
        km_sealed_queue_close(queue);
        return rc;
    }
    *out_queue = queue;
    return KM_OK;
}

km_status km_sealed_queue_open(const km_sealed_queue_options *options, km_sealed_queue **out_queue,
                               km_error *out_error)
{
    return km__sealed_queue_open(km__os_linux(), options, out_queue, out_error);
}

void km_sealed_queue_close(km_sealed_queue *queue)
{
    const struct allocator *allocator;
    struct sealed_request *request;

    if (!queue)
        return;
    allocator = &queue->os->allocator;
    if (queue->reads) /* first of all: I2 */
        queue->reads->ops->close(queue->reads, sealed_queue_is_foreign(queue));
    queue->os->ops->close_notify_fd(queue->os, queue->fd);
    while ((request = queue->all) != NULL) {
        queue->all = request->next_all;
        sealed_request_clear(queue, request, 0);
        km__release(allocator, request, sizeof(*request));
    }
    for (size_t i = 0; queue->slots && i < queue->reads_max; i++)
        km_buffer_free(&queue->slots[i].buffer);
    km__release(allocator, queue->slots, queue->reads_max * sizeof(*queue->slots));
    km__release(allocator, queue->batch, queue->reads_max * sizeof(struct os_read *));
    km__release(allocator, queue, sizeof(*queue));
}
