/* SPDX-License-Identifier: Apache-2.0
 *
 * peers.c -- the table of stores that this build of the sealed benchmark has; bench.mk says which.
 */
#include "../sealed.h"

extern const struct sealed_peer sealed_peer_null;
extern const struct sealed_peer sealed_peer_keepmap;
extern const struct sealed_peer sealed_peer_keepmap_calls;
extern const struct sealed_peer sealed_peer_rocksdb;
extern const struct sealed_peer sealed_peer_lmdb;
extern const struct sealed_peer sealed_peer_tinycdb;
extern const struct sealed_peer sealed_peer_leveldb;
extern const struct sealed_peer sealed_peer_sqlite;
extern const struct sealed_peer sealed_peer_wiredtiger;
extern const struct sealed_peer sealed_peer_wiredtiger_large;

const struct sealed_peer *const sealed_peers[] = {
    &sealed_peer_null,
#ifdef BENCH_HAVE_KEEPMAP
    &sealed_peer_keepmap,    &sealed_peer_keepmap_calls,
#endif
#ifdef BENCH_HAVE_ROCKSDB
    &sealed_peer_rocksdb,
#endif
#ifdef BENCH_HAVE_LMDB
    &sealed_peer_lmdb,
#endif
#ifdef BENCH_HAVE_TINYCDB
    &sealed_peer_tinycdb,
#endif
#ifdef BENCH_HAVE_LEVELDB
    &sealed_peer_leveldb,
#endif
#ifdef BENCH_HAVE_SQLITE
    &sealed_peer_sqlite,
#endif
#ifdef BENCH_HAVE_WIREDTIGER
    &sealed_peer_wiredtiger, &sealed_peer_wiredtiger_large,
#endif
};

const unsigned sealed_peer_count = sizeof(sealed_peers) / sizeof(sealed_peers[0]);
