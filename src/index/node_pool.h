/* SPDX-License-Identifier: Apache-2.0
 *
 * node_pool.h -- memory for index nodes: power-of-two blocks out of large page mappings.
 */
#ifndef KM_INDEX_NODE_POOL_H
#define KM_INDEX_NODE_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "base/alloc.h"
#include "keepmap/keepmap.h"

#define NODE_POOL_BLOCK_MIN 64u
#define NODE_POOL_BLOCK_MAX 32768u

struct node_pool;

/* The allocator must outlive the pool. */
km_status km__node_pool_create(const struct allocator *allocator, struct node_pool **out_pool);
/* Releases all memory, blocks in use included. NULL is accepted. */
void km__node_pool_destroy(struct node_pool *pool);

/* A zeroed block of `size` bytes, a power of two from MIN to MAX, aligned to its size; NULL if
 * there is no memory. Any thread. */
void *km__node_pool_allocate(struct node_pool *pool, size_t size);
void km__node_pool_release(struct node_pool *pool, void *block, size_t size);

/* Map and touch the next chunk ahead of need, so that no put pays for the kernel's zeroing of it.
 * For a background thread, called now and then; does nothing if one is ready. */
void km__node_pool_prepare(struct node_pool *pool);

/* Bytes mapped, a prepared chunk included. Any thread. */
uint64_t km__node_pool_bytes(const struct node_pool *pool);

/* Check the invariants that node_pool.c numbers; returns 0, or the number of the first that does
 * not hold. Any thread. For tests. */
int km__node_pool_check(struct node_pool *pool);

#endif
