/* SPDX-License-Identifier: Apache-2.0
 *
 * store_tidy.c -- pack the orders of KM_INSERTION maps where deletes have left them sparse.
 *
 * Packing moves slots, so the map's writers are kept out by its partitions, a few dozen blocks at a
 * time: they wait for tens of microseconds. No delete ever does it.
 */
#include "store/store_internal.h"

#define TIDY_BLOCKS 32u
#define TIDY_ROUNDS_MAX 4096u /* where memory is short nothing gets less sparse */

static int tidy_map(km_map *map)
{
    int is_more;

    km__maps_lock_partitions(map);
    km__epoch_enter();
    is_more = km__order_tidy(map->order, TIDY_BLOCKS);
    km__epoch_leave();
    km__maps_unlock_partitions(map);
    return is_more;
}

void km__tidy_orders(struct km_store *store)
{
    for (uint32_t id = 0; id < km__maps_id_count(store); id++) {
        km_map *map = km__maps_by_id(store, (uint16_t)id);

        if (!map || !map->order || !km__order_is_untidy(map->order))
            continue;
        for (uint32_t i = 0; i < TIDY_ROUNDS_MAX && tidy_map(map); i++)
            km__thread_pause(); /* for who waits for a partition */
    }
}
