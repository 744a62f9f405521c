/* SPDX-License-Identifier: Apache-2.0
 *
 * store_table_names.c -- the names of tables in a store's folder: written, read, listed.
 *
 *     table-MMMMM-SSSSS-VVVVVVVVVVVVVVVV-KKKKKKKKKKKKKKKK
 *
 * with the map's id and the number of the table in the map's stack, 1 the lowest, in decimal; the
 * version of its keys, and the number of different keys in the stack up to this table, in
 * hexadecimal.
 */
#include <stdio.h>

#include "store/store_attach_internal.h"

#define TABLE_PREFIX "table-"
#define TABLE_NAME_LENGTH 51u /* without the end of the string */

_Static_assert(TABLE_NAME_LENGTH < TABLE_NAME_SIZE, "a name has room");

void km__table_name_write(const struct table_name *name, char out[TABLE_NAME_SIZE])
{
    snprintf(out, TABLE_NAME_SIZE, TABLE_PREFIX "%05u-%05u-%016llx-%016llx", name->map_id,
             (unsigned)name->number, (unsigned long long)name->version,
             (unsigned long long)name->key_count);
}

/* The digits up to the next `-`, or the end; 0 if there are others. */
static int read_digits(const char **p, uint32_t count, unsigned base, uint64_t *out)
{
    *out = 0;
    for (uint32_t i = 0; i < count; i++, ++*p) {
        unsigned digit = (unsigned)(**p - '0');

        if (digit > 9)
            digit = base == 16 && **p >= 'a' && **p <= 'f' ? (unsigned)(**p - 'a') + 10 : base;
        if (digit >= base)
            return 0;
        *out = *out * base + digit;
    }
    return 1;
}

int km__table_name_read(const char *text, struct table_name *out)
{
    const char *p = text + strlen(TABLE_PREFIX);
    uint64_t map_id = 0, number = 0;

    if (strlen(text) != TABLE_NAME_LENGTH || strncmp(text, TABLE_PREFIX, strlen(TABLE_PREFIX)) ||
        !read_digits(&p, 5, 10, &map_id) || *p++ != '-' || !read_digits(&p, 5, 10, &number) ||
        *p++ != '-' || !read_digits(&p, 16, 16, &out->version) || *p++ != '-' ||
        !read_digits(&p, 16, 16, &out->key_count))
        return 0;
    out->map_id = (uint16_t)map_id;
    out->number = (uint32_t)number;
    return map_id < KM_MAP_COUNT_MAX && number >= 1;
}

int km__table_name_parse(const char *name, uint16_t *out_map_id)
{
    struct table_name parsed;

    if (!km__table_name_read(name, &parsed))
        return 0;
    *out_map_id = parsed.map_id;
    return 1;
}

/* ---- names in the folder ----------------------------------------------------------------- */

static km_status list_table(void *context, const char *text)
{
    struct table_list *list = context;
    const struct allocator *allocator = list->allocator;
    struct table_name name, *names;
    size_t capacity = list->capacity ? 2 * list->capacity : 16;

    list->has_new |= strcmp(text, TABLE_NEW_NAME) == 0;
    if (!km__table_name_read(text, &name))
        return KM_OK;
    if (list->count == list->capacity) {
        names = km__allocate(allocator, capacity * sizeof(*names));
        if (!names)
            return KM_E_NO_MEMORY;
        if (list->count)
            memcpy(names, list->names, list->count * sizeof(*names));
        km__release(allocator, list->names, list->capacity * sizeof(*names));
        list->names = names;
        list->capacity = capacity;
    }
    list->names[list->count++] = name;
    return KM_OK;
}

static int compare_names(const void *x, const void *y)
{
    const struct table_name *a = x, *b = y;

    if (a->map_id != b->map_id)
        return a->map_id < b->map_id ? -1 : 1;
    return (a->number > b->number) - (a->number < b->number);
}

/* All tables in a folder, by map and number. Release with km__table_list_free(), after an error
 * too. */
km_status km__table_list_read(struct os *os, struct os_dir *dir, struct table_list *list)
{
    km_status rc = os->ops->list(dir, list_table, list);

    if (list->count)
        qsort(list->names, list->count, sizeof(*list->names), compare_names);
    return rc;
}

void km__table_list_free(struct table_list *list)
{
    km__release(list->allocator, list->names, list->capacity * sizeof(*list->names));
}

km_status km__tables_list(struct os *os, struct os_dir *dir, uint16_t map_id,
                          km_status (*visit)(void *context, const char *name), void *context)
{
    struct table_list list = {.allocator = &os->allocator};
    char text[TABLE_NAME_SIZE];
    km_status rc = km__table_list_read(os, dir, &list);

    for (size_t i = 0; !rc && i < list.count; i++) {
        km__table_name_write(&list.names[i], text);
        if (list.names[i].map_id == map_id)
            rc = visit(context, text);
    }
    km__table_list_free(&list);
    return rc;
}
