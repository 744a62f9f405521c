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

size_t km__hash_walk_next(const struct hash_index *index, struct hash_walk *walk, uint64_t *refs,
                          int *out_end)
{
    *out_end = 0;
    while (walk->partition < HASH_PARTITION_COUNT) {
        uint64_t entry = km__hash_find_entry(index, walk->partition, walk->prefix);
        uint64_t last;

        if (entry == 0) {
            walk->prefix = 0;
            walk->partition++;
            continue;
        }
        /* the last own bits that lead to the node; after them comes the next node, or 0 */
        last = walk->prefix | (UINT64_MAX >> km__hash_entry_depth(entry));
        walk->prefix = last + 1;
        if (walk->prefix == 0)
            walk->partition++;
        return copy_refs(entry, refs);
    }
    *out_end = 1;
    return 0;
}
