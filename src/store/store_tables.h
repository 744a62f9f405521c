/* SPDX-License-Identifier: Apache-2.0
 *
 * store_tables.h -- sealed tables under a map: a stack of them, in which the upper ones go before
 * the lower ones, and the map itself before all.
 */
#ifndef KM_STORE_STORE_TABLES_H
#define KM_STORE_STORE_TABLES_H

#include "sealed/sealed.h"
#include "store/store_internal.h"

#define TABLE_NAME_SIZE 64u
#define TABLE_NEW_NAME "new.table" /* while it is copied */

struct stacked_table {
    km_sealed *sealed;
    char name[TABLE_NAME_SIZE];             /* in the store's folder */
    uint64_t version;                       /* of all its keys */
    uint8_t header[RECORD_HEADER_SIZE + 8]; /* as of a record that was moved, with that version */
};

/* Constant once the map has it. */
struct table_stack {
    struct table_stack *before; /* what the map had before; closed with the map */
    struct stacked_table *own;  /* the table that this one added: tables[0] */
    uint64_t key_count;         /* of the different keys of all */
    uint32_t count;
    struct stacked_table *tables[KM_ATTACHED_MAX]; /* the uppermost first */
};

/* Whether what hides keys from below must stay: as long as the tables are there, or may be when the
 * store is opened again. */
static inline int km__hides_stay(const km_map *map)
{
    /* relaxed: set before the tables are taken away, which was seen if they are */
    return km__tables_of(map) || atomic_load_explicit(&map->has_strays, memory_order_relaxed);
}

/* Whether a record is there only to hide its key from below: of a put with this expiry. */
static inline int km__is_hiding(const struct log_record *record)
{
    return KM_UNLIKELY(record->flags & RECORD_HAS_EXPIRY) &&
           km__expiry_of(record) == RECORD_EXPIRY_HIDES;
}

/* ---- store_tables.c */

/* Find a key in a stack: KM_OK, with the table and the value; KM_NOT_FOUND; KM_E_CORRUPT. May wait
 * for the disk. */
km_status km__tables_find(const struct table_stack *stack, km_bytes key,
                          const struct stacked_table **out_table, km_bytes *out_value);
/* Make it look like what is found in a map: with ref 0, and a record that has key, value and
 * version. */
void km__tables_fill_found(const struct stacked_table *table, km_bytes key, km_bytes value,
                           struct found *out);
/* Count the different keys of a stack. */
km_status km__tables_count_keys(const struct table_stack *stack, uint64_t *out_count);
/* Count what the map's own entries take away from the sum of entries and keys: map->overlap. */
km_status km__tables_count_overlap(km_map *map, const struct table_stack *stack,
                                   uint64_t *out_overlap);
/* Look up a change's key below its map, with nothing locked; a delete of what is there becomes a
 * put that hides it. To be done again when the stack has changed since. */
km_status km__tables_look_slow(struct change *change);
static inline int km__tables_is_stale(const struct change *change)
{
    return KM_UNLIKELY(km__tables_of(change->map) != change->stack);
}
static inline km_status km__tables_look(struct change *change)
{
    return KM_LIKELY(!km__tables_of(change->map) && !change->stack) ? KM_OK
                                                                    : km__tables_look_slow(change);
}
/* The change is published: keep the count exact. */
void km__tables_note_change(const struct change *change);
/* The same of a record that is applied; `found` is what it supersedes. */
void km__tables_note_logged(const struct logged *logged, const struct log_record *record,
                            const struct found *found);

/* ---- store_attach.c */

/* Open the tables of all maps, when a store is opened. */
km_status km__tables_open_all(struct km_store *store, km_error *error);
/* Remove what crashes have left, and files of dropped maps; once the log goes on, so that the drop
 * is durable. */
void km__tables_sweep(struct km_store *store);
/* Close those of a map. */
void km__tables_close(km_map *map);
/* Let no table be attached or detached, KM_BUSY, until it is let go: for backups. */
void km__tables_hold(struct km_store *store);
void km__tables_let_go(struct km_store *store);
/* Whether a name in a store's folder is that of a table, and of which map. */
int km__table_name_parse(const char *name, uint16_t *out_map_id);
/* Visit the names of a map's tables in a store's folder, the lowest first. */
km_status km__tables_list(struct os *os, struct os_dir *dir, uint16_t map_id,
                          km_status (*visit)(void *context, const char *name), void *context);
/* Attach the table of another store's folder: for salvage. */
km_status km__tables_adopt(km_map *map, struct os_dir *dir, const char *name, km_error *error);

void km__tables_add_stats(const km_map *map, km_stats *stats);
/* km_sealed_verify() of all of them. */
km_status km__tables_verify(struct km_store *store, km_finding_fn found, void *context);

#endif
