/* SPDX-License-Identifier: Apache-2.0
 *
 * store_cursor_internal.h -- what the files of cursors share: store_cursor.c has the rules.
 */
#ifndef KM_STORE_STORE_CURSOR_INTERNAL_H
#define KM_STORE_STORE_CURSOR_INTERNAL_H

#include "store/store_view.h"

/* Entries that are decoded at once, and references of an ordered map that are copied at once; a
 * power of two. The first times fewer: many a walk is short. */
#define CURSOR_GROUP 64u
#define CURSOR_GROUP_FIRST 16u
/* A group ends when so many bytes of keys and values are in it: they are summed, or copied. */
#define CURSOR_GROUP_BYTES (UINT64_C(256) << 10)
/* References of a KM_HASH map that are copied at once: those of a node. */
#define CURSOR_NODE (HASH_NODE_LINES_MAX * 8u)

/* Which way the cursor moves in the order of the map. A KM_HASH map has only the first. */
enum cursor_way { CURSOR_UP, CURSOR_DOWN };

/* A place between two keys. */
enum cursor_place { CURSOR_FIRST, CURSOR_BEFORE, CURSOR_AFTER, CURSOR_LAST };
struct cursor_edge {
    uint64_t ordinal;        /* KM_INSERTION: before this one */
    struct hash_walk walk;   /* KM_HASH */
    enum cursor_place place; /* KM_SORTED: before all keys, before or after `key`, after all */
    km_buffer key;
};

/* A key and its value, for the caller. */
struct cursor_entry {
    const uint8_t *key, *value;
    uint32_t value_size;
    uint16_t key_size;
    int16_t status; /* KM_NOT_FOUND: to be passed over; KM_E_CORRUPT */
};

/* References, in the order of the map. */
struct cursor_batch {
    uint64_t *refs;
    size_t count, capacity;
};

struct stack_walk; /* store_cursor_tables.c */

/* The status of an entry that has expired, or was deleted, and so hides its key from the tables
 * below; only where that is to be seen. */
#define CURSOR_HIDDEN KM_CONFLICT

struct km_cursor {
    km_map *map;                        /* [c] */
    const struct km_snapshot *snapshot; /* [c] NULL: the map as it is */
    int is_reverse;                     /* [c] */
    int shows_hidden;                   /* [c] steps end at hidden keys too */
    struct stack_walk *walk;            /* [c] over the map's tables too; NULL: it has none. Then
                                           nothing below is used */
    int is_kept;                        /* [c] records in memory stay where they are while pinned */
    struct key_range range;             /* [c] of a KM_SORTED map; its keys are in the next two */
    km_buffer range_from, range_to;     /* [c] */

    struct cursor_batch batch;    /* what lies between `low` and `high` */
    struct cursor_edge low, high; /* walks go on from here */
    struct cursor_batch spare;    /* what a walk finds, and where it ends: */
    struct cursor_edge far;
    struct log_pin pins[2]; /* the batch's keeps what its references lead to */
    int pin_index, has_pin;
    size_t at;                     /* the cursor stands before this one of the batch */
    size_t last;                   /* the one that was returned, + 1; 0: none */
    size_t group_first, group_end; /* those of the batch that are decoded */
    size_t group_max;
    struct cursor_entry entries[CURSOR_GROUP]; /* the i-th of the batch at i % CURSOR_GROUP */
    km_buffer copies;                          /* bytes of entries that do not stay */
};

static inline km_bytes km__cursor_key_of(const struct log_record *record)
{
    return km_bytes_of(record->key, record->key_size);
}

/* ---- store_cursor_walk.c; all inside a read section, with the log pinned */

/* Walk on beyond cursor->high, or back before cursor->low: references to cursor->spare, in the
 * order of the map, and to cursor->far where they end. KM_OK, with no reference if need be; KM_END:
 * that was all; KM_E_CORRUPT, KM_E_NO_MEMORY. */
km_status km__cursor_walk(km_cursor *cursor, enum cursor_way way);
/* The same in indexes that may not be the map's own. */
km_status km__cursor_walk_body(km_cursor *cursor, enum cursor_way way, const struct map_body *body);

/* Where in a tree the walk goes on; 0: there is nothing that way. */
int km__cursor_bound(const km_cursor *cursor, enum cursor_way way, struct sorted_bound *out);
int km__cursor_is_beyond(const km_cursor *cursor, enum cursor_way way, km_bytes key);
/* Let cursor->far lie just behind a key, as seen by the walk. */
km_status km__cursor_end_at(km_cursor *cursor, enum cursor_way way, km_bytes key);
int km__cursor_compare(km_bytes a, km_bytes b);

/* A stretch of the hash space: from `begin` up to `end`, which is not in it. */
struct cursor_stretch {
    struct hash_walk begin, end;
};
int km__cursor_compare_walks(const struct hash_walk *a, const struct hash_walk *b);
/* Copy the references of the node at `begin` to cursor->spare, and let `end` be where it ends. As
 * km__hash_walk_next(). */
km_status km__cursor_read_node(km_cursor *cursor, struct hash_index *index,
                               struct cursor_stretch *stretch, int *out_end);
/* Of the references from `first` on leave those whose keys lie in the stretch, and damaged ones. */
void km__cursor_keep_stretch(const km_cursor *cursor, const struct cursor_stretch *stretch,
                             struct cursor_batch *batch, size_t first);
void km__cursor_prefetch(const km_cursor *cursor, const uint64_t *refs, size_t count);

/* ---- store_cursor_snapshot.c */

/* As km__cursor_walk(), of the map as it is in cursor->snapshot. */
km_status km__cursor_walk_snapshot(km_cursor *cursor, enum cursor_way way);

/* ---- store_cursor.c, for a walk over a map and its tables */

/* A cursor on the map alone, which shows hidden keys. */
km_status km__cursor_open_own(km_map *map, const km_cursor_options *options,
                              km_cursor **out_cursor);
/* Move over the next entry that way. KM_OK, or CURSOR_HIDDEN with the key; KM_END, errors. */
km_status km__cursor_step(km_cursor *cursor, enum cursor_way way, km_bytes *out_key,
                          km_bytes *out_value);
km_status km__cursor_own_info(const km_cursor *cursor, km_key_info *out_info);

/* ---- store_cursor_tables.c: a walk over a map and its tables */

km_status km__stack_walk_open(km_cursor *cursor, const struct table_stack *stack,
                              const km_cursor_options *options);
void km__stack_walk_close(km_cursor *cursor); /* one that has no walk is accepted */
/* As km_cursor_next(), or previous: upwards, or downwards. */
km_status km__stack_walk_move(km_cursor *cursor, int is_down, km_bytes *out_key,
                              km_bytes *out_value);
km_status km__stack_walk_seek(km_cursor *cursor, km_bytes key);
km_status km__stack_walk_info(const km_cursor *cursor, km_key_info *out_info);

#endif
