/* SPDX-License-Identifier: Apache-2.0
 *
 * store_table_stack.c -- stacks of open tables: made, given to maps, closed; and what they tell.
 */
#include "store/store_attach_internal.h"

void km__stack_destroy(struct km_store *store, struct table_stack *stack)
{
    if (!stack)
        return;
    if (stack->own)
        km_sealed_close(stack->own->sealed);
    km__release(store->allocator, stack->own, sizeof(*stack->own));
    km__release(store->allocator, stack, sizeof(*stack));
}

/* A stack of what the map has and, above it, an open table, which it takes over. */
km_status km__stack_create(km_map *map, km_sealed *sealed, uint64_t version,
                           struct table_stack **out_stack)
{
    const struct allocator *allocator = map->store->allocator;
    const struct table_stack *below = km__tables_of(map);
    struct table_stack *stack = km__allocate(allocator, sizeof(*stack));

    *out_stack = stack;
    if (stack)
        stack->own = km__allocate(allocator, sizeof(*stack->own));
    if (!stack || !stack->own) {
        km_sealed_close(sealed);
        return KM_E_NO_MEMORY;
    }
    stack->own->sealed = sealed;
    stack->own->version = version;
    km__store64(stack->own->header + RECORD_HEADER_SIZE, version);
    stack->tables[0] = stack->own;
    stack->count = 1;
    for (uint32_t i = 0; below && i < below->count; i++)
        stack->tables[stack->count++] = below->tables[i];
    return KM_OK;
}

/* Let the map have a stack, or (NULL) none; either is kept until the map goes. */
void km__stack_set(km_map *map, struct table_stack *stack, uint64_t overlap)
{
    if (stack) {
        stack->before = map->stacks;
        map->stacks = stack;
    }
    atomic_store_explicit(&map->overlap, overlap, memory_order_relaxed); /* published below */
    /* release: pairs with km__tables_of() */
    atomic_store_explicit(&map->tables, stack, memory_order_release);
}

void km__tables_close(km_map *map)
{
    while (map->stacks) { /* ends: the list gets shorter */
        struct table_stack *stack = map->stacks;

        map->stacks = stack->before;
        km__stack_destroy(map->store, stack);
    }
}

km_status km__attach_failed(struct km_store *store, km_error *error, km_status rc, const char *what)
{
    if (rc == KM_NOT_FOUND || rc == KM_EXISTS)
        rc = KM_E_IO; /* nobody else has any business with these files */
    return km__fail(error, rc, NULL, 0, store->os->ops->last_error(store->os), "%s", what);
}

km_status km__table_check(const km_sealed *sealed, km_error *error)
{
    return km__sealed_is_plainly_mapped(sealed)
               ? KM_OK
               : km__fail(error, KM_E_UNSUPPORTED, NULL, 0, 0,
                          "the table is compressed, or cannot be mapped: unseal it, or build it "
                          "anew without compression");
}

/* ---- what is attached -------------------------------------------------------------------- */

static km_attached describe(const struct stacked_table *table)
{
    km_sealed_info info = {.struct_size = sizeof(info)};
    km_attached attached = {.name = table->name, .version = table->version};

    km__ignore(km_sealed_get_info(table->sealed, &info), "its size is set");
    attached.count = info.count;
    attached.file_bytes = info.file_bytes;
    attached.memory_bytes = info.memory_bytes;
    return attached;
}

km_status km_list_attached(km_map *map, km_attached_fn visit, void *context)
{
    const struct table_stack *stack;

    if (km__store_is_forked(map->store))
        return KM_E_FORKED;
    if (atomic_load_explicit(&map->dropped, memory_order_acquire)) /* pairs with apply_drop() */
        return KM_E_DROPPED;
    stack = km__tables_of(map);
    for (uint32_t i = 0; stack && i < stack->count; i++) {
        km_attached attached = describe(stack->tables[i]);

        if (visit(context, &attached))
            return KM_STOPPED;
    }
    return KM_OK;
}

void km__tables_add_stats(const km_map *map, km_stats *stats)
{
    const struct table_stack *stack = km__tables_of(map);

    for (uint32_t i = 0; stack && i < stack->count; i++) {
        km_attached attached = describe(stack->tables[i]);

        stats->attached_count++;
        stats->attached_bytes += attached.file_bytes;
        stats->attached_memory_bytes += attached.memory_bytes;
    }
}

km_status km__tables_verify(struct km_store *store, km_finding_fn found, void *context)
{
    km_status rc = KM_OK;

    for (uint32_t id = 0; id < km__maps_id_count(store); id++) {
        const km_map *map = km__maps_by_id(store, (uint16_t)id);
        const struct table_stack *stack = map ? km__tables_of(map) : NULL;

        for (uint32_t i = 0; stack && i < stack->count; i++) {
            km_status own = km_sealed_verify(stack->tables[i]->sealed, found, NULL, context);

            rc = own ? own : rc;
        }
    }
    return rc;
}
