/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_verify.c -- every byte of a table, against its checksums and its own rules.
 *
 * I1. The index in memory was checked when the table was opened; here it is compared with what the
 *     file has now, and blocks are checked against it.
 */
#include <string.h>

#include "base/assert.h"
#include "sealed/sealed_internal.h"

#define SEALED_VERIFY_PIECE ((size_t)64 << 10)

struct sealed_verify {
    const km_sealed *table;
    km_finding_fn found;
    km_progress_fn progress;
    void *context;
    uint64_t finding_count;
    struct sealed_window window;
    uint8_t *key; /* KM_KEY_SIZE_MAX: last of the block before */
    size_t key_size;
    int has_key;
    uint8_t *next_key; /* KM_KEY_SIZE_MAX */
    uint64_t key_bytes, value_bytes;
};

static void sealed_verify_report(struct sealed_verify *verify, uint64_t offset, const char *text)
{
    km_error finding;

    verify->finding_count++;
    if (!verify->found)
        return;
    km__ignore(km__fail(&finding, KM_E_CORRUPT, verify->table->name, offset, 0, "%s", text),
               "it is counted");
    verify->found(verify->context, &finding);
}

/* ---- blocks ------------------------------------------------------------------------------ */

/* Record `index` of a block whose order was checked, as a whole key in next_key. */
static km_bytes sealed_verify_key(struct sealed_verify *verify, const struct sealed_block *block,
                                  uint32_t index)
{
    km_bytes suffix = {NULL, 0};

    KM_ASSERT(km__sealed_block_suffix(block, index, &suffix) == KM_OK);
    if (block->prefix_size)
        memcpy(verify->next_key, block->prefix, block->prefix_size);
    if (suffix.size)
        memcpy(verify->next_key + block->prefix_size, suffix.data, suffix.size);
    return km_bytes_of(verify->next_key, block->prefix_size + suffix.size);
}

/* Each key is found in this block, and passes its filter. */
static int sealed_verify_is_indexed(struct sealed_verify *verify, const struct sealed_place *place,
                                    const struct sealed_block *block)
{
    for (uint32_t i = 0; i < block->count; i++) {
        km_bytes key = sealed_verify_key(verify, block, i);
        struct sealed_group group;
        struct sealed_place found;
        const uint8_t *filter;
        uint32_t size = 0;
        km__sealed_find_place(verify->table, key, &group, &found);
        if (found.offset != place->offset)
            return 0;
        filter = km__sealed_group_filter(&group, found.index, &size);
        if (!km__sealed_filter_may_have(filter, size, km__sealed_hash(key.data, key.size)))
            return 0;
        verify->key_bytes += key.size;
    }
    verify->value_bytes += block->value_bytes;
    return 1;
}

static const char *sealed_verify_fault(struct sealed_verify *verify,
                                       const struct sealed_place *place,
                                       const struct sealed_block *block)
{
    km_bytes key;

    if (km__sealed_block_check_order(block, (size_t)place->size, verify->table->footer.key_width) !=
        KM_OK)
        return "the records of a block are not in order";
    key = sealed_verify_key(verify, block, 0);
    if (verify->has_key && km__sealed_compare(km_bytes_of(verify->key, verify->key_size), key) >= 0)
        return "a block begins before the one before it ends";
    if (!sealed_verify_is_indexed(verify, place, block))
        return "a key of a block is not found through the index";
    key = sealed_verify_key(verify, block, block->count - 1);
    if (key.size)
        memcpy(verify->key, key.data, key.size);
    verify->key_size = key.size;
    verify->has_key = 1;
    return NULL;
}

static km_status sealed_verify_block(struct sealed_verify *verify, const struct sealed_place *place)
{
    struct sealed_block block;
    const char *fault;
    km_status rc = km__sealed_window_load(&verify->window, place, &block);

    if (rc && rc != KM_E_CORRUPT)
        return rc;
    fault = rc ? "a block does not pass its checksums" : sealed_verify_fault(verify, place, &block);
    if (fault)
        sealed_verify_report(verify, place->offset, fault);
    if (verify->progress &&
        verify->progress(verify->context, place->offset + place->size, verify->table->file_size))
        return KM_STOPPED;
    return KM_OK;
}

static km_status sealed_verify_blocks(struct sealed_verify *verify)
{
    const km_sealed *table = verify->table;
    km_status rc = KM_OK;

    for (uint32_t number = 0; number < table->group_count; number++) {
        struct sealed_group group;
        km__sealed_group_view(table->groups[number].bytes, &group);
        for (uint32_t i = 0; !rc && i < group.count; i++) {
            struct sealed_place place;
            km__sealed_place_of(table, &group, number, i, &place);
            rc = sealed_verify_block(verify, &place);
        }
    }
    return rc;
}

/* ---- the rest ---------------------------------------------------------------------------- */

/* Header and footer, read anew. */
static km_status sealed_verify_ends(struct sealed_verify *verify)
{
    const km_sealed *table = verify->table;
    uint64_t end = table->file_size - SEALED_PAGE;
    struct sealed_footer footer;
    uint8_t bytes[SEALED_PAGE];
    uint8_t id[SEALED_ID_SIZE];
    km_status rc = table->os->ops->read_at(table->file, 0, bytes, sizeof(bytes));

    if (rc)
        return rc;
    if (km__sealed_header_decode(bytes, id) != KM_OK ||
        memcmp(id, table->footer.id, sizeof(id)) != 0)
        sealed_verify_report(verify, 0, "the header is damaged");
    rc = table->os->ops->read_at(table->file, end, bytes, sizeof(bytes));
    if (rc)
        return rc;
    if (km__sealed_footer_decode(bytes, table->file_size, &footer) != KM_OK ||
        memcmp(footer.id, table->footer.id, sizeof(footer.id)) != 0)
        sealed_verify_report(verify, end, "the footer is damaged");
    return KM_OK;
}

static int sealed_is_all_zero(const uint8_t *bytes, size_t size)
{
    uint8_t seen = 0;

    for (size_t i = 0; i < size; i++)
        seen |= bytes[i];
    return seen == 0;
}

static km_status sealed_verify_index(struct sealed_verify *verify, uint8_t *piece)
{
    const km_sealed *table = verify->table;
    uint64_t start = table->footer.index_offset;
    uint64_t used = table->footer.index_size;
    uint64_t size = table->file_size - SEALED_PAGE - start;

    for (uint64_t at = 0; at < size;) {
        size_t step = size - at < SEALED_VERIFY_PIECE ? (size_t)(size - at) : SEALED_VERIFY_PIECE;
        size_t same = at >= used ? 0 : (size_t)(used - at < step ? used - at : step);
        km_status rc = table->os->ops->read_at(table->file, start + at, piece, step);
        if (rc)
            return rc;
        if (same && memcmp(piece, table->index + at, same) != 0)
            sealed_verify_report(verify, start + at, "the index is damaged");
        if (!sealed_is_all_zero(piece + same, step - same))
            sealed_verify_report(verify, start + at, "what follows the index is not zero");
        at += step;
    }
    return KM_OK;
}

static km_status sealed_verify_all(struct sealed_verify *verify, uint8_t *piece)
{
    const struct sealed_footer *footer = &verify->table->footer;
    km_status rc = sealed_verify_ends(verify);

    if (!rc)
        rc = sealed_verify_index(verify, piece);
    if (!rc)
        rc = sealed_verify_blocks(verify);
    if (!rc && verify->finding_count == 0 &&
        (verify->key_bytes != footer->key_bytes || verify->value_bytes != footer->value_bytes))
        sealed_verify_report(verify, verify->table->file_size - SEALED_PAGE,
                             "the footer's totals are wrong");
    if (!rc && verify->finding_count > 0)
        rc = KM_E_CORRUPT;
    return rc;
}

km_status km_sealed_verify(const km_sealed *table, km_finding_fn found, km_progress_fn progress,
                           void *context)
{
    const struct allocator *allocator = &table->os->allocator;
    struct sealed_verify verify = {
        .table = table, .found = found, .progress = progress, .context = context};
    uint8_t *piece = km__allocate(allocator, SEALED_VERIFY_PIECE);
    km_status rc = KM_E_NO_MEMORY;

    km__sealed_window_init(&verify.window, table);
    verify.key = km__allocate(allocator, KM_KEY_SIZE_MAX);
    verify.next_key = km__allocate(allocator, KM_KEY_SIZE_MAX);
    if (piece && verify.key && verify.next_key)
        rc = sealed_verify_all(&verify, piece);
    km__sealed_window_fini(&verify.window);
    km__release(allocator, verify.next_key, KM_KEY_SIZE_MAX);
    km__release(allocator, verify.key, KM_KEY_SIZE_MAX);
    km__release(allocator, piece, SEALED_VERIFY_PIECE);
    return rc;
}
