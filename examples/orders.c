/* SPDX-License-Identifier: Apache-2.0
 *
 * orders.c -- what the order of a map gives: a queue in which everybody has a place, and names that
 * are found by how they begin.
 *
 *     cc orders.c $(pkg-config --cflags --libs keepmap)
 */
#include <keepmap/keepmap.h>
#include <stdio.h>

/* A map in insertion order: who comes first is served first. */
static km_status serve_queue(km_store *store)
{
    static const char *const callers[] = {"Ada", "Ben", "Cem", "Ben"};
    km_buffer name = KM_BUFFER_INIT, wish = KM_BUFFER_INIT;
    uint64_t ahead;
    km_map *queue;
    size_t i;
    km_status rc;

    rc = km_map_open_or_create(store, km_bytes_of_string("queue"), KM_INSERTION, &queue);
    if (rc) goto out;
    for (i = 0; i < sizeof(callers) / sizeof(*callers); i++) {
        /* Who calls again keeps the place; so does who is overwritten with km_put(). */
        rc = km_put_if_absent(queue, km_bytes_of_string(callers[i]), km_bytes_of_string("tea"),
                              NULL);
        if (rc && rc != KM_EXISTS) goto out;
    }
    rc = km_index_of(queue, km_bytes_of_string("Cem"), &ahead);
    if (rc) goto out;
    printf("before Cem: %d of %d\n", (int)ahead, (int)km_count(queue));

    /* Any number of threads may do this at once: each caller is popped by one of them. */
    while ((rc = km_pop_first(queue, &name, &wish, NULL)) == KM_OK)
        printf("%.*s: %.*s\n", (int)name.size, (const char *)name.data, (int)wish.size,
               (const char *)wish.data);
    rc = rc == KM_NOT_FOUND ? KM_OK : rc; /* the queue is empty */
out:
    km_buffer_free(&name);
    km_buffer_free(&wish);
    return rc;
}

/* A map in key order: all keys that begin alike lie side by side. */
static km_status find_rivers(km_store *store, const char *prefix)
{
    static const char *const rivers[] = {"Main", "Rhine", "Mosel", "Rhone", "Rhume", "Oder"};
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor = NULL;
    uint64_t count;
    km_bytes name;
    km_map *map;
    size_t i;
    km_status rc;

    rc = km_map_open_or_create(store, km_bytes_of_string("rivers"), KM_SORTED, &map);
    for (i = 0; rc == KM_OK && i < sizeof(rivers) / sizeof(*rivers); i++)
        rc = km_put(map, km_bytes_of_string(rivers[i]), km_bytes_of_string(""), NULL);
    if (rc) goto out;

    options.range.prefix = km_bytes_of_string(prefix);
    rc = km_count_range(map, &options.range, &count);
    if (rc) goto out;
    printf("%d rivers begin with %s:\n", (int)count, prefix);
    rc = km_cursor_open(map, &options, &cursor);
    if (rc) goto out;
    while ((rc = km_cursor_next(cursor, &name, NULL)) == KM_OK)
        printf("%.*s\n", (int)name.size, (const char *)name.data);
    rc = rc == KM_END ? KM_OK : rc;
out:
    km_cursor_close(cursor);
    return rc;
}

int main(void)
{
    km_store *store;
    km_error error;
    km_status rc;

    if (km_open("orders.store", NULL, &store, &error))
        return fprintf(stderr, "%s\n", error.message), 1;
    rc = serve_queue(store);
    if (rc == KM_OK)
        rc = find_rivers(store, "Rh");
    if (rc != KM_OK)
        fprintf(stderr, "%s\n", km_status_name(rc));
    return km_close(store, &error) == KM_OK && rc == KM_OK ? 0 : 1;
}
