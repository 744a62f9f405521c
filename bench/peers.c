/* SPDX-License-Identifier: Apache-2.0
 *
 * peers.c -- the tables of peers that this build has; bench.mk says which.
 */
#include "bench.h"

extern const struct peer peer_null;
extern const struct peer peer_raw;
extern const struct peer peer_keepmap;
extern const struct peer peer_lmdb;
extern const struct peer peer_rocksdb;
extern const struct peer peer_leveldb;
extern const struct peer peer_kyoto;
extern const struct peer peer_tkrzw;
extern const struct peer peer_sqlite;
extern const struct peer peer_berkeleydb;
extern const struct peer peer_wiredtiger;
extern const struct peer peer_keepmap_insertion;
extern const struct peer peer_keepmap_sorted;
extern const struct peer peer_keepmap_memory;
extern const struct peer peer_tkrzw_tree;
extern const struct peer peer_tkrzw_tree_write;
extern const struct peer peer_tkrzw_baby;
extern const struct peer peer_kyoto_tree;
extern const struct peer peer_kyoto_grass;

const struct peer *const bench_peers[] = {
    &peer_null,       &peer_raw,
#ifdef BENCH_HAVE_KEEPMAP
    &peer_keepmap,
#endif
#ifdef BENCH_HAVE_LMDB
    &peer_lmdb,
#endif
#ifdef BENCH_HAVE_KYOTO
    &peer_kyoto,
#endif
#ifdef BENCH_HAVE_TKRZW
    &peer_tkrzw,
#endif
#ifdef BENCH_HAVE_ROCKSDB
    &peer_rocksdb,
#endif
#ifdef BENCH_HAVE_LEVELDB
    &peer_leveldb,
#endif
#ifdef BENCH_HAVE_SQLITE
    &peer_sqlite,
#endif
#ifdef BENCH_HAVE_BERKELEYDB
    &peer_berkeleydb,
#endif
#ifdef BENCH_HAVE_WIREDTIGER
    &peer_wiredtiger,
#endif
};

const unsigned bench_peer_count = sizeof(bench_peers) / sizeof(bench_peers[0]);

const struct peer *const bench_order_peers[] = {
    &peer_null,
#ifdef BENCH_HAVE_KEEPMAP
    &peer_keepmap,     &peer_keepmap_insertion, &peer_keepmap_sorted,   &peer_keepmap_memory,
#endif
#ifdef BENCH_HAVE_LMDB
    &peer_lmdb,
#endif
#ifdef BENCH_HAVE_TKRZW
    &peer_tkrzw_baby,  &peer_tkrzw_tree,        &peer_tkrzw_tree_write,
#endif
#ifdef BENCH_HAVE_KYOTO
    &peer_kyoto_grass, &peer_kyoto_tree,
#endif
#ifdef BENCH_HAVE_BERKELEYDB
    &peer_berkeleydb,
#endif
#ifdef BENCH_HAVE_SQLITE
    &peer_sqlite,
#endif
#ifdef BENCH_HAVE_WIREDTIGER
    &peer_wiredtiger,
#endif
};

const unsigned bench_order_peer_count = sizeof(bench_order_peers) / sizeof(bench_order_peers[0]);
