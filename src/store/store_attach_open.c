/* SPDX-License-Identifier: Apache-2.0
 *
 * store_attach_open.c -- attached tables when their store is opened: store_attach.c has the rules
 * that are named here.
 */
#include "store/store_attach_internal.h"

static int is_map_there(const km_map *map)
{
    /* relaxed: called before the store is in use */
    return map && !atomic_load_explicit(&map->dropped, memory_order_relaxed);
}

/* Whether a table of `count` keys with this name goes on top of a stack (I2, I3). */
static int fits_below(const struct table_name *name, const struct table_stack *below,
                      uint64_t count)
{
    uint64_t count_below = below ? below->key_count : 0;
    uint64_t least = count > count_below ? count : count_below;

    return name->number == (below ? below->count : 0) + 1 && name->number <= KM_ATTACHED_MAX &&
           name->version % RECORD_ALIGNMENT != 0 &&
           (!below || name->version > below->own->version) && name->key_count >= least &&
           name->key_count - count_below <= count;
}

/* Nobody else uses the store yet. */
static km_status open_listed(struct km_store *store, const struct table_name *name, km_error *error)
{
    km_map *map = km__maps_by_id(store, name->map_id);
    const struct table_stack *below;
    struct table_stack *stack = NULL;
    char text[TABLE_NAME_SIZE];
    km_sealed *sealed = NULL;
    km_status rc;

    km__table_name_write(name, text);
    if (!is_map_there(map))
        return KM_OK; /* a leftover */
    below = km__tables_of(map);
    rc = km__sealed_open_at(store->os, store->dir, text, NULL, &sealed, error);
    if (rc)
        return rc == KM_E_NOT_A_STORE
                   ? km__fail(error, KM_E_CORRUPT, text, 0, 0, "this is no sealed table")
                   : rc;
    rc = km__table_check(sealed, error);
    if (!rc && (map->order || !fits_below(name, below, km_sealed_count(sealed))))
        rc = km__fail(error, KM_E_CORRUPT, text, 0, 0,
                      "this table, or one below it, is not what its name says: salvage the store");
    if (rc) {
        km_sealed_close(sealed);
        return rc;
    }
    rc = km__stack_create(map, sealed, name->version, &stack);
    if (rc) {
        km__stack_destroy(store, stack);
        return km__fail(error, rc, text, 0, 0, "no memory for a table");
    }
    memcpy(stack->own->name, text, sizeof(text));
    stack->key_count = name->key_count;
    km__stack_set(map, stack, 0);
    return KM_OK;
}

static km_status weigh_maps(struct km_store *store, km_error *error)
{
    for (uint32_t id = 0; id < km__maps_id_count(store); id++) {
        km_map *map = km__maps_by_id(store, (uint16_t)id);
        const struct table_stack *stack = map ? km__tables_of(map) : NULL;
        uint64_t overlap = 0;
        km_status rc = stack ? km__tables_count_overlap(map, stack, &overlap) : KM_OK;

        if (rc)
            return km__fail(error, rc, stack->own->name, 0, 0,
                            "the keys of a map and its tables cannot be counted");
        if (stack) /* relaxed: nobody else is here yet */
            atomic_store_explicit(&map->overlap, overlap, memory_order_relaxed);
    }
    return KM_OK;
}

km_status km__tables_open_all(struct km_store *store, km_error *error)
{
    struct table_list list = {.allocator = store->allocator};
    km_status rc;

    if (!store->dir)
        return KM_OK;
    rc = km__table_list_read(store->os, store->dir, &list);
    if (rc)
        rc = km__attach_failed(store, error, rc, "cannot list the store's folder");
    for (size_t i = 0; !rc && i < list.count; i++)
        rc = open_listed(store, &list.names[i], error);
    if (!rc && list.count)
        rc = weigh_maps(store, error);
    km__table_list_free(&list);
    return rc;
}

void km__tables_sweep(struct km_store *store)
{
    const struct os_ops *ops = store->os->ops;
    struct table_list list = {.allocator = store->allocator};
    char text[TABLE_NAME_SIZE];
    km_status rc = KM_E_UNSUPPORTED;

    if (store->dir && store->options.mode != KM_OPEN_READ_ONLY)
        rc = km__table_list_read(store->os, store->dir, &list);
    for (size_t i = 0; !rc && i < list.count; i++) {
        km__table_name_write(&list.names[i], text);
        if (!is_map_there(km__maps_by_id(store, list.names[i].map_id)))
            km__ignore(ops->unlink(store->dir, text), "the next open does it");
    }
    if (!rc && list.has_new)
        km__ignore(ops->unlink(store->dir, TABLE_NEW_NAME), "as above");
    km__table_list_free(&list);
}
