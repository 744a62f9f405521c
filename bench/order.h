/* SPDX-License-Identifier: Apache-2.0
 *
 * order.h -- what order.c, the program, and order_work.c, its rounds, share.
 */
#ifndef BENCH_ORDER_H
#define BENCH_ORDER_H

#include "bench.h"

struct order_config {
    struct bench_config base; /* key_size is that of whole keys */
    size_t shared_size;       /* bytes in front that all keys have in common */
    size_t prefix_size;       /* of prefix scans, those included */
    uint64_t scan_length;
    const uint64_t *numbers; /* of all keys, ascending; read between rounds only */
};

enum order_kind {
    ORDER_INSERT,
    ORDER_GET,
    ORDER_RANGE,
    ORDER_PREFIX,
    ORDER_ITERATE,
    ORDER_OVERWRITE,
    ORDER_INDEX,
    ORDER_ITERATE_THINNED,
    ORDER_KIND_COUNT
};

struct order_work {
    const char *name;
    enum order_kind kind;
    unsigned orders; /* bit 1 << enum peer_order: whose stores take part */
    int is_thinned;  /* after a fifth of the keys was deleted */
    int writes;
    const char *text;
};

extern const struct order_work order_works[ORDER_KIND_COUNT];

struct order_result {
    double ns_per_op; /* of a record, where all are walked over */
    uint64_t wrong_count;
    int failed;
};

/* One round of a work on an open store with its session. */
void order_run(const struct order_config *config, const struct order_work *work,
               struct target *target, void *session, unsigned round, struct order_result *out);

/* Delete the fifth of the keys that thinned works go without. */
int order_thin(const struct order_config *config, const struct peer *peer, void *session);

enum order_drain {
    ORDER_DRAIN_FRONT, /* by key, in the order of insertion */
    ORDER_DRAIN_BACK,
    ORDER_DRAIN_RANDOM,
    ORDER_DRAIN_POP_FIRST,
    ORDER_DRAIN_POP_LAST,
    ORDER_DRAIN_COUNT
};

extern const char *const order_drain_names[ORDER_DRAIN_COUNT];

/* Make a store at target->path, fill it with target->record_count records, delete them all; the
 * time is that of the deletes. */
void order_drain(const struct order_config *config, enum order_drain drain, struct target *target,
                 struct order_result *out);

#endif /* BENCH_ORDER_H */
