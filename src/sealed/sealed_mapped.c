/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_mapped.c -- values where they lie in the mapping of a table, for who keeps it open.
 */
#include "sealed/sealed_internal.h"

int km__sealed_is_plainly_mapped(const km_sealed *table)
{
    return table->map != NULL;
}

static km_status sealed_value_in_map(const km_sealed *table, const struct sealed_place *place,
                                     km_bytes key, km_bytes *out_value)
{
    struct sealed_block block;
    uint32_t index = 0;
    km_status rc = km__sealed_decode_place(table, place, table->map + place->offset, NULL, &block);

    if (!rc)
        rc = km__sealed_block_find(&block, key, &index);
    return rc ? rc : km__sealed_block_checked_value(&block, index, out_value);
}

km_status km__sealed_find_mapped(const km_sealed *table, km_bytes key, km_bytes *out_value)
{
    struct sealed_place place;

    if (km__sealed_check_key(table, key) != KM_OK || km__sealed_locate(table, key, &place) != KM_OK)
        return KM_NOT_FOUND;
    return sealed_value_in_map(table, &place, key, out_value);
}
