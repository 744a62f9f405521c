/* SPDX-License-Identifier: Apache-2.0
 *
 * kyoto.c -- Kyoto Cabinet. HashDB: a hash table with chains in one mapped file. TreeDB: a B+tree
 * of pages that are records of such a table, with a cache of pages. GrassDB: the same over a table
 * in memory alone.
 *
 * Values are looked at in place by a visitor, which runs under the record's lock.
 */
#include "../peer.h"

#include <kclangc.h>
#include <stdio.h>
#include <stdlib.h>

struct kyoto_session {
    KCDB *db;
    KCCUR *cursor; /* NULL before the first scan */
};

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

static int kyoto_open_db(const struct peer_options *options, const char *name, void **out_handle)
{
    uint32_t mode = KCOWRITER | KCOCREATE;
    KCDB *db = kcdbnew();

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

/* Bytes that hold all data twice over. */
static unsigned long long kyoto_room(const struct peer_options *options)
{
    size_t record_size = options->key_size + options->value_size + 64;

    return (256u << 20) + options->record_count * record_size * 2;
}

static int kyoto_open(const struct peer_options *options, void **out_handle)
{
    char name[4096];

    snprintf(name, sizeof(name), "%s/data.kch#opts=l#apow=3#fpow=16#bnum=%llu#msiz=%llu",
             options->path, (unsigned long long)options->record_count * 2 + 1000,
             kyoto_room(options));
    return kyoto_open_db(options, name, out_handle);
}

/* Of 8192 bytes, more than half full. */
static unsigned long long kyoto_page_count(const struct peer_options *options)
{
    return options->record_count * (options->key_size + options->value_size + 8) / 4096 + 1000;
}

static int kyoto_tree_open(const struct peer_options *options, void **out_handle)
{
    char name[4096];

    snprintf(name, sizeof(name), "%s/data.kct#opts=l#fpow=16#bnum=%llu#msiz=%llu#pccap=%llu",
             options->path, kyoto_page_count(options) * 2, kyoto_room(options),
             kyoto_room(options));
    return kyoto_open_db(options, name, out_handle);
}

static int kyoto_grass_open(const struct peer_options *options, void **out_handle)
{
    char name[256];

    snprintf(name, sizeof(name), "%%#bnum=%llu#pccap=%llu", kyoto_page_count(options) * 2,
             kyoto_room(options));
    return kyoto_open_db(options, name, out_handle);
}

static int kyoto_session_open(void *handle, void **out_session)
{
    struct kyoto_session *session = calloc(1, sizeof(*session));

    if (!session)
        return PEER_FAILED;
    session->db = handle;
    *out_session = session;
    return PEER_OK;
}

static void kyoto_session_close(void *opaque)
{
    struct kyoto_session *session = opaque;

    if (session->cursor)
        kccurdel(session->cursor);
    free(session);
}

static int kyoto_put(void *session, struct peer_bytes key, struct peer_bytes value)
{
    KCDB *db = ((struct kyoto_session *)session)->db;

    if (!kcdbset(db, key.data, key.size, value.data, value.size))
        return kyoto_failed(db, "set");
    return PEER_OK;
}

static int kyoto_del(void *session, struct peer_bytes key)
{
    KCDB *db = ((struct kyoto_session *)session)->db;

    if (kcdbremove(db, key.data, key.size))
        return PEER_OK;
    return kcdbecode(db) == KCENOREC ? PEER_NOT_FOUND : kyoto_failed(db, "remove");
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
    KCDB *db = ((struct kyoto_session *)session)->db;
    struct kyoto_visit visit = {check, 0};

    if (!kcdbaccept(db, key.data, key.size, kyoto_visit_full, kyoto_visit_empty, &visit, 0))
        return kyoto_failed(db, "accept");
    return visit.found ? PEER_OK : PEER_NOT_FOUND;
}

struct kyoto_walk {
    struct peer_scan *scan;
    int is_over;
};

static const char *kyoto_walk_record(const char *key, size_t key_size, const char *value,
                                     size_t value_size, size_t *out_size, void *opaque)
{
    struct kyoto_walk *walk = opaque;

    (void)out_size;
    walk->is_over = !peer_scan_add(walk->scan, (struct peer_bytes){key, key_size},
                                   (struct peer_bytes){value, value_size});
    return KCVISNOP;
}

static int kyoto_scan(void *opaque, struct peer_scan *scan)
{
    struct kyoto_session *session = opaque;
    struct kyoto_walk walk = {scan, 0};

    if (!scan->from.size)
        return kcdbiterate(session->db, kyoto_walk_record, &walk, 0)
                   ? PEER_OK
                   : kyoto_failed(session->db, "iterate");
    if (!session->cursor)
        session->cursor = kcdbcursor(session->db);
    if (!kccurjumpkey(session->cursor, scan->from.data, scan->from.size))
        return kccurecode(session->cursor) == KCENOREC ? PEER_OK
                                                       : kyoto_failed(session->db, "jump");
    while (!walk.is_over && kccuraccept(session->cursor, kyoto_walk_record, &walk, 0, 1)) {
    }
    if (walk.is_over || kccurecode(session->cursor) == KCENOREC)
        return PEER_OK;
    return kyoto_failed(session->db, "scan");
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

const struct peer peer_kyoto_tree = {
    .name = "kyoto-tree",
    .version = BENCH_KYOTO_VERSION,
    .settings = "TreeDB; pages of 8192 bytes, linear chains (opts=l), a page cache and a mapping "
                "larger than all data; one cursor; records seen in place by a visitor",
    .process_note =
        "none: changed pages lie in the process until they leave the cache, and a kill loses "
        "them (much weaker)",
    .power_note = "AUTOTRAN|AUTOSYNC: write-ahead log and msync per change, one writer at a time",
    .order = PEER_ORDER_KEY,
    .open = kyoto_tree_open,
    .close = kyoto_close,
    .session_open = kyoto_session_open,
    .session_close = kyoto_session_close,
    .put = kyoto_put,
    .del = kyoto_del,
    .get = kyoto_get,
    .scan = kyoto_scan,
};

const struct peer peer_kyoto_grass = {
    .name = "kyoto-grass",
    .version = BENCH_KYOTO_VERSION,
    .settings =
        "GrassDB, in memory alone; a page cache larger than all data; one cursor; records seen "
        "in place by a visitor",
    .process_note = "none: nothing survives the process (compare with keepmap-memory)",
    .power_note = NULL,
    .order = PEER_ORDER_KEY,
    .open = kyoto_grass_open,
    .close = kyoto_close,
    .session_open = kyoto_session_open,
    .session_close = kyoto_session_close,
    .put = kyoto_put,
    .del = kyoto_del,
    .get = kyoto_get,
    .scan = kyoto_scan,
};
