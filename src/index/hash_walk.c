/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_walk.c -- walk over the hash index, node by node.
 *
 * The order is that of (partition, prefix). Nodes only ever split, so the prefix just after a node
 * that was copied is where a node begins, then and later: nothing behind it was copied, all before
 * it was. Only km__hash_clear_partition() makes nodes wider; what is there after it was entered
 * after it, so it was not there during the whole walk, and may be returned or not.
 *
 * A node is copied slot by slot while writers may change it, or from its lines of before a rebuild:
 * either way a reference stays in its slot, so each is copied once.
 */
#include "index/hash_index_internal.h"

static size_t copy_refs(uint64_t entry, uint64_t *refs)
{
    const _Atomic uint64_t *slots = km__hash_entry_lines(entry);
    size_t slot_count = (size_t)HASH_LINE_SLOTS << km__hash_entry_line_bits(entry);
    size_t count = 0;

    for (size_t i = 0; i < slot_count; i++) {
        /* pairs with store_slot(): the bytes of the record that the reference leads to */
        uint64_t slot = atomic_load_explicit(&slots[i], memory_order_acquire);
        if (slot & HASH_REF_MASK)
            refs[count++] = slot & HASH_REF_MASK;
    }
    return count;
}

km_status km__hash_walk_next(struct hash_index *index, struct hash_walk *walk, uint64_t *refs,
                             size_t *out_count, int *out_end)
{
    while (walk->partition < HASH_PARTITION_COUNT) { /* ends: a node is loaded, or gone, once */
        uint64_t entry = km__hash_find_entry(index, walk->partition, walk->prefix);

        if (entry == 0) {
            walk->prefix = 0;
            walk->partition++;
        } else if (KM_UNLIKELY(entry & HASH_ENTRY_NOT_LOADED)) {
            km_status rc = km__hash_load_at(index, walk->partition, walk->prefix);
            if (rc)
                return rc;
        } else {
            walk->depth = km__hash_entry_depth(entry);
            km__hash_walk_step(walk, walk->depth);
            *out_count = copy_refs(entry, refs);
            *out_end = 0;
            return KM_OK;
        }
    }
    *out_count = 0;
    *out_end = 1;
    return KM_OK;
}
