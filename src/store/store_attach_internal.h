/* SPDX-License-Identifier: Apache-2.0
 *
 * store_attach_internal.h -- what the files share that attach tables, open them, and know their
 * names; store_attach.c has the rules.
 */
#ifndef KM_STORE_STORE_ATTACH_INTERNAL_H
#define KM_STORE_STORE_ATTACH_INTERNAL_H

#include "store/store_tables.h"

/* ---- store_table_names.c: names of tables in a store's folder */

struct table_name {
    uint16_t map_id;
    uint32_t number;
    uint64_t version;
    uint64_t key_count;
};

void km__table_name_write(const struct table_name *name, char out[TABLE_NAME_SIZE]);
/* 1, or 0 if it is no such name. */
int km__table_name_read(const char *text, struct table_name *out);

struct table_list {
    const struct allocator *allocator;
    struct table_name *names;
    size_t count, capacity;
    int has_new; /* a file that a crash left */
};

/* All tables in a folder, by map and number. Release with km__table_list_free(), after an error
 * too. */
km_status km__table_list_read(struct os *os, struct os_dir *dir, struct table_list *list);
void km__table_list_free(struct table_list *list);

/* ---- store_table_stack.c: stacks of open tables */

/* A stack of what the map has and, above it, an open table, which it takes over, after an error
 * too. */
km_status km__stack_create(km_map *map, km_sealed *sealed, uint64_t version,
                           struct table_stack **out_stack);
void km__stack_destroy(struct km_store *store, struct table_stack *stack); /* NULL is accepted */
/* Let the map have a stack, or (NULL) none; either is kept until the map goes. */
void km__stack_set(km_map *map, struct table_stack *stack, uint64_t overlap);
/* Whether a table can lie under a map. */
km_status km__table_check(const km_sealed *sealed, km_error *error);
km_status km__attach_failed(struct km_store *store, km_error *error, km_status rc,
                            const char *what);

#endif
