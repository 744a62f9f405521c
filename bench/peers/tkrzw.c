/* SPDX-License-Identifier: Apache-2.0
 *
 * tkrzw.c -- Tkrzw. HashDBM: a hash table with chains in one mapped file. TreeDBM: a B+tree of
 * pages that are records of such a table, with a cache of pages. BabyDBM: a B+tree in memory alone.
 *
 * Values are looked at in the library's read buffer by a processor, without a copy to the heap.
 */
#include "../peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <tkrzw_langc.h>

struct tkrzw_handle {
    TkrzwDBM *dbm;
    enum peer_class durability;
};

struct tkrzw_session {
    struct tkrzw_handle *handle;
    TkrzwDBMIter *iterator; /* NULL before the first scan */
};

static int tkrzw_failed(const char *what)
{
    TkrzwStatus status = tkrzw_get_last_status();

    fprintf(stderr, "tkrzw: %s: %s %s\n", what, tkrzw_status_code_name(status.code),
            status.message);
    return PEER_FAILED;
}

static int tkrzw_open_dbm(const struct peer_options *options, const char *params, const char *name,
                          void **out_handle)
{
    struct tkrzw_handle *handle = calloc(1, sizeof(*handle));
    char path[4096] = "";

    if (!handle)
        return PEER_FAILED;
    if (name)
        snprintf(path, sizeof(path), "%s/%s", options->path, name);
    handle->durability = options->durability;
    handle->dbm = tkrzw_dbm_open(path, true, params);
    if (!handle->dbm) {
        free(handle);
        return tkrzw_failed("open");
    }
    *out_handle = handle;
    return PEER_OK;
}

static int tkrzw_open(const struct peer_options *options, void **out_handle)
{
    char params[512];

    snprintf(params, sizeof(params),
             "dbm=HashDBM,file=MemoryMapParallelFile,update_mode=UPDATE_IN_PLACE,offset_width=5,"
             "align_pow=3,num_buckets=%llu,min_read_size=%zu",
             (unsigned long long)options->record_count * 2 + 1000,
             options->key_size + options->value_size + 16);
    return tkrzw_open_dbm(options, params, "data.tkh", out_handle);
}

static int tkrzw_open_tree(const struct peer_options *options, const char *update_mode,
                           void **out_handle)
{
    /* of 8130 bytes, more than half full */
    uint64_t page_count = options->record_count * (options->key_size + options->value_size + 8) /
                              4096 +
                          1000;
    char params[512];

    snprintf(params, sizeof(params),
             "dbm=TreeDBM,file=MemoryMapParallelFile,update_mode=UPDATE_IN_PLACE,offset_width=5,"
             "num_buckets=%llu,max_cached_pages=%llu,page_update_mode=%s",
             (unsigned long long)page_count * 2, (unsigned long long)page_count * 2, update_mode);
    return tkrzw_open_dbm(options, params, "data.tkt", out_handle);
}

static int tkrzw_tree_open(const struct peer_options *options, void **out_handle)
{
    return tkrzw_open_tree(options, "PAGE_UPDATE_NONE", out_handle);
}

static int tkrzw_tree_write_open(const struct peer_options *options, void **out_handle)
{
    return tkrzw_open_tree(options, "PAGE_UPDATE_WRITE", out_handle);
}

static int tkrzw_baby_open(const struct peer_options *options, void **out_handle)
{
    return tkrzw_open_dbm(options, "dbm=BabyDBM", NULL, out_handle);
}

static void tkrzw_close(void *opaque)
{
    struct tkrzw_handle *handle = opaque;

    if (!tkrzw_dbm_close(handle->dbm))
        (void)tkrzw_failed("close");
    free(handle);
}

static int tkrzw_session_open(void *handle, void **out_session)
{
    struct tkrzw_session *session = calloc(1, sizeof(*session));

    if (!session)
        return PEER_FAILED;
    session->handle = handle;
    *out_session = session;
    return PEER_OK;
}

static void tkrzw_session_close(void *opaque)
{
    struct tkrzw_session *session = opaque;

    if (session->iterator)
        tkrzw_dbm_iter_free(session->iterator);
    free(session);
}

/* In the power class each change is followed by a physical synchronization. */
static int tkrzw_sync(struct tkrzw_handle *handle)
{
    if (handle->durability == PEER_CLASS_PROCESS)
        return PEER_OK;
    if (!tkrzw_dbm_synchronize(handle->dbm, true, NULL, NULL, ""))
        return tkrzw_failed("sync");
    return PEER_OK;
}

static int tkrzw_put(void *session, struct peer_bytes key, struct peer_bytes value)
{
    struct tkrzw_handle *handle = ((struct tkrzw_session *)session)->handle;

    if (!tkrzw_dbm_set(handle->dbm, key.data, (int32_t)key.size, value.data, (int32_t)value.size,
                       true))
        return tkrzw_failed("set");
    return tkrzw_sync(handle);
}

static int tkrzw_del(void *session, struct peer_bytes key)
{
    struct tkrzw_handle *handle = ((struct tkrzw_session *)session)->handle;

    if (tkrzw_dbm_remove(handle->dbm, key.data, (int32_t)key.size))
        return tkrzw_sync(handle);
    if (tkrzw_get_last_status_code() == TKRZW_STATUS_NOT_FOUND_ERROR)
        return PEER_NOT_FOUND;
    return tkrzw_failed("remove");
}

struct tkrzw_visit {
    struct peer_check *check;
    int found;
};

static const char *tkrzw_visit_record(void *opaque, const char *key, int32_t key_size,
                                      const char *value, int32_t value_size, int32_t *out_size)
{
    struct tkrzw_visit *visit = opaque;

    (void)key;
    (void)key_size;
    (void)out_size;
    if (value) {
        peer_check_value(visit->check, value, (size_t)value_size);
        visit->found = 1;
    }
    return TKRZW_REC_PROC_NOOP;
}

static int tkrzw_get(void *session, struct peer_bytes key, struct peer_check *check)
{
    struct tkrzw_handle *handle = ((struct tkrzw_session *)session)->handle;
    struct tkrzw_visit visit = {check, 0};

    if (!tkrzw_dbm_process(handle->dbm, key.data, (int32_t)key.size, tkrzw_visit_record, &visit,
                           false))
        return tkrzw_failed("process");
    return visit.found ? PEER_OK : PEER_NOT_FOUND;
}

struct tkrzw_walk {
    struct peer_scan *scan;
    int is_over;
};

static const char *tkrzw_walk_record(void *opaque, const char *key, int32_t key_size,
                                     const char *value, int32_t value_size, int32_t *out_size)
{
    struct tkrzw_walk *walk = opaque;

    (void)out_size;
    if (value) /* else a walk over all begins or ends */
        walk->is_over = !peer_scan_add(walk->scan, (struct peer_bytes){key, (size_t)key_size},
                                       (struct peer_bytes){value, (size_t)value_size});
    return TKRZW_REC_PROC_NOOP;
}

static int tkrzw_scan(void *opaque, struct peer_scan *scan)
{
    struct tkrzw_session *session = opaque;
    struct tkrzw_walk walk = {scan, 0};

    if (!scan->from.size)
        return tkrzw_dbm_process_each(session->handle->dbm, tkrzw_walk_record, &walk, false)
                   ? PEER_OK
                   : tkrzw_failed("process_each");
    if (!session->iterator)
        session->iterator = tkrzw_dbm_make_iterator(session->handle->dbm);
    if (!tkrzw_dbm_iter_jump(session->iterator, scan->from.data, (int32_t)scan->from.size))
        return tkrzw_failed("jump");
    while (!walk.is_over &&
           tkrzw_dbm_iter_process(session->iterator, tkrzw_walk_record, &walk, false)) {
        if (!walk.is_over && !tkrzw_dbm_iter_next(session->iterator))
            break;
    }
    if (walk.is_over || tkrzw_get_last_status_code() == TKRZW_STATUS_NOT_FOUND_ERROR)
        return PEER_OK;
    return tkrzw_failed("scan");
}

const struct peer peer_tkrzw = {
    .name = "tkrzw",
    .version = BENCH_TKRZW_VERSION,
    .settings =
        "HashDBM; MemoryMapParallelFile, UPDATE_IN_PLACE, 2 x records buckets, "
        "offset_width=5, align_pow=3, min_read_size = one record; values read by a processor",
    .process_note = "changes in place in a mapping, no log: a kill within a change may lose that "
                    "record's older value; the next open restores by scanning the file (weaker)",
    .power_note = "a physical synchronization per change, in place, no log: a power cut within a "
                  "change may tear it (weaker)",
    .open = tkrzw_open,
    .close = tkrzw_close,
    .session_open = tkrzw_session_open,
    .session_close = tkrzw_session_close,
    .put = tkrzw_put,
    .del = tkrzw_del,
    .get = tkrzw_get,
};

const struct peer peer_tkrzw_tree = {
    .name = "tkrzw-tree",
    .version = BENCH_TKRZW_VERSION,
    .settings =
        "TreeDBM; MemoryMapParallelFile, UPDATE_IN_PLACE, pages of 8130 bytes, a page cache larger "
        "than all data; one iterator; records seen by a processor",
    .process_note =
        "none: changed pages lie in the process until they leave the cache, and a kill loses "
        "them (much weaker)",
    .power_note = "a physical synchronization per change, in place, no log: a power cut within a "
                  "change may tear it (weaker)",
    .order = PEER_ORDER_KEY,
    .open = tkrzw_tree_open,
    .close = tkrzw_close,
    .session_open = tkrzw_session_open,
    .session_close = tkrzw_session_close,
    .put = tkrzw_put,
    .del = tkrzw_del,
    .get = tkrzw_get,
    .scan = tkrzw_scan,
};

const struct peer peer_tkrzw_tree_write = {
    .name = "tkrzw-tree-write",
    .version = BENCH_TKRZW_VERSION,
    .settings = "TreeDBM as above, with PAGE_UPDATE_WRITE",
    .process_note =
        "each change writes its page to the mapping, in place, no log: a kill within a change "
        "may lose a page (weaker)",
    .power_note = "a physical synchronization per change, in place, no log: a power cut within a "
                  "change may tear it (weaker)",
    .order = PEER_ORDER_KEY,
    .open = tkrzw_tree_write_open,
    .close = tkrzw_close,
    .session_open = tkrzw_session_open,
    .session_close = tkrzw_session_close,
    .put = tkrzw_put,
    .del = tkrzw_del,
    .get = tkrzw_get,
    .scan = tkrzw_scan,
};

const struct peer peer_tkrzw_baby = {
    .name = "tkrzw-baby",
    .version = BENCH_TKRZW_VERSION,
    .settings = "BabyDBM, in memory alone; one iterator; records seen by a processor",
    .process_note = "none: nothing survives the process (compare with keepmap-memory)",
    .power_note = NULL,
    .order = PEER_ORDER_KEY,
    .open = tkrzw_baby_open,
    .close = tkrzw_close,
    .session_open = tkrzw_session_open,
    .session_close = tkrzw_session_close,
    .put = tkrzw_put,
    .del = tkrzw_del,
    .get = tkrzw_get,
    .scan = tkrzw_scan,
};
