/* SPDX-License-Identifier: Apache-2.0 */
#include <keepmap/keepmap.h>
#include <stdio.h>

int main(void)
{
    km_store *store;
    km_map *map;
    km_buffer value = KM_BUFFER_INIT;
    km_error error;

    if (km_open("example-store", NULL, &store, &error))
        return fprintf(stderr, "%s\n", error.message), 1;
    if (km_map_open_or_create(store, km_bytes_of_string("capitals"), KM_KIND_DEFAULT, &map) ||
        km_put(map, km_bytes_of_string("France"), km_bytes_of_string("Paris"), NULL) ||
        km_get(map, km_bytes_of_string("France"), &value))
        return fprintf(stderr, "that did not work\n"), 1;
    printf("France: %.*s\n", (int)value.size, (const char *)value.data);
    km_buffer_free(&value);
    return km_close(store, &error) == KM_OK ? 0 : 1;
}
