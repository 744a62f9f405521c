/* SPDX-License-Identifier: Apache-2.0
 *
 * insertion_order.h -- the order in which the keys of a map were inserted: from ordinals to
 * references, and from positions 0, 1, 2, ... to ordinals.
 *
 * Every key has an ordinal, greater than those of all keys inserted before it and never used again.
 * Ordinals lie in blocks of ORDER_BLOCK_SLOTS slots, a slot holding the reference of the key's
 * record; blocks lie in groups, groups in a directory. Blocks and groups know how many of their
 * slots are in use, so a position is found in two short scans of counts and a look at a bitmap.
 * What deletes leave behind is packed by km__order_tidy(): never by the delete itself.
 *
 * Readers take no lock, only a read section. They find every ordinal that is there during the whole
 * call, with a reference that it had during the call.
 */
#ifndef KM_INDEX_INSERTION_ORDER_H
#define KM_INDEX_INSERTION_ORDER_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/alloc.h"
#include "keepmap/keepmap.h"
#include "sync/epoch.h"
#include "sync/mutex.h"

#define ORDER_BLOCK_SLOTS 512u
/* References are below this; the bits above it in a slot are the order's own. 0 is none. */
#define ORDER_REF_BITS 44
#define ORDER_REF_MASK ((UINT64_C(1) << ORDER_REF_BITS) - 1)
#define ORDER_NONE UINT64_MAX /* no such ordinal */

struct node_pool;
struct insertion_order;

/* What is passed must outlive the order and the reclaimer's last use of what it retired. An empty
 * order takes no more than its own small struct. */
km_status km__order_create(const struct allocator *allocator, struct node_pool *pool,
                           struct reclaimer *reclaimer, struct insertion_order **out_order);
/* No reader or writer may be inside. NULL is accepted. */
void km__order_destroy(struct insertion_order *order);

/* ---- writers; any number at once, but one at a time for each ordinal; inside a read section */

/* Make sure that `count` more ordinals can be taken: KM_OK or KM_E_NO_MEMORY. What was reserved and
 * is not taken is given back by km__order_unreserve(). */
km_status km__order_reserve(struct insertion_order *order, uint64_t count);
void km__order_unreserve(struct insertion_order *order, uint64_t count);
/* Take the next ordinal, of those reserved. It is empty until km__order_set(). Cannot fail. */
uint64_t km__order_take(struct insertion_order *order);
/* The ordinal will be set in a moment: begin to bring its slot into the cache. */
void km__order_prefetch(const struct insertion_order *order, uint64_t ordinal);
/* Enter `ref` (not 0) at an ordinal that was taken or is in use: the first time, or in the place of
 * the one that is there. Cannot fail. */
void km__order_set(struct insertion_order *order, uint64_t ordinal, uint64_t ref);
/* Whether an ordinal that was taken and not yet set still has its place: km__order_tidy() and
 * km__order_clear_all() may have done away with it. Only for who was not kept out between taking
 * and setting: ask before setting, and take another one if it is 0. */
int km__order_can_set(const struct insertion_order *order, uint64_t ordinal);
/* The ordinal is empty from now on, for ever. Nothing happens if it is already. Cannot fail. */
void km__order_clear(struct insertion_order *order, uint64_t ordinal);

/* As km__order_set() for an ordinal that a record or an image tells of, in any order, taken or not:
 * makes room for it, and later ordinals are taken above it. KM_OK, KM_E_NO_MEMORY; KM_E_CORRUPT if
 * the ordinal is beyond all reason (2^63 or more). Several threads may restore at once, beside
 * km__order_set() and km__order_clear(), each ordinal by one; but nobody reserves meanwhile, and
 * the first one after km__order_reserve() is alone. Ordinals that lie far apart cost some 200 bytes
 * each until km__order_tidy() has packed them: call it after restoring, and now and then while many
 * are restored. */
km_status km__order_restore(struct insertion_order *order, uint64_t ordinal, uint64_t ref);
/* An ordinal and its reference. */
struct order_entry {
    uint64_t ordinal;
    uint64_t ref;
};
/* As km__order_restore() of each entry, which ascend (else KM_E_CORRUPT), at a tenth of the cost
 * where the order had nothing near them before. Alone. After an error some are restored. */
km_status km__order_restore_run(struct insertion_order *order, const struct order_entry *entries,
                                size_t count);
/* Ordinals below `next` will not be taken any more. Alone. KM_OK, or KM_E_CORRUPT as above. */
km_status km__order_use(struct insertion_order *order, uint64_t next);

/* 1 if so much lies empty that km__order_tidy() is worth its while. Any thread, costs little. */
int km__order_is_untidy(const struct insertion_order *order);
/* Pack the blocks that are sparse, some of them (about `budget` blocks), so that memory stays in
 * proportion to the keys. With all writers kept out, but for km__order_reserve() and
 * km__order_take(); readers may be inside. Returns 1 if there is more to do: the pass over all
 * blocks goes on with the next call. Lack of memory only leaves things as they are. */
int km__order_tidy(struct insertion_order *order, uint32_t budget);

/* Remove everything; ordinals are not used again. Writers are kept out as from km__order_tidy().
 * Cannot fail. */
void km__order_clear_all(struct insertion_order *order);
/* The same, but what was in `order` is in `to` afterwards, which is empty and nobody uses yet. In
 * between readers find it in `order` or not at all. */
void km__order_move_all(struct insertion_order *order, struct insertion_order *to);

/* ---- readers; inside a read section */

/* Ordinals in use, and the bytes that the order takes. Any thread; the count is exact while no
 * writer is inside. */
uint64_t km__order_count(const struct insertion_order *order);
uint64_t km__order_bytes(const struct insertion_order *order);
/* The next ordinal that will be taken. */
uint64_t km__order_next(const struct insertion_order *order);

/* The reference at an ordinal, 0 if there is none. */
uint64_t km__order_get(const struct insertion_order *order, uint64_t ordinal);

/* The position-th ordinal in use, from 0: the ordinal, and its reference to *out_ref; ORDER_NONE if
 * there are not so many. Beside writers: one that is near it. */
uint64_t km__order_select(const struct insertion_order *order, uint64_t position,
                          uint64_t *out_ref);
/* How many ordinals in use are smaller. */
uint64_t km__order_rank(const struct insertion_order *order, uint64_t ordinal);

/* Copy entries to `entries`, up to `max`, in order: those at `ordinal` and above, ascending; or
 * those at `ordinal` and below, descending. Returns how many; 0: there are none. One call looks at
 * no more than some blocks beyond what it returns, except at empty ones. What is in use during the
 * whole call, within what is covered, is in it. */
size_t km__order_read_up(const struct insertion_order *order, uint64_t ordinal,
                         struct order_entry *entries, size_t max);
size_t km__order_read_down(const struct insertion_order *order, uint64_t ordinal,
                           struct order_entry *entries, size_t max);

/* Check every invariant that insertion_order.c numbers; returns 0, or the number of the first that
 * does not hold. With no writer inside. For tests. */
int km__order_check(struct insertion_order *order);

#endif
