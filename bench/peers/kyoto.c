/* SPDX-License-Identifier: Apache-2.0
 *
 * kyoto.c -- Kyoto Cabinet HashDB: a hash table with chains in one mapped file.
 *
 * Values are looked at in place by a visitor, which runs under the record's lock.
 */
#include "../peer.h"

#include <kclangc.h>
#include <stdio.h>
#include <stdlib.h>

static int kyoto_failed(KCDB *db, const char *what)
{
    fprintf(stderr, "kyoto: %s: %s (%s)\n", what, kcecodename(kcdbecode(db)), kcdbemsg(db));
    return PEER_FAILED;
}

static void kyoto_close(void *handle)
{
    KCDB *db = handle;

    if (!kcdbclose(db))
        (void)kyoto_failed(db, "close");
    kcdbdel(db);
}

static int kyoto_open(const struct peer_options *options, void **out_handle)
{
    size_t record_size = options->key_size + options->value_size + 64;
    uint64_t map_size = (256u << 20) + options->record_count * record_size * 2;
    uint32_t mode = KCOWRITER | KCOCREATE;
    char name[4096];
    KCDB *db = kcdbnew();

    snprintf(name, sizeof(name), "%s/data.kch#opts=l#apow=3#fpow=16#bnum=%llu#msiz=%llu",
             options->path, (unsigned long long)options->record_count * 2 + 1000,
             (unsigned long long)map_size);
    if (options->durability == PEER_CLASS_POWER)
        mode |= KCOAUTOTRAN | KCOAUTOSYNC;
    if (!kcdbopen(db, name, mode)) {
        (void)kyoto_failed(db, "open");
        kcdbdel(db);
        return PEER_FAILED;
    }
    *out_handle = db;
    return PEER_OK;
}

static int kyoto_session_open(void *handle, void **out_session)
{
    *out_session = handle;
    return PEER_OK;
}

static void kyoto_session_close(void *session)
{
    (void)session;
}

static int kyoto_put(void *session, struct peer_bytes key, struct peer_bytes value)
{
    if (!kcdbset(session, key.data, key.size, value.data, value.size))
        return kyoto_failed(session, "set");
    return PEER_OK;
}

static int kyoto_del(void *session, struct peer_bytes key)
{
    if (kcdbremove(session, key.data, key.size))
        return PEER_OK;
    return kcdbecode(session) == KCENOREC ? PEER_NOT_FOUND : kyoto_failed(session, "remove");
}

struct kyoto_visit {
    struct peer_check *check;
    int found;
};

static const char *kyoto_visit_full(const char *key, size_t key_size, const char *value,
                                    size_t value_size, size_t *out_size, void *opaque)
{
    struct kyoto_visit *visit = opaque;

    (void)key;
    (void)key_size;
    (void)out_size;
    peer_check_value(visit->check, value, value_size);
    visit->found = 1;
    return KCVISNOP;
}

static const char *kyoto_visit_empty(const char *key, size_t key_size, size_t *out_size,
                                     void *opaque)
{
    (void)key;
    (void)key_size;
    (void)out_size;
    (void)opaque;
    return KCVISNOP;
}

static int kyoto_get(void *session, struct peer_bytes key, struct peer_check *check)
{
    struct kyoto_visit visit = {check, 0};

    if (!kcdbaccept(session, key.data, key.size, kyoto_visit_full, kyoto_visit_empty, &visit, 0))
        return kyoto_failed(session, "accept");
    return visit.found ? PEER_OK : PEER_NOT_FOUND;
}

const struct peer peer_kyoto = {
    .name = "kyoto",
    .version = BENCH_KYOTO_VERSION,
    .settings = "HashDB; bnum 2 x records, linear chains (opts=l), apow=3, fpow=16, msiz larger "
                "than all data; values read in place by a visitor",
    .process_note = "changes in place in a mapping, no log: a kill within a change may damage its "
                    "neighbours, and the next open rebuilds the file (weaker)",
    .power_note = "AUTOTRAN|AUTOSYNC: write-ahead log and msync per change, one writer at a time",
    .open = kyoto_open,
    .close = kyoto_close,
    .session_open = kyoto_session_open,
    .session_close = kyoto_session_close,
    .put = kyoto_put,
    .del = kyoto_del,
    .get = kyoto_get,
};
