/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_index_inline.h -- the reader's side of the hash index, inlined into its callers; include
 * hash_index.h instead.
 *
 * A lookup is: byte of the partition table -> root word of the partition -> entry of its directory
 * -> line. All but the line stay in the cache, so it costs about one miss.
 *
 *   root    address of the directory (aligned to 64) | its depth in bits 5..0; 0 = empty partition
 *   entry   bits 47..0   address of the node's lines
 *           bits 52..48  depth: how many directory bits all hashes of the node share
 *           bits 57..53  how many bits of the tags are valid; the others are 0 in every slot
 *           bits 61..58  log2 of its lines
 *           bit  63      the node is not loaded: its address is 0
 *
 * Bits of a hash, from the top: 8 for the partition, then the partition's own: `depth` bits for the
 * directory, then those of the line, then the 16 of the tag.
 */
#ifndef KM_INDEX_HASH_INDEX_INLINE_H
#define KM_INDEX_HASH_INDEX_INLINE_H

#define HASH_FLAG_BIT (UINT64_C(1) << 63)
#define HASH_DISPLACEMENT_ONE (UINT64_C(1) << 60)
#define HASH_DISPLACEMENT_MAX 7u
#define HASH_TAG_BITS 16u
#define HASH_ENTRY_ADDRESS_MASK ((UINT64_C(1) << 48) - 1)
#define HASH_ENTRY_NOT_LOADED (UINT64_C(1) << 63)
#define HASH_ROOT_DEPTH_MASK UINT64_C(63)

extern const uint8_t km__hash_partition_table[256];
extern const _Atomic uint64_t km__hash_empty_line[HASH_LINE_SLOTS];

/* Load the node where `own` leads, if there is one and it is not loaded. With the partition's lock
 * held. */
km_status km__hash_load_slow(struct hash_index *index, uint32_t partition, uint64_t own);

/* The first thing in a struct hash_index. Read by all, written when a directory grows. */
struct hash_roots {
    _Atomic uint64_t words[HASH_PARTITION_COUNT]; /* [a] */
};

struct hash_directory {
    struct retired retired;
    const struct allocator *allocator; /* [c] */
    uint32_t depth;                    /* [c] */
    /* [a] 2^depth of them; behind them lie as many pointers to nodes, which are the writers' */
    _Atomic uint64_t entries[];
};

/* The first `count` bits of `bits`, 0 to 63 of them. */
static inline uint64_t km__hash_top_bits(uint64_t bits, uint32_t count)
{
    return (bits >> 1) >> (63 - count);
}

static inline uint64_t km__hash_own_bits(uint64_t hash)
{
    return hash << 8;
}

/* The tag that follows `line_bits` bits, its invalid bits zeroed, where it stands in a slot. */
static inline uint64_t km__hash_tag(uint64_t bits, uint32_t line_bits, uint32_t tag_bits)
{
    uint64_t tag = (bits << line_bits) >> (64 - HASH_TAG_BITS);

    return (tag & ~(UINT64_C(0xffff) >> tag_bits)) << HASH_REF_BITS;
}

static inline const _Atomic uint64_t *km__hash_entry_lines(uint64_t entry)
{
    return (const _Atomic uint64_t *)(uintptr_t)(entry & HASH_ENTRY_ADDRESS_MASK);
}

static inline uint32_t km__hash_entry_depth(uint64_t entry)
{
    return (uint32_t)(entry >> 48) & 31;
}

static inline uint32_t km__hash_entry_tag_bits(uint64_t entry)
{
    return (uint32_t)(entry >> 53) & 31;
}

static inline uint32_t km__hash_entry_line_bits(uint64_t entry)
{
    return (uint32_t)(entry >> 58) & 15;
}

/* How many lines past its home a slot of some displacement lies: 0, 1, 3, 6, 10, 15, 21 or 28. The
 * steps grow so that full lines do not run together: the first reference that finds no room comes
 * when a node is 82 % full, against 76 % with eight lines in a row. Modulo 8 and more lines
 * (a power of two) all are different, modulo 4 or 2 lines the first 4 or 2 of them. */
static inline uint32_t km__hash_line_offset(uint32_t displacement)
{
    return displacement * (displacement + 1) / 2;
}

/* Whether there are lines where an entry leads: it is neither 0 nor of a node that is not loaded.
 * Both are ruled out by one comparison. */
static inline int km__hash_entry_is_loaded(uint64_t entry)
{
    return (int64_t)entry > 0;
}

/* The entry where `own` leads; 0 in an empty partition. */
static inline uint64_t km__hash_find_entry(const struct hash_index *index, uint32_t partition,
                                           uint64_t own)
{
    const struct hash_roots *roots = (const struct hash_roots *)(const void *)index;
    const struct hash_directory *directory;
    /* pairs with km__hash_set_root(): the directory's entries */
    uint64_t root = atomic_load_explicit(&roots->words[partition], memory_order_acquire);
    uint32_t depth = (uint32_t)(root & HASH_ROOT_DEPTH_MASK);

    if (KM_UNLIKELY(root == 0))
        return 0;
    directory = (const struct hash_directory *)(uintptr_t)(root & ~HASH_ROOT_DEPTH_MASK);
    /* pairs with km__hash_point_entries(): the node's slots */
    return atomic_load_explicit(&directory->entries[km__hash_top_bits(own, depth)],
                                memory_order_acquire);
}

static inline uint32_t km__hash_partition(uint64_t hash)
{
    return km__hash_partition_table[hash >> 56];
}

static inline void km__hash_prefetch(const struct hash_index *index, uint64_t hash)
{
    uint64_t own = km__hash_own_bits(hash);
    uint64_t entry = km__hash_find_entry(index, km__hash_partition(hash), own);
    uint64_t home = km__hash_top_bits(own << km__hash_entry_depth(entry),
                                      km__hash_entry_line_bits(entry));

    /* by number: where there are no lines it is a low address, for which a prefetch does nothing */
    KM_PREFETCH((const void *)(uintptr_t)((entry & HASH_ENTRY_ADDRESS_MASK) +
                                          home * HASH_LINE_SLOTS * sizeof(uint64_t)));
}

static inline uint64_t km__hash_next(struct hash_probe *probe)
{
    for (;;) { /* ends: each turn moves on by a line, HASH_DISPLACEMENT_MAX times at most */
        const _Atomic uint64_t *line = probe->lines + (size_t)probe->line * HASH_LINE_SLOTS;

        while (probe->matches) {
            uint32_t i = (uint32_t)__builtin_ctz(probe->matches);
            /* pairs with store_slot(): the bytes of the record that the reference leads to */
            uint64_t slot = atomic_load_explicit(&line[i], memory_order_acquire);

            probe->matches &= probe->matches - 1;
            if ((slot & HASH_REF_MASK) != 0 && ((slot ^ probe->want) & HASH_MATCH_MASK) == 0)
                return slot & HASH_REF_MASK;
        }
        /* relaxed: the flag was set before whatever passed this line was stored, and what was
         * stored before the probe began happened before it, flag included */
        if (KM_LIKELY(!(atomic_load_explicit(&line[0], memory_order_relaxed) & HASH_FLAG_BIT)))
            return 0;
        if (probe->lines_left == 0)
            return 0;
        probe->lines_left--;
        probe->want += HASH_DISPLACEMENT_ONE;
        probe->line = (probe->line + (uint32_t)(probe->want >> 60)) & probe->line_mask;
        probe->matches = km__hash_match(probe->lines + (size_t)probe->line * HASH_LINE_SLOTS,
                                        probe->want);
    }
}

static inline uint64_t km__hash_first(const struct hash_index *index, uint64_t hash,
                                      struct hash_probe *probe)
{
    uint64_t own = km__hash_own_bits(hash);
    uint64_t entry = km__hash_find_entry(index, km__hash_partition(hash), own);
    uint64_t bits = own << km__hash_entry_depth(entry);
    uint32_t line_bits = km__hash_entry_line_bits(entry);

    if (KM_UNLIKELY(!km__hash_entry_is_loaded(entry))) {
        *probe = (struct hash_probe){km__hash_empty_line, 0, 0, 0, 0, 0}; /* used up */
        return entry ? HASH_NOT_LOADED : 0;
    }
    probe->lines = km__hash_entry_lines(entry);
    probe->line_mask = (1u << line_bits) - 1;
    probe->lines_left = probe->line_mask < HASH_DISPLACEMENT_MAX ? probe->line_mask
                                                                 : HASH_DISPLACEMENT_MAX;
    probe->line = (uint32_t)km__hash_top_bits(bits, line_bits);
    probe->want = km__hash_tag(bits, line_bits, km__hash_entry_tag_bits(entry));
    probe->matches = km__hash_match(probe->lines + (size_t)probe->line * HASH_LINE_SLOTS,
                                    probe->want);
    return km__hash_next(probe);
}

static inline km_status km__hash_load(struct hash_index *index, uint64_t hash)
{
    uint64_t own = km__hash_own_bits(hash);
    uint32_t partition = km__hash_partition(hash);

    if (KM_LIKELY(!(km__hash_find_entry(index, partition, own) & HASH_ENTRY_NOT_LOADED)))
        return KM_OK;
    return km__hash_load_slow(index, partition, own);
}

#endif
