/* SPDX-License-Identifier: Apache-2.0
 *
 * tkrzw.c -- Tkrzw HashDBM: a hash table with chains in one mapped file.
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

static int tkrzw_failed(const char *what)
{
    TkrzwStatus status = tkrzw_get_last_status();

    fprintf(stderr, "tkrzw: %s: %s %s\n", what, tkrzw_status_code_name(status.code),
            status.message);
    return PEER_FAILED;
}

static int tkrzw_open(const struct peer_options *options, void **out_handle)
{
    struct tkrzw_handle *handle = calloc(1, sizeof(*handle));
    char path[4096];
    char params[512];

    if (!handle)
        return PEER_FAILED;
    snprintf(path, sizeof(path), "%s/data.tkh", options->path);
    snprintf(params, sizeof(params),
             "dbm=HashDBM,file=MemoryMapParallelFile,update_mode=UPDATE_IN_PLACE,offset_width=5,"
             "align_pow=3,num_buckets=%llu,min_read_size=%zu",
             (unsigned long long)options->record_count * 2 + 1000,
             options->key_size + options->value_size + 16);
    handle->durability = options->durability;
    handle->dbm = tkrzw_dbm_open(path, true, params);
    if (!handle->dbm) {
        free(handle);
        return tkrzw_failed("open");
    }
    *out_handle = handle;
    return PEER_OK;
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
    *out_session = handle;
    return PEER_OK;
}

static void tkrzw_session_close(void *session)
{
    (void)session;
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
    struct tkrzw_handle *handle = session;

    if (!tkrzw_dbm_set(handle->dbm, key.data, (int32_t)key.size, value.data, (int32_t)value.size,
                       true))
        return tkrzw_failed("set");
    return tkrzw_sync(handle);
}

static int tkrzw_del(void *session, struct peer_bytes key)
{
    struct tkrzw_handle *handle = session;

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
    struct tkrzw_handle *handle = session;
    struct tkrzw_visit visit = {check, 0};

    if (!tkrzw_dbm_process(handle->dbm, key.data, (int32_t)key.size, tkrzw_visit_record, &visit,
                           false))
        return tkrzw_failed("process");
    return visit.found ? PEER_OK : PEER_NOT_FOUND;
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
